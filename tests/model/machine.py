"""The rules by which hypothesis makes things happen, and how everything heals at the end.

An operation takes a course: so many steps pass, and then one is carried out without an answer, or
its worker dies, or it waits there while the world goes on. That puts a crash between any two steps
of the product, and any two operations in each other's way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.rules.parcels import Parcel, State
from shared.stores.queues import HandOut
from tests.graph import Someone
from tests.model.bed import Bed
from tests.model.edge import Fate, Reply
from tests.model.promises import Promises, is_open
from tests.model.world import UNHINDERED, Course, Worker, World, running_model

LAYOUTS = {
    "two parcels": (0, 16, 32),
    "three parcels": (0, 16, 32, 48, 64),
    "two shards": (0, 16, 1),
}
"""Numbers of the people; those with the same last hex digit share a shard. Parcels hold two."""

TIMES = {
    "a minute": timedelta(minutes=1),
    "six minutes": timedelta(minutes=6),
    "a quarter": timedelta(minutes=16),
    "two hours": timedelta(hours=2, minutes=10),
    "a day": timedelta(hours=24, minutes=10),
}

_REPLIES = st.sampled_from([Reply.ACCEPTED, Reply.ACCEPTED, Reply.ACCEPTED, *Reply])
_AFTER = st.sampled_from(
    ["a minute", "a minute", "a quarter", "a quarter", "two hours", "two hours", *TIMES]
)
_FATES = st.sampled_from([*[Fate.PASSES] * 4, Fate.HELD, Fate.HELD, *Fate])


@st.composite
def courses(draw: st.DrawFn, places: Sequence[int]) -> Course:
    """Of an operation that makes no call. `places` are steps at which something may happen, the
    likelier the oftener they are there."""
    fate = draw(_FATES)
    if fate is Fate.PASSES:
        return UNHINDERED
    looks = draw(st.sampled_from([False, False, True]))
    return Course(draw(st.sampled_from(places)) * (1 + looks), fate, looks=looks)


PLANNING = (1, 1, 1, 0, 2, 3, 4, 5, 6, 7)
"""Fence; take-back, where others are most in the way; outbox, rows, fence; verdict, release."""

RELEASING = (0, 0, 1, 2, 3, 4)
SETTLING = (0, 1, 2)


@st.composite
def calls(draw: st.DrawFn) -> Course:
    """Of an operation that makes a call, with its claim before it and a settle after it."""
    fate = draw(_FATES)
    place = None if fate is Fate.PASSES else draw(st.sampled_from([None, None, None, 0, 1, 2, 3]))
    return Course(place, fate, draw(_REPLIES))


async def _nothing(_: World) -> None:
    """A sweep was committed, and the shards are to be planned."""


async def _plan_all(world: World) -> None:
    messages, world.plan_messages = world.plan_messages, []
    for message in messages:
        await world.plan(world.workers[0], message, UNHINDERED)


async def _resend_one(world: World) -> None:
    """Everything is planned, and a parcel is out for the second time, since a later one has
    receipts and it has none; but its first call still waits for an answer."""
    slow, worker = world.workers
    await _plan_all(world)
    first, second, *_ = world.living_hand_outs()
    await world.send(slow, first, Course(None, Fate.HELD))
    await world.send(worker, second, UNHINDERED)
    await world.settle(worker, world.report(world.calls[-1], "delivered"), UNHINDERED)
    for time in ("two hours", "a minute"):
        world.clock.let_pass(TIMES[time])
        await world.release(worker, UNHINDERED)


BEGINNINGS: dict[str, Callable[[World], Awaitable[None]]] = {
    "swept": _nothing,
    "planned": _plan_all,
    "resent": _resend_one,
}
"""Where an example begins. The last takes many steps that chance alone seldom takes."""


WITH_CANARY = {"swept, with a canary": _nothing, "planned, with a canary": _plan_all}
"""More beginnings, of a campaign that has one."""


class Machine(RuleBasedStateMachine):
    """What happens, in an order that hypothesis thinks of.

    Attributes:
        bed: where the worlds of all examples stand; set by whoever runs the machine.
        sound: whether there is a world, and no promise of it was broken.
    """

    bed: Bed

    def __init__(self) -> None:
        super().__init__()
        self.stack = AsyncExitStack()
        self.sound = False
        self.steps = 0
        self.edits = 0
        self.calls_planned = -1

    # what hypothesis may choose from

    def idle(self) -> list[Worker]:
        return [one for one in self.world.workers if one.operation is None]

    def busy(self) -> list[Worker]:
        return [one for one in self.world.workers if one.operation]

    def messages(self) -> tuple[list[HandOut], list[HandOut]]:
        """Those that may be claimed under, as far as can be seen; and the others."""
        alive = self.world.living_hand_outs()
        due = [
            one
            for one in alive
            if (row := self.rows.get((one.shard, one.key))) and row.etag == one.etag
        ]
        return due, [one for one in alive if one not in due]

    def closed(self) -> list[Parcel]:
        return [row for row in self.rows.values() if row.state is State.CLOSED]

    def has_news(self) -> bool:
        """Whether planning anew is worth the while: all is planned, and there was a call since."""
        return not self.world.plan_messages and len(self.world.calls) > self.calls_planned

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something, and see whether the promises still hold."""

        async def step() -> None:
            await work
            await self.world.look_at_versions()
            self.rows = await self.promises.look()

        self.steps += 1
        self._check(step())

    def _check(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self.bed.run(work)
        except BaseException as error:
            self.sound = False
            self.bed.note_broken(error, self.steps)
            raise

    @initialize(
        layout=st.sampled_from(sorted(LAYOUTS)),
        so_far=st.sampled_from([*BEGINNINGS, *WITH_CANARY]),
    )
    def begin(self, layout: str, so_far: str) -> None:
        everybody = [Someone(number=number) for number in LAYOUTS[layout]]
        canary = so_far in WITH_CANARY

        async def start() -> None:
            if not self.bed.broken:
                self.bed.examples += 1
            account = await self.bed.next_account()
            self.world = await self.stack.enter_async_context(
                running_model(account, everybody, canary=canary)
            )
            self.promises = Promises(self.world)
            await (WITH_CANARY if canary else BEGINNINGS)[so_far](self.world)

        self.run(start())
        self.sound = True

    @precondition(lambda self: self.world.plan_messages and self.idle())
    @rule(which=st.integers(0, 1), who=st.integers(0, 1), course=courses(PLANNING))
    def plan(self, which: int, who: int, course: Course) -> None:
        """Deliver what asks for planning. One of the messages meets trouble, and comes again."""

        async def work() -> None:
            messages, troubled = self.world.plan_messages, pick(self.world.plan_messages, which)
            kept = [] if course.fate in (Fate.PASSES, Fate.LOST) else [troubled]
            self.world.plan_messages = kept
            for message in messages:
                if idle := self.idle():
                    one = course if message is troubled else UNHINDERED
                    await self.world.plan(pick(idle, who), message, one)
                elif message is not troubled:
                    kept.append(message)

        self.run(work())

    @precondition(lambda self: self.idle())
    @rule(after=_AFTER, who=st.integers(0, 1), course=courses(RELEASING))
    def release(self, after: str, who: int, course: Course) -> None:
        self.world.clock.let_pass(TIMES[after])
        self.run(self.world.release(pick(self.idle(), who), course))

    def _send(self, which: int, who: int, course: Course) -> None:
        due, others = self.messages()
        self.run(self.world.send(pick(self.idle(), who), pick(due or others, which), course))

    @precondition(lambda self: self.idle() and self.messages()[0])
    @rule(which=st.integers(0, 3), who=st.integers(0, 1), course=calls())
    def send(self, which: int, who: int, course: Course) -> None:
        """Deliver a message."""
        self._send(which, who, course)

    @precondition(lambda self: self.idle() and any(self.messages()))
    @rule(which=st.integers(0, 3), who=st.integers(0, 1), course=calls())
    def send_again(self, which: int, who: int, course: Course) -> None:
        """Deliver a message, or one whose time is over or that was delivered before."""
        self._send(which, who, course)

    @precondition(lambda self: self.busy())
    @rule(who=st.integers(0, 1), course=calls())
    def go_on(self, who: int, course: Course) -> None:
        """What waited goes on."""
        self.run(self.world.go_on(pick(self.busy(), who), course))

    @precondition(lambda self: self.idle() and any(one.accepted for one in self.world.calls))
    @rule(
        which=st.integers(0, 7),
        kind=st.sampled_from(["delivered", "delivered", "bounced", "opted out"]),
        whom=st.integers(0, 1),
        who=st.integers(0, 1),
        course=courses(SETTLING),
    )
    def tell_receipts(self, which: int, kind: str, whom: int, who: int, course: Course) -> None:
        """Of any call that was accepted, however late, and again."""
        call = pick([one for one in reversed(self.world.calls) if one.accepted], which)
        receipts = self.world.report(call, kind, whom)
        self.run(self.world.settle(pick(self.idle(), who), receipts, course))

    @precondition(lambda self: self.idle() and self.closed())
    @rule(which=st.integers(0, 7), who=st.integers(0, 1))
    def tell_of_nothing(self, which: int, who: int) -> None:
        """A receipt for a parcel that is closed: mixed up, or a lie."""
        receipts = self.world.report_row(pick(self.closed(), which))
        self.run(self.world.settle(pick(self.idle(), who), receipts, UNHINDERED))

    @precondition(lambda self: self.has_news())
    @rule(who=st.none() | st.integers(0, 3))
    def sweep(self, who: int | None) -> None:
        """The directory is read; somebody may have registered."""
        if who is not None:
            self.world.register(who % len(self.world.everybody))
        self.calls_planned = len(self.world.calls)
        self.run(self.world.sweep())

    @precondition(lambda self: self.has_news() and self.idle())
    @rule(who=st.integers(0, 1))
    def edit(self, who: int) -> None:
        """The campaign file says something else."""
        self.edits += 1
        self.calls_planned = len(self.world.calls)

        async def work() -> None:
            await self.world.write_campaign(parcel_size=2 + self.edits % 2)
            await self.world.release(pick(self.idle(), who), UNHINDERED)

        self.run(work())

    @precondition(lambda self: self.world.canary and self.world.calls)
    @rule()
    def resume(self) -> None:
        """An administrator lets the others follow, if they have to be let."""
        self.run(self.world.resume())

    def teardown(self) -> None:
        """Nothing goes wrong any more: everything ends well, and nobody is lost."""
        try:
            if self.sound:
                self._check(heal(self.world, self.promises))
                self.bed.note_example(self.steps)
        finally:
            self.bed.run(self.stack.aclose())


def run_machine(
    bed: Bed, examples: int, *, seed: int | None = None, shrink: bool = True
) -> BaseException | None:
    """Run so many examples: others each time, unless there is a seed or this is CI. Returns how a
    promise was broken, by the shortest example where it was to `shrink`."""
    Machine.bed = bed
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    profile = settings(
        max_examples=examples,
        stateful_step_count=16,
        deadline=None,
        database=None,
        derandomize=seed is None and settings.default.derandomize,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    machine = Machine if seed is None else hypothesis.seed(seed)(Machine)
    try:
        run_state_machine_as_test(machine, settings=profile)
    except Exception as error:
        return error
    return None


def pick[Thing](things: Sequence[Thing], which: int) -> Thing:
    return things[which % len(things)]


async def heal(world: World, promises: Promises) -> None:
    """Let everything come to its end, in a world without faults; then let the next touch come."""
    for worker in world.workers:
        if worker.operation:
            await world.go_on(worker, UNHINDERED)
    await world.look_at_versions()
    await promises.look()
    await world.sweep()
    for time in ("a minute", "six minutes", "a quarter", "a quarter", "two hours", "a day"):
        world.clock.let_pass(TIMES[time])
        await _settle(world, promises)
        rows = await promises.look()
        if not any(is_open(row, world.clock.campaign_now()) for row in rows.values()):
            break
    if touch := await world.go_to_next_touch():
        await world.sweep()
        await _settle(world, promises)
        rows = await promises.look()
        await promises.look_at_the_end(rows)
        await promises.look_for_the_lost(rows, touch)


async def _settle(world: World, promises: Promises) -> None:
    """Do what there is to do until there is nothing more, at this time."""
    worker = world.workers[0]
    world.hand_outs.clear()
    while True:
        await _plan_all(world)
        for _, message in world.hand_outs.copy():
            await world.send(worker, message, UNHINDERED)
        world.hand_outs.clear()
        for call in world.calls:
            if call.accepted and not call.reported:
                call.reported = True
                await world.settle(worker, world.report(call, "delivered"), UNHINDERED)
        await world.resume()
        await world.release(worker, UNHINDERED)
        await world.look_at_versions()
        await promises.look()
        if not (world.hand_outs or world.plan_messages):
            return
