"""What was lost, or looks as if it were: people whom a touch has not reached, and receipts that
stay away.

All of it is read off the ledger's rows, after the fact: whatever went wrong on the way, and whether
or not anything noticed it then, the rows show what came of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shared.rules.parcels import Channel, Parcel, State, find_receipts_to, has_bit

if TYPE_CHECKING:
    from shared.clock import CampaignTime, StorageTime

NO_CLEAR_ANSWER = "no clear answer"
UNDER_WAY = "still under way"
STILL_PLANNED = "still planned"
EXPIRED, FAILED = "expired", "failed"
REFUSED = "the address was refused"
_REASONS = (NO_CLEAR_ANSWER, UNDER_WAY, STILL_PLANNED, EXPIRED, FAILED, REFUSED)
"""Why somebody is unreached, from what is nearest to having reached them: where several of their
rows differ, the first counts."""

SILENT_RECIPIENTS = 20
"""That nothing at all is heard of so many recipients is no chance any more."""


def why_unreached(parcel: Parcel, index: int) -> str | None:
    """Why a row did not reach one of its recipients, or perhaps did not. None where it did, or may
    still, and for whoever is not to be reached by it: left out, or in another row by now."""
    if has_bit(parcel.left_out, index):
        return None
    if has_bit(parcel.refused, index):
        return REFUSED
    if parcel.state is State.CLOSED:
        return parcel.reason if parcel.reason in (EXPIRED, FAILED) else None
    return NO_CLEAR_ANSWER if parcel.state is State.AMBIGUOUS else None


def find_unreached(
    parcels: Iterable[Parcel], closed: CampaignTime | None
) -> dict[tuple[Channel, bytes], str]:
    """Whom a touch has not reached, by channel and object id, with the reason.

    Whoever was reached by any row of the touch, on whatever channel, is none of them, nor is who
    stands in a row that has its time still to come.

    Args:
        parcels: all rows of the touch and of a shard, or of all.
        closed: when the window of its day closed: what should have left before and has not is late.
            None while that day lasts.
    """
    provided_for: set[bytes] = set()
    found: defaultdict[tuple[Channel, bytes], set[str]] = defaultdict(set)
    for parcel in parcels:
        if parcel.seed:
            continue
        late = _why_late(parcel, closed)
        had_counts = parcel.state in (State.PLANNED, State.CLAIMED, State.ACCEPTED)
        for index, person in parcel.people():
            if reason := why_unreached(parcel, index):
                found[parcel.channel, person].add(reason)
            elif had_counts and parcel.outcome_of(index) == "had":
                if late:
                    found[parcel.channel, person].add(late)
                else:
                    provided_for.add(person)
    return {
        (channel, person): min(reasons, key=_REASONS.index)
        for (channel, person), reasons in found.items()
        if person not in provided_for
    }


def _why_late(parcel: Parcel, closed: CampaignTime | None) -> str | None:
    """Why a row has not left that should have by the end of its touch's day."""
    if closed is None or parcel.not_before >= closed:
        return None
    match parcel.state:
        case State.PLANNED:
            return STILL_PLANNED
        case State.CLAIMED:
            return UNDER_WAY
        case _:
            return None


def count_silent(
    parcels: Sequence[Parcel],
    now: StorageTime,
    *,
    settle_after: float,
    settle_final: float,
) -> int:
    """Recipients of accepted calls that are old enough for receipts, where none came for them and
    none for any later call; 0 where they are so few that it may be chance.

    Args:
        parcels: of one channel.
        settle_after, settle_final: a call between these ages is looked at (`Ages`), in seconds.
    """
    newest = find_receipts_to(parcels)
    silent = sum(
        parcel.count - parcel.left_out_count
        for parcel in parcels
        if parcel.state is State.ACCEPTED
        and not parcel.seed
        and parcel.claimed_at is not None
        and settle_after <= (now - parcel.claimed_at).total_seconds() < settle_final
        and not _has_passed(newest.get(parcel.channel), parcel.claimed_at)
    )
    return silent if silent >= SILENT_RECIPIENTS else 0


def _has_passed(newest: StorageTime | None, claimed_at: StorageTime) -> bool:
    """Whether a receipt of this call or of a later one has come."""
    return newest is not None and claimed_at <= newest
