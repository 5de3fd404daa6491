"""A parameter file of the infrastructure, as the Bicep compiler reads it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from admin.doctor.reach import run_program
from shared.errors import SetupFault

_COMPILE_SECONDS = 60.0
"""A first run of the compiler takes ten seconds on a small machine."""

_UNSET = re.compile(r'BCP427: Environment variable "(\w+)" does not exist')


class _Compiled(msgspec.Struct, rename="camel"):
    parameters_json: str
    template_json: str


class _Given(msgspec.Struct):
    value: Any = msgspec.UNSET


class _ParameterFile(msgspec.Struct):
    parameters: dict[str, _Given]


class _Declared(msgspec.Struct, rename="camel"):
    default_value: Any = None


class _Template(msgspec.Struct):
    parameters: dict[str, _Declared] = {}


async def read_parameters(path: Path) -> tuple[dict[str, object], tuple[str, ...]]:
    """The parameters that a deployment would have, and the environment variables that their file
    asks for in vain: they are read as if they were empty.

    What the file leaves out has the template's default. One that only Azure can compute, and a
    value that comes from Key Vault, are left out.

    Raises:
        SetupFault: no compiler, or it refuses the file; then with its errors.
    """
    if not path.is_file():
        raise SetupFault(f"{path} is not there.", "Give the path of a .bicepparam file.")
    command = [*_find_compiler(), "build-params", str(path), "--stdout"]
    code, out, said = await _run(command, {})
    unset = tuple(dict.fromkeys(_UNSET.findall(said))) if code else ()
    if unset:
        code, out, said = await _run(command, dict.fromkeys(unset, ""))
    if code:
        errors = [line for line in said.splitlines() if ") : Error " in line] or [said.strip()]
        raise SetupFault(
            "\n".join([f"{path.name} does not compile.", *errors, ""]), "Correct these lines."
        )
    compiled = msgspec.json.decode(out, type=_Compiled)
    given = msgspec.json.decode(compiled.parameters_json, type=_ParameterFile).parameters
    declared = msgspec.json.decode(compiled.template_json, type=_Template).parameters
    found = {name: one.default_value for name, one in declared.items()}
    found |= {name: one.value for name, one in given.items()}
    return {name: value for name, value in found.items() if not _only_azure_knows(value)}, unset


def _only_azure_knows(value: object) -> bool:
    return value is msgspec.UNSET or (isinstance(value, str) and value.startswith("["))


def _find_compiler() -> list[str]:
    named = os.environ.get("BICEP")
    if named and (found := shutil.which(named)):
        return [found]
    if found := shutil.which("bicep"):
        return [found]
    if found := shutil.which("az"):
        return [found, "bicep"]
    raise SetupFault(
        "There is no Bicep compiler here to read the parameter file with.",
        "Install it (`az bicep install`), or name it in the environment variable BICEP.",
    )


async def _run(command: Sequence[str], more: Mapping[str, str]) -> tuple[int, str, str]:
    # `az bicep` takes the file by a flag, and the compiler itself by its place.
    words = list(command)
    if words[1] == "bicep":
        words.insert(words.index("build-params") + 1, "--file")
    try:
        code, out, said = await run_program(words, seconds=_COMPILE_SECONDS, more=more)
    except TimeoutError:
        raise SetupFault(
            f"The Bicep compiler did not end within {_COMPILE_SECONDS:.0f} s.", "Try it again."
        ) from None
    return code, out.decode(), said.decode(errors="replace")
