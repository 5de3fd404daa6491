"""Sending, from release to settled, and the way of the samples beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from azure.core.exceptions import ResourceExistsError
from azure.data.tables import UpdateMode
from sendgrid import SendGridAPIClient
from sendgrid.helpers.mail import From, Mail, To

from shared.clock import monotonic
from shared.messages.rendering import Letter, Tags, personal_values, render_letter
from shared.rules.contact import Recipient
from shared.rules.parcels import Parcel, State
from shared.stores.outbox import Slice
from tests.bench.bed import Bed, Bench
from tests.bench.pages import write_sweep
from tests.bench.table import Line
from tests.world import NAME

_OPERATIONS_AIM = 13
_SAMPLE = "sample"


class Spent(msgspec.Struct, frozen=True):
    """What sending came to; `operations` are those of storage and the provider's calls."""

    recipients: int
    seconds: float
    operations: int
    calls: int

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.recipients + other.recipients,
            self.seconds + other.seconds,
            self.operations + other.operations,
            self.calls + other.calls,
        )

    @property
    def speed(self) -> float:
        return self.recipients / self.seconds

    @property
    def per_thousand(self) -> float:
        return self.operations * 1000 / self.recipients


async def measure(bed: Bed, alumni: int, sample: int) -> list[Line]:
    """Sends to those of `alumni` who are due by the product, to `sample` of them by the samples'
    way, half of it before and half after."""
    async with _planned(bed, alumni) as (bench, parcels):
        people = await _contacts(bench, parcels, sample)
        middle = len(people) // 2
        before = await _send_as_samples_do(bench, people[:middle])
        ours = await _send(bench)
        after = await _send_as_samples_do(bench, people[middle:])
    usual = before + after
    return [
        Line(
            what=f"sending to {ours.recipients:,} people, release to settled",
            measured=f"{ours.speed:,.0f} people/s",
            beside=f"sample way {usual.speed:,.0f} people/s",
            ratio=ours.speed / usual.speed,
            notes=(
                f"{ours.seconds:.2f} s for {len(parcels)} parcels, at host.json's concurrency.",
                f"The sample way, over {usual.recipients:,} people, half before and half after: "
                "one queue message, one insert, one call of the sendgrid package and one update a "
                "person, at the same concurrency and to the same inbox.",
            ),
        )
    ]


async def count_operations(bed: Bed, alumni: int, sample: int) -> list[Line]:
    """Storage operations and provider calls of a release, and of the samples' way."""
    async with _planned(bed, alumni) as (bench, parcels):
        usual = await _send_as_samples_do(bench, await _contacts(bench, parcels, sample))
        ours = await _send(bench)
    return [
        Line(
            what=f"operations for {ours.recipients:,} people, release to settled",
            measured=f"{ours.per_thousand:,.1f} per 1,000",
            beside=f"sample way {usual.per_thousand:,.0f}",
            ratio=usual.per_thousand / ours.per_thousand,
            aim=f"about {_OPERATIONS_AIM} per 1,000",
            holds=ours.per_thousand < _OPERATIONS_AIM + 1,
            notes=(
                f"{ours.operations:,} were counted: {ours.calls} calls of the provider, and every "
                "answer of storage, the host's taking and deleting of messages among them; looks "
                f"at an empty queue are left out. {len(parcels)} parcels, "
                f"{ours.recipients / len(parcels):.0f} people in one on average.",
            ),
        )
    ]


@asynccontextmanager
async def _planned(bed: Bed, alumni: int) -> AsyncGenerator[tuple[Bench, list[Parcel]]]:
    """A product that has planned for so many alumni, and its parcels."""
    async with bed.running_bench(inbox=True) as bench:
        for message in await write_sweep(bench, alumni):
            await bench.app.plans.plan(message)
        yield bench, await bench.parcels()


async def _send(bench: Bench) -> Spent:
    operations, began = bench.operations, monotonic()
    await bench.app.releases.release_campaign(NAME)
    await bench.send()
    seconds, operations = monotonic() - began, bench.operations - operations
    parcels = await bench.parcels()
    assert {parcel.state for parcel in parcels} == {State.ACCEPTED}
    calls = [call for call in await bench.accepted() if call["parcel"]]
    recipients = sum(parcel.count for parcel in parcels)
    assert sum(call["count"] for call in calls) == recipients
    return Spent(recipients, seconds, operations + len(calls), len(calls))


async def _contacts(bench: Bench, parcels: list[Parcel], most: int) -> list[Recipient]:
    people: list[Recipient] = []
    for parcel in parcels:
        part = Slice(parcel.offset, parcel.length, parcel.digest)
        people += await bench.app.stores.outbox.read(parcel.outbox, part)
        if len(people) >= most:
            break
    return people[:most]


async def _send_as_samples_do(bench: Bench, people: list[Recipient]) -> Spent:
    account = bench.app.account
    queue, table = account.queue(_SAMPLE), account.table(_SAMPLE)
    await _ignore_existing(queue.create_queue())
    await _ignore_existing(table.create_table())
    client = SendGridAPIClient("bench", host=bench.inbox_url)
    campaign = (await bench.app.book.read()).standings[NAME].campaign
    tags = Tags.fresh()
    letter = render_letter(
        campaign, message="reminder", language="en", after_deadline=False, tags=tags
    )

    async def send_one(body: bytes) -> None:
        person = msgspec.json.decode(body, type=Recipient)
        row: dict[str, Any] = {"PartitionKey": NAME, "RowKey": person.id.hex(), "state": "sending"}
        await table.create_entity(row)
        mail = _mail(letter, tags, person, campaign.sender.email)
        answer = await asyncio.to_thread(client.send, mail)
        assert answer.status_code == 202
        await table.update_entity({**row, "state": "sent"}, UpdateMode.MERGE)

    operations, began = bench.operations, monotonic()
    for person in people:
        await queue.send_message(msgspec.json.encode(person))
    await bench.take(queue, send_one)
    seconds = monotonic() - began
    spent = bench.operations - operations + len(people)
    return Spent(len(people), seconds, spent, len(people))


async def _ignore_existing(creation: Any) -> None:
    with suppress(ResourceExistsError):
        await creation


def _mail(letter: Letter, tags: Tags, person: Recipient, sender: str) -> Mail:
    values = personal_values(
        tags,
        name=person.name,
        account=person.account,
        done_url="https://mfa.its.hku.hk/done/sample",
        unsubscribe_url="https://mfa.its.hku.hk/unsubscribe/sample",
    )
    text, html = letter.text, letter.html
    for tag, value in values.items():
        text, html = text.replace(tag, value), html.replace(tag, value)
    return Mail(
        from_email=From(sender),
        to_emails=To(person.address),
        subject=letter.subject,
        plain_text_content=text,
        html_content=html,
    )
