"""infra/grant-graph-permissions.sh, run as an administrator runs it, over a stand-in for the Azure
CLI: what it grants, that it changes nothing twice, what it takes back, and how it fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from shared.services import directory
from tests.conftest import missing_tool

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "infra" / "grant-graph-permissions.sh"
CLI = Path(__file__).with_name("azure_cli.py")

GRAPH = "11111111-1111-4111-8111-111111111111"
IDENTITY = "aaaaaaaa-1111-4222-8333-bbbbbbbbbbbb"
CLIENT = "cccccccc-1111-4222-8333-dddddddddddd"
OTHER_RESOURCE = "99999999-9999-4999-8999-999999999999"

AUDIT, MEMBERS, USERS, METHODS = (
    "AuditLog.Read.All",
    "GroupMember.Read.All",
    "User.Read.All",
    "UserAuthenticationMethod.Read.All",
)
IDS = {
    AUDIT: "b0afded3-3588-46d8-8b3d-9842eff778da",
    MEMBERS: "98830695-27a2-44f7-8c18-0c3ebc9698f6",
    USERS: "df021288-bdef-4463-88db-98f22de89214",
    METHODS: "38d9df27-64da-44fd-b7c5-a6fbac20248f",
    "Mail.Send": "b633e1c5-b582-4048-a93e-9f11b44c7e96",
    "Directory.Read.All": "7ab1d382-f21e-4acd-a863-ba3e13f7da61",
}
"""As learn.microsoft.com/graph/permissions-reference has them."""

NEEDED = [AUDIT, MEMBERS, USERS, METHODS]
"""With `--confirm methods`, as `Tenant.run` asks unless it is told otherwise."""


class Tenant:
    """A tenant, and the script run against it."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "tenant.json"
        binaries = directory / "bin"
        binaries.mkdir()
        (binaries / "az").write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{CLI}" "$@"\n')
        (binaries / "az").chmod(0o755)
        self._environment = {
            "PATH": f"{binaries}:{os.defpath}",
            "AZURE_CLI_TENANT": str(self._file),
            "TMPDIR": str(directory),
            "LC_ALL": "C",
        }
        self._write(
            graph="https://graph.microsoft.com/",
            graph_id=GRAPH,
            roles={id: name for name, id in IDS.items()},
            principals={IDENTITY: CLIENT},
            assignments=[],
            page_size=100,
            next_page_at=None,
            signed_in=True,
            may_write=True,
            rivals=[],
            trouble=None,
            requests=[],
        )

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self._file.read_text())

    @property
    def granted(self) -> list[str]:
        """The permissions of Graph that the identity has, in the order in which they came."""
        names = {id: name for name, id in IDS.items()}
        rows = self.state["assignments"]
        return [names[row["appRoleId"]] for row in rows if row["resourceId"] == GRAPH]

    @property
    def changes(self) -> list[str]:
        return [one for one in self.state["requests"] if not one.startswith("get ")]

    def set(self, **values: Any) -> None:
        self._write(**self.state | values)

    def give(self, *names: str, resource: str = GRAPH) -> None:
        rows = self.state["assignments"]
        for name in names:
            row = {"principalId": IDENTITY, "resourceId": resource, "appRoleId": IDS[name]}
            rows.append(row | {"id": f"given-{len(rows)}"})
        self.set(assignments=rows)

    def run(self, *options: str, identity: str = IDENTITY) -> subprocess.CompletedProcess[str]:
        confirm = () if "--confirm" in options else ("--confirm", "methods")
        return self.call("--identity", identity, *confirm, *options)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def hide_cli(self) -> None:
        (Path(self._environment["PATH"].partition(":")[0]) / "az").unlink()
        if shutil.which("az", path=os.defpath):  # then there is no machine without it here
            pytest.skip("the Azure CLI is among the system's own commands")

    def _write(self, **state: Any) -> None:
        self._file.write_text(json.dumps(state))


@pytest.fixture
def tenant(tmp_path: Path) -> Tenant:
    return Tenant(tmp_path)


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_first_run_grants_what_is_needed_and_says_so(tenant: Tenant) -> None:
    done = tenant.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert tenant.granted == NEEDED
    assert lines(done.stdout)[:4] == [f"granted: {name}" for name in NEEDED]
    assert "24 hours" in lines(done.stdout)[4]


def test_second_run_changes_nothing_and_says_so(tenant: Tenant) -> None:
    tenant.run()
    tenant.set(requests=[])
    done = tenant.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done.stdout) == [
        *(f"there already: {name}" for name in NEEDED),
        "Nothing to do.",
    ]
    assert tenant.changes == []
    assert tenant.granted == NEEDED


def test_a_part_that_is_there_stays_and_the_rest_is_granted(tenant: Tenant) -> None:
    tenant.give(USERS)
    done = tenant.run()
    assert done.returncode == 0
    assert f"there already: {USERS}" in lines(done.stdout)
    assert len(tenant.changes) == 3
    assert sorted(tenant.granted) == sorted(NEEDED)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        (["--confirm", "report"], [AUDIT, MEMBERS, USERS]),
        (["--audience", "filter"], [AUDIT, USERS, METHODS]),
        (["--confirm", "report", "--audience", "filter"], [AUDIT, USERS]),
    ],
)
def test_only_what_the_features_need(tenant: Tenant, options: list[str], needed: list[str]) -> None:
    assert tenant.run(*options).returncode == 0
    assert tenant.granted == needed


def test_without_options_it_grants_what_a_deployment_without_options_needs(tenant: Tenant) -> None:
    bicep = (ROOT / "infra" / "main.bicep").read_text()
    assert "param graphConfirm 'methods' | 'report' = 'report'" in bicep
    assert tenant.call("--identity", IDENTITY).returncode == 0
    assert tenant.granted == [AUDIT, MEMBERS, USERS]


def test_what_is_no_longer_needed_is_named_and_left(tenant: Tenant) -> None:
    tenant.give(*NEEDED)
    done = tenant.run("--confirm", "report")
    assert done.returncode == 0
    assert lines(done.stderr) == [
        f"warning: {METHODS} is granted, and not needed with --confirm report --audience group. "
        "Remove it, unless something else needs it: az rest --method delete --url "
        f"https://graph.microsoft.com/v1.0/servicePrincipals/{GRAPH}/appRoleAssignedTo/given-3"
    ]
    assert tenant.changes == []


def test_further_permissions_of_the_identity_are_warned_of(tenant: Tenant) -> None:
    tenant.give("Mail.Send")
    done = tenant.run()
    assert done.returncode == 0
    assert "warning: Mail.Send is granted, and mfa-nudge has no use for it." in done.stderr
    assert "Mail.Send" in tenant.granted


def test_roles_of_other_services_are_none_of_its_business(tenant: Tenant) -> None:
    tenant.give(AUDIT, "Mail.Send", resource=OTHER_RESOURCE)
    done = tenant.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert tenant.granted == NEEDED
    tenant.run("--undo")
    assert len(tenant.state["assignments"]) == 2


def test_undo_removes_what_it_manages_and_nothing_else(tenant: Tenant) -> None:
    tenant.give("Mail.Send", "Directory.Read.All")
    tenant.run()
    done = tenant.run("--undo")
    assert done.returncode == 0
    assert lines(done.stdout)[:4] == [f"removed: {name}" for name in NEEDED]
    assert sorted(tenant.granted) == ["Directory.Read.All", "Mail.Send"]
    tenant.set(requests=[])
    again = tenant.run("--undo")
    assert (again.returncode, again.stdout) == (0, "Nothing to remove.\n")
    assert tenant.changes == []


def test_undo_removes_all_that_it_manages_whatever_the_features_are(tenant: Tenant) -> None:
    tenant.run()
    tenant.run("--undo", "--confirm", "report", "--audience", "filter")
    assert tenant.granted == []


@pytest.mark.parametrize("page_size", [1, 2, 3])
def test_assignments_are_read_to_the_last_page(tenant: Tenant, page_size: int) -> None:
    tenant.give("Mail.Send", *NEEDED)
    tenant.set(page_size=page_size)
    done = tenant.run()
    assert done.returncode == 0
    assert "Nothing to do." in lines(done.stdout)
    assert tenant.changes == []
    assert tenant.run("--undo").returncode == 0
    assert tenant.granted == ["Mail.Send"]


def test_a_next_page_at_another_host_is_not_asked_for(tenant: Tenant) -> None:
    tenant.give("Mail.Send", *NEEDED)
    tenant.set(page_size=2, next_page_at="https://graph.microsoft.com.example/v1.0/more")
    done = tenant.run()
    assert done.returncode == 1
    assert "the next page is at another host" in done.stderr
    assert not any("example" in request for request in tenant.state["requests"])


def test_check_changes_nothing(tenant: Tenant) -> None:
    tenant.give(AUDIT)
    tenant.set(may_write=False)
    done = tenant.run("--check")
    assert done.returncode == 1
    assert lines(done.stdout) == [
        f"there already: {AUDIT}",
        *(f"missing: {name}" for name in NEEDED[1:]),
    ]
    assert "fix: run the same command without --check." in done.stderr
    assert tenant.changes == []
    tenant.give(*NEEDED[1:])
    assert tenant.run("--check").returncode == 0


def test_somebody_who_grants_at_the_same_time_does_no_harm(tenant: Tenant) -> None:
    tenant.set(rivals=[IDS[USERS]])
    done = tenant.run()
    assert done.returncode == 0
    assert f"there already: {USERS} (granted by somebody else at the same time)" in done.stdout
    assert sorted(tenant.granted) == sorted(NEEDED)


def test_somebody_who_removes_at_the_same_time_does_no_harm(tenant: Tenant) -> None:
    tenant.give(*NEEDED)
    tenant.set(rivals=[IDS[USERS]])
    done = tenant.run("--undo")
    assert done.returncode == 0
    assert f"gone already: {USERS} (removed by somebody else at the same time)" in done.stdout
    assert tenant.granted == []


def test_a_national_cloud_is_asked_at_its_own_address(tenant: Tenant) -> None:
    tenant.set(graph="https://microsoftgraph.chinacloudapi.cn/")
    assert tenant.run().returncode == 0  # the stand-in answers at no other address
    assert tenant.granted == NEEDED


def test_a_cloud_that_lacks_a_permission_is_told_of(tenant: Tenant) -> None:
    tenant.set(roles={id: name for name, id in IDS.items() if name != METHODS})
    done = tenant.run()
    assert done.returncode == 1
    assert f"Graph of this cloud has no permission {METHODS}." in done.stderr
    assert tenant.changes == []


def test_without_rights_it_names_the_role(tenant: Tenant) -> None:
    tenant.set(may_write=False)
    done = tenant.run()
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"error: you are not allowed to grant {AUDIT}." in done.stderr
    assert "Privileged Role Administrator" in done.stderr
    assert "Application Administrator is not enough" in done.stderr


def test_without_sign_in_it_says_how(tenant: Tenant) -> None:
    tenant.set(signed_in=False)
    done = tenant.run()
    assert done.returncode == 1
    assert "fix: run: az login" in done.stderr


def test_without_the_cli_it_says_where_there_is_one(tenant: Tenant) -> None:
    tenant.hide_cli()
    done = tenant.run()
    assert done.returncode == 1
    assert "the Azure CLI (az) is not installed" in done.stderr


def test_an_unknown_identity(tenant: Tenant) -> None:
    done = tenant.run(identity=OTHER_RESOURCE)
    assert done.returncode == 1
    assert f"no service principal with the object id {OTHER_RESOURCE}" in done.stderr
    assert "IDENTITY_PRINCIPAL_ID" in done.stderr


def test_a_client_id_in_place_of_the_object_id(tenant: Tenant) -> None:
    done = tenant.run(identity=CLIENT)
    assert done.returncode == 1
    assert f"fix: use its object id: --identity {IDENTITY}" in done.stderr
    assert tenant.changes == []


def test_case_of_an_id_does_not_matter(tenant: Tenant) -> None:
    assert tenant.run(identity=IDENTITY.upper()).returncode == 0
    assert tenant.granted == NEEDED


def test_throttling_is_no_answer(tenant: Tenant) -> None:
    tenant.set(trouble=["Too Many Requests", "TooManyRequests", "Slow down."])
    done = tenant.run()
    assert done.returncode == 1
    assert "fix: run it again in a minute" in done.stderr


def test_anything_else_that_graph_says_is_told_as_it_is(tenant: Tenant) -> None:
    tenant.set(trouble=["Internal Server Error", "UnknownError", "Something broke."])
    done = tenant.run()
    assert done.returncode == 1
    assert "Something broke." in done.stderr
    assert len(lines(done.stderr)) == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--identity is missing"),
        (["--identity"], "--identity needs a value"),
        (["--identity", "app-nudge"], "must be an object id"),
        (["--identity", IDENTITY, "--confirm", "maybe"], "report or methods"),
        (["--identity", IDENTITY, "--audience", "all"], "group or filter"),
        (["--identity", IDENTITY, "--undo", "--check"], "two different things"),
        (["--identity", IDENTITY, "--force"], "no option --force"),
    ],
)
def test_a_wrong_call_asks_nobody(tenant: Tenant, arguments: list[str], reason: str) -> None:
    done = tenant.call(*arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert tenant.state["requests"] == []


def test_help(tenant: Tenant) -> None:
    done = tenant.call("--help")
    assert done.returncode == 0
    for option in ("--identity", "--confirm", "--audience", "--check", "--undo"):
        assert option in done.stdout


def test_it_leaves_no_file_behind(tenant: Tenant, tmp_path: Path) -> None:
    tenant.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "tenant.json"]


def managed_by_the_script() -> dict[str, str]:
    rows = re.findall(r'^  "([\w.]+) ([0-9a-f-]{36})"$', SCRIPT.read_text(), re.MULTILINE)
    return dict(rows)


def test_it_manages_what_the_code_asks_for() -> None:
    """The permissions that stand beside each question in the code, and no others."""
    asked = {source.permissions for source in get_args(directory.Roster.__value__)}
    asked |= {directory.RegistrationReport.permissions}
    asked |= {directory._FIND_USER.permissions, directory._METHODS.permissions}
    asked |= {directory._REPORT_ROW.permissions}
    names = {name for words in asked for name in words.split(" and ")}
    assert managed_by_the_script().keys() == names


def test_the_document_has_the_same_table() -> None:
    text = (ROOT / "docs" / "permissions.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| `([0-9a-f-]{36})` \|", text, re.MULTILINE)
    assert dict(rows) == managed_by_the_script()
    assert managed_by_the_script() == {name: IDS[name] for name in NEEDED}


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.is_file():
        missing_tool("shellcheck is not installed: uv sync")
    done = subprocess.run(
        [str(shellcheck), str(SCRIPT)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
