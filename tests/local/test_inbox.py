"""The inbox keeps to SendGrid's documented limits and errors, and shows what it accepted."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from local.inbox import MAX_BODY, Options, running_inbox
from shared.clock import write_clock_file
from shared.services.http import HttpClient
from shared.services.senders import (
    Accepted,
    Ambiguous,
    Envelope,
    Identity,
    Outcome,
    Refused,
    RefusedReason,
)
from shared.services.senders.sendgrid import SendGrid

type Json = dict[str, Any]

HTML = "<!DOCTYPE html><html><head><title>t</title></head><body><p>Dear %h%,</p></body></html>"


def a_call(count: int = 1, **more: Any) -> Json:
    """A call that is accepted, to `count` people; `more` replaces parts of it."""
    return {
        "personalizations": [an_envelope(index) for index in range(count)],
        "from": {"email": "no-reply@its.example.edu", "name": "IT Services"},
        "reply_to": {"email": "help@example.edu"},
        "subject": "Reminder for %t%",
        "content": [
            {"type": "text/plain", "value": "Dear %t%,"},
            {"type": "text/html", "value": HTML},
        ],
        "custom_args": {"parcel": "c:0|2027|a", "attempt": "a1"},
        "categories": ["campaign"],
    } | more


def an_envelope(index: int = 0, **more: Any) -> Json:
    return {
        "to": [{"email": f"Person{index}@example.org", "name": f"Person {index}"}],
        "substitutions": {"%h%": f"&lt;{index}&gt;", "%t%": f"<{index}>"},
        "headers": {"List-Unsubscribe": f"<https://example.edu/u/{index}>"},
        "custom_args": {"i": str(index)},
    } | more


class Client:
    """Speaks to one inbox."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def send(
        self, call: object, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        body = call if isinstance(call, bytes) else json.dumps(call).encode()
        usual = {"Authorization": "Bearer key", "Content-Type": "application/json"}
        async with self._session.post(
            f"{self.url}/v3/mail/send",
            data=io.BytesIO(body),
            headers={name: value for name, value in (usual | (headers or {})).items() if value},
        ) as answer:
            content = await answer.read()
            found = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, found, json.loads(content) if content else None

    async def fields(self, call: object) -> list[str | None]:
        """The fields that a 400 names."""
        status, _, body = await self.send(call)
        assert status == 400
        assert all(error.keys() == {"message", "field", "help"} for error in body["errors"])
        return [error["field"] for error in body["errors"]]

    async def get(self, path: str) -> Any:
        async with self._session.get(self.url + path) as answer:
            assert answer.status == 200
            return await answer.json()

    async def page(self, path: str, status: int = 200) -> str:
        async with self._session.get(self.url + path) as answer:
            assert answer.status == status
            return await answer.text()

    async def headers(self, path: str) -> dict[str, str]:
        async with self._session.get(self.url + path) as answer:
            return dict(answer.headers)

    async def faults(self, content: object) -> int:
        async with self._session.post(f"{self.url}/faults", json=content) as answer:
            return answer.status

    async def delete(self, path: str) -> int:
        async with self._session.delete(self.url + path) as answer:
            return answer.status


@asynccontextmanager
async def inbox(options: Options | None = None) -> AsyncGenerator[Client]:
    async with running_inbox(options) as url, aiohttp.ClientSession() as session:
        yield Client(url, session)


# Limits and errors


async def test_acceptance_is_202_with_an_id_and_nothing_else() -> None:
    async with inbox() as client:
        status, headers, body = await client.send(a_call(3))
        assert (status, body) == (202, None)
        assert headers["x-message-id"]
        assert int(headers["x-ratelimit-remaining"]) < int(headers["x-ratelimit-limit"])
        assert int(headers["x-ratelimit-reset"]) > 1_700_000_000


@pytest.mark.parametrize(
    ("key", "given", "status"),
    [
        (None, "Bearer anything", 202),
        (None, "", 401),
        (None, "Bearer ", 401),
        (None, "Basic anything", 401),
        ("right", "Bearer right", 202),
        ("right", "Bearer wrong", 401),
    ],
)
async def test_key(key: str | None, given: str, status: int) -> None:
    async with inbox(Options(api_key=key)) as client:
        found, _, body = await client.send(a_call(), {"Authorization": given})
        assert found == status
        assert (body is None) == (status == 202)


LONG = "x" * 5_000
MISTAKES: list[tuple[str, Json, list[str | None]]] = [
    ("nobody", {"personalizations": []}, ["personalizations"]),
    ("no address", {"personalizations": [an_envelope(to=[])]}, ["personalizations.0.to"]),
    (
        "bad addresses",
        {
            "personalizations": [
                an_envelope(0),
                an_envelope(1, to=[{"email": "nobody"}]),
                an_envelope(2, to=[{"email": "a@b.example, c@d.example"}]),
            ]
        },
        ["personalizations.1.to.0.email", "personalizations.2.to.0.email"],
    ),
    (
        "the same person twice, whatever the case",
        {
            "personalizations": [
                an_envelope(0, to=[{"email": "A@example.org"}]),
                an_envelope(1, to=[{"email": "a@EXAMPLE.org"}]),
            ]
        },
        ["personalizations"],
    ),
    (
        "too many",
        {"personalizations": [an_envelope(index, custom_args={}) for index in range(1001)]},
        ["personalizations"],
    ),
    ("no sender", {"from": None}, ["from.email"]),
    ("bad sender", {"from": {"email": "its"}}, ["from.email"]),
    ("bad reply-to", {"reply_to": {"email": "its"}}, ["reply_to.email"]),
    ("no subject", {"subject": ""}, ["subject"]),
    ("no content", {"content": []}, ["content"]),
    ("empty content", {"content": [{"type": "text/plain", "value": ""}]}, ["content.0.value"]),
    (
        "html before text",
        {"content": [{"type": t, "value": "x"} for t in ("text/html", "text/plain")]},
        ["content"],
    ),
    (
        "much in custom args, in all",
        {
            "custom_args": {"a": LONG},
            "personalizations": [an_envelope(custom_args={"i": LONG})],
        },
        ["custom_args"],
    ),
    ("a number in custom args", {"custom_args": {"a": 1}}, [None]),
    ("a number in one's own", {"personalizations": [an_envelope(custom_args={"i": 1})]}, [None]),
    (
        "a number for a substitution",
        {"personalizations": [an_envelope(), an_envelope(1, substitutions={"%h%": 1})]},
        ["personalizations.1.substitutions"],
    ),
    (
        "much to substitute",
        {"personalizations": [an_envelope(substitutions={"%h%": LONG, "%t%": LONG})]},
        ["personalizations.0.substitutions"],
    ),
    ("a reserved header", {"headers": {"Subject": "x"}}, ["headers"]),
    ("eleven categories", {"categories": [str(n) for n in range(11)]}, ["categories"]),
    ("a long category", {"categories": ["x" * 256]}, ["categories.0"]),
    ("subject is a list", {"subject": ["x"]}, ["subject"]),
]


@pytest.mark.parametrize(
    ("change", "fields"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
async def test_mistakes_are_400_and_name_the_field(change: Json, fields: list[str | None]) -> None:
    async with inbox() as client:
        assert await client.fields(a_call() | change) == fields
        assert (await client.get("/messages"))["total"] == 0


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"personalizations": {}}'])
async def test_what_is_no_call_is_400(body: bytes) -> None:
    async with inbox() as client:
        assert (await client.send(body))[0] == 400


async def test_the_largest_call() -> None:
    async with inbox() as client:
        assert (await client.send(a_call(1000, custom_args={})))[0] == 400  # ids take 10,890 bytes
        small = [an_envelope(index, custom_args={}) for index in range(1000)]
        assert (await client.send(a_call(personalizations=small)))[0] == 202


async def test_30_mb_are_413() -> None:
    async with inbox() as client:
        body = json.dumps(a_call()).encode()
        status, _, answer = await client.send(body + b" " * (MAX_BODY - len(body)))
        assert (status, answer["errors"][0]["message"]) == (413, "content too large")
        assert (await client.send(body + b" " * (MAX_BODY - len(body) - 1)))[0] == 202


async def test_other_methods_types_and_the_sandbox() -> None:
    async with inbox() as client:
        await client.page("/v3/mail/send", status=405)
        assert (await client.send(a_call(), {"Content-Type": "text/plain"}))[0] == 415
        sandbox = {"sandbox_mode": {"enable": True}}
        assert (await client.send(a_call(mail_settings=sandbox)))[0] == 200
        assert (await client.get("/messages"))["total"] == 0


# What arrives


async def test_everybody_gets_their_own_mail(tmp_path: Path) -> None:
    clock = tmp_path / "clock.json"
    write_clock_file(clock, datetime(2027, 3, 17, 2, tzinfo=UTC))
    async with inbox(Options(clock_file=clock)) as client:
        _, headers, _ = await client.send(a_call(3))
        found = await client.get("/messages?to=PERSON1@example.org")
        (mail,) = found["messages"]
        assert found["total"] == 1
        assert mail["subject"] == "Reminder for <1>"
        assert "<p>Dear &lt;1&gt;,</p>" in mail["html"]
        assert mail["text"] == "Dear <1>,"
        assert mail["headers"] == {"List-Unsubscribe": "<https://example.edu/u/1>"}
        assert mail["custom_args"] == {"parcel": "c:0|2027|a", "attempt": "a1", "i": "1"}
        assert (mail["parcel"], mail["attempt"], mail["index"]) == ("c:0|2027|a", "a1", 1)
        assert mail["from"] == {"email": "no-reply@its.example.edu", "name": "IT Services"}
        assert mail["time"].startswith("2027-03-17T02:00")
        (entry,) = (await client.get("/accepted"))["accepted"]
        assert entry["message_id"] == mail["message_id"] == headers["x-message-id"]
        assert (entry["parcel"], entry["attempt"]) == ("c:0|2027|a", "a1")
        assert (entry["indices"], entry["count"]) == ([0, 1, 2], 3)


async def test_messages_come_in_order_by_limit_and_offset_and_can_be_deleted() -> None:
    async with inbox() as client:
        for first in (0, 3):
            people = [an_envelope(index) for index in range(first, first + 3)]
            await client.send(a_call(personalizations=people))
        found = await client.get("/messages?limit=2&offset=2")
        assert found["total"] == 6
        assert [mail["to"][0]["name"] for mail in found["messages"]] == ["Person 2", "Person 3"]
        found = await client.get("/messages?newest=1&limit=2")
        assert [mail["number"] for mail in found["messages"]] == [5, 4]
        assert await client.delete("/messages") == 204
        assert await client.get("/messages") == {"total": 0, "messages": []}
        await client.send(a_call(2))
        assert (await client.get("/messages"))["messages"][1]["subject"] == "Reminder for <1>"


async def test_the_mails_of_one_recipient_of_a_parcel() -> None:
    """By index, not by place: whoever was left out leaves a gap."""
    async with inbox() as client:
        for parcel, people in (("a", (0, 2)), ("b", (1, 2)), ("a", (2,))):
            envelopes = [an_envelope(index) for index in people]
            await client.send(a_call(custom_args={"parcel": parcel}, personalizations=envelopes))
        found = await client.get("/messages?parcel=a&i=2")
        assert [mail["number"] for mail in found["messages"]] == [1, 4]
        assert (await client.get("/messages?parcel=c&i=2"))["total"] == 0


# What goes wrong, and what the product's sender makes of it


async def outcome_of(fault: Json, *, count: int = 2) -> tuple[Outcome, int]:
    """What the sender makes of a call that meets `faults`, and how many mails came."""
    async with inbox() as client:
        http = HttpClient()
        try:
            sender = SendGrid(http, base_url=client.url, api_key="key", call_timeout=0.5)
            prepared = sender.prepare(
                Letter(),
                [
                    Envelope(n, f"p{n}@example.org", f"P {n}", {"%t%": str(n)}, "https://x.example")
                    for n in range(count)
                ],
                sender=Identity(name="IT", email="it@example.edu", reply_to="it@example.edu"),
                parcel="p",
                attempt="a",
                categories=["c"],
            )
            assert await client.faults(fault) == 204
            outcome = await sender.send(prepared, lambda: True)
        finally:
            await http.close()
        return outcome, (await client.get("/messages"))["total"]


class Letter:
    subject = "To %t%"
    html = "<p>%t%</p>"
    text = "%t%"


def one(**fault: Any) -> Json:
    return {"calls": [fault]}


ACCEPTED, LOST = 2, 0


@pytest.mark.parametrize(
    ("fault", "expected", "mails"),
    [
        ({}, Accepted, ACCEPTED),
        (one(slow=0.1), Accepted, ACCEPTED),
        (one(status=503), RefusedReason.UNAVAILABLE, LOST),
        (one(status=503, body="<h1>Gateway</h1>"), Ambiguous, LOST),
        (one(status=500), Ambiguous, LOST),
        (one(status=500, accept=True), Ambiguous, ACCEPTED),
        (one(reset=True), Ambiguous, LOST),
        (one(reset=True, accept=True), Ambiguous, ACCEPTED),
        (one(hang=30), Ambiguous, LOST),
        (one(hang=30, accept=True), Ambiguous, ACCEPTED),
        (one(status=401), RefusedReason.SETUP, LOST),
        (one(status=403), RefusedReason.SETUP, LOST),
        (one(status=413), RefusedReason.TOO_LARGE, LOST),
        (one(status=429, headers={"Retry-After": "3"}), RefusedReason.THROTTLED, LOST),
        (one(status=400, body={"errors": [{"message": "no", "field": "from.email"}]}),
         RefusedReason.SETUP, LOST),
        ({"limit": {"calls": 0, "seconds": 60}}, RefusedReason.THROTTLED, LOST),
        ({"refuse": {"p1@example.org": "named"}}, RefusedReason.RECIPIENTS, LOST),
        ({"refuse": {"p1@example.org": "unnamed"}}, RefusedReason.UNATTRIBUTABLE, LOST),
    ],
)  # fmt: skip
async def test_faults(fault: Json, expected: object, mails: int) -> None:
    outcome, came = await outcome_of(fault)
    kind = outcome.reason if isinstance(outcome, Refused) else type(outcome)
    assert (kind, came) == (expected, mails)
    if expected is RefusedReason.RECIPIENTS:
        assert isinstance(outcome, Refused)
        assert outcome.indices == (1,)


async def test_throttling_tells_when_it_ends() -> None:
    outcome, _ = await outcome_of({"limit": {"calls": 0, "seconds": 60}})
    assert isinstance(outcome, Refused)
    assert outcome.retry_after is not None
    assert 50 < outcome.retry_after <= 62


async def test_faults_come_in_order_as_often_as_they_say() -> None:
    async with inbox() as client:
        calls = [{"status": 503, "times": 2, "after": 1}, {"status": 429}]
        assert await client.faults({"calls": calls}) == 204
        assert [(await client.send(a_call()))[0] for _ in range(5)] == [202, 503, 503, 429, 202]
        assert await client.faults({"calls": [{"statu": 1}]}) == 400
        assert await client.faults({"limit": {"calls": 1, "seconds": 60}}) == 204
        assert [(await client.send(a_call()))[0] for _ in range(2)] == [202, 429]
        assert await client.delete("/faults") == 204
        assert (await client.send(a_call()))[0] == 202


# The page


async def test_the_list_pages_and_finds() -> None:
    async with inbox() as client:
        assert await client.page("/") == await client.page("/inbox")
        empty = await client.page("/inbox")
        assert "No mail has come yet" in empty
        await client.send(a_call(30))
        first, second = await client.page("/inbox"), await client.page("/inbox?page=2")
        assert "30 mails" in first
        assert first.index("Person 29") < first.index("Person 28")
        assert ("Person 4<" in first, "Person 4<" in second) == (False, True)
        found = await client.page("/inbox?q=PERSON7@")
        assert "1 found" in found
        assert 'href="/mails/7"' in found
        assert "0 found" in await client.page("/inbox?q=%3Cb%3E")
        assert "Page 2 of 2" in await client.page("/inbox?page=99")


async def test_a_mail_is_shown_twice_beside_its_text_and_headers() -> None:
    async with inbox() as client:
        await client.send(a_call(2))
        page = await client.page("/mails/1")
        assert page.count('src="/mails/1/html"') == 2
        assert "Dear &lt;1&gt;," in page
        assert "&lt;https://example.edu/u/1&gt;" in page
        await client.page("/mails/2", status=404)


async def test_times_are_shown_in_its_zone(tmp_path: Path) -> None:
    clock = tmp_path / "clock.json"
    write_clock_file(clock, datetime(2027, 3, 17, 20, tzinfo=UTC))
    async with inbox(Options(clock_file=clock, zone="Asia/Hong_Kong")) as client:
        await client.send(a_call())
        for path in ("/inbox", "/mails/0"):
            page = await client.page(path)
            assert '<time datetime="2027-03-18T04:00+08:00">Thu 18 March 2027, 04:00</time>' in page


async def test_only_under_a_home_page_do_pages_link_to_it() -> None:
    for home in (False, True):
        async with inbox(Options(home=home)) as client:
            await client.send(a_call())
            page = await client.page("/mails/0")
            assert ('href="/mails/0/reader"' in page, 'href="/campaign"' in page) == (home, home)


async def test_nothing_in_a_mail_can_act() -> None:
    hostile = "<script>alert(1)</script>"
    content = [{"type": "text/html", "value": f"<html><head></head><body>{hostile}</body></html>"}]
    person = an_envelope(to=[{"email": "a@example.org", "name": hostile}])
    async with inbox() as client:
        call = a_call(content=content, subject=hostile, personalizations=[person])
        assert (await client.send(call))[0] == 202
        for path in ("/inbox", "/mails/0", "/inbox?q=%3Cscript%3E"):
            assert "<script" not in await client.page(path)
            policy = (await client.headers(path))["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; style-src 'self';")
        letter = (await client.headers("/mails/0/html"))["Content-Security-Policy"]
        assert letter.startswith("sandbox ")
        assert "allow-scripts" not in letter
        assert "default-src 'none'" in letter


async def test_calls_at_the_same_time_are_kept_apart() -> None:
    async with inbox() as client:
        calls = [
            a_call(custom_args={"parcel": str(n)}, personalizations=[an_envelope(n)])
            for n in range(40)
        ]
        await asyncio.gather(*(client.send(call) for call in calls))
        mails = (await client.get("/messages"))["messages"]
        assert sorted(int(mail["parcel"]) for mail in mails) == list(range(40))
        assert all(f"<{mail['parcel']}>" in mail["subject"] for mail in mails)
