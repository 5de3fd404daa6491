"""The ledger of one shard: its fence, its parcels, and the changes that dispatch must know of.

Partition `{campaign}:{digit}` of the table `ledger`:

    fence                          which pair and run planned the shard last; whether it is done
    {plan date}|{run}{counter}     a parcel
    change|{storage time}|{id}|{kind}   a person completed, opted out or was left out since planning
    person|{id}                    what is to be remembered of a person (stores/people)

All of them lie in one partition, so that one transaction can write rows and fence together.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import batched
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.errors import NudgeError, Superseded
from shared.rules.guards import ShardCounts
from shared.rules.parcels import SHARDS, Channel, Parcel, State, allow
from shared.stores.table import ETAG, MOST_ROWS, Conflict, Row, Table, Write

if TYPE_CHECKING:
    from shared.clock import Clock

FENCE = "fence"
SETTLED_WITHIN = timedelta(days=9)
"""A row is settled within so many days of its plan date: older ones need no look."""

_NOT_COLUMNS = frozenset({"campaign", "shard", "key", "etag"})
_NOT_IDS = (
    *("PartitionKey", "RowKey", "count"),
    *(name for name in Parcel.__struct_fields__ if name not in _NOT_COLUMNS | {"ids"}),
)
"""All of a parcel's properties but the ids: 16 bytes a person that release has no use for."""

_COUNTED = (
    *("PartitionKey", "RowKey", "count", "state", "touch", "channel", "seed", "canary"),
    *("left_out", "refused", "delivered", "heard", "claimed_at", "touched_at"),
)
"""What pace, guards and alarms ask of parcels that have ended. Of text messages there are as many
as people, and every property of a row takes time to read."""

_CHANGED_BY = "changed_by"
"""Whose change of many rows was the last one of this row: a property that no parcel has."""

_NEVER = "0001-01-01T00:00:00.000000Z"
_NOT_COUNTED: Row = {
    **dict.fromkeys(("sweep", "version", "offset", "length"), 0),
    **dict.fromkeys(("message", "language", "outbox"), ""),
    **dict.fromkeys(("not_before", "not_after", "planned_from"), _NEVER),
    "digest": b"",
}
"""What stands in for those that a parcel cannot be without."""

_KEYS_A_QUERY = 12
"""A filter takes 15 comparisons, and three of them name the partition and the range of keys."""


class Fence(msgspec.Struct, frozen=True, kw_only=True):
    """Who planned a shard last.

    Attributes:
        sweep, version: the pair. `run` is "" where release asks for the shard anew.
        number: of the run's transactions, from 0.
        done: whether planning under the pair ended; then `counts` says what it found.
        moved_at: storage time of its last write.
    """

    sweep: int
    version: int
    run: str
    number: int
    done: bool
    counts: ShardCounts
    moved_at: StorageTime
    etag: str

    @property
    def pair(self) -> tuple[int, int]:
        return self.sweep, self.version


type ChangeKind = Literal["completed", "reported", "opted_out", "no_email", "no_sms", "left_out"]
"""Why dispatch is to look again at a person. It heeds `reported`, a completion that nobody but the
person has seen, less than the others (rules/completion), and `no_…` on that channel only."""

_NO_MORE: dict[Channel, ChangeKind] = {"email": "no_email", "sms": "no_sms"}


def no_more(channel: Channel) -> ChangeKind:
    """The change of somebody who wants nothing more on a channel."""
    return _NO_MORE[channel]


class Changes(msgspec.Struct, frozen=True):
    """Changes of a shard's people, by object id, each with the time of the newest one."""

    left_out: dict[bytes, StorageTime] = {}
    reported: dict[bytes, StorageTime] = {}
    refuses: dict[Channel, dict[bytes, StorageTime]] = {}


class RowsChanged(NudgeError):
    """A transaction failed since one of its rows had been written by someone else."""


class Ledger:
    """Reads and conditional writes of the shards' partitions."""

    def __init__(self, table: Table, clock: Clock) -> None:
        self._table = table
        self._clock = clock

    # fence

    async def read_fence(self, campaign: str, shard: int) -> Fence | None:
        row = await self._table.read(partition_of(campaign, shard), FENCE)
        return _fence_from(row) if row else None

    async def take_fence(
        self,
        campaign: str,
        shard: int,
        seen: Fence | None,
        pair: tuple[int, int],
        run: str,
        began_at: StorageTime,
    ) -> PlanningRun:
        """Begin a run: the fence gets our pair, our run and transaction number 0.

        `began_at` is the storage time at which `seen` was read. Raises Superseded where another
        run wrote the fence since.
        """
        partition = partition_of(campaign, shard)
        row = _fence_row(partition, pair, run, 0, self._clock.storage_now())
        try:
            etag = await self._table.write(
                Write("replace", row, seen.etag) if seen else Write("insert", row)
            )
        except Conflict as conflict:
            fence = await self.read_fence(campaign, shard)
            if fence is None or (fence.run, fence.number) != (run, 0):
                raise Superseded("another run took the fence") from conflict
            etag = fence.etag
        return PlanningRun(self._table, self._clock, campaign, shard, pair, run, began_at, etag)

    async def reopen(self, campaign: str, shard: int, seen: Fence) -> None:
        """Ask for a shard to be planned anew under the pair of its fence. Losing is no harm."""
        row = _fence_row(partition_of(campaign, shard), seen.pair, "", 0, self._clock.storage_now())
        try:
            await self._table.write(Write("replace", row, seen.etag))
        except Conflict:
            return

    # parcels

    async def read(self, campaign: str, shard: int, key: str) -> Parcel | None:
        row = await self._table.read(partition_of(campaign, shard), key)
        return parcel_from(row) if row else None

    async def scan(
        self, campaign: str, shard: int, *, where: str = "", ids: bool = True
    ) -> AsyncIterator[Parcel]:
        """All parcels of the shard, in key order; without their ids where those are not asked for
        (`count` stands in for them)."""
        # Keys of parcels begin with a digit; ":" is the character after "9".
        async for row in self._table.scan(
            partition_of(campaign, shard),
            *("0", ":"),
            where=where,
            select=None if ids else _NOT_IDS,
        ):
            yield parcel_from(row)

    async def scan_recent(self, campaign: str, shard: int) -> AsyncIterator[Parcel]:
        """The parcels of the last days, without their ids (`count` stands in for them): those that
        have ended with what is counted of them alone (`_COUNTED`), the others whole."""
        partition = partition_of(campaign, shard)
        since = f"{self._clock.storage_now() - SETTLED_WITHIN:%Y%m%d}"
        ended = "state eq 'accepted' or state eq 'rejected'"
        is_open = "state ne 'closed' and state ne 'accepted' and state ne 'rejected'"
        still_open: dict[str, Row] = {}
        async for row in self._table.scan(partition, since, ":", where=is_open, select=_NOT_IDS):
            still_open[row["RowKey"]] = row
        async for row in self._table.scan(partition, since, ":", where=ended, select=_COUNTED):
            still_open.pop(row["RowKey"], None)  # where it has ended since
            yield parcel_from(_NOT_COUNTED | row)
        for row in still_open.values():
            yield parcel_from(row)

    async def change(self, parcel: Parcel, **changes: Any) -> Parcel:
        """One conditional write of a parcel under its ETag; raises Conflict."""
        row = {**key_of(parcel), **_encoded(changes)}
        etag = await self._table.write(Write("merge", row, parcel.etag))
        return msgspec.structs.replace(parcel, etag=etag, **changes)

    async def change_many(
        self, parcels: Sequence[Parcel], **changes: Any
    ) -> tuple[list[Parcel], list[Parcel]]:
        """The same change of many parcels of one shard, in transactions of their own.

        A row that someone else wrote is dropped and the rest submitted again: two releasers side
        by side are normal. Returns the parcels that were changed, and those that were not; each row
        is among the former for one caller only, though another wants the very same change of it.
        """
        changed: list[Parcel] = []
        dropped: list[Parcel] = []
        # A write whose answer was lost meets itself, and knows itself by this.
        mark = secrets.token_hex(4)
        encoded = {**_encoded(changes), _CHANGED_BY: mark}
        for start in range(0, len(parcels), MOST_ROWS):
            batch = list(parcels[start : start + MOST_ROWS])
            while batch:
                writes = [Write("merge", {**key_of(p), **encoded}, p.etag) for p in batch]
                try:
                    etags = await self._table.transact(writes)
                    changed += [
                        msgspec.structs.replace(parcel, etag=etag, **changes)
                        for parcel, etag in zip(batch, etags, strict=True)
                    ]
                    break
                except Conflict:
                    # Two releasers that meet in one row mostly meet in many, and a write that met
                    # itself has changed all of them: look at the whole batch.
                    now, marks = await _read_again(self._table, batch)
                again: list[Parcel] = []
                for parcel in batch:
                    found = now.get(parcel.key)
                    ours = marks.get(parcel.key) == mark
                    if found and ours and found == msgspec.structs.replace(found, **changes):
                        changed.append(found)
                    elif found and found.etag == parcel.etag:
                        again.append(parcel)
                    else:
                        dropped.append(parcel)
                batch = again
        return changed, dropped

    async def read_some(
        self, campaign: str, shard: int, keys: Iterable[str], *, ids: bool = True
    ) -> dict[str, Parcel]:
        """These parcels of one shard, by key, without those that there are not; without their ids
        where those are not asked for (`count` stands in for them)."""
        partition = partition_of(campaign, shard)
        found: dict[str, Parcel] = {}

        async def read(some: Sequence[str]) -> None:
            async for row in self._table.scan(
                partition,
                *_around(some),
                where=" or ".join(f"RowKey eq '{key}'" for key in some),
                select=None if ids else _NOT_IDS,
            ):
                found[row["RowKey"]] = parcel_from(row)

        await asyncio.gather(*map(read, batched(sorted(keys), _KEYS_A_QUERY, strict=False)))
        return found

    async def change_each(
        self, changes: Sequence[tuple[Parcel, dict[str, Any]]]
    ) -> tuple[list[Parcel], list[Parcel]]:
        """Changes of parcels of one shard, each its own, in transactions: all of one or none.

        Returns the parcels that were changed, as they are then, and those of transactions that met
        a row which someone else had written.
        """
        changed: list[Parcel] = []
        conflicted: list[Parcel] = []
        for batch in batched(changes, MOST_ROWS, strict=False):
            writes = [
                Write("merge", {**key_of(parcel), **_encoded(change)}, parcel.etag)
                for parcel, change in batch
            ]
            try:
                if len(writes) == 1:  # as of a text message; a transaction takes twice as long
                    etags = [await self._table.write(writes[0])]
                else:
                    etags = await self._table.transact(writes)
            except Conflict:
                conflicted += [parcel for parcel, _ in batch]
            else:
                changed += [
                    msgspec.structs.replace(parcel, etag=etag, **change)
                    for (parcel, change), etag in zip(batch, etags, strict=True)
                ]
        return changed, conflicted

    async def split(self, parent: Parcel, children: Sequence[Parcel]) -> None:
        """Close a parcel and put its children in its place, in one transaction; raises Conflict."""
        closed = {**key_of(parent), **_encoded({"state": State.CLOSED, "reason": "split"})}
        await self._table.transact(
            [
                Write("merge", closed, parent.etag),
                *(Write("insert", row_from(child)) for child in children),
            ]
        )

    # changes

    async def read_changes(self, campaign: str, shard: int, since: StorageTime) -> Changes:
        """Who completed, says so, opted out or was left out since then."""
        by_kind: dict[str, dict[bytes, StorageTime]] = {}
        async for row in self._table.scan(
            partition_of(campaign, shard),
            f"change|{to_text(since)}",
            "change}",
            select=("RowKey",),
        ):
            _, at, person, kind = row["RowKey"].split("|")
            group = kind if kind == "reported" or kind in _NO_MORE.values() else "left_out"
            times = by_kind.setdefault(group, {})
            times[bytes.fromhex(person)] = StorageTime(from_text(at))
        return Changes(
            by_kind.get("left_out", {}),
            by_kind.get("reported", {}),
            {channel: by_kind[kind] for channel, kind in _NO_MORE.items() if kind in by_kind},
        )

    # what has expired

    async def delete_changes(self, campaign: str, shard: int, before: StorageTime) -> int:
        """Delete changes made before a time. Returns how many there were."""
        high = f"change|{to_text(before)}"
        return await self._table.delete_range(partition_of(campaign, shard), "change|", high)

    async def delete_campaign(self, campaign: str) -> int:
        """Delete all that the ledger knows of a campaign. Returns how many rows there were."""
        partitions = [partition_of(campaign, shard) for shard in range(len(SHARDS))]
        return sum([await self._table.delete_range(partition) for partition in partitions])


class PlanningRun:
    """One run that plans one shard, and its hold on the fence.

    Every transaction replaces the fence under its ETag, with the next number. Once another run has
    written the fence, no write of this one can land: that is what makes one writer per shard.
    """

    def __init__(
        self,
        table: Table,
        clock: Clock,
        campaign: str,
        shard: int,
        pair: tuple[int, int],
        run: str,
        began_at: StorageTime,
        etag: str,
    ) -> None:
        self._table = table
        self._clock = clock
        self.campaign = campaign
        self.shard = shard
        self.pair = pair
        self.run = run
        self.began_at = began_at
        self._partition = partition_of(campaign, shard)
        self._etag = etag
        self._number = 0
        self._moved_at = clock.storage_now()

    async def refresh(self) -> None:
        """Show that the run is alive, where its last write is a while ago."""
        rested = (self._clock.storage_now() - self._moved_at).total_seconds()
        if rested >= self._clock.ages.fence_refresh / 2:
            await self._write([])

    async def take_back(self, parcels: Iterable[Parcel], reason: str = "replanned") -> list[Parcel]:
        """Close planned parcels for a reason. Returns those that stayed, as they are now.

        A row that was claimed or closed meanwhile stays; one that is planned is closed, whatever
        else was written to it, and so are the parts of one that was split.
        """
        stayed: list[Parcel] = []
        closing = _encoded({"state": State.CLOSED, "reason": reason})
        waiting = list(parcels)
        while waiting:
            batch, waiting = waiting[:MOST_ROWS], waiting[MOST_ROWS:]
            for parcel in batch:
                allow(parcel.state, State.CLOSED, "planner", reason=reason, doubt=parcel.doubt)
            try:
                await self._write([Write("merge", {**key_of(p), **closing}, p.etag) for p in batch])
            except RowsChanged:
                seen, _ = await _read_again(self._table, batch)
                for whole in seen.values():
                    for parcel in await self._read_parts(whole):
                        planned = parcel.state is State.PLANNED and not parcel.doubt
                        (waiting if planned else stayed).append(parcel)
        return stayed

    async def _read_parts(self, parcel: Parcel) -> list[Parcel]:
        """A parcel, or the parts that it was split into since it was seen whole: their keys follow
        its own, and the scan that saw it has passed them by."""
        if parcel.reason != "split":
            return [parcel]
        parts: list[Parcel] = []
        for suffix in "ab":
            row = await self._table.read(self._partition, parcel.key + suffix)
            parts += await self._read_parts(parcel_from(row)) if row else []
        return parts

    async def plan(self, parcels: Sequence[Parcel]) -> None:
        """Write new rows. They cannot be released before the fence says done."""
        for start in range(0, len(parcels), MOST_ROWS):
            await self._write(
                [Write("insert", row_from(p)) for p in parcels[start : start + MOST_ROWS]]
            )

    async def note_changes(self, people: Sequence[bytes]) -> None:
        """Tell dispatch that these people are to be left out of rows that survived planning."""
        at = to_text(self._clock.storage_now())
        for start in range(0, len(people), MOST_ROWS):
            await self._write(
                [
                    Write("put", change_row(self._partition, at, person, "left_out"))
                    for person in people[start : start + MOST_ROWS]
                ]
            )

    async def finish(self, counts: ShardCounts) -> None:
        """The last transaction: the shard is done under the pair."""
        await self._write([], done=True, counts=counts)

    async def _write(
        self, writes: list[Write], *, done: bool = False, counts: ShardCounts | None = None
    ) -> None:
        number = self._number + 1
        now = self._clock.storage_now()
        fence = _fence_row(self._partition, self.pair, self.run, number, now, done, counts)
        try:
            etags = await self._table.transact([Write("replace", fence, self._etag), *writes])
            self._etag = etags[0]
        except Conflict as conflict:
            row = await self._table.read(self._partition, FENCE)
            found = _fence_from(row) if row else None
            if found is None or found.run != self.run:
                raise Superseded("another run took the fence") from conflict
            self._etag = found.etag
            if found.number != number:
                raise RowsChanged("a row of the transaction was changed") from conflict
        self._number = number
        self._moved_at = now


async def _read_again(
    table: Table, parcels: Sequence[Parcel]
) -> tuple[dict[str, Parcel], dict[str, str]]:
    """These parcels of one shard as they are now, by key, without those that are gone; and the
    mark of the call of `change_many` that each was changed by last, where there is one."""
    known = {parcel.key: parcel for parcel in parcels}
    partition = partition_of(parcels[0].campaign, parcels[0].shard)
    found: dict[str, Parcel] = {}
    marks: dict[str, str] = {}
    async for row in table.scan(partition, *_around(known), select=(*_NOT_IDS, _CHANGED_BY)):
        if (key := row["RowKey"]) in known:
            found[key] = msgspec.structs.replace(parcel_from(row), ids=known[key].ids)
            marks[key] = row.get(_CHANGED_BY) or ""
    return found, marks


def _around(keys: Collection[str]) -> tuple[str, str]:
    """The range of keys from the first of these to the last one."""
    # "!" stands before all that keys hold: the range ends right after the last one.
    return min(keys), f"{max(keys)}!"


def partition_of(campaign: str, shard: int) -> str:
    return f"{campaign}:{SHARDS[shard]}"


def to_text(time: datetime) -> str:
    """A time as the ledger keeps it: UTC, microseconds, sorts as text."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    return datetime.fromisoformat(text)


def key_of(parcel: Parcel) -> Row:
    return {"PartitionKey": partition_of(parcel.campaign, parcel.shard), "RowKey": parcel.key}


def change_row(partition: str, at: str, person: bytes, kind: ChangeKind) -> Row:
    return {"PartitionKey": partition, "RowKey": f"change|{at}|{person.hex()}|{kind}"}


def row_from(parcel: Parcel) -> Row:
    """A parcel as a table row; what has no value yet is left out."""
    fields = {
        name: value
        for name in parcel.__struct_fields__
        if name not in _NOT_COLUMNS and (value := getattr(parcel, name)) not in (None, "", b"")
    }
    return {**key_of(parcel), **_encoded(fields), "count": parcel.count}


def parcel_from(row: Row) -> Parcel:
    """A table row as a parcel. Without ids (see scan_recent) `ids` is zeros of the right length."""
    campaign, _, digit = row["PartitionKey"].rpartition(":")
    return Parcel(
        campaign=campaign,
        shard=int(digit, 16),
        key=row["RowKey"],
        etag=row[ETAG],
        state=State(row["state"]),
        reason=row.get("reason") or "",
        sweep=row["sweep"],
        version=row["version"],
        touch=row["touch"],
        channel=row["channel"],
        message=row["message"],
        language=row["language"],
        domain=row.get("domain") or "",
        canary=bool(row.get("canary")),
        seed=bool(row.get("seed")),
        ids=row.get("ids") or bytes(16 * row["count"]),
        left_out=row.get("left_out") or b"",
        refused=row.get("refused") or b"",
        delivered=row.get("delivered") or b"",
        heard=bool(row.get("heard")),
        not_before=CampaignTime(from_text(row["not_before"])),
        not_after=CampaignTime(from_text(row["not_after"])),
        planned_from=StorageTime(from_text(row["planned_from"])),
        outbox=row["outbox"],
        offset=row["offset"],
        length=row["length"],
        digest=row["digest"],
        released_at=_storage_time(row.get("released_at")),
        retry_at=_storage_time(row.get("retry_at")),
        attempt=row.get("attempt") or "",
        claimed_at=_storage_time(row.get("claimed_at")),
        touched_at=CampaignTime(from_text(at)) if (at := row.get("touched_at")) else None,
        doubt=bool(row.get("doubt")),
        resent=bool(row.get("resent")),
        faults=row.get("faults") or 0,
        final=bool(row.get("final")),
        trace=row.get("trace") or b"",
    )


def _storage_time(text: str | None) -> StorageTime | None:
    return StorageTime(from_text(text)) if text else None


def _encoded(fields: dict[str, Any]) -> Row:
    """Values as the table keeps them. A merge cannot unset a property: None becomes ""."""
    row: Row = {}
    for name, value in fields.items():
        if isinstance(value, datetime):
            row[name] = to_text(value)
        elif isinstance(value, State):
            row[name] = value.value
        else:
            row[name] = "" if value is None else value
    return row


def _fence_row(
    partition: str,
    pair: tuple[int, int],
    run: str,
    number: int,
    moved_at: StorageTime,
    done: bool = False,
    counts: ShardCounts | None = None,
) -> Row:
    return {
        "PartitionKey": partition,
        "RowKey": FENCE,
        "sweep": pair[0],
        "version": pair[1],
        "run": run,
        "number": number,
        "done": done,
        "counts": msgspec.json.encode(counts or ShardCounts()).decode(),
        "moved_at": to_text(moved_at),
    }


def _fence_from(row: Row) -> Fence:
    return Fence(
        sweep=row["sweep"],
        version=row["version"],
        run=row["run"],
        number=row["number"],
        done=row["done"],
        counts=msgspec.json.decode(row["counts"], type=ShardCounts),
        moved_at=StorageTime(from_text(row["moved_at"])),
        etag=row[ETAG],
    )
