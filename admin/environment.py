"""Where a command finds the system that it speaks to, and how it answers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

import msgspec

from functions.wiring import App, build_app
from local.system import find_running_system
from shared.errors import SetupFault
from shared.settings import read_settings


def add_target(parser: argparse.ArgumentParser) -> None:
    """What every command takes: which system is meant, and whether the answer is JSON."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument(
        "--local",
        action="store_true",
        help="the local system that runs here, not the one of the environment's settings",
    )


def open_target(given: argparse.Namespace) -> App:
    """The app that the command speaks to; raises SetupFault."""
    return build_app(read_settings(_local_settings() if given.local else _own_settings()))


def answer(given: argparse.Namespace, text: str, value: object) -> int:
    """Print what a command has to say: as text for people, or as JSON. Returns its exit code."""
    print(msgspec.json.encode(value).decode() if given.json else text)
    return 0


def _own_settings() -> Mapping[str, str]:
    """Those of the environment. A command runs as whoever types it, at Graph as at the storage."""
    return {"GRAPH_AUTH": "default", **os.environ}


def _local_settings() -> Mapping[str, str]:
    found = find_running_system()
    if found is None:
        raise SetupFault("No local system runs here.", "Start one with `make run`.")
    return {**os.environ, **found.values}
