"""People at a browser: Debian's Chromium on screens of several kinds, and what is wrong with a page
as it stands there.

Nothing of the pages' own is switched off: axe-core and the questions below come in over the
debugging protocol, past the Content-Security-Policy. Only where no script may run at all, in a
sandbox or with JavaScript off, axe-core cannot either.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Request, Response, async_playwright

from tests.web.tools import axe_source

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic"),
    # Whatever a browser likes to ask its maker for, it finds no other machine than this one.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
HEAVIEST = 50_000
"""Bytes that a page may weigh with all that it loads."""

PATIENCE = 25_000
"""Milliseconds for one step; a move of the clock takes the longest."""

type Scheme = Literal["light", "dark"]


@dataclass(frozen=True)
class Screen:
    """What a page is shown on, in CSS pixels."""

    width: int
    height: int
    touch: bool = False
    scale: float = 1


PHONE = Screen(390, 844, touch=True, scale=2)
DESKTOP = Screen(1280, 800)
NARROW = Screen(320, 640)
ZOOMED = Screen(640, 400, scale=2)
"""The desktop at 200 %: half as many CSS pixels each way."""


@dataclass
class Reader:
    """Somebody at a browser of their own, with cookies and cache of their own.

    Attributes:
        loaded: everything that came, in order.
        complaints: console errors, errors of scripts, and requests that failed, were answered by an
            error or went to another host than this machine.
    """

    page: Page
    loaded: list[Response] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Listen to a page, a window that a link has opened for example."""
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        # A document that is answered by 404 or 410 stands in the console, too: the test judges it.
        documents = {one.url for one in self.loaded if one.request.is_navigation_request()}
        about_answer = message.text.startswith("Failed to load resource")
        if not (about_answer and message.location["url"] in documents):
            self.complaints.append(f"console: {message.text}")

    def see_request(self, request: Request) -> None:
        place = urlsplit(request.url)
        if place.scheme not in ("data", "about") and place.hostname != "127.0.0.1":
            self.complaints.append(f"a request left this machine: {request.url}")

    def see_response(self, response: Response) -> None:
        self.loaded.append(response)
        if response.status >= 400 and not response.request.is_navigation_request():
            self.complaints.append(f"{response.status} for {response.url}")

    def see_failure(self, request: Request) -> None:
        self.complaints.append(f"failed: {request.url}: {request.failure}")

    async def open(self, url: str) -> Response:
        """Go to an address; what the last page loaded is forgotten."""
        self.loaded.clear()
        response = await self.page.goto(url)
        assert response is not None
        return response

    async def show(self, html: str) -> None:
        """Put a document on a page that nobody serves."""
        await self.page.goto("about:blank")  # or the policy of the page before would hold on
        await self.page.set_content(html)

    async def weight(self) -> int:
        """Bytes of what came since the last `open`."""
        return sum([len(await response.body()) for response in self.loaded])


class Chromium:
    """One browser process for everybody."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    @contextlib.asynccontextmanager
    async def reader(
        self,
        screen: Screen = DESKTOP,
        *,
        javascript: bool = True,
    ) -> AsyncGenerator[Reader]:
        """A person for the length of the block, at whose end nothing may have gone wrong."""
        context = await self._browser.new_context(
            viewport={"width": screen.width, "height": screen.height},
            device_scale_factor=screen.scale,
            has_touch=screen.touch,
            is_mobile=screen.touch,
            java_script_enabled=javascript,
            locale="en-GB",
        )
        context.set_default_timeout(PATIENCE)
        reader = Reader(await context.new_page())
        context.on("request", reader.see_request)
        context.on("response", reader.see_response)
        context.on("requestfailed", reader.see_failure)
        context.on("page", reader.watch)
        reader.watch(reader.page)
        yield reader
        await context.close()
        assert not reader.complaints, "\n".join(reader.complaints)


@contextlib.asynccontextmanager
async def running_chromium() -> AsyncGenerator[Chromium]:
    """The browser for the length of the block."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield Chromium(browser)
        await browser.close()


# --- what is wrong with a page as it stands there


async def axe_violations(page: Page, but: Sequence[str] = ()) -> list[str]:
    """What axe-core finds, best practices included: rule, words and the elements. It looks at the
    page alone, not into frames."""
    if not await page.evaluate("typeof axe === 'object'"):
        await page.evaluate(axe_source())
    rules = {"target-size": {"enabled": True}} | {rule: {"enabled": False} for rule in but}
    return await page.evaluate(
        """async rules => (await axe.run(document, {
            iframes: false, preload: false, resultTypes: ["violations"], rules,
        })).violations.map(({id, help, nodes}) =>
            `${id}: ${help}: ${nodes.map(({html}) => html.slice(0, 200)).join("  ")}`)""",
        rules,
    )


async def sideways(page: Page) -> list[str]:
    """What stands out of the screen sideways, so that a reader would have to scroll."""
    # Not innerWidth: a phone zooms out until what stands out is in.
    assert page.viewport_size
    return await page.evaluate(
        """width => document.documentElement.scrollWidth <= width ? [] :
        [`${document.documentElement.scrollWidth} px on a screen of ${width}`,
         ...[...document.body.querySelectorAll("*")]
            .filter(one => one.getBoundingClientRect().right > width + 1)
            .map(one => one.cloneNode(false).outerHTML.slice(0, 120)).slice(0, 5)]""",
        page.viewport_size["width"],
    )


async def page_faults(page: Page, *, but: Sequence[str] = ()) -> list[str]:
    """Everything that is wrong with a page for its readers, in either colour scheme and on every
    screen; it stays on the narrow one, light. `but` names rules of axe-core that don't apply."""
    found: list[str] = []
    schemes: list[tuple[Screen, Scheme]] = [(DESKTOP, "dark"), (PHONE, "light")]
    for screen, scheme in schemes:
        await _show_on(page, screen, scheme)
        found += [f"{scheme}, {screen.width} px: {one}" for one in await axe_violations(page, but)]
    for screen in (ZOOMED, NARROW):
        await _show_on(page, screen, "light")
        found += [f"{screen.width} px: {one}" for one in await sideways(page)]
    return found + await keyboard_faults(page)


async def _show_on(page: Page, screen: Screen, scheme: Scheme) -> None:
    await page.emulate_media(color_scheme=scheme)
    await page.set_viewport_size({"width": screen.width, "height": screen.height})


async def keyboard_faults(page: Page, *, most: int = 200) -> list[str]:
    """What is wrong for people without a mouse: the Tab key, pressed until it is at the top of the
    page again, has to come to every control in the order of reading, and one has to see where."""
    await page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    found: list[str] = []
    stops: list[str] = []
    for _ in range(most):
        await page.keyboard.press("Tab")
        stop: dict[str, Any] | None = await page.evaluate(_FOCUSED)
        if stop is None:  # past the end, or between two frames
            continue
        if stop["what"] in stops[:1]:  # at the top again
            break
        if stops[-1:] != [stop["what"]]:  # Tab also walks through the links in a frame
            stops.append(stop["what"])
            if not stop["visible"]:
                found.append(f"focus cannot be seen on {stop['what']}")
    expected: list[str] = await page.evaluate(_CONTROLS)
    if stops != expected:
        found.append(f"Tab comes to {stops} instead of {expected}")
    return found


_NAME = """
const name = one => {
  const words = one.getAttribute("aria-label") || one.title || one.value || one.textContent;
  const all = [...document.querySelectorAll(one.localName)];
  return `${one.localName} ${all.indexOf(one)}: ${words.trim().replace(/\\s+/g, " ").slice(0, 60)}`;
};
"""
_FOCUSED = f"""() => {{
{_NAME}
const one = document.activeElement;
if (!one || one === document.body || one === document.documentElement) return null;
const style = getComputedStyle(one), box = one.getBoundingClientRect();
const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
const shown = box.width > 0 && box.bottom > 0 && box.top < innerHeight;
return {{
  what: name(one),
  visible: one.localName === "iframe" || shown && outlined && one.matches(":focus-visible"),
}};
}}"""
_CONTROLS = f"""() => {{
{_NAME}
return [...document.querySelectorAll(
  "a[href], button, input:not([type=hidden]), select, textarea, summary, iframe, [tabindex='0']"
)].filter(one => one.checkVisibility() && !one.disabled).map(name);
}}"""
