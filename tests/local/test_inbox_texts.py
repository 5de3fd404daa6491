"""The inbox keeps to Twilio's documented answers, tells of texts, and shows them as phones do."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import aiohttp
import msgspec
import pytest
from aiohttp import web
from multidict import MultiDictProxy
from twilio.request_validator import RequestValidator

from local.inbox import Options, Text, Told, read_texts, running_inbox
from local.inbox.statuses import SIGNATURE
from local.serving import running_application
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
from shared.services.senders.twilio import Twilio
from shared.services.webhooks import EventKind, read_twilio
from tests.nudge_process import until

type Json = dict[str, Any]

ACCOUNT, TOKEN, SERVICE = "AC" + "1" * 32, "token", "MG" + "2" * 32
NUMBER = "+12065550123"
IDS = {"parcel": "hku-alumni-2027:0|20270317|a1", "attempt": "0123456789abcdef", "i": "0"}


@dataclass
class Callback:
    """Where statuses go; `answers` are its next ones, 204 after them."""

    url: str = ""
    forms: list[MultiDictProxy[Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        self.bodies.append(await request.read())
        self.forms.append(await request.post())  # type: ignore[arg-type]
        return web.Response(status=self.answers.pop(0) if self.answers else 204)

    def statuses(self, number: str = NUMBER) -> list[tuple[str, str]]:
        """Status and error code of what was told of a number, in order."""
        return [
            (form["MessageStatus"], form.get("ErrorCode", ""))
            for form in self.forms
            if form["To"] == number
        ]


@dataclass
class Phone:
    """An inbox, and where it tells of texts."""

    url: str
    callback: Callback
    http: aiohttp.ClientSession

    async def send(
        self, form: Json | None = None, *, account: str = ACCOUNT, authorization: str | None = None
    ) -> tuple[int, Json]:
        if authorization is None:
            authorization = basic(ACCOUNT, TOKEN)
        usual = {"To": NUMBER, "From": "HKU", "Body": "Hello", "StatusCallback": self.callback.url}
        given = {name: value for name, value in (usual | (form or {})).items() if value}
        async with self.http.post(
            f"{self.url}/2010-04-01/Accounts/{account}/Messages.json",
            data=urlencode(given),
            headers={
                "Authorization": authorization,
                "Content-Type": "application/x-www-form-urlencoded",
            },
        ) as answer:
            return answer.status, await answer.json()

    async def fault(self, **texts: Any) -> None:
        async with self.http.post(f"{self.url}/faults", json={"texts": texts}) as answer:
            assert answer.status == 204, await answer.text()

    async def texts(self, **query: str | int) -> list[Text]:
        return (await read_texts(self.http, self.url, **query)).texts

    async def page(self, path: str, status: int = 200) -> str:
        async with self.http.get(self.url + path) as answer:
            assert answer.status == status
            return await answer.text()

    async def all_told(self) -> Told:
        async def done() -> Told | None:
            async with self.http.get(f"{self.url}/told") as answer:
                told = msgspec.convert((await answer.json())["statuses"], Told)
            return None if told.waiting else told

        return await until(done)


def basic(login: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()


@asynccontextmanager
async def running_phone(options: Options | None = None) -> AsyncGenerator[Phone]:
    callback = Callback()
    application = web.Application()
    application.router.add_post("/callbacks/twilio", callback.handle)
    async with (
        running_application(application) as base,
        running_inbox(options) as url,
        aiohttp.ClientSession() as http,
    ):
        callback.url = f"{base}/callbacks/twilio?{urlencode(IDS)}"
        yield Phone(url, callback, http)


# --- answers


async def test_acceptance_is_201_with_what_twilio_documents() -> None:
    async with running_phone() as phone:
        status, answer = await phone.send()
        assert status == 201
        assert re.fullmatch(r"SM[0-9a-f]{32}", answer["sid"])
        assert answer | {"sid": "", "date_created": "", "date_updated": ""} == {
            "account_sid": ACCOUNT,
            "api_version": "2010-04-01",
            "body": "Hello",
            "date_created": "",
            "date_sent": None,
            "date_updated": "",
            "direction": "outbound-api",
            "error_code": None,
            "error_message": None,
            "from": "HKU",
            "messaging_service_sid": None,
            "num_media": "0",
            "num_segments": "1",
            "price": None,
            "price_unit": None,
            "sid": "",
            "status": "queued",
            "subresource_uris": answer["subresource_uris"],
            "to": NUMBER,
            "uri": f"/2010-04-01/Accounts/{ACCOUNT}/Messages/{answer['sid']}.json",
        }
        _, answer = await phone.send({"From": "", "MessagingServiceSid": SERVICE})
        chosen = {name: answer[name] for name in ("status", "num_segments", "from")}
        assert chosen == {"status": "accepted", "num_segments": "0", "from": None}
        assert answer["messaging_service_sid"] == SERVICE


MISTAKES: list[tuple[Json, int, int]] = [
    ({"To": ""}, 400, 21604),
    ({"To": "+1"}, 400, 21211),
    ({"To": "2065550123"}, 400, 21211),
    ({"To": "nobody"}, 400, 21211),
    ({"From": ""}, 400, 21603),
    ({"From": "a sender id that is too long"}, 400, 21212),
    ({"From": "", "MessagingServiceSid": "HKU"}, 404, 20404),
    ({"Body": ""}, 400, 21602),
    ({"Body": "x" * 1601}, 400, 21617),
    ({"StatusCallback": "nowhere"}, 400, 21609),
]


@pytest.mark.parametrize(("form", "status", "code"), MISTAKES, ids=str)
async def test_mistakes_have_their_codes(form: Json, status: int, code: int) -> None:
    async with running_phone() as phone:
        found, answer = await phone.send(form)
        assert (found, answer["code"], answer["status"]) == (status, code, status)
        assert answer["more_info"] == f"https://www.twilio.com/docs/errors/{code}"
        assert answer["message"]
        assert await phone.texts() == []


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (basic(ACCOUNT, "any"), 201),
        (basic(ACCOUNT, ""), 401),
        (basic("AC" + "9" * 32, TOKEN), 401),
        ("", 401),
        ("Bearer token", 401),
        ("Basic not-base64!", 401),
    ],
)
async def test_credentials(authorization: str, status: int) -> None:
    async with running_phone() as phone:
        found, answer = await phone.send(authorization=authorization)
        assert found == status
        assert status == 201 or answer["code"] == 20003


async def test_the_one_token_that_is_taken() -> None:
    async with running_phone(Options(account_sid=ACCOUNT, auth_token="right")) as phone:
        assert (await phone.send())[0] == 401
        assert (await phone.send(authorization=basic(ACCOUNT, "right")))[0] == 201
        other = "AC" + "9" * 32
        assert (await phone.send(account=other, authorization=basic(other, "right")))[0] == 401


# --- what goes wrong, and what the product's sender makes of it


async def outcome_of(faults: Json) -> tuple[Outcome, int]:
    """What the sender makes of a call that meets these faults, and how many texts came."""
    async with running_phone() as phone:
        http = HttpClient()
        try:
            sender = Twilio(
                http,
                base_url=phone.url,
                account_sid=ACCOUNT,
                auth_token=TOKEN,
                sender="HKU",
                callback_url=phone.callback.url.partition("?")[0],
                call_timeout=0.5,
            )
            prepared = sender.prepare(
                Letter(),
                [Envelope(0, NUMBER, "", {}, "")],
                sender=Identity(name="", email="", reply_to=""),
                parcel=IDS["parcel"],
                attempt=IDS["attempt"],
                categories=[],
            )
            await phone.fault(**faults)
            outcome = await sender.send(prepared, lambda: True)
        finally:
            await http.close()
        return outcome, len(await phone.texts())


class Letter:
    subject = ""
    html = ""
    text = "Hello"


def one(**fault: Any) -> Json:
    return {"calls": [fault]}


CAME, LOST = 1, 0


@pytest.mark.parametrize(
    ("faults", "expected", "texts"),
    [
        ({}, Accepted, CAME),
        (one(slow=0.1), Accepted, CAME),
        (one(status=503), RefusedReason.UNAVAILABLE, LOST),
        (one(status=503, body="<h1>Gateway</h1>"), Ambiguous, LOST),
        (one(status=500), Ambiguous, LOST),
        (one(status=500, accept=True), Ambiguous, CAME),
        (one(reset=True), Ambiguous, LOST),
        (one(reset=True, accept=True), Ambiguous, CAME),
        (one(hang=30), Ambiguous, LOST),
        (one(hang=30, accept=True), Ambiguous, CAME),
        (one(status=401), RefusedReason.SETUP, LOST),
        (one(status=429), RefusedReason.THROTTLED, LOST),
        ({"limit": {"calls": 0, "seconds": 60}}, RefusedReason.THROTTLED, LOST),
        ({"refuse": {NUMBER: 21211}}, RefusedReason.RECIPIENTS, LOST),
        ({"refuse": {NUMBER: 21635}}, RefusedReason.RECIPIENTS, LOST),
        ({"refuse": {NUMBER: 21408}}, RefusedReason.UNATTRIBUTABLE, LOST),
        ({"landlines": 1}, RefusedReason.RECIPIENTS, LOST),
        ({"stopped": 1}, RefusedReason.OPTED_OUT, LOST),
    ],
    ids=str,
)
async def test_faults(faults: Json, expected: object, texts: int) -> None:
    outcome, came = await outcome_of(faults)
    kind = outcome.reason if isinstance(outcome, Refused) else type(outcome)
    assert (kind, came) == (expected, texts)


async def test_texts_have_faults_of_their_own() -> None:
    async with running_phone() as phone:
        await phone.fault(limit={"calls": 1, "seconds": 60}, calls=[{"status": 500}])
        assert (await phone.send())[0] == 500
        status, answer = await phone.send()
        assert (status, answer["code"]) == (429, 20429)
        call = {
            "personalizations": [{"to": [{"email": "a@example.org"}]}],
            "from": {"email": "no-reply@its.example.edu"},
            "subject": "Hello",
            "content": [{"type": "text/plain", "value": "Hello"}],
        }
        headers = {"Authorization": "Bearer key"}
        url = f"{phone.url}/v3/mail/send"
        async with phone.http.post(url, json=call, headers=headers) as answer:
            assert answer.status == 202


async def test_a_share_of_the_numbers_is_refused_always_the_same() -> None:
    numbers = [f"+1206555{number:04d}" for number in range(200)]
    async with running_phone() as phone:
        await phone.fault(landlines=0.2, stopped=0.1)
        codes: defaultdict[int, list[str]] = defaultdict(list)
        for number in numbers:
            _, answer = await phone.send({"To": number, "StatusCallback": ""})
            codes[answer.get("code", 0)].append(number)
        assert set(codes) == {0, 21610, 21614}
        assert 20 < len(codes[21614]) < 60
        assert 8 < len(codes[21610]) < 35
        for code, some in codes.items():
            _, answer = await phone.send({"To": some[0], "StatusCallback": ""})
            assert answer.get("code", 0) == code


# --- what is told


async def test_statuses_follow_one_another_and_are_signed_as_twilios_package_verifies() -> None:
    async with running_phone() as phone:
        _, answer = await phone.send()
        assert (await phone.all_told()).taken == 3
        callback = phone.callback
        assert callback.statuses() == [("queued", ""), ("sent", ""), ("delivered", "")]
        validator = RequestValidator(TOKEN)
        for form, headers in zip(callback.forms, callback.headers, strict=True):
            assert form["MessageSid"] == form["SmsSid"] == answer["sid"]
            assert (form["AccountSid"], form["From"]) == (ACCOUNT, "HKU")
            assert validator.validate(callback.url, form, headers[SIGNATURE])
            assert not validator.validate(callback.url + "0", form, headers[SIGNATURE])
            assert not RequestValidator("wrong").validate(callback.url, form, headers[SIGNATURE])
        assert "RawDlrDoneDate" in callback.forms[-1]
        [text] = await phone.texts()
        assert text.status == "delivered"


async def test_the_product_takes_what_the_inbox_tells() -> None:
    kinds = {30003: EventKind.ACCEPTED, 30006: EventKind.BAD_ADDRESS, 30004: EventKind.OPTED_OUT}
    numbers = {f"+1206555010{place}": code for place, code in enumerate(kinds)}
    async with running_phone() as phone:
        await phone.fault(receipts={"named": numbers})
        for number in (NUMBER, *numbers):
            await phone.send({"To": number, "From": "", "MessagingServiceSid": SERVICE})
        await phone.all_told()
        callback = phone.callback
        told = {
            form["To"]: read_twilio(
                body,
                headers,
                callback_url=callback.url.partition("?")[0],
                query=callback.url.partition("?")[2],
                auth_token=TOKEN,
            ).kind
            for form, body, headers in zip(
                callback.forms, callback.bodies, callback.headers, strict=True
            )
            if form["MessageStatus"] not in ("queued", "sent")
        }
    assert told == {NUMBER: EventKind.DELIVERED} | {
        number: kinds[code] for number, code in numbers.items()
    }


@pytest.mark.parametrize(
    ("receipts", "statuses"),
    [
        ({}, ["queued", "sent", "delivered"]),
        ({"undelivered": {"30003": 1}}, ["queued", "sent", "undelivered 30003"]),
        ({"failed": {"30008": 1}}, ["queued", "failed 30008"]),
        ({"named": {NUMBER: 30005}}, ["queued", "sent", "undelivered 30005"]),
        ({"twice": True}, ["queued", "queued", "sent", "sent", "delivered", "delivered"]),
        ({"silent": True}, []),
    ],
    ids=str,
)
async def test_switches(receipts: Json, statuses: list[str]) -> None:
    async with running_phone() as phone:
        await phone.fault(receipts=receipts)
        await phone.send()
        await phone.all_told()
        assert [" ".join(one).strip() for one in phone.callback.statuses()] == statuses
        # Whoever is told nothing can still see on the phone how it went.
        await until(lambda: _has_ended(phone))


async def _has_ended(phone: Phone) -> bool:
    [text] = await phone.texts()
    return text.status in ("delivered", "undelivered", "failed")


async def test_late_and_unsigned() -> None:
    async with running_phone() as phone:
        await phone.fault(receipts={"late": 0.5, "unsigned": True})
        began = datetime.now(UTC)
        await phone.send()
        await phone.all_told()
        assert (datetime.now(UTC) - began).total_seconds() >= 0.5
        assert not any(SIGNATURE in headers for headers in phone.callback.headers)


async def test_what_is_refused_is_not_told_again() -> None:
    """Other than with mails: a receipt may be lost for good."""
    async with running_phone() as phone:
        phone.callback.answers = [500]
        await phone.send()
        told = await phone.all_told()
        assert (told.taken, told.lost) == (2, 1)


# --- views


async def test_texts_are_found_by_number_and_by_parcel(tmp_path: Path) -> None:
    clock = tmp_path / "clock.json"
    write_clock_file(clock, datetime(2027, 3, 17, 2, tzinfo=UTC))
    async with running_phone(Options(clock_file=clock)) as phone:
        await phone.send()
        await phone.send({"To": "+12065550124", "StatusCallback": "", "Body": "Grüße, 你好"})
        [text] = await phone.texts(to=NUMBER)
        assert (text.parcel, text.attempt, text.index) == (IDS["parcel"], IDS["attempt"], 0)
        assert (text.text, text.sender, text.encoding, text.parts) == ("Hello", "HKU", "GSM-7", 1)
        assert text.time.isoformat().startswith("2027-03-17T02:00")
        assert [one.sid for one in await phone.texts(parcel=IDS["parcel"])] == [text.sid]
        assert [one.encoding for one in await phone.texts(newest=1)] == ["UCS-2", "GSM-7"]
        async with phone.http.get(f"{phone.url}/accepted") as answer:
            entries = (await answer.json())["accepted"]
        assert [(one["channel"], one["parcel"], one["indices"]) for one in entries] == [
            ("sms", IDS["parcel"], [0]),
            ("sms", None, [None]),
        ]
        async with phone.http.delete(f"{phone.url}/messages") as answer:
            assert answer.status == 204
        assert await phone.texts() == []


async def test_a_phone_shows_its_thread_and_what_each_text_took() -> None:
    async with running_phone(Options(zone="Asia/Hong_Kong")) as phone:
        assert "No text has come yet" in await phone.page("/texts")
        await phone.send({"Body": "First"})
        await phone.send({"To": "+12065550124", "Body": "Other"})
        await phone.send({"Body": "你好" * 40})
        listed = await phone.page("/texts")
        assert "3 texts" in listed
        assert listed.index(NUMBER) < listed.index("+12065550124")
        assert "2 texts</span>" in listed
        thread = await phone.page("/texts/0")
        assert thread.index("First") < thread.index("你好" * 40)
        assert "Other" not in thread
        assert "5 characters, GSM-7: 1 part" in thread
        assert "80 characters, UCS-2: 2 parts" in thread
        await phone.page("/texts/2", status=404)


async def test_the_list_of_phones_pages_and_finds() -> None:
    async with running_phone() as phone:
        for number in range(30):
            await phone.send({"To": f"+120655501{number:02d}", "StatusCallback": ""})
        first, second = await phone.page("/texts"), await phone.page("/texts?page=2")
        assert ("+12065550104<" in first, "+12065550104<" in second) == (False, True)
        found = await phone.page("/texts?q=+1 206-555-0107")
        assert "1 phone found" in found
        assert 'href="/texts/7"' in found


async def test_what_did_not_arrive_is_marked() -> None:
    async with running_phone() as phone:
        await phone.fault(receipts={"undelivered": {"30005": 1}})
        await phone.send()
        await phone.all_told()
        assert 'class="fate">undelivered</span>' in await phone.page("/texts")
        assert "error 30005" in await phone.page("/texts/0")


async def test_nothing_in_a_text_can_act() -> None:
    async with running_phone() as phone:
        await phone.send({"Body": "<script>alert(1)</script>"})
        for path in ("/texts", "/texts/0", "/texts?q=%3Cscript%3E"):
            assert "<script" not in await phone.page(path)


async def test_only_under_a_home_page_does_a_thread_link_to_it() -> None:
    for home in (False, True):
        async with running_phone(Options(home=home)) as phone:
            await phone.send()
            assert ('href="/sms/0/reader"' in await phone.page("/texts/0")) == home


def test_the_ids_of_these_tests_are_as_the_product_gives_them() -> None:
    assert parse_qs(urlencode(IDS)) == {name: [value] for name, value in IDS.items()}
