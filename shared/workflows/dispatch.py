"""Sending one parcel: at most one call that may have been accepted.

Check, render, claim, call, settle. Everything that can fail by our own fault comes before the
claim, and the claim comes before the call: whatever happens afterwards, the row says that the call
may have left.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from shared.clock import CampaignTime, StorageTime, monotonic
from shared.rules.calendar import window_open
from shared.rules.completion import silences
from shared.rules.contact import Recipient, address_key
from shared.rules.guards import link_fault
from shared.rules.parcels import (
    ID_BYTES,
    OPEN,
    Channel,
    Parcel,
    State,
    allow,
    cut_bits,
    has_bit,
    with_bits,
)
from shared.services.senders import (
    Accepted,
    Ambiguous,
    Identity,
    Outcome,
    Prepared,
    Refused,
    RefusedReason,
    Sender,
)
from shared.stores.control import ControlRow
from shared.stores.outbox import Slice
from shared.stores.parcels import Changes, partition_of
from shared.stores.queues import HandOut
from shared.stores.table import Conflict
from shared.telemetry import PARCELS, RECIPIENTS, span
from shared.workflows.alarms import note_event, raise_alarm

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.stores import Stores
    from shared.workflows.campaigns import CampaignBook, Standing
    from shared.workflows.completion import CompletionWorkflow
    from shared.workflows.composing import Composer

NO_CLEAR_ANSWER = "no clear answer"
"""Reason of a row whose call may have been accepted; see `CHANGES` in rules/parcels."""

_MOST_LOOKS = 2
"""How often it is looked up who is left out, where that grows too old before the claim."""

MOST_FAULTS = 3
"""Faults of our own between claim and call; the third closes the row as failed. And refusals that
name nobody, with nothing accepted in between: the third is taken for a set-up fault."""


@dataclass(frozen=True)
class SendingSettings:
    """What dispatch needs of the settings."""

    address_key: bytes
    public_base_url: str
    link_hosts: frozenset[str]


class DispatchWorkflow:
    """Sends parcels, each through the sender of its channel.

    Args:
        senders: of the channels that the app can send on.
        completion: remembers what a provider says of addresses, in every campaign.
    """

    def __init__(
        self,
        stores: Stores,
        book: CampaignBook,
        senders: Mapping[Channel, Sender],
        composer: Composer,
        completion: CompletionWorkflow,
        clock: Clock,
        settings: SendingSettings,
    ) -> None:
        self._stores = stores
        self._book = book
        self._senders = senders
        self._composer = composer
        self._completion = completion
        self._clock = clock
        self._settings = settings
        self._stopping = False
        self._under_way = 0
        self._when_idle: Callable[[], None] = _nothing
        self._controls: dict[tuple[str, Channel], tuple[float, ControlRow]] = {}
        self._changes: dict[tuple[str, int], tuple[float, StorageTime, Changes]] = {}
        self._marked_waves: set[str] = set()
        # Messages that miss a cache together wait for one of them to fill it.
        self._filling: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._accepted_at: dict[tuple[str, Channel], float] = {}
        self._refused_at: dict[tuple[str, str], float] = {}
        self._nameless: Counter[tuple[str, Channel]] = Counter()

    def stop(self, when_idle: Callable[[], None]) -> None:
        """The process is about to end: claim nothing more. What comes from now on stays planned,
        and is handed out again; `when_idle` is called once what is under way has been settled."""
        self._stopping, self._when_idle = True, when_idle
        if not self._under_way:
            when_idle()

    async def send(self, message: HandOut) -> None:
        """Send a parcel that was handed out, if it may still go."""
        standing = await self._may_go(message)
        sender = self._senders.get(message.channel)
        if standing is None or sender is None:
            return
        part = Slice(message.offset, message.length, message.digest)
        recipients = await self._stores.outbox.read(message.outbox, part)
        for _ in range(_MOST_LOOKS):
            looked_at, left_out = await self._find_left_out(standing, message, recipients)
            remaining = [
                index
                for index in range(len(recipients))
                if not has_bit(left_out, index) and not has_bit(message.refused, index)
            ]
            if not remaining:
                await self._close_empty(message, left_out)
                return
            attempt = secrets.token_hex(8)
            # One look at the clock, as late as can be: it chooses the guide and dates the claim.
            touched_at = self._clock.campaign_now()
            prepared = self._prepare(
                sender, standing, message, recipients, remaining, attempt, touched_at
            )
            if monotonic() - looked_at <= self._clock.ages.changes_known:
                break
        else:
            return  # something here is too slow to heed who completed: it is handed out again
        if self._stopping:
            return
        self._under_way += 1
        try:
            of = {"campaign": message.campaign, "touch": message.touch, "channel": message.channel}
            with span("send parcel", of, links=(message.trace,)) as sending:
                claimed_from = monotonic()
                claimed = await self._claim(message, attempt, touched_at, left_out)
                if claimed:
                    outcome = await self._call(sender, prepared, claimed_from)
                    sending.set_attribute("recipients", len(remaining))
                    sending.set_attribute("outcome", _outcome_of(outcome))
                    await self._conclude(message, claimed, outcome, remaining, recipients)
        finally:
            self._under_way -= 1
            if self._stopping and not self._under_way:
                self._when_idle()

    async def _conclude(
        self,
        message: HandOut,
        claimed: Parcel,
        outcome: Outcome | OwnFault,
        remaining: Sequence[int],
        recipients: Sequence[Recipient],
    ) -> None:
        """What an outcome means for the row, its people and the channel."""
        if not isinstance(outcome, Accepted):
            of = {"campaign": message.campaign, "channel": message.channel}
            PARCELS.add(1, outcome=_outcome_of(outcome), **of)
        match outcome:
            case Accepted():
                accepted = {"state": State.ACCEPTED, "reason": "", "final": False}
                # A receipt that was here first has counted it.
                if await self._settle(claimed, accepted) == "written":
                    count_accepted(claimed, len(remaining))
                self._accepted_at[message.campaign, message.channel] = monotonic()
                self._nameless[message.campaign, message.channel] = 0
                await self._mark_waves(message.campaign)
                if message.probe:
                    await self._end_setup_fault(message.campaign, message.channel)
            case Ambiguous():
                await self._settle(
                    claimed, {"state": State.AMBIGUOUS, "reason": NO_CLEAR_ANSWER, "doubt": True}
                )
                await self._mark_waves(message.campaign)
                note_event("call_ambiguous", campaign=message.campaign, detail=outcome.detail)
            case OwnFault():
                await self._return_after_fault(claimed, outcome)
            case Refused(reason=RefusedReason.RECIPIENTS):
                people = [(remaining[i], recipients[remaining[i]]) for i in outcome.indices]
                await self._mark_refused(claimed, people)
            case Refused(reason=RefusedReason.OPTED_OUT):
                people = [(remaining[i], recipients[remaining[i]]) for i in outcome.indices]
                await self._leave_out(claimed, people)
            case Refused(reason=RefusedReason.UNATTRIBUTABLE | RefusedReason.TOO_LARGE):
                people = [(index, recipients[index]) for index in remaining]
                await self._take_apart(claimed, people, outcome)
            case Refused():
                await self._return_refused(claimed, outcome)

    # before the claim

    async def _may_go(self, message: HandOut) -> Standing | None:
        """The campaign, if nothing speaks against sending the parcel now.

        What is dropped here stays planned; release hands it out again, or closes it. That takes a
        while, so nothing is dropped for what was so some seconds ago: it is asked anew first.
        """
        for fresh in (False, True):
            book = await (self._book.refresh() if fresh else self._book.read())
            control = await self._read_control(message.campaign, message.channel, fresh=fresh)
            standing = book.standings.get(message.campaign)
            if standing and not book.stopped and self._is_allowed(message, standing, control):
                return standing
        return None

    def _is_allowed(self, message: HandOut, standing: Standing, control: ControlRow) -> bool:
        campaign, today = standing.campaign, self._clock.campaign_now()
        base_url, hosts = self._settings.public_base_url, self._settings.link_hosts
        pauses = set(control.pauses) - ({"setup"} if message.probe else set[str]())
        return not (
            standing.paused
            or message.version != standing.version
            or campaign.sending.mode == "dry-run"
            or today >= message.not_after
            or not window_open(campaign, today)
            or link_fault(campaign, base_url, hosts)
            or pauses
            or (control.retry_at and self._clock.storage_now() < control.retry_at)
        )

    async def _read_control(self, campaign: str, channel: Channel, *, fresh: bool) -> ControlRow:
        async with self._filling["control", f"{campaign}|{channel}"]:
            read_at, control = self._controls.get((campaign, channel), (None, None))
            now = monotonic()
            age = self._clock.ages.config_cache
            if fresh or read_at is None or control is None or now - read_at > age:
                control = await self._stores.control.read(campaign, channel)
                self._controls[campaign, channel] = (now, control)
            return control

    async def _find_left_out(
        self, standing: Standing, message: HandOut, recipients: Sequence[Recipient]
    ) -> tuple[float, bytes]:
        """The bitmap of those who completed, opted out or were left out since planning, and of
        those who say that they have registered, as long as that counts; with the monotonic time
        as of which that is known."""
        margin = timedelta(seconds=self._clock.ages.changes_before)
        since = StorageTime(message.planned_from - margin)
        looked_at, changes = await self._read_changes(message.campaign, message.shard, since)
        refuses = changes.refuses.get(message.channel, {})
        changed = [
            index
            for index, recipient in enumerate(recipients)
            for times in (changes.left_out, refuses)
            if (at := times.get(recipient.id)) is not None and at >= since
        ]
        last = standing.schedule.last_before
        if changes.reported and not (last and message.touch == last.touch):
            changed += await self._find_silenced(message, changes, recipients)
        return looked_at, with_bits(message.left_out, changed) if changed else message.left_out

    async def _find_silenced(
        self, message: HandOut, changes: Changes, recipients: Sequence[Recipient]
    ) -> Sequence[int]:
        """Who says that they have registered, and no sweep has looked since.

        The sweep that counts is the one under which the shard was planned last: a newer one may
        have seen that they are right, and tells so only once its planning has taken the row back
        or noted the change.
        """
        reported = [
            (index, at)
            for index, recipient in enumerate(recipients)
            if (at := changes.reported.get(recipient.id)) is not None
        ]
        if not reported:
            return []
        fence = await self._stores.ledger.read_fence(message.campaign, message.shard)
        number = fence.sweep if fence and fence.done else message.sweep
        sweep = await self._stores.sweeps.read(number)
        return [index for index, at in reported if sweep and silences(at, sweep.opened_at)]

    async def _read_changes(
        self, campaign: str, shard: int, since: StorageTime
    ) -> tuple[float, Changes]:
        """The shard's changes since then, or since longer, as of `changes_cache` ago at most; with
        the monotonic time at which they were read."""
        async with self._filling["changes", partition_of(campaign, shard)]:
            key = (campaign, shard)
            read_at, from_time, changes = self._changes.get(key, (0.0, since, None))
            now, age = monotonic(), self._clock.ages.changes_cache
            if changes is None or since < from_time or now - read_at > age:
                changes = await self._stores.ledger.read_changes(campaign, shard, since)
                read_at = now
                self._changes[key] = (read_at, since, changes)
            return read_at, changes

    def _prepare(
        self,
        sender: Sender,
        standing: Standing,
        message: HandOut,
        recipients: Sequence[Recipient],
        remaining: Sequence[int],
        attempt: str,
        touched_at: CampaignTime,
    ) -> Prepared:
        campaign = standing.campaign
        after_deadline = touched_at >= campaign.deadline_at  # the one switch between two guides
        letter = self._composer.letter(
            message.channel,
            campaign,
            message=message.message,
            language=message.language,
            after_deadline=after_deadline,
        )
        address = self._composer.addressing(
            message.channel, standing, message.language, seed=message.seed
        )
        return sender.prepare(
            letter,
            [address(index, recipients[index]) for index in remaining],
            sender=Identity(
                name=campaign.sender.name,
                email=campaign.sender.email,
                reply_to=campaign.sender.reply_to,
            ),
            parcel=f"{partition_of(message.campaign, message.shard)}|{message.key}",
            attempt=attempt,
            categories=(message.campaign, message.touch),
        )

    async def _close_empty(self, message: HandOut, left_out: bytes) -> None:
        """Nobody is left in the parcel: it ends without a call."""
        parcel = _parcel_of(message)
        change: dict[str, Any] = (
            {"state": State.AMBIGUOUS, "reason": "failed", "final": True}
            if message.doubt
            else {"state": State.CLOSED, "reason": "cancelled"}
        )
        if not message.doubt:
            change["left_out"] = left_out
        allow(parcel.state, change["state"], "sender", reason=change["reason"], doubt=parcel.doubt)
        try:
            await self._stores.ledger.change(parcel, **change)
        except Conflict:
            return  # it was handed out again: that message closes it

    # claim and call

    async def _claim(
        self, message: HandOut, attempt: str, touched_at: CampaignTime, left_out: bytes
    ) -> Parcel | None:
        """The claimed row, or None where it is not as it was handed out."""
        allow(State.PLANNED, State.CLAIMED, "sender")
        changes: dict[str, Any] = {
            "state": State.CLAIMED,
            "reason": "",
            "attempt": attempt,
            "claimed_at": self._clock.storage_now(),
            "touched_at": touched_at,
        }
        if not message.doubt:
            # Whoever is left out of a resend may have had the first attempt: they count as had.
            changes["left_out"] = left_out
        try:
            return await self._stores.ledger.change(_parcel_of(message), **changes)
        except Conflict:
            row = await self._stores.ledger.read(message.campaign, message.shard, message.key)
            ours = row and row.attempt == attempt and row.state is State.CLAIMED
            return row if ours else None

    async def _call(
        self, sender: Sender, prepared: Prepared, claimed_from: float
    ) -> Outcome | OwnFault:
        """The one call of an attempt. Whatever comes of it is an outcome, not an exception."""
        started = False

        def may_start() -> bool:
            nonlocal started
            started = monotonic() - claimed_from <= self._clock.ages.start
            return started

        try:
            return await sender.send(prepared, may_start)
        except Exception as error:  # of any kind: the row must not stay claimed for it
            name = type(error).__name__
            return Ambiguous(f"{name} during the call") if started else OwnFault(name)

    # what an outcome means

    async def _settle(self, claimed: Parcel, change: dict[str, Any]) -> Settled:
        """Write how the attempt ended, under whatever ETag its row has now."""
        parcel = claimed
        while True:
            allow(
                parcel.state,
                change["state"],
                "sender",
                reason=change.get("reason", ""),
                doubt=parcel.doubt,
            )
            try:
                await self._stores.ledger.change(parcel, **change)
                return "written"
            except Conflict:
                found = await self._stores.ledger.read(claimed.campaign, claimed.shard, claimed.key)
            if found is None:
                return ""
            ours = found.attempt == claimed.attempt
            if ours and found.state is change["state"]:
                return "was so"
            # A call that took so long that its claim was given up: its acceptance settles whatever
            # is open by now, as a receipt would. Any other ending says nothing of a later attempt.
            accepted = change["state"] is State.ACCEPTED
            if found.state not in OPEN or not (ours or accepted):
                return ""
            if found.state is State.PLANNED and not accepted:
                return ""  # so late that it is to be sent once more
            if found.state is State.AMBIGUOUS and not accepted:
                proven = change["state"] is State.PLANNED and change["reason"].startswith("refused")
                if not proven or claimed.doubt or found.final:
                    return ""  # in doubt still, or decided
                change = {**change, "doubt": False}  # a late refusal: nothing of it was taken
            parcel = found

    async def _mark_waves(self, campaign: str) -> None:
        """Something of the campaign has gone out, or may have."""
        async with self._filling["waves", campaign]:
            if campaign not in self._marked_waves:
                await self._stores.campaigns.mark_waves(campaign)
                self._marked_waves.add(campaign)

    async def _end_setup_fault(self, campaign: str, channel: Channel) -> None:
        """What was let through a set-up fault was accepted: it is mended."""
        if await self._stores.control.lift(campaign, channel, {"setup"}):
            note_event("channel_resumed", campaign=campaign, channel=channel, reason="setup")
        self._controls.pop((campaign, channel), None)

    async def _return_after_fault(self, claimed: Parcel, fault: OwnFault) -> None:
        """Back to planned after a fault of our own; the third one ends it."""
        faults = claimed.faults + 1
        if faults < MOST_FAULTS:
            reason = f"fault: {fault.detail}"
            await self._settle(
                claimed,
                {"state": State.PLANNED, "reason": reason, "faults": faults, "released_at": None},
            )
            return
        if await self._settle(claimed, end_unsendable(claimed) | {"faults": faults}):
            raise_alarm("parcel_failed", campaign=claimed.campaign, detail=fault.detail)

    async def _return_refused(self, claimed: Parcel, refused: Refused) -> None:
        """Back to planned: nothing of it was taken. What stood in its way holds the channel."""
        campaign, channel = claimed.campaign, claimed.channel
        retry_at: StorageTime | None = None
        wait = 0.0
        if refused.reason not in (RefusedReason.SETUP, RefusedReason.NOT_STARTED):
            wait = refused.retry_after or self._clock.ages.provider_pause
            retry_at = StorageTime(self._clock.storage_now() + timedelta(seconds=wait))
        # The row first: should we die in between, a proven refusal must not end in doubt.
        await self._settle(
            claimed,
            {
                "state": State.PLANNED,
                "reason": f"refused: {refused.reason}",
                "retry_at": retry_at,
                "released_at": None,
            },
        )
        if refused.reason is RefusedReason.SETUP:
            if await self._stores.control.pause(campaign, channel, "setup", refused.detail):
                raise_alarm(
                    "channel_paused",
                    campaign=campaign,
                    channel=channel,
                    reason="setup",
                    detail=refused.detail,
                )
        elif retry_at:
            await self._stores.control.hold_until(campaign, channel, retry_at)
            note_event(
                "channel_waits",
                campaign=campaign,
                channel=channel,
                seconds=wait,
                detail=refused.detail,
            )
        self._controls.pop((campaign, channel), None)

    async def _mark_refused(self, claimed: Parcel, people: Sequence[tuple[int, Recipient]]) -> None:
        """The provider named recipients: remember their addresses, and let the others go again."""
        key = self._settings.address_key
        # The addresses first: once the row says refused, planning must know which to pass over.
        if not claimed.seed:
            await self._completion.record_bad(
                (recipient.id, address_key(key, recipient.address)) for _, recipient in people
            )
        refused = with_bits(claimed.refused, (index for index, _ in people))
        await self._go_on_without(claimed, {"refused": refused})
        note_event("recipients_refused", campaign=claimed.campaign, recipients=len(people))

    async def _leave_out(self, claimed: Parcel, people: Sequence[tuple[int, Recipient]]) -> None:
        """The provider keeps a list of who wants nothing more on this channel; so do we."""
        if not claimed.seed:
            await self._completion.record_opted_out(
                (recipient.id for _, recipient in people), claimed.channel
            )
        # Not of a resend: who may have had the first attempt is had, and left out before the next.
        named = () if claimed.doubt else (index for index, _ in people)
        await self._go_on_without(claimed, {"left_out": with_bits(claimed.left_out, named)})
        note_event("recipients_opted_out", campaign=claimed.campaign, recipients=len(people))

    async def _go_on_without(self, claimed: Parcel, marks: dict[str, bytes]) -> None:
        """Back to planned for those whom `marks` does not name, if there are any."""
        marked = msgspec.structs.replace(claimed, **marks)
        anybody_left = any(marked.outcome_of(index) == "had" for index in range(marked.count))
        change: dict[str, Any] = (
            {"state": State.PLANNED, "reason": "refused: recipients", "released_at": None}
            if anybody_left
            else {"state": State.REJECTED, "reason": "every recipient was refused"}
        )
        await self._settle(claimed, {**change, **marks})

    async def _take_apart(
        self, claimed: Parcel, people: Sequence[tuple[int, Recipient]], refused: Refused
    ) -> None:
        """Refused as one, and nobody named: halve it, until whoever it is stands alone."""
        note_event("parcel_refused", campaign=claimed.campaign, detail=refused.detail)
        whole = (claimed.campaign, claimed.key.rstrip("ab"))
        since = self._refused_at.setdefault(whole, monotonic())
        channel = (claimed.campaign, claimed.channel)
        self._nameless[channel] += 1
        accepted_at = self._accepted_at.get(channel, -math.inf)
        # It was single from the first, as a text message is. Refused for the second time, shortly
        # after others got through and with nobody else refused since, it is the cause itself.
        alone = whole[1] == claimed.key
        is_cause = accepted_at > since or (
            alone
            and self._nameless[channel] == MOST_FAULTS - 1
            and since - accepted_at < self._clock.ages.provider_pause
        )
        if claimed.doubt:
            await self._settle(claimed, end_unsendable(claimed))
        elif len(people) > 1:
            try:
                await self._split(claimed)
            except Exception as error:  # of any kind: a proven refusal must not end in doubt
                await self._return_after_fault(claimed, OwnFault(type(error).__name__))
        elif refused.reason is RefusedReason.UNATTRIBUTABLE and is_cause:
            await self._mark_refused(claimed, people)
        elif (
            refused.reason is RefusedReason.UNATTRIBUTABLE
            and alone
            and self._nameless[channel] < MOST_FAULTS
        ):
            await self._return_waiting(claimed, refused)  # while others are tried
        else:
            # Too large for one person is too large for everybody; and where nobody else has got
            # through since, the fault may be in what all mails have: no address is blamed for it.
            setup = msgspec.structs.replace(refused, reason=RefusedReason.SETUP)
            await self._return_refused(claimed, setup)

    async def _return_waiting(self, claimed: Parcel, refused: Refused) -> None:
        wait = timedelta(seconds=self._clock.ages.provider_pause)
        await self._settle(
            claimed,
            {
                "state": State.PLANNED,
                "reason": f"refused: {refused.reason}",
                "retry_at": StorageTime(self._clock.storage_now() + wait),
                "released_at": None,
            },
        )

    async def _split(self, claimed: Parcel) -> None:
        parcel = await self._stores.ledger.read(claimed.campaign, claimed.shard, claimed.key)
        if parcel is None or parcel.etag != claimed.etag:
            return  # the claim was given up: in doubt now
        allow(parcel.state, State.CLOSED, "sender", reason="split", doubt=parcel.doubt)
        try:
            await self._stores.ledger.split(parcel, await self._halve(parcel))
        except Conflict:
            return  # our own split that met itself, or a claim that was given up

    async def _halve(self, parcel: Parcel) -> list[Parcel]:
        slices = await self._stores.outbox.read_halves(
            parcel.outbox, Slice(parcel.offset, parcel.length, parcel.digest)
        )
        middle = parcel.count // 2
        bounds = ((0, middle), (middle, parcel.count))
        return [
            msgspec.structs.replace(
                parcel,
                key=f"{parcel.key}{suffix}",
                etag="",
                state=State.PLANNED,
                reason="",
                ids=parcel.ids[start * ID_BYTES : end * ID_BYTES],
                left_out=cut_bits(parcel.left_out, start, end),
                refused=cut_bits(parcel.refused, start, end),
                offset=part.offset,
                length=part.length,
                digest=part.digest,
                attempt="",
                claimed_at=None,
                touched_at=None,
                released_at=None,
                retry_at=None,
            )
            for suffix, (start, end), part in zip("ab", bounds, slices, strict=True)
        ]

    # what the queue gave up on

    async def bury(self, message: HandOut) -> None:
        """The poison function: close the row, so that planning finds its people again.

        A row that is not as this message was handed out has gone its way without it.
        """
        parcel = _parcel_of(message)
        change = end_unsendable(parcel)
        allow(parcel.state, change["state"], "poison", reason=change["reason"], doubt=parcel.doubt)
        try:
            await self._stores.ledger.change(parcel, **change)
        except Conflict:
            return
        raise_alarm("parcel_failed", campaign=message.campaign, detail="the queue gave up on it")


type Settled = Literal["written", "was so", ""]
"""What became of the news of an attempt: written; there already, by our own write that met itself
or by a receipt; or of no use, as the row has moved on: another attempt is under way, or it is
decided."""


class OwnFault(msgspec.Struct, frozen=True):
    """Something of ours broke before the first byte left. `detail` is the exception's name."""

    detail: str


_FOR_ITSELF = frozenset(
    {
        *(RefusedReason.RECIPIENTS, RefusedReason.OPTED_OUT),
        *(RefusedReason.UNATTRIBUTABLE, RefusedReason.TOO_LARGE),
    }
)
"""Why a parcel is refused where another one would not be."""


def _outcome_of(outcome: Outcome | OwnFault) -> str:
    """As telemetry names it; see `PARCELS`."""
    match outcome:
        case Accepted():
            return "accepted"
        case Ambiguous():
            return "ambiguous"
        case OwnFault():
            return "fault"
        case Refused(reason=reason):
            return "rejected" if reason in _FOR_ITSELF else "returned"


def count_accepted(parcel: Parcel, recipients: int) -> None:
    """Count a parcel that a provider has accepted. Seed addresses are nobody."""
    PARCELS.add(1, campaign=parcel.campaign, channel=parcel.channel, outcome="accepted")
    if not parcel.seed:
        of = {"campaign": parcel.campaign, "touch": parcel.touch, "channel": parcel.channel}
        RECIPIENTS.add(recipients, **of)


def end_unsendable(parcel: Parcel) -> dict[str, Any]:
    """How a row ends that cannot be sent any more: closed, or final where a doubt is behind it."""
    if parcel.doubt:
        return {"state": State.AMBIGUOUS, "reason": "failed", "final": True}
    return {"state": State.CLOSED, "reason": "failed"}


def _nothing() -> None:
    pass


def _parcel_of(message: HandOut) -> Parcel:
    """The row of a message, as far as a conditional write needs it.

    The message carries neither the ids (zeros stand in for them) nor what the sender does not ask
    about; none of that is written.
    """
    fields = {
        name: getattr(message, name)
        for name in HandOut.__struct_fields__
        if name not in {"count", "probe"}
    }
    return Parcel(
        state=State.PLANNED,
        ids=bytes(message.count * ID_BYTES),
        not_before=CampaignTime(message.planned_from),
        **fields,
    )
