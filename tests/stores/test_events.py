"""Events that were told: known again, and forgotten."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import AzureError

from shared.clock import StorageTime, SystemClock
from shared.stores.events import Event, Events
from shared.stores.table import Table, Write
from tests.stores.conftest import Relayed


@pytest.fixture
def events(table: Table, clock: SystemClock) -> Events:
    return Events(table, clock)


def event(number: int, says: bytes = b"this") -> Event:
    return Event(number.to_bytes(32), says)


def later(clock: SystemClock, **time: float) -> StorageTime:
    return StorageTime(clock.storage_now() + timedelta(**time))


async def rows_of(table: Table) -> list[dict[str, Any]]:
    return [row async for row in table.scan("events")]


async def test_what_was_written_is_found_and_nothing_else(events: Events) -> None:
    await events.write([event(number) for number in range(250)])
    asked = [event(number).key for number in range(200, 300)]
    found = await events.read(asked)
    assert found == {event(number).key: b"this" for number in range(200, 250)}
    assert await events.read([]) == {}


async def test_nothing_to_write_is_no_trouble(events: Events, table: Table) -> None:
    await events.write([])
    assert await rows_of(table) == []


async def test_the_newest_word_stands(events: Events) -> None:
    await events.write([event(1)])
    await events.write([event(1, b"that"), event(2)])
    assert await events.read([event(1).key, event(2).key]) == {
        event(1).key: b"that",
        event(2).key: b"this",
    }


async def test_two_may_write_the_same_at_once(events: Events) -> None:
    same = [event(number) for number in range(99)]
    await asyncio.gather(*(events.write(same) for _ in range(4)))
    assert len(await events.read([one.key for one in same])) == 99


@pytest.mark.invariant(6)
async def test_a_row_holds_hash_digest_and_time(events: Events, table: Table) -> None:
    await events.write([event(7)])
    (row,) = await rows_of(table)
    assert row.keys() == {"PartitionKey", "RowKey", "digest", "at", "etag"}
    assert row["RowKey"] == event(7).key.hex()
    assert datetime.fromisoformat(row["at"]).tzinfo


async def test_old_ones_go_and_new_ones_stay(
    events: Events, table: Table, clock: SystemClock
) -> None:
    await events.write([event(number) for number in range(230)])
    between = later(clock, seconds=1)
    new = {"PartitionKey": "events", "RowKey": "new", "digest": b"", "at": "2999-01-01T00:00:00Z"}
    await table.write(Write("put", new))
    assert await events.delete_old(StorageTime(between - timedelta(hours=1))) == 0
    assert await events.delete_old(between) == 230
    assert await events.delete_old(between) == 0
    assert [row["RowKey"] for row in await rows_of(table)] == ["new"]


async def test_two_rounds_may_overlap(events: Events, table: Table, clock: SystemClock) -> None:
    await events.write([event(number) for number in range(300)])
    rounds = [events.delete_old(later(clock, hours=1)) for _ in range(3)]
    assert sum(await asyncio.gather(*rounds)) == 300
    assert await rows_of(table) == []


@pytest.mark.parametrize("how", ["cut off", "unavailable"])
async def test_an_answer_that_got_lost_is_no_trouble(
    relayed: Relayed, events: Events, clock: SystemClock, how: Any
) -> None:
    """The SDK sends it again; a deletion then meets itself."""
    through = Events(relayed.table, clock)
    relayed.relay.lose_next_answer(how)
    await through.write([event(1), event(2)])
    assert len(await events.read([event(1).key, event(2).key])) == 2
    relayed.relay.lose_next_answer(how)
    await through.delete_old(later(clock, hours=1))
    assert relayed.relay.lost == 2
    assert await events.read([event(1).key]) == {}


async def test_a_table_that_is_not_there_is_not_an_empty_one(
    connection_string: str, clock: SystemClock
) -> None:
    from shared.stores.account import StorageAccount, StorageSettings

    account = StorageAccount(StorageSettings(connection_string=connection_string), clock)
    try:
        with pytest.raises(AzureError):
            await Events(Table(account.table("ledger")), clock).read([event(1).key])
    finally:
        await account.close()
