"""What a person sees of a local run on the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import aiohttp

from local.watch import Outcome, Progress

if TYPE_CHECKING:
    from local.system import LocalSystem


class ProgressLine:
    """One line on standard error that is written over; nothing where that is no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()

    def show(self, progress: Progress) -> None:
        if not self._on:
            return
        if progress.parcels:
            states = ", ".join(f"{n} {state}" for state, n in sorted(progress.parcels.items()))
            text = f"Sending: {states} parcels"
        elif progress.shards_done:
            text = f"Planning: {progress.shards_done} of 16 shards"
        else:
            text = f"Reading the directory: {progress.pages} pages, {progress.rows} rows"
        self._write(text)

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
        ("seconds", f"{outcome.seconds:.1f}"),
    ]
    return "\n".join(f"{name:<46}{value:>8}" for name, value in rows)


async def one_mail(system: LocalSystem) -> str | None:
    """The text part of one of the mails in the simulated inbox, with its subject."""
    if system.inbox_url is None:
        return None
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{system.inbox_url}/messages", params={"limit": "1"}) as answer,
    ):
        found = await answer.json()
    if not (messages := found["messages"]):
        return None
    return f"Subject: {messages[0]['subject']}\n\n{messages[0]['text']}"
