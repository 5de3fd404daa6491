"""How metrics, spans and log events leave the process: for Application Insights, and late.

Nothing of it may hold up the product or harm it. The exporter takes a second to import, so that a
thread sets it up: at the first message or timer, which waits for it, or after the first page, which
does not. What is told before that is kept for it. From then on everything is exported by threads of
the library's own, out of queues of limited length; what cannot be exported is dropped in the end.

Only what the product itself tells is exported, and that names nobody. Libraries would trace each of
their requests, whose addresses may name somebody: all of that is switched off.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from logging.handlers import MemoryHandler
from typing import TYPE_CHECKING, Any, cast

from shared import __version__
from shared.clock import monotonic
from shared.settings import is_loopback
from shared.telemetry import RUNS, SCOPE, start_counting

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

CONNECTION = "APPLICATIONINSIGHTS_CONNECTION_STRING"
_CREDENTIAL, _CLIENT_ID = "AzureWebJobsStorage__credential", "AzureWebJobsStorage__clientId"

MOST_SETUP_SECONDS = 30.0
"""How long after the beginning of its set-up messages wait for telemetry, all of them together;
then they are worked on without."""

_LOOK_SECONDS = 0.02
"""How often a message that waits looks whether that has ended."""

FLUSH_SECONDS = 5.0
"""How long the end of a process waits until what it has told is on its way."""

LIBRARIES = (
    *("azure_sdk", "django", "fastapi", "flask", "psycopg2"),
    *("requests", "urllib", "urllib3", "httpx", "httpx2"),
)
"""All that would be traced unless it is switched off."""

_SWITCHES = {
    # What the exporter would tell Microsoft of itself, or ask them for, by requests of its own.
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED": "true",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
    "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED": "true",
    # Without it the library asks the address at which a virtual machine would describe itself.
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "azure_functions",
}

log = logging.getLogger(__name__)
_events = logging.getLogger(SCOPE)


class Telemetry:
    """The export of this process, set up once.

    Args:
        environment: where the connection string stands; without one nothing is exported.
        export: sets the exporter up, however long that takes.
        most_seconds: after the beginning of that nobody waits for it.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        export: Callable[[Mapping[str, str]], None] | None = None,
        most_seconds: float = MOST_SETUP_SECONDS,
    ) -> None:
        self._environment = environment
        self._export = export or export_to_azure_monitor
        self._most_seconds = most_seconds
        self._begun_at = 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._early_events = MemoryHandler(capacity=1, flushLevel=logging.CRITICAL + 1)

    @property
    def wanted(self) -> bool:
        """Whether there is somebody to export to."""
        return bool(self._environment.get(CONNECTION, "").strip())

    def listen(self) -> None:
        """Keep events for the exporter until there is one."""
        with self._lock:
            if self.wanted and self._thread is None:
                _events.addHandler(self._early_events)

    def start(self) -> None:
        """Begin to set the exporter up, in a thread, unless that has been begun."""
        if not self.wanted or self._thread is not None:
            return
        self.listen()
        with self._lock:
            if self._thread is None:
                self._begun_at = monotonic()
                self._thread = threading.Thread(target=self._set_up, daemon=True)
                self._thread.start()

    async def ready(self) -> None:
        """Wait until the exporter is set up, if there is to be one and it is not overdue."""
        self.start()
        while (
            (thread := self._thread)
            and thread.is_alive()
            and monotonic() - self._begun_at < self._most_seconds
        ):
            # Not `join` in a thread: a set-up that hangs would hold one for each message.
            await asyncio.sleep(_LOOK_SECONDS)

    def _set_up(self) -> None:
        try:
            self._export(self._environment)
        except Exception as error:  # of any kind: the product goes on without
            shut_down()
            log.warning(
                "Nothing is told to Application Insights (%s). Fix: set %s to the connection "
                "string of the component, as the portal shows it.",
                type(error).__name__,
                CONNECTION,
            )
        else:
            start_counting()
            self._hand_over()
        finally:
            _events.removeHandler(self._early_events)

    def _hand_over(self) -> None:
        """Give the exporter what was told before it was there."""
        self._early_events.acquire()
        try:
            early, self._early_events.buffer = self._early_events.buffer, []
            _events.removeHandler(self._early_events)
        finally:
            self._early_events.release()
        for record in early:
            for handler in _events.handlers:
                handler.handle(record)


def export_to_azure_monitor(environment: Mapping[str, str]) -> None:
    """Export metrics, spans and events of this process from now on; see docs/decisions/0021.

    Raises whatever the library raises, such as for a connection string that is none.
    """
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    for noisy in ("azure.monitor.opentelemetry", "azure.core.pipeline.policies"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _events.setLevel(logging.INFO)

    from azure.monitor.opentelemetry import configure_azure_monitor
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import (
        TracerProvider,
        _TracerConfig,  # pyright: ignore[reportPrivateUsage]
    )

    connection = environment[CONNECTION].strip()
    configure_azure_monitor(
        connection_string=connection,
        credential=credential_for(connection, environment),
        logger_name=SCOPE,
        resource=Resource({"service.version": __version__}),
        enable_live_metrics=False,
        enable_performance_counters=False,
        # An event is exported whatever becomes of its trace: alarms are events.
        enable_trace_based_sampling_for_logs=False,
        instrumentation_options={name: {"enabled": False} for name in LIBRARIES},
    )
    # The Graph SDK makes five spans for each request, and has no switch for them.
    provider = cast("TracerProvider", trace.get_tracer_provider())
    provider._set_tracer_configurator(  # pyright: ignore[reportPrivateUsage]
        tracer_configurator=lambda scope: _TracerConfig(is_enabled=scope.name == SCOPE)
    )


def credential_for(connection: str, environment: Mapping[str, str]) -> TokenCredential | None:
    """The app's identity where that opens storage, too; no token goes to this machine itself."""
    managed = environment.get(_CREDENTIAL, "").strip().lower() == "managedidentity"
    if not managed or is_loopback(ingestion_of(connection)):
        return None
    from azure.identity import ManagedIdentityCredential

    return ManagedIdentityCredential(client_id=environment.get(_CLIENT_ID, "").strip() or None)


def ingestion_of(connection: str) -> str:
    """The address that a connection string sends to; "" where it names none."""
    for part in connection.split(";"):
        name, _, value = part.partition("=")
        if name.strip().lower() == "ingestionendpoint":
            return value.strip()
    return ""


def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Export what has been told, and wait for it so long. Whoever calls is about to end."""
    flusher = threading.Thread(target=_each_provider, args=("force_flush",), daemon=True)
    flusher.start()
    flusher.join(seconds)


def shut_down() -> None:
    """Export nothing any more."""
    threading.Thread(target=_each_provider, args=("shutdown",), daemon=True).start()


def _each_provider(method: str) -> None:
    from opentelemetry import metrics, trace
    from opentelemetry._logs import get_logger_provider

    for provider in (
        get_logger_provider(),
        metrics.get_meter_provider(),
        trace.get_tracer_provider(),
    ):
        if call := getattr(provider, method, None):  # the interface's own have neither
            try:
                call()
            except Exception as error:  # of any kind: the others are to have their turn
                log.warning("%s of telemetry: %s", method, type(error).__name__)


telemetry = Telemetry(os.environ)
"""Of this process."""


def observed[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Counts the invocations of a function, and has telemetry set up by the first of them.

    A timer or a message waits for that; somebody who waits for a page does not.
    """
    name = function.__name__
    is_page = "req" in inspect.signature(function).parameters

    if not inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            outcome = "failed"
            try:
                answer = function(*args, **kwargs)
                outcome = "ok"
                return answer
            finally:
                RUNS.add(1, function=name, outcome=outcome)
                telemetry.start()

        return counted

    waited_for = cast("Callable[P, Awaitable[Any]]", function)

    @functools.wraps(function)
    async def counted_later(*args: P.args, **kwargs: P.kwargs) -> Any:
        telemetry.listen()
        if not is_page:
            await telemetry.ready()
        outcome = "failed"
        try:
            answer = await waited_for(*args, **kwargs)
            outcome = "ok"
            return answer
        finally:
            RUNS.add(1, function=name, outcome=outcome)
            telemetry.start()

    return cast("Callable[P, R]", counted_later)
