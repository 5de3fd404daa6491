"""How a provider tells of its messages: POSTs to a webhook, tried again where they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import aiohttp
import msgspec

from shared.clock import monotonic

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two tries: doubled from the one to the other."""

_SIDE_BY_SIDE: Final = 4
_PATIENCE: Final = aiohttp.ClientTimeout(total=15)


class Retries(msgspec.Struct, frozen=True):
    """What a provider tries again, and for how long, in seconds.

    Attributes:
        refused: also what was answered with anything but 2xx, and not only what met nobody.
    """

    seconds: float
    refused: bool


class Told(msgspec.Struct):
    """What became of a webhook's requests.

    Attributes:
        waiting: what there is to tell, and was not taken yet.
        taken: what was answered with 2xx.
        lost: what was given up.
        answers: how many requests met which status; "none" where nobody answered.
    """

    waiting: int = 0
    taken: int = 0
    lost: int = 0
    answers: dict[str, int] = {}


class Postman:
    """Carries requests to webhooks, some of them side by side, for as long as it is open."""

    def __init__(self, retries: Retries) -> None:
        self.told = Told()
        self._retries = retries
        self._slots = asyncio.Semaphore(_SIDE_BY_SIDE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._http: aiohttp.ClientSession | None = None

    def begin(self, errand: Coroutine[Any, Any, None]) -> None:
        """Do something beside all else, until it is done or the postman goes."""
        task = asyncio.create_task(errand)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def post(
        self, url: str, make: Callable[[], tuple[bytes, Mapping[str, str]]], *, count: int
    ) -> None:
        """Post what `make` makes anew for each try, body and headers: `count` things to tell."""
        began, pause = monotonic(), FIRST_PAUSE
        while True:
            async with self._slots:
                answer = await self._try(url, *make())
            self.told.answers[answer] = self.told.answers.get(answer, 0) + 1
            if answer.startswith("2"):
                break
            over = monotonic() - began + pause > self._retries.seconds
            if over or not (self._retries.refused or answer == "none"):
                self.told.lost += count
                self.told.waiting -= count
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self.told.taken += count
        self.told.waiting -= count

    async def _try(self, url: str, body: bytes, headers: Mapping[str, str]) -> str:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=_PATIENCE)
        try:
            async with self._http.post(url, data=body, headers=headers) as answer:
                await answer.read()
                return str(answer.status)
        except (aiohttp.ClientError, TimeoutError):
            return "none"

    async def close(self) -> None:
        """Drop what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http:
            await self._http.close()
