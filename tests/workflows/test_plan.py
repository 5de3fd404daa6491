"""Planning: who gets a parcel and who doesn't, what a second planner may do, and the guards.

Most of it happens at night, when the window is closed: what is planned stays planned, and can be
looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Generator, Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from functions.wiring import App, build_app
from shared.clock import StorageTime
from shared.names import NAMES
from shared.rules.contact import Recipient
from shared.rules.guards import LEDGER_LOST, Verdict
from shared.rules.parcels import Parcel, State
from shared.rules.registration import Account
from shared.settings import read_settings
from shared.stores.outbox import Slice
from shared.stores.pages import bundle_width
from shared.stores.queues import PlanShard, ReadPages
from tests.graph import GROUP, Graph, Someone, example, people, running_with
from tests.world import FORTNIGHT, NAME, World

NIGHT = FORTNIGHT.replace(hour=3)
LAST_NIGHT = NIGHT.replace(day=30)
"""Before the last touch before the deadline."""

STAFF = "00000000-0000-0000-0000-000000000001"
SHARDS = range(16)


def open_people(parcels: Iterable[Parcel]) -> list[bytes]:
    """Whoever is in a planned row, as often as they are."""
    return [
        person
        for parcel in parcels
        if parcel.state is State.PLANNED
        for _, person in parcel.people()
    ]


def everybody(of: Iterable[Someone]) -> list[bytes]:
    return sorted(one.id16 for one in of)


async def verdict_of(world: World, sweep: int = 1, version: int = 1) -> Verdict:
    verdict = await world.app.stores.control.read_verdict(NAME, (sweep, version))
    assert verdict is not None
    return verdict


async def read_parcel(world: World, parcel: Parcel) -> list[Recipient]:
    part = Slice(parcel.offset, parcel.length, parcel.digest)
    return await world.app.stores.outbox.read(parcel.outbox, part)


async def _read_only(world: World) -> None:
    """Read and commit the open sweep, and lose its plan messages."""
    head = await world.app.stores.sweeps.read_head()
    sweep = await world.app.stores.sweeps.read(head.number)
    assert sweep is not None
    for one in sweep.passes:
        await world.app.sweeps.read(ReadPages(sweep.number, one.source, one.run))
    for queue in (NAMES.queues.sweep, NAMES.queues.plan):
        await world.app.account.queue(queue).clear_messages()


# --- who counts ----------------------------------------------------------------------------------

A, B = "first@example.org", "second@example.org"
WHO = [
    # who, counted as, written to at
    (Someone(number=0), "unregistered", "person.0@example.org"),
    (Someone(number=1, address=A, mail=B), "unregistered", A),
    (Someone(number=2, address=None, mail=B), "unregistered", B),
    (Someone(number=3, address="n/a", mail=B), "unregistered", B),
    (Someone(number=4, address=None), "unregistered", None),
    (Someone(number=5, address="nobody@nowhere.local"), "unregistered", None),
    (Someone(number=6, methods=("email", "securityQuestion")), "unregistered", "person.6"),
    (Someone(number=7, registered=True), "registered", None),
    (Someone(number=8, registered=True, methods=("temporaryAccessPass",)), "unregistered", "per"),
    (Someone(number=9, registered=None), "unknown", None),
    (Someone(number=10, methods=("methodOfALaterYear",)), "unrecognised", None),
    (Someone(number=11, enabled=False), "excluded", None),
    (Someone(number=12, enabled=False, registered=None), "excluded", None),
    (Someone(number=13, user_type="Guest"), "excluded", None),
    (
        Someone(number=14, name="On-Premises Directory Synchronization Service Account"),
        "excluded",
        None,
    ),
    (Someone(number=15, registered=True, capable=False), "registered", None),
]


@pytest.mark.invariant(3)
async def test_who_counts_as_what_and_who_is_written_to(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: [who for who, _, _ in WHO], STAFF: people(1)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        counts = (await verdict_of(world)).counts
        expected = Counter(counted for _, counted, _ in WHO)
        assert {name: getattr(counts, name) for name in expected} == expected
        assert counts.roster == len(WHO) == expected.total()
        assert counts.unreachable == 2
        assert counts.reasons == {"disabled": 2, "guest": 1, "service account": 1}
        written = {
            recipient.id: recipient.address
            for parcel in await world.parcels()
            for recipient in await read_parcel(world, parcel)
        }
        assert sorted(written) == everybody(who for who, _, address in WHO if address)
        for who, _, address in WHO:
            assert written.get(who.id16, "").startswith(address or "")

        # The same people under another version: guests asked for, a group left out, capable only.
        await world.write_campaign(
            example(
                ("guests: false", "guests: true"),
                ("exclude: []", f"exclude: [{STAFF}]"),
                ("done_when: registered", "done_when: capable"),
            )
        )
        await world.sweep()
        counts = (await verdict_of(world, 2, 2)).counts
        assert counts.reasons == {"disabled": 2, "exclusion group": 1, "service account": 1}
        assert (counts.registered, counts.unregistered, counts.roster) == (1, 9, 16)
        planned = set(open_people(await world.parcels()))
        assert Someone(number=0).id16 not in planned
        assert {Someone(number=13).id16, Someone(number=15).id16} <= planned


@pytest.mark.invariant(8)
async def test_a_dry_run_counts_and_plans_nothing(connection_string: str, tmp_path: Path) -> None:
    graph = Graph({GROUP: [*people(20), *people(5, 20, registered=True)]})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign(example(mode="dry-run"))
        await world.sweep()
        verdict = await verdict_of(world)
        assert (verdict.go, verdict.counts.roster, verdict.counts.unregistered) == (True, 25, 20)
        assert await world.parcels() == []
        assert await world.accepted() == []


async def test_a_trial_writes_to_the_named_accounts_alone(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: [*people(20), *people(5, 20, registered=True)]})
    async with running_with(graph, connection_string, tmp_path) as world:
        named = [Someone(number=3).id.upper(), "U7@Connect.Example.edu", "u21@connect.example.edu"]
        await world.write_campaign(
            example(("trial: []", f'trial: ["{'", "'.join(named)}"]'), mode="trial")
        )
        await world.sweep()
        assert (await verdict_of(world)).counts.roster == 25
        messages = await world.messages()
        # Number 21 is registered: a trial writes to nobody who is done.
        assert sorted(person for p in await world.parcels() for _, person in p.people()) == (
            everybody([Someone(number=3), Someone(number=7)])
        )
        assert messages["total"] == 2


async def test_people_who_share_an_address_share_no_parcel_and_each_get_their_own(
    connection_string: str, tmp_path: Path
) -> None:
    family = [
        Someone(number=16 * n, address="Family@example.org" if n % 2 else "family@EXAMPLE.org")
        for n in range(6)
    ]
    others = [Someone(number=16 * n) for n in range(6, 12)]
    graph = Graph({GROUP: [*family, *others]})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        parcels = await world.parcels()
        assert {parcel.state for parcel in parcels} == {State.ACCEPTED}
        assert sorted(p for parcel in parcels for _, p in parcel.people()) == everybody(
            [*family, *others]
        )
        relatives = {one.id16 for one in family}
        for parcel in parcels:
            assert len(relatives & {person for _, person in parcel.people()}) <= 1
        assert sorted(parcel.count for parcel in parcels) == [1, 1, 1, 1, 1, 7]


SIZES = [
    # parcel_size, max_per_hour, recipients of the parcels
    (500, None, [500, 400]),
    (1000, None, [828, 72]),  # the provider's own limit, see services/senders/sendgrid
    (250, None, [250, 250, 250, 150]),
    (500, 4800, [400, 400, 100]),
    (500, 11, [1] * 900),
]


async def test_parcels_hold_what_the_file_the_rate_and_the_provider_allow(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: [Someone(number=16 * n) for n in range(900)]})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        for version, (size, rate, expected) in enumerate(SIZES, start=1):
            text = example(("parcel_size: 500", f"parcel_size: {size}"))
            if rate:
                text += f"  max_per_hour: {{email: {rate}}}\n"
            await world.write_campaign(text)
            if version == 1:
                await world.sweep()
            await world.release()
            planned = [p for p in await world.parcels() if p.state is State.PLANNED]
            assert {parcel.version for parcel in planned} == {version}
            assert sorted((parcel.count for parcel in planned), reverse=True) == expected
            for parcel in planned[:20]:
                assert [r.id for r in await read_parcel(world, parcel)] == [
                    person for _, person in parcel.people()
                ]


# --- take back, and what survives it -------------------------------------------------------------


async def test_planning_again_takes_back_what_was_planned_and_nothing_else(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(64)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        first = await world.parcels()
        assert sorted(open_people(first)) == everybody(people(64))

        # One is with the provider, one has no clear answer, one was sent back with a doubt.
        ledger, now = world.app.stores.ledger, world.app.clock.storage_now()
        at_work = {"claimed_at": now, "touched_at": world.app.clock.campaign_now()}
        claimed = await ledger.change(first[0], state=State.CLAIMED, attempt="a", **at_work)
        doubtful = await ledger.change(first[1], state=State.AMBIGUOUS, doubt=True, **at_work)
        returned = await ledger.change(first[2], doubt=True, attempt="c", **at_work)

        await world.sweep()
        after = {parcel.key: parcel for parcel in await world.parcels()}
        assert [after[parcel.key] for parcel in (claimed, doubtful, returned)] == [
            claimed,
            doubtful,
            returned,
        ]
        for parcel in first[3:]:
            assert (after[parcel.key].state, after[parcel.key].reason) == ("closed", "replanned")
        # Whoever is in one of the three has had it; all others are planned once more.
        gone = {person for parcel in (claimed, doubtful) for _, person in parcel.people()}
        assert len(gone) == 8
        assert sorted(open_people(after.values())) == [
            person for person in everybody(people(64)) if person not in gone
        ]
        assert (await verdict_of(world, 2)).counts.had == 12


async def test_people_of_rows_that_survive_are_left_out_once_they_are_done(
    connection_string: str, tmp_path: Path
) -> None:
    members = [Someone(number=16 * n) for n in range(8)]
    graph = Graph({GROUP: members})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        (parcel,) = await world.parcels()
        now = world.app.clock.storage_now()
        await world.app.stores.ledger.change(
            parcel, state=State.CLAIMED, attempt="a", claimed_at=now
        )
        graph.change([0], registered=True)
        graph.change([16], enabled=False)
        graph.change([32], registered=None)  # nothing is known of them any more
        graph.groups[GROUP] = [one for one in graph.groups[GROUP] if one.number != 48]
        await remember(world, 80, "confirmed")
        await remember(world, 96, "opted out")
        await forget_changes(world)
        await world.sweep()
        since = StorageTime(parcel.planned_from - timedelta(minutes=10))
        changes = await world.app.stores.ledger.read_changes(NAME, 0, since)
        assert sorted(changes.left_out) == everybody([*members[:4], *members[5:7]])


# --- what people have said, and what is known of them beside the report ---------------------------


async def forget_changes(world: World) -> None:
    """So that only what planning itself notes is there afterwards."""
    await world.app.stores.ledger.delete_changes(
        NAME, 0, StorageTime(datetime.max.replace(tzinfo=UTC))
    )


async def remember(world: World, number: int, what: str) -> None:
    """As if it had been said in one campaign's shard: confirmed, reported or opted out."""
    people = world.app.stores.people
    person = Someone(number=number).id16
    match what:
        case "confirmed":
            await people.remember_completed(NAME, 0, {person: "methods"}, "confirmed")
        case "reported":
            await people.remember_completed(NAME, 0, {person: ""}, "reported")
        case _:
            await people.remember_opted_out(NAME, 0, [person])


SAID: list[tuple[str, datetime, str, bool]] = [
    # what was said before the sweep, in which night, when the next sweep looks; planned then?
    ("confirmed", NIGHT, "at once", False),
    ("confirmed", NIGHT, "48 hours later", True),
    ("confirmed", LAST_NIGHT, "at once", False),
    ("opted out", NIGHT, "at once", False),
    ("opted out", NIGHT, "48 hours later", False),
    ("opted out", LAST_NIGHT, "at once", False),
    ("reported", NIGHT, "at once", True),
]


@pytest.mark.invariant(4)
@pytest.mark.parametrize(("what", "night", "when", "planned"), SAID)
async def test_who_is_planned_after_what_they_said(
    connection_string: str, tmp_path: Path, what: str, night: datetime, when: str, planned: bool
) -> None:
    graph = Graph({GROUP: [Someone(number=16 * n) for n in range(3)]})
    async with running_with(graph, connection_string, tmp_path, at=night) as world:
        await world.write_campaign()
        await remember(world, 16, what)
        if when == "48 hours later":
            world.move_clock(night + timedelta(hours=48))
        await world.sweep()
        rows = await world.parcels()
        assert (Someone(number=16).id16 in open_people(rows)) is planned
        counts = (await verdict_of(world)).counts
        assert (counts.registered, counts.unregistered) == ((1, 2) if counts.confirmed else (0, 3))
        assert counts.recipients == 2 + planned
        assert counts.opted_out == (what == "opted out")
        assert counts.reported == 0, "this sweep was opened after it was said"


@pytest.mark.invariant(4)
@pytest.mark.parametrize(("night", "planned"), [(NIGHT, False), (LAST_NIGHT, True)])
async def test_what_somebody_says_during_a_sweep_waits_for_the_next(
    connection_string: str, tmp_path: Path, night: datetime, planned: bool
) -> None:
    """Planning under the same sweep, as after a change of the file, still heeds it; but for the
    last touch before the deadline."""
    graph = Graph({GROUP: [Someone(number=16 * n) for n in range(3)]})
    async with running_with(graph, connection_string, tmp_path, at=night) as world:
        await world.write_campaign()
        await world.sweep()
        await remember(world, 16, "reported")
        await world.write_campaign(example(("min_gap_hours: 20", "min_gap_hours: 21")))
        await world.release()
        rows = await world.parcels()
        assert {row.version for row in rows if row.state is State.PLANNED} == {2}
        assert (Someone(number=16).id16 in open_people(rows)) is planned
        assert (await verdict_of(world, 1, 2)).counts.reported == 1

        await world.sweep()  # it looks, and sees nothing
        assert Someone(number=16).id16 in open_people(await world.parcels())
        assert (await verdict_of(world, 2, 2)).counts.reported == 0


@pytest.mark.invariant(4)
@pytest.mark.parametrize(
    ("ours", "theirs", "what", "planned"),
    [
        ("registered", "registered", "opted out", False),
        ("capable", "registered", "opted out", False),
        ("registered", "registered", "confirmed", False),
        ("registered", "capable", "confirmed", False),
        ("capable", "capable", "confirmed", False),
        ("capable", "registered", "confirmed", True),  # it proves less than is asked for
    ],
)
async def test_a_campaign_knows_what_was_said_before_it_was_there(
    connection_string: str, tmp_path: Path, ours: str, theirs: str, what: str, planned: bool
) -> None:
    other = "staff-2027"
    graph = Graph({GROUP: [Someone(number=16 * n) for n in range(3)]})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign(example(("done_when: registered", f"done_when: {theirs}")))
        await world.app.book.refresh(accept=True)
        await remember(world, 16, what)
        text = example((NAME, other), ("done_when: registered", f"done_when: {ours}"))
        await world.write_campaign(text, file="staff.yaml")
        await world.sweep()
        rows = await world.parcels(other)
        assert (Someone(number=16).id16 in open_people(rows)) is planned
        assert Someone(number=0).id16 in open_people(rows)


@pytest.mark.invariant(2, 4)
async def test_whoever_asked_for_no_more_reminders_is_listed_as_unreached(
    connection_string: str, tmp_path: Path
) -> None:
    members = [Someone(number=0), Someone(number=16), Someone(number=32, address=None)]
    graph = Graph({GROUP: [*members, Someone(number=48, registered=True)]})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        for number in (16, 32, 48):
            await remember(world, number, "opted out")
        await world.sweep()
        found = await world.app.status.collect_unreached()
        assert found == {
            NAME: {
                members[1].id: "asked for no more reminders",
                members[2].id: "asked for no more reminders",
            }
        }
        counts = (await verdict_of(world)).counts
        assert (counts.unregistered, counts.unreachable, counts.opted_out) == (3, 1, 2)


# --- two planners, and planners that die ---------------------------------------------------------


async def test_two_planners_at_once_leave_what_one_would_leave(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: [*people(100), *people(20, 100, registered=True)]})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()  # rows to take back
        sweep = await world.app.sweeps.start()
        assert sweep is not None
        apps: list[App] = [world.app, world.another_app(), world.another_app()]
        await asyncio.gather(*(world.run_queues(app) for app in apps))
        messages = [PlanShard(NAME, shard, 2, 1) for shard in SHARDS] * 2
        await asyncio.gather(*(app.plans.plan(message) for app in apps for message in messages))
        parcels = await world.parcels()
        assert sorted(open_people(parcels)) == everybody(people(100))
        counts = (await verdict_of(world, 2)).counts
        assert (counts.roster, counts.recipients, counts.parcels) == (120, 100, 16)


class Steps:
    """Runs a coroutine and interferes when it waits for the n-th time: it is ended, as if its
    process had died, or held until it is let go."""

    def __init__(
        self, work: Coroutine[Any, Any, Any], at: int, hold: asyncio.Event | None = None
    ) -> None:
        self._work = work
        self._at = at
        self._hold = hold
        self.taken = 0
        self.reached = asyncio.Event()

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        resume = steps.__next__
        for self.taken in count():
            try:
                waiting = resume()
            except StopIteration as end:
                return end.value
            if self.taken == self._at:
                self.reached.set()
                if self._hold:
                    yield from self._hold.wait().__await__()
                else:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
            try:
                yield waiting
                resume = steps.__next__
            except BaseException as error:
                thrown = error
                resume = lambda thrown=thrown: steps.throw(thrown)  # noqa: E731
        return None


async def _run(steps: Steps) -> None:
    await steps


async def test_planners_killed_anywhere_leave_no_trace_once_another_has_finished(
    connection_string: str, tmp_path: Path
) -> None:
    """Each shard's planner dies at another moment, spread over all that planning does."""
    members = [*people(160), *people(32, 160, registered=True)]
    graph = Graph({GROUP: members})
    settings = {"AGES_SCALE": "0.002"}
    async with running_with(graph, connection_string, tmp_path, at=NIGHT, **settings) as world:
        await world.write_campaign()
        await world.sweep()  # rows to take back, and the fences of a lower pair
        await world.app.sweeps.start()
        await _read_only(world)

        whole = Steps(world.another_app().plans.plan(PlanShard(NAME, 15, 2, 1)), -1)
        await whole
        killed = 0
        for shard in range(15):
            app = world.another_app()
            at = whole.taken * (shard + 1) // 16
            task = asyncio.create_task(
                _run(Steps(app.plans.plan(PlanShard(NAME, shard, 2, 1)), at))
            )
            try:
                await task
            except asyncio.CancelledError:
                killed += 1
        # The last ones may have ended before: no two of them take quite as many steps.
        assert killed > 12
        assert await world.app.stores.control.read_verdict(NAME, (2, 1)) is None

        await asyncio.sleep(1.8)  # a fence rests 0.6 s here; storage tells whole seconds
        await world.release()
        assert sorted(open_people(await world.parcels())) == everybody(people(160))
        counts = (await verdict_of(world, 2)).counts
        assert (counts.roster, counts.registered, counts.recipients) == (192, 32, 160)


async def test_a_planner_that_wakes_up_after_another_took_over_writes_nothing_more(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(160)})
    settings = {"AGES_SCALE": "0.002"}
    async with running_with(graph, connection_string, tmp_path, at=NIGHT, **settings) as world:
        await world.write_campaign()
        await world.sweep()
        whole = Steps(world.another_app().plans.plan(PlanShard(NAME, 0, 2, 1)), -1)
        await world.app.sweeps.start()
        await _read_only(world)
        await whole

        awake = asyncio.Event()
        sleepers: list[asyncio.Task[None]] = []
        for shard in range(1, 9):
            at = whole.taken * shard // 9
            steps = Steps(
                world.another_app().plans.plan(PlanShard(NAME, shard, 2, 1)), at, hold=awake
            )
            sleepers.append(asyncio.create_task(_run(steps)))
            await steps.reached.wait()
        await asyncio.sleep(1.8)
        await world.release()
        finished = {parcel.key: parcel for parcel in await world.parcels()}
        assert sorted(open_people(finished.values())) == everybody(people(160))
        awake.set()
        await asyncio.gather(*sleepers)
        assert {parcel.key: parcel for parcel in await world.parcels()} == finished


async def test_the_fence_says_who_may_plan(connection_string: str, tmp_path: Path) -> None:
    graph = Graph({GROUP: people(64)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        await world.sweep()
        ledger, plans = world.app.stores.ledger, world.app.plans
        before = {(parcel.key, parcel.etag) for parcel in await world.parcels()}
        fences = [await ledger.read_fence(NAME, shard) for shard in SHARDS]

        # To this one every fence has rested for long.
        hasty = world.keep(build_app(read_settings(world.environment | {"AGES_SCALE": "0.002"})))
        await asyncio.sleep(1.8)
        for sweep, version in [(1, 1), (2, 1), (2, 0), (3, 1), (2, 2)]:
            for shard in SHARDS:  # lower, done already, or not there yet
                assert not await hasty.plans.plan(PlanShard(NAME, shard, sweep, version))
        assert [await ledger.read_fence(NAME, shard) for shard in SHARDS] == fences
        assert {(parcel.key, parcel.etag) for parcel in await world.parcels()} == before

        # The same pair, and another run that wrote a moment ago: it is left alone.
        fence = fences[0]
        assert fence is not None
        now = world.app.clock.storage_now()
        run = await ledger.take_fence(NAME, 0, fence, (2, 1), "someone", now)
        assert not await plans.plan(PlanShard(NAME, 0, 2, 1))
        assert {(parcel.key, parcel.etag) for parcel in await world.parcels()} == before
        await run.refresh()
        held = await ledger.read_fence(NAME, 0)
        assert held is not None
        assert (held.run, held.done) == ("someone", False)

        # A higher pair takes it over at once.
        await world.write_campaign(example(("min_gap_hours: 20", "min_gap_hours: 21")))
        await world.release()
        taken = await ledger.read_fence(NAME, 0)
        assert taken is not None
        assert (taken.pair, taken.done) == ((2, 2), True)
        assert sorted(open_people(await world.parcels())) == everybody(people(64))


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.invariant(8)
async def test_an_audience_that_shrinks_by_more_than_half_pauses_until_somebody_looks(
    connection_string: str, tmp_path: Path
) -> None:
    steps = [
        # unregistered, registered, go, what the reason speaks of
        (200, 0, True, ""),
        (90, 0, False, "shrank from 200 to 90"),
        (88, 0, False, "shrank from 200 to 88"),  # compared with the last that was go
        (110, 0, True, ""),
        (170, 5, False, "rose from 110 to 170"),
    ]
    graph = Graph({GROUP: []})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        for number, (unregistered, registered, go, words) in enumerate(steps, start=1):
            graph.groups[GROUP] = [
                *people(unregistered),
                *people(registered, unregistered, registered=True),
            ]
            await world.sweep()
            verdict = await verdict_of(world, number)
            assert (verdict.go, bool(verdict.reasons)) == (go, not go)
            assert words in " ".join(verdict.reasons)

        world.move_clock(FORTNIGHT)
        await world.release()
        assert await world.accepted() == []
        status = await world.app.status.collect()
        assert any("rose from 110 to 170" in line for line in status.campaigns[0].waiting)
        assert await world.app.operations.resume(NAME, by="it@example.edu") == ["verdict"]
        assert (await verdict_of(world, 5)).by == "it@example.edu"
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 170
        await world.sweep()
        assert (await verdict_of(world, 6)).go, "compared with what was let through"


@pytest.mark.invariant(8)
async def test_a_ledger_that_was_lost_is_not_taken_for_a_new_campaign(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(60)})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        assert sum(call["count"] for call in await world.accepted()) == 60
        await world.app.stores.ledger.delete_campaign(NAME)
        await world.sweep()
        verdict = await verdict_of(world, 2)
        assert not verdict.go
        assert "The ledger knows of nobody" in verdict.reasons[0]
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 60
        await world.app.operations.resume(NAME, by="it@example.edu")
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 120


@pytest.mark.invariant(8)
async def test_a_ledger_lost_under_a_pair_that_was_let_go_sends_nothing_again(
    connection_string: str, tmp_path: Path
) -> None:
    """The table comes back empty; the verdict `go` of the pair, in another one, is still there."""
    graph = Graph({GROUP: people(60)})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        assert sum(call["count"] for call in await world.accepted()) == 60
        await world.app.stores.ledger.delete_campaign(NAME)

        await world.release()
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 60
        assert LEDGER_LOST in (await verdict_of(world)).reasons

        # Where it is gone for good, a person decides to start anew.
        await world.app.operations.resume(NAME, "an administrator")
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 120


@pytest.mark.invariant(2)
async def test_a_touch_that_was_held_until_it_was_over_leaves_its_people_unreached(
    connection_string: str, tmp_path: Path
) -> None:
    """Paused all through the touch's days while sweeps go on: nothing of it ever passes its
    not_after, and yet its people were due."""
    graph = Graph({GROUP: people(30)})
    async with running_with(graph, connection_string, tmp_path, at=FORTNIGHT) as world:
        await world.write_campaign()
        await world.app.book.refresh(accept=True)
        await world.app.operations.pause(NAME, "a holiday", "an administrator")
        await world.sweep()
        world.move_clock(FORTNIGHT + timedelta(days=7))
        await world.sweep()
        standing = (await world.app.book.read()).standings[NAME]
        sweep = await world.app.stores.sweeps.read_committed()
        assert sweep is not None
        closed = {(p.touch, p.reason) for p in await world.parcels() if p.state is State.CLOSED}
        assert closed == {("fortnight", "expired")}
        assert set((await world.app.status.list_unreached(standing, sweep)).values()) == {"expired"}


async def test_the_verdict_is_written_once_by_whoever_finishes_last(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(32)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.app.sweeps.start()
        await _read_only(world)
        for shard in SHARDS:
            assert await world.app.stores.control.read_verdict(NAME, (1, 1)) is None
            assert await world.app.plans.plan(PlanShard(NAME, shard, 1, 1)) == (shard == 15)
        verdict = await verdict_of(world)
        standing = (await world.app.book.read()).standings[NAME]
        sweep = await world.app.stores.sweeps.read_committed()
        assert sweep is not None
        assert await world.app.plans.conclude(standing, sweep) == verdict


# --- contact data --------------------------------------------------------------------------------


@pytest.mark.invariant(6)
async def test_contact_data_are_in_pages_and_outboxes_and_nowhere_else(
    connection_string: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    members = people(40)
    graph = Graph({GROUP: members})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        account = world.app.account
        places: dict[str, bytes] = {}
        for table in (NAMES.tables.ledger, NAMES.tables.control):
            rows = [dict(row) async for row in account.table(table).list_entities()]
            assert rows
            places[table] = repr(rows).encode()
        for container in (NAMES.containers.pages, NAMES.containers.outbox):
            client = account.container(container)
            names = [blob.name async for blob in client.list_blobs(include=["metadata"])]
            blobs = [dict(blob) async for blob in client.list_blobs(include=["metadata"])]
            places[f"names in {container}"] = repr(blobs).encode()
            bodies = [await (await client.download_blob(name)).readall() for name in names]
            assert any(b"person.7@example.org" in body for body in bodies)
        await world.app.sweeps.start()
        for queue in (NAMES.queues.sweep, NAMES.queues.plan, NAMES.queues.email):
            peeked = await account.queue(queue).peek_messages(32)
            places[queue] = repr([message.content for message in peeked]).encode()
        places["log"] = "\n".join(
            record.getMessage() for record in caplog.records if record.name == "mfa_nudge"
        ).encode()
        for place, text in places.items():
            for one in members:
                for word in (f"person.{one.number}@", f"Person {one.number}", f"u{one.number}@"):
                    assert word.encode() not in text, place


def test_neighbouring_shards_are_fetched_together_as_far_as_memory_allows() -> None:
    mib = 1024 * 1024
    table = {0: 16, 1 * mib: 16, 8 * mib: 16, 9 * mib: 8, 16 * mib: 8, 64 * mib: 2, 900 * mib: 1}
    assert {size: bundle_width(size) for size in table} == table


async def test_a_planner_that_stops_while_it_reads_leaves_no_shard_incomplete(world: World) -> None:
    pages = world.app.stores.pages
    accounts = [
        Account(one.id16, f"u{one.number}", "", True, "Member", None, (), None, None)
        for one in people(320)
    ]
    for number in range(20):
        rows, link = accounts[number * 16 : number * 16 + 16], "on" if number < 19 else None
        await pages.write_roster("00000001/group-a/1/", number, rows, link, 16, 0)
    reader = pages.open_pass(await pages.list_pages("00000001/group-a/1/"))
    stopped = reader.read_accounts(3)
    assert len(await anext(stopped)) == 1
    await stopped.aclose()
    for _ in range(2):
        for shard in SHARDS:
            found = [one.id async for some in reader.read_accounts(shard) for one in some]
            assert found == [one.id for one in accounts if one.id[0] >> 4 == shard]


@pytest.mark.invariant(9)
async def test_what_is_due_is_asked_of_the_cadence_at_the_campaigns_own_time(
    connection_string: str, tmp_path: Path
) -> None:
    """The same people, planned at different moments; the window is open from 9 to 11."""
    moments = [
        ("2027-01-27T12:00+08:00", "announce"),
        ("2027-03-15T08:59+08:00", "month"),
        ("2027-03-16T15:00+08:00", "fortnight"),
        ("2027-03-31T23:30+08:00", None),
        ("2027-04-03T10:00+08:00", "after"),
        ("2027-04-14T12:00+08:00", None),
    ]
    graph = Graph({GROUP: people(16)})
    start = datetime.fromisoformat(moments[0][0])
    async with running_with(graph, connection_string, tmp_path, at=start) as world:
        await world.write_campaign(example(('until: "18:00"', 'until: "11:00"')))
        planned: list[tuple[str, str | None]] = []
        for moment, _ in moments:
            world.move_clock(datetime.fromisoformat(moment))
            await world.sweep()
            await world.release()
            touches = {p.touch for p in await world.parcels() if p.state is State.PLANNED}
            assert len(touches) <= 1
            planned.append((moment, next(iter(touches), None)))
        assert planned == moments
