"""Looking back at what went out, for losses that nothing else would tell of.

A touch is looked at when its day has ended: who had a contact that day and was not reached, for
whatever reason. And receipts are missed: where nothing comes back of all that was sent hours ago,
it is our own webhook that has fallen silent, and with it what bounces and complaints would tell.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.calendar import open_hours
from shared.rules.losses import REFUSED, count_silent, find_unreached
from shared.rules.parcels import SHARDS, Channel, Parcel
from shared.workflows.alarms import note_event, raise_alarm
from shared.workflows.plan import channels_of

if TYPE_CHECKING:
    from shared.clock import Ages, Clock
    from shared.rules.cadence import PlannedTouch
    from shared.rules.campaign import Campaign
    from shared.stores import Stores
    from shared.stores.control import ControlRow
    from shared.stores.parcels import Ledger
    from shared.workflows.campaigns import Standing

_TOLD_AGAIN = timedelta(hours=1)
"""Silence lasts until somebody mends the webhook: a process tells of it so often."""


class LookBackWorkflow:
    """Raises the alarms for touches that ended short, and for receipts that stay away."""

    def __init__(self, stores: Stores, clock: Clock) -> None:
        self._stores = stores
        self._clock = clock
        # What this process knows to have been looked at: the minute timer asks for nothing then.
        self._looked_at: set[tuple[str, str]] = set()
        self._told: dict[tuple[str, Channel], StorageTime] = {}

    async def look_back(self, standing: Standing) -> None:
        """Look once at each touch whose day has ended, channel by channel. It is remembered after
        the alarm: a crash in between repeats the alarm, and never loses it."""
        now = self._clock.campaign_now()
        ended = [
            step
            for step in standing.schedule.steps
            if (standing.name, _mark(step)) not in self._looked_at
            and is_past(standing.campaign, step, now, self._clock.ages)
        ]
        if not ended:
            return
        looked_back = {
            channel: (await self._stores.control.read(standing.name, channel)).looked_back
            for channel in channels_of(standing.campaign)
        }
        for step in ended:
            new: list[Channel] = [
                one for one in step.channels if _mark(step) not in looked_back[one]
            ]
            if new:
                await self._look_at(standing, step, new)
            self._looked_at.add((standing.name, _mark(step)))

    async def _look_at(
        self, standing: Standing, step: PlannedTouch, channels: Sequence[Channel]
    ) -> None:
        unreached = await count_unreached(self._stores.ledger, standing.campaign, step)
        for channel in channels:
            reasons = unreached.get(channel, Counter())
            # Whose address does not work has no usable contact; the next one is planned by itself.
            del reasons[REFUSED]
            fields = {"campaign": standing.name, "touch": step.touch, "channel": channel}
            if reasons:
                raise_alarm("touch_unreached", **fields, people=reasons.total(), reasons=reasons)
            else:
                note_event("touch_ended", **fields)
            await self._stores.control.change(
                standing.name, channel, lambda row: _remember(row, step)
            )

    def watch_receipts(self, campaign: str, channel: Channel, parcels: Sequence[Parcel]) -> None:
        """Raise the alarm, at most once an hour, where no receipts come.

        Args:
            parcels: of the channel, those of the last days at least.
        """
        now, ages = self._clock.storage_now(), self._clock.ages
        silent = count_silent(
            parcels,
            now,
            settle_after=ages.settle_after,
            settle_final=ages.settle_final,
        )
        told = self._told.get((campaign, channel))
        if silent and (told is None or now - told >= _TOLD_AGAIN):
            self._told[campaign, channel] = now
            raise_alarm("receipts_silent", campaign=campaign, channel=channel, recipients=silent)


def is_past(campaign: Campaign, step: PlannedTouch, now: CampaignTime, ages: Ages) -> bool:
    """Whether a touch can be looked back at: its day's window has closed, and so long ago that what
    was claimed last has its answer by now, or is given up."""
    return now >= closing_of(campaign, step) + timedelta(seconds=ages.claim_abandoned)


def closing_of(campaign: Campaign, step: PlannedTouch) -> CampaignTime:
    """When the window closes on a touch's day."""
    hours = open_hours(campaign, step.day)
    assert hours is not None, "touches fall on open days"
    return hours.closes


async def count_unreached(
    ledger: Ledger, campaign: Campaign, step: PlannedTouch
) -> dict[Channel, Counter[str]]:
    """How many people a touch has not reached on its day, by channel and reason."""
    counts: defaultdict[Channel, Counter[str]] = defaultdict(Counter)
    for shard in range(len(SHARDS)):
        scan = ledger.scan(campaign.campaign, shard, where=f"touch eq '{step.touch}'")
        found = find_unreached([parcel async for parcel in scan], closing_of(campaign, step))
        for (channel, _), reason in found.items():
            counts[channel][reason] += 1
    return dict(counts)


def _mark(step: PlannedTouch) -> str:
    """What the control row remembers a touch by: one that a later deadline moves to another day is
    looked at again after that."""
    return f"{step.touch} {step.day}"


def _remember(row: ControlRow, step: PlannedTouch) -> ControlRow | None:
    if _mark(step) in row.looked_back:
        return None
    return msgspec.structs.replace(row, looked_back=(*row.looked_back, _mark(step)))
