"""The cadence: on which days the touches of a campaign fall, and which of them a person is due.

    build_schedule   once per version: touches on calendar days, with their openings
    due_touch        per person and channel, or rather per distinct answer to "what have they had,
                     and when"
    due_anyway       the same for a person who says that they have registered
    due_by_channel   either of them on several channels

What stands in the schedule holds for everybody. What a person is due depends on the names of the
touches that they have had, the time of the last one, and now; nothing else. The channels of a touch
are one nudge: each is asked for by itself, and no gap lies between them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, timedelta
from typing import TYPE_CHECKING

import msgspec

from shared.clock import CampaignTime
from shared.rules.calendar import DAY, OpenHours, nearest_open_day, open_hours, start_of_day

if TYPE_CHECKING:
    from shared.rules.campaign import Campaign, Step
    from shared.rules.parcels import Channel

AHEAD = timedelta(hours=48)
"""A touch is planned from so long before its opening: sweeps are daily, and one may fail."""

LIFE = timedelta(hours=72)
"""A touch that has not left so long after its `not_before` does not leave any more."""

BEFORE_DEADLINE = timedelta(hours=1)
"""What says "until the deadline" must be read before it: nothing of it leaves in the last hour."""

AFTER_TOUCH = 7 * DAY
"""For how many days after its day an after-touch may still be caught up with."""


class PlannedTouch(msgspec.Struct, frozen=True, kw_only=True):
    """A touch on its day.

    Attributes:
        order: place in the file's cadence, from 0; touches that share a day leave gaps.
        day: the open day that it falls on, in the campaign's zone.
        opening: when the window opens on that day.
        closes: nothing of it may leave from then on, whatever its `not_before`.
    """

    touch: str
    message: str
    channels: tuple[Channel, ...]
    after_deadline: bool
    order: int
    day: date
    opening: CampaignTime
    closes: CampaignTime


class Due(msgspec.Struct, frozen=True):
    """A touch that is due to someone, to leave in [not_before, not_after)."""

    touch: PlannedTouch
    not_before: CampaignTime
    not_after: CampaignTime


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign's touches on their days.

    Attributes:
        steps: in time order, which is cadence order; one a day.
        order: place in the cadence of every touch that the file names, also of one that gave way
            to a later one of the same day.
        hours: the open hours of every open day on which something may leave, in time order.
        ends: when the last touch closes: the campaign writes to nobody from then on.
    """

    steps: tuple[PlannedTouch, ...]
    order: Mapping[str, int]
    min_gap: timedelta
    hours: tuple[OpenHours, ...]
    ends: CampaignTime

    @property
    def last_before(self) -> PlannedTouch | None:
        """The last touch before the deadline; None where all come after it."""
        return next((step for step in reversed(self.steps) if not step.after_deadline), None)


def build_schedule(campaign: Campaign) -> Schedule:
    """Put a campaign's touches on calendar days of its zone.

    A closed day moves a touch: to the nearest earlier open day before the deadline, to the next
    open one after it. Of touches that come to share a day the later stands.
    """
    order_by_day = {_open_day(campaign, step): order for order, step in enumerate(campaign.cadence)}
    min_gap = timedelta(hours=campaign.sending.min_gap_hours)
    steps: list[PlannedTouch] = []
    next_opening: CampaignTime | None = None
    for day, order in reversed(order_by_day.items()):
        step = campaign.cadence[order]
        hours = open_hours(campaign, day)
        assert hours is not None, "touches fall on open days"
        after = step.days_after is not None
        closes = (
            start_of_day(day + AFTER_TOUCH + DAY, campaign.zone)
            if after
            else campaign.deadline_at - BEFORE_DEADLINE
        )
        if next_opening is not None:
            closes = min(closes, next_opening - min_gap)
        planned = PlannedTouch(
            touch=step.touch,
            message=step.message,
            channels=step.channels,
            after_deadline=after,
            order=order,
            day=day,
            opening=hours.opens,
            closes=CampaignTime(closes),
        )
        steps.append(planned)
        next_opening = planned.opening
    steps.reverse()
    last = steps[-1]
    days = (last.closes.astimezone(campaign.zone).date() - steps[0].day).days + 1
    spans = (open_hours(campaign, steps[0].day + number * DAY) for number in range(days))
    return Schedule(
        steps=tuple(steps),
        order={step.touch: order for order, step in enumerate(campaign.cadence)},
        min_gap=min_gap,
        hours=tuple(span for span in spans if span is not None),
        ends=last.closes,
    )


def due_touch(
    schedule: Schedule,
    had: AbstractSet[str],
    last_touch_at: CampaignTime | None,
    now: CampaignTime,
    *,
    channel: Channel = "email",
    beside: AbstractSet[str] = frozenset(),
) -> Due | None:
    """What a person who is not registered is due on a channel, if anything.

    Either (a) the latest touch whose opening has passed, or (b) the first whose opening lies
    within 48 hours; (b) where (a) was had, where it is not for this channel, or where no open hour
    is left for it. Never one that stands in the cadence before one already had, so that nobody is
    walked backwards when a deadline moves.

    Args:
        had: names of the touches that they have had on this channel.
        last_touch_at: when they had the last one, on any channel; None if never.
        beside: names of those that they have had on other channels.
    """
    last_had = max((schedule.order.get(name, -1) for name in had | beside), default=-1)

    def fit(step: PlannedTouch, earliest: CampaignTime) -> Due | None:
        gap_from = None if step.touch in beside else last_touch_at
        return _fit(schedule, step, earliest, gap_from)

    def is_open(step: PlannedTouch) -> bool:
        return channel in step.channels and step.order >= last_had and step.touch not in had

    passed = bisect_right(schedule.steps, now, key=lambda step: step.opening)
    if passed and is_open(latest := schedule.steps[passed - 1]):
        due = fit(latest, now)
        if due is not None:
            return due
    for step in schedule.steps[passed:]:
        if step.opening > now + AHEAD:
            break
        if is_open(step):
            return fit(step, step.opening)
    return None


def due_anyway(
    schedule: Schedule,
    had: AbstractSet[str],
    last_touch_at: CampaignTime | None,
    now: CampaignTime,
    *,
    channel: Channel = "email",
    beside: AbstractSet[str] = frozenset(),
) -> Due | None:
    """What a person is due who says that they have registered, and whom the directory does not show
    yet: the last touch before the deadline, and nothing else. Arguments as for `due_touch`."""
    last = schedule.last_before
    if last is None:
        return None
    passed_over = {step.touch for step in schedule.steps if step.order < last.order}
    due = due_touch(schedule, had | passed_over, last_touch_at, now, channel=channel, beside=beside)
    return due if due and due.touch == last else None


def due_by_channel(
    schedule: Schedule,
    had: AbstractSet[tuple[str, Channel]],
    last_touch_at: CampaignTime | None,
    now: CampaignTime,
    channels: Iterable[Channel],
    *,
    silenced: bool,
) -> dict[Channel, Due]:
    """What a person is due on each of these channels, if anything.

    Args:
        had: the touches that they have had, each with the channel.
        silenced: whether they say that they have registered (`due_anyway`).
    """
    ask = due_anyway if silenced else due_touch
    found: dict[Channel, Due] = {}
    for channel in channels:
        here = {touch for touch, on in had if on == channel}
        beside = {touch for touch, on in had if on != channel}
        if due := ask(schedule, here, last_touch_at, now, channel=channel, beside=beside):
            found[channel] = due
    return found


def is_over(schedule: Schedule, touch: str, now: CampaignTime) -> bool:
    """Whether a touch of the schedule has opened, and can be planned for nobody any more."""
    step = next((step for step in schedule.steps if step.touch == touch), None)
    return step is not None and step.opening <= now and _fit(schedule, step, now, None) is None


def kept_hours(schedule: Schedule, step: PlannedTouch) -> timedelta:
    """How much open time a touch has at most: what is left for someone planned at its opening."""
    end = min(step.closes, step.opening + LIFE)
    return sum(
        (
            min(hours.closes, end) - max(hours.opens, step.opening)
            for hours in schedule.hours
            if hours.opens < end and step.opening < hours.closes
        ),
        start=timedelta(0),
    )


def _open_day(campaign: Campaign, step: Step) -> date:
    if step.days_after is not None:
        return nearest_open_day(campaign, campaign.last_day + step.days_after * DAY, 1)
    return nearest_open_day(campaign, campaign.last_day - (step.days_before or 0) * DAY, -1)


def _fit(
    schedule: Schedule,
    step: PlannedTouch,
    earliest: CampaignTime,
    last_touch_at: CampaignTime | None,
) -> Due | None:
    """The touch between its two bounds, or None where no open hour lies between them."""
    not_before = earliest
    if last_touch_at is not None:
        not_before = max(not_before, CampaignTime(last_touch_at + schedule.min_gap))
    not_after = min(step.closes, CampaignTime(not_before + LIFE))
    if not_before >= not_after:
        return None
    following = bisect_right(schedule.hours, not_before, key=lambda hours: hours.closes)
    if following == len(schedule.hours) or schedule.hours[following].opens >= not_after:
        return None
    return Due(step, not_before, not_after)
