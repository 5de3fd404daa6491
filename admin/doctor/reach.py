"""How the doctor reaches others, and only to ask: HTTP with the administrator's own sign-in, the
Azure command line, DNS and TLS.

Whoever gives no answer is `Unanswered`: never a fault of the deployment.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import aiohttp
import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
import msgspec

from admin.doctor.rows import SIGN_IN, TRY_FROM_ELSEWHERE, Unanswered, name_error
from shared.settings import is_loopback

if TYPE_CHECKING:
    from azure.identity.aio import DefaultAzureCredential

_HTTP_SECONDS = 10.0
_AZ_SECONDS = 14.0  # its first answer of a day takes some
_DNS_SECONDS = 4.0
_DNS_TRY_SECONDS = 1.5
_TLS_SECONDS = 6.0

_SURELY_THERE = "sendgrid.net"
"""A server within a closed network may deny every name; this one it cannot rightly deny."""


class Web:
    """GET requests with a token of whoever types the command; none on a loopback address."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._credential: DefaultAzureCredential | None = None

    async def get(self, url: str, *, scope: str) -> tuple[int, bytes]:
        """Status and body.

        Args:
            scope: what the token is asked for.

        Raises Unanswered.
        """
        headers: dict[str, str] = {}
        if not is_loopback(url):
            headers["Authorization"] = f"Bearer {await self._token(scope)}"
        self._session = self._session or aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_HTTP_SECONDS), trust_env=True
        )
        try:
            # A redirect would carry the token elsewhere.
            async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(f"no answer ({name_error(error)})", TRY_FROM_ELSEWHERE) from None

    async def _token(self, scope: str) -> str:
        # azure.identity takes 0.3 s to import: not where nothing is asked with a token.
        from azure.core.exceptions import AzureError
        from azure.identity.aio import DefaultAzureCredential

        self._credential = self._credential or DefaultAzureCredential()
        try:
            return (await self._credential.get_token(scope)).token
        except AzureError as error:
            raise Unanswered(f"no sign-in is known here ({name_error(error)})", SIGN_IN) from None

    async def close(self) -> None:
        if self._session:
            await self._session.close()
        if self._credential:
            await self._credential.close()


async def run_program(
    command: Sequence[str], *, seconds: float, more: Mapping[str, str] | None = None
) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and standard error of a program.

    Args:
        more: what its environment has beside this process's.

    Raises TimeoutError; the program has ended then, too.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(more or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            out, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out, said


async def ask_az(*words: str) -> Any:
    """What the Azure command line answers, decoded. Raises Unanswered."""
    command = shutil.which("az")
    if command is None:
        raise Unanswered(
            "the Azure command line is not installed here", "Install it, and `az login`."
        )
    try:
        code, out, _ = await run_program(
            (command, *words, "--only-show-errors", "--output", "json"), seconds=_AZ_SECONDS
        )
    except TimeoutError:
        raise Unanswered("`az` gave no answer in time", "Try it again.") from None
    if code:
        raise Unanswered(
            f"`az {' '.join(words[:3])}` failed", "Run it to see why; `az login` may be over."
        )
    try:
        return msgspec.json.decode(out)
    except msgspec.DecodeError:
        raise Unanswered("`az` answered something that is not JSON") from None


# DNS


class Records(msgspec.Struct, frozen=True):
    """What DNS says of a name and a kind of record.

    Attributes:
        exists: whether there is such a name at all, with whatever records.
        values: the records; texts as one string each, names without the dot at the end.
    """

    exists: bool
    values: tuple[str, ...] = ()


class Names:
    """Questions to DNS.

    Args:
        server: address and port of the server that is asked; this machine's own where None.
    """

    def __init__(self, server: tuple[str, int] | None) -> None:
        self._server = server
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._knows: bool | None = None

    async def ask(self, name: str, kind: str) -> Records:
        """Records of a kind (TXT, CNAME, A, AAAA). Raises Unanswered where nobody can say."""
        found = await self._ask(name, kind)
        if not found.exists and not await self._knows_the_internet():
            raise Unanswered(
                f"the DNS server here denies {name}, and {_SURELY_THERE} just so",
                "Ask one that knows the internet, such as --nameserver 9.9.9.9.",
            )
        return found

    async def _knows_the_internet(self) -> bool:
        """Whether a "no" of this server means something; asked once."""
        if self._knows is None:
            self._knows = (await self._ask(_SURELY_THERE, "TXT")).exists
        return self._knows

    async def _ask(self, name: str, kind: str) -> Records:
        try:
            asked = dns.name.from_text(name)
            answer = await self._open().resolve(asked, kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return Records(False)
        except dns.exception.Timeout:
            raise Unanswered(
                f"DNS did not answer in time for {name}",
                "Try it again, or name a server that answers: --nameserver 9.9.9.9.",
            ) from None
        except dns.resolver.NoNameservers:
            raise Unanswered(
                f"no DNS server could answer for {name}",
                "Look at the zone with whoever runs it, or ask another server by --nameserver.",
            ) from None
        except dns.resolver.NoResolverConfiguration:
            raise Unanswered(
                "this machine has no DNS server", "Name one, such as --nameserver 9.9.9.9."
            ) from None
        except (dns.exception.DNSException, UnicodeError) as error:
            raise Unanswered(f"{name} cannot be asked for ({name_error(error)})") from None
        return Records(True, tuple(_value_of(record) for record in answer.rrset or ()))

    async def addresses(self, host: str) -> Records:
        """IP addresses of a host; one that is written as an address is its own."""
        try:
            return Records(True, (str(ip_address(host)),))
        except ValueError:
            v4, v6 = await asyncio.gather(self.ask(host, "A"), self.ask(host, "AAAA"))
        return Records(v4.exists or v6.exists, v4.values + v6.values)

    def _open(self) -> dns.asyncresolver.Resolver:
        if self._resolver is None:
            resolver = dns.asyncresolver.Resolver(configure=self._server is None)
            if self._server:
                resolver.nameservers, resolver.port = [self._server[0]], self._server[1]
            resolver.timeout, resolver.lifetime = _DNS_TRY_SECONDS, _DNS_SECONDS
            self._resolver = resolver
        return self._resolver


def _value_of(record: Any) -> str:
    if record.rdtype == dns.rdatatype.TXT:
        # A text of more than 255 characters comes in parts, which belong together as they are.
        return b"".join(record.strings).decode(errors="replace")
    return str(record).removesuffix(".").lower()


# TLS


class Refused(Exception):
    """A server that must not be trusted, and why; or nobody listens."""


async def read_certificate_end(host: str, addresses: tuple[str, ...], port: int) -> datetime:
    """Until when the certificate is valid that is shown for `host`.

    Raises:
        Refused: its certificate is not one that browsers trust for this name, or nobody listens.
        Unanswered: there is no way to it from here.
    """
    context = ssl.create_default_context()
    try:
        async with asyncio.timeout(_TLS_SECONDS):
            _, writer = await asyncio.open_connection(
                addresses[0], port, ssl=context, server_hostname=host
            )
    except ssl.SSLCertVerificationError as error:
        raise Refused(f"its certificate is not valid: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise Refused(f"there is no TLS ({error.reason or 'the handshake failed'})") from None
    except ConnectionError as error:
        raise Refused(f"nobody answers there ({name_error(error)})") from None
    except (TimeoutError, OSError) as error:
        raise Unanswered(
            f"no connection to {host} ({name_error(error)})", TRY_FROM_ELSEWHERE
        ) from None
    try:
        shown: dict[str, Any] = writer.get_extra_info("peercert")
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
    finally:
        writer.transport.abort()
