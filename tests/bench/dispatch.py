"""Sending, from release to settled, and the way of the samples beside it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
from azure.core.exceptions import ResourceExistsError
from azure.data.tables import UpdateMode
from sendgrid import SendGridAPIClient
from sendgrid.helpers.mail import From, Mail, To

from shared.clock import monotonic
from shared.messages.rendering import Letter, Tags, guide_url, personal_values, render_letter
from shared.rules.contact import Recipient
from shared.rules.parcels import Parcel
from shared.stores.outbox import Slice
from tests.bench.bed import Bed, Bench
from tests.bench.table import Line
from tests.bench.wave import Spent, planned_wave, send_wave
from tests.world import NAME

_OPERATIONS_AIM = 13
_SAMPLE = "sample"


async def measure(bed: Bed, alumni: int, sample: int) -> list[Line]:
    """Sends to those of `alumni` who are due by the product, to `sample` of them by the samples'
    way, half of it before and half after."""
    async with planned_wave(bed, alumni) as (bench, parcels):
        people = await _contacts(bench, parcels, sample)
        middle = len(people) // 2
        before = await _send_as_samples_do(bench, people[:middle])
        ours = await send_wave(bench, parcels)
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
    async with planned_wave(bed, alumni) as (bench, parcels):
        usual = await _send_as_samples_do(bench, await _contacts(bench, parcels, sample))
        ours = await send_wave(bench, parcels)
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
        campaign,
        message="reminder",
        language="en",
        after_deadline=False,
        guide_url=guide_url("https://mfa.its.hku.hk", NAME, "en"),
        tags=tags,
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
