"""Signing in by a code over real HTTPS: an identity service and a Graph on loopback, and
Microsoft's own libraries between them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import AsyncGenerator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from admin.sign_in import GRAPH_TOOLS, OwnSignIn, make_sign_in
from shared.services.directory import Directory, RegistrationReport, SignInFault

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:msgraph"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kiota_abstractions"),
]

PENDING = {"error": "authorization_pending", "error_description": "AADSTS70016: Still waiting."}


class Identity:
    """An identity service that knows codes, in threads of its own, since its clients block.

    Attributes:
        answers: of the token endpoint, in order; a token, where there are none left.
        codes, tokens: what was asked for a code, and each time that a token was given.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.answers: list[dict[str, Any]] = [PENDING]
        self.codes: list[dict[str, str]] = []
        self.tokens: list[dict[str, str]] = []
        identity = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, identity.describe())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = dict(parse_qsl(body))
                if self.path.endswith("/devicecode"):
                    self._answer(200, identity.give_code(form))
                elif identity.answers:
                    self._answer(400, identity.answers.pop(0))
                else:
                    self._answer(200, identity.give_token(form))

            def _answer(self, status: int, content: dict[str, Any]) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Identity:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def describe(self) -> dict[str, Any]:
        base = f"{self.url}/the-tenant"
        return {
            "issuer": f"{base}/v2.0",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
        }

    def give_code(self, form: dict[str, str]) -> dict[str, Any]:
        self.codes.append(form)
        return {
            "user_code": "ABCD1234",
            "device_code": "secret-code",
            "verification_uri": "https://login.example/device",
            "expires_in": 900,
            "interval": 0.05,
            "message": "not ours",
        }

    def give_token(self, form: dict[str, str]) -> dict[str, Any]:
        self.tokens.append(form)
        now = int(datetime.datetime.now(datetime.UTC).timestamp())
        claims = {
            "iss": f"{self.url}/the-tenant/v2.0",
            "aud": form["client_id"],
            "sub": "s",
            "tid": "t",
            "oid": "o",
            "preferred_username": "a@b.example",
            "iat": now,
            "exp": now + 3600,
        }
        return {
            "token_type": "Bearer",
            "scope": self.codes[-1]["scope"],
            "expires_in": 3600,
            "access_token": "the-token",
            "refresh_token": "the-refresh-token",
            "id_token": f"{_encoded({'alg': 'none'})}.{_encoded(claims)}.",
            "client_info": _encoded({"uid": "o", "utid": "t"}),
        }


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of 127.0.0.1, with its key; it signs itself, and this process trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([here]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = tmp_path / "server.pem"
    file.write_bytes(
        signed.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return file


def tls_of(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@contextlib.asynccontextmanager
async def serving(application: web.Application, certificate: Path) -> AsyncGenerator[str]:
    runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls_of(certificate)).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def by_code(identity: Identity, certificate: Path, **more: Any) -> OwnSignIn:
    names: dict[str, Any] = {"tenant": "the-tenant", "client": None} | more
    return make_sign_in(
        "device",
        "graph.example",
        **names,
        authority=identity.url,
        disable_instance_discovery=True,
        connection_verify=str(certificate),
    )


async def test_a_code_gives_a_token_for_what_is_needed_and_nothing_else(
    certificate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headers: list[str | None] = []

    async def refuse(request: web.Request) -> web.Response:
        headers.append(request.headers.get("Authorization"))
        return web.json_response(
            {"error": {"code": "Authorization_RequestDenied", "message": "No."}}, status=403
        )

    graph = web.Application()
    graph.router.add_get("/{path:.*}", refuse)
    with Identity(tls_of(certificate)) as identity:
        async with serving(graph, certificate) as graph_url:
            sign_in = by_code(identity, certificate)
            await sign_in.sign_in()
            directory = Directory(f"{graph_url}/v1.0", "default", credential=sign_in)
            for _ in range(2):
                with pytest.raises(SignInFault) as caught:
                    await directory.read_page(RegistrationReport())
            await directory.close()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Open https://login.example/device and enter the code ABCD1234 (")
    (asked,) = identity.codes
    assert asked["client_id"] == GRAPH_TOOLS
    assert {one for one in asked["scope"].split() if "/" in one} == {
        "https://graph.example/AuditLog.Read.All",
        "https://graph.example/GroupMember.Read.All",
        "https://graph.example/User.Read.All",
    }
    assert len(identity.tokens) == 1  # nobody is asked twice
    assert headers == ["Bearer the-token"] * 2
    assert "Graph does not let you read the registration report" in caught.value.what
    for words in ("Reports Reader", "delegated permission AuditLog.Read.All"):
        assert words in caught.value.fix


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (("invalid_grant", 65001), ["AADSTS65001", "consent", "Privileged Role Administrator"]),
        (("invalid_client", 7000218), ["AADSTS7000218", "--client-id", "public client flows"]),
        (("invalid_grant", 53003), ["AADSTS53003", "Conditional Access", "--sign-in browser"]),
        (("invalid_grant", 50076), ["AADSTS50076", "try once more", "az login"]),
        (("access_denied", None), ["ClientAuthenticationError", "try once more"]),
    ],
)
async def test_a_sign_in_that_fails_says_what_to_do_and_names_nobody(
    answer: tuple[str, int | None], says: list[str], certificate: Path
) -> None:
    error, code = answer
    words = f"AADSTS{code}: Not Pat Example, pat@b.example." if code else "Pat Example said no."
    with Identity(tls_of(certificate)) as identity:
        identity.answers = [{"error": error, "error_description": words}]
        async with by_code(identity, certificate, client="my-app") as sign_in:
            with pytest.raises(SignInFault) as caught:
                await sign_in.sign_in()
    for one in says:
        assert one in str(caught.value)
    assert "pat" not in str(caught.value).casefold()


async def test_waiting_for_somebody_can_be_cut_short(certificate: Path) -> None:
    """As Ctrl-C does: the thread that waits for the code to be entered keeps nothing up."""
    with Identity(tls_of(certificate)) as identity:
        identity.answers = [PENDING] * 200
        async with asyncio.timeout(20), by_code(identity, certificate) as sign_in:
            waiting = asyncio.create_task(sign_in.sign_in())
            while not identity.codes:
                await asyncio.sleep(0.02)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            identity.answers = []  # and the thread ends
            while not identity.tokens:
                await asyncio.sleep(0.02)
