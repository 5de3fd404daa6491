"""Outboxes: what is read is what was planned, or it is not sent."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import StorageTime, SystemClock
from shared.names import NAMES
from shared.rules.contact import Recipient
from shared.stores import Stores
from shared.stores.account import StorageAccount
from shared.stores.outbox import Outbox, OutboxDamaged, Slice, outbox_name, pack_recipients
from tests.stores.making import person

NAME = outbox_name("alumni-2027", 10, 3, "0123456789ab")

_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
_RECIPIENTS = st.lists(
    st.builds(
        Recipient, id=st.binary(min_size=16, max_size=16), address=_TEXT, name=_TEXT, account=_TEXT
    )
)


def someone(number: int, name: str = "Ann") -> Recipient:
    return Recipient(person(number), f"ann{number}@example.org", name, f"u{number}@connect.hku.hk")


@pytest.fixture
def outbox(stores: Stores) -> Outbox:
    return stores.outbox


async def written(outbox: Outbox, *parcels: list[Recipient]) -> list[Slice]:
    body, slices = pack_recipients(parcels)
    await outbox.write(NAME, body)
    return slices


@given(st.lists(_RECIPIENTS.filter(bool), max_size=5))
def test_parcels_lie_one_behind_the_other(parcels: list[list[Recipient]]) -> None:
    """With whatever there is in a name: line breaks and quotes among it."""
    body, slices = pack_recipients(parcels)
    assert len(slices) == len(parcels)
    end = 0
    for part, recipients in zip(slices, parcels, strict=True):
        assert part.offset == end
        end = part.offset + part.length
        piece = body[part.offset : end]
        assert hashlib.sha256(piece).digest() == part.digest
        lines = piece.splitlines()
        assert [msgspec.json.decode(line, type=Recipient) for line in lines] == recipients
    assert end == len(body)


async def test_each_parcel_reads_its_own_people(outbox: Outbox) -> None:
    parcels = [[someone(1), someone(2, 'O"Neil\n陳\u2028')], [someone(3)]]
    slices = await written(outbox, *parcels)
    assert [await outbox.read(NAME, part) for part in slices] == parcels


async def test_an_outbox_is_written_once(outbox: Outbox) -> None:
    (part,) = await written(outbox, [someone(1)])
    await outbox.write(NAME, b"something else")
    assert await outbox.read(NAME, part) == [someone(1)]


@pytest.mark.parametrize(
    "damage", ["gone", "another digest", "another range", "changed", "cut", "out of range"]
)
async def test_contact_data_that_are_not_those_planned_are_not_read(
    outbox: Outbox, account: StorageAccount, damage: str
) -> None:
    parcels = [[someone(1), someone(2)], [someone(3)]]
    body, (part, other) = pack_recipients(parcels)
    await outbox.write(NAME, body)
    blob = account.container(NAMES.containers.outbox).get_blob_client(NAME)
    match damage:
        case "gone":
            await blob.delete_blob()
        case "another digest":
            part = msgspec.structs.replace(part, digest=other.digest)
        case "another range":
            part = msgspec.structs.replace(part, length=part.length - 1)
        case "changed":
            await blob.upload_blob(body.replace(b"ann1", b"eve1"), overwrite=True)
        case "cut":
            await blob.upload_blob(body[:20], overwrite=True)
        case _:
            part = msgspec.structs.replace(part, offset=len(body) + 10)
    with pytest.raises(OutboxDamaged) as raised:
        await outbox.read(NAME, part)
    with pytest.raises(OutboxDamaged):
        await outbox.read_halves(NAME, part)
    assert "@" not in str(raised.value)


@pytest.mark.parametrize(("people", "first"), [(2, 1), (3, 1), (4, 2), (7, 3)])
async def test_halves_are_the_same_people_in_the_same_order(
    outbox: Outbox, people: int, first: int
) -> None:
    crowd = [someone(number) for number in range(people)]
    _, part = await written(outbox, [someone(99)], crowd)
    halves = await outbox.read_halves(NAME, part)
    read = [await outbox.read(NAME, half) for half in halves]
    assert read == [crowd[:first], crowd[first:]]


@pytest.mark.invariant(6)
async def test_old_outboxes_go_unless_a_row_still_names_them(
    outbox: Outbox, clock: SystemClock
) -> None:
    other = outbox_name("alumni-2027", 11, 3, "0123456789ab")
    body, (part,) = pack_recipients([[someone(1)]])
    for name in (NAME, other):
        await outbox.write(name, body)
    now = clock.storage_now()
    early, late = (StorageTime(now + timedelta(minutes=minutes)) for minutes in (-5, 5))
    assert await outbox.delete_old(early, frozenset()) == 0
    assert await outbox.delete_old(late, frozenset({other})) == 1
    assert await outbox.read(other, part) == [someone(1)]
    with pytest.raises(OutboxDamaged, match="gone"):
        await outbox.read(NAME, part)


def test_a_name_says_campaign_shard_sweep_and_run() -> None:
    assert NAME == "alumni-2027/a/00000003/0123456789ab"
