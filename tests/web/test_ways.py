"""The ways of alumni, walked in a browser through the system that `make run` starts.

One story, since all of them wait for the same touch: two people register and say so, one on a phone
and one on a desktop without JavaScript; two want no more reminders, one by the page and one by
their mail program; one does nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal

import aiohttp
import pytest
from playwright.async_api import Locator, Page

from shared.messages.words import load_words
from shared.rules.registration import shard_of
from shared.stores.people import Person
from tests.web.browser import DESKTOP, PHONE, Chromium, Reader, Screen, page_faults
from tests.web.conftest import Local
from tests.web.ledger import read_ledger
from tests.world import NAME

pytestmark = pytest.mark.asyncio(loop_scope="package")

WORDS = load_words("en")
PAGES = WORDS.pages
PROCEDURE = "https://its.hku.hk/services/accounts-2fa/mfa/"
SAID_BY_THE_GUIDE = (
    "by the end of 31 March 2027 (Hong Kong time)",
    "https://mysignins.microsoft.com/security-info",
    "Add sign-in method",
    "UID@connect.hku.hk",
    "Portal PIN",
    "QR code",
    "never ask for your password",
    "ithelp@hku.hk",
)


@dataclass(frozen=True)
class Alumnus:
    """Somebody who has not registered and never does by themselves.

    Attributes:
        mail: number of the mail that they have had.
    """

    id: str
    address: str
    mail: int
    headers: dict[str, str]

    async def person(self, local: Local) -> Person:
        """What the ledger remembers of them."""
        id = bytes.fromhex(self.id.replace("-", ""))
        return (await local.system.app.stores.people.read_shard(NAME, shard_of(id)))[id]


async def find_alumni(local: Local, count: int) -> list[Alumnus]:
    """So many of those who only act when somebody in this story does, and share their address with
    nobody."""
    mails = {mail["to"][0]["email"]: mail for mail in await local.mails()}
    found: list[Alumnus] = []
    for person in local.everybody:
        address = person.other_mails[0] if person.other_mails else ""
        own = not address.casefold().startswith("family")
        if own and person.registers_at == math.inf and (mail := mails.get(address)):
            found.append(Alumnus(person.id, address, mail["number"], mail["headers"]))
    return found[:count]


# --- steps ----------------------------------------------------------------------------------------


async def open_mail(reader: Reader, local: Local, alumnus: Alumnus) -> Page:
    """From the home page to one's mail in the inbox, which stays, and the letter in a window."""
    page = reader.page
    await reader.open(local.home)
    await page.get_by_label("Find somebody").fill(alumnus.address)
    await page.keyboard.press("Enter")
    await page.get_by_role("link", name=alumnus.address).click()
    assert page.url.endswith(f"/mails/{alumnus.mail}")
    # Not with the mouse: a press right after a scroll may go to one of the page's frames.
    return await follow(page.get_by_role("link", name="open by itself"), by="keyboard")


async def follow(link: Locator, *, by: Literal["hand", "keyboard"] = "hand") -> Page:
    """The window that a link opens."""
    async with link.page.context.expect_page() as opening:
        await (link.press("Enter") if by == "keyboard" else link.click())
    page = await opening.value
    await page.wait_for_load_state()
    return page


async def read_guide(letter: Page) -> None:
    guide = await follow(letter.get_by_role("link", name="/guide/en?campaign="))
    text = await guide.locator("body").inner_text()
    for fact in SAID_BY_THE_GUIDE:
        assert fact in text


async def press_with_the_keyboard(page: Page, button: str) -> None:
    """Tab to the first control, which is the button, and Enter."""
    await page.keyboard.press("Tab")
    assert await page.get_by_role("button", name=button).evaluate("it => it.matches(':focus')")
    async with page.expect_navigation():
        await page.keyboard.press("Enter")


async def assert_title(page: Page, name: str) -> None:
    assert await page.locator("h1").inner_text() == PAGES[name].title


async def register_and_say_so(
    chromium: Chromium, local: Local, alumnus: Alumnus, screen: Screen, *, javascript: bool
) -> None:
    async with chromium.reader(screen, javascript=javascript) as reader:
        letter = await open_mail(reader, local, alumnus)
        await read_guide(letter)

        # Too early: nothing is recorded, and what to do next is said.
        done = await follow(letter.get_by_role("link", name="I have done it"))
        await assert_title(done, "done_ask")
        await press_with_the_keyboard(done, PAGES["done_ask"].button)
        await assert_title(done, "done_not_registered")
        assert "Add sign-in method" in await done.locator("main").inner_text()

        tenant = reader.page
        await tenant.get_by_role("link", name="Be this alumnus").press("Enter")
        await tenant.get_by_role("button", name="Register in the simulated tenant").click()
        await tenant.get_by_role("heading", name="Registered", exact=True).wait_for()

        done = await follow(letter.get_by_role("link", name="I have done it"))
        await press_with_the_keyboard(done, PAGES["done_ask"].button)
        await assert_title(done, "done_confirmed")
    person = await alumnus.person(local)
    assert person.confirmed_at
    assert person.evidence == "methods"


async def unsubscribe_by_the_page(chromium: Chromium, local: Local, alumnus: Alumnus) -> None:
    async with chromium.reader(PHONE, javascript=False) as reader:
        letter = await open_mail(reader, local, alumnus)
        page = await follow(letter.get_by_role("link", name="Stop these reminders"))
        await assert_title(page, "unsubscribe_ask")
        await page.get_by_role("button", name=PAGES["unsubscribe_ask"].button).tap()
        await page.get_by_role("heading", name=PAGES["unsubscribe_done"].title).wait_for()
    assert (await alumnus.person(local)).opted_out_at


async def unsubscribe_with_one_click(local: Local, alumnus: Alumnus) -> None:
    """What a mail program does by itself (RFC 8058)."""
    assert alumnus.headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    url = alumnus.headers["List-Unsubscribe"].strip("<>")
    form = {"List-Unsubscribe": "One-Click"}
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
        http.post(url, data=form, allow_redirects=False) as answer,
    ):
        assert answer.status == 200
        assert "Set-Cookie" not in answer.headers
    assert (await alumnus.person(local)).opted_out_at


async def press_on_the_home_page(reader: Reader, local: Local, button: str) -> str:
    """Move the clock; gives what the home page says of it."""
    await reader.open(local.home)
    await reader.page.get_by_role("button", name=button).click()
    while await (again := reader.page.get_by_role("link", name="Look again")).count():
        await again.click()
    return await reader.page.get_by_role("status").inner_text()


async def mails_of(local: Local, move: Awaitable[str]) -> tuple[str, Counter[str]]:
    """What the home page says of a move of the clock, and to whom mails went on it."""
    before = len(await local.mails())
    said = await move
    return said, Counter(mail["to"][0]["email"] for mail in (await local.mails())[before:])


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.invariant(5)
async def test_scanners_follow_every_link_and_nothing_changes(local: Local) -> None:
    """As mail gateways do it, before a person sees the mail: GET and HEAD, of every link."""
    mails = (await local.mails())[:50]
    assert len(mails) == 50
    ours = re.compile(r"http://127\.0\.0\.1:\d+/[^\s\"<>]+")
    texts = (
        text for mail in mails for text in (mail["html"], mail["text"], *mail["headers"].values())
    )
    links = {link.replace("&amp;", "&") for text in texts for link in ours.findall(text)}
    assert Counter(link.split("/")[3] for link in links) == {
        "guide": 1,
        "done": 50,
        "unsubscribe": 50,
    }
    before = await read_ledger(local.system.app)
    async with aiohttp.ClientSession() as http:
        for link in sorted(links):
            for method in ("HEAD", "GET", "GET"):
                async with http.request(method, link) as answer:
                    assert answer.status == 200, link
    assert await read_ledger(local.system.app) == before
    assert len(before) > 16


@pytest.mark.invariant(4)
@pytest.mark.invariant(10)
async def test_each_goes_their_way_and_only_the_others_are_written_to_again(
    chromium: Chromium, local: Local
) -> None:
    *quiet, idle = await find_alumni(local, 5)
    on_phone, on_desktop, by_page, by_click = quiet
    await register_and_say_so(chromium, local, on_phone, PHONE, javascript=True)
    await register_and_say_so(chromium, local, on_desktop, DESKTOP, javascript=False)
    await unsubscribe_by_the_page(chromium, local, by_page)
    await unsubscribe_with_one_click(local, by_click)
    async with chromium.reader() as reader:
        _, went = await mails_of(local, press_on_the_home_page(reader, local, "Next day"))
        assert went == {}
        for touch in ("week", "last-call", "after"):
            said, went = await mails_of(local, press_on_the_home_page(reader, local, "Next touch"))
            assert touch in said
            assert went[idle.address] == 1
            assert went.total() > 50
            assert [went[alumnus.address] for alumnus in quiet] == [0, 0, 0, 0]
        found = await page_faults(reader.page)
        await reader.open(f"{local.home}/people/{on_phone.id}")
        assert "No further mail since they registered." in await reader.page.content()
        found += await page_faults(reader.page)
        assert not found, "\n".join(found)

        # The deadline is over: what the first mail links to has become the general procedure.
        await reader.open(f"{local.home}/mails/{idle.mail}/html")
        guide = await follow(reader.page.get_by_role("link", name="/guide/en?campaign="))
        assert await guide.locator("h1").inner_text() == WORDS.messages["after"].title
        assert PROCEDURE in await guide.locator("main").inner_text()
