"""One alumnus as the local system knows them: the simulated tenant's account, the ledger's rows,
the inbox's mails and texts."""

from __future__ import annotations

import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from local.inbox import Mail, Text, read_messages, read_texts
from shared.clock import CampaignTime, StorageTime
from shared.rules.parcels import CHANNELS, SHARDS, Channel, Parcel, State, has_bit
from shared.rules.registration import Registration, decide_methods, shard_of
from shared.stores.people import NOBODY

if TYPE_CHECKING:
    from local.system import LocalSystem
    from shared.rules.cadence import PlannedTouch
    from shared.workflows.campaigns import Standing


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What the tenant says of an account.

    Attributes:
        methods: what it has registered, in words; passwords are none.
        since: when the newest of them was registered, campaign time.
    """

    name: str
    user_principal_name: str
    registered: bool
    methods: tuple[str, ...]
    since: datetime | None


type _Part = tuple[str, Channel]
"""A touch on one of its channels."""

SENT = ("sent", "delivered")
"""States of what has gone to a person."""


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """What one touch was to a person, on one channel.

    Attributes:
        opening: when the touch opens, or opened.
        state: "sent", "delivered", "planned", "left out", "did not work", "refused",
            "no clear answer", "not sent" or "".
        at: when it was sent, or is to be, campaign time.
        messages: where their mails or texts are shown.
        others: how many others it has been sent to since the person registered.
    """

    touch: str
    channel: Channel
    opening: CampaignTime
    state: str
    at: CampaignTime | None
    messages: tuple[str, ...]
    others: int


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """A person's page.

    Attributes:
        account: None where the tenant is not simulated.
        confirmed_at, reported_at, opted_out_at: what the ledger remembers of them.
        refuses: channels on which they asked the provider for no more.
        bad: how many of their addresses and numbers are known not to work.
    """

    id: str
    account: Account | None
    touches: tuple[Touched, ...]
    confirmed_at: CampaignTime | None
    reported_at: StorageTime | None
    opted_out_at: StorageTime | None
    refuses: frozenset[Channel] = frozenset()
    bad: int = 0

    @property
    def went_since(self) -> list[Touched]:
        """Touches that have gone to others since the person registered, by channel."""
        return [one for one in self.touches if one.others]

    def wants(self, channel: Channel) -> bool:
        """Whether anything may still come on a channel."""
        done = self.account and self.account.registered
        return not (done or self.opted_out_at or channel in self.refuses)

    @property
    def had_since(self) -> bool:
        """Whether the person was written to since they registered."""
        since = self.account.since if self.account else None
        sent = (one.at for one in self.touches if one.state in SENT and one.at)
        return since is not None and any(at > since for at in sent)


class _User(msgspec.Struct, rename="camel"):
    user_principal_name: str
    display_name: str | None = None


class _Method(msgspec.Struct):
    created_at: datetime = msgspec.field(name="createdDateTime")
    type: str = msgspec.field(name="@odata.type")


class _Methods(msgspec.Struct):
    value: list[_Method]


class People:
    """Looks at people, and lets them register."""

    def __init__(self, system: LocalSystem, http: aiohttp.ClientSession) -> None:
        self._system = system
        self._http = http

    async def read(self, person: uuid.UUID, standing: Standing | None) -> Story | None:
        """A person's story in a campaign; None where the simulated tenant has no such account."""
        account = None
        if self._system.tenant_url:
            account = await self._read_account(self._system.tenant_url, person)
            if account is None:
                return None
        known = NOBODY
        touches: tuple[Touched, ...] = ()
        if standing:
            shard = shard_of(person.bytes)
            remembered = await self._system.app.stores.people.read_shard(standing.name, shard)
            known = remembered.get(person.bytes, NOBODY)
            since = account.since if account and account.registered else None
            touches = await self._read_touches(person.bytes, standing, since)
        return Story(
            id=str(person),
            account=account,
            touches=touches,
            confirmed_at=known.confirmed_at,
            reported_at=known.reported_at,
            opted_out_at=known.opted_out_at,
            refuses=known.refuses,
            bad=len(known.bad),
        )

    async def register(self, person: uuid.UUID) -> bool:
        """Let a person register now in the simulated tenant. False where there is no such one."""
        url = f"{self._system.tenant_url}/people/{person}/register"
        async with self._http.post(url) as answer:
            return answer.status == 204

    async def find_mails_reader(self, number: int) -> uuid.UUID | None:
        """Who a mail of the inbox went to; None where it is none of the ledger's."""
        inbox = self._system.inbox_url
        found = inbox and await read_messages(self._http, inbox, limit=1, offset=number)
        return await self._find_reader(found.messages) if found else None

    async def find_texts_reader(self, number: int) -> uuid.UUID | None:
        """Who a text went to; None where it is none of the ledger's."""
        phones = self._system.texts_url
        found = phones and await read_texts(self._http, phones, limit=1, offset=number)
        return await self._find_reader(found.texts) if found else None

    async def _find_reader(self, messages: Sequence[Mail | Text]) -> uuid.UUID | None:
        if not messages:
            return None
        # What we gave along is `{campaign}:{digit}|{row key}`; `i` is the place in that row.
        partition, _, key = (messages[0].parcel or "").partition("|")
        campaign, _, digit = partition.rpartition(":")
        if digit not in SHARDS or not digit:
            return None
        row = await self._system.app.stores.ledger.read(campaign, int(digit, 16), key)
        people = dict(row.people()) if row and not row.seed else {}
        index = messages[0].index
        person = people.get(-1 if index is None else index)
        return uuid.UUID(bytes=person) if person else None

    async def _read_account(self, tenant: str, person: uuid.UUID) -> Account | None:
        url = f"{tenant}/v1.0/users/{person}"
        select = {"$select": "displayName,userPrincipalName"}
        async with self._http.get(url, params=select) as answer:
            if answer.status == 404:
                return None
            answer.raise_for_status()
            user = msgspec.json.decode(await answer.read(), type=_User)
        async with self._http.get(f"{url}/authentication/methods", raise_for_status=True) as answer:
            found = msgspec.json.decode(await answer.read(), type=_Methods).value
        methods = [one for one in found if "password" not in one.type]
        return Account(
            name=user.display_name or "",
            user_principal_name=user.user_principal_name,
            registered=decide_methods(one.type for one in found) is Registration.REGISTERED,
            methods=tuple(_words_of(one.type) for one in methods),
            since=max((one.created_at for one in methods), default=None),
        )

    async def _read_touches(
        self, person: bytes, standing: Standing, since: datetime | None
    ) -> tuple[Touched, ...]:
        theirs: defaultdict[_Part, list[tuple[Parcel, int]]] = defaultdict(list)
        others: Counter[_Part] = Counter()
        async for parcel in self._system.app.status.scan_parcels(standing.name):
            if parcel.seed:
                continue
            part: _Part = (parcel.touch, parcel.channel)
            had = 0
            for index, one in parcel.people():
                if one == person:
                    theirs[part].append((parcel, index))
                elif parcel.state is State.ACCEPTED:
                    had += parcel.outcome_of(index) == "had"
            if since and parcel.touched_at and parcel.touched_at > since:
                others[part] += had
        parts: list[tuple[PlannedTouch, _Part]] = [
            (step, (step.touch, channel))
            for step in standing.schedule.steps
            for channel in CHANNELS
            if channel in step.channels
        ]
        return tuple(
            [
                await self._read_touch(part, step.opening, theirs[part], others[part])
                for step, part in parts
            ]
        )

    async def _read_touch(
        self,
        part: _Part,
        opening: CampaignTime,
        rows: list[tuple[Parcel, int]],
        others: int,
    ) -> Touched:
        state, at = "", None
        # Of several rows the one that is not closed counts.
        for parcel, index in sorted(rows, key=lambda row: row[0].state is not State.CLOSED):
            state = _state_of(parcel, index)
            at = parcel.touched_at or parcel.not_before
        touch, channel = part
        find = self._find_mails if channel == "email" else self._find_texts
        messages = [await find(*row) for row in rows if row[0].attempt]
        return Touched(
            touch=touch,
            channel=channel,
            opening=opening,
            state=state,
            at=at,
            messages=tuple(dict.fromkeys(path for paths in messages for path in paths)),
            others=others,
        )

    async def _find_mails(self, parcel: Parcel, index: int) -> list[str]:
        if self._system.inbox_url is None:
            return []
        found = await read_messages(
            self._http, self._system.inbox_url, parcel=_name_of(parcel), i=index
        )
        return [f"/mails/{mail.number}" for mail in found.messages]

    async def _find_texts(self, parcel: Parcel, index: int) -> list[str]:
        if self._system.texts_url is None:
            return []
        found = await read_texts(self._http, self._system.texts_url, parcel=_name_of(parcel))
        return [f"/texts/{text.phone}" for text in found.texts if text.index == index]


def _name_of(parcel: Parcel) -> str:
    """What is given along with a call, to know the parcel by."""
    return f"{parcel.campaign}:{parcel.shard:x}|{parcel.key}"


def _state_of(parcel: Parcel, index: int) -> str:
    """What a row says of one of its recipients, in words."""
    outcome = parcel.outcome_of(index)
    if outcome == "not had":
        return "" if parcel.reason == "replanned" else "not sent"
    if outcome == "refused":
        return "did not work"  # named by the provider at once, or in a receipt
    if outcome != "had":
        return outcome
    match parcel.state:
        case State.ACCEPTED:
            return "delivered" if has_bit(parcel.delivered, index) else "sent"
        case State.REJECTED:
            return "refused"
        case State.AMBIGUOUS:
            return "no clear answer"
        case _:
            return "planned"


def _words_of(kind: str) -> str:
    """`#microsoft.graph.softwareOathAuthenticationMethod` as `software oath`."""
    name = kind.removeprefix("#microsoft.graph.").removesuffix("AuthenticationMethod")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
