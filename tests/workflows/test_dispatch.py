"""Dispatch: claim, call, settle, and what every answer of a provider comes to.

The provider of these tests reads the ledger at each call, by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from local.serving import cut_connection
from shared.clock import Ages
from shared.names import NAMES
from shared.rules.contact import address_key
from shared.rules.parcels import Parcel, State, has_bit, with_bits
from shared.services.senders import Envelope, Outcome, Prepared, Unsendable
from shared.services.senders.sendgrid import SendGrid
from shared.stores.outbox import OutboxDamaged
from shared.stores.parcels import ChangeKind, change_row, partition_of, to_text
from shared.stores.queues import ReadPages, decode_message, hand_out_from
from shared.stores.table import Table, Write
from shared.workflows.composing import Composer, Links
from shared.workflows.dispatch import DispatchWorkflow, SendingSettings
from tests.graph import Someone
from tests.sending import (
    AGES,
    EARLY,
    Desk,
    LossyTable,
    alarms_of,
    change,
    in_one_shard,
    losing_answers,
    running_desk,
)
from tests.world import FORTNIGHT, NAME

type Answer = Callable[[web.Request], web.Response]


@pytest.fixture
def ages() -> Ages:
    return AGES


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path, ages: Ages) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path, ages=ages) as desk:
        yield desk


def says(status: int, *errors: tuple[str | None, str], **headers: str) -> Answer:
    """An answer in SendGrid's form."""
    body = {"errors": [{"field": field, "message": message} for field, message in errors]}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: web.json_response(body, status=status, headers=named)


def says_html(status: int) -> Answer:
    return lambda _: web.Response(status=status, text="<html>gateway</html>")


GATEWAY = says_html(502)
BUSY = says(429, (None, "too many requests"), Retry_After="120")
NOT_ALLOWED = says(401, (None, "authorization required"))
TOO_LARGE = says(413, (None, "content too large"))
NAMELESS = says(400, (None, "Bad Request"))
FIRST_IS_BAD = says(400, ("personalizations.0.to.0.email", "Does not contain a valid address."))


def app_with(desk: Desk, sender: Any) -> DispatchWorkflow:
    """Dispatch through another sender."""
    settings = desk.app.settings
    return DispatchWorkflow(
        desk.app.stores,
        desk.app.book,
        {"email": sender},
        Composer(Links(settings.link_keys, settings.public_base_url)),
        desk.app.completion,
        desk.clock,
        SendingSettings(
            address_key=settings.address_key.encode(),
            public_base_url=settings.public_base_url,
            link_hosts=settings.allowed_link_hosts,
        ),
    )


async def note_change(
    desk: Desk, parcel: Parcel, person: bytes, at: datetime, kind: ChangeKind = "completed"
) -> None:
    """The row that tells dispatch that somebody completed, opted out or was left out."""
    table = Table(desk.app.account.table(NAMES.tables.ledger))
    partition = partition_of(parcel.campaign, parcel.shard)
    await table.write(Write("put", change_row(partition, to_text(at), person, kind)))


def number_of(person: bytes) -> int:
    """The number of the Someone with this object id."""
    return int(person.hex()[1:8], 16)


# --- claim, then call -----------------------------------------------------------------------------


@pytest.mark.invariant(1)
async def test_the_row_is_claimed_with_the_attempt_when_the_call_arrives(desk: Desk) -> None:
    await desk.plan(16)
    await desk.send_due()

    calls = desk.provider.calls
    assert len(calls) == 16
    assert {call.row.state for call in calls} == {State.CLAIMED}
    assert [call.row.attempt for call in calls] == [call.attempt for call in calls]
    assert len({call.attempt for call in calls}) == 16
    assert {parcel.state for parcel in await desk.parcels()} == {State.ACCEPTED}


@pytest.mark.invariant(1)
async def test_a_message_that_is_delivered_twice_makes_one_call(desk: Desk) -> None:
    await desk.plan(1)
    message = await desk.hand_out()
    second = desk.second_app()

    await asyncio.gather(
        desk.app.dispatch.send(message),
        second.dispatch.send(message),
        desk.app.dispatch.send(message),
    )
    await second.dispatch.send(message)

    assert len(desk.provider.calls) == 1
    assert (await desk.parcel()).state is State.ACCEPTED


@pytest.mark.invariant(1)
async def test_a_row_that_was_handed_out_again_is_not_claimed_by_the_older_message(
    desk: Desk,
) -> None:
    await desk.plan(1)
    older = await desk.hand_out()
    desk.clock.let_pass(minutes=16)
    newer = await desk.hand_out()

    await desk.send(older)
    assert desk.provider.calls == []
    await desk.send(newer)
    assert len(desk.provider.calls) == 1


@pytest.mark.invariant(1)
@pytest.mark.parametrize("ages", [msgspec.structs.replace(AGES, start=0)])
async def test_nothing_leaves_when_too_much_time_has_passed_since_the_claim(desk: Desk) -> None:
    await desk.plan(1)
    await desk.send_due()

    parcel = await desk.parcel()
    assert desk.provider.calls == []
    assert (parcel.state, parcel.reason) == (State.PLANNED, "refused: not_started")
    assert parcel.attempt  # it was claimed before
    assert not parcel.doubt


@pytest.mark.invariant(1)
async def test_every_call_has_an_attempt_id_of_its_own(desk: Desk) -> None:
    await desk.plan(1)
    desk.provider.answers = [BUSY]
    await desk.send_due()
    desk.clock.let_pass(minutes=3)
    await desk.send_due()

    first, second = desk.provider.calls
    assert first.attempt != second.attempt
    assert second.row.attempt == second.attempt
    assert first.body["custom_args"]["parcel"] == second.body["custom_args"]["parcel"]
    assert (await desk.parcel()).state is State.ACCEPTED


# --- what an answer comes to ----------------------------------------------------------------------

ANSWERS: dict[str, tuple[Answer | None, tuple[str, str, str]]] = {
    "202": (None, ("accepted", "", "")),
    "200, as to a sandbox call": (says(200), ("ambiguous", "no clear answer", "")),
    "500": (says(500, (None, "internal")), ("ambiguous", "no clear answer", "")),
    "502 of a gateway": (GATEWAY, ("ambiguous", "no clear answer", "")),
    "503 of a gateway": (says_html(503), ("ambiguous", "no clear answer", "")),
    "a reset": (cut_connection, ("ambiguous", "no clear answer", "")),
    "503 of its own": (
        says(503, (None, "service not available")),
        ("planned", "refused: unavailable", "waits 60 s"),
    ),
    "429, Retry-After": (BUSY, ("planned", "refused: throttled", "waits 120 s")),
    "429, X-RateLimit-Reset": (
        says(
            429,
            Date="Wed, 17 Mar 2027 02:00:00 GMT",
            X_RateLimit_Reset="1805248890",
        ),
        ("planned", "refused: throttled", "waits 90 s"),
    ),
    "429 without either": (says(429), ("planned", "refused: throttled", "waits 60 s")),
    "401": (NOT_ALLOWED, ("planned", "refused: setup", "put a valid key into SENDGRID_API_KEY")),
    "403": (
        says(403, (None, "access forbidden")),
        ("planned", "refused: setup", "give the API key the Mail Send right; verify the sender"),
    ),
    "400 about the sender": (
        says(400, ("from.email", "does not match a verified Sender Identity")),
        ("planned", "refused: setup", "correct what it names"),
    ),
    "400 that names the only one": (
        FIRST_IS_BAD,
        ("rejected", "every recipient was refused", ""),
    ),
    "400 that names nobody": (NAMELESS, ("planned", "refused: unattributable", "")),
    "413 for one person": (TOO_LARGE, ("planned", "refused: setup", "SendGrid answered 413")),
}


async def test_what_the_row_and_the_channel_say_after_each_answer(desk: Desk) -> None:
    """Sixteen parcels of one person each, and an answer for each of them."""
    await desk.plan(16)
    await desk.release()
    messages = await desk.take()
    found: dict[str, tuple[str, str, str]] = {}
    doubts: set[str] = set()
    for (name, (answer, _)), message in zip(ANSWERS.items(), messages, strict=True):
        desk.provider.answers = [answer]
        await desk.send(message)
        row = await desk.row(message)
        found[name] = (row.state, row.reason, await what_holds(desk, row))
        if row.doubt:
            doubts.add(name)

    wanted = {name: expected for name, (_, expected) in ANSWERS.items()}
    for name, (_, _, hold) in wanted.items():
        assert hold in found[name][2], name
    assert {name: told[:2] for name, told in found.items()} == {
        name: told[:2] for name, told in wanted.items()
    }
    assert doubts == {name for name, told in wanted.items() if told[0] == "ambiguous"}
    assert len(desk.provider.calls) == 16


async def what_holds(desk: Desk, row: Parcel) -> str:
    """What holds the channel, in words; it is lifted by that."""
    control = desk.app.stores.control
    told: list[str] = []

    def look(held: Any) -> Any:
        told[:] = [pause.text for pause in held.pauses.values()]
        if held.retry_at:
            assert row.retry_at == held.retry_at
            wait = (held.retry_at - desk.clock.storage_now()).total_seconds()
            told.append(f"waits {round(wait / 10) * 10} s")
        return msgspec.structs.replace(held, pauses={}, retry_at=None)

    await control.change(NAME, "email", look)
    return "; ".join(told)


@pytest.mark.parametrize("ages", [msgspec.structs.replace(AGES, call=0.3)])
async def test_a_hang_is_ambiguous(desk: Desk) -> None:
    await desk.plan(1)
    await desk.world.fault("inbox", calls=[{"hang": 1, "accept": True}])
    await desk.send_due()

    parcel = await desk.parcel()
    assert (parcel.state, parcel.reason) == (State.AMBIGUOUS, "no clear answer")


async def test_what_was_never_connected_goes_again(desk: Desk) -> None:
    await desk.plan(1)
    sender = SendGrid(desk.app.http, base_url="http://127.0.0.1:1", api_key="test", call_timeout=5)
    message = await desk.hand_out()
    await app_with(desk, sender).send(message)

    parcel = await desk.parcel()
    assert (parcel.state, parcel.reason) == (State.PLANNED, "refused: unreachable")
    desk.clock.let_pass(seconds=62)
    await desk.send_due()
    assert (await desk.parcel()).state is State.ACCEPTED


async def test_only_what_may_have_gone_out_is_marked_as_a_wave(desk: Desk) -> None:
    await desk.plan(3)
    went_out = desk.app.stores.campaigns.waves_went_out
    await desk.release()
    for answer, marked in ((BUSY, False), (FIRST_IS_BAD, False), (GATEWAY, True)):
        message, *rest = await desk.take()
        for other in rest:
            await desk.app.stores.queues.put_hand_out(other)
        desk.provider.answers = [answer]
        await desk.send(message)
        await what_holds(desk, await desk.row(message))
        assert await went_out(NAME) is marked, answer


# --- a claim that was given up --------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 429, 400])
async def test_what_comes_after_its_row_was_planned_to_be_resent_changes_nothing(
    desk: Desk, status: int
) -> None:
    """A process that stood still for hours: its row has been given up, and decided."""
    await desk.plan(1)
    desk.provider.answers = [lambda _: web.json_response({}, status=status)]
    planned: list[Parcel] = []

    async def pass_time(_: web.Request) -> None:
        row = await change(
            desk, await desk.parcel(), state=State.AMBIGUOUS, reason="abandoned", doubt=True
        )
        planned.append(await change(desk, row, state=State.PLANNED, reason="", resent=True))

    desk.provider.before = pass_time
    await desk.send_due()
    [then], now = planned, await desk.parcel()
    assert (now.state, now.resent, now.doubt, now.attempt) == (
        State.PLANNED,
        True,
        then.doubt,
        then.attempt,
    )


@pytest.mark.invariant(1)
async def test_a_late_acceptance_settles_an_abandoned_claim(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(1)
    message = await desk.hand_out()
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_: web.Request) -> None:
        arrived.set()
        await go_on.wait()

    desk.provider.before = hold
    sending = asyncio.create_task(desk.app.dispatch.send(message))
    await arrived.wait()
    desk.clock.let_pass(minutes=14)
    await desk.release()
    assert (await desk.parcel()).state is State.CLAIMED
    desk.clock.let_pass(minutes=2)
    await desk.release()

    given_up = await desk.parcel()
    assert (given_up.state, given_up.reason) == (State.AMBIGUOUS, "abandoned")
    assert given_up.doubt
    assert alarms_of(caplog) == ["claims_abandoned"]
    assert await desk.take() == []

    go_on.set()
    await sending
    parcel = await desk.parcel()
    assert (parcel.state, parcel.reason, parcel.final) == (State.ACCEPTED, "", False)
    await desk.send_due()
    assert len(desk.provider.calls) == 1


@pytest.mark.invariant(1, 2)
async def test_a_claim_whose_sender_died_ends_final_and_listed(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    (planned,) = await desk.plan(1)
    await change(desk, planned, state=State.CLAIMED, claimed_at=desk.clock.storage_now())
    desk.clock.let_pass(minutes=16)
    await desk.release()
    assert await desk.unreached() == {0: "no clear answer"}

    desk.clock.let_pass(hours=23)
    await desk.release()
    assert not (await desk.parcel()).final
    desk.clock.let_pass(hours=1)
    await desk.release()
    parcel = await desk.parcel()
    assert (parcel.state, parcel.reason, parcel.final) == (State.AMBIGUOUS, "no receipt", True)
    assert alarms_of(caplog) == ["claims_abandoned", "touch_unreached", "no_receipt"]
    assert await desk.unreached() == {0: "no clear answer"}
    assert desk.provider.calls == []


async def test_a_late_acceptance_counts_for_a_row_that_is_final_or_with_another_attempt(
    desk: Desk,
) -> None:
    """The row goes on while the call is under way: each state that it may be in by then."""
    await desk.plan(4)
    await desk.release()
    messages = await desk.take()
    ways: list[dict[str, Any]] = [
        {"state": State.AMBIGUOUS, "reason": "no receipt", "doubt": True, "final": True},
        {"state": State.PLANNED, "doubt": True, "resent": True},
        {"state": State.CLAIMED, "attempt": "another", "doubt": True},
        {"state": State.REJECTED, "attempt": "another"},
    ]
    for message, way in zip(messages, ways, strict=True):

        async def move_on(_: web.Request, way: dict[str, Any] = way) -> None:
            await change(desk, desk.provider.calls[-1].row, **way)

        desk.provider.before = move_on
        await desk.send(message)
    desk.provider.before = None

    rows = [await desk.row(message) for message in messages]
    assert [row.state for row in rows] == [
        *(State.ACCEPTED, State.ACCEPTED, State.ACCEPTED),
        State.REJECTED,
    ]
    assert not any(row.final for row in rows)


async def test_a_late_refusal_says_nothing_of_another_attempt(desk: Desk) -> None:
    await desk.plan(2)
    await desk.release()
    messages = await desk.take()
    ways: list[dict[str, Any]] = [
        {"state": State.CLAIMED, "attempt": "another", "doubt": True},
        {"state": State.AMBIGUOUS, "reason": "abandoned", "doubt": True},
    ]
    for message, way in zip(messages, ways, strict=True):

        async def move_on(_: web.Request, way: dict[str, Any] = way) -> None:
            await change(desk, desk.provider.calls[-1].row, **way)

        desk.provider.before, desk.provider.answers = move_on, [FIRST_IS_BAD]
        await desk.send(message)

    rows = [await desk.row(message) for message in messages]
    assert [row.state for row in rows] == [State.CLAIMED, State.AMBIGUOUS]


# --- answers of the storage service that are lost -------------------------------------------------


@pytest.fixture
async def lossy(connection_string: str, tmp_path: Path) -> AsyncGenerator[tuple[Desk, LossyTable]]:
    async with (
        losing_answers(connection_string) as (through_proxy, table),
        running_desk(connection_string, tmp_path, AzureWebJobsStorage=through_proxy) as desk,
    ):
        yield desk, table


@pytest.mark.invariant(1)
async def test_a_write_whose_answer_is_lost_is_found_to_be_our_own(
    lossy: tuple[Desk, LossyTable],
) -> None:
    """Each parcel loses the answer to one of its writes, and is settled by its one call."""
    desk, table = lossy
    await desk.plan(5)
    await desk.release()
    messages = await desk.take()
    losses: list[tuple[str, Answer | None, State]] = [
        ('"state":"claimed"', None, State.ACCEPTED),
        ('"state":"accepted"', None, State.ACCEPTED),
        ('"state":"ambiguous"', GATEWAY, State.AMBIGUOUS),
        ('"state":"rejected"', FIRST_IS_BAD, State.REJECTED),
        ('"state":"planned"', BUSY, State.PLANNED),
    ]
    for message, (words, answer, state) in zip(messages, losses, strict=True):
        table.lose = [lambda write, words=words: words in write.replace(" ", "")]
        desk.provider.answers = [answer]
        await desk.send(message)
        row = await desk.row(message)
        assert table.lose == [], f"no answer to {words} was lost"
        assert row.state is state, words
    assert len(desk.provider.calls) == len(losses)
    assert {call.row.state for call in desk.provider.calls} == {State.CLAIMED}


async def test_a_split_whose_answer_is_lost_stands(lossy: tuple[Desk, LossyTable]) -> None:
    desk, table = lossy
    await desk.plan(in_one_shard(4))
    table.lose = [lambda write: '"split"' in write]
    desk.provider.answers = [TOO_LARGE]
    await desk.send_due()

    assert table.lose == []
    assert sorted(p.reason or p.state for p in await desk.parcels()) == [
        "planned",
        "planned",
        "split",
    ]
    await desk.send_due()
    assert sorted(p.state for p in await desk.parcels()) == ["accepted", "accepted", "closed"]


# --- recipients that are refused ------------------------------------------------------------------


@pytest.mark.invariant(2, 6)
async def test_a_named_recipient_is_passed_over_and_the_others_go(
    lossy: tuple[Desk, LossyTable],
) -> None:
    """Number 16 has a second contact and number 32 has none."""
    desk, table = lossy
    second = {1: "person.16@connect.example.edu"}
    everybody = [replace(one, mail=second.get(i)) for i, one in enumerate(in_one_shard(4))]
    await desk.plan(everybody)
    refused = ("person.16@example.org", "person.32@example.org")
    await desk.world.fault("inbox", refuse=dict.fromkeys(refused, "named"))
    await desk.send_due()

    parcel = await desk.parcel()
    marked = [number_of(who) for i, who in parcel.people() if has_bit(parcel.refused, i)]
    assert (parcel.state, marked) == (State.PLANNED, [16, 32])
    # The address is remembered before the row says so: a crash between the two loses nothing.
    writes = [body for body in table.written if '"bad_' in body or '"refused":' in body]
    assert ["person|" in body for body in writes] == [True, False]
    known = await desk.app.stores.people.read_shard(NAME, 0)
    key = desk.app.settings.address_key.encode()
    assert {number_of(who): one.bad for who, one in known.items()} == {
        16: {address_key(key, refused[0])},
        32: {address_key(key, refused[1])},
    }

    await desk.send_due()
    assert (await desk.parcel()).state is State.ACCEPTED
    assert [call.indices for call in desk.provider.calls] == [[0, 1, 2, 3], [0, 3]]
    assert await desk.unreached() == {16: "the address was refused", 32: "the address was refused"}

    # The next planning uses the next contact of whoever has one.
    await desk.world.sweep()
    assert desk.provider.calls[2].addresses == [second[1]]
    assert await desk.unreached() == {32: "the address was refused"}


@pytest.mark.invariant(1, 2)
@pytest.mark.parametrize("count", [2, 5, 8])
async def test_a_refusal_that_names_nobody_is_halved_down_to_one_person(
    desk: Desk, count: int
) -> None:
    await desk.plan(in_one_shard(count))
    await desk.world.fault("inbox", refuse={"person.0@example.org": "unnamed"})
    await send_all(desk)

    parcels = await desk.parcels()
    assert {p.reason for p in parcels if p.state is State.CLOSED} <= {"split"}
    accepted = [person for p in parcels if p.state is State.ACCEPTED for _, person in p.people()]
    rejected = [person for p in parcels if p.state is State.REJECTED for _, person in p.people()]
    assert sorted(map(number_of, accepted)) == [16 * number for number in range(1, count)]
    assert list(map(number_of, rejected)) == [0]
    assert len(parcels) - 1 == 2 * sum(p.state is State.CLOSED for p in parcels)
    assert await desk.unreached() == {0: "the address was refused"}


async def test_who_is_refused_alone_and_first_does_not_hold_up_the_others(desk: Desk) -> None:
    """While nobody has got through, the fault may be in what all mails have."""
    await desk.plan(3)
    desk.provider.answers = [NOT_ALLOWED] * 3
    await desk.send_due()  # all of them have been refused before
    assert len(desk.provider.calls) == 3
    await desk.world.fault("inbox", refuse={"person.1@example.org": "unnamed"})
    await desk.app.operations.resume(NAME, "registrar")
    await desk.release()
    first, *others = sorted(await desk.take(), key=lambda message: message.shard != 1)
    await desk.send(first)
    await desk.send(*others)
    assert len(desk.provider.calls) == 6
    states = {parcel.shard: parcel.state for parcel in await desk.parcels()}
    assert states == {0: State.ACCEPTED, 1: State.PLANNED, 2: State.ACCEPTED}

    await send_all(desk)
    states = {parcel.shard: parcel.state for parcel in await desk.parcels()}
    assert states == {0: State.ACCEPTED, 1: State.REJECTED, 2: State.ACCEPTED}


async def test_no_address_is_blamed_for_what_nobody_gets_through(desk: Desk) -> None:
    await desk.plan(in_one_shard(4))
    desk.provider.answers = [NAMELESS] * 12
    for _ in range(6):
        await desk.send_due()
        desk.clock.let_pass(minutes=16)
    assert await desk.app.stores.people.read_shard(NAME, 0) == {}
    assert await desk.parcels(State.REJECTED) == []
    assert "setup" in (await desk.app.stores.control.read(NAME, "email")).pauses

    desk.provider.answers = []
    await send_all(desk)
    assert len(await desk.parcels(State.ACCEPTED)) == 4


async def send_all(desk: Desk) -> None:
    """Until nothing is planned any more; a pause or a split takes some rounds."""
    for _ in range(12):
        await desk.send_due()
        if not await desk.parcels(State.PLANNED):
            return
        desk.clock.let_pass(minutes=16)
    pytest.fail("something stays planned")


async def test_what_is_too_large_is_halved_and_keeps_its_marks(desk: Desk) -> None:
    (planned,) = await desk.plan(in_one_shard(6))
    people = dict(planned.people())
    marks = {"left_out": with_bits(b"", [5]), "refused": with_bits(b"", [0])}
    await change(desk, planned, **marks)
    desk.provider.answers = [TOO_LARGE]
    await desk.send_due()
    await desk.send_due()

    parent, first, second = await desk.parcels()
    assert (parent.key + "a", parent.key + "b") == (first.key, second.key)
    assert first.ids + second.ids == parent.ids
    assert [(p.state, p.refused, p.left_out) for p in (first, second)] == [
        (State.ACCEPTED, with_bits(b"", [0]), b""),
        (State.ACCEPTED, b"", with_bits(b"", [2])),
    ]
    sent = sorted(address for call in desk.provider.calls[1:] for address in call.addresses)
    assert sent == sorted(f"person.{number_of(people[i])}@example.org" for i in (1, 2, 3, 4))


@pytest.mark.invariant(1)
async def test_a_row_with_a_doubt_behind_it_is_never_closed_nor_split(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Every way in which another row would end closed, for two people each."""
    everybody = [Someone(number=number) for number in range(32)]
    planned = await desk.plan(everybody[:6] + everybody[16:22])
    doubtful = [await change(desk, parcel, doubt=True) for parcel in planned]
    await desk.release()
    messages = {message.shard: message for message in await desk.take()}

    desk.provider.answers = [TOO_LARGE, NAMELESS]
    await desk.send(messages[0])
    await desk.send(messages[1])
    for _, person in doubtful[2].people():
        await note_change(desk, doubtful[2], person, desk.clock.storage_now())
    await desk.send(messages[2])
    await desk.app.dispatch.bury(messages[3])
    third = msgspec.structs.replace(messages[4], faults=2)
    await app_with(desk, Broken(desk, after_start=False)).send(third)
    await change(
        desk,
        await desk.row(messages[5]),
        not_after=FORTNIGHT - timedelta(minutes=1),
    )
    await desk.release()

    rows = await desk.parcels()
    assert {(p.state, p.final) for p in rows} == {(State.AMBIGUOUS, True)}
    assert {p.reason for p in rows} == {"failed", "expired"}
    assert len(rows) == 6


# --- faults of our own ----------------------------------------------------------------------------


class Broken:
    """A sender that breaks, before its call has begun or after."""

    channel = "email"
    max_recipients = 500

    def __init__(self, desk: Desk, *, after_start: bool) -> None:
        self._desk = desk
        self._after_start = after_start

    def prepare(self, letter: Any, envelopes: Sequence[Envelope], **_: Any) -> Prepared:
        return Prepared(b"{}", len(envelopes))

    async def send(self, prepared: Prepared, may_start: Callable[[], bool]) -> Outcome:
        assert (await self._desk.parcels(State.CLAIMED)) != []
        if self._after_start:
            assert may_start()
        raise RuntimeError("broken")


class OverTheLimit(Broken):
    """A sender whose call would break a limit."""

    def prepare(self, letter: Any, envelopes: Sequence[Envelope], **_: Any) -> Prepared:
        raise Unsendable("the call would be too large")


@pytest.mark.invariant(2)
async def test_the_third_fault_between_claim_and_call_closes_the_row(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(1)
    broken = app_with(desk, Broken(desk, after_start=False))
    told: list[tuple[str, str]] = []
    for _ in range(3):
        await broken.send(await desk.hand_out())
        parcel = await desk.parcel()
        told.append((parcel.state, parcel.reason))
    assert told == [
        ("planned", "fault: RuntimeError"),
        ("planned", "fault: RuntimeError"),
        ("closed", "failed"),
    ]
    assert alarms_of(caplog) == ["parcel_failed"]
    assert await desk.unreached() == {0: "failed"}

    # Nobody of it was had, so planning again is the replay.
    await desk.world.sweep()
    assert await desk.unreached() == {}
    assert len(desk.provider.calls) == 1


async def test_a_fault_after_the_first_byte_is_a_doubt(desk: Desk) -> None:
    await desk.plan(1)
    await app_with(desk, Broken(desk, after_start=True)).send(await desk.hand_out())

    parcel = await desk.parcel()
    assert (parcel.state, parcel.reason, parcel.faults) == (State.AMBIGUOUS, "no clear answer", 0)


@pytest.mark.invariant(2)
async def test_what_cannot_be_sent_is_closed_when_the_queue_gives_up(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Contact data that are not those that were planned, that are gone, and a provider's limit."""
    changed, gone, _ = await desk.plan(3)
    container = desk.app.account.container(NAMES.containers.outbox)
    await container.upload_blob(changed.outbox, b"x" * changed.length, overwrite=True)
    await container.delete_blob(gone.outbox)
    await desk.release()
    messages = sorted(await desk.take(), key=lambda message: message.shard)
    for message, dispatch, error in (
        (messages[0], desk.app.dispatch, OutboxDamaged),
        (messages[1], desk.app.dispatch, OutboxDamaged),
        (messages[2], app_with(desk, OverTheLimit(desk, after_start=False)), Unsendable),
    ):
        with pytest.raises(error):
            await dispatch.send(message)
    assert {p.state for p in await desk.parcels()} == {State.PLANNED}

    for message in messages:
        await desk.app.dispatch.bury(message)
    assert {(p.state, p.reason) for p in await desk.parcels()} == {(State.CLOSED, "failed")}
    assert alarms_of(caplog) == ["parcel_failed"] * 3
    assert await desk.unreached() == {0: "failed", 1: "failed", 2: "failed"}
    await desk.world.sweep()
    assert await desk.unreached() == {}
    assert len(desk.provider.calls) == 3


async def test_a_dead_message_closes_nothing_that_has_gone_its_way_without_it(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(2)
    await desk.release()
    first, second = await desk.take()
    await desk.send(first)
    desk.clock.let_pass(minutes=16)
    await desk.release()
    (newer,) = await desk.take()

    await desk.app.dispatch.bury(first)
    await desk.app.dispatch.bury(second)

    assert sorted(p.state for p in await desk.parcels()) == ["accepted", "planned"]
    assert alarms_of(caplog) == ["parcels_at_rest"]  # of the second one, which nobody took
    await desk.send(newer)
    assert {p.state for p in await desk.parcels()} == {State.ACCEPTED}


# --- who is left out ------------------------------------------------------------------------------


@pytest.mark.invariant(4)
async def test_who_completed_since_planning_is_left_out(desk: Desk) -> None:
    """Changes count from ten minutes before the row's run read the fence."""
    (planned,) = await desk.plan(in_one_shard(4))
    people = dict(planned.people())
    begun = planned.planned_from
    await note_change(desk, planned, people[0], begun + timedelta(seconds=1))
    await note_change(desk, planned, people[1], begun - timedelta(seconds=599))
    await note_change(desk, planned, people[2], begun - timedelta(seconds=601))
    await desk.send_due()

    (call,) = desk.provider.calls
    parcel = await desk.parcel()
    assert call.indices == [2, 3]
    assert parcel.state is State.ACCEPTED
    assert parcel.left_out == with_bits(b"", [0, 1])
    assert await desk.unreached() == {}


@pytest.mark.invariant(2, 4)
async def test_a_parcel_of_which_nobody_is_left_is_cancelled(desk: Desk) -> None:
    (planned,) = await desk.plan(in_one_shard(2))
    for _, person in planned.people():
        await note_change(desk, planned, person, desk.clock.storage_now())
    await desk.send_due()

    parcel = await desk.parcel()
    assert (parcel.state, parcel.reason) == (State.CLOSED, "cancelled")
    assert desk.provider.calls == []
    assert await desk.unreached() == {}


LAST_CALL = FORTNIGHT.replace(month=3, day=30)
"""The day of the last touch before the deadline; FORTNIGHT is that of an earlier one."""


@pytest.mark.invariant(4)
@pytest.mark.parametrize(
    ("kind", "day", "written_to"),
    [
        ("completed", FORTNIGHT, False),
        ("opted_out", FORTNIGHT, False),
        ("left_out", FORTNIGHT, False),
        ("reported", FORTNIGHT, False),
        ("completed", LAST_CALL, False),
        ("opted_out", LAST_CALL, False),
        ("left_out", LAST_CALL, False),
        ("reported", LAST_CALL, True),
    ],
)
async def test_the_last_touch_before_the_deadline_goes_to_whoever_only_says_that_they_are_done(
    desk: Desk, kind: ChangeKind, day: datetime, written_to: bool
) -> None:
    (planned,) = await desk.plan(in_one_shard(2), at=day - timedelta(hours=2))
    desk.move_clock(day)
    (_, first), (_, second) = planned.people()
    await note_change(desk, planned, first, desk.clock.storage_now(), kind)
    await desk.send_due()
    (call,) = desk.provider.calls
    assert call.indices == ([0, 1] if written_to else [1])
    assert number_of(second) == 16


@pytest.mark.invariant(4)
async def test_what_somebody_said_before_the_sweep_no_longer_silences(desk: Desk) -> None:
    """The sweep has looked since, and the directory shows nothing; also where all of it took less
    than the ten minutes from which on changes are read."""
    everybody = in_one_shard(3)
    await desk.plan(everybody)
    stores, ids = desk.app.stores, [one.id16 for one in everybody]
    await stores.people.remember_completed(NAME, 0, {ids[0]: ""}, "reported")
    desk.clock.let_pass(seconds=5)
    desk.move_clock(EARLY)
    await desk.world.sweep()
    desk.move_clock(FORTNIGHT)
    desk.clock.let_pass(seconds=5)
    await stores.people.remember_completed(NAME, 0, {ids[1]: ""}, "reported")
    await desk.send_due()
    (call,) = desk.provider.calls
    assert sorted(number_of(person) for _, person in call.row.people()) == [0, 16, 32]
    assert call.indices == [0, 2]


@pytest.mark.invariant(4)
async def test_a_newer_sweep_says_nothing_before_it_is_planned(desk: Desk) -> None:
    """It is committed, and has seen that somebody has registered as they said; the row of the sweep
    before it is with the sender already."""
    everybody = in_one_shard(2)
    await desk.plan(everybody)
    await desk.release()
    (message,) = await desk.take()
    people, first = desk.app.stores.people, everybody[0].id16
    await people.remember_completed(NAME, 0, {first: ""}, "reported")
    desk.clock.let_pass(seconds=60)
    desk.graph.change([0], registered=True)
    await desk.app.sweeps.start()
    sweeps = desk.app.account.queue(NAMES.queues.sweep)
    while batch := [one async for one in sweeps.receive_messages(max_messages=32)]:
        for one in batch:
            await desk.app.sweeps.read(decode_message(one.content, ReadPages))
            await sweeps.delete_message(one)
    committed = await desk.app.stores.sweeps.read_committed()
    assert committed
    assert committed.number == 2
    await desk.send(message)
    (call,) = desk.provider.calls
    assert call.indices == [1]


@pytest.mark.invariant(4)
@pytest.mark.parametrize("ages", [msgspec.structs.replace(AGES, changes_cache=60)])
async def test_changes_are_read_again_when_they_are_old(desk: Desk) -> None:
    """A cache that serves for a minute, and a claim that wants to know of the last half second."""
    everybody = in_one_shard(3)
    await desk.plan(everybody, parcel_size=1)
    people = desk.app.stores.people
    await desk.release()
    first, second, third = await desk.take()
    await desk.send(first)
    await people.remember_completed(NAME, 0, dict.fromkeys(_ids(everybody), "x"), "confirmed")
    await desk.send(second)
    assert len(desk.provider.calls) == 2, "as of a moment ago nobody had completed"
    desk.clock.ages = msgspec.structs.replace(desk.clock.ages, changes_cache=0.05)
    await asyncio.sleep(0.1)
    await desk.send(third)
    assert len(desk.provider.calls) == 2


@pytest.mark.invariant(4)
@pytest.mark.parametrize(
    "ages", [msgspec.structs.replace(AGES, changes_cache=60, changes_known=0.05)]
)
async def test_nothing_is_claimed_on_what_is_known_too_long(desk: Desk) -> None:
    """Where looking and rendering take longer than what was read may be old, the row stays."""
    everybody = in_one_shard(2)
    await desk.plan(everybody, parcel_size=1)
    await desk.release()
    first, second = await desk.take()
    await desk.send(first)
    await asyncio.sleep(0.1)
    await desk.send(second)
    assert len(desk.provider.calls) == 1
    assert (await desk.row(second)).state is State.PLANNED


def _ids(everybody: list[Someone]) -> list[bytes]:
    return [one.id16 for one in everybody]


# --- which guide, and whose links -----------------------------------------------------------------


@pytest.mark.invariant(10)
@pytest.mark.parametrize(
    ("moment", "guide"),
    [
        ("2027-03-31T23:58:30+08:00", "registration"),
        ("2027-04-01T00:00:00+08:00", "general"),
        ("2027-04-05T10:00:00+08:00", "general"),
    ],
)
async def test_the_clock_at_claim_chooses_the_guide(desk: Desk, moment: str, guide: str) -> None:
    """A touch from before the deadline, made to last beyond it."""
    await desk.plan(
        1,
        at=datetime.fromisoformat("2027-03-16T23:00+08:00"),
        window='{days: mon-fri, from: "00:00", until: "23:59"}',
    )
    message = await desk.hand_out()
    beyond = datetime.fromisoformat("2027-04-10T00:00Z")
    desk.move_clock(datetime.fromisoformat(moment))
    await desk.send(msgspec.structs.replace(message, not_after=beyond))

    (mail,) = (await desk.world.messages())["messages"]
    parcel = await desk.parcel()
    registers = "https://mysignins.microsoft.com/security-info" in mail["text"]
    assert ("registration" if registers else "general") == guide
    assert "https://its.hku.hk/services/accounts-2fa/mfa/" in mail["text"]
    assert parcel.touched_at is not None
    assert (parcel.touched_at >= datetime.fromisoformat("2027-03-31T16:00Z")) == (
        guide == "general"
    )


@pytest.mark.invariant(11)
@pytest.mark.parametrize(
    ("mode", "base_url", "hosts", "goes"),
    [
        ("live", "https://mfa.its.hku.hk", "its.hku.hk,mfa.its.hku.hk", True),
        ("live", "https://mfa.its.hku.hk", "its.hku.hk", False),
        ("live", "https://nudge.azurewebsites.net", "its.hku.hk", False),
        ("live", "https://nudge.azurewebsites.net", "its.hku.hk,nudge.azurewebsites.net", False),
        ("trial", "https://nudge.azurewebsites.net", "its.hku.hk", True),
    ],
)
async def test_live_needs_the_institutions_own_domain(
    connection_string: str, tmp_path: Path, mode: str, base_url: str, hosts: str, goes: bool
) -> None:
    settings = {"PUBLIC_BASE_URL": base_url, "ALLOWED_LINK_HOSTS": hosts}
    async with running_desk(connection_string, tmp_path, **settings) as desk:
        await desk.plan(1, mode=mode, trial=f"[{Someone(number=0).id}]")
        await desk.release()
        messages = await desk.take()
        # Also a message that was handed out while the settings were others.
        by_hand = messages or [hand_out_from(await desk.parcel(), probe=False)]
        await desk.send(*by_hand)

        status = await desk.app.status.collect()
        assert [len(messages), len(desk.provider.calls)] == ([1, 1] if goes else [0, 0])
        assert any("PUBLIC_BASE_URL" in why for why in status.campaigns[0].waiting) is not goes
        if goes:
            (mail,) = (await desk.world.messages())["messages"]
            assert f"{base_url}/unsubscribe/" in mail["headers"]["List-Unsubscribe"]
