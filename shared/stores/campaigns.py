"""Campaign files as administrators write them, and the versions of them that took effect.

config/*.yaml                            the files; `config/stop` stops all sending
config-versions/{campaign}/{n:06d}.yaml  version n: the text, with the file's name as metadata
config-versions/{campaign}/waves         something of this campaign has gone out
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

if TYPE_CHECKING:
    from azure.storage.blob.aio import ContainerClient

STOP = "stop"
_WAVES = "waves"
_VERSION = re.compile(r"([0-9]+)\.yaml")


class FileSeen(msgspec.Struct, frozen=True):
    """A campaign file as the listing shows it."""

    name: str
    etag: str


class VersionSeen(msgspec.Struct, frozen=True):
    """A version as the listing shows it; `file` is the name that the file had."""

    campaign: str
    number: int
    file: str


class Listing(msgspec.Struct, frozen=True):
    """What lies in the container `config`."""

    files: tuple[FileSeen, ...]
    stopped: bool


class CampaignStore:
    """Reads files, keeps versions."""

    def __init__(self, config: ContainerClient, versions: ContainerClient) -> None:
        self._config = config
        self._versions = versions

    async def list_files(self) -> Listing:
        files: list[FileSeen] = []
        stopped = False
        async for blob in self._config.list_blobs():
            if blob.name == STOP:
                stopped = True
            elif blob.name.endswith((".yaml", ".yml")):
                files.append(FileSeen(blob.name, blob.etag))
        return Listing(tuple(files), stopped)

    async def read_file(self, name: str) -> bytes | None:
        """A file's bytes; None where it is gone meanwhile."""
        try:
            return await (await self._config.get_blob_client(name).download_blob()).readall()
        except ResourceNotFoundError:
            return None

    async def write_file(self, name: str, body: bytes) -> None:
        await self._config.get_blob_client(name).upload_blob(body, overwrite=True)

    async def list_newest(self) -> dict[str, VersionSeen]:
        """The newest version of each campaign."""
        newest: dict[str, VersionSeen] = {}
        # Names sort by number within a campaign, so the last one of each is the newest.
        async for blob in self._versions.list_blobs(include=["metadata"]):
            campaign, _, name = blob.name.partition("/")
            if number := _VERSION.fullmatch(name):
                newest[campaign] = VersionSeen(
                    campaign, int(number[1]), (blob.metadata or {}).get("file", "")
                )
        return newest

    async def read_version(self, campaign: str, number: int) -> bytes:
        blob = self._versions.get_blob_client(_version_name(campaign, number))
        return await (await blob.download_blob()).readall()

    async def write_version(self, campaign: str, number: int, body: bytes, file: str) -> bool:
        """Keep a version. False where someone else has written this number."""
        blob = self._versions.get_blob_client(_version_name(campaign, number))
        try:
            await blob.upload_blob(body, overwrite=False, metadata={"file": file})
        except ResourceExistsError:
            return False
        return True

    async def mark_waves(self, campaign: str) -> None:
        """Remember outside of the ledger that something of this campaign has gone out."""
        blob = self._versions.get_blob_client(f"{campaign}/{_WAVES}")
        try:
            await blob.upload_blob(b"waves have gone out\n", overwrite=False)
        except ResourceExistsError:
            return

    async def waves_went_out(self, campaign: str) -> bool:
        return await self._versions.get_blob_client(f"{campaign}/{_WAVES}").exists()


def _version_name(campaign: str, number: int) -> str:
    return f"{campaign}/{number:06d}.yaml"
