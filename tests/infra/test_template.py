"""The deployment as foreseen fits the code: settings, names, roles, values, secrets.

Read from the reviewed snapshots, so that it runs where no compiler is; tests/infra/test_compiler.py
proves that they are fresh. Each look is shown a planted mistake, and finds it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from local.worker import LoadedApp, load_app
from shared.names import NAMES
from shared.settings import SettingsProblem, read_settings
from tests.infra.template import (
    ADMINISTRATOR_ROLES,
    APP_ROLES,
    DEFAULT_SERVES,
    LOCAL_SETTINGS,
    PACKAGE_CONTAINER,
    QUEUE,
    SNAPSHOTS,
    TABLE,
    Resource,
    Snapshot,
    binding_mistakes,
    name_mistakes,
    network_mistakes,
    read_snapshot,
    role_mistakes,
    rule_mistakes,
    secret_mistakes,
    settings_mistakes,
    value_mistakes,
)

ROOT = Path(__file__).resolve().parents[2]

every_snapshot = pytest.mark.parametrize("name", SNAPSHOTS)


class _Noting(Mapping[str, str]):
    """An environment without anything, which remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def read_by_the_code() -> set[str]:
    """Every setting that shared/settings.py asks for."""
    environment = _Noting()
    with pytest.raises(SettingsProblem):
        read_settings(environment)
    return environment.asked


@pytest.fixture
async def app() -> LoadedApp:
    return await load_app(ROOT)


# --- settings ------------------------------------------------------------------------------------


def test_the_lists_of_settings_name_only_what_the_code_reads() -> None:
    assert read_by_the_code() >= LOCAL_SETTINGS | DEFAULT_SERVES


@every_snapshot
def test_every_setting_that_the_code_reads_is_set_and_no_other(name: str) -> None:
    found = settings_mistakes(read_snapshot(name), read_by_the_code(), sms=name == "full")
    assert list(found) == []


def bindings_of(app: LoadedApp) -> list[dict[str, Any]]:
    return [dict(one.settings) for function in app.functions.values() for one in function.bindings]


@every_snapshot
async def test_what_the_host_looks_up_for_a_binding_is_set(name: str, app: LoadedApp) -> None:
    bindings = bindings_of(app)
    assert {"schedule": "%SWEEP_SCHEDULE%"}.items() <= bindings[0].items()
    assert list(binding_mistakes(read_snapshot(name), bindings)) == []


def test_links_lead_to_the_own_domain_only_once_it_has_a_certificate() -> None:
    assert read_snapshot("full").settings["PUBLIC_BASE_URL"] == "https://mfa.example.edu"
    assert read_snapshot("minimal").settings["PUBLIC_BASE_URL"].endswith(".azurewebsites.net")


# --- names ---------------------------------------------------------------------------------------


@every_snapshot
def test_every_queue_table_and_container_of_the_code_exists(name: str) -> None:
    assert list(name_mistakes(read_snapshot(name))) == []


@every_snapshot
def test_the_package_is_taken_from_its_own_container(name: str) -> None:
    (app,) = read_snapshot(name).of_type("Microsoft.Web/sites")
    storage = app["properties"]["functionAppConfig"]["deployment"]["storage"]
    assert storage["value"].endswith(f"'{PACKAGE_CONTAINER}')]")
    (identity,) = app["identity"]["userAssignedIdentities"]
    assert storage["authentication"]["userAssignedIdentityResourceId"] == identity
    assert app["properties"]["keyVaultReferenceIdentity"] == identity


@every_snapshot
def test_what_is_personal_ends_and_what_is_not_stays(name: str) -> None:
    (policy,) = read_snapshot(name).of_type("Microsoft.Storage/storageAccounts/managementPolicies")
    rules = {one["name"]: one["definition"] for one in policy["properties"]["policy"]["rules"]}
    personal, other = rules["personal-data"], rules["old-versions"]
    assert personal["filters"]["prefixMatch"] == [
        f"{NAMES.containers.pages}/",
        f"{NAMES.containers.outbox}/",
    ]
    assert personal["actions"].keys() == {"baseBlob", "version"}
    assert f"{NAMES.containers.config}/" in other["filters"]["prefixMatch"]
    assert other["actions"].keys() == {"version"}


# --- the rest ------------------------------------------------------------------------------------


@every_snapshot
def test_there_is_no_secret(name: str) -> None:
    assert list(secret_mistakes(read_snapshot(name))) == []


@every_snapshot
def test_every_role_is_on_the_list(name: str) -> None:
    found = role_mistakes(read_snapshot(name), administrators=name == "full")
    assert list(found) == []


def test_every_role_stands_in_the_page_of_permissions_with_its_reason() -> None:
    page = (ROOT / "docs" / "permissions.md").read_text()
    reasons = [*APP_ROLES.items(), *ADMINISTRATOR_ROLES.items()]
    assert [one for (one, _), reason in reasons if f"| {one} |" not in page] == []
    assert [reason for _, reason in reasons if f" {reason} |" not in page] == []


@every_snapshot
def test_every_value_is_one_that_azure_knows(name: str) -> None:
    assert list(value_mistakes(read_snapshot(name))) == []


@every_snapshot
def test_every_alert_rule_can_be_deployed_and_tells_somebody(name: str) -> None:
    assert list(rule_mistakes(read_snapshot(name))) == []


@pytest.mark.parametrize("name", ["private", "full"])
def test_a_private_network_has_no_way_around(name: str) -> None:
    assert list(network_mistakes(read_snapshot(name))) == []


@every_snapshot
def test_a_snapshot_has_neither_diagnostics_nor_two_of_one_resource(name: str) -> None:
    snapshot = read_snapshot(name)
    assert snapshot.diagnostics == []
    ids = [one["id"] for one in snapshot.resources]
    assert len(ids) == len(set(ids))


def test_outputs_are_what_the_operator_needs_next() -> None:
    assert read_snapshot("minimal").outputs.keys() == {
        *("AZURE_RESOURCE_GROUP", "FUNCTION_APP_NAME", "FUNCTION_APP_URL"),
        *("STORAGE_ACCOUNT_NAME", "KEY_VAULT_NAME", "LOG_ANALYTICS_WORKSPACE_NAME"),
        *("IDENTITY_PRINCIPAL_ID", "IDENTITY_CLIENT_ID", "CUSTOM_DOMAIN_VERIFICATION_ID"),
    }


# --- planted mistakes ----------------------------------------------------------------------------

type Change = Callable[[Snapshot], object]


def planted(change: Change) -> Snapshot:
    snapshot = copy.deepcopy(read_snapshot("full"))
    change(snapshot)
    return snapshot


def _one(snapshot: Snapshot, kind: str) -> Resource:
    return snapshot.of_type(kind)[0]


def _set(kind: str, path: str, value: Any) -> Change:
    def change(snapshot: Snapshot) -> None:
        *steps, last = path.split(".")
        place: Any = _one(snapshot, kind)
        for step in steps:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value

    return change


def _setting(name: str, value: str | None) -> Change:
    def change(snapshot: Snapshot) -> None:
        if value is None:
            del snapshot.settings[name]
        else:
            snapshot.settings[name] = value

    return change


def _drop(kind: str) -> Change:
    return lambda snapshot: snapshot.resources.remove(_one(snapshot, kind))


SITE = "Microsoft.Web/sites"
STORAGE = "Microsoft.Storage/storageAccounts"
RULE = "Microsoft.Insights/scheduledQueryRules"
ROLE = "Microsoft.Authorization/roleAssignments"
COMPONENT = "Microsoft.Insights/components"
SCALE = "properties.functionAppConfig.scaleAndConcurrency"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_setting("ADDRESS_KEY", None), "ADDRESS_KEY is read by the code, and not set"),
        (_setting("TWILIO_FROM", None), "TWILIO_FROM is read by the code, and not set"),
        (_setting("CLOCK_FILE", "clock.json"), "CLOCK_FILE is for the local system"),
        (_setting("AzureWebJobsStorage", ""), "AzureWebJobsStorage must not be set"),
        (_setting("SWEEP_SCHEDUEL", "0 0 20 * * *"), "SWEEP_SCHEDUEL is set, and nobody reads it"),
        (_setting("FUNCTIONS_WORKER_RUNTIME", "python"), "must not be set on Flex"),
        (_setting("WEBSITE_TIME_ZONE", "Asia/Hong_Kong"), "must not be set on Flex"),
    ],
)
def test_a_planted_mistake_of_the_settings_is_found(change: Change, words: str) -> None:
    found = settings_mistakes(planted(change), read_by_the_code(), sms=True)
    assert any(words in one for one in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_setting("SWEEP_SCHEDULE", None), "%SWEEP_SCHEDULE% is in a binding, and not set"),
        (_setting("AzureWebJobsStorage__queueServiceUri", None), "queueServiceUri is not set"),
        (_setting("AzureWebJobsStorage__credential", "none"), "is not opened by the identity"),
        (_set(QUEUE, "name", "x/default/elsewhere"), "is listened to, and does not exist"),
    ],
)
async def test_a_planted_mistake_of_a_binding_is_found(
    change: Change, words: str, app: LoadedApp
) -> None:
    assert any(words in one for one in binding_mistakes(planted(change), bindings_of(app)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop(QUEUE), "is named by the code, and is no"),
        (_drop(TABLE), "is named by the code, and is no"),
        (_drop(f"{STORAGE}/blobServices/containers"), "is named by the code, and is no"),
        (_set(TABLE, "name", "x/default/ledgers"), "ledgers is a"),
    ],
)
def test_a_planted_mistake_of_a_name_is_found(change: Change, words: str) -> None:
    assert any(words in one for one in name_mistakes(planted(change)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_setting("SENDGRID_API_KEY", "SG." + 22 * "x"), "has SG."),
        (_setting("LINK_KEYS", "verysecret"), "LINK_KEYS is no reference"),
        (
            _setting("ADDRESS_KEY", "@Microsoft.KeyVault(SecretUri=https://x/secrets/y/1)"),
            "ADDRESS_KEY is no reference to the newest",
        ),
        (_setting("TWILIO_FROM", "[listKeys('x', '2026-06-01').keys[0].value]"), "has listKeys"),
        (_set(COMPONENT, "properties.DisableLocalAuth", False), "opens something"),
        (_setting("SWEEP_SCHEDULE", "[reference('x').ConnectionString]"), "opens something"),
        (lambda one: one.outputs.update(KEY="AccountKey=abc"), "an output has AccountKey="),
    ],
)
def test_a_planted_secret_is_found(change: Change, words: str) -> None:
    assert any(words in one for one in secret_mistakes(planted(change)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set(ROLE, "properties.roleDefinitionId", "x/contributor"), "contributor"),
        (
            _set(
                ROLE, "id", "/subscriptions/x/providers/Microsoft.Authorization/roleAssignments/y"
            ),
            "not on the list",
        ),
        (_set(ROLE, "properties.principalType", "User"), "User"),
        (_drop(ROLE), "missing"),
    ],
)
def test_a_planted_role_is_found(change: Change, words: str) -> None:
    assert any(words in one for one in role_mistakes(planted(change), administrators=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set(SITE, f"{SCALE}.instanceMemoryMB", 1024), "instanceMemoryMB is 1024"),
        (_set(SITE, "properties.functionAppConfig.runtime.name", "Python"), "runtime.name"),
        (_set(SITE, "properties.httpsOnly", False), "httpsOnly"),
        (_set(STORAGE, "properties.allowSharedKeyAccess", True), "allowSharedKeyAccess"),
        (_set(STORAGE, "properties.minimumTlsVersion", "TLS1_0"), "TLS1_0"),
        (_set(f"{STORAGE}/blobServices", "properties.isVersioningEnabled", False), "Versioning"),
        (_set(QUEUE, "name", "x/default/Bad_Queue"), "'Bad_Queue'"),
        (_set(RULE, "properties.evaluationFrequency", "PT7M"), "PT7M"),
        (_set(RULE, "properties.severity", 9), "severity is 9"),
        (_set(RULE, "properties.criteria.allOf.0.operator", "Less"), "'Less'"),
        (_set("Microsoft.Consumption/budgets", "properties.category", "Costs"), "'Costs'"),
        (_set("Microsoft.KeyVault/vaults", "properties.enablePurgeProtection", None), "Purge"),
        (_drop("Microsoft.Authorization/locks"), "there is no Microsoft.Authorization/locks"),
    ],
)
def test_a_planted_value_is_found(change: Change, words: str) -> None:
    assert any(words in one for one in value_mistakes(planted(change)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set(RULE, "properties.actions.actionGroups", []), "tells nobody"),
        (_set("Microsoft.Insights/actionGroups", "properties.emailReceivers", []), "tells nobody"),
        (_set(RULE, "properties.scopes", ["x"]), "does not look at the workspace"),
        (_set(RULE, "properties.skipQueryValidation", False), "new workspace"),
        (_set(RULE, "properties.muteActionsDuration", "PT1H"), "either it ends by itself"),
        (_set(RULE, "properties.windowSize", "PT1M"), "at PT1M"),
        (_set(RULE, "properties.enabled", False), "is off"),
    ],
)
def test_a_planted_rule_is_found(change: Change, words: str) -> None:
    assert any(words in one for one in rule_mistakes(planted(change)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set(STORAGE, "properties.publicNetworkAccess", "Enabled"), "from everywhere"),
        (_drop("Microsoft.Network/privateEndpoints"), "no private endpoint for blob"),
        (_set(SITE, "properties.outboundVnetRouting", None), "beside the network"),
        (
            _drop("Microsoft.Network/privateDnsZones/virtualNetworkLinks"),
            "not every zone is linked",
        ),
        (
            _set(
                "Microsoft.Network/virtualNetworks",
                "properties.subnets.0.properties.delegations",
                [],
            ),
            "delegated to Flex Consumption are []",
        ),
    ],
)
def test_a_planted_way_around_the_network_is_found(change: Change, words: str) -> None:
    assert any(words in one for one in network_mistakes(planted(change)))
