"""Sealed links: what stands in the personal part of a link, readable by nobody but us.

A token is base64url, without padding, of

    nonce (12 bytes) · AES-256-GCM of [expiry (4) · object id (16) · campaign (its name)] · tag (16)

84 characters for a campaign with a name of 15. The purpose is authenticated along with it, so that
a link to report completion cannot unsubscribe anybody; the campaign and the person come out as
they went in or not at all. Keys rotate: the newest seals, each of them opens.
"""

from __future__ import annotations

import base64
import secrets
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.clock import CampaignTime
from shared.errors import BadToken, LinkExpired

type Purpose = Literal["done", "unsubscribe"]

_KEY_BYTES = 32
_PERSON_BYTES = 16
# Random 96-bit nonces are safe for 2³² seals under one key (NIST SP 800-38D, 8.3): a campaign of
# 300,000 people makes some four million.
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEAD = struct.Struct(f">I{_PERSON_BYTES}s")
_MAX_TOKEN = 512

_HOW_TO_MAKE_A_KEY = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


class Sealed(msgspec.Struct, frozen=True):
    """What a link says. `person` is the 16 bytes of an object id."""

    campaign: str
    person: bytes
    expires: CampaignTime


def seal(
    keys: Sequence[str], purpose: Purpose, campaign: str, person: bytes, expires: CampaignTime
) -> str:
    """The token of a link, safe in a URL.

    Args:
        keys: LINK_KEYS, newest first; the first one seals.
        person: the 16 bytes of an object id.
        expires: the link is dead from this instant on; whole seconds, cut off.
    """
    head = _HEAD.pack(int(expires.timestamp()), _checked_person(person))
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = _cipher(keys[0]).encrypt(nonce, head + campaign.encode(), _bound_to(purpose))
    return _encode(nonce + sealed)


def unseal(keys: Sequence[str], purpose: Purpose, token: str, now: CampaignTime) -> Sealed:
    """What a token says.

    Raises:
        LinkExpired: its time is over.
        BadToken: `seal` has not made it for this purpose with one of these keys.
    """
    raw = _decode(token)
    nonce, sealed = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
    for key in keys:
        try:
            opened = _cipher(key).decrypt(nonce, sealed, _bound_to(purpose))
        except InvalidTag:
            continue
        seconds, person = _HEAD.unpack_from(opened)
        expires = CampaignTime(datetime.fromtimestamp(seconds, UTC))
        if now >= expires:
            raise LinkExpired("the time of this link is over")
        return Sealed(opened[_HEAD.size :].decode(), person, expires)
    raise BadToken("this link was not made here, was altered, or is meant for something else")


def check_keys(keys: Sequence[str]) -> list[str]:
    """What is wrong with LINK_KEYS, and how to make a key; empty where nothing is. Repeats no
    part of a key."""
    if not keys:
        return [f"LINK_KEYS names no key. Make one with: {_HOW_TO_MAKE_A_KEY}"]
    problems: list[str] = []
    for number, key in enumerate(keys, start=1):
        try:
            _key_bytes(key)
        except ValueError as error:
            problems.append(
                f"LINK_KEYS, key {number} of {len(keys)} {error}. "
                f"Make one with: {_HOW_TO_MAKE_A_KEY}"
            )
    return problems


def _bound_to(purpose: Purpose) -> bytes:
    return b"mfa-nudge link, " + purpose.encode()


@lru_cache(maxsize=16)
def _cipher(key: str) -> AESGCM:
    return AESGCM(_key_bytes(key))


def _key_bytes(key: str) -> bytes:
    """The bytes of a key of LINK_KEYS; raises ValueError, with words that follow "key 1 of 2"."""
    try:
        decoded = base64.b64decode(key + "=" * (-len(key) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise ValueError("is not base64url") from None
    if len(decoded) != _KEY_BYTES:
        raise ValueError(f"holds {len(decoded)} bytes instead of {_KEY_BYTES}")
    return decoded


def _checked_person(person: bytes) -> bytes:
    if len(person) != _PERSON_BYTES:
        raise ValueError(f"an object id has {_PERSON_BYTES} bytes, not {len(person)}")
    return person


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(token: str) -> bytes:
    if len(token) > _MAX_TOKEN:
        raise BadToken("this link is longer than any that is made here")
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        raw = b""
    # The decoder passes over foreign characters and spare bits: without this comparison one link
    # could be written in many ways.
    if len(raw) < _NONCE_BYTES + _HEAD.size + _TAG_BYTES or _encode(raw) != token:
        raise BadToken("this link is incomplete or was altered")
    return raw
