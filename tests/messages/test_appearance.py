"""Letters and pages can be read by everyone: structure, colours in both schemes, narrow screens,
paper."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from shared.messages.catalogue import MESSAGES
from shared.messages.pages import PAGE_HEADERS, STYLE, render_guide, render_page
from shared.messages.rendering import Tags, render_letter
from shared.messages.templating import TEMPLATES
from shared.rules.campaign import Campaign
from tests.conftest import missing_tool

GUIDE = "https://mfa.its.hku.hk/guide/en?campaign=hku-alumni-2027"
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
        guide_url=GUIDE,
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


def schemes(style: str) -> list[dict[str, str]]:
    """The colours of page.css by name: light, dark."""
    on_screen = style.partition("@media print")[0]
    return [
        dict(re.findall(r"--(\w+): (#\w{6})", rules))
        for rules in re.findall(r":root {([^}]*)}", on_screen)
    ]


def test_pages_have_the_colours_of_letters() -> None:
    light, _, dark = (
        (TEMPLATES / "letter.css").read_text().partition("(prefers-color-scheme: dark)")
    )
    for names, rules in zip(schemes(STYLE), (light, dark), strict=True):
        assert len(names) == 8
        assert set(names.values()) <= set(re.findall(r"#\w{6}", rules))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "background"),
    [
        *((text, on) for text in ("ink", "quiet", "link") for on in ("sheet", "tint")),
        ("accent", "sheet"),
        ("sheet", "accent"),  # the button
    ],
)
def test_text_of_pages_has_the_contrast_of_wcag_aaa(
    text: str, background: str, scheme: int
) -> None:
    names = schemes(STYLE)[scheme]
    first, second = (tuple(bytes.fromhex(names[one][1:])) for one in (text, background))
    assert contrast(first, second) >= 7


def test_pages_read_from_right_to_left_where_the_words_do() -> None:
    """Sides are named by start and end."""
    assert not re.search(r"\b(left|right)\b", STYLE)


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        missing_tool("Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


def test_a_narrow_screen_needs_no_sideways_scrolling_and_asks_the_network_for_nothing(
    browser: Browser, campaign: Campaign, tmp_path: Path
) -> None:
    """320 px wide is also what 200 % and 400 % zoom leave of wider screens (WCAG 1.4.10)."""
    file = tmp_path / "letter.html"
    requests: list[str] = []
    page = browser.new_page(viewport={"width": 320, "height": 640})
    page.on("request", lambda request: requests.append(request.url))
    for message, after_deadline in (("announce", False), ("after", True)):
        file.write_text(render(campaign, message, after_deadline))
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 320
    page.close()
    assert requests == [file.as_uri()] * 2


def show(browser: Browser, html: str, *, width: int) -> Page:
    """A page on a screen so wide, served with its stylesheet under its policy."""

    def answer(route: Route) -> None:
        is_style = "/assets/page.css" in route.request.url
        route.fulfill(
            body=STYLE if is_style else html,
            content_type="text/css" if is_style else "text/html; charset=utf-8",
            headers=dict(PAGE_HEADERS),
        )

    page = browser.new_page(viewport={"width": width, "height": 640})
    page.route("**/*", answer)
    page.goto("https://pages.test/")
    return page


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
@pytest.mark.parametrize("name", ["x" * 200, "جامعة" * 40, "🎓" * 100])
def test_a_name_without_a_break_stays_on_a_narrow_page(
    browser: Browser, campaign: Campaign, name: str, direction: str
) -> None:
    institution = campaign.institution.model_copy(
        update={"name": {"en": name}, "official_page": f"https://its.hku.hk/{'x' * 300}"}
    )
    strange = campaign.model_copy(update={"institution": institution})
    html = render_guide(strange, language="en", after_deadline=False)
    page = show(browser, html.replace('dir="ltr"', f'dir="{direction}"'), width=320)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    beyond = """[...document.querySelectorAll("body *")].filter((element) => {
        const { left, right } = element.getBoundingClientRect();
        return left < 0 || right > 320;
    }).length"""
    assert page.evaluate(beyond) == 0
    page.close()


def test_the_guide_prints_in_black_on_white_and_few_sheets(
    browser: Browser, campaign: Campaign
) -> None:
    for after_deadline, most_sheets in ((False, 3), (True, 2)):
        html = render_guide(campaign, language="en", after_deadline=after_deadline)
        page = show(browser, html, width=660)
        page.emulate_media(media="print", color_scheme="dark")
        seen = page.evaluate(
            """[...new Set([...document.querySelectorAll("*")].flatMap((element) => {
                const { color, backgroundColor } = getComputedStyle(element);
                return [color, backgroundColor];
            }))].sort()"""
        )
        assert seen == ["rgb(0, 0, 0)", "rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"]
        pdf = page.pdf(format="A4")
        assert 1 <= len(re.findall(rb"/Type /Page\b", pdf)) <= most_sheets
        breaks = "[...document.querySelectorAll('li')].map((e) => getComputedStyle(e).breakInside)"
        assert set(page.evaluate(breaks)) <= {"avoid"}
        page.close()


def test_paper_shows_where_links_lead_and_no_button(browser: Browser, campaign: Campaign) -> None:
    html = render_page(
        "done_ask", campaign=campaign, language="en", after_deadline=False, guide_url=GUIDE
    )
    page = show(browser, html, width=660)
    page.emulate_media(media="print")
    assert not page.locator("button").is_visible()
    behind = "getComputedStyle(document.querySelector('main a'), '::after').content"
    assert GUIDE in page.evaluate(behind)
    in_full = "getComputedStyle(document.querySelector('footer a'), '::after').content"
    assert page.evaluate(in_full) == "none"
    page.close()
