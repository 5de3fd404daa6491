"""The package in a process of its own, by a Python that has nothing but its standard library.

A program: `python -I -S -B packaged_process.py TREE WORKER`. TREE is the unpacked package, WORKER
the path of local/worker.py, which asks Microsoft's worker library as the Functions host does; both
it and all that it imports come out of TREE. The first line printed says what was indexed; then each
line of standard input is a question and is answered with one line. All of them are JSON.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

SITE = Path(".python_packages/lib/site-packages")


class Packaged:
    """The indexed app, and the questions about it."""

    def __init__(self, tree: Path, worker: Any, app: Any) -> None:
        self._tree = tree
        self._worker = worker
        self._app = app

    async def answer(self, question: dict[str, Any]) -> Any:
        match question:
            case {"timer": name}:
                return await self._outcome(self._app.invoke_timer(name))
            case {"queue": name, "body": body}:
                return await self._outcome(self._app.invoke_queue(name, body))
            case {"http": name, **request}:
                return await self._outcome(self._app.invoke_http(name, **request))
            case {"graph": base_url}:
                return await ask_graph(base_url)
            case {"number": text, "region": region}:
                from shared.rules.contact import usable_number

                return usable_number(text, region)
            case {"imported": package}:
                return self._imported(package)
            case _:
                raise ValueError(question)

    async def _outcome(self, invocation: Any) -> Any:
        try:
            answer = await invocation
        except self._worker.FunctionFailed as failure:
            return {"failed": failure.what}
        return answer and {"status": answer.status, "body": answer.body.decode()}

    def _imported(self, package: str) -> list[str]:
        """The files below a directory of site-packages that were imported."""
        home = self._tree / SITE / package
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        return sorted(
            Path(file).relative_to(home).as_posix()
            for file in files
            if file and Path(file).is_relative_to(home)
        )


async def ask_graph(base_url: str) -> dict[str, str]:
    """What becomes of every request that shared/services/directory.py can make: `ok`, or the error.

    A second page is asked for by a link of the first, or by one that is made up.
    """
    from shared.errors import NudgeError
    from shared.services.directory import (
        Directory,
        FilteredUsers,
        GroupMembers,
        RegistrationReport,
    )

    directory = Directory(base_url, "anonymous")
    group = GroupMembers(str(uuid.UUID(int=0)))
    found: dict[str, str] = {}
    person = bytes(16)

    async def ask(name: str, question: Any) -> Any:
        try:
            answer = await question
        except NudgeError as error:
            found[name] = type(error).__name__
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        else:
            found[name] = "ok" if answer is not None else "absent"
            return answer
        return None

    for name, source, path in (
        ("report", RegistrationReport(), "reports"),
        ("group", group, "groups"),
        ("users", FilteredUsers("userType eq 'Member'"), "users"),
    ):
        page = await ask(name, directory.read_page(source))
        link = (page and page.next_link) or f"{base_url}/{path}?$skiptoken=made-up"
        await ask(f"{name}, second page", directory.read_page(source, link))
        if name == "users" and page:
            person = page.rows[0].id
    await ask("methods", directory.confirm(person, "methods", "registered"))
    await ask("row", directory.confirm(person, "report", "registered"))
    await ask("user", directory.find_user(str(uuid.UUID(bytes=person))))
    await directory.close()
    return found


async def run(tree: Path, worker_file: Path) -> None:
    began = time.perf_counter()
    sys.path[:0] = [str(tree), str(tree / SITE)]
    spec = importlib.util.spec_from_file_location("worker", worker_file)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    sys.modules["worker"] = worker
    spec.loader.exec_module(worker)
    app = await worker.load_app(tree)
    indexed = {
        "functions": sorted(app.functions),
        "seconds": round(time.perf_counter() - began, 2),
        "outside": sorted(
            {path for path in sys.path if not path.startswith((str(tree), sys.base_prefix))}
        ),
    }
    print(json.dumps(indexed), flush=True)
    packaged = Packaged(tree, worker, app)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await packaged.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
