"""The memory of the workers that release and send, over waves of several sizes."""

from __future__ import annotations

from collections.abc import Sequence

from shared.rules.parcels import State
from shared.workflows.release import MOST_OUTSTANDING
from tests.bench.bed import Bed
from tests.bench.children import run_child
from tests.bench.table import Line
from tests.bench.wave import alumni_for, planned_wave

_MIB = 1024 * 1024
_AIM = 100
"""Bytes a person: 30 MiB more for 300,000. It is the parcels under way that take memory."""

_WORKERS = {"release": "releases", "send": "sends"}


async def measure(bed: Bed, sizes: Sequence[int]) -> list[Line]:
    """Releases and sends waves of about so many recipients, each in fresh processes."""
    grown: dict[str, list[float]] = {name: [] for name in _WORKERS}
    recipients: list[int] = []
    for size in sizes:
        async with planned_wave(bed, alumni_for(size), early=True) as (bench, parcels):
            assert len(parcels) <= MOST_OUTSTANDING, "one tick releases all of it"
            for name in _WORKERS:
                found = await run_child("tests.bench.sender", name, environment=bench.environment)
                grown[name].append(found["peak"] - found["base"])
            assert {parcel.state for parcel in await bench.parcels()} == {State.ACCEPTED}
        recipients.append(sum(parcel.count for parcel in parcels))
    return [_describe(name, recipients, grown[name]) for name in _WORKERS]


def _describe(name: str, recipients: Sequence[int], grown: Sequence[float]) -> Line:
    more = (grown[-1] - grown[0]) / (recipients[-1] - recipients[0])
    steps = ", ".join(
        f"{most / _MIB:.1f} at {count:,}" for count, most in zip(recipients, grown, strict=True)
    )
    return Line(
        what=f"peak memory of a worker that {_WORKERS[name]}",
        measured=f"{more:,.0f} bytes/person",
        beside=f"{grown[-1] / _MIB:.0f} MiB for {recipients[-1]:,}",
        aim=f"at most {_AIM} bytes",
        holds=more <= _AIM,
        notes=(f"Resident high-water mark over the base, in MiB: {steps}.",),
    )
