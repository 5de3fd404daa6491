"""The home page where a touch goes out by SMS, too, and where not everything arrives.

The tests tell one story, in their order.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from local.home import running_home
from local.inbox import Text
from local.system import Options, running_system
from local.watch import Watcher
from tests.local.campaigns import BY_SMS, WEEK_BY_SMS, write_campaign
from tests.local.reading import Browser
from tests.nudge_process import until
from tests.own_task import in_a_task_of_its_own

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Browser]:
    file = tmp_path_factory.mktemp("campaign") / "by-sms.yaml"
    write_campaign(file, *BY_SMS, WEEK_BY_SMS)
    async with in_a_task_of_its_own(_running_browser(file)) as browser:
        yield browser


@asynccontextmanager
async def _running_browser(campaign: Path) -> AsyncGenerator[Browser]:
    options = Options(campaign=campaign, alumni=120, others=0, throttled=False)
    async with (
        running_system(options) as system,
        running_home(system) as home,
        aiohttp.ClientSession() as http,
    ):
        watcher = Watcher(system, system.campaign, system.sweep)
        assert await watcher.until_settled(lambda progress: None) is None
        outcome = await watcher.sum_up()
        assert outcome.recipients.email > outcome.recipients.sms > 5
        yield Browser(system, home, http)


async def switch(browser: Browser, **faults: Any) -> None:
    """Switch on faults of the inbox."""
    async with browser.http.post(f"{browser.system.inbox_url}/faults", json=faults) as answer:
        assert answer.status == 204, await answer.text()


async def test_the_latest_texts_stand_on_the_home_page(browser: Browser) -> None:
    texts = await browser.texts()
    page = await browser.get("/")
    assert "Latest texts" in page.text
    assert page.body.count('<li><a href="/texts/') == 3
    assert f'href="/texts/{texts[-1].phone}"' in page.body

    async def all_are_delivered() -> bool:
        rows = (await browser.get("/")).body.split("<tr>")
        row = next(row for row in rows if "by SMS</span>" in row)
        return re.findall(r'class="count">(\d+)<', row) == [str(len(texts))] * 2

    await until(all_are_delivered)


async def test_texts_stand_under_the_same_address(browser: Browser) -> None:
    texts = await browser.texts()
    page = await browser.get("/texts")
    assert f"{len(texts)} texts" in page.text
    page = await browser.get(f"/texts/{texts[0].phone}")
    assert f"{texts[0].encoding}: 1 part" in page.text
    assert "/sms/0/reader" in page.body
    assert (await browser.get("/texts/99999")).status == 404
    assert (await browser.get("/sms/99999/reader")).status == 404


async def test_from_a_text_to_the_story_of_its_reader(browser: Browser) -> None:
    """One touch, two channels: where each of them is, with the way back."""
    for text in await browser.texts():
        person = await reader_of(browser, text)
        if "Open the mail" in (await browser.get(person)).text:
            break
    else:
        pytest.fail("nobody has got both")
    assert f'<a href="/texts/{text.phone}">Open the text</a>' in (await browser.get(person)).body

    async def both_are_delivered() -> bool:
        words = (await browser.get(person)).text
        both = r"fortnightWed 17 Mar 2027 ?delivered.*fortnight by SMS.*delivered"
        return bool(re.search(both, words))

    await until(both_are_delivered)


async def test_what_did_not_arrive_stands_on_the_pages_of_its_readers(browser: Browser) -> None:
    """An address that does not work is not written to any more; who reports spam or answers STOP
    is out of that channel, and of no other."""
    mails, texts = await browser.mails(), await browser.texts()
    await switch(
        browser,
        receipts={"bounced": 0.15, "reported": 0.2},
        texts={"receipts": {"undelivered": {"30006": 0.3, "30004": 0.3}}},
    )
    page = await browser.press("/clock/next-touch")
    assert re.search(r"\d+ mails? (was|were) sent of the touch week", page.text)
    assert re.search(r"\d+ texts? (was|were) sent of the touch week", page.text)

    mails = (await browser.mails())[len(mails) :]
    bounced = await browser.person_of(next(one.number for one in mails if one.fate == "bounced"))
    reported = await browser.person_of(next(one.number for one in mails if one.fate == "reported"))

    async def texts_have_ended() -> bool:
        return all(one.status in ENDS for one in await browser.texts())

    await until(texts_have_ended)
    codes = {one.error_code: one for one in (await browser.texts())[len(texts) :]}
    landline, stopped = [await reader_of(browser, codes[code]) for code in (30006, 30004)]

    expected = [
        (bounced, "week[\\w: ]*2027 ?did not work"),
        (bounced, "1 address or number is known not to work"),
        (landline, "week by SMS[\\w: ]*2027 ?did not work"),
        (landline, "1 address or number is known not to work"),
        (reported, "asked the provider for no more mails"),
        (stopped, "asked the provider for no more texts"),
    ]
    for person, words in expected:

        async def is_told(person: str = person, words: str = words) -> bool:
            return bool(re.search(words, (await browser.get(person)).text))

        await until(is_told)
    assert "no more texts" not in (await browser.get(reported)).text
    assert "asked for no more reminders" not in (await browser.get(stopped)).text


ENDS = ("delivered", "undelivered", "failed")


async def reader_of(browser: Browser, text: Text) -> str:
    """The path of the page of whoever a text went to."""
    page = await browser.get(f"/sms/{text.number}/reader")
    assert page.status == 200
    return page.url
