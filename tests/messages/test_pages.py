"""Pages: the guide and what else a link leads to, on each side of the deadline, for any name."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import override

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SetupFault
from shared.messages.catalogue import PAGES, PageName
from shared.messages.pages import (
    PAGE_HEADERS,
    STYLE,
    STYLE_VERSION,
    choose_page_language,
    render_guide,
    render_page,
)
from shared.messages.rendering import Tags, guide_url, render_letter
from shared.rules.campaign import Campaign

GUIDE = "https://mfa.its.hku.hk/guide/en?campaign=hku-alumni-2027"
SITE = "https://mysignins.microsoft.com/security-info"
PROCEDURE = "https://its.hku.hk/services/accounts-2fa/mfa/"
VOID = {"meta", "link"}

BUTTONS = {
    "done_ask": "I have registered",
    "unsubscribe_ask": "Stop the reminders",
    "not_recorded": "Try again",
}


class Form(msgspec.Struct, frozen=True):
    """A page on one side of the deadline, with or without a campaign that is known."""

    page: PageName | None  # None is the guide
    after_deadline: bool
    known: bool = True

    def __str__(self) -> str:
        when = "after" if self.after_deadline else "before"
        return f"{self.page or 'guide'} {when}{'' if self.known else ', no campaign'}"

    def render(self, campaign: Campaign) -> str:
        if self.page is None:
            return render_guide(campaign, language="en", after_deadline=self.after_deadline)
        return render_page(
            self.page,
            campaign=campaign if self.known else None,
            language="en",
            after_deadline=self.after_deadline,
            guide_url=GUIDE if self.known else "",
        )


GUIDES = [Form(None, after) for after in (False, True)]
NOTICES = [
    Form(page, after, known) for page in PAGES for after in (False, True) for known in (True, False)
]
every_form = pytest.mark.parametrize("form", [*GUIDES, *NOTICES], ids=str)


class Reading(HTMLParser):
    """A page as a strict reader takes it: each element is closed by its own end tag, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self._open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        for tag in {*self._open}:
            self.words.setdefault(tag, []).append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self, tag: str) -> str:
        return " ".join("".join(self.words.get(tag, [])).split())


def with_name(campaign: Campaign, name: str) -> Campaign:
    institution = campaign.institution.model_copy(update={"name": {"en": name}})
    return campaign.model_copy(update={"institution": institution})


# Which words


@pytest.mark.invariant(10)
@pytest.mark.parametrize("form", GUIDES, ids=str)
def test_the_clock_alone_decides_which_guide_the_page_is(campaign: Campaign, form: Form) -> None:
    said = Reading(form.render(campaign)).said("main")
    assert ("How to register" in said) is not form.after_deadline
    assert ("What to do now" in said) is form.after_deadline
    assert (SITE in said) is not form.after_deadline


@pytest.mark.invariant(10)
@pytest.mark.parametrize("page", ["done_not_seen", "done_not_registered"])
def test_who_is_not_registered_is_shown_the_next_step(campaign: Campaign, page: PageName) -> None:
    before = Reading(Form(page, after_deadline=False).render(campaign))
    after = Reading(Form(page, after_deadline=True).render(campaign))
    assert len(before.named("li")) == 11
    assert len(after.named("li")) == 0
    assert PROCEDURE in after.said("main")
    assert PROCEDURE not in before.said("main")


@pytest.mark.invariant(10)
@pytest.mark.parametrize(
    "page", ["unsubscribe_ask", "unsubscribe_done", "link_bad", "link_expired"]
)
def test_who_needs_no_link_is_told_where_to_go(campaign: Campaign, page: PageName) -> None:
    for after_deadline, there, not_there in ((False, SITE, PROCEDURE), (True, PROCEDURE, SITE)):
        said = Reading(Form(page, after_deadline).render(campaign)).said("main")
        assert there in said
        assert not_there not in said
        assert "from 1 April 2027 (Hong Kong time)" in said


@pytest.mark.invariant(10)
@every_form
def test_pages_speak_of_dates_and_without_alarm(campaign: Campaign, form: Form) -> None:
    relative = r"\b(in|within) \d+ (day|hour|week)|\btomorrow|\btoday|\bhours left|\bnext week"
    alarm = r"\burgent|\bimmediate|\bact now|\bsuspend|\bterminat|\bwarning|\berror\b|!"
    said = Reading(form.render(campaign)).said("body")
    assert not re.search(f"{relative}|{alarm}", said, re.IGNORECASE)


@pytest.mark.parametrize("after_deadline", [False, True])
def test_the_guide_has_no_sentence_that_a_letter_has_not(
    campaign: Campaign, after_deadline: bool
) -> None:
    """Both are made of the same words; only the foot of the page is its own."""
    letter = render_letter(
        campaign,
        message="announce",
        language="en",
        after_deadline=after_deadline,
        guide_url=GUIDE,
        tags=Tags("t0123456789abcdef"),
    )
    mail = " ".join(re.sub("<[^>]+>", "", letter.html).split())
    page = Form(None, after_deadline).render(campaign).partition("<main>")[2]
    lines = re.findall(r"<(h1|h2|h3|p|li|dt|dd)>(.*?)</\1>", page.partition("</main>")[0])
    assert len(lines) >= 14
    for _, line in lines:
        assert re.sub("<[^>]+>", "", line) in mail


def test_a_letter_names_the_page_that_there_is(campaign: Campaign) -> None:
    assert guide_url("https://mfa.its.hku.hk", campaign.campaign, "en") == GUIDE
    letter = render_letter(
        campaign,
        message="announce",
        language="en",
        after_deadline=False,
        guide_url=GUIDE,
        tags=Tags("t0123456789abcdef"),
    )
    assert f'to read or print: <a href="{GUIDE}"' in letter.html
    assert f"to read or print:\n{GUIDE}\n" in letter.text


def test_a_wrong_language_is_offered_those_that_there_are(campaign: Campaign) -> None:
    links = Reading(Form("no_guide", after_deadline=False).render(campaign)).named("a")
    assert links[0] == {
        "href": "/guide/en?campaign=hku-alumni-2027",
        "hreflang": "en",
        "lang": "en",
    }
    with pytest.raises(SetupFault, match="use one of en"):
        render_guide(campaign, language="tlh", after_deadline=False)


# What a page is made of


@every_form
def test_a_page_is_complete_and_well_formed(campaign: Campaign, form: Form) -> None:
    html = form.render(campaign)
    page = Reading(html)
    assert html.startswith("<!DOCTYPE html>\n")
    assert page.named("html") == [{"lang": "en", "dir": "ltr"}]
    for tag in ("h1", "header", "main", "footer", "title"):
        assert len(page.named(tag)) == 1
        assert page.said(tag)
    assert page.said("title").startswith(page.said("h1"))
    assert not re.search(r"\{\w+\}|\*\*|\]\(|t[0-9a-f]{16}_", html)
    assert len(html.encode()) + len(STYLE.encode()) < 25_000


@every_form
def test_a_page_asks_its_own_host_for_its_style_and_nobody_for_more(
    campaign: Campaign, form: Form
) -> None:
    page = Reading(form.render(campaign))
    assert page.named("link") == [
        {"rel": "icon", "href": "data:,"},
        {"rel": "stylesheet", "href": f"/assets/page.css?v={STYLE_VERSION}"},
    ]
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "style", "img", "iframe", "object", "base", "svg", "video"}
    attributes = {name for _, named in page.elements for name in named}
    assert not attributes & {"style", "src", "srcset", "action", "background", "target"}
    assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import|@font-face|expression", STYLE)


@every_form
def test_one_button_where_one_is_asked(campaign: Campaign, form: Form) -> None:
    page = Reading(form.render(campaign))
    label = BUTTONS.get(form.page or "", "")
    assert page.named("form") == ([{"method": "post"}] if label else [])
    assert page.named("button") == ([{"type": "submit"}] if label else [])
    assert page.said("button") == label
    assert page.named("input") == []


@every_form
def test_the_foot_names_who_answers(campaign: Campaign, form: Form) -> None:
    foot = Reading(form.render(campaign)).said("footer")
    if form.known:
        assert "ithelp@hku.hk" in foot
        assert campaign.institution.official_page in foot
    else:
        assert "help desk" in foot


@pytest.mark.parametrize("form", [form for form in NOTICES if not form.known], ids=str)
def test_without_a_campaign_nothing_of_one_is_said(campaign: Campaign, form: Form) -> None:
    html = form.render(campaign)
    assert not re.search(r"hku|Hong Kong|\b20\d\d\b", html, re.IGNORECASE)
    assert html == msgspec.structs.replace(form, after_deadline=not form.after_deadline).render(
        campaign
    )


def test_pages_are_served_under_a_strict_policy() -> None:
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in PAGE_HEADERS["Content-Security-Policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert PAGE_HEADERS["Referrer-Policy"] == "no-referrer"
    assert PAGE_HEADERS["X-Content-Type-Options"] == "nosniff"
    assert "noindex" in PAGE_HEADERS["X-Robots-Tag"]
    assert int(PAGE_HEADERS["Strict-Transport-Security"].removeprefix("max-age=")) >= 31_536_000
    assert "Cache-Control" not in PAGE_HEADERS  # each route's own


# Whose name it is

NAMES = [
    "x" * 200,
    "جامعة القاهرة",
    "Univ\u202eersity",
    "Universität 🎓👩‍🎓",
    "R&D <b>College</b> \"of\" 'Arts'",
    "</title><script>alert(1)</script>",
    "{account} **x** [y]({help_desk}) {{7*7}} {% raw %}",
]


@pytest.mark.parametrize(
    "form", [*GUIDES, Form("done_ask", False), Form("link_bad", True)], ids=str
)
@given(st.sampled_from(NAMES) | st.text(st.characters(exclude_categories=["C"]), min_size=1))
def test_an_institution_s_name_is_a_name_whatever_it_holds(
    campaign: Campaign, form: Form, name: str
) -> None:
    plain = Reading(form.render(campaign))
    strange = Reading(form.render(with_name(campaign, name)))
    assert strange.elements == plain.elements
    assert "".join(strange.words["header"]).strip() == name.strip()
    assert " ".join(name.split()) in strange.said("title")


# Which language

ACCEPTED = [
    # Accept-Language, what is offered, what is chosen
    (None, ["en", "zh-Hant"], "en"),
    ("", ["en", "zh-Hant"], "en"),
    ("*", ["en", "zh-Hant"], "en"),
    ("fr", ["en", "zh-Hant"], "en"),
    ("zh-Hant", ["en", "zh-Hant"], "zh-Hant"),
    ("zh-HK,zh;q=0.9,en;q=0.8", ["en", "zh-Hant"], "zh-Hant"),
    ("fr;q=0.9, en;q=0.2, zh;q=0.5", ["en", "zh-Hant"], "zh-Hant"),
    ("en;q=0.5,zh-TW", ["en", "zh-Hant"], "zh-Hant"),
    ("zh;q=0,en;q=0.1", ["zh-Hant", "en"], "en"),
    ("zh-hant", ["en", "zh-Hans", "zh-Hant"], "zh-Hant"),
    ("zh-Hant", ["en"], "en"),
    ("zh;q=much, en ; q=0.3", ["zh-Hant", "en"], "en"),
    (";;,,q=1,\r\n", ["en", "zh-Hant"], "en"),
]


@pytest.mark.parametrize(("header", "offered", "chosen"), ACCEPTED)
def test_the_browser_s_favourite_language_is_chosen(
    header: str | None, offered: list[str], chosen: str
) -> None:
    assert choose_page_language(header, offered) == chosen


@given(st.text())
def test_any_header_gets_a_language_that_there_is(header: str) -> None:
    assert choose_page_language(header, ["en", "zh-Hant"]) in ("en", "zh-Hant")
