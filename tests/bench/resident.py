"""The resident memory of this process, in bytes: now, and the most since a moment."""

from __future__ import annotations

import gc
from pathlib import Path

_SELF = Path("/proc/self")


def begin() -> int:
    """What is resident now, without garbage; the high-water mark starts from here."""
    gc.collect()
    (_SELF / "clear_refs").write_text("5")
    return _read("VmRSS")


def most() -> int:
    """The high-water mark."""
    return _read("VmHWM")


def _read(name: str) -> int:
    for line in (_SELF / "status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise LookupError(name)
