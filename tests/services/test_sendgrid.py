"""The mail body against SendGrid's published schema and limits; what each answer proves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

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
from shared.services.senders.sendgrid import SendGrid, read_answer

SENDER = Identity(name="IT Services", email="no-reply@its.example", reply_to="help@its.example")
HTML = "text/html; charset=utf-8"


class Letter(msgspec.Struct, frozen=True):
    subject: str = "MFA for t0_account"
    html: str = "<p>Dear t0_name_h</p>"
    text: str = "Dear t0_name_t"


def envelope(
    index: int = 0, *, address: str | None = None, name: str = "Chan Tai Man", tag: str = "value"
) -> Envelope:
    return Envelope(
        index=index,
        address=f"person{index}@mail.example" if address is None else address,
        name=name,
        substitutions={"t0_name_h": f"<bdi>{tag}</bdi>", "t0_name_t": tag},
        unsubscribe_url=f"https://mfa.its.example/unsubscribe/token{index}",
    )


def sendgrid(
    http: HttpClient | None = None,
    base_url: str = "https://api.sendgrid.example",
    call_timeout: float = 5,
) -> Sender:
    return SendGrid(
        http or HttpClient(), base_url=base_url, api_key="SG.secret", call_timeout=call_timeout
    )


def prepare(
    envelopes: Sequence[Envelope],
    *,
    parcel: str = "c:0|20270317|r00001",
    letter: Letter | None = None,
) -> Prepared:
    return sendgrid().prepare(
        letter or Letter(),
        envelopes,
        sender=SENDER,
        parcel=parcel,
        attempt="a" * 32,
        categories=["mfa-nudge", "week"],
    )


def body_of(envelopes: Sequence[Envelope]) -> dict[str, Any]:
    return json.loads(prepare(envelopes).body)


class TestBody:
    @pytest.mark.parametrize("count", [1, 500, SendGrid.max_recipients])
    def test_it_validates_against_the_published_schema(
        self, breaches: Callable[[dict[str, Any]], list[str]], count: int
    ) -> None:
        assert breaches(body_of([envelope(index) for index in range(count)])) == []

    def test_the_schema_would_notice(self, breaches: Callable[[dict[str, Any]], list[str]]) -> None:
        body = body_of([envelope()])
        del body["from"]["email"]
        body["personalizations"][0]["to"][0]["email"] = "nobody"

        assert breaches(body) == [
            "$.personalizations[0].to[0].email: 'nobody' is not a 'email'",
            "$.from: 'email' is a required property",
        ]

    def test_all_of_it(self) -> None:
        body = body_of([envelope(7)])
        body["categories"].sort()

        assert body == {
            "from": {"name": "IT Services", "email": "no-reply@its.example"},
            "reply_to": {"email": "help@its.example"},
            "subject": "MFA for t0_account",
            "personalizations": [
                {
                    "to": [{"name": "Chan Tai Man", "email": "person7@mail.example"}],
                    "substitutions": {"t0_name_h": "<bdi>value</bdi>", "t0_name_t": "value"},
                    "headers": {
                        "List-Unsubscribe": "<https://mfa.its.example/unsubscribe/token7>",
                        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
                    },
                    "custom_args": {"i": "7"},
                }
            ],
            "content": [
                {"type": "text/plain", "value": "Dear t0_name_t"},
                {"type": "text/html", "value": "<p>Dear t0_name_h</p>"},
            ],
            "custom_args": {"parcel": "c:0|20270317|r00001", "attempt": "a" * 32},
            "categories": ["mfa-nudge", "week"],
            "tracking_settings": {
                "click_tracking": {"enable": False, "enable_text": False},
                "open_tracking": {"enable": False},
                "subscription_tracking": {"enable": False},
                "ganalytics": {"enable": False},
            },
        }

    def test_people_stay_in_order(self) -> None:
        people = body_of([envelope(index) for index in (4, 2, 9)])["personalizations"]

        assert [person["custom_args"]["i"] for person in people] == ["4", "2", "9"]

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("Chan Tai Man", "Chan Tai Man"),
            ("CHAN, Tai Man", "CHAN Tai Man"),
            ("陳大文", "陳大文"),
            ("O'Neill-Wong Jr.", "O'Neill-Wong Jr."),
            ("<b>", "b"),
            ("=cmd", "=cmd"),
            ("{{7*7}}", "{{7*7}}"),
            ("a\r\nBcc: x@mail.example", "a Bcc x mail.example"),
            ('Ann "A" <a@mail.example>', "Ann A a mail.example"),
            ("\u202edrowssap", "drowssap"),
            ("", None),
            (" ,;\t", None),
        ],
    )
    def test_a_name_beside_an_address_is_only_a_name(self, name: str, shown: str | None) -> None:
        [to] = body_of([envelope(name=name)])["personalizations"][0]["to"]

        assert to.get("name") == shown
        assert to["email"] == "person0@mail.example"

    @given(st.text("abcXYZ0189!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=64))
    def test_an_address_is_sent_as_it_stands(self, local_part: str) -> None:
        address = f"{local_part}@mail.example"
        [to] = body_of([envelope(address=address, name="")])["personalizations"][0]["to"]

        assert to == {"email": address}

    @given(st.text(max_size=50))
    def test_values_are_sent_as_they_stand(self, value: str) -> None:
        [person] = body_of([envelope(tag=value)])["personalizations"]

        assert person["substitutions"]["t0_name_t"] == value


class TestLimits:
    def test_as_many_as_custom_args_leave_room_for(self) -> None:
        assert 500 <= SendGrid.max_recipients < 1_000

        envelopes = [envelope(index) for index in range(SendGrid.max_recipients)]
        assert prepare(envelopes, parcel="p" * 900).count == SendGrid.max_recipients

    @pytest.mark.parametrize(
        ("envelopes", "reason"),
        [
            ([], "0 recipients"),
            ([envelope(index) for index in range(1_001)], "1001 recipients"),
            ([envelope(index) for index in range(1_000)], "custom args of 1000 recipients"),
            (
                [envelope(0, address="a@x.example"), envelope(1, address="A@X.example")],
                "two recipients share an address",
            ),
            ([envelope(3, tag="x" * 5_000)], "substitutions of recipient 3"),
        ],
    )
    def test_what_would_be_refused_for_everybody_is_not_made(
        self, envelopes: Sequence[Envelope], reason: str
    ) -> None:
        with pytest.raises(Unsendable, match=reason) as unsendable:
            prepare(envelopes)

        assert "@" not in str(unsendable.value)

    def test_the_whole_body(self) -> None:
        with pytest.raises(Unsendable, match="30 MB"):
            prepare([envelope()], letter=Letter(html="x" * 30 * 1024 * 1024))


def errors(*pairs: tuple[str | None, str]) -> bytes:
    return json.dumps(
        {"errors": [{"field": field, "message": words, "help": None} for field, words in pairs]}
    ).encode()


BAD_ADDRESS = "Does not contain a valid address."


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, CIMultiDictProxy(CIMultiDict(named)), body)


def reason_of(outcome: Outcome) -> str:
    return outcome.reason if isinstance(outcome, Refused) else type(outcome).__name__.lower()


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "body", "proves"),
        [
            (202, b"", "accepted"),
            (200, b"", "ambiguous"),
            (204, b"", "ambiguous"),
            (307, b"", "ambiguous"),
            (400, errors(("personalizations.3.to.0.email", BAD_ADDRESS)), "recipients"),
            (400, errors(("personalizations.3.to", BAD_ADDRESS)), "recipients"),
            (400, errors(("personalizations.10.to.0.email", BAD_ADDRESS)), "unattributable"),
            (400, errors(("personalizations.3", "Something")), "unattributable"),
            (400, errors(("personalizations", "Something")), "unattributable"),
            (400, errors((None, "Bad Request")), "unattributable"),
            (400, errors(("null", "Bad Request")), "unattributable"),
            (400, b'{"errors": []}', "unattributable"),
            (400, b'{"errors": ["Bad Request"]}', "unattributable"),
            (400, b'{"error": "Bad Request"}', "unattributable"),
            (400, b'{"errors": [{"mess', "unattributable"),
            (400, b"<html>", "unattributable"),
            (400, b"", "unattributable"),
            (400, errors(("from.email", "Not verified")), "setup"),
            (400, errors(("subject", "Required")), "setup"),
            (400, errors(("content.0.value", "Empty")), "setup"),
            (400, errors(("personalizations.3.headers", "Not allowed")), "unattributable"),
            (401, errors((None, "authorization required")), "setup"),
            (403, errors((None, "access forbidden")), "setup"),
            (403, b"<html>", "setup"),
            (404, b"", "setup"),
            (405, b"", "setup"),
            (408, b"", "unavailable"),
            (413, b"", "too_large"),
            (429, errors((None, "too many requests")), "throttled"),
            (429, b"<html>", "throttled"),
            (500, errors((None, "internal server error")), "ambiguous"),
            (502, b"<html>", "ambiguous"),
            (503, errors((None, "service unavailable")), "unavailable"),
            (503, b"<html>", "ambiguous"),
            (503, b'{"errors": []}', "ambiguous"),
            (503, b"", "ambiguous"),
            (504, errors((None, "timeout")), "ambiguous"),
        ],
    )
    def test_what_an_answer_proves(self, status: int, body: bytes, proves: str) -> None:
        assert reason_of(read_answer(answer(status, body), count=10)) == proves

    def test_acceptance_brings_the_message_id(self) -> None:
        assert read_answer(answer(202, x_message_id="m1"), 10) == Accepted("m1")
        assert read_answer(answer(202), 10) == Accepted("")

    def test_recipients_are_named_by_their_place_in_the_call(self) -> None:
        body = errors(
            ("personalizations.9.to.0.email", BAD_ADDRESS),
            ("personalizations.0.to.0.email", BAD_ADDRESS),
            ("personalizations.9.to.0.name", "Too long"),
            (None, "Bad Request"),
        )

        assert read_answer(answer(400, body), 10) == Refused(
            reason=RefusedReason.RECIPIENTS,
            detail="SendGrid answered 400 and named 2 of 10 recipients",
            indices=(0, 9),
        )

    def test_a_fault_of_the_message_goes_before_recipients(self) -> None:
        body = errors(
            ("personalizations.1.to.0.email", BAD_ADDRESS),
            ("from.email", "The from address does not match a verified Sender Identity."),
        )
        outcome = read_answer(answer(400, body), 10)

        assert isinstance(outcome, Refused)
        assert outcome.reason is RefusedReason.SETUP
        assert "from.email: The from address does not match" in outcome.detail

    @pytest.mark.parametrize(
        ("status", "words", "fix"),
        [
            (401, "authorization required", "SENDGRID_API_KEY"),
            (401, "Maximum credits exceeded", "plan"),
            (403, "access forbidden", "Mail Send"),
            (404, "not found", "SENDGRID_BASE_URL"),
        ],
    )
    def test_a_setup_fault_names_its_fix(self, status: int, words: str, fix: str) -> None:
        outcome = read_answer(answer(status, errors((None, words))), 10)

        assert isinstance(outcome, Refused)
        assert words in outcome.detail
        assert fix in outcome.detail.partition(". Fix: ")[2]

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry_after": "30"}, 30),
            ({"retry_after": "600"}, 600),
            ({"retry_after": "Wed, 17 Mar 2027 02:02:00 GMT"}, 120),
            ({"x_ratelimit_reset": "1805248830"}, 30),
            ({"x_ratelimit_reset": "1805248830", "retry_after": "45"}, 45),
            ({"x_ratelimit_reset": "1805248000"}, 0),
            ({"x_ratelimit_reset": "1805248830", "date": ""}, None),
            ({"retry_after": "9" * 400}, 86_400),
            ({"retry_after": "soon"}, None),
            ({"retry_after": "-5"}, None),
            ({}, None),
        ],
    )
    @pytest.mark.parametrize("status", [429, 503])
    def test_how_long_to_wait(
        self, status: int, headers: dict[str, str], seconds: float | None
    ) -> None:
        headers = {"date": "Wed, 17 Mar 2027 02:00:00 GMT", **headers}
        outcome = read_answer(answer(status, errors((None, "busy")), **headers), 10)

        assert isinstance(outcome, Refused)
        assert outcome.retry_after == seconds

    @pytest.mark.invariant(6)
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503])
    @pytest.mark.parametrize("field", [None, "from.email", "tai.man@mail.example"])
    @pytest.mark.parametrize(
        "shown",
        [
            "tai.man@mail.example",
            "[tai.man@mail.example]",
            "<tai.man%40mail.example>",
            "tai.man\uff20x",
        ],
    )
    def test_no_address_that_the_answer_repeats_is_kept(
        self, status: int, field: str | None, shown: str
    ) -> None:
        outcome = read_answer(
            answer(status, errors((field, f"Address {shown} is not allowed"))), 10
        )

        assert not isinstance(outcome, Accepted)
        assert "tai.man" not in outcome.detail
        # What blames nobody may be about anybody, by any name: none of its words is kept.
        wordless = status == 400 and field is None
        assert ("Address [address] is not allowed" in outcome.detail) is not wordless

    def test_a_long_answer_is_cut(self) -> None:
        outcome = read_answer(answer(500, errors(*((None, f"words {n}") for n in range(999)))), 10)

        assert isinstance(outcome, Ambiguous)
        assert len(outcome.detail) < 400

    @given(
        st.integers(200, 599),
        st.binary(max_size=60),
        st.dictionaries(
            st.sampled_from(["date", "retry_after", "x_ratelimit_reset"]), st.text(max_size=40)
        ),
    )
    def test_no_answer_is_too_odd_to_read(
        self, status: int, body: bytes, headers: dict[str, str]
    ) -> None:
        outcome = read_answer(answer(status, body, **headers), 10)

        if isinstance(outcome, Refused):
            assert 400 <= status < 500


class Provider:
    """A server in SendGrid's place; `reply` says what it answers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, CIMultiDictProxy[str], bytes]] = []
        self.reply: Callable[[], web.StreamResponse] = lambda: web.Response(
            status=202, headers={"X-Message-Id": "m1"}
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers, await request.read()))
        return self.reply()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def base_url(provider: Provider) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1 << 25)
    app.router.add_post("/v3/mail/send", provider.handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    http = HttpClient()
    yield http
    await http.close()


class TestSend:
    async def test_one_call_with_the_key_and_the_prepared_body(
        self, http: HttpClient, provider: Provider, base_url: str
    ) -> None:
        prepared = prepare([envelope(index) for index in range(500)])
        outcome = await sendgrid(http, base_url).send(prepared, lambda: True)

        [(path, headers, body)] = provider.requests
        assert outcome == Accepted("m1")
        assert path == "/v3/mail/send"
        assert headers["Authorization"] == "Bearer SG.secret"
        assert headers["Content-Type"] == "application/json"
        assert body == prepared.body

    async def test_a_refusal_is_read(
        self, http: HttpClient, provider: Provider, base_url: str
    ) -> None:
        provider.reply = lambda: web.Response(status=429, headers={"Retry-After": "7"})
        outcome = await sendgrid(http, base_url).send(prepare([envelope()]), lambda: True)

        assert outcome == Refused(
            reason=RefusedReason.THROTTLED, detail="SendGrid answered 429", retry_after=7
        )
        assert len(provider.requests) == 1

    @pytest.mark.invariant(1)
    async def test_not_started(self, http: HttpClient, provider: Provider, base_url: str) -> None:
        outcome = await sendgrid(http, base_url).send(prepare([envelope()]), lambda: False)

        assert reason_of(outcome) == "not_started"
        await asyncio.sleep(0.02)
        assert provider.requests == []

    async def test_unreachable(self, http: HttpClient) -> None:
        outcome = await sendgrid(http, "http://nowhere.invalid").send(
            prepare([envelope()]), lambda: True
        )

        assert reason_of(outcome) == "unreachable"

    async def test_a_hang_is_ambiguous(self, http: HttpClient) -> None:
        async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.3)
            writer.close()

        async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            sender = sendgrid(http, f"http://127.0.0.1:{port}", call_timeout=0.1)
            outcome = await sender.send(prepare([envelope()]), lambda: True)

        assert outcome == Ambiguous("SendGrid: no answer (TimeoutError)")
