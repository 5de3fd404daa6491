"""Waves whose provider takes its time: a second host makes them faster, and what an administrator
does in the middle of one is heeded soon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from local.inbox import Fault, Faults
from shared.clock import StorageTime, monotonic
from shared.names import NAMES
from shared.rules.parcels import State
from tests.chaos.findings import judge
from tests.chaos.scene import Host, Scene, running_scene
from tests.nudge_process import until
from tests.sending import campaign_text
from tests.world import NAME

SCALE = 0.1
"""Of the ages, and of the minute in which the timer comes: what a host remembers for a while is as
long beside it as in production."""

MINUTE = timedelta(minutes=1) * SCALE


@asynccontextmanager
async def running_wave(directory: Path, *, slow: float) -> AsyncGenerator[tuple[Scene, Host]]:
    """A wave of some 170 parcels that has just begun, and its host.

    Args:
        slow: seconds that the provider takes for each call.
    """
    campaign = campaign_text(parcel_size=4)
    async with running_scene(directory, alumni=1800, campaign=campaign, scale=SCALE) as scene:
        await scene.set_faults(Faults(calls=[Fault(slow=slow, times=None)]))
        host = await scene.start_host()
        await host.fire("sweep_start")
        await until(scene.accepted)
        yield scene, host


async def finish(scene: Scene, host: Host) -> None:
    while await scene.is_any_left(State.PLANNED, State.CLAIMED):
        await host.fire("release_due")
        await asyncio.sleep(1)


async def measure(scene: Scene, calls: int) -> float:
    """Calls a second that the provider accepts, over so many from now on."""
    began, before = monotonic(), len(await scene.accepted())

    async def done() -> bool:
        return len(await scene.accepted()) >= before + calls

    await until(done)
    return calls / (monotonic() - began)


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_two_hosts_are_faster_than_one(tmp_path: Path) -> None:
    """Where the provider is what they wait for: each makes so many calls side by side."""
    async with running_wave(tmp_path, slow=2) as (scene, host):
        alone = await measure(scene, 32)
        second = await scene.start_host()

        async def is_sending() -> bool:
            return "send_email" in await second.under_way()

        await until(is_sending)
        together = await measure(scene, 56)
        assert await scene.is_any_left(State.PLANNED)
        await finish(scene, host)
        found = judge(await scene.look(doubts_settled=False))
    assert (found.breaches, found.doubled) == ((), {})
    assert together > 1.3 * alone


async def test_what_is_done_in_the_middle_of_a_wave_is_heeded(tmp_path: Path) -> None:
    """Within a minute, and an edit of the file within two; what is claimed is left to end.

    The provider refuses now and then: rows come back to planned under the older version.
    """
    async with running_wave(tmp_path, slow=0.7) as (scene, host):
        app = scene.app
        config = app.account.container(NAMES.containers.config)

        async def pause() -> None:
            await app.operations.pause(NAME, "The help desk is closed.", "registrar")

        async def resume() -> None:
            await app.operations.resume(NAME, "registrar")

        async def stop() -> None:
            await config.upload_blob("stop", b"")

        async def go_on() -> None:
            await config.delete_blob("stop")

        for halt, lift in ((pause, resume), (stop, go_on)):
            await halts(scene, host, halt)
            await lift()
            await host.fire("release_due")
            await measure(scene, 20)

        busy = Fault(slow=0.7, status=429, headers={"Retry-After": "1"}, times=10)
        await scene.set_faults(Faults(calls=[busy, Fault(slow=0.3, times=None)]))

        async def is_refused() -> bool:
            rows = await scene.rows()
            return any(row.claimed_at for row in rows if row.state is State.PLANNED)

        await until(is_refused)
        edited = await save(scene, campaign_text(parcel_size=4, help_desk="help@its.hku.hk"))
        await host.fire("release_due")
        await finish(scene, host)
        seen = await scene.look(doubts_settled=False)
    assert judge(seen).breaches == ()
    assert {row.version for row in seen.rows if row.state is State.ACCEPTED} == {1, 2}
    claims = [row.claimed_at for row in seen.rows if row.version == 1 and row.claimed_at]
    assert max(claims) < edited + 2 * MINUTE
    assert any(
        row.version == 1 and row.claimed_at for row in seen.rows if row.state is State.CLOSED
    )


async def halts(scene: Scene, host: Host, halt: Callable[[], Awaitable[None]]) -> None:
    """See that nothing is claimed any more a minute after this, and that much is left."""
    await halt()
    halted_at = scene.app.clock.storage_now()
    await host.fire("release_due")
    await asyncio.sleep(1.2 * MINUTE.total_seconds())
    rows = await scene.rows()
    assert max(row.claimed_at for row in rows if row.claimed_at) < halted_at + MINUTE
    assert {row.state for row in rows if row.claimed_at} == {State.ACCEPTED}
    assert sum(row.state is State.PLANNED for row in rows) > 30


async def save(scene: Scene, campaign: str) -> StorageTime:
    await scene.app.stores.campaigns.write_file("alumni.yaml", campaign.encode())
    return scene.app.clock.storage_now()
