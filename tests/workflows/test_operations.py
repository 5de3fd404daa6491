"""What an administrator does to a running campaign: pause and resume it, have it planned again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path

import pytest

from admin.operate import format_asked
from shared.errors import SetupFault
from shared.rules.parcels import State
from shared.workflows.replan import Asked
from tests.sending import (
    EARLY,
    Desk,
    LossyTable,
    campaign_text,
    change,
    losing_answers,
    running_desk,
)
from tests.world import NAME


@pytest.fixture
async def lossy(connection_string: str, tmp_path: Path) -> AsyncGenerator[tuple[Desk, LossyTable]]:
    async with (
        losing_answers(connection_string) as (through_proxy, table),
        running_desk(connection_string, tmp_path, AzureWebJobsStorage=through_proxy) as desk,
    ):
        yield desk, table


@pytest.fixture
def desk(lossy: tuple[Desk, LossyTable]) -> Desk:
    return lossy[0]


# --- pause and resume -----------------------------------------------------------------------------


async def test_a_campaign_that_there_is_not_is_named_with_those_that_there_are(desk: Desk) -> None:
    await desk.plan(1)
    for act in (
        desk.app.operations.pause("hku-alumni-2072", "Wait.", "registrar"),
        desk.app.operations.resume("hku-alumni-2072", "registrar"),
    ):
        with pytest.raises(SetupFault, match=r"no campaign `hku-alumni-2072`.*hku-alumni-2027"):
            await act


async def test_the_first_reason_stands_and_resume_says_what_it_lifted(desk: Desk) -> None:
    await desk.plan(1)
    operations, control = desk.app.operations, desk.app.stores.control
    assert await operations.resume(NAME, "registrar") == []
    await operations.pause(NAME, "The help desk is closed.", "registrar")
    await operations.pause(NAME, "It is late.", "someone else")
    await control.pause(NAME, "email", "setup", "The key is not valid.")

    row = await control.read(NAME, "email")
    assert {reason: (pause.text, pause.by) for reason, pause in row.pauses.items()} == {
        "administrator": ("The help desk is closed.", "registrar"),
        "setup": ("The key is not valid.", ""),
    }
    assert sorted(await operations.resume(NAME, "registrar")) == ["administrator", "setup"]
    assert await operations.resume(NAME, "registrar") == []


async def test_pauses_made_side_by_side_are_all_kept(desk: Desk) -> None:
    await desk.plan(1)
    control = desk.app.stores.control
    made = await asyncio.gather(
        control.pause(NAME, "email", "setup", "one"),
        control.pause(NAME, "email", "setup", "two"),
        control.pause(NAME, "email", "ambiguity", "three"),
        control.pause(NAME, "email", "administrator", "four"),
    )
    assert sorted((await control.read(NAME, "email")).pauses) == [
        *("administrator", "ambiguity", "setup")
    ]
    assert made.count(True) == 3


async def test_a_lost_answer_changes_nothing_of_what_is_told(
    lossy: tuple[Desk, LossyTable],
) -> None:
    desk, table = lossy
    await desk.plan(120)
    await desk.plan(48)  # over night the audience shrank: the guards pause

    table.lose = [lambda write: "channel|email" in write]
    assert await desk.app.stores.control.pause(NAME, "email", "setup", "The key is not valid.")
    table.lose = [
        lambda write: "channel|email" in write,
        lambda write: "verdict|" in write,
    ]
    assert await desk.app.operations.resume(NAME, "registrar") == ["setup", "verdict"]
    assert table.lose == []
    assert (await desk.app.status.collect()).campaigns[0].waiting == []


async def test_one_channel_can_be_paused_and_resumed_alone(desk: Desk) -> None:
    await desk.plan(1, sms=True)
    operations, control = desk.app.operations, desk.app.stores.control

    async def paused() -> list[str]:
        return [one for one in ("email", "sms") if (await control.read(NAME, one)).pauses]

    await operations.pause(NAME, "Texts cost too much.", "registrar", ["sms"])
    assert await paused() == ["sms"]
    assert await operations.resume(NAME, "registrar", ["email"]) == []
    await operations.pause(NAME, "The help desk is closed.", "registrar")
    assert await paused() == ["email", "sms"]
    assert await operations.resume(NAME, "registrar", ["email"]) == ["administrator"]
    assert await paused() == ["sms"]


# --- planning again -------------------------------------------------------------------------------


async def test_without_a_sweep_there_is_nothing_to_plan_from(desk: Desk) -> None:
    await desk.world.write_campaign(campaign_text())
    await desk.app.book.refresh(accept=True)
    for campaign in (None, NAME):
        with pytest.raises(SetupFault, match=r"No sweep has been committed.*`nudge sweep --now`"):
            await desk.app.replan.plan_again(campaign)
    with pytest.raises(SetupFault, match=f"no campaign `nobody`.*{NAME}"):
        await desk.app.replan.plan_again("nobody")


@pytest.mark.parametrize("campaign", [None, NAME])
async def test_the_newest_sweep_is_planned_again(desk: Desk, campaign: str | None) -> None:
    """What failed since gets a new parcel, what is planned is taken back and planned anew, and
    what was sent stays had."""
    sent, failed, *planned = await desk.plan(16)
    await change(desk, sent, state=State.ACCEPTED)
    await change(desk, failed, state=State.CLOSED, reason="failed")
    desk.move_clock(EARLY)
    assert await desk.app.replan.plan_again(campaign) == {NAME: Asked(sweep=1, version=1, asked=16)}
    await desk.world.run_queues()
    now = await desk.parcels()
    assert sorted(p.ids for p in now if p.state is State.PLANNED) == sorted(
        parcel.ids for parcel in (failed, *planned)
    )
    assert [p.key for p in now if p.state is State.ACCEPTED] == [sent.key]
    closed = {p.key: p.reason for p in now if p.state is State.CLOSED}
    assert closed == {failed.key: "failed"} | {parcel.key: "replanned" for parcel in planned}
    assert (await desk.app.stores.sweeps.read_head()).number == 1


async def test_asking_twice_plans_once_and_what_is_under_way_is_left_alone(desk: Desk) -> None:
    await desk.plan(16)
    desk.move_clock(EARLY)
    ledger = desk.app.stores.ledger
    first = await desk.app.replan.plan_again()
    second = await desk.app.replan.plan_again()
    assert first == second
    fence = await ledger.read_fence(NAME, 3)
    run = await ledger.take_fence(NAME, 3, fence, (1, 1), "another", desk.clock.storage_now())
    third = await desk.app.replan.plan_again()
    assert (third[NAME].asked, third[NAME].under_way) == (15, 1)
    await desk.world.run_queues()
    await run.refresh()  # nobody has taken the fence from it
    assert len(await desk.parcels(State.PLANNED)) == 16


async def test_what_cannot_be_planned_says_why(desk: Desk) -> None:
    await desk.plan(1)
    other = "00000000-0000-0000-0000-000000000001"
    await desk.world.write_campaign(campaign_text(group=other))
    await desk.app.book.refresh(accept=True)
    refused: list[str] = [(await desk.app.replan.plan_again())[NAME].refused]
    desk.move_clock(datetime.fromisoformat("2027-05-01T10:00+08:00"))
    refused.append((await desk.app.replan.plan_again())[NAME].refused)
    await desk.app.account.container("config").delete_blob("alumni.yaml")
    refused.append((await desk.app.replan.plan_again())[NAME].refused)
    assert refused == [
        "its new audience is read by the next sweep",
        "it is over",
        "it has no file",
    ]


def test_what_was_asked_for_is_told_line_by_line() -> None:
    asked = {
        "one": Asked(sweep=3, version=2, asked=16),
        "two": Asked(sweep=3, version=1, asked=14, under_way=2),
        "three": Asked(sweep=3, version=1, refused="it is over"),
    }
    assert format_asked(asked).splitlines() == [
        "one: 16 shards to be planned under sweep 3, version 2.",
        "two: 14 shards to be planned under sweep 3, version 1. 2 are being planned at this "
        "moment.",
        "three: not planned, it is over.",
    ]
