"""The pages of the local system: home, inbox, a person, the campaign file, the status."""

from __future__ import annotations

import pytest

from tests.web.browser import Chromium, Reader, page_faults
from tests.web.conftest import Local
from tests.web.tools import html_mistakes

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_every_page_is_right_on_every_screen_light_and_dark(
    chromium: Chromium, local: Local
) -> None:
    registered = local.find(lambda person: person.before.registered)
    line_break = local.find(lambda person: "\n" in person.display_name)
    addresses = {
        "home": local.home,
        "inbox": f"{local.home}/inbox",
        "the inbox's last page": f"{local.home}/inbox?page=1000",
        "nothing found": f"{local.home}/inbox?q=nobody",
        "mail": f"{local.home}/mails/0",
        "somebody who has registered": f"{local.home}/people/{registered.id}",
        "somebody with a line break": f"{local.home}/people/{line_break.id}",
        "campaign file": f"{local.home}/campaign",
        "status": f"{local.home}/status",
        "no such person": f"{local.home}/people/nobody",
    }
    found: list[str] = []
    documents: dict[str, str] = {}
    async with chromium.reader() as reader:
        for name, address in addresses.items():
            documents[name] = await (await reader.open(address)).text()
            found += [f"{name}: {fault}" for fault in await page_faults(reader.page)]
    found += html_mistakes(documents)
    assert not found, "\n".join(found)


async def test_so_is_every_page_that_tells_of_a_mistake_in_the_campaign_file(
    chromium: Chromium, local: Local
) -> None:
    found: list[str] = []
    documents: dict[str, str] = {}
    async with chromium.reader() as reader:
        await reader.open(f"{local.home}/campaign")
        right = await reader.page.get_by_role("textbox").input_value()
        wrong = right.replace("timezone: Asia/Hong_Kong", "timezone: Asia/<b>Nowhere</b>")
        await save_campaign(reader, wrong)
        for name in ("campaign", "", "status"):
            documents[f"/{name}"] = await (await reader.open(f"{local.home}/{name}")).text()
            assert "<b>Nowhere</b>" in await reader.page.locator("main").inner_text()
            found += [f"/{name}: {fault}" for fault in await page_faults(reader.page)]
        await reader.open(f"{local.home}/campaign")
        await save_campaign(reader, right)
        assert "mistake" not in await reader.page.locator("main").inner_text()
    found += html_mistakes(documents)
    assert not found, "\n".join(found)


async def save_campaign(reader: Reader, text: str) -> None:
    await reader.page.get_by_role("textbox").fill(text)
    async with reader.page.expect_navigation():
        await reader.page.get_by_role("button", name="Save").click()
