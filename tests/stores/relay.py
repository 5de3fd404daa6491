"""A relay in front of one storage service that can lose an answer, or stand before a service that
does not answer at all.

Where an answer is lost, what the service did stands; only the caller is not told. The SDK sends the
request again, and the write meets itself.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator
from io import BytesIO
from typing import Literal

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

type Loss = Literal["cut off", "unavailable"]
"""How an answer is lost: the connection closes, or a 503 stands in its place."""

_HOP_BY_HOP = ("Host", "Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length")


class Relay:
    """What passed through, and how to lose something of it.

    Attributes:
        sizes: bytes of each request's body that changed something, in order.
        received: bytes of all answers.
        lost: how many answers were lost.
        busy: whether the service says 503 to everything.
    """

    def __init__(self, target: str, http: aiohttp.ClientSession) -> None:
        self.sizes: list[int] = []
        self.received = 0
        self.lost = 0
        self.busy = False
        self._target = target
        self._http = http
        self._loss: Loss | None = None

    def lose_next_answer(self, how: Loss) -> None:
        """The next request that changes something is carried out, and its answer lost."""
        self._loss = how

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if self.busy:
            return web.Response(status=503)
        async with self._http.request(
            request.method,
            f"{self._target}{request.raw_path}",
            headers=_end_to_end(request.headers),
            data=BytesIO(body) if body else None,
        ) as answer:
            content = await answer.read()
            self.received += len(content)
            if request.method != "GET":
                self.sizes.append(len(body))
                if self._loss:
                    how, self._loss = self._loss, None
                    self.lost += 1
                    assert answer.status < 300, "only an answer to a success is worth losing"
                    if how == "unavailable":
                        return web.Response(status=503)
                    assert request.transport
                    request.transport.close()
            return web.Response(
                status=answer.status, headers=_end_to_end(answer.headers), body=content
            )


@contextlib.asynccontextmanager
async def relaying(connection_string: str, service: str) -> AsyncGenerator[tuple[str, Relay]]:
    """A relay before one service ("Table") of an account; gives the connection string of an
    account that is reached through it."""
    found = re.search(rf"{service}Endpoint=(http://[^/;]+)", connection_string)
    assert found
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        relay = Relay(found[1], http)
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", relay.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield (
                connection_string.replace(
                    f"{service}Endpoint={found[1]}", f"{service}Endpoint={url}"
                ),
                relay,
            )
        finally:
            await runner.cleanup()


def _end_to_end(headers: CIMultiDict[str] | aiohttp.typedefs.LooseHeaders) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    for name in _HOP_BY_HOP:
        kept.popall(name, None)
    return kept
