"""What people tell us through their links, and what the institution's systems tell us of them.

Each word of it is written into the person's shard of every campaign, next to a change that makes
dispatch heed it within 30 seconds. Nobody is thanked for what is not stored.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence, Set
from contextlib import asynccontextmanager
from enum import StrEnum
from itertools import batched
from typing import TYPE_CHECKING

import msgspec
from azure.core.exceptions import AzureError

from shared.errors import BadToken, NotRecorded, RetryLater, SetupFault
from shared.rules.completion import CompletionKind
from shared.rules.links import Purpose, Sealed, unseal
from shared.rules.parcels import Channel
from shared.rules.registration import DoneWhen, Registration, shard_of
from shared.services.directory import choose_source
from shared.stores.table import Conflict
from shared.workflows.alarms import note_event, raise_alarm

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.services.directory import Confirm, Directory
    from shared.stores import Stores
    from shared.workflows.campaigns import Book, CampaignBook, Standing

STORAGE_SECONDS = 10.0
"""What somebody who waits for a page can be asked to wait for storage; the SDK would go on trying
for minutes."""

RETRY_AFTER = 60
"""Seconds after which to try again what storage did not take, or Graph named no time for."""

_SIDE_BY_SIDE = 16
"""Transactions under way at the same time; they are of different partitions."""


class Completion(msgspec.Struct, frozen=True):
    """That somebody has registered.

    Attributes:
        person: the 16 bytes of their object id.
        evidence: where we have it from, such as "methods"; nothing personal.
        proves: for which `done_when` it counts as confirmed; "capable" is good for both.
    """

    person: bytes
    kind: CompletionKind
    evidence: str
    proves: DoneWhen = "capable"


class DoneOutcome(StrEnum):
    """What becomes of "I have done it"."""

    CONFIRMED = "confirmed"  # the directory shows a method
    NOTED = "noted"  # the directory could not be asked: the next sweep will
    NOT_SEEN = "not seen"  # the report, which lags by hours, shows nothing yet: noted, too
    NOT_REGISTERED = "not registered"  # the directory says that there is no method: not recorded


class CompletionWorkflow:
    """Opens personal links and records what follows from them.

    Args:
        link_keys: LINK_KEYS, newest first.
        confirm: where one account's registration is looked up, GRAPH_CONFIRM.
    """

    def __init__(
        self,
        stores: Stores,
        book: CampaignBook,
        directory: Directory,
        clock: Clock,
        *,
        link_keys: Sequence[str],
        confirm: Confirm,
    ) -> None:
        self._stores = stores
        self._book = book
        self._directory = directory
        self._clock = clock
        self._link_keys = link_keys
        self._confirm: Confirm = confirm

    async def open_link(self, purpose: Purpose, token: str) -> Standing:
        """The campaign that a link belongs to. Looks nothing up of the person.

        Raises:
            LinkExpired: its time is over.
            BadToken: it is none of ours, or of a campaign that we don't have.
            NotRecorded: storage does not say which campaigns there are.
        """
        _, standing = await self._open(purpose, token)
        return standing

    async def complete(self, token: str) -> tuple[Standing, DoneOutcome]:
        """Confirm with Graph that somebody has registered, and record it.

        Raises, beside what `open_link` raises:
            BadToken: the account is gone; whoever asks is told what any bad link tells.
            NotRecorded: storage does not take it.
        """
        sealed, standing = await self._open("done", token)
        outcome, completion = await self._look_up(standing, sealed.person)
        if completion:
            async with storage_within(STORAGE_SECONDS):
                told = await self.record([completion])
            _check_told(standing, told)
        note_event("done_link", campaign=standing.name, outcome=outcome)
        return standing, outcome

    async def opt_out(self, token: str) -> Standing:
        """Record that somebody wants no more reminders. Raises as `complete` does."""
        sealed, standing = await self._open("unsubscribe", token)
        async with storage_within(STORAGE_SECONDS):
            told = await self.record_opted_out([sealed.person])
        _check_told(standing, told)
        note_event("opted_out", campaign=standing.name)
        return standing

    async def record(self, completions: Sequence[Completion]) -> Set[str]:
        """Write completions into the shards of every campaign. The same once more does no harm.

        Returns the campaigns: where there is none, nothing is written.

        Raises what storage raises; some of them may be written then, and are to be given again.
        """
        standings = (await self._book.read()).standings
        remember = self._stores.people.remember_completed

        def tell(name: str) -> Iterable[Awaitable[None]]:
            groups: defaultdict[tuple[int, CompletionKind], dict[bytes, str]] = defaultdict(dict)
            for one in completions:
                kind = _kind_for(standings.get(name), one)
                groups[shard_of(one.person), kind][one.person] = one.evidence
            return (remember(name, shard, who, kind) for (shard, kind), who in groups.items())

        return await self._tell_all(tell)

    async def record_opted_out(
        self, people: Iterable[bytes], channel: Channel | None = None
    ) -> Set[str]:
        """Write into every campaign that these people want no more, on one channel or on any.
        Returns and raises as `record` does."""
        groups: defaultdict[int, list[bytes]] = defaultdict(list)
        for person in people:
            groups[shard_of(person)].append(person)
        remember = self._stores.people.remember_opted_out
        return await self._tell_all(
            lambda name: (remember(name, shard, who, channel) for shard, who in groups.items())
        )

    async def record_bad(self, addresses: Iterable[tuple[bytes, bytes]]) -> Set[str]:
        """Write into every campaign that an address of a person does not work: pairs of object id
        and keyed hash. Returns and raises as `record` does."""
        groups: defaultdict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
        for person, address in addresses:
            groups[shard_of(person)].append((person, address))
        remember = self._stores.people.remember_bad
        return await self._tell_all(
            lambda name: (remember(name, shard, bad) for shard, bad in groups.items())
        )

    async def _tell_all(self, tell: Callable[[str], Iterable[Awaitable[None]]]) -> Set[str]:
        """Write something into every campaign; `tell` gives the writes for one of them.

        First into those that we know of, then into those that a look shows beside them: our view
        is seconds old, and has none whose version cannot be read. One that is accepted after that
        look reads what the others know when it is planned (PlanWorkflow).
        """
        told: set[str] = set()
        campaigns = (await self._book.read()).standings.keys()
        while True:
            writes = (write for name in sorted(campaigns - told) for write in tell(name))
            for batch in batched(writes, _SIDE_BY_SIDE, strict=False):
                await asyncio.gather(*batch)
            told |= campaigns
            campaigns = (await self._stores.campaigns.list_newest()).keys()
            if campaigns <= told:
                return campaigns

    async def _open(self, purpose: Purpose, token: str) -> tuple[Sealed, Standing]:
        sealed = unseal(self._link_keys, purpose, token, self._clock.campaign_now())
        async with storage_within(STORAGE_SECONDS):
            standing = _find(await self._book.read(), sealed) or _find(
                await self._book.refresh(), sealed
            )
        if standing is None:
            raise BadToken("there is no such campaign")
        return sealed, standing

    async def _look_up(
        self, standing: Standing, person: bytes
    ) -> tuple[DoneOutcome, Completion | None]:
        by_themselves = Completion(person, "reported", "by themselves")
        done_when = standing.campaign.done_when
        how = choose_source(self._confirm, done_when)
        try:
            found = await self._directory.confirm(person, how, done_when)
        except RetryLater as error:
            note_event("confirm_later", campaign=standing.name, detail=str(error))
            return DoneOutcome.NOTED, by_themselves
        except SetupFault as fault:
            raise_alarm("cannot_confirm", campaign=standing.name, detail=str(fault))
            return DoneOutcome.NOTED, by_themselves
        if found is None:
            raise BadToken("there is no such account")
        if found is Registration.REGISTERED:
            return DoneOutcome.CONFIRMED, Completion(person, "confirmed", how, done_when)
        if found is Registration.UNREGISTERED and how == "methods":
            return DoneOutcome.NOT_REGISTERED, None
        return DoneOutcome.NOT_SEEN, by_themselves


def _kind_for(standing: Standing | None, completion: Completion) -> CompletionKind:
    """What a completion is worth to a campaign: that somebody has a method does not prove that
    policy lets them use it."""
    asks = standing.campaign.done_when if standing else "capable"
    return completion.kind if completion.proves in ("capable", asks) else "reported"


def _check_told(standing: Standing, told: Set[str]) -> None:
    """Nobody is thanked where all of a campaign was deleted since our view of it."""
    if standing.name not in told:
        raise NotRecorded("its campaign is gone")


def _find(book: Book, sealed: Sealed) -> Standing | None:
    return book.standings.get(sealed.campaign)


@asynccontextmanager
async def storage_within(seconds: float) -> AsyncGenerator[None]:
    """What fails in here, or takes longer, is not recorded as far as we know: NotRecorded."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (AzureError, Conflict, TimeoutError) as error:
        raise NotRecorded(f"storage failed ({type(error).__name__})") from error
