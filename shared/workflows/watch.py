"""Measuring the queues, for those who watch: the account's own metrics know no single queue."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared.names import every_queue
from shared.telemetry import QUEUE_LENGTH
from shared.workflows.alarms import note_event

if TYPE_CHECKING:
    from shared.stores import Stores

MOST_SECONDS = 10.0
"""How long storage has to say how long its queues are."""


class WatchWorkflow:
    """Tells how long the queues are."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def measure(self) -> None:
        """Measure every queue and poison queue, side by side. Nothing depends on it: what storage
        does not say in time is told as an event, and measured again at the next tick."""
        names = every_queue()
        lengths: dict[str, int] = {}
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._measure_one(name, lengths))
        for name, length in lengths.items():
            QUEUE_LENGTH.set(length, queue=name)
        if missing := len(names) - len(lengths):
            note_event("queues_unmeasured", count=missing)

    async def _measure_one(self, name: str, lengths: dict[str, int]) -> None:
        try:
            async with asyncio.timeout(MOST_SECONDS):
                lengths[name] = await self._stores.queues.length_of(name)
        except Exception:  # of any kind: it is counted by whoever asked
            return
