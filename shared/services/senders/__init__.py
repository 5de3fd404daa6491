"""What a sender is: the one call that carries a parcel, and what its answer proves.

A provider's answer is read into one of three outcomes. Accepted and refused are proofs; everything
that proves neither is ambiguous, since there is no asking a provider again without the risk that
people get the message twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from shared.errors import NudgeError
from shared.rules.contact import Recipient

__all__ = [
    "Accepted",
    "Ambiguous",
    "Envelope",
    "Identity",
    "Letter",
    "Outcome",
    "Prepared",
    "Recipient",
    "Refused",
    "RefusedReason",
    "Sender",
    "Unsendable",
]


class Letter(Protocol):
    """What is said, with tags where personal values go; `shared.messages` makes them."""

    @property
    def subject(self) -> str: ...

    @property
    def html(self) -> str: ...

    @property
    def text(self) -> str: ...


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a message comes from, where the channel shows that."""

    name: str
    email: str
    reply_to: str


class Envelope(msgspec.Struct, frozen=True):
    """One addressed person of a parcel.

    Attributes:
        index: the person's place in the ledger row, which receipts name.
        address: an email address, or a number in the form of E.164.
        substitutions: the value of each of the letter's tags.
    """

    index: int
    address: str
    name: str
    substitutions: dict[str, str]
    unsubscribe_url: str


class Prepared(msgspec.Struct, frozen=True):
    """A call that is ready to leave: its body, and how many people it carries."""

    body: bytes
    count: int


class RefusedReason(StrEnum):
    """Why nobody of the parcel was sent anything."""

    NOT_STARTED = "not_started"
    """`may_start` said no: the call was not made."""
    UNREACHABLE = "unreachable"
    """No connection: the provider has seen nothing of it."""
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    """The provider itself said that it can't take it now."""
    SETUP = "setup"
    """Our key, sender or message is at fault: a person must see to it."""
    RECIPIENTS = "recipients"
    """Because of some of the recipients, which `indices` names: they can't be reached there."""
    OPTED_OUT = "opted_out"
    """Because the recipients that `indices` names told the provider that they want no more."""
    UNATTRIBUTABLE = "unattributable"
    """Something in it is at fault, and the provider doesn't say what."""
    TOO_LARGE = "too_large"


class Accepted(msgspec.Struct, frozen=True):
    """The provider has taken the whole parcel; its id of the message, if it gave one."""

    message_id: str


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """It is proven that nobody of the parcel gets anything from this call.

    Attributes:
        detail: for logs and administrators; holds no address and no number.
        retry_after: seconds that the provider asked us to wait, or None where it didn't say.
        indices: for `RECIPIENTS` and `OPTED_OUT`, positions in the envelopes that `prepare` was
            given.
    """

    reason: RefusedReason
    detail: str
    retry_after: float | None = None
    indices: tuple[int, ...] = ()


class Ambiguous(msgspec.Struct, frozen=True):
    """Nothing is proven: the parcel may have been accepted. `detail` as for Refused."""

    detail: str


type Outcome = Accepted | Refused | Ambiguous


class Unsendable(NudgeError):
    """A parcel that breaks a limit of the provider: it would be refused as a whole."""


class Sender(Protocol):
    """One provider of one channel."""

    @property
    def channel(self) -> str:
        """The channel's name, as a campaign's cadence has it."""
        ...

    @property
    def max_recipients(self) -> int:
        """How many people one call carries at most."""
        ...

    def prepare(
        self,
        letter: Letter,
        envelopes: Sequence[Envelope],
        *,
        sender: Identity,
        parcel: str,
        attempt: str,
        categories: Sequence[str],
    ) -> Prepared:
        """The call for these people, before anything is claimed. Raises Unsendable.

        Args:
            parcel, attempt: ids that receipts bring back; they name nobody.
            categories: labels for the provider's own statistics.
        """
        ...

    async def send(self, prepared: Prepared, may_start: Callable[[], bool]) -> Outcome:
        """Make the call, once. `may_start` is asked right before its first byte leaves. All that
        can go wrong on the way is an outcome, not an exception."""
        ...
