"""Messages: what was put is what the host reads, for as long as it should; none names a person."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueServiceClient
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import Ages
from shared.errors import NotOurs
from shared.names import NAMES, poison_of
from shared.stores import Stores
from shared.stores.account import StorageAccount
from shared.stores.queues import (
    LIFE_DAYS,
    HandOut,
    PlanShard,
    Queues,
    ReadPages,
    decode_message,
    hand_out_from,
)
from tests.stores.making import make_parcel, person

PARCEL = make_parcel(*(person(number) for number in range(1000)), etag='W/"datetime"')
HAND_OUT = hand_out_from(PARCEL, probe=True)


@pytest.fixture
def queues(stores: Stores) -> Queues:
    return stores.queues


type Taken = Callable[[str], Awaitable[QueueMessage]]


@pytest.fixture
async def taken(connection_string: str) -> AsyncGenerator[Taken]:
    """Takes the one message that is on a queue now, as it lies there: nothing is decoded."""
    async with QueueServiceClient.from_connection_string(connection_string) as service:

        async def take(queue: str) -> QueueMessage:
            found = service.get_queue_client(queue).receive_messages()
            (message,) = [message async for message in found]
            return message

        yield take


MESSAGES: list[tuple[str, Any]] = [
    (NAMES.queues.sweep, ReadPages(3, "group-x", 2, 1)),
    (NAMES.queues.plan, PlanShard("alumni-2027", 10, 3, 2)),
    (NAMES.queues.email, HAND_OUT),
]


@pytest.mark.parametrize(("queue", "message"), MESSAGES, ids=[name for name, _ in MESSAGES])
async def test_the_host_gets_base64_of_what_was_put(
    queues: Queues, taken: Taken, queue: str, message: Any
) -> None:
    match message:
        case ReadPages():
            await queues.put_read(message)
        case PlanShard():
            await queues.put_plan([message])
        case _:
            await queues.put_hand_out(message)
    body = base64.b64decode((await taken(queue)).content, validate=True)
    assert decode_message(body, type(message)) == message


@pytest.mark.parametrize(
    ("queue", "life"),
    [
        (NAMES.queues.sweep, timedelta(days=LIFE_DAYS)),
        (NAMES.queues.plan, timedelta(days=LIFE_DAYS)),
        (NAMES.queues.email, timedelta(seconds=Ages().message_life)),
        (poison_of(NAMES.queues.email), timedelta(days=LIFE_DAYS)),
    ],
)
async def test_a_message_lives_as_long_as_it_should(
    queues: Queues, taken: Taken, queue: str, life: timedelta
) -> None:
    await queues.put_read(ReadPages(1, "x", 1))
    await queues.put_plan([PlanShard("alumni-2027", 1, 1, 1)])
    await queues.put_hand_out(HAND_OUT)
    await queues.put_poison(NAMES.queues.email, b"what it was")
    message = await taken(queue)
    assert message.expires_on - message.inserted_on == life
    assert life < timedelta(seconds=Ages().handed_out) or life.days == LIFE_DAYS


async def test_a_message_can_wait(queues: Queues, account: StorageAccount) -> None:
    await queues.put_read(ReadPages(1, "x", 1), after=30)
    raw = account.queue(NAMES.queues.sweep)
    assert [message async for message in raw.receive_messages()] == []
    assert (await raw.get_queue_properties()).approximate_message_count == 1


async def test_a_shortened_life_is_a_second_at_least(account: StorageAccount, taken: Taken) -> None:
    short = Queues(account, msgspec.structs.replace(Ages(), message_life=0.1))
    await short.put_hand_out(HAND_OUT)
    message = await taken(NAMES.queues.email)
    assert message.expires_on - message.inserted_on == timedelta(seconds=1)


@pytest.mark.invariant(6)
def test_a_hand_out_names_no_person() -> None:
    """Not even by object id: they are in the row, and in the outbox that it names."""
    body = msgspec.json.encode(HAND_OUT)
    assert len(body) < 2000
    assert not any(person(number).hex().encode() in body for number in range(1000))
    assert PARCEL.ids not in body
    assert HAND_OUT.count == 1000


def test_a_full_message_is_far_below_what_a_queue_takes() -> None:
    full = msgspec.structs.replace(
        HAND_OUT, left_out=bytes(125), refused=bytes(125), key="k" * 100, outbox="o" * 200
    )
    assert len(base64.b64encode(msgspec.json.encode(full))) < 64 * 1024 / 10


FOREIGN: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("not JSON", b"hello"),
    ("not text", b"\xff\xfe"),
    ("another shape", b"[]"),
    ("no field", b"{}"),
    ("a field too many", b'{"campaign":"a","shard":1,"sweep":1,"version":1,"mail":"a@b.org"}'),
    ("a field of another type", b'{"campaign":"a","shard":"1","sweep":1,"version":1}'),
    ("a shard that is none", b'{"campaign":"a","shard":16,"sweep":1,"version":1}'),
    ("a campaign that is a path", b'{"campaign":"a/b","shard":1,"sweep":1,"version":1}'),
    ("a campaign that ends a filter", b'{"campaign":"a\'","shard":1,"sweep":1,"version":1}'),
    ("a name with a line break", b'{"campaign":"a\\n","shard":1,"sweep":1,"version":1}'),
]


@pytest.mark.parametrize("body", [b for _, b in FOREIGN], ids=[name for name, _ in FOREIGN])
def test_what_is_not_ours_is_said_to_be_so(body: bytes) -> None:
    with pytest.raises(NotOurs, match="not a PlanShard message"):
        decode_message(body, PlanShard)


@given(st.binary() | st.text().map(lambda text: msgspec.json.encode({text: text})))
def test_no_message_is_an_accident(body: bytes) -> None:
    for kind in (ReadPages, PlanShard, HandOut):
        with pytest.raises(NotOurs):
            decode_message(body, kind)
