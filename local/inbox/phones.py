"""The phones of everybody: all texts that were accepted, number by number."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

import msgspec

from local.inbox.mailboxes import Entry
from local.inbox.twilio import TextCall
from shared.clock import CampaignTime


class Text(msgspec.Struct, kw_only=True, rename={"sender": "from"}):
    """One text as a phone has it.

    Attributes:
        number: counts all texts, from 0.
        phone: the place of its number among all, from 0.
        sender: the number or sender id; of a messaging service its id.
        parts, encoding: what it takes on the air.
        status, error_code: where it is, as the provider tells.
        parcel, attempt, index: what its StatusCallback carries, where it does.
        time: when it came, campaign time.
    """

    number: int
    phone: int
    sid: str
    to: str
    sender: str
    text: str
    parts: int
    encoding: str
    status: str
    error_code: int | None
    parcel: str | None
    attempt: str | None
    index: int | None
    time: datetime


class Texts(msgspec.Struct, frozen=True):
    """The answer of `GET /sms`: how many there are, and those that were asked for."""

    total: int
    texts: list[Text]


class Phone(msgspec.Struct, frozen=True):
    """A number and what has come to it, oldest first; never empty."""

    place: int
    number: str
    texts: list[Text]


class Phones:
    """All texts, in the order in which they came."""

    def __init__(self) -> None:
        self._texts: list[Text] = []
        self._phones: dict[str, Phone] = {}
        self._by_place: list[Phone] = []
        self._words: dict[str, str] = {}  # the same words to everybody are kept once

    def __len__(self) -> int:
        return len(self._texts)

    def keep(self, call: TextCall, sid: str, time: CampaignTime) -> tuple[Text, Entry]:
        """Deliver a text."""
        from shared.messages.texting import count_parts  # costs, and most runs have no texts

        phone = self._phones.get(call.to)
        if phone is None:
            phone = self._phones[call.to] = Phone(len(self._by_place), call.to, [])
            self._by_place.append(phone)
        counted = count_parts(call.text)
        given = {
            name: values[0] for name, values in parse_qs(urlsplit(call.callback).query).items()
        }
        index = given.get("i", "")
        text = Text(
            number=len(self._texts),
            phone=phone.place,
            sid=sid,
            to=call.to,
            sender=call.sender or call.service,
            text=self._words.setdefault(call.text, call.text),
            parts=counted.parts,
            encoding=counted.encoding,
            status="queued",
            error_code=None,
            parcel=given.get("parcel"),
            attempt=given.get("attempt"),
            index=int(index) if index.isdecimal() else None,
            time=time,
        )
        self._texts.append(text)
        phone.texts.append(text)
        entry = Entry(
            channel="sms",
            parcel=text.parcel,
            attempt=text.attempt,
            indices=[text.index],
            count=1,
            message_id=sid,
            time=time,
        )
        return text, entry

    def find(self, *, to: str = "", parcel: str = "") -> Sequence[Text]:
        """The texts to a number, those of a parcel, or all."""
        if to:
            phone = self._phones.get(to)
            return phone.texts if phone else []
        return [text for text in self._texts if text.parcel == parcel] if parcel else self._texts

    def list_phones(self, digits: str = "") -> Sequence[Phone]:
        """Phones whose number has these digits in it, the one with the newest text first."""
        wanted = "".join(filter(str.isdigit, digits))
        found = [phone for phone in self._by_place if wanted in phone.number]
        return sorted(found, key=lambda phone: phone.texts[-1].number, reverse=True)

    def read_phone(self, place: int) -> Phone:
        """Raises IndexError where there is no such phone."""
        return self._by_place[place]

    def clear(self) -> None:
        self._texts.clear()
        self._phones.clear()
        self._by_place.clear()
        self._words.clear()
