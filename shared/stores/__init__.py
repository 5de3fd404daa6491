"""What the product keeps in Azure Storage, and `Stores`, which opens all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from shared.names import NAMES
from shared.stores.campaigns import CampaignStore
from shared.stores.control import Control
from shared.stores.events import Events
from shared.stores.outbox import Outbox
from shared.stores.pages import Pages
from shared.stores.parcels import Ledger
from shared.stores.people import People
from shared.stores.poison import Poison
from shared.stores.queues import Queues
from shared.stores.sweeps import Sweeps
from shared.stores.table import Table

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.stores.account import StorageAccount


@dataclass(frozen=True)
class Stores:
    """Every store of the product, over one storage account."""

    ledger: Ledger
    people: People
    events: Events
    sweeps: Sweeps
    control: Control
    pages: Pages
    outbox: Outbox
    campaigns: CampaignStore
    queues: Queues
    poison: Poison

    @classmethod
    def over(cls, account: StorageAccount, clock: Clock) -> Self:
        ledger = Table(account.table(NAMES.tables.ledger))
        control = Table(account.table(NAMES.tables.control))
        containers = NAMES.containers
        return cls(
            ledger=Ledger(ledger, clock),
            people=People(ledger, clock),
            events=Events(ledger, clock),
            sweeps=Sweeps(control, clock),
            control=Control(control, clock),
            pages=Pages(account.container(containers.pages)),
            outbox=Outbox(account.container(containers.outbox)),
            campaigns=CampaignStore(
                account.container(containers.config), account.container(containers.versions)
            ),
            queues=Queues(account, clock.ages),
            poison=Poison(control, account, clock),
        )
