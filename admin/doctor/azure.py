"""Looks at what stands in Azure beside the app: Key Vault's secrets, the identity's permissions in
Microsoft Graph, who is told of alarms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec

from admin.doctor.reach import Web, ask_az
from admin.doctor.rows import (
    SIGN_IN,
    TRY_FROM_ELSEWHERE,
    Row,
    Unanswered,
    count,
    missing,
    ok,
    unchecked,
    warning,
)
from admin.doctor.subject import SECRETS, Subject, find
from shared.rules.campaign import Campaign

NEAR_EXPIRY = timedelta(days=30)

_MOST_PAGES = 40


# Key Vault


class _Attributes(msgspec.Struct):
    enabled: bool = True
    exp: int | None = None
    nbf: int | None = None


class _Secret(msgspec.Struct):
    id: str
    attributes: _Attributes = msgspec.field(default_factory=_Attributes)


class _SecretList(msgspec.Struct):
    value: list[_Secret]
    next_link: str | None = msgspec.field(default=None, name="nextLink")


async def examine_secrets(subject: Subject, web: Web, now: datetime) -> list[Row]:
    """Whether each secret is there, enabled and not about to expire. No value is ever read."""
    if subject.kind == "plan":
        names = ", ".join(f"`{name}`" for name in SECRETS.values())
        return [
            unchecked(
                "secrets",
                "the Key Vault comes with the deployment",
                "After it, infra/set-secrets.sh puts these into the vault (those of Twilio for SMS "
                f"only): {names}.",
            )
        ]
    rows = _written_out(subject)
    wanted = {setting: one.secret for setting, one in subject.references.items()}
    lost = [setting for setting, one in subject.references.items() if not one.vault]
    rows += [
        missing(
            setting,
            "its reference names no Key Vault",
            "Write @Microsoft.KeyVault(SecretUri=https://VAULT.vault.azure.net/secrets/NAME/).",
        )
        for setting in lost
    ]
    if not subject.vaults:
        local = subject.settings is not None and subject.settings.local
        why = "the local system has none" if local else "which vault is meant is not known here"
        fix = "" if local else "Set KEY_VAULT_NAME, as `azd env get-values` has it."
        return [*rows, unchecked("secrets in Key Vault", why, fix)]
    for vault in subject.vaults:
        if subject.references:
            here = {s: wanted[s] for s, one in subject.references.items() if one.vault == vault}
        else:
            here = {s: name for s, name in SECRETS.items() if s in subject.names}
        try:
            held = await _list_secrets(vault, web)
        except Unanswered as error:
            rows.append(unchecked("secrets in Key Vault", error.why, error.fix))
        else:
            rows += [_judge_secret(s, name, held.get(name), now) for s, name in here.items()]
    return rows


def _written_out(subject: Subject) -> list[Row]:
    """Secrets that stand in a file of settings themselves. In an environment the platform has put
    them in place of their references: there it cannot be told."""
    if subject.kind != "file" or (subject.settings and subject.settings.local):
        return []
    return [
        warning(
            setting,
            "stands among the app's settings itself, for everybody to read who may see these",
            f"Put it into Key Vault as `{SECRETS[setting]}`, and the reference in its place.",
        )
        for setting in ("SENDGRID_API_KEY", "TWILIO_AUTH_TOKEN", "LINK_KEYS", "ADDRESS_KEY")
        if setting in subject.names - subject.faulty - subject.references.keys()
    ]


async def _list_secrets(vault: str, web: Web) -> dict[str, _Attributes]:
    suffix = (urlsplit(vault).hostname or "").partition(".")[2]
    url: str | None = f"{vault}/secrets?api-version=7.4"
    held: dict[str, _Attributes] = {}
    for _ in range(_MOST_PAGES):
        status, body = await web.get(url, scope=f"https://{suffix}/.default")
        if status in (401, 403):
            raise Unanswered(
                f"the vault lets you list nothing (HTTP {status})",
                "Ask for the role Key Vault Reader on it, and run this from where its network is "
                "open: without values, it shows names and dates.",
            )
        page = _decode(status, body, _SecretList, "Key Vault")
        held |= {urlsplit(one.id).path.split("/")[-1]: one.attributes for one in page.value}
        url = page.next_link
        if not url:
            break
        if not url.startswith(f"{vault}/"):
            raise Unanswered("the vault's next page leads elsewhere")
    return held


def _judge_secret(setting: str, name: str, held: _Attributes | None, now: datetime) -> Row:
    what = f"secret {name}"
    if held is None:
        fix = f"Put it there with infra/set-secrets.sh: it is {setting}."
        return missing(what, "not in Key Vault", fix)
    if not held.enabled:
        return missing(what, "switched off in Key Vault", "Enable it, or set a new version.")
    if held.nbf and (begins := _moment(held.nbf)) > now:
        return missing(what, f"not valid before {begins:%Y-%m-%d}", "Move its activation date.")
    if held.exp is None:
        return ok(what, "in Key Vault, without an end")
    ends = _moment(held.exp)
    if ends <= now:
        return missing(what, f"expired on {ends:%Y-%m-%d}", "Set a new version of it.")
    if ends - now <= NEAR_EXPIRY:
        return warning(what, f"expires on {ends:%Y-%m-%d}", "Set a new version of it before.")
    return ok(what, f"in Key Vault, until {ends:%Y-%m-%d}")


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# Microsoft Graph

_ANYHOW = ("AuditLog.Read.All", "User.Read.All")
_FOR_GROUPS = "GroupMember.Read.All"
_FOR_METHODS = "UserAuthenticationMethod.Read.All"
_GRAPH_APP = "00000003-0000-0000-c000-000000000000"
_WHY: Mapping[str, str] = {
    "AuditLog.Read.All": "the registration report",
    "User.Read.All": "accounts and their contact fields",
    _FOR_GROUPS: "groups that campaigns name",
    _FOR_METHODS: "completions, with GRAPH_CONFIRM=methods",
}


class _Role(msgspec.Struct):
    id: str
    value: str | None = None


class _Principal(msgspec.Struct, rename="camel"):
    id: str
    app_roles: list[_Role] = []


class _Assignment(msgspec.Struct, rename="camel"):
    app_role_id: str
    resource_id: str
    resource_display_name: str | None = None


class _AssignmentList(msgspec.Struct):
    value: list[_Assignment]


async def examine_permissions(
    subject: Subject, web: Web, campaigns: tuple[Campaign, ...]
) -> list[Row]:
    """The application permissions that the identity has, against those that its work needs."""
    needed = _needed(subject, campaigns)
    what = "Graph permissions"
    grant = "infra/grant-graph-permissions.sh"
    if subject.kind == "plan":
        return [
            unchecked(
                what,
                "the identity comes with the deployment",
                f"After it, have {grant} run: it gives {', '.join(needed)}. This takes a "
                "Privileged Role Administrator.",
            )
        ]
    if not subject.identity or subject.settings is None:
        return [
            unchecked(
                what,
                "which identity the app has is not known here",
                "Set IDENTITY_PRINCIPAL_ID, as `azd env get-values` has it.",
            )
        ]
    base = subject.settings.graph_base_url
    held = await _list_permissions(base, subject.identity, web)
    rows = [
        ok(f"Graph permission {name}", f"granted, for {_WHY[name]}")
        if name in held
        else missing(
            f"Graph permission {name}",
            f"not granted; it is for {_WHY[name]}",
            f"Run {grant}, as a Privileged Role Administrator.",
        )
        for name in needed
    ]
    # Without a campaign nobody can say whether groups will be read.
    surplus = sorted(held - set(needed) - (set() if campaigns else {_FOR_GROUPS, _FOR_METHODS}))
    if surplus:
        rows.append(
            warning(
                "Graph permissions beyond these",
                f"granted, and needed by nothing: {', '.join(surplus)}",
                f"Take them away ({grant} tells how): whoever gets hold of the identity has them, "
                "too.",
            )
        )
    return rows


def _needed(subject: Subject, campaigns: tuple[Campaign, ...]) -> list[str]:
    needed: list[str] = [*_ANYHOW]
    if any(one.audience.group or one.audience.exclude for one in campaigns):
        needed.append(_FOR_GROUPS)
    confirm = subject.settings.graph_confirm if subject.settings else "methods"
    # Methods cannot tell what policy lets a person use (services/directory: choose_source).
    asked = not campaigns or any(one.done_when == "registered" for one in campaigns)
    if confirm == "methods" and asked:
        needed.append(_FOR_METHODS)
    return needed


async def _list_permissions(base: str, identity: str, web: Web) -> set[str]:
    """Names of the roles that an identity was given; those of other services by service, too."""
    root = urlsplit(base)
    scope = f"{root.scheme}://{root.netloc}/.default"
    path = f"{base}/servicePrincipals{identity}/appRoleAssignments?$top=999"
    status, body = await web.get(path, scope=scope)
    if status == 404:
        raise Unanswered(
            "Graph knows no such identity in this tenant (HTTP 404)",
            "Sign in to the app's own tenant, and give IDENTITY_PRINCIPAL_ID of its deployment.",
        )
    given = _decode_graph(status, body, _AssignmentList).value
    names = f"{base}/servicePrincipals(appId='{_GRAPH_APP}')?$select=id,appRoles"
    graph = _decode_graph(*await web.get(names, scope=scope), _Principal)
    known = {role.id: role.value or role.id for role in graph.app_roles}
    return {
        known.get(one.app_role_id, one.app_role_id)
        if one.resource_id == graph.id
        else f"{one.app_role_id} of {one.resource_display_name or 'another service'}"
        for one in given
    }


def _decode_graph[Found](status: int, body: bytes, into: type[Found]) -> Found:
    if status in (401, 403):
        raise Unanswered(
            f"Graph does not let you read this (HTTP {status})",
            "Ask for the directory role Directory Readers, or have someone run this who has it.",
        )
    return _decode(status, body, into, "Graph")


def _decode[Found](status: int, body: bytes, into: type[Found], whose: str) -> Found:
    if status != 200:
        raise Unanswered(f"{whose} answered HTTP {status}", "Try it again later.")
    try:
        return msgspec.json.decode(body, type=into)
    except msgspec.DecodeError:
        raise Unanswered(f"what answered is not {whose}", TRY_FROM_ELSEWHERE) from None


# roles in Azure

_APP_ROLES = {
    "Storage Blob Data Owner": "the storage account",
    "Storage Queue Data Contributor": "the storage account",
    "Storage Table Data Contributor": "the storage account",
    "Key Vault Secrets User": "the Key Vault",
    "Monitoring Metrics Publisher": "Application Insights",
}
"""Of the app's identity, and on what (infra/modules/roles.bicep)."""

_MAKES = "Contributor"
_ASSIGNS = "User Access Administrator"
"""Assigns roles and puts locks; Role Based Access Control Administrator does the first alone."""
_KNOWN_TO_DO_NEITHER = frozenset({"Reader", "Role Based Access Control Administrator"})


async def examine_roles(subject: Subject) -> list[Row]:
    """The roles of the app's identity: without those of storage, it answers the app 403."""
    what = "roles of the identity"
    identity = subject.outputs.get("IDENTITY_PRINCIPAL_ID", "")
    if not identity and subject.settings:
        identity = subject.settings.storage_client_id
    if not identity:
        return [
            unchecked(
                what,
                "which identity the app has is not known here",
                "Set IDENTITY_PRINCIPAL_ID, as `azd env get-values` has it.",
            )
        ]
    given = await _list_assignments("--assignee", identity, "--all")
    lacks = [f"{role} on {where}" for role, where in _APP_ROLES.items() if role not in given]
    if lacks:
        return [
            missing(
                what,
                f"it lacks {', '.join(lacks)}",
                "Deploy the infrastructure again: it assigns them. They work after ten minutes.",
            )
        ]
    if more := sorted(given.keys() - _APP_ROLES.keys()):
        return [
            warning(
                what,
                f"it has more than it needs: {', '.join(more)}",
                "Remove these assignments: whoever gets hold of the identity has them, too.",
            )
        ]
    wide = sorted(
        role for role in _APP_ROLES if any("/providers/" not in scope for scope in given[role])
    )
    if wide:
        return [
            warning(
                what,
                f"on more than one resource: {', '.join(wide)}",
                "Remove the assignments on the resource group or the subscription.",
            )
        ]
    return [ok(what, f"all {len(_APP_ROLES)}, each on its resource alone")]


async def examine_deployer() -> list[Row]:
    """Of a plan: whether whoever is signed in may make resources, and assign roles on them."""
    what = "your right to deploy"
    account: Any = await ask_az("account", "show")
    try:
        subscription, user = str(account["id"]), str(account["user"]["name"])
    except (KeyError, TypeError):
        raise Unanswered("`az account show` names nobody", SIGN_IN) from None
    scope = f"/subscriptions/{subscription}"
    given = await _list_assignments(
        *("--assignee", user, "--include-groups", "--include-inherited", "--scope", scope)
    )
    if "Owner" in given or {_MAKES, _ASSIGNS} <= given.keys():
        return [ok(what, "you may make resources in this subscription, assign roles and put locks")]
    told = ", ".join(sorted(given)) or "none"
    if given.keys() - {_MAKES, _ASSIGNS, *_KNOWN_TO_DO_NEITHER}:
        return [
            unchecked(
                what,
                f"whether your roles there ({told}) let you assign roles cannot be told from here",
                f"If the deployment says AuthorizationFailed, ask for {_MAKES} and {_ASSIGNS}.",
            )
        ]
    return [
        missing(
            what,
            f"your roles in this subscription ({told}) do not let you make resources, assign roles "
            "and put locks",
            f"Ask for Owner, or for {_MAKES} and {_ASSIGNS}; or have somebody deploy who has them.",
        )
    ]


async def _list_assignments(*words: str) -> dict[str, list[str]]:
    """Scopes by name of the role."""
    found: Any = await ask_az("role", "assignment", "list", *words)
    given: dict[str, list[str]] = {}
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict) and one.get("roleDefinitionName"):
            given.setdefault(one["roleDefinitionName"], []).append(str(one.get("scope", "")))
    return given


# Azure Monitor, and what the platform offers


_RECEIVERS = (
    *("emailReceivers", "smsReceivers", "voiceReceivers", "azureAppPushReceivers"),
    *("armRoleReceivers", "webhookReceivers", "logicAppReceivers", "azureFunctionReceivers"),
    *("automationRunbookReceivers", "eventHubReceivers", "itsmReceivers"),
)


async def examine_receivers(subject: Subject) -> list[Row]:
    """Whether the action group of a deployed app tells anybody."""
    what = "receivers of alarms"
    group = subject.outputs.get("AZURE_RESOURCE_GROUP", "")
    if not group:
        return [
            unchecked(
                what,
                "which resource group is meant is not known here",
                "Set AZURE_RESOURCE_GROUP, as `azd env get-values` has it.",
            )
        ]
    found: Any = await ask_az("monitor", "action-group", "list", "--resource-group", group)
    groups = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    receivers = [
        receiver
        for one in groups
        if one.get("enabled", True)
        for kind in _RECEIVERS
        for receiver in one.get(kind) or ()
        if receiver.get("status") != "Disabled"  # who has unsubscribed from it
    ]
    if receivers:
        return [ok(what, f"{count(len(receivers), 'receiver')} of the action group")]
    return [
        missing(
            what,
            "no action group that is enabled names anybody",
            "Set the parameter `alertEmails`, and deploy again.",
        )
    ]


async def examine_zones(subject: Subject) -> list[Row]:
    """Of a plan: whether the region can keep the app in several zones."""
    location = subject.parameters.get("location")
    if find(subject.parameters, "zoneRedundant") is not True or not isinstance(location, str):
        return []
    found: Any = await ask_az(
        *("functionapp", "list-flexconsumption-locations", "--zone-redundant", "true")
    )
    listed: Iterable[Any] = found if isinstance(found, list) else ()
    regions = {_plain(one["name"]) for one in listed if isinstance(one, dict) and one.get("name")}
    what = "zone redundancy"
    if _plain(location) in regions:
        return [ok(what, f"{location} has it")]
    return [
        missing(
            what,
            f"{location} does not offer it for Flex Consumption",
            "Set `zoneRedundant` to false, or deploy to one of: " + ", ".join(sorted(regions)),
        )
    ]


def _plain(region: object) -> str:
    return str(region).replace(" ", "").lower()
