"""When a timer of the Functions host ticks: NCRONTAB, as Azure reads it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from cronsim import CronSim, CronSimError

from shared.errors import SetupFault


class Schedule:
    """A six-field NCRONTAB expression (seconds first), in UTC. Raises SetupFault.

    What NCRONTAB and the library behind this class read differently is refused.
    """

    def __init__(self, expression: str) -> None:
        fields = expression.upper().split()
        # The library knows L, LW and #, and 7 for Sunday; NCRONTAB has none of them.
        known = all(re.fullmatch(r"(JUL|[\d*,/\-A-KM-Z])+", field) for field in fields)
        if len(fields) != 6 or not known or "7" in fields[5]:
            raise SetupFault(
                f"{expression!r} is not a six-field NCRONTAB schedule.",
                "Write {second} {minute} {hour} {day} {month} {day of week}.",
            )
        if fields[3] != "*" and fields[5] != "*":
            raise SetupFault(
                f"The schedule {expression!r} limits both day and day of week.",
                "Limit one of the two: this host would take either for a match, Azure wants both.",
            )
        self._expression = expression
        try:
            self.next_after(datetime.fromisoformat("2000-01-01T00:00:00Z"))
        except (CronSimError, StopIteration) as error:
            raise SetupFault(
                f"The schedule {expression!r} has no tick ({error}).", "Correct that field."
            ) from error

    def next_after(self, moment: datetime) -> datetime:
        """The first tick later than `moment`."""
        return next(CronSim(self._expression, moment))

    def ticks_often(self, now: datetime) -> bool:
        """Whether ticks follow each other within less than a minute."""
        first = self.next_after(now)
        return self.next_after(first) - first < timedelta(minutes=1)
