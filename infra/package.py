"""The package that runs in Azure: `python -m infra.package`, which is what `make package` calls.

Azure builds nothing: what is checked here is what runs there. The zip holds the product, what
requirements.txt names as wheels for Linux and Python 3.13, and bytecode, without the files that no
function reads (`LEFT_OUT`, `GRAPH_REQUESTS`). The same input makes the same bytes. Three things
come out, in `build/`:

    mfa-nudge.zip    what `az functionapp deployment source config-zip` uploads
    package/         the same, unpacked: what `azd` uploads
    mfa-nudge.json   what it was made of, and the functions that Azure must find in it
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

import msgspec

from local.worker import load_app
from shared import __version__
from shared.errors import SetupFault
from shared.messages.words import LANGUAGES, load_words

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PRODUCT = ("function_app.py", "host.json", "functions", "shared")
SITE = PurePosixPath(".python_packages/lib/site-packages")
"""Where the Functions host looks for dependencies that came with the app."""

# The host runs on Debian, whose C library is newer than this one.
_PLATFORM = "x86_64-manylinux_2_28"
_THIS = Path(__file__).relative_to(ROOT)
_REQUIREMENTS = "requirements.txt"
_ZIP, _TREE, _MANIFEST = "mfa-nudge.zip", "package", "mfa-nudge.json"

LEFT_OUT = (
    ("bin/**", "starts commands, by the Python of the machine that built it"),
    (".lock", "was uv's own while it installed"),
    ("**/*.pyi", "is for type checkers"),
    ("**/*.pyx", "is the source of what comes compiled"),
    ("**/*.pxd", "is the source of what comes compiled"),
    ("**/*.[ch]", "is the source of what comes compiled"),
    ("**/tests/**", "tests a dependency"),
    ("**/_testcapi*.so", "tests a dependency"),
    ("*.dist-info/RECORD", "lists what was installed, which this is less than"),
    ("*.dist-info/INSTALLER", "notes how it was installed"),
    ("*.dist-info/REQUESTED", "notes how it was installed"),
    ("twilio/rest/**", "asks Twilio in ways that we do not: only its signatures are checked"),
    ("phonenumbers/geodata/**", "names places, for phonenumbers.geocoder"),
    ("phonenumbers/carrierdata/**", "names networks, for phonenumbers.carrier"),
    ("phonenumbers/tzdata/**", "names time zones, for phonenumbers.timezone"),
    ("phonenumbers/geocoder.py", "needs the names of places"),
    ("phonenumbers/carrier.py", "needs the names of networks"),
    ("phonenumbers/timezone.py", "needs the names of time zones"),
    ("babel/locale-data/*.dat", "is a language that the product has no words in"),
    ("msgraph/generated/**", "is a request to Graph, or the shape of an answer, that is not ours"),
)
"""Patterns below `SITE`, each with what can be said of every file that it means. Of the last two
some files stay: see `_stays`."""

GRAPH_REQUESTS = (
    "base_graph_service_client",
    "groups/groups_request_builder",
    "groups/item/group_item_request_builder",
    "groups/item/transitive_members/graph_user/graph_user_request_builder",
    "groups/item/transitive_members/transitive_members_request_builder",
    "reports/authentication_methods/authentication_methods_request_builder",
    "reports/authentication_methods/user_registration_details/item/"
    "user_registration_details_item_request_builder",
    "reports/authentication_methods/user_registration_details/"
    "user_registration_details_request_builder",
    "reports/reports_request_builder",
    "users/item/authentication/authentication_request_builder",
    "users/item/authentication/methods/methods_request_builder",
    "users/item/user_item_request_builder",
    "users/users_request_builder",
)
"""What stays of msgraph.generated: the builders on the way to each request of
shared/services/directory.py. Answers are decoded by us, so that none of the SDK's models is ever
imported. A test makes every request with these, and compares them with what was imported."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a package is.

    Attributes:
        version: of the product.
        made_of: digest of everything that goes into it: the sources, the pins, this file, Python.
        zip_digest: SHA-256 of the zip, in hexadecimal.
        zip_bytes: size of the zip.
        unpacked_bytes: size of what is in it.
        files: how many files are in it.
        functions: the names that Azure must list once it runs, sorted.
    """

    version: str
    made_of: str
    zip_digest: str
    zip_bytes: int
    unpacked_bytes: int
    files: int
    functions: tuple[str, ...]


class Package(msgspec.Struct, frozen=True):
    """A built package, and the directory that it is in."""

    build: Path
    manifest: Manifest

    @property
    def zip(self) -> Path:
        return self.build / _ZIP

    @property
    def tree(self) -> Path:
        """The same, unpacked."""
        return self.build / _TREE


def build_package(build: Path = BUILD) -> Package:
    """The package in `build`, made anew unless it is of the same input.

    Of several processes that want it, one makes it and the others wait.

    Raises SetupFault where a dependency cannot be had, or the app cannot be indexed.
    """
    build.mkdir(parents=True, exist_ok=True)
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_of = _digest((*_product_files(), Path(_REQUIREMENTS), _THIS))
        return _built(build, made_of) or _build(build, made_of)


def described(manifest: Manifest) -> str:
    """For people: how large a package is and what it holds."""
    return (
        f"version {manifest.version}, {len(manifest.functions)} functions,"
        f" {manifest.zip_bytes / 1e6:.1f} MB, {manifest.unpacked_bytes / 1e6:.1f} MB in"
        f" {manifest.files:,} files unpacked, SHA-256 {manifest.zip_digest[:16]}"
    )


def is_left_out(path: PurePosixPath) -> bool:
    """Whether a file stays at home; `path` is below `SITE`."""
    return not _stays(path) and any(path.full_match(pattern) for pattern, _ in LEFT_OUT)


def write_zip(tree: Path, to: Path) -> None:
    """Pack what is below `tree`. Names are sorted, dates and rights the same everywhere."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in _files(tree):
            entry = zipfile.ZipInfo(file.relative_to(tree).as_posix())  # dated 1980
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever it is made
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, file.read_bytes())


def compile_modules(directory: Path, prefix: PurePosixPath) -> None:
    """Lay bytecode beside every module: an instance starts with an empty disk, and would compile
    a thousand modules before its first answer. It is taken as it is, without a look at the source.

    One process compiles all of it in the order of the names: what is in a file of bytecode can
    depend on what was compiled before it. `prefix` is where the directory will be in the package.

    Raises SetupFault where a module is no Python.
    """
    compiled = subprocess.run(
        [
            *(sys.executable, "-I", "-m", "compileall", "-q"),
            *("--invalidation-mode", "unchecked-hash"),
            *("-s", directory, "-p", prefix, directory),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if compiled.returncode != 0:
        raise SetupFault(
            f"Not every module of the package can be compiled:\n{compiled.stdout.rstrip()}\n",
            "Mend the file that is named, or leave it out in infra/package.py.",
        )


def _built(build: Path, made_of: str) -> Package | None:
    try:
        manifest = msgspec.json.decode((build / _MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    package = Package(build, manifest)
    fresh = manifest.made_of == made_of and package.tree.is_dir() and package.zip.is_file()
    return package if fresh else None


def _build(build: Path, made_of: str) -> Package:
    (build / _MANIFEST).unlink(missing_ok=True)  # written last: a build that breaks off has none
    tree = build / _TREE
    shutil.rmtree(tree, ignore_errors=True)
    for file in _product_files():
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, tree / file)
    compile_modules(tree, PurePosixPath())
    shutil.copytree(_dependencies(build), tree / SITE, copy_function=os.link)
    write_zip(tree, build / _ZIP)
    # azd leaves bytecode out unless a file of this name says what to leave out. Azure gets neither.
    (tree / ".funcignore").write_text("# Nothing.\n")
    functions = asyncio.run(load_app(ROOT)).functions
    with zipfile.ZipFile(build / _ZIP) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
    manifest = Manifest(
        version=__version__,
        made_of=made_of,
        zip_digest=hashlib.sha256((build / _ZIP).read_bytes()).hexdigest(),
        zip_bytes=(build / _ZIP).stat().st_size,
        unpacked_bytes=sum(sizes),
        files=len(sizes),
        functions=tuple(sorted(functions)),
    )
    (build / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return Package(build, manifest)


def _dependencies(build: Path) -> Path:
    """What goes into `SITE`, kept for the next build: it changes with the pins alone."""
    site, note = build / "dependencies", build / "dependencies.made-of"
    made_of = _digest((Path(_REQUIREMENTS), *_words(), _THIS))
    if note.is_file() and note.read_text() == made_of:
        return site
    note.unlink(missing_ok=True)
    shutil.rmtree(site, ignore_errors=True)
    _install(site)
    for file in _files(site):
        if is_left_out(PurePosixPath(file.relative_to(site).as_posix())):
            file.unlink()
    for directory, *_ in site.walk(top_down=False):
        with suppress(OSError):  # of those that are not empty
            directory.rmdir()
    compile_modules(site, SITE)
    note.write_text(made_of)
    return site


def _digest(files: Iterable[Path]) -> str:
    """Of names and contents, and of the Python that makes the bytecode."""
    digest = hashlib.sha256(f"{sys.version} {_PLATFORM}\n".encode())
    for file in files:
        content = (ROOT / file).read_bytes()
        digest.update(f"{file.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _words() -> list[Path]:
    """The files that say which languages there are."""
    return [file for file in _product_files() if file.suffix == ".toml"]


def _product_files() -> list[Path]:
    """What is deployed of the project itself, relative to its root."""
    files: list[Path] = []
    for place in PRODUCT:
        path = ROOT / place
        files += [path] if path.is_file() else _files(path)
    names = [file.relative_to(ROOT) for file in files]
    return [name for name in names if "__pycache__" not in name.parts and name.name[0] != "."]


def _files(directory: Path) -> list[Path]:
    """Every file below it, in the order of their names."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return sorted(found, key=lambda path: path.relative_to(directory).parts)


def _install(site: Path) -> None:
    """Put wheels for Azure's platform into `site`, whatever this machine is."""
    uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    installed = subprocess.run(
        [
            *(uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", site),
            *("--python-platform", _PLATFORM, "--python-version", "3.13", "--no-deps"),
            # A wheel that were built here could hold what is of this machine alone.
            *("--only-binary", ":all:", "--link-mode", "copy", "-r", ROOT / _REQUIREMENTS),
        ],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if installed.returncode != 0:
        raise SetupFault(
            f"The dependencies cannot be put into the package:\n{installed.stderr.rstrip()}\n",
            "See that the package registry can be reached. Where a package has no wheel for Linux"
            " and Python 3.13, pin a version that has one in pyproject.toml and run `make lock`.",
        )


def _stays(path: PurePosixPath) -> bool:
    """Whether a file stays although a pattern of `LEFT_OUT` means it."""
    match path.parts:
        case ("babel", "locale-data", _):
            family = path.stem.partition("_")[0]
            return family == "root" or family in _language_families()
        case ("msgraph", "generated", *inner):
            own = PurePosixPath(*inner).with_suffix("").as_posix()
            if own in GRAPH_REQUESTS:
                return True
            package = own.removesuffix("__init__")
            return own.endswith("__init__") and any(
                builder.startswith(package) for builder in GRAPH_REQUESTS
            )
        case _:
            return False


@cache
def _language_families() -> frozenset[str]:
    """`en` of `en_GB`: Babel lays a locale's data over those of its family."""
    return frozenset(load_words(one).locale.partition("_")[0] for one in LANGUAGES)


def main() -> None:
    """`python -m infra.package` makes the package and says what is in it."""
    try:
        package = build_package()
    except SetupFault as fault:
        sys.exit(str(fault))
    print(f"{package.zip.relative_to(ROOT)}: {described(package.manifest)}")


if __name__ == "__main__":
    main()
