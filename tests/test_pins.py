"""What is installed is pinned, the same everywhere; and nothing that is committed speaks of the
machine or the registry that it was made with."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import missing_tool
from tests.pins import (
    LOCK,
    PROJECT,
    REQUIREMENTS,
    ROOT,
    exported_requirements,
    locked_packages,
    locked_versions,
    pinned_versions,
)

WORKER = "azure-functions-runtime"
MACHINE_PATH = re.compile(rf"(?<![\w.~-])(?:/(?:home|root|Users|work)/\w|{re.escape(str(ROOT))}\b)")
WELL_KNOWN = frozenset(
    {".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))}
)


@pytest.fixture
def _lock() -> None:
    if not LOCK.exists():
        missing_tool("there is no uv.lock: `make setup` makes one")


@pytest.mark.usefixtures("_lock")
def test_every_package_of_the_lock_is_pinned_and_no_other() -> None:
    assert pinned_versions() == locked_versions()


@pytest.mark.usefixtures("_lock")
def test_requirements_are_what_the_lock_exports() -> None:
    assert REQUIREMENTS.read_text() == exported_requirements(), "run `make lock`"


def test_the_worker_library_is_pinned_exactly_wherever_it_is_named() -> None:
    """Tests and the local host prove something about production only if it runs the same one."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    (asked_for,) = [one for one in project["dependencies"] if one.startswith(WORKER)]
    assert re.fullmatch(rf"{WORKER}==\d+(\.\d+)+", asked_for)
    assert asked_for in pinned_versions()
    assert asked_for in REQUIREMENTS.read_text().splitlines()


def committed_files() -> Iterator[tuple[Path, str]]:
    """Files that are committed, or would be, with their text."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (file := ROOT / name).is_file():
            yield file, file.read_text(errors="ignore")


def registry_hosts() -> set[str]:
    """The usual registries, and those that this machine's lock was made with."""
    hosts = set(WELL_KNOWN)
    for package in locked_packages() if LOCK.exists() else []:
        files = [*package.get("wheels", []), package.get("sdist", {})]
        for address in (package["source"]["registry"], *(one.get("url", "") for one in files)):
            host = urlsplit(address).hostname or ""
            if not re.fullmatch(r"localhost|[\d.]*|\[.*\]", host):
                hosts.add(host)
    return hosts


def test_no_committed_file_names_a_registry_or_a_path_of_a_machine() -> None:
    hosts = registry_hosts()
    offences = [
        f"{file.relative_to(ROOT)}: {found}"
        for file, text in committed_files()
        for found in [*(host for host in hosts if host in text), *MACHINE_PATH.findall(text)]
    ]
    assert offences == []
