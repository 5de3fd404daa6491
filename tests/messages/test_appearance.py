"""Letters can be read by everyone: structure, colours in both schemes, narrow screens."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from shared.messages.catalogue import MESSAGES
from shared.messages.rendering import TEMPLATES, Tags, render_letter
from shared.rules.campaign import Campaign
from tests.conftest import missing_tool

FORMS = [(message, after) for after in (False, True) for message in MESSAGES]

CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Elements(HTMLParser):
    """The start tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


def render(campaign: Campaign, message: str, after_deadline: bool) -> str:
    return render_letter(
        campaign,
        message=message,
        language="en",
        after_deadline=after_deadline,
        tags=Tags("t0123456789abcdef"),
    ).html


@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_structure_can_be_heard(campaign: Campaign, message: str, after_deadline: bool) -> None:
    elements = Elements(render(campaign, message, after_deadline))
    for outermost in ("html", "div"):
        assert elements.named(outermost)[0].items() >= {"lang": "en", "dir": "ltr"}.items()
    assert all(table["role"] == "presentation" for table in elements.named("table"))
    headings = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(headings))
    assert len(elements.named("ol")) == (not after_deadline)
    assert len(elements.named("li")) == (0 if after_deadline else 11)
    assert len(elements.named("dt")) == len(elements.named("dd")) >= 3


def test_both_colour_schemes_are_announced_and_survive_inlining(campaign: Campaign) -> None:
    html = render(campaign, "announce", after_deadline=False)
    meta = {element.get("name"): element.get("content") for element in Elements(html).named("meta")}
    assert meta["color-scheme"] == "light dark"
    assert "@media (prefers-color-scheme: dark)" in html
    assert 'class="sheet"' in html
    assert "background-color: #ffffff" in html.partition("<body")[2]


TEXT_ON = [
    # text colour of, on the background of
    (".desk", ".sheet"),
    (".desk", ".key-facts"),
    (".letterhead", ".sheet"),
    ("a", ".sheet"),
    ("a", ".key-facts"),
    ("dt", ".key-facts"),
    (".closing", ".sheet"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "background"), TEXT_ON)
def test_text_has_the_contrast_of_wcag_aaa(text: str, background: str, scheme: str) -> None:
    light, _, dark = (
        (TEMPLATES / "letter.css").read_text().partition("(prefers-color-scheme: dark)")
    )
    rules = light if scheme == "light" else dark
    assert (
        contrast(colour(rules, text, "color"), colour(rules, background, "background-color")) >= 7
    )


def colour(rules: str, selector: str, name: str) -> tuple[int, ...]:
    """The value of one property of one selector, as red, green and blue."""
    for selectors, declarations in re.findall(r"([^{}]+){([^{}]*)}", rules):
        found = re.search(rf"(?<![-\w]){name}: #(\w{{6}})", declarations)
        if found and selector in re.split(r",?\s+", selectors):
            return tuple(bytes.fromhex(found[1]))
    raise AssertionError(f"{selector} has no {name}")


def contrast(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Contrast ratio as WCAG 2 defines it, 1 to 21."""
    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: tuple[int, ...]) -> float:
    red, green, blue = (
        value / 255 / 12.92 if value / 255 <= 0.04045 else ((value / 255 + 0.055) / 1.055) ** 2.4
        for value in colour
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_narrow_screen_needs_no_sideways_scrolling_and_asks_the_network_for_nothing(
    campaign: Campaign, tmp_path: Path
) -> None:
    """320 px wide is also what 200 % and 400 % zoom leave of wider screens (WCAG 1.4.10)."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        missing_tool("Chromium")
    file = tmp_path / "letter.html"
    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 320, "height": 640})
        page.on("request", lambda request: requests.append(request.url))
        for message, after_deadline in (("announce", False), ("after", True)):
            file.write_text(render(campaign, message, after_deadline))
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == 320
        browser.close()
    assert requests == [file.as_uri()] * 2
