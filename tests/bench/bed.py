"""What the benchmarks run on: Azurite, tenant and inbox as processes of their own, the product in
this one, and its queues taken as the Functions host takes them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

import aiohttp
from azure.storage.queue.aio import QueueClient

from functions.wiring import App, build_app
from local.azurite import Azurite
from local.host import read_host_file
from local.parts import ROOT, running_part
from shared.clock import PretendedClock, write_clock_file
from shared.names import NAMES
from shared.rules.parcels import Channel
from shared.settings import read_settings
from shared.stores.queues import HandOut, PlanShard, ReadPages, decode_message
from shared.workflows.sweep import ReportPace, SweepWorkflow
from tests.world import FORTNIGHT, World, environment_of

_HOST = read_host_file(ROOT).extensions.queues

NOWHERE = "http://127.0.0.1:9"
"""Where a service is named that a benchmark does not ask."""


class CountingClock(PretendedClock):
    """Counts the answers of the storage account, each of which tells the clock its `Date`."""

    operations = 0

    def observe_storage(self, date: datetime) -> None:
        self.operations += 1
        super().observe_storage(date)


class Bench(World):
    """A world whose services are processes, with a clock that counts and a host's queues."""

    clock: CountingClock
    empty_polls = 0
    """Looks at a queue that found nothing: the host makes them all day long."""

    @property
    def operations(self) -> int:
        """Storage operations so far, those of the host for each message among them."""
        return self.clock.operations - self.empty_polls

    async def read_pages(self) -> None:
        await self.take(
            self.app.account.queue(NAMES.queues.sweep),
            lambda body: self.app.sweeps.read(decode_message(body, ReadPages)),
        )

    async def plan(self) -> None:
        """Plan what is asked for, and release nothing."""

        async def plan(body: bytes) -> None:
            await self.app.plans.plan(decode_message(body, PlanShard))

        await self.take(self.app.account.queue(NAMES.queues.plan), plan)

    async def send(self, channel: Channel = "email") -> None:
        await self.take(
            self.app.account.queue(getattr(NAMES.queues, channel)),
            lambda body: self.app.dispatch.send(decode_message(body, HandOut)),
        )

    async def take(self, queue: QueueClient, work: Callable[[bytes], Awaitable[None]]) -> None:
        self.empty_polls += await take_all(queue, work)


async def take_all(
    queue: QueueClient,
    work: Callable[[bytes], Awaitable[None]],
    *,
    batch: int = _HOST.batch_size,
    threshold: int = _HOST.threshold,
) -> int:
    """Work on a queue until nothing is visible on it, as the Functions host does.

    Args:
        batch, threshold: so many messages are taken at once, when no more than so many are under
            way; those of host.json by default.

    Returns how often it was looked for messages, and there were none.
    """
    under_way: set[asyncio.Task[None]] = set()
    empty_polls = 0

    async def take_one(message_id: str, receipt: str | None, body: bytes) -> None:
        await work(body)
        await queue.delete_message(message_id, receipt)

    while True:
        found = False
        if len(under_way) <= threshold:
            async for message in queue.receive_messages(
                messages_per_page=batch, max_messages=batch, visibility_timeout=600
            ):
                found = True
                one = take_one(message.id, message.pop_receipt, message.content)
                under_way.add(asyncio.create_task(one))
            empty_polls += not found
        if not under_way:
            return empty_polls
        if not found or len(under_way) > threshold:
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()


class Bed:
    """Hands out storage accounts of one Azurite, and benches over them.

    Attributes:
        scratch: a directory that is deleted at the end.
    """

    def __init__(self, azurite: Azurite, scratch: Path) -> None:
        self._accounts: Iterator[str] = iter(azurite.connection_strings)
        self.scratch = scratch

    @contextlib.asynccontextmanager
    async def running_bench(
        self,
        *,
        tenant: tuple[int, int] | None = None,
        inbox: bool = False,
        campaign: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Bench]:
        """A product on fresh storage, fourteen days before the example's deadline.

        Args:
            tenant: alumni and others of a tenant without throttling; None for no tenant.
            inbox: whether there is one.
            campaign: the text of the campaign file; the example, live, where None.
            settings: of the app, beside those that it needs.
        """
        clock_file = self.scratch / "clock.json"
        write_clock_file(clock_file, FORTNIGHT)
        async with contextlib.AsyncExitStack() as stack:
            environment = environment_of(next(self._accounts), NOWHERE, NOWHERE, clock_file)
            environment |= settings or {}
            if tenant:
                arguments = [
                    *("--alumni", str(tenant[0]), "--others", str(tenant[1])),
                    # The SDK's PageIterator takes an empty page for the last one.
                    *("--no-throttle", "--no-empty-pages", "--clock-file", str(clock_file)),
                ]
                part = await stack.enter_async_context(running_part("local.tenant", arguments))
                environment["GRAPH_BASE_URL"] = f"{part.url}/v1.0"
            if inbox:
                arguments = ["--clock-file", str(clock_file)]
                part = await stack.enter_async_context(running_part("local.inbox", arguments))
                environment |= {"SENDGRID_BASE_URL": part.url, "TWILIO_BASE_URL": part.url}
            clock = CountingClock(clock_file)
            app = _without_pace(build_app(read_settings(environment), clock))
            stack.push_async_callback(app.close)
            await app.account.create_all()
            http = await stack.enter_async_context(aiohttp.ClientSession())
            bench = Bench(app, environment, clock_file, http)
            bench.clock = clock
            await bench.write_campaign(campaign)
            yield bench


def _without_pace(app: App) -> App:
    """The product keeps to Graph's limit by itself; a tenant without one may be asked faster."""
    pace = ReportPace(requests=1, seconds=0)
    sweeps = SweepWorkflow(app.stores, app.book, app.directory, app.clock, pace=pace)
    return dataclasses.replace(app, sweeps=sweeps)
