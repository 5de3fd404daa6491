"""One browser for all tests of this directory, and one local system for those that walk through it.

All of them run on one event loop: `pytestmark = pytest.mark.asyncio(loop_scope="package")`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from local.home import running_home
from local.roster import Person, Roster
from local.system import LocalSystem, Options, running_system
from local.tenant import Options as TenantOptions
from local.tenant import roster_of
from local.watch import Watcher
from shared.rules.campaign import Allowed, Campaign, parse_campaign
from tests.conftest import missing_tool
from tests.own_task import in_a_task_of_its_own
from tests.web.browser import CHROMIUM, Chromium, running_chromium
from tests.web.tools import INSTALL, tools_installed
from tests.world import EXAMPLE

ALUMNI = 820
"""So many that one of them has HTML for a name."""


@pytest.fixture(scope="package")
def campaign() -> Campaign:
    """The example's."""
    nothing = Allowed(
        senders=frozenset(), link_hosts=frozenset(), local=True, channels=frozenset({"email"})
    )
    return parse_campaign(EXAMPLE.read_text(), file=EXAMPLE.name, allowed=nothing)


@pytest.fixture(scope="package")
def tools() -> None:
    """axe-core and html-validate."""
    if not tools_installed():
        missing_tool(f"axe-core and html-validate: `{INSTALL}` brings them")


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def chromium(tools: None) -> AsyncGenerator[Chromium]:
    if CHROMIUM is None:
        missing_tool("Chromium")
    async with running_chromium() as chromium:
        yield chromium


@dataclass(frozen=True)
class Local:
    """What `make run` brings up, after the fortnight's mails have gone out.

    Attributes:
        home: address of the home page.
        roster: whom the simulated tenant holds.
    """

    system: LocalSystem
    home: str
    roster: Roster

    @property
    def everybody(self) -> Iterator[Person]:
        return map(self.roster.person, range(len(self.roster)))

    def find(self, is_wanted: Callable[[Person], bool]) -> Person:
        """The first account of this kind."""
        return next(filter(is_wanted, self.everybody))

    async def mails(self) -> list[dict[str, Any]]:
        """All mails of the inbox, the oldest first."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.system.inbox_url}/messages?limit=100000") as answer,
        ):
            return (await answer.json())["messages"]

    async def receive(self, *names: str) -> None:
        """Have mails to people of these names in the inbox, which are not the product's."""
        call = {
            "personalizations": [
                {"to": [{"email": f"person.{number}@example.org", "name": name}]}
                for number, name in enumerate(names)
            ],
            "from": {"email": "no-reply@its.hku.hk"},
            "subject": "Names",
            "content": [{"type": "text/plain", "value": "Hello"}],
        }
        headers = {"Authorization": "Bearer test"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(f"{self.system.inbox_url}/v3/mail/send", json=call) as answer,
        ):
            assert answer.status == 202, await answer.text()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def local() -> AsyncGenerator[Local]:
    async with in_a_task_of_its_own(_running_local()) as local:
        yield local


@asynccontextmanager
async def _running_local() -> AsyncGenerator[Local]:
    options = Options(campaign=EXAMPLE, alumni=ALUMNI, others=0, throttled=False)
    async with running_system(options) as system, running_home(system) as home:
        fault = await Watcher(system, system.campaign, system.sweep).until_settled(lambda _: None)
        assert fault is None, fault
        people = TenantOptions(alumni=ALUMNI, others=0, deadline=system.campaign.deadline_at)
        yield Local(system, home, roster_of(people))
