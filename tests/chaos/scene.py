"""Storage on disk, a simulated tenant and inbox, and hosts: each a process that can be killed.

A host that was killed is followed by another one at the same address, on the same storage. Storage
can be stopped and started again, too: its address and its key stay, so that hosts live through it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from functions.wiring import App, build_app
from local.azurite import ACCOUNT, ensure_azurite
from local.inbox import Faults, Told
from local.inbox.fates import MailFate
from local.inbox.mailboxes import Entry
from local.node import NODE
from local.parts import Part, free_port, running_part, start_part
from shared.clock import StorageTime, write_clock_file
from shared.names import NAMES
from shared.rules.parcels import Parcel, State
from shared.settings import read_settings
from tests.chaos.findings import End, Taken
from tests.nudge_process import until
from tests.world import FORTNIGHT, NAME, environment_of

MASTER_KEY = "chaos"

_IN_FLIGHT = 0.3
"""Seconds in which storage answers what hosts that stand still had asked for before."""

_MAILS_AT_ONCE = 500

# Ends it with this process, however that ends.
_LEASH = """
process.stdin.on("end", () => process.kill(process.pid, "SIGTERM")).resume().unref();
require(process.argv[1]);
"""


class Storage:
    """Azurite on disk, whose addresses and key outlive its process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = base64.b64encode(secrets.token_bytes(64)).decode()
        self._ports = {name: free_port() for name in ("Blob", "Queue", "Table")}
        self._process: asyncio.subprocess.Process | None = None
        endpoints = "".join(
            f"{name}Endpoint=http://127.0.0.1:{port}/{ACCOUNT};"
            for name, port in self._ports.items()
        )
        self.connection_string = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={self._key};"
            f"{endpoints}"
        )

    async def start(self) -> None:
        program = await asyncio.to_thread(ensure_azurite)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *(str(NODE), "-e", _LEASH, str(program), "--silent", "--disableTelemetry"),
            *("--skipApiVersionCheck", "--disableProductStyleUrl"),
            *("--location", str(self._directory)),
            *(word for name, port in self._ports.items() for word in _listen(name, port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(self._directory),
                "AZURITE_ACCOUNTS": f"{ACCOUNT}:{self._key}",
            },
            process_group=0,
        )
        for port in self._ports.values():
            await until(lambda port=port: _answers(port))

    async def stop(self) -> None:
        """Let it write to disk what it keeps in memory, and end."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.terminate()
        await self._process.wait()
        self._process.stdin.close()


def _listen(service: str, port: int) -> tuple[str, ...]:
    name = service.lower()
    # Longer than any client keeps a connection.
    return f"--{name}Port", str(port), f"--{name}KeepAliveTimeout", "600"


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@dataclass
class Host:
    """A running host."""

    part: Part
    http: aiohttp.ClientSession

    async def under_way(self) -> set[str]:
        """The functions that run at this moment."""
        status = await self._ask("GET", "/admin/host/status")
        return set(status["underWay"])

    async def fire(self, timer: str) -> None:
        """Let a timer function run now."""
        await self._ask("POST", f"/admin/functions/{timer}", json={"input": ""})

    async def _ask(self, method: str, path: str, **options: Any) -> Any:
        async with self.http.request(
            method,
            f"{self.part.url}{path}",
            headers={"x-functions-key": MASTER_KEY},
            raise_for_status=True,
            **options,
        ) as answer:
            return await answer.json() if answer.status == 200 else None

    async def kill(self) -> None:
        """As when the machine takes it away: no chance to tidy up."""
        with contextlib.suppress(ProcessLookupError):
            self.part.process.kill()
        await self.part.ended()

    @contextlib.contextmanager
    def standing_still(self) -> Generator[None]:
        pid = self.part.process.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class _Accepted(msgspec.Struct, frozen=True):
    accepted: list[Entry]


class _TheInboxTold(msgspec.Struct, frozen=True):
    events: Told


class _Mail(msgspec.Struct, frozen=True):
    message_id: str
    index: int
    fate: MailFate


class _Mails(msgspec.Struct, frozen=True):
    messages: list[_Mail]


@dataclass
class Scene:
    """All that there is.

    Attributes:
        alumni: how many are on the roster.
        app: the product as a look from outside.
        log: what all hosts say.
    """

    alumni: int
    storage: Storage
    inbox_url: str
    environment: dict[str, str]
    port: int
    app: App
    http: aiohttp.ClientSession
    log: Path
    hosts: list[Host] = field(default_factory=list)

    async def start_host(self) -> Host:
        """A host at the address that the inbox tells; a second one beside it anywhere."""
        part = await start_part(
            "local.host",
            ("--port", str(0 if self.hosts else self.port)),
            environment=self.environment,
            log=self.log,
        )
        host = Host(part, self.http)
        self.hosts.append(host)
        return host

    async def kill(self, host: Host) -> None:
        self.hosts.remove(host)
        await host.kill()

    async def restart_storage(self, *, seconds: float) -> None:
        """Take storage away from under the hosts for so long.

        What storage has confirmed is on its disk afterwards, as in Azure: the hosts stand still
        while it ends, so that it is not asked for anything that it has no time to write.
        """
        with contextlib.ExitStack() as stack:
            for host in self.hosts:
                stack.enter_context(host.standing_still())
            await asyncio.sleep(_IN_FLIGHT)
            await self.storage.stop()
        await asyncio.sleep(seconds)
        await self.storage.start()

    async def accepted(self) -> list[Entry]:
        """Every call that the inbox accepted."""
        return msgspec.json.decode(await self._read("/accepted"), type=_Accepted).accepted

    async def told(self) -> Told:
        """How far the inbox has told of what it accepted."""
        return msgspec.json.decode(await self._read("/told"), type=_TheInboxTold).events

    async def faults(self) -> Faults:
        """What is still to go wrong at the inbox."""
        return msgspec.json.decode(await self._read("/faults"), type=Faults)

    async def set_faults(self, faults: Faults) -> None:
        async with self.http.post(
            f"{self.inbox_url}/faults", data=msgspec.json.encode(faults), raise_for_status=True
        ):
            pass

    async def rows(self) -> list[Parcel]:
        """All parcels of the ledger."""
        return [row async for row in self.app.status.scan_parcels(NAME)]

    async def is_any_left(self, *states: State, sweeps: int = 1) -> bool:
        """Whether something is still to come: receipts, a sweep with its planning, or what may
        become by now of rows in these states.

        Args:
            sweeps: how many there are to be.
        """
        sweep = await self.app.stores.sweeps.read_committed()
        standing = (await self.app.book.refresh()).standings[NAME]
        if sweep is None or sweep.number < sweeps:
            return True
        pair = (sweep.number, standing.version)
        if await self.app.stores.control.read_verdict(NAME, pair) is None:
            return True
        now = self.app.clock.campaign_now()
        return await self._is_more_told() or any(
            row.state in states and row.not_before <= now and not row.final
            for row in await self.rows()
        )

    async def _is_more_told(self) -> bool:
        if (await self.told()).waiting:
            return True
        queue = self.app.account.queue(NAMES.queues.receipts)
        return bool((await queue.get_queue_properties()).approximate_message_count)

    async def look(
        self, *, edited: tuple[int, StorageTime] | None = None, doubts_settled: bool = True
    ) -> End:
        """All there is to see at the end."""
        app = self.app
        sweep = await app.stores.sweeps.read_committed()
        standing = (await app.book.refresh()).standings[NAME]
        assert sweep is not None
        counts = await app.status.sum_counts(standing, sweep)
        assert counts is not None
        assert counts.roster == self.alumni
        return End(
            rows=await self.rows(),
            taken=await self._read_taken(),
            due={
                one.number: await app.plans.list_due(standing, one)
                for number in range(1, sweep.number + 1)
                if (one := await app.stores.sweeps.read(number)) and one.state == "committed"
            },
            unreached=await app.status.list_unreached(standing, sweep),
            now=app.clock.campaign_now(),
            edited=edited,
            doubts_settled=doubts_settled,
        )

    async def _read_taken(self) -> list[Taken]:
        calls = await self.accepted()
        fates: dict[str, dict[int, MailFate]] = {call.message_id: {} for call in calls}
        read, total = 0, sum(call.count for call in calls)
        while read < total:
            query = f"/messages?limit={_MAILS_AT_ONCE}&offset={read}"
            mails = msgspec.json.decode(await self._read(query), type=_Mails).messages
            for mail in mails:
                fates[mail.message_id][mail.index] = mail.fate
            read += len(mails)
        return [
            Taken(call.parcel or "", call.attempt or "", fates[call.message_id]) for call in calls
        ]

    async def _read(self, path: str) -> bytes:
        async with self.http.get(f"{self.inbox_url}{path}", raise_for_status=True) as answer:
            return await answer.read()


@contextlib.asynccontextmanager
async def running_scene(
    directory: Path, *, alumni: int, campaign: str, scale: float
) -> AsyncGenerator[Scene]:
    """A scene without a host, for the length of the block.

    Args:
        campaign: text of the campaign file.
        scale: of the ages.
    """
    clock = directory / "clock.json"
    write_clock_file(clock, FORTNIGHT)
    storage, port = Storage(directory / "storage"), free_port()
    public = f"http://127.0.0.1:{port}"
    people = ("--alumni", str(alumni), "--others", str(alumni // 10), "--no-throttle")
    common = ("--clock-file", str(clock))
    async with contextlib.AsyncExitStack() as stack:
        await storage.start()
        stack.push_async_callback(storage.stop)
        tenant = await stack.enter_async_context(running_part("local.tenant", [*people, *common]))
        inbox = await stack.enter_async_context(
            running_part("local.inbox", [*common, "--events-url", f"{public}/callbacks/sendgrid"])
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        environment = environment_of(storage.connection_string, tenant.url, inbox.url, clock) | {
            "ALLOWED_LINK_HOSTS": f"its.hku.hk,{urlsplit(public).hostname}",
            "AGES_SCALE": str(scale),
            "LOCAL_MASTER_KEY": MASTER_KEY,
            "PUBLIC_BASE_URL": public,
            "SENDGRID_WEBHOOK_PUBLIC_KEY": inbox.ready["webhook_key"],
            "SWEEP_SCHEDULE": "0 0 20 * * *",
        }
        app = build_app(read_settings(environment))
        stack.push_async_callback(app.close)
        await app.account.create_all()
        await app.stores.campaigns.write_file("alumni.yaml", campaign.encode())
        scene = Scene(
            alumni, storage, inbox.url, environment, port, app, http, log=directory / "host.log"
        )
        try:
            yield scene
        finally:
            for host in [*scene.hosts]:
                await scene.kill(host)
