"""What the Bicep compiler says of every file, and that what is made from them is fresh.

BICEP names the compiler. It exits with 0 over warnings, and a wrong property is only one: so any
output at all is a failure here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import missing_tool
from tests.infra.template import PARAMS, SNAPSHOTS

ROOT: Final = Path(__file__).resolve().parents[2]
INFRA: Final = ROOT / "infra"
SOURCES: Final = sorted([*INFRA.rglob("*.bicep"), INFRA / "main.bicepparam"])
PARAMETER_FILES: Final = sorted(PARAMS.glob("*.bicepparam"))

NOWHERE: Final = "00000000-0000-0000-0000-000000000001"
FORESEEN: Final = (
    *("--subscription-id", NOWHERE, "--tenant-id", NOWHERE),
    *("--location", "eastasia", "--deployment-name", "main"),
)
GIVEN: Final = {
    "ALLOWED_SENDERS": "its.example.edu",
    "ALLOWED_LINK_HOSTS": "its.example.edu, mfa.example.edu",
    "ALERT_EMAILS": "it-alerts@example.edu",
}


class Compiler:
    """The program, with a home of its own that it can write to."""

    def __init__(self, program: Path, home: Path) -> None:
        self._program = program
        self._home = home

    def run(
        self, *arguments: str | Path, environment: Mapping[str, str] = GIVEN
    ) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        done = subprocess.run(
            [self._program, *arguments],
            env={"HOME": str(self._home), "PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def says(self, *arguments: str | Path, environment: Mapping[str, str] = GIVEN) -> str:
        """All that it prints."""
        _, out, err = self.run(*arguments, environment=environment)
        return out + err


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    program = Path(os.environ.get("BICEP", "") or shutil.which("bicep") or "missing")
    if not program.is_file():
        missing_tool("BICEP does not name the Bicep compiler")
    return Compiler(program, tmp_path_factory.mktemp("home"))


def copy_tree(directory: Path) -> Path:
    """All that the compiler reads, in a directory where it may write."""
    shutil.copytree(INFRA, directory / "infra", ignore=shutil.ignore_patterns("*.py", "*.sh"))
    (directory / "shared").mkdir()
    shutil.copy(ROOT / "shared" / "names.json", directory / "shared")
    shutil.copytree(PARAMS, directory / "tests" / "infra" / "params")
    return directory


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return copy_tree(tmp_path)


# --- what is there -------------------------------------------------------------------------------


def test_every_file_lints_without_a_word(compiler: Compiler) -> None:
    """Each module with main.bicep, which follows them; each parameter file of the tests with its
    snapshot."""
    assert compiler.says("lint", INFRA / "main.bicep") == ""
    assert compiler.says("lint", INFRA / "main.bicepparam") == ""


def test_main_follows_every_module() -> None:
    main = (INFRA / "main.bicep").read_text()
    modules = sorted(file.name for file in (INFRA / "modules").iterdir())
    assert re.findall(r"'modules/([^']+)'", main) == sorted(modules, key=main.index)


def test_the_built_template_is_fresh(compiler: Compiler) -> None:
    _, built, complaints = compiler.run("build", INFRA / "main.bicep", "--stdout")
    assert complaints == ""
    fresh, committed = json.loads(built), json.loads((INFRA / "main.json").read_text())
    assert fresh == committed, "run `bicep build infra/main.bicep`"


def test_every_file_is_formatted(compiler: Compiler, copied: Path) -> None:
    assert loose_files(compiler, copied) == [], "run `bicep format` on them"


def loose_files(compiler: Compiler, copied: Path) -> list[str]:
    """The files of a copied tree that formatting changes."""
    files = sorted(file for file in copied.rglob("*.bicep*") if file.suffix != ".json")
    before = {file: file.read_text() for file in files}
    for kind in ("bicep", "bicepparam"):
        assert compiler.says("format", "--pattern", str(copied / "**" / f"*.{kind}")) == ""
    return [str(file.relative_to(copied)) for file in files if file.read_text() != before[file]]


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_the_reviewed_snapshot_is_fresh(name: str, compiler: Compiler) -> None:
    file = PARAMS / f"main.{name}.bicepparam"
    code, out, err = compiler.run("snapshot", file, "--mode", "validate", *FORESEEN)
    assert (code, out + err) == (0, ""), "run `bicep snapshot` on it, and review what it changed"


# --- planted mistakes ----------------------------------------------------------------------------

HEAD = "@description('Required. Region.')\nparam location string\n"
STORE = "resource store 'Microsoft.Storage/storageAccounts@2026-06-01' = {\n  name: 'store'\n"
BODY = "  location: location\n  kind: 'StorageV2'\n  sku: { name: 'Standard_LRS' }\n"


PLANTED: Final = [
    ("no-hardcoded-location", STORE + BODY.replace("location\n", "'eastasia'\n", 1) + "}\n"),
    (
        "use-recent-api-versions",
        HEAD + STORE.replace("2026-06-01", "2019-06-01") + BODY + "}\n",
    ),
    ("use-description-params", "param location string\n" + STORE + BODY + "}\n"),
    ("no-unused-params", HEAD),
    ("use-user-defined-types", "@description('x')\noutput found object = {}\n"),
    (
        "no-hardcoded-env-urls",
        "@description('x')\noutput url string = 'https://vault.azure.net'\n",
    ),
    (
        "outputs-should-not-contain-secrets",
        f"{HEAD}{STORE}{BODY}}}\n@description('x')\noutput key string = "
        "store.listKeys().keys[0].value\n",
    ),
    (
        "secure-secrets-in-params",
        "@description('x')\nparam apiPassword string\n@description('x')\noutput other string = "
        "toLower(apiPassword)\n",
    ),
    (
        "what-if-short-circuiting",
        f"{HEAD}{STORE}{BODY}}}\nmodule child 'child.bicep' = {{\n  params: {{ name: "
        "store.properties.primaryEndpoints.blob }\n}\n",
    ),
    ("BCP089", HEAD + STORE + BODY + "  properties: { allowSharedKeyAcess: false }\n}\n"),
]


@pytest.fixture(scope="module")
def told_of_planted(compiler: Compiler, tmp_path_factory: pytest.TempPathFactory) -> str:
    """All that is said of the planted files, each named after the rule that it breaks."""
    directory = tmp_path_factory.mktemp("planted")
    shutil.copy(INFRA / "bicepconfig.json", directory)
    (directory / "child.bicep").write_text(
        "@description('x')\nparam name string\n\n"
        "resource id 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {\n"
        "  name: name\n}\n\n@description('x')\noutput id string = id.id\n"
    )
    for rule, text in PLANTED:
        (directory / f"{rule}.bicep").write_text(text)
    return compiler.says("lint", "--pattern", str(directory / "*.bicep"))


@pytest.mark.parametrize("rule", [rule for rule, _ in PLANTED])
def test_a_planted_mistake_is_told(rule: str, told_of_planted: str) -> None:
    """An unknown rule in bicepconfig.json is passed over in silence: these show that ours are in
    force. A wrong property is a warning, and told all the same."""
    assert re.search(rf"/{rule}\.bicep\(.* {rule}: ", told_of_planted)


def test_every_rule_is_an_error_but_one() -> None:
    rules = json.loads((INFRA / "bicepconfig.json").read_text())["analyzers"]["core"]["rules"]
    assert len(rules) >= 50
    # A sentence over every local variable would be noise; parameters, types and outputs have one.
    assert {name for name, one in rules.items() if one["level"] != "error"} == {
        "use-description-vars"
    }


def test_what_is_stale_or_loose_is_told(compiler: Compiler, copied: Path) -> None:
    storage = copied / "infra" / "modules" / "storage.bicep"
    storage.write_text(storage.read_text().replace("softDeleteDays = 3", "softDeleteDays =  4"))
    assert loose_files(compiler, copied) == ["infra/modules/storage.bicep"]
    file = copied / "tests" / "infra" / "params" / "main.minimal.bicepparam"
    code, out, _ = compiler.run("snapshot", file, "--mode", "validate", *FORESEEN)
    assert code == 1
    assert "days" in out
    built = compiler.run("build", copied / "infra" / "main.bicep", "--stdout")[1]
    assert json.loads(built) != json.loads((INFRA / "main.json").read_text())


# --- bad input -----------------------------------------------------------------------------------

BAD: Final = {
    "scale = { memoryMB: 1024 }": '"2048 | 4096 | 512 | null"',
    "scale = { maximumInstances: 5 }": "40",
    "graphConfirm = 'live'": "\"'methods' | 'report'\"",
    "customDomain = { hostName: 'mfa.example.edu', stage: 'on' }": "'bind' | 'secure'",
    "customDomain = { hostName: 'mfa.example.edu' }": '"stage"',
    "budget = { amount: 100 }": '"startDate"',
    "alertEmail = 'x@example.edu'": '"alertEmail"',
}
"""Parameters that cannot be, with what is said of them."""


@pytest.fixture(scope="module")
def told_of_bad(compiler: Compiler, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is said of each of `BAD`."""
    directory = copy_tree(tmp_path_factory.mktemp("bad"))
    text = (PARAMS / "main.minimal.bicepparam").read_text().replace("../../../infra/", "infra/")
    for number, line in enumerate(BAD):
        (directory / f"bad{number}.bicepparam").write_text(f"{text}param {line}\n")
    told = compiler.says("lint", "--pattern", str(directory / "*.bicepparam"))
    return [
        "\n".join(line for line in told.splitlines() if f"/bad{number}." in line)
        for number in range(len(BAD))
    ]


@pytest.mark.parametrize(("number", "words"), list(enumerate(BAD.values())))
def test_a_wrong_parameter_is_told_with_what_can_be_chosen(
    number: int, words: str, told_of_bad: list[str]
) -> None:
    assert words in told_of_bad[number]
    assert " : Error " in told_of_bad[number]


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ("'eastasia'", "'westus'", "no zones in westus. Choose one of australiaeast,"),
        ("'test'", "'Test_1'", "Test_1 has a capital letter or an underscore. Use small letters"),
        ("10.80.0.0/26", "10.80.0.0/27", "10.80.0.0/27 has too few addresses. Choose a free range"),
    ],
)
def test_what_only_a_deployment_would_refuse_is_told_before(
    good: str, bad: str, words: str, compiler: Compiler, copied: Path
) -> None:
    file = copied / "tests" / "infra" / "params" / "main.full.bicepparam"
    file.write_text(file.read_text().replace(good, bad))
    code, out, err = compiler.run("snapshot", file, *FORESEEN)
    assert code == 1
    assert words in out + err


def test_what_a_deployment_is_not_told_is_named(compiler: Compiler) -> None:
    told = compiler.says("lint", INFRA / "main.bicepparam", environment={})
    assert 'Environment variable "ALERT_EMAILS" does not exist' in told
    assert 'Environment variable "ALLOWED_SENDERS" does not exist' in told
