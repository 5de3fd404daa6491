"""People who press the button, whoever else is busy: they arrive at even intervals.

    python -m tests.bench.confirmers URL SECONDS PATHS

`PATHS` is a JSON list of groups of paths. For each line of standard input the next group posts to
its paths, within so many seconds, and its latencies are printed as a JSON list of seconds. They
count from when somebody was to arrive, so that a slow answer does not spare those behind it.
"""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp

from shared.clock import monotonic


async def serve(url: str, seconds: float, groups: list[list[str]]) -> None:
    """Raises where an answer is not 200."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, raise_for_status=True) as http:
        for paths in groups:
            if not sys.stdin.readline():
                return
            print(json.dumps(await _confirm(http, seconds, paths)), flush=True)


async def _confirm(http: aiohttp.ClientSession, seconds: float, paths: list[str]) -> list[float]:
    began = monotonic()

    async def confirm(number: int, path: str) -> float:
        arrives = began + seconds * number / len(paths)
        await asyncio.sleep(max(0.0, arrives - monotonic()))
        async with http.post(path) as answer:
            await answer.read()
        return monotonic() - arrives

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(confirm(*numbered)) for numbered in enumerate(paths)]
    return [task.result() for task in tasks]


if __name__ == "__main__":
    url, seconds, paths = sys.argv[1:]
    asyncio.run(serve(url, float(seconds), json.loads(paths)))
