"""What must hold of a deployment, looked for in a snapshot of it: each function gives the mistakes
that it finds, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Final

import msgspec

from shared.names import NAMES, poison_of

PARAMS: Final = Path(__file__).parent / "params"
SNAPSHOTS: Final = ("minimal", "private", "full")

type Resource = dict[str, Any]

# --- settings ------------------------------------------------------------------------------------

LOCAL_SETTINGS: Final = {"AzureWebJobsStorage", "CLOCK_FILE", "AGES_SCALE"}
"""Of the local system alone: a connection string, a pretended time, shorter ages."""

DEFAULT_SERVES: Final = {"GRAPH_BASE_URL", "GRAPH_AUTH", "SENDGRID_BASE_URL", "TWILIO_BASE_URL"}

SMS_SETTINGS: Final = {"TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM"}
SIGN_IN_SETTINGS: Final = {
    "OVERRIDE_USE_MI_FIC_ASSERTION_CLIENTID",  # App Service: the identity signs for the app
    "WEBSITE_AUTH_AAD_ALLOWED_TENANTS",  # App Service: whose sign-ins it takes
}

HOST_SETTINGS: Final = {
    "APPLICATIONINSIGHTS_CONNECTION_STRING",  # host and telemetry: where to
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",  # host: as whom
    "AzureWebJobsDisableHomepage",  # host: no page of Microsoft's at the root
    "PYTHON_ENABLE_OPENTELEMETRY",  # host and worker: the code exports by itself
    *SIGN_IN_SETTINGS,
}
"""Read by the Functions host or by App Service, not by the code; each with who reads it."""

SECRET_SETTINGS: Final = {
    *("SENDGRID_API_KEY", "LINK_KEYS", "ADDRESS_KEY", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN")
}

# Of azure-cli's list of what Flex Consumption does not take, and what its host would mistake.
_DENIED = re.compile(
    "FUNCTIONS_EXTENSION_VERSION|FUNCTIONS_WORKER_.*|FUNCTIONS_MAX_HTTP_CONCURRENCY|"
    "ENABLE_ORYX_BUILD|SCM_DO_BUILD_DURING_DEPLOYMENT|WEBSITE_RUN_FROM_PACKAGE|WEBSITE_CONTENT.*|"
    "WEBSITE_SKIP_CONTENTSHARE_VALIDATION|WEBSITE_VNET_ROUTE_ALL|WEBSITE_DNS_SERVER|"
    "WEBSITE_MAX_DYNAMIC_APPLICATION_SCALE_OUT|WEBSITE_MOUNT_ENABLED|AzureWebJobsDashboard|"
    "AzureWebJobsStorage|AzureWebJobsStorage__(accountName|managedIdentityResourceId)|"
    "WEBSITE_TIME_ZONE|TZ|WEBSITE_LOAD_CERTIFICATES|"
    # A second exporter, set up while functions are indexed, for every logger and without identity.
    "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY"
)

# --- roles ---------------------------------------------------------------------------------------

_STORAGE = "Microsoft.Storage/storageAccounts"
_BLOB_CONTAINER = f"{_STORAGE}/blobServices/containers"
QUEUE: Final = f"{_STORAGE}/queueServices/queues"
TABLE: Final = f"{_STORAGE}/tableServices/tables"
PACKAGE_CONTAINER: Final = "app-package"

APP_ROLES: Final = {
    ("Storage Blob Data Owner", _STORAGE): "the host makes containers for its locks and keys",
    ("Storage Queue Data Contributor", _STORAGE): "hands out, takes and releases messages",
    ("Storage Table Data Contributor", _STORAGE): "the ledger, and the host's diagnostic events",
    ("Key Vault Secrets User", "Microsoft.KeyVault/vaults"): "references in app settings",
    ("Monitoring Metrics Publisher", "Microsoft.Insights/components"): "telemetry without a key",
}
ADMINISTRATOR_ROLES: Final = {
    ("Storage Queue Data Contributor", _STORAGE): "`nudge plan --now` asks for plans",
    ("Storage Table Data Contributor", _STORAGE): "`nudge pause`, and all that status reads",
    ("Storage Blob Data Contributor", f"{_BLOB_CONTAINER}/config"): "campaign files",
    ("Storage Blob Data Contributor", f"{_BLOB_CONTAINER}/config-versions"): "a save is a version",
    ("Storage Blob Data Reader", f"{_BLOB_CONTAINER}/pages"): "`nudge person` judges by the sweep",
    ("Key Vault Secrets Officer", "Microsoft.KeyVault/vaults"): "puts and rotates secrets",
    ("Log Analytics Reader", "Microsoft.OperationalInsights/workspaces"): "logs and metrics",
    ("Reader", "the resource group"): "the workbook, alerts, what is deployed",
}
"""All that is assigned, by role and scope, with the reason. Nothing else may be."""

_ROLE_NAMES = {
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "b86a8fe4-44ce-4948-aee5-eccb2c155cd7": "Key Vault Secrets Officer",
    "73c42c96-874c-492b-b04d-ab87d138a893": "Log Analytics Reader",
    "acdd72a7-3385-48ef-bd42-f606fba81ae7": "Reader",
}

# --- enums ---------------------------------------------------------------------------------------

_FREQUENCIES = {"PT5M", "PT10M", "PT15M", "PT30M", "PT1H"}
_ENUMS: Final[Mapping[str, Mapping[str, Set[object]]]] = {
    "Microsoft.Web/sites": {
        "kind": {"functionapp,linux"},
        "identity.type": {"UserAssigned"},
        "properties.siteConfig.minTlsVersion": {"1.2", "1.3"},
        "properties.siteConfig.ftpsState": {"Disabled"},
        "properties.functionAppConfig.runtime.name": {"python"},
        "properties.functionAppConfig.runtime.version": {"3.13"},
        "properties.functionAppConfig.deployment.storage.type": {"blobContainer"},
        "properties.functionAppConfig.deployment.storage.authentication.type": {
            "UserAssignedIdentity"
        },
        "properties.functionAppConfig.scaleAndConcurrency.instanceMemoryMB": {512, 2048, 4096},
    },
    "Microsoft.Web/serverfarms": {"sku.tier": {"FlexConsumption"}, "sku.name": {"FC1"}},
    "Microsoft.Web/sites/hostNameBindings": {
        "properties.sslState": {"Disabled", "SniEnabled"},
        "properties.hostNameType": {"Verified"},
    },
    _STORAGE: {
        "kind": {"StorageV2"},
        "sku.name": {"Standard_LRS", "Standard_ZRS"},
        "properties.minimumTlsVersion": {"TLS1_2", "TLS1_3"},
        "properties.publicNetworkAccess": {"Enabled", "Disabled"},
        "properties.networkAcls.bypass": {"None"},
        "properties.networkAcls.defaultAction": {"Allow", "Deny"},
    },
    _BLOB_CONTAINER: {"properties.publicAccess": {"None"}},
    "Microsoft.KeyVault/vaults": {
        "properties.sku.family": {"A"},
        "properties.sku.name": {"standard"},
        "properties.publicNetworkAccess": {"Enabled", "Disabled"},
        "properties.networkAcls.defaultAction": {"Allow", "Deny"},
    },
    "Microsoft.OperationalInsights/workspaces": {"properties.sku.name": {"PerGB2018"}},
    "Microsoft.Authorization/locks": {"properties.level": {"CanNotDelete"}},
    "Microsoft.Authorization/roleAssignments": {
        "properties.principalType": {"ServicePrincipal", "Group"}
    },
    "Microsoft.Insights/scheduledQueryRules": {
        "kind": {"LogAlert"},
        "properties.severity": {0, 1, 2, 3, 4},
        "properties.evaluationFrequency": _FREQUENCIES,
        "properties.windowSize": _FREQUENCIES,
        "properties.criteria.allOf.*.timeAggregation": {"Count", "Maximum", "Total", "Average"},
        "properties.criteria.allOf.*.operator": {"GreaterThan", "LessThan"},
        "properties.criteria.allOf.*.dimensions.*.operator": {"Include", "Exclude"},
    },
    "Microsoft.Insights/workbooks": {"kind": {"shared"}, "properties.category": {"workbook"}},
    "Microsoft.Consumption/budgets": {
        "properties.category": {"Cost"},
        "properties.timeGrain": {"Monthly"},
        "properties.notifications.*.operator": {"GreaterThan"},
        "properties.notifications.*.thresholdType": {"Actual", "Forecasted"},
    },
}
"""Values that Azure knows and we mean. The compiler takes any other, too."""

_MUST_BE: Final[Mapping[str, Mapping[str, object]]] = {
    "Microsoft.Web/sites": {
        "properties.httpsOnly": True,
        "properties.siteScopedCertificatesEnabled": True,
    },
    _STORAGE: {
        "properties.allowSharedKeyAccess": False,
        "properties.allowBlobPublicAccess": False,
        "properties.allowCrossTenantReplication": False,
        "properties.supportsHttpsTrafficOnly": True,
    },
    f"{_STORAGE}/blobServices": {
        "properties.isVersioningEnabled": True,
        "properties.deleteRetentionPolicy.enabled": True,
        "properties.containerDeleteRetentionPolicy.enabled": True,
    },
    "Microsoft.KeyVault/vaults": {
        "properties.enableRbacAuthorization": True,
        "properties.enablePurgeProtection": True,
    },
    "Microsoft.Insights/components": {"properties.DisableLocalAuth": True},
    "Microsoft.OperationalInsights/workspaces": {"properties.features.disableLocalAuth": True},
}

_SECRETS = re.compile(
    r"AccountKey=|SharedAccess|InstrumentationKey|DefaultEndpointsProtocol|\blist(Keys|Secrets)\b|"
    r"listAccountSas|[?&]sig=|-----BEGIN|SG\.[\w-]{16,}|\bAC[0-9a-f]{32}\b",
    re.IGNORECASE,
)
_REFERENCE = re.compile(
    r"\[format\('@Microsoft\.KeyVault\(SecretUri=\{0\}secrets/\{1\}/\)', .*vaultUri, '[a-z-]+'\)\]"
)
_QUEUE_NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9])+")


class Snapshot(msgspec.Struct, frozen=True):
    """What `bicep snapshot` foresees."""

    resources: list[Resource] = msgspec.field(name="predictedResources")
    diagnostics: list[Any]
    outputs: dict[str, Any]

    def of_type(self, kind: str) -> list[Resource]:
        return [one for one in self.resources if one["type"] == kind]

    def names(self, kind: str) -> set[str]:
        """Last part of the name of each resource of a type."""
        return {one["name"].rpartition("/")[2] for one in self.of_type(kind)}

    @property
    def settings(self) -> dict[str, str]:
        """The app's settings."""
        (one,) = (each for each in self.resources if each["id"].endswith("/config/appsettings"))
        return one["properties"]


def read_snapshot(name: str) -> Snapshot:
    """The reviewed one of a parameter file."""
    path = PARAMS / f"main.{name}.snapshot.json"
    return msgspec.json.decode(path.read_bytes(), type=Snapshot)


def settings_mistakes(snapshot: Snapshot, read: Set[str], *, sms: bool) -> Iterator[str]:
    """Args:
    read: names of what the code reads.
    sms: whether text messages are asked for.
    """
    given = snapshot.settings.keys()
    optional = DEFAULT_SERVES | (set() if sms else SMS_SETTINGS)
    for name in sorted(read - given - LOCAL_SETTINGS - optional):
        yield f"{name} is read by the code, and not set"
    for name in sorted(given & LOCAL_SETTINGS):
        yield f"{name} is for the local system, and set"
    for name in sorted(given - read - HOST_SETTINGS):
        yield f"{name} is set, and nobody reads it"
    for name in sorted(given):
        if _DENIED.fullmatch(name):
            yield f"{name} must not be set on Flex Consumption"
        if not isinstance(snapshot.settings[name], str):
            yield f"{name} is no string"


def binding_mistakes(snapshot: Snapshot, bindings: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Settings that the host looks up for a binding: `%SETTING%`, and those of its connection.

    Args:
        bindings: the settings of each, under the host's names.
    """
    given = snapshot.settings
    for binding in bindings:
        for value in binding.values():
            for name in re.findall(r"%(\w+)%", str(value)):
                if name not in given:
                    yield f"%{name}% is in a binding, and not set"
        if connection := binding.get("connection"):
            for part in ("blobServiceUri", "queueServiceUri", "tableServiceUri", "clientId"):
                if not given.get(f"{connection}__{part}"):
                    yield f"{connection}__{part} is not set"
            if given.get(f"{connection}__credential") != "managedidentity":
                yield f"{connection} is not opened by the identity"
        if (queue := binding.get("queueName")) and queue not in snapshot.names(QUEUE):
            yield f"{queue} is listened to, and does not exist"


def name_mistakes(snapshot: Snapshot) -> Iterator[str]:
    """Queues, tables and containers: all that the code names, and the package's, and no other."""
    queues = _values(NAMES.queues)
    for kind, wanted in (
        (QUEUE, queues | set(map(poison_of, queues))),
        (TABLE, _values(NAMES.tables)),
        (_BLOB_CONTAINER, _values(NAMES.containers) | {PACKAGE_CONTAINER}),
    ):
        found = snapshot.names(kind)
        yield from (f"{name} is named by the code, and is no {kind}" for name in wanted - found)
        yield from (f"{name} is a {kind} that the code does not name" for name in found - wanted)


def _values(names: msgspec.Struct) -> set[str]:
    return set(msgspec.structs.astuple(names))


def secret_mistakes(snapshot: Snapshot) -> Iterator[str]:
    """Secrets, keys and connection strings, wherever they stand."""
    for resource in snapshot.resources:
        for found in _SECRETS.finditer(json.dumps(resource)):
            yield f"{resource['id']} has {found[0]}"
    for found in _SECRETS.finditer(json.dumps(snapshot.outputs)):
        yield f"an output has {found[0]}"
    for name in sorted(SECRET_SETTINGS & snapshot.settings.keys()):
        if not _REFERENCE.fullmatch(snapshot.settings[name]):
            yield f"{name} is no reference to the newest version of a secret"
    open_components = [
        one["name"]
        for one in snapshot.of_type("Microsoft.Insights/components")
        if one["properties"].get("DisableLocalAuth") is not True
    ]
    for name, value in snapshot.settings.items():
        if "ConnectionString" in value and (
            name != "APPLICATIONINSIGHTS_CONNECTION_STRING" or open_components
        ):
            yield f"{name} is a connection string that opens something"


def role_mistakes(snapshot: Snapshot, *, administrators: bool) -> Iterator[str]:
    """What is assigned beyond the list, and what of the list is not."""
    wanted = {("ServicePrincipal", *pair) for pair in APP_ROLES}
    if administrators:
        wanted |= {("Group", *pair) for pair in ADMINISTRATOR_ROLES}
    found = set(map(_assignment, snapshot.of_type("Microsoft.Authorization/roleAssignments")))
    for one in sorted(found - wanted):
        yield f"{' · '.join(one)}: not on the list"
    for one in sorted(wanted - found):
        yield f"{' · '.join(one)}: missing"


def _assignment(resource: Resource) -> tuple[str, str, str]:
    """Kind of principal, name of the role, and scope: a type, with the name for a container."""
    properties = resource["properties"]
    role = properties["roleDefinitionId"].rpartition("/")[2]
    scope, _, _ = resource["id"].partition("/providers/Microsoft.Authorization/roleAssignments/")
    if "/providers/" not in scope:
        return properties["principalType"], _ROLE_NAMES.get(role, role), "the resource group"
    _, _, scope = scope.rpartition("/providers/")
    provider, *rest = scope.split("/")
    kind = "/".join([provider, *rest[::2]])
    name = f"/{rest[-1]}" if kind == _BLOB_CONTAINER else ""
    return properties["principalType"], _ROLE_NAMES.get(role, role), kind + name


def value_mistakes(snapshot: Snapshot) -> Iterator[str]:
    """Values that Azure does not know, or that we never mean."""
    for resource in snapshot.resources:
        for path, allowed in _ENUMS.get(resource["type"], {}).items():
            for value in _at(resource, path.split(".")):
                if value not in allowed:
                    yield f"{resource['name']}: {path} is {value!r}"
        for path, must_be in _MUST_BE.get(resource["type"], {}).items():
            found = list(_at(resource, path.split(".")))
            if found != [must_be]:
                yield f"{resource['name']}: {path} is {found}, not {must_be!r}"
    for kind in (QUEUE, _BLOB_CONTAINER):
        for name in snapshot.names(kind):
            if not _QUEUE_NAME.fullmatch(name) or not 3 <= len(name) <= 63:
                yield f"{name!r} is no name of a queue or container"
    for kind in (*_ENUMS, *_MUST_BE):
        if kind not in _OPTIONAL and not snapshot.of_type(kind):
            yield f"there is no {kind}"


_OPTIONAL = {"Microsoft.Web/sites/hostNameBindings", "Microsoft.Consumption/budgets"}


def _at(value: Any, path: list[str]) -> Iterator[object]:
    """The values at a path; `*` is every item. What is left out gives none."""
    if not path:
        yield value
        return
    step, *rest = path
    if step == "*":
        for item in value.values() if isinstance(value, dict) else value or ():
            yield from _at(item, rest)
    elif isinstance(value, dict) and step in value:
        yield from _at(value[step], rest)


def rule_mistakes(snapshot: Snapshot) -> Iterator[str]:
    """What Azure Monitor refuses of an alert rule, or what would keep it from being heard."""
    groups = snapshot.of_type("Microsoft.Insights/actionGroups")
    for group in groups:
        if not group["properties"]["emailReceivers"] or not group["properties"]["enabled"]:
            yield f"{group['name']} tells nobody"
    (workspace,) = snapshot.of_type("Microsoft.OperationalInsights/workspaces")
    for rule in snapshot.of_type("Microsoft.Insights/scheduledQueryRules"):
        name, properties = rule["name"], rule["properties"]
        if properties["actions"]["actionGroups"] != [group["id"] for group in groups]:
            yield f"{name} tells nobody"
        if properties["scopes"] != [workspace["id"]]:
            yield f"{name} does not look at the workspace"
        if properties.get("skipQueryValidation") is not True:
            yield f"{name} cannot be deployed over a new workspace"
        if not properties["enabled"]:
            yield f"{name} is off"
        every, window = properties["evaluationFrequency"], properties["windowSize"]
        if _minutes(every) < 5 or _minutes(window) < _minutes(every):
            yield f"{name} looks every {every} at {window}"
        muted = properties.get("muteActionsDuration")
        if bool(muted) == bool(properties["autoMitigate"]):
            yield f"{name}: either it ends by itself, or it is muted for a while"
        if muted and not _minutes(every) <= _minutes(muted) <= _minutes(window):
            yield f"{name} is muted for {muted}: what is raised meanwhile is never told"


def _minutes(period: str) -> int:
    found = re.fullmatch(r"PT(\d+)([MH])", period)
    assert found, period
    return int(found[1]) * (60 if found[2] == "H" else 1)


def network_mistakes(snapshot: Snapshot) -> Iterator[str]:
    """Ways around a private network."""
    for kind in (_STORAGE, "Microsoft.KeyVault/vaults"):
        for one in snapshot.of_type(kind):
            properties = one["properties"]
            if properties["publicNetworkAccess"] != "Disabled":
                yield f"{one['name']} is reached from everywhere"
            if properties["networkAcls"]["defaultAction"] != "Deny":
                yield f"{one['name']} lets everybody in"
    endpoints = snapshot.of_type("Microsoft.Network/privateEndpoints")
    reached = {
        group
        for one in endpoints
        for connection in one["properties"]["privateLinkServiceConnections"]
        for group in connection["properties"]["groupIds"]
    }
    if missing := {"blob", "queue", "table", "vault"} - reached:
        yield f"no private endpoint for {', '.join(sorted(missing))}"
    for kind in ("privateEndpoints/privateDnsZoneGroups", "privateDnsZones"):
        if len(snapshot.of_type(f"Microsoft.Network/{kind}")) != len(endpoints):
            yield f"not every private endpoint has its {kind}"
    linked = snapshot.of_type("Microsoft.Network/privateDnsZones/virtualNetworkLinks")
    if len(linked) != len(endpoints):
        yield "not every zone is linked to the network"
    (app,) = snapshot.of_type("Microsoft.Web/sites")
    if not app["properties"].get("virtualNetworkSubnetId"):
        yield "the app is not in the network"
    if app["properties"].get("outboundVnetRouting") != {"allTraffic": True}:
        yield "the app's traffic leaves beside the network"
    (network,) = snapshot.of_type("Microsoft.Network/virtualNetworks")
    delegated = [
        subnet["name"]
        for subnet in network["properties"]["subnets"]
        for delegation in subnet["properties"].get("delegations", [])
        if delegation["properties"]["serviceName"] == "Microsoft.App/environments"
    ]
    if delegated != ["app"]:
        yield f"delegated to Flex Consumption are {delegated}"
