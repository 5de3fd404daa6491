"""One line of words with its marks filled in, as HTML and as text (the marks: words/en.toml).

Marks are looked for in our own words only: a value that looks like a mark stays what it is.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping

import msgspec
from markupsafe import Markup, escape

COLUMNS = 72

MARK = re.compile(
    r"\*\*(?P<label>.+?)\*\*|\[(?P<words>.+?)\]\(\{(?P<target>\w+)\}\)|\{(?P<slot>\w+)\}"
)


class Link(msgspec.Struct, frozen=True):
    """An address that is shown in full, and where it leads."""

    text: str
    href: str


class Name(msgspec.Struct, frozen=True):
    """A name in whatever script: its direction of writing stays its own."""

    text: str


class Tag(msgspec.Struct, frozen=True):
    """A placeholder for a personal value, one for each part of a mail."""

    html: str  # the value that takes its place is escaped already
    text: str


type Slot = str | Link | Name | Tag


def render_html(line: str, slots: Mapping[str, Slot]) -> Markup:
    """The line as HTML, all words and values escaped."""

    def fill(mark: re.Match[str]) -> str:
        if label := mark["label"]:
            return f"<strong>{MARK.sub(fill, label)}</strong>"
        if target := mark["target"]:
            return f'<a class="worded" href="{_target(slots[target])}">{mark["words"]}</a>'
        match slots[mark["slot"]]:
            case Tag(html=html):
                return html
            case Link(text=text, href=href):
                return f'<a href="{escape(href)}">{escape(text)}</a>'
            case Name(text=text):
                return f"<bdi>{escape(text)}</bdi>"
            case str() as words:
                return escape(words)

    return Markup(MARK.sub(fill, escape(line)))


def render_text(line: str, slots: Mapping[str, Slot]) -> str:
    """The line as text, not yet wrapped. An address behind words gets a line of its own."""

    def fill(mark: re.Match[str]) -> str:
        if label := mark["label"]:
            return f"“{MARK.sub(fill, label)}”"
        if target := mark["target"]:
            return f"{mark['words']}:\n{_words(slots[target])}\n"
        return _words(slots[mark["slot"]])

    return MARK.sub(fill, line)


def slots_named(line: str) -> Iterator[str]:
    """The slots of all marks of a line."""
    for mark in MARK.finditer(line):
        if label := mark["label"]:
            yield from slots_named(label)
        else:
            yield mark["target"] or mark["slot"]


def wrap_text(text: str, indent: str = "") -> str:
    """Lines of at most COLUMNS characters; an address is never broken.

    `indent` stands before the first line, blanks of its width before the others.
    """
    lines: list[str] = []
    for line in text.splitlines():
        lines += textwrap.wrap(
            line.strip(),
            COLUMNS,
            initial_indent=" " * len(indent) if lines else indent,
            subsequent_indent=" " * len(indent),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def underline(text: str, stroke: str) -> str:
    """A heading of the text part: wrapped, with a row of `stroke` below."""
    wrapped = wrap_text(text)
    return f"{wrapped}\n{stroke * max(map(len, wrapped.splitlines()))}"


def _target(slot: Slot) -> str:
    match slot:
        case Tag(html=html):
            return html
        case Link(href=href):
            return escape(href)
        case _:
            return escape(_words(slot))


def _words(slot: Slot) -> str:
    return slot if isinstance(slot, str) else slot.text
