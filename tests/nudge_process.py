"""`nudge local` as a process, and the processes below it, as the system shows them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path

from functions.wiring import App, build_app
from shared.settings import read_settings

NUDGE = Path(sys.executable).with_name("nudge")
PARTS = ("local.host", "local.tenant", "local.inbox", "azurite")
"""What stands in the command line of each process that a local system consists of."""

_SERVICES = (
    *("GRAPH_BASE_URL", "SENDGRID_BASE_URL", "SENDGRID_API_KEY", "SENDGRID_WEBHOOK_PUBLIC_KEY"),
    *("TWILIO_BASE_URL", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM", "AGES_SCALE"),
)


class NudgeProcess:
    """A running `nudge local`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def parts(self) -> dict[str, int]:
        """The processes below it that have begun their own program, by name of the part."""
        found: dict[str, int] = {}
        for child in children_of(self.process.pid):
            words = command_line(child)
            found |= {name: child for name in PARTS if name in words}
        return found

    async def part(self, name: str, *, other_than: int = 0) -> int:
        """Waits for a part; `other_than` is the process that it was until now."""
        return await until(lambda: (pid := self.parts().get(name)) != other_than and pid)

    async def end(self) -> tuple[int, str, str]:
        """Waits for its end: exit code, standard output, standard error."""
        async with asyncio.timeout(180):
            out, error = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), error.decode()

    @contextlib.asynccontextmanager
    async def app(self) -> AsyncGenerator[App]:
        """The product as a look from outside: on the host's storage, under the host's settings."""
        host = await self.part("local.host")
        app = build_app(read_settings(environment_of(host)))
        try:
            yield app
        finally:
            await app.close()


@contextlib.asynccontextmanager
async def running_nudge(
    *arguments: str, terminal: int | None = None, **settings: str
) -> AsyncGenerator[NudgeProcess]:
    """`nudge local` with these arguments and environment variables, ended with the block where it
    has not ended by itself.

    Args:
        terminal: where its output goes, both kinds, instead of a pipe for each.
    """
    process = await asyncio.create_subprocess_exec(
        *(str(NUDGE), "local", *arguments),
        env=environment_with(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=terminal or asyncio.subprocess.PIPE,
        stderr=terminal or asyncio.subprocess.PIPE,
    )
    try:
        yield NudgeProcess(process)
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(20):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_nudge(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `nudge` with these arguments."""
    process = await asyncio.create_subprocess_exec(
        *(str(NUDGE), *arguments),
        env=environment_with(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return await NudgeProcess(process).end()


def environment_with(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of this process, but for what would change a local run, and these."""
    kept = {name: value for name, value in os.environ.items() if name not in _SERVICES}
    return kept | dict(settings)


async def until[T](look: Callable[[], T | Awaitable[T]], *, seconds: float = 60) -> T:
    """Looks again and again until there is something to see, and gives it."""
    async with asyncio.timeout(seconds):
        while True:
            seen = look()
            if isinstance(seen, Awaitable):
                seen = await seen
            if seen:
                return seen
            await asyncio.sleep(0.02)


# --- what the system says of processes


def children_of(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # After the name, which is in brackets and may hold anything: state, parent.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid:
                    found.append(int(entry.name))
    return found


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def kill(pid: int) -> None:
    """As when the machine takes it away: no chance to tidy up."""
    os.kill(pid, signal.SIGKILL)


def listening_addresses(pid: int) -> set[str]:
    """The IP addresses at which a process listens for TCP connections."""
    inodes: set[str] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found: set[str] = set()
    for table, unpack in (("tcp", _ipv4), ("tcp6", _ipv6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(unpack(fields[1].partition(":")[0]))
    return found


def _ipv4(text: str) -> str:
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(text)))


def _ipv6(text: str) -> str:
    return f"[{text}]"
