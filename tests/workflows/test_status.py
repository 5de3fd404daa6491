"""What `nudge status` is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.rules.parcels import State, with_bits
from shared.workflows.status import CampaignStatus
from tests.graph import Someone, people
from tests.sending import Desk, campaign_text, change, in_one_shard, running_desk
from tests.world import NAME


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


async def campaign_of(desk: Desk) -> CampaignStatus:
    (campaign,) = (await desk.app.status.collect()).campaigns
    return campaign


async def test_before_the_first_sweep(desk: Desk) -> None:
    await desk.world.write_campaign(campaign_text())
    await desk.app.book.refresh(accept=True)
    status = await desk.app.status.collect()
    assert status.sweep is None
    assert (await campaign_of(desk)).waiting == ["No sweep has been committed yet."]
    assert (await campaign_of(desk)).counts is None


@pytest.mark.invariant(2)
async def test_who_was_not_reached_is_listed_by_object_id(desk: Desk) -> None:
    assert await desk.app.status.collect_unreached() == {}  # no sweep has read anybody yet
    [silent, *others] = people(4)
    await desk.plan([dataclasses.replace(silent, address=None), *others])
    found = await desk.app.status.collect_unreached()
    assert found == {NAME: {silent.id: "no usable contact"}}


async def test_the_sweep_and_what_it_found(desk: Desk) -> None:
    everybody = [
        *people(5),
        *people(3, start=5, registered=True),
        *people(2, start=8, registered=None),
        *people(1, start=10, methods=("methodOfALaterYear",)),
        *people(2, start=11, enabled=False),
        *people(1, start=13, user_type="Guest"),
        *people(2, start=14, address=None),
    ]
    await desk.plan(everybody)
    status = await desk.app.status.collect()
    assert status.sweep is not None
    assert (status.sweep.number, status.sweep.state, status.sweep.reason) == (1, "committed", "")
    campaign = await campaign_of(desk)
    assert (campaign.campaign, campaign.version, campaign.mode) == (NAME, 1, "live")
    assert (campaign.file, campaign.deadline) == ("alumni.yaml", "2027-03-31")
    counts = campaign.counts
    assert counts is not None
    told = msgspec.structs.asdict(counts)
    assert {name: told[name] for name in told if told[name]} == {
        "roster": 16,
        "registered": 3,
        "unregistered": 7,
        "unknown": 2,
        "unrecognised": 1,
        "excluded": 3,
        "unreachable": 2,
        "recipients": 5,
        "parcels": 5,
        "reasons": {"disabled": 2, "guest": 1},
    }


async def test_each_touch_counts_its_parcels_and_people_by_where_they_are(desk: Desk) -> None:
    """Three people a parcel; closed ones are somebody else's, or nobody's."""
    planned = await desk.plan(people(48))
    ways: list[dict[str, Any]] = [
        {"state": State.PLANNED},
        {"state": State.CLAIMED},
        {"state": State.AMBIGUOUS},
        {"state": State.AMBIGUOUS, "final": True},
        {"state": State.REJECTED, "refused": with_bits(b"", [0, 1, 2])},
        {"state": State.CLOSED, "reason": "replanned"},
        {"state": State.CLOSED, "reason": "split"},
        {"state": State.ACCEPTED},
        {"state": State.ACCEPTED, "refused": with_bits(b"", [1])},
        {"state": State.ACCEPTED, "left_out": with_bits(b"", [0, 2])},
        {
            "state": State.ACCEPTED,
            "left_out": with_bits(b"", [0, 1]),
            "refused": with_bits(b"", [1]),
        },
    ]
    for parcel, way in zip(planned, ways, strict=False):
        await change(desk, parcel, **way)

    campaign = await campaign_of(desk)
    touches = {touch.touch: touch for touch in campaign.touches}
    assert list(touches) == ["announce", "month", "fortnight", "week", "last-call", "after"]
    assert touches["fortnight"].parcels == {
        "planned": 6,
        "claimed": 1,
        "ambiguous": 1,
        "final": 1,
        "rejected": 1,
        "accepted": 4,
    }
    assert touches["fortnight"].people == {
        "planned": 18,
        "claimed": 3,
        "ambiguous": 3,
        "final": 3,
        "refused": 4,
        "left out": 4,
        "accepted": 7,
    }
    assert touches["fortnight"].opening == datetime.fromisoformat("2027-03-17T01:00Z")
    assert all(not touches[name].parcels for name in touches if name != "fortnight")


@pytest.mark.invariant(7)
async def test_mistakes_are_told_with_file_and_line_and_the_good_version_stands(
    desk: Desk,
) -> None:
    await desk.plan(1)
    wrong = campaign_text().replace("timezone: Asia/Hong_Kong", "timezone: Asia/Kowloon")
    line = wrong[: wrong.index("Asia/Kowloon")].count("\n") + 1
    await desk.world.write_campaign(wrong)
    await desk.world.write_campaign("campaign: [", file="other.yaml")

    status = await desk.app.status.collect()
    (campaign,) = status.campaigns
    assert (campaign.version, campaign.waiting) == (1, [])
    (mistake,) = campaign.mistakes
    assert mistake.startswith(f"alumni.yaml:{line}: ")
    (loose,) = status.mistakes
    assert loose.startswith("other.yaml:1: ")


async def test_it_says_why_nothing_goes_out(desk: Desk) -> None:
    await desk.plan(1, mode="dry-run")
    dry_run = "The mode is dry-run: everything is counted, and nothing is sent."
    assert (await campaign_of(desk)).waiting == [dry_run]
    desk.move_clock(datetime.fromisoformat("2027-03-17T18:30+08:00"))
    assert (await campaign_of(desk)).waiting == [
        dry_run,
        "The window is closed: open from 09:00 until 18:00, Asia/Hong_Kong, on the days that "
        "`sending.window` names.",
    ]


@pytest.mark.invariant(2)
async def test_everybody_who_was_not_reached_is_listed_with_the_reason(desk: Desk) -> None:
    everybody = [
        *in_one_shard(8),
        Someone(number=1, address=None),
        Someone(number=2, address="n/a"),
    ]
    planned = await desk.plan(everybody, parcel_size=1)
    ways: list[dict[str, Any]] = [
        {"state": State.ACCEPTED},
        {"state": State.AMBIGUOUS},
        {"state": State.AMBIGUOUS, "final": True},
        {"state": State.REJECTED, "refused": b"\1"},
        {"state": State.CLOSED, "reason": "expired"},
        {"state": State.CLOSED, "reason": "failed"},
        {"state": State.CLOSED, "reason": "cancelled", "left_out": b"\1"},
        {"state": State.PLANNED},
    ]
    for parcel, way in zip(planned, ways, strict=True):
        await change(desk, parcel, **way)
    numbers = [int(parcel.ids.hex()[1:8], 16) for parcel in planned]
    reasons = [None, "no clear answer", "no clear answer", "the address was refused"]
    reasons += ["expired", "failed", None, None]
    assert await desk.unreached() == {
        **{number: why for number, why in zip(numbers, reasons, strict=True) if why},
        1: "no usable contact",
        2: "no usable contact",
    }
