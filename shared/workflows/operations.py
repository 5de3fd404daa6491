"""What an administrator may do to a campaign that runs: pause it, and end its pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.errors import SetupFault
from shared.workflows.alarms import note_event
from shared.workflows.plan import EMAIL

if TYPE_CHECKING:
    from shared.stores import Stores
    from shared.workflows.campaigns import CampaignBook, Standing


class OperationsWorkflow:
    """Pauses and resumes campaigns."""

    def __init__(self, stores: Stores, book: CampaignBook) -> None:
        self._stores = stores
        self._book = book

    async def pause(self, campaign: str, reason: str, by: str) -> None:
        """Nothing of the campaign is handed out or claimed from within ten seconds on."""
        await self._find(campaign)
        await self._stores.control.pause(campaign, EMAIL, "administrator", reason, by)
        note_event("channel_paused", campaign=campaign, channel=EMAIL, reason="administrator")

    async def resume(self, campaign: str, by: str) -> list[str]:
        """End every pause, that of the guards among them. Returns what was lifted."""
        standing = await self._find(campaign)
        lifted: list[str] = list(await self._stores.control.lift(campaign, EMAIL))
        sweep = await self._stores.sweeps.read_committed()
        if sweep and await self._stores.control.lift_verdict(
            campaign, (sweep.number, standing.version), by
        ):
            lifted.append("verdict")
        note_event("resumed", campaign=campaign, lifted=lifted)
        return lifted

    async def _find(self, campaign: str) -> Standing:
        book = await self._book.refresh()
        standing = book.standings.get(campaign)
        if standing is None:
            known = ", ".join(book.standings) or "none"
            raise SetupFault(f"There is no campaign `{campaign}`.", f"Known are: {known}.")
        return standing
