"""The pictures of the README, taken in Chromium of a local system that runs: `make pictures`."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
from playwright.async_api import Browser, async_playwright

from local.home import running_home
from local.inbox import read_messages, read_texts
from local.system import LocalSystem, Options, running_system
from local.watch import Watcher
from tests.local.campaigns import BY_SMS, WEEK_BY_SMS, write_campaign
from tests.world import EXAMPLE

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
SCREENS = {"phone": (390, 844, 2), "desktop": (1280, 960, 1)}
"""Width and height in CSS pixels, and how many pixels each of them has."""


async def take_all() -> None:
    """Write every picture: of the home page after a touch has gone out, of the status page, and of
    one of the mails and of a phone with one of the texts."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    async with (
        campaign_by_sms() as campaign,
        running_system(Options(campaign=campaign, alumni=2000, others=500)) as system,
        running_home(system) as home,
        async_playwright() as playwright,
    ):
        watcher = Watcher(system, system.campaign, system.sweep)
        assert await watcher.until_settled(lambda progress: None) is None
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = await browser.new_page()
        await page.goto(home)
        await page.get_by_role("button", name="Next touch").click()
        await take(browser, "home", home)
        await take(browser, "status", f"{home}/status")
        await take(browser, "mail", f"{home}/mails/{await choose_mail(system)}/html")
        await take(browser, "text", f"{home}/texts/{await choose_phone(system)}")
        await browser.close()


async def choose_mail(system: LocalSystem) -> int:
    """Number of a mail that is the same at every run, in whatever order they came."""
    assert system.inbox_url is not None
    async with aiohttp.ClientSession() as http:
        found = await read_messages(http, system.inbox_url, limit=10_000)
    return min(found.messages, key=lambda mail: (mail.to[0].email, mail.number)).number


async def choose_phone(system: LocalSystem) -> int:
    """Place of a phone, likewise."""
    assert system.texts_url is not None
    async with aiohttp.ClientSession() as http:
        found = await read_texts(http, system.texts_url, limit=10_000)
    return min(found.texts, key=lambda text: text.to).phone


@contextlib.asynccontextmanager
async def campaign_by_sms() -> AsyncGenerator[Path]:
    """The example, with two touches by SMS, too."""
    with tempfile.TemporaryDirectory() as directory:
        yield write_campaign(Path(directory) / EXAMPLE.name, *BY_SMS, WEEK_BY_SMS)


async def take(browser: Browser, name: str, url: str) -> None:
    """The picture of a page on every screen."""
    for screen, (width, height, scale) in SCREENS.items():
        page = await browser.new_page(
            viewport={"width": width, "height": height}, device_scale_factor=scale
        )
        await page.goto(url)
        await page.screenshot(path=PICTURES / f"{name}-{screen}.png")
        await page.close()


if __name__ == "__main__":
    asyncio.run(take_all())
