"""Control rows and verdicts: nothing is lost when two write, and a verdict is written once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest

from shared.clock import StorageTime, SystemClock
from shared.rules.guards import ShardCounts, Verdict
from shared.rules.pace import Bucket
from shared.stores import Stores
from shared.stores.account import StorageAccount, StorageSettings
from shared.stores.control import Control, ControlRow
from tests.stores.making import CAMPAIGN, PLANNED_FROM
from tests.stores.relay import Loss, relaying

EMAIL = "email"
GO = Verdict(go=True, counts=ShardCounts(roster=10))
PAUSE = Verdict(go=False, reasons=("The audience shrank.",), counts=ShardCounts(roster=1))


@pytest.fixture
def control(stores: Stores) -> Control:
    return stores.control


# the control row


async def test_a_channel_that_nothing_is_known_of(control: Control) -> None:
    assert await control.read(CAMPAIGN, EMAIL) == ControlRow()


async def test_the_first_pause_of_a_reason_stands(control: Control) -> None:
    await control.pause(CAMPAIGN, EMAIL, "setup", "The key is wrong.")
    await control.pause(CAMPAIGN, EMAIL, "setup", "The key is still wrong.")
    await control.pause(CAMPAIGN, EMAIL, "administrator", "", by="someone")
    row = await control.read(CAMPAIGN, EMAIL)
    assert {name: (one.text, one.by) for name, one in row.pauses.items()} == {
        "setup": ("The key is wrong.", ""),
        "administrator": ("", "someone"),
    }
    assert (await control.read("alumni-2028", EMAIL)).pauses == {}
    assert (await control.read(CAMPAIGN, "sms")).pauses == {}


async def test_lifting_ends_what_it_names_and_dates_it(
    control: Control, clock: SystemClock
) -> None:
    assert await control.lift(CAMPAIGN, EMAIL) == []
    assert (await control.read(CAMPAIGN, EMAIL)).resumed_at is None
    await control.pause(CAMPAIGN, EMAIL, "setup", "a")
    await control.pause(CAMPAIGN, EMAIL, "ambiguity", "b")
    assert await control.lift(CAMPAIGN, EMAIL, {"setup"}) == ["setup"]
    row = await control.read(CAMPAIGN, EMAIL)
    assert set(row.pauses) == {"ambiguity"}
    assert row.resumed_at
    assert abs(clock.storage_now() - row.resumed_at) < timedelta(seconds=5)
    assert await control.lift(CAMPAIGN, EMAIL) == ["ambiguity"]
    assert (await control.read(CAMPAIGN, EMAIL)).pauses == {}


async def test_a_later_retry_at_stands(control: Control) -> None:
    early, late = PLANNED_FROM, StorageTime(PLANNED_FROM + timedelta(minutes=1))
    for at, stands in ((early, early), (late, late), (early, late)):
        await control.hold_until(CAMPAIGN, EMAIL, at)
        assert (await control.read(CAMPAIGN, EMAIL)).retry_at == stands


def _with_token(row: ControlRow, at: StorageTime) -> ControlRow:
    held = row.buckets[""].tokens if row.buckets else 0
    return msgspec.structs.replace(row, buckets={"": Bucket(held + 1, at)})


async def test_no_change_is_lost_when_many_write_at_once(control: Control) -> None:
    """The rate would be exceeded, were one taking of tokens to undo another."""

    async def take(number: int) -> None:
        at = StorageTime(PLANNED_FROM + timedelta(microseconds=number))
        await control.change(
            CAMPAIGN,
            EMAIL,
            lambda row: _with_token(row, at),
        )

    await asyncio.gather(*map(take, range(8)))
    assert (await control.read(CAMPAIGN, EMAIL)).buckets[""].tokens == 8


@pytest.mark.parametrize("how", ["cut off", "unavailable"])
async def test_tokens_are_taken_once_though_we_were_not_told(
    connection_string: str, control: Control, how: Loss
) -> None:
    async with relaying(connection_string, "Table") as (through, relay):
        account = StorageAccount(StorageSettings(connection_string=through), SystemClock())
        relayed = Stores.over(account, SystemClock()).control
        for tokens in (1, 2):
            relay.lose_next_answer(how)
            row = await relayed.change(
                CAMPAIGN,
                EMAIL,
                lambda row: _with_token(row, PLANNED_FROM),
            )
            assert relay.lost == tokens
            assert row.buckets[""].tokens == tokens
            assert row == await control.read(CAMPAIGN, EMAIL)
        await account.close()


async def test_nothing_to_do_writes_nothing(control: Control) -> None:
    await control.pause(CAMPAIGN, EMAIL, "setup", "a")
    before = await control.read(CAMPAIGN, EMAIL)
    assert await control.change(CAMPAIGN, EMAIL, lambda row: None) == before
    assert await control.read(CAMPAIGN, EMAIL) == before


# verdicts


@pytest.mark.invariant(8)
async def test_a_verdict_is_written_once(control: Control) -> None:
    assert await control.read_verdict(CAMPAIGN, (1, 1)) is None
    assert await control.write_verdict(CAMPAIGN, (1, 1), PAUSE) == PAUSE
    assert await control.write_verdict(CAMPAIGN, (1, 1), GO) == PAUSE
    assert await control.read_verdict(CAMPAIGN, (1, 1)) == PAUSE


@pytest.mark.invariant(8)
async def test_the_last_go_is_the_newest_below_a_pair(control: Control) -> None:
    """By sweep, then by version; pauses do not count, nor do other campaigns."""
    verdicts = {(1, 1): GO, (2, 1): GO, (2, 3): GO, (9, 1): PAUSE, (10, 2): GO}
    for number, (pair, verdict) in enumerate(verdicts.items()):
        marked = msgspec.structs.replace(verdict, counts=ShardCounts(roster=number))
        await control.write_verdict(CAMPAIGN, pair, marked)
    for before, roster in (
        ((1, 1), None),
        ((2, 1), 0),
        ((2, 2), 1),
        ((2, 4), 2),
        ((9, 1), 2),
        ((9, 2), 2),
        ((10, 2), 2),
        ((100, 1), 4),
    ):
        found = await control.read_last_go(CAMPAIGN, before)
        assert (found.counts.roster if found else None) == roster, before
    assert await control.read_last_go("alumni-2028", (100, 1)) is None


@pytest.mark.invariant(8)
async def test_a_lifted_pause_says_who_lifted_it_and_why_it_was(control: Control) -> None:
    assert not await control.lift_verdict(CAMPAIGN, (1, 1), "someone")
    await control.write_verdict(CAMPAIGN, (1, 1), PAUSE)
    assert await control.lift_verdict(CAMPAIGN, (1, 1), "someone")
    verdict = await control.read_verdict(CAMPAIGN, (1, 1))
    assert verdict == msgspec.structs.replace(PAUSE, go=True, by="someone")
    assert await control.read_last_go(CAMPAIGN, (2, 1)) == verdict
    assert not await control.lift_verdict(CAMPAIGN, (1, 1), "someone else")
