"""Who of a touch was not reached, and whether receipts have fallen silent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import CampaignTime, StorageTime
from shared.rules.losses import SILENT_RECIPIENTS, count_silent, find_unreached
from shared.rules.parcels import ID_BYTES, Parcel, State, with_bits

CLOSED = CampaignTime(datetime(2027, 3, 17, 10, tzinfo=UTC))
ON_THE_DAY, LATER = CampaignTime(CLOSED - timedelta(hours=9)), CampaignTime(CLOSED)
NOW = StorageTime(CLOSED)


def row(who: str, state: State = State.PLANNED, **more: Any) -> Parcel:
    """A row of the touch; each letter is a person."""
    fields: dict[str, Any] = {"not_before": ON_THE_DAY, "channel": "email"} | more
    for bitmap in ("left_out", "refused", "delivered"):
        fields[bitmap] = with_bits(b"", (who.index(one) for one in fields.get(bitmap, "")))
    return Parcel(
        campaign="c",
        shard=0,
        key="k",
        state=state,
        sweep=1,
        version=1,
        touch="week",
        message="reminder",
        language="en",
        ids=b"".join(one.encode().ljust(ID_BYTES, b"\0") for one in who),
        not_after=CampaignTime(CLOSED + timedelta(hours=63)),
        planned_from=NOW,
        outbox="o",
        offset=0,
        length=0,
        digest=b"",
        **fields,
    )


def closed(who: str, reason: str, **more: Any) -> Parcel:
    return row(who, State.CLOSED, reason=reason, **more)


def sent(who: str, **more: Any) -> Parcel:
    return row(who, State.ACCEPTED, **more)


def doubtful(who: str, **more: Any) -> Parcel:
    return row(who, State.AMBIGUOUS, **more)


def told(parcels: Sequence[Parcel], until: CampaignTime | None) -> dict[str, str]:
    """Letters of the unreached, by reason; those of SMS in capitals."""
    found: dict[str, str] = {}
    for (channel, person), reason in sorted(find_unreached(parcels, until).items()):
        letter = person.rstrip(b"\0").decode()
        found[reason] = found.get(reason, "") + (letter.upper() if channel == "sms" else letter)
    return found


WAITS, WAY, DOUBT = "still planned", "still under way", "no clear answer"
REFUSED = "the address was refused"
SMS: dict[str, Any] = {"channel": "sms"}

CASES: list[tuple[str, list[Parcel], dict[str, str], dict[str, str]]] = [
    # what the rows say; who is unreached while the day lasts, and after it
    ("reached", [sent("ab")], {}, {}),
    ("planned", [row("ab")], {}, {WAITS: "ab"}),
    ("planned for another day", [row("a", not_before=LATER)], {}, {}),
    ("claimed", [row("a", State.CLAIMED)], {}, {WAY: "a"}),
    ("expired", [closed("ab", "expired")], {"expired": "ab"}, {"expired": "ab"}),
    ("failed", [closed("a", "failed")], {"failed": "a"}, {"failed": "a"}),
    ("in doubt", [doubtful("a")], {DOUBT: "a"}, {DOUBT: "a"}),
    ("in doubt for good", [doubtful("a", final=True)], {DOUBT: "a"}, {DOUBT: "a"}),
    ("refused", [sent("ab", refused="b")], {REFUSED: "b"}, {REFUSED: "b"}),
    ("all refused", [row("a", State.REJECTED, refused="a")], {REFUSED: "a"}, {REFUSED: "a"}),
    ("left out", [sent("ab", left_out="b")], {}, {}),
    ("left out, and expired", [closed("ab", "expired", left_out="b")], *[{"expired": "a"}] * 2),
    ("cancelled", [closed("a", "cancelled", left_out="a")], {}, {}),
    ("planned again", [closed("a", "replanned"), sent("a")], {}, {}),
    ("not any more", [closed("a", "replanned")], {}, {}),
    (
        "divided",
        [closed("ab", "split"), sent("a"), closed("b", "expired")],
        *[{"expired": "b"}] * 2,
    ),
    ("expired, then reached", [closed("ab", "expired"), sent("a")], *[{"expired": "b"}] * 2),
    ("expired, then planned", [closed("a", "expired"), row("a")], {}, {WAITS: "a"}),
    ("refused, its turn to come", [sent("a", refused="a"), row("a", not_before=LATER)], {}, {}),
    ("failed and refused", [closed("a", "failed"), sent("a", refused="a")], *[{"failed": "a"}] * 2),
    ("in doubt and expired", [closed("a", "expired"), doubtful("a")], *[{DOUBT: "a"}] * 2),
    ("reached by SMS", [closed("ab", "expired"), sent("a", **SMS)], *[{"expired": "b"}] * 2),
    (
        "on neither",
        [closed("a", "expired"), closed("a", "failed", **SMS)],
        *[{"expired": "a", "failed": "A"}] * 2,
    ),
    ("seed addresses", [closed("a", "expired", seed=True), row("b", seed=True)], {}, {}),
]


@pytest.mark.invariant(2)
@pytest.mark.parametrize(
    ("parcels", "during", "after"), [one[1:] for one in CASES], ids=[one[0] for one in CASES]
)
def test_who_was_not_reached(
    parcels: list[Parcel], during: dict[str, str], after: dict[str, str]
) -> None:
    for rows in (parcels, parcels[::-1]):  # keys of one day are in no order of time
        assert told(rows, None) == during
        assert told(rows, CLOSED) == after


ways = st.sampled_from(
    [
        *(sent, doubtful, row),
        *(lambda who, reason=reason: closed(who, reason) for reason in ("expired", "failed")),
    ]
)
crowds = st.lists(st.tuples(st.text("abcdef", min_size=1), ways), max_size=6)


@pytest.mark.invariant(2)
@given(crowds)
def test_after_its_day_everybody_of_a_touch_is_reached_or_has_a_reason(crowd: list[Any]) -> None:
    parcels = [way("".join(sorted(set(who)))) for who, way in crowd]
    reached = {one for p in parcels if p.state is State.ACCEPTED for _, one in p.people()}
    everybody = {one for parcel in parcels for _, one in parcel.people()}
    unreached = {person for _, person in find_unreached(parcels, CLOSED)}
    assert unreached == everybody - reached


# --- receipts -------------------------------------------------------------------------------------

FEW, ENOUGH = "a" * (SILENT_RECIPIENTS - 1), "a" * SILENT_RECIPIENTS


def ago(hours: float) -> StorageTime:
    return StorageTime(NOW - timedelta(hours=hours))


def call(who: str, hours: float, **more: Any) -> Parcel:
    return sent(who, claimed_at=ago(hours), **more)


SILENCES: list[tuple[str, list[Parcel], int]] = [
    # the calls, with the hours since; recipients of whom nothing is heard
    ("too young", [call(ENOUGH, 1.9)], 0),
    ("old enough", [call(ENOUGH, 2)], 20),
    ("too few", [call(FEW, 3)], 0),
    ("together enough", [call(FEW, 3), call("b", 4)], 20),
    ("of yesterday", [call(ENOUGH, 24)], 0),
    ("whom no call was for", [call("b" + FEW, 3, left_out="b")], 0),
    ("some were delivered", [call("b" + ENOUGH, 3, heard=True, delivered="b")], 0),
    ("all were put off", [call(ENOUGH, 3, heard=True)], 0),
    ("a later call was", [call(ENOUGH, 3), call("b", 2.5, heard=True)], 0),
    ("a young one was", [call(ENOUGH, 3), call("b", 0.1, heard=True)], 0),
    ("an earlier one was", [call(ENOUGH, 3), call("b", 3.5, heard=True)], 20),
    ("only the first of its calls was", [call(ENOUGH, 3, resent=True, delivered="a")], 20),
    ("no clear answer", [doubtful(ENOUGH, claimed_at=ago(3))], 0),
    ("seed addresses", [call(ENOUGH, 3, seed=True)], 0),
    ("never called", [row(ENOUGH)], 0),
]


@pytest.mark.parametrize(
    ("parcels", "recipients"), [one[1:] for one in SILENCES], ids=[one[0] for one in SILENCES]
)
def test_receipts_that_stay_away(parcels: list[Parcel], recipients: int) -> None:
    found = count_silent(parcels, NOW, settle_after=2 * 3600, settle_final=24 * 3600)
    assert found == recipients
