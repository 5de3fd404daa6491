"""Housekeeping: what expires when, and what must not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.clock import StorageTime
from shared.names import NAMES
from shared.rules.parcels import State
from shared.stores.events import Event
from shared.stores.parcels import change_row, partition_of, to_text
from shared.stores.table import Table, Write
from tests.sending import EARLY, Desk, campaign_text, change, running_desk
from tests.world import NAME

pytestmark = pytest.mark.invariant(6)


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


async def blobs(desk: Desk, container: str) -> list[str]:
    found = desk.app.account.container(container).list_blobs()
    return [blob.name async for blob in found]


async def sweeps_with_pages(desk: Desk) -> list[int]:
    return sorted(await desk.app.stores.pages.list_sweeps())


async def ledger_rows(desk: Desk, prefix: str = "") -> list[str]:
    table = desk.app.account.table(NAMES.tables.ledger)
    keys = [row["RowKey"] async for row in table.list_entities(select=["RowKey"])]
    return sorted(key for key in keys if key.startswith(prefix))


async def test_pages_go_48_hours_after_a_newer_sweep_committed(desk: Desk) -> None:
    """And never those of the newest committed one, however old it is."""
    found: dict[str, list[int]] = {}

    async def tidy(when: str, **later: float) -> None:
        desk.clock.let_pass(**later)
        await desk.app.housekeeping.run()
        found[when] = await sweeps_with_pages(desk)

    await desk.plan(1)
    await tidy("no newer one", days=5)
    await desk.world.sweep()
    await tidy("47 h after sweep 2", hours=47)
    await desk.world.sweep()
    await tidy("49 h after sweep 2, 2 h after sweep 3", hours=2)
    await tidy("50 h after sweep 3", hours=48)
    await tidy("long after", days=30)
    assert found == {
        "no newer one": [1],
        "47 h after sweep 2": [1, 2],
        "49 h after sweep 2, 2 h after sweep 3": [2, 3],
        "50 h after sweep 3": [3],
        "long after": [3],
    }


async def test_an_abandoned_sweep_replaces_nothing(desk: Desk) -> None:
    await desk.plan(1)
    await desk.app.sweeps.start()
    desk.clock.let_pass(hours=21)
    await desk.app.sweeps.repair()  # given up: it has not ended in 20 h
    desk.clock.let_pass(days=3)
    await desk.app.housekeeping.run()
    head = await desk.app.stores.sweeps.read_head()
    assert (head.number, head.committed) == (2, 1)
    assert await sweeps_with_pages(desk) == [1]


async def test_outboxes_go_after_nine_days_but_for_those_that_an_open_row_names(
    desk: Desk,
) -> None:
    """One row in each state that there is, in a campaign whose file validates no more."""
    planned = await desk.plan(8)
    states: list[dict[str, Any]] = [
        {"state": State.PLANNED},
        {"state": State.CLAIMED},
        {"state": State.AMBIGUOUS},
        {"state": State.AMBIGUOUS, "final": True},
        {"state": State.ACCEPTED},
        {"state": State.REJECTED},
        {"state": State.CLOSED, "reason": "expired"},
        {"state": State.CLOSED, "reason": "split"},
    ]
    for parcel, state in zip(planned, states, strict=True):
        await change(desk, parcel, **state)
    versions = desk.app.account.container(NAMES.containers.versions)
    await versions.upload_blob(f"{NAME}/000001.yaml", b"campaign: [", overwrite=True)
    await desk.world.write_campaign("campaign: [")
    tidy = desk.second_app().housekeeping.run

    desk.clock.let_pass(days=8, hours=23)
    await tidy()
    assert len(await blobs(desk, NAMES.containers.outbox)) == 8
    desk.clock.let_pass(hours=2)
    await tidy()
    kept = await blobs(desk, NAMES.containers.outbox)
    assert kept == sorted(parcel.outbox for parcel in planned[:3])


async def test_changes_go_when_no_row_from_before_them_can_still_be_sent(desk: Desk) -> None:
    await desk.plan(1)
    table = Table(desk.app.account.table(NAMES.tables.ledger))
    now = desk.clock.storage_now()
    for days in (0, 8, 12):
        at = StorageTime(now - timedelta(days=days))
        change = change_row(partition_of(NAME, 3), to_text(at), bytes(16), "completed")
        await table.write(Write("put", change))
    await desk.app.housekeeping.run()
    assert len(await ledger_rows(desk, "change|")) == 2
    desk.clock.let_pass(days=3)
    await desk.app.housekeeping.run()
    assert len(await ledger_rows(desk, "change|")) == 1


async def test_events_are_known_again_for_90_days(desk: Desk) -> None:
    events = desk.app.stores.events
    old, new = Event(bytes(32), b"old"), Event(bytes([1] * 32), b"new")
    await events.write([old])
    desk.clock.let_pass(days=60)
    await events.write([new])
    found: dict[int, dict[bytes, bytes]] = {60: await events.read([old.key, new.key])}
    for day, passed in ((89, 29), (91, 2), (151, 60)):
        desk.clock.let_pass(days=passed)
        await desk.app.housekeeping.run()
        found[day] = await events.read([old.key, new.key])
    assert found == {
        60: {old.key: b"old", new.key: b"new"},
        89: {old.key: b"old", new.key: b"new"},
        91: {new.key: b"new"},
        151: {},
    }


async def test_the_ledger_stays_until_180_days_after_the_last_touch(desk: Desk) -> None:
    """To delete a row is to say that nobody of it was written to."""
    await desk.plan(2)
    await desk.send_due()
    await desk.app.stores.people.remember_bad(NAME, 0, [(bytes(16), bytes(16))])
    schedule = (await desk.app.book.read()).standings[NAME].schedule
    everything = await ledger_rows(desk)
    assert any(key.startswith("person|") for key in everything)

    desk.move_clock(schedule.ends + timedelta(days=179))
    await desk.app.housekeeping.run()
    assert await ledger_rows(desk) == everything
    desk.move_clock(schedule.ends + timedelta(days=181))
    await desk.app.housekeeping.run()
    assert await ledger_rows(desk) == []


async def test_a_deadline_that_is_put_off_keeps_the_ledger(desk: Desk) -> None:
    await desk.plan(1)
    await desk.send_due()
    schedule = (await desk.app.book.read()).standings[NAME].schedule
    desk.move_clock(schedule.ends + timedelta(days=170))
    text = campaign_text(deadline="2028-03-31", enforced_from="2028-04-01")
    await desk.world.write_campaign(text)
    await desk.app.book.refresh(accept=True)
    desk.move_clock(schedule.ends + timedelta(days=190))
    await desk.app.housekeeping.run()
    assert (await desk.parcel()).state is State.ACCEPTED


async def test_a_round_may_be_repeated_and_may_overlap_with_another(desk: Desk) -> None:
    await desk.plan(4, at=EARLY)
    await desk.send_due()
    desk.clock.let_pass(days=3)
    await desk.world.sweep()
    desk.clock.let_pass(days=12)
    second = desk.second_app()
    await asyncio.gather(desk.app.housekeeping.run(), second.housekeeping.run())
    await desk.app.housekeeping.run()
    assert await sweeps_with_pages(desk) == [2]
    assert await blobs(desk, NAMES.containers.outbox) == []
