"""`nudge local`: the whole system on this machine, over simulated people."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from local.home import running_home
from local.show import ProgressLine, format_outcome, one_mail
from local.system import LocalSystem, Options, running_system
from local.watch import Watcher
from shared.errors import SetupFault

ROOT = Path(__file__).resolve().parents[1]


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("local", help="run the whole system here, over simulated people")
    add = parser.add_argument
    add("--once", action="store_true", help="end when nothing more is due at the pretended time")
    add("--json", action="store_true", help="one JSON object on standard output, nothing else")
    add("--alumni", type=_count, default=2000, metavar="N", help="simulated alumni (2000)")
    add("--others", type=_count, default=None, metavar="N", help="others in the tenant (a quarter)")
    add("--campaign", type=Path, default=ROOT / "campaign.example.yaml", metavar="FILE")
    add("--at", type=_time, metavar="TIME", help="pretended time, ISO with an offset")
    add("--keep", type=Path, metavar="DIR", help="keep the storage in DIR, found by a later call")
    add("--port", type=_port, default=0, metavar="N", help="of HTTP (a free one)")
    add("--ledger", type=Path, metavar="FILE", help="write parcels and unreached people as JSON")
    add("--no-throttle", action="store_true", help="the simulated tenant limits no requests")
    parser.set_defaults(run=run_local)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be a whole number, such as 2000")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be a port from 1 to 65535, or 0 for a free one")
    return int(text)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = datetime.min
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError("must be like 2027-03-17T10:00+08:00, with an offset")
    return time


async def run_local(given: argparse.Namespace) -> int:
    """Run the system; exit code 1 when something failed."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _cancel_once, task)
    if given.ledger and not given.ledger.parent.is_dir():
        raise SetupFault(f"There is no directory {given.ledger.parent}.", "Make it first.")
    options = Options(
        campaign=given.campaign,
        alumni=given.alumni,
        others=given.alumni // 4 if given.others is None else given.others,
        at=given.at,
        keep=given.keep,
        port=given.port,
        throttled=not given.no_throttle,
    )
    system: LocalSystem | None = None
    settled = False
    fault: str | None = None
    try:
        async with running_system(options) as system:
            fault = await _run_once(system, given)
            settled = True
            if not given.once:
                async with running_home(system) as home:
                    await _stay(home)
    except* SetupFault as group:
        fault = "\n".join(map(str, _leaves(group)))
    except* asyncio.CancelledError:
        fault = fault if settled else "Ended before it was done."
    if fault is None:
        return 0
    print(fault, file=sys.stderr)
    if system and system.last_words:
        print(f"\nThe host's last words:\n{system.last_words}", file=sys.stderr)
    return 1


def _cancel_once(task: asyncio.Task[Any]) -> None:
    """A second Ctrl-C does not cut short how the first one ends the parts."""
    if not task.cancelling():
        task.cancel()


async def _stay(home: str) -> None:
    """Name the address to open; on a terminal the system then stays up until Ctrl-C."""
    if not sys.stdout.isatty():
        print(f"\nThe home page was at {home}; on a terminal it stays until Ctrl-C.")
        return
    print(f"\nOpen {home}  (Ctrl-C ends)", flush=True)
    await asyncio.Event().wait()


async def _run_once(system: LocalSystem, given: argparse.Namespace) -> str | None:
    """One sweep and all that is due. Returns what failed."""
    quiet = given.json
    zone = system.campaign.zone
    told = sys.stderr if quiet else sys.stdout
    print(
        f"Pretended time: {system.at.astimezone(zone):%A %d %B %Y, %H:%M} ({zone.key}).\n"
        f"Mode: live, whatever {given.campaign.name} says. Mails go to {system.mails_go_to}, "
        f"texts to {system.texts_go_to}.",
        file=told,
        flush=True,
    )
    watcher = Watcher(system, system.campaign, system.sweep)
    with contextlib.closing(ProgressLine(quiet=quiet)) as line:
        fault = await watcher.until_settled(line.show)
    if given.ledger:
        given.ledger.write_bytes(msgspec.json.encode(await watcher.dump_ledger()))
    outcome = await watcher.sum_up()
    if watcher.failed and not fault:
        fault = f"Parcels closed as failed, by faults of our own: {watcher.failed}. See the log."
    if quiet:
        print(msgspec.json.encode(outcome).decode(), flush=True)
    else:
        print(format_outcome(outcome))
        if mail := await one_mail(system):
            print(f"\nOne of the mails:\n\n{mail}")
    return fault


def _leaves(group: BaseExceptionGroup[SetupFault]) -> list[SetupFault]:
    leaves: list[SetupFault] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
