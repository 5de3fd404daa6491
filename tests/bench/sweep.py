"""A sweep of a large tenant, from the first page to planned parcels, and the same pages read with
the SDK's typed models."""

from __future__ import annotations

from local.tenant import ALUMNI_GROUP
from shared.clock import monotonic
from shared.rules.parcels import State
from shared.services.directory import GroupMembers, RegistrationReport, Source
from tests.bench.bed import Bed, Bench
from tests.bench.children import running_child
from tests.bench.table import Line

_AIM = 100


async def measure(bed: Bed, accounts: int, typed_rows: int) -> list[Line]:
    """Reads `accounts` by the product, and about `typed_rows` of each list by the SDK's models."""
    async with (
        bed.running_bench(tenant=(accounts, 0)) as bench,
        running_child(
            "tests.bench.typed_models",
            *(bench.environment["GRAPH_BASE_URL"], ALUMNI_GROUP, str(typed_rows // 2)),
        ) as read_typed,
    ):
        # A tenant makes a row when it is first asked for: not what is to be measured.
        await _read_all(bench, RegistrationReport())
        await _read_all(bench, GroupMembers(ALUMNI_GROUP))
        before = await read_typed()
        began = monotonic()
        await bench.app.sweeps.start()
        await bench.read_pages()
        read_after = monotonic() - began
        await bench.plan()
        seconds = monotonic() - began
        after = await read_typed()
        sweep = await bench.app.stores.sweeps.read_committed()
        parcels = await bench.parcels()
    assert sweep is not None
    assert parcels
    assert {parcel.state for parcel in parcels} == {State.PLANNED}
    typed = {name: (before[name] + after[name]) / 2 for name in before}
    usual = sum(typed.values())
    ratio = usual * accounts / seconds
    return [
        Line(
            what=f"sweep of {accounts:,} accounts, to planned parcels",
            measured=f"{accounts / seconds:,.0f} accounts/s",
            beside=f"typed models {1 / usual:,.0f} accounts/s",
            ratio=ratio,
            aim=f"at least {_AIM}",
            holds=ratio >= _AIM,
            notes=(
                f"{seconds:.2f} s: {read_after:.2f} s to read "
                f"{sum(one.pages for one in sweep.passes)} pages and commit, "
                f"{seconds - read_after:.2f} s to plan "
                f"{len(parcels)} parcels for {sum(p.count for p in parcels):,} people.",
                "Beside it reading alone, by msgraph-sdk's typed models and PageIterator, over "
                f"{typed_rows:,} rows of each list, half before the sweep and half after: "
                f"{typed['report'] * 1000:.2f} ms a report row, "
                f"{typed['roster'] * 1000:.2f} ms a roster row; an account has one of each.",
            ),
        )
    ]


async def _read_all(bench: Bench, source: Source) -> None:
    link: str | None = None
    while True:
        page = await bench.app.directory.read_page(source, link)
        if (link := page.next_link) is None:
            return
