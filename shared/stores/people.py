"""What is remembered of a person, by object id, in their shard of every campaign that needs it.

Row `person|{id}` of the ledger; few people have one. Whoever adds to it adds properties of its own,
so that nobody overwrites what another has written:

    bad_{hash}                an address that did not work, as a keyed hash in hexadecimal
    opted_out_at              asked for no more reminders
    no_email_at, no_sms_at    asked the provider of one channel for no more
    reported_at               says that they have registered
    confirmed_at, evidence    is known to have registered, and by what
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import batched
from typing import TYPE_CHECKING

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.completion import CompletionKind
from shared.rules.parcels import CHANNELS, Channel
from shared.stores.parcels import (
    ChangeKind,
    change_row,
    from_text,
    no_more,
    partition_of,
    to_text,
)
from shared.stores.table import MOST_ROWS, Row, Table, Write

if TYPE_CHECKING:
    from shared.clock import Clock

_BAD = "bad_"
_PEOPLE_A_TRANSACTION = MOST_ROWS // 2
"""Each has two rows in it: their own, and the change that tells dispatch."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """One person's row. `bad` holds keyed hashes; what never happened is None. `opted_out_at` is
    of all channels, `refuses` of single ones."""

    bad: frozenset[bytes] = frozenset()
    opted_out_at: StorageTime | None = None
    refuses: frozenset[Channel] = frozenset()
    reported_at: StorageTime | None = None
    confirmed_at: CampaignTime | None = None
    evidence: str = ""

    def opted_out(self, channel: Channel) -> bool:
        """Whether they want nothing more on this channel."""
        return self.opted_out_at is not None or channel in self.refuses

    def beside(self, other: Person, *, completions: bool) -> Person:
        """What is known together with what another campaign knows; of that campaign's confirmed
        completions only where they prove what this one asks for (`completions`)."""
        return msgspec.structs.replace(
            self,
            bad=self.bad | other.bad,
            opted_out_at=_later(self.opted_out_at, other.opted_out_at),
            refuses=self.refuses | other.refuses,
            reported_at=_later(self.reported_at, other.reported_at),
            confirmed_at=_later(self.confirmed_at, other.confirmed_at if completions else None),
        )


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
        self, campaign: str, shard: int, people: Mapping[bytes, str], kind: CompletionKind
    ) -> None:
        """Remember that these people have registered, each with the evidence, or say so."""
        if kind == "confirmed":
            at = to_text(self._clock.campaign_now())
            facts = {who: {"confirmed_at": at, "evidence": why} for who, why in people.items()}
            await self._remember(campaign, shard, facts, "completed")
        else:
            at = to_text(self._clock.storage_now())
            await self._remember(
                campaign, shard, {who: {"reported_at": at} for who in people}, "reported"
            )

    async def remember_opted_out(
        self, campaign: str, shard: int, people: Iterable[bytes], channel: Channel | None = None
    ) -> None:
        """Remember that people asked for no more reminders, on one channel or on any."""
        at = to_text(self._clock.storage_now())
        name: str = f"no_{channel}_at" if channel else "opted_out_at"
        kind: ChangeKind = no_more(channel) if channel else "opted_out"
        partition = partition_of(campaign, shard)
        fresh: dict[bytes, dict[str, str]] = {}
        for who in people:  # providers tell such things again and again
            key = _key_of(who)
            # By a query, not by its key: that would stand in a URL, and the SDK logs those.
            rows = [row async for row in self._table.scan(partition, key, f"{key}!")]
            if not any(name in row for row in rows):
                fresh[who] = {name: at}
        await self._remember(campaign, shard, fresh, kind)

    async def _remember(
        self,
        campaign: str,
        shard: int,
        facts: Mapping[bytes, dict[str, str]],
        change: ChangeKind,
    ) -> None:
        """Facts and the change that makes dispatch heed them, in one transaction: whoever reads
        the one without the other would plan for somebody, or leave out somebody, for no reason.

        Whatever is there stays beside the facts, and the same once more does no harm.
        """
        partition = partition_of(campaign, shard)
        at = to_text(self._clock.storage_now())
        for batch in batched(facts.items(), _PEOPLE_A_TRANSACTION, strict=False):
            writes: list[Write] = []
            for person, known in batch:
                row = {"PartitionKey": partition, "RowKey": _key_of(person), **known}
                writes.append(Write("set", row))
                writes.append(Write("put", change_row(partition, at, person, change)))
            await self._table.transact(writes)

    async def remember_bad(
        self, campaign: str, shard: int, hashes: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Remember that addresses did not work: pairs of object id and keyed hash."""
        facts: dict[bytes, dict[str, bool]] = {}
        for person, address in hashes:
            facts.setdefault(person, {})[f"{_BAD}{address.hex()}"] = True
        partition = partition_of(campaign, shard)
        for batch in batched(facts.items(), MOST_ROWS, strict=False):
            # Each hash is a property of its own: whoever adds one need not read the others.
            rows: list[Row] = [
                {"PartitionKey": partition, "RowKey": _key_of(person), **known}
                for person, known in batch
            ]
            await self._table.transact([Write("set", row) for row in rows])


def _later[Time: datetime](one: Time | None, other: Time | None) -> Time | None:
    return max((time for time in (one, other) if time is not None), default=None)


def _key_of(person: bytes) -> str:
    return f"person|{person.hex()}"


def _person_from(row: Row) -> Person:
    opted_out, reported, confirmed = (
        from_text(at) if (at := row.get(name)) else None
        for name in ("opted_out_at", "reported_at", "confirmed_at")
    )
    return Person(
        bad=frozenset(
            bytes.fromhex(name.removeprefix(_BAD)) for name in row if name.startswith(_BAD)
        ),
        opted_out_at=opted_out and StorageTime(opted_out),
        refuses=frozenset(channel for channel in CHANNELS if row.get(f"no_{channel}_at")),
        reported_at=reported and StorageTime(reported),
        confirmed_at=confirmed and CampaignTime(confirmed),
        evidence=row.get("evidence") or "",
    )
