"""The status page: what it says in each state, that its figures are the ledger's, that it holds
nothing of a person and nothing that a hostile text could make it do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, override

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import CampaignTime, StorageTime
from shared.rules.guards import ShardCounts
from shared.rules.pace import CanaryResult
from shared.rules.parcels import Channel, Parcel, State, has_bit, with_bits
from shared.workflows.status import (
    CampaignStatus,
    CanaryStatus,
    ChannelStatus,
    PassStatus,
    Status,
    SweepStatus,
    TouchStatus,
)
from shared.workflows.status_page import MOST_MISTAKES, render_status
from tests.graph import people
from tests.sending import Desk, campaign_text, change, running_desk
from tests.world import NAME, World

NOW = datetime.fromisoformat("2027-03-17T10:00+08:00").astimezone(UTC)
OPENING = CampaignTime(datetime.fromisoformat("2027-03-24T09:00+08:00"))

MOST_BYTES = 50_000

STATES = (
    *("planned", "claimed", "accepted", "ambiguous", "final", "rejected", "refused", "left out"),
    *("expired", "failed", "cancelled"),
)

VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})


@dataclass
class Page(HTMLParser):
    """A page, taken apart. Tags that don't pair fail at once.

    Attributes:
        text: what a reader sees, on one line.
        tables: the rows of each table, head first, by its caption.
        tags: every start tag with its attributes.
    """

    html: str
    text: str = ""
    tables: dict[str, list[list[str]]] = field(default_factory=dict[str, list[list[str]]])
    tags: list[tuple[str, dict[str, str | None]]] = field(
        default_factory=list[tuple[str, dict[str, str | None]]]
    )

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._pieces: list[str] = []
        self._starts: list[int] = []
        self._caption = ""
        self._rows: list[list[str]] = []
        self.feed(self.html)
        self.close()
        assert self._open == []
        self.text = self._since(0)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self._open.append(tag)
        self._starts.append(len(self._pieces))
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag not in ("code", "bdi", "a", "strong"):
            self._pieces.append(" ")

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        told = self._since(self._starts.pop())
        if tag == "caption":
            self._caption = told
        if tag in ("th", "td"):
            self._rows[-1].append(told)
        if tag == "table":
            self.tables[self._caption] = self._rows

    @override
    def handle_data(self, data: str) -> None:
        self._pieces.append(data)

    def _since(self, start: int) -> str:
        return " ".join("".join(self._pieces[start:]).split())

    def table(self, beginning: str) -> list[list[str]]:
        """The rows of the only table whose caption begins so, without their head."""
        (rows,) = (rows for caption, rows in self.tables.items() if caption.startswith(beginning))
        return rows[1:]


def make_touch(name: str = "week", **changes: Any) -> TouchStatus:
    touch = TouchStatus(
        touch=name,
        channel="email",
        opening=OPENING,
        closing=CampaignTime(OPENING + timedelta(hours=9)),
        place="next",
        parcels={},
        people={},
    )
    return msgspec.structs.replace(touch, **changes)


def make_channel(name: Channel = "email", **changes: Any) -> ChannelStatus:
    channel = ChannelStatus(channel=name, paused=[], limit_today=None, sent_today=0)
    return msgspec.structs.replace(channel, **changes)


def make_canary(result: CanaryResult) -> CanaryStatus:
    return CanaryStatus(result=result, recipients=50, sent=50, delivered=12, needed=40)


def make_campaign(name: str = NAME, **changes: Any) -> CampaignStatus:
    campaign = CampaignStatus(
        campaign=name,
        headline="All is well: `week` opens soon.",
        needs=[],
        waits=[],
        version=3,
        file="alumni.yaml",
        mode="live",
        timezone="Asia/Hong_Kong",
        deadline="2027-03-31",
        deadline_at=CampaignTime(datetime.fromisoformat("2027-04-01T00:00+08:00")),
        days_left=14,
        enforced_from="2027-04-01",
        days_to_enforcement=15,
        counts=ShardCounts(),
        shards_done=16,
        channels=[make_channel()],
        touches=[make_touch()],
        waiting=[],
        mistakes=[],
    )
    return msgspec.structs.replace(campaign, **changes)


def make_sweep(number: int = 12, state: str = "committed", **changes: Any) -> SweepStatus:
    sweep = SweepStatus(
        number=number,
        state=state,
        opened_at=StorageTime(datetime(2027, 3, 16, 20, tzinfo=UTC)),
        ended_at=None
        if state == "open"
        else StorageTime(datetime(2027, 3, 16, 20, 11, tzinfo=UTC)),
        reason="",
        seen_at=CampaignTime(datetime(2027, 3, 16, 20, tzinfo=UTC)),
        passes=[],
    )
    return msgspec.structs.replace(sweep, **changes)


def make_status(*campaigns: CampaignStatus, **changes: Any) -> Status:
    status = Status(
        campaign_now=CampaignTime(NOW),
        storage_now=StorageTime(NOW),
        sweep=make_sweep(),
        committed=make_sweep(),
        needs=[],
        campaigns=list(campaigns),
        mistakes=[],
        new_files=[],
        stopped=False,
    )
    return msgspec.structs.replace(status, **changes)


# --- what it says ---------------------------------------------------------------------------------

OPEN = make_sweep(
    13,
    "open",
    passes=[
        PassStatus(source="registrations", run=1, pages=1200, complete=False),
        PassStatus(source="filter-0123456789abcdef", run=2, pages=3, complete=True),
    ],
)

SAYINGS: list[tuple[str, Status, list[str]]] = [
    # state; the status; what the page says
    (
        "nothing yet",
        make_status(sweep=None, committed=None, needs=["There is no campaign yet. Copy `it`."]),
        [
            "Needs you: There is no campaign yet. Copy it.",
            "None yet. The first one starts at the time of the setting SWEEP_SCHEDULE",
            "run the function sweep_start by hand",
        ],
    ),
    (
        "a new file",
        make_status(sweep=None, committed=None, new_files=["alumni.yaml"]),
        ["alumni.yaml is new and has no mistakes: it takes effect within a minute."],
    ),
    (
        "first sweep under way",
        make_status(make_campaign(counts=None, shards_done=0), sweep=OPEN, committed=None),
        [
            "None has been committed yet. Nobody is written to before.",
            "Sweep 13 is reading since Tue 16 March 2027, 20:00 (UTC)",
            "registration report 1 1,200",
            "users of audience.filter 2 3, complete",
            "No parcels yet: a touch is planned from 48 hours before its window on.",
        ],
    ),
    (
        "a later sweep under way",
        make_status(make_campaign(), sweep=OPEN),
        ["Sweep 12 is the last one that was committed", "Sweep 13 is reading since"],
    ),
    (
        "a sweep abandoned",
        make_status(
            make_campaign(), sweep=make_sweep(13, "abandoned", reason="Graph said no. Fix: ask.")
        ),
        [
            "Sweep 12 is the last one that was committed: begun on Tue 16 March 2027, 20:00 (UTC), "
            "ended on Tue 16 March 2027, 20:11 (UTC).",
            "Sweep 13 was abandoned on Tue 16 March 2027, 20:11 (UTC), and changed nothing.",
            "Graph said no. Fix: ask.",
        ],
    ),
    (
        "planning",
        make_status(make_campaign(counts=None, shards_done=9)),
        ["Planning under sweep 12 and version 3: 9 of 16 shards are done."],
    ),
    (
        "what was found",
        make_status(make_campaign(counts=ShardCounts(roster=298784, opted_out=1234))),
        [
            "What sweep 12 found, of Wed 17 March 2027, 04:00 (Asia/Hong_Kong)",
            "accounts in the audience 298,784",
            "asked for no more reminders 1,234",
        ],
    ),
    (
        "all is well",
        make_status(make_campaign(headline="All is well: `week` opens soon.")),
        [f"{NAME} All is well: week opens soon."],
    ),
    (
        "needs and waits",
        make_status(
            make_campaign(
                headline="Needs you: `alumni.yaml`: 1 mistake.",
                needs=["`alumni.yaml`: 1 mistake.", "Paused: `nudge resume` ends it."],
                waits=["The window is closed until Thu."],
                mistakes=["alumni.yaml:14: `x` is not a key. Did you mean `y`?"],
            )
        ),
        [
            f"{NAME} Needs you: alumni.yaml: 1 mistake.",
            "Needs you alumni.yaml: 1 mistake. Paused: nudge resume ends it.",
            "Mistakes in its file alumni.yaml:14: x is not a key. Did you mean y?",
            "Nothing leaves for now The window is closed until Thu.",
        ],
    ),
    (
        "mistakes of no campaign",
        make_status(mistakes=["other.yaml:1: this is not YAML."]),
        ["Mistakes in files of no campaign other.yaml:1: this is not YAML."],
    ),
    (
        "stopped",
        make_status(stopped=True),
        ["All sending is stopped by the blob config/stop. Delete it to go on."],
    ),
    (
        "the day as deadline",
        make_status(make_campaign()),
        [
            "Deadline end of Wed 31 March 2027 (Asia/Hong_Kong), in 14 days",
            "MFA is enforced from Thu 1 April 2027, in 15 days",
            "In force version 3 of alumni.yaml, mode live",
        ],
    ),
    (
        "a time of day as deadline, yesterday",
        make_status(
            make_campaign(
                deadline_at=CampaignTime(datetime.fromisoformat("2027-03-31T18:00+08:00")),
                days_left=-1,
                days_to_enforcement=0,
                file="",
            )
        ),
        [
            "Deadline Wed 31 March 2027, 18:00 (Asia/Hong_Kong), yesterday",
            "MFA is enforced from Thu 1 April 2027, today",
            "In force version 3, mode live",
        ],
    ),
    (
        "a pretended clock",
        make_status(storage_now=StorageTime(datetime(2026, 11, 24, 12, tzinfo=UTC))),
        [
            "As of Tue 24 November 2026, 12:00 (UTC). "
            "Campaigns live at a pretended time: Wed 17 March 2027, 02:00 (UTC)."
        ],
    ),
]


@pytest.mark.parametrize(
    ("status", "sayings"), [one[1:] for one in SAYINGS], ids=[one[0] for one in SAYINGS]
)
def test_what_it_says_in_each_state(status: Status, sayings: list[str]) -> None:
    page = Page(render_status(status))
    for saying in sayings:
        assert saying in page.text
    assert ("pretended" in page.text) is (status.storage_now != NOW)


def test_when_the_touches_are_in_the_zone_of_the_campaign() -> None:
    """The same moment is another day on the other side of the world."""
    touches = [
        make_touch("month", place="over", people={"accepted": 12000}, delivered=11000),
        make_touch("week"),
        make_touch("gone", place="gives way", opening=None, closing=None),
    ]
    campaigns = [
        make_campaign(touches=touches),
        make_campaign("hawaii", timezone="Pacific/Honolulu", touches=touches[1:2]),
    ]
    page = Page(render_status(make_status(*campaigns)))
    assert page.table("Touches (Asia/Hong_Kong)") == [
        ["month", "over", "Wed 24 March 2027, 09:00–18:00", "12,000", "11,000"],
        ["week", "next, in 7 days", "Wed 24 March 2027, 09:00–18:00", "0", "0"],
        ["gone", "gives way", "none of its own", "0", "0"],
    ]
    assert page.table("Touches (Pacific/Honolulu)") == [
        ["week", "next, in 7 days", "Tue 23 March 2027, 15:00–00:00", "0", "0"],
    ]


def test_a_touch_names_its_channel_where_there_are_several() -> None:
    by_email = make_touch(people={"accepted": 12}, parcels={"accepted": 1}, delivered=11)
    by_sms = make_touch(channel="sms", people={"accepted": 3}, parcels={"accepted": 3})
    page = Page(render_status(make_status(make_campaign(touches=[by_email, by_sms]))))
    day = ["next, in 7 days", "Wed 24 March 2027, 09:00–18:00"]
    assert page.table("Touches (") == [
        ["week by email", *day, "12", "11"],
        ["week by SMS", *day, "3", "0"],
    ]
    names = [row[0] for row in page.table("People and their parcels")]
    assert names == ["week by email", "week by SMS"]
    alone = Page(render_status(make_status(make_campaign(touches=[by_sms]))))
    assert alone.table("Touches (")[0][0] == "week"


def test_the_canary_stands_with_its_touch() -> None:
    touches = [make_touch(f"t-{result}", canary=make_canary(result)) for result in CanaryResult]
    page = Page(render_status(make_status(make_campaign(touches=[*touches, make_touch()]))))
    assert [row[1] for row in page.table("Touches (")] == [
        "next, in 7 days canary waiting",
        "next, in 7 days canary passed",
        "next, in 7 days canary failed",
        "next, in 7 days",
    ]


def test_the_pace_of_the_day_is_shown_where_there_is_one() -> None:
    channels = [make_channel(limit_today=5000, sent_today=1250), make_channel("sms")]
    page = Page(render_status(make_status(make_campaign(channels=channels))))
    assert "Sent today by email 1,250 of at most 5,000" in page.text
    assert "Sent today by SMS" not in page.text


def test_a_file_that_is_none_does_not_fill_the_page() -> None:
    mistakes = [f"alumni.yaml:{line}: `x` is not a key." for line in range(1, 101)]
    page = Page(render_status(make_status(make_campaign(mistakes=mistakes))))
    assert page.text.count("is not a key") == MOST_MISTAKES
    assert f"And {100 - MOST_MISTAKES} more: nudge status lists them all." in page.text


# --- its figures ----------------------------------------------------------------------------------


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


WAYS: list[dict[str, Any]] = [
    {"state": State.PLANNED},
    {"state": State.CLAIMED},
    {"state": State.AMBIGUOUS},
    {"state": State.AMBIGUOUS, "final": True, "refused": with_bits(b"", [2])},
    {"state": State.REJECTED, "refused": with_bits(b"", [0, 1, 2])},
    {"state": State.CLOSED, "reason": "replanned"},
    {"state": State.CLOSED, "reason": "split"},
    {"state": State.CLOSED, "reason": "expired"},
    {"state": State.CLOSED, "reason": "failed", "left_out": with_bits(b"", [2])},
    {"state": State.CLOSED, "reason": "cancelled", "left_out": with_bits(b"", [0, 1, 2])},
    {"state": State.ACCEPTED, "left_out": with_bits(b"", [0, 1]), "refused": with_bits(b"", [1])},
    {"state": State.ACCEPTED, "touch": "week"},
]


def place_of(parcel: Parcel, index: int | None = None) -> str:
    """The column in which a parcel stands, or one of its people."""
    if index is not None and has_bit(parcel.left_out, index):
        return "left out"
    if index is not None and has_bit(parcel.refused, index):
        return "refused"
    if parcel.final:
        return "final"
    return parcel.reason if parcel.state is State.CLOSED else parcel.state.value


@pytest.mark.invariant(2)
async def test_every_count_is_the_ledgers(desk: Desk) -> None:
    for parcel, way in zip(await desk.plan(people(48)), WAYS, strict=False):
        await change(desk, parcel, **way)
    page = Page(render_status(await desk.app.status.collect()))
    head, *rows = page.tables["People and their parcels"]

    expected: Counter[tuple[str, str, str]] = Counter()
    for parcel in await desk.parcels():
        if parcel.reason not in ("replanned", "split"):
            expected[parcel.touch, place_of(parcel), "parcels"] += 1
            for index, _ in parcel.people():
                expected[parcel.touch, place_of(parcel, index), "people"] += 1
    shown: Counter[tuple[str, str, str]] = Counter()
    for touch, *cells in rows:
        for name, cell in zip(head[1:], cells, strict=True):
            found = re.fullmatch(r"(\d*)(?: in (\d+))?", cell)
            assert found is not None
            shown[touch, name, "people"] += int(found[1] or 0)
            shown[touch, name, "parcels"] += int(found[2] or 0)
    for touch in ("fortnight", "week"):
        for kind in ("people", "parcels"):
            in_all = shown.pop((touch, "in all", kind))
            assert in_all == sum(
                n for (of, _, what), n in expected.items() if (of, what) == (touch, kind)
            )
    assert +shown == expected
    (reached,) = (row[-2] for row in page.table("Touches (") if row[0] == "week")
    assert int(reached) == expected["week", "accepted", "people"]


counts = st.integers(0, 400_000)


@given(st.lists(st.dictionaries(st.sampled_from(STATES), counts), min_size=1, max_size=4))
def test_the_row_of_a_touch_adds_up(touches: list[dict[str, int]]) -> None:
    campaign = make_campaign(
        touches=[
            make_touch(f"t{number}", parcels=people or {"accepted": 1}, people=people)
            for number, people in enumerate(touches)
        ]
    )
    for row in Page(render_status(make_status(campaign))).table("People and their parcels"):
        people_of = (re.match(r"[\d,]*", cell) for cell in row[1:])
        *cells, in_all = (int((one and one[0].replace(",", "")) or 0) for one in people_of)
        assert sum(cells) == in_all


async def test_what_was_found_adds_up(desk: Desk) -> None:
    """The rows that are no parts of others add up to the roster."""
    await desk.plan(
        [
            *people(5),
            *people(3, start=5, registered=True),
            *people(2, start=8, registered=None),
            *people(1, start=10, methods=("methodOfALaterYear",)),
            *people(2, start=11, enabled=False),
            *people(1, start=13, user_type="Guest"),
            *people(2, start=14, address=None),
        ]
    )
    html = render_status(await desk.app.status.collect())
    rows = re.findall(r'<th scope="row"( class="part")?>([^<]*)</th><td>(\d+)</td></tr>', html)
    assert [(name, int(number)) for part, name, number in rows if not part] == [
        ("accounts in the audience", 16),
        ("registered", 3),
        ("unregistered", 7),
        ("unknown: no row in the registration report", 2),
        ("unrecognised: only methods that we do not know", 1),
        ("excluded", 3),
    ]
    assert [(name, int(number)) for part, name, number in rows if part] == [
        ("confirmed by a completion, not in the report yet", 0),
        ("with no usable contact", 2),
        ("asked for no more reminders", 0),
        ("say that they are done, not confirmed yet", 0),
        ("disabled", 2),
        ("guest", 1),
    ]


# --- what must not be on it -----------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</bdi></li></ul><form action=https://evil.example>",
    "`<script>alert(1)</script>`",
    "{{ 7 * 7 }}{% include 'letter.css' %}",
    "\u202egnp.exe",
    "&lt;b&gt;",
]


def saying(text: str) -> Status:
    """A status that has this text wherever a file, a provider or an administrator may write."""
    campaign = make_campaign(
        headline=text, needs=[text], waits=[text], mistakes=[f"alumni.yaml:1: {text}"], file=text
    )
    return make_status(
        campaign,
        needs=[text],
        mistakes=[text],
        new_files=[text],
        sweep=make_sweep(13, "abandoned", reason=text),
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(text: str) -> None:
    page, tame = Page(render_status(saying(text))), Page(render_status(saying("harmless")))
    assert [tag for tag, _ in page.tags if tag != "code"] == [
        tag for tag, _ in tame.tags if tag != "code"
    ]
    assert page.text.count(text.strip("`")) == tame.text.count("harmless")


async def test_a_hostile_campaign_file_is_shown_as_it_is(desk: Desk) -> None:
    await desk.plan(1)
    await desk.world.write_campaign(
        campaign_text(timezone="'<img src=x onerror=alert(1)>'").replace(
            "days_before: 60", "<b>: 1"
        )
    )
    await desk.world.write_campaign("campaign: [", file="<i>.yaml")
    await desk.app.operations.pause(NAME, "<script>alert(1)</script>", "registrar")
    page = Page(render_status(await desk.app.status.collect()))
    assert not {"img", "b", "i", "script"} & {tag for tag, _ in page.tags}
    for shown in ("<img src=x onerror=alert(1)>", "<b>", "<i>.yaml", "<script>alert(1)</script>"):
        assert shown in page.text


@pytest.mark.invariant(6)
async def test_nothing_personal_is_on_the_page(world: World) -> None:
    """Neither anybody's names, addresses, numbers and ids, nor who paused the campaign."""
    world.move_clock(datetime.fromisoformat("2027-03-17T08:00+08:00"))
    await world.write_campaign()
    await world.sweep()
    for number, parcel in enumerate(await world.parcels()):
        await world.app.stores.ledger.change(parcel, **WAYS[number % len(WAYS)])
    await world.app.operations.pause(NAME, "The help desk is closed.", "registrar.of.the.day")
    status = await world.app.status.collect()
    told = render_status(status) + msgspec.json.encode(status).decode()
    told = told.casefold()
    users = (
        await world.get_json(f"{world.graph_url}/users", **{"$top": "999", "$select": FIELDS})
    )["value"]
    assert len(users) == 500
    personal = {
        str(value).casefold()
        for user in users
        for key in FIELDS.split(",")
        for value in (user[key] if isinstance(user[key], list) else [user[key]])
        if value
    }
    assert len(personal) > 1000
    assert [value for value in personal if value in told] == []
    assert "registrar" not in told


FIELDS = "id,userPrincipalName,displayName,mail,otherMails,mobilePhone"


# --- how it is made -------------------------------------------------------------------------------


def full_status() -> Status:
    """Four campaigns of eight touches, each of which ended in every way; one is under way, too. One
    of the campaigns goes out on two channels."""
    ended = dict.fromkeys(("accepted", "final", "refused", "left out", "expired", "failed"), 12_345)
    moving = dict.fromkeys(STATES, 12_345)
    touches = [
        make_touch(f"touch-number-{number}", parcels=people, people=people, delivered=12_345)
        for number, people in enumerate([*[ended] * 7, moving])
    ]
    canary = make_canary(CanaryResult.WAITING)
    texts = [msgspec.structs.replace(touch, channel="sms", canary=canary) for touch in touches]
    limited = {"limit_today": 50_000, "sent_today": 12_345}
    campaigns = [
        make_campaign(
            f"alumni-of-the-year-{year}",
            headline="Needs you: " + "a long sentence. " * 10,
            needs=["a long sentence. " * 10] * 6,
            waits=["a long sentence. " * 6] * 3,
            mistakes=["alumni.yaml:10: `x` is not a key of a campaign file. " * 2] * 20,
            counts=ShardCounts(reasons=dict.fromkeys(("disabled", "guest", "service account"), 1)),
            channels=[make_channel(**limited), make_channel("sms", **limited)],
            touches=[*touches, *(texts if year == 2027 else [])],
        )
        for year in range(2027, 2031)
    ]
    return make_status(*campaigns, sweep=OPEN)


def test_it_is_small() -> None:
    assert len(render_status(full_status()).encode()) < MOST_BYTES


def test_it_loads_its_stylesheet_and_nothing_else() -> None:
    page = Page(render_status(full_status()))
    names = {tag for tag, _ in page.tags}
    assert not {"script", "style", "img", "iframe", "form", "object"} & names
    assert not any("style" in attributes or "onclick" in attributes for _, attributes in page.tags)
    assert "http-equiv" not in page.html  # a page that reloads itself moves under the reader
    for tag, attributes in page.tags:
        address = attributes.get("href") or attributes.get("src") or ""
        assert address.startswith(("#", "data:,", "/assets/page.css")) or tag not in ("a", "link")


def test_tables_can_be_read_with_the_ears() -> None:
    page = Page(render_status(full_status()))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    tables = [tag for tag, _ in page.tags if tag in ("table", "caption")]
    assert tables == ["table", "caption"] * (len(tables) // 2)
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    for tag, attributes in page.tags:
        if tag == "div":  # what scrolls can be reached by keyboard, and says what it is
            assert (attributes["role"], attributes["tabindex"]) == ("region", "0")
        if label := attributes.get("aria-labelledby"):
            assert label in ids
        if tag == "a":
            assert (attributes["href"] or "").removeprefix("#") in ids
