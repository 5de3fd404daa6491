"""When things are tidied up: every hour."""

import azure.functions as func

from functions.wiring import app

blueprint = func.Blueprint()


@blueprint.timer_trigger(arg_name="timer", schedule="0 17 * * * *")
async def housekeeping(timer: func.TimerRequest) -> None:
    """Delete what has expired."""
    await app().housekeeping.run()
