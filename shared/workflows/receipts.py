"""What providers report later, on its way into the ledger.

Whoever reports waits for an answer only until the receipts are on a queue, in few messages: one for
each shard that they are of. What is written then is the same whatever came before it, in whatever
order and however often: a provider repeats and reorders its reports.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from shared.rules.contact import address_key
from shared.rules.parcels import (
    ID_BYTES,
    Channel,
    Parcel,
    State,
    accept_by_receipt,
    has_bit,
    with_bits,
)
from shared.services.webhooks import Event, EventKind
from shared.stores.queues import MOST_BYTES, ParcelReceipts, ShardReceipts
from shared.telemetry import span
from shared.workflows.alarms import note_event, raise_alarm
from shared.workflows.completion import STORAGE_SECONDS, storage_within
from shared.workflows.dispatch import count_accepted

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.stores import Stores
    from shared.workflows.completion import CompletionWorkflow

_MOST_ATTEMPTS = 8
"""Calls of one parcel that one message names. Two at most can have been accepted."""

_AROUND_PARCELS = 256  # bytes of a message beside its parcels; a campaign's name has at most 60


@dataclass
class _Gathered:
    """What was reported of one parcel; `bounced` has the address's keyed hash by place."""

    attempts: set[str] = field(default_factory=set[str])
    delivered: set[int] = field(default_factory=set[int])
    bounced: dict[int, bytes] = field(default_factory=dict[int, bytes])
    opted_out: set[int] = field(default_factory=set[int])

    def as_receipts(self, key: str) -> ParcelReceipts:
        return ParcelReceipts(
            key,
            tuple(sorted(self.attempts)[:_MOST_ATTEMPTS]),
            tuple(sorted(self.delivered)),
            tuple(sorted(self.bounced.items())),
            tuple(sorted(self.opted_out)),
        )


class ReceiptsWorkflow:
    """Takes receipts from whoever brings them, and settles rows by them.

    Args:
        address_key: ADDRESS_KEY; addresses that do not work are remembered as hashes under it.
    """

    def __init__(
        self,
        stores: Stores,
        completion: CompletionWorkflow,
        clock: Clock,
        *,
        address_key: bytes,
    ) -> None:
        self._stores = stores
        self._completion = completion
        self._clock = clock
        self._key = address_key
        self._marked_waves: set[str] = set()

    async def take(self, events: Collection[Event], channel: Channel, *, foreign: int = 0) -> None:
        """Put events of a channel on the queue. The same once more does no harm.

        Args:
            foreign: how many others came with them, that no call of ours has caused.

        Raises:
            NotRecorded: storage failed; some may be on the queue, and all are to be told again.
        """
        async with storage_within(STORAGE_SECONDS):
            await self._stores.queues.put_receipts(_in_messages(self._gather(events), channel))
        kinds = Counter(event.kind.value.replace(" ", "_") for event in events)
        note_event("receipts", channel=channel, foreign=foreign, **kinds)
        dropped = Counter(
            (event.campaign, event.reason) for event in events if event.kind is EventKind.DROPPED
        )
        for (campaign, reason), count in dropped.items():
            raise_alarm(
                "mail_dropped", campaign=campaign, channel=channel, reason=reason, count=count
            )

    def _gather(self, events: Iterable[Event]) -> Mapping[tuple[str, int], dict[str, _Gathered]]:
        shards: defaultdict[tuple[str, int], dict[str, _Gathered]] = defaultdict(dict)
        for event in events:
            parcel = shards[event.campaign, event.shard].setdefault(event.key, _Gathered())
            if event.attempt:
                parcel.attempts.add(event.attempt)
            match event.kind:
                case EventKind.DELIVERED:
                    parcel.delivered.add(event.index)
                case EventKind.BAD_ADDRESS:
                    parcel.bounced[event.index] = address_key(self._key, event.address)
                case EventKind.OPTED_OUT:
                    parcel.opted_out.add(event.index)
                case EventKind.ACCEPTED | EventKind.DROPPED:
                    pass
        return shards

    async def settle(self, message: ShardReceipts) -> None:
        """Write receipts of one shard into the ledger; where they say nothing new, nothing.

        People first: once a row says that an address was refused, planning must know which one to
        pass over. A row that someone else has written meanwhile is read and asked again.
        """
        campaign, shard = message.campaign, message.shard
        receipts = {one.key: one for one in message.parcels}
        of_people = any(one.bounced or one.opted_out for one in message.parcels)
        rows = await self._stores.ledger.read_some(campaign, shard, receipts, ids=of_people)
        of = {"campaign": campaign, "channel": message.channel, "parcels": len(receipts)}
        with span("settle receipts", of, links=(row.trace for row in rows.values())):
            _note_oddities(message, rows)
            await self._record_people(message, rows)
            await self._settle(campaign, shard, receipts, rows)

    async def _settle(
        self,
        campaign: str,
        shard: int,
        receipts: Mapping[str, ParcelReceipts],
        rows: Mapping[str, Parcel],
    ) -> None:
        while rows:
            changes = [
                (row, change)
                for key, row in rows.items()
                if (change := _change(row, receipts[key]))
            ]
            # The marker before the rows: should we die in between, nothing would come back to it.
            if any("state" in change for _, change in changes):
                await self._mark_waves(campaign)
            changed, conflicted = await self._stores.ledger.change_each(changes)
            for row in changed:
                if rows[row.key].state is not State.ACCEPTED:
                    count_accepted(row, row.count - row.left_out_count - row.refused_count)
            keys = [row.key for row in conflicted]
            rows = await self._stores.ledger.read_some(campaign, shard, keys, ids=False)

    async def _record_people(self, message: ShardReceipts, rows: Mapping[str, Parcel]) -> None:
        """What receipts say of people, whatever has become of the row, into every campaign."""
        bad: list[tuple[bytes, bytes]] = []
        opted_out: list[bytes] = []
        for receipts in message.parcels:
            row = rows.get(receipts.key)
            if row is None or row.seed:  # a seed address is nobody's
                continue
            bad += [
                (_person(row, index), address)
                for index, address in receipts.bounced
                if index < row.count and not has_bit(row.refused, index)
            ]
            opted_out += [_person(row, index) for index in receipts.opted_out if index < row.count]
        if bad:
            await self._completion.record_bad(bad)
        if opted_out:
            await self._completion.record_opted_out(opted_out, message.channel)

    async def _mark_waves(self, campaign: str) -> None:
        """Something of the campaign has gone out."""
        if campaign not in self._marked_waves:
            await self._stores.campaigns.mark_waves(campaign)
            self._marked_waves.add(campaign)


def _in_messages(
    shards: Mapping[tuple[str, int], Mapping[str, _Gathered]], channel: Channel
) -> Iterator[ShardReceipts]:
    """Messages, each as large as a queue takes it.

    What is said of one parcel always fits: at most 1,000 places, and some 35 bytes for each.
    """
    for (campaign, shard), parcels in shards.items():
        batch: list[ParcelReceipts] = []
        size = _AROUND_PARCELS
        for key, gathered in parcels.items():
            receipts = gathered.as_receipts(key)
            length = len(msgspec.json.encode(receipts)) + 1
            if batch and size + length > MOST_BYTES:
                yield ShardReceipts(campaign, shard, channel, tuple(batch))
                batch, size = [], _AROUND_PARCELS
            batch.append(receipts)
            size += length
        yield ShardReceipts(campaign, shard, channel, tuple(batch))


def _change(row: Parcel, receipts: ParcelReceipts) -> dict[str, Any] | None:
    """What receipts change of a row; None for nothing."""
    accepted = accept_by_receipt(row)
    if accepted is None and row.state is not State.ACCEPTED:
        return None
    marks = {
        "delivered": (index for index in receipts.delivered if index < row.count),
        "refused": (index for index, _ in receipts.bounced if index < row.count),
    }
    change = accepted or {}
    for name, indices in marks.items():
        known: bytes = getattr(row, name)
        if (marked := with_bits(known, indices)) != known:
            change[name] = marked
    if not row.heard and _is_of_last_call(row, receipts):
        change["heard"] = True
    return change or None


def _is_of_last_call(row: Parcel, receipts: ParcelReceipts) -> bool:
    """Whether any of these is of the call that the row has the time of.

    A late one of the call before says nothing of what was called since. Where the provider has put
    something else in the attempt's place, it is the last one's if the row was never sent again.
    """
    if receipts.attempts:
        return row.attempt in receipts.attempts
    return not row.resent


def _note_oddities(message: ShardReceipts, rows: Mapping[str, Parcel]) -> None:
    """Count what no call of ours can have caused."""
    odd: Counter[str] = Counter()
    for receipts in message.parcels:
        row = rows.get(receipts.key)
        if row is None:
            odd["unknown"] += 1
            continue
        if row.state in (State.CLOSED, State.REJECTED):
            odd[row.state] += 1
        places = (*receipts.delivered, *dict(receipts.bounced), *receipts.opted_out)
        odd["outside"] += sum(index >= row.count for index in places)
    if odd := +odd:
        note_event("receipts_odd", campaign=message.campaign, channel=message.channel, **odd)


def _person(row: Parcel, index: int) -> bytes:
    return row.ids[index * ID_BYTES : (index + 1) * ID_BYTES]
