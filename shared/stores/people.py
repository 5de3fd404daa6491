"""What is remembered of a person, by object id, in their shard of every campaign that needs it.

For now: the addresses of theirs that a provider refused, as keyed hashes. Row `person|{id}` of the
ledger; few people have one.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shared.stores.parcels import partition_of
from shared.stores.table import ETAG, Conflict, Row, Table, Write

HASH_BYTES = 16


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """One person's row. `bad` holds keyed hashes of addresses that did not work."""

    bad: frozenset[bytes] = frozenset()
    etag: str = ""


NOBODY = Person()


class People:
    """Reads and conditional writes of people's rows."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def read_shard(self, campaign: str, shard: int) -> dict[bytes, Person]:
        """Everybody of the shard of whom something is remembered."""
        rows = self._table.scan(partition_of(campaign, shard), "person|", "person}")
        return {
            bytes.fromhex(row["RowKey"].partition("|")[2]): _person_from(row) async for row in rows
        }

    async def remember_bad(
        self, campaign: str, shard: int, hashes: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Remember that an address of a person did not work: pairs of object id and keyed hash."""
        for person, address in hashes:
            await self._remember(partition_of(campaign, shard), person, address)

    async def _remember(self, partition: str, person: bytes, address: bytes) -> None:
        key = f"person|{person.hex()}"
        while True:
            row = await self._table.read(partition, key)
            known = _person_from(row) if row else NOBODY
            if address in known.bad:
                return
            fresh: Row = {
                **(row or {"PartitionKey": partition, "RowKey": key}),
                "bad": b"".join(sorted(known.bad | {address})),
            }
            try:
                await self._table.write(
                    Write("replace", fresh, known.etag) if known.etag else Write("insert", fresh)
                )
            except Conflict:
                continue
            return


def _person_from(row: Row) -> Person:
    joined: bytes = row.get("bad") or b""
    hashes = (joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES))
    return Person(bad=frozenset(hashes), etag=row[ETAG])
