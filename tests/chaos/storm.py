"""A wave from its sweep to its last doubt, while the host is killed again and again.

Kills fall at random times, and then at the next moment at which a kind of work is under way that
was cut short least often so far. They come faster where the wave gets on faster than they do. In
between the campaign file is edited, people are read anew, and storage goes away for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import aiohttp
from azure.core.exceptions import AzureError

from shared.clock import Ages, StorageTime, monotonic
from shared.rules.parcels import State
from tests.chaos.findings import End, Findings, judge
from tests.chaos.scene import Host, Scene, running_scene
from tests.chaos.weather import Weather
from tests.sending import campaign_text

PHASES: Final[Mapping[str, frozenset[str]]] = {
    "sweep": frozenset({"sweep_start", "read_pages"}),
    "planning": frozenset({"plan_shards"}),
    "release": frozenset({"release_due"}),
    "sending": frozenset({"send_email"}),
    "receipts": frozenset({"receive_sendgrid", "settle_receipts"}),
}
"""Kinds of work, by the functions that do it."""

NOTHING: Final = "nothing"

_TICK = 2.0
"""Seconds after which the minute timer is let run again: the other ages are shortened, too."""

_LIFE = 1.5
"""Seconds for which a host lives on average, once it is ready."""

_PATIENCE = 1.5
"""Seconds more, for a moment at which what was cut short least often is under way."""

_OUTAGE = 2.0
_SHORT_LIMIT = 180.0  # seconds after the last kill
_HELP_DESK, _HELP_DESK_LATER = "ithelp@hku.hk", "help@its.hku.hk"
_DUE = 3 / 8
"""Of all alumni, fourteen days before the deadline."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much a storm does.

    Attributes:
        scale: of the ages.
        short: leaves out what takes minutes: a rate, a third sweep, doubts that are decided.
    """

    alumni: int = 54_000
    kills: int = 100
    seed: int = 0
    scale: float = 0.02
    short: bool = False

    @property
    def recipients(self) -> int:
        """About so many people are due."""
        return int(self.alumni * _DUE)

    def campaign(self, help_desk: str) -> str:
        """Parcels that are many; and a rate at which as much time goes by as many kills take."""
        per_hour = ""
        if not self.short:
            # What the rate lets out in five minutes goes at once.
            minutes = self.kills / 10
            per_hour = str(int(12 * self.recipients / (1 + minutes / 5)))
        text = campaign_text(
            parcel_size=max(2, min(10, self.recipients // 200)),
            per_hour=per_hour,
            help_desk=help_desk,
        )
        # Half of all calls go wrong: nobody is to be asked about that.
        return text.replace("# guards: {ambiguous: 0.02,", "guards: {ambiguous: 1,")


@dataclass
class Outcome:
    """What happened.

    Attributes:
        kills: how many met which kind of work; one may have met several, or nothing.
        met: what calls met at the provider.
        spells: how the provider told of what it took.
        seconds: from the first host's start to the last settled row.
    """

    kills: Counter[str]
    met: Counter[str]
    spells: Counter[str]
    findings: Findings
    seconds: float


@dataclass
class Storm:
    """A storm over a scene."""

    scene: Scene
    size: Size
    random: Random
    weather: Weather
    say: Callable[[str], None]
    kills: Counter[str] = field(default_factory=Counter)
    host: Host | None = None
    sweeps: int = 1
    edited: tuple[int, StorageTime] | None = None
    progress: float = 0.0

    async def blow(self) -> None:
        """Kill hosts, as many as the size says."""
        happenings = self._happenings()
        await self.weather.change()
        for number in range(self.size.kills):
            self.host = host = await self.scene.start_host()
            if happening := happenings.get(number):
                await happening()
            self.progress = await self._measure()
            met = await self._choose_moment(host, number / self.size.kills)
            self.host = None
            await self.scene.kill(host)
            self.kills.update(met or {NOTHING})
            self.say(f"kill {number + 1}: {', '.join(sorted(met)) or NOTHING}, {self.progress:.0%}")
            await self.weather.change()

    def _happenings(self) -> dict[int, Callable[[], Awaitable[None]]]:
        """What else happens, by the number of the kill that comes next."""
        shares = {0.25: self._edit, 0.4: self._sweep_again, 0.5: self._take_storage_away}
        if not self.size.short:
            shares[0.7] = self._sweep_again
        return {int(share * self.size.kills): happening for share, happening in shares.items()}

    async def _edit(self) -> None:
        text = self.size.campaign(_HELP_DESK_LATER)
        await self.scene.app.stores.campaigns.write_file("alumni.yaml", text.encode())
        self.edited = 2, self.scene.app.clock.storage_now()

    async def _sweep_again(self) -> None:
        self.sweeps += 1

    async def _take_storage_away(self) -> None:
        await self.scene.restart_storage(seconds=_OUTAGE)

    async def _measure(self) -> float:
        """The share of all recipients that the provider has accepted."""
        taken = sum(entry.count for entry in await self.scene.accepted())
        return taken / self.size.recipients

    async def _choose_moment(self, host: Host, killed: float) -> set[str]:
        """Wait for the moment at which to kill; gives what is under way then.

        Args:
            killed: the share of all kills so far.
        """
        ahead = killed - self.progress
        slower = min(1 if self.size.short else 15, (10 * ahead) ** 2)
        life = _LIFE * (0.4 if ahead < 0 else 1 + slower)
        ends = monotonic() + self.random.uniform(0, 2 * life)
        seen: set[str] = set()
        while True:
            met: set[str] = set()
            with contextlib.suppress(aiohttp.ClientError):
                under_way = await host.under_way()
                met = {phase for phase, names in PHASES.items() if names & under_way}
            seen |= met
            late = monotonic() - ends
            rarest = min(sorted(seen), key=lambda phase: self.kills[phase], default=NOTHING)
            if late >= _PATIENCE or (late >= 0 and rarest in met):
                return met
            await asyncio.sleep(0.02)

    async def tick(self) -> None:
        """The timers, for ever: the minute's, and the night's where a sweep is wanted."""
        while True:
            # There may be no host just now, and no storage.
            with contextlib.suppress(aiohttp.ClientError, AzureError):
                head = await self.scene.app.stores.sweeps.read_head()
                if host := self.host:
                    if head.number < self.sweeps and not head.open:
                        await host.fire("sweep_start")
                    if "release_due" not in await host.under_way():
                        await host.fire("release_due")
            await asyncio.sleep(_TICK)

    # after the last kill

    async def settle(self) -> End:
        """Wait until nothing more can come of any row, or should have long since; gives all there
        is to see then."""
        self.host = await self.scene.start_host()
        longest_doubt = self.scene.app.clock.ages.settle_final
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHORT_LIMIT if self.size.short else 1.5 * longest_doubt):
                await self._until_settled()
        return await self.scene.look(edited=self.edited, doubts_settled=not self.size.short)

    async def _until_settled(self) -> None:
        while await self.scene.is_any_left(State.PLANNED, State.CLAIMED, sweeps=self.sweeps):
            await asyncio.sleep(_TICK)
        # A call in doubt is made again only once a later one is known to have arrived.
        self.say("all were called")
        await self.weather.clear()
        states = [State.PLANNED, State.CLAIMED]
        states += [State.AMBIGUOUS] if not self.size.short else []
        while await self.scene.is_any_left(*states, sweeps=self.sweeps):
            await asyncio.sleep(_TICK)
        self.say("nothing more can come")


async def run_storm(
    directory: Path, size: Size, *, say: Callable[[str], None] = lambda _: None
) -> Outcome:
    """A storm from its first host to its last doubt.

    Args:
        directory: for the storage and the log.
        say: told how it goes.
    """
    random = Random(size.seed)
    ages = Ages().scaled(size.scale)
    async with running_scene(
        directory, alumni=size.alumni, campaign=size.campaign(_HELP_DESK), scale=size.scale
    ) as scene:
        weather = Weather(
            scene,
            random,
            call=ages.call,
            settle_after=None if size.short else ages.settle_after,
        )
        storm = Storm(scene, size, random, weather, say)
        began = monotonic()
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(storm.tick())
            await storm.blow()
            say("the last host")
            end = await storm.settle()
            ticking.cancel()
        seconds = monotonic() - began
    return Outcome(storm.kills, weather.met, weather.spells, judge(end), seconds)
