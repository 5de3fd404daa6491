"""Azurite, Microsoft's storage emulator: installed once, started on free ports, surely ended.

Azurite is a Node program, which npm puts into `.azurite/` of the project. Every start has an
account key of its own, so that nobody else on the machine can read what one run stores; it travels
in the environment, not in the arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import re
import secrets
import signal
import sys
import tempfile
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from local.node import NODE, ensure_installed
from shared.errors import SetupFault

AZURITE_VERSION = "3.37.0"
ACCOUNT = "mfanudge"
"""The account name stands in what Azurite keeps on disk, so it is the same at each start."""

_HOME = Path(__file__).resolve().parents[1] / ".azurite"

# Azurite must not outlive who started it, not even when that is killed: its standard input is a
# pipe whose other end only the parent holds. At its end Azurite closes as at SIGTERM, which writes
# to disk what it keeps in memory for up to 5 s; what has not closed by then is ended.
_LEASH = """
process.stdin.on("end", () => {
  process.kill(process.pid, "SIGTERM");
  setTimeout(() => process.exit(1), 5000).unref();
}).resume().unref();
require(process.argv[1]);
"""

_LISTENING = re.compile(r"Azurite (Blob|Queue|Table) service is successfully listening at (\S+)")
_START_LIMIT = 60.0  # seconds; it takes 2, but machines may be busy
_CLOSE_LIMIT = 10.0


class Azurite(msgspec.Struct, frozen=True):
    """A running Azurite.

    Attributes:
        connection_strings: one for each account; accounts share nothing but the process.
    """

    connection_strings: tuple[str, ...]
    process: asyncio.subprocess.Process

    @property
    def connection_string(self) -> str:
        """Of the first account."""
        return self.connection_strings[0]

    async def ended(self) -> int:
        """Waits until the process has ended, by itself or not; gives its exit code."""
        return await self.process.wait()


def ensure_azurite() -> Path:
    """The program's main file, installed first where it is missing (about half a minute).

    Raises SetupFault.
    """
    ensure_installed(
        _HOME, {"azurite": AZURITE_VERSION}, command="python -m local.azurite --install"
    )
    return _HOME / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"


@contextlib.asynccontextmanager
async def running_azurite(
    directory: Path | None = None, *, accounts: int = 1
) -> AsyncGenerator[Azurite]:
    """Runs Azurite for the length of the block, on loopback, ports as the system gives them.

    Args:
        directory: where it keeps its data, found again by a later run; None keeps them in memory.
        accounts: how many storage accounts it has.

    Raises SetupFault where Azurite cannot be installed or does not start.
    """
    program = await asyncio.to_thread(ensure_azurite)
    keys = {
        f"{ACCOUNT}{number or ''}": base64.b64encode(secrets.token_bytes(64)).decode()
        for number in range(accounts)
    }
    with tempfile.TemporaryDirectory(prefix="azurite-") as scratch:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(str(NODE), "-e", _LEASH, str(program), "--silent", "--disableTelemetry"),
            *("--skipApiVersionCheck", "--disableProductStyleUrl"),
            *("--blobPort", "0", "--queuePort", "0", "--tablePort", "0"),
            # Longer than any client keeps a connection: the server never closes one under a
            # request that is just leaving.
            *("--blobKeepAliveTimeout", "600", "--queueKeepAliveTimeout", "600"),
            *("--tableKeepAliveTimeout", "600"),
            *(
                ("--inMemoryPersistence",)
                if directory is None
                else ("--location", str(directory.resolve()))
            ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": scratch,
                "AZURITE_ACCOUNTS": ";".join(f"{name}:{key}" for name, key in keys.items()),
            },
            cwd=scratch,
            process_group=0,  # Ctrl-C in a terminal reaches us, and we close it after the others
        )
        ready = asyncio.get_running_loop().create_future()
        output = asyncio.create_task(_read_output(process, ready))
        try:
            async with asyncio.timeout(_START_LIMIT):
                endpoints = await ready
            connections = (_connection_string(endpoints, *account) for account in keys.items())
            yield Azurite(tuple(connections), process)
        finally:
            await _close(process, signal.SIGKILL if directory is None else signal.SIGTERM)
            await output


async def _read_output(
    process: asyncio.subprocess.Process, ready: asyncio.Future[dict[str, str]]
) -> None:
    """Reads what Azurite prints for as long as it runs, since a full pipe would stop it; tells
    `ready` the three addresses."""
    endpoints: dict[str, str] = {}
    last_lines: deque[str] = deque(maxlen=20)
    assert process.stdout is not None
    async for line in process.stdout:
        last_lines.append(line.decode(errors="replace").rstrip())
        if found := _LISTENING.match(last_lines[-1]):
            endpoints[found[1]] = found[2]
            if len(endpoints) == 3 and not ready.done():
                ready.set_result(endpoints)
    if not ready.done():
        said = "\n".join(last_lines)
        ready.set_exception(
            SetupFault(
                f"Azurite ended before it listened:\n{said}",
                "Mend what it says; a broken installation is made anew after `rm -r .azurite`.",
            )
        )


async def _close(process: asyncio.subprocess.Process, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(how)
    try:
        async with asyncio.timeout(_CLOSE_LIMIT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _connection_string(endpoints: dict[str, str], account: str, key: str) -> str:
    addresses = "".join(
        f"{service}Endpoint={address}/{account};" for service, address in endpoints.items()
    )
    return f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};{addresses}"


async def _run(directory: Path | None, accounts: int) -> None:
    async with running_azurite(directory, accounts=accounts) as azurite:
        ready = {"connection_strings": azurite.connection_strings}
        print(msgspec.json.encode(ready).decode())
        sys.stdout.flush()
        await azurite.ended()


def main() -> None:
    """`python -m local.azurite --install` only installs; without it, runs until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m local.azurite", description=__doc__)
    parser.add_argument("--install", action="store_true", help="install if missing, then end")
    parser.add_argument("--location", type=Path, help="keep data in this directory, not in memory")
    parser.add_argument("--accounts", type=int, default=1, help="how many storage accounts (1)")
    arguments = parser.parse_args()
    try:
        if arguments.install:
            ensure_azurite()
        else:
            asyncio.run(_run(arguments.location, arguments.accounts))
    except SetupFault as fault:
        sys.exit(str(fault))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
