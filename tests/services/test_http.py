"""What a failed request proves, held against servers that count what they were sent."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from shared.services.http import (
    IDLE_SECONDS,
    MAX_BODY,
    Answer,
    HttpClient,
    NotSent,
    NotStarted,
    Unclear,
)

BODY = b"x" * 1000
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nX-Message-Id: m1\r\n\r\n"

type Talk = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server's side of one connection, and what it has read of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.read = b""

    async def read_request(self) -> None:
        self.read += await self._reader.readuntil(b"\r\n\r\n")
        self.read += await self._reader.readexactly(len(BODY))

    async def read_all(self) -> None:
        self.read += await self._reader.read()

    async def say(self, words: bytes) -> None:
        self._writer.write(words)
        await self._writer.drain()

    def reset(self) -> None:
        connection: socket.socket = self._writer.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()


class Server:
    """Where it listens, and every connection that was made to it."""

    def __init__(self) -> None:
        self.url = ""
        self.peers: list[Peer] = []

    @property
    def received(self) -> bytes:
        return b"".join(peer.read for peer in self.peers)


@asynccontextmanager
async def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Server]:
    server = Server()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        server.peers.append(peer)
        try:
            await talk(peer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    host, port = listener.sockets[0].getsockname()
    server.url = f"{'https' if tls else 'http'}://{host}:{port}/v3/mail/send"
    try:
        yield server
    finally:
        listener.close()


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


async def post(
    client: HttpClient,
    url: str,
    *,
    may_start: Callable[[], bool] = lambda: True,
    timeout: float = 5,
) -> Answer:
    return await client.post(
        url, headers={"X-Test": "1"}, body=BODY, may_start=may_start, timeout=timeout
    )


async def close_at_once(peer: Peer) -> None:
    await peer.close()


async def reset_at_once(peer: Peer) -> None:
    peer.reset()


async def reset_after_reading(peer: Peer) -> None:
    await peer.read_request()
    peer.reset()


async def close_after_reading(peer: Peer) -> None:
    await peer.read_request()


async def hang(peer: Peer) -> None:
    await peer.read_request()
    await peer.read_all()


async def half_a_status(peer: Peer) -> None:
    await peer.read_request()
    await peer.say(b"HTTP/1.1 202 Acc")


async def half_a_head(peer: Peer) -> None:
    await peer.read_request()
    await peer.say(b"HTTP/1.1 202 Accepted\r\nX-Message-Id: m1\r\n")


async def not_http(peer: Peer) -> None:
    await peer.read_request()
    await peer.say(b"220 mail.example ESMTP\r\n")


@pytest.mark.parametrize(
    "talk",
    [
        close_at_once,
        reset_at_once,
        reset_after_reading,
        close_after_reading,
        hang,
        half_a_status,
        half_a_head,
        not_http,
    ],
)
@pytest.mark.invariant(1)
async def test_once_there_is_a_connection_a_failure_proves_nothing(
    client: HttpClient, talk: Talk
) -> None:
    async with serving(talk) as server:
        with pytest.raises(Unclear):
            await post(client, server.url, timeout=0.2)

        assert len(server.peers) == 1, "the request was made again"


async def refused(_client: HttpClient) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


async def unknown_name(_client: HttpClient) -> str:
    return "http://nowhere.invalid/"


@pytest.mark.parametrize("unreachable", [refused, unknown_name])
async def test_without_a_connection_nothing_was_sent(
    client: HttpClient, unreachable: Callable[[HttpClient], Awaitable[str]]
) -> None:
    asked: list[bool] = []

    with pytest.raises(NotSent):
        await post(client, await unreachable(client), may_start=lambda: not asked.append(True))

    assert asked == []


async def no_tls(peer: Peer) -> None:
    await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await peer.read_all()


@pytest.mark.parametrize("talk", [no_tls, close_at_once, reset_at_once])
async def test_a_failed_tls_handshake_has_sent_nothing(client: HttpClient, talk: Talk) -> None:
    async with serving(talk) as server:
        with pytest.raises(NotSent):
            await post(client, server.url.replace("http:", "https:"))

        assert b"POST" not in server.received
        assert len(server.peers) == 1


async def accept_each(peer: Peer) -> None:
    while True:
        await peer.read_request()
        await peer.say(ACCEPTED)


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    client: HttpClient, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    async with serving(accept_each, tls) as server:
        with pytest.raises(NotSent, match="Certificate"):
            await post(client, server.url)

        assert server.received == b""


@pytest.mark.invariant(1)
async def test_a_no_stops_a_new_connection_before_the_first_byte(client: HttpClient) -> None:
    async with serving(hang) as server:
        with pytest.raises(NotStarted):
            await post(client, server.url, may_start=lambda: False)

        await asyncio.sleep(0.05)
        assert server.received == b""


@pytest.mark.invariant(1)
async def test_a_no_stops_a_kept_connection_before_the_first_byte(client: HttpClient) -> None:
    async with serving(accept_each) as server:
        await post(client, server.url)
        before = server.received

        with pytest.raises(NotStarted):
            await post(client, server.url, may_start=lambda: False)

        await asyncio.sleep(0.05)
        assert server.received == before
        assert len(server.peers) == 1, "the question was not asked of the kept connection"


async def test_the_question_is_asked_once_for_each_request(client: HttpClient) -> None:
    asked: list[str] = []

    async with serving(accept_each) as server:
        for name in ("new connection", "kept connection"):
            await post(client, server.url, may_start=lambda name=name: not asked.append(name))

    assert asked == ["new connection", "kept connection"]


async def test_connections_are_kept_and_used_again(client: HttpClient) -> None:
    async with serving(accept_each) as server:
        answers = [await post(client, server.url) for _ in range(5)]

        assert len(server.peers) == 1
    assert {(answer.status, answer.headers["x-message-id"]) for answer in answers} == {(202, "m1")}


async def test_a_connection_that_dies_under_the_request_is_not_replaced(client: HttpClient) -> None:
    async def die_at_the_second(peer: Peer) -> None:
        await peer.read_request()
        await peer.say(ACCEPTED)
        await peer.read_request()
        peer.reset()

    async with serving(die_at_the_second) as server:
        await post(client, server.url)
        with pytest.raises(Unclear):
            await post(client, server.url)

        assert len(server.peers) == 1
        assert server.received.count(b"POST ") == 2


async def test_a_connection_that_the_server_has_closed_is_not_used(client: HttpClient) -> None:
    async def one_each(peer: Peer) -> None:
        await peer.read_request()
        await peer.say(ACCEPTED)

    async with serving(one_each) as server:
        for _ in range(3):
            assert (await post(client, server.url)).status == 202
            await asyncio.sleep(0.01)

        assert len(server.peers) == 3


def test_idle_connections_close_before_a_load_balancer_closes_them() -> None:
    assert IDLE_SECONDS == 5


async def test_a_redirect_is_an_answer(client: HttpClient) -> None:
    async def redirect(peer: Peer) -> None:
        await peer.read_request()
        await peer.say(b"HTTP/1.1 307 Moved\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n")
        await peer.read_all()

    async with serving(redirect) as server:
        assert (await post(client, server.url)).status == 307
        assert server.received.count(b"POST ") == 1


async def test_a_body_that_breaks_off_does_not_unsay_the_status(client: HttpClient) -> None:
    async def break_off(peer: Peer) -> None:
        await peer.read_request()
        await peer.say(b"HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\nabc")

    async def stand_still(peer: Peer) -> None:
        await break_off(peer)
        await peer.read_all()

    for talk in (break_off, stand_still):
        async with serving(talk) as server:
            answer = await post(client, server.url, timeout=0.2)

        assert (answer.status, answer.body) == (202, b"abc")


async def test_an_endless_body_is_cut(client: HttpClient) -> None:
    async def talk_for_ever(peer: Peer) -> None:
        await peer.read_request()
        await peer.say(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.say(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")

    async with serving(talk_for_ever) as server:
        answer = await post(client, server.url)

    assert answer.body == b"a" * MAX_BODY


async def test_slow_bytes_do_not_stretch_the_timeout(client: HttpClient) -> None:
    async def drip(peer: Peer) -> None:
        await peer.read_request()
        await peer.say(b"HTTP/1.1 202 Accepted\r\nX-Slow: ")
        while True:
            await peer.say(b"z")
            await asyncio.sleep(0.05)

    async with serving(drip) as server:
        started = time.monotonic()
        for _ in range(4):
            with pytest.raises(Unclear, match="TimeoutError"):
                await post(client, server.url, timeout=0.1)

    # Rounded up to whole seconds, as aiohttp would have it, they take more than three.
    assert time.monotonic() - started < 2


@pytest.mark.invariant(6)
async def test_failures_say_nothing_of_url_or_body(client: HttpClient) -> None:
    async with serving(not_http) as server:
        with pytest.raises(Unclear) as unclear:
            await post(client, server.url, timeout=0.2)
    with pytest.raises(NotSent) as not_sent:
        await post(client, server.url)

    assert str(unclear.value) == "no answer (ClientResponseError)"
    assert str(not_sent.value) == "no connection (ClientConnectorError)"


def make_certificate(certificate: Path, key: Path) -> None:
    """One for 127.0.0.1, signed by itself."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(minutes=5))
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    key.write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.NoEncryption())
    )
