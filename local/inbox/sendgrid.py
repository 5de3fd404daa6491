"""SendGrid's `POST /v3/mail/send`: the call, its documented limits, and how it is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec
from aiohttp import web

from local.serving import json_response

MAX_BODY: Final = 30 * 1024 * 1024  # bytes: fewer than this
MAX_PERSONALIZATIONS: Final = 1000
MAX_RECIPIENTS: Final = 1000
CUSTOM_ARGS_LIMIT: Final = 10_000  # bytes of a whole call: fewer than this
SUBSTITUTIONS_LIMIT: Final = 10_000  # bytes of one personalization
MAX_CATEGORIES, MAX_CATEGORY = 10, 255

_HELP = "http://sendgrid.com/docs/API_Reference/Web_API_v3/Mail/errors.html#message."
_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z0-9-]{2,}"
)
_MAX_ADDRESS = 254
_RESERVED_HEADERS = frozenset(
    {
        "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type",
        "content-transfer-encoding", "to", "from", "subject", "reply-to", "cc", "bcc",
    }
)  # fmt: skip


class Address(msgspec.Struct, frozen=True, gc=False):
    """Somebody who sends or receives."""

    email: str = ""
    name: str | None = None


class Personalization(msgspec.Struct, frozen=True):
    """One envelope: whom a copy goes to, and what is different in it."""

    to: list[Address] = []
    cc: list[Address] = []
    bcc: list[Address] = []
    subject: str | None = None
    headers: dict[str, str] = {}
    substitutions: dict[str, str] = {}
    custom_args: dict[str, str] = {}


class Content(msgspec.Struct, frozen=True):
    """One part of the letter."""

    type: str = ""
    value: str = ""


class _Switch(msgspec.Struct, frozen=True):
    enable: bool = False


class MailSettings(msgspec.Struct, frozen=True):
    """Of `mail_settings` the one that changes what becomes of the call."""

    sandbox_mode: _Switch = _Switch()


class Call(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """The body of a call, as far as it decides what arrives."""

    personalizations: list[Personalization] = []
    sender: Address | None = None
    reply_to: Address | None = None
    subject: str | None = None
    content: list[Content] = []
    headers: dict[str, str] = {}
    custom_args: dict[str, str] = {}
    categories: list[str] = []
    mail_settings: MailSettings = MailSettings()


CALL: Final = msgspec.json.Decoder(Call)
_WHERE = re.compile(r" - at `\$([^`]*)`$")


class ApiError(msgspec.Struct, frozen=True):
    """One entry of an error body."""

    message: str
    field: str | None = None
    help: str | None = None


class Refusal(Exception):
    """A call that is not accepted."""

    def __init__(self, status: int, *errors: ApiError) -> None:
        super().__init__(status)
        self.status = status
        self.errors = errors


def read_call(body: bytes) -> Call:
    """The call in a body that keeps to SendGrid's limits. Raises Refusal, with all that is wrong
    with it, for any other."""
    try:
        call = CALL.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, _shape_error(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, ApiError("Bad Request")) from error
    if errors := list(_mistakes(call)):
        raise Refusal(400, *errors)
    return call


def _shape_error(message: str) -> ApiError:
    """SendGrid's words for a value of the wrong type: msgspec says where it stands."""
    found = _WHERE.search(message)
    path = (found[1] if found else "").removesuffix("[...]").lstrip(".")
    field = re.sub(r"\[(\d+)\]", r".\1", path)
    if not field or "custom_args" in field:
        return ApiError("Bad Request")  # values that are no strings are refused without a name
    expected = message.partition("`")[2].partition("`")[0]
    return ApiError(f"Invalid type. Expected: {expected or 'object'}.", field, _help(field))


def _help(field: str) -> str:
    return _HELP + re.sub(r"\.\d+", "", field)


def _mistakes(call: Call) -> Iterator[ApiError]:
    yield from _mistakes_of_envelopes(call)
    if call.sender is None or not call.sender.email:
        yield _error("The from object must be provided for every email send.", "from.email")
    elif not _is_address(call.sender.email):
        yield _error("Does not contain a valid address.", "from.email")
    if call.reply_to is not None and not _is_address(call.reply_to.email):
        yield _error("Does not contain a valid address.", "reply_to.email")
    if not call.subject and not all(one.subject for one in call.personalizations):
        yield _error("The subject is required.", "subject")
    elif call.subject and ("\r" in call.subject or "\n" in call.subject):
        yield _error("The subject must not contain line breaks.", "subject")
    yield from _mistakes_of_content(call.content)
    size = _json_size(call.custom_args) if call.custom_args else 0
    size += sum(_json_size(one.custom_args) for one in call.personalizations if one.custom_args)
    if size >= CUSTOM_ARGS_LIMIT:
        yield _error(f"The custom args must be less than {CUSTOM_ARGS_LIMIT} bytes.", "custom_args")
    if len(call.categories) > MAX_CATEGORIES:
        yield _error(f"There is a limit of {MAX_CATEGORIES} categories.", "categories")
    elif len(set(call.categories)) < len(call.categories):
        yield _error("Each category may be named once only.", "categories")
    for number, category in enumerate(call.categories):
        if len(category) > MAX_CATEGORY:
            yield _error(f"At most {MAX_CATEGORY} characters are taken.", f"categories.{number}")
    if reserved := _reserved(call.headers):
        yield _error(f"The header '{reserved}' is reserved.", "headers")


def _mistakes_of_envelopes(call: Call) -> Iterator[ApiError]:
    envelopes = call.personalizations
    if not envelopes:
        yield _error("You must have at least one personalization.", "personalizations")
    if len(envelopes) > MAX_PERSONALIZATIONS:
        yield _error(
            f"The personalization block is limited to {MAX_PERSONALIZATIONS} personalizations per "
            f"API request. You have provided {len(envelopes)} personalizations.",
            "personalizations",
        )
        return
    if sum(len(one.to) + len(one.cc) + len(one.bcc) for one in envelopes) > MAX_RECIPIENTS:
        yield _error(
            f"There is a limit of {MAX_RECIPIENTS} total recipients (to + cc + bcc) per request.",
            "personalizations",
        )
    for number, one in enumerate(envelopes):
        field = f"personalizations.{number}"
        if not one.to:
            yield _error("The to array is required for all personalization objects.", f"{field}.to")
        for kind, addresses in (("to", one.to), ("cc", one.cc), ("bcc", one.bcc)):
            for place, address in enumerate(addresses):
                if not _is_address(address.email):
                    yield _error(
                        "Does not contain a valid address.", f"{field}.{kind}.{place}.email"
                    )
        if one.substitutions and _json_size(one.substitutions) > SUBSTITUTIONS_LIMIT:
            yield _error(
                f"The substitutions must not exceed {SUBSTITUTIONS_LIMIT} bytes.",
                f"{field}.substitutions",
            )
        if reserved := _reserved(one.headers):
            yield _error(f"The header '{reserved}' is reserved.", f"{field}.headers")
    seen = Counter(
        address.email.casefold() for one in envelopes for address in (*one.to, *one.cc, *one.bcc)
    )
    for email, times in seen.items():
        if times > 1:
            yield _error(
                "Each unique email address in the personalizations array should only be included "
                f"once. You have included [{email}] more than once.",
                "personalizations",
            )


def _mistakes_of_content(content: Sequence[Content]) -> Iterator[ApiError]:
    if not content:
        yield _error("The content value is required.", "content")
    for number, part in enumerate(content):
        if not part.type:
            yield _error("The content type is required.", f"content.{number}.type")
        if not part.value:
            yield _error(
                "The content value must be a string at least one character in length.",
                f"content.{number}.value",
            )
    types = [part.type for part in content]
    ordered = sorted(types, key=lambda type: {"text/plain": 0, "text/html": 1}.get(type, 2))
    if types != ordered:
        yield _error(
            "If present, text/plain must come first, then text/html, then anything else.", "content"
        )
    if len(set(types)) < len(types):
        yield _error("Each content type may be given once only.", "content")


def _error(message: str, field: str) -> ApiError:
    return ApiError(message, field, _help(field))


def _is_address(email: str) -> bool:
    return len(email) <= _MAX_ADDRESS and _ADDRESS.fullmatch(email) is not None


def _json_size(values: Mapping[str, str]) -> int:
    return len(msgspec.json.encode(values))


def _reserved(headers: Mapping[str, str]) -> str | None:
    return next((name for name in headers if name.lower() in _RESERVED_HEADERS), None)


def check_people(call: Call, refused: Mapping[str, Literal["named", "unnamed"]]) -> None:
    """Raises Refusal where a call is for somebody for whose sake it is to be refused."""
    if not refused:
        return
    errors: list[ApiError] = []
    for number, one in enumerate(call.personalizations):
        for place, address in enumerate(one.to):
            kind = refused.get(address.email.casefold())
            if kind == "named":
                field = f"personalizations.{number}.to.{place}.email"
                errors.append(_error("Does not contain a valid address.", field))
            elif kind == "unnamed":
                errors.append(ApiError("Bad Request"))
    if errors:
        raise Refusal(400, *errors)


def addressees(call: Call) -> Iterator[str]:
    """The address of each mail, the first one where a mail goes to several."""
    return (one.to[0].email for one in call.personalizations)


async def read_body(request: web.Request) -> bytes:
    """The body of a call. Raises Refusal where it is too large, or not said to be JSON."""
    if request.content_type != "application/json":
        raise Refusal(415, ApiError("Content-Type should be application/json."))
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise usual_refusal(413) from error


def check_key(request: web.Request, key: str | None) -> None:
    """Raises Refusal where a call does not come with this key, or with any where it is None."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise usual_refusal(401)
    if key is not None and given.strip() != key:
        raise Refusal(
            401, ApiError("The provided authorization grant is invalid, expired, or revoked")
        )


_USUAL_MESSAGES = {
    401: "authorization required",
    403: "access forbidden",
    404: "not found",
    405: "method not allowed",
    413: "content too large",
    429: "too many requests",
    500: "internal server error",
    503: "service not available",
}


def usual_refusal(status: int) -> Refusal:
    """What SendGrid says with a status."""
    return Refusal(status, ApiError(_USUAL_MESSAGES.get(status, "Bad Request")))


def refuse(refusal: Refusal, headers: Mapping[str, str]) -> web.Response:
    """The answer that a refusal is."""
    response = json_response({"errors": refusal.errors}, refusal.status)
    response.headers.update(headers)
    return response
