"""What is remembered of people: that an address did not work, and not which address; what they, or
others, have said of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.clock import StorageTime
from shared.rules.contact import address_key
from shared.stores.parcels import Changes, Ledger, partition_of
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
    assert {name for name in row if name != "etag"} == {
        "PartitionKey",
        "RowKey",
        f"bad_{OLD.hex()}",
    }
    assert row["RowKey"] == f"person|{person(1).hex()}"
    assert address_key(b"another key, of another campaign", "old@example.org") != OLD


# completions and opt-outs

EVER = StorageTime(datetime(2000, 1, 1, tzinfo=UTC))


async def test_a_completion_is_remembered_with_its_evidence_and_dispatch_is_told(
    people: People, ledger: Ledger
) -> None:
    await people.remember_completed(CAMPAIGN, SHARD, {person(1): "methods"}, "confirmed")
    await people.remember_completed(CAMPAIGN, SHARD, {person(2): ""}, "reported")
    await people.remember_opted_out(CAMPAIGN, SHARD, [person(3)])
    found = await people.read_shard(CAMPAIGN, SHARD)
    assert {
        who: (bool(one.confirmed_at), one.evidence, bool(one.reported_at), bool(one.opted_out_at))
        for who, one in found.items()
    } == {
        person(1): (True, "methods", False, False),
        person(2): (False, "", True, False),
        person(3): (False, "", False, True),
    }
    changes = await ledger.read_changes(CAMPAIGN, SHARD, EVER)
    assert set(changes.left_out) == {person(1), person(3)}
    assert set(changes.reported) == {person(2)}
    assert await ledger.read_changes("alumni-2028", SHARD, EVER) == Changes()


async def test_who_wants_no_more_on_one_channel_may_be_written_to_on_the_other(
    people: People, ledger: Ledger
) -> None:
    await people.remember_opted_out(CAMPAIGN, SHARD, [person(1), person(2)], "sms")
    await people.remember_opted_out(CAMPAIGN, SHARD, [person(2)], "email")
    await people.remember_opted_out(CAMPAIGN, SHARD, [person(3)])
    found = await people.read_shard(CAMPAIGN, SHARD)
    assert {who: (one.opted_out("email"), one.opted_out("sms")) for who, one in found.items()} == {
        person(1): (False, True),
        person(2): (True, True),
        person(3): (True, True),
    }
    changes = await ledger.read_changes(CAMPAIGN, SHARD, EVER)
    assert {on: set(times) for on, times in changes.refuses.items()} == {
        "sms": {person(1), person(2)},
        "email": {person(2)},
    }
    assert set(changes.left_out) == {person(3)}


async def test_the_same_said_twice_is_the_same(people: People) -> None:
    for _ in range(2):
        await people.remember_completed(CAMPAIGN, SHARD, {person(1): "methods"}, "confirmed")
        await people.remember_opted_out(CAMPAIGN, SHARD, [person(1)])
    (one,) = (await people.read_shard(CAMPAIGN, SHARD)).values()
    assert one.confirmed_at
    assert one.opted_out_at


async def test_nobody_overwrites_what_another_remembers(people: People) -> None:
    hashes = [bytes([number]) * 16 for number in range(4)]
    await asyncio.gather(
        people.remember_completed(CAMPAIGN, SHARD, {person(1): "methods"}, "confirmed"),
        people.remember_completed(CAMPAIGN, SHARD, {person(1): ""}, "reported"),
        people.remember_opted_out(CAMPAIGN, SHARD, [person(1)]),
        *(people.remember_bad(CAMPAIGN, SHARD, [(person(1), one)]) for one in hashes),
    )
    (one,) = (await people.read_shard(CAMPAIGN, SHARD)).values()
    assert one.bad == frozenset(hashes)
    assert one.confirmed_at
    assert one.reported_at
    assert one.opted_out_at


async def test_many_at_once_are_all_remembered(people: People, ledger: Ledger) -> None:
    everybody = [person(number) for number in range(120)]
    await people.remember_completed(
        CAMPAIGN, SHARD, dict.fromkeys(everybody, "callback"), "confirmed"
    )
    assert set(await people.read_shard(CAMPAIGN, SHARD)) == set(everybody)
    changes = await ledger.read_changes(CAMPAIGN, SHARD, EVER)
    assert set(changes.left_out) == set(everybody)


@pytest.mark.parametrize("how", ["cut off", "unavailable"])
async def test_a_fact_that_met_itself_is_no_trouble(
    relayed: Relayed, people: People, how: Any
) -> None:
    relayed.relay.lose_next_answer(how)
    await relayed.people.remember_opted_out(CAMPAIGN, SHARD, [person(1)])
    assert relayed.relay.lost == 1
    (one,) = (await people.read_shard(CAMPAIGN, SHARD)).values()
    assert one.opted_out_at


async def test_people_and_parcels_do_not_meet(people: People, ledger: Ledger) -> None:
    await people.remember_bad(CAMPAIGN, SHARD, [(person(1), OLD)])
    run = await ledger.take_fence(CAMPAIGN, SHARD, None, (1, 1), "run", PLANNED_FROM)
    await run.note_changes([person(2)])
    assert set(await people.read_shard(CAMPAIGN, SHARD)) == {person(1)}
    assert [parcel async for parcel in ledger.scan(CAMPAIGN, SHARD)] == []
    assert Person().bad == frozenset()
