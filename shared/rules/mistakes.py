"""What is wrong with a value in a file, in words that its author understands.

Pydantic says what it expected in the terms of its types. Here its errors become complaints: the
key, what is wrong with it, and what would be right, for which each field brings an example.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

type Path = tuple[str | int, ...]
"""Keys and list positions, from the top of the file to a value."""

_WHAT: Mapping[str, str] = {
    "model_type": "must hold keys with values",
    "dict_type": "must hold keys with values",
    "tuple_type": "must be a list",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "string_type": "must be text",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_short": "is empty",
    "too_long": "has more than {max_length} entries",
    "string_too_long": "is longer than {max_length} characters",
}
"""By pydantic's type of error; what stands after the key's name."""


class Complaint(NamedTuple):
    """A mistake in the value at a path. Both texts are clauses: no capital, no full stop."""

    path: Path
    what: str
    fix: str


def wrong(what: str, fix: str = "") -> PydanticCustomError:
    """For validators: `what` follows the key's name; `fix` stands in for its example."""
    return PydanticCustomError("wrong", "{what}", {"what": what, "fix": fix})


def show(value: object) -> str:
    """A value, short and harmless, as messages may hold it; `it` for what may be personal."""
    if not isinstance(value, str) or "@" in value:
        return "it"
    text = ascii(value)[1:-1]
    return f"`{text}`" if len(text) <= 40 else f"`{text[:39]}…`"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """What `word` was probably meant to be; case, dashes and underscores aside."""
    by_folded = {name.casefold().replace("-", "_"): name for name in known}
    near = difflib.get_close_matches(word.casefold().replace("-", "_"), by_folded, n=1)
    return by_folded[near[0]] if near else None


class Explainer:
    """Puts the errors of one model into words.

    Args:
        model: the whole file. Each of its fields, and of the models in it, has an example.
        name: what the file is called, such as "a campaign file".
    """

    def __init__(self, model: type[BaseModel], name: str) -> None:
        self._model = model
        self._name = name

    def explain(
        self, errors: Collection[ErrorDetails], empty: Collection[Path]
    ) -> Iterator[Complaint]:
        """One complaint for each mistake.

        Args:
            empty: where the file has a key with nothing after it; the model met None there.
        """
        unknown = {error["loc"] for error in errors if error["type"] == "extra_forbidden"}
        # A misspelt key is one mistake, and not also the absence of the right one.
        meant = {(*path[:-1], self._nearest_key(path)) for path in unknown}
        for error in errors:
            path, kind = error["loc"], error["type"]
            if path in unknown:
                yield self._explain_key(path)
                continue
            told = path in empty or (kind == "missing" and path in meant)
            # Pydantic does not count a list's wrong items, and calls the rest too short.
            told |= kind == "too_short" and bool(error["input"])
            if not told:
                yield self._explain_value(error)
        for path in empty:
            if not any(path[: len(outer)] == outer for outer in unknown):
                name, _, example = self._look_up(path)
                yield Complaint(path, f"`{name}` has no value", f"write it like `{example}`")

    def _explain_key(self, path: Path) -> Complaint:
        parent, key = path[:-1], str(path[-1])
        name, model, _ = self._look_up(parent)
        home, near = next(_homes(key, self._model), None), self._nearest_key(path)
        if home:
            fix = f"it belongs {home}"
        elif near:
            fix = f"did you mean `{near}`?"
        else:
            fix = "the keys here are " + ", ".join(_fields_of(model))
        where = f"`{name}`" if name else self._name
        return Complaint(path, f"{show(key)} is not a key of {where}", fix)

    def _explain_value(self, error: ErrorDetails) -> Complaint:
        path = tuple(key for key in error["loc"] if key != "[key]")
        name, _, example = self._look_up(path)
        context, advice = error.get("ctx", {}), f"write it like `{example}`"
        match error["type"]:
            case "wrong":
                what, advice = context["what"], context["fix"] or advice
            case "missing":
                what, advice = "is missing", f"add it, like `{example}`"
            case "literal_error":
                choices = re.findall(r"'([^']*)'", context["expected"])
                near = nearest(str(error["input"]), choices)
                what = f"cannot be {show(error['input'])}"
                advice = f"did you mean `{near}`?" if near else f"choose {context['expected']}"
            case "string_type" if isinstance(error["input"], int):
                what, advice = "must be text, not a number", "put it in quotes"
            case kind:
                what = _WHAT.get(kind, "is not what it must be").format(**context)
        return Complaint(path, f"`{name}` {what}", advice)

    def _nearest_key(self, path: Path) -> str | None:
        _, model, _ = self._look_up(path[:-1])
        return nearest(str(path[-1]), _fields_of(model))

    def _look_up(self, path: Path) -> tuple[str, type[BaseModel], str]:
        """The field that speaks for a path, be it of a value, of a list's item or of what stands
        under a key of the file's own: its dotted name, the model under it (or the one that it
        belongs to), and the key with its example as it would stand in the file."""
        names: list[str] = []
        model, example = self._model, ""
        for key in path:
            if isinstance(key, str) and (field := _fields_of(model).get(key)):
                names.append(key)
                example = f"{key}: {_as_yaml(field.examples[0])}" if field.examples else key
                inner = _model_in(field.annotation)
                if inner is None:
                    break
                model = inner
        return ".".join(names), model, example


def _fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in found if model), None)


def _homes(key: str, model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Where in the file a key of this name belongs, in words."""
    for name, field in _fields_of(model).items():
        if name == key:
            yield f"under `{path}`" if path else "at the top level"
        if inner := _model_in(field.annotation):
            yield from _homes(key, inner, f"{path}.{name}" if path else name)


def _as_yaml(value: object) -> str:
    match value:
        case dict():
            items = cast("dict[str, object]", value).items()
            return "{" + ", ".join(f"{key}: {_as_yaml(item)}" for key, item in items) + "}"
        case list():
            return "[" + ", ".join(map(_as_yaml, cast("list[object]", value))) + "]"
        case bool():
            return str(value).lower()
        case str() if re.fullmatch(r"[0-9:]+", value):
            return f'"{value}"'
        case _:
            return str(value)
