"""The world of the model: two workers on one storage, the messages between them, the provider, the
directory, and a time that moves only when it is told to.

The workers are the product as it is, put together by `build_app`; what is not theirs stands at
their edge. A third app, without an edge, is everybody else: it sweeps, and reads the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from functions.wiring import App, build_app
from shared.clock import Ages, CampaignTime, StorageTime
from shared.names import NAMES
from shared.rules.contact import address_key
from shared.rules.guards import ShardCounts
from shared.rules.parcels import SHARDS, Parcel
from shared.rules.registration import Account, ReportRow, pack_registration, shard_of
from shared.services.directory import GroupMembers, RegistrationReport
from shared.settings import read_settings
from shared.stores.pages import run_prefix
from shared.stores.parcels import FENCE, Fence, partition_of
from shared.stores.queues import (
    HandOut,
    ParcelReceipts,
    PlanShard,
    ShardReceipts,
    decode_message,
)
from shared.stores.table import Table, Write
from tests.graph import GROUP, Someone
from tests.model.edge import Edge, Fate, Reply, Step, running_edge, services_of, through
from tests.sending import campaign_text
from tests.world import FORTNIGHT, NAME, environment_of

AGES = msgspec.structs.replace(
    Ages(), config_cache=0, changes_cache=0, changes_known=250, start=40, call=250
)
"""The ages of production, but for those in real time: no cache is known to be old, and no call ends
for want of time, since only the model's own time passes here."""

CANARY = "canary: {recipients: 16, delivered: 0.5}"
"""One person of each shard."""

_REPORT = RegistrationReport().name
_NOWHERE = "http://127.0.0.1:9"
_TICK = timedelta(milliseconds=1)


class ModelClock:
    """One time for both clocks. Nobody sees the same moment twice."""

    def __init__(self) -> None:
        self.ages = AGES
        self._now = FORTNIGHT.astimezone(UTC)

    def let_pass(self, time: timedelta) -> None:
        self._now += time

    def campaign_now(self) -> CampaignTime:
        return CampaignTime(self._look())

    def storage_now(self) -> StorageTime:
        return StorageTime(self._look())

    def observe_storage(self, date: datetime) -> None:
        """The service's own time is not the model's."""

    def _look(self) -> datetime:
        self._now += _TICK
        return self._now


@dataclass(eq=False)
class Call:
    """A call that reached the provider.

    Attributes:
        row: the parcel's row, as the ledger had it when the call came.
        addresses: by index in the row.
        reply: None as long as it waits.
        answered: whether its worker lived to see an answer.
        settled: whether its worker lived to the end of what it did then.
        reported: whether receipts of it have been told, and taken.
    """

    row: Parcel
    attempt: str
    addresses: dict[int, str]
    reply: Reply | None = None
    answered: bool = False
    settled: bool = False
    reported: bool = False

    @property
    def accepted(self) -> bool:
        return self.reply is not None and self.reply.accepts

    @property
    def refused(self) -> bool:
        """Whether its worker knows that nothing of it was taken."""
        return self.reply is not None and self.reply.refuses and self.answered

    @property
    def people(self) -> list[bytes]:
        """Whom it is for."""
        everybody = dict(self.row.people())
        return [everybody[index] for index in self.addresses]


@dataclass(eq=False)
class Operation:
    """Something that a worker is about.

    Attributes:
        version: of the campaign file, the newest that was in force when it began.
        call: the call that it has made.
    """

    task: asyncio.Task[None]
    version: int
    call: Call | None = None


@dataclass(eq=False)
class Worker:
    """One process of the product, until it is killed and another takes its place."""

    edge: Edge
    app: App
    operation: Operation | None = None


@dataclass(frozen=True)
class Course:
    """What happens to an operation: so many steps pass, then this becomes of the next one, and
    after that the rest passes. `reply` is the provider's, should it be called.

    Attributes:
        passing: None is as many as come before the provider's call.
        looks: whether looks count as steps.
    """

    passing: int | None = None
    fate: Fate = Fate.PASSES
    reply: Reply = Reply.ACCEPTED
    looks: bool = False


UNHINDERED = Course()


class World:
    """See the module's docstring.

    Attributes:
        everybody: the accounts of the audience, as the next sweep finds them.
        shards: those that they are in.
        version: of the campaign, the newest.
        hand_outs, plan_messages: what was put on the queues; the time is that of putting it.
        broken: promises that were seen broken while a worker ran.
        refused: people to whom the provider has refused something, by name or not.
        silent: people who asked for no more mail.
        canary: whether the campaign has one.
        resumed: whether somebody has lifted a pause.
        remembered: see Edge.
    """

    def __init__(
        self,
        home: App,
        clock: ModelClock,
        everybody: list[Someone],
        environment: dict[str, str],
        http: aiohttp.ClientSession,
    ) -> None:
        self.home = home
        self.clock = clock
        self.everybody = everybody
        self.shards = sorted({shard_of(one.id16) for one in everybody})
        self.workers: list[Worker] = []
        self.calls: list[Call] = []
        self.hand_outs: list[tuple[StorageTime, HandOut]] = []
        self.plan_messages: list[PlanShard] = []
        self.version = 1
        self.broken: list[str] = []
        self.refused: set[bytes] = set()
        self.silent: set[bytes] = set()
        self.canary = False
        self.resumed = False
        self.remembered: dict[str, web.Response] = {}
        self._committed = 0
        self._environment = environment
        self._http = http
        self._acting: Operation | None = None
        self._people_of: dict[tuple[int, str], bytes] = {}

    # what workers do

    @contextlib.asynccontextmanager
    async def running_worker(self) -> AsyncGenerator[None]:
        """One more worker, for the length of the block."""
        watched = frozenset(partition_of(NAME, shard) for shard in self.shards)
        services = services_of(self._environment["AzureWebJobsStorage"])
        edge = Edge(
            services, self._http, watched, self.remembered, self.take_call, self.take_message
        )
        async with running_edge(edge):
            worker = Worker(edge, self._build_app(edge))
            self.workers.append(worker)
            try:
                yield
            finally:
                if worker.operation:
                    edge.dead = True
                    await self._bury(worker)
                await worker.app.close()

    async def plan(self, worker: Worker, message: PlanShard, course: Course) -> None:
        async def work() -> None:
            if await worker.app.plans.plan(message):
                await worker.app.releases.release_campaign(message.campaign)

        await self._begin(worker, work(), course)

    async def release(self, worker: Worker, course: Course) -> None:
        await self._begin(worker, worker.app.releases.release_all(), course)

    async def send(self, worker: Worker, message: HandOut, course: Course) -> None:
        await self._begin(worker, worker.app.dispatch.send(message), course)

    async def settle(self, worker: Worker, receipts: ShardReceipts, course: Course) -> None:
        await self._begin(worker, worker.app.receipts.settle(receipts), course)

    async def _begin(self, worker: Worker, work: Coroutine[Any, Any, None], course: Course) -> None:
        assert worker.operation is None
        worker.operation = Operation(asyncio.ensure_future(work), self.version)
        await self.go_on(worker, course)

    async def go_on(self, worker: Worker, course: Course) -> None:
        """Let a worker's operation take its course: to its end, or to where it waits or dies."""
        operation = worker.operation
        assert operation is not None
        self._acting = operation
        passed = 0
        while step := await self._next_step(worker):
            is_it = step.kind == "call" if course.passing is None else passed == course.passing
            counts = course.looks or step.kind != "look"
            fate = course.fate if is_it and counts else Fate.PASSES
            passed += counts
            if fate is Fate.HELD:
                worker.edge.steps.appendleft(step)
                return
            await step.let(fate, course.reply)
            if step.kind == "call" and fate in (Fate.PASSES, Fate.LOST):
                assert operation.call is not None
                operation.call.answered = True
            if worker.edge.dead:
                await self._bury(worker)
                return
        worker.operation = None
        await operation.task
        if operation.call:
            operation.call.settled = True

    async def _next_step(self, worker: Worker) -> Step | None:
        """The step that the worker waits at; None where it is done."""
        assert worker.operation is not None
        task, edge = worker.operation.task, worker.edge
        while not edge.steps and not task.done():
            edge.arrived.clear()
            arrival = asyncio.ensure_future(edge.arrived.wait())
            await asyncio.wait({task, arrival}, return_when=asyncio.FIRST_COMPLETED)
            arrival.cancel()
        return edge.steps.popleft() if edge.steps else None

    async def _bury(self, worker: Worker) -> None:
        """The worker is dead; another takes its place."""
        assert worker.operation is not None
        worker.operation.task.cancel()
        await asyncio.wait({worker.operation.task})
        await worker.app.close()
        await worker.edge.drain()
        worker.edge.dead = False
        worker.operation = None
        worker.app = self._build_app(worker.edge)

    def _build_app(self, edge: Edge) -> App:
        storage = through(edge, self._environment["AzureWebJobsStorage"])
        own = {"AzureWebJobsStorage": storage, "SENDGRID_BASE_URL": edge.url}
        return build_app(read_settings(self._environment | own), self.clock)

    # what comes to the edge

    def take_message(self, queue: str, body: bytes) -> None:
        """A worker has put a message on a queue."""
        if queue == NAMES.queues.plan:
            message = decode_message(body, PlanShard)
            if message.shard in self.shards and message not in self.plan_messages:
                self.plan_messages.append(message)
        if queue == NAMES.queues.email:
            message = decode_message(body, HandOut)
            self.hand_outs.append((self.clock.storage_now(), message))
            assert self._acting is not None
            if message.version < self._acting.version:
                self.broken.append("handed out under an older version")

    async def take_call(self, body: bytes) -> Any:
        """A call has come. Returns what answers it."""
        content = msgspec.json.decode(body)
        partition, _, key = content["custom_args"]["parcel"].partition("|")
        attempt = content["custom_args"]["attempt"]
        shard = SHARDS.index(partition[-1])
        row = await self.home.stores.ledger.read(NAME, shard, key)
        assert row is not None
        addresses = {
            int(one["custom_args"]["i"]): one["to"][0]["email"]
            for one in content["personalizations"]
        }
        call = Call(row, attempt, addresses)
        self.calls.append(call)
        if (row.state, row.attempt) != ("claimed", attempt):
            self.broken.append("a call without a claim")
        if self.canary and not row.canary and row.touch not in await self.read_canaries():
            self.broken.append("a call for the others before their canary has passed")
        assert self._acting is not None
        self._acting.call = call

        def answer(reply: Reply) -> web.Response | None:
            call.reply = reply
            if reply in (Reply.NAMING, Reply.NAMELESS):
                self.refused.update(call.people)
            return _ANSWERS[reply]()

        return answer

    # what everybody else does

    async def sweep(self) -> None:
        """A sweep, from its opening to its commit: what it reads is written in its place."""
        sweeps, pages = self.home.stores.sweeps, self.home.stores.pages
        roster = GroupMembers(GROUP)
        sweep = await sweeps.open([(_REPORT, ""), (roster.name, roster.group)])
        assert sweep is not None
        codes = [(one.id16, _code(one)) for one in self.everybody]
        await pages.write_report(run_prefix(sweep.number, _REPORT, 1), 0, codes, None, 0)
        accounts = [_account(one) for one in self.everybody]
        prefix = run_prefix(sweep.number, roster.name, 1)
        await pages.write_roster(prefix, 0, accounts, None, len(accounts), 0)
        assert await sweeps.commit(sweep, {_REPORT: 1, roster.name: 1})
        self._committed = sweep.number
        self.plan_messages = [
            PlanShard(NAME, shard, sweep.number, self.version) for shard in self.shards
        ]
        await self._plan_nobody()

    def register(self, which: int) -> None:
        """Somebody has registered; the next sweep sees it."""
        self.everybody[which] = replace(self.everybody[which], registered=True)

    async def write_campaign(self, **edits: Any) -> None:
        """Save the campaign file. The next release takes it."""
        text = campaign_text(
            window='{days: mon-sun, from: "00:00", until: "23:59"}',
            sending=CANARY if self.canary else "",
            **edits,
        )
        await self.home.stores.campaigns.write_file("alumni.yaml", text.encode())

    async def look_at_versions(self) -> None:
        """Take note of the newest version. A release is what takes a file."""
        newest = (await self.home.stores.campaigns.list_newest())[NAME].number
        if newest > self.version:
            self.version = newest
            await self._plan_nobody()

    async def _plan_nobody(self) -> None:
        """Plan the shards that the model has no people in under the newest pair. Nobody there is
        due, and somebody has had a touch."""
        self.remembered.clear()
        table = Table(self.home.account.table(NAMES.tables.ledger))
        pair = {"sweep": self._committed, "version": self.version}
        await asyncio.gather(
            *(
                table.write(Write("set", {"PartitionKey": one, "RowKey": FENCE, **pair}))
                for shard in range(len(SHARDS))
                if shard not in self.shards and (one := partition_of(NAME, shard))
            )
        )

    async def read_canaries(self) -> dict[str, str]:
        """The touches whose canary has passed."""
        return (await self.home.stores.control.read(NAME, "email")).canaries

    async def resume(self) -> None:
        """Lift what pauses the channel, as an administrator does who has seen to it."""
        if (await self.home.stores.control.read(NAME, "email")).pauses:
            await self.home.operations.resume(NAME, "registrar")
            self.resumed = True

    async def begin(self) -> None:
        """Version 1 of the campaign and the first sweep."""
        await self.write_campaign(parcel_size=2)
        await self.home.book.refresh(accept=True)
        ledger = self.home.stores.ledger
        for shard in set(range(len(SHARDS))).difference(self.shards):
            run = await ledger.take_fence(NAME, shard, None, (0, 0), "", self.clock.storage_now())
            await run.finish(ShardCounts(had=1))
        await self.sweep()

    async def go_to_next_touch(self) -> str:
        """Let time pass until a touch has opened that nobody was planned for; "" where none is
        left."""
        standing = (await self.home.book.refresh()).standings[NAME]
        now = self.clock.campaign_now()
        later = [step for step in standing.schedule.steps if step.opening > now]
        if not later:
            return ""
        self.clock.let_pass(later[0].opening - now + timedelta(hours=1))
        return later[0].touch

    async def list_unreached(self) -> dict[bytes, str]:
        """Who was due and was not reached, with the reason, as the product tells it."""
        sweep = await self.home.stores.sweeps.read_committed()
        assert sweep is not None
        standing = (await self.home.book.refresh()).standings[NAME]
        return await self.home.status.list_unreached(standing, sweep)

    async def rows(self) -> dict[tuple[int, str], Parcel]:
        """All parcels."""
        rows = {
            (shard, parcel.key): parcel
            for shard in self.shards
            async for parcel in self.home.stores.ledger.scan(NAME, shard)
        }
        self._people_of = {key: row.ids for key, row in rows.items()}
        return rows

    async def fences(self) -> dict[int, Fence | None]:
        return {one: await self.home.stores.ledger.read_fence(NAME, one) for one in self.shards}

    def report(self, call: Call, kind: str, index: int = 0) -> ShardReceipts:
        """What the provider reports of a call: all delivered; or all but one, who bounced; or one
        of them wants no more mail."""
        indices = sorted(call.addresses)
        other = indices[index % len(indices)]
        person = dict(call.row.people())[other]
        if kind == "bounced":
            self.refused.add(person)
        if kind == "opted out":
            self.silent.add(person)
        delivered = tuple(one for one in indices if kind != "bounced" or one != other)
        bounced = ()
        if kind == "bounced":
            key = self.home.settings.address_key.encode()
            bounced = ((other, address_key(key, call.addresses[other])),)
        opted_out = (other,) if kind == "opted out" else ()
        parcel = ParcelReceipts(call.row.key, (call.attempt,), delivered, bounced, opted_out)
        return ShardReceipts(NAME, call.row.shard, "email", (parcel,))

    def report_row(self, row: Parcel) -> ShardReceipts:
        """A receipt of a row, whatever has become of it."""
        everybody = tuple(range(row.count))
        parcel = ParcelReceipts(row.key, (row.attempt or "none",), everybody)
        return ShardReceipts(NAME, row.shard, "email", (parcel,))

    def living_hand_outs(self) -> list[HandOut]:
        """The messages that are still alive, by whom they are for: their keys are chance."""
        now = self.clock.storage_now()
        life = timedelta(seconds=AGES.message_life)
        alive = [(at, one) for at, one in self.hand_outs if now - at < life]
        return [one for _, one in sorted(alive, key=self._place_of)]

    def _place_of(self, hand_out: tuple[StorageTime, HandOut]) -> tuple[int, bytes, StorageTime]:
        at, message = hand_out
        people = self._people_of.get((message.shard, message.key), b"")
        return message.shard, people, at


def _code(one: Someone) -> int:
    row = one.report()
    return pack_registration(
        ReportRow(row["id"], row["isMfaRegistered"], row["isMfaCapable"], row["methodsRegistered"])
    )


def _account(one: Someone) -> Account:
    return Account(
        one.id16,
        f"u{one.number}@connect.example.edu",
        f"Person {one.number}",
        enabled=True,
        user_type="Member",
        mail=f"second.{one.number}@example.org",
        other_mails=(f"person.{one.number}@example.org",),
        mobile_phone=None,
        language=None,
    )


_ANSWERS: dict[Reply, Any] = {
    Reply.ACCEPTED: lambda: web.Response(status=202),
    Reply.RESET: lambda: None,
    Reply.BROKEN: lambda: web.Response(status=500),
    Reply.FAILED: lambda: web.Response(status=500),
    Reply.THROTTLED: lambda: _says(429, None, "too many requests"),
    Reply.NAMING: lambda: _says(400, "personalizations.0.to.0.email", "Not a valid address."),
    Reply.NAMELESS: lambda: _says(400, None, "Bad Request"),
    Reply.UNAVAILABLE: lambda: _says(503, None, "not available"),
}


def _says(status: int, field: str | None, message: str) -> web.Response:
    return web.json_response({"errors": [{"field": field, "message": message}]}, status=status)


@contextlib.asynccontextmanager
async def running_model(
    connection_string: str, everybody: list[Someone], *, workers: int = 2, canary: bool = False
) -> AsyncGenerator[World]:
    """The world over an empty storage account, with a sweep committed and nothing planned."""
    clock = ModelClock()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        environment = environment_of(connection_string, _NOWHERE, _NOWHERE, Path())
        del environment["CLOCK_FILE"]  # time is the model's own
        home = build_app(read_settings(environment), clock)
        stack.push_async_callback(home.close)
        await home.account.create_all()
        world = World(home, clock, everybody, environment, http)
        world.canary = canary
        for _ in range(workers):
            await stack.enter_async_context(world.running_worker())
        await world.begin()
        yield world
