"""The pins: every package at one version, in pyproject.toml, and requirements.txt made from them.

The lock that uv writes names the hosts of a registry, which differ from place to place; so it is
not committed. What it says is: pyproject.toml pins each package's version, from which uv makes the
same lock on every machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "uv.lock"
REQUIREMENTS = ROOT / "requirements.txt"
PROJECT = ROOT / "pyproject.toml"
_PINS = re.compile(r"constraint-dependencies = \[\n.*?^\]\n", re.DOTALL | re.MULTILINE)


def locked_packages() -> list[dict[str, Any]]:
    """Every package of the lock but our own."""
    lock = tomllib.loads(LOCK.read_text())
    return [package for package in lock["package"] if "registry" in package["source"]]


def locked_versions() -> list[str]:
    """`name==version` of every package of the lock but our own, sorted."""
    return sorted(f"{package['name']}=={package['version']}" for package in locked_packages())


def pinned_versions() -> list[str]:
    """The pins of pyproject.toml, as they stand there."""
    return tomllib.loads(PROJECT.read_text())["tool"]["uv"]["constraint-dependencies"]


def exported_requirements() -> str:
    """What Azure is to install: the locked versions of the product's own dependencies."""
    exported = _run_uv(
        *("export", "--frozen", "--no-dev", "--no-emit-project"),
        *("--no-hashes", "--no-annotate", "--no-header"),
    )
    head = "# Made from the lock by `make lock`; a test compares. The package holds these.\n"
    return head + exported


def take_newest() -> None:
    """Lock the newest versions of all packages, then write pins and requirements from the lock."""
    text = PROJECT.read_text()
    _write_pins([])  # they would hold every package where it is
    try:
        _run_uv("lock", "--upgrade")
    except subprocess.CalledProcessError:
        PROJECT.write_text(text)
        raise
    _write_pins(locked_versions())
    _run_uv("lock")  # the lock names the pins, too
    REQUIREMENTS.write_text(exported_requirements())


def _write_pins(versions: Sequence[str]) -> None:
    pins = "".join(f'  "{version}",\n' for version in versions)
    text = PROJECT.read_text()
    PROJECT.write_text(_PINS.sub(f"constraint-dependencies = [\n{pins}]\n", text))


def _run_uv(*arguments: str) -> str:
    uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    return subprocess.run(
        [uv, "--quiet", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


if __name__ == "__main__":
    take_newest()
