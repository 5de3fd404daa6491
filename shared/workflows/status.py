"""Where a campaign stands, in counts: what administrators see, and why something waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.cadence import is_over
from shared.rules.calendar import next_hours, open_hours, window_open
from shared.rules.guards import ShardCounts
from shared.rules.parcels import NOTHING_HAD, SHARDS, Parcel, State, fold, has_bit
from shared.stores.pages import run_prefix
from shared.workflows.plan import EMAIL, format_id
from shared.workflows.sweep import has_all_passes

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.stores import Stores
    from shared.stores.control import ControlRow
    from shared.stores.sweeps import Pass, Sweep
    from shared.workflows.campaigns import Book, CampaignBook, Standing
    from shared.workflows.plan import PlanWorkflow
    from shared.workflows.release import ReleaseWorkflow

_SIDE_BY_SIDE = 8
"""Reads of storage at the same time: who looks at the status must not crowd out what sends."""

type Place = Literal["over", "under way", "next", "later", "gives way", "removed"]
"""Where a touch stands: nobody can be planned for it any more; it has opened, and whoever is found
unregistered still gets it; it opens next; it opens after that; a later one stands on its day; the
file no longer names it."""


class PassStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One list that a sweep reads: the run under way, and its pages so far."""

    source: str
    run: int
    pages: int
    complete: bool


class SweepStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep.

    Attributes:
        reason: why it was abandoned.
        seen_at: campaign time of its opening.
        passes: how far each list is, while it is open.
    """

    number: int
    state: str
    opened_at: StorageTime
    ended_at: StorageTime | None
    reason: str
    seen_at: CampaignTime
    passes: list[PassStatus]


class TouchStatus(msgspec.Struct, kw_only=True):
    """When a touch is, and where its parcels are.

    Attributes:
        opening, closing: the window of its day; None where it has none.
        parcels: by state, `final`, or why they were closed. Those that were planned again or split
            are not counted: their people stand in other parcels.
        people: of these parcels, by the same, or `left out`, or `refused`: the sum is everybody.
    """

    touch: str
    opening: CampaignTime | None
    closing: CampaignTime | None
    place: Place
    parcels: dict[str, int]
    people: dict[str, int]


class CampaignStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign.

    Attributes:
        headline: one sentence: that all is well, or what it needs.
        needs: what needs a person, each with what to do.
        waits: what keeps mail from going out and ends without anybody's help.
        waiting: why nothing goes out, whoever can end it; empty where something may.
        mistakes: of the campaign's file as it is now; `version` is in force in spite of them.
        counts: what planning found under the newest sweep and version; None until every shard is
            done, and `shards_done` says how many are.
        days_left, days_to_enforcement: calendar days in `timezone` from today; below 0 after it.
    """

    campaign: str
    headline: str
    needs: list[str]
    waits: list[str]
    version: int
    file: str
    mode: str
    timezone: str
    deadline: str
    deadline_at: CampaignTime
    days_left: int
    enforced_from: str
    days_to_enforcement: int
    counts: ShardCounts | None
    shards_done: int
    touches: list[TouchStatus]
    waiting: list[str]
    mistakes: list[str]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All campaigns and the sweeps that they stand on.

    Attributes:
        sweep: the newest one. `committed`: the last one whose findings count.
        mistakes: of files that belong to no campaign in force.
        new_files: files that are good, and that the next look within a minute accepts.
        needs: what needs a person, beside what single campaigns need.
    """

    campaign_now: CampaignTime
    storage_now: StorageTime
    sweep: SweepStatus | None
    committed: SweepStatus | None
    needs: list[str]
    campaigns: list[CampaignStatus]
    mistakes: list[str]
    new_files: list[str]
    stopped: bool


class StatusWorkflow:
    """Collects the status."""

    def __init__(
        self,
        stores: Stores,
        book: CampaignBook,
        plans: PlanWorkflow,
        releases: ReleaseWorkflow,
        clock: Clock,
    ) -> None:
        self._stores = stores
        self._book = book
        self._plans = plans
        self._releases = releases
        self._clock = clock

    async def collect(self) -> Status:
        book, (newest, committed) = await asyncio.gather(self._book.refresh(), self._read_sweeps())
        reads = asyncio.Semaphore(_SIDE_BY_SIDE)
        campaigns = await asyncio.gather(
            *(
                self._collect_campaign(book, standing, newest, committed, reads)
                for standing in book.standings.values()
            )
        )
        new_files = sorted(book.files - set(_files_of(book)))
        return Status(
            campaign_now=self._clock.campaign_now(),
            storage_now=self._clock.storage_now(),
            sweep=await self._describe(newest) if newest else None,
            committed=await self._describe(committed) if committed else None,
            needs=_needs_of_all(book, new_files),
            campaigns=list(campaigns),
            mistakes=[str(mistake) for mistake in book.mistakes],
            new_files=new_files,
            stopped=book.stopped,
        )

    async def _read_sweeps(self) -> tuple[Sweep | None, Sweep | None]:
        """The newest sweep, and the last committed one."""
        head = await self._stores.sweeps.read_head()
        newest = await self._stores.sweeps.read(head.number) if head.number else None
        if head.committed == head.number:
            return newest, newest
        committed = await self._stores.sweeps.read(head.committed) if head.committed else None
        return newest, committed

    async def _describe(self, sweep: Sweep) -> SweepStatus:
        return SweepStatus(
            number=sweep.number,
            state=sweep.state,
            opened_at=sweep.opened_at,
            ended_at=sweep.ended_at,
            reason=sweep.reason,
            seen_at=sweep.seen_at,
            passes=[
                await self._describe_pass(sweep, one)
                for one in (sweep.passes if sweep.state == "open" else ())
            ],
        )

    async def _describe_pass(self, sweep: Sweep, one: Pass) -> PassStatus:
        pages = await self._stores.pages.list_pages(run_prefix(sweep.number, one.source, one.run))
        complete = bool(pages) and pages[-1].last
        return PassStatus(source=one.source, run=one.run, pages=len(pages), complete=complete)

    async def _collect_campaign(
        self,
        book: Book,
        standing: Standing,
        newest: Sweep | None,
        committed: Sweep | None,
        reads: asyncio.Semaphore,
    ) -> CampaignStatus:
        campaign = standing.campaign
        now = self._clock.campaign_now()
        today = now.astimezone(campaign.zone).date()
        counts, shards_done = await self._read_plans(standing, committed, reads)
        holds, control, touches = await asyncio.gather(
            self._releases.find_holds(book, standing, committed),
            self._stores.control.read(standing.name, EMAIL),
            self._count_parcels(standing, now, reads),
        )
        passing = [hold.text for hold in holds if hold.passing]
        lasting = [hold.text for hold in holds if not hold.passing]
        waits = [*passing, *self._find_waits(standing, control, now)]
        waiting = [*lasting, *(pause.text for pause in control.pauses.values()), *waits]
        needs = [
            *lasting,
            *_tell_pauses(standing.name, control),
            *_tell_mistakes(standing),
            *_tell_abandoned(newest),
            *_tell_lost(touches),
        ]
        if now >= standing.schedule.ends:
            # No sweep reads for it and nothing of it is sent: what else holds it holds nothing up.
            needs, waits, waiting = _tell_mistakes(standing), [], []
        return CampaignStatus(
            campaign=standing.name,
            headline=_headline(standing, now, needs, passing, newest, touches),
            needs=needs,
            waits=waits,
            version=standing.version,
            file=standing.file,
            mode=campaign.sending.mode,
            timezone=campaign.timezone,
            deadline=campaign.last_day.isoformat(),
            deadline_at=campaign.deadline_at,
            days_left=(campaign.last_day - today).days,
            enforced_from=campaign.enforced_on.isoformat(),
            days_to_enforcement=(campaign.enforced_on - today).days,
            counts=counts,
            shards_done=shards_done,
            touches=touches,
            waiting=waiting,
            mistakes=[str(mistake) for mistake in standing.mistakes],
        )

    async def _read_plans(
        self, standing: Standing, sweep: Sweep | None, reads: asyncio.Semaphore
    ) -> tuple[ShardCounts | None, int]:
        """What planning found under the wanted pair, and how many shards are done under it."""
        if counts := await self.sum_counts(standing, sweep):
            return counts, len(SHARDS)
        if sweep is None:
            return None, 0
        fences = await _all_shards(
            reads, lambda shard: self._stores.ledger.read_fence(standing.name, shard)
        )
        pair = (sweep.number, standing.version)
        return None, sum(1 for one in fences if one and one.done and one.pair == pair)

    async def _count_parcels(
        self, standing: Standing, now: CampaignTime, reads: asyncio.Semaphore
    ) -> list[TouchStatus]:
        touches = _list_touches(standing, now)

        async def count(shard: int) -> None:
            scan = self._stores.ledger.scan(standing.name, shard, where=_COUNTED, ids=False)
            async for parcel in scan:
                if parcel.touch not in touches:
                    touches[parcel.touch] = _touch_without_day(parcel.touch, "removed")
                _add(touches[parcel.touch], parcel)

        await _all_shards(reads, count)
        return list(touches.values())

    def _find_waits(self, standing: Standing, control: ControlRow, now: CampaignTime) -> list[str]:
        """Why the channel waits for a time, or for good in a dry run."""
        waits: list[str] = []
        if control.retry_at and control.retry_at > self._clock.storage_now():
            waits.append(
                f"The provider asked to wait until {control.retry_at:%Y-%m-%d %H:%M:%S} UTC."
            )
        if standing.campaign.sending.mode == "dry-run":
            waits.append("The mode is dry-run: everything is counted, and nothing is sent.")
        if not window_open(standing.campaign, now):
            opens = next_hours(standing.campaign, now).opens
            until = format_moment(opens, standing.campaign.zone)
            waits.append(f"The window is closed until {until} ({standing.campaign.timezone}).")
        return waits

    async def collect_unreached(self) -> dict[str, dict[str, str]]:
        """Of each campaign that a sweep has read: who was not reached, and why, by object id."""
        book = await self._book.refresh()
        sweep = await self._stores.sweeps.read_committed()
        found: dict[str, dict[str, str]] = {}
        for standing in book.standings.values():
            if sweep and has_all_passes(standing, sweep):
                unreached = await self.list_unreached(standing, sweep)
                found[standing.name] = {format_id(one): why for one, why in unreached.items()}
        return found

    async def list_unreached(self, standing: Standing, sweep: Sweep) -> dict[bytes, str]:
        """Everybody who was due and was not reached, or perhaps not, by object id, with the reason.

        A person whom a later parcel of the same touch reached is none of them, nor is one who has
        registered since; but everybody of a parcel in doubt is.
        """
        parcels = [parcel async for parcel in self.scan_parcels(standing.name)]
        had = fold(parcels)
        due = await self._plans.list_due(standing, sweep)
        unreached = {person: why for person, why in due.items() if why}
        for parcel in parcels:
            for index, person in parcel.people():
                reason = _why_unreached(parcel, index)
                reached = parcel.touch in had.get(person, NOTHING_HAD).touches
                if reason and (parcel.state is State.AMBIGUOUS or (person in due and not reached)):
                    unreached[person] = reason
        return unreached

    async def scan_parcels(self, campaign: str) -> AsyncIterator[Parcel]:
        """Every parcel of a campaign."""
        for shard in range(len(SHARDS)):
            async for parcel in self._stores.ledger.scan(campaign, shard):
                yield parcel

    async def sum_counts(self, standing: Standing, sweep: Sweep | None) -> ShardCounts | None:
        """What planning found under the wanted pair; None until every shard is done."""
        if sweep is None:
            return None
        verdict = await self._stores.control.read_verdict(
            standing.name, (sweep.number, standing.version)
        )
        return verdict.counts if verdict else None


_COUNTED = "state ne 'closed' or (reason ne 'replanned' and reason ne 'split')"
"""Rows that count: people of the others stand in other rows."""


def _files_of(book: Book) -> Iterator[str]:
    """The files that stand for something, or in which something is wrong."""
    yield from (mistake.file for mistake in book.mistakes)
    for standing in book.standings.values():
        yield standing.file
        yield from (mistake.file for mistake in standing.mistakes)


async def _all_shards[T](reads: asyncio.Semaphore, read: Callable[[int], Awaitable[T]]) -> list[T]:
    """What reading each shard gives, some of them side by side."""

    async def read_one(shard: int) -> T:
        async with reads:
            return await read(shard)

    return await asyncio.gather(*map(read_one, range(len(SHARDS))))


def _list_touches(standing: Standing, now: CampaignTime) -> dict[str, TouchStatus]:
    """The touches of the file in its order, with nothing counted yet."""
    schedule, campaign = standing.schedule, standing.campaign
    touches = {step.touch: _touch_without_day(step.touch, "gives way") for step in campaign.cadence}
    to_come: Place = "next"
    for step in schedule.steps:
        hours = open_hours(campaign, step.day)
        assert hours is not None, "touches fall on open days"
        touch = touches[step.touch]
        touch.opening, touch.closing = hours.opens, hours.closes
        if step.opening > now:
            touch.place, to_come = to_come, "later"
        else:
            touch.place = "over" if is_over(schedule, step.touch, now) else "under way"
    return touches


def _touch_without_day(name: str, place: Place) -> TouchStatus:
    return TouchStatus(touch=name, opening=None, closing=None, place=place, parcels={}, people={})


def _add(touch: TouchStatus, parcel: Parcel) -> None:
    """Count a parcel, and its people: whoever is left out or refused by that, whatever the
    parcel's state."""
    name = parcel.state.value
    if parcel.state is State.CLOSED:
        name = parcel.reason.partition(":")[0]
    elif parcel.final:
        name = "final"
    left_out = int.from_bytes(parcel.left_out, "little")
    refused = int.from_bytes(parcel.refused, "little") & ~left_out
    people = {"left out": left_out.bit_count(), "refused": refused.bit_count()}
    people[name] = parcel.count - sum(people.values())
    touch.parcels[name] = touch.parcels.get(name, 0) + 1
    for outcome, number in people.items():
        if number:
            touch.people[outcome] = touch.people.get(outcome, 0) + number


# what it comes to, in words


NEXT_SWEEP = (
    "starts at the time of the setting SWEEP_SCHEDULE (20:00 UTC each day, unless it was changed)"
)

_LOST_BECAUSE = {
    "expired": "expired before they could leave",
    "failed": "failed by a fault of our own",
    "final": "got no clear answer",
}
"""What became of a parcel whose people may have had nothing of it."""


def format_moment(at: datetime, zone: ZoneInfo) -> str:
    """A time as people in `zone` write it: Wed 17 March 2027, 09:00."""
    local = at.astimezone(zone)
    return f"{local:%a} {local.day} {local:%B %Y, %H:%M}"


def format_days(days: int) -> str:
    """How far a calendar day is from today."""
    match days:
        case 0:
            return "today"
        case 1:
            return "tomorrow"
        case -1:
            return "yesterday"
        case _:
            return f"in {days} days" if days > 0 else f"{-days} days ago"


def count_things(number: int, one: str, many: str = "") -> str:
    """1 parcel, 2,000 parcels; `many` where an s is not enough."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _needs_of_all(book: Book, new_files: Sequence[str]) -> list[str]:
    """What needs a person beside what the campaigns in force need."""
    by_file = Counter(mistake.file for mistake in book.mistakes)
    needs = [
        f"`{file}` has {count_things(number, 'mistake')} and takes no effect until it is corrected."
        for file, number in sorted(by_file.items())
    ]
    if not (book.standings or by_file or new_files):
        needs.append(
            "There is no campaign yet. Copy `campaign.example.yaml`, change what is yours, and "
            "put it into the container `config`: within a minute it takes effect, or its mistakes "
            "stand here by line."
        )
    return needs


def _tell_pauses(campaign: str, control: ControlRow) -> list[str]:
    """Each pause of the channel, since when, and how it ends."""
    return [
        f"{_as_sentence(pause.text)} Paused since {pause.since:%Y-%m-%d %H:%M} UTC: "
        + (
            "one parcel is let through every so often, and the first to be accepted ends it."
            if reason == "setup"
            else f"`nudge resume {campaign}` ends it."
        )
        for reason, pause in control.pauses.items()
    ]


def _tell_mistakes(standing: Standing) -> list[str]:
    if not standing.mistakes:
        return []
    files = ", ".join(f"`{file}`" for file in sorted({one.file for one in standing.mistakes}))
    number = count_things(len(standing.mistakes), "mistake")
    return [f"{files}: {number}. Version {standing.version} stays in force until it is corrected."]


def _tell_abandoned(newest: Sweep | None) -> list[str]:
    if newest is None or newest.state != "abandoned":
        return []
    reason = _as_sentence(newest.reason)
    return [f"Sweep {newest.number} was abandoned: {reason} The next one {NEXT_SWEEP}."]


def _tell_lost(touches: Sequence[TouchStatus]) -> list[str]:
    """Who may have had nothing of the last touch that has opened; of an earlier one nothing can be
    made good any more."""
    opened = [touch for touch in touches if touch.place in ("over", "under way")]
    lost = [
        f"{count_things(number, 'person', 'people')} in parcels that {why}"
        for name, why in _LOST_BECAUSE.items()
        if opened and (number := opened[-1].people.get(name, 0))
    ]
    if not lost:
        return []
    return [
        f"`{opened[-1].touch}` has {', '.join(lost)}. `nudge status --unreached` lists who is "
        "still to be reached."
    ]


def _headline(
    standing: Standing,
    now: CampaignTime,
    needs: Sequence[str],
    passing: Sequence[str],
    newest: Sweep | None,
    touches: Sequence[TouchStatus],
) -> str:
    """One sentence: what the campaign needs, or that all is well and what comes next."""
    if needs:
        more = len(needs) - 1
        return f"Needs you: {needs[0]}" + (f" And {more} more, below." if more else "")
    if now >= standing.schedule.ends:
        return "Over: nobody is written to any more."
    if passing:
        if newest is None:
            return f"Nothing to do: the first sweep {NEXT_SWEEP}."
        if newest.state == "open":
            return f"Nothing to do: sweep {newest.number} is reading the directory."
        return f"Nothing to do. {passing[0]}"
    mode = standing.campaign.sending.mode
    if mode == "dry-run":
        return (
            "Dry run: everything is counted, and nothing is sent until `sending.mode` says `trial` "
            "or `live`."
        )
    well = "All is well" if mode == "live" else "All is well with the trial"
    return f"{well}: {_outlook(standing, now, touches)}."


def _outlook(standing: Standing, now: CampaignTime, touches: Sequence[TouchStatus]) -> str:
    """What the touch under way has come to, and when the next one opens."""
    zone = standing.campaign.zone
    told: list[str] = []
    for touch in touches:
        if touch.place == "under way":
            reached = f"`{touch.touch}` has reached {touch.people.get('accepted', 0):,} people"
            due = touch.people.get("planned", 0) + touch.people.get("claimed", 0)
            told.append(f"{reached}, and {due:,} more are due" if due else reached)
        elif touch.place == "next" and touch.opening:
            day = touch.opening.astimezone(zone).date()
            days = format_days((day - now.astimezone(zone).date()).days)
            opening = format_moment(touch.opening, zone)
            told.append(f"`{touch.touch}` opens on {opening} ({zone.key}), {days}")
            break
    else:
        told.append("no touch follows")
    return "; ".join(told)


def _as_sentence(text: str) -> str:
    """A text that came from elsewhere, with its full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


_LOST = frozenset({"expired", "failed", "cancelled"})
"""Reasons of closed rows whose people stay unreached until a later row has them."""


def _why_unreached(parcel: Parcel, index: int) -> str | None:
    if has_bit(parcel.left_out, index):
        return None
    if has_bit(parcel.refused, index):
        return "the address was refused"
    if parcel.state is State.CLOSED:
        return parcel.reason if parcel.reason in _LOST else None
    if parcel.state is State.AMBIGUOUS:
        return "no clear answer"
    return None
