"""When messages are sent: the queues `email` and `sms`."""

import azure.functions as func

from functions.telemetry import observed
from functions.wiring import app
from shared.names import NAMES, poison_of
from shared.stores.queues import HandOut

blueprint = func.Blueprint()


@blueprint.queue_trigger(
    arg_name="message", queue_name=NAMES.queues.email, connection="AzureWebJobsStorage"
)
@observed
async def send_email(message: func.QueueMessage) -> None:
    """Send one parcel of mails."""
    await _send(NAMES.queues.email, message)


@blueprint.queue_trigger(
    arg_name="message", queue_name=poison_of(NAMES.queues.email), connection="AzureWebJobsStorage"
)
@observed
async def send_email_poison(message: func.QueueMessage) -> None:
    """Close the row, so that its people are planned again."""
    await _bury(NAMES.queues.email, message)


@blueprint.queue_trigger(
    arg_name="message", queue_name=NAMES.queues.sms, connection="AzureWebJobsStorage"
)
@observed
async def send_sms(message: func.QueueMessage) -> None:
    """Send one text message."""
    await _send(NAMES.queues.sms, message)


@blueprint.queue_trigger(
    arg_name="message", queue_name=poison_of(NAMES.queues.sms), connection="AzureWebJobsStorage"
)
@observed
async def send_sms_poison(message: func.QueueMessage) -> None:
    """Close the row, so that its person is planned again."""
    await _bury(NAMES.queues.sms, message)


async def _send(queue: str, message: func.QueueMessage) -> None:
    if ours := await app().poison.take(queue, message.get_body(), HandOut):
        await app().dispatch.send(ours)


async def _bury(queue: str, message: func.QueueMessage) -> None:
    ours = await app().poison.note(queue, message.id or "", message.get_body(), HandOut)
    if ours:
        await app().dispatch.bury(ours)
