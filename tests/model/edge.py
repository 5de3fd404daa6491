"""What stands between one worker and the world: each step that it takes outside of itself waits
here until it is said what becomes of it.

A step is a write of storage, a look at a shard that the model plans, or a call of the provider.
Everything else passes. Nothing inside of the product knows of it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal
from urllib.parse import unquote

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from local.serving import cut_connection, running_application
from shared.names import NAMES

_QUEUES = frozenset(msgspec.structs.astuple(NAMES.queues))
_TABLES = frozenset(msgspec.structs.astuple(NAMES.tables)) | {"$batch"}
_TEXT = re.compile(rb"<MessageText>(.*?)</MessageText>", re.DOTALL)
_PARTITION = re.compile(r"PartitionKey(?: eq |=)'([^']*:[0-9a-f])'")
_NOT_KEPT = frozenset({"host", "content-length", "transfer-encoding", "connection", "keep-alive"})


class Fate(StrEnum):
    """What becomes of a step."""

    PASSES = "passes"
    LOST = "is carried out, and its answer is lost"
    KILLED_BEFORE = "is not carried out: its worker is killed"
    KILLED_AFTER = "is carried out, and its worker is killed"
    HELD = "waits"


class Reply(StrEnum):
    """How the provider takes a call."""

    ACCEPTED = "202"
    RESET = "accepted, the connection reset"
    BROKEN = "accepted, 500"
    FAILED = "not accepted, 500"
    THROTTLED = "429"
    NAMING = "400 that names the first recipient"
    NAMELESS = "400 that names nobody"
    UNAVAILABLE = "503 of its own"

    @property
    def accepts(self) -> bool:
        return self in (Reply.ACCEPTED, Reply.RESET, Reply.BROKEN)

    @property
    def refuses(self) -> bool:
        """Whether it proves to the worker that nothing was taken."""
        return self in (Reply.THROTTLED, Reply.NAMING, Reply.NAMELESS, Reply.UNAVAILABLE)


@dataclass(eq=False)
class Step:
    """A request that waits.

    Attributes:
        kind: a look, a write, or the call of the provider.
        loses: whether its answer can be lost without the caller's waiting for seconds.
    """

    kind: Literal["look", "write", "call"]
    loses: bool = False
    fate: asyncio.Future[tuple[Fate, Reply]] = field(default_factory=asyncio.Future)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def let(self, fate: Fate, reply: Reply = Reply.ACCEPTED) -> None:
        """Say what becomes of it, and wait until it has."""
        self.fate.set_result((fate, reply))
        await self.over.wait()


@dataclass(eq=False)
class Edge:
    """One worker's edge.

    Attributes:
        services: where blobs, queues and tables are.
        watched: partitions of the ledger at which a look is a step, too.
        remembered: answers to looks at the others, in which nothing changes by itself.
        come: told of each call of the provider as it comes; gives what the provider answers, given
            a reply.
        put: told of each message that was put on a queue.
        steps: those that wait, in the order in which they came.
        dead: whether the worker was killed: nothing of it gets through any more.
    """

    services: dict[str, str]
    http: aiohttp.ClientSession
    watched: frozenset[str]
    remembered: dict[str, web.Response]
    come: Callable[[bytes], Awaitable[Callable[[Reply], web.Response | None]]]
    put: Callable[[str, bytes], None]
    url: str = ""
    steps: deque[Step] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    dead: bool = False
    _under_way: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self._under_way += 1
        try:
            if self.dead:
                return cut_connection(request)
            if request.path == "/v3/mail/send":
                return await self._call(request, body)
            name, reads = _name_in(request), request.method in ("GET", "HEAD")
            partition = _PARTITION.search(unquote(request.raw_path))
            if reads and name in _TABLES and partition and partition[1] not in self.watched:
                return await self._remember(request)
            step = _step_of(name, reads=reads, looks=reads and name in _TABLES and bool(partition))
            return await (self._wait(request, body, step) if step else self._pass(request, body))
        finally:
            self._under_way -= 1

    async def _remember(self, request: web.Request) -> web.Response:
        known = self.remembered.get(request.raw_path)
        if known is None:
            known = self.remembered[request.raw_path] = await self._pass(request, b"")
        return web.Response(status=known.status, headers=known.headers, body=known.body)

    async def _call(self, request: web.Request, body: bytes) -> web.StreamResponse:
        answer = await self.come(body)
        step = Step("call", loses=True)
        try:
            fate, reply = await self._queue(step)
            if fate is Fate.KILLED_BEFORE:
                self.dead = True
                return cut_connection(request)
            if fate is Fate.LOST and reply.accepts:
                reply = Reply.RESET
            response = answer(reply)
            if fate is Fate.KILLED_AFTER:
                self.dead = True
                return cut_connection(request)
            return response or cut_connection(request)
        finally:
            step.over.set()

    async def _wait(self, request: web.Request, body: bytes, step: Step) -> web.StreamResponse:
        try:
            fate, _ = await self._queue(step)
            if fate is Fate.KILLED_BEFORE:
                self.dead = True
                return cut_connection(request)
            response = await self._pass(request, body)
            if fate is Fate.KILLED_AFTER:
                self.dead = True
                return cut_connection(request)
            if fate is Fate.LOST and step.loses and response.status < 300:
                return cut_connection(request)
            return response
        finally:
            step.over.set()

    async def _queue(self, step: Step) -> tuple[Fate, Reply]:
        self.steps.append(step)
        self.arrived.set()
        return await step.fate

    async def _pass(self, request: web.Request, body: bytes) -> web.Response:
        """Carry it out, and give the service's answer."""
        name = _name_in(request)
        service = "Table" if name in _TABLES else "Queue" if name in _QUEUES else "Blob"
        # Letter by letter, and no header more than there were: storage has them signed.
        async with self.http.request(
            request.method,
            URL(f"{self.services[service]}{request.raw_path}", encoded=True),
            headers=_kept(request.headers),
            data=body or None,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            response = web.Response(
                status=answer.status, headers=_kept(answer.headers), body=await answer.read()
            )
        if service == "Queue" and response.status == 201 and (text := _TEXT.search(body)):
            self.put(name, base64.b64decode(html.unescape(text[1].decode())))
        return response

    async def drain(self) -> None:
        """End whatever a worker that was killed has left here."""
        for step in self.steps:
            step.fate.set_result((Fate.KILLED_BEFORE, Reply.ACCEPTED))
        self.steps.clear()
        while self._under_way:
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running_edge(edge: Edge) -> AsyncGenerator[Edge]:
    """Serves the edge's address for the length of the block."""
    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("*", "/{path:.*}", edge.handle)
    async with running_application(application) as edge.url:
        yield edge


def through(edge: Edge, connection_string: str) -> str:
    """The connection string of the same account, reached by way of the edge."""
    return re.sub(
        r"(Blob|Queue|Table)Endpoint=http://[^/;]+",
        lambda found: f"{found[1]}Endpoint={edge.url}",
        connection_string,
    )


def services_of(connection_string: str) -> dict[str, str]:
    """The addresses of blobs, queues and tables, without a path."""
    return dict(re.findall(r"(Blob|Queue|Table)Endpoint=(http://[^/;]+)", connection_string))


def _step_of(name: str, *, reads: bool, looks: bool) -> Step | None:
    if reads:
        return Step("look") if looks else None
    # After a lost answer of blobs or queues the SDK would wait for seconds.
    return Step("write", loses=name in _TABLES)


def _name_in(request: web.Request) -> str:
    """Which table, queue or container is meant: what follows the account's name."""
    return re.split(r"[/(?]", request.path.lstrip("/"))[1]


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_KEPT}
