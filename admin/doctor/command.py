"""The command: what it is given, and how it prints what was found."""

from __future__ import annotations

import argparse
import logging
import textwrap
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from admin.doctor.rows import Row, State

_WHAT_WIDTH = 34
_TEXT_WIDTH = 78
_STATE_WIDTH = 11
_STATES: tuple[State, ...] = ("missing", "warning", "not checked", "ok")


def add_commands(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="what is still missing between here and live",
        description="Looks at settings, secrets, permissions, domains and campaigns. Changes "
        "nothing. Exits 0 where nothing is missing, 1 otherwise.",
    )
    source = doctor.add_mutually_exclusive_group()
    source.add_argument(
        "--env",
        type=Path,
        metavar="FILE",
        help="the app's settings: NAME=VALUE lines, or what `az functionapp config appsettings "
        "list` prints; else those of this environment",
    )
    source.add_argument(
        "--params", type=Path, metavar="FILE", help="a plan to deploy: its .bicepparam file"
    )
    source.add_argument("--local", action="store_true", help="the local system that runs here")
    doctor.add_argument(
        "--campaign",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="a campaign file, in place of those in storage; may be given several times",
    )
    doctor.add_argument(
        "--people", type=_number, metavar="N", help="people to be reached, as `nudge survey` counts"
    )
    doctor.add_argument(
        "--accounts", type=_number, metavar="N", help="accounts of the tenant, for a sweep's length"
    )
    doctor.add_argument(
        "--nameserver",
        type=_nameserver,
        metavar="IP",
        help="the DNS server to ask, as IP or IP:PORT",
    )
    doctor.add_argument(
        "--return-path",
        default="",
        metavar="HOST",
        help="SendGrid's name for the bounces of your domain, such as em1234.example.edu",
    )
    doctor.add_argument(
        "--dkim",
        default="s1,s2",
        metavar="NAMES",
        help="names of the DKIM keys, by comma; s1,s2 where not given",
    )
    doctor.add_argument("--json", action="store_true", help="one JSON object on stdout")
    doctor.set_defaults(run=run_doctor)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError("must be a whole number, such as 300000")
    return int(text)


def _nameserver(text: str) -> tuple[str, int]:
    """An IP address, with `:port` where that is not 53. Raises what argparse shows."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, port = text.split(":")
    try:
        return str(ip_address(host)), int(port)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "must be an IP address, such as 9.9.9.9 or 127.0.0.1:5353"
        ) from None


async def run_doctor(given: argparse.Namespace) -> int:
    # What it looks with takes half a second to import: not for every other command.
    from admin.doctor.examination import examine, find_subject

    # What the SDKs have to say of a failed sign-in is told in the table.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    rows = await examine(await find_subject(given), given)
    counts = Counter(row.state for row in rows)
    if given.json:
        told = {"rows": rows, "counts": {state: counts[state] for state in _STATES}}
        print(msgspec.json.encode(told).decode())
    else:
        print(format_rows(rows))
    return 1 if counts["missing"] else 0


def format_rows(rows: Sequence[Row]) -> str:
    """The table, as a person reads it on a terminal: what to do stands under what was found."""
    lines: list[str] = []
    for row in rows:
        what = textwrap.wrap(row.what, _WHAT_WIDTH) or [""]
        text = [*textwrap.wrap(row.found, _TEXT_WIDTH)]
        if row.fix:
            text += textwrap.wrap(
                f"→ {row.fix}", _TEXT_WIDTH, subsequent_indent="  ", break_long_words=False
            )
        for number in range(max(len(what), len(text))):
            state = row.state if number == 0 else ""
            left = what[number] if number < len(what) else ""
            right = text[number] if number < len(text) else ""
            lines.append(f"{state:<{_STATE_WIDTH}}  {left:<{_WHAT_WIDTH}}  {right}".rstrip())
    counts = Counter(row.state for row in rows)
    told = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
    return "\n".join([*lines, "", f"{told}."])
