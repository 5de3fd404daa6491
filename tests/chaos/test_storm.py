"""A storm of ten kills: nobody is lost, and nobody is written to twice. `make chaos` is the long
form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.storm import NOTHING, Size, run_storm


@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
async def test_ten_kills(tmp_path: Path) -> None:
    size = Size(alumni=2700, kills=10, scale=0.01, short=True)
    said: list[str] = []
    outcome = await run_storm(tmp_path, size, say=said.append)
    assert outcome.findings.breaches == (), "\n".join(said)
    # It was a storm.
    assert len(outcome.kills.keys() - {NOTHING}) > 2, said
    assert outcome.findings.doubtful
    # How many of a storm's calls stay in doubt is chance.
    assert outcome.findings.recipients > outcome.findings.due / 2
