"""Microsoft Graph: the registration report and the rosters a page at a time, and single accounts.

msgraph-sdk builds, authenticates and sends each request; its retries and redirects are off, since a
page that fails is the queue's to retry, and a single account is waited for. Bodies are taken raw
and decoded by msgspec, which is some hundreds of times faster than the SDK's typed models.
Importing this module imports neither msgraph nor azure-identity: they cost a second, and most
functions never ask.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import uuid
from asyncio import AbstractEventLoop
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar, Literal, cast, overload
from urllib.parse import parse_qsl, unquote, urlsplit
from weakref import WeakKeyDictionary

import msgspec

from shared.clock import monotonic
from shared.errors import NudgeError, RetryLater, SetupFault, SkipTokenExpired
from shared.rules.registration import (
    Account,
    DoneWhen,
    Registration,
    ReportRow,
    decide_methods,
    decide_registration,
    pack_registration,
)
from shared.telemetry import note_refusal

if TYPE_CHECKING:
    import httpx
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.core.exceptions import AzureError
    from kiota_abstractions.authentication import AuthenticationProvider
    from kiota_abstractions.request_information import RequestInformation
    from msgraph.graph_service_client import GraphServiceClient

type Auth = Literal["managed", "default", "anonymous"]
type Confirm = Literal["methods", "report"]
"""How one account is asked for: by its methods, live, or by its row of the report, hours old."""


class SignInFault(SetupFault):
    """Somebody's own sign-in is missing, or not enough for what was asked."""


REQUEST_SECONDS = 60.0

LOOKUP_SECONDS = 8.0
"""The most that a question about one account takes: somebody waits for the answer."""

_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 30.0  # the report is paced at one request in two seconds: keep its connection
_LONGEST_WAIT = 86_400  # a Retry-After above a day is a mistake of theirs
_PAGE_SIZE = 999  # Graph's maximum for users and members

ROSTER_FIELDS = (
    "id",
    "userPrincipalName",
    "displayName",
    "accountEnabled",
    "userType",
    "mail",
    "otherMails",
    "mobilePhone",
    "preferredLanguage",
)


class RegistrationReport(msgspec.Struct, frozen=True, tag="registrations"):
    """Every row of `userRegistrationDetails`."""

    permissions: ClassVar[str] = "AuditLog.Read.All"
    role: ClassVar[str] = "Reports Reader, Security Reader or Global Reader"

    @property
    def name(self) -> str:
        return "registrations"

    def __str__(self) -> str:
        return "the registration report"


class GroupMembers(msgspec.Struct, frozen=True, tag="group"):
    """The users in a group and in the groups within it. `group` is its object id."""

    group: str

    permissions: ClassVar[str] = "GroupMember.Read.All and User.Read.All"
    role: ClassVar[str] = "Directory Readers or Global Reader"

    @property
    def name(self) -> str:
        return f"group-{self.group.lower()}"

    def __str__(self) -> str:
        return f"the members of group {self.group}"


class FilteredUsers(msgspec.Struct, frozen=True, tag="filter"):
    """The users for whom an OData `$filter` holds."""

    filter: str

    permissions: ClassVar[str] = "User.Read.All"
    role: ClassVar[str] = "Directory Readers or Global Reader"

    @property
    def name(self) -> str:
        return f"filter-{hashlib.sha256(self.filter.encode()).hexdigest()[:16]}"

    def __str__(self) -> str:
        # Not the filter itself: it may name somebody.
        return "the users of audience.filter"


type Roster = GroupMembers | FilteredUsers
type Source = RegistrationReport | Roster
"""What one pass reads. `name` is the pass's name, fit for a blob path; `str()` is for messages;
`permissions` are those that Graph asks for, of the app or of the one that somebody signs in
through; whoever signs in needs one of the roles in `role`, too."""


class _Lookup(msgspec.Struct, frozen=True):
    """A question about accounts that is no pass. `what` is for messages: it names no account."""

    what: str
    permissions: str
    role: str

    def __str__(self) -> str:
        return self.what


_FIND_USER = _Lookup("one user", FilteredUsers.permissions, FilteredUsers.role)
_COUNT = _Lookup("the number of users", FilteredUsers.permissions, FilteredUsers.role)
_METHODS = _Lookup(
    "the methods of one user",
    "UserAuthenticationMethod.Read.All",
    "Authentication Administrator or Global Reader",
)
_REPORT_ROW = _Lookup(
    "the registration report's row of one user",
    RegistrationReport.permissions,
    RegistrationReport.role,
)


class ReportPage(msgspec.Struct, frozen=True):
    """One answer of the registration report.

    Attributes:
        rows: object id (16 bytes) and registration, see `pack_registration`. May be empty although
            pages follow, and may repeat what an earlier page had.
        next_link: where the next page is; None on the last one.
        unreadable: rows that were dropped: without a valid id, or of another shape.
    """

    rows: list[tuple[bytes, int]]
    next_link: str | None
    unreadable: int = 0


class RosterPage(msgspec.Struct, frozen=True):
    """One answer of a roster. As `ReportPage`, and:

    Attributes:
        with_contact: rows with an address or a number in at least one field. None in a whole roster
            means that User.Read.All is missing: Graph then leaves the fields empty without a word.
    """

    rows: list[Account]
    next_link: str | None
    unreadable: int = 0
    with_contact: int = 0


class _UserRow(msgspec.Struct, rename="camel", gc=False):
    id: str | None = None
    user_principal_name: str | None = None
    display_name: str | None = None
    account_enabled: bool | None = None
    user_type: str | None = None
    mail: str | None = None
    other_mails: tuple[str, ...] | None = None
    mobile_phone: str | None = None
    preferred_language: str | None = None


class _Identified(msgspec.Struct):
    id: str


class _Counted(msgspec.Struct):
    count: int = msgspec.field(name="@odata.count")


class _Method(msgspec.Struct):
    type: str = msgspec.field(default="", name="@odata.type")


class _Body[Row](msgspec.Struct):
    value: list[Row]
    next_link: str | None = msgspec.field(default=None, name="@odata.nextLink")


class _Decoders[Row]:
    """The shape of a source's pages: whole, and row by row for the page where one row is odd."""

    def __init__(self, row: type[Row], body: type[_Body[Row]]) -> None:
        self._page = msgspec.json.Decoder(body)
        self._raw_page = msgspec.json.Decoder(_Body[msgspec.Raw])
        self._row = msgspec.json.Decoder(row)

    def decode(self, body: bytes) -> tuple[list[Row], str | None, int]:
        """Rows, next link, and how many rows were of another shape.

        Raises msgspec.DecodeError (ValidationError where it is JSON, but not a page) or
        UnicodeDecodeError.
        """
        try:
            page = self._page.decode(body)
        except msgspec.ValidationError:
            return self._decode_rows(body)
        return page.value, page.next_link or None, 0

    def _decode_rows(self, body: bytes) -> tuple[list[Row], str | None, int]:
        page = self._raw_page.decode(body)
        rows: list[Row] = []
        for raw in page.value:
            try:
                rows.append(self._row.decode(raw))
            except msgspec.ValidationError:
                continue
        return rows, page.next_link or None, len(page.value) - len(rows)


_REPORT = _Decoders(ReportRow, _Body[ReportRow])
_ROSTER = _Decoders(_UserRow, _Body[_UserRow])


def _object_id(text: str | None) -> bytes | None:
    """The 16 bytes of a GUID in either case, or None where it is none. Faster than uuid.UUID."""
    try:
        id16 = bytes.fromhex(text.replace("-", "")) if text else b""
    except ValueError:
        return None
    return id16 if len(id16) == 16 else None


_ROW = msgspec.json.Decoder(ReportRow)
_METHOD_LIST = msgspec.json.Decoder(_Body[_Method])
_USER = msgspec.json.Decoder(_Identified)
_TOTAL = msgspec.json.Decoder(_Counted)


def _find_id(body: bytes) -> bytes:
    if id16 := _object_id(_USER.decode(body).id):
        return id16
    raise msgspec.ValidationError("no object id")


def _report_page(body: bytes) -> ReportPage:
    found, next_link, unreadable = _REPORT.decode(body)
    rows = [(id16, pack_registration(row)) for row in found if (id16 := _object_id(row.id))]
    return ReportPage(rows, next_link, unreadable + len(found) - len(rows))


def _roster_page(body: bytes) -> RosterPage:
    found, next_link, unreadable = _ROSTER.decode(body)
    rows: list[Account] = []
    with_contact = 0
    for row in found:
        if not (id16 := _object_id(row.id)):
            unreadable += 1
            continue
        other_mails = row.other_mails or ()
        if row.mail or row.mobile_phone or any(other_mails):
            with_contact += 1
        rows.append(
            Account(
                id16,
                row.user_principal_name or "",
                row.display_name or "",
                row.account_enabled,
                row.user_type or "",
                row.mail or None,
                other_mails,
                row.mobile_phone or None,
                row.preferred_language or None,
            )
        )
    return RosterPage(rows, next_link, unreadable, with_contact)


class _Connection(msgspec.Struct, frozen=True):
    """What belongs to one event loop."""

    graph: GraphServiceClient
    http: httpx.AsyncClient
    credential: AsyncTokenCredential | None


def choose_source(confirm: Confirm, done_when: DoneWhen) -> Confirm:
    """Where an account is looked up: methods cannot tell what policy lets a person use, so that
    with `done_when` "capable" it is the report, whatever GRAPH_CONFIRM says."""
    return "report" if done_when == "capable" else confirm


class Allowance:
    """How often something may be asked: `burst` times at once, then once in `seconds`.

    Graph answers 5 requests for the report in 10 s, whoever sends them: the sweep needs them all,
    and people who press a button must not be able to starve it.
    """

    def __init__(self, burst: int = 5, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._most = burst * seconds
        self._saved = self._most
        self._seen_at = monotonic()

    def take(self) -> float:
        """0 where it may be asked now, which is noted; else the seconds until then."""
        now = monotonic()
        self._saved = min(self._most, self._saved + now - self._seen_at)
        self._seen_at = now
        if self._saved < self._seconds:
            return self._seconds - self._saved
        self._saved -= self._seconds
        return 0.0


class Directory:
    """Reads from one tenant. Connects at the first question, once for each event loop.

    Args:
        base_url: such as `https://graph.microsoft.com/v1.0`.
        auth: `managed` (identity of the app), `default` (the administrator's own sign-in) or
            `anonymous` (no token; only where `base_url` is a loopback address).
        client_id: which managed identity; None for the app's only one.
        credential: with `default`, a sign-in in place of those that azure-identity finds here.
        timeout: seconds from asking for a token to the last byte of a page.
        lookup_timeout: the same for a question about one account.

        row_questions: how many questions about one row of the report may be asked.

    Raises:
        SetupFault: the two settings don't go together.
    """

    def __init__(
        self,
        base_url: str,
        auth: Auth,
        client_id: str | None = None,
        *,
        credential: AsyncTokenCredential | None = None,
        timeout: float = REQUEST_SECONDS,
        lookup_timeout: float = LOOKUP_SECONDS,
        row_questions: Allowance | None = None,
    ) -> None:
        _check_settings(base_url, auth)
        self._timeout = timeout
        self._lookup_timeout = lookup_timeout
        self._row_questions = row_questions or Allowance()
        self._base_url = base_url.rstrip("/")
        self._auth: Auth = auth
        self._client_id = client_id
        self._credential = credential
        self._connections: WeakKeyDictionary[AbstractEventLoop, _Connection] = WeakKeyDictionary()

    @overload
    async def read_page(
        self, source: RegistrationReport, link: str | None = None
    ) -> ReportPage: ...
    @overload
    async def read_page(self, source: Roster, link: str | None = None) -> RosterPage: ...
    @overload
    async def read_page(
        self, source: Source, link: str | None = None
    ) -> ReportPage | RosterPage: ...

    async def read_page(self, source: Source, link: str | None = None) -> ReportPage | RosterPage:
        """The first page of `source`, or the one that `link` (a `next_link` of it) leads to.

        Raises:
            RetryLater: throttled, unwell, unreachable, or an answer that isn't Graph's.
            SkipTokenExpired: `link` is no longer known; start the pass again.
            SetupFault: a permission, a licence or the campaign file; the message names the fix.
        """
        connection = self._connect()
        request = _first_request(connection.graph, source)
        if link is not None:
            self._check_link(link)
            request.url = _complete(link, request.url)
        answer = await self._send(connection, request, self._timeout)
        if answer.status_code != 200:
            raise _fault(source, answer, self._auth, on_link=link is not None)
        page = _decode(
            source, answer, _report_page if isinstance(source, RegistrationReport) else _roster_page
        )
        if page.next_link is not None:
            self._check_link(page.next_link)
            if page.next_link == link:
                raise SkipTokenExpired("Graph's next page leads back to itself.")
        return page

    async def confirm(
        self, person: bytes, how: Confirm, done_when: DoneWhen
    ) -> Registration | None:
        """What the directory says now of one account; None where there is no such account.

        An account that the report lacks is `UNKNOWN`.

        Args:
            person: the object id, 16 bytes.
            how: where to look, but see `choose_source`.

        Raises RetryLater and SetupFault, as `read_page` does; RetryLater also where the report has
        been asked as often as the sweep can spare.
        """
        object_id = str(uuid.UUID(bytes=person))
        connection = self._connect()
        if choose_source(how, done_when) == "report":
            if (wait := self._row_questions.take()) > 0:
                raise RetryLater("The report's requests are kept for the sweep.", wait)
            report = connection.graph.reports.authentication_methods.user_registration_details
            one_row = report.by_user_registration_details_id(object_id)
            request = one_row.to_get_request_information()
            row = await self._look_up(connection, _REPORT_ROW, request, _ROW.decode)
            return decide_registration(row, done_when)
        methods = connection.graph.users.by_user_id(object_id).authentication.methods
        request = methods.to_get_request_information()
        found = await self._look_up(connection, _METHODS, request, _METHOD_LIST.decode)
        if found is None:
            return None
        return decide_methods(method.type for method in found.value)

    async def find_user(self, key: str) -> bytes | None:
        """The object id (16 bytes) of the user with this object id or user principal name; None
        where there is none.

        Raises RetryLater and SetupFault, as `read_page` does; neither names the key.
        """
        from kiota_abstractions.base_request_configuration import RequestConfiguration
        from msgraph.generated.users.item.user_item_request_builder import UserItemRequestBuilder

        connection = self._connect()
        query = UserItemRequestBuilder.UserItemRequestBuilderGetQueryParameters(select=["id"])
        # As an OData string, with its quotes doubled: as a plain path segment Graph refuses names
        # that begin with `$` (Graph: Get user).
        user = connection.graph.users.by_user_id(key.replace("'", "''"))
        request = user.to_get_request_information(RequestConfiguration(query_parameters=query))
        template = request.url_template or ""
        request.url_template = template.replace("/{user%2Did}", "('{user%2Did}')")
        return await self._look_up(connection, _FIND_USER, request, _find_id)

    async def count_users(self) -> int:
        """How many accounts the tenant has, of every kind. Raises as `read_page` does."""
        from kiota_abstractions.base_request_configuration import RequestConfiguration

        connection = self._connect()
        users = connection.graph.users
        query = users.UsersRequestBuilderGetQueryParameters(count=True, top=1, select=["id"])
        request = users.to_get_request_information(RequestConfiguration(query_parameters=query))
        request.headers.add("ConsistencyLevel", "eventual")
        counted = await self._look_up(connection, _COUNT, request, _TOTAL.decode)
        return counted.count if counted else 0

    async def close(self) -> None:
        """Close what the running event loop opened. The next question connects again."""
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.http.aclose()
            if connection.credential is not None:
                await connection.credential.close()

    def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None:
            connection = self._connections[loop] = self._open()
        return connection

    def _open(self) -> _Connection:
        import httpx
        from kiota_http.kiota_client_factory import KiotaClientFactory
        from kiota_http.middleware import ParametersNameDecodingHandler
        from kiota_http.observability_options import ObservabilityOptions
        from msgraph.graph_request_adapter import GraphRequestAdapter
        from msgraph.graph_service_client import GraphServiceClient

        # Both write whole URLs into the log, and a filter or a skip token may name somebody.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)

        http = httpx.AsyncClient(
            headers={"User-Agent": "mfa-nudge"},
            timeout=httpx.Timeout(self._timeout, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=_IDLE_SECONDS),
            follow_redirects=False,
            # A proxy of the environment is for the way out, not for a loopback address.
            trust_env=self._base_url.startswith("https:"),
        )
        # The one handler of the SDK that we use writes `$count` instead of `%24count`. Those that
        # retry, redirect and rewrite are left out.
        http = KiotaClientFactory.create_with_custom_middleware(
            [ParametersNameDecodingHandler()], http
        )
        credential, provider = self._authentication()
        adapter = GraphRequestAdapter(provider, http)
        adapter.base_url = self._base_url
        adapter.observability_options = ObservabilityOptions(include_euii_attributes=False)
        return _Connection(GraphServiceClient(request_adapter=adapter), http, credential)

    def _authentication(self) -> tuple[AsyncTokenCredential | None, AuthenticationProvider]:
        if self._auth == "anonymous":
            from kiota_abstractions.authentication import AnonymousAuthenticationProvider

            return None, AnonymousAuthenticationProvider()

        from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential
        from kiota_authentication_azure.azure_identity_authentication_provider import (
            AzureIdentityAuthenticationProvider,
        )

        if self._auth == "managed":
            credential = ManagedIdentityCredential(client_id=self._client_id)
        else:
            credential = self._credential or DefaultAzureCredential()
        # Without scopes of ours the token is asked for the host of the request, so that it would
        # be of no use anywhere else; and no other host is given one.
        host = urlsplit(self._base_url).hostname or ""
        return credential, AzureIdentityAuthenticationProvider(credential, allowed_hosts=[host])

    def _check_link(self, link: str) -> None:
        """Refuse a link that leads out of the configured scheme, host, port and path.

        httpx parses it here because httpx sends it later: two parsers could disagree.
        """
        import httpx

        base = httpx.URL(self._base_url)
        try:
            url = httpx.URL(link)
        except httpx.InvalidURL:
            raise _foreign_link("is no URL") from None
        origin = (url.scheme, url.host, url.port)
        if origin != (base.scheme, base.host, base.port) or url.userinfo:
            raise _foreign_link(f"leads to {url.scheme}://{url.host[:100]}")
        if not url.path.startswith(f"{base.path.rstrip('/')}/") or ".." in url.path.split("/"):
            raise _foreign_link("leads out of that address's path")

    async def _look_up[Found](
        self,
        connection: _Connection,
        lookup: _Lookup,
        request: RequestInformation,
        read: Callable[[bytes], Found],
    ) -> Found | None:
        """What `read` makes of the answer, or None where Graph says that there is no such thing."""
        answer = await self._send(connection, request, self._lookup_timeout)
        if answer.status_code == 200:
            return _decode(lookup, answer, read)
        if _is_absent(lookup, answer):
            return None
        raise _fault(lookup, answer, self._auth, on_link=False)

    async def _send(
        self, connection: _Connection, request: RequestInformation, timeout: float
    ) -> httpx.Response:
        import httpx
        from azure.core.exceptions import AzureError
        from kiota_abstractions.native_response_handler import NativeResponseHandler
        from kiota_http.middleware.options import ResponseHandlerOption

        # The SDK would decode errors into its typed models, and hand a redirect's body out as if it
        # were the answer.
        request.add_request_options([ResponseHandlerOption(NativeResponseHandler())])
        try:
            async with asyncio.timeout(timeout):
                answer: object = await connection.graph.request_adapter.send_primitive_async(
                    request, "bytes", {}
                )
        except (TimeoutError, httpx.TimeoutException) as error:
            raise RetryLater(f"Graph did not answer in time ({type(error).__name__}).") from error
        except httpx.HTTPError as error:
            raise RetryLater(f"The connection to Graph failed ({type(error).__name__}).") from error
        except AzureError as error:
            # Its text may quote what the identity service answered.
            raise self._credential_fault(error) from None
        response = cast("httpx.Response", answer)
        note_refusal("Graph", response.status_code)
        return response

    def _credential_fault(self, error: AzureError) -> NudgeError:
        from azure.core.exceptions import ClientAuthenticationError

        seen = f"No token for Graph could be had ({type(error).__name__})."
        status = getattr(error, "status_code", None) or 400
        if isinstance(error, ClientAuthenticationError) and status < 500 and status != 429:
            if self._auth == "default":
                return SignInFault(
                    seen, "Sign in with `az login`, to the tenant whose directory is to be read."
                )
            return SetupFault(
                seen,
                "Give the app its managed identity and name it in AzureWebJobsStorage__clientId.",
            )
        return RetryLater(seen)


def _check_settings(base_url: str, auth: Auth) -> None:
    # What an address may consist of, whole: no sign-in, no query, no fragment.
    if not (
        base := re.fullmatch(r"(https?)://(\[[0-9a-f:.]+\]|[\w.-]+)(:\d+)?(/[^?#]*)?", base_url)
    ):
        raise SetupFault(
            "GRAPH_BASE_URL is no base address.", "Write it like https://graph.microsoft.com/v1.0."
        )
    scheme, host = base[1], base[2].strip("[]")
    if auth == "anonymous" and not _is_loopback(host):
        raise SetupFault(
            "GRAPH_AUTH is anonymous, and GRAPH_BASE_URL is not a loopback address.",
            "Set GRAPH_AUTH to managed.",
        )
    if auth != "anonymous" and scheme != "https":
        raise SetupFault(
            f"GRAPH_AUTH is {auth}, and GRAPH_BASE_URL would carry the token unencrypted.",
            "Use an https address, or GRAPH_AUTH=anonymous for a loopback one.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _first_request(graph: GraphServiceClient, source: Source) -> RequestInformation:
    from kiota_abstractions.base_request_configuration import RequestConfiguration

    match source:
        case RegistrationReport():
            # Documented without $top; Graph then gives 1,000 rows a page.
            report = graph.reports.authentication_methods.user_registration_details
            return report.to_get_request_information()
        case GroupMembers(group):
            members = graph.groups.by_group_id(group).transitive_members.graph_user
            members_query = members.GraphUserRequestBuilderGetQueryParameters(
                count=True, top=_PAGE_SIZE, select=list(ROSTER_FIELDS)
            )
            request = members.to_get_request_information(
                RequestConfiguration(query_parameters=members_query)
            )
            # The SDK shortens the type to `graph.user`. This is how Graph's reference spells it.
            template = request.url_template or ""
            request.url_template = template.replace("/graph.user", "/microsoft.graph.user")
        case FilteredUsers(user_filter):
            users = graph.users
            users_query = users.UsersRequestBuilderGetQueryParameters(
                count=True, top=_PAGE_SIZE, select=list(ROSTER_FIELDS), filter=user_filter
            )
            request = users.to_get_request_information(
                RequestConfiguration(query_parameters=users_query)
            )
    # The cast and most filters are answered only with this header and `$count`, on every page.
    request.headers.add("ConsistencyLevel", "eventual")
    return request


def _complete(link: str, first: str) -> str:
    """`link` with those parameters of the first page that it doesn't carry.

    Graph's own links carry them all, and stay as they are. One that lost `$count` would be refused
    for the cast, and one that lost `$select` would give rows without contact fields.
    """
    link = link.partition("#")[0]
    query = parse_qsl(urlsplit(link).query, keep_blank_values=True)
    carried = {name.lower() for name, _ in query}
    missing = [
        part
        for part in urlsplit(first).query.split("&")
        if part and unquote(part.partition("=")[0]).lower() not in carried
    ]
    if not missing:
        return link
    return f"{link}{'&' if '?' in link else '?'}{'&'.join(missing)}"


def _decode[Found](
    asked: Source | _Lookup, answer: httpx.Response, read: Callable[[bytes], Found]
) -> Found:
    body = answer.content
    try:
        return read(body)
    except msgspec.ValidationError:
        what = "is JSON, but not what was asked for"
    except (msgspec.DecodeError, UnicodeDecodeError):
        what = "is not JSON, or breaks off"
    # Not chained: a decoder's error may hold the body.
    kind = re.match(r"[a-z]+/[a-z0-9.+-]{1,40}", answer.headers.get("Content-Type", ""))
    raise RetryLater(
        f"An answer for {asked} {what} ({len(body)} bytes, "
        f"{kind[0] if kind else 'no content type'})."
    )


class _ErrorDetail(msgspec.Struct):
    code: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail


def _error_code(answer: httpx.Response) -> str | None:
    """The code in an error of Graph's own; None where something else has answered."""
    try:
        return msgspec.json.decode(answer.content, type=_ErrorBody).error.code or ""
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_absent(lookup: _Lookup, answer: httpx.Response) -> bool:
    """Whether a refusal says that there is no such account or row: in Graph's own words only, since
    a wrong address answers 404 to everything."""
    code = _error_code(answer)
    if answer.status_code == 404:
        return code is not None
    # Said of a name that can be nobody's; of all that is sent, the name alone varies.
    return lookup is _FIND_USER and (answer.status_code, code) == (400, "Request_BadRequest")


def _seen(answer: httpx.Response) -> str:
    """The evidence of a refusal: status, error code and request id. Never the message, which may
    repeat a filter or name an account."""
    seen = str(answer.status_code)
    code = _error_code(answer)
    if code is None:
        seen += ", not an error of Graph's own"
    elif re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", code):
        seen += f" {code}"
    request_id = answer.headers.get("request-id", "")
    if re.fullmatch(r"[0-9a-fA-F-]{36}", request_id):
        seen += f", request-id {request_id}"
    return seen


_CHECK_BASE_URL = "Check GRAPH_BASE_URL: it should be https://graph.microsoft.com/v1.0."
_CHECK_GROUP = (
    "Name the object id of an existing group in audience.group (or audience.exclude) of the"
    " campaign file."
)
_CHECK_FILTER = "Correct audience.filter in the campaign file: try it in Graph Explorer first."


def _own_sign_in(asked: Source | _Lookup) -> str:
    """What somebody needs who reads with their own sign-in: two things that Graph does not tell
    apart. The app that they sign in through must have the permission, and they a role."""
    return (
        f"Sign in, to the directory's own tenant, as somebody with the role {asked.role}, through"
        f" an app that has the delegated permission {asked.permissions}."
    )


def _fault(
    asked: Source | _Lookup, answer: httpx.Response, auth: Auth, *, on_link: bool
) -> NudgeError:
    """What a status other than 200 means to whoever met it."""
    status = answer.status_code
    what = f"{asked} ({_seen(answer)})."
    if b"RequestFromNonPremiumTenant" in answer.content:
        return SetupFault(
            f"This tenant has no licence for {what}",
            "The registration report needs Microsoft Entra ID P1 or P2: license the tenant, and"
            " make sure that GRAPH_BASE_URL and the app's identity belong to the one you mean.",
        )
    if status in (408, 429) or status >= 500:
        return RetryLater(f"Graph has no answer now for {what}", _retry_after(answer))
    if on_link and status in (400, 410):
        # The first page was answered for the same question: what is left to refuse is the token
        # (`DirectoryPageTokenNotFoundException` and its like, under several codes).
        return SkipTokenExpired(f"Graph no longer knows the next page of {what}")
    if status in (401, 403) and auth == "default":
        return SignInFault(f"Graph does not let you read {what}", _own_sign_in(asked))
    if status == 401:
        return SetupFault(
            f"Graph does not accept the app's token for {what}",
            f"Use an identity of the directory's own tenant that has the application permission"
            f" {asked.permissions}, and check GRAPH_AUTH.",
        )
    if status == 403:
        return SetupFault(
            f"Graph does not let the app read {what}",
            f"Grant its identity the application permission {asked.permissions},"
            " with admin consent.",
        )
    refused = f"Graph refuses the request for {what}"
    if isinstance(asked, GroupMembers) and status in (400, 404):
        return SetupFault(
            f"There is no such group: {what}" if status == 404 else refused, _CHECK_GROUP
        )
    if isinstance(asked, FilteredUsers) and status == 400:
        return SetupFault(refused, _CHECK_FILTER)
    return SetupFault(refused, _CHECK_BASE_URL)


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds from a Retry-After header: an integer, or a date, which is relative to the answer's
    own Date. None where it is missing or says nothing."""
    value = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(min(int(value), _LONGEST_WAIT))
    try:
        until = parsedate_to_datetime(value)
        wait = (until - parsedate_to_datetime(answer.headers.get("Date", ""))).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(max(wait, 0.0), float(_LONGEST_WAIT))


def _foreign_link(what: str) -> SetupFault:
    return SetupFault(
        f"Graph's link of the next page {what}, which is not where GRAPH_BASE_URL points.",
        "Find out what answers in Graph's place, and set GRAPH_BASE_URL to Graph itself.",
    )
