"""`python -m tests.bench`: runs the benchmarks and prints one table of ratios."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec

from local.azurite import running_azurite
from tests.bench import (
    crowd,
    dispatch,
    done,
    first_paint,
    memory,
    parcel_sizes,
    planning,
    receipts,
    start,
    sweep,
    texts,
    throttled,
)
from tests.bench.bed import Bed
from tests.bench.table import Line, Report, format_report, machine_facts

_ACCOUNTS = 21
"""Storage accounts of the one Azurite: each benchmark has its own, each size of planning, and each
wave."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much each benchmark does; the defaults are those of which the aims speak.

    Attributes:
        typed_rows: of each list, read by typed models: half before the sweep, half after it.
        throttled: alumni and others.
        recipients: of a wave.
        sample: people who are sent to in the way of the samples.
        best: people who are sent to one by one, as well as that can be done.
        sized: recipients of a wave that is sent once for each of `parcels`, sizes of a parcel.
        waves: recipients of the waves whose memory is looked at.
        reported: recipients of a wave whose receipts come in.
        texts: of which release has a row each.
        alumni: of whom three in eight are due a mail, while others of them confirm.
        starts: fresh processes for each kind of first request.
        requests: of each kind to a process that is warm.
        confirming: people who press the button while a wave goes out, and as many before it.
        shown: alumni of the campaign that the status page shows.
        loads: of each page, in a browser.
    """

    accounts: int = 100_000
    typed_rows: int = 5_000
    planned: tuple[int, ...] = (10_000, 100_000, 300_000)
    throttled: tuple[int, int] = (60_000, 20_000)
    recipients: int = 100_000
    sample: int = 400
    best: int = 1_000
    sized: int = 50_000
    parcels: tuple[int, ...] = (50, 100, 250, 500, 1_000)
    waves: tuple[int, ...] = (1_000, 30_000, 300_000)
    reported: int = 100_000
    texts: int = 20_000
    alumni: int = 53_000
    imports: int = 5
    starts: int = 10
    requests: int = 300
    confirming: int = 500
    shown: int = 10_000
    loads: int = 5


QUICK = Sizes(
    accounts=20_000,
    typed_rows=2_000,
    planned=(2_000, 10_000, 30_000),
    throttled=(6_000, 2_000),
    recipients=20_000,
    sample=100,
    best=300,
    sized=10_000,
    waves=(1_000, 3_000, 10_000),
    reported=20_000,
    texts=2_000,
    alumni=10_000,
    imports=2,
    starts=2,
    requests=50,
    confirming=50,
    shown=1_000,
    loads=1,
)

BENCHMARKS: dict[str, Callable[[Bed, Sizes], Awaitable[list[Line]]]] = {
    "start": lambda bed, sizes: start.measure(sizes.imports),
    "sweep": lambda bed, sizes: sweep.measure(bed, sizes.accounts, sizes.typed_rows),
    "planning": lambda bed, sizes: planning.measure(bed, sizes.planned),
    "dispatch": lambda bed, sizes: dispatch.measure(
        bed, sizes.recipients, sizes.sample, sizes.best
    ),
    "parcels": lambda bed, sizes: parcel_sizes.measure(bed, sizes.sized, sizes.parcels),
    "memory": lambda bed, sizes: memory.measure(bed, sizes.waves),
    "receipts": lambda bed, sizes: receipts.measure(bed, sizes.reported),
    "texts": lambda bed, sizes: texts.measure(bed, sizes.texts),
    "done": lambda bed, sizes: done.measure(bed, sizes.starts, sizes.requests),
    "crowd": lambda bed, sizes: crowd.measure(bed, sizes.alumni, sizes.confirming),
    "pages": lambda bed, sizes: first_paint.measure(bed, sizes.shown, sizes.loads),
    "throttled": lambda bed, sizes: throttled.measure(*sizes.throttled),
}


async def run(
    sizes: Sizes, names: Iterable[str], *, say: Callable[[str], None] = lambda name: None
) -> tuple[Line, ...]:
    """Run the benchmarks one after the other, telling which one is under way."""
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="mfa-nudge-bench-") as scratch:
        async with running_azurite(accounts=_ACCOUNTS) as azurite:
            bed = Bed(azurite, Path(scratch))
            for name in names:
                say(name)
                lines += await BENCHMARKS[name](bed, sizes)
    return tuple(lines)


def main() -> int:
    """Prints the table; 1 where an aim was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--only", choices=BENCHMARKS, help="one benchmark alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there, too")
    given = parser.parse_args()
    # One line for each event of each run: none of them belongs into a table.
    logging.disable(logging.WARNING)
    facts = machine_facts()
    sizes = QUICK if given.quick else Sizes()
    names = [given.only] if given.only else BENCHMARKS
    lines = asyncio.run(
        run(sizes, names, say=lambda name: print(f"{name} …", file=sys.stderr, flush=True))
    )
    report = Report(machine=facts, quick=given.quick, lines=lines)
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    print(format_report(report))
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
