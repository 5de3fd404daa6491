"""What is put into Azure, and what a developer starts from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from shared.settings import read_settings
from tests.world import KEY

ROOT = Path(__file__).resolve().parents[2]


def git(*words: str, given: str = "") -> list[str]:
    run = subprocess.run(
        ["git", *words], cwd=ROOT, input=given, capture_output=True, text=True, check=False
    )
    return run.stdout.splitlines()


def test_what_is_deployed_is_what_the_app_needs() -> None:
    """.funcignore is read as git reads its own ignore files."""
    files = git("ls-files", "--cached", "--others", "--exclude-standard")
    kept_out = git(
        *("-c", f"core.excludesFile={ROOT / '.funcignore'}"),
        *("check-ignore", "--no-index", "--stdin"),
        given="\n".join(files),
    )
    deployed = set(files) - set(kept_out)
    outside = {name for name in deployed if not name.startswith(("functions/", "shared/"))}
    assert outside == {"function_app.py", "host.json", "requirements.txt"}
    for place in ("functions", "shared"):
        there = {name for name in files if name.startswith(f"{place}/")}
        assert there <= deployed


def test_the_example_of_local_settings_is_complete() -> None:
    """But for the keys, which are secrets: the file says how to make them."""
    example = json.loads((ROOT / "local.settings.example.json").read_text())
    values = example["Values"]
    assert values["LINK_KEYS"].startswith("run: ")
    assert values["ADDRESS_KEY"].startswith("run: ")
    settings = read_settings(values | {"LINK_KEYS": KEY, "ADDRESS_KEY": KEY})
    assert settings.local
