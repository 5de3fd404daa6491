"""The states of a parcel, who may change them and when, and what a ledger says of a person.

    planned ──claim──► claimed ──settle──► accepted | rejected | ambiguous
       │                  ├──refusal is proven──► planned (retry_at)
       │                  └──refused as one, names nobody──► closed: split
       └──► closed: replanned | expired | cancelled | failed
    ambiguous ──receipt──► accepted          ambiguous ──decided──► ambiguous, final
       └──its only call was refused, as we learn late──► planned

A row with an ambiguous attempt behind it (`doubt`) is never closed and never split: its people may
have had the message. A closed row is never opened again: its people are not had, and planning
again is the replay. `CHANGES` is the whole list of what may happen; `allow` asks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.contact import fold_address

SHARDS = "0123456789abcdef"
"""The first hex digit of an object id names the shard."""

ID_BYTES = 16


class State(StrEnum):
    """Where a parcel is."""

    PLANNED = "planned"
    CLAIMED = "claimed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    AMBIGUOUS = "ambiguous"
    CLOSED = "closed"


OPEN = frozenset({State.PLANNED, State.CLAIMED, State.AMBIGUOUS})
"""States that something can still come of."""

type Who = Literal["planner", "releaser", "sender", "poison"]


class Change(msgspec.Struct, frozen=True):
    """One change that a row may go through.

    Attributes:
        source, target: the states.
        reason: what the row says of it; "" where the state says enough.
        who: the only part of the product that makes it.
        doubtful: whether a row with an ambiguous attempt behind it may go this way.
        when: its condition, with the clock that judges it where a time is part of it.
    """

    source: State
    target: State
    reason: str
    who: Who
    doubtful: bool
    when: str


_P, _C, _X = State.PLANNED, State.CLAIMED, State.CLOSED
_ACC, _REJ, _AMB = State.ACCEPTED, State.REJECTED, State.AMBIGUOUS

CHANGES: tuple[Change, ...] = (
    Change(_P, _X, "replanned", "planner", False, "a newer pair is wanted"),
    Change(_P, _X, "expired", "planner", False, "its touch cannot be planned any more"),
    Change(_P, _X, "expired", "releaser", False, "past not_after (campaign time)"),
    Change(_P, _X, "cancelled", "sender", False, "everybody in it completed or was left out"),
    Change(_P, _X, "failed", "poison", False, "the queue gave up on it"),
    Change(_P, _AMB, "expired", "releaser", True, "past not_after (campaign time): final"),
    Change(_P, _AMB, "failed", "sender", True, "nobody is left to send to: final"),
    Change(_P, _AMB, "failed", "poison", True, "the queue gave up on it: final"),
    Change(_P, _C, "", "sender", True, "under the ETag of the message"),
    Change(_C, _ACC, "", "sender", True, "the provider said so"),
    Change(_C, _REJ, "every recipient was refused", "sender", True, "nobody is left in it"),
    Change(_C, _AMB, "no clear answer", "sender", True, "the answer proves nothing"),
    Change(_C, _AMB, "failed", "sender", True, "cannot be sent any more: final"),
    Change(_C, _AMB, "abandoned", "releaser", True, "claim_abandoned old (storage time)"),
    Change(_C, _P, "refused", "sender", True, "a refusal is proven, or the call was not begun"),
    Change(_C, _P, "fault", "sender", True, "a fault of ours before the first byte, not the third"),
    Change(_C, _X, "failed", "sender", False, "the third such fault"),
    Change(_C, _X, "split", "sender", False, "refused as a whole, and nobody named"),
    Change(_AMB, _ACC, "", "sender", True, "the late acceptance of any attempt"),
    Change(_AMB, _P, "refused", "sender", True, "the late refusal of its only attempt"),
    Change(_P, _ACC, "", "sender", True, "the late acceptance of an earlier attempt"),
    Change(_AMB, _AMB, "no receipt", "releaser", True, "settle_final old (storage time): final"),
)
"""All that may happen to a row, each by one conditional write. A 412 means that someone else
changed the row first, or, where the row holds our own attempt's id, that our write met itself."""


def allow(
    source: State, target: State, who: Who, *, reason: str = "", doubt: bool = False
) -> Change:
    """The change that is asked for. What follows a colon in `reason` is detail.

    Raises:
        ValueError: the table has no such change, or not for a row with a doubt behind it.
    """
    wanted = (source, target, reason.partition(":")[0], who)
    for change in CHANGES:
        if wanted == (change.source, change.target, change.reason, change.who) and (
            change.doubtful or not doubt
        ):
            return change
    raise ValueError(f"{who} may not turn {source} into {target} for `{reason}` ({doubt=})")


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger row: recipients that one provider call carries. Names nobody but by object id.

    Attributes:
        key: row key, `{plan date}|{run}{counter}`, plus `a` or `b` for each split.
        sweep, version: the pair that it was planned under.
        ids: the recipients' object ids, 16 bytes each; their order never changes.
        left_out, refused: one bit for each recipient, see `has_bit`.
        not_before, not_after: campaign time; not handed out outside of them.
        planned_from: storage time at which its run read the fence.
        outbox, offset, length, digest: where its contact data are, with their SHA-256.
        attempt: id of the last provider call; `touched_at` is the campaign time of its claim.
        doubt: an ambiguous attempt lies behind the row.
        faults: how often a fault of our own sent it back.
        final: of an ambiguous row: decided, counted as had, not sent again.
    """

    campaign: str
    shard: int
    key: str
    etag: str = ""
    state: State
    reason: str = ""
    sweep: int
    version: int
    touch: str
    channel: str
    message: str
    language: str
    ids: bytes
    left_out: bytes = b""
    refused: bytes = b""
    not_before: CampaignTime
    not_after: CampaignTime
    planned_from: StorageTime
    outbox: str
    offset: int
    length: int
    digest: bytes
    released_at: StorageTime | None = None
    retry_at: StorageTime | None = None
    attempt: str = ""
    claimed_at: StorageTime | None = None
    touched_at: CampaignTime | None = None
    doubt: bool = False
    resent: bool = False
    faults: int = 0
    final: bool = False

    @property
    def count(self) -> int:
        """Recipients, those left out and refused among them."""
        return len(self.ids) // ID_BYTES

    def people(self) -> Iterator[tuple[int, bytes]]:
        """Index and object id of each recipient."""
        for index in range(self.count):
            yield index, self.ids[index * ID_BYTES : (index + 1) * ID_BYTES]

    def outcome_of(self, index: int) -> Literal["had", "left out", "refused", "not had"]:
        """What the row says of one of its recipients."""
        if self.state is State.CLOSED:
            return "not had"
        if has_bit(self.left_out, index):
            return "left out"
        if has_bit(self.refused, index):
            return "refused"
        return "had"


def has_bit(bitmap: bytes, index: int) -> bool:
    """Whether a recipient is marked. A bitmap is as long as its last set bit needs."""
    byte, bit = divmod(index, 8)
    return byte < len(bitmap) and bool(bitmap[byte] >> bit & 1)


def with_bits(bitmap: bytes, indices: Iterable[int]) -> bytes:
    """The bitmap with these recipients marked, too."""
    value = int.from_bytes(bitmap, "little")
    for index in indices:
        value |= 1 << index
    return value.to_bytes((value.bit_length() + 7) // 8, "little")


def cut_bits(bitmap: bytes, start: int, end: int) -> bytes:
    """The part of a bitmap that speaks of the recipients from `start` to before `end`."""
    value = int.from_bytes(bitmap, "little") >> start & (1 << end - start) - 1
    return value.to_bytes((value.bit_length() + 7) // 8, "little")


class Had(msgspec.Struct):
    """What one person has had of a campaign.

    Attributes:
        touches: names of touches had, by any channel: the channels of a touch are one nudge.
        last_at: campaign time of the last one's claim, for the gap between touches.
    """

    touches: frozenset[str] = frozenset()
    last_at: CampaignTime | None = None


NOTHING_HAD = Had()


def fold(parcels: Iterable[Parcel]) -> dict[bytes, Had]:
    """Who has had what, from the rows of one shard after the take-back.

    A row that is claimed, ambiguous, accepted, rejected or still planned counts as had, a closed
    one as not had. Whoever was left out, or was refused at the address of then, has not had it:
    the address is remembered as bad, and contact choice passes over it.
    """
    folded: dict[bytes, Had] = {}
    # Rows share few sets of touches: one frozenset for each, not one for each person.
    unions: dict[tuple[frozenset[str], str], frozenset[str]] = {}
    for parcel in parcels:
        if parcel.state is State.CLOSED:
            continue
        marked = parcel.left_out or parcel.refused
        for index, person in parcel.people():
            if marked and parcel.outcome_of(index) != "had":
                continue
            had = folded.get(person, NOTHING_HAD)
            pair = (had.touches, parcel.touch)
            if (touches := unions.get(pair)) is None:
                touches = unions[pair] = had.touches | {parcel.touch}
            at = parcel.touched_at or parcel.not_before
            last = at if had.last_at is None or at > had.last_at else had.last_at
            folded[person] = Had(touches, last)
    return folded


def group_recipients(addresses: Sequence[str], size: int) -> list[list[int]]:
    """Indices of `addresses` in parcels of at most `size`; no address is in a parcel twice.

    Several people may share a mailbox, and each gets their own mail, but one provider call takes
    an address only once. Order is kept, but for those who must wait for a later parcel.
    """
    parcels: list[list[int]] = []
    first_free = 0
    next_for: dict[str, int] = {}  # an address goes into ever later parcels
    for index, written in enumerate(addresses):
        address = fold_address(written)
        place = max(first_free, next_for.get(address, 0))
        while place < len(parcels) and len(parcels[place]) >= size:
            place += 1
        if place == len(parcels):
            parcels.append([])
        parcels[place].append(index)
        next_for[address] = place + 1
        while first_free < len(parcels) and len(parcels[first_free]) >= size:
            first_free += 1
    return parcels


def row_key(plan_date: datetime, run: str, counter: int) -> str:
    """Key of a new row: sorts by plan date, and no two runs can make the same."""
    return f"{plan_date:%Y%m%d}|{run}{counter:05d}"
