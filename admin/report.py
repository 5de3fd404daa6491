"""`nudge status | poison | person`: what an administrator and the help desk see."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from admin.environment import add_target, answer, open_target
from shared.rules.guards import ShardCounts
from shared.stores.poison import DeadMessage
from shared.workflows.biography import Biography, Chapter, PersonParcel, Remembered
from shared.workflows.poison import Died
from shared.workflows.status import CampaignStatus, ChannelStatus, Status, TouchStatus
from shared.workflows.status_words import (
    NEXT_SWEEP,
    count_things,
    format_days,
    format_moment,
    name_channel,
    name_touch,
    tell_canary,
)


def add_commands(commands: Any) -> None:
    status = commands.add_parser("status", help="where each campaign stands, in counts")
    status.add_argument(
        "--unreached",
        action="store_true",
        help="list everybody who was due and not reached, by object id, with the reason",
    )
    status.set_defaults(run=run_status)
    poison = commands.add_parser("poison", help="which messages of queues died, and why")
    poison.set_defaults(run=run_poison)
    person = commands.add_parser("person", help="all that happened to one person")
    person.add_argument("id", help="object id, or user principal name")
    person.set_defaults(run=run_person)
    for parser in (status, poison, person):
        add_target(parser)


async def run_status(given: argparse.Namespace) -> int:
    app = open_target(given)
    try:
        if given.unreached:
            unreached = await app.status.collect_unreached()
            return answer(given, format_unreached(unreached), {"unreached": unreached})
        status = await app.status.collect()
    finally:
        await app.close()
    return answer(given, format_status(status), status)


async def run_poison(given: argparse.Namespace) -> int:
    app = open_target(given)
    try:
        died = await app.poison.collect()
    finally:
        await app.close()
    return answer(given, format_died(died), died)


async def run_person(given: argparse.Namespace) -> int:
    app = open_target(given)
    try:
        biography = await app.biography.collect(await app.biography.find(given.id))
    finally:
        await app.close()
    return answer(given, format_biography(biography), biography)


# the status


def format_unreached(unreached: dict[str, dict[str, str]]) -> str:
    """One line a person: campaign, object id, reason."""
    lines = [
        f"{campaign}  {person}  {why}"
        for campaign, people in unreached.items()
        for person, why in people.items()
    ]
    return "\n".join(lines) or "Everybody who was due was reached."


def format_status(status: Status) -> str:
    """The status as a person reads it on a terminal: what needs them first."""
    lines: list[str] = []
    if status.stopped:
        lines += ["ALL SENDING IS STOPPED by the blob `config/stop`.", ""]
    lines += [f"Needs you: {need}" for need in status.needs]
    lines += [f"  mistake: {mistake}" for mistake in status.mistakes]
    lines += [f"`{file}` is new: it takes effect within a minute." for file in status.new_files]
    lines += _format_sweeps(status)
    for campaign in status.campaigns:
        lines += ["", *_format_campaign(campaign)]
    return "\n".join(lines)


def _format_sweeps(status: Status) -> list[str]:
    """The last committed sweep, and the newest one where that is another."""
    lines: list[str] = []
    if (committed := status.committed) and committed.ended_at:
        lines.append(
            f"Sweep {committed.number}: committed {committed.ended_at:%Y-%m-%d %H:%M} UTC."
        )
    if (newest := status.sweep) is None:
        lines.append(f"No sweep yet. The first one {NEXT_SWEEP}.")
    elif newest.state == "open":
        passes = ", ".join(f"{one.source} {one.pages} pages" for one in newest.passes)
        lines.append(
            f"Sweep {newest.number}: open since {newest.opened_at:%Y-%m-%d %H:%M} UTC. {passes}"
        )
    elif newest.state == "abandoned":
        lines.append(f"Sweep {newest.number}: abandoned. {newest.reason}")
    return lines


def _format_campaign(campaign: CampaignStatus) -> list[str]:
    lines = [
        f"{campaign.campaign}: version {campaign.version}, {campaign.mode}, "
        f"deadline {campaign.deadline} ({format_days(campaign.days_left)}), "
        f"enforced from {campaign.enforced_from}, {campaign.timezone}"
    ]
    lines += [f"  needs you: {need}" for need in campaign.needs] or [f"  {campaign.headline}"]
    lines += [f"  mistake: {mistake}" for mistake in campaign.mistakes]
    lines += [f"  waits: {wait}" for wait in campaign.waits]
    lines += [f"  {line}" for one in campaign.channels for line in _format_pace(one)]
    if counts := campaign.counts:
        lines += _format_counts(counts)
    elif campaign.shards_done:
        lines.append(f"  planning: {campaign.shards_done} of 16 shards done")
    several = len({touch.channel for touch in campaign.touches}) > 1
    by = f" {'by':<6}" if several else ""
    lines.append(f"  {'touch':<12}{by} {'opens there':<17} {'stands':<12} people")
    zone = ZoneInfo(campaign.timezone)
    lines += [_format_touch(touch, zone, several=several) for touch in campaign.touches]
    return lines


def _format_touch(touch: TouchStatus, zone: ZoneInfo, *, several: bool) -> str:
    opening = f"{touch.opening.astimezone(zone):%Y-%m-%d %H:%M}" if touch.opening else "-"
    people = ", ".join(f"{n:,} {state}" for state, n in sorted(touch.people.items())) or "-"
    if touch.delivered:
        people += f" ({touch.delivered:,} delivered)"
    if touch.canary:
        told = tell_canary(touch.canary) if touch.canary.result == "waiting" else ""
        people += f"; canary {touch.canary.result}{f': {told}' if told else ''}"
    by = f" {name_channel(touch.channel):<6}" if several else ""
    return f"  {touch.touch:<12}{by} {opening:<17} {touch.place:<12} {people}"


def _format_pace(one: ChannelStatus) -> Iterator[str]:
    """The day's limit and how much of it is used, where there is one."""
    if one.limit_today is not None:
        yield (
            f"today by {name_channel(one.channel)}: {one.sent_today:,} of at most "
            f"{count_things(one.limit_today, 'recipient')}"
        )


def _format_counts(counts: ShardCounts) -> list[str]:
    reasons = ", ".join(f"{number:,} {name}" for name, number in sorted(counts.reasons.items()))
    return [
        f"  {counts.roster:,} accounts: {counts.registered:,} registered "
        f"({counts.confirmed:,} confirmed by a completion), {counts.unregistered:,} unregistered "
        f"({counts.unreachable:,} unreachable, {counts.opted_out:,} opted out, "
        f"{counts.reported:,} say that they are done), {counts.unknown:,} unknown, "
        f"{counts.unrecognised:,} unrecognised, {counts.excluded:,} excluded"
        + (f" ({reasons})" if reasons else "")
    ]


# what died


def format_died(died: Died) -> str:
    """One line a message, the newest first, and what lies on poison queues."""
    lines = [_format_dead(message) for message in died.messages]
    lines += [
        f"{count_things(number, 'message')} on the queue `{queue}` now."
        for queue, number in died.lying.items()
    ]
    return "\n".join(lines) or "Nothing died in the last 90 days."


def _format_dead(message: DeadMessage) -> str:
    about = ", ".join(f"{name} {value}" for name, value in message.about.items())
    return f"{message.died_at:%Y-%m-%d %H:%M:%S} UTC  {message.queue:<8}  {message.reason}" + (
        f"  ({about})" if about else ""
    )


# one person


def format_biography(biography: Biography) -> str:
    """What happened to a person, campaign by campaign, in order of time."""
    lines = [biography.id]
    for chapter in biography.campaigns:
        lines += ["", *_format_chapter(chapter)]
    if not biography.campaigns:
        lines.append("There is no campaign.")
    return "\n".join(lines)


_ACCOUNTS = {
    "registered": "registered",
    "unregistered": "not registered",
    "unknown": "unknown: the registration report has no row of them",
    "unrecognised": "registered with methods that we do not know, and with none that we do",
    "excluded": "excluded",
    "not in the audience": "not in its audience",
    "not read yet": "not read yet",
}


def _format_chapter(chapter: Chapter) -> list[str]:
    zone = ZoneInfo(chapter.timezone)
    sweep = f"sweep {chapter.sweep}" if chapter.sweep else "no sweep yet"
    account = _ACCOUNTS[chapter.account]
    if chapter.why:
        account += f" ({chapter.why})"
    if chapter.confirmed:
        account += ", by a completion that the report does not show yet"
    lines = [
        f"{chapter.campaign}: version {chapter.version}, {chapter.mode}, {chapter.timezone}",
        f"  {sweep}: {account}",
    ]
    lines += [
        f"  {name_channel(channel)}: {'can be used' if usable else 'no contact that may be used'}"
        for channel, usable in chapter.contacts.items()
    ]
    if bad := chapter.remembered.bad_addresses:
        lines.append(f"  {count_things(bad, 'address', 'addresses')} of theirs did not work")
    if chapter.remembered.refuses:
        refused = ", ".join(map(name_channel, chapter.remembered.refuses))
        lines.append(f"  asked the provider for no more by {refused}")
    told = [*_tell_parcels(chapter), *_tell_remembered(chapter.remembered)]
    lines += [
        f"  {format_moment(at, zone):<26}  {text}"
        for at, text in sorted(told, key=lambda one: one[0])
    ] or ["  nothing has happened yet"]
    lines += [
        f"  {format_moment(one.not_before, zone):<26}  next: "
        f"{name_touch(one.touch, one.channel, several=True)}"
        for one in chapter.next
    ]
    return lines


_OUTCOMES = {
    "planned": "planned, not before this time",
    "claimed": "with the provider at this moment",
    "accepted": "taken by the provider",
    "ambiguous": "sent, without a clear answer: not decided yet",
    "final": "sent, without a clear answer: counts as had, and is not sent again",
    "rejected": "refused by the provider",
    "refused": "the address was refused, or the mail came back",
    "left out": "left out: registered, opted out, or no longer in the audience",
    "replanned": "planned, and planned again since",
    "split": "planned, and divided into two parcels since",
    "expired": "could not leave in its time",
    "failed": "kept from leaving by a fault of our own",
    "cancelled": "nobody was left in the parcel",
}


def _tell_parcels(chapter: Chapter) -> Iterator[tuple[datetime, str]]:
    for one in chapter.parcels:
        touch = name_touch(one.touch, one.channel, several=True)
        yield one.at, f"{touch} ({one.language}): {_tell_outcome(one)} [{one.parcel}, {one.index}]"


def _tell_outcome(one: PersonParcel) -> str:
    told = [_OUTCOMES[one.outcome]]
    if one.delivered:
        told.append("delivered")
    if one.resent:
        told.append("sent a second time, since the first answer was not clear")
    elif one.in_doubt and one.outcome not in ("ambiguous", "final"):
        told.append("after a call without a clear answer")
    return ", ".join(told)


_CHANGES = {
    "left out": "left out of what was planned before",
    "reported": "left out of what was planned before, until a sweep has looked",
    "no email": "left out of what was planned before by email",
    "no sms": "left out of what was planned before by SMS",
}


def _tell_remembered(remembered: Remembered) -> Iterator[tuple[datetime, str]]:
    if remembered.opted_out_at:
        yield remembered.opted_out_at, "asked for no more reminders"
    if remembered.reported_at:
        yield remembered.reported_at, "said that they have registered"
    if remembered.confirmed_at:
        yield remembered.confirmed_at, f"known to have registered, from: {remembered.evidence}"
    for kind, at in remembered.changes.items():
        yield at, _CHANGES[kind]
