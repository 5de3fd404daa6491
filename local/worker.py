"""Indexes and invokes a Functions app by Microsoft's own worker library, without a host process.

azure-functions-runtime is what production runs under Python 3.13. It is asked here the way the
Functions host asks it (initialise, list the functions, invoke with trigger metadata), through its
native entry, so that neither gRPC nor the host is needed. That entry is internal to the library:
its version is pinned. The library keeps its state in modules, hence one app per process.
"""

from __future__ import annotations

import importlib
import logging
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from shared.clock import SystemClock
from shared.errors import SetupFault

# The library is untyped: whatever comes from it is Any, and stays within this file.
_runtime: Any = importlib.import_module("azure_functions_runtime")
_native: Any = importlib.import_module("azure_functions_runtime.native_invocation")
_Datum: Any = importlib.import_module("azure_functions_runtime.bindings.datumdef").Datum

WORKER_VERSION: str = importlib.import_module("azure_functions_runtime.version").VERSION
"""Of azure-functions-runtime, as it says itself."""


class Binding(msgspec.Struct, frozen=True):
    """One binding of a function, as the indexer hands it to the host.

    Attributes:
        type: such as `queueTrigger`.
        settings: the rest of it under the host's names, such as `queueName`, `authLevel`.
    """

    name: str
    type: str
    settings: Mapping[str, Any]


class FunctionInfo(msgspec.Struct, frozen=True):
    """One indexed function."""

    name: str
    function_id: str
    bindings: tuple[Binding, ...]

    @property
    def trigger(self) -> Binding:
        """The one binding that starts it; the indexer lets no function pass without."""
        return next(binding for binding in self.bindings if binding.type.endswith("Trigger"))


class HttpAnswer(msgspec.Struct, frozen=True):
    """What an HTTP function answered. A header may come more than once (Set-Cookie)."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class FunctionFailed(Exception):
    """A function raised, or broke a rule of the worker (such as returning something on a queue).

    Attributes:
        function: its name.
        what: type and text of what was raised.
        trace: the traceback, as text.
    """

    def __init__(self, function: str, what: str, trace: str = "") -> None:
        super().__init__(f"{function}: {what}")
        self.function = function
        self.what = what
        self.trace = trace


class LoadedApp:
    """An indexed app. Functions run on the event loop that awaits their invocation; those that
    are not coroutines run in the library's threads."""

    def __init__(self, functions: Mapping[str, FunctionInfo]) -> None:
        self.functions = functions
        self.worker_version = WORKER_VERSION

    async def invoke_timer(
        self, name: str, *, past_due: bool = False, status: Mapping[str, str] | None = None
    ) -> None:
        """Fire a timer. `status` is the schedule's: `Last`, `Next`, `LastUpdated` as ISO instants.

        Raises FunctionFailed.
        """
        request = {
            "Schedule": {"AdjustForDST": True},
            "ScheduleStatus": status,
            "IsPastDue": past_due,
        }
        await self._invoke(name, _json(request), {})

    async def invoke_queue(
        self,
        name: str,
        body: bytes | str,
        *,
        message_id: str | None = None,
        dequeue_count: int = 1,
        insertion_time: datetime | None = None,
        expiration_time: datetime | None = None,
        next_visible_time: datetime | None = None,
        pop_receipt: str = "",
    ) -> None:
        """Deliver a queue message; `body` is what remains after base64.

        What is not given is as of a message that was put just now and taken for the first time.
        Raises FunctionFailed.
        """
        now = SystemClock().campaign_now()
        metadata = {
            "QueueTrigger": _text(body),
            "Id": _text(message_id or str(uuid.uuid4())),
            "DequeueCount": _json(dequeue_count),
            "InsertionTime": _json(_instant(insertion_time or now)),
            "ExpirationTime": _json(_instant(expiration_time or now + timedelta(days=7))),
            "NextVisibleTime": _json(_instant(next_visible_time or now + timedelta(minutes=10))),
            "PopReceipt": _text(pop_receipt),
        }
        await self._invoke(name, _text(body), metadata)

    async def invoke_http(
        self,
        name: str,
        *,
        method: str = "GET",
        url: str = "http://localhost/",
        headers: Mapping[str, str] | None = None,
        route: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> HttpAnswer:
        """Deliver an HTTP request; `url` is absolute, `route` holds the route's parameters.

        Raises FunctionFailed, which a host answers with 500.
        """
        request = {
            "method": _text(method),
            "url": _text(url),
            "headers": _texts(headers or {}),
            "query": _texts(dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))),
            "params": _texts(route or {}),
            "body": _Datum(body, "bytes"),
        }
        return _http_answer(await self._invoke(name, _Datum(request, "http"), {}))

    async def _invoke(self, name: str, data: Any, metadata: Mapping[str, Any]) -> Any:
        function = self.functions[name]
        succeeded, answer, _outputs, what, trace = await _native.invocation_request_native(
            str(uuid.uuid4()), function.function_id, [(function.trigger.name, data)], metadata
        )
        if not succeeded:
            raise FunctionFailed(name, what, trace)
        return answer


_loaded: dict[Path, LoadedApp] = {}


async def load_app(directory: Path) -> LoadedApp:
    """Index the app whose function_app.py stands in `directory`.

    A second call for the same directory gives the same app. Raises SetupFault with the indexer's
    own words where it rejects the app or finds no function: deployed, such an app would run with
    no functions and say nothing.
    """
    directory = directory.resolve()
    if _loaded and directory not in _loaded:
        raise SetupFault("This process has loaded another app.", "Use one process per app.")
    if directory not in _loaded:
        _loaded[directory] = LoadedApp(await _index(directory))
    return _loaded[directory]


async def _index(directory: Path) -> dict[str, FunctionInfo]:
    if not (directory / "function_app.py").is_file():
        raise SetupFault(
            f"There is no function_app.py in {directory}.", "Name the directory of the app."
        )
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    # The library logs what every failed invocation raised; FunctionFailed carries it already.
    logging.getLogger("azure.functions").setLevel(logging.CRITICAL)
    _runtime.start_threadpool_executor()
    initialised = await _runtime.worker_init_request(
        _Request(
            properties={"host": "127.0.0.1", "protos": _PROTOS},
            request=_Request(
                worker_init_request=_Request(capabilities={}, function_app_directory=str(directory))
            ),
        )
    )
    if initialised.result.status != _Message.Success:
        error = initialised.result.exception
        trace = error.stack_trace.rstrip()
        raise SetupFault(
            f"The app in {directory} cannot be indexed: {error.message}\n{trace}\n",
            "Mend function_app.py or the blueprint that the last lines name.",
        )
    listed = await _runtime.functions_metadata_request(None)
    functions = [_function_info(metadata) for metadata in listed.function_metadata_results or ()]
    if not functions:
        raise SetupFault(
            f"The app in {directory} has 0 functions.",
            "Register the blueprints on the FunctionApp of function_app.py.",
        )
    return {function.name: function for function in functions}


def _function_info(metadata: Any) -> FunctionInfo:
    bindings: list[Binding] = []
    for raw in metadata.raw_bindings:
        settings = msgspec.json.decode(raw, type=dict[str, Any])
        bindings.append(Binding(settings.pop("name"), settings.pop("type"), settings))
    return FunctionInfo(metadata.name, metadata.function_id, tuple(bindings))


def _http_answer(datum: Any) -> HttpAnswer:
    if datum.type == "string":  # a function may return bare text
        return HttpAnswer(
            200, (("content-type", "text/plain; charset=utf-8"),), datum.value.encode()
        )
    answer = datum.value
    headers = [(name, header.value) for name, header in answer["headers"].items()]
    for jar in answer["cookies"] or ():
        headers += [("set-cookie", morsel.OutputString()) for morsel in jar.values()]
    return HttpAnswer(int(answer["status_code"].value), tuple(headers), answer["body"].value)


def _text(value: str | bytes) -> Any:
    return _Datum(value, "string" if isinstance(value, str) else "bytes")


def _texts(values: Mapping[str, str]) -> dict[str, Any]:
    return {name: _text(value) for name, value in values.items()}


def _json(value: object) -> Any:
    return _Datum(msgspec.json.encode(value).decode(), "json")


def _instant(moment: datetime) -> str:
    """The one ISO form that the worker reads back as UTC: offset as +00:00."""
    return moment.astimezone(UTC).isoformat()


_Request = SimpleNamespace


class _Message(SimpleNamespace):
    """Stands in for every protobuf message that the library fills while it indexes, with the
    enum members that it compares with (of BindingInfo and of StatusResult)."""

    undefined = 0
    out = 1
    inout = 2
    Failure = 0
    Success = 1


_PROTOS = SimpleNamespace(
    BindingInfo=_Message,
    FunctionMetadataResponse=_Message,
    RpcException=_Message,
    RpcFunctionMetadata=_Message,
    RpcRetryOptions=_Message,
    StatusResult=_Message,
    WorkerInitResponse=_Message,
    WorkerMetadata=_Message,
)
