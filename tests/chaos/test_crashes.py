"""A host that is killed at the worst moment, and two hosts at once: the same end as without.

Real processes: `nudge local` with its storage on disk; its host is killed and started again.
Tenant and inbox are the test's own, so that they can be made slow at the right moment and asked
afterwards. What the ledger says is read from the disk when all is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from functions.wiring import App, build_app
from local.azurite import running_azurite
from local.inbox import Options as InboxOptions
from local.inbox import running_inbox
from local.tenant import Options as TenantOptions
from local.tenant import running_tenant
from shared.rules.parcels import OPEN, Parcel, State
from shared.settings import read_settings
from shared.workflows.plan import format_id
from tests.nudge_process import (
    NudgeProcess,
    command_line,
    environment_of,
    kill,
    running_nudge,
    until,
)
from tests.world import EXAMPLE, FORTNIGHT, NAME, write_clock_file

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = EXAMPLE.parent
ALUMNI, OTHERS = 900, 300
SIDE_BY_SIDE = 16
"""Messages of one queue that a host works on at once: batchSize and newBatchThreshold."""

SCALE = "0.02"
"""Of the ages: what a dead host had taken from a queue comes back after 12 s instead of 10 min."""


@dataclass(frozen=True)
class World:
    """What lies around one run: a campaign file, and services of its own.

    Of these people nobody registers within two hours of the pretended time, so that it does not
    matter when exactly a run reads the report.
    """

    campaign: Path
    graph_url: str
    inbox_url: str
    http: aiohttp.ClientSession

    async def fault(self, base: str, **fault: Any) -> None:
        async with self.http.post(f"{base}/faults", json=fault) as answer:
            assert answer.status < 300, await answer.text()

    async def get(self, url: str) -> Any:
        async with self.http.get(url) as answer:
            return await answer.json()

    async def accepted(self) -> list[dict[str, Any]]:
        """Every call that the inbox accepted."""
        return (await self.get(f"{self.inbox_url}/accepted"))["accepted"]


@dataclass(frozen=True)
class End:
    """How a run ended.

    Attributes:
        mails: person, touch and channel of each mail that the inbox accepted.
        unreached: object ids, with the reason, as `--ledger` writes them.
        open: person, touch and state of all that something may still come of.
        rows: the ledger.
        calls: accepted calls, by the id of their parcel.
    """

    mails: list[tuple[str, str, str]]
    unreached: dict[str, str]
    open: set[tuple[str, str, str]]
    rows: list[Parcel]
    calls: Counter[str]

    def same_as(self, other: End) -> bool:
        return (self.mails, self.unreached, self.open) == (
            other.mails,
            other.unreached,
            other.open,
        )


@contextlib.asynccontextmanager
async def running_world(directory: Path) -> AsyncGenerator[World]:
    clock = directory / "clock.json"
    write_clock_file(clock, FORTNIGHT)
    campaign = directory / "alumni.yaml"
    campaign.write_text(EXAMPLE.read_text().replace("parcel_size: 500", "parcel_size: 10"))
    people = TenantOptions(alumni=ALUMNI, others=OTHERS, throttled=False, clock_file=clock)
    async with (
        running_tenant(people) as graph_url,
        running_inbox(InboxOptions(clock_file=clock)) as inbox_url,
        aiohttp.ClientSession() as http,
    ):
        yield World(campaign, graph_url, inbox_url, http)


type Disturbance = Callable[[World, NudgeProcess, App], Awaitable[None]]


async def run(directory: Path, disturb: Disturbance | None = None, *, scale: str = SCALE) -> End:
    """One run of the local system in a fresh world, disturbed or not."""
    async with running_world(directory) as world:
        keep, ledger = directory / "keep", directory / "ledger.json"
        async with running_nudge(
            *("--once", "--json", "--campaign", str(world.campaign), "--at", str(FORTNIGHT)),
            *("--keep", str(keep), "--ledger", str(ledger)),
            GRAPH_BASE_URL=f"{world.graph_url}/v1.0",
            SENDGRID_BASE_URL=world.inbox_url,
            AGES_SCALE=scale,
        ) as nudge:
            settings = environment_of(await nudge.part("local.host"))
            if disturb:
                async with nudge.app() as app:
                    await disturb(world, nudge, app)
            code, out, error = await nudge.end()
            assert code == 0, error
            assert json.loads(out)["sweep"]["roster"] == ALUMNI
        calls = await world.accepted()
        rows = await read_ledger(keep, settings)
    by_id = {f"{NAME}:{row.shard:x}|{row.key}": row for row in rows}
    mails = [
        (format_id(row.ids[16 * index : 16 * index + 16]), row.touch, row.channel)
        for call in calls
        for row in [by_id[call["parcel"]]]
        for index in call["indices"]
    ]
    return End(
        mails=sorted(mails),
        unreached=json.loads(ledger.read_bytes())["unreached"],
        open={
            (format_id(person), row.touch, row.state.value)
            for row in rows
            if row.state in OPEN and not row.final
            for _, person in row.people()
        },
        rows=rows,
        calls=Counter(call["parcel"] for call in calls),
    )


async def read_ledger(keep: Path, settings: dict[str, str]) -> list[Parcel]:
    """The rows that a run has left on disk."""
    async with running_azurite(keep / "storage") as azurite:
        connection = {"AzureWebJobsStorage": azurite.connection_string, "CLOCK_FILE": ""}
        app = build_app(read_settings(settings | connection))
        try:
            return [row async for row in app.status.scan_parcels(NAME)]
        finally:
            await app.close()


async def kill_host_when(nudge: NudgeProcess, look: Callable[[], Awaitable[bool]]) -> None:
    """Kill the host while what `look` sees is so, and see that another one takes its place.

    The host is made to stand still before it is looked at once more: what is seen then is what the
    kill meets.
    """
    host = nudge.parts()["local.host"]

    async def caught() -> bool:
        if not await look():
            return False
        os.kill(host, signal.SIGSTOP)
        await asyncio.sleep(0.1)  # for what the host had sent to storage before
        if await look():
            return True
        os.kill(host, signal.SIGCONT)
        return False

    await until(caught)
    kill(host)
    await nudge.part("local.host", other_than=host)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> End:
    """The end that all others are compared with."""
    end = await run(tmp_path_factory.mktemp("undisturbed"))
    assert set(end.unreached.values()) == {"no usable contact"}
    assert len(end.mails) > 300
    assert len(end.calls) > 2 * SIDE_BY_SIDE
    assert not end.open
    return end


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_killed_in_the_middle_of_a_sweep(undisturbed: End, tmp_path: Path) -> None:
    async def disturb(world: World, nudge: NudgeProcess, app: App) -> None:
        async def second_page_is_asked_for() -> bool:
            faults = await world.get(f"{world.graph_url}/faults")
            return not faults.get("registrations") and (await app.stores.sweeps.read_head()).open

        # The first page is written, and the answer to the request for the second one hangs.
        await world.fault(world.graph_url, registrations=[{"kind": "hang", "after": 1}])
        await kill_host_when(nudge, second_page_is_asked_for)

    assert (await run(tmp_path, disturb)).same_as(undisturbed)


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_killed_in_the_middle_of_planning(undisturbed: End, tmp_path: Path) -> None:
    async def disturb(world: World, nudge: NudgeProcess, app: App) -> None:
        async def a_shard_is_half_planned() -> bool:
            for shard in range(16):
                fence = await app.stores.ledger.read_fence(NAME, shard)
                if fence and not fence.done:
                    return True
            return False

        await kill_host_when(nudge, a_shard_is_half_planned)
        assert await app.stores.control.read_verdict(NAME, (1, 1)) is None

    assert (await run(tmp_path, disturb)).same_as(undisturbed)


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_killed_in_the_middle_of_release(undisturbed: End, tmp_path: Path) -> None:
    async def disturb(world: World, nudge: NudgeProcess, app: App) -> None:
        async def some_shards_are_stamped() -> bool:
            first, last = [
                [row async for row in app.stores.ledger.scan_recent(NAME, shard)]
                for shard in (0, 15)
            ]
            return any(row.released_at for row in first) and not any(
                row.released_at for row in last
            )

        await kill_host_when(nudge, some_shards_are_stamped)
        rows = [row async for row in app.status.scan_parcels(NAME)]
        assert {row.state for row in rows} == {State.PLANNED}

    assert (await run(tmp_path, disturb)).same_as(undisturbed)


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_killed_in_the_middle_of_sending(undisturbed: End, tmp_path: Path) -> None:
    """Calls under way may have been accepted: each is in doubt, none is lost, none is repeated."""

    async def disturb(world: World, nudge: NudgeProcess, app: App) -> None:
        await world.fault(world.inbox_url, calls=[{"slow": 0.3, "times": None}])

        async def some_have_gone_and_some_are_on_their_way() -> bool:
            rows = [row async for row in app.status.scan_parcels(NAME)]
            claimed = any(row.state is State.CLAIMED for row in rows)
            return claimed and len(await world.accepted()) > 2

        await kill_host_when(nudge, some_have_gone_and_some_are_on_their_way)

    end = await run(tmp_path, disturb)
    in_doubt = [row for row in end.rows if row.state is State.AMBIGUOUS]
    assert in_doubt
    assert "abandoned" in {row.reason for row in in_doubt}
    assert {row.state for row in end.rows} == {State.AMBIGUOUS, State.ACCEPTED}

    assert set(end.calls.values()) == {1}
    ids = {f"{NAME}:{row.shard:x}|{row.key}": row.state for row in end.rows}
    for parcel, state in ids.items():
        assert parcel in end.calls or state is State.AMBIGUOUS

    assert max(Counter(end.mails).values()) == 1
    doubtful = {(format_id(p), row.touch, row.channel) for row in in_doubt for _, p in row.people()}
    assert set(end.mails) | doubtful == set(undisturbed.mails)
    for person, _, _ in doubtful:
        assert end.unreached.pop(person) == "no clear answer"
    assert end.unreached == undisturbed.unreached


@contextlib.asynccontextmanager
async def second_host(first: int, log: Path) -> AsyncGenerator[None]:
    """Another host on the storage of the first one, under the same settings."""
    words = command_line(first).split()
    words[words.index("--port") + 1] = "0"
    with log.open("wb") as errors:
        host = await asyncio.create_subprocess_exec(
            *words,
            cwd=ROOT,
            env=environment_of(first),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
    try:
        assert host.stdout is not None
        assert await host.stdout.readline(), log.read_text()
        yield
    finally:
        host.kill()
        await host.wait()


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_two_hosts_on_one_storage(undisturbed: End, tmp_path: Path) -> None:
    """Two planners, two releasers and two senders, none of which knows of the other."""
    log = tmp_path / "second.log"
    logs = (log, tmp_path / "keep" / "host.log")

    async def disturb(world: World, nudge: NudgeProcess, app: App) -> None:
        async def both_have_planned() -> bool:
            # Asked for from before the commit on, so that neither host is between two slow looks at
            # its queue while the other one plans everything.
            await app.sweeps.ask_for_plans(await app.book.refresh(), 1)
            return all("shard_planned" in host.read_text() for host in logs)

        async def more_are_under_way_than_one_host_sends() -> bool:
            rows = [row async for row in app.status.scan_parcels(NAME)]
            return sum(row.state is State.CLAIMED for row in rows) > SIDE_BY_SIDE

        # The report is not to be had until the second host is up, too.
        busy = {"status": 429, "retry_after": "6"}
        await world.fault(world.graph_url, registrations=[busy])
        await world.fault(world.inbox_url, calls=[{"slow": 0.5, "times": None}])
        async with second_host(nudge.parts()["local.host"], log):
            await until(both_have_planned)
            await until(more_are_under_way_than_one_host_sends)
            await nudge.process.wait()

    end = await run(tmp_path, disturb, scale="1")
    assert end.same_as(undisturbed)
    assert set(end.calls.values()) == {1}
    for host in logs:
        assert "shard_planned" in host.read_text(), "only one of the hosts has planned"
