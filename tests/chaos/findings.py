"""What must hold after a storm, from what the inbox accepted and what the ledger says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec

from local.inbox.fates import MailFate
from shared.clock import CampaignTime, StorageTime
from shared.rules.parcels import SHARDS, Parcel, State, has_bit
from shared.workflows.plan import format_id

EDIT_TAKES: Final = timedelta(minutes=2)
"""Until an edit of the campaign file is in force everywhere."""

_DELIVERED: Final = frozenset[MailFate](
    {"delivered", "deferred", "bounced_later", "reported", "unsubscribed"}
)
_BOUNCED: Final = frozenset[MailFate]({"bounced", "bounced_later", "dropped"})
"""What is dropped here has bounced before."""


@dataclass(frozen=True)
class Taken:
    """A call that the inbox accepted: to whom it was, and what became of each mail."""

    parcel: str
    attempt: str
    fates: Mapping[int, MailFate]


@dataclass(frozen=True, kw_only=True)
class End:
    """All there is to see when a storm is over.

    Attributes:
        rows: of the ledger, with their ids.
        due: who was to be written to by each committed sweep, with the reason why nothing can
            reach them; "" for most. People register from one sweep to the next.
        unreached: who was not reached, with the reason.
        now: campaign time.
        edited: the version that an edit of the campaign file made, and when it was saved; None
            without one.
        doubts_settled: whether it was waited until doubts are decided, too.
    """

    rows: Sequence[Parcel]
    taken: Sequence[Taken]
    due: Mapping[int, Mapping[bytes, str]]
    unreached: Mapping[bytes, str]
    now: CampaignTime
    edited: tuple[int, StorageTime] | None = None
    doubts_settled: bool = True

    @property
    def still_due(self) -> Mapping[bytes, str]:
        """Those of the last sweep."""
        return self.due[max(self.due)]


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        breaches: what must not be, each in words.
        taken: accepted calls; `recipients` are the people of them.
        doubtful: parcels with an attempt behind them of which nothing was known for a while.
        by_receipt: those of them that are accepted without a second call.
        resent: those that were sent once more.
        final: those of which nothing is known for good.
        doubled: parcels that were accepted twice, with their number of people who got two mails;
            the ledger names each of them as resent.
        lost: people who are due, were not written to and are in no list.
        unreached: people, by reason.
    """

    breaches: tuple[str, ...]
    due: int
    taken: int
    recipients: int
    states: dict[str, int]
    doubtful: int
    by_receipt: int
    resent: int
    final: int
    doubled: dict[str, int]
    lost: int
    unreached: dict[str, int]


def judge(end: End) -> Findings:
    """Look for all that must not be, and count the rest."""
    rows = {parcel_id(row): row for row in end.rows}
    taken: defaultdict[str, list[Taken]] = defaultdict(list)
    for call in end.taken:
        taken[call.parcel].append(call)
    doubtful = [row for row in end.rows if row.doubt]
    return Findings(
        breaches=(
            *_in_calls(rows, taken),
            *_in_rows(end, rows, taken),
            *_in_people(end, rows, taken),
        ),
        due=len(end.still_due),
        taken=len(end.taken),
        recipients=len(_reached(rows, taken)),
        states=dict(Counter(row.state.value for row in end.rows)),
        doubtful=len(doubtful),
        by_receipt=sum(row.state is State.ACCEPTED and not row.resent for row in doubtful),
        resent=sum(row.resent for row in doubtful),
        final=sum(row.final for row in doubtful),
        doubled={
            parcel: len(both)
            for parcel, calls in taken.items()
            if len(calls) > 1 and (both := calls[0].fates.keys() & calls[1].fates.keys())
        },
        lost=len(_lost(end, rows, taken)),
        unreached=dict(Counter(end.unreached.values())),
    )


def parcel_id(row: Parcel) -> str:
    """As calls name it."""
    return f"{row.campaign}:{SHARDS[row.shard]}|{row.key}"


def _in_calls(rows: Mapping[str, Parcel], taken: Mapping[str, Sequence[Taken]]) -> Iterator[str]:
    attempts = Counter(call.attempt for calls in taken.values() for call in calls)
    for attempt, times in attempts.items():
        if times > 1:
            yield f"attempt {attempt} was accepted {times} times"
    for parcel, calls in taken.items():
        row = rows.get(parcel)
        if row is None:
            yield f"{parcel} was accepted, and the ledger has no such row"
            continue
        if row.state is not State.ACCEPTED:
            yield f"{parcel} was accepted and told of, and the ledger calls it {_describe(row)}"
        if len(calls) > 1 and not (row.doubt and row.resent):
            yield f"{parcel} was accepted {len(calls)} times, and the ledger does not say why"
        if len(calls) > 2:
            yield f"{parcel} was accepted {len(calls)} times"
        yield from _in_receipts(parcel, row, calls)


def _in_receipts(parcel: str, row: Parcel, calls: Sequence[Taken]) -> Iterator[str]:
    fates: defaultdict[int, set[MailFate]] = defaultdict(set)
    for call in calls:
        for index, fate in call.fates.items():
            fates[index].add(fate)
    for name, kinds, bitmap in (
        ("delivered", _DELIVERED, row.delivered),
        ("bounced", _BOUNCED, row.refused),
    ):
        told = {index for index, kind in fates.items() if kind & kinds}
        noted = {index for index in range(row.count) if has_bit(bitmap, index)}
        if told != noted:
            yield f"{parcel}: {name} are {sorted(told)}, and the ledger has {sorted(noted)}"


def _in_rows(
    end: End, rows: Mapping[str, Parcel], taken: Mapping[str, Sequence[Taken]]
) -> Iterator[str]:
    for parcel, row in rows.items():
        if row.state is State.ACCEPTED and parcel not in taken:
            yield f"{parcel} is called accepted, and no call of it was"
        if _is_left_open(end, row):
            yield f"{parcel} is still {_describe(row)}"
        if end.edited and row.version < end.edited[0] and row.claimed_at:
            late = row.claimed_at - end.edited[1]
            if late > EDIT_TAKES:
                yield f"{parcel} went out {late} after the edit that replaced its version"


def _is_left_open(end: End, row: Parcel) -> bool:
    match row.state:
        case State.CLAIMED:
            return True
        case State.PLANNED:
            return row.not_before <= end.now
        case State.AMBIGUOUS:
            return end.doubts_settled and not row.final
        case _:
            return False


def _in_people(
    end: End, rows: Mapping[str, Parcel], taken: Mapping[str, Sequence[Taken]]
) -> Iterator[str]:
    reached = _reached(rows, taken)
    for person, places in reached.items():
        if any(person not in end.due[rows[parcel].sweep] for parcel, _ in places):
            yield f"{format_id(person)} was written to, and was not due"
    for person in _lost(end, rows, taken):
        yield f"{format_id(person)} is lost: due, not written to, and in no list"
    for person in _in_state(end.rows, State.AMBIGUOUS) - end.unreached.keys():
        yield f"{format_id(person)} may not have been reached, and is in no list"
    for person, places in reached.items():
        # Who has a mail that bounced may have another, at their next address.
        had = Counter(
            (rows[parcel].touch, rows[parcel].channel)
            for parcel, index in places
            if not has_bit(rows[parcel].refused, index)
        )
        for (touch, channel), times in had.items():
            if times > 1:
                yield f"{format_id(person)} has `{touch}` by {channel} from {times} parcels"


def _lost(end: End, rows: Mapping[str, Parcel], taken: Mapping[str, Sequence[Taken]]) -> set[bytes]:
    to_come = _in_state(end.rows, State.PLANNED)
    return end.still_due.keys() - _reached(rows, taken).keys() - end.unreached.keys() - to_come


def _reached(
    rows: Mapping[str, Parcel], taken: Mapping[str, Sequence[Taken]]
) -> dict[bytes, set[tuple[str, int]]]:
    """In which parcels, and where in them, each person stood whom an accepted call was for."""
    found: defaultdict[bytes, set[tuple[str, int]]] = defaultdict(set)
    for parcel, calls in taken.items():
        if row := rows.get(parcel):
            people = dict(row.people())
            for call in calls:
                for index in call.fates:
                    found[people[index]].add((parcel, index))
    return found


def _in_state(rows: Collection[Parcel], state: State) -> set[bytes]:
    return {person for row in rows if row.state is state for _, person in row.people()}


def _describe(row: Parcel) -> str:
    words = [row.state.value, row.reason and f"({row.reason})", "final" if row.final else ""]
    return " ".join(filter(None, words))
