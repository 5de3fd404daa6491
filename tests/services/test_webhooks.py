"""Who may report, and what each event of SendGrid and of Twilio is taken for."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from twilio.request_validator import RequestValidator

from shared.clock import StorageTime
from shared.errors import SetupFault
from shared.services.webhooks import (
    SIGNED_AGO,
    SIGNED_AHEAD,
    BadContent,
    BadSignature,
    Event,
    EventKind,
    read_sendgrid,
    read_twilio,
)

NOW = StorageTime(datetime(2027, 3, 17, 2, tzinfo=UTC))
KEY = "20270317|0123456789ab00012"
PARCEL = f"alumni-2027:a|{KEY}"
ATTEMPT = "00112233aabbccdd"
ADDRESS = "Chan.Tai-Man@mail.example"

SIGNATURE = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP = "X-Twilio-Email-Event-Webhook-Timestamp"


def pem_body(key: Any) -> str:
    """A public key as SendGrid's settings show it."""
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


PRIVATE = ec.generate_private_key(ec.SECP256R1())
PUBLIC = pem_body(PRIVATE)


def stamp(at: datetime = NOW) -> str:
    return str(int(at.timestamp()))


def signed(
    body: bytes, timestamp: str | None = None, key: ec.EllipticCurvePrivateKey = PRIVATE
) -> CIMultiDict[str]:
    """The headers of a request, as SendGrid signs it."""
    timestamp = stamp() if timestamp is None else timestamp
    signature = key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return CIMultiDict({SIGNATURE: base64.b64encode(signature).decode(), TIMESTAMP: timestamp})


def told(**fields: Any) -> dict[str, Any]:
    """An event of SendGrid's, of a call of ours."""
    return {
        "email": ADDRESS,
        "timestamp": 1805248800,
        "event": "delivered",
        "sg_event_id": "c2VuZGdyaWQ",
        "category": ["alumni-2027", "week"],
        "parcel": PARCEL,
        "attempt": ATTEMPT,
        "i": "7",
        **fields,
    }


def body_of(*events: Any) -> bytes:
    """A batch as SendGrid writes it: CR LF behind each event and at the end."""
    return b"[" + b",\r\n".join(map(msgspec.json.encode, events)) + b"\r\n]\r\n"


def read(body: bytes, headers: CIMultiDict[str] | None = None, **options: Any) -> Any:
    headers = signed(body) if headers is None else headers
    return read_sendgrid(body, headers, **{"public_key": PUBLIC, "now": NOW, **options})


def events_of(*events: Any) -> list[Event]:
    return read(body_of(*events)).events


# --- SendGrid: what an event is taken for

KINDS: dict[str, tuple[dict[str, Any], EventKind]] = {
    "processed": ({"event": "processed"}, EventKind.ACCEPTED),
    "deferred": ({"event": "deferred", "attempt": "5"}, EventKind.ACCEPTED),
    "opened": ({"event": "open"}, EventKind.ACCEPTED),
    "clicked": ({"event": "click", "url": "https://x.example"}, EventKind.ACCEPTED),
    "wants mails again": ({"event": "group_resubscribe"}, EventKind.ACCEPTED),
    "a kind that is new": ({"event": "teleported"}, EventKind.ACCEPTED),
    "no kind": ({"event": ""}, EventKind.ACCEPTED),
    "delivered": ({"event": "delivered"}, EventKind.DELIVERED),
    "hard bounce": ({"event": "bounce", "type": "bounce"}, EventKind.BAD_ADDRESS),
    "bounce of no type": ({"event": "bounce"}, EventKind.BAD_ADDRESS),
    "bounce that names nobody": ({"event": "bounce", "email": None}, EventKind.ACCEPTED),
    "delayed bounce": (
        {"event": "bounce", "type": "bounce", "sg_message_id": None},
        EventKind.BAD_ADDRESS,
    ),
    "blocked": ({"event": "bounce", "type": "blocked"}, EventKind.ACCEPTED),
    "spam report": ({"event": "spamreport"}, EventKind.OPTED_OUT),
    "unsubscribe": ({"event": "unsubscribe"}, EventKind.OPTED_OUT),
    "group unsubscribe": ({"event": "group_unsubscribe"}, EventKind.OPTED_OUT),
    "dropped, bounced before": (
        {"event": "dropped", "reason": "Bounced Address"},
        EventKind.BAD_ADDRESS,
    ),
    "dropped, no address": ({"event": "dropped", "reason": "Invalid"}, EventKind.BAD_ADDRESS),
    "dropped, unsubscribed before": (
        {"event": "dropped", "reason": "Unsubscribed Address"},
        EventKind.OPTED_OUT,
    ),
    "dropped, called it spam before": (
        {"event": "dropped", "reason": "Spam Reporting Address"},
        EventKind.OPTED_OUT,
    ),
    "dropped for our header": (
        {"event": "dropped", "reason": "Invalid SMTPAPI header"},
        EventKind.DROPPED,
    ),
    "dropped for the plan": (
        {"event": "dropped", "reason": "Recipient List over Package Quota"},
        EventKind.DROPPED,
    ),
    "dropped for something new": (
        {"event": "dropped", "reason": f"Disliked {ADDRESS}"},
        EventKind.DROPPED,
    ),
    "dropped for no reason": ({"event": "dropped", "reason": None}, EventKind.DROPPED),
}


@pytest.mark.parametrize(("fields", "kind"), KINDS.values(), ids=KINDS)
def test_each_event_is_taken_for_what_it_proves(fields: dict[str, Any], kind: EventKind) -> None:
    (event,) = events_of(told(**fields))
    assert (event.campaign, event.shard, event.key, event.index) == ("alumni-2027", 10, KEY, 7)
    assert event.kind is kind
    assert event.address == (ADDRESS if kind is EventKind.BAD_ADDRESS else "")


@pytest.mark.invariant(6)
def test_why_a_mail_was_dropped_is_told_in_words_of_our_own() -> None:
    reasons = [fields.get("reason") for fields, kind in KINDS.values() if kind == "dropped"]
    words = [events_of(told(event="dropped", reason=reason))[0].reason for reason in reasons]
    assert words == [
        "invalid smtpapi header",
        "recipient list over package quota",
        "another reason",
        "another reason",
    ]


@pytest.mark.parametrize("attempt", ["5", 5, None, "", ATTEMPT.upper(), [ATTEMPT]])
def test_an_attempt_that_is_not_ours_leaves_the_event_ours(attempt: Any) -> None:
    """SendGrid counts the deliveries of a deferred mail in a field of the same name."""
    (event,) = events_of(told(event="deferred", attempt=attempt))
    assert (event.attempt, event.index) == ("", 7)


FOREIGN: dict[str, Any] = {
    "no parcel": told(parcel=None),
    "no place": told(i=None),
    "a number for a place": told(i=7),
    "a place beyond any parcel": told(i="1000"),
    "a place below": told(i="-1"),
    "a place with a zero before it": told(i="07"),
    "a place in other digits": told(i="٧"),
    "no shard": told(parcel=f"alumni-2027|{KEY}"),
    "a shard that there is not": told(parcel=f"alumni-2027:g|{KEY}"),
    "no key": told(parcel="alumni-2027:a|"),
    "the key of a fence": told(parcel="alumni-2027:a|fence"),
    "the key of a person": told(parcel=f"alumni-2027:a|person|{'a' * 32}"),
    "a key with a quote in it": told(parcel=f"alumni-2027:a|{KEY}'"),
    "a key with a line behind it": told(parcel=f"{PARCEL}\n"),
    "a campaign with a capital": told(parcel=f"Alumni:a|{KEY}"),
    "a very long key": told(parcel=f"alumni-2027:a|20270317|{'a' * 1000}"),
    "no event": {key: value for key, value in told().items() if key != "event"},
    "of the account": {"event": "account_status_change", "type": "compliance_suspend"},
    "a list": [],
    "a number": 5,
    "nothing": None,
    "an event within an event": {"event": told()},
}


@pytest.mark.parametrize("event", FOREIGN.values(), ids=FOREIGN)
def test_what_no_call_of_ours_has_caused_is_counted_and_the_rest_is_read(event: Any) -> None:
    batch = read(body_of(told(i="1"), event, told(i="2")))
    assert [one.index for one in batch.events] == [1, 2]
    assert batch.foreign == 1


def test_ten_thousand_events_are_read() -> None:
    batch = read(body_of(*(told(i=str(number % 1000)) for number in range(10_000))))
    assert (len(batch.events), batch.foreign) == (10_000, 0)
    assert read(b"[]") == msgspec.structs.replace(batch, events=[], foreign=0)


@pytest.mark.parametrize("key", [f"{KEY}a", f"{KEY}abba", "20270317|0123456789ab123456"])
def test_the_parts_of_a_parcel_that_was_split_are_known(key: str) -> None:
    assert events_of(told(parcel=f"alumni-2027:0|{key}"))[0].key == key


# --- SendGrid: who may report


def altered(headers: CIMultiDict[str], **changes: str) -> CIMultiDict[str]:
    names = {"signature": SIGNATURE, "timestamp": TIMESTAMP}
    return CIMultiDict({**headers, **{names[name]: value for name, value in changes.items()}})


BODY = body_of(told())
GOOD = signed(BODY)
OTHER = ec.generate_private_key(ec.SECP256R1())

FORGED: dict[str, tuple[bytes, CIMultiDict[str]]] = {
    "nothing is signed": (BODY, CIMultiDict()),
    "no signature": (BODY, CIMultiDict({TIMESTAMP: stamp()})),
    "no timestamp": (BODY, CIMultiDict({SIGNATURE: GOOD[SIGNATURE]})),
    "another key": (BODY, signed(BODY, key=OTHER)),
    "another body": (body_of(told(event="bounce")), GOOD),
    "a body without its last line": (BODY.removesuffix(b"\r\n"), GOOD),
    "an empty body": (b"", GOOD),
    "another time": (BODY, altered(GOOD, timestamp=stamp(NOW - timedelta(seconds=1)))),
    "a digit moved into the body": (GOOD[TIMESTAMP][-1:].encode() + BODY,
                                    altered(GOOD, timestamp=GOOD[TIMESTAMP][:-1])),
    "nine digits, and signed": (b"7" + BODY, altered(signed(b"7" + BODY, stamp()[:-1]))),
    "a bracket moved into the time": (BODY[1:], altered(GOOD, timestamp=f"{stamp()}[")),
    "a time with a space": (BODY, signed(BODY, f" {stamp()}")),
    "a time in other digits": (BODY, altered(GOOD, timestamp="١" * 10)),
    "a time in milliseconds": (BODY, signed(BODY, f"{stamp()}000")),
    "a negative time": (BODY, signed(BODY, "-100000000")),
    "an empty signature": (BODY, altered(GOOD, signature="")),
    "a signature that is no base64": (BODY, altered(GOOD, signature="é?" * 40)),
    "a signature cut short": (BODY, altered(GOOD, signature=GOOD[SIGNATURE][:-8])),
    "a signature with a space within": (BODY, altered(GOOD, signature=f" {GOOD[SIGNATURE]}")),
    "a signature that is none": (BODY, altered(GOOD, signature="AAAA")),
    "signed too long ago": (BODY, signed(BODY, stamp(NOW - SIGNED_AGO - timedelta(seconds=1)))),
    "signed in the future": (BODY, signed(BODY, stamp(NOW + SIGNED_AHEAD + timedelta(seconds=1)))),
}  # fmt: skip


@pytest.mark.parametrize(("body", "headers"), FORGED.values(), ids=FORGED)
def test_what_sendgrid_has_not_signed_lately_is_not_taken(
    body: bytes, headers: CIMultiDict[str]
) -> None:
    with pytest.raises(BadSignature):
        read(body, headers)


@pytest.mark.parametrize("at", [NOW - SIGNED_AGO, NOW, NOW + SIGNED_AHEAD])
def test_what_is_sent_again_a_day_later_is_taken(at: datetime) -> None:
    assert read(BODY, signed(BODY, stamp(at))).events


def test_headers_are_found_whatever_their_case() -> None:
    assert read(BODY, CIMultiDict({name.lower(): value for name, value in GOOD.items()})).events


UNREADABLE: dict[str, bytes] = {
    "nothing": b"",
    "an object": b"{}",
    "a number before it": b"7[]",
    "cut short": BODY[:-10],
    "two arrays": b"[][]",
    "text": b"hello",
    "not UTF-8": b"\xff\xfe[]",
    "half a character": rb'[{"event": "\ud800"}]',
    "very deep": b"[" * 100_000,
    "deep within an event": b'[{"a":' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_signed_and_no_array_is_told_so(body: bytes) -> None:
    with pytest.raises(BadContent):
        read(body)


KEYS: dict[str, str] = {
    "none": "",
    "words": "MY KEY",
    "cut short": PUBLIC[:-8],
    "of another kind": pem_body(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "beyond ASCII": "é",
    "zeros": "A" * 124,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_without_a_usable_key_the_setting_is_named_and_nothing_read(key: str) -> None:
    for _ in range(2):  # the second time, too: what fails is not remembered
        with pytest.raises(SetupFault, match="SENDGRID_WEBHOOK_PUBLIC_KEY"):
            read(BODY, public_key=key)


text = st.text(max_size=40) | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1"))


@given(st.binary(), text | st.just(GOOD[SIGNATURE]), text | st.just(GOOD[TIMESTAMP]))
def test_whatever_comes_is_refused(body: bytes, signature: str, timestamp: str) -> None:
    with pytest.raises((BadSignature, BadContent)):
        read(body, altered(GOOD, signature=signature, timestamp=timestamp))


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(told())), inner),
).map(lambda content: msgspec.json.encode([content])))  # fmt: skip
def test_whatever_is_signed_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(BadContent):
        batch = read(body)
        assert batch.foreign + len(batch.events) <= max(1, body.count(b",") + 1)


@given(st.data())
def test_no_bit_can_be_altered(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["body", "signature", "timestamp"]))
    whole = {"body": BODY, "signature": GOOD[SIGNATURE].encode(), "timestamp": stamp().encode()}
    bit = data.draw(st.integers(0, len(whole[name]) * 8 - 1))
    broken = bytearray(whole[name])
    broken[bit // 8] ^= 1 << bit % 8
    whole[name] = bytes(broken)
    headers = altered(
        GOOD,
        signature=whole["signature"].decode("latin-1"),
        timestamp=whole["timestamp"].decode("latin-1"),
    )
    with pytest.raises((BadSignature, BadContent)):
        read(whole["body"], headers)


# --- Twilio

TOKEN = "0123456789abcdef0123456789abcdef"
CALLBACK = "https://mfa.example.edu/callbacks/twilio"
QUERY = urlencode({"parcel": PARCEL, "attempt": ATTEMPT, "i": "0"})
NUMBER = "+85291234567"


def status(**fields: str) -> dict[str, str]:
    """The form of a status callback."""
    return {
        "AccountSid": "AC00000000000000000000000000000000",
        "ApiVersion": "2010-04-01",
        "From": "HKU",
        "MessageSid": "SM00000000000000000000000000000000",
        "MessageStatus": "delivered",
        "SmsStatus": "delivered",
        "To": NUMBER,
        **fields,
    }


def read_status(
    form: dict[str, str] | bytes,
    *,
    query: str = QUERY,
    signed_for: str | None = None,
    signature: str | None = None,
    token: str = TOKEN,
    auth_token: str = TOKEN,
) -> Event:
    body = form if isinstance(form, bytes) else urlencode(form).encode()
    if signature is None:
        url = f"{CALLBACK}?{query}" if signed_for is None else signed_for
        parameters = {} if isinstance(form, bytes) else form
        signature = RequestValidator(token).compute_signature(url, parameters)
    return read_twilio(
        body,
        CIMultiDict({"x-twilio-signature": signature}),
        callback_url=CALLBACK,
        query=query,
        auth_token=auth_token,
    )


STATUSES: dict[str, tuple[dict[str, str], EventKind]] = {
    "queued": ({"MessageStatus": "queued"}, EventKind.ACCEPTED),
    "sent": ({"MessageStatus": "sent"}, EventKind.ACCEPTED),
    "a status that is new": ({"MessageStatus": "teleported"}, EventKind.ACCEPTED),
    "sent, with a code": ({"MessageStatus": "sent", "ErrorCode": "30005"}, EventKind.ACCEPTED),
    "delivered": ({"MessageStatus": "delivered"}, EventKind.DELIVERED),
    "read": ({"MessageStatus": "read"}, EventKind.DELIVERED),
    "phone is off": (
        {"MessageStatus": "undelivered", "ErrorCode": "30003"},
        EventKind.ACCEPTED,
    ),
    "nobody knows": ({"MessageStatus": "undelivered", "ErrorCode": "30008"}, EventKind.ACCEPTED),
    "no code": ({"MessageStatus": "failed"}, EventKind.ACCEPTED),
    "unknown number": (
        {"MessageStatus": "undelivered", "ErrorCode": "30005"},
        EventKind.BAD_ADDRESS,
    ),
    "landline": ({"MessageStatus": "undelivered", "ErrorCode": "30006"}, EventKind.BAD_ADDRESS),
    "no mobile number": ({"MessageStatus": "failed", "ErrorCode": "21614"}, EventKind.BAD_ADDRESS),
    "landline elsewhere": (
        {"MessageStatus": "failed", "ErrorCode": "21635"},
        EventKind.BAD_ADDRESS,
    ),
    "invalid number": ({"MessageStatus": "failed", "ErrorCode": "21211"}, EventKind.BAD_ADDRESS),
    "invalid, and not said which": (
        {"MessageStatus": "failed", "ErrorCode": "21211", "To": ""},
        EventKind.ACCEPTED,
    ),
    "STOP": ({"MessageStatus": "failed", "ErrorCode": "21610"}, EventKind.OPTED_OUT),
    "blocked": ({"MessageStatus": "undelivered", "ErrorCode": "30004"}, EventKind.OPTED_OUT),
    "filtered": ({"MessageStatus": "undelivered", "ErrorCode": "30007"}, EventKind.DROPPED),
    "a code beside a good status": (
        {"MessageStatus": "delivered", "ErrorCode": "30005"},
        EventKind.DELIVERED,
    ),
    "a field that is new": ({"Weather": "fine ☀", "Empty": ""}, EventKind.DELIVERED),
}


@pytest.mark.parametrize(("fields", "kind"), STATUSES.values(), ids=STATUSES)
def test_each_status_is_taken_for_what_it_proves(fields: dict[str, str], kind: EventKind) -> None:
    event = read_status(status(**fields))
    assert (event.campaign, event.shard, event.key) == ("alumni-2027", 10, KEY)
    assert (event.attempt, event.index, event.kind) == (ATTEMPT, 0, kind)
    assert event.address == (NUMBER if kind is EventKind.BAD_ADDRESS else "")


def query_of(**ids: str) -> str:
    return urlencode({"parcel": PARCEL, "attempt": ATTEMPT, "i": "0", **ids})


READERS: dict[str, Callable[[], Event]] = {
    "no signature": lambda: read_status(status(), signature=""),
    "words": lambda: read_status(status(), signature="please"),
    "beyond ASCII": lambda: read_status(status(), signature="é" * 28),
    "another token": lambda: read_status(status(), token="f" * 32),
    "another form": lambda: read_status(
        status(MessageStatus="failed", ErrorCode="21610"),
        signature=RequestValidator(TOKEN).compute_signature(f"{CALLBACK}?{QUERY}", status()),
    ),
    "another parcel": lambda: read_status(
        status(), query=query_of(i="1"), signed_for=f"{CALLBACK}?{QUERY}"
    ),
    "another host": lambda: read_status(
        status(), signed_for=f"https://elsewhere.example/callbacks/twilio?{QUERY}"
    ),
    "half a character": lambda: read_status(status(), query="\ud800", signature="a" * 28),
    "no query": lambda: read_status(status(), query="", signed_for=f"{CALLBACK}?{QUERY}"),
}


@pytest.mark.parametrize("forged", READERS.values(), ids=READERS)
def test_what_twilio_has_not_signed_is_not_taken(forged: Callable[[], Event]) -> None:
    with pytest.raises(BadSignature):
        forged()


NO_STATUS: dict[str, str] = {
    "no ids": "a=b",
    "no attempt": urlencode({"parcel": PARCEL, "i": "0"}),
    "an attempt that is none": query_of(attempt="5"),
    "a place that is none": query_of(i="x"),
    "a parcel that is none": query_of(parcel="fence"),
    "a place twice": f"{QUERY}&i=1",
    "no form": "parcel",
    "bytes that are no text": f"{QUERY}&x=%FF",
}


@pytest.mark.parametrize("query", NO_STATUS.values(), ids=NO_STATUS)
def test_what_is_signed_and_names_no_recipient_is_told_so(query: str) -> None:
    with pytest.raises(BadContent):
        read_status(status(), query=query)


@pytest.mark.parametrize("body", [b"\xff", b"a", b"&" * 1000, b"a=%FF", b"{}"])
def test_a_body_that_is_no_form_is_told_so(body: bytes) -> None:
    with pytest.raises((BadContent, BadSignature)):
        read_status(body)


def test_without_a_token_the_setting_is_named() -> None:
    with pytest.raises(SetupFault, match="TWILIO_AUTH_TOKEN"):
        read_status(status(), auth_token="")


@given(st.binary(max_size=200), text, text)
def test_whatever_comes_from_a_stranger_is_refused(body: bytes, query: str, signature: str) -> None:
    with pytest.raises((BadSignature, BadContent)):
        read_status(body, query=query, signature=signature)
