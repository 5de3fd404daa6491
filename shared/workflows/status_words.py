"""What the status says in words: what needs a person, each with what to do, and how things stand.

Marks such as `week` stand for code; texts that a file or a provider wrote are quoted as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from shared.rules.losses import (
    EXPIRED,
    FAILED,
    NO_CLEAR_ANSWER,
    REFUSED,
    STILL_PLANNED,
    UNDER_WAY,
)

if TYPE_CHECKING:
    from shared.clock import CampaignTime
    from shared.rules.parcels import Channel
    from shared.stores.control import ControlRow
    from shared.stores.sweeps import Sweep
    from shared.workflows.campaigns import Book, Standing
    from shared.workflows.plan import SlowTouch
    from shared.workflows.status import CanaryStatus, TouchStatus

NEXT_SWEEP = (
    "starts at the time of the setting SWEEP_SCHEDULE (20:00 UTC each day, unless it was changed)"
)

_LOST_BECAUSE = {
    NO_CLEAR_ANSWER: "in parcels that got no clear answer",
    UNDER_WAY: "in parcels that are with the provider",
    STILL_PLANNED: "in parcels that still wait to leave",
    EXPIRED: "in parcels that expired before they could leave",
    FAILED: "in parcels that failed by a fault of our own",
    REFUSED: "at an address that was refused",
}
_LOST_STATES = {"expired": EXPIRED, "failed": FAILED, "final": NO_CLEAR_ANSWER}
"""Where people of a touch can be whose parcel will not leave any more."""

_WEBHOOKS: dict[Channel, str] = {
    "email": "SendGrid's event webhook leads to `/callbacks/sendgrid` and that "
    "SENDGRID_WEBHOOK_PUBLIC_KEY is its key",
    "sms": "PUBLIC_BASE_URL is the address at which Twilio reaches `/callbacks/twilio`",
}


# how values are written


def format_moment(at: datetime, zone: ZoneInfo) -> str:
    """A time as people in `zone` write it: Wed 17 March 2027, 09:00."""
    local = at.astimezone(zone)
    return f"{local:%a} {local.day} {local:%B %Y, %H:%M}"


def format_days(days: int) -> str:
    """How far a calendar day is from today."""
    match days:
        case 0:
            return "today"
        case 1:
            return "tomorrow"
        case -1:
            return "yesterday"
        case _:
            return f"in {days} days" if days > 0 else f"{-days} days ago"


def count_things(number: int, one: str, many: str = "") -> str:
    """1 parcel, 2,000 parcels; `many` where an s is not enough."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def name_channel(channel: Channel) -> str:
    """A channel as people write it."""
    return "SMS" if channel == "sms" else channel


def name_touch(touch: str, channel: Channel, *, several: bool) -> str:
    """A touch; with its channel where a campaign has several of them."""
    return f"`{touch}` by {name_channel(channel)}" if several else f"`{touch}`"


def say_of(channel: Channel, text: str, *, several: bool) -> str:
    """A sentence about one channel; named where a campaign has several of them."""
    name = name_channel(channel)
    return f"{name[0].upper()}{name[1:]}: {text}" if several else text


def tell_canary(canary: CanaryStatus) -> str:
    """50 of 50 sent, 12 delivered; the rest follows at 40."""
    return (
        f"{canary.sent:,} of {canary.recipients:,} sent, {canary.delivered:,} delivered; "
        f"the rest follows at {canary.needed:,}"
    )


# what needs a person


def tell_of_all(book: Book, new_files: Sequence[str], died: int) -> list[str]:
    """What needs a person beside what the campaigns in force need."""
    by_file = Counter(mistake.file for mistake in book.mistakes)
    needs = [
        f"`{file}` has {count_things(number, 'mistake')} and takes no effect until it is corrected."
        for file, number in sorted(by_file.items())
    ]
    if not (book.standings or by_file or new_files):
        needs.append(
            "There is no campaign yet. Copy `campaign.example.yaml`, change what is yours, and "
            "put it into the container `config`: within a minute it takes effect, or its mistakes "
            "stand here by line."
        )
    if died:
        needs.append(
            f"{count_things(died, 'message')} of a queue died in the last 7 days. `nudge poison` "
            "says which, and why."
        )
    return needs


def tell_pauses(campaign: str, controls: Mapping[Channel, ControlRow]) -> list[str]:
    """Each pause of each channel, since when, and how it ends."""
    several = len(controls) > 1
    return [
        say_of(
            channel,
            f"{_as_sentence(pause.text)} Paused since {pause.since:%Y-%m-%d %H:%M} UTC: "
            + (
                "one parcel is let through every so often, and the first to be accepted ends it."
                if reason == "setup"
                else f"`nudge resume {campaign}{f' --channel {channel}' if several else ''}` "
                "ends it."
            ),
            several=several,
        )
        for channel, control in controls.items()
        for reason, pause in control.pauses.items()
    ]


def tell_mistakes(standing: Standing) -> list[str]:
    if not standing.mistakes:
        return []
    files = ", ".join(f"`{file}`" for file in sorted({one.file for one in standing.mistakes}))
    number = count_things(len(standing.mistakes), "mistake")
    return [f"{files}: {number}. Version {standing.version} stays in force until it is corrected."]


def tell_abandoned(newest: Sweep | None) -> list[str]:
    if newest is None or newest.state != "abandoned":
        return []
    reason = _as_sentence(newest.reason)
    return [f"Sweep {newest.number} was abandoned: {reason} The next one {NEXT_SWEEP}."]


def tell_lost(touches: Iterable[TouchStatus], *, several: bool) -> list[str]:
    """Who may have had nothing of a touch whose day is not over, since what they stand in will not
    leave any more."""
    needs: list[str] = []
    for touch in touches:
        lost = {
            reason: number
            for state, reason in _LOST_STATES.items()
            if (number := touch.people.get(state, 0))
        }
        if lost:
            name = name_touch(touch.touch, touch.channel, several=several)
            needs.append(f"{name} has {_tell_reasons(lost)}. {_WHO_IT_IS}")
    return needs


def tell_unreached(
    touch: TouchStatus, unreached: Mapping[Channel, Counter[str]], *, several: bool
) -> list[str]:
    """Who was not reached by a touch whose day is over."""
    again = (
        " `nudge plan --now` plans the newest sweep again, for those who can still have it."
        if touch.place == "under way"
        else ""
    )
    return [
        f"The day of {name_touch(touch.touch, channel, several=several)} has ended with "
        f"{_tell_reasons(reasons)}. {_WHO_IT_IS}{again}"
        for channel, reasons in sorted(unreached.items())
    ]


_WHO_IT_IS = "`nudge status --unreached` lists who is still to be reached."


def _tell_reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count_things(reasons[reason], 'person', 'people')} {where}"
        for reason, where in _LOST_BECAUSE.items()
        if reasons.get(reason)
    )


def tell_resting(resting: Mapping[Channel, int]) -> list[str]:
    """Parcels that were handed out, and that nobody has taken."""
    return [
        f"{count_things(parcels, 'parcel was', 'parcels were')} handed out by "
        f"{name_channel(channel)} some minutes ago, and nothing has taken them. See whether the "
        f"function `send_{channel}` runs."
        for channel, parcels in resting.items()
        if parcels
    ]


def tell_silent(silent: Mapping[Channel, int]) -> list[str]:
    """Channels of which no receipts come."""
    return [
        f"No receipts come: of {people:,} people who were written to by {name_channel(channel)} "
        f"hours ago, nothing has come back. Check that {_WEBHOOKS[channel]}."
        for channel, people in silent.items()
        if people
    ]


def tell_slow(slow: Iterable[SlowTouch], *, several: bool) -> list[str]:
    """Touches that the file's own limits do not let out in their time."""

    def limit_of(one: SlowTouch) -> str:
        return f"max_per_domain_per_hour: {one.domain}" if one.domain else "sending"

    return [
        f"{name_touch(one.touch, one.channel, several=several)} is too slow: at the limits under "
        f"`{limit_of(one)}`, {count_things(one.recipients, 'person', 'people')} take until "
        f"{one.day:%a} {one.day.day} {one.day:%B %Y}, and its time ends before. "
        "Raise the limits, or let it begin earlier."
        for one in slow
    ]


# the top line


def tell_headline(
    standing: Standing,
    now: CampaignTime,
    needs: Sequence[str],
    passing: Sequence[str],
    newest: Sweep | None,
    touches: Sequence[TouchStatus],
    *,
    several: bool,
) -> str:
    """One sentence: what the campaign needs, or that all is well and what comes next."""
    if needs:
        more = len(needs) - 1
        return f"Needs you: {needs[0]}" + (f" And {more} more, below." if more else "")
    if now >= standing.schedule.ends:
        return "Over: nobody is written to any more."
    if passing:
        if newest is None:
            return f"Nothing to do: the first sweep {NEXT_SWEEP}."
        if newest.state == "open":
            return f"Nothing to do: sweep {newest.number} is reading the directory."
        return f"Nothing to do. {passing[0]}"
    mode = standing.campaign.sending.mode
    if mode == "dry-run":
        return (
            "Dry run: everything is counted, and nothing is sent until `sending.mode` says `trial` "
            "or `live`."
        )
    well = "All is well" if mode == "live" else "All is well with the trial"
    return f"{well}: {_outlook(standing, now, touches, several=several)}."


def _outlook(
    standing: Standing, now: CampaignTime, touches: Sequence[TouchStatus], *, several: bool
) -> str:
    """What the touch under way has come to, and when the next one opens."""
    zone = standing.campaign.zone
    told: list[str] = []
    for touch in touches:
        if touch.place == "under way":
            name = name_touch(touch.touch, touch.channel, several=several)
            reached = f"{name} has reached {touch.people.get('accepted', 0):,} people"
            due = touch.people.get("planned", 0) + touch.people.get("claimed", 0)
            told.append(f"{reached}, and {due:,} more are due" if due else reached)
        elif touch.place == "next" and touch.opening:
            day = touch.opening.astimezone(zone).date()
            days = format_days((day - now.astimezone(zone).date()).days)
            opening = format_moment(touch.opening, zone)
            told.append(f"`{touch.touch}` opens on {opening} ({zone.key}), {days}")
            break
    else:
        told.append("no touch follows")
    return "; ".join(told)


def _as_sentence(text: str) -> str:
    """A text that came from elsewhere, with its full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
