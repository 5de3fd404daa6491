"""The page "I have done it": the first request of a fresh process, and the usual one."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from local.parts import ROOT
from local.roster import Roster
from local.tenant import Options
from shared.clock import monotonic
from tests.bench.bed import Bed, Bench
from tests.bench.latencies import Latencies
from tests.bench.site import link, register, remembered_people, running_site
from tests.bench.table import LOWER, Line

_UNCOUNTED = 10
"""Requests of each kind until a process is warm."""

type Kind = Literal["health", "GET", "POST"]

_KINDS: tuple[Kind, ...] = ("health", "GET", "POST")


async def measure(bed: Bed, starts: int, rounds: int) -> list[Line]:
    """One request of each kind to `starts` fresh processes each, and `rounds` to a warm one."""
    count = starts + _UNCOUNTED + rounds
    async with bed.running_bench(tenant=(count, 0)) as bench:
        await bench.app.book.refresh(accept=True)
        people = _people(count)
        await register(bench, people)
        cold = await _ask_cold(bed, bench, people[:starts])
        warm = await _ask_warm(bed, bench, people[starts:])
        known = await remembered_people(bench)
    assert all(known[person].evidence == "methods" for person in people)
    return [
        *_compare(
            "cold",
            cold,
            f"First requests of {starts} fresh processes each, which have indexed the whole app.",
        ),
        *_compare("warm", warm, f"{rounds} of each in turn, one at a time, to one process."),
    ]


def _people(count: int) -> list[bytes]:
    """Whom the bench's tenant knows."""
    usual = Options()
    roster = Roster(alumni=count, others=0, deadline=usual.deadline, domain=usual.domain)
    return [uuid.UUID(roster.id(index)).bytes for index in range(count)]


async def _ask_cold(bed: Bed, bench: Bench, people: Sequence[bytes]) -> dict[Kind, Latencies]:
    seconds: defaultdict[Kind, list[float]] = defaultdict(list)
    for person in people:
        for kind in _KINDS:
            async with running_site(bed, bench, ROOT) as host:
                seconds[kind].append(await _ask(bench, host.url, kind, person))
    return {kind: Latencies(seconds[kind]) for kind in _KINDS}


async def _ask_warm(bed: Bed, bench: Bench, people: Sequence[bytes]) -> dict[Kind, Latencies]:
    seconds: defaultdict[Kind, list[float]] = defaultdict(list)
    async with running_site(bed, bench) as host:
        for person in people:
            for kind in _KINDS:
                seconds[kind].append(await _ask(bench, host.url, kind, person))
    return {kind: Latencies(seconds[kind][_UNCOUNTED:]) for kind in _KINDS}


async def _ask(bench: Bench, url: str, kind: Kind, person: bytes) -> float:
    """Seconds until all of the answer is there."""
    method, path = ("GET", "/health") if kind == "health" else (kind, link("done", person))
    began = monotonic()
    async with bench.http.request(method, f"{url}{path}") as answer:
        await answer.read()
        assert answer.status == 200
    return monotonic() - began


def _compare(how: str, found: dict[Kind, Latencies], note: str) -> list[Line]:
    get, post, health = found["GET"], found["POST"], found["health"]
    return [
        Line(
            what=f"done page, GET, {how}",
            measured=str(get),
            beside=f"/health {health}",
            ratio=get.p50 / health.p50,
            aim=LOWER,
            notes=(note, "/health touches nothing: it is what host and worker take themselves."),
        ),
        Line(
            what=f"done page, POST, {how}",
            measured=str(post),
            beside=f"its GET {get}",
            ratio=post.p50 / get.p50,
            aim=LOWER,
            notes=(
                note,
                "Each confirms another person by the methods of the simulated tenant, and "
                "records it in Azurite.",
            ),
        ),
    ]
