"""What becomes of messages that were accepted, and how the provider tells of it.

A share is one of all addresses or numbers: a hash decides whom it takes in, so that the same person
always fares alike, in every run, and a larger share takes in those of a smaller one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Literal

import msgspec

type MailFate = Literal[
    "delivered",
    "deferred",  # first, then delivered
    "bounced",
    "bounced_later",  # after it counted as delivered
    "blocked",
    "dropped",
    "reported",  # delivered, and reported as spam
    "unsubscribed",  # delivered, and unsubscribed at the provider
]


class MailFates(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """The section `receipts` of `POST /faults`.

    Attributes:
        bounced … unsubscribed: the share of all addresses that fares so; the rest is delivered.
        named: addresses, in lower case, whose fate is set, whatever the shares say.
        dropped_because: the provider's reason.
        late: seconds of real time after which it begins to tell.
        twice: tells everything once more, under other event ids.
        backwards: tells the last things first.
        silent: tells nothing at all.
        unsigned: leaves out the signature.
        clock_ahead: seconds by which the time that is signed is ahead; below 0 it is stale.
    """

    bounced: float = 0
    bounced_later: float = 0
    blocked: float = 0
    dropped: float = 0
    deferred: float = 0
    reported: float = 0
    unsubscribed: float = 0
    named: dict[str, MailFate] = {}
    dropped_because: str = "Bounced Address"
    late: float = 0
    twice: bool = False
    backwards: bool = False
    silent: bool = False
    unsigned: bool = False
    clock_ahead: float = 0

    def __post_init__(self) -> None:
        check_shares(share for _, share in self._shares())

    def _shares(self) -> Iterator[tuple[MailFate, float]]:
        yield "bounced", self.bounced
        yield "bounced_later", self.bounced_later
        yield "blocked", self.blocked
        yield "dropped", self.dropped
        yield "deferred", self.deferred
        yield "reported", self.reported
        yield "unsubscribed", self.unsubscribed

    def of(self, address: str) -> MailFate:
        """How a mail to this address fares."""
        folded = address.casefold()
        return self.named.get(folded) or choose(folded, self._shares()) or "delivered"

    def list_fates(self, addresses: Iterable[str]) -> dict[int, MailFate]:
        """How mails to these addresses fare, by their place; without those that are simply
        delivered."""
        fates: dict[int, MailFate] = {}
        if not (self.named or any(share for _, share in self._shares())):
            return fates  # most runs: nothing is worked out for hundreds of thousands of people
        for place, address in enumerate(addresses):
            if (fate := self.of(address)) != "delivered":
                fates[place] = fate
        return fates


class TextFates(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """The section `texts.receipts` of `POST /faults`.

    Attributes:
        undelivered, failed: by Twilio's error code, the share of all numbers whose texts end so;
            the rest is delivered.
        named: numbers whose texts end undelivered, each with the error code.
        late, twice, silent, unsigned: as for mails.
    """

    undelivered: dict[int, float] = {}
    failed: dict[int, float] = {}
    named: dict[str, int] = {}
    late: float = 0
    twice: bool = False
    silent: bool = False
    unsigned: bool = False

    def __post_init__(self) -> None:
        check_shares(share for _, share in self._shares())

    def _shares(self) -> Iterator[tuple[TextFate, float]]:
        for code, share in self.undelivered.items():
            yield TextFate("undelivered", code), share
        for code, share in self.failed.items():
            yield TextFate("failed", code), share

    def of(self, number: str) -> TextFate:
        """How a text to this number fares."""
        if code := self.named.get(number):
            return TextFate("undelivered", code)
        return choose(number, self._shares()) or DELIVERED


class TextFate(msgspec.Struct, frozen=True):
    """How a text ends: its last status, with an error code where that is not `delivered`."""

    status: Literal["delivered", "undelivered", "failed"]
    code: int | None = None


DELIVERED = TextFate("delivered")


def choose[Fate](
    address: str, shares: Iterable[tuple[Fate, float]], *, of: bytes = b""
) -> Fate | None:
    """The share that takes in an address; None for none of them.

    Args:
        of: what they are shares of. Those of different things take in people of their own.
    """
    taken = [(fate, share) for fate, share in shares if share]
    if not taken:
        return None
    digest = blake2b(address.encode(), digest_size=8, person=of).digest()
    place = int.from_bytes(digest) / 2**64  # where the address stands among all, from 0 to 1
    for fate, share in taken:
        place -= share
        if place < 0:
            return fate
    return None


def check_shares(shares: Iterable[float]) -> None:
    """Raises ValueError where these cannot be shares of one whole."""
    shares = list(shares)
    if min(shares, default=0) < 0 or sum(shares) > 1:
        raise ValueError("shares are parts of 1, and not more than 1 in all")
