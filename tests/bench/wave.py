"""A wave: planned for a roster that was written straight into storage, sent until it is settled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from shared.clock import monotonic
from shared.rules.parcels import Parcel, State
from shared.workflows.release import MOST_OUTSTANDING
from tests.bench.bed import NOWHERE, Bed, Bench
from tests.bench.pages import write_sweep
from tests.world import NAME


class Spent(msgspec.Struct, frozen=True):
    """What sending came to; `operations` are those of storage and the provider's calls."""

    recipients: int
    seconds: float
    operations: int
    calls: int

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.recipients + other.recipients,
            self.seconds + other.seconds,
            self.operations + other.operations,
            self.calls + other.calls,
        )

    @property
    def speed(self) -> float:
        return self.recipients / self.seconds

    @property
    def per_thousand(self) -> float:
        return self.operations * 1000 / self.recipients


@asynccontextmanager
async def planned_wave(
    bed: Bed,
    alumni: int,
    *,
    early: bool = False,
    tenant: bool = False,
    inbox: bool = True,
    campaign: str | None = None,
) -> AsyncGenerator[tuple[Bench, list[Parcel]]]:
    """A product that has planned for so many alumni, and its parcels.

    Args:
        early: nobody has registered yet; else some three of eight are due a mail.
        tenant: whether a tenant stands behind it that knows the same alumni.
        inbox: whether there is one.
        campaign: the text of the campaign file; the example, live, where None.
    """
    people = (alumni, 0) if tenant else None
    async with bed.running_bench(tenant=people, inbox=inbox, campaign=campaign) as bench:
        for message in await write_sweep(bench, alumni, early=early):
            await bench.app.plans.plan(message)
        yield bench, await bench.parcels()


def alumni_for(recipients: int) -> int:
    """How many alumni it takes for about so many recipients, where nobody has registered yet."""
    return recipients * 10 // 9


async def send_wave(bench: Bench, planned: Sequence[Parcel]) -> Spent:
    """Release what was planned, as often as that takes, and send it; nothing of it may be left."""
    operations, began = bench.operations, monotonic()
    for _ in range(0, len(planned), MOST_OUTSTANDING):
        await bench.app.releases.release_campaign(NAME)
        await bench.send()
    seconds, operations = monotonic() - began, bench.operations - operations
    parcels = await bench.parcels()
    assert {parcel.state for parcel in parcels} <= {State.ACCEPTED, State.CLOSED}
    assert all(one.reason == "cancelled" for one in parcels if one.state is State.CLOSED)
    recipients = sum(
        parcel.outcome_of(index) == "had" for parcel in parcels for index in range(parcel.count)
    )
    if bench.inbox_url != NOWHERE:
        assert sum(call["count"] for call in await accepted_calls(bench)) == recipients
    calls = sum(parcel.state is State.ACCEPTED for parcel in parcels)
    return Spent(recipients, seconds, operations + calls, calls)


async def accepted_calls(bench: Bench) -> list[dict[str, Any]]:
    """The inbox's word for what the product sent: its calls carry a parcel's id."""
    return [call for call in await bench.accepted() if call["parcel"]]
