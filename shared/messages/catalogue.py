"""Which messages and pages exist, and what each of them says on which side of the deadline.

A message is an opening and a guide, and so is the guide's own page; an SMS is an opening alone.
The guide depends on the deadline alone (invariant 10): before it alumni get the steps to register,
after it the general procedure, whatever the touch is called.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from shared.errors import SetupFault
from shared.rules.campaign import MessageName

MESSAGES: tuple[str, ...] = get_args(MessageName.__value__)
"""What a campaign file may give as `message`."""


type PageName = Literal[
    "done_ask",
    "done_confirmed",
    "done_noted",
    "done_not_seen",
    "done_not_registered",
    "unsubscribe_ask",
    "unsubscribe_done",
    "not_recorded",
    "link_bad",
    "link_expired",
    "no_guide",
    "unavailable",
]
PAGES: tuple[PageName, ...] = get_args(PageName.__value__)

WITH_KEY_FACTS: frozenset[PageName] = frozenset(
    {"unsubscribe_ask", "unsubscribe_done", "link_bad", "link_expired"}
)
"""Pages that say in short by when and where to register."""

WITH_NEXT_STEPS: frozenset[PageName] = frozenset({"done_not_seen", "done_not_registered"})
"""Pages that go on with what there is to do."""


class Guide(msgspec.Struct, frozen=True):
    """The instructions: their name and their sections in the order of reading.

    `next_steps` are the sections that say what to do, for who has begun already.
    """

    name: Literal["registration", "general"]
    sections: tuple[str, ...]
    next_steps: tuple[str, ...]


REGISTRATION = Guide(
    "registration",
    sections=("genuine", "register", "app", "obstacles", "later", "afterwards"),
    next_steps=("register", "obstacles"),
)
GENERAL = Guide(
    "general",
    sections=("procedure", "genuine", "locked_out", "afterwards"),
    next_steps=("procedure", "locked_out"),
)


def choose_guide(*, after_deadline: bool) -> Guide:
    """The one switch between the two guides."""
    return GENERAL if after_deadline else REGISTRATION


def choose_opening(message: str, *, after_deadline: bool) -> str:
    """Whose opening and subject `message` gets: they may not contradict the guide.

    A message that leaves late speaks as `after`; an `after` that leaves while there is still time
    (its day is the deadline's, or the deadline was moved) speaks as a reminder.

    Raises SetupFault where there is no such message.
    """
    if message not in MESSAGES:
        raise SetupFault(
            "The cadence names a message that does not exist.",
            f"use one of {', '.join(MESSAGES)}.",
        )
    if after_deadline:
        return "after"
    return "reminder" if message == "after" else message
