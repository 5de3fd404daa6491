"""Where a campaign stands, in counts: what administrators see, and why something waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.calendar import window_open
from shared.rules.guards import ShardCounts
from shared.rules.parcels import NOTHING_HAD, SHARDS, Parcel, State, fold, has_bit
from shared.workflows.plan import EMAIL, format_id
from shared.workflows.sweep import has_all_passes

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.stores import Stores
    from shared.stores.sweeps import Sweep
    from shared.workflows.campaigns import CampaignBook, Standing
    from shared.workflows.plan import PlanWorkflow
    from shared.workflows.release import ReleaseWorkflow


class SweepStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The newest sweep; `reason` where it was abandoned."""

    number: int
    state: str
    opened_at: StorageTime
    ended_at: StorageTime | None
    reason: str


class TouchStatus(msgspec.Struct, kw_only=True):
    """Where the parcels of one touch are that are not closed, by state, and their people: by the
    state of their parcel, or `left out`, or `refused`."""

    touch: str
    opening: CampaignTime
    parcels: dict[str, int]
    people: dict[str, int]


class CampaignStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign. `waiting` says why nothing goes out, empty where something may."""

    campaign: str
    version: int
    file: str
    mode: str
    deadline: str
    counts: ShardCounts | None
    touches: list[TouchStatus]
    waiting: list[str]
    mistakes: list[str]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All campaigns, the newest sweep, and mistakes of files that belong to none."""

    sweep: SweepStatus | None
    campaigns: list[CampaignStatus]
    mistakes: list[str]
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
        book = await self._book.refresh()
        head = await self._stores.sweeps.read_head()
        newest = await self._stores.sweeps.read(head.number) if head.number else None
        committed = await self._stores.sweeps.read_committed()
        campaigns: list[CampaignStatus] = []
        for standing in book.standings.values():
            holds = await self._releases.find_holds(book, standing, committed)
            campaigns.append(await self._collect_campaign(standing, committed, holds))
        return Status(
            sweep=SweepStatus(
                number=newest.number,
                state=newest.state,
                opened_at=newest.opened_at,
                ended_at=newest.ended_at,
                reason=newest.reason,
            )
            if newest
            else None,
            campaigns=campaigns,
            mistakes=[str(mistake) for mistake in book.mistakes],
            stopped=book.stopped,
        )

    async def _collect_campaign(
        self, standing: Standing, sweep: Sweep | None, holds: list[str]
    ) -> CampaignStatus:
        touches = {
            touch.touch: TouchStatus(
                touch=touch.touch, opening=touch.opening, parcels={}, people={}
            )
            for touch in standing.schedule.steps
        }
        async for parcel in self.scan_parcels(standing.name):
            if parcel.touch in touches and parcel.state is not State.CLOSED:
                name = "final" if parcel.final else parcel.state.value
                entry = touches[parcel.touch]
                entry.parcels[name] = entry.parcels.get(name, 0) + 1
                for outcome, people in _count_people(parcel, name).items():
                    entry.people[outcome] = entry.people.get(outcome, 0) + people
        return CampaignStatus(
            campaign=standing.name,
            version=standing.version,
            file=standing.file,
            mode=standing.campaign.sending.mode,
            deadline=standing.campaign.last_day.isoformat(),
            counts=await self.sum_counts(standing, sweep),
            touches=list(touches.values()),
            waiting=[*holds, *await self._find_waits(standing)],
            mistakes=[str(mistake) for mistake in standing.mistakes],
        )

    async def _find_waits(self, standing: Standing) -> list[str]:
        """Why the channel waits, beside what holds the whole campaign."""
        sending = standing.campaign.sending
        control = await self._stores.control.read(standing.name, EMAIL)
        waits = [pause.text for pause in control.pauses.values()]
        if control.retry_at and control.retry_at > self._clock.storage_now():
            waits.append(f"The provider asked to wait until {control.retry_at:%H:%M:%S} UTC.")
        if sending.mode == "dry-run":
            waits.append("The mode is dry-run: everything is counted, and nothing is sent.")
        if not window_open(standing.campaign, self._clock.campaign_now()):
            window = sending.window
            waits.append(
                f"The window is closed: open from {window.from_:%H:%M} until {window.until:%H:%M}, "
                f"{standing.campaign.timezone}, on the days that `sending.window` names."
            )
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
        unreached = {person: "no usable contact" for person, address in due.items() if not address}
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


_LOST = frozenset({"expired", "failed", "cancelled"})
"""Reasons of closed rows whose people stay unreached until a later row has them."""


def _count_people(parcel: Parcel, state: str) -> dict[str, int]:
    """How many people of a parcel are where; only what there is."""
    left_out = int.from_bytes(parcel.left_out, "little")
    refused = int.from_bytes(parcel.refused, "little") & ~left_out
    counts = {"left out": left_out.bit_count(), "refused": refused.bit_count()}
    counts[state] = parcel.count - sum(counts.values())
    return {name: people for name, people in counts.items() if people}


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
