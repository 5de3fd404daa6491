"""The composition root: settings, clock, clients and workflows, built once a process and late.

Late, since a worker must index the app within seconds: nothing is opened at import, and the
Graph SDK not before the first page is read.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from functions import telemetry
from shared.services.directory import Directory
from shared.services.http import HttpClient
from shared.services.senders.sendgrid import SendGrid
from shared.services.senders.twilio import Twilio
from shared.settings import Settings, read_settings
from shared.stores import Stores
from shared.stores.account import StorageAccount, StorageSettings
from shared.workflows.biography import BiographyWorkflow
from shared.workflows.campaigns import CampaignBook
from shared.workflows.completion import CompletionWorkflow
from shared.workflows.completion_batch import CompletionBatchWorkflow
from shared.workflows.composing import Composer, Links
from shared.workflows.dispatch import DispatchWorkflow, SendingSettings
from shared.workflows.housekeeping import HousekeepingWorkflow
from shared.workflows.look_back import LookBackWorkflow
from shared.workflows.operations import OperationsWorkflow
from shared.workflows.plan import PlanWorkflow
from shared.workflows.poison import PoisonWorkflow
from shared.workflows.receipts import ReceiptsWorkflow
from shared.workflows.release import ReleaseWorkflow
from shared.workflows.replan import ReplanWorkflow
from shared.workflows.site import SiteWorkflow
from shared.workflows.status import StatusWorkflow
from shared.workflows.sweep import SweepWorkflow
from shared.workflows.watch import WatchWorkflow

if TYPE_CHECKING:
    from types import FrameType

    from shared.clock import Clock
    from shared.rules.parcels import Channel
    from shared.services.senders import Sender


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
    receipts: ReceiptsWorkflow
    completion: CompletionWorkflow
    completion_batch: CompletionBatchWorkflow
    site: SiteWorkflow
    housekeeping: HousekeepingWorkflow
    status: StatusWorkflow
    operations: OperationsWorkflow
    replan: ReplanWorkflow
    biography: BiographyWorkflow
    poison: PoisonWorkflow
    watch: WatchWorkflow
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
    senders = _make_senders(settings, http, clock)
    key = settings.address_key.encode()
    sweeps = SweepWorkflow(stores, book, directory, clock)
    plans = PlanWorkflow(
        stores,
        book,
        clock,
        key=key,
        sender_maximum={channel: one.max_recipients for channel, one in senders.items()},
    )
    releases = ReleaseWorkflow(
        stores,
        book,
        sweeps,
        plans,
        LookBackWorkflow(stores, clock),
        clock,
        public_base_url=settings.public_base_url,
        link_hosts=settings.allowed_link_hosts,
    )
    completion = CompletionWorkflow(
        stores,
        book,
        directory,
        clock,
        link_keys=settings.link_keys,
        confirm=settings.graph_confirm,
    )
    dispatch = DispatchWorkflow(
        stores,
        book,
        senders,
        Composer(Links(settings.link_keys, settings.public_base_url)),
        completion,
        clock,
        SendingSettings(
            address_key=key,
            public_base_url=settings.public_base_url,
            link_hosts=settings.allowed_link_hosts,
        ),
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
        receipts=ReceiptsWorkflow(stores, completion, clock, address_key=key),
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
        replan=ReplanWorkflow(stores, book, sweeps),
        biography=BiographyWorkflow(stores, book, plans, directory, clock),
        poison=PoisonWorkflow(stores, clock),
        watch=WatchWorkflow(stores),
        directory=directory,
        http=http,
    )


def _make_senders(settings: Settings, http: HttpClient, clock: Clock) -> dict[Channel, Sender]:
    """The sender of each channel that the settings have one for."""
    senders: dict[Channel, Sender] = {
        "email": SendGrid(
            http,
            base_url=settings.sendgrid_base_url,
            api_key=settings.sendgrid_api_key,
            call_timeout=clock.ages.call,
        )
    }
    if "sms" in settings.channels:
        senders["sms"] = Twilio(
            http,
            base_url=settings.twilio_base_url,
            account_sid=settings.twilio_account_sid,
            auth_token=settings.twilio_auth_token,
            sender=settings.twilio_from,
            callback_url=f"{settings.public_base_url}/callbacks/twilio",
            call_timeout=clock.ages.call,
        )
    return senders


@cache
def app() -> App:
    """The one of this process, from its environment."""
    made = build_app(read_settings(os.environ))
    with suppress(ValueError):  # outside of the main thread nobody can listen to signals
        stop_claims_at_sigterm(made.dispatch)
    return made


def stop_claims_at_sigterm(dispatch: DispatchWorkflow) -> None:
    """Whoever ends the process lets what has been claimed come to its end, and nothing new begin:
    a call that is cut off is a doubt of our own making."""
    previous = signal.getsignal(signal.SIGTERM)

    def end_when_idle() -> None:
        if not callable(previous):
            telemetry.flush()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        dispatch.stop(end_when_idle)
        if callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGTERM, stop)
