"""Where a process spends its processor time: samples of it, by area of the code.

The system interrupts the process for each stretch of processor time that it has used; whoever is
innermost of those that an area knows is where it was used. What the interpreter's own library and
libraries below an area's do is the area's that asked for it.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import msgspec

_EVERY = 0.002
"""Seconds of processor time; the system's own clock may be coarser."""

_AREAS = (
    ("/shared/messages/", "words and personal values"),
    ("/shared/rules/links.py", "sealing links"),
    ("/sendgrid/helpers/", "the sendgrid package"),
    ("/shared/services/senders/", "the call's limits and JSON"),
    ("/shared/services/http.py", "HTTP to the provider"),
    ("/azure/data/tables/", "storage SDK: tables"),
    ("/azure/storage/queue/", "storage SDK: queues"),
    ("/azure/storage/blob/", "storage SDK: blobs"),
    ("/shared/", "the product's own steps"),
)
_LOOP = "event loop and sockets"


class Areas(msgspec.Struct):
    """Seconds of processor time, and samples of it by area."""

    seconds: float = 0
    samples: Counter[str] = msgspec.field(default_factory=Counter[str])

    def __str__(self) -> str:
        """The areas with their shares, the largest first."""
        total = self.samples.total()
        return ", ".join(f"{name} {n / total:.0%}" for name, n in self.samples.most_common())

    @contextmanager
    def sampled(self) -> Generator[None]:
        """Take samples for the length of the block; for the main thread."""

        def take(_number: int, frame: FrameType | None) -> None:
            self.samples[_area_of(frame)] += 1

        previous = signal.signal(signal.SIGPROF, take)
        signal.setitimer(signal.ITIMER_PROF, _EVERY, _EVERY)
        began = time.process_time()
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.seconds += time.process_time() - began
            signal.signal(signal.SIGPROF, previous)


def _area_of(frame: FrameType | None) -> str:
    while frame:
        file = frame.f_code.co_filename
        for part, name in _AREAS:
            if part in file:
                return name
        frame = frame.f_back
    return _LOOP
