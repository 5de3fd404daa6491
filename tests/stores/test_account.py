"""The storage account: everything in it is there, named once, and its time is told to the clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import getproxies

import msgspec
import pytest
from azure.core.exceptions import AzureError

from shared.clock import SystemClock
from shared.names import NAMES, poison_of
from shared.stores.account import StorageAccount, StorageSettings, needs_proxy, open_credential

NOWHERE = "http://127.0.0.1:9"


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


async def test_nothing_of_the_environment_is_asked_on_the_way_to_this_machine(
    connection_string: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login ann password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    account = StorageAccount(StorageSettings(connection_string=connection_string), SystemClock())
    await account.create_all()
    await account.close()


IN_AZURE = (
    "DefaultEndpointsProtocol=https;AccountName=nudge;AccountKey=a2V5;"
    "EndpointSuffix=core.windows.net"
)


async def test_a_proxy_of_the_environment_is_used_on_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        account = StorageAccount(StorageSettings(connection_string=IN_AZURE), SystemClock())
        with pytest.raises(AzureError):
            await account.table("ledger").create_table(retry_total=0)
        await account.close()
    assert asked == [b"CONNECT nudge.table.core.windows.net:443 HTTP/1.1\r\n"]


@pytest.mark.parametrize(
    ("where", "proxy", "needed"),
    [
        (IN_AZURE, "HTTPS_PROXY", True),
        ("https://nudge.table.core.windows.net", "https_proxy", True),
        ("https://nudge.table.core.windows.net", "NO_PROXY", False),
        ("https://nudge.table.core.windows.net", None, False),
        ("UseDevelopmentStorage=true", "HTTP_PROXY", False),
    ],
)
def test_a_proxy_is_on_the_way_out_alone(
    where: str, proxy: str | None, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in getproxies():
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    if proxy:
        monkeypatch.setenv(proxy, NOWHERE)
    assert needs_proxy(where) == needed


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
