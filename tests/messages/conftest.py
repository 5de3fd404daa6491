"""The example campaign, as the messages get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.rules.campaign import Allowed, Campaign, parse_campaign

EXAMPLE = Path(__file__).parents[2] / "campaign.example.yaml"


@pytest.fixture(scope="session")
def campaign() -> Campaign:
    allowed = Allowed(
        senders=frozenset({"no-reply@its.hku.hk"}),
        link_hosts=frozenset({"its.hku.hk"}),
        local=True,
        channels=frozenset({"email", "sms"}),
    )
    return parse_campaign(EXAMPLE.read_text(), file=EXAMPLE.name, allowed=allowed)
