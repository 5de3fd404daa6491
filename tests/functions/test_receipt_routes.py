"""What providers report, over HTTP, to the real app in the local host."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
import pytest_asyncio
from twilio.request_validator import RequestValidator

from local.inbox import SigningKey, write_body
from local.tenant import Options
from shared.clock import SystemClock
from shared.names import NAMES, poison_of
from shared.rules.parcels import Channel, Parcel, State, with_bits
from shared.services.webhooks import MOST_SENDGRID_BYTES, MOST_TWILIO_BYTES, SIGNED_AGO
from shared.stores.parcels import row_from
from shared.stores.queues import ShardReceipts
from shared.stores.table import Table, Write
from tests.functions.conftest import WorkerProcess, running_host
from tests.stores.making import make_parcel, person
from tests.world import World, running_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

PEOPLE = Options(alumni=10, others=0, throttled=False)
KEY = SigningKey()
ATTEMPT = "00112233aabbccdd"
TOKEN = "0123456789abcdef0123456789abcdef"
SETTINGS = {
    "SENDGRID_WEBHOOK_PUBLIC_KEY": KEY.public,
    "TWILIO_ACCOUNT_SID": f"AC{'0' * 32}",
    "TWILIO_AUTH_TOKEN": TOKEN,
    "TWILIO_FROM": "HKU",
}
NUMBER = "+85251234567"


@dataclass(frozen=True)
class Answer:
    status: int
    retry_after: str | None
    error: str


@dataclass(frozen=True)
class Webhooks:
    """The app's addresses for providers, and the world around it."""

    url: str
    world: World

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        async with self.world.http.post(
            f"{self.url}/callbacks/{path}",
            data=io.BytesIO(body),  # of much that is not a file aiohttp warns
            headers=headers,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            told = await answer.read()
            error = msgspec.json.decode(told)["error"] if told else ""
            return Answer(answer.status, answer.headers.get("Retry-After"), error)

    async def sendgrid(
        self, body: bytes, *, ago: float = 0, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """A request that SendGrid has signed so many seconds ago, unless it has other headers."""
        if headers is None:
            headers = KEY.headers(body, at=int(SystemClock().storage_now().timestamp() - ago))
        return await self.post("sendgrid", body, headers)

    async def twilio(
        self, form: Mapping[str, str], query: str, *, signature: str | None = None
    ) -> Answer:
        url = f"{self.world.environment['PUBLIC_BASE_URL']}/callbacks/twilio?{query}"
        if signature is None:
            signature = RequestValidator(TOKEN).compute_signature(url, form)
        headers = {
            "X-Twilio-Signature": signature,
            "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
        }
        return await self.post(f"twilio?{query}", urlencode(form).encode(), headers)

    async def put(self, number: int, *, channel: Channel = "email", count: int = 500) -> Parcel:
        """A row of so many people, whose call is under way."""
        row = make_parcel(
            *(person(1000 * number + index) for index in range(count)),
            key=f"20270317|0123456789ab{number:05d}",
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
                now = await self.world.app.stores.ledger.read(row.campaign, row.shard, row.key)
                assert now is not None
                if now.state is State.ACCEPTED:
                    return now
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def webhooks(
    _storage_accounts: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Webhooks]:
    directory = tmp_path_factory.mktemp("webhooks")
    connection = next(_storage_accounts)
    async with (
        running_world(connection, directory, people=PEOPLE, **SETTINGS) as world,
        running_host(world.environment) as host,
    ):
        yield Webhooks(host.url, world)


def told(row: Parcel, index: int, event: str = "delivered", **fields: Any) -> dict[str, Any]:
    return {
        "email": f"person.{index}@mail.example",
        "event": event,
        "parcel": f"{row.campaign}:a|{row.key}",
        "attempt": ATTEMPT,
        "i": str(index),
        **fields,
    }


def ids_of(row: Parcel) -> str:
    ids = {"parcel": f"{row.campaign}:a|{row.key}", "attempt": ATTEMPT, "i": "0"}
    return urlencode(ids, safe=":")  # as every client writes it, whatever it was given


def status(name: str = "delivered", **fields: str) -> dict[str, str]:
    return {"AccountSid": f"AC{'0' * 32}", "MessageStatus": name, "To": NUMBER, **fields}


async def test_what_sendgrid_reports_is_in_the_ledger(webhooks: Webhooks) -> None:
    row = await webhooks.put(1)
    body = write_body([told(row, 0), told(row, 1, "bounce", type="bounce"), {"event": "other"}])
    for _ in range(2):
        assert await webhooks.sendgrid(body) == Answer(204, None, "")
    now = await webhooks.settled(row)
    assert (now.delivered, now.refused) == (b"\x01", b"\x02")


async def test_what_twilio_reports_is_in_the_ledger(webhooks: Webhooks) -> None:
    row = await webhooks.put(2, channel="sms", count=1)
    answer = await webhooks.twilio(status("undelivered", ErrorCode="30005"), ids_of(row))
    assert answer == Answer(204, None, "")
    assert (await webhooks.settled(row)).refused == b"\x01"


async def test_ten_thousand_events_are_taken_at_once(webhooks: Webhooks) -> None:
    rows = [await webhooks.put(10 + number) for number in range(20)]
    padding = "x" * 500  # an event is as long as SendGrid's
    events = [told(row, index, response=padding) for row in rows for index in range(500)]
    body = write_body(events)
    assert len(body) < MOST_SENDGRID_BYTES
    assert (await webhooks.sendgrid(body)).status == 204
    for row in rows:
        assert (await webhooks.settled(row)).delivered == with_bits(b"", range(500))


async def test_what_is_not_to_be_taken_is_refused_with_the_reason(webhooks: Webhooks) -> None:
    row = await webhooks.put(3)
    body = write_body([told(row, 0)])
    now = int(SystemClock().storage_now().timestamp())
    signed = KEY.headers(body, at=now)
    moved = {name: value.removesuffix(str(now)[-1]) if value == str(now) else value
             for name, value in signed.items()}  # fmt: skip
    form, ids = status(), ids_of(row)
    given = {
        "unsigned": await webhooks.sendgrid(body, headers={}),
        "another body": await webhooks.sendgrid(write_body([told(row, 1)]), headers=signed),
        "a moved digit": await webhooks.sendgrid(str(now)[-1].encode() + body, headers=moved),
        "too old": await webhooks.sendgrid(body, ago=SIGNED_AGO.total_seconds() + 60),
        "of tomorrow": await webhooks.sendgrid(body, ago=-3600),
        "no array": await webhooks.sendgrid(b"{}"),
        "no text": await webhooks.sendgrid(b"\xff"),
        "10 MB": await webhooks.sendgrid(b"[" + b" " * 10_000_000 + b"]"),
        "a byte too many": await webhooks.sendgrid(b"[" + b" " * (MOST_SENDGRID_BYTES - 1) + b"]"),
        "unsigned status": await webhooks.twilio(form, ids, signature="no"),
        "another status": await webhooks.twilio(
            form,
            ids,
            signature=RequestValidator(TOKEN).compute_signature(
                f"{webhooks.world.environment['PUBLIC_BASE_URL']}/callbacks/twilio?{ids}",
                status("failed"),
            ),
        ),
        "no ids": await webhooks.twilio(form, "a=b"),
        "a long status": await webhooks.twilio(status(x="x" * MOST_TWILIO_BYTES), ids),
    }
    assert {name: answer.status for name, answer in given.items()} == {
        "unsigned": 401, "another body": 401, "a moved digit": 401, "too old": 401,
        "of tomorrow": 401, "no array": 400, "no text": 400, "10 MB": 413, "a byte too many": 413,
        "unsigned status": 401, "another status": 401, "no ids": 400, "a long status": 413,
    }  # fmt: skip
    assert all(answer.error for answer in given.values())
    unchanged = await webhooks.world.app.stores.ledger.read(row.campaign, row.shard, row.key)
    assert unchanged is not None
    assert unchanged.state is State.CLAIMED


async def test_whatever_a_stranger_posts_is_refused_and_others_go_on(webhooks: Webhooks) -> None:
    chance = random.Random(5)
    names = [*KEY.headers(b"[]", at=1_800_000_000), "X-Twilio-Signature", "Content-Type"]
    letters = [chr(code) for code in [*range(32, 127), *range(160, 256)]]

    async def post() -> int:
        headers = {
            name: "".join(chance.choices(letters, k=chance.randrange(60))).strip()
            for name in chance.sample(names, chance.randrange(len(names)))
        }
        path = chance.choice(["sendgrid", "twilio", "twilio?parcel=a", "twilio?%FF&&=;[]"])
        return (await webhooks.post(path, chance.randbytes(chance.randrange(2000)), headers)).status

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(post()) for _ in range(100)]
    assert {task.result() for task in tasks} <= {400, 401}
    row = await webhooks.put(4)
    assert (await webhooks.sendgrid(write_body([told(row, 0)]))).status == 204
    assert (await webhooks.settled(row)).delivered


async def test_storage_that_fails_is_told_and_the_same_is_taken_later(webhooks: Webhooks) -> None:
    row = await webhooks.put(5)
    queue = webhooks.world.app.account.queue(NAMES.queues.receipts)
    await queue.delete_queue()
    body = write_body([told(row, 0)])
    answers = [await webhooks.sendgrid(body), await webhooks.twilio(status(), ids_of(row))]
    await queue.create_queue()
    assert [(answer.status, answer.retry_after) for answer in answers] == [(503, "60")] * 2
    assert (await webhooks.sendgrid(body)).status == 204
    assert (await webhooks.settled(row)).delivered


async def test_without_keys_nothing_is_taken_and_the_settings_are_named(
    webhooks: Webhooks,
) -> None:
    without = {
        name: value for name, value in webhooks.world.environment.items() if name not in SETTINGS
    }
    row = await webhooks.put(6)
    async with running_host(without) as host:
        closed = Webhooks(host.url, webhooks.world)
        mail = await closed.sendgrid(write_body([told(row, 0)]))
        text = await closed.twilio(status(), ids_of(row))
    assert [(answer.status, answer.retry_after) for answer in (mail, text)] == [(503, "60")] * 2
    assert "SENDGRID_WEBHOOK_PUBLIC_KEY" in mail.error
    assert "TWILIO_AUTH_TOKEN" in text.error


async def test_receipts_that_died_are_told_of(world: World, worker: WorkerProcess) -> None:
    body = msgspec.json.encode(ShardReceipts("alumni-2027", 10, "email", ()))
    assert not (await worker.invoke("settle_receipts_poison", body)).failed
    assert any("ALARM poison" in line and '"receipts"' in line for line in worker.log())
    assert not (await worker.invoke("settle_receipts", b"hello")).failed
    queue = world.app.account.queue(poison_of(NAMES.queues.receipts))
    assert (await queue.get_queue_properties()).approximate_message_count == 1
