"""Sending a wave, from release to settled, and a message, a row and a call a person beside it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from shared.clock import CampaignTime, monotonic
from shared.names import NAMES
from shared.rules.contact import Recipient
from shared.rules.parcels import Parcel
from shared.stores.outbox import Slice
from tests.bench.areas import Areas
from tests.bench.bare import without_words
from tests.bench.bed import Bed, Bench
from tests.bench.latencies import Latencies
from tests.bench.one_each import AT_ONCE, OneEach
from tests.bench.table import Line
from tests.bench.wave import Spent, accepted_calls, alumni_for, planned_wave, send_wave

_SAMPLES_AIM, _BEST_AIM = 300, 30
_OPERATIONS_AIM = 15
_MOST_WAITING = 60
"""Seconds: the timer of release ticks every minute."""


async def measure(bed: Bed, recipients: int, sample: int, best: int) -> list[Line]:
    """Sends to about `recipients` people by the product, to `sample` and to `best` of them one by
    one, half of these before it and half after."""
    areas = Areas()
    async with planned_wave(bed, alumni_for(recipients), early=True) as (bench, parcels):
        people = await _contacts(bench, parcels, sample + best)
        one_each = await OneEach.over(bench)
        for_samples, for_best = people[:sample], people[sample:]

        async def send_half(half: slice) -> tuple[Spent, Spent]:
            return (
                await one_each.send_as_samples_do(for_samples[half]),
                await one_each.send_at_its_best(for_best[half]),
            )

        before = await send_half(slice(None, None, 2))
        began = bench.app.clock.campaign_now()
        with areas.sampled():
            ours = await send_wave(bench, parcels)
        calls = await accepted_calls(bench)
        after = await send_half(slice(1, None, 2))
        afterwards = [await _look_back(bench, len(parcels)), await _weigh(bench, recipients)]
    usual, kept = (one + other for one, other in zip(before, after, strict=True))
    storage = await _send_without_words(bed, recipients)
    return [
        *_compare(ours, usual, kept, len(parcels)),
        _what_the_rest_costs(ours, storage),
        _count_operations(ours, usual, len(parcels)),
        _waits(calls, began),
        _processor_time(ours, areas),
        *afterwards,
    ]


async def _contacts(bench: Bench, parcels: Sequence[Parcel], most: int) -> list[Recipient]:
    people: list[Recipient] = []
    for parcel in parcels:
        part = Slice(parcel.offset, parcel.length, parcel.digest)
        people += await bench.app.stores.outbox.read(parcel.outbox, part)
        if len(people) >= most:
            break
    return people[:most]


async def _send_without_words(bed: Bed, recipients: int) -> Spent:
    async with planned_wave(bed, alumni_for(recipients), early=True, inbox=False) as (
        bench,
        parcels,
    ):
        bench.app = without_words(bench.app)
        return await send_wave(bench, parcels)


async def _look_back(bench: Bench, parcels: int) -> Line:
    """What looks at the whole wave when it is over: release each minute, and the status."""
    began, operations = monotonic(), bench.operations
    await bench.app.releases.release_all()
    tick, ticked = monotonic(), bench.operations
    await bench.app.status.collect()
    status = monotonic()
    return Line(
        what=f"a tick of release over {parcels} parcels that are settled",
        measured=f"{tick - began:.2f} s",
        beside=f"a status {status - tick:.2f} s",
        notes=(
            f"{ticked - operations} storage operations; {bench.operations - ticked} for the "
            "status. A status looks at all rows of its campaign.",
        ),
    )


async def _weigh(bench: Bench, recipients: int) -> Line:
    """What contact data weigh, which expire."""
    sizes = {
        name: sum([blob.size async for blob in bench.app.account.container(name).list_blobs()])
        for name in (NAMES.containers.pages, NAMES.containers.outbox)
    }
    pages, outbox = (
        sizes[NAMES.containers.pages] / alumni_for(recipients),
        sizes[NAMES.containers.outbox] / recipients,
    )
    return Line(
        what="contact data of the wave, in storage",
        measured=f"{outbox:,.0f} bytes/person",
        beside=f"pages of its sweep {pages:,.0f} bytes/alumnus",
    )


def _compare(ours: Spent, usual: Spent, kept: Spent, parcels: int) -> list[Line]:
    ratio, best_ratio = ours.speed / usual.speed, ours.speed / kept.speed
    what = f"sending to {ours.recipients:,} people, release to settled"
    return [
        Line(
            what=what,
            measured=f"{ours.speed:,.0f} people/s",
            beside=f"sample way {usual.speed:,.0f} people/s",
            ratio=ratio,
            aim=f"at least {_SAMPLES_AIM}",
            holds=ratio >= _SAMPLES_AIM,
            notes=(
                f"{ours.seconds:.2f} s for {parcels} parcels, at host.json's concurrency.",
                f"The sample way, over {usual.recipients} people, half before and half after: one "
                "queue message, one insert, one call of the sendgrid package and one update a "
                "person, at the same concurrency and to the same inbox.",
            ),
        ),
        Line(
            what="… and the best that a row a person allows",
            measured=f"{ours.speed:,.0f} people/s",
            beside=f"kept connections {kept.speed:,.0f} people/s",
            ratio=best_ratio,
            aim=f"at least {_BEST_AIM}",
            holds=best_ratio >= _BEST_AIM,
            notes=(
                f"The sample way over the product's own HTTP client, {AT_ONCE} messages side by "
                f"side, over {kept.recipients} people, half before and half after: its five "
                "storage operations a person are what it waits for.",
            ),
        ),
    ]


def _what_the_rest_costs(ours: Spent, storage: Spent) -> Line:
    each, storage_each = 1e6 / ours.speed, 1e6 / storage.speed
    return Line(
        what="… without words and provider",
        measured=f"{storage.speed:,.0f} people/s",
        beside=f"with them {ours.speed:,.0f} people/s",
        ratio=storage.speed / ours.speed,
        notes=(
            f"Another {storage.recipients:,} people through the same queue, rows and rules, to a "
            f"sender that accepts at once: {storage_each:.0f} µs a person. Words, links, the "
            f"call's body, the call and the simulated provider, on the same processors, take the "
            f"other {each - storage_each:.0f} µs.",
        ),
    )


def _count_operations(ours: Spent, usual: Spent, parcels: int) -> Line:
    return Line(
        what=f"operations for {ours.recipients:,} people, release to settled",
        measured=f"{ours.per_thousand:,.1f} per 1,000",
        beside=f"sample way {usual.per_thousand:,.0f}",
        ratio=usual.per_thousand / ours.per_thousand,
        aim=f"at most {_OPERATIONS_AIM} per 1,000",
        holds=ours.per_thousand <= _OPERATIONS_AIM,
        notes=(
            f"{ours.operations:,} were counted: {ours.calls} calls of the provider, and every "
            "answer of storage, the host's taking and deleting of messages among them; looks at "
            f"an empty queue are left out. {parcels} parcels, {ours.recipients / parcels:.0f} "
            "people in one on average: the last one of each shard is not full.",
        ),
    )


def _waits(calls: Sequence[dict[str, Any]], began: CampaignTime) -> Line:
    """How long people waited for their call's acceptance, by the inbox's own time."""
    waits = Latencies(
        (datetime.fromisoformat(call["time"]) - began).total_seconds()
        for call in calls
        for _ in range(call["count"])
    )
    return Line(
        what=f"from due to accepted, over {waits.count:,} people",
        measured=f"p50 {waits.p50:.1f} s, p95 {waits.p95:.1f} s",
        notes=(
            "One instance, all due at once, as at a verdict: release runs at once. What falls due "
            f"later waits for the minute's tick, too: {_MOST_WAITING / 2:.0f} s on average.",
        ),
    )


def _processor_time(ours: Spent, areas: Areas) -> Line:
    each = areas.seconds / ours.recipients * 1e6
    return Line(
        what="processor time of release and dispatch",
        measured=f"{each:.0f} µs/person",
        beside=f"{areas.seconds / ours.seconds:.0%} of one processor",
        notes=(f"By area: {areas}.",),
    )
