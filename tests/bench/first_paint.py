"""What pages weigh, and when they first show something on a slow connection."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from local.serving import running_application
from tests.bench.bed import Bed
from tests.bench.site import link, running_site
from tests.bench.table import Line
from tests.bench.wave import planned_wave
from tests.world import NAME

if TYPE_CHECKING:
    from playwright.async_api import Browser

_ROUND_TRIP = 400  # ms
_SPEED = 50  # bytes a ms: 400 kbit/s
_HEAVIEST = 50_000
_BARE = "<!doctype html><html lang=en><title>Bare</title><p>Bare"

_FIRST_PAINT = """() => new Promise(tell => new PerformanceObserver(list => {
    for (const one of list.getEntriesByName("first-contentful-paint")) tell(one.startTime);
}).observe({type: "paint", buffered: true}))"""


class Load(msgspec.Struct, frozen=True):
    """One page, opened with nothing in the cache.

    Attributes:
        paint: ms until the first words stand there.
        transferred: bytes of all answers, their headers among them.
    """

    paint: float
    requests: int
    transferred: int


async def measure(bed: Bed, alumni: int, loads: int) -> list[Line]:
    """Opens each page so many times in Chromium, and as often one that has nothing on it.

    Args:
        alumni: of the campaign that the status page shows.
    """
    # Playwright and the tests' browser take half a second, and only this needs them.
    from playwright.async_api import async_playwright

    from tests.web.browser import CHROMIUM, FLAGS

    if CHROMIUM is None:
        return [
            Line(
                what="pages on a slow connection",
                measured="skipped",
                notes=("No Chromium on the PATH: install Debian's `chromium`.",),
            )
        ]
    found: defaultdict[str, list[Load]] = defaultdict(list)
    async with (
        planned_wave(bed, alumni) as (bench, parcels),
        running_site(bed, bench) as host,
        running_application(_bare_application()) as bare,
        async_playwright() as playwright,
    ):
        _, person = next(parcels[0].people())
        pages = {
            "bare": bare,
            "guide": f"{host.url}/guide/en?campaign={NAME}",
            "done": f"{host.url}{link('done', person)}",
            "unsubscribe": f"{host.url}{link('unsubscribe', person)}",
            "status": f"{host.url}/status?code={host.ready['function_key']}",
        }
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for _ in range(loads):
            for page, url in pages.items():
                found[page].append(await _open(browser, url))
        await browser.close()
    least = median(load.paint for load in found.pop("bare"))
    return [_line(page, loads, least) for page, loads in found.items()]


def _bare_application() -> web.Application:
    """What any page takes: one request, and a word to show."""

    async def show(request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": "default-src 'none'; img-src data:"}
        return web.Response(text=_BARE, content_type="text/html", headers=headers)

    application = web.Application()
    application.router.add_get("/", show)
    return application


async def _open(browser: Browser, url: str) -> Load:
    context = await browser.new_context()
    page = await context.new_page()
    connection = await context.new_cdp_session(page)
    arrived: list[int] = []

    def note(event: dict[str, Any]) -> None:
        arrived.append(round(event["encodedDataLength"]))

    connection.on("Network.loadingFinished", note)
    await connection.send("Network.enable")
    await connection.send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": _ROUND_TRIP,
            "downloadThroughput": _SPEED * 1000,
            "uploadThroughput": _SPEED * 1000,
        },
    )
    answer = await page.goto(url)
    assert answer is not None
    assert answer.status == 200
    paint = await page.evaluate(_FIRST_PAINT)
    await context.close()
    return Load(paint, len(arrived), sum(arrived))


def _line(page: str, loads: list[Load], least: float) -> Line:
    paint = median(load.paint for load in loads)
    requests = max(load.requests for load in loads)
    transferred = max(load.transferred for load in loads)
    return Line(
        what=f"{page} page, first paint on a slow connection",
        measured=f"{paint / 1000:.2f} s, {transferred:,} bytes",
        beside=f"bare page {least / 1000:.2f} s",
        ratio=paint / least,
        aim=f"under {_HEAVIEST:,} bytes",
        holds=transferred < _HEAVIEST,
        notes=(
            f"{requests} requests, page and stylesheet, with an empty cache; bytes with headers, "
            f"uncompressed. The round trips of {_ROUND_TRIP} ms, one after the other, are "
            f"{requests * _ROUND_TRIP / 1000:.2f} s of it, and all bytes at {_SPEED * 8} kbit/s "
            f"take {transferred / _SPEED / 1000:.2f} s. Median of {len(loads)}.",
        ),
    )
