"""The simulated tenant answers as Graph does, over real HTTP; the product can read it."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from local.roster import Roster
from local.tenant import (
    ALUMNI_GROUP,
    LEFT_OUT_GROUP,
    OTHERS_GROUP,
    GraphError,
    Options,
    parse_filter,
    running_tenant,
)
from shared.clock import write_clock_file
from shared.errors import RetryLater, SetupFault, SkipTokenExpired
from shared.rules.contact import usable_email
from shared.rules.registration import (
    Account,
    Registration,
    ReportRow,
    decide_registration,
    exclusion,
    shard_of,
)
from shared.services.directory import (
    Directory,
    FilteredUsers,
    GroupMembers,
    RegistrationReport,
    Source,
)

ROOT = Path(__file__).resolve().parents[2]
REPORT = "/v1.0/reports/authenticationMethods/userRegistrationDetails"
MEMBERS = f"/v1.0/groups/{ALUMNI_GROUP}/transitiveMembers/microsoft.graph.user"
COUNTED = f"{MEMBERS}?$count=true"
USERS = "/v1.0/users"
EVENTUAL = {"ConsistencyLevel": "eventual"}
NOBODY = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
"""The id of no account."""
DEADLINE = datetime(2027, 3, 31, 16, tzinfo=UTC)
SMALL = Options(alumni=250, others=50, throttled=False)

type Json = dict[str, Any]


def roster(alumni: int = 4000, others: int = 1000, seed: int = 0) -> Roster:
    return Roster(
        alumni=alumni, others=others, deadline=DEADLINE, domain="connect.example.edu", seed=seed
    )


class Client:
    """Asks one tenant; paths are taken to the letter, whole links as they come."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def ask(
        self, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], Any]:
        link = URL(path if "://" in path else self.url + path, encoded=True)
        async with self._session.get(link, headers=headers or EVENTUAL) as answer:
            body = await answer.read()
            return answer.status, answer.headers, json.loads(body) if body else None

    async def page(self, path: str) -> Json:
        status, _, body = await self.ask(path)
        assert status == 200, body
        return body

    async def error(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        status, _, body = await self.ask(path, headers)
        error = body["error"]
        assert error["message"]
        assert {"date", "request-id", "client-request-id"} == error["innerError"].keys()
        return status, error["code"]

    async def pages(self, path: str) -> list[Json]:
        found: list[Json] = []
        link: str | None = path
        while link is not None:
            found.append(await self.page(link))
            link = found[-1].get("@odata.nextLink")
        return found

    async def rows(self, path: str) -> list[Json]:
        return [row for page in await self.pages(path) for row in page["value"]]

    async def switch(self, path: str, content: object = None) -> int:
        async with self._session.post(self.url + path, json=content) as answer:
            return answer.status


@asynccontextmanager
async def tenant(options: Options = SMALL) -> AsyncGenerator[Client]:
    async with running_tenant(options) as url, aiohttp.ClientSession() as session:
        yield Client(url, session)


# The people


def test_the_same_seed_makes_the_same_people() -> None:
    assert roster().person(17) == roster(alumni=20, others=0).person(17)
    assert roster(seed=1).person(17) != roster().person(17)


@given(st.integers(0, 299_999), st.integers(0, 5))
def test_an_account_is_found_by_its_id(index: int, seed: int) -> None:
    people = roster(alumni=240_000, others=60_000, seed=seed)
    id = people.id(index)
    assert id == people.person(index).id
    assert people.find(id) == people.find(id.upper()) == index
    assert (uuid.UUID(id).version, uuid.UUID(id).variant) == (4, uuid.RFC_4122)


@pytest.mark.parametrize("id", ["", "nobody", NOBODY, ALUMNI_GROUP])
def test_nobody_else_is_found(id: str) -> None:
    assert roster().find(id) is None


def test_ids_and_names_of_accounts_are_unique_and_shards_even() -> None:
    people = [roster().person(index) for index in range(5000)]
    assert len({person.id for person in people}) == 5000
    assert len({person.user_principal_name for person in people}) == 5000
    shards = Counter(shard_of(uuid.UUID(person.id).bytes) for person in people)
    assert len(shards) == 16
    assert max(shards.values()) < 1.35 * min(shards.values())


def test_the_directory_is_as_untidy_as_a_real_one() -> None:
    people = [roster().person(index) for index in range(4000)]
    accounts = [
        Account(
            uuid.UUID(person.id).bytes,
            *(person.user_principal_name, person.display_name, person.account_enabled),
            *(person.user_type, person.mail, person.other_mails, person.mobile_phone, None),
        )
        for person in people
    ]
    excluded = Counter(exclusion(account, guests=False) for account in accounts)
    assert excluded.keys() == {None, "disabled", "guest", "service account"}
    assert excluded[None] > 3700
    answers = {
        decide_registration(
            ReportRow(person.id, one.registered, one.capable, one.methods), "registered"
        )
        for person in people
        for one in (person.before,)
    }
    assert answers == {Registration.UNREGISTERED, Registration.UNRECOGNISED}
    addresses = [mail for person in people for mail in person.other_mails]
    assert any(usable_email(address) is None for address in addresses)
    shared = Counter(address.casefold() for address in addresses)
    assert 0 < sum(times > 1 for times in shared.values()) < 200
    assert len(shared) < len(set(addresses))  # some differ in case only
    reached = sum(any(map(usable_email, person.other_mails)) for person in people)
    assert 0.7 < reached / 4000 < 0.85
    assert 0 < sum(not person.other_mails and not person.mail for person in people) < 400
    assert any(not person.display_name.isascii() for person in people)
    assert any("<b>" in person.display_name for person in people)
    assert {("fido2",), ("passKeyDeviceBound",), ("mobilePhone",)} <= {
        person.after.methods for person in people
    }


def test_no_address_or_number_belongs_to_anybody() -> None:
    for person in map(roster().person, range(5000)):
        mails = (person.user_principal_name, person.mail or "", *person.other_mails)
        for domain in (mail.rpartition("@")[2].lower() for mail in mails if "@" in mail):
            assert domain.endswith(("example.com", "example.net", "example.org", "example.edu"))
        assert person.mobile_phone is None or any(
            kept in person.mobile_phone for kept in ("7700 900", "-555-01")
        )


def test_more_people_register_the_nearer_the_deadline_comes() -> None:
    people = [roster().person(index) for index in range(4000)]
    days = [75, 60, 45, 30, 15, 0, -30]
    done = [
        sum(
            person.standing((DEADLINE - timedelta(days=day)).timestamp()).registered
            for person in people
        )
        for day in days
    ]
    assert done == sorted(done)
    gains = [later - earlier for earlier, later in itertools.pairwise(done[:-1])]
    assert gains == sorted(gains)
    assert 0.15 < done[0] / 4000 < 0.25
    assert 0.7 < done[-2] / 4000 < 0.85


# What is asked for


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("employeeType eq 'Alumni'", (("employeeType", "alumni"),)),
        ("accountEnabled eq true", (("accountEnabled", True),)),
        (
            " userType  eq 'Member' AND accountEnabled EQ false",
            (("userType", "member"), ("accountEnabled", False)),
        ),
        ("department eq 'O''Neil and Sons'", (("department", "o'neil and sons"),)),
    ],
)
def test_filters(text: str, clauses: object) -> None:
    assert parse_filter(text).clauses == clauses


@pytest.mark.parametrize(
    "text",
    [
        "",
        "employeeType",
        "employeeType eq Alumni",
        "employeeType eq 'Alumni' and",
        "employeeType eq 'Alumni' or accountEnabled eq true",
        "employeeType eq 'Alumni' android eq 'x'",
        "city eq 'Hong Kong'",
        "accountEnabled eq 'true'",
        "userType eq true",
        "startswith(mail,'a')",
    ],
)
def test_filters_that_are_refused(text: str) -> None:
    with pytest.raises(GraphError):
        parse_filter(text)


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        (f"{COUNTED}&$top=1000", EVENTUAL, 400, "Request_BadRequest"),
        (f"{USERS}?$top=0", EVENTUAL, 400, "Request_BadRequest"),
        (f"{REPORT}?$top=1000", EVENTUAL, 400, "Request_BadRequest"),
        (f"{USERS}?$top=many", EVENTUAL, 400, "BadRequest"),
        (MEMBERS, EVENTUAL, 400, "Request_UnsupportedQuery"),
        (COUNTED, {"X": "y"}, 400, "Request_UnsupportedQuery"),
        (f"{USERS}?$filter=employeeType%20eq%20'Alumni'&$count=true", {"X": "y"}, 400,
         "Request_UnsupportedQuery"),
        (f"{USERS}?$select=id,shoeSize", EVENTUAL, 400, "BadRequest"),
        (f"{USERS}?$orderby=displayName", EVENTUAL, 400, "BadRequest"),
        (f"{USERS}?$skiptoken=RFNwdAoAAQforged", EVENTUAL, 400,
         "DirectoryPageTokenNotFoundException"),
        (COUNTED.replace(ALUMNI_GROUP, NOBODY), EVENTUAL, 404,
         "Request_ResourceNotFound"),
        (f"{REPORT}/{NOBODY}", EVENTUAL, 404, "Request_ResourceNotFound"),
        (f"{USERS}/{NOBODY}/authentication/methods", EVENTUAL, 404,
         "Request_ResourceNotFound"),
        (f"{USERS}/{NOBODY}", EVENTUAL, 404, "Request_ResourceNotFound"),
        (f"{USERS}/nobody@connect.example.edu", EVENTUAL, 404, "Request_ResourceNotFound"),
        (f"{USERS}('nobody@connect.example.edu')", EVENTUAL, 404, "Request_ResourceNotFound"),
        (f"{USERS}/$nobody@connect.example.edu", EVENTUAL, 400, "BadRequest"),
        (f"{USERS}/%24nobody@connect.example.edu", EVENTUAL, 400, "BadRequest"),
        (f"{USERS}('$nobody@connect.example.edu')", EVENTUAL, 404, "Request_ResourceNotFound"),
        (f"{USERS}('o%27neil@connect.example.edu')", EVENTUAL, 400, "BadRequest"),
        (f"{USERS}/{NOBODY}?$top=1", EVENTUAL, 400, "BadRequest"),
        (f"{USERS}/{NOBODY}?$select=shoeSize", EVENTUAL, 400, "BadRequest"),
        ("/v1.0/me", EVENTUAL, 400, "BadRequest"),
    ],
)  # fmt: skip
async def test_refusals(path: str, headers: dict[str, str], status: int, code: str) -> None:
    async with tenant() as client:
        assert await client.error(path, headers) == (status, code)


# Pages


async def test_members_come_in_pages_with_a_count_on_the_first_and_empty_ones_between() -> None:
    async with tenant() as client:
        pages = await client.pages(f"{COUNTED}&$top=60&$select=id")
    assert [len(page["value"]) for page in pages] == [60, 0, 60, 60, 60, 10]
    assert [page.get("@odata.count") for page in pages] == [250, None, None, None, None, None]
    assert len({row["id"] for page in pages for row in page["value"]}) == 250


@pytest.mark.parametrize(
    ("group", "counts"),
    [(ALUMNI_GROUP, range(250, 251)), (OTHERS_GROUP, range(50, 51)), (LEFT_OUT_GROUP, range(1, 9))],
)
async def test_groups(group: str, counts: range) -> None:
    async with tenant() as client:
        rows = await client.rows(f"{COUNTED.replace(ALUMNI_GROUP, group)}&$select=id&$top=999")
    assert len(rows) in counts


async def test_default_page_sizes() -> None:
    async with tenant(Options(alumni=1200, others=0, throttled=False)) as client:
        assert len((await client.page(USERS))["value"]) == 100
        assert len((await client.page(REPORT))["value"]) == 1000


async def test_only_what_is_selected_comes() -> None:
    async with tenant() as client:
        (chosen,) = (await client.page(f"{USERS}?$top=1&$select=id,OTHERMAILS"))["value"]
        (usual,) = (await client.page(f"{USERS}?$top=1"))["value"]
    assert chosen.keys() == {"id", "otherMails"}
    assert usual.keys() >= {"id", "mail", "businessPhones", "userPrincipalName"}
    assert not usual.keys() & {"otherMails", "accountEnabled", "userType", "department"}


async def test_a_user_is_found_by_id_and_by_name_in_any_case() -> None:
    people = [roster(250, 50).person(index) for index in range(300)]
    guest = next(one for one in people if "#EXT#" in one.user_principal_name)
    async with tenant() as client:
        for person in (people[0], people[-1], guest):
            name = quote(person.user_principal_name)
            for key in (person.id, person.id.upper(), name, name.upper()):
                for path in (f"{USERS}/{key}", f"{USERS}('{key}')"):
                    found = await client.page(f"{path}?$select=id,displayName")
                    context = found.pop("@odata.context")
                    assert context.endswith("#users/$entity")
                    assert found == {"id": person.id, "displayName": person.display_name}
        usual = await client.page(f"{USERS}/{people[0].id}")
    assert "otherMails" not in usual
    assert usual["userPrincipalName"] == people[0].user_principal_name


async def test_filtered_users_are_those_for_whom_the_filter_holds() -> None:
    text = "$filter=employeeType%20eq%20'alumni'%20and%20accountEnabled%20eq%20true"
    fields = "$select=employeeType,accountEnabled"
    async with tenant() as client:
        pages = await client.pages(f"{USERS}?{text}&{fields}&$count=true")
        plain = await client.rows(f"{USERS}?$filter=accountEnabled%20eq%20false&$select=id")
    rows = [row for page in pages for row in page["value"]]
    assert pages[0]["@odata.count"] == len(rows) > 200
    assert {tuple(row.values()) for row in rows} == {("Alumni", True)}
    assert 0 < len(plain) < 50


async def test_tokens_belong_to_their_list_and_can_be_used_again() -> None:
    async with tenant() as client:
        link = (await client.page(f"{USERS}?$top=10&$select=id"))["@odata.nextLink"]
        token = link.partition("skiptoken=")[2]
        once, again = await client.page(link), await client.page(link)
        assert once["value"] == again["value"] == []  # the second page is an empty one
        once, again = [await client.page(page["@odata.nextLink"]) for page in (once, again)]
        assert once["value"] == again["value"] != []
        stolen = f"{COUNTED}&$skiptoken={token}"
        assert await client.error(stolen) == (400, "DirectoryPageTokenNotFoundException")


@pytest.mark.parametrize(
    "options",
    [
        msgspec.structs.replace(SMALL, token_requests=2),
        msgspec.structs.replace(SMALL, token_seconds=0),
    ],
    ids=["requests", "seconds"],
)
async def test_tokens_expire(options: Options) -> None:
    async with tenant(options) as client:
        first = (await client.page(f"{USERS}?$top=1"))["@odata.nextLink"]
        statuses = [(await client.ask(first))[0] for _ in range(3)]
        assert statuses[-1] == 400
        assert await client.error(first) == (400, "DirectoryPageTokenNotFoundException")


# The report


async def test_the_report_lacks_disabled_accounts_and_has_an_order_of_its_own() -> None:
    async with tenant() as client:
        report = [row["id"] for row in await client.rows(REPORT)]
        users = await client.rows(f"{USERS}?$select=id,accountEnabled&$top=999")
    disabled = {user["id"] for user in users if not user["accountEnabled"]}
    assert disabled
    assert not disabled & set(report)
    assert len(report) == len(set(report))
    assert {user["id"] for user in users} - disabled - set(report)  # some others have no row
    in_order = [user["id"] for user in users if user["id"] in set(report)]
    assert sorted(report) == sorted(in_order)
    assert report != in_order


async def test_five_report_requests_in_ten_seconds() -> None:
    async with tenant(Options(alumni=20, others=0)) as client:
        answers = [await client.ask(REPORT) for _ in range(6)]
        assert [status for status, _, _ in answers] == [200] * 5 + [429]
        _, headers, body = answers[-1]
        assert 1 <= int(headers["Retry-After"]) <= 10
        assert body["error"]["code"] == "TooManyRequests"
        assert (await client.ask(USERS))[0] == 200
        assert await client.switch("/faults", {"throttled": False}) == 204
        assert (await client.ask(REPORT))[0] == 200


async def test_the_report_follows_campaign_time_behind_the_live_methods(tmp_path: Path) -> None:
    clock = tmp_path / "clock.json"
    noon = datetime(2027, 3, 17, 12, tzinfo=UTC)
    write_clock_file(clock, noon)
    async with tenant(msgspec.structs.replace(SMALL, clock_file=clock)) as client:
        rows = await client.rows(REPORT)
        (one, *_) = (row for row in rows if row["methodsRegistered"] == [])
        assert {row["lastUpdatedDateTime"] for row in rows} == {"2027-03-17T09:00:00Z"}
        assert await client.switch(f"/people/{one['id']}/register") == 204
        live = (await client.page(f"{USERS}/{one['id']}/authentication/methods"))["value"]
        assert {method["@odata.type"].rpartition(".")[2] for method in live} == {
            "passwordAuthenticationMethod",
            "microsoftAuthenticatorAuthenticationMethod",
            "softwareOathAuthenticationMethod",
        }
        assert live[1]["createdDateTime"].startswith("2027-03-17T12:00")
        assert (await client.page(f"{REPORT}/{one['id']}"))["isMfaRegistered"] is False
        write_clock_file(clock, noon + timedelta(hours=4))
        assert (await client.page(f"{REPORT}/{one['id']}"))["isMfaRegistered"] is True
        later = {row["id"]: row["isMfaRegistered"] for row in await client.rows(REPORT)}
        assert later[one["id"]] is True
        write_clock_file(clock, DEADLINE)
        at_deadline = {row["id"]: row["isMfaRegistered"] for row in await client.rows(REPORT)}
        assert sum(at_deadline.values()) > sum(later.values()) + 10
        write_clock_file(clock, noon)
        assert {r["id"]: r["isMfaRegistered"] for r in await client.rows(REPORT)} == {
            row["id"]: row["isMfaRegistered"] for row in rows
        }


# What the product reads


@asynccontextmanager
async def directory(options: Options = SMALL) -> AsyncGenerator[tuple[Client, Directory]]:
    async with tenant(options) as client:
        reader = Directory(f"{client.url}/v1.0", "anonymous", timeout=5)
        try:
            yield client, reader
        finally:
            await reader.close()


async def read_all(reader: Directory, source: Source) -> list[Any]:
    rows: list[Any] = []
    link = None
    while True:
        page = await reader.read_page(source, link)
        rows += page.rows
        assert page.unreadable == 0
        if (link := page.next_link) is None:
            return rows


@pytest.mark.filterwarnings("ignore::DeprecationWarning:msgraph")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:kiota_abstractions")
class TestTheProductsDirectory:
    async def test_reads_every_list(self) -> None:
        options = Options(alumni=2100, others=300, throttled=False)
        async with directory(options) as (_, reader):
            members = await read_all(reader, GroupMembers(ALUMNI_GROUP))
            assert len({account.id for account in members}) == len(members) == 2100
            assert any(account.other_mails for account in members)
            alumni = await read_all(reader, FilteredUsers("employeeType eq 'Alumni'"))
            assert {account.id for account in alumni} < {account.id for account in members}
            report = await read_all(reader, RegistrationReport())
            assert 2100 < len({id for id, _ in report}) < 2400

    @pytest.mark.parametrize(
        ("fault", "expected", "words"),
        [
            ({"status": 503, "retry_after": "120"}, RetryLater, "120 s"),
            ({"status": 429, "retry_after": "7"}, RetryLater, "7 s"),
            ({"kind": "html"}, RetryLater, "502"),
            ({"kind": "html", "status": 200}, RetryLater, "text/html"),
            ({"kind": "text"}, RetryLater, "not JSON"),
            ({"kind": "truncated"}, RetryLater, "breaks off"),
            ({"kind": "reset"}, RetryLater, "connection"),
            ({"kind": "not-premium"}, SetupFault, "P1 or P2"),
            ({"kind": "foreign-link"}, SetupFault, "127.0.0.2"),
            ({"status": 401}, SetupFault, "token"),
            ({"status": 403}, SetupFault, "AuditLog.Read.All"),
        ],
    )
    async def test_meets_each_fault_once(
        self, fault: Json, expected: type[Exception], words: str
    ) -> None:
        async with directory() as (client, reader):
            assert await client.switch("/faults", {"registrations": [fault]}) == 204
            with pytest.raises(expected, match=words):
                await reader.read_page(RegistrationReport())
            assert (await reader.read_page(RegistrationReport())).rows

    async def test_meets_a_token_that_expired_on_the_way(self) -> None:
        async with directory() as (client, reader):
            await client.switch("/faults", {"users": [{"kind": "expired-token", "after": 1}]})
            first = await client.page(f"{USERS}?$top=5&$select=id")
            with pytest.raises(SkipTokenExpired):
                await reader.read_page(
                    FilteredUsers("accountEnabled eq true"), first["@odata.nextLink"]
                )

    async def test_finds_users_and_sees_who_registers(self) -> None:
        async with directory(msgspec.structs.replace(SMALL, others=400)) as (client, reader):
            people = [roster(250, 400).person(index) for index in range(650)]
            guest = next(one for one in people if "#EXT#" in one.user_principal_name)
            late = next(one for one in people if one.reported and one.registers_at == math.inf)
            for person in (people[0], guest, late):
                for key in (person.user_principal_name, person.id):
                    assert await reader.find_user(key) == uuid.UUID(person.id).bytes
            for key in ("$nobody@connect.example.edu", "o'neil@example.edu", str(uuid.uuid4())):
                assert await reader.find_user(key) is None
            id16 = uuid.UUID(late.id).bytes
            before = await reader.confirm(id16, "methods", "registered")
            await client.switch(f"/people/{late.id}/register")
            after = await reader.confirm(id16, "methods", "registered")
            assert (before, after) == (Registration.UNREGISTERED, Registration.REGISTERED)
            behind = [await reader.confirm(id16, how, "capable") for how in ("methods", "report")]
            assert behind == [Registration.UNREGISTERED] * 2
            nobody = uuid.uuid4().bytes
            assert await reader.confirm(nobody, "methods", "registered") is None
            assert await reader.confirm(nobody, "report", "registered") is Registration.UNKNOWN

    async def test_meets_a_roster_without_contact_fields(self) -> None:
        async with directory() as (client, reader):
            fault = {"kind": "no-contacts", "times": None}
            await client.switch("/faults", {"members": [fault]})
            page = await reader.read_page(GroupMembers(ALUMNI_GROUP))
            assert page.rows
            assert page.with_contact == 0


async def test_faults_come_in_order_as_often_as_they_say_and_can_be_seen_and_cleared() -> None:
    async with tenant() as client:
        faults = [{"status": 500, "times": 2, "after": 1}, {"status": 404, "code": "Gone"}]
        assert await client.switch("/faults", {"users": faults}) == 204
        assert [(await client.ask(USERS))[0] for _ in range(5)] == [200, 500, 500, 404, 200]
        await client.switch("/faults", {"users": [{"kind": "repeat"}]})
        assert (await client.page("/faults"))["users"] == [{"kind": "repeat"}]
        ids = [row["id"] for row in (await client.page(f"{USERS}?$select=id"))["value"]]
        assert len(ids) == len(set(ids)) + 1
        assert await client.switch("/faults", {"users": [{"knd": "repeat"}]}) == 400


async def test_a_process_says_where_it_is_and_ends_with_its_leash() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "local.tenant", "--alumni", "30", "--others", "0", "--leash"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    url = json.loads(await process.stdout.readline())["url"]
    assert url.startswith("http://127.0.0.1:")
    async with aiohttp.ClientSession() as session:
        client = Client(url, session)
        assert len((await client.page(f"{USERS}?$top=999"))["value"]) == 30
    process.stdin.close()
    async with asyncio.timeout(5):
        assert await process.wait() == 0
