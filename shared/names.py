"""Names of queues, tables, containers, metrics and alarms, from the one data file that Bicep and
tests read too."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Queues(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the queues; each has a poison queue beside it."""

    sweep: str
    plan: str
    email: str
    sms: str
    receipts: str


class Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the tables."""

    ledger: str
    control: str


class Containers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the blob containers."""

    pages: str
    outbox: str
    config: str
    versions: str


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Names of the metrics; what each counts, and by which attributes, is told where it is made
    (shared/telemetry.py)."""

    heartbeat: str
    runs: str
    queue_length: str
    alarms: str
    refused: str
    parcels: str
    recipients: str
    people: str
    sweep_age: str


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All shared names. `alarms` are the log events that alert rules know."""

    queues: Queues
    tables: Tables
    containers: Containers
    metrics: Metrics
    alarms: tuple[str, ...]


NAMES = msgspec.json.decode((Path(__file__).parent / "names.json").read_bytes(), type=Names)


def poison_of(queue: str) -> str:
    """The queue to which the Functions host moves what it gave up on."""
    return f"{queue}-poison"


def every_queue() -> list[str]:
    """Each queue, and the poison queue beside it."""
    names: tuple[str, ...] = msgspec.structs.astuple(NAMES.queues)
    return [each for name in names for each in (name, poison_of(name))]
