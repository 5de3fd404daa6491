"""`python -m tests.chaos`: a storm at full size; prints what happened."""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.table import machine_facts
from tests.chaos.storm import NOTHING, PHASES, Outcome, Size, run_storm
from tests.chaos.weather import was_refused

_NAMED = 5
"""Doubled parcels that are named; of the others there is a number."""


def main() -> int:
    """Prints the table; 1 where something was found that must not be."""
    usual = Size()
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=(__doc__ or "").partition("; ")[0]
    )
    add = parser.add_argument
    add("--alumni", type=int, default=usual.alumni, help=f"({usual.alumni}): of 8 three are due")
    add("--kills", type=int, default=usual.kills, help=f"of the host ({usual.kills})")
    add("--seed", type=int, default=None, help="of all that is drawn (a fresh one)")
    add("--keep", type=Path, metavar="DIR", help="keep storage and log there")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    size = Size(alumni=given.alumni, kills=given.kills, seed=seed)
    print(f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}, {machine_facts()['processor']}", flush=True)
    logging.disable(logging.WARNING)  # what the look from outside says of a storage that is away
    with tempfile.TemporaryDirectory(prefix="mfa-nudge-chaos-") as scratch:
        outcome = asyncio.run(run_storm(given.keep or Path(scratch), size, say=_say))
    print("\n".join(_table(outcome, size)))
    return 1 if outcome.findings.breaches else 0


def _say(what: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {what}", file=sys.stderr, flush=True)


def _table(outcome: Outcome, size: Size) -> Iterator[str]:
    found, met = outcome.findings, outcome.met
    refused = sum(count for name, count in met.items() if was_refused(name))
    lines: Mapping[str, object] = {
        "kills": size.kills,
        **{f"  that met {phase}": outcome.kills[phase] for phase in (*PHASES, NOTHING)},
        "calls": found.taken + refused,
        **{f"  {name}": met[name] for name in sorted(met)},
        "accepted calls": found.taken,
        "told of, in spells": sum(outcome.spells.values()),
        **{f"  {way}": count for way, count in sorted(outcome.spells.items())},
        "parcels": sum(found.states.values()),
        **{f"  {state}": count for state, count in sorted(found.states.items())},
        "parcels in doubt": found.doubtful,
        "  accepted, by receipts": found.by_receipt,
        "  sent once more": found.resent,
        "  final": found.final,
        "parcels accepted twice": len(found.doubled),
        "  recipients with two mails": sum(found.doubled.values()),
        "recipients due": found.due,
        "  written to": found.recipients,
        **{f"  not reached: {why}": count for why, count in sorted(found.unreached.items())},
        "lost": found.lost,
        "seconds": f"{outcome.seconds:.0f}",
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        yield f"{name:{width}}  {value:>7}"
    if doubled := list(found.doubled):
        yield f"\ntwice, and named as resent: {', '.join(doubled[:_NAMED])}"
        if len(doubled) > _NAMED:
            yield f"and {len(doubled) - _NAMED} more"
    for breach in found.breaches:
        yield f"BREACH: {breach}"


if __name__ == "__main__":
    sys.exit(main())
