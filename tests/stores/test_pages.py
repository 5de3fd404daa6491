"""Pages: written once, so that a chain cannot fork; read shard by shard."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from shared.clock import SystemClock
from shared.rules.registration import Account, shard_of
from shared.stores import Stores
from shared.stores.account import StorageAccount, StorageSettings
from shared.stores.pages import BUNDLE_BYTES, Pages, bundle_width, run_prefix
from tests.stores.relay import Loss, relaying

REPORT = run_prefix(1, "registrations", 1)
ROSTER = run_prefix(1, "group-x", 1)


def account(number: int, **changes: object) -> Account:
    fields: dict[str, object] = {
        "id": uuid.UUID(int=number << 124 | number).bytes,
        "user_principal_name": f"u{number}@connect.hku.hk",
        "display_name": f"陳 {number}",
        "enabled": True,
        "user_type": "Member",
        "mail": None,
        "other_mails": (f"ann{number}@example.org",),
        "mobile_phone": None,
        "language": None,
    }
    return Account(**{**fields, **changes})  # type: ignore[arg-type]


ACCOUNTS = [account(number) for number in range(16)] + [account(3, id=b"\x3f" + bytes(15))]
CODES = [(one.id, number % 256) for number, one in enumerate(ACCOUNTS)]


@pytest.fixture
def pages(stores: Stores) -> Pages:
    return stores.pages


async def accounts_of(pages: Pages, prefix: str, shard: int) -> list[Account]:
    reader = pages.open_pass(await pages.list_pages(prefix))
    return [one async for section in reader.read_accounts(shard) for one in section]


async def test_a_shard_reads_its_own_rows_of_every_page(pages: Pages) -> None:
    await pages.write_roster(ROSTER, 0, ACCOUNTS[:10], "https://g/1", 10, 2)
    await pages.write_roster(ROSTER, 1, [], "https://g/2", 0, 0)
    await pages.write_roster(ROSTER, 2, ACCOUNTS[10:], None, 7, 0)
    await pages.write_report(REPORT, 0, CODES[:5], "https://g/1", 1)
    await pages.write_report(REPORT, 1, CODES[5:], None, 0)
    roster, report = await pages.list_pages(ROSTER), await pages.list_pages(REPORT)
    assert [(p.number, p.rows, p.with_contact, p.unreadable, p.last) for p in roster] == [
        (0, 10, 10, 2, False),
        (1, 0, 0, 0, False),
        (2, 7, 7, 0, True),
    ]
    assert [(p.rows, p.unreadable, p.last) for p in report] == [(5, 1, False), (12, 0, True)]
    accounts, codes = pages.open_pass(roster), pages.open_pass(report)
    for shard in range(16):
        mine = [one for one in ACCOUNTS if shard_of(one.id) == shard]
        assert [a async for part in accounts.read_accounts(shard) for a in part] == mine
        assert [c async for part in codes.read_codes(shard) for c in part] == [
            row for row in CODES if shard_of(row[0]) == shard
        ]


async def test_shards_may_be_read_in_any_order_and_again(pages: Pages) -> None:
    await pages.write_roster(ROSTER, 0, ACCOUNTS, None, 17, 0)
    reader = pages.open_pass(await pages.list_pages(ROSTER))
    for shard in (7, 3, 3, 15, 0, 7):
        found = [a async for part in reader.read_accounts(shard) for a in part]
        assert found == [one for one in ACCOUNTS if shard_of(one.id) == shard]


async def test_a_reader_that_stopped_half_way_leaves_nothing_incomplete(pages: Pages) -> None:
    for number in range(20):
        await pages.write_roster(
            ROSTER, number, ACCOUNTS, None if number == 19 else "https://g", 17, 0
        )
    reader = pages.open_pass(await pages.list_pages(ROSTER))
    async for _ in reader.read_accounts(2):
        break
    found = [a async for part in reader.read_accounts(3) for a in part]
    assert found == [one for one in ACCOUNTS if shard_of(one.id) == 3] * 20


async def test_a_page_written_twice_is_the_first_one(pages: Pages) -> None:
    """Whoever comes second goes on with the link of whoever was first."""
    assert await pages.write_report(REPORT, 0, CODES, "https://g/first", 0) == "https://g/first"
    assert await pages.write_report(REPORT, 0, [], "https://g/second", 0) == "https://g/first"
    assert await pages.write_report(REPORT, 0, [], None, 0) == "https://g/first"
    (page,) = await pages.list_pages(REPORT)
    assert (page.rows, page.last) == (len(CODES), False)
    assert await pages.write_roster(ROSTER, 0, ACCOUNTS, None, 0, 0) is None
    assert await pages.write_roster(ROSTER, 0, [], "https://g/second", 0, 0) is None


async def test_a_chain_does_not_fork_however_many_write(pages: Pages) -> None:
    links = await asyncio.gather(
        *(pages.write_report(REPORT, 0, CODES, f"https://g/{n}", 0) for n in range(6))
    )
    assert len(set(links)) == 1
    assert await pages.read_link(REPORT, 0) == links[0]


@pytest.mark.parametrize("how", ["cut off", "unavailable"])
async def test_a_page_that_met_itself_goes_on(
    connection_string: str, stores: Stores, how: Loss
) -> None:
    async with relaying(connection_string, "Blob") as (through, relay):
        other = StorageAccount(StorageSettings(connection_string=through), SystemClock())
        pages = Stores.over(other, SystemClock()).pages
        relay.lose_next_answer(how)
        assert await pages.write_report(REPORT, 0, CODES, "https://g/1", 0) == "https://g/1"
        assert relay.lost == 1
        await other.close()


@pytest.mark.parametrize("length", [0, 1, 4091, 4092, 4093, 9000])
async def test_a_link_of_any_length(pages: Pages, length: int) -> None:
    link = "https://g/" + "x" * length
    await pages.write_report(REPORT, 0, CODES, link, 0)
    assert await pages.read_link(REPORT, 0) == link


async def test_runs_and_sweeps_are_kept_apart(pages: Pages) -> None:
    for prefix in (REPORT, run_prefix(1, "registrations", 2), run_prefix(2, "registrations", 1)):
        await pages.write_report(prefix, 0, CODES, None, 0)
    assert len(await pages.list_pages(REPORT)) == 1
    assert await pages.list_sweeps() == [1, 2]
    assert await pages.delete("00000001/") == 2
    assert await pages.list_sweeps() == [2]
    assert await pages.delete("00000001/") == 0


def test_a_reader_keeps_no_more_than_it_may() -> None:
    for size in (0, BUNDLE_BYTES, 2 * BUNDLE_BYTES, 5 * BUNDLE_BYTES, 1000 * BUNDLE_BYTES):
        width = bundle_width(size)
        assert 16 % width == 0
        assert width == 1 or size * width <= 16 * BUNDLE_BYTES
    assert bundle_width(BUNDLE_BYTES) == 16
    assert bundle_width(2 * BUNDLE_BYTES) == 8


async def test_contact_data_are_read_back_as_written(pages: Pages) -> None:
    full = account(5, mail="a@b.org", mobile_phone="+85200000000", language="zh-HK", enabled=None)
    await pages.write_roster(ROSTER, 0, [full], None, 1, 0)
    assert await accounts_of(pages, ROSTER, 5) == [full]
    assert await accounts_of(pages, ROSTER, 6) == []
