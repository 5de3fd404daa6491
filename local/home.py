"""The home page: the one address of a local system, from which all of it is seen and steered.

    GET  /                        the clock, where the campaign stands, the latest mails and texts
    POST /clock/next-day, /clock/next-touch
    GET  /people/{object id}      be this alumnus; POST /people/{object id}/register
    GET  /campaign                the campaign file as it stands in `config`; POST writes it
    GET  /inbox, /mails/…, /texts, /texts/…   the inbox's pages, passed on
    GET  /status                  leads to the product's own status page

It listens on loopback only. Whatever changes something is a form of its own pages: a request from
another site is refused, and so is one under a name that only leads here (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from local.campaign import make_live
from local.inbox import Mail, Text, read_messages, read_texts
from local.moves import AFTER_OPENING, Mover, next_day, next_touch
from local.pages import PAGE_HEADERS, Pages
from local.person import People
from local.serving import running_application
from shared.clock import CampaignTime, monotonic
from shared.rules.calendar import next_hours, open_hours
from shared.rules.campaign import Campaign, CampaignMistakes, Mistake, parse_campaign
from shared.settings import is_loopback

if TYPE_CHECKING:
    from local.system import LocalSystem
    from shared.workflows.campaigns import Standing

MOVE_PATIENCE = 20.0
"""Seconds for which a press waits for what comes of it."""

TAKEN_PATIENCE, TAKEN_POLL = 10.0, 0.1
"""Seconds for which a save waits until the product has taken the file, and between two looks."""

LATEST_MAILS, LATEST_TEXTS = 5, 3
_PASSED_ON = ("Content-Type", *PAGE_HEADERS)

type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WindowNow(msgspec.Struct, frozen=True):
    """Whether a campaign may send now, and when that changes."""

    open: bool
    changes_at: CampaignTime


class FileNow(msgspec.Struct, frozen=True, kw_only=True):
    """The campaign file as it stands in `config`.

    Attributes:
        standing: the campaign that it gives, or gave before.
        mistakes: of the file; the version in force stands in spite of them.
        pending: whether it says something that the product has not taken yet.
    """

    text: str
    standing: Standing | None
    mistakes: tuple[Mistake, ...]
    pending: bool

    @property
    def lines(self) -> list[tuple[int, str, list[Mistake]]]:
        """Number, text and mistakes of each line."""
        return [
            (number, line, [one for one in self.mistakes if one.line == number])
            for number, line in enumerate(self.text.splitlines() or [""], start=1)
        ]


class Home:
    """The pages of one local system."""

    def __init__(self, system: LocalSystem, http: aiohttp.ClientSession) -> None:
        self._system = system
        self._http = http
        self._pages = Pages(home=True, zone=system.campaign.zone)
        self._mover = Mover(system)
        self._people = People(system, http)

    def application(self) -> web.Application:
        application = web.Application(middlewares=[_refuse_strangers, self._with_error_pages])
        application.add_routes(
            [
                web.get("/", self.show_home),
                web.post("/clock/next-day", self.move_to_next_day),
                web.post("/clock/next-touch", self.move_to_next_touch),
                web.get("/people/{id}", self.show_person),
                web.post("/people/{id}/register", self.register),
                web.get("/campaign", self.show_campaign),
                web.post("/campaign", self.save_campaign),
                web.get("/status", self.go_to_status),
                web.get("/inbox", self.pass_mails_on),
                web.get("/mails/{number:[0-9]{1,9}}", self.pass_mails_on),
                web.get("/mails/{number:[0-9]{1,9}}/html", self.pass_mails_on),
                web.get("/mails/{number:[0-9]{1,9}}/reader", self.go_to_mails_reader),
                web.get("/texts", self.pass_texts_on),
                web.get("/texts/{phone:[0-9]{1,9}}", self.pass_texts_on),
                web.get("/sms/{number:[0-9]{1,9}}/reader", self.go_to_texts_reader),
                web.get("/page.css", self._pages.show_style),
            ]
        )
        application.on_cleanup.append(self._close)
        return application

    async def _close(self, application: web.Application) -> None:
        await self._mover.close()

    # The clock

    async def show_home(self, request: web.Request) -> web.Response:
        return await self._home_page()

    async def move_to_next_day(self, request: web.Request) -> web.Response:
        standing = await self._find_standing()
        to = next_day(self._now(), standing.campaign.zone) if standing else None
        return await self._move(request, "Next day", standing, to)

    async def move_to_next_touch(self, request: web.Request) -> web.Response:
        standing = await self._find_standing()
        touch = next_touch(standing.schedule, self._now()) if standing else None
        to = CampaignTime(touch.opening + AFTER_OPENING) if touch else None
        return await self._move(request, "Next touch", standing, to)

    async def _move(
        self,
        request: web.Request,
        name: str,
        standing: Standing | None,
        to: CampaignTime | None,
    ) -> web.Response:
        form = await request.post()
        if standing is None or to is None:
            told = "There is nothing to go on to." if standing else "No campaign is in force."
            return await self._home_page(status=409, told=told)
        if not await self._mover.move(name, standing, to, MOVE_PATIENCE):
            told = "The clock stays: an earlier press is still under way."
            return await self._home_page(status=409, told=told)
        person = _read_id(str(form.get("person", "")))
        raise web.HTTPSeeOther(f"/people/{person}" if person else "/")

    async def _home_page(self, *, status: int = 200, told: str = "") -> web.Response:
        app, now = self._system.app, self._now()
        found = await app.status.collect()
        standing = (await app.book.read()).find_current(now)  # it was read for the status just now
        name = standing.name if standing else None
        return self._pages.answer(
            "home",
            status=status,
            told=told,
            system=self._system,
            standing=standing,
            campaign=next((one for one in found.campaigns if one.campaign == name), None),
            file=await self._look_at_file(),
            window=_window_now(standing.campaign, now) if standing else None,
            mails=await self._read_latest_mails(),
            texts=await self._read_latest_texts(),
            **self._clock_content(standing),
        )

    def _clock_content(self, standing: Standing | None) -> dict[str, Any]:
        """What every page with the clock's buttons shows."""
        now = self._now()
        content: dict[str, Any] = {
            "now": now,
            "under_way": self._mover.under_way,
            "came": self._mover.came,
            "next_day": None,
            "next_touch": None,
            "next_touch_at": None,
        }
        if standing:
            touch = next_touch(standing.schedule, now)
            content["next_day"] = next_day(now, standing.campaign.zone)
            content["next_touch"] = touch
            content["next_touch_at"] = touch and touch.opening + AFTER_OPENING
        return content

    # People

    async def show_person(self, request: web.Request) -> web.Response:
        standing = await self._find_standing()
        person = _read_id(request.match_info["id"])
        story = await self._people.read(person, standing) if person else None
        if story is None:
            _no_such_person()
        return self._pages.answer("person", story=story, **self._clock_content(standing))

    async def register(self, request: web.Request) -> web.Response:
        person = _read_id(request.match_info["id"])
        if not self._system.tenant_url or not person or not await self._people.register(person):
            _no_such_person()
        raise web.HTTPSeeOther(f"/people/{person}")

    async def go_to_mails_reader(self, request: web.Request) -> web.Response:
        """From a mail to the page of the person whom it went to."""
        person = await self._people.find_mails_reader(int(request.match_info["number"]))
        raise web.HTTPFound(f"/people/{person or _no_such_person()}")

    async def go_to_texts_reader(self, request: web.Request) -> web.Response:
        """From a text likewise."""
        person = await self._people.find_texts_reader(int(request.match_info["number"]))
        raise web.HTTPFound(f"/people/{person or _no_such_person()}")

    # The campaign file

    async def show_campaign(self, request: web.Request) -> web.Response:
        return self._pages.answer(
            "campaign", file=await self._look_at_file(), name=self._system.file
        )

    async def save_campaign(self, request: web.Request) -> web.Response:
        """Write the file: live where it can be read, and else as it is, so that the product itself
        says what is wrong. Then wait until the product has seen it."""
        form = await request.post()
        if "text" not in form:
            raise web.HTTPBadRequest(text="The form has no text; the file stays as it is.")
        text = str(form["text"]).replace("\r\n", "\n")
        with suppress(CampaignMistakes):
            text = make_live(text, self._system.file).text
        await self._system.app.stores.campaigns.write_file(self._system.file, text.encode())
        await self._system.fire("release_due")
        give_up_at = monotonic() + TAKEN_PATIENCE
        while (await self._look_at_file()).pending and monotonic() < give_up_at:
            await asyncio.sleep(TAKEN_POLL)
        raise web.HTTPSeeOther("/campaign")

    async def _look_at_file(self) -> FileNow:
        app, name = self._system.app, self._system.file
        book = await app.book.refresh()
        text = (await app.stores.campaigns.read_file(name) or b"").decode(errors="replace")
        standings = book.standings
        standing = next((one for one in standings.values() if one.file == name), None)
        standing = standing or standings.get(self._system.campaign.campaign)
        mistakes = (*(standing.mistakes if standing else ()), *book.mistakes)
        mistakes = tuple(one for one in mistakes if one.file == name)
        pending = False
        if not mistakes:
            try:
                campaign = parse_campaign(text, file=name, allowed=app.settings.allowed)
            except CampaignMistakes as error:
                mistakes = error.mistakes  # it was written since we looked
            else:
                pending = standing is None or campaign != standing.campaign
        return FileNow(text=text, standing=standing, mistakes=mistakes, pending=pending)

    # The status and the inbox

    async def go_to_status(self, request: web.Request) -> web.Response:
        """The product's own page, with its key; the host that serves it may have been started
        again since the last look."""
        if url := self._system.status_url:
            raise web.HTTPFound(url)
        raise web.HTTPServiceUnavailable(text="The host starts again just now. Look again soon.")

    async def pass_mails_on(self, request: web.Request) -> web.Response:
        """A page of the inbox."""
        if not self._system.inbox_url:
            raise web.HTTPNotFound(text=f"Mails go to {self._system.mails_go_to}: look there.")
        return await self._pass_on(self._system.inbox_url, request)

    async def pass_texts_on(self, request: web.Request) -> web.Response:
        """A page of the inbox that shows texts."""
        if not self._system.texts_url:
            raise web.HTTPNotFound(text=f"Texts go to {self._system.texts_go_to}: look there.")
        return await self._pass_on(self._system.texts_url, request)

    async def _pass_on(self, inbox: str, request: web.Request) -> web.Response:
        url = URL(f"{inbox}{request.rel_url.raw_path_qs}", encoded=True)
        async with self._http.get(url) as answer:
            headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
            if answer.status == 404:
                raise web.HTTPNotFound(text=await answer.text())
            return web.Response(body=await answer.read(), status=answer.status, headers=headers)

    async def _read_latest_mails(self) -> list[Mail]:
        if not self._system.inbox_url:
            return []
        found = await read_messages(
            self._http, self._system.inbox_url, limit=LATEST_MAILS, newest=1
        )
        return found.messages

    async def _read_latest_texts(self) -> list[Text]:
        if not self._system.texts_url:
            return []
        found = await read_texts(self._http, self._system.texts_url, limit=LATEST_TEXTS, newest=1)
        return found.texts

    # All of them

    async def _find_standing(self) -> Standing | None:
        return (await self._system.app.book.refresh()).find_current(self._now())

    def _now(self) -> CampaignTime:
        return self._system.app.clock.campaign_now()

    @web.middleware
    async def _with_error_pages(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPError as error:
            return self._pages.answer("error", status=error.status, error=error)


@web.middleware
async def _refuse_strangers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what other sites have a browser ask for."""
    if not is_loopback(f"http://{request.headers.get('Host', '')}"):
        raise web.HTTPMisdirectedRequest(text="This is served under a loopback address alone.\n")
    if request.method not in ("GET", "HEAD"):
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        origin = request.headers.get("Origin", f"http://{request.host}")
        if site != "same-origin" or origin != f"http://{request.host}":
            raise web.HTTPForbidden(text="Another site has sent this.\n")
    return await handler(request)


def _read_id(text: str) -> uuid.UUID | None:
    """The object id that stands in an address; None where it is none."""
    try:
        return uuid.UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def _no_such_person() -> NoReturn:
    raise web.HTTPNotFound(text="There is no such person here.")


def _window_now(campaign: Campaign, now: CampaignTime) -> WindowNow:
    hours = open_hours(campaign, now.astimezone(campaign.zone).date())
    if hours and hours.opens <= now < hours.closes:
        return WindowNow(True, hours.closes)
    return WindowNow(False, next_hours(campaign, now).opens)


@asynccontextmanager
async def running_home(system: LocalSystem) -> AsyncGenerator[str]:
    """The home page of a system for the length of the block; gives its address."""
    async with (
        aiohttp.ClientSession() as http,
        running_application(Home(system, http).application()) as url,
    ):
        yield url
