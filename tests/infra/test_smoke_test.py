"""The smoke test sees each thing that can be wrong after a deployment, and names its fix in a line.

It runs whole, against stand-ins for the two programs that it calls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.package import Manifest
from shared import __version__
from shared.names import NAMES
from tests.infra import stand_ins

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "infra" / "smoke-test.sh"
URL, DOMAIN = "https://app-x.azurewebsites.net", "mfa.example.edu"
APP_ID = "/subscriptions/s/resourceGroups/rg-x/providers/Microsoft.Web/sites/app-x"
FUNCTIONS = ("health", "release_due", "sweep_start")
KEY = "this-is-the-function-key"
OPTIONS = {
    "--resource-group": "rg-x",
    "--app": "app-x",
    "--url": URL,
    "--workspace": "log-x",
    "--storage": "stx",
    "--identity": "identity-x",
    "--wait": "0",
}
HEALTHY = f'{{"status": "ok", "version": "{__version__}"}}'

ROLES = (
    "Storage Blob Data Owner",
    "Storage Queue Data Contributor",
    "Storage Table Data Contributor",
)

SHOW_APP = "functionapp show"
LIST_FUNCTIONS = "functionapp function list"
REFERENCES = "rest --method get"
LIST_KEYS = "functionapp keys list"
LIST_ROLES = "role assignment list"
SHOW_WORKSPACE = "monitor log-analytics workspace show"
QUERY = "rest --method post"

type Scenario = dict[str, dict[str, dict[str, Any]]]


def all_well() -> Scenario:
    return {
        "az": {
            "account show": {"out": "s\n", "error": "WARNING: there is a newer version\n"},
            SHOW_APP: {"out": f"{APP_ID}\nRunning\n"},
            LIST_FUNCTIONS: {"out": "".join(f"app-x/{one}\n" for one in FUNCTIONS)},
            REFERENCES: {},
            LIST_KEYS: {"out": f"{KEY}\n"},
            LIST_ROLES: {"out": "".join(f"{one}\n" for one in ROLES)},
            SHOW_WORKSPACE: {"out": "workspace-guid\n"},
            QUERY: {"out": "3\n"},
        },
        "curl": {
            f"{URL}/health": {"out": HEALTHY},
            f"{URL}/status": {"out": "{}"},
            f"https://{DOMAIN}/health": {"out": HEALTHY},
        },
    }


class Smoke:
    """The script, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.scenario = directory / "scenario.json"
        manifest = Manifest(
            version=__version__,
            made_of="",
            zip_digest="",
            zip_bytes=1,
            unpacked_bytes=1,
            files=1,
            functions=FUNCTIONS,
        )
        text = msgspec.json.format(msgspec.json.encode(manifest))
        (directory / "manifest.json").write_bytes(text)
        for name in ("az", "curl"):
            program = directory / name
            program.write_text(f"#!{sys.executable} -IS\n{Path(stand_ins.__file__).read_text()}")
            program.chmod(0o755)

    def run(
        self, scenario: Scenario, *more: str, **options: str
    ) -> subprocess.CompletedProcess[str]:
        self.scenario.write_text(json.dumps(scenario))
        given = OPTIONS | {"--manifest": str(self.directory / "manifest.json")}
        given |= {f"--{name.replace('_', '-')}": value for name, value in options.items()}
        words = [word for name, value in given.items() if value for word in (name, value)]
        return subprocess.run(
            ["bash", SCRIPT, *words, *more],
            env={
                "PATH": f"{self.directory}:{os.environ['PATH']}",
                "SMOKE_SCENARIO": str(self.scenario),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def put_sleep(self, command: str) -> None:
        """A `sleep` that only notes for how long, and then does `command`."""
        sleep = self.directory / "sleep"
        sleep.write_text(f"#!/bin/sh\necho \"$1\" >>'{self.directory}/slept'\n{command}\n")
        sleep.chmod(0o755)

    def slept(self) -> list[str]:
        """The seconds of each pause."""
        slept = self.directory / "slept"
        return slept.read_text().split() if slept.exists() else []

    def calls(self) -> list[list[str]]:
        """Each call so far: the program, its arguments, its standard input."""
        lines = self.scenario.with_suffix(".calls").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def smoke(tmp_path: Path) -> Smoke:
    return Smoke(tmp_path)


def test_an_app_that_runs_passes(smoke: Smoke) -> None:
    run = smoke.run(all_well(), domain=DOMAIN)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 7
    assert all(line.startswith("ok    ") for line in lines)
    assert run.stderr == ""


def test_without_a_domain_none_is_asked(smoke: Smoke) -> None:
    run = smoke.run(all_well())
    assert run.returncode == 0
    assert len(run.stdout.splitlines()) == 6
    assert not any(DOMAIN in call[-2] for call in smoke.calls())


def test_the_function_key_stands_in_no_command_line(smoke: Smoke) -> None:
    smoke.run(all_well())
    (status,) = (call for call in smoke.calls() if f"{URL}/status" in call)
    assert status[-1] == f'header = "x-functions-key: {KEY}"\n'
    assert not any(KEY in word for call in smoke.calls() for word in call[:-1])


def spoil_az(command: str, **answer: Any) -> Callable[[Scenario], None]:
    def spoil(scenario: Scenario) -> None:
        scenario["az"][command] = answer

    return spoil


def spoil_curl(url: str, **answer: Any) -> Callable[[Scenario], None]:
    def spoil(scenario: Scenario) -> None:
        scenario["curl"][url] = answer

    return spoil


def storage_refuses(*roles: str) -> Callable[[Scenario], None]:
    def spoil(scenario: Scenario) -> None:
        scenario["curl"][f"{URL}/status"] = {"status": 500}
        scenario["az"][LIST_ROLES] = {"out": "".join(f"{one}\n" for one in roles)}

    return spoil


HEALTH, STATUS, OWN = f"{URL}/health", f"{URL}/status", f"https://{DOMAIN}/health"
FORBIDDEN = {"code": 1, "error": "ERROR: (AuthorizationFailed) no authorization to read\n"}


@pytest.mark.parametrize(
    ("spoil", "said", "fix"),
    [
        (
            spoil_az("account show", code=1, error="ERROR: Please run 'az login'"),
            "az login",
            "az login",
        ),
        (
            spoil_az(SHOW_APP, code=3, error="ERROR: (ResourceNotFound)"),
            "ResourceNotFound",
            "names",
        ),
        (
            spoil_az(SHOW_APP, out=f"{APP_ID}\nStopped\n"),
            "the app is Stopped",
            "az functionapp start",
        ),
        (spoil_az(LIST_FUNCTIONS, **FORBIDDEN), "AuthorizationFailed", "Website Contributor"),
        (spoil_az(LIST_FUNCTIONS), "finds no function", "deploy again"),
        (
            spoil_az(LIST_FUNCTIONS, out="app-x/health\napp-x/release_due\n"),
            "without sweep_start.",
            "deploy this package",
        ),
        (
            spoil_az(LIST_FUNCTIONS, out="".join(f"a/{one}\n" for one in (*FUNCTIONS, "old_one"))),
            "with old_one.",
            "deploy this package",
        ),
        (spoil_curl(HEALTH, out='{"status": "ok", "version": "0.0.9"}'), "0.0.9", "deploy this"),
        (spoil_curl(HEALTH, code=7, error="curl: (7) refused\n"), "curl: (7)", "from inside"),
        (spoil_curl(HEALTH, status=403), "answers 403", "anonymous"),
        (spoil_curl(HEALTH, status=404), "answers 404", "deploy again"),
        (spoil_curl(HEALTH, status=503), "does not start", "wait for the roles on stx"),
        (
            spoil_az(
                REFERENCES, out="LINK_KEYS\tSecretNotFound\nADDRESS_KEY\tAccessToKeyVaultDenied\n"
            ),
            "is there: LINK_KEYS SecretNotFound, ADDRESS_KEY AccessToKeyVaultDenied",
            "infra/set-secrets.sh",
        ),
        (spoil_az(REFERENCES, **FORBIDDEN), "AuthorizationFailed", "Website Contributor"),
        (spoil_az(LIST_KEYS, **FORBIDDEN), "AuthorizationFailed", "Website Contributor"),
        (spoil_curl(STATUS, status=401), "does not take the app's own key", "wait"),
        (storage_refuses(*ROLES), "a setting is missing", "nudge doctor"),
        (
            storage_refuses(*ROLES[1:]),
            "(403): its identity lacks Storage Blob Data Owner",
            "assign",
        ),
        (storage_refuses(), f"lacks {', '.join(ROLES)} on stx", "assign"),
        (spoil_az(SHOW_WORKSPACE, **FORBIDDEN), "AuthorizationFailed", "Log Analytics Reader"),
        (spoil_az(QUERY, **FORBIDDEN), "AuthorizationFailed", "Log Analytics Reader"),
        (spoil_az(QUERY, out="0\n"), "no heartbeat since 20", "az functionapp restart"),
        (spoil_az(QUERY), "no heartbeat since 20", "az functionapp restart"),
        (spoil_curl(OWN, code=6, error="curl: (6)"), "not in DNS", f"asuid.{DOMAIN}"),
        (
            spoil_curl(OWN, code=60, error="curl: (60) SSL"),
            "certificate",
            "CUSTOM_DOMAIN_STAGE=secure",
        ),
        (spoil_curl(OWN, code=28, error="curl: (28)"), "does not answer", "CNAME"),
        (spoil_curl(OWN, status=404), "answers 404", "CUSTOM_DOMAIN_STAGE=bind"),
        (spoil_curl(OWN, out="<html>"), "answers 200, and not as this app", "CNAME"),
    ],
)
def test_what_is_wrong_is_said_with_its_fix(
    smoke: Smoke, spoil: Callable[[Scenario], None], said: str, fix: str
) -> None:
    scenario = all_well()
    spoil(scenario)

    run = smoke.run(scenario, domain=DOMAIN)

    assert run.returncode == 1
    lines = run.stdout.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("FAIL  "))
    assert said in lines[at]
    assert lines[at + 1].startswith("      fix: ")
    assert fix in lines[at + 1]
    assert run.stderr == ""


def test_what_is_right_the_second_time_passes(smoke: Smoke) -> None:
    """It waits for what comes late, and no longer than it was told."""
    scenario = all_well()
    scenario["az"][QUERY] = {"out": "0\n"}
    smoke.put_sleep(f"sed -i 's/\"0.n\"/\"1\"/' '{smoke.scenario}'")

    run = smoke.run(scenario, wait="300")

    assert run.returncode == 0, run.stdout
    assert smoke.slept() == ["15"]


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_az("account show", code=1, error="ERROR: Please run 'az login'"),
        spoil_az(SHOW_APP, out=f"{APP_ID}\nStopped\n"),
        spoil_az(REFERENCES, out="LINK_KEYS\tSecretNotFound\n"),
        spoil_curl(OWN, code=6, error="curl: (6)"),
    ],
)
def test_what_waits_for_a_person_is_not_waited_for(
    smoke: Smoke, spoil: Callable[[Scenario], None]
) -> None:
    scenario = all_well()
    spoil(scenario)
    smoke.put_sleep("")

    assert smoke.run(scenario, wait="300", domain=DOMAIN).returncode == 1
    assert smoke.slept() == []


def test_without_secrets_the_settings_are_not_judged(smoke: Smoke) -> None:
    scenario = all_well()
    spoil_az(REFERENCES, out="LINK_KEYS\tSecretNotFound\n")(scenario)

    assert "skip  it sees its settings" in smoke.run(scenario).stdout
    assert not any(STATUS in call for call in smoke.calls())


@pytest.mark.parametrize(
    ("options", "more", "said"),
    [
        ({"app": ""}, (), "--app is missing."),
        ({"url": "http://x"}, (), "--url is no https address."),
        ({"wait": "long"}, (), "--wait is no number of seconds."),
        ({"manifest": "/nowhere.json"}, (), "`make package` makes it."),
        ({"manifest": str(ROOT / "host.json")}, (), "is no manifest of a package."),
        ({}, ("--colour", "red"), "--colour is no option."),
        ({}, ("--app",), "--app has no value."),
    ],
)
def test_a_wrong_call_is_told(
    smoke: Smoke, options: dict[str, str], more: tuple[str, ...], said: str
) -> None:
    run = smoke.run(all_well(), *more, **options)
    assert run.returncode == 2
    assert said in run.stderr
    assert not smoke.scenario.with_suffix(".calls").exists()


def test_it_asks_for_the_heartbeat_by_its_name() -> None:
    assert f"readonly HEARTBEAT={NAMES.metrics.heartbeat} " in SCRIPT.read_text()
