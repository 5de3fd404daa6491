"""Runs the machine for longer than the suite does, or against planted mistakes.

    python -m tests.model [--examples N] [--seed N] [--json]
    python -m tests.model --planted [--examples N] [--seed N]

It ends with 1 where a promise was broken (with the shortest way there that was found; --json: with
the first), or where a planted mistake was not found.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import traceback

import msgspec

from tests.model.bed import Bed
from tests.model.machine import run_machine
from tests.model.planted import MISTAKES, Found, search


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--json", action="store_true", help="say what it came to as JSON")
    parser.add_argument("--planted", action="store_true", help="look for each planted mistake")
    options = parser.parse_args()
    logging.getLogger("mfa_nudge").setLevel(logging.CRITICAL)
    if options.planted:
        return _look_for_mistakes(options.examples, options.seed)
    with Bed() as bed:
        error = run_machine(bed, options.examples, seed=options.seed, shrink=not options.json)
        found = Found(bed.examples, bed.steps, bed.broken)
    if options.json:
        print(msgspec.json.encode(found).decode())
    elif error:
        traceback.print_exception(error, limit=-2)
    else:
        print(f"{found.examples} examples, {found.steps} steps: every promise held.")
    print(f"seed {options.seed}", file=sys.stderr)
    return 1 if error else 0


def _look_for_mistakes(examples: int, seed: int) -> int:
    missed = 0
    print(f"{'mistake':52}  examples  steps  broken promise")
    for mistake in MISTAKES:
        found = search(mistake, examples=examples, seed=seed)
        missed += not found.broken
        what = found.broken or "NOT FOUND"
        print(f"{mistake.name:52}  {found.examples:8}  {found.steps:5}  {what}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
