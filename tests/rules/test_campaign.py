"""The campaign file: what it says, and each mistake in it, by line, with what would be right."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from shared.messages.catalogue import MESSAGES
from shared.rules.cadence import build_schedule
from shared.rules.campaign import (
    MOST_TRIAL,
    Allowed,
    Campaign,
    CampaignMistakes,
    Canary,
    Contact,
    Guards,
    MessageName,
    Mistake,
    Sending,
    WarmUp,
    campaign_schema,
    missing_touches,
    not_allowed,
    parse_campaign,
)
from shared.rules.contact import EMAIL_FIELDS
from shared.rules.parcels import CHANNELS
from shared.rules.yaml_lines import MAX_CHARACTERS

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "campaign.example.yaml").read_text()
SCHEMA_FILE = ROOT / "campaign.schema.json"

LOCAL = Allowed(
    senders=frozenset(), link_hosts=frozenset(), local=True, channels=frozenset(CHANNELS)
)
AZURE = Allowed(
    senders=frozenset({"its.hku.hk"}),
    link_hosts=frozenset({"its.hku.hk"}),
    local=False,
    channels=frozenset({"email"}),
)
REAL_GROUP = "00000000-0000-0000-0000-000000000000", "5f0c6a2e-8f43-4d1b-9a57-2f5f3c1d7e90"


# Keys that stand in the example's comments.
WARM_UP = "# warm_up: {start: 500, growth: 1.5}"
DOMAINS = "# max_per_domain_per_hour: {gmail.com: 2000}"
CANARY = "# canary: {recipients: 50, delivered: 0.8}"
SEEDS = "# seed_addresses: [ithelp@hku.hk]"
GUARDS = "# guards: {ambiguous: 0.02, bounces: 0.05}"
PER_DAY = "# max_per_day: {email: 100000, sms: 20000}"
SHORT_NAME = "# short_name: {en: HKU}"
LOOK_FOR = "# look_for: {en: MFA pre-registration for alumni}"


def parse(text: str, allowed: Allowed = LOCAL, had: frozenset[str] = frozenset()) -> Campaign:
    return parse_campaign(text, file="hku.yaml", allowed=allowed, had=had)


def mistakes_in(
    text: str, allowed: Allowed = LOCAL, had: frozenset[str] = frozenset()
) -> tuple[Mistake, ...]:
    with pytest.raises(CampaignMistakes) as caught:
        parse(text, allowed, had)
    return caught.value.mistakes


def changed(*replacements: tuple[str, str]) -> str:
    """The example with some of its text replaced; each piece must stand there exactly once."""
    text = EXAMPLE
    for old, new in replacements:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def line_of(piece: str) -> int:
    """Where a piece of the example's text stands, counted from 1."""
    return EXAMPLE[: EXAMPLE.index(piece)].count("\n") + 1


# What it says


def test_the_example_says_what_the_design_says() -> None:
    campaign = parse(EXAMPLE)
    assert campaign.campaign == "hku-alumni-2027"
    assert campaign.institution.name == {"en": "The University of Hong Kong"}
    assert campaign.contact.email == ("otherMails", "mail")
    assert campaign.sending.mode == "dry-run"
    assert campaign.sending.window.days == (0, 1, 2, 3, 4)
    assert (campaign.sending.min_gap_hours, campaign.sending.parcel_size) == (20, 500)
    assert campaign.sending == Sending()  # whatever else its comments show
    assert [(step.touch, step.days_before, step.days_after) for step in campaign.cadence] == [
        ("announce", 60, None),
        ("month", 30, None),
        ("fortnight", 14, None),
        ("week", 7, None),
        ("last-call", 1, None),
        ("after", None, 3),
    ]


def test_the_keys_in_the_examples_comments_are_keys() -> None:
    text, uncommented = re.subn(r"# (?=[a-z_]+: [\[{])", "", EXAMPLE)
    campaign = parse(text)
    institution, sending = campaign.institution, campaign.sending
    assert uncommented == 9
    assert institution.look_for == {"en": "MFA pre-registration for alumni"}
    assert institution.short_name == {"en": "HKU"}
    assert sending.max_per_hour == {"email": 20000}
    assert sending.max_per_day == {"email": 100000, "sms": 20000}
    assert sending.warm_up == WarmUp(start=500, growth=1.5)
    assert sending.max_per_domain_per_hour == {"gmail.com": 2000}
    assert sending.canary == Canary(recipients=50, delivered=0.8)
    assert sending.seed_addresses == ("ithelp@hku.hk",)
    assert sending.guards == Guards(ambiguous=0.02, bounces=0.05)


def test_a_region_is_where_numbers_are_at_home() -> None:
    assert parse(EXAMPLE).contact.default_region is None
    text = changed(("sms: [mobilePhone]}", "sms: [mobilePhone], default_region: GB}"))
    assert parse(text).contact.default_region == "GB"


def test_the_examples_first_line_leads_editors_to_the_schema() -> None:
    assert EXAMPLE.splitlines()[0] == f"# yaml-language-server: $schema=./{SCHEMA_FILE.name}"


DEADLINES: list[tuple[str, str, str, str]] = [
    # deadline, its moment in UTC, the last day, enforced on
    ("2027-03-31", "2027-03-31 16:00", "2027-03-31", "2027-04-01"),
    ('"2027-03-31"', "2027-03-31 16:00", "2027-03-31", "2027-04-01"),
    ("2027-03-31T18:00+08:00", "2027-03-31 10:00", "2027-03-31", "2027-04-01"),
    ("2027-03-31T18:00:00+08:00", "2027-03-31 10:00", "2027-03-31", "2027-04-01"),
    ("2027-03-31 10:00Z", "2027-03-31 10:00", "2027-03-31", "2027-04-01"),
    # The zone's day, not that of the offset.
    ("2027-03-30T20:00-05:00", "2027-03-31 01:00", "2027-03-31", "2027-04-01"),
    # A moment that ends a day: nothing of the next one is left.
    ("2027-04-01T00:00+08:00", "2027-03-31 16:00", "2027-03-31", "2027-04-01"),
    ("2028-02-29", "2028-02-29 16:00", "2028-02-29", "2028-03-01"),
    ("2027-12-31", "2027-12-31 16:00", "2027-12-31", "2028-01-01"),
]


@pytest.mark.invariant(9)
@pytest.mark.parametrize(("deadline", "moment", "last_day", "enforced_on"), DEADLINES)
def test_a_deadline_is_the_end_of_its_day_in_the_zone_or_a_moment(
    deadline: str, moment: str, last_day: str, enforced_on: str
) -> None:
    campaign = parse(
        changed(
            ("deadline: 2027-03-31", f"deadline: {deadline}"), ("enforced_from: 2027-04-01", "")
        )
    )
    assert campaign.deadline_at == datetime.fromisoformat(moment).replace(tzinfo=UTC)
    assert campaign.last_day == date.fromisoformat(last_day)
    assert campaign.enforced_on == date.fromisoformat(enforced_on)


SAME: list[tuple[str, str, str]] = [
    ("the default day", "enforced_from: 2027-04-01", ""),
    ("the default group of keys", "contact: {email: [otherMails, mail], sms: [mobilePhone]}", ""),
    ("a default key", "  min_gap_hours: 20\n", ""),
    ("a moment that ends the day", "deadline: 2027-03-31", "deadline: 2027-04-01T00:00+08:00"),
    ("the same in UTC", "deadline: 2027-03-31", "deadline: 2027-03-31T16:00Z"),
    ("days as a list", "days: mon-fri", 'days: "Wed, mon,tue-thu, fri"'),
    ("an empty list", "  exclude: []\n", ""),
    ("quotes", "campaign: hku-alumni-2027", "campaign: 'hku-alumni-2027'"),
    ("another form of list", "administrators: [ithelp@hku.hk]", "administrators:\n- ithelp@hku.hk"),
    ("a domain in capitals", "administrators: [ithelp@hku.hk]", "administrators: [ithelp@HKU.hk]"),
    ("twice the same", "administrators: [ithelp", "administrators: [ithelp@hku.hk, ithelp"),
    ("the default guards", GUARDS, "guards: {}"),
    ("limits of nothing", PER_DAY, "max_per_day: {}"),
    ("a comment", "sending:\n", "sending: # soon\n"),
    ("line ends of Windows", "\n", "\r\n"),
    ("a mark of byte order", "# yaml-language-server", "\ufeff# yaml-language-server"),
]  # fmt: skip


@pytest.mark.invariant(7)
@pytest.mark.parametrize(("_what", "old", "new"), SAME)
def test_what_means_the_same_is_the_same_campaign(_what: str, old: str, new: str) -> None:
    assert old in EXAMPLE
    campaign = parse(EXAMPLE.replace(old, new))
    assert campaign == parse(EXAMPLE)
    assert hash(campaign) == hash(parse(EXAMPLE))


@pytest.mark.invariant(7)
def test_the_order_of_keys_languages_and_accounts_means_nothing() -> None:
    names = "name: {zh-Hant: 香港大學, en: The University of Hong Kong}"
    one = changed(
        ("name: {en: The University of Hong Kong}", names),
        ("trial: []", f"trial: [u1@connect.hku.hk, {REAL_GROUP[1]}]"),
        ("administrators: [ithelp@hku.hk]\n", ""),
    )
    other = changed(
        ("name: {en: The University of Hong Kong}", names.replace("{", "{en: HKU, ").replace(
            ", en: The University of Hong Kong", ""
        ).replace("en: HKU", "en: The University of Hong Kong")),
        ("trial: []", f"trial: [{REAL_GROUP[1].upper()}, U1@connect.hku.hk]"),
        ("administrators: [ithelp@hku.hk]\n", ""),
    )  # fmt: skip
    last = "administrators: [ithelp@hku.hk]\n"
    assert parse(one + last) == parse(last + other)
    assert list(parse(one + last).institution.name) == ["en", "zh-Hant"]


@pytest.mark.invariant(7)
def test_spelling_and_order_of_the_pace_mean_nothing() -> None:
    one = changed(
        (WARM_UP, "warm_up: {start: 500, growth: 2}"),
        (PER_DAY, "max_per_day: {email: 7, sms: 9}"),
        (DOMAINS, "max_per_domain_per_hour: {gmail.com: 1, xn--mller-kva.example: 2}"),
        (CANARY, "canary: {recipients: 50, delivered: 0.8}"),
        (SEEDS, "seed_addresses: [b@hku.hk, A@hku.hk]"),
    )
    other = changed(
        (WARM_UP, "warm_up: {growth: 2.00}"),
        (PER_DAY, "max_per_day: {sms: 9, email: 7}"),
        (DOMAINS, "max_per_domain_per_hour: {Müller.example: 2, GMail.com: 1}"),
        (CANARY, "canary: {delivered: .80}"),
        (SEEDS, "seed_addresses: [A@HKU.hk, b@hku.hk]"),
    )
    assert parse(one) == parse(other)
    assert hash(parse(one)) == hash(parse(other))


DIFFERENT: list[tuple[str, str]] = [
    ("deadline: 2027-03-31", "deadline: 2027-03-30"),
    ("email: [otherMails, mail]", "email: [mail, otherMails]"),
    ("mode: dry-run", "mode: live"),
    ("password_name: {en: Portal PIN}", "password_name: {en: Portal pin}"),
    ("days_before: 14", "days_before: 13"),
    ("sms: [mobilePhone]}", "sms: [mobilePhone], default_region: HK}"),
    (SHORT_NAME, "short_name: {en: HKU}"),
    (WARM_UP, "warm_up: {}"),
    (CANARY, "canary: {}"),
    (GUARDS, "guards: {ambiguous: 1}"),
    (DOMAINS, "max_per_domain_per_hour: {gmail.com: 1}"),
]


@pytest.mark.parametrize(("old", "new"), DIFFERENT)
def test_what_means_something_else_is_another_campaign(old: str, new: str) -> None:
    allowed = Allowed(AZURE.senders, AZURE.link_hosts, local=True, channels=AZURE.channels)
    assert parse(changed((old, new)), allowed) != parse(EXAMPLE, allowed)


def test_anchors_and_aliases_stand_for_what_they_name() -> None:
    text = changed(
        ("help_desk: ithelp@hku.hk", "help_desk: &desk ithelp@hku.hk"),
        ("administrators: [ithelp@hku.hk]", "administrators: [*desk]"),
    )
    assert parse(text) == parse(EXAMPLE)


# Mistakes. Each stands on the line on which its text does.


@dataclass(frozen=True)
class Case:
    old: str
    new: str
    what: str
    fix: str
    allowed: Allowed = LOCAL


MISTAKES: dict[str, Case] = {
    # keys
    "a misspelt key": Case(
        "deadline: 2027-03-31", "dedline: 2027-03-31",
        "`dedline` is not a key of a campaign file", "did you mean `deadline`?",
    ),
    "a misspelt key further in": Case(
        "reply_to: ithelp@hku.hk", "replyto: ithelp@hku.hk",
        "`replyto` is not a key of `sender`", "did you mean `reply_to`?",
    ),
    "a key of no meaning": Case(
        "done_when: registered", "done_when: registered\ncolour: blue",
        "`colour` is not a key of a campaign file", "the keys here are campaign, ",
    ),
    "a key in another place": Case(
        "done_when: registered", "done_when: registered\nmin_gap_hours: 20",
        "`min_gap_hours` is not a key of a campaign file", "it belongs under `sending`",
    ),
    "a key out of its place": Case(
        "  mode: dry-run", "  done_when: capable",
        "`done_when` is not a key of `sending`", "it belongs at the top level",
    ),
    "a key of YAML's past": Case(
        "sending:\n", "sending:\n  <<: {mode: live}\n",
        "`<<` is not a key of `sending`", "the keys here are mode, ",
    ),
    "a key twice": Case(
        "done_when: registered", "campaign: hku-alumni-2028",
        "`campaign` stands on line 7 already", "keep one of the two",
    ),
    "a key twice further in": Case(
        "  guests: false", "  exclude: []",
        "`exclude` stands on line 45 already", "keep one of the two",
    ),
    "a key with nothing after it": Case(
        "done_when: registered", "done_when:",
        "`done_when` has no value", "write it like `done_when: registered`",
    ),
    "a key that may be missing, with nothing after it": Case(
        "  trial: []", "  trial:",
        "`sending.trial` has no value", "write it like `trial: [",
    ),
    # dates, times, zones
    "not a day": Case(
        "deadline: 2027-03-31", "deadline: 2027-02-30",
        "`deadline` is not a day of the calendar: `2027-02-30`", "like `deadline: 2027-03-31`",
    ),
    "a date in another order": Case(
        "deadline: 2027-03-31", "deadline: 31/03/2027",
        "`deadline` is not a date: `31/03/2027`", "write it like `deadline: 2027-03-31`",
    ),
    "a number for a date": Case(
        "deadline: 2027-03-31", "deadline: 20270331",
        "`deadline` is not a date", "write it like `deadline: 2027-03-31`",
    ),
    "another century": Case(
        "deadline: 2027-03-31", "deadline: 0207-03-31",
        "`deadline` is not in this century", "write it like `deadline: 2027-03-31`",
    ),
    "a time without an offset": Case(
        "deadline: 2027-03-31", "deadline: 2027-03-31T18:00",
        "`deadline` is a time without an offset: `2027-03-31T18:00`",
        "write the offset, too: `2027-03-31T18:00+08:00`; or the date alone",
    ),
    "enforced on the deadline's day": Case(
        "enforced_from: 2027-04-01", "enforced_from: 2027-03-31",
        "`enforced_from` lies before the deadline", "write a day from `2027-04-01` on",
    ),
    "enforced at a time": Case(
        "enforced_from: 2027-04-01", "enforced_from: 2027-04-01T00:00+08:00",
        "`enforced_from` is not a date", "write it like `enforced_from: 2027-04-01`",
    ),
    "a zone misspelt": Case(
        "timezone: Asia/Hong_Kong", "timezone: Asia/Hongkong",
        "`timezone` is not a time zone: `Asia/Hongkong`", "did you mean `Asia/Hong_Kong`?",
    ),
    "an offset for a zone": Case(
        "timezone: Asia/Hong_Kong", "timezone: +08:00",
        "`timezone` is not a time zone", "write it like `timezone: Asia/Hong_Kong`",
    ),
    "an hour of one digit": Case(
        'from: "09:00"', "from: 9:00",
        "`sending.window.from` is not a time of day", 'write it like `from: "09:00"`',
    ),
    "midnight at the end": Case(
        'until: "18:00"', 'until: "24:00"',
        "`sending.window.until` is not a time of day", 'write it like `until: "18:00"`',
    ),
    "a window that ends before it begins": Case(
        'until: "18:00"', 'until: "08:00"',
        "`sending.window` must open before it closes", "write it like `window: {days: mon-fri, ",
    ),
    "a window that begins after the default end": Case(
        'from: "09:00", until: "18:00"', 'from: "19:00"',
        "`sending.window` must open before it closes", "write it like `window: {days: mon-fri, ",
    ),
    "weekdays in another language": Case(
        "days: mon-fri", "days: lun-ven",
        "`sending.window.days` is not a list of weekdays: `lun-ven`", "a list like `mon,wed,fri`",
    ),
    "no weekdays": Case(
        "days: mon-fri", 'days: ""',
        "`sending.window.days` is not a list of weekdays", "write a range like `mon-fri`",
    ),
    # values
    "capitals in the name": Case(
        "campaign: hku-alumni-2027", "campaign: HKU",
        "`campaign` may hold lower-case letters, digits and dashes only", "`campaign: hku-al",
    ),
    "a number for text": Case(
        "account_example: UID@connect.hku.hk", "account_example: 3035000000",
        "`institution.account_example` must be text, not a number", "put it in quotes",
    ),
    "text for a number": Case(
        "parcel_size: 500", 'parcel_size: "500"',
        "`sending.parcel_size` must be a whole number", "write it like `parcel_size: 500`",
    ),
    "a yes of YAML's past": Case(
        "guests: false", "guests: yes",
        "`audience.guests` must be true or false", "write it like `guests: false`",
    ),
    "no recipients a call": Case(
        "parcel_size: 500", "parcel_size: 0",
        "`sending.parcel_size` must be at least 1", "parcel_size: 500",
    ),
    "too many recipients a call": Case(
        "parcel_size: 500", "parcel_size: 1001",
        "`sending.parcel_size` must be at most 1000", "parcel_size: 500",
    ),
    "none an hour": Case(
        "# max_per_hour: {email: 20000}", "max_per_hour: {email: 0}",
        "`sending.max_per_hour` must be at least 1", "write it like `max_per_hour: {email: 20000}`",
    ),
    "an unknown mode": Case(
        "mode: dry-run", "mode: dryrun",
        "`sending.mode` cannot be `dryrun`", "did you mean `dry-run`?",
    ),
    "a trial of nobody": Case(
        "mode: dry-run", "mode: trial",
        "`sending.mode` is trial, and `trial` names nobody", "add object ids",
    ),
    "neither id nor account": Case(
        "trial: []", "trial: [the dean]",
        "`sending.trial` holds something that is neither an object id", "write it like `trial: [",
    ),
    "text for a mapping": Case(
        "password_name: {en: Portal PIN}", "password_name: Portal PIN",
        "`institution.password_name` must hold keys with values", "`password_name: {en: ",
    ),
    "text for a group of keys": Case(
        "contact: {email: [otherMails, mail], sms: [mobilePhone]}", "contact: email",
        "`contact` must hold keys with values", "`contact: {email: [otherMails, mail]",
    ),
    "text for a list": Case(
        "administrators: [ithelp@hku.hk]", "administrators: ithelp@hku.hk",
        "`administrators` must be a list", "write it like `administrators: [ithelp@hku.hk]`",
    ),
    "no administrators": Case(
        "administrators: [ithelp@hku.hk]", "administrators: []",
        "`administrators` is empty", "write it like `administrators: [ithelp@hku.hk]`",
    ),
    "two addresses in one": Case(
        "administrators: [ithelp@hku.hk]", 'administrators: ["a@hku.hk, b@hku.hk"]',
        "`administrators` is not an email address", "administrators: [ithelp@hku.hk]",
    ),
    "a field that is not in the directory": Case(
        "[otherMails, mail]", "[otherMail, mail]",
        "`contact.email` cannot be `otherMail`", "did you mean `otherMails`?",
    ),
    "a field twice": Case(
        "[otherMails, mail]", "[mail, mail]",
        "`contact.email` names something twice", "write it like `email: [otherMails, mail]`",
    ),
    "a name with a line break": Case(
        "name: HKU Information Technology Services", r'name: "HKU\r\nBcc: x"',
        "`sender.name` must be one line of text", "`name: HKU Information Technology Services`",
    ),
    "a name that is nothing but space": Case(
        "name: HKU Information Technology Services", 'name: " "',
        "`sender.name` must be one line of text", "`name: HKU Information Technology Services`",
    ),
    "a name with half a character": Case(
        "name: HKU Information Technology Services", r'name: "HKU \ud800"',
        "`sender.name` is not what it must be", "`name: HKU Information Technology Services`",
    ),
    "half a word in a language": Case(
        "password_name: {en: Portal PIN}", r'password_name: {en: "PIN\n"}',
        "`institution.password_name` must be one line of text", "`password_name: {en: Portal PIN}`",
    ),
    "a language in another form": Case(
        "password_name: {en: Portal PIN}", "password_name: {en: PIN, zh_TW: PIN}",
        "`institution.password_name` holds a language that is not written like", "{en: Portal PIN}",
    ),
    "no English": Case(
        "password_name: {en: Portal PIN}", "password_name: {fr: PIN}",
        "`institution.password_name` has no `en`", "`password_name: {en: Portal PIN}`",
    ),
    "a link without encryption": Case(
        "https://its.hku.hk/services/accounts-2fa/mfa/", "http://its.hku.hk/mfa/",
        "`institution.general_procedure_url` is not an https link", "write it like `general_",
    ),
    "a link in disguise": Case(
        "https://its.hku.hk/services/accounts-2fa/mfa/", "https://its.hku.hk@evil.example/",
        "`institution.general_procedure_url` is not an https link", "write it like `general_",
    ),
    "a link with a backslash": Case(
        "https://its.hku.hk/services/accounts-2fa/mfa/", r"https://evil.example\.its.hku.hk/",
        "`institution.general_procedure_url` is not an https link", "write it like `general_",
    ),
    "a tag": Case(
        "campaign: hku-alumni-2027", "campaign: !secret hku-alumni-2027",
        "the tag `!secret` means nothing here", "remove it",
    ),
    # pace
    "a limit of a channel of no kind": Case(
        PER_DAY, "max_per_day: {letters: 10}",
        "`sending.max_per_day` cannot be `letters`", "choose 'email' or 'sms'",
    ),
    "none a day": Case(
        PER_DAY, "max_per_day: {sms: 0}",
        "`sending.max_per_day` must be at least 1", "write it like `max_per_day: {email: 100000}`",
    ),
    "a warm-up from nothing": Case(
        WARM_UP, "warm_up: {start: 0}",
        "`sending.warm_up.start` must be at least 1", "write it like `start: 500`",
    ),
    "a warm-up that cools": Case(
        WARM_UP, "warm_up: {growth: 0.9}",
        "`sending.warm_up.growth` must be at least 1", "write it like `growth: 1.5`",
    ),
    "a warm-up backwards": Case(
        WARM_UP, "warm_up: {growth: -2}",
        "`sending.warm_up.growth` must be at least 1", "write it like `growth: 1.5`",
    ),
    "a warm-up that explodes": Case(
        WARM_UP, "warm_up: {growth: 10.5}",
        "`sending.warm_up.growth` must be at most 10", "write it like `growth: 1.5`",
    ),
    "a decimal comma": Case(
        WARM_UP, 'warm_up: {growth: "1,5"}',
        "`sending.warm_up.growth` must be a number", "write it like `growth: 1.5`",
    ),
    "no number at all": Case(
        WARM_UP, "warm_up: {growth: .inf}",
        "`sending.warm_up.growth` must be a number", "write it like `growth: 1.5`",
    ),
    "a yes for a number": Case(
        WARM_UP, "warm_up: {growth: true}",
        "`sending.warm_up.growth` must be a number", "write it like `growth: 1.5`",
    ),
    "a warm-up by channel": Case(
        WARM_UP, "warm_up: {email: 500}",
        "`email` is not a key of `sending.warm_up`", "it belongs under ",
    ),
    "an address for a domain": Case(
        DOMAINS, "max_per_domain_per_hour: {person@gmail.com: 2000}",
        "`sending.max_per_domain_per_hour` holds something that is not a mail domain",
        "write it like `max_per_domain_per_hour: {gmail.com: 2000}`",
    ),
    "a pattern for a domain": Case(
        DOMAINS, 'max_per_domain_per_hour: {"*.hku.hk": 2000}',
        "`sending.max_per_domain_per_hour` holds something that is not a mail domain",
        "write it like `max_per_domain_per_hour: {gmail.com: 2000}`",
    ),
    "a domain in two spellings": Case(
        DOMAINS, "max_per_domain_per_hour: {gmail.com: 2000, Gmail.com: 3000}",
        "`sending.max_per_domain_per_hour` names one domain in two spellings", "keep one of them",
    ),
    "none an hour for a domain": Case(
        DOMAINS, "max_per_domain_per_hour: {gmail.com: 0}",
        "`sending.max_per_domain_per_hour` must be at least 1", "{gmail.com: 2000}",
    ),
    "more domains than a limit can watch": Case(
        DOMAINS,
        f"max_per_domain_per_hour: {{{', '.join(f'd{n}.example: 9' for n in range(51))}}}",
        "`sending.max_per_domain_per_hour` has more than 50 entries", "{gmail.com: 2000}",
    ),
    "a canary of nobody": Case(
        CANARY, "canary: {recipients: 0}",
        "`sending.canary.recipients` must be at least 1", "write it like `recipients: 50`",
    ),
    "a canary of everybody": Case(
        CANARY, "canary: {recipients: 1001}",
        "`sending.canary.recipients` must be at most 1000", "write it like `recipients: 50`",
    ),
    "a canary that passes undelivered": Case(
        CANARY, "canary: {delivered: 0}",
        "`sending.canary.delivered` must be more than 0", "write it like `delivered: 0.8`",
    ),
    "a share in percent": Case(
        CANARY, "canary: {delivered: 80}",
        "`sending.canary.delivered` must be at most 1", "write it like `delivered: 0.8`",
    ),
    "a share with its sign": Case(
        CANARY, "canary: {delivered: 80%}",
        "`sending.canary.delivered` must be a number", "write it like `delivered: 0.8`",
    ),
    "a guard that always strikes": Case(
        GUARDS, "guards: {bounces: 0}",
        "`sending.guards.bounces` must be more than 0", "write it like `bounces: 0.05`",
    ),
    "a guard beyond all": Case(
        GUARDS, "guards: {ambiguous: 2}",
        "`sending.guards.ambiguous` must be at most 1", "write it like `ambiguous: 0.02`",
    ),
    "a seed that no mail reaches": Case(
        SEEDS, "seed_addresses: [person@server.local]",
        "`sending.seed_addresses` is not an email address", "`seed_addresses: [ithelp@hku.hk]`",
    ),
    "a seed twice": Case(
        SEEDS, "seed_addresses: [ithelp@hku.hk, ITHelp@HKU.hk]",
        "`sending.seed_addresses` names an address twice", "capitals make no difference",
    ),
    "seeds for a campaign of their own": Case(
        SEEDS, f"seed_addresses: [{', '.join(f'a{number}@hku.hk' for number in range(51))}]",
        "`sending.seed_addresses` has more than 50 entries", "`seed_addresses: [ithelp@hku.hk]`",
    ),
    # SMS
    "a name that is not short": Case(
        SHORT_NAME, f"short_name: {{en: {'x' * 31}}}",
        "`institution.short_name` is longer than 30 characters", "like `short_name: {en: HKU}`",
    ),
    "no short name in English": Case(
        SHORT_NAME, "short_name: {zh-Hant: 港大}",
        "`institution.short_name` has no `en`", "write it like `short_name: {en: HKU}`",
    ),
    "too much to look for": Case(
        LOOK_FOR, f"look_for: {{en: {'x' * 41}}}",
        "`institution.look_for` is longer than 40 characters", "write it like `look_for: {en: MFA",
    ),
    "a region in small letters": Case(
        "sms: [mobilePhone]}", "sms: [mobilePhone], default_region: hk}",
        "`contact.default_region` is not a region that has phone numbers: `hk`", "mean `HK`?",
    ),
    "a country code for a region": Case(
        "sms: [mobilePhone]}", 'sms: [mobilePhone], default_region: "+852"}',
        "`contact.default_region` is not a region that has phone numbers: `+852`",
        "write it like `default_region: HK`",
    ),
    # audience
    "the example's group in Azure": Case(
        "group: 00000000-0000-0000-0000-000000000000",
        'group: "00000000-0000-0000-0000-000000000000"',
        "`audience.group` is the example's, which is nobody's", "write the object id of your group",
        AZURE,
    ),
    "not an object id": Case(
        "group: 00000000-0000-0000-0000-000000000000", "group: alumni",
        "`audience.group` is not an object id", "write it like `group: ",
    ),
    "a group and a filter": Case(
        "  guests: false", "  filter: employeeType eq 'Alumni'",
        "`audience` names both a group and a filter", "keep one of them",
    ),
    # cadence
    "an unknown message": Case(
        "message: announce,", "message: anounce,",
        "`cadence.message` cannot be `anounce`", "did you mean `announce`?",
    ),
    "a message of no kind": Case(
        "message: announce,", "message: welcome,",
        "`cadence.message` cannot be `welcome`",
        "choose 'announce', 'reminder', 'last-call' or 'after'",
    ),
    "a channel of no kind": Case(
        "message: announce,  channels: [email]", "message: announce,  channels: [fax]",
        "`cadence.channels` cannot be `fax`", "choose 'email' or 'sms'",
    ),
    "no channels": Case(
        "message: announce,  channels: [email]", "message: announce,  channels: []",
        "`cadence.channels` is empty", "write it like `channels: [email]`",
    ),
    "two touches of one name": Case(
        "touch: fortnight,", "touch: month,",
        "two touches are named `month`", "give each touch a name of its own",
    ),
    "out of order": Case(
        "days_before: 14", "days_before: 45",
        "the touch `fortnight` comes earlier than the one above it", "in the order of time",
    ),
    "after before before": Case(
        "touch: announce,  days_before: 60, message: announce,  channels: [email]}",
        "touch: announce,  days_after: 2, message: after, channels: [email]}\n"
        "  - {touch: quarter, days_before: 90, message: announce, channels: [email]}",
        "the touch `quarter` comes earlier than the one above it", "in the order of time",
    ),
    "a day in the past of days": Case(
        "days_before: 14", "days_before: -1",
        "`cadence.days_before` must be at least 0", "write it like `days_before: 7`",
    ),
    "after the deadline on its day": Case(
        "days_after: 3", "days_after: 0",
        "`cadence.days_after` must be at least 1", "write it like `days_after: 3`",
    ),
    "before and after": Case(
        "days_before: 14", "days_before: 14, days_after: 3",
        "the touch `fortnight` must have one of `days_before` and `days_after`", "`days_before: 7`",
    ),
    "neither before nor after": Case(
        "touch: fortnight, days_before: 14, ", "touch: fortnight, ",
        "the touch `fortnight` must have one of `days_before` and `days_after`", "`days_before: 7`",
    ),
    "the message for afterwards, before": Case(
        "message: last-call,", "message: after,",
        "the touch `last-call` comes before the deadline, and its message is `after`",
        "write `message: announce`, `reminder` or `last-call`",
    ),
    "a message for before, afterwards": Case(
        "days_after: 3,   message: after", "days_after: 3,   message: reminder",
        "the touch `after` comes after the deadline, and its message is `reminder`",
        "write `message: after`",
    ),
}  # fmt: skip


@pytest.mark.invariant(7)
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_its_line_and_what_would_be_right(name: str) -> None:
    case = MISTAKES[name]
    (mistake,) = mistakes_in(changed((case.old, case.new)), case.allowed)
    assert mistake.what.startswith(case.what)
    assert case.fix in mistake.fix
    line = line_of(case.old) + case.new.rstrip().count("\n")
    assert (mistake.file, mistake.line) == ("hku.yaml", line)


BY_SMS = "message: last-call, channels: [email]", "message: last-call, channels: [email, sms]"
WITH_LOOK_FOR = LOOK_FOR, LOOK_FOR.removeprefix("# ")
LONG = "An Institution of Thirty-one Ch"

BY_SMS_ONLY_WITH: list[tuple[str, list[tuple[str, str]], Allowed, str, str, str]] = [
    # why, what else is changed, what is allowed, the line's text, what, fix
    (
        "a sender",
        [REAL_GROUP, WITH_LOOK_FOR],
        AZURE,
        "touch: last-call",
        "the touch `last-call` goes out by SMS, which the app has no sender for",
        "set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_FROM, or write `channels: [email]`",
    ),
    (
        "something to look for",
        [],
        LOCAL,
        "institution:",
        "`institution.look_for` is missing, and the touch `last-call` goes out by SMS",
        "`look_for: {en: MFA pre-registration for alumni}`",
    ),
    (
        "a number",
        [WITH_LOOK_FOR, ("sms: [mobilePhone]", "sms: []")],
        LOCAL,
        "contact: {",
        "`contact.sms` is empty, and the touch `last-call` goes out by SMS",
        "write `sms: [mobilePhone]`, or `channels: [email]` there",
    ),
    (
        "a name that fits",
        [WITH_LOOK_FOR, ("name: {en: The University of Hong Kong}", f"name: {{en: {LONG}}}")],
        LOCAL,
        "  name: {",
        "`institution.name` in `en` has more than 30 characters, and the touch `last-call`",
        "add a name of at most 30 to `short_name`, like `short_name: {en: HKU}`",
    ),
    (
        "one in each language",
        [
            WITH_LOOK_FOR,
            ("name: {en: The University of Hong Kong}", f"name: {{en: {LONG}, fr: {LONG}}}"),
            (SHORT_NAME, "short_name: {en: HKU}"),
        ],
        LOCAL,
        "  name: {",
        "`institution.name` in `fr` has more than 30 characters, and the touch `last-call`",
        "like `short_name: {fr: HKU}`",
    ),
]


@pytest.mark.invariant(7)
@pytest.mark.parametrize(
    ("changes", "allowed", "piece", "what", "fix"),
    [pytest.param(*rest, id=why) for why, *rest in BY_SMS_ONLY_WITH],
)
def test_a_touch_goes_out_by_sms_only_with(
    changes: list[tuple[str, str]], allowed: Allowed, piece: str, what: str, fix: str
) -> None:
    (mistake,) = mistakes_in(changed(BY_SMS, *changes), allowed)
    assert mistake.what.startswith(what)
    assert fix in mistake.fix
    assert mistake.line == line_of(piece)
    without = [change for change in changes if change != WITH_LOOK_FOR]
    assert parse(changed(*without), allowed), "by email alone, all of this may be"


def test_then_it_does() -> None:
    text = changed(
        BY_SMS,
        WITH_LOOK_FOR,
        ("name: {en: The University of Hong Kong}", f"name: {{en: {LONG}, fr: {LONG[:30]}}}"),
        (SHORT_NAME, "short_name: {en: HKU}"),
    )
    assert parse(text).cadence[4].channels == ("email", "sms")


def test_a_sender_that_is_gone_is_told_of_a_version_that_was_accepted() -> None:
    campaign = parse(changed(BY_SMS, WITH_LOOK_FOR))
    assert not_allowed(campaign, LOCAL) == []
    (told,) = not_allowed(campaign, AZURE)
    assert told.endswith(
        "Fix: set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_FROM, or write "
        "`channels: [email]`."
    )
    text = changed(BY_SMS, WITH_LOOK_FOR)
    assert parse_campaign(text, file="hku.yaml", allowed=None) == campaign


WHOLE_FILES: list[tuple[str, str, int, str, str]] = [
    # text, line, what, fix
    ("empty", "", 1, "the file is empty", "copy campaign.example.yaml"),
    ("comments alone", "# soon\n", 1, "the file is empty", "copy campaign.example.yaml"),
    ("a list", "# mine\n- campaign: a\n", 2, "the file is not made of keys", "begin with a line"),
    ("a word", "hello", 1, "the file is not made of keys and values", "begin with a line"),
    ("a tab", "campaign: a\nsender:\n\tname: b\n", 3, "a tab stands here", "write spaces"),
    ("a tab after a colon", "campaign:\ta\n", 1, "a tab stands here", "write spaces"),
    ("no colon", "campaign: a\ndeadline\nsender: b\n", 2, "this is not YAML", "missing quote"),
    ("an open bracket", "campaign: a\nlist: [b,\nsender: c\n", 2, "this is not YAML", "bracket"),
    ("an open quote", "campaign: a\nname: 'b\nsender: c\n", 2, "this is not YAML", "quote"),
    ("two colons", "campaign: a\nname: b: c\n", 2, "this is not YAML", "colon"),
    ("a line too far in", "sender:\n  name: a\n    email: b\n", 3, "this is not YAML", "space"),
    ("a line too far out", "sender:\n    name: a\n  email: b\n", 3, "this is not YAML", "space"),
    ("an alias of nothing", "campaign: a\nname: *b\n", 2, "this is not YAML: found undefined", ""),
    ("two documents", "campaign: a\n---\ncampaign: b\n", 2, "a second document begins", "`---`"),
    ("a list for a key", "campaign: a\n? [b]\n: c\n", 2, "a key is not a word", "compare it"),
    ("zero bytes", "campaign: a\nname: \x00\x01\x02", 2, "a character stands here", "UTF-8"),
    ("half a character", "campaign: \ud800", 1, "a character stands here that text", "UTF-8"),
    ("10 MB", "a: b\n" * 2_000_000, 1, "the file has 10,000,000 characters", "the right file"),
    ("deeply nested", "[" * 50_000, 1, "the file cannot be read as YAML", "compare it"),
    ("an alias of itself", "a: &a\n  - *a\n", 1, "the file holds more than", "compare it"),
    (
        "aliases of aliases",
        "a: &a [b,b,b,b,b,b,b,b,b,b]\n"
        + "".join(
            f"{key}: &{key} [{','.join([f'*{chr(ord(key) - 1)}'] * 10)}]\n" for key in "bcdef"
        ),
        1,
        "the file holds more than a campaign file can",
        "compare it",
    ),
]


@pytest.mark.invariant(7)
@pytest.mark.parametrize(
    ("text", "line", "what", "fix"),
    [pytest.param(*rest, id=name) for name, *rest in WHOLE_FILES],
)
def test_a_file_that_cannot_be_read_says_where_and_why(
    text: str, line: int, what: str, fix: str
) -> None:
    (mistake,) = mistakes_in(text)
    assert mistake.what.startswith(what)
    assert fix in mistake.fix
    assert mistake.line == line


REQUIRED: list[tuple[str, int, str]] = [
    # the text that names it, the line of what it is missing from, the key
    ("campaign: hku-alumni-2027\n", 10, "campaign"),
    ("deadline: 2027-03-31\n", 7, "deadline"),
    ("timezone: Asia/Hong_Kong\n", 7, "timezone"),
    ("administrators: [ithelp@hku.hk]\n", 7, "administrators"),
    ("  account_example: UID@connect.hku.hk\n", 17, "institution.account_example"),
    (", reply_to: ithelp@hku.hk", 35, "sender.reply_to"),
    ("message: last-call, ", 66, "cadence.message"),
]


@pytest.mark.parametrize(("piece", "line", "key"), REQUIRED)
def test_what_is_missing_is_told_with_an_example(piece: str, line: int, key: str) -> None:
    (mistake,) = mistakes_in(changed((piece, "")))
    assert (mistake.line, mistake.what) == (line, f"`{key}` is missing")
    assert mistake.fix.startswith(f"add it, like `{key.rpartition('.')[2]}: ")


def test_an_audience_of_nobody_is_a_mistake() -> None:
    (mistake,) = mistakes_in(changed(("  group: 00000000-0000-0000-0000-000000000000\n", "")))
    assert mistake.what == "`audience` names no group and no filter"


@pytest.mark.invariant(7)
def test_all_mistakes_are_told_at_once_in_order_of_line() -> None:
    text = changed(
        ("deadline: 2027-03-31", "dedline: 2027-03-31"),
        ("timezone: Asia/Hong_Kong", "timezone: Hong Kong"),
        ("  official_page: https:", "  official_page: http:"),
        ("group: 0000", "group: x000"),
        ("days_before: 14", "days_before: 45"),
        ("mode: dry-run", "mode: trial"),
        ("parcel_size: 500\n  # Rec", "parcel_size: 500\n  parcel_size: 400\n  # Rec"),
    )
    mistakes = mistakes_in(text, had=frozenset({"second-month"}))
    assert [(mistake.line, mistake.what.split("`")[1]) for mistake in mistakes] == [
        (11, "dedline"),
        (14, "timezone"),
        (23, "institution.official_page"),
        (43, "audience.group"),
        (61, "second-month"),
        (64, "fortnight"),
        (71, "sending.mode"),
        (80, "parcel_size"),
    ]


def test_mistakes_read_as_sentences() -> None:
    with pytest.raises(CampaignMistakes) as caught:
        parse(
            changed(("deadline: 2027", "dedline: 2027"), ("min_gap_hours: 20", "min_gap_hours: a"))
        )
    assert str(caught.value) == (
        "The campaign file has mistakes:\n"
        "- hku.yaml:11: `dedline` is not a key of a campaign file. Did you mean `deadline`?\n"
        "- hku.yaml:77: `sending.min_gap_hours` must be a whole number. "
        "Write it like `min_gap_hours: 20`.\n"
        " Fix: Correct these lines and save it again."
    )


@pytest.mark.invariant(6)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("timezone: Asia/Hong_Kong", "timezone: person@connect.hku.hk"),
        ("deadline: 2027-03-31", "deadline: person@connect.hku.hk"),
        ("help_desk: ithelp@hku.hk", "help_desk: person@connect@hku.hk"),
        ("trial: []", "trial: [person @ connect.hku.hk]"),
        (SEEDS, "seed_addresses: [person@connect@hku.hk]"),
        (SEEDS, "seed_addresses: [person@hku.hk, Person@hku.hk]"),
        (DOMAINS, "max_per_domain_per_hour: {person@hku.hk: 1}"),
        (DOMAINS, "max_per_domain_per_hour: {person@hku.hk: a}"),
        (PER_DAY, "max_per_day: {person@hku.hk: 1}"),
        (WARM_UP, "warm_up: {growth: person@hku.hk}"),
        ("mode: dry-run", "mode: person@connect.hku.hk"),
        ("done_when: registered", "person@connect.hku.hk: registered"),
        ("done_when: registered", "person@connect.hku.hk:"),
        ("password_name: {en: Portal PIN}", "password_name: {en: PIN, person@hku.hk: }"),
        ("password_name: {en: Portal PIN}", "password_name: {en: PIN, person@hku.hk: 1}"),
        ("done_when: registered", "done_when: registered\nperson@hku.hk: 1\nperson@hku.hk: 1"),
    ],
)
def test_mistakes_repeat_no_address(old: str, new: str) -> None:
    assert "person" not in "".join(map(str, mistakes_in(changed((old, new)))))


# Live, and what it may name


LIVE = [REAL_GROUP, ("mode: dry-run", "mode: live")]


@pytest.mark.invariant(11)
@pytest.mark.parametrize(
    "senders", [{"its.hku.hk"}, {"no-reply@its.hku.hk"}, {"ITS.hku.hk"}, {"hku.hk", "its.hku.hk"}]
)
def test_a_live_campaign_is_sent_from_an_allowed_address(senders: set[str]) -> None:
    allowed = Allowed(frozenset(senders), AZURE.link_hosts, local=False, channels=AZURE.channels)
    assert parse(changed(*LIVE), allowed).sending.mode == "live"


@pytest.mark.invariant(11)
@pytest.mark.parametrize(
    "senders", [set[str](), {"hku.hk"}, {"ithelp@its.hku.hk"}, {"evil.its.hku.hk"}]
)
def test_and_from_no_other(senders: set[str]) -> None:
    allowed = Allowed(frozenset(senders), AZURE.link_hosts, local=False, channels=AZURE.channels)
    (mistake,) = mistakes_in(changed(*LIVE), allowed)
    assert mistake.line == line_of("sender: {")
    assert "ALLOWED_SENDERS" in mistake.fix


@pytest.mark.invariant(11)
@pytest.mark.parametrize("key", ["official_page", "general_procedure_url", "account_help_url"])
@pytest.mark.parametrize(
    "host", ["its.hku.hk.evil.example", "hku.hk", "evil-its.hku.hk", "app.azurewebsites.net"]
)
def test_every_link_of_a_live_campaign_leads_to_an_allowed_host(key: str, host: str) -> None:
    text = re.sub(rf"{key}: https://[^/]*/", f"{key}: https://{host}/", changed(*LIVE))
    (mistake,) = mistakes_in(text, AZURE)
    assert mistake.line == line_of(f"{key}: ")
    assert f"`{host}`" in mistake.what
    assert "ALLOWED_LINK_HOSTS" in mistake.fix


@pytest.mark.invariant(11)
def test_what_is_not_live_may_be_tried_with_any_sender_and_link() -> None:
    allowed = Allowed(frozenset(), frozenset(), local=False, channels=AZURE.channels)
    assert parse(changed(REAL_GROUP), allowed).institution.link_hosts == {
        "official_page": "its.hku.hk",
        "general_procedure_url": "its.hku.hk",
        "account_help_url": "its.hku.hk",
    }


# Touches that would not keep, and touches that people have had


NARROW: list[tuple[str, list[tuple[str, str]], list[str]]] = [
    # why, what is changed, the touches that it leaves no time
    (
        "the next one is near, and the gap long",
        [("days_before: 7, ", "days_before: 2, "), ("min_gap_hours: 20", "min_gap_hours: 23")],
        ["week"],
    ),
    (
        "the gap is as long as from one to the next",
        [("min_gap_hours: 20", "min_gap_hours: 168")],
        ["fortnight", "week", "last-call"],
    ),
    (
        "the window is short, and the deadline near",
        [('until: "18:00"', 'until: "09:30"')],
        ["month", "fortnight", "week", "last-call", "announce", "after"],
    ),
    (
        "the deadline is in the morning",
        [
            ("last-call, days_before: 1", "last-call, days_before: 0"),
            ("deadline: 2027-03-31", "deadline: 2027-03-31T11:59+08:00"),
        ],
        ["last-call"],
    ),
]


@pytest.mark.parametrize(("_why", "changes", "touches"), NARROW)
def test_a_touch_that_keeps_less_than_two_hours_is_a_mistake(
    _why: str, changes: list[tuple[str, str]], touches: list[str]
) -> None:
    mistakes = mistakes_in(changed(*changes))
    assert {mistake.line for mistake in mistakes} == {
        line_of(f"{{touch: {touch},") for touch in touches
    }
    assert all("of the 2 open hours that it needs" in mistake.what for mistake in mistakes)


def test_two_open_hours_are_enough() -> None:
    text = changed(
        ("days_before: 7, ", "days_before: 2, "), ("min_gap_hours: 20", "min_gap_hours: 22")
    )
    assert parse(text).cadence[3].days_before == 2


def test_two_touches_of_one_day_are_no_mistake_but_one_touch() -> None:
    campaign = parse(changed(("days_before: 14", "days_before: 7")))
    names = [step.touch for step in build_schedule(campaign).steps]
    assert names == ["announce", "month", "week", "last-call", "after"]


def test_a_touch_that_people_have_had_may_not_be_renamed() -> None:
    text = changed(("touch: month,", "touch: thirty,"))
    assert parse(text, had=frozenset({"announce"}))
    (mistake,) = mistakes_in(text, had=frozenset({"announce", "month"}))
    assert mistake.line == line_of("cadence:")
    assert mistake.what.startswith("people have had the touch `month`")
    assert missing_touches(parse(text), ["month", "announce", "month"]) == ["month"]


# Whatever text it is given


def test_a_file_of_something_else_is_told_briefly() -> None:
    assert len(mistakes_in("".join(f"key-{number}: 1\n" for number in range(5000)))) == 100


@pytest.mark.invariant(7)
@given(st.text())
def test_any_text_is_a_campaign_or_mistakes(text: str) -> None:
    with pytest.raises(CampaignMistakes) as caught:
        parse(text)
    lines = len(text.splitlines()) + 1
    assert all(1 <= mistake.line <= lines for mistake in caught.value.mistakes)


@pytest.mark.invariant(7)
@given(
    start=st.integers(0, len(EXAMPLE)),
    length=st.integers(0, 30),
    instead=st.text(max_size=5) | st.text("{}[]:,-&*!|>'\"#%@`\t\n 0\\~?<", max_size=8),
)
def test_any_slip_in_the_example_is_a_campaign_or_mistakes(
    start: int, length: int, instead: str
) -> None:
    with contextlib.suppress(CampaignMistakes):
        parse(EXAMPLE[:start] + instead + EXAMPLE[start + length :])


def test_a_trial_is_no_way_around_what_live_mode_asks() -> None:
    """A trial may use any sender and any link: it has no room for everybody."""
    for number in (MOST_TRIAL, MOST_TRIAL + 1):
        accounts = [f"u{n}@connect.hku.hk" for n in range(number)]
        text = changed(
            ("trial: []", f"trial: [{', '.join(accounts)}]"), ("mode: dry-run", "mode: trial")
        )
        if number == MOST_TRIAL:
            assert len(parse(text).sending.trial) == number
        else:
            with pytest.raises(CampaignMistakes, match="names more than 100 accounts"):
                parse(text)


def test_a_long_list_of_trial_accounts_has_room() -> None:
    accounts = [f"u{number:07}@connect.hku.hk" for number in range(2000)]
    text = changed(("trial: []", f"trial: [{', '.join(accounts)}]"))
    assert len(text) < MAX_CHARACTERS
    assert len(parse(text).sending.trial) == 2000


# The schema for editors


def test_the_committed_schema_is_fresh() -> None:
    committed = json.loads(SCHEMA_FILE.read_text())
    assert committed == campaign_schema(), (
        "campaign.schema.json is out of date. Regenerate it: "
        "uv run python -m shared.rules.campaign > campaign.schema.json"
    )


def test_the_command_prints_the_schema() -> None:
    command = [sys.executable, "-m", "shared.rules.campaign"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    assert json.loads(printed) == campaign_schema()


def json_of(text: str) -> Any:
    """A file as an editor's validator sees it: dates are text."""
    yaml = YAML(typ="safe", pure=True)
    return json.loads(json.dumps(yaml.load(text), default=str))


def test_the_example_fits_the_schema() -> None:
    schema = campaign_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json_of(EXAMPLE), schema)


@pytest.mark.parametrize(
    "name",
    [
        "a misspelt key",
        "a date in another order",
        "an hour of one digit",
        "a link without encryption",
        "too many recipients a call",
        "an unknown mode",
        "a channel of no kind",
        "a limit of a channel of no kind",
        "a warm-up that cools",
        "a decimal comma",
        "a canary that passes undelivered",
        "a share in percent",
        "seeds for a campaign of their own",
        "a name that is not short",
        "too much to look for",
        "a region in small letters",
        "before and after",
        "neither before nor after",
        "a group and a filter",
        "no administrators",
    ],
)
def test_editors_see_mistakes_as_they_are_typed(name: str) -> None:
    case = MISTAKES[name]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json_of(changed((case.old, case.new))), campaign_schema())


def models_in(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(schema["title"], schema), *((name, inner) for name, inner in schema["$defs"].items())]


def test_every_key_has_a_description_and_an_example_that_is_right() -> None:
    schema = campaign_schema()
    for name, model in models_in(schema):
        for key, described in model.get("properties", {}).items():
            assert described["description"], f"{name}.{key}"
            (example,) = described["examples"]
            if "$ref" not in described:
                jsonschema.validate(example, {**described, "$defs": schema["$defs"]})


# What other parts know by the same names


def test_the_messages_are_those_that_have_words() -> None:
    assert get_args(MessageName.__value__) == MESSAGES


def test_the_contact_fields_are_those_that_can_be_read() -> None:
    assert set(Contact().email) == set(EMAIL_FIELDS)
