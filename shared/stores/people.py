"""What is remembered of a person, by object id, in their shard of every campaign that needs it.

Row `person|{id}` of the ledger; few people have one. Whoever adds to it adds properties of its own,
so that nobody overwrites what another has written:

    bad                       addresses that did not work, as keyed hashes
    opted_out_at              asked for no more reminders
    reported_at               says that they have registered
    confirmed_at, evidence    is known to have registered, and by what
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.completion import CompletionKind
from shared.stores.parcels import ChangeKind, change_row, from_text, partition_of, to_text
from shared.stores.table import ETAG, MOST_ROWS, Conflict, Row, Table, Write

if TYPE_CHECKING:
    from shared.clock import Clock

HASH_BYTES = 16
_PEOPLE_A_TRANSACTION = MOST_ROWS // 2
"""Each has two rows in it: their own, and the change that tells dispatch."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """One person's row. `bad` holds keyed hashes; what never happened is None."""

    bad: frozenset[bytes] = frozenset()
    opted_out_at: StorageTime | None = None
    reported_at: StorageTime | None = None
    confirmed_at: CampaignTime | None = None
    evidence: str = ""
    etag: str = ""


NOBODY = Person()


class People:
    """Reads and writes of people's rows."""

    def __init__(self, table: Table, clock: Clock) -> None:
        self._table = table
        self._clock = clock

    async def read_shard(self, campaign: str, shard: int) -> dict[bytes, Person]:
        """Everybody of the shard of whom something is remembered."""
        rows = self._table.scan(partition_of(campaign, shard), "person|", "person}")
        return {
            bytes.fromhex(row["RowKey"].partition("|")[2]): _person_from(row) async for row in rows
        }

    async def remember_completed(
        self,
        campaign: str,
        shard: int,
        people: Sequence[bytes],
        kind: CompletionKind,
        evidence: str,
    ) -> None:
        """Remember that these people, each named once, have registered or say so."""
        if kind == "confirmed":
            facts = {"confirmed_at": to_text(self._clock.campaign_now()), "evidence": evidence}
            await self._remember(campaign, shard, people, facts, "completed")
        else:
            facts = {"reported_at": to_text(self._clock.storage_now())}
            await self._remember(campaign, shard, people, facts, "reported")

    async def remember_opted_out(self, campaign: str, shard: int, person: bytes) -> None:
        """Remember that a person asked for no more reminders."""
        facts = {"opted_out_at": to_text(self._clock.storage_now())}
        await self._remember(campaign, shard, [person], facts, "opted_out")

    async def _remember(
        self,
        campaign: str,
        shard: int,
        people: Sequence[bytes],
        facts: dict[str, str],
        change: ChangeKind,
    ) -> None:
        """Facts and the change that makes dispatch heed them, in one transaction: whoever reads
        the one without the other would plan for somebody, or leave out somebody, for no reason.

        Whatever is there stays beside the facts, and the same once more does no harm.
        """
        partition = partition_of(campaign, shard)
        at = to_text(self._clock.storage_now())
        for start in range(0, len(people), _PEOPLE_A_TRANSACTION):
            writes: list[Write] = []
            for person in people[start : start + _PEOPLE_A_TRANSACTION]:
                row = {"PartitionKey": partition, "RowKey": _key_of(person), **facts}
                writes.append(Write("set", row))
                writes.append(Write("put", change_row(partition, at, person, change)))
            await self._table.transact(writes)

    async def remember_bad(
        self, campaign: str, shard: int, hashes: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Remember that an address of a person did not work: pairs of object id and keyed hash."""
        for person, address in hashes:
            await self._remember_bad(partition_of(campaign, shard), person, address)

    async def _remember_bad(self, partition: str, person: bytes, address: bytes) -> None:
        key = _key_of(person)
        while True:
            row = await self._table.read(partition, key)
            known = _person_from(row) if row else NOBODY
            if address in known.bad:
                return
            fresh: Row = {
                "PartitionKey": partition,
                "RowKey": key,
                "bad": b"".join(sorted(known.bad | {address})),
            }
            try:
                await self._table.write(
                    Write("merge", fresh, known.etag) if known.etag else Write("insert", fresh)
                )
            except Conflict:
                continue
            return


def _key_of(person: bytes) -> str:
    return f"person|{person.hex()}"


def _person_from(row: Row) -> Person:
    joined: bytes = row.get("bad") or b""
    hashes = (joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES))
    opted_out, reported, confirmed = (
        from_text(at) if (at := row.get(name)) else None
        for name in ("opted_out_at", "reported_at", "confirmed_at")
    )
    return Person(
        bad=frozenset(hashes),
        opted_out_at=opted_out and StorageTime(opted_out),
        reported_at=reported and StorageTime(reported),
        confirmed_at=confirmed and CampaignTime(confirmed),
        evidence=row.get("evidence") or "",
        etag=row[ETAG],
    )
