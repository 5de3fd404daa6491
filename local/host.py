"""A small Functions host: fires the timers, polls the queues and serves the HTTP of one app.

It follows the real host where a function can tell the difference: batches and concurrency of a
queue, renewed visibility, retries after `visibilityTimeout`, dequeue counts and poison queues,
base64, past-due timers, authorisation levels, timers that a setting switches off. What it can't do,
it refuses at start.

Three things differ, so that the local system is quick and its clock can be moved:

- `--campaign-timers` follow campaign time. When the clock file moves over their schedule they fire
  once, however many ticks lie in between. All other timers follow real time.
- After a crash the messages under way come back when their visibility ends: after 10 minutes in
  Azure, here after 10 minutes times AGES_SCALE where that is set, but at least 3 s.
- While functions run, the queues are polled every 0.2 s instead of backing off, poison queues
  excepted: functions put messages that other functions of this host wait for.

It listens on loopback only and refuses storage that is elsewhere: a host on the storage of a
deployed app would take that app's messages.

Functions run on an event loop and a thread of their own, as they have a process of their own in
Azure: a function that computes for a while holds up neither renewals nor the host's HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
import math
import os
import re
import secrets
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob.aio import BlobClient, BlobServiceClient
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient, QueueServiceClient
from multidict import CIMultiDict

from functions.telemetry import CONNECTION, ingestion_of
from local.schedule import Schedule
from local.serving import watch_leash
from local.worker import Binding, FunctionFailed, FunctionInfo, LoadedApp, load_app
from shared.clock import CampaignTime, PretendedClock, SystemClock, monotonic
from shared.errors import SetupFault
from shared.settings import is_loopback

log = logging.getLogger("local.host")

STORAGE = "AzureWebJobsStorage"
VISIBILITY = 600.0
"""Seconds for which a message taken from a queue is hidden from others; renewed at half time."""

LEAST_VISIBILITY = 3
FIRST_DELAY = 0.1  # seconds between polls of an empty queue, doubled at each empty one
BUSY_DELAY = 0.2  # the most while functions run
CLOCK_FILE_POLL = 0.25
TIMER_POLL = 30.0  # a sleeping machine's clock jumps: look again so often


# --- host.json -----------------------------------------------------------------------------------


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`extensions.queues` of host.json; the defaults are the real host's."""

    batch_size: Annotated[int, msgspec.Meta(ge=1, le=32)] = 16
    new_batch_threshold: Annotated[int, msgspec.Meta(ge=0)] | None = None
    max_polling_interval: str = "00:01:00"
    visibility_timeout: str = "00:00:00"
    max_dequeue_count: Annotated[int, msgspec.Meta(ge=1)] = 5
    message_encoding: Literal["base64", "none"] = "base64"

    @property
    def threshold(self) -> int:
        """So few messages under way that the next batch is taken."""
        if self.new_batch_threshold is None:
            return self.batch_size // 2
        return self.new_batch_threshold


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`extensions.http` of host.json."""

    route_prefix: str = "api"


class Extensions(msgspec.Struct, frozen=True, kw_only=True):
    """`extensions` of host.json."""

    http: HttpOptions = HttpOptions()
    queues: QueueOptions = QueueOptions()


class HostFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """host.json, as far as this host obeys it."""

    version: Literal["2.0"]
    function_timeout: str = "00:30:00"
    extensions: Extensions = Extensions()


def read_host_file(directory: Path) -> HostFile:
    """Raises SetupFault where host.json is missing or a value is not what the host takes."""
    file = directory / "host.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=HostFile)
    except OSError as error:
        raise SetupFault(f"{file} cannot be read: {error}.", "Put host.json there.") from error
    except msgspec.MsgspecError as error:
        raise SetupFault(f"{file}: {error}.", "Correct the value.") from error


def seconds(timespan: str) -> float:
    """`[d.]hh:mm:ss[.fff]` in seconds. Raises SetupFault."""
    found = re.fullmatch(r"(?:(\d+)\.)?(\d\d?):(\d\d):(\d\d(?:\.\d+)?)", timespan)
    if found is None:
        raise SetupFault(f"host.json: {timespan!r} is no time span.", "Write hh:mm:ss.")
    days, hours, minutes, rest = found.groups()
    return int(days or 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(rest)


def resolve_settings(text: str, environment: Mapping[str, str]) -> str:
    """Replaces each `%NAME%` by that setting. Raises SetupFault for one that is not set."""

    def value(found: re.Match[str]) -> str:
        try:
            return environment[found[1]]
        except KeyError:
            raise SetupFault(
                f"A binding asks for the setting {found[1]}, which is not set.",
                f"Set {found[1]} in the environment.",
            ) from None

    return re.sub(r"%([^%]+)%", value, text)


# --- running functions ---------------------------------------------------------------------------


class Functions:
    """Runs the app's functions on a thread of their own, and knows which are under way."""

    def __init__(self, app: LoadedApp, timeout: float | None) -> None:
        self.app = app
        self.under_way: Counter[str] = Counter()
        self.watchers: list[Callable[[], None]] = []  # told at each start and end
        self._timeout = timeout
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="functions", daemon=True).start()

    async def run[T](self, name: str, invocation: Coroutine[Any, Any, T]) -> T:
        """Await one invocation. Raises FunctionFailed, also for one that takes too long."""
        self._count(name, 1)
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.wrap_future(
                    asyncio.run_coroutine_threadsafe(invocation, self._loop)
                )
        except TimeoutError:
            raise FunctionFailed(name, f"functionTimeout: {self._timeout} s are over") from None
        finally:
            self._count(name, -1)

    def _count(self, name: str, change: int) -> None:
        self.under_way[name] += change
        if not self.under_way[name]:
            del self.under_way[name]
        for tell in self.watchers:
            tell()


def log_failure(failure: FunctionFailed, circumstance: str) -> None:
    """A failed invocation, with type, text and traceback of what was raised."""
    trace = failure.trace.rstrip()
    log.error("%s failed %s: %s\n%s", failure.function, circumstance, failure.what, trace)


async def waited(event: asyncio.Event, limit: float) -> bool:
    """Whether the event came within so many seconds."""
    try:
        async with asyncio.timeout(limit):
            await event.wait()
    except TimeoutError:
        return False
    return True


# --- queues --------------------------------------------------------------------------------------


class QueueListener:
    """Takes messages off one queue for one function, as the storage queues extension does.

    Up to `batchSize` are taken at once, and the next batch when no more than `newBatchThreshold`
    are under way, so that at most the sum of both runs side by side.
    """

    def __init__(
        self,
        function: str,
        queue: QueueClient,
        poison: QueueClient,
        *,
        functions: Functions,
        options: QueueOptions,
        visibility: int,
        poisoned: Callable[[str], None],
    ) -> None:
        self._function = function
        self._queue = queue
        self._poison = poison
        self._functions = functions
        self._options = options
        self._longest_delay = max(FIRST_DELAY, seconds(options.max_polling_interval))
        self._retry_after = round(seconds(options.visibility_timeout))
        self._visibility = visibility
        self._poisoned = poisoned
        self._under_way: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._unwell = False
        self.queue_name = queue.queue_name
        self.eager = not self.queue_name.endswith("-poison")

    def wake(self) -> None:
        """There may be something new on the queue: look soon, and begin to back off anew."""
        self._wake.set()

    def stop(self) -> None:
        """Take no more messages. `run` returns when those under way have ended."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        delay = FIRST_DELAY
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._wake.clear()
                messages = await self._take()
                for message in messages:
                    task = group.create_task(self._process(message))
                    self._under_way.add(task)
                    task.add_done_callback(self._under_way.discard)
                while len(self._under_way) > self._options.threshold and not self._stopping:
                    await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
                if messages or await self._woken_within(delay):
                    delay = FIRST_DELAY
                else:
                    delay = min(delay * 2, self._most_delay())

    def _most_delay(self) -> float:
        busy = self.eager and bool(self._functions.under_way)
        return min(BUSY_DELAY, self._longest_delay) if busy else self._longest_delay

    async def _woken_within(self, delay: float) -> bool:
        """Rests; woken early, still rests so long that a busy host does not poll without pause."""
        began = monotonic()
        if not await waited(self._wake, delay):
            return False
        await asyncio.sleep(max(0.0, FIRST_DELAY - (monotonic() - began)))
        return True

    async def _take(self) -> list[QueueMessage]:
        """One batch; nothing where the queue is missing, which the real host bears in silence."""
        pages = self._queue.receive_messages(
            messages_per_page=self._options.batch_size, visibility_timeout=self._visibility
        ).by_page()
        try:
            messages = [message async for message in await anext(pages)]
        except (StopAsyncIteration, ResourceNotFoundError):
            messages = []
        except AzureError as error:
            if not self._unwell:  # once per outage
                log.warning("queue %s cannot be read: %s", self.queue_name, _first_line(error))
            self._unwell = True
            return []
        self._unwell = False
        return messages

    async def _process(self, message: QueueMessage) -> None:
        try:
            if self._stopping:  # taken while we were told to stop: for the next host
                await self._hide(message, 0)
            elif int(message.dequeue_count or 1) > self._options.max_dequeue_count:
                await self._bury(message, "taken too often")
            elif (body := self._decoded(message.content)) is None:
                await self._bury(message, f"not {self._options.message_encoding}")
            else:
                await self._deliver(message, body)
        except AzureError as error:  # the message comes back when its visibility ends
            log.warning("queue %s: %s", self.queue_name, _first_line(error))

    def _decoded(self, content: str) -> bytes | None:
        if self._options.message_encoding == "none":
            return content.encode()
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            return None

    async def _deliver(self, message: QueueMessage, body: bytes) -> None:
        done = asyncio.Event()
        renewal = asyncio.create_task(self._renew(message, done))
        failure: FunctionFailed | None = None
        try:
            await self._functions.run(
                self._function,
                self._functions.app.invoke_queue(
                    self._function,
                    body,
                    message_id=message.id,
                    dequeue_count=int(message.dequeue_count or 1),
                    insertion_time=message.inserted_on,
                    expiration_time=message.expires_on,
                    next_visible_time=message.next_visible_on,
                    pop_receipt=message.pop_receipt or "",
                ),
            )
        except FunctionFailed as error:
            failure = error
        finally:
            done.set()
        await renewal
        if failure is None:
            await self._delete(message)
            return
        tries = int(message.dequeue_count or 1)
        log_failure(failure, f"at try {tries} of {self._options.max_dequeue_count}")
        if tries >= self._options.max_dequeue_count:
            await self._bury(message, "failed too often")
        else:
            await self._hide(message, self._retry_after)

    async def _renew(self, message: QueueMessage, done: asyncio.Event) -> None:
        """Keeps the message hidden while its function runs."""
        try:
            while not await waited(done, self._visibility / 2):
                await self._hide(message, self._visibility)
        except AzureError as error:
            log.warning("queue %s: not renewed: %s", self.queue_name, _first_line(error))

    async def _hide(self, message: QueueMessage, duration: int) -> None:
        hidden = await self._queue.update_message(
            message.id, message.pop_receipt, visibility_timeout=duration
        )
        message.pop_receipt = hidden.pop_receipt

    async def _bury(self, message: QueueMessage, reason: str) -> None:
        """Copies the message to the poison queue, made where it is missing, and deletes it."""
        poison = self._poison.queue_name
        log.error("a message of queue %s goes to %s: %s", self.queue_name, poison, reason)
        try:
            await self._poison.send_message(message.content)
        except ResourceNotFoundError:
            await self._poison.create_queue()
            await self._poison.send_message(message.content)
        await self._delete(message)
        self._poisoned(poison)

    async def _delete(self, message: QueueMessage) -> None:
        # Gone, expired or taken by another host after its visibility ended: not ours any more.
        with contextlib.suppress(ResourceNotFoundError):
            await self._queue.delete_message(message.id, message.pop_receipt)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition('\n')[0]}"


# --- timers --------------------------------------------------------------------------------------


class TimerStatus(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What storage keeps of a timer between hosts."""

    last: datetime
    next: datetime
    last_updated: datetime


class StatusBlob:
    """The status of one timer, where the real host keeps it, too."""

    def __init__(self, service: BlobServiceClient, function: str) -> None:
        self._container = service.get_container_client("azure-webjobs-hosts")
        self._blob: BlobClient = self._container.get_blob_client(f"timers/local/{function}/status")

    async def read(self) -> TimerStatus | None:
        try:
            download = await self._blob.download_blob()
            return msgspec.json.decode(await download.readall(), type=TimerStatus)
        except ResourceNotFoundError:
            return None

    async def write(self, status: TimerStatus) -> None:
        content = msgspec.json.encode(status)
        try:
            await self._blob.upload_blob(content, overwrite=True)
        except ResourceNotFoundError:
            with contextlib.suppress(ResourceExistsError):  # another timer was first
                await self._container.create_container()
            await self._blob.upload_blob(content, overwrite=True)


class Timer:
    """Fires one function by its schedule, one run at a time.

    A tick that passes while the function runs, or while no host ran, makes one run, at once: the
    latter with `past_due`. The status is written after the run, so a run that a crash cut short is
    past due. Like the real host, one that ticks more often than every minute is not remembered.

    Args:
        now: the time that the schedule is judged by.
        poll: how often to look at it, in seconds; it may jump. Jumping back fires nothing.
    """

    def __init__(
        self,
        function: str,
        schedule: Schedule,
        status: StatusBlob | None,
        *,
        functions: Functions,
        now: Callable[[], CampaignTime],
        poll: float,
    ) -> None:
        self._function = function
        self._schedule = schedule
        self._blob = status
        self._functions = functions
        self._now = now
        self._poll = poll
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Fire no more. `run` returns when a run under way has ended."""
        self._stop.set()

    async def run(self) -> None:
        status = await self._restored()
        past_due = True  # what is due at the first look fell due while no host ran
        while not self._stop.is_set():
            now = self._now()
            if now < status.last:
                status = self._status(now)
            if status.next <= now:
                await self.fire(past_due=past_due, status=status)
                status = self._status(now)
                await self._remember(status)
            past_due = False
            rest = (status.next - self._now()).total_seconds()
            await waited(self._stop, min(self._poll, max(0.0, rest)))

    async def fire(self, *, past_due: bool = False, status: TimerStatus | None = None) -> None:
        """Run the function once; its failure is logged, and the next tick tries again."""
        content = None if status is None else msgspec.to_builtins(status)
        invocation = self._functions.app.invoke_timer(
            self._function, past_due=past_due, status=content
        )
        try:
            await self._functions.run(self._function, invocation)
        except FunctionFailed as failure:
            log_failure(failure, "on its timer")

    def _status(self, last: datetime) -> TimerStatus:
        return TimerStatus(last=last, next=self._schedule.next_after(last), last_updated=last)

    async def _restored(self) -> TimerStatus:
        kept = None if self._blob is None else await self._blob.read()
        if kept is not None:
            # By the last run, not by the next tick as it was then: the schedule may have changed.
            return self._status(kept.last)
        fresh = self._status(self._now())
        await self._remember(fresh)
        return fresh

    async def _remember(self, status: TimerStatus) -> None:
        if self._blob is None:
            return
        try:
            await self._blob.write(status)
        except AzureError as error:
            log.warning("status of %s not kept: %s", self._function, _first_line(error))


# --- HTTP ----------------------------------------------------------------------------------------


class Keys(msgspec.Struct, frozen=True):
    """What opens HTTP functions of the levels function (either key) and admin (`master`)."""

    master: str
    function: str

    def open(self, level: str, request: web.Request) -> bool:
        """Whether the request may call a function of this level."""
        if level == "ANONYMOUS":
            return True
        given = request.headers.get("x-functions-key") or request.query.get("code", "")
        allowed = [self.master] if level == "ADMIN" else [self.master, self.function]
        raw = given.encode(errors="surrogateescape")
        return any(hmac.compare_digest(raw, key.encode()) for key in allowed)


def http_paths(prefix: str, route: str) -> list[str]:
    """A route template (`{name}`, `{name?}` at the end, `{*rest}`) as paths of the web server.

    A slash at the end of an address is passed over, as the real host does.
    """
    path = "/" + "/".join(part for part in (prefix.strip("/"), route.strip("/")) if part)
    if re.search(r"\{[^}]*[:=]", path):
        raise SetupFault(
            f"The route {route!r} constrains a parameter, which this host does not do.",
            "Check the parameter in the function.",
        )
    path = re.sub(r"\{\*(\w+)\}", r"{\1:.*}", path)
    paths = [path]
    if optional := re.fullmatch(r"(.*)/\{(\w+)\?\}", path):
        paths = [optional[1] or "/", f"{optional[1]}/{{{optional[2]}}}"]
    return [*paths, *(f"{one}/" for one in paths if not one.endswith(("/", ":.*}")))]


class HttpServer:
    """Serves the HTTP functions, and the part of the admin API that the local system uses:

    - `POST /admin/functions/{name}` runs a timer function now; 202, it does not wait
    - `GET /admin/host/status`: state, worker, invocations under way per function
    """

    def __init__(
        self, functions: Functions, keys: Keys, prefix: str, timers: Mapping[str, Timer]
    ) -> None:
        self._functions = functions
        self._keys = keys
        self._timers = timers
        self._runs: set[asyncio.Task[None]] = set()
        self._app = web.Application(
            client_max_size=100 * 1024 * 1024, middlewares=[_no_such_method_is_no_such_route]
        )
        # No access log, since URLs carry keys and links; bodies reach functions as they were sent.
        self._runner = web.AppRunner(self._app, access_log=None, auto_decompress=False)
        self._app.router.add_post("/admin/functions/{name}", self._run_timer)
        self._app.router.add_get("/admin/host/status", self._status)
        for function in functions.app.functions.values():
            if function.trigger.type == "httpTrigger":
                self._serve(function, prefix)

    def _serve(self, function: FunctionInfo, prefix: str) -> None:
        settings = function.trigger.settings
        level = settings.get("authLevel", "FUNCTION").upper()

        async def answer(request: web.Request) -> web.Response:
            return await self._answer(function.name, level, request)

        for path in http_paths(prefix, settings.get("route", function.name)):
            for method in settings.get("methods") or ["*"]:
                self._app.router.add_route(method, path, answer)

    async def start(self, port: int) -> str:
        """Listen on loopback; gives the base URL. Raises SetupFault where the port is taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port).start()
        except OSError as error:
            raise SetupFault(f"Port {port}: {error}.", "Give another, or 0 for any.") from error
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Accept no more; waits for the requests and the timer runs under way."""
        await self._runner.cleanup()
        if self._runs:
            await asyncio.wait(self._runs)

    async def _answer(self, name: str, level: str, request: web.Request) -> web.Response:
        if not self._keys.open(level, request):
            return web.Response(status=401)
        invocation = self._functions.app.invoke_http(
            name,
            method=request.method,
            url=str(request.url),
            headers=dict(request.headers),
            route=dict(request.match_info),
            body=await request.read(),
        )
        try:
            answer = await self._functions.run(name, invocation)
        except FunctionFailed as failure:
            log_failure(failure, f"at {request.method}")
            return web.Response(status=500)
        return web.Response(
            status=answer.status, headers=CIMultiDict(answer.headers), body=answer.body
        )

    async def _run_timer(self, request: web.Request) -> web.Response:
        if not self._keys.open("ADMIN", request):
            return web.Response(status=401)
        name = request.match_info["name"]
        if name not in self._functions.app.functions:
            return web.Response(status=404)
        if name not in self._timers:
            return web.Response(status=400, text=f"{name} is not a timer function.")
        run = asyncio.create_task(self._timers[name].fire())
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        return web.Response(status=202)

    async def _status(self, request: web.Request) -> web.Response:
        if not self._keys.open("ADMIN", request):
            return web.Response(status=401)
        return web.json_response(
            {
                "state": "Running",
                "worker": self._functions.app.worker_version,
                "functions": sorted(self._functions.app.functions),
                "underWay": dict(self._functions.under_way),
            }
        )


@web.middleware
async def _no_such_method_is_no_such_route(
    request: web.Request, handler: Callable[[web.Request], Any]
) -> web.StreamResponse:
    """The real host answers 404, not 405, to a method that the function does not list."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed:
        raise web.HTTPNotFound from None


# --- the host ------------------------------------------------------------------------------------


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command line.

    Attributes:
        port: of HTTP; 0 takes a free one.
        campaign_timers: timers that follow the clock file instead of real time.
        grace: seconds that functions under way have after SIGTERM.
        leash: end when standard input closes, as it does when the starting process dies.
    """

    app: Path
    port: int = 0
    clock_file: Path | None = None
    campaign_timers: Sequence[str] = ()
    grace: float = 30
    leash: bool = False


class Host:
    """One app between its triggers."""

    def __init__(
        self,
        app: LoadedApp,
        host_file: HostFile,
        options: Options,
        environment: Mapping[str, str],
        *,
        queues: QueueServiceClient,
        blobs: BlobServiceClient,
    ) -> None:
        self._options = options
        self._environment = environment
        self._queue_service = queues
        self._blobs = blobs
        self._queue_options = host_file.extensions.queues
        self._visibility = _visibility(environment)
        limit = host_file.function_timeout
        self._functions = Functions(app, None if limit == "-1" else seconds(limit))
        self._listeners: list[QueueListener] = []
        self._timers: dict[str, Timer] = {}
        for function in app.functions.values():
            self._add(function)
        unknown = set(options.campaign_timers) - self._timers.keys()
        if unknown:
            raise SetupFault(
                f"--campaign-timers names {', '.join(sorted(unknown))}: no timer function.",
                "Name timer functions of the app.",
            )
        self._functions.watchers.append(self._wake_listeners)
        self.keys = Keys(
            master=environment.get("LOCAL_MASTER_KEY") or secrets.token_urlsafe(24),
            function=environment.get("LOCAL_FUNCTION_KEY") or secrets.token_urlsafe(24),
        )
        self._http = HttpServer(
            self._functions, self.keys, host_file.extensions.http.route_prefix, self._timers
        )

    async def run(self, ready: Callable[[str], None], stop: asyncio.Event) -> None:
        """Serve until `stop`; tells `ready` the URL once everything listens."""
        timers = [timer for name, timer in self._timers.items() if not self._is_disabled(name)]
        parts = [*self._listeners, *timers]
        try:
            async with asyncio.timeout(None) as limit:
                url = await self._http.start(self._options.port)
                async with asyncio.TaskGroup() as group:
                    for part in parts:
                        group.create_task(part.run())
                    ready(url)
                    await stop.wait()
                    limit.reschedule(asyncio.get_running_loop().time() + self._options.grace)
                    for part in parts:
                        part.stop()
                await self._http.close()
        except TimeoutError:
            names = ", ".join(self._functions.under_way)
            log.warning("ended %s after %.0f s of grace", names, self._options.grace)

    def _is_disabled(self, function: str) -> bool:
        """Whether a setting switches its trigger off, as in Azure; by hand it can be fired."""
        return self._environment.get(_disabled(function), "").lower() in ("1", "true")

    def _add(self, function: FunctionInfo) -> None:
        if function.trigger.type != "timerTrigger" and self._is_disabled(function.name):
            raise SetupFault(
                f"{_disabled(function.name)} is set, which this host heeds for timers alone.",
                "Leave it out.",
            )
        match function.trigger.type:
            case "queueTrigger":
                self._listeners.append(self._listener(function.name, function.trigger))
            case "timerTrigger":
                self._timers[function.name] = self._timer(function.name, function.trigger)
            case "httpTrigger":
                pass  # HttpServer finds them
            case other:
                raise SetupFault(
                    f"{function.name} has a {other}, which this host does not do.",
                    "Use a timer, a queue or HTTP.",
                )
        for binding in function.bindings:
            if binding is not function.trigger and binding.type != "http":
                raise SetupFault(
                    f"{function.name} has a {binding.type} binding, which this host does not do.",
                    "Read and write by a store.",
                )

    def _listener(self, function: str, trigger: Binding) -> QueueListener:
        if trigger.settings.get("connection", STORAGE) not in ("", STORAGE):
            raise SetupFault(f"{function} listens on another storage account.", f"Use {STORAGE}.")
        name = resolve_settings(trigger.settings["queueName"], self._environment)
        return QueueListener(
            function,
            self._queue_service.get_queue_client(name),
            self._queue_service.get_queue_client(f"{name}-poison"),
            functions=self._functions,
            options=self._queue_options,
            visibility=self._visibility,
            poisoned=self._wake_queue,
        )

    def _timer(self, function: str, trigger: Binding) -> Timer:
        if trigger.settings.get("runOnStartup"):
            raise SetupFault(
                f"{function} runs on start-up, which in Azure is at every scale-out.",
                "Leave run_on_startup out.",
            )
        schedule = Schedule(resolve_settings(trigger.settings["schedule"], self._environment))
        real = SystemClock()
        clock = real
        if function in self._options.campaign_timers and self._options.clock_file is not None:
            clock = PretendedClock(self._options.clock_file)
        forgotten = trigger.settings.get("useMonitor") is False
        forgotten = forgotten or schedule.ticks_often(real.campaign_now())
        return Timer(
            function,
            schedule,
            None if forgotten else StatusBlob(self._blobs, function),
            functions=self._functions,
            now=clock.campaign_now,
            poll=TIMER_POLL if clock is real else CLOCK_FILE_POLL,
        )

    def _wake_listeners(self) -> None:
        for listener in self._listeners:
            if listener.eager:
                listener.wake()

    def _wake_queue(self, name: str) -> None:
        for listener in self._listeners:
            if listener.queue_name == name:
                listener.wake()


def _disabled(function: str) -> str:
    """The setting that switches a function off."""
    return f"AzureWebJobs.{function}.Disabled"


def _visibility(environment: Mapping[str, str]) -> int:
    """Whole seconds, as the service counts them."""
    try:
        scale = float(environment.get("AGES_SCALE") or 1)
    except ValueError:
        raise SetupFault("AGES_SCALE is not a number.", "Give a factor such as 0.02.") from None
    return max(LEAST_VISIBILITY, math.ceil(VISIBILITY * scale))


def _connection_string(environment: Mapping[str, str]) -> str:
    """Of storage on this machine. Raises SetupFault for any other."""
    connection = environment.get(STORAGE)
    if not connection:
        raise SetupFault(f"{STORAGE} is not set.", "Set it to Azurite's connection string.")
    for client in (
        QueueServiceClient.from_connection_string(connection),
        BlobServiceClient.from_connection_string(connection),
    ):
        if not is_loopback(client.url):
            raise SetupFault(
                f"{STORAGE} names a storage account that is not on this machine.",
                "Use Azurite: this host would take the messages of the deployed app.",
            )
    return connection


def keep_telemetry_here() -> None:
    """Have the app tell nobody but this machine of itself, whatever the environment names: what a
    pretended campaign does would stand among what the deployed one does."""
    connection = os.environ.get(CONNECTION, "")
    if connection and not is_loopback(ingestion_of(connection)):
        del os.environ[CONNECTION]


# Retries after 1, 2 and 4 s; the SDK's own begin with 15 s, meant for a service far away. No proxy
# is on the way.
_STORAGE: dict[str, Any] = {
    "initial_backoff": 0,
    "increment_base": 2,
    "random_jitter_range": 0,
    "use_env_settings": False,
}


async def serve(options: Options, environment: Mapping[str, str]) -> None:
    """Runs the host until SIGTERM or SIGINT. Prints one line of JSON on standard output when it is
    ready: `url`, `master_key`, `function_key`, `functions` (how many), `worker` (its version).

    Raises SetupFault where the app, its settings or the options are not in order.
    """
    connection = _connection_string(environment)
    keep_telemetry_here()
    host_file = read_host_file(options.app)
    app = await load_app(options.app)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.leash:
        watch_leash(stop)
    async with (
        QueueServiceClient.from_connection_string(connection, **_STORAGE) as queues,
        BlobServiceClient.from_connection_string(connection, **_STORAGE) as blobs,
    ):
        host = Host(app, host_file, options, environment, queues=queues, blobs=blobs)

        def ready(url: str) -> None:
            line = {
                "url": url,
                "master_key": host.keys.master,
                "function_key": host.keys.function,
                "functions": len(app.functions),
                "worker": app.worker_version,
            }
            print(msgspec.json.encode(line).decode(), flush=True)

        await host.run(ready, stop)


def main() -> None:
    """`python -m local.host`; ends with 0 after SIGTERM, with 1 at a set-up fault."""
    parser = argparse.ArgumentParser(
        prog="python -m local.host", description=(__doc__ or "").partition("\n")[0]
    )
    root = Path(__file__).resolve().parents[1]
    add = parser.add_argument
    add("--port", type=int, default=0, help="of HTTP; 0 (the default) takes a free one")
    add("--app", type=Path, default=root, help="directory of function_app.py and host.json")
    add("--clock-file", type=Path, default=os.environ.get("CLOCK_FILE"), help="campaign time")
    add("--campaign-timers", default="", help="names, by comma, that follow campaign time")
    add("--grace", type=float, default=30, help="seconds for functions under way at the end")
    add("--leash", action="store_true", help="end when standard input closes")
    given = parser.parse_args()
    options = Options(
        app=given.app,
        port=given.port,
        clock_file=given.clock_file,
        campaign_timers=[name for name in given.campaign_timers.split(",") if name],
        grace=given.grace,
        leash=given.leash,
    )
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("azure").setLevel(logging.WARNING)
    code = 0
    try:
        asyncio.run(serve(options, os.environ))
    except SetupFault as fault:
        print(fault, file=sys.stderr)
        code = 1
    # Not by way of the interpreter's own end: it would wait for threads of functions that the
    # grace did not suffice for.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
