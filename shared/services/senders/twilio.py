"""SMS through Twilio's Messages resource: one person a call, and what its answer proves.

The codes are those of Twilio's error dictionary (twilio.com/docs/api/errors). Twilio splits general
ones into finer ones and advises against leaning on single codes (its changelog of 10 July 2024). So
only what is certain is told apart: the number cannot get an SMS, its owner wants none, or our own
account and sender are at fault. Every other 400 is a refusal that blames nobody, and dispatch finds
out whether others get through (docs/decisions/0009).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from urllib.parse import quote, urlencode

import msgspec

from shared.services.http import Answer, HttpClient
from shared.services.senders import (
    Accepted,
    Ambiguous,
    Envelope,
    Identity,
    Letter,
    Outcome,
    Prepared,
    Refused,
    RefusedReason,
    Unsendable,
)
from shared.services.senders.calling import call_once, setup_fault

_LONGEST_BODY = 1_600  # UTF-16 units: error 21617 says that some characters count more than once
_LONGEST_DETAIL = 300
_DICTIONARY = "https://www.twilio.com/docs/api/errors"

# A messaging service chooses the sender by itself; any other sender is sent as `From`.
_SERVICE = re.compile(r"MG[0-9a-fA-F]{32}")

CANNOT_GET_SMS = frozenset({
    21211,  # not a valid number
    21214,  # cannot be reached
    21217,  # does not appear to be valid
    21265,  # a short code
    21266,  # the very number that sends
    21268,  # a premium-rate or information service
    21614,  # not a mobile number; for landlines of Hong Kong, too (twilio.com/guidelines/hk/sms)
    21635,  # a landline, in countries where Twilio doesn't try
})  # fmt: skip

UNSUBSCRIBED = 21610  # its owner answered STOP, and Twilio refuses what comes after it

_QUEUE_FULL = 21611  # ten hours of messages wait for this sender

_ACCOUNT = "see in Twilio's console that the account is active, paid for and no trial"
_SENDER = "set TWILIO_FROM to a sender of this account that may send SMS"
_SETUP = {
    10001: _ACCOUNT,  # not active
    10002: _ACCOUNT,  # not for trial accounts
    20005: _ACCOUNT,  # not active
    21607: _ACCOUNT,  # a trial account sends from its trial number only
    21608: _ACCOUNT,  # a trial account writes to verified numbers only
    90010: _ACCOUNT,  # not active
    21212: _SENDER,  # neither a number nor a sender id
    21401: _SENDER,  # not enabled for SMS
    21601: _SENDER,  # no number of the account
    21603: _SENDER,  # missing
    21616: _SENDER,  # matches several numbers
    21660: _SENDER,  # of another account
    21661: _SENDER,  # cannot send SMS
    21705: _SENDER,  # no messaging service
    21609: "see that PUBLIC_BASE_URL is an address that Twilio can reach",  # StatusCallback
}
"""What a person has to do, by code."""

_COUNTRY_SENDER = "in TWILIO_FROM name a sender, or a service with one, that this country takes"
_DESTINATION = {
    21408: "allow the country under SMS Geo Permissions in Twilio's console",
    21606: _COUNTRY_SENDER,  # cannot send to this destination, or not for this account
    21612: _COUNTRY_SENDER,  # this sender cannot write to this number
    21657: _COUNTRY_SENDER,  # no sender id that this destination supports
    21659: _COUNTRY_SENDER,  # a short code of another country, or no number of Twilio's
}
"""Codes that may be about one country only: one alumnus abroad must not pause all SMS. The fix goes
with the refusal, for the case that nobody else gets through either."""

# A message repeats the number, however it was written.
_NUMBER = re.compile(r"\+?\d(?:[\s().,/_-]*\d){5,}")


class Twilio:
    """The Sender of channel `sms`.

    Args:
        base_url: such as `https://api.twilio.com`.
        sender: a number, a sender id, or the id of a messaging service.
        callback_url: where Twilio reports what becomes of a message, without a query.
        call_timeout: seconds from first byte to answer (`Ages.call`).
    """

    channel = "sms"
    max_recipients = 1

    def __init__(
        self,
        http: HttpClient,
        *,
        base_url: str,
        account_sid: str,
        auth_token: str,
        sender: str,
        callback_url: str,
        call_timeout: float,
    ) -> None:
        self._http = http
        self._url = f"{base_url.rstrip('/')}/2010-04-01/Accounts/{account_sid}/Messages.json"
        credentials = base64.b64encode(f"{account_sid}:{auth_token}".encode()).decode()
        self._headers = {
            "Authorization": f"Basic {credentials}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        by_service = _SERVICE.fullmatch(sender)
        self._sender = {"MessagingServiceSid" if by_service else "From": sender}
        self._callback_url = callback_url
        self._call_timeout = call_timeout

    def prepare(
        self,
        letter: Letter,
        envelopes: Sequence[Envelope],
        *,
        sender: Identity,
        parcel: str,
        attempt: str,
        categories: Sequence[str],
    ) -> Prepared:
        """The call's form; see `Sender.prepare`. An SMS has no subject, no identity but its sender
        and no place for categories. Raises Unsendable, with the limit in words."""
        if len(envelopes) != 1:
            raise Unsendable(f"{len(envelopes)} recipients; a call carries exactly one")
        length = len(letter.text.encode("utf-16-le")) // 2
        if not 0 < length <= _LONGEST_BODY:
            raise Unsendable(f"the text has {length} characters; Twilio takes 1 to {_LONGEST_BODY}")
        [envelope] = envelopes
        # They travel in the address, as Twilio has no custom arguments. It signs the address, so
        # that is written as whatever normalises it on the way would write it, with a bare colon.
        ids = {"parcel": parcel, "attempt": attempt, "i": str(envelope.index)}
        form = {
            "To": envelope.address,
            "Body": letter.text,
            "StatusCallback": f"{self._callback_url}?{urlencode(ids, quote_via=quote, safe=':')}",
            **self._sender,
        }
        return Prepared(urlencode(form).encode(), 1)

    async def send(self, prepared: Prepared, may_start: Callable[[], bool]) -> Outcome:
        """Make the call, once; see `Sender.send`."""
        answer = await call_once(
            self._http,
            self._url,
            provider="Twilio",
            headers=self._headers,
            body=prepared.body,
            may_start=may_start,
            timeout=self._call_timeout,
        )
        return read_answer(answer) if isinstance(answer, Answer) else answer


class _Message(msgspec.Struct, frozen=True):
    sid: str


class _Error(msgspec.Struct, frozen=True):
    status: int  # repeats the answer's: no gateway on the way writes that
    code: int = 0
    message: str = ""


_MESSAGE = msgspec.json.Decoder(_Message)
_ERROR = msgspec.json.Decoder(_Error)


def read_answer(answer: Answer) -> Outcome:
    """What the answer to a call proves.

    A 201 is a message that Twilio has made and will send. A 4xx refuses it (a 429 is never
    processed, says error 20429, and has no Retry-After), and so does a 503 that Twilio itself
    wrote. Nothing else proves anything; a redirect is not followed.
    """
    error = _decode(_ERROR, answer.body)
    said = _words(answer.status, error)
    match answer.status:
        case 201:
            message = _decode(_MESSAGE, answer.body)
            return Accepted(message.sid if message else "")
        case 400:
            return _read_400(error.code if error else 0, said)
        case 401:
            return setup_fault(said, "set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN to a valid pair")
        case 403:
            return setup_fault(said, _ACCOUNT)
        case 408:
            return Refused(reason=RefusedReason.UNAVAILABLE, detail=said, retry_after=answer.wait)
        case 429:
            return Refused(reason=RefusedReason.THROTTLED, detail=said, retry_after=answer.wait)
        case 503 if error:
            return Refused(reason=RefusedReason.UNAVAILABLE, detail=said, retry_after=answer.wait)
        case status if 400 <= status < 500:
            return setup_fault(
                said, "see that TWILIO_BASE_URL is Twilio's address and TWILIO_ACCOUNT_SID is right"
            )
        case _:
            return Ambiguous(said)


def _read_400(code: int, said: str) -> Refused:
    if code in CANNOT_GET_SMS:
        return Refused(reason=RefusedReason.RECIPIENTS, detail=said, indices=(0,))
    if code == UNSUBSCRIBED:
        return Refused(reason=RefusedReason.OPTED_OUT, detail=said, indices=(0,))
    if code == _QUEUE_FULL:
        return Refused(reason=RefusedReason.THROTTLED, detail=said)
    if fix := _SETUP.get(code):
        return setup_fault(said, fix)
    fix = _DESTINATION.get(code, f"look the error up at {_DICTIONARY}")
    return Refused(reason=RefusedReason.UNATTRIBUTABLE, detail=f"{said}. Fix: {fix}")


def _decode[T](decoder: msgspec.json.Decoder[T], body: bytes) -> T | None:
    try:
        return decoder.decode(body)
    except msgspec.DecodeError:
        return None


def _words(status: int, error: _Error | None) -> str:
    """The answer for logs and people: Twilio's own words, but no number that they repeat."""
    if error is None:
        return f"Twilio answered {status}"
    message = " ".join(_NUMBER.sub("[number]", error.message).split()).rstrip(".")
    return f"Twilio answered {status} with error {error.code}: {message[:_LONGEST_DETAIL]}"
