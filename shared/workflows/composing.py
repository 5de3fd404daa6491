"""What a parcel says and to whom, for each channel: all that sending must know of its words.

A mail is personal: a greeting, an account, links of its own. An SMS says the same to everybody,
with no link and no token (docs/decisions/0017).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from shared.clock import CampaignTime
from shared.messages.rendering import Letter, Tags, guide_url, personal_values, render_letter
from shared.messages.texting import render_sms
from shared.rules.links import Purpose, seal
from shared.services.senders import Envelope

if TYPE_CHECKING:
    from shared.rules.campaign import Campaign
    from shared.rules.contact import Recipient
    from shared.rules.parcels import Channel
    from shared.workflows.campaigns import Standing

_DONE_LIFE = timedelta(days=30)
_UNSUBSCRIBE_LIFE = timedelta(days=365)
"""How long links open after the last touch has closed: it may leave until then."""

_KEPT = 64
"""Letters that are kept: a wave has few, one for each touch and language."""


@dataclass(frozen=True)
class Links:
    """What links are made of: LINK_KEYS, newest first, and PUBLIC_BASE_URL."""

    keys: tuple[str, ...]
    base_url: str


class Composer:
    """Writes letters, and addresses them to people."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._tags = Tags.fresh()
        self._letter = lru_cache(maxsize=_KEPT)(self._write)

    def letter(
        self,
        channel: Channel,
        campaign: Campaign,
        *,
        message: str,
        language: str,
        after_deadline: bool,
    ) -> Letter:
        """What is said to everybody of a parcel. Raises SetupFault without such words."""
        return self._letter(channel, campaign, message, language, after_deadline)

    def _write(
        self, channel: Channel, campaign: Campaign, message: str, language: str, after: bool
    ) -> Letter:
        if channel == "sms":
            return render_sms(campaign, message=message, language=language, after_deadline=after)
        return render_letter(
            campaign,
            message=message,
            language=language,
            after_deadline=after,
            guide_url=guide_url(self._links.base_url, campaign.campaign, language),
            tags=self._tags,
        )

    def addressing(
        self, channel: Channel, standing: Standing, language: str, *, seed: bool
    ) -> Callable[[int, Recipient], Envelope]:
        """How people of a parcel are addressed: index in the row and recipient to an envelope.

        Seed addresses belong to nobody who could be done: where others have links of their own,
        they have the guide.
        """
        if channel == "sms":
            return _number
        keys, base = self._links.keys, self._links.base_url
        guide = guide_url(base, standing.name, language)

        def personal(purpose: Purpose, recipient: Recipient, life: timedelta) -> str:
            until = CampaignTime(standing.schedule.ends + life)
            return f"{base}/{purpose}/{seal(keys, purpose, standing.name, recipient.id, until)}"

        def mail(index: int, recipient: Recipient) -> Envelope:
            done = unsubscribe = guide
            if not seed:
                done = personal("done", recipient, _DONE_LIFE)
                unsubscribe = personal("unsubscribe", recipient, _UNSUBSCRIBE_LIFE)
            return Envelope(
                index=index,
                address=recipient.address,
                name=recipient.name,
                substitutions=personal_values(
                    self._tags,
                    name=recipient.name,
                    account=recipient.account,
                    done_url=done,
                    unsubscribe_url=unsubscribe,
                    language=language,
                ),
                unsubscribe_url="" if seed else unsubscribe,
            )

        return mail


def _number(index: int, recipient: Recipient) -> Envelope:
    return Envelope(
        index=index, address=recipient.address, name="", substitutions={}, unsubscribe_url=""
    )
