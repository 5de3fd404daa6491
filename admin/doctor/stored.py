"""What the app's storage says: campaign files, sweeps, and what was sent. Only reads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

from admin.doctor.rows import (
    LOOK_SECONDS,
    SIGN_IN,
    TRY_FROM_ELSEWHERE,
    Row,
    count,
    missing,
    name_error,
    ok,
    unchecked,
    warning,
)
from admin.doctor.subject import Subject, read_text
from functions.wiring import App, build_app
from shared.clock import CampaignTime, StorageTime
from shared.errors import NudgeError
from shared.names import NAMES
from shared.rules.campaign import (
    Allowed,
    Campaign,
    CampaignMistakes,
    Mistake,
    parse_campaign,
)
from shared.rules.parcels import CHANNELS, Channel
from shared.stores.sweeps import Sweep
from shared.workflows.status import CampaignStatus

_LATE = timedelta(hours=26)
_STALE = timedelta(hours=50)
"""A sweep that is older stops the release."""

_SILENT = timedelta(hours=2)
_READ_SECONDS = LOOK_SECONDS - 3
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class CampaignFile:
    """A campaign file, with its campaign or its mistakes, or with both where only this app's
    settings speak against it."""

    name: str
    campaign: Campaign | None
    mistakes: tuple[Mistake, ...] = ()


@dataclass(frozen=True)
class Stored:
    """What was found in storage.

    Attributes:
        unread: the row that says why nothing was; None where it was read.
        files: of the container `config`, or those that were given by hand.
        live_days: by campaign and channel, days on which something was sent live.
        silent_since: when the first call was made of all that no receipt has come for; None where
            some has come, or nothing was sent.
    """

    unread: Row | None = None
    files: tuple[CampaignFile, ...] = ()
    stopped: bool = False
    newest: Sweep | None = None
    committed: Sweep | None = None
    statuses: Mapping[str, CampaignStatus] = field(default_factory=dict[str, CampaignStatus])
    live_days: Mapping[tuple[str, Channel], tuple[str, ...]] = field(
        default_factory=dict[tuple[str, Channel], tuple[str, ...]]
    )
    silent_since: StorageTime | None = None

    @property
    def campaigns(self) -> tuple[Campaign, ...]:
        return tuple(file.campaign for file in self.files if file.campaign)


async def read_stored(subject: Subject, given: Sequence[Path]) -> Stored:
    """What there is to know; files that are `given` stand in for those of the storage.

    Raises SetupFault where a given file cannot be read.
    """
    files = tuple(_read_campaign(path.name, read_text(path), subject) for path in given)
    if not subject.has_storage or subject.settings is None:
        plan = subject.kind == "plan"
        why = "it comes with the deployment" if plan else "its settings have a problem"
        return Stored(unchecked("storage", why), files)
    app = build_app(subject.settings)
    try:
        async with asyncio.timeout(_READ_SECONDS):
            await _knock(app)
            return await _read_all(app, subject, files)
    except ClientAuthenticationError as error:
        return Stored(_unreachable(error) if error.status_code else _unknown(error), files)
    except HttpResponseError as error:
        if error.status_code == 403:
            return Stored(_refused(error), files)
        if error.status_code == 404:
            return Stored(_incomplete(error), files)
        return Stored(_unreachable(error), files)
    except (AzureError, NudgeError, TimeoutError, OSError) as error:
        return Stored(_unreachable(error), files)
    finally:
        await app.close()


async def _knock(app: App) -> None:
    """Raises OSError where there is no way to the storage: its client would try for long. Behind a
    proxy only that one knows the way."""
    if getproxies():
        return
    container, table = NAMES.containers.config, NAMES.tables.control
    for url in (app.account.container(container).url, app.account.table(table).url):
        where = urlsplit(url)
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(
                where.hostname, where.port or (443 if where.scheme == "https" else 80)
            )
        writer.close()


async def _read_all(app: App, subject: Subject, given: tuple[CampaignFile, ...]) -> Stored:
    stores = app.stores
    listing, head = await asyncio.gather(stores.campaigns.list_files(), stores.sweeps.read_head())
    files = list(given)
    for seen in () if given else listing.files:
        body = await stores.campaigns.read_file(seen.name)
        if body is not None:
            files.append(_read_campaign(seen.name, body.decode(errors="replace"), subject))
    newest = await stores.sweeps.read(head.number) if head.number else None
    committed = await stores.sweeps.read_committed()
    status = await app.status.collect()
    names = [one.campaign for one in status.campaigns]
    rows = await asyncio.gather(
        *(stores.control.read(name, channel) for name in names for channel in CHANNELS)
    )
    pairs: list[tuple[str, Channel]] = [(name, channel) for name in names for channel in CHANNELS]
    delivered = any(touch.delivered for one in status.campaigns for touch in one.touches)
    return Stored(
        files=tuple(files),
        stopped=listing.stopped,
        newest=newest,
        committed=committed,
        statuses={one.campaign: one for one in status.campaigns},
        live_days={pair: row.live_days for pair, row in zip(pairs, rows, strict=True)},
        silent_since=None if delivered else await _first_call(app, names),
    )


async def _first_call(app: App, campaigns: Iterable[str]) -> StorageTime | None:
    """When the first parcel that a provider took was handed to it; None where a receipt of any has
    come."""
    called: list[StorageTime] = []
    for name in campaigns:
        async for parcel in app.status.scan_parcels(name):
            if parcel.heard:
                return None
            if parcel.state == "accepted" and parcel.claimed_at:
                called.append(parcel.claimed_at)
    return min(called, default=None)


def _read_campaign(name: str, text: str, subject: Subject) -> CampaignFile:
    try:
        campaign = parse_campaign(text, file=name, allowed=None)
    except CampaignMistakes as error:
        return CampaignFile(name, None, error.mistakes)
    # What live mode asks of sender and links has a row of its own, in every mode.
    allowed = Allowed(
        senders=frozenset({campaign.sender.email}),
        link_hosts=frozenset(campaign.institution.link_hosts.values()),
        local=subject.settings is not None and subject.settings.local,
        channels=subject.settings.channels if subject.settings else frozenset(CHANNELS),
    )
    try:
        parse_campaign(text, file=name, allowed=allowed)
    except CampaignMistakes as error:
        return CampaignFile(name, campaign, error.mistakes)
    return CampaignFile(name, campaign)


def _refused(error: HttpResponseError) -> Row:
    return unchecked(
        "storage",
        f"it lets this sign-in read nothing ({name_error(error)})",
        "Join the group of the parameter `administratorsGroupId`, or ask for Storage Blob Data "
        "Reader and Storage Table Data Reader on the account; or run this from where its network "
        "is open.",
    )


def _unknown(error: BaseException) -> Row:
    return unchecked("storage", f"no sign-in is known here ({name_error(error)})", SIGN_IN)


def _incomplete(error: HttpResponseError) -> Row:
    return missing(
        "storage",
        f"a table or a container that the app needs is not there ({name_error(error)})",
        "Deploy the infrastructure again: it makes all of them.",
    )


def _unreachable(error: BaseException) -> Row:
    return unchecked("storage", f"it cannot be read ({name_error(error)})", TRY_FROM_ELSEWHERE)


# what it comes to, as rows


def examine_storage(stored: Stored) -> list[Row]:
    if stored.unread:
        return [stored.unread]
    rows = [ok("storage", "answers")]
    if stored.stopped:
        rows.append(
            missing(
                "config/stop", "this blob stops all sending", "Delete it when sending may go on."
            )
        )
    return rows


def examine_files(stored: Stored, subject: Subject) -> list[Row]:
    """Each mistake of each campaign file, by its line."""
    rows: list[Row] = []
    names = Counter(one.campaign for one in stored.campaigns)
    for file in stored.files:
        rows += [
            missing(f"{file.name}, line {one.line}", one.what, f"{_begin(one.fix)}")
            for one in file.mistakes
        ]
        if file.campaign and names[file.campaign.campaign] > 1:
            rows.append(
                missing(
                    file.name,
                    f"another file is named `{file.campaign.campaign}`, too",
                    "Give each campaign a name of its own, or delete one of the files.",
                )
            )
        elif not file.mistakes:
            rows.append(ok(file.name, "a campaign file without a mistake"))
    if not stored.files:
        local_file = "Give yours by --campaign FILE."
        if stored.unread:
            rows.append(unchecked("campaign file", "none is known here", local_file))
        else:
            rows.append(
                missing(
                    "campaign file",
                    "the container `config` holds none",
                    "Copy campaign.example.yaml, make it yours, and put it there.",
                )
            )
    return rows


def _begin(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('?') else '.'}"


def examine_sweeps(stored: Stored, now: CampaignTime) -> list[Row]:
    """Whether the directory is read, and how long ago it was."""
    what = "sweeps"
    if stored.unread:
        return [unchecked(what, "storage was not read")]
    newest, committed = stored.newest, stored.committed
    reason = f" ({newest.reason})" if newest and newest.state == "abandoned" else ""
    fix = "Look at `nudge status`, and run the function `sweep_start` when its cause is gone."
    if committed is None:
        if newest and newest.state == "open":
            return [warning(what, "the first one is under way", "Look again when it has ended.")]
        return [
            missing(
                what,
                f"none has been committed yet{reason}",
                "`nudge sweep --now`, or wait for SWEEP_SCHEDULE." if not reason else fix,
            )
        ]
    age = now - committed.seen_at
    found = f"the last one is {age / timedelta(hours=1):.0f} h old{reason}"
    if age > _STALE:
        return [missing(what, f"{found}: nothing is released on one so old", fix)]
    return [warning(what, found, fix) if age > _LATE or reason else ok(what, found)]


def examine_receipts(stored: Stored, now: StorageTime) -> list[Row]:
    """Whether receipts of what was sent arrive."""
    what = "receipts"
    if stored.unread:
        return [unchecked(what, "storage was not read")]
    touches = [touch for one in stored.statuses.values() for touch in one.touches]
    if delivered := sum(touch.delivered for touch in touches):
        return [ok(what, f"they arrive: {delivered:,} delivered")]
    people = sum(touch.people.get("accepted", 0) for touch in touches)
    if not people:
        return [unchecked(what, "nothing has been sent yet", "Look again after a trial.")]
    if stored.silent_since is None:
        return [
            warning(
                what,
                "they arrive, and none says that a message was delivered",
                "See what the provider's own log says of them: put off, blocked, or bounced.",
            )
        ]
    found = f"none yet, of {count(people, 'message')} that the provider took"
    if now - stored.silent_since < _SILENT:
        return [warning(what, found, "Look again two hours after they were sent.")]
    return [
        missing(
            what,
            found,
            "See that SendGrid's Event Webhook is on, signed, and leads to /callbacks/sendgrid.",
        )
    ]


def people_to_reach(statuses: Iterable[CampaignStatus], campaign: str) -> int | None:
    """Unregistered people of a campaign whom something reaches; None where nobody has counted."""
    for one in statuses:
        if one.campaign == campaign and one.counts:
            return one.counts.unregistered - one.counts.unreachable
    return None
