"""What a developer starts from."""

from __future__ import annotations

import json
from pathlib import Path

from shared.settings import read_settings
from tests.world import KEY

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_of_local_settings_is_complete() -> None:
    """But for the keys, which are secrets: the file says how to make them."""
    example = json.loads((ROOT / "local.settings.example.json").read_text())
    values = example["Values"]
    assert values["LINK_KEYS"].startswith("run: ")
    assert values["ADDRESS_KEY"].startswith("run: ")
    settings = read_settings(values | {"LINK_KEYS": KEY, "ADDRESS_KEY": KEY})
    assert settings.local
