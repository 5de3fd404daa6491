"""Planning the newest sweep again, because somebody asks for it: `nudge plan --now`.

A shard that is done under the wanted pair is opened again, and everything goes its usual way from
there: what is still planned is taken back, who has had a touch has had it, the fence keeps one
writer a shard. So it does no harm to ask, and none to ask twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared.errors import SetupFault
from shared.rules.parcels import SHARDS
from shared.stores.queues import PlanShard
from shared.workflows.alarms import note_event
from shared.workflows.sweep import has_all_passes

if TYPE_CHECKING:
    from shared.stores import Stores
    from shared.stores.sweeps import Sweep
    from shared.workflows.campaigns import CampaignBook, Standing
    from shared.workflows.sweep import SweepWorkflow


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, of one campaign.

    Attributes:
        sweep, version: the pair.
        asked: how many shards are planned again.
        under_way: how many are being planned at this moment, and are left alone.
        refused: why nothing was asked for; "" where something was.
    """

    sweep: int
    version: int
    asked: int = 0
    under_way: int = 0
    refused: str = ""


class ReplanWorkflow:
    """Asks for shards to be planned again."""

    def __init__(self, stores: Stores, book: CampaignBook, sweeps: SweepWorkflow) -> None:
        self._stores = stores
        self._book = book
        self._sweeps = sweeps

    async def plan_again(self, campaign: str | None = None) -> dict[str, Asked]:
        """Ask for every shard of a campaign, or of all, to be planned anew under the newest
        committed sweep. Returns what was asked for, by campaign.

        Raises:
            SetupFault: there is no such campaign, or nothing that could be planned.
        """
        book = await self._book.refresh()
        standings = list(book.standings.values())
        if campaign is not None:
            standings = [book.find(campaign)]
        sweep = await self._stores.sweeps.read_committed()
        if sweep is None:
            raise SetupFault(
                "No sweep has been committed yet: there is nothing to plan from.",
                "`nudge sweep --now`, or wait for its timer, SWEEP_SCHEDULE.",
            )
        return {standing.name: await self._ask(standing, sweep) for standing in standings}

    async def _ask(self, standing: Standing, sweep: Sweep) -> Asked:
        asked = Asked(sweep=sweep.number, version=standing.version)
        if not self._sweeps.is_active(standing):
            why = "it has no file" if not standing.file else "it is over"
            return msgspec.structs.replace(asked, refused=why)
        if not has_all_passes(standing, sweep):
            why = "its new audience is read by the next sweep"
            return msgspec.structs.replace(asked, refused=why)
        pair = (sweep.number, standing.version)
        under_way = 0
        shards: list[int] = []
        for shard in range(len(SHARDS)):
            fence = await self._stores.ledger.read_fence(standing.name, shard)
            if fence and (
                fence.pair > pair or (fence.pair == pair and fence.run and not fence.done)
            ):
                under_way += 1
                continue
            if fence and fence.pair == pair and fence.done:
                await self._stores.ledger.reopen(standing.name, shard, fence)
            shards.append(shard)
        await self._stores.queues.put_plan(PlanShard(standing.name, one, *pair) for one in shards)
        note_event(
            "planned_again",
            campaign=standing.name,
            sweep=pair[0],
            version=pair[1],
            shards=len(shards),
        )
        return msgspec.structs.replace(asked, asked=len(shards), under_way=under_way)
