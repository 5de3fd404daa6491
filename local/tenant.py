"""A simulated Microsoft Entra tenant: the Graph endpoints that the product reads, as documented.

    GET /v1.0/reports/authenticationMethods/userRegistrationDetails[/{id}]
    GET /v1.0/groups/{id}/transitiveMembers/microsoft.graph.user
    GET /v1.0/users
    GET /v1.0/users/{id or user principal name}, or in quotes: /v1.0/users('…')
    GET /v1.0/users/{id}/authentication/methods

It is as awkward as Graph where a client can tell the difference: page sizes, skip tokens that
expire, `$select`, advanced queries, empty pages, throttling, a report that lags behind. What Graph
takes and this tenant does not know is refused, never ignored. People register as campaign time goes
by; the same time always shows the same people.

Beside Graph it has switches of its own:

    POST /people/{id}/register   somebody registers now: live at once, in the report after the lag
    GET, POST, DELETE /faults    what goes wrong next, by endpoint; see `Faults`
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import secrets
import uuid
from array import array
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, quote

import msgspec
from aiohttp import web

from local.roster import REGISTERED_BY_HAND, Person, Roster, Standing
from local.serving import (
    add_serving_arguments,
    clock_of,
    cut_connection,
    json_response,
    read_json,
    running_application,
    serve,
)
from shared.clock import SystemClock, monotonic

ALUMNI_GROUP: Final = "00000000-0000-0000-0000-000000000000"
"""Holds the alumni."""

OTHERS_GROUP: Final = "00000000-0000-0000-0000-000000000001"
"""Holds everybody else."""

LEFT_OUT_GROUP: Final = "00000000-0000-0000-0000-000000000002"
"""Holds about 1 % of the alumni: who must never be written to."""

MAX_TOP: Final = 999
USERS_PAGE: Final = 100  # Graph's default for users and members
REPORT_PAGE: Final = 1000  # and for the report
REPORT_LIMIT, REPORT_WINDOW = 5, 10.0  # requests, in seconds; of reports, by app and tenant

_JSON = "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false"
_CONTEXT = "https://graph.microsoft.com/v1.0/$metadata#"
_MAX_TOKENS = 10_000

type Endpoint = Literal["registrations", "members", "users", "user", "methods"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a tenant is to be.

    Attributes:
        deadline: towards which people register.
        domain: of the alumni's accounts and institutional addresses.
        lag_hours: how far the report is behind, in campaign time.
        throttled: 429 after 5 report requests in 10 s, by real time.
        token_seconds: how long a skip token is good for, by real time.
        token_requests: after how many further requests it is forgotten; None for never.
        empty_pages: whether some pages of users and members hold nothing but the next link.
    """

    alumni: int = 2000
    others: int = 500
    seed: int = 0
    deadline: datetime = datetime(2027, 3, 31, 16, tzinfo=UTC)
    domain: str = "connect.example.edu"
    lag_hours: float = 3
    throttled: bool = True
    token_seconds: float = 3600
    token_requests: int | None = None
    empty_pages: bool = True
    clock_file: Path | None = None


# --- faults --------------------------------------------------------------------------------------


class Fault(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Something that goes wrong at an endpoint.

    Attributes:
        kind: `status` an error of Graph's own; `html` a gateway's page (502 unless `status` says);
            `text` a body that is not JSON; `truncated` a page that breaks off; `no-contacts` a page
            whose contact fields are null, as without User.Read.All; `repeat` a page that has its
            first row twice; `foreign-link` a page whose next link is `link`; `expired-token` the
            skip token is forgotten; `not-premium` the tenant has no licence; `hang` no answer for
            `seconds`; `reset` the connection is reset.
        status: of kinds that have one.
        code: Graph's error code, where it should not be the usual one.
        retry_after: the header, as it is to be sent.
        after: so many requests go well first.
        times: how often it goes wrong; None for ever.
    """

    kind: Literal[
        "status", "html", "text", "truncated", "no-contacts", "repeat", "foreign-link",
        "expired-token", "not-premium", "hang", "reset",
    ] = "status"  # fmt: skip
    status: int | None = None
    code: str | None = None
    retry_after: str | None = None
    link: str = "http://127.0.0.2/v1.0/users?$skiptoken=elsewhere"
    seconds: float = 60
    after: int = 0
    times: int | None = 1


class Faults(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What goes wrong, by endpoint, in this order; the body of `POST /faults`, which replaces all
    that was there. `throttled` switches the report's limit, too."""

    registrations: list[Fault] = []
    members: list[Fault] = []
    users: list[Fault] = []
    user: list[Fault] = []
    methods: list[Fault] = []
    throttled: bool | None = None

    def next(self, endpoint: Endpoint) -> Fault | None:
        """The fault that this request meets; it is used up by that."""
        queue: list[Fault] = getattr(self, endpoint)
        if not queue:
            return None
        fault = queue[0]
        if fault.after > 0:
            fault.after -= 1
            return None
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                queue.pop(0)
        return fault


class GraphError(Exception):
    """A refusal, as Graph words it."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


_USUAL_CODES = {
    400: ("Request_BadRequest", "Bad request."),
    401: ("InvalidAuthenticationToken", "Access token has expired or is not yet valid."),
    403: ("Authorization_RequestDenied", "Insufficient privileges to complete the operation."),
    404: ("Request_ResourceNotFound", "The resource does not exist."),
    429: ("TooManyRequests", "Too many requests."),
    500: ("InternalServerError", "An internal server error occurred."),
    503: ("serviceNotAvailable", "The service is unavailable."),
    504: ("GatewayTimeout", "The gateway did not get an answer in time."),
}
_GATEWAY_PAGE = (
    "<!DOCTYPE html><html><head><title>Bad gateway</title></head>"
    "<body><h1>Bad gateway</h1><p>The upstream server gave no answer.</p></body></html>"
)


def _fault_error(fault: Fault) -> GraphError:
    status = fault.status or 500
    code, message = _USUAL_CODES.get(status, ("UnknownError", ""))
    return GraphError(status, fault.code or code, message, retry_after=fault.retry_after)


def _expired_token() -> GraphError:
    return GraphError(
        400,
        "DirectoryPageTokenNotFoundException",
        "Token not found: token is either invalid or expired",
    )


# --- what is asked for ---------------------------------------------------------------------------

_USER_FIELDS: dict[str, Callable[[Person], object]] = {
    "id": lambda person: person.id,
    "userPrincipalName": lambda person: person.user_principal_name,
    "displayName": lambda person: person.display_name,
    "givenName": lambda person: person.given_name,
    "surname": lambda person: person.surname,
    "accountEnabled": lambda person: person.account_enabled,
    "userType": lambda person: person.user_type,
    "mail": lambda person: person.mail,
    "otherMails": lambda person: person.other_mails,
    "mobilePhone": lambda person: person.mobile_phone,
    "preferredLanguage": lambda person: person.preferred_language,
    "employeeType": lambda person: person.employee_type,
    "department": lambda person: person.department,
    "companyName": lambda person: person.company_name,
    "createdDateTime": lambda person: person.created_date_time,
    "businessPhones": lambda person: (),
    "jobTitle": lambda person: None,
    "officeLocation": lambda person: None,
}
_DEFAULT_SELECT = (
    "businessPhones", "displayName", "givenName", "jobTitle", "mail", "mobilePhone",
    "officeLocation", "preferredLanguage", "surname", "userPrincipalName", "id",
)  # fmt: skip
_NO_CONTACTS: dict[str, object] = {"mail": None, "otherMails": None, "mobilePhone": None}

_FILTERS: dict[str, Callable[[Person], object]] = {
    name: _USER_FIELDS[name]
    for name in ("employeeType", "department", "userType", "accountEnabled")
}
_ADVANCED_FILTERS = ("employeeType",)  # answered with ConsistencyLevel and $count only
_CLAUSE = re.compile(r"\s*(\w+)\s+eq\s+(?:'((?:[^']|'')*)'|(true|false))\s*", re.IGNORECASE)


class Filter(msgspec.Struct, frozen=True):
    """An OData filter of the kind that campaigns use: `property eq value`, joined by `and`."""

    clauses: tuple[tuple[str, str | bool], ...]

    @property
    def advanced(self) -> bool:
        return any(name in _ADVANCED_FILTERS for name, _ in self.clauses)

    def holds(self, person: Person) -> bool:
        return all(_folded(_FILTERS[name](person)) == value for name, value in self.clauses)


def _folded(value: object) -> object:
    return value.casefold() if isinstance(value, str) else value


def parse_filter(text: str) -> Filter:
    """Raises GraphError for what is no filter, or none that this tenant knows."""
    clauses: list[tuple[str, str | bool]] = []
    position = 0
    while clause := _CLAUSE.match(text, position):
        name, quoted, boolean = clause.groups()
        if name not in _FILTERS:
            raise GraphError(
                400, "Request_UnsupportedQuery", f"Unsupported property filter clause: '{name}'."
            )
        if (name == "accountEnabled") != (boolean is not None):
            raise GraphError(400, "Request_BadRequest", f"Invalid filter value for '{name}'.")
        value = boolean.lower() == "true" if boolean else quoted.replace("''", "'").casefold()
        clauses.append((name, value))
        position = clause.end()
        if position == len(text):
            return Filter(tuple(clauses))
        if not (joint := re.compile(r"and\b", re.IGNORECASE).match(text, position)):
            break
        position = joint.end()
    raise GraphError(400, "Request_BadRequest", "Invalid filter clause: this cannot be parsed.")


class Query:
    """The query of a list request, checked against what its endpoint takes."""

    def __init__(self, request: web.Request, *, allowed: Sequence[str], page: int) -> None:
        self.given: dict[str, str] = {}
        for name, value in parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True):
            key = f"${name.lstrip('$').lower()}"
            if key not in allowed:
                raise GraphError(
                    400, "BadRequest", f"Query option '{name}' is not supported on this resource."
                )
            if key in self.given:
                raise GraphError(400, "BadRequest", f"Query option '{name}' was given twice.")
            self.given[key] = value
        self.count = self.given.get("$count", "").lower() == "true"
        self.eventual = request.headers.get("ConsistencyLevel", "").lower() == "eventual"
        self.top = self._top(page)
        self.token = self.given.get("$skiptoken")

    @property
    def advanced(self) -> bool:
        """Whether the request may ask for what only advanced queries are answered."""
        return self.count and self.eventual

    def _top(self, page: int) -> int:
        top = self.given.get("$top", str(page))
        if not re.fullmatch(r"[0-9]{1,9}", top):
            raise GraphError(400, "BadRequest", f"Invalid value '{top[:20]}' for $top.")
        if "$top" in self.given and not 1 <= int(top) <= MAX_TOP:
            raise GraphError(
                400,
                "Request_BadRequest",
                f"Invalid page size specified: '{top}'. Must be between 1 and {MAX_TOP} inclusive.",
            )
        return int(top)

    def select(self) -> tuple[str, ...]:
        """The selected properties, by their names in Graph's metadata."""
        text = self.given.get("$select")
        if not text:
            return _DEFAULT_SELECT
        known = {name.lower(): name for name in _USER_FIELDS}
        selected: list[str] = []
        for word in text.split(","):
            name = known.get(word.strip().lower())
            if name is None:
                raise GraphError(
                    400,
                    "BadRequest",
                    "Parsing OData Select and Expand failed: Could not find a property named "
                    f"'{word[:60]}' on type 'microsoft.graph.user'.",
                )
            selected.append(name)
        return tuple(dict.fromkeys(selected))

    def next_link(self, request: web.Request, token: str) -> str:
        """The same question, one page on."""
        parts = {**self.given, "$skiptoken": token}
        query = "&".join(f"{name}={quote(value, safe=',')}" for name, value in parts.items())
        return f"http://{request.host}{request.rel_url.raw_path}?{query}"


class _Place(msgspec.Struct, frozen=True):
    """Where a skip token leads to: `position` in the list that `question` asks for."""

    question: str
    position: int
    page: int
    made_at: float
    made_by: int


class SkipTokens:
    """Opaque names of places in lists, forgotten after a while."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._requests = 0

    def make(self, question: str, position: int, page: int) -> str:
        token = f"RFNwdAoAAQ{secrets.token_urlsafe(24)}"
        self._places[token] = _Place(question, position, page, monotonic(), self._requests)
        if len(self._places) > _MAX_TOKENS:
            self._places.popitem(last=False)
        return token

    def find(self, token: str, question: str) -> _Place:
        """Raises GraphError where the token is unknown, expired, or of another list."""
        self._requests += 1
        place = self._places.get(token)
        if place is None or place.question != question or self._expired(place):
            raise _expired_token()
        return place

    def forget(self, token: str) -> None:
        self._places.pop(token, None)

    def _expired(self, place: _Place) -> bool:
        limit = self._options.token_requests
        if limit is not None and self._requests - place.made_by > limit:
            return True
        return monotonic() - place.made_at > self._options.token_seconds


class Throttle:
    """A sliding window over the report requests of the last ten seconds."""

    def __init__(self) -> None:
        self._answered: deque[float] = deque()

    def admit(self) -> None:
        """Raises GraphError with Retry-After where the window is full."""
        now = monotonic()
        while self._answered and self._answered[0] <= now - REPORT_WINDOW:
            self._answered.popleft()
        if len(self._answered) >= REPORT_LIMIT:
            wait = math.ceil(self._answered[0] + REPORT_WINDOW - now)
            raise GraphError(*(429, *_USUAL_CODES[429]), retry_after=str(max(1, wait)))
        self._answered.append(now)


# --- rows ----------------------------------------------------------------------------------------


class UserRows:
    """The users' rows for one `$select`, encoded when they are first asked for."""

    def __init__(self, roster: Roster, select: Sequence[str]) -> None:
        self._roster = roster
        self._fields = [(name, _USER_FIELDS[name]) for name in select]
        self._rows: list[bytes | None] = [None] * len(roster)

    def page(self, indexes: Sequence[int]) -> list[bytes]:
        return [self._rows[index] or self._encode(index) for index in indexes]

    def _encode(self, index: int) -> bytes:
        person = self._roster.person(index)
        row = msgspec.json.encode({name: field(person) for name, field in self._fields})
        self._rows[index] = row
        return row


class ReportRows:
    """The report's rows, encoded when they are first asked for and again once they changed.

    A row is kept open at its end: when the report was refreshed, which each row says, is the same
    for all rows of an answer, and is joined in between them.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._by_hand: dict[int, float] = {}
        self._rows: list[bytes | None]
        self._change_at: array[float]
        self._as_of = math.inf

    def register(self, index: int, moment: float) -> None:
        """Somebody registers at a moment of campaign time; the report tells when it gets there."""
        self._by_hand.setdefault(index, moment)
        self._as_of = math.inf  # every row is made again

    def standing(self, index: int, person: Person, moment: float) -> Standing:
        """What somebody's methods are at a moment."""
        by_hand = self._by_hand.get(index, math.inf)
        if by_hand < person.registers_at:
            return REGISTERED_BY_HAND if by_hand <= moment else person.before
        return person.standing(moment)

    def registered_at(self, index: int, person: Person) -> float:
        return min(person.registers_at, self._by_hand.get(index, math.inf))

    def page(self, indexes: Sequence[int], as_of: float) -> list[bytes]:
        """The rows of these accounts, those left out that the report lacks."""
        if as_of < self._as_of:  # the first page, or the clock was set back
            self._rows = [None] * len(self._roster)
            self._change_at = array("d", bytes(8 * len(self._roster)))
        self._as_of = as_of
        rows, change_at = self._rows, self._change_at
        found: list[bytes] = []
        for index in indexes:
            row = rows[index]
            if row is None or change_at[index] <= as_of:
                row = self._encode(index, as_of)
            if row:
                found.append(row)
        return found

    def _encode(self, index: int, as_of: float) -> bytes:
        person = self._roster.person(index)
        registered_at = self.registered_at(index, person)
        self._change_at[index] = registered_at if registered_at > as_of else math.inf
        row = b""
        if person.reported:
            standing = self.standing(index, person, as_of)
            row = msgspec.json.encode(_report_row(person, standing))[:-1]
        self._rows[index] = row
        return row


def _report_row(person: Person, standing: Standing) -> dict[str, object]:
    methods = standing.methods
    preferred = {"mobilePhone": "sms", "microsoftAuthenticatorPush": "push"}
    strong = [preferred[method] for method in methods if method in preferred]
    return {
        "id": person.id,
        "userPrincipalName": person.user_principal_name,
        "userDisplayName": person.display_name,
        "userType": person.user_type.lower(),
        "isAdmin": False,
        "isMfaCapable": standing.capable,
        "isMfaRegistered": standing.registered,
        "isPasswordlessCapable": any("ass" in m or "fido" in m for m in methods),
        "isSsprCapable": bool(methods),
        "isSsprEnabled": True,
        "isSsprRegistered": bool(methods),
        "isSystemPreferredAuthenticationMethodEnabled": True,
        "systemPreferredAuthenticationMethods": strong[-1:],
        "userPreferredMethodForSecondaryAuthentication": strong[-1] if strong else "",
        "methodsRegistered": methods,
    }


_METHOD_TYPES = {
    "mobilePhone": "phone",
    "alternateMobilePhone": "phone",
    "officePhone": "phone",
    "email": "email",
    "microsoftAuthenticatorPush": "microsoftAuthenticator",
    "softwareOneTimePasscode": "softwareOath",
    "hardwareOneTimePasscode": "hardwareOath",
    "fido2": "fido2",
    "passKeyDeviceBound": "fido2",
    "passKeyDeviceBoundAuthenticator": "fido2",
    "windowsHelloForBusiness": "windowsHelloForBusiness",
    "temporaryAccessPass": "temporaryAccessPass",
    "methodOfALaterYear": "laterYear",
}
_PHONE_TYPES = {
    "mobilePhone": "mobile",
    "alternateMobilePhone": "alternateMobile",
    "officePhone": "office",
}
_PASSWORD_ID = "28c10230-6103-485e-b985-444c60001490"  # of every account's password, everywhere
_STALE_NUMBER = "+44 7700 900000"


def _methods(person: Person, standing: Standing, registered_at: float) -> list[dict[str, object]]:
    """The live methods of an account: its password, and what it has registered. What the report
    calls passwordless is no method of its own here, and security questions are not shown."""
    since = person.created_date_time
    if math.isfinite(registered_at):
        since = _instant(registered_at)
    methods: list[dict[str, object]] = [
        {
            "@odata.type": "#microsoft.graph.passwordAuthenticationMethod",
            "id": _PASSWORD_ID,
            "password": None,
            "createdDateTime": person.created_date_time,
        }
    ]
    for method in standing.methods:
        if (kind := _METHOD_TYPES.get(method)) is None:
            continue
        one: dict[str, object] = {
            "@odata.type": f"#microsoft.graph.{kind}AuthenticationMethod",
            "id": str(uuid.uuid5(uuid.UUID(person.id), method)),
            "createdDateTime": since,
        }
        if kind == "phone":
            one |= {"phoneNumber": _STALE_NUMBER, "phoneType": _PHONE_TYPES[method]}
        elif kind == "email":
            one |= {"emailAddress": next(iter(person.other_mails), person.mail)}
        methods.append(one)
    return methods


def _instant(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the tenant ----------------------------------------------------------------------------------


def roster_of(options: Options) -> Roster:
    """The accounts of a tenant that is started with these options."""
    return Roster(
        alumni=options.alumni,
        others=options.others,
        deadline=options.deadline,
        domain=options.domain,
        seed=options.seed,
    )


class Tenant:
    """The state of a tenant, and its answers."""

    def __init__(self, options: Options) -> None:
        self.roster = roster_of(options)
        self._options = options
        self._clock = clock_of(options.clock_file)
        self._tokens = SkipTokens(options)
        self._throttle = Throttle()
        self._throttled = options.throttled
        self._faults = Faults()
        self._report = ReportRows(self.roster)
        self._report_order = _shuffled(len(self.roster))
        self._user_rows: OrderedDict[tuple[str, ...], UserRows] = OrderedDict()
        self._found: dict[str, array[int]] = {}
        self._names: dict[str, int] = {}

    def application(self) -> web.Application:
        application = web.Application(middlewares=[_answer_as_graph])
        report = "/v1.0/reports/authenticationMethods/userRegistrationDetails"
        members = "/v1.0/groups/{group}/transitiveMembers/microsoft.graph.user"
        application.add_routes(
            [
                web.get(report, self._with_faults("registrations", self.list_registrations)),
                web.get(
                    report + "/{id}", self._with_faults("registrations", self.read_registration)
                ),
                web.get(members, self._with_faults("members", self.list_members)),
                web.get("/v1.0/users", self._with_faults("users", self.list_users)),
                web.get("/v1.0/users/{key}", self._with_faults("user", self.read_user)),
                web.get(
                    "/v1.0/users('{quoted}')", self._with_faults("user", self.read_quoted_user)
                ),
                web.get(
                    "/v1.0/users/{id}/authentication/methods",
                    self._with_faults("methods", self.list_methods),
                ),
                web.post("/people/{id}/register", self.register),
                web.get("/faults", self.show_faults),
                web.post("/faults", self.set_faults),
                web.delete("/faults", self.clear_faults),
            ]
        )
        return application

    # Graph

    async def list_registrations(self, request: web.Request) -> web.Response:
        self._check_throttle()
        query = Query(request, allowed=("$top", "$skiptoken"), page=REPORT_PAGE)
        as_of = self._as_of()
        position, _ = self._start(query, "registrations")
        order, rows = self._report_order, list[bytes]()
        while len(rows) < query.top and position < len(order):
            wanted = order[position : position + query.top - len(rows)]
            rows += self._report.page(wanted, as_of)
            position += len(wanted)
        link = None
        if position < len(order):
            token = self._tokens.make("registrations", position, 0)
            link = query.next_link(request, token)
        refreshed = b',"lastUpdatedDateTime":"%s"}' % _instant(as_of).encode()
        body = (refreshed + b",").join(rows) + refreshed if rows else b""
        return _page("userRegistrationDetails", body, link=link)

    async def read_registration(self, request: web.Request) -> web.Response:
        self._check_throttle()
        index = self._index(request)
        person = self.roster.person(index)
        if not person.reported:
            raise _no_such_resource(person.id)
        as_of = self._as_of()
        row = _report_row(person, self._report.standing(index, person, as_of))
        context = f"{_CONTEXT}reports/authenticationMethods/userRegistrationDetails/$entity"
        return _graph_response(
            {"@odata.context": context, **row, "lastUpdatedDateTime": _instant(as_of)}
        )

    async def list_members(self, request: web.Request) -> web.Response:
        group = request.match_info["group"].lower()
        indexes = self._members(group)
        query = Query(request, allowed=("$top", "$select", "$count", "$skiptoken"), page=USERS_PAGE)
        if not query.advanced:
            raise _not_advanced("The cast to microsoft.graph.user")
        return self._users_page(request, query, f"members of {group}", indexes)

    async def list_users(self, request: web.Request) -> web.Response:
        query = Query(
            request,
            allowed=("$top", "$select", "$count", "$filter", "$skiptoken"),
            page=USERS_PAGE,
        )
        text = query.given.get("$filter")
        indexes: Sequence[int] = range(len(self.roster))
        if text is not None:
            filter = parse_filter(text)
            if filter.advanced and not query.advanced:
                raise _not_advanced("This filter")
            indexes = self._matching(text, filter.holds)
        return self._users_page(request, query, f"users {text}", indexes)

    async def read_user(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        if key.startswith("$"):
            raise GraphError(400, "BadRequest", f"Resource not found for the segment '{key[:60]}'.")
        return self._user(request, key)

    async def read_quoted_user(self, request: web.Request) -> web.Response:
        quoted = request.match_info["quoted"]
        key = quoted.replace("''", "'")
        if key.replace("'", "''") != quoted:
            raise GraphError(400, "BadRequest", "Invalid key: a quote in it is to be doubled.")
        return self._user(request, key)

    def _user(self, request: web.Request, key: str) -> web.Response:
        query = Query(request, allowed=("$select",), page=USERS_PAGE)
        select = query.select()
        index = self.roster.find(key)
        if index is None:
            index = self._find_name(key)
        if index is None:
            raise _no_such_resource(key)
        person = self.roster.person(index)
        row = {name: _USER_FIELDS[name](person) for name in select}
        return _graph_response({"@odata.context": f"{_CONTEXT}users/$entity", **row})

    async def list_methods(self, request: web.Request) -> web.Response:
        index = self._index(request)
        person = self.roster.person(index)
        standing = self._report.standing(index, person, self._now())
        methods = _methods(person, standing, self._report.registered_at(index, person))
        context = f"{_CONTEXT}users('{person.id}')/authentication/methods"
        return _graph_response({"@odata.context": context, "value": methods})

    def _users_page(
        self, request: web.Request, query: Query, question: str, indexes: Sequence[int]
    ) -> web.Response:
        position, page = self._start(query, question)
        # As Graph does now and then; here on the second page, and on every eighth after it.
        empty = self._options.empty_pages and page % 8 == 1
        end = position if empty else min(position + query.top, len(indexes))
        rows = self._rows(query.select()).page(indexes[position:end])
        link = None
        if end < len(indexes):
            link = query.next_link(request, self._tokens.make(question, end, page + 1))
        count = len(indexes) if query.advanced and query.token is None else None
        return _page("users", b",".join(rows), link=link, count=count)

    def _start(self, query: Query, question: str) -> tuple[int, int]:
        """Where the page begins, and its number."""
        if query.token is None:
            return 0, 0
        place = self._tokens.find(query.token, question)
        return place.position, place.page

    def _rows(self, select: tuple[str, ...]) -> UserRows:
        rows = self._user_rows.get(select)
        if rows is None:
            rows = self._user_rows[select] = UserRows(self.roster, select)
            if len(self._user_rows) > 2:
                self._user_rows.popitem(last=False)
        return rows

    def _members(self, group: str) -> Sequence[int]:
        if group == ALUMNI_GROUP:
            return range(self.roster.alumni)
        if group == OTHERS_GROUP:
            return range(self.roster.alumni, len(self.roster))
        if group == LEFT_OUT_GROUP:
            return self._matching(group, lambda person: person.left_out)
        raise _no_such_resource(group)

    def _matching(self, name: str, wanted: Callable[[Person], bool]) -> Sequence[int]:
        """The accounts for whom `wanted` holds, looked for once under this name."""
        if name not in self._found:
            people = map(self.roster.person, range(len(self.roster)))
            self._found[name] = array(
                "I", (index for index, person in enumerate(people) if wanted(person))
            )
        return self._found[name]

    def _find_name(self, name: str) -> int | None:
        """The account with this user principal name, in any case."""
        if not self._names:
            people = map(self.roster.person, range(len(self.roster)))
            self._names = {
                person.user_principal_name.casefold(): index for index, person in enumerate(people)
            }
        return self._names.get(name.casefold())

    def _index(self, request: web.Request) -> int:
        index = self.roster.find(request.match_info["id"])
        if index is None:
            raise _no_such_resource(request.match_info["id"])
        return index

    def _check_throttle(self) -> None:
        if self._throttled:
            self._throttle.admit()

    def _now(self) -> float:
        return self._clock.campaign_now().timestamp()

    def _as_of(self) -> float:
        return self._now() - self._options.lag_hours * 3600

    # Switches

    async def register(self, request: web.Request) -> web.Response:
        self._report.register(self._index(request), self._now())
        return web.Response(status=204)

    async def show_faults(self, request: web.Request) -> web.Response:
        self._faults.throttled = self._throttled
        return json_response(self._faults)

    async def set_faults(self, request: web.Request) -> web.Response:
        self._faults = await read_json(request, Faults)
        if self._faults.throttled is not None:
            self._throttled = self._faults.throttled
        return web.Response(status=204)

    async def clear_faults(self, request: web.Request) -> web.Response:
        self._faults = Faults()
        self._throttled = self._options.throttled
        return web.Response(status=204)

    def _with_faults(
        self, endpoint: Endpoint, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            fault = self._faults.next(endpoint)
            if fault is None:
                return await handler(request)
            return await self._fail(fault, request, handler)

        return answer

    async def _fail(
        self,
        fault: Fault,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.Response]],
    ) -> web.Response:
        match fault.kind:
            case "status":
                raise _fault_error(fault)
            case "not-premium":
                raise GraphError(
                    403,
                    "Authentication_RequestFromNonPremiumTenantOrB2CTenant",
                    "Neither tenant is B2C or tenant doesn't have premium license",
                )
            case "expired-token":
                for name, value in parse_qsl(request.rel_url.raw_query_string):
                    if name.lower().endswith("skiptoken"):
                        self._tokens.forget(value)
                        raise _expired_token()
                return await handler(request)
            case "html":
                return web.Response(
                    text=_GATEWAY_PAGE,
                    status=fault.status or 502,
                    content_type="text/html",
                    headers={"Retry-After": fault.retry_after} if fault.retry_after else None,
                )
            case "text":
                return web.Response(text="This is not JSON.", status=fault.status or 200)
            case "hang":
                await asyncio.sleep(fault.seconds)
                return cut_connection(request)
            case "reset":
                return cut_connection(request)
            case "truncated" | "no-contacts" | "repeat" | "foreign-link":
                return _spoil(fault, await handler(request))


def _spoil(fault: Fault, response: web.Response) -> web.Response:
    """A page that came out well, with something wrong in it."""
    body = bytes(response.body) if isinstance(response.body, bytes | bytearray) else b""
    if fault.kind == "truncated":
        response.body = body[: len(body) * 2 // 3]
        return response
    page: dict[str, Any] = msgspec.json.decode(body)
    match fault.kind:
        case "no-contacts":
            page["value"] = [
                {name: _NO_CONTACTS.get(name, value) for name, value in row.items()}
                for row in page["value"]
            ]
        case "repeat":
            page["value"] = page["value"][:1] + page["value"]
        case _:
            page["@odata.nextLink"] = fault.link
    response.body = msgspec.json.encode(page)
    return response


def _shuffled(count: int) -> array[int]:
    """The report's order, which is not that of the users: every account once, in long strides."""
    stride = next(
        (
            stride
            for stride in range(round(count * 0.618) | 1, count)
            if math.gcd(stride, count) == 1
        ),
        1,
    )
    return array("I", (position * stride % count for position in range(count)))


def _page(kind: str, rows: bytes, *, link: str | None, count: int | None = None) -> web.Response:
    head: dict[str, object] = {"@odata.context": f"{_CONTEXT}{kind}"}
    if count is not None:
        head["@odata.count"] = count
    if link is not None:
        head["@odata.nextLink"] = link
    body = b"".join((msgspec.json.encode(head)[:-1], b',"value":[', rows, b"]}"))
    return web.Response(body=body, headers={"Content-Type": f"{_JSON};charset=utf-8"})


def _graph_response(content: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(content),
        status=status,
        headers={"Content-Type": f"{_JSON};charset=utf-8"},
    )


def _no_such_resource(name: str) -> GraphError:
    return GraphError(
        404,
        "Request_ResourceNotFound",
        f"Resource '{name[:100]}' does not exist or one of its queried reference-property objects "
        "are not present.",
    )


def _not_advanced(what: str) -> GraphError:
    return GraphError(
        400,
        "Request_UnsupportedQuery",
        f"{what} needs the header ConsistencyLevel: eventual, and $count=true, on every page.",
    )


@web.middleware
async def _answer_as_graph(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Gives each answer its request id, and each error Graph's form."""
    request_id = str(uuid.uuid4())
    client_id = request.headers.get("client-request-id", request_id)
    try:
        response = await handler(request)
    except GraphError as error:
        response = _error_response(error, request_id, client_id)
    except web.HTTPMethodNotAllowed:
        response = _error_response(
            GraphError(405, "Request_BadRequest", "Specified HTTP method is not allowed."),
            request_id,
            client_id,
        )
    except web.HTTPNotFound:
        segment = request.path.rstrip("/").rpartition("/")[2]
        response = _error_response(
            GraphError(400, "BadRequest", f"Resource not found for the segment '{segment[:60]}'."),
            request_id,
            client_id,
        )
    response.headers["request-id"] = request_id
    response.headers["client-request-id"] = client_id
    return response


def _error_response(error: GraphError, request_id: str, client_id: str) -> web.Response:
    response = _graph_response(
        {
            "error": {
                "code": error.code,
                "message": error.message,
                "innerError": {
                    "date": SystemClock().campaign_now().strftime("%Y-%m-%dT%H:%M:%S"),
                    "request-id": request_id,
                    "client-request-id": client_id,
                },
            }
        },
        error.status,
    )
    if error.retry_after is not None:
        response.headers["Retry-After"] = error.retry_after
    return response


@asynccontextmanager
async def running_tenant(options: Options | None = None) -> AsyncGenerator[str]:
    """A tenant in this process for the length of the block; gives its address. Graph is at
    `{address}/v1.0`."""
    async with running_application(Tenant(options or Options()).application()) as url:
        yield url


def main() -> None:
    """`python -m local.tenant`; prints `{"url": …}` when it is ready."""
    parser = argparse.ArgumentParser(
        prog="python -m local.tenant", description=(__doc__ or "").partition("\n")[0]
    )
    defaults = Options()
    add_serving_arguments(parser)
    add = parser.add_argument
    add("--alumni", type=int, default=defaults.alumni, help="members of the alumni group")
    add("--others", type=int, default=defaults.others, help="accounts beside them, mostly staff")
    add("--seed", type=int, default=defaults.seed, help="other people, as many")
    add(
        "--deadline",
        type=datetime.fromisoformat,
        default=defaults.deadline,
        help="towards which people register: an ISO instant with its offset",
    )
    add("--domain", default=defaults.domain, help="of the alumni's accounts")
    add("--lag-hours", type=float, default=defaults.lag_hours, help="of the report")
    add("--no-throttle", action="store_true", help="no limit on report requests")
    add("--token-seconds", type=float, default=defaults.token_seconds, help="life of a skip token")
    add("--token-requests", type=int, help="requests after which a skip token is forgotten")
    add("--no-empty-pages", action="store_true", help="every page but the last is full")
    given = parser.parse_args()
    if given.deadline.tzinfo is None:
        parser.error("--deadline needs an offset, such as 2027-04-01T00:00+08:00")
    tenant = Tenant(
        Options(
            alumni=given.alumni,
            others=given.others,
            seed=given.seed,
            deadline=given.deadline,
            domain=given.domain,
            lag_hours=given.lag_hours,
            throttled=not given.no_throttle,
            token_seconds=given.token_seconds,
            token_requests=given.token_requests,
            empty_pages=not given.no_empty_pages,
            clock_file=given.clock_file,
        )
    )
    asyncio.run(serve(tenant.application(), port=given.port, leash=given.leash))


if __name__ == "__main__":
    main()
