"""The sweep, end to end: what Graph may answer, what may be lost on the way, and what stands then.

Storage, queues and HTTP are real; the directory is written out by each test (tests/graph).
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from local.serving import running_application
from shared.clock import Ages, SystemClock, monotonic
from shared.names import NAMES
from shared.rules.guards import ShardCounts
from shared.services.directory import RegistrationReport
from shared.stores.pages import run_prefix
from shared.stores.queues import ReadPages, decode_message
from shared.stores.sweeps import Sweep
from shared.workflows.sweep import ReportPace, SweepWorkflow
from tests.graph import (
    EXPIRED,
    GROUP,
    Answer,
    Graph,
    Someone,
    error,
    example,
    ids_of,
    people,
    running_with,
    unpaced,
)
from tests.world import NAME, World

REPORT = "registrations"
ROSTER = f"group-{GROUP}"
STAFF = "00000000-0000-0000-0000-000000000001"
BOARD = "00000000-0000-0000-0000-000000000002"

GATEWAY = "<!DOCTYPE html><title>Bad gateway</title>"


async def take_messages(world: World, queue: str = NAMES.queues.sweep) -> list[bytes]:
    """Take what is visible off a queue, as a host does that dies at once afterwards."""
    client = world.app.account.queue(queue)
    found = [message async for message in client.receive_messages(visibility_timeout=600)]
    for message in found:
        await client.delete_message(message)
    return [message.content for message in found]


async def count_messages(world: World, queue: str = NAMES.queues.sweep) -> int:
    """Messages of a queue, visible or not."""
    properties = await world.app.account.queue(queue).get_queue_properties()
    assert properties.approximate_message_count is not None
    return properties.approximate_message_count


async def newest(world: World) -> Sweep:
    head = await world.app.stores.sweeps.read_head()
    sweep = await world.app.stores.sweeps.read(head.number)
    assert sweep is not None
    return sweep


async def read_roster(world: World, source: str = ROSTER) -> list[str]:
    """Object ids in the pages of the newest sweep's pass, as often as they stand there."""
    sweep = await newest(world)
    one = sweep.find(source)
    assert one is not None
    pages = await world.app.stores.pages.list_pages(run_prefix(sweep.number, source, one.run))
    assert [page.number for page in pages] == list(range(len(pages)))
    reader = world.app.stores.pages.open_pass(pages)
    return [
        id
        for shard in range(16)
        async for accounts in reader.read_accounts(shard)
        for id in ids_of(accounts)
    ]


async def read_counts(world: World) -> ShardCounts:
    sweep = await world.app.stores.sweeps.read_committed()
    standing = (await world.app.book.read()).standings[NAME]
    counts = await world.app.status.sum_counts(standing, sweep)
    assert counts is not None
    return counts


# --- what only a person can mend -----------------------------------------------------------------


def _to_foreign_host(page: dict[str, object]) -> None:
    page["@odata.nextLink"] = "http://127.0.0.2:9/v1.0/groups?$skiptoken=1"


def _without_contacts(page: dict[str, object]) -> None:
    rows = page["value"]
    assert isinstance(rows, list)
    for row in rows:
        row |= {"mail": None, "otherMails": [], "mobilePhone": None}


SETUP_FAULTS = [
    # list, answer, what the administrator reads
    (REPORT, error(401, "InvalidAuthenticationToken"), "AuditLog.Read.All"),
    (REPORT, error(403, "Authorization_RequestDenied"), "AuditLog.Read.All"),
    (GROUP, error(403, "Authorization_RequestDenied"), "User.Read.All"),
    (GROUP, error(404, "Request_ResourceNotFound"), "audience.group"),
    (
        REPORT,
        error(403, "Authentication_RequestFromNonPremiumTenantOrB2CTenant"),
        "Entra ID P1 or P2",
    ),
    (GROUP, Answer(change=_to_foreign_host), "GRAPH_BASE_URL"),
    (GROUP, Answer(change=_without_contacts), "User.Read.All"),
]


@pytest.mark.invariant(3)
async def test_what_only_a_person_can_mend_is_named_and_changes_nothing(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(40)})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        before = {(parcel.key, parcel.etag) for parcel in await world.parcels()}
        committed = await world.app.stores.sweeps.read_committed()
        assert before
        assert committed is not None

        for source, answer, words in SETUP_FAULTS:
            graph.faults[source] = [answer]
            await world.sweep()
            sweep = await newest(world)
            assert (sweep.state, words in sweep.reason) == ("abandoned", True), sweep.reason
            assert await count_messages(world, NAMES.queues.plan) == 0
        assert await world.app.stores.sweeps.read_committed() == committed
        assert {(parcel.key, parcel.etag) for parcel in await world.parcels()} == before

        await world.sweep()
        assert (await newest(world)).state == "committed"


async def test_a_link_to_another_host_is_not_followed(
    connection_string: str, tmp_path: Path
) -> None:
    elsewhere = Graph({GROUP: people(40)})
    graph = Graph({GROUP: people(40)})
    async with (
        running_application(elsewhere.application()) as url,
        running_with(graph, connection_string, tmp_path) as world,
    ):
        link = f"{url}/v1.0/groups/{GROUP}/transitiveMembers/microsoft.graph.user?$skiptoken=20"
        graph.faults[GROUP] = [Answer(change=lambda page: page.update({"@odata.nextLink": link}))]
        await world.write_campaign()
        await world.sweep()
        assert (await newest(world)).state == "abandoned"
        assert elsewhere.requests == []


# --- what passes by itself -----------------------------------------------------------------------

PASSING_FAULTS = [
    # answer, seconds that the message stays away
    (error(429, "TooManyRequests", retry_after="7"), 7),
    (error(429, "TooManyRequests", retry_after="420"), 420),
    (error(429, "TooManyRequests"), 5),
    (error(429, "TooManyRequests", retry_after="0"), 1),
    (error(503, "serviceNotAvailable", retry_after="30"), 30),
    (error(500, "InternalServerError"), 5),
    (Answer(status=502, body=GATEWAY, content_type="text/html"), 5),
    (Answer(status=504, body=GATEWAY, content_type="text/html", retry_after="12"), 12),
    (Answer(body=GATEWAY, content_type="text/html"), 5),
    (Answer(body="This is not JSON."), 5),
    (Answer(body='{"value": [{"id": "0000'), 5),
    (Answer(body='{"value": 7}'), 5),
    (Answer(cut=True), 5),
]


async def test_what_passes_by_itself_puts_the_message_back_and_loses_nothing(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(40)}, page_size=lambda _: 25)
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        app = world.app
        for source, name in ((GROUP, ROSTER), (REPORT, REPORT)):
            await app.sweeps.start()
            # The first page is read; the second is refused in every way that there is.
            graph.faults[source] = [None, *(answer for answer, _ in PASSING_FAULTS)]
            asked = app.clock.storage_now()
            await world.run_queues(app)
            for number, (_, seconds) in enumerate(PASSING_FAULTS):
                sweep = await newest(world)
                one = sweep.find(name)
                assert one is not None
                least = (one.asked_at - asked).total_seconds()
                most = (one.asked_at - app.clock.storage_now()).total_seconds()
                # The wait doubles where nobody says how long; the count of refusals says so.
                expected = min(5 * 2**number, 300) if seconds == 5 else seconds
                assert most - 1 <= expected <= least + 1, PASSING_FAULTS[number]
                visible = await world.app.account.queue(NAMES.queues.sweep).peek_messages(32)
                here = {decode_message(one.content, ReadPages).refusals for one in visible}
                # One second is soon over, on a machine that is busy.
                assert number + 1 not in here or app.clock.storage_now() >= one.asked_at
                await app.sweeps.repair()
                assert await count_messages(world) == number + 1
                message = ReadPages(sweep.number, name, 1, refusals=number + 1)
                asked = app.clock.storage_now()
                await app.sweeps.read(message)
            assert (await newest(world)).state == "committed"
            assert len(await read_roster(world)) == 40
            await world.app.account.queue(NAMES.queues.sweep).clear_messages()


async def test_no_message_comes_back_earlier_than_graph_asked(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(4)})
    graph.faults[GROUP] = [error(429, "TooManyRequests", retry_after="2")]
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        refused = graph.asked(GROUP)[0]
        while len(graph.asked(GROUP)) < 2:
            assert monotonic() < refused.answered_at + 6
            await asyncio.sleep(0.1)
            await world.run_queues()
        assert graph.asked(GROUP)[1].came_at >= refused.answered_at + 2
        assert (await newest(world)).state == "committed"


# --- odd pages -----------------------------------------------------------------------------------


async def test_empty_pages_and_duplicate_rows_change_no_figure(
    connection_string: str, tmp_path: Path
) -> None:
    members = [*people(30), *people(10, 30, registered=True), *people(5, 40, registered=None)]
    graph = Graph({GROUP: members}, page_size=lambda _: 7)

    def empty(page: dict[str, object]) -> None:
        link = str(page["@odata.nextLink"])
        page["@odata.nextLink"] = link.replace("skiptoken=7", "skiptoken=0")
        page["value"] = []

    def twice(page: dict[str, object]) -> None:
        rows = page["value"]
        assert isinstance(rows, list)
        page["value"] = [*rows, *rows]

    graph.faults = {
        GROUP: [Answer(change=empty), None, Answer(change=twice)],
        REPORT: [Answer(change=empty), Answer(change=twice)],
    }
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        counts = await read_counts(world)
        assert (counts.roster, counts.registered) == (45, 10)
        assert (counts.unregistered, counts.unknown) == (30, 5)
        assert sum(call["count"] for call in await world.accepted()) == 30


@pytest.mark.invariant(3)
async def test_nobody_is_nudged_on_a_guess_when_rows_move_while_they_are_read(
    connection_string: str, tmp_path: Path
) -> None:
    """Person 3 is deleted while page 1 is being read: everybody behind moves up, and person 10,
    who moves from page 2 to page 1 just then, is in none. Person 99 appears in the last page."""
    graph = Graph({GROUP: people(20)}, page_size=lambda _: 10)

    def move(source: str, position: int) -> None:
        if source == REPORT and position == 10:
            graph.groups[GROUP] = [one for one in graph.groups[GROUP] if one.number != 3]
            graph.groups[GROUP].append(Someone(number=99))

    graph.before = move
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        app = world.app
        await app.sweeps.start()
        await take_messages(world)
        await app.sweeps.read(ReadPages(1, ROSTER, 1))
        await app.sweeps.read(ReadPages(1, REPORT, 1))
        await world.run_queues(app)
        counts = await read_counts(world)
        assert (counts.roster, counts.unregistered, counts.unknown) == (20, 19, 1)
        written = {id for parcel in await world.parcels() for _, id in parcel.people()}
        assert Someone(number=10).id16 not in written
        assert len(written) == 19


async def test_an_expired_skip_token_reads_that_pass_again_and_no_other(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(40)}, page_size=lambda _: 15)
    graph.faults[REPORT] = [None, None, EXPIRED, None, EXPIRED]
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        sweep = await newest(world)
        assert sweep.state == "committed"
        assert {one.source: (one.run, one.pages) for one in sweep.passes} == {
            REPORT: (3, 3),
            ROSTER: (1, 3),
        }
        assert [request.position for request in graph.asked(REPORT)] == [
            *(0, 15, 30),
            *(0, 15),
            *(0, 15, 30),
        ]
        assert (await read_counts(world)).unregistered == 40


async def test_a_pass_whose_token_expires_in_three_runs_ends_the_sweep(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(40)}, page_size=lambda _: 15)
    graph.faults[REPORT] = [None, EXPIRED] * 3
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        sweep = await newest(world)
        assert sweep.state == "abandoned"
        assert "3 runs" in sweep.reason
        assert await world.app.stores.sweeps.read_committed() is None
        assert await world.parcels() == []


async def test_passes_that_expire_at_the_same_moment_both_start_anew(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(40), STAFF: people(3, 40)}, page_size=lambda _: 15)
    graph.faults = {REPORT: [None, EXPIRED], GROUP: [None, EXPIRED]}
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        app = world.app
        await app.sweeps.start()
        await take_messages(world)
        await asyncio.gather(
            app.sweeps.read(ReadPages(1, REPORT, 1)), app.sweeps.read(ReadPages(1, ROSTER, 1))
        )
        assert await count_messages(world) == 2
        await world.run_queues(app)
        sweep = await newest(world)
        assert sweep.state == "committed"
        assert {one.run for one in sweep.passes} == {2}


# --- messages that come twice, or never ----------------------------------------------------------


async def test_a_message_delivered_twice_cannot_fork_the_chain(
    connection_string: str, tmp_path: Path
) -> None:
    """Two processes read one pass side by side, and each answer ends somewhere else."""
    sizes = [3, 8, 5, 2, 7, 4, 9, 6]
    graph = Graph({GROUP: people(90)}, page_size=lambda asked: sizes[asked % len(sizes)])
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        first, second = world.app, unpaced(world.another_app())
        await first.sweeps.start()
        bodies = await take_messages(world)
        messages = [decode_message(body, ReadPages) for body in bodies]
        await asyncio.gather(
            *(app.sweeps.read(message) for app in (first, second) for message in messages)
        )
        assert len(graph.asked(GROUP)) > len({r.position for r in graph.asked(GROUP)})
        assert (await newest(world)).state == "committed"
        assert sorted(await read_roster(world)) == sorted(one.id for one in people(90))
        assert await count_messages(world, NAMES.queues.plan) == 16
        await world.run_queues(first)
        assert (await read_counts(world)).unregistered == 90
        assert sum(call["count"] for call in await world.accepted()) == 90


async def test_a_message_that_comes_again_asks_graph_for_nothing_twice(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(60)}, page_size=lambda _: 10)
    graph.faults[GROUP] = [None, None, None, error(503, "serviceNotAvailable")]
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        await world.app.sweeps.read(ReadPages(1, ROSTER, 1))  # the first message, once more
        assert [request.position for request in graph.asked(GROUP)] == [
            *(0, 10, 20, 30),
            *(30, 40, 50),
        ]
        assert (await newest(world)).state == "committed"


async def test_a_message_reads_for_a_while_and_leaves_the_rest_to_the_next(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(60)}, page_size=lambda _: 10)
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        app = world.app
        hurried = SweepWorkflow(
            app.stores, app.book, app.directory, app.clock, pace=ReportPace(5, 0), message_seconds=0
        )
        await hurried.start()
        for pages in range(1, 7):
            for body in await take_messages(world):
                await hurried.read(decode_message(body, ReadPages))
            assert len(graph.asked(GROUP)) == pages
            assert len(graph.asked(REPORT)) == pages
        assert await count_messages(world) == 0
        assert (await newest(world)).state == "committed"


@pytest.mark.invariant(3)
async def test_before_the_commit_nothing_of_a_sweep_can_be_seen(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(40), STAFF: people(2)})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign(example(("exclude: []", f"exclude: [{STAFF}]")))
        await world.app.sweeps.start()
        messages = [decode_message(body, ReadPages) for body in await take_messages(world)]
        assert len(messages) == 3
        for message in messages:
            assert await world.app.stores.sweeps.read_committed() is None
            assert await world.parcels() == []
            assert await count_messages(world, NAMES.queues.plan) == 0
            await world.release()
            await world.app.sweeps.read(message)
        assert (await world.app.stores.sweeps.read_committed()) is not None
        assert await count_messages(world, NAMES.queues.plan) == 16
        await world.run_queues()
        assert (await read_counts(world)).excluded == 2


async def test_a_second_tick_during_a_sweep_starts_no_second_one(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(8)})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        apps = [world.app, world.another_app(), world.another_app()]
        await world.app.book.refresh(accept=True)
        opened = await asyncio.gather(*(app.sweeps.start() for app in apps))
        assert sum(sweep is not None for sweep in opened) == 1
        assert await world.app.sweeps.start() is None
        assert await count_messages(world) == 2
        await world.run_queues()
        sweep = await newest(world)
        assert (sweep.number, sweep.state) == (1, "committed")


async def test_without_a_campaign_there_is_no_sweep(world: World) -> None:
    assert await world.app.sweeps.start() is None
    assert (await world.app.stores.sweeps.read_head()).number == 0


async def test_a_pass_at_rest_is_taken_up_again_whatever_was_lost(
    connection_string: str, tmp_path: Path
) -> None:
    """Four passes, four crashes: before the first page, after a page, between a new run and its
    message, and (the last of them) between the last page and the commit."""
    groups = {GROUP: people(40), STAFF: people(30, 40), BOARD: people(1)}
    graph = Graph(groups, page_size=lambda _: 10)
    async with running_with(graph, connection_string, tmp_path, AGES_SCALE="0.005") as world:
        await world.write_campaign(example(("exclude: []", f"exclude: [{STAFF}, {BOARD}]")))
        app = world.app
        await app.sweeps.start()
        await take_messages(world)  # of all passes: nothing is on its way

        graph.faults[GROUP] = [None, None, error(503, "serviceNotAvailable", retry_after="1")]
        await app.sweeps.read(ReadPages(1, ROSTER, 1))
        graph.faults[STAFF] = [None, EXPIRED]
        await app.sweeps.read(ReadPages(1, f"group-{STAFF}", 1))
        await take_messages(world)
        await app.account.queue(NAMES.queues.sweep).clear_messages()
        await app.sweeps.read(ReadPages(1, f"group-{BOARD}", 1))
        graph.requests.clear()

        await app.sweeps.repair()
        assert await count_messages(world) == 0, "nothing has rested for long"
        await asyncio.sleep(6.5)  # a pass rests 4.5 s here; storage tells whole seconds
        others = [unpaced(world.another_app()) for _ in range(2)]
        await asyncio.gather(*(one.sweeps.repair() for one in (app, *others)))
        bodies = await take_messages(world)
        assert sorted(decode_message(b, ReadPages).source for b in bodies) == sorted(
            [REPORT, ROSTER, f"group-{STAFF}"]
        )
        await app.sweeps.repair()
        assert await count_messages(world) == 0, "each was taken up once"

        for message in (decode_message(body, ReadPages) for body in bodies):
            if message.source != REPORT:
                await app.sweeps.read(message)
        # Of the report all pages are written, and then the process dies.
        source, page, link = RegistrationReport(), 0, None
        while page == 0 or link:
            found = await app.directory.read_page(source, link)
            link = await app.stores.pages.write_report(
                run_prefix(1, REPORT, 1), page, found.rows, found.next_link, found.unreadable
            )
            page += 1
        assert [request.position for request in graph.asked(GROUP)] == [20, 30]
        assert [request.position for request in graph.asked(STAFF)] == [0, 10, 20]
        assert graph.asked(BOARD) == []
        assert (await newest(world)).state == "open"
        await app.sweeps.repair()
        assert (await newest(world)).state == "committed"


async def test_a_commit_whose_plan_messages_were_lost_is_planned_all_the_same(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(40)})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.app.sweeps.start()
        for body in await take_messages(world):
            await world.app.sweeps.read(decode_message(body, ReadPages))
        while await take_messages(world, NAMES.queues.plan):
            pass
        assert await world.parcels() == []
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 40


async def test_a_sweep_that_does_not_end_is_abandoned_and_the_next_one_opens(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(8)})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        app = world.app
        clock = SystemClock(msgspec.structs.replace(Ages(), sweep_limit=1.0))
        impatient = SweepWorkflow(app.stores, app.book, app.directory, clock)
        assert await impatient.start() is not None
        bodies = await take_messages(world)
        await app.sweeps.repair()
        assert (await newest(world)).state == "open"
        await asyncio.sleep(2.2)
        second = await impatient.start()
        abandoned = await world.app.stores.sweeps.read(1)
        assert abandoned is not None
        assert (abandoned.state, abandoned.reason[:15]) == ("abandoned", "It did not end ")
        assert second is not None
        assert second.number == 2
        for body in bodies:  # messages of the abandoned one do nothing
            await world.app.sweeps.read(decode_message(body, ReadPages))
        assert graph.requests == []


# --- pace ----------------------------------------------------------------------------------------


async def test_the_report_is_paced_and_the_rosters_are_not(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(120)}, page_size=lambda _: 10)
    # A slow first answer, as a new connection makes it, and a refusal in between.
    graph.faults[REPORT] = [Answer(delay=0.4, change=lambda page: None)]
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        sweeps = SweepWorkflow(
            world.app.stores,
            world.app.book,
            world.app.directory,
            world.app.clock,
            pace=ReportPace(5, seconds=0.5),
        )
        await sweeps.start()
        bodies = await take_messages(world)
        await asyncio.gather(*(sweeps.read(decode_message(body, ReadPages)) for body in bodies))
        assert (await newest(world)).state == "committed"
        report, roster = graph.asked(REPORT), graph.asked(GROUP)
        assert len(report) == len(roster) == 12
        # Whenever Graph counts a request between its start and its answer: never six of them.
        for first, sixth in zip(report, report[5:], strict=False):
            assert sixth.came_at >= first.answered_at + 0.5
        gaps = [later.came_at - one.came_at for one, later in pairwise(report)]
        assert min(gaps[1:]) > 0.09, "spread evenly"
        # A fifth of the time each, what the slow answer cost twice, and room for a busy machine.
        assert report[-1].came_at - report[0].came_at < 11 * 0.1 + 2 * 0.4 + 2
        # Side by side: the roster is through before the report is half-way.
        assert roster[-1].answered_at < report[6].came_at


async def test_graphs_own_limit_is_the_pace_where_none_is_given(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(20)}, page_size=lambda _: 10)
    async with running_with(graph, connection_string, tmp_path, paced=True) as world:
        await world.write_campaign()
        await world.sweep()
        first, second = graph.asked(REPORT)
        assert 1.9 < second.came_at - first.came_at < 3.0
        assert (await newest(world)).state == "committed"


# --- what the messages may say -------------------------------------------------------------------


@pytest.mark.invariant(6)
def test_a_message_names_lists_and_numbers_alone() -> None:
    assert msgspec.json.encode(ReadPages(1, REPORT, 2, 3)) == (
        b'{"sweep":1,"source":"registrations","run":2,"refusals":3}'
    )
