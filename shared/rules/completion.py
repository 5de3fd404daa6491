"""How long a completion speaks louder than the registration report (invariant 4).

confirmed   seen in the directory, or told by a system of the institution: outranks the report,
            which lags by hours, for 48 hours
reported    told by the person alone: silences until a sweep that was opened later is planned, and
            never the last touch before the deadline (cadence.due_anyway)
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from shared.clock import CampaignTime, StorageTime

type CompletionKind = Literal["confirmed", "reported"]

OUTRANKS = timedelta(hours=48)


def outranks_report(confirmed_at: CampaignTime | None, now: CampaignTime) -> bool:
    """Whether a person whom the report shows as unregistered counts as registered."""
    return confirmed_at is not None and now < confirmed_at + OUTRANKS


def silences(reported_at: StorageTime | None, sweep_opened_at: StorageTime) -> bool:
    """Whether nothing but the last touch before the deadline goes to a person.

    Args:
        sweep_opened_at: of the sweep that is planned from, or that the shard was planned from last:
            one that was opened after the report has looked for itself.
    """
    return reported_at is not None and reported_at >= sweep_opened_at
