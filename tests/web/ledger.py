"""The whole ledger as storage has it, for those who look whether anything changed."""

from __future__ import annotations

from functions.wiring import App
from shared.names import NAMES


async def read_ledger(app: App) -> dict[tuple[str, str], str]:
    """The ETag of every row of every partition: each write changes it, whatever was written."""
    rows = app.account.table(NAMES.tables.ledger).list_entities()
    return {
        (str(row["PartitionKey"]), str(row["RowKey"])): row.metadata["etag"] or ""
        async for row in rows
    }
