"""Azurite: starts on loopback with a key of its own, keeps what it should, outlives nobody."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob.aio import BlobServiceClient

from local.azurite import ensure_azurite, running_azurite

ROOT = Path(__file__).resolve().parents[2]


async def test_three_services_answer_on_loopback() -> None:
    async with running_azurite() as azurite:
        addresses: list[tuple[str, str]] = re.findall(
            r"(\w+)Endpoint=([^;]+)", azurite.connection_string
        )
        assert [service for service, _ in addresses] == ["Blob", "Queue", "Table"]
        assert {urlsplit(address).hostname for _, address in addresses} == {"127.0.0.1"}
        assert azurite.process.returncode is None
    assert azurite.process.returncode is not None


async def test_key_is_new_at_each_start_and_asked_for() -> None:
    async with running_azurite() as one, running_azurite() as other:
        key = re.compile(r"AccountKey=([^;]+)")
        foreign = key.search(other.connection_string)
        assert foreign is not None
        forged = key.sub(lambda _: foreign[0], one.connection_string)
        async with BlobServiceClient.from_connection_string(forged) as service:
            with pytest.raises(HttpResponseError, match="AuthorizationFailure"):
                await service.get_container_client("config").create_container()
        arguments = Path(f"/proc/{one.process.pid}/cmdline")
        if arguments.exists():
            assert foreign[1].encode() not in arguments.read_bytes()


@pytest.mark.parametrize("on_disk", [True, False], ids=["directory", "memory"])
async def test_data_are_found_again_only_from_a_directory(tmp_path: Path, on_disk: bool) -> None:
    directory = tmp_path / "storage" if on_disk else None
    async with (
        running_azurite(directory) as azurite,
        BlobServiceClient.from_connection_string(azurite.connection_string) as service,
    ):
        await service.get_container_client("config").create_container()
        await service.get_blob_client("config", "stop").upload_blob(b"now")
    async with (
        running_azurite(directory) as azurite,
        BlobServiceClient.from_connection_string(azurite.connection_string) as service,
    ):
        blob = service.get_blob_client("config", "stop")
        if on_disk:
            assert await (await blob.download_blob()).readall() == b"now"
        else:
            with pytest.raises(ResourceNotFoundError):
                await blob.download_blob()


async def test_dies_with_its_parent(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "local.azurite", "--location", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert parent.stdout is not None
    connection_string = json.loads(await parent.stdout.readline())["connection_strings"][0]
    parent.kill()
    assert await parent.wait() == -signal.SIGKILL
    address = re.search(r"QueueEndpoint=http://127.0.0.1:(\d+)", connection_string)
    assert address is not None
    async with asyncio.timeout(10):
        while await _listens(int(address[1])):
            await asyncio.sleep(0.05)


async def test_two_installers_make_one_installation() -> None:
    assert (
        await asyncio.gather(*(asyncio.to_thread(ensure_azurite) for _ in range(2)))
        == [ensure_azurite()] * 2
    )
    assert os.access(ensure_azurite(), os.R_OK)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True
