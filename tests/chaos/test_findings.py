"""What is looked for after a storm is found where it is."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from shared.clock import CampaignTime, StorageTime
from shared.rules.parcels import Parcel, State, with_bits
from tests.chaos.findings import End, Taken, judge, parcel_id

NOON = datetime(2027, 3, 17, 4, tzinfo=UTC)
FIRST, SECOND, UNREACHABLE = (bytes([0x10 + n]) * 16 for n in range(3))


def row(key: str = "2027-03-17|a", **fields: Any) -> Parcel:
    """Of two people, sent at noon, accepted and delivered."""
    usual: dict[str, Any] = {
        "campaign": "alumni",
        "shard": 1,
        "key": key,
        "state": State.ACCEPTED,
        "sweep": 1,
        "version": 1,
        "touch": "fortnight",
        "channel": "email",
        "message": "reminder",
        "language": "en",
        "ids": FIRST + SECOND,
        "delivered": with_bits(b"", (0, 1)),
        "not_before": CampaignTime(NOON),
        "not_after": CampaignTime(NOON + timedelta(hours=72)),
        "planned_from": StorageTime(NOON),
        "outbox": "alumni/1/1/a",
        "offset": 0,
        "length": 1,
        "digest": b"",
        "claimed_at": StorageTime(NOON),
    }
    return Parcel(**usual | fields)


def call(parcel: Parcel, attempt: str = "first", **fates: Any) -> Taken:
    return Taken(parcel_id(parcel), attempt, {0: "delivered", 1: "delivered"} | fates.pop("of", {}))


def end(*rows: Parcel, taken: list[Taken] | None = None, **fields: Any) -> End:
    usual: dict[str, Any] = {
        "due": {1: {FIRST: "", SECOND: "", UNREACHABLE: "no usable contact"}},
        "unreached": {UNREACHABLE: "no usable contact"},
        "now": CampaignTime(NOON + timedelta(hours=1)),
    }
    calls = list(map(call, rows)) if taken is None else taken
    return End(rows=rows, taken=calls, **usual | fields)


RESENT = row(doubt=True, resent=True)
TWICE = [call(RESENT), call(RESENT, "second")]
FINAL = row(state=State.AMBIGUOUS, final=True, doubt=True, delivered=b"")
UNCLEAR = dict.fromkeys((FIRST, SECOND), "no clear answer")


@pytest.mark.parametrize(
    "seen",
    [
        end(row()),
        end(RESENT, taken=TWICE),
        end(FINAL, taken=[], unreached=UNCLEAR | {UNREACHABLE: "no usable contact"}),
        end(
            row(refused=with_bits(b"", [1])),
            row("2027-03-17|b", ids=SECOND, delivered=b"\1"),
            taken=[
                call(row(), of={1: "bounced_later"}),
                Taken(parcel_id(row("2027-03-17|b")), "second", {0: "delivered"}),
            ],
        ),
        end(row(state=State.PLANNED, not_before=CampaignTime(NOON + timedelta(days=1))), taken=[]),
        end(row(), edited=(2, StorageTime(NOON - timedelta(minutes=2)))),
        end(row(), due={1: {FIRST: "", SECOND: ""}, 3: {FIRST: ""}}, unreached={}),
    ],
    ids=[
        "everybody has it",
        "twice, and the ledger says so",
        "nobody knows, and the list says so",
        "bounced, and sent to the next address",
        "not yet to go",
        "gone two minutes after an edit",
        "registered after the mail",
    ],
)
def test_what_may_be_is_no_breach(seen: End) -> None:
    assert judge(seen).breaches == ()


LOST = end(row(), unreached={})
NOT_DUE = end(row(), due={1: {FIRST: ""}, 2: {FIRST: "", SECOND: ""}})
TWO_ROWS = end(row(), row("2027-03-17|b"), taken=[call(row()), call(row("2027-03-17|b"), "second")])


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (LOST, "is lost"),
        (NOT_DUE, "was not due"),
        (TWO_ROWS, "from 2 parcels"),
        (end(row(), taken=TWICE), "does not say why"),
        (end(RESENT, taken=[*TWICE, call(RESENT, "third")]), "accepted 3 times"),
        (end(RESENT, taken=[call(RESENT), call(RESENT)]), "attempt first was accepted 2 times"),
        (end(taken=[call(row())]), "no such row"),
        (end(FINAL, unreached=UNCLEAR), r"calls it ambiguous final"),
        (end(FINAL, taken=[]), "in no list"),
        (end(row(), taken=[]), "no call of it was"),
        (end(row(state=State.CLAIMED), taken=[]), "is still claimed"),
        (end(row(state=State.PLANNED), taken=[]), "is still planned"),
        (end(msgspec.structs.replace(FINAL, final=False), taken=[]), "is still ambiguous"),
        (end(row(), taken=[call(row(), of={1: "blocked"})]), r"delivered are \[0\]"),
        (end(row(), taken=[call(row(), of={1: "bounced"})]), r"bounced are \[1\]"),
        (end(row(), edited=(2, StorageTime(NOON - timedelta(minutes=3)))), "after the edit"),
    ],
)
def test_what_must_not_be_is_found(seen: End, words: str) -> None:
    assert any(re.search(words, breach) for breach in judge(seen).breaches)


def test_the_rest_is_counted() -> None:
    found = judge(end(RESENT, taken=TWICE))
    assert found.doubled == {parcel_id(RESENT): 2}
    assert (found.doubtful, found.resent, found.by_receipt, found.final) == (1, 1, 0, 0)
    assert (found.due, found.taken, found.recipients) == (3, 2, 2)
    assert (found.lost, judge(LOST).lost) == (0, 1)
    assert found.unreached == {"no usable contact": 1}
