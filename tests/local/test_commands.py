"""The commands of an administrator and the help desk, as processes against a storage account: what
they print, as text and as JSON, and how they exit."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from functions.wiring import build_app
from shared.settings import read_settings
from shared.stores.queues import PlanShard
from tests.nudge_process import run_nudge
from tests.world import NAME, World, running_world


@pytest.fixture
async def world(connection_string: str, tmp_path: Path) -> AsyncGenerator[World]:
    async with running_world(connection_string, tmp_path) as world:
        yield world


async def nudge(world: World, *words: str) -> str:
    code, out, error = await run_nudge(*words, **world.environment)
    assert (code, error) == (0, "")
    return out


async def nudge_json(world: World, *words: str) -> Any:
    return json.loads(await nudge(world, *words, "--json"))


async def test_planning_again_needs_a_sweep_and_says_what_it_asks_for(world: World) -> None:
    await world.write_campaign()
    await world.app.book.refresh(accept=True)
    code, out, error = await run_nudge("plan", "--now", "--json", **world.environment)
    assert (code, out) == (1, "")
    assert "No sweep has been committed yet" in error
    assert "Fix: `nudge sweep --now`" in error

    await world.sweep()
    asked = {"sweep": 1, "version": 1, "asked": 16, "under_way": 0, "refused": ""}
    assert await nudge_json(world, "plan", "--now") == {"campaigns": {NAME: asked}}
    assert await world.run_queues() >= 16
    assert await nudge(world, "plan", "--now", NAME) == (
        f"{NAME}: 16 shards to be planned under sweep 1, version 1.\n"
    )
    code, out, error = await run_nudge("plan", "--now", "nobody", **world.environment)
    assert (code, out) == (1, "")
    assert "There is no campaign `nobody`" in error

    await world.app.account.container("config").delete_blob("alumni.yaml")
    code, out, error = await run_nudge("plan", "--now", **world.environment)
    assert (code, out, error) == (1, f"{NAME}: not planned, it has no file.\n", "")


async def test_a_sweep_begins_without_waiting_for_the_night(world: World) -> None:
    code, out, error = await run_nudge("sweep", "--now", **world.environment)
    assert (code, error) == (1, "")
    assert out == "No campaign needs a sweep: each has ended, or has no file.\n"

    await world.write_campaign()
    begun = "Sweep 1 has begun. `nudge status` shows how far it is.\n"
    assert await nudge(world, "sweep", "--now") == begun
    assert await nudge(world, "sweep", "--now") == "Sweep 1 is under way already.\n"
    assert await world.run_queues() > 0
    sweep = await world.app.stores.sweeps.read_committed()
    assert sweep
    assert sweep.number == 1
    assert await nudge_json(world, "sweep", "--now") == {"sweep": 2, "opened": True, "open": True}


async def test_one_person_by_id_and_by_name(world: World) -> None:
    await world.write_campaign()
    await world.sweep()
    await world.release()
    user = (await world.get_json(f"{world.graph_url}/users", **{"$top": "1"}))["value"][0]
    text = await nudge(world, "person", user["id"])
    assert text.startswith(f"{user['id']}\n\n{NAME}: version 1, live, Asia/Hong_Kong\n  sweep 1: ")
    found = await nudge_json(world, "person", user["userPrincipalName"])
    assert found["id"] == user["id"]
    (chapter,) = found["campaigns"]
    assert chapter["campaign"] == NAME
    for personal in (user["displayName"], user["userPrincipalName"]):
        assert personal not in text + json.dumps(found)
    words = ("person", "nobody@connect.example.edu")
    code, out, error = await run_nudge(*words, **world.environment)
    assert (code, out) == (1, "")
    assert "The directory has no account of this name. Fix: " in error


async def test_what_died_and_a_channel_that_is_paused(world: World) -> None:
    await world.write_campaign()
    await world.sweep()
    assert await nudge(world, "poison") == "Nothing died in the last 90 days.\n"
    await world.app.poison.note("plan", "one", b"no JSON", PlanShard)
    (message,) = (await nudge_json(world, "poison"))["messages"]
    assert (message["queue"], message["about"]) == ("plan", {})
    assert "not a PlanShard message" in await nudge(world, "poison")

    assert await nudge(world, "pause", NAME, "--channel", "sms") == f"SMS of {NAME} is paused.\n"
    app = world.keep(build_app(read_settings(world.environment)))
    assert (await app.stores.control.read(NAME, "email")).pauses == {}
    lifted = {"campaign": NAME, "lifted": ["administrator"]}
    assert await nudge_json(world, "resume", NAME, "--channel", "email") == lifted | {"lifted": []}
    assert await nudge_json(world, "resume", NAME) == lifted


async def test_a_command_asks_graph_as_whoever_types_it(world: World) -> None:
    """Where GRAPH_AUTH is not set it is the administrator's own sign-in, never an app's."""
    settings = {name: value for name, value in world.environment.items() if name != "GRAPH_AUTH"}
    code, out, error = await run_nudge("person", "a@connect.example.edu", **settings)
    assert (code, out) == (1, "")
    assert "GRAPH_AUTH is default" in error
