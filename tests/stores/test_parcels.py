"""The ledger of a shard: one writer, held by the fence; and what a lost answer must not undo."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import CampaignTime, StorageTime, SystemClock
from shared.errors import Superseded
from shared.rules.guards import ShardCounts
from shared.rules.parcels import Parcel, State
from shared.stores.parcels import (
    Changes,
    Fence,
    Ledger,
    PlanningRun,
    RowsChanged,
    parcel_from,
    partition_of,
    row_from,
    to_text,
)
from shared.stores.people import People
from shared.stores.table import ETAG, Conflict, Table, Write
from tests.stores.conftest import Relayed
from tests.stores.making import CAMPAIGN, NOON, PLANNED_FROM, make_parcel, make_parcels, person

SHARD = 10
PAIR = (1, 1)
NEWER = (2, 1)
COUNTS = ShardCounts(roster=3, unregistered=2, recipients=2, parcels=1, reasons={"guest": 1})
EITHER_WAY = pytest.mark.parametrize("how", ["cut off", "unavailable"])


async def take(
    ledger: Ledger, run: str = "run1", pair: tuple[int, int] = PAIR, seen: Fence | None = None
) -> PlanningRun:
    seen = seen or await ledger.read_fence(CAMPAIGN, SHARD)
    return await ledger.take_fence(CAMPAIGN, SHARD, seen, pair, run, PLANNED_FROM)


async def fence_of(ledger: Ledger) -> Fence:
    fence = await ledger.read_fence(CAMPAIGN, SHARD)
    assert fence is not None
    return fence


async def planned(ledger: Ledger, parcels: list[Parcel]) -> list[Parcel]:
    """Write rows as a planner does; gives them as they stand."""
    await (await take(ledger, f"before{len(parcels)}")).plan(parcels)
    return await all_of(ledger)


async def all_of(ledger: Ledger) -> list[Parcel]:
    return [parcel async for parcel in ledger.scan(CAMPAIGN, SHARD)]


def claim(attempt: str = "attempt1") -> dict[str, Any]:
    return {
        "state": State.CLAIMED,
        "attempt": attempt,
        "claimed_at": StorageTime(datetime(2027, 3, 17, 5, tzinfo=UTC)),
        "touched_at": NOON,
    }


# what a row holds

_TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
_NAMES = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=20)


@given(
    st.builds(
        Parcel,
        campaign=_NAMES,
        shard=st.integers(0, 15),
        key=st.just("20270317|0123456789ab00000"),
        etag=st.just("e"),
        state=st.sampled_from(State),
        ids=st.integers(1, 9).map(lambda count: bytes(range(16)) * count),
        not_before=_TIMES,
        not_after=_TIMES,
        planned_from=_TIMES,
        released_at=st.none() | _TIMES,
        retry_at=st.none() | _TIMES,
        claimed_at=st.none() | _TIMES,
        touched_at=st.none() | _TIMES,
        **dict.fromkeys(("touch", "channel", "message", "language", "outbox"), _NAMES),
        digest=st.binary(min_size=1),
        reason=st.text(),
        left_out=st.binary(),
        refused=st.binary(),
        attempt=st.text(),
        doubt=st.booleans(),
        resent=st.booleans(),
        faults=st.integers(0, 3),
        final=st.booleans(),
    )
)
def test_a_parcel_survives_the_way_through_its_row(parcel: Parcel) -> None:
    row = row_from(parcel)
    assert parcel_from({**row, ETAG: "e"}) == parcel
    assert row["count"] == parcel.count


async def test_a_row_reads_as_it_was_planned(ledger: Ledger) -> None:
    parcel = make_parcel(person(1), person(2), left_out=b"\x01", faults=1, reason="fault: x")
    (found,) = await planned(ledger, [parcel])
    assert found == msgspec.structs.replace(parcel, etag=found.etag)
    assert await ledger.read(CAMPAIGN, SHARD, parcel.key) == found
    assert await ledger.read(CAMPAIGN, SHARD, "20270317|nothing") is None


async def test_a_change_can_take_a_value_away(ledger: Ledger) -> None:
    (parcel,) = await planned(ledger, [make_parcel(left_out=b"\x01")])
    for at in (PLANNED_FROM, None):
        parcel = await ledger.change(parcel, released_at=at, left_out=b"" if at is None else b"\3")
        assert await ledger.read(CAMPAIGN, SHARD, parcel.key) == parcel
        assert parcel.released_at == at


# the fence


async def test_the_fence_tells_who_planned_and_how_far(ledger: Ledger) -> None:
    assert await ledger.read_fence(CAMPAIGN, SHARD) is None
    run = await take(ledger)
    steps: list[Callable[[], Awaitable[None]]] = [
        lambda: run.plan(make_parcels(1)),
        lambda: run.note_changes([person(1)]),
        lambda: run.finish(COUNTS),
    ]
    for number, step in enumerate(steps):
        fence = await fence_of(ledger)
        assert (fence.pair, fence.run, fence.number, fence.done) == (PAIR, "run1", number, False)
        assert fence.counts == ShardCounts()
        await step()
    fence = await fence_of(ledger)
    assert (fence.number, fence.done, fence.counts) == (3, True, COUNTS)


async def test_every_99_rows_are_one_transaction_with_the_fence(ledger: Ledger) -> None:
    run = await take(ledger)
    await run.plan(make_parcels(199))
    assert (await fence_of(ledger)).number == 3
    assert [p.key for p in await all_of(ledger)] == [p.key for p in make_parcels(199)]
    assert await run.take_back(await all_of(ledger)) == []
    assert (await fence_of(ledger)).number == 6
    assert {(p.state, p.reason) for p in await all_of(ledger)} == {(State.CLOSED, "replanned")}


@pytest.mark.parametrize("seen", ["nothing", "an old fence"])
async def test_of_planners_that_come_together_one_gets_the_fence(ledger: Ledger, seen: str) -> None:
    before = None
    if seen == "an old fence":
        await take(ledger, "old")
        before = await fence_of(ledger)
    runs = await asyncio.gather(
        *(
            ledger.take_fence(CAMPAIGN, SHARD, before, NEWER, f"run{n}", PLANNED_FROM)
            for n in range(5)
        ),
        return_exceptions=True,
    )
    winners = [run for run in runs if isinstance(run, PlanningRun)]
    assert len(winners) == 1
    assert [type(run) for run in runs].count(Superseded) == 4
    assert (await fence_of(ledger)).run == winners[0].run


STEPS: dict[str, Callable[[PlanningRun, list[Parcel]], Awaitable[object]]] = {
    "take back": lambda run, there: run.take_back(there),
    "plan": lambda run, _: run.plan([make_parcel(key="20270318|late00000")]),
    "note changes": lambda run, _: run.note_changes([person(1)]),
    "finish": lambda run, _: run.finish(COUNTS),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_a_planner_that_lost_the_fence_can_write_nothing(
    ledger: Ledger, step: Callable[[PlanningRun, list[Parcel]], Awaitable[object]]
) -> None:
    there = await planned(ledger, make_parcels(2))
    slow = await take(ledger, "slow")
    await take(ledger, "fast", NEWER)
    with pytest.raises(Superseded):
        await step(slow, there)
    assert await all_of(ledger) == there
    assert await ledger.read_changes(CAMPAIGN, SHARD, PLANNED_FROM) == Changes()
    assert (await fence_of(ledger)).run == "fast"


async def test_a_planner_shows_that_it_is_alive(ledger: Ledger, clock: SystemClock) -> None:
    run = await take(ledger)
    await run.refresh()
    assert (await fence_of(ledger)).number == 0, "it wrote just now"
    clock.ages = msgspec.structs.replace(clock.ages, fence_refresh=0.0)
    await run.refresh()
    assert (await fence_of(ledger)).number == 1


async def test_a_shard_can_be_asked_for_anew(ledger: Ledger) -> None:
    run = await take(ledger)
    await run.finish(COUNTS)
    seen = await fence_of(ledger)
    await ledger.reopen(CAMPAIGN, SHARD, seen)
    fence = await fence_of(ledger)
    assert (fence.pair, fence.run, fence.done) == (PAIR, "", False)
    await ledger.reopen(CAMPAIGN, SHARD, seen)  # someone was faster: no harm
    assert await fence_of(ledger) == fence


# taking back


@pytest.mark.invariant(1)
async def test_what_was_claimed_meanwhile_is_not_taken_back(ledger: Ledger) -> None:
    there = await planned(ledger, make_parcels(120))
    run = await take(ledger, "newer", NEWER)
    claimed = {there[n].key for n in (0, 5, 98, 99, 119)}
    for parcel in there:
        if parcel.key in claimed:
            await ledger.change(parcel, **claim())
    stayed = await run.take_back(there)
    assert {p.key for p in stayed} == claimed
    for parcel in await all_of(ledger):
        assert parcel.state is (State.CLAIMED if parcel.key in claimed else State.CLOSED)
        if parcel.key in claimed:
            assert parcel in stayed, "as it is now, with its ids"


@pytest.mark.invariant(1)
async def test_what_was_taken_back_cannot_be_claimed(ledger: Ledger) -> None:
    """A message handed out before carries an ETag that no longer stands."""
    (parcel,) = await planned(ledger, make_parcels(1))
    await (await take(ledger, "newer", NEWER)).take_back([parcel])
    with pytest.raises(Conflict):
        await ledger.change(parcel, **claim())


MEANWHILE: list[tuple[str, dict[str, Any], bool]] = [
    # what happened to the row since it was read, and whether it is taken back
    ("handed out again", {"released_at": PLANNED_FROM}, True),
    ("came back from a claim", {"attempt": "a1", "retry_at": PLANNED_FROM}, True),
    ("claimed", claim(), False),
    ("came back with a doubt", {"attempt": "a1", "doubt": True}, False),
    ("accepted", {"state": State.ACCEPTED}, False),
    ("ambiguous", {"state": State.AMBIGUOUS, "doubt": True}, False),
    ("rejected", {"state": State.REJECTED}, False),
    ("expired", {"state": State.CLOSED, "reason": "expired"}, False),
]


@pytest.mark.parametrize(
    ("change", "taken"), [one[1:] for one in MEANWHILE], ids=[one[0] for one in MEANWHILE]
)
async def test_a_row_that_changed_is_looked_at_again(
    ledger: Ledger, change: dict[str, Any], taken: bool
) -> None:
    there = await planned(ledger, make_parcels(3))
    run = await take(ledger, "newer", NEWER)
    changed = await ledger.change(there[1], **change)
    stayed = await run.take_back(there)
    assert stayed == ([] if taken else [changed])
    first, second, third = await all_of(ledger)
    assert {first.reason, third.reason} == {"replanned"}
    assert second.reason == "replanned" if taken else second == changed


async def test_the_parts_of_a_row_that_was_split_meanwhile_are_taken_back(ledger: Ledger) -> None:
    """A scan that saw the whole row has passed by the keys of its parts."""
    (seen,) = await planned(ledger, [make_parcel(person(1), person(2))])
    run = await take(ledger, "newer", NEWER)
    whole = await ledger.change(seen, **claim())
    await ledger.split(whole, _halves(whole))
    _, first, _ = await all_of(ledger)
    first = await ledger.change(first, **claim("attempt2"))
    assert await run.take_back([seen]) == [first]
    assert [(p.state, p.reason) for p in await all_of(ledger)] == [
        (State.CLOSED, "split"),
        (State.CLAIMED, ""),
        (State.CLOSED, "replanned"),
    ]


async def test_a_row_with_a_doubt_behind_it_is_never_taken_back(ledger: Ledger) -> None:
    there = await planned(ledger, [make_parcel(doubt=True)])
    run = await take(ledger, "newer", NEWER)
    with pytest.raises(ValueError, match="planner may not"):
        await run.take_back(there)
    assert await all_of(ledger) == there


async def test_a_key_that_exists_is_not_planned_over(ledger: Ledger) -> None:
    there = await planned(ledger, make_parcels(1))
    run = await take(ledger, "newer", NEWER)
    with pytest.raises(RowsChanged):
        await run.plan(make_parcels(2))
    assert await all_of(ledger) == there
    await run.finish(COUNTS)
    fence = await fence_of(ledger)
    assert (fence.number, fence.done) == (1, True), "the refused transaction does not count"


# an answer that is lost: the SDK sends the write again, and it meets itself


@EITHER_WAY
@pytest.mark.parametrize("first", [True, False], ids=["the first fence", "a later fence"])
async def test_the_fence_is_ours_though_we_were_not_told(
    relayed: Relayed, ledger: Ledger, how: Any, first: bool
) -> None:
    if not first:
        await take(ledger, "old")
    seen = await ledger.read_fence(CAMPAIGN, SHARD)
    relayed.relay.lose_next_answer(how)
    run = await relayed.ledger.take_fence(CAMPAIGN, SHARD, seen, NEWER, "ours", PLANNED_FROM)
    assert relayed.relay.lost == 1
    await run.finish(COUNTS)
    fence = await fence_of(ledger)
    assert (fence.run, fence.number, fence.done) == ("ours", 1, True)


@EITHER_WAY
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_a_transaction_stands_though_we_were_not_told(
    relayed: Relayed,
    ledger: Ledger,
    how: Any,
    step: Callable[[PlanningRun, list[Parcel]], Awaitable[object]],
) -> None:
    there = await planned(ledger, make_parcels(2))
    run = await take(relayed.ledger, "ours", NEWER)
    relayed.relay.lose_next_answer(how)
    await step(run, there)
    assert relayed.relay.lost == 1
    assert (await fence_of(ledger)).number == 1
    await run.plan([make_parcel(key="20270319|next00000")])
    assert (await fence_of(ledger)).number == 2
    keys = [parcel.key for parcel in await all_of(ledger)]
    assert len(keys) == len(set(keys))


@EITHER_WAY
async def test_the_fence_may_be_lost_while_an_answer_is(
    relayed: Relayed, ledger: Ledger, how: Any
) -> None:
    run = await take(relayed.ledger, "ours")
    relayed.relay.lose_next_answer(how)
    taking = asyncio.create_task(_take_as_soon_as(ledger, lambda f: f.number == 1))
    try:
        await run.plan(make_parcels(1))
    except Superseded:
        assert (await fence_of(ledger)).run == "theirs"
    await taking
    with pytest.raises(Superseded):
        await run.finish(COUNTS)
    assert len(await all_of(ledger)) == 1, "what had landed stands, for the other to take back"


async def _take_as_soon_as(ledger: Ledger, ready: Callable[[Fence], bool]) -> None:
    while not ready(fence := await fence_of(ledger)):
        await asyncio.sleep(0)
    await take(ledger, "theirs", NEWER, fence)


@pytest.mark.invariant(1)
@EITHER_WAY
async def test_a_claim_is_known_by_its_attempt(relayed: Relayed, ledger: Ledger, how: Any) -> None:
    """The store says conflict, and the row then says whose it is."""
    (parcel,) = await planned(ledger, make_parcels(1))
    relayed.relay.lose_next_answer(how)
    with pytest.raises(Conflict):
        await relayed.ledger.change(parcel, **claim("ours"))
    row = await ledger.read(CAMPAIGN, SHARD, parcel.key)
    assert row is not None
    assert (row.state, row.attempt) == (State.CLAIMED, "ours")
    with pytest.raises(Conflict):
        await ledger.change(parcel, **claim("theirs"))


@EITHER_WAY
async def test_handing_out_stands_though_we_were_not_told(
    relayed: Relayed, ledger: Ledger, how: Any
) -> None:
    there = await planned(ledger, make_parcels(3))
    relayed.relay.lose_next_answer(how)
    changed, dropped = await relayed.ledger.change_many(there, released_at=PLANNED_FROM)
    assert relayed.relay.lost == 1
    assert (changed, dropped) == (await all_of(ledger), [])


@EITHER_WAY
async def test_a_split_happens_once(relayed: Relayed, ledger: Ledger, how: Any) -> None:
    (parcel,) = await planned(ledger, [make_parcel(person(1), person(2), **claim())])
    relayed.relay.lose_next_answer(how)
    with pytest.raises(Conflict):
        await relayed.ledger.split(parcel, _halves(parcel))
    found = await all_of(ledger)
    assert [p.key.removeprefix(parcel.key) for p in found] == ["", "a", "b"]


@EITHER_WAY
async def test_deleting_goes_on(relayed: Relayed, ledger: Ledger, how: Any) -> None:
    await planned(ledger, make_parcels(150))
    relayed.relay.lose_next_answer(how)
    await relayed.ledger.delete_campaign(CAMPAIGN)
    assert relayed.relay.lost == 1
    assert await all_of(ledger) == []


# one change of many rows

CONFLICTS = [
    ("none", 5, set[int]()),
    ("the first", 5, {0}),
    ("the last", 5, {4}),
    ("some in the middle", 7, {2, 3, 5}),
    ("all", 4, {0, 1, 2, 3}),
    ("some of two transactions", 130, {0, 50, 98, 99, 129}),
]


@pytest.mark.parametrize(
    ("count", "conflicting"), [one[1:] for one in CONFLICTS], ids=[one[0] for one in CONFLICTS]
)
async def test_exactly_the_conflicting_rows_are_dropped(
    ledger: Ledger, count: int, conflicting: set[int]
) -> None:
    there = await planned(ledger, make_parcels(count))
    theirs = {there[n].key: await ledger.change(there[n], **claim()) for n in conflicting}
    order = sorted(there, key=lambda parcel: parcel.key[::-1])  # release has an order of its own
    changed, dropped = await ledger.change_many(order, released_at=PLANNED_FROM, retry_at=None)
    assert {p.key for p in dropped} == set(theirs)
    assert {p.key for p in changed} == {p.key for p in there} - set(theirs)
    for parcel in await all_of(ledger):
        assert parcel in changed or parcel == theirs[parcel.key]


async def test_rows_that_are_gone_are_dropped(ledger: Ledger, table: Table) -> None:
    there = await planned(ledger, make_parcels(3))
    gone = there[1]
    keys = {"PartitionKey": partition_of(CAMPAIGN, SHARD), "RowKey": gone.key}
    await table.write(Write("delete", keys, gone.etag))
    changed, dropped = await ledger.change_many(there, released_at=PLANNED_FROM)
    assert [p.key for p in changed] == [there[0].key, there[2].key]
    assert dropped == [gone]


async def test_two_releasers_share_the_rows(ledger: Ledger) -> None:
    """Each row is stamped by one of them; a stamp carries who."""
    there = await planned(ledger, make_parcels(60))
    one, other = PLANNED_FROM, StorageTime(PLANNED_FROM + timedelta(seconds=1))
    (first, _), (second, _) = await asyncio.gather(
        ledger.change_many(there, released_at=one),
        ledger.change_many(there[30:], released_at=other),
    )
    assert sorted(p.key for p in (*first, *second)) == [p.key for p in there]
    assert sorted((*first, *second), key=lambda p: p.key) == await all_of(ledger)


async def test_a_change_that_two_want_alike_is_the_change_of_one(ledger: Ledger) -> None:
    """Of a repair both know the same and neither has a stamp of its own."""
    there = await planned(ledger, make_parcels(30))
    change: dict[str, Any] = {"state": State.CLOSED, "reason": "expired"}
    first, none = await ledger.change_many(there[:20], **change)
    second, theirs = await ledger.change_many(there[10:], **change)
    assert [p.key for p in first] == [p.key for p in there[:20]]
    assert [p.key for p in second] == [p.key for p in there[20:]]
    assert (none, theirs) == ([], there[10:20])


# splitting


def _halves(parent: Parcel) -> list[Parcel]:
    return [
        msgspec.structs.replace(parent, key=f"{parent.key}{suffix}", etag="", state=State.PLANNED)
        for suffix in "ab"
    ]


async def test_a_split_is_one_transaction(ledger: Ledger) -> None:
    (parent,) = await planned(ledger, [make_parcel(person(1), person(2), **claim())])
    await ledger.split(parent, _halves(parent))
    closed, *children = await all_of(ledger)
    assert (closed.state, closed.reason) == (State.CLOSED, "split")
    assert [(p.key.removeprefix(parent.key), p.state) for p in children] == [
        ("a", State.PLANNED),
        ("b", State.PLANNED),
    ]


async def test_a_split_of_a_row_that_changed_leaves_no_children(ledger: Ledger) -> None:
    (parent,) = await planned(ledger, [make_parcel(person(1), person(2), **claim())])
    given_up = await ledger.change(parent, state=State.AMBIGUOUS, doubt=True)
    with pytest.raises(Conflict):
        await ledger.split(parent, _halves(parent))
    assert await all_of(ledger) == [given_up]


# what release reads


async def test_release_reads_no_ids_and_nothing_old_or_closed(
    relayed: Relayed, ledger: Ledger, clock: SystemClock
) -> None:
    today = clock.storage_now()
    days = {age: f"{today - timedelta(days=age):%Y%m%d}" for age in (0, 8, 9, 10)}
    crowd = [person(number) for number in range(1000)]
    rows = [make_parcel(*crowd, key=f"{day}|r00000") for day in days.values()]
    rows.append(make_parcel(key=f"{days[0]}|r00001", state=State.CLOSED, reason="expired"))
    there = {p.key: p for p in await planned(ledger, rows)}
    found = [p async for p in relayed.ledger.scan_recent(CAMPAIGN, SHARD)]
    assert [p.key for p in found] == [f"{days[age]}|r00000" for age in (9, 8, 0)]
    for parcel in found:
        assert parcel == msgspec.structs.replace(there[parcel.key], ids=bytes(16000))
        assert parcel.count == 1000
    assert relayed.relay.received < 3 * 2500, "16,000 bytes of ids a row stay where they are"


# changes


async def test_changes_tell_who_since_when(ledger: Ledger, clock: SystemClock) -> None:
    run = await take(ledger)
    start = clock.storage_now()
    clock.observe_storage(start)
    await run.note_changes([person(1), person(2)])
    clock.observe_storage(start + timedelta(minutes=10))
    await run.note_changes([person(2), person(3)])
    early, late = (StorageTime(start + timedelta(minutes=minutes)) for minutes in (-1, 5))
    everybody = (await ledger.read_changes(CAMPAIGN, SHARD, early)).left_out
    assert set(everybody) == {person(1), person(2), person(3)}
    assert everybody[person(1)] < late < everybody[person(2)], "the newest change of each"
    later = await ledger.read_changes(CAMPAIGN, SHARD, late)
    assert (set(later.left_out), later.reported) == ({person(2), person(3)}, {})
    assert await ledger.read_changes(CAMPAIGN, SHARD + 1, early) == Changes()


async def test_old_changes_are_deleted_and_nothing_else(
    ledger: Ledger, people: People, clock: SystemClock
) -> None:
    there = await planned(ledger, make_parcels(2))
    run = await take(ledger)
    start = clock.storage_now()
    await run.note_changes([person(number) for number in range(150)])
    clock.observe_storage(start + timedelta(minutes=10))
    await run.note_changes([person(200)])
    await people.remember_bad(CAMPAIGN, SHARD, [(person(1), bytes(16))])
    middle = StorageTime(start + timedelta(minutes=5))
    assert await ledger.delete_changes(CAMPAIGN, SHARD, middle) == 150
    left = await ledger.read_changes(CAMPAIGN, SHARD, start)
    assert set(left.left_out) == {person(200)}
    assert await all_of(ledger) == there
    assert set(await people.read_shard(CAMPAIGN, SHARD)) == {person(1)}
    assert (await fence_of(ledger)).run == "run1"


async def test_a_campaign_is_deleted_whole_and_alone(ledger: Ledger, table: Table) -> None:
    await planned(ledger, make_parcels(120))
    other = {"PartitionKey": partition_of("alumni-2028", SHARD), "RowKey": "fence"}
    await table.write(Write("put", other))
    deleted = await asyncio.gather(*(ledger.delete_campaign(CAMPAIGN) for _ in range(2)))
    assert sum(deleted) == 121, "two timers side by side are no harm"
    assert await all_of(ledger) == []
    assert await ledger.read_fence(CAMPAIGN, SHARD) is None
    assert await table.read(other["PartitionKey"], "fence") is not None


# limits


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_the_largest_transaction_of_planning_fits(relayed: Relayed) -> None:
    """99 rows of 1,000 people, the most that a campaign file allows: half of Azure's 4 MiB."""
    crowd = [person(number) for number in range(1000)]
    full = {"left_out": b"\xff" * 125, "refused": b"\xff" * 125, "reason": "r" * 100}
    rows = [make_parcel(*crowd, key=f"20270317|r{n:05d}", **full) for n in range(99)]
    run = await take(relayed.ledger)
    await run.plan(rows)
    assert 2_000_000 < max(relayed.relay.sizes) < 2_500_000


def test_times_sort_as_text() -> None:
    times = [
        datetime(2027, 3, 17, 12, tzinfo=UTC),
        datetime(2027, 3, 17, 12, 0, 0, 1, tzinfo=UTC),
        datetime(2027, 3, 17, 20, 0, 1, tzinfo=CampaignTime(NOON).tzinfo),
    ]
    assert sorted(map(to_text, times)) == list(map(to_text, times))
    assert to_text(times[0]) == "2027-03-17T12:00:00.000000Z"
