"""`nudge status | pause | resume`: what an administrator sees and does while a campaign runs."""

from __future__ import annotations

import argparse
import getpass
from typing import Any

import msgspec

from admin.environment import add_target, open_target
from shared.workflows.plan import EMAIL
from shared.workflows.status import CampaignStatus, Status

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
    """The status as a person reads it on a terminal."""
    lines: list[str] = []
    if status.stopped:
        lines += ["ALL SENDING IS STOPPED by the blob `config/stop`.", ""]
    if status.sweep is None:
        lines.append("No sweep yet.")
    else:
        sweep = status.sweep
        ended = f", ended {sweep.ended_at:%Y-%m-%d %H:%M} UTC" if sweep.ended_at else ""
        lines.append(f"Sweep {sweep.number}: {sweep.state}{ended}. {sweep.reason}".rstrip())
    for campaign in status.campaigns:
        lines += ["", *_format_campaign(campaign)]
    if status.mistakes:
        lines += ["", "Mistakes in campaign files:", *(f"  {one}" for one in status.mistakes)]
    return "\n".join(lines)


def _format_campaign(campaign: CampaignStatus) -> list[str]:
    lines = [
        f"{campaign.campaign}: version {campaign.version}, {campaign.mode}, "
        f"deadline {campaign.deadline}"
    ]
    if counts := campaign.counts:
        lines.append(
            f"  {counts.roster} accounts: {counts.registered} registered, {counts.unregistered} "
            f"unregistered ({counts.unreachable} unreachable), {counts.unknown} unknown, "
            f"{counts.unrecognised} unrecognised, {counts.excluded} excluded"
        )
        if counts.reasons:
            reasons = ", ".join(f"{number} {name}" for name, number in counts.reasons.items())
            lines.append(f"  excluded are: {reasons}")
    lines.append(f"  {'touch':<12} {'opening (UTC)':<17} people")
    for touch in campaign.touches:
        people = ", ".join(f"{n} {state}" for state, n in sorted(touch.people.items())) or "-"
        lines.append(f"  {touch.touch:<12} {touch.opening:%Y-%m-%d %H:%M}  {people}")
    lines += [f"  waits: {reason}" for reason in campaign.waiting]
    lines += [f"  mistake: {mistake}" for mistake in campaign.mistakes]
    return lines
