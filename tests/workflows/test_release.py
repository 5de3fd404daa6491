"""Release: what is due goes out within window, pace and pauses; what rests is taken up or ended."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from shared.names import NAMES
from shared.rules.parcels import SHARDS, State
from shared.stores.control import ControlRow
from shared.stores.parcels import row_from
from shared.stores.queues import PlanShard, decode_message
from shared.stores.table import Table, Write
from tests.graph import Someone, people
from tests.sending import EARLY, Desk, alarms_of, campaign_text, change, in_one_shard, running_desk
from tests.world import NAME

EMAIL = "email"


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


def hong_kong(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+08:00")


async def control_of(desk: Desk) -> ControlRow:
    return await desk.app.stores.control.read(NAME, EMAIL)


def unclear(_: web.Request) -> web.Response:
    return web.Response(status=500)


def not_allowed(_: web.Request) -> web.Response:
    return web.json_response({"errors": [{"message": "authorization required"}]}, status=401)


# --- when -----------------------------------------------------------------------------------------


async def test_nothing_is_handed_out_before_its_time_or_outside_of_the_window(desk: Desk) -> None:
    await desk.plan(2)
    moments = {
        "2027-03-17T08:59:30": 0,  # before the touch opens
        "2027-03-17T09:00:00": 2,
        "2027-03-17T17:59:00": 2,
        "2027-03-17T18:00:00": 0,  # the window has closed
        "2027-03-18T08:59:00": 0,
        "2027-03-18T09:00:00": 2,
        "2027-03-20T12:00:00": 0,  # a Saturday, and past not_after
    }
    found: dict[str, int] = {}
    for moment in moments:
        desk.clock.let_pass(minutes=16)  # what was handed out for the last one is given up for lost
        desk.move_clock(hong_kong(moment))
        await desk.release()
        found[moment] = len(await desk.take())
    assert found == moments


@pytest.mark.invariant(2)
async def test_what_is_past_its_time_is_closed_and_told(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Also a message that is still on the queue by then sends nothing."""
    (planned,) = await desk.plan(in_one_shard(3))
    message = await desk.hand_out()
    desk.move_clock(planned.not_after)
    await desk.send(message)
    assert (await desk.parcel()).state is State.PLANNED
    await desk.release()

    parcel = await desk.parcel()
    assert (parcel.state, parcel.reason) == (State.CLOSED, "expired")
    assert desk.provider.calls == []
    assert alarms_of(caplog) == ["parcels_expired", "touch_unreached"]
    assert '"touch":"fortnight","channel":"email","parcels":1,"recipients":3' in caplog.text
    assert await desk.unreached() == {0: "expired", 16: "expired", 32: "expired"}


async def test_two_touches_of_one_person_keep_their_gap(desk: Desk) -> None:
    """A touch at 17:00, the next one's day is the day after: not before 13:00."""
    await desk.plan(1)
    desk.move_clock(hong_kong("2027-03-17T17:00"))
    await desk.send_due()
    edited = campaign_text().replace("days_before: 7,", "days_before: 13,")
    await desk.world.write_campaign(edited)
    desk.move_clock(hong_kong("2027-03-18T08:00"))
    await desk.world.sweep()

    found: list[str] = []
    for moment in ("2027-03-18T09:30", "2027-03-18T12:59", "2027-03-18T13:01"):
        desk.move_clock(hong_kong(moment))
        await desk.release()
        found += [f"{moment[11:]} {message.touch}" for message in await desk.take()]
    assert found == ["13:01 week"]


async def test_a_row_and_a_channel_wait_until_the_provider_wants_to_be_asked(desk: Desk) -> None:
    await desk.plan(2)
    await desk.release()
    first, second = await desk.take()
    desk.provider.answers = [
        lambda _: web.Response(status=429, headers={"Retry-After": "1800"}),
    ]
    await desk.send(first)
    await desk.send(second)  # it was on the queue already: dropped, without a call
    assert len(desk.provider.calls) == 1
    status = await desk.app.status.collect()
    assert any("asked to wait until" in why for why in status.campaigns[0].waiting)

    desk.clock.let_pass(minutes=29)
    await desk.release()
    assert await desk.take() == []
    desk.clock.let_pass(minutes=2)
    await desk.send_due()
    assert {parcel.state for parcel in await desk.parcels()} == {State.ACCEPTED}


# --- what was lost, and what is outstanding -------------------------------------------------------


async def test_a_lost_message_is_handed_out_again_when_it_must_be_dead(desk: Desk) -> None:
    await desk.plan(3)
    await desk.release()
    queue = desk.app.account.queue(NAMES.queues.email)
    (message, *_) = await queue.peek_messages(max_messages=1)
    assert message.expires_on - message.inserted_on == timedelta(minutes=14)
    lost = await desk.take()
    assert len(lost) == 3

    desk.clock.let_pass(minutes=14)
    await desk.release()
    assert await desk.take() == []
    desk.clock.let_pass(minutes=2)
    await desk.release()
    again = await desk.take()
    assert {one.key for one in again} == {one.key for one in lost}
    assert {one.etag for one in again}.isdisjoint({one.etag for one in lost})
    await desk.send(*lost)
    assert desk.provider.calls == []
    await desk.send(*again)
    assert len(desk.provider.calls) == 3


async def test_two_releasers_side_by_side_hand_out_each_row_once(desk: Desk) -> None:
    await desk.plan(people(64), parcel_size=1)
    second = desk.second_app()
    await asyncio.gather(desk.release(), desk.release(second), desk.release())

    handed_out = await desk.take()
    assert len(handed_out) == len({message.key for message in handed_out})
    await desk.send(*handed_out)
    desk.clock.let_pass(minutes=16)
    await desk.send_due()
    assert {parcel.state for parcel in await desk.parcels()} == {State.ACCEPTED}
    assert Counter(a for call in desk.provider.calls for a in call.addresses).most_common(1) == [
        (desk.provider.calls[0].addresses[0], 1)
    ]


async def test_two_releasers_that_repair_side_by_side_tell_of_each_row_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    for parcel in await desk.plan(in_one_shard(4), parcel_size=1):
        claimed_at, touched_at = desk.clock.storage_now(), desk.clock.campaign_now()
        await change(
            *(desk, parcel),
            state=State.CLAIMED,
            attempt="2" * 16,
            claimed_at=claimed_at,
            touched_at=touched_at,
        )
    desk.clock.let_pass(minutes=20)
    second = desk.second_app()
    await asyncio.gather(desk.release(), desk.release(second))
    told = [json.loads(text) for text in re.findall(r"claims_abandoned (\{.*\})", caplog.text)]
    assert sum(one["parcels"] for one in told) == 4


async def test_a_row_that_was_changed_meanwhile_does_not_hold_up_its_batch(desk: Desk) -> None:
    await desk.plan(in_one_shard(5), parcel_size=1)
    ledger = desk.app.stores.ledger
    rows = [row async for row in ledger.scan_recent(NAME, 0)]
    await change(desk, rows[2], retry_at=desk.clock.storage_now())
    changed, dropped = await ledger.change_many(rows, released_at=desk.clock.storage_now())
    assert [row.key for row in dropped] == [rows[2].key]
    assert [row.key for row in changed] == [row.key for row in rows if row is not rows[2]]


async def test_a_thousand_parcels_are_outstanding_at_most_and_the_soonest_end_goes_first(
    desk: Desk,
) -> None:
    await desk.plan(2)
    table = Table(desk.app.account.table(NAMES.tables.ledger))
    for planned in await desk.parcels():
        copies = [
            msgspec.structs.replace(
                planned,
                key=f"{planned.key[:-5]}{number:05d}",
                not_after=planned.not_after - timedelta(minutes=number // 100),
            )
            for number in range(1, 595)
        ]
        for start in range(0, len(copies), 99):
            await table.transact(
                [Write("insert", row_from(copy)) for copy in copies[start : start + 99]]
            )
    rows = await desk.parcels()
    last = sorted(row.not_after for row in rows)[999]

    await desk.release()
    rows = await desk.parcels()
    handed_out = [row for row in rows if row.released_at]
    assert (len(rows), len(handed_out), await desk.waiting()) == (1190, 1000, 1000)
    assert all(row.not_after <= last for row in handed_out)
    assert all(row.not_after >= last for row in rows if not row.released_at)
    await desk.release()
    assert await desk.waiting() == 1000

    for row in handed_out[:20]:
        await change(desk, row, state=State.ACCEPTED)
    await desk.release()
    assert await desk.waiting() == 1020


async def test_among_equals_no_shard_is_always_last(desk: Desk) -> None:
    await desk.plan(people(160), parcel_size=1, per_hour="120")
    await desk.release()
    first = await desk.take()
    assert len(first) == 10
    assert len({message.shard for message in first}) > 3
    assert [m.shard for m in first] != sorted(m.shard for m in first)


# --- the hourly limit -----------------------------------------------------------------------------


async def test_the_limit_is_kept_and_nobody_starves(desk: Desk) -> None:
    """60 an hour, in parcels of at most 5, two releasers, a look every three minutes."""
    await desk.plan(people(16) + [Someone(number=16 * n) for n in range(1, 15)], per_hour="60")
    assert max(parcel.count for parcel in await desk.parcels()) == 5
    second = desk.second_app()
    sent: list[int] = []
    while sum(sent) < 30:
        await asyncio.gather(desk.release(), desk.release(second))
        messages = await desk.take()
        sent.append(sum(message.count for message in messages))
        await desk.send(*messages)
        desk.clock.let_pass(minutes=3)
    # A twelfth of an hour's at first, then one a minute (and a little: time goes on by itself).
    assert all(sum(sent[: look + 1]) <= 5 + 3 * look + 1 for look in range(len(sent)))
    assert len(sent) <= 20  # two that take for the same row waste something
    assert {parcel.state for parcel in await desk.parcels()} == {State.ACCEPTED}


# --- pauses, and how each ends --------------------------------------------------------------------


async def test_an_administrators_pause_ends_with_resume_and_nothing_else(desk: Desk) -> None:
    await desk.plan(2)
    await desk.release()
    on_the_queue, other = await desk.take()
    await desk.app.operations.pause(NAME, "The help desk is closed.", "registrar")
    await desk.send(on_the_queue)
    desk.clock.let_pass(hours=3)
    await desk.release()
    assert (await desk.take(), desk.provider.calls) == ([], [])
    status = await desk.app.status.collect()
    assert status.campaigns[0].waiting == ["The help desk is closed."]

    assert await desk.app.operations.resume(NAME, "registrar") == ["administrator"]
    await desk.send_due()
    assert {parcel.state for parcel in await desk.parcels()} == {State.ACCEPTED}
    await desk.send(other)
    assert len(desk.provider.calls) == 2


async def test_what_was_dropped_in_a_pause_goes_soon_after_resume(desk: Desk) -> None:
    """Not only when its message would have been given up for lost."""
    await desk.plan(1)
    message = await desk.hand_out()
    desk.clock.let_pass(minutes=1)
    await desk.app.operations.pause(NAME, "Wait.", "registrar")
    await desk.send(message)
    desk.clock.let_pass(minutes=1)
    await desk.app.operations.resume(NAME, "registrar")
    desk.clock.let_pass(minutes=1)
    await desk.send_due()
    assert (await desk.parcel()).state is State.ACCEPTED


async def test_the_blob_stop_stops_all_sending(desk: Desk) -> None:
    await desk.plan(2)
    await desk.release()
    first, _ = await desk.take()
    config = desk.app.account.container(NAMES.containers.config)
    await config.upload_blob("stop", b"")
    # Also where no campaign file can be parsed any more.
    await config.upload_blob("alumni.yaml", b"\t:", overwrite=True)
    await desk.send(first)
    desk.clock.let_pass(minutes=20)
    await desk.release()
    assert (await desk.take(), desk.provider.calls) == ([], [])
    assert (await desk.app.status.collect()).stopped

    await config.delete_blob("stop")
    desk.clock.let_pass(minutes=1)
    await desk.send_due()
    assert {parcel.state for parcel in await desk.parcels()} == {State.ACCEPTED}


async def test_a_setup_fault_lets_one_parcel_through_until_one_is_accepted(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(8)
    await desk.release()
    messages = await desk.take()
    desk.provider.answers = [not_allowed, not_allowed]
    for message in messages:
        await desk.send(message)
    assert len(desk.provider.calls) == 1
    (pause,) = (await control_of(desk)).pauses.values()
    assert "SENDGRID_API_KEY" in pause.text

    probes: list[int] = []
    for _ in range(6):
        await desk.release()
        handed_out = await desk.take()
        probes.append(len(handed_out))
        assert all(message.probe for message in handed_out)
        await desk.send(*handed_out)
        if not (await control_of(desk)).pauses:
            break
        desk.clock.let_pass(minutes=5, seconds=1)
    # The first look probes, in vain; the next one that may, fifteen minutes later, is accepted.
    assert probes == [1, 0, 0, 1]
    assert len(await desk.parcels(State.ACCEPTED)) == 1

    await desk.send_due()
    assert {parcel.state for parcel in await desk.parcels()} == {State.ACCEPTED}
    assert alarms_of(caplog) == ["channel_paused"]


async def test_too_many_unclear_answers_pause_the_channel_at_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(people(32), parcel_size=1)
    await desk.release()
    messages = await desk.take()
    desk.provider.answers = [unclear] * 20
    for message in messages[:19]:
        await desk.send(message)
    desk.clock.let_pass(minutes=16)
    await desk.release()
    again = await desk.take()
    assert len(again) == 13
    await desk.send(again[0])
    desk.clock.let_pass(minutes=16)
    await desk.release()
    assert await desk.take() == []
    assert alarms_of(caplog) == ["parcels_at_rest", "channel_paused"]
    (waiting,) = (await desk.app.status.collect()).campaigns[0].waiting
    assert "20 of 20 calls of the last hour have no clear answer" in waiting

    desk.clock.let_pass(hours=1)
    await desk.release()
    assert await desk.take() == []  # it does not end by itself
    assert await desk.app.operations.resume(NAME, "registrar") == ["ambiguity"]
    desk.provider.answers = [unclear]
    await desk.send_due()
    assert Counter(p.state for p in await desk.parcels()) == {
        State.AMBIGUOUS: 21,
        State.ACCEPTED: 11,
    }
    assert not (await control_of(desk)).pauses  # counted anew since


async def test_abandoned_claims_do_not_pause_the_channel(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """They are our own doing, and have an alarm of their own."""
    planned = await desk.plan(people(32), parcel_size=1)
    for parcel in planned[:25]:
        await change(desk, parcel, state=State.CLAIMED, claimed_at=desk.clock.storage_now())
    desk.clock.let_pass(minutes=16)
    await desk.release()
    assert len(await desk.take()) == 7
    await desk.release()
    assert alarms_of(caplog) == ["claims_abandoned"]
    assert not (await control_of(desk)).pauses


# --- what holds a whole campaign ------------------------------------------------------------------


@pytest.mark.invariant(8)
@pytest.mark.parametrize(("hours", "goes"), [(49, True), (51, False)], ids=["49 h old", "51 h old"])
async def test_release_stops_on_an_old_sweep(desk: Desk, hours: int, goes: bool) -> None:
    await desk.plan(1, at=EARLY + timedelta(minutes=30))
    desk.move_clock(EARLY + timedelta(minutes=30, hours=hours))
    await desk.release()
    assert bool(await desk.take()) is goes
    waiting = (await desk.app.status.collect()).campaigns[0].waiting
    assert any("older than 50 h" in why for why in waiting) is not goes


@pytest.mark.invariant(8)
async def test_a_verdict_of_pause_stops_release_until_it_is_lifted(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """The audience shrinks from 120 to 48 over night."""
    await desk.plan(120)
    await desk.plan(48)
    await desk.release()
    assert await desk.take() == []
    assert alarms_of(caplog) == ["verdict_pause"]
    (why,) = (await desk.app.status.collect()).campaigns[0].waiting
    assert "shrank from 120 to 48" in why

    assert await desk.app.operations.resume(NAME, "registrar") == ["verdict"]
    await desk.release()
    assert sum(message.count for message in await desk.take()) == 48
    verdict = await desk.app.stores.control.read_verdict(NAME, (2, 1))
    assert verdict is not None
    assert (verdict.go, verdict.by) == (True, "registrar")


@pytest.mark.invariant(8)
async def test_a_campaign_whose_file_is_gone_waits(desk: Desk) -> None:
    await desk.plan(1)
    message = await desk.hand_out()
    await desk.app.account.container(NAMES.containers.config).delete_blob("alumni.yaml")
    desk.clock.let_pass(minutes=16)
    await desk.send(message)
    await desk.release()
    assert (await desk.take(), desk.provider.calls) == ([], [])
    await desk.world.write_campaign(campaign_text())
    await desk.send_due()
    assert (await desk.parcel()).state is State.ACCEPTED


# --- edits of the campaign file -------------------------------------------------------------------


async def test_rows_of_an_older_version_are_not_sent_and_get_planned_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """One is on the queue, one comes back from a claim after the new version was planned."""
    await desk.plan(2)
    await desk.release()
    on_the_queue, claimed = sorted(await desk.take(), key=lambda message: message.shard)

    async def edit(_: web.Request) -> None:
        desk.provider.before = None
        await desk.world.write_campaign(campaign_text(help_desk="help@its.hku.hk"))
        await desk.release()
        await plan_all(desk)
        assert Counter(p.state for p in await desk.parcels()) == {
            State.CLAIMED: 1,  # its call is under way
            State.CLOSED: 1,
            State.PLANNED: 1,
        }

    desk.provider.before = edit
    desk.provider.answers = [lambda _: web.Response(status=429, headers={"Retry-After": "60"})]
    await desk.send(claimed)
    await desk.send(on_the_queue)
    assert len(desk.provider.calls) == 1

    came_back = await desk.row(claimed)
    assert (came_back.state, came_back.version) == (State.PLANNED, 1)
    desk.clock.let_pass(minutes=2)
    await desk.app.releases.release_campaign(NAME)
    assert [message.version for message in await desk.take()] == [2]
    await desk.release()
    assert await desk.take() == []
    await plan_all(desk)
    desk.clock.let_pass(minutes=16)
    await desk.send_due()

    assert sorted((p.version, p.state, p.reason) for p in await desk.parcels()) == [
        (1, "closed", "replanned"),
        (1, "closed", "replanned"),
        (2, "accepted", ""),
        (2, "accepted", ""),
    ]
    mails = (await desk.world.messages())["messages"]
    assert all("help@its.hku.hk" in mail["text"] for mail in mails)
    assert len(mails) == 2
    assert alarms_of(caplog) == ["parcels_at_rest"]  # what the verdict handed out was not taken


async def plan_all(desk: Desk) -> None:
    """Work on the plan queue alone: what a verdict hands out stays on the sending queue."""
    queue = desk.app.account.queue(NAMES.queues.plan)
    while batch := [message async for message in queue.receive_messages(max_messages=32)]:
        for message in batch:
            await desk.app.plans.plan(decode_message(message.content, PlanShard))
            await queue.delete_message(message)


async def test_a_shard_that_is_planned_in_part_is_not_handed_out(desk: Desk) -> None:
    """And is asked for again when its fence has rested for five minutes."""
    await desk.plan(2)
    ledger = desk.app.stores.ledger
    fence = await ledger.read_fence(NAME, 0)
    assert fence is not None
    await ledger.reopen(NAME, 0, fence)
    desk.clock.let_pass(minutes=4)
    await desk.release()
    assert [message.shard for message in await desk.take()] == [1]
    assert await plans_asked_for(desk) == []
    desk.clock.let_pass(minutes=2)
    await desk.release()
    assert await plans_asked_for(desk) == [0]


async def test_planning_that_does_not_come_about_raises_an_alarm(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Half an hour after it was wanted; an edit of the file does not raise it at once."""
    await desk.plan(1)
    desk.clock.let_pass(hours=2)
    await desk.world.write_campaign(campaign_text(help_desk="help@its.hku.hk"))
    for minutes in (0, 15, 14):
        desk.clock.let_pass(minutes=minutes)
        await desk.release()
    assert await plans_asked_for(desk) == sorted([*range(len(SHARDS))] * 3)
    assert alarms_of(caplog) == []
    desk.clock.let_pass(minutes=2)
    await desk.release()
    assert alarms_of(caplog) == ["planning_late"]


async def plans_asked_for(desk: Desk) -> list[int]:
    """Shards of the messages on the plan queue; they are taken off."""
    queue = desk.app.account.queue(NAMES.queues.plan)
    found: list[int] = []
    async for message in queue.receive_messages(messages_per_page=32):
        found.append(msgspec.json.decode(message.content)["shard"])
        await queue.delete_message(message)
    return sorted(found)
