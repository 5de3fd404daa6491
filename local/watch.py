"""What a local run has come to: watches the ledger until nothing more is due, and sums it up."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING

import msgspec

from shared.clock import CampaignTime, StorageTime, monotonic
from shared.rules.cadence import build_schedule
from shared.rules.calendar import window_open
from shared.rules.guards import ShardCounts
from shared.rules.pace import day_limit
from shared.rules.parcels import CHANNELS, SHARDS, Parcel, State
from shared.stores.pages import run_prefix

if TYPE_CHECKING:
    from functions.wiring import App
    from local.system import LocalSystem
    from shared.rules.campaign import Campaign
    from shared.rules.parcels import Channel
    from shared.stores.control import ControlRow
    from shared.stores.sweeps import Sweep
    from shared.workflows.campaigns import Standing

POLL_SECONDS = 0.25
QUIET_SECONDS = 3.0
"""After so long without a change the timers are fired by hand, instead of waiting for the minute:
what a crash has left lying is taken up as soon as its age allows."""

RECEIPT_SECONDS = 10.0
"""Receipts of parcels in doubt are waited for so long after the last change, where others wait for
them; the inbox's come at once."""

MOST_REFUSALS, REFUSED_SECONDS = 6, 120.0
STUCK_SECONDS = 1200.0
"""What a run is given up after: so many requests in a row to come back later, over so long; or so
long (times AGES_SCALE) in which nothing moves, though nobody asked us to wait."""

_MOVING = frozenset({State.PLANNED, State.CLAIMED})
_NOT_COUNTED = frozenset({"replanned", "split"})
"""Reasons of closed rows whose people stand in other rows."""


class SweepFigures(msgspec.Struct, frozen=True, kw_only=True):
    """People of the roster; all but `roster` and `unreachable` add up to it."""

    roster: int
    registered: int
    unregistered: int
    unknown: int
    unrecognised: int
    excluded: int
    unreachable: int


class ParcelFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Parcels of this call; `scheduled` are those due later."""

    planned: int
    scheduled: int
    accepted: int
    rejected: int
    ambiguous: int
    expired: int


class Recipients(msgspec.Struct, frozen=True, kw_only=True):
    """People whose parcel was accepted, by channel."""

    email: int = 0
    sms: int = 0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one local run has done, seed parcels aside; `seconds` from the timer to the last
    settled parcel."""

    sweep: SweepFigures
    parcels: ParcelFigures
    recipients: Recipients
    seconds: float


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One parcel as `--ledger` writes it."""

    id: str
    state: str
    reason: str
    resent: bool


class LedgerDump(msgspec.Struct, frozen=True, kw_only=True):
    """All parcels, and everybody who was due and not reached, with the reason."""

    parcels: list[LedgerEntry]
    unreached: dict[str, str]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is: pages and rows read, shards planned, parcels by state."""

    pages: int = 0
    rows: int = 0
    shards_done: int = 0
    parcels: dict[State, int] = {}

    @property
    def achieved(self) -> tuple[int, int, int]:
        """What grows when the run gets on: pages, shards, parcels that have come to an end."""
        ended = sum(n for state, n in self.parcels.items() if state not in _MOVING)
        return self.pages, self.shards_done, ended


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at storage shows.

    Attributes:
        busy: whether something is still to come at the pretended time.
        in_doubt: whether more may come, once receipts of parcels in doubt have.
        fault: why nothing will come of it.
        asked_until: until when a service told us to wait.
        timer: the function that would get things going if they had come to rest.
    """

    progress: Progress = Progress()
    busy: bool = True
    in_doubt: bool = False
    fault: str | None = None
    asked_until: StorageTime | None = None
    timer: str = "release_due"


class Patience:
    """Tells waiting from being stuck; `now` gives seconds that never jump."""

    def __init__(self, ages_scale: float, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._stuck_seconds = max(STUCK_SECONDS * ages_scale, 60.0)
        self._achieved: tuple[int, int, int] | None = None
        self._since = self._idle_since = now()
        self._asked_until: StorageTime | None = None
        self._refusals = 0

    def end(self, look: Look, *, waiting: bool) -> str | None:
        """Why it is no use to wait on; `waiting` says that the time asked for is not over."""
        now = self._now()
        if look.progress.achieved != self._achieved:
            self._achieved = look.progress.achieved
            self._since = self._idle_since = now
            self._refusals = 0
        if look.asked_until != self._asked_until:
            self._asked_until = look.asked_until
            self._refusals += 1
        if waiting:
            self._idle_since = now
        if self._refusals >= MOST_REFUSALS and now - self._since > REFUSED_SECONDS:
            return (
                f"{self._refusals} times in a row we were told to come back later, or got no "
                "answer. The host's log says from whom."
            )
        if now - self._idle_since > self._stuck_seconds:
            return f"Nothing has moved for {self._stuck_seconds:.0f} s. See the host's log."
        return None


class Watcher:
    """Follows one run of the local system until nothing more is due.

    Args:
        campaign: the one whose parcels count, as it stands.
        sweep: number of the sweep that the run is about: one that is open or to come, or the last
            one where nothing is read anew.
    """

    def __init__(self, system: LocalSystem, campaign: Campaign, sweep: int) -> None:
        self._app: App = system.app
        self._name = campaign.campaign
        self._campaign = campaign
        self._system = system
        self._sweep = sweep
        self._seen_sweep = 0
        self.failed = 0  # parcels of this call that a fault of the product's own closed
        self._seconds = 0.0

    async def until_settled(
        self, show: Callable[[Progress], None], *, timer: str | None = "sweep_start"
    ) -> str | None:
        """Wait until nothing more is due at the pretended time.

        Args:
            timer: what is fired at first; None where the clock has seen to that.

        Returns why it stopped before, None where all went as it should.
        """
        if self._app.clock.campaign_now() >= build_schedule(self._campaign).ends:
            return None  # the campaign is over: no sweep is opened for it
        if timer:
            await self._system.fire(timer)
        began = monotonic()
        try:
            return await self._wait(show)
        finally:
            self._seconds = monotonic() - began

    async def _wait(self, show: Callable[[Progress], None]) -> str | None:
        patience = Patience(self._app.settings.ages_scale)
        seen, quiet_since = Progress(), monotonic()
        moved_at = quiet_since
        show(seen)
        while True:
            began = monotonic()
            look = await self._look()
            took = monotonic() - began
            if look.progress != seen:
                seen, quiet_since = look.progress, monotonic()
                moved_at = quiet_since
                show(seen)
            waits_for_receipts = look.in_doubt and monotonic() - moved_at < RECEIPT_SECONDS
            if look.fault or not (look.busy or waits_for_receipts):
                return look.fault
            until = look.asked_until
            waiting = until is not None and self._app.clock.storage_now() < until
            if fault := patience.end(look, waiting=waiting):
                return fault
            if not waiting and monotonic() - quiet_since > QUIET_SECONDS:
                await self._system.fire(look.timer)
                quiet_since = monotonic()
            await asyncio.sleep(max(POLL_SECONDS, 3 * took))  # storage is there for the product

    async def _look(self) -> Look:
        stores = self._app.stores
        head = await stores.sweeps.read_head()
        # One that is newer than ours, since the timer fired by itself, too, takes its place.
        sweep = await stores.sweeps.read(head.number) if head.number >= self._sweep else None
        if sweep is None:
            return Look(timer="sweep_start")
        if sweep.number != self._seen_sweep:
            # Before it was opened, what the file says became a version.
            self._seen_sweep = sweep.number
            await self._app.book.refresh()
        if sweep.state == "abandoned":
            return Look(fault=f"The sweep was abandoned: {sweep.reason}")
        if sweep.state == "open":
            return await self._look_at_pages(sweep)
        standing = (await self._app.book.read()).standings.get(self._name)
        return await self._look_at_parcels(standing, sweep) if standing else Look()

    async def _look_at_pages(self, sweep: Sweep) -> Look:
        pages = [
            page
            for one in sweep.passes
            for page in await self._app.stores.pages.list_pages(
                run_prefix(sweep.number, one.source, one.run)
            )
        ]
        return Look(
            progress=Progress(pages=len(pages), rows=sum(page.rows for page in pages)),
            asked_until=max(one.asked_at for one in sweep.passes),
        )

    async def _look_at_parcels(self, standing: Standing, sweep: Sweep) -> Look:
        stores = self._app.stores
        pair = (sweep.number, standing.version)
        verdict = await stores.control.read_verdict(self._name, pair)
        if verdict is None:
            fences = [await stores.ledger.read_fence(self._name, one) for one in range(len(SHARDS))]
            done = sum(fence is not None and fence.done and fence.pair == pair for fence in fences)
            return Look(progress=Progress(shards_done=done))
        parcels = [
            parcel
            for shard in range(len(SHARDS))
            async for parcel in stores.ledger.scan_recent(self._name, shard)
        ]
        states = Counter(parcel.state for parcel in parcels)
        controls = await self._read_controls()
        coming, in_doubt = self._choose_coming(standing, parcels, controls)
        fault = None
        if not verdict.go:
            fault = f"The verdict is to pause: {' '.join(verdict.reasons)}"
        elif coming and not states[State.CLAIMED]:
            fault = await self._find_stop(standing, sweep, controls, coming)
        return Look(
            progress=Progress(shards_done=len(SHARDS), parcels=dict(states)),
            busy=bool(coming),
            in_doubt=in_doubt,
            fault=fault,
            asked_until=max(
                (row.retry_at for row in controls.values() if row.retry_at), default=None
            ),
        )

    async def _find_stop(
        self,
        standing: Standing,
        sweep: Sweep,
        controls: Mapping[Channel, ControlRow],
        coming: Sequence[Parcel],
    ) -> str | None:
        """Why nothing comes of any of these parcels; None where something will."""
        holds = await self._app.releases.find_holds(await self._app.book.read(), standing, sweep)
        texts = [hold.text for hold in holds]
        channels: set[Channel] = {parcel.channel for parcel in coming}
        if all(controls[channel].pauses for channel in channels):
            texts += [
                pause.text for channel in channels for pause in controls[channel].pauses.values()
            ]
        return f"Nothing is sent: {' '.join(texts)}" if texts else None

    async def _read_controls(self) -> dict[Channel, ControlRow]:
        found: dict[Channel, ControlRow] = {}
        for channel in CHANNELS:
            found[channel] = await self._app.stores.control.read(self._name, channel)
        return found

    def _choose_coming(
        self,
        standing: Standing,
        parcels: Sequence[Parcel],
        controls: Mapping[Channel, ControlRow],
    ) -> tuple[list[Parcel], bool]:
        """Parcels that something will come of without the clock being moved, and whether others
        wait for receipts of parcels in doubt: those of their touch's canary."""
        campaign, now = standing.campaign, self._app.clock.campaign_now()
        marked: defaultdict[tuple[str, Channel], set[State]] = defaultdict(set)
        if campaign.sending.live_canary:
            for one in parcels:
                if one.canary and one.touch not in controls[one.channel].canaries:
                    marked[one.touch, one.channel].add(one.state)
        left = {one: _left_of_day(campaign, one, parcels, controls[one], now) for one in CHANNELS}
        due = [
            one
            for one in parcels
            if one.state is State.PLANNED and one.not_before <= now and window_open(campaign, now)
        ]
        held = [
            one
            for one in due
            if not (one.canary or one.seed) and _is_in_doubt(marked[one.touch, one.channel])
        ]
        if held:
            names = {(one.shard, one.key) for one in held}
            due = [one for one in due if (one.shard, one.key) not in names]
        # The first one in turn that the day has no room for keeps back all others.
        full = {one.channel for one in due if not one.released_at and one.count > left[one.channel]}
        due = [one for one in due if one.released_at or one.channel not in full]
        return [*due, *(one for one in parcels if one.state is State.CLAIMED)], bool(held)

    async def sum_up(self) -> Outcome:
        """The figures of the run."""
        app = self._app
        standing = (await app.book.refresh()).standings.get(self._name)
        sweep = await app.stores.sweeps.read_committed()
        counts = ShardCounts()
        numbers = dict.fromkeys(ParcelFigures.__struct_fields__, 0)
        recipients: Counter[Channel] = Counter()
        if standing and sweep and sweep.number >= self._sweep:
            counts = await app.status.sum_counts(standing, sweep) or counts
            parcels = [one async for one in app.status.scan_parcels(self._name) if not one.seed]
            chosen, _ = self._choose_coming(standing, parcels, await self._read_controls())
            coming = {(one.shard, one.key) for one in chosen}
            for parcel in parcels:
                taken_back = parcel.state is State.CLOSED and parcel.reason in _NOT_COUNTED
                if parcel.sweep < self._sweep or taken_back:
                    continue
                numbers["planned"] += 1
                self.failed += parcel.state is State.CLOSED and parcel.reason == "failed"
                if column := _column_of(parcel, coming=(parcel.shard, parcel.key) in coming):
                    numbers[column] += 1
                if parcel.state is State.ACCEPTED:
                    outcomes = map(parcel.outcome_of, range(parcel.count))
                    recipients[parcel.channel] += list(outcomes).count("had")
        fields = {name: getattr(counts, name) for name in SweepFigures.__struct_fields__}
        return Outcome(
            sweep=SweepFigures(**fields),
            parcels=ParcelFigures(**numbers),
            recipients=Recipients(**recipients),
            seconds=round(self._seconds, 3),
        )

    async def dump_ledger(self) -> LedgerDump:
        """Every parcel, and who was not reached."""
        status = self._app.status
        entries = [
            LedgerEntry(
                id=f"{self._name}:{parcel.shard:x}|{parcel.key}",
                state="final" if parcel.final else parcel.state.value,
                reason=parcel.reason,
                resent=parcel.resent,
            )
            async for parcel in status.scan_parcels(self._name)
        ]
        unreached = (await status.collect_unreached()).get(self._name, {})
        return LedgerDump(parcels=entries, unreached=unreached)


def _column_of(parcel: Parcel, *, coming: bool) -> str | None:
    """The figure beside `planned` in which a parcel counts."""
    match parcel.state:
        case State.PLANNED:
            return None if coming else "scheduled"
        case State.CLOSED:
            return "expired" if parcel.reason == "expired" else None
        case State.CLAIMED:
            return None
        case ended:
            return ended.value


def _left_of_day(
    campaign: Campaign,
    channel: Channel,
    parcels: Sequence[Parcel],
    control: ControlRow,
    now: CampaignTime,
) -> float:
    """Recipients that the campaign's pace still lets out on the pretended day."""
    today = now.astimezone(campaign.zone).date()
    limit = day_limit(campaign.sending, channel, control.live_days, today)
    if limit is None:
        return math.inf
    return limit - sum(
        one.count - one.left_out_count
        for one in parcels
        if one.channel == channel
        and one.state is not State.PLANNED
        and one.touched_at
        and one.touched_at.astimezone(campaign.zone).date() == today
        and not one.seed
    )


def _is_in_doubt(canary: Set[State]) -> bool:
    """Whether a canary, by the states of its parcels, waits for receipts of those in doubt."""
    return State.AMBIGUOUS in canary and _MOVING.isdisjoint(canary)
