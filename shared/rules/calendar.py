"""The days and hours on which a campaign may send: its window, in its zone, as moments in UTC.

A window is written in local time, and local time jumps. A day's opening is the first moment at
which the clocks there show `from` or later: where they skip it (summer time begins), that is the
moment of the jump; where they show it twice, the first time counts. `until` is read in the same
way, so that a window never has two parts. A day whose whole window is skipped is a closed day.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

import msgspec

from shared.clock import CampaignTime

if TYPE_CHECKING:
    from shared.rules.campaign import Campaign

DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


class OpenHours(msgspec.Struct, frozen=True):
    """The window of one day: from `opens` until just before `closes`."""

    opens: CampaignTime
    closes: CampaignTime


def first_moment(day: date, clock: time, zone: ZoneInfo) -> CampaignTime:
    """The first moment of `day` at which the clocks of `zone` show `clock` or later."""
    wall = datetime.combine(day, clock)
    # fold=0: of a time that comes twice the first; of one that is skipped, as if it were not.
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return CampaignTime(moment)
    # The jump lies between what the time means under the new offset and what under the old one.
    earliest = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    seconds = int((moment - earliest) / _SECOND)
    until_jump = bisect_left(
        range(seconds),
        wall,
        key=lambda second: (earliest + second * _SECOND).astimezone(zone).replace(tzinfo=None),
    )
    return CampaignTime(earliest + until_jump * _SECOND)


def start_of_day(day: date, zone: ZoneInfo) -> CampaignTime:
    """When a day begins in `zone`, which is when the one before it ends."""
    return first_moment(day, time.min, zone)


def open_hours(campaign: Campaign, day: date) -> OpenHours | None:
    """The campaign's window on a calendar day of its zone, or None where it is closed."""
    window = campaign.sending.window
    if day.weekday() not in window.days:
        return None
    opens = first_moment(day, window.from_, campaign.zone)
    closes = first_moment(day, window.until, campaign.zone)
    return OpenHours(opens, closes) if opens < closes else None


def window_open(campaign: Campaign, now: CampaignTime) -> bool:
    """Whether the campaign may send at this moment."""
    hours = open_hours(campaign, now.astimezone(campaign.zone).date())
    return hours is not None and hours.opens <= now < hours.closes


def nearest_open_day(campaign: Campaign, day: date, direction: Literal[-1, 1]) -> date:
    """`day` itself where it is open, else the nearest open one before (-1) or after it (1)."""
    while open_hours(campaign, day) is None:
        day += direction * DAY
    return day


def next_hours(campaign: Campaign, now: CampaignTime) -> OpenHours:
    """The next window that opens after now."""
    day = now.astimezone(campaign.zone).date()
    while (hours := open_hours(campaign, day)) is None or hours.opens <= now:
        day += DAY
    return hours
