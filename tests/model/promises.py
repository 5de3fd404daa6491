"""What must hold, whatever happens: looked at after every step of the machine, and at the end."""

from __future__ import annotations

from collections import Counter, defaultdict

from shared.clock import CampaignTime
from shared.rules.parcels import OPEN, Parcel, State, has_bit
from shared.stores.parcels import Fence
from tests.model.edge import Reply
from tests.model.world import AGES, Call, World

type Key = tuple[int, str]
type Rows = dict[Key, Parcel]

_ENDS = frozenset({State.ACCEPTED, State.REJECTED, State.CLOSED})


class Broken(AssertionError):
    """A promise was broken."""


class Promises:
    """Remembers what was seen, and says what must not be so."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rows: Rows = {}
        self._fences: dict[int, Fence | None] = {}

    async def look(self) -> Rows:
        """Look at the ledger and at what the provider has; raises Broken."""
        rows, fences = await self._world.rows(), await self._world.fences()
        for what in self._world.broken:
            raise Broken(what)
        for key, row in rows.items():
            if before := self._rows.get(key):
                _check_change(before, row)
        self._check_fences(fences)
        self._check_calls(rows)
        await self._check_canaries(rows)
        self._rows, self._fences = rows, fences
        return rows

    def _check_fences(self, fences: dict[int, Fence | None]) -> None:
        for shard, now in fences.items():
            before = self._fences.get(shard)
            if before is None or now is None or not before.run or before.done:
                continue
            rested = (now.moved_at - before.moved_at).total_seconds()
            another = now.pair == before.pair and now.run not in ("", before.run)
            if another and rested < AGES.fence_at_rest:
                raise Broken("the fence of a planner that lives was taken over")

    def _check_calls(self, rows: Rows) -> None:
        by_row: defaultdict[Key, list[Call]] = defaultdict(list)
        for call in self._world.calls:
            by_row[call.row.shard, call.row.key].append(call)
        for key, calls in by_row.items():
            _check_doubles(rows[key], calls)
        for worker in self._world.workers:
            call = worker.operation.call if worker.operation else None
            if call and call.reply is None:
                _check_under_way(call, rows[call.row.shard, call.row.key])
        _check_people(self._world.calls, rows)

    async def _check_canaries(self, rows: Rows) -> None:
        """None has passed of which less than half was delivered, unless somebody said so."""
        if not self._world.canary or self._world.resumed:
            return
        for touch in await self._world.read_canaries():
            of = [row for row in rows.values() if row.canary and row.touch == touch]
            told = [row for row in of if row.state in (State.ACCEPTED, State.REJECTED)]
            people = sum(row.count - row.left_out_count for row in told)
            if sum(row.delivered_count for row in told) * 2 < people or not told:
                raise Broken(f"the canary of {touch} passed, and too little of it was delivered")

    async def look_at_the_end(self, rows: Rows) -> None:
        """What must hold once nothing goes wrong any more and everything had its time."""
        now = self._world.clock.campaign_now()
        for row in rows.values():
            if is_open(row, now):
                raise Broken(f"a parcel of {row.touch} has no end: {row.state} {row.reason}")
        had: defaultdict[Key, set[int]] = defaultdict(set)
        for call in self._world.calls:
            if call.accepted:
                had[call.row.shard, call.row.key].update(call.addresses)
        for key, row in rows.items():
            if key in had and row.state is not State.ACCEPTED:
                raise Broken(f"accepted, and all receipts have come: the row is {row.state}")
            # Whoever was passed over when it was resent may have had the first attempt.
            for index, _ in row.people() if not row.resent else ():
                passed_over = has_bit(row.left_out, index) or has_bit(row.refused, index)
                if row.state is State.ACCEPTED and not passed_over and index not in had[key]:
                    raise Broken("a row says of somebody that they had it, and they had not")

    async def look_for_the_lost(self, rows: Rows, touch: str) -> None:
        """Everybody who is due has an end or a reason; the last touch, planned after everything had
        healed, has reached all whom nothing keeps from it."""
        world = self._world
        reached = {
            (person, call.row.touch)
            for call in world.calls
            if call.accepted
            for person in call.people
        }
        due = {one.id16 for one in world.everybody if not one.registered}
        unreached = await world.list_unreached()
        for person in due - world.silent:
            name = person.hex()[:8]
            if person not in world.refused and (person, touch) not in reached:
                raise Broken(
                    f"the last touch has not reached somebody: {name} {unreached.get(person)}"
                )
            touches = {
                row.touch for row in rows.values() for _, one in row.people() if one == person
            }
            for one in sorted(touches):
                if (person, one) not in reached and person not in unreached:
                    raise Broken(f"{one} has not reached somebody, and nothing says why: {name}")


def is_open(row: Parcel, now: CampaignTime) -> bool:
    """Whether something is still to come of a row that does not only wait for its time."""
    waits = row.state is State.PLANNED and row.not_before > now
    return row.state in OPEN and not row.final and not waits


def _check_change(before: Parcel, row: Parcel) -> None:
    if before.state in _ENDS and row.state is not before.state:
        raise Broken(f"a row that had ended as {before.state} is {row.state}")
    if before.ids != row.ids:
        raise Broken("the people of a row were changed")


def _check_doubles(row: Parcel, calls: list[Call]) -> None:
    """At most one call that may have been accepted, and one more if the row says so."""
    unclear = Counter(call.row.resent for call in calls if not call.refused)
    if max(unclear.values(), default=0) > 1:
        raise Broken("called again without a proven refusal")
    if row.state is not State.ACCEPTED and any(
        call.settled and call.answered and call.reply is Reply.ACCEPTED for call in calls
    ):
        raise Broken(f"accepted, as its worker learned, and the row is {row.state}")
    accepted = sum(call.accepted for call in calls)
    if accepted > 1 + row.resent:
        raise Broken("accepted twice, and the row does not say so")
    if accepted and row.state in (State.CLOSED, State.REJECTED):
        raise Broken(f"accepted, and the row is {row.state}")


def _check_under_way(call: Call, row: Parcel) -> None:
    """While a call waits at the provider, its claim ends by time or by a receipt alone."""
    if row.attempt != call.attempt or row.state is State.CLAIMED:
        return
    by_time = row.reason in ("abandoned", "no receipt", "resend", "expired") or row.resent
    if row.state is not State.ACCEPTED and not by_time:
        raise Broken(f"its call is under way, and the row is {row.state}: {row.reason}")


def _check_people(calls: list[Call], rows: Rows) -> None:
    """Nobody gets a touch by two parcels, unless the one that came first was refused or bounced."""
    parcels: defaultdict[tuple[bytes, str], dict[Key, int]] = defaultdict(dict)
    for call in calls:
        if not call.accepted:
            continue
        key = (call.row.shard, call.row.key)
        places = {person: index for index, person in call.row.people()}
        for person in call.people:
            parcels[person, call.row.touch][key] = places[person]
    for found in parcels.values():
        standing = [key for key, index in found.items() if not has_bit(rows[key].refused, index)]
        if len(standing) > 1:
            raise Broken("somebody got a touch by two parcels")
