"""One wave in parcels of several sizes: what a larger one saves."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.bed import Bed
from tests.bench.table import Line
from tests.bench.wave import Spent, alumni_for, planned_wave, send_wave
from tests.world import EXAMPLE

_CHOSEN = 500


async def measure(bed: Bed, recipients: int, sizes: Sequence[int]) -> list[Line]:
    """Sends to about `recipients` people once for each size.

    Args:
        sizes: the design's among them. One that is more than the sender takes stands for as many as
            it does take.
    """
    text = EXAMPLE.read_text().replace("mode: dry-run", "mode: live")
    found: dict[int, Spent] = {}
    for size in sizes:
        campaign = text.replace(f"parcel_size: {_CHOSEN}", f"parcel_size: {size}")
        async with planned_wave(bed, alumni_for(recipients), early=True, campaign=campaign) as (
            bench,
            parcels,
        ):
            found[max(parcel.count for parcel in parcels)] = await send_wave(bench, parcels)
    chosen = found.get(_CHOSEN, found[max(found)])
    smallest = found[min(found)]
    return [
        Line(
            what=f"parcels of up to {_CHOSEN}, {chosen.recipients:,} people",
            measured=f"{chosen.per_thousand:,.1f} per 1,000",
            beside=f"of up to {min(found)} {smallest.per_thousand:,.1f}",
            ratio=smallest.per_thousand / chosen.per_thousand,
            notes=(
                "Operations per 1,000 people, and people per second: "
                + ", ".join(
                    f"{spent.per_thousand:,.1f} and {spent.speed:,.0f} in parcels of up to {size}"
                    for size, spent in found.items()
                )
                + ".",
            ),
        )
    ]
