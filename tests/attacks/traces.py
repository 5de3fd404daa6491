"""Looks for people in texts that should know of nobody: their names, addresses, accounts, numbers.

A text is taken apart into words, addresses and groups of digits, once as it stands and once with
its escapes undone, and each of them looked up: so that a whole run can be searched for everybody.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, unquote_plus

import phonenumbers

from local.roster import Person

ORDINARY = frozenset(
    {
        *("bold", "curly", "lines", "substitution", "quoted", "person", "spaces", "everywhere"),
        *("premises", "directory", "synchronization", "service", "account"),
    }
)
"""Words of the directory's awkward names, and of its service accounts', that name nobody."""

LEAST_LETTERS = 4
"""Of a part of a name: shorter ones are parts of other words, too."""

_LETTERS = re.compile(r"[^\W\d_]+")
_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+")
_NAME_OF_ACCOUNT = re.compile(r"[\w.#-]{5,}")
_NUMBER = re.compile(r"\d+(?:[ ().\-/\u2011]{1,3}\d+)*")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){8,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_READABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\ufffd]{8,}")
_MOST_GROUPS, _LEAST_DIGITS = 6, 9


class Everybody:
    """Whom to look for.

    Args:
        known: addresses that are nobody's, such as the institution's.
    """

    def __init__(self, people: Iterable[Person], known: Iterable[str] = ()) -> None:
        self._known = {address.casefold() for address in known}
        self._words: set[str] = set()
        self._accounts: set[str] = set()
        self._numbers: set[str] = set()
        for person in people:
            self._watch(person)

    def _watch(self, person: Person) -> None:
        for part in _LETTERS.findall(person.display_name.casefold()):
            # A name in Chinese has two or three characters, and is no part of another word.
            if len(part) >= LEAST_LETTERS or (len(part) > 1 and part > "\u3000"):
                self._words.add(part)
        self._words -= ORDINARY
        account = person.user_principal_name.casefold()
        self._accounts |= {account, account.partition("@")[0]}
        if person.mobile_phone:
            self._numbers |= set(_forms_of(person.mobile_phone))

    def find(self, text: str | bytes) -> set[str]:
        """Who is in a text, by what was found of them."""
        if isinstance(text, bytes):
            text = _read(text)
        return set[str]().union(*map(self._find_in, {text, *_unescape(text), _decode(text)}))

    def _find_in(self, text: str) -> set[str]:
        folded = text.casefold()
        found = self._words.intersection(_LETTERS.findall(folded))
        found |= self._accounts.intersection(_NAME_OF_ACCOUNT.findall(folded))
        # Whatever is an address and none of the institution's is somebody's.
        found |= {address.strip("'") for address in _ADDRESS.findall(folded)} - self._known
        return found | self._numbers.intersection(_digits_in(folded))


def _forms_of(number: str) -> Iterator[str]:
    """The digits of a number, as it stands, with its country's code, and within its country."""
    yield re.sub(r"\D", "", number)
    for region in ("GB", "US", "HK"):
        try:
            parsed = phonenumbers.parse(number, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_possible_number(parsed):
            form = phonenumbers.PhoneNumberFormat
            for kind in (form.E164, form.NATIONAL):
                yield re.sub(r"\D", "", phonenumbers.format_number(parsed, kind))
            yield str(parsed.national_number)


def _digits_in(text: str) -> Iterator[str]:
    """Groups of digits that may be a number, each alone and joined with those behind it."""
    for found in _NUMBER.findall(text):
        groups = re.findall(r"\d+", found)
        for first in range(len(groups)):
            joined = ""
            for group in groups[first : first + _MOST_GROUPS]:
                joined += group
                if len(joined) >= _LEAST_DIGITS:
                    yield joined


def _read(raw: bytes) -> str:
    """Bytes, where they can be read: among others, eight letters in a row do not come about by
    chance."""
    return "\n".join(_READABLE.findall(raw.decode(errors="replace")))


def _decode(text: str) -> str:
    """What stands in a text as hex or as base64."""
    found = [bytes.fromhex(one) for one in _HEX.findall(text)]
    for one in _BASE64.findall(text):
        plain = one.rstrip("=")
        # One letter over is half a byte: it stands beside the rest by chance.
        plain = plain[:-1] if len(plain) % 4 == 1 else plain
        found.append(base64.urlsafe_b64decode(plain.replace("+", "-").replace("/", "_") + "=="))
    return "\n".join(map(_read, found))


def _unescape(text: str) -> Iterator[str]:
    """Without the escapes of URLs (an address within an address has them twice), of JSON and of
    HTML. A plus is a space in some URLs, and itself in others."""
    for decode in (unquote, unquote_plus):
        plain = html.unescape(decode(decode(text)))
        yield _ESCAPE.sub(lambda found: chr(int(found[1], 16)), plain)
