"""infra/set-secrets.sh, run as an administrator runs it, over a stand-in for the Azure CLI that
keeps secrets as files."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "set-secrets.sh"
KEY = "SG.abcdefghijklmnopqrstuv.0123456789-_abcdef"
SID, TOKEN = "AC" + "0123456789abcdef" * 2, "fedcba9876543210" * 2

# `show` prints what it is asked for, `set` takes a file; both note their words. With a file
# `trouble` every call fails with its text.
AZ = """#!/bin/sh
home=$(dirname "$0")/../vault
echo "$*" >> "$home/../calls"
if [ -e "$home/../trouble" ]; then cat "$home/../trouble" >&2; exit 1; fi
verb=$3
shift 3
while [ $# -gt 0 ]; do
  case $1 in
    --name) name=$2 ;;
    --file) file=$2 ;;
    --query) query=$2 ;;
  esac
  shift 2
done
if [ "$verb" = show ]; then
  [ -e "$home/$name" ] || { echo "ERROR: (SecretNotFound) A secret was not found" >&2; exit 3; }
  if [ "$query" = value ]; then cat "$home/$name"; else echo "id-of-$name"; fi
else
  [ "$(stat -c %a "$file")" = 600 ] || { echo "ERROR: everybody can read it" >&2; exit 1; }
  cat "$file" > "$home/$name"
fi
"""


class Vault:
    """A vault, and the script run over it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.secrets = directory / "vault"
        self.secrets.mkdir()
        (directory / "bin").mkdir()
        program = directory / "bin" / "az"
        program.write_text(AZ)
        program.chmod(0o755)

    def run(self, *arguments: str, told: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", SCRIPT, *(arguments or ("--vault", "kv"))],
            env={"PATH": f"{self._directory / 'bin'}:{os.environ['PATH']}"},
            input=told,
            capture_output=True,
            text=True,
            check=False,
        )

    def read(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in self.secrets.iterdir()}

    def calls(self) -> str:
        return (self._directory / "calls").read_text()

    def be_in_trouble(self, words: str) -> None:
        (self._directory / "trouble").write_text(f"ERROR: {words}\n")


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


def test_it_asks_for_what_is_missing_and_makes_what_is_the_apps_own(vault: Vault) -> None:
    done = vault.run(told=f"{KEY}\n")
    assert done.returncode == 0, done.stderr
    found = vault.read()
    assert found.keys() == {"sendgrid-api-key", "link-keys", "address-key"}
    assert found["sendgrid-api-key"] == KEY
    assert found["link-keys"] != found["address-key"]
    for name in ("link-keys", "address-key"):
        assert len(base64.b64decode(found[name], validate=True)) == 32
    assert all(value not in done.stdout + done.stderr + vault.calls() for value in found.values())


def test_a_second_run_changes_nothing(vault: Vault) -> None:
    vault.run(told=f"{KEY}\n")
    before = vault.read()
    done = vault.run()
    assert (done.returncode, vault.read()) == (0, before)
    assert done.stdout.splitlines()[-1] == "Nothing to do."


def test_with_sms_it_asks_for_two_more(vault: Vault) -> None:
    vault.run(told=f"{KEY}\n")
    assert vault.run("--vault", "kv", "--sms", told=f"{SID}\n{TOKEN}\n").returncode == 0
    found = vault.read()
    assert (found["twilio-account-sid"], found["twilio-auth-token"]) == (SID, TOKEN)


def test_a_new_link_key_stands_before_the_old_ones(vault: Vault) -> None:
    vault.run(told=f"{KEY}\n")
    before = vault.read()
    done = vault.run("--vault", "kv", "--replace", "link-keys")
    assert done.returncode == 0, done.stderr
    assert "replaced: link-keys" in done.stdout
    new, old = vault.read()["link-keys"].split(",")
    assert old == before["link-keys"]
    assert re.fullmatch(r"[A-Za-z0-9+/]{43}=", new)
    assert vault.read() == before | {"link-keys": f"{new},{old}"}


def test_a_replaced_key_is_asked_for(vault: Vault) -> None:
    vault.run(told=f"{KEY}\n")
    vault.run("--vault", "kv", "--replace", "sendgrid-api-key", told=f"{KEY}2\n")
    assert vault.read()["sendgrid-api-key"] == f"{KEY}2"


@pytest.mark.parametrize("told", ["", "hello\n", "SG.only\n", f"{SID}\n"])
def test_what_is_no_key_is_not_saved(told: str, vault: Vault) -> None:
    done = vault.run(told=told)
    assert done.returncode == 1
    assert "that is not SendGrid's API key" in done.stderr
    assert told.strip() == "" or told.strip() not in done.stderr
    assert vault.read() == {}


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("Please run 'az login' to setup account.", "az login --tenant"),
        ("(Forbidden) Caller is not authorized ... Inner error: ForbiddenByRbac", "Officer"),
        ("(Forbidden) Public network access is disabled ... ForbiddenByConnection", "network"),
        ("HTTPSConnectionPool: Max retries exceeded: Failed to resolve 'kv'", "KEY_VAULT_NAME"),
        ("something that nobody foresaw", "nothing is lost"),
    ],
)
def test_what_goes_wrong_is_told_with_its_fix(words: str, fix: str, vault: Vault) -> None:
    vault.be_in_trouble(words)
    done = vault.run(told=f"{KEY}\n")
    assert done.returncode == 1
    assert fix in done.stderr
    assert vault.read() == {}


@pytest.mark.parametrize(
    "arguments",
    [["--sms"], ["--vault"], ["--vault", "kv", "--replace", "address-key"], ["--replace", "x"]],
)
def test_a_wrong_call_is_told(arguments: list[str], vault: Vault) -> None:
    done = vault.run(*arguments)
    assert done.returncode == 2
    assert "see --help" in done.stderr
    assert vault.read() == {}
