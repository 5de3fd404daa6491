"""`nudge survey` as somebody types it: what it prints, what it says of what is missing, and how it
ends."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from local import tenant
from local.tenant import ALUMNI_GROUP, LEFT_OUT_GROUP
from tests.nudge_process import NUDGE, environment_with, run_nudge
from tests.world import EXAMPLE

PEOPLE = tenant.Options(alumni=400, others=100)
NO_SIGN_IN = {
    # Of all places where azure-identity looks for a sign-in: the Azure CLI, which is not there.
    "AZURE_TOKEN_CREDENTIALS": "AzureCliCredential",
    "PATH": "/nonexistent",
}


@pytest.fixture
async def tenant_url() -> AsyncGenerator[str]:
    async with tenant.running_tenant(PEOPLE) as url:
        yield url


def settings(tenant_url: str) -> dict[str, str]:
    return {"GRAPH_BASE_URL": f"{tenant_url}/v1.0", "GRAPH_AUTH": "anonymous"}


async def survey_json(tenant_url: str, *words: str) -> dict[str, Any]:
    code, out, error = await run_nudge("survey", "--json", *words, **settings(tenant_url))
    assert (code, error) == (0, "")
    return json.loads(out)


async def test_a_campaign_file_says_who_is_counted(tenant_url: str) -> None:
    words = ("survey", "--campaign", str(EXAMPLE))
    code, out, error = await run_nudge(*words, **settings(tenant_url))
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert lines[0] == (
        f"The members of group {ALUMNI_GROUP}: 400 accounts. Nothing was stored or sent."
    )
    found = await survey_json(tenant_url, "--campaign", str(EXAMPLE))
    total = found["total"]
    for start, people in {
        "registered": total["registered"],
        "unregistered": total["unregistered"],
        "  reachable by email": total["by_email"],
        "  reachable by SMS": total["by_sms"],
        "  reachable by neither": total["by_neither"],
        "unknown": total["unknown"],
        "excluded": total["excluded"],
        "  disabled": found["reasons"]["disabled"],
    }.items():
        (line,) = (one for one in lines if one.startswith((f"{start} ", f"{start}:")))
        assert f" {people:,} " in line
    assert (
        f"The campaign writes by email alone: {found['unreachable']:,} of the unregistered cannot"
        " be reached so."
    ) in lines
    for heading in ("by account domain", "by language", "mail domains of the unregistered"):
        assert any(line.startswith(heading) for line in lines)
    assert max(map(len, lines)) <= 110
    assert found["audience"] == f"the members of group {ALUMNI_GROUP}"
    assert found["channels"] == ["email"]


async def test_words_say_who_is_counted_where_there_is_no_file(tenant_url: str) -> None:
    group = ("--group", ALUMNI_GROUP)
    plain = (await survey_json(tenant_url, *group))["total"]
    more = await survey_json(
        tenant_url, *group, "--exclude", LEFT_OUT_GROUP, "--guests", "--region", "HK"
    )
    assert plain["people"] == more["total"]["people"] == 400
    assert more["reasons"]["exclusion group"] > 0
    assert "guest" not in more["reasons"]
    staff = await survey_json(tenant_url, "--filter", "userType eq 'Member'", "--capable")
    assert staff["total"]["people"] > 400
    assert (staff["audience"], staff["done_when"]) == ("the users of audience.filter", "capable")


async def test_the_file_beside_you_is_the_campaign(tenant_url: str, tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_bytes(EXAMPLE.read_bytes())
    process = await asyncio.create_subprocess_exec(
        *(str(NUDGE), "survey", "--json"),
        env=environment_with(settings(tenant_url)),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert (process.returncode, error) == (0, b"")
    assert json.loads(out)["total"]["people"] == 400


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 1, ["there is no campaign.yaml here", "--campaign FILE, --group ID"]),
        (("--group", "alumni"), 1, ["These words are off: --group.", "object ids"]),
        (("--filter", "x", "--region", "HKG"), 1, ["off: --region."]),
        (("--guests",), 1, ["go with --group or --filter"]),
        (("--campaign", "nowhere.yaml"), 1, ["nowhere.yaml cannot be read (FileNotFoundError)"]),
        (("--group", ALUMNI_GROUP, "--filter", "x"), 2, ["not allowed with argument"]),
        (("--sign-in", "fax"), 2, ["invalid choice: 'fax'"]),
    ],
)
async def test_words_that_are_off(
    words: tuple[str, ...], code: int, says: list[str], tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(NUDGE), "survey", *words),
        env=environment_with({}),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert (process.returncode, out) == (code, b"")
    for one in says:
        assert one in error.decode()
    assert b"Traceback" not in error


@pytest.mark.invariant(7)
async def test_mistakes_of_the_file_are_told_by_line(tmp_path: Path) -> None:
    file = tmp_path / "alumni.yaml"
    file.write_text(EXAMPLE.read_text().replace("guests: false", "guests: perhaps"))
    code, out, error = await run_nudge("survey", "--campaign", str(file))
    assert (code, out) == (1, "")
    line = EXAMPLE.read_text().partition("guests: false")[0].count("\n") + 1
    assert f"alumni.yaml:{line}: " in error


async def test_without_a_sign_in_one_line_says_how_to_get_one() -> None:
    code, out, error = await run_nudge("survey", "--group", ALUMNI_GROUP, **NO_SIGN_IN)
    assert (code, out) == (1, "")
    (line,) = error.splitlines()
    assert line.startswith("No token for Graph could be had (")
    for words in ("Fix: Sign in with `az login`", "`--sign-in browser` (or `device`)"):
        assert words in line


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"GRAPH_AUTH": "password"}, "GRAPH_AUTH must be one of managed, default, anonymous."),
        ({"GRAPH_AUTH": "anonymous"}, "GRAPH_BASE_URL is not a loopback address"),
        ({"GRAPH_BASE_URL": "graph"}, "GRAPH_BASE_URL is no base address."),
    ],
)
async def test_settings_that_are_off(environment: dict[str, str], says: str) -> None:
    code, out, error = await run_nudge("survey", "--group", ALUMNI_GROUP, **environment)
    assert (code, out) == (1, "")
    assert says in error
    assert "Fix: " in error


@pytest.mark.parametrize("json_too", [False, True])
async def test_ctrl_c_ends_a_wait_that_was_shown(tenant_url: str, *, json_too: bool) -> None:
    async with aiohttp.ClientSession() as http:
        fault = {"status": 429, "retry_after": "300", "times": None}
        async with http.post(f"{tenant_url}/faults", json={"registrations": [fault]}) as answer:
            assert answer.status == 204
    process = await asyncio.create_subprocess_exec(
        *(str(NUDGE), "survey", "--group", ALUMNI_GROUP, *(["--json"] if json_too else [])),
        env=environment_with(settings(tenant_url)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        line = (await process.stderr.readline()).decode()
        assert "429 TooManyRequests" in line
        assert line.endswith("Asking again in 300 s.\n")
        process.send_signal(signal.SIGINT)
        out, rest = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in rest
