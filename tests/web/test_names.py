"""Names as directories have them: shown as they are written, never taken for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graph import GROUP, Graph, Someone, running_with
from tests.web.browser import NARROW, PHONE, Chromium, page_faults, sideways
from tests.web.conftest import Local

pytestmark = pytest.mark.asyncio(loop_scope="package")

LONG = "Adolphine Bartholomea Constantia Desideria Ermengarde Philomena von und zu Musterstadt"
NAMES = {
    # as the directory has it: how its bearer is greeted
    "CHAN Tai Man": "Hello CHAN Tai Man,",
    "Mononym": "Hello Mononym,",
    "": "Hello,",
    LONG: f"Hello {LONG[:63]}…,",
    "W" * 64: f"Hello {'W' * 64},",
    "محمد الأمثلة": "Hello محمد الأمثلة,",
    "🎓👩🏽‍🎓 Graduate": "Hello 🎓👩🏽‍🎓 Graduate,",
    "陳大文 <b>Bold</b> & Co": "Hello 陳大文 <b>Bold</b> & Co,",
    "<script>alert(1)</script>": "Hello <script>alert(1)</script>,",
    '"><img src=x onerror=alert(1)>': 'Hello "><img src=x onerror=alert(1)>,',
    "{{ 7 * 7 }} {% raw %}": "Hello {{ 7 * 7 }} {% raw %},",
    "Two\r\nLines": "Hello Two Lines,",
    "\u202egnirts\u202c": "Hello gnirts,",
}


MARKUP = "b, script, img"
"""What only a name could have brought into these pages."""


async def test_every_name_is_text_in_mails_and_inbox_and_no_layout_breaks(
    chromium: Chromium, connection_string: str, tmp_path: Path
) -> None:
    people = [Someone(number=number, name=name) for number, name in enumerate(NAMES)]
    found: list[str] = []
    async with (
        running_with(Graph({GROUP: people}), connection_string, tmp_path) as world,
        chromium.reader(NARROW) as reader,
    ):
        await world.write_campaign()
        await world.sweep()
        mails = (await world.messages())["messages"]
        assert len(mails) == len(NAMES)
        await reader.open(f"{world.inbox_url}/inbox")
        entries = await reader.page.locator("main").inner_text()
        for name in ("CHAN Tai Man", "Mononym", LONG, "محمد الأمثلة", "Graduate", "Two Lines"):
            assert name in entries
        assert await reader.page.locator(MARKUP).count() == 0
        found += [f"the list: {fault}" for fault in await page_faults(reader.page)]
        for mail in mails:
            number = int(mail["to"][0]["email"].removeprefix("person.").partition("@")[0])
            name = people[number].name or ""
            await reader.open(f"{world.inbox_url}/mails/{mail['number']}")
            assert await reader.page.locator(MARKUP).count() == 0
            found += [f"{name!r}, mail: {one}" for one in await sideways(reader.page)]
            await reader.show(mail["html"])
            assert NAMES[name] in await reader.page.locator("body").inner_text()
            assert NAMES[name] in mail["text"]
            assert await reader.page.locator(MARKUP).count() == 0
            found += [f"{name!r}, letter: {one}" for one in await sideways(reader.page)]
    assert not found, "\n".join(found)


async def test_every_name_is_text_on_the_home_page_and_on_a_page_of_its_own(
    chromium: Chromium, local: Local
) -> None:
    newest = (LONG, "W" * 64, "محمد الأمثلة", "🎓 Graduate", "<b>Bold</b> <img src=x>")
    await local.receive(*newest)
    markup = local.find(lambda person: "<b>" in person.display_name)
    found: list[str] = []
    async with chromium.reader(PHONE) as reader:
        await reader.open(local.home)
        shown = await reader.page.locator("main").inner_text()
        for name in newest:
            assert name in shown
        assert await reader.page.locator(MARKUP).count() == 0
        found += [f"home: {fault}" for fault in await page_faults(reader.page)]
        await reader.open(f"{local.home}/people/{markup.id}")
        assert await reader.page.locator("h1").inner_text() == markup.display_name
        found += [f"person: {fault}" for fault in await page_faults(reader.page)]
    assert not found, "\n".join(found)
