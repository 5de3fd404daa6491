"""The app in a process of its own, indexed and invoked by Microsoft's worker library.

A program: it reads one invocation a line from standard input and answers each with one line, both
JSON. The first line that it prints lists the functions that the library has indexed. What the app
logs goes to standard error.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import msgspec

from local.worker import FunctionFailed, HttpAnswer, LoadedApp, load_app

ROOT = Path(__file__).resolve().parents[2]


class Invocation(msgspec.Struct, frozen=True):
    """What to invoke; `body` is a queue message's."""

    name: str
    body: bytes = b""


class Answer(msgspec.Struct, frozen=True):
    """What came of it: `failed` holds type and text of what was raised."""

    failed: str = ""
    http: HttpAnswer | None = None


class Indexed(msgspec.Struct, frozen=True):
    """A function as the library lists it, its bindings as the host gets them."""

    name: str
    bindings: list[dict[str, object]]


async def invoke(app: LoadedApp, wanted: Invocation) -> Answer:
    trigger = app.functions[wanted.name].trigger.type
    try:
        match trigger:
            case "timerTrigger":
                await app.invoke_timer(wanted.name)
            case "queueTrigger":
                await app.invoke_queue(wanted.name, wanted.body)
            case _:
                return Answer(http=await app.invoke_http(wanted.name))
    except FunctionFailed as failure:
        return Answer(failed=failure.what)
    return Answer()


async def run() -> None:
    app = await load_app(ROOT)
    indexed = [
        Indexed(one.name, [{"name": b.name, "type": b.type, **b.settings} for b in one.bindings])
        for one in app.functions.values()
    ]
    print(msgspec.json.encode(indexed).decode(), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        answer = await invoke(app, msgspec.json.decode(line, type=Invocation))
        print(msgspec.json.encode(answer).decode(), flush=True)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("azure").setLevel(logging.WARNING)
    asyncio.run(run())
