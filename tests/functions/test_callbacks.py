"""Completions over HTTP, against the real app in the local host, and against their document.

Whatever the app answers here is held against docs/completions.openapi.yaml; and what the document
says of statuses, fields and limits is held against the code.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML
from schemathesis.specs.openapi.checks import negative_data_rejection

from functions.callbacks import MOST_BYTES, MOST_ITEMS, Refused, read_items
from local.tenant import Options, roster_of
from shared.names import NAMES
from shared.workflows.completion_batch import ItemAnswer, UnreadableItem, read_item
from tests.functions.conftest import running_host
from tests.world import FORTNIGHT, World, running_world

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = YAML(typ="safe").load(ROOT / "docs" / "completions.openapi.yaml")
OPERATION = DOCUMENT["paths"]["/callbacks/completions"]["post"]
SCHEMAS = DOCUMENT["components"]["schemas"]

PEOPLE = Options(alumni=1000, others=0, throttled=False)
ROSTER = roster_of(PEOPLE)
JSON = {"Content-Type": "application/json"}

type Json = dict[str, Any]


def validator(schema: Json) -> Draft202012Validator:
    return Draft202012Validator(
        schema | {"components": DOCUMENT["components"]},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def item(index: int = 0, event: str = "", **fields: Any) -> Json:
    """An item about one of the tenant's people."""
    return {
        "user_id": ROSTER.id(index),
        "completed_at": (FORTNIGHT - timedelta(days=1)).isoformat(),
        "source": "card-office",
        "event_id": event or f"event {index}",
        **fields,
    }


def encoded(told: Any) -> bytes:
    return told if isinstance(told, bytes) else msgspec.json.encode(told)


# --- what can be said of a body before its items are looked at


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", " application/json ;x"]
)
def test_json_is_read(content_type: str) -> None:
    one, two = {"a": 1}, {"b": [{"c": "}]"}]}
    assert [bytes(raw) for raw in read_items(content_type, encoded([one, two, 5]))] == [
        encoded(one),
        encoded(two),
        b"5",
    ]
    assert [bytes(raw).strip() for raw in read_items(content_type, b' \n{"a": 1}\n')] == [
        b'{"a": 1}'
    ]


REFUSED: dict[str, tuple[str, bytes, int, str]] = {
    "no content type": ("", b"{}", 415, "application/json"),
    "text": ("text/plain", b"{}", 415, "application/json"),
    "a form": ("application/x-www-form-urlencoded", b"user_id=1", 415, "application/json"),
    "JSON of another kind": ("application/problem+json", b"{}", 415, "application/json"),
    "not quite JSON": ("application/jsonp", b"{}", 415, "application/json"),
    "the wrong type is seen before the size": ("text/plain", b" " * 10_000_000, 415, "JSON"),
    "10 MB": ("application/json", b"[" + b" " * 10_000_000 + b"]", 413, "in parts"),
    "a byte too many": ("application/json", b"{}" + b" " * (MOST_BYTES - 1), 413, "in parts"),
    "10,001 items": ("application/json", encoded([5] * 10_001), 413, "in parts"),
    "1,001 items": ("application/json", encoded([item()] * 1001), 413, "in parts"),
    "nothing": ("application/json", b"", 400, "array"),
    "spaces": ("application/json", b"   ", 400, "array"),
    "words": ("application/json", b"hello", 400, "array"),
    "a number": ("application/json", b"5", 400, "array"),
    "null": ("application/json", b"null", 400, "array"),
    "text in quotes": ("application/json", b'"{}"', 400, "array"),
    "an empty array": ("application/json", b"[]", 400, "empty"),
    "a broken object": ("application/json", b'{"a": 1', 400, "array"),
    "a broken array": ("application/json", b'[{"a": 1}, {"b"', 400, "array"),
    "two objects": ("application/json", b"{}{}", 400, "array"),
    "a comma too many": ("application/json", b"[{},]", 400, "array"),
    "single quotes": ("application/json", b"{'a': 1}", 400, "array"),
    "no UTF-8": ("application/json", b'{"a": \xff}', 400, "array"),
    "UTF-16": ("application/json", '{"a": 1}'.encode("utf-16"), 400, "array"),
    "deep arrays": ("application/json", b"[" * 500_000, 400, "array"),
    "deep objects": ("application/json", b'{"a":' * 100_000, 400, "array"),
    "a form feed": ("application/json", b"\x0c{}", 400, "array"),
}  # fmt: skip


@pytest.mark.parametrize(("content_type", "body", "status", "words"), REFUSED.values(), ids=REFUSED)
def test_a_body_of_which_no_item_is_looked_at(
    content_type: str, body: bytes, status: int, words: str
) -> None:
    with pytest.raises(Refused, match=words) as caught:
        read_items(content_type, body)
    assert caught.value.status == status


@given(st.binary(max_size=80))
def test_any_body_has_items_or_is_refused(body: bytes) -> None:
    with contextlib.suppress(Refused):
        assert read_items("application/json", body)


def test_a_mark_before_it_is_passed_over() -> None:
    assert read_items("application/json", b'\xef\xbb\xbf[{"a": 1}]') == [msgspec.Raw(b'{"a": 1}')]


def test_as_much_as_is_allowed_is_taken() -> None:
    assert len(read_items("application/json", encoded([item()] * MOST_ITEMS))) == MOST_ITEMS
    assert read_items("application/json", b"{}" + b" " * (MOST_BYTES - 2))


# --- over HTTP


@dataclass(frozen=True)
class Answer:
    """An answer that the document describes."""

    status: int
    body: Json
    retry_after: str | None = None

    @property
    def statuses(self) -> list[str]:
        return [one["status"] for one in self.body["items"]]


@dataclass(frozen=True)
class Api:
    """The app in the local host, and the world around it."""

    url: str
    key: str
    world: World

    async def tell(
        self, told: Any, headers: dict[str, str] = JSON, key: str | None = None
    ) -> Answer:
        key = self.key if key is None else key
        async with self.world.http.post(
            self.url,
            data=io.BytesIO(encoded(told)),  # of much that is not a file aiohttp warns
            headers=headers | ({"x-functions-key": key} if key else {}),
            skip_auto_headers=("Content-Type",),
        ) as answer:
            return conforming(answer, await answer.read())


def conforming(answer: aiohttp.ClientResponse, body: bytes) -> Answer:
    """The answer, after a look into the document."""
    described = OPERATION["responses"][str(answer.status)]
    if "content" not in described:
        assert body == b""
        return Answer(answer.status, {})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    content = msgspec.json.decode(body)
    validator(described["content"]["application/json"]["schema"]).validate(content)
    retry_after = answer.headers.get("Retry-After")
    if retry_after is not None:
        assert "Retry-After" in described["headers"]
        validator(DOCUMENT["components"]["headers"]["Retry-After"]["schema"]).validate(
            int(retry_after)
        )
    return Answer(answer.status, content, retry_after)


@contextlib.asynccontextmanager
async def running_api(connection_string: str, directory: Path) -> AsyncGenerator[Api]:
    async with running_world(connection_string, directory, people=PEOPLE) as world:
        await world.write_campaign()
        await world.app.book.refresh(accept=True)
        async with running_host(world.environment) as host:
            yield Api(f"{host.url}/callbacks/completions", host.ready["function_key"], world)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(
    _storage_accounts: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Api]:
    async with running_api(next(_storage_accounts), tmp_path_factory.mktemp("api")) as api:
        yield api


in_the_module = pytest.mark.asyncio(loop_scope="module")


@in_the_module
async def test_every_status_of_the_document_is_given_and_for_what_it_says(api: Api) -> None:
    unknown = item(user_id="00000000-0000-4000-8000-000000000000", event_id="unknown")
    too_early = item(1, completed_at="2027-03-16T10:00:00")
    given: dict[str, Answer] = {
        "one": await api.tell(item(0)),
        "many": await api.tell([item(1), item(0), item(2), item(2)]),
        "some": await api.tell([item(3), unknown, too_early]),
        "none": await api.tell(unknown),
        "words": await api.tell(b"hello"),
        "empty": await api.tell([]),
        "no key": await api.tell(item(0), key=""),
        "another key": await api.tell(item(0), key="another"),
        "10 MB": await api.tell(b"[" + b" " * 10_000_000 + b"]"),
        "10,001 items": await api.tell([5] * 10_001),
        "text": await api.tell(item(0), headers={"Content-Type": "text/plain"}),
        "no type": await api.tell(item(0), headers={}),
    }
    await api.world.fault("tenant", user=[{"status": 429, "retry_after": "7", "times": None}])
    given["throttled"] = await api.tell([item(4), item(5)])
    given["throttled in part"] = await api.tell([item(0), item(4)])
    await api.world.fault("tenant", user=[{"status": 403, "times": None}])
    given["denied"] = await api.tell(item(4))
    await api.world.fault("tenant")
    given["at last"] = await api.tell([item(4), item(5)])

    assert {name: answer.status for name, answer in given.items()} == {
        "one": 200, "many": 200, "some": 207, "none": 207, "words": 400, "empty": 400,
        "no key": 401, "another key": 401, "10 MB": 413, "10,001 items": 413, "text": 415,
        "no type": 415, "throttled": 503, "throttled in part": 207, "denied": 503, "at last": 200,
    }  # fmt: skip
    assert {str(answer.status) for answer in given.values()} == OPERATION["responses"].keys()
    assert given["one"].body == {
        "items": [{"index": 0, "status": "recorded", "event_id": "event 0"}]
    }
    assert given["many"].statuses == ["recorded", "duplicate", "recorded", "duplicate"]
    assert given["some"].statuses == ["recorded", "rejected", "rejected"]
    assert given["throttled in part"].statuses == ["duplicate", "retry"]
    assert {name: a.retry_after for name, a in given.items() if a.retry_after} == {
        "throttled": "7",
        "throttled in part": "7",
        "denied": "60",
    }
    assert "User.Read.All" in given["denied"].body["items"][0]["detail"]


@in_the_module
async def test_storage_that_fails_is_told_and_nothing_is_claimed(
    connection_string: str, tmp_path: Path
) -> None:
    async with running_api(connection_string, tmp_path) as api:
        ledger = api.world.app.account.table(NAMES.tables.ledger)
        await ledger.delete_table()
        answer = await api.tell([item(0), item(1)])
        assert (answer.status, answer.retry_after) == (503, "60")
        assert "again" in answer.body["error"]
        await ledger.create_table()
        assert (await api.tell([item(0), item(1)])).statuses == ["recorded"] * 2


@in_the_module
async def test_a_thousand_items_in_one_body(api: Api) -> None:
    told = [item(index, event=f"thousand {index}") for index in range(1000)]
    first, again = await api.tell(told), await api.tell(told)
    assert (first.status, Counter(first.statuses)) == (200, {"recorded": 1000})
    assert (again.status, Counter(again.statuses)) == (200, {"duplicate": 1000})
    assert [one["index"] for one in first.body["items"]] == list(range(1000))


@in_the_module
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
async def test_whatever_the_document_makes_somebody_send_is_answered_as_it_says(
    api: Api, mode: str
) -> None:
    """Bodies made from the document, and such as break it. A bad item is answered in 207 and not
    with a status of its own, which is the one thing that is not asked for here."""
    operation = schemathesis.openapi.from_dict(DOCUMENT)["/callbacks/completions"]["POST"]
    cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode])
    seen: Counter[int] = Counter()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def tell(case: schemathesis.Case) -> None:
        headers = {"x-functions-key": api.key}
        answer = case.call(base_url=api.url.removesuffix("/callbacks/completions"), headers=headers)
        seen[answer.status_code] += 1
        case.validate_response(answer, excluded_checks=[negative_data_rejection])

    await asyncio.to_thread(tell)
    assert {str(status) for status in seen} <= OPERATION["responses"].keys() - {"503"}
    assert seen[207]


# --- the document and the code


def test_the_document_says_what_the_code_says() -> None:
    answer, error = SCHEMAS["Answer"], SCHEMAS["Error"]
    assert answer["properties"].keys() == set(ItemAnswer.__struct_fields__)
    statuses = msgspec.inspect.type_info(ItemAnswer).fields[1].type  # type: ignore[attr-defined]
    assert set(answer["properties"]["status"]["enum"]) == set(statuses.values)
    assert error["required"] == ["error"]
    body = OPERATION["requestBody"]
    array = body["content"]["application/json"]["schema"]["oneOf"][1]
    assert array["maxItems"] == SCHEMAS["Answers"]["properties"]["items"]["maxItems"] == MOST_ITEMS
    assert answer["properties"]["index"]["maximum"] == MOST_ITEMS - 1
    assert f"{MOST_BYTES:,} bytes" in body["description"]
    for field in SCHEMAS["Item"]["properties"]:
        with pytest.raises(UnreadableItem, match=field):
            read_item(b'{"unknown": 1}', FORTNIGHT)


def examples_of(content: Json) -> list[Any]:
    return [content["example"]] if "example" in content else [
        one["value"] for one in content["examples"].values()
    ]  # fmt: skip


def test_the_examples_of_the_document_are_what_it_describes() -> None:
    contents = [OPERATION["requestBody"]["content"]["application/json"]]
    contents += [
        response["content"]["application/json"]
        for response in OPERATION["responses"].values()
        if "content" in response
    ]
    for content in contents:
        for example in examples_of(content):
            validator(content["schema"]).validate(example)
    for example in examples_of(contents[0]):
        for one in example if isinstance(example, list) else [example]:
            read_item(encoded(one), FORTNIGHT)


VALUES: dict[str, list[Any]] = {
    "user_id": [ROSTER.id(0), ROSTER.id(0).upper(), "nobody", "", 5, None, ROSTER.id(0)[:-1]],
    "user_principal_name": [
        *("u1@example.edu", "o'n#EXT#@x", "$a@b", "a" * 128 + "@" + "b" * 128),
        *("a", "a@", "@b", "a@b@c", "a b@c", "é@b", "a/b@c", "a@b\x00", "a" * 129 + "@b", 1, None),
    ],
    "completed_at": ["2027-03-16T10:00:00Z", 5, None, []],
    "source": ["a", "A 1._:/-", "x" * 64, "x" * 65, "", "-a", "a@b", "=a", "é", "a\tb", {}, None],
    "event_id": ["1", "é\n" * 64, "x" * 128, "x" * 129, "", 1, None, ["1"]],
    "verify": [True, False, "true", 0, None],
    "unknown": [1],
}
GOOD = item(0, verify=True)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.sampled_from(values) | st.just(GOOD.get(name, values[0]))
            for name, values in VALUES.items()
        },
    )
)
def test_an_item_can_be_read_where_the_document_allows_it_and_nowhere_else(told: Json) -> None:
    allowed = validator(SCHEMAS["Item"]).is_valid(told)
    try:
        read_item(encoded(told), FORTNIGHT)
    except UnreadableItem:
        assert not allowed
    else:
        assert allowed


@pytest.mark.parametrize("name", VALUES)
def test_each_value_can_be_read_where_the_document_allows_it(name: str) -> None:
    """The same, for each value within an item that is good but for it."""
    is_valid: Callable[[Json], bool] = validator(SCHEMAS["Item"]).is_valid
    for value in VALUES[name]:
        told = {**GOOD, name: value}
        if name == "user_principal_name":
            del told["user_id"]
        readable = True
        try:
            read_item(encoded(told), FORTNIGHT)
        except UnreadableItem:
            readable = False
        assert readable == is_valid(told), value
