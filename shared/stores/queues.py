"""The queues: what a message of each holds, how it is encoded and how long it lives.

Bodies are JSON of the structs below (base64 around it is the Functions host's rule). No message
holds a name, an address or a number. A message that does not decode is NotOurs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.errors import NotOurs
from shared.names import NAMES, poison_of
from shared.rules.parcels import SHARDS, Channel, Parcel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.clock import Ages
    from shared.stores.account import StorageAccount

LIFE_DAYS = 7
"""Of messages of `sweep`, `plan` and `receipts`."""

MOST_BYTES = 48 * 1024
"""Of a body: base64 makes 64 KiB of it, which is what a queue takes."""

type Number = Annotated[int, msgspec.Meta(ge=0)]
type Shard = Annotated[int, msgspec.Meta(ge=0, lt=len(SHARDS))]
type CampaignName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+\Z")]


class ReadPages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Go on with a pass: its pages say how far it has come.

    Attributes:
        refusals: answers in a row that told us to come back later.
    """

    sweep: Number
    source: str
    run: Number
    refusals: Number = 0


class PlanShard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Plan one shard of a campaign under a pair."""

    campaign: CampaignName
    shard: Shard
    sweep: Number
    version: Number


class HandOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A parcel that release hands to the sender: all that the sender must know before its claim,
    so that it need not read the row. `etag` is the one under which it may claim.

    Attributes:
        probe: let through a set-up fault, to see whether it is mended.
    """

    campaign: CampaignName
    shard: Shard
    key: str
    etag: str
    sweep: Number
    version: Number
    touch: str
    channel: Channel
    message: str
    language: str
    count: Number
    not_after: CampaignTime
    planned_from: StorageTime
    outbox: str
    offset: Number
    length: Number
    digest: bytes
    left_out: bytes = b""
    refused: bytes = b""
    doubt: bool = False
    faults: int = 0
    seed: bool = False
    probe: bool = False
    trace: bytes = b""


class ParcelReceipts(msgspec.Struct, frozen=True, array_like=True):
    """What a provider reported of one parcel. Whoever is reported proves that it was accepted.

    Attributes:
        key: of its row.
        attempts: the calls that were reported on.
        delivered, opted_out: places in the row.
        bounced: places in the row, each with the keyed hash of the address that does not work.
    """

    key: str
    attempts: tuple[str, ...]
    delivered: tuple[Number, ...] = ()
    bounced: tuple[tuple[Number, bytes], ...] = ()
    opted_out: tuple[Number, ...] = ()


class ShardReceipts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a provider reported of parcels of one shard and channel."""

    campaign: CampaignName
    shard: Shard
    channel: Channel
    parcels: tuple[ParcelReceipts, ...]


def hand_out_from(parcel: Parcel, *, probe: bool) -> HandOut:
    """The message for a parcel."""
    fields = {name: getattr(parcel, name) for name in HandOut.__struct_fields__ if name != "probe"}
    return HandOut(probe=probe, **fields)


class Queues:
    """Puts messages; the Functions host takes them."""

    def __init__(self, account: StorageAccount, ages: Ages) -> None:
        self._sweep = account.queue(NAMES.queues.sweep)
        self._plan = account.queue(NAMES.queues.plan)
        self._sending = {
            "email": account.queue(NAMES.queues.email),
            "sms": account.queue(NAMES.queues.sms),
        }
        self._receipts = account.queue(NAMES.queues.receipts)
        self._ages = ages
        self._account = account

    async def length_of(self, name: str) -> int:
        """How many messages a queue has, those among them that are being worked on."""
        found = await self._account.queue(name).get_queue_properties()
        return found.approximate_message_count or 0

    async def put_read(self, message: ReadPages, *, after: float = 0) -> None:
        """Continue a pass, not before `after` seconds."""
        await self._sweep.send_message(
            msgspec.json.encode(message),
            visibility_timeout=round(after),
            time_to_live=LIFE_DAYS * 86400,
        )

    async def put_plan(self, messages: Iterable[PlanShard]) -> None:
        for message in messages:
            await self._plan.send_message(
                msgspec.json.encode(message), time_to_live=LIFE_DAYS * 86400
            )

    async def put_hand_out(self, message: HandOut) -> None:
        """Hand a parcel to the sender of its channel. The message dies before the row may be
        handed out again."""
        life = max(1, round(self._ages.message_life))
        queue = self._sending[message.channel]
        await queue.send_message(msgspec.json.encode(message), time_to_live=life)

    async def put_receipts(self, messages: Iterable[ShardReceipts]) -> None:
        """Have receipts written down. Each message must stay within `MOST_BYTES`."""
        for message in messages:
            await self._receipts.send_message(
                msgspec.json.encode(message), time_to_live=LIFE_DAYS * 86400
            )

    async def put_poison(self, queue: str, body: bytes) -> None:
        """Move a body to the poison queue of `queue`, as the host does after its last try."""
        await self._account.queue(poison_of(queue)).send_message(
            body, time_to_live=LIFE_DAYS * 86400
        )


def decode_message[M](body: bytes, kind: type[M]) -> M:
    """A queue message as one of ours; raises NotOurs, with nothing of its content in the words."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotOurs(f"not a {kind.__name__} message: {_without_content(error)}") from None


def _without_content(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    # msgspec names types, our own fields and limits; of foreign content it repeats only the names
    # of unknown fields.
    return re.sub("(unknown field) `.*`", r"\1", str(error), flags=re.DOTALL)
