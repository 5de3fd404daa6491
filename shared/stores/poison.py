"""What died: a row for each message that a queue gave up on, and what lies on the poison queues.

Partition `:poison` of the table `control`, which no campaign's name can be:

    {message id}    when the message died, on which queue, why, and what it was about

A poison function consumes its message: without the row nothing would be left of it but a line in
the log. Nothing of a foreign message's content is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from azure.core.exceptions import ResourceNotFoundError

from shared.clock import StorageTime
from shared.names import NAMES, poison_of
from shared.stores.parcels import from_text, to_text
from shared.stores.table import Row, Table, Write

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.stores.account import StorageAccount

_PARTITION = ":poison"

type About = dict[str, str | int]


class DeadMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a queue gave up on.

    Attributes:
        queue: the one that it died on.
        about: what a message of ours names: campaign, shard, key … Empty for a foreign one.
    """

    queue: str
    died_at: StorageTime
    reason: str
    about: About = {}


_ABOUT = msgspec.json.Decoder(About)


class Poison:
    """Reads and writes of dead messages' rows."""

    def __init__(self, table: Table, account: StorageAccount, clock: Clock) -> None:
        self._table = table
        self._account = account
        self._clock = clock

    async def write(self, message_id: str, queue: str, reason: str, about: About) -> None:
        """Remember a dead message. The same once more does no harm."""
        row: Row = {
            "PartitionKey": _PARTITION,
            "RowKey": message_id,
            "queue": queue,
            "died_at": to_text(self._clock.storage_now()),
            "reason": reason,
            "about": msgspec.json.encode(about).decode(),
        }
        await self._table.write(Write("put", row))

    async def read_since(self, since: StorageTime) -> list[DeadMessage]:
        """The messages that died since then, the newest first."""
        rows = self._table.scan(_PARTITION, where=f"died_at ge '{to_text(since)}'")
        found = [_message_from(row) async for row in rows]
        return sorted(found, key=lambda one: one.died_at, reverse=True)

    async def delete_old(self, before: StorageTime) -> int:
        """Forget the messages that died before a time. Returns how many there were."""
        return await self._table.delete_range(_PARTITION, where=f"died_at lt '{to_text(before)}'")

    async def count_lying(self) -> dict[str, int]:
        """How many messages lie on each poison queue, of those on which any does.

        A poison function takes them within seconds. Where it fails itself, the host puts them on a
        poison queue of the poison queue, which nothing reads.
        """
        counts: dict[str, int] = {}
        for name in msgspec.structs.astuple(NAMES.queues):
            for queue in (poison_of(name), poison_of(poison_of(name))):
                if number := await self._count(queue):
                    counts[queue] = number
        return counts

    async def _count(self, queue: str) -> int:
        try:
            found = await self._account.queue(queue).get_queue_properties()
        except ResourceNotFoundError:
            return 0  # the host makes the second kind when it first needs one
        return found.approximate_message_count or 0


def _message_from(row: Row) -> DeadMessage:
    return DeadMessage(
        queue=row["queue"],
        died_at=StorageTime(from_text(row["died_at"])),
        reason=row["reason"],
        about=_ABOUT.decode(row["about"]),
    )
