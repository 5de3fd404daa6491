"""Mistakes that the machine must find: each is written into a copy of the tree, and the machine
runs there until it finds a promise broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("functions", "shared", "local", "tests", "campaign.example.yaml")


class Found(msgspec.Struct, frozen=True):
    """What a run of the machine came to.

    Attributes:
        examples: how many there were, the last of them the one that broke a promise, if any did.
        steps: of that one; all steps where nothing was broken.
        broken: the promise; "" where all held.
    """

    examples: int
    steps: int
    broken: str


@dataclass(frozen=True)
class Mistake:
    """One mistake: in a file, a piece of text and what stands in its place."""

    name: str
    file: str
    old: str
    new: str

    def planted_in(self, tree: Path) -> str:
        """The file's text with the mistake."""
        text = (tree / self.file).read_text()
        assert text.count(self.old) == 1, f"{self.name}: {self.file} reads otherwise now"
        return text.replace(self.old, self.new)


MISTAKES = (
    Mistake(
        "claim after the call",
        "shared/workflows/dispatch.py",
        """\
                claimed = await self._claim(message, attempt, touched_at, left_out)
                if claimed:
                    outcome = await self._call(sender, prepared, claimed_from)
""",
        """\
                outcome = await self._call(sender, prepared, claimed_from)
                claimed = await self._claim(message, attempt, touched_at, left_out)
                if claimed:
""",
    ),
    Mistake(
        "a fold that forgets ambiguous",
        "shared/rules/parcels.py",
        "        if parcel.state is State.CLOSED or parcel.seed:\n",
        "        if parcel.state in (State.CLOSED, State.AMBIGUOUS) or parcel.seed:\n",
    ),
    Mistake(
        "a fence without its counters",
        "shared/stores/parcels.py",
        "            if found.number != number:\n",
        "            if found.number > number:\n",
    ),
    Mistake(
        "a late 202 dropped",
        "shared/workflows/dispatch.py",
        "            if found.state not in OPEN or not (ours or",
        "            if found.state is not State.CLAIMED or not (ours or",
    ),
    Mistake(
        "a planner that takes over a live one's fence",
        "shared/workflows/plan.py",
        "fence.run and rested < self._clock.ages.fence_at_rest:\n",
        "fence.run and rested < 0:\n",
    ),
    Mistake(
        "a planner that goes on after another took its fence",
        "shared/stores/parcels.py",
        """\
            if found is None or found.run != self.run:
                raise Superseded("another run took the fence") from conflict
            self._etag = found.etag
""",
        """\
            assert found is not None
            self._etag = found.etag
            if found.run != self.run:
                return await self._write(writes, done=done, counts=counts)
""",
    ),
    Mistake(
        "a settle that overwrites another attempt",
        "shared/workflows/dispatch.py",
        "if found.state not in OPEN or not (ours or accepted):",
        "if found.state not in OPEN:",
    ),
    Mistake(
        "a release that hands out under the older version",
        "shared/workflows/release.py",
        "            and parcel.version == standing.version\n            and parcel.not_before",
        "            and parcel.not_before",
    ),
    Mistake(
        "a receipt that reopens a closed row",
        "shared/rules/parcels.py",
        """\
    if parcel.state not in OPEN:
        return None
    allow(parcel.state, State.ACCEPTED, "receipts", doubt=parcel.doubt)
""",
        """\
    if parcel.state is State.ACCEPTED:
        return None
""",
    ),
    Mistake(
        "others that do not wait for their canary",
        "shared/workflows/release.py",
        "        return [one for one in due if one.canary or one.seed or ",
        "        return [one for one in due if True or ",
    ),
    Mistake(
        "a canary that is judged by what was sent of it",
        "shared/workflows/release.py",
        "            delivered = sum(parcel.delivered_count for parcel in marked)\n",
        "            delivered = recipients\n",
    ),
    Mistake(
        "a parcel that is resent again and again",
        "shared/rules/parcels.py",
        "may_go = not parcel.resent and ",
        "may_go = ",
    ),
)


@contextmanager
def planted(mistake: Mistake) -> Iterator[Path]:
    """A copy of the tree that has the mistake, for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="planted-") as directory:
        copy = Path(directory)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, copy / name, ignore=ignored)
            else:
                shutil.copy(source, copy / name)
        (copy / ".azurite").symlink_to(ROOT / ".azurite")
        (copy / mistake.file).write_text(mistake.planted_in(copy))
        yield copy


def search(mistake: Mistake, *, examples: int, seed: int) -> Found:
    """Have the machine look for the mistake, in as many examples at most."""
    with planted(mistake) as copy:
        command = [sys.executable, "-m", "tests.model", "--json", f"--examples={examples}"]
        run = subprocess.run(
            [*command, f"--seed={seed}"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.stdout, run.stderr
    # Hypothesis may have something to say before it.
    return msgspec.json.decode(run.stdout.splitlines()[-1], type=Found)
