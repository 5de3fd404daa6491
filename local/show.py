"""What a person sees of a local run on the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import aiohttp

from local.inbox import read_messages
from local.watch import Outcome, Progress

if TYPE_CHECKING:
    from local.system import LocalSystem


def describe(progress: Progress) -> str:
    """How far a run is, in a few words."""
    if progress.parcels:
        states = ", ".join(f"{n} {state}" for state, n in sorted(progress.parcels.items()))
        return f"Sending: {states} parcels"
    if progress.shards_done:
        return f"Planning: {progress.shards_done} of 16 shards"
    return f"Reading the directory: {progress.pages} pages, {progress.rows} rows"


class ProgressLine:
    """One line on standard error that is written over; nothing where that is no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()

    def show(self, progress: Progress) -> None:
        if self._on:
            self._write(describe(progress))

    def close(self) -> None:
        if self._on:
            self._write("")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def format_outcome(outcome: Outcome) -> str:
    """The figures of a run as a table."""
    sweep, parcels = outcome.sweep, outcome.parcels
    rows: list[tuple[str, int | str]] = [
        ("alumni accounts found", sweep.roster),
        ("  registered", sweep.registered),
        ("  unregistered", sweep.unregistered),
        ("    of them with no usable contact", sweep.unreachable),
        ("  unknown (no report row)", sweep.unknown),
        ("  unrecognised (method types we don't know)", sweep.unrecognised),
        ("  excluded", sweep.excluded),
        ("parcels planned", parcels.planned),
        ("  due later", parcels.scheduled),
        ("  accepted", parcels.accepted),
        ("  rejected", parcels.rejected),
        ("  ambiguous", parcels.ambiguous),
        ("  expired", parcels.expired),
        ("people written to by email", outcome.recipients.email),
        ("people written to by SMS", outcome.recipients.sms),
        ("seconds", f"{outcome.seconds:.1f}"),
    ]
    return "\n".join(f"{name:<46}{value:>8}" for name, value in rows)


async def one_mail(system: LocalSystem) -> str | None:
    """The text part of one of the mails in the simulated inbox, with its subject."""
    if system.inbox_url is None:
        return None
    async with aiohttp.ClientSession() as http:
        found = await read_messages(http, system.inbox_url, limit=1)
    if not (mails := found.messages):
        return None
    return f"Subject: {mails[0].subject}\n\n{mails[0].text}"
