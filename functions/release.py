"""When parcels are handed out: every minute."""

import azure.functions as func

from functions.wiring import app

blueprint = func.Blueprint()


@blueprint.timer_trigger(arg_name="timer", schedule="0 * * * * *")
async def release_due(timer: func.TimerRequest) -> None:
    """Repair what rests, then hand out what is due."""
    await app().releases.release_all()
