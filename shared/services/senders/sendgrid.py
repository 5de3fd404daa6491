"""Email through SendGrid's v3 Mail Send: one call for a parcel, and what its answer proves.

The sendgrid package builds the body; our own client sends it, since the package's transport opens
a connection for each call and knows no timeout. The limits are those of SendGrid's documentation:
a body that breaks one would be refused for everybody in it, so it is never made.
"""

# The sendgrid package carries no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

import msgspec
from sendgrid.helpers.mail import (
    Category,
    ClickTracking,
    CustomArg,
    From,
    Ganalytics,
    Header,
    Mail,
    OpenTracking,
    Personalization,
    ReplyTo,
    SubscriptionTracking,
    Substitution,
    To,
    TrackingSettings,
)

from shared.rules.contact import fold_address
from shared.services.http import Answer, HttpClient
from shared.services.senders import (
    Accepted,
    Ambiguous,
    Envelope,
    Identity,
    Letter,
    Outcome,
    Prepared,
    Refused,
    RefusedReason,
    Unsendable,
)
from shared.services.senders.calling import call_once, setup_fault

_MAX_PERSONALIZATIONS = 1_000
_CUSTOM_ARGS_LIMIT = 10_000  # bytes of the whole call, as JSON: fewer than this
_CUSTOM_ARGS_OF_MESSAGE = 1_000  # of these, kept free for the ids of parcel and attempt
_SUBSTITUTIONS_LIMIT = 10_000  # bytes of one personalization
_BODY_LIMIT = 30 * 1024 * 1024  # bytes: fewer than this
_MAX_CATEGORIES, _MAX_CATEGORY = 10, 255

_LONGEST_DETAIL = 300

_NAMES_RECIPIENT = re.compile(r"personalizations\.(\d{1,4})\.to(?:\.|$)")
_NAMES_PERSONALIZATIONS = re.compile(r"personalizations(?:\.|$)")
_SPECIALS = re.compile(r'[()<>\[\]:;@\\,"]')
_FIELD = re.compile(r"[\w.-]{1,100}", re.ASCII)
_MARKS_OF_AN_ADDRESS = ("@", "%40", "\uff20")


def _index_arg(index: int) -> dict[str, str]:
    return {"i": str(index)}


def _json_size(value: Mapping[str, str]) -> int:
    return len(msgspec.json.encode(value))


def _most_recipients() -> int:
    """How many people have room, with their places in the row counted from 0."""
    free = _CUSTOM_ARGS_LIMIT - _CUSTOM_ARGS_OF_MESSAGE
    for index in range(_MAX_PERSONALIZATIONS):
        free -= _json_size(_index_arg(index))
        if free <= 0:
            return index
    return _MAX_PERSONALIZATIONS


class SendGrid:
    """The Sender of channel `email`.

    Args:
        base_url: such as `https://api.sendgrid.com`.
        call_timeout: seconds from first byte to answer (`Ages.call`).
    """

    channel = "email"
    max_recipients = _most_recipients()

    def __init__(
        self, http: HttpClient, *, base_url: str, api_key: str, call_timeout: float
    ) -> None:
        self._http = http
        self._url = f"{base_url.rstrip('/')}/v3/mail/send"
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._call_timeout = call_timeout

    def prepare(
        self,
        letter: Letter,
        envelopes: Sequence[Envelope],
        *,
        sender: Identity,
        parcel: str,
        attempt: str,
        categories: Sequence[str],
    ) -> Prepared:
        """The call's body; see `Sender.prepare`. Raises Unsendable, with the limit in words."""
        ids = {"parcel": parcel, "attempt": attempt}
        _check_limits(envelopes, ids, categories)
        mail = Mail(
            from_email=From(sender.email, sender.name),
            subject=letter.subject,
            plain_text_content=letter.text,
            html_content=letter.html,
        )
        mail.reply_to = ReplyTo(sender.reply_to)
        for name, value in ids.items():
            mail.add_custom_arg(CustomArg(name, value))
        for category in categories:
            mail.add_category(Category(category))
        mail.tracking_settings = _no_tracking()
        for position, envelope in enumerate(envelopes):
            # Without its position the package puts each one before the others, and a 400 that
            # names the third would be read as naming the last but two.
            mail.add_personalization(_personalize(envelope), position)
        body = msgspec.json.encode(mail.get())
        if len(body) >= _BODY_LIMIT:
            raise Unsendable(f"the call would have {len(body)} bytes; SendGrid takes 30 MB")
        return Prepared(body, len(envelopes))

    async def send(self, prepared: Prepared, may_start: Callable[[], bool]) -> Outcome:
        """Make the call, once; see `Sender.send`."""
        answer = await call_once(
            self._http,
            self._url,
            provider="SendGrid",
            headers=self._headers,
            body=prepared.body,
            may_start=may_start,
            timeout=self._call_timeout,
        )
        return read_answer(answer, prepared.count) if isinstance(answer, Answer) else answer


def _check_limits(
    envelopes: Sequence[Envelope], ids: Mapping[str, str], categories: Sequence[str]
) -> None:
    if not 1 <= len(envelopes) <= _MAX_PERSONALIZATIONS:
        raise Unsendable(
            f"{len(envelopes)} recipients; a call carries 1 to {_MAX_PERSONALIZATIONS}"
        )
    if len({fold_address(envelope.address) for envelope in envelopes}) < len(envelopes):
        raise Unsendable("two recipients share an address; a call takes each one only once")
    size = _json_size(ids) + sum(_json_size(_index_arg(envelope.index)) for envelope in envelopes)
    if size >= _CUSTOM_ARGS_LIMIT:
        raise Unsendable(
            f"the custom args of {len(envelopes)} recipients have {size} bytes; "
            f"they must stay under {_CUSTOM_ARGS_LIMIT}: make parcels smaller"
        )
    for envelope in envelopes:
        size = _json_size(envelope.substitutions)
        if size > _SUBSTITUTIONS_LIMIT:
            raise Unsendable(
                f"the substitutions of recipient {envelope.index} have {size} bytes; "
                f"at most {_SUBSTITUTIONS_LIMIT} are taken"
            )
    if len(categories) > _MAX_CATEGORIES or any(len(name) > _MAX_CATEGORY for name in categories):
        raise Unsendable(
            f"at most {_MAX_CATEGORIES} categories of {_MAX_CATEGORY} characters are taken"
        )


def _personalize(envelope: Envelope) -> Personalization:
    personal = Personalization()
    personal.add_to(To(envelope.address, _phrase(envelope.name)))
    for tag, value in envelope.substitutions.items():
        personal.add_substitution(Substitution(tag, value))
    if envelope.unsubscribe_url:
        # Substitutions don't reach headers: RFC 8058's pair is written out for each person.
        personal.add_header(Header("List-Unsubscribe", f"<{envelope.unsubscribe_url}>"))
        personal.add_header(Header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"))
    for name, value in _index_arg(envelope.index).items():
        personal.add_custom_arg(CustomArg(name, value))
    return personal


def _phrase(name: str) -> str | None:
    """A display name that is safe beside an address; None where nothing of it is left.

    SendGrid puts a recipient's name into the To header as it stands: after "CHAN, Tai Man" the
    mail went to "CHAN" and was dropped (sendgrid-python#291). So whatever means something there
    (RFC 5322's specials but the dot, and everything invisible) becomes a space.
    """
    plain = _SPECIALS.sub(" ", name)
    if not plain.isprintable():  # nearly every name is
        plain = "".join(" " if unicodedata.category(one)[0] == "C" else one for one in plain)
    return " ".join(plain.split()) or None


def _no_tracking() -> TrackingSettings:
    """All off, whatever the account's defaults: a rewritten link is what phishing looks like."""
    return TrackingSettings(
        click_tracking=ClickTracking(enable=False, enable_text=False),
        open_tracking=OpenTracking(enable=False),
        subscription_tracking=SubscriptionTracking(enable=False),
        ganalytics=Ganalytics(enable=False),
    )


class _Error(msgspec.Struct, frozen=True):
    message: str | None = None
    field: str | None = None


class _Errors(msgspec.Struct, frozen=True):
    errors: list[_Error]


_ERRORS = msgspec.json.Decoder(_Errors)


def read_answer(answer: Answer, count: int) -> Outcome:
    """What an answer to a call with `count` personalizations proves.

    A 4xx refuses all of it, and so does a 503 that SendGrid itself wrote. A 202 accepts all of it.
    Nothing else proves anything: a gateway's 503, a 500 and a 504 have been seen after acceptance,
    a redirect is not followed, and 200 is the answer to a sandbox call, which we don't make.
    """
    errors = _errors_of(answer.body)
    said = _words(answer.status, errors)
    wait = answer.wait
    match answer.status:
        case 202:
            return Accepted(answer.headers.get("X-Message-Id", ""))
        case 400:
            return _read_400(errors, said, count)
        case 401 if "credits" in said.lower():
            return setup_fault(said, "raise the SendGrid plan or buy credits")
        case 401:
            return setup_fault(said, "put a valid key into SENDGRID_API_KEY")
        case 403:
            return setup_fault(
                said, "give the API key the Mail Send right; verify the sender's domain"
            )
        case 408:
            return Refused(reason=RefusedReason.UNAVAILABLE, detail=said, retry_after=wait)
        case 413:
            return Refused(reason=RefusedReason.TOO_LARGE, detail=said)
        case 429:
            return Refused(reason=RefusedReason.THROTTLED, detail=said, retry_after=wait)
        case 503 if errors:
            return Refused(reason=RefusedReason.UNAVAILABLE, detail=said, retry_after=wait)
        case status if 400 <= status < 500:
            return setup_fault(said, "see that SENDGRID_BASE_URL is SendGrid's address")
        case _:
            return Ambiguous(said)


def _read_400(errors: Sequence[_Error], said: str, count: int) -> Refused:
    """An error about anything but recipients would meet the next parcel, too: it goes first. What
    blames a personalization and not its `to` may be anything: halving the parcel finds it."""
    indices: set[int] = set()
    for error in errors:
        field = error.field or ""
        if named := _NAMES_RECIPIENT.match(field):
            indices.add(int(named[1]))
        elif field not in ("", "null") and not _NAMES_PERSONALIZATIONS.match(field):
            return setup_fault(said, "correct what it names, in the campaign file or in the app")
    if indices and max(indices) < count:
        return Refused(
            reason=RefusedReason.RECIPIENTS,
            detail=f"SendGrid answered 400 and named {len(indices)} of {count} recipients",
            indices=tuple(sorted(indices)),
        )
    fields = sorted({one.field for one in errors if one.field and _FIELD.fullmatch(one.field)})
    return Refused(
        reason=RefusedReason.UNATTRIBUTABLE,
        detail=f"SendGrid answered 400, and blamed {', '.join(fields) or 'nothing by name'}",
    )


def _errors_of(body: bytes) -> list[_Error]:
    try:
        return _ERRORS.decode(body).errors
    except msgspec.DecodeError:
        return []


def _words(status: int, errors: Sequence[_Error]) -> str:
    """The answer for logs and people: SendGrid's own words, but no address that they repeat."""
    parts: list[str] = []
    for error in errors:
        message = _without_addresses(error.message or "").rstrip(".")
        field = error.field or ""
        known = field != "null" and _FIELD.fullmatch(field)
        parts.append(f"{field}: {message}" if known else message)
    words = "; ".join(dict.fromkeys(part for part in parts if part))
    return f"SendGrid answered {status}" + (f": {words[:_LONGEST_DETAIL]}" if words else "")


def _without_addresses(message: str) -> str:
    return " ".join(
        "[address]" if any(mark in word for mark in _MARKS_OF_AN_ADDRESS) else word
        for word in message.split()
    )
