"""Looking back: a touch whose day has ended short raises an alarm once, and so do receipts that
stay away, as long as they do."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, override

import pytest

from shared.rules.parcels import Parcel, State
from shared.workflows.look_back import LookBackWorkflow
from tests.graph import Someone, people
from tests.sending import Desk, campaign_text, change, running_desk
from tests.world import FORTNIGHT, NAME

CLOSING = datetime.fromisoformat("2027-03-17T18:00+08:00")
EVENING = CLOSING + timedelta(minutes=15)
"""What was claimed last has its answer by then, or is given up."""


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


async def look_back(desk: Desk, look: LookBackWorkflow | None = None) -> LookBackWorkflow:
    """As a process that has just begun does, or as one that has looked before."""
    look = look or LookBackWorkflow(desk.app.stores, desk.clock)
    await look.look_back((await desk.app.book.refresh()).find(NAME))
    return look


def alarms(caplog: pytest.LogCaptureFixture, name: str = "touch_unreached") -> list[dict[str, Any]]:
    """What the alarms of a name said, since the last time."""
    texts = [record.getMessage() for record in caplog.records if record.name == "mfa_nudge"]
    caplog.clear()
    told = (text.partition(f"ALARM {name} ")[2] for text in texts)
    return [json.loads(text) for text in told if text]


@pytest.mark.invariant(2)
async def test_it_tells_of_the_unreached_by_reason_once_and_names_nobody(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    planned = await desk.plan(people(8))
    ways: list[dict[str, Any]] = [
        {"state": State.ACCEPTED},
        {"state": State.ACCEPTED, "refused": b"\1"},
        {"state": State.AMBIGUOUS},
        {"state": State.CLOSED, "reason": "expired"},
        {"state": State.CLOSED, "reason": "expired"},
        {"state": State.CLOSED, "reason": "cancelled", "left_out": b"\1"},
        {"state": State.CLAIMED},
        {"state": State.PLANNED},
    ]
    for parcel, way in zip(planned, ways, strict=True):
        await change(desk, parcel, **way)
    desk.move_clock(EVENING)
    look = await look_back(desk)
    assert alarms(caplog) == [
        {
            "campaign": NAME,
            "touch": "fortnight",
            "channel": "email",
            "people": 5,
            "reasons": {
                "no clear answer": 1,
                "expired": 2,
                "still under way": 1,
                "still planned": 1,
            },
        }
    ]
    assert not any(parcel.ids.hex() in caplog.text for parcel in planned)
    await look_back(desk, look)
    await look_back(desk)  # another process
    assert alarms(caplog) == []


@pytest.mark.invariant(2)
async def test_it_looks_when_the_day_is_over_and_not_before(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(1)
    told: dict[str, int] = {}
    for words, at in (
        ("in the morning", FORTNIGHT),
        ("when it closes", CLOSING),
        ("while the last calls may be under way", EVENING - timedelta(seconds=5)),
        ("in the evening", EVENING),
    ):
        desk.move_clock(at)
        await look_back(desk)
        told[words] = len(alarms(caplog))
    assert told == {
        "in the morning": 0,
        "when it closes": 0,
        "while the last calls may be under way": 0,
        "in the evening": 1,
    }


@pytest.mark.invariant(2)
async def test_the_minute_timer_looks_back_also_at_what_is_held(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(2)
    await desk.app.operations.pause(NAME, "The help desk is closed.", "registrar")
    await desk.release()
    desk.move_clock(EVENING)
    await desk.release()
    (alarm,) = alarms(caplog)
    assert alarm["reasons"] == {"still planned": 2}


async def test_a_day_that_reached_everybody_raises_no_alarm(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does one on which nobody was due, nor what a file's seed addresses miss."""
    planned = await desk.plan(3, sending="seed_addresses: [colleague@its.hku.hk]")
    for parcel in planned:
        state = State.CLOSED if parcel.seed else State.ACCEPTED
        await change(desk, parcel, state=state, reason="expired" if parcel.seed else "")
    assert any(parcel.seed for parcel in planned)
    desk.move_clock(EVENING)
    await look_back(desk)
    assert alarms(caplog) == []
    row = await desk.app.stores.control.read(NAME, "email")
    assert row.looked_back == (
        *("announce 2027-01-29", "month 2027-03-01", "fortnight 2027-03-17"),
    )


async def test_each_channel_is_looked_at_and_whom_the_other_reached_is_not_lost(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    everybody = [Someone(number=n, mobile=f"+852 6123 400{n}") for n in range(2)]
    for parcel in await desk.plan(everybody, sms=True):
        reached = parcel.channel == "sms" and parcel.shard == 0
        state = State.ACCEPTED if reached else State.CLOSED
        await change(desk, parcel, state=state, reason="" if reached else "failed")
    desk.move_clock(EVENING)
    await look_back(desk)
    told = {(alarm["channel"], alarm["people"]) for alarm in alarms(caplog)}
    assert told == {("email", 1), ("sms", 1)}
    for channel in ("email", "sms"):
        assert len((await desk.app.stores.control.read(NAME, channel)).looked_back) == 3


async def test_a_touch_that_a_later_deadline_moves_is_looked_at_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(1)
    desk.move_clock(EVENING)
    await look_back(desk)
    assert len(alarms(caplog)) == 1
    text = campaign_text(deadline="2027-04-07", enforced_from="2027-04-08")
    await desk.world.write_campaign(text)
    await desk.app.book.refresh(accept=True)
    await look_back(desk)
    assert alarms(caplog) == []  # the day is to come again
    desk.move_clock(EVENING + timedelta(days=7))
    await look_back(desk)
    assert [alarm["touch"] for alarm in alarms(caplog)] == ["fortnight"]


class Dies(logging.Handler):
    """The process ends right after it has said that people were unreached."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if "touch_unreached" in record.getMessage():
            raise Died


class Died(BaseException):
    pass


@pytest.mark.invariant(2)
async def test_a_crash_after_the_alarm_repeats_it_and_never_loses_it(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.plan(1)
    desk.move_clock(EVENING)
    end = Dies()
    logging.getLogger().addHandler(end)  # behind the one that listens here
    with pytest.raises(Died):
        await look_back(desk)
    logging.getLogger().removeHandler(end)
    assert len(alarms(caplog)) == 1
    for expected in (1, 0):
        await look_back(desk)
        assert len(alarms(caplog)) == expected


# --- receipts -------------------------------------------------------------------------------------


async def silence(desk: Desk, caplog: pytest.LogCaptureFixture) -> list[int]:
    """Of how many recipients nothing is heard, as the minute timer tells."""
    await desk.release()
    return [alarm["recipients"] for alarm in alarms(caplog, "receipts_silent")]


async def test_receipts_that_stay_away_are_told_of_once_an_hour(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    parcels = await desk.plan(people(32))
    await desk.send_due()
    told: dict[str, list[int]] = {}
    for words, minutes in (
        ("after 1 h 50", 110),
        ("after 2 h", 11),
        ("ten minutes later", 10),
        ("an hour later", 50),
    ):
        desk.clock.let_pass(minutes=minutes)
        told[words] = await silence(desk, caplog)
    assert told == {
        "after 1 h 50": [],
        "after 2 h": [32],
        "ten minutes later": [],
        "an hour later": [32],
    }
    await desk.report(await last_call(desk), delivered=[0])
    desk.clock.let_pass(hours=2)
    assert await silence(desk, caplog) == []
    assert len(parcels) == 16


@pytest.mark.parametrize(
    "receipt",
    [{}, {"bounced": [(0, bytes(16))]}, {"opted_out": [0]}, {"delivered": [0]}],
    ids=["on its way, put off, blocked or dropped", "bounced", "complained", "delivered"],
)
async def test_whatever_a_receipt_says_the_webhook_is_not_silent(
    desk: Desk, caplog: pytest.LogCaptureFixture, receipt: dict[str, list[Any]]
) -> None:
    await desk.plan(people(32))
    await desk.send_due()
    await desk.report(await last_call(desk), **receipt)
    desk.clock.let_pass(hours=3)
    assert await silence(desk, caplog) == []


async def last_call(desk: Desk) -> Parcel:
    """The row whose call was accepted, and was claimed last."""
    called = await desk.parcels(State.ACCEPTED)
    return max(called, key=lambda parcel: parcel.claimed_at or desk.clock.storage_now())
