"""What the app tells Application Insights of itself, by the real exporter over HTTP, and that it
does its work where nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from azure.identity import ManagedIdentityCredential
from azure.monitor.opentelemetry._constants import _ALL_SUPPORTED_INSTRUMENTED_LIBRARIES

from functions.telemetry import (
    CONNECTION,
    FLUSH_SECONDS,
    LIBRARIES,
    Telemetry,
    credential_for,
    ingestion_of,
)
from local.parts import start_part
from local.tenant import roster_of
from shared import __version__
from shared.clock import CampaignTime
from shared.names import NAMES, poison_of
from shared.rules.links import seal
from tests.attacks.traces import Everybody
from tests.functions.conftest import WorkerProcess, running_worker
from tests.nudge_process import until
from tests.telemetry_run import (
    IKEY,
    PEOPLE,
    READERS,
    SOON,
    TEXTS,
    Emitted,
    Envelope,
    connection_to,
    emitted_by_a_local_run,
    plan,
    running_ingestion,
    succeed,
    take,
    telemetry_settings,
    telling_world,
)
from tests.world import KEY, NAME, World

pytestmark = pytest.mark.asyncio(loop_scope="module")

KNOWN = ("no-reply@its.hku.hk", "ithelp@hku.hk")
METRICS: dict[str, set[str]] = {
    NAMES.metrics.heartbeat: set(),
    NAMES.metrics.runs: {"function", "outcome"},
    NAMES.metrics.queue_length: {"queue"},
    NAMES.metrics.alarms: {"alarm", "about", "campaign"},
    NAMES.metrics.refused: {"service", "status"},
    NAMES.metrics.parcels: {"campaign", "channel", "outcome"},
    NAMES.metrics.recipients: {"campaign", "touch", "channel"},
    NAMES.metrics.people: {"campaign", "kind"},
    NAMES.metrics.sweep_age: set(),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def emitted(tmp_path_factory: pytest.TempPathFactory) -> Emitted:
    return await emitted_by_a_local_run(tmp_path_factory.mktemp("run"))


# --- metrics


async def test_every_metric_arrives_with_its_attributes_and_no_other(emitted: Emitted) -> None:
    assert emitted.metrics == METRICS


async def test_what_the_metrics_count(emitted: Emitted) -> None:
    sums: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
    for name, value, properties in emitted.ingestion.metrics():
        sums[name, frozenset(properties.items())] += int(value)

    def total(metric: str, **attributes: str) -> int:
        return sum(
            value
            for (name, properties), value in sums.items()
            if name == metric and attributes.items() <= dict(properties).items()
        )

    metrics = NAMES.metrics
    assert total(metrics.heartbeat) == 1
    assert total(metrics.runs, function="health", outcome="ok") == 1
    assert total(metrics.runs, function="sweep_start", outcome="ok") == 2
    assert total(metrics.runs, outcome="failed") == 1
    assert total(metrics.runs, function="send_sms", outcome="failed") == 1
    for service, status in (("graph", "403"), ("sendgrid", "401"), ("twilio", "401")):
        assert total(metrics.refused, service=service, status=status) == 1
    assert total(metrics.alarms, alarm="channel_paused", campaign=NAME) == 2
    assert total(metrics.alarms, alarm="poison") == 1
    for channel in ("email", "sms"):
        assert total(metrics.parcels, channel=channel, outcome="returned") == 1
    accepted = total(metrics.parcels, outcome="accepted")
    sends = [one["properties"] for one in emitted.ingestion.spans("send parcel")]
    assert accepted == sum(one.get("outcome") == "accepted" for one in sends)
    reached = sum(int(one["recipients"]) for one in sends if one.get("outcome") == "accepted")
    assert total(metrics.recipients, campaign=NAME) == reached > accepted > 2


async def test_people_are_counted_as_the_verdict_counts_them(emitted: Emitted) -> None:
    kinds = {
        properties["kind"]: int(value)
        for name, value, properties in emitted.ingestion.metrics()
        if name == NAMES.metrics.people
    }
    parts = ("registered", "unregistered", "unknown", "unrecognised", "excluded")
    assert kinds.keys() == {"roster", "unreachable", *parts}
    assert kinds["roster"] == sum(kinds[part] for part in parts) == PEOPLE.alumni
    assert kinds["unregistered"] > 0


async def test_each_queue_and_poison_queue_has_a_length_and_says_it_once(emitted: Emitted) -> None:
    """One tick, one point each: a gauge that repeats itself would tell of lengths long gone."""
    measured = Counter(
        properties["queue"]
        for name, _, properties in emitted.ingestion.metrics()
        if name == NAMES.metrics.queue_length
    )
    queues = (*READERS, NAMES.queues.receipts)
    assert measured == dict.fromkeys((*queues, *map(poison_of, queues)), 1)


# --- events


async def test_an_alarm_is_an_event_whose_fields_can_be_asked_for(emitted: Emitted) -> None:
    assert emitted.alarms.keys() == {"channel_paused", "poison", "sweep_abandoned"}
    assert {"alarm", "campaign", "channel", "reason", "detail"} <= emitted.alarms["channel_paused"]
    told = {text.split(" ")[1] for text in emitted.traces if text.startswith("ALARM ")}
    assert told == emitted.alarms.keys()
    for data in emitted.ingestion.of("MessageData"):
        fields = json.loads(data["message"][data["message"].index("{") :])
        properties = data["properties"]
        plain = {key: value for key, value in fields.items() if isinstance(value, str | int)}
        assert {key: str(value) for key, value in plain.items()}.items() <= properties.items()
        assert properties["logger_name"] == "mfa_nudge"


async def test_it_says_which_version_it_is_of(emitted: Emitted) -> None:
    assert {one["tags"]["ai.application.ver"] for one in emitted.envelopes} == {__version__}
    assert {one["iKey"] for one in emitted.envelopes} == {IKEY}


# --- traces


def trace_of(one: Envelope) -> str:
    return one["tags"]["ai.operation.id"]


def links_of(one: Envelope) -> set[tuple[str, str]]:
    links = json.loads(one["properties"].get("_MS.links", "[]"))
    return {(link["operation_Id"], link["id"]) for link in links}


async def test_a_sweep_is_one_trace_from_its_timer_to_the_verdict(emitted: Emitted) -> None:
    spans = emitted.ingestion.spans
    opened = spans("open sweep")[0]
    trace = trace_of(opened)
    of_the_first = [one for one in spans() if trace_of(one) == trace]
    assert Counter(one["name"] for one in of_the_first) == {
        "open sweep": 1,
        "read pages": 2,
        "commit sweep": 1,
        "plan shard": 16,
        "give verdict": 1,
    }
    pages = [one for one in of_the_first if one["name"] == "read pages"]
    assert {one["tags"]["ai.operation.parentId"] for one in pages} == {opened["id"]}
    events = [one for one in emitted.ingestion.of("MessageData") if trace_of(one) == trace]
    names = {one["properties"]["event"] for one in events}
    assert names == {"sweep_opened", "sweep_committed", "shard_planned", "verdict_go"}
    (again,) = (one for one in spans("open sweep") if trace_of(one) != trace)
    assert trace_of(again) != trace


async def test_what_becomes_of_a_parcel_links_to_the_plan_of_its_shard(emitted: Emitted) -> None:
    spans = emitted.ingestion.spans
    plans = {(trace_of(one), one["id"]): one["properties"]["shard"] for one in spans("plan shard")}
    for name in ("hand out", "send parcel", "settle receipts"):
        assert spans(name)
        for one in spans(name):
            linked = links_of(one)
            assert linked
            assert linked <= plans.keys()
    assert all(len(links_of(one)) == 1 for one in spans("send parcel"))
    assert len({link for one in spans("send parcel") for link in links_of(one)}) > 1


async def test_nothing_but_the_products_own_work_is_traced(emitted: Emitted) -> None:
    """Not the requests of libraries, of which Graph's alone would be most of it."""
    assert set(LIBRARIES) == set(_ALL_SUPPORTED_INSTRUMENTED_LIBRARIES)
    assert emitted.requests == set()
    assert emitted.dependencies == {
        *("open sweep", "read pages", "commit sweep", "plan shard", "give verdict"),
        *("hand out", "send parcel", "settle receipts"),
    }


# --- nobody


def texts_of(envelopes: list[Envelope]) -> Iterator[str]:
    """All texts, without the keys and times of the envelopes themselves."""

    def walk(value: Any) -> Iterator[str]:
        match value:
            case dict():
                for name, one in value.items():
                    yield str(name)
                    yield from walk(one)
            case list():
                for one in value:
                    yield from walk(one)
            case _:
                yield str(value)

    for envelope in envelopes:
        yield from walk({"data": envelope["data"], "tags": envelope["tags"]})


def assert_nobody_is_in(envelopes: list[Envelope], ids: set[str]) -> None:
    roster = roster_of(PEOPLE)
    everybody = Everybody([roster.person(n) for n in range(len(roster))], known=KNOWN)
    texts = set(texts_of(envelopes))
    # Ids of traces and spans are random hex, in which the search for hidden text finds chance.
    plain = {text for text in texts if not re.fullmatch(r"[0-9a-f]{16}|[0-9a-f]{32}", text)}
    assert len(plain) > 30
    found = {text: who for text in plain if "_Id" not in text and (who := everybody.find(text))}
    assert found == {}
    for text in texts:
        assert not re.search("https?://|/done|/unsubscribe|Bearer|Basic ", text), text
        assert not any(id in text.casefold() for id in ids), text
        assert KEY not in text
        assert TEXTS["TWILIO_AUTH_TOKEN"] not in text


@pytest.mark.invariant(6)
async def test_nobody_is_in_any_of_it(emitted: Emitted) -> None:
    ids = [roster_of(PEOPLE).id(number) for number in range(PEOPLE.alumni)]
    assert_nobody_is_in(emitted.envelopes, {*ids, *(id.replace("-", "") for id in ids)})


async def test_somebody_would_be_found(emitted: Emitted) -> None:
    person = next(one for one in emitted.people if one.other_mails)
    for text in (person.user_principal_name, person.other_mails[0], "GET https://graph/users"):
        planted = {"data": {"baseData": {"properties": {"url.full": text}}}, "tags": {}}
        with pytest.raises(AssertionError):
            assert_nobody_is_in([*emitted.envelopes, planted], set())


@contextlib.asynccontextmanager
async def telling_host(world: World, connection: str, directory: Path) -> AsyncGenerator[str]:
    """The app in the local host, which serves its pages; gives its address."""
    settings = telemetry_settings(connection, directory)
    rests = {"SWEEP_SCHEDULE": "0 0 0 29 2 *"}
    host = await start_part(
        "local.host",
        [],
        environment={**world.environment, **settings, **rests},
        log=directory / "host.log",
    )
    try:
        yield host.url
    finally:
        await host.close()


@pytest.mark.invariant(6)
async def test_the_first_page_tells_of_nobody_and_is_told_of_although_it_waits_for_nothing(
    connection_string: str, tmp_path: Path
) -> None:
    """With a sealed link, whose person is looked up in Graph by name."""
    async with (
        running_ingestion() as (ingestion, connection),
        telling_world(connection_string, tmp_path) as world,
    ):
        await world.sweep()
        (first, *_) = (one for one in await world.parcels() if one.channel == "email")
        person = first.ids[:16]
        until_tomorrow = CampaignTime(world.app.clock.campaign_now() + timedelta(days=1))
        token = seal([KEY], "done", NAME, person, until_tomorrow)
        async with telling_host(world, connection, tmp_path) as url:
            async with world.http.post(f"{url}/done/{token}") as answer:
                assert answer.status == 200
            await until(
                lambda: (
                    ingestion.has_metric(NAMES.metrics.runs, function="report_done")
                    and any(text.startswith("done_link ") for text in ingestion.messages())
                )
            )
        assert_nobody_is_in(ingestion.envelopes, {person.hex(), token.casefold()})


async def test_no_token_goes_to_this_machine_itself(emitted: Emitted) -> None:
    in_azure = {
        "AzureWebJobsStorage__credential": "managedidentity",
        "AzureWebJobsStorage__clientId": "00000000-0000-0000-0000-000000000001",
    }
    elsewhere = connection_to("https://eastasia-0.in.applicationinsights.azure.com/")
    assert isinstance(credential_for(elsewhere, in_azure), ManagedIdentityCredential)
    assert credential_for(elsewhere, {}) is None
    assert credential_for(connection_to("http://127.0.0.1:1"), in_azure) is None
    assert emitted.ingestion.authorizations == []


# --- sampling


async def test_alarms_arrive_where_no_trace_is_exported(
    connection_string: str, tmp_path: Path
) -> None:
    async with (
        running_ingestion() as (ingestion, connection),
        telling_world(connection_string, tmp_path) as world,
    ):
        settings = telemetry_settings(connection, tmp_path, OTEL_TRACES_SAMPLER="always_off")
        async with running_worker(tmp_path, world.environment | settings) as worker:
            await plan(world, worker)
            mail = (await take(world, NAMES.queues.email))[0]
            await world.fault("inbox", calls=[{"status": 403}])
            await succeed(worker, "send_email", mail)  # the alarm is raised within its span
            await until(
                lambda: (
                    ingestion.has_metric(
                        NAMES.metrics.alarms, alarm="channel_paused", campaign=NAME
                    )
                    and any("ALARM channel_paused" in text for text in ingestion.messages())
                )
            )
        assert ingestion.spans() == []
        # Nothing points to spans that nobody can find.
        assert {parcel.trace for parcel in await world.parcels()} == {b""}


# --- nobody to tell


async def alarm(worker: WorkerProcess) -> None:
    await succeed(worker, "read_pages_poison", b"hello")


@pytest.mark.parametrize("kind", ["nobody listens", "it hangs", "it fails"])
async def test_an_endpoint_that_is_down_harms_and_delays_nothing(
    connection_string: str, tmp_path: Path, kind: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if kind == "it fails":
            writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if kind == "nobody listens":
        server.close()
    connection = connection_to(f"http://127.0.0.1:{port}")
    # A queue that is full at once: what follows shows whether anything waits for it.
    tiny = {"OTEL_BLRP_MAX_QUEUE_SIZE": "2", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "1"}
    async with telling_world(connection_string, tmp_path) as world:
        settings = telemetry_settings(connection, tmp_path, **tiny)
        async with running_worker(tmp_path, world.environment | settings) as worker:
            await succeed(worker, "release_due")
            async with asyncio.timeout(10):
                for _ in range(50):
                    await alarm(worker)
            told = [line for line in worker.log() if "ALARM poison" in line]
            assert len(told) == 50
            # Whoever ends the process waits no longer than was decided.
            async with asyncio.timeout(FLUSH_SECONDS + 15):
                assert await end(worker) == -signal.SIGTERM
    server.close()


async def test_a_set_up_that_hangs_holds_up_the_first_messages_and_no_later_one() -> None:
    stuck = threading.Event()

    def hang(_: object) -> None:
        stuck.wait()

    somewhere = {CONNECTION: connection_to("http://127.0.0.1:9")}
    telemetry = Telemetry(somewhere, hang, most_seconds=2)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.gather(*(telemetry.ready() for _ in range(100)))
    given_up = loop.time()
    assert given_up - begun >= 2
    for _ in range(100):
        await telemetry.ready()
    assert loop.time() - given_up < 1
    stuck.set()


async def end(worker: WorkerProcess) -> int:
    """End it as the platform does; gives its exit code."""
    worker._process.terminate()
    return await worker._process.wait()


async def test_what_was_told_last_leaves_before_the_process_ends(
    connection_string: str, tmp_path: Path
) -> None:
    """With a minute between exports, as in production."""
    a_minute = dict.fromkeys(SOON, "60000")
    async with (
        running_ingestion() as (ingestion, connection),
        telling_world(connection_string, tmp_path) as world,
    ):
        settings = telemetry_settings(connection, tmp_path, **a_minute)
        async with running_worker(tmp_path, world.environment | settings) as worker:
            await alarm(worker)
            await succeed(worker, "release_due")
            assert ingestion.envelopes == []
            assert await end(worker) == -signal.SIGTERM
        assert ingestion.has_metric(NAMES.metrics.alarms, alarm="poison")
        assert ingestion.has_metric(NAMES.metrics.heartbeat)
        assert any("ALARM poison" in text for text in ingestion.messages())


@pytest.mark.parametrize(
    "connection", ["none of the kind", "InstrumentationKey=1", f"InstrumentationKey={IKEY};x"]
)
async def test_a_connection_string_that_is_none_is_told_and_does_no_harm(
    connection_string: str, tmp_path: Path, connection: str
) -> None:
    async with telling_world(connection_string, tmp_path) as world:
        settings = telemetry_settings(connection, tmp_path)
        async with running_worker(tmp_path, world.environment | settings) as worker:
            await alarm(worker)
            await alarm(worker)
            (warning,) = [line for line in worker.log() if CONNECTION in line]
            assert f"Fix: set {CONNECTION}" in warning
            assert len([line for line in worker.log() if "ALARM poison" in line]) == 2


async def test_without_a_connection_string_no_exporter_is_made(
    connection_string: str, tmp_path: Path
) -> None:
    async with telling_world(connection_string, tmp_path) as world:
        settings = {**world.environment, "PYTHONVERBOSE": "1"}
        async with running_worker(tmp_path, settings) as worker:
            await succeed(worker, "release_due")
            imported = [line for line in worker.log() if line.startswith("import 'opentelemetry")]
            assert imported
            assert not [line for line in imported if "opentelemetry.sdk" in line]


async def test_the_local_host_tells_nobody_beyond_this_machine(
    connection_string: str, tmp_path: Path
) -> None:
    """The deployed app's connection string may stand in an administrator's environment."""
    elsewhere = connection_to("https://eastasia-0.in.applicationinsights.azure.com/")
    async with telling_world(connection_string, tmp_path) as world:
        environment = {**world.environment, "PYTHONVERBOSE": "1"}
        async with (
            telling_host(
                World(world.app, environment, tmp_path, world.http), elsewhere, tmp_path
            ) as url,
            world.http.get(f"{url}/health") as answer,
        ):
            assert answer.status == 200
        log = (tmp_path / "host.log").read_text()
        assert "import 'opentelemetry" in log
        assert "import 'azure.monitor" not in log


@pytest.mark.parametrize(
    ("connection", "address"),
    [
        (connection_to("http://127.0.0.1:1"), "http://127.0.0.1:1"),
        (f"ingestionendpoint=https://a.example/ ;InstrumentationKey={IKEY}", "https://a.example/"),
        (f"InstrumentationKey={IKEY}", ""),
        ("", ""),
    ],
)
async def test_where_a_connection_string_sends_to(connection: str, address: str) -> None:
    assert ingestion_of(connection) == address
