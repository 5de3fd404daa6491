"""What keeps a surprise from going out unattended: the verdict, and how much may go wrong.

A verdict compares what was planned for a pair with the last pair whose verdict was `go`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from shared.rules.campaign import Campaign

OVER = 50
"""People by which a figure must have changed, at least, to be a surprise."""

AMBIGUOUS_PARCELS = 20
"""Ambiguous parcels within an hour that pause a channel: at least so many, and the file's share."""

BOUNCED_PEOPLE = 20
"""Bad addresses of a touch that pause a channel: more than so many, and over the file's share."""

_EVERYBODYS_DOMAIN = ".azurewebsites.net"

STALE_HOURS = 50
"""Age of a sweep, in hours of campaign time, from which on nothing is released."""


class ShardCounts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What planning one shard found. People, but for `parcels`.

    `registered + unregistered + unknown + unrecognised + excluded = roster`; excluded is decided
    first. `confirmed` is the part of registered whom the report does not show yet. Parts of
    unregistered are `unreachable`, with no usable contact for any channel that the cadence names;
    `opted_out`, who asked for no more reminders; and `reported`, who say that they are done.
    `recipients` are in planned parcels, once for each channel; `planned` has them by
    `{touch}|{channel}`, and those of a limited domain also by `{touch}|{channel}|{domain}`. `had`
    have had at least one touch.
    """

    roster: int = 0
    registered: int = 0
    unregistered: int = 0
    unknown: int = 0
    unrecognised: int = 0
    excluded: int = 0
    unreachable: int = 0
    confirmed: int = 0
    opted_out: int = 0
    reported: int = 0
    had: int = 0
    recipients: int = 0
    parcels: int = 0
    reasons: dict[str, int] = {}
    planned: dict[str, int] = {}

    def __add__(self, other: ShardCounts) -> ShardCounts:
        sums = {
            name: getattr(self, name) + getattr(other, name)
            for name in self.__struct_fields__
            if name not in ("reasons", "planned")
        }
        return ShardCounts(
            reasons=_sum(self.reasons, other.reasons),
            planned=_sum(self.planned, other.planned),
            **sums,
        )


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The guards' answer for one pair.

    Attributes:
        go: whether release may hand out.
        reasons: why not, each as a sentence for an administrator.
        counts: what the verdict was made of; the next one compares with it.
        by: who lifted a pause, "" where the guards said go themselves.
    """

    go: bool
    reasons: tuple[str, ...] = ()
    counts: ShardCounts
    by: str = ""


LEDGER_LOST = (
    "The ledger knows of nobody who was written to, but waves have gone out. It may have been "
    "lost: restore it. `nudge resume` starts the cadence anew, for everybody."
)


def judge(counts: ShardCounts, last_go: ShardCounts | None, *, waves_went_out: bool) -> Verdict:
    """The verdict over a campaign's sums.

    Args:
        counts: sums over all shards of the pair.
        last_go: those of the last pair that went, None for the first one.
        waves_went_out: whether the marker says that this campaign has sent something.
    """
    reasons: list[str] = []
    if last_go is not None:
        if _surprising(last_go.roster, last_go.roster - counts.roster):
            reasons.append(
                f"The audience shrank from {last_go.roster} to {counts.roster} accounts. Check the "
                "group or filter; `nudge resume` lets the smaller audience stand."
            )
        if _surprising(last_go.unregistered, counts.unregistered - last_go.unregistered):
            reasons.append(
                f"Unregistered people rose from {last_go.unregistered} to {counts.unregistered}. "
                "Check the registration report; `nudge resume` if the rise is real."
            )
    if waves_went_out and counts.had == 0:
        reasons.append(LEDGER_LOST)
    return Verdict(go=not reasons, reasons=tuple(reasons), counts=counts)


def _surprising(before: int, change: int) -> bool:
    """A change by over half of what was, and by over 50."""
    return change > OVER and change * 2 > before


def _sum(some: dict[str, int], others: dict[str, int]) -> dict[str, int]:
    return {
        name: some.get(name, 0) + others.get(name, 0) for name in dict.fromkeys((*some, *others))
    }


def too_ambiguous(ambiguous: int, called: int, share: float) -> bool:
    """Whether the calls of the last hour doubt too much to go on. A share of 1 never does."""
    return share < 1 and ambiguous >= AMBIGUOUS_PARCELS and ambiguous >= called * share


def too_many_bounces(bounced: int, recipients: int, share: float) -> bool:
    """Whether too many of a touch's recipients have bad addresses to go on: a list that is so old
    costs the sender its name. A share of 1 never does."""
    return share < 1 and bounced > BOUNCED_PEOPLE and bounced > recipients * share


def link_fault(campaign: Campaign, public_base_url: str, link_hosts: frozenset[str]) -> str | None:
    """Why personal links may not go out under this campaign, or None.

    Live means the institution's own domain: a link on `*.azurewebsites.net`, where everybody can
    have a name, is what phishing looks like. It is for a dry run or a trial only, whatever
    ALLOWED_LINK_HOSTS names.
    """
    if campaign.sending.mode != "live":
        return None
    host = (urlsplit(public_base_url).hostname or "").rstrip(".")
    if f".{host}".endswith(_EVERYBODYS_DOMAIN):
        return (
            f"PUBLIC_BASE_URL is on {host}. Live mode needs a name on the institution's own "
            "domain: bind one to the app, then set PUBLIC_BASE_URL and ALLOWED_LINK_HOSTS."
        )
    if host not in {allowed.casefold() for allowed in link_hosts}:
        return (
            f"PUBLIC_BASE_URL is on {host}, which ALLOWED_LINK_HOSTS does not name. Live mode "
            "needs the institution's own domain: set both."
        )
    return None
