"""When the directory is read: the nightly timer and the queue `sweep`."""

import azure.functions as func

from functions.telemetry import observed
from functions.wiring import app
from shared.names import NAMES, poison_of
from shared.stores.queues import ReadPages

blueprint = func.Blueprint()


@blueprint.timer_trigger(arg_name="timer", schedule="%SWEEP_SCHEDULE%")
@observed
async def sweep_start(timer: func.TimerRequest) -> None:
    """Open the next sweep, unless one is under way."""
    await app().sweeps.start()


@blueprint.queue_trigger(
    arg_name="message", queue_name=NAMES.queues.sweep, connection="AzureWebJobsStorage"
)
@observed
async def read_pages(message: func.QueueMessage) -> None:
    """Go on with one pass."""
    if ours := await app().poison.take(NAMES.queues.sweep, message.get_body(), ReadPages):
        await app().sweeps.read(ours)


@blueprint.queue_trigger(
    arg_name="message", queue_name=poison_of(NAMES.queues.sweep), connection="AzureWebJobsStorage"
)
@observed
async def read_pages_poison(message: func.QueueMessage) -> None:
    """Tell of it. The pass itself is taken up again when it has rested."""
    name, body = NAMES.queues.sweep, message.get_body()
    await app().poison.note(name, message.id or "", body, ReadPages)
