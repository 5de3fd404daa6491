"""The table: what is refused and with which index, what is rolled back, and what is not tried."""

from __future__ import annotations

from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError

from shared.stores.account import StorageAccount
from shared.stores.table import (
    ETAG,
    MOST_ROWS,
    Conflict,
    Row,
    Table,
    Write,
    check_writes,
    transaction_bytes,
)
from tests.stores.conftest import Relayed


def row(key: str, partition: str = "p", **properties: Any) -> Row:
    return {"PartitionKey": partition, "RowKey": key, **properties}


async def keys_of(table: Table, low: str = "", high: str = "", where: str = "") -> list[str]:
    return [found["RowKey"] async for found in table.scan("p", low, high, where=where)]


# one write


async def test_a_row_comes_back_as_it_was_written(table: Table) -> None:
    values = {
        "text": "a ‘b’ 好",
        "empty": "",
        "bytes": bytes(range(256)),
        "none": b"",
        "number": 2**31 - 1,
        "yes": True,
    }
    etag = await table.write(Write("insert", row("a", **values)))
    found = await table.read("p", "a")
    assert found == {**row("a", **values), ETAG: etag}
    assert await table.read("p", "b") is None
    assert await table.read("q", "a") is None


@pytest.mark.parametrize("kind", ["merge", "replace", "delete"])
async def test_a_write_succeeds_only_under_the_etag_that_stands(table: Table, kind: Any) -> None:
    first = await table.write(Write("insert", row("a", x=1, y=1)))
    second = await table.write(Write("merge", row("a", x=2), first))
    with pytest.raises(Conflict):
        await table.write(Write(kind, row("a", x=3), first))
    assert await table.read("p", "a") == row("a", x=2, y=1, etag=second)
    last = await table.write(Write(kind, row("a", x=3), second))
    after = {"merge": row("a", x=3, y=1, etag=last), "replace": row("a", x=3, etag=last)}
    assert await table.read("p", "a") == after.get(kind)


async def test_inserting_what_exists_and_changing_what_is_gone_are_conflicts(table: Table) -> None:
    etag = await table.write(Write("insert", row("a")))
    with pytest.raises(Conflict):
        await table.write(Write("insert", row("a")))
    await table.write(Write("delete", row("a"), etag))
    for kind in ("merge", "replace"):
        with pytest.raises(Conflict):
            await table.write(Write(kind, row("a"), etag))


async def test_a_put_asks_for_nothing(table: Table) -> None:
    await table.write(Write("put", row("a", x=1)))
    etag = await table.write(Write("put", row("a", y=2)))
    assert await table.read("p", "a") == row("a", y=2, etag=etag)


# transactions

STALE = "W/\"datetime'2020-01-01T00%3A00%3A00.0000000Z'\""


@pytest.mark.parametrize(
    "bad",
    [
        Write("merge", row("a", x=2), STALE),
        Write("replace", row("a", x=2), STALE),
        Write("delete", row("a"), STALE),
        Write("insert", row("a", x=2)),
        Write("merge", row("gone", x=2), STALE),
        Write("delete", row("gone"), STALE),
    ],
    ids=lambda write: f"{write.kind} {write.row['RowKey']}",
)
@pytest.mark.parametrize("index", [0, 3])
async def test_all_or_nothing_and_the_failing_row_is_named(
    table: Table, bad: Write, index: int
) -> None:
    """Azurite#1233 says that a failed transaction is not rolled back there: it is."""
    await table.write(Write("insert", row("a", x=1)))
    writes = [Write("insert", row(f"new{number}")) for number in range(4)]
    with pytest.raises(Conflict) as conflict:
        await table.transact([*writes[:index], bad, *writes[index:]])
    assert conflict.value.index == index
    assert await keys_of(table) == ["a"]
    found = await table.read("p", "a")
    assert found is not None
    assert found["x"] == 1


async def test_a_transaction_answers_with_an_etag_for_each_row(table: Table) -> None:
    (first,) = await table.transact([Write("insert", row("a", x=1))])
    writes = [
        Write("put", row("c")),
        Write("merge", row("a", x=2), first),
        Write("insert", row("b")),
    ]
    etags = await table.transact(writes)
    for write, etag in zip(writes, etags, strict=True):
        found = await table.read("p", write.row["RowKey"])
        assert found is not None
        assert found[ETAG] == etag


# scans


async def test_a_scan_is_in_key_order_and_leaves_the_upper_bound_out(table: Table) -> None:
    for key in ("fence", "20270101|b", "change|x", "20270102|a", "20270101|a"):
        await table.write(Write("insert", row(key, x=len(key))))
    await table.write(Write("insert", row("20270101|z", partition="p2")))
    assert await keys_of(table) == sorted(["fence", *await keys_of(table, "", "fence")])
    assert await keys_of(table, "0", ":") == ["20270101|a", "20270101|b", "20270102|a"]
    assert await keys_of(table, "20270101|b", "20270102|a") == ["20270101|b"]
    assert await keys_of(table, "0", ":", "x eq 10") == ["20270101|a", "20270101|b", "20270102|a"]
    assert await keys_of(table, "0", ":", "x eq 5 or x eq 8") == []


async def test_a_scan_goes_on_behind_the_thousandth_row(table: Table) -> None:
    keys = [f"{number:05d}" for number in range(1100)]
    for start in range(0, len(keys), 100):
        await table.transact([Write("insert", row(key)) for key in keys[start : start + 100]])
    assert await keys_of(table) == keys


# a table that is not there


async def test_a_missing_table_is_not_an_empty_one(account: StorageAccount) -> None:
    """An empty ledger means that nobody has had anything: it must not be guessed."""
    missing = Table(account.table("elsewhere"))
    with pytest.raises(HttpResponseError, match="TableNotFound"):
        await missing.read("p", "a")
    with pytest.raises(HttpResponseError, match="TableNotFound"):
        await missing.write(Write("insert", row("a")))
    with pytest.raises(HttpResponseError, match="TableNotFound"):
        await missing.transact([Write("insert", row("a"))])
    with pytest.raises(HttpResponseError, match="TableNotFound"):
        await keys_of(missing)


# what Azure refuses and Azurite does not

REFUSED: list[tuple[str, list[Write]]] = [
    ("a key with /", [Write("put", row("a/b"))]),
    ("a key with a backslash", [Write("put", row("a\\b"))]),
    ("a key with #", [Write("put", row("a#b"))]),
    ("a key with ?", [Write("put", row("a?b"))]),
    ("a key with a line break", [Write("put", row("a\nb"))]),
    ("a key with a C1 control", [Write("put", row("a\x85b"))]),
    ("a partition with /", [Write("put", row("a", partition="p/q"))]),
    ("a key over 1 KiB", [Write("put", row("k" * 513))]),
    ("text over 64 KiB", [Write("put", row("a", text="x" * 32769))]),
    ("astral text over 64 KiB", [Write("put", row("a", text="𝔘" * 16385))]),
    ("bytes over 64 KiB", [Write("put", row("a", data=bytes(65537)))]),
    ("a row over 1 MiB", [Write("put", row("a", **{f"p{n}": bytes(65536) for n in range(16)}))]),
    ("101 rows", [Write("put", row(f"{n}")) for n in range(101)]),
    ("no row", []),
    ("two partitions", [Write("put", row("a")), Write("put", row("a", partition="q"))]),
    ("a row twice", [Write("put", row("a")), Write("insert", row("a"))]),
    ("over 4 MiB", [Write("put", row(f"{n}", data=bytes(65536))) for n in range(50)]),
    ("a merge of whatever is there", [Write("merge", row("a"))]),
    ("a replacement of whatever is there", [Write("replace", row("a"))]),
    ("a deletion of whatever is there", [Write("delete", row("a"))]),
]

TAKEN: list[tuple[str, list[Write]]] = [
    ("the characters of our keys", [Write("put", row("change|2027-01-01T00:00:00.0Z|ff:0-_"))]),
    ("a key of 1 KiB", [Write("put", row("k" * 512))]),
    ("text of 64 KiB", [Write("put", row("a", text="x" * 32768))]),
    ("bytes of 64 KiB", [Write("put", row("a", data=bytes(65536)))]),
    ("100 rows", [Write("put", row(f"{n}")) for n in range(100)]),
]


@pytest.mark.parametrize("writes", [w for _, w in REFUSED], ids=[name for name, _ in REFUSED])
async def test_what_azure_would_refuse_never_leaves(table: Table, writes: list[Write]) -> None:
    with pytest.raises(ValueError, match=r"key|KiB|MiB|rows|transaction|ETag"):
        await table.transact(writes)
    if len(writes) == 1:
        with pytest.raises(ValueError, match=r"key|KiB|MiB|ETag"):
            await table.write(writes[0])
    assert await keys_of(table) == []


@pytest.mark.parametrize("writes", [w for _, w in TAKEN], ids=[name for name, _ in TAKEN])
async def test_what_is_just_within_the_limits_is_taken(table: Table, writes: list[Write]) -> None:
    assert len(await table.transact(writes)) == len(writes)
    assert len(await keys_of(table)) == len(writes)


# aiohttp is wary of bodies over 1 MiB that are plain bytes: writing one takes a millisecond.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_no_transaction_is_larger_than_it_is_taken_for(relayed: Relayed) -> None:
    """The size is reckoned before it is sent. The reckoning must be no less than what is sent,
    and near enough that nothing is refused without need."""
    text, data = '"好\\' * 300, bytes(20000)
    writes = [Write("insert", row(f"{n}", text=text, data=data, number=n)) for n in range(99)]
    reckoned = transaction_bytes(writes)
    await relayed.table.transact(writes)
    (sent,) = relayed.relay.sizes
    assert 0.95 * reckoned < sent <= reckoned


# a write whose answer is lost


@pytest.mark.parametrize("how", ["cut off", "unavailable"])
@pytest.mark.parametrize("kind", ["insert", "merge", "replace"])
async def test_a_write_that_meets_itself_is_a_conflict(
    relayed: Relayed, table: Table, kind: Any, how: Any
) -> None:
    etag = "" if kind == "insert" else await table.write(Write("insert", row("a", x=1)))
    relayed.relay.lose_next_answer(how)
    with pytest.raises(Conflict):
        await relayed.table.write(Write(kind, row("a", x=2), etag))
    assert relayed.relay.lost == 1
    found = await table.read("p", "a")
    assert found is not None
    assert found["x"] == 2


@pytest.mark.parametrize("how", ["cut off", "unavailable"])
async def test_a_transaction_that_meets_itself_is_a_conflict(
    relayed: Relayed, table: Table, how: Any
) -> None:
    etag = await table.write(Write("insert", row("a", x=1)))
    relayed.relay.lose_next_answer(how)
    with pytest.raises(Conflict):
        await relayed.table.transact(
            [Write("merge", row("a", x=2), etag), Write("insert", row("b"))]
        )
    assert await keys_of(table) == ["a", "b"]


@pytest.mark.parametrize("how", ["cut off", "unavailable"])
async def test_what_may_be_written_twice_is(relayed: Relayed, table: Table, how: Any) -> None:
    relayed.relay.lose_next_answer(how)
    await relayed.table.write(Write("put", row("a", x=2)))
    assert relayed.relay.lost == 1
    found = await table.read("p", "a")
    assert found is not None
    assert found["x"] == 2


def test_a_transaction_leaves_room_for_the_fence() -> None:
    check_writes([Write("put", row(f"{n}")) for n in range(MOST_ROWS + 1)])
