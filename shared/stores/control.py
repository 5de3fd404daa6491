"""What steers a campaign's sending: its channels' control rows, and the verdicts.

Partition `{campaign}` of the table `control`:

    channel|{channel}                   pause reasons, retry_at, rate tokens
    verdict|{sweep:08d}|{version:06d}   the guards' answer for a pair
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from shared.clock import StorageTime
from shared.rules.guards import Verdict
from shared.rules.pace import Bucket
from shared.stores.table import ETAG, Conflict, Row, Table, Write

if TYPE_CHECKING:
    from shared.clock import Clock

type PauseReason = Literal["setup", "ambiguity", "bounces", "canary", "administrator"]

PASSED = "passed"
"""Of a canary: enough of it was delivered, or an administrator said so."""


class Pause(msgspec.Struct, frozen=True):
    """Why a channel is paused: what happened or what to do, since when (storage time), by whom;
    of a canary, the touches that it was sent for."""

    text: str
    since: StorageTime
    by: str = ""
    of: tuple[str, ...] = ()


class ControlRow(msgspec.Struct, frozen=True, kw_only=True):
    """The control row of one channel.

    Attributes:
        pauses: by reason; the channel is paused while there is one.
        retry_at: from a provider's Retry-After.
        resumed_at: rows released before this may be handed out again at once: their messages were
            dropped, or will be by their ETag.
        forgiven_at: doubts and bounces of calls from before this pause nothing.
        buckets: tokens of the hourly limits: "" is the channel's own, the others are domains'.
        live_days: days of the campaign's zone on which something was handed out in live mode, but
            for those on which nothing left after all (`find_idle_days`).
        canaries: touches whose canary has passed.
        looked_back: touches, each with its day, that were looked back at when that was over.
        probe_at: when a parcel was last let through a set-up fault.
    """

    pauses: dict[str, Pause] = {}
    retry_at: StorageTime | None = None
    resumed_at: StorageTime | None = None
    forgiven_at: StorageTime | None = None
    buckets: dict[str, Bucket] = {}
    live_days: tuple[str, ...] = ()
    canaries: dict[str, str] = {}
    looked_back: tuple[str, ...] = ()
    probe_at: StorageTime | None = None
    etag: str = ""


class Control:
    """Reads and conditional writes of control rows and verdicts."""

    def __init__(self, table: Table, clock: Clock) -> None:
        self._table = table
        self._clock = clock

    async def read(self, campaign: str, channel: str) -> ControlRow:
        row = await self._table.read(campaign, f"channel|{channel}")
        if row is None:
            return ControlRow()
        control = msgspec.json.decode(row["control"], type=ControlRow)
        return msgspec.structs.replace(control, etag=row[ETAG])

    async def change(
        self, campaign: str, channel: str, change: Callable[[ControlRow], ControlRow | None]
    ) -> ControlRow:
        """Apply a pure function to the row, again if someone else wrote it in between.

        `change` returns None where nothing is to be done. Returns the row as it is then.
        """
        control = await self.read(campaign, channel)
        while (fresh := change(control)) is not None:
            fresh = msgspec.structs.replace(fresh, etag="")
            row: Row = {
                "PartitionKey": campaign,
                "RowKey": f"channel|{channel}",
                "control": msgspec.json.encode(fresh).decode(),
            }
            write = Write("replace", row, control.etag) if control.etag else Write("insert", row)
            try:
                return msgspec.structs.replace(fresh, etag=await self._table.write(write))
            except Conflict:
                control = await self.read(campaign, channel)
                if msgspec.structs.replace(control, etag="") == fresh:
                    return control  # our own write, that met itself
        return control

    async def pause(
        self,
        campaign: str,
        channel: str,
        reason: PauseReason,
        text: str,
        *,
        by: str = "",
        of: tuple[str, ...] = (),
    ) -> bool:
        """Pause a channel for a reason; the first text of a reason stands.

        Returns whether this is the call that paused it.
        """
        pause = Pause(text, self._clock.storage_now(), by, of)
        row = await self.change(
            campaign,
            channel,
            lambda row: (
                None
                if reason in row.pauses
                else msgspec.structs.replace(row, pauses={**row.pauses, reason: pause})
            ),
        )
        return row.pauses[reason] == pause

    async def lift(self, campaign: str, channel: str, reasons: set[str] | None = None) -> list[str]:
        """End pauses (all of them, without `reasons`). Returns which there were."""
        lifted: list[str] = []
        now = self._clock.storage_now()

        def without(row: ControlRow) -> ControlRow | None:
            lifted[:] = [one for one in row.pauses if reasons is None or one in reasons]
            if not lifted:
                return None
            kept = {name: pause for name, pause in row.pauses.items() if name not in lifted}
            forgiven_at = now if {"ambiguity", "bounces"} & set(lifted) else row.forgiven_at
            passed = dict.fromkeys(row.pauses["canary"].of, PASSED) if "canary" in lifted else {}
            return msgspec.structs.replace(
                row,
                pauses=kept,
                resumed_at=now,
                forgiven_at=forgiven_at,
                canaries={**row.canaries, **passed},
            )

        await self.change(campaign, channel, without)
        return lifted

    async def hold_until(self, campaign: str, channel: str, retry_at: StorageTime) -> None:
        """Nothing of the channel before then; a later time stands."""
        await self.change(
            campaign,
            channel,
            lambda row: (
                None
                if row.retry_at and row.retry_at >= retry_at
                else msgspec.structs.replace(row, retry_at=retry_at)
            ),
        )

    # verdicts

    async def read_verdict(self, campaign: str, pair: tuple[int, int]) -> Verdict | None:
        row = await self._table.read(campaign, _verdict_key(pair))
        return _verdict_from(row) if row else None

    async def read_last_go(self, campaign: str, before: tuple[int, int]) -> Verdict | None:
        """The newest verdict below a pair that was `go`."""
        newest: Verdict | None = None
        async for row in self._table.scan(campaign, "verdict|", _verdict_key(before)):
            if (verdict := _verdict_from(row)).go:
                newest = verdict
        return newest

    async def write_verdict(
        self, campaign: str, pair: tuple[int, int], verdict: Verdict
    ) -> Verdict:
        """Write the verdict of a pair, once. Returns the one that stands."""
        try:
            await self._table.write(Write("insert", _verdict_row(campaign, pair, verdict)))
        except Conflict:
            return await self.read_verdict(campaign, pair) or verdict
        return verdict

    async def replace_verdict(self, campaign: str, pair: tuple[int, int], verdict: Verdict) -> None:
        """Write a verdict over the one that stands."""
        await self._table.write(Write("put", _verdict_row(campaign, pair, verdict)))

    async def lift_verdict(self, campaign: str, pair: tuple[int, int], by: str) -> bool:
        """Turn a pause of the guards into `go`. Returns whether this call did so."""
        row = await self._table.read(campaign, _verdict_key(pair))
        if row is None or (verdict := _verdict_from(row)).go:
            return False
        lifted = msgspec.structs.replace(verdict, go=True, by=by)
        write = Write("replace", _verdict_row(campaign, pair, lifted), row[ETAG])
        try:
            await self._table.write(write)
        except Conflict:
            return await self.read_verdict(campaign, pair) == lifted  # our own, that met itself
        return True


def _verdict_key(pair: tuple[int, int]) -> str:
    return f"verdict|{pair[0]:08d}|{pair[1]:06d}"


def _verdict_row(campaign: str, pair: tuple[int, int], verdict: Verdict) -> Row:
    return {
        "PartitionKey": campaign,
        "RowKey": _verdict_key(pair),
        "verdict": msgspec.json.encode(verdict).decode(),
    }


def _verdict_from(row: Row) -> Verdict:
    return msgspec.json.decode(row["verdict"], type=Verdict)
