"""Receipts of a wave, from signed requests to the ledger."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import batched
from typing import Any

import msgspec

from local.inbox import SigningKey, write_body
from shared.clock import monotonic
from shared.names import NAMES
from shared.rules.parcels import Parcel
from shared.services.webhooks import read_sendgrid
from shared.stores.parcels import partition_of
from shared.stores.queues import ShardReceipts, decode_message
from tests.bench.bare import without_words
from tests.bench.bed import Bed, Bench
from tests.bench.table import Line
from tests.bench.wave import alumni_for, planned_wave, send_wave

MOST_EVENTS = 1_000
"""Of one request: SendGrid ends a batch at about 768 KB."""

_REQUESTS_AT_ONCE = 16
"""Requests that are put on the queue before it is worked on: Azurite's grows slow when it is
long."""


class _Spent(msgspec.Struct, frozen=True):
    events: int
    seconds: float
    taking: float
    operations: int
    messages: int

    @property
    def speed(self) -> float:
        return self.events / self.seconds

    @property
    def per_thousand(self) -> float:
        return self.operations * 1000 / self.events


async def measure(bed: Bed, recipients: int) -> list[Line]:
    """Sends to about so many people, and has two events of each reported: processed, delivered.

    Twice over fresh rows: parcel after parcel, and all of them mixed, as they are where a wave
    leaves at once.
    """
    found: dict[str, _Spent] = {}
    for name, together in (("parcel after parcel", 1), ("the whole wave mixed", recipients)):
        async with planned_wave(bed, alumni_for(recipients), early=True, inbox=False) as (
            bench,
            parcels,
        ):
            bench.app = without_words(bench.app)
            await send_wave(bench, parcels)
            found[name] = await _report(bench, together)
    return [_describe(name, spent) for name, spent in found.items()]


async def _report(bench: Bench, together: int) -> _Spent:
    key, parcels = SigningKey(), await bench.parcels()
    random.Random(0).shuffle(parcels)
    requests = [
        (body, key.headers(body, at=int(bench.app.clock.storage_now().timestamp())))
        for batch in batched(_events(parcels, together), MOST_EVENTS, strict=False)
        for body in [write_body(batch)]
    ]
    app, operations = bench.app, bench.operations
    events = messages = 0
    taking = settling = 0.0
    for some in batched(requests, _REQUESTS_AT_ONCE, strict=False):
        began, before = monotonic(), bench.operations
        for body, headers in some:
            now = app.clock.storage_now()
            read = read_sendgrid(body, headers, public_key=key.public, now=now)
            await app.receipts.take(read.events, "email", foreign=read.foreign)
            events += len(read.events)
        taken, messages = monotonic(), messages + bench.operations - before
        await bench.take(
            app.account.queue(NAMES.queues.receipts),
            lambda body: app.receipts.settle(decode_message(body, ShardReceipts)),
        )
        taking, settling = taking + taken - began, settling + monotonic() - taken
    operations = bench.operations - operations
    settled = await bench.parcels()
    assert all(one.delivered_count == one.count - one.left_out_count for one in settled)
    return _Spent(events, taking + settling, taking, operations, messages)


def _events(parcels: Sequence[Parcel], together: int) -> Iterator[dict[str, Any]]:
    """Two events of each recipient; those of so many parcels in no order."""
    for group in batched(parcels, together, strict=False):
        mails = [(parcel, index) for parcel in group for index in range(parcel.count)]
        for kind in ("processed", "delivered"):
            random.Random(kind).shuffle(mails)
            yield from (_event(kind, parcel, index) for parcel, index in mails)


def _event(kind: str, parcel: Parcel, index: int) -> dict[str, Any]:
    """As long as a real one, with the fields that SendGrid documents for it."""
    named = f"{parcel.attempt}{index:05d}"
    return {
        "email": f"somebody.{index}@mail.example.com",
        "event": kind,
        "timestamp": 1_800_000_000 + index,
        "smtp-id": f"<{named}@ismtpd.example>",
        "category": [parcel.campaign, parcel.touch],
        "sg_event_id": f"{kind:_<16}{named:_<24}",
        "sg_message_id": f"{named}.recvd-{parcel.attempt}-{parcel.attempt}-{index}.0",
        "ip": "198.51.100.7",
        "tls": 1,
        "response": "250 2.0.0 OK 1800000000 d2e1a72fcca58-7a9d8f7c5d6si1234567b3a.77",
        "parcel": f"{partition_of(parcel.campaign, parcel.shard)}|{parcel.key}",
        "attempt": parcel.attempt,
        "i": str(index),
    }


def _describe(name: str, spent: _Spent) -> Line:
    return Line(
        what=f"receipts into the ledger, {name}",
        measured=f"{spent.speed:,.0f} receipts/s",
        beside=f"{spent.per_thousand:,.1f} operations per 1,000",
        notes=(
            f"{spent.events:,} events in signed requests of {MOST_EVENTS:,}: "
            f"{spent.events / spent.taking:,.0f} a second until they are on the queue, in "
            f"{spent.messages:,} messages. Operations are those of storage, the host's own among "
            "them.",
        ),
    )
