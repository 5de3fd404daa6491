"""What `nudge` answers to somebody who types it: exit codes, and what stands on which stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nudge_process import run_nudge
from tests.world import EXAMPLE, KEY


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "COMMAND"),
        (("local", "--at", "2027-03-17T10:00"), "with an offset"),
        (("local", "--at", "tomorrow"), "must be like 2027-03-17T10:00+08:00"),
        (("local", "--alumni", "-1"), "must be a whole number"),
        (("local", "--port", "http"), "must be a port"),
        (("pause",), "campaign"),
        (("pause", "hku-alumni-2027", "--channel", "fax"), "invalid choice: 'fax'"),
        (("plan",), "--now"),
        (("sweep",), "--now"),
        (("person",), "id"),
    ],
)
async def test_words_that_are_off(words: tuple[str, ...], says: str) -> None:
    code, out, error = await run_nudge(*words)
    assert code == 2
    assert out == ""
    assert says in error


async def test_help_names_each_command() -> None:
    code, out, _ = await run_nudge("--help")
    assert code == 0
    for command in (
        "local",
        "status",
        "poison",
        "person",
        "pause",
        "resume",
        "plan",
        "survey",
        "doctor",
    ):
        assert f"    {command} " in out


async def test_without_a_sign_in_one_line_says_so() -> None:
    uris = {
        f"AzureWebJobsStorage__{kind}ServiceUri": f"https://nudge.{kind}.core.windows.net"
        for kind in ("blob", "queue", "table")
    }
    code, out, error = await run_nudge(
        "status",
        **uris,
        PATH="",  # where a signed-in `az` might be
        LINK_KEYS=KEY,
        ADDRESS_KEY=KEY,
        SENDGRID_API_KEY="SG.none",
        PUBLIC_BASE_URL="https://mfa.example.edu",
    )
    assert (code, out) == (1, "")
    assert error == "Nobody is signed in to Azure here. Fix: `az login`.\n"


@pytest.mark.invariant(7)
async def test_each_mistake_of_a_campaign_file_is_told_by_line(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    file = tmp_path / "alumni.yaml"
    wrong = {
        "deadline: 2027-03-31": "deadline: 2027-03-32",
        "timezone: Asia/Hong_Kong": "timezone: Asia/Hongkong City",
        "days_before: 60": "days_befor: 60",
        "parcel_size: 500": "parcel_size: many",
    }
    lines = []
    for right, mistake in wrong.items():
        lines.append(text[: text.index(right)].count("\n") + 1)
        text = text.replace(right, mistake)
    file.write_text(text)
    code, out, error = await run_nudge("local", "--once", "--json", "--campaign", str(file))
    assert (code, out) == (1, "")
    for line in lines:
        assert f"alumni.yaml:{line}: " in error
    assert "Traceback" not in error


@pytest.mark.invariant(7)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "alumni.yaml:1: the file is empty"),
        (b"campaign: a\n\tdeadline: 2027-03-31\n", "alumni.yaml:2: "),
        (b"campaign: a\ncampaign: b\n", "alumni.yaml:2: "),
        (b"campaign: a\nsender: \xff\n", "alumni.yaml:2: this is not text in UTF-8"),
        (b"- a list\n", "alumni.yaml:1: "),
    ],
    ids=["empty", "tab", "twice", "not UTF-8", "a list"],
)
async def test_a_file_that_is_no_campaign(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "alumni.yaml"
    file.write_bytes(content)
    code, out, error = await run_nudge("local", "--once", "--json", "--campaign", str(file))
    assert (code, out) == (1, "")
    assert says in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "settings", "says"),
    [
        (("--campaign", "/nowhere/alumni.yaml"), {}, "No such file"),
        (("--campaign", "/"), {}, "Is a directory"),
        (("--ledger", "/nowhere/ledger.json"), {}, "There is no directory"),
        ((), {"GRAPH_BASE_URL": "http://127.0.0.1:9/v1.0"}, "GRAPH_BASE_URL: nothing answers"),
        ((), {"SENDGRID_BASE_URL": "http://127.0.0.1:9"}, "SENDGRID_BASE_URL: nothing answers"),
        ((), {"GRAPH_BASE_URL": "http://graph.example/v1.0"}, "GRAPH_BASE_URL"),
        ((), {"AGES_SCALE": "fast"}, "AGES_SCALE"),
    ],
)
async def test_what_cannot_begin_says_why(
    words: tuple[str, ...], settings: dict[str, str], says: str
) -> None:
    code, out, error = await run_nudge("local", "--once", "--json", *words, **settings)
    assert (code, out) == (1, "")
    assert says in error
    assert "Fix: " in error
    assert "Traceback" not in error


async def test_status_without_settings_names_what_is_missing() -> None:
    code, out, error = await run_nudge("status", "--json")
    assert (code, out) == (1, "")
    for name in ("AzureWebJobsStorage", "SENDGRID_API_KEY", "LINK_KEYS", "PUBLIC_BASE_URL"):
        assert name in error
    assert "Traceback" not in error
