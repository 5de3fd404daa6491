"""Planning alone: its speed, and the memory of the worker over rosters of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import linear_regression

import msgspec

from tests.bench.bed import Bed
from tests.bench.children import run_child
from tests.bench.pages import write_sweep
from tests.bench.table import Line

_MIB = 1024 * 1024


async def measure(bed: Bed, sizes: Sequence[int]) -> list[Line]:
    """Plans rosters of these sizes, each in a fresh process."""
    found: list[dict[str, float]] = []
    for size in sizes:
        async with bed.running_bench() as bench:
            messages = msgspec.json.encode(await write_sweep(bench, size)).decode()
            environment = bench.environment
            found.append(await run_child("tests.bench.planner", messages, environment=environment))
    grown = [one["peak"] - one["base"] for one in found]
    slope = linear_regression(sizes, grown).slope
    per_person = [one["seconds"] / size for one, size in zip(found, sizes, strict=True)]
    steps = ", ".join(
        f"{(high - low) / (most - least):,.0f} from {least:,} to {most:,}"
        for (least, low), (most, high) in pairwise(zip(sizes, grown, strict=True))
    )
    speeds = ", ".join(
        f"{1 / seconds:,.0f} at {size:,}" for seconds, size in zip(per_person, sizes, strict=True)
    )
    return [
        Line(
            what=f"planning alone, {sizes[-1]:,} accounts",
            measured=f"{1 / per_person[-1]:,.0f} people/s",
            beside=f"{1 / per_person[0]:,.0f} people/s at {sizes[0]:,}",
            ratio=per_person[0] / per_person[-1],
            notes=(f"People per second: {speeds}. One worker, 16 shards, verdict included.",),
        ),
        Line(
            what="peak memory of a worker that plans",
            measured=f"{slope:,.0f} bytes/account",
            beside=f"{grown[-1] / _MIB:.0f} MiB over {found[-1]['base'] / _MIB:.0f} MiB",
            notes=(
                "Resident high-water mark over the base, in MiB: "
                + ", ".join(f"{g / _MIB:.1f} at {s:,}" for g, s in zip(grown, sizes, strict=True))
                + f". Bytes per account: {steps}.",
            ),
        ),
    ]
