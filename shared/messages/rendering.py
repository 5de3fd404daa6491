"""Letters: a message in one language as subject, HTML part and text part, for a whole parcel.

A letter holds no personal data. Where a person's own values belong it has tags, which the provider
replaces by that person's substitutions: SendGrid puts one value into both parts, so each value has
two tags, one for its escaped form and one for its plain form.
"""

from __future__ import annotations

import html
import secrets
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import css_inline
import msgspec
from babel.dates import format_date, format_time, get_timezone_location
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shared.errors import SetupFault
from shared.messages.catalogue import MESSAGES, choose_guide, choose_opening
from shared.messages.lines import Link, Slot, Tag, render_html, render_text, underline, wrap_text
from shared.messages.words import Words, load_words
from shared.rules.campaign import Campaign
from shared.rules.contact import mask_account

TEMPLATES = Path(__file__).parent / "templates"

SECURITY_INFO: Final = "https://mysignins.microsoft.com/security-info"
"""Where every account registers its methods; short enough to be typed."""

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


def render_letter(
    campaign: Campaign, *, message: str, language: str, after_deadline: bool, tags: Tags
) -> Letter:
    """The letter of `message`. The same arguments give the same letter, so it may be kept.

    Args:
        campaign: gives dates, addresses and the institution's own words.
        message: one of catalogue.MESSAGES.
        language: one of words.LANGUAGES.
        after_deadline: whether campaign time has passed the deadline; decides which guide is given.
        tags: the placeholders that `personal_values` will fill.

    Raises:
        SetupFault: there is no such message, or there are no words in that language.
    """
    if message not in MESSAGES:
        raise SetupFault(
            "The cadence names a message that does not exist.",
            f"use one of {', '.join(MESSAGES)}.",
        )
    words = load_words(language)
    guide = choose_guide(after_deadline=after_deadline)
    opening = words.messages[choose_opening(message, after_deadline=after_deadline)]
    slots = _slots(campaign, words, language, tags)
    subject = render_text(opening.subject, slots)
    content = {
        "language": language,
        "direction": words.direction,
        "subject": subject,
        "institution": slots["institution"],
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
    environment = _environment()
    page = environment.get_template("letter.html.jinja").render(content)
    return Letter(
        subject=subject,
        html=_inliner().inline(page),
        text=environment.get_template("letter.txt.jinja").render(content).strip() + "\n",
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
    name_slot = Tag(html=f"<bdi>{html.escape(usable)}</bdi>", text=usable)
    values = {
        "greeting": Tag(
            html=render_html(greeting, {"name": name_slot}),
            text=render_text(greeting, {"name": name_slot}),
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


def _slots(campaign: Campaign, words: Words, language: str, tags: Tags) -> dict[str, Slot]:
    """Everything that a line of words may name in braces, but the name of a greeting."""
    institution = campaign.institution
    day = format_date(campaign.last_day, "long", locale=words.locale)
    enforced_on = format_date(campaign.enforced_on, "long", locale=words.locale)
    city = _city(campaign.zone, words)
    return {
        "institution": _in_language(institution.name, language),
        "password_name": _in_language(institution.password_name, language),
        "account_example": institution.account_example,
        "last_day": day,
        "deadline": _deadline(campaign, words, day, city),
        "enforced_on": enforced_on,
        "enforcement": words.start_of_day.format(day=enforced_on, city=city),
        "security_info": _web(SECURITY_INFO),
        "china_stores": _web(words.china_stores),
        "official_page": _web(institution.official_page),
        "general_procedure": _web(institution.general_procedure_url),
        "account_help": _web(institution.account_help_url),
        "help_desk": Link(institution.help_desk, f"mailto:{institution.help_desk}"),
        **{
            name: tags.named(name)
            for name in ("greeting", "account", "done_url", "unsubscribe_url")
        },
    }


def _deadline(campaign: Campaign, words: Words, day: str, city: str) -> str:
    """The end of a day in words, or the time of day where the campaign file gives one."""
    if not isinstance(campaign.deadline, datetime):
        return words.end_of_day.format(day=day, city=city)
    local = campaign.deadline.astimezone(campaign.zone)
    time = format_time(local.time(), "short", locale=words.locale)
    return words.time_of_day.format(time=time, day=day, city=city)


def _city(zone: ZoneInfo, words: Words) -> str:
    """The place that a zone is named after: "Hong Kong" for Asia/Hong_Kong."""
    place = get_timezone_location(zone, locale=words.locale, return_city=True)
    return place.rpartition("/")[2]


def _web(address: str) -> Link:
    return Link(address, address)


def _in_language(names: Mapping[str, str], language: str) -> str:
    """The institution's own word in `language`, or in English where it has none."""
    return names.get(language) or names["en"]


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
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _inliner() -> css_inline.CSSInliner:
    """Rules go into style attributes, since mail programs drop style sheets; the media queries
    (dark, narrow) stay in one. Nothing is ever loaded."""
    return css_inline.CSSInliner(keep_at_rules=True, load_remote_stylesheets=False)
