"""What the status page and `nudge status` are made of, and what the latter prints."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from admin.report import format_status
from shared.clock import StorageTime
from shared.rules.parcels import State, with_bits
from shared.stores.queues import ReadPages
from shared.workflows.status import CampaignStatus
from tests.graph import GROUP, Someone, people
from tests.sending import EARLY, Desk, campaign_text, change, in_one_shard, running_desk
from tests.world import NAME


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


async def campaign_of(desk: Desk) -> CampaignStatus:
    (campaign,) = (await desk.app.status.collect()).campaigns
    return campaign


# --- before there is anything ---------------------------------------------------------------------


async def test_before_there_is_a_campaign(desk: Desk) -> None:
    status = await desk.app.status.collect()
    (need,) = status.needs
    assert "put it into the container `config`" in need
    assert (status.campaigns, status.sweep, status.committed) == ([], None, None)
    assert format_status(status).startswith(f"Needs you: {need}\nNo sweep yet.")

    await desk.world.write_campaign(campaign_text())
    status = await desk.app.status.collect()
    assert (status.needs, status.new_files, status.campaigns) == ([], ["alumni.yaml"], [])

    await desk.app.book.refresh(accept=True)
    status = await desk.app.status.collect()
    assert (status.needs, status.new_files, len(status.campaigns)) == ([], [], 1)


async def test_before_the_first_sweep(desk: Desk) -> None:
    await desk.world.write_campaign(campaign_text())
    await desk.app.book.refresh(accept=True)
    status = await desk.app.status.collect()
    assert status.sweep is None
    campaign = await campaign_of(desk)
    assert campaign.waiting == campaign.waits == ["No sweep has been committed yet."]
    assert (campaign.counts, campaign.shards_done, campaign.needs) == (None, 0, [])
    assert campaign.headline.startswith("Nothing to do: the first sweep starts at ")


async def test_while_the_first_sweep_reads(desk: Desk) -> None:
    desk.graph.groups[GROUP] = people(5)
    desk.graph.page_size = lambda _: 2
    await desk.world.write_campaign(campaign_text())
    await desk.app.sweeps.start()
    await desk.app.sweeps.read(ReadPages(1, "registrations", 1))

    status = await desk.app.status.collect()
    assert status.sweep is not None
    passes = [(one.source, one.run, one.pages, one.complete) for one in status.sweep.passes]
    assert passes == [("registrations", 1, 3, True), (f"group-{GROUP}", 1, 0, False)]
    assert (status.sweep.state, status.committed) == ("open", None)
    (campaign,) = status.campaigns
    assert campaign.headline == "Nothing to do: sweep 1 is reading the directory."


async def test_while_it_is_planned(desk: Desk) -> None:
    """After a new version: planned in part, its figures are not known yet."""
    await desk.plan(16)
    await desk.world.write_campaign(campaign_text(min_gap_hours="21"))
    await desk.app.book.refresh(accept=True)
    campaign = await campaign_of(desk)
    assert (campaign.version, campaign.counts, campaign.shards_done) == (2, None, 0)
    assert campaign.needs == []
    assert campaign.headline.startswith("Nothing to do. Planning under the newest sweep")

    desk.move_clock(EARLY)
    await desk.release()
    await desk.world.run_queues()
    campaign = await campaign_of(desk)
    assert (campaign.counts is not None, campaign.shards_done) == (True, 16)


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
    assert status.committed == status.sweep
    assert status.sweep.passes == []
    campaign = await campaign_of(desk)
    assert (campaign.campaign, campaign.version, campaign.mode) == (NAME, 1, "live")
    assert (campaign.file, campaign.deadline) == ("alumni.yaml", "2027-03-31")
    assert (campaign.days_left, campaign.days_to_enforcement) == (14, 15)
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
        "planned": {"fortnight|email": 5},
    }
    assert "16 accounts: 3 registered (0 confirmed by a completion), 7 unregistered (2 unreach" in (
        format_status(status)
    )


async def test_each_touch_counts_its_parcels_and_people_by_where_they_are(desk: Desk) -> None:
    """Three people a parcel. Of a parcel that was planned again or split they stand elsewhere."""
    planned = await desk.plan(people(48))
    ways: list[dict[str, Any]] = [
        {"state": State.PLANNED},
        {"state": State.CLAIMED},
        {"state": State.AMBIGUOUS},
        {"state": State.AMBIGUOUS, "final": True},
        {"state": State.REJECTED, "refused": with_bits(b"", [0, 1, 2])},
        {"state": State.CLOSED, "reason": "replanned"},
        {"state": State.CLOSED, "reason": "split"},
        {"state": State.CLOSED, "reason": "expired"},
        {"state": State.CLOSED, "reason": "failed", "left_out": with_bits(b"", [2])},
        {"state": State.CLOSED, "reason": "cancelled", "left_out": with_bits(b"", [0, 1, 2])},
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
        "planned": 3,
        "claimed": 1,
        "ambiguous": 1,
        "final": 1,
        "rejected": 1,
        "expired": 1,
        "failed": 1,
        "cancelled": 1,
        "accepted": 4,
    }
    assert touches["fortnight"].people == {
        "planned": 9,
        "claimed": 3,
        "ambiguous": 3,
        "final": 3,
        "refused": 4,
        "left out": 8,
        "expired": 3,
        "failed": 2,
        "accepted": 7,
    }
    assert sum(touches["fortnight"].people.values()) == 48 - 2 * 3
    assert touches["fortnight"].opening == datetime.fromisoformat("2027-03-17T01:00Z")
    assert touches["fortnight"].closing == datetime.fromisoformat("2027-03-17T10:00Z")
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
    assert campaign.needs == [
        "`alumni.yaml`: 1 mistake. Version 1 stays in force until it is corrected."
    ]
    (loose,) = status.mistakes
    assert loose.startswith("other.yaml:1: ")
    assert status.needs == ["`other.yaml` has 1 mistake and takes no effect until it is corrected."]
    assert status.new_files == []


async def test_it_says_why_nothing_goes_out(desk: Desk) -> None:
    await desk.plan(1, mode="dry-run")
    dry_run = "The mode is dry-run: everything is counted, and nothing is sent."
    assert (await campaign_of(desk)).waiting == [dry_run]
    desk.move_clock(datetime.fromisoformat("2027-03-17T18:30+08:00"))
    assert (await campaign_of(desk)).waiting == [
        dry_run,
        "The window is closed until Thu 18 March 2027, 09:00 (Asia/Hong_Kong).",
    ]
    desk.move_clock(datetime.fromisoformat("2027-03-19T18:00+08:00"))
    assert (await campaign_of(desk)).waits[-1] == (
        "The window is closed until Mon 22 March 2027, 09:00 (Asia/Hong_Kong)."
    )
    desk.move_clock(datetime.fromisoformat("2027-03-17T03:00+08:00"))
    assert (await campaign_of(desk)).waits[-1] == (
        "The window is closed until Wed 17 March 2027, 09:00 (Asia/Hong_Kong)."
    )


PLACES = [
    # in Hong Kong, and where each touch stands then
    ("Thu 28 Jan 12:00", "2027-01-28T12:00+08:00", "next later later later later later"),
    ("Fri 29 Jan 09:00", "2027-01-29T09:00+08:00", "way next later later later later"),
    ("Fri 26 Feb 17:59", "2027-02-26T17:59+08:00", "way next later later later later"),
    ("Sun 28 Feb 12:00", "2027-02-28T12:00+08:00", "over next later later later later"),
    ("Wed 17 Mar 10:00", "2027-03-17T10:00+08:00", "over over way next later later"),
    ("Wed 31 Mar 10:00", "2027-03-31T10:00+08:00", "over over over over way next"),
    ("Mon 5 Apr 08:59", "2027-04-05T08:59+08:00", "over over over over over next"),
    ("Mon 5 Apr 09:00", "2027-04-05T09:00+08:00", "over over over over over way"),
    ("Tue 13 Apr 00:00", "2027-04-13T00:00+08:00", "over over over over over over"),
]


async def test_where_each_touch_stands_in_the_life_of_a_campaign(desk: Desk) -> None:
    await desk.world.write_campaign(campaign_text())
    await desk.app.book.refresh(accept=True)
    for words, at, places in PLACES:
        desk.move_clock(datetime.fromisoformat(at))
        expected = [one.replace("way", "under way") for one in places.split()]
        assert [touch.place for touch in (await campaign_of(desk)).touches] == expected, words


async def test_parcels_of_a_touch_without_a_day_are_counted(desk: Desk) -> None:
    """Friday's touch gives way to that of Saturday, a closed day; another has left the cadence."""
    sent, lost, *_ = await desk.plan(3)
    await change(desk, sent, state=State.ACCEPTED)
    await change(desk, lost, state=State.CLOSED, reason="expired", touch="month")
    cadence = {
        "  - {touch: month,     days_before: 30, message: reminder,  channels: [email]}\n": "",
        "{touch: fortnight, days_before: 14,": "{touch: fortnight, days_before: 12,",
        "{touch: week,      days_before: 7,": "{touch: week,      days_before: 11,",
    }
    text = campaign_text()
    for before, after in cadence.items():
        assert before in text
        text = text.replace(before, after)
    await desk.world.write_campaign(text)
    await desk.app.book.refresh(accept=True)

    campaign = await campaign_of(desk)
    assert campaign.version == 2
    shown = [(one.touch, one.place, one.people) for one in campaign.touches if one.people]
    assert shown == [
        ("fortnight", "gives way", {"accepted": 1, "planned": 1}),
        ("month", "removed", {"expired": 1}),
    ]


# --- what needs a person --------------------------------------------------------------------------


async def nothing(desk: Desk) -> None:
    del desk


async def an_administrator_pauses(desk: Desk) -> None:
    await desk.app.operations.pause(NAME, "The help desk is closed", "registrar")


async def the_key_is_refused(desk: Desk) -> None:
    await desk.app.stores.control.pause(NAME, "email", "setup", "SendGrid answered 401. Fix: a key")


async def calls_are_unclear(desk: Desk) -> None:
    await desk.app.stores.control.pause(
        NAME, "email", "ambiguity", "20 of 20 have no clear answer."
    )


async def everything_is_stopped(desk: Desk) -> None:
    await desk.app.stores.campaigns.write_file("stop", b"x")


async def the_file_is_gone(desk: Desk) -> None:
    await desk.app.account.container("config").delete_blob("alumni.yaml")


async def the_file_has_a_mistake(desk: Desk) -> None:
    await desk.world.write_campaign(campaign_text().replace("timezone", "time_zone"))


async def many_more_are_unregistered(desk: Desk) -> None:
    await desk.plan(120)


async def a_sweep_fails(desk: Desk) -> None:
    sweep = await desk.app.sweeps.start()
    assert sweep is not None
    await desk.app.stores.sweeps.abandon(sweep.number, "Graph answered 403. Fix: AuditLog.Read.All")


async def no_sweep_for_51_hours(desk: Desk) -> None:
    # From 08:00, when it was swept, into the window of two days later.
    desk.move_clock(datetime.fromisoformat("2027-03-19T11:01+08:00"))


async def parcels_are_lost(desk: Desk) -> None:
    expired, failed, final, *_ = await desk.parcels()
    await change(desk, expired, state=State.CLOSED, reason="expired")
    await change(desk, failed, state=State.CLOSED, reason="failed")
    await change(desk, final, state=State.AMBIGUOUS, final=True)


async def the_day_ends_short(desk: Desk) -> None:
    (parcel, *_) = await desk.parcels()
    await change(desk, parcel, state=State.CLOSED, reason="failed")
    desk.move_clock(datetime.fromisoformat("2027-03-17T18:30+08:00"))


async def nobody_takes_what_is_handed_out(desk: Desk) -> None:
    await desk.release()
    desk.clock.let_pass(minutes=6)


async def no_receipts_come(desk: Desk) -> None:
    await desk.plan(60)
    await desk.send_due()
    desk.clock.let_pass(hours=3)


async def the_canary_fails(desk: Desk) -> None:
    text = "Of the first 16 people too few"
    await desk.app.stores.control.pause(NAME, "email", "canary", text, of=("fortnight",))


async def the_provider_asks_to_wait(desk: Desk) -> None:
    until = StorageTime(desk.clock.storage_now() + timedelta(minutes=30))
    await desk.app.stores.control.hold_until(NAME, "email", until)


CAUSES: list[tuple[Callable[[Desk], Awaitable[None]], list[str], list[str]]] = [
    # what happens; what each need says; what each wait says
    (nothing, [], []),
    (the_provider_asks_to_wait, [], ["The provider asked to wait until "]),
    (
        an_administrator_pauses,
        [f"The help desk is closed. Paused since | `nudge resume {NAME}`"],
        [],
    ),
    (
        the_key_is_refused,
        ["SendGrid answered 401. Fix: a key. Paused since | one parcel is let"],
        [],
    ),
    (
        calls_are_unclear,
        [f"20 of 20 have no clear answer. Paused since | `nudge resume {NAME}`"],
        [],
    ),
    (everything_is_stopped, ["`config/stop` stops all sending. Delete it"], []),
    (the_file_is_gone, ["The campaign's file is gone. Put it back"], []),
    (the_file_has_a_mistake, ["Version 1 stays in force"], []),
    (many_more_are_unregistered, ["Unregistered people rose from 16 to 120. | `nudge resume`"], []),
    (a_sweep_fails, ["Sweep 2 was abandoned: Graph answered 403. Fix: AuditLog.Read.All. The"], []),
    (
        no_sweep_for_51_hours,
        ["The last sweep is older than 50 h.", "`fortnight` has ended with 16 people in parcels"],
        [],
    ),
    (
        parcels_are_lost,
        [
            "`fortnight` has 1 person in parcels that got no clear answer, 1 person in parcels "
            "that expired before they could leave, 1 person in parcels that failed by a fault of "
            "our own. | `nudge status --unreached`"
        ],
        [],
    ),
    (
        the_day_ends_short,
        [
            "The day of `fortnight` has ended with 15 people in parcels that still wait to leave, "
            "1 person in parcels that failed by a fault of our own. | `nudge status --unreached` | "
            "`nudge plan --now`"
        ],
        ["The window is closed until Thu 18 March"],
    ),
    (
        nobody_takes_what_is_handed_out,
        ["16 parcels were handed out by email | the function `send_email` runs"],
        [],
    ),
    (
        no_receipts_come,
        ["of 60 people who were written to by email | `/callbacks/sendgrid` and that SENDGRID_"],
        [],
    ),
    (
        the_canary_fails,
        [f"Of the first 16 people too few. Paused since | `nudge resume {NAME}` ends it"],
        [],
    ),
]


@pytest.mark.parametrize(
    ("cause", "needs", "waits"), CAUSES, ids=[one[0].__name__ for one in CAUSES]
)
async def test_what_needs_a_person_and_what_passes(
    desk: Desk, cause: Callable[[Desk], Awaitable[None]], needs: list[str], waits: list[str]
) -> None:
    await desk.plan(16)
    await cause(desk)
    status = await desk.app.status.collect()
    (campaign,) = status.campaigns
    for told, expected in ((campaign.needs, needs), (campaign.waits, waits)):
        assert len(told) == len(expected), told
        for text, parts in zip(told, expected, strict=True):
            assert all(part.strip() in text for part in parts.split("|")), text
    if needs:
        more = f" And {len(needs) - 1} more, below." if len(needs) > 1 else ""
        assert campaign.headline == f"Needs you: {campaign.needs[0]}{more}"
    else:
        assert campaign.headline == (
            "All is well: `fortnight` has reached 0 people, and 16 more are due; `week` opens on "
            "Wed 24 March 2027, 09:00 (Asia/Hong_Kong), in 7 days."
        )
    assert not (waits and not campaign.waiting)
    printed = format_status(status)
    assert all(text in printed for text in (*campaign.needs, *campaign.waits))


async def test_a_touch_that_came_later_is_past_mending(desk: Desk) -> None:
    await desk.plan(16)
    await parcels_are_lost(desk)
    desk.move_clock(datetime.fromisoformat("2027-03-24T10:00+08:00"))
    assert not any("--unreached" in need for need in (await campaign_of(desk)).needs)


HEADLINES = [
    # in Hong Kong, mode, what the top line says
    ("2027-03-17T10:00+08:00", "dry-run", "Dry run: everything is counted, and nothing is sent "),
    ("2027-03-17T10:00+08:00", "trial", "All is well with the trial: `fortnight` has reached 0 "),
    ("2027-03-18T12:00+08:00", "live", "`week` opens on Wed 24 March 2027, 09:00 (Asia/Hong_Kong)"),
    ("2027-05-01T10:00+08:00", "live", "Over: nobody is written to any more."),
]


@pytest.mark.parametrize(("at", "mode", "says"), HEADLINES)
async def test_the_top_line_without_needs(desk: Desk, at: str, mode: str, says: str) -> None:
    await desk.plan(1, mode=mode, trial="[someone@example.org]")
    await desk.send_due()
    desk.move_clock(datetime.fromisoformat(at))
    campaign = await campaign_of(desk)
    assert campaign.needs == []
    assert says in campaign.headline


async def test_a_campaign_that_is_over_waits_for_nothing(desk: Desk) -> None:
    """An old sweep holds nothing up then; but a mistake in its file may be a new deadline."""
    await desk.plan(1)
    desk.move_clock(datetime.fromisoformat("2027-05-01T20:00+08:00"))
    assert (await campaign_of(desk)).waiting == []
    await the_file_has_a_mistake(desk)
    assert len((await campaign_of(desk)).needs) == 1


async def test_what_is_handed_out_rests_only_where_nothing_holds_it(desk: Desk) -> None:
    """Within minutes it is still on its way; what was dropped on purpose is handed out again."""
    await desk.plan(16)

    async def rests() -> bool:
        return any("handed out by email" in need for need in (await campaign_of(desk)).needs)

    found: dict[str, bool] = {}
    await desk.release()
    desk.clock.let_pass(minutes=4)
    found["4 minutes"] = await rests()
    desk.clock.let_pass(minutes=2)
    found["6 minutes"] = await rests()
    await an_administrator_pauses(desk)
    found["paused"] = await rests()
    await desk.app.operations.resume(NAME, "registrar")
    found["resumed"] = await rests()
    desk.move_clock(datetime.fromisoformat("2027-03-17T18:30+08:00"))
    found["after hours"] = await rests()
    desk.move_clock(datetime.fromisoformat("2027-03-18T09:02+08:00"))
    found["the next morning"] = await rests()
    assert [words for words, so in found.items() if so] == ["6 minutes"]


# --- channels, pace and canaries ------------------------------------------------------------------


async def test_two_channels_are_counted_each_for_itself(desk: Desk) -> None:
    """And everything that is said names the channel."""
    everybody = [Someone(number=n, mobile=f"+852 6123 400{n}") for n in range(4)]
    for parcel in await desk.plan(everybody, sms=True):
        if parcel.channel == "sms":
            reached = parcel.shard < 3
            state = State.ACCEPTED if reached else State.CLOSED
            delivered = b"\1" if parcel.shard < 2 else b""
            reason = "" if reached else "failed"
            await change(desk, parcel, state=state, reason=reason, delivered=delivered)
    await desk.app.stores.control.pause(NAME, "sms", "setup", "Twilio answered 401.")
    until = StorageTime(desk.clock.storage_now() + timedelta(minutes=30))
    await desk.app.stores.control.hold_until(NAME, "email", until)

    status = await desk.app.status.collect()
    (campaign,) = status.campaigns
    shown = [
        (one.touch, one.channel, one.people, one.delivered)
        for one in campaign.touches
        if one.people
    ]
    assert shown == [
        ("fortnight", "email", {"planned": 4}, 0),
        ("fortnight", "sms", {"accepted": 3, "failed": 1}, 2),
    ]
    assert [(one.touch, one.channel) for one in campaign.touches[:3]] == [
        *(("announce", "email"), ("announce", "sms"), ("month", "email")),
    ]
    assert [(one.channel, one.paused) for one in campaign.channels] == [
        *(("email", []), ("sms", ["setup"])),
    ]
    pause, lost = campaign.needs
    assert pause.startswith("SMS: Twilio answered 401. Paused since")
    assert lost.startswith("`fortnight` by SMS has 1 person in parcels that failed")
    assert campaign.waits[0].startswith("Email: The provider asked to wait until ")
    assert campaign.waiting[0] == "SMS: Twilio answered 401."
    printed = format_status(status)
    assert re.search(r"fortnight +SMS +2027-03-17 09:00 +under way +3 accepted, 1 failed", printed)
    assert "(2 delivered)" in printed

    desk.move_clock(datetime.fromisoformat("2027-03-17T18:30+08:00"))
    _, by_email, by_sms = (await campaign_of(desk)).needs
    assert by_email.startswith(
        "The day of `fortnight` by email has ended with 1 person in parcels that still wait"
    )
    assert by_sms.startswith(
        "The day of `fortnight` by SMS has ended with 1 person in parcels that"
    )


async def test_a_domain_that_is_too_slow_is_told_by_itself(desk: Desk) -> None:
    people = [replace(one, address=f"s{one.number}@gmail.com") for one in in_one_shard(60)]
    await desk.plan(people, sending="max_per_domain_per_hour: {gmail.com: 1}")
    (slow,) = (await campaign_of(desk)).needs
    assert slow.startswith(
        "`fortnight` is too slow: at the limits under `max_per_domain_per_hour: gmail.com`, 60 "
        "people take until"
    )


async def test_the_days_limit_and_how_much_of_it_is_used(desk: Desk) -> None:
    await desk.plan(in_one_shard(60), sending="max_per_day: {email: 12}")
    used: dict[str, tuple[int, int | None]] = {}

    async def look(words: str) -> CampaignStatus:
        campaign = await campaign_of(desk)
        (email,) = campaign.channels
        used[words] = (email.sent_today, email.limit_today)
        return campaign

    campaign = await look("before")
    (slow,) = campaign.needs
    assert slow.startswith("`fortnight` is too slow: at the limits under `sending`, 60 people take")
    assert "until Tue 23 March 2027" in slow
    await desk.send_due()
    campaign = await look("on the day")
    assert campaign.waits == [
        "This day's limit of 12 recipients is reached. The others follow on the next open day."
    ]
    assert "today by email: 12 of at most 12 recipients" in (
        format_status(await desk.app.status.collect())
    )
    desk.move_clock(datetime.fromisoformat("2027-03-18T10:00+08:00"))
    await look("the day after")
    assert used == {"before": (0, 12), "on the day": (12, 12), "the day after": (0, 12)}


async def test_without_limits_there_is_no_pace_to_tell_of(desk: Desk) -> None:
    await desk.plan(2)
    await desk.send_due()
    (email,) = (await campaign_of(desk)).channels
    assert (email.limit_today, email.sent_today) == (None, 2)
    assert "today by" not in format_status(await desk.app.status.collect())


async def test_a_canary_waits_and_passes(desk: Desk) -> None:
    await desk.plan(people(48), sending="canary: {recipients: 16, delivered: 0.8}")
    told: list[tuple[str, int, int, int, int]] = []

    async def look() -> CampaignStatus:
        campaign = await campaign_of(desk)
        canary = next(one for one in campaign.touches if one.touch == "fortnight").canary
        assert canary is not None
        told.append(
            (canary.result, canary.recipients, canary.sent, canary.delivered, canary.needed)
        )
        return campaign

    await look()
    await desk.send_due()
    for parcel in (await desk.parcels(State.ACCEPTED))[:12]:
        await desk.report(parcel, delivered=[0])
    campaign = await look()
    assert campaign.waits == [
        "`fortnight` waits for its canary: 16 of 16 sent, 12 delivered; the rest follows at 13."
    ]
    assert "canary waiting: 16 of 16 sent, 12 delivered" in (
        format_status(await desk.app.status.collect())
    )
    for parcel in await desk.parcels(State.ACCEPTED):
        await desk.report(parcel, delivered=[0])
    await desk.send_due()
    campaign = await look()
    assert campaign.waits == []
    assert told == [
        ("waiting", 16, 0, 0, 13),
        ("waiting", 16, 16, 12, 13),
        ("passed", 16, 16, 16, 13),
    ]
    await the_canary_fails(desk)
    assert (await look()).waits == []
    assert all(one.canary is None for one in campaign.touches if one.touch != "fortnight")


async def test_seed_addresses_are_outside_all_counts(desk: Desk) -> None:
    await desk.plan(2, sending="seed_addresses: [colleague@its.hku.hk]\nmax_per_day: {email: 50}")
    await desk.send_due()
    parcels = await desk.parcels()
    assert sum(parcel.seed for parcel in parcels) == 1
    campaign = await campaign_of(desk)
    touch = next(one for one in campaign.touches if one.touch == "fortnight")
    assert (touch.parcels, touch.people) == ({"accepted": 2}, {"accepted": 2})
    assert campaign.channels[0].sent_today == 2
    (seed,) = [parcel for parcel in parcels if parcel.seed]
    await change(desk, seed, state=State.AMBIGUOUS)
    assert await desk.unreached() == {}


# --- the list of the unreached --------------------------------------------------------------------


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


@pytest.mark.invariant(2)
async def test_after_its_day_the_list_has_everybody_whom_the_alarm_counts(desk: Desk) -> None:
    planned = await desk.plan(4)
    await change(desk, planned[0], state=State.ACCEPTED)
    await change(desk, planned[1], state=State.CLAIMED)
    await change(desk, planned[2], state=State.CLOSED, reason="expired")
    assert await desk.unreached() == {2: "expired"}
    desk.move_clock(datetime.fromisoformat("2027-03-17T18:30+08:00"))
    assert await desk.unreached() == {1: "still under way", 2: "expired", 3: "still planned"}
