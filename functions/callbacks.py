"""What other systems tell us: that somebody has registered, and what became of messages.

docs/completions.openapi.yaml describes the first to whoever calls; a test holds the two together.
The others are the webhooks of SendGrid and Twilio, whose signature is all that lets them in.
"""

import codecs
from collections.abc import Callable

import azure.functions as func
import msgspec

from functions.telemetry import observed
from functions.wiring import app
from shared.errors import NotRecorded, SetupFault
from shared.rules.parcels import Channel
from shared.services.webhooks import (
    MOST_SENDGRID_BYTES,
    MOST_TWILIO_BYTES,
    BadContent,
    BadSignature,
    Batch,
    read_sendgrid,
    read_twilio,
)
from shared.workflows.alarms import note_event
from shared.workflows.completion import RETRY_AFTER
from shared.workflows.completion_batch import BatchAnswer

MOST_BYTES = 1 << 20
MOST_ITEMS = 1000

blueprint = func.Blueprint()


class Refused(Exception):
    """A body of which no item is looked at.

    Attributes:
        status: 400, 413 or 415.
    """

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


@blueprint.route(
    route="callbacks/completions", methods=["POST"], auth_level=func.AuthLevel.FUNCTION
)
@observed
async def receive_completions(req: func.HttpRequest) -> func.HttpResponse:
    """Record completions, one or many, and answer each for itself."""
    try:
        items = read_items(req.headers.get("Content-Type", ""), req.get_body())
        answer = await app().completion_batch.record(items)
    except Refused as refused:
        return _json({"error": str(refused)}, refused.status)
    except NotRecorded:
        error = "Storage does not take it now. Send the whole body again; that does no harm."
        return _json({"error": error}, 503, RETRY_AFTER)
    return _answer(answer)


def read_items(content_type: str, body: bytes) -> list[msgspec.Raw]:
    """The items of a body, each still JSON; what is cheap to see is looked at first.

    Raises Refused.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "The body must be JSON. Send Content-Type: application/json.")
    if len(body) > MOST_BYTES:
        raise Refused(413, f"The body is over {MOST_BYTES} bytes. Send the items in parts.")
    body = body.removeprefix(codecs.BOM_UTF8)  # exports of spreadsheets begin with one
    try:
        if body.lstrip()[:1] == b"{":
            return [msgspec.json.decode(body, type=msgspec.Raw)]
        items = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(
            400, "The body must be the JSON of one item or of an array of items."
        ) from None
    if not items:
        raise Refused(400, "The array is empty. Send at least one item.")
    if len(items) > MOST_ITEMS:
        raise Refused(413, f"There are over {MOST_ITEMS} items. Send them in parts.")
    return items


@blueprint.route(route="callbacks/sendgrid", methods=["POST"], auth_level=func.AuthLevel.ANONYMOUS)
@observed
async def receive_sendgrid(req: func.HttpRequest) -> func.HttpResponse:
    """SendGrid's Event Webhook: what became of mails, thousands of events at a time."""

    def read(body: bytes) -> Batch:
        key, now = app().settings.sendgrid_webhook_public_key, app().clock.storage_now()
        return read_sendgrid(body, req.headers, public_key=key, now=now)

    return await _receive(req, "email", MOST_SENDGRID_BYTES, read)


@blueprint.route(route="callbacks/twilio", methods=["POST"], auth_level=func.AuthLevel.ANONYMOUS)
@observed
async def receive_twilio(req: func.HttpRequest) -> func.HttpResponse:
    """Twilio's status callback: what became of one text message."""

    def read(body: bytes) -> Batch:
        settings = app().settings
        event = read_twilio(
            body,
            req.headers,
            callback_url=f"{settings.public_base_url}/callbacks/twilio",
            query=req.url.partition("?")[2],
            auth_token=settings.twilio_auth_token,
        )
        return Batch([event], 0)

    return await _receive(req, "sms", MOST_TWILIO_BYTES, read)


async def _receive(
    req: func.HttpRequest, channel: Channel, most_bytes: int, read: Callable[[bytes], Batch]
) -> func.HttpResponse:
    """Take a webhook's events. It is answered as soon as they are on the queue; whatever is not
    2xx SendGrid sends again."""
    body = req.get_body()
    try:
        if len(body) > most_bytes:
            raise Refused(413, f"The body is over {most_bytes} bytes.")
        batch = read(body)
        await app().receipts.take(batch.events, channel, foreign=batch.foreign)
    except Refused as refused:
        return _json({"error": str(refused)}, refused.status)
    except BadSignature as error:
        return _json({"error": f"Not taken: {error}."}, 401)
    except BadContent as error:
        return _json({"error": f"Not taken: {error}."}, 400)
    except SetupFault as fault:
        note_event("webhook_closed", channel=channel, detail=str(fault))
        return _json({"error": str(fault)}, 503, RETRY_AFTER)
    except NotRecorded:
        error = "Storage does not take it now. Send it again; that does no harm."
        return _json({"error": error}, 503, RETRY_AFTER)
    return func.HttpResponse(status_code=204, headers={"Cache-Control": "no-store"})


def _answer(answer: BatchAnswer) -> func.HttpResponse:
    statuses = {item.status for item in answer.items}
    status = 503 if statuses == {"retry"} else 200 if statuses <= {"recorded", "duplicate"} else 207
    retry_after = round(answer.retry_after or RETRY_AFTER) if "retry" in statuses else None
    return _json({"items": answer.items}, status, retry_after)


def _json(content: object, status: int, retry_after: int | None = None) -> func.HttpResponse:
    headers = {"Cache-Control": "no-store"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return func.HttpResponse(
        msgspec.json.encode(content),
        status_code=status,
        headers=headers,
        mimetype="application/json",
    )
