"""The composition root: settings, clock, clients and workflows, built once a process and late.

Late, since a worker must index the app within seconds: nothing is opened at import, and the
Graph SDK not before the first page is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from shared.services.directory import Directory
from shared.services.http import HttpClient
from shared.services.senders.sendgrid import SendGrid
from shared.settings import Settings, read_settings
from shared.stores import Stores
from shared.stores.account import StorageAccount, StorageSettings
from shared.workflows.campaigns import CampaignBook
from shared.workflows.completion import CompletionWorkflow
from shared.workflows.completion_batch import CompletionBatchWorkflow
from shared.workflows.dispatch import DispatchWorkflow, SendingSettings
from shared.workflows.housekeeping import HousekeepingWorkflow
from shared.workflows.operations import OperationsWorkflow
from shared.workflows.plan import PlanWorkflow
from shared.workflows.poison import PoisonWorkflow
from shared.workflows.release import ReleaseWorkflow
from shared.workflows.site import SiteWorkflow
from shared.workflows.status import StatusWorkflow
from shared.workflows.sweep import SweepWorkflow

if TYPE_CHECKING:
    from shared.clock import Clock


@dataclass(frozen=True)
class App:
    """Everything a function or a command needs, put together."""

    settings: Settings
    clock: Clock
    account: StorageAccount
    stores: Stores
    book: CampaignBook
    sweeps: SweepWorkflow
    plans: PlanWorkflow
    releases: ReleaseWorkflow
    dispatch: DispatchWorkflow
    completion: CompletionWorkflow
    completion_batch: CompletionBatchWorkflow
    site: SiteWorkflow
    housekeeping: HousekeepingWorkflow
    status: StatusWorkflow
    operations: OperationsWorkflow
    poison: PoisonWorkflow
    directory: Directory
    http: HttpClient

    async def close(self) -> None:
        await self.http.close()
        await self.directory.close()
        await self.account.close()


def build_app(settings: Settings, clock: Clock | None = None) -> App:
    """Put the product together over these settings. Opens no connection.

    Args:
        clock: in place of the one that the settings name.
    """
    clock = clock or settings.make_clock()
    account = StorageAccount(
        StorageSettings(
            connection_string=settings.storage_connection,
            blob_uri=settings.storage_blob_uri,
            queue_uri=settings.storage_queue_uri,
            table_uri=settings.storage_table_uri,
            managed=settings.storage_managed,
            client_id=settings.storage_client_id or None,
        ),
        clock,
    )
    stores = Stores.over(account, clock)
    book = CampaignBook(stores, clock, settings.allowed)
    directory = Directory(
        settings.graph_base_url, settings.graph_auth, settings.storage_client_id or None
    )
    http = HttpClient()
    sender = SendGrid(
        http,
        base_url=settings.sendgrid_base_url,
        api_key=settings.sendgrid_api_key,
        call_timeout=clock.ages.call,
    )
    key = settings.address_key.encode()
    sweeps = SweepWorkflow(stores, book, directory, clock)
    plans = PlanWorkflow(stores, book, clock, key=key, sender_maximum=sender.max_recipients)
    releases = ReleaseWorkflow(
        stores,
        book,
        sweeps,
        plans,
        clock,
        public_base_url=settings.public_base_url,
        link_hosts=settings.allowed_link_hosts,
    )
    dispatch = DispatchWorkflow(
        stores,
        book,
        sender,
        clock,
        SendingSettings(
            link_keys=settings.link_keys,
            address_key=key,
            public_base_url=settings.public_base_url,
            link_hosts=settings.allowed_link_hosts,
        ),
    )
    completion = CompletionWorkflow(
        stores,
        book,
        directory,
        clock,
        link_keys=settings.link_keys,
        confirm=settings.graph_confirm,
    )
    status = StatusWorkflow(stores, book, plans, releases, clock)
    return App(
        settings=settings,
        clock=clock,
        account=account,
        stores=stores,
        book=book,
        sweeps=sweeps,
        plans=plans,
        releases=releases,
        dispatch=dispatch,
        completion=completion,
        completion_batch=CompletionBatchWorkflow(
            stores,
            book,
            directory,
            completion,
            clock,
            confirm=settings.graph_confirm,
            key=key,
        ),
        site=SiteWorkflow(book, completion, status, clock),
        housekeeping=HousekeepingWorkflow(stores, book, clock),
        status=status,
        operations=OperationsWorkflow(stores, book),
        poison=PoisonWorkflow(stores),
        directory=directory,
        http=http,
    )


@cache
def app() -> App:
    """The one of this process, from its environment."""
    return build_app(read_settings(os.environ))
