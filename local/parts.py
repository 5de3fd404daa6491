"""The processes of the local system: started with a ready line, ended together, host restarted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from shared.errors import SetupFault

ROOT = Path(__file__).resolve().parents[1]
_READY_LIMIT = 60.0
_END_LIMIT = 10.0
_LAST_LINES = 15


class Part:
    """A child process that told where it is reached.

    Its standard input is a leash: it ends when ours does, however that comes about.
    """

    def __init__(self, process: asyncio.subprocess.Process, ready: Mapping[str, Any]) -> None:
        self.process = process
        self.ready = ready

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    async def ended(self) -> int:
        return await self.process.wait()

    async def close(self) -> None:
        """Ask it to end, and see to it that it does."""
        if self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(_END_LIMIT):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def start_part(
    module: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Part:
    """Start `python -m module` and wait for its ready line, one JSON object.

    Args:
        environment: added to ours.
        log: where its standard error goes; ours where None.

    Raises:
        SetupFault: it ended, or was not ready in time.
    """
    error = log.open("ab") if log else None
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments, "--leash"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=error,
            env={**os.environ, **(environment or {})},
            cwd=ROOT,
            process_group=0,  # Ctrl-C reaches us alone, and we end the parts in order
        )
    finally:
        if error:
            error.close()
    line = b""
    try:
        assert process.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_LIMIT):
                line = await process.stdout.readline()
    finally:
        if not line:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if not line:
        said = f":\n{last_lines(log)}\n" if log else "."
        raise SetupFault(f"{module} did not start{said}", "Its own words say what to do.")
    return Part(process, msgspec.json.decode(line))


@contextlib.asynccontextmanager
async def running_part(
    module: str, arguments: Sequence[str], **options: Any
) -> AsyncGenerator[Part]:
    """A part for the length of the block."""
    part = await start_part(module, arguments, **options)
    try:
        yield part
    finally:
        await part.close()


def last_lines(log: Path) -> str:
    """How a log ends; "" where there is none."""
    if not log.exists():
        return ""
    with log.open(errors="replace") as lines:
        return "".join(deque(lines, _LAST_LINES)).rstrip()


def free_port() -> int:
    """A port of the loopback address that was free just now.

    It is none of those that the system gives to whoever asks for any, which begin at 32768: one of
    these could be another's before it is listened on.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
