"""The campaign file: what an administrator writes, and each mistake in it, by line.

    text ─► plain values, with the line of each ─► Campaign (pydantic) ─► rules that span keys
                  │                                     │                       │
                  └─────────────────── mistakes, all of them, in order of line ─┘

A file is text by an administrator, not by a programmer, and nobody is there to explain a stack
trace: whatever is wrong has a line, and words for what would be right. Mistakes go to logs and
pages, so they quote dates, keys and hosts, and no addresses.

Two texts that mean the same give equal campaigns: order is kept where it means something, and
what only repeats a default is dropped.

`python -m shared.rules.campaign` prints the JSON Schema for editors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, Self, cast, override
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails

from shared.clock import CampaignTime
from shared.errors import SetupFault
from shared.rules.cadence import build_schedule, kept_hours
from shared.rules.calendar import DAY, start_of_day
from shared.rules.contact import fold_address, usable_email
from shared.rules.mistakes import Complaint, Explainer, Path, nearest, show, wrong
from shared.rules.parcels import Channel
from shared.rules.yaml_lines import Reading, Unreadable

LEAST_OPEN = timedelta(hours=2)
"""Open time that every touch must keep, or a short outage would make it fall out."""

MOST_MISTAKES = 100

MOST_SHORT_NAME = 30
MOST_LOOK_FOR = 40
"""Characters that leave an SMS room for the rest."""

MOST_DOMAINS = 50
MOST_SEEDS = 50

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
NOBODY = "00000000-0000-0000-0000-000000000000"
"""The example's group: it exists in the simulated tenant only."""

type Mode = Literal["dry-run", "trial", "live"]
type MessageName = Literal["announce", "reminder", "last-call", "after"]


class Mistake(msgspec.Struct, frozen=True):
    """One mistake of a campaign file.

    Attributes:
        line: counted from 1.
        what, fix: what is wrong and what would be right, as clauses: no capital, no full stop.
    """

    file: str
    line: int
    what: str
    fix: str

    def __str__(self) -> str:
        end = "" if self.fix.endswith("?") else "."
        return f"{self.file}:{self.line}: {self.what}. {self.fix[:1].upper()}{self.fix[1:]}{end}"


class CampaignMistakes(SetupFault):
    """A campaign file that does not validate; the last good version stays in force."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        listing = "\n".join(f"- {mistake}" for mistake in mistakes)
        super().__init__(
            f"The campaign file has mistakes:\n{listing}\n",
            "Correct these lines and save it again.",
        )
        self.mistakes = mistakes


class Allowed(msgspec.Struct, frozen=True):
    """What a campaign file may name: set outside the file, since whoever can edit the file could
    otherwise phish everyone.

    Attributes:
        senders: addresses, and domains that stand for all of their addresses.
        link_hosts: hosts that links may lead to; each stands for itself alone.
        local: whether this is the local system, where the example's group exists.
        channels: those that the app has a sender for.
    """

    senders: frozenset[str]
    link_hosts: frozenset[str]
    local: bool
    channels: frozenset[str]


# The kinds of values that the file is made of. Each says what is wrong with a value; what would be
# right the example of its key says, or the kind itself where it knows more.


def _shaped(pattern: str, what: str, canonical: Callable[[str], str] = str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise wrong(what)
        return canonical(value)

    return AfterValidator(check)


def _email(value: str) -> str:
    address = usable_email(value)
    if address is None:
        raise wrong("is not an email address")
    return address


def _account(value: str) -> str:
    if not re.fullmatch(_GUID, value) and not re.fullmatch(r"[^\s@]+@[^\s@]+", value):
        raise wrong("holds something that is neither an object id nor a user principal name")
    return value.casefold()


def _number(value: object) -> float:
    """A number with or without decimals; only whole ones are numbers to the reader of the file."""
    if isinstance(value, float):
        return value
    text = str(value) if isinstance(value, int | str) else ""
    if not re.fullmatch(_DECIMAL, text):
        raise wrong("must be a number")
    return float(text)


def _mail_domain(value: str) -> str:
    """As it stands in addresses: the domains in which one could be."""
    address = usable_email(f"somebody@{value}")
    if address is None:
        raise wrong("holds something that is not a mail domain")
    return address.partition("@")[2]


def _one_spelling(value: object, read: ValidatorFunctionWrapHandler) -> dict[str, int]:
    domains: dict[str, int] = read(value)
    if isinstance(value, Mapping) and len(domains) < len(cast("Mapping[object, object]", value)):
        raise wrong("names one domain in two spellings", "keep one of them, in lower case")
    return domains


@cache
def _regions() -> frozenset[str]:
    from phonenumbers import SUPPORTED_REGIONS

    return frozenset(SUPPORTED_REGIONS)


def _region(value: str) -> str:
    if value not in _regions():
        near = nearest(value, _regions())
        raise wrong(
            f"is not a region that has phone numbers: {show(value)}",
            f"did you mean `{near}`?" if near else "",
        )
    return value


def _day(value: object) -> date:
    if not isinstance(value, str) or not re.fullmatch(_DATE, value):
        raise wrong(f"is not a date: {show(value)}")
    try:
        day = date.fromisoformat(value)
    except ValueError:
        raise wrong(f"is not a day of the calendar: {show(value)}") from None
    if not 2000 <= day.year < 2100:
        raise wrong(f"is not in this century: {show(value)}")
    return day


def _clock(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(_CLOCK, value):
        raise wrong(f"is not a time of day from 00:00 to 23:59: {show(value)}")
    return time.fromisoformat(value)


def _weekdays(value: object) -> object:
    """Days and ranges of days, as numbers from 0 (Monday). A range may run over Sunday."""
    days: set[int] = set()
    for part in value.casefold().split(",") if isinstance(value, str) else [""]:
        first, dash, last = (end.strip() for end in part.partition("-"))
        if first not in WEEKDAYS or (dash and last not in WEEKDAYS):
            raise wrong(
                f"is not a list of weekdays: {show(value)}",
                "write a range like `mon-fri` or a list like `mon,wed,fri`",
            )
        start, end = WEEKDAYS.index(first), WEEKDAYS.index(last or first)
        days.update((start + number) % 7 for number in range((end - start) % 7 + 1))
    return tuple(sorted(days))


@cache
def _zones() -> frozenset[str]:
    return frozenset((resources.files("tzdata") / "zones").read_text().split())


def _zone(value: str) -> str:
    if value not in _zones():
        near = nearest(value, _zones())
        raise wrong(f"is not a time zone: {show(value)}", f"did you mean `{near}`?" if near else "")
    return value


def _words(value: dict[str, str]) -> dict[str, str]:
    """Languages in an order of our own: `en`, which stands in for what is missing, comes first."""
    if "en" not in value:
        raise wrong("has no `en`, which stands in where a reader's language is missing")
    return {
        language: value[language] for language in sorted(value, key=lambda key: (key != "en", key))
    }


def _unordered[T: str](values: tuple[T, ...]) -> tuple[T, ...]:
    """For lists whose order means nothing."""
    return tuple(sorted(set(values)))


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise wrong("names something twice")
    return values


def _distinct_addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    """In an order of our own: theirs means nothing."""
    by_folded = {fold_address(address): address for address in values}
    if len(by_folded) < len(values):
        raise wrong("names an address twice", "keep one of the two; capitals make no difference")
    return tuple(by_folded[folded] for folded in sorted(by_folded))


_NAME = r"[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?"
_GUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_CONTROL = r"\x00-\x1f\x7f\x85\u2028\u2029"
_LINE = rf"[^\s{_CONTROL}][^{_CONTROL}]*"
_LANGUAGE = r"[a-z]{2,3}(?:-[A-Z][a-z]{3})?(?:-[A-Z]{2})?"
# No user name before the host and no backslash: both make a link look as if it led elsewhere.
_LINK = (
    r"https://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
    r"(?:[/?#][A-Za-z0-9/?#\[\]@!$&'()*+,;=:._~%-]*)?"
)
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_MOMENT = rf"(?P<day>{_DATE})[T ](?P<clock>{_CLOCK}(?::[0-5][0-9])?) ?(?P<offset>Z|[+-]{_CLOCK})?"
_DECIMAL = r"[+-]?(?:[0-9]{0,9}\.)?[0-9]{1,18}"
_DAYS = r"(mon|tue|wed|thu|fri|sat|sun)([-,](mon|tue|wed|thu|fri|sat|sun))*"


def _json_text(pattern: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", **more})


_Name = Annotated[
    str, _shaped(_NAME, "may hold lower-case letters, digits and dashes only"), _json_text(_NAME)
]
_Guid = Annotated[str, _shaped(_GUID, "is not an object id", str.lower), _json_text(_GUID)]
_ONE_LINE = _shaped(_LINE, "must be one line of text, without line breaks and control characters")
_Line = Annotated[str, Field(max_length=200), _ONE_LINE, _json_text(_LINE, maxLength=200)]
_Language = Annotated[
    str, _shaped(_LANGUAGE, "holds a language that is not written like `en` or `zh-Hant`")
]
_Words = Annotated[dict[_Language, _Line], AfterValidator(_words)]


def _for_sms(most: int) -> AfterValidator:
    """Words that go into an SMS: a character beyond the basic ones takes the room of two, and a
    telephone makes a link of whatever looks like one."""

    def check(value: str) -> str:
        if len(value.encode("utf-16-le")) // 2 > most:
            raise wrong(f"has characters that count twice in an SMS, which has room for {most}")
        if re.search(r"://|\bwww\.|\w\.\w", value):
            raise wrong("holds what a telephone takes for a link, and an SMS has none")
        return value

    return AfterValidator(check)


_ShortLine = Annotated[
    str,
    Field(max_length=MOST_SHORT_NAME),
    _ONE_LINE,
    _for_sms(MOST_SHORT_NAME),
    _json_text(_LINE, maxLength=MOST_SHORT_NAME),
]
_ShortName = Annotated[dict[_Language, _ShortLine], AfterValidator(_words)]
_SoughtLine = Annotated[
    str,
    Field(max_length=MOST_LOOK_FOR),
    _ONE_LINE,
    _for_sms(MOST_LOOK_FOR),
    _json_text(_LINE, maxLength=MOST_LOOK_FOR),
]
_LookFor = Annotated[dict[_Language, _SoughtLine], AfterValidator(_words)]
_Link = Annotated[
    str,
    Field(max_length=500),
    _shaped(_LINK, "is not an https link"),
    _json_text(_LINK, maxLength=500),
]
_Email = Annotated[
    str, AfterValidator(_email), WithJsonSchema({"type": "string", "format": "email"})
]
_Growth = Annotated[float, Field(ge=1, le=10), BeforeValidator(_number)]
_Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(_number)]
_Count = Annotated[int, Field(ge=1)]
_Domain = Annotated[str, AfterValidator(_mail_domain)]
_Clock = Annotated[time, BeforeValidator(_clock), _json_text(_CLOCK)]


def _key(description: str, example: object, **more: Any) -> Any:
    """A key of the file. Its example is what editors show and what the mistakes under it advise."""
    return Field(description=description, examples=[example], **more)


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Institution(_Part):
    """What the mails say of the institution."""

    name: _Words = _key(
        "The institution's name, by language.", {"en": "The University of Hong Kong"}
    )
    account_example: _Line = _key("How an account is written at sign-in.", "UID@connect.hku.hk")
    password_name: _Words = _key(
        "What the institution calls the password, by language.", {"en": "Portal PIN"}
    )
    short_name: _ShortName = _key(
        "The name as an SMS shows it, by language; needed where `name` has more than "
        f"{MOST_SHORT_NAME} characters.",
        {"en": "HKU"},
        default_factory=dict,
    )
    look_for: _LookFor = _key(
        "What to look for on the institution's own site, by language: an SMS holds no link.",
        {"en": "MFA pre-registration for alumni"},
        default_factory=dict,
    )
    official_page: _Link = _key(
        "The page on the institution's own site that names this campaign and its sender.",
        "https://its.hku.hk/kb/mfa-pre-registration-for-alumni",
    )
    general_procedure_url: _Link = _key(
        "What to do after the deadline.", "https://its.hku.hk/services/accounts-2fa/mfa/"
    )
    account_help_url: _Link = _key(
        "Help with a forgotten account or password.", "https://its.hku.hk/services/accounts-2fa/"
    )
    help_desk: _Email = _key("The help desk's address.", "ithelp@hku.hk")

    @property
    def link_hosts(self) -> dict[str, str]:
        """The host of every link, lower-case, by the key that holds it."""
        links = {
            "official_page": self.official_page,
            "general_procedure_url": self.general_procedure_url,
            "account_help_url": self.account_help_url,
        }
        return {key: urlsplit(link).hostname or "" for key, link in links.items()}


class SenderIdentity(_Part):
    """Who the mails come from."""

    name: _Line = _key("The name that mail programs show.", "HKU Information Technology Services")
    email: _Email = _key("The address, on ALLOWED_SENDERS.", "no-reply@its.hku.hk")
    reply_to: _Email = _key("Where answers go.", "ithelp@hku.hk")


class Audience(_Part):
    """Whom the campaign addresses: a group or a filter, less the exclusions."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["group"]}, {"required": ["filter"]}]}
    )

    group: _Guid | None = _key(
        "Object id of a group; members of its groups count, too.",
        "5f0c6a2e-8f43-4d1b-9a57-2f5f3c1d7e90",
        default=None,
    )
    filter: _Line | None = _key(
        "A Microsoft Graph filter on users, in place of a group.",
        "employeeType eq 'Alumni'",
        default=None,
    )
    exclude: Annotated[tuple[_Guid, ...], AfterValidator(_unordered)] = _key(
        "Object ids of groups whose members are never written to.",
        ["5f0c6a2e-8f43-4d1b-9a57-2f5f3c1d7e90"],
        default=(),
    )
    guests: bool = _key("Whether guest accounts are addressed, too.", False, default=False)


class Contact(_Part):
    """The directory fields that contacts come from; the first usable one is taken."""

    email: Annotated[
        tuple[Literal["otherMails", "mail"], ...], Field(min_length=1), AfterValidator(_distinct)
    ] = _key("Fields for email.", ["otherMails", "mail"], default=("otherMails", "mail"))
    sms: Annotated[tuple[Literal["mobilePhone"], ...], AfterValidator(_distinct)] = _key(
        "Fields for SMS.", ["mobilePhone"], default=("mobilePhone",)
    )
    default_region: Annotated[str, AfterValidator(_region), _json_text("[A-Z]{2}")] | None = _key(
        "Region of numbers without a country code, as ISO 3166 names it; such numbers are not used "
        "where it is left out.",
        "HK",
        default=None,
    )


class Step(_Part):
    """One touch of the cadence: a day, counted from the deadline's, and what is sent on it."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["days_before"]}, {"required": ["days_after"]}]}
    )

    touch: _Name = _key("The touch's name: what the ledger remembers people by.", "week")
    days_before: Annotated[int, Field(ge=0, le=730)] | None = _key(
        "Calendar days before the deadline's day; 0 is the day itself.", 7, default=None
    )
    days_after: Annotated[int, Field(ge=1, le=365)] | None = _key(
        "Calendar days after the deadline's day.", 3, default=None
    )
    message: MessageName = _key("Which words are sent.", "reminder")
    channels: Annotated[tuple[Channel, ...], Field(min_length=1), AfterValidator(_unordered)] = (
        _key("How it is sent: by email, by SMS, or both.", ["email"])
    )


class Window(_Part):
    """The hours in which the campaign may send, in its zone; `days` are 0 (Monday) to 6."""

    days: Annotated[tuple[int, ...], BeforeValidator(_weekdays), _json_text(_DAYS)] = _key(
        "Weekdays: a range, a list, or both.",
        "mon-fri",
        default=(0, 1, 2, 3, 4),
        json_schema_extra={"default": "mon-fri"},
    )
    from_: _Clock = _key(
        "When the window opens.",
        "09:00",
        alias="from",
        default=time(9),
        json_schema_extra={"default": "09:00"},
    )
    until: _Clock = _key(
        "When the window closes.",
        "18:00",
        default=time(18),
        json_schema_extra={"default": "18:00"},
    )

    @model_validator(mode="after")
    def _opens_before_it_closes(self) -> Self:
        if self.from_ >= self.until:
            raise wrong("must open before it closes, on one and the same day")
        return self


class WarmUp(_Part):
    """How the day's limit of email grows while its domain makes a name for itself."""

    start: _Count = _key("Recipients on the first day.", 500, default=500)
    growth: _Growth = _key(
        "Each day's limit in terms of that of the day before; only days with mail count.",
        1.5,
        default=1.5,
    )


class Canary(_Part):
    """The few who are written to first, of each touch and channel."""

    recipients: Annotated[int, Field(ge=1, le=1000)] = _key("How many.", 50, default=50)
    delivered: _Share = _key(
        "Share of them that must be delivered before the others are written to.", 0.8, default=0.8
    )


class Guards(_Part):
    """How much may go wrong before a channel pauses."""

    ambiguous: _Share = _key(
        "Calls of an hour that have no clear answer, from 20 of them on.", 0.02, default=0.02
    )
    bounces: _Share = _key(
        "Recipients of a touch whose address turns out to be bad, where they are over 20.",
        0.05,
        default=0.05,
    )


class Sending(_Part):
    """Whether, when and how fast is sent."""

    mode: Mode = _key(
        "dry-run: counts, sends nothing. trial: the accounts under `trial` only. live: everybody.",
        "dry-run",
        default="dry-run",
    )
    trial: Annotated[
        tuple[Annotated[str, AfterValidator(_account)], ...], AfterValidator(_unordered)
    ] = _key(
        "Accounts that a trial writes to: object ids or user principal names.",
        ["5f0c6a2e-8f43-4d1b-9a57-2f5f3c1d7e90"],
        default=(),
    )
    window: Window = _key(
        "The hours in which mail may leave.",
        {"days": "mon-fri", "from": "09:00", "until": "18:00"},
        default_factory=Window,
    )
    min_gap_hours: Annotated[int, Field(ge=0, le=168)] = _key(
        "Least hours between two touches of one person.", 20, default=20
    )
    parcel_size: Annotated[int, Field(ge=1, le=1000)] = _key(
        "Recipients of one email call: what one unclear answer can touch.", 500, default=500
    )
    max_per_hour: dict[Channel, _Count] = _key(
        "Most recipients an hour, by channel; no limit where none is given.",
        {"email": 20000},
        default_factory=dict,
    )
    max_per_day: dict[Channel, _Count] = _key(
        "Most recipients a day, by channel; no limit where none is given.",
        {"email": 100000},
        default_factory=dict,
    )
    warm_up: WarmUp | None = _key(
        "A day's limit of email that grows from the campaign's first day on; for a domain that has "
        "not sent much before.",
        {"start": 500, "growth": 1.5},
        default=None,
    )
    max_per_domain_per_hour: Annotated[
        dict[_Domain, _Count], Field(max_length=MOST_DOMAINS), WrapValidator(_one_spelling)
    ] = _key(
        "Most emails an hour to the addresses of one domain.",
        {"gmail.com": 2000},
        default_factory=dict,
    )
    canary: Canary | None = _key(
        "The few who are written to first, in mode live. It needs the provider's receipts.",
        {"recipients": 50, "delivered": 0.8},
        default=None,
    )
    seed_addresses: Annotated[
        tuple[_Email, ...], Field(max_length=MOST_SEEDS), AfterValidator(_distinct_addresses)
    ] = _key(
        "Colleagues who get every mail, without personal links and outside all counts.",
        ["ithelp@hku.hk"],
        default=(),
    )
    guards: Guards = _key(
        "Shares of what is sent that pause a channel; 1 switches a guard off.",
        {"ambiguous": 0.02, "bounces": 0.05},
        default_factory=Guards,
    )

    @property
    def live_canary(self) -> Canary | None:
        """The canary where there is to be one. None in a trial: that its few accounts were
        reached says nothing of the audience, and must not let it pass later."""
        return self.canary if self.mode == "live" else None


def _last_day(deadline: date, zone: ZoneInfo) -> date:
    """The last calendar day in `zone` that has a moment before the deadline."""
    if isinstance(deadline, datetime):
        return (deadline - timedelta(microseconds=1)).astimezone(zone).date()
    return deadline


def _deadline(value: object, info: ValidationInfo) -> date:
    """A day, or a moment in UTC. A moment that ends a day in the campaign's zone is that day."""
    match = re.fullmatch(_MOMENT, value) if isinstance(value, str) else None
    if match is None:
        return _day(value)
    day = _day(match["day"])
    zone = ZoneInfo(info.data["timezone"]) if "timezone" in info.data else None
    local = datetime.fromisoformat(f"{day}T{match['clock']}")
    if match["offset"] is None:
        example = local.replace(tzinfo=zone or UTC).isoformat(timespec="minutes")
        raise wrong(
            f"is a time without an offset: {show(value)}",
            f"write the offset, too: `{example}`; or the date alone, for the end of that day",
        )
    offset = datetime.strptime(match["offset"], "%z").tzinfo
    moment = CampaignTime(local.replace(tzinfo=offset).astimezone(UTC))
    if zone is None:
        return moment
    day = moment.astimezone(zone).date()
    return day - DAY if start_of_day(day, zone) == moment else moment


def _enforced_from(value: object, info: ValidationInfo) -> date | None:
    """The day, or None where it is the one that goes without saying."""
    day = _day(value)
    if "deadline" not in info.data or "timezone" not in info.data:
        return day
    deadline = info.data["deadline"]
    last_day = _last_day(deadline, ZoneInfo(info.data["timezone"]))
    # A deadline in the middle of a day may be enforced from that day on.
    earliest = last_day if isinstance(deadline, datetime) else last_day + DAY
    if day < earliest:
        raise wrong(
            "lies before the deadline",
            f"write a day from `{earliest}` on, or leave the key out for `{last_day + DAY}`",
        )
    return None if day == last_day + DAY else day


class Campaign(_Part):
    """One deadline, one audience, one cadence. Made by `parse_campaign`.

    A campaign is a value: hashable, and equal to whatever means the same.
    """

    campaign: _Name = _key(
        "The campaign's name: lower-case letters, digits, dashes. Never change it.",
        "hku-alumni-2027",
    )
    # Before the dates: they are read in it.
    timezone: Annotated[str, AfterValidator(_zone)] = _key(
        "The zone in which days begin and end.", "Asia/Hong_Kong"
    )
    deadline: Annotated[
        date, PlainValidator(_deadline), _json_text(rf"{_DATE}([T ]{_CLOCK}.*)?")
    ] = _key(
        "Last day to register, until its end; or a time with its offset, "
        "such as 2027-03-31T18:00+08:00.",
        "2027-03-31",
    )
    enforced_from: Annotated[date | None, PlainValidator(_enforced_from), _json_text(_DATE)] = _key(
        "First day on which MFA is required; the day after the deadline if left out.",
        "2027-04-01",
        default=None,
    )
    institution: Institution = _key(
        "The institution's names and pages.", {"name": {"en": "The University of Hong Kong"}}
    )
    sender: SenderIdentity = _key(
        "Who writes, and where answers go.",
        {
            "name": "HKU Information Technology Services",
            "email": "no-reply@its.hku.hk",
            "reply_to": "ithelp@hku.hk",
        },
    )
    administrators: Annotated[
        tuple[_Email, ...], Field(min_length=1), AfterValidator(_unordered)
    ] = _key("Who is told of pauses and mistakes.", ["ithelp@hku.hk"])
    audience: Audience = _key(
        "Whom the campaign addresses.", {"group": "5f0c6a2e-8f43-4d1b-9a57-2f5f3c1d7e90"}
    )
    contact: Contact = _key(
        "Where contacts come from.",
        {"email": ["otherMails", "mail"], "sms": ["mobilePhone"]},
        default_factory=Contact,
    )
    done_when: Literal["registered", "capable"] = _key(
        "registered: has a method. capable: has one that policy lets them use.",
        "registered",
        default="registered",
    )
    cadence: Annotated[tuple[Step, ...], Field(min_length=1, max_length=100)] = _key(
        "The touches, in the order of time.",
        [{"touch": "week", "days_before": 7, "message": "reminder", "channels": ["email"]}],
    )
    sending: Sending = _key(
        "The switch, the hours and the pace.", {"mode": "dry-run"}, default_factory=Sending
    )

    @field_validator("*")
    @classmethod
    def _note_good_part(cls, value: object, info: ValidationInfo) -> object:
        """Hand good parts out even where others fail: `parse_campaign` looks on at them."""
        if info.context is not None:
            info.context[info.field_name] = value
        return value

    def __hash__(self) -> int:
        return hash((self.campaign, self.timezone, self.deadline, self.cadence))

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def last_day(self) -> date:
        """The deadline's day, which `days_before` and `days_after` count from."""
        return _last_day(self.deadline, self.zone)

    @property
    def deadline_at(self) -> CampaignTime:
        """The moment from which on it is too late: the end of the day where only that is given."""
        if isinstance(self.deadline, datetime):
            return CampaignTime(self.deadline)
        return start_of_day(self.deadline + DAY, self.zone)

    @property
    def enforced_on(self) -> date:
        """The first day on which MFA is required."""
        return self.enforced_from or self.last_day + DAY


# Rules that span keys. Each is asked as soon as the parts that it needs are right in themselves.


def missing_touches(campaign: Campaign, had: Iterable[str]) -> list[str]:
    """Touches that people have had and that the cadence no longer names."""
    return sorted(set(had) - {step.touch for step in campaign.cadence})


def _check_audience(campaign: Campaign, allowed: Allowed | None) -> Iterator[Complaint]:
    audience = campaign.audience
    if (audience.group is None) == (audience.filter is None):
        both = audience.group is not None
        yield Complaint(
            ("audience", "filter") if both else ("audience",),
            f"`audience` names {'both a group and a filter' if both else 'no group and no filter'}",
            "keep one of them" if both else "add `group` with an object id, or `filter`",
        )
    if audience.group == NOBODY and allowed and not allowed.local:
        yield Complaint(
            ("audience", "group"),
            "`audience.group` is the example's, which is nobody's",
            "write the object id of your group of alumni",
        )


MOST_TRIAL = 100
"""Accounts of a trial. It may use any sender and any link (invariant 11): a file that names
everybody there would be a way around both lists."""


def _check_trial(campaign: Campaign, _: Allowed | None) -> Iterator[Complaint]:
    if campaign.sending.mode != "trial":
        return
    if not campaign.sending.trial:
        yield Complaint(
            ("sending", "mode"),
            "`sending.mode` is trial, and `trial` names nobody",
            "add object ids or user principal names to `trial`",
        )
    if len(campaign.sending.trial) > MOST_TRIAL:
        yield Complaint(
            ("sending", "trial"),
            f"`sending.trial` names more than {MOST_TRIAL} accounts",
            "try it with fewer; `live` is for everybody",
        )


def _check_allowed(campaign: Campaign, allowed: Allowed | None) -> Iterator[Complaint]:
    """Invariant 11: live means the institution's own domain."""
    if allowed is None or campaign.sending.mode != "live":
        return
    address = campaign.sender.email.casefold()
    domain = address.partition("@")[2]
    if not {address, domain} & {sender.casefold() for sender in allowed.senders}:
        yield Complaint(
            ("sender", "email"),
            f"`sender.email` is an address of `{domain}` that may not send in live mode",
            "add it to the setting ALLOWED_SENDERS, or write one that stands there",
        )
    hosts = {host.casefold() for host in allowed.link_hosts}
    for key, host in campaign.institution.link_hosts.items():
        if host not in hosts:
            yield Complaint(
                ("institution", key),
                f"`institution.{key}` leads to `{host}`, which no link may lead to in live mode",
                "add the host to the setting ALLOWED_LINK_HOSTS, or link to one that stands there",
            )


def _check_senders(campaign: Campaign, allowed: Allowed | None) -> Iterator[Complaint]:
    if (found := _first_by_sms(campaign)) and allowed and "sms" not in allowed.channels:
        path, touch = found
        yield Complaint(
            path,
            f"the touch `{touch}` goes out by SMS, which the app has no sender for",
            "set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_FROM, or write "
            "`channels: [email]`",
        )


def not_allowed(campaign: Campaign, allowed: Allowed) -> list[str]:
    """What a campaign names that the settings do not allow (any more), as sentences."""
    complaints = [*_check_allowed(campaign, allowed), *_check_senders(campaign, allowed)]
    return [f"{what}. Fix: {fix}." for _, what, fix in complaints]


def _check_texts(campaign: Campaign, _: Allowed | None) -> Iterator[Complaint]:
    """What an SMS cannot do without: a number, and words that are short enough."""
    found = _first_by_sms(campaign)
    if found is None:
        return
    touch, institution = f"the touch `{found[1]}` goes out by SMS", campaign.institution
    if not campaign.contact.sms:
        yield Complaint(
            ("contact", "sms"),
            f"`contact.sms` is empty, and {touch}",
            "write `sms: [mobilePhone]`, or `channels: [email]` there",
        )
    if not institution.look_for:
        yield Complaint(
            ("institution",),
            f"`institution.look_for` is missing, and {touch}",
            "add what to look for on your own site, since an SMS holds no link: "
            "`look_for: {en: MFA pre-registration for alumni}`",
        )
    for language, name in institution.name.items():
        if len(name) > MOST_SHORT_NAME and language not in institution.short_name:
            yield Complaint(
                ("institution", "name"),
                f"`institution.name` in `{language}` has more than {MOST_SHORT_NAME} characters, "
                f"and {touch}",
                f"add a name of at most {MOST_SHORT_NAME} to `short_name`, like "
                f"`short_name: {{{language}: HKU}}`",
            )


def _first_by_sms(campaign: Campaign) -> tuple[Path, str] | None:
    """The first touch that goes out by SMS, and where it says so."""
    return next(
        (
            (("cadence", index, "channels"), step.touch)
            for index, step in enumerate(campaign.cadence)
            if "sms" in step.channels
        ),
        None,
    )


def _check_cadence(campaign: Campaign, _: Allowed | None) -> Iterator[Complaint]:
    names: set[str] = set()
    above: tuple[int, int] | None = None
    for index, step in enumerate(campaign.cadence):
        path, name = ("cadence", index), f"the touch `{step.touch}`"
        if step.touch in names:
            yield Complaint(
                (*path, "touch"),
                f"two touches are named `{step.touch}`",
                "give each touch a name of its own",
            )
        names.add(step.touch)
        if (step.days_before is None) == (step.days_after is None):
            yield Complaint(
                path,
                f"{name} must have one of `days_before` and `days_after`",
                "write `days_before: 7` or `days_after: 3`",
            )
            continue
        after = step.days_after is not None
        if after != (step.message == "after"):
            yield Complaint(
                (*path, "message"),
                f"{name} comes {'after' if after else 'before'} the deadline, and its message is "
                f"`{step.message}`",
                "write `message: after`"
                if after
                else "write `message: announce`, `reminder` or `last-call`",
            )
        position = (
            (1, step.days_after) if step.days_after is not None else (0, -(step.days_before or 0))
        )
        if above is not None and position < above:
            yield Complaint(
                path,
                f"{name} comes earlier than the one above it",
                "put the touches in the order of time",
            )
        above = position


def _check_open_hours(campaign: Campaign, allowed: Allowed | None) -> Iterator[Complaint]:
    if any(_check_cadence(campaign, allowed)):
        return  # touches out of order have no schedule
    schedule = build_schedule(campaign)
    for step in schedule.steps:
        kept = kept_hours(schedule, step)
        if kept < LEAST_OPEN:
            yield Complaint(
                ("cadence", step.order),
                f"the touch `{step.touch}` on {step.day} keeps {kept / timedelta(hours=1):.1f} of "
                f"the 2 open hours that it needs before the next touch or the deadline",
                "move it, widen `sending.window` or lower `sending.min_gap_hours`",
            )


def _check_names(campaign: Campaign, had: Iterable[str]) -> Iterator[Complaint]:
    for touch in missing_touches(campaign, had):
        yield Complaint(
            ("cadence",),
            f"people have had the touch `{touch}`, and the cadence no longer names it",
            f"keep the name `{touch}`: under another one they would get it again",
        )


type _Check = Callable[[Campaign, Allowed | None], Iterator[Complaint]]

_CHECKS: Sequence[tuple[frozenset[str], _Check]] = (
    (frozenset({"audience"}), _check_audience),
    (frozenset({"sending"}), _check_trial),
    (frozenset({"sending", "sender", "institution"}), _check_allowed),
    (frozenset({"cadence"}), _check_senders),
    (frozenset({"cadence", "contact", "institution"}), _check_texts),
    (frozenset({"cadence"}), _check_cadence),
    (frozenset({"cadence", "sending", "deadline", "timezone"}), _check_open_hours),
)

_EXPLAINER = Explainer(Campaign, "a campaign file")
_DEFAULTS = {name for name, field in Campaign.model_fields.items() if not field.is_required()}


def parse_campaign(
    text: str, *, file: str, allowed: Allowed | None, had: frozenset[str] = frozenset()
) -> Campaign:
    """Read a campaign file.

    Args:
        text: the whole file.
        file: its name, for mistakes.
        allowed: what it may name; None for a version that was accepted before (`not_allowed` then
            says what the settings of today think of it).
        had: touches that people have had under this campaign's name. A name that is gone from the
            cadence is a mistake: whoever had the touch would get it again under the new name.

    Raises:
        CampaignMistakes: with all that is wrong, in order of line (the first hundred, where this
            is no campaign file at all).
    """
    try:
        reading = Reading(text)
    except Unreadable as error:
        raise CampaignMistakes((Mistake(file, error.line, error.what, error.fix),)) from None
    good: dict[str, Any] = {}
    errors: list[ErrorDetails] = []
    try:
        campaign = Campaign.model_validate(reading.tree, context=good)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        campaign = Campaign.model_construct(**good)
    complaints = [*reading.complaints, *_EXPLAINER.explain(errors, reading.empty)]
    usable = good.keys() | _DEFAULTS - reading.tree.keys()
    for needs, check in _CHECKS:
        if needs <= usable:
            complaints += check(campaign, allowed)
    if "cadence" in usable:
        complaints += _check_names(campaign, had)
    if complaints:
        mistakes = {
            Mistake(file, reading.line_of(path), what, fix) for path, what, fix in complaints
        }
        in_order = sorted(mistakes, key=lambda one: (one.line, one.what))
        raise CampaignMistakes(tuple(in_order[:MOST_MISTAKES]))
    return campaign


class _Schema(GenerateJsonSchema):
    """Without what is not the file's: titles that repeat the keys, and null, which stands for a
    key that is not there."""

    @override
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    @override
    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    @override
    def default_schema(self, schema: Any) -> dict[str, Any]:
        described = super().default_schema(schema)
        if described.get("default") is None:
            described.pop("default", None)
        return described


def campaign_schema() -> dict[str, Any]:
    """The JSON Schema of a campaign file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Campaign.model_json_schema(schema_generator=_Schema),
    }


if __name__ == "__main__":
    print(json.dumps(campaign_schema(), indent=2, ensure_ascii=False))
