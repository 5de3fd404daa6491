"""When things are tidied up: every hour."""

import azure.functions as func

from functions.telemetry import observed
from functions.wiring import app

blueprint = func.Blueprint()


@blueprint.timer_trigger(arg_name="timer", schedule="0 17 * * * *")
@observed
async def housekeeping(timer: func.TimerRequest) -> None:
    """Delete what has expired."""
    await app().housekeeping.run()
