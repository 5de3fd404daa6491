"""The app as a stranger reaches it: in the local host, over HTTP. Its ledger shows what it took.

The keys are made from numbers, so that an attack of one run is that of every other.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twilio.request_validator import RequestValidator
from yarl import URL

from local.inbox import write_body
from local.parts import Part, start_part
from local.tenant import Options, roster_of
from shared.clock import CampaignTime, SystemClock
from shared.names import NAMES, poison_of
from shared.rules.links import Purpose, seal
from shared.rules.parcels import Channel, Parcel, State
from shared.stores.parcels import row_from
from shared.stores.table import Table, Write
from tests.stores.making import make_parcel, person
from tests.world import FORTNIGHT, KEY, NAME, World, running_world

ROOT = Path(__file__).resolve().parents[2]

PEOPLE = Options(alumni=200, others=0, throttled=False)
ROSTER = roster_of(PEOPLE)

EVENTS_KEY = ec.derive_private_key(2027, ec.SECP256R1())
ECDSA = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
EVENTS_PUBLIC = base64.b64encode(
    EVENTS_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
STATUS_TOKEN = "0123456789abcdef0123456789abcdef"
SETTINGS = {
    "SENDGRID_WEBHOOK_PUBLIC_KEY": EVENTS_PUBLIC,
    "TWILIO_ACCOUNT_SID": f"AC{'0' * 32}",
    "TWILIO_AUTH_TOKEN": STATUS_TOKEN,
    "TWILIO_FROM": "HKU",
    "STATUS_SIGN_IN": "entra",
}
PUBLIC = "https://mfa.its.hku.hk"
CALLBACK = f"{PUBLIC}/callbacks/twilio"

SIGNATURE = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP = "X-Twilio-Email-Event-Webhook-Timestamp"
STATUS_SIGNATURE = "X-Twilio-Signature"
FORM = "application/x-www-form-urlencoded; charset=UTF-8"

ATTEMPT = "00112233aabbccdd"
NUMBER = "+85251234567"
UNTIL = CampaignTime(FORTNIGHT.replace(month=12))


@dataclass(frozen=True)
class Events:
    """A request as SendGrid makes it."""

    body: bytes
    signature: str
    timestamp: str

    @property
    def headers(self) -> dict[str, str]:
        return {SIGNATURE: self.signature, TIMESTAMP: self.timestamp}


@dataclass(frozen=True)
class Status:
    """A request as Twilio makes it, to an address with this query."""

    body: bytes
    query: str
    signature: str

    @property
    def headers(self) -> dict[str, str]:
        return {STATUS_SIGNATURE: self.signature, "Content-Type": FORM}


def now() -> int:
    return int(SystemClock().storage_now().timestamp())


def key_of(number: int) -> str:
    """The key of a row."""
    return f"20270317|0123456789ab{number:05d}"


def event_of(key: str, index: int, event: str = "delivered", **fields: Any) -> dict[str, Any]:
    """An event of SendGrid's about somebody of a row."""
    return {
        "email": f"person.{index}@mail.example",
        "event": event,
        "parcel": f"{NAME}:a|{key}",
        "attempt": ATTEMPT,
        "i": str(index),
        **fields,
    }


def sign_events(
    body: bytes, timestamp: int | str, key: ec.EllipticCurvePrivateKey = EVENTS_KEY
) -> Events:
    signature = key.sign(str(timestamp).encode() + body, ECDSA)
    return Events(body, base64.b64encode(signature).decode(), str(timestamp))


def events_of(*events: dict[str, Any]) -> Events:
    """A request that SendGrid has signed just now."""
    return sign_events(write_body(events), now())


def form_of(status: str = "delivered", **fields: str) -> dict[str, str]:
    """What Twilio says of a text."""
    return {
        "AccountSid": SETTINGS["TWILIO_ACCOUNT_SID"],
        "ApiVersion": "2010-04-01",
        "From": "HKU",
        "MessageSid": f"SM{'0' * 32}",
        "MessageStatus": status,
        "SmsSid": f"SM{'0' * 32}",
        "SmsStatus": status,
        "To": NUMBER,
        **fields,
    }


def query_of(key: str, **ids: str) -> str:
    """The query of a StatusCallback, as the sender writes it."""
    named = {"parcel": f"{NAME}:a|{key}", "attempt": ATTEMPT, "i": "0", **ids}
    return urlencode(named, quote_via=quote, safe=":")


def sign_status(
    form: Mapping[str, str], query: str, *, url: str = CALLBACK, token: str = STATUS_TOKEN
) -> Status:
    signature = RequestValidator(token).compute_signature(f"{url}?{query}", form)
    return Status(urlencode(form).encode(), query, signature)


def token_of(person: bytes, purpose: Purpose) -> str:
    return seal([KEY], purpose, NAME, person, UNTIL)


def person_who_has_registered() -> bytes:
    moment = FORTNIGHT.timestamp()
    found = next(
        one
        for one in map(ROSTER.person, range(PEOPLE.alumni))
        if one.account_enabled and "microsoftAuthenticatorPush" in one.standing(moment).methods
    )
    return bytes.fromhex(found.id.replace("-", ""))


@dataclass(frozen=True)
class Target:
    """The app in the local host, and the world around it.

    Attributes:
        log: what the host says.
    """

    host: Part
    world: World
    log: Path

    @property
    def port(self) -> int:
        return int(self.host.url.rpartition(":")[2])

    async def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] = {}) -> int:
        """The status of the answer. The path is sent as it stands."""
        async with self.world.http.post(
            URL(f"{self.host.url}/{path}", encoded=True),
            data=BytesIO(body),  # of much that is not a file aiohttp warns
            headers=headers,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            await answer.read()
            return answer.status

    async def tell(self, told: Events | Status) -> int:
        if isinstance(told, Events):
            return await self.post("callbacks/sendgrid", told.body, told.headers)
        return await self.post(f"callbacks/twilio?{told.query}", told.body, told.headers)

    async def put(self, number: int, *, channel: Channel = "email", count: int = 20) -> Parcel:
        """A row of so many people, whose call is under way."""
        row = make_parcel(
            *(person(1000 * number + index) for index in range(count)),
            campaign=NAME,
            key=key_of(number),
            channel=channel,
            state=State.CLAIMED,
            attempt=ATTEMPT,
            claimed_at=SystemClock().storage_now(),
        )
        ledger = Table(self.world.app.account.table(NAMES.tables.ledger))
        await ledger.write(Write("put", row_from(row)))
        return row

    async def settled(self, row: Parcel) -> Parcel:
        """A row, as soon as it is accepted."""
        async with asyncio.timeout(30):
            while True:
                found = await self.world.app.stores.ledger.read(row.campaign, row.shard, row.key)
                assert found is not None
                if found.state is State.ACCEPTED:
                    return found
                await asyncio.sleep(0.05)

    async def rows(self) -> dict[tuple[str, str], str]:
        """Every row of the ledger and of control, with its ETag."""
        found: dict[tuple[str, str], str] = {}
        for name in msgspec.structs.astuple(NAMES.tables):
            async for row in self.world.app.account.table(name).list_entities():
                found[f"{name} {row['PartitionKey']}", row["RowKey"]] = str(row.metadata["etag"])
        return found

    async def quiet(self) -> None:
        """Wait until nothing lies on a queue any more, not even hidden."""
        names = [*msgspec.structs.astuple(NAMES.queues)]
        queues = [self.world.app.account.queue(one) for one in (*names, *map(poison_of, names))]
        async with asyncio.timeout(30):
            for queue in queues:
                while (await queue.get_queue_properties()).approximate_message_count:
                    await asyncio.sleep(0.05)

    async def look_round(self) -> None:
        """What the minute's timer notes of a campaign, it notes once: let it do so now, and not
        while a test compares rows."""
        headers = {"x-functions-key": str(self.host.ready["master_key"])}
        url = f"{self.host.url}/admin"
        async with self.world.http.post(f"{url}/functions/release_due", headers=headers) as answer:
            assert answer.status == 202
        async with asyncio.timeout(30):
            while True:
                async with self.world.http.get(f"{url}/host/status", headers=headers) as answer:
                    if not (await answer.json())["underWay"]:
                        return
                await asyncio.sleep(0.05)

    def taken(self) -> int:
        """How many webhook requests the app has taken so far, as its log counts them."""
        return self.log.read_text().count("mfa_nudge: receipts {")


@asynccontextmanager
async def running_target(connection_string: str, directory: Path) -> AsyncGenerator[Target]:
    log = directory / "host.log"
    async with running_world(connection_string, directory, people=PEOPLE, **SETTINGS) as world:
        await world.write_campaign()
        await world.app.book.refresh(accept=True)
        options = {
            "SWEEP_SCHEDULE": "0 0 0 29 2 *",  # never
            # What is large goes back to the system as soon as it is free: what the process still
            # has is then what it keeps.
            "MALLOC_MMAP_THRESHOLD_": "65536",
        }
        host = await start_part(
            "local.host",
            ["--app", str(ROOT)],
            environment={**world.environment, **options},
            log=log,
        )
        target = Target(host, world, log)
        try:
            await target.look_round()
            yield target
        finally:
            await host.close()
