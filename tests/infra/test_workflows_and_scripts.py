"""Workflow files and shell scripts pass actionlint and shellcheck, and keep our own rules."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import missing_tool
from tests.infra.tools import INSTALL, shell_mistakes, tools_installed, workflow_mistakes

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DEPLOY = ROOT / ".github" / "workflows" / "deploy.yml"
OWN_OF_GITHUB = {"AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_SUBSCRIPTION_ID"}
"""Variables for azure/login, which the parameters know nothing of."""


def scripts() -> list[Path]:
    """Every shell script of the project, by name or by first line."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    files = [ROOT / name for name in listed]
    return [
        file
        for file in files
        if file.is_file()
        and (file.suffix == ".sh" or file.read_bytes()[:20].startswith(b"#!/usr/bin/env bash"))
    ]


def load(file: Path) -> Any:
    return YAML(typ="safe").load(file.read_text())


def steps(file: Path) -> Iterator[dict[str, Any]]:
    for job in load(file)["jobs"].values():
        yield from job.get("steps", ())


@pytest.mark.parametrize("script", scripts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_script_has_no_mistake(script: Path) -> None:
    assert shell_mistakes(script.read_text()) == []


@pytest.mark.parametrize("script", scripts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_script_ends_at_its_first_failure(script: Path) -> None:
    assert "\nset -euo pipefail\n" in script.read_text()
    assert script.stat().st_mode & 0o111


def test_the_scripts_are_found() -> None:
    names = {str(script.relative_to(ROOT)) for script in scripts()}
    assert {".ci/run", "infra/grant-graph-permissions.sh", "infra/smoke-test.sh"} <= names


def test_a_workflow_has_no_mistake() -> None:
    if not tools_installed():
        missing_tool(f"actionlint: `{INSTALL}` brings it")
    assert DEPLOY in WORKFLOWS
    assert workflow_mistakes({file.name: file.read_text() for file in WORKFLOWS}) == []


def test_actions_are_named_by_what_they_are() -> None:
    """A tag can be moved to other code by whoever owns the action; a commit cannot."""
    used = [step["uses"] for file in WORKFLOWS for step in steps(file) if "uses" in step]
    assert len(used) >= 6
    assert [one for one in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", one)] == []


def test_a_checkout_keeps_no_credentials() -> None:
    for file in WORKFLOWS:
        for step in steps(file):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, file.name


def test_rights_are_given_job_by_job() -> None:
    """Only what signs in to Azure may ask for a token, and nothing may write."""
    for file in WORKFLOWS:
        workflow = load(file)
        assert workflow["permissions"] == {"contents": "read"}, file.name
        for job in workflow["jobs"].values():
            rights = job.get("permissions", {})
            signs_in = any(
                step.get("uses", "").startswith("azure/login@") for step in job.get("steps", ())
            )
            assert ("id-token" in rights) == signs_in
            others = {value for name, value in rights.items() if name != "id-token"}
            assert others <= {"read"}


def test_deployments_wait_for_each_other_and_for_a_person() -> None:
    workflow = load(DEPLOY)
    assert workflow["concurrency"]["cancel-in-progress"] is False
    deploy = workflow["jobs"]["deploy"]
    assert deploy["environment"]
    assert {"checks", "what-if"} <= set(deploy["needs"])
    assert workflow["jobs"]["what-if"]["environment"].endswith("-what-if")


def test_every_parameter_is_named_at_the_top() -> None:
    parameters = (ROOT / "infra" / "main.bicepparam").read_text()
    asked = set(re.findall(r"readEnvironmentVariable\('(\w+)'", parameters))
    head = DEPLOY.read_text().partition("\nname:")[0]
    assert set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b|\bSCALE\b", head)) == asked | OWN_OF_GITHUB


def test_azd_uploads_what_make_package_has_unpacked() -> None:
    azure = load(ROOT / "azure.yaml")
    (service,) = azure["services"].values()
    assert azure["services"].keys() == {"api"}  # the tag azd-service-name of the app
    assert (service["project"], service["remoteBuild"]) == ("build/package", False)
    assert (azure["infra"]["path"], azure["infra"]["module"]) == ("infra", "main")
    for hook in ("prepackage", "predeploy"):
        assert azure["hooks"][hook]["run"] == "make package"
    script = azure["hooks"]["postdeploy"]["run"].split()[0]
    assert (ROOT / script).is_file()
