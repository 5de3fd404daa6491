"""What the pages for administrators name is there: parameters, outputs, commands with their flags,
scripts, files, links, and the words that they say one sees.

Each check takes a page's text, so that it can be shown a mistake, too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from admin import local, operate, report, survey
from admin.doctor import command as doctor
from shared.settings import read_settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DEPLOY = DOCS / "deploy.md"
LINKED = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
GUIDES = [
    *(DOCS / f"{name}.md" for name in ("deploy", "runbook", "security", "senders")),
    *(DOCS / f"{name}.md" for name in ("permissions", "cost", "scaling")),
    ROOT / "README.md",
]

SAID_BY_OTHERS = {
    # Azure Resource Manager
    "A TXT record pointing from",
    "CNAME",
    "AuthorizationFailed",
    "roleAssignments/write",
    "locks/write",
    "LocationNotAvailableForResourceType",
    "MissingSubscriptionRegistration",
    "PrincipalNotFound",
    "RequestDisallowedByPolicy",
    "RoleAssignmentUpdateNotPermitted",
    "Start date of budgets cannot be updated",
    "VaultAlreadyExists",
    # the compiler
    "BCP081",
    "expected a value of type",
    "Expected a value of type",
    "too small to assign to a target",
    "too short to assign to a target",
    "Failed to evaluate parameter",
    # storage and its client, Microsoft Entra
    "AuthorizationFailure",
    "DefaultAzureCredential",
    "AuthorizationPermissionMismatch",
    "AADSTS50011",
    "AADSTS70021",
    "AADSTS700213",
    "azurewebsites.net",
}
"""Words of tables of what one may see that no file of ours holds."""


# --- what a page says ----------------------------------------------------------------------------


def code_of(text: str) -> Iterator[str]:
    """Every piece of code: spans, and lines of blocks, those that go on joined into one."""
    blocks = re.findall(r"^(?: {4,}.*\n)+", text, re.MULTILINE)
    for block in blocks:
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()
    for span in re.findall(r"``(.+?)``|`([^`]+)`", re.sub(r"^ {4,}.*$", "", text, flags=re.M)):
        yield " ".join((span[0] or span[1]).split())


def section_of(text: str, heading: str) -> str:
    """From a heading to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.M | re.DOTALL)
    assert found, heading
    return found[1]


def first_cells(table: str) -> list[str]:
    rows = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    return [row for row in rows if not set(row) <= set("- :")]


def parameters_of(page: str) -> set[str]:
    cells = first_cells(section_of(page, "2 Parameters"))
    return {name for cell in cells for name in re.findall(r"^`([A-Z_]+)`$", cell)}


def anchors_of(text: str) -> set[str]:
    """As GitHub makes them of headings; a heading that comes again gets a number."""
    anchors: set[str] = set()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ +(.+?) *$", prose, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = next(n for n in range(99) if (anchor if not n else f"{anchor}-{n}") not in anchors)
        anchors.add(anchor if not number else f"{anchor}-{number}")
    return anchors


# --- checks: each gives what is wrong ------------------------------------------------------------


def broken_links(page: Path, text: str) -> list[str]:
    broken: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text):
        link = target[0] or target[1]
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        file = (page.parent / name).resolve() if name else page
        there = file.exists() and file.is_relative_to(ROOT)
        if there and anchor:
            there = anchor in anchors_of(text if file == page else file.read_text())
        if not there:
            broken.append(link)
    return broken


@cache
def nudge_commands() -> Mapping[str, frozenset[str]]:
    """The flags of each command."""
    commands = argparse.ArgumentParser().add_subparsers()
    for module in (local, report, operate, survey, doctor):
        module.add_commands(commands)
    return {
        name: frozenset(flag for action in parser._actions for flag in action.option_strings)
        for name, parser in commands.choices.items()
    }


def flags_in(words: str) -> set[str]:
    """Those before a pipe, a redirection or the next command."""
    own = re.split(r"[|;<>]|&&| #", words)[0]
    return set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", own))


def wrong_commands(text: str) -> list[str]:
    wrong: list[str] = []
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in code_of(text):
        for command, words in re.findall(r"(?:^|[ /(])nudge ([a-z]+)(.*)", code):
            known = nudge_commands().get(command)
            if known is None or flags_in(words) - known:
                wrong.append(code)
        wrong += [
            code for target in re.findall(r"^\s*make ([a-z]+)", code) if target not in targets
        ]
        for script, words in re.findall(r"(?:^|\s)((?:infra/)?[a-z-]+\.sh)\b(.*)", code):
            file = ROOT / "infra" / Path(script).name
            if not file.is_file() or flags_in(words) - flags_of_script(file):
                wrong.append(code)
    return wrong


def flags_of_script(file: Path) -> set[str]:
    """What its usage names."""
    usage = file.read_text().partition("<<'TEXT'\n")[2].partition("\nTEXT\n")[0]
    return set(re.findall(r"--[a-z][a-z-]*", usage))


_PLACES = r"(?:infra|docs|shared|functions|admin|tests|local|\.github|\.ci)"


def missing_files(text: str) -> list[str]:
    """Files that are named by their path, or by the name of one at the root."""
    named = {
        path.rstrip(".")
        for code in code_of(text)
        for path in re.findall(rf"(?:^|[\s(])({_PLACES}/[\w./*-]+|[\w.-]+\.(?:yaml|toml))", code)
    }
    of_the_reader = {"campaign.yaml", "trial.yaml"}
    return sorted(path for path in named - of_the_reader if not any(ROOT.glob(path)))


def unknown_variables(text: str) -> set[str]:
    """Shell variables that nothing on the page, no parameter and no output sets."""
    blocks = "\n".join(re.findall(r"^ {4,}.*$", text, re.MULTILINE))
    used = set(re.findall(r"\$\{?([A-Za-z_]+)", blocks))
    own = set(re.findall(r"(?:^\s*|for |read -r )([a-z_]+)(?:=| in )", blocks, re.MULTILINE))
    for names in re.findall(r"read -r ([a-z ]+);", blocks):
        own |= set(names.split())
    return used - own - bicep_outputs() - bicep_variables()


def bicep_outputs() -> set[str]:
    return set(re.findall(r"^output (\w+)", (ROOT / "infra/main.bicep").read_text(), re.MULTILINE))


def bicep_variables() -> set[str]:
    text = (ROOT / "infra/main.bicepparam").read_text()
    return set(re.findall(r"readEnvironmentVariable\('(\w+)'", text))


@cache
def our_words() -> str:
    """Everything that we print, with the seams of texts that span lines taken out."""
    files = [
        *(ROOT / "infra").rglob("*.sh"),
        *(ROOT / "infra").rglob("*.bicep*"),
        *(file for name in ("admin", "shared") for file in (ROOT / name).rglob("*.py")),
    ]
    text = "\n".join(file.read_text() for file in files)
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", text)


def invented_words(text: str) -> list[str]:
    """What a table says that one sees, and nobody says. `…` stands for what differs."""
    invented: list[str] = []
    for table in re.findall(r"^\| you see \|.*\n(?:\|.*\n)+", text, re.MULTILINE):
        for cell in first_cells(table)[1:]:
            for words in re.findall(r"`+([^`]+)`+", cell):
                parts = [part.strip() for part in words.split("…") if part.strip()]
                known = words in SAID_BY_OTHERS or words in bicep_variables()
                if not known and not all(part in our_words() for part in parts):
                    invented.append(words)
    return invented


# --- the pages -----------------------------------------------------------------------------------


def test_every_parameter_is_in_the_table_and_no_other() -> None:
    assert parameters_of(DEPLOY.read_text()) == bicep_variables()


@pytest.mark.parametrize("name", sorted(bicep_variables()))
def test_a_default_in_the_table_is_that_of_the_parameter_file(name: str) -> None:
    text = (ROOT / "infra/main.bicepparam").read_text()
    found = re.search(rf"readEnvironmentVariable\('{name}'(?:, '([^']*)')?\)", text)
    row = re.search(rf"^\| `{name}` \|.*\| (.+) \|$", DEPLOY.read_text(), re.MULTILINE)
    assert found
    assert row
    match found[1]:
        case None:
            assert row[1] == "must be set"
        case "":
            assert not row[1].startswith("`")
        case default:
            assert row[1].startswith(f"`{default}`")


def test_every_output_is_explained_and_no_other() -> None:
    section = section_of(DEPLOY.read_text(), "3 Infrastructure")
    table = section[section.index("| output |") : section.index("**It went well**")]
    named = {name for cell in first_cells(table) for name in re.findall(r"`([A-Z_]+)`", cell)}
    assert named == bicep_outputs()


def test_no_command_uses_a_variable_that_nobody_sets() -> None:
    assert unknown_variables(DEPLOY.read_text()) == set()


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_commands_and_their_flags_exist(page: Path) -> None:
    assert wrong_commands(page.read_text()) == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_files_exist(page: Path) -> None:
    assert missing_files(page.read_text()) == []


def test_what_one_is_said_to_see_is_what_somebody_says() -> None:
    assert invented_words(DEPLOY.read_text()) == []


def test_the_smoke_test_prints_the_lines_that_are_shown() -> None:
    script = (ROOT / "infra/smoke-test.sh").read_text()
    names = re.findall(r'^ *(?:if )?try "([^"]+)"', script, re.MULTILINE)
    shown = re.findall(r"^    ok    (.+)$", DEPLOY.read_text(), re.MULTILINE)
    always = [name for name in names if "$domain" not in name]
    assert [re.sub(r"\d+\.\d+\.\d+", "$version", line) for line in shown] == always


# --- its programs --------------------------------------------------------------------------------


def program_of(text: str, heading: str, start: str, end: str) -> str:
    """The Python between two marks of a section, without its indentation."""
    section = re.sub(r"^ {4}", "", section_of(text, heading), flags=re.MULTILINE)
    return section.partition(start)[2].partition(end)[0]


OF_THE_APP = {
    "AzureWebJobsStorage__blobServiceUri": "https://stexample.blob.core.windows.net",
    "AzureWebJobsStorage__queueServiceUri": "https://stexample.queue.core.windows.net",
    "AzureWebJobsStorage__tableServiceUri": "https://stexample.table.core.windows.net",
    "AzureWebJobsStorage__credential": "managedidentity",
    "AzureWebJobsStorage__clientId": "11111111-2222-4333-8444-555555555555",
    "SWEEP_SCHEDULE": "0 0 20 * * *",
    "GRAPH_CONFIRM": "report",
    "PUBLIC_BASE_URL": "https://mfa.example.edu",
    "ALLOWED_SENDERS": "notice.example.edu,it@example.edu",
    "ALLOWED_LINK_HOSTS": "mfa.example.edu",
    "STATUS_SIGN_IN": "none",
    "SENDGRID_WEBHOOK_PUBLIC_KEY": "",
    **{
        name: f"@Microsoft.KeyVault(SecretUri=https://kv.vault.azure.net/secrets/{secret}/)"
        for name, secret in (
            ("SENDGRID_API_KEY", "sendgrid-api-key"),
            ("LINK_KEYS", "link-keys"),
            ("ADDRESS_KEY", "address-key"),
        )
    },
}
OF_SMS = {
    "TWILIO_ACCOUNT_SID": "@Microsoft.KeyVault(SecretUri=https://kv.vault.azure.net/secrets/a/)",
    "TWILIO_AUTH_TOKEN": "@Microsoft.KeyVault(SecretUri=https://kv.vault.azure.net/secrets/b/)",
    "TWILIO_FROM": "#HKU",
}


@pytest.mark.parametrize("sms", [False, True], ids=["email", "email and SMS"])
def test_with_the_files_of_the_page_a_command_starts_as_whoever_types_it(
    tmp_path: Path, *, sms: bool
) -> None:
    settings = OF_THE_APP | (OF_SMS if sms else {})
    listed = [{"name": name, "slotSetting": False, "value": v} for name, v in settings.items()]
    (tmp_path / "app-settings.json").write_text(json.dumps(listed))
    program = program_of(DEPLOY.read_text(), "Your own command line", "<<'END'\n", "\nEND\n")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=20)
    shell = "set -a; . ./nudge.env; set +a; exec env --null"
    printed = subprocess.run(
        ["/bin/sh", "-c", shell], cwd=tmp_path, env={}, capture_output=True, check=True, timeout=20
    )
    lines = printed.stdout.decode().split("\0")
    found = read_settings(dict(line.split("=", 1) for line in lines if line))
    assert not found.storage_managed
    assert found.storage_table_uri == OF_THE_APP["AzureWebJobsStorage__tableServiceUri"]
    assert found.sweep_schedule == "0 0 20 * * *"
    assert found.allowed_senders == {"notice.example.edu", "it@example.edu"}
    assert found.channels == ({"email", "sms"} if sms else {"email"})


def test_the_function_of_the_page_hands_files_to_the_command_and_not_to_the_shell(
    tmp_path: Path,
) -> None:
    """PUBLIC_BASE_URL, left in a shell, would be a parameter of the next deployment."""
    function = program_of(
        DEPLOY.read_text(), "Your own command line", "\nnudge() (", "\nnudge status"
    )
    (tmp_path / "outputs.env").write_text('KEY_VAULT_NAME="kv-example"\n')
    (tmp_path / "nudge.env").write_text("PUBLIC_BASE_URL=https://app.example\n")
    (tmp_path / "uv").write_text('#!/bin/sh\necho "$*: $KEY_VAULT_NAME $PUBLIC_BASE_URL"\n')
    (tmp_path / "uv").chmod(0o755)
    told = subprocess.run(
        ["/bin/bash", "-c", f'nudge() ({function}\nnudge status; echo "left: $PUBLIC_BASE_URL"'],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert told.stdout == "run nudge status: kv-example https://app.example\nleft: \n"


def test_outputs_get_their_names_back() -> None:
    program = program_of(DEPLOY.read_text(), "3 Infrastructure", "python3 -c '", "' >outputs.env")
    # Azure writes names of outputs in a case of its own.
    given = json.dumps({"azurE_RESOURCE_GROUP": {"type": "String", "value": "rg-mfa-nudge-prod"}})
    told = subprocess.run(
        [sys.executable, "-c", program], input=given, capture_output=True, text=True, check=True
    )
    assert told.stdout == "AZURE_RESOURCE_GROUP=rg-mfa-nudge-prod\n"


# --- the checks find what they are for -----------------------------------------------------------


def only(found: Iterable[str]) -> str:
    (one,) = found
    return one


@pytest.mark.parametrize(
    "link", ["gone.md", "#gone", "runbook.md#gone", "../../outside.md"], ids=lambda link: link
)
def test_a_broken_link_is_found(link: str) -> None:
    assert broken_links(DEPLOY, f"# Deploy\n\n[there](#deploy), [not]({link})\n") == [link]


@pytest.mark.parametrize(
    "code",
    [
        "nudge statsu",
        "nudge doctor --parameters FILE",
        "uv run nudge survey --store",
        "make packages",
        "infra/set-secret.sh --vault NAME",
        "infra/smoke-test.sh --quick",
        "grant-graph-permissions.sh --force",
    ],
)
def test_a_wrong_command_is_found(code: str) -> None:
    assert only(wrong_commands(f"Run `{code}`, please.\n")) == code
    assert only(wrong_commands(f"Run\n\n    {code}\n\nplease.\n")).strip() == code


def test_a_flag_on_the_next_line_is_found() -> None:
    assert wrong_commands("Run\n\n    infra/smoke-test.sh \\\n      --quick\n") != []


def test_flags_of_other_commands_are_not_taken_for_ours() -> None:
    assert wrong_commands("`nudge status --json | jq --raw-output .sweep`\n") == []


def test_a_missing_file_is_found() -> None:
    text = "See `infra/main.bicep`, `infra/gone.bicep` and `campaign.exmaple.yaml`.\n"
    assert missing_files(text) == ["campaign.exmaple.yaml", "infra/gone.bicep"]


def test_a_variable_that_nobody_sets_is_found() -> None:
    text = '    one=1; echo "$one $KEY_VAULT_NAME $AZURE_LOCATION ${KEY_VAULT_NAEM}"\n'
    assert unknown_variables(text) == {"KEY_VAULT_NAEM"}


def test_invented_words_are_found() -> None:
    table = "| you see | do |\n| --- | --- |\n| `not every secret is here` | it |\n"
    assert invented_words(table) == ["not every secret is here"]
    assert invented_words(table.replace("here", "there")) == []


def test_a_parameter_that_is_left_out_or_unknown_is_found() -> None:
    page = DEPLOY.read_text()
    assert parameters_of(page.replace("| `SCALE` |", "| `SIZE` |")) ^ bicep_variables() == {
        "SCALE",
        "SIZE",
    }
