"""The layout holds: imports go one way, each shared name stands in one place, and one file reads
clocks."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from shared.workflows.alarms import Alarm

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("function_app.py", "functions", "shared")
PROGRAMS = (*PRODUCT, "admin", "local")
SHARED = json.loads((ROOT / "shared" / "names.json").read_text())
NAMES = {name for kind in SHARED.values() if isinstance(kind, dict) for name in kind.values()}
OPENERS = {
    *("queue", "table", "container"),  # StorageAccount's own
    *("get_queue_client", "get_table_client", "get_container_client", "get_blob_client"),
    *("create_queue", "create_table", "create_container"),
    *("queue_trigger", "queue_output", "poison_of"),
}
"""Calls whose first argument, or `queue_name`, says which queue, table or container is meant."""

CLOCK_READS = {"now", "utcnow", "today", "monotonic", "monotonic_ns", "perf_counter", "time_ns"}
"""Methods and module functions that read a clock, whatever they are called on."""

CLOCK_READS_IN_FULL = {"time.time", "loop.time", "asyncio.get_running_loop().time"}


def sources(*places: str) -> Iterator[tuple[str, ast.Module]]:
    """Name and syntax tree of each Python file of these places."""
    for place in places:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            yield str(file.relative_to(ROOT)), ast.parse(file.read_text())


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def imported_by(node: ast.AST) -> list[str]:
    """The modules that a statement imports, or imports from."""
    match node:
        case ast.Import(names):
            return [one.name for one in names]
        case ast.ImportFrom(module):
            return [module or ""]
        case _:
            return []


def test_imports_go_one_way() -> None:
    """The contract stands in pyproject.toml; import-linter reads it there."""
    command = [str(Path(sys.executable).with_name("lint-imports"))]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "1 kept, 0 broken" in run.stdout


def test_names_of_queues_tables_and_containers_stand_in_the_data_file_alone() -> None:
    literal = [
        f"{file}:{call.lineno}: {argument.value}"
        for file, tree in sources(*PROGRAMS)
        for call in calls(tree)
        if ast.unparse(call.func).rpartition(".")[2] in OPENERS
        for argument in [
            *call.args[:1],
            *(word.value for word in call.keywords if (word.arg or "").endswith("_name")),
        ]
        if isinstance(argument, ast.Constant)
        and str(argument.value).removesuffix("-poison") in NAMES
    ]
    assert literal == []


def test_no_shared_name_that_is_no_common_word_is_written_out() -> None:
    """Words such as `email` mean other things, too; a name with a dash or a dot can mean nothing
    else."""
    telling = {name for name in NAMES if not name.isalpha()}
    written = [
        f"{file}:{node.lineno}: {node.value}"
        for file, tree in sources(*PROGRAMS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in telling
    ]
    assert written == []


def test_alert_rules_know_every_alarm() -> None:
    assert get_args(Alarm.__value__) == tuple(SHARED["alarms"])


def test_one_file_reads_clocks() -> None:
    readers = {
        file
        for file, tree in sources(*PRODUCT)
        for call in calls(tree)
        if isinstance(call.func, ast.Attribute)
        if call.func.attr in CLOCK_READS or ast.unparse(call.func) in CLOCK_READS_IN_FULL
    }
    assert readers == {"shared/clock.py"}


def test_no_other_file_gets_at_a_clock_under_another_name() -> None:
    """`from time import monotonic` and the like would escape the look at calls."""
    importers = {
        file
        for file, tree in sources(*PRODUCT)
        for node in ast.walk(tree)
        if "time" in imported_by(node)
    }
    assert importers <= {"shared/clock.py"}


def test_rules_are_pure() -> None:
    """No input or output: rules import neither network, nor storage, nor the event loop."""
    effects = {"aiohttp", "asyncio", "azure", "msgraph", "os", "socket", "subprocess"}
    imported = {
        f"{file}: {name}"
        for file, tree in sources("shared/rules")
        for node in ast.walk(tree)
        for name in imported_by(node)
        if name.partition(".")[0] in effects
    }
    assert imported == set()
