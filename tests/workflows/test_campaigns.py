"""Campaign files: what takes effect, what changes nothing, and what administrators are told."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from functions.wiring import App, build_app
from shared.clock import CampaignTime
from shared.names import NAMES
from shared.rules.parcels import State
from shared.settings import read_settings
from shared.workflows.campaigns import Standing
from tests.graph import GROUP, Graph, example, people, running_with
from tests.sending import alarms_of
from tests.world import FORTNIGHT, NAME, World

NIGHT = FORTNIGHT.replace(hour=3)
STAFF = "00000000-0000-0000-0000-000000000001"
NO_GROUP = "00000000-0000-0000-0000-00000000dead"


async def stand(world: World) -> Standing:
    """The campaign after the minute timer's look at the files."""
    return (await world.app.book.refresh(accept=True)).standings[NAME]


async def versions(world: World) -> int:
    newest = await world.app.stores.campaigns.list_newest()
    return newest[NAME].number if NAME in newest else 0


async def shown(world: World, app: App | None = None) -> str:
    """What `nudge status` says of mistakes and of waiting, in a process of its own."""
    status = await (app or world.another_app()).status.collect()
    lines = list(status.mistakes)
    for campaign in status.campaigns:
        lines += [*campaign.mistakes, *campaign.waiting]
    return "\n".join(lines)


# --- versions ------------------------------------------------------------------------------------

SAVES = [
    # what the administrator saves, the version in force afterwards
    ("the first file", example(), 1),
    ("the same once more", example(), 1),
    ("a comment", "# Asked for by the registrar.\n" + example(), 1),
    ("other quotes and spaces", example(("mode: live", 'mode:   "live"')), 1),
    ("a default, spelled out", example(("  exclude: []\n", "")), 1),
    ("another gap", example(("min_gap_hours: 20", "min_gap_hours: 21")), 2),
    ("what it was before", example(), 3),
]


@pytest.mark.invariant(7)
async def test_a_save_that_changes_nothing_is_no_version(world: World) -> None:
    kept: list[bytes] = []
    for words, text, number in SAVES:
        await world.write_campaign(text)
        assert (await stand(world)).version == number, words
        if number > len(kept):
            kept.append(text.encode())
    for number, body in enumerate(kept, start=1):
        assert await world.app.stores.campaigns.read_version(NAME, number) == body


@pytest.mark.invariant(7)
async def test_a_version_that_many_accept_at_once_is_one_version(world: World) -> None:
    apps = [world.app, world.another_app(), world.another_app(), world.another_app()]
    for number in (1, 2, 3):
        await world.write_campaign(example(("min_gap_hours: 20", f"min_gap_hours: 2{number}")))
        await asyncio.gather(*(app.book.refresh(accept=True) for app in apps))
        assert await versions(world) == number
        for app in apps:
            assert (await app.book.refresh()).standings[NAME].version == number
    # Whoever has read another text meanwhile does not get this number for it.
    store = world.app.stores.campaigns
    assert not await store.write_version(NAME, 3, b"campaign: another", "alumni.yaml")
    assert b"min_gap_hours: 23" in await store.read_version(NAME, 3)


# --- mistakes ------------------------------------------------------------------------------------

MISTAKES = [
    # what stood there, what is saved, what the administrator reads
    ("deadline: 2027-03-31", "deadline: 2027-02-31", "day of the calendar"),
    ("enforced_from: 2027-04-01", "enforced_from: 1 April", "date"),
    ("timezone: Asia", "timezone: Asien", "time zone"),
    ("mode: live", "mode: love", "live"),
    ("guests: false", "gests: false", "guests"),
    ("days_before: 60", "days_before: -60", "days_before"),
    ("help_desk: it", "help_desk: it@", "email address"),
    ("no-reply@its.hku.hk", "no-reply@elsewhere.example.org", "ALLOWED_SENDERS"),
    ("  trial: []", "\ttrial: []", "tab"),
]


@pytest.mark.invariant(7)
async def test_a_file_with_a_mistake_changes_nothing_and_the_line_is_shown(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(20)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        good = await stand(world)
        planned = await world.parcels()
        beside = world.another_app()
        for right, wrong, words in MISTAKES:
            text = example((right, wrong))
            await world.write_campaign(text)
            await world.release()
            now = await stand(world)
            assert (now.version, now.campaign, now.paused) == (1, good.campaign, ())
            line = text[: text.index(wrong)].count("\n") + 1
            told = await shown(world, beside)
            assert f"alumni.yaml:{line}:" in told
            assert words in told
        for body in (b"", b"\xff\xfe", b"campaign: [", b"- a list"):
            await world.app.stores.campaigns.write_file("alumni.yaml", body)
            assert (await stand(world)).version == 1
            assert "alumni.yaml:1:" in await shown(world, beside)
        assert await world.parcels() == planned

        # The last good version goes on.
        world.move_clock(FORTNIGHT)
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 20


@pytest.mark.invariant(7)
async def test_a_first_file_with_a_mistake_is_no_campaign(world: World) -> None:
    await world.write_campaign(example(("mode: live", "mode: love")))
    book = await world.app.book.refresh(accept=True)
    assert book.standings == {}
    assert await world.app.sweeps.start() is None
    assert "alumni.yaml:" in await shown(world)


@pytest.mark.invariant(7)
async def test_a_mistake_raises_an_alarm_once_until_it_is_another_one(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for mode, alarms in (("love", 1), ("love", 1), ("lave", 2), ("live", 2), ("love", 3)):
        await world.write_campaign(example(("mode: live", f"mode: {mode}")))
        await world.app.book.refresh(accept=True)
        await world.app.book.refresh(accept=True)
        assert alarms_of(caplog) == ["campaign_mistake"] * alarms, mode


@pytest.mark.invariant(7)
async def test_a_file_that_is_gone_pauses_its_campaign(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(20)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        await world.app.account.container("config").delete_blob("alumni.yaml")
        world.move_clock(FORTNIGHT)
        await world.release()
        assert await world.accepted() == []
        assert "file is gone" in await shown(world)
        assert await world.app.sweeps.start() is None, "nobody else needs a sweep"

        # Under another name it is the same campaign.
        await world.write_campaign(file="again.yaml")
        await world.release()
        assert (await stand(world)).version == 1
        assert sum(call["count"] for call in await world.accepted()) == 20


@pytest.mark.invariant(7)
async def test_two_files_with_one_name_are_a_mistake_in_both(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(20)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        await world.write_campaign(
            example(("min_gap_hours: 20", "min_gap_hours: 30")), file="copy.yaml"
        )
        assert (await stand(world)).version == 1
        told = await shown(world)
        assert "alumni.yaml:1:" in told
        assert "copy.yaml:1:" in told
        await world.app.account.container("config").delete_blob("alumni.yaml")
        assert (await stand(world)).version == 2


async def test_campaigns_stand_side_by_side(connection_string: str, tmp_path: Path) -> None:
    graph = Graph({GROUP: people(20), STAFF: people(10, 20)})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.write_campaign(
            example(("campaign: hku-alumni-2027", "campaign: staff"), (GROUP, STAFF)),
            file="staff.yaml",
        )
        await world.sweep()
        sweep = await world.app.stores.sweeps.read_committed()
        assert sweep is not None
        assert len(sweep.passes) == 3, "the report once, and each roster once"
        for name, number in ((NAME, 20), ("staff", 10)):
            parcels = await world.parcels(name)
            assert {parcel.state for parcel in parcels} == {State.ACCEPTED}
            assert sum(parcel.count for parcel in parcels) == number


# --- what a new version sets going ---------------------------------------------------------------


LATER = [("deadline: 2027-03-31", "deadline: 2027-06-30"), ("2027-04-01", "2027-07-01")]


@pytest.mark.parametrize(
    ("file", "other", "now", "current"),
    [
        (example(), example((NAME, "spring"), *LATER), FORTNIGHT, NAME),
        (example(), example((NAME, "spring"), *LATER), FORTNIGHT + timedelta(days=60), "spring"),
        (example(), example((NAME, "spring"), *LATER), FORTNIGHT + timedelta(days=600), "spring"),
        (example(mode="dry-run"), example((NAME, "spring"), *LATER), FORTNIGHT, "spring"),
        (example(mode="dry-run"), None, FORTNIGHT, NAME),
        (None, None, FORTNIGHT, None),
    ],
)
async def test_the_campaign_that_is_meant_where_none_is_named(
    world: World, file: str | None, other: str | None, now: datetime, current: str | None
) -> None:
    for name, text in (("alumni.yaml", file), ("spring.yaml", other)):
        if text:
            await world.write_campaign(text, file=name)
    found = (await world.app.book.refresh(accept=True)).find_current(CampaignTime(now))
    assert current == (found and found.name)


@pytest.mark.invariant(7)
async def test_mistakes_are_looked_for_once_however_many_pages_are_opened(world: World) -> None:
    """A touch that people have had is renamed: the ledger says so, and is asked once."""
    await world.write_campaign()
    await world.sweep()
    await world.write_campaign(example(("touch: fortnight,", "touch: two-weeks,")))
    web = world.another_app()
    books = await asyncio.gather(*(web.book.read() for _ in range(20)))
    assert len({id(book) for book in books}) == 1
    assert books[0].standings[NAME].mistakes


async def test_a_foreign_blob_beside_the_versions_is_passed_over(world: World) -> None:
    await world.write_campaign()
    await stand(world)
    container = world.app.account.container(NAMES.containers.versions)
    await container.get_blob_client(f"{NAME}/notes.txt").upload_blob(b"by hand")
    assert (await stand(world)).version == 1


async def test_a_new_touch_is_planned_without_a_new_sweep(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(20)})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.sweep()
        touch = "  - {touch: extra, days_before: 13, message: reminder, channels: [email]}\n"
        await world.write_campaign(
            example(
                ("  - {touch: week, ", f"{touch}  - {{touch: week, "),
                ("gap_hours: 20", "gap_hours: 4"),
            )
        )
        await world.release()
        assert (await stand(world)).version == 2
        verdict = await world.app.stores.control.read_verdict(NAME, (1, 2))
        assert verdict is not None
        assert verdict.go
        assert {(p.touch, p.state) for p in await world.parcels()} == {
            ("fortnight", State.ACCEPTED),
            ("extra", State.PLANNED),
        }
        world.move_clock(FORTNIGHT + timedelta(days=1))
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 40
        assert len(graph.asked("registrations")) == 1


async def test_done_when_is_decided_at_planning(connection_string: str, tmp_path: Path) -> None:
    done = people(10, 10, registered=True, capable=False)
    graph = Graph({GROUP: [*people(10), *done]})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        await world.write_campaign(example(("done_when: registered", "done_when: capable")))
        await world.release()
        first = await world.app.stores.control.read_verdict(NAME, (1, 1))
        second = await world.app.stores.control.read_verdict(NAME, (1, 2))
        assert first is not None
        assert second is not None
        assert (first.counts.registered, second.counts.registered) == (10, 0)
        assert (first.counts.recipients, second.counts.recipients) == (10, 20)


@pytest.mark.invariant(7)
async def test_a_touch_that_people_have_had_keeps_its_name(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(20)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        renamed = example(("touch: fortnight", "touch: two-weeks"))
        await world.write_campaign()
        await world.sweep()
        await world.write_campaign(renamed)  # planned, but nobody has had it yet
        assert (await stand(world)).version == 2
        await world.write_campaign()
        assert (await stand(world)).version == 3
        await world.release()

        world.move_clock(FORTNIGHT)
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 20
        for text in (renamed, renamed.replace("gap_hours: 20", "gap_hours: 22")):
            await world.write_campaign(text)
            now = await stand(world)
            assert now.version == 3
            assert "had the touch `fortnight`" in str(now.mistakes[0])
            assert "had the touch `fortnight`" in await shown(world)
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 20

        # Touches still to come may be renamed as one likes.
        await world.write_campaign(example(("touch: week", "touch: seven-days")))
        assert (await stand(world)).version == 4


async def test_a_new_audience_pauses_the_campaign_until_a_sweep_has_read_it(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(20), STAFF: people(10, 20)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        nightly = await world.app.sweeps.start()
        assert nightly is not None

        # The nightly sweep is under way when the file is saved: it has not the new group.
        await world.write_campaign(example((GROUP, STAFF)))
        await world.app.releases.release_all()
        assert (await world.app.stores.sweeps.read_head()).number == nightly.number
        assert "Reading the new audience" in await shown(world)
        await world.run_queues()
        world.move_clock(FORTNIGHT)
        await world.app.releases.release_all()
        assert (await world.app.stores.sweeps.read_head()).number == nightly.number + 1
        assert await world.accepted() == []
        await world.run_queues()
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 10


async def test_a_group_that_does_not_exist_is_looked_for_once_and_not_every_minute(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(20)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        await world.write_campaign(example((GROUP, NO_GROUP)))
        for _ in range(3):
            await world.release()
        head = await world.app.stores.sweeps.read_head()
        assert (head.number, head.committed, head.open) == (2, 1, False)
        abandoned = await world.app.stores.sweeps.read(2)
        assert abandoned is not None
        assert NO_GROUP in abandoned.reason
        await world.sweep()  # the nightly timer tries again
        assert (await world.app.stores.sweeps.read_head()).number == 3

        # Another group is another question.
        await world.write_campaign(example((f"group: {GROUP}", "filter: \"employeeType eq 'A'\"")))
        await world.release()
        assert (await world.app.stores.sweeps.read_head()).number == 4


@pytest.mark.invariant(7)
async def test_settings_that_allow_less_stop_a_version_and_a_good_file_replaces_it(
    connection_string: str, tmp_path: Path
) -> None:
    graph = Graph({GROUP: people(20)})
    async with running_with(graph, connection_string, tmp_path, at=NIGHT) as world:
        await world.write_campaign()
        await world.sweep()
        stricter = build_app(
            read_settings(world.environment | {"ALLOWED_SENDERS": "mfa@its.hku.hk"})
        )
        try:
            # It stays the campaign's version, so that what is open of it still ends; it is held.
            standing = (await stricter.book.refresh(accept=True)).standings[NAME]
            assert standing.version == 1
            assert "ALLOWED_SENDERS" in " ".join(standing.paused)
            assert "ALLOWED_SENDERS" in " ".join(map(str, standing.mistakes))
            await world.write_campaign(example(("no-reply@its.hku.hk", "mfa@its.hku.hk")))
            standing = (await stricter.book.refresh(accept=True)).standings[NAME]
            assert (standing.version, standing.paused) == (2, ())
        finally:
            await stricter.close()


async def test_a_blob_named_stop_stops_all_sending(connection_string: str, tmp_path: Path) -> None:
    graph = Graph({GROUP: people(20)})
    async with running_with(graph, connection_string, tmp_path) as world:
        await world.write_campaign()
        await world.app.stores.campaigns.write_file("stop", b"")
        await world.sweep()
        await world.release()
        assert await world.accepted() == []
        assert "config/stop" in await shown(world)
        await world.app.account.container("config").delete_blob("stop")
        await world.release()
        assert sum(call["count"] for call in await world.accepted()) == 20
