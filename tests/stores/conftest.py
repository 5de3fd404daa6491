"""What tests of the stores share: an account of their own, directly and through a relay."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest

from shared.clock import SystemClock
from shared.names import NAMES
from shared.stores import Stores
from shared.stores.account import StorageAccount, StorageSettings
from shared.stores.parcels import Ledger
from shared.stores.people import People
from shared.stores.table import Table
from tests.stores.relay import Relay, relaying


@dataclass(frozen=True)
class Relayed:
    """The same account, with a relay before its tables."""

    relay: Relay
    table: Table
    ledger: Ledger
    people: People


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
async def account(connection_string: str, clock: SystemClock) -> AsyncGenerator[StorageAccount]:
    """A storage account of the test's own, with everything in it that Bicep would create."""
    account = StorageAccount(StorageSettings(connection_string=connection_string), clock)
    await account.create_all()
    yield account
    await account.close()


@pytest.fixture
def stores(account: StorageAccount, clock: SystemClock) -> Stores:
    return Stores.over(account, clock)


@pytest.fixture
def table(account: StorageAccount) -> Table:
    """The ledger's table."""
    return Table(account.table(NAMES.tables.ledger))


@pytest.fixture
def ledger(stores: Stores) -> Ledger:
    return stores.ledger


@pytest.fixture
async def relayed(
    account: StorageAccount, connection_string: str, clock: SystemClock
) -> AsyncGenerator[Relayed]:
    """The ledger of `account` as someone sees it to whom answers get lost."""
    async with relaying(connection_string, "Table") as (through, relay):
        other = StorageAccount(StorageSettings(connection_string=through), clock)
        table = Table(other.table(NAMES.tables.ledger))
        yield Relayed(relay, table, Ledger(table, clock), People(table, clock))
        await other.close()


@pytest.fixture
def people(stores: Stores) -> People:
    return stores.people
