"""What providers tell of messages afterwards: who may say so, and what each of their events means.

SendGrid posts batches of events, signed with a key of its own over timestamp and body. Twilio posts
one status at a time, signed with the account's token over the address that it was given and the
form. An event counts where it carries the ids that our call carried; all that it says is reduced to
one of five kinds, and nothing else of it is kept.
"""

# The sendgrid and twilio packages carry no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from multidict import MultiDict
from sendgrid.helpers.eventwebhook import EventWebhook, EventWebhookHeader
from twilio.request_validator import SIGNATURE_HEADER, RequestValidator

from shared.clock import StorageTime
from shared.errors import NudgeError, SetupFault
from shared.rules.parcels import SHARDS
from shared.services.senders.twilio import CANNOT_GET_SMS, UNSUBSCRIBED

MOST_SENDGRID_BYTES = 8 << 20
"""SendGrid ends a batch after a second or at about 768 KB ("Event Webhook Reference", an event has
about 1 KB), and keeps silent on the most that it will ever send: ten times as much is taken."""

MOST_TWILIO_BYTES = 64 << 10
"""A status is some 500 bytes of form; it gains fields without notice, and has no long ones."""

SIGNED_AGO = timedelta(hours=25)
"""SendGrid sends again for 24 hours what was not taken, and does not say that it signs it anew: a
signature counts an hour longer. What comes twice within that time changes nothing the second time
(docs/decisions/0016)."""

SIGNED_AHEAD = timedelta(minutes=5)
"""So far may SendGrid's clock be ahead of the storage service's."""

# Timestamp and body are signed with nothing between: a digit moved from one to the other keeps the
# signature. Ten digits are all times from 2001 to 2286, and no array begins with a digit.
_TIMESTAMP = re.compile(r"[0-9]{10}")

# The ids of a call: `{campaign}:{digit}|{row key}`, its attempt, and a recipient's place in the row
# (a campaign's `parcel_size` is at most 1,000). Nothing else reaches the ledger or a queue.
_PARCEL = re.compile(r"([a-z0-9-]{1,64}):([0-9a-f])\|([0-9]{8}\|[0-9a-z]{1,64})")
_ATTEMPT = re.compile(r"[0-9a-f]{16}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,2}")

# Twilio's "Error and Warning Dictionary": what its answers say, and what only carriers know.
_TWILIO_BAD_NUMBER = frozenset(map(str, {*CANNOT_GET_SMS, 30005, 30006}))
_TWILIO_OPTED_OUT = frozenset(map(str, {UNSUBSCRIBED, 30004}))  # STOP; blocked for this number
_TWILIO_FILTERED = "30007"  # for what it says or who sends it: no wish of the person's


class BadSignature(NudgeError):
    """Nobody we know has signed it, or too long ago."""


class BadContent(NudgeError):
    """It is not what the provider sends."""


class EventKind(StrEnum):
    """What an event says, beside that the provider had accepted the call."""

    ACCEPTED = "accepted"
    """No more than that: on its way, put off, opened, or not delivered for no lasting reason."""
    DELIVERED = "delivered"
    BAD_ADDRESS = "bad address"
    """The address does not work and will not: the next message goes to another one."""
    OPTED_OUT = "opted out"
    """The person wants no more on this channel."""
    DROPPED = "dropped"
    """The provider did not pass it on, for something that we or the institution must mend."""


class Event(msgspec.Struct, frozen=True):
    """One event of one recipient.

    Attributes:
        key: the row key.
        attempt: id of the call; "" where the provider has put something else in its place.
        index: the recipient's place in the row, below 1,000. The row may be shorter.
        address: of a bad address, as the provider writes it. Never to be stored or logged.
        reason: of what was dropped, one of a few words that are ours.
    """

    campaign: str
    shard: int
    key: str
    attempt: str
    index: int
    kind: EventKind
    address: str = ""
    reason: str = ""


class Batch(msgspec.Struct, frozen=True):
    """The events of one request, and how many others were in it that no call of ours has caused."""

    events: list[Event]
    foreign: int


# --- SendGrid -------------------------------------------------------------------------------------


class _SendGridEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it comes, with our custom args among SendGrid's own fields."""

    event: str
    parcel: str
    i: str
    attempt: Any = None  # of a `deferred` event it may be SendGrid's own, which counts deliveries
    email: str | None = None
    type: str | None = None
    reason: str | None = None


_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_SENDGRID_EVENT = msgspec.json.Decoder(_SendGridEvent)


def read_sendgrid(
    body: bytes, headers: Mapping[str, str], *, public_key: str, now: StorageTime
) -> Batch:
    """The events of a request of SendGrid's Event Webhook.

    Args:
        public_key: the verification key, as SendGrid's settings show it: DER in base64.

    Raises:
        SetupFault: there is no such key, or it is none.
        BadSignature: see there.
        BadContent: the body is not a JSON array.
    """
    webhook = _open_webhook(public_key)
    signature = headers.get(EventWebhookHeader.SIGNATURE, "")
    timestamp = headers.get(EventWebhookHeader.TIMESTAMP, "")
    # What is cheap to see comes first: everybody may post here, and hashing a body takes a while.
    if not _TIMESTAMP.fullmatch(timestamp) or not _is_base64(signature):
        raise BadSignature("timestamp or signature is missing or malformed")
    signed_at = datetime.fromtimestamp(int(timestamp), UTC)
    if not now - SIGNED_AGO <= signed_at <= now + SIGNED_AHEAD:
        raise BadSignature("signed too long ago, or in the future")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadContent("the body is not text in UTF-8") from None
    if not webhook.verify_signature(text, signature, timestamp):
        raise BadSignature("the signature is not SendGrid's of this body")
    try:
        told = _ARRAY.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise BadContent("the body is not a JSON array") from None
    events = [event for raw in told if (event := _read_event(raw))]
    return Batch(events, len(told) - len(events))


@lru_cache(maxsize=8)
def _open_webhook(public_key: str) -> EventWebhook:
    try:
        webhook = EventWebhook(public_key)
    except (ValueError, UnsupportedAlgorithm):
        webhook = None
    if webhook is None or not isinstance(webhook.public_key, EllipticCurvePublicKey):
        raise SetupFault(
            "SendGrid's events cannot be told from forged ones: SENDGRID_WEBHOOK_PUBLIC_KEY is not "
            "set, or is no public key of ECDSA.",
            "Set it to the verification key that SendGrid shows for its signed Event Webhook.",
        )
    return webhook


def _is_base64(text: str) -> bool:
    """Whether a text is what encoding makes: the package would pass over whatever is not of the
    alphabet, and over bits that mean nothing."""
    try:
        return bool(text) and base64.b64encode(base64.b64decode(text, validate=True)) == (
            text.encode("ascii")
        )
    except ValueError:
        return False


def _read_event(raw: msgspec.Raw) -> Event | None:
    """An event; None where no call of ours has caused it."""
    try:
        told = _SENDGRID_EVENT.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    kind, reason = _kind_of(told)
    if kind is EventKind.BAD_ADDRESS and not told.email:
        kind = EventKind.ACCEPTED  # nobody could tell next time which address it was
    attempt = told.attempt if isinstance(told.attempt, str) else ""
    return _make_event(
        told.parcel,
        attempt if _ATTEMPT.fullmatch(attempt) else "",
        told.i,
        kind,
        address=(told.email or "") if kind is EventKind.BAD_ADDRESS else "",
        reason=reason,
    )


def _kind_of(told: _SendGridEvent) -> tuple[EventKind, str]:
    match told.event:
        case "delivered":
            return EventKind.DELIVERED, ""
        case "bounce" if told.type == "blocked":  # refused for now, or for who sends it
            return EventKind.ACCEPTED, ""
        case "bounce":
            return EventKind.BAD_ADDRESS, ""
        case "spamreport" | "unsubscribe" | "group_unsubscribe":
            return EventKind.OPTED_OUT, ""
        case "dropped":
            return _read_drop(told.reason or "")
        case _:
            return EventKind.ACCEPTED, ""


# SendGrid's "Event Webhook Reference": the reasons of `dropped`. The first four repeat what it has
# known of the address since an earlier message.
_KIND_OF_DROP = {
    "bounced address": EventKind.BAD_ADDRESS,
    "invalid": EventKind.BAD_ADDRESS,
    "unsubscribed address": EventKind.OPTED_OUT,
    "spam reporting address": EventKind.OPTED_OUT,
    "invalid smtpapi header": EventKind.DROPPED,
    "spam content": EventKind.DROPPED,
    "recipient list over package quota": EventKind.DROPPED,
}


def _read_drop(reason: str) -> tuple[EventKind, str]:
    known = reason.strip().lower()
    kind = _KIND_OF_DROP.get(known)
    if kind is None:
        return EventKind.DROPPED, "another reason"
    return kind, known if kind is EventKind.DROPPED else ""


# --- Twilio ---------------------------------------------------------------------------------------


def read_twilio(
    body: bytes, headers: Mapping[str, str], *, callback_url: str, query: str, auth_token: str
) -> Event:
    """The event of a status callback of Twilio's.

    Args:
        callback_url: the address that the sender has named, without its query. What the request
            itself seems to have been sent to depends on what stands before the app.
        query: as it came.

    Raises:
        SetupFault: there is no token.
        BadSignature: see there.
        BadContent: the form has no status, or the query lacks one of our ids.
    """
    if not auth_token:
        raise SetupFault(
            "Twilio's callbacks cannot be told from forged ones.",
            "Set TWILIO_AUTH_TOKEN to the account's token.",
        )
    form = MultiDict(_read_form(body))
    signature = headers.get(SIGNATURE_HEADER, "")
    try:
        url = f"{callback_url}?{query}"
        valid = RequestValidator(auth_token).validate(url, form, signature)
    except ValueError:  # of a query that no address can have
        valid = False
    if not valid:
        raise BadSignature("the signature is not Twilio's of this address and form")
    ids = _read_form(query)
    named = dict(ids)
    if len(named) < len(ids):
        raise BadContent("the query names something twice")
    if "MessageStatus" not in form:
        raise BadContent("the form has no MessageStatus")
    kind, reason = _kind_of_status(form["MessageStatus"], form.get("ErrorCode", ""))
    attempt, address = named.get("attempt", ""), form.get("To", "")
    if kind is EventKind.BAD_ADDRESS and not address:
        kind = EventKind.ACCEPTED
    event = _make_event(
        named.get("parcel", ""),
        attempt,
        named.get("i", ""),
        kind,
        address=address if kind is EventKind.BAD_ADDRESS else "",
        reason=reason,
    )
    if event is None or not _ATTEMPT.fullmatch(attempt):
        raise BadContent("the query does not name a recipient of a call of ours")
    return event


def _read_form(form: bytes | str) -> list[tuple[str, str]]:
    try:
        text = form.decode() if isinstance(form, bytes) else form
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise BadContent("not a form") from None


def _kind_of_status(status: str, code: str) -> tuple[EventKind, str]:
    match status.lower():
        case "delivered" | "read":
            return EventKind.DELIVERED, ""
        case "undelivered" | "failed" if code in _TWILIO_BAD_NUMBER:
            return EventKind.BAD_ADDRESS, ""
        case "undelivered" | "failed" if code in _TWILIO_OPTED_OUT:
            return EventKind.OPTED_OUT, ""
        case "undelivered" | "failed" if code == _TWILIO_FILTERED:
            return EventKind.DROPPED, "filtered by a carrier"
        case _:
            return EventKind.ACCEPTED, ""


def _make_event(
    parcel: str, attempt: str, index: str, kind: EventKind, *, address: str, reason: str
) -> Event | None:
    """An event of a recipient; None where the ids are not as ours are."""
    named = _PARCEL.fullmatch(parcel)
    if named is None or not _INDEX.fullmatch(index):
        return None
    campaign, digit, key = named.groups()
    return Event(campaign, SHARDS.index(digit), key, attempt, int(index), kind, address, reason)
