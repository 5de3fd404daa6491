"""`nudge doctor` as a command: where it looks, how it answers, and that it keeps secrets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from admin.doctor.command import format_rows
from admin.doctor.rows import missing, ok, unchecked
from shared.errors import SetupFault
from tests.admin.diagnosing import (
    GROUP,
    KEY,
    RIGHT,
    SECRET_VALUES,
    Zone,
    campaign_file,
    diagnose,
    find,
    right_zone,
    running_dns,
    running_tls,
    settings_file,
    stand_in_az,
)
from tests.nudge_process import run_nudge
from tests.world import NAME, running_world

ORDER = [
    *("settings", "roles of the identity", "secrets in Key Vault", "Graph permissions", "storage"),
    "receivers of alarms",
    *("alumni.yaml", f"sweep before the window of {NAME}", "sweeps"),
    *("SPF of its.hku.hk", "DKIM of its.hku.hk", "DMARC of its.hku.hk"),
    *("webhook key", "receipts", "custom domain", "proof of the custom domain", "certificate"),
    *(f"sender and links of {NAME}", f"pace of {NAME}", f"mode of {NAME}"),
]


async def doctor(*words: object, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, without the settings of these tests'
    environment."""
    return await run_nudge("doctor", *map(str, words), **environment)


async def test_one_table_in_the_order_of_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    az = stand_in_az(tmp_path, {"monitor action-group": [{"emailReceivers": [{"name": "it"}]}]})
    monkeypatch.setenv("PATH", f"{az}{os.pathsep}{os.environ['PATH']}")
    zone = right_zone()
    async with running_dns(zone) as dns, running_tls(tmp_path, "mfa.its.hku.hk", days=90) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        settings = {
            **RIGHT,
            "PUBLIC_BASE_URL": f"https://mfa.its.hku.hk:{port}",
            "AZURE_RESOURCE_GROUP": "rg-nudge",
        }
        rows = await diagnose(
            *("--env", settings_file(tmp_path, settings), "--nameserver", dns),
            *("--campaign", campaign_file(tmp_path), "--people", 60000),
        )
    # Secrets that stand in the file themselves are warned of in between.
    told = [row.what for row in rows if row.what not in settings]
    assert told == ORDER
    assert {row.what: row.state for row in rows if row.state == "missing"} == {
        "webhook key": "missing"
    }
    assert find(rows, "certificate").state == "ok"


async def test_it_exits_1_while_something_is_missing_and_tells_machines_the_same(
    tmp_path: Path,
) -> None:
    path = settings_file(tmp_path, {**RIGHT, "ADDRESS_KEY": "short"})
    async with running_dns(Zone()) as dns:
        words = ("--env", path, "--campaign", campaign_file(tmp_path), "--nameserver", dns)
        code, text, error = await doctor(*words)
        assert (code, error) == (1, "")
        assert "missing      ADDRESS_KEY" in text
        code, out, error = await doctor(*words, "--json")
        assert (code, error) == (1, "")
    told = json.loads(out)
    states = [row["state"] for row in told["rows"]]
    assert told["counts"] == {
        state: states.count(state) for state in ("missing", "warning", "not checked", "ok")
    }
    assert text.endswith(
        f"{told['counts']['missing']} missing, {told['counts']['warning']} warning, "
        f"{told['counts']['not checked']} not checked, {told['counts']['ok']} ok.\n"
    )
    assert all(row["fix"] for row in told["rows"] if row["state"] in ("missing", "warning"))


async def test_it_exits_0_where_nothing_is_missing(
    connection_string: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: an app's settings in the environment, its storage, DNS and TLS."""
    async with (
        running_world(connection_string, tmp_path) as world,
        running_dns(right_zone()) as dns,
        running_tls(tmp_path, "mfa.its.hku.hk", days=90) as port,
    ):
        await world.write_campaign()
        await world.sweep()
        world.environment["SWEEP_SCHEDULE"] = "0 0 20 * * *"
        world.environment["PUBLIC_BASE_URL"] = f"https://mfa.its.hku.hk:{port}"
        world.environment["SENDGRID_WEBHOOK_PUBLIC_KEY"] = (
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40"
            "Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q=="
        )
        world.environment["SSL_CERT_FILE"] = str(tmp_path / "authority.pem")
        code, out, error = await doctor("--nameserver", dns, "--json", **world.environment)
    assert error == ""
    rows = {row["what"]: row for row in json.loads(out)["rows"]}
    assert (code, [what for what, row in rows.items() if row["state"] == "missing"]) == (0, [])
    assert rows["storage"]["state"] == "ok"
    assert rows["sweeps"]["state"] == "ok"
    assert rows[f"mode of {NAME}"]["found"] == "live"
    assert rows[f"pace of {NAME}"]["state"] == "ok"


async def test_it_changes_nothing(connection_string: str, tmp_path: Path) -> None:
    async with running_world(connection_string, tmp_path) as world:
        await world.write_campaign()
        async with running_dns(Zone()) as dns:
            code, _, error = await doctor("--nameserver", dns, **world.environment)
        assert (code, error) == (1, "")
        stores = world.app.stores
        assert await stores.campaigns.list_newest() == {}, "a new file becomes no version by it"
        assert (await stores.sweeps.read_head()).number == 0


async def test_no_secret_is_printed(tmp_path: Path) -> None:
    """Neither one that is right, nor one that is wrong, nor a line that is no setting."""
    settings = {**RIGHT, "SENDGRID_API_KEY": "SG.very secret", "LINK_KEYS": f"{KEY},{KEY[:20]}"}
    path = settings_file(tmp_path, settings)
    async with running_dns(Zone()) as dns:
        _, out, error = await doctor("--env", path, "--nameserver", dns)
        assert "LINK_KEYS" in out
        assert not [one for one in (*SECRET_VALUES, "very secret", KEY[:20]) if one in out + error]
    path.write_text("SG.very-secret\n")
    code, out, error = await doctor("--env", path)
    assert (code, out) == (1, "")
    assert "app.env:1: this is no line of settings" in error
    assert "SG." not in error


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"{name}={value}" for name, value in RIGHT.items()),
        "# exported\n" + "\n".join(f'export {name}="{value}"' for name, value in RIGHT.items()),
        json.dumps(
            [{"name": name, "slotSetting": False, "value": value} for name, value in RIGHT.items()]
        ),
    ],
    ids=["lines", "quoted lines", "what az lists"],
)
async def test_settings_from_a_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text(text)
    async with running_dns(Zone()) as dns:
        rows = await diagnose("--env", path, "--nameserver", dns)
    assert find(rows, "settings") == ok("settings", "usable")


@pytest.mark.parametrize("text", ['{"Values": {}}', '[{"key": "x"}]', "[", "no line"])
async def test_a_file_that_holds_no_settings_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text(text)
    with pytest.raises(SetupFault, match="appsettings list"):
        await diagnose("--env", path)


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for words in ("--env",), ("--params",), ("--env", settings_file(tmp_path, RIGHT), "--campaign"):
        with pytest.raises(SetupFault, match=r"Fix: Give the path of a"):
            await diagnose(*words, tmp_path / "missing")


@pytest.mark.parametrize(
    "words",
    [
        *(("--nameserver", "ns.example"), ("--nameserver", "127.0.0.1:dns")),
        *(("--people", "many"), ("--accounts", "-1"), ("--env", "a", "--local")),
    ],
)
async def test_words_that_mean_nothing_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        await diagnose(*words)
    assert ended.value.code == 2


async def test_without_any_network_it_says_so_and_soon(tmp_path: Path) -> None:
    """Nobody answers at any address: no look takes that for something that is missing."""
    settings: Mapping[str, str] = {
        **RIGHT,
        "AzureWebJobsStorage__clientId": GROUP,
        "GRAPH_BASE_URL": "http://127.0.0.1:9/v1.0",
        "GRAPH_AUTH": "anonymous",
        "SENDGRID_API_KEY": "@Microsoft.KeyVault(SecretUri=http://127.0.0.1:9/secrets/a/)",
        "AZURE_RESOURCE_GROUP": "rg-nudge",
    }
    rows = await diagnose(
        *("--env", settings_file(tmp_path, settings), "--nameserver", "127.0.0.1:9"),
        *("--campaign", campaign_file(tmp_path)),
    )
    looked = {row.what for row in rows if row.state == "not checked"}
    assert looked == {
        *("roles of the identity", "secrets in Key Vault", "Graph permissions", "storage"),
        *(
            "receivers of alarms",
            "SPF of its.hku.hk",
            "DKIM of its.hku.hk",
            "DMARC of its.hku.hk",
            "custom domain",
        ),
        *("sweeps", "receipts", f"pace of {NAME}"),
    }
    assert [row.what for row in rows if row.state == "missing"] == ["webhook key"]


def test_long_texts_are_wrapped_under_their_column() -> None:
    text = format_rows(
        [
            ok("a", "b"),
            missing("a name that needs two lines, at least", "c " * 60, "do d"),
            unchecked("e", "f"),
        ]
    )
    assert text.splitlines() == [
        "ok           a                                   b",
        "missing      a name that needs two lines, at     " + "c " * 38 + "c",
        "             least                               " + "c " * 20 + "c",
        " " * 49 + "→ do d",
        "not checked  e                                   f",
        "",
        "1 missing, 1 not checked, 1 ok.",
    ]
