"""What nobody but us, SendGrid or Twilio can have made is not taken, however little is wrong with
it; and what they made changes nothing the second time.

Ten thousand forgeries meet the functions that decide; some of each kind go the whole way, to the
real app in the local host. What it takes would stand in its ledger.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from random import Random
from urllib.parse import quote

import pytest
import pytest_asyncio
from multidict import CIMultiDict

from shared.clock import CampaignTime, StorageTime
from shared.errors import BadToken
from shared.rules.links import unseal
from shared.services.webhooks import (
    BadContent,
    BadSignature,
    Batch,
    Event,
    EventKind,
    read_sendgrid,
    read_twilio,
)
from tests.attacks.forging import (
    EVENTS,
    LINKS,
    SAME_EVENTS,
    SAME_STATUSES,
    STATUSES,
    STATUSES_TOLD,
    Genuine,
    Link,
    make_events,
    make_link,
    make_status,
)
from tests.attacks.target import (
    CALLBACK,
    EVENTS_PUBLIC,
    STATUS_TOKEN,
    Events,
    Status,
    Target,
    event_of,
    events_of,
    form_of,
    key_of,
    now,
    query_of,
    running_target,
    sign_status,
)
from tests.world import FORTNIGHT, KEY

EACH = 100
"""Forgeries of each kind."""

EACH_OVER_HTTP = 6
MAIL_ROWS, TEXT_ROWS = 5, 5
"""Rows that the forgeries speak of: these numbers from 0 on, and those from there on."""

SIGNED_AT = 1_805_248_800
NOW = StorageTime(datetime.fromtimestamp(SIGNED_AT, UTC))

in_the_module = pytest.mark.asyncio(loop_scope="module")


def read(told: Events) -> Batch:
    headers = CIMultiDict(told.headers)
    return read_sendgrid(told.body, headers, public_key=EVENTS_PUBLIC, now=NOW)


def read_status(told: Status) -> Event:
    return read_twilio(
        told.body,
        CIMultiDict(told.headers),
        callback_url=CALLBACK,
        query=told.query,
        auth_token=STATUS_TOKEN,
    )


# Each kind has chances of its own, so that one can be looked at without the others.


def forged_links(kind: str, count: int) -> Iterator[tuple[Link, str]]:
    chance = Random(kind)
    while count:
        link = make_link(chance)
        forged = LINKS[kind](chance, link)
        # Spliced at its first letter, a link may be the other one: genuine, if their letters agree.
        if forged not in (link.token, link.another):
            count -= 1
            yield link, forged


def forged_events(kind: str, count: int, at: int = SIGNED_AT) -> Iterator[tuple[Events, Events]]:
    chance = Random(kind)
    while count:
        genuine = make_events(chance, at, MAIL_ROWS)
        forged = EVENTS[kind](chance, genuine)
        if forged != genuine:
            count -= 1
            yield genuine, forged


def forged_statuses(kind: str, count: int) -> Iterator[tuple[Genuine, Status]]:
    chance = Random(kind)
    while count:
        genuine = make_status(chance, MAIL_ROWS, TEXT_ROWS)
        forged = STATUSES[kind](chance, genuine)
        if forged != genuine.status:
            count -= 1
            yield genuine, forged


# --- ten thousand


def test_they_are_ten_thousand() -> None:
    assert EACH * (len(LINKS) + len(EVENTS) + len(STATUSES)) >= 10_000


@pytest.mark.invariant(5)
@pytest.mark.parametrize("kind", LINKS)
def test_no_forged_link_opens(kind: str) -> None:
    moment = CampaignTime(FORTNIGHT)
    for link, forged in forged_links(kind, EACH):
        assert unseal([KEY], link.purpose, link.token, moment).person == link.person
        with pytest.raises(BadToken):
            unseal([KEY], link.purpose, forged, moment)


@pytest.mark.parametrize("kind", EVENTS)
def test_no_forged_events_of_sendgrid_are_read(kind: str) -> None:
    for genuine, forged in forged_events(kind, EACH):
        assert read(genuine).events
        with pytest.raises((BadSignature, BadContent)):
            read(forged)


@pytest.mark.parametrize("kind", STATUSES)
def test_no_forged_status_of_twilio_is_read(kind: str) -> None:
    for genuine, forged in forged_statuses(kind, EACH):
        assert read_status(genuine.status).index == 0
        with pytest.raises((BadSignature, BadContent)):
            read_status(forged)


# --- what a signature does not tell from the genuine


@pytest.mark.parametrize("kind", SAME_EVENTS)
def test_what_has_another_signature_of_sendgrid_says_the_same(kind: str) -> None:
    chance = Random(kind)
    for _ in range(EACH):
        genuine = make_events(chance, SIGNED_AT, MAIL_ROWS)
        assert read(SAME_EVENTS[kind](chance, genuine)) == read(genuine)


@pytest.mark.parametrize("kind", SAME_STATUSES)
def test_what_has_the_signature_of_twilio_says_no_more_than_was_signed(kind: str) -> None:
    """Of a form that was cut anew nothing may be left but that the call was accepted, which is
    true of every status."""
    chance = Random(kind)
    said: Counter[bool] = Counter()
    for _ in range(EACH):
        one = make_status(chance, MAIL_ROWS, TEXT_ROWS)
        genuine = read_status(one.status)
        try:
            event = read_status(SAME_STATUSES[kind](chance, one))
        except BadContent:
            assert kind == "fields cut anew"
            continue
        less = Event(
            *(genuine.campaign, genuine.shard, genuine.key, genuine.attempt, genuine.index),
            EventKind.ACCEPTED,
        )
        assert event in (genuine, less)
        said[event == genuine] += 1
    assert said[True]
    assert said[False] == 0 or kind == "fields cut anew"


# --- over HTTP


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(
    _storage_accounts: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Target]:
    directory = tmp_path_factory.mktemp("target")
    async with running_target(next(_storage_accounts), directory) as target:
        for number in range(MAIL_ROWS):
            await target.put(number)
        for number in range(MAIL_ROWS, MAIL_ROWS + TEXT_ROWS):
            await target.put(number, channel="sms", count=1)
        yield target


def can_travel(*headers: str, query: str = "") -> bool:
    """Whether HTTP brings these values as they are; spaces around a header's are cut off."""
    whole = all(value.isprintable() and value == value.strip() for value in headers)
    return whole and query.isascii() and query.isprintable() and not set(query) & set(" #")


def sample_over_http() -> Iterator[tuple[str, str, Events | Status | None]]:
    """The kind of each forgery, the path of a link, or what is told of messages."""
    for kind in LINKS:
        for link, forged in forged_links(kind, EACH_OVER_HTTP):
            yield f"link: {kind}", f"{link.purpose}/{quote(forged, safe='')}", None
            # Under our key, which a campaign may have had that is deleted since.
            yield "link: a campaign that there is not", f"{link.purpose}/{link.another}", None
    at = now()
    for kind in EVENTS:
        for _, events in forged_events(kind, EACH_OVER_HTTP, at):
            if can_travel(events.signature, events.timestamp):
                yield f"events: {kind}", "", events
    for kind in STATUSES:
        for _, status in forged_statuses(kind, EACH_OVER_HTTP):
            if can_travel(status.signature, query=status.query):
                yield f"status: {kind}", "", status


async def answers_by_kind(
    target: Target, sample: Iterable[tuple[str, str, Events | Status | None]]
) -> dict[str, set[int]]:
    found: defaultdict[str, set[int]] = defaultdict(set)
    side_by_side = asyncio.Semaphore(32)

    async def send(kind: str, path: str, told: Events | Status | None) -> None:
        async with side_by_side:
            found[kind].add(await (target.tell(told) if told else target.post(path)))

    async with asyncio.TaskGroup() as group:
        for one in sample:
            group.create_task(send(*one))
    return found


def changed(
    before: Mapping[tuple[str, str], str], after: Mapping[tuple[str, str], str]
) -> set[tuple[str, str]]:
    """The rows that are there in another form than before."""
    return {key for key, _ in before.items() ^ after.items()}


@pytest.mark.invariant(5)
@in_the_module
async def test_the_app_takes_none_of_them_and_all_that_is_genuine(target: Target) -> None:
    before = await target.rows()
    found = await answers_by_kind(target, sample_over_http())
    assert len(found) > 90
    assert {
        kind: answers for kind, answers in found.items() if not answers <= {400, 401, 404, 410, 413}
    } == {}
    await target.quiet()
    assert target.taken() == 0
    assert changed(before, await target.rows()) == set()

    told = events_of(*(event_of(key_of(number), 0) for number in range(MAIL_ROWS)))
    assert await target.tell(told) == 204
    for number in range(MAIL_ROWS, MAIL_ROWS + TEXT_ROWS):
        assert await target.tell(sign_status(form_of(), query_of(key_of(number)))) == 204
    await target.quiet()
    assert target.taken() == 1 + TEXT_ROWS
    told_of = {key for _, key in changed(before, await target.rows())}
    assert told_of >= {key_of(number) for number in range(MAIL_ROWS + TEXT_ROWS)}


@in_the_module
async def test_what_is_told_again_changes_nothing(target: Target) -> None:
    """Everything that providers tell of, in all forms that their signatures leave room for: byte
    for byte the ledger stays as the first one has left it."""
    mails = await target.put(100)
    texts = [
        await target.put(101 + number, channel="sms", count=1)
        for number in range(len(STATUSES_TOLD))
    ]
    kinds = ("delivered", "bounce", "spamreport", "unsubscribe", "dropped", "deferred")
    events = events_of(*(event_of(mails.key, index, kind) for index, kind in enumerate(kinds)))
    statuses: list[Genuine] = []
    for row, form in zip(texts, STATUSES_TOLD, strict=True):
        query = query_of(row.key)
        statuses.append(Genuine(form, query, sign_status(form, query).signature))
    for told in (events, *(one.status for one in statuses)):
        assert await target.tell(told) == 204
    await target.quiet()
    for row in (mails, *texts):
        await target.settled(row)
    before = await target.rows()

    chance = Random(5)
    again: list[Events | Status] = [make(chance, events) for make in SAME_EVENTS.values()]
    for one in statuses:
        again += [make(chance, one) for make in SAME_STATUSES.values()]
    taken = target.taken()
    answers = await answers_by_kind(target, (("again", "", told) for told in again * 3))
    await target.quiet()
    assert answers["again"] <= {204, 400}, "what was cut anew may be no status any more"
    assert target.taken() > taken + 2 * len(again)
    assert changed(before, await target.rows()) == set()
