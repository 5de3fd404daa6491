"""A simulated mail provider with the mailboxes of everybody behind it.

It speaks SendGrid's `POST /v3/mail/send`, with the documented limits and errors, and delivers what
it accepts to itself: `GET /inbox` shows the mails as people would see them. Calls are kept as they
came, in a file without a name that is gone with the process; in memory there are only their ids and
who is addressed, so that hundreds of thousands of mails fit.

Beside SendGrid it has switches and views of its own:

    GET, POST, DELETE /faults      what goes wrong next; see `Faults`
    GET /accepted                  one entry per accepted call: ids, indices, count, time
    GET /messages?to=&limit=&offset=   the mails, oldest first, substitutions made; `newest=1` turns
                                   them round
    GET /messages?parcel=&i=       those to one recipient of a parcel
    DELETE /messages               forgets all mails
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import secrets
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import aiohttp
import msgspec
from aiohttp import web

from local.pages import Pages
from local.serving import (
    add_serving_arguments,
    clock_of,
    cut_connection,
    json_response,
    read_json,
    running_application,
    serve,
)
from shared.clock import CampaignTime, SystemClock, monotonic

MAX_BODY: Final = 30 * 1024 * 1024  # bytes: fewer than this
MAX_PERSONALIZATIONS: Final = 1000
MAX_RECIPIENTS: Final = 1000
CUSTOM_ARGS_LIMIT: Final = 10_000  # bytes of a whole call: fewer than this
SUBSTITUTIONS_LIMIT: Final = 10_000  # bytes of one personalization
MAX_CATEGORIES, MAX_CATEGORY = 10, 255
MAILS_PER_PAGE: Final = 25

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
_LETTER_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    "style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How an inbox is to be.

    Attributes:
        api_key: the one that is taken; None takes any.
        clock_file: campaign time, at which mails arrive; without it they arrive in real time.
        zone: in which the pages show it.
        home: whether a home page passes the pages on, and they are to link to it.
    """

    api_key: str | None = None
    clock_file: Path | None = None
    zone: str = "UTC"
    home: bool = False


# --- the call ------------------------------------------------------------------------------------


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


_CALL = msgspec.json.Decoder(Call)
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
        call = _CALL.decode(body)
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


# --- mails ---------------------------------------------------------------------------------------


class Mail(msgspec.Struct, frozen=True, kw_only=True, rename={"sender": "from"}):
    """One mail as its reader gets it, substitutions made.

    Attributes:
        number: counts all mails, from 0.
        index: the custom arg `i`, where there is one.
        time: when it came, campaign time.
    """

    number: int
    message_id: str
    parcel: str | None
    attempt: str | None
    index: int | None
    to: list[Address]
    sender: Address
    reply_to: Address | None
    subject: str
    html: str
    text: str
    headers: dict[str, str]
    custom_args: dict[str, str]
    categories: list[str]
    time: datetime


class Messages(msgspec.Struct, frozen=True):
    """The answer of `GET /messages`: how many there are, and those that were asked for."""

    total: int
    messages: list[Mail]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted call, for those who count: `indices` are the custom args `i`."""

    parcel: str | None
    attempt: str | None
    indices: list[int | None]
    count: int
    message_id: str
    time: datetime


class _Kept(msgspec.Struct, frozen=True):
    """An accepted call in memory: where its body stands in the file, and whom it addresses.

    `people` is a line of address and name for each mail, case-folded, to be searched.
    """

    first: int
    count: int
    offset: int
    length: int
    people: str
    entry: Entry


class Mailboxes:
    """All mails that were accepted, in the order in which they came."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._end = 0
        self._calls: list[_Kept] = []
        self._firsts: list[int] = []
        self._decoded: tuple[int, Call] | None = None

    def __len__(self) -> int:
        return self._calls[-1].first + self._calls[-1].count if self._calls else 0

    @property
    def calls(self) -> Sequence[_Kept]:
        return self._calls

    def keep(self, call: Call, body: bytes, message_id: str, time: CampaignTime) -> None:
        count = len(call.personalizations)
        entry = Entry(
            parcel=call.custom_args.get("parcel"),
            attempt=call.custom_args.get("attempt"),
            indices=[_index_of(one) for one in call.personalizations],
            count=count,
            message_id=message_id,
            time=time,
        )
        people = "\n".join(
            " ".join(f"{address.email} {address.name or ''}" for address in one.to)
            .replace("\n", " ")
            .casefold()
            for one in call.personalizations
        )
        os.pwrite(self._file.fileno(), body, self._end)
        first = len(self)
        self._calls.append(_Kept(first, count, self._end, len(body), people, entry))
        self._firsts.append(first)
        self._end += len(body)

    def find_recipient(self, parcel: str, index: int) -> Sequence[int]:
        """Numbers of the mails to one recipient of a parcel, of every attempt."""
        return [
            call.first + place
            for call in self._calls
            if call.entry.parcel == parcel
            for place, i in enumerate(call.entry.indices)
            if i == index
        ]

    def find(self, words: str = "", to: str = "") -> Sequence[int]:
        """Numbers of the mails whose addressee's address or name has `words` in it, or whose
        address is `to`; of all where neither is given. Case does not matter."""
        wanted = (to or words).strip().casefold()
        if not wanted:
            return range(len(self))
        found: list[int] = []
        for call in self._calls:
            if wanted not in call.people:
                continue
            for place, line in enumerate(call.people.split("\n")):
                if (wanted in line.split(" ")) if to else (wanted in line):
                    found.append(call.first + place)
        return found

    def read(self, number: int) -> Mail:
        """Raises IndexError where there is no such mail."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = bisect_right(self._firsts, number) - 1
        kept = self._calls[place]
        return _compose(self._decode(place, kept), kept, number)

    def clear(self) -> None:
        self._file.truncate(0)
        self._end = 0
        self._calls.clear()
        self._firsts.clear()
        self._decoded = None

    def close(self) -> None:
        self._file.close()

    def _decode(self, place: int, kept: _Kept) -> Call:
        if self._decoded is None or self._decoded[0] != place:
            body = os.pread(self._file.fileno(), kept.length, kept.offset)
            self._decoded = place, _CALL.decode(body)
        return self._decoded[1]


def _index_of(one: Personalization) -> int | None:
    index = one.custom_args.get("i", "")
    return int(index) if index.isdecimal() else None


def _compose(call: Call, kept: _Kept, number: int) -> Mail:
    one = call.personalizations[number - kept.first]

    def fill(template: str) -> str:
        for tag, value in one.substitutions.items():
            template = template.replace(tag, value)
        return template

    parts = {part.type: fill(part.value) for part in call.content}
    assert call.sender is not None  # or it would not have been accepted
    return Mail(
        number=number,
        message_id=kept.entry.message_id,
        parcel=kept.entry.parcel,
        attempt=kept.entry.attempt,
        index=_index_of(one),
        to=one.to,
        sender=call.sender,
        reply_to=call.reply_to,
        subject=fill(one.subject or call.subject or ""),
        html=parts.get("text/html", ""),
        text=parts.get("text/plain", ""),
        headers={**call.headers, **one.headers},
        custom_args={**call.custom_args, **one.custom_args},
        categories=call.categories,
        time=kept.entry.time,
    )


# --- faults --------------------------------------------------------------------------------------


class Fault(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Something that goes wrong with a call whose body has come in whole.

    It waits `slow` seconds, then accepts the mails if `accept` says so. Then it hangs for `hang`
    seconds and resets the connection, or resets it at once (`reset`), or answers `status`; without
    any of these the call goes on as usual.

    Attributes:
        body: of the answer: text as it is, anything else as JSON; the usual error body where None.
        after: so many calls go well first.
        times: how many calls meet it; None for all.
    """

    slow: float = 0
    accept: bool = False
    hang: float = 0
    reset: bool = False
    status: int | None = None
    body: Any = None
    headers: dict[str, str] = {}
    after: int = 0
    times: int | None = 1


class Limit(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """So many calls in so many seconds of real time; the next ones are answered with 429."""

    calls: int
    seconds: float


class Faults(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `POST /faults`, which replaces all that was there.

    Attributes:
        calls: what goes wrong with the next calls, in this order.
        refuse: addresses (in lower case) for whose sake a call is refused with 400; `named` says
            which recipient it was, `unnamed` says nothing.
        limit: None limits nothing.
    """

    calls: list[Fault] = []
    refuse: dict[str, Literal["named", "unnamed"]] = {}
    limit: Limit | None = None

    def next(self) -> Fault | None:
        """The fault that this call meets; it is used up by that."""
        if not self.calls:
            return None
        fault = self.calls[0]
        if fault.after > 0:
            fault.after -= 1
            return None
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.calls.pop(0)
        return fault

    def check(self, call: Call) -> None:
        """Raises Refusal where `refuse` names an addressee."""
        if not self.refuse:
            return
        errors: list[ApiError] = []
        for number, one in enumerate(call.personalizations):
            for place, address in enumerate(one.to):
                kind = self.refuse.get(address.email.casefold())
                if kind == "named":
                    field = f"personalizations.{number}.to.{place}.email"
                    errors.append(_error("Does not contain a valid address.", field))
                elif kind == "unnamed":
                    errors.append(ApiError("Bad Request"))
        if errors:
            raise Refusal(400, *errors)


class RateLimit:
    """Counts calls in windows of real time, and says so in the X-RateLimit headers."""

    _USUAL = Limit(10_000, 1)

    def __init__(self) -> None:
        self.limit: Limit | None = None
        self._begun = monotonic()
        self._count = 0

    def admit(self) -> tuple[bool, dict[str, str]]:
        """Whether this call is let in, and the headers of its answer."""
        limit = self.limit or self._USUAL
        now = monotonic()
        if now - self._begun >= limit.seconds:
            self._begun, self._count = now, 0
        self._count += 1
        rest = self._begun + limit.seconds - now
        reset = SystemClock().campaign_now().timestamp() + rest
        headers = {
            "X-RateLimit-Limit": str(limit.calls),
            "X-RateLimit-Remaining": str(max(0, limit.calls - self._count)),
            "X-RateLimit-Reset": str(int(reset) + 1),
        }
        return self.limit is None or self._count <= limit.calls, headers


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


# --- the service ---------------------------------------------------------------------------------


class Inbox:
    """The state of an inbox, and its answers."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._clock = clock_of(options.clock_file)
        self._mailboxes = Mailboxes()
        self._faults = Faults()
        self._rate = RateLimit()
        self._pages = Pages(home=options.home, zone=ZoneInfo(options.zone))

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_BODY - 1)
        application.add_routes(
            [
                web.post("/v3/mail/send", self.send),
                web.route("*", "/v3/mail/send", _method_not_allowed),
                web.get("/messages", self.list_messages),
                web.delete("/messages", self.delete_messages),
                web.get("/accepted", self.list_accepted),
                web.get("/faults", self.show_faults),
                web.post("/faults", self.set_faults),
                web.delete("/faults", self.clear_faults),
                web.get("/", _go_to_list),
                web.get("/inbox", self.show_list),
                web.get("/mails/{number:[0-9]{1,9}}", self.show_mail),
                web.get("/mails/{number:[0-9]{1,9}}/html", self.show_letter),
                web.get("/page.css", self._pages.show_style),
            ]
        )
        application.on_cleanup.append(self._close)
        return application

    async def _close(self, application: web.Application) -> None:
        self._mailboxes.close()

    # SendGrid

    async def send(self, request: web.Request) -> web.Response:
        admitted, headers = self._rate.admit()
        try:
            if not admitted:
                raise _usual_refusal(429)
            self._check_key(request)
            body = await _read_body(request)
            fault = self._faults.next()
            if fault is not None and (answer := await self._fail(fault, request, body)):
                return answer
            return self._accept(body, headers)
        except Refusal as refusal:
            return _refuse(refusal, headers)

    def _check_key(self, request: web.Request) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _usual_refusal(401)
        if self._options.api_key is not None and key.strip() != self._options.api_key:
            message = "The provided authorization grant is invalid, expired, or revoked"
            raise Refusal(401, ApiError(message))

    def _accept(self, body: bytes, headers: Mapping[str, str]) -> web.Response:
        call = read_call(body)
        self._faults.check(call)
        if call.mail_settings.sandbox_mode.enable:
            return web.Response(status=200, headers=headers)
        message_id = secrets.token_urlsafe(16)
        self._mailboxes.keep(call, body, message_id, self._clock.campaign_now())
        return web.Response(status=202, headers={**headers, "X-Message-Id": message_id})

    async def _fail(self, fault: Fault, request: web.Request, body: bytes) -> web.Response | None:
        await asyncio.sleep(fault.slow)
        accepted = self._accept(body, {}) if fault.accept else None
        if fault.hang or fault.reset:
            await asyncio.sleep(fault.hang)
            return cut_connection(request)
        if fault.status is None:
            return accepted
        if fault.body is None:
            return _refuse(_usual_refusal(fault.status), fault.headers)
        is_text = isinstance(fault.body, str)
        return web.Response(
            body=fault.body.encode() if is_text else msgspec.json.encode(fault.body),
            content_type="text/html" if is_text else "application/json",
            status=fault.status,
            headers=fault.headers,
        )

    # Views and switches for tests

    async def list_messages(self, request: web.Request) -> web.Response:
        if "parcel" in request.query:
            index = _number(request, "i", 0)
            found = self._mailboxes.find_recipient(request.query["parcel"], index)
        else:
            found = self._mailboxes.find(to=request.query.get("to", ""))
        if "newest" in request.query:
            found = found[::-1]
        limit, offset = _number(request, "limit", 100), _number(request, "offset", 0)
        mails = [self._mailboxes.read(number) for number in found[offset : offset + limit]]
        return json_response(Messages(len(found), mails))

    async def delete_messages(self, request: web.Request) -> web.Response:
        self._mailboxes.clear()
        return web.Response(status=204)

    async def list_accepted(self, request: web.Request) -> web.Response:
        return json_response({"accepted": [call.entry for call in self._mailboxes.calls]})

    async def show_faults(self, request: web.Request) -> web.Response:
        return json_response(self._faults)

    async def set_faults(self, request: web.Request) -> web.Response:
        self._faults = await read_json(request, Faults)
        self._rate = RateLimit()
        self._rate.limit = self._faults.limit
        return web.Response(status=204)

    async def clear_faults(self, request: web.Request) -> web.Response:
        self._faults = Faults()
        self._rate = RateLimit()
        return web.Response(status=204)

    # Pages

    async def show_list(self, request: web.Request) -> web.Response:
        words = request.query.get("q", "").strip()
        found = self._mailboxes.find(words)
        pages = max(1, -(-len(found) // MAILS_PER_PAGE))
        page = min(max(1, _number(request, "page", 1)), pages)
        newest_first = found[::-1][(page - 1) * MAILS_PER_PAGE : page * MAILS_PER_PAGE]
        return self._pages.answer(
            "inbox",
            words=words,
            total=len(self._mailboxes),
            found=len(found),
            mails=[self._mailboxes.read(number) for number in newest_first],
            page=page,
            pages=pages,
            link=partial(_list_link, words),
        )

    async def show_mail(self, request: web.Request) -> web.Response:
        mail = self._mail(request)
        return self._pages.answer("mail", mail=mail, total=len(self._mailboxes))

    async def show_letter(self, request: web.Request) -> web.Response:
        """The HTML part by itself, for the frames: no script, nothing from elsewhere; links open
        in a window of their own."""
        letter = re.sub(
            r"(<head[^>]*>|^)", r'\1<base target="_blank">', self._mail(request).html, count=1
        )
        return web.Response(
            text=letter,
            content_type="text/html",
            headers={"Content-Security-Policy": _LETTER_POLICY, "Cache-Control": "no-store"},
        )

    def _mail(self, request: web.Request) -> Mail:
        try:
            return self._mailboxes.read(int(request.match_info["number"]))
        except IndexError:
            raise web.HTTPNotFound(text="There is no such mail.\n") from None


async def _go_to_list(request: web.Request) -> web.Response:
    raise web.HTTPFound("/inbox")


def _list_link(words: str, page: int) -> str:
    return "/inbox?" + urlencode({"q": words, "page": page} if words else {"page": page})


async def _read_body(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        raise Refusal(415, ApiError("Content-Type should be application/json."))
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise _usual_refusal(413) from error


def _usual_refusal(status: int) -> Refusal:
    return Refusal(status, ApiError(_USUAL_MESSAGES.get(status, "Bad Request")))


def _refuse(refusal: Refusal, headers: Mapping[str, str]) -> web.Response:
    response = json_response({"errors": refusal.errors}, refusal.status)
    response.headers.update(headers)
    return response


async def _method_not_allowed(request: web.Request) -> web.Response:
    return _refuse(_usual_refusal(405), {})


def _number(request: web.Request, name: str, default: int) -> int:
    value = request.query.get(name, "")
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else default


async def read_messages(http: aiohttp.ClientSession, inbox: str, **query: str | int) -> Messages:
    """What the inbox at this address answers to `GET /messages` with such a query."""
    async with http.get(f"{inbox}/messages", params=query, raise_for_status=True) as answer:
        return msgspec.json.decode(await answer.read(), type=Messages)


@asynccontextmanager
async def running_inbox(options: Options | None = None) -> AsyncGenerator[str]:
    """An inbox in this process for the length of the block; gives its address, which stands in
    for `https://api.sendgrid.com`."""
    async with running_application(Inbox(options or Options()).application()) as url:
        yield url


def main() -> None:
    """`python -m local.inbox`; prints `{"url": …}` when it is ready."""
    parser = argparse.ArgumentParser(
        prog="python -m local.inbox", description=(__doc__ or "").partition("\n")[0]
    )
    defaults = Options()
    add_serving_arguments(parser)
    add = parser.add_argument
    add("--api-key", help="the one key that is taken; any is, without it")
    add("--zone", default=defaults.zone, help="in which the pages show times (UTC)")
    add("--home", action="store_true", help="a home page passes the pages on: link to it")
    given = parser.parse_args()
    inbox = Inbox(
        Options(
            api_key=given.api_key,
            clock_file=given.clock_file,
            zone=given.zone,
            home=given.home,
        )
    )
    asyncio.run(serve(inbox.application(), port=given.port, leash=given.leash))


if __name__ == "__main__":
    main()
