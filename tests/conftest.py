"""What tests share: storage of their own, the skip policy, and the closing summary.

Storage is Azurite, in processes of their own for each process of tests; each test gets an account
that no other test has used.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from jsonschema import Draft202012Validator
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from local.worker import WORKER_VERSION

ROOT = Path(__file__).resolve().parents[1]
ACCOUNTS = 100
"""Of one Azurite. Its queues are slower the more messages it has seen, whosoever they were."""

MAIL_SPEC = "sendgrid-mail-v3.openapi.json"

INVARIANTS = {
    1: "claimed before the call leaves; one attempt at once",
    2: "every parcel ends; everybody unreached is listed with the reason",
    3: "a missing report row is unknown; set-up faults are named",
    4: "who is done gets nothing",
    5: "GET changes nothing; links are sealed",
    6: "contact data live in pages and outboxes only, and expire",
    7: "a campaign file that does not validate never takes effect",
    8: "nothing surprising goes out unattended",
    9: "UTC inside, the campaign's zone at the edges",
    10: "the guide before the deadline, the general procedure after it",
    11: "live means the institution's own domain",
}


# How long an example takes says nothing where other tests run beside it.
settings.register_profile("beside others", parent=settings.default, deadline=None)
settings.load_profile("beside others")


def missing_tool(reason: str) -> None:
    """Skip a test for want of a tool, or fail it in CI, where every tool is to be."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI lacks a tool: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def breaches() -> Callable[[dict[str, Any]], list[str]]:
    """What SendGrid's published document finds wrong in a body of POST /v3/mail/send."""
    path = Path(os.environ.get("SPECS_DIR", ""), MAIL_SPEC)
    if not path.is_file():
        missing_tool(f"SPECS_DIR does not name the directory of {MAIL_SPEC}")
    document = msgspec.json.decode(path.read_bytes())
    body = document["components"]["requestBodies"]["PostMailSend"]
    schema = body["content"]["application/json"]["schema"]
    # The document has custom_args of the message as one string; the service wants an object.
    del schema["properties"]["custom_args"]
    validator = Draft202012Validator(
        schema | {"components": document["components"]},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )
    return lambda body: [
        f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)
    ]


@pytest.fixture(scope="session")
def _storage_accounts() -> Iterator[Iterator[str]]:
    command = [sys.executable, "-m", "local.azurite", "--accounts", str(ACCOUNTS)]
    with ExitStack() as running:

        def give_out() -> Iterator[str]:
            while True:
                process = running.enter_context(
                    subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
                )
                running.callback(process.terminate)
                assert process.stdout is not None
                yield from msgspec.json.decode(process.stdout.readline())["connection_strings"]

        yield give_out()


@pytest.fixture
def connection_string(_storage_accounts: Iterator[str]) -> str:
    """Of a storage account that is this test's own, still empty."""
    return next(_storage_accounts)


class _ByFile(LoadFileScheduling):
    """Gives out whole files: their tests share fixtures and an event loop, and those of tests/web
    one browser and one local system."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/web" if nodeid.startswith("tests/web/") else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    # In the order of the directories: the slowest files are among the first.
    config.option.loadscopereorder = False
    return _ByFile(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the tests have proven."""
    holding: Counter[int] = Counter()
    measured: list[str] = []
    for report in terminalreporter.stats.get("passed", []):
        properties = dict(report.user_properties)
        holding.update(properties.get("invariants", ()))
        measured += [properties["told"]] if "told" in properties else []
    write = terminalreporter.write_line
    terminalreporter.section("what was proven")
    for number, words in INVARIANTS.items():
        write(f"invariant {number:>2}: {holding[number]:>4} tests   {words}")
    write(f"functions indexed and invoked by azure-functions-runtime {WORKER_VERSION}")
    for words in measured:
        write(words)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        write(f"skipped: {report.nodeid}: {reason}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        numbers = sorted({n for mark in item.iter_markers("invariant") for n in mark.args})
        if numbers:
            item.user_properties.append(("invariants", numbers))
