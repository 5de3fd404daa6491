"""A directory that a test writes out by hand: who is in which list, in pages as small as it likes,
and what goes wrong at which request.

local/tenant.py is like Graph in everything that a client can notice; this one can be told to do
what no Graph does twice in the same way, such as people who move while their list is being read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from functions.wiring import App
from local.serving import running_application
from shared.clock import monotonic
from shared.rules.registration import Account
from shared.workflows.sweep import ReportPace, SweepWorkflow
from tests.world import EXAMPLE, FORTNIGHT, World, running_world

GROUP = "00000000-0000-0000-0000-000000000000"
"""The example's audience."""


@dataclass(frozen=True, kw_only=True)
class Someone:
    """An account. `registered` None: the report has no row of it."""

    number: int
    registered: bool | None = False
    capable: bool | None = None
    methods: tuple[str, ...] = ()
    address: str | None = ""
    mail: str | None = None
    mobile: str | None = None
    enabled: bool = True
    user_type: str = "Member"
    name: str | None = None
    language: str | None = None

    @property
    def id(self) -> str:
        """Accounts 0 to 15 are in shards 0 to f, and so on."""
        return f"{self.number % 16:x}{self.number:07x}-0000-4000-8000-000000000000"

    @property
    def id16(self) -> bytes:
        return bytes.fromhex(self.id.replace("-", ""))

    def user(self) -> dict[str, object]:
        """The account as a roster shows it; `address` "" stands for one of their own."""
        own = f"person.{self.number}@example.org"
        others = [] if self.address is None else [self.address or own]
        return {
            "id": self.id,
            "userPrincipalName": f"u{self.number}@connect.example.edu",
            "displayName": f"Person {self.number}" if self.name is None else self.name,
            "accountEnabled": self.enabled,
            "userType": self.user_type,
            "mail": self.mail,
            "otherMails": others,
            "mobilePhone": self.mobile,
            "preferredLanguage": self.language,
        }

    def report(self) -> dict[str, object]:
        """The account's row of the registration report."""
        return {
            "id": self.id,
            "isMfaRegistered": self.registered,
            "isMfaCapable": self.registered if self.capable is None else self.capable,
            "methodsRegistered": self.methods or (("fido2",) if self.registered else ()),
        }


def people(count: int, start: int = 0, **traits: object) -> list[Someone]:
    """So many accounts, all of a kind."""
    return [Someone(number=start + number, **traits) for number in range(count)]  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a request gets in place of its page. `change` spoils the page in place of a body."""

    status: int = 200
    body: str | bytes = ""
    retry_after: str | None = None
    content_type: str = "application/json"
    change: Callable[[dict[str, object]], None] | None = None
    cut: bool = False
    delay: float = 0


def error(status: int, code: str, **more: object) -> Answer:
    """An error as Graph words it."""
    body = msgspec.json.encode({"error": {"code": code, "message": "Not this time."}})
    return Answer(status=status, body=body, **more)  # type: ignore[arg-type]


EXPIRED = error(400, "DirectoryPageTokenNotFoundException")


@dataclass(frozen=True)
class Request:
    """One request: which list (`registrations` or a group), from which row on, and when."""

    source: str
    position: int
    came_at: float
    answered_at: float


@dataclass
class Graph:
    """Lists of people, by group; the report tells of all of them.

    Attributes:
        page_size: rows of an answer, given how many the list has answered before.
        faults: by list, for its next requests in order; None is an answer as it should be.
        before: called before each answer, for what happens while a list is read.
    """

    groups: dict[str, list[Someone]]
    page_size: Callable[[int], int] = lambda _: 1000
    faults: dict[str, list[Answer | None]] = field(default_factory=dict)
    before: Callable[[str, int], None] = lambda source, position: None
    requests: list[Request] = field(default_factory=list)

    def change(self, wanted: Iterable[int], **traits: object) -> None:
        """Give these accounts other traits, in every list."""
        numbers = set(wanted)
        for group, members in self.groups.items():
            self.groups[group] = [
                replace(one, **traits) if one.number in numbers else one for one in members
            ]

    def asked(self, source: str) -> list[Request]:
        return [request for request in self.requests if request.source == source]

    def application(self) -> web.Application:
        application = web.Application()
        report = "/v1.0/reports/authenticationMethods/userRegistrationDetails"
        members = "/v1.0/groups/{group}/transitiveMembers/microsoft.graph.user"
        application.add_routes([web.get(report, self._answer), web.get(members, self._answer)])
        return application

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        came_at = monotonic()
        source = request.match_info.get("group", "registrations")
        position = int(request.query.get("$skiptoken", "0"))
        self.before(source, position)
        faults = self.faults.get(source, [])
        fault = faults.pop(0) if faults else None
        try:
            return await self._respond(request, source, position, fault)
        finally:
            self.requests.append(Request(source, position, came_at, monotonic()))

    async def _respond(
        self, request: web.Request, source: str, position: int, fault: Answer | None
    ) -> web.StreamResponse:
        size = self.page_size(len(self.asked(source)))
        if fault:
            await asyncio.sleep(fault.delay)
        if fault and fault.cut:
            assert request.transport is not None
            request.transport.abort()
        if fault and not fault.change and (fault.body or fault.status != 200):
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else None
            body = fault.body.encode() if isinstance(fault.body, str) else fault.body
            return web.Response(
                body=body, status=fault.status, content_type=fault.content_type, headers=headers
            )
        rows = self._rows(source)
        if rows is None:
            denied = error(404, "Request_ResourceNotFound")
            return web.Response(body=denied.body, status=404, content_type="application/json")
        page: dict[str, object] = {"value": rows[position : position + size]}
        if position + size < len(rows):
            query = urlencode({**request.query, "$skiptoken": position + size})
            page["@odata.nextLink"] = f"http://{request.host}{request.path}?{query}"
        if fault and fault.change:
            fault.change(page)
        return web.Response(body=msgspec.json.encode(page), content_type="application/json")

    def _rows(self, source: str) -> list[dict[str, object]] | None:
        if source == "registrations":
            everybody = {one.id: one for members in self.groups.values() for one in members}
            return [one.report() for one in everybody.values() if one.registered is not None]
        members = self.groups.get(source)
        return None if members is None else [one.user() for one in members]


@contextlib.asynccontextmanager
async def running_with(
    graph: Graph,
    connection_string: str,
    directory: Path,
    *,
    at: datetime = FORTNIGHT,
    paced: bool = False,
    **settings: str,
) -> AsyncGenerator[World]:
    """A world whose directory is this one, asked as fast as it answers unless `paced`."""
    async with (
        running_application(graph.application()) as url,
        running_world(
            connection_string, directory, at=at, GRAPH_BASE_URL=f"{url}/v1.0", **settings
        ) as world,
    ):
        if not paced:
            world.app = unpaced(world.app)
        yield world


def unpaced(app: App) -> App:
    """The app, asking for the report as fast as it can."""
    pace = ReportPace(5, seconds=0)
    sweeps = SweepWorkflow(app.stores, app.book, app.directory, app.clock, pace=pace)
    return replace(app, sweeps=sweeps)


def example(*changes: tuple[str, str], mode: str = "live") -> str:
    """The example's campaign file with changes."""
    text = EXAMPLE.read_text().replace("mode: dry-run", f"mode: {mode}")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def ids_of(accounts: Iterable[Account]) -> list[str]:
    """Object ids as people write them, in order."""
    return [
        f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        for text in (account.id.hex() for account in accounts)
    ]
