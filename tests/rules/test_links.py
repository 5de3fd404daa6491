"""Sealed links open for what they were made for, and for nothing else."""

from __future__ import annotations

import base64
import secrets
import string
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import CampaignTime
from shared.errors import BadToken
from shared.rules.links import Purpose, Sealed, check_keys, seal, unseal

NEW, OLD, STRANGE = (secrets.token_urlsafe(32) for _ in range(3))
PERSON = bytes(range(16))
CAMPAIGN = "hku-alumni-2027"
NOW = CampaignTime(datetime(2027, 3, 17, 2, 0, tzinfo=UTC))
EXPIRES = CampaignTime(NOW + timedelta(days=30))

ALPHABET = string.ascii_letters + string.digits + "-_"


def sealed(
    *, keys: tuple[str, ...] = (NEW,), purpose: Purpose = "done", campaign: str = CAMPAIGN
) -> str:
    return seal(keys, purpose, campaign, PERSON, EXPIRES)


def with_byte(raw: bytes, place: int, byte: int) -> bytes:
    return raw[:place] + bytes([byte]) + raw[place + 1 :]


def decode(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@given(
    st.sampled_from(["done", "unsubscribe"]),
    st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=60),
    st.binary(min_size=16, max_size=16),
    st.integers(1, 366 * 86_400),
)
def test_what_goes_in_comes_out(
    purpose: Purpose, campaign: str, person: bytes, seconds: int
) -> None:
    expires = CampaignTime(NOW + timedelta(seconds=seconds))
    token = seal([NEW], purpose, campaign, person, expires)

    assert unseal([NEW], purpose, token, NOW) == Sealed(campaign, person, expires)


def test_a_token_is_short_and_needs_no_escaping() -> None:
    token = sealed()

    assert len(token) == 84
    assert quote(token, safe="") == token


@pytest.mark.invariant(6)
def test_a_token_shows_neither_person_nor_campaign() -> None:
    raw = decode(sealed())

    assert CAMPAIGN.encode() not in raw
    assert PERSON not in raw
    assert sealed() != sealed(), "equal links would show that two mails went to one person"


@pytest.mark.invariant(5)
@pytest.mark.parametrize("campaign", ["a", "ab", "abc"])
def test_no_bit_of_a_token_may_change(campaign: str) -> None:
    raw = decode(sealed(campaign=campaign))

    for place, byte in enumerate(raw):
        for bit in range(8):
            with pytest.raises(BadToken):
                unseal([NEW], "done", encode(with_byte(raw, place, byte ^ 1 << bit)), NOW)


@pytest.mark.invariant(5)
@pytest.mark.parametrize("campaign", ["a", "ab", "abc"])
def test_a_token_can_be_written_in_one_way_only(campaign: str) -> None:
    """With each of the three lengths that leave other spare bits in base64's last character."""
    token = sealed(campaign=campaign)

    others = [token[:-1] + last for last in ALPHABET if last != token[-1]]
    others += [token + "=", token + "==", token + "\n", " " + token, token + "A", token + "é"]
    others += [token[:5] + "!" + token[5:], token.replace(token[5], token[5] + "%", 1)]
    for other in others:
        with pytest.raises(BadToken):
            unseal([NEW], "done", other, NOW)


@pytest.mark.invariant(5)
def test_a_part_of_a_token_opens_nothing() -> None:
    token = sealed()

    for length in range(len(token)):
        with pytest.raises(BadToken):
            unseal([NEW], "done", token[:length], NOW)


@pytest.mark.invariant(5)
@pytest.mark.parametrize(
    ("made_for", "used_for"), [("done", "unsubscribe"), ("unsubscribe", "done")]
)
def test_a_link_serves_one_purpose(made_for: Purpose, used_for: Purpose) -> None:
    with pytest.raises(BadToken):
        unseal([NEW], used_for, sealed(purpose=made_for), NOW)


@pytest.mark.invariant(5)
def test_a_link_belongs_to_one_campaign() -> None:
    ours, theirs = sealed(), sealed(campaign="hku-alumni-2028")

    assert unseal([NEW], "done", ours, NOW).campaign == CAMPAIGN
    for cut in range(1, len(ours)):
        with pytest.raises(BadToken):
            unseal([NEW], "done", ours[:cut] + theirs[cut:], NOW)


@pytest.mark.invariant(5)
def test_a_link_ends() -> None:
    token = sealed()

    last_moment = CampaignTime(EXPIRES - timedelta(microseconds=1))
    assert unseal([NEW], "done", token, last_moment).expires == EXPIRES
    with pytest.raises(BadToken, match="over"):
        unseal([NEW], "done", token, EXPIRES)


@pytest.mark.invariant(5)
def test_keys_rotate() -> None:
    before = sealed(keys=(OLD,))
    after = sealed(keys=(NEW, OLD))

    assert unseal([NEW, OLD], "done", before, NOW).person == PERSON
    assert unseal([NEW, OLD], "done", after, NOW).person == PERSON
    assert unseal([NEW], "done", after, NOW).person == PERSON, "the newest seals"
    for keys in ([NEW], [STRANGE], []):
        with pytest.raises(BadToken):
            unseal(keys, "done", before, NOW)


@pytest.mark.invariant(5)
@given(st.text(max_size=200) | st.text(ALPHABET, max_size=600))
def test_nothing_else_is_a_token(token: str) -> None:
    with pytest.raises(BadToken):
        unseal([NEW, OLD], "done", token, NOW)


@pytest.mark.invariant(6)
def test_an_error_does_not_repeat_the_link() -> None:
    token = sealed()

    for attempt in (token[:-1], token + "x" * 600, sealed(purpose="unsubscribe")):
        with pytest.raises(BadToken) as bad:
            unseal([NEW], "done", attempt, NOW)
        assert token[:10] not in str(bad.value)


def test_an_object_id_has_sixteen_bytes() -> None:
    with pytest.raises(ValueError, match="16 bytes, not 36"):
        seal([NEW], "done", CAMPAIGN, b"x" * 36, EXPIRES)


class TestKeys:
    def test_good_ones(self) -> None:
        assert check_keys([NEW, OLD]) == []
        assert check_keys([NEW + "="]) == [], "with base64's padding"

    @pytest.mark.parametrize(
        ("keys", "problem"),
        [
            ([], "LINK_KEYS names no key"),
            ([""], "key 1 of 1 holds 0 bytes instead of 32"),
            ([NEW, ""], "key 2 of 2 holds 0 bytes instead of 32"),
            ([NEW, secrets.token_urlsafe(16)], "key 2 of 2 holds 16 bytes instead of 32"),
            (["@Microsoft.KeyVault(SecretUri=x)"], "key 1 of 1 is not base64url"),
            ([" " + NEW], "key 1 of 1 is not base64url"),
            ([NEW[:-1]], "key 1 of 1"),
            (["é" * 43], "key 1 of 1 is not base64url"),
        ],
    )
    def test_bad_ones(self, keys: list[str], problem: str) -> None:
        [said] = check_keys(keys)

        assert problem in said
        assert "Make one with: python -c" in said
        assert not any(key and key in said for key in keys)

    def test_each_bad_one_is_named(self) -> None:
        assert len(check_keys(["x", NEW, "y"])) == 2


def test_a_parcel_of_links_costs_little() -> None:
    sealed()
    started = time.perf_counter()
    for _ in range(1_000):
        sealed()

    assert time.perf_counter() - started < 0.3, "some 5 ms are usual"
