"""What a benchmark found, and the table that shows it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec

LOWER = "lower is better"
"""An aim for times and sizes that have no bound."""

_COLUMNS = ("what", "measured", "beside", "ratio", "aim", "")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    Attributes:
        measured: the product's figure, with its unit.
        beside: what it is compared with, measured in the same run; "" for nothing.
        ratio: of the two, the larger the better unless `aim` is an upper bound or says so.
        aim: in words; `holds` says whether it was reached, None where there is none.
        notes: how it was measured, and figures beside the main one.
    """

    what: str
    measured: str
    beside: str = ""
    ratio: float | None = None
    aim: str = ""
    holds: bool | None = None
    notes: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the benchmarks."""

    machine: dict[str, str]
    quick: bool
    lines: tuple[Line, ...]

    @property
    def missed(self) -> bool:
        """Whether an aim was missed. A quick run has none: the aims are those of full sizes."""
        return not self.quick and any(line.holds is False for line in self.lines)


def machine_facts() -> dict[str, str]:
    """What figures depend on, beside the product."""
    cpu = next(iter(_values("/proc/cpuinfo", "model name")), platform.machine())
    memory = int(next(iter(_values("/proc/meminfo", "MemTotal")), "0 kB").split()[0])
    return {
        "processor": f"{os.process_cpu_count()} × {cpu}",
        "memory": f"{memory / 1024**2:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()) + " (1, 5, 15 minutes)",
    }


def _values(file: str, name: str) -> list[str]:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return []
    return [
        value.strip()
        for line in lines
        for key, _, value in [line.partition(":")]
        if key.strip() == name
    ]


def format_report(report: Report) -> str:
    """The table, the notes below it, and the machine."""
    rows = [_COLUMNS, *map(_cells, report.lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    text = [_join(rows[0], widths), _join(tuple("─" * width for width in widths), widths)]
    text += [_join(row, widths) for row in rows[1:]]
    for line in report.lines:
        text += ["", line.what, *(f"  {note}" for note in line.notes)]
    text += ["", *(f"{name:10}{value}" for name, value in report.machine.items())]
    if report.quick:
        text += [
            "",
            "A quick run: fixed costs weigh in small sizes; the aims are those of full ones.",
        ]
    return "\n".join(text)


def _cells(line: Line) -> tuple[str, ...]:
    ratio = "" if line.ratio is None else f"{line.ratio:,.{1 if line.ratio >= 10 else 3}f}"
    verdict = {True: "✓", False: "missed", None: ""}[line.holds]
    return line.what, line.measured, line.beside, ratio, line.aim, verdict


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
