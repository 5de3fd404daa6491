"""Microsoft Graph over real HTTP: pages, single accounts, and every bad answer that we know of.

The servers here are small aiohttp applications on loopback, each with one trait of Graph's.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import ipaddress
import json
import logging
import ssl
import subprocess
import sys
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared.errors import NudgeError, RetryLater, SetupFault, SkipTokenExpired
from shared.rules.registration import DoneWhen, Registration, unpack_registration
from shared.services.directory import (
    ROSTER_FIELDS,
    Auth,
    Confirm,
    Directory,
    FilteredUsers,
    GroupMembers,
    RegistrationReport,
    RosterPage,
    Source,
)

# The SDK warns of its own deprecated classes where it defines them, at import.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:msgraph"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kiota_abstractions"),
]

type Json = dict[str, Any]
type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REPORT = RegistrationReport()
GROUP = GroupMembers("6f1d1a52-0000-4000-8000-00000000a1b2")
USERS = FilteredUsers("employeeType eq 'Alumni' and city eq 'Zürich & Co'")

REPORT_PATH = "/v1.0/reports/authenticationMethods/userRegistrationDetails"
GROUP_PATH = f"/v1.0/groups/{GROUP.group}/transitiveMembers/microsoft.graph.user"


class Tenant:
    """A server that answers by `handler`, and what it was asked."""

    def __init__(self, handler: Handler) -> None:
        self.requests: list[web.Request] = []
        self.connections: set[object] = set()
        self.url = ""
        self._handler = handler

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1.0"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.connections.add(request.get_extra_info("peername"))
        return await self._handler(request)


@asynccontextmanager
async def running(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Tenant]:
    tenant = Tenant(handler)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", tenant.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    tenant.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield tenant
    finally:
        await runner.cleanup()


@asynccontextmanager
async def directory_of(
    base_url: str, auth: Auth = "anonymous", **more: Any
) -> AsyncGenerator[Directory]:
    directory = Directory(base_url, auth, **more)
    try:
        yield directory
    finally:
        await directory.close()


def always(
    body: bytes | str | Json = b"",
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Handler:
    """The same answer to whatever is asked."""
    content = json.dumps(body) if isinstance(body, dict) else body
    raw = content.encode() if isinstance(content, str) else content

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=raw, status=status, headers={"Content-Type": "application/json", **(headers or {})}
        )

    return handler


def page(rows: Sequence[Any] = (), link: str | None = None, count: int | None = None) -> Json:
    body: Json = {"@odata.context": "https://graph.microsoft.com/v1.0/$metadata#users"}
    if link is not None:
        body["@odata.nextLink"] = link
    if count is not None:
        body["@odata.count"] = count
    return {**body, "value": list(rows)}


def error(code: str, message: str = "Resource of Pat Example <pat@example.org> it is.") -> Json:
    return {"error": {"code": code, "message": message, "innerError": {"date": "2026-11-01"}}}


async def read(handler: Handler, source: Source, link: str | None = None, **more: Any) -> Any:
    """One page of a tenant that answers by `handler`; `link` is relative to its base."""
    async with running(handler) as tenant, directory_of(tenant.base_url, **more) as directory:
        return await directory.read_page(source, link and f"{tenant.base_url}{link}")


def an_id(number: int) -> str:
    return str(uuid.UUID(int=number))


def id16(number: int) -> bytes:
    return uuid.UUID(int=number).bytes


# What is asked for


async def test_the_report_is_asked_for_as_documented() -> None:
    async with running(always(page())) as tenant, directory_of(tenant.base_url) as directory:
        await directory.read_page(REPORT)
    (request,) = tenant.requests
    assert (request.method, request.path_qs) == ("GET", REPORT_PATH)
    assert request.headers["Accept"] == "application/json"
    assert "gzip" in request.headers["Accept-Encoding"]
    assert "Authorization" not in request.headers


@pytest.mark.parametrize(("source", "path"), [(GROUP, GROUP_PATH), (USERS, "/v1.0/users")])
@pytest.mark.parametrize(
    "link",
    [
        None,
        "/next?$skiptoken=RFNwdAoAAQ",
        "/next?%24skiptoken=RFNwdAoAAQ&%24count=true&%24top=999&$select=" + ",".join(ROSTER_FIELDS),
    ],
)
async def test_every_page_of_a_roster_is_asked_for_in_full(
    source: Source, path: str, link: str | None
) -> None:
    async with running(always(page())) as tenant, directory_of(tenant.base_url) as directory:
        await directory.read_page(source, link and f"{tenant.base_url}{link}")
    (request,) = tenant.requests
    assert request.path == (path if link is None else "/v1.0/next")
    assert request.headers["ConsistencyLevel"] == "eventual"
    expected = {"$count": "true", "$top": "999", "$select": ",".join(ROSTER_FIELDS)}
    if isinstance(source, FilteredUsers):
        expected["$filter"] = source.filter
    if link is not None:
        expected["$skiptoken"] = "RFNwdAoAAQ"
    assert dict(request.query) == expected
    assert len(request.query) == len(expected)


async def test_a_link_that_lacks_nothing_is_followed_to_the_letter() -> None:
    link = (
        "/users?$skiptoken=a%2Bb%27%3D%3d+c~!&$count=true&$top=2&$select=id&$filter=x%20eq%20'%26'"
    )
    async with running(always(page())) as tenant, directory_of(tenant.base_url) as directory:
        await directory.read_page(USERS, tenant.base_url + link)
        await directory.read_page(REPORT, tenant.base_url + "/report?$skiptoken=%20a%2f#top")
    assert [request.raw_path for request in tenant.requests] == [
        "/v1.0" + link,
        "/v1.0/report?$skiptoken=%20a%2f",
    ]


async def test_a_group_cannot_lead_out_of_its_path() -> None:
    async with running(always(page())) as tenant, directory_of(tenant.base_url) as directory:
        await directory.read_page(GroupMembers("../users?x=#"))
    assert tenant.requests[0].raw_path.startswith("/v1.0/groups/..%2Fusers%3Fx%3D%23/transitive")


async def test_pages_share_one_connection() -> None:
    async with running(always(page())) as tenant, directory_of(tenant.base_url) as directory:
        for source in (REPORT, GROUP, USERS):
            await directory.read_page(source)
    assert len(tenant.requests) == 3
    assert len(tenant.connections) == 1


async def test_each_event_loop_gets_a_client_of_its_own() -> None:
    async def in_another_loop(directory: Directory) -> None:
        await directory.read_page(REPORT)
        await directory.close()

    async with running(always(page())) as tenant, directory_of(tenant.base_url) as directory:
        await directory.read_page(REPORT)
        await asyncio.to_thread(asyncio.run, in_another_loop(directory))
        await directory.read_page(REPORT)
        await directory.close()
        await directory.read_page(REPORT)  # connects again
    assert len(tenant.requests) == 4
    assert len(tenant.connections) == 3


# What comes back


async def test_a_page_of_the_report() -> None:
    rows: list[Json] = [
        {
            "id": an_id(1),
            "userPrincipalName": "u1@connect.example.edu",
            "isMfaRegistered": True,
            "isMfaCapable": False,
            "methodsRegistered": ["mobilePhone"],
            "userPreferredMethodForSecondaryAuthentication": "",
            "lastUpdatedDateTime": "2026-11-01T00:00:00Z",
        },
        {"id": an_id(0xABC).upper(), "isMfaRegistered": False, "isMfaCapable": False},
        {"id": an_id(3), "isMfaRegistered": False, "methodsRegistered": ["methodOfNextYear"]},
        {"id": an_id(4), "isMfaRegistered": None, "methodsRegistered": None},
    ]
    found = await read(always(page(rows)), REPORT)
    assert found.next_link is None
    assert found.unreadable == 0
    assert [(id, unpack_registration(code, "registered")) for id, code in found.rows] == [
        (id16(1), Registration.REGISTERED),
        (id16(0xABC), Registration.UNREGISTERED),
        (id16(3), Registration.UNRECOGNISED),
        (id16(4), Registration.UNKNOWN),
    ]
    assert unpack_registration(found.rows[0][1], "capable") is Registration.UNREGISTERED


async def test_a_page_of_a_roster() -> None:
    rows: list[Json] = [
        {
            "@odata.type": "#microsoft.graph.user",
            "id": an_id(0xFF).upper(),
            "userPrincipalName": "u1@connect.example.edu",
            "displayName": "陳 Example",
            "accountEnabled": False,
            "userType": "Guest",
            "mail": "u1@example.edu",
            "otherMails": ["a@example.org", "b@example.org"],
            "mobilePhone": "+852 5000 0000",
            "preferredLanguage": "zh-HK",
            "fieldOfNextYear": {"a": [1]},
        },
        {"id": an_id(2), "mail": None, "otherMails": [], "userType": None, "displayName": None},
    ]
    found = await read(always(page(rows, count=2)), USERS)
    assert isinstance(found, RosterPage)
    full, bare = found.rows
    assert full.id == id16(0xFF)
    assert full.user_principal_name == "u1@connect.example.edu"
    assert full.display_name == "陳 Example"
    assert full.enabled is False
    assert full.user_type == "Guest"
    assert full.mail == "u1@example.edu"
    assert full.other_mails == ("a@example.org", "b@example.org")
    assert full.mobile_phone == "+852 5000 0000"
    assert full.language == "zh-HK"
    assert bare == type(bare)(id16(2), "", "", None, "", None, (), None, None)
    assert (found.unreadable, found.with_contact) == (0, 1)


@pytest.mark.invariant(3)
@pytest.mark.parametrize(
    ("contact", "with_contact"),
    [
        ({"mail": "a@b.example"}, 1),
        ({"otherMails": ["a@b.example"]}, 1),
        ({"mobilePhone": "+1"}, 1),
        ({"mail": None, "otherMails": None, "mobilePhone": None}, 0),
        ({"mail": "", "otherMails": [""], "mobilePhone": ""}, 0),
        ({}, 0),
    ],
)
async def test_empty_contact_fields_can_be_told(contact: Json, with_contact: int) -> None:
    """User.Read.All is missing when they are empty for everyone."""
    found = await read(always(page([{"id": an_id(1), **contact}])), GROUP)
    assert found.with_contact == with_contact


@pytest.mark.parametrize("source", [REPORT, GROUP])
@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"id": None},
        {"id": ""},
        {"id": "not-a-guid"},
        {"id": an_id(5)[:-2]},
        {"id": an_id(5) + "00"},
        {"id": 5},
        {"id": an_id(5), "otherMails": "a@b.example", "methodsRegistered": "email"},
        {"id": an_id(5), "accountEnabled": "yes", "isMfaRegistered": "yes"},
        ["a row"],
        None,
    ],
)
async def test_an_unreadable_row_is_counted_and_costs_no_other(source: Source, odd: Any) -> None:
    rows = [{"id": an_id(1)}, odd, {"id": an_id(2)}]
    found = await read(always(page(rows)), source)
    assert len(found.rows) == 2
    assert found.unreadable == 1


async def test_pages_are_followed_to_the_end_over_empty_ones() -> None:
    """Graph sends empty pages that carry a link, and the count on the first page only."""
    rosters: list[list[Json]] = [[{"id": an_id(1)}], [], [], [{"id": an_id(2)}], []]

    async def handler(request: web.Request) -> web.StreamResponse:
        number = int(request.query.get("$skiptoken", "0"))
        link = f"{request.url.origin()}/v1.0/users?$skiptoken={number + 1}"
        last = number == len(rosters) - 1
        return web.json_response(
            page(rosters[number], None if last else link, 2 if number == 0 else None)
        )

    seen: list[bytes] = []
    async with running(handler) as tenant, directory_of(tenant.base_url) as directory:
        link: str | None = None
        while True:
            found = await directory.read_page(GROUP, link)
            seen += [account.id for account in found.rows]
            if (link := found.next_link) is None:
                break
    assert seen == [id16(1), id16(2)]
    assert len(tenant.requests) == len(rosters)


async def test_a_compressed_page_is_read() -> None:
    body = gzip.compress(json.dumps(page([{"id": an_id(1)}])).encode())
    found = await read(always(body, headers={"Content-Encoding": "gzip"}), REPORT)
    assert len(found.rows) == 1


async def test_an_empty_link_is_none() -> None:
    assert (await read(always(page(link="")), REPORT)).next_link is None


# Bad answers

PREMIUM = "Authentication_RequestFromNonPremiumTenantOrB2CTenant"
HTML = "<html><body>Bad gateway. Pat Example, pat@example.org</body></html>"
LINK = "/next?$skiptoken=abc"
DENIED = error("Authorization_RequestDenied")
NOT_FOUND = error("Request_ResourceNotFound")
DATE = {"Date": "Sun, 01 Nov 2026 08:00:00 GMT"}

# (what, who is asked, with which link, status, headers, body, the error, words in its text, after)
BAD: list[
    tuple[
        str, Source, str | None, int, dict[str, str], Json | str,
        type[NudgeError], list[str], float | None,
    ]
] = [
    # permissions and licences
    ("token", REPORT, None, 401, {}, error("InvalidAuthenticationToken"),
     SetupFault, ["401", "InvalidAuthenticationToken", "AuditLog.Read.All", "GRAPH_AUTH"], None),
    ("denied", REPORT, None, 403, {}, DENIED,
     SetupFault, ["403", "Authorization_RequestDenied", "AuditLog.Read.All", "consent"], None),
    ("denied", GROUP, None, 403, {}, DENIED,
     SetupFault, ["GroupMember.Read.All", "User.Read.All"], None),
    ("denied", USERS, None, 403, {}, DENIED, SetupFault, ["permission User.Read.All"], None),
    ("denied on a later page", USERS, LINK, 403, {}, DENIED, SetupFault, ["User.Read.All"], None),
    ("denied without a word", REPORT, None, 403, {}, "", SetupFault, ["AuditLog.Read.All"], None),
    ("no licence", REPORT, None, 403, {}, error(PREMIUM), SetupFault, [PREMIUM, "P1 or P2"], None),
    ("no licence", REPORT, None, 400, {}, error(PREMIUM), SetupFault, [PREMIUM, "P1 or P2"], None),
    ("no licence", REPORT, LINK, 400, {}, error(PREMIUM), SetupFault, ["P1 or P2"], None),
    # what the campaign file names
    ("no group", GROUP, None, 404, {}, NOT_FOUND,
     SetupFault, [GROUP.group, "404", "audience.group"], None),
    ("group id", GROUP, None, 400, {}, error("Request_BadRequest"),
     SetupFault, ["400", "audience.group"], None),
    ("filter", USERS, None, 400, {}, error("Request_UnsupportedQuery"),
     SetupFault, ["Request_UnsupportedQuery", "audience.filter"], None),
    ("no report", REPORT, None, 404, {}, NOT_FOUND, SetupFault, ["GRAPH_BASE_URL"], None),
    ("no users", USERS, None, 404, {}, "", SetupFault, ["GRAPH_BASE_URL"], None),
    ("bad request", REPORT, None, 400, {}, error("BadRequest"), SetupFault, ["BadRequest"], None),
    ("method", REPORT, None, 405, {}, "", SetupFault, ["405", "GRAPH_BASE_URL"], None),
    ("redirect", REPORT, None, 302, {"Location": "https://login.example.org/"}, page(),
     SetupFault, ["302", "GRAPH_BASE_URL"], None),
    # skip tokens
    ("skip token", REPORT, LINK, 400, {}, error("DirectoryPageTokenNotFoundException"),
     SkipTokenExpired, ["DirectoryPageTokenNotFoundException"], None),
    ("skip token", GROUP, LINK, 400, {}, error("Directory_ExpiredPageToken"),
     SkipTokenExpired, ["Directory_ExpiredPageToken"], None),
    ("skip token", USERS, LINK, 400, {}, error("UnknownError"), SkipTokenExpired, ["400"], None),
    ("skip token", USERS, LINK, 410, {}, "", SkipTokenExpired, ["410"], None),
    # throttled and unwell
    ("throttled", REPORT, None, 429, {"Retry-After": "7"}, error("TooManyRequests"),
     RetryLater, ["429", "TooManyRequests"], 7),
    ("throttled", GROUP, LINK, 429, {"Retry-After": "600"}, "", RetryLater, ["429"], 600),
    ("throttled", GROUP, None, 429, {"Retry-After": " 0 "}, "", RetryLater, ["429"], 0),
    ("throttled", GROUP, None, 429, {}, "", RetryLater, ["429"], None),
    ("throttled", GROUP, None, 429, {"Retry-After": "soon"}, "", RetryLater, ["429"], None),
    ("throttled", GROUP, None, 429, {"Retry-After": "-5"}, "", RetryLater, ["429"], None),
    ("throttled", GROUP, None, 429, {"Retry-After": "999999999"}, "", RetryLater, [], 86_400),
    ("until a date", USERS, None, 429, {"Retry-After": "Sun, 01 Nov 2026 08:02:30 GMT", **DATE}, "",
     RetryLater, ["429"], 150),
    ("until a date gone", USERS, None, 503,
     {"Retry-After": "Sun, 01 Nov 2026 07:00:00 GMT", **DATE}, "", RetryLater, ["503"], 0),
    ("until no date", USERS, None, 503, {"Retry-After": "Sun, 99 Nov 2026 07:00:00 GMT"}, "",
     RetryLater, ["503"], None),
    ("request time-out", USERS, None, 408, {}, "", RetryLater, ["408"], None),
    ("failure", REPORT, None, 500, {}, error("InternalServerError"), RetryLater, ["500"], None),
    ("gateway", GROUP, LINK, 502, {"Content-Type": "text/html"}, HTML, RetryLater, ["502"], None),
    ("unavailable", REPORT, None, 503, {"Retry-After": "120"}, error("serviceNotAvailable"),
     RetryLater, ["503", "serviceNotAvailable"], 120),
    ("gateway time-out", REPORT, None, 504, {}, "", RetryLater, ["504"], None),
    # 200, and yet no page
    ("gateway", REPORT, None, 200, {"Content-Type": "text/html; charset=utf-8"}, HTML,
     RetryLater, ["not JSON", "text/html", "registration report"], None),
    ("nothing", USERS, None, 200, {}, "", RetryLater, ["not JSON", "0 bytes"], None),
    ("broken off", USERS, None, 200, {}, json.dumps(page([{"displayName": "Pat"}]))[:-9],
     RetryLater, ["breaks off"], None),
    ("no page", USERS, None, 200, {}, '{"status": "ok"}', RetryLater, ["not what was asked"], None),
    ("no rows", USERS, None, 200, {}, '{"value": null}', RetryLater, ["not what was asked"], None),
    ("no object", REPORT, None, 200, {}, "[]", RetryLater, ["not what was asked"], None),
    ("link is no text", USERS, None, 200, {}, '{"value": [], "@odata.nextLink": 1}',
     RetryLater, ["not what was asked"], None),
    ("no content", REPORT, None, 204, {}, "", SetupFault, ["204"], None),
]  # fmt: skip


@pytest.mark.invariant(3)
@pytest.mark.parametrize(
    "case", BAD, ids=[f"{n}: {case[0]} {case[3]}" for n, case in enumerate(BAD)]
)
async def test_a_bad_answer_has_a_name_and_a_fix(case: Any) -> None:
    _, source, link, status, headers, body, expected, words, after = case
    with pytest.raises(NudgeError) as caught:
        await read(always(body, status=status, headers=headers), source, link)
    assert type(caught.value) is expected
    text = str(caught.value)
    for word in words:
        assert word in text
    if isinstance(caught.value, RetryLater):
        assert caught.value.after == after
    for personal in ("Pat", "example.org", "Alumni", "skiptoken"):
        assert personal not in text


@pytest.mark.parametrize("status", [429, 500, 503, 302])
async def test_a_failed_request_is_made_once(status: int) -> None:
    """The queue tries again; the SDK must neither wait inside the function nor follow."""
    handler = always(status=status, headers={"Retry-After": "1", "Location": "/v1.0/elsewhere"})
    async with running(handler) as tenant, directory_of(tenant.base_url) as directory:
        with pytest.raises(NudgeError):
            await directory.read_page(REPORT)
    assert len(tenant.requests) == 1


async def test_the_request_id_is_evidence() -> None:
    request_id = "0f000000-1111-4222-8333-444444444444"
    with pytest.raises(RetryLater, match=request_id):
        await read(always(status=503, headers={"request-id": request_id}), REPORT)


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    await asyncio.sleep(0.01)
    return web.Response()


async def cut_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "5000"})
    await response.prepare(request)
    await response.write(b'{"value": [{"displayName": "Pat Example"')
    assert request.transport is not None
    request.transport.close()
    return response


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(5)
    return web.Response()


async def trickle(request: web.Request) -> web.StreamResponse:
    """Never idle for long, and never done: only a limit on the whole request ends it."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(100):
        await response.write(b" ")
        await asyncio.sleep(0.05)
    return response


async def not_http(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"Pat Example says hello\r\n\r\n")
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (reset, "connection"),
        (cut_off, "connection"),
        (not_http, "connection"),
        (always(b"no gzip", headers={"Content-Encoding": "gzip"}), "connection"),
        (hang, "in time"),
        (trickle, "in time"),
    ],
    ids=["reset", "cut off", "not HTTP", "not gzip", "hang", "trickle"],
)
async def test_a_broken_connection_is_tried_later(handler: Handler, words: str) -> None:
    with pytest.raises(RetryLater, match=words) as caught:
        await read(handler, USERS, timeout=0.3)
    assert caught.value.after is None
    assert "Pat" not in str(caught.value)


async def test_nobody_listens() -> None:
    async with running(always()) as tenant:
        pass
    async with directory_of(tenant.base_url) as directory:
        with pytest.raises(RetryLater, match="ConnectError"):
            await directory.read_page(REPORT)


async def test_after_a_broken_connection_the_next_page_is_read() -> None:
    answers = iter([reset, always(page())])

    async def handler(request: web.Request) -> web.StreamResponse:
        return await next(answers)(request)

    async with running(handler) as tenant, directory_of(tenant.base_url) as directory:
        with pytest.raises(RetryLater):
            await directory.read_page(REPORT)
        assert (await directory.read_page(REPORT)).rows == []


# One account

PERSON = uuid.UUID("0a000000-0000-4000-8000-0000000000ff")
METHODS_PATH = f"/v1.0/users/{PERSON}/authentication/methods"
NAME = "pat.o'example+1#EXT#@connect.example.edu"

type Question = Callable[[Directory], Awaitable[object]]


def find(key: str = NAME) -> Question:
    return lambda directory: directory.find_user(key)


def confirm(how: Confirm, done_when: DoneWhen = "registered") -> Question:
    return lambda directory: directory.confirm(PERSON.bytes, how, done_when)


FIND, METHODS, ROW = find(), confirm("methods"), confirm("report")


async def ask(handler: Handler, question: Question, **more: Any) -> Any:
    async with running(handler) as tenant, directory_of(tenant.base_url, **more) as directory:
        return await question(directory)


def methods(*names: str) -> Json:
    types = [f"#microsoft.graph.{name}AuthenticationMethod" for name in names]
    return page([{"@odata.type": type, "id": an_id(1), "phoneNumber": "+1"} for type in types])


@pytest.mark.parametrize(
    ("question", "target"),
    [
        (METHODS, METHODS_PATH),
        (ROW, f"{REPORT_PATH}/{PERSON}"),
        (confirm("report", "capable"), f"{REPORT_PATH}/{PERSON}"),
        # methods cannot tell what policy lets the person use
        (confirm("methods", "capable"), f"{REPORT_PATH}/{PERSON}"),
        (find("u1@connect.example.edu"), "/v1.0/users('u1%40connect.example.edu')?$select=id"),
        (find(str(PERSON)), f"/v1.0/users('{PERSON}')?$select=id"),
        (find("a_b.example#EXT#@x.edu"), "/v1.0/users('a_b.example%23EXT%23%40x.edu')?$select=id"),
        (find("o'neil@x.edu"), "/v1.0/users('o%27%27neil%40x.edu')?$select=id"),
        (find("a+b@x.edu"), "/v1.0/users('a%2Bb%40x.edu')?$select=id"),
        (find("$a@x.edu"), "/v1.0/users('%24a%40x.edu')?$select=id"),
        (find("../a?b=c&d/e%2Ff\\g@x"),
         "/v1.0/users('..%2Fa%3Fb%3Dc%26d%2Fe%252Ff%5Cg%40x')?$select=id"),
        (find("陳@x"), "/v1.0/users('%E9%99%B3%40x')?$select=id"),
        (find("')/memberOf('@x"), "/v1.0/users('%27%27%29%2FmemberOf%28%27%27%40x')?$select=id"),
    ],
)  # fmt: skip
async def test_one_account_is_asked_for_as_documented(question: Question, target: str) -> None:
    answer = {"id": str(PERSON), "value": []}
    async with running(always(answer)) as tenant, directory_of(tenant.base_url) as directory:
        await question(directory)
    (request,) = tenant.requests
    assert (request.method, request.raw_path) == ("GET", target)


@pytest.mark.invariant(3)
@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        (METHODS, methods(), Registration.UNREGISTERED),
        (METHODS, methods("password", "email"), Registration.UNREGISTERED),
        (METHODS, methods("password", "phone"), Registration.REGISTERED),
        (METHODS, methods("password", "laterYear"), Registration.UNRECOGNISED),
        (METHODS, page([{"id": an_id(1)}]), Registration.UNRECOGNISED),
        (ROW, {"isMfaRegistered": True, "isMfaCapable": False}, Registration.REGISTERED),
        (ROW, {"isMfaRegistered": False, "isMfaCapable": True}, Registration.UNREGISTERED),
        (confirm("report", "capable"), {"isMfaRegistered": True, "isMfaCapable": False},
         Registration.UNREGISTERED),
        (confirm("methods", "capable"), {"isMfaRegistered": False, "isMfaCapable": True},
         Registration.REGISTERED),
        (ROW, {"isMfaRegistered": False, "methodsRegistered": ["laterYear"]},
         Registration.UNRECOGNISED),
        (ROW, {"id": str(PERSON)}, Registration.UNKNOWN),
        (FIND, {"id": str(PERSON).upper(), "field": [1]}, PERSON.bytes),
    ],
)  # fmt: skip
async def test_what_is_said_of_one_account(
    question: Question, answer: Json, expected: object
) -> None:
    assert await ask(always(answer), question) == expected


@pytest.mark.invariant(3)
@pytest.mark.parametrize(
    ("question", "expected"),
    [(METHODS, None), (FIND, None), (ROW, Registration.UNKNOWN)],
    ids=["methods", "find", "report"],
)
async def test_an_account_that_is_not_there(question: Question, expected: object) -> None:
    """The report lacks accounts that exist: a missing row is unknown, never an account less."""
    assert await ask(always(NOT_FOUND, status=404), question) is expected


async def test_a_name_that_can_be_nobodys_is_nobodys() -> None:
    assert await ask(always(error("Request_BadRequest"), status=400), FIND) is None


QUESTIONS: dict[str, tuple[Question, str]] = {
    "find": (FIND, "User.Read.All"),
    "methods": (METHODS, "UserAuthenticationMethod.Read.All"),
    "report": (ROW, "AuditLog.Read.All"),
}

# What is answered, the error, words in its text ({0} is the permission), after.
BAD_ANSWERS: list[
    tuple[int, dict[str, str], Json | str, type[NudgeError], list[str], float | None]
] = [
    (401, {}, error("InvalidAuthenticationToken"), SetupFault, ["401", "{0}", "GRAPH_AUTH"], None),
    (403, {}, DENIED, SetupFault, ["403", "Authorization_RequestDenied", "{0}", "consent"], None),
    (403, {}, "", SetupFault, ["{0}"], None),
    (403, {}, error(PREMIUM), SetupFault, ["P1 or P2"], None),
    # a wrong address has no accounts at all, which says nothing of this one
    (404, {}, HTML, SetupFault, ["404", "GRAPH_BASE_URL"], None),
    (404, {}, "", SetupFault, ["404", "GRAPH_BASE_URL"], None),
    (400, {}, error("BadRequest"), SetupFault, ["400", "BadRequest"], None),
    (302, {"Location": "https://login.example.org/"}, "", SetupFault, ["302"], None),
    (204, {}, "", SetupFault, ["204"], None),
    (408, {}, "", RetryLater, ["408"], None),
    (429, {"Retry-After": "7"}, error("TooManyRequests"), RetryLater, ["429"], 7),
    (429, {}, "", RetryLater, ["429"], None),
    (500, {}, error("InternalServerError"), RetryLater, ["500"], None),
    (502, {"Content-Type": "text/html"}, HTML, RetryLater, ["502"], None),
    (503, {"Retry-After": "120"}, error("serviceNotAvailable"), RetryLater, ["503"], 120),
    (200, {"Content-Type": "text/html"}, HTML, RetryLater, ["not JSON", "text/html"], None),
    (200, {}, "", RetryLater, ["not JSON"], None),
    (200, {}, '{"id": "0a0', RetryLater, ["breaks off"], None),
    (200, {}, "[]", RetryLater, ["not what was asked"], None),
    (200, {}, '{"id": 5, "value": 5, "isMfaRegistered": 5}', RetryLater,
     ["not what was asked"], None),
]  # fmt: skip


@pytest.mark.invariant(3)
@pytest.mark.parametrize(("question", "permission"), QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize(
    "case", BAD_ANSWERS, ids=[f"{n}: {case[0]}" for n, case in enumerate(BAD_ANSWERS)]
)
async def test_a_bad_answer_about_one_account(
    question: Question, permission: str, case: Any
) -> None:
    status, headers, body, expected, words, after = case
    with pytest.raises(NudgeError) as caught:
        await ask(always(body, status=status, headers=headers), question)
    assert type(caught.value) is expected
    text = str(caught.value)
    for word in words:
        assert word.format(permission) in text
    if isinstance(caught.value, RetryLater):
        assert caught.value.after == after
    assert [trace for trace in TRACES if trace in texts_behind(caught.value)] == []


@pytest.mark.parametrize("body", ['{"id": "not-a-guid"}', '{"id": ""}', '{"id": null}', "{}"])
async def test_a_user_without_an_object_id_is_no_answer(body: str) -> None:
    with pytest.raises(RetryLater, match="not what was asked"):
        await ask(always(body), FIND)


@pytest.mark.parametrize("question", [FIND, METHODS, ROW], ids=["find", "methods", "report"])
@pytest.mark.parametrize(
    ("handler", "words"),
    [(reset, "connection"), (cut_off, "connection"), (hang, "in time"), (trickle, "in time")],
    ids=["reset", "cut off", "hang", "trickle"],
)
async def test_a_broken_connection_is_told_to_who_waits(
    question: Question, handler: Handler, words: str
) -> None:
    with pytest.raises(RetryLater, match=words) as caught:
        await ask(handler, question, timeout=60, lookup_timeout=0.2)
    assert [trace for trace in TRACES if trace in texts_behind(caught.value)] == []


TRACES = [
    *(str(PERSON), PERSON.hex, str(PERSON.bytes)),
    *("pat.o", "pat@", "Pat Example", "example.edu"),
    *("/users", "/authentication", "userRegistrationDetails"),
]
"""What would give away the account that was asked for, or the address under which it was."""


def texts_behind(error: BaseException) -> str:
    """All that is said by an error, and by those that it came from or came upon."""
    behind = [one for one in (error.__cause__, error.__context__) if one]
    return "\n".join([str(error), repr(error), *map(texts_behind, behind)])


@pytest.mark.invariant(6)
@pytest.mark.parametrize("question", [FIND, METHODS, ROW], ids=["find", "methods", "report"])
async def test_the_log_names_no_account(
    caplog: pytest.LogCaptureFixture, question: Question
) -> None:
    """Even where somebody has asked for all that these packages have to say."""
    for name in (None, "httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, name)
    await ask(always({"id": str(PERSON), "value": []}), question)
    await ask(always(NOT_FOUND, status=404), question)
    for handler in (always(DENIED, status=403), always(HTML, status=502), reset, cut_off, hang):
        with pytest.raises(NudgeError):
            await ask(handler, question, lookup_timeout=0.1)
    assert [trace for trace in TRACES if trace in caplog.text] == []


# Links and tokens stay at home

ELSEWHERE = [
    "https://{host}/v1.0/users",
    "http://127.0.0.1:1/v1.0/users",
    "http://localhost:{port}/v1.0/users",
    "http://evil.example/v1.0/users",
    "http://{host}@evil.example/v1.0/users",
    "http://evil.example\\@{host}/v1.0/users",
    "http://{host}\\@evil.example/v1.0/users",
    "http://{host}.evil.example/v1.0/users",
    "http://pat:secret@{host}/v1.0/users",
    "//{host}/v1.0/users",
    "/v1.0/users?$skiptoken=a",
    "users",
    "file:///v1.0/users",
    "http://[::1/v1.0/users",
    "http://{host}\t/v1.0/users",
    # out of the base path
    "http://{host}/",
    "http://{host}/v1.0",
    "http://{host}/v1.01/users",
    "http://{host}/beta/users",
    "http://{host}/v1.0/../beta/users",
    "http://{host}/v1.0/%2e%2e/beta/users",
    "http://{host}/v1.0/..%2Fbeta/users",
]


@pytest.mark.parametrize("template", ELSEWHERE)
async def test_a_link_to_elsewhere_is_refused(template: str) -> None:
    links: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(page([{"id": an_id(1)}], links[0]))

    async with running(handler) as tenant, directory_of(tenant.base_url) as directory:
        host = tenant.url.removeprefix("http://")
        links.append(template.format(host=host, port=host.partition(":")[2]))
        with pytest.raises(SetupFault, match="GRAPH_BASE_URL"):
            await directory.read_page(GROUP)
        with pytest.raises(SetupFault, match="GRAPH_BASE_URL") as caught:
            await directory.read_page(GROUP, links[0])
    assert len(tenant.requests) == 1
    assert "secret" not in str(caught.value)


async def test_a_link_that_leads_back_to_itself_does_not_go_on_for_ever() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(page(link=f"{request.url.origin()}/v1.0/next"))

    with pytest.raises(SkipTokenExpired):
        await read(handler, REPORT, "/next")


def certificate(directory: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "server.pem"
    file.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    file = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


async def test_a_token_of_the_managed_identity_goes_to_graph_and_nowhere_else(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires = int((datetime.now(UTC) + timedelta(hours=2)).timestamp())
    token: Json = {
        "access_token": "the-token",
        "expires_on": str(expires),
        "token_type": "Bearer",
        "resource": "https://127.0.0.1",
    }
    foreign_link: list[str] = []

    async def graph_handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(page(link=foreign_link[0] if foreign_link else None))

    async with (
        running(always(token)) as identity,
        running(always(page()), tls) as elsewhere,
        running(graph_handler, tls) as graph,
        directory_of(graph.base_url, "managed", client_id="the-client") as directory,
    ):
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{identity.url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header")
        await directory.read_page(REPORT)
        await directory.read_page(GROUP)
        foreign_link.append(f"{elsewhere.base_url}/users")
        with pytest.raises(SetupFault):
            await directory.read_page(REPORT)
    assert [request.headers["Authorization"] for request in graph.requests] == [
        "Bearer the-token"
    ] * 3
    (asked,) = identity.requests
    assert (asked.query["resource"], asked.query["client_id"]) == (
        "https://127.0.0.1",
        "the-client",
    )
    assert elsewhere.requests == []


async def test_an_identity_that_is_not_there_is_a_setup_fault(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal: Json = {"statusCode": 400, "message": "No User Assigned identity for Pat Example"}
    async with (
        running(always(refusal, status=400)) as identity,
        running(always(page()), tls) as graph,
        directory_of(graph.base_url, "managed", client_id="unknown") as directory,
    ):
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{identity.url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header")
        with pytest.raises(SetupFault, match="AzureWebJobsStorage__clientId") as caught:
            await directory.read_page(REPORT)
    assert "Pat" not in str(caught.value)
    assert graph.requests == []


@pytest.mark.parametrize(
    ("base_url", "auth", "words"),
    [
        ("https://graph.example/v1.0", "anonymous", "GRAPH_AUTH"),
        ("http://127.0.0.1.evil.example/v1.0", "anonymous", "GRAPH_AUTH"),
        ("http://graph.example/v1.0", "managed", "unencrypted"),
        ("http://127.0.0.1:8080/v1.0", "default", "unencrypted"),
        ("graph.microsoft.com/v1.0", "managed", "GRAPH_BASE_URL"),
        ("https://pat@graph.example/v1.0", "managed", "GRAPH_BASE_URL"),
        ("https://graph.example/v1.0?a=b", "managed", "GRAPH_BASE_URL"),
        ("https://graph.example:port/v1.0", "managed", "GRAPH_BASE_URL"),
        ("https://[::1/v1.0", "managed", "GRAPH_BASE_URL"),
        ("", "managed", "GRAPH_BASE_URL"),
    ],
)
def test_settings_that_do_not_go_together(base_url: str, auth: Auth, words: str) -> None:
    with pytest.raises(SetupFault, match=words):
        Directory(base_url, auth)


@pytest.mark.parametrize(
    ("base_url", "auth"),
    [
        ("https://graph.microsoft.com/v1.0", "managed"),
        ("https://graph.microsoft.com/v1.0/", "default"),
        ("http://127.0.0.1:8080/v1.0", "anonymous"),
        ("http://[::1]:8080/v1.0", "anonymous"),
        ("http://localhost:8080", "anonymous"),
    ],
)
def test_settings_that_go_together(base_url: str, auth: Auth) -> None:
    Directory(base_url, auth)


@pytest.mark.parametrize("ending", ["", "/"])
async def test_a_base_without_a_path_will_do(ending: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        link = None if request.query_string else f"{request.url.origin()}/users?$skiptoken=1"
        return web.json_response(page(link=link))

    async with running(handler) as tenant, directory_of(tenant.url + ending) as directory:
        found = await directory.read_page(REPORT)
        await directory.read_page(REPORT, found.next_link)
    assert [request.path for request in tenant.requests] == [
        REPORT_PATH.removeprefix("/v1.0"),
        "/users",
    ]


# What else must hold


@pytest.mark.invariant(6)
async def test_the_log_holds_no_filter_and_no_link(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await read(always(page()), FilteredUsers("mail eq 'pat@example.org'"), "/next?$skiptoken=pat")
    assert "pat" not in caplog.text


def test_importing_the_directory_imports_no_sdk() -> None:
    code = (
        "import sys, shared.services.directory\n"
        "print({name.partition('.')[0] for name in sys.modules}"
        " & {'msgraph', 'msgraph_core', 'kiota_http', 'httpx', 'azure'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (REPORT, "registrations"),
        (GROUP, f"group-{GROUP.group}"),
        (GroupMembers(GROUP.group.upper()), f"group-{GROUP.group}"),
        (FilteredUsers("a eq 'b/#?'"), "filter-" + hashlib.sha256(b"a eq 'b/#?'").hexdigest()[:16]),
    ],
)
def test_a_pass_has_a_name_fit_for_a_blob_path(source: Source, name: str) -> None:
    assert source.name == name


@pytest.mark.parametrize("source", [REPORT, GROUP, USERS])
def test_a_source_survives_its_message(source: Source) -> None:
    kinds = RegistrationReport | GroupMembers | FilteredUsers
    assert msgspec.json.decode(msgspec.json.encode(source), type=kinds) == source
