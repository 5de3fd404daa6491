"""Pages of a sweep: blobs that are written once, and read back shard by shard.

`pages/{sweep}/{pass}/{run}/{page:06d}` begins with the length of the next page's link (4 bytes,
big-endian) and the link; then follow 16 sections, one a shard. The blob's metadata say where each
section begins, how many rows there are and whether it is the last page, so that ONE listing tells a
planner all that it needs to fetch its own sections and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from itertools import batched
from typing import TYPE_CHECKING

import msgspec
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

from shared.clock import StorageTime
from shared.rules.parcels import SHARDS
from shared.rules.registration import Account, shard_of

if TYPE_CHECKING:
    from azure.storage.blob.aio import ContainerClient

READ_AHEAD = 8
"""Pages fetched side by side."""

BUNDLE_BYTES = 8 * 1024 * 1024
"""What a reader may keep of one pass for the shards that are planned next."""

_LINK_GUESS = 4096
"""Bytes that hold the head of a page and its link, nearly always."""

_ACCOUNTS = msgspec.msgpack.Decoder(list[Account])
_CODE_BYTES = 17  # an object id and its packed registration


class PageInfo(msgspec.Struct, frozen=True):
    """What the listing says of one page.

    Attributes:
        number: from 0. `bounds` are 17 offsets: section d lies between bounds[d] and bounds[d+1].
        rows: in all sections. `with_contact`: those with any contact field filled.
        unreadable: rows of Graph's answer that could not be read and were left out.
        last: whether no page follows.
        written_at: storage time.
    """

    name: str
    number: int
    bounds: tuple[int, ...]
    rows: int
    with_contact: int
    unreadable: int
    last: bool
    written_at: StorageTime


class Pages:
    """Writes and reads pages."""

    def __init__(self, container: ContainerClient) -> None:
        self._container = container

    async def write_report(
        self,
        prefix: str,
        number: int,
        rows: Sequence[tuple[bytes, int]],
        next_link: str | None,
        unreadable: int,
    ) -> str | None:
        """Write a page of the registration report. Returns the link that stands.

        Where the page was written before, that is the other writer's link: the chain goes on with
        it, and cannot fork.
        """
        sections: list[list[bytes]] = [[] for _ in SHARDS]
        for person, code in rows:
            sections[shard_of(person)].append(person + bytes((code,)))
        bodies = [b"".join(section) for section in sections]
        return await self._write(prefix, number, bodies, next_link, len(rows), 0, unreadable)

    async def write_roster(
        self,
        prefix: str,
        number: int,
        rows: Sequence[Account],
        next_link: str | None,
        with_contact: int,
        unreadable: int,
    ) -> str | None:
        """Write a page of a roster. Returns the link that stands, as write_report does."""
        sections: list[list[Account]] = [[] for _ in SHARDS]
        for account in rows:
            sections[shard_of(account.id)].append(account)
        bodies = [msgspec.msgpack.encode(section) if section else b"" for section in sections]
        return await self._write(
            prefix, number, bodies, next_link, len(rows), with_contact, unreadable
        )

    async def _write(
        self,
        prefix: str,
        number: int,
        bodies: list[bytes],
        next_link: str | None,
        rows: int,
        with_contact: int,
        unreadable: int,
    ) -> str | None:
        link = (next_link or "").encode()
        head = len(link).to_bytes(4, "big") + link
        bounds = [len(head)]
        for body in bodies:
            bounds.append(bounds[-1] + len(body))
        metadata = {
            "bounds": ",".join(map(str, bounds)),
            "rows": str(rows),
            "contacts": str(with_contact),
            "unreadable": str(unreadable),
            "last": "no" if next_link else "yes",
        }
        blob = self._container.get_blob_client(f"{prefix}{number:06d}")
        try:
            await blob.upload_blob(head + b"".join(bodies), overwrite=False, metadata=metadata)
        except ResourceExistsError:
            return await self.read_link(prefix, number)
        return next_link

    async def read_link(self, prefix: str, number: int) -> str | None:
        """The link of the page that follows page `number`, None where it is the last one."""
        blob = self._container.get_blob_client(f"{prefix}{number:06d}")
        head = await (await blob.download_blob(0, _LINK_GUESS)).readall()
        size = int.from_bytes(head[:4], "big")
        if size + 4 > len(head):
            head = await (await blob.download_blob(0, size + 4)).readall()
        return head[4 : 4 + size].decode() or None

    async def list_pages(self, prefix: str) -> list[PageInfo]:
        """The pages of a run as they stand, by number."""
        found: list[PageInfo] = []
        async for blob in self._container.list_blobs(prefix, include=["metadata"]):
            meta = blob.metadata or {}
            found.append(
                PageInfo(
                    name=blob.name,
                    number=int(blob.name.rpartition("/")[2]),
                    bounds=tuple(map(int, meta["bounds"].split(","))),
                    rows=int(meta["rows"]),
                    with_contact=int(meta["contacts"]),
                    unreadable=int(meta["unreadable"]),
                    last=meta["last"] == "yes",
                    written_at=StorageTime(blob.last_modified),
                )
            )
        found.sort(key=lambda page: page.number)
        return found

    def open_pass(self, pages: Sequence[PageInfo]) -> PassReader:
        """A reader of a pass whose pages are complete and will not change."""
        return PassReader(self._container, pages)

    async def delete(self, prefix: str) -> int:
        """Delete all pages below a prefix. Returns how many there were."""
        count = 0
        async for blob in self._container.list_blobs(prefix):
            with suppress(ResourceNotFoundError):  # another run of the timer was here first
                await self._container.delete_blob(blob.name)
                count += 1
        return count

    async def list_sweeps(self) -> list[int]:
        """Numbers of the sweeps that have pages."""
        return [
            int(prefix.name.rstrip("/"))
            async for prefix in self._container.walk_blobs(delimiter="/")
        ]


class PassReader:
    """Reads the pages of one pass shard by shard.

    Neighbouring shards lie side by side in each page and are planned one after the other, so that
    one request fetches as many of them as `BUNDLE_BYTES` allow: to ask for each section by itself
    would cost more than everything else in planning. What is read for a shard is given away once.
    """

    def __init__(self, container: ContainerClient, pages: Sequence[PageInfo]) -> None:
        self._container = container
        self._pages = pages
        self._width = bundle_width(sum(page.bounds[-1] - page.bounds[0] for page in pages))
        self._kept: dict[int, list[bytes]] = {}

    async def read_codes(self, shard: int) -> AsyncIterator[list[tuple[bytes, int]]]:
        """A shard's rows of the registration report, page by page: object id and packed code."""
        async for section in self._read(shard):
            yield _codes_from(section)

    async def read_accounts(self, shard: int) -> AsyncIterator[list[Account]]:
        """A shard's accounts of a roster, page by page."""
        async for section in self._read(shard):
            yield _ACCOUNTS.decode(section)

    async def _read(self, shard: int) -> AsyncIterator[bytes]:
        if (kept := self._kept.pop(shard, None)) is not None:
            for section in kept:
                yield section
            return
        first = shard - shard % self._width
        bundle = range(first, first + self._width)
        fetched: dict[int, list[bytes]] = {one: [] for one in bundle if one != shard}
        for batch in batched(self._pages, READ_AHEAD, strict=False):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._fetch(page, bundle)) for page in batch]
            for page, task in zip(batch, tasks, strict=True):
                begin = page.bounds[first]
                for one in bundle:
                    section = task.result()[page.bounds[one] - begin : page.bounds[one + 1] - begin]
                    if not section:
                        continue
                    if one == shard:
                        yield section
                    else:
                        fetched[one].append(section)
        # Not before all of it is there: whoever stops half-way leaves nothing incomplete behind.
        self._kept = fetched

    async def _fetch(self, page: PageInfo, bundle: range) -> bytes:
        begin, end = page.bounds[bundle.start], page.bounds[bundle.stop]
        if begin == end:
            return b""
        blob = self._container.get_blob_client(page.name)
        return await (await blob.download_blob(begin, end - begin)).readall()


def bundle_width(size: int) -> int:
    """How many shards to fetch at once from a pass of `size` bytes: 1, 2, 4, 8 or all 16."""
    width = len(SHARDS)
    while width > 1 and size * width > BUNDLE_BYTES * len(SHARDS):
        width //= 2
    return width


def run_prefix(sweep: int, pass_name: str, run: int) -> str:
    """Where the pages of one run of a pass are."""
    return f"{sweep_prefix(sweep)}{pass_name}/{run}/"


def sweep_prefix(sweep: int) -> str:
    return f"{sweep:08d}/"


def _codes_from(section: bytes) -> list[tuple[bytes, int]]:
    return [
        (section[start : start + 16], section[start + 16])
        for start in range(0, len(section), _CODE_BYTES)
    ]
