"""What the institution's own systems tell us: this person has registered, as we know from here.

Items come many at a time, and each is answered for itself. One that is told again is known by its
`source` and `event_id`, which are remembered for 90 days, as a keyed hash.
"""

from __future__ import annotations

import asyncio
import hmac
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from shared.errors import RetryLater, SetupFault
from shared.rules.registration import DoneWhen, Registration
from shared.services.directory import choose_source
from shared.stores.events import Event
from shared.workflows.alarms import note_event, raise_alarm
from shared.workflows.completion import Completion, storage_within

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.services.directory import Confirm, Directory
    from shared.stores import Stores
    from shared.workflows.campaigns import CampaignBook
    from shared.workflows.completion import CompletionWorkflow

ASKING_SECONDS = 60.0
STORAGE_SECONDS = 20.0
"""Azure ends an HTTP request after 230 s: two rounds of questions (who is it, have they registered)
and four turns of storage stay below that."""

_QUESTIONS_AT_ONCE = 16
_CLOCKS_APART = timedelta(minutes=5)
"""So far may the clock of whoever tells us be ahead of ours."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGEST_BYTES = 16

type Status = Literal["recorded", "duplicate", "rejected", "retry"]


class ItemAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one item.

    Attributes:
        index: its place among the items, from 0.
        event_id: its own, where that could be read.
        detail: why it was rejected, or what kept us from recording it.
    """

    index: int
    status: Status
    event_id: str = ""
    detail: str = ""


class BatchAnswer(msgspec.Struct, frozen=True):
    """What became of each item, in order. `retry_after`: seconds that Graph asked us to wait."""

    items: list[ItemAnswer]
    retry_after: float | None


class Item(msgspec.Struct, frozen=True):
    """One item as it was told. `account` is an object id or a user principal name."""

    account: str
    completed_at: datetime
    source: str
    event_id: str
    verify: bool


@dataclass
class _Entry:
    """An item that could be read, on its way to its answer."""

    index: int
    item: Item
    event: Event
    person: bytes = b""
    evidence: str = ""
    proves: DoneWhen = "capable"
    answer: ItemAnswer | None = None

    def end(self, status: Status, detail: str = "") -> None:
        self.answer = ItemAnswer(self.index, status, self.item.event_id, detail)


class CompletionBatchWorkflow:
    """Records completions that other systems tell us of.

    Args:
        confirm: where registration is looked up for items with `verify`, GRAPH_CONFIRM.
        key: ADDRESS_KEY; events are hashed with it.
        asking_seconds: how long one round of questions to Graph may take.
        storage_seconds: how long one turn of storage may take; the SDK would try for minutes.
    """

    def __init__(
        self,
        stores: Stores,
        book: CampaignBook,
        directory: Directory,
        completion: CompletionWorkflow,
        clock: Clock,
        *,
        confirm: Confirm,
        key: bytes,
        asking_seconds: float = ASKING_SECONDS,
        storage_seconds: float = STORAGE_SECONDS,
    ) -> None:
        self._stores = stores
        self._book = book
        self._directory = directory
        self._completion = completion
        self._clock = clock
        self._confirm: Confirm = confirm
        self._key = key
        self._asking_seconds = asking_seconds
        self._storage_seconds = storage_seconds

    async def record(self, told: Sequence[bytes | msgspec.Raw]) -> BatchAnswer:
        """Record what can be recorded of these items, each the JSON of one.

        Of an event that comes more than once among them the first counts. The others are answered
        as the same event told again, or as something else under its id.

        Raises:
            NotRecorded: storage failed. Some may be recorded; to tell all of it again does no harm.
        """
        entries, answers = self._read(told)
        by_event: dict[bytes, _Entry] = {}
        for entry in entries:
            by_event.setdefault(entry.event.key, entry)
        firsts = list(by_event.values())
        await self._recognise(firsts)
        waits = [await self._find(_open(firsts)), await self._verify(_open(firsts))]
        await self._write(_open(firsts))
        for entry in _open(entries):
            _repeat(entry, by_event[entry.event.key])
        answers += [entry.answer for entry in entries if entry.answer]
        answers.sort(key=lambda answer: answer.index)
        note_event("completions", **Counter(answer.status for answer in answers))
        return BatchAnswer(answers, max((wait for wait in waits if wait), default=None))

    def _read(self, told: Sequence[bytes | msgspec.Raw]) -> tuple[list[_Entry], list[ItemAnswer]]:
        """The items that can be read, and answers for those that cannot."""
        latest = self._clock.campaign_now() + _CLOCKS_APART
        entries: list[_Entry] = []
        refused: list[ItemAnswer] = []
        for index, raw in enumerate(told):
            try:
                item = read_item(raw, latest)
            except UnreadableItem as error:
                refused.append(ItemAnswer(index, "rejected", error.event_id, str(error)))
            else:
                entries.append(_Entry(index, item, _event_of(self._key, item)))
        return entries, refused

    async def _recognise(self, entries: Sequence[_Entry]) -> None:
        """End what was recorded before."""
        async with storage_within(self._storage_seconds):
            known = await self._stores.events.read([entry.event.key for entry in entries])
        for entry in entries:
            digest = known.get(entry.event.key)
            if digest == entry.event.digest:
                entry.end("duplicate")
            elif digest is not None:
                entry.end(
                    "rejected",
                    "This event_id was recorded with another person or time. Give each event an id"
                    " of its own.",
                )

    async def _find(self, entries: Sequence[_Entry]) -> float | None:
        """Find out who is meant. Returns for how long Graph asked us to wait, if it did."""
        found, failure = await _ask_each(
            [entry.item.account for entry in entries],
            self._directory.find_user,
            self._asking_seconds,
        )
        for entry in entries:
            person = found.get(entry.item.account)
            if person is not None:
                entry.person = person
                entry.evidence = f"callback: {entry.item.source}"
            elif entry.item.account in found:
                entry.end("rejected", _NO_ACCOUNT)
            else:
                entry.end("retry", str(failure))
        return failure.after if isinstance(failure, RetryLater) else None

    async def _verify(self, entries: Sequence[_Entry]) -> float | None:
        """Look up who has registered, where that is asked for. Returns as `_find` does."""
        wanted = [entry for entry in entries if entry.item.verify]
        if not wanted:
            return None
        done_when = await self._strictest()
        how = choose_source(self._confirm, done_when)
        found, failure = await _ask_each(
            [entry.person for entry in wanted],
            lambda person: self._directory.confirm(person, how, done_when),
            self._asking_seconds,
        )
        for entry in wanted:
            registration = found.get(entry.person)
            if registration is Registration.REGISTERED:
                entry.evidence += f", verified by {how}"
                entry.proves = done_when
            elif registration is not None:
                behind = " It is hours behind: tell it again later." if how == "report" else ""
                entry.end("rejected", _NOT_REGISTERED[registration] + behind)
            elif entry.person in found:
                entry.end("rejected", _NO_ACCOUNT)
            else:
                entry.end("retry", str(failure))
        return failure.after if isinstance(failure, RetryLater) else None

    async def _strictest(self) -> DoneWhen:
        """What counts as done for every campaign, since each of them is told."""
        async with storage_within(self._storage_seconds):
            book = await self._book.read()
        asked = {standing.campaign.done_when for standing in book.standings.values()}
        return "capable" if "capable" in asked else "registered"

    async def _write(self, entries: Sequence[_Entry]) -> None:
        if not entries:
            return
        completions = [
            Completion(one.person, "confirmed", one.evidence, one.proves) for one in entries
        ]
        async with storage_within(self._storage_seconds):
            campaigns = await self._completion.record(completions)
        if not campaigns:
            for entry in entries:
                entry.end("retry", "No campaign is in force. Tell it again once one is.")
            return
        # The events come last. After a crash in between the event is told again and its person is
        # recorded again, which does no harm; were the event there without its person, it would be
        # a duplicate for ever, and somebody would be reminded of what they have done. Two calls
        # side by side with one event write the same twice, for the same reason.
        async with storage_within(self._storage_seconds):
            await self._stores.events.write([entry.event for entry in entries])
        for entry in entries:
            entry.end("recorded")


_NO_ACCOUNT = "The directory has no such account."
_NOT_REGISTERED = {
    Registration.UNREGISTERED: "The directory shows no method that is a second factor.",
    Registration.UNRECOGNISED: "The directory shows only methods of types that we don't know.",
    Registration.UNKNOWN: "The registration report has no row of this account.",
}


def _open(entries: Iterable[_Entry]) -> list[_Entry]:
    return [entry for entry in entries if entry.answer is None]


def _repeat(entry: _Entry, first: _Entry) -> None:
    """Answer an item whose event has come earlier among the same items."""
    if entry.event != first.event:
        entry.end("rejected", "An earlier item has this event_id and says something else.")
    elif first.answer and first.answer.status != "recorded":
        entry.end(first.answer.status, first.answer.detail)
    else:
        entry.end("duplicate")


async def _ask_each[Key, Found](
    keys: Iterable[Key], ask: Callable[[Key], Awaitable[Found]], seconds: float
) -> tuple[dict[Key, Found], RetryLater | SetupFault]:
    """Ask Graph of each key once, some side by side. Returns what was found, and why a key that is
    missing there has no answer.

    The first question that Graph can't answer is the last: whatever the matter is, the others would
    meet it, too, and 1,000 of them that wait for a time-out would take longer than there is.
    """
    found: dict[Key, Found] = {}
    failures: list[RetryLater | SetupFault] = []
    waiting = iter(dict.fromkeys(keys))

    async def ask_on() -> None:
        while not failures and (key := next(waiting, None)) is not None:
            try:
                found[key] = await ask(key)
            except (RetryLater, SetupFault) as error:
                failures.append(error)

    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for _ in range(_QUESTIONS_AT_ONCE):
                group.create_task(ask_on())
    for fault in failures:
        if isinstance(fault, SetupFault):
            raise_alarm("cannot_confirm", detail=str(fault))
            break
    late = RetryLater("Graph needs too long for so many items. Tell fewer at once.")
    return found, failures[0] if failures else late


class UnreadableItem(Exception):
    """An item that says nothing. Its text tells what to change; of the item it repeats nothing.

    Attributes:
        event_id: where that much could be read, else "".
    """

    def __init__(self, problems: Sequence[str], event_id: str = "") -> None:
        super().__init__(" ".join(problems))
        self.event_id = event_id


class _Field[Value](msgspec.Struct, frozen=True):
    """A field of an item: how it is read, and what it must be, in words."""

    decoder: msgspec.json.Decoder[Value]
    form: str


def _field(type: Any, form: str) -> _Field[Any]:
    return _Field(msgspec.json.Decoder(type), form)


# Each as in docs/completions.openapi.yaml. Of a name no more is taken than Entra lets it have: one
# that Graph cannot read would end the questions for all items. The source goes into the ledger, and
# from there into lists and pages.
_FIELDS = {
    "user_id": _field(uuid.UUID, "the object id of an account, a GUID"),
    "user_principal_name": _field(
        Annotated[
            str, msgspec.Meta(pattern=r"^[A-Za-z0-9.'_!#$&+=^~-]{1,128}@[A-Za-z0-9.-]{1,128}\Z")
        ],
        "a user principal name, as the directory has it",
    ),
    "completed_at": _field(
        Annotated[datetime, msgspec.Meta(tz=True)],
        "a time with its offset, such as 2027-03-17T10:00:00+08:00",
    ),
    "source": _field(
        Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,63}\Z")],
        "the name of your system: up to 64 letters, digits, spaces and . _ : / - behind a letter or"
        " digit",
    ),
    "event_id": _field(
        Annotated[str, msgspec.Meta(min_length=1, max_length=128)],
        "your own id of the event, 1 to 128 characters",
    ),
    "verify": _field(bool, "true or false"),
}
_REQUIRED = ("completed_at", "source", "event_id")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_item(raw: bytes | msgspec.Raw, latest: datetime) -> Item:
    """The item in a piece of JSON.

    Args:
        latest: the last instant that does not lie in the future.

    Raises UnreadableItem with all that is wrong with it.
    """
    try:
        given = _OBJECT.decode(raw)
    except _UNREADABLE:
        raise UnreadableItem(["It is no JSON object."]) from None
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        try:
            if name in given:
                values[name] = field.decoder.decode(given[name])
            elif name in _REQUIRED:
                problems.append(f"{name} is missing: {field.form}.")
        except _UNREADABLE:
            problems.append(f"{name} must be {field.form}.")
    if given.keys() - _FIELDS.keys():
        problems.append(f"It has unknown fields; there are {', '.join(_FIELDS)}.")
    if ("user_id" in given) == ("user_principal_name" in given):
        problems.append("It must have one of user_id and user_principal_name.")
    if "completed_at" in values and values["completed_at"] > latest:
        problems.append("completed_at lies in the future.")
    if problems:
        raise UnreadableItem(problems, values.get("event_id", ""))
    account = values.get("user_id") or values["user_principal_name"]
    return Item(
        str(account).lower(),  # of neither does the directory mind the case
        values["completed_at"],
        values["source"],
        values["event_id"],
        values.get("verify", False),
    )


def _event_of(key: bytes, item: Item) -> Event:
    """The event of an item, and what it says: who has registered, and when.

    Hashed with a key, since both may be guessed: names of accounts, and ids that are made of them.
    """
    microseconds = (item.completed_at - _EPOCH) // timedelta(microseconds=1)
    return Event(
        hmac.digest(key, f"event\0{item.source}\0{item.event_id}".encode(), "sha256"),
        hmac.digest(key, f"said\0{item.account}\0{microseconds}".encode(), "sha256")[
            :_DIGEST_BYTES
        ],
    )
