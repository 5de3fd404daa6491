"""The pages over HTTP, from the real app in the local host: who gets what, who learns nothing."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from local.tenant import Options, roster_of
from shared.clock import CampaignTime, monotonic
from shared.errors import BadToken
from shared.messages.pages import PAGE_HEADERS, STYLE, STYLE_VERSION
from shared.names import NAMES
from shared.rules.links import Purpose, seal
from shared.rules.registration import shard_of
from shared.stores.people import NOBODY, Person
from tests.functions.conftest import running_host
from tests.graph import example
from tests.stores.relay import relaying
from tests.world import FORTNIGHT, KEY, NAME, World, running_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

PEOPLE = Options(alumni=200, others=0, throttled=False)
ROSTER = roster_of(PEOPLE)
LATER = CampaignTime(FORTNIGHT + timedelta(days=300))
GONE = bytes(range(16))
PURPOSES: tuple[Purpose, ...] = ("done", "unsubscribe")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str
    seconds: float


@dataclass(frozen=True)
class Site:
    """The app in the local host, and the world around it."""

    url: str
    key: str
    world: World

    async def ask(self, path: str, method: str = "GET", **request: Any) -> Answer:
        began = monotonic()
        async with self.world.http.request(method, f"{self.url}{path}", **request) as answer:
            text = await answer.text()
            return Answer(answer.status, dict(answer.headers), text, monotonic() - began)

    async def rows(self) -> dict[tuple[str, str], str]:
        """Every row of the ledger and of control, with its ETag."""
        found: dict[tuple[str, str], str] = {}
        for name in msgspec.structs.astuple(NAMES.tables):
            async for row in self.world.app.account.table(name).list_entities():
                found[f"{name} {row['PartitionKey']}", row["RowKey"]] = str(row.metadata["etag"])
        return found

    async def blobs(self) -> dict[str, str]:
        """Every campaign file and version, with its ETag."""
        found: dict[str, str] = {}
        for name in (NAMES.containers.config, NAMES.containers.versions):
            async for blob in self.world.app.account.container(name).list_blobs():
                found[f"{name} {blob.name}"] = blob.etag
        return found

    async def known(self, person: bytes) -> Person:
        people = await self.world.app.stores.people.read_shard(NAME, shard_of(person))
        return people.get(person, NOBODY)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(
    _storage_accounts: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Site]:
    """After the fortnight's mails have gone out."""
    directory = tmp_path_factory.mktemp("site")
    async with running_world(next(_storage_accounts), directory, people=PEOPLE) as world:
        await world.write_campaign()
        await world.sweep()
        async with running_host(world.environment) as host:
            yield Site(host.url, host.ready["function_key"], world)


def person_who(*, registered: bool, number: int = 0) -> bytes:
    """Somebody who has, or hasn't, a method at the pretended time."""
    moment = FORTNIGHT.timestamp()
    found = [
        person
        for person in map(ROSTER.person, range(PEOPLE.alumni))
        if person.account_enabled
        and bool(set(person.standing(moment).methods) & {"microsoftAuthenticatorPush"})
        is registered
        and (registered or not person.standing(moment).methods)
    ]
    return bytes.fromhex(found[number].id.replace("-", ""))


def token_of(
    person: bytes, purpose: Purpose, *, campaign: str = NAME, until: CampaignTime = LATER
) -> str:
    return seal([KEY], purpose, campaign, person, until)


def words_of(page: str) -> str:
    """What can be read on a page."""
    main = page.partition("<main")[2].partition("</main>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", f"<main{main}").split())


# --- what is there --------------------------------------------------------------------------------


async def test_every_page_comes_with_the_headers_that_protect_it(site: Site) -> None:
    done = token_of(person_who(registered=False), "done")
    code = {"code": site.key}
    pages = {
        "guide": await site.ask("/guide/en"),
        "no guide": await site.ask("/guide/xx"),
        "done": await site.ask(f"/done/{done}"),
        "bad": await site.ask("/done/nonsense"),
        "unsubscribe": await site.ask(f"/unsubscribe/{token_of(GONE, 'unsubscribe')}"),
        "status": await site.ask("/status", params=code),
        "style": await site.ask("/assets/page.css"),
    }
    for name, page in pages.items():
        assert PAGE_HEADERS.items() <= page.headers.items(), name
        kind = "text/css" if name == "style" else "text/html"
        assert page.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert "Set-Cookie" not in page.headers
    assert {name: (page.status, page.headers["Cache-Control"]) for name, page in pages.items()} == {
        "guide": (200, "public, max-age=300"),
        "no guide": (404, "no-store"),
        "done": (200, "no-store"),
        "bad": (404, "no-store"),
        "unsubscribe": (200, "no-store"),
        "status": (200, "no-store"),
        "style": (200, "public, max-age=31536000, immutable"),
    }
    assert pages["style"].text == STYLE
    assert f"/assets/page.css?v={STYLE_VERSION}" in pages["guide"].text


@pytest.mark.invariant(10)
async def test_the_guide_changes_at_the_deadline(site: Site) -> None:
    last, first = "2027-03-31T23:59:50+08:00", "2027-04-01T00:00:00+08:00"
    try:
        found: list[bool] = []
        for moment in (last, first):
            site.world.move_clock(FORTNIGHT.fromisoformat(moment))
            page = await site.ask(f"/guide/en?campaign={NAME}")
            found.append("Microsoft Authenticator" in words_of(page.text))
        assert found == [True, False]
    finally:
        site.world.move_clock(FORTNIGHT)


async def test_the_guide_of_a_campaign_that_is_not_known_is_that_of_the_current_one(
    site: Site,
) -> None:
    assert (await site.ask("/guide/en?campaign=another")).text == (await site.ask("/guide/en")).text


async def test_status_is_for_whoever_has_the_key(site: Site) -> None:
    assert (await site.ask("/status")).status == 401
    assert (await site.ask("/status", headers={"x-functions-key": "guess"})).status == 401
    headers = {"x-functions-key": site.key}
    assert NAME in (await site.ask("/status", headers=headers)).text
    answer = await site.ask("/status", headers={**headers, "Accept": "application/json"})
    (campaign,) = msgspec.json.decode(answer.text)["campaigns"]
    assert campaign["campaign"] == NAME
    assert campaign["counts"]["roster"] == PEOPLE.alumni


# --- GET changes nothing --------------------------------------------------------------------------


@pytest.mark.invariant(5)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_looking_at_every_page_changes_nothing(site: Site, method: str) -> None:
    before = await site.rows()
    for number in range(3):
        for purpose in PURPOSES:
            for registered in (True, False):
                person = person_who(registered=registered, number=number)
                path = f"/{purpose}/{token_of(person, purpose)}"
                assert (await site.ask(path, method)).status == 200
    for path in ("/guide/en", "/done/", "/done", "/unsubscribe/x", "/assets/page.css"):
        await site.ask(path, method)
    assert await site.rows() == before


@pytest.mark.invariant(5, 7)
async def test_no_page_accepts_what_lies_in_config(connection_string: str, tmp_path: Path) -> None:
    """Only the sweep's timer does: here is a change of a campaign, and a campaign that is new."""
    async with running_world(connection_string, tmp_path, people=PEOPLE) as world:
        await world.write_campaign()
        await world.app.book.refresh(accept=True)
        await world.app.completion.opt_out(token_of(GONE, "unsubscribe"))
        await world.write_campaign(example(("parcel_size: 500", "parcel_size: 400")))
        await world.write_campaign(example((NAME, "new")), file="new.yaml")
        no_cache = world.environment | {"AGES_SCALE": "0.002"}
        async with running_host(no_cache) as host:
            site = Site(host.url, host.ready["function_key"], world)
            before = await site.rows(), await site.blobs()
            assert len(before[1]) == 3
            for path, status in {
                "/guide/en": 200,
                "/guide/en?campaign=new": 200,
                f"/done/{token_of(GONE, 'done')}": 200,
                f"/done/{token_of(GONE, 'done', campaign='new')}": 404,
                f"/unsubscribe/{token_of(GONE, 'unsubscribe')}": 200,
                f"/unsubscribe/{token_of(GONE, 'unsubscribe', campaign='new')}": 404,
                "/done": 404,
                f"/status?code={site.key}": 200,
                "/assets/page.css": 200,
            }.items():
                assert (await site.ask(path)).status == status, path
            assert (await site.rows(), await site.blobs()) == before
        standings = (await world.app.book.refresh(accept=True)).standings
        assert {name: one.version for name, one in standings.items()} == {NAME: 2, "new": 1}


# --- "I have done it" -----------------------------------------------------------------------------


@pytest.mark.invariant(4)
async def test_whoever_has_registered_is_thanked_and_recorded(site: Site) -> None:
    person = person_who(registered=True)
    answer = await site.ask(f"/done/{token_of(person, 'done')}", "POST")
    assert answer.status == 200
    assert "Thank" in words_of(answer.text)
    assert (await site.known(person)).evidence == "methods"


async def test_whoever_has_not_is_shown_the_next_step_and_not_recorded(site: Site) -> None:
    person = person_who(registered=False)
    answer = await site.ask(f"/done/{token_of(person, 'done')}", "POST")
    assert answer.status == 200
    assert "Thank" not in words_of(answer.text)
    assert "mysignins.microsoft.com/security-info" in answer.text
    assert "/guide/en" in answer.text
    assert await site.known(person) == NOBODY


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 401},
        {"status": 403},
        {"status": 429, "retry_after": "120"},
        {"status": 503},
        {"kind": "html"},
        {"kind": "reset"},
        {"kind": "hang", "seconds": 30},
    ],
    ids=str,
)
async def test_where_graph_does_not_answer_it_is_taken_down(
    site: Site, fault: dict[str, Any]
) -> None:
    number = 1 + len(str(fault)) % 7
    person = person_who(registered=True, number=number)
    await site.world.fault("tenant", methods=[fault])
    answer = await site.ask(f"/done/{token_of(person, 'done')}", "POST")
    await site.world.fault("tenant")
    assert answer.status == 200
    assert answer.seconds < 10, "nobody waits longer for a page"
    assert (await site.known(person)).reported_at


# --- "no more reminders" --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["person", "mail program"])
async def test_opting_out_is_recorded_at_once(site: Site, how: str) -> None:
    """RFC 8058: a POST with that body, without cookies or anything else."""
    person = person_who(registered=False, number=2 if how == "person" else 3)
    body = {"data": {"List-Unsubscribe": "One-Click"}} if how == "mail program" else {}
    answer = await site.ask(f"/unsubscribe/{token_of(person, 'unsubscribe')}", "POST", **body)
    assert answer.status == 200
    assert (await site.known(person)).opted_out_at


@pytest.mark.invariant(4)
async def test_two_processes_that_are_asked_at_once_both_thank_and_one_row_is_written(
    site: Site,
) -> None:
    """The host's, and this one."""
    person = person_who(registered=False, number=4)
    token = token_of(person, "unsubscribe")
    answer, page = await asyncio.gather(
        site.ask(f"/unsubscribe/{token}", "POST"), site.world.app.site.unsubscribe(token, "")
    )
    assert (answer.status, answer.text) == (page.status, page.body)
    assert "We have recorded your wish" in words_of(answer.text)
    rows = [row for _, row in await site.rows() if row == f"person|{person.hex()}"]
    assert len(rows) == 1


async def test_nobody_is_thanked_for_what_storage_did_not_take(
    connection_string: str, tmp_path: Path
) -> None:
    async with (
        relaying(connection_string, "Table") as (through, relay),
        running_world(through, tmp_path, people=PEOPLE) as world,
    ):
        await world.write_campaign()
        await world.app.book.refresh(accept=True)
        async with running_host(world.environment) as host:
            site = Site(host.url, host.ready["function_key"], world)
            person = person_who(registered=True)
            paths = [f"/{purpose}/{token_of(person, purpose)}" for purpose in PURPOSES]
            relay.busy = True
            for answer in await asyncio.gather(*(site.ask(path, "POST") for path in paths)):
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "60"
                assert "not recorded" in words_of(answer.text)
                assert "Thank" not in words_of(answer.text)
                assert answer.text.count("<button") == 1, "to try again with"
                assert answer.seconds < 15
            relay.busy = False
            assert await site.known(person) == NOBODY
            for path in paths:
                assert (await site.ask(path, "POST")).status == 200
            assert (await site.known(person)).opted_out_at
            assert (await site.known(person)).confirmed_at


# --- nobody learns whether an account exists ------------------------------------------------------


@pytest.mark.invariant(5)
async def test_a_link_whose_account_is_gone_is_answered_like_any_that_is_none(site: Site) -> None:
    paths = {
        "gone": f"/done/{token_of(GONE, 'done')}",
        "bad": f"/done/{secrets.token_urlsafe(63)}",
        "none": "/done/",
        "none at all": "/done",
    }
    answers = {name: await site.ask(path, "POST") for name, path in paths.items()}
    assert {answer.status for answer in answers.values()} == {404}
    assert len({answer.text for answer in answers.values()}) == 1
    times = [answer.seconds for answer in answers.values()]
    assert min(times) >= 0.99
    assert max(times) - min(times) < 0.5


@pytest.mark.invariant(5)
async def test_before_anything_is_pressed_all_links_of_ours_are_answered_alike(site: Site) -> None:
    for purpose in PURPOSES:
        people = (GONE, person_who(registered=True), person_who(registered=False))
        pages = {
            (await site.ask(f"/{purpose}/{token_of(person, purpose)}")).text for person in people
        }
        assert len(pages) == 1


@pytest.mark.invariant(5)
async def test_ten_thousand_altered_tokens_open_nothing(site: Site) -> None:
    """Bit flips, truncations, other keys, purposes and campaigns, and what is too late; a part of
    them over HTTP as well."""
    await site.world.app.releases.release_all()  # what the minute timer would write meanwhile
    before = await site.rows()
    altered = {
        purpose: [_altered(purpose, number) for number in range(5000)] for purpose in PURPOSES
    }
    for purpose, tokens in altered.items():
        for token in tokens:
            with pytest.raises(BadToken):
                await site.world.app.completion.open_link(purpose, token)
        answers = await asyncio.gather(
            *(site.ask(f"/{purpose}/{token}", "GET") for token in tokens[:100]),
            *(site.ask(f"/{purpose}/{token}", "POST") for token in tokens[:100]),
        )
        assert {answer.status for answer in answers} == {404, 410}
    assert await site.rows() == before


OTHER_KEY = secrets.token_urlsafe(32)


def _altered(purpose: Purpose, number: int) -> str:
    """A token that is nearly ours: another one for each number, in seven ways."""
    person = secrets.token_bytes(16)
    good = token_of(person, purpose)
    other: Purpose = "unsubscribe" if purpose == "done" else "done"
    place = secrets.randbelow(len(good))
    match number % 7:
        case 0:
            changed = chr(ord(good[place]) ^ 1)
            return f"{good[:place]}{changed if changed.isalnum() else 'A'}{good[place + 1 :]}x"
        case 1:
            alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
            flipped = alphabet[alphabet.index(good[place]) ^ (1 << secrets.randbelow(6))]
            return good[:place] + flipped + good[place + 1 :]
        case 2:
            return good[:place] or "A"
        case 3:
            return seal([OTHER_KEY], purpose, NAME, person, LATER)
        case 4:
            return token_of(person, other)
        case 5:
            return token_of(person, purpose, campaign=f"another-{number}")
        case _:
            return token_of(person, purpose, until=CampaignTime(FORTNIGHT))
