"""What is remembered of people: that an address did not work, and not which address."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.rules.contact import address_key
from shared.stores.parcels import Ledger, partition_of
from shared.stores.people import People, Person
from shared.stores.table import Table
from tests.stores.conftest import Relayed
from tests.stores.making import CAMPAIGN, PLANNED_FROM, person

SHARD = 10
KEY = b"k" * 32
OLD, NEW = (address_key(KEY, address) for address in ("old@example.org", "new@example.org"))


async def bad_of(people: People) -> dict[bytes, frozenset[bytes]]:
    return {who: one.bad for who, one in (await people.read_shard(CAMPAIGN, SHARD)).items()}


async def test_nobody_is_remembered_at_first(people: People) -> None:
    assert await people.read_shard(CAMPAIGN, SHARD) == {}


async def test_bad_addresses_add_up(people: People) -> None:
    await people.remember_bad(CAMPAIGN, SHARD, [(person(1), OLD), (person(2), OLD)])
    await people.remember_bad(CAMPAIGN, SHARD, [(person(1), NEW), (person(1), OLD)])
    assert await bad_of(people) == {
        person(1): frozenset({OLD, NEW}),
        person(2): frozenset({OLD}),
    }
    assert await people.read_shard(CAMPAIGN, SHARD + 1) == {}
    assert await people.read_shard("alumni-2028", SHARD) == {}


async def test_what_is_known_already_is_not_written_again(people: People) -> None:
    await people.remember_bad(CAMPAIGN, SHARD, [(person(1), OLD)])
    before = await people.read_shard(CAMPAIGN, SHARD)
    await people.remember_bad(CAMPAIGN, SHARD, [(person(1), OLD)])
    assert await people.read_shard(CAMPAIGN, SHARD) == before


async def test_nothing_is_lost_when_two_write_at_once(people: People) -> None:
    hashes = [bytes([number]) * 16 for number in range(8)]
    await asyncio.gather(
        *(people.remember_bad(CAMPAIGN, SHARD, [(person(1), one)]) for one in hashes)
    )
    assert await bad_of(people) == {person(1): frozenset(hashes)}


@pytest.mark.parametrize("how", ["cut off", "unavailable"])
@pytest.mark.parametrize("known", [False, True])
async def test_a_write_that_met_itself_is_no_trouble(
    relayed: Relayed, people: People, how: Any, known: bool
) -> None:
    if known:
        await people.remember_bad(CAMPAIGN, SHARD, [(person(1), NEW)])
    relayed.relay.lose_next_answer(how)
    await relayed.people.remember_bad(CAMPAIGN, SHARD, [(person(1), OLD)])
    assert relayed.relay.lost == 1
    assert await bad_of(people) == {person(1): frozenset({OLD, *([NEW] if known else [])})}


@pytest.mark.invariant(6)
async def test_the_ledger_holds_a_keyed_hash_and_no_address(people: People, table: Table) -> None:
    await people.remember_bad(CAMPAIGN, SHARD, [(person(1), OLD)])
    rows = [row async for row in table.scan(partition_of(CAMPAIGN, SHARD))]
    (row,) = rows
    assert {name for name in row if name != "etag"} == {"PartitionKey", "RowKey", "bad"}
    assert row["RowKey"] == f"person|{person(1).hex()}"
    assert row["bad"] == OLD
    assert address_key(b"another key, of another campaign", "old@example.org") != OLD


async def test_people_and_parcels_do_not_meet(people: People, ledger: Ledger) -> None:
    await people.remember_bad(CAMPAIGN, SHARD, [(person(1), OLD)])
    run = await ledger.take_fence(CAMPAIGN, SHARD, None, (1, 1), "run", PLANNED_FROM)
    await run.note_changes([person(2)])
    assert set(await people.read_shard(CAMPAIGN, SHARD)) == {person(1)}
    assert [parcel async for parcel in ledger.scan(CAMPAIGN, SHARD)] == []
    assert Person().bad == frozenset()
