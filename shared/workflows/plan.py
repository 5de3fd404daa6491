"""Planning one shard of a campaign under a pair: take back, fold, ask the cadence, write parcels.

One writer per shard, held by the fence (stores/parcels). Whoever ends last sums the shards' counts
into the verdict.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from shared.clock import CampaignTime
from shared.errors import Superseded
from shared.messages.words import choose_language, offered_languages
from shared.rules.cadence import (
    LIFE,
    Due,
    PlannedTouch,
    Schedule,
    due_by_channel,
    due_touch,
    is_over,
)
from shared.rules.campaign import Campaign
from shared.rules.completion import outranks_report, silences
from shared.rules.contact import Recipient, address_key, choose_email, choose_number
from shared.rules.guards import LEDGER_LOST, ShardCounts, Verdict, judge
from shared.rules.pace import canary_share, day_limit, domain_of, finish_day, parcel_size
from shared.rules.parcels import (
    CHANNELS,
    NOTHING_HAD,
    OPEN,
    SHARDS,
    Channel,
    Had,
    Parcel,
    State,
    fold,
    fold_seeds,
    group_recipients,
    row_key,
)
from shared.rules.registration import (
    Account,
    Registration,
    exclusion,
    merge_registrations,
    shard_of,
    unpack_registration,
)
from shared.services.directory import RegistrationReport, Source
from shared.stores.control import PASSED
from shared.stores.outbox import outbox_name, pack_recipients
from shared.stores.pages import run_prefix, sweep_prefix
from shared.stores.people import NOBODY
from shared.telemetry import PEOPLE, current_trace, span
from shared.workflows.alarms import note_event, raise_alarm
from shared.workflows.sweep import has_all_passes, rosters_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date

    from shared.clock import Clock, StorageTime
    from shared.rules.campaign import Audience, Contact
    from shared.rules.registration import DoneWhen
    from shared.stores import Stores
    from shared.stores.control import ControlRow
    from shared.stores.pages import PassReader
    from shared.stores.parcels import PlanningRun
    from shared.stores.people import Person
    from shared.stores.queues import PlanShard
    from shared.stores.sweeps import Sweep
    from shared.workflows.campaigns import Book, CampaignBook, Standing

SEED_SHARD = 0
"""The shard in which the parcels of seed addresses are planned."""

_KINDS = (
    *("roster", "registered", "unregistered", "unknown", "unrecognised", "excluded"),
    "unreachable",
)
"""Counts of people that stand in ShardCounts and in telemetry under one name."""


@dataclass(frozen=True)
class Shard:
    """What a sweep says of the accounts of one shard of a campaign's audience.

    Attributes:
        accounts: the roster, each account once.
        codes: packed registrations of those that the report knows.
        excluded: ids of the exclusion groups' members.
    """

    accounts: dict[bytes, Account]
    codes: dict[bytes, int]
    excluded: set[bytes]


@dataclass(frozen=True)
class Judged:
    """What is so of one account: why it is excluded, or its registration and its contacts.

    Attributes:
        reachable: whether there is a usable contact on any channel of the cadence.
        contacts: the address or number on each channel that may be used.
        confirmed: registered by a completion that outranks the report.
        opted_out: asked for no more, on every channel on which there is a contact.
        silenced: says that they have registered, and no sweep has looked since.
    """

    account: Account
    excluded: str | None
    registration: Registration
    reachable: bool = True
    contacts: dict[Channel, str] = field(default_factory=dict[Channel, str])
    confirmed: bool = False
    opted_out: bool = False
    silenced: bool = False


@dataclass(frozen=True)
class SlowTouch:
    """A touch that the campaign's pace cannot finish in time.

    Attributes:
        day: on which it would be finished if it could go on.
        domain: the limited domain that alone keeps it, and whose `recipients` these are; "" for
            all recipients, whatever their domain.
    """

    touch: str
    channel: Channel
    recipients: int
    day: date
    domain: str = ""


class PlanWorkflow:
    """Plans shards and writes verdicts.

    Args:
        key: keyed hashes of bad addresses are made with it.
        sender_maximum: recipients that each channel's sender can put into one call.
    """

    def __init__(
        self,
        stores: Stores,
        book: CampaignBook,
        clock: Clock,
        *,
        key: bytes,
        sender_maximum: Mapping[Channel, int],
    ) -> None:
        self._stores = stores
        self._book = book
        self._clock = clock
        self._key = key
        self._sender_maximum = sender_maximum
        # A process plans one shard at a time: memory is that of one shard.
        self._one_at_a_time = asyncio.Lock()
        self._readers: dict[str, PassReader] = {}

    async def plan(self, message: PlanShard) -> bool:
        """Plan a shard, if it is to be planned under the message's pair now.

        Returns whether the campaign has the verdict `go` now, and this call planned a shard of it.
        """
        async with self._one_at_a_time:
            return await self._plan(message)

    async def _plan(self, message: PlanShard) -> bool:
        sweep = await self._stores.sweeps.read_committed()
        book = await self._read_book(message)
        standing = book.standings.get(message.campaign)
        if standing is None or sweep is None:
            return False
        if (message.sweep, message.version) != (sweep.number, standing.version):
            return False  # not the wanted pair, or not any more
        if not has_all_passes(standing, sweep):
            return False  # release asks for a sweep that has them
        of = {"campaign": standing.name, "shard": message.shard, "sweep": sweep.number}
        with span("plan shard", of | {"version": standing.version}, within=sweep.trace):
            try:
                if not await self._plan_under(book, standing, sweep, message.shard):
                    return False
            except Superseded:
                return False
            verdict = await self.conclude(standing, sweep)
            return verdict is not None and verdict.go

    async def _read_book(self, message: PlanShard) -> Book:
        """The campaigns, the message's own under its version at least: our view may be seconds
        older."""
        book = await self._book.read()
        standing = book.standings.get(message.campaign)
        if standing is None or standing.version < message.version:
            return await self._book.refresh()
        return book

    async def _plan_under(self, book: Book, standing: Standing, sweep: Sweep, shard: int) -> bool:
        """Returns whether the shard was planned by this call."""
        ledger = self._stores.ledger
        pair = (sweep.number, standing.version)
        began_at = self._clock.storage_now()
        fence = await ledger.read_fence(standing.name, shard)
        if fence is not None:
            if fence.pair > pair or (fence.pair == pair and fence.done):
                return False
            rested = (began_at - fence.moved_at).total_seconds()
            if fence.pair == pair and fence.run and rested < self._clock.ages.fence_at_rest:
                return False
        else:
            await self._hold_if_lost(standing.name, pair)
        run_id = secrets.token_hex(6)
        run = await ledger.take_fence(standing.name, shard, fence, pair, run_id, began_at)
        survivors = await self._take_back(standing, run)
        people = await self._read_people(book, standing, shard)
        facts = await self._load(standing.campaign, sweep, shard, run)
        await run.refresh()
        controls = await self._read_controls(standing)
        plan = _ShardPlan(standing, self._clock.campaign_now())
        for judged in self.judge(standing.campaign, sweep, facts, people):
            plan.add(judged, survivors.had.get(judged.account.id, NOTHING_HAD))
        drafts = plan.drafts(shard, self._sender_maximum, controls, survivors.canaries)
        if shard == SEED_SHARD:
            drafts += self._seed_drafts(standing, survivors.seeds_had)
        parcels = await self._write_outbox(run, drafts)
        await run.plan(parcels)
        await run.note_changes([p for p in survivors.open_people if not plan.is_still_due(p)])
        counts = msgspec.structs.replace(
            plan.counts(), had=len(survivors.had), parcels=len(parcels)
        )
        await run.finish(counts)
        note_event(
            "shard_planned",
            campaign=standing.name,
            shard=shard,
            sweep=sweep.number,
            version=standing.version,
            parcels=len(parcels),
            recipients=counts.recipients,
        )
        return True

    async def _read_people(self, book: Book, standing: Standing, shard: int) -> dict[bytes, Person]:
        """What is remembered of the shard's people, by this campaign or by another.

        What people say is written into every campaign that there is; this one may have come later.
        """
        asks = standing.campaign.done_when
        people = await self._stores.people.read_shard(standing.name, shard)
        for other in book.standings.values():
            if other.name == standing.name:
                continue
            proven = other.campaign.done_when in ("capable", asks)
            for who, known in (await self._stores.people.read_shard(other.name, shard)).items():
                people[who] = people.get(who, NOBODY).beside(known, completions=proven)
        return people

    async def _hold_if_lost(self, campaign: str, pair: tuple[int, int]) -> None:
        """A shard without a fence under a pair that was let go once: the ledger is not the one that
        was planned. Unless a person has said that it is to start anew, nothing more goes out."""
        verdict = await self._stores.control.read_verdict(campaign, pair)
        if verdict and verdict.go and not verdict.by:
            lost = msgspec.structs.replace(verdict, go=False, reasons=(LEDGER_LOST,))
            await self._stores.control.replace_verdict(campaign, pair, lost)
            raise_alarm("verdict_pause", campaign=campaign, reasons=lost.reasons)

    async def _take_back(self, standing: Standing, run: PlanningRun) -> _Survivors:
        """Close what is planned; what stays says who has had what.

        A row whose touch cannot be planned any more has expired: its people were due, and are to
        be found as unreached.
        """
        found = [
            parcel
            async for parcel in self._stores.ledger.scan(
                standing.name, run.shard, where="state ne 'closed'"
            )
        ]
        keys = {parcel.key for parcel in found}
        # A parcel that was split while it was read is its parts, which come after it.
        found = [parcel for parcel in found if f"{parcel.key}a" not in keys]
        planned = [p for p in found if p.state is State.PLANNED and not p.doubt]
        stays = [p for p in found if p.state is not State.PLANNED or p.doubt]
        now = self._clock.campaign_now()
        for touch in sorted({parcel.touch for parcel in planned}):
            parcels = [parcel for parcel in planned if parcel.touch == touch]
            if not is_over(standing.schedule, touch, now):
                stays += await run.take_back(parcels, "replanned")
                continue
            stays += await run.take_back(parcels, "expired")
            raise_alarm(
                "parcels_expired",
                campaign=standing.name,
                touch=touch,
                parcels=len(parcels),
                recipients=sum(parcel.count for parcel in parcels),
            )
        still_open = (p for p in stays if p.state in OPEN and not p.final)
        canaries: dict[tuple[str, Channel], int] = {}
        for parcel in stays:
            if parcel.canary and parcel.state is not State.CLOSED:
                of = (parcel.touch, parcel.channel)
                canaries[of] = canaries.get(of, 0) + parcel.count
        return _Survivors(
            had=fold(stays),
            seeds_had=fold_seeds(stays),
            canaries=canaries,
            open_people={person for p in still_open if not p.seed for _, person in p.people()},
        )

    async def _load(
        self, campaign: Campaign, sweep: Sweep, shard: int, run: PlanningRun | None = None
    ) -> Shard:
        """The shard's accounts and registrations, from the pages of a committed sweep."""
        facts = Shard({}, {}, set())
        audience, *exclusions = rosters_of(campaign.audience)
        async for accounts in (await self._open(sweep, audience)).read_accounts(shard):
            for account in accounts:
                facts.accounts.setdefault(account.id, account)
            await _keep_alive(run)
        for roster in exclusions:
            async for accounts in (await self._open(sweep, roster)).read_accounts(shard):
                facts.excluded.update(account.id for account in accounts)
                await _keep_alive(run)
        codes = facts.codes
        async for rows in (await self._open(sweep, RegistrationReport())).read_codes(shard):
            for person, code in rows:
                if person in facts.accounts:
                    seen = codes.get(person)
                    codes[person] = code if seen is None else merge_registrations(seen, code)
            await _keep_alive(run)
        return facts

    async def _open(self, sweep: Sweep, source: Source) -> PassReader:
        """The reader of a pass. A committed sweep never changes: its pages are listed once."""
        one = sweep.find(source.name)
        if one is None:
            raise LookupError(f"sweep {sweep.number} has no pass {source.name}")
        prefix = run_prefix(sweep.number, one.source, one.run)
        if prefix not in self._readers:
            pages = await self._stores.pages.list_pages(prefix)
            if len(pages) < one.pages:
                raise LookupError(f"sweep {sweep.number}: pages of {source.name} are gone")
            newest = sweep_prefix(sweep.number)
            self._readers = {
                name: reader for name, reader in self._readers.items() if name.startswith(newest)
            }
            self._readers[prefix] = self._stores.pages.open_pass(pages[: one.pages])
        return self._readers[prefix]

    def judge(
        self, campaign: Campaign, sweep: Sweep, facts: Shard, people: Mapping[bytes, Person]
    ) -> Iterable[Judged]:
        """What is so of each account, as this sweep and people themselves have said."""
        return judge_accounts(
            *(facts, campaign.audience, campaign.done_when, campaign.contact),
            channels=channels_of(campaign),
            people=people,
            now=self._clock.campaign_now(),
            looked_at=sweep.opened_at,
            key=self._key,
        )

    async def _read_controls(self, standing: Standing) -> dict[Channel, ControlRow]:
        return {
            channel: await self._stores.control.read(standing.name, channel)
            for channel in channels_of(standing.campaign)
        }

    def _seed_drafts(self, standing: Standing, had: Mapping[str, Had]) -> list[_Draft]:
        """What the seed addresses are due, in each language: they follow the cadence as somebody
        who never registers."""
        campaign = standing.campaign
        addresses = campaign.sending.seed_addresses
        if not addresses or campaign.sending.mode == "dry-run":
            return []
        recipients = [
            Recipient(
                address_key(self._key, address), address, "", campaign.institution.account_example
            )
            for address in addresses
        ]
        now = self._clock.campaign_now()
        drafts: list[_Draft] = []
        for language in offered_languages(campaign.institution.name):
            known = had.get(language, NOTHING_HAD)
            touches = {touch for touch, _ in known.touches}
            if due := due_touch(standing.schedule, touches, known.last_at, now):
                drafts.append(_Draft("email", due, language, recipients, seed=True))
        return drafts

    async def _write_outbox(self, run: PlanningRun, drafts: list[_Draft]) -> list[Parcel]:
        """Write the contact data of all parcels, then return their rows."""
        if not drafts:
            return []
        name = outbox_name(run.campaign, run.shard, run.pair[0], run.run)
        body, slices = pack_recipients(draft.recipients for draft in drafts)
        await self._stores.outbox.write(name, body)
        trace = current_trace()
        return [
            Parcel(
                campaign=run.campaign,
                shard=run.shard,
                key=row_key(run.began_at, run.run, counter),
                state=State.PLANNED,
                sweep=run.pair[0],
                version=run.pair[1],
                touch=draft.due.touch.touch,
                channel=draft.channel,
                message=draft.due.touch.message,
                language=draft.language,
                domain=draft.domain,
                canary=draft.canary,
                seed=draft.seed,
                ids=b"".join(recipient.id for recipient in draft.recipients),
                not_before=draft.due.not_before,
                not_after=draft.due.not_after,
                planned_from=run.began_at,
                outbox=name,
                offset=part.offset,
                length=part.length,
                digest=part.digest,
                trace=trace,
            )
            for counter, (draft, part) in enumerate(zip(drafts, slices, strict=True))
        ]

    # verdict

    async def conclude(self, standing: Standing, sweep: Sweep) -> Verdict | None:
        """The verdict of a pair, once every shard is done under it; None before."""
        pair = (sweep.number, standing.version)
        if verdict := await self._stores.control.read_verdict(standing.name, pair):
            return verdict
        total = ShardCounts()
        # From the last shard down: shards are asked for from the first up, so that whoever is not
        # the last to finish mostly sees so at the first look.
        for shard in reversed(range(len(SHARDS))):
            fence = await self._stores.ledger.read_fence(standing.name, shard)
            if fence is None or fence.pair != pair or not fence.done:
                return None
            total += fence.counts
        of = {"campaign": standing.name, "sweep": pair[0], "version": pair[1]}
        with span("give verdict", of, within=sweep.trace):
            return await self._give_verdict(standing, pair, total)

    async def _give_verdict(
        self, standing: Standing, pair: tuple[int, int], total: ShardCounts
    ) -> Verdict:
        last_go = await self._stores.control.read_last_go(standing.name, pair)
        waves = await self._stores.campaigns.waves_went_out(standing.name)
        verdict = await self._stores.control.write_verdict(
            standing.name,
            pair,
            judge(total, last_go.counts if last_go else None, waves_went_out=waves),
        )
        for kind in _KINDS:
            PEOPLE.set(getattr(total, kind), campaign=standing.name, kind=kind)
        for slow in await self.find_slow(standing, total):
            raise_alarm(
                "pace_too_slow",
                campaign=standing.name,
                touch=slow.touch,
                channel=slow.channel,
                recipients=slow.recipients,
                day=slow.day.isoformat(),
                **({"domain": slow.domain} if slow.domain else {}),
            )
        if verdict.go:
            note_event("verdict_go", campaign=standing.name, sweep=pair[0], version=pair[1])
        else:
            raise_alarm("verdict_pause", campaign=standing.name, reasons=verdict.reasons)
        return verdict

    async def find_slow(self, standing: Standing, counts: ShardCounts) -> list[SlowTouch]:
        """What of the planned touches the campaign's pace cannot finish before they end; a limited
        domain's part by itself where that ends later than the whole."""
        controls = await self._read_controls(standing)
        slow: list[SlowTouch] = []
        for step in standing.schedule.steps:
            for channel, control in controls.items():
                whole = self._judge_pace(standing, step, channel, counts, control)
                slow += [whole] if whole else []
                for domain in standing.campaign.sending.max_per_domain_per_hour:
                    part = self._judge_pace(standing, step, channel, counts, control, domain)
                    if part and not (whole and part.day <= whole.day):
                        slow.append(part)
        return slow

    def _judge_pace(
        self,
        standing: Standing,
        step: PlannedTouch,
        channel: Channel,
        counts: ShardCounts,
        control: ControlRow,
        domain: str = "",
    ) -> SlowTouch | None:
        recipients = counts.planned.get(planned_key(step.touch, channel, domain), 0)
        not_before = max(step.opening, self._clock.campaign_now())
        day = finish_day(
            standing.campaign,
            channel,
            recipients=recipients,
            not_before=not_before,
            not_after=min(step.closes, CampaignTime(not_before + LIFE)),
            live_days=control.live_days,
            domain=domain,
        )
        return SlowTouch(step.touch, channel, recipients, day, domain) if day else None

    async def judge_one(self, standing: Standing, sweep: Sweep, person: bytes) -> Judged | None:
        """What is so of one account; None where the sweep has not found it in the audience."""
        shard = shard_of(person)
        facts = await self._load(standing.campaign, sweep, shard)
        account = facts.accounts.get(person)
        if account is None:
            return None
        alone = Shard({person: account}, facts.codes, facts.excluded)
        people = await self._read_people(await self._book.read(), standing, shard)
        (judged,) = self.judge(standing.campaign, sweep, alone, people)
        return judged

    async def list_due(self, standing: Standing, sweep: Sweep) -> dict[bytes, str]:
        """Everybody who is not registered and not excluded, with the reason why nothing can reach
        them; "" where something can."""
        book = await self._book.read()
        due: dict[bytes, str] = {}
        for shard in range(len(SHARDS)):
            people = await self._read_people(book, standing, shard)
            facts = await self._load(standing.campaign, sweep, shard)
            for judged in self.judge(standing.campaign, sweep, facts, people):
                unregistered = judged.registration is Registration.UNREGISTERED
                if judged.excluded is None and unregistered:
                    due[judged.account.id] = _why_unreachable(judged)
        return due


@dataclass(frozen=True)
class _Survivors:
    """What take-back left: who has had what, and whose rows may still be sent.

    Attributes:
        canaries: how many people stand in marked rows, by touch and channel.
    """

    had: dict[bytes, Had]
    seeds_had: dict[str, Had]
    canaries: dict[tuple[str, Channel], int]
    open_people: set[bytes]


@dataclass(frozen=True)
class _Draft:
    """A parcel before it has a row."""

    channel: Channel
    due: Due
    language: str
    recipients: list[Recipient]
    domain: str = ""
    canary: bool = False
    seed: bool = False


class _ShardPlan:
    """Collects who is due what, and counts."""

    def __init__(self, standing: Standing, now: CampaignTime) -> None:
        self._campaign = standing.campaign
        self._schedule: Schedule = standing.schedule
        self._now = now
        self._numbers = dict.fromkeys(
            (
                *("registered", "unregistered", "unknown", "unrecognised", "excluded"),
                *("unreachable", "confirmed", "opted_out", "reported"),
            ),
            0,
        )
        self._reasons: dict[str, int] = {}
        self._roster = 0
        self._due: dict[tuple[Channel, Due, str, str], list[Recipient]] = {}
        self._still_due: set[bytes] = set()
        self._channels = channels_of(self._campaign)
        # The cadence's answer depends on what someone has had, and few sets of that exist.
        self._answers: dict[
            tuple[frozenset[tuple[str, Channel]], CampaignTime | None, bool],
            dict[Channel, Due],
        ] = {}
        self._languages = offered_languages(standing.campaign.institution.name)
        sending = standing.campaign.sending
        self._sends = sending.mode != "dry-run"
        self._only = (
            frozenset(one.casefold() for one in sending.trial) if sending.mode == "trial" else None
        )

    def add(self, judged: Judged, had: Had) -> None:
        """Count one account, and note what is due to them."""
        self._roster += 1
        account = judged.account
        if judged.excluded is not None:
            self._numbers["excluded"] += 1
            self._reasons[judged.excluded] = self._reasons.get(judged.excluded, 0) + 1
            return
        self._numbers[judged.registration.value] += 1
        if judged.registration is not Registration.UNREGISTERED:
            self._numbers["confirmed"] += judged.confirmed
            return
        self._numbers["unreachable"] += not judged.reachable
        self._numbers["opted_out"] += judged.opted_out
        self._numbers["reported"] += judged.silenced
        if judged.opted_out:
            return
        # Whoever is silenced is still due: what they said is a change of its own.
        self._still_due.add(account.id)
        if not (judged.contacts and self._sends and self._is_addressed(account)):
            return
        for channel, due in self._due_for(judged, had).items():
            if (address := judged.contacts.get(channel)) is None:
                continue
            recipient = Recipient(
                account.id, address, account.display_name, account.user_principal_name
            )
            language = choose_language(account.language, self._languages)
            domain = domain_of(address, self._campaign.sending.max_per_domain_per_hour)
            self._due.setdefault((channel, due, language, domain), []).append(recipient)

    def _due_for(self, judged: Judged, had: Had) -> dict[Channel, Due]:
        """What is due on each channel."""
        key = (had.touches, had.last_at, judged.silenced)
        if key not in self._answers:
            self._answers[key] = due_by_channel(
                *(self._schedule, had.touches, had.last_at, self._now, self._channels),
                silenced=judged.silenced,
            )
        return self._answers[key]

    def _is_addressed(self, account: Account) -> bool:
        """In a trial only the accounts that the file names are written to."""
        if self._only is None:
            return True
        return (
            format_id(account.id) in self._only
            or account.user_principal_name.casefold() in self._only
        )

    def is_still_due(self, person: bytes) -> bool:
        """Whether somebody of a row that may still go out is in the audience and unregistered.

        Of whom nothing is known any more, nothing is guessed: they are left out, too.
        """
        return person in self._still_due

    def drafts(
        self,
        shard: int,
        sender_maximum: Mapping[Channel, int],
        controls: Mapping[Channel, ControlRow],
        marked: Mapping[tuple[str, Channel], int],
    ) -> list[_Draft]:
        """The parcels: same channel, touch, times, language and limited domain, no address twice
        in one. Where a touch's canary has not passed, the first of its people go before the
        others, in parcels that are marked.

        Args:
            marked: how many of a canary have gone before already. Planning again takes no others
                in addition: the canary would grow, and be waited for anew, with each night.
        """
        sending, today = self._campaign.sending, self._now.astimezone(self._campaign.zone).date()
        canaries: dict[tuple[str, Channel], int] = {}
        drafts: list[_Draft] = []
        for (channel, due, language, domain), recipients in self._due.items():
            control, touch = controls[channel], due.touch.touch
            size = parcel_size(
                sending,
                channel,
                domain=domain,
                sender_maximum=sender_maximum[channel],
                day_limit=day_limit(sending, channel, control.live_days, today),
            )
            first = 0
            if sending.live_canary and control.canaries.get(touch) != PASSED:
                share = canary_share(sending.live_canary.recipients, shard)
                share = max(0, share - marked.get((touch, channel), 0))
                first = min(canaries.setdefault((touch, channel), share), len(recipients))
                canaries[touch, channel] -= first
            for some, canary in ((recipients[:first], True), (recipients[first:], False)):
                drafts += (
                    _Draft(channel, due, language, [some[i] for i in indices], domain, canary)
                    for indices in group_recipients([one.address for one in some], size)
                )
        return drafts

    def counts(self) -> ShardCounts:
        planned: dict[str, int] = {}
        for (channel, due, _, domain), recipients in self._due.items():
            for part in {"", domain}:  # the whole, and a limited domain's part of it
                name = planned_key(due.touch.touch, channel, part)
                planned[name] = planned.get(name, 0) + len(recipients)
        return ShardCounts(
            roster=self._roster,
            recipients=sum(map(len, self._due.values())),
            planned=planned,
            reasons=self._reasons,
            **self._numbers,
        )


def planned_key(touch: str, channel: Channel, domain: str) -> str:
    """What `ShardCounts.planned` has the recipients under; "" is the touch as a whole."""
    return f"{touch}|{channel}|{domain}" if domain else f"{touch}|{channel}"


async def _keep_alive(run: PlanningRun | None) -> None:
    """Show that planning goes on, where it is planning that reads."""
    if run:
        await run.refresh()


def judge_accounts(
    facts: Shard,
    audience: Audience,
    done_when: DoneWhen,
    fields: Contact,
    *,
    channels: Iterable[Channel],
    people: Mapping[bytes, Person],
    now: CampaignTime,
    looked_at: StorageTime,
    key: bytes,
) -> Iterator[Judged]:
    """What is so of each account. Excluded is decided first.

    Args:
        people: what is remembered of them.
        looked_at: when the facts were asked for.
        key: of the hashes of bad addresses.
    """
    for account in facts.accounts.values():
        reason = (
            "exclusion group"
            if account.id in facts.excluded
            else exclusion(account, guests=audience.guests)
        )
        code = facts.codes.get(account.id)
        registration = (
            Registration.UNKNOWN if code is None else unpack_registration(code, done_when)
        )
        if reason is not None or registration is not Registration.UNREGISTERED:
            yield Judged(account, reason, registration)
            continue
        person = people.get(account.id, NOBODY)
        if outranks_report(person.confirmed_at, now):
            yield Judged(account, None, Registration.REGISTERED, confirmed=True)
            continue
        usable = _contacts_of(fields, channels, account, _bad_for(person, key))
        contacts: dict[Channel, str] = {
            channel: contact for channel, contact in usable.items() if not person.opted_out(channel)
        }
        yield Judged(
            account,
            None,
            registration,
            bool(usable),
            contacts,
            opted_out=person.opted_out_at is not None or bool(usable and not contacts),
            silenced=silences(person.reported_at, looked_at),
        )


def _contacts_of(
    fields: Contact, channels: Iterable[Channel], account: Account, bad: Callable[[str], bool]
) -> dict[Channel, str]:
    """The first usable contact on each of these channels that has one."""
    contacts: dict[Channel, str] = {}
    for channel in channels:
        if channel == "email":
            found = choose_email(account, fields.email, bad)
        else:
            found = choose_number(account, fields.sms, fields.default_region, bad)
        if found:
            contacts[channel] = found
    return contacts


def _bad_for(person: Person, key: bytes) -> Callable[[str], bool]:
    if not person.bad:
        return _nothing_is_bad
    return lambda address: address_key(key, address) in person.bad


def channels_of(campaign: Campaign) -> tuple[Channel, ...]:
    """The channels that a campaign's cadence names."""
    named = {channel for step in campaign.cadence for channel in step.channels}
    return tuple(channel for channel in CHANNELS if channel in named)


def format_id(person: bytes) -> str:
    """An object id as people write it."""
    text = person.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _why_unreachable(judged: Judged) -> str:
    if judged.opted_out:
        return "asked for no more reminders"
    return "" if judged.reachable else "no usable contact"


def _nothing_is_bad(_: str) -> bool:
    return False
