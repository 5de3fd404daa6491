"""Handing due parcels to the sending queue: pacing, pause, retry and repair are one mechanism.

Every minute, and at each verdict of `go`: first repair what has come to rest, then hand out what is
due. Nothing waits invisibly: what was lost between row and queue is simply handed out again.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.calendar import window_open
from shared.rules.guards import STALE_HOURS, link_fault, too_ambiguous, too_many_bounces
from shared.rules.pace import (
    Bucket,
    CanaryResult,
    admit,
    day_limit,
    find_idle_days,
    judge_canary,
    refill,
)
from shared.rules.parcels import (
    CHANNELS,
    SHARDS,
    Channel,
    Parcel,
    State,
    allow,
    decide_doubt,
    find_receipts_to,
)
from shared.stores.control import PASSED, ControlRow, PauseReason
from shared.stores.queues import PlanShard, hand_out_from
from shared.telemetry import SWEEP_AGE, span
from shared.workflows.alarms import note_event, raise_alarm
from shared.workflows.plan import channels_of
from shared.workflows.sweep import has_all_passes

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.rules.campaign import Campaign
    from shared.stores import Stores
    from shared.stores.parcels import Fence
    from shared.stores.sweeps import Sweep
    from shared.workflows.campaigns import Book, CampaignBook, Standing
    from shared.workflows.look_back import LookBackWorkflow
    from shared.workflows.plan import PlanWorkflow
    from shared.workflows.sweep import SweepWorkflow

MOST_OUTSTANDING = 1000
"""Parcels of a channel that may be on the queue or with the provider."""

_NEVER = StorageTime(datetime.min.replace(tzinfo=UTC))

_SIDE_BY_SIDE = 32
"""Messages put on the queue at the same time."""


_WHOLE_CHANNEL = ""
"""The name of the channel's own bucket, beside those of domains."""

_REPAIRS: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "abandoned": (
        partial(raise_alarm, "claims_abandoned"),
        {"state": State.AMBIGUOUS, "reason": "abandoned", "doubt": True},
    ),
    "expired": (
        partial(raise_alarm, "parcels_expired"),
        {"state": State.CLOSED, "reason": "expired"},
    ),
    "expired in doubt": (
        partial(raise_alarm, "parcels_expired"),
        {"state": State.AMBIGUOUS, "reason": "expired", "final": True},
    ),
    "resend": (
        partial(note_event, "parcels_resent"),
        {"state": State.PLANNED, "reason": "resend", "resent": True, "released_at": None},
    ),
    "no receipt": (
        partial(raise_alarm, "no_receipt"),
        {"state": State.AMBIGUOUS, "reason": "no receipt", "final": True},
    ),
}
"""What rest alone brings about: how it is told, and the change."""


class Hold(msgspec.Struct, frozen=True):
    """Why nothing of a campaign may be handed out; `passing` where that ends by itself."""

    text: str
    passing: bool = False


class ReleaseWorkflow:
    """Repairs what rests and hands out what is due."""

    def __init__(
        self,
        stores: Stores,
        book: CampaignBook,
        sweeps: SweepWorkflow,
        plans: PlanWorkflow,
        look_back: LookBackWorkflow,
        clock: Clock,
        *,
        public_base_url: str,
        link_hosts: frozenset[str],
    ) -> None:
        self._stores = stores
        self._book = book
        self._sweeps = sweeps
        self._plans = plans
        self._look_back = look_back
        self._clock = clock
        self._public_base_url = public_base_url
        self._link_hosts = link_hosts
        # Since when each campaign's wanted pair has been so, as far as this process has seen.
        self._wanted: dict[str, tuple[tuple[int, int], StorageTime]] = {}

    async def release_all(self) -> None:
        """The timer's tick: every campaign, after the repair of the sweep."""
        await self._sweeps.repair()
        book = await self._book.refresh(accept=True)
        sweep = await self._stores.sweeps.read_committed()
        if sweep and self._sweeps.active(book):  # else nobody needs another one
            SWEEP_AGE.set((self._clock.campaign_now() - sweep.seen_at).total_seconds() / 3600)
        failures: list[Exception] = []
        for standing in book.standings.values():
            for step in (
                partial(self._release, book, standing, sweep, repair=True),
                partial(self._look_back.look_back, standing),
            ):
                try:
                    await step()
                except Exception as error:  # of any kind: nothing else must wait for it
                    failures.append(error)
        if failures:
            raise ExceptionGroup("release failed for some campaigns", failures)

    async def release_campaign(self, name: str) -> None:
        """At a verdict: hand out without waiting for the timer."""
        book = await self._book.read()
        sweep = await self._stores.sweeps.read_committed()
        if standing := book.standings.get(name):
            await self._release(book, standing, sweep, repair=False)

    async def _release(
        self, book: Book, standing: Standing, sweep: Sweep | None, *, repair: bool
    ) -> None:
        name = standing.name
        parcels = [
            parcel
            for shard in range(len(SHARDS))
            async for parcel in self._stores.ledger.scan_recent(name, shard)
        ]
        used: set[Channel] = {*channels_of(standing.campaign), *(one.channel for one in parcels)}
        channels: list[Channel] = [channel for channel in CHANNELS if channel in used]
        controls: dict[Channel, ControlRow] = {
            one: await self._stores.control.read(name, one) for one in channels
        }
        for channel in channels:
            controls[channel] = await self._forget_idle_days(
                standing, channel, parcels, controls[channel]
            )
        parcels = await self._repair_parcels(standing, parcels)
        fences = [await self._stores.ledger.read_fence(name, one) for one in range(len(SHARDS))]
        if repair and sweep:
            fences = await self._repair_plans(standing, sweep, parcels, fences)
        by_channel: dict[Channel, list[Parcel]] = {one: [] for one in channels}
        for parcel in parcels:
            by_channel[parcel.channel].append(parcel)
        for channel, own in by_channel.items():
            controls[channel] = await self._pause_if_bad(standing, channel, own, controls[channel])
            self._look_back.watch_receipts(name, channel, own)
        if book.stopped:
            # So that what is dropped meanwhile goes out again soon after the stop is lifted.
            for channel in channels:
                await self._note_dropped(name, channel)
        if sweep is None or await self.find_holds(book, standing, sweep):
            return
        # What is planned in part only is not handed out.
        done = {
            shard
            for shard, fence in enumerate(fences)
            if fence and fence.done and fence.pair == (sweep.number, standing.version)
        }
        for channel in channels:
            await self._hand_out(standing, channel, by_channel[channel], done, controls[channel])

    async def find_holds(self, book: Book, standing: Standing, sweep: Sweep | None) -> list[Hold]:
        """Why nothing of a campaign may be handed out, on any channel."""
        if book.stopped:
            return [Hold("The blob `config/stop` stops all sending. Delete it to go on.")]
        holds = [Hold(text) for text in standing.paused]
        if fault := link_fault(standing.campaign, self._public_base_url, self._link_hosts):
            holds.append(Hold(fault))
        if sweep is None:
            return [*holds, Hold("No sweep has been committed yet.", passing=True)]
        if not has_all_passes(standing, sweep):
            reading = "Reading the new audience: a sweep that has it comes next."
            return [*holds, Hold(reading, passing=True)]
        age = self._clock.campaign_now() - sweep.seen_at
        if age > timedelta(hours=STALE_HOURS):
            stale = f"The last sweep is older than {STALE_HOURS} h. See why sweeps fail."
            holds.append(Hold(stale))
        verdict = await self._stores.control.read_verdict(
            standing.name, (sweep.number, standing.version)
        )
        if verdict is None:
            planning = "Planning under the newest sweep and version is under way."
            holds.append(Hold(planning, passing=True))
        elif not verdict.go:
            holds += map(Hold, verdict.reasons)
        return holds

    # repair

    async def _repair_parcels(
        self,
        standing: Standing,
        parcels: list[Parcel],
    ) -> list[Parcel]:
        """Abandoned claims become ambiguous, old doubts are decided, and what is past its time
        closes.

        Returns the parcels as they are now, without those that someone else has changed.
        """
        now, today = self._clock.storage_now(), self._clock.campaign_now()
        ages = self._clock.ages
        receipts_to = find_receipts_to(parcels)
        kept: list[Parcel] = []
        chosen: dict[str, list[Parcel]] = {reason: [] for reason in _REPAIRS}
        for parcel in parcels:
            if parcel.state is State.CLAIMED and _older(
                parcel.claimed_at, now, ages.claim_abandoned
            ):
                chosen["abandoned"].append(parcel)
            elif parcel.state is State.PLANNED and parcel.not_after <= today:
                chosen["expired in doubt" if parcel.doubt else "expired"].append(parcel)
            elif decided := decide_doubt(
                parcel,
                receipts_to.get(parcel.channel),
                now,
                today,
                version=standing.version,
                settle_after=ages.settle_after,
                settle_final=ages.settle_final,
            ):
                chosen[decided].append(parcel)
            else:
                kept.append(parcel)
        for reason, some in chosen.items():
            tell, change = _REPAIRS[reason]
            for parcel in some:
                allow(
                    parcel.state,
                    change["state"],
                    "releaser",
                    reason=change["reason"],
                    doubt=parcel.doubt,
                )
            changed = await self._change_by_shard(some, change)
            kept += changed
            for touch, channel in sorted({(parcel.touch, parcel.channel) for parcel in changed}):
                counts = [p.count for p in changed if (p.touch, p.channel) == (touch, channel)]
                tell(
                    campaign=standing.name,
                    touch=touch,
                    channel=channel,
                    parcels=len(counts),
                    recipients=sum(counts),
                )
        return kept

    async def _change_by_shard(
        self, parcels: Sequence[Parcel], change: dict[str, Any]
    ) -> list[Parcel]:
        changed: list[Parcel] = []
        for shard in sorted({parcel.shard for parcel in parcels}):
            batch = [parcel for parcel in parcels if parcel.shard == shard]
            done, _ = await self._stores.ledger.change_many(batch, **change)
            changed += done
        return changed

    async def _repair_plans(
        self,
        standing: Standing,
        sweep: Sweep,
        parcels: Sequence[Parcel],
        fences: Sequence[Fence | None],
    ) -> list[Fence | None]:
        """See to it that every shard gets planned under the wanted pair.

        Returns the fences as they are then; None for a shard that is to be planned anew.
        """
        kept = list(fences)
        if not self._sweeps.is_active(standing):
            return kept
        if not has_all_passes(standing, sweep):
            await self._sweeps.read_new_audience(standing)
            return kept
        pair = (sweep.number, standing.version)
        now = self._clock.storage_now()
        for shard in {parcel.shard for parcel in parcels if _is_outdated(parcel, standing)}:
            fence = kept[shard]
            if fence and fence.done and fence.pair == pair:
                # A claim from before an edit of the file came back as planned.
                await self._stores.ledger.reopen(standing.name, shard, fence)
                kept[shard] = None
        undone = [
            shard
            for shard, fence in enumerate(kept)
            if fence is None or fence.pair < pair or not fence.done
        ]
        at_rest = self._clock.ages.fence_at_rest
        await self._stores.queues.put_plan(
            PlanShard(standing.name, shard, *pair)
            for shard in undone
            if (fence := kept[shard]) is None
            or fence.pair < pair
            or _older(fence.moved_at, now, at_rest)
        )
        if not undone:
            await self._plans.conclude(standing, sweep)
        elif _older(self._wanted_since(standing.name, pair), now, self._clock.ages.plan_late):
            raise_alarm("planning_late", campaign=standing.name, shards=len(undone))
        return kept

    def _wanted_since(self, campaign: str, pair: tuple[int, int]) -> StorageTime:
        """Since when the pair has been the wanted one, as far as this process has seen."""
        seen, since = self._wanted.get(campaign, (None, self._clock.storage_now()))
        if seen != pair:
            since = self._clock.storage_now()
            self._wanted[campaign] = (pair, since)
        return since

    async def _forget_idle_days(
        self,
        standing: Standing,
        channel: Channel,
        parcels: Sequence[Parcel],
        control: ControlRow,
    ) -> ControlRow:
        """Take back live days on which nothing left. Returns the control row as it is then."""
        own = [parcel for parcel in parcels if parcel.channel == channel]
        now, zone = self._clock.campaign_now(), standing.campaign.zone
        idle = find_idle_days(control.live_days, own, now, zone)
        if not idle:
            return control
        return await self._stores.control.change(
            standing.name,
            channel,
            lambda row: (
                msgspec.structs.replace(
                    row, live_days=tuple(day for day in row.live_days if day not in idle)
                )
                if idle & set(row.live_days)
                else None
            ),
        )

    async def _pause_if_bad(
        self, standing: Standing, channel: Channel, parcels: Sequence[Parcel], control: ControlRow
    ) -> ControlRow:
        """Pause a channel on which too much goes wrong. Returns the control row as it is then."""
        guards = standing.campaign.sending.guards
        called = [
            parcel
            for parcel in parcels
            if parcel.claimed_at
            and not parcel.seed
            and (control.forgiven_at is None or parcel.claimed_at > control.forgiven_at)
        ]
        texts: dict[PauseReason, str | None] = {
            "ambiguity": self._find_ambiguity(called, guards.ambiguous),
            "bounces": _find_bounces(called, guards.bounces),
        }
        for reason, text in texts.items():
            if text and reason not in control.pauses:
                await self._pause(standing.name, channel, reason, text)
                control = await self._stores.control.read(standing.name, channel)
        return control

    def _find_ambiguity(self, called: Sequence[Parcel], share: float) -> str | None:
        """Abandoned claims are no fault of the provider's, and have an alarm of their own."""
        since = self._clock.storage_now() - timedelta(hours=1)
        lately = [p for p in called if p.claimed_at and p.claimed_at > since]
        unclear = sum(1 for p in lately if p.state is State.AMBIGUOUS and p.reason != "abandoned")
        if not too_ambiguous(unclear, len(lately), share):
            return None
        return (
            f"{unclear} of {len(lately)} calls of the last hour have no clear answer. "
            "See whether the provider has trouble, then `nudge resume`."
        )

    async def _pause(
        self,
        campaign: str,
        channel: Channel,
        reason: PauseReason,
        text: str,
        of: tuple[str, ...] = (),
    ) -> None:
        if await self._stores.control.pause(campaign, channel, reason, text, of=of):
            raise_alarm(
                "channel_paused", campaign=campaign, channel=channel, reason=reason, detail=text
            )

    # handing out

    async def _hand_out(
        self,
        standing: Standing,
        channel: Channel,
        parcels: list[Parcel],
        shards: set[int],
        control: ControlRow,
    ) -> None:
        """Put what is due on the queue; `shards` are those that are planned to the end."""
        now, today = self._clock.storage_now(), self._clock.campaign_now()
        if not window_open(standing.campaign, today):
            return
        if control.retry_at and now < control.retry_at:
            return
        probe = False
        if control.pauses:
            if set(control.pauses) != {"setup"}:
                return
            probe = True
        dropped_before = _dropped_before(control, now, self._clock.ages.handed_out)
        due = [
            parcel
            for parcel in parcels
            if parcel.state is State.PLANNED
            and parcel.shard in shards
            and parcel.version == standing.version
            and parcel.not_before <= today
            and not (parcel.retry_at and now < parcel.retry_at)
            and not (parcel.released_at and parcel.released_at > dropped_before)
        ]
        outstanding = [
            p
            for p in parcels
            if p.state is State.CLAIMED
            or (p.state is State.PLANNED and p.released_at and p.released_at > dropped_before)
        ]
        due = await self._let_canaries_go_first(
            *(standing, channel, parcels, due, control), complete=len(shards) == len(SHARDS)
        )
        due.sort(key=_turn)
        if probe:
            # One after the other: a parcel may be the very cause of the set-up fault.
            due.sort(key=lambda parcel: parcel.claimed_at or _NEVER)
        most = 1 if probe else max(0, MOST_OUTSTANDING - len(outstanding))
        sent = _sent_on(standing.campaign, today, parcels, outstanding)
        due = await self._admit(standing.campaign, channel, due, most, sent, probe=probe)
        if due:
            of = {"campaign": standing.name, "channel": channel, "parcels": len(due)}
            with span("hand out", of, links=(parcel.trace for parcel in due)):
                await self._put(standing.name, channel, due, now, probe=probe)
        at_rest = _count_at_rest(due, control, now, self._clock.ages.handed_out)
        if at_rest:
            raise_alarm("parcels_at_rest", campaign=standing.name, channel=channel, parcels=at_rest)

    async def _put(
        self, campaign: str, channel: Channel, due: list[Parcel], now: StorageTime, *, probe: bool
    ) -> None:
        """Stamp parcels as released, and put those that nobody else has changed on the queue."""
        released = await self._change_by_shard(due, {"released_at": now, "retry_at": None})
        released.sort(key=_turn)
        for start in range(0, len(released), _SIDE_BY_SIDE):
            async with asyncio.TaskGroup() as group:
                for parcel in released[start : start + _SIDE_BY_SIDE]:
                    group.create_task(
                        self._stores.queues.put_hand_out(hand_out_from(parcel, probe=probe))
                    )
        if released:
            note_event(
                "released",
                campaign=campaign,
                channel=channel,
                parcels=len(released),
                recipients=sum(p.count for p in released),
            )

    async def _let_canaries_go_first(
        self,
        standing: Standing,
        channel: Channel,
        parcels: Sequence[Parcel],
        due: list[Parcel],
        control: ControlRow,
        *,
        complete: bool,
    ) -> list[Parcel]:
        """What may go of what is due: of a touch whose canary has not passed only that itself.

        The others follow when enough of it was delivered. Where too little was, the channel pauses.

        Args:
            complete: whether all shards are planned. Before that nobody is marked and nothing is
                judged, since marked parcels of the others are still to come.
        """
        canary = standing.campaign.sending.live_canary
        others = {parcel.touch for parcel in due if not (parcel.canary or parcel.seed)}
        if canary is None or not (others := others - control.canaries.keys()):
            return due
        for touch in sorted(others) if complete else ():
            marked = [parcel for parcel in parcels if parcel.canary and parcel.touch == touch]
            if not marked:
                await self._mark_smallest([one for one in due if one.touch == touch])
                continue
            recipients = sum(parcel.count - parcel.left_out_count for parcel in marked)
            delivered = sum(parcel.delivered_count for parcel in marked)
            result = judge_canary(
                canary,
                open=any(p.state in (State.PLANNED, State.CLAIMED) for p in marked),
                recipients=recipients,
                delivered=delivered,
                last_called=max((p.claimed_at for p in marked if p.claimed_at), default=None),
                now=self._clock.storage_now(),
                wait=self._clock.ages.settle_after,
            )
            if result is CanaryResult.PASSED:
                await self._note_passed(standing.name, channel, touch)
                others.remove(touch)
            elif result is CanaryResult.FAILED:
                text = (
                    f"Of the first {recipients} people of `{touch}` {delivered} are known to have "
                    f"it, and {canary.delivered:.0%} should. See whether mail reaches its readers "
                    "and receipts come back; `nudge resume` lets the others follow."
                )
                await self._pause(standing.name, channel, "canary", text, of=(touch,))
                return []
        return [one for one in due if one.canary or one.seed or one.touch not in others]

    async def _mark_smallest(self, due: Sequence[Parcel]) -> None:
        """All whom planning had marked are done, or could not be written to: somebody else goes
        first, from the next tick on."""
        smallest = min(due, key=lambda parcel: (parcel.count, _turn(parcel)))
        await self._change_by_shard([smallest], {"canary": True})

    async def _note_passed(self, campaign: str, channel: Channel, touch: str) -> None:
        await self._stores.control.change(
            campaign,
            channel,
            lambda row: (
                None
                if touch in row.canaries
                else msgspec.structs.replace(row, canaries={**row.canaries, touch: PASSED})
            ),
        )
        note_event("canary_passed", campaign=campaign, channel=channel, touch=touch)

    async def _admit(
        self,
        campaign: Campaign,
        channel: Channel,
        due: list[Parcel],
        most: int,
        sent: int,
        *,
        probe: bool,
    ) -> list[Parcel]:
        """As many parcels, from the first on, as the campaign's pace allows; none where it is not
        yet time for the next one to probe a set-up fault.

        Args:
            most: parcels. Not cut off beforehand: what waits for its domain must hold up nobody.
            sent: recipients of the day so far.
        """
        if not due or not most:
            return []
        sending = campaign.sending
        now, wait = self._clock.storage_now(), self._clock.ages.setup_probe
        today = self._clock.campaign_now().astimezone(campaign.zone).date()
        limits = dict(sending.max_per_domain_per_hour) if channel == "email" else {}
        if channel in sending.max_per_hour:
            limits[_WHOLE_CHANNEL] = sending.max_per_hour[channel]
        chosen: list[Parcel] = []

        def take(row: ControlRow) -> ControlRow | None:
            chosen.clear()
            if probe and row.probe_at and not _older(row.probe_at, now, wait):
                return None
            tokens = {
                name: refill(row.buckets.get(name), now, most) for name, most in limits.items()
            }
            limit = day_limit(sending, channel, row.live_days, today)
            admission = admit(
                ((0 if parcel.seed else parcel.count, parcel.domain) for parcel in due),
                most=most,
                channel_tokens=tokens.pop(_WHOLE_CHANNEL, math.inf),
                domain_tokens=tokens,
                day_left=math.inf if limit is None else max(0, limit - sent),
            )
            chosen.extend(due[index] for index in admission.chosen)
            if not chosen:
                return None
            left = {**admission.domain_tokens, _WHOLE_CHANNEL: admission.channel_tokens}
            fresh = msgspec.structs.replace(
                row,
                buckets={**row.buckets, **{name: Bucket(left[name], now) for name in limits}},
                live_days=_with_day(row.live_days, campaign, today),
                probe_at=now if probe else row.probe_at,
            )
            return None if fresh == row else fresh

        await self._stores.control.change(campaign.campaign, channel, take)
        return chosen

    async def _note_dropped(self, campaign: str, channel: Channel) -> None:
        now = self._clock.storage_now()
        await self._stores.control.change(
            campaign, channel, lambda row: msgspec.structs.replace(row, resumed_at=now)
        )


def _find_bounces(called: Sequence[Parcel], share: float) -> str | None:
    """Of which touch too many addresses do not work, if of any."""
    for touch in sorted({parcel.touch for parcel in called}):
        parcels = [parcel for parcel in called if parcel.touch == touch]
        recipients = sum(parcel.count - parcel.left_out_count for parcel in parcels)
        bounced = sum(parcel.refused_count for parcel in parcels)
        if too_many_bounces(bounced, recipients, share):
            return (
                f"{bounced} of {recipients} addresses of `{touch}` do not work. So old a list "
                "costs the sender its name: see where the addresses come from, then `nudge resume`."
            )
    return None


def _sent_on(
    campaign: Campaign,
    today: CampaignTime,
    parcels: Sequence[Parcel],
    outstanding: Sequence[Parcel],
) -> int:
    """Recipients of the day in the campaign's zone: whose parcel was claimed, or is handed out."""
    day = today.astimezone(campaign.zone).date()
    under_way = {(parcel.shard, parcel.key) for parcel in outstanding}
    return sum(
        parcel.count - parcel.left_out_count
        for parcel in parcels
        if not parcel.seed
        and (
            (parcel.shard, parcel.key) in under_way
            or (
                parcel.state is not State.PLANNED
                and parcel.touched_at is not None
                and parcel.touched_at.astimezone(campaign.zone).date() == day
            )
        )
    )


def _with_day(live_days: tuple[str, ...], campaign: Campaign, today: date) -> tuple[str, ...]:
    """The live days with today, where this is one; unless nothing leaves after all
    (`find_idle_days`)."""
    day = today.isoformat()
    if campaign.sending.mode != "live" or day in live_days:
        return live_days
    return (*live_days, day)


def _count_at_rest(
    due: Sequence[Parcel], control: ControlRow, now: StorageTime, handed_out: float
) -> int:
    """Parcels whose message has just died without anybody's having taken it: nothing was paused,
    so whoever takes from the queue does not work."""
    ends = [at for at in (control.resumed_at, control.retry_at) if at]
    ends += [pause.since for pause in control.pauses.values()]
    return sum(
        1
        for parcel in due
        if parcel.released_at
        and handed_out <= (now - parcel.released_at).total_seconds() < 2 * handed_out
        and all(at < parcel.released_at for at in ends)
    )


def _dropped_before(control: ControlRow, now: StorageTime, handed_out: float) -> StorageTime:
    """Rows released before this time may be handed out again.

    Their messages are dead by then, or were dropped while the channel was held, or will be
    dropped by their ETag.
    """
    times = [StorageTime(now - timedelta(seconds=handed_out))]
    times += [at for at in (control.resumed_at, control.retry_at) if at and at <= now]
    return max(times)


def _turn(parcel: Parcel) -> tuple[CampaignTime, bytes]:
    """The soonest end first; within it an order that puts no shard last every time."""
    return parcel.not_after, hashlib.blake2b(parcel.key.encode(), digest_size=8).digest()


def _is_outdated(parcel: Parcel, standing: Standing) -> bool:
    """Planned under an older version, and free to be taken back."""
    older = parcel.version < standing.version
    return older and parcel.state is State.PLANNED and not parcel.doubt


def _older(then: StorageTime | None, now: StorageTime, seconds: float) -> bool:
    return then is not None and (now - then).total_seconds() >= seconds
