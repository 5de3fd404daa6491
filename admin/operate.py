"""`nudge pause | resume | plan | sweep`: what an administrator does to a campaign that runs."""

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
    plan.set_defaults(run=run_plan)
    sweep = commands.add_parser("sweep", help="read the directory, without waiting for the night")
    sweep.set_defaults(run=run_sweep)
    for parser in (plan, sweep):
        parser.add_argument(
            "--now", action="store_true", required=True, help="at once: there is no other time"
        )
    for parser in (pause, resume, plan, sweep):
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


async def run_sweep(given: argparse.Namespace) -> int:
    """Opens a sweep; the app reads, as at night. One that is under way goes on instead."""
    app = open_target(given)
    try:
        opened = await app.sweeps.start()
        head = await app.stores.sweeps.read_head()
    finally:
        await app.close()
    if opened:
        text = f"Sweep {opened.number} has begun. `nudge status` shows how far it is."
    elif head.open:
        text = f"Sweep {head.number} is under way already."
    else:
        text = "No campaign needs a sweep: each has ended, or has no file."
    answer(given, text, {"sweep": head.number, "opened": bool(opened), "open": head.open})
    return 0 if head.open else 1


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
