"""The campaign file as the local system uses it: sent for real, to a simulated world.

Locally `mode` is always live, whatever the file says; its sender and its links are allowed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import msgspec
from ruamel.yaml import YAML

from shared.clock import CampaignTime
from shared.errors import SetupFault
from shared.rules.campaign import Allowed, Campaign, CampaignMistakes, Mistake, parse_campaign
from shared.rules.parcels import CHANNELS
from shared.rules.yaml_lines import Reading, Unreadable

_MODE = re.compile(r"\b(mode[\"']?\s*:\s*[\"']?)(?:dry-run|trial)\b")

DAYS_BEFORE = 14
HOUR = 10


class LocalCampaign(msgspec.Struct, frozen=True):
    """A campaign file made live: its text, and what the settings must allow for it."""

    text: str
    campaign: Campaign
    senders: list[str]
    link_hosts: list[str]


def read_campaign(file: Path) -> LocalCampaign:
    """Read a campaign file and make it live.

    Raises:
        SetupFault: there is no such file, or it holds mistakes (CampaignMistakes).
    """
    try:
        body = file.read_bytes()
    except OSError as error:
        what = f"{file} cannot be read: {error.strerror}."
        raise SetupFault(what, "Give a file with --campaign.") from error
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise CampaignMistakes(
            (Mistake(file.name, line, "this is not text in UTF-8", "save the file as UTF-8"),)
        ) from error
    return make_live(text, file.name)


def make_live(text: str, file: str) -> LocalCampaign:
    """Make the campaign of a file's text live. Raises CampaignMistakes."""
    allowed = _named_in(text)
    campaign = parse_campaign(text, file=file, allowed=allowed)
    if campaign.sending.mode != "live":
        text = _made_live(text)
        campaign = parse_campaign(text, file=file, allowed=allowed)
    return LocalCampaign(text, campaign, sorted(allowed.senders), sorted(allowed.link_hosts))


def _named_in(text: str) -> Allowed:
    """Every sender and every link's host that the text names. A text that cannot be read names
    none; its mistakes are told when it is parsed."""
    try:
        words = list(_words_in(Reading(text).tree))
    except Unreadable:
        words = []
    links = (urlsplit(word) for word in words if word.startswith("https://"))
    return Allowed(
        senders=frozenset(word for word in words if "@" in word),
        link_hosts=frozenset(link.hostname for link in links if link.hostname),
        local=True,
        channels=frozenset(CHANNELS),  # every provider is simulated here
    )


def _words_in(content: object) -> Iterator[str]:
    match content:
        case str():
            yield content
        case dict():
            for value in cast("dict[object, object]", content).values():
                yield from _words_in(value)
        case tuple():
            for value in cast("tuple[object, ...]", content):
                yield from _words_in(value)
        case _:
            return


def _made_live(text: str) -> str:
    """The same file with `mode: live`; letter by letter where it names another mode, and else with
    its comments and its order as they were."""
    lines = text.splitlines(keepends=True)
    line = Reading(text).line_of(("sending", "mode")) - 1
    lines[line], changed = _MODE.subn(r"\1live", lines[line], count=1)
    if changed:
        return "".join(lines)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    content = yaml.load(text)
    content.setdefault("sending", {})["mode"] = "live"
    out = io.StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def default_time(campaign: Campaign) -> CampaignTime:
    """Fourteen days before the deadline, at ten in the morning in the campaign's zone."""
    day = campaign.last_day - timedelta(days=DAYS_BEFORE)
    return CampaignTime(datetime.combine(day, time(HOUR), tzinfo=campaign.zone))
