"""How many parcels are read at once, and how much of each."""

from __future__ import annotations

import msgspec

from shared.clock import SystemClock
from shared.rules.parcels import State
from shared.stores.parcels import Ledger
from tests.stores.making import CAMPAIGN, make_parcel, person
from tests.stores.test_parcels import SHARD, planned

COUNTED = (
    *("state", "touch", "channel", "seed", "canary", "count"),
    *("left_out", "refused", "delivered", "heard", "claimed_at", "touched_at"),
)


async def test_of_what_has_ended_release_reads_what_is_counted(
    ledger: Ledger, clock: SystemClock
) -> None:
    now, people = clock.storage_now(), [person(1), person(2)]
    rows = [
        make_parcel(*people, key=f"{now:%Y%m%d}|r{number:05d}", canary=True) for number in range(5)
    ]
    states = (State.CLAIMED, State.AMBIGUOUS, State.ACCEPTED, State.REJECTED)
    for parcel, state in zip(await planned(ledger, rows), states, strict=False):
        await ledger.change(
            parcel,
            state=state,
            attempt="one",
            claimed_at=now,
            heard=True,
            delivered=b"\x02",
            refused=b"\x01",
        )
    whole = {p.key: p async for p in ledger.scan(CAMPAIGN, SHARD, ids=False)}
    found = {p.key: p async for p in ledger.scan_recent(CAMPAIGN, SHARD)}
    assert found.keys() == whole.keys()
    for key, parcel in whole.items():
        if parcel.state in (State.ACCEPTED, State.REJECTED):
            assert all(getattr(found[key], name) == getattr(parcel, name) for name in COUNTED)
            assert not found[key].attempt, "what release has no use for stays where it is"
        else:
            assert found[key] == parcel


async def test_some_parcels_are_read_by_key(ledger: Ledger, clock: SystemClock) -> None:
    day = f"{clock.storage_now():%Y%m%d}"
    rows = [make_parcel(person(1), key=f"{day}|r{number:05d}") for number in range(40)]
    there = {parcel.key: parcel for parcel in await planned(ledger, rows)}
    wanted = sorted(there)[::2]
    keys = [*wanted, f"{day}|r99999"]
    assert await ledger.read_some(CAMPAIGN, SHARD, keys) == {key: there[key] for key in wanted}
    without_ids = {key: msgspec.structs.replace(there[key], ids=bytes(16)) for key in wanted}
    assert await ledger.read_some(CAMPAIGN, SHARD, keys, ids=False) == without_ids
    assert await ledger.read_some(CAMPAIGN, SHARD, []) == {}
