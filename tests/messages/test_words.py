"""The words of each language are complete, and agree with the catalogue and with themselves."""

from __future__ import annotations

import re

import msgspec
import pytest

from shared.messages.catalogue import GENERAL, MESSAGES, PAGES, REGISTRATION
from shared.messages.lines import slots_named
from shared.messages.rendering import PERSONAL
from shared.messages.slots import campaign_slots, sms_slots
from shared.messages.words import LANGUAGES, load_words
from shared.rules.campaign import Campaign


def test_there_is_english() -> None:
    assert "en" in LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_all_that_the_catalogue_names_and_nothing_else(language: str) -> None:
    words = load_words(language)
    assert set(words.messages) == set(MESSAGES)
    assert set(words.key_facts) == {REGISTRATION.name, GENERAL.name}
    assert set(words.sections) == {*REGISTRATION.sections, *GENERAL.sections}
    assert set(words.pages) == set(PAGES)
    assert set(words.sms.messages) == set(MESSAGES)
    for guide in (REGISTRATION, GENERAL):
        assert set(guide.next_steps) <= set(guide.sections)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_line_names_slots_that_there_are(campaign: Campaign, language: str) -> None:
    """A page leaves out what names a slot that it has not: a typing mistake would go unseen."""
    words = load_words(language)
    common = {*campaign_slots(campaign, words, language), "guide"}
    of_mails = {*common, *PERSONAL}
    assert slots_in([words.messages, words.key_facts, words.closing]) <= of_mails
    assert slots_in([words.sections, words.page_frame, words.pages]) <= common
    for page in words.pages.values():
        assert not slots_in([page.title, page.button])
        assert any(not slots_in([line]) for line in page.text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sms_says_who_writes_what_date_counts_and_what_to_look_for(
    campaign: Campaign, language: str
) -> None:
    words = load_words(language)
    with_words = campaign.institution.model_copy(update={"look_for": {"en": "MFA"}})
    texting = campaign.model_copy(update={"institution": with_words})
    slots = set(sms_slots(texting, words, language))
    for lengths in words.sms.messages.values():
        assert lengths
        for line in lengths:
            named = slots_in([line])
            assert named <= slots
            assert {"institution", "look_for"} < named


def slots_in(words: object) -> set[str]:
    """The slots that any text in this part of the words names."""
    if isinstance(words, str):
        return {*slots_named(words)}
    parts = msgspec.to_builtins(words)
    inner = parts.values() if isinstance(parts, dict) else parts
    return set().union(*map(slots_in, inner))


def test_the_steps_that_the_english_words_point_to_are_those_meant() -> None:
    words = load_words("en")
    steps = words.sections["register"].steps
    meant = {2: "open a web browser", 5: "**+ Add sign-in method**", 9: "number"}
    everything = " ".join(steps) + " ".join(
        point.text for point in words.sections["obstacles"].points
    )
    assert {int(number) for number in re.findall(r"\bstep (\d+)", everything)} == set(meant)
    for number, what in meant.items():
        assert what in steps[number - 1]


def test_the_heading_that_the_english_words_point_to_exists() -> None:
    words = load_words("en")
    (pointer,) = words.sections["register"].text
    assert f"“{words.sections['obstacles'].heading}”" in pointer
