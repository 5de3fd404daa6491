"""What becomes of receipts: one ledger, in whatever order and however often they come."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from shared.clock import Ages, StorageTime, SystemClock
from shared.errors import NotRecorded
from shared.names import NAMES
from shared.rules.campaign import Allowed
from shared.rules.contact import address_key
from shared.rules.parcels import Channel, Parcel, State, with_bits
from shared.services.directory import Directory
from shared.services.webhooks import Event, EventKind
from shared.stores import Stores
from shared.stores.account import StorageAccount, StorageSettings
from shared.stores.parcels import row_from
from shared.stores.people import Person
from shared.stores.queues import MOST_BYTES, ShardReceipts, decode_message
from shared.stores.table import Table, Write
from shared.workflows.campaigns import CampaignBook
from shared.workflows.completion import CompletionWorkflow
from shared.workflows.receipts import ReceiptsWorkflow
from tests.sending import (
    Call,
    Desk,
    LossyTable,
    change,
    in_one_shard,
    losing_answers,
    running_desk,
)
from tests.stores.making import CAMPAIGN, make_parcel, person
from tests.world import FORTNIGHT, NAME

SHARD = 10
OTHER = "alumni-2028"
KEY = b"0123456789abcdef"
ATTEMPT, EARLIER = "00112233aabbccdd", "ffffffffffffffff"
CLAIMED = StorageTime(SystemClock().storage_now())

DELIVERED, ACCEPTED = EventKind.DELIVERED, EventKind.ACCEPTED
BAD, OPTED_OUT, DROPPED = EventKind.BAD_ADDRESS, EventKind.OPTED_OUT, EventKind.DROPPED


@dataclass
class Bench:
    """The workflow over one storage account, whose ledger has what a test puts there."""

    account: StorageAccount
    stores: Stores
    receipts: ReceiptsWorkflow
    table: LossyTable

    async def put(self, *parcels: Parcel) -> list[Parcel]:
        """Put rows into the ledger, as if they had come there."""
        ledger = Table(self.account.table(NAMES.tables.ledger))
        for parcel in parcels:
            await ledger.write(Write("put", row_from(parcel)))
        self.table.written.clear()
        return [await self.row(parcel) for parcel in parcels]

    async def row(self, parcel: Parcel) -> Parcel:
        """A row as it is now."""
        row = await self.stores.ledger.read(parcel.campaign, parcel.shard, parcel.key)
        assert row is not None
        return row

    async def people(self, campaign: str = CAMPAIGN) -> dict[bytes, Person]:
        return await self.stores.people.read_shard(campaign, SHARD)

    async def queued(self) -> list[ShardReceipts]:
        """What is on the queue, taken off it."""
        queue = self.account.queue(NAMES.queues.receipts)
        taken: list[ShardReceipts] = []
        async for message in queue.receive_messages():
            assert len(message.content) <= MOST_BYTES
            taken.append(decode_message(message.content, ShardReceipts))
            await queue.delete_message(message)
        return taken

    async def report(self, *events: Event, channel: Channel = "email") -> None:
        """All that follows from a provider's request."""
        await self.receipts.take(events, channel)
        for message in await self.queued():
            await self.receipts.settle(message)

    def another(self, ages: Ages | None = None) -> ReceiptsWorkflow:
        """The workflow in another process."""
        return make_workflow(self.stores, SystemClock(ages))


def make_workflow(stores: Stores, clock: SystemClock) -> ReceiptsWorkflow:
    nothing: frozenset[str] = frozenset()
    allowed = Allowed(senders=nothing, link_hosts=nothing, channels=nothing, local=True)
    completion = CompletionWorkflow(
        stores,
        CampaignBook(stores, clock, allowed),
        Directory("http://127.0.0.1:9/v1.0", "anonymous", None),
        clock,
        link_keys=(),
        confirm="methods",
    )
    return ReceiptsWorkflow(stores, completion, clock, address_key=KEY)


@pytest.fixture
async def bench(connection_string: str) -> AsyncGenerator[Bench]:
    clock = SystemClock()
    async with losing_answers(connection_string) as (lossy, table):
        account = StorageAccount(StorageSettings(connection_string=lossy), clock)
        await account.create_all()
        stores = Stores.over(account, clock)
        for campaign in (CAMPAIGN, OTHER):
            await stores.campaigns.write_version(campaign, 1, b"campaign: of another release", "")
        yield Bench(account, stores, make_workflow(stores, clock), table)
        await account.close()


def parcel(number: int = 0, count: int = 20, **changes: Any) -> Parcel:
    """A row whose call is under way, of so many people."""
    called = {"state": State.CLAIMED, "attempt": ATTEMPT, "claimed_at": CLAIMED}
    return make_parcel(
        *(person(100 * number + index) for index in range(count)),
        key=f"20270317|0123456789ab{number:05d}",
        **{**called, **changes},
    )


def event(
    row: Parcel, index: int = 0, kind: EventKind = DELIVERED, attempt: str = ATTEMPT
) -> Event:
    address = f"Person.{index}@mail.example" if kind is BAD else ""
    reason = "spam content" if kind is DROPPED else ""
    return Event(row.campaign, row.shard, row.key, attempt, index, kind, address, reason)


def hash_of(index: int) -> bytes:
    return address_key(KEY, f"person.{index}@mail.example")


# --- what a receipt does to a row

SETTLED: dict[str, tuple[dict[str, Any], bool]] = {
    "under way": ({}, True),
    "in doubt": ({"state": State.AMBIGUOUS, "reason": "no clear answer", "doubt": True}, True),
    "in doubt, given up": (
        {"state": State.AMBIGUOUS, "reason": "abandoned", "doubt": True},
        True,
    ),
    "final": (
        {"state": State.AMBIGUOUS, "reason": "no receipt", "doubt": True, "final": True},
        True,
    ),
    "to be sent once more": (
        {"state": State.PLANNED, "reason": "resend", "doubt": True, "resent": True},
        True,
    ),
    "under way once more": (
        {"attempt": EARLIER[::-1].replace("f", "e"), "doubt": True, "resent": True},
        True,
    ),
    "refused, as we thought": ({"state": State.PLANNED, "reason": "refused: throttled"}, True),
    "accepted": ({"state": State.ACCEPTED}, True),
    "rejected": (
        {"state": State.REJECTED, "reason": "every recipient was refused"},
        False,
    ),
    "replanned": ({"state": State.CLOSED, "reason": "replanned"}, False),
    "split": ({"state": State.CLOSED, "reason": "split"}, False),
}


@pytest.mark.invariant(1)
@pytest.mark.parametrize("kind", [ACCEPTED, DELIVERED, BAD, DROPPED])
async def test_a_receipt_of_any_attempt_proves_that_a_row_was_accepted(
    bench: Bench, kind: EventKind, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mfa_nudge")
    rows = await bench.put(
        *(parcel(number, **changes) for number, (changes, _) in enumerate(SETTLED.values()))
    )
    await bench.report(*(event(row, 3, kind) for row in rows))
    for row, (name, (_, settles)) in zip(rows, SETTLED.items(), strict=True):
        now = await bench.row(row)
        if settles:
            assert (now.state, now.reason, now.final) == (State.ACCEPTED, "", False), name
            assert now.delivered == (with_bits(b"", [3]) if kind is DELIVERED else b""), name
            assert now.refused == (with_bits(b"", [3]) if kind is BAD else b""), name
            assert (now.doubt, now.resent, now.attempt) == (row.doubt, row.resent, row.attempt)
        else:
            assert now == row, name
    odd = [record.message for record in caplog.records if "receipts_odd" in record.message]
    assert len(odd) == 1
    assert '"closed":2' in odd[0]
    assert '"rejected":1' in odd[0]


CALLED_AGAIN = {"doubt": True, "resent": True}
"""What a row says whose people were called once more, after a doubt."""


@pytest.mark.invariant(1)
@pytest.mark.parametrize("kind", [ACCEPTED, DELIVERED, BAD, OPTED_OUT, DROPPED])
@pytest.mark.parametrize(
    ("attempts", "changes", "heard"),
    [
        ([ATTEMPT], {}, True),
        ([ATTEMPT], CALLED_AGAIN, True),
        ([EARLIER, ATTEMPT], CALLED_AGAIN, True),
        ([EARLIER], CALLED_AGAIN, False),
        ([""], {}, True),  # SendGrid has put its own `attempt` there: there was one call only
        ([""], CALLED_AGAIN, False),
        ([EARLIER, ""], CALLED_AGAIN, False),
    ],
)
@pytest.mark.parametrize("state", [State.CLAIMED, State.ACCEPTED])
async def test_a_call_is_heard_of_by_its_own_receipts_whatever_they_say(
    bench: Bench,
    state: State,
    attempts: Sequence[str],
    changes: dict[str, Any],
    heard: bool,
    kind: EventKind,
) -> None:
    (row,) = await bench.put(parcel(state=state, **changes))
    await bench.report(*(event(row, 3, kind, attempt) for attempt in attempts))
    now = await bench.row(row)
    assert (now.state, now.heard) == (State.ACCEPTED, heard)


async def test_receipts_that_settle_nothing_cost_a_row_one_write(bench: Bench) -> None:
    rows = await bench.put(*(parcel(number, state=State.ACCEPTED) for number in range(3)))
    for index in range(5):
        await bench.report(*(event(row, index, ACCEPTED) for row in rows))
    assert len(bench.table.written) == 1  # the first ones, in one transaction
    assert all(row.key in bench.table.written[0] for row in rows)
    assert [(await bench.row(row)).heard for row in rows] == [True] * 3


async def test_every_mark_is_made_and_what_lies_outside_of_a_row_is_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mfa_nudge")
    (row,) = await bench.put(parcel(count=17, refused=with_bits(b"", [2])))
    await bench.report(
        *(event(row, index) for index in (0, 8, 16, 17, 999)),
        *(event(row, index, BAD) for index in (1, 16, 17)),
        event(row, 20, OPTED_OUT),
        event(parcel(7), 0),
    )
    now = await bench.row(row)
    assert now.delivered == with_bits(b"", [0, 8, 16])
    assert now.refused == with_bits(b"", [1, 2, 16])
    assert set(await bench.people()) == {person(1), person(16)}
    (odd,) = [record.message for record in caplog.records if "receipts_odd" in record.message]
    assert '"unknown":1' in odd
    assert '"outside":4' in odd


@pytest.mark.invariant(6)
async def test_addresses_that_do_not_work_are_remembered_as_hashes_in_every_campaign(
    bench: Bench,
) -> None:
    (row,) = await bench.put(parcel())
    await bench.report(event(row, 4, BAD), event(row, 5))
    for campaign in (CAMPAIGN, OTHER):
        people = await bench.people(campaign)
        assert people.keys() == {person(4)}
        assert people[person(4)].bad == {hash_of(4)}
        assert not people[person(4)].opted_out("email")
    assert not any("mail.example" in text for text in bench.table.written)


@pytest.mark.invariant(6)
async def test_no_queue_message_has_an_address(bench: Bench) -> None:
    (row,) = await bench.put(parcel())
    told = [event(row, 4, BAD), event(row, 5, attempt=EARLIER), event(row, 6, attempt="")]
    await bench.receipts.take(told, "email")
    (message,) = await bench.queued()
    (receipts,) = message.parcels
    assert receipts.attempts == (ATTEMPT, EARLIER)
    assert (receipts.bounced, receipts.delivered) == (((4, hash_of(4)),), (5, 6))
    assert b"mail.example" not in msgspec.json.encode(message)


@pytest.mark.invariant(4)
@pytest.mark.parametrize(("channel", "other"), [("email", "sms"), ("sms", "email")])
async def test_who_wants_no_more_is_left_alone_on_that_channel_in_every_campaign(
    bench: Bench, channel: Channel, other: Channel
) -> None:
    (row,) = await bench.put(parcel(channel=channel))
    before = SystemClock().storage_now()
    await bench.report(event(row, 6, OPTED_OUT), channel=channel)
    for campaign in (CAMPAIGN, OTHER):
        people = await bench.people(campaign)
        assert people.keys() == {person(6)}
        assert people[person(6)].opted_out(channel)
        assert not people[person(6)].opted_out(other)
        since = StorageTime(before - timedelta(minutes=1))
        changes = await bench.stores.ledger.read_changes(campaign, SHARD, since)
        assert changes.refuses[channel].keys() == {person(6)}  # dispatch heeds it at once
    assert (await bench.row(row)).state is State.ACCEPTED


@pytest.mark.invariant(4)
@pytest.mark.parametrize("state", [State.CLOSED, State.REJECTED])
async def test_people_are_heard_whatever_has_become_of_the_row(bench: Bench, state: State) -> None:
    (row,) = await bench.put(parcel(state=state))
    await bench.report(event(row, 1, OPTED_OUT), event(row, 2, BAD))
    people = await bench.people()
    assert people[person(1)].opted_out("email")
    assert people[person(2)].bad == {hash_of(2)}
    assert await bench.row(row) == row


async def test_seed_addresses_are_marked_and_are_nobodys(bench: Bench) -> None:
    (row,) = await bench.put(parcel(seed=True))
    await bench.report(event(row, 0), event(row, 1, BAD), event(row, 2, OPTED_OUT))
    now = await bench.row(row)
    assert (now.state, now.delivered, now.refused) == (State.ACCEPTED, b"\x01", b"\x02")
    assert await bench.people() == await bench.people(OTHER) == {}


@pytest.mark.invariant(8)
async def test_a_row_that_a_receipt_settles_leaves_the_mark_of_a_wave(bench: Bench) -> None:
    (row,) = await bench.put(parcel(state=State.ACCEPTED))
    await bench.report(event(row))
    assert not await bench.stores.campaigns.waves_went_out(CAMPAIGN)
    (row,) = await bench.put(parcel())
    await bench.report(event(row))
    assert await bench.stores.campaigns.waves_went_out(CAMPAIGN)


async def test_mails_that_the_provider_dropped_raise_one_alarm_for_each_reason(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    (row,) = await bench.put(parcel())
    events = [event(row, index, DROPPED) for index in range(5)]
    events[4] = msgspec.structs.replace(events[4], reason="another reason")
    await bench.report(*events)
    alarms = [record.message for record in caplog.records if "ALARM" in record.message]
    assert alarms == [
        'ALARM mail_dropped {"campaign":"alumni-2027","channel":"email",'
        f'"reason":"{reason}","count":{count}}}'
        for reason, count in (("spam content", 4), ("another reason", 1))
    ]


# --- again, in another order, side by side


def all_events(rows: Sequence[Parcel]) -> list[Event]:
    """What a provider may tell of these rows: of some people several things."""
    told = [
        *((index, ACCEPTED) for index in range(12)),
        *((index, DELIVERED) for index in range(2, 10)),
        *((3, BAD), (11, BAD), (4, OPTED_OUT), (5, DROPPED)),
    ]
    attempts = itertools.cycle([ATTEMPT, EARLIER, ""])
    return [event(row, *one, attempt) for row in rows for one, attempt in zip(told, attempts)]  # noqa: B905


def memory(rows: Sequence[Parcel]) -> list[tuple[State, bytes, bytes]]:
    return [(row.state, row.delivered, row.refused) for row in rows]


async def test_in_whatever_order_and_however_often_they_come_the_ledger_is_the_same(
    bench: Bench,
) -> None:
    states = (State.CLAIMED, State.AMBIGUOUS, State.PLANNED, State.ACCEPTED)
    fresh = [parcel(number, state=state) for number, state in enumerate(states)]
    rows = await bench.put(*fresh)
    events = all_events(rows)
    await bench.report(*events)
    once = memory([await bench.row(row) for row in rows])
    people = await bench.people()
    assert [state for state, _, _ in once] == [State.ACCEPTED] * 4
    assert {hashes for one in people.values() for hashes in one.bad} == {hash_of(3), hash_of(11)}
    for seed in range(6):
        chance = random.Random(seed)
        await bench.put(*fresh)
        told = events + chance.choices(events, k=20)
        chance.shuffle(told)
        for start in range(0, len(told), 40):
            await bench.report(*told[start : start + 40])
        assert memory([await bench.row(row) for row in rows]) == once, seed
        assert {who: one.bad for who, one in (await bench.people()).items()} == {
            who: one.bad for who, one in people.items()
        }


async def test_what_says_nothing_new_writes_nothing(bench: Bench) -> None:
    rows = await bench.put(parcel(0), parcel(1, state=State.AMBIGUOUS))
    events = [one for one in all_events(rows) if one.kind is not OPTED_OUT]
    await bench.report(*events)
    before = [await bench.row(row) for row in rows]
    bench.table.written.clear()
    await bench.report(*events, *reversed(events))
    assert bench.table.written == []
    assert [await bench.row(row) for row in rows] == before


async def test_many_who_write_one_row_at_a_time_lose_nothing(bench: Bench) -> None:
    (row, other) = await bench.put(parcel(count=200), parcel(1, count=200))
    await bench.receipts.take([event(row, 0)], "email")
    (whole,) = await bench.queued()
    (first,) = whole.parcels

    def message(index: int) -> ShardReceipts:
        parts = tuple(
            msgspec.structs.replace(first, key=one.key, delivered=(index, index + 100))
            for one in (row, other)
        )
        return msgspec.structs.replace(whole, parcels=parts)

    async with asyncio.TaskGroup() as group:
        for index in range(20):
            group.create_task(bench.another().settle(message(index)))
    for one in (row, other):
        now = await bench.row(one)
        assert now.delivered == with_bits(b"", [*range(20), *range(100, 120)])
        assert now.state is State.ACCEPTED


async def test_a_write_whose_answer_was_lost_is_found_done(bench: Bench) -> None:
    rows = await bench.put(*(parcel(number) for number in range(3)))
    bench.table.lose.append(lambda text: rows[0].key in text)
    await bench.report(*all_events(rows))
    assert bench.table.lose == []
    assert all(one.state is State.ACCEPTED for one in [await bench.row(row) for row in rows])


async def test_people_are_written_before_the_row_that_says_so(bench: Bench) -> None:
    """Should the process die in between, the message comes again, and finds the row as it was."""
    (row,) = await bench.put(parcel())
    await bench.report(event(row, 4, BAD), event(row, 5, OPTED_OUT))
    told = [
        next(number for number, text in enumerate(bench.table.written) if mark in text)
        for mark in ("bad_", "no_email_at", "refused")
    ]
    assert told == sorted(told)


# --- on the queue


async def test_ten_thousand_events_are_few_messages(bench: Bench) -> None:
    events = [
        msgspec.structs.replace(
            event(parcel(number // 500), number % 500, BAD if number % 20 == 0 else DELIVERED),
            shard=number // 500 % 16,
        )
        for number in range(10_000)
    ]
    await bench.receipts.take(events, "email")
    messages = await bench.queued()
    assert sorted(message.shard for message in messages) == list(range(16))
    told = [
        (message.shard, one.key, index)
        for message in messages
        for one in message.parcels
        for index in (*one.delivered, *dict(one.bounced))
    ]
    assert sorted(told) == sorted((one.shard, one.key, one.index) for one in events)


async def test_what_is_too_much_for_one_message_is_put_in_several(bench: Bench) -> None:
    row = parcel()
    crowd = [
        msgspec.structs.replace(
            event(row, index, kind, attempt=f"{number:016x}"),
            key=f"{row.key}{number // 3000}",
        )
        for number, (index, kind) in enumerate(
            itertools.product(range(1000), [BAD, DELIVERED, OPTED_OUT] * 4)
        )
    ]
    alone = [msgspec.structs.replace(event(row), key=f"{row.key}{n:05}") for n in range(2000)]
    await bench.receipts.take([*crowd, *alone], "email")
    messages = await bench.queued()  # each is looked at: none is too large
    assert len(messages) > 1
    keys = [one.key for message in messages for one in message.parcels]
    assert sorted(set(keys)) == sorted({one.key for one in [*crowd, *alone]})
    assert len(keys) == len(set(keys))


async def test_storage_that_fails_is_told(bench: Bench) -> None:
    await bench.account.queue(NAMES.queues.receipts).delete_queue()
    with pytest.raises(NotRecorded):
        await bench.receipts.take([event(parcel())], "email")


# --- from planning to planning


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


def told_of(call: Call, place: int, kind: EventKind) -> Event:
    """An event of a recipient of a call, at this place of it."""
    row = call.row
    return Event(
        *(row.campaign, row.shard, row.key, call.attempt, call.indices[place], kind),
        address=call.addresses[place].upper(),  # providers write addresses as they like
    )


async def settle(desk: Desk, *events: Event) -> None:
    await desk.app.receipts.take(events, "email")
    await desk.world.run_queues()


async def test_who_bounced_is_written_to_elsewhere_at_the_next_planning(desk: Desk) -> None:
    """And who was only blocked, or has it, is not written to again."""
    await desk.plan(in_one_shard(4, mail="at.work@example.net"))
    await desk.send_due()
    (call,) = desk.provider.calls
    await settle(
        desk,
        told_of(call, 0, DELIVERED),
        told_of(call, 1, BAD),
        told_of(call, 2, ACCEPTED),  # as `blocked` is read
        told_of(call, 3, DROPPED),
    )
    desk.clock.let_pass(minutes=30)
    await desk.world.sweep()
    await desk.send_due()
    assert [one.addresses for one in desk.provider.calls[1:]] == [["at.work@example.net"]]
    assert [desk.provider.calls[1].row.ids] == [call.row.ids[16:32]]
    await settle(desk, told_of(desk.provider.calls[1], 0, BAD))
    await desk.world.sweep()
    assert len(await desk.parcels(State.ACCEPTED)) == 2  # there is no third address
    assert len(await desk.parcels()) == 2


@pytest.mark.invariant(4)
async def test_who_reports_spam_is_left_out_of_what_is_planned_and_of_what_comes(
    desk: Desk,
) -> None:
    await desk.plan(in_one_shard(3), parcel_size=1)
    await desk.release()
    first, *others = await desk.take()
    await desk.send(first)
    (call,) = desk.provider.calls
    # Of one whose mail is on the queue, as if an earlier one had been reported.
    waiting = await desk.row(others[0])
    await settle(desk, told_of(call, 0, OPTED_OUT))
    await desk.app.completion.record_opted_out([waiting.ids], "email")
    await desk.send(*others)
    assert len(desk.provider.calls) == 2
    assert (await desk.row(others[0])).reason == "cancelled"
    desk.move_clock(FORTNIGHT + timedelta(days=7))
    await desk.world.sweep()
    await desk.send_due()
    assert [one.row.touch for one in desk.provider.calls] == ["fortnight", "fortnight", "week"]
    assert desk.provider.calls[2].addresses == desk.provider.calls[1].addresses


@pytest.mark.invariant(1)
@pytest.mark.parametrize("status", [202, 500, 429])
async def test_receipts_that_come_before_the_answer_decide(desk: Desk, status: int) -> None:
    """The sender finds the row accepted, whatever its own answer says."""
    await desk.plan(in_one_shard(2))
    answers = {202: None, 500: lambda _: web.Response(status=500), 429: throttled}
    desk.provider.answers.append(answers[status])

    async def receive(_: web.Request) -> None:
        call = desk.provider.calls[-1]
        await settle(desk, told_of(call, 0, DELIVERED), told_of(call, 1, BAD))

    desk.provider.before = receive
    await desk.send_due()
    row = await desk.parcel()
    assert (row.state, row.delivered, row.refused) == (State.ACCEPTED, b"\x01", b"\x02")
    await desk.send_due()
    assert len(desk.provider.calls) == 1


@dataclass
class Doubt:
    """A call without a clear answer, and one of a minute later that was accepted."""

    doubtful: Parcel
    later: Parcel

    @classmethod
    async def of(cls, desk: Desk) -> Doubt:
        await desk.plan(in_one_shard(2), parcel_size=1)
        await desk.release()
        first, second = await desk.take()
        desk.provider.answers.append(lambda _: web.Response(status=500))
        await desk.send(first)
        desk.clock.let_pass(minutes=1)
        await desk.send(second)
        return cls(await desk.row(first), await desk.row(second))

    async def decided(self, desk: Desk) -> tuple[State, str, bool]:
        """What has become of the doubt two hours later: its state, the reason, and `resent`."""
        desk.clock.let_pass(hours=2)
        await desk.release()
        row = await desk.app.stores.ledger.read(NAME, self.doubtful.shard, self.doubtful.key)
        assert row is not None
        return row.state, row.reason, row.resent


@pytest.mark.invariant(1, 2)
async def test_where_a_later_call_was_only_put_off_a_doubt_is_sent_once_more(desk: Desk) -> None:
    """The provider reports, and says nothing of this one: that is enough to know."""
    doubt = await Doubt.of(desk)
    assert doubt.later.state is State.ACCEPTED
    await settle(desk, told_of(desk.provider.calls[1], 0, ACCEPTED))
    assert await doubt.decided(desk) == (State.PLANNED, "resend", True)


@pytest.mark.invariant(1)
async def test_a_late_receipt_of_a_first_call_says_nothing_of_calls_before_the_second(
    desk: Desk,
) -> None:
    doubt = await Doubt.of(desk)
    # The later call is a resend, and what comes is of the call before: of two hours ago, perhaps.
    await change(desk, doubt.later, doubt=True, resent=True)
    late = msgspec.structs.replace(told_of(desk.provider.calls[1], 0, DELIVERED), attempt=EARLIER)
    await settle(desk, late)
    assert await doubt.decided(desk) == (State.AMBIGUOUS, "no clear answer", False)

    await settle(desk, told_of(desk.provider.calls[1], 0, ACCEPTED))
    assert await doubt.decided(desk) == (State.PLANNED, "resend", True)


def throttled(_: web.Request) -> web.Response:
    return web.Response(status=429, headers={"Retry-After": "1"})


@pytest.mark.invariant(1)
async def test_a_receipt_takes_back_what_was_to_be_sent_once_more(desk: Desk) -> None:
    await desk.plan(in_one_shard(2))
    desk.provider.answers.append(lambda _: web.Response(status=500))
    await desk.send_due()
    row = await desk.parcel()
    assert row.state is State.AMBIGUOUS
    again = {"state": State.PLANNED, "reason": "resend", "resent": True, "released_at": None}
    await change(desk, row, **again)
    message = await desk.hand_out()
    await settle(desk, told_of(desk.provider.calls[0], 1, ACCEPTED))
    await desk.send(message)
    assert (await desk.parcel()).state is State.ACCEPTED
    assert len(desk.provider.calls) == 1
