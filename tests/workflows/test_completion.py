"""What follows from a personal link: who is believed, what is written, and who learns nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from functions.wiring import build_app
from local import tenant
from local.serving import json_response, running_application
from shared.clock import CampaignTime
from shared.errors import BadToken, LinkExpired, NotRecorded
from shared.names import NAMES
from shared.rules.links import Purpose, seal
from shared.rules.registration import Registration, shard_of
from shared.settings import read_settings
from shared.stores.people import NOBODY, Person
from shared.workflows.completion import Completion, DoneOutcome
from tests.graph import Someone, example
from tests.sending import alarms_of
from tests.stores.relay import relaying
from tests.world import FORTNIGHT, KEY, NAME, World, running_world

OTHER = "hku-alumni-2028"
FOREVER = CampaignTime(FORTNIGHT + timedelta(days=3650))
GONE = bytes(range(16))
PURPOSES: tuple[Purpose, ...] = ("done", "unsubscribe")


@pytest.fixture
async def world(connection_string: str, tmp_path: Path) -> AsyncGenerator[World]:
    """Two campaigns over one tenant, read once."""
    people = tenant.Options(alumni=60, others=0, throttled=False)
    async with running_world(connection_string, tmp_path, people=people) as world:
        await world.write_campaign()
        await world.write_campaign(example((NAME, OTHER)), file="other.yaml")
        await world.app.book.refresh(accept=True)
        yield world


async def accounts_of(world: World, wanted: Registration) -> list[bytes]:
    """Accounts of which the directory says this now."""
    found: list[bytes] = []
    graph = await world.get_json(f"{world.graph_url}/users", **{"$select": "id", "$top": "60"})
    for row in graph["value"]:
        person = bytes.fromhex(row["id"].replace("-", ""))
        if await world.app.directory.confirm(person, "methods", "registered") is wanted:
            found.append(person)
    return found


def link(person: bytes, purpose: Purpose = "done", campaign: str = NAME) -> str:
    return seal([KEY], purpose, campaign, person, FOREVER)


async def known(world: World, person: bytes) -> dict[str, Person]:
    """What each campaign remembers of a person."""
    people = world.app.stores.people
    return {
        name: (await people.read_shard(name, shard_of(person))).get(person, NOBODY)
        for name in (NAME, OTHER)
    }


async def press(world: World, purpose: Purpose, token: str) -> None:
    """What the button of a link's page does."""
    if purpose == "done":
        await world.app.completion.complete(token)
    else:
        await world.app.completion.opt_out(token)


async def with_confirm(world: World, how: str) -> Any:
    settings = read_settings({**world.environment, "GRAPH_CONFIRM": how})
    return world.keep(build_app(settings, world.app.clock)).completion


# --- who is believed ------------------------------------------------------------------------------


@pytest.mark.invariant(4)
async def test_whoever_the_directory_shows_is_confirmed_in_every_campaign(world: World) -> None:
    person, *_ = await accounts_of(world, Registration.REGISTERED)
    standing, outcome = await world.app.completion.complete(link(person))
    assert (standing.name, outcome) == (NAME, DoneOutcome.CONFIRMED)
    for one in (await known(world, person)).values():
        assert one.confirmed_at
        assert one.evidence == "methods"
        assert one.reported_at is None


async def test_whoever_has_no_method_is_told_so_and_nothing_is_recorded(world: World) -> None:
    person, *_ = await accounts_of(world, Registration.UNREGISTERED)
    _, outcome = await world.app.completion.complete(link(person))
    assert outcome is DoneOutcome.NOT_REGISTERED
    assert set((await known(world, person)).values()) == {NOBODY}


async def test_the_lagging_report_is_not_believed_against_a_person(world: World) -> None:
    """GRAPH_CONFIRM=report: what it does not show yet is taken down as reported."""
    person, *_ = await accounts_of(world, Registration.UNREGISTERED)
    _, outcome = await (await with_confirm(world, "report")).complete(link(person))
    assert outcome is DoneOutcome.NOT_SEEN
    for one in (await known(world, person)).values():
        assert one.reported_at
        assert one.confirmed_at is None


@dataclass
class OneAccount:
    """A Graph that knows of one account, and says the same whoever is asked for.

    Attributes:
        methods: live methods of the account.
        row: its row of the report, if there is one.
        asked: which of the two was asked.
    """

    methods: tuple[str, ...]
    row: Someone | None
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.endswith("/authentication/methods"):
            self.asked.append("methods")
            types = [f"#microsoft.graph.{name}AuthenticationMethod" for name in self.methods]
            return json_response({"value": [{"@odata.type": type} for type in types]})
        self.asked.append("report")
        if self.row is None:
            return json_response({"error": {"code": "Request_ResourceNotFound"}}, status=404)
        return json_response(self.row.report())


PHONE, NEW = ("password", "phone"), ("password", "methodOfNextYear")
USABLE, UNUSABLE = (Someone(number=1, registered=True, capable=usable) for usable in (True, False))
NEW_ROW = Someone(number=1, registered=False, methods=("methodOfNextYear",))
CONFIRMED, NOT_SEEN, NOT_REGISTERED = (
    DoneOutcome.CONFIRMED,
    DoneOutcome.NOT_SEEN,
    DoneOutcome.NOT_REGISTERED,
)


# GRAPH_CONFIRM, the campaign of the link (OTHER asks for `capable`), the account's methods and row;
# what is asked, the outcome, and what NAME and OTHER then remember.
@pytest.mark.invariant(4)
@pytest.mark.parametrize(
    ("how", "campaign", "methods", "row", "asked", "outcome", "remembered"),
    [
        ("methods", NAME, PHONE, None, "methods", CONFIRMED, ("confirmed", "reported")),
        ("methods", NAME, NEW, USABLE, "methods", NOT_SEEN, ("reported", "reported")),
        ("methods", NAME, ("password",), USABLE, "methods", NOT_REGISTERED, ("", "")),
        ("report", NAME, PHONE, None, "report", NOT_SEEN, ("reported", "reported")),
        ("report", NAME, PHONE, NEW_ROW, "report", NOT_SEEN, ("reported", "reported")),
        ("report", NAME, (), UNUSABLE, "report", CONFIRMED, ("confirmed", "reported")),
        ("methods", OTHER, PHONE, UNUSABLE, "report", NOT_SEEN, ("reported", "reported")),
        ("methods", OTHER, (), USABLE, "report", CONFIRMED, ("confirmed", "confirmed")),
    ],
)
async def test_a_campaign_believes_what_proves_what_it_asks_for(
    connection_string: str,
    tmp_path: Path,
    how: str,
    campaign: str,
    methods: tuple[str, ...],
    row: Someone | None,
    asked: str,
    outcome: DoneOutcome,
    remembered: tuple[str, str],
) -> None:
    graph, application = OneAccount(methods, row), web.Application()
    application.router.add_get("/{path:.*}", graph.answer)
    async with (
        running_application(application) as url,
        running_world(
            connection_string, tmp_path, GRAPH_BASE_URL=f"{url}/v1.0", GRAPH_CONFIRM=how
        ) as world,
    ):
        await world.write_campaign()
        capable = example((NAME, OTHER), ("done_when: registered", "done_when: capable"))
        await world.write_campaign(capable, file="other.yaml")
        await world.app.book.refresh(accept=True)
        _, found = await world.app.completion.complete(link(GONE, campaign=campaign))
        told = await known(world, GONE)
    assert (graph.asked, found) == ([asked], outcome)
    assert tuple(map(kinds_of, told.values())) == remembered


def kinds_of(person: Person) -> str:
    facts = {"confirmed": person.confirmed_at, "reported": person.reported_at}
    return " and ".join(name for name, at in facts.items() if at)


FAULTS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("does not accept the token", {"status": 401}, ["cannot_confirm"]),
    ("denies the permission", {"status": 403}, ["cannot_confirm"]),
    ("is busy", {"status": 429}, []),
    ("is broken", {"status": 500}, []),
    ("cuts the connection", {"kind": "reset"}, []),
    ("says what is not Graph's", {"kind": "html"}, []),
]


@pytest.mark.parametrize(("_what", "fault", "alarms"), FAULTS)
@pytest.mark.parametrize("registered", [True, False])
async def test_where_graph_cannot_be_asked_it_is_noted_for_the_next_sweep(
    world: World,
    caplog: pytest.LogCaptureFixture,
    _what: str,
    fault: dict[str, Any],
    alarms: list[str],
    registered: bool,
) -> None:
    wanted = Registration.REGISTERED if registered else Registration.UNREGISTERED
    person, *_ = await accounts_of(world, wanted)
    await world.fault("tenant", methods=[fault])
    _, outcome = await world.app.completion.complete(link(person))
    assert outcome is DoneOutcome.NOTED
    assert all(one.reported_at for one in (await known(world, person)).values())
    assert alarms_of(caplog) == alarms


async def test_the_same_link_twice_is_the_same(world: World) -> None:
    person, *_ = await accounts_of(world, Registration.REGISTERED)
    for _ in range(2):
        _, outcome = await world.app.completion.complete(link(person))
        assert outcome is DoneOutcome.CONFIRMED


@pytest.mark.invariant(4)
async def test_opting_out_counts_in_every_campaign(world: World) -> None:
    standing = await world.app.completion.opt_out(link(GONE, "unsubscribe"))
    assert standing.name == NAME
    assert all(one.opted_out_at for one in (await known(world, GONE)).values())


@pytest.mark.invariant(4)
async def test_a_campaign_that_was_accepted_just_now_is_told_too(world: World) -> None:
    await world.app.book.read()
    newest = "hku-alumni-2029"
    another = world.another_app()
    await world.write_campaign(example((NAME, newest)), file="newest.yaml")
    await another.book.refresh(accept=True)
    other, record = bytes(15) + b"\1", world.app.completion.record
    await record([Completion(GONE, "confirmed", "callback")])
    await record([Completion(other, "confirmed", "methods", "registered")])
    await world.app.completion.opt_out(link(GONE, "unsubscribe"))
    people = await world.app.stores.people.read_shard(newest, shard_of(GONE))
    assert people[GONE].evidence == "callback"
    assert people[GONE].opted_out_at
    # What it asks for is not known yet: what proves less than the most is no more than said.
    assert people[other].reported_at
    assert people[other].confirmed_at is None


# --- who learns nothing ---------------------------------------------------------------------------


@pytest.mark.invariant(5)
async def test_asking_changes_nothing_and_looks_nobody_up(world: World) -> None:
    for purpose in ("done", "unsubscribe"):
        for person in (*await accounts_of(world, Registration.REGISTERED), GONE):
            standing = await world.app.completion.open_link(purpose, link(person, purpose))
            assert standing.name == NAME
            assert set((await known(world, person)).values()) == {NOBODY}


@pytest.mark.invariant(5)
async def test_the_account_of_a_link_is_gone(world: World) -> None:
    with pytest.raises(BadToken):
        await world.app.completion.complete(link(GONE))
    assert set((await known(world, GONE)).values()) == {NOBODY}


@pytest.mark.invariant(5)
@pytest.mark.parametrize(
    ("token", "error"),
    [
        ("", BadToken),
        ("x" * 84, BadToken),
        (link(GONE, "unsubscribe"), BadToken),
        (link(GONE, campaign="another"), BadToken),
        (seal([KEY], "done", NAME, GONE, CampaignTime(FORTNIGHT)), LinkExpired),
    ],
    ids=["empty", "letters", "other purpose", "other campaign", "expired"],
)
async def test_what_is_no_link_of_ours_records_nothing(
    world: World, token: str, error: type[BadToken]
) -> None:
    for ask in (
        world.app.completion.complete(token),
        world.app.completion.open_link("done", token),
    ):
        with pytest.raises(BadToken) as raised:
            await ask
        assert type(raised.value) is error
    assert set((await known(world, GONE)).values()) == {NOBODY}


# --- what is not recorded -------------------------------------------------------------------------


async def test_nothing_is_confirmed_that_storage_did_not_take(
    connection_string: str, tmp_path: Path
) -> None:
    """The table's answers fail for longer than somebody waits for a page."""
    async with (
        relaying(connection_string, "Table") as (through, relay),
        running_world(through, tmp_path) as world,
    ):
        await world.write_campaign()
        await world.app.book.refresh(accept=True)
        person, *_ = await accounts_of(world, Registration.REGISTERED)
        tokens: dict[Purpose, str] = {purpose: link(person, purpose) for purpose in PURPOSES}
        relay.busy = True
        told = await asyncio.gather(
            *(press(world, *button) for button in tokens.items()), return_exceptions=True
        )
        assert [type(error) for error in told] == [NotRecorded, NotRecorded]
        relay.busy = False
        for button in tokens.items():
            await press(world, *button)
        people = await world.app.stores.people.read_shard(NAME, shard_of(person))
        assert people[person].opted_out_at
        assert people[person].confirmed_at


@pytest.mark.parametrize("purpose", PURPOSES)
async def test_nobody_is_thanked_for_a_campaign_that_was_deleted_just_now(
    world: World, purpose: Purpose
) -> None:
    """Its file and its versions, a moment after the book was read."""
    person, *_ = await accounts_of(world, Registration.REGISTERED)
    await world.app.book.refresh()
    for container, prefix in (("config", "alumni.yaml"), ("versions", f"{NAME}/")):
        blobs = world.app.account.container(getattr(NAMES.containers, container))
        async for blob in blobs.list_blobs(name_starts_with=prefix):
            await blobs.delete_blob(blob.name)
    with pytest.raises(NotRecorded):
        await press(world, purpose, link(person, purpose))


# --- what the logs say ----------------------------------------------------------------------------


@pytest.mark.invariant(6)
async def test_logs_name_nobody_whatever_happens(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (None, "mfa_nudge", "httpx", "httpcore", "azure"):
        caplog.set_level(logging.DEBUG, name)
    registered, *_ = await accounts_of(world, Registration.REGISTERED)
    unregistered, *_ = await accounts_of(world, Registration.UNREGISTERED)
    tokens = [
        *(link(registered, purpose) for purpose in PURPOSES),
        *(link(unregistered), link(GONE), link(registered, campaign="another")),
        *(f"{link(registered)}x", seal([KEY], "done", NAME, registered, CampaignTime(FORTNIGHT))),
    ]
    people = [await user_of(world, person) for person in (registered, unregistered)]

    for fault in (None, *(fault for _, fault, _ in FAULTS)):
        await world.fault("tenant", methods=[fault] * len(tokens) if fault else [])
        for purpose in PURPOSES:
            await press_all(world, purpose, tokens)
    await world.fault("tenant")
    await (await with_confirm(world, "report")).complete(link(unregistered))
    for fault in (None, *(fault for _, fault, _ in FAULTS)):
        for endpoint in ("user", "methods"):
            await world.fault("tenant", **{endpoint: [{**fault, "times": 9}] if fault else []})
            await world.app.completion_batch.record(items_about(people))
    await world.fault("tenant")
    await world.app.account.table(NAMES.tables.ledger).delete_table()
    for purpose in PURPOSES:
        await press_all(world, purpose, tokens)

    said = caplog.text.lower()
    for event in ("done_link", "opted_out", "confirm_later", "alarm cannot_confirm", "completions"):
        assert event in said
    assert "request url" in said, "the SDK's own lines are among them"
    ids = {text for person in (registered, unregistered, GONE) for text in spellings(person)}
    traces = ids | {*tokens, *(text for user in people for text in user)}
    assert [trace for trace in traces if trace.lower() in said] == []
    assert world.graph_url not in said, "nor where it was asked for them"


async def press_all(world: World, purpose: Purpose, tokens: list[str]) -> None:
    """Press the buttons of these links, of whatever purpose they are."""
    for token in tokens:
        with contextlib.suppress(BadToken, NotRecorded):
            await press(world, purpose, token)


def spellings(person: bytes) -> set[str]:
    """An object id as it may be written."""
    return {person.hex(), str(uuid.UUID(bytes=person)), str(person)}


async def user_of(world: World, person: bytes) -> list[str]:
    """An account's id, name and addresses."""
    url = f"{world.graph_url}/users/{uuid.UUID(bytes=person)}"
    row = await world.get_json(url, **{"$select": "id,userPrincipalName,mail,otherMails"})
    found = (row["id"], row["userPrincipalName"], row["mail"], *row["otherMails"])
    return [text for text in found if text]


def items_about(people: list[list[str]]) -> list[bytes]:
    """What may be told of people, well and badly, and under ids that are made of their names."""
    told: list[dict[str, Any]] = []
    for id, name, *_ in people:
        for account in ({"user_id": id}, {"user_principal_name": name}):
            told += [account, {**account, "verify": True}, {**account, "source": name}]
        told.append({"user_principal_name": f"not.{name}"})
        told.append({"user_id": name, "completed_at": name})
    fixed = {"completed_at": FORTNIGHT.isoformat(), "source": "office"}
    return [
        msgspec.json.encode({**fixed, **one, "event_id": f"{number} {secrets.token_hex(4)} {one}"})
        for number, one in enumerate(told)
    ]
