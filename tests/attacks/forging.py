"""Nearly genuine: links, SendGrid's events and Twilio's statuses, each altered in every way that
somebody without the key can think of, and in some that take the key.

Each kind of alteration is a function of chance and of something genuine. What verifies in spite of
an alteration, since the provider's own scheme does not tell it apart, is kept by itself
(`SAME_EVENTS`, `SAME_STATUSES`): it must say what the genuine one said, or less.
"""

from __future__ import annotations

import base64
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha1, sha256
from hmac import digest
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from local.inbox import write_body
from shared.clock import CampaignTime
from shared.rules.links import Purpose, seal
from shared.services.webhooks import SIGNED_AGO, SIGNED_AHEAD
from tests.attacks.target import (
    CALLBACK,
    ECDSA,
    EVENTS_KEY,
    PUBLIC,
    STATUS_TOKEN,
    Events,
    Status,
    event_of,
    form_of,
    key_of,
    query_of,
    sign_events,
    sign_status,
)
from tests.world import FORTNIGHT, KEY, NAME

OTHER_EVENTS_KEY = ec.derive_private_key(2028, ec.SECP256R1())
OTHER_TOKEN = "f" * 32
OTHER_KEY = base64.urlsafe_b64encode(bytes(range(1, 33))).decode()
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve P-256."""

URL_ALPHABET = string.ascii_letters + string.digits + "-_"


def flip(chance: Random, raw: bytes) -> bytes:
    """With one bit turned over."""
    place = chance.randrange(len(raw) * 8)
    turned = bytearray(raw)
    turned[place // 8] ^= 1 << place % 8
    return bytes(turned)


def flip_text(chance: Random, text: str) -> str:
    return flip(chance, text.encode("latin-1")).decode("latin-1")


def swap_case(chance: Random, text: str) -> str:
    """With one letter in its other case."""
    place = chance.choice([place for place, letter in enumerate(text) if letter.isalpha()])
    return text[:place] + text[place].swapcase() + text[place + 1 :]


def cut(chance: Random, whole: Any) -> Any:
    """Without its end."""
    return whole[: chance.randrange(len(whole))]


def spare_bits(chance: Random, text: str) -> str:
    """Base64 with other bits where none count; unpadded text whose length leaves none stays."""
    body = text.rstrip("=")
    spare = {2: 4, 3: 2}.get(len(body) % 4, 0)
    if not spare:
        return text + "="
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    if "-" in text or "_" in text:
        alphabet = alphabet[:-2] + "-_"
    last = alphabet.index(body[-1]) ^ chance.randrange(1, 1 << spare)
    return body[:-1] + alphabet[last] + text[len(body) :]


# --- links ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """A genuine link of a person's.

    Attributes:
        another: one of the same kind, of another person and another campaign.
    """

    purpose: Purpose
    token: str
    another: str
    person: bytes

    @property
    def raw(self) -> bytes:
        return base64.urlsafe_b64decode(self.token + "=" * (-len(self.token) % 4))


def make_link(chance: Random) -> Link:
    purpose: Purpose = chance.choice(("done", "unsubscribe"))
    person, another = chance.randbytes(16), chance.randbytes(16)
    until = CampaignTime(FORTNIGHT.replace(month=12))
    return Link(
        purpose,
        seal([KEY], purpose, NAME, person, until),
        seal([KEY], purpose, NAME.replace("2027", "2028"), another, until),
        person,
    )


def _unpadded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _sealed_otherwise(chance: Random, link: Link, bound_to: bytes | None) -> str:
    """Under the right key, but not bound to the purpose as ours are."""
    key = base64.urlsafe_b64decode(KEY)
    nonce = chance.randbytes(12)
    head = (2**32 - 1).to_bytes(4) + link.person + NAME.encode()
    return _unpadded(nonce + AESGCM(key).encrypt(nonce, head, bound_to))


def _other_purpose(link: Link) -> str:
    other: Purpose = "unsubscribe" if link.purpose == "done" else "done"
    return seal([KEY], other, NAME, link.person, CampaignTime(FORTNIGHT.replace(month=12)))


def _insert(chance: Random, text: str, letter: str) -> str:
    place = chance.randrange(len(text) + 1)
    return text[:place] + letter + text[place:]


def _without_one(chance: Random, text: str) -> str:
    place = chance.randrange(len(text))
    return text[:place] + text[place + 1 :]


def _splice(chance: Random, one: str, other: str) -> str:
    place = chance.randrange(1, min(len(one), len(other)))
    return one[:place] + other[place:]


LINKS: Mapping[str, Callable[[Random, Link], str]] = {
    "a bit": lambda chance, link: _unpadded(flip(chance, link.raw)),
    "a bit of a letter": lambda chance, link: flip_text(chance, link.token),
    "a letter's case": lambda chance, link: swap_case(chance, link.token),
    "all letters' case": lambda chance, link: link.token.swapcase(),
    "a letter more": lambda chance, link: _insert(chance, link.token, chance.choice(URL_ALPHABET)),
    "a letter that base64 passes over": lambda chance, link: _insert(
        chance, link.token, chance.choice(".!~* \t\r\n\0é=")
    ),
    "a letter less": lambda chance, link: _without_one(chance, link.token),
    "cut short": lambda chance, link: cut(chance, link.token),
    "bytes cut off": lambda chance, link: _unpadded(cut(chance, link.raw)),
    "bytes behind": lambda chance, link: _unpadded(
        link.raw + chance.randbytes(chance.randrange(1, 40))
    ),
    "very long": lambda chance, link: link.token * chance.randrange(2, 2000),
    "spare bits": lambda chance, link: spare_bits(chance, link.token),
    "with padding": lambda chance, link: link.token + "=" * chance.randrange(1, 5),
    "base64 twice": lambda chance, link: _unpadded(link.token.encode()),
    "in hex": lambda chance, link: link.raw.hex(),
    "in the other alphabet": lambda chance, link: base64.b64encode(b"\xff" + link.raw).decode(),
    "turned round": lambda chance, link: link.token[::-1],
    "two bytes changed places": lambda chance, link: _unpadded(
        link.raw[:20] + link.raw[21:22] + link.raw[20:21] + link.raw[22:]
    ),
    "another nonce": lambda chance, link: _unpadded(chance.randbytes(12) + link.raw[12:]),
    "another tag": lambda chance, link: _unpadded(link.raw[:-16] + chance.randbytes(16)),
    "another link's end": lambda chance, link: _splice(chance, link.token, link.another),
    "another key": lambda chance, link: seal(
        [OTHER_KEY], link.purpose, NAME, link.person, CampaignTime(FORTNIGHT.replace(month=12))
    ),
    "another purpose": lambda chance, link: _other_purpose(link),
    "bound to nothing": lambda chance, link: _sealed_otherwise(chance, link, None),
    "bound to other words": lambda chance, link: _sealed_otherwise(
        chance, link, b"mfa-nudge link, " + chance.choice((b"", b"Done", b"done ", b"status"))
    ),
    "too late": lambda chance, link: seal(
        [KEY],
        link.purpose,
        NAME,
        link.person,
        CampaignTime(FORTNIGHT.replace(year=2027 - chance.randrange(1, 50))),
    ),
    "by chance": lambda chance, link: _unpadded(chance.randbytes(63)),
}


# --- SendGrid's events ----------------------------------------------------------------------------


def make_events(chance: Random, at: int, keys: int) -> Events:
    """Genuine ones, about people of the rows with these numbers; signed at that time."""
    kinds = ("delivered", "bounce", "spamreport", "unsubscribe", "dropped")
    told = [
        event_of(key_of(chance.randrange(keys)), chance.randrange(20), chance.choice(kinds))
        for _ in range(chance.randrange(1, 4))
    ]
    return sign_events(write_body(told), at)


def _signature(events: Events) -> bytes:
    return base64.b64decode(events.signature)


def _signed(events: Events, signature: bytes) -> Events:
    return replace(events, signature=base64.b64encode(signature).decode())


def _rewrite(chance: Random, events: Events) -> bytes:
    """A body that says something else."""
    told = msgspec.json.decode(events.body)
    one = chance.choice(told)
    field, value = chance.choice(
        (
            ("event", "spamreport" if one["event"] != "spamreport" else "delivered"),
            ("i", str((int(one["i"]) + 1) % 20)),
            ("parcel", one["parcel"].replace(NAME, "hku-alumni-2028")),
            ("parcel", one["parcel"][:-1] + chr(ord(one["parcel"][-1]) ^ 1)),
            ("attempt", one["attempt"][::-1]),
            ("email", "somebody.else@mail.example"),
        )
    )
    one[field] = value
    return write_body(told)


def _move_into_body(events: Events, count: int) -> Events:
    time = events.timestamp
    return replace(events, body=time[-count:].encode() + events.body, timestamp=time[:-count])


def _move_into_time(events: Events, count: int) -> Events:
    moved = events.body[:count].decode()
    return replace(events, body=events.body[count:], timestamp=events.timestamp + moved)


def _signed_over(events: Events, signed: bytes, algorithm: hashes.HashAlgorithm) -> Events:
    """By the right key, over something else or otherwise."""
    made = EVENTS_KEY.sign(signed, ec.ECDSA(algorithm, deterministic_signing=True))
    return _signed(events, made)


def _in_another_form(chance: Random, time: str) -> str:
    """A time as SendGrid does not write it."""
    return chance.choice(
        (f"{time}000", f"+{time}", f" {time}", f"{time}.0", f"0{time}", f"{time[:-3]}e3", "",
         time.translate({ord("0") + digit: 0x660 + digit for digit in range(10)}), f"-{time}",
         time[:-1], f"{int(time):x}")
    )  # fmt: skip


def _swapped(events: Events) -> Events:
    one, two = decode_dss_signature(_signature(events))
    return _signed(events, encode_dss_signature(two, one))


def _other_form(events: Events) -> Events:
    """What ECDSA cannot tell from the signature: anybody can make the one from the other."""
    one, two = decode_dss_signature(_signature(events))
    return _signed(events, encode_dss_signature(one, ORDER - two))


def _with_another_signature(chance: Random, events: Events) -> Events:
    another = sign_events(write_body([event_of(key_of(1), 1)]), events.timestamp)
    later = sign_events(events.body, int(events.timestamp) + chance.choice((-1, 1)))
    return replace(events, signature=chance.choice((another, later)).signature)


_AGO, _AHEAD = int(SIGNED_AGO.total_seconds()), int(SIGNED_AHEAD.total_seconds())

EVENTS: Mapping[str, Callable[[Random, Events], Events]] = {
    "a bit of the body": lambda chance, one: replace(one, body=flip(chance, one.body)),
    "a bit of the signature": lambda chance, one: _signed(one, flip(chance, _signature(one))),
    "a bit of its letters": lambda chance, one: replace(
        one, signature=flip_text(chance, one.signature)
    ),
    "a bit of the time": lambda chance, one: replace(
        one, timestamp=flip_text(chance, one.timestamp)
    ),
    "another time": lambda chance, one: replace(
        one, timestamp=str(int(one.timestamp) + chance.choice((-1, 1)) * chance.randrange(1, 300))
    ),
    "digits moved into the body": lambda chance, one: _move_into_body(one, chance.randrange(1, 10)),
    "the body's beginning moved into the time": lambda chance, one: _move_into_time(
        one, chance.randrange(1, 30)
    ),
    "another key": lambda chance, one: sign_events(one.body, one.timestamp, OTHER_EVENTS_KEY),
    "stale": lambda chance, one: sign_events(
        one.body, int(one.timestamp) - _AGO - chance.randrange(60, 10**9)
    ),
    "from the future": lambda chance, one: sign_events(
        one.body, int(one.timestamp) + _AHEAD + chance.randrange(60, 10**8)
    ),
    "sent again under a new time": lambda chance, one: replace(
        sign_events(one.body, int(one.timestamp) - _AGO - 3600), timestamp=one.timestamp
    ),
    "the signature of another": _with_another_signature,
    "something else": lambda chance, one: replace(one, body=_rewrite(chance, one)),
    "an event more": lambda chance, one: replace(
        one, body=b"[" + msgspec.json.encode(event_of(key_of(2), 2)) + b"," + one.body[1:]
    ),
    "two batches": lambda chance, one: replace(one, body=one.body + one.body),
    "a body cut short": lambda chance, one: replace(one, body=cut(chance, one.body)),
    "a body with more behind": lambda chance, one: replace(
        one, body=one.body + chance.choice((b" ", b"\n", b"\0", b"\r\n", b"[]"))
    ),
    "a body with a mark before": lambda chance, one: replace(
        one, body=chance.choice((b"\xef\xbb\xbf", b" ", b"\n")) + one.body
    ),
    "a body without its line breaks": lambda chance, one: replace(
        one, body=one.body.replace(b"\r\n", chance.choice((b"", b"\n")))
    ),
    "a body in another encoding": lambda chance, one: replace(
        one, body=one.body.decode().encode(chance.choice(("utf-16", "utf-32")))
    ),
    "a body in other JSON": lambda chance, one: replace(
        one, body=msgspec.json.format(one.body, indent=chance.choice((0, 1, 4))) + b"\r\n"
    ),
    "a letter of the body in its other case": lambda chance, one: replace(
        one, body=swap_case(chance, one.body.decode()).encode()
    ),
    "a signature cut short": lambda chance, one: _signed(one, cut(chance, _signature(one))),
    "its letters cut short": lambda chance, one: replace(one, signature=cut(chance, one.signature)),
    "a signature with more behind": lambda chance, one: _signed(
        one, _signature(one) + chance.randbytes(chance.randrange(1, 9))
    ),
    "a signature's letters in another case": lambda chance, one: replace(
        one, signature=swap_case(chance, one.signature)
    ),
    "a signature in another alphabet": lambda chance, one: replace(
        one,
        signature=chance.choice(
            (
                base64.urlsafe_b64encode(b"\xff\xef" + _signature(one)).decode(),
                _signature(one).hex(),
                base64.b64encode(one.signature.encode()).decode(),
                f"{one.signature}====",
                f"{one.signature},{one.signature}",
                f'"{one.signature}"',
                quote(one.signature, safe=""),
            )
        ),
    ),
    "spare bits of a signature": lambda chance, one: replace(
        one, signature=spare_bits(chance, one.signature)
    ),
    "a signature as two numbers": lambda chance, one: _signed(
        one, b"".join(part.to_bytes(32) for part in decode_dss_signature(_signature(one)))
    ),
    "its two numbers changed": lambda chance, one: _swapped(one),
    "numbers that fit anything": lambda chance, one: _signed(
        one, encode_dss_signature(*chance.choice(((0, 0), (0, 1), (1, 0), (1, 1), (ORDER, ORDER))))
    ),
    "a signature by chance": lambda chance, one: _signed(
        one, encode_dss_signature(chance.randrange(1, ORDER), chance.randrange(1, ORDER))
    ),
    "signed without a time": lambda chance, one: _signed_over(one, one.body, hashes.SHA256()),
    "signed the other way round": lambda chance, one: _signed_over(
        one, one.body + one.timestamp.encode(), hashes.SHA256()
    ),
    "signed by another algorithm": lambda chance, one: _signed_over(
        one, one.timestamp.encode() + one.body, chance.choice((hashes.SHA1(), hashes.SHA512()))
    ),
    "signed, at a time in another form": lambda chance, one: sign_events(
        one.body, _in_another_form(chance, one.timestamp)
    ),
    "no signature": lambda chance, one: replace(one, signature=""),
    "Twilio's signature": lambda chance, one: replace(
        one,
        signature=base64.b64encode(digest(STATUS_TOKEN.encode(), one.body, sha1)).decode(),
    ),
}

SAME_EVENTS: Mapping[str, Callable[[Random, Events], Events]] = {
    "as it was": lambda chance, one: one,
    "the signature's other form": lambda chance, one: _other_form(one),
    "signed once more": lambda chance, one: _signed(
        one, EVENTS_KEY.sign(one.timestamp.encode() + one.body, ec.ECDSA(hashes.SHA256()))
    ),
    "sent again, a day later by its time": lambda chance, one: sign_events(
        one.body, int(one.timestamp) - _AGO + chance.randrange(600, 86_400)
    ),
}


# --- Twilio's statuses ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Genuine:
    """A status that Twilio has signed, and what it was made of."""

    form: Mapping[str, str]
    query: str
    signature: str

    @property
    def status(self) -> Status:
        return Status(urlencode(self.form).encode(), self.query, self.signature)

    def with_form(self, form: Mapping[str, str]) -> Status:
        return Status(urlencode(form).encode(), self.query, self.signature)

    def with_query(self, query: str) -> Status:
        return replace(self.status, query=query)

    def with_signature(self, signature: str) -> Status:
        return replace(self.status, signature=signature)

    def signed_for(self, url: str, *, query: str | None = None) -> Status:
        """By the right token, but for another address."""
        query = self.query if query is None else query
        return self.with_signature(sign_status(self.form, query, url=url).signature)


STATUSES_TOLD: tuple[dict[str, str], ...] = (
    form_of("queued"),
    form_of("sent"),
    form_of("delivered", RawDlrDoneDate="2703171010"),
    form_of("undelivered", ErrorCode="30005"),
    form_of("undelivered", ErrorCode="30004"),
    form_of("failed", ErrorCode="21610", MessagingServiceSid=f"MG{'0' * 32}"),
)


def make_status(chance: Random, first: int, keys: int) -> Genuine:
    """A genuine one, about the person of a row of which there are so many, from that number on."""
    form = chance.choice(STATUSES_TOLD)
    query = query_of(key_of(first + chance.randrange(keys)))
    return Genuine(form, query, sign_status(form, query).signature)


def _without(chance: Random, form: Mapping[str, str]) -> dict[str, str]:
    name = chance.choice(sorted(form))
    return {key: value for key, value in form.items() if key != name}


def _with_another_value(chance: Random, form: Mapping[str, str]) -> dict[str, str]:
    name = chance.choice(sorted(form))
    values = {
        "MessageStatus": "failed" if form["MessageStatus"] != "failed" else "delivered",
        "ErrorCode": "21610" if form.get("ErrorCode") != "21610" else "30005",
        "To": "+85251234568",
    }
    return {**form, name: values.get(name, flip_text(chance, form[name]))}


def _with_field_twice(chance: Random, body: bytes) -> bytes:
    """The genuine one stands first or last, whichever of them somebody may go by."""
    again = chance.choice((b"MessageStatus=read", b"MessageStatus=", b"ErrorCode=20000", b"To=x"))
    return b"&".join(chance.choice(((body, again), (again, body))))


def _with_swapped_values(form: Mapping[str, str]) -> dict[str, str]:
    return {**form, "From": form["To"], "To": form["From"]}


def _with_more(chance: Random, form: Mapping[str, str]) -> dict[str, str]:
    name = chance.choice(("ErrorCode2", "A", "zz", "Body", "messagestatus", " MessageStatus", "é"))
    return {**form, name: chance.choice(("30005", "21610", "x"))}


def _with_other_ids(chance: Random, query: str) -> str:
    return chance.choice(
        (
            query.replace(NAME, "hku-alumni-2028"),
            query.replace(":a%7C", ":b%7C"),
            query[: -len("&i=0")] + f"&i={chance.randrange(1, 1000)}",
            query.replace("attempt=0", "attempt=f"),
            query.replace("parcel=", "Parcel="),
            f"{query}&i=1",
            f"i=1&{query}",
            f"{query}&x=1",
            query.replace("&i=0", ""),
            "&".join(reversed(query.split("&"))),
            query.replace(":", "%3A"),
            query.replace("%7C", "|"),
            query.replace("&", ";"),
            f"{query}&",
            f"&{query}",
            "",
        )
    )


def _signed_as_json(one: Genuine) -> Status:
    """As Twilio signs JSON: the address alone, which then carries a hash of the body."""
    body = urlencode(one.form).encode()
    query = f"{one.query}&bodySHA256={sha256(body).hexdigest()}"
    return Status(body, query, sign_status({}, query).signature)


def _moved_into_address(one: Genuine, count: int) -> Status:
    """Address and form are signed with nothing between: the form's beginning is the query's end."""
    name, value = min(one.form.items())
    whole = name + value
    form = {key: kept for key, kept in one.form.items() if key != name}
    rest = whole[count:]
    if rest:
        form |= {rest[:1]: rest[1:]}
    return replace(one.with_form(form), query=one.query + quote(whole[:count]))


def _moved_into_form(one: Genuine, count: int) -> Status:
    query, moved = one.query[:-count], one.query[-count:]
    name, value = min(one.form.items())
    form = {key: kept for key, kept in one.form.items() if key != name}
    return replace(one.with_form({moved + name: value, **form}), query=query)


def _token_signature(token: str, signed: str, algorithm: Any = sha1) -> str:
    return base64.b64encode(digest(token.encode(), signed.encode(), algorithm)).decode()


def _string_of(one: Genuine) -> str:
    """What is signed of it."""
    return f"{CALLBACK}?{one.query}" + "".join(name + one.form[name] for name in sorted(one.form))


STATUSES: Mapping[str, Callable[[Random, Genuine], Status]] = {
    "a bit of the form": lambda chance, one: replace(
        one.status, body=flip(chance, one.status.body)
    ),
    "a bit of the query": lambda chance, one: one.with_query(flip_text(chance, one.query)),
    "a bit of the signature": lambda chance, one: one.with_signature(
        base64.b64encode(flip(chance, base64.b64decode(one.signature))).decode()
    ),
    "a bit of its letters": lambda chance, one: one.with_signature(
        flip_text(chance, one.signature)
    ),
    "a field more": lambda chance, one: one.with_form(_with_more(chance, one.form)),
    "a field less": lambda chance, one: one.with_form(_without(chance, one.form)),
    "a field twice, with another value": lambda chance, one: replace(
        one.status, body=_with_field_twice(chance, one.status.body)
    ),
    "another value": lambda chance, one: one.with_form(_with_another_value(chance, one.form)),
    "two values changed": lambda chance, one: one.with_form(_with_swapped_values(one.form)),
    "names in another case": lambda chance, one: one.with_form(
        {name.swapcase(): value for name, value in one.form.items()}
    ),
    "values in another case": lambda chance, one: one.with_form(
        {name: value.swapcase() for name, value in one.form.items()}
    ),
    "a form cut short": lambda chance, one: replace(one.status, body=cut(chance, one.status.body)),
    "no form": lambda chance, one: one.with_form({}),
    "a form as JSON": lambda chance, one: replace(
        one.status, body=msgspec.json.encode(dict(one.form))
    ),
    "a form in another encoding": lambda chance, one: replace(
        one.status, body=one.status.body.decode().encode(chance.choice(("utf-16", "utf-32")))
    ),
    "other ids": lambda chance, one: one.with_query(_with_other_ids(chance, one.query)),
    "the query cut short": lambda chance, one: one.with_query(cut(chance, one.query)),
    "the query's letters in another case": lambda chance, one: one.with_query(
        swap_case(chance, one.query)
    ),
    "a tab in the query": lambda chance, one: one.with_query(
        _insert(chance, one.query, chance.choice("\t\n\r"))
    ),
    "another token": lambda chance, one: one.with_signature(
        sign_status(one.form, one.query, token=OTHER_TOKEN).signature
    ),
    "the token in another case": lambda chance, one: one.with_signature(
        sign_status(one.form, one.query, token=STATUS_TOKEN.upper()).signature
    ),
    "signed for another address": lambda chance, one: one.signed_for(
        chance.choice(
            (
                CALLBACK.replace("https", "http"),
                f"{PUBLIC}/callbacks/sendgrid",
                f"{PUBLIC}/callbacks/twilio/",
                f"{PUBLIC}/callbacks/Twilio",
                f"{PUBLIC}//callbacks/twilio",
                CALLBACK.replace("mfa.", ""),
                f"{PUBLIC}.elsewhere.example/callbacks/twilio",
                CALLBACK.replace("mfa.", "user:password@mfa."),
                f"{PUBLIC}:444/callbacks/twilio",
            )
        )
    ),
    "signed for another row": lambda chance, one: one.signed_for(
        CALLBACK, query=query_of(f"{key_of(99_999)}")
    ),
    "signed for another status": lambda chance, one: one.with_signature(
        sign_status(
            chance.choice([other for other in STATUSES_TOLD if other != one.form]), one.query
        ).signature
    ),
    "signed without the form": lambda chance, one: one.with_signature(
        _token_signature(STATUS_TOKEN, f"{CALLBACK}?{one.query}")
    ),
    "signed without the address": lambda chance, one: one.with_signature(
        _token_signature(STATUS_TOKEN, "".join(map("".join, sorted(one.form.items()))))
    ),
    "signed as JSON is": lambda chance, one: _signed_as_json(one),
    "signed by another algorithm": lambda chance, one: one.with_signature(
        _token_signature(STATUS_TOKEN, _string_of(one), sha256)
    ),
    "signed, and named nobody": lambda chance, one: replace(
        sign_status(
            one.form,
            other := chance.choice(
                (
                    query_of("fence"),
                    query_of(key_of(1), attempt="5"),
                    query_of(key_of(1), i="x"),
                    "a=b",
                    f"{one.query}&i=1",
                    query_of(f"{key_of(1)}'"),
                )
            ),
        ),
        query=other,
    ),
    "the query's end moved into the form": lambda chance, one: _moved_into_form(
        one, chance.randrange(1, 30)
    ),
    "the form's beginning moved into the query": lambda chance, one: _moved_into_address(
        one, chance.randrange(1, 44)
    ),
    "a signature cut short": lambda chance, one: one.with_signature(cut(chance, one.signature)),
    "a signature with more behind": lambda chance, one: one.with_signature(
        one.signature + chance.choice(("=", "A", "AAAA", "\0", f",{one.signature}"))
    ),
    "a signature in another form": lambda chance, one: one.with_signature(
        chance.choice(
            (
                one.signature.swapcase(),
                base64.b64decode(one.signature).hex(),
                one.signature.rstrip("="),
                spare_bits(chance, one.signature),
                base64.b64encode(one.signature.encode()).decode(),
                quote(one.signature, safe=""),
            )
        )
    ),
    "a signature by chance": lambda chance, one: one.with_signature(
        base64.b64encode(chance.randbytes(20)).decode()
    ),
    "no signature": lambda chance, one: one.with_signature(""),
    "SendGrid's signature": lambda chance, one: one.with_signature(
        base64.b64encode(EVENTS_KEY.sign(_string_of(one).encode(), ECDSA)).decode()
    ),
}


def _shuffled(chance: Random, one: Genuine) -> Status:
    fields = list(one.form.items())
    chance.shuffle(fields)
    return one.with_form(dict(fields))


def cut_anew(chance: Random, one: Genuine) -> Status:
    """Fields are signed one after the other, with nothing between: other fields, whose names and
    values make the same text in the same order, have the same signature."""
    text = "".join(name + one.form[name] for name in sorted(one.form))
    while True:
        places = sorted(chance.sample(range(1, len(text)), chance.randrange(1, 16)))
        # Most cuts are where a name or a value of the genuine form begins, or they say nothing.
        begins = [text.index(part, 0) for pair in one.form.items() for part in pair]
        places = sorted({*places[:1], *chance.sample(begins, chance.randrange(len(begins)))} - {0})
        parts = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
        parts += [""] * (len(parts) % 2)
        form = dict(zip(parts[::2], parts[1::2], strict=True))
        if list(form) == sorted(form) and len(form) == len(parts) // 2:
            return one.with_form(form)


SAME_STATUSES: Mapping[str, Callable[[Random, Genuine], Status]] = {
    "as it was": lambda chance, one: one.status,
    "fields in another order": _shuffled,
    "a field twice": lambda chance, one: replace(
        one.status,
        body=one.status.body + b"&MessageStatus=" + one.form["MessageStatus"].encode(),
    ),
    "written otherwise": lambda chance, one: replace(
        one.status,
        body="&".join(
            f"{name}={''.join(f'%{byte:02x}' for byte in value.encode())}"
            for name, value in one.form.items()
        ).encode(),
    ),
    "fields cut anew": cut_anew,
}
