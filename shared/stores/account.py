"""The storage account: opens its tables, containers and queues, and tells the clock its time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import msgspec
from azure.core.exceptions import ResourceExistsError
from azure.data.tables.aio import TableClient, TableServiceClient
from azure.storage.blob.aio import BlobServiceClient, ContainerClient
from azure.storage.queue import BinaryBase64DecodePolicy, BinaryBase64EncodePolicy
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from shared.names import NAMES, every_queue

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

    from shared.clock import Clock


class StorageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the storage account is: a connection string, or three URIs and an identity."""

    connection_string: str = ""
    blob_uri: str = ""
    queue_uri: str = ""
    table_uri: str = ""
    managed: bool = False
    client_id: str | None = None


_PATIENCE: dict[str, Any] = {"initial_backoff": 1, "increment_base": 2}
"""Seconds before the SDK tries again a blob or queue request; its own first wait is 15 s."""


class StorageAccount:
    """One account, its three services, one connection pool each.

    Every answer's `Date` header is told to the clock: that is what storage time is.
    """

    def __init__(self, settings: StorageSettings, clock: Clock) -> None:
        self._clock = clock
        self._credential: AsyncTokenCredential | None = None
        options: dict[str, Any] = {
            "raw_response_hook": self._observe_date,
            "use_env_settings": needs_proxy(settings.connection_string or settings.table_uri),
        }
        if settings.connection_string:
            text = settings.connection_string
            self._tables = TableServiceClient.from_connection_string(text, **options)
            self._blobs = BlobServiceClient.from_connection_string(text, **options, **_PATIENCE)
            self._queues = QueueServiceClient.from_connection_string(text, **options, **_PATIENCE)
        else:
            credential = self._credential = open_credential(settings.managed, settings.client_id)
            self._tables = TableServiceClient(settings.table_uri, credential=credential, **options)
            options |= {"credential": credential}
            self._blobs = BlobServiceClient(settings.blob_uri, **options, **_PATIENCE)
            self._queues = QueueServiceClient(settings.queue_uri, **options, **_PATIENCE)

    def _observe_date(self, response: Any) -> None:
        if date := response.http_response.headers.get("Date"):
            self._clock.observe_storage(parsedate_to_datetime(date))

    def table(self, name: str) -> TableClient:
        return self._tables.get_table_client(name)

    def container(self, name: str) -> ContainerClient:
        return self._blobs.get_container_client(name)

    def queue(self, name: str) -> QueueClient:
        """A queue whose bodies are base64, as the Functions host expects them."""
        return self._queues.get_queue_client(
            name,
            message_encode_policy=BinaryBase64EncodePolicy(),
            message_decode_policy=BinaryBase64DecodePolicy(),
        )

    async def create_all(self) -> None:
        """Create what Bicep creates in Azure; what exists already is left alone."""
        makers: list[Callable[[], Awaitable[object]]] = [
            *(self.table(name).create_table for name in msgspec.structs.astuple(NAMES.tables)),
            *(
                self.container(n).create_container
                for n in msgspec.structs.astuple(NAMES.containers)
            ),
            *(self.queue(name).create_queue for name in every_queue()),
        ]
        for make in makers:
            try:
                await make()
            except ResourceExistsError:
                continue

    async def close(self) -> None:
        await self._tables.close()
        await self._blobs.close()
        await self._queues.close()
        if self._credential:
            await self._credential.close()


def needs_proxy(where: str) -> bool:
    """Whether a proxy of the environment may be on the way to a connection string or an address.

    Where none is, nothing of the environment is to be asked: for each request two threads would
    read it, and ~/.netrc, which took a third of the processor time of all storage operations; a
    netrc that knows the host ends each of them. What is not https is on this machine.
    """
    leaves = where.startswith("https:") or "=https" in where.lower()
    return leaves and bool(getproxies().keys() - {"no"})


def open_credential(managed: bool, client_id: str | None) -> AsyncTokenCredential:
    """The identity that the app runs as, or the administrator's own sign-in."""
    # azure.identity takes 0.3 s to import: not where a connection string is used.
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

    if managed:
        return (
            ManagedIdentityCredential(client_id=client_id)
            if client_id
            else ManagedIdentityCredential()
        )
    return DefaultAzureCredential()
