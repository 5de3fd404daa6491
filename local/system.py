"""The local system: storage, a simulated world and the Functions host, put together and steered.

    Azurite ◄── host (the product itself) ──► simulated tenant, inbox
       ▲
       └── this process: puts the campaign file there, fires the first sweep, watches the ledger

What is named by GRAPH_BASE_URL, SENDGRID_BASE_URL or TWILIO_BASE_URL in the environment is used and
not simulated. The inbox stands for both providers, and tells the host what becomes of messages.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec

from functions.wiring import App, build_app
from local.azurite import Azurite, running_azurite
from local.campaign import LocalCampaign, default_time, read_campaign
from local.parts import Part, free_port, last_lines, running_part, start_part
from local.schedule import Schedule
from shared.clock import CampaignTime, write_clock_file
from shared.errors import SetupFault
from shared.rules.campaign import Campaign, CampaignMistakes
from shared.rules.parcels import CHANNELS
from shared.settings import is_loopback, read_settings

RUNNING = Path(__file__).resolve().parents[1] / ".local" / "running"
"""Where `nudge --local` finds the systems that run: a file for each, by its process."""

_PROVIDERS = ("SENDGRID_BASE_URL", "TWILIO_BASE_URL")
_SERVICES = ("GRAPH_BASE_URL", *_PROVIDERS)
_ACCOUNT = "AC" + "0" * 32
"""Of the simulated Twilio, which takes any."""

_MOST_SENDER = 11
"""Characters of an alphanumeric sender id."""

_RESTART_PAUSE = 0.2
_HOST_GRACE = 8
"""Seconds that functions under way have at the end; less than a part has."""


class RunningSystem(msgspec.Struct, frozen=True):
    """What stands in such a file: who runs the system, and the settings that it runs under."""

    pid: int
    values: dict[str, str]


def find_running_system() -> RunningSystem | None:
    """The local system that runs here, the youngest of several."""
    return max(_list_running(), default=(0.0, None), key=itemgetter(0))[1]


def _list_running() -> Iterator[tuple[float, RunningSystem]]:
    """The systems that run, with the time of their start. One that was killed has left its file
    behind, which goes."""
    for file in RUNNING.glob("*.json"):
        try:
            found = msgspec.json.decode(file.read_bytes(), type=RunningSystem)
            started_at = file.stat().st_mtime
        except (OSError, msgspec.DecodeError):
            continue  # it has just ended
        try:
            os.kill(found.pid, 0)
        except ProcessLookupError:
            file.unlink(missing_ok=True)
        except PermissionError:
            continue  # somebody else's, who has its number now
        else:
            yield started_at, found


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a local run is asked for.

    Attributes:
        at: the pretended time; None is 14 days before the deadline.
        keep: directory of the storage, found again by a later run; None keeps it in memory.
        port: of the product's HTTP; 0 takes a free one.
        throttled: whether the simulated tenant limits report requests, as Graph does.
    """

    campaign: Path
    alumni: int
    others: int
    at: datetime | None = None
    keep: Path | None = None
    port: int = 0
    throttled: bool = True


class LocalSystem:
    """A running local system.

    Attributes:
        file: name of the campaign file in `config`.
        sweep: number of the sweep that this run is about: the next one, or the one that a run
            before has left open.
        tenant_url, inbox_url, texts_url: where what is simulated is reached, of the inbox mails and
            texts; None for what is not.
        mails_go_to, texts_go_to: in words.
        log: what the host says.
        last_words: how that log ended, once the system has.
    """

    def __init__(
        self,
        app: App,
        local: LocalCampaign,
        at: CampaignTime,
        *,
        environment: Mapping[str, str],
        host_arguments: Sequence[str],
        log: Path,
        tenant: Part | None,
        inbox: Part | None,
        sweep: int,
    ) -> None:
        self.app = app
        self.campaign = local.campaign
        self.file = _file_of(local)
        self.at = at
        self.environment = environment
        self.tenant_url = tenant.url if tenant else None
        self.inbox_url, self.mails_go_to = _place_of("SENDGRID_BASE_URL", environment, inbox)
        self.texts_url, self.texts_go_to = _place_of("TWILIO_BASE_URL", environment, inbox)
        self.sweep = sweep
        self.log = log
        self.last_words = ""
        self._host_arguments = host_arguments
        self._host: Part | None = None

    async def run_host(self) -> None:
        """Keep a host running: it is started again when it dies, as Azure would."""
        try:
            while True:
                self._host = await start_part(
                    "local.host",
                    self._host_arguments,
                    environment=self.environment,
                    log=self.log,
                )
                await self._host.ended()
                self._host = None
                await asyncio.sleep(_RESTART_PAUSE)
        finally:
            if self._host:
                await self._host.close()
            self.last_words = last_lines(self.log)

    @property
    def status_url(self) -> str | None:
        """The product's status page, with the key that opens it; None where no host runs just
        now."""
        if self._host is None:
            return None
        return f"{self._host.url}/status?{urlencode({'code': self._host.ready['function_key']})}"

    def move_clock(self, to: CampaignTime) -> bool:
        """Pretend that it is `to` now. Returns whether the host's sweep timer fires on the way."""
        tick = Schedule(self.app.settings.sweep_schedule).next_after(self.app.clock.campaign_now())
        write_clock_file(Path(self.app.settings.clock_file), to)
        return tick <= to

    async def fire(self, timer: str) -> None:
        """Let a timer function run now, as the portal's button does."""
        while not await self._try_fire(timer):
            await asyncio.sleep(_RESTART_PAUSE)

    async def _try_fire(self, timer: str) -> bool:
        """False where there is no host just now."""
        if self._host is None:
            return False
        url = f"{self._host.url}/admin/functions/{timer}"
        headers = {"x-functions-key": str(self._host.ready["master_key"])}
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.post(url, headers=headers, json={"input": ""}) as answer,
            ):
                if answer.status != 202:
                    raise SetupFault(
                        f"{timer} could not be fired ({answer.status}).", "See the host's log."
                    )
        except aiohttp.ClientError:
            return False
        return True


@contextlib.asynccontextmanager
async def running_system(options: Options) -> AsyncGenerator[LocalSystem]:
    """The local system for the length of the block.

    Raises:
        SetupFault: the campaign file holds mistakes, a service that the environment names does not
            answer, or a part of the system does not start or ended by itself.
    """
    local = read_campaign(options.campaign)
    at = CampaignTime((options.at or default_time(local.campaign)).astimezone(UTC))
    for name in _SERVICES:
        if url := os.environ.get(name):
            await _check_answers(name, url)
    async with contextlib.AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mfa-nudge-")))
        clock_file = scratch / "clock.json"
        write_clock_file(clock_file, at)
        keep = options.keep
        azurite = await stack.enter_async_context(running_azurite(keep and keep / "storage"))
        parts: list[tuple[str, Part | Azurite]] = [("The storage", azurite)]
        port = options.port or free_port()
        public = f"http://127.0.0.1:{port}"
        environment = _environment(local, clock_file, azurite, _keys(keep))
        environment |= {"PUBLIC_BASE_URL": public}
        tenant: Part | None = None
        if graph := os.environ.get("GRAPH_BASE_URL"):
            auth = "anonymous" if is_loopback(graph) else "managed"
            environment |= {
                "GRAPH_BASE_URL": graph,
                "GRAPH_AUTH": os.environ.get("GRAPH_AUTH", auth),
            }
        else:
            arguments = [
                *("--alumni", str(options.alumni), "--others", str(options.others)),
                *("--clock-file", str(clock_file)),
                *("--deadline", local.campaign.deadline_at.isoformat()),
                *(() if options.throttled else ("--no-throttle",)),
            ]
            tenant = await stack.enter_async_context(running_part("local.tenant", arguments))
            parts.append(("The simulated tenant", tenant))
            environment |= {"GRAPH_BASE_URL": f"{tenant.url}/v1.0", "GRAPH_AUTH": "anonymous"}
        inbox: Part | None = None
        given = {name: url for name in _PROVIDERS if (url := os.environ.get(name))}
        if len(given) < len(_PROVIDERS):
            arguments = [
                *("--clock-file", str(clock_file), "--events-url", f"{public}/callbacks/sendgrid"),
                *("--zone", local.campaign.zone.key, "--home"),
            ]
            inbox = await stack.enter_async_context(running_part("local.inbox", arguments))
            parts.append(("The inbox", inbox))
            environment |= dict.fromkeys(_PROVIDERS, inbox.url)
        if "SENDGRID_BASE_URL" not in given and inbox:
            environment["SENDGRID_WEBHOOK_PUBLIC_KEY"] = inbox.ready["webhook_key"]
        environment |= given
        app = build_app(read_settings({**os.environ, **environment}))
        stack.push_async_callback(app.close)
        system = LocalSystem(
            app,
            local,
            at,
            environment=environment,
            host_arguments=[
                *("--port", str(port), "--clock-file", str(clock_file)),
                *("--campaign-timers", "sweep_start,housekeeping"),
                *("--grace", str(_HOST_GRACE)),
            ],
            log=(keep or scratch) / "host.log",
            tenant=tenant,
            inbox=inbox,
            sweep=await _prepare_storage(app, local, options.campaign.name),
        )
        _tell_where(stack, environment)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(system.run_host()),
                *(group.create_task(_end_all_with(name, part)) for name, part in parts),
            ]
            try:
                yield system
            finally:
                for task in tasks:
                    task.cancel()


async def _check_answers(name: str, url: str) -> None:
    """Raises SetupFault where nothing listens at an address of this machine. Others are asked
    through the product alone, which knows their credentials and the way to them."""
    if not is_loopback(url):
        return
    place = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(
            place.hostname, place.port or (443 if place.scheme == "https" else 80)
        )
    except (OSError, ValueError) as error:
        raise SetupFault(
            f"{name}: nothing answers at {url}.",
            f"Start the service there, or unset {name} to have it simulated.",
        ) from error
    writer.close()
    await writer.wait_closed()


def _file_of(local: LocalCampaign) -> str:
    return f"{local.campaign.campaign}.yaml"


async def _prepare_storage(app: App, local: LocalCampaign, file: str) -> int:
    """Put the campaign file there, under its campaign's name: however the file that was given is
    called, a later call with the same campaign replaces it.

    Returns the number of the sweep that comes next, or is open still. Raises CampaignMistakes where
    the file does not agree with what the campaign has done before.
    """
    await app.account.create_all()
    name = local.campaign.campaign
    await app.stores.campaigns.write_file(_file_of(local), local.text.encode())
    standing = (await app.book.refresh()).standings.get(name)
    if standing and standing.mistakes:
        raise CampaignMistakes(
            tuple(msgspec.structs.replace(one, file=file) for one in standing.mistakes)
        )
    # The settings that a provider refused are read anew at each start: try them at once.
    for channel in CHANNELS:
        await app.stores.control.lift(name, channel, {"setup"})
    head = await app.stores.sweeps.read_head()
    return head.number if head.open else head.number + 1


async def _end_all_with(name: str, part: Part | Azurite) -> None:
    code = await part.ended()
    raise SetupFault(f"{name} ended by itself ({code}).", "Start the local system again.")


def _environment(
    local: LocalCampaign, clock_file: Path, azurite: Azurite, keys: Mapping[str, str]
) -> dict[str, str]:
    """Settings of the host over what the caller's environment sets."""
    return {
        "SWEEP_SCHEDULE": os.environ.get("SWEEP_SCHEDULE", "0 0 20 * * *"),
        "SENDGRID_API_KEY": os.environ.get("SENDGRID_API_KEY", "local"),
        "TWILIO_ACCOUNT_SID": os.environ.get("TWILIO_ACCOUNT_SID", _ACCOUNT),
        "TWILIO_AUTH_TOKEN": os.environ.get("TWILIO_AUTH_TOKEN", secrets.token_hex(16)),
        "TWILIO_FROM": os.environ.get("TWILIO_FROM", _sender_id(local.campaign)),
        **keys,
        "ALLOWED_SENDERS": ",".join(local.senders),
        "ALLOWED_LINK_HOSTS": ",".join((*local.link_hosts, "127.0.0.1")),
        "AzureWebJobsStorage": azurite.connection_string,
        "CLOCK_FILE": str(clock_file),
    }


def _sender_id(campaign: Campaign) -> str:
    """As whom texts come: the institution's short name, as far as a sender id can hold it."""
    names = (*campaign.institution.short_name.values(), "University")
    kept = (re.sub(r"[^A-Za-z0-9 ]", "", name)[:_MOST_SENDER].strip() for name in names)
    return next(name for name in kept if re.search("[A-Za-z]", name))


def _place_of(
    name: str, environment: Mapping[str, str], inbox: Part | None
) -> tuple[str | None, str]:
    """Where the messages of a provider are looked at, and where they go to, in words."""
    if inbox and environment[name] == inbox.url:
        return inbox.url, "the local inbox"
    return None, environment[name]


def _keys(keep: Path | None) -> dict[str, str]:
    """Keys of links and of address hashes: made anew, and kept where the storage is kept."""
    file = keep / "keys.json" if keep else None
    if file and file.exists():
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    keys = {
        name: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        for name in ("LINK_KEYS", "ADDRESS_KEY")
    }
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(msgspec.json.encode(keys))
    return keys


def _tell_where(stack: contextlib.AsyncExitStack, environment: dict[str, str]) -> None:
    """Leave the settings where `nudge --local` looks, for as long as the system runs."""
    RUNNING.mkdir(parents=True, exist_ok=True)
    file = RUNNING / f"{os.getpid()}.json"
    fresh = file.with_suffix(".fresh")
    fresh.touch(mode=0o600)
    fresh.write_bytes(msgspec.json.encode(RunningSystem(os.getpid(), environment)))
    fresh.replace(file)
    stack.callback(file.unlink, missing_ok=True)
