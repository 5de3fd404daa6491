"""Outboxes: the contact data of the parcels that one run planned for one shard, written once.

A parcel's recipients are lines of JSON, one a person, in the order of its ids; its row names range
and SHA-256. What is read is what was planned, or it is not sent. Lines can be halved where a parcel
is split, and the blob stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from shared.clock import StorageTime
from shared.errors import NudgeError
from shared.rules.contact import Recipient
from shared.rules.parcels import SHARDS

if TYPE_CHECKING:
    from azure.storage.blob.aio import ContainerClient

_LINES = msgspec.json.Encoder()
_RECIPIENTS = msgspec.json.Decoder(Recipient)


class OutboxDamaged(NudgeError):
    """The contact data of a parcel are gone or are not those that were planned."""


class Slice(msgspec.Struct, frozen=True):
    """Where a parcel's recipients are within an outbox."""

    offset: int
    length: int
    digest: bytes


class Outbox:
    """Writes and reads outbox blobs."""

    def __init__(self, container: ContainerClient) -> None:
        self._container = container

    async def write(self, name: str, body: bytes) -> None:
        """Write an outbox; a run writes it once (a second write is the SDK's own retry)."""
        try:
            await self._container.get_blob_client(name).upload_blob(body, overwrite=False)
        except ResourceExistsError:
            return

    async def read(self, name: str, part: Slice) -> list[Recipient]:
        """The recipients of one parcel; raises OutboxDamaged."""
        return _RECIPIENTS.decode_lines(await self._read(name, part))

    async def read_halves(self, name: str, part: Slice) -> tuple[Slice, Slice]:
        """Where the first half of a parcel's recipients is, and the rest; raises OutboxDamaged."""
        lines = (await self._read(name, part)).splitlines(keepends=True)
        middle = len(lines) // 2
        first, rest = b"".join(lines[:middle]), b"".join(lines[middle:])
        return _slice(part.offset, first), _slice(part.offset + len(first), rest)

    async def _read(self, name: str, part: Slice) -> bytes:
        blob = self._container.get_blob_client(name)
        try:
            body = await (await blob.download_blob(part.offset, part.length)).readall()
        except ResourceNotFoundError as error:
            raise OutboxDamaged("the outbox is gone") from error
        except HttpResponseError as error:
            if error.status_code != 416:
                raise
            raise OutboxDamaged("the outbox is shorter than the one that was planned") from error
        if hashlib.sha256(body).digest() != part.digest:
            raise OutboxDamaged("the outbox is not the one that was planned")
        return body

    async def delete_old(self, before: StorageTime, keep: frozenset[str]) -> int:
        """Delete outboxes written before a time, but those that are to be kept."""
        count = 0
        async for blob in self._container.list_blobs():
            if blob.creation_time < before and blob.name not in keep:
                with suppress(ResourceNotFoundError):  # another run of the timer was here first
                    await self._container.delete_blob(blob.name)
                    count += 1
        return count


OUTBOX_LIFE = timedelta(days=9)


def outbox_name(campaign: str, shard: int, sweep: int, run: str) -> str:
    return f"{campaign}/{SHARDS[shard]}/{sweep:08d}/{run}"


def pack_recipients(parcels: Iterable[Sequence[Recipient]]) -> tuple[bytes, list[Slice]]:
    """The outbox of these parcels, and each one's place in it."""
    body = bytearray()
    slices: list[Slice] = []
    for recipients in parcels:
        packed = _LINES.encode_lines(recipients)
        slices.append(_slice(len(body), packed))
        body += packed
    return bytes(body), slices


def _slice(offset: int, body: bytes) -> Slice:
    return Slice(offset, len(body), hashlib.sha256(body).digest())
