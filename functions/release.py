"""When parcels are handed out: every minute."""

import asyncio

import azure.functions as func

from functions.telemetry import observed
from functions.wiring import app
from shared.telemetry import HEARTBEAT

blueprint = func.Blueprint()


@blueprint.timer_trigger(arg_name="timer", schedule="0 * * * * *")
@observed
async def release_due(timer: func.TimerRequest) -> None:
    """Repair what rests, then hand out what is due; and beside it, measure the queues."""
    measuring: asyncio.Task[None] | None = None
    try:
        measuring = asyncio.create_task(app().watch.measure())
        await app().releases.release_all()
    finally:
        if measuring:
            await measuring
        HEARTBEAT.add(1)
