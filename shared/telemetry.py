"""What is counted and traced of the product's work: metrics with stable names, and spans.

| metric | attributes | what it says |
| --- | --- | --- |
| `heartbeat` | | 1 for every run of `release_due`, however it ended |
| `runs` | `function`, `outcome`: `ok` or `failed` | 1 for every invocation |
| `queue_length` | `queue` | messages of each queue and poison queue, as of a minute's tick |
| `alarms` | `alarm`; `about`: campaign, touch, channel, queue; `campaign` | 1 for every alarm |
| `refused` | `service`: `graph`, `sendgrid`, `twilio`; `status`: 401, 403 | 1 for such an answer |
| `parcels` | `campaign`, `channel`, `outcome` | 1 for every call that ended, see `PARCELS` |
| `recipients` | `campaign`, `touch`, `channel` | people whose parcel was accepted |
| `people` | `campaign`, `kind` | what the verdict was given on, see `PEOPLE` |
| `sweep_age` | | hours since the last committed sweep was opened, as of a minute's tick |

Nothing here names a person: no attribute holds an id, an address, a number, a link or a text from
outside. These are figures for people who watch; what the product decides by stands in the ledger.

This is OpenTelemetry's interface alone. Where nothing exports (functions/telemetry.py), all of it
comes to nothing and costs next to nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Literal

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
)

from shared.names import NAMES

SCOPE = "mfa_nudge"
"""Of our own instruments and spans, as opposed to those of libraries."""

_MOST_EARLY = 1000
"""Counts that are kept until somebody exports; where nobody ever does, that is all they take."""

_meter = metrics.get_meter(SCOPE)
_tracer = trace.get_tracer(SCOPE)

# --- metrics -------------------------------------------------------------------------------------


class _Early:
    """What was counted before anybody exported: to set an exporter up takes a second, and a page is
    answered before that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[tuple[Counter, int, dict[str, str | int]]] = deque(maxlen=_MOST_EARLY)
        self._over = False

    def keep(self, counter: Counter, number: int, attributes: dict[str, str | int]) -> bool:
        """Returns whether it is kept; it is to be counted at once otherwise."""
        if self._over:
            return False
        with self._lock:
            if not self._over:
                self._kept.append((counter, number, attributes))
            return not self._over

    def end(self) -> None:
        with self._lock:
            self._over = True
        for counter, number, attributes in self._kept:
            counter.add(number, **attributes)
        self._kept.clear()


_early = _Early()


class Counter:
    """Sums up what happens: an export holds what was added since the one before."""

    def __init__(self, name: str) -> None:
        self._counter = _meter.create_counter(name)

    def add(self, number: int, **attributes: str | int) -> None:
        if not _early.keep(self, number, attributes):
            self._counter.add(number, attributes)


class Gauge:
    """Says how much there is: an export holds what was set last, if anything was since the one
    before.

    The library's own gauge repeats its last value for as long as the process lives: one instance
    would go on telling the lengths of queues that another one has measured since.
    """

    def __init__(self, name: str) -> None:
        self._values: dict[tuple[tuple[str, str], ...], float] = {}
        self._lock = threading.Lock()  # exports have a thread of their own
        _meter.create_observable_gauge(name, callbacks=[self._observe])

    def set(self, value: float, **attributes: str) -> None:
        with self._lock:
            self._values[tuple(attributes.items())] = value

    def _observe(self, options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            values, self._values = self._values, {}
        return [Observation(value, dict(attributes)) for attributes, value in values.items()]


def start_counting() -> None:
    """Somebody exports from now on: count what was kept for them, and everything else at once."""
    _early.end()


HEARTBEAT = Counter(NAMES.metrics.heartbeat)
RUNS = Counter(NAMES.metrics.runs)
QUEUE_LENGTH = Gauge(NAMES.metrics.queue_length)
ALARMS = Counter(NAMES.metrics.alarms)
REFUSED = Counter(NAMES.metrics.refused)

PARCELS = Counter(NAMES.metrics.parcels)
"""Outcomes: `accepted`, by the call or by a receipt; `ambiguous`; `rejected`, for what or who is in
the parcel; `returned`, for something that would meet any other parcel, too, such as a limit or a
key; `fault`, of our own before the call."""

RECIPIENTS = Counter(NAMES.metrics.recipients)

PEOPLE = Gauge(NAMES.metrics.people)
"""Kinds: `roster`, and what it is made up of: `registered`, `unregistered`, `unknown`,
`unrecognised`, `excluded`; `unreachable` is a part of `unregistered`."""

SWEEP_AGE = Gauge(NAMES.metrics.sweep_age)


def note_refusal(service: Literal["Graph", "SendGrid", "Twilio"], status: int) -> None:
    """Count an answer that refuses us, and not what was asked: 401 or 403. Others are none."""
    if status in (401, 403):
        REFUSED.add(1, service=service.lower(), status=status)


# --- spans ---------------------------------------------------------------------------------------

_TRACE_BYTES, _SPAN_BYTES = 16, 8


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, str | int] | None = None,
    *,
    within: bytes = b"",
    links: Iterable[bytes] = (),
) -> Generator[Span]:
    """A piece of work with its duration, as part of a trace.

    An exception marks it as failed by its type alone: its words may hold what others sent.

    Args:
        within: the trace that it belongs to, from `current_trace` of whoever began it. Without one
            it belongs to what is under way here.
        links: other traces that it has to do with, from `current_trace`; the same twice is one.
    """
    around = trace.get_current_span().get_span_context()
    linked = [Link(one) for other in dict.fromkeys(links) if (one := _unpack(other))]
    parent = _unpack(within)
    context = None
    if parent and parent.trace_id != around.trace_id:
        context = trace.set_span_in_context(NonRecordingSpan(parent))
        if around.is_valid:
            linked.append(Link(around))
    with _tracer.start_as_current_span(
        name,
        context=context,
        links=linked,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as one:
        try:
            yield one
        except BaseException as error:
            one.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def current_trace() -> bytes:
    """What later spans name this one by: trace and span, 24 bytes. b"" where it is not exported,
    since nobody would find it."""
    context = trace.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return b""
    return context.trace_id.to_bytes(_TRACE_BYTES) + context.span_id.to_bytes(_SPAN_BYTES)


def _unpack(packed: bytes) -> SpanContext | None:
    """None for anything that `current_trace` has not made."""
    if len(packed) != _TRACE_BYTES + _SPAN_BYTES:
        return None
    context = SpanContext(
        int.from_bytes(packed[:_TRACE_BYTES]),
        int.from_bytes(packed[_TRACE_BYTES:]),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return context if context.is_valid else None
