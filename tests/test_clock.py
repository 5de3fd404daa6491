"""The two clocks, the ages measured with them, and that nobody else reads a clock."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.clock import Ages, PretendedClock, SystemClock, monotonic, write_clock_file
from shared.errors import SetupFault

ROOT = Path(__file__).resolve().parents[1]
SOON = timedelta(seconds=5)
THEN = datetime(2027, 3, 17, 2, tzinfo=UTC)


# storage time


def test_storage_time_is_what_the_service_says_and_runs_on() -> None:
    clock = SystemClock()
    assert abs(clock.storage_now() - datetime.now(UTC)) < SOON, "before the service has spoken"
    for year in (1999, 2050):
        clock.observe_storage(datetime(year, 1, 1, tzinfo=UTC))
        first = clock.storage_now()
        assert timedelta(0) <= first - datetime(year, 1, 1, tzinfo=UTC) < SOON
        began = monotonic()
        while monotonic() - began < 0.02:
            pass
        assert timedelta(seconds=0.02) <= clock.storage_now() - first < SOON
    assert abs(clock.campaign_now() - datetime.now(UTC)) < SOON, "of which it knows nothing"


def test_storage_time_does_not_fall_back_to_whole_seconds() -> None:
    """Time went back at each answer, and two releasers could stamp a row at the same instant."""
    clock = SystemClock()
    second = datetime(2050, 1, 1, tzinfo=UTC)
    clock.observe_storage(second + timedelta(seconds=0.9))
    before = clock.storage_now()
    clock.observe_storage(second)
    assert clock.storage_now() > before, "the service may well mean that time"
    clock.observe_storage(second + timedelta(seconds=2))
    assert clock.storage_now() >= second + timedelta(seconds=2), "ours was late"
    clock.observe_storage(second)
    assert clock.storage_now() - second < timedelta(seconds=1.5), "ours was ahead"


@pytest.mark.invariant(9)
def test_times_are_utc(tmp_path: Path) -> None:
    write_clock_file(tmp_path / "clock", datetime.fromisoformat("2027-03-17T10:00+08:00"))
    for clock in (SystemClock(), PretendedClock(tmp_path / "clock")):
        assert clock.campaign_now().tzinfo is UTC
        assert clock.storage_now().tzinfo is UTC


# campaign time, pretended


def test_a_pretended_time_runs_on_at_real_speed(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    file.write_text(
        json.dumps({"campaign_time": "2027-03-17T10:00+08:00", "set_at": hour_ago.isoformat()})
    )
    clock = PretendedClock(file)
    assert abs(clock.campaign_now() - (THEN + timedelta(hours=1))) < SOON
    first = clock.campaign_now()
    assert timedelta(0) <= clock.campaign_now() - first < SOON


def test_a_pretended_time_leaves_storage_time_alone(tmp_path: Path) -> None:
    write_clock_file(tmp_path / "clock", THEN)
    assert abs(PretendedClock(tmp_path / "clock").storage_now() - datetime.now(UTC)) < SOON


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    write_clock_file(file, THEN)
    clock = PretendedClock(file)
    for days in (0, 3, -400, 3):
        write_clock_file(file, THEN + timedelta(days=days))
        assert abs(clock.campaign_now() - (THEN + timedelta(days=days))) < SOON
    assert list(tmp_path.iterdir()) == [file], "written beside, then moved into its place"


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"campaign_time": "2027-03-17T10:00+08:00"}',
        '{"campaign_time": "2027-03-17T10:00", "set_at": "2026-11-24T10:00+00:00"}',
        '{"campaign_time": "2027-03-17T10:00+08:00", "set_at": "2026-11-24T10:00"}',
        '{"campaign_time": "soon", "set_at": "2026-11-24T10:00+00:00"}',
        '{"campaign_time": 1, "set_at": 2}',
    ],
)
def test_a_clock_file_that_cannot_be_read_says_so(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "clock"
    if content is not None:
        file.write_text(content)
    clock = PretendedClock(file)
    for _ in range(2):
        with pytest.raises(SetupFault, match="two ISO instants with their offset"):
            clock.campaign_now()
    write_clock_file(file, THEN)
    assert abs(clock.campaign_now() - THEN) < SOON


# ages


def test_all_ages_shorten_together() -> None:
    ages, short = Ages(), Ages().scaled(0.02)
    for name in Ages.__struct_fields__:
        assert getattr(short, name) == pytest.approx(getattr(ages, name) * 0.02)


@pytest.mark.invariant(1)
@pytest.mark.parametrize(
    ("claim_abandoned", "start", "call", "holds"),
    [
        (900, 30, 60, True),
        (271, 30, 60, True),
        (270, 30, 60, False),  # Date has whole seconds
        (900, 30, 270, False),
        (900, 300, 60, False),
        (60, 30, 60, False),
    ],
)
def test_a_claim_outlives_its_call(
    claim_abandoned: float, start: float, call: float, holds: bool
) -> None:
    """Otherwise a claim would count as abandoned while its call is still under way."""
    ages = Ages(claim_abandoned=claim_abandoned, start=start, call=call)
    if holds:
        SystemClock(ages)
    else:
        with pytest.raises(ValueError, match="three times start \\+ call"):
            SystemClock(ages)


@pytest.mark.parametrize(("factor", "holds"), [(1, True), (0.02, True), (0.001, False)])
def test_ages_can_shorten_only_so_far(factor: float, holds: bool) -> None:
    if holds:
        assert Ages().scaled(factor).call == 60 * factor
    else:
        with pytest.raises(ValueError, match="three times start \\+ call"):
            Ages().scaled(factor)


def test_the_ages_are_in_the_order_that_safety_needs() -> None:
    ages = Ages()
    assert ages.message_life < ages.handed_out, "a message is dead before its row goes out again"
    assert ages.fence_refresh * 3 <= ages.fence_at_rest, (
        "a planner that lives is not taken for dead"
    )
    assert ages.claim_abandoned < ages.settle_final
    assert ages.changes_cache < ages.changes_known <= 30, "invariant 4"
    assert ages.config_cache <= 10, "a stop is noticed"


# the only file that reads a clock

CLOCKS = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "localtime", "gmtime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}


def test_no_other_file_reads_a_clock() -> None:
    folders = ("shared", "functions", "admin", "local")
    files = [ROOT / "function_app.py", *(f for d in folders for f in (ROOT / d).rglob("*.py"))]
    assert len(files) > 40
    readers = {file for file in files if _reads_a_clock(ast.parse(file.read_text()))}
    assert readers == {ROOT / "shared" / "clock.py"}


def _reads_a_clock(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if node.attr in CLOCKS.get(owner, ()):
                return True
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and CLOCKS["time"] & {name.name for name in node.names}
        ):
            return True
    return False


# two types

MISTAKEN = """
from shared.clock import CampaignTime, Clock, StorageTime

def window_open(now: CampaignTime) -> bool: ...
def is_old(claimed_at: StorageTime) -> bool: ...

def check(clock: Clock) -> None:
    window_open(clock.campaign_now())
    is_old(clock.storage_now())
    window_open(clock.storage_now())
    is_old(clock.campaign_now())
"""


def test_a_type_checker_refuses_one_clock_for_the_other(tmp_path: Path) -> None:
    (tmp_path / "mistaken.py").write_text(MISTAKEN)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"include": ["mistaken.py"], "extraPaths": [str(ROOT)]})
    )
    checked = subprocess.run(
        [sys.executable, "-m", "basedpyright", "-p", tmp_path, "--level", "error", "--outputjson"],
        capture_output=True,
        text=True,
        check=False,
    )
    errors = json.loads(checked.stdout)["generalDiagnostics"]
    wrong = {error["range"]["start"]["line"] for error in errors}
    assert wrong == {9, 10}, "the last two lines, and no other"
