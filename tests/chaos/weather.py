"""What goes wrong at the provider while a wave goes out: drawn from a seed, and counted.

A spell of weather decides over the next calls one by one, and over how the provider tells of those
that it takes. It changes while no host is there to call, so that each fault is counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import Final

import msgspec

from local.inbox import Fault, Faults, MailFates
from tests.chaos.scene import Scene

_CALLS: Final = 500
"""Calls that a spell decides over: more than a host can make before it is killed."""

# By weight. A call gives up after `call` seconds, and most of those here take a while: a host that
# is killed leaves some under way.
_WEIGHTS: Final[Mapping[str, int]] = {
    "well": 20,
    "slow": 50,
    "429": 3,
    "500 before acceptance": 5,
    "500 after acceptance": 5,
    "reset after acceptance": 5,
    "hang before acceptance": 2,
    "hang after acceptance": 3,
}
_TAKEN: Final = frozenset({"well", "slow"})

FATES: Final = MailFates(
    bounced=0.01, bounced_later=0.005, blocked=0.01, dropped=0.01, deferred=0.05, unsubscribed=0.005
)
"""What becomes of accepted mails, by their address: always the same."""

_TELLING: Final[Mapping[str, Callable[[float], MailFates]]] = {
    "promptly": lambda _: FATES,
    "late": lambda _: msgspec.structs.replace(FATES, late=4),
    "too late to save a call from being made again": lambda settle_after: msgspec.structs.replace(
        FATES, late=1.3 * settle_after
    ),
    "twice": lambda _: msgspec.structs.replace(FATES, twice=True),
    "out of order": lambda _: msgspec.structs.replace(FATES, backwards=True),
    "late, twice and out of order": lambda _: msgspec.structs.replace(
        FATES, late=2, twice=True, backwards=True
    ),
}


class Weather:
    """The weather over a scene.

    Args:
        call: seconds after which the product gives up a call.
        settle_after: seconds after which it may make one again that it knows nothing of; None where
            that is never waited for.

    Attributes:
        met: calls that were made, by what they met.
        spells: how often the provider told in which way.
    """

    def __init__(
        self, scene: Scene, random: Random, *, call: float, settle_after: float | None
    ) -> None:
        self._scene = scene
        self._random = random
        self._call = call
        self._settle_after = settle_after
        self._drawn: list[str] = []
        self.met: Counter[str] = Counter()
        self.spells: Counter[str] = Counter()

    async def change(self) -> None:
        """Another spell. No call may come meanwhile."""
        await self.count()
        names, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        self._drawn = self._random.choices(names, weights, k=_CALLS)
        ways = [way for way in _TELLING if self._settle_after or not way.startswith("too late")]
        way = self._random.choice(ways)
        self.spells[way] += 1
        await self._scene.set_faults(
            Faults(
                calls=list(map(self._fault, self._drawn)),
                receipts=_TELLING[way](self._settle_after or 0),
            )
        )

    async def clear(self) -> None:
        """All calls go well from now on, and are told of promptly."""
        await self.count()
        self._drawn = []
        await self._scene.set_faults(Faults(receipts=FATES))

    async def count(self) -> None:
        """Count the calls since the last time."""
        left = len((await self._scene.faults()).calls)
        passed = len(self._drawn) - left
        self.met.update(self._drawn[:passed])
        self._drawn = self._drawn[passed:]

    def _fault(self, name: str) -> Fault:
        hang = 1.5 * self._call
        match name:
            case "well":
                return Fault()
            case "slow":
                return Fault(slow=self._call * self._random.uniform(0.2, 0.6))
            case "429":
                return Fault(status=429, headers={"Retry-After": "1"})
            case "500 before acceptance":
                return Fault(status=500)
            case "500 after acceptance":
                return Fault(accept=True, status=500)
            case "reset after acceptance":
                return Fault(accept=True, reset=True)
            case "hang before acceptance":
                return Fault(hang=hang)
            case "hang after acceptance":
                return Fault(accept=True, hang=hang)
            case _:
                raise LookupError(name)


def was_refused(name: str) -> bool:
    """Whether a call that met this was not taken by the provider."""
    return name not in _TAKEN and "after acceptance" not in name
