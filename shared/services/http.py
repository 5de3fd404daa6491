"""One keep-alive HTTP client, and what a failure of it proves.

A POST to a provider must not be made twice by accident, so nothing is retried and no redirect is
followed, and every failure says whether the request can have reached the other side:

    NotStarted   `may_start` said no: the connection stands, nothing was written to it
    NotSent      there was no connection to write to: refused, unknown name, TLS that failed
    Unclear      all else: a timeout, a reset, a closed connection, half of an answer's head

Of aiohttp's exceptions only the ClientConnectorError family is raised before the request is
written and never after it; the tests hold every kind of failure against a server that counts what
it was sent.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import SimpleNamespace

import aiohttp
import msgspec

from shared.errors import NudgeError

IDLE_SECONDS = 5.0
"""An idle connection is closed after so long: well before the other side does, since a request on
a connection that it is just closing ends unclear."""

MAX_BODY = 1 << 20
"""Bytes of an answer that are read; the rest is left."""

LONGEST_WAIT = 86_400.0
"""Seconds. Whoever asks for a longer wait is mistaken."""


class NotStarted(NudgeError):
    """`may_start` said no; nothing of the request left."""


class NotSent(NudgeError):
    """No connection came about; nothing of the request left."""


class Unclear(NudgeError):
    """The request may or may not have arrived, and may have been acted upon."""


class Answer(msgspec.Struct, frozen=True):
    """What the other side said. Status and headers are whole; the body ends where it broke off,
    or at `MAX_BODY`. The names of headers may be asked for in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def wait(self) -> float | None:
        """Seconds that Retry-After or else X-RateLimit-Reset asks us to wait, at most
        `LONGEST_WAIT`; None where neither can be read. Dates are read by the answer's own Date: no
        clock of ours has to agree with theirs."""
        date = _http_date(self.headers.get("Date"))
        after = self.headers.get("Retry-After", "").strip()
        reset = self.headers.get("X-RateLimit-Reset", "").strip()
        until = _http_date(after)
        if after.isdecimal():
            seconds = float(after)
        elif until is not None and date is not None:
            seconds = (until - date).total_seconds()
        elif reset.isdecimal() and date is not None:
            seconds = float(reset) - date.timestamp()
        else:
            return None
        return min(max(seconds, 0.0), LONGEST_WAIT)


class HttpClient:
    """Makes POST requests of one event loop. Opens at the first request; `close` it."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        may_start: Callable[[], bool],
        timeout: float,
    ) -> Answer:
        """Make one request and read its answer, whatever its status.

        Args:
            may_start: asked once, when there is a connection (new or kept) and before the first
                byte is written to it.
            timeout: seconds for all of it, from looking for a connection to the body's end.

        Raises NotStarted, NotSent or Unclear.
        """
        try:
            async with self._open().post(
                url,
                headers=headers,
                # As a file: of raw bytes over 1 MiB aiohttp warns that they may block the loop.
                data=io.BytesIO(body),
                allow_redirects=False,
                # Without a threshold aiohttp rounds a timeout up to the next whole second.
                timeout=aiohttp.ClientTimeout(total=timeout, ceil_threshold=math.inf),
                trace_request_ctx=may_start,
            ) as response:
                return Answer(response.status, response.headers, await _read_body(response))
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"no connection ({type(error).__name__})") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unclear(f"no answer ({type(error).__name__})") from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            before_first_byte = aiohttp.TraceConfig()
            before_first_byte.on_request_headers_sent.append(_ask_may_start)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(keepalive_timeout=IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[before_first_byte],
            )
        return self._session


async def _ask_may_start(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    # Despite its name the signal fires when the head is made and before it is written: aiohttp
    # buffers it, to let it leave in one packet with the body. What is raised here ends the
    # request and closes its connection.
    if not context.trace_request_ctx():
        raise NotStarted("the time to start this request is over")


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """What can be read of the body. Its loss doesn't unsay the status, which proves enough."""
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) >= MAX_BODY:
                break
    except (aiohttp.ClientError, TimeoutError, OSError):
        pass
    return bytes(body[:MAX_BODY])


def _http_date(value: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return date if date.tzinfo is not None else None
