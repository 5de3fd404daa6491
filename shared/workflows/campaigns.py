"""From the files in `config` to campaigns that are in force.

A file that validates and says something new becomes the next version of its campaign. One that does
not changes nothing: the last good version stays, and the mistake is shown. A file that is gone
pauses its campaign; two files with one campaign's name are a mistake in both.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.clock import monotonic
from shared.errors import SetupFault
from shared.rules.cadence import Schedule, build_schedule
from shared.rules.campaign import (
    Allowed,
    Campaign,
    CampaignMistakes,
    Mistake,
    not_allowed,
    parse_campaign,
)
from shared.rules.parcels import SHARDS
from shared.workflows.alarms import raise_alarm

if TYPE_CHECKING:
    from shared.clock import CampaignTime, Clock
    from shared.stores import Stores
    from shared.stores.campaigns import FileSeen, VersionSeen

_NAME_LINE = re.compile(r"^campaign:\s*[\"']?([a-z0-9-]+)", re.MULTILINE)


@dataclass(frozen=True)
class Standing:
    """A campaign as it stands now.

    Attributes:
        version: number of the newest accepted version; `campaign` and `schedule` are made of it.
        file: the file that it comes from, "" where that is gone.
        paused: why nothing of it may be sent on account of its file, as sentences.
        mistakes: of the file as it is now; the version above stands in spite of them.
    """

    name: str
    version: int
    campaign: Campaign
    schedule: Schedule
    file: str
    paused: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    @property
    def is_live(self) -> bool:
        return self.campaign.sending.mode == "live"


@dataclass(frozen=True)
class Book:
    """All campaigns, and what is wrong with files that belong to none of them.

    Attributes:
        files: names of all files in `config`.
    """

    standings: dict[str, Standing] = field(default_factory=dict[str, Standing])
    mistakes: tuple[Mistake, ...] = ()
    stopped: bool = False
    files: frozenset[str] = frozenset()

    def find(self, name: str) -> Standing:
        """The campaign of this name. Raises SetupFault, with the names that there are."""
        if standing := self.standings.get(name):
            return standing
        known = ", ".join(self.standings) or "none"
        raise SetupFault(f"There is no campaign `{name}`.", f"Known are: {known}.")

    def find_current(self, now: CampaignTime) -> Standing | None:
        """The campaign that somebody means who names none: the next one to end, or else the last
        that did; one that writes to people before one that does not."""
        writes = [one for one in self.standings.values() if one.file and one.is_live]
        by_end = sorted(writes or self.standings.values(), key=lambda one: one.schedule.ends)
        return next(
            (one for one in by_end if one.schedule.ends > now), by_end[-1] if by_end else None
        )


@dataclass(frozen=True)
class FileRead:
    """A file's text, and the campaign or the mistakes that it holds."""

    name: str
    body: bytes
    campaign: Campaign | None
    mistakes: tuple[Mistake, ...]


class CampaignBook:
    """Reads files and versions, and keeps what it has read by ETag and number."""

    def __init__(self, stores: Stores, clock: Clock, allowed: Allowed) -> None:
        self._stores = stores
        self._clock = clock
        self._allowed = allowed
        self._files: dict[FileSeen, FileRead] = {}
        self._refused: dict[str, tuple[int, bytes, CampaignMistakes]] = {}
        self._versions: dict[tuple[str, int], tuple[Campaign, Schedule]] = {}
        self._told: dict[str, tuple[str, ...]] = {}
        self._reading = asyncio.Lock()
        self._book: Book | None = None
        self._read_at = 0.0

    async def read(self) -> Book:
        """The book, as of ten seconds ago at the oldest (`ages.config_cache`)."""
        async with self._reading:  # requests that miss the cache together wait for one of them
            if self._book is None or monotonic() - self._read_at > self._clock.ages.config_cache:
                return await self.refresh()
            return self._book

    async def refresh(self, *, accept: bool = False) -> Book:
        """Read everything now; with `accept`, what is new and valid becomes a version."""
        read_at = monotonic()
        # Versions first, then files: an older text can then not be written over a newer version,
        # since the number that it would take is taken.
        newest = await self._stores.campaigns.list_newest()
        listing = await self._stores.campaigns.list_files()
        by_campaign = _sort_by_campaign(await self._read_files(listing.files), newest)
        loose = [mistake for file in by_campaign.pop("", []) for mistake in file.mistakes]
        standings: dict[str, Standing] = {}
        for name in sorted(newest.keys() | by_campaign.keys()):
            number = newest[name].number if name in newest else 0
            standing = await self._stand(name, number, by_campaign.get(name, []), accept=accept)
            if isinstance(standing, Standing):
                standings[name] = standing
            else:
                loose += standing
        files = frozenset(file.name for file in listing.files)
        book = Book(standings, tuple(loose), listing.stopped, files)
        if accept:
            self._tell_mistakes(book)
        if read_at >= self._read_at:  # else a later look at it has ended before this one
            self._book, self._read_at = book, read_at
        return book

    def _tell_mistakes(self, book: Book) -> None:
        """Raise the alarm for what is wrong with the files: once, until it is something else."""
        told: dict[str, tuple[str, ...]] = {}
        for name, standing in book.standings.items():
            told[name] = (*map(str, standing.mistakes), *standing.paused)
        told[""] = tuple(map(str, book.mistakes))
        for name, texts in told.items():
            if texts and self._told.get(name) != texts:
                raise_alarm("campaign_mistake", campaign=name, mistakes=texts)
        self._told = told

    async def read_version(self, name: str, number: int) -> tuple[Campaign, Schedule]:
        """A version's campaign and schedule.

        Raises:
            CampaignMistakes: this release of the product no longer takes what an earlier one took.
        """
        key = (name, number)
        if key not in self._versions:
            body = await self._stores.campaigns.read_version(name, number)
            campaign = self._parse(body, f"{name}, version {number}", None)
            self._versions[key] = (campaign, build_schedule(campaign))
        return self._versions[key]

    def _parse(
        self, body: bytes, file: str, allowed: Allowed | None, had: frozenset[str] = frozenset()
    ) -> Campaign:
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise CampaignMistakes(
                (Mistake(file, 1, "the file is not text in UTF-8", "save it as UTF-8"),)
            ) from error
        return parse_campaign(text, file=file, allowed=allowed, had=had)

    async def _read_files(self, files: tuple[FileSeen, ...]) -> list[FileRead]:
        found: dict[FileSeen, FileRead] = {}
        for seen in files:
            file = self._files.get(seen) or await self._read_file(seen.name)
            if file is not None:
                found[seen] = file
        self._files = found
        return list(found.values())

    async def _read_file(self, name: str) -> FileRead | None:
        body = await self._stores.campaigns.read_file(name)
        if body is None:
            return None
        try:
            return FileRead(name, body, self._parse(body, name, self._allowed), ())
        except CampaignMistakes as error:
            return FileRead(name, body, None, error.mistakes)

    async def _stand(
        self, name: str, number: int, files: list[FileRead], *, accept: bool
    ) -> Standing | list[Mistake]:
        """How a campaign stands; its mistakes alone where no version of it is in force."""
        mistakes: list[Mistake] = []
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            fix = "give each campaign a name of its own, or delete one of the files"
            what = f"more than one file is named `{name}`: {names}"
            mistakes += [Mistake(file.name, 1, what, fix) for file in files]
        elif files:
            file = files[0]
            mistakes += file.mistakes
            try:
                if await self._says_something_new(name, number, file) and accept:
                    number += await self._stores.campaigns.write_version(
                        name, number + 1, file.body, file.name
                    )
            except CampaignMistakes as error:
                mistakes += error.mistakes
        if not number:
            return mistakes
        try:
            campaign, schedule = await self.read_version(name, number)
        except CampaignMistakes as error:
            return [*mistakes, *error.mistakes]
        paused = not_allowed(campaign, self._allowed)
        if not files:
            paused.append("The campaign's file is gone. Put it back to go on.")
        return Standing(
            name=name,
            version=number,
            campaign=campaign,
            schedule=schedule,
            file=files[0].name if files else "",
            paused=tuple(paused),
            mistakes=tuple(mistakes),
        )

    async def _says_something_new(self, name: str, number: int, file: FileRead) -> bool:
        """Whether a file is good and means something else than the version in force.

        Raises:
            CampaignMistakes: it no longer names a touch that people have had.
        """
        if file.campaign is None:
            return False
        if not number:
            return True
        try:
            in_force, _ = await self.read_version(name, number)
        except CampaignMistakes:
            touches_kept = False  # what can't be read can't be compared
        else:
            if file.campaign == in_force:
                return False
            touches_kept = {step.touch for step in in_force.cadence} <= {
                step.touch for step in file.campaign.cadence
            }
        if not touches_kept:
            await self._check_touches(name, number, file)
        return True

    async def _check_touches(self, name: str, number: int, file: FileRead) -> None:
        """Refuse a file that lacks a touch which people have had; asks the ledger once a file."""
        refused = self._refused.get(name)
        if refused and refused[:2] == (number, file.body):
            raise refused[2]
        try:
            self._parse(file.body, file.name, self._allowed, await self._touches_had(name))
        except CampaignMistakes as error:
            self._refused[name] = (number, file.body, error)
            raise

    async def _touches_had(self, name: str) -> frozenset[str]:
        """Touches that somebody has had: they may not be renamed."""
        had = "state ne 'closed' and state ne 'planned'"

        async def touches_of(shard: int) -> set[str]:
            scan = self._stores.ledger.scan(name, shard, where=had, ids=False)
            return {parcel.touch async for parcel in scan}

        # Whoever has opened a page may wait for this: the shards side by side, and without ids.
        found = await asyncio.gather(*(touches_of(shard) for shard in range(len(SHARDS))))
        return frozenset[str]().union(*found)


def _sort_by_campaign(
    files: list[FileRead], newest: dict[str, VersionSeen]
) -> dict[str, list[FileRead]]:
    """Files by the name of the campaign that they speak of; "" where none can be told.

    A file too broken to name its campaign still belongs to the one that last came from it.
    """
    by_file = {seen.file: name for name, seen in newest.items()}
    sorted_files: dict[str, list[FileRead]] = {}
    for file in sorted(files, key=lambda file: file.name):
        if file.campaign:
            name = file.campaign.campaign
        elif match := _NAME_LINE.search(file.body.decode(errors="replace")):
            name = match[1]
        else:
            name = by_file.get(file.name, "")
        sorted_files.setdefault(name, []).append(file)
    return sorted_files
