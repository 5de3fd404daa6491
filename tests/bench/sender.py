"""A fresh worker that releases what is planned, or sends what is released, and what memory it comes
to.

    python -m tests.bench.sender release|send

Settings come from the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from functions.wiring import App, build_app
from shared.clock import monotonic
from shared.names import NAMES
from shared.settings import read_settings
from shared.stores.queues import HandOut, decode_message
from tests.bench import resident
from tests.bench.bed import take_all


async def release(app: App) -> None:
    """The timer's tick."""
    await app.releases.release_all()


async def send(app: App) -> None:
    """What the host does with the queue."""
    await take_all(
        app.account.queue(NAMES.queues.email),
        lambda body: app.dispatch.send(decode_message(body, HandOut)),
    )


async def run(name: str) -> dict[str, float]:
    """Bytes are of resident memory: before, and the most on the way."""
    app = build_app(read_settings(os.environ))
    try:
        base, began = resident.begin(), monotonic()
        await {"release": release, "send": send}[name](app)
        return {"seconds": monotonic() - began, "base": base, "peak": resident.most()}
    finally:
        await app.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1]))))
