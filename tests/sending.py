"""What tests of release and dispatch share: parcels that are planned and not yet due, a clock that
can be moved ahead, a provider before whom the ledger is read, and a table whose answers get lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import msgspec
import pytest
from aiohttp import web
from yarl import URL

from functions.wiring import App, build_app
from local import inbox
from local.serving import cut_connection, running_application
from shared.clock import Ages, CampaignTime, Clock, PretendedClock, StorageTime
from shared.names import NAMES
from shared.rules.parcels import SHARDS, Parcel, State
from shared.settings import read_settings
from shared.stores import Stores
from shared.stores.account import StorageAccount, StorageSettings
from shared.stores.queues import HandOut, ParcelReceipts, ShardReceipts, decode_message
from tests.graph import GROUP, Graph, Someone, people, running_with
from tests.world import EXAMPLE, FORTNIGHT, NAME, World

EARLY = FORTNIGHT - timedelta(hours=2)
"""An hour before the window opens: what is planned now waits."""

AGES = msgspec.structs.replace(Ages(), config_cache=0, changes_cache=0)
"""The ages of production, without the caches: tests change things and look at once."""


class MovedClock(PretendedClock):
    """Both times, ahead of the real ones by as much as a test lets pass."""

    def __init__(self, file: Path, ages: Ages = AGES) -> None:
        super().__init__(file, ages)
        self.ahead = timedelta(0)

    def let_pass(self, **time: float) -> None:
        """`hours=2`, `minutes=15` …"""
        self.ahead += timedelta(**time)

    def campaign_now(self) -> CampaignTime:
        return CampaignTime(super().campaign_now() + self.ahead)

    def storage_now(self) -> StorageTime:
        return StorageTime(super().storage_now() + self.ahead)


# --- the provider ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A call that reached the provider.

    Attributes:
        row: the parcel's row, as the ledger had it when the call came.
        body: as it came.
    """

    row: Parcel
    body: dict[str, Any]

    @property
    def attempt(self) -> str:
        return self.body["custom_args"]["attempt"]

    @property
    def addresses(self) -> list[str]:
        return [one["to"][0]["email"] for one in self.body["personalizations"]]

    @property
    def indices(self) -> list[int]:
        return [int(one["custom_args"]["i"]) for one in self.body["personalizations"]]


@dataclass
class Provider:
    """Stands before an inbox: reads the ledger at each call, then passes the call on.

    Attributes:
        before: what happens when a call has come, and before it is answered.
        answers: to the next calls, in place of the inbox's; None is the inbox's own.
    """

    inbox_url: str
    stores: Stores
    http: aiohttp.ClientSession
    calls: list[Call] = field(default_factory=list)
    before: Callable[[web.Request], Awaitable[None]] | None = None
    answers: list[Callable[[web.Request], web.Response] | None] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.path == "/v3/mail/send":
            self.calls.append(await self._look_up(msgspec.json.decode(body)))
            if self.before:
                await self.before(request)
            if self.answers and (answer := self.answers.pop(0)):
                return answer(request)
        url = f"{self.inbox_url}{request.path_qs}"
        return await _pass_on(self.http, request, url, body)

    async def _look_up(self, body: dict[str, Any]) -> Call:
        partition, _, key = body["custom_args"]["parcel"].partition("|")
        campaign, _, digit = partition.rpartition(":")
        row = await self.stores.ledger.read(campaign, SHARDS.index(digit), key)
        assert row is not None
        return Call(row, body)


async def _pass_on(
    http: aiohttp.ClientSession, request: web.Request, url: str, body: bytes
) -> web.Response:
    headers = {name: value for name, value in request.headers.items() if name != "Host"}
    try:
        # Letter by letter, and no header more than there were: storage has them signed.
        to = URL(url, encoded=True)
        async with http.request(
            request.method,
            to,
            headers=headers,
            data=body or None,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name not in ("Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive")
            }
            return web.Response(status=answer.status, headers=kept, body=await answer.read())
    except aiohttp.ClientError:
        return cut_connection(request)


# --- a table whose answers get lost ---------------------------------------------------------------


@dataclass
class LossyTable:
    """Stands before the table service: passes everything on, and loses answers that a test names.

    Attributes:
        lose: to which writes the answer is lost, by path and body, each of them once: the write
            was done, and whoever asked for it does not learn so.
        written: path and body of all writes that were done.
    """

    table_url: str
    http: aiohttp.ClientSession
    lose: list[Callable[[str], bool]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        answer = await _pass_on(self.http, request, f"{self.table_url}{request.raw_path}", body)
        if request.method == "GET" or answer.status >= 300:
            return answer
        # The row's key stands in the path of a single write, and in the body of others.
        text = f"{unquote(request.raw_path)} {body.decode()}"
        self.written.append(text)
        for number, is_meant in enumerate(self.lose):
            if is_meant(text):
                del self.lose[number]
                return cut_connection(request)
        return answer


@contextlib.asynccontextmanager
async def losing_answers(connection_string: str) -> AsyncGenerator[tuple[str, LossyTable]]:
    """A connection string whose table endpoint is a LossyTable before the real one."""
    found = re.search(r"TableEndpoint=(http://[^/;]+)", connection_string)
    assert found is not None
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        table = LossyTable(found[1], http)
        async with running_application(_application(table.handle)) as url:
            yield connection_string.replace(found[1], url), table


def _application(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("*", "/{path:.*}", handle)
    return application


# --- the desk -------------------------------------------------------------------------------------


@dataclass
class Desk:
    """A world with parcels to send."""

    world: World
    graph: Graph
    clock: MovedClock
    provider: Provider

    @property
    def app(self) -> App:
        return self.world.app

    async def plan(
        self, everybody: list[Someone] | int = 16, *, at: datetime = EARLY, **edits: str
    ) -> list[Parcel]:
        """Plan these people (or so many) before the window opens, then let it open."""
        everybody = people(everybody) if isinstance(everybody, int) else everybody
        self.graph.groups[GROUP] = everybody
        self.move_clock(at)
        await self.world.write_campaign(campaign_text(**edits))
        await self.world.sweep()
        assert await self.waiting() == 0
        self.move_clock(FORTNIGHT)
        return await self.parcels()

    def move_clock(self, to: datetime) -> None:
        """Pretend that it is `to` now; storage time goes on."""
        self.world.move_clock(to - self.clock.ahead)

    async def parcels(self, *states: State) -> list[Parcel]:
        """All parcels, or those in these states."""
        found = await self.world.parcels()
        return [parcel for parcel in found if not states or parcel.state in states]

    async def parcel(self) -> Parcel:
        """The only one."""
        (parcel,) = await self.parcels()
        return parcel

    async def row(self, message: HandOut) -> Parcel:
        """The row of a message."""
        parcel = await self.app.stores.ledger.read(message.campaign, message.shard, message.key)
        assert parcel is not None
        return parcel

    async def unreached(self) -> dict[int, str]:
        """Who was due and was not reached, by number, with the reason."""
        sweep = await self.app.stores.sweeps.read_committed()
        assert sweep is not None
        standing = (await self.app.book.read()).standings[NAME]
        unreached = await self.app.status.list_unreached(standing, sweep)
        return {int(person.hex()[1:8], 16): why for person, why in sorted(unreached.items())}

    async def release(self, app: App | None = None) -> None:
        """The minute timer; what it hands out stays on the queue."""
        await (app or self.app).releases.release_all()

    async def take(self) -> list[HandOut]:
        """Take what was handed out off the queue."""
        taken: list[HandOut] = []
        for name in (NAMES.queues.email, NAMES.queues.sms):
            queue = self.app.account.queue(name)
            while batch := [message async for message in queue.receive_messages(max_messages=32)]:
                for message in batch:
                    taken.append(decode_message(message.content, HandOut))
                    await queue.delete_message(message)
        return taken

    async def waiting(self) -> int:
        """How many messages are on the sending queue."""
        queue = self.app.account.queue(NAMES.queues.email)
        return (await queue.get_queue_properties()).approximate_message_count or 0

    async def hand_out(self) -> HandOut:
        """Release, and take the only message."""
        await self.release()
        (message,) = await self.take()
        return message

    async def send(self, *messages: HandOut) -> None:
        """Send these, side by side."""
        async with asyncio.TaskGroup() as group:
            for message in messages:
                group.create_task(self.app.dispatch.send(message))

    async def report(self, parcel: Parcel, **receipts: Sequence[Any]) -> None:
        """Receipts of a parcel: `delivered`, `bounced`, `opted_out` as in ParcelReceipts. Without
        any they only prove that it was accepted."""
        told = {name: tuple(value) for name, value in receipts.items()}
        one = ParcelReceipts(parcel.key, (parcel.attempt,), **told)
        message = ShardReceipts(parcel.campaign, parcel.shard, parcel.channel, (one,))
        await self.app.receipts.settle(message)

    async def send_due(self) -> None:
        """Release, and send what was handed out."""
        await self.release()
        await self.send(*await self.take())

    def second_app(self) -> App:
        """A second process over the same storage, with the same clock."""
        return self.world.keep(build_app(read_settings(self.world.environment), self.clock))


@contextlib.asynccontextmanager
async def running_desk(
    connection_string: str, directory: Path, *, ages: Ages = AGES, **settings: str
) -> AsyncGenerator[Desk]:
    """A desk over one storage account."""
    clock = MovedClock(directory / "clock.json", ages)
    graph = Graph({GROUP: []})
    settings.setdefault("AzureWebJobsStorage", connection_string)
    async with (
        watched_inbox(connection_string, clock, directory) as (url, provider),
        running_with(
            graph,
            connection_string,
            directory,
            clock=clock,
            SENDGRID_BASE_URL=url,
            TWILIO_BASE_URL=url,
            TWILIO_ACCOUNT_SID=f"AC{0:032x}",
            TWILIO_AUTH_TOKEN="test",
            TWILIO_FROM="HKU",
            **settings,
        ) as world,
    ):
        yield Desk(world, graph, clock, provider)


@contextlib.asynccontextmanager
async def watched_inbox(
    connection_string: str, clock: Clock, directory: Path
) -> AsyncGenerator[tuple[str, Provider]]:
    """An inbox with a Provider before it, that has a connection to storage of its own."""
    account = StorageAccount(StorageSettings(connection_string=connection_string), clock)
    options = inbox.Options(clock_file=directory / "clock.json")
    async with inbox.running_inbox(options) as inbox_url, aiohttp.ClientSession() as http:
        provider = Provider(inbox_url, Stores.over(account, clock), http)
        async with running_application(_application(provider.handle)) as url:
            yield url, provider
    await account.close()


def campaign_text(
    *,
    mode: str = "live",
    parcel_size: int = 500,
    sending: str = "",
    sms: bool = False,
    **edits: str,
) -> str:
    """The example in live mode, with other values for some of its keys; `per_hour` limits the
    rate. Every other keyword names a key whose line gets another value.

    Args:
        sending: more lines of that part of the file, such as `max_per_day: {email: 10}`.
        sms: whether its touches go out by SMS, too.
    """
    text = EXAMPLE.read_text().replace("mode: dry-run", f"mode: {mode}")
    text += "".join(f"  {line}\n" for line in sending.splitlines())
    if sms:
        text = text.replace("channels: [email]}", "channels: [email, sms]}")
        text = text.replace("# look_for:", "look_for:").replace("# short_name:", "short_name:")
    text = text.replace("parcel_size: 500", f"parcel_size: {parcel_size}")
    if per_hour := edits.pop("per_hour", ""):
        text = text.replace(
            "# max_per_hour: {email: 20000}", f"max_per_hour: {{email: {per_hour}}}"
        )
    for key, value in edits.items():
        text, count = re.subn(rf"(?m)^( *){key}: .*$", rf"\g<1>{key}: {value}", text)
        assert count == 1, f"the example has {count} lines `{key}`"
    return text


def in_one_shard(count: int, **traits: Any) -> list[Someone]:
    """So many accounts that share a shard, the first one."""
    return [Someone(number=16 * number, **traits) for number in range(count)]


def alarms_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names of the alarms that were raised, in order."""
    texts = [record.getMessage() for record in caplog.records if record.name == "mfa_nudge"]
    return [text.split(" ")[1] for text in texts if text.startswith("ALARM ")]


async def change(desk: Desk, parcel: Parcel, **changes: Any) -> Parcel:
    """Write a row as if the product had got it there."""
    assert parcel.campaign == NAME
    return await desk.app.stores.ledger.change(parcel, **changes)
