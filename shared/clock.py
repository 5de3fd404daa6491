"""The two clocks and the ages measured with them. The only file that reads a clock.

Campaign time decides when alumni are written to, and which words they get; the local system may
pretend it. Storage time is the time of the storage service, the one clock that all instances share;
it decides how long something has been at rest. They are different types, so that a type checker
refuses one of them where the other is asked for.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NewType, Protocol

import msgspec

from shared.errors import SetupFault

CampaignTime = NewType("CampaignTime", datetime)
"""An aware datetime in UTC, possibly pretended."""

StorageTime = NewType("StorageTime", datetime)
"""An aware datetime in UTC, as the storage service tells it."""


DATE_PRECISION = 1.0
"""Seconds by which storage time may be off: the service's `Date` has whole seconds."""


class Ages(msgspec.Struct, frozen=True, kw_only=True):
    """How long things may rest, in seconds of storage time (of monotonic time for the last five).

    One record, so that the local system can shorten all of them together (`AGES_SCALE`).
    """

    fence_at_rest: float = 300  # a planner writes its fence at least once a minute
    fence_refresh: float = 60
    plan_late: float = 1800  # not done so long after commit: alarm
    pass_at_rest: float = 900  # a pass that has not moved gets its message again
    sweep_limit: float = 20 * 3600  # a sweep that cannot finish is abandoned
    handed_out: float = 900  # a released row is not handed out again before
    message_life: float = 840  # of a message of a sending queue: less than `handed_out`
    claim_abandoned: float = 900  # a claim so old belongs to a dead process
    settle_after: float = 2 * 3600  # a call without a clear answer, a canary without receipts
    settle_final: float = 24 * 3600  # an ambiguous call that nothing has decided is final
    provider_pause: float = 60  # a provider that refused, and named no time of its own
    setup_probe: float = 900  # one parcel is let through a set-up fault every so often
    changes_before: float = 600  # people's changes are read from so long before `planned_from`
    config_cache: float = 10  # control rows, `config/stop`
    changes_cache: float = 15  # people's changes are read again when they are so old
    changes_known: float = 30  # what was changed so long before a claim is heeded by it
    start: float = 30  # from claim to first byte
    call: float = 60  # from first byte to answer

    def scaled(self, factor: float) -> Ages:
        """The same record, every age times `factor`. Raises ValueError as `check` does."""
        scaled = Ages(**{name: getattr(self, name) * factor for name in self.__struct_fields__})
        scaled.check()
        return scaled

    def check(self) -> None:
        """Raises ValueError where a claim could count as abandoned while its call is under way."""
        if self.claim_abandoned < 3 * (self.start + self.call) + DATE_PRECISION:
            raise ValueError("a claim's age must be more than three times start + call")


class Clock(Protocol):
    """What the product asks of time."""

    ages: Ages

    def campaign_now(self) -> CampaignTime: ...

    def storage_now(self) -> StorageTime: ...

    def observe_storage(self, date: datetime) -> None: ...


class SystemClock:
    """Real time. Storage time is the machine's own UTC until the service's `Date` contradicts it;
    from then on it is what the service said, carried on by the monotonic clock."""

    def __init__(self, ages: Ages | None = None) -> None:
        self.ages = ages or Ages()
        self.ages.check()
        self._offset = time.time() - time.monotonic()

    def campaign_now(self) -> CampaignTime:
        return CampaignTime(datetime.now(UTC))

    def storage_now(self) -> StorageTime:
        return StorageTime(datetime.fromtimestamp(self._offset + time.monotonic(), UTC))

    def observe_storage(self, date: datetime) -> None:
        """Take note of the service's `Date` header.

        It has whole seconds, cut off: a time within that second is not contradicted. To fall back
        to its start at each answer would make time go back, and give several processes the same
        microsecond.
        """
        late = date.timestamp() - (self._offset + time.monotonic())
        if late > 0:
            self._offset += late
        elif late < -DATE_PRECISION:
            self._offset += late + DATE_PRECISION


class PretendedClock(SystemClock):
    """Campaign time from a file: `{"campaign_time": ISO, "set_at": ISO}`. From the pretended
    instant it runs on at real speed. The file is read again when it changes. Local only."""

    def __init__(self, file: Path, ages: Ages | None = None) -> None:
        super().__init__(ages)
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._shift = timedelta(0)

    def campaign_now(self) -> CampaignTime:
        seen = _last_change(self._file)
        if seen is None or seen != self._seen:
            self._shift = read_shift(self._file)
            self._seen = seen
        return CampaignTime(datetime.now(UTC) + self._shift)


def _last_change(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def read_shift(file: Path) -> timedelta:
    """How far the file's pretended time is from real time. Raises SetupFault."""
    try:
        content = json.loads(file.read_text())
        pretended, real = (datetime.fromisoformat(content[n]) for n in ("campaign_time", "set_at"))
        if pretended.tzinfo is None or real.tzinfo is None:
            raise ValueError("without an offset")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SetupFault(
            "The clock file cannot be read.",
            'It must hold {"campaign_time": …, "set_at": …}, two ISO instants with their offset.',
        ) from error
    return pretended - real


def write_clock_file(file: Path, campaign_time: datetime) -> None:
    """Pretend that it is `campaign_time` now (an aware datetime). Replaces the file in one step,
    so that no reader ever meets half of it."""
    content = {
        "campaign_time": campaign_time.astimezone(UTC).isoformat(),
        "set_at": datetime.now(UTC).isoformat(),
    }
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(content))
    fresh.replace(file)


def monotonic() -> float:
    """Seconds of a clock that never jumps; for durations within one process."""
    return time.monotonic()
