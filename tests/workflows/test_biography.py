"""All that happened to one person, as the help desk asks for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from admin.report import format_biography
from shared.errors import SetupFault
from shared.rules.parcels import State
from shared.workflows.biography import Chapter
from tests.graph import Someone, people
from tests.sending import EARLY, Desk, campaign_text, change, running_desk
from tests.world import FORTNIGHT, NAME, World

MOBILE = "+852 6123 4567"


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


async def chapter_of(desk: Desk, someone: Someone) -> Chapter:
    """Their story in the only campaign."""
    workflow = desk.app.biography
    biography = await workflow.collect(await workflow.find(someone.id))
    assert biography.id == someone.id
    (chapter,) = biography.campaigns
    return chapter


async def text_of(desk: Desk, someone: Someone) -> str:
    biography = await desk.app.biography.collect(someone.id16)
    return format_biography(biography)


# --- whom the words mean --------------------------------------------------------------------------


async def test_a_person_is_found_by_object_id_and_by_user_principal_name(world: World) -> None:
    find = world.app.biography.find
    user = (await world.get_json(f"{world.graph_url}/users", **{"$top": "1"}))["value"][0]
    plain = user["id"].replace("-", "")
    wanted = bytes.fromhex(plain)
    for name in (user["id"], user["id"].upper(), plain, user["userPrincipalName"]):
        assert await find(name) == wanted
    for nobody in ("nobody@connect.example.edu", "0000", f"{user['id']}0", ""):
        with pytest.raises(SetupFault, match="Fix: Give the object id") as refused:
            await find(nobody)
        assert "nobody" not in str(refused.value)


# --- what the directory says ----------------------------------------------------------------------

ACCOUNTS: list[tuple[str, dict[str, Any], tuple[str, str], dict[str, bool]]] = [
    # the account; what is said of it and why; which channels can be used
    ("both", {"mobile": MOBILE}, ("unregistered", ""), {"email": True, "sms": True}),
    ("no number", {}, ("unregistered", ""), {"email": True, "sms": False}),
    ("nothing", {"address": "n/a"}, ("unregistered", ""), {"email": False, "sms": False}),
    ("registered", {"registered": True}, ("registered", ""), {}),
    ("unknown", {"registered": None}, ("unknown", ""), {}),
    ("unrecognised", {"methods": ("methodOfALaterYear",)}, ("unrecognised", ""), {}),
    ("disabled", {"enabled": False}, ("excluded", "disabled"), {}),
]


async def test_what_the_newest_sweep_says_of_an_account(desk: Desk) -> None:
    everybody = [Someone(number=n, **one[1]) for n, one in enumerate(ACCOUNTS)]
    stranger = Someone(number=99)
    await desk.plan(everybody, sms=True)
    for someone, (words, _, said, contacts) in zip(everybody, ACCOUNTS, strict=True):
        chapter = await chapter_of(desk, someone)
        assert ((chapter.account, chapter.why), chapter.contacts) == (said, contacts), words
        assert (chapter.campaign, chapter.version, chapter.mode, chapter.sweep) == (
            *(NAME, 1, "live", 1),
        )
    chapter = await chapter_of(desk, stranger)
    assert (chapter.account, chapter.parcels, chapter.next) == ("not in the audience", [], [])
    assert "  sweep 1: not in its audience\n  nothing has happened yet" in (
        await text_of(desk, stranger)
    )


async def test_before_there_is_anything(desk: Desk) -> None:
    assert (await text_of(desk, Someone(number=0))).endswith("There is no campaign.")
    await desk.world.write_campaign(campaign_text())
    await desk.app.book.refresh(accept=True)
    chapter = await chapter_of(desk, Someone(number=0))
    assert (chapter.account, chapter.sweep) == ("not read yet", None)
    assert "no sweep yet: not read yet" in await text_of(desk, Someone(number=0))


# --- what happened --------------------------------------------------------------------------------


async def test_every_parcel_that_holds_them_in_order_of_time(desk: Desk) -> None:
    someone, other = Someone(number=0, mobile=MOBILE), Someone(number=16)
    await desk.plan([someone, other], sms=True)
    for parcel in await desk.parcels():
        if parcel.channel == "sms":
            await change(desk, parcel, state=State.CLOSED, reason="failed")
    await desk.send_due()
    (sent,) = await desk.parcels(State.ACCEPTED)
    index = next(i for i, person in sent.people() if person == someone.id16)
    await desk.report(sent, delivered=[index])
    week = FORTNIGHT + timedelta(days=7)
    desk.move_clock(week - timedelta(hours=4))
    await desk.world.sweep()

    chapter = await chapter_of(desk, someone)
    told = [(one.touch, one.channel, one.outcome, one.delivered) for one in chapter.parcels]
    assert told == [
        ("fortnight", "sms", "failed", False),
        ("fortnight", "email", "accepted", True),
        ("week", "email", "planned", False),
        ("week", "sms", "planned", False),
    ]
    mail = chapter.parcels[1]
    assert (mail.parcel, mail.index) == (f"{NAME}:0|{sent.key}", index)
    assert (mail.at, mail.called) == (sent.touched_at, True)
    assert [(one.touch, one.channel) for one in chapter.next] == [
        ("last-call", "email"),
        ("last-call", "sms"),
    ]
    lines = (await text_of(desk, someone)).splitlines()
    assert "  Wed 17 March 2027, 10:00    `fortnight` by email (en): taken by the provider, " in (
        "\n".join(lines)
    )
    assert f"delivered [{NAME}:0|{sent.key}, {index}]" in "\n".join(lines)
    assert lines[-1] == "  Tue 30 March 2027, 09:00    next: `last-call` by SMS"
    assert [one.outcome for one in (await chapter_of(desk, other)).parcels] == [
        "accepted",
        "planned",
    ]


WAYS: list[tuple[dict[str, Any], str, str]] = [
    # of the row; outcome; what the help desk reads
    ({"state": State.PLANNED}, "planned", "planned, not before this time"),
    ({"state": State.CLAIMED}, "claimed", "with the provider at this moment"),
    ({"state": State.AMBIGUOUS, "doubt": True}, "ambiguous", "not decided yet"),
    ({"state": State.AMBIGUOUS, "final": True}, "final", "counts as had, and is not sent again"),
    ({"state": State.ACCEPTED, "refused": b"\1"}, "refused", "or the mail came back"),
    ({"state": State.ACCEPTED, "left_out": b"\1"}, "left out", "left out: registered, opted out"),
    ({"state": State.ACCEPTED, "doubt": True, "resent": True}, "accepted", "sent a second time"),
    ({"state": State.PLANNED, "doubt": True}, "planned", "after a call without a clear answer"),
    ({"state": State.REJECTED}, "rejected", "refused by the provider"),
    *(
        ({"state": State.CLOSED, "reason": reason}, reason, said)
        for reason, said in {
            "replanned": "planned again since",
            "split": "divided into two parcels",
            "expired": "could not leave in its time",
            "failed": "a fault of our own",
            "cancelled": "nobody was left",
        }.items()
    ),
]


async def test_what_became_of_a_parcel_is_said_in_words(desk: Desk) -> None:
    everybody = people(len(WAYS))
    for parcel, (way, *_) in zip(await desk.plan(everybody), WAYS, strict=True):
        await change(desk, parcel, **way)
    for someone, (way, outcome, said) in zip(everybody, WAYS, strict=True):
        (parcel,) = (await chapter_of(desk, someone)).parcels
        assert parcel.outcome == outcome, way
        assert said in await text_of(desk, someone), way


@pytest.mark.invariant(6)
async def test_what_is_remembered_is_told_without_address_and_number(desk: Desk) -> None:
    someone = Someone(number=0, mobile=MOBILE)
    await desk.plan([someone], sms=True)
    stores, shard = desk.app.stores, 0
    await stores.people.remember_bad(NAME, shard, [(someone.id16, bytes(16))])
    await stores.people.remember_opted_out(NAME, shard, [someone.id16], "sms")
    reported = {someone.id16: "by themselves"}
    await stores.people.remember_completed(NAME, shard, reported, "reported")
    chapter = await chapter_of(desk, someone)
    known = chapter.remembered
    assert (known.bad_addresses, known.refuses, known.opted_out_at) == (1, ["sms"], None)
    assert (known.reported_at is not None, known.confirmed_at) == (True, None)
    assert set(known.changes) == {"reported", "no sms"}
    assert chapter.contacts == {"email": True, "sms": False}
    text = await text_of(desk, someone)
    for said in (
        "1 address of theirs did not work",
        "asked the provider for no more by SMS",
        "said that they have registered",
        "SMS: no contact that may be used",
    ):
        assert said in text

    await stores.people.remember_completed(NAME, shard, {someone.id16: "methods"}, "confirmed")
    await stores.people.remember_opted_out(NAME, shard, [someone.id16])
    chapter = await chapter_of(desk, someone)
    assert (chapter.account, chapter.confirmed, chapter.contacts) == ("registered", True, {})
    text = await text_of(desk, someone)
    for said in ("known to have registered, from: methods", "asked for no more reminders"):
        assert said in text
    told = text + json.dumps(msgspec.to_builtins(chapter))
    for personal in ("person.0", "Person 0", "connect.example", "6123", bytes(16).hex()):
        assert personal not in told


# --- what comes next ------------------------------------------------------------------------------


async def test_what_is_due_next_as_the_cadence_says(desk: Desk) -> None:
    someone = Someone(number=0)
    await desk.plan([someone], mode="dry-run")  # nothing is planned: what is due stays due

    async def next_of() -> list[tuple[str, str]]:
        return [
            (one.touch, f"{one.not_before.astimezone(EARLY.tzinfo):%d %b %H:%M}")
            for one in (await chapter_of(desk, someone)).next
        ]

    found: dict[str, list[tuple[str, str]]] = {}
    for words, at in (
        ("long before the first", "2027-01-20T12:00+08:00"),
        ("before its day", "2027-03-17T08:00+08:00"),
        ("where it was missed", "2027-03-19T12:00+08:00"),
        ("after the last", "2027-04-20T12:00+08:00"),
    ):
        desk.move_clock(datetime.fromisoformat(at))
        found[words] = await next_of()
    assert found == {
        "long before the first": [("announce", "29 Jan 09:00")],
        "before its day": [("fortnight", "17 Mar 09:00")],
        "where it was missed": [("fortnight", "19 Mar 12:00")],
        "after the last": [],
    }
    desk.move_clock(EARLY)
    reported = {someone.id16: "by themselves"}
    await desk.app.stores.people.remember_completed(NAME, 0, reported, "reported")
    assert await next_of() == []  # but for the last touch, they are left alone until a sweep looks
    await desk.app.stores.people.remember_opted_out(NAME, 0, [someone.id16])
    desk.move_clock(datetime.fromisoformat("2027-03-29T12:00+08:00"))
    assert await next_of() == []


async def test_nothing_is_due_to_whom_nothing_can_reach(desk: Desk) -> None:
    [silent, done] = people(2)
    silent, done = (
        dataclasses.replace(silent, address=None),
        dataclasses.replace(done, registered=True),
    )
    await desk.plan([silent, done])
    for someone in (silent, done):
        assert (await chapter_of(desk, someone)).next == []
