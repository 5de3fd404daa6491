"""The form that an SMS is sent as, and what each answer of Twilio's proves."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from shared.services.http import Answer, HttpClient
from shared.services.senders import (
    Accepted,
    Ambiguous,
    Envelope,
    Identity,
    Outcome,
    Prepared,
    Refused,
    RefusedReason,
    Sender,
    Unsendable,
)
from shared.services.senders.twilio import Twilio, read_answer

ACCOUNT = "AC" + "0123456789abcdef" * 2
SERVICE = "MG" + "0123456789abcdef" * 2
NUMBER = "+85291234567"
PARCEL = "hku-alumni-2027:0|20270317|r00001"
SID = "SM" + "0123456789abcdef" * 2
MADE = json.dumps({"sid": SID, "status": "queued", "num_segments": "1"}).encode()


class Letter(msgspec.Struct, frozen=True):
    text: str = "HKU: 50% + 1 & more, “by 31 March” 多重身份驗證"
    subject: str = ""
    html: str = ""


def envelope(index: int = 3) -> Envelope:
    return Envelope(
        index=index,
        address=NUMBER,
        name="Chan Tai Man",
        substitutions={"t0_name_t": "Chan Tai Man"},
        unsubscribe_url="https://mfa.its.example/unsubscribe/token",
    )


def twilio(
    http: HttpClient | None = None,
    base_url: str = "https://api.twilio.example",
    *,
    sender: str = "#HKU",
    call_timeout: float = 5,
) -> Sender:
    return Twilio(
        http or HttpClient(),
        base_url=base_url,
        account_sid=ACCOUNT,
        auth_token="secret",
        sender=sender,
        callback_url="https://mfa.its.example/callbacks/twilio",
        call_timeout=call_timeout,
    )


def prepare(
    envelopes: Sequence[Envelope] | None = None,
    *,
    letter: Letter | None = None,
    sender: str = "#HKU",
) -> Prepared:
    return twilio(sender=sender).prepare(
        letter or Letter(),
        [envelope()] if envelopes is None else envelopes,
        sender=Identity(name="IT Services", email="it@its.example", reply_to="it@its.example"),
        parcel=PARCEL,
        attempt="a" * 16,
        categories=["hku-alumni-2027", "week"],
    )


def form_of(prepared: Prepared) -> dict[str, str]:
    return dict(parse_qsl(prepared.body.decode("ascii"), strict_parsing=True))


class TestForm:
    def test_all_of_it(self) -> None:
        prepared = prepare()
        form = form_of(prepared)
        callback = urlsplit(form.pop("StatusCallback"))

        assert form == {"To": NUMBER, "Body": Letter().text, "From": "#HKU"}
        assert callback._replace(query="").geturl() == "https://mfa.its.example/callbacks/twilio"
        assert dict(parse_qsl(callback.query)) == {
            "parcel": PARCEL,
            "attempt": "a" * 16,
            "i": "3",
        }
        assert prepared.count == 1

    def test_the_callback_is_what_becomes_of_it_when_it_is_normalised(self) -> None:
        """Twilio signs the address, and we check it as it came."""
        callback = form_of(prepare())["StatusCallback"]

        assert callback.endswith(
            "?parcel=hku-alumni-2027:0%7C20270317%7Cr00001&attempt=aaaaaaaaaaaaaaaa&i=3"
        )
        assert str(URL(callback)) == callback

    @pytest.mark.parametrize(
        ("sender", "key"),
        [
            ("+85264507890", "From"),
            ("12345", "From"),
            ("#HKU", "From"),
            ("MGraduates", "From"),
            (SERVICE, "MessagingServiceSid"),
        ],
    )
    def test_who_it_comes_from(self, sender: str, key: str) -> None:
        form = form_of(prepare(sender=sender))

        assert form[key] == sender
        assert len({"From", "MessagingServiceSid"} & form.keys()) == 1

    @pytest.mark.invariant(6)
    def test_what_is_personal_stays_at_home_but_for_the_number(self) -> None:
        body = prepare().body.decode()

        assert "Chan" not in body
        assert "unsubscribe" not in body

    @pytest.mark.parametrize(
        ("envelopes", "text", "reason"),
        [
            ([], "words", "0 recipients"),
            ([envelope(0), envelope(1)], "words", "2 recipients"),
            ([envelope()], "", "0 characters"),
            ([envelope()], "x" * 1_601, "1601 characters"),
            ([envelope()], "😀" * 801, "1602 characters"),
        ],
    )
    def test_what_would_be_refused_is_not_made(
        self, envelopes: Sequence[Envelope], text: str, reason: str
    ) -> None:
        with pytest.raises(Unsendable, match=reason) as unsendable:
            prepare(envelopes, letter=Letter(text=text))

        assert NUMBER not in str(unsendable.value)

    def test_the_longest_text(self) -> None:
        assert form_of(prepare(letter=Letter(text="x" * 1_600)))["Body"] == "x" * 1_600

    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100))
    def test_a_text_is_sent_as_it_stands(self, text: str) -> None:
        assert form_of(prepare(letter=Letter(text=text)))["Body"] == text


def error(code: int, message: str = "Refused", *, status: int = 400) -> bytes:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return json.dumps(
        {"code": code, "message": message, "more_info": more, "status": status}
    ).encode()


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, CIMultiDictProxy(CIMultiDict(named)), body)


def reason_of(outcome: Outcome) -> str:
    return outcome.reason if isinstance(outcome, Refused) else type(outcome).__name__.lower()


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "body", "proves"),
        [
            (201, MADE, "accepted"),
            (201, b"", "accepted"),
            (200, MADE, "ambiguous"),
            (202, MADE, "ambiguous"),
            (204, b"", "ambiguous"),
            (301, b"", "ambiguous"),
            (307, b"", "ambiguous"),
            # the number
            (400, error(21211, "Invalid 'To' Phone Number"), "recipients"),
            (400, error(21214, "'To' phone number cannot be reached"), "recipients"),
            (400, error(21217, "Phone number does not appear to be valid"), "recipients"),
            (400, error(21265, "'To' number cannot be a Short Code"), "recipients"),
            (400, error(21266, "'To' and 'From' numbers cannot be the same"), "recipients"),
            (400, error(21268, "Premium rate numbers are not allowed"), "recipients"),
            (400, error(21614, "'To' number is not a mobile number"), "recipients"),
            (400, error(21635, "'To' number cannot be a landline"), "recipients"),
            # its owner
            (400, error(21610, "Attempt to send to unsubscribed recipient"), "opted_out"),
            # this country, or all of them
            (400, error(21408, "Permission has not been enabled for the region"), "unattributable"),
            (400, error(21606, "Not message-capable for this destination"), "unattributable"),
            (400, error(21612, "Combination of 'To' and 'From'"), "unattributable"),
            (400, error(21657, "The Sender ID is invalid"), "unattributable"),
            (400, error(21659, "'From' is not a Twilio number"), "unattributable"),
            # the account and its sender
            (400, error(10001, "Account is not active"), "setup"),
            (400, error(10002, "Trial accounts do not support the feature"), "setup"),
            (400, error(20005, "Account not active"), "setup"),
            (400, error(21607, "Must be the sandbox phone number"), "setup"),
            (400, error(21608, "The number is unverified"), "setup"),
            (400, error(90010, "Account is not active"), "setup"),
            (400, error(21212, "Invalid 'From' number"), "setup"),
            (400, error(21401, "Invalid phone number"), "setup"),
            (400, error(21601, "Not a valid SMS-capable inbound number"), "setup"),
            (400, error(21603, "A 'From' number is required"), "setup"),
            (400, error(21616, "'From' matches multiple numbers"), "setup"),
            (400, error(21660, "Mismatch between 'From' and the account"), "setup"),
            (400, error(21661, "'From' is not SMS-capable"), "setup"),
            (400, error(21705, "The Messaging Service is invalid"), "setup"),
            (400, error(21609, "Invalid 'StatusCallback'"), "setup"),
            # how fast
            (400, error(21611, "Maximum number of queued messages"), "throttled"),
            (429, error(20429, "Too Many Requests", status=429), "throttled"),
            (429, b"<html>", "throttled"),
            # what nobody knows
            (400, error(99999, "Something new"), "unattributable"),
            (400, b'{"code": "21614"}', "unattributable"),
            (400, b'{"code": 21614, "mess', "unattributable"),
            (400, b"<html>", "unattributable"),
            (400, b"", "unattributable"),
            # the rest of 4xx refuses, whoever says so
            (401, error(20003, "Authenticate", status=401), "setup"),
            (401, b"", "setup"),
            (403, error(20403, "Forbidden", status=403), "setup"),
            (403, b"<html>", "setup"),
            (404, error(20404, "Not found", status=404), "setup"),
            (405, b"", "setup"),
            (408, b"", "unavailable"),
            (413, b"", "setup"),
            # above that only Twilio's own word counts
            (500, error(20500, "Internal server error", status=500), "ambiguous"),
            (502, b"<html>", "ambiguous"),
            (503, error(20503, "Service unavailable", status=503), "unavailable"),
            (503, b'{"message": "no healthy upstream"}', "ambiguous"),
            (503, b"<html>", "ambiguous"),
            (503, b"", "ambiguous"),
            (504, error(20504, "Timeout", status=504), "ambiguous"),
        ],
    )
    def test_what_an_answer_proves(self, status: int, body: bytes, proves: str) -> None:
        assert reason_of(read_answer(answer(status, body))) == proves

    def test_acceptance_brings_the_message_id(self) -> None:
        assert read_answer(answer(201, MADE)) == Accepted(SID)
        assert read_answer(answer(201, b"<html>")) == Accepted("")

    @pytest.mark.parametrize("code", [21211, 21610])
    def test_who_is_blamed_is_the_one_person_of_the_call(self, code: int) -> None:
        outcome = read_answer(answer(400, error(code)))

        assert isinstance(outcome, Refused)
        assert outcome.indices == (0,)

    @pytest.mark.parametrize("code", [0, 21408, 21608, 21611, 21612, 99999])
    def test_nobody_is_blamed_for_anything_else(self, code: int) -> None:
        outcome = read_answer(answer(400, error(code)))

        assert isinstance(outcome, Refused)
        assert outcome.indices == ()

    @pytest.mark.parametrize(
        ("status", "code", "fix"),
        [
            (401, 20003, "TWILIO_AUTH_TOKEN"),
            (403, 20403, "account is active"),
            (404, 20404, "TWILIO_BASE_URL"),
            (400, 20005, "paid for"),
            (400, 21408, "Geo Permissions"),
            (400, 21609, "PUBLIC_BASE_URL"),
            (400, 21612, "TWILIO_FROM"),
            (400, 21660, "TWILIO_FROM"),
            (400, 99999, "twilio.com/docs/api/errors"),
        ],
    )
    def test_what_a_person_must_see_to_names_its_fix(
        self, status: int, code: int, fix: str
    ) -> None:
        outcome = read_answer(answer(status, error(code, "No way.", status=status)))

        assert isinstance(outcome, Refused)
        said, _, advice = outcome.detail.partition(". Fix: ")
        assert said == f"Twilio answered {status} with error {code}: No way"
        assert fix in advice

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"retry_after": "30"}, 30),
            (
                {
                    "retry_after": "Wed, 17 Mar 2027 02:02:00 GMT",
                    "date": "Wed, 17 Mar 2027 02:00:00 GMT",
                },
                120,
            ),
        ],
    )
    @pytest.mark.parametrize("status", [408, 429, 503])
    def test_how_long_to_wait(
        self, status: int, headers: dict[str, str], seconds: float | None
    ) -> None:
        outcome = read_answer(answer(status, error(20429, status=status), **headers))

        assert isinstance(outcome, Refused)
        assert outcome.retry_after == seconds

    @pytest.mark.invariant(6)
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
    @pytest.mark.parametrize(
        "shown",
        [
            "+85291234567",
            "85291234567",
            "+852 9123 4567",
            "+852-9123-4567",
            "(852) 9123.4567",
            "9123 4567",
            "%2B85291234567",
            "＋８５２９１２３４５６７",
        ],
    )
    def test_no_number_that_the_answer_repeats_is_kept(self, status: int, shown: str) -> None:
        outcome = read_answer(
            answer(status, error(21614, f"To number: {shown}, is not a mobile", status=status))
        )

        assert not isinstance(outcome, Accepted)
        assert "[number], is not a mobile" in outcome.detail
        assert "4567" not in outcome.detail.replace(" ", "")
        assert "４５６７" not in outcome.detail

    def test_a_long_answer_is_cut(self) -> None:
        outcome = read_answer(answer(500, error(20500, "words " * 999, status=500)))

        assert isinstance(outcome, Ambiguous)
        assert len(outcome.detail) < 400

    @given(
        st.integers(200, 599),
        st.binary(max_size=60) | st.builds(error, st.integers(0, 99_999), st.text(max_size=60)),
        st.dictionaries(st.sampled_from(["date", "retry_after"]), st.text(max_size=40)),
    )
    def test_no_answer_is_too_odd_to_read(
        self, status: int, body: bytes, headers: dict[str, str]
    ) -> None:
        outcome = read_answer(answer(status, body, **headers))

        assert isinstance(outcome, Accepted) is (status == 201)
        assert isinstance(outcome, Refused) or not 400 <= status < 500


class Provider:
    """A server in Twilio's place; `reply` says what it answers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, CIMultiDictProxy[str], bytes]] = []
        self.reply: Callable[[], web.StreamResponse] = lambda: web.Response(status=201, body=MADE)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers, await request.read()))
        return self.reply()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def base_url(provider: Provider) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/{path:.*}", provider.handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    http = HttpClient()
    yield http
    await http.close()


class TestSend:
    async def test_one_call_with_the_credentials_and_the_prepared_form(
        self, http: HttpClient, provider: Provider, base_url: str
    ) -> None:
        prepared = prepare()
        outcome = await twilio(http, base_url).send(prepared, lambda: True)

        [(path, headers, body)] = provider.requests
        assert outcome == Accepted(SID)
        assert path == f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
        assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == (
            f"{ACCOUNT}:secret".encode()
        )
        assert headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert body == prepared.body

    async def test_a_refusal_is_read(
        self, http: HttpClient, provider: Provider, base_url: str
    ) -> None:
        provider.reply = lambda: web.Response(
            status=400, body=error(21614, f"To number: {NUMBER}, is not a mobile number")
        )
        outcome = await twilio(http, base_url).send(prepare(), lambda: True)

        assert outcome == Refused(
            reason=RefusedReason.RECIPIENTS,
            detail="Twilio answered 400 with error 21614: "
            "To number: [number], is not a mobile number",
            indices=(0,),
        )
        assert len(provider.requests) == 1

    async def test_a_redirect_is_not_followed(
        self, http: HttpClient, provider: Provider, base_url: str
    ) -> None:
        provider.reply = lambda: web.Response(status=307, headers={"Location": "/elsewhere"})
        outcome = await twilio(http, base_url).send(prepare(), lambda: True)

        assert outcome == Ambiguous("Twilio answered 307")
        assert len(provider.requests) == 1

    @pytest.mark.invariant(1)
    async def test_not_started(self, http: HttpClient, provider: Provider, base_url: str) -> None:
        outcome = await twilio(http, base_url).send(prepare(), lambda: False)

        assert reason_of(outcome) == "not_started"
        await asyncio.sleep(0.02)
        assert provider.requests == []

    async def test_unreachable(self, http: HttpClient) -> None:
        outcome = await twilio(http, "http://nowhere.invalid").send(prepare(), lambda: True)

        assert reason_of(outcome) == "unreachable"

    async def test_a_hang_is_ambiguous(self, http: HttpClient) -> None:
        async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.3)
            writer.close()

        async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            sender = twilio(http, f"http://127.0.0.1:{port}", call_timeout=0.1)
            outcome = await sender.send(prepare(), lambda: True)

        assert outcome == Ambiguous("Twilio: no answer (TimeoutError)")
