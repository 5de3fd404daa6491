"""When shards are planned: the queue `plan`."""

import azure.functions as func

from functions.telemetry import observed
from functions.wiring import app
from shared.names import NAMES, poison_of
from shared.stores.queues import PlanShard

blueprint = func.Blueprint()


@blueprint.queue_trigger(
    arg_name="message", queue_name=NAMES.queues.plan, connection="AzureWebJobsStorage"
)
@observed
async def plan_shards(message: func.QueueMessage) -> None:
    """Plan one shard; at a verdict of `go`, release at once."""
    ours = await app().poison.take(NAMES.queues.plan, message.get_body(), PlanShard)
    if ours and await app().plans.plan(ours):
        await app().releases.release_campaign(ours.campaign)


@blueprint.queue_trigger(
    arg_name="message", queue_name=poison_of(NAMES.queues.plan), connection="AzureWebJobsStorage"
)
@observed
async def plan_shards_poison(message: func.QueueMessage) -> None:
    """Tell of it. Release asks for the shard again when its fence has rested."""
    name, body = NAMES.queues.plan, message.get_body()
    await app().poison.note(name, message.id or "", body, PlanShard)
