"""The pace: how many recipients may be written to by when, so that providers and the servers of
the mail's readers go along with it.

    find_idle_days ─► day_limit   the days that let a limit grow, and the limit of a day
    day_limit ─► parcel_size      at planning: how much one call may carry
    refill ─► admit               at release: which parcels may go now
    canary_share ─► judge_canary  the few who go first, and whether the others may follow
    finish_day                    what the pace cannot finish in time

A mail server trusts a sender that it has seen for a while: warm-up grows a day's limit only by days
on which mail has left. A server that has had enough of one sender refuses everything for a while:
the domains that a file names have tokens of their own. All limits count recipients.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from shared.clock import CampaignTime, StorageTime
from shared.rules.calendar import DAY, open_hours, start_of_day
from shared.rules.parcels import SHARDS, State

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from shared.rules.campaign import Campaign, Canary, Sending
    from shared.rules.parcels import Channel, Parcel

_HOUR_PARTS = 12
"""A bucket holds a twelfth of an hour: after a quiet time no whole hour goes at once. A parcel is
no larger, or no bucket would ever hold enough for it."""

_DAY_PARTS = 4
"""A parcel is at most a quarter of a day's limit: at least three quarters of it can be used, and
one unclear answer does not cost a whole day."""

_HOUR = timedelta(hours=1)

_MOST_GROWTH = 300
"""Live days after which a limit grows no more; no campaign has so many, and a float ends there."""

_DAYS_IN_SIGHT = 3
"""What was claimed so many days ago is among the parcels that release reads, those planned nine
days ago at most: a touch is planned two days ahead and may leave for three."""

_LATE_CLAIM = timedelta(hours=1)
"""How long a day must be over before it is called idle: what is read of it by then is complete."""

_LOOK_AHEAD = 1000
"""Days that `finish_day` looks ahead: further off, one day is as good an answer as another."""


class Bucket(msgspec.Struct, frozen=True):
    """Tokens of an hourly limit: recipients that might go out at a time."""

    tokens: float
    at: StorageTime


def refill(bucket: Bucket | None, now: StorageTime, per_hour: int) -> float:
    """The tokens of a bucket that fills evenly and holds a twelfth of an hour, at least one.

    A bucket that nothing was taken from yet (None) is full.
    """
    most = max(1.0, per_hour / _HOUR_PARTS)
    if bucket is None:
        return most
    return min(most, bucket.tokens + (now - bucket.at) / _HOUR * per_hour)


def day_limit(
    sending: Sending, channel: Channel, live_days: Sequence[str], today: date
) -> int | None:
    """Most recipients of a channel on one day; None where there is no limit.

    Args:
        live_days: ISO days on which mail left in live mode, today perhaps among them. Those before
            today have made the warm-up's limit grow; it is for email alone.
        today: a day of the campaign's zone.
    """
    limits = [sending.max_per_day[channel]] if channel in sending.max_per_day else []
    if channel == "email" and sending.warm_up:
        before = len({day for day in live_days if day < today.isoformat()})
        growth = sending.warm_up.growth ** min(before, _MOST_GROWTH)
        limits.append(int(sending.warm_up.start * growth))
    return min(limits, default=None)


def find_idle_days(
    live_days: Sequence[str], parcels: Collection[Parcel], now: CampaignTime, zone: ZoneInfo
) -> frozenset[str]:
    """The live days of late on which nothing left after all: a day is noted when parcels are
    handed out, and it may be that each of their calls was refused, or none was ever made.

    Args:
        parcels: those of the channel that release reads, none of them closed. One that is planned
            has not left, or was given back; seed addresses count for nothing.
    """
    today = now.astimezone(zone).date()
    idle: set[str] = set()
    for day in (today - number * DAY for number in range(1, _DAYS_IN_SIGHT + 1)):
        begins, ends = start_of_day(day, zone), start_of_day(day + DAY, zone)
        if day.isoformat() not in live_days or now - ends < _LATE_CLAIM:
            continue
        if not any(
            parcel.touched_at
            and begins <= parcel.touched_at < ends
            and parcel.state is not State.PLANNED
            and not parcel.seed
            for parcel in parcels
        ):
            idle.add(day.isoformat())
    return frozenset(idle)


def parcel_size(
    sending: Sending,
    channel: Channel,
    *,
    domain: str,
    sender_maximum: int,
    day_limit: int | None,
) -> int:
    """Most recipients of one parcel, at least one.

    Args:
        domain: the limited domain that its addresses are of, or "" (`domain_of`).
        sender_maximum: what the channel's sender takes in one call.
        day_limit: of the day on which it is planned.
    """
    sizes = [sending.parcel_size, sender_maximum]
    if channel in sending.max_per_hour:
        sizes.append(sending.max_per_hour[channel] // _HOUR_PARTS)
    if domain in sending.max_per_domain_per_hour:
        sizes.append(sending.max_per_domain_per_hour[domain] // _HOUR_PARTS)
    if day_limit is not None:
        sizes.append(day_limit // _DAY_PARTS)
    return max(1, min(sizes))


def domain_of(address: str, limits: Mapping[str, int]) -> str:
    """The domain of an address where it is one of `limits`, else "". A subdomain is another one."""
    domain = address.rpartition("@")[2].casefold()
    return domain if domain in limits else ""


class Admission(msgspec.Struct, frozen=True):
    """What may go, and what is left then.

    Attributes:
        chosen: indices of the parcels that may go, in their order.
        channel_tokens, day_left: recipients; infinite where there is no limit.
        domain_tokens: by limited domain.
    """

    chosen: tuple[int, ...]
    channel_tokens: float
    domain_tokens: dict[str, float]
    day_left: float


def admit(
    parcels: Iterable[tuple[int, str]],
    *,
    most: int,
    channel_tokens: float,
    domain_tokens: Mapping[str, float],
    day_left: float,
) -> Admission:
    """As many parcels, from the first on, as there are tokens for, and no more than `most`.

    It ends at the first one that the channel's tokens or the day's rest do not cover: nobody
    overtakes. One whose domain lacks the tokens is passed over, with those of its domain behind it.

    Args:
        parcels: recipients and limited domain ("" for none) of each, in the order of their turn;
            not read any further than it takes.
        channel_tokens, day_left: recipients; infinite where there is no limit.
        domain_tokens: by limited domain, without the channel's own; who is not in it has no limit.
    """
    chosen: list[int] = []
    left = dict(domain_tokens)
    short: set[str] = set()
    for index, (recipients, domain) in enumerate(parcels):
        if len(chosen) >= most:
            break
        if domain in short or recipients > left.get(domain, math.inf):
            short.add(domain)
            continue
        if recipients > min(channel_tokens, day_left):
            break
        channel_tokens -= recipients
        day_left -= recipients
        if domain in left:
            left[domain] -= recipients
        chosen.append(index)
    return Admission(tuple(chosen), channel_tokens, left, day_left)


def canary_share(recipients: int, shard: int) -> int:
    """How many of the canary's recipients a shard marks; the shares of all shards add up to it."""
    share, rest = divmod(recipients, len(SHARDS))
    return share + (shard < rest)


class CanaryResult(StrEnum):
    """What a touch's marked parcels say of the others."""

    WAITING = "waiting"
    PASSED = "passed"
    FAILED = "failed"


def judge_canary(
    canary: Canary,
    *,
    open: bool,
    recipients: int,
    delivered: int,
    last_called: StorageTime | None,
    now: StorageTime,
    wait: float,
) -> CanaryResult:
    """Whether the others of a touch and channel may follow the marked ones.

    Args:
        open: whether a call for a marked parcel is still to come, or under way.
        recipients: of the marked parcels, without those who were left out.
        delivered: how many of these a receipt calls delivered.
        last_called: when the last of these parcels was claimed.
        wait: seconds after which a receipt is not waited for any longer.
    """
    # Not `canary.delivered * recipients`: 0.55 * 100 is a little more than 55.
    if recipients and delivered / recipients >= canary.delivered:
        return CanaryResult.PASSED
    if open:
        return CanaryResult.WAITING
    if not recipients or last_called is None:
        return CanaryResult.FAILED
    over = now - last_called >= timedelta(seconds=wait)
    return CanaryResult.FAILED if over else CanaryResult.WAITING


def finish_day(
    campaign: Campaign,
    channel: Channel,
    *,
    recipients: int,
    not_before: CampaignTime,
    not_after: CampaignTime,
    live_days: Sequence[str],
    domain: str = "",
) -> date | None:
    """None where the pace lets so many leave in the open hours of [not_before, not_after); else the
    day on which the last of them would, if they could go on.

    Each day on which it sends is a live day for those that follow. What else leaves on the same
    days is not asked. A day a thousand days off stands for whatever comes later.

    Args:
        domain: the limited domain that all of them are at; "" asks no domain's limit.
    """
    live, rest = list(live_days), recipients
    per_hour = min(
        campaign.sending.max_per_hour.get(channel, math.inf),
        campaign.sending.max_per_domain_per_hour.get(domain, math.inf),
    )
    first = not_before.astimezone(campaign.zone).date()
    for day in (first + number * DAY for number in range(_LOOK_AHEAD)):
        hours = open_hours(campaign, day)
        if hours is None or hours.closes <= not_before:
            continue
        limit = day_limit(campaign.sending, channel, live, day)
        most = math.inf if limit is None else limit
        opens = max(hours.opens, not_before)
        if rest <= min(most, _at_rate(per_hour, opens, min(hours.closes, not_after))):
            return None
        whole_day = min(most, _at_rate(per_hour, opens, hours.closes))
        if rest <= whole_day:
            return day
        rest -= whole_day
        live.append(day.isoformat())
    return first + _LOOK_AHEAD * DAY


def _at_rate(per_hour: float, start: CampaignTime, end: CampaignTime) -> float:
    return (end - start) / _HOUR * per_hour if start < end else 0
