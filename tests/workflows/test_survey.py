"""The survey over real HTTP: the same figures as a sweep and its plan, whatever Graph does on the
way, and every fault with its fix."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from local import tenant
from local.serving import running_application
from local.tenant import ALUMNI_GROUP, LEFT_OUT_GROUP
from shared.clock import monotonic
from shared.errors import RetryLater, SetupFault
from shared.rules.campaign import Audience, parse_campaign
from shared.rules.guards import ShardCounts
from shared.services.directory import Directory
from shared.workflows.survey import (
    PassProgress,
    Population,
    Progress,
    Survey,
    SurveyWorkflow,
    population_of,
)
from shared.workflows.sweep import ReportPace
from tests.graph import EXPIRED, GROUP, Graph, Someone, example, people
from tests.world import NAME, running_world

# The SDK warns of its own deprecated classes where it defines them, at import.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:msgraph"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kiota_abstractions"),
]

ALUMNI = Population(Audience(group=ALUMNI_GROUP))
PAGES = {"alumni": 2500, "others": 800}
"""People enough for several pages of each list."""


class Tenant:
    """A simulated tenant, what a survey of it shows, and how long it waits without waiting."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self.http = http
        self.shown: list[Progress] = []
        self.news: list[str] = []
        self.waits: list[float] = []

    async def fault(self, **faults: Any) -> None:
        async with self.http.post(f"{self.url}/faults", json=faults) as answer:
            assert answer.status == 204, await answer.text()

    async def survey(self, population: Population = ALUMNI) -> Survey:
        directory = Directory(f"{self.url}/v1.0", "anonymous")
        pace = ReportPace(5, seconds=0)
        try:
            workflow = SurveyWorkflow(directory, self._show, pace=pace, wait=self._wait)
            return await workflow.survey(population)
        finally:
            await directory.close()

    def _show(self, progress: Progress) -> None:
        self.shown.append(progress)
        if progress.news:
            self.news.append(progress.news)

    async def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncGenerator[Tenant]:
    people = tenant.Options(throttled=False, **options)
    async with tenant.running_tenant(people) as url, aiohttp.ClientSession() as http:
        yield Tenant(url, http)


def without_reading(survey: Survey) -> Survey:
    """What was found, without how it was read."""
    return msgspec.structs.replace(survey, requests=0, refused=0, restarts=0, seconds=0)


TWILIO = {
    "TWILIO_BASE_URL": "http://127.0.0.1:9",
    "TWILIO_ACCOUNT_SID": f"AC{0:032x}",
    "TWILIO_AUTH_TOKEN": "test",
    "TWILIO_FROM": "HKU",
}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param((), id="the example"),
        pytest.param(
            (
                ("exclude: []", f"exclude: [{LEFT_OUT_GROUP}]"),
                ("guests: false", "guests: true"),
                ("done_when: registered", "done_when: capable"),
            ),
            id="an exclusion, guests, capable",
        ),
        pytest.param(((f"group: {ALUMNI_GROUP}", "filter: userType eq 'Member'"),), id="a filter"),
        pytest.param(
            (
                ("sms: [mobilePhone]}", "sms: [mobilePhone], default_region: HK}"),
                ("email: [otherMails, mail]", "email: [mail]"),
            ),
            id="fields and a region",
        ),
        pytest.param(
            (("channels: [email]", "channels: [email, sms]"), ("# look_for:", "look_for:")),
            id="both channels",
        ),
    ],
)
async def test_the_figures_are_those_of_a_sweep_and_its_plan(
    connection_string: str, tmp_path: Path, changes: tuple[tuple[str, str], ...]
) -> None:
    text = example(*changes, mode="dry-run")
    async with running_world(connection_string, tmp_path, **TWILIO) as world:
        await world.write_campaign(text)
        await world.sweep()
        verdict = await world.app.stores.control.read_verdict(NAME, (1, 1))
        assert verdict is not None
        seen = Tenant(world.graph_url.removesuffix("/v1.0"), world.http)
        campaign = parse_campaign(text, file="alumni.yaml", allowed=None)
        survey = await seen.survey(population_of(campaign))
    assert figures_of(survey) == figures_in(verdict.counts)
    total = survey.total
    assert total.unregistered > survey.unreachable >= total.by_neither > 0
    assert (survey.unreachable == total.by_neither) == ("sms" in survey.channels)


def figures_of(survey: Survey) -> dict[str, object]:
    total = survey.total
    return {
        "roster": total.people,
        "registered": total.registered,
        "unregistered": total.unregistered,
        "unknown": total.unknown,
        "unrecognised": total.unrecognised,
        "excluded": total.excluded,
        "unreachable": survey.unreachable,
        "reasons": survey.reasons,
    }


def figures_in(counts: ShardCounts) -> dict[str, object]:
    names = (
        *("roster", "registered", "unregistered", "unknown", "unrecognised"),
        *("excluded", "unreachable", "reasons"),
    )
    return {name: getattr(counts, name) for name in names}


async def test_figures_add_up_whole_and_in_parts() -> None:
    async with running(**PAGES) as seen:
        survey = await seen.survey()
    total = survey.total
    assert total.people == PAGES["alumni"]
    assert survey.report_rows > PAGES["alumni"]
    kinds = (total.registered, total.unregistered, total.unknown, total.unrecognised)
    assert sum(kinds) + total.excluded == total.people
    assert all(kinds)
    assert sum(survey.reasons.values()) == total.excluded
    assert total.by_neither < total.unregistered <= total.by_email + total.by_sms + total.by_neither
    for groups in (survey.account_domains, survey.languages):
        for name in total.__struct_fields__:
            parts = [*groups.largest.values(), groups.rest]
            assert sum(getattr(one, name) for one in parts) == getattr(total, name)
    assert sum(survey.mail_domains.largest.values()) + survey.mail_domains.rest == total.by_email
    assert seen.news == []
    last = seen.shown[-1]
    assert last.users == PAGES["alumni"] + PAGES["others"]
    assert last.seconds_left is None
    assert all(one.done for one in last.passes)


async def test_a_name_that_few_share_is_not_told() -> None:
    """A domain of somebody's own names them; so may a rare language."""
    own = Someone(number=40, address="me@own-name.example", language="rm")
    nobody = Someone(number=41, address=None)
    crowd = people(12, address="somebody@big.example")
    graph = Graph({GROUP: [*crowd, *people(9, start=20, address="x@small.example"), own, nobody]})
    async with running_application(graph.application()) as url, aiohttp.ClientSession() as http:
        survey = await Tenant(url, http).survey(Population(Audience(group=GROUP)))
    assert survey.mail_domains.largest == {"big.example": 12}
    assert (survey.mail_domains.rest, survey.mail_domains.names) == (10, 2)
    assert list(survey.languages.largest) == [""]
    assert (survey.languages.rest.people, survey.languages.names) == (1, 1)
    assert survey.total.by_neither == 1
    assert b"own-name" not in msgspec.json.encode(survey)


async def test_what_passes_by_itself_is_waited_for_and_shown() -> None:
    async with running(**PAGES) as seen:
        whole = await seen.survey()
        await seen.fault(
            registrations=[
                {"status": 429, "retry_after": "7", "after": 1},
                {"kind": "html", "status": 502},
                {"kind": "truncated"},
            ],
            members=[{"kind": "reset"}, {"status": 503, "retry_after": "41"}],
        )
        survey = await seen.survey()
    assert without_reading(survey) == without_reading(whole)
    assert sorted(seen.waits) == [5, 7, 10, 20, 41]  # Graph's own seconds, else ever longer
    assert survey.refused == 5
    assert any("429 TooManyRequests" in one and "in 7 s" in one for one in seen.news)
    assert any("in 41 s" in one for one in seen.news)


async def test_waiting_ends_where_nothing_ever_comes() -> None:
    async with running(alumni=20, others=5) as seen:
        await seen.fault(registrations=[{"status": 503, "times": None}])
        with pytest.raises(RetryLater, match="503"):
            await seen.survey()
    assert seen.waits == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]


async def test_an_expired_skip_token_reads_that_list_again() -> None:
    async with running(**PAGES) as seen:
        whole = await seen.survey()
        await seen.fault(
            members=[{"kind": "expired-token", "after": 2}],
            registrations=[{"kind": "expired-token", "after": 3}],
        )
        survey = await seen.survey()
        assert without_reading(survey) == without_reading(whole)
        assert survey.restarts == 2
        assert len([one for one in seen.news if "(run 2 of 3)" in one]) == 2

        await seen.fault(members=[{"kind": "expired-token", "after": 1, "times": None}])
        with pytest.raises(SetupFault, match=r"in each of 3 runs\. Fix: Try again"):
            await seen.survey()


async def test_what_a_run_had_read_is_forgotten_when_it_starts_anew() -> None:
    graph = Graph({GROUP: people(20)}, page_size=lambda _: 10)
    graph.faults = {GROUP: [None, EXPIRED], "registrations": [None, EXPIRED]}

    def leave(source: str, position: int) -> None:
        if position and len(graph.asked(source)) == 1:  # the request that finds no place any more
            graph.groups[GROUP] = [one for one in graph.groups[GROUP] if one.number not in (3, 4)]

    graph.before = leave
    async with running_application(graph.application()) as url, aiohttp.ClientSession() as http:
        survey = await Tenant(url, http).survey(Population(Audience(group=GROUP)))
    assert (survey.total.people, survey.total.unregistered) == (18, 18)
    assert (survey.report_rows, survey.restarts) == (18, 2)


async def test_empty_pages_and_rows_that_come_twice_change_no_figure() -> None:
    async with running(**PAGES, empty_pages=False) as full:
        whole = await full.survey()
    async with running(**PAGES) as seen:
        await seen.fault(
            members=[{"kind": "repeat"}], registrations=[{"kind": "repeat", "times": 2}]
        )
        survey = await seen.survey()
    assert survey.report_rows == whole.report_rows + 2
    assert msgspec.structs.replace(
        without_reading(survey), report_rows=whole.report_rows
    ) == without_reading(whole)
    assert survey.requests > whole.requests


@pytest.mark.invariant(3)
@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ({"registrations": [{"status": 403}]}, ["AuditLog.Read.All"]),
        ({"members": [{"status": 403}]}, ["GroupMember.Read.All and User.Read.All"]),
        ({"registrations": [{"status": 401}]}, ["AuditLog.Read.All", "GRAPH_AUTH"]),
        ({"registrations": [{"kind": "not-premium"}]}, ["no licence", "P1 or P2"]),
        (
            {"members": [{"kind": "no-contacts", "times": None}]},
            ["None of the 200 accounts", "User.Read.All"],
        ),
    ],
    ids=["report", "group", "token", "licence", "contacts"],
)
async def test_what_only_a_person_can_mend_is_named(
    faults: dict[str, Any], says: list[str]
) -> None:
    async with running(alumni=200, others=50) as seen:
        await seen.fault(**faults)
        with pytest.raises(SetupFault) as caught:
            await seen.survey()
    for words in (*says, "Fix: "):
        assert words in str(caught.value)
    assert seen.waits == []


async def test_a_missing_permission_shows_at_once_and_not_after_the_report() -> None:
    """The report takes ten minutes: here it has no end at all."""
    async with running(alumni=200, others=50) as seen:
        await seen.fault(
            registrations=[{"kind": "hang", "seconds": 600}], members=[{"status": 403}]
        )
        async with asyncio.timeout(20):
            with pytest.raises(SetupFault, match=r"GroupMember\.Read\.All"):
                await seen.survey()


async def test_without_the_number_of_users_there_is_no_estimate_and_all_else() -> None:
    async with running(alumni=200, others=50) as seen:
        whole = await seen.survey()
        await seen.fault(users=[{"status": 403, "times": None}])
        survey = await seen.survey()
        assert without_reading(survey) == without_reading(whole)
    assert seen.shown[-1].users is None


@pytest.mark.parametrize(
    ("rows", "users", "least", "most"),
    [
        (20_000, 50_000, 55, 65),
        (60_000, 50_000, 0, 0),
        (0, 50_000, None, None),
        (9, None, None, None),
    ],
)
def test_the_estimate_is_of_what_is_left(
    rows: int, users: int | None, least: float | None, most: float | None
) -> None:
    report = PassProgress("the registration report", rows)
    assert Progress([report], monotonic(), users).seconds_left is None
    left = Progress([report], monotonic() - 40, users).seconds_left
    if least is None or most is None:
        assert left is None
    else:
        assert left is not None
        assert least <= left <= most
