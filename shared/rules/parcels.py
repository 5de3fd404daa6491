"""The states of a parcel, who may change them and when, and what a ledger says of a person.

    planned ──claim──► claimed ──settle──► accepted | rejected | ambiguous
       │                  ├──refusal is proven──► planned (retry_at)
       │                  └──refused as one, names nobody──► closed: split
       └──► closed: replanned | expired | cancelled | failed
    ambiguous ──receipt──► accepted          ambiguous ──decided──► ambiguous, final
       ├──its only call was refused, as we learn late──► planned
       └──a later call has receipts, this one has none──► planned (one resend)

A row with an ambiguous attempt behind it (`doubt`) is never closed and never split: its people may
have had the message. A closed row is never opened again: its people are not had, and planning
again is the replay. `CHANGES` is the whole list of what may happen; `allow` asks it, and
`python -m shared.rules.parcels` prints it as the table of docs/parcels.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, get_args

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.contact import fold_address

SHARDS = "0123456789abcdef"
"""The first hex digit of an object id names the shard."""

ID_BYTES = 16

type Channel = Literal["email", "sms"]
CHANNELS: tuple[Channel, ...] = get_args(Channel.__value__)


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

type Who = Literal["planner", "releaser", "sender", "receipts", "poison"]
type WhichClock = Literal["campaign", "storage", ""]


class Change(msgspec.Struct, frozen=True):
    """One change that a row may go through.

    Attributes:
        source, target: the states.
        reason: what the row says of it; "" where the state says enough.
        who: the only part of the product that makes it.
        doubtful: whether a row with an ambiguous attempt behind it may go this way.
        when: its condition.
        clock: the clock that judges the condition; "" where no time is part of it.
        conflict: what its maker does where the row was written by someone else since (412).
    """

    source: State
    target: State
    reason: str
    who: Who
    doubtful: bool
    when: str
    clock: WhichClock
    conflict: str


_P, _C, _X = State.PLANNED, State.CLAIMED, State.CLOSED
_ACC, _REJ, _AMB = State.ACCEPTED, State.REJECTED, State.AMBIGUOUS

_AGAIN = "read it again: closed as long as it is planned, left alone once it is claimed"
_NEXT = "left out of the transaction, the rest is written; the next tick looks again"
_GONE = "nothing: it was handed out again, or has gone its way"
_CLAIM = "ours where it holds our attempt's id; else the message is dropped"
_SETTLE = "ours where it says so under our attempt's id; else again while our attempt stands in it"
_LATE = "again, whatever attempt stands in it, as long as it is open"
_SPLIT = "ours, or the claim was given up: nothing"
_ASK = "read it again and ask again"

CHANGES: tuple[Change, ...] = (
    Change(_P, _X, "replanned", "planner", False, "a newer pair is wanted", "", _AGAIN),
    Change(_P, _X, "expired", "planner", False, "its touch is over", "campaign", _AGAIN),
    Change(_P, _X, "expired", "releaser", False, "past not_after", "campaign", _NEXT),
    Change(_P, _X, "cancelled", "sender", False, "nobody is left to send to", "", _GONE),
    Change(_P, _X, "failed", "poison", False, "the queue gave up on it", "", _GONE),
    Change(_P, _AMB, "expired", "releaser", True, "past not_after: final", "campaign", _NEXT),
    Change(_P, _AMB, "failed", "sender", True, "nobody is left to send to: final", "", _GONE),
    Change(_P, _AMB, "failed", "poison", True, "the queue gave up on it: final", "", _GONE),
    Change(_P, _C, "", "sender", True, "under the ETag of its message", "", _CLAIM),
    Change(_C, _ACC, "", "sender", True, "the provider said so", "", _SETTLE),
    Change(_C, _REJ, "every recipient was refused", "sender", True, "so it was", "", _SETTLE),
    Change(_C, _AMB, "no clear answer", "sender", True, "the answer proves nothing", "", _SETTLE),
    Change(_C, _AMB, "failed", "sender", True, "cannot be sent any more: final", "", _SETTLE),
    Change(
        *(_C, _AMB, "abandoned", "releaser", True),
        *("`claim_abandoned` after the claim", "storage", _NEXT),
    ),
    Change(
        *(_C, _P, "refused", "sender", True),
        *("a refusal is proven, or the call was not begun", "", _SETTLE),
    ),
    Change(
        *(_C, _P, "fault", "sender", True),
        *("a fault of ours before the first byte, not the third", "", _SETTLE),
    ),
    Change(_C, _X, "failed", "sender", False, "the third such fault", "", _SETTLE),
    Change(_C, _X, "split", "sender", False, "refused as a whole, nobody named", "", _SPLIT),
    Change(_AMB, _ACC, "", "sender", True, "the late acceptance of any attempt", "", _LATE),
    Change(_AMB, _P, "refused", "sender", True, "the late refusal of its only call", "", _SETTLE),
    Change(_P, _ACC, "", "sender", True, "the late acceptance of any attempt", "", _LATE),
    Change(_P, _ACC, "", "receipts", True, "a receipt of any attempt", "", _ASK),
    Change(_C, _ACC, "", "receipts", True, "a receipt of any attempt", "", _ASK),
    Change(_AMB, _ACC, "", "receipts", True, "a receipt of any attempt, final or not", "", _ASK),
    Change(
        *(_AMB, _P, "resend", "releaser", True),
        "`settle_after` after the call a later one has receipts, it was never resent, and not_after"
        " allows",
        *("storage", _NEXT),
    ),
    Change(
        *(_AMB, _AMB, "no receipt", "releaser", True),
        "as for a resend, but it was resent, is past not_after or of an older version; or"
        " `settle_final` after the call no receipt of a later one has come either: final",
        *("storage", _NEXT),
    ),
)
"""All that may happen to a row, each by one conditional write."""


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


def changes_table() -> str:
    """`CHANGES` as a table in Markdown."""
    lines = [
        "| from | to | reason | who | with a doubt behind it | when | clock | on a 412 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in CHANGES:
        doubtful = "yes" if one.doubtful else "no"
        cells = (one.source, one.target, one.reason, one.who, doubtful, one.when, one.clock)
        lines.append(f"| {' | '.join((*cells, one.conflict))} |")
    return "\n".join(lines)


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger row: recipients that one provider call carries. Names nobody but by object id.

    Attributes:
        key: row key, `{plan date}|{run}{counter}`, plus `a` or `b` for each split.
        sweep, version: the pair that it was planned under.
        ids: the recipients' object ids, 16 bytes each; their order never changes.
        left_out, refused, delivered: one bit for each recipient, see `has_bit`. Left out are those
            whom no call was for; `refused` has bounces, too.
        heard: a receipt of the last call has come, whatever it says.
        domain: the domain of all recipients, where the campaign limits it; else "".
        canary: goes out before the others of its touch and channel, and decides over them.
        seed: for the file's seed addresses: its ids are keyed hashes of these, and nobody's.
        not_before, not_after: campaign time; not handed out outside of them.
        planned_from: storage time at which its run read the fence.
        outbox, offset, length, digest: where its contact data are, with their SHA-256.
        attempt: id of the last provider call; `touched_at` is the campaign time of its claim.
        doubt: an ambiguous attempt lies behind the row.
        faults: how often a fault of our own sent it back.
        final: of an ambiguous row: decided, counted as had, not sent again.
        trace: the span that planned it, for those that link to it (`telemetry.current_trace`);
            b"" where that was not exported.
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
    channel: Channel
    message: str
    language: str
    domain: str = ""
    canary: bool = False
    seed: bool = False
    ids: bytes
    left_out: bytes = b""
    refused: bytes = b""
    delivered: bytes = b""
    heard: bool = False
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
    trace: bytes = b""

    @property
    def count(self) -> int:
        """Recipients, those left out and refused among them."""
        return len(self.ids) // ID_BYTES

    @property
    def left_out_count(self) -> int:
        """Recipients whom no call was for."""
        return _count_bits(self.left_out)

    @property
    def refused_count(self) -> int:
        """Recipients whose address was refused or bounced."""
        return _count_bits(self.refused)

    @property
    def delivered_count(self) -> int:
        """Recipients whom a receipt calls delivered."""
        return _count_bits(self.delivered)

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


def accept_by_receipt(parcel: Parcel) -> dict[str, Any] | None:
    """The change that a receipt of any attempt makes, since it proves that the attempt was
    accepted; None for a row that was settled otherwise before, which no receipt changes."""
    if parcel.state not in OPEN:
        return None
    allow(parcel.state, State.ACCEPTED, "receipts", doubt=parcel.doubt)
    return {"state": State.ACCEPTED, "reason": "", "final": False}


def find_receipts_to(parcels: Iterable[Parcel]) -> dict[Channel, StorageTime]:
    """When the newest call of each channel was claimed that a receipt has come of.

    Any receipt will do: mails that are put off or blocked show that the provider reports, as well
    as those that arrive. Whether they do arrive is asked elsewhere.
    """
    newest: dict[Channel, StorageTime] = {}
    for parcel in parcels:
        if parcel.heard and parcel.claimed_at:
            known = newest.get(parcel.channel, parcel.claimed_at)
            newest[parcel.channel] = max(known, parcel.claimed_at)
    return newest


def decide_doubt(
    parcel: Parcel,
    receipts_to: StorageTime | None,
    now: StorageTime,
    today: CampaignTime,
    *,
    version: int,
    settle_after: float,
    settle_final: float,
) -> Literal["resend", "no receipt"] | None:
    """What becomes of an ambiguous row that no receipt has settled; None: it waits on.

    Args:
        receipts_to: when the newest call was claimed, of this channel, that a receipt came for.
            Later than this row's claim, it says that receipts do come, and none came for this one.
        version: the one in force. What an older one planned is not sent under it any more.
        settle_after, settle_final: seconds after the claim (`Ages`).
    """
    if parcel.state is not State.AMBIGUOUS or parcel.final or parcel.claimed_at is None:
        return None
    age = (now - parcel.claimed_at).total_seconds()
    overtaken = receipts_to is not None and receipts_to > parcel.claimed_at
    may_go = not parcel.resent and today < parcel.not_after and parcel.version == version
    if age >= settle_after and overtaken and may_go:
        return "resend"
    if (age >= settle_after and overtaken) or age >= settle_final:
        return "no receipt"
    return None


def has_bit(bitmap: bytes, index: int) -> bool:
    """Whether a recipient is marked. A bitmap is as long as its last set bit needs."""
    byte, bit = divmod(index, 8)
    return byte < len(bitmap) and bool(bitmap[byte] >> bit & 1)


def _count_bits(bitmap: bytes) -> int:
    return int.from_bytes(bitmap).bit_count()


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
        touches: touches had, each with the channel.
        last_at: campaign time of the last one's claim, for the gap between touches.
    """

    touches: frozenset[tuple[str, Channel]] = frozenset()
    last_at: CampaignTime | None = None

    def has(self, touch: str) -> bool:
        """Whether the touch was had, on any channel: the channels of a touch are one nudge."""
        return any(name == touch for name, _ in self.touches)


NOTHING_HAD = Had()


def fold(parcels: Iterable[Parcel]) -> dict[bytes, Had]:
    """Who has had what, from the rows of one shard after the take-back.

    A row that is claimed, ambiguous, accepted, rejected or still planned counts as had, a closed
    one as not had. Whoever was left out, or was refused at the address of then, has not had it:
    the address is remembered as bad, and contact choice passes over it. Seed addresses are nobody.
    """
    folded: dict[bytes, Had] = {}
    # Rows share few sets of touches: one frozenset for each, not one for each person.
    unions: dict[
        tuple[frozenset[tuple[str, Channel]], tuple[str, Channel]],
        frozenset[tuple[str, Channel]],
    ] = {}
    for parcel in parcels:
        if parcel.state is State.CLOSED or parcel.seed:
            continue
        marked = parcel.left_out or parcel.refused
        touch = (parcel.touch, parcel.channel)
        for index, person in parcel.people():
            if marked and parcel.outcome_of(index) != "had":
                continue
            had = folded.get(person, NOTHING_HAD)
            pair = (had.touches, touch)
            if (touches := unions.get(pair)) is None:
                touches = unions[pair] = had.touches | {touch}
            at = parcel.touched_at or parcel.not_before
            last = at if had.last_at is None or at > had.last_at else had.last_at
            folded[person] = Had(touches, last)
    return folded


def fold_seeds(parcels: Iterable[Parcel]) -> dict[str, Had]:
    """What the seed addresses have had, by language, from the rows of their shard."""
    folded: dict[str, Had] = {}
    for parcel in parcels:
        if parcel.seed and parcel.state is not State.CLOSED:
            had = folded.get(parcel.language, NOTHING_HAD)
            at = parcel.touched_at or parcel.not_before
            last = at if had.last_at is None else max(at, had.last_at)
            touch: tuple[str, Channel] = (parcel.touch, parcel.channel)
            folded[parcel.language] = Had(had.touches | {touch}, last)
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


if __name__ == "__main__":
    print(changes_table())
