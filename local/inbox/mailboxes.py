"""The mailboxes of everybody: all mails that were accepted, as their readers get them.

Calls are kept as they came, in a file without a name that is gone with the process; in memory there
are only their ids and who is addressed, so that hundreds of thousands of mails fit.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from local.inbox.fates import MailFate
from local.inbox.sendgrid import CALL, Address, Call, Personalization
from shared.clock import CampaignTime


class Mail(msgspec.Struct, frozen=True, kw_only=True, rename={"sender": "from"}):
    """One mail as its reader gets it, substitutions made.

    Attributes:
        number: counts all mails, from 0.
        index: the custom arg `i`, where there is one.
        fate: what became of it.
        time: when it came, campaign time.
    """

    number: int
    message_id: str
    parcel: str | None
    attempt: str | None
    index: int | None
    to: list[Address]
    sender: Address
    reply_to: Address | None
    subject: str
    html: str
    text: str
    headers: dict[str, str]
    custom_args: dict[str, str]
    categories: list[str]
    fate: MailFate
    time: datetime


class Messages(msgspec.Struct, frozen=True):
    """The answer of `GET /messages`: how many there are, and those that were asked for."""

    total: int
    messages: list[Mail]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted call of either channel, for those who count: `indices` are the values of `i`,
    which like `parcel` and `attempt` the caller gave along to have them back."""

    channel: Literal["email", "sms"]
    parcel: str | None
    attempt: str | None
    indices: list[int | None]
    count: int
    message_id: str
    time: datetime


class _Kept(msgspec.Struct, frozen=True):
    """An accepted call in memory: where its body stands in the file, and whom it addresses.

    `people` is a line of address and name for each mail, case-folded, to be searched; `fates` are
    those of its mails, by place, that were not simply delivered.
    """

    first: int
    count: int
    offset: int
    length: int
    people: str
    fates: Mapping[int, MailFate]
    entry: Entry


class Mailboxes:
    """All mails that were accepted, in the order in which they came."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._end = 0
        self._calls: list[_Kept] = []
        self._firsts: list[int] = []
        self._decoded: tuple[int, Call] | None = None

    def __len__(self) -> int:
        return self._calls[-1].first + self._calls[-1].count if self._calls else 0

    def keep(
        self,
        call: Call,
        body: bytes,
        *,
        message_id: str,
        fates: Mapping[int, MailFate],
        time: CampaignTime,
    ) -> Entry:
        """Deliver the mails of a call."""
        count = len(call.personalizations)
        entry = Entry(
            channel="email",
            parcel=call.custom_args.get("parcel"),
            attempt=call.custom_args.get("attempt"),
            indices=[_index_of(one) for one in call.personalizations],
            count=count,
            message_id=message_id,
            time=time,
        )
        people = "\n".join(
            " ".join(f"{address.email} {address.name or ''}" for address in one.to)
            .replace("\n", " ")
            .casefold()
            for one in call.personalizations
        )
        os.pwrite(self._file.fileno(), body, self._end)
        first = len(self)
        self._calls.append(_Kept(first, count, self._end, len(body), people, fates, entry))
        self._firsts.append(first)
        self._end += len(body)
        return entry

    def find_recipient(self, parcel: str, index: int) -> Sequence[int]:
        """Numbers of the mails to one recipient of a parcel, of every attempt."""
        return [
            call.first + place
            for call in self._calls
            if call.entry.parcel == parcel
            for place, i in enumerate(call.entry.indices)
            if i == index
        ]

    def find(self, words: str = "", to: str = "") -> Sequence[int]:
        """Numbers of the mails whose addressee's address or name has `words` in it, or whose
        address is `to`; of all where neither is given. Case does not matter."""
        wanted = (to or words).strip().casefold()
        if not wanted:
            return range(len(self))
        found: list[int] = []
        for call in self._calls:
            if wanted not in call.people:
                continue
            for place, line in enumerate(call.people.split("\n")):
                if (wanted in line.split(" ")) if to else (wanted in line):
                    found.append(call.first + place)
        return found

    def read(self, number: int) -> Mail:
        """Raises IndexError where there is no such mail."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = bisect_right(self._firsts, number) - 1
        kept = self._calls[place]
        return _compose(self._decode(place, kept), kept, number)

    def clear(self) -> None:
        self._file.truncate(0)
        self._end = 0
        self._calls.clear()
        self._firsts.clear()
        self._decoded = None

    def close(self) -> None:
        self._file.close()

    def _decode(self, place: int, kept: _Kept) -> Call:
        if self._decoded is None or self._decoded[0] != place:
            body = os.pread(self._file.fileno(), kept.length, kept.offset)
            self._decoded = place, CALL.decode(body)
        return self._decoded[1]


def _index_of(one: Personalization) -> int | None:
    index = one.custom_args.get("i", "")
    return int(index) if index.isdecimal() else None


def _compose(call: Call, kept: _Kept, number: int) -> Mail:
    place = number - kept.first
    one = call.personalizations[place]

    def fill(template: str) -> str:
        for tag, value in one.substitutions.items():
            template = template.replace(tag, value)
        return template

    parts = {part.type: fill(part.value) for part in call.content}
    assert call.sender is not None  # or it would not have been accepted
    return Mail(
        number=number,
        message_id=kept.entry.message_id,
        parcel=kept.entry.parcel,
        attempt=kept.entry.attempt,
        index=_index_of(one),
        to=one.to,
        sender=call.sender,
        reply_to=call.reply_to,
        subject=fill(one.subject or call.subject or ""),
        html=parts.get("text/html", ""),
        text=parts.get("text/plain", ""),
        headers={**call.headers, **one.headers},
        custom_args={**call.custom_args, **one.custom_args},
        categories=call.categories,
        fate=kept.fates.get(place, "delivered"),
        time=kept.entry.time,
    )
