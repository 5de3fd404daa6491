"""How long requests took."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median, quantiles


class Latencies:
    """Seconds of many requests of one kind."""

    def __init__(self, seconds: Iterable[float]) -> None:
        found = list(seconds)
        self.count = len(found)
        self.p50 = median(found)
        self.p95 = quantiles(found, n=20, method="inclusive")[-1]

    def __str__(self) -> str:
        return f"p50 {self.p50 * 1000:,.1f} ms, p95 {self.p95 * 1000:,.1f} ms"
