"""The main job, from the timer to settled parcels, over real storage and real HTTP.

Who is who is said here a second time, from the simulated tenant's own people, and in a few lines:
what planning found has to be the same.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from local.roster import Person
from local.tenant import Options, roster_of
from shared.rules.parcels import State
from tests.graph import unpaced
from tests.world import FORTNIGHT, NAME, World, running_world

ZONE = ZoneInfo("Asia/Hong_Kong")
PEOPLE = Options(alumni=300, others=40, throttled=False)
LAG = timedelta(hours=PEOPLE.lag_hours)


@pytest.fixture
async def alumni(connection_string: str, tmp_path: Path) -> AsyncGenerator[World]:
    async with running_world(connection_string, tmp_path, people=PEOPLE) as world:
        world.app = unpaced(world.app)
        yield world


def roster() -> list[Person]:
    everybody = roster_of(PEOPLE)
    return [everybody.person(index) for index in range(PEOPLE.alumni)]


def counted_as(person: Person, now: datetime) -> str:
    """What the report says of somebody to whoever reads it now."""
    standing = person.standing((now - LAG).timestamp())
    if not person.account_enabled or person.user_type == "Guest":
        return "excluded"
    if person.user_principal_name.startswith("Sync_"):
        return "excluded"
    if not person.reported:
        return "unknown"
    if standing.methods == ("methodOfALaterYear",):
        return "unrecognised"
    lasting = set(standing.methods) - {"temporaryAccessPass"}
    return "registered" if standing.registered and lasting else "unregistered"


def can_be_reached(person: Person) -> bool:
    return any(
        address and re.fullmatch(r"[^@\s;,]+@[^@\s;,]+\.(com|net|org|edu)", address.strip(), re.I)
        for address in (*person.other_mails, person.mail)
    )


def id16(person: Person) -> bytes:
    return bytes.fromhex(person.id.replace("-", ""))


@pytest.mark.invariant(2, 3)
async def test_everybody_who_is_due_gets_one_mail(alumni: World) -> None:
    await alumni.write_campaign()
    await alumni.sweep()

    sweep = await alumni.app.stores.sweeps.read_committed()
    assert sweep is not None
    standing = (await alumni.app.book.read()).standings[NAME]
    counts = await alumni.app.status.sum_counts(standing, sweep)
    assert counts is not None
    expected = Counter(counted_as(person, FORTNIGHT) for person in roster())
    assert {name: getattr(counts, name) for name in expected} == expected
    assert set(expected) == {
        "registered",
        "unregistered",
        "unknown",
        "unrecognised",
        "excluded",
    }
    assert counts.roster == PEOPLE.alumni

    due = [person for person in roster() if counted_as(person, FORTNIGHT) == "unregistered"]
    parcels = await alumni.parcels()
    assert {parcel.state for parcel in parcels} == {State.ACCEPTED}
    written = [person for parcel in parcels for _, person in parcel.people()]
    assert sorted(written) == sorted(id16(person) for person in due if can_be_reached(person))
    assert sum(call["count"] for call in await alumni.accepted()) == len(written)

    # Everybody else who was due is in the list that says why.
    unreached = await alumni.app.status.list_unreached(standing, sweep)
    out_of_reach = {id16(person) for person in due if not can_be_reached(person)}
    assert out_of_reach
    assert unreached == dict.fromkeys(out_of_reach, "no usable contact")
    assert counts.unreachable == len(out_of_reach)


# What the example's cadence means in 2027: 30 January is a Saturday, as is 3 April.
TOUCHES = {
    date(2027, 1, 29): "announce",
    date(2027, 3, 1): "month",
    date(2027, 3, 17): "fortnight",
    date(2027, 3, 24): "week",
    date(2027, 3, 30): "last-call",
    date(2027, 4, 5): "after",
}


def days() -> Iterator[date]:
    """Each touch's day, the one before it, and two days on which nothing falls."""
    for day in TOUCHES:
        yield from (day - timedelta(days=1), day)
        if TOUCHES[day] in ("fortnight", "after"):
            yield day + timedelta(days=1)


@pytest.mark.invariant(4, 9)
async def test_who_gets_what_as_the_days_go_by(alumni: World) -> None:
    """A sweep every night at four, and mail at half past nine, through the whole cadence."""
    await alumni.write_campaign()
    got: dict[date, dict[bytes, str]] = defaultdict(dict)
    expected: dict[date, dict[bytes, str]] = defaultdict(dict)
    for day in days():
        night = datetime(day.year, day.month, day.day, 4, tzinfo=ZONE)
        alumni.move_clock(night)
        await alumni.sweep()
        alumni.move_clock(night + timedelta(hours=5, minutes=30))
        await alumni.release()
        if day in TOUCHES:
            expected[day] = {
                id16(person): TOUCHES[day]
                for person in roster()
                if counted_as(person, night) == "unregistered" and can_be_reached(person)
            }

    last_at: dict[bytes, datetime] = {}
    for parcel in sorted(await alumni.parcels(), key=lambda one: one.touched_at or FORTNIGHT):
        if parcel.state is State.CLOSED:
            continue
        assert parcel.state is State.ACCEPTED
        assert parcel.touched_at is not None
        day = parcel.touched_at.astimezone(ZONE).date()
        for _, person in parcel.people():
            assert person not in got[day], "two on one day"
            got[day][person] = parcel.touch
            if person in last_at:
                assert parcel.touched_at - last_at[person] >= timedelta(hours=20)
            last_at[person] = parcel.touched_at
    assert got == expected

    # People register as the days go by, and hear nothing more.
    numbers = [len(got[day]) for day in TOUCHES]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) == len(numbers)
    assert sum(call["count"] for call in await alumni.accepted()) == sum(numbers)


async def test_whoever_registers_on_the_day_is_left_alone_from_the_next_sweep_on(
    alumni: World,
) -> None:
    await alumni.write_campaign()
    alumni.move_clock(FORTNIGHT.replace(hour=3))
    await alumni.sweep()
    planned = [person for parcel in await alumni.parcels() for _, person in parcel.people()]
    chosen = planned[: len(planned) // 2]
    for person in chosen:
        url = f"{alumni.graph_url.removesuffix('/v1.0')}/people/{_guid(person)}/register"
        async with alumni.http.post(url) as answer:
            assert answer.status == 204
    alumni.move_clock(FORTNIGHT.replace(hour=7))  # the report lags by three hours
    await alumni.sweep()
    alumni.move_clock(FORTNIGHT)
    await alumni.release()
    written = {
        person
        for parcel in await alumni.parcels()
        if parcel.state is State.ACCEPTED
        for _, person in parcel.people()
    }
    assert written.isdisjoint(chosen)
    assert set(planned) - set(chosen) - written == {
        id16(person)
        for person in roster()
        if id16(person) in set(planned) - set(chosen)
        and counted_as(person, FORTNIGHT.replace(hour=7).astimezone(UTC)) != "unregistered"
    }


def _guid(person: bytes) -> str:
    text = person.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
