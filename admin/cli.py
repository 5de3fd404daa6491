"""The `nudge` command: its groups of commands, and where their settings come from."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any

from azure.core.exceptions import AzureError, ClientAuthenticationError

from admin import local, operate, report, survey
from admin.doctor import command as doctor
from shared.errors import RetryLater, SetupFault


def main() -> None:
    """`nudge …`; exits 0, 1 when something failed, 2 when the words of the call are off."""
    parser = argparse.ArgumentParser(
        prog="nudge", description="Reaches alumni who have not registered for MFA."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    local.add_commands(commands)
    report.add_commands(commands)
    operate.add_commands(commands)
    survey.add_commands(commands)
    doctor.add_commands(commands)
    given = parser.parse_args()
    # It reports at length, on standard error, each place where it found no sign-in.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    run: Coroutine[Any, Any, int] = given.run(given)
    try:
        code = asyncio.run(run)
        sys.stdout.flush()
        sys.exit(code)
    except (SetupFault, RetryLater) as error:
        print(error, file=sys.stderr)
    except ClientAuthenticationError:
        print("Nobody is signed in to Azure here. Fix: `az login`.", file=sys.stderr)
    except AzureError as error:
        print(f"Storage, or the identity for it: {error}", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `| head` does; the interpreter's own end must
        # not try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(1)
