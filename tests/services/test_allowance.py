"""Who presses a button must not use up what the sweep needs of Graph."""

from __future__ import annotations

import asyncio

import pytest

from local.tenant import Options, running_tenant
from shared.errors import RetryLater
from shared.services.directory import Allowance, Directory


async def test_an_allowance_is_used_up_and_comes_back() -> None:
    allowance = Allowance(burst=2, seconds=1)
    assert [allowance.take(), allowance.take()] == [0, 0]
    assert 0 < allowance.take() <= 1
    await asyncio.sleep(1.1)
    assert allowance.take() == 0
    assert allowance.take() > 0
    await asyncio.sleep(3.5)
    assert [allowance.take() > 0 for _ in range(3)] == [False, False, True], "no more is saved up"


async def test_single_rows_of_the_report_are_asked_for_seldom_and_methods_freely() -> None:
    async with running_tenant(Options(alumni=5, others=0, throttled=False)) as url:
        directory = Directory(f"{url}/v1.0", "anonymous", row_questions=Allowance(2, 60))
        person = bytes(16)
        for how, done_when in (("report", "registered"), ("methods", "capable")):
            await directory.confirm(person, how, done_when)
        with pytest.raises(RetryLater) as refused:
            await directory.confirm(person, "report", "registered")
        assert refused.value.after
        assert 0 < refused.value.after <= 60
        for _ in range(5):
            await directory.confirm(person, "methods", "registered")
        await directory.close()
