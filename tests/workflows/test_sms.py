"""The channel `sms` from planning to receipts, beside the email of the same touch."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from local.inbox.phones import Text
from local.inbox.service import read_texts
from shared.rules.parcels import Parcel, State
from tests.graph import Someone, people
from tests.sending import Desk, alarms_of, running_desk
from tests.world import NAME

SILENT = {"receipts": {"silent": True}}


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        await desk.world.fault("inbox", texts=SILENT)
        yield desk


def with_mobile(number: int, **traits: Any) -> Someone:
    return Someone(number=number, mobile=f"+852 6123 {4000 + number:04}", **traits)


async def by_channel(desk: Desk) -> dict[str, list[Parcel]]:
    found: dict[str, list[Parcel]] = {"email": [], "sms": []}
    for parcel in await desk.parcels():
        found[parcel.channel].append(parcel)
    return found


async def texts(desk: Desk) -> list[Text]:
    """Those that arrived, by number."""
    found = await read_texts(desk.world.http, desk.provider.inbox_url, limit=1000)
    return sorted(found.texts, key=lambda text: text.to)


async def test_one_touch_goes_out_on_both_channels_where_a_person_has_both(desk: Desk) -> None:
    """Two have both, one an address alone, one a number alone, and one nothing but a landline."""
    await desk.plan(
        [
            with_mobile(0),
            with_mobile(16),
            Someone(number=32),
            with_mobile(48, address=None),
            Someone(number=64, address=None, mobile="+852 2859 2111"),
        ],
        sms=True,
    )
    planned = await by_channel(desk)
    assert [parcel.count for parcel in planned["email"]] == [3]
    assert [parcel.count for parcel in planned["sms"]] == [1, 1, 1]
    await desk.send_due()
    assert {parcel.state for parcel in await desk.parcels()} == {State.ACCEPTED}
    assert [text.to for text in await texts(desk)] == [
        *("+85261234000", "+85261234016", "+85261234048"),
    ]
    assert await desk.unreached() == {64: "no usable contact"}
    # The channels of a touch are one nudge: nothing more is due the next day.
    desk.clock.let_pass(hours=24)
    await desk.world.sweep()
    assert len(await desk.parcels()) == 4


@pytest.mark.invariant(5, 6)
async def test_a_text_has_no_link_no_token_and_no_name(desk: Desk) -> None:
    await desk.plan([with_mobile(0, name="Somebody Unmistakable")], sms=True)
    await desk.send_due()
    (text,) = await texts(desk)
    body = text.text
    assert body.startswith("HKU")
    assert "31 March 2027" in body
    assert "MFA pre-registration for alumni" in body
    for trace in ("http", "://", "www.", "/done", "Somebody", "Unmistakable", "connect.example"):
        assert trace not in body
    # What Twilio reports brings back a row of the ledger, and nobody's number.
    (parcel,) = (await by_channel(desk))["sms"]
    assert (text.parcel, text.attempt, text.index) == (
        f"{NAME}:0|{parcel.key}",
        parcel.attempt,
        0,
    )


@pytest.mark.invariant(2)
async def test_email_goes_out_whatever_happens_to_the_text(desk: Desk) -> None:
    await desk.world.fault("inbox", texts={**SILENT, "calls": [{"status": 401, "times": None}]})
    await desk.plan([with_mobile(0), with_mobile(16)], sms=True)
    await desk.send_due()
    found = await by_channel(desk)
    assert {parcel.state for parcel in found["email"]} == {State.ACCEPTED}
    assert {parcel.state for parcel in found["sms"]} == {State.PLANNED}
    pauses = (await desk.app.stores.control.read(NAME, "sms")).pauses
    assert "TWILIO_AUTH_TOKEN" in pauses["setup"].text
    assert (await desk.app.stores.control.read(NAME, "email")).pauses == {}


@pytest.mark.parametrize("code", [21211, 21614])
@pytest.mark.invariant(6)
async def test_a_number_that_gets_no_texts_is_remembered_as_a_hash_and_not_tried_again(
    desk: Desk, code: int
) -> None:
    await desk.world.fault("inbox", texts={**SILENT, "refuse": {"+85261234000": code}})
    await desk.plan([with_mobile(0)], sms=True)
    await desk.send_due()
    found = await by_channel(desk)
    assert [parcel.state for parcel in found["sms"]] == [State.REJECTED]
    assert [parcel.state for parcel in found["email"]] == [State.ACCEPTED]
    (person,) = (await desk.app.stores.people.read_shard(NAME, 0)).values()
    assert len(person.bad) == 1
    await desk.world.sweep()
    await desk.send_due()
    assert len((await by_channel(desk))["sms"]) == 1
    assert await texts(desk) == []


@pytest.mark.invariant(4)
@pytest.mark.parametrize("how", ["at the call", "in a status"])
async def test_stop_ends_texts_and_not_mails(desk: Desk, how: str) -> None:
    everybody = [with_mobile(0)]
    if how == "at the call":
        await desk.world.fault("inbox", texts={**SILENT, "refuse": {"+85261234000": 21610}})
    await desk.plan(everybody, sms=True)
    await desk.send_due()
    (text,) = (await by_channel(desk))["sms"]
    if how == "in a status":
        await desk.report(text, opted_out=[0])
    else:
        assert text.state is State.REJECTED
    (person,) = (await desk.app.stores.people.read_shard(NAME, 0)).values()
    assert (person.opted_out("sms"), person.opted_out("email")) == (True, False)

    desk.move_clock(desk.clock.campaign_now().replace(day=24))  # the next touch, `week`
    await desk.world.sweep()
    await desk.send_due()
    found = await by_channel(desk)
    assert sorted(parcel.touch for parcel in found["email"]) == ["fortnight", "week"]
    assert [parcel.touch for parcel in found["sms"]] == ["fortnight"]


@pytest.mark.invariant(4)
async def test_whoever_stops_while_a_text_waits_gets_none(desk: Desk) -> None:
    await desk.plan([with_mobile(0), with_mobile(16)], sms=True)
    await desk.app.completion.record_opted_out([with_mobile(0).id16], "sms")
    await desk.send_due()
    assert [text.to for text in await texts(desk)] == ["+85261234016"]
    found = await by_channel(desk)
    assert sorted(parcel.state for parcel in found["sms"]) == ["accepted", "closed"]
    assert [call.indices for call in desk.provider.calls] == [[0, 1]]


@pytest.mark.invariant(2)
async def test_a_number_refused_without_a_reason_holds_up_nobody_and_is_tried_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Each text is one person's: the first refusal of its kind may be about that person alone."""
    await desk.world.fault("inbox", texts={**SILENT, "refuse": {"+85261234000": 21408}})
    await desk.plan([with_mobile(16 * number) for number in range(4)], sms=True)
    for _ in range(3):
        await desk.send_due()
        desk.clock.let_pass(minutes=2)
    found = await by_channel(desk)
    assert sorted(parcel.state for parcel in found["sms"]) == ["accepted"] * 3 + ["rejected"]
    assert alarms_of(caplog) == []


async def test_without_a_region_a_number_needs_its_country(desk: Desk) -> None:
    numbers = [Someone(number=0, mobile="6123 4567"), Someone(number=16, mobile="+852 6123 4567")]
    await desk.plan(numbers, sms=True)
    assert len((await by_channel(desk))["sms"]) == 1


async def test_the_others_of_a_touch_wait_for_the_canary_of_their_own_channel(desk: Desk) -> None:
    everybody = [with_mobile(one.number) for one in people(32)]
    await desk.plan(everybody, sms=True, sending="canary: {recipients: 16, delivered: 1}")
    for _ in range(2):
        await desk.send_due()
    for parcel in (await by_channel(desk))["email"]:
        if parcel.canary:
            await desk.report(parcel, delivered=range(parcel.count))
    await desk.send_due()
    found = await by_channel(desk)
    assert {parcel.state for parcel in found["email"]} == {State.ACCEPTED}
    assert sorted((p.canary, p.state) for p in found["sms"]) == [
        *([(False, "planned")] * 16),
        *([(True, "accepted")] * 16),
    ]
