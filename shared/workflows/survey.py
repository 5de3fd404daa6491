"""The numbers of an audience before anything is deployed: one pass over the directory, in memory.

The same page reader as the sweep's and the same rule for an account as planning's, so that the
figures are those that the product would find. Nothing is stored and nothing is sent.

    report  ─► codes, 17 bytes a row       ┐ of each of 16 shards ─► judge_accounts ─► counts
    rosters ─► accounts, packed, by page   ┘

All lists are read side by side, as the sweep does: the report alone is slow, and a permission that
is missing for any of them shows within seconds, not after the report's ten minutes.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from shared.clock import CampaignTime, StorageTime, monotonic
from shared.errors import NudgeError, RetryLater, SetupFault, SkipTokenExpired
from shared.rules.campaign import Audience, Campaign, Contact
from shared.rules.parcels import CHANNELS, SHARDS, Channel
from shared.rules.registration import (
    Account,
    DoneWhen,
    Registration,
    merge_registrations,
    shard_of,
)
from shared.services.directory import (
    Directory,
    RegistrationReport,
    ReportPage,
    RosterPage,
    Source,
)
from shared.workflows.plan import Judged, Shard, channels_of, judge_accounts
from shared.workflows.sweep import MOST_RUNS, ReportPace, rosters_of

FEW = 10
"""Groups of fewer people are summed up: the mail domain of a few may name one of them."""

MOST_GROUPS = 20

_MOST_REFUSALS = 10  # in a row: then whoever has typed the command is told
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0
_SHOW_EACH = 1000  # people counted
_TOO_EARLY = 5.0  # seconds: the first pages come faster than the pace of all

_ACCOUNTS = msgspec.msgpack.Decoder(list[Account])
_CODE_BYTES = 17  # an object id and its packed registration


@dataclass(frozen=True)
class Population:
    """Who is counted, and what counts.

    Attributes:
        channels: those that the campaign uses; both where there is no campaign yet.
    """

    audience: Audience
    done_when: DoneWhen = "registered"
    contact: Contact = field(default_factory=Contact)
    channels: tuple[Channel, ...] = CHANNELS


def population_of(campaign: Campaign) -> Population:
    return Population(
        campaign.audience, campaign.done_when, campaign.contact, channels_of(campaign)
    )


class Figures(msgspec.Struct):
    """People, counted: each is excluded or one of the four that follow. The last three are parts of
    `unregistered`: `by_email` and `by_sms` have a usable contact, and may overlap."""

    people: int = 0
    excluded: int = 0
    registered: int = 0
    unregistered: int = 0
    unknown: int = 0
    unrecognised: int = 0
    by_email: int = 0
    by_sms: int = 0
    by_neither: int = 0

    def add(self, other: Figures) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Groups(msgspec.Struct, frozen=True):
    """Figures of parts of the audience, the largest first.

    Attributes:
        rest: the small ones together; `names` is how many they are.
    """

    largest: dict[str, Figures]
    rest: Figures
    names: int


class MailDomains(msgspec.Struct, frozen=True):
    """People whom mail would reach, by the domain of their address, the commonest first.

    Attributes:
        rest: people at the other domains; `names` is how many these are.
    """

    largest: dict[str, int]
    rest: int
    names: int


class Survey(msgspec.Struct, frozen=True):
    """What a survey found.

    Attributes:
        audience: what was read, in words.
        channels: the campaign's.
        total: of the audience.
        reasons: why people are excluded.
        unreachable: unregistered people without a usable contact on any of `channels`.
        account_domains: by the domain of the user principal name.
        languages: by preferred language, as the directory has it; "" where it has none.
        mail_domains: of the unregistered, of the first usable address of each.
        report_rows: of the tenant's registration report.
        unreadable: rows of any list that were left out, since they could not be read.
        requests: pages that were read; `refused` were put off by Graph, `restarts` passes began
            anew since Graph had forgotten the place.
    """

    audience: str
    done_when: DoneWhen
    channels: tuple[Channel, ...]
    total: Figures
    reasons: dict[str, int]
    unreachable: int
    account_domains: Groups
    languages: Groups
    mail_domains: MailDomains
    report_rows: int
    unreadable: int
    requests: int
    refused: int
    restarts: int
    seconds: float


@dataclass
class PassProgress:
    """How far one list is read."""

    name: str
    rows: int = 0
    done: bool = False


@dataclass
class Progress:
    """How far a survey is.

    Attributes:
        passes: the report first.
        counted: people, once all is read: telling which numbers are usable takes a while.
        users: of the tenant, about as many as the report has rows; None while that is not known.
        news: what has just happened that a person wants to know, "" mostly.
    """

    passes: list[PassProgress]
    began_at: float
    users: int | None = None
    counted: int = 0
    news: str = ""

    @property
    def seconds_left(self) -> float | None:
        """About how long the report takes from now on; None where nobody can say."""
        report = self.passes[0]
        elapsed = monotonic() - self.began_at
        if self.users is None or not report.rows or report.done or elapsed < _TOO_EARLY:
            return None
        return max(0, self.users - report.rows) * elapsed / report.rows


class SurveyWorkflow:
    """Reads, judges and counts.

    Args:
        show: is told of each page, and of whatever holds a pass up.
        pace: of the requests for the report; Graph's own limit where not given.
        wait: how seconds pass.
    """

    def __init__(
        self,
        directory: Directory,
        show: Callable[[Progress], None],
        *,
        pace: ReportPace | None = None,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._directory = directory
        self._show = show
        self._pace = pace or ReportPace()
        self._wait = wait

    async def survey(self, population: Population) -> Survey:
        """Raises SetupFault and RetryLater, as `Directory.read_page` does."""
        audience, *exclusions = rosters_of(population.audience)
        codes = _Codes(RegistrationReport())
        roster = _Accounts(audience)
        excluded = [_Ids(one) for one in exclusions]
        began_at = monotonic()
        progress = Progress([one.progress for one in (codes, roster, *excluded)], began_at)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._count_users(progress))
                group.create_task(self._read(codes, progress))
                group.create_task(self._read_rosters([roster, *excluded], progress))
        except BaseExceptionGroup as failed:
            # A permission that is missing outranks what waiting might have mended.
            raise min(_leaves(failed), key=lambda one: not isinstance(one, SetupFault)) from None
        passes: list[_Pass] = [codes, roster, *excluded]
        tally = _Tally(population.channels)
        for shard in range(len(SHARDS)):
            accounts = roster.accounts(shard)
            left_out = set[bytes]().union(*(one.ids[shard] for one in excluded))
            facts = Shard(accounts, codes.of(shard, accounts), left_out)
            for judged in _judge(facts, population):
                tally.add(judged)
                if tally.total.people % _SHOW_EACH == 0:
                    progress.counted = tally.total.people
                    self._show(progress)
                    await asyncio.sleep(0)  # so that Ctrl-C is heeded here, too
        return Survey(
            audience=str(audience),
            done_when=population.done_when,
            channels=population.channels,
            total=tally.total,
            reasons=dict(sorted(tally.reasons.items())),
            unreachable=tally.unreachable,
            account_domains=_largest_groups(tally.account_domains),
            languages=_largest_groups(tally.languages),
            mail_domains=_largest_domains(tally.mail_domains),
            report_rows=codes.progress.rows,
            unreadable=sum(one.unreadable for one in passes),
            requests=sum(one.requests for one in passes),
            refused=sum(one.refused for one in passes),
            restarts=sum(one.runs - 1 for one in passes),
            seconds=round(monotonic() - began_at, 1),
        )

    async def _count_users(self, progress: Progress) -> None:
        """For the estimate alone: without it there is none."""
        try:
            progress.users = await self._directory.count_users() or None
        except NudgeError:
            progress.users = None

    async def _read_rosters(self, rosters: list[_Accounts | _Ids], progress: Progress) -> None:
        async with asyncio.TaskGroup() as group:
            for one in rosters:
                group.create_task(self._read(one, progress))
        rows = sum(one.progress.rows for one in rosters)
        if rows and not any(one.with_contact for one in rosters):
            raise SetupFault(
                f"None of the {rows:,} accounts read has mail, otherMails or mobilePhone.",
                "Sign in through an app that has the permission User.Read.All: without it Graph"
                " leaves these fields empty and says nothing.",
            )

    async def _read(self, one: _Pass, progress: Progress) -> None:
        """One list, from its first page to its last."""
        link: str | None = None
        refusals = 0
        while True:
            try:
                page = await self._ask(one.source, link)
            except RetryLater as refusal:
                one.refused += 1
                refusals += 1
                if refusals > _MOST_REFUSALS:
                    raise
                await self._hold(one, refusals, refusal, progress)
                continue
            except SkipTokenExpired:
                self._start_anew(one, progress)
                link, refusals = None, 0
                continue
            refusals = 0
            one.requests += 1
            one.unreadable += page.unreadable
            one.progress.rows += len(page.rows)
            one.keep(page)
            link = page.next_link
            one.progress.done = link is None
            self._show(progress)
            if link is None:
                return

    async def _ask(self, source: Source, link: str | None) -> ReportPage | RosterPage:
        if not isinstance(source, RegistrationReport):
            return await self._directory.read_page(source, link)
        async with self._pace.turn():
            return await self._directory.read_page(source, link)

    async def _hold(
        self, one: _Pass, refusals: int, refusal: RetryLater, progress: Progress
    ) -> None:
        seconds = refusal.after
        if seconds is None:
            seconds = min(_FIRST_WAIT * 2 ** (refusals - 1), _LONGEST_WAIT)
        self._tell(progress, f"{refusal.what} Asking again in {seconds:.0f} s.")
        await self._wait(seconds)

    def _start_anew(self, one: _Pass, progress: Progress) -> None:
        if one.runs >= MOST_RUNS:
            raise SetupFault(
                f"Graph forgot the place in {one.source} in each of {MOST_RUNS} runs.",
                "Try again at another hour; its links of next pages last longer then.",
            )
        self._tell(
            progress,
            f"Graph no longer knows the place in {one.source}: reading it again from its first "
            f"page (run {one.runs + 1} of {MOST_RUNS}).",
        )
        one.start_anew()

    def _tell(self, progress: Progress, news: str) -> None:
        progress.news = news
        self._show(progress)
        progress.news = ""


class _Pass:
    """One list while it is read. `keep` takes what is needed of a page."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.progress = PassProgress(str(source))
        self.runs = 1
        self.requests = 0
        self.refused = 0
        self.unreadable = 0
        self.with_contact = 0
        self.clear()

    def start_anew(self) -> None:
        self.runs += 1
        self.unreadable = self.with_contact = self.progress.rows = 0
        self.clear()

    def clear(self) -> None:
        """Forget all pages."""
        raise NotImplementedError

    def keep(self, page: ReportPage | RosterPage) -> None:
        raise NotImplementedError


class _Codes(_Pass):
    """The report: object ids and packed registrations, by shard."""

    def clear(self) -> None:
        self._sections = [bytearray() for _ in SHARDS]

    def keep(self, page: ReportPage | RosterPage) -> None:
        assert isinstance(page, ReportPage)
        for person, code in page.rows:
            section = self._sections[shard_of(person)]
            section += person
            section.append(code)

    def of(self, shard: int, wanted: Container[bytes]) -> dict[bytes, int]:
        """The packed registration of each of these people of a shard that the report knows."""
        section, codes = self._sections[shard], dict[bytes, int]()
        for start in range(0, len(section), _CODE_BYTES):
            person, code = bytes(section[start : start + 16]), section[start + 16]
            if person not in wanted:
                continue
            seen = codes.get(person)
            codes[person] = code if seen is None else merge_registrations(seen, code)
        return codes


class _Accounts(_Pass):
    """The audience's roster: accounts as they come, packed, by shard."""

    def clear(self) -> None:
        self._sections: list[list[bytes]] = [[] for _ in SHARDS]

    def keep(self, page: ReportPage | RosterPage) -> None:
        assert isinstance(page, RosterPage)
        self.with_contact += page.with_contact
        sections: list[list[Account]] = [[] for _ in SHARDS]
        for account in page.rows:
            sections[shard_of(account.id)].append(account)
        for kept, accounts in zip(self._sections, sections, strict=True):
            if accounts:
                kept.append(zlib.compress(msgspec.msgpack.encode(accounts), 1))

    def accounts(self, shard: int) -> dict[bytes, Account]:
        """The accounts of a shard, each once: as it came first."""
        found: dict[bytes, Account] = {}
        for packed in self._sections[shard]:
            for account in _ACCOUNTS.decode(zlib.decompress(packed)):
                found.setdefault(account.id, account)
        return found


class _Ids(_Pass):
    """A group whose members are left out: their ids, by shard."""

    def clear(self) -> None:
        self.ids: list[set[bytes]] = [set() for _ in SHARDS]

    def keep(self, page: ReportPage | RosterPage) -> None:
        assert isinstance(page, RosterPage)
        self.with_contact += page.with_contact
        for account in page.rows:
            self.ids[shard_of(account.id)].add(account.id)


_NEVER = datetime.min.replace(tzinfo=UTC)


def _judge(facts: Shard, population: Population) -> Iterator[Judged]:
    """As planning does for a campaign that nobody has answered yet: then times and keys decide
    nothing. Both channels are looked at, whatever the campaign uses."""
    return judge_accounts(
        *(facts, population.audience, population.done_when, population.contact),
        channels=CHANNELS,
        people={},
        now=CampaignTime(_NEVER),
        looked_at=StorageTime(_NEVER),
        key=b"",
    )


class _Tally:
    """Counts accounts, as a whole and in parts."""

    def __init__(self, channels: tuple[Channel, ...]) -> None:
        self._channels = channels
        self.total = Figures()
        self.reasons: Counter[str] = Counter()
        self.unreachable = 0
        self.account_domains: defaultdict[str, Figures] = defaultdict(Figures)
        self.languages: defaultdict[str, Figures] = defaultdict(Figures)
        self.mail_domains: Counter[str] = Counter()

    def add(self, judged: Judged) -> None:
        one = _figures_of(judged)
        account = judged.account
        self.total.add(one)
        self.account_domains[_domain(account.user_principal_name)].add(one)
        self.languages[(account.language or "").casefold()].add(one)
        if judged.excluded is not None:
            self.reasons[judged.excluded] += 1
        elif one.unregistered:
            self.unreachable += not any(channel in judged.contacts for channel in self._channels)
            if address := judged.contacts.get("email"):
                self.mail_domains[_domain(address)] += 1


def _figures_of(judged: Judged) -> Figures:
    """What one account adds."""
    if judged.excluded is not None:
        return Figures(people=1, excluded=1)
    if judged.registration is not Registration.UNREGISTERED:
        figures = Figures(people=1)
        setattr(figures, judged.registration.value, 1)
        return figures
    return Figures(
        people=1,
        unregistered=1,
        by_email=int("email" in judged.contacts),
        by_sms=int("sms" in judged.contacts),
        by_neither=int(not judged.contacts),
    )


def _domain(address: str) -> str:
    return address.rpartition("@")[2].casefold()


def _largest_groups(groups: Mapping[str, Figures]) -> Groups:
    largest: dict[str, Figures] = {}
    rest, names = Figures(), 0
    for name, figures in sorted(groups.items(), key=lambda one: (-one[1].people, one[0])):
        if figures.people >= FEW and len(largest) < MOST_GROUPS:
            largest[name] = figures
        else:
            rest.add(figures)
            names += 1
    return Groups(largest, rest, names)


def _largest_domains(domains: Mapping[str, int]) -> MailDomains:
    in_order = sorted(domains.items(), key=lambda one: (-one[1], one[0]))
    largest = {name: people for name, people in in_order[:MOST_GROUPS] if people >= FEW}
    rest = sum(domains.values()) - sum(largest.values())
    return MailDomains(largest, rest, len(domains) - len(largest))


def _leaves(failed: BaseException) -> list[BaseException]:
    if not isinstance(failed, BaseExceptionGroup):
        return [failed]
    return [leaf for one in failed.exceptions for leaf in _leaves(one)]
