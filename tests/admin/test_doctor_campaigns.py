"""What the doctor says of campaigns: their files, whom they may name, when the directory is read
before they send, whether their pace is enough, and what storage tells of how it goes."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from admin.doctor.campaigns import examine_pace, examine_schedule, examine_text_sender
from admin.doctor.rows import Row, unchecked
from admin.doctor.stored import Stored, examine_receipts, examine_sweeps, read_stored
from admin.doctor.subject import Subject
from local.serving import running_application
from shared.clock import CampaignTime, StorageTime
from shared.rules.campaign import Campaign, parse_campaign
from shared.stores.sweeps import Sweep
from tests.admin.diagnosing import (
    HOST,
    RIGHT,
    Zone,
    campaign_file,
    diagnose,
    find,
    running_dns,
    settings_file,
)
from tests.world import EXAMPLE, NAME, World, running_world

NOW = CampaignTime(datetime.fromisoformat("2027-01-15T03:00Z"))
"""A Friday, two weeks before the example's first touch."""

ALLOWED = f"sender and links of {NAME}"
PACE = f"pace of {NAME}"
MODE = f"mode of {NAME}"


def campaign(*changes: tuple[str, str]) -> Campaign:
    """The example with these texts replaced."""
    text = EXAMPLE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_campaign(text, file="alumni.yaml", allowed=None)


def subject(**more: str) -> Subject:
    return Subject.of_settings("file", {**RIGHT, **more}, {})


async def rows_of(directory: Path, *words: object, **more: str) -> list[Row]:
    path = settings_file(directory, {**RIGHT, **more})
    async with running_dns(Zone()) as dns:
        return await diagnose("--env", path, "--nameserver", dns, *words)


# the file


async def test_each_mistake_by_its_line(tmp_path: Path) -> None:
    path = campaign_file(
        tmp_path,
        ("timezone: Asia/Hong_Kong", "timezone: Asia/Hongkong_"),
        ("parcel_size: 500", "parcel_size: 0"),
    )
    lines = path.read_text().splitlines()
    rows = await rows_of(tmp_path, "--campaign", path)
    found = {row.what: row for row in rows if row.what.startswith("alumni.yaml")}
    assert list(found) == [
        f"alumni.yaml, line {number}"
        for number, line in enumerate(lines, start=1)
        if line.lstrip().startswith(("timezone:", "parcel_size:"))
    ]
    assert {row.state for row in found.values()} == {"missing"}
    assert next(iter(found.values())).fix == "Did you mean `Asia/Hong_Kong`?"


async def test_the_examples_group_and_a_channel_without_a_sender(tmp_path: Path) -> None:
    """What is right in itself, and wrong for this app: the other looks at it go on."""
    path = tmp_path / "alumni.yaml"
    path.write_text(EXAMPLE.read_text())
    rows = await rows_of(tmp_path, "--campaign", path)
    (row,) = [row for row in rows if row.what.startswith("alumni.yaml")]
    assert (row.state, row.fix) == (
        "missing",
        "Write the object id of your group of alumni.",
    )
    assert find(rows, MODE).state == "warning"


async def test_two_files_with_one_name(tmp_path: Path) -> None:
    path = campaign_file(tmp_path)
    other = tmp_path / "copy.yaml"
    other.write_text(path.read_text())
    rows = await rows_of(tmp_path, "--campaign", path, "--campaign", other)
    for name in ("alumni.yaml", "copy.yaml"):
        assert (find(rows, name).state, NAME in find(rows, name).found) == ("missing", True)


async def test_no_campaign_is_known(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path)
    assert find(rows, "campaign file").state == "not checked"
    assert find(rows, "sweep before the window, sender and links, pace, mode").state == (
        "not checked"
    )


@pytest.mark.parametrize(
    ("mode", "state", "says"),
    [
        ("dry-run", "warning", "counts, and sends nothing"),
        ("trial", "warning", "trial: writes to 1 account, and to nobody else"),
        ("live", "ok", "live"),
    ],
)
async def test_the_mode(mode: str, state: str, says: str, tmp_path: Path) -> None:
    path = campaign_file(
        tmp_path, ("mode: dry-run", f"mode: {mode}"), ("trial: []", "trial: [me@hku.hk]")
    )
    row = find(await rows_of(tmp_path, "--campaign", path), MODE)
    assert (row.state, row.found) == (state, says if mode != "dry-run" else f"dry-run: {says}")


@pytest.mark.invariant(11)
@pytest.mark.parametrize("mode", ["dry-run", "live"])
async def test_whom_it_may_name_is_asked_before_it_is_live(mode: str, tmp_path: Path) -> None:
    words = ("--campaign", campaign_file(tmp_path, ("mode: dry-run", f"mode: {mode}")))
    assert find(await rows_of(tmp_path, *words), ALLOWED).state == "ok"

    rows = await rows_of(tmp_path, *words, ALLOWED_SENDERS="hku.hk", ALLOWED_LINK_HOSTS=HOST)
    found = [row for row in rows if row.what == ALLOWED]
    assert {row.state for row in found} == {"missing"}
    assert [row.fix.partition(",")[0] for row in found] == [
        "Add it to the setting ALLOWED_SENDERS",
        *["Add the host to the setting ALLOWED_LINK_HOSTS"] * 3,
    ]
    rows = await rows_of(tmp_path, *words, ALLOWED_LINK_HOSTS="its.hku.hk")
    assert HOST in find(rows, ALLOWED).found, "mails hold links to the pages, too"


async def test_nobody_may_be_named(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path, ALLOWED_SENDERS="", ALLOWED_LINK_HOSTS="")
    assert find(rows, "ALLOWED_SENDERS").state == "missing"
    assert find(rows, "ALLOWED_LINK_HOSTS").state == "missing"
    assert find(rows, "sender domain").state == "not checked"


# the sender of SMS


def with_sms(*changes: tuple[str, str]) -> Campaign:
    return campaign(
        ("message: last-call, channels: [email]", "message: last-call, channels: [email, sms]"),
        ("  # look_for: {en: MFA pre", "  look_for: {en: MFA pre"),
        *changes,
    )


@pytest.mark.parametrize(
    ("sender", "zone", "state"),
    [
        ("#HKU", "Asia/Hong_Kong", "ok"),
        ("HKU", "Asia/Hong_Kong", "warning"),
        ("+85212345678", "Asia/Hong_Kong", "warning"),
        ("MG" + "0" * 32, "Asia/Hong_Kong", "ok"),
        ("HKU", "Europe/Paris", "ok"),
        ("", "Asia/Hong_Kong", "not checked"),
    ],
)
def test_a_sender_of_sms_that_alumni_trust(sender: str, zone: str, state: str) -> None:
    twilio = {"TWILIO_ACCOUNT_SID": "AC" + "0" * 32, "TWILIO_AUTH_TOKEN": "t"}
    found = subject(**twilio, TWILIO_FROM=sender)
    one = with_sms(("timezone: Asia/Hong_Kong", f"timezone: {zone}"))
    assert [row.state for row in examine_text_sender(one, found)] == [state]
    assert list(examine_text_sender(campaign(), found)) == [], "no SMS, no row"


# the sweep: the window opens at 09:00 in Hong Kong, which is 01:00 UTC


@pytest.mark.parametrize(
    ("schedule", "accounts", "state", "says"),
    [
        ("0 0 20 * * *", 300_000, "ok", "10 minutes, by the number of accounts"),
        ("0 0 20 * * *", None, "ok", "60 minutes, a guess"),
        ("0 45 0 * * *", 300_000, "ok", "10 minutes"),
        ("0 45 0 * * *", 600_000, "missing", "ends about 01:05, when the window is open"),
        ("0 30 0 * * *", None, "missing", "ends about 01:30"),
        ("0 0 2 * * *", 300_000, "warning", "while the window is open, at 02:00 UTC"),
        ("0 0 20 * * 5", 300_000, "missing", "none starts in the 24 hours before"),
        ("0 0 20 * * 0-4", 300_000, "ok", "10 minutes"),
        ("0 */5 * * * *", 300_000, "missing", "many times a day"),
        ("0 0 20 1 * 1", 300_000, "missing", "limits both day and day of week"),
    ],
)
def test_the_sweep_ends_before_the_window_opens(
    schedule: str, accounts: int | None, state: str, says: str
) -> None:
    (row,) = examine_schedule(campaign(), subject(SWEEP_SCHEDULE=schedule), Stored(), NOW, accounts)
    assert row.state == state
    assert says in row.found


def test_a_sweep_that_was_timed_counts_more_than_a_number() -> None:
    started = StorageTime(datetime(2027, 1, 14, 20, tzinfo=UTC))
    took = Sweep(
        number=1,
        state="committed",
        passes=(),
        opened_at=started,
        seen_at=CampaignTime(started),
        ended_at=StorageTime(started + timedelta(hours=6)),
    )
    (row,) = examine_schedule(campaign(), subject(), Stored(committed=took), NOW, 1000)
    assert row.state == "missing"
    assert "ends about 02:00" in row.found
    assert row.fix == "Let SWEEP_SCHEDULE start it before 19:00 UTC, better an hour earlier."


def test_a_schedule_that_nobody_can_read() -> None:
    (row,) = examine_schedule(campaign(), subject(SWEEP_SCHEDULE="daily"), Stored(), NOW, 1000)
    assert (row.state, row.found) == ("not checked", "SWEEP_SCHEDULE has a problem")


# the pace


def paced(text: str) -> Campaign:
    return campaign(("  # max_per_day: {email: 100000, sms: 20000}\n", f"  {text}\n"))


@pytest.mark.parametrize(
    ("text", "people", "slow"),
    [
        ("min_gap_hours: 20", 3_000_000, []),
        ("max_per_day: {email: 20000}", 60_000, ["announce", "last-call"]),
        ("max_per_day: {email: 20000}", 20_000, []),
        ("max_per_hour: {email: 1000}", 9_000, []),
        ("max_per_hour: {email: 1000}", 9_001, ["announce"]),
        ("warm_up: {start: 500, growth: 1.5}", 500, []),
        ("warm_up: {start: 1000, growth: 2}", 7_000, ["announce"]),
    ],
)
def test_the_pace_against_the_calendar(text: str, people: int, slow: list[str]) -> None:
    """`announce` falls on a Friday and ends on Monday at nine: it has one day. `last-call` has two,
    the others have three, and each day with mail warms the domain up for them."""
    one = paced(text) if text != "min_gap_hours: 20" else campaign()
    rows = examine_pace(one, subject(), Stored(), NOW, people)
    assert [row.found.split("`")[1] for row in rows if row.state == "missing"] == slow
    assert slow or [row.state for row in rows] == ["ok"]


def test_days_on_which_mail_left_have_warmed_the_domain_up() -> None:
    one = paced("warm_up: {start: 500, growth: 1.5}")
    (row, *_) = examine_pace(one, subject(), Stored(), NOW, 20_000)
    assert row.state == "missing"
    assert "`announce` by email: 20,000 recipients would take until 2027-02-" in row.found
    days = tuple(f"2026-12-{day:02}" for day in range(1, 20))
    warm = Stored(live_days={(NAME, "email"): days})
    assert [row.state for row in examine_pace(one, subject(), warm, NOW, 20_000)] == ["ok"]


def test_touches_of_the_past_count_no_more() -> None:
    one = paced("max_per_day: {email: 20000}")
    late = CampaignTime(datetime.fromisoformat("2027-03-31T03:00Z"))
    assert [row.state for row in examine_pace(one, subject(), Stored(), late, 60_000)] == [
        "missing"
    ]
    over = CampaignTime(datetime.fromisoformat("2027-06-01T03:00Z"))
    (row,) = examine_pace(one, subject(), Stored(), over, 60_000)
    assert (row.state, "was over" in row.found) == ("warning", True)


def test_a_pace_for_nobody_knows_how_many() -> None:
    (row,) = examine_pace(campaign(), subject(), Stored(), NOW, None)
    assert (row.state, "--people" in row.fix) == ("not checked", True)


# what storage tells


@pytest.fixture
async def world(connection_string: str, tmp_path: Path) -> AsyncGenerator[World]:
    async with running_world(connection_string, tmp_path) as world:
        yield world


async def stored_of(world: World) -> tuple[Subject, Stored]:
    found = Subject.of_settings("environment", world.environment, {})
    return found, await read_stored(found, [])


async def test_an_app_without_campaign_and_sweep(world: World) -> None:
    found, stored = await stored_of(world)
    (row,) = examine_sweeps(stored, found.campaign_now())
    assert (row.state, "none has been committed yet" in row.found) == ("missing", True)
    async with running_dns(Zone()) as dns:
        path = settings_file(Path(world.environment["CLOCK_FILE"]).parent, world.environment)
        rows = await diagnose("--env", path, "--nameserver", dns)
    assert find(rows, "storage").state == "ok"
    assert find(rows, "campaign file").state == "missing"
    assert find(rows, "receipts").state == "not checked"


async def test_a_stop_and_files_as_they_lie_there(world: World) -> None:
    await world.write_campaign(mode="dry-run")
    await world.write_campaign("campaign: Broken\n", file="other.yaml")
    await world.app.account.container("config").upload_blob("stop", b"")
    path = settings_file(Path(world.environment["CLOCK_FILE"]).parent, world.environment)
    async with running_dns(Zone()) as dns:
        rows = await diagnose("--env", path, "--nameserver", dns)
    assert find(rows, "config/stop").state == "missing"
    assert find(rows, "alumni.yaml").state == "ok"
    assert [row.state for row in rows if row.what.startswith("other.yaml, line 1")] != []
    assert find(rows, MODE).state == "warning"


async def test_the_age_of_the_last_sweep_and_what_it_counted(world: World) -> None:
    await world.write_campaign()
    await world.sweep()
    found, stored = await stored_of(world)
    now = found.campaign_now()
    ages = [0, 25, 27, 49, 51]
    rows = [examine_sweeps(stored, CampaignTime(now + timedelta(hours=age)))[0] for age in ages]
    assert [row.state for row in rows] == ["ok", "ok", "warning", "warning", "missing"]
    counts = stored.statuses[NAME].counts
    assert counts is not None
    (row,) = examine_pace(stored.campaigns[0], found, stored, now, None)
    assert f"{counts.unregistered - counts.unreachable} recipients" in row.found


async def test_a_sweep_that_was_given_up_says_why(world: World) -> None:
    await world.write_campaign()
    await world.app.book.refresh(accept=True)
    await world.app.sweeps.start()
    await world.app.stores.sweeps.abandon(1, "The tenant has no licence.")
    found, stored = await stored_of(world)
    (row,) = examine_sweeps(stored, found.campaign_now())
    assert (row.state, "(The tenant has no licence.)" in row.found) == ("missing", True)


async def test_receipts_arrive_or_stay_away(world: World) -> None:
    await world.write_campaign()
    await world.sweep()
    await world.release()
    _, stored = await stored_of(world)
    assert stored.silent_since is not None
    for hours, state in ((0, "warning"), (3, "missing")):
        now = StorageTime(stored.silent_since + timedelta(hours=hours))
        (row,) = examine_receipts(stored, now)
        assert row.state == state
        assert "none yet, of " in row.found
    heard = replace(stored, silent_since=None)
    (row,) = examine_receipts(heard, StorageTime(datetime.now(UTC)))
    assert (row.state, "none says that a message was delivered" in row.found) == ("warning", True)
    status = stored.statuses[NAME]
    status.touches[0].delivered = 7
    (row,) = examine_receipts(stored, StorageTime(datetime.now(UTC)))
    assert (row.state, row.found) == ("ok", "they arrive: 7 delivered")


@pytest.mark.parametrize(
    ("status", "state", "says"),
    [
        (403, "not checked", "Storage Table Data Reader"),
        (404, "missing", "Deploy the infrastructure again"),
        (400, "not checked", "the network"),
    ],
)
async def test_storage_that_answers_something_else(
    status: int, state: str, says: str, tmp_path: Path
) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"x-ms-error-code": "AuthorizationFailure"})

    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", refuse)
    key = base64.b64encode(b"key").decode()
    async with running_application(application) as url:
        connection = f"AccountName=x;AccountKey={key};" + "".join(
            f"{kind}Endpoint={url}/x;" for kind in ("Blob", "Queue", "Table")
        )
        row = find(await rows_of(tmp_path, AzureWebJobsStorage=connection), "storage")
    assert row.state == state
    assert says in row.fix


async def test_storage_that_is_not_there(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path, "--campaign", campaign_file(tmp_path))
    assert find(rows, "storage").state == "not checked"
    assert find(rows, "sweeps") == unchecked("sweeps", "storage was not read")
