"""How long a completion counts against the registration report."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from shared.clock import CampaignTime, StorageTime
from shared.rules.completion import outranks_report, silences

NOON = datetime(2027, 3, 17, 12, tzinfo=UTC)


@pytest.mark.invariant(4)
@pytest.mark.parametrize(
    ("ago", "outranks"),
    [
        ("never", False),
        (timedelta(0), True),
        (timedelta(hours=47, minutes=59), True),
        (timedelta(hours=48), False),
        (timedelta(days=30), False),
        (timedelta(hours=-1), True),  # the pretended clock was set back
    ],
)
def test_a_confirmed_completion_outranks_the_report_for_48_hours(
    ago: timedelta | str, outranks: bool
) -> None:
    confirmed_at = CampaignTime(NOON - ago) if isinstance(ago, timedelta) else None
    assert outranks_report(confirmed_at, CampaignTime(NOON)) is outranks


@pytest.mark.invariant(4)
@pytest.mark.parametrize(
    ("said", "silenced"),
    [
        ("never", False),
        (timedelta(seconds=-1), False),  # the sweep looked after it was said
        (timedelta(0), True),
        (timedelta(hours=20), True),  # while the sweep ran, or after it
    ],
)
def test_what_somebody_says_silences_until_a_later_sweep_has_looked(
    said: timedelta | str, silenced: bool
) -> None:
    reported_at = StorageTime(NOON + said) if isinstance(said, timedelta) else None
    assert silences(reported_at, StorageTime(NOON)) is silenced
