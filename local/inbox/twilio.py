"""Twilio's `POST /2010-04-01/Accounts/{sid}/Messages.json`: the call, its limits, its refusals.

Of the documented errors those that a sender of plain texts can meet: 20003 (credentials), 21602 and
21617 (no text, too long), 21603, 21606 and 21212 (sender), 21604 and 21211 (recipient), 21609
(StatusCallback); 21610, 21614, 21408 and others where a test names numbers.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from local.inbox.faults import TextFaults
from local.serving import json_response

MOST_CHARACTERS: Final = 1600

_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_SENDER_ID = re.compile(r"#?(?=.*[A-Za-z])[A-Za-z0-9 +&_-]{1,11}")
_SERVICE = re.compile(r"MG[0-9a-f]{32}")

_MESSAGES: Final[Mapping[int, str]] = {
    20003: "Authenticate",
    20404: "The requested resource was not found",
    20429: "Too Many Requests",
    20500: "Internal Server Error",
    20503: "Service Unavailable",
    21211: "Invalid 'To' Phone Number: {to}",
    21212: "Invalid From Number (caller ID): {sender}",
    21408: "Permission to send an SMS has not been enabled for the region indicated by the 'To' "
    "number: {to}",
    21602: "Message body is required.",
    21603: "A 'From' phone number is required.",
    21604: "A 'To' phone number is required.",
    21609: "The StatusCallback URL {callback} is not a valid URL.",
    21610: "Attempt to send to unsubscribed recipient",
    21612: "Message cannot be sent with the current combination of 'To' ({to}) and/or 'From' "
    "({sender}) parameters",
    21614: "'To' number: {to}, is not a valid mobile number",
    21617: "The concatenated message body exceeds the 1600 character limit.",
    21635: "'To' number cannot be a landline",
}
_OF_STATUS: Final[Mapping[int, int]] = {
    401: 20003, 404: 20404, 429: 20429, 500: 20500, 503: 20503,
}  # fmt: skip


class TextCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that keeps to Twilio's limits.

    Attributes:
        account, token: the credentials that it came with.
        sender: a number or a sender id; "" where a messaging service chooses one.
        callback: the StatusCallback as it was given; "" for none.
    """

    account: str
    token: str
    to: str
    sender: str
    service: str
    text: str
    callback: str


class TextRefusal(Exception):
    """A call that is not accepted."""

    def __init__(self, status: int, code: int, **values: str) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code
        self.values = values


def check_credentials(
    request: web.Request, account: str | None, token: str | None
) -> tuple[str, str]:
    """Account and token of a call. Raises TextRefusal where it has none, where they are not these
    (None takes any), or not those of the account in its path."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    try:
        login, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError as error:
        raise TextRefusal(401, 20003) from error
    right = (
        scheme.lower() == "basic"
        and login == request.match_info["account"]
        and bool(password)
        and account in (None, login)
        and token in (None, password)
    )
    if not right:
        raise TextRefusal(401, 20003)
    return login, password


async def read_text_call(request: web.Request, account: str, token: str) -> TextCall:
    """The call in a form. Raises TextRefusal for the first thing that is wrong with it."""
    form = {name: str(value) for name, value in (await request.post()).items()}
    call = TextCall(
        account=account,
        token=token,
        to=form.get("To", ""),
        sender=form.get("From", ""),
        service=form.get("MessagingServiceSid", ""),
        text=form.get("Body", ""),
        callback=form.get("StatusCallback", ""),
    )
    if code := _find_mistake(call):
        raise _refusal_of(call, code)
    return call


def _find_mistake(call: TextCall) -> int | None:
    """The error code of what is wrong with a call."""
    if not call.to:
        return 21604
    if not _NUMBER.fullmatch(call.to):
        return 21211
    if not call.sender and not call.service:
        return 21603
    if call.service and not _SERVICE.fullmatch(call.service):
        return 20404
    if call.sender and not (_NUMBER.fullmatch(call.sender) or _SENDER_ID.fullmatch(call.sender)):
        return 21212
    if not call.text:
        return 21602
    if len(call.text) > MOST_CHARACTERS:
        return 21617
    if call.callback and urlsplit(call.callback).scheme not in ("http", "https"):
        return 21609
    return None


def check_number(call: TextCall, faults: TextFaults) -> None:
    """Raises TextRefusal where a test has a number refused."""
    if code := faults.code_of(call.to):
        raise _refusal_of(call, code)


def _refusal_of(call: TextCall, code: int) -> TextRefusal:
    return TextRefusal(
        404 if code == 20404 else 400, code, to=call.to, sender=call.sender, callback=call.callback
    )


def usual_refusal(status: int) -> TextRefusal:
    """What Twilio says with a status."""
    return TextRefusal(status, _OF_STATUS.get(status, 20000 + status))


def refuse(refusal: TextRefusal) -> web.Response:
    """The answer that a refusal is. Like Twilio's, it may have the number in its words."""
    words = _MESSAGES.get(refusal.code, "Bad Request")
    content = {
        "code": refusal.code,
        "message": words.format_map(refusal.values),
        "more_info": f"https://www.twilio.com/docs/errors/{refusal.code}",
        "status": refusal.status,
    }
    return json_response(content, refusal.status)


def make_sid() -> str:
    """The id of a message."""
    return f"SM{secrets.token_hex(16)}"


def describe(call: TextCall, sid: str, *, parts: int, at: datetime) -> dict[str, Any]:
    """The answer to a call that was accepted; `at` in UTC."""
    path = f"/2010-04-01/Accounts/{call.account}/Messages/{sid}"
    date = format_datetime(at)
    return {
        "account_sid": call.account,
        "api_version": "2010-04-01",
        "body": call.text,
        "date_created": date,
        "date_sent": None,
        "date_updated": date,
        "direction": "outbound-api",
        "error_code": None,
        "error_message": None,
        # A messaging service has not chosen its sender yet, nor counted the parts.
        "from": call.sender or None,
        "messaging_service_sid": call.service or None,
        "num_media": "0",
        "num_segments": "0" if call.service else str(parts),
        "price": None,
        "price_unit": None,
        "sid": sid,
        "status": "accepted" if call.service else "queued",
        "subresource_uris": {"media": f"{path}/Media.json"},
        "to": call.to,
        "uri": f"{path}.json",
    }
