"""What is in the package: the product and what it needs, not much more, always the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from infra.package import (
    LEFT_OUT,
    PRODUCT,
    SITE,
    Package,
    compile_modules,
    is_left_out,
    write_zip,
)
from shared.errors import SetupFault

ROOT = Path(__file__).resolve().parents[2]

# Untrimmed they are 66 and 273, without the bytecode.
MOST_ZIP_MB = 40
MOST_UNPACKED_MB = 120


def test_the_zip_is_what_the_tree_is(package: Package, tree: Path) -> None:
    """`azd` uploads the tree, all other ways the zip."""

    def contents(root: Path) -> dict[str, bytes]:
        return {
            file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).digest()
            for file in root.rglob("*")
            if file.is_file() and file.relative_to(root).as_posix() != ".funcignore"
        }

    assert contents(tree) == contents(package.tree)
    assert package.manifest.zip_digest == hashlib.sha256(package.zip.read_bytes()).hexdigest()
    assert package.manifest.files == len(contents(tree))


def test_the_same_files_make_the_same_zip(tmp_path: Path) -> None:
    """Whatever their dates and rights are, and in whatever order the disk lists them."""
    for name, order in (("first", "abc"), ("second", "cab")):
        for letter in order:
            file = tmp_path / name / letter / "module.py"
            file.parent.mkdir(parents=True)
            file.write_text(letter * 1000)
    os.utime(tmp_path / "second" / "a" / "module.py", (1, 1))
    (tmp_path / "second" / "b" / "module.py").chmod(0o700)

    write_zip(tmp_path / "first", tmp_path / "first.zip")
    write_zip(tmp_path / "second", tmp_path / "second.zip")

    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()


def test_the_same_modules_make_the_same_bytecode(tmp_path: Path) -> None:
    """Wherever they lie, and however old they are."""
    made: list[dict[str, bytes]] = []
    for name in ("first", "second"):
        copy = tmp_path / name
        shutil.copytree(
            ROOT / "shared", copy, copy_function=shutil.copyfile, ignore=lambda *_: ["__pycache__"]
        )
        os.utime(copy / "errors.py", (len(made), len(made)))
        compile_modules(copy, PurePosixPath("shared"))
        made.append({str(p.relative_to(copy)): p.read_bytes() for p in copy.rglob("*.pyc")})

    assert len(made[0]) > 50
    assert made[0] == made[1]


def test_what_is_no_python_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")

    with pytest.raises(SetupFault, match=r"(?s)broken\.py.*leave it out in infra/package\.py"):
        compile_modules(tmp_path, PurePosixPath())


def test_what_goes_in_is_the_product_and_what_it_needs(tree: Path) -> None:
    files = {PurePosixPath(file.relative_to(tree)) for file in tree.rglob("*") if file.is_file()}
    outside = {file.parts[0] for file in files} - {*PRODUCT, ".python_packages", "__pycache__"}
    assert outside == set()
    site = {file.relative_to(SITE) for file in files if file.is_relative_to(SITE)}
    assert [file for file in site if file.suffix != ".pyc" and is_left_out(file)] == []
    libraries = {file.name for file in site if file.suffix == ".so"}
    foreign = [name for name in libraries if not name.endswith((".abi3.so", "-linux-gnu.so"))]
    assert foreign == []
    own = {file for file in files if file.parts[0] in PRODUCT}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PRODUCT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {str(file) for file in own if file.suffix != ".pyc"} == set(listed)


def test_every_module_has_its_bytecode(tree: Path) -> None:
    """Bytecode that is taken without a look at the source: flags 1 (PEP 552)."""
    for source in tree.rglob("*.py"):
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-313.pyc"
        assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00", source


def test_every_pattern_leaves_something_out() -> None:
    """One that means nothing any more is a mistake, or was a dependency's."""
    installed = Path(msgspec.__file__).parents[1]
    # In an environment commands and the lock are elsewhere.
    patterns = {pattern for pattern, _ in LEFT_OUT} - {"bin/**", ".lock"}
    unused = [pattern for pattern in patterns if not any(installed.glob(pattern))]
    assert unused == []


def test_it_is_small(package: Package) -> None:
    assert package.manifest.zip_bytes < MOST_ZIP_MB * 1e6
    assert package.manifest.unpacked_bytes < MOST_UNPACKED_MB * 1e6
