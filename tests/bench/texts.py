"""Text messages, each with a row of its own: what they cost, and what they cost release later."""

from __future__ import annotations

import secrets

from shared.clock import monotonic
from shared.rules.parcels import SHARDS, State
from shared.stores.parcels import Ledger
from tests.bench.bed import Bed, Bench
from tests.bench.children import run_child
from tests.bench.pages import write_sweep
from tests.bench.table import Line
from tests.world import EXAMPLE, NAME

_TICK = 60
"""Seconds from one tick of release to the next."""

_DAYS = 9
"""So long release looks at a row."""

_TWILIO = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "0" * 32,
    "TWILIO_FROM": "#Example",
}


async def measure(bed: Bed, texts: int) -> list[Line]:
    """Plans about so many texts, sends what one tick releases, and lets release look at all of
    them once they have been accepted."""
    async with bed.running_bench(inbox=True, campaign=_by_sms(), settings=_TWILIO) as bench:
        messages = await write_sweep(bench, texts * 5 // 2, early=True)
        began = monotonic()
        for message in messages:
            await bench.app.plans.plan(message)
        planning = monotonic() - began
        rows = len(await bench.parcels())
        operations, began = bench.operations, monotonic()
        await bench.app.releases.release_campaign(NAME)
        await bench.send("sms")
        sending, operations = monotonic() - began, bench.operations - operations
        sent = len(await bench.accepted())
        await _accept_the_rest(bench)
        await bench.app.releases.release_all()  # looks back at what has just changed
        before, began = bench.operations, monotonic()
        await bench.app.releases.release_all()
        tick, looks = monotonic() - began, bench.operations - before
        began = monotonic()
        await bench.app.status.collect()
        status = monotonic() - began
        fresh = await run_child("tests.bench.sender", "release", environment=bench.environment)
    each, memory = tick / rows, fresh["peak"] - fresh["base"]
    return [
        Line(
            what=f"sending {sent:,} texts, a row each",
            measured=f"{sent / sending:,.0f} texts/s",
            beside=f"{(operations + sent) / sent * 1000:,.0f} operations per 1,000",
            notes=(
                f"{rows:,} of them were planned, {rows / planning:,.0f} a second; one tick "
                "releases no more than may be outstanding.",
            ),
        ),
        Line(
            what=f"a tick of release over {rows:,} texts that are settled",
            measured=f"{tick:.2f} s",
            beside=f"{each * 1e6:,.0f} µs a row; a status {status / rows * 1e6:,.0f} µs",
            notes=(
                f"{looks} storage operations, {memory / rows:,.0f} bytes of memory a row. A tick "
                f"takes its whole minute from {_TICK / each:,.0f} rows of the last {_DAYS} days "
                "on, on these processors.",
            ),
        ),
    ]


def _by_sms() -> str:
    """The example, live, by text message."""
    text = EXAMPLE.read_text().replace("mode: dry-run", "mode: live")
    for old, new in (
        ("channels: [email]", "channels: [sms]"),
        ("# look_for:", "look_for:"),
        ("# short_name:", "short_name:"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


async def _accept_the_rest(bench: Bench) -> None:
    """As sending and receipts leave them."""
    ledger: Ledger = bench.app.stores.ledger
    storage, campaign = bench.app.clock.storage_now(), bench.app.clock.campaign_now()
    for shard in range(len(SHARDS)):
        planned = [p async for p in ledger.scan(NAME, shard, where="state eq 'planned'", ids=False)]
        changed, _ = await ledger.change_many(
            planned,
            state=State.ACCEPTED,
            released_at=storage,
            claimed_at=storage,
            touched_at=campaign,
            attempt=secrets.token_hex(8),
            delivered=b"\x01",
        )
        assert len(changed) == len(planned)
