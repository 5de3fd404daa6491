"""What the doctor's tests share: settings that are right, a small DNS server, a server with a
certificate, a stand-in for the Azure command line, and the doctor itself."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import re
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from admin.doctor.command import add_commands
from admin.doctor.examination import examine, find_subject
from admin.doctor.rows import Row
from local.serving import LOOPBACK
from tests.world import EXAMPLE

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
HOST = "mfa.its.hku.hk"
APP_HOST = "func-nudge-x1y2.azurewebsites.net"
VERIFICATION = "A1B2C3D4" * 8
GROUP = "5f0c6a2e-8f43-4d1b-9a57-2f5f3c1d7e90"

RIGHT: Mapping[str, str] = {
    "AzureWebJobsStorage": "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=eA==;"
    "EndpointSuffix=storage.invalid",
    "SWEEP_SCHEDULE": "0 0 20 * * *",
    "SENDGRID_API_KEY": "SG.very-secret",
    "LINK_KEYS": KEY,
    "ADDRESS_KEY": f"address-{KEY}",
    "PUBLIC_BASE_URL": f"https://{HOST}",
    "ALLOWED_SENDERS": "its.hku.hk",
    "ALLOWED_LINK_HOSTS": f"its.hku.hk,{HOST}",
}
"""Settings with no problem. Their storage is nowhere."""

SECRET_VALUES = ("SG.very-secret", KEY, "eA==")


def campaign_file(directory: Path, *changes: tuple[str, str]) -> Path:
    """The example for a group that is somebody's and a deadline that is far, with these texts
    replaced."""
    text = EXAMPLE.read_text().replace("00000000-0000-0000-0000-000000000000", GROUP)
    for key, year_on in (("deadline", "2097-03-29"), ("enforced_from", "2097-04-01")):
        text = re.sub(rf"(?m)^{key}: .*$", f"{key}: {year_on}", text)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = directory / "alumni.yaml"
    path.write_text(text)
    return path


def settings_file(directory: Path, settings: Mapping[str, str]) -> Path:
    path = directory / "app.env"
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return path


async def diagnose(*words: object) -> list[Row]:
    """The doctor's rows, for these words of its command line."""
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    given = parser.parse_args(["doctor", *map(str, words)])
    return await examine(await find_subject(given), given)


def find(rows: Iterable[Row], what: str) -> Row:
    """The only row about this."""
    (row,) = [row for row in rows if row.what == what]
    return row


# DNS


@dataclass
class Zone(asyncio.DatagramProtocol):
    """A DNS server on UDP that knows these records, and denies every other name.

    Attributes:
        records: values by name and kind, such as ("example.edu", "TXT").
        silent: names that get no answer.
        broken: names that get SERVFAIL.
    """

    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.records.setdefault(("sendgrid.net", "TXT"), ['"v=spf1 ip4:192.0.2.0/24 -all"'])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = dns.message.from_wire(data)
        name = question.question[0].name.to_text(omit_final_dot=True)
        if name not in self.silent:
            self._transport.sendto(self._answer(question, name).to_wire(), addr)

    def _answer(self, question: dns.message.Message, name: str) -> dns.message.Message:
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.RA
        kind = dns.rdatatype.to_text(question.question[0].rdtype)
        if name in self.broken:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif not self._exists(name):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        while kind != "CNAME" and (aliases := self.records.get((name, "CNAME"))):
            answer.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "CNAME", *aliases))
            name = aliases[0].removesuffix(".")
        if values := self.records.get((name, kind)):
            answer.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", kind, *values))
        return answer

    def _exists(self, name: str) -> bool:
        return any(known == name or known.endswith(f".{name}") for known, _ in self.records)


@contextlib.asynccontextmanager
async def running_dns(zone: Zone) -> AsyncGenerator[str]:
    """Serves a zone; gives what `--nameserver` wants."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: zone, local_addr=(LOOPBACK, 0))
    try:
        yield f"{LOOPBACK}:{transport.get_extra_info('sockname')[1]}"
    finally:
        transport.close()


def right_zone() -> Zone:
    """A zone with all that live sending wants."""
    return Zone(
        {
            ("its.hku.hk", "TXT"): ['"v=spf1 include:sendgrid.net -all"'],
            ("s1._domainkey.its.hku.hk", "CNAME"): ["s1.domainkey.u1.wl.sendgrid.net."],
            ("s2._domainkey.its.hku.hk", "CNAME"): ["s2.domainkey.u1.wl.sendgrid.net."],
            ("s1.domainkey.u1.wl.sendgrid.net", "TXT"): ['"k=rsa; p=MIGf"'],
            ("s2.domainkey.u1.wl.sendgrid.net", "TXT"): [
                '"k=rsa; t=s; p=MIG"',
            ],
            ("_dmarc.its.hku.hk", "TXT"): ['"v=DMARC1; p=quarantine"'],
            (HOST, "CNAME"): [f"{APP_HOST}."],
            (APP_HOST, "A"): [LOOPBACK],
            (f"asuid.{HOST}", "TXT"): [f'"{VERIFICATION}"'],
        }
    )


# TLS


@contextlib.asynccontextmanager
async def running_tls(directory: Path, host: str, *, days: float) -> AsyncGenerator[int]:
    """A server with a certificate for `host` that ends in so many days; gives its port.
    `directory/authority.pem` is who vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
    base = (
        x509.CertificateBuilder()
        .issuer_name(authority)
        .public_key(key.public_key())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days, minutes=1))
    )
    root = (
        base.subject_name(authority)
        .serial_number(1)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    leaf = (
        base.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .serial_number(2)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "authority.pem").write_bytes(root.public_bytes(pem))
    own = directory / "server.pem"
    own.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + leaf.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(close, LOOPBACK, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return one.getsockname()[1]


# the Azure command line


def stand_in_az(directory: Path, answers: Mapping[str, object]) -> Path:
    """A directory for PATH with an `az` that answers by its first two words, and else fails."""
    program = directory / "bin" / "az"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        f"answers = json.loads({json.dumps(json.dumps(answers))})\n"
        "words = ' '.join(sys.argv[1:3])\n"
        "if words not in answers:\n"
        "    sys.exit(1)\n"
        "print(json.dumps(answers[words]))\n"
    )
    program.chmod(0o755)
    return program.parent
