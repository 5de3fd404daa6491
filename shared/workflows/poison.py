"""Messages that cannot be worked on: they go to poison, and a person is told why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.errors import NotOurs
from shared.stores.queues import decode_message
from shared.workflows.alarms import raise_alarm

if TYPE_CHECKING:
    from shared.stores import Stores


class PoisonWorkflow:
    """Takes queue messages apart, and tells of those that died."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def take[M](self, queue: str, body: bytes, kind: type[M]) -> M | None:
        """A message as one of ours. One that is not goes to poison at once: to try it five times
        would tell nobody anything new."""
        try:
            return decode_message(body, kind)
        except NotOurs:
            await self._stores.queues.put_poison(queue, body)
            return None

    def note[M](self, queue: str, body: bytes, kind: type[M]) -> M | None:
        """Raise the alarm for a dead message. Returns it where it is one of ours."""
        try:
            message = decode_message(body, kind)
        except NotOurs as error:
            raise_alarm("poison", queue=queue, reason=str(error))
            return None
        raise_alarm("poison", queue=queue, reason="it failed at every try")
        return message
