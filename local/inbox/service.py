"""The inbox as a service: both providers, the pages, and what tests switch and look at."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import aiohttp
import msgspec
from aiohttp import web

from local.inbox import sendgrid, twilio
from local.inbox.events import EventWebhook, SigningKey
from local.inbox.faults import Faults, RateLimit, meet, next_fault
from local.inbox.mailboxes import Entry, Mail, Mailboxes, Messages
from local.inbox.phones import Phone, Phones, Texts
from local.inbox.statuses import StatusCallbacks
from local.pages import Pages
from local.serving import clock_of, json_response, read_json, running_application

MAILS_PER_PAGE: Final = 25
PHONES_PER_PAGE: Final = 25

_LETTER_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    "style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How an inbox is to be.

    Attributes:
        api_key: SendGrid's, the one that is taken; None takes any.
        account_sid, auth_token: Twilio's, likewise.
        events_url: where it tells what becomes of mails; None tells nobody.
        signing_key: signs that; a fresh one where None.
        clock_file: campaign time, at which messages arrive; without it they arrive in real time.
        zone: in which the pages show it.
        home: whether a home page passes the pages on, and they are to link to it.
    """

    api_key: str | None = None
    account_sid: str | None = None
    auth_token: str | None = None
    events_url: str | None = None
    signing_key: SigningKey | None = None
    clock_file: Path | None = None
    zone: str = "UTC"
    home: bool = False


class Inbox:
    """The state of an inbox, and its answers."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._clock = clock_of(options.clock_file)
        self._mailboxes = Mailboxes()
        self._phones = Phones()
        self._accepted: list[Entry] = []
        self._faults = Faults()
        self._rate, self._text_rate = RateLimit(), RateLimit()
        self.signing_key = options.signing_key or SigningKey()
        self._events = EventWebhook(
            options.events_url, self.signing_key, lambda: self._faults.receipts
        )
        self._statuses = StatusCallbacks(lambda: self._faults.texts.receipts)
        self._pages = Pages(home=options.home, zone=ZoneInfo(options.zone))

    def application(self) -> web.Application:
        application = web.Application(client_max_size=sendgrid.MAX_BODY - 1)
        application.add_routes(
            [
                web.post("/v3/mail/send", self.send_mails),
                web.route("*", "/v3/mail/send", _method_not_allowed),
                web.post("/2010-04-01/Accounts/{account}/Messages.json", self.send_text),
                web.get("/messages", self.list_messages),
                web.delete("/messages", self.delete_messages),
                web.get("/sms", self.list_texts),
                web.get("/accepted", self.list_accepted),
                web.get("/told", self.show_told),
                web.get("/faults", self.show_faults),
                web.post("/faults", self.set_faults),
                web.delete("/faults", self.clear_faults),
                web.get("/", _go_to_list),
                web.get("/inbox", self.show_list),
                web.get("/mails/{number:[0-9]{1,9}}", self.show_mail),
                web.get("/mails/{number:[0-9]{1,9}}/html", self.show_letter),
                web.get("/texts", self.show_phones),
                web.get("/texts/{phone:[0-9]{1,9}}", self.show_phone),
                web.get("/page.css", self._pages.show_style),
            ]
        )
        application.on_cleanup.append(self._close)
        return application

    async def _close(self, application: web.Application) -> None:
        await self._events.close()
        await self._statuses.close()
        self._mailboxes.close()

    # SendGrid

    async def send_mails(self, request: web.Request) -> web.Response:
        admitted, headers = self._rate.admit()
        try:
            if not admitted:
                raise sendgrid.usual_refusal(429)
            sendgrid.check_key(request, self._options.api_key)
            accept = partial(self._accept_mails, await sendgrid.read_body(request), headers)
            fault = next_fault(self._faults.calls)
            return (fault and await meet(fault, request, accept, _refuse_mails)) or accept()
        except sendgrid.Refusal as refusal:
            return sendgrid.refuse(refusal, headers)

    def _accept_mails(self, body: bytes, headers: Mapping[str, str]) -> web.Response:
        call = sendgrid.read_call(body)
        sendgrid.check_people(call, self._faults.refuse)
        if call.mail_settings.sandbox_mode.enable:
            return web.Response(status=200, headers=headers)
        message_id = secrets.token_urlsafe(16)
        fates = self._faults.receipts.list_fates(sendgrid.addressees(call))
        now = self._clock.campaign_now()
        self._accepted.append(
            self._mailboxes.keep(call, body, message_id=message_id, fates=fates, time=now)
        )
        self._events.report(call, message_id, fates)
        return web.Response(status=202, headers={**headers, "X-Message-Id": message_id})

    # Twilio

    async def send_text(self, request: web.Request) -> web.Response:
        try:
            credentials = twilio.check_credentials(
                request, self._options.account_sid, self._options.auth_token
            )
            if not self._text_rate.admit()[0]:
                raise twilio.usual_refusal(429)
            call = await twilio.read_text_call(request, *credentials)
            accept = partial(self._accept_text, call)
            fault = next_fault(self._faults.texts.calls)
            return (fault and await meet(fault, request, accept, _refuse_text)) or accept()
        except twilio.TextRefusal as refusal:
            return twilio.refuse(refusal)

    def _accept_text(self, call: twilio.TextCall) -> web.Response:
        twilio.check_number(call, self._faults.texts)
        sid, now = twilio.make_sid(), self._clock.campaign_now()
        text, entry = self._phones.keep(call, sid, now)
        self._accepted.append(entry)
        self._statuses.follow(call, text, self._faults.texts.receipts.of(call.to))
        return json_response(twilio.describe(call, sid, parts=text.parts, at=now), 201)

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

    async def list_texts(self, request: web.Request) -> web.Response:
        query = request.query
        found = self._phones.find(to=query.get("to", ""), parcel=query.get("parcel", ""))
        if "newest" in query:
            found = found[::-1]
        limit, offset = _number(request, "limit", 100), _number(request, "offset", 0)
        return json_response(Texts(len(found), list(found[offset : offset + limit])))

    async def delete_messages(self, request: web.Request) -> web.Response:
        self._mailboxes.clear()
        self._phones.clear()
        self._accepted.clear()
        return web.Response(status=204)

    async def list_accepted(self, request: web.Request) -> web.Response:
        return json_response({"accepted": self._accepted})

    async def show_told(self, request: web.Request) -> web.Response:
        return json_response({"events": self._events.told, "statuses": self._statuses.told})

    async def show_faults(self, request: web.Request) -> web.Response:
        return json_response(self._faults)

    async def set_faults(self, request: web.Request) -> web.Response:
        self._set(await read_json(request, Faults))
        return web.Response(status=204)

    async def clear_faults(self, request: web.Request) -> web.Response:
        self._set(Faults())
        return web.Response(status=204)

    def _set(self, faults: Faults) -> None:
        self._faults = faults
        self._rate, self._text_rate = RateLimit(faults.limit), RateLimit(faults.texts.limit)

    # Pages

    async def show_list(self, request: web.Request) -> web.Response:
        words = request.query.get("q", "").strip()
        found = self._mailboxes.find(words)
        page, pages = _page_of(request, len(found), MAILS_PER_PAGE)
        newest_first = found[::-1][(page - 1) * MAILS_PER_PAGE : page * MAILS_PER_PAGE]
        return self._pages.answer(
            "inbox",
            words=words,
            total=len(self._mailboxes),
            found=len(found),
            mails=[self._mailboxes.read(number) for number in newest_first],
            page=page,
            pages=pages,
            link=partial(_list_link, "/inbox", words),
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

    async def show_phones(self, request: web.Request) -> web.Response:
        words = request.query.get("q", "").strip()
        found = self._phones.list_phones(words)
        page, pages = _page_of(request, len(found), PHONES_PER_PAGE)
        return self._pages.answer(
            "texts",
            words=words,
            total=len(self._phones),
            found=len(found),
            phones=found[(page - 1) * PHONES_PER_PAGE : page * PHONES_PER_PAGE],
            page=page,
            pages=pages,
            link=partial(_list_link, "/texts", words),
        )

    async def show_phone(self, request: web.Request) -> web.Response:
        return self._pages.answer("phone", phone=self._phone(request))

    def _phone(self, request: web.Request) -> Phone:
        try:
            return self._phones.read_phone(int(request.match_info["phone"]))
        except IndexError:
            raise web.HTTPNotFound(text="No text has come to such a phone.\n") from None


async def _go_to_list(request: web.Request) -> web.Response:
    raise web.HTTPFound("/inbox")


def _page_of(request: web.Request, found: int, length: int) -> tuple[int, int]:
    """Which page of a list is asked for, and of how many."""
    pages = max(1, -(-found // length))
    return min(max(1, _number(request, "page", 1)), pages), pages


def _list_link(path: str, words: str, page: int) -> str:
    return f"{path}?" + urlencode({"q": words, "page": page} if words else {"page": page})


def _refuse_mails(status: int) -> web.Response:
    return sendgrid.refuse(sendgrid.usual_refusal(status), {})


def _refuse_text(status: int) -> web.Response:
    return twilio.refuse(twilio.usual_refusal(status))


async def _method_not_allowed(request: web.Request) -> web.Response:
    return _refuse_mails(405)


def _number(request: web.Request, name: str, default: int) -> int:
    value = request.query.get(name, "")
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else default


async def read_messages(http: aiohttp.ClientSession, inbox: str, **query: str | int) -> Messages:
    """What the inbox at this address answers to `GET /messages` with such a query."""
    async with http.get(f"{inbox}/messages", params=query, raise_for_status=True) as answer:
        return msgspec.json.decode(await answer.read(), type=Messages)


async def read_texts(http: aiohttp.ClientSession, inbox: str, **query: str | int) -> Texts:
    """What the inbox at this address answers to `GET /sms` with such a query."""
    async with http.get(f"{inbox}/sms", params=query, raise_for_status=True) as answer:
        return msgspec.json.decode(await answer.read(), type=Texts)


@asynccontextmanager
async def running_inbox(options: Options | None = None) -> AsyncGenerator[str]:
    """An inbox in this process for the length of the block; gives its address, which stands in
    for `https://api.sendgrid.com` and for `https://api.twilio.com`."""
    async with running_application(Inbox(options or Options()).application()) as url:
        yield url
