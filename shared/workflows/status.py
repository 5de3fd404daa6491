"""Where a campaign stands, in counts: what administrators see, and why something waits."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.cadence import is_over
from shared.rules.calendar import next_hours, open_hours, window_open
from shared.rules.guards import ShardCounts
from shared.rules.losses import count_silent, find_unreached, why_unreached
from shared.rules.pace import CanaryResult, day_limit
from shared.rules.parcels import SHARDS, Channel, Parcel, State
from shared.stores.control import PASSED
from shared.stores.pages import run_prefix
from shared.workflows.look_back import closing_of, count_unreached, is_past
from shared.workflows.plan import channels_of, format_id, planned_key
from shared.workflows.status_words import (
    count_things,
    format_moment,
    name_touch,
    say_of,
    tell_abandoned,
    tell_canary,
    tell_headline,
    tell_lost,
    tell_mistakes,
    tell_of_all,
    tell_pauses,
    tell_resting,
    tell_silent,
    tell_slow,
    tell_unreached,
)
from shared.workflows.sweep import has_all_passes

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.rules.cadence import PlannedTouch
    from shared.rules.campaign import Campaign, Canary
    from shared.stores import Stores
    from shared.stores.control import ControlRow
    from shared.stores.sweeps import Pass, Sweep
    from shared.workflows.campaigns import Book, CampaignBook, Standing
    from shared.workflows.plan import PlanWorkflow, SlowTouch
    from shared.workflows.release import Hold, ReleaseWorkflow

_SIDE_BY_SIDE = 8
"""Reads of storage at the same time: who looks at the status must not crowd out what sends."""

_DIED_SINCE = timedelta(days=7)
"""Messages that died before are news no more."""

_REST_PARTS = 3
"""A third of the time after which a parcel is handed out again, it rests: a sender takes it within
seconds."""

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


class CanaryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The few people of a touch and channel who are written to before the others.

    Attributes:
        recipients: people of the marked parcels; `sent` of them are in accepted ones, of which
            receipts call `delivered` delivered.
        needed: so many delivered let the others follow.
    """

    result: CanaryResult
    recipients: int
    sent: int
    delivered: int
    needed: int


class TouchStatus(msgspec.Struct, kw_only=True):
    """When a touch is, and where its parcels of one channel are.

    Attributes:
        opening, closing: the window of its day; None where it has none.
        parcels: by state, `final`, or why they were closed. Those that were planned again or split
            are not counted: their people stand in other parcels. Nor are those of seed addresses.
        people: of these parcels, by the same, or `left out`, or `refused`: the sum is everybody.
        delivered: how many of them a receipt calls delivered.
        canary: None where the file asks for none, or none has been planned.
    """

    touch: str
    channel: Channel
    opening: CampaignTime | None
    closing: CampaignTime | None
    place: Place
    parcels: dict[str, int] = {}
    people: dict[str, int] = {}
    delivered: int = 0
    canary: CanaryStatus | None = None


class ChannelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One channel of a campaign.

    Attributes:
        paused: reasons; empty where nothing pauses it.
        limit_today: most recipients of this day, as the file has it; None where it has no limit.
        sent_today: recipients of the calls that were begun on this day of the campaign's zone.
    """

    channel: Channel
    paused: list[str]
    limit_today: int | None
    sent_today: int


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
        channels: those that the cadence names. `touches`: in its order, each once a channel.
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
    channels: list[ChannelStatus]
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


@dataclass(frozen=True)
class _Marked:
    """A canary's parcels, in people."""

    recipients: int = 0
    sent: int = 0
    delivered: int = 0


@dataclass(frozen=True)
class _Counted:
    """What the rows of a campaign come to.

    Attributes:
        released: when the parcels were handed out that are planned still, by channel.
        called: parcels of the calls of the last day, by channel.
        at_domains: people of planned parcels for a limited domain, by touch, channel and domain.
    """

    touches: dict[tuple[str, Channel], TouchStatus]
    sent_today: Counter[Channel] = field(default_factory=Counter[Channel])
    released: defaultdict[Channel, list[StorageTime]] = field(
        default_factory=lambda: defaultdict(list)
    )
    called: defaultdict[Channel, list[Parcel]] = field(default_factory=lambda: defaultdict(list))
    marked: dict[tuple[str, Channel], _Marked] = field(
        default_factory=dict[tuple[str, Channel], _Marked]
    )
    at_domains: Counter[tuple[str, Channel, str]] = field(
        default_factory=Counter[tuple[str, Channel, str]]
    )


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
        since = StorageTime(self._clock.storage_now() - _DIED_SINCE)
        died = await self._stores.poison.read_since(since)
        return Status(
            campaign_now=self._clock.campaign_now(),
            storage_now=self._clock.storage_now(),
            sweep=await self._describe(newest) if newest else None,
            committed=await self._describe(committed) if committed else None,
            needs=tell_of_all(book, new_files, len(died)),
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
        holds, controls, counted = await asyncio.gather(
            self._releases.find_holds(book, standing, committed),
            self._read_controls(campaign),
            self._count_parcels(standing, now, reads),
        )
        touches = list(counted.touches.values())
        if canary := campaign.sending.live_canary:
            for touch in touches:
                marked = counted.marked.get((touch.touch, touch.channel))
                if marked and touch.channel in controls:
                    touch.canary = _judge_canary(canary, touch, marked, controls[touch.channel])
        channels = [
            ChannelStatus(
                channel=channel,
                paused=list(control.pauses),
                limit_today=day_limit(campaign.sending, channel, control.live_days, today),
                sent_today=counted.sent_today[channel],
            )
            for channel, control in controls.items()
        ]
        several = len(channels) > 1
        passing = [hold.text for hold in holds if hold.passing]
        lasting = [hold.text for hold in holds if not hold.passing]
        waits = [*passing, *self._find_waits(standing, controls, channels, touches, now)]
        pauses = [
            say_of(channel, pause.text, several=several)
            for channel, control in controls.items()
            for pause in control.pauses.values()
        ]
        waiting = [*lasting, *pauses, *waits]
        needs = [
            *lasting,
            *tell_pauses(standing.name, controls),
            *tell_mistakes(standing),
            *tell_abandoned(newest),
            *await self._find_losses(standing, touches, now),
            *tell_resting(self._count_resting(campaign, holds, controls, counted, now)),
            *tell_silent(self._count_silent(counted)),
            *tell_slow(await self._find_slow(standing, counted), several=several),
        ]
        if now >= standing.schedule.ends:
            # No sweep reads for it and nothing of it is sent: what else holds it holds nothing up.
            needs, waits, waiting = tell_mistakes(standing), [], []
        return CampaignStatus(
            campaign=standing.name,
            headline=tell_headline(standing, now, needs, passing, newest, touches, several=several),
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
            channels=channels,
            touches=touches,
            waiting=waiting,
            mistakes=[str(mistake) for mistake in standing.mistakes],
        )

    async def _read_controls(self, campaign: Campaign) -> dict[Channel, ControlRow]:
        channels = channels_of(campaign)
        rows = await asyncio.gather(
            *(self._stores.control.read(campaign.campaign, channel) for channel in channels)
        )
        return dict(zip(channels, rows, strict=True))

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
    ) -> _Counted:
        counted = _Counted(_list_touches(standing, now))
        zone = standing.campaign.zone
        today = now.astimezone(zone).date()
        since = self._clock.storage_now() - timedelta(seconds=self._clock.ages.settle_final)

        async def count(shard: int) -> None:
            scan = self._stores.ledger.scan(standing.name, shard, where=_COUNTED, ids=False)
            async for parcel in scan:
                if parcel.seed:
                    continue
                _add(counted, parcel)
                if parcel.state is State.PLANNED:
                    if parcel.released_at:
                        counted.released[parcel.channel].append(parcel.released_at)
                    continue
                if parcel.touched_at and parcel.touched_at.astimezone(zone).date() == today:
                    counted.sent_today[parcel.channel] += parcel.count - parcel.left_out_count
                if parcel.claimed_at and parcel.claimed_at > since:
                    counted.called[parcel.channel].append(parcel)

        await _all_shards(reads, count)
        return counted

    # what waits, and what was lost

    def _find_waits(
        self,
        standing: Standing,
        controls: Mapping[Channel, ControlRow],
        channels: Sequence[ChannelStatus],
        touches: Sequence[TouchStatus],
        now: CampaignTime,
    ) -> list[str]:
        """Why a channel waits for a time, for receipts, or for good in a dry run."""
        several = len(controls) > 1
        waits = [
            say_of(
                channel,
                f"The provider asked to wait until {control.retry_at:%Y-%m-%d %H:%M:%S} UTC.",
                several=several,
            )
            for channel, control in controls.items()
            if control.retry_at and control.retry_at > self._clock.storage_now()
        ]
        waits += [
            say_of(
                one.channel,
                f"This day's limit of {count_things(one.limit_today, 'recipient')} is reached. "
                "The others follow on the next open day.",
                several=several,
            )
            for one in channels
            if one.limit_today is not None and one.sent_today >= one.limit_today
        ]
        waits += [
            f"{name_touch(touch.touch, touch.channel, several=several)} waits for its canary: "
            f"{tell_canary(touch.canary)}."
            for touch in touches
            if touch.canary and touch.canary.result is CanaryResult.WAITING
            if touch.place == "under way"
        ]
        if standing.campaign.sending.mode == "dry-run":
            waits.append("The mode is dry-run: everything is counted, and nothing is sent.")
        if not window_open(standing.campaign, now):
            opens = next_hours(standing.campaign, now).opens
            until = format_moment(opens, standing.campaign.zone)
            waits.append(f"The window is closed until {until} ({standing.campaign.timezone}).")
        return waits

    async def _find_losses(
        self, standing: Standing, touches: Sequence[TouchStatus], now: CampaignTime
    ) -> list[str]:
        """What is told of the last touch that has opened; of an earlier one nothing can be made
        good any more."""
        last = _last_opened(standing, now)
        found = [touch for touch in touches if last and touch.touch == last.touch]
        several = len(channels_of(standing.campaign)) > 1
        if last is None or not is_past(standing.campaign, last, now, self._clock.ages):
            return tell_lost(found, several=several)
        if all(touch.people.keys() <= _NOT_LOST for touch in found):
            return []
        unreached = await count_unreached(self._stores.ledger, standing.campaign, last)
        return tell_unreached(found[0], unreached, several=several)

    def _count_resting(
        self,
        campaign: Campaign,
        holds: Sequence[Hold],
        controls: Mapping[Channel, ControlRow],
        counted: _Counted,
        now: CampaignTime,
    ) -> dict[Channel, int]:
        """Parcels that were handed out a while ago, and that a sender should have taken."""
        hours = open_hours(campaign, now.astimezone(campaign.zone).date())
        if holds or hours is None or not hours.opens <= now < hours.closes:
            return {}
        storage_now = self._clock.storage_now()
        before = storage_now - timedelta(seconds=self._clock.ages.handed_out / _REST_PARTS)
        opened = storage_now - (now - hours.opens)
        return {
            channel: sum(
                1
                for at in counted.released[channel]
                if max(opened, _held_until(control) or opened) < at < before
            )
            for channel, control in controls.items()
            if not control.pauses
        }

    def _count_silent(self, counted: _Counted) -> dict[Channel, int]:
        ages, now = self._clock.ages, self._clock.storage_now()
        return {
            channel: count_silent(
                parcels, now, settle_after=ages.settle_after, settle_final=ages.settle_final
            )
            for channel, parcels in counted.called.items()
        }

    async def _find_slow(self, standing: Standing, counted: _Counted) -> list[SlowTouch]:
        """What of that which is still planned the pace cannot finish in its time."""
        planned = {
            planned_key(*key, ""): people
            for key, touch in counted.touches.items()
            if touch.place != "over" and (people := touch.people.get("planned"))
        }
        planned |= {
            planned_key(*key): people
            for key, people in counted.at_domains.items()
            if counted.touches[key[:2]].place != "over"
        }
        if not planned:
            return []
        return await self._plans.find_slow(standing, ShardCounts(planned=planned))

    # who was not reached

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
        now = self._clock.campaign_now()
        closed = {
            step.touch: closing_of(standing.campaign, step)
            for step in standing.schedule.steps
            if is_past(standing.campaign, step, now, self._clock.ages)
        }
        by_touch: defaultdict[str, list[Parcel]] = defaultdict(list)
        async for parcel in self.scan_parcels(standing.name):
            by_touch[parcel.touch].append(parcel)
        due = await self._plans.list_due(standing, sweep)
        unreached = {person: why for person, why in due.items() if why}
        for touch, parcels in by_touch.items():
            for (_, person), why in find_unreached(parcels, closed.get(touch)).items():
                if person in due:
                    unreached[person] = why
            for parcel in parcels:
                if parcel.state is State.AMBIGUOUS and not parcel.seed:
                    for index, person in parcel.people():
                        if why := why_unreached(parcel, index):
                            unreached[person] = why
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


_TO_BE_SENT = frozenset({State.PLANNED, State.CLAIMED})

_NOT_LOST = frozenset({"accepted", "left out", "cancelled"})
"""Where people of a touch can be who are no loss after its day."""

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


def _list_touches(standing: Standing, now: CampaignTime) -> dict[tuple[str, Channel], TouchStatus]:
    """The touches of the file in its order, on each of their channels, with nothing counted yet."""
    schedule, campaign = standing.schedule, standing.campaign
    days: dict[str, tuple[PlannedTouch, Place]] = {}
    to_come: Place = "next"
    for step in schedule.steps:
        if step.opening > now:
            days[step.touch], to_come = (step, to_come), "later"
        else:
            over = is_over(schedule, step.touch, now)
            days[step.touch] = (step, "over" if over else "under way")
    touches: dict[tuple[str, Channel], TouchStatus] = {}
    for one in campaign.cadence:
        for channel in channels_of(campaign):
            if channel in one.channels:
                touches[one.touch, channel] = _touch_on(campaign, one.touch, channel, days)
    return touches


def _touch_on(
    campaign: Campaign,
    touch: str,
    channel: Channel,
    days: Mapping[str, tuple[PlannedTouch, Place]],
) -> TouchStatus:
    """A touch with nothing counted yet; without a day where another stands on its own."""
    if touch not in days:
        return _touch_without_day(touch, channel, "gives way")
    step, place = days[touch]
    return TouchStatus(
        touch=touch,
        channel=channel,
        opening=step.opening,
        closing=closing_of(campaign, step),
        place=place,
    )


def _touch_without_day(touch: str, channel: Channel, place: Place) -> TouchStatus:
    return TouchStatus(touch=touch, channel=channel, opening=None, closing=None, place=place)


def _last_opened(standing: Standing, now: CampaignTime) -> PlannedTouch | None:
    opened = [step for step in standing.schedule.steps if step.opening <= now]
    return opened[-1] if opened else None


def _held_until(control: ControlRow) -> StorageTime | None:
    """Until when what was handed out may have been dropped on purpose."""
    return max((at for at in (control.resumed_at, control.retry_at) if at), default=None)


def _add(counted: _Counted, parcel: Parcel) -> None:
    """Count a parcel, and its people: whoever is left out or refused by that, whatever the
    parcel's state."""
    key = (parcel.touch, parcel.channel)
    if key not in counted.touches:
        counted.touches[key] = _touch_without_day(*key, "removed")
    touch = counted.touches[key]
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
    touch.delivered += parcel.delivered_count
    if parcel.domain and parcel.state is State.PLANNED:
        counted.at_domains[*key, parcel.domain] += people[name]
    if parcel.canary and parcel.state is not State.CLOSED:
        marked = counted.marked.get(key, _Marked())
        recipients = parcel.count - parcel.left_out_count
        counted.marked[key] = _Marked(
            marked.recipients + recipients,
            marked.sent + (recipients if parcel.state not in _TO_BE_SENT else 0),
            marked.delivered + parcel.delivered_count,
        )


def _judge_canary(
    canary: Canary, touch: TouchStatus, marked: _Marked, control: ControlRow
) -> CanaryStatus:
    result = CanaryResult.WAITING
    if control.canaries.get(touch.touch) == PASSED:
        result = CanaryResult.PASSED
    elif "canary" in control.pauses and touch.touch in control.pauses["canary"].of:
        result = CanaryResult.FAILED
    return CanaryStatus(
        result=result,
        recipients=marked.recipients,
        sent=marked.sent,
        delivered=marked.delivered,
        # Rounded, since 0.55 * 100 is a little more than 55.
        needed=math.ceil(round(canary.delivered * marked.recipients, 6)),
    )
