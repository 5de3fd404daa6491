"""The words of mails, pages and SMS, one TOML file a language, decoded into types.

A language is added as data: a file `words/<language>.toml` with the same keys. One that lacks a
word or has one too many does not decode, and the error names its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from shared.errors import SetupFault

FOLDER = Path(__file__).parent / "words"

LANGUAGES = tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))
"""The languages that there are words for, as BCP 47 tags."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said before the guide."""

    subject: str
    title: str
    opening: tuple[str, ...]


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A few words and what is to be said about them."""

    term: str
    text: str


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A heading, then what it has of paragraphs, numbered steps and points, in this order."""

    heading: str
    text: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()


class Closing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The end of every letter."""

    guide: str
    questions: str  # ends the pages, too
    reminders: str
    last_line: str


class PageFrame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands around the pages' own words."""

    nobody: str  # at the top where no institution can be named
    official_page: str
    help_elsewhere: str  # in place of the help desk's address where none can be named
    reminders: str  # at the end of the guide


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page that a link or a mistake leads to: `more` stands below the button."""

    title: str
    text: tuple[str, ...]
    button: str = ""
    more: tuple[str, ...] = ()


class Texts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The SMS: each message in several lengths, the fullest first."""

    day: str  # with {day}, {city}
    time_of_day: str  # with {time}, {day}: where there is no room for the city
    messages: dict[str, tuple[str, ...]]


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All words of one language. Keys of the dicts are those of catalogue.py."""

    locale: str  # as Babel names it: decides how dates and places are written
    direction: Literal["ltr", "rtl"]
    greeting: str  # with {name}
    greeting_without_name: str
    end_of_day: str  # with {day}, {city}
    time_of_day: str  # with {time}, {day}, {city}
    start_of_day: str  # with {day}, {city}
    china_stores: str  # Microsoft's own list of app stores, in this language where there is one
    messages: dict[str, Message]
    key_facts: dict[str, tuple[Point, ...]]
    sections: dict[str, Section]
    closing: Closing
    page_frame: PageFrame
    pages: dict[str, Page]
    sms: Texts


@cache
def load_words(language: str) -> Words:
    """The words of `language`. Raises SetupFault where there are none."""
    if language not in LANGUAGES:
        raise SetupFault(
            "There are no words for the language that was asked for.",
            f"use one of {', '.join(LANGUAGES)}, or add a file to shared/messages/words.",
        )
    return msgspec.toml.decode((FOLDER / f"{language}.toml").read_bytes(), type=Words)


def offered_languages(names: Iterable[str]) -> list[str]:
    """The languages that a campaign names its institution in and that there are words for, in the
    campaign's order; English where none of them has words."""
    return [one for one in names if one in LANGUAGES] or ["en"]


def choose_language(preferred: str | None, offered: Sequence[str]) -> str:
    """The language to write to a person in: their own, or one of the same family (`zh-HK` for
    `zh-MO`), or the first that is offered."""
    if preferred is None or len(offered) == 1:
        return offered[0]
    family = preferred.partition("-")[0].lower()
    close = [one for one in offered if one.partition("-")[0] == family]
    same = (one for one in close if one.lower() == preferred.lower())
    return next(same, (close or offered)[0])
