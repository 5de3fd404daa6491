"""The local host does what the real one does, as far as a function can tell.

One host runs the fixture app beside one Azurite; tests put messages, ask over HTTP, move the clock,
and read what the app wrote down.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue import TextBase64EncodePolicy
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from local.azurite import running_azurite
from local.host import Options, http_paths, resolve_settings, seconds, serve
from local.schedule import Schedule
from shared.clock import SystemClock, write_clock_file
from shared.errors import SetupFault

ROOT = Path(__file__).resolve().parents[2]
FIXTURE_APP = Path(__file__).parent / "fixture_app"
NEVER = "0 0 0 29 2 *"
EVENING = datetime.fromisoformat("2027-03-17T19:00:00Z")  # an hour before `nightly`

pytestmark = pytest.mark.asyncio(loop_scope="module")


class RunningHost:
    """A host process and what its app recorded."""

    def __init__(
        self, process: asyncio.subprocess.Process, ready: dict[str, Any], record: Path
    ) -> None:
        self.process = process
        self.ready = ready
        self.url: str = ready["url"]
        self._record = record

    def records(self, **facts: object) -> list[dict[str, Any]]:
        """What the app wrote down, of the records that have these facts."""
        lines = self._record.read_text().splitlines() if self._record.exists() else []
        every = [json.loads(line) for line in lines]
        return [one for one in every if facts.items() <= one.items()]

    async def recorded(self, count: int = 1, **facts: object) -> list[dict[str, Any]]:
        """Waits until there are so many such records."""
        async with asyncio.timeout(15):
            while len(found := self.records(**facts)) < count:
                await asyncio.sleep(0.02)
        return found


@contextlib.asynccontextmanager
async def running_host(
    storage: str, directory: Path, *arguments: str, settings: Mapping[str, str] | None = None
) -> AsyncGenerator[RunningHost]:
    environment = {
        "PATH": os.environ["PATH"],
        "AzureWebJobsStorage": storage,
        "AGES_SCALE": "0.001",  # visibility at its least: 3 s
        "TICK_SCHEDULE": NEVER,
        "RECORD": str(directory / "record"),
        **(settings or {}),
    }
    with (directory / "errors").open("a") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "local.host", "--app", str(FIXTURE_APP), *arguments),
            cwd=ROOT,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        assert line, (directory / "errors").read_text()
        yield RunningHost(process, json.loads(line), directory / "record")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def storage() -> AsyncGenerator[str]:
    async with running_azurite() as azurite:
        yield azurite.connection_string


@pytest_asyncio.fixture(loop_scope="module")
async def own_storage() -> AsyncGenerator[str]:
    """For a test that runs hosts of its own: hosts of one storage share messages and timers."""
    async with running_azurite() as azurite:
        async with QueueServiceClient.from_connection_string(azurite.connection_string) as service:
            await service.create_queue("work")
        yield azurite.connection_string


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(storage: str, directory: Path) -> AsyncGenerator[RunningHost]:
    clock = directory / "clock.json"
    write_clock_file(clock, EVENING)
    async with running_host(
        storage,
        directory,
        *("--clock-file", str(clock), "--campaign-timers", "nightly"),
    ) as host:
        await asyncio.sleep(0.3)  # the queue is missing at first, which must do no harm
        async with QueueServiceClient.from_connection_string(storage) as service:
            await service.create_queue("work")
        yield host


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def work(host: RunningHost, storage: str) -> AsyncGenerator[QueueClient]:
    async with _queue(storage, "work") as queue:
        yield queue


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(host: RunningHost) -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(host.url) as session:
        yield session


def order(name: str, **what: object) -> str:
    return json.dumps({"name": name, **what})


# --- queues


async def test_message_arrives_once_with_its_true_metadata(
    host: RunningHost, work: QueueClient
) -> None:
    sent = await work.send_message(order("plain"), time_to_live=3600)
    [record] = await host.recorded(name="plain", event="ended")
    assert record["id"] == sent.id
    assert record["dequeue_count"] == 1
    assert record["insertion_time"] == str(sent.inserted_on)
    assert record["expiration_time"] == str(sent.expires_on)


async def test_failing_message_is_retried_after_visibility_timeout_then_copied_to_poison(
    host: RunningHost, work: QueueClient, directory: Path
) -> None:
    content = order("failing", fail="no luck")
    await work.send_message(content)
    await host.recorded(function="work_poison", body=content)
    tries = host.records(name="failing")
    assert [one["dequeue_count"] for one in tries] == [1, 2, 3, 4, 5]
    pauses = [later["at"] - one["at"] for one, later in itertools.pairwise(tries)]
    assert min(pauses) > 0.9, "host.json: visibilityTimeout 1 s"
    assert "ValueError('no luck')" in (directory / "errors").read_text()


async def test_what_is_not_base64_goes_to_poison_without_a_try(
    host: RunningHost, storage: str, directory: Path
) -> None:
    content = "four, char, word"  # base64 but for what a lenient decoder leaves out
    async with _queue(storage, "work", encode=False) as queue:
        await queue.send_message(content)
    # On the poison queue it is as undecodable, and ends on that queue's own poison queue.
    async with _queue(storage, "work-poison-poison", encode=False) as queue:
        async with asyncio.timeout(15):
            while not (messages := await _peek(queue)):
                await asyncio.sleep(0.05)
    assert messages == [content]
    said = (directory / "errors").read_text()
    assert "a message of queue work goes to work-poison: not base64" in said


async def test_no_more_side_by_side_than_batch_size_and_threshold(
    host: RunningHost, work: QueueClient
) -> None:
    for sleep in (0.2, 0.5) * 4:
        await work.send_message(order("crowd", sleep=sleep))
    await host.recorded(8, name="crowd", event="ended")
    running, most = 0, 0
    for record in host.records(name="crowd"):
        running += 1 if record["event"] == "began" else -1
        most = max(most, running)
    assert most == 4, "host.json: batchSize 2, newBatchThreshold 2"


async def test_long_runs_stay_hidden_by_renewal(host: RunningHost, work: QueueClient) -> None:
    for how in ("sleep", "compute"):
        await work.send_message(order(f"long {how}", **{how: 4.5}))  # visibility is 3 s
    for how in ("sleep", "compute"):
        await host.recorded(name=f"long {how}", event="ended")
    await asyncio.sleep(0.3)  # a message delivered again would have begun by now
    for how in ("sleep", "compute"):
        assert len(host.records(name=f"long {how}", event="began")) == 1


async def test_message_of_a_function_is_seen_soon(
    host: RunningHost, web: aiohttp.ClientSession, work: QueueClient
) -> None:
    await asyncio.sleep(1.8)  # polling has backed off to more than a second
    before = SystemClock().campaign_now().timestamp()
    assert (await web.post("/order", data=order("prompt"))).status == 202
    [record] = await host.recorded(name="prompt", event="ended")
    assert record["at"] - before < 0.5


async def test_missing_queue_was_borne_in_silence(host: RunningHost, directory: Path) -> None:
    assert "cannot be read" not in (directory / "errors").read_text()


# --- HTTP


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/hello/you", None, 201),
        ("/keyed", None, 401),
        ("/keyed", "wrong", 401),
        ("/keyed", "function_key", 200),
        ("/keyed", "master_key", 200),
        ("/locked", None, 401),
        ("/locked", "function_key", 401),
        ("/locked", "master_key", 200),
        ("/admin/host/status", None, 401),
        ("/admin/host/status", "function_key", 401),
        ("/admin/host/status", "master_key", 200),
    ],
)
@pytest.mark.parametrize("carrier", ["header", "query"])
async def test_levels(
    host: RunningHost,
    web: aiohttp.ClientSession,
    path: str,
    key: str | None,
    status: int,
    carrier: str,
) -> None:
    value = host.ready.get(key or "", key)
    headers = {"x-functions-key": value} if value and carrier == "header" else {}
    query = {"code": value} if value and carrier == "query" else {}
    async with web.get(path, headers=headers, params=query) as answer:
        assert answer.status == status


async def test_request_and_answer_pass_whole(host: RunningHost, web: aiohttp.ClientSession) -> None:
    async with web.get("/hello/b%20c?mark=!") as answer:
        assert (answer.headers["x-one"], await answer.text()) == ("1", "Hello b c!")
    async with web.post("/echo", data=b"\x00\xff") as answer:
        assert await answer.read() == b"\x00\xff"
        assert answer.headers.getall("Set-Cookie") == ["a=1; HttpOnly; Path=/", "b=2; Path=/"]


@pytest.mark.parametrize(
    ("path", "answer"), [("/page", "GET None"), ("/page/en", "GET en"), ("/page/b%20c", "GET b c")]
)
async def test_the_last_parameter_may_be_optional(
    web: aiohttp.ClientSession, path: str, answer: str
) -> None:
    async with web.get(path) as found:
        assert await found.text() == answer


async def test_head_is_a_method_of_its_own(web: aiohttp.ClientSession) -> None:
    """As at the real host: a function that lists GET alone does not answer it."""
    async with web.head("/page/en") as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len("HEAD en")))
        assert await answer.read() == b""
    async with web.head("/hello/you") as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/hello/you", 404), ("GET", "/nowhere", 404), ("GET", "/broken", 500)],
)
async def test_what_is_not_served(
    host: RunningHost, web: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with web.request(method, path) as answer:
        assert (answer.status, await answer.read()) in [(status, b""), (404, b"404: Not Found")]


async def test_raised_error_is_logged_with_type_and_text(
    host: RunningHost, web: aiohttp.ClientSession, directory: Path
) -> None:
    await web.get("/broken")
    assert "LookupError('the shelf is empty')" in (directory / "errors").read_text()


async def test_status_tells_the_worker(host: RunningHost, web: aiohttp.ClientSession) -> None:
    assert host.ready["worker"] == "1.3.0"
    async with web.get("/admin/host/status", headers=_master(host)) as answer:
        status = await answer.json()
    assert status["worker"] == "1.3.0"
    assert len(status["functions"]) == host.ready["functions"] == 12


# --- timers


@pytest.mark.parametrize(
    ("name", "status"), [("tick", 202), ("work", 400), ("nobody", 404)], ids=str
)
async def test_admin_runs_a_timer_now(
    host: RunningHost, web: aiohttp.ClientSession, name: str, status: int
) -> None:
    async with web.post(f"/admin/functions/{name}", json={}) as answer:
        assert answer.status == 401
    async with web.post(f"/admin/functions/{name}", json={}, headers=_master(host)) as answer:
        assert answer.status == status
    if status == 202:
        [record] = await host.recorded(function=name)
        assert record["past_due"] is False


async def test_clock_moved_over_a_schedule_fires_once(host: RunningHost, directory: Path) -> None:
    moves = [  # nightly ticks at 20:00
        (timedelta(minutes=30), 0, "19:30: not yet"),
        (timedelta(hours=2), 1, "21:00"),
        (timedelta(hours=1), 1, "20:00, back: nothing"),
        (timedelta(days=5, hours=2), 2, "five days on: once"),
    ]
    for distance, fired, comment in moves:
        write_clock_file(directory / "clock.json", EVENING + distance)
        await host.recorded(fired, function="nightly")
        await asyncio.sleep(0.5)
        assert len(host.records(function="nightly")) == fired, comment


async def test_tick_missed_while_no_host_ran_is_past_due(own_storage: str, tmp_path: Path) -> None:
    clock = tmp_path / "clock.json"
    options = ("--clock-file", str(clock), "--campaign-timers", "nightly,tick")
    ticks = {"TICK_SCHEDULE": "0 0 6 * * *", "TICK_SECONDS": "60"}
    write_clock_file(clock, EVENING + timedelta(days=30))
    async with running_host(own_storage, tmp_path, *options, settings=ticks) as first:
        await asyncio.sleep(0.5)
        assert not first.records(function="tick")
    write_clock_file(clock, EVENING + timedelta(days=33))
    async with running_host(own_storage, tmp_path, *options, settings=ticks) as second:
        assert [one["past_due"] for one in await second.recorded(function="tick")] == [True]
    # That run was cut short by the end of its host: it is due again.
    async with running_host(own_storage, tmp_path, *options, settings=ticks) as third:
        assert [one["past_due"] for one in await third.recorded(2, function="tick")] == [True, True]


async def test_ticks_follow_real_time(own_storage: str, tmp_path: Path) -> None:
    every_second = {"TICK_SCHEDULE": "* * * * * *"}
    async with running_host(own_storage, tmp_path, settings=every_second) as host:
        ticks = await host.recorded(4, function="tick")
    assert not any(one["past_due"] for one in ticks)
    times = [one["at"] for one in ticks]
    # As the seconds begin, and once in each: a busy machine may write one down a while later.
    assert min(at % 1 for at in times) < 0.5
    assert times[3] - times[0] > 2


async def test_a_timer_that_a_setting_switches_off_is_fired_by_hand_alone(
    own_storage: str, tmp_path: Path
) -> None:
    off = {"TICK_SCHEDULE": "* * * * * *", "AzureWebJobs.tick.Disabled": "true"}
    async with running_host(own_storage, tmp_path, settings=off) as host:
        await asyncio.sleep(1.5)
        assert not host.records(function="tick")
        url = f"{host.url}/admin/functions/tick"
        async with (
            aiohttp.ClientSession() as web,
            web.post(url, json={}, headers=_master(host)) as answer,
        ):
            assert answer.status == 202
        await host.recorded(function="tick")

    off = {"AzureWebJobs.work.Disabled": "1"}
    with pytest.raises(AssertionError, match=r"AzureWebJobs\.work\.Disabled is set"):
        async with running_host(own_storage, tmp_path, settings=off):
            pass


# --- the end


async def test_after_kill_the_message_comes_back(own_storage: str, tmp_path: Path) -> None:
    async with _queue(own_storage, "work") as work, running_host(own_storage, tmp_path) as first:
        await work.send_message(order("killed", sleep=1))
        await first.recorded(name="killed", event="began")
        first.process.kill()
        await first.process.wait()
        async with running_host(own_storage, tmp_path) as second:
            [ended] = await second.recorded(name="killed", event="ended")
        assert ended["dequeue_count"] == 2


async def test_sigterm_lets_functions_end_and_takes_no_more(
    own_storage: str, tmp_path: Path
) -> None:
    async with _queue(own_storage, "work") as work, running_host(own_storage, tmp_path) as host:
        await work.send_message(order("last", sleep=1))
        await host.recorded(name="last", event="began")
        host.process.terminate()
        await work.send_message(order("late"))
        assert await host.process.wait() == 0
        assert host.records(name="last", event="ended")
        assert not host.records(name="late")
        # What was worked on is done with; what was not is there for the next host at once.
        left = [
            json.loads(base64.b64decode(one.content))["name"]
            async for one in work.receive_messages()
        ]
        assert left == ["late"]


async def test_sigterm_lets_a_request_end(own_storage: str, tmp_path: Path) -> None:
    async with running_host(own_storage, tmp_path) as host, aiohttp.ClientSession() as web:
        asking = asyncio.create_task(web.get(f"{host.url}/slow"))
        await host.recorded(function="slow")
        host.process.terminate()
        async with await asking as answer:
            assert (answer.status, await answer.text()) == (200, "at last")
        async with asyncio.timeout(5):
            assert await host.process.wait() == 0


async def test_grace_is_limited(own_storage: str, tmp_path: Path) -> None:
    async with (
        _queue(own_storage, "work") as work,
        running_host(own_storage, tmp_path, "--grace", "0.2") as host,
    ):
        await work.send_message(order("endless", compute=60))
        await host.recorded(name="endless", event="began")
        host.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(5):
            assert await host.process.wait() == 0


async def test_leashed_host_ends_with_its_parent(own_storage: str, tmp_path: Path) -> None:
    async with running_host(own_storage, tmp_path, "--leash") as host:
        assert host.process.stdin is not None
        host.process.stdin.close()
        async with asyncio.timeout(5):
            assert await host.process.wait() == 0


async def test_leashed_host_ends_in_order_while_it_is_held(
    own_storage: str, tmp_path: Path
) -> None:
    async with running_host(own_storage, tmp_path, "--leash") as host:
        host.process.terminate()
        async with asyncio.timeout(5):
            assert await host.process.wait() == 0


# --- what is refused


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (None, "There is no function_app.py"),
        ("x = 1", "Could not find top level function app"),
        ("app = func.FunctionApp()", "0 functions"),
        ("app = func.FunctionApp()\nother = func.FunctionApp()", "More than one"),
        ("import nothing_such", "nothing_such"),
        (
            "app = func.FunctionApp()\n@app.timer_trigger(arg_name='t', schedule='0 * * * * *')\n"
            "def f(timer: func.TimerRequest): ...",
            "cannot load the f function",
        ),
        (
            "app = func.FunctionApp()\n@app.queue_trigger(arg_name='m', queue_name='q',"
            " connection='AzureWebJobsStorage')\ndef f(m: dict): ...",
            "Python type annotation dict",
        ),
    ],
    ids=["no file", "no app", "no function", "two apps", "import", "parameter", "annotation"],
)
async def test_app_that_cannot_be_indexed_is_an_error_that_says_why(
    tmp_path: Path, source: str | None, complaint: str
) -> None:
    if source is not None:
        (tmp_path / "function_app.py").write_text(f"import azure.functions as func\n{source}\n")
    program = (
        "import asyncio, pathlib, sys; from local.worker import load_app;"
        "asyncio.run(load_app(pathlib.Path(sys.argv[1])))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path)), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert "shared.errors.SetupFault" in errors.decode()
    assert complaint in errors.decode()


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({}, "AzureWebJobsStorage is not set"),
        (
            {
                "AzureWebJobsStorage": "AccountName=alumni;AccountKey=a2V5;"
                "EndpointSuffix=core.windows.net;DefaultEndpointsProtocol=https"
            },
            "not on this machine",
        ),
    ],
)
async def test_storage_elsewhere_is_refused(environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(SetupFault, match=complaint):
        await serve(Options(app=FIXTURE_APP), environment)


@pytest.mark.parametrize(
    ("expression", "after", "tick"),
    [
        ("0 0 20 * * *", "2027-03-17T19:59:59", "2027-03-17T20:00:00"),
        ("0 0 20 * * *", "2027-03-17T20:00:00", "2027-03-18T20:00:00"),
        ("0 * * * * *", "2027-03-17T20:00:00.5", "2027-03-17T20:01:00"),
        ("*/15 * * * * *", "2027-03-17T20:00:31", "2027-03-17T20:00:45"),
        ("0 30 9 * JAN MON-FRI", "2027-03-17T00:00:00", "2028-01-03T09:30:00"),
        ("0 0 0 1 jul *", "2027-03-17T00:00:00", "2027-07-01T00:00:00"),
    ],
)
async def test_schedule(expression: str, after: str, tick: str) -> None:
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert Schedule(expression).next_after(moment) == datetime.fromisoformat(tick + "Z")


@pytest.mark.parametrize(
    "expression",
    [
        "0 20 * * *",
        "0 0 25 * * *",
        "0 0 0 L * *",
        "0 0 0 * * 1#2",
        "0 0 0 1 * MON",
        "0 0 0 * * 7",
        "",
    ],
)
async def test_schedule_that_azure_reads_otherwise_or_not_at_all(expression: str) -> None:
    with pytest.raises(SetupFault):
        Schedule(expression)


@pytest.mark.parametrize(
    ("text", "result"),
    [("00:00:30", 30), ("00:10:00", 600), ("7.00:00:00", 604800), ("00:00:00.5", 0.5)],
)
async def test_time_spans(text: str, result: float) -> None:
    assert seconds(text) == result


@pytest.mark.parametrize("text", ["30", "1:2:3", "00:00", "-00:00:01", ""])
async def test_no_time_spans(text: str) -> None:
    with pytest.raises(SetupFault, match="hh:mm:ss"):
        seconds(text)


@pytest.mark.parametrize(
    ("route", "paths"),
    [
        ("health", ["/health", "/health/"]),
        ("done/{token}", ["/done/{token}", "/done/{token}/"]),
        ("page/{language?}", ["/page", "/page/{language}", "/page/", "/page/{language}/"]),
        ("files/{*path}", ["/files/{path:.*}"]),
    ],
)
async def test_routes(route: str, paths: list[str]) -> None:
    assert http_paths("", route) == paths


async def test_setting_that_a_binding_names_must_be_set() -> None:
    assert resolve_settings("%SWEEP%", {"SWEEP": NEVER}) == NEVER
    with pytest.raises(SetupFault, match="SWEEP"):
        resolve_settings("%SWEEP%", {})


def _master(host: RunningHost) -> dict[str, str]:
    return {"x-functions-key": host.ready["master_key"]}


def _queue(storage: str, name: str, *, encode: bool = True) -> QueueClient:
    policy = TextBase64EncodePolicy() if encode else None
    return QueueClient.from_connection_string(storage, name, message_encode_policy=policy)


async def _peek(queue: QueueClient) -> list[str]:
    try:
        return [message.content for message in await queue.peek_messages()]
    except ResourceNotFoundError:
        return []
