"""Where a command finds the system that it speaks to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from functions.wiring import App, build_app
from local.system import find_running_system
from shared.errors import SetupFault
from shared.settings import read_settings


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--local",
        action="store_true",
        help="the local system that runs here, not the one of the environment's settings",
    )


def open_target(given: argparse.Namespace) -> App:
    """The app that the command speaks to; raises SetupFault."""
    return build_app(read_settings(_local_settings() if given.local else os.environ))


def _local_settings() -> Mapping[str, str]:
    found = find_running_system()
    if found is None:
        raise SetupFault("No local system runs here.", "Start one with `make run`.")
    return {**os.environ, **found.values}
