"""Sending with nothing to say and nobody to say it to: what is left is storage, and the rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from functions.wiring import App
from shared.messages.rendering import Letter
from shared.rules.campaign import Campaign
from shared.rules.contact import Recipient
from shared.rules.parcels import Channel
from shared.services.senders import Accepted, Envelope, Identity, Outcome, Prepared
from shared.services.senders import Letter as AnyLetter
from shared.workflows.campaigns import Standing
from shared.workflows.composing import Composer, Links
from shared.workflows.dispatch import DispatchWorkflow, SendingSettings

if TYPE_CHECKING:
    from shared.services.senders import Sender

_NOTHING = Letter("", "", "")
_NOBODY = Envelope(index=0, address="", name="", substitutions={}, unsubscribe_url="")


class _Silent(Composer):
    """Writes nothing to nobody."""

    def letter(
        self,
        channel: Channel,
        campaign: Campaign,
        *,
        message: str,
        language: str,
        after_deadline: bool,
    ) -> Letter:
        return _NOTHING

    def addressing(
        self, channel: Channel, standing: Standing, language: str, *, seed: bool
    ) -> Callable[[int, Recipient], Envelope]:
        return lambda index, recipient: _NOBODY


class _Accepting:
    """A provider that is not there, and has accepted every call already."""

    channel = "email"
    max_recipients = 1000

    def prepare(
        self,
        letter: AnyLetter,
        envelopes: Sequence[Envelope],
        *,
        sender: Identity,
        parcel: str,
        attempt: str,
        categories: Sequence[str],
    ) -> Prepared:
        return Prepared(b"", len(envelopes))

    async def send(self, prepared: Prepared, may_start: Callable[[], bool]) -> Outcome:
        assert may_start()
        return Accepted("")


def without_words(app: App) -> App:
    """The same product, whose sending stops short of words and provider."""
    silent: Sender = _Accepting()
    settings = app.settings
    dispatch = DispatchWorkflow(
        app.stores,
        app.book,
        {"email": silent},
        _Silent(Links(settings.link_keys, settings.public_base_url)),
        app.completion,
        app.clock,
        SendingSettings(
            address_key=settings.address_key.encode(),
            public_base_url=settings.public_base_url,
            link_hosts=settings.allowed_link_hosts,
        ),
    )
    return dataclasses.replace(app, dispatch=dispatch)
