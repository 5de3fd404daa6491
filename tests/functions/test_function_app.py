"""The app as production has it: indexed and invoked by Microsoft's worker library.

The library fails an invocation that returns something where no binding takes it, so each one that
succeeds here has returned None.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import __version__
from shared.names import NAMES, poison_of
from shared.rules.parcels import State
from shared.stores.queues import HandOut, Queues, decode_message
from tests.functions.conftest import WorkerProcess, running_worker
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]
QUEUES: tuple[str, ...] = msgspec.structs.astuple(NAMES.queues)

TIMERS = {
    "sweep_start": "%SWEEP_SCHEDULE%",
    "release_due": "0 * * * * *",
    "housekeeping": "0 17 * * * *",
}
READERS = {
    "read_pages": NAMES.queues.sweep,
    "plan_shards": NAMES.queues.plan,
    "send_email": NAMES.queues.email,
    "send_sms": NAMES.queues.sms,
    "settle_receipts": NAMES.queues.receipts,
}
READ, PERSONAL = ["GET", "HEAD"], ["GET", "HEAD", "POST"]
ROUTES: dict[str, tuple[str, list[str], str]] = {
    "health": ("health", ["GET"], "ANONYMOUS"),
    "show_guide": ("guide/{language}", READ, "ANONYMOUS"),
    "report_done": ("done/{token?}", PERSONAL, "ANONYMOUS"),
    "unsubscribe": ("unsubscribe/{token?}", PERSONAL, "ANONYMOUS"),
    "show_style": ("assets/page.css", READ, "ANONYMOUS"),
    "show_status": ("status", ["GET"], "FUNCTION"),
    "show_status_signed_in": ("signed-in/status", ["GET"], "ANONYMOUS"),
    "receive_completions": ("callbacks/completions", ["POST"], "FUNCTION"),
    "receive_sendgrid": ("callbacks/sendgrid", ["POST"], "ANONYMOUS"),
    "receive_twilio": ("callbacks/twilio", ["POST"], "ANONYMOUS"),
}

NOT_OURS = {
    "no JSON": b"hello",
    "not even text": b"\xff\xfe\x00",
    "nothing": b"",
    "another shape": b"[1, 2]",
    "fields missing": b"{}",
    "a field of another version": b'{"sweep": 1, "source": "x", "run": 1, "color": 2}',
    "a wrong type": b'{"sweep": "one", "source": "x", "run": 1}',
}


async def take_all(world: World, queue: str) -> list[bytes]:
    """The messages of a queue as the host hands them on; they are gone from it then."""
    client = world.app.account.queue(queue)
    bodies: list[bytes] = []
    async for message in client.receive_messages(messages_per_page=32):
        bodies.append(message.content or b"")  # the SDK has "" for an empty one
        await client.delete_message(message)
    return bodies


async def deliver_all(world: World, worker: WorkerProcess, function: str) -> int:
    """Invoke a queue's reader for all that is on it, and for all that this puts there."""
    delivered = 0
    while bodies := await take_all(world, READERS[function]):
        for body in bodies:
            assert not (await worker.invoke(function, body)).failed
        delivered += len(bodies)
    return delivered


# --- what is indexed


def bindings(worker: WorkerProcess, name: str) -> list[dict[str, Any]]:
    """A function's bindings without what is the same for all of them."""
    return [
        {key: value for key, value in one.items() if key not in ("name", "direction")}
        for one in worker.functions[name].bindings
    ]


async def test_timers(worker: WorkerProcess) -> None:
    for name, schedule in TIMERS.items():
        assert bindings(worker, name) == [{"type": "timerTrigger", "schedule": schedule}]


async def test_each_queue_has_a_reader_and_a_poison_function(worker: WorkerProcess) -> None:
    for name, queue in READERS.items():
        for function, listens_to in ((name, queue), (f"{name}_poison", poison_of(queue))):
            assert bindings(worker, function) == [
                {
                    "type": "queueTrigger",
                    "queueName": listens_to,
                    "connection": "AzureWebJobsStorage",
                }
            ]


async def test_every_queue_that_is_written_is_one_of_them() -> None:
    assert sorted(READERS.values()) == sorted(QUEUES)
    written = {name.removeprefix("put_") for name in vars(Queues) if name.startswith("put_")}
    assert written - {"poison"} == {"read", "plan", "hand_out", "receipts"}


@pytest.mark.parametrize("name", ROUTES)
async def test_what_is_served_to_whom_without_a_prefix(worker: WorkerProcess, name: str) -> None:
    route, methods, level = ROUTES[name]
    trigger, answer = bindings(worker, name)
    assert trigger == {
        "type": "httpTrigger",
        "authLevel": level,
        "route": route,
        "methods": methods,
    }
    assert answer == {"type": "http"}
    host = json.loads((ROOT / "host.json").read_text())
    assert host["extensions"]["http"]["routePrefix"] == ""


async def test_there_are_no_other_functions(worker: WorkerProcess) -> None:
    expected = {*TIMERS, *READERS, *(f"{name}_poison" for name in READERS), *ROUTES}
    assert set(worker.functions) == expected


async def test_the_host_waits_and_polls_as_designed() -> None:
    queues = json.loads((ROOT / "host.json").read_text())["extensions"]["queues"]
    assert queues["messageEncoding"] == "base64"
    assert queues["visibilityTimeout"] == "00:00:30"
    assert queues["maxPollingInterval"] == "00:00:02"


# --- what is not ours


@pytest.mark.invariant(2)
@pytest.mark.parametrize("function", READERS)
@pytest.mark.parametrize("body", NOT_OURS.values(), ids=NOT_OURS)
async def test_a_message_that_is_not_ours_is_poison_at_once_and_a_person_is_told_why(
    world: World, worker: WorkerProcess, function: str, body: bytes
) -> None:
    queue = READERS[function]
    assert not (await worker.invoke(function, body)).failed  # no second try of it
    assert await take_all(world, queue) == []
    (buried,) = await take_all(world, poison_of(queue))
    assert buried == body

    before = len(worker.log())
    assert not (await worker.invoke(f"{function}_poison", buried)).failed
    (alarm,) = [line for line in worker.log()[before:] if "ALARM poison" in line]
    told = json.loads(alarm.partition("ALARM poison ")[2])
    assert told["queue"] == queue
    assert told["reason"].startswith("not a ")
    assert await take_all(world, poison_of(queue)) == []


# --- one invocation of each kind, in the order of the main job


@pytest.mark.invariant(2)
async def test_the_main_job_function_by_function(world: World, worker: WorkerProcess) -> None:
    await world.write_campaign()
    assert not (await worker.invoke("sweep_start")).failed
    assert not (await worker.invoke("sweep_start")).failed  # one is under way: no second
    sweep = await world.app.stores.sweeps.read(1)
    assert sweep is not None
    assert (await world.app.stores.sweeps.read_head()).number == 1

    (message, *others) = await take_all(world, NAMES.queues.sweep)
    assert len(others) == len(sweep.passes) - 1
    for body in (message, *others, message):  # the last one twice, as queues do
        assert not (await worker.invoke("read_pages", body)).failed
    assert await deliver_all(world, worker, "read_pages") == 0
    assert (await world.app.stores.sweeps.read_committed()) is not None
    assert not (await worker.invoke("read_pages_poison", message)).failed

    (message, *others) = await take_all(world, NAMES.queues.plan)
    for body in (message, *others, message):
        assert not (await worker.invoke("plan_shards", body)).failed
    assert not (await worker.invoke("plan_shards_poison", message)).failed
    planned = await world.parcels()
    assert {parcel.state for parcel in planned} == {State.PLANNED}

    # The verdict was `go`: all of it has been handed out, and the timer finds nothing more.
    (message, *others) = await take_all(world, NAMES.queues.email)
    assert len(others) == len(planned) - 1
    assert not (await worker.invoke("release_due")).failed
    assert await take_all(world, NAMES.queues.email) == []
    for body in (*others, others[0]):
        assert not (await worker.invoke("send_email", body)).failed
    assert len(await world.accepted()) == len(others)

    # The queue gave up on the first one: its row ends, and says so.
    assert not (await worker.invoke("send_email_poison", message)).failed
    lost = decode_message(message, HandOut)
    ended = {parcel.key: (parcel.state, parcel.reason) for parcel in await world.parcels()}
    assert ended.pop(lost.key) == (State.CLOSED, "failed")
    assert set(ended.values()) == {(State.ACCEPTED, "")}

    assert not (await worker.invoke("housekeeping")).failed
    log = worker.log()
    for queue in QUEUES:
        assert any("ALARM poison" in line and f'"{queue}"' in line for line in log)
    assert any("housekeeping" in line for line in log)
    assert not [line for line in log if "Traceback" in line]


# --- what an app without settings does


async def test_health_touches_nothing(tmp_path: Path) -> None:
    """No setting is there, and so no storage, no tenant and no provider."""
    async with running_worker(tmp_path, {}) as worker:
        answer = await worker.invoke("health")
        assert answer.http is not None
        assert answer.http.status == 200
        assert json.loads(answer.http.body) == {"status": "ok", "version": __version__}
        assert dict(answer.http.headers)["content-type"] == "application/json"

        refused = await worker.invoke("release_due")
        for name in ("AzureWebJobsStorage", "SENDGRID_API_KEY", "LINK_KEYS", "PUBLIC_BASE_URL"):
            assert name in refused.failed  # all problems at once


async def test_the_app_is_imported_fast_and_without_the_graph_sdk() -> None:
    program = """
import json, sys
from shared.clock import monotonic
began = monotonic()
import function_app
print(json.dumps({"seconds": monotonic() - began, "modules": list(sys.modules)}))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    heavy = {"msgraph", "msgraph_core", "kiota_http", "azure.identity"}
    assert heavy.isdisjoint(found["modules"])
    assert found["seconds"] < 5, "a worker has 30 s to index the app, on a slower processor"
