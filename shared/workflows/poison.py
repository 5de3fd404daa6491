"""Messages that cannot be worked on: they go to poison, and a person is told why."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from shared.clock import StorageTime
from shared.errors import NotOurs
from shared.stores.queues import decode_message
from shared.workflows.alarms import raise_alarm

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.stores import Stores
    from shared.stores.poison import About, DeadMessage

POISON_LIFE = timedelta(days=90)
"""How long is known what died."""

_ABOUT = ("campaign", "channel", "shard", "key", "touch", "sweep", "version", "source", "run")
"""Fields of our messages that say what one was about; none of them names anybody."""


class Died(msgspec.Struct, frozen=True, kw_only=True):
    """What `nudge poison` tells.

    Attributes:
        messages: those that died, the newest first.
        lying: messages that lie on poison queues at this moment, by queue.
    """

    messages: list[DeadMessage]
    lying: dict[str, int]


class PoisonWorkflow:
    """Takes queue messages apart, and tells of those that died."""

    def __init__(self, stores: Stores, clock: Clock) -> None:
        self._stores = stores
        self._clock = clock

    async def take[M](self, queue: str, body: bytes, kind: type[M]) -> M | None:
        """A message as one of ours. One that is not goes to poison at once: to try it five times
        would tell nobody anything new."""
        try:
            return decode_message(body, kind)
        except NotOurs:
            await self._stores.queues.put_poison(queue, body)
            return None

    async def note[M](self, queue: str, message_id: str, body: bytes, kind: type[M]) -> M | None:
        """Remember a dead message and raise the alarm for it. Returns it where it is one of ours.

        Args:
            message_id: of the message on the poison queue, so that a second delivery of it is no
                second death.
        """
        message, reason = None, "it failed at every try"
        about: About = {}
        try:
            message = decode_message(body, kind)
            about = {name: getattr(message, name) for name in _ABOUT if hasattr(message, name)}
        except NotOurs as error:
            reason = str(error)
        raise_alarm("poison", queue=queue, reason=reason, **about)
        await self._stores.poison.write(message_id, queue, reason, about)
        return message

    async def collect(self) -> Died:
        """What died, as far as is remembered, and what lies on poison queues."""
        since = StorageTime(self._clock.storage_now() - POISON_LIFE)
        return Died(
            messages=await self._stores.poison.read_since(since),
            lying=await self._stores.poison.count_lying(),
        )
