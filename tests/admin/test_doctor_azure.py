"""What the doctor says of Key Vault, of Graph permissions and of who is told of alarms: over HTTP
and by the Azure command line, against stand-ins that answer as these do."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from admin.doctor.rows import Row
from local.serving import running_application
from tests.admin.diagnosing import (
    GROUP,
    RIGHT,
    Zone,
    campaign_file,
    diagnose,
    find,
    running_dns,
    settings_file,
    stand_in_az,
)

DAY = 86_400
CLIENT = "11111111-2222-4333-8444-555555555555"
PRINCIPAL = "99999999-2222-4333-8444-555555555555"
GRAPH = "aaaaaaaa-2222-4333-8444-555555555555"
ROLES = {
    name: f"0000000{number}-0000-4000-8000-000000000000"
    for number, name in enumerate(
        (
            "AuditLog.Read.All",
            "User.Read.All",
            "GroupMember.Read.All",
            "UserAuthenticationMethod.Read.All",
            "Mail.Send",
        )
    )
}
FOR_REPORT = ("AuditLog.Read.All", "User.Read.All", "GroupMember.Read.All")
FOR_METHODS = (*FOR_REPORT, "UserAuthenticationMethod.Read.All")


@dataclass
class Cloud:
    """Graph's list of an identity's permissions and a Key Vault's list of secrets.

    Attributes:
        granted: names of Graph's roles that the identity has.
        elsewhere: roles of other services that it has.
        secrets: attributes by name.
        refuses: a status that stands in for each answer of "graph" or "vault".
        asked: paths, in the order of the requests.
    """

    granted: tuple[str, ...] = FOR_METHODS
    elsewhere: tuple[str, ...] = ()
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuses: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/v1.0/{rest:.*}", self._graph)
        application.router.add_get("/secrets", self._secrets)
        application.router.add_get("/secrets/{name:.*}", self._value)
        return application

    async def _graph(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        assert "Authorization" not in request.headers, "no token leaves for a loopback address"
        if status := self.refuses.get("graph"):
            return web.json_response(
                {"error": {"code": "Authorization_RequestDenied"}}, status=status
            )
        match request.match_info["rest"]:
            case "servicePrincipals(appId='00000003-0000-0000-c000-000000000000')":
                roles = [{"id": id, "value": name} for name, id in ROLES.items()]
                return web.json_response({"id": GRAPH, "appRoles": roles})
            case rest if rest in (
                f"servicePrincipals/{PRINCIPAL}/appRoleAssignments",
                f"servicePrincipals(appId='{CLIENT}')/appRoleAssignments",
            ):
                rows = [{"appRoleId": ROLES[name], "resourceId": GRAPH} for name in self.granted]
                rows += [
                    {"appRoleId": role, "resourceId": CLIENT, "resourceDisplayName": "Exchange"}
                    for role in self.elsewhere
                ]
                return web.json_response({"value": rows})
            case _:
                return web.json_response(
                    {"error": {"code": "Request_ResourceNotFound"}}, status=404
                )

    async def _secrets(self, request: web.Request) -> web.Response:
        """Two a page, as Key Vault has 25."""
        self.asked.append(request.path)
        if status := self.refuses.get("vault"):
            return web.json_response({"error": {"code": "Forbidden"}}, status=status)
        start = int(request.query.get("$skiptoken", "0"))
        base = f"http://{request.host}"
        listed = [
            {"id": f"{base}/secrets/{name}", "attributes": {"enabled": True, **attributes}}
            for name, attributes in self.secrets.items()
        ]
        more = f"{base}/secrets?api-version=7.4&$skiptoken={start + 2}"
        return web.json_response(
            {
                "value": listed[start : start + 2],
                "nextLink": more if start + 2 < len(listed) else None,
            }
        )

    async def _value(self, request: web.Request) -> web.Response:
        raise AssertionError("the value of a secret was asked for")


async def rows_of(cloud: Cloud, directory: Path, *words: object, **more: str) -> list[Row]:
    """The rows of an app whose secrets are in the vault of this cloud."""
    async with running_application(cloud.application()) as url, running_dns(Zone()) as dns:
        settings = {
            **RIGHT,
            "GRAPH_BASE_URL": f"{url}/v1.0",
            "GRAPH_AUTH": "anonymous",
            "AzureWebJobsStorage__clientId": CLIENT,
            "SENDGRID_API_KEY": f"@Microsoft.KeyVault(SecretUri={url}/secrets/sendgrid-api-key/)",
            "LINK_KEYS": f"@Microsoft.KeyVault(SecretUri={url}/secrets/link-keys/)",
            "ADDRESS_KEY": f"@Microsoft.KeyVault(SecretUri={url}/secrets/address-key/0123abcd)",
        }
        path = settings_file(directory, {**settings, **more})
        return await diagnose("--env", path, "--nameserver", dns, *words)


def in_days(days: float) -> int:
    return int(time.time() + days * DAY) + 60


# Key Vault


def all_there(**attributes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    names = ("address-key", "another-one", "link-keys", "sendgrid-api-key")
    return {name: dict(attributes.get(name.replace("-", "_"), {})) for name in names}


async def test_secrets_are_there_and_no_value_is_asked_for(tmp_path: Path) -> None:
    cloud = Cloud(secrets=all_there(link_keys={"exp": in_days(400)}))
    rows = await rows_of(cloud, tmp_path)
    assert find(rows, "settings").found == "usable; 3 are kept in Key Vault"
    for name in ("sendgrid-api-key", "link-keys", "address-key"):
        assert find(rows, f"secret {name}").state == "ok"
    assert not [row for row in rows if "another-one" in row.what]
    assert cloud.asked.count("/secrets") == 2


@pytest.mark.parametrize(
    ("attributes", "state", "says"),
    [
        ({"exp": in_days(29)}, "warning", "expires on"),
        ({"exp": in_days(31)}, "ok", "until"),
        ({"exp": in_days(-1)}, "missing", "expired on"),
        ({"enabled": False}, "missing", "switched off"),
        ({"nbf": in_days(1)}, "missing", "not valid before"),
        ({}, "ok", "without an end"),
    ],
)
async def test_a_secrets_dates(
    attributes: dict[str, Any], state: str, says: str, tmp_path: Path
) -> None:
    row = find(
        await rows_of(Cloud(secrets=all_there(link_keys=attributes)), tmp_path), "secret link-keys"
    )
    assert row.state == state
    assert says in row.found


async def test_a_secret_that_is_not_there(tmp_path: Path) -> None:
    secrets = all_there()
    del secrets["address-key"]
    row = find(await rows_of(Cloud(secrets=secrets), tmp_path), "secret address-key")
    assert (row.state, row.fix) == (
        "missing",
        "Put it there with infra/set-secrets.sh: it is ADDRESS_KEY.",
    )


async def test_a_vault_that_may_not_be_read(tmp_path: Path) -> None:
    row = find(await rows_of(Cloud(refuses={"vault": 403}), tmp_path), "secrets in Key Vault")
    assert (row.state, "Key Vault Reader" in row.fix) == ("not checked", True)


@pytest.mark.parametrize(
    "reference",
    [
        "SecretUri=https://vault.azure.net.example.org/secrets/address-key/",
        "SecretUri=https://me@kv-nudge.vault.azure.net/secrets/address-key/",
        "SecretUri=http://kv-nudge.vault.azure.net/secrets/address-key/",
        "SecretUri=https://kv-nudge.vault.azure.net",
        "VaultName=kv/nudge;SecretName=address-key",
        "",
    ],
)
async def test_a_reference_that_leads_to_no_vault(reference: str, tmp_path: Path) -> None:
    """And no token goes there."""
    more = {"ADDRESS_KEY": f"@Microsoft.KeyVault({reference})"}
    row = find(await rows_of(Cloud(secrets=all_there()), tmp_path, **more), "ADDRESS_KEY")
    assert (row.state, row.found) == ("missing", "its reference names no Key Vault")


async def test_secrets_that_stand_in_the_settings(tmp_path: Path) -> None:
    rows = await rows_of(Cloud(secrets=all_there()), tmp_path, ADDRESS_KEY=RIGHT["ADDRESS_KEY"])
    row = find(rows, "ADDRESS_KEY")
    assert (row.state, "`address-key`" in row.fix) == ("warning", True)
    assert not [row for row in rows if row.what == "LINK_KEYS"]


# Microsoft Graph


def permissions(rows: list[Row]) -> dict[str, str]:
    start = "Graph permission "
    return {row.what.removeprefix(start): row.state for row in rows if row.what.startswith(start)}


async def test_the_permissions_that_a_campaign_needs(tmp_path: Path) -> None:
    words = ("--campaign", campaign_file(tmp_path))
    rows = await rows_of(Cloud(), tmp_path, *words)
    assert permissions(rows) == dict.fromkeys(FOR_METHODS, "ok")
    assert not [row for row in rows if row.what == "Graph permissions beyond these"]


@pytest.mark.parametrize("lacks", FOR_METHODS)
async def test_a_permission_that_was_not_granted(lacks: str, tmp_path: Path) -> None:
    cloud = Cloud(granted=tuple(name for name in FOR_METHODS if name != lacks))
    rows = await rows_of(cloud, tmp_path, "--campaign", campaign_file(tmp_path))
    assert [name for name, state in permissions(rows).items() if state == "missing"] == [lacks]
    assert "grant-graph-permissions.sh" in find(rows, f"Graph permission {lacks}").fix


async def test_permissions_that_nothing_needs(tmp_path: Path) -> None:
    cloud = Cloud(granted=(*FOR_METHODS, "Mail.Send"), elsewhere=(GROUP,))
    words = ("--campaign", campaign_file(tmp_path))
    row = find(await rows_of(cloud, tmp_path, *words), "Graph permissions beyond these")
    assert row.state == "warning"
    assert row.found.endswith(f": {GROUP} of Exchange, Mail.Send")

    # By the report alone, a filter, and what policy lets people use: each needs less.
    methods = "UserAuthenticationMethod.Read.All"
    rows = await rows_of(cloud, tmp_path, *words, GRAPH_CONFIRM="report")
    assert methods not in permissions(rows)
    assert methods in find(rows, "Graph permissions beyond these").found
    capable = campaign_file(tmp_path, ("done_when: registered", "done_when: capable"))
    rows = await rows_of(cloud, tmp_path, "--campaign", capable)
    assert methods in find(rows, "Graph permissions beyond these").found
    by_filter = campaign_file(tmp_path, (f"group: {GROUP}", "filter: \"employeeType eq 'Alumni'\""))
    rows = await rows_of(cloud, tmp_path, "--campaign", by_filter)
    assert "GroupMember.Read.All" in find(rows, "Graph permissions beyond these").found


async def test_without_a_campaign_no_permission_for_groups_is_asked_or_blamed(
    tmp_path: Path,
) -> None:
    for granted in (FOR_METHODS, ("AuditLog.Read.All", "User.Read.All", FOR_METHODS[-1])):
        rows = await rows_of(Cloud(granted=granted), tmp_path)
        assert set(permissions(rows).values()) == {"ok"}
        assert not [row for row in rows if row.what == "Graph permissions beyond these"]


async def test_the_identity_by_its_object_id(tmp_path: Path) -> None:
    cloud = Cloud()
    await rows_of(cloud, tmp_path, IDENTITY_PRINCIPAL_ID=PRINCIPAL)
    assert f"/v1.0/servicePrincipals/{PRINCIPAL}/appRoleAssignments" in cloud.asked


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        ({"AzureWebJobsStorage__clientId": ""}, None, "IDENTITY_PRINCIPAL_ID"),
        ({"AzureWebJobsStorage__clientId": "x' or"}, None, "IDENTITY_PRINCIPAL_ID"),
        ({"AzureWebJobsStorage__clientId": GROUP}, None, "own tenant"),
        ({}, 403, "Directory Readers"),
        ({}, 503, "Try it again later"),
    ],
)
async def test_permissions_that_cannot_be_looked_at(
    more: dict[str, str], status: int | None, says: str, tmp_path: Path
) -> None:
    cloud = Cloud(refuses={"graph": status} if status else {})
    row = find(await rows_of(cloud, tmp_path, **more), "Graph permissions")
    assert row.state == "not checked"
    assert says in row.fix


# who is told


@pytest.mark.parametrize(
    ("groups", "state"),
    [
        ([{"enabled": True, "emailReceivers": [{"name": "a", "status": "Enabled"}]}], "ok"),
        ([{"enabled": True, "armRoleReceivers": [{"name": "owners"}]}], "ok"),
        ([{"enabled": True, "emailReceivers": [{"name": "a", "status": "Disabled"}]}], "missing"),
        ([{"enabled": False, "emailReceivers": [{"name": "a", "status": "Enabled"}]}], "missing"),
        ([{"enabled": True, "emailReceivers": []}], "missing"),
        ([], "missing"),
    ],
)
async def test_whom_the_action_group_tells(
    groups: list[dict[str, Any]], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    az = stand_in_az(tmp_path, {"monitor action-group": groups})
    monkeypatch.setenv("PATH", f"{az}{os.pathsep}{os.environ['PATH']}")
    rows = await rows_of(Cloud(), tmp_path, AZURE_RESOURCE_GROUP="rg-nudge")
    assert find(rows, "receivers of alarms").state == state


async def test_action_groups_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = "receivers of alarms"
    row = find(await rows_of(Cloud(), tmp_path), what)
    assert (row.state, "AZURE_RESOURCE_GROUP" in row.fix) == ("not checked", True)
    az = stand_in_az(tmp_path, {})
    monkeypatch.setenv("PATH", f"{az}{os.pathsep}{os.environ['PATH']}")
    row = find(await rows_of(Cloud(), tmp_path, AZURE_RESOURCE_GROUP="rg-nudge"), what)
    assert (row.state, row.found) == ("not checked", "`az monitor action-group list` failed")
    monkeypatch.setenv("PATH", str(tmp_path))
    row = find(await rows_of(Cloud(), tmp_path, AZURE_RESOURCE_GROUP="rg-nudge"), what)
    assert (row.state, "not installed" in row.found) == ("not checked", True)


# roles in Azure

ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/st"
APP_ROLES = (
    *("Storage Blob Data Owner", "Storage Queue Data Contributor"),
    *("Storage Table Data Contributor", "Key Vault Secrets User", "Monitoring Metrics Publisher"),
)


def assignments(*roles: str, scope: str = ACCOUNT) -> list[dict[str, str]]:
    return [{"roleDefinitionName": role, "scope": scope} for role in roles]


@pytest.mark.parametrize(
    ("given", "state", "says"),
    [
        (assignments(*APP_ROLES), "ok", "all 5"),
        (assignments(*APP_ROLES[1:]), "missing", "lacks Storage Blob Data Owner on the storage"),
        ([], "missing", "Monitoring Metrics Publisher on Application Insights"),
        (assignments(*APP_ROLES, "Contributor"), "warning", "more than it needs: Contributor"),
        (
            [*assignments(*APP_ROLES), *assignments(APP_ROLES[0], scope="/subscriptions/s")],
            "warning",
            "on more than one resource: Storage Blob Data Owner",
        ),
    ],
)
async def test_the_roles_of_the_identity(
    given: list[dict[str, str]],
    state: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    az = stand_in_az(tmp_path, {"role assignment": given})
    monkeypatch.setenv("PATH", f"{az}{os.pathsep}{os.environ['PATH']}")
    row = find(await rows_of(Cloud(), tmp_path), "roles of the identity")
    assert row.state == state
    assert says in row.found


async def test_roles_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = "roles of the identity"
    row = find(await rows_of(Cloud(), tmp_path, AzureWebJobsStorage__clientId=""), what)
    assert (row.state, "IDENTITY_PRINCIPAL_ID" in row.fix) == ("not checked", True)
    az = stand_in_az(tmp_path, {})
    monkeypatch.setenv("PATH", f"{az}{os.pathsep}{os.environ['PATH']}")
    row = find(await rows_of(Cloud(), tmp_path), what)
    assert (row.state, row.found) == ("not checked", "`az role assignment list` failed")
