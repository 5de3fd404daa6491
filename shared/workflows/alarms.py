"""Structured log events with stable names: what alert rules and people watch for.

An event's fields hold counts, states and names of campaigns, never anything of a person. They stand
in the text as JSON, and the plain ones beside it: Application Insights has them as properties.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import msgspec

from shared.telemetry import ALARMS, SCOPE

_log = logging.getLogger(SCOPE)
_OF_RECORDS = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})

type Alarm = Literal[
    "campaign_mistake",  # a campaign file that does not take effect, by line
    "cannot_confirm",  # Graph does not let us look up who says that they have registered
    "channel_paused",  # by a set-up fault, doubts, bounces or a canary: nothing leaves on it
    "claims_abandoned",  # parcels whose sender died between claim and answer
    "mail_dropped",  # the provider took mails and did not send them on
    "no_receipt",  # parcels in doubt that nothing decided in time
    "pace_too_slow",  # a touch that the file's own limits do not let out in its time
    "parcel_failed",  # a parcel that a fault of our own kept from leaving, to the last try
    "parcels_at_rest",  # parcels that were handed out, and that nobody took
    "parcels_expired",  # people who were due and have a contact were not written to in time
    "pass_at_rest",  # a pass of a sweep stopped moving, and was taken up again
    "planning_late",  # shards that are not planned so long after they should be
    "poison",  # a queue gave up on a message, or it was none of ours
    "receipts_silent",  # nothing comes back of what was sent hours ago
    "sweep_abandoned",  # a sweep that ended with nothing to show for it
    "touch_unreached",  # a touch whose day ended with people unreached who have a contact
    "verdict_pause",  # the guards stopped a campaign
]
"""Every alarm that there is: the names that alert rules know."""


def note_event(event: str, **fields: object) -> None:
    """Something that went as it should."""
    _log.info("%s %s", event, _as_json(fields), extra=_as_properties("event", event, fields))


def raise_alarm(alarm: Alarm, **fields: object) -> None:
    """Something that a person should look at."""
    _log.error("ALARM %s %s", alarm, _as_json(fields), extra=_as_properties("alarm", alarm, fields))
    about = {"campaign": str(fields["campaign"])} if "campaign" in fields else {}
    ALARMS.add(1, alarm=alarm, about=" ".join(_what_it_is_about(fields)), **about)


def _what_it_is_about(fields: dict[str, object]) -> Iterator[str]:
    """So that an alert which has told of one is not silent about the other."""
    return (str(fields[key]) for key in ("campaign", "touch", "channel", "queue") if key in fields)


def _as_json(fields: dict[str, object]) -> str:
    return msgspec.json.encode(fields).decode()


def _as_properties(kind: str, name: str, fields: dict[str, object]) -> dict[str, object]:
    """The name and the plain fields of an event, for its log record; but for fields of a name that
    the record itself uses, which `logging` refuses."""
    plain = {
        key: value
        for key, value in fields.items()
        if isinstance(value, str | int | float) and key not in _OF_RECORDS
    }
    return {**plain, kind: name}
