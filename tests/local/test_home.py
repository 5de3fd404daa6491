"""The home page of a local system that is up: its clock, its people, its campaign file.

The tests tell one story, in their order: the clock only goes on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from http import HTTPStatus
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import aiohttp
import pytest
import pytest_asyncio

from local.home import running_home
from local.inbox import running_inbox
from local.moves import next_day
from local.pages import Pages
from local.person import Account, Story
from local.system import Options, running_system
from local.tenant import Options as TenantOptions
from local.tenant import running_tenant
from local.watch import Watcher
from shared.clock import CampaignTime
from tests.local.reading import Browser
from tests.own_task import in_a_task_of_its_own
from tests.world import EXAMPLE, NAME

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncGenerator[Browser]:
    async with in_a_task_of_its_own(_running_browser()) as browser:
        yield browser


@asynccontextmanager
async def _running_browser() -> AsyncGenerator[Browser]:
    options = Options(campaign=EXAMPLE, alumni=120, others=0, throttled=False)
    async with (
        running_system(options) as system,
        running_home(system) as home,
        aiohttp.ClientSession() as http,
    ):
        watcher = Watcher(system, system.campaign, system.sweep)
        assert await watcher.until_settled(lambda progress: None) is None
        yield Browser(system, home, http)


# --- what it shows


async def test_the_home_page_says_where_everything_stands(browser: Browser) -> None:
    page = await browser.get("/")
    assert page.status == 200
    for words in (
        "Wed 17 March 2027, 10:0",
        "in 14 days",
        "open until Wed 17 March 2027, 18:00",
        "week, Wed 24 March 2027, 09:01",
        "120",
        f"Version 1 of {NAME} is in force.",
    ):
        assert words in page.text, words
    assert page.body.count('<li><a href="/mails/') == 5


async def test_the_inbox_stands_under_the_same_address(browser: Browser) -> None:
    mails = await browser.mails()
    page = await browser.get("/inbox?q=" + mails[0].to[0].email)
    assert f'href="/mails/{mails[0].number}"' in page.body
    page = await browser.get(f"/mails/{mails[0].number}")
    assert f"/mails/{mails[0].number}/reader" in page.body
    letter = await browser.get(f"/mails/{mails[0].number}/html")
    assert letter.headers["Content-Security-Policy"].startswith("sandbox ")
    assert (await browser.get(f"/mails/{len(mails)}")).status == 404


async def test_the_status_page_is_opened_with_its_key(browser: Browser) -> None:
    async with browser.http.get(f"{browser.home}/status", allow_redirects=False) as answer:
        place = urlsplit(answer.headers["Location"])
    assert f"http://{place.netloc}" == browser.system.environment["PUBLIC_BASE_URL"]
    assert (place.path, place.query.partition("=")[0]) == ("/status", "code")


async def test_nothing_in_a_page_can_act(browser: Browser) -> None:
    person = await browser.person_of(0)
    for path in ("/", "/campaign", person, "/people/nobody", "/inbox", "/mails/0"):
        page = await browser.get(path)
        assert "<script" not in page.body
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self';")
        assert "unsafe" not in policy


# --- who may ask


FORMS = ("/clock/next-day", "/clock/next-touch", f"/people/{NOBODY}/register", "/campaign")


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_what_another_site_sends_is_refused(
    browser: Browser, path: str, headers: dict[str, str]
) -> None:
    page = await browser.press(path, {"text": "campaign: stolen"}, **headers)
    assert page.status == 403


@pytest.mark.parametrize("host", ["home.example", "127.0.0.1.example:80", "8.8.8.8", "", "["])
async def test_a_name_that_only_leads_here_is_refused(browser: Browser, host: str) -> None:
    place = urlsplit(browser.home)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    status = int((await reader.read()).split()[1])
    writer.close()
    await writer.wait_closed()
    assert status in (HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.BAD_REQUEST)


@pytest.mark.invariant(5)
async def test_a_get_of_every_page_changes_nothing(browser: Browser) -> None:
    before = await browser.system.app.status.collect()
    now = browser.system.app.clock.campaign_now()
    for path in ("/", "/inbox", "/campaign", "/mails/0/reader", "/status", *FORMS):
        await browser.get(path)
    assert browser.system.app.clock.campaign_now() - now < timedelta(minutes=1)
    after = await browser.system.app.status.collect()
    assert after.committed == before.committed
    assert after.campaigns[0].touches == before.campaigns[0].touches


# --- be this alumnus


@pytest.mark.parametrize(
    "path",
    [f"/people/{NOBODY}", "/people/nobody", "/people/{x}", "/mails/9999999/reader", "/nowhere"],
)
async def test_nobody_and_nothing_is_404(browser: Browser, path: str) -> None:
    page = await browser.get(path)
    assert page.status == 404
    assert 'href="/"' in page.body


async def test_who_does_not_exist_cannot_register(browser: Browser) -> None:
    assert (await browser.press(f"/people/{NOBODY}/register")).status == 404


async def test_next_day_names_why_nobody_was_due(browser: Browser) -> None:
    page = await browser.press("/clock/next-day")
    assert page.url == "/"
    assert "Thu 18 March 2027, 10:0" in page.text
    assert re.search(r"Sweep 2 found \d+ of 120 alumni unregistered", page.text)
    assert "Nobody was due: the next touch, week, opens on Wed 24 March 2027, 09:00." in page.text


@pytest.mark.invariant(4)
async def test_who_registers_gets_nothing_and_the_others_the_next_step(browser: Browser) -> None:
    before = await browser.mails()
    person = await browser.person_of(before[0].number)
    page = await browser.get(person)
    assert "Not registered" in page.text
    assert "none but the password" in page.text
    assert f'href="/mails/{before[0].number}"' in page.body

    page = await browser.press(f"{person}/register")
    assert page.url == person
    assert "Registered" in page.text
    assert "Nothing has gone to others since then either" in page.text

    page = await browser.press("/clock/next-touch", {"person": person.rpartition("/")[2]})
    assert page.url == person
    assert "Wed 24 March 2027, 09:0" in page.text
    fresh = (await browser.mails())[len(before) :]
    assert 10 < len(fresh) < len(before)
    assert f"{len(fresh)} mails were sent of the touch week." in page.text
    assert "No further mail since they registered." in page.text
    assert f"{len(fresh)} others got the next step, week." in page.text
    had = [await browser.person_of(mail.number) for mail in fresh]
    assert person not in had
    assert len(set(had)) == len(fresh)


async def test_two_presses_at_once_are_one(browser: Browser) -> None:
    now = browser.system.app.clock.campaign_now()
    presses = [browser.press("/clock/next-day") for _ in range(3)]
    statuses = [asyncio.create_task(press) for press in presses]
    await asyncio.sleep(0.3)
    meanwhile = await browser.get("/")
    assert "Still under way." in meanwhile.text
    assert "/clock/next-day" not in meanwhile.body
    pages = await asyncio.gather(*statuses)
    assert sorted(page.status for page in pages) == [200, 409, 409]
    refused = [page.text for page in pages if page.status == 409]
    assert all("an earlier press is still under way" in text for text in refused)
    moved = browser.system.app.clock.campaign_now() - now
    assert timedelta(hours=24) <= moved < timedelta(hours=24, minutes=2)


# --- the campaign file


async def test_a_file_is_shown_as_it_stands(browser: Browser) -> None:
    assert await browser.file_text() == EXAMPLE.read_text().replace("mode: dry-run", "mode: live")


@pytest.mark.invariant(7)
async def test_a_mistake_is_told_by_line_and_changes_nothing(browser: Browser) -> None:
    text = (await browser.file_text()).replace("days_before: 1,", "days_befor: 1,")
    text = text.replace("mode: live", "mode: trail")
    page = await browser.press("/campaign", {"text": text})
    assert page.url == "/campaign"
    assert f"Version 1 of {NAME} is in force, whatever the file says now." in page.text
    for wrong in ("days_befor:", "mode: trail"):
        line = text[: text.index(wrong)].count("\n") + 1
        assert f'<a href="/campaign#line-{line}">Line {line}</a>' in page.body
        assert f'<li id="line-{line}" class="wrong">' in page.body
    assert await browser.file_text() == text, "nothing that was typed is lost"
    assert "2 mistakes" in (await browser.get("/")).text


async def test_a_change_is_in_force_within_seconds(browser: Browser) -> None:
    text = EXAMPLE.read_text().replace("min_gap_hours: 20", "min_gap_hours: 24")
    # As browsers send it, and with the mode that the example has.
    page = await browser.press("/campaign", {"text": text.replace("\n", "\r\n")})
    assert page.url == "/campaign"
    assert f"Version 2 of {NAME} is in force." in page.text
    campaign, _ = await browser.system.app.book.read_version(NAME, 2)
    assert (campaign.sending.min_gap_hours, campaign.sending.mode) == (24, "live")
    assert (await browser.file_text()) == text.replace("mode: dry-run", "mode: live")


async def test_a_form_without_a_text_empties_nothing(browser: Browser) -> None:
    page = await browser.press("/campaign", {"txt": "campaign: lost"})
    assert page.status == 400
    assert "min_gap_hours: 24" in await browser.file_text()


async def test_a_save_that_changes_nothing_is_no_version(browser: Browser) -> None:
    page = await browser.press("/campaign", {"text": await browser.file_text()})
    assert f"Version 2 of {NAME} is in force." in page.text


async def test_a_sender_beyond_the_settings_is_a_mistake(browser: Browser) -> None:
    """What a file may name stands outside of it: the product refuses it here, too."""
    good = await browser.file_text()
    text = good.replace("no-reply@its.hku.hk", "no-reply@elsewhere.example")
    page = await browser.press("/campaign", {"text": text})
    assert "Version 2" in page.text
    assert "1 mistake in the file" in page.text
    page = await browser.press("/campaign", {"text": good})
    assert "in the file:" not in page.text


async def test_at_the_end_no_touch_is_to_come(browser: Browser) -> None:
    for touch in ("last-call", "after"):
        page = await browser.press("/clock/next-touch")
        assert f"sent of the touch {touch}." in page.text
    assert "No touch is to come any more." in page.text
    assert "5 days ago" in page.text
    assert "/clock/next-touch" not in page.body
    page = await browser.press("/clock/next-touch")
    assert page.status == 409


# --- what is not simulated


async def test_what_cannot_be_done_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        running_tenant(TenantOptions(alumni=20)) as tenant,
        running_inbox() as inbox,
        aiohttp.ClientSession() as http,
    ):
        monkeypatch.setenv("GRAPH_BASE_URL", f"{tenant}/v1.0")
        monkeypatch.setenv("SENDGRID_BASE_URL", inbox)
        options = Options(campaign=EXAMPLE, alumni=20, others=0)
        async with running_system(options) as system, running_home(system) as home:
            browser = Browser(system, home, http)
            page = await browser.get("/")
            assert "The directory is not simulated" in page.text
            assert "Mails are not shown here" in page.text
            assert "Latest mails" not in page.text
            page = await browser.get("/inbox")
            assert (page.status, f"Mails go to {inbox}" in page.text) == (404, True)
            page = await browser.get(f"/people/{NOBODY}")
            assert page.status == 200
            assert "nobody can be registered from here" in page.text
            assert "/register" not in page.body
            assert (await browser.press(f"/people/{NOBODY}/register")).status == 404


# --- names and clocks


LONG = "Adolphine Bartholomea Constantia Desideria Ermengarde Philomena von und zu Musterstadt"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("CHAN Tai Man", "<bdi>CHAN Tai Man</bdi>"),
        ("Mononym", "<bdi>Mononym</bdi>"),
        (LONG, f"<bdi>{LONG}</bdi>"),
        ("محمد الأمثلة", "<bdi>محمد الأمثلة</bdi>"),
        ("🎓 Graduate", "<bdi>🎓 Graduate</bdi>"),
        ("<b>Bold</b> & Co", "<bdi>&lt;b&gt;Bold&lt;/b&gt; &amp; Co</bdi>"),
        (
            '"><script>alert(1)</script>',
            "<bdi>&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;</bdi>",
        ),
        ("{{ 7 * 7 }}", "<bdi>{{ 7 * 7 }}</bdi>"),
        ("", "No name in the directory"),
        ("  ", "No name in the directory"),
    ],
    ids=str,
)
async def test_names_are_shown_as_they_are(browser: Browser, name: str, shown: str) -> None:
    zone = ZoneInfo("Asia/Hong_Kong")
    account = Account(
        name=name, user_principal_name="u3@example.edu", registered=False, methods=(), since=None
    )
    story = Story(
        id=NOBODY,
        account=account,
        touches=(),
        confirmed_at=None,
        reported_at=None,
        opted_out_at=None,
    )
    page = Pages(home=True, zone=zone).answer(
        "person",
        story=story,
        now=browser.system.app.clock.campaign_now(),
        under_way=None,
        came=None,
        next_day=None,
        next_touch=None,
    )
    assert page.text
    assert f"<h1>{shown}</h1>" in page.text
    assert "<script" not in page.text


@pytest.mark.invariant(9)
@pytest.mark.parametrize(
    ("zone", "now", "then"),
    [
        ("Asia/Hong_Kong", "2027-03-17T10:00+08:00", "2027-03-18T10:00+08:00"),
        ("Europe/London", "2027-03-27T10:00+00:00", "2027-03-28T10:00+01:00"),
        ("Europe/London", "2027-10-30T10:00+01:00", "2027-10-31T10:00+00:00"),
        ("Europe/London", "2027-03-27T01:30+00:00", "2027-03-28T02:30+01:00"),
    ],
)
async def test_the_next_day_has_the_same_hour(zone: str, now: str, then: str) -> None:
    at = CampaignTime(datetime.fromisoformat(now))
    assert next_day(at, ZoneInfo(zone)) == datetime.fromisoformat(then)
