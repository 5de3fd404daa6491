"""What runs in Azure: the package works by itself, holds what is used and not much more.

It is unpacked where neither the project nor its packages are on the path, and indexed and invoked
there by Microsoft's worker library.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from infra.package import GRAPH_REQUESTS, SITE, Package, described
from local.inbox import SigningKey
from local.serving import running_application
from local.tenant import Options
from local.worker import load_app
from shared.names import NAMES
from tests.conftest import missing_tool
from tests.nudge_process import until
from tests.telemetry_run import Ingestion, running_ingestion, telemetry_settings
from tests.world import World, running_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("packaged_process.py")
WORKER = ROOT / "local" / "worker.py"
GRAPH = f"{SITE}/msgraph/generated"


# So many that the report, the group and the users have a second page each.
PEOPLE = Options(alumni=1_100, others=100, throttled=False)
KEY = SigningKey()
SETTINGS = {
    "SENDGRID_WEBHOOK_PUBLIC_KEY": KEY.public,
    "TWILIO_ACCOUNT_SID": f"AC{'0' * 32}",
    "TWILIO_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
    "TWILIO_FROM": "HKU",
}
READERS = {
    NAMES.queues.sweep: "read_pages",
    NAMES.queues.plan: "plan_shards",
    NAMES.queues.email: "send_email",
    NAMES.queues.receipts: "settle_receipts",
}

REQUESTS = {
    "report": "ok",
    "report, second page": "ok",
    "group": "ok",
    "group, second page": "ok",
    "users": "ok",
    "users, second page": "ok",
    "methods": "ok",
    "row": "ok",
    "user": "ok",
}
"""Every request of shared/services/directory.py, and what comes of it where all is well."""


class Ended(Exception):
    """The process ended before it answered; the text is what it wrote to standard error."""


class PackagedProcess:
    """The package in its process.

    Attributes:
        functions: what was indexed.
        seconds: from the first import to the end of indexing.
        outside: what was on the path beside the package and the standard library.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.functions: list[str] = []
        self.seconds = 0.0
        self.outside: list[str] = []

    async def start(self) -> None:
        indexed = await self.read()
        self.functions, self.seconds = indexed["functions"], indexed["seconds"]
        self.outside = indexed["outside"]

    async def ask(self, **question: Any) -> Any:
        """See `Packaged.answer` of packaged_process.py."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(question) + b"\n")
        return await self.read()

    async def read(self) -> Any:
        assert self._process.stdout is not None
        if line := await self._process.stdout.readline():
            return msgspec.json.decode(line)
        raise Ended(self._log.read_text())

    async def end(self) -> None:
        """As the host ends a worker: no more questions."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@contextlib.asynccontextmanager
async def running_package(
    tree: Path, directory: Path, settings: Mapping[str, str]
) -> AsyncGenerator[PackagedProcess]:
    """The package under these settings and no others. Raises Ended where it cannot be indexed."""
    log = directory / "packaged.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-B", PROGRAM, tree, WORKER),
            cwd=directory,
            env={"PATH": os.environ["PATH"], **settings},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=1 << 20,
        )
    packaged = PackagedProcess(process, log)
    try:
        await packaged.start()
        yield packaged
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture(scope="module", autouse=True)
def like_azure() -> None:
    """The package holds code that is compiled for Azure's processors."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        missing_tool("a machine like Azure's: Linux on x86_64")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    _storage_accounts: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[World]:
    directory = tmp_path_factory.mktemp("world")
    account = next(_storage_accounts)
    async with running_world(account, directory, people=PEOPLE, **SETTINGS) as world:
        await world.write_campaign()
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ingestion() -> AsyncGenerator[tuple[Ingestion, str]]:
    """Where its telemetry goes, and the connection string of that."""
    async with running_ingestion() as ingestion:
        yield ingestion


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def packaged(
    tree: Path,
    world: World,
    ingestion: tuple[Ingestion, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[PackagedProcess]:
    """The package in that world."""
    directory = tmp_path_factory.mktemp("packaged")
    settings = world.environment | telemetry_settings(ingestion[1], directory)
    async with running_package(tree, directory, settings) as packaged:
        yield packaged


async def deliver(world: World, packaged: PackagedProcess) -> dict[str, int]:
    """What the host does with the queues, until they are empty: messages by function."""
    delivered: dict[str, int] = dict.fromkeys(READERS.values(), 0)
    while True:
        before = sum(delivered.values())
        for name, function in READERS.items():
            queue = world.app.account.queue(name)
            async for message in queue.receive_messages(visibility_timeout=600):
                answer = await packaged.ask(queue=function, body=bytes(message.content).decode())
                assert answer is None, (function, answer)
                await queue.delete_message(message)
                delivered[function] += 1
        if sum(delivered.values()) == before:
            return delivered


async def test_nothing_but_the_package_is_on_its_path(packaged: PackagedProcess) -> None:
    assert packaged.outside == []


async def test_every_function_is_found(
    package: Package, packaged: PackagedProcess, record_property: Callable[[str, object], None]
) -> None:
    record_property(
        "told", f"package: {described(package.manifest)}; {packaged.seconds} s to index"
    )
    own = sorted((await load_app(ROOT)).functions)
    assert packaged.functions == own
    assert list(package.manifest.functions) == own


async def test_a_campaign_goes_out(world: World, packaged: PackagedProcess) -> None:
    """From the timer over the tenant, the plan and release to people's inboxes."""
    assert await packaged.ask(timer="sweep_start") is None
    delivered = await deliver(world, packaged)
    assert delivered["read_pages"] >= 1
    assert delivered["plan_shards"] == 16

    assert await packaged.ask(timer="release_due") is None
    delivered |= await deliver(world, packaged)
    assert (await world.messages())["messages"], delivered


async def test_it_tells_of_itself(
    packaged: PackagedProcess, ingestion: tuple[Ingestion, str]
) -> None:
    """The exporter finds its parts by the entry points of installed packages."""
    assert await packaged.ask(timer="release_due") is None
    told, _ = ingestion
    await until(lambda: told.has_metric(NAMES.metrics.heartbeat) and bool(told.spans()))


async def test_pages_are_served(packaged: PackagedProcess) -> None:
    guide = await packaged.ask(http="show_guide", route={"language": "en"})
    assert guide["status"] == 200
    assert "<html" in guide["body"]
    status = await packaged.ask(http="show_status", headers={"accept": "text/html"})
    assert status["status"] == 200
    health = await packaged.ask(http="health")
    assert health["status"] == 200


async def test_receipts_without_a_signature_are_refused(packaged: PackagedProcess) -> None:
    for name in ("receive_sendgrid", "receive_twilio"):
        answer = await packaged.ask(http=name, method="POST")
        assert answer["status"] in (401, 403), (name, answer)


async def test_numbers_are_read(packaged: PackagedProcess) -> None:
    assert await packaged.ask(number="9123 4567", region="HK") == "+85291234567"
    assert await packaged.ask(number="+44 7400 123456", region=None) == "+447400123456"


async def test_every_request_to_graph_is_made(world: World, packaged: PackagedProcess) -> None:
    assert await packaged.ask(graph=world.graph_url) == REQUESTS


ERRORS = {
    400: ("SetupFault", "SkipTokenExpired"),
    401: ("SetupFault", "SetupFault"),
    403: ("SetupFault", "SetupFault"),
    410: ("SetupFault", "SkipTokenExpired"),
    429: ("RetryLater", "RetryLater"),
    503: ("RetryLater", "RetryLater"),
}
"""What a status means on a first page or for one account, and on a second page."""


async def test_every_refusal_of_graph_is_understood(packaged: PackagedProcess) -> None:
    async def refuse(request: web.Request) -> web.Response:
        body = {"error": {"code": "SomeCode", "message": "words", "innerError": {}}}
        status = int(request.match_info["status"])
        return web.json_response(body, status=status, headers={"Retry-After": "7"})

    application = web.Application()
    application.router.add_get("/{status}/v1.0/{path:.*}", refuse)
    async with running_application(application) as url:
        for status, (first, second) in ERRORS.items():
            found = await packaged.ask(graph=f"{url}/{status}/v1.0")
            wanted = {name: second if "second" in name else first for name in REQUESTS}
            assert found == wanted, status


async def test_of_graph_exactly_what_is_imported_is_there(
    tree: Path, world: World, packaged: PackagedProcess
) -> None:
    await packaged.ask(graph=world.graph_url)
    imported = await packaged.ask(imported="msgraph/generated")
    there = sorted(
        file.relative_to(tree / GRAPH).as_posix()
        for file in (tree / GRAPH).rglob("*.py")
        if file.stat().st_size
    )
    assert imported == there == sorted(f"{name}.py" for name in GRAPH_REQUESTS)


@pytest.fixture(scope="module")
def spoilt(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another copy, from which files are taken."""
    copy = tmp_path_factory.mktemp("spoilt") / "wwwroot"
    shutil.copytree(tree, copy, copy_function=os.link)
    return copy


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("functions/plan.py", "cannot import name 'plan' from 'functions'"),
        (f"{SITE}/twilio/request_validator.py", "No module named 'twilio.request_validator'"),
        (f"{SITE}/azure_functions_runtime/__init__.py", "azure_functions_runtime"),
    ],
)
async def test_without_a_file_of_the_app_it_is_not_indexed(
    spoilt: Path, tmp_path: Path, missing: str, said: str
) -> None:
    with without(spoilt / missing), pytest.raises(Ended, match=said):
        async with running_package(spoilt, tmp_path, {}):
            pass


async def test_without_a_file_a_page_a_number_or_a_request_fails(
    spoilt: Path, tmp_path: Path, world: World
) -> None:
    with contextlib.ExitStack() as stack:
        for missing in (
            "shared/messages/templates/guide.html.jinja",
            f"{SITE}/phonenumbers/data/region_HK.py",
            f"{GRAPH}/users/item/user_item_request_builder.py",
        ):
            stack.enter_context(without(spoilt / missing))
        async with running_package(spoilt, tmp_path, world.environment) as packaged:
            guide = await packaged.ask(http="show_guide", route={"language": "en"})
            assert "guide.html.jinja" in guide["failed"]
            found = await packaged.ask(graph=world.graph_url)
            with pytest.raises(Ended, match=r"No module named 'phonenumbers\.data\.region_HK'"):
                await packaged.ask(number="9123 4567", region="HK")
    module = "msgraph.generated.users.item.user_item_request_builder"
    assert found["user"] == f"ModuleNotFoundError: No module named '{module}'"
    assert found["report"] == "ok"


@contextlib.contextmanager
def without(file: Path) -> Iterator[None]:
    """The file is away for the length of the block."""
    away = file.with_name(f"{file.name}.away")
    file.rename(away)
    try:
        yield
    finally:
        away.rename(file)
