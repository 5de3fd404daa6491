"""What rows and messages keep of traces, and that those of before, which have none, are read."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from shared.names import NAMES, poison_of
from shared.rules.parcels import State
from shared.stores.parcels import key_of, parcel_from, row_from
from shared.stores.queues import HandOut, decode_message, hand_out_from
from shared.stores.sweeps import PARTITION
from shared.stores.table import ETAG, Table, Write
from shared.telemetry import current_trace, span
from shared.workflows.alarms import note_event, raise_alarm
from tests.sending import in_one_shard, running_desk
from tests.world import World

TRACE = bytes(range(24))


async def test_a_row_keeps_its_trace_and_its_messages_and_parts_do(
    connection_string: str, tmp_path: Path
) -> None:
    async with running_desk(connection_string, tmp_path) as desk:
        (parcel,) = await desk.plan(in_one_shard(4))
        assert parcel.trace == b""  # nothing is exported here
        assert "trace" not in row_from(parcel)
        ledger = desk.app.stores.ledger
        traced = await ledger.change(parcel, trace=TRACE)
        message = await desk.hand_out()
        assert message.trace == TRACE
        await desk.world.fault("inbox", calls=[{"status": 400}])
        await desk.send(message)
        halves = await desk.parcels(State.PLANNED)
        assert [half.trace for half in halves] == [TRACE, TRACE]
        assert traced.key == parcel.key


async def test_a_row_and_a_message_of_before_are_read(
    connection_string: str, tmp_path: Path
) -> None:
    async with running_desk(connection_string, tmp_path) as desk:
        (parcel,) = await desk.plan(in_one_shard(1))
        table = Table(desk.app.account.table(NAMES.tables.ledger))
        place = key_of(parcel)
        row = await table.read(place["PartitionKey"], place["RowKey"])
        assert row is not None
        assert "trace" not in row
        assert parcel_from(row) == parcel
        body = msgspec.json.encode(hand_out_from(parcel, probe=False))
        assert b"trace" not in body
        assert decode_message(body, HandOut).trace == b""


async def test_a_sweep_of_before_is_read_and_goes_on(world: World) -> None:
    await world.write_campaign()
    opened = await world.app.sweeps.start()
    assert opened is not None
    table = Table(world.app.account.table(NAMES.tables.control))
    row = await table.read(PARTITION, f"{opened.number:08d}")
    assert row is not None
    before = {key: value for key, value in row.items() if key not in ("trace", ETAG)}
    await table.write(Write("replace", before, row[ETAG]))
    await world.run_queues()
    committed = await world.app.stores.sweeps.read_committed()
    assert committed is not None
    assert committed.number == opened.number


@pytest.mark.parametrize("packed", [b"", b"short", bytes(24), bytes(25), bytes(16) + b"12345678"])
def test_a_trace_that_is_none_stops_nothing(packed: bytes) -> None:
    with span("work", within=packed, links=[packed, packed, TRACE]):
        assert current_trace() == b""


def test_an_error_goes_through_a_span_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError, match="division"), span("work", within=TRACE):
        _ = 1 / 0


async def test_queues_that_cannot_be_measured_are_told_and_harm_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await world.app.watch.measure()
    assert "queues_unmeasured" not in caplog.text
    for name in (NAMES.queues.sms, poison_of(NAMES.queues.plan)):
        await world.app.account.queue(name).delete_queue()
    await world.app.watch.measure()
    assert 'queues_unmeasured {"count":2}' in caplog.text


def test_an_event_of_any_field_can_be_told(caplog: pytest.LogCaptureFixture) -> None:
    """`logging` refuses fields that are named as its own are: an alarm must not fail for that."""
    caplog.set_level(logging.INFO)
    fields = {"message": "x", "name": "y", "args": 1, "campaign": "c", "reasons": {"a": 1}}
    raise_alarm("poison", **fields)
    note_event("released", **fields)
    alarm, event = caplog.records
    assert alarm.getMessage().startswith('ALARM poison {"message":"x","name":"y"')
    assert (alarm.__dict__["alarm"], alarm.__dict__["campaign"]) == ("poison", "c")
    assert (event.__dict__["event"], event.name) == ("released", "mfa_nudge")
    assert "reasons" not in event.__dict__
