"""What the doctor says of settings, and of a parameter file, which the Bicep compiler reads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from admin.doctor.azure import examine_deployer, examine_zones
from admin.doctor.rows import Row, ok
from admin.doctor.subject import PARAMETERS, Subject
from shared.errors import SetupFault
from tests.admin.diagnosing import (
    GROUP,
    HOST,
    RIGHT,
    Zone,
    campaign_file,
    diagnose,
    find,
    right_zone,
    running_dns,
    settings_file,
    stand_in_az,
)
from tests.conftest import ROOT, missing_tool
from tests.world import NAME

PUBLIC_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/"
    "m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q=="
)


async def rows_of(directory: Path, *words: object, **more: str) -> list[Row]:
    path = settings_file(directory, {**RIGHT, **more})
    async with running_dns(Zone()) as dns:
        return await diagnose("--env", path, "--nameserver", dns, *words)


# settings


async def test_all_problems_at_once_each_with_what_to_do(tmp_path: Path) -> None:
    wrong = {
        "SWEEP_SCHEDULE": "daily",
        "GRAPH_CONFIRM": "both",
        "ADDRESS_KEY": "",
        "CLOCK_FILE": "/tmp/clock.json",
        "TWILIO_FROM": "+85212345678",
    }
    rows = await rows_of(tmp_path, **wrong)
    found = {row.what: row for row in rows if row.what in {*wrong, *RIGHT, "TWILIO_ACCOUNT_SID"}}
    assert {*wrong, "TWILIO_ACCOUNT_SID"} - {"TWILIO_FROM"} <= found.keys()
    assert found["ADDRESS_KEY"].fix == (
        "Put it into Key Vault as `address-key` (infra/set-secrets.sh), and the reference here."
    )
    assert found["SWEEP_SCHEDULE"].fix == "Correct the parameter `sweepSchedule`, and deploy again."
    assert found["CLOCK_FILE"].fix == "Correct the app setting CLOCK_FILE."
    assert not [row for row in rows if row.what == "settings"]


async def test_a_problem_keeps_no_other_look_back(tmp_path: Path) -> None:
    rows = await rows_of(
        tmp_path, "--campaign", campaign_file(tmp_path), PUBLIC_BASE_URL="", ADDRESS_KEY=""
    )
    assert find(rows, "custom domain").found == "PUBLIC_BASE_URL has a problem"
    assert find(rows, f"sender and links of {NAME}").state == "ok"
    assert find(rows, f"sweep before the window of {NAME}").state == "ok"


def test_a_reference_is_a_place_in_a_file_and_a_problem_in_an_environment() -> None:
    """In an environment the platform puts the secret in its place, if it can."""
    where = "@Microsoft.KeyVault(SecretUri=https://kv-nudge.vault.azure.net/secrets/address-key/)"
    found = Subject.of_settings("file", {**RIGHT, "ADDRESS_KEY": where}, {})
    assert (found.problems, found.vaults) == ((), ("https://kv-nudge.vault.azure.net",))
    found = Subject.of_settings("environment", {**RIGHT, "ADDRESS_KEY": where}, {})
    (problem,) = found.problems
    assert problem.startswith("ADDRESS_KEY: the Key Vault reference was not resolved")
    assert found.settings is not None, "the other looks go on"


async def test_the_timer_needs_its_schedule(tmp_path: Path) -> None:
    """The product has a default for it, and the Functions host has none."""
    row = find(await rows_of(tmp_path, SWEEP_SCHEDULE=""), "SWEEP_SCHEDULE")
    assert (row.state, "no default" in row.found) == ("missing", True)


async def test_the_webhooks_key(tmp_path: Path) -> None:
    name = "SENDGRID_WEBHOOK_PUBLIC_KEY"
    assert find(await rows_of(tmp_path), "webhook key").state == "missing"
    rows = await rows_of(tmp_path, **{name: PUBLIC_KEY})
    assert find(rows, "webhook key") == ok("webhook key", "set")
    rows = await rows_of(tmp_path, **{name: "AAAA"})
    assert find(rows, "webhook key").state == "not checked"
    assert find(rows, name).state == "missing"
    reference = "@Microsoft.KeyVault(VaultName=kv-nudge;SecretName=webhook)"
    rows = await rows_of(tmp_path, **{name: reference})
    assert find(rows, "webhook key") == ok("webhook key", "kept in Key Vault")


# parameters

BICEP = """
targetScope = 'subscription'
param location string
param allowedSenders string[]
param allowedLinkHosts string[]
param alertEmails string[]
param runbookUrl string = 'docs/runbook.md'
param customDomain { hostName: string, stage: 'bind' | 'secure' }?
param publicBaseUrl string = ''
param sweepSchedule string = '0 0 20 * * *'
param graphConfirm 'methods' | 'report' = 'report'
param sendgridWebhookPublicKey string = ''
param sms { from: string }?
param budget { amount: int, startDate: string }?
param zoneRedundant bool = false
"""

PLAN = """
using 'main.bicep'
param location = 'eastasia'
param allowedSenders = ['its.hku.hk']
param allowedLinkHosts = ['its.hku.hk', 'mfa.its.hku.hk']
param alertEmails = ['ithelp@hku.hk']
param customDomain = { hostName: 'mfa.its.hku.hk', stage: 'secure' }
"""


def parameter_file(directory: Path, *changes: tuple[str, str], more: str = "") -> Path:
    """A plan with nothing wrong, with these texts replaced, and more of them."""
    if not shutil.which(os.environ.get("BICEP") or "bicep"):
        missing_tool("BICEP does not name the Bicep compiler")
    text = PLAN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (directory / "main.bicep").write_text(BICEP)
    path = directory / "main.bicepparam"
    path.write_text(text + more)
    return path


async def plan(path: Path, *words: object, zone: Zone | None = None) -> list[Row]:
    async with running_dns(zone or right_zone()) as dns:
        return await diagnose("--params", path, "--nameserver", dns, *words)


async def test_a_plan_with_nothing_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parameter_file(tmp_path)
    monkeypatch.setenv("PATH", f"{stand_in_az(tmp_path, {})}{os.pathsep}{os.environ['PATH']}")
    rows = await plan(path, "--campaign", campaign_file(tmp_path), "--people", 60000)
    assert find(rows, "parameters") == ok("parameters", "usable")
    assert [row.what for row in rows if row.state == "missing" and row.what != "certificate"] == []
    assert find(rows, "receivers of alarms").found == "1 in `alertEmails`"
    assert find(rows, "`customDomain`").found == f"serves {HOST}, with a certificate"
    assert find(rows, f"sender and links of {NAME}").state == "ok"
    for what in ("secrets", "Graph permissions", "storage", "webhook key", "sweeps", "receipts"):
        assert find(rows, what).state == "not checked"
    assert "`address-key`" in find(rows, "secrets").fix
    assert "GroupMember.Read.All" in find(rows, "Graph permissions").fix


async def test_parameters_with_mistakes(tmp_path: Path) -> None:
    more = (
        "param sweepSchedule = 'daily'\n"
        "param sms = { from: 'a sender id that is too long' }\n"
        "param budget = { amount: 200, startDate: '2026-12-15' }\n"
        "param sendgridWebhookPublicKey = 'AAAA'\n"
    )
    path = parameter_file(
        tmp_path,
        ("['its.hku.hk']", "[]"),
        ("['ithelp@hku.hk']", "['it help']"),
        more=more,
    )
    rows = await plan(path)
    found = [row.what for row in rows if row.state == "missing" and row.what != "certificate"]
    assert sorted(found) == [
        *("allowedSenders", "budget.startDate", "receivers of alarms"),
        *("sendgridWebhookPublicKey", "sms.from", "sweepSchedule"),
    ]
    assert find(rows, "sweepSchedule").fix == "Correct the parameter `sweepSchedule`."


async def test_nobody_is_told_of_alarms(tmp_path: Path) -> None:
    path = parameter_file(tmp_path, ("['ithelp@hku.hk']", "['']"))
    row = find(await plan(path), "receivers of alarms")
    assert (row.state, row.found) == ("missing", "`alertEmails` names nobody")


async def test_an_alarm_should_lead_to_its_section(tmp_path: Path) -> None:
    row = find(await plan(parameter_file(tmp_path)), "link of the alarms")
    assert (row.state, "runbookUrl" in row.found) == ("warning", True)
    address = "param runbookUrl = 'https://git.hku.hk/mfa-nudge/docs/runbook.md'\n"
    path = parameter_file(tmp_path)
    path.write_text(path.read_text() + address)
    assert [row.what for row in await plan(path) if row.what == "link of the alarms"] == []


async def test_how_far_the_own_domain_has_come(tmp_path: Path) -> None:
    bound = parameter_file(tmp_path, ("'secure'", "'bind'"))
    rows = await plan(bound)
    assert find(rows, "`customDomain`").state == "warning"
    assert find(rows, "custom domain").state == "ok", "DNS is looked at before the app uses it"

    line = "param customDomain = { hostName: 'mfa.its.hku.hk', stage: 'secure' }\n"
    none = parameter_file(tmp_path, (line, ""))
    row = find(await plan(none), "custom domain")
    assert (row.state, "azurewebsites.net" in row.found) == ("missing", True)

    proxy = parameter_file(tmp_path, (line, "param publicBaseUrl = 'https://mfa.its.hku.hk'\n"))
    rows = await plan(proxy)
    assert not [row for row in rows if row.what == "`customDomain`"]
    assert find(rows, "custom domain").state == "ok"


async def test_variables_that_the_file_asks_for_in_vain(tmp_path: Path) -> None:
    path = parameter_file(
        tmp_path,
        ("['its.hku.hk']", "split(readEnvironmentVariable('NUDGE_TEST_SENDERS'), ',')"),
        ("'eastasia'", "readEnvironmentVariable('NUDGE_TEST_LOCATION')"),
    )
    rows = await plan(path)
    row = find(rows, "NUDGE_TEST_SENDERS")
    assert (row.state, "`azd env set NUDGE_TEST_SENDERS …`" in row.fix) == ("missing", True)
    assert find(rows, "NUDGE_TEST_LOCATION").state == "missing"
    assert find(rows, "receivers of alarms").state == "ok"


async def test_a_file_that_does_not_compile(tmp_path: Path) -> None:
    path = parameter_file(tmp_path, more="param nobodyKnows = 1\n")
    with pytest.raises(SetupFault, match=r"BCP259.*nobodyKnows") as raised:
        await plan(path)
    assert "Warning" not in str(raised.value)


async def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parameter_file(tmp_path)
    monkeypatch.delenv("BICEP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupFault, match="az bicep install"):
        await plan(path)


@pytest.mark.parametrize(
    ("regions", "state"),
    [(["East Asia", "UK South"], "ok"), (["UK South"], "missing")],
)
async def test_zones(
    regions: list[str], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = [{"name": region} for region in regions]
    az = stand_in_az(tmp_path, {"functionapp list-flexconsumption-locations": answer})
    monkeypatch.setenv("PATH", f"{az}{os.pathsep}{os.environ['PATH']}")
    (row,) = await examine_zones(
        Subject.of_parameters({"location": "eastasia", "zoneRedundant": True}, {})
    )
    assert row.state == state
    only_one = Subject.of_parameters({"location": "eastasia", "zoneRedundant": False}, {})
    assert await examine_zones(only_one) == []


@pytest.mark.parametrize(
    ("roles", "state"),
    [
        (["Owner"], "ok"),
        (["Contributor", "User Access Administrator"], "ok"),
        (["Contributor", "Role Based Access Control Administrator", "Reader"], "missing"),
        (["Contributor"], "missing"),
        (["User Access Administrator"], "missing"),
        (["Reader"], "missing"),
        ([], "missing"),
        (["Contributor", "A role of our own"], "not checked"),
    ],
)
async def test_whether_you_may_deploy(
    roles: list[str], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may make resources and assign no roles is stopped in the middle of a deployment."""
    answers = {
        "account show": {"id": GROUP, "user": {"name": "me@hku.hk", "type": "user"}},
        "role assignment": [{"roleDefinitionName": role, "scope": "/"} for role in roles],
    }
    monkeypatch.setenv("PATH", f"{stand_in_az(tmp_path, answers)}{os.pathsep}{os.environ['PATH']}")
    (row,) = await examine_deployer()
    assert row.state == state
    assert "hku.hk" not in row.found, "no address of a person"


async def test_what_azure_alone_can_tell_of_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parameter_file(tmp_path, more="param zoneRedundant = true\n")
    monkeypatch.setenv("PATH", f"{stand_in_az(tmp_path, {})}{os.pathsep}{os.environ['PATH']}")
    rows = await plan(path)
    for what in ("zone redundancy", "your right to deploy"):
        row = find(rows, what)
        assert (row.state, "az login" in row.fix) == ("not checked", True)


async def test_the_parameter_file_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each parameter that the doctor reads is one of the template, by its name."""
    if not shutil.which(os.environ.get("BICEP") or "bicep"):
        missing_tool("BICEP does not name the Bicep compiler")
    given = {
        "ALLOWED_SENDERS": "its.hku.hk",
        "ALLOWED_LINK_HOSTS": f"its.hku.hk,{HOST}",
        "ALERT_EMAILS": "ithelp@hku.hk",
        "CUSTOM_DOMAIN": HOST,
        "CUSTOM_DOMAIN_STAGE": "secure",
        "TWILIO_FROM": "+85212345678",
        "BUDGET_START": "2026-12-01",
        "SENDGRID_WEBHOOK_PUBLIC_KEY": PUBLIC_KEY,
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    rows = await plan(ROOT / "infra" / "main.bicepparam")
    assert find(rows, "parameters") == ok("parameters", "usable")
    assert find(rows, "receivers of alarms").state == "ok"
    assert find(rows, "`customDomain`").state == "ok"
    assert find(rows, "webhook key").state == "ok"
    template = (ROOT / "infra" / "main.bicep").read_text()
    for parameter in (*PARAMETERS.values(), "alertEmails", "customDomain", "zoneRedundant"):
        assert f"\nparam {parameter.partition('.')[0]} " in template
