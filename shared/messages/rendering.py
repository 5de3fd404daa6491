"""Letters: a message in one language as subject, HTML part and text part, for a whole parcel.

A letter holds no personal data. Where a person's own values belong it has tags, which the provider
replaces by that person's substitutions: SendGrid puts one value into both parts, so each value has
two tags, one for its escaped form and one for its plain form.
"""

from __future__ import annotations

import html
import secrets
import unicodedata
from functools import cache, partial
from typing import Final

import css_inline
import msgspec

from shared.messages.catalogue import choose_guide, choose_opening
from shared.messages.lines import Name, Tag, render_html, render_text, underline, wrap_text
from shared.messages.slots import campaign_slots, web_link
from shared.messages.templating import template
from shared.messages.words import load_words
from shared.rules.campaign import Campaign
from shared.rules.contact import mask_account

PERSONAL: Final = ("greeting", "account", "done_url", "unsubscribe_url")
"""What a line of words may name and each recipient has a value of their own for."""

LONGEST_NAME = 64
"""Characters of a name that a greeting shows."""

JOINERS = "\u200c\u200d"
"""Format characters that names and emoji are written with; all others are dropped."""


class Letter(msgspec.Struct, frozen=True):
    """What one provider call says to all its recipients; holds tags, and no personal data."""

    subject: str
    html: str
    text: str


class Tags(msgspec.Struct, frozen=True):
    """The placeholders of a letter. Their prefix is random, so that no value can contain one."""

    prefix: str

    @classmethod
    def fresh(cls) -> Tags:
        return cls(f"t{secrets.token_hex(8)}")

    def named(self, name: str) -> Tag:
        return Tag(html=f"{self.prefix}_{name}_html_", text=f"{self.prefix}_{name}_text_")


def guide_url(base: str, campaign: str, language: str) -> str:
    """Where the guide of a campaign stands as a web page; `base` is PUBLIC_BASE_URL."""
    return f"{base}/guide/{language}?campaign={campaign}"


def render_letter(
    campaign: Campaign,
    *,
    message: str,
    language: str,
    after_deadline: bool,
    guide_url: str,
    tags: Tags,
) -> Letter:
    """The letter of `message`. The same arguments give the same letter, so it may be kept.

    Args:
        campaign: gives dates, addresses and the institution's own words.
        message: one of catalogue.MESSAGES.
        language: one of words.LANGUAGES.
        after_deadline: whether campaign time has passed the deadline; decides which guide is given.
        guide_url: the guide as a web page, in the same language.
        tags: the placeholders that `personal_values` will fill.

    Raises:
        SetupFault: there is no such message, or there are no words in that language.
    """
    words = load_words(language)
    guide = choose_guide(after_deadline=after_deadline)
    opening = words.messages[choose_opening(message, after_deadline=after_deadline)]
    slots = campaign_slots(campaign, words, language) | {
        "guide": web_link(guide_url),
        **{name: tags.named(name) for name in PERSONAL},
    }
    subject = render_text(opening.subject, slots)
    content = {
        "language": language,
        "direction": words.direction,
        "subject": subject,
        "greeting": "{greeting}",
        "title": opening.title,
        "opening": opening.opening,
        "key_facts": words.key_facts[guide.name],
        "sections": [words.sections[name] for name in guide.sections],
        "closing": words.closing,
        "html": partial(render_html, slots=slots),
        "text": partial(render_text, slots=slots),
        "wrap": wrap_text,
        "underline": underline,
    }
    page = template("letter.html.jinja").render(content)
    return Letter(
        subject=subject,
        html=_inliner().inline(page),
        text=template("letter.txt.jinja").render(content).strip() + "\n",
    )


def personal_values(
    tags: Tags,
    *,
    name: str,
    account: str,
    done_url: str,
    unsubscribe_url: str,
    language: str = "en",
) -> dict[str, str]:
    """What takes the place of each tag for one person.

    Args:
        tags: those that the letter was rendered with.
        name: the display name as the directory has it: anything at all, or empty.
        account: the user principal name; it is masked here.
        done_url: the person's own link to say that they have registered.
        unsubscribe_url: the person's own link to end the reminders.
        language: that of the letter; the greeting is part of the value, since a person without a
            usable name is greeted in other words.
    """
    words = load_words(language)
    usable = _usable_name(name, account)
    greeting = words.greeting if usable else words.greeting_without_name
    slots = {"name": Name(usable)}
    values = {
        "greeting": Tag(
            html=render_html(greeting, slots),
            text=render_text(greeting, slots),
        ),
        "account": _escaped(mask_account(_visible(account))),
        "done_url": _escaped(done_url),
        "unsubscribe_url": _escaped(unsubscribe_url),
    }
    substitutions: dict[str, str] = {}
    for key, value in values.items():
        tag = tags.named(key)
        substitutions |= {tag.html: str(value.html), tag.text: value.text}
    return substitutions


def _escaped(value: str) -> Tag:
    return Tag(html=html.escape(value), text=value)


def _usable_name(name: str, account: str) -> str:
    """`name` as a greeting may show it, or "" where it is not a name.

    Directories fill display names with account names and addresses; those would show unmasked.
    """
    visible = _visible(name)
    is_account = visible.casefold() == account.partition("@")[0].casefold()
    if is_account or "@" in visible or "://" in visible:
        return ""
    return visible if len(visible) <= LONGEST_NAME else f"{visible[: LONGEST_NAME - 1].rstrip()}…"


def _visible(value: str) -> str:
    """`value` on one line, without what could end a line or turn the direction of writing."""
    shown = unicodedata.normalize("NFC", value)
    if not shown.isprintable():  # nearly every value is
        shown = "".join(map(_shown, shown))
    return " ".join(shown.split()).strip(JOINERS)


def _shown(character: str) -> str:
    if character in JOINERS:
        return character
    category = unicodedata.category(character)
    if category == "Cc":
        return " "  # a line end or tab may be all that stands between two words
    return "" if category.startswith("C") else character


@cache
def _inliner() -> css_inline.CSSInliner:
    """Rules go into style attributes, since mail programs drop style sheets; the media queries
    (dark, narrow) stay in one. Nothing is ever loaded."""
    return css_inline.CSSInliner(keep_at_rules=True, load_remote_stylesheets=False)
