"""When mails are sent: the queue `email`."""

import azure.functions as func

from functions.wiring import app
from shared.stores.names import NAMES, poison_of
from shared.stores.queues import HandOut

blueprint = func.Blueprint()


@blueprint.queue_trigger(
    arg_name="message", queue_name=NAMES.queues.email, connection="AzureWebJobsStorage"
)
async def send_email(message: func.QueueMessage) -> None:
    """Send one parcel."""
    if ours := await app().poison.take(NAMES.queues.email, message.get_body(), HandOut):
        await app().dispatch.send(ours)


@blueprint.queue_trigger(
    arg_name="message", queue_name=poison_of(NAMES.queues.email), connection="AzureWebJobsStorage"
)
async def send_email_poison(message: func.QueueMessage) -> None:
    """Close the row, so that its people are planned again."""
    if ours := app().poison.note(NAMES.queues.email, message.get_body(), HandOut):
        await app().dispatch.bury(ours)
