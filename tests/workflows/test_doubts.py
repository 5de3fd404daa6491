"""What becomes of calls without a clear answer: receipts settle them, one resend, or the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import web

from local.serving import cut_connection
from shared.rules.parcels import Parcel, State, has_bit
from tests.graph import people
from tests.sending import Desk, alarms_of, change, in_one_shard, running_desk
from tests.world import NAME


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


def unclear(_: web.Request) -> web.Response:
    return web.Response(status=500)


async def doubt_and_a_later_call(desk: Desk) -> tuple[Parcel, Parcel]:
    """One call without a clear answer, and one of a minute later that was accepted."""
    await desk.plan(2)
    await desk.release()
    first, second = await desk.take()
    desk.provider.answers = [unclear]
    await desk.send(first)
    desk.clock.let_pass(minutes=1)
    await desk.send(second)
    doubtful, accepted = await desk.row(first), await desk.row(second)
    assert (doubtful.state, accepted.state) == (State.AMBIGUOUS, State.ACCEPTED)
    return doubtful, accepted


async def again(desk: Desk, parcel: Parcel) -> Parcel:
    found = await desk.app.stores.ledger.read(parcel.campaign, parcel.shard, parcel.key)
    assert found
    return found


@pytest.mark.invariant(1, 2)
async def test_where_later_calls_have_receipts_a_doubt_is_sent_once_more(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    doubtful, accepted = await doubt_and_a_later_call(desk)
    await desk.report(accepted, delivered=[0])
    desk.clock.let_pass(hours=1, minutes=58)
    await desk.release()
    assert (await again(desk, doubtful)).state is State.AMBIGUOUS  # not two hours yet

    desk.clock.let_pass(minutes=2)
    await desk.send_due()
    resent = await again(desk, doubtful)
    assert (resent.state, resent.resent, resent.doubt) == (State.ACCEPTED, True, True)
    first, _, second = desk.provider.calls
    assert (first.addresses, first.body["custom_args"]["parcel"]) == (
        second.addresses,
        second.body["custom_args"]["parcel"],
    )
    assert first.attempt != second.attempt
    assert alarms_of(caplog) == []


@pytest.mark.invariant(1)
async def test_a_second_doubt_about_the_same_row_is_final(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    doubtful, accepted = await doubt_and_a_later_call(desk)
    await desk.report(accepted, delivered=[0])
    desk.clock.let_pass(hours=2)
    desk.provider.answers = [unclear]
    await desk.send_due()
    assert (await again(desk, doubtful)).state is State.AMBIGUOUS
    # Something later has receipts once more.
    await change(desk, await again(desk, accepted), claimed_at=desk.clock.storage_now())
    desk.clock.let_pass(hours=3)
    for _ in range(3):
        await desk.send_due()
        desk.clock.let_pass(minutes=16)
    ended = await again(desk, doubtful)
    assert (ended.state, ended.reason, ended.final) == (State.AMBIGUOUS, "no receipt", True)
    assert len(desk.provider.calls) == 3
    assert "no_receipt" in alarms_of(caplog)
    assert "no clear answer" in (await desk.unreached()).values()


@pytest.mark.invariant(1, 2)
async def test_without_receipts_of_later_calls_nothing_is_sent_twice(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Silence about all of them says nothing of one: it is our webhook that is broken."""
    doubtful, _ = await doubt_and_a_later_call(desk)
    for _ in range(7):
        desk.clock.let_pass(hours=3)
        await desk.send_due()
    assert not (await again(desk, doubtful)).final
    desk.clock.let_pass(hours=3)
    await desk.send_due()
    assert (await again(desk, doubtful)).final
    assert len(desk.provider.calls) == 2
    assert "no_receipt" in alarms_of(caplog)


@pytest.mark.invariant(1)
@pytest.mark.parametrize("when", ["before the look", "planned again", "claimed again", "final"])
async def test_a_receipt_of_the_first_attempt_settles_it_whenever_it_comes(
    desk: Desk, when: str
) -> None:
    doubtful, accepted = await doubt_and_a_later_call(desk)
    if when == "final":
        await change(desk, doubtful, final=True, reason="no receipt")
    elif when != "before the look":
        await desk.report(accepted, delivered=[0])
        desk.clock.let_pass(hours=2)
        await desk.release()
        assert (await again(desk, doubtful)).state is State.PLANNED
    if when == "claimed again":

        async def report_meanwhile(_: web.Request) -> None:
            await desk.report(doubtful, delivered=[0])

        desk.provider.before = report_meanwhile
        desk.provider.answers = [unclear]
        await desk.send(*await desk.take())
    else:
        await desk.report(doubtful, delivered=[0])
        await desk.send(*await desk.take())
    settled = await again(desk, doubtful)
    assert (settled.state, settled.final) == (State.ACCEPTED, False)
    assert has_bit(settled.delivered, 0)
    # A call that was claimed again had left by then: a double that the row names.
    assert len(desk.provider.calls) == (3 if when == "claimed again" else 2)
    assert settled.resent is (when in ("planned again", "claimed again"))
    await desk.send_due()
    assert len(desk.provider.calls) == (3 if when == "claimed again" else 2)


@pytest.mark.invariant(4)
async def test_who_is_passed_over_at_a_resend_may_have_had_the_first_attempt(desk: Desk) -> None:
    """They completed in between: they get no second mail, and count as had."""
    everybody = in_one_shard(3)
    await desk.plan(everybody)
    desk.provider.answers = [unclear]
    await desk.send_due()
    (doubtful,) = await desk.parcels()
    ((_, first), *_) = doubtful.people()
    later = await change(desk, doubtful, delivered=b"")
    await desk.app.stores.people.remember_completed(NAME, 0, {first: "methods"}, "confirmed")
    # As release decides it where a later call has receipts.
    await change(desk, later, state=State.PLANNED, reason="resend", resent=True, released_at=None)
    desk.clock.let_pass(minutes=20)
    await desk.send_due()
    (resent,) = await desk.parcels()
    assert desk.provider.calls[1].indices == [1, 2]
    assert (resent.state, resent.left_out) == (State.ACCEPTED, b"")
    assert [resent.outcome_of(index) for index in range(3)] == ["had"] * 3


@pytest.mark.invariant(1)
async def test_what_an_older_version_planned_is_not_sent_again_under_it(desk: Desk) -> None:
    doubtful, accepted = await doubt_and_a_later_call(desk)
    await desk.report(accepted, delivered=[0])
    await change(desk, doubtful, version=0)
    desk.clock.let_pass(hours=2)
    await desk.send_due()
    ended = await again(desk, doubtful)
    assert (ended.state, ended.final) == (State.AMBIGUOUS, True)
    assert len(desk.provider.calls) == 2


# --- bounces --------------------------------------------------------------------------------------


@pytest.mark.invariant(8)
async def test_too_many_bounces_of_a_touch_pause_the_channel(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(people(64), parcel_size=1, sending="guards: {bounces: 0.4}")
    await desk.release()
    messages = await desk.take()
    await desk.send(*messages[:50])
    accepted = await desk.parcels(State.ACCEPTED)
    for number, parcel in enumerate(accepted[:20]):
        await desk.report(parcel, bounced=[(0, bytes([number]) * 16)])
    await desk.release()
    assert alarms_of(caplog) == []
    await desk.report(accepted[20], bounced=[(0, b"z" * 16)])
    await desk.release()
    assert alarms_of(caplog) == ["channel_paused"]
    await desk.send(*messages[50:])
    assert len(desk.provider.calls) == 50
    pause = (await desk.app.stores.control.read(NAME, "email")).pauses["bounces"]
    assert pause.text.startswith("21 of 50 addresses of `fortnight` do not work.")

    # Whoever resumes has seen these: they pause nothing a second time.
    await desk.app.operations.resume(NAME, "registrar")
    await desk.send_due()
    assert alarms_of(caplog) == ["channel_paused"]
    assert len(desk.provider.calls) == 64


# --- the end of a process -------------------------------------------------------------------------


@pytest.mark.invariant(1)
async def test_who_is_told_to_end_claims_nothing_more_and_settles_what_is_under_way(
    desk: Desk,
) -> None:
    await desk.plan(2)
    await desk.release()
    first, second = await desk.take()
    idle: list[int] = []

    async def end(_: web.Request) -> None:
        desk.app.dispatch.stop(lambda: idle.append(len(desk.provider.calls)))
        assert idle == []  # one is under way
        await desk.send(second)

    desk.provider.before = end
    await desk.send(first)
    assert (await desk.row(first)).state is State.ACCEPTED
    assert (await desk.row(second)).state is State.PLANNED
    assert idle == [1]


async def test_a_reset_after_acceptance_is_settled_by_its_receipts(desk: Desk) -> None:
    """From end to end: the provider took it, and its answer was lost."""
    await desk.plan(3)
    desk.provider.answers = [cut_connection]
    await desk.send_due()
    (doubtful,) = await desk.parcels(State.AMBIGUOUS)
    await desk.report(doubtful)  # `processed`: nothing is delivered yet
    settled = await again(desk, doubtful)
    assert (settled.state, settled.delivered) == (State.ACCEPTED, b"")
