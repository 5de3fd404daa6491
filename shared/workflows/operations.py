"""What an administrator may do to a campaign that runs: pause it, and end its pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.rules.parcels import CHANNELS, Channel
from shared.workflows.alarms import note_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.stores import Stores
    from shared.workflows.campaigns import CampaignBook


class OperationsWorkflow:
    """Pauses and resumes campaigns."""

    def __init__(self, stores: Stores, book: CampaignBook) -> None:
        self._stores = stores
        self._book = book

    async def pause(
        self, campaign: str, reason: str, by: str, channels: Sequence[Channel] = CHANNELS
    ) -> None:
        """Nothing of the campaign is handed out or claimed on these channels from within ten
        seconds on."""
        (await self._book.refresh()).find(campaign)
        for channel in channels:
            await self._stores.control.pause(campaign, channel, "administrator", reason, by=by)
            note_event("channel_paused", campaign=campaign, channel=channel, reason="administrator")

    async def resume(
        self, campaign: str, by: str, channels: Sequence[Channel] = CHANNELS
    ) -> list[str]:
        """End every pause of these channels, and that of the guards. Returns what was lifted."""
        standing = (await self._book.refresh()).find(campaign)
        lifted: list[str] = []
        for channel in channels:
            found = await self._stores.control.lift(campaign, channel)
            lifted += (reason for reason in found if reason not in lifted)
        sweep = await self._stores.sweeps.read_committed()
        if sweep and await self._stores.control.lift_verdict(
            campaign, (sweep.number, standing.version), by
        ):
            lifted.append("verdict")
        note_event("resumed", campaign=campaign, lifted=lifted)
        return lifted
