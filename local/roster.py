"""Synthetic people: the directory of a university that does not exist.

Nobody here is real. Names are put together from lists, addresses stand in domains that nobody can
own, and numbers lie in ranges kept for fiction (Ofcom's and the North American ones).

An account is a function of (seed, index): 64 bytes of a keyed hash decide all there is to decide
about it. So 300,000 accounts take no memory, and every process with the same seed knows the same
people. The directory that comes out is as untidy as a real one: disabled accounts, guests, service
accounts, addresses that are missing, shared or unusable, methods that no version of this product
knows, names that break templates.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Final

import msgspec


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What the registration report says of somebody's methods."""

    methods: tuple[str, ...]
    registered: bool
    capable: bool


class Person(msgspec.Struct, frozen=True, gc=False, kw_only=True, rename="camel"):
    """One account, under Graph's names.

    Attributes:
        registers_at: when `before` becomes `after`, in seconds of Unix time as campaigns see it;
            -inf for whoever had always registered, inf for whoever never does.
        reported: whether the registration report has a row of this account.
        left_out: whether the account is in the group of those who must not be written to.
    """

    id: str
    user_principal_name: str
    display_name: str
    given_name: str | None
    surname: str | None
    account_enabled: bool
    user_type: str
    mail: str | None
    other_mails: tuple[str, ...]
    mobile_phone: str | None
    preferred_language: str | None
    employee_type: str | None
    department: str | None
    company_name: str | None
    created_date_time: str
    before: Standing
    after: Standing
    registers_at: float
    reported: bool
    left_out: bool

    def standing(self, moment: float) -> Standing:
        """What their methods are at a moment, in seconds of Unix time."""
        return self.after if self.registers_at <= moment else self.before


COMPANY: Final = "University of Examples"
STAFF_DOMAIN: Final = "example.edu"
_DAY: Final = 86_400.0
_UNTIL_DEADLINE, _AFTER_DEADLINE = 75.0, 30.0  # days over which people register

# Romanised and written names side by side: the display name shows one, the other, or both.
_CANTONESE_SURNAMES = (
    "Chan 陳, Lee 李, Wong 黃, Cheung 張, Leung 梁, Lam 林, Ng 吳, Lau 劉, Ho 何, Cheng 鄭, "
    "Yeung 楊, Chow 周, Choi 蔡, Tang 鄧, Tsang 曾, Yip 葉, Kwok 郭, Wu 胡, Tsui 徐, Hui 許, "
    "Ma 馬, Chiu 趙, Fung 馮, Au-Yeung 歐陽"
)
_CANTONESE_SYLLABLES = (
    "Man 文, Ming 明, Ka 嘉, Yan 欣, Wing 詠, Sze 思, Wai 偉, Chun 俊, Kit 傑, Lai 麗, Ling 玲, "
    "Chi 志, Keung 強, Mei 美, Shan 珊, Ho 浩, Tsz 子, Ching 晴, Lok 樂, Yi 怡, Hin 軒, Kwan 君, "
    "Suet 雪, Fai 輝"
)
_MANDARIN_SURNAMES = (
    "Wang 王, Li 李, Zhang 张, Liu 刘, Chen 陈, Yang 杨, Zhao 赵, Huang 黄, Zhou 周, Wu 吴, Xu 徐, "
    "Sun 孙, Lü 吕, Zheng 郑, Ouyang 欧阳"
)
_MANDARIN_SYLLABLES = (
    "Wei 伟, Fang 芳, Na 娜, Min 敏, Jing 静, Lei 磊, Yang 洋, Yan 艳, Jie 杰, Juan 娟, Tao 涛, "
    "Chao 超, Xia 霞, Ping 平, Gang 刚, Yu 宇"
)
_GIVEN_NAMES = (
    "Alice", "Benjamin", "Charlotte", "Daniel", "Emily", "Frederick", "Grace", "Harold", "Isabel",
    "Jonathan", "Katherine", "Louis", "Margaret", "Nathan", "Olivia", "Peter", "Rebecca", "Samuel",
    "Teresa", "Vincent", "Winnie", "Zoë", "José", "Anneliese",
)  # fmt: skip
_SURNAMES = (
    "Abbott", "Bennett", "Carver", "Dawson", "Ellis", "Fairchild", "Garner", "Holloway", "Iyer",
    "Jensen", "Kapoor", "Lindqvist", "Marchetti", "Novak", "O'Sullivan", "Prescott", "Quigley",
    "Rahman", "Silva", "Thornton", "Underhill", "Vasquez", "Whitlock", "Müller",
)  # fmt: skip


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((one.split()[0], one.split()[1]) for one in text.split(", "))


_CHINESE = (
    (_pairs(_CANTONESE_SURNAMES), _pairs(_CANTONESE_SYLLABLES)),
    (_pairs(_MANDARIN_SURNAMES), _pairs(_MANDARIN_SYLLABLES)),
)
_AWKWARD_NAMES = (
    "<b>Bold</b> & Co",
    "{{7*7}} Curly",
    "=cmd|' /C calc'!A0",
    "Two\r\nLines",
    "-substitution-",
    "CHAN, Tai Man",
    '"Quoted" Person',
    "  Spaces   Everywhere  ",
    "🎓 Graduate",
    "محمد الأمثلة",
    "Adolphine Bartholomea Constantia Desideria Ermengarde Philomena von und zu Musterstadt",
    "",
)
_UNUSABLE_ADDRESSES = ("n/a", "none", "not.provided", "first@example.org; second@example.org")
_MAIL_DOMAINS = (
    "example.com",
    "example.net",
    "example.org",
    "mail.example.com",
    "post.example.org",
)
_DEPARTMENTS = (
    "Architecture", "Arts", "Business and Economics", "Dentistry", "Education", "Engineering",
    "Law", "Medicine", "Science", "Social Sciences",
)  # fmt: skip
_AREAS = (
    206, 212, 213, 214, 236, 250, 289, 303, 312, 343, 403, 404, 408, 415, 416, 425, 437, 438, 469,
    503, 510, 512, 514, 519, 587, 604, 609, 613, 617, 626, 647, 650, 702, 713, 718, 778, 780, 905,
)  # fmt: skip
"""Area codes of the United States and Canada."""

_LANGUAGES = (None, None, "en-US", "en-GB", "zh-HK", "zh-Hant-HK", "zh-TW", "zh-CN")

_NOTHING = Standing((), registered=False, capable=False)
_APP = ("microsoftAuthenticatorPush", "softwareOneTimePasscode")


def _weighted(*pool: tuple[int, Standing]) -> tuple[Standing, ...]:
    return tuple(standing for weight, standing in pool for _ in range(weight))


def _done(*methods: str, capable: bool = True) -> Standing:
    return Standing(methods, registered=True, capable=capable)


_BEFORE = _weighted(
    (170, _NOTHING),
    (18, Standing(("email",), registered=False, capable=False)),
    (6, Standing(("email", "securityQuestion"), registered=False, capable=False)),
    (3, Standing(("methodOfALaterYear",), registered=False, capable=False)),
    (1, _done("temporaryAccessPass")),  # signs in today, expires tomorrow
)
_AFTER = _weighted(
    (80, _done(*_APP)),
    (60, _done("mobilePhone", *_APP)),
    (14, _done("mobilePhone")),
    (8, _done("softwareOneTimePasscode")),
    (7, _done("microsoftAuthenticatorPasswordless", *_APP)),
    (5, _done("email", "mobilePhone", "alternateMobilePhone")),
    (4, _done("passKeyDeviceBound")),
    (3, _done("passKeyDeviceBoundAuthenticator")),
    (3, _done("fido2")),
    (2, _done("windowsHelloForBusiness", "fido2")),
    (2, _done("hardwareOneTimePasscode")),
    (2, _done("officePhone")),
    (2, _done("methodOfALaterYear", "mobilePhone")),
    (3, _done("mobilePhone", capable=False)),  # a method that policy does not let them use
)
_STALE_PHONE = _done("mobilePhone")

REGISTERED_BY_HAND: Final = _done(*_APP)
"""What somebody has whom the tenant was told to register."""

_DRAWS = struct.Struct("<32H")
_ONE = 1 << 16

_MASK = (1 << 48) - 1
_STEPS = (0x9E3779B97F4B, 0xC2B2AE3D27D5)  # odd, hence invertible modulo 2**48
_STEPS_BACK = tuple(pow(step, -1, 1 << 48) for step in _STEPS)


def _scatter(number: int) -> int:
    """A permutation of 48-bit numbers that leaves no trace of their order."""
    for step in _STEPS:
        number = (number ^ number >> 24) * step & _MASK
    return number ^ number >> 24


def _gather(number: int) -> int:
    """The inverse of `_scatter`; a shift by half the width undoes itself."""
    for step in reversed(_STEPS_BACK):
        number = (number ^ number >> 24) * step & _MASK
    return number ^ number >> 24


class Roster:
    """The accounts of a tenant: `alumni` first, `others` (mostly staff) after them.

    Args:
        deadline: towards which people register, more of them the nearer it comes.
        domain: of the alumni's accounts and institutional addresses.
    """

    def __init__(
        self, *, alumni: int, others: int, deadline: datetime, domain: str, seed: int = 0
    ) -> None:
        self.alumni = alumni
        self.others = others
        self._deadline = deadline.timestamp()
        self._domain = domain
        self._hash = blake2b(key=seed.to_bytes(8, "little"), digest_size=64)
        self._offset = int.from_bytes(self._digest(_MASK)[:6], "little")

    def __len__(self) -> int:
        return self.alumni + self.others

    def person(self, index: int) -> Person:
        """The account number `index`, from 0."""
        digest = self._digest(index)
        draw = _DRAWS.unpack(digest)
        if draw[0] < _ONE // 800:
            return self._service_account(index, digest)
        return self._account(index, digest, draw)

    def find(self, id: str) -> int | None:
        """The index of an object id, or None where there is no such account."""
        try:
            scattered = int(id[:8] + id[9:13], 16)
        except ValueError:
            return None
        index = _gather(scattered) ^ self._offset
        return index if index < len(self) and self.id(index) == id.lower() else None

    def id(self, index: int) -> str:
        """The object id: a GUID of version 4, random but for the seed.

        Its first 48 bits are the index, scattered; the rest comes from the account's hash.
        """
        return self._id(index, self._digest(index))

    def _id(self, index: int, digest: bytes) -> str:
        front = f"{_scatter(index ^ self._offset):012x}"
        back = digest[-10:].hex()
        variant = "89ab"[digest[-1] & 3]
        return f"{front[:8]}-{front[8:]}-4{back[:3]}-{variant}{back[3:6]}-{back[6:18]}"

    def _digest(self, index: int) -> bytes:
        keyed = self._hash.copy()
        keyed.update(index.to_bytes(8, "little"))
        return keyed.digest()

    def _account(self, index: int, digest: bytes, draw: Sequence[int]) -> Person:
        alumnus = index < self.alumni
        # Steps through all seven-digit numbers before it comes back to one.
        number = (index * 7919 + 1_234_567) % 10_000_000
        display_name, given_name, surname, latin = _names(draw)
        guest = draw[1] < (_ONE // 150 if alumnus else _ONE // 30)
        other_mails = self._other_mails(index, draw, latin) if alumnus or guest else ()
        user_principal_name = f"u3{number:07d}@{self._domain}"
        mail = user_principal_name if draw[2] < _ONE * 7 // 10 else None
        if guest:
            home = f"{latin}{number}"
            user_principal_name = f"{home}_example.com#EXT#@{self._domain}"
            mail = f"{home}@example.com"
        elif not alumnus:
            mail = user_principal_name = f"{latin}{number}@{STAFF_DOMAIN}"
        enabled = draw[3] >= _ONE // 40
        before, after, registers_at = self._registration(draw, alumnus)
        return Person(
            id=self._id(index, digest),
            user_principal_name=user_principal_name,
            display_name=display_name,
            given_name=given_name,
            surname=surname,
            account_enabled=enabled,
            user_type="Guest" if guest else "Member",
            mail=mail,
            other_mails=other_mails,
            mobile_phone=_phone(draw[4], draw[5]),
            preferred_language=_LANGUAGES[draw[6] & 7],
            employee_type=None if guest else "Alumni" if alumnus else "Staff",
            department=None if guest else _DEPARTMENTS[draw[7] % len(_DEPARTMENTS)],
            company_name=None if guest else COMPANY,
            created_date_time=f"{1998 + draw[8] % 25}-09-{1 + draw[8] % 28:02d}T04:00:00Z",
            before=before,
            after=after,
            registers_at=registers_at,
            reported=enabled and draw[9] >= _ONE // 250,
            left_out=alumnus and draw[10] < _ONE // 100,
        )

    def _service_account(self, index: int, digest: bytes) -> Person:
        return Person(
            id=self._id(index, digest),
            user_principal_name=f"Sync_CONNECT{index % 4 + 1}_{digest[:6].hex()}@{self._domain}",
            display_name="On-Premises Directory Synchronization Service Account",
            given_name=None,
            surname=None,
            account_enabled=True,
            user_type="Member",
            mail=None,
            other_mails=(),
            mobile_phone=None,
            preferred_language=None,
            employee_type=None,
            department=None,
            company_name=None,
            created_date_time="2016-05-01T04:00:00Z",
            before=_NOTHING,
            after=_NOTHING,
            registers_at=math.inf,
            reported=True,
            left_out=False,
        )

    def _registration(self, draw: Sequence[int], alumnus: bool) -> tuple[Standing, Standing, float]:
        """Alumni: 18 % had registered long before, 60 % do in the last 75 days, in numbers that
        grow until the deadline, 7 % in the month after it, when the old way in is closed."""
        before, after = _BEFORE[draw[11] % len(_BEFORE)], _AFTER[draw[12] % len(_AFTER)]
        share, place = draw[13] / _ONE, draw[14] / _ONE
        if share < (0.18 if alumnus else 0.92):
            if alumnus and draw[15] < _ONE // 8:
                after = _STALE_PHONE
            return before, after, -math.inf
        if share < 0.78:
            days = -_UNTIL_DEADLINE * (1 - math.sqrt(place))
        elif share < 0.85:
            days = _AFTER_DEADLINE * place
        else:
            return before, after, math.inf
        return before, after, self._deadline + days * _DAY

    def _other_mails(self, index: int, draw: Sequence[int], latin: str) -> tuple[str, ...]:
        domain = _MAIL_DOMAINS[draw[16] % len(_MAIL_DOMAINS)]
        own = f"{latin}{draw[17] % 90 + 10}.{index}@{domain}"
        kind = draw[18] / _ONE
        if kind < 0.62:
            return (own,)
        if kind < 0.71:
            return own, f"{latin}.{index}@{_MAIL_DOMAINS[draw[19] % len(_MAIL_DOMAINS)]}"
        if kind < 0.76:  # one address for a family, not always spelled alike
            family = f"family{index // 40}@example.org"
            return (family if draw[19] & 1 else family.upper(),)
        if kind < 0.77:
            return (_UNUSABLE_ADDRESSES[draw[19] % len(_UNUSABLE_ADDRESSES)],)
        return ()


def _names(draw: Sequence[int]) -> tuple[str, str | None, str | None, str]:
    """Display name, given name, surname, and a form of them for addresses."""
    style, one, two, three = draw[20] / _ONE, draw[21], draw[22], draw[23]
    if style < 0.003:
        return _AWKWARD_NAMES[one % len(_AWKWARD_NAMES)], None, None, "person"
    if style < 0.30:
        given, surname = _GIVEN_NAMES[one % len(_GIVEN_NAMES)], _SURNAMES[two % len(_SURNAMES)]
        latin = f"{given}.{surname}".lower()
        latin = latin if latin.isascii() and latin.replace(".", "").isalpha() else given[0].lower()
        return f"{given} {surname}", given, surname, latin
    surnames, syllables = _CHINESE[style > 0.80]
    surname, surname_written = surnames[one % len(surnames)]
    first, first_written = syllables[two % len(syllables)]
    second, second_written = syllables[three % len(syllables)]
    given = f"{first} {second}" if style <= 0.80 else f"{first}{second.lower()}"
    written = f"{surname_written}{first_written}{second_written}"
    latin = f"{first}{second}.{surname}".lower().replace("-", "").replace("ü", "u")
    match draw[24] % 4:
        case 0:
            display_name = written
        case 1:
            display_name = f"{surname.upper()} {given}"
        case 2:
            display_name = f"{surname.upper()} {given} {written}"
        case _:
            english = _GIVEN_NAMES[draw[25] % len(_GIVEN_NAMES)]
            display_name = f"{english} {surname}"
    return display_name, given, surname, latin


def _phone(kind: int, number: int) -> str | None:
    match kind % 10:
        case 0 | 1 | 2 | 3:
            area = _AREAS[number // 100 % len(_AREAS)]
            return f"+1 {area}-555-01{number % 100:02d}"
        case 4:
            return f"+44 7700 900{number % 1000:03d}"  # a range that no phone will ever have
        case 5:
            return f"07700 900{number % 1000:03d}"  # of which country?
        case _:
            return None
