"""Messages that nobody can work on: what is told of them, and what is remembered."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from admin.report import format_died, format_status
from shared.clock import StorageTime
from shared.names import NAMES, poison_of
from shared.stores.poison import DeadMessage
from shared.stores.queues import (
    HandOut,
    ParcelReceipts,
    PlanShard,
    ReadPages,
    ShardReceipts,
    hand_out_from,
)
from shared.workflows.poison import Died
from tests.sending import Desk, alarms_of, running_desk
from tests.world import NAME

KINDS: tuple[tuple[str, type[msgspec.Struct]], ...] = (
    (NAMES.queues.sweep, ReadPages),
    (NAMES.queues.plan, PlanShard),
    (NAMES.queues.email, HandOut),
    (NAMES.queues.sms, HandOut),
    (NAMES.queues.receipts, ShardReceipts),
)

FOREIGN = [
    b"",
    b"\xff\xfe",
    b"hello",
    b"[1, 2]",
    b"{}",
    b'{"campaign": "c", "shard": 1, "sweep": 1}',
    b'{"campaign": "c", "shard": 16, "sweep": 1, "version": 1}',
    b'{"campaign": "c\' or true", "shard": 1, "sweep": 1, "version": 1}',
    b'{"campaign": "c", "shard": 1, "sweep": 1, "version": 1, "tai.man@example.org": 1}',
    b'{"campaign": "c", "shard": "tai.man@example.org", "sweep": 1, "version": 1}',
]


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


async def kept_rows(desk: Desk) -> str:
    """All that the table of dead messages holds, as text."""
    rows = desk.app.account.table(NAMES.tables.control).list_entities()
    return json.dumps([dict(row) async for row in rows], default=str)


@pytest.mark.invariant(6)
async def test_a_message_that_is_not_ours_goes_to_poison_at_once_and_says_why(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """And what is said and kept repeats nothing of the message."""
    for queue, kind in KINDS:
        for number, body in enumerate(FOREIGN):
            assert await desk.app.poison.take(queue, body, kind) is None
            name = f"{queue}-{number}"
            assert await desk.app.poison.note(queue, name, body, kind) is None
        dead = desk.app.account.queue(poison_of(queue))
        taken = [message async for message in dead.receive_messages(messages_per_page=32)]
        assert sorted(message.content or b"" for message in taken) == sorted(FOREIGN)
    assert alarms_of(caplog) == ["poison"] * len(FOREIGN) * len(KINDS)
    assert caplog.text.count("not a ReadPages message: ") == len(FOREIGN)
    died = await desk.app.poison.collect()
    assert len(died.messages) == len(FOREIGN) * len(KINDS)
    assert all(message.about == {} for message in died.messages)
    for told in (caplog.text, format_died(died), await kept_rows(desk)):
        assert "tai.man" not in told


@pytest.mark.invariant(6)
async def test_a_message_of_ours_is_taken_and_told_of_when_it_died(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """By what it was about; what providers reported of people is not repeated."""
    parcel = (await desk.plan(1))[0]
    reported = ParcelReceipts(parcel.key, ("a",), bounced=((0, bytes(range(16))),))
    ours: list[tuple[msgspec.Struct, dict[str, str | int]]] = [
        (ReadPages(1, "registrations", 1), {"sweep": 1, "source": "registrations", "run": 1}),
        (PlanShard(NAME, 0, 1, 1), {"campaign": NAME, "shard": 0, "sweep": 1, "version": 1}),
        (
            hand_out_from(parcel, probe=False),
            {
                "campaign": NAME,
                "channel": "email",
                "shard": 0,
                "key": parcel.key,
                "touch": "fortnight",
                "sweep": 1,
                "version": 1,
            },
        ),
        (
            ShardReceipts(NAME, 0, "email", (reported,)),
            {"campaign": NAME, "channel": "email", "shard": 0},
        ),
    ]
    kinds = [one for one in KINDS if one[0] != NAMES.queues.sms]
    for (queue, kind), (message, about) in zip(kinds, ours, strict=True):
        body = msgspec.json.encode(message)
        assert await desk.app.poison.take(queue, body, kind) == message
        assert await desk.app.poison.note(queue, f"id of {queue}", body, kind) == message
        newest = (await desk.app.poison.collect()).messages
        (told,) = [one for one in newest if one.queue == queue]
        assert (told.about, told.reason) == (about, "it failed at every try")
    assert alarms_of(caplog) == ["poison"] * len(ours)


async def test_a_second_delivery_is_no_second_death(desk: Desk) -> None:
    """A poison function that fails after its note gets its message again."""
    body = msgspec.json.encode(PlanShard(NAME, 0, 1, 1))
    for message_id in ("one", "one", "another"):
        await desk.app.poison.note(NAMES.queues.plan, message_id, body, PlanShard)
    assert len((await desk.app.poison.collect()).messages) == 2


async def test_the_status_tells_of_a_week_and_housekeeping_forgets_after_90_days(
    desk: Desk,
) -> None:
    note, told = desk.app.poison.note, "1 message of a queue died in the last 7 days."
    found: dict[int, tuple[bool, int]] = {}
    await note(NAMES.queues.plan, "one", b"x", PlanShard)
    day = 0
    for passed in (6, 2, 81, 2):
        desk.clock.let_pass(days=passed)
        day += passed
        await desk.app.housekeeping.run()
        status = await desk.app.status.collect()
        assert (told in format_status(status)) == any(told in need for need in status.needs)
        rows = await desk.app.stores.poison.read_since(StorageTime(desk.clock.storage_now() - LONG))
        found[day] = (any(told in need for need in status.needs), len(rows))
    assert found == {6: (True, 1), 8: (False, 1), 89: (False, 1), 91: (False, 0)}


LONG = timedelta(days=1000)


async def test_what_lies_on_poison_queues_is_counted_and_on_those_that_nobody_reads(
    desk: Desk,
) -> None:
    assert (await desk.app.poison.collect()).lying == {}
    for _ in range(2):
        await desk.app.stores.queues.put_poison(NAMES.queues.email, b"x")
    forgotten = poison_of(poison_of(NAMES.queues.plan))
    await desk.app.account.queue(forgotten).create_queue()
    await desk.app.account.queue(forgotten).send_message(b"x")
    assert (await desk.app.poison.collect()).lying == {
        poison_of(NAMES.queues.email): 2,
        forgotten: 1,
    }


def test_what_died_is_told_line_by_line() -> None:
    at = StorageTime(datetime(2027, 3, 17, 2, tzinfo=UTC))
    messages = [
        DeadMessage(
            queue="plan", died_at=at, reason="it failed at every try", about={"campaign": NAME}
        ),
        DeadMessage(queue="email", died_at=at, reason="not a HandOut message: it is not JSON"),
    ]
    assert format_died(Died(messages=messages, lying={"email-poison": 1})).splitlines() == [
        f"2027-03-17 02:00:00 UTC  plan      it failed at every try  (campaign {NAME})",
        "2027-03-17 02:00:00 UTC  email     not a HandOut message: it is not JSON",
        "1 message on the queue `email-poison` now.",
    ]
    assert format_died(Died(messages=[], lying={})) == "Nothing died in the last 90 days."
