"""What the institution's systems tell us: item by item, once, and only what is stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from functions.wiring import App
from local.roster import Person as Account
from local.serving import running_application
from local.tenant import Options, roster_of
from shared.errors import NotRecorded
from shared.names import NAMES
from shared.services.directory import Directory
from shared.stores.people import Person
from shared.stores.table import Table
from shared.workflows.completion_batch import (
    BatchAnswer,
    CompletionBatchWorkflow,
    Item,
    ItemAnswer,
    UnreadableItem,
    read_item,
)
from tests.sending import alarms_of
from tests.world import EXAMPLE, FORTNIGHT, NAME, World, running_world

PEOPLE = Options(alumni=400, others=100, throttled=False)
ROSTER = roster_of(PEOPLE)
EVERYBODY = [ROSTER.person(index) for index in range(len(ROSTER))]
YESTERDAY = (FORTNIGHT - timedelta(days=1)).isoformat()

type Json = dict[str, Any]


def find(wanted: Callable[[Account], bool]) -> Account:
    return next(filter(wanted, EVERYBODY))


ADA = find(lambda one: one.before.methods == () and one.reported and one.registers_at > 2e9)
BEN = find(lambda one: one is not ADA and one.before.methods == () and one.registers_at > 2e9)
DONE = find(lambda one: one.registers_at < 0 and one.after.registered and one.reported)
FORBIDDEN = find(lambda one: one.registers_at < 0 and not one.after.capable and one.reported)
NEW_KIND = find(
    lambda one: one.before.methods == ("methodOfALaterYear",) and one.registers_at > 2e9
)
NO_ROW = find(lambda one: not one.reported)
GUEST = find(lambda one: "#EXT#" in one.user_principal_name)


def item(account: Account | None = ADA, **fields: object) -> Json:
    """An item about somebody; a field that is `...` is left out."""
    told = {
        "user_id": ... if account is None else account.id,
        "completed_at": YESTERDAY,
        "source": "card-office",
        "event_id": "event-1",
        **fields,
    }
    return {name: value for name, value in told.items() if value is not ...}


def by_name(account: Account, **fields: object) -> Json:
    return item(None, user_principal_name=account.user_principal_name, **fields)


def encoded(items: tuple[Json | bytes, ...]) -> list[bytes]:
    return [one if isinstance(one, bytes) else msgspec.json.encode(one) for one in items]


@dataclass(frozen=True)
class Desk:
    """A world with a campaign in force."""

    world: World

    @property
    def app(self) -> App:
        return self.world.app

    async def tell(self, *items: Json | bytes, app: App | None = None) -> BatchAnswer:
        return await (app or self.app).completion_batch.record(encoded(items))

    async def told(self, *items: Json | bytes) -> list[ItemAnswer]:
        return (await self.tell(*items)).items

    async def known(self) -> dict[bytes, Person]:
        """All of whom the ledger remembers something."""
        shards = [await self.app.stores.people.read_shard(NAME, one) for one in range(16)]
        return {who: person for shard in shards for who, person in shard.items()}

    async def evidence(self) -> dict[str, str]:
        """By object id, what the ledger has it from that somebody has registered."""
        return {
            str(uuid.UUID(bytes=who)): person.evidence
            for who, person in (await self.known()).items()
            if person.confirmed_at
        }

    async def events(self) -> int:
        table = Table(self.app.account.table(NAMES.tables.ledger))
        return len([row async for row in table.scan("events")])

    async def register(self, account: Account) -> None:
        base = self.world.graph_url.removesuffix("/v1.0")
        async with self.world.http.post(f"{base}/people/{account.id}/register") as answer:
            assert answer.status == 204

    async def change_campaign(self, old: str, new: str) -> None:
        text = EXAMPLE.read_text()
        assert old in text
        await self.world.write_campaign(text.replace(old, new))
        await self.app.book.refresh(accept=True)


@contextlib.asynccontextmanager
async def running_desk(
    connection_string: str, directory: Path, **settings: str
) -> AsyncGenerator[Desk]:
    async with running_world(connection_string, directory, people=PEOPLE, **settings) as world:
        await world.write_campaign()
        await world.app.book.refresh(accept=True)
        yield Desk(world)


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


def statuses(answers: list[ItemAnswer]) -> list[str]:
    return [answer.status for answer in answers]


# --- what is recorded


@pytest.mark.invariant(4)
async def test_somebody_told_of_by_id_or_by_name_is_recorded(desk: Desk) -> None:
    answer = await desk.tell(
        item(ADA),
        by_name(BEN, event_id="event-2", source="SIS: cards/2"),
        by_name(GUEST, event_id="event-3", verify=False),
        item(NO_ROW, user_id=NO_ROW.id.upper(), event_id="event-4"),
    )
    assert answer == BatchAnswer(
        [ItemAnswer(n, "recorded", f"event-{n + 1}") for n in range(4)], None
    )
    assert await desk.evidence() == {
        ADA.id: "callback: card-office",
        BEN.id: "callback: SIS: cards/2",
        GUEST.id: "callback: card-office",
        NO_ROW.id: "callback: card-office",
    }
    assert await desk.events() == 4


@pytest.mark.invariant(4)
async def test_it_is_written_into_every_campaign_in_force(desk: Desk) -> None:
    other = EXAMPLE.read_text().replace(NAME, "staff-2027")
    await desk.world.write_campaign(other, file="staff.yaml")
    await desk.app.book.refresh(accept=True)
    await desk.tell(item(ADA))
    shard = int(ADA.id[0], 16)
    for campaign in (NAME, "staff-2027"):
        people = await desk.app.stores.people.read_shard(campaign, shard)
        assert people.keys() == {uuid.UUID(ADA.id).bytes}


async def test_where_no_campaign_is_in_force_nothing_is_said_to_be_recorded(
    connection_string: str, tmp_path: Path
) -> None:
    async with running_world(connection_string, tmp_path, people=PEOPLE) as world:
        desk = Desk(world)
        (answer,) = await desk.told(item(ADA))
        assert (answer.status, "No campaign" in answer.detail) == ("retry", True)
        assert await desk.events() == 0
        await world.write_campaign()
        await world.app.book.refresh(accept=True)
        assert statuses(await desk.told(item(ADA))) == ["recorded"]


async def test_the_same_person_may_be_told_of_by_many_events_of_one_body(desk: Desk) -> None:
    answers = await desk.told(
        item(ADA), by_name(ADA, event_id="event-2"), item(ADA, event_id="event-3", source="sis")
    )
    assert statuses(answers) == ["recorded"] * 3
    assert (await desk.evidence()).keys() == {ADA.id}
    assert await desk.events() == 3


# --- what is rejected, and costs no other item anything

LONG = "x" * 200
BAD: dict[str, tuple[Json | bytes, list[str]]] = {
    "no object": (b"5", ["JSON object"]),
    "null": (b"null", ["JSON object"]),
    "an array": (b"[]", ["JSON object"]),
    "text": (b'"item"', ["JSON object"]),
    "nothing": (b"{}", ["completed_at", "source", "event_id", "one of user_id"]),
    "no UTF-8": (b'{"event_id": "\xff\xfe"}', ["event_id must"]),
    "a key that is no UTF-8": (b'{"\xff": 1}', ["JSON object"]),
    "deep": (b'{"source": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", ["JSON object"]),
    "an unknown field": (item(extra=1), ["unknown field", "verify"]),
    "a field in another case": (item(Verify=True), ["unknown field"]),
    "both": (item(ADA, user_principal_name=BEN.user_principal_name), ["one of user_id"]),
    "neither": (item(None), ["one of user_id"]),
    "no GUID": (item(None, user_id="u3012345"), ["user_id must", "GUID"]),
    "a GUID in braces": (item(None, user_id=f"{{{ADA.id}}}"), ["user_id must"]),
    "half a GUID": (item(None, user_id=ADA.id[:-2]), ["user_id must"]),
    "a number for an id": (item(None, user_id=5), ["user_id must"]),
    "null for an id": (item(None, user_id=None), ["user_id must"]),
    "null beside a name": (by_name(ADA, user_id=None), ["user_id must", "one of user_id"]),
    "no name": (item(None, user_principal_name="pat"), ["user_principal_name must"]),
    "a name in two lines": (item(None, user_principal_name="p@x\n"), ["user_principal_name must"]),
    "a name with a space": (item(None, user_principal_name="p t@x"), ["user_principal_name must"]),
    "two names": (item(None, user_principal_name="pat@x@y"), ["user_principal_name must"]),
    "a long name": (item(None, user_principal_name=f"{LONG}@x"), ["user_principal_name must"]),
    "no time": (item(completed_at=...), ["completed_at is missing"]),
    "no offset": (item(completed_at="2027-03-16T10:00:00"), ["completed_at must", "offset"]),
    "a day": (item(completed_at="2027-03-16"), ["completed_at must"]),
    "a number for a time": (item(completed_at=1_800_000_000), ["completed_at must"]),
    "no such day": (item(completed_at="2027-02-30T10:00:00Z"), ["completed_at must"]),
    "the future": (item(completed_at="2027-03-18T10:00:00+08:00"), ["future"]),
    "the far future": (item(completed_at="9999-12-31T23:59:59-12:00"), ["future"]),
    "no source": (item(source=...), ["source is missing"]),
    "an empty source": (item(source=""), ["source must"]),
    "a long source": (item(source="x" * 65), ["source must"]),
    "an address for a source": (item(source="pat@example.org"), ["source must"]),
    "a source in two lines": (item(source="sis\n"), ["source must"]),
    "a formula for a source": (item(source="=cmd"), ["source must"]),
    "HTML for a source": (item(source="<b>"), ["source must"]),
    "a list of sources": (item(source=["sis"]), ["source must"]),
    "no event id": (item(event_id=...), ["event_id is missing"]),
    "an empty event id": (item(event_id=""), ["event_id must"]),
    "a long event id": (item(event_id="x" * 129), ["event_id must"]),
    "a number for an event id": (item(event_id=7), ["event_id must"]),
    "verify in words": (item(verify="true"), ["verify must"]),
    "verify null": (item(verify=None), ["verify must"]),
}  # fmt: skip


LATEST = FORTNIGHT + timedelta(minutes=5)
UNKNOWN = {
    "id": item(None, user_id=str(uuid.UUID(int=5)), event_id="an id"),
    "name": item(None, user_principal_name="nobody@example.edu", event_id="a name"),
    "a name that begins with $": item(None, user_principal_name="$a'b@x", event_id="$"),
}


@pytest.mark.parametrize(("bad", "words"), BAD.values(), ids=BAD)
def test_an_item_that_says_nothing_is_told_what_to_change(
    bad: Json | bytes, words: list[str]
) -> None:
    with pytest.raises(UnreadableItem) as caught:
        read_item(*encoded((bad,)), LATEST)
    for word in words:
        assert word in str(caught.value)
    given_id = bad.get("event_id") if isinstance(bad, dict) else None
    readable = isinstance(given_id, str) and 1 <= len(given_id) <= 128
    assert caught.value.event_id == (given_id if readable else "")


async def test_bad_items_cost_the_good_ones_nothing(desk: Desk) -> None:
    bad = [*(one for one, _ in BAD.values()), *UNKNOWN.values()]
    good = [item(one, event_id=one.id) for one in EVERYBODY[: len(bad)]]
    answers = await desk.told(*(one for pair in zip(good, bad, strict=True) for one in pair))
    assert statuses(answers) == ["recorded", "rejected"] * len(bad)
    assert [answer.index for answer in answers] == list(range(2 * len(bad)))
    assert all(answer.detail for answer in answers[1::2])
    assert {one.detail for one in answers[-2 * len(UNKNOWN) + 1 :: 2]} == {
        "The directory has no such account."
    }
    assert (await desk.evidence()).keys() == {one.id for one in EVERYBODY[: len(bad)]}
    assert await desk.events() == len(bad)


async def test_a_clock_may_be_five_minutes_ahead(desk: Desk) -> None:
    seconds = {-60: "recorded", 290: "recorded", 330: "rejected", -3e9: "recorded"}
    times = [FORTNIGHT + timedelta(seconds=ahead) for ahead in seconds]
    answers = await desk.told(
        *(item(completed_at=at.isoformat(), event_id=at.isoformat()) for at in times),
        item(completed_at="0001-01-01T00:00:00+14:00"),
    )
    assert statuses(answers) == [*seconds.values(), "recorded"]


@pytest.mark.invariant(6)
async def test_neither_answer_nor_log_nor_ledger_repeats_who_was_meant(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mfa_nudge")
    name = "pat.example+1@connect.example.edu"
    await desk.world.fault("tenant", user=[{"status": 403, "after": 2}])
    answers = await desk.told(
        item(None, user_principal_name=name),
        item(None, user_principal_name=f"{name}\n", event_id="pat"),
        by_name(BEN, **{name: 1}),
        b'{"%s": 1}' % name.encode(),
        by_name(BEN, event_id=f"registered-{BEN.user_principal_name}"),
        by_name(ADA),
    )
    details = "".join(answer.detail for answer in answers)
    table = desk.app.account.table(NAMES.tables.ledger)
    rows = str([dict(row) async for row in table.list_entities()])
    for one in ("pat", ADA.user_principal_name, BEN.user_principal_name):
        assert one not in details
        assert one not in caplog.text
        assert one not in rows
    assert "registered-" not in rows
    assert "completions" in caplog.text


# --- what was told before


async def test_an_event_that_is_told_again_is_a_duplicate(desk: Desk) -> None:
    assert statuses(await desk.told(item(ADA))) == ["recorded"]
    before = await desk.known()
    desk.world.move_clock(FORTNIGHT + timedelta(days=5))
    at_another_offset = datetime.fromisoformat(YESTERDAY).astimezone(UTC).isoformat()
    for again in (
        item(ADA),
        item(ADA, user_id=ADA.id.upper()),
        item(ADA, completed_at=at_another_offset),
        item(ADA, verify=True),
    ):
        assert await desk.told(again) == [ItemAnswer(0, "duplicate", "event-1")]
    assert await desk.known() == before
    # A duplicate is known without Graph.
    await desk.world.fault("tenant", user=[{"status": 503, "times": None}])
    assert statuses(await desk.told(item(ADA))) == ["duplicate"]


@pytest.mark.parametrize(
    "other", [item(BEN), item(ADA, completed_at=FORTNIGHT.isoformat()), by_name(BEN)]
)
async def test_an_event_id_that_says_something_else_is_rejected(desk: Desk, other: Json) -> None:
    await desk.told(item(ADA))
    (answer,) = await desk.told(other)
    assert answer.status == "rejected"
    assert "id of its own" in answer.detail
    assert (await desk.evidence()).keys() == {ADA.id}


async def test_event_ids_are_each_sources_own(desk: Desk) -> None:
    answers = await desk.told(
        item(ADA, source="a", event_id="b c"), item(BEN, source="a b", event_id="c"), item(DONE)
    )
    assert statuses(answers) == ["recorded"] * 3
    assert await desk.events() == 3


async def test_an_event_may_come_twice_in_one_body(desk: Desk) -> None:
    answers = await desk.told(item(ADA), item(ADA), item(BEN), item(ADA))
    assert statuses(answers) == ["recorded", "duplicate", "rejected", "duplicate"]
    assert "earlier item" in answers[2].detail
    answers = await desk.told(item(ADA), item(ADA), item(BEN))
    assert statuses(answers) == ["duplicate", "duplicate", "rejected"]
    unknown = item(None, user_id=str(uuid.UUID(int=5)), event_id="event-2")
    answers = await desk.told(unknown, unknown)
    assert statuses(answers) == ["rejected"] * 2
    assert answers[0].detail == answers[1].detail
    # Nothing was recorded under that id: it is free.
    assert statuses(await desk.told(item(BEN, event_id="event-2"))) == ["recorded"]


# --- verify


async def test_who_is_verified_by_methods_is_recorded_and_who_is_not_is_not(desk: Desk) -> None:
    items = [
        item(DONE, event_id="1", verify=True),
        item(ADA, event_id="2", verify=True),
        item(NEW_KIND, event_id="3", verify=True),
        item(BEN, event_id="4"),
    ]
    answers = await desk.told(*items)
    assert statuses(answers) == ["recorded", "rejected", "rejected", "recorded"]
    assert "no method" in answers[1].detail
    assert "types" in answers[2].detail
    assert await desk.evidence() == {
        DONE.id: "callback: card-office, verified by methods",
        BEN.id: "callback: card-office",
    }
    await desk.register(ADA)
    assert statuses(await desk.told(items[1])) == ["recorded"]


@pytest.mark.parametrize("how", ["GRAPH_CONFIRM", "done_when"])
async def test_who_is_verified_by_the_report(
    connection_string: str, tmp_path: Path, how: str
) -> None:
    """It is asked where GRAPH_CONFIRM says so, and where a campaign wants people to be capable."""
    settings = {"GRAPH_CONFIRM": "report"} if how == "GRAPH_CONFIRM" else {}
    async with running_desk(connection_string, tmp_path, **settings) as desk:
        if how == "done_when":
            await desk.change_campaign("done_when: registered", "done_when: capable")
        await desk.register(ADA)
        answers = await desk.told(
            item(DONE, event_id="1", verify=True),
            item(ADA, event_id="2", verify=True),
            item(NO_ROW, event_id="3", verify=True),
            item(FORBIDDEN, event_id="4", verify=True),
        )
        assert statuses(answers)[:3] == ["recorded", "rejected", "rejected"]
        assert "hours behind" in answers[1].detail
        assert "no row" in answers[2].detail
        assert statuses(answers)[3] == ("recorded" if settings else "rejected")
        verified = "callback: card-office, verified by report"
        assert (await desk.evidence())[DONE.id] == verified


# --- Graph cannot be asked


@pytest.mark.parametrize(
    ("fault", "words", "after"),
    [
        ({"status": 429, "retry_after": "17"}, "429", 17),
        ({"status": 503}, "503", None),
        ({"status": 401}, "GRAPH_AUTH", None),
        ({"status": 403}, "User.Read.All", None),
        ({"kind": "html"}, "502", None),
        ({"kind": "text"}, "not JSON", None),
        ({"kind": "reset"}, "connection", None),
    ],
)
async def test_what_graph_cannot_say_is_told_again(
    desk: Desk, caplog: pytest.LogCaptureFixture, fault: Json, words: str, after: float | None
) -> None:
    await desk.world.fault("tenant", user=[{**fault, "times": None}])
    answer = await desk.tell(item(ADA), by_name(BEN, event_id="event-2"))
    assert statuses(answer.items) == ["retry"] * 2
    assert all(words in one.detail for one in answer.items)
    assert answer.retry_after == after
    assert await desk.known() == {}
    assert await desk.events() == 0
    assert alarms_of(caplog) == (["cannot_confirm"] if fault.get("status") in (401, 403) else [])
    await desk.world.fault("tenant")
    assert statuses(await desk.told(item(ADA), by_name(BEN, event_id="event-2"))) == [
        "recorded",
        "recorded",
    ]


async def test_what_was_found_before_graph_failed_is_recorded(desk: Desk) -> None:
    await desk.world.fault("tenant", user=[{"status": 503, "after": 7, "times": None}])
    items = [item(one, event_id=one.id) for one in EVERYBODY[:40]]
    first = Counter(statuses(await desk.told(*items)))
    assert first == {"recorded": 7, "retry": 33}
    await desk.world.fault("tenant")
    again = Counter(statuses(await desk.told(*items)))
    assert again == {"duplicate": 7, "recorded": 33}
    assert len(await desk.evidence()) == 40


async def test_who_cannot_be_verified_is_told_again_and_the_others_are_recorded(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.world.fault("tenant", methods=[{"status": 403, "times": None}])
    answers = await desk.told(item(DONE, event_id="1", verify=True), item(ADA, event_id="2"))
    assert statuses(answers) == ["retry", "recorded"]
    assert "UserAuthenticationMethod.Read.All" in answers[0].detail
    assert alarms_of(caplog) == ["cannot_confirm"]
    assert (await desk.evidence()).keys() == {ADA.id}


@dataclass
class SlowGraph:
    """Finds everybody, after a while, and counts."""

    seconds: float = 0.05
    asked: list[str] = field(default_factory=list[str])
    most: int = 0
    _now: int = 0

    async def find(self, request: web.Request) -> web.Response:
        self.asked.append(request.match_info["key"])
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(self.seconds)
        self._now -= 1
        return web.json_response({"id": ADA.id})


@contextlib.asynccontextmanager
async def running_before(
    graph: SlowGraph, connection_string: str, directory: Path
) -> AsyncGenerator[Desk]:
    """A desk whose Graph is this one."""
    application = web.Application()
    application.add_routes([web.get("/v1.0/users('{key}')", graph.find)])
    async with (
        running_application(application) as url,
        running_desk(connection_string, directory, GRAPH_BASE_URL=f"{url}/v1.0") as desk,
    ):
        yield desk


async def test_graph_is_asked_sixteen_at_a_time_and_of_each_account_once(
    connection_string: str, tmp_path: Path
) -> None:
    graph = SlowGraph()
    async with running_before(graph, connection_string, tmp_path) as desk:
        names = [f"{'uU'[n // 40 % 2]}{n % 40}@example.edu" for n in range(120)]
        answers = await desk.told(
            *(item(None, user_principal_name=n, event_id=str(i)) for i, n in enumerate(names))
        )
    assert statuses(answers) == ["recorded"] * 120
    assert graph.most == 16
    assert sorted(graph.asked) == sorted(set(graph.asked))
    assert len(graph.asked) == 40


async def test_the_first_question_without_an_answer_is_the_last(
    connection_string: str, tmp_path: Path
) -> None:
    """A body of 1,000 is not held up for 1,000 time-outs."""
    graph = SlowGraph(seconds=60)
    async with running_before(graph, connection_string, tmp_path) as desk:
        impatient = Directory(desk.world.graph_url, "anonymous", lookup_timeout=0.3)
        app = desk.world.keep(replace(desk.app, directory=impatient))
        items = [item(one, event_id=one.id) for one in EVERYBODY]
        answer = await desk.tell(*items, app=replace(app, completion_batch=batch_of(app)))
    assert set(statuses(answer.items)) == {"retry"}
    assert {one.detail for one in answer.items} == {"Graph did not answer in time (TimeoutError)."}
    assert len(graph.asked) == 16


async def test_what_there_is_no_time_to_ask_is_told_again(
    connection_string: str, tmp_path: Path
) -> None:
    graph = SlowGraph(seconds=0.4)
    async with running_before(graph, connection_string, tmp_path) as desk:
        await desk.tell(item(ADA))  # the SDK is imported now
        app = replace(desk.app, completion_batch=batch_of(desk.app, asking_seconds=1))
        items = [item(one, event_id=one.id) for one in EVERYBODY[:160]]
        answers = (await desk.tell(*items, app=app)).items
    found = Counter(statuses(answers))
    assert found.keys() == {"recorded", "retry"}
    assert found["recorded"] <= 48
    assert "Tell fewer at once" in answers[-1].detail


# --- storage fails, and processes die


@dataclass
class BrokenTable:
    """Stands before the table service. Where method and text (path and body) are as `broken` says,
    it answers 503, or nothing at all where it is `silent`."""

    url: str
    http: aiohttp.ClientSession
    broken: tuple[str, str] | None = None
    silent: bool = False

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.broken:
            method, text = self.broken
            if method == request.method and text in f"{request.raw_path} {body.decode()}":
                await asyncio.sleep(60 if self.silent else 0)
                return web.Response(status=503)
        url = URL(f"{self.url}{request.raw_path}", encoded=True)
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with self.http.request(
            request.method, url, headers=headers, data=body or None
        ) as answer:
            hop_by_hop = ("Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive")
            kept = {name: it for name, it in answer.headers.items() if name not in hop_by_hop}
            return web.Response(body=await answer.read(), status=answer.status, headers=kept)


def batch_of(app: App, **patience: float) -> CompletionBatchWorkflow:
    """One over this app's parts, with as much patience."""
    return CompletionBatchWorkflow(
        *(app.stores, app.book, app.directory, app.completion, app.clock),
        confirm=app.settings.graph_confirm,
        key=app.settings.address_key.encode(),
        **patience,
    )


@contextlib.asynccontextmanager
async def breakable_desk(
    connection_string: str, directory: Path
) -> AsyncGenerator[tuple[Desk, BrokenTable]]:
    found = re.search(r"TableEndpoint=(http://[^/;]+)", connection_string)
    assert found is not None
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        table = BrokenTable(found[1], http)
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/{path:.*}", table.handle)
        async with (
            running_application(application) as url,
            running_desk(connection_string.replace(found[1], url), directory) as desk,
        ):
            impatient = batch_of(desk.app, storage_seconds=0.5)
            desk.world.app = replace(desk.app, completion_batch=impatient)
            yield desk, table


@pytest.mark.parametrize(
    ("broken", "people"),
    [
        (("GET", "PartitionKey='events'"), 0),  # whether it was told before
        (("POST", "person"), 0),
        (("POST", "PartitionKey='events'"), 2),  # as if the process had died before it
    ],
    ids=["looking up events", "recording people", "remembering events"],
)
async def test_what_storage_does_not_take_is_not_claimed_and_can_be_told_again(
    connection_string: str, tmp_path: Path, broken: tuple[str, str], people: int
) -> None:
    items = (item(ADA), by_name(DONE, event_id="event-2", verify=True))
    async with breakable_desk(connection_string, tmp_path) as (desk, table):
        table.broken = broken
        with pytest.raises(NotRecorded):
            await desk.tell(*items)
        table.broken = None
        assert await desk.events() == 0
        assert len(await desk.evidence()) == people
        assert statuses(await desk.told(*items)) == ["recorded"] * 2
        assert len(await desk.evidence()) == 2
        assert statuses(await desk.told(*items)) == ["duplicate"] * 2


async def test_storage_that_does_not_answer_is_not_waited_for(
    connection_string: str, tmp_path: Path
) -> None:
    async with breakable_desk(connection_string, tmp_path) as (desk, table):
        table.broken, table.silent = ("POST", "person"), True
        async with asyncio.timeout(30):
            with pytest.raises(NotRecorded):
                await desk.tell(item(ADA))


async def test_nothing_is_asked_of_storage_for_items_that_say_nothing(
    connection_string: str, tmp_path: Path
) -> None:
    async with breakable_desk(connection_string, tmp_path) as (desk, table):
        table.broken = ("POST", "")
        assert statuses(await desk.told(b"5", item(None))) == ["rejected"] * 2


async def test_two_calls_at_once_record_the_same_once(desk: Desk) -> None:
    others = [desk.world.another_app() for _ in range(2)]
    items = [item(one, event_id=one.id) for one in EVERYBODY[:50]]
    answers = await asyncio.gather(
        desk.tell(*items), *(desk.tell(*items, app=app) for app in others)
    )
    for answer in answers:
        assert set(statuses(answer.items)) <= {"recorded", "duplicate"}
    assert await desk.evidence() == {one.id: "callback: card-office" for one in EVERYBODY[:50]}
    assert await desk.events() == 50
    assert set(statuses(await desk.told(*items))) == {"duplicate"}


# --- anything at all


def read(told: Any) -> Item | str:
    try:
        return read_item(msgspec.json.encode(told), LATEST)
    except UnreadableItem as error:
        return str(error)


scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
json_values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(scalars.map(str), scalars)
fields = st.fixed_dictionaries(
    {},
    optional={
        name: json_values | st.just(value)
        for name, value in {**item(ADA), "user_principal_name": "a@b", "verify": True}.items()
    }
    | {"another": json_values},
)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_item_or_unreadable(raw: bytes) -> None:
    with pytest.raises(UnreadableItem):
        read_item(raw, LATEST)


@given(fields | json_values)
def test_any_json_is_an_item_or_unreadable(told: Any) -> None:
    match read(told):
        case Item() as found:
            assert told.keys() <= {*item(ADA), "user_principal_name", "verify"}
            assert (found.source, found.event_id) == (told["source"], told["event_id"])
            assert found.completed_at <= LATEST
        case problems:
            assert problems.endswith(".")


@given(st.text(alphabet="ab @./-_:é\n", max_size=80))
def test_a_source_is_safe_wherever_it_is_shown(source: str) -> None:
    found = read(item(ADA, source=source))
    if isinstance(found, Item):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,63}", source)
