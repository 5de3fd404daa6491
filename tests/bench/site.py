"""The pages over HTTP from a host in a process of its own, links to them, and what came of it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from local.parts import Part, running_part
from shared.clock import CampaignTime
from shared.rules.links import Purpose, seal
from shared.rules.parcels import SHARDS
from shared.stores.people import Person
from tests.bench.bed import Bed, Bench
from tests.world import FORTNIGHT, KEY, NAME

_HTTP_APP = Path(__file__).with_name("http_app")
_LATER = CampaignTime(FORTNIGHT + timedelta(days=300))


@asynccontextmanager
async def running_site(bed: Bed, bench: Bench, app: Path = _HTTP_APP) -> AsyncGenerator[Part]:
    """The local host on Microsoft's worker library, over a bench's storage and services.

    Args:
        app: the HTTP functions alone, or ROOT for all of them; the sweep's timer then rests.
    """
    settings = {"GRAPH_CONFIRM": "methods", "SWEEP_SCHEDULE": "0 0 0 29 2 *"}
    async with running_part(
        *("local.host", ["--app", str(app)]),
        environment=bench.environment | settings,
        log=bed.scratch / "host.log",
    ) as host:
        yield host


def link(purpose: Purpose, person: bytes) -> str:
    """The path of a personal link that opens."""
    return f"/{purpose}/{seal([KEY], purpose, NAME, person, _LATER)}"


async def register(bench: Bench, people: Iterable[bytes]) -> None:
    """These people register in the tenant: its methods show it at once, its report does not."""
    tenant = bench.graph_url.removesuffix("/v1.0")
    for person in people:
        url = f"{tenant}/people/{uuid.UUID(bytes=person)}/register"
        async with bench.http.post(url) as answer:
            answer.raise_for_status()


async def remembered_people(bench: Bench) -> dict[bytes, Person]:
    """Everybody of whom the ledger remembers something."""
    people = bench.app.stores.people
    return {
        person: known
        for shard in range(len(SHARDS))
        for person, known in (await people.read_shard(NAME, shard)).items()
    }
