"""Web pages: the guide, and the few pages that a link of ours leads to.

They load one stylesheet and nothing else, and none of them knows whose link was opened: what is
said here can be said to anybody.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec
from babel import Locale

from shared.messages.catalogue import (
    WITH_KEY_FACTS,
    WITH_NEXT_STEPS,
    PageName,
    choose_guide,
    choose_opening,
)
from shared.messages.lines import Slot, render_html, render_text, slots_named
from shared.messages.rendering import guide_url as address_of_guide
from shared.messages.slots import campaign_slots, general_slots, web_link
from shared.messages.templating import TEMPLATES, template
from shared.messages.words import Point, Words, choose_language, load_words, offered_languages
from shared.rules.campaign import Campaign

STYLE: Final = (TEMPLATES / "page.css").read_text()
"""The one stylesheet of all pages."""

STYLE_VERSION: Final = hashlib.sha256(STYLE.encode()).hexdigest()[:8]
"""Changes with the stylesheet, so that browsers may keep each version for ever."""

PAGE_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What every page is served with, beside its own Cache-Control. The address of a personal page is
a secret: it goes to no other site as referrer, and into no search engine."""


def render_guide(campaign: Campaign, *, language: str, after_deadline: bool) -> str:
    """The guide as a page: what a letter says, less what is one person's own.

    Args:
        campaign: gives dates, addresses and the institution's own words.
        language: one of words.LANGUAGES.
        after_deadline: whether campaign time has passed the deadline; decides which guide it is.

    Raises:
        SetupFault: there are no words in that language.
    """
    words = load_words(language)
    slots = campaign_slots(campaign, words, language)
    guide = choose_guide(after_deadline=after_deadline)
    opening = words.messages[choose_opening("announce", after_deadline=after_deadline)]
    return _fill_notice(
        words,
        slots,
        language=language,
        title=opening.title,
        opening=opening.opening,
        key_facts=words.key_facts[guide.name],
        sections=guide.sections,
        foot=(words.page_frame.reminders,),
    )


def render_page(
    page: PageName,
    *,
    campaign: Campaign | None,
    language: str,
    after_deadline: bool,
    guide_url: str = "",
) -> str:
    """A page that a link or a mistake leads to.

    Args:
        page: which one. Those with a button post to the address at which they stand.
        campaign: the one in question; without it the page names no institution and no date.
        language: one of words.LANGUAGES.
        after_deadline: whether campaign time has passed the campaign's deadline; decides what the
            page names as the way to register.
        guide_url: the guide as a web page; "" where there is none to lead to.

    Raises:
        SetupFault: there are no words in that language.
    """
    words = load_words(language)
    own = words.pages[page]
    slots = campaign_slots(campaign, words, language) if campaign else general_slots(words)
    if guide_url:
        slots["guide"] = web_link(guide_url)
    guide = choose_guide(after_deadline=after_deadline)
    return _fill_notice(
        words,
        slots,
        language=language,
        title=own.title,
        opening=own.text,
        button=own.button,
        guides=_list_guides(campaign) if campaign and page == "no_guide" else (),
        more=own.more,
        key_facts=words.key_facts[guide.name] if campaign and page in WITH_KEY_FACTS else (),
        sections=guide.next_steps if campaign and page in WITH_NEXT_STEPS else (),
    )


def fill_page(name: str, *, language: str, **content: object) -> str:
    """The page of a template that extends `page.html.jinja`, with the values that it names."""
    return template(name).render(
        content,
        lang=language,
        dir=load_words(language).direction,
        style_version=STYLE_VERSION,
    )


def choose_page_language(accept_language: str | None, offered: Sequence[str]) -> str:
    """The language of `offered` that a browser likes best, or the first of them.

    Args:
        accept_language: the header as it came (RFC 9110, 12.5.4); what is no language is passed
            over.
        offered: languages that there are words for, at least one.
    """
    for wanted in _by_preference(accept_language or ""):
        chosen = choose_language(wanted, offered)
        if chosen.partition("-")[0].lower() == wanted.partition("-")[0].lower():
            return chosen
    return offered[0]


def _by_preference(accept_language: str) -> list[str]:
    """The languages of the header, the best first; those of equal weight as they stand."""
    weights: dict[str, float] = {}
    for item in accept_language.split(","):
        tag, *parameters = (part.strip() for part in item.split(";"))
        weights[tag] = _weight(parameters)
    return sorted(
        (tag for tag in weights if weights[tag] > 0), key=weights.__getitem__, reverse=True
    )


def _weight(parameters: Sequence[str]) -> float:
    if not parameters:
        return 1
    match = re.fullmatch(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", parameters[0])
    return float(match[1]) if match else 0


class _GuideLink(msgspec.Struct, frozen=True):
    """The guide in one language, which is named in that language itself."""

    language: str
    name: str
    address: str


def _list_guides(campaign: Campaign) -> list[_GuideLink]:
    return [
        _GuideLink(
            language=one,
            name=Locale.parse(load_words(one).locale).get_language_name() or one,
            address=address_of_guide("", campaign.campaign, one),
        )
        for one in offered_languages(campaign.institution.name)
    ]


def _fill_notice(
    words: Words,
    slots: Mapping[str, Slot],
    *,
    language: str,
    title: str,
    opening: Iterable[str],
    key_facts: Iterable[Point],
    sections: Iterable[str],
    button: str = "",
    guides: Iterable[_GuideLink] = (),
    more: Iterable[str] = (),
    foot: Iterable[str] = (),
) -> str:
    """A page of alumni. What names a value that is not in `slots` is left out."""

    def can_say(line: str) -> bool:
        return all(name in slots for name in slots_named(line))

    frame = words.page_frame
    named = "institution" in slots
    questions = (words.closing.questions, frame.official_page) if named else (frame.help_elsewhere,)
    return fill_page(
        "notice.html.jinja",
        language=language,
        letterhead="{institution}" if named else frame.nobody,
        title=title,
        opening=list(filter(can_say, opening)),
        key_facts=[fact for fact in key_facts if can_say(fact.text)],
        sections=[words.sections[name] for name in sections],
        button=button,
        guides=guides,
        more=list(filter(can_say, more)),
        foot=[*questions, *foot],
        html=partial(render_html, slots=slots),
        text=partial(render_text, slots=slots),
    )
