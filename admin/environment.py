"""Where a command finds the system that it speaks to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

import msgspec

from functions.wiring import App, build_app
from local.system import LOCAL_SETTINGS, RunningSystem
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
    try:
        found = msgspec.json.decode(LOCAL_SETTINGS.read_bytes(), type=RunningSystem)
        os.kill(found.pid, 0)  # whoever was killed has left the file behind
    except (FileNotFoundError, ProcessLookupError) as error:
        raise SetupFault("No local system runs here.", "Start one with `make run`.") from error
    return {**os.environ, **found.values}
