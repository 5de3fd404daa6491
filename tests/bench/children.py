"""Child processes of a benchmark: they print JSON objects, one a line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from local.parts import ROOT


async def run_child(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> Any:
    """Run `python -m module` to its end. Returns what it printed; raises RuntimeError where it
    failed."""
    return await _run("-m", module, *arguments, environment=environment)


async def run_code(code: str) -> Any:
    """Run a piece of Python, as `run_child` does a module."""
    return await _run("-c", code)


@asynccontextmanager
async def running_child(
    module: str, *arguments: str
) -> AsyncGenerator[Callable[[], Coroutine[Any, Any, Any]]]:
    """`python -m module` for the length of the block: what is given answers a line on its standard
    input with one JSON object, as often as it is awaited."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    asked, answers = process.stdin, process.stdout

    async def ask() -> Any:
        asked.write(b"\n")
        return json.loads(await answers.readline())

    try:
        yield ask
    finally:
        asked.close()
        await process.wait()


async def _run(*arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"python {' '.join(arguments[:2])} failed; its own words stand above")
    return json.loads(output)
