"""A whole run against Graph's limit for reports: the local system, as `nudge local` runs it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from local.roster import Roster
from local.tenant import REPORT_LIMIT, REPORT_PAGE, REPORT_WINDOW
from tests.bench.children import run_child
from tests.bench.table import Line

_AIM = 1.1


async def measure(alumni: int, others: int) -> list[Line]:
    """From the timer to the last settled parcel, over what the limit alone would take."""
    outcome = await run_child(
        *("tests.bench.nudge", "local", "--once", "--json"),
        *("--alumni", str(alumni), "--others", str(others)),
        # A service that the caller's environment names would take the place of a simulated one.
        environment={"GRAPH_BASE_URL": "", "SENDGRID_BASE_URL": ""},
    )
    return [compare(alumni, others, outcome)]


def compare(alumni: int, others: int, outcome: dict[str, Any]) -> Line:
    """`outcome` is the JSON of `nudge local --once`. The report has more than five pages."""
    pages = count_report_pages(alumni, others)
    floor = throttle_floor(pages)
    seconds = outcome["seconds"]
    return Line(
        what=f"throttled, {alumni:,} alumni and {others:,} others, whole run",
        measured=f"{seconds:.1f} s",
        beside=f"floor {floor:.0f} s",
        ratio=seconds / floor,
        aim=f"at most {_AIM}",
        holds=seconds / floor <= _AIM,
        notes=(
            f"The report has {pages} pages of {REPORT_PAGE:,} rows. The first {REPORT_LIMIT} "
            f"requests may leave at once, and {REPORT_LIMIT} more every {REPORT_WINDOW:.0f} s: "
            f"the last one not before {floor:.0f} s. "
            f"{outcome['recipients']['email']:,} people were written to.",
        ),
    )


def count_report_pages(alumni: int, others: int) -> int:
    """Pages of the report: some accounts have no row in it."""
    deadline = datetime(2027, 3, 31, 16, tzinfo=UTC)
    roster = Roster(alumni=alumni, others=others, deadline=deadline, domain="connect.example.edu")
    rows = sum(roster.person(index).reported for index in range(len(roster)))
    return max(1, math.ceil(rows / REPORT_PAGE))


def throttle_floor(pages: int) -> float:
    """Seconds before which the last of so many report requests may not leave."""
    return (pages - 1) // REPORT_LIMIT * REPORT_WINDOW
