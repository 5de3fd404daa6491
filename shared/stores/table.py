"""One Azure table: conditional writes, transactions and scans, with one kind of conflict.

Rows are plain dicts of the service's own types. A row that was read carries its ETag under
`ETAG`; writing it back under that ETag succeeds only if nobody wrote it in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.data.tables import TableTransactionError, UpdateMode

from shared.errors import NudgeError

if TYPE_CHECKING:
    from azure.data.tables.aio import TableClient

type Row = dict[str, Any]

ETAG = "etag"
MOST_ROWS = 99
"""Rows that a transaction may hold beside the fence (the service takes 100)."""

# Azure's limits ("Understanding the Table service data model"; "Performing entity group
# transactions"). Azurite takes more than Azure in each of these, so they are checked here.
_MOST_OPERATIONS = MOST_ROWS + 1
_MOST_PROPERTY = 64 * 1024
_MOST_ROW = 1024 * 1024
_MOST_TRANSACTION = 4 * 1024 * 1024
_MOST_KEY = 1024
_NOT_IN_KEYS = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")

_OPERATION_BYTES = 1536
"""More than the SDK puts around one row of a transaction: boundaries, headers, address."""

_CONFLICTS = frozenset({404, 409, 412})

# By default the SDK sends a POST or PATCH again after some failures and not after others, a
# dropped connection among them. Every write here may be sent twice: one that had succeeded meets
# itself, and whoever made it recognises that (see Conflict).
_SENT_AGAIN: dict[str, Any] = {
    "retry_on_methods": frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
}


class Conflict(NudgeError):
    """A conditional write found another state than expected: 412, 409, or 404.

    It may be our own write that met itself: where its answer was lost, the SDK sends it again
    (azure-sdk-for-net#39146). Whoever catches this reads the row once and looks for its own id.

    Attributes:
        index: the operation of the transaction that failed; 0 for a single write.
    """

    def __init__(self, index: int = 0) -> None:
        super().__init__(f"a conditional write was refused (operation {index})")
        self.index = index


class Write(msgspec.Struct, frozen=True):
    """One operation of a transaction.

    `insert` fails where the row exists; `merge` changes the named properties and `replace` the
    whole row, and `delete` removes it, each only under `etag`; `put` writes the whole row and `set`
    the named properties, whatever is there.
    """

    kind: Literal["insert", "merge", "replace", "put", "set", "delete"]
    row: Row
    etag: str = ""


class Table:
    """Reads and conditional writes of one table.

    A write that Azure would refuse for its size or its keys raises ValueError: the fault is ours.
    """

    def __init__(self, client: TableClient) -> None:
        self._client = client

    async def read(self, partition: str, key: str) -> Row | None:
        try:
            return _with_etag(await self._client.get_entity(partition, key))
        except HttpResponseError as error:
            if error.status_code == 404 and not _is_about_the_table(error):
                return None
            raise

    async def write(self, write: Write) -> str:
        """One write. Returns the new ETag ("" after a delete); raises Conflict."""
        check_writes([write])
        # Not a transaction of one: that takes twice the time.
        row, options = _payload(write), _condition(write) | _SENT_AGAIN
        try:
            match write.kind:
                case "insert":
                    answer = await self._client.create_entity(row, **options)
                case "merge":
                    answer = await self._client.update_entity(row, UpdateMode.MERGE, **options)
                case "replace":
                    answer = await self._client.update_entity(row, UpdateMode.REPLACE, **options)
                case "put":
                    answer = await self._client.upsert_entity(row, UpdateMode.REPLACE, **options)
                case "set":
                    answer = await self._client.upsert_entity(row, UpdateMode.MERGE, **options)
                case "delete":
                    await self._client.delete_entity(row, **options)
                    return ""
        except HttpResponseError as error:
            raise _conflict_or(error) from error
        return str(answer[ETAG])

    async def transact(self, writes: Sequence[Write]) -> list[str]:
        """All of the writes, or none. One partition, at most 100 rows, each at most once.

        Returns the new ETags in order; raises Conflict with the index of the write that failed.
        """
        check_writes(writes)
        operations = [_operation(write) for write in writes]
        try:
            answers = await self._client.submit_transaction(operations, **_SENT_AGAIN)
        except HttpResponseError as error:
            raise _conflict_or(error) from error
        return [str(answer.get(ETAG, "")) for answer in answers]

    async def scan(
        self,
        partition: str,
        low: str = "",
        high: str = "",
        *,
        where: str = "",
        select: Sequence[str] | None = None,
    ) -> AsyncIterator[Row]:
        """The rows of a partition with low ≤ key < high, in key order."""
        terms = [f"PartitionKey eq '{partition}'"]
        if low:
            terms.append(f"RowKey ge '{low}'")
        if high:
            terms.append(f"RowKey lt '{high}'")
        if where:
            terms.append(f"({where})")
        found = self._client.query_entities(
            " and ".join(terms), select=list(select) if select else None
        )
        async for entity in found:
            yield _with_etag(entity)

    async def delete_range(
        self, partition: str, low: str = "", high: str = "", *, where: str = ""
    ) -> int:
        """Delete the rows that `scan` would find. Returns how many there were."""

        async def find() -> list[Row]:
            keys = ("PartitionKey", "RowKey")
            return [row async for row in self.scan(partition, low, high, where=where, select=keys)]

        deleted = 0
        rows = await find()
        while rows:
            batch = rows[:MOST_ROWS]
            try:
                await self.transact([Write("delete", row, row[ETAG]) for row in batch])
            except Conflict:
                # Another run of the timer is at it, or a row was written just now: look again.
                rows = await find()
                continue
            deleted += len(batch)
            rows = rows[MOST_ROWS:]
        return deleted


def check_writes(writes: Sequence[Write]) -> None:
    """Refuse what is not a conditional write, and what Azure would not take.

    Raises:
        ValueError: names the limit, and no value.
    """
    keys = [(write.row["PartitionKey"], write.row["RowKey"]) for write in writes]
    if not 1 <= len(keys) <= _MOST_OPERATIONS:
        raise ValueError(f"a transaction holds 1 to {_MOST_OPERATIONS} rows, not {len(keys)}")
    if len({partition for partition, _ in keys}) > 1 or len(set(keys)) < len(keys):
        raise ValueError("a transaction is of one partition, and of each row once")
    for write, key in zip(writes, keys, strict=True):
        if write.kind in ("merge", "replace", "delete") and not write.etag:
            raise ValueError(f"a {write.kind} without an ETag would overwrite whatever is there")
        if any(_NOT_IN_KEYS.search(part) or _stored_bytes(part) > _MOST_KEY for part in key):
            raise ValueError("a key is over 1 KiB or has a character that keys may not have")
        if _row_bytes(write.row) > _MOST_ROW:
            raise ValueError("a row is over 1 MiB")
    if transaction_bytes(writes) > _MOST_TRANSACTION:
        raise ValueError("a transaction is over 4 MiB")


def transaction_bytes(writes: Sequence[Write]) -> int:
    """What a transaction is as a request: hardly more than the SDK sends for it, and never less."""
    total = 0
    for write in writes:
        total += _OPERATION_BYTES
        for name, value in write.row.items():
            size = len(value) * 4 // 3 + 4 if isinstance(value, bytes) else len(json.dumps(value))
            total += size + 2 * len(name) + 40  # twice, since `name@odata.type` stands beside it
    return total


def _row_bytes(row: Row) -> int:
    """What a row counts for, by Azure's formula. Raises ValueError for too large a property."""
    total = 4
    for name, value in row.items():
        size = _stored_bytes(value)
        if size > _MOST_PROPERTY:
            raise ValueError(f"the property {name} is over 64 KiB")
        total += 8 + 2 * len(name) + size
    return total


def _stored_bytes(value: Any) -> int:
    match value:
        case str():
            return len(value.encode("utf-16-le"))
        case bytes():
            return len(value)
        case _:
            return 8


def _with_etag(entity: Any) -> Row:
    row: Row = dict(entity)
    row[ETAG] = entity.metadata[ETAG]
    return row


def _payload(write: Write) -> Row:
    return {name: value for name, value in write.row.items() if name != ETAG}


def _condition(write: Write) -> dict[str, Any]:
    if not write.etag:
        return {}
    return {"etag": write.etag, "match_condition": MatchConditions.IfNotModified}


def _operation(write: Write) -> Any:
    row, condition = _payload(write), _condition(write)
    match write.kind:
        case "insert":
            return ("create", row)
        case "merge":
            return ("update", row, {"mode": UpdateMode.MERGE, **condition})
        case "replace":
            return ("update", row, {"mode": UpdateMode.REPLACE, **condition})
        case "put":
            return ("upsert", row, {"mode": UpdateMode.REPLACE})
        case "set":
            return ("upsert", row, {"mode": UpdateMode.MERGE})
        case "delete":
            return ("delete", row, condition)


def _conflict_or(error: HttpResponseError) -> Exception:
    if error.status_code not in _CONFLICTS or _is_about_the_table(error):
        return error
    return Conflict(error.index if isinstance(error, TableTransactionError) else 0)


def _is_about_the_table(error: HttpResponseError) -> bool:
    """A table that is not there is a fault of the set-up; it must not look like an empty one."""
    return "TableNotFound" in str(error)
