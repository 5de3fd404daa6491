"""A whole run of the local system leaves nobody's name, address or number where none belongs.

Mails and texts go out and come back as bounced, refused, reported or unanswered; people opt out and
report through their links; a message dies; a channel pauses. Then everything is searched for
everybody in the directory: the log, the tables, all that was ever on a queue, the names of blobs,
and the addresses that were asked for. And somebody is put into each of these places, to see that
they are found there. Metrics and spans do not pass by the log: what is exported of them is looked
through in tests/functions/test_telemetry_export.py.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from local.inbox import Inbox, Mail, SigningKey, read_messages, read_texts
from local.inbox import Options as InboxOptions
from local.parts import free_port
from local.roster import Person
from local.serving import running_application
from local.system import LocalSystem, Options, running_system
from local.tenant import Options as TenantOptions
from local.tenant import Tenant
from local.watch import Watcher
from shared.clock import write_clock_file
from shared.names import NAMES, poison_of
from shared.stores.table import Table, Write
from tests.attacks.traces import Everybody
from tests.nudge_process import until
from tests.own_task import in_a_task_of_its_own
from tests.world import EXAMPLE, FORTNIGHT, NAME

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALUMNI = 300
INSTITUTION = ("ithelp@hku.hk", "no-reply@its.hku.hk", "UID@connect.hku.hk")
SEED = "colleague@its.example.edu"
STRANGER = "Zaphodia Quellenhof"
"""Stands in a message that is none of ours."""

EDITS = (
    ("days_before: 14, message: reminder,  channels: [email]", "days_before: 14, "
     "message: reminder,  channels: [email, sms]"),
    ("  # look_for: {en: MFA", "  look_for: {en: MFA"),
    ("  # short_name: {en: HKU}", "  short_name: {en: HKU}"),
    ("  # seed_addresses: [ithelp@hku.hk]", f"  seed_addresses: [{SEED}]"),
    ("parcel_size: 500", "parcel_size: 5"),
)  # fmt: skip
"""The fortnight goes out in small parcels, and by SMS, too."""


@dataclass(frozen=True)
class Access:
    """One request that a service was sent."""

    line: str
    body: bytes


def note_requests(application: web.Application) -> list[Access]:
    """The requests that a service is sent from now on."""
    seen: list[Access] = []

    @web.middleware
    async def note(request: web.Request, handler: Any) -> web.StreamResponse:
        seen.append(Access(f"{request.method} {request.raw_path}", await request.read()))
        return await handler(request)

    application.middlewares.append(note)
    return seen


@dataclass(frozen=True)
class Run:
    """What a run has left behind, and in whose midst.

    Attributes:
        to_tenant, to_inbox: what the simulated services were asked.
        to_host: addresses that people and providers asked the app for.
    """

    system: LocalSystem
    directory: Path
    http: aiohttp.ClientSession
    tenant_url: str
    inbox_url: str
    people: list[Person]
    to_tenant: list[Access]
    to_inbox: list[Access]
    to_host: list[str]

    # where nobody is to be found

    async def places(self) -> dict[str, list[str | bytes]]:
        """Everything that is to be searched, by the place that it stands in."""
        mails = await read_messages(self.http, self.inbox_url, limit=100_000)
        return {
            "log": [self.system.log.read_text()],
            "ledger": await self.rows(NAMES.tables.ledger),
            "control": await self.rows(NAMES.tables.control),
            "queues": [self.messages_ever()],
            "blobs": await self.blobs(),
            "status": [await self.status()],
            "addresses of the tenant": [
                one.line for one in self.to_tenant if not LOOK_UP.match(one.line)
            ],
            "addresses of the inbox": [one.line for one in self.to_inbox],
            "addresses of the app": [*self.to_host, *self.callbacks()],
            "links": [link for mail in mails.messages for link in links_in(mail)],
        }

    def callbacks(self) -> list[str]:
        """Where Twilio is to tell what becomes of texts."""
        forms = [parse_qs(one.body.decode()) for one in self.to_inbox if "/Messages" in one.line]
        return [address for form in forms for address in form.get("StatusCallback", [])]

    async def rows(self, table: str) -> list[str | bytes]:
        """Every name and value of a table's rows."""
        found: list[str | bytes] = []
        async for row in self.system.app.account.table(table).list_entities():
            for name, value in row.items():
                found += [name, value if isinstance(value, bytes) else str(value)]
        return found

    def messages_ever(self) -> bytes:
        """All messages that were ever on a queue, those that died among them.

        Azurite writes them one behind the other into files of this directory, and deletes nothing
        of them within ten minutes. Each is base64, whose length is a multiple of four.
        """
        files = (self.directory / "storage" / "__queuestorage__").iterdir()
        written = b"".join(file.read_bytes() for file in files)
        fours = (written[place : place + 4] for place in range(0, len(written), 4))
        return b"".join(map(base64.b64decode, fours))

    async def blobs(self) -> list[str | bytes]:
        """The name and the metadata of every blob, and what the Functions host keeps in its own."""
        found: list[str | bytes] = []
        containers = (*msgspec.structs.astuple(NAMES.containers), "azure-webjobs-hosts")
        for container in map(self.system.app.account.container, containers):
            async for blob in container.list_blobs(include=["metadata"]):
                found += [blob.name, str(blob.metadata)]
                if container.container_name == "azure-webjobs-hosts":
                    found.append(await (await container.download_blob(blob.name)).readall())
        return found

    async def status(self) -> bytes:
        """What administrators are shown."""
        assert self.system.status_url
        async with self.http.get(self.system.status_url) as answer:
            return await answer.read()

    # where they may be

    async def contents(self, container: str) -> list[str | bytes]:
        client = self.system.app.account.container(container)
        return [
            await (await client.download_blob(blob.name)).readall()
            async for blob in client.list_blobs()
        ]

    # what happens

    async def ask(self, method: str, url: str, **request: Any) -> int:
        """Somebody opens an address of the app."""
        self.to_host.append(f"{method} {without_token(url)}")
        async with self.http.request(method, url, **request) as answer:
            await answer.read()
            return answer.status

    async def told(self) -> bool:
        """Whether the app knows of all messages what became of them."""
        async with self.http.get(f"{self.inbox_url}/told") as answer:
            told = await answer.json()
        return not any(one["waiting"] for one in told.values())

    async def quiet(self) -> bool:
        """Whether nothing lies on a queue any more, not even hidden."""
        names = [*msgspec.structs.astuple(NAMES.queues)]
        queues = [self.system.app.account.queue(one) for one in (*names, *map(poison_of, names))]
        counts = [await queue.get_queue_properties() for queue in queues]
        return not any(one.approximate_message_count for one in counts)


LOOK_UP = re.compile(r"GET /v1\.0/users\('[^']*'\)\?\$select=id$")
"""Graph is asked for an account by its name where that is all that we were told of it. It finds no
account otherwise, and it is Graph that knows them all."""


def links_in(mail: Mail) -> list[str]:
    """Every address of a page that a mail names."""
    found = re.findall(r"https?://[^\s\"'<>)]+", f"{mail.text} {mail.html} {mail.headers}")
    return list(map(without_token, found))


def without_token(link: str) -> str:
    """A token is encrypted, and as good as chance: any name may come about among its letters."""
    return re.sub(r"/(done|unsubscribe)/[\w-]{60,}", r"/\1/…", link)


# --- the run


def faults_about(somebody: Person) -> tuple[Any, Any]:
    """What goes wrong at the tenant and at the providers. Their answers repeat whom they are about,
    and much becomes of what was sent."""
    address, number = somebody.other_mails[0], somebody.mobile_phone
    words = f"Rejected: {somebody.display_name} <{address}>, {number}"
    tenant = {"members": [{"kind": "truncated"}], "registrations": [{"kind": "repeat"}]}
    mails = {
        "calls": [
            {"accept": True, "reset": True},
            {"status": 500, "body": words},
            {"status": 400, "body": {"errors": [{"message": words, "field": None}]}},
            {"status": 413, "body": f"<p>{words}</p>"},
        ],
        "refuse": {address.casefold(): "named"},
        "receipts": {
            **dict.fromkeys(("bounced", "bounced_later", "blocked", "dropped"), 0.04),
            # So many that each comes about among some forty mails.
            **dict.fromkeys(("deferred", "reported", "unsubscribed"), 0.12),
            "dropped_because": words,
            "twice": True,
        },
    }
    texts = {
        "calls": [
            {"status": 400, "body": {"code": 21211, "message": words, "status": 400}},
            {"accept": True, "reset": True},
            {"after": 20, "status": 401, "body": words, "times": None},
        ],
        "landlines": 0.1,
        "stopped": 0.1,
        "receipts": {
            "undelivered": {"30005": 0.2, "30004": 0.1, "30007": 0.1},
            "failed": {"21610": 0.1},
            "twice": True,
        },
    }
    return tenant, {**mails, "texts": texts}


async def press_links(run: Run) -> None:
    """Some opt out, one has registered and says so, one has not, and a link breaks on the way."""
    mails = (await read_messages(run.http, run.inbox_url, limit=100_000)).messages
    readers = {
        mail.to[0].email: mail
        for mail in mails
        if "/done/" in mail.text  # a colleague's has none
    }
    letters = [
        (one, readers[one.other_mails[0]])
        for one in run.people
        if one.other_mails and one.other_mails[0] in readers
    ]
    for _, mail in letters[:3]:
        url = link_in(mail, "unsubscribe")
        assert await run.ask("GET", url) == 200
        assert await run.ask("POST", url, data={"List-Unsubscribe": "One-Click"}) == 200
    registered = f"{run.tenant_url}/people/{letters[3][0].id}/register"
    async with run.http.post(registered) as answer:
        assert answer.status == 204
    for _, mail in letters[3:5]:
        assert await run.ask("POST", link_in(mail, "done")) == 200
    assert await run.ask("POST", link_in(letters[5][1], "done")[:-5]) == 404


def link_in(mail: Mail, purpose: str) -> str:
    """A mail's link for a purpose."""
    found = re.search(rf"http\S+/{purpose}/[\w-]+", mail.text)
    assert found
    return found[0]


async def report_completion(run: Run, account: str) -> None:
    """The institution's own system knows people by their accounts' names."""
    assert run.system.status_url
    status = urlsplit(run.system.status_url)
    told = {
        "user_principal_name": account,
        "completed_at": FORTNIGHT.isoformat(),
        "source": "card-office",
        "event_id": f"card of {account}",
    }
    url = f"http://{status.netloc}/callbacks/completions"
    headers = {"x-functions-key": parse_qs(status.query)["code"][0]}
    assert await run.ask("POST", url, json=told, headers=headers) == 200


async def put_strange_messages(run: Run) -> None:
    """Messages that are none of ours, on every queue."""
    body = msgspec.json.encode({"campaign": NAME, STRANGER: STRANGER})
    for queue in msgspec.structs.astuple(NAMES.queues):
        await run.system.app.account.queue(queue).send_message(body)


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncGenerator[Run]:
    clock_file, campaign, port = directory / "clock.json", directory / "by-sms.yaml", free_port()
    write_clock_file(clock_file, FORTNIGHT)
    text = EXAMPLE.read_text()
    for old, new in EDITS:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    campaign.write_text(text)
    key, events_url = SigningKey(), f"http://127.0.0.1:{port}/callbacks/sendgrid"
    tenant = Tenant(TenantOptions(alumni=ALUMNI, others=0, throttled=False, clock_file=clock_file))
    inbox = Inbox(InboxOptions(clock_file=clock_file, signing_key=key, events_url=events_url))
    tenant_app, inbox_app = tenant.application(), inbox.application()
    to_tenant, to_inbox = note_requests(tenant_app), note_requests(inbox_app)
    people = [tenant.roster.person(number) for number in range(ALUMNI)]
    options = Options(
        campaign=campaign, alumni=ALUMNI, others=0, at=FORTNIGHT, keep=directory, port=port
    )
    async with (
        running_application(tenant_app) as tenant_url,
        running_application(inbox_app) as inbox_url,
        aiohttp.ClientSession() as http,
    ):
        somebody = next(one for one in people if one.other_mails and one.mobile_phone)
        for url, faults in zip((tenant_url, inbox_url), faults_about(somebody), strict=True):
            async with http.post(f"{url}/faults", json=faults) as answer:
                assert answer.status < 300, await answer.text()
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("GRAPH_BASE_URL", f"{tenant_url}/v1.0")
            environment.setenv("SENDGRID_BASE_URL", inbox_url)
            environment.setenv("TWILIO_BASE_URL", inbox_url)
            environment.setenv("SENDGRID_WEBHOOK_PUBLIC_KEY", key.public)
            # A refusal that may meet a parcel of one is tried again after 12 s, and not 60.
            environment.setenv("AGES_SCALE", "0.2")
            async with running_system(options) as system:
                run = Run(
                    *(system, directory, http, tenant_url, inbox_url),
                    *(people, to_tenant, to_inbox, []),
                )
                watcher = Watcher(system, system.campaign, system.sweep)
                async with asyncio.timeout(120):
                    ended = await watcher.until_settled(lambda _: None)
                assert "TWILIO_AUTH_TOKEN" in (ended or ""), "no more texts are sent"
                await press_links(run)
                await report_completion(run, people[3].user_principal_name)
                await put_strange_messages(run)
                await until(run.told)
                await until(run.quiet)
                yield run


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Run]:
    async with in_a_task_of_its_own(running(tmp_path_factory.mktemp("run"))) as run:
        yield run


@pytest.fixture(scope="module")
def everybody(run: Run) -> Everybody:
    return Everybody(run.people, known=INSTITUTION)


async def find_in(run: Run, everybody: Everybody) -> dict[str, set[str]]:
    """Who is found where nobody should be."""
    places = await run.places()
    found = {
        place: {one for text in texts for one in everybody.find(text)}
        for place, texts in places.items()
    }
    return {place: traces for place, traces in found.items() if traces}


# --- nobody is found


async def test_all_of_it_has_happened(run: Run) -> None:
    """What the search would miss if it had not."""
    log = run.system.log.read_text()
    for event in (
        *("ALARM channel_paused", "ALARM mail_dropped", "ALARM poison", "call_ambiguous"),
        *("parcel_refused", '"bad_address":', '"opted_out":', "opted_out {", "completions {"),
        *('done_link {"campaign":"hku-alumni-2027","outcome":"confirmed"', '"not registered"'),
    ):
        assert event in log, event
    ledger = {str(text) for text in await run.rows(NAMES.tables.ledger)}
    assert {"no_email_at", "no_sms_at", "opted_out_at", "confirmed_at"} <= ledger
    assert {"accepted", "ambiguous", "closed", "planned"} <= ledger
    assert any(name.startswith("bad_") for name in ledger)
    messages = run.messages_ever()
    for field in (b'"source":', b'"shard":', b'"outbox":', b'"channel":"sms"', b'"parcels":'):
        assert messages.count(field) > 1
    # Once where it was put, and once where it died.
    assert messages.count(STRANGER.encode()) == 4 * len(msgspec.structs.astuple(NAMES.queues))
    assert sum(bool(LOOK_UP.match(one.line)) for one in run.to_tenant) == 1
    assert len(run.callbacks()) > 15


async def test_everybody_is_known_who_was_written_to(run: Run, everybody: Everybody) -> None:
    """The search finds them where they are to be: in pages and outboxes, and as whom mails and
    texts came to."""
    for container in (NAMES.containers.pages, NAMES.containers.outbox):
        contents = await run.contents(container)
        assert len(set[str]().union(*map(everybody.find, contents))) > 200
    mails = (await read_messages(run.http, run.inbox_url, limit=100_000)).messages
    texts = (await read_texts(run.http, run.inbox_url, limit=100_000)).texts
    written_to = {mail.to[0].email for mail in mails} | {text.to for text in texts}
    assert len(written_to) > 30
    assert [one for one in written_to if not everybody.find(one)] == []
    named = [one for one in run.people if everybody.find(one.display_name)]
    assert len(named) > 0.9 * len(run.people)


@pytest.mark.invariant(6)
async def test_nobody_is_found_where_nobody_should_be(run: Run, everybody: Everybody) -> None:
    assert await find_in(run, everybody) == {}


@pytest.mark.invariant(6)
async def test_nothing_of_a_strange_message_is_repeated(run: Run) -> None:
    places = await run.places()
    del places["queues"]
    for place, texts in places.items():
        assert not any(STRANGER.split()[0] in str(text) for text in texts), place


# --- somebody who is there is found

type Plant = Callable[[Run, str], Awaitable[None]]


async def into_log(run: Run, text: str) -> None:
    with run.system.log.open("a") as log:
        log.write(f'INFO mfa_nudge: receipts {{"email": {text!r}}}\n')


async def _into_table(run: Run, name: str, key: str = "planted", **values: Any) -> None:
    table = Table(run.system.app.account.table(name))
    await table.write(Write("put", {"PartitionKey": "planted", "RowKey": key, **values}))


async def into_ledger(run: Run, text: str) -> None:
    await _into_table(run, NAMES.tables.ledger, reason=text)


async def into_bytes(run: Run, text: str) -> None:
    await _into_table(run, NAMES.tables.ledger, "bytes", ids=bytes(range(256)) + text.encode())


async def into_hash(run: Run, text: str) -> None:
    await _into_table(run, NAMES.tables.ledger, "hash", **{f"bad_{text.encode().hex()}": True})


async def into_key(run: Run, text: str) -> None:
    await _into_table(run, NAMES.tables.ledger, key=f"person|{text}")


async def into_control(run: Run, text: str) -> None:
    await _into_table(run, NAMES.tables.control, reason=text)


async def into_status(run: Run, text: str) -> None:
    await run.system.app.operations.pause(NAME, text, "registrar")


async def into_message(run: Run, text: str) -> None:
    body = msgspec.json.encode({"sweep": 1, "source": text, "run": 1})
    await run.system.app.account.queue(NAMES.queues.sweep).send_message(body)


async def into_receipts(run: Run, text: str) -> None:
    body = msgspec.json.encode({"campaign": NAME, "bounced": [[0, text.encode()]]})
    await run.system.app.account.queue(NAMES.queues.receipts).send_message(body)


async def into_poison(run: Run, text: str) -> None:
    body = quote(text).encode()
    await run.system.app.account.queue(poison_of(NAMES.queues.plan)).send_message(body)


async def into_blob_name(run: Run, text: str) -> None:
    outbox = run.system.app.account.container(NAMES.containers.outbox)
    await outbox.upload_blob(f"{NAME}/a/{text}", b"")


async def into_metadata(run: Run, text: str) -> None:
    pages = run.system.app.account.container(NAMES.containers.pages)
    await pages.upload_blob("planted", b"", metadata={"rows": text})


async def _visit(run: Run, url: str, **request: Any) -> None:
    method = "POST" if request else "GET"
    async with run.http.request(method, url, **request) as answer:
        await answer.read()


async def into_tenant(run: Run, text: str) -> None:
    await _visit(run, f"{run.tenant_url}/v1.0/users?$filter={quote(text)}")


async def into_inbox(run: Run, text: str) -> None:
    await _visit(run, f"{run.inbox_url}/messages?to={quote(text)}")


async def into_app(run: Run, text: str) -> None:
    assert run.system.status_url
    await run.ask("GET", f"{run.system.status_url.partition('/status')[0]}/done/{quote(text)}")


async def into_callback(run: Run, text: str) -> None:
    callback = f"https://mfa.its.hku.hk/callbacks/twilio?{urlencode({'to': text})}"
    form = {"To": "+85251234567", "From": "HKU", "Body": "x", "StatusCallback": callback}
    url = f"{run.inbox_url}/2010-04-01/Accounts/AC0/Messages.json"
    login = base64.b64encode(b"AC0:x").decode()
    await _visit(run, url, data=form, headers={"Authorization": f"Basic {login}"})


async def into_link(run: Run, text: str) -> None:
    call = {
        "personalizations": [{"to": [{"email": "planted@example.org"}]}],
        "from": {"email": INSTITUTION[1]},
        "subject": "x",
        "content": [{"type": "text/plain", "value": f"https://its.hku.hk/done/{quote(text)}"}],
    }
    url = f"{run.inbox_url}/v3/mail/send"
    await _visit(run, url, json=call, headers={"Authorization": "Bearer x"})


PLANTS: Mapping[str, tuple[str, Plant]] = {
    "a line of the log": ("log", into_log),
    "a value of a row": ("ledger", into_ledger),
    "among the bytes of a row": ("ledger", into_bytes),
    "in the place of a hash": ("ledger", into_hash),
    "the key of a row": ("ledger", into_key),
    "a value of a control row": ("control", into_control),
    "why an administrator paused it": ("status", into_status),
    "a message": ("queues", into_message),
    "in the place of a hash of a message": ("queues", into_receipts),
    "a message that died": ("queues", into_poison),
    "the name of a blob": ("blobs", into_blob_name),
    "the metadata of a blob": ("blobs", into_metadata),
    "what the tenant is asked": ("addresses of the tenant", into_tenant),
    "what a provider is asked": ("addresses of the inbox", into_inbox),
    "what the app is asked": ("addresses of the app", into_app),
    "where Twilio tells of a text": ("addresses of the app", into_callback),
    "a link in a mail": ("links", into_link),
}


def nameable(people: Iterable[Person]) -> list[Person]:
    """People with a name, an address and a number that nobody else of them has."""
    found: dict[str, Person] = {}
    numbers: set[str] = set()
    for one in people:
        surname, number = one.surname or "", one.mobile_phone or ""
        plain = len(surname) > 4 and surname.isalpha() and surname.isascii()
        if plain and surname in one.display_name and one.other_mails and number not in numbers:
            found.setdefault(surname, one)
            numbers.add(number)
    return [one for one in found.values() if one.mobile_phone]


def traces_of(person: Person) -> set[str]:
    return {
        (person.surname or "").casefold(),
        person.other_mails[0].casefold(),
        person.user_principal_name.casefold(),
        re.sub(r"\D", "", person.mobile_phone or ""),
    }


@pytest.mark.invariant(6)
async def test_whoever_is_put_there_is_found(run: Run, everybody: Everybody) -> None:
    """By name, address, account and number: somebody else in each of the ways. The last test of
    this run."""
    before = await find_in(run, everybody)
    put = dict(zip(PLANTS, nameable(run.people), strict=False))
    assert put.keys() == PLANTS.keys()
    for way, person in put.items():
        contacts = f"{person.other_mails[0]} {person.user_principal_name} {person.mobile_phone}"
        await PLANTS[way][1](run, f"{person.display_name} {contacts}")
    after = await find_in(run, everybody)
    fresh = {place: traces - before.get(place, set()) for place, traces in after.items()}
    overlooked = {
        way: traces_of(person) - fresh.get(PLANTS[way][0], set()) for way, person in put.items()
    }
    assert {way: traces for way, traces in overlooked.items() if traces} == {}
