"""`nudge status | pause | resume`: what an administrator sees and does while a campaign runs."""

from __future__ import annotations

import argparse
import getpass
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from admin.environment import add_target, open_target
from shared.rules.guards import ShardCounts
from shared.workflows.plan import EMAIL
from shared.workflows.status import NEXT_SWEEP, CampaignStatus, Status, format_days

CHANNELS = (EMAIL,)


def add_commands(commands: Any) -> None:
    status = commands.add_parser("status", help="where each campaign stands, in counts")
    status.add_argument(
        "--unreached",
        action="store_true",
        help="list everybody who was due and not reached, by object id, with the reason",
    )
    status.set_defaults(run=run_status)
    pause = commands.add_parser("pause", help="stop a campaign's sending until `nudge resume`")
    pause.add_argument("campaign")
    pause.add_argument("--reason", default="An administrator paused it.", help="shown in status")
    pause.set_defaults(run=run_pause)
    resume = commands.add_parser("resume", help="end every pause of a campaign")
    resume.add_argument("campaign")
    resume.set_defaults(run=run_resume)
    for parser in (status, pause, resume):
        parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
        add_target(parser)


async def run_status(given: argparse.Namespace) -> int:
    app = open_target(given)
    try:
        if given.unreached:
            unreached = await app.status.collect_unreached()
            return _answer(given, format_unreached(unreached), {"unreached": unreached})
        status = await app.status.collect()
    finally:
        await app.close()
    print(msgspec.json.encode(status).decode() if given.json else format_status(status))
    return 0


async def run_pause(given: argparse.Namespace) -> int:
    app = open_target(given)
    try:
        await app.operations.pause(given.campaign, given.reason, getpass.getuser())
    finally:
        await app.close()
    answer: dict[str, object] = {"campaign": given.campaign, "paused": True}
    return _answer(given, f"{given.campaign} is paused.", answer)


async def run_resume(given: argparse.Namespace) -> int:
    app = open_target(given)
    try:
        lifted = await app.operations.resume(given.campaign, getpass.getuser())
    finally:
        await app.close()
    text = f"Lifted: {', '.join(lifted)}." if lifted else "Nothing was paused."
    return _answer(given, text, {"campaign": given.campaign, "lifted": lifted})


def _answer(given: argparse.Namespace, text: str, answer: dict[str, object]) -> int:
    print(msgspec.json.encode(answer).decode() if given.json else text)
    return 0


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
    if counts := campaign.counts:
        lines += _format_counts(counts)
    elif campaign.shards_done:
        lines.append(f"  planning: {campaign.shards_done} of 16 shards done")
    zone = ZoneInfo(campaign.timezone)
    lines.append(f"  {'touch':<12} {'opens there':<17} {'stands':<12} people")
    for touch in campaign.touches:
        opening = f"{touch.opening.astimezone(zone):%Y-%m-%d %H:%M}" if touch.opening else "-"
        people = ", ".join(f"{n:,} {state}" for state, n in sorted(touch.people.items())) or "-"
        lines.append(f"  {touch.touch:<12} {opening:<17} {touch.place:<12} {people}")
    return lines


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
