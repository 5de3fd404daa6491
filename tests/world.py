"""A world to run the product in, within one process: storage, a simulated tenant and inbox over
real HTTP, a clock that can be moved, and what the Functions host would do with the queues.

The functions themselves are tested in tests/functions; here their workflows run as they call them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from azure.storage.queue.aio import QueueClient

from functions.wiring import App, build_app
from local import inbox, tenant
from shared.clock import Ages, CampaignTime, Clock, write_clock_file
from shared.names import NAMES
from shared.rules.parcels import Parcel
from shared.settings import read_settings
from shared.stores.queues import HandOut, PlanShard, ReadPages, ShardReceipts, decode_message

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
EXAMPLE = Path(__file__).resolve().parents[1] / "campaign.example.yaml"
NAME = "hku-alumni-2027"
FORTNIGHT = datetime.fromisoformat("2027-03-17T10:00+08:00")
"""Fourteen days before the example's deadline, within the window."""


class World:
    """The product, and the simulated services around it."""

    def __init__(
        self, app: App, environment: dict[str, str], clock_file: Path, http: aiohttp.ClientSession
    ) -> None:
        self.app = app
        self.environment = environment
        self.graph_url = environment["GRAPH_BASE_URL"]
        self.inbox_url = environment["SENDGRID_BASE_URL"]
        self.http = http
        self._clock_file = clock_file
        self._others: list[App] = []

    # time and the campaign file

    def move_clock(self, to: datetime) -> None:
        """Pretend that it is `to` now."""
        write_clock_file(self._clock_file, to)

    async def write_campaign(
        self, text: str | None = None, *, file: str = "alumni.yaml", mode: str = "live"
    ) -> None:
        """Put a campaign file into `config`; without a text, the example in this mode."""
        if text is None:
            text = EXAMPLE.read_text().replace("mode: dry-run", f"mode: {mode}")
        await self.app.stores.campaigns.write_file(file, text.encode())

    # what the host does

    def another_app(self) -> App:
        """A second process over the same storage, as far as a test can tell."""
        return self.keep(build_app(read_settings(self.environment)))

    def keep(self, app: App) -> App:
        """Close this app, too, at the end of the world."""
        self._others.append(app)
        return app

    async def sweep(self) -> None:
        """The nightly timer, and all that follows from it until the queues are empty."""
        await self.app.sweeps.start()
        await self.run_queues()

    async def release(self) -> None:
        """The minute timer, and all that follows from it."""
        await self.app.releases.release_all()
        await self.run_queues()

    async def run_queues(self, app: App | None = None) -> int:
        """Work on the queues until nothing is visible on them. Returns how many messages."""
        app = app or self.app
        takers: list[tuple[str, Callable[[bytes], Awaitable[None]]]] = [
            (NAMES.queues.sweep, lambda body: app.sweeps.read(decode_message(body, ReadPages))),
            (NAMES.queues.plan, lambda body: _plan(app, decode_message(body, PlanShard))),
            (NAMES.queues.email, lambda body: app.dispatch.send(decode_message(body, HandOut))),
            (NAMES.queues.sms, lambda body: app.dispatch.send(decode_message(body, HandOut))),
            (
                NAMES.queues.receipts,
                lambda body: app.receipts.settle(decode_message(body, ShardReceipts)),
            ),
        ]
        done = 0
        while True:
            before = done
            for name, take in takers:
                queue = app.account.queue(name)
                done += await self._drain(queue, take)
            if done == before:
                return done

    async def _drain(self, queue: QueueClient, take: Callable[[bytes], Awaitable[None]]) -> int:
        count = 0
        while True:
            batch = [
                m async for m in queue.receive_messages(max_messages=32, visibility_timeout=600)
            ]
            if not batch:
                return count
            async with asyncio.TaskGroup() as group:
                for message in batch:
                    group.create_task(take(message.content))
            for message in batch:
                await queue.delete_message(message)
            count += len(batch)

    # what came of it

    async def parcels(self, campaign: str = NAME) -> list[Parcel]:
        """Every row of the ledger that is a parcel."""
        return [parcel async for parcel in self.app.status.scan_parcels(campaign)]

    async def accepted(self) -> list[dict[str, Any]]:
        """Every call that the inbox accepted: parcel, attempt, indices, count …"""
        found = await self.get_json(f"{self.inbox_url}/accepted")
        return found["accepted"]

    async def messages(self, **query: str) -> dict[str, Any]:
        """Mails as people got them."""
        return await self.get_json(f"{self.inbox_url}/messages", **query)

    async def fault(self, service: str, **fault: Any) -> None:
        """Switch on faults of the `inbox` or of the `tenant`; see their modules."""
        base = self.inbox_url if service == "inbox" else self.graph_url.removesuffix("/v1.0")
        async with self.http.post(f"{base}/faults", json=fault) as answer:
            assert answer.status < 300, await answer.text()

    async def get_json(self, url: str, **query: str) -> Any:
        async with self.http.get(url, params=query) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def close(self) -> None:
        for app in self._others:
            await app.close()


@contextlib.asynccontextmanager
async def running_world(
    connection_string: str,
    directory: Path,
    *,
    at: datetime = FORTNIGHT,
    people: tenant.Options | None = None,
    clock: Clock | None = None,
    **settings: str,
) -> AsyncGenerator[World]:
    """A world over one storage account, for the length of the block.

    Args:
        directory: for the clock file.
        at: the pretended time.
        people: of the tenant; 400 alumni and 100 others without throttling, where not given.
        clock: the product's; the one of the clock file, where not given.
        settings: environment variables over the world's own.
    """
    clock_file = directory / "clock.json"
    write_clock_file(clock_file, at)
    people = people or tenant.Options(alumni=400, others=100, throttled=False)
    people = msgspec.structs.replace(people, clock_file=clock_file)
    async with (
        tenant.running_tenant(people) as graph_url,
        inbox.running_inbox(inbox.Options(clock_file=clock_file)) as inbox_url,
        aiohttp.ClientSession() as http,
    ):
        environment = environment_of(connection_string, graph_url, inbox_url, clock_file) | settings
        app = build_app(read_settings(environment), clock)
        await app.account.create_all()
        world = World(app, environment, clock_file, http)
        try:
            yield world
        finally:
            await world.close()
            await app.close()


def environment_of(
    connection_string: str, graph_url: str, inbox_url: str, clock_file: Path
) -> dict[str, str]:
    """The settings under which the product runs over these services."""
    return {
        "AzureWebJobsStorage": connection_string,
        "GRAPH_BASE_URL": f"{graph_url}/v1.0",
        "GRAPH_AUTH": "anonymous",
        "SENDGRID_BASE_URL": inbox_url,
        "SENDGRID_API_KEY": "test",
        "LINK_KEYS": KEY,
        "ADDRESS_KEY": KEY,
        "PUBLIC_BASE_URL": "https://mfa.its.hku.hk",
        "ALLOWED_SENDERS": "no-reply@its.hku.hk",
        "ALLOWED_LINK_HOSTS": "its.hku.hk,mfa.its.hku.hk",
        "CLOCK_FILE": str(clock_file),
    }


async def _plan(app: App, message: PlanShard) -> None:
    if await app.plans.plan(message):
        await app.releases.release_campaign(message.campaign)


def now_of(app: App) -> CampaignTime:
    return app.clock.campaign_now()


SHORT = Ages().scaled(0.02)
"""The ages of a run with AGES_SCALE=0.02."""
