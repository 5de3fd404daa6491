"""Moving the pretended clock, one move at a time, and what came of it, in sentences."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from local.show import describe
from local.watch import Progress, Watcher
from shared.clock import CampaignTime
from shared.rules.calendar import DAY
from shared.workflows.status_words import count_things, format_moment

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from local.system import LocalSystem
    from shared.rules.cadence import PlannedTouch, Schedule
    from shared.rules.parcels import Channel
    from shared.workflows.campaigns import Standing
    from shared.workflows.status import CampaignStatus, Status, TouchStatus

log = logging.getLogger("local.moves")

AFTER_OPENING = timedelta(minutes=1)

_MESSAGES = {"email": "mail", "sms": "text"}

_NOT_SENT = {
    "left out": "left out",
    "refused": "at an address that does not work",
    "rejected": "refused by the provider",
    "ambiguous": "without a clear answer",
}
"""What may become of people whose parcel was handed out, beside being written to."""


def next_day(now: CampaignTime, zone: ZoneInfo) -> CampaignTime:
    """The same hour of the day after, as clocks in the zone show it."""
    return CampaignTime((now.astimezone(zone) + DAY).astimezone(now.tzinfo))


def next_touch(schedule: Schedule, now: CampaignTime) -> PlannedTouch | None:
    """The first touch that has not opened yet."""
    return next((step for step in schedule.steps if step.opening > now), None)


class Came(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a move: `fault` is why it stopped before all was done."""

    name: str
    to: CampaignTime
    sentences: tuple[str, ...]
    fault: str | None


class Mover:
    """Moves the clock, and waits until nothing more is due at the new time."""

    def __init__(self, system: LocalSystem) -> None:
        self._system = system
        self._task: asyncio.Task[Came] | None = None
        self._progress = Progress()
        self._came: Came | None = None

    @property
    def under_way(self) -> str | None:
        """How far the move is that is under way; None where none is."""
        return describe(self._progress) if self._task else None

    @property
    def came(self) -> Came | None:
        """What came of the last move that has ended."""
        return self._came

    async def move(self, name: str, standing: Standing, to: CampaignTime, patience: float) -> bool:
        """Move the clock to `to`, and wait for what comes of it, `patience` seconds at most: then
        it goes on by itself. False where another move is under way, and nothing was done.

        Args:
            name: of the move, such as "Next day".
            standing: the campaign whose mails count.
        """
        if self._task:
            return False
        self._progress = Progress()
        self._task = asyncio.create_task(self._run(name, standing, to))
        self._task.add_done_callback(self._end)
        await asyncio.wait({self._task}, timeout=patience)
        return True

    async def close(self) -> None:
        """Give up the move that is under way."""
        if task := self._task:
            task.cancel()
            await asyncio.wait({task})

    def _end(self, task: asyncio.Task[Came]) -> None:
        self._task = None
        if not task.cancelled():
            self._came = task.result()

    def _show(self, progress: Progress) -> None:
        self._progress = progress

    async def _run(self, name: str, standing: Standing, to: CampaignTime) -> Came:
        sentences: list[str] = []
        try:
            sentences, fault = await self._follow(standing, to)
        except Exception as error:  # of any kind: whoever pressed may not wait for it any more
            log.exception("the move of the clock failed")
            fault = f"{type(error).__name__}: {error}"
        return Came(name=name, to=to, sentences=tuple(sentences), fault=fault)

    async def _follow(self, standing: Standing, to: CampaignTime) -> tuple[list[str], str | None]:
        """Move the clock; what came of it, and why it stopped before all was done."""
        app = self._system.app
        before = await app.status.collect()
        head = await app.stores.sweeps.read_head()
        sweeps = self._system.move_clock(to)
        # The host's timer opens the next sweep, or the watcher does where one was open still.
        to_come = sweeps and app.sweeps.is_active(standing)
        watcher = Watcher(self._system, standing.campaign, head.number + to_come)
        timer = None if sweeps else "release_due"
        fault = await watcher.until_settled(self._show, timer=timer)
        after = await app.status.collect()
        return tell(before, after, standing, app.clock.campaign_now()), fault


def tell(before: Status, after: Status, standing: Standing, now: CampaignTime) -> list[str]:
    """What happened to a campaign between two looks at the status."""
    was, found = _find(before, standing.name), _find(after, standing.name)
    if found is None:
        return []
    sentences: list[str] = []
    if after.committed and after.committed != before.committed:
        sentences.append(_tell_sweep(after.committed.number, was, found))
    sent = [
        sentence
        for touch in found.touches
        if (sentence := _tell_touch(touch, _people_of(was, touch.touch, touch.channel)))
    ]
    return [*sentences, *(sent or _tell_why_nothing(found, standing, now))]


def _find(status: Status, campaign: str) -> CampaignStatus | None:
    return next((one for one in status.campaigns if one.campaign == campaign), None)


def _people_of(status: CampaignStatus | None, touch: str, channel: Channel) -> dict[str, int]:
    touches = status.touches if status else []
    parts = (one.people for one in touches if (one.touch, one.channel) == (touch, channel))
    return next(parts, {})


def _tell_sweep(number: int, was: CampaignStatus | None, found: CampaignStatus) -> str:
    counts = found.counts
    if counts is None:
        return f"Sweep {number} was read; planning is not done."
    sentence = (
        f"Sweep {number} found {counts.unregistered:,} of {counts.roster:,} alumni unregistered"
    )
    newly = counts.registered - was.counts.registered if was and was.counts else 0
    if newly > 0:
        sentence += f"; {count_things(newly, 'more is', 'more are')} registered than before"
    return f"{sentence}."


def _tell_touch(touch: TouchStatus, before: dict[str, int]) -> str | None:
    """What went out of a touch; None where nothing did."""
    more = {name: people - before.get(name, 0) for name, people in touch.people.items()}
    ends = {name: more[name] for name in ("accepted", *_NOT_SENT) if more.get(name, 0) > 0}
    if not ends:
        return None
    thing = _MESSAGES[touch.channel]
    sent = count_things(ends.pop("accepted", 0), f"{thing} was", f"{thing}s were")
    others = "".join(f"; {people:,} {_NOT_SENT[name]}" for name, people in ends.items())
    return f"{sent} sent of the touch `{touch.touch}`{others}."


def _tell_why_nothing(found: CampaignStatus, standing: Standing, now: CampaignTime) -> list[str]:
    due = sum(one.people.get("planned", 0) for one in found.touches if one.place == "under way")
    if due:
        things = count_things(due, "message is", "messages are")
        return [f"{things} due, and waiting.", *found.waiting]
    coming = next_touch(standing.schedule, now)
    if coming is None:
        return ["Nobody was due: no touch is to come any more."]
    planned = sum(
        one.people.get("planned", 0) for one in found.touches if one.touch == coming.touch
    )
    opening = format_moment(coming.opening, standing.campaign.zone)
    sentence = f"Nobody was due: the next touch, `{coming.touch}`, opens on {opening}"
    return [
        f"{sentence}; {count_things(planned, 'message')} planned." if planned else f"{sentence}."
    ]
