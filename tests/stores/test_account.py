"""The storage account: everything in it is there, named once, and its time is told to the clock."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from shared.clock import SystemClock
from shared.names import NAMES, poison_of
from shared.stores.account import StorageAccount, StorageSettings, open_credential


class Recorded(SystemClock):
    """A clock that notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[datetime] = []

    def observe_storage(self, date: datetime) -> None:
        self.told.append(date)
        super().observe_storage(date)


async def test_everything_is_created_and_creating_again_is_no_harm(
    connection_string: str,
) -> None:
    account = StorageAccount(StorageSettings(connection_string=connection_string), SystemClock())
    for _ in range(2):
        await account.create_all()
    for table in msgspec.structs.astuple(NAMES.tables):
        assert [row async for row in account.table(table).list_entities()] == []
    for container in msgspec.structs.astuple(NAMES.containers):
        assert await account.container(container).exists()
    for queue in msgspec.structs.astuple(NAMES.queues):
        for name in (queue, poison_of(queue)):
            assert (await account.queue(name).get_queue_properties()).name == name
    await account.close()


@pytest.mark.parametrize("service", ["table", "container", "queue"])
async def test_every_service_tells_the_clock_its_time(connection_string: str, service: str) -> None:
    clock = Recorded()
    account = StorageAccount(StorageSettings(connection_string=connection_string), clock)
    match service:
        case "table":
            await account.table("ledger").create_table()
        case "container":
            await account.container("pages").create_container()
        case _:
            await account.queue("sweep").create_queue()
    (date,) = clock.told
    assert date.tzinfo is not None
    assert abs((date - datetime.now(UTC)).total_seconds()) < 10
    await account.close()


async def test_an_identity_is_used_where_there_is_no_key() -> None:
    """Opening connects to nothing: only the addresses and the kind of credential are ours."""
    for managed, kind in ((True, "ManagedIdentityCredential"), (False, "DefaultAzureCredential")):
        settings = StorageSettings(
            blob_uri="https://nudge.blob.core.windows.net",
            queue_uri="https://nudge.queue.core.windows.net",
            table_uri="https://nudge.table.core.windows.net",
            managed=managed,
            client_id="00000000-0000-0000-0000-000000000001" if managed else None,
        )
        account = StorageAccount(settings, SystemClock())
        assert account.table("ledger").url == "https://nudge.table.core.windows.net"
        assert account.container("pages").url == "https://nudge.blob.core.windows.net/pages"
        assert account.queue("sweep").url == "https://nudge.queue.core.windows.net/sweep"
        await account.close()
        credential = open_credential(managed, settings.client_id)
        assert type(credential).__name__ == kind
        await credential.close()
