"""A fresh worker that plans every shard once: how long it takes, and what memory it comes to.

    python -m tests.bench.planner MESSAGES

`MESSAGES` is a JSON list of plan messages; settings come from the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import msgspec

from functions.wiring import build_app
from shared.clock import monotonic
from shared.settings import read_settings
from shared.stores.queues import PlanShard
from tests.bench import resident


async def plan_all(messages: list[PlanShard]) -> dict[str, float]:
    """Bytes are of resident memory: before, and the most while it planned."""
    app = build_app(read_settings(os.environ))
    try:
        base, began = resident.begin(), monotonic()
        # As the host would: all at once, and the process plans one at a time.
        async with asyncio.TaskGroup() as group:
            for message in messages:
                group.create_task(app.plans.plan(message))
        return {"seconds": monotonic() - began, "base": base, "peak": resident.most()}
    finally:
        await app.close()


if __name__ == "__main__":
    messages = msgspec.json.decode(sys.argv[1], type=list[PlanShard])
    print(json.dumps(asyncio.run(plan_all(messages))))
