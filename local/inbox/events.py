"""The provider's Event Webhook: what became of mails, signed, in batches.

Bodies are as SendGrid sends them: a JSON array in which each event is followed by a line break (CR
LF), signed together with the time of the request by ECDSA over P-256. What is not answered with 2xx
is sent again for 24 hours, under a new time and signature.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local.inbox.fates import MailFate, MailFates
from local.inbox.postman import Postman, Retries, Told
from local.inbox.sendgrid import Call
from shared.clock import SystemClock

SIGNATURE: Final = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP: Final = "X-Twilio-Email-Event-Webhook-Timestamp"
MOST_EVENTS: Final = 1000
"""Events of one request."""

RETRIES: Final = Retries(seconds=24 * 3600, refused=True)
_GATHERING: Final = 0.1  # seconds for which events wait for others, to share a request


class SigningKey:
    """The pair of keys of a webhook; `public` is what `SENDGRID_WEBHOOK_PUBLIC_KEY` takes."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.public = base64.b64encode(
            self._private.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).decode()

    def sign(self, timestamp: str, body: bytes) -> str:
        """The signature of a request, as its header carries it."""
        signed = timestamp.encode() + body
        return base64.b64encode(self._private.sign(signed, ec.ECDSA(hashes.SHA256()))).decode()

    def headers(self, body: bytes, *, at: int) -> dict[str, str]:
        """What a request with this body carries, signed at a time (seconds of Unix time)."""
        timestamp = str(at)
        return {SIGNATURE: self.sign(timestamp, body), TIMESTAMP: timestamp}


class _Sent(msgspec.Struct, frozen=True, gc=False):
    """One mail, as its events speak of it."""

    email: str
    message_id: str
    place: int
    at: int
    custom_args: Mapping[str, str]
    categories: Sequence[str]


class _Event(msgspec.Struct, frozen=True, gc=False):
    """One thing to tell of a mail.

    Attributes:
        kind: a key of `_KINDS`.
        step: how many came before it in the mail's course.
        copy: told for the first time, or once more.
    """

    mail: _Sent
    kind: str
    step: int
    copy: int


_KINDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "processed": {"event": "processed"},
    "delivered": {"event": "delivered", "response": "250 OK"},
    "deferred": {"event": "deferred", "response": "421 try again later", "attempt": "1"},
    "bounce": {
        "event": "bounce",
        "type": "bounce",
        "status": "5.1.1",
        "reason": "550 5.1.1 The email account does not exist",
        "bounce_classification": "Invalid Address",
    },
    "blocked": {
        "event": "bounce",
        "type": "blocked",
        "status": "5.7.1",
        "reason": "554 5.7.1 Message refused by the recipient's server",
        "bounce_classification": "Reputation",
    },
    "dropped": {"event": "dropped"},
    "spamreport": {"event": "spamreport"},
    "unsubscribe": {"event": "unsubscribe"},
}
# A mail is processed, then its fate takes its course, kind by kind.
_COURSES: Final[Mapping[MailFate, Sequence[str]]] = {
    "delivered": ("processed", "delivered"),
    "deferred": ("processed", "deferred", "delivered"),
    "bounced": ("processed", "bounce"),
    "bounced_later": ("processed", "delivered", "bounce"),
    "blocked": ("processed", "blocked"),
    "dropped": ("dropped",),
    "reported": ("processed", "delivered", "spamreport"),
    "unsubscribed": ("processed", "delivered", "unsubscribe"),
}
_LONGEST_COURSE: Final = max(map(len, _COURSES.values()))


class EventWebhook:
    """Tells one address of all mails.

    Args:
        url: None tells nobody.
        fates: the switches of now.
    """

    def __init__(self, url: str | None, key: SigningKey, fates: Callable[[], MailFates]) -> None:
        self._url = url
        self._key = key
        self._fates = fates
        self._postman = Postman(RETRIES)
        self._gathered: list[_Event] = []
        self._gathering = False

    @property
    def told(self) -> Told:
        return self._postman.told

    def report(self, call: Call, message_id: str, fates: Mapping[int, MailFate]) -> None:
        """Tell of the mails of a call; `fates` are those that are not simply delivered."""
        switches = self._fates()
        if self._url is None or switches.silent:
            return
        at = int(SystemClock().campaign_now().timestamp())
        mails = [
            _Sent(
                email=one.to[0].email,
                message_id=message_id,
                place=place,
                at=at,
                custom_args={**call.custom_args, **one.custom_args},
                categories=call.categories,
            )
            for place, one in enumerate(call.personalizations)
        ]
        for copy in range(1 + switches.twice):
            events = list(_in_order(mails, fates, copy))
            if switches.backwards:
                events.reverse()
            self._postman.told.waiting += len(events)
            # A copy is of a request of its own.
            late = switches.late + 2 * _GATHERING * copy
            self._postman.begin(self._gather(self._url, events, late))

    async def _gather(self, url: str, events: Sequence[_Event], late: float) -> None:
        await asyncio.sleep(late)
        self._gathered += events
        if self._gathering:
            return
        self._gathering = True
        await asyncio.sleep(_GATHERING)
        self._gathering = False
        gathered, self._gathered = self._gathered, []
        for start in range(0, len(gathered), MOST_EVENTS):
            self._postman.begin(self._tell(url, gathered[start : start + MOST_EVENTS]))

    async def _tell(self, url: str, events: Sequence[_Event]) -> None:
        because = self._fates().dropped_because

        def make() -> tuple[bytes, dict[str, str]]:
            # Anew for each try: what waits for a host that is down must not fill the memory.
            body = write_body(_write(event, because) for event in events)
            switches = self._fates()
            at = int(SystemClock().campaign_now().timestamp() + switches.clock_ahead)
            signed = {} if switches.unsigned else self._key.headers(body, at=at)
            return body, {"Content-Type": "application/json", **signed}

        await self._postman.post(url, make, count=len(events))

    async def close(self) -> None:
        """Tell no more."""
        await self._postman.close()


def write_body(events: Iterable[Mapping[str, Any]]) -> bytes:
    """The body of a request that carries these events."""
    return b"[" + b",\r\n".join(map(msgspec.json.encode, events)) + b"]\r\n"


def _in_order(mails: Sequence[_Sent], fates: Mapping[int, MailFate], copy: int) -> Iterator[_Event]:
    """What is to be told of the mails of a call: all first events, then all second ones …"""
    courses = [_COURSES[fates.get(mail.place, "delivered")] for mail in mails]
    for step in range(_LONGEST_COURSE):
        for mail, course in zip(mails, courses, strict=True):
            if step < len(course):
                yield _Event(mail, course[step], step, copy)


def _write(event: _Event, because: str) -> dict[str, Any]:
    """The event as JSON has it. Its own fields stand over custom args of the same name, which is
    what becomes of `attempt` where a mail is deferred."""
    mail = event.mail
    named = f"{mail.message_id}.{mail.place}.{event.kind}.{event.copy}".encode()
    content: dict[str, Any] = {
        **mail.custom_args,
        "email": mail.email,
        "timestamp": mail.at + event.step,
        "smtp-id": f"<{mail.message_id}@local>",
        "category": mail.categories,
        "sg_event_id": base64.urlsafe_b64encode(blake2b(named, digest_size=16).digest()).decode(),
        "sg_message_id": f"{mail.message_id}.local-{mail.at:X}.{mail.place}",
        **_KINDS[event.kind],
    }
    if event.kind == "dropped":
        content["reason"] = because
    if event.kind == "bounce" and event.step > 1:
        # It came as a mail of its own, and is told of by address alone.
        del content["sg_message_id"]
    return content
