"""YAML text as plain values that know their lines.

YAML 1.2, composed by ruamel: `09:00`, `yes` and dates are text. What a reader could overlook is
refused: a key that stands twice, a tag, more than one document. Nothing is ever constructed but
mappings, lists, text, whole numbers, true and false.
"""

from __future__ import annotations

import re
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from shared.rules.mistakes import Complaint, Path, show

MAX_CHARACTERS = 100_000
"""Room for a long list of accounts, and none for a file that got here by mistake."""

# An alias repeats what its anchor holds, and ten lines of aliases to aliases unfold to billions of
# values: unfolding ends where no file of ours ever comes.
_MOST_VALUES = 10_000
_DEEPEST = 8

_KINDS = frozenset(
    {"map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value"}
)
"""What YAML makes of plain text by itself; anything else was asked for by a tag."""


class Unreadable(Exception):
    """Text that cannot be read as keys and values at all; `line` counts from 1."""

    def __init__(self, line: int, what: str, fix: str) -> None:
        super().__init__(what)
        self.line, self.what, self.fix = line, what, fix


class Reading:
    """A text as plain values (dict, tuple, str, int, bool, None), with their lines.

    Attributes:
        tree: the values under the keys of the top level.
        empty: paths at which nothing stands; the tree holds None there.
        complaints: mistakes that did not keep the rest from being read.

    Raises:
        Unreadable: where nothing can be read.
    """

    def __init__(self, text: str) -> None:
        self.complaints: list[Complaint] = []
        self.empty: set[Path] = set()
        self._lines: dict[Path, int] = {}
        self._values = 0
        root = _compose(text)
        if root is None:
            raise Unreadable(
                1, "the file is empty", "copy campaign.example.yaml and change what is yours"
            )
        if not isinstance(root, MappingNode):
            raise Unreadable(
                _line(root),
                "the file is not made of keys and values",
                "begin with a line such as `campaign: hku-alumni-2027`",
            )
        self._lines[()] = _line(root)
        self.tree = cast("dict[str, object]", self._plain(root, ()))

    def line_of(self, path: Path) -> int:
        """The line of a key or list item; where it is not there, that of what would hold it."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _plain(self, node: Any, path: Path) -> object:
        self._values += 1
        if self._values > _MOST_VALUES or len(path) > _DEEPEST:
            raise Unreadable(
                self.line_of(path),
                "the file holds more than a campaign file can",
                "compare it with campaign.example.yaml",
            )
        if (kind := _kind(node)) not in _KINDS:
            self.complaints.append(
                Complaint(path, f"the tag {show(kind)} means nothing here", "remove it")
            )
        match node:
            case MappingNode():
                return self._mapping(node, path)
            case SequenceNode():
                return tuple(
                    self._item(item, (*path, index)) for index, item in enumerate(node.value)
                )
            case _:
                return self._scalar(node, path)

    def _item(self, node: Any, path: Path) -> object:
        self._lines[path] = _line(node)
        return self._plain(node, path)

    def _mapping(self, node: Any, path: Path) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise Unreadable(
                    _line(key_node), "a key is not a word", "compare it with campaign.example.yaml"
                )
            key = str(cast("Any", key_node).value)
            if key not in values:
                self._lines[*path, key] = _line(key_node)
                values[key] = self._plain(value_node, (*path, key))
                continue
            again = (*path, key, "again")
            self._lines[again] = _line(key_node)
            first = self._lines[*path, key]
            self.complaints.append(
                Complaint(
                    again, f"{show(key)} stands on line {first} already", "keep one of the two"
                )
            )
        return values

    def _scalar(self, node: Any, path: Path) -> object:
        text, kind = str(node.value), _kind(node)
        if kind == "null":
            self.empty.add(path)
            return None
        if kind == "bool" and text in ("true", "false"):
            return text == "true"
        if kind == "int" and re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            return int(text)
        return text


def _kind(node: Any) -> str:
    """What a node is by YAML's own names; any other tag as it stands."""
    return str(node.tag).removeprefix("tag:yaml.org,2002:")


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


def _compose(text: str) -> object:
    """The text as YAML nodes, None where it holds none. Raises Unreadable."""
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(
            1,
            f"the file has {len(text):,} characters, and {MAX_CHARACTERS:,} are allowed",
            "see whether this is the right file",
        )
    yaml = cast("Any", YAML(typ="safe", pure=True))
    yaml.composer.warn_double_anchors = False  # YAML 1.2 lets an anchor be set anew
    try:
        return yaml.compose(text)
    except ReaderError as error:
        raise _explain_character(error, text) from None
    except MarkedYAMLError as error:
        raise _explain_syntax(error) from None
    except (RecursionError, ValueError):
        raise Unreadable(
            1, "the file cannot be read as YAML", "compare it with campaign.example.yaml"
        ) from None


def _explain_character(error: Any, text: str) -> Unreadable:
    return Unreadable(
        text.count("\n", 0, error.position) + 1,
        f"a character stands here that text cannot hold (U+{ord(text[error.position]):04X})",
        "save the file as text in UTF-8",
    )


def _explain_syntax(error: Any) -> Unreadable:
    context, problem = str(error.context), str(error.problem)
    # A block begins far above what is wrong in it; all else is wrong where it begins.
    begun = error.context_mark if not context.startswith("while parsing a block") else None
    mark = begun or error.problem_mark
    line = mark.line + 1 if mark else 1
    if r"'\t'" in problem:
        return Unreadable(line, "a tab stands here", "write spaces in its place")
    if "another document" in problem:
        line = error.problem_mark.line + 1
        return Unreadable(line, "a second document begins here", "remove the line `---`")
    return Unreadable(
        line,
        f"this is not YAML: {problem}",
        "look for a missing quote, bracket, colon or space, here or just above",
    )
