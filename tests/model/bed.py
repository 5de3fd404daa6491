"""Where the worlds of the examples stand: one event loop, and a storage account for each."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Self

from local.azurite import running_azurite

ACCOUNTS = 1000
"""Of one Azurite: their keys are all in one environment variable."""


class Bed:
    """A context that runs coroutines of synchronous callers, one after the other. Between two of
    them nothing moves.

    Attributes:
        examples, steps: how many there were until a promise was broken.
        broken: the first promise that was, "" as long as all hold.
    """

    def __enter__(self) -> Self:
        self.examples = self.steps = 0
        self.broken = ""
        self._loop = asyncio.new_event_loop()
        self._storage = AsyncExitStack()
        self._accounts: list[str] = []
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._storage.aclose())
        self.run(self._loop.shutdown_asyncgens())
        self._loop.close()

    def run[Value](self, work: Coroutine[Any, Any, Value]) -> Value:
        return self._loop.run_until_complete(work)

    async def next_account(self) -> str:
        """The connection string of an account that is still empty."""
        if not self._accounts:
            await self._storage.aclose()
            azurite = await self._storage.enter_async_context(running_azurite(accounts=ACCOUNTS))
            self._accounts = list(azurite.connection_strings)
        return self._accounts.pop()

    def note_broken(self, error: BaseException, steps: int) -> None:
        """Take note of the first promise that was broken, and of the steps that it took."""
        if not self.broken:
            self.broken = str(error) or type(error).__name__
            self.steps = steps

    def note_example(self, steps: int) -> None:
        """Take note of an example in which all went well."""
        if not self.broken:
            self.steps += steps
