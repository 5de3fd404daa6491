"""Looks at a campaign against the calendar: is the directory read before the window opens, does the
pace let everybody be reached in time, may it name whom it names, and does it send at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise

from admin.doctor.rows import Row, count, missing, ok, unchecked, warning
from admin.doctor.stored import Stored, people_to_reach
from admin.doctor.subject import Subject
from local.schedule import Schedule as Ticks
from shared.clock import CampaignTime
from shared.errors import SetupFault
from shared.rules.cadence import LIFE, Schedule, build_schedule
from shared.rules.calendar import DAY, OpenHours, next_hours, open_hours
from shared.rules.campaign import Allowed, Campaign, not_allowed
from shared.rules.pace import day_limit, finish_day
from shared.rules.parcels import CHANNELS, Channel
from shared.workflows.status_words import name_channel

_ROWS_A_SECOND = 500
"""Of the registration report, as Graph paces it: 5 requests in 10 s of 999 rows each."""

_UNMEASURED = timedelta(hours=1)
"""Taken for a sweep that nobody has timed: 1.8 million accounts."""

_OPENINGS = 7
_MOST_TICKS = 200


# the sender and the links


def examine_allowed(campaign: Campaign, subject: Subject) -> list[Row]:
    """What live mode asks of sender and links (invariant 11), whatever the mode is now."""
    what = f"sender and links of {campaign.campaign}"
    settings = subject.settings
    if settings is None or subject.faulty & {"ALLOWED_SENDERS", "ALLOWED_LINK_HOSTS"}:
        return [unchecked(what, "ALLOWED_SENDERS or ALLOWED_LINK_HOSTS has a problem")]
    sending = campaign.sending.model_copy(update={"mode": "live"})
    allowed = Allowed(
        senders=settings.allowed_senders,
        link_hosts=settings.allowed_link_hosts,
        local=settings.local,
        channels=frozenset(CHANNELS),  # a channel without a sender is a mistake of the file
    )
    rows = [
        missing(what, found, f"{fix[:1].upper()}{fix[1:]}")
        for found, _, fix in (
            complaint.partition(". Fix: ")
            for complaint in not_allowed(campaign.model_copy(update={"sending": sending}), allowed)
        )
    ]
    host = subject.public_host
    if (
        host
        and not subject.is_on_platform
        and host not in {one.casefold() for one in settings.allowed_link_hosts}
    ):
        rows.append(
            missing(
                what,
                f"the pages' own host {host} is not on ALLOWED_LINK_HOSTS",
                "Add it there: mails hold links to it.",
            )
        )
    return rows or [ok(what, "on ALLOWED_SENDERS and ALLOWED_LINK_HOSTS")]


def examine_text_sender(campaign: Campaign, subject: Subject) -> Iterator[Row]:
    """Of a campaign with SMS: whether its sender is one that alumni of Hong Kong are told to trust,
    where it is for them."""
    what = f"SMS sender of {campaign.campaign}"
    if not any("sms" in step.channels for step in campaign.cadence) or subject.settings is None:
        return
    sender = subject.settings.twilio_from
    hong_kong = "HK" in (campaign.contact.default_region, _region_of(campaign))
    if not sender or "TWILIO_FROM" in subject.faulty:
        yield unchecked(what, "there is none yet, or it has a problem")
    elif sender.startswith("MG"):
        yield ok(what, "a messaging service; which senders it has, only Twilio knows")
    elif hong_kong and not sender.startswith("#"):
        yield warning(
            what,
            "not a registered one of Hong Kong, which begin with #: alumni are told to distrust it",
            "Register one with OFCA and Twilio, which takes weeks (docs/senders.md).",
        )
    else:
        yield ok(what, "set; that it is registered where it must be, only Twilio knows")


def _region_of(campaign: Campaign) -> str:
    return "HK" if campaign.timezone in ("Asia/Hong_Kong", "Hongkong") else ""


# the sweep


def examine_schedule(
    campaign: Campaign, subject: Subject, stored: Stored, now: CampaignTime, accounts: int | None
) -> list[Row]:
    """Whether a sweep ends before each of the next windows opens.

    Args:
        accounts: of the tenant; None where nobody has counted.
    """
    what = f"sweep before the window of {campaign.campaign}"
    if subject.settings is None or "SWEEP_SCHEDULE" in subject.faulty:
        return [unchecked(what, "SWEEP_SCHEDULE has a problem", "Correct it first.")]
    lasts, known_from = _how_long(stored, accounts)
    try:
        ticks = Ticks(subject.settings.sweep_schedule)
        for hours in _next_openings(campaign, now):
            if row := _judge_opening(what, campaign, ticks, hours, lasts):
                return [row]
    except SetupFault as fault:
        return [missing(what, fault.what, fault.fix)]
    return [ok(what, f"it ends in time ({_minutes(lasts)}, {known_from})")]


def _how_long(stored: Stored, accounts: int | None) -> tuple[timedelta, str]:
    """How long a sweep takes, and where this is known from."""
    committed = stored.committed
    if committed and committed.ended_at:
        return committed.ended_at - committed.opened_at, "as the last one took"
    if accounts is not None:
        return timedelta(seconds=accounts / _ROWS_A_SECOND), "by the number of accounts"
    return _UNMEASURED, "a guess: tell the accounts of the tenant by --accounts"


def _next_openings(campaign: Campaign, now: CampaignTime) -> Iterator[OpenHours]:
    after = now
    for _ in range(_OPENINGS):
        hours = next_hours(campaign, after)
        yield hours
        after = hours.opens


def _judge_opening(
    what: str, campaign: Campaign, ticks: Ticks, hours: OpenHours, lasts: timedelta
) -> Row | None:
    opens = hours.opens
    before = _ticks_between(ticks, opens - DAY, opens)
    there = opens.astimezone(campaign.zone)
    if before is None:
        return missing(
            what, "it starts many times a day", "Write a schedule of once a day: `0 0 20 * * *`."
        )
    latest = (opens - lasts).strftime("%H:%M")
    fix = f"Let SWEEP_SCHEDULE start it before {latest} UTC, better an hour earlier."
    if not before:
        return missing(
            what, f"none starts in the 24 hours before {there:%a %Y-%m-%d %H:%M} there", fix
        )
    ends = before[-1] + lasts
    if ends > opens:
        return missing(
            what,
            f"the one of {before[-1]:%H:%M} UTC ends about {ends:%H:%M}, when the window is open "
            f"(since {opens:%H:%M} UTC, {there:%H:%M} there)",
            fix,
        )
    if during := _ticks_between(ticks, opens, hours.closes):
        return warning(
            what,
            f"one starts while the window is open, at {during[0]:%H:%M} UTC",
            f"{fix} What is planned changes while it is sent.",
        )
    return None


def _ticks_between(ticks: Ticks, start: datetime, end: datetime) -> list[datetime] | None:
    """The ticks in [start, end); None where they are too many to be meant."""
    found: list[datetime] = []
    at = ticks.next_after(start - timedelta(seconds=1))
    while at < end:
        found.append(at)
        if len(found) > _MOST_TICKS:
            return None
        at = ticks.next_after(at)
    return found


def _minutes(lasts: timedelta) -> str:
    minutes = max(1, round(lasts / timedelta(minutes=1)))
    return count(minutes, "minute")


# the pace


def examine_pace(
    campaign: Campaign, subject: Subject, stored: Stored, now: CampaignTime, people: int | None
) -> list[Row]:
    """Whether each touch to come can leave in its time, if everybody who is due is written to.

    Args:
        people: whom each channel can reach; None where it is to be taken from the last sweep.
    """
    what = f"pace of {campaign.campaign}"
    schedule = build_schedule(campaign)
    if now >= schedule.ends:
        return [
            warning(
                what,
                f"the campaign was over on {schedule.ends.astimezone(campaign.zone):%Y-%m-%d}",
                "Move its deadline, or take its file away.",
            )
        ]
    if people is None:
        people = people_to_reach(stored.statuses.values(), campaign.campaign)
    if people is None:
        return [
            unchecked(
                what,
                "how many people are to be reached is not known",
                "Tell it by --people, as `nudge survey` counts them, or run a sweep.",
            )
        ]
    rows = [
        row
        for channel in CHANNELS
        if any(channel in step.channels for step in schedule.steps)
        for row in _judge_pace(what, campaign, schedule, channel, people, stored, now)
    ]
    return rows or [ok(what, f"lets {count(people, 'recipient')} leave within each touch's time")]


def _judge_pace(
    what: str,
    campaign: Campaign,
    schedule: Schedule,
    channel: Channel,
    people: int,
    stored: Stored,
    now: CampaignTime,
) -> Iterator[Row]:
    live_days = list(stored.live_days.get((campaign.campaign, channel), ()))
    to_come = [step for step in schedule.steps if step.closes > now]
    passed = {one.touch for one, after in pairwise(to_come) if after.opening <= now}
    for step in to_come:
        if channel not in step.channels or step.touch in passed:
            continue
        not_before = max(step.opening, now)
        not_after = min(step.closes, CampaignTime(not_before + LIFE))
        day = finish_day(
            campaign,
            channel,
            recipients=people,
            not_before=not_before,
            not_after=not_after,
            live_days=live_days,
        )
        if day:
            ends = not_after.astimezone(campaign.zone)
            yield missing(
                what,
                f"`{step.touch}` by {name_channel(channel)}: {count(people, 'recipient')} would "
                f"take until {day}, and it ends on {ends:%Y-%m-%d %H:%M}",
                "Begin earlier, with a touch more; or raise `max_per_hour`, `max_per_day` or "
                "`warm_up` as far as your domain's name bears it.",
            )
        live_days += _days_used(campaign, channel, people, not_before, not_after, live_days)


def _days_used(
    campaign: Campaign,
    channel: Channel,
    people: int,
    not_before: CampaignTime,
    not_after: CampaignTime,
    live_days: list[str],
) -> list[str]:
    """Days on which a touch leaves: they let the limit of those after it grow."""
    used: list[str] = []
    day = not_before.astimezone(campaign.zone).date()
    while people > 0:
        hours = open_hours(campaign, day)
        if hours and hours.opens >= not_after:
            break
        if hours and hours.closes > not_before:
            limit = day_limit(campaign.sending, channel, [*live_days, *used], day)
            people -= people if limit is None else limit
            used.append(day.isoformat())
        day += DAY
        if day > not_after.astimezone(campaign.zone).date():
            break
    return used


# whether it sends


def examine_mode(campaign: Campaign) -> Row:
    what = f"mode of {campaign.campaign}"
    mode = campaign.sending.mode
    if mode == "live":
        return ok(what, "live")
    if mode == "trial":
        accounts = count(len(campaign.sending.trial), "account")
        return warning(
            what,
            f"trial: writes to {accounts}, and to nobody else",
            "When these have their mails and nothing above is missing, write `mode: live`.",
        )
    return warning(
        what,
        "dry-run: counts, and sends nothing",
        "When nothing above is missing, write `mode: trial` with some colleagues first.",
    )
