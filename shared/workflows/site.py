"""The pages that alumni and administrators open: which of them answers what.

    /guide        the instructions, for everybody
    /done         "I have done it": asks on GET, records on POST
    /unsubscribe  "no more reminders": the same
    /status       counts, for administrators

GET changes nothing and looks nobody up, since mail scanners open every link. What does not work
says so in the same words, and after the same time, whether a link was never ours or its account is
gone: nobody learns from a page whether an account exists.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import msgspec

from shared.clock import monotonic
from shared.errors import BadToken, LinkExpired, NotRecorded
from shared.messages.pages import PageName, choose_page_language, render_guide, render_page
from shared.messages.rendering import guide_url
from shared.messages.words import offered_languages
from shared.workflows.alarms import note_event
from shared.workflows.completion import RETRY_AFTER, STORAGE_SECONDS, DoneOutcome, storage_within
from shared.workflows.status_page import render_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shared.clock import Clock
    from shared.rules.links import Purpose
    from shared.workflows.campaigns import CampaignBook, Standing
    from shared.workflows.completion import CompletionWorkflow
    from shared.workflows.status import StatusWorkflow

REFUSAL_SECONDS = 1.0
"""When a POST is told that its link does not work: longer than Graph mostly takes to say that there
is no such account, so that this and a link which nobody needs to look up are told at one time."""

_GUIDE_CACHE = "public, max-age=300"
"""Five minutes: so late may the guide change at the deadline, for whoever has just read it."""

_STATUS_SECONDS = 30.0
"""An administrator waits longer for a page that reads the whole ledger."""

_DONE_PAGES: dict[DoneOutcome, PageName] = {
    DoneOutcome.CONFIRMED: "done_confirmed",
    DoneOutcome.NOTED: "done_noted",
    DoneOutcome.NOT_SEEN: "done_not_seen",
    DoneOutcome.NOT_REGISTERED: "done_not_registered",
}


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """An answer: its status, its body, and what caches may do with it."""

    status: int = 200
    body: str
    cache: str = "no-store"
    type: Literal["text/html", "application/json"] = "text/html"
    retry_after: int | None = None


class SiteWorkflow:
    """Answers requests for pages. `accept_language` is that header, as it came."""

    def __init__(
        self,
        book: CampaignBook,
        completion: CompletionWorkflow,
        status: StatusWorkflow,
        clock: Clock,
    ) -> None:
        self._book = book
        self._completion = completion
        self._status = status
        self._clock = clock

    async def show_guide(self, language: str, campaign: str, accept_language: str) -> Page:
        """The guide of a campaign, or of the one that counts now where none or an unknown one is
        named."""
        try:
            standing = await self._find_current(campaign)
        except NotRecorded:
            return self._page("unavailable", None, accept_language, status=503)
        if standing is None or language not in offered_languages(
            standing.campaign.institution.name
        ):
            return self._page("no_guide", standing, accept_language, status=404)
        body = render_guide(
            standing.campaign, language=language, after_deadline=self._is_after_deadline(standing)
        )
        return Page(body=body, cache=_GUIDE_CACHE)

    async def ask_done(self, token: str, accept_language: str) -> Page:
        return await self._ask("done", token, accept_language)

    async def ask_unsubscribe(self, token: str, accept_language: str) -> Page:
        return await self._ask("unsubscribe", token, accept_language)

    async def complete(self, token: str, accept_language: str) -> Page:
        async def act() -> PageName:
            _, outcome = await self._completion.complete(token)
            return _DONE_PAGES[outcome]

        return await self._record("done", token, accept_language, act)

    async def unsubscribe(self, token: str, accept_language: str) -> Page:
        async def act() -> PageName:
            await self._completion.opt_out(token)
            return "unsubscribe_done"

        return await self._record("unsubscribe", token, accept_language, act)

    async def show_status(self, *, as_json: bool) -> Page:
        """Where all campaigns stand, in counts."""
        try:
            async with storage_within(_STATUS_SECONDS):
                status = await self._status.collect()
        except NotRecorded:
            return self._page("unavailable", None, "", status=503)
        if as_json:
            return Page(body=msgspec.json.encode(status).decode(), type="application/json")
        return Page(body=render_status(status))

    async def _ask(self, purpose: Purpose, token: str, accept_language: str) -> Page:
        try:
            standing = await self._completion.open_link(purpose, token)
        except BadToken as error:
            return await self._refuse(error, accept_language)
        except NotRecorded:
            return self._page("unavailable", None, accept_language, status=503)
        page: PageName = "done_ask" if purpose == "done" else "unsubscribe_ask"
        return self._page(page, standing, accept_language)

    async def _record(
        self,
        purpose: Purpose,
        token: str,
        accept_language: str,
        act: Callable[[], Awaitable[PageName]],
    ) -> Page:
        began = monotonic()
        standing: Standing | None = None
        try:
            standing = await self._completion.open_link(purpose, token)
            page = await act()
        except BadToken as error:
            answer = await self._refuse(error, accept_language)
            await asyncio.sleep(REFUSAL_SECONDS - (monotonic() - began))
            return answer
        except NotRecorded as error:
            note_event("not_recorded", purpose=purpose, detail=str(error))
            return self._page("not_recorded", standing, accept_language, status=503)
        return self._page(page, standing, accept_language)

    async def _refuse(self, error: BadToken, accept_language: str) -> Page:
        try:
            standing = await self._find_current()
        except NotRecorded:
            standing = None  # the words then name no institution
        if isinstance(error, LinkExpired):
            return self._page("link_expired", standing, accept_language, status=410)
        return self._page("link_bad", standing, accept_language, status=404)

    async def _find_current(self, name: str = "") -> Standing | None:
        async with storage_within(STORAGE_SECONDS):
            book = await self._book.read()
        return book.standings.get(name) or book.find_current(self._clock.campaign_now())

    def _page(
        self, page: PageName, standing: Standing | None, accept_language: str, status: int = 200
    ) -> Page:
        campaign = standing.campaign if standing else None
        offered = offered_languages(campaign.institution.name if campaign else ())
        language = choose_page_language(accept_language, offered)
        body = render_page(
            page,
            campaign=campaign,
            language=language,
            after_deadline=standing is not None and self._is_after_deadline(standing),
            guide_url=guide_url("", standing.name, language) if standing else "",
        )
        return Page(status=status, body=body, retry_after=RETRY_AFTER if status == 503 else None)

    def _is_after_deadline(self, standing: Standing) -> bool:
        return self._clock.campaign_now() >= standing.campaign.deadline_at
