"""The words of each language are complete, and agree with the catalogue and with themselves."""

from __future__ import annotations

import re

import pytest

from shared.messages.catalogue import GENERAL, MESSAGES, REGISTRATION
from shared.messages.words import LANGUAGES, load_words


def test_there_is_english() -> None:
    assert "en" in LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_all_that_the_catalogue_names_and_nothing_else(language: str) -> None:
    words = load_words(language)
    assert set(words.messages) == set(MESSAGES)
    assert set(words.key_facts) == {REGISTRATION.name, GENERAL.name}
    assert set(words.sections) == {*REGISTRATION.sections, *GENERAL.sections}


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
