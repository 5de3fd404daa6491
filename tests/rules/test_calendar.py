"""The hours in which a campaign may send, where clocks jump and where they don't."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import CampaignTime
from shared.rules.calendar import (
    first_moment,
    nearest_open_day,
    open_hours,
    start_of_day,
    window_open,
)
from shared.rules.campaign import Allowed, Campaign, parse_campaign

EXAMPLE = Path(__file__).parents[2] / "campaign.example.yaml"
LOCAL = Allowed(
    senders=frozenset(), link_hosts=frozenset(), local=True, channels=frozenset({"email"})
)

# All of them jump, or once did: at night, at midnight, by half an hour, by a whole day.
ZONES = [
    "Asia/Hong_Kong",
    "Europe/London",
    "America/New_York",
    "America/Havana",
    "America/Scoresbysund",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Apia",
]


def campaign_with(zone: str, days: str, opens: str, closes: str) -> Campaign:
    text = EXAMPLE.read_text()
    window = f'window: {{days: "{days}", from: "{opens}", until: "{closes}"}}'
    text = text.replace('window: {days: mon-fri, from: "09:00", until: "18:00"}', window)
    return parse_campaign(text.replace("Asia/Hong_Kong", zone), file="it", allowed=LOCAL)


def utc(text: str) -> CampaignTime:
    return CampaignTime(datetime.fromisoformat(text).replace(tzinfo=UTC))


HOURS: list[tuple[str, str, str, str, str, str]] = [
    # On an ordinary day.
    ("Asia/Hong_Kong", "09:00", "18:00", "2027-03-31", "2027-03-31 01:00", "2027-03-31 10:00"),
    # Friday in winter, Monday in summer: the same hours there, an hour apart here.
    ("Europe/London", "09:00", "18:00", "2027-03-26", "2027-03-26 09:00", "2027-03-26 18:00"),
    ("Europe/London", "09:00", "18:00", "2027-03-29", "2027-03-29 08:00", "2027-03-29 17:00"),
    ("America/New_York", "09:00", "18:00", "2027-11-05", "2027-11-05 13:00", "2027-11-05 22:00"),
    ("America/New_York", "09:00", "18:00", "2027-11-08", "2027-11-08 14:00", "2027-11-08 23:00"),
    # 14 March has no 02:30 in New York: clocks go from 02:00 to 03:00, which is 07:00 UTC.
    ("America/New_York", "02:30", "05:00", "2027-03-14", "2027-03-14 07:00", "2027-03-14 09:00"),
    ("America/New_York", "00:00", "02:30", "2027-03-14", "2027-03-14 05:00", "2027-03-14 07:00"),
    # 7 November has 01:30 twice there: the first time counts, for both ends.
    ("America/New_York", "01:30", "04:00", "2027-11-07", "2027-11-07 05:30", "2027-11-07 09:00"),
    ("America/New_York", "00:00", "01:30", "2027-11-07", "2027-11-07 04:00", "2027-11-07 05:30"),
    # Leap day, and a year's last.
    ("Europe/London", "09:00", "18:00", "2028-02-29", "2028-02-29 09:00", "2028-02-29 18:00"),
    ("Asia/Hong_Kong", "00:00", "23:59", "2027-12-31", "2027-12-30 16:00", "2027-12-31 15:59"),
]


@pytest.mark.invariant(9)
@pytest.mark.parametrize(("zone", "opens", "closes", "day", "from_utc", "until_utc"), HOURS)
def test_a_days_window_in_utc(
    zone: str, opens: str, closes: str, day: str, from_utc: str, until_utc: str
) -> None:
    campaign = campaign_with(zone, "mon-sun", opens, closes)
    hours = open_hours(campaign, date.fromisoformat(day))
    assert hours is not None
    assert (hours.opens, hours.closes) == (utc(from_utc), utc(until_utc))


CLOSED: list[tuple[str, str, str, str, str, str]] = [
    ("a Saturday", "Asia/Hong_Kong", "mon-fri", "09:00", "18:00", "2027-03-27"),
    ("a day off the list", "Asia/Hong_Kong", "mon,wed-fri", "09:00", "18:00", "2027-03-30"),
    ("clocks skip it all", "America/New_York", "mon-sun", "02:00", "03:00", "2027-03-14"),
    ("a day that Samoa skipped", "Pacific/Apia", "mon-sun", "09:00", "18:00", "2011-12-30"),
]


@pytest.mark.parametrize(("_why", "zone", "days", "opens", "closes", "day"), CLOSED)
def test_a_closed_day_has_no_hours(
    _why: str, zone: str, days: str, opens: str, closes: str, day: str
) -> None:
    campaign = campaign_with(zone, days, opens, closes)
    assert open_hours(campaign, date.fromisoformat(day)) is None


MOMENTS: list[tuple[str, str, bool]] = [
    ("Monday 08:59", "2027-03-29 00:59", False),
    ("Monday 09:00", "2027-03-29 01:00", True),
    ("Monday 17:29", "2027-03-29 09:29", True),
    ("Monday 18:00", "2027-03-29 10:00", False),
    ("Friday 17:59", "2027-04-02 09:59", True),
    ("Saturday 10:00", "2027-04-03 02:00", False),
    ("Monday 07:00, which is still Sunday in UTC", "2027-03-28 23:00", False),
    ("Saturday 07:00, which is still Friday in UTC", "2027-04-02 23:00", False),
]


@pytest.mark.parametrize(("_local", "moment", "is_open"), MOMENTS)
def test_the_window_is_open_by_the_campaigns_own_clock(
    _local: str, moment: str, is_open: bool
) -> None:
    campaign = campaign_with("Asia/Hong_Kong", "mon-fri", "09:00", "18:00")
    assert window_open(campaign, utc(moment)) is is_open


def test_an_hour_that_comes_twice_opens_once() -> None:
    campaign = campaign_with("America/New_York", "mon-sun", "00:00", "01:45")
    assert window_open(campaign, utc("2027-11-07 05:40"))  # 01:40, summer time
    assert not window_open(campaign, utc("2027-11-07 06:40"))  # 01:40 again, winter time


NEAREST: list[tuple[str, str, Literal[-1, 1], str]] = [
    ("mon-fri", "2027-03-31", -1, "2027-03-31"),  # Wednesday: stays
    ("mon-fri", "2027-03-28", -1, "2027-03-26"),  # Sunday: Friday before
    ("mon-fri", "2027-03-28", 1, "2027-03-29"),  # Sunday: Monday after
    ("sun-thu", "2027-03-26", -1, "2027-03-25"),  # a week that begins on Sunday
    ("tue", "2027-03-31", 1, "2027-04-06"),
    ("mon-fri", "2027-01-02", -1, "2027-01-01"),  # over the end of a month
    ("mon", "2027-01-01", -1, "2026-12-28"),  # and of a year
]


@pytest.mark.invariant(9)
@pytest.mark.parametrize(("days", "day", "direction", "expected"), NEAREST)
def test_the_nearest_open_day(
    days: str, day: str, direction: Literal[-1, 1], expected: str
) -> None:
    campaign = campaign_with("Asia/Hong_Kong", days, "09:00", "18:00")
    nearest = nearest_open_day(campaign, date.fromisoformat(day), direction)
    assert nearest == date.fromisoformat(expected)


STARTS: list[tuple[str, str, str]] = [
    ("Asia/Hong_Kong", "2027-04-01", "2027-03-31 16:00"),
    ("Europe/London", "2027-03-28", "2027-03-28 00:00"),
    ("Europe/London", "2027-03-29", "2027-03-28 23:00"),
    ("America/New_York", "2027-11-08", "2027-11-08 05:00"),
    ("Asia/Beirut", "2027-03-28", "2027-03-27 22:00"),  # begins at 01:00: midnight is skipped
]


@pytest.mark.invariant(9)
@pytest.mark.parametrize(("zone", "day", "expected"), STARTS)
def test_a_day_begins_in_its_zone(zone: str, day: str, expected: str) -> None:
    assert start_of_day(date.fromisoformat(day), ZoneInfo(zone)) == utc(expected)


@given(
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    day=st.dates(date(2000, 1, 1), date(2099, 12, 31)),
    clock=st.times(),
)
def test_the_first_moment_is_the_first(zone: ZoneInfo, day: date, clock: time) -> None:
    clock = clock.replace(second=0, microsecond=0)
    wall = datetime.combine(day, clock)
    moment = first_moment(day, clock, zone)
    earlier = moment - timedelta(seconds=1)
    assert moment.astimezone(zone).replace(tzinfo=None) >= wall
    assert earlier.astimezone(zone).replace(tzinfo=None) < wall
