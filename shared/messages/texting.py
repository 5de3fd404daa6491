"""SMS: a message in one language as short as it can be, and what its length costs.

An SMS is carried in parts. In GSM-7 (3GPP TS 23.038) a part has 160 septets, or 153 where there are
several; a character of the extension table takes two. One character beyond both tables makes all
of it UCS-2: 70 units of UTF-16 a part, or 67. What takes two septets or two units is never split
over two parts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal

import msgspec

from shared.errors import SetupFault
from shared.messages.catalogue import choose_opening
from shared.messages.lines import render_text
from shared.messages.rendering import Letter
from shared.messages.slots import sms_slots
from shared.messages.words import load_words
from shared.rules.campaign import Campaign

MOST_PARTS = 2

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("\f^{}\\[~]|€")
_GSM_7 = _BASIC | _EXTENSION

# What looks the same to a reader and has a place in GSM-7.
_PLAIN = str.maketrans(
    {
        "‘": "'", "’": "'", "ʼ": "'", "“": '"', "”": '"', "„": '"', "‐": "-", "‑": "-", "–": "-",
        "—": "-", "−": "-", "…": "...", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
    }
)  # fmt: skip


class Parts(msgspec.Struct, frozen=True):
    """How a text is encoded, and in how many parts it is carried and paid for."""

    encoding: Literal["GSM-7", "UCS-2"]
    parts: int


def count_parts(text: str) -> Parts:
    """What `text` takes as an SMS; at least one part."""
    if _GSM_7.issuperset(text):
        return Parts("GSM-7", _pack([1 + (one in _EXTENSION) for one in text], 160, 153))
    return Parts("UCS-2", _pack([1 + (ord(one) > 0xFFFF) for one in text], 70, 67))


def _pack(widths: Sequence[int], alone: int, each: int) -> int:
    """Parts for characters of these widths, with `alone` places in a single part and `each` in one
    of several."""
    if sum(widths) <= alone:
        return 1
    parts, free = 1, each
    for width in widths:
        if width > free:
            parts, free = parts + 1, each
        free -= width
    return parts


def render_sms(campaign: Campaign, *, message: str, language: str, after_deadline: bool) -> Letter:
    """The SMS of `message`: who writes, what changes and when, and what to look for on the
    institution's own site. It has no link, no token and no name of a person, so it is the same for
    everybody; subject and HTML are empty. Of the lengths that there are words in, it is the fullest
    of those that take the fewest parts.

    Args:
        campaign: gives dates and the institution's own words.
        message: one of catalogue.MESSAGES.
        language: one of words.LANGUAGES.
        after_deadline: whether campaign time has passed the deadline: then it invites nobody to
            register in time.

    Raises:
        SetupFault: there is no such message, there are no words in that language, or the campaign
            does not say what to look for, or says it at too great a length.
    """
    if not campaign.institution.look_for:
        raise SetupFault(
            "The campaign does not say what an SMS tells people to look for.",
            "set institution.look_for.",
        )
    words = load_words(language)
    lengths = words.sms.messages[choose_opening(message, after_deadline=after_deadline)]
    slots = sms_slots(campaign, words, language)
    texts = [_plain(render_text(line, slots)) for line in lengths]
    shortest = min(texts, key=lambda text: count_parts(text).parts)  # the first of equals
    if count_parts(shortest).parts > MOST_PARTS:
        raise SetupFault(
            f"An SMS of the campaign takes more than {MOST_PARTS} parts.",
            "shorten institution.short_name or institution.look_for; emoji and rare characters "
            "count twice.",
        )
    return Letter(subject="", html="", text=shortest)


def _plain(text: str) -> str:
    """The text in GSM-7 if only its spelling stands in the way, or else as it is."""
    plain = unicodedata.normalize("NFC", text).translate(_PLAIN)
    return plain if _GSM_7.issuperset(plain) else text
