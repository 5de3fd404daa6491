"""What the simulated services share: where they listen, how they say so, and when they end.

They listen on the loopback address only. As processes they print one line of JSON when they are
ready, and end when they are told to, or, on a leash, when whoever started them is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from shared.clock import Clock, PretendedClock, SystemClock

LOOPBACK = "127.0.0.1"
_SHUTDOWN_SECONDS = 0.1  # for requests under way at the end; one that hangs would take all of it


@asynccontextmanager
async def running_application(application: web.Application, port: int = 0) -> AsyncGenerator[str]:
    """Serve `application` for the length of the block; gives its address, without a slash at the
    end. Port 0 takes a free one."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, port).start()
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def serve(application: web.Application, *, port: int, leash: bool, **more: str) -> None:
    """Serve until SIGTERM or SIGINT, or on a leash until standard input closes. Prints
    `{"url": …}` when it is ready, with `more` beside it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if leash:
        watch_leash(stop)
    async with running_application(application, port) as url:
        print(msgspec.json.encode({"url": url, **more}).decode(), flush=True)
        await stop.wait()


def watch_leash(stop: asyncio.Event) -> None:
    """Set `stop` when standard input closes."""
    # Not by a thread: one that reads when the interpreter ends brings it down.
    loop, leash = asyncio.get_running_loop(), sys.stdin.fileno()

    def read_leash() -> None:
        if not os.read(leash, 4096):
            loop.remove_reader(leash)
            stop.set()

    loop.add_reader(leash, read_leash)


def add_serving_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that every simulated service takes."""
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 (the default) takes a free one")
    add("--clock-file", type=Path, help="campaign time; without it, real time")
    add("--leash", action="store_true", help="end when standard input closes")


def clock_of(clock_file: Path | None) -> Clock:
    """Campaign time as the local system pretends it, or real time."""
    return PretendedClock(clock_file) if clock_file else SystemClock()


async def read_json[Shape](request: web.Request, shape: type[Shape]) -> Shape:
    """The body of a request to a service's own switches. A body of another shape is answered with
    400 and what is wrong with it."""
    try:
        return msgspec.json.decode(await request.read(), type=shape)
    except msgspec.DecodeError as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from error


def json_response(content: object, status: int = 200) -> web.Response:
    """`content` as JSON."""
    return web.Response(
        body=msgspec.json.encode(content), status=status, content_type="application/json"
    )


def cut_connection(request: web.Request) -> web.Response:
    """Reset the connection, so that the caller sees ECONNRESET and no answer.

    What is returned goes nowhere; aiohttp wants something to try to send.
    """
    transport = request.transport
    if transport is not None:
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()
