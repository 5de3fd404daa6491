"""What leaves, and what stays behind, after two days over the simulated tenant with every kind of
trouble at the provider: mail bodies as SendGrid got them, mails as people see them, and what
storage and logs know of those people.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from local.roster import Roster
from local.tenant import Options, roster_of
from shared.clock import CampaignTime
from shared.names import NAMES, poison_of
from shared.rules.links import Sealed, unseal
from shared.rules.parcels import SHARDS, Parcel, State
from shared.stores.outbox import Slice
from shared.stores.queues import HandOut, decode_message
from shared.workflows.plan import format_id
from tests.graph import Someone
from tests.sending import EARLY, MovedClock, campaign_text, running_desk, watched_inbox
from tests.world import FORTNIGHT, KEY, NAME, World, running_world

PEOPLE = Options(alumni=500, others=40, seed=7, throttled=False)
LINKS = "https://mfa.its.hku.hk"
ENDS = datetime.fromisoformat("2027-04-13T00:00+08:00")
"""When the example's last touch closes."""

type Breaches = Callable[[dict[str, Any]], list[str]]


# --- the run --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What came of it.

    Attributes:
        bodies: of all calls, in order.
        mails: as they arrived.
        stored: by place, everything in storage but pages and outboxes, as text.
        log: every line that was logged.
        due: people of the second sweep who are unregistered and in the audience.
    """

    bodies: list[dict[str, Any]]
    parcels: list[Parcel]
    mails: list[dict[str, Any]]
    stored: dict[str, str]
    log: str
    unreached: dict[bytes, str]
    due: int

    def rows(self) -> dict[str, Parcel]:
        """By the id that a call carries."""
        return {
            f"{parcel.campaign}:{SHARDS[parcel.shard]}|{parcel.key}": parcel
            for parcel in self.parcels
        }


@pytest.fixture(scope="module")
def roster() -> Roster:
    return roster_of(PEOPLE)


@pytest.fixture(scope="module")
def run(_storage_accounts: Iterator[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return asyncio.run(_run(next(_storage_accounts), tmp_path_factory.mktemp("run")))


async def _run(connection_string: str, directory: Path) -> Run:
    clock, log = MovedClock(directory / "clock.json"), _Lines()
    root = logging.getLogger()
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.INFO)
    async with (
        watched_inbox(connection_string, clock, directory) as (url, provider),
        running_world(
            connection_string,
            directory,
            at=EARLY,
            people=PEOPLE,
            clock=clock,
            SENDGRID_BASE_URL=url,
        ) as world,
    ):
        await world.write_campaign(campaign_text(parcel_size=9))
        await world.sweep()
        world.move_clock(FORTNIGHT)
        await world.app.releases.release_all()
        stored = await _read_storage(world)
        await _make_trouble(world)
        await _send_all(world, clock)
        world.move_clock(EARLY + timedelta(days=1) - clock.ahead)
        await world.sweep()
        world.move_clock(FORTNIGHT + timedelta(days=1) - clock.ahead)
        await _send_all(world, clock)
        await world.app.poison.take(NAMES.queues.email, b"foreign", HandOut)
        stored |= await _read_storage(world)
        sweep = await world.app.stores.sweeps.read_committed()
        standing = (await world.app.book.read()).standings[NAME]
        assert sweep is not None
        counts = await world.app.status.sum_counts(standing, sweep)
        assert counts is not None
        result = Run(
            bodies=[call.body for call in provider.calls],
            parcels=await world.parcels(),
            mails=(await world.messages(limit="10000"))["messages"],
            stored=stored,
            log="\n".join(log.lines),
            unreached=await world.app.status.list_unreached(standing, sweep),
            due=counts.unregistered,
        )
    root.removeHandler(log)
    root.setLevel(level)
    return result


async def _make_trouble(world: World) -> None:
    """The first three messages meet addresses that are refused; some calls after them fail."""
    queue = world.app.account.queue(NAMES.queues.email)
    taken = [one async for one in queue.receive_messages(max_messages=3)]
    # The largest one in the middle: the refusal that names nobody is to take it apart.
    taken.sort(key=lambda one: decode_message(one.content, HandOut).count)
    taken[1], taken[2] = taken[2], taken[1]
    messages = [decode_message(one.content, HandOut) for one in taken]
    addresses = [
        (await world.app.stores.outbox.read(m.outbox, Slice(m.offset, m.length, m.digest)))[
            -1
        ].address
        for m in messages
    ]
    named, unnamed, also_named = (address.lower() for address in addresses)
    refuse = {named: "named", unnamed: "unnamed", also_named: "named"}
    await world.fault("inbox", refuse=refuse)
    for one, message in zip(taken, messages, strict=True):
        await world.app.dispatch.send(message)
        await queue.delete_message(one)
    await world.fault(
        "inbox",
        refuse=refuse,
        calls=[
            {"status": 500, "after": 5},
            {"status": 502, "body": "<html>", "accept": True},
            {"reset": True},
            {"reset": True, "accept": True},
            {"status": 429, "headers": {"Retry-After": "30"}},
            {"status": 401, "after": 3},
        ],
    )


async def _send_all(world: World, clock: MovedClock) -> None:
    """Until nothing is planned any more; a pause or a split takes some rounds."""
    for _ in range(15):
        await world.release()
        if all(parcel.state is not State.PLANNED for parcel in await world.parcels()):
            return
        clock.let_pass(minutes=16)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


async def _read_storage(world: World) -> dict[str, str]:
    """Everything but what is in pages and outboxes; of these the names."""
    account = world.app.account
    found: dict[str, str] = {}
    for table in msgspec.structs.astuple(NAMES.tables):
        async for row in account.table(table).list_entities():
            found[f"{table} {row['PartitionKey']} {row['RowKey']}"] = "\n".join(
                _texts(row.values())
            )
    for queue in msgspec.structs.astuple(NAMES.queues):
        for name in (queue, poison_of(queue)):
            for message in await account.queue(name).peek_messages(32):
                found[f"{name} {message.id}"] = message.content.decode()
    for name in msgspec.structs.astuple(NAMES.containers):
        container = account.container(name)
        async for blob in container.list_blobs(include=["metadata"]):
            found[f"{name} {blob.name}"] = str(blob.metadata)
            if name not in (NAMES.containers.pages, NAMES.containers.outbox):
                body = await (await container.download_blob(blob.name)).readall()
                found[f"{name} {blob.name}"] += body.decode()
    return found


def _texts(values: Any) -> Iterator[str]:
    for value in values:
        yield value.decode("latin-1") if isinstance(value, bytes) else str(value)


# --- bodies ---------------------------------------------------------------------------------------


def test_the_run_had_all_the_trouble_that_it_was_to_have(run: Run) -> None:
    states = Counter(parcel.reason or parcel.state.value for parcel in run.parcels)
    assert states["no clear answer"] >= 3
    assert states["split"] >= 1
    assert states["accepted"] > 20
    assert any(parcel.refused for parcel in run.parcels)
    assert len(run.bodies) > 30


def test_every_body_validates_against_the_published_schema(run: Run, breaches: Breaches) -> None:
    assert [breach for body in run.bodies for breach in breaches(body)] == []


@pytest.mark.invariant(1)
def test_every_call_has_its_own_attempt_and_its_rows_last_one_is_remembered(run: Run) -> None:
    last: dict[str, str] = {}
    for body in run.bodies:
        last[body["custom_args"]["parcel"]] = body["custom_args"]["attempt"]
    assert len({body["custom_args"]["attempt"] for body in run.bodies}) == len(run.bodies)
    assert {name: run.rows()[name].attempt for name in last} == last


def test_each_personalization_is_the_person_of_its_index(run: Run, roster: Roster) -> None:
    rows = run.rows()
    for body in run.bodies:
        row = rows[body["custom_args"]["parcel"]]
        people = dict(row.people())
        for one in body["personalizations"]:
            account = roster.person(
                roster.find(format_id(people[int(one["custom_args"]["i"])])) or 0
            )
            (to,) = one["to"]
            contacts = [*account.other_mails, account.mail or ""]
            assert to["email"].lower() in [contact.strip().lower() for contact in contacts]
            link = one["headers"]["List-Unsubscribe"]
            assert link.startswith(f"<{LINKS}/unsubscribe/")
            sealed = _unseal("unsubscribe", link.rpartition("/")[2].rstrip(">"))
            assert (sealed.campaign, format_id(sealed.person)) == (NAME, account.id)
            assert one["headers"]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
            done = [value for value in one["substitutions"].values() if "/done/" in value]
            assert {_unseal("done", value.rpartition("/")[2]).person for value in done} == {
                sealed.person
            }
            assert set(one) == {"to", "headers", "substitutions", "custom_args"}


def _unseal(purpose: Any, token: str) -> Sealed:
    return unseal([KEY], purpose, token, CampaignTime(FORTNIGHT))


def test_what_all_people_of_a_call_share_names_none_of_them(run: Run) -> None:
    """And nothing is tracked; the sender is the campaign's."""
    for body in run.bodies:
        assert set(body["custom_args"]) == {"parcel", "attempt"}
        assert sorted(body["categories"]) == ["fortnight", NAME]
        assert body["from"]["email"] == "no-reply@its.hku.hk"
        assert body["reply_to"] == {"email": "ithelp@hku.hk"}
        assert [part["type"] for part in body["content"]] == ["text/plain", "text/html"]
        switches = [value for one in body["tracking_settings"].values() for value in one.values()]
        assert switches == [False] * len(switches)
        assert set(body["tracking_settings"]) == {
            *("click_tracking", "open_tracking", "subscription_tracking", "ganalytics"),
        }
        folded = [one["to"][0]["email"].casefold() for one in body["personalizations"]]
        assert len(set(folded)) == len(folded)


@pytest.mark.invariant(1, 2)
def test_nobody_got_a_touch_twice_and_everybody_is_accounted_for(run: Run, roster: Roster) -> None:
    """The inbox took two calls whose answers were lost: their people are doubts, not sent again."""
    got = Counter(unsubscribe_of(mail).person for mail in run.mails)
    assert set(got.values()) == {1}
    accepted, doubts = (people_in(run, state) for state in (State.ACCEPTED, State.AMBIGUOUS))
    assert accepted <= set(got) <= accepted | doubts
    listed = {person for person, why in run.unreached.items() if why == "no clear answer"}
    assert listed <= doubts
    for person in doubts - listed:
        account = roster.person(roster.find(format_id(person)) or 0)
        assert account.standing((EARLY + timedelta(days=1)).timestamp()).registered
    assert {parcel.state for parcel in run.parcels}.isdisjoint({State.PLANNED, State.CLAIMED})
    # Some have registered since they were written to; all others are reached, or listed.
    assert len(run.unreached.keys() | accepted) >= run.due


@pytest.mark.invariant(5)
def test_links_live_for_a_month_and_a_year_after_the_last_touch(run: Run) -> None:
    for mail in run.mails:
        (done,) = re.findall(rf"{LINKS}/done/(\S+)", mail["text"])
        assert _unseal("done", done).expires == ENDS + timedelta(days=30)
        assert unsubscribe_of(mail).expires == ENDS + timedelta(days=365)


def people_in(run: Run, state: State) -> set[bytes]:
    """Who is in parcels in this state, but for those left out of them or refused."""
    return {
        person
        for parcel in run.parcels
        if parcel.state is state
        for index, person in parcel.people()
        if parcel.outcome_of(index) == "had"
    }


def unsubscribe_of(mail: dict[str, Any]) -> Sealed:
    return _unseal(
        "unsubscribe", mail["headers"]["List-Unsubscribe"].rpartition("/")[2].rstrip(">")
    )


# --- what stays behind ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traces(roster: Roster) -> set[str]:
    """Every name, address and number of the roster, lower-case."""
    found: set[str] = set()
    for index in range(len(roster)):
        person = roster.person(index)
        found |= {
            person.display_name,
            person.user_principal_name,
            person.user_principal_name.partition("@")[0],
            person.mail or "",
            person.mobile_phone or "",
            *person.other_mails,
        }
    return {text.strip().lower() for text in found if len(text.strip()) > 1} - {
        # The directory's words for having no address, and for its own accounts.
        *("n/a", "none", "not.provided", "on-premises directory synchronization service account")
    }


@pytest.mark.invariant(6)
def test_storage_knows_nobody_but_in_pages_and_outboxes(run: Run, traces: set[str]) -> None:
    kinds = {place.partition(" ")[0] for place in run.stored}
    assert {"ledger", "control", "email", "email-poison", "config-versions", "outbox"} <= kinds
    assert any("person|" in place for place in run.stored)
    assert any("channel|email" in place for place in run.stored)
    assert len(traces) > 1000
    for place, text in run.stored.items():
        known = f"{place}\n{text}\n{_unpacked(text)}".lower()
        assert [trace for trace in traces if trace in known] == [], place


def _unpacked(text: str) -> str:
    """What base64 in a message may hide."""
    words = [word for word in text.split('"') if len(word) > 8 and len(word) % 4 == 0]
    unpacked: list[str] = []
    for word in words:
        try:
            unpacked.append(base64.b64decode(word, validate=True).decode("latin-1"))
        except ValueError:
            continue
    return "\n".join(unpacked)


@pytest.mark.invariant(6)
def test_logs_name_nobody(run: Run, traces: set[str]) -> None:
    assert "recipients_refused" in run.log
    assert "call_ambiguous" in run.log
    assert "parcel_refused" in run.log
    assert "Request URL" in run.log  # the SDK's own lines are among them
    known = run.log.lower()
    assert [trace for trace in traces if trace in known] == []


# --- hostile names, as they arrive ----------------------------------------------------------------

HOSTILE = {
    "markup": "<b>Bold</b> & Co",
    "a script": "<script>alert(1)</script>",
    "an attribute": '" onmouseover="alert(1)',
    "a formula": "=cmd|' /C calc'!A0",
    "a template": "{{7*7}} ${7*7} <%= 7*7 %>",
    "lines": "Two\r\nBcc: someone@example.net\r\n\r\nLines",
    "right to left": "\u202egnihton\u202c \u2067Tai\u2069",
    "the tag of another": "-account- %name% t0_greeting_html_",
    "a list": "CHAN, Tai Man <other@example.net>",
    "invisible": "Tai\u200b\ufeff\x00\x1bMan",
    "entities": "&lt;i&gt; &amp;amp;",
}


class _Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.words = ""
        self.feed(html)

    def count(self, element: str) -> int:
        return self.elements.count(element)

    def without(self, tag: str) -> list[str]:
        return [element for element in self.elements if tag not in element]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        self.elements.append(f"{tag} {names}")

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.words += data


async def test_hostile_names_do_no_harm(connection_string: str, tmp_path: Path) -> None:
    """Beside somebody with a plain name: the same elements, lines and headers."""
    everybody = [
        Someone(number=16 * number, name=name)
        for number, name in enumerate(["Tai Man Chan", *HOSTILE.values()])
    ]
    async with running_desk(connection_string, tmp_path) as desk:
        await desk.plan(everybody)
        await desk.send_due()
        mails = (await desk.world.messages())["messages"]
    by_address = {mail["to"][0]["email"]: mail for mail in mails}
    plain = by_address["person.0@example.org"]
    plain_html = _Elements(plain["html"])
    for number, (kind, name) in enumerate(HOSTILE.items(), start=1):
        mail = by_address[f"person.{16 * number}@example.org"]
        html, (to,) = _Elements(mail["html"]), mail["to"]
        # A name that is not one is not shown at all: the greeting has no <bdi> then.
        assert plain_html.count("bdi []") - html.count("bdi []") in (0, 1), kind
        assert html.without("bdi") == plain_html.without("bdi"), kind
        assert len(mail["text"].splitlines()) == len(plain["text"].splitlines()), kind
        assert mail["subject"] == plain["subject"], kind
        assert set(mail["headers"]) == set(plain["headers"]), kind
        (greeting,) = (line for line in mail["text"].splitlines() if line.startswith("Hello"))
        assert "49" not in greeting, kind
        shown = f"{greeting}{to['name'] or ''}"
        assert not [c for c in shown if unicodedata.category(c).startswith("C")], kind
        assert not set(to["name"] or "") & set('<>,;:"@()[]\\'), kind
        if "markup" in kind or "formula" in kind or "template" in kind or "entities" in kind:
            assert name in greeting
            assert name in html.words
