"""Alert rules and the workbook: their queries parse, and ask for what a local run has told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec
import pytest

from shared.names import NAMES
from tests.conftest import missing_tool
from tests.infra.template import SNAPSHOTS, Snapshot, read_snapshot
from tests.infra.tools import INSTALL, kql_mistakes, tools_installed
from tests.telemetry_run import emitted_by_a_local_run

ROOT = Path(__file__).resolve().parents[2]
RULE = "Microsoft.Insights/scheduledQueryRules"

# Of the tables that Application Insights fills in a workspace ("AppMetrics" and "AppTraces" of the
# Azure Monitor Logs reference): the columns that the queries may use.
_COMMON = {"TimeGenerated": "datetime", "Properties": "dynamic", "AppRoleName": "string"}
TABLES: Mapping[str, Mapping[str, str]] = {
    "AppMetrics": {
        **_COMMON,
        "Name": "string",
        "Sum": "real",
        "Min": "real",
        "Max": "real",
        "ItemCount": "int",
    },
    "AppTraces": {**_COMMON, "Message": "string", "SeverityLevel": "int", "ItemCount": "int"},
}


@cache
def rules(name: str = "minimal") -> Mapping[str, str]:
    """The query of each alert rule."""
    return {
        rule["name"]: rule["properties"]["criteria"]["allOf"][0]["query"]
        for rule in read_snapshot(name).of_type(RULE)
    }


@cache
def workbook() -> Mapping[str, str]:
    """The queries of the workbook, with its parameters filled in."""
    (one,) = read_snapshot("minimal").of_type("Microsoft.Insights/workbooks")
    queries: dict[str, str] = {}

    def collect(value: object, name: str) -> None:
        if isinstance(value, list):
            for item in value:
                collect(item, name)
        elif isinstance(value, dict):
            name = str(value.get("name") or name)
            for key, inner in value.items():
                if key == "query":
                    queries[f"workbook {name}"] = inner.replace("{Campaign}", "alumni")
                else:
                    collect(inner, name)

    collect(msgspec.json.decode(one["properties"]["serializedData"]), "")
    return queries


QUERIES = {**rules(), **workbook()}


def metrics_in(query: str) -> set[str]:
    return set(re.findall(r'"(nudge\.[\w.]+)"', query))


def attributes_in(query: str) -> set[str]:
    return set(re.findall(r"Properties\.(\w+)", query))


def untold(queries: Mapping[str, str], told: Mapping[str, set[str]]) -> list[str]:
    """Metrics and attributes that queries ask for, and that nobody has told."""
    missing: list[str] = []
    for name, query in queries.items():
        metrics = metrics_in(query)
        missing += [f"{name}: {metric}" for metric in sorted(metrics - told.keys())]
        known: set[str] = set().union(*(told.get(metric, set()) for metric in metrics))
        if metrics:
            missing += [f"{name}: {each}" for each in sorted(attributes_in(query) - known)]
    return missing


async def test_every_query_asks_for_what_a_local_run_has_told(tmp_path: Path) -> None:
    emitted = await emitted_by_a_local_run(tmp_path)
    told = {name: set(keys) for name, keys in emitted.metrics.items()}
    assert untold(QUERIES, told) == []
    assert untold({"planted": '"nudge.heartbeta"'}, told) == ["planted: nudge.heartbeta"]
    planted = f'"{NAMES.metrics.runs}" Properties.funktion'
    assert untold({"planted": planted}, told) == ["planted: funktion"]


def test_every_query_asks_for_a_metric_or_for_alarms() -> None:
    for name, query in QUERIES.items():
        assert metrics_in(query) or '"ALARM "' in query, name


def test_every_query_parses_and_names_columns_that_there_are() -> None:
    if not tools_installed():
        missing_tool(f"Kusto's parser is missing: {INSTALL}")
    assert kql_mistakes(QUERIES, TABLES) == []
    planted = {
        "syntax": "AppMetrics\n| where Name = = 'x'",
        "column": "AppMetrics\n| where Nmae == 'x'",
        "table": "AppMetric\n| take 1",
        "function": "AppMetrics\n| summarize summ(Sum)",
    }
    told = kql_mistakes(planted, TABLES)
    assert {mistake.partition(":")[0] for mistake in told} == planted.keys()


def test_every_alarm_is_in_exactly_one_rule() -> None:
    found = sorted(
        alarm
        for query in rules().values()
        for listed in re.findall(r"Properties\.alarm\) in \((.*?)\)", query)
        for alarm in re.findall(r'"(\w+)"', listed)
    )
    assert found == sorted(NAMES.alarms)


def test_the_heartbeat_is_counted_and_not_summed() -> None:
    """Where there is no row there is nothing to sum, and nothing to split."""
    (rule,) = (
        one for one in read_snapshot("minimal").of_type(RULE) if one["name"] == "heartbeat-missing"
    )
    (condition,) = rule["properties"]["criteria"]["allOf"]
    assert (condition["timeAggregation"], condition["operator"], condition["threshold"]) == (
        "Count",
        "LessThan",
        1,
    )
    assert "dimensions" not in condition
    assert "summarize" not in condition["query"]


def sections() -> set[str]:
    """The anchors of the runbook's headings, as GitHub makes them."""
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    return {heading.lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_every_alert_links_to_its_section_of_the_runbook(name: str) -> None:
    for rule in read_snapshot(name).of_type(RULE):
        address, _, anchor = rule["properties"]["description"].rpartition("#")
        assert address.endswith("docs/runbook.md")
        assert anchor == rule["name"]
        assert anchor in sections()


def test_every_alarm_stands_in_the_runbook() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    assert [alarm for alarm in NAMES.alarms if f"`{alarm}`" not in text] == []


def test_the_rules_are_the_same_whatever_is_chosen() -> None:
    def without_addresses(snapshot: Snapshot) -> list[object]:
        return [one["properties"]["criteria"] for one in snapshot.of_type(RULE)]

    first, *others = (without_addresses(read_snapshot(name)) for name in SNAPSHOTS)
    assert all(other == first for other in others)
