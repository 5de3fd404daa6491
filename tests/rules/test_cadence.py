"""What a person is due, and when: the example's cadence as tables, and what holds for all."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.clock import CampaignTime
from shared.rules.cadence import Due, Schedule, build_schedule, due_anyway, due_touch, kept_hours
from shared.rules.calendar import nearest_open_day, open_hours, window_open
from shared.rules.campaign import Allowed, Campaign, Sending, Step, Window, parse_campaign

EXAMPLE = parse_campaign(
    (Path(__file__).parents[2] / "campaign.example.yaml").read_text(),
    file="campaign.example.yaml",
    allowed=Allowed(
        senders=frozenset(), link_hosts=frozenset(), local=True, channels=frozenset({"email"})
    ),
)
"""Deadline Wednesday 31 March 2027 in Hong Kong; Monday to Friday, 09:00 to 18:00; gap 20 h."""


def campaign_with(*steps: Step, **changes: Any) -> Campaign:
    return EXAMPLE.model_copy(update={"cadence": steps, **changes})


def before(days: int, name: str = "") -> Step:
    return Step(
        touch=name or f"before-{days}", days_before=days, message="reminder", channels=("email",)
    )


def after(days: int, name: str = "") -> Step:
    return Step(
        touch=name or f"after-{days}", days_after=days, message="after", channels=("email",)
    )


def window(days: str, opens: str = "09:00", closes: str = "18:00", *, gap: int = 20) -> Sending:
    hours = Window.model_validate({"days": days, "from": opens, "until": closes})
    return Sending(window=hours, min_gap_hours=gap)


def at(text: str, zone: str = "Asia/Hong_Kong") -> CampaignTime:
    """A local time such as "Mon 2027-03-29 17:29"; the weekday must be right."""
    local = datetime.strptime(text, "%a %Y-%m-%d %H:%M").replace(tzinfo=ZoneInfo(zone))
    assert local.strftime("%a") == text[:3], f"{text} is a {local:%A}"
    return CampaignTime(local.astimezone(UTC))


def told(moment: datetime, zone: str = "Asia/Hong_Kong") -> str:
    return moment.astimezone(ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M")


# Schedules


@pytest.mark.invariant(9)
def test_the_examples_touches_fall_on_open_days() -> None:
    assert [(step.touch, told(step.opening)) for step in build_schedule(EXAMPLE).steps] == [
        ("announce", "Fri 2027-01-29 09:00"),  # 60 days before is a Saturday
        ("month", "Mon 2027-03-01 09:00"),
        ("fortnight", "Wed 2027-03-17 09:00"),
        ("week", "Wed 2027-03-24 09:00"),
        ("last-call", "Tue 2027-03-30 09:00"),
        ("after", "Mon 2027-04-05 09:00"),  # 3 days after is a Saturday
    ]


DAYS: list[tuple[str, str, str, list[Step], list[str]]] = [
    (
        "the day itself is 0, and open",
        "2027-03-31",
        "mon-fri",
        [before(0)],
        ["before-0 Wed 2027-03-31"],
    ),
    (
        "a Sunday deadline: before it the nearest earlier open day, after it the next one",
        "2027-03-28",
        "mon-fri",
        [before(7), before(0), after(6)],
        ["before-7 Fri 2027-03-19", "before-0 Fri 2027-03-26", "after-6 Mon 2027-04-05"],
    ),
    (
        "Saturday and Sunday before the deadline land on one Friday: the later stands",
        "2027-03-29",
        "mon-fri",
        [before(3), before(2), before(1), before(0)],
        ["before-1 Fri 2027-03-26", "before-0 Mon 2027-03-29"],
    ),
    (
        "Saturday and Sunday after it land on one Monday: the later stands",
        "2027-04-02",
        "mon-fri",
        [before(0), after(1), after(2), after(4)],
        ["before-0 Fri 2027-04-02", "after-2 Mon 2027-04-05", "after-4 Tue 2027-04-06"],
    ),
    (
        "over a year's end",
        "2027-01-10",
        "mon-fri",
        [before(14), before(10)],
        ["before-14 Fri 2026-12-25", "before-10 Thu 2026-12-31"],
    ),
    (
        "over a leap day",
        "2028-03-15",
        "mon-fri",
        [before(15), before(14), after(365)],
        ["before-15 Tue 2028-02-29", "before-14 Wed 2028-03-01", "after-365 Thu 2029-03-15"],
    ),
    (
        "one open day a week",
        "2027-03-31",
        "tue",
        [before(14), before(6), after(1)],
        ["before-14 Tue 2027-03-16", "before-6 Tue 2027-03-23", "after-1 Tue 2027-04-06"],
    ),
]


@pytest.mark.invariant(9)
@pytest.mark.parametrize(("_why", "deadline", "days", "steps", "expected"), DAYS)
def test_touches_on_calendar_days(
    _why: str, deadline: str, days: str, steps: list[Step], expected: list[str]
) -> None:
    campaign = campaign_with(*steps, deadline=date.fromisoformat(deadline), sending=window(days))
    schedule = build_schedule(campaign)
    assert [f"{step.touch} {step.day:%a %Y-%m-%d}" for step in schedule.steps] == expected


@pytest.mark.invariant(9)
def test_days_are_counted_in_the_zone_and_over_a_change_of_clocks() -> None:
    campaign = campaign_with(
        before(7), before(1), timezone="Europe/London", deadline=date(2027, 3, 30)
    )
    openings = [step.opening for step in build_schedule(campaign).steps]
    assert [f"{opening:%a %d %H:%M}" for opening in openings] == ["Tue 23 09:00", "Mon 29 08:00"]


def test_a_touch_that_gave_way_still_has_its_place() -> None:
    campaign = campaign_with(before(3), before(2), before(1), deadline=date(2027, 3, 29))
    schedule = build_schedule(campaign)
    assert [step.touch for step in schedule.steps] == ["before-1"]
    assert due_touch(schedule, {"before-2"}, None, at("Fri 2027-03-26 10:00")) is not None
    assert due_touch(schedule, {"before-1"}, None, at("Fri 2027-03-26 10:00")) is None


# What is due: (had so far, time of the last touch, now) -> (touch, not_before, not_after)

NEVER = None
DUE: list[tuple[str, set[str], str | None, str, tuple[str, str, str] | None]] = [
    ("49 hours ahead", set(), NEVER, "Wed 2027-01-27 08:00", None),
    (
        "48 hours ahead, and 72 hours to leave in",
        set(),
        NEVER,
        "Wed 2027-01-27 09:00",
        ("announce", "Fri 2027-01-29 09:00", "Mon 2027-02-01 09:00"),
    ),
    (
        "a touch of weeks ago is caught up with",
        set(),
        NEVER,
        "Wed 2027-02-17 12:00",
        ("announce", "Wed 2027-02-17 12:00", "Sat 2027-02-20 12:00"),
    ),
    (
        "the latest alone: what was missed before it is gone",
        set(),
        NEVER,
        "Wed 2027-03-24 17:29",
        ("week", "Wed 2027-03-24 17:29", "Sat 2027-03-27 17:29"),
    ),
    (
        "room for the next one, gap included",
        set(),
        NEVER,
        "Mon 2027-03-29 12:59",
        ("week", "Mon 2027-03-29 12:59", "Mon 2027-03-29 13:00"),
    ),
    (
        "no room: the next one instead",
        set(),
        NEVER,
        "Mon 2027-03-29 13:00",
        ("last-call", "Tue 2027-03-30 09:00", "Wed 2027-03-31 23:00"),
    ),
    (
        "room by night only: the next one instead",
        {"announce", "month", "fortnight"},
        "Wed 2027-03-17 09:02",
        "Tue 2027-03-23 04:00",
        ("week", "Wed 2027-03-24 09:00", "Sat 2027-03-27 09:00"),
    ),
    (
        "had: the next one, until an hour before the deadline",
        {"announce", "month", "fortnight", "week"},
        "Wed 2027-03-24 09:05",
        "Mon 2027-03-29 04:00",
        ("last-call", "Tue 2027-03-30 09:00", "Wed 2027-03-31 23:00"),
    ),
    (
        "had, and the next one is far",
        {"announce"},
        "Fri 2027-01-29 09:05",
        "Wed 2027-02-17 12:00",
        None,
    ),
    (
        "the gap counts elapsed hours from the last touch",
        {"fortnight"},
        "Tue 2027-03-23 17:00",
        "Wed 2027-03-24 04:00",
        ("week", "Wed 2027-03-24 13:00", "Sat 2027-03-27 13:00"),
    ),
    (
        "one had that stands later, since the deadline was moved",
        {"last-call"},
        "Mon 2027-03-01 09:00",
        "Wed 2027-03-24 10:00",
        None,
    ),
    (
        "and the first after it when its time comes",
        {"last-call"},
        "Mon 2027-03-01 09:00",
        "Sat 2027-04-03 09:00",
        ("after", "Mon 2027-04-05 09:00", "Thu 2027-04-08 09:00"),
    ),
    (
        "a name that the cadence does not know is no touch of it",
        {"of-another-year"},
        NEVER,
        "Wed 2027-03-24 10:00",
        ("week", "Wed 2027-03-24 10:00", "Sat 2027-03-27 10:00"),
    ),
    (
        "on the deadline's day there is still time",
        set(),
        NEVER,
        "Wed 2027-03-31 17:59",
        ("last-call", "Wed 2027-03-31 17:59", "Wed 2027-03-31 23:00"),
    ),
    ("but not after hours", set(), NEVER, "Wed 2027-03-31 18:00", None),
    ("nor between deadline and after-touch", set(), NEVER, "Thu 2027-04-01 10:00", None),
    (
        "an after-touch can be caught up with",
        set(),
        NEVER,
        "Fri 2027-04-09 10:00",
        ("after", "Fri 2027-04-09 10:00", "Mon 2027-04-12 10:00"),
    ),
    (
        "until 7 days after its day have ended",
        set(),
        NEVER,
        "Mon 2027-04-12 17:59",
        ("after", "Mon 2027-04-12 17:59", "Tue 2027-04-13 00:00"),
    ),
    ("then it is over", set(), NEVER, "Tue 2027-04-13 09:00", None),
    ("all had", {"after"}, "Mon 2027-04-05 09:00", "Mon 2027-04-05 10:00", None),
]


@pytest.mark.invariant(9)
@pytest.mark.parametrize(("_why", "had", "last_touch", "now", "expected"), DUE)
def test_what_is_due(
    _why: str,
    had: set[str],
    last_touch: str | None,
    now: str,
    expected: tuple[str, str, str] | None,
) -> None:
    last_touch_at = at(last_touch) if last_touch else None
    due = due_touch(build_schedule(EXAMPLE), had, last_touch_at, at(now))
    assert expected == (due and (due.touch.touch, told(due.not_before), told(due.not_after)))


# What is due to someone who says that they have registered: (had so far, now) -> touch

ANYWAY: list[tuple[str, set[str], str, str | None]] = [
    ("nothing long before", set(), "Wed 2027-03-17 10:00", None),
    ("nothing yet, 49 hours before the last one", set(), "Sun 2027-03-28 08:00", None),
    ("the last one before the deadline", set(), "Sun 2027-03-28 09:00", "last-call"),
    ("also where an earlier one could be caught up with", {"announce"}, "Mon 2027-03-29 10:00",
     "last-call"),
    ("on its day", {"week"}, "Tue 2027-03-30 10:00", "last-call"),
    ("not twice", {"last-call"}, "Tue 2027-03-30 10:00", None),
    ("nothing after the deadline", set(), "Mon 2027-04-05 10:00", None),
]  # fmt: skip


@pytest.mark.invariant(4)
@pytest.mark.parametrize(("_why", "had", "now", "expected"), ANYWAY)
def test_what_is_due_anyway(_why: str, had: set[str], now: str, expected: str | None) -> None:
    due = due_anyway(build_schedule(EXAMPLE), had, None, at(now))
    assert expected == (due and due.touch.touch)


def test_where_all_touches_come_after_the_deadline_none_is_due_anyway() -> None:
    schedule = build_schedule(campaign_with(after(3), after(10)))
    assert schedule.last_before is None
    assert due_touch(schedule, set(), None, at("Mon 2027-04-05 10:00")) is not None
    assert due_anyway(schedule, set(), None, at("Mon 2027-04-05 10:00")) is None


@pytest.mark.invariant(9)
def test_the_gap_is_elapsed_time_also_where_clocks_jump() -> None:
    """In New York, 20 hours after Saturday 22:00 it is Sunday 19:00."""
    campaign = campaign_with(
        before(3),
        timezone="America/New_York",
        deadline=date(2027, 3, 16),
        sending=window("mon-sun", "00:00", "23:00"),
    )
    last = at("Sat 2027-03-13 22:00", "America/New_York")
    due = due_touch(build_schedule(campaign), frozenset(), last, last)
    assert due is not None
    assert due.not_before - last == timedelta(hours=20)
    assert told(due.not_before, "America/New_York") == "Sun 2027-03-14 19:00"


def test_how_long_touches_keep() -> None:
    steps = [before(2), before(1), before(0)]
    schedule = build_schedule(campaign_with(*steps, sending=window("mon-fri", gap=22)))
    kept = {step.touch: kept_hours(schedule, step) for step in schedule.steps}
    assert kept == {
        "before-2": timedelta(hours=2),
        "before-1": timedelta(hours=2),
        "before-0": timedelta(hours=9),
    }


# What holds for every campaign, person and moment


@st.composite
def campaigns(draw: st.DrawFn) -> Campaign:
    """Also such as a file could not hold: what follows does not hang on their keeping 2 hours."""
    befores = draw(st.sets(st.integers(0, 90), max_size=6))
    afters = draw(st.sets(st.integers(1, 30), min_size=0 if befores else 1, max_size=3))
    steps = [before(day) for day in sorted(befores, reverse=True)]
    steps += [after(day) for day in sorted(afters)]
    opens, closes = sorted(
        draw(st.lists(st.integers(0, 1439), min_size=2, max_size=2, unique=True))
    )
    hours = Window.model_construct(
        days=tuple(sorted(draw(st.sets(st.integers(0, 6), min_size=1)))),
        from_=time(opens // 60, opens % 60),
        until=time(closes // 60, closes % 60),
    )
    zone = draw(
        st.sampled_from(["Asia/Hong_Kong", "Europe/London", "America/New_York", "Asia/Beirut"])
    )
    day = draw(
        st.one_of(
            st.dates(date(2026, 1, 1), date(2030, 12, 31)),
            st.sampled_from([date(2028, 2, 29), date(2027, 12, 31), date(2028, 1, 1)]),
        )
    )
    moment = datetime.combine(day, draw(st.times()).replace(microsecond=0), tzinfo=UTC)
    return campaign_with(
        *steps,
        timezone=zone,
        deadline=draw(st.sampled_from([day, moment])),
        sending=Sending(window=hours, min_gap_hours=draw(st.integers(0, 100))),
    )


class Person(NamedTuple):
    """Someone in a campaign: what they have had, when the last of it, and when we plan."""

    campaign: Campaign
    schedule: Schedule
    had: frozenset[str]
    last: CampaignTime | None
    now: CampaignTime

    def due(self, *, later: timedelta = timedelta(0)) -> Due | None:
        return due_touch(self.schedule, self.had, self.last, CampaignTime(self.now + later))


@st.composite
def people(draw: st.DrawFn) -> Person:
    campaign = draw(campaigns())
    schedule = build_schedule(campaign)
    had = draw(st.sets(st.sampled_from([step.touch for step in campaign.cadence]), max_size=3))
    opening = draw(st.sampled_from(schedule.steps)).opening
    now = opening + timedelta(minutes=draw(st.integers(-5000, 15000)))
    ago = draw(st.none() | st.timedeltas(timedelta(0), timedelta(days=5)))
    last = None if ago is None else CampaignTime(now - ago)
    return Person(campaign, schedule, frozenset(had), last, CampaignTime(now))


@pytest.mark.invariant(9)
@given(campaigns())
def test_every_opening_is_that_of_an_open_day_and_they_rise_in_cadence_order(
    campaign: Campaign,
) -> None:
    schedule = build_schedule(campaign)
    for step in schedule.steps:
        hours = open_hours(campaign, step.day)
        assert hours is not None
        assert step.opening == hours.opens
        assert window_open(campaign, step.opening)
    for earlier, later in zip(schedule.steps, schedule.steps[1:], strict=False):
        assert (earlier.order, earlier.opening) < (later.order, later.opening)
        assert earlier.opening < later.opening


@pytest.mark.invariant(9)
@given(campaigns())
def test_a_touch_leaves_its_day_only_for_the_nearest_open_one(campaign: Campaign) -> None:
    days = {step.order: step.day for step in build_schedule(campaign).steps}
    for order, step in enumerate(campaign.cadence):
        if step.days_before is not None:
            nominal = campaign.last_day - timedelta(days=step.days_before)
            expected = nearest_open_day(campaign, nominal, -1)
            assert expected <= nominal
        else:
            nominal = campaign.last_day + timedelta(days=step.days_after or 0)
            expected = nearest_open_day(campaign, nominal, 1)
            assert expected >= nominal
        # One that gave way has a later one on its day.
        assert expected in days.values()
        assert days.get(order, expected) == expected


@pytest.mark.invariant(10)
@given(campaigns())
def test_before_is_before_the_deadline_and_after_is_after_it(campaign: Campaign) -> None:
    for step in build_schedule(campaign).steps:
        if step.after_deadline:
            assert step.opening >= campaign.deadline_at
        else:
            assert step.closes <= campaign.deadline_at - timedelta(hours=1)


@pytest.mark.invariant(9)
@given(people())
def test_what_is_due_can_be_sent_within_its_bounds(person: Person) -> None:
    campaign, schedule, had, last, now = person
    due = person.due()
    assume(due is not None)
    assert due is not None
    assert due.not_before < due.not_after
    assert due.not_after - due.not_before <= timedelta(hours=72)
    assert due.not_before >= max(now, due.touch.opening)
    assert due.touch.opening <= now + timedelta(hours=48)
    assert last is None or due.not_before - last >= schedule.min_gap
    assert all(schedule.order[name] < due.touch.order for name in had)
    for later in schedule.steps[schedule.steps.index(due.touch) + 1 :]:
        assert due.not_after <= later.opening - schedule.min_gap
    if not due.touch.after_deadline:
        assert due.not_after <= campaign.deadline_at - timedelta(hours=1)
    first_day = due.not_before.astimezone(campaign.zone).date()
    spans = [open_hours(campaign, first_day + timedelta(days=number)) for number in range(5)]
    assert any(
        span.opens < due.not_after and due.not_before < span.closes for span in spans if span
    ), "no open hour lies between the bounds"


@pytest.mark.invariant(9)
@given(people(), st.timedeltas(timedelta(0), timedelta(days=14)))
def test_time_never_brings_an_earlier_touch(person: Person, later: timedelta) -> None:
    first, second = person.due(), person.due(later=later)
    assume(first is not None and second is not None)
    assert first is not None
    assert second is not None
    assert first.touch.order <= second.touch.order


@given(people())
def test_whoever_has_had_it_gets_only_later_ones(person: Person) -> None:
    due = person.due()
    assume(due is not None)
    assert due is not None
    had = person.had | {due.touch.touch}
    following = person._replace(had=had, last=due.not_before).due()
    assert following is None or following.touch.order > due.touch.order
