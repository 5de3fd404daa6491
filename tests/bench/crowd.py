"""People who confirm while a wave goes out: is anybody lost, and who holds up whom?"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from shared.clock import StorageTime
from shared.rules.parcels import SHARDS, Parcel, State
from tests.bench.bed import Bed, Bench
from tests.bench.children import running_child
from tests.bench.latencies import Latencies
from tests.bench.site import link, register, remembered_people, running_site
from tests.bench.table import LOWER, Line
from tests.bench.wave import planned_wave, send_wave
from tests.world import EXAMPLE, NAME

_PARCEL = 10
"""Recipients of a parcel. In parcels of 500 a wave of 20,000 is over before 500 people can press a
button; in small ones it lasts, and asks more of the ledger that both of them use."""

_HEEDED = timedelta(seconds=30)
"""Whose completion was in the ledger so long before a claim gets nothing by it."""

_UNCOUNTED = 10
"""Requests until the host is warm: the same people press the button once more later."""

_EVER = StorageTime(datetime(2000, 1, 1, tzinfo=UTC))


async def measure(bed: Bed, alumni: int, most: int) -> list[Line]:
    """A wave to those of `alumni` who are due, alone, and the same wave beside `most` of them who
    confirm; before it as many others, without a wave.

    The host of the pages has the HTTP functions alone, and this process sends: in Azure they are on
    different instances, too. There they share storage alone; here the services and the processor,
    too, so that they hold each other up more than they would.
    """
    text = EXAMPLE.read_text().replace("mode: dry-run", "mode: live")
    text = text.replace("parcel_size: 500", f"parcel_size: {_PARCEL}")
    async with planned_wave(bed, alumni, campaign=text) as (bench, parcels):
        usual = await send_wave(bench, parcels)
    async with planned_wave(bed, alumni, campaign=text, tenant=True) as (bench, parcels):
        early, late = _choose(parcels, most)
        await register(bench, early + late)
        groups = [[link("done", person) for person in group] for group in (early, late)]
        arguments = (str(usual.seconds), json.dumps(groups))
        async with (
            running_site(bed, bench) as host,
            running_child("tests.bench.confirmers", host.url, *arguments) as confirm,
        ):
            for path in groups[0][:_UNCOUNTED]:
                async with bench.http.post(f"{host.url}{path}") as answer:
                    answer.raise_for_status()
            alone = Latencies(await confirm())
            async with asyncio.TaskGroup() as group:
                confirming = group.create_task(confirm())
                wave = await send_wave(bench, parcels)
            beside = Latencies(confirming.result())
        count = await _count(bench, early, late)
    return [
        count,
        Line(
            what="POST of the done page during the wave",
            measured=str(beside),
            beside=f"alone {alone}",
            ratio=beside.p50 / alone.p50,
            aim=LOWER,
            notes=(
                f"{len(late)} people arrive evenly over {usual.seconds:.1f} s, which is what the "
                f"wave took alone; a wait behind others counts. p95 is "
                f"{beside.p95 / alone.p95:.2f} times that alone.",
            ),
        ),
        Line(
            what="the wave beside those who confirm",
            measured=f"{wave.speed:,.0f} people/s",
            beside=f"alone {usual.speed:,.0f} people/s",
            ratio=wave.speed / usual.speed,
            notes=(
                f"{wave.recipients:,} people in {wave.seconds:.1f} s, in parcels of at most "
                f"{_PARCEL}. Pages and sending are processes of their own, as they have instances "
                "of their own in Azure; here they share the machine.",
            ),
        ),
    ]


def _choose(parcels: Sequence[Parcel], most: int) -> tuple[list[bytes], list[bytes]]:
    """Two groups of so many people who are due, or of half of them each where there are fewer.

    Drawn at random, the same at each run: in the ledger's order, which is about that in which
    parcels go out, everybody would confirm at the same distance from their parcel.
    """
    due = [person for parcel in parcels for _, person in parcel.people()]
    most = min(most, len(due) // 2)
    chosen = random.Random(0).sample(due, 2 * most)
    return chosen[:most], chosen[most:]


async def _count(bench: Bench, early: Sequence[bytes], late: Sequence[bytes]) -> Line:
    """What became of those who confirmed before the wave, and of those who did during it."""
    known = await remembered_people(bench)
    recorded = {one for one, row in known.items() if row.confirmed_at or row.reported_at}
    lost = {*early, *late} - recorded
    completed, claimed = await _completions(bench), await _claims(bench)
    written = recorded & claimed.keys()
    # Before the wave its sender had read no completions, so it has to know all of the early ones.
    wrongly = written.intersection(early) | {
        person for person in written if claimed[person] - completed[person] >= _HEEDED
    }
    return Line(
        what=f"{len(late)} people confirm while a wave goes out",
        measured=f"{len(lost)} lost, {len(wrongly)} written to wrongly",
        aim="none",
        holds=not lost and not wrongly,
        notes=(
            f"As many had confirmed before it; {len(recorded)} are recorded in all. "
            f"{len(written.intersection(late))} of those who confirmed during it were written to: "
            f"their parcel was claimed before, or within {_HEEDED.seconds} s.",
        ),
    )


async def _completions(bench: Bench) -> dict[bytes, StorageTime]:
    """When the completion of each was written into the ledger."""
    ledger = bench.app.stores.ledger
    found: dict[bytes, StorageTime] = {}
    for shard in range(len(SHARDS)):
        changes = await ledger.read_changes(NAME, shard, _EVER)
        found |= changes.left_out | changes.reported
    return found


async def _claims(bench: Bench) -> dict[bytes, StorageTime]:
    """When the parcel of each who was written to was claimed."""
    return {
        person: parcel.claimed_at
        for parcel in await bench.parcels()
        if parcel.state is State.ACCEPTED and parcel.claimed_at
        for index, person in parcel.people()
        if parcel.outcome_of(index) == "had"
    }
