"""What may be forgotten, is: contact data soon, the ledger when the campaign is long over.

Pages go 48 h after a newer sweep committed, outboxes after 9 days; never the newest committed
sweep, nor an outbox that a row not yet settled names. Events of other systems are known again for
90 days, and what died on a queue is told of for as long. Ledger rows stay until 180 days after the
last touch: deleting one means "not had".
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from shared.clock import StorageTime
from shared.rules.parcels import OPEN, SHARDS
from shared.stores.outbox import OUTBOX_LIFE
from shared.stores.pages import sweep_prefix
from shared.workflows.alarms import note_event
from shared.workflows.poison import POISON_LIFE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.clock import Clock
    from shared.stores import Stores
    from shared.workflows.campaigns import CampaignBook

PAGES_LIFE = timedelta(hours=48)
CHANGES_LIFE = timedelta(days=10)
"""A change is asked for as long as a row from before it may be sent: 9 days, and a margin."""
EVENTS_LIFE = timedelta(days=90)
LEDGER_LIFE = timedelta(days=180)


class HousekeepingWorkflow:
    """Deletes what has expired."""

    def __init__(self, stores: Stores, book: CampaignBook, clock: Clock) -> None:
        self._stores = stores
        self._book = book
        self._clock = clock

    async def run(self) -> None:
        """One round; every part of it may be repeated without harm."""
        book = await self._book.refresh()
        # All that there ever were, also one whose file does not validate any more.
        campaigns = sorted(await self._stores.campaigns.list_newest())
        pages = await self._delete_pages()
        outboxes = await self._delete_outboxes(campaigns)
        rows = await self._delete_changes(campaigns)
        rows += await self._delete_events() + await self._delete_dead()
        for standing in book.standings.values():
            if self._clock.campaign_now() > standing.schedule.ends + LEDGER_LIFE:
                rows += await self._stores.ledger.delete_campaign(standing.name)
        note_event("housekeeping", pages=pages, outboxes=outboxes, rows=rows)

    async def _delete_pages(self) -> int:
        """Pages of sweeps that a newer one has replaced for 48 hours."""
        committed = await self._stores.sweeps.read_committed()
        if committed is None or committed.ended_at is None:
            return 0
        deleted = 0
        replaced_at = committed.ended_at
        numbers = sorted(await self._stores.pages.list_sweeps(), reverse=True)
        for number in (number for number in numbers if number < committed.number):
            if self._clock.storage_now() - replaced_at >= PAGES_LIFE:
                deleted += await self._stores.pages.delete(sweep_prefix(number))
            sweep = await self._stores.sweeps.read(number)
            if sweep and sweep.state == "committed" and sweep.ended_at:
                replaced_at = sweep.ended_at  # for all that is older than this one
        return deleted

    async def _delete_outboxes(self, campaigns: Sequence[str]) -> int:
        still_open = " or ".join(f"state eq '{state}'" for state in sorted(OPEN))
        named = {
            parcel.outbox
            for campaign in campaigns
            for shard in range(len(SHARDS))
            async for parcel in self._stores.ledger.scan(campaign, shard, where=still_open)
            if not parcel.final
        }
        before = StorageTime(self._clock.storage_now() - OUTBOX_LIFE)
        return await self._stores.outbox.delete_old(before, frozenset(named))

    async def _delete_changes(self, campaigns: Sequence[str]) -> int:
        before = StorageTime(self._clock.storage_now() - CHANGES_LIFE)
        return sum(
            [
                await self._stores.ledger.delete_changes(campaign, shard, before)
                for campaign in campaigns
                for shard in range(len(SHARDS))
            ]
        )

    async def _delete_events(self) -> int:
        before = StorageTime(self._clock.storage_now() - EVENTS_LIFE)
        return await self._stores.events.delete_old(before)

    async def _delete_dead(self) -> int:
        before = StorageTime(self._clock.storage_now() - POISON_LIFE)
        return await self._stores.poison.delete_old(before)
