"""Which messages exist, and what each of them says on which side of the deadline.

A message is an opening and a guide. The guide depends on the deadline alone (invariant 10): before
it alumni get the steps to register, after it the general procedure, whatever the touch is called.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from shared.rules.campaign import MessageName

MESSAGES: tuple[str, ...] = get_args(MessageName.__value__)
"""What a campaign file may give as `message`."""


class Guide(msgspec.Struct, frozen=True):
    """The body of a letter: its name and its sections in the order of reading."""

    name: Literal["registration", "general"]
    sections: tuple[str, ...]


REGISTRATION = Guide(
    "registration", ("genuine", "register", "app", "obstacles", "later", "afterwards")
)
GENERAL = Guide("general", ("procedure", "genuine", "locked_out", "afterwards"))


def choose_guide(*, after_deadline: bool) -> Guide:
    """The one switch between the two guides."""
    return GENERAL if after_deadline else REGISTRATION


def choose_opening(message: str, *, after_deadline: bool) -> str:
    """Whose opening and subject `message` gets: they may not contradict the guide.

    A message that leaves late speaks as `after`; an `after` that leaves while there is still time
    (its day is the deadline's, or the deadline was moved) speaks as a reminder.
    """
    if after_deadline:
        return "after"
    return "reminder" if message == "after" else message
