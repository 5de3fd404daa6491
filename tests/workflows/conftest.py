"""The world that workflow tests run in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.world import World, running_world


@pytest.fixture
async def world(connection_string: str, tmp_path: Path) -> AsyncGenerator[World]:
    """400 alumni, 100 others, no throttling, fourteen days before the deadline."""
    async with running_world(connection_string, tmp_path) as world:
        yield world
