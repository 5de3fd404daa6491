"""What a process does that is told to end while calls are under way."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROCESS = """
import os, signal
from functions.wiring import stop_claims_at_sigterm

class Calls:
    def stop(self, when_idle):
        self.end = when_idle

calls = Calls()
{before}
stop_claims_at_sigterm(calls)
os.kill(os.getpid(), signal.SIGTERM)
print("still here", flush=True)
calls.end()
print("never", flush=True)
"""


def run(before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROCESS.format(before=before)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.invariant(1)
def test_it_ends_when_what_was_under_way_has_been_settled() -> None:
    ended = run()
    assert (ended.stdout, ended.stderr) == ("still here\n", "")
    assert ended.returncode == -signal.SIGTERM


def test_a_host_that_ends_it_in_its_own_way_still_learns_of_the_signal() -> None:
    ended = run('signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))')
    assert ended.stdout == "told\nstill here\nnever\n"
    assert ended.returncode == 0
