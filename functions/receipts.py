"""When receipts are written down: the queue `receipts`."""

import azure.functions as func

from functions.telemetry import observed
from functions.wiring import app
from shared.names import NAMES, poison_of
from shared.stores.queues import ShardReceipts

blueprint = func.Blueprint()


@blueprint.queue_trigger(
    arg_name="message", queue_name=NAMES.queues.receipts, connection="AzureWebJobsStorage"
)
@observed
async def settle_receipts(message: func.QueueMessage) -> None:
    """Write what a provider reported of one shard's parcels."""
    if ours := await app().poison.take(NAMES.queues.receipts, message.get_body(), ShardReceipts):
        await app().receipts.settle(ours)


@blueprint.queue_trigger(
    arg_name="message",
    queue_name=poison_of(NAMES.queues.receipts),
    connection="AzureWebJobsStorage",
)
@observed
async def settle_receipts_poison(message: func.QueueMessage) -> None:
    """Tell of it. Rows that only these receipts would have settled are decided without them."""
    name, body = NAMES.queues.receipts, message.get_body()
    await app().poison.note(name, message.id or "", body, ShardReceipts)
