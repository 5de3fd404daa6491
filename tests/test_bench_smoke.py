"""The benchmarks run, at sizes that say nothing: so that they do not rot."""

from __future__ import annotations

import msgspec
import pytest

from tests.bench.__main__ import BENCHMARKS, Sizes, run
from tests.bench.table import Line, Report, format_report, machine_facts
from tests.bench.throttled import compare, count_report_pages, throttle_floor

TINY = Sizes(
    accounts=50,
    typed_rows=4,
    planned=(100, 200),
    recipients=100,
    sample=4,
    best=8,
    sized=100,
    parcels=(50, 500),
    waves=(50, 100),
    reported=100,
    texts=40,
    alumni=100,
    imports=1,
    starts=1,
    requests=2,
    confirming=10,
    shown=100,
    loads=1,
)


async def test_benchmarks_run() -> None:
    names = [name for name in BENCHMARKS if name != "throttled"]  # a whole local system: elsewhere

    lines = await run(TINY, names)

    assert len(lines) >= len(names)
    assert all(line.what and line.measured for line in lines)


def test_whole_run_is_compared_with_its_floor() -> None:
    line = compare(60_000, 20_000, {"seconds": 165.0, "recipients": {"email": 22_000}})

    assert line.ratio == pytest.approx(1.1)
    assert line.holds


def test_table_shows_what_was_missed() -> None:
    line = Line(what="speed", measured="9/s", ratio=0.9, aim="at least 1", holds=False)
    report = Report(machine=machine_facts(), quick=False, lines=(line,))

    assert report.missed
    assert "missed" in format_report(report)
    assert not msgspec.structs.replace(report, quick=True).missed


@pytest.mark.parametrize(
    ("pages", "seconds"), [(1, 0), (5, 0), (6, 10), (10, 10), (11, 20), (80, 150)]
)
def test_floor_of_a_throttled_report(pages: int, seconds: float) -> None:
    assert throttle_floor(pages) == seconds


def test_accounts_without_a_row_make_no_pages() -> None:
    assert count_report_pages(1000, 0) == 1
    assert count_report_pages(2080, 0) == 3
