"""Parcels for tests, with whatever does not matter filled in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.parcels import ID_BYTES, Parcel, State

CAMPAIGN = "alumni-2027"
NOON = CampaignTime(datetime(2027, 3, 17, 12, tzinfo=UTC))
PLANNED_FROM = StorageTime(datetime(2027, 3, 17, 4, tzinfo=UTC))

_PARCEL = Parcel(
    campaign=CAMPAIGN,
    shard=10,
    key="20270317|0123456789ab00000",
    state=State.PLANNED,
    sweep=1,
    version=1,
    touch="week",
    channel="email",
    message="reminder",
    language="en",
    ids=b"",
    not_before=NOON,
    not_after=CampaignTime(NOON + timedelta(hours=72)),
    planned_from=PLANNED_FROM,
    outbox=f"{CAMPAIGN}/a/00000001/0123456789ab",
    offset=0,
    length=100,
    digest=bytes(32),
)


def make_parcel(*people: bytes, **changes: Any) -> Parcel:
    """A planned parcel of these people (of one, where none is given)."""
    ids = b"".join(people or (person(1),))
    return msgspec.structs.replace(_PARCEL, **{"ids": ids, **changes})


def make_parcels(count: int, *, day: str = "20270317") -> list[Parcel]:
    """So many planned parcels, keys ascending, of one person each."""
    return [
        make_parcel(person(number), key=f"{day}|0123456789ab{number:05d}")
        for number in range(count)
    ]


def person(number: int) -> bytes:
    """An object id whose shard is `a`."""
    return b"\xa0" + number.to_bytes(ID_BYTES - 1)
