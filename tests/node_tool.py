"""A tool that runs in Node: installed from npm into `.tools` of the project, asked over JSON."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from local.node import NODE, ensure_installed, is_installed
from shared.errors import SetupFault

_TOOLS = Path(__file__).resolve().parents[1] / ".tools"


@dataclass(frozen=True)
class NodeTool:
    """Packages of npm in these versions.

    Attributes:
        name: of the directory in `.tools`, and of the module `tests.{name}.tools`.
    """

    name: str
    versions: Mapping[str, str]

    @property
    def home(self) -> Path:
        return _TOOLS / self.name

    @property
    def install(self) -> str:
        """What a person runs to bring it."""
        return f"python -m tests.{self.name}.tools --install"

    def installed(self) -> bool:
        """Whether all of it is there, in these versions."""
        return is_installed(self.home, self.versions)

    def mistakes(self, script: str, question: Any, *, module: bool = True) -> dict[str, list[str]]:
        """What a script answers that is given `question` on its standard input: what it finds in
        each document, by the document's name.

        Args:
            module: whether the script is an ES module, or else of CommonJS.
        """
        node = subprocess.run(
            [NODE, f"--input-type={'module' if module else 'commonjs'}", "-e", script],
            input=msgspec.json.encode(question),
            stdout=subprocess.PIPE,
            cwd=self.home,
            check=True,
        )
        return msgspec.json.decode(node.stdout, type=dict[str, list[str]])

    def main(self, description: str | None) -> None:
        """`python -m tests.….tools --install` installs what is missing."""
        program = self.install.removesuffix(" --install")
        parser = argparse.ArgumentParser(prog=program, description=description)
        parser.add_argument("--install", action="store_true", required=True)
        parser.parse_args()
        try:
            ensure_installed(self.home, self.versions, command=self.install)
        except SetupFault as fault:
            sys.exit(str(fault))


def join(found: Mapping[str, list[str]]) -> list[str]:
    """Each mistake behind the name of its document."""
    return [f"{name}: {mistake}" for name, mistakes in found.items() for mistake in mistakes]
