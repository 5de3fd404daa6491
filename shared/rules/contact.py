"""Where a person can be written to, and how an address is compared, remembered and shown.

An address is that of a mailbox, or a number in the form of E.164 ("+85291234567").

The address that mail is sent to and the form in which addresses are compared are two things: the
part before the `@` belongs to its mail server and is sent as it stands, and yet one provider call
takes an address only once whatever its case. `fold_address` makes the second from the first.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import idna
import msgspec

from shared.rules.registration import Account

type Fields = Mapping[str, Callable[[Account], Sequence[str | None]]]

EMAIL_FIELDS: Fields = {
    "otherMails": lambda account: account.other_mails,
    "mail": lambda account: (account.mail,),
}
"""The directory fields that a campaign may name in `contact.email`, and how each is read."""

SMS_FIELDS: Fields = {"mobilePhone": lambda account: (account.mobile_phone,)}
"""The same for `contact.sms`."""

ADDRESS_KEY_BYTES = 16

# RFC 5322's dot-atom. Quoted local parts and those beyond ASCII are lawful, and mail to them fails
# at too many servers on the way: the next field is the better try.
_LOCAL_PART = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*", re.ASCII)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_TOP_LEVEL = re.compile(r"[a-z]{2,}|xn--[a-z0-9-]*[a-z0-9]")

# RFC 5321, 4.5.3.1 with erratum 1690; RFC 1035, 2.3.4.
_MAX_ADDRESS, _MAX_LOCAL_PART, _MAX_DOMAIN, _MAX_LABEL = 254, 64, 253, 63

# Names that no public mail server can have (RFC 6761, 6762, 7686; ICANN's `internal`). Directories
# that began on premises are full of `@….local`.
_NOWHERE = frozenset({"arpa", "internal", "invalid", "local", "localhost", "onion"})


class Recipient(msgspec.Struct, frozen=True, array_like=True):
    """One person of a parcel, as an outbox keeps them.

    Attributes:
        id: the object id, 16 bytes.
        address: as `choose_email` or `choose_number` returned it.
        account: the user principal name.
    """

    id: bytes
    address: str
    name: str
    account: str


def usable_email(address: str | None) -> str | None:
    """The address as mail can be sent to it, or None where that cannot work.

    Spaces around it are dropped, its domain becomes lower-case ASCII (IDNA 2008); the local part
    stays as it is. Refused are lists, display names, line breaks and anything else that is not
    exactly one address of a public domain.
    """
    if address is None:
        return None
    local_part, at, domain = address.strip().rpartition("@")
    if not at or len(local_part) > _MAX_LOCAL_PART or not _LOCAL_PART.fullmatch(local_part):
        return None
    ascii_domain = _ascii_domain(domain)
    if ascii_domain is None or len(local_part) + 1 + len(ascii_domain) > _MAX_ADDRESS:
        return None
    return f"{local_part}@{ascii_domain}"


@lru_cache(maxsize=4096)  # 300,000 people have their mail at few thousand domains
def _ascii_domain(domain: str) -> str | None:
    if not domain.isascii():
        try:
            # Not the codec of the standard library: by the rules of 2003 it turns straße.example
            # into strasse.example, which is somebody else.
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except idna.IDNAError:
            return None
    domain = domain.lower()
    *labels, top_level = domain.split(".")
    if not labels or len(domain) > _MAX_DOMAIN or top_level in _NOWHERE:
        return None
    if not _TOP_LEVEL.fullmatch(top_level):
        return None
    if not all(len(label) <= _MAX_LABEL and _LABEL.fullmatch(label) for label in labels):
        return None
    return domain


def usable_number(text: str | None, region: str | None) -> str | None:
    """The number in the form of E.164 as an SMS can be sent to it, or None where that cannot work.

    By the number plans that phonenumbers knows it must be a mobile number, or one that the plan
    does not tell from a landline (North America). All other kinds get no SMS, or not reliably:
    landlines, toll-free, premium and shared-cost lines, pagers, voice over IP, and personal
    numbers, which only forward calls. An extension is dropped, as a mobile number has none.

    Args:
        text: as a directory holds it: with any separators, in any digits.
        region: ISO 3166 region of numbers without a country code; None refuses those.
    """
    # Late, since it costs the start of the app 50 ms, and most of its functions need no numbers.
    import phonenumbers

    # Letters would be read as the keys of a telephone: "9123 4567 (home)" as somebody else's.
    if not text or phonenumbers.is_alpha_number(text):
        return None
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    # The kind of a number that is impossible or not valid is unknown.
    kinds = phonenumbers.PhoneNumberType
    if phonenumbers.number_type(number) not in (kinds.MOBILE, kinds.FIXED_LINE_OR_MOBILE):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def choose_email(account: Account, fields: Sequence[str], bad: Callable[[str], bool]) -> str | None:
    """The first usable address of a person, in the order of the campaign's `contact.email`.

    Args:
        fields: keys of `EMAIL_FIELDS`.
        bad: says of a usable address that it did not work before.
    """
    return _choose(account, EMAIL_FIELDS, fields, usable_email, bad)


def choose_number(
    account: Account, fields: Sequence[str], region: str | None, bad: Callable[[str], bool]
) -> str | None:
    """The first usable number of a person, in the order of the campaign's `contact.sms`.

    Args:
        fields: keys of `SMS_FIELDS`.
        region: as for `usable_number`.
        bad: says of a usable number that it did not work before.
    """
    return _choose(account, SMS_FIELDS, fields, lambda text: usable_number(text, region), bad)


def _choose(
    account: Account,
    readers: Fields,
    fields: Sequence[str],
    usable: Callable[[str | None], str | None],
    bad: Callable[[str], bool],
) -> str | None:
    for field in fields:
        for candidate in readers[field](account):
            address = usable(candidate)
            if address is not None and not bad(address):
                return address
    return None


def fold_address(address: str) -> str:
    """The form in which two addresses are compared: whoever differs in case only is the same."""
    return address.strip().casefold()


def address_key(key: bytes, address: str) -> bytes:
    """What the ledger remembers of an address that did not work: 16 bytes that only the holder of
    ADDRESS_KEY can make again (HMAC-SHA256, cut), alike for addresses that differ in case only."""
    return hmac.digest(key, fold_address(address).encode(), "sha256")[:ADDRESS_KEY_BYTES]


def mask_account(user_principal_name: str) -> str:
    """An account's name for mails: its owner knows it, nobody else learns it.

    At most two characters of the front and one of the end are shown, fewer of a short name; the
    number of dots is always the same, and says nothing of the length.
    """
    local_part, at, domain = user_principal_name.rpartition("@")
    if not at:
        local_part, domain = user_principal_name, ""
    front, end = (2, 1) if len(local_part) >= 6 else (1, 0) if len(local_part) >= 3 else (0, 0)
    return f"{local_part[:front]}•••••{local_part[len(local_part) - end :]}{at}{domain}"
