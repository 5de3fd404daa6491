"""What keeps a surprise from going out unattended."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.rules.campaign import Allowed, Campaign, parse_campaign
from shared.rules.guards import (
    ShardCounts,
    Verdict,
    judge,
    link_fault,
    too_ambiguous,
    too_many_bounces,
)

EXAMPLE = (Path(__file__).resolve().parents[2] / "campaign.example.yaml").read_text()
HOSTS = frozenset({"its.hku.hk", "mfa.its.hku.hk"})


def counts(roster: int = 0, unregistered: int = 0, had: int = 1) -> ShardCounts:
    return ShardCounts(roster=roster, unregistered=unregistered, had=had)


# the verdict

FIGURES: list[tuple[str, str, int, int, bool]] = [
    # figure, its change, before, now, and whether it goes
    ("roster", "the same", 1000, 1000, True),
    ("roster", "a half", 1000, 500, True),
    ("roster", "over a half", 1000, 499, False),
    ("roster", "everybody", 1000, 0, False),
    ("roster", "over a half, but 50", 90, 40, True),
    ("roster", "over a half, and 51", 91, 40, False),
    ("roster", "many, but not half", 100_000, 60_000, True),
    ("roster", "it grows tenfold", 1000, 10_000, True),
    ("unregistered", "the same", 1000, 1000, True),
    ("unregistered", "by half", 1000, 1500, True),
    ("unregistered", "by over a half", 1000, 1501, False),
    ("unregistered", "by over a half, but 50", 10, 60, True),
    ("unregistered", "by over a half, and 51", 10, 61, False),
    ("unregistered", "from nobody", 0, 51, False),
    ("unregistered", "all have registered", 1000, 0, True),
]


@pytest.mark.invariant(8)
@pytest.mark.parametrize(
    ("figure", "before", "now", "goes"),
    [(figure, before, now, goes) for figure, _, before, now, goes in FIGURES],
    ids=[f"{figure}: {change}" for figure, change, *_ in FIGURES],
)
def test_a_change_by_over_half_and_over_50_pauses(
    figure: str, before: int, now: int, goes: bool
) -> None:
    steady = {"roster": 1000, "unregistered": 0} | ({"roster": 200_000} if before > 1000 else {})
    verdict = judge(
        counts(**{**steady, figure: now}),
        counts(**{**steady, figure: before}),
        waves_went_out=True,
    )
    assert verdict.go == goes
    if not goes:
        (reason,) = verdict.reasons
        assert f"from {before} to {now}" in reason
        assert "`nudge resume`" in reason, "it says what to do"


@pytest.mark.invariant(8)
@pytest.mark.parametrize(
    ("had", "waves", "goes"), [(0, False, True), (0, True, False), (1, True, True)]
)
def test_a_ledger_that_forgot_everything_pauses(had: int, waves: bool, goes: bool) -> None:
    verdict = judge(counts(100, 50, had), counts(100, 50, 7), waves_went_out=waves)
    assert verdict.go == goes
    assert ("been lost" in " ".join(verdict.reasons)) == (not goes)


@pytest.mark.invariant(8)
def test_the_first_verdict_has_nothing_to_compare_with() -> None:
    assert judge(counts(100_000, 80_000, 0), None, waves_went_out=False).go
    assert not judge(counts(100_000, 80_000, 0), None, waves_went_out=True).go


@pytest.mark.invariant(8)
def test_a_pause_says_each_reason_and_what_it_was_made_of() -> None:
    now = counts(100, 900, 0)
    verdict = judge(now, counts(1000, 100), waves_went_out=True)
    assert verdict == Verdict(go=False, reasons=verdict.reasons, counts=now)
    assert len(verdict.reasons) == 3


# sums

_COUNTS = st.builds(
    ShardCounts,
    roster=st.integers(0, 99),
    had=st.integers(0, 99),
    parcels=st.integers(0, 99),
    reasons=st.dictionaries(st.sampled_from(["guest", "disabled"]), st.integers(1, 9)),
)


@given(_COUNTS, _COUNTS)
def test_sums_are_sums_of_everything(one: ShardCounts, other: ShardCounts) -> None:
    total = one + other
    assert total == other + one
    assert total.roster == one.roster + other.roster
    assert total.parcels == one.parcels + other.parcels
    for reason in ("guest", "disabled"):
        assert total.reasons.get(reason, 0) == sum(
            counts.reasons.get(reason, 0) for counts in (one, other)
        )
    assert one + ShardCounts() == one


# ambiguous calls


@pytest.mark.invariant(8)
@pytest.mark.parametrize(
    ("ambiguous", "called", "pauses"),
    [
        (19, 19, False),  # too few to tell
        (20, 20, True),
        (20, 1000, True),  # 2 %
        (20, 1001, False),
        (200, 10_000, True),
        (199, 10_000, False),
        (0, 0, False),
    ],
)
def test_20_ambiguous_parcels_and_2_percent_pause(
    ambiguous: int, called: int, pauses: bool
) -> None:
    assert too_ambiguous(ambiguous, called, 0.02) == pauses
    assert not too_ambiguous(ambiguous, called, 1)  # switched off


@pytest.mark.invariant(8)
@pytest.mark.parametrize(
    ("bounced", "recipients", "pauses"),
    [
        (20, 100, False),  # too few to tell
        (21, 100, True),
        (21, 419, True),
        (21, 420, False),  # 5 %
        (500, 10_000, False),
        (501, 10_000, True),
        (0, 0, False),
    ],
)
def test_more_than_20_bounces_and_5_percent_pause(
    bounced: int, recipients: int, pauses: bool
) -> None:
    assert too_many_bounces(bounced, recipients, 0.05) == pauses
    assert not too_many_bounces(bounced, recipients, 1)  # switched off


# personal links

LINKS: list[tuple[str, str, bool]] = [
    # mode, PUBLIC_BASE_URL, and whether its links may go out
    ("live", "https://mfa.its.hku.hk", True),
    ("live", "https://MFA.its.hku.hk/nudge", True),
    ("live", "https://its.hku.hk:8443", True),
    ("live", "https://hku.hk", False),
    ("live", "https://evil.mfa.its.hku.hk", False),
    ("live", "https://mfa.its.hku.hk.evil.example", False),
    ("live", "https://mfa.its.hku.hk@evil.example", False),
    ("live", "https://nudge.azurewebsites.net", False),
    ("live", "https://listed.azurewebsites.net", False),
    ("live", "https://LISTED.AzureWebsites.net", False),
    ("live", "https://listed.azurewebsites.net.", False),
    ("live", "https://listed.scm.azurewebsites.net", False),
    ("live", "https://azurewebsites.net", False),
    ("live", "", False),
    ("dry-run", "https://nudge.azurewebsites.net", True),
    ("trial", "https://nudge.azurewebsites.net", True),
    ("trial", "https://elsewhere.example", True),
]


@pytest.mark.invariant(11)
@pytest.mark.parametrize(("mode", "url", "goes"), LINKS)
def test_live_links_stand_on_the_institutions_own_domain(mode: str, url: str, goes: bool) -> None:
    listed = {"Listed.azurewebsites.net", "listed.scm.azurewebsites.net", "azurewebsites.net"}
    fault = link_fault(campaign(mode), url, HOSTS | listed)
    assert (fault is None) == goes
    if fault:
        assert "PUBLIC_BASE_URL" in fault
        assert "domain" in fault


@pytest.mark.invariant(11)
def test_hosts_are_listed_in_any_case() -> None:
    assert (
        link_fault(campaign("live"), "https://mfa.its.hku.hk", frozenset({"MFA.ITS.hku.hk"}))
        is None
    )


def campaign(mode: str) -> Campaign:
    """The example in a mode; trial needs an account to try it with."""
    text = EXAMPLE.replace("mode: dry-run", f"mode: {mode}")
    if mode == "trial":
        text = text.replace("trial: []", 'trial: ["someone@connect.hku.hk"]')
    allowed = Allowed(
        senders=frozenset({"no-reply@its.hku.hk"}),
        link_hosts=HOSTS,
        local=True,
        channels=frozenset({"email"}),
    )
    return parse_campaign(text, file="campaign.example.yaml", allowed=allowed)
