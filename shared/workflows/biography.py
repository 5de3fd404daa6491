"""All that happened to one person, for whoever is asked by them: what the directory says, what is
remembered, and every parcel that holds them.

It names nobody but by object id, and shows no address: whether there is one that can be used.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.errors import SetupFault
from shared.rules.cadence import due_by_channel
from shared.rules.parcels import NOTHING_HAD, Channel, Had, Parcel, State, fold, has_bit
from shared.rules.registration import Registration, shard_of
from shared.stores.parcels import partition_of
from shared.stores.people import NOBODY
from shared.workflows.housekeeping import CHANGES_LIFE
from shared.workflows.plan import channels_of, format_id
from shared.workflows.sweep import has_all_passes

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.services.directory import Directory
    from shared.stores import Stores
    from shared.stores.people import Person
    from shared.stores.sweeps import Sweep
    from shared.workflows.campaigns import CampaignBook, Standing
    from shared.workflows.plan import Judged, PlanWorkflow

_OBJECT_ID = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}")


class PersonParcel(msgspec.Struct, frozen=True, kw_only=True):
    """A parcel that holds the person.

    Attributes:
        parcel: its id, as provider and ledger have it; `index` is the person's place in it.
        outcome: `left out` or `refused`, or else the parcel's state, `final`, or why it was closed.
        at: campaign time of its call; where there was none, from when on it may leave.
        called: whether there was a call.
        in_doubt: a call without a clear answer lies behind it. `resent`: it was sent a second time.
    """

    parcel: str
    index: int
    touch: str
    channel: Channel
    language: str
    outcome: str
    at: CampaignTime
    called: bool
    delivered: bool
    in_doubt: bool
    resent: bool


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the person; what never happened is None.

    Attributes:
        refuses: channels whose provider they asked for no more; `opted_out_at` is of all channels.
        confirmed_at: when it became known that they have registered; `evidence` says from what.
        bad_addresses: how many addresses and numbers of theirs did not work.
        changes: what dispatch was told of them in the last days, with the time of the newest.
    """

    opted_out_at: StorageTime | None
    refuses: list[Channel]
    reported_at: StorageTime | None
    confirmed_at: CampaignTime | None
    evidence: str
    bad_addresses: int
    changes: dict[str, StorageTime]


class NextTouch(msgspec.Struct, frozen=True, kw_only=True):
    """What comes next by the cadence, as long as nothing changes."""

    touch: str
    channel: Channel
    not_before: CampaignTime


class Chapter(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign's dealings with the person.

    Attributes:
        account: what the newest committed sweep says: a registration, `excluded` (`why` says why),
            `not in the audience`, or `not read yet`.
        confirmed: `registered` by a completion that the report does not show yet.
        contacts: whether they can be written to, by channel; empty where nobody would.
        parcels: in order of time.
    """

    campaign: str
    version: int
    mode: str
    timezone: str
    sweep: int | None
    account: str
    why: str
    confirmed: bool
    contacts: dict[Channel, bool]
    remembered: Remembered
    parcels: list[PersonParcel]
    next: list[NextTouch]


class Biography(msgspec.Struct, frozen=True, kw_only=True):
    """One person, by object id, in every campaign."""

    id: str
    campaigns: list[Chapter]


class BiographyWorkflow:
    """Collects what happened to a person."""

    def __init__(
        self,
        stores: Stores,
        book: CampaignBook,
        plans: PlanWorkflow,
        directory: Directory,
        clock: Clock,
    ) -> None:
        self._stores = stores
        self._book = book
        self._plans = plans
        self._directory = directory
        self._clock = clock

    async def find(self, name: str) -> bytes:
        """The 16 bytes of an object id; a user principal name is looked up in the directory.

        Raises:
            SetupFault: there is no such account, or the directory may not be asked.
            RetryLater: the directory has no answer now.
        """
        if _OBJECT_ID.fullmatch(name):
            return bytes.fromhex(name.replace("-", ""))
        if "@" in name and (person := await self._directory.find_user(name)):
            return person
        raise SetupFault(
            "The directory has no account of this name.",
            "Give the object id, or the user principal name as the directory writes it.",
        )

    async def collect(self, person: bytes) -> Biography:
        """All that is known of a person."""
        book = await self._book.refresh()
        sweep = await self._stores.sweeps.read_committed()
        chapters = [
            await self._collect(standing, sweep, person) for standing in book.standings.values()
        ]
        return Biography(id=format_id(person), campaigns=chapters)

    async def _collect(self, standing: Standing, sweep: Sweep | None, person: bytes) -> Chapter:
        judged: Judged | None = None
        account = "not read yet"
        if sweep and has_all_passes(standing, sweep):
            judged = await self._plans.judge_one(standing, sweep, person)
            account = _account_of(judged)
        parcels = [
            parcel
            async for parcel in self._stores.ledger.scan(standing.name, shard_of(person))
            if not parcel.seed and _index_of(parcel, person) is not None
        ]
        had = fold(parcels).get(person, NOTHING_HAD)
        now = self._clock.campaign_now()
        return Chapter(
            campaign=standing.name,
            version=standing.version,
            mode=standing.campaign.sending.mode,
            timezone=standing.campaign.timezone,
            sweep=sweep.number if sweep else None,
            account=account,
            why=(judged.excluded or "") if judged else "",
            confirmed=judged.confirmed if judged else False,
            contacts=_contacts_of(standing, judged) if judged else {},
            remembered=await self._remember(standing.name, person),
            parcels=sorted(
                (_parcel_of(parcel, person) for parcel in parcels), key=lambda one: one.at
            ),
            next=_find_next(standing, judged, had, now) if judged else [],
        )

    async def _remember(self, campaign: str, person: bytes) -> Remembered:
        shard = shard_of(person)
        people = await self._stores.people.read_shard(campaign, shard)
        known: Person = people.get(person, NOBODY)
        since = StorageTime(self._clock.storage_now() - CHANGES_LIFE)
        found = await self._stores.ledger.read_changes(campaign, shard, since)
        by_kind = {"left out": found.left_out, "reported": found.reported} | {
            f"no {channel}": people for channel, people in found.refuses.items()
        }
        return Remembered(
            opted_out_at=known.opted_out_at,
            refuses=sorted(known.refuses),
            reported_at=known.reported_at,
            confirmed_at=known.confirmed_at,
            evidence=known.evidence,
            bad_addresses=len(known.bad),
            changes={kind: times[person] for kind, times in by_kind.items() if person in times},
        )


def _account_of(judged: Judged | None) -> str:
    if judged is None:
        return "not in the audience"
    return "excluded" if judged.excluded else judged.registration.value


def _contacts_of(standing: Standing, judged: Judged) -> dict[Channel, bool]:
    if judged.excluded or judged.registration is not Registration.UNREGISTERED:
        return {}
    return {channel: channel in judged.contacts for channel in channels_of(standing.campaign)}


def _index_of(parcel: Parcel, person: bytes) -> int | None:
    """The place of a person in a parcel."""
    if person not in parcel.ids:  # mostly so, and quick
        return None
    return next((index for index, one in parcel.people() if one == person), None)


def _parcel_of(parcel: Parcel, person: bytes) -> PersonParcel:
    index = _index_of(parcel, person)
    assert index is not None, "these parcels hold the person"
    outcome: str = parcel.outcome_of(index)
    if outcome == "not had":
        outcome = parcel.reason.partition(":")[0]
    elif outcome == "had":
        outcome = "final" if parcel.final else parcel.state.value
    return PersonParcel(
        parcel=f"{partition_of(parcel.campaign, parcel.shard)}|{parcel.key}",
        index=index,
        touch=parcel.touch,
        channel=parcel.channel,
        language=parcel.language,
        outcome=outcome,
        at=parcel.touched_at or parcel.not_before,
        called=parcel.touched_at is not None and not has_bit(parcel.left_out, index),
        delivered=has_bit(parcel.delivered, index),
        in_doubt=parcel.doubt or parcel.state is State.AMBIGUOUS,
        resent=parcel.resent,
    )


def _find_next(standing: Standing, judged: Judged, had: Had, now: CampaignTime) -> list[NextTouch]:
    """What the cadence has for the person on each channel on which they can be written to: what is
    due, or else the first that comes after what they have had."""
    schedule = standing.schedule
    found = due_by_channel(
        *(schedule, had.touches, had.last_at, now, judged.contacts), silenced=judged.silenced
    )
    last_had = max((schedule.order.get(touch, -1) for touch, _ in had.touches), default=-1)
    coming: list[NextTouch] = []
    for channel in judged.contacts:
        if due := found.get(channel):
            coming.append(
                NextTouch(touch=due.touch.touch, channel=channel, not_before=due.not_before)
            )
            continue
        later = (
            step
            for step in schedule.steps
            if step.opening > now and step.order > last_had and channel in step.channels
        )
        if not judged.silenced and (step := next(later, None)):
            coming.append(NextTouch(touch=step.touch, channel=channel, not_before=step.opening))
    return coming
