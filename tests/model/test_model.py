"""The machine breaks no promise; and it would notice, if there were something to notice."""

from __future__ import annotations

import logging
import os

import pytest

from tests.model.bed import Bed
from tests.model.machine import run_machine
from tests.model.planted import MISTAKES, ROOT, Mistake, search

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "12"))

FOUND_SOON = ("claim after the call", "others that do not wait for their canary")
"""Within seconds. Some of the others take minutes: `python -m tests.model --planted`."""


@pytest.fixture(autouse=True)
def without_alarms(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong here raises hundreds of them."""
    caplog.set_level(logging.CRITICAL, "mfa_nudge")


@pytest.mark.invariant(1, 2)
def test_whatever_happens_nothing_is_lost_and_nothing_is_sent_twice_unnamed() -> None:
    with Bed() as bed:
        error = run_machine(bed, EXAMPLES)
    if error:
        raise error


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_mistakes_can_still_be_planted(mistake: Mistake) -> None:
    assert mistake.planted_in(ROOT) != (ROOT / mistake.file).read_text()


@pytest.mark.parametrize("name", FOUND_SOON)
def test_a_planted_mistake_is_found(name: str) -> None:
    (mistake,) = [one for one in MISTAKES if one.name == name]
    assert search(mistake, examples=40, seed=1).broken
