"""What is counted of a call is counted once, whoever knows first that it was accepted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from shared.names import NAMES
from shared.rules.parcels import State
from shared.telemetry import start_counting
from tests.sending import Desk, in_one_shard, running_desk


@pytest.fixture
async def desk(connection_string: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with running_desk(connection_string, tmp_path) as desk:
        yield desk


@pytest.fixture(scope="module")
def reader() -> Iterator[InMemoryMetricReader]:
    """Reads what this process counts: the one provider that a process may have."""
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    start_counting()
    yield reader
    reader.shutdown()


def total(reader: InMemoryMetricReader, name: str) -> float:
    """The sum of a counter over all of its attributes, so far."""
    data = reader.get_metrics_data()
    points = [
        point
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]
    return sum(point.value for point in points if isinstance(point, NumberDataPoint))


@pytest.mark.parametrize("first", ["the answer", "a receipt"])
async def test_an_accepted_parcel_is_counted_once(
    desk: Desk, reader: InMemoryMetricReader, first: str
) -> None:
    await desk.plan(in_one_shard(2))
    before = [total(reader, name) for name in (NAMES.metrics.parcels, NAMES.metrics.recipients)]

    async def report(_: web.Request) -> None:
        await desk.report(desk.provider.calls[-1].row, delivered=[0])

    if first == "a receipt":
        desk.provider.before = report
    await desk.send_due()
    desk.provider.before = None
    await desk.report(await desk.parcel(), delivered=[1])
    assert (await desk.parcel()).state is State.ACCEPTED
    after = [total(reader, name) for name in (NAMES.metrics.parcels, NAMES.metrics.recipients)]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 2]
