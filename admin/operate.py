"""`nudge pause | resume | plan`: what an administrator does to a campaign that runs."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Mapping
from typing import Any

from admin.environment import add_target, answer, open_target
from shared.rules.parcels import CHANNELS, Channel
from shared.workflows.replan import Asked
from shared.workflows.status_words import count_things, name_channel


def add_commands(commands: Any) -> None:
    pause = commands.add_parser("pause", help="stop a campaign's sending until `nudge resume`")
    pause.add_argument("campaign")
    pause.add_argument("--reason", default="An administrator paused it.", help="shown in status")
    pause.set_defaults(run=run_pause)
    resume = commands.add_parser("resume", help="end every pause of a campaign")
    resume.add_argument("campaign")
    resume.set_defaults(run=run_resume)
    for parser in (pause, resume):
        parser.add_argument("--channel", choices=CHANNELS, help="this channel only; else all")
    plan = commands.add_parser("plan", help="plan the newest sweep again")
    plan.add_argument("campaign", nargs="?", help="this campaign only; else all")
    plan.add_argument(
        "--now", action="store_true", required=True, help="at once: there is no other time"
    )
    plan.set_defaults(run=run_plan)
    for parser in (pause, resume, plan):
        add_target(parser)


async def run_pause(given: argparse.Namespace) -> int:
    app = open_target(given)
    try:
        await app.operations.pause(
            given.campaign, given.reason, getpass.getuser(), _channels_of(given)
        )
    finally:
        await app.close()
    what = f"{name_channel(given.channel)} of {given.campaign}" if given.channel else given.campaign
    return answer(given, f"{what} is paused.", {"campaign": given.campaign, "paused": True})


async def run_resume(given: argparse.Namespace) -> int:
    app = open_target(given)
    try:
        lifted = await app.operations.resume(given.campaign, getpass.getuser(), _channels_of(given))
    finally:
        await app.close()
    text = f"Lifted: {', '.join(lifted)}." if lifted else "Nothing was paused."
    return answer(given, text, {"campaign": given.campaign, "lifted": lifted})


async def run_plan(given: argparse.Namespace) -> int:
    app = open_target(given)
    try:
        asked = await app.replan.plan_again(given.campaign)
    finally:
        await app.close()
    answer(given, format_asked(asked), {"campaigns": asked})
    return 1 if asked and all(one.refused for one in asked.values()) else 0


def format_asked(asked: Mapping[str, Asked]) -> str:
    """What is planned again, one line a campaign."""
    return "\n".join(_format_one(name, one) for name, one in asked.items()) or "No campaign."


def _format_one(name: str, asked: Asked) -> str:
    if asked.refused:
        return f"{name}: not planned, {asked.refused}."
    line = (
        f"{name}: {count_things(asked.asked, 'shard')} to be planned under sweep {asked.sweep}, "
        f"version {asked.version}."
    )
    if asked.under_way:
        line += f" {asked.under_way} are being planned at this moment."
    return line


def _channels_of(given: argparse.Namespace) -> tuple[Channel, ...]:
    return (given.channel,) if given.channel else CHANNELS
