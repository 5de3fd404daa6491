"""The world that the functions run in, and the process that they run in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from local.parts import Part, start_part
from tests.functions.worker_process import ROOT, Answer, Indexed, Invocation
from tests.world import World, running_world


class WorkerProcess:
    """The app in its process.

    Attributes:
        functions: what the worker library has indexed, by name.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, functions: list[Indexed], log: Path
    ) -> None:
        self._process = process
        self._log = log
        self.functions = {one.name: one for one in functions}

    async def invoke(self, name: str, body: bytes = b"") -> Answer:
        """One invocation, as the host would ask for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = msgspec.json.encode(Invocation(name, body))
        self._process.stdin.write(line + b"\n")
        return msgspec.json.decode(await self._process.stdout.readline(), type=Answer)

    def log(self) -> list[str]:
        """The lines that the app has logged so far."""
        return self._log.read_text().splitlines()


@contextlib.asynccontextmanager
async def running_worker(
    directory: Path, settings: Mapping[str, str]
) -> AsyncGenerator[WorkerProcess]:
    """The app under these settings and no others."""
    log = directory / "worker.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.functions.worker_process"),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **settings},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line, log.read_text()
        yield WorkerProcess(process, msgspec.json.decode(line, type=list[Indexed]), log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def running_host(settings: Mapping[str, str]) -> AsyncGenerator[Part]:
    """The app in the local host, which serves its HTTP; its timers rest."""
    rests = {
        "SWEEP_SCHEDULE": "0 0 0 29 2 *",
        "AzureWebJobs.release_due.Disabled": "true",
        "AzureWebJobs.housekeeping.Disabled": "true",
    }
    host = await start_part("local.host", ["--app", str(ROOT)], environment={**settings, **rests})
    try:
        yield host
    finally:
        await host.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    _storage_accounts: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[World]:
    async with running_world(next(_storage_accounts), tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[WorkerProcess]:
    """The app in a process of its own, in that world."""
    async with running_worker(tmp_path_factory.mktemp("worker"), world.environment) as worker:
        yield worker
