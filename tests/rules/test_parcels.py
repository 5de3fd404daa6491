"""States of a parcel and who may change them; who has had what; who shares a parcel."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import CampaignTime, StorageTime
from shared.rules.parcels import (
    CHANGES,
    OPEN,
    Channel,
    Had,
    Parcel,
    State,
    Who,
    accept_by_receipt,
    allow,
    changes_table,
    cut_bits,
    decide_doubt,
    find_receipts_to,
    fold,
    fold_seeds,
    group_recipients,
    has_bit,
    row_key,
    with_bits,
)
from tests.stores.making import NOON, make_parcel, person

ROOT = Path(__file__).parents[2]
WHO: tuple[Who, ...] = get_args(Who.__value__)

# who may change which state

ALLOWED = """
    planned    closed     replanned                    planner
    planned    closed     expired                      releaser
    planned    closed     expired                      planner
    planned    closed     cancelled                    sender
    planned    closed     failed                       poison
    planned    ambiguous  expired                      releaser   in doubt
    planned    ambiguous  failed                       sender     in doubt
    planned    ambiguous  failed                       poison     in doubt
    planned    claimed    -                            sender     in doubt
    planned    accepted   -                            sender     in doubt
    claimed    accepted   -                            sender     in doubt
    claimed    rejected   every recipient was refused  sender     in doubt
    claimed    ambiguous  no clear answer              sender     in doubt
    claimed    ambiguous  failed                       sender     in doubt
    claimed    ambiguous  abandoned                    releaser   in doubt
    claimed    planned    refused                      sender     in doubt
    claimed    planned    fault                        sender     in doubt
    claimed    closed     failed                       sender
    claimed    closed     split                        sender
    ambiguous  accepted   -                            sender     in doubt
    ambiguous  planned    refused                      sender     in doubt
    ambiguous  ambiguous  no receipt                   releaser   in doubt
    ambiguous  planned    resend                       releaser   in doubt
    planned    accepted   -                            receipts   in doubt
    claimed    accepted   -                            receipts   in doubt
    ambiguous  accepted   -                            receipts   in doubt
"""
"""State, new state, reason, who; and whether a row with a doubt behind it may go this way."""


def _table() -> set[tuple[str, str, str, str, bool]]:
    lines = [
        [cell.strip() for cell in line.replace("  ", "\t").split("\t") if cell.strip()]
        for line in ALLOWED.strip().splitlines()
    ]
    return {
        (source, target, reason.strip("-"), who, bool(doubt))
        for source, target, reason, who, *doubt in lines
    }


def test_the_list_of_changes_is_the_one_that_was_agreed() -> None:
    written = {(c.source, c.target, c.reason, c.who, c.doubtful) for c in CHANGES}
    assert written == _table()
    assert len(CHANGES) == len(written)
    assert all(change.when and change.conflict for change in CHANGES)


def test_the_document_shows_the_table() -> None:
    document = (ROOT / "docs" / "parcels.md").read_text()
    assert changes_table() in document, "run `python -m shared.rules.parcels` and put it there"


@pytest.mark.invariant(1)
def test_whatever_is_not_in_the_list_is_refused() -> None:
    listed = _table()
    reasons = {reason for _, _, reason, _, _ in listed} | {"because"}
    for source, target, who, reason, doubt in product(State, State, WHO, reasons, (False, True)):
        expected = (source, target, reason, who, True) in listed or (
            not doubt and (source, target, reason, who, False) in listed
        )
        try:
            change = allow(source, target, who, reason=reason, doubt=doubt)
        except ValueError:
            assert not expected, (source, target, reason, who, doubt)
        else:
            assert expected, (source, target, reason, who, doubt)
            assert (change.source, change.target) == (source, target)


@pytest.mark.invariant(1)
def test_a_claim_comes_from_planned_alone() -> None:
    """So that no parcel has two attempts at once: a claimed one is not claimed again."""
    assert {c.source for c in CHANGES if c.target is State.CLAIMED} == {State.PLANNED}


@pytest.mark.invariant(2)
def test_every_open_row_can_reach_an_end_whatever_is_behind_it() -> None:
    """Without any answer from outside: by the releaser, whose timer always comes."""
    for doubt in (False, True):
        for state in OPEN:
            ways = [c for c in CHANGES if c.source is state and c.who == "releaser"]
            assert [c for c in ways if c.doubtful or not doubt], (state, doubt)


def test_nothing_leads_out_of_an_end() -> None:
    assert {c.source for c in CHANGES} == OPEN


@pytest.mark.invariant(1)
def test_only_a_proven_refusal_sends_a_call_again() -> None:
    """Or a fault before the first byte; and once, after a doubt that receipts have passed by."""
    back = [change for change in CHANGES if change.target is State.PLANNED]
    assert {(change.reason, change.who) for change in back} == {
        ("refused", "sender"),
        ("fault", "sender"),
        ("resend", "releaser"),
    }
    assert {change.source for change in back if change.reason == "fault"} == {State.CLAIMED}


def test_a_row_with_a_doubt_behind_it_is_never_closed_and_never_split() -> None:
    """Its people may have had the message: closed would say that they have not."""
    for source, who, change in product(State, WHO, CHANGES):
        with pytest.raises(ValueError, match="may not"):
            allow(source, State.CLOSED, who, reason=change.reason, doubt=True)


def test_what_follows_a_colon_is_detail() -> None:
    assert allow(State.CLAIMED, State.PLANNED, "sender", reason="fault: KeyError").reason == "fault"
    with pytest.raises(ValueError, match="for `faulty: KeyError`"):
        allow(State.CLAIMED, State.PLANNED, "sender", reason="faulty: KeyError")


# who has had what

ANN, BEN, CAT, DAN = map(person, range(4))


@pytest.mark.parametrize(
    ("state", "had"),
    [
        (State.PLANNED, True),
        (State.CLAIMED, True),
        (State.ACCEPTED, True),
        (State.REJECTED, True),
        (State.AMBIGUOUS, True),
        (State.CLOSED, False),
    ],
)
def test_what_a_state_says_of_the_people(state: State, had: bool) -> None:
    folded = fold([make_parcel(ANN, BEN, state=state, touch="week")])
    week = Had(frozenset({("week", "email")}), NOON)
    assert folded == ({ANN: week, BEN: week} if had else {})


@pytest.mark.parametrize("state", State)
def test_who_was_left_out_or_refused_has_not_had_it(state: State) -> None:
    parcel = make_parcel(
        ANN, BEN, CAT, DAN, state=state, left_out=with_bits(b"", [1]), refused=with_bits(b"", [2])
    )
    said = [parcel.outcome_of(index) for index in range(4)]
    if state is State.CLOSED:
        assert said == ["not had"] * 4
    else:
        assert said == ["had", "left out", "refused", "had"]
    assert set(fold([parcel])) == {
        who for (_, who), word in zip(parcel.people(), said, strict=True) if word == "had"
    }


def test_touches_add_up_and_the_last_time_stands() -> None:
    def at(hours: int) -> CampaignTime:
        return CampaignTime(NOON + timedelta(hours=hours))

    folded = fold(
        [
            make_parcel(ANN, BEN, touch="month", touched_at=at(0), state=State.ACCEPTED),
            make_parcel(ANN, CAT, touch="week", touched_at=at(50), state=State.ACCEPTED),
            make_parcel(CAT, touch="week", channel="sms", touched_at=at(9), state=State.ACCEPTED),
            make_parcel(ANN, touch="fortnight", touched_at=at(20), state=State.AMBIGUOUS),
            make_parcel(ANN, touch="week", touched_at=at(49), state=State.REJECTED),
            make_parcel(ANN, touch="last-call", touched_at=at(90), state=State.CLOSED),
            make_parcel(BEN, touch="week", not_before=at(60), state=State.PLANNED, doubt=True),
        ]
    )
    assert folded == {
        ANN: Had(by_email("month", "fortnight", "week"), at(50)),
        BEN: Had(by_email("month", "week"), at(60)),
        CAT: Had(frozenset({("week", "email"), ("week", "sms")}), at(50)),
    }
    assert folded[CAT].has("week")
    assert not folded[CAT].has("month")


def by_email(*touches: str) -> frozenset[tuple[str, Channel]]:
    return frozenset((touch, "email") for touch in touches)


def test_seed_addresses_are_nobody_and_have_a_fold_of_their_own() -> None:
    rows = [
        make_parcel(ANN, touch="week", seed=True, state=State.ACCEPTED, touched_at=NOON),
        make_parcel(ANN, touch="month", seed=True, state=State.CLOSED),
        make_parcel(BEN, touch="month", state=State.ACCEPTED),
        make_parcel(ANN, touch="week", seed=True, language="zh-Hant", state=State.PLANNED),
    ]
    assert set(fold(rows)) == {BEN}
    assert fold_seeds(rows) == {
        "en": Had(by_email("week"), NOON),
        "zh-Hant": Had(by_email("week"), NOON),
    }


# what receipts and time make of a doubt


@pytest.mark.parametrize("state", State)
def test_a_receipt_settles_what_is_open_and_nothing_else(state: State) -> None:
    change = accept_by_receipt(make_parcel(ANN, state=state, doubt=True))
    expected = {"state": State.ACCEPTED, "reason": "", "final": False}
    assert change == (expected if state in OPEN else None)


@pytest.mark.parametrize(
    ("hours", "receipts_at", "changes", "decided"),
    [
        # since the claim, and the claim time of the newest call with a receipt
        (1.9, 1.0, {}, None),  # too soon to tell
        (2.0, 1.0, {}, "resend"),
        (23.9, -1.0, {}, None),  # receipts are of earlier calls: perhaps none come any more
        (23.9, None, {}, None),
        (24.0, None, {}, "no receipt"),
        (24.0, -1.0, {}, "no receipt"),
        (2.0, 1.0, {"resent": True}, "no receipt"),  # once is all
        (2.0, 1.0, {"version": 2}, "no receipt"),  # of a version that is not in force
        (49.0, 1.0, {}, "no receipt"),  # past not_after
        (24.0, 1.0, {}, "resend"),
        (99.0, 1.0, {"final": True}, None),
        (99.0, 1.0, {"state": State.ACCEPTED}, None),
        (99.0, 1.0, {"state": State.CLAIMED}, None),
    ],
)
@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
def test_a_doubt_is_sent_again_once_or_ends(
    hours: float, receipts_at: float | None, changes: dict[str, Any], decided: str | None
) -> None:
    def at(after: float) -> StorageTime:
        return StorageTime(NOON + timedelta(hours=after))

    parcel = make_parcel(
        ANN,
        **{
            "state": State.AMBIGUOUS,
            "doubt": True,
            "claimed_at": at(0),
            "not_after": CampaignTime(at(48)),
            **changes,
        },
    )
    found = decide_doubt(
        parcel,
        None if receipts_at is None else at(receipts_at),
        at(hours),
        CampaignTime(at(hours)),
        version=1,
        settle_after=7200,
        settle_final=86400,
    )
    assert found == decided


_ROWS = st.lists(
    st.builds(
        make_parcel,
        st.sampled_from([ANN, BEN, CAT, DAN]),
        st.sampled_from([person(9), person(10)]),
        touch=st.sampled_from(["month", "week"]),
        channel=st.sampled_from(["email", "sms"]),
        state=st.sampled_from(State),
        left_out=st.sampled_from([b"", b"\1", b"\2", b"\3"]),
        refused=st.sampled_from([b"", b"\1", b"\2"]),
        touched_at=st.none()
        | st.integers(-99, 99).map(lambda hours: CampaignTime(NOON + timedelta(hours=hours))),
    ),
    max_size=12,
)


@given(_ROWS, st.randoms())
def test_a_fold_says_what_each_row_says_in_any_order(rows: list[Parcel], random: Any) -> None:
    touches: dict[bytes, set[tuple[str, Channel]]] = {}
    times: dict[bytes, list[CampaignTime]] = {}
    for row in rows:
        for index, who in row.people():
            if row.outcome_of(index) == "had":
                touches.setdefault(who, set()).add((row.touch, row.channel))
                times.setdefault(who, []).append(row.touched_at or row.not_before)
    expected = {who: Had(frozenset(touches[who]), max(times[who])) for who in touches}
    assert fold(rows) == expected
    random.shuffle(rows)
    assert fold(rows) == expected


def test_receipts_have_come_as_far_as_the_newest_call_that_has_one_of_its_own() -> None:
    def call(after: int, **more: Any) -> Parcel:
        at = StorageTime(NOON + timedelta(hours=after))
        return make_parcel(ANN, state=State.ACCEPTED, claimed_at=at, **more)

    rows = [
        call(1, heard=True, delivered=b"\1"),
        call(2, heard=True),  # put off, and delivered to nobody
        call(0, heard=True),
        call(3),
        call(4, doubt=True, resent=True, delivered=b"\1"),  # as its first call is told to be
        call(5, channel="sms"),
    ]
    for some in (rows, rows[::-1]):
        assert find_receipts_to(some) == {"email": rows[1].claimed_at}
    assert find_receipts_to([]) == {}


# bitmaps

_INDICES = st.sets(st.integers(0, 999))


@given(_INDICES, _INDICES, st.integers(0, 999), st.integers(0, 999))
def test_a_bitmap_holds_exactly_what_was_marked(
    first: set[int], then: set[int], start: int, end: int
) -> None:
    bitmap = with_bits(with_bits(b"", first), then)
    assert {index for index in range(1100) if has_bit(bitmap, index)} == first | then
    assert len(bitmap) <= 125
    start, end = sorted((start, end))
    part = cut_bits(bitmap, start, end)
    marked = {index + start for index in range(1100) if has_bit(part, index)}
    assert marked == {index for index in first | then if start <= index < end}


# who shares a parcel

GROUPS: list[tuple[str, str, int, list[str]]] = [
    ("all fit", "a b c", 3, ["a b c"]),
    ("in order, at most so many", "a b c d e", 2, ["a b", "c d", "e"]),
    ("one a parcel", "a b", 1, ["a", "b"]),
    ("a shared mailbox", "a a b c", 3, ["a b c", "a"]),
    ("it differs in case only", "a A b", 3, ["a b", "A"]),
    ("a family of one mailbox", "a a a", 3, ["a", "a", "a"]),
    ("who waits goes before who comes later", "a b a c d", 2, ["a b", "a c", "d"]),
    ("a gap is filled", "a a b c", 2, ["a b", "a c"]),
    ("nobody", "", 3, []),
]


@pytest.mark.parametrize(
    ("addresses", "size", "parcels"), [one[1:] for one in GROUPS], ids=[one[0] for one in GROUPS]
)
def test_parcels_of_recipients(addresses: str, size: int, parcels: list[str]) -> None:
    written = addresses.split()
    grouped = group_recipients(written, size)
    assert [" ".join(written[index] for index in indices) for indices in grouped] == parcels


_ADDRESSES = st.lists(st.sampled_from(["a@x.org", "A@x.org", "b@x.org", "c@y.org", "ß@y.org", "d"]))


@given(_ADDRESSES, st.integers(1, 6))
def test_everybody_is_in_one_parcel_and_no_address_twice_in_one(
    addresses: list[str], size: int
) -> None:
    parcels = group_recipients(addresses, size)
    assert sorted(index for indices in parcels for index in indices) == list(range(len(addresses)))
    for indices in parcels:
        assert 1 <= len(indices) <= size
        assert indices == sorted(indices)
        folded = [addresses[index].casefold() for index in indices]
        assert len(set(folded)) == len(folded)
    commonest = max(Counter(map(str.casefold, addresses)).values(), default=0)
    assert len(parcels) >= max(commonest, -(-len(addresses) // size))
    if commonest <= 1:
        assert len(parcels) == -(-len(addresses) // size), "none more than are needed"


def test_keys_sort_by_plan_date_then_by_counter() -> None:
    day, next_day = datetime(2027, 3, 17, 23, tzinfo=UTC), datetime(2027, 3, 18, tzinfo=UTC)
    keys = [
        row_key(day, "ffff", 0),
        row_key(day, "ffff", 9),
        row_key(day, "ffff", 10),
        row_key(next_day, "0000", 0),
    ]
    assert keys == sorted(keys)
    assert keys[0] == "20270317|ffff00000"
    parent = row_key(day, "ffff", 0)
    assert parent < f"{parent}a" < f"{parent}aa" < f"{parent}ab" < f"{parent}b" < keys[1], (
        "a scan that saw the parent closed sees the children later"
    )
