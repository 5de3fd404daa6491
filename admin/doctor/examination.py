"""All looks, and the order of their rows: the one in which a deployment meets them."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Iterable, Sequence

from admin.doctor.azure import (
    examine_deployer,
    examine_permissions,
    examine_receivers,
    examine_roles,
    examine_secrets,
    examine_zones,
)
from admin.doctor.campaigns import (
    examine_allowed,
    examine_mode,
    examine_pace,
    examine_schedule,
    examine_text_sender,
)
from admin.doctor.own_domain import examine_own_domain
from admin.doctor.parameters import read_parameters
from admin.doctor.reach import Names, Web
from admin.doctor.rows import Row, look, unchecked
from admin.doctor.sender_domain import examine_sender_domain
from admin.doctor.settings import examine_alarm_parameter, examine_settings, examine_webhook_key
from admin.doctor.stored import (
    Stored,
    examine_files,
    examine_receipts,
    examine_storage,
    examine_sweeps,
    read_stored,
)
from admin.doctor.subject import Subject, read_environment_file
from local.system import find_running_system
from shared.clock import SystemClock
from shared.errors import SetupFault
from shared.rules.campaign import Campaign


async def find_subject(given: argparse.Namespace) -> Subject:
    """What the options of the command mean. Raises SetupFault."""
    if given.params:
        parameters, unset = await read_parameters(given.params)
        return Subject.of_parameters(parameters, os.environ, unset)
    if given.env:
        found = read_environment_file(given.env)
        return Subject.of_settings("file", found, {**os.environ, **found})
    if given.local:
        system = find_running_system()
        if system is None:
            raise SetupFault("No local system runs here.", "Start one with `make run`.")
        return Subject.of_settings("environment", {**os.environ, **system.values}, {})
    return Subject.of_settings("environment", os.environ, os.environ)


async def examine(subject: Subject, given: argparse.Namespace) -> list[Row]:
    """Every look, side by side; their rows in the order in which a deployment meets them."""
    stored = await read_stored(subject, given.campaign)
    web = Web()
    try:
        found = await asyncio.gather(*_looks(subject, stored, web, given))
    finally:
        await web.close()
    return [row for rows in found for row in rows]


def _looks(
    subject: Subject, stored: Stored, web: Web, given: argparse.Namespace
) -> Iterable[Awaitable[list[Row]]]:
    names = Names(given.nameserver)
    real_now = SystemClock().storage_now()
    now = subject.campaign_now()
    campaigns = stored.campaigns

    # What is there after a deployment, and who may do what.
    yield _at_once(examine_settings(subject))
    if subject.kind == "plan":
        yield look("your right to deploy", examine_deployer())
        yield look("zone redundancy", examine_zones(subject))
    else:
        yield look("roles of the identity", examine_roles(subject))
    yield look("secrets in Key Vault", examine_secrets(subject, web, real_now))
    yield look("Graph permissions", examine_permissions(subject, web, campaigns))
    yield _at_once(examine_storage(stored))
    if subject.kind == "plan":
        yield _at_once(examine_alarm_parameter(subject))
    else:
        yield look("receivers of alarms", examine_receivers(subject))

    # What a dry run needs.
    yield _at_once(examine_files(stored, subject))
    for one in campaigns:
        yield _at_once(examine_schedule(one, subject, stored, now, given.accounts))
    yield _at_once(examine_sweeps(stored, now))

    # What a trial needs, and live even more.
    domains = _sender_domains(subject, campaigns)
    if not domains:
        yield _at_once([unchecked("sender domain", "no campaign and no sender is known here")])
    for domain in domains:
        selectors = [one.strip() for one in given.dkim.split(",") if one.strip()]
        yield examine_sender_domain(
            domain, names, selectors=selectors, return_path=given.return_path
        )
    for one in campaigns:
        yield _at_once(examine_text_sender(one, subject))
    yield _at_once(examine_webhook_key(subject))
    yield _at_once(examine_receipts(stored, real_now))
    yield look("custom domain", examine_own_domain(subject, names, real_now))
    for one in campaigns:
        yield _at_once(examine_allowed(one, subject))
    for one in campaigns:
        yield _at_once(examine_pace(one, subject, stored, now, given.people))
    for one in campaigns:
        yield _at_once([examine_mode(one)])
    if not campaigns:
        what = "sweep before the window, sender and links, pace, mode"
        yield _at_once([unchecked(what, "no campaign is known here", "Give --campaign FILE.")])


async def _at_once(rows: Iterable[Row]) -> list[Row]:
    return list(rows)


def _sender_domains(subject: Subject, campaigns: Sequence[Campaign]) -> list[str]:
    """Domains that mails come from: those of the campaigns, or else all that are allowed."""
    senders = {one.sender.email for one in campaigns}
    if not senders and subject.settings:
        senders = set(subject.settings.allowed_senders)
    return sorted({sender.rpartition("@")[2].casefold() for sender in senders})
