"""What the app tells of itself: an endpoint that takes telemetry as Application Insights does, and
a run through all that is to be told, whose telemetry can be looked at.

The app runs in a process of its own, indexed and invoked by Microsoft's worker library, and exports
by the real exporter over HTTP.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from local import tenant
from local.azurite import running_azurite
from local.roster import Person
from local.serving import running_application
from shared.names import NAMES, poison_of
from shared.rules.parcels import State
from shared.stores.queues import HandOut, ParcelReceipts, ShardReceipts, decode_message
from tests.functions.conftest import WorkerProcess, running_worker
from tests.nudge_process import until
from tests.sending import campaign_text
from tests.world import NAME, World, running_world

IKEY = "00000000-0000-4000-8000-00000000a1b2"
PEOPLE = tenant.Options(alumni=60, others=10, throttled=False)
TEXTS = {
    "TWILIO_ACCOUNT_SID": "AC" + "0123456789abcdef" * 2,
    "TWILIO_AUTH_TOKEN": "0123456789abcdef" * 2,
    "TWILIO_FROM": "HKU",
}
SOON = {
    "OTEL_METRIC_EXPORT_INTERVAL": "200",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "OTEL_BLRP_SCHEDULE_DELAY": "100",
}
"""Milliseconds between exports."""

READERS = {
    NAMES.queues.sweep: "read_pages",
    NAMES.queues.plan: "plan_shards",
    NAMES.queues.email: "send_email",
    NAMES.queues.sms: "send_sms",
}

type Envelope = dict[str, Any]


class Ingestion:
    """Stands where Application Insights takes telemetry.

    Attributes:
        envelopes: what has come, in order.
        authorizations: the header of each request that had it.
    """

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.authorizations: list[str] = []

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_post("/v2.1/track", self._take)
        return application

    async def _take(self, request: web.Request) -> web.Response:
        taken = msgspec.json.decode(await request.read(), type=list[dict[str, Any]])
        self.envelopes += taken
        if "Authorization" in request.headers:
            self.authorizations.append(request.headers["Authorization"])
        count = len(taken)
        return web.json_response({"itemsReceived": count, "itemsAccepted": count, "errors": []})

    def of(self, kind: str) -> list[Envelope]:
        """What is in the envelopes of a kind, such as `MessageData`."""
        return [
            {**one["data"]["baseData"], "tags": one["tags"]}
            for one in self.envelopes
            if one["data"]["baseType"] == kind
        ]

    def metrics(self) -> Iterator[tuple[str, float, Mapping[str, str]]]:
        """Name, value and attributes of each data point."""
        for data in self.of("MetricData"):
            for point in data["metrics"]:
                yield point["name"], point["value"], data.get("properties") or {}

    def has_metric(self, name: str, **attributes: str) -> bool:
        """Whether any point of a metric has come that has these attributes."""
        return any(
            name == seen and attributes.items() <= properties.items()
            for seen, _, properties in self.metrics()
        )

    def messages(self) -> list[str]:
        """The texts of events."""
        return [data["message"] for data in self.of("MessageData")]

    def spans(self, name: str = "") -> list[Envelope]:
        """What has a duration; all of it, or what has this name."""
        found = [*self.of("RemoteDependencyData"), *self.of("RequestData")]
        return [one for one in found if name in ("", one["name"])]


@contextlib.asynccontextmanager
async def running_ingestion() -> AsyncGenerator[tuple[Ingestion, str]]:
    """The endpoint for the length of the block, and a connection string that names it."""
    ingestion = Ingestion()
    async with running_application(ingestion.application()) as url:
        yield ingestion, connection_to(url)


def connection_to(url: str) -> str:
    return f"InstrumentationKey={IKEY};IngestionEndpoint={url}"


def telemetry_settings(connection: str, directory: Path, **more: str) -> dict[str, str]:
    """What the app needs to export to there, and soon.

    Args:
        directory: where the exporter may keep what it could not send.
    """
    return {
        "APPLICATIONINSIGHTS_CONNECTION_STRING": connection,
        "PYTHON_ENABLE_OPENTELEMETRY": "true",
        "OTEL_TRACES_SAMPLER": "parentbased_always_on",
        "TMPDIR": str(directory),
        **SOON,
        **more,
    }


@dataclass(frozen=True)
class Emitted:
    """What a run has told.

    Attributes:
        metrics: the attributes of each metric, by name.
        alarms: the properties of each alarm's event, by the alarm's name.
        traces: texts of events (`AppTraces.Message`).
        dependencies, requests: names of what has a duration.
        envelopes: all of it, as it came.
        people: who is in the tenant that the run read.
    """

    metrics: Mapping[str, set[str]]
    alarms: Mapping[str, set[str]]
    traces: list[str]
    dependencies: set[str]
    requests: set[str]
    ingestion: Ingestion
    people: list[Person] = field(default_factory=list[Person])

    @property
    def envelopes(self) -> list[Envelope]:
        return self.ingestion.envelopes


async def emitted_by_a_local_run(tmp_path: Path) -> Emitted:
    """Everything once: a sweep, a plan, a wave that meets a refusal of each service, receipts, an
    alarm with a campaign and one without, an invocation that fails."""
    async with (
        running_azurite() as azurite,
        running_ingestion() as (ingestion, connection),
        telling_world(azurite.connection_strings[0], tmp_path) as world,
        running_worker(
            tmp_path, world.environment | telemetry_settings(connection, tmp_path)
        ) as worker,
    ):
        await run_through(world, worker)
        await until(lambda: has_everything(ingestion))
    metrics: dict[str, set[str]] = {}
    for name, _, properties in ingestion.metrics():
        metrics.setdefault(name, set()).update(properties)
    alarms: dict[str, set[str]] = {}
    for data in ingestion.of("MessageData"):
        if alarm := data["properties"].get("alarm"):
            alarms.setdefault(alarm, set()).update(data["properties"])
    roster = tenant.roster_of(PEOPLE)
    return Emitted(
        metrics=metrics,
        alarms=alarms,
        traces=ingestion.messages(),
        dependencies={one["name"] for one in ingestion.of("RemoteDependencyData")},
        requests={one["name"] for one in ingestion.of("RequestData")},
        ingestion=ingestion,
        people=[roster.person(number) for number in range(len(roster))],
    )


@contextlib.asynccontextmanager
async def telling_world(connection_string: str, directory: Path) -> AsyncGenerator[World]:
    """A small world with mails and texts."""
    async with running_world(connection_string, directory, people=PEOPLE, **TEXTS) as world:
        world.environment["TWILIO_BASE_URL"] = world.inbox_url
        await world.write_campaign(campaign_text(sms=True, parcel_size=3))
        yield world


async def run_through(world: World, worker: WorkerProcess) -> None:
    """See `emitted_by_a_local_run`."""
    await succeed(worker, "health")
    await plan(world, worker)
    mails = await take(world, NAMES.queues.email)
    texts = await take(world, NAMES.queues.sms)
    assert len(mails) > 2
    assert texts

    refused = [{"status": 401}]
    await world.fault("inbox", calls=refused, texts={"calls": refused})
    await succeed(worker, "send_email", mails[0])
    await succeed(worker, "send_sms", texts[0])
    for channel in ("email", "sms"):
        assert await world.app.stores.control.lift(NAME, channel) == ["setup"]
    for mail in mails[1:]:
        await succeed(worker, "send_email", mail)
    await succeed(worker, "send_sms", texts[1])
    lost = msgspec.structs.replace(decode_message(texts[2], HandOut), outbox="nowhere")
    assert (await worker.invoke("send_sms", msgspec.json.encode(lost))).failed

    await succeed(worker, "settle_receipts", await receipts_of_one(world))
    await succeed(worker, "release_due")
    await succeed(worker, "read_pages", b"hello")
    (dead,) = await take(world, poison_of(NAMES.queues.sweep))
    await succeed(worker, "read_pages_poison", dead)

    await world.fault("tenant", members=[{"status": 403, "times": None}])
    await succeed(worker, "sweep_start")
    for message in await take(world, NAMES.queues.sweep):
        await succeed(worker, "read_pages", message)


async def plan(world: World, worker: WorkerProcess) -> None:
    """A sweep from its timer to the verdict, function by function."""
    await succeed(worker, "sweep_start")
    for queue in (NAMES.queues.sweep, NAMES.queues.plan):
        while messages := await take(world, queue):
            for message in messages:
                await succeed(worker, READERS[queue], message)


async def succeed(worker: WorkerProcess, name: str, body: bytes = b"") -> None:
    answer = await worker.invoke(name, body)
    assert not answer.failed, (name, answer.failed)


async def take(world: World, queue: str) -> list[bytes]:
    """The messages of a queue; they are gone from it then."""
    client = world.app.account.queue(queue)
    bodies: list[bytes] = []
    async for message in client.receive_messages(messages_per_page=32):
        bodies.append(message.content or b"")
        await client.delete_message(message)
    return bodies


async def receipts_of_one(world: World) -> bytes:
    """The message of a receipt for a mail that was accepted."""
    parcel = next(
        one
        for one in await world.parcels()
        if one.channel == "email" and one.state is State.ACCEPTED
    )
    receipts = ParcelReceipts(parcel.key, (parcel.attempt,), delivered=(0,))
    told = ShardReceipts(parcel.campaign, parcel.shard, parcel.channel, (receipts,))
    return msgspec.json.encode(told)


def has_everything(ingestion: Ingestion) -> bool:
    """Whether what a run tells last has come: exports are apart, and each kind has its own."""
    metrics, alarms = NAMES.metrics, {"channel_paused", "poison", "sweep_abandoned"}
    told = {data["properties"].get("alarm") for data in ingestion.of("MessageData")}
    return (
        ingestion.has_metric(metrics.heartbeat)
        and all(ingestion.has_metric(metrics.alarms, alarm=alarm) for alarm in alarms)
        and all(
            ingestion.has_metric(metrics.refused, service=service)
            for service in ("graph", "sendgrid", "twilio")
        )
        and ingestion.has_metric(metrics.queue_length)
        and alarms <= told
        and any(one["properties"].get("sweep") == "2" for one in ingestion.spans("read pages"))
    )
