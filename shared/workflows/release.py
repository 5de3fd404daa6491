"""Handing due parcels to the sending queue: pacing, pause, retry and repair are one mechanism.

Every minute, and at each verdict of `go`: first repair what has come to rest, then hand out what is
due. Nothing waits invisibly: what was lost between row and queue is simply handed out again.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.calendar import window_open
from shared.rules.guards import STALE_HOURS, link_fault, too_ambiguous
from shared.rules.parcels import SHARDS, Parcel, State, allow
from shared.stores.control import ControlRow
from shared.stores.queues import PlanShard, hand_out_from
from shared.workflows.alarms import Alarm, note_event, raise_alarm
from shared.workflows.plan import EMAIL
from shared.workflows.sweep import has_all_passes

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.rules.campaign import Campaign
    from shared.stores import Stores
    from shared.stores.parcels import Fence
    from shared.stores.sweeps import Sweep
    from shared.workflows.campaigns import Book, CampaignBook, Standing
    from shared.workflows.plan import PlanWorkflow
    from shared.workflows.sweep import SweepWorkflow

MOST_OUTSTANDING = 1000
"""Parcels of a channel that may be on the queue or with the provider."""

_HOUR_PARTS = 12
"""The rate's bucket holds a twelfth of an hour: after a quiet time no whole hour goes at once."""

_NEVER = StorageTime(datetime.min.replace(tzinfo=UTC))

_SIDE_BY_SIDE = 32
"""Messages put on the queue at the same time."""


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
        clock: Clock,
        *,
        public_base_url: str,
        link_hosts: frozenset[str],
    ) -> None:
        self._stores = stores
        self._book = book
        self._sweeps = sweeps
        self._plans = plans
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
        failures: list[Exception] = []
        for standing in book.standings.values():
            try:
                await self._release(book, standing, sweep, repair=True)
            except Exception as error:  # of any kind: the other campaigns must not wait for it
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
        parcels = await self._repair_parcels(standing, parcels)
        fences = [await self._stores.ledger.read_fence(name, one) for one in range(len(SHARDS))]
        if repair and sweep:
            fences = await self._repair_plans(standing, sweep, parcels, fences)
        control = await self._stores.control.read(name, EMAIL)
        control = await self._pause_if_too_ambiguous(name, parcels, control)
        if book.stopped:
            # So that what is dropped meanwhile goes out again soon after the stop is lifted.
            await self._note_dropped(name)
        if sweep is None or await self.find_holds(book, standing, sweep):
            return
        # What is planned in part only is not handed out.
        done = {
            shard
            for shard, fence in enumerate(fences)
            if fence and fence.done and fence.pair == (sweep.number, standing.version)
        }
        await self._hand_out(standing, parcels, done, control)

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

    async def _repair_parcels(self, standing: Standing, parcels: list[Parcel]) -> list[Parcel]:
        """Abandoned claims become ambiguous, old doubts final, and what is past its time closes.

        Returns the parcels as they are now, without those that someone else has changed.
        """
        now, today = self._clock.storage_now(), self._clock.campaign_now()
        ages = self._clock.ages
        kept: list[Parcel] = []
        abandoned: list[Parcel] = []
        expired: list[Parcel] = []
        doubtful: list[Parcel] = []
        undecided: list[Parcel] = []
        for parcel in parcels:
            if parcel.state is State.CLAIMED and _older(
                parcel.claimed_at, now, ages.claim_abandoned
            ):
                abandoned.append(parcel)
            elif parcel.state is State.PLANNED and parcel.not_after <= today:
                (doubtful if parcel.doubt else expired).append(parcel)
            elif (
                parcel.state is State.AMBIGUOUS
                and not parcel.final
                and _older(parcel.claimed_at, now, ages.settle_final)
            ):
                undecided.append(parcel)
            else:
                kept.append(parcel)
        changes: list[tuple[Alarm, list[Parcel], dict[str, Any]]] = [
            (
                "claims_abandoned",
                abandoned,
                {"state": State.AMBIGUOUS, "reason": "abandoned", "doubt": True},
            ),
            ("parcels_expired", expired, {"state": State.CLOSED, "reason": "expired"}),
            (
                "parcels_expired",
                doubtful,
                {"state": State.AMBIGUOUS, "reason": "expired", "final": True},
            ),
            (
                "no_receipt",
                undecided,
                {"state": State.AMBIGUOUS, "reason": "no receipt", "final": True},
            ),
        ]
        for alarm, chosen, change in changes:
            for parcel in chosen:
                allow(
                    parcel.state,
                    change["state"],
                    "releaser",
                    reason=change["reason"],
                    doubt=parcel.doubt,
                )
            changed = await self._change_by_shard(chosen, change)
            kept += changed
            for touch in sorted({parcel.touch for parcel in changed}):
                counts = [parcel.count for parcel in changed if parcel.touch == touch]
                raise_alarm(
                    alarm,
                    campaign=standing.name,
                    touch=touch,
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

    async def _pause_if_too_ambiguous(
        self, campaign: str, parcels: list[Parcel], control: ControlRow
    ) -> ControlRow:
        """The control row as it is then. Abandoned claims are no fault of the provider's, and have
        an alarm of their own."""
        since = self._clock.storage_now() - timedelta(hours=1)
        if control.forgiven_at and control.forgiven_at > since:
            since = control.forgiven_at
        called = [p for p in parcels if p.claimed_at and p.claimed_at > since]
        unclear = sum(1 for p in called if p.state is State.AMBIGUOUS and p.reason != "abandoned")
        if "ambiguity" in control.pauses or not too_ambiguous(unclear, len(called)):
            return control
        text = (
            f"{unclear} of {len(called)} calls of the last hour have no clear answer. "
            "See whether the provider has trouble, then `nudge resume`."
        )
        if await self._stores.control.pause(campaign, EMAIL, "ambiguity", text):
            raise_alarm("channel_paused", campaign=campaign, channel=EMAIL, reason="ambiguity")
        return await self._stores.control.read(campaign, EMAIL)

    # handing out

    async def _hand_out(
        self, standing: Standing, parcels: list[Parcel], shards: set[int], control: ControlRow
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
        outstanding = sum(
            1
            for p in parcels
            if p.state is State.CLAIMED
            or (p.state is State.PLANNED and p.released_at and p.released_at > dropped_before)
        )
        due.sort(key=_turn)
        if probe:
            # One after the other: a parcel may be the very cause of the set-up fault.
            due.sort(key=lambda parcel: parcel.claimed_at or _NEVER)
        due = due[: 1 if probe else max(0, MOST_OUTSTANDING - outstanding)]
        due = await self._admit(standing.campaign, due, probe=probe)
        released = await self._change_by_shard(due, {"released_at": now, "retry_at": None})
        released.sort(key=_turn)
        for start in range(0, len(released), _SIDE_BY_SIDE):
            async with asyncio.TaskGroup() as group:
                for parcel in released[start : start + _SIDE_BY_SIDE]:
                    group.create_task(
                        self._stores.queues.put_email(hand_out_from(parcel, probe=probe))
                    )
        if released:
            note_event(
                "released",
                campaign=standing.name,
                channel=EMAIL,
                parcels=len(released),
                recipients=sum(p.count for p in released),
            )

    async def _admit(self, campaign: Campaign, due: list[Parcel], *, probe: bool) -> list[Parcel]:
        """As many parcels, from the first on, as the hourly limit has tokens for; none where it is
        not yet time for the next one to probe a set-up fault."""
        limit = campaign.sending.max_per_hour.get(EMAIL)
        if not due or not (limit or probe):
            return due
        now, wait = self._clock.storage_now(), self._clock.ages.setup_probe
        chosen: list[Parcel] = []

        def take(row: ControlRow) -> ControlRow | None:
            chosen.clear()
            if probe and row.probe_at and not _older(row.probe_at, now, wait):
                return None
            tokens = refill(row.tokens, row.tokens_at, now, limit) if limit else math.inf
            for parcel in due:
                if parcel.count > tokens:
                    break
                tokens -= parcel.count
                chosen.append(parcel)
            if not chosen:
                return None
            if limit:
                row = msgspec.structs.replace(row, tokens=tokens, tokens_at=now)
            return msgspec.structs.replace(row, probe_at=now) if probe else row

        await self._stores.control.change(campaign.campaign, EMAIL, take)
        return chosen

    async def _note_dropped(self, campaign: str) -> None:
        now = self._clock.storage_now()
        await self._stores.control.change(
            campaign, EMAIL, lambda row: msgspec.structs.replace(row, resumed_at=now)
        )


def refill(
    tokens: float | None, since: StorageTime | None, now: StorageTime, per_hour: int
) -> float:
    """Tokens of a bucket that fills evenly and holds a twelfth of an hour, at least one."""
    most = max(1.0, per_hour / _HOUR_PARTS)
    if tokens is None or since is None:
        return most
    return min(most, tokens + (now - since).total_seconds() * per_hour / 3600)


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
