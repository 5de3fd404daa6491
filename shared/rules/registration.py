"""Who counts: what a row of the registration report says of one account, and who is left out.

The flag that the campaign asks for (`isMfaRegistered`, or `isMfaCapable` with `done_when: capable`)
decides. The method types overrule it in two cases only: a Temporary Access Pass makes nobody done,
and where all depends on a type that we don't know, we don't guess.

    flag    what could be a second factor among the methods        answer
    ------  -----------------------------------------------------  ------------
    true    anything, or Graph lists no methods                    registered
    true    nothing but a Temporary Access Pass                    unregistered
    true    beside the pass, only types that we don't know         unrecognised
    false   none, or at least one type that we know                unregistered
    false   only types that we don't know                          unrecognised
    absent  whatever                                               unknown

Types that are no second factor (email, security questions) say nothing either way.

The live list of an account's methods has no flag; there the types decide alone:

    methods of the account                                 answer
    -----------------------------------------------------  ------------
    at least one second factor that we know                registered
    none, but at least one type that we don't know         unrecognised
    none, or only types that are no second factor          unregistered
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Literal

import msgspec

type DoneWhen = Literal["registered", "capable"]
"""Which flag means done: has a strong method, or has one that policy lets the person use."""


class Registration(StrEnum):
    """What we know of one account's MFA. A missing report row is `UNKNOWN`, nothing else."""

    REGISTERED = "registered"
    UNREGISTERED = "unregistered"
    UNKNOWN = "unknown"
    UNRECOGNISED = "unrecognised"


MFA_METHODS = frozenset({
    # a number that is called or texted; a stale one counts, too, as Graph cannot tell
    "mobilePhone", "alternateMobilePhone", "officePhone",
    # Microsoft Authenticator
    "microsoftAuthenticatorPush", "microsoftAuthenticatorPasswordless",
    # six-digit codes, from any authenticator app or from a token
    "softwareOneTimePasscode", "hardwareOneTimePasscode",
    # keys and passkeys
    "fido2", "passKeyDeviceBound", "passKeyDeviceBoundAuthenticator", "windowsHelloForBusiness",
})  # fmt: skip
"""Method types that are a second factor."""

TEMPORARY_ACCESS_PASS = "temporaryAccessPass"
"""Signs in as strongly as a second factor does, and then expires: it never means done, although
Graph's flags may be true because of it."""

OTHER_METHODS = frozenset({
    # the first factor, or what replaces it where no second one can be asked for
    "password", "appPassword", "qrCode", "qrCodePin",
    # good for resetting a password, for nothing else
    "email", "securityQuestion",
    TEMPORARY_ACCESS_PASS,
})  # fmt: skip
"""Method types that are no second factor. All that stands in neither set is one we don't know:
Graph adds new ones over the years."""


def _odata_types(*names: str) -> frozenset[str]:
    return frozenset(f"#microsoft.graph.{name}AuthenticationMethod" for name in names)


LIVE_MFA_METHODS = _odata_types(
    # as in the report: a stale number counts, too
    "phone",
    # Microsoft Authenticator, with notifications or without a password
    "microsoftAuthenticator", "passwordlessMicrosoftAuthenticator",
    # six-digit codes
    "softwareOath", "hardwareOath",
    # keys and passkeys, those of a computer among them
    "fido2", "windowsHelloForBusiness", "platformCredential",
    # a second factor that another provider asks for
    "external",
)  # fmt: skip
"""`@odata.type` of the live methods that are a second factor (Graph: authenticationMethod)."""

LIVE_OTHER_METHODS = _odata_types(
    "password", "email", "securityQuestion", "qrCodePin", "temporaryAccessPass"
)
"""`@odata.type` of those that are none, or that expire."""


class ReportRow(msgspec.Struct, rename="camel", gc=False):
    """A row of `userRegistrationDetails`: the part that we read. `id` is the object id (GUID)."""

    id: str | None = None
    is_mfa_registered: bool | None = None
    is_mfa_capable: bool | None = None
    methods_registered: tuple[str, ...] | None = None


def decide_registration(row: ReportRow | None, done_when: DoneWhen) -> Registration:
    """What `row` says of its account; `None` stands for a row that the report lacks."""
    if row is None:
        return Registration.UNKNOWN
    flag = row.is_mfa_capable if done_when == "capable" else row.is_mfa_registered
    return _judge(flag, row.methods_registered or ())


def _judge(flag: bool | None, methods: tuple[str, ...]) -> Registration:
    """The table at the top of this file."""
    if flag is None:
        return Registration.UNKNOWN
    if flag and TEMPORARY_ACCESS_PASS not in methods:
        return Registration.REGISTERED
    factors = set(methods) - OTHER_METHODS
    if not factors:
        return Registration.UNREGISTERED
    if factors.isdisjoint(MFA_METHODS):
        return Registration.UNRECOGNISED
    return Registration.REGISTERED if flag else Registration.UNREGISTERED


def decide_methods(types: Iterable[str]) -> Registration:
    """What an account's live methods say of it, given the `@odata.type` of each: the second table
    at the top of this file."""
    factors = set(types) - LIVE_OTHER_METHODS
    if not factors:
        return Registration.UNREGISTERED
    if factors.isdisjoint(LIVE_MFA_METHODS):
        return Registration.UNRECOGNISED
    return Registration.REGISTERED


_ANSWERS = tuple(Registration)  # the order is stored in pages: append only


def pack_registration(row: ReportRow) -> int:
    """One byte that holds the answer for both values of `done_when`: which one a campaign asks for
    is known only when it is planned, long after the page was written."""
    return _pack(row.is_mfa_registered, row.is_mfa_capable, row.methods_registered or ())


@lru_cache(maxsize=4096)  # a tenant has a few hundred combinations, and 300,000 rows
def _pack(registered: bool | None, capable: bool | None, methods: tuple[str, ...]) -> int:
    return _ANSWERS.index(_judge(registered, methods)) | (
        _ANSWERS.index(_judge(capable, methods)) << 4
    )


def merge_registrations(first: int, second: int) -> int:
    """Of an account that the report listed twice: registered if either row says so, else what the
    later row says. Rows move between pages while they are read, and may change as they do."""
    merged = 0
    for mask in (0x0F, 0xF0):
        done = _ANSWERS.index(Registration.REGISTERED) * 0x11 & mask
        merged |= done if done in (first & mask, second & mask) else second & mask
    return merged


def unpack_registration(code: int, done_when: DoneWhen) -> Registration:
    """The answer in a byte of `pack_registration`; IndexError where it is none of ours."""
    return _ANSWERS[code >> 4 if done_when == "capable" else code & 0x0F]


class Account(msgspec.Struct, frozen=True, array_like=True):
    """A directory user with contact fields, as a roster page keeps it.

    Attributes:
        id: the object id, as the 16 bytes of its GUID.
        enabled: None where Graph didn't say.
        user_type: `Member`, `Guest`, or empty.
        language: preferred language as the directory has it, such as `zh-HK`.
    """

    id: bytes
    user_principal_name: str
    display_name: str
    enabled: bool | None
    user_type: str
    mail: str | None
    other_mails: tuple[str, ...]
    mobile_phone: str | None
    language: str | None


# The accounts of Microsoft Entra Connect and of cloud sync, as their set-up names them. Case counts
# in the prefix: set-up writes a capital S, and a person's `sync_lee@` is hardly ever spelled so.
_SYNC_PREFIX = "Sync_"
_SYNC_NAME = "on-premises directory synchronization service account"

type Exclusion = Literal["disabled", "guest", "service account"]


def exclusion(account: Account, *, guests: bool) -> Exclusion | None:
    """Why this account is left out of every campaign, or None where it isn't.

    Args:
        guests: the campaign asked for guests.
    """
    if account.enabled is False:
        return "disabled"
    if not guests and account.user_type.casefold() == "guest":
        return "guest"
    if (
        account.user_principal_name.startswith(_SYNC_PREFIX)
        or account.display_name.strip().casefold() == _SYNC_NAME
    ):
        return "service account"
    return None


def shard_of(id: bytes) -> int:
    """The shard of an account, 0 to 15: the first hex digit of its object id."""
    return id[0] >> 4
