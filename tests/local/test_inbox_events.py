"""The inbox tells a webhook what becomes of mails, as SendGrid's Event Webhook does."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from sendgrid.helpers.eventwebhook import EventWebhook

from local.inbox import MailFates, Options, SigningKey, TextFates, Told, running_inbox
from local.inbox.events import MOST_EVENTS, SIGNATURE, TIMESTAMP
from local.parts import free_port, running_part
from local.serving import running_application
from shared.clock import StorageTime
from shared.services.webhooks import BadSignature, EventKind, read_sendgrid
from tests.nudge_process import until

PARCEL, ATTEMPT = "hku-alumni-2027:0|20270317|a1", "0123456789abcdef"


@dataclass(frozen=True)
class Post:
    """A request that came, and when (Unix time)."""

    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def events(self) -> list[dict[str, Any]]:
        return json.loads(self.body)


@dataclass
class Webhook:
    """Takes events; `answers` are its next statuses, 204 after them."""

    posts: list[Post] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        at = datetime.now(UTC).timestamp()
        self.posts.append(Post(dict(request.headers), await request.read(), at))
        return web.Response(status=self.answers.pop(0) if self.answers else 204)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for post in self.posts for event in post.events]

    def kinds(self, address: str) -> list[str]:
        """What was told of an address, in order; a bounce by its type."""
        events = [event for event in self.events if event["email"] == address]
        return [event.get("type", event["event"]) for event in events]


@dataclass
class Bench:
    """An inbox whose events go to a webhook."""

    url: str
    key: SigningKey
    webhook: Webhook
    http: aiohttp.ClientSession

    async def switch(self, **receipts: Any) -> int:
        body = {"receipts": receipts}
        async with self.http.post(f"{self.url}/faults", json=body) as answer:
            return answer.status

    async def send(self, people: Sequence[str] | int, **more: Any) -> str:
        """Send a mail to each of these; gives the id of the message."""
        if isinstance(people, int):
            people = [f"p{number}@example.org" for number in range(people)]
        call = {
            "personalizations": [
                {"to": [{"email": one}], "custom_args": {"i": str(number)}}
                for number, one in enumerate(people)
            ],
            "from": {"email": "no-reply@its.example.edu"},
            "subject": "Hello",
            "content": [{"type": "text/plain", "value": "Hello"}],
            "custom_args": {"parcel": PARCEL, "attempt": ATTEMPT},
            "categories": ["campaign", "week"],
        }
        headers = {"Authorization": "Bearer key"}
        url = f"{self.url}/v3/mail/send"
        async with self.http.post(url, json=call | more, headers=headers) as answer:
            assert answer.status == 202, await answer.text()
            return answer.headers["X-Message-Id"]

    async def told(self) -> Told:
        async with self.http.get(f"{self.url}/told") as answer:
            return msgspec.convert((await answer.json())["events"], Told)

    async def all_told(self) -> Told:
        """Wait until nothing is left to tell."""

        async def done() -> Told | None:
            told = await self.told()
            return None if told.waiting else told

        return await until(done)


@asynccontextmanager
async def running_bench(webhook: Webhook | None = None) -> AsyncGenerator[Bench]:
    webhook, key = webhook or Webhook(), SigningKey()
    application = web.Application(client_max_size=1 << 24)
    application.router.add_post("/callbacks/sendgrid", webhook.handle)
    async with running_application(application) as hook, aiohttp.ClientSession() as http:
        options = Options(events_url=f"{hook}/callbacks/sendgrid", signing_key=key)
        async with running_inbox(options) as url:
            yield Bench(url, key, webhook, http)


# --- what is told


async def test_each_mail_is_processed_then_delivered_and_carries_what_the_call_gave_along() -> None:
    async with running_bench() as bench:
        id = await bench.send(["One@example.org", "two@example.org"])
        told = await bench.all_told()
    assert (told.taken, told.lost) == (4, 0)
    events = bench.webhook.events
    assert [event["event"] for event in events] == ["processed"] * 2 + ["delivered"] * 2
    now = datetime.now(UTC).timestamp()
    for number, event in enumerate(events):
        assert (event["parcel"], event["attempt"]) == (PARCEL, ATTEMPT)
        assert event["i"] == str(number % 2)
        assert event["email"] == ("One@example.org", "two@example.org")[number % 2]
        assert event["category"] == ["campaign", "week"]
        assert event["sg_message_id"].startswith(f"{id}.")
        assert now - 60 < event["timestamp"] < now + 10
    assert len({event["sg_event_id"] for event in events}) == 4


COURSES = {
    "delivered": ["processed", "delivered"],
    "deferred": ["processed", "deferred", "delivered"],
    "bounced": ["processed", "bounce"],
    "bounced_later": ["processed", "delivered", "bounce"],
    "blocked": ["processed", "blocked"],
    "dropped": ["dropped"],
    "reported": ["processed", "delivered", "spamreport"],
    "unsubscribed": ["processed", "delivered", "unsubscribe"],
}
MARKS = {
    "bounced": "bounced",
    "bounced_later": "bounced",
    "blocked": "blocked",
    "dropped": "dropped",
    "reported": "reported as spam",
    "unsubscribed": "unsubscribed",
}


async def test_each_fate_has_its_course_and_its_mark_in_the_inbox() -> None:
    people = {f"{fate}@example.org": fate for fate in COURSES}
    async with running_bench() as bench:
        assert await bench.switch(named=people, dropped_because="Spam Content") == 204
        await bench.send(list(people))
        await bench.all_told()
        async with bench.http.get(f"{bench.url}/messages") as answer:
            mails = (await answer.json())["messages"]
        async with bench.http.get(f"{bench.url}/inbox") as answer:
            page = await answer.text()
        for address, fate in people.items():
            assert bench.webhook.kinds(address) == COURSES[fate]
            [mail] = [one for one in mails if one["to"][0]["email"] == address]
            assert mail["fate"] == fate
            [row] = [part for part in page.split("<li>") if f">{address}</span>" in part]
            assert (f'class="fate">{MARKS.get(fate)}</span>' in row) == (fate in MARKS)
    [dropped] = [one for one in bench.webhook.events if one["event"] == "dropped"]
    assert dropped["reason"] == "Spam Content"
    # Of a bounce that comes as a mail of its own the provider knows no message.
    by_kind = {one["email"]: one for one in bench.webhook.events if one["event"] == "bounce"}
    assert "sg_message_id" in by_kind["bounced@example.org"]
    assert "sg_message_id" not in by_kind["bounced_later@example.org"]


async def test_what_the_provider_says_stands_over_an_argument_of_the_same_name() -> None:
    async with running_bench() as bench:
        await bench.switch(deferred=1)
        await bench.send(1)
        await bench.all_told()
    attempts = {event["event"]: event["attempt"] for event in bench.webhook.events}
    assert attempts == {"processed": ATTEMPT, "deferred": "1", "delivered": ATTEMPT}


async def test_without_a_webhook_nobody_is_told() -> None:
    async with running_inbox() as url, aiohttp.ClientSession() as http:
        bench = Bench(url, SigningKey(), Webhook(), http)
        await bench.send(3)
        assert await bench.told() == Told()


# --- how it is told


async def test_a_request_is_signed_as_sendgrids_package_verifies_it() -> None:
    async with running_bench() as bench:
        await bench.send(3)
        await bench.all_told()
    verifier = EventWebhook(bench.key.public)
    for post in bench.webhook.posts:
        signature, timestamp = post.headers[SIGNATURE], post.headers[TIMESTAMP]
        body = post.body.decode()
        assert verifier.verify_signature(body, signature, timestamp)
        assert not verifier.verify_signature(body.rstrip(), signature, timestamp)
        assert not verifier.verify_signature(body, signature, str(int(timestamp) + 1))
        assert body.startswith("[{")
        assert body.endswith("}]\r\n")
        assert body.count("\r\n") == len(post.events)
        assert abs(int(timestamp) - post.at) < 5


async def test_the_product_takes_what_the_inbox_tells() -> None:
    async with running_bench() as bench:
        await bench.switch(named={"p0@example.org": "bounced", "p1@example.org": "deferred"})
        await bench.send(2)
        await bench.all_told()
    found: Counter[tuple[int, EventKind]] = Counter()
    for post in bench.webhook.posts:
        now = StorageTime(datetime.fromtimestamp(post.at, UTC))
        batch = read_sendgrid(post.body, post.headers, public_key=bench.key.public, now=now)
        assert batch.foreign == 0
        found.update((event.index, event.kind) for event in batch.events)
    assert found == {
        (0, EventKind.ACCEPTED): 1,
        (0, EventKind.BAD_ADDRESS): 1,
        (1, EventKind.ACCEPTED): 2,
        (1, EventKind.DELIVERED): 1,
    }


async def test_unsigned_and_stale_requests_are_none_that_the_product_takes() -> None:
    async with running_bench() as bench:
        await bench.switch(unsigned=True)
        await bench.send(1)
        await bench.all_told()
        await bench.switch(clock_ahead=-timedelta(days=2).total_seconds())
        await bench.send(1)
        await bench.all_told()
    assert [SIGNATURE in post.headers for post in bench.webhook.posts] == [False, True]
    for post in bench.webhook.posts:
        now = StorageTime(datetime.fromtimestamp(post.at, UTC))
        with pytest.raises(BadSignature):
            read_sendgrid(post.body, post.headers, public_key=bench.key.public, now=now)


async def test_a_request_carries_events_of_several_calls_and_never_too_many() -> None:
    async with running_bench() as bench:
        await asyncio.gather(*(bench.send(4) for _ in range(5)))
        await bench.all_told()
        few = len(bench.webhook.posts)
        bench.webhook.posts.clear()
        await bench.send(700)
        await bench.all_told()
    assert few < 5
    assert max(len(post.events) for post in bench.webhook.posts) == MOST_EVENTS
    assert len(bench.webhook.events) == 1400


async def test_what_is_refused_is_told_again() -> None:
    async with running_bench(Webhook(answers=[500, 401])) as bench:
        await bench.send(1)
        told = await bench.all_told()
    assert told.answers == {"500": 1, "401": 1, "204": 1}
    assert (told.taken, told.lost) == (2, 0)
    first, second, third = bench.webhook.posts
    assert first.body == second.body == third.body
    assert 0.4 < second.at - first.at < third.at - second.at, "each time a little later"
    verifier = EventWebhook(bench.key.public)
    for post in (first, second, third):
        timestamp = post.headers[TIMESTAMP]
        assert verifier.verify_signature(post.body.decode(), post.headers[SIGNATURE], timestamp)


async def test_a_host_that_is_not_up_yet_is_told_later() -> None:
    webhook, port = Webhook(), free_port()
    arguments = ["--events-url", f"http://127.0.0.1:{port}/callbacks/sendgrid"]
    async with (
        running_part("local.inbox", arguments) as part,
        aiohttp.ClientSession() as http,
    ):
        bench = Bench(part.url, SigningKey(), webhook, http)
        await bench.send(1)
        await until(lambda: _has_failed(bench))
        application = web.Application()
        application.router.add_post("/callbacks/sendgrid", webhook.handle)
        async with running_application(application, port):
            assert (await bench.all_told()).taken == 2
    [post] = webhook.posts
    verifier = EventWebhook(part.ready["webhook_key"])
    timestamp = post.headers[TIMESTAMP]
    assert verifier.verify_signature(post.body.decode(), post.headers[SIGNATURE], timestamp)


async def _has_failed(bench: Bench) -> bool:
    return (await bench.told()).answers.get("none", 0) > 0


# --- the switches


async def test_twice_is_told_once_more_under_other_ids_and_all_else_alike() -> None:
    async with running_bench() as bench:
        await bench.switch(twice=True)
        await bench.send(2)
        assert (await bench.all_told()).taken == 8
    first, second = bench.webhook.posts
    ids = [{event.pop("sg_event_id") for event in post} for post in (first.events, second.events)]
    assert ids[0].isdisjoint(ids[1])

    def without_ids(post: Post) -> list[dict[str, Any]]:
        return [event | {"sg_event_id": ""} for event in post.events]

    assert without_ids(first) == without_ids(second)


async def test_backwards_late_and_silent() -> None:
    async with running_bench() as bench:
        await bench.switch(backwards=True)
        await bench.send(["a@example.org", "b@example.org"])
        await bench.all_told()
        kinds = [event["event"] for event in bench.webhook.events]
        assert kinds == ["delivered"] * 2 + ["processed"] * 2

        await bench.switch(late=0.5)
        began = datetime.now(UTC).timestamp()
        await bench.send(1)
        await bench.all_told()
        assert bench.webhook.posts[-1].at - began >= 0.5

        await bench.switch(silent=True)
        before = len(bench.webhook.posts)
        await bench.send(1)
        assert (await bench.told()).waiting == 0
        await asyncio.sleep(0.3)
        assert len(bench.webhook.posts) == before


@pytest.mark.parametrize(
    "receipts", [{"bounced": 0.6, "blocked": 0.5}, {"bounced": -0.1}, {"bouncd": 0.1}], ids=str
)
async def test_what_is_no_switch_is_400_and_changes_nothing(receipts: dict[str, Any]) -> None:
    async with running_bench() as bench:
        assert await bench.switch(bounced=0.25) == 204
        assert await bench.switch(**receipts) == 400
        async with bench.http.get(f"{bench.url}/faults") as answer:
            assert (await answer.json())["receipts"] == {"bounced": 0.25}


# --- who fares how

SHARES = st.floats(0, 0.5, allow_nan=False)


@given(st.text(min_size=1), SHARES, SHARES)
def test_the_same_person_always_fares_alike_and_a_larger_share_takes_in_the_smaller(
    address: str, one: float, other: float
) -> None:
    small, large = sorted((one, other))
    assert MailFates(bounced=large).of(address) == MailFates(bounced=large).of(address.casefold())
    if MailFates(bounced=small).of(address) == "bounced":
        assert MailFates(bounced=large).of(address) == "bounced"
    assert MailFates(bounced=1).of(address) == "bounced"
    assert MailFates().of(address) == "delivered"
    assert TextFates(undelivered={30003: 1}).of(address).code == 30003


def test_shares_are_of_all_addresses() -> None:
    fates = MailFates(bounced=0.05, blocked=0.1, reported=0.01)
    found = Counter(fates.of(f"person.{number}@example.org") for number in range(20_000))
    assert found["bounced"] == pytest.approx(1000, rel=0.15)
    assert found["blocked"] == pytest.approx(2000, rel=0.1)
    assert found["reported"] == pytest.approx(200, rel=0.3)
    assert found.total() == 20_000
