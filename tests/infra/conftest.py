"""The package, made once and unpacked once, for all tests of it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest

from infra.package import BUILD, Manifest, Package

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def package() -> Package:
    """As `make package` makes it; the one in build/, where it is of the same input."""
    made = subprocess.run(
        [sys.executable, "-m", "infra.package"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return Package(
        BUILD, msgspec.json.decode((BUILD / "mfa-nudge.json").read_bytes(), type=Manifest)
    )


@pytest.fixture(scope="session")
def tree(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip, unpacked somewhere else."""
    tree = tmp_path_factory.mktemp("wwwroot")
    with zipfile.ZipFile(package.zip) as archive:
        archive.extractall(tree)
    return tree
