"""What follows from a personal link: who is believed, what is written, and who learns nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from functions.wiring import build_app
from local import tenant
from shared.clock import CampaignTime
from shared.errors import BadToken, LinkExpired, NotRecorded
from shared.rules.links import Purpose, seal
from shared.rules.registration import Registration, shard_of
from shared.settings import read_settings
from shared.stores.people import NOBODY, Person
from shared.workflows.completion import Completion, DoneOutcome
from tests.graph import example
from tests.sending import alarms_of
from tests.stores.relay import relaying
from tests.world import FORTNIGHT, KEY, NAME, World, running_world

OTHER = "hku-alumni-2028"
FOREVER = CampaignTime(FORTNIGHT + timedelta(days=3650))
GONE = bytes(range(16))


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


async def test_a_campaign_that_was_accepted_just_now_is_told_too(world: World) -> None:
    await world.app.book.read()
    newest = "hku-alumni-2029"
    another = world.another_app()
    await world.write_campaign(example((NAME, newest)), file="newest.yaml")
    await another.book.refresh(accept=True)
    await world.app.completion.record([Completion(GONE, "confirmed", "callback")])
    people = await world.app.stores.people.read_shard(newest, shard_of(GONE))
    assert people[GONE].evidence == "callback"


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


# --- storage that fails ---------------------------------------------------------------------------


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
        relay.busy = True
        with pytest.raises(NotRecorded):
            await world.app.completion.opt_out(link(GONE, "unsubscribe"))
        relay.busy = False
        await world.app.completion.opt_out(link(GONE, "unsubscribe"))
        people = await world.app.stores.people.read_shard(NAME, shard_of(GONE))
        assert people[GONE].opted_out_at
