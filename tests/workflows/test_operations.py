"""What an administrator does to a running campaign, and messages that nobody can work on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from shared.errors import SetupFault
from shared.stores.names import NAMES, poison_of
from shared.stores.queues import HandOut, PlanShard, ReadPages, hand_out_from
from tests.sending import Desk, LossyTable, alarms_of, losing_answers, running_desk
from tests.world import NAME

KINDS: tuple[tuple[str, type[msgspec.Struct]], ...] = (
    (NAMES.queues.sweep, ReadPages),
    (NAMES.queues.plan, PlanShard),
    (NAMES.queues.email, HandOut),
)


@pytest.fixture
async def lossy(connection_string: str, tmp_path: Path) -> AsyncGenerator[tuple[Desk, LossyTable]]:
    async with (
        losing_answers(connection_string) as (through_proxy, table),
        running_desk(connection_string, tmp_path, AzureWebJobsStorage=through_proxy) as desk,
    ):
        yield desk, table


@pytest.fixture
def desk(lossy: tuple[Desk, LossyTable]) -> Desk:
    return lossy[0]


# --- pause and resume -----------------------------------------------------------------------------


async def test_a_campaign_that_there_is_not_is_named_with_those_that_there_are(desk: Desk) -> None:
    await desk.plan(1)
    for act in (
        desk.app.operations.pause("hku-alumni-2072", "Wait.", "registrar"),
        desk.app.operations.resume("hku-alumni-2072", "registrar"),
    ):
        with pytest.raises(SetupFault, match=r"no campaign `hku-alumni-2072`.*hku-alumni-2027"):
            await act


async def test_the_first_reason_stands_and_resume_says_what_it_lifted(desk: Desk) -> None:
    await desk.plan(1)
    operations, control = desk.app.operations, desk.app.stores.control
    assert await operations.resume(NAME, "registrar") == []
    await operations.pause(NAME, "The help desk is closed.", "registrar")
    await operations.pause(NAME, "It is late.", "someone else")
    await control.pause(NAME, "email", "setup", "The key is not valid.")

    row = await control.read(NAME, "email")
    assert {reason: (pause.text, pause.by) for reason, pause in row.pauses.items()} == {
        "administrator": ("The help desk is closed.", "registrar"),
        "setup": ("The key is not valid.", ""),
    }
    assert sorted(await operations.resume(NAME, "registrar")) == ["administrator", "setup"]
    assert await operations.resume(NAME, "registrar") == []


async def test_pauses_made_side_by_side_are_all_kept(desk: Desk) -> None:
    await desk.plan(1)
    control = desk.app.stores.control
    made = await asyncio.gather(
        control.pause(NAME, "email", "setup", "one"),
        control.pause(NAME, "email", "setup", "two"),
        control.pause(NAME, "email", "ambiguity", "three"),
        control.pause(NAME, "email", "administrator", "four"),
    )
    assert sorted((await control.read(NAME, "email")).pauses) == [
        *("administrator", "ambiguity", "setup")
    ]
    assert made.count(True) == 3


async def test_a_lost_answer_changes_nothing_of_what_is_told(
    lossy: tuple[Desk, LossyTable],
) -> None:
    desk, table = lossy
    await desk.plan(120)
    await desk.plan(48)  # over night the audience shrank: the guards pause

    table.lose = [lambda write: "channel|email" in write]
    assert await desk.app.stores.control.pause(NAME, "email", "setup", "The key is not valid.")
    table.lose = [
        lambda write: "channel|email" in write,
        lambda write: "verdict|" in write,
    ]
    assert await desk.app.operations.resume(NAME, "registrar") == ["setup", "verdict"]
    assert table.lose == []
    assert (await desk.app.status.collect()).campaigns[0].waiting == []


# --- poison ---------------------------------------------------------------------------------------

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


@pytest.mark.invariant(6)
async def test_a_message_that_is_not_ours_goes_to_poison_at_once_and_says_why(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """And what it says repeats nothing of the message."""
    for queue, kind in KINDS:
        for body in FOREIGN:
            assert await desk.app.poison.take(queue, body, kind) is None
            assert desk.app.poison.note(queue, body, kind) is None
        dead = desk.app.account.queue(poison_of(queue))
        taken = [message async for message in dead.receive_messages(messages_per_page=32)]
        assert sorted(message.content or b"" for message in taken) == sorted(FOREIGN)
    assert alarms_of(caplog) == ["poison"] * len(FOREIGN) * len(KINDS)
    assert caplog.text.count("not a HandOut message: ") == len(FOREIGN)
    assert "tai.man" not in caplog.text


async def test_a_message_of_ours_is_taken_and_told_of_when_it_died(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    parcel = (await desk.plan(1))[0]
    ours: list[msgspec.Struct] = [
        ReadPages(1, "registrations", 1),
        PlanShard(NAME, 0, 1, 1),
        hand_out_from(parcel, probe=False),
    ]
    for (queue, kind), message in zip(KINDS, ours, strict=True):
        body = msgspec.json.encode(message)
        assert await desk.app.poison.take(queue, body, kind) == message
        assert desk.app.poison.note(queue, body, kind) == message
    assert alarms_of(caplog) == ["poison"] * 3
    assert "it failed at every try" in caplog.text
