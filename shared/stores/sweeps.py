"""The record of sweeps: one is under way at most, and every change of it is one conditional write.

Partition `sweep` of the table `control`:

    head          number and state of the newest sweep, number of the last committed one
    {number:08d}  one sweep: its passes with their runs, and how it ended

Opening, commit and abandonment write both rows in one transaction under the head's ETag.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.stores.parcels import from_text, to_text
from shared.stores.table import ETAG, Conflict, Row, Table, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shared.clock import Clock

PARTITION = "sweep"
HEAD = "head"
MOST_RUNS = 3
"""Tries at one pass within a sweep."""

type Ended = Literal["committed", "abandoned"]


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """One list that the sweep reads.

    Attributes:
        source: name of the list (see services/directory); `query` is its group id or filter.
        run: the try under way, 1 to 3. `pages` is its number of pages, known at commit.
        asked_at: storage time from which a message for it may be on its way.
    """

    source: str
    query: str
    run: int = 1
    pages: int = 0
    asked_at: StorageTime


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of the directory.

    Attributes:
        opened_at, ended_at: storage time; `seen_at` is the campaign time of the opening, which is
            what the age of a sweep is counted from.
        reason: why it was abandoned.
        trace: the span that opened it, which those of its passes and plans belong to
            (`telemetry.current_trace`); b"" where that was not exported.
    """

    number: int
    state: Literal["open", "committed", "abandoned"]
    passes: tuple[Pass, ...]
    opened_at: StorageTime
    seen_at: CampaignTime
    ended_at: StorageTime | None = None
    reason: str = ""
    trace: bytes = b""
    etag: str = ""

    def find(self, source: str) -> Pass | None:
        return next((one for one in self.passes if one.source == source), None)


class Head(msgspec.Struct, frozen=True):
    """The newest sweep and the last committed one, by number; 0 where there is none."""

    number: int
    open: bool
    committed: int
    etag: str


_PASSES = msgspec.json.Decoder(tuple[Pass, ...])


class Sweeps:
    """Reads and conditional writes of sweeps."""

    def __init__(self, table: Table, clock: Clock) -> None:
        self._table = table
        self._clock = clock

    async def read_head(self) -> Head:
        row = await self._table.read(PARTITION, HEAD)
        if row is None:
            return Head(0, False, 0, "")
        return Head(row["number"], row["open"], row["committed"], row[ETAG])

    async def read(self, number: int) -> Sweep | None:
        row = await self._table.read(PARTITION, _key(number))
        return _sweep_from(row) if row else None

    async def read_committed(self) -> Sweep | None:
        head = await self.read_head()
        return await self.read(head.committed) if head.committed else None

    async def open(
        self, passes: Sequence[tuple[str, str]], *, above: int = 0, trace: bytes = b""
    ) -> Sweep | None:
        """Open the next sweep with these (source, query). None where one is under way already.

        Its number is greater than `above`, too.
        """
        head = await self.read_head()
        if head.open:
            return None
        now = self._clock.storage_now()
        sweep = Sweep(
            number=max(head.number, above) + 1,
            state="open",
            passes=tuple(Pass(source=s, query=q, asked_at=now) for s, q in passes),
            opened_at=now,
            seen_at=self._clock.campaign_now(),
            trace=trace,
        )
        with suppress(Conflict):
            await self._write(sweep, head, committed=head.committed)
        # After a conflict, too: the write may have met itself.
        found = await self.read(sweep.number)
        return found if found and found.opened_at == now else None

    async def change_pass(
        self, number: int, source: str, change: Callable[[Pass], Pass | None]
    ) -> Pass | None:
        """Apply a pure function to a pass of an open sweep, again if the sweep changed meanwhile.

        `change` returns None where nothing is to be done. Returns the pass as it was written, None
        where nothing was.
        """
        written: Pass | None = None
        while True:
            sweep = await self.read(number)
            one = sweep.find(source) if sweep and sweep.state == "open" else None
            if sweep is None or one is None:
                return None
            if one == written:
                return one  # the write that met a conflict had met itself
            written = change(one)
            if written is None:
                return None
            passes = tuple(written if other is one else other for other in sweep.passes)
            fresh = msgspec.structs.replace(sweep, passes=passes)
            try:
                await self._table.write(Write("replace", _row_from(fresh), sweep.etag))
            except Conflict:
                continue
            return written

    async def commit(self, sweep: Sweep, pages: dict[str, int]) -> bool:
        """End an open sweep as committed, with the page count of every pass, by one write.

        Returns whether it was this call that did. Where it wasn't, the sweep was written since it
        was read: read it again.
        """
        passes = tuple(
            msgspec.structs.replace(one, pages=pages[one.source]) for one in sweep.passes
        )
        return await self._end(msgspec.structs.replace(sweep, passes=passes), "committed", "")

    async def abandon(self, number: int, reason: str) -> bool:
        """End a sweep with nothing to show for it. Returns whether it was this call that did."""
        while (sweep := await self.read(number)) and sweep.state == "open":
            if await self._end(sweep, "abandoned", reason):
                return True
        return False

    async def _end(self, sweep: Sweep, ended: Ended, reason: str) -> bool:
        head = await self.read_head()
        if not head.open or head.number != sweep.number:
            return False
        fresh = msgspec.structs.replace(
            sweep, state=ended, reason=reason, ended_at=self._clock.storage_now()
        )
        committed = sweep.number if ended == "committed" else head.committed
        try:
            await self._write(fresh, head, committed=committed)
        except Conflict:
            # Someone else was first, or the write has met itself.
            found = await self.read(sweep.number)
            return found is not None and found.ended_at == fresh.ended_at
        return True

    async def _write(self, sweep: Sweep, head: Head, *, committed: int) -> None:
        head_row: Row = {
            "PartitionKey": PARTITION,
            "RowKey": HEAD,
            "number": sweep.number,
            "open": sweep.state == "open",
            "committed": committed,
        }
        row = _row_from(sweep)
        await self._table.transact(
            [
                Write("replace", head_row, head.etag) if head.etag else Write("insert", head_row),
                Write("replace", row, sweep.etag) if sweep.etag else Write("insert", row),
            ]
        )


def _key(number: int) -> str:
    return f"{number:08d}"


def _row_from(sweep: Sweep) -> Row:
    return {
        "PartitionKey": PARTITION,
        "RowKey": _key(sweep.number),
        "state": sweep.state,
        "passes": msgspec.json.encode(sweep.passes).decode(),
        "opened_at": to_text(sweep.opened_at),
        "seen_at": to_text(sweep.seen_at),
        "ended_at": to_text(sweep.ended_at) if sweep.ended_at else "",
        "reason": sweep.reason,
        "trace": sweep.trace,
    }


def _sweep_from(row: Row) -> Sweep:
    return Sweep(
        number=int(row["RowKey"]),
        state=row["state"],
        passes=_PASSES.decode(row["passes"]),
        opened_at=StorageTime(from_text(row["opened_at"])),
        seen_at=CampaignTime(from_text(row["seen_at"])),
        ended_at=StorageTime(from_text(row["ended_at"])) if row["ended_at"] else None,
        reason=row["reason"],
        trace=row.get("trace") or b"",
        etag=row[ETAG],
    )
