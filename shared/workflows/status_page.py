"""The status as a page: what an administrator opens first. Counts only; nothing of a person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec
from markupsafe import Markup, escape

from shared.messages.pages import fill_page
from shared.stores.sweeps import MOST_RUNS
from shared.workflows.status_words import (
    NEXT_SWEEP,
    format_days,
    format_moment,
    name_channel,
)

if TYPE_CHECKING:
    from shared.rules.guards import ShardCounts
    from shared.workflows.status import CampaignStatus, Status, TouchStatus

MOST_MISTAKES = 5
"""Mistakes of a file that the page lists: a file that is none has a hundred."""

_PRETENDED = timedelta(minutes=5)
"""The two clocks are further apart only where campaign time is pretended."""

_WHERE = {
    "planned": "leave when they are due, as window, rate and pauses allow",
    "claimed": "are with the provider at this moment",
    "accepted": "were taken by the provider",
    "ambiguous": "were sent, and the provider's answer was unclear: not decided yet",
    "final": "were sent, and it stayed unclear whether they arrived: not sent again",
    "rejected": "were refused, every recipient of them",
    "refused": "are people whose address was refused, or whose mail came back",
    "left out": "are people who had registered or opted out before it left",
    "expired": "could not leave in their time",
    "failed": "were kept from leaving by a fault of our own",
    "cancelled": "had nobody left in them",
}
"""Where parcels and people can be, in the order of the table, and what it means."""


class _Finding(msgspec.Struct, frozen=True):
    """A row of what a sweep found; `part` where it is a part of the row above."""

    name: str
    people: int
    part: bool = False


def render_status(status: Status) -> str:
    """The page, in English. Times of campaigns are in their zones, times of storage in UTC."""
    return fill_page(
        "status.html.jinja",
        language="en",
        status=status,
        pretended=_are_apart(status.campaign_now, status.storage_now),
        next_sweep=NEXT_SWEEP,
        most_runs=MOST_RUNS,
        most_mistakes=MOST_MISTAKES,
        words={
            word: meaning
            for word, meaning in _WHERE.items()
            if any(word in _states_of(campaign) for campaign in status.campaigns)
        },
        states_of=_states_of,
        findings=_findings,
        deadline=_deadline,
        day=_day,
        days=format_days,
        by=name_channel,
        window=_window,
        how_far=_how_far,
        source=_source,
        number="{:,}".format,
        marked=mark_names,
        moment=_moment,
    )


def _are_apart(campaign_now: datetime, storage_now: datetime) -> bool:
    return abs(campaign_now - storage_now) > _PRETENDED


def _moment(at: datetime, zone: str = "UTC") -> str:
    return f"{format_moment(at, ZoneInfo(zone))} ({zone})"


def mark_names(text: str) -> Markup:
    """A text with its `code` marked as such. Isolated, since parts of it are anybody's: a name of a
    file that turns the direction of writing turns its own alone."""
    marked = re.sub(r"`([^`]*)`", r'<code dir="auto">\1</code>', str(escape(text)))
    return Markup(f"<bdi>{marked}</bdi>")


def _states_of(campaign: CampaignStatus) -> list[str]:
    """Where anything of the campaign is: the columns of its table."""
    found = {name for touch in campaign.touches for name in (*touch.parcels, *touch.people)}
    return [name for name in _WHERE if name in found]


def _findings(counts: ShardCounts) -> Iterator[_Finding]:
    """What planning found, in rows; those that are no parts add up to the first."""
    yield _Finding("accounts in the audience", counts.roster)
    yield _Finding("registered", counts.registered)
    yield _Finding("confirmed by a completion, not in the report yet", counts.confirmed, part=True)
    yield _Finding("unregistered", counts.unregistered)
    yield _Finding("with no usable contact", counts.unreachable, part=True)
    yield _Finding("asked for no more reminders", counts.opted_out, part=True)
    yield _Finding("say that they are done, not confirmed yet", counts.reported, part=True)
    yield _Finding("unknown: no row in the registration report", counts.unknown)
    yield _Finding("unrecognised: only methods that we do not know", counts.unrecognised)
    yield _Finding("excluded", counts.excluded)
    for reason, people in sorted(counts.reasons.items()):
        yield _Finding(reason, people, part=True)


def _deadline(campaign: CampaignStatus) -> str:
    """The last day, and its time of day where the file names one."""
    zone = ZoneInfo(campaign.timezone)
    at = campaign.deadline_at.astimezone(zone)
    if at.date() == date.fromisoformat(campaign.deadline):
        when = format_moment(at, zone)
    else:
        when = f"end of {_day(campaign.deadline)}"
    return f"{when} ({campaign.timezone}), {format_days(campaign.days_left)}"


def _day(iso: str) -> str:
    """Thu 1 April 2027."""
    day = date.fromisoformat(iso)
    return f"{day:%a} {day.day} {day:%B %Y}"


def _window(touch: TouchStatus, zone: str) -> str:
    """The day of a touch and its hours, in the campaign's zone."""
    if touch.opening is None or touch.closing is None:
        return "none of its own"
    closing = touch.closing.astimezone(ZoneInfo(zone))
    return f"{format_moment(touch.opening, ZoneInfo(zone))}–{closing:%H:%M}"


def _how_far(touch: TouchStatus, now: datetime, zone: str) -> str:
    """Where a touch stands, and in how many days one opens that is to come."""
    if touch.opening is None or touch.place not in ("next", "later"):
        return touch.place
    opening, today = (at.astimezone(ZoneInfo(zone)).date() for at in (touch.opening, now))
    return f"{touch.place}, {format_days((opening - today).days)}"


def _source(name: str) -> str:
    """A list of the directory, by its name (services/directory)."""
    kind, _, which = name.partition("-")
    match kind:
        case "group":
            return f"members of group {which}"
        case "filter":
            return "users of `audience.filter`"
        case _:
            return "registration report"
