"""Events that the institution's systems told us of: so that one told twice is known again.

Partition `events` of the table `ledger`, a row for each event that was recorded. Key and digest are
keyed hashes (workflows/completion_batch): what they were made of cannot be read from them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import batched
from typing import TYPE_CHECKING

import msgspec

from shared.clock import StorageTime
from shared.stores.parcels import to_text
from shared.stores.table import MOST_ROWS, Row, Table, Write

if TYPE_CHECKING:
    from shared.clock import Clock

_PARTITION = "events"
_SIDE_BY_SIDE = 32
"""Reads at a time. A filter over many keys would be one request, and read the whole partition."""


class Event(msgspec.Struct, frozen=True):
    """An event by its key, and the digest of what it says."""

    key: bytes
    digest: bytes


class Events:
    """Reads and writes of events' rows."""

    def __init__(self, table: Table, clock: Clock) -> None:
        self._table = table
        self._clock = clock

    async def read(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The digests of those of these events that were recorded, by key."""
        found: dict[bytes, bytes] = {}
        for batch in batched(keys, _SIDE_BY_SIDE, strict=False):
            rows = await asyncio.gather(*(self._table.read(_PARTITION, key.hex()) for key in batch))
            found |= {key: row["digest"] for key, row in zip(batch, rows, strict=True) if row}
        return found

    async def write(self, events: Sequence[Event]) -> None:
        """Remember events, each key named once. One that is there already is written over."""
        at = to_text(self._clock.storage_now())
        for batch in batched(events, MOST_ROWS, strict=False):
            await self._table.transact([Write("put", _row_of(event, at)) for event in batch])

    async def delete_old(self, before: StorageTime) -> int:
        """Delete events that were recorded before a time. Returns how many there were."""
        return await self._table.delete_range(_PARTITION, where=f"at lt '{to_text(before)}'")


def _row_of(event: Event, at: str) -> Row:
    return {
        "PartitionKey": _PARTITION,
        "RowKey": event.key.hex(),
        "digest": event.digest,
        "at": at,
    }
