"""What may leave when: limits of a day, of a warm-up and of a domain; canaries; seed addresses."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import date, timedelta
from itertools import batched
from pathlib import Path

import pytest
from aiohttp import web
from msgspec.structs import replace

from shared.names import NAMES
from shared.rules.parcels import Parcel, State
from shared.stores.control import PASSED
from shared.stores.parcels import row_from
from shared.stores.queues import PlanShard
from shared.stores.table import Table, Write
from shared.workflows.plan import SlowTouch
from shared.workflows.release import MOST_OUTSTANDING
from tests.graph import Someone, people
from tests.sending import Desk, alarms_of, campaign_text, change, in_one_shard, running_desk
from tests.world import NAME


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


async def send_today(desk: Desk, *, looks: int = 3) -> int:
    """A sweep, then some releases; returns how many people were written to by that."""
    before = sum(parcel.count for parcel in await desk.parcels(State.ACCEPTED))
    await desk.world.sweep()
    for _ in range(looks):
        await desk.send_due()
        desk.clock.let_pass(minutes=6)
    return sum(parcel.count for parcel in await desk.parcels(State.ACCEPTED)) - before


# --- days -----------------------------------------------------------------------------------------


async def test_no_day_sees_more_than_its_limit(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(in_one_shard(30), sending="max_per_day: {email: 12}")
    assert {parcel.count for parcel in await desk.parcels()} == {3}  # a quarter of the limit
    assert [await send_today(desk)] == [12]
    desk.clock.let_pass(hours=24)
    assert [await send_today(desk)] == [12]
    desk.clock.let_pass(hours=24)
    assert [await send_today(desk)] == [6]
    assert len(desk.provider.calls) == 10
    assert "pace_too_slow" not in alarms_of(caplog)


async def test_what_is_handed_out_counts_before_it_is_claimed(desk: Desk) -> None:
    await desk.plan(in_one_shard(30), sending="max_per_day: {email: 12}")
    await desk.release()
    messages = await desk.take()
    desk.clock.let_pass(minutes=2)
    await desk.release()
    assert (sum(message.count for message in messages), await desk.take()) == (12, [])


async def test_a_warm_up_grows_by_the_days_on_which_mail_left(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(in_one_shard(56), sending="warm_up: {start: 8, growth: 1.5}")
    told = caplog.text
    assert [await send_today(desk, looks=1)] == [8]
    desk.clock.let_pass(hours=24)
    assert [await send_today(desk, looks=1)] == [12]
    desk.clock.let_pass(hours=24)
    assert [await send_today(desk, looks=2)] == [16]  # of 18, in parcels of 4
    control = await desk.app.stores.control.read(NAME, "email")
    assert control.live_days == ("2027-03-17", "2027-03-18", "2027-03-19")
    # 8, 12 and 18 of 56 before the touch ends: planning said so, with the day.
    assert 'pace_too_slow {"campaign":"hku-alumni-2027","touch":"fortnight"' in told
    assert '"recipients":56,"day":"2027-03-22"' in told


async def test_a_warm_up_does_not_grow_by_days_on_which_nothing_left(desk: Desk) -> None:
    """The key is wrong for a day: parcels were handed out, a probe was, and all came back."""
    await desk.plan(in_one_shard(56), sending="warm_up: {start: 8, growth: 1.5}")

    async def refuse(_: web.Request) -> None:
        desk.provider.answers.append(lambda _: web.Response(status=401))

    desk.provider.before = refuse
    assert await send_today(desk, looks=4) == 0
    assert len(desk.provider.calls) > 1
    desk.provider.before = None
    desk.clock.let_pass(hours=15)
    await desk.release()  # at night
    assert (await desk.app.stores.control.read(NAME, "email")).live_days == ()
    desk.clock.let_pass(hours=9)
    assert await send_today(desk) == 8
    desk.clock.let_pass(hours=24)
    assert await send_today(desk) == 12
    control = await desk.app.stores.control.read(NAME, "email")
    assert control.live_days == ("2027-03-18", "2027-03-19")


async def test_a_trial_is_no_live_day(desk: Desk) -> None:
    await desk.plan(
        4, mode="trial", trial="[u1@connect.example.edu]", sending="warm_up: {start: 1, growth: 9}"
    )
    assert [await send_today(desk, looks=1)] == [1]
    assert (await desk.app.stores.control.read(NAME, "email")).live_days == ()


# --- domains --------------------------------------------------------------------------------------


async def test_a_limited_domain_has_parcels_and_tokens_of_its_own(desk: Desk) -> None:
    """24 an hour: two at a time, one more every two and a half minutes."""
    there = in_one_shard(6, address="somebody@gmail.com")
    there = [
        type(one)(number=one.number, address=f"somebody.{one.number}@Gmail.com") for one in there
    ]
    elsewhere = [type(one)(number=one.number + 16 * 10) for one in in_one_shard(5)]
    await desk.plan(there + elsewhere, sending="max_per_domain_per_hour: {gmail.com: 24}")
    shapes = sorted((parcel.domain, parcel.count) for parcel in await desk.parcels())
    assert shapes == [("", 5), ("gmail.com", 2), ("gmail.com", 2), ("gmail.com", 2)]
    sent: list[list[int]] = []
    for _ in range(4):
        await desk.release()
        messages = await desk.take()
        sent.append(sorted(message.count for message in messages))
        await desk.send(*messages)
        desk.clock.let_pass(minutes=3)
    assert sent == [[2, 5], [], [2], []]
    for call in desk.provider.calls:
        assert len({address.endswith("@gmail.com") for address in call.addresses}) == 1


async def test_a_slow_domain_holds_up_nobody_else_however_many_wait_for_it(desk: Desk) -> None:
    """More of them than may be outstanding, and their time ends first."""
    there = [Someone(number=0, address="somebody@gmail.com")]
    await desk.plan([*there, *people(3)[1:]], sending="max_per_domain_per_hour: {gmail.com: 12}")
    (slow,) = [parcel for parcel in await desk.parcels() if parcel.domain]
    sooner = slow.not_after - timedelta(hours=1)
    copies = [
        replace(slow, key=f"{slow.key[:-5]}{number:05d}", not_after=sooner)
        for number in range(1, MOST_OUTSTANDING + 50)
    ]
    table = Table(desk.app.account.table(NAMES.tables.ledger))
    for some in batched(copies, 99, strict=False):
        await table.transact([Write("insert", row_from(copy)) for copy in some])
    await desk.release()
    assert sorted(message.shard for message in await desk.take()) == [0, 1, 2]


async def test_what_a_domain_cannot_take_in_time_is_told_when_it_is_planned(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Nine hours a day and three days: 27 of 30, at one an hour. The other domain's limit bears
    all of its own."""
    there = [Someone(number=16 * n, address=f"one.{n}@gmail.com") for n in range(30)]
    beside = [Someone(number=16 * n + 1, address=f"one.{n}@aol.com") for n in range(27)]
    limits = "max_per_domain_per_hour: {gmail.com: 1, aol.com: 1}"
    await desk.plan([*there, *beside, *people(16)[2:]], sending=limits)
    assert alarms_of(caplog) == ["pace_too_slow"]
    assert '"touch":"fortnight","channel":"email","recipients":30,"day":"2027-03-22"' in caplog.text
    assert '"domain":"gmail.com"' in caplog.text
    standing = (await desk.app.book.read()).standings[NAME]
    fence = await desk.app.stores.ledger.read_fence(NAME, 0)
    assert fence is not None
    assert fence.counts.recipients == 30
    slow = SlowTouch("fortnight", "email", 30, date(2027, 3, 22), "gmail.com")
    assert await desk.app.plans.find_slow(standing, fence.counts) == [slow]


async def test_a_domain_is_told_beside_the_whole_only_where_it_ends_later(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    there = [Someone(number=16 * n, address=f"one.{n}@gmail.com") for n in range(40)]
    pace = "max_per_day: {email: 10}\nmax_per_domain_per_hour: {gmail.com: 2}"
    await desk.plan(there, sending=pace)
    assert alarms_of(caplog) == ["pace_too_slow"]
    assert "domain" not in caplog.text.partition("pace_too_slow")[2].partition("\n")[0]


# --- canaries -------------------------------------------------------------------------------------

CANARY = "canary: {recipients: 16, delivered: 0.5}"


async def deliver(desk: Desk, parcels: list[Parcel]) -> None:
    for parcel in parcels:
        await desk.report(parcel, delivered=range(parcel.count))


@pytest.mark.invariant(8)
async def test_the_others_follow_when_enough_of_the_canary_is_delivered(desk: Desk) -> None:
    await desk.plan(people(48), sending=CANARY)
    marked = [parcel for parcel in await desk.parcels() if parcel.canary]
    assert [parcel.count for parcel in marked] == [1] * 16
    for _ in range(3):
        await desk.send_due()
        desk.clock.let_pass(minutes=16)
    accepted = await desk.parcels(State.ACCEPTED)
    assert {parcel.key for parcel in accepted} == {parcel.key for parcel in marked}

    await deliver(desk, accepted[:7])
    await desk.send_due()
    assert len(await desk.parcels(State.ACCEPTED)) == 16
    await deliver(desk, accepted[7:8])
    await desk.send_due()
    assert {parcel.state for parcel in await desk.parcels()} == {State.ACCEPTED}
    assert (await desk.app.stores.control.read(NAME, "email")).canaries == {"fortnight": "passed"}
    # Whoever comes later to this touch needs no other canary.
    desk.graph.groups = {group: people(64) for group in desk.graph.groups}
    await desk.world.sweep()
    later = [p for p in await desk.parcels() if p.sweep == 2]
    assert later
    assert not any(parcel.canary for parcel in later)


@pytest.mark.invariant(8)
async def test_a_canary_that_does_not_arrive_pauses_the_channel(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(people(32), sending=CANARY)
    await desk.send_due()
    await deliver(desk, (await desk.parcels(State.ACCEPTED))[:7])
    desk.clock.let_pass(hours=1, minutes=59)
    await desk.send_due()
    assert alarms_of(caplog) == []
    desk.clock.let_pass(minutes=2)
    await desk.send_due()
    pause = (await desk.app.stores.control.read(NAME, "email")).pauses["canary"]
    assert pause.text.startswith("Of the first 16 people of `fortnight` 7 are known to have it")
    assert alarms_of(caplog) == ["channel_paused"]
    assert len(await desk.parcels(State.ACCEPTED)) == 16

    assert await desk.app.operations.resume(NAME, "registrar") == ["canary"]
    await desk.send_due()
    assert {parcel.state for parcel in await desk.parcels()} == {State.ACCEPTED}


async def test_where_all_of_a_canary_are_done_the_next_ones_go_first(desk: Desk) -> None:
    await desk.plan(in_one_shard(9), sending=CANARY)
    (marked,) = [parcel for parcel in await desk.parcels() if parcel.canary]
    ((_, person),) = marked.people()
    await desk.app.stores.people.remember_opted_out(NAME, 0, [person])
    await desk.send_due()
    assert [p.reason for p in await desk.parcels(State.CLOSED)] == ["cancelled"]
    for _ in range(2):
        await desk.send_due()
    (accepted,) = await desk.parcels(State.ACCEPTED)
    assert (accepted.canary, accepted.count) == (True, 8)


@pytest.mark.invariant(8)
async def test_a_trial_takes_no_canary_and_lets_none_pass(desk: Desk) -> None:
    few = ", ".join(f'"{one.id}"' for one in people(4))
    await desk.plan(people(48), mode="trial", trial=f"[{few}]", sending=CANARY)
    for _ in range(2):
        await desk.send_due()
    tried = await desk.parcels()
    assert {(p.state, p.count, p.canary) for p in tried} == {(State.ACCEPTED, 1, False)}
    await deliver(desk, tried)
    await desk.send_due()

    await desk.world.write_campaign(campaign_text(sending=CANARY))
    await desk.world.sweep()
    for _ in range(2):
        await desk.send_due()
    assert (await desk.app.stores.control.read(NAME, "email")).canaries == {}
    sent = await desk.parcels(State.ACCEPTED)
    assert sorted(parcel.canary for parcel in sent) == [False] * 4 + [True] * 16
    assert not any(parcel.canary for parcel in await desk.parcels(State.PLANNED))


async def plan_shards(desk: Desk, *shards: int) -> None:
    """Plan these shards under the wanted pair, and leave the others as they are."""
    version = (await desk.app.book.read()).standings[NAME].version
    for shard in shards:
        await desk.app.plans.plan(PlanShard(NAME, shard, 1, version))


@pytest.mark.invariant(8)
async def test_planning_again_makes_no_canary_larger_and_puts_no_verdict_off(desk: Desk) -> None:
    """By an edit of the file, by an administrator and by a sweep. 18 of 160 are the canary: two
    each of the first two shards, and one each of the others."""
    canary = "canary: {recipients: 18, delivered: 0.5}"
    await desk.plan(people(160), sending=canary)
    await desk.send_due()
    _, second, *_ = await desk.parcels(State.ACCEPTED)
    # A marked parcel that was not accepted after all is part of the canary no more.
    await change(desk, second, state=State.CLOSED, reason="failed")
    edited = campaign_text(sending=canary, help_desk="desk@its.hku.hk")
    await desk.world.write_campaign(edited)
    await desk.send_due()
    await desk.world.run_queues()
    await desk.send_due()
    accepted = await desk.parcels(State.ACCEPTED)
    assert sum(parcel.count for parcel in accepted) == 18
    assert [p.shard for p in accepted if p.version == 2] == [second.shard]

    desk.clock.let_pass(minutes=80)
    await desk.app.replan.plan_again(NAME)
    await desk.world.run_queues()
    await desk.send_due()
    await desk.world.sweep()
    await desk.send_due()
    assert await desk.parcels(State.ACCEPTED) == accepted
    assert not [p for p in await desk.parcels(State.PLANNED) if p.canary]
    desk.clock.let_pass(minutes=41)
    await desk.release()
    pause = (await desk.app.stores.control.read(NAME, "email")).pauses["canary"]
    assert pause.text.startswith("Of the first 18 people of `fortnight` 0 are known to have it")


@pytest.mark.invariant(8)
async def test_planning_again_lets_nobody_pass_a_canary_that_waits(desk: Desk) -> None:
    """`nudge plan --now`: the pair has its `go`, and shard by shard is done again."""
    await desk.plan(people(48), sending=CANARY)
    await desk.app.replan.plan_again(NAME)
    await plan_shards(desk, *range(15))
    await desk.release()
    rows = [await desk.row(message) for message in await desk.take()]
    assert [row.canary for row in rows] == [True] * 15

    await desk.app.stores.control.change(
        NAME, "email", lambda row: replace(row, canaries={"fortnight": PASSED})
    )
    await desk.release()
    rows = [await desk.row(message) for message in await desk.take()]
    assert [row.canary for row in rows] == [False] * 15


@pytest.mark.invariant(8)
async def test_a_shard_that_is_planned_anew_lets_nobody_pass_a_canary_that_waits(
    desk: Desk,
) -> None:
    """A claim from before an edit comes back as planned, and its shard is asked for again."""
    await desk.plan(people(48), sending=CANARY)
    await desk.send_due()
    slow, *_ = await desk.parcels(State.ACCEPTED)
    await desk.world.write_campaign(campaign_text(sending=CANARY, help_desk="desk@its.hku.hk"))
    await desk.release()
    await plan_shards(desk, *range(16))
    await change(desk, slow, state=State.PLANNED, reason="refused", released_at=None)
    desk.clock.let_pass(minutes=2)
    await desk.release()
    rows = [await desk.row(message) for message in await desk.take()]
    assert [row for row in rows if not row.canary] == []


@pytest.mark.invariant(8)
async def test_nobody_is_marked_or_judged_before_all_shards_are_planned(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """The marked ones may be in a shard that is still to come: it was taken back, and no more."""
    await desk.plan(people(32), sending="canary: {recipients: 1, delivered: 1.0}")
    (marked,) = [parcel for parcel in await desk.parcels() if parcel.canary]
    others = [shard for shard in range(16) if shard != marked.shard]
    await desk.app.replan.plan_again(NAME)
    await plan_shards(desk, *others)
    await change(desk, marked, state=State.CLOSED, reason="replanned")
    await desk.release()
    assert await desk.take() == []
    assert not [p for p in await desk.parcels() if p.canary and p.shard in others]
    assert alarms_of(caplog) == []
    await plan_shards(desk, marked.shard)
    await desk.release()
    assert [(await desk.row(message)).canary for message in await desk.take()] == [True]


# --- seed addresses -------------------------------------------------------------------------------


@pytest.mark.invariant(5)
async def test_seed_addresses_see_each_wave_once_without_personal_links(desk: Desk) -> None:
    await desk.plan(3, sending="seed_addresses: [ann@its.hku.hk, ben@its.hku.hk]")
    await desk.send_due()
    (seeds,) = [call for call in desk.provider.calls if call.row.seed]
    assert seeds.addresses == ["ann@its.hku.hk", "ben@its.hku.hk"]
    for one in seeds.body["personalizations"]:
        text = str(one)
        assert "List-Unsubscribe" not in text
        assert "/done/" not in text
        assert "/unsubscribe/" not in text
        assert "/guide/en?campaign=hku-alumni-2027" in text
    # Outside all counts, and once: planning again, a new version and a receipt change nothing.
    status = (await desk.app.status.collect()).campaigns[0]
    touch = next(touch for touch in status.touches if touch.touch == "fortnight")
    assert (touch.people, sum(touch.parcels.values())) == ({"accepted": 3}, 3)
    assert status.counts is not None
    assert (status.counts.recipients, status.counts.had) == (3, 0)
    await desk.report(await only_seed(desk), bounced=[(0, b"h" * 16)], opted_out=[1])
    await desk.world.sweep()
    await desk.send_due()
    assert len([call for call in desk.provider.calls if call.row.seed]) == 1
    people_rows = await desk.app.stores.people.read_shard(NAME, 0)
    assert people_rows == {}
    assert await desk.unreached() == {}


async def only_seed(desk: Desk) -> Parcel:
    (parcel,) = [parcel for parcel in await desk.parcels() if parcel.seed]
    return parcel


async def test_seed_addresses_wait_for_no_canary_and_take_no_tokens(desk: Desk) -> None:
    await desk.plan(
        people(32),
        sending=f"seed_addresses: [ann@its.hku.hk]\n{CANARY}\nmax_per_day: {{email: 16}}",
    )
    await desk.send_due()
    assert sorted((p.seed, p.canary) for p in await desk.parcels(State.ACCEPTED)) == [
        *([(False, True)] * 16),
        (True, False),
    ]
