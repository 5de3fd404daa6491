"""Reading the directory: chains of messages over pages that are written once, then a commit.

Before the commit nothing of a sweep can be seen; a partial sweep changes nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from shared.clock import monotonic
from shared.errors import RetryLater, SetupFault, SkipTokenExpired
from shared.rules.parcels import SHARDS
from shared.services.directory import (
    FilteredUsers,
    GroupMembers,
    RegistrationReport,
    ReportPage,
    RosterPage,
    Source,
)
from shared.stores.pages import PageInfo, run_prefix
from shared.stores.queues import PlanShard, ReadPages
from shared.stores.sweeps import MOST_RUNS, Pass, Sweep
from shared.telemetry import current_trace, span
from shared.workflows.alarms import note_event, raise_alarm

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from shared.clock import Clock, StorageTime
    from shared.rules.campaign import Audience
    from shared.services.directory import Directory
    from shared.stores import Stores
    from shared.workflows.campaigns import Book, CampaignBook, Standing

MESSAGE_SECONDS = 120
"""How long one message reads pages: a crash or a deployment then costs little."""

_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0
"""Seconds after a refusal that names no time: doubled at each one, up to the longest."""


class ReportPace:
    """Keeps the requests of a process for the report within what Graph allows an app in a tenant.

    Graph counts a request at some moment between its start and its answer. So one may start when
    `seconds` have passed since the ANSWER of the one that lies `requests` back: counted from the
    starts, a quick request after slow ones would be the sixth in ten seconds. Within that they are
    spread evenly.
    """

    def __init__(self, requests: int = 5, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._spacing = seconds / requests
        self._next_start = 0.0
        self._answered: deque[float] = deque(maxlen=requests)
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait until a request may start; the request is to be made within the block."""
        async with self._one_at_a_time:
            start = self._next_start
            if len(self._answered) == self._answered.maxlen:
                start = max(start, self._answered[0] + self._seconds)
            await asyncio.sleep(max(0.0, start - monotonic()))
            self._next_start = monotonic() + self._spacing
            try:
                yield
            finally:
                self._answered.append(monotonic())


class SweepWorkflow:
    """Opens sweeps, reads their pages, commits or abandons them.

    Args:
        pace: of the requests for the report; Graph's own limit where not given.
        message_seconds: how long one message reads pages, at least one.
    """

    def __init__(
        self,
        stores: Stores,
        book: CampaignBook,
        directory: Directory,
        clock: Clock,
        *,
        pace: ReportPace | None = None,
        message_seconds: float = MESSAGE_SECONDS,
    ) -> None:
        self._stores = stores
        self._book = book
        self._directory = directory
        self._clock = clock
        self._pace = pace or ReportPace()
        self._message_seconds = message_seconds

    async def start(self) -> Sweep | None:
        """Open the next sweep, unless one is under way or no campaign needs one."""
        await self._abandon_overdue()
        book = await self._book.refresh(accept=True)
        sources = sources_of(self.active(book))
        if not sources:
            return None
        # Should the table have been lost: no number that pages or fences know is used again.
        above = max(await self._stores.pages.list_sweeps(), default=0)
        passes = [(one.name, _query_of(one)) for one in sources]
        with span("open sweep"):
            sweep = await self._stores.sweeps.open(passes, above=above, trace=current_trace())
            if sweep is None:
                return None
            note_event("sweep_opened", sweep=sweep.number, passes=len(sweep.passes))
            for one in sweep.passes:
                await self._stores.queues.put_read(ReadPages(sweep.number, one.source, one.run))
            return sweep

    async def read_new_audience(self, standing: Standing) -> None:
        """Open a sweep that reads the lists which a new version names, unless one is under way.

        Where the newest sweep had them and was abandoned, a person must mend something: the
        nightly timer tries again, and not every minute.
        """
        head = await self._stores.sweeps.read_head()
        newest = await self._stores.sweeps.read(head.number)
        if newest is None or not has_all_passes(standing, newest):
            await self.start()

    def active(self, book: Book) -> list[Standing]:
        """Campaigns that still write to people."""
        return [one for one in book.standings.values() if self.is_active(one)]

    def is_active(self, standing: Standing) -> bool:
        """Whether a campaign has its file, and touches to come or to catch up on."""
        return bool(standing.file) and self._clock.campaign_now() < standing.schedule.ends

    async def read(self, message: ReadPages) -> None:
        """Read pages of one pass for two minutes, then leave the rest to a new message."""
        stop_at = monotonic() + self._message_seconds
        sweep = await self._stores.sweeps.read(message.sweep)
        one = sweep.find(message.source) if sweep else None
        if sweep is None or one is None or sweep.state != "open" or one.run != message.run:
            return  # the pass goes on without this message, or the sweep is over
        of = {"sweep": sweep.number, "source": one.source, "run": one.run}
        with span("read pages", of, within=sweep.trace):
            await self._read(message, one, stop_at)

    async def _read(self, message: ReadPages, one: Pass, stop_at: float) -> None:
        try:
            finished = await self._read_pages(message, _source_from(one), stop_at)
        except SkipTokenExpired:
            await self._start_run_anew(message)
        except SetupFault as fault:
            await self._abandon(message.sweep, str(fault))
        else:
            if finished:
                await self._try_commit(message.sweep)

    async def _read_pages(self, message: ReadPages, source: Source, stop_at: float) -> bool:
        """Returns whether the pass has all of its pages."""
        prefix = run_prefix(message.sweep, message.source, message.run)
        # The pages say where the pass is: a message that comes again asks Graph for nothing twice.
        page = len(await self._stores.pages.list_pages(prefix))
        link = await self._stores.pages.read_link(prefix, page - 1) if page else None
        refusals = message.refusals
        while page == 0 or link is not None:
            try:
                found = await self._ask(source, link)
            except RetryLater as refusal:
                await self._come_back(message, refusals, refusal)
                return False
            refusals = 0
            link = await self._write(prefix, page, found)
            page += 1
            if link is not None and monotonic() >= stop_at:
                await self._stores.queues.put_read(msgspec.structs.replace(message, refusals=0))
                return False
        return True

    async def _ask(self, source: Source, link: str | None) -> ReportPage | RosterPage:
        if not isinstance(source, RegistrationReport):
            return await self._directory.read_page(source, link)
        async with self._pace.turn():
            return await self._directory.read_page(source, link)

    async def _write(self, prefix: str, page: int, found: ReportPage | RosterPage) -> str | None:
        if isinstance(found, ReportPage):
            return await self._stores.pages.write_report(
                prefix, page, found.rows, found.next_link, found.unreadable
            )
        return await self._stores.pages.write_roster(
            prefix, page, found.rows, found.next_link, found.with_contact, found.unreadable
        )

    async def _come_back(self, message: ReadPages, refusals: int, refusal: RetryLater) -> None:
        """Put the message back, to be seen when the other side wants to be asked again."""
        wait = refusal.after
        if wait is None:
            wait = min(_FIRST_WAIT * 2 ** min(refusals, 10), _LONGEST_WAIT)
        wait = max(1, math.ceil(wait))
        note_event(
            "pass_waits", sweep=message.sweep, source=message.source, seconds=wait, why=refusal.what
        )
        # First of all the row, so that the wait is not taken for a pass at rest.
        asked_at = self._clock.storage_now() + timedelta(seconds=wait)
        await self._stores.sweeps.change_pass(
            message.sweep,
            message.source,
            lambda one: (
                msgspec.structs.replace(one, asked_at=asked_at) if one.run == message.run else None
            ),
        )
        again = msgspec.structs.replace(message, refusals=refusals + 1)
        await self._stores.queues.put_read(again, after=wait)

    async def _start_run_anew(self, message: ReadPages) -> None:
        """Graph forgot where we were: read this pass again from its first page."""
        if message.run >= MOST_RUNS:
            await self._abandon(
                message.sweep,
                f"Pass {message.source}: the skip token expired in each of {MOST_RUNS} runs.",
            )
            return
        now = self._clock.storage_now()
        fresh = await self._stores.sweeps.change_pass(
            message.sweep,
            message.source,
            lambda one: (
                msgspec.structs.replace(one, run=one.run + 1, asked_at=now)
                if one.run == message.run
                else None
            ),
        )
        if fresh:
            note_event(
                "pass_starts_anew", sweep=message.sweep, source=message.source, run=fresh.run
            )
            await self._stores.queues.put_read(ReadPages(message.sweep, message.source, fresh.run))

    async def _try_commit(self, number: int) -> None:
        """Commit, where every pass has all of its pages; whoever ends last does it."""
        while (sweep := await self._stores.sweeps.read(number)) and sweep.state == "open":
            passes = await self._list_passes(sweep)
            if not all(map(_is_complete, passes.values())):
                return
            if fault := _contact_fault(passes):
                await self._abandon(number, str(fault))
                return
            counts = {source: len(pages) for source, pages in passes.items()}
            with span("commit sweep", {"sweep": number}, within=sweep.trace):
                if await self._stores.sweeps.commit(sweep, counts):
                    note_event("sweep_committed", sweep=number, pages=sum(counts.values()))
                    await self.ask_for_plans(await self._book.refresh(), number)
                    return

    async def _list_passes(self, sweep: Sweep) -> dict[str, list[PageInfo]]:
        """The pages of each pass's run, by source."""
        return {
            one.source: await self._stores.pages.list_pages(
                run_prefix(sweep.number, one.source, one.run)
            )
            for one in sweep.passes
        }

    async def ask_for_plans(self, book: Book, sweep: int) -> None:
        """One plan message for each shard of each campaign that is in force."""
        await self._stores.queues.put_plan(
            PlanShard(one.name, shard, sweep, one.version)
            for one in self.active(book)
            for shard in range(len(SHARDS))
        )

    # repair

    async def repair(self) -> None:
        """Take up a pass that has stopped moving; give up a sweep that cannot finish."""
        if await self._abandon_overdue():
            return
        sweep = await self._open_sweep()
        if sweep is None:
            return
        passes = await self._list_passes(sweep)
        if all(map(_is_complete, passes.values())):
            await self._try_commit(sweep.number)
            return
        for one in sweep.passes:
            if not _is_complete(passes[one.source]):
                await self._take_up(sweep.number, one, passes[one.source])

    async def _take_up(self, number: int, one: Pass, pages: list[PageInfo]) -> None:
        """Put the message of a pass that has come to rest once more."""
        now = self._clock.storage_now()
        moved_at: StorageTime = max([one.asked_at, *(page.written_at for page in pages)])
        if (now - moved_at).total_seconds() < self._clock.ages.pass_at_rest:
            return
        fresh = msgspec.structs.replace(one, asked_at=now)
        # Unless someone else has done so, or the pass has moved on, since it was read.
        if await self._stores.sweeps.change_pass(
            number, one.source, lambda seen: fresh if seen == one else None
        ):
            raise_alarm("pass_at_rest", sweep=number, source=one.source, page=len(pages))
            await self._stores.queues.put_read(ReadPages(number, one.source, one.run))

    async def _open_sweep(self) -> Sweep | None:
        head = await self._stores.sweeps.read_head()
        return await self._stores.sweeps.read(head.number) if head.open else None

    async def _abandon_overdue(self) -> bool:
        sweep = await self._open_sweep()
        if sweep is None:
            return False
        age = (self._clock.storage_now() - sweep.opened_at).total_seconds()
        if age < self._clock.ages.sweep_limit:
            return False
        limit = self._clock.ages.sweep_limit
        await self._abandon(sweep.number, f"It did not end within {limit / 3600:.0f} h.")
        return True

    async def _abandon(self, number: int, reason: str) -> None:
        if await self._stores.sweeps.abandon(number, reason):
            raise_alarm("sweep_abandoned", sweep=number, reason=reason)


def sources_of(standings: Iterable[Standing]) -> list[Source]:
    """The lists that these campaigns need, each once: the report, and their rosters."""
    rosters: dict[str, Source] = {}
    for standing in standings:
        for source in rosters_of(standing.campaign.audience):
            rosters[source.name] = source
    return [RegistrationReport(), *rosters.values()] if rosters else []


def rosters_of(audience: Audience) -> list[Source]:
    """The rosters of one audience: first that of the audience itself, then the exclusions."""
    first: Source = (
        GroupMembers(audience.group) if audience.group else FilteredUsers(audience.filter or "")
    )
    return [first, *(GroupMembers(group) for group in audience.exclude)]


def has_all_passes(standing: Standing, sweep: Sweep) -> bool:
    """Whether a sweep reads every list that a campaign names."""
    return all(sweep.find(source.name) for source in rosters_of(standing.campaign.audience))


def _query_of(source: Source) -> str:
    match source:
        case GroupMembers(group):
            return group
        case FilteredUsers(text):
            return text
        case _:
            return ""


def _source_from(one: Pass) -> Source:
    if one.source.startswith("group-"):
        return GroupMembers(one.query)
    if one.source.startswith("filter-"):
        return FilteredUsers(one.query)
    return RegistrationReport()


def _is_complete(pages: list[PageInfo]) -> bool:
    """Whether a run has every page from the first to the last."""
    return bool(pages) and pages[-1].last and pages[-1].number == len(pages) - 1


def _contact_fault(passes: dict[str, list[PageInfo]]) -> SetupFault | None:
    """Contact fields that are empty for everybody mean a missing permission, not people without.

    With GroupMember.Read.All alone Graph answers null for them, and no error.
    """
    pages = [
        page
        for source, found in passes.items()
        if source != RegistrationReport().name
        for page in found
    ]
    rows = sum(page.rows for page in pages)
    if not rows or any(page.with_contact for page in pages):
        return None
    return SetupFault(
        f"None of the {rows} accounts that were read has mail, otherMails or mobilePhone.",
        "Grant the app's identity the application permission User.Read.All.",
    )
