"""`nudge local`: the whole system as processes, run to its end, disturbed, looked at meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from functions.wiring import App
from local.inbox import Options as InboxOptions
from local.inbox import SigningKey, Text, read_texts, running_inbox
from local.parts import free_port
from local.system import find_running_system
from local.tenant import running_tenant
from local.watch import Look, Patience, Progress
from shared.clock import StorageTime, write_clock_file
from shared.rules.parcels import State
from tests.local.campaigns import BY_SMS, write_campaign
from tests.nudge_process import (
    NudgeProcess,
    environment_of,
    is_running,
    kill,
    listening_addresses,
    run_nudge,
    running_nudge,
    until,
)
from tests.world import FORTNIGHT, NAME

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOWHERE = "http://127.0.0.1:9"
ONCE = ("local", "--once", "--json", "--alumni", "300")
TOLD = re.compile(r"\APretended time: .+\nMode: live, .+\n\Z")
"""What stands on standard error where all is well: nobody is to take it for the real thing."""

EVERYTHING = {
    "sweep": {
        *("roster", "registered", "unregistered", "unknown", "unrecognised", "excluded"),
        "unreachable",
    },
    "parcels": {"planned", "scheduled", "accepted", "rejected", "ambiguous", "expired"},
    "recipients": {"email", "sms"},
}


@dataclass(frozen=True)
class Inbox:
    """An inbox of the test's own, which outlives the runs."""

    url: str
    http: aiohttp.ClientSession

    async def fault(self, **fault: Any) -> None:
        async with self.http.post(f"{self.url}/faults", json=fault) as answer:
            assert answer.status < 300, await answer.text()

    async def mails(self) -> list[tuple[str, str]]:
        """Addressee and account of each mail, so that people who share an address differ."""
        url = f"{self.url}/messages?limit=100000"
        async with self.http.get(url) as answer:
            found = (await answer.json())["messages"]
        return sorted((one["to"][0]["email"], account_in(one["text"])) for one in found)

    async def texts(self) -> list[Text]:
        return (await read_texts(self.http, self.url, limit=100_000)).texts


def account_in(text: str) -> str:
    """The account that a mail names; the one to a seed address names nobody's."""
    found = re.search(r"Account: (\S+)", text)
    return found[1] if found else ""


@contextlib.asynccontextmanager
async def own_inbox(**options: Any) -> AsyncGenerator[Inbox]:
    async with (
        running_inbox(InboxOptions(**options)) as url,
        aiohttp.ClientSession() as http,
    ):
        yield Inbox(url, http)


def read_ledger(file: Path) -> tuple[list[str], dict[str, str]]:
    """The parcels' states and the unreached of `--ledger`, whose form is checked here."""
    dump = json.loads(file.read_text())
    assert set(dump) == {"parcels", "unreached"}
    for parcel in dump["parcels"]:
        assert set(parcel) == {"id", "state", "reason", "resent"}
        assert re.fullmatch(rf"{NAME}:[0-9a-f]\|\d{{8}}\|\w+", parcel["id"])
    return [parcel["state"] for parcel in dump["parcels"]], dump["unreached"]


# --- a run to its end


@pytest.mark.invariant(2)
async def test_one_object_and_nothing_else(tmp_path: Path) -> None:
    """Over 429s that ask to be waited for, and one answer that never comes: that parcel is in
    doubt, holds nothing up, and its people are listed. The machine's proxy is not asked."""
    ledger = tmp_path / "ledger.json"
    async with own_inbox() as inbox:
        await inbox.fault(calls=[{"accept": True, "reset": True}], limit={"calls": 9, "seconds": 4})
        code, out, error = await run_nudge(
            *(*ONCE, "--ledger", str(ledger)),
            SENDGRID_BASE_URL=inbox.url,
            HTTP_PROXY=NOWHERE,
            http_proxy=NOWHERE,
        )
        mails = await inbox.mails()
    assert (code, TOLD.sub("", error)) == (0, "")
    outcome = json.loads(out)  # the whole of it is one object
    assert outcome.pop("seconds") > 0
    assert {name: set(figures) for name, figures in outcome.items()} == EVERYTHING

    sweep, parcels = outcome["sweep"], outcome["parcels"]
    parts = ("registered", "unregistered", "unknown", "unrecognised", "excluded")
    assert sweep["roster"] == 300 == sum(sweep[part] for part in parts)
    assert parcels["planned"] == parcels["accepted"] + parcels["ambiguous"]
    assert parcels["ambiguous"] == 1
    assert parcels["accepted"] > 9, "the limit was met"

    states, unreached = read_ledger(ledger)
    assert sorted(states) == ["accepted"] * parcels["accepted"] + ["ambiguous"]
    doubtful = [why for why in unreached.values() if why != "no usable contact"]
    assert set(doubtful) == {"no clear answer"}
    assert len(unreached) == sweep["unreachable"] + len(doubtful)
    assert outcome["recipients"]["email"] + len(doubtful) == len(mails)
    assert sweep["unregistered"] == sweep["unreachable"] + len(mails)


async def test_services_that_the_environment_names_are_used_and_not_simulated() -> None:
    async with own_inbox() as inbox, running_tenant() as tenant:
        settings = {
            "GRAPH_BASE_URL": f"{tenant}/v1.0",
            "SENDGRID_BASE_URL": inbox.url,
            "TWILIO_BASE_URL": inbox.url,
        }
        async with running_nudge(*ONCE[1:], **settings) as nudge:
            host = await nudge.part("local.host")
            assert set(nudge.parts()) == {"local.host", "azurite"}
            assert environment_of(host).items() >= settings.items()
            code, out, error = await nudge.end()
        assert (code, TOLD.sub("", error)) == (0, "")
        outcome = json.loads(out)
        assert outcome["sweep"]["roster"] == 2000, "the tenant's own number, not --alumni"
        assert len(await inbox.mails()) == outcome["recipients"]["email"] > 500


SEED = "colleague@its.example.edu"


@pytest.mark.invariant(2)
async def test_texts_a_canary_and_seed_addresses(tmp_path: Path) -> None:
    """The inbox tells the host what becomes of mails, and so the others may follow the canary."""
    campaign = write_campaign(
        tmp_path / "by-sms.yaml",
        *BY_SMS,
        (
            "  # canary: {recipients: 50, delivered: 0.8}",
            "  canary: {recipients: 20, delivered: 1}",
        ),
        ("  # seed_addresses: [ithelp@hku.hk]", f"  seed_addresses: [{SEED}]"),
    )
    ledger, port, key = tmp_path / "ledger.json", free_port(), SigningKey()
    events_url = f"http://127.0.0.1:{port}/callbacks/sendgrid"
    async with own_inbox(events_url=events_url, signing_key=key) as inbox:
        code, out, error = await run_nudge(
            *(*ONCE, "--campaign", str(campaign), "--ledger", str(ledger), "--port", str(port)),
            SENDGRID_BASE_URL=inbox.url,
            SENDGRID_WEBHOOK_PUBLIC_KEY=key.public,
            TWILIO_BASE_URL=inbox.url,
        )
        mails, texts = await inbox.mails(), await inbox.texts()
    assert (code, TOLD.sub("", error)) == (0, "")
    outcome = json.loads(out)
    seeds = [address for address, _ in mails if address == SEED]
    assert len(seeds) == 1, "one for each touch and language"
    assert outcome["recipients"] == {"email": len(mails) - len(seeds), "sms": len(texts)}
    assert len(mails) > 50
    assert len(texts) > 20
    for text in texts:
        assert text.sender == "HKU"
        assert "MFA pre-registration for alumni" in text.text
        assert "http" not in text.text
        assert text.parts <= 2
    states, unreached = read_ledger(ledger)
    assert set(states) == {"accepted"}
    parcels = outcome["parcels"]
    assert parcels["planned"] == parcels["accepted"] == len(states) - len(seeds)
    assert set(unreached.values()) <= {"no usable contact"}
    assert len(unreached) == outcome["sweep"]["unreachable"]


async def test_a_canary_in_doubt_holds_nothing_up(tmp_path: Path) -> None:
    """Nobody tells what became of it: the others stay, and are due when somebody does."""
    campaign = write_campaign(
        tmp_path / "canary.yaml",
        ("  # canary: {recipients: 50, delivered: 0.8}", "  canary: {recipients: 8, delivered: 1}"),
    )
    async with own_inbox() as inbox:
        await inbox.fault(calls=[{"accept": True, "reset": True}])
        code, out, error = await run_nudge(
            *(*ONCE, "--campaign", str(campaign)), SENDGRID_BASE_URL=inbox.url
        )
        mails = await inbox.mails()
    assert (code, TOLD.sub("", error)) == (0, "")
    parcels = json.loads(out)["parcels"]
    assert (parcels["ambiguous"], parcels["accepted"]) == (1, len(mails) - 1)
    assert 2 <= len(mails) <= 8
    assert parcels["planned"] == len(mails) + parcels["scheduled"]


async def test_what_the_days_limit_holds_back_is_due_later(tmp_path: Path) -> None:
    campaign = write_campaign(
        tmp_path / "slow.yaml",
        ("  # max_per_day: {email: 100000, sms: 20000}", "  max_per_day: {email: 40}"),
    )
    async with own_inbox() as inbox:
        code, out, error = await run_nudge(
            *(*ONCE, "--campaign", str(campaign)), SENDGRID_BASE_URL=inbox.url
        )
        mails = await inbox.mails()
    assert (code, TOLD.sub("", error)) == (0, "")
    outcome = json.loads(out)
    assert 20 < outcome["recipients"]["email"] == len(mails) <= 40
    parcels = outcome["parcels"]
    assert parcels["planned"] == parcels["accepted"] + parcels["scheduled"]
    assert parcels["scheduled"] > 0


@pytest.mark.invariant(2)
async def test_a_second_call_goes_on_where_the_first_one_ended(tmp_path: Path) -> None:
    """Nobody is written to twice for a touch, and the next touch comes in its time."""
    async with own_inbox() as inbox:

        async def call(at: datetime) -> tuple[dict[str, int], list[tuple[str, str]]]:
            """The figures of parcels, and the mails that came of this call."""
            before = await inbox.mails()
            code, out, error = await run_nudge(
                *(*ONCE, "--keep", str(tmp_path / "keep"), "--at", at.isoformat()),
                SENDGRID_BASE_URL=inbox.url,
            )
            assert (code, TOLD.sub("", error)) == (0, "")
            fresh = Counter(await inbox.mails()) - Counter(before)
            return json.loads(out)["parcels"], sorted(fresh.elements())

        parcels, first = await call(FORTNIGHT)
        assert parcels["planned"] == parcels["accepted"] > 0
        assert len(first) > 50
        assert max(Counter(first).values()) == 1

        parcels, again = await call(FORTNIGHT)
        assert (parcels["planned"], again) == (0, [])

        parcels, next_day = await call(FORTNIGHT + timedelta(days=1))
        assert (parcels["planned"], next_day) == (0, [])

        # Two days before the opening of `week`: it is planned, and waits.
        parcels, early = await call(FORTNIGHT + timedelta(days=5, hours=6))
        assert parcels["planned"] == parcels["scheduled"] > 0
        assert early == []

        parcels, week = await call(FORTNIGHT + timedelta(days=7))
        assert parcels["planned"] == parcels["accepted"] > 0
        assert set(week) < set(first), "some have registered meanwhile"


@pytest.mark.invariant(2)
@pytest.mark.invariant(3)
async def test_a_refused_key_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    ledger, keep = tmp_path / "ledger.json", tmp_path / "keep"
    words = (*ONCE, "--keep", str(keep), "--ledger", str(ledger))
    async with own_inbox(api_key="right") as inbox:
        code, out, error = await run_nudge(
            *words, SENDGRID_BASE_URL=inbox.url, SENDGRID_API_KEY="wrong"
        )
        assert code == 1
        assert "SENDGRID_API_KEY" in error
        assert "wrong" not in error
        assert json.loads(out)["parcels"]["accepted"] == 0
        assert set(read_ledger(ledger)[0]) == {"planned"}
        assert await inbox.mails() == []
        assert "The host's last words" in error
        assert "channel_paused" in (keep / "host.log").read_text()

        code, out, error = await run_nudge(
            *words, SENDGRID_BASE_URL=inbox.url, SENDGRID_API_KEY="right"
        )
        assert (code, TOLD.sub("", error)) == (0, "")
        outcome, mails = json.loads(out), await inbox.mails()
        # The minute's release may have let a parcel of the first call through: it is not counted
        # among this call's.
        assert 0 < outcome["recipients"]["email"] <= len(mails)
        assert len(mails) == outcome["sweep"]["unregistered"] - outcome["sweep"]["unreachable"]
        assert len(set(mails)) == len(mails)
        assert set(read_ledger(ledger)[0]) == {"accepted", "closed"}


@pytest.mark.invariant(3)
async def test_a_permission_that_is_missing_ends_the_run_and_is_named() -> None:
    async with running_tenant() as tenant, aiohttp.ClientSession() as http:
        async with http.post(f"{tenant}/faults", json={"members": [{"status": 403}]}) as answer:
            assert answer.status < 300
        code, out, error = await run_nudge(*ONCE, GRAPH_BASE_URL=f"{tenant}/v1.0")
    assert code == 1
    assert "GroupMember.Read.All" in error
    assert json.loads(out)["sweep"]["roster"] == 0


async def test_after_the_campaign_nothing_is_due() -> None:
    code, out, error = await run_nudge(*ONCE, "--at", "2028-01-03T10:00+08:00")
    assert (code, TOLD.sub("", error)) == (0, "")
    assert json.loads(out)["parcels"]["planned"] == 0


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, error = await run_nudge(*ONCE, "--port", str(port))
    assert (code, out) == (1, "")
    assert f"Port {port}: " in error, "the host's own words"


async def test_without_a_terminal_it_ends_after_naming_the_address() -> None:
    code, out, error = await run_nudge(*ONCE[:1], "--alumni", "100")
    assert (code, error) == (0, "")
    assert out.startswith("Pretended time: Wednesday 17 March 2027, 10:00 (Asia/Hong_Kong).")
    assert "Mode: live" in out
    assert re.search(r"alumni accounts found +100\n", out)
    assert "Subject: Reminder" in out
    assert re.match(r"The home page was at http://127\.0\.0\.1:\d+;", out.splitlines()[-1])


# --- how it ends


async def gone(pids: set[int]) -> bool:
    return not any(map(is_running, pids))


async def all_parts(nudge: NudgeProcess) -> dict[str, int]:
    """The processes of a system that is up."""
    await until(lambda: len(nudge.parts()) == 4)
    return nudge.parts()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_every_process(number: signal.Signals) -> None:
    async with running_nudge(*ONCE[1:]) as nudge:
        parts = await all_parts(nudge)
        nudge.process.send_signal(number)
        nudge.process.send_signal(number)  # an impatient second one cuts nothing short
        code, out, error = await nudge.end()
    assert code == 1
    assert out == ""
    assert "Ended before it was done." in error
    assert await gone(set(parts.values()))


async def test_no_process_outlives_a_supervisor_that_is_killed() -> None:
    async with running_nudge(*ONCE[1:]) as nudge:
        parts = await all_parts(nudge)
        kill(nudge.process.pid)
        await until(lambda: gone(set(parts.values())))
        await nudge.process.wait()
        found = find_running_system()
        assert found is None or found.pid != nudge.process.pid


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("azurite", "The storage"),
        ("local.tenant", "The simulated tenant"),
        ("local.inbox", "The inbox"),
    ],
)
async def test_the_end_of_a_part_ends_them_all(part: str, name: str) -> None:
    async with running_nudge(*ONCE[1:]) as nudge:
        parts = await all_parts(nudge)
        kill(parts[part])
        code, _, error = await nudge.end()
    assert code == 1
    assert f"{name} ended by itself" in error
    assert await gone(set(parts.values()))


# --- while it is up


class Terminal:
    """What a person sees: the far end of a pseudo-terminal."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.openpty()
        os.set_blocking(self._ours, False)
        self._seen = b""

    def text(self) -> str:
        """All that has been written so far."""
        with contextlib.suppress(OSError):  # nothing there, or the other end is closed
            while chunk := os.read(self._ours, 65536):
                self._seen += chunk
        return self._seen.decode().replace("\r\n", "\n")

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.theirs)


@dataclass(frozen=True)
class UpAndRunning:
    """A system that stays up on a terminal."""

    nudge: NudgeProcess
    terminal: Terminal
    port: int
    app: App

    async def nudge_command(self, *words: str) -> Any:
        """What a command of the administrator answers, with `--json`."""
        settings = environment_of(self.nudge.parts()["local.host"])
        code, out, error = await run_nudge(*words, "--json", **settings)
        assert (code, error) == (0, "")
        return json.loads(out)

    async def health(self) -> Any:
        with contextlib.suppress(aiohttp.ClientError):
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"http://127.0.0.1:{self.port}/health") as answer,
            ):
                return await answer.json()
        return None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncGenerator[UpAndRunning]:
    port = free_port()
    with contextlib.closing(Terminal()) as terminal:
        words = ("--alumni", "300", "--port", str(port))
        async with running_nudge(*words, terminal=terminal.theirs) as nudge:
            await until(lambda: "(Ctrl-C ends)" in terminal.text() or nudge.process.returncode)
            assert nudge.process.returncode is None, terminal.text()
            async with nudge.app() as app:
                yield UpAndRunning(nudge, terminal, port, app)


async def test_on_a_terminal_it_shows_how_far_it_is_and_stays(system: UpAndRunning) -> None:
    text = system.terminal.text()
    for shown in ("Reading the directory: ", "Sending: ", "alumni accounts found"):
        assert shown in text
    assert re.search(r"\nOpen http://127\.0\.0\.1:\d+  \(Ctrl-C ends\)", text)
    assert system.nudge.process.returncode is None


async def test_nothing_listens_beyond_loopback(system: UpAndRunning) -> None:
    parts = {**await all_parts(system.nudge), "nudge": system.nudge.process.pid}
    for name, pid in parts.items():
        assert listening_addresses(pid) == {"127.0.0.1"}, name


async def test_what_becomes_of_mails_comes_back_by_itself(system: UpAndRunning) -> None:
    async def all_delivered() -> bool:
        rows = [row async for row in system.app.status.scan_parcels(NAME)]
        return len(rows) > 0 and all(row.delivered_count == row.count for row in rows)

    await until(all_delivered)


async def test_an_administrator_looks_pauses_and_resumes(system: UpAndRunning) -> None:
    status = await system.nudge_command("status")
    assert status["sweep"]["state"] == "committed"
    (campaign,) = status["campaigns"]
    assert campaign["campaign"] == NAME
    assert campaign["mode"] == "live"
    assert campaign["waiting"] == []

    assert await system.nudge_command("pause", NAME) == {"campaign": NAME, "paused": True}
    (campaign,) = (await system.nudge_command("status"))["campaigns"]
    assert campaign["waiting"] == ["An administrator paused it."]

    lifted = {"campaign": NAME, "lifted": ["administrator"]}
    assert await system.nudge_command("resume", NAME) == lifted
    (campaign,) = (await system.nudge_command("status"))["campaigns"]
    assert campaign["waiting"] == []

    settings = environment_of(system.nudge.parts()["local.host"])
    code, out, error = await run_nudge("pause", "nobody", **settings)
    assert (code, out) == (1, "")
    assert "There is no campaign `nobody`" in error


async def test_the_local_system_is_found_without_settings(system: UpAndRunning) -> None:
    """Beside others, of tests that run now: the youngest is found, which ours is in the end."""

    def is_ours() -> bool:
        found = find_running_system()
        assert found is not None
        return found.pid == system.nudge.process.pid

    async def ask() -> tuple[int, str, str] | None:
        answer = await run_nudge("status", "--local") if is_ours() else None
        return answer if is_ours() else None

    code, out, error = await until(ask, seconds=180)
    assert (code, error) == (0, "")
    assert f"{NAME}: version 1, live, deadline 2027-03-31" in out


async def test_moving_the_clock_over_their_schedule_fires_the_timers_once(
    system: UpAndRunning,
) -> None:
    """By a week: one sweep, not seven."""
    sweeps = system.app.stores.sweeps
    before = await sweeps.read_head()
    clock = Path(environment_of(system.nudge.parts()["local.host"])["CLOCK_FILE"])
    write_clock_file(clock, FORTNIGHT + timedelta(days=7))
    await until(lambda: is_committed(system.app, before.number + 1))

    async def all_sent() -> bool:
        rows = [row async for row in system.app.status.scan_parcels(NAME)]
        ended = [row for row in rows if row.touch == "week" and row.state is State.ACCEPTED]
        return len(ended) > 0 and {row.state for row in rows} == {State.ACCEPTED}

    await until(all_sent)
    assert (await sweeps.read_head()).number == before.number + 1


async def is_committed(app: App, number: int) -> bool:
    return (await app.stores.sweeps.read_head()).committed == number


async def test_a_host_that_dies_is_started_again(system: UpAndRunning) -> None:
    assert (await system.health())["status"] == "ok"
    host = system.nudge.parts()["local.host"]
    kill(host)
    await system.nudge.part("local.host", other_than=host)
    assert (await until(system.health))["status"] == "ok"


async def test_ctrl_c_ends_it_in_good_order(system: UpAndRunning) -> None:
    """The last test of this system."""
    parts = await all_parts(system.nudge)
    system.nudge.process.send_signal(signal.SIGINT)
    assert await system.nudge.process.wait() == 0
    assert await gone(set(parts.values()))


# --- when waiting is no use


class Hands:
    """A clock for `Patience`, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(minute: int) -> StorageTime:
    return StorageTime(FORTNIGHT + timedelta(minutes=minute))


async def test_a_run_is_given_up_when_nothing_moves() -> None:
    hands = Hands()
    patience = Patience(1, hands)
    hands.now = 1199
    assert patience.end(Look(progress=Progress(pages=1)), waiting=False) is None
    hands.now += 1201
    assert "Nothing has moved" in (
        patience.end(Look(progress=Progress(pages=1)), waiting=False) or ""
    )


async def test_to_be_asked_for_a_long_wait_is_no_reason_to_give_up() -> None:
    hands = Hands()
    patience = Patience(1, hands)
    look = Look(asked_until=asked(60))
    for _ in range(60):
        assert patience.end(look, waiting=True) is None
        hands.now += 60
    assert patience.end(look, waiting=False) is None


async def test_to_be_put_off_again_and_again_is() -> None:
    hands = Hands()
    patience = Patience(1, hands)
    ends: list[str | None] = []
    for turn in range(10):
        ends.append(patience.end(Look(asked_until=asked(turn)), waiting=True))
        hands.now += 25
    assert ends[:5] == [None] * 5
    assert "times in a row" in (ends[-1] or "")


async def test_whoever_gets_on_between_refusals_is_not_given_up() -> None:
    hands = Hands()
    patience = Patience(1, hands)
    for turn in range(50):
        look = Look(progress=Progress(pages=turn), asked_until=asked(turn))
        assert patience.end(look, waiting=True) is None
        hands.now += 100
