"""The settings: environment variables, app settings in Azure. All problems are told at once.

No value is ever part of a message: some of them are secrets.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from shared.clock import Ages, Clock, PretendedClock, SystemClock, read_shift
from shared.errors import SetupFault
from shared.rules.campaign import Allowed
from shared.rules.links import check_keys

ADDRESS_KEY_CHARACTERS = 16
"""The fewest of ADDRESS_KEY: whoever guesses it can try which addresses bounced."""

_STORAGE_KINDS = ("blob", "queue", "table")
_HOW_TO_NAME_STORAGE = (
    "Set a connection string, or all of AzureWebJobsStorage__blobServiceUri, __queueServiceUri and "
    "__tableServiceUri."
)
_UNRESOLVED = re.compile(r"@Microsoft\.KeyVault\(", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*")
_SENDER = re.compile(rf"([^@\s]+@)?{_HOST.pattern}")

# What Twilio takes as a sender: a number with its country code, a short code, a sender id of up to
# 11 characters with a letter among them (a registered one of Hong Kong begins with #), a service.
_TEXT_SENDER = re.compile(
    r"\+[1-9][0-9]{6,14}|[0-9]{3,8}|(?=.*[A-Za-z])[ -~]{1,11}|MG[0-9a-fA-F]{32}", re.ASCII
)
_TWILIO_ACCOUNT = re.compile(r"AC[0-9a-fA-F]{32}")
_TWILIO = ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM")

_DEFAULT_SCHEDULE = "0 0 20 * * *"
# Of NCRONTAB (azure.github.io, "Timer trigger for Azure Functions"): each field's bounds and names.
_SCHEDULE_FIELDS: tuple[tuple[int, int, str], ...] = (
    (0, 59, ""),
    (0, 59, ""),
    (0, 23, ""),
    (1, 31, ""),
    (1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    (0, 6, "sun mon tue wed thu fri sat"),
)
_SCHEDULE_PART = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d+))?", re.ASCII)

type GraphAuth = Literal["managed", "default", "anonymous"]
type GraphConfirm = Literal["methods", "report"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says; see the README's table of settings."""

    storage_connection: str
    storage_blob_uri: str
    storage_queue_uri: str
    storage_table_uri: str
    storage_managed: bool
    storage_client_id: str
    sweep_schedule: str
    graph_base_url: str
    graph_auth: GraphAuth
    graph_confirm: GraphConfirm
    sendgrid_base_url: str
    sendgrid_api_key: str
    sendgrid_webhook_public_key: str
    twilio_base_url: str
    twilio_account_sid: str
    twilio_auth_token: str
    twilio_from: str
    link_keys: tuple[str, ...]
    address_key: str
    public_base_url: str
    status_sign_in: bool
    allowed_senders: frozenset[str]
    allowed_link_hosts: frozenset[str]
    clock_file: str
    ages_scale: float

    def __repr__(self) -> str:
        """Without the values: some are secrets, and a trace must not show them."""
        return f"<Settings local={self.local}>"

    @property
    def local(self) -> bool:
        """Whether storage is on this machine: what is allowed here only, and nowhere else."""
        return _is_local_storage(self.storage_connection)

    @property
    def channels(self) -> frozenset[str]:
        """Those that there is a sender for."""
        return frozenset({"email", "sms"} if self.twilio_account_sid else {"email"})

    @property
    def allowed(self) -> Allowed:
        """What a campaign file may name."""
        return Allowed(
            senders=self.allowed_senders,
            link_hosts=self.allowed_link_hosts,
            local=self.local,
            channels=self.channels,
        )

    def make_clock(self) -> Clock:
        ages = Ages().scaled(self.ages_scale)
        return PretendedClock(Path(self.clock_file), ages) if self.clock_file else SystemClock(ages)


class SettingsProblem(SetupFault):
    """Every problem of the settings, one a line: the name of each, and its fix."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("The settings are not usable.", "\n- ".join(["", *problems]))
        self.problems = tuple(problems)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read and check the settings.

    Raises:
        SettingsProblem: with all that is wrong, each with its fix.
    """
    return _Reader(environment).read()


class _Reader:
    """Reads settings one by one and collects what is wrong, at most one problem for each."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._problems: dict[str, str] = {}

    def read(self) -> Settings:
        connection = self._connection("AzureWebJobsStorage")
        blob, queue, table = (
            self._url(f"AzureWebJobsStorage__{kind}ServiceUri", required=False)
            for kind in _STORAGE_KINDS
        )
        if not connection and not (blob and queue and table):
            self._add("AzureWebJobsStorage", _HOW_TO_NAME_STORAGE)
        credential = self._text("AzureWebJobsStorage__credential").lower()
        settings = Settings(
            storage_connection=connection,
            storage_blob_uri=blob,
            storage_queue_uri=queue,
            storage_table_uri=table,
            storage_managed=credential == "managedidentity",
            storage_client_id=self._text("AzureWebJobsStorage__clientId"),
            sweep_schedule=self._schedule("SWEEP_SCHEDULE", _DEFAULT_SCHEDULE),
            graph_base_url=self._url("GRAPH_BASE_URL", "https://graph.microsoft.com/v1.0"),
            graph_auth=self._choice("GRAPH_AUTH", ("managed", "default", "anonymous")),  # type: ignore[arg-type]
            graph_confirm=self._choice("GRAPH_CONFIRM", ("methods", "report")),  # type: ignore[arg-type]
            sendgrid_base_url=self._url("SENDGRID_BASE_URL", "https://api.sendgrid.com"),
            sendgrid_api_key=self._secret("SENDGRID_API_KEY"),
            sendgrid_webhook_public_key=self._public_key("SENDGRID_WEBHOOK_PUBLIC_KEY"),
            twilio_base_url=self._url("TWILIO_BASE_URL", "https://api.twilio.com"),
            twilio_account_sid=self._secret("TWILIO_ACCOUNT_SID", required=False),
            twilio_auth_token=self._secret("TWILIO_AUTH_TOKEN", required=False),
            twilio_from=self._text("TWILIO_FROM"),
            link_keys=self._list("LINK_KEYS"),
            address_key=self._secret("ADDRESS_KEY"),
            public_base_url=self._url("PUBLIC_BASE_URL"),
            status_sign_in=self._choice("STATUS_SIGN_IN", ("none", "entra")) == "entra",
            allowed_senders=self._names("ALLOWED_SENDERS", _SENDER, "addresses or domains"),
            allowed_link_hosts=self._names("ALLOWED_LINK_HOSTS", _HOST, "hosts"),
            clock_file=self._text("CLOCK_FILE"),
            ages_scale=self._factor("AGES_SCALE"),
        )
        if credential not in ("", "managedidentity"):
            self._add("AzureWebJobsStorage__credential", "must be managedidentity, or left out.")
        self._check_secrets(settings)
        self._check_twilio(settings)
        self._check_local(settings)
        if self._problems:
            raise SettingsProblem(list(self._problems.values()))
        return settings

    def _check_secrets(self, settings: Settings) -> None:
        if problems := check_keys(settings.link_keys):
            self._problems.setdefault("LINK_KEYS", " ".join(problems))
        if len(settings.address_key) < ADDRESS_KEY_CHARACTERS:
            self._add(
                "ADDRESS_KEY",
                f"must have {ADDRESS_KEY_CHARACTERS} characters or more, such as "
                "`openssl rand -base64 32` makes; it never changes.",
            )

    def _check_twilio(self, settings: Settings) -> None:
        """All that an SMS needs, or nothing of it."""
        given = {name for name in _TWILIO if self._environment.get(name, "").strip()}
        for name in _TWILIO if given else ():
            if name not in given:
                self._add(name, f"missing. For SMS set all of {', '.join(_TWILIO)}; or none.")
        if (sid := settings.twilio_account_sid) and not _TWILIO_ACCOUNT.fullmatch(sid):
            self._add("TWILIO_ACCOUNT_SID", "must be AC and 32 hexadecimal digits.")
        if (sender := settings.twilio_from) and not _TEXT_SENDER.fullmatch(sender):
            self._add(
                "TWILIO_FROM",
                "must be a number with + and its country code, a sender id of at most 11 "
                "characters, or the id of a messaging service (MG and 32 hexadecimal digits).",
            )

    def _check_local(self, settings: Settings) -> None:
        """What is allowed on this machine only."""
        if settings.graph_auth == "anonymous" and not is_loopback(settings.graph_base_url):
            self._add(
                "GRAPH_AUTH", "`anonymous` is for a server on this machine only; use `managed`."
            )
        given = {"CLOCK_FILE": settings.clock_file, "AGES_SCALE": settings.ages_scale != 1}
        for name in (name for name, value in given.items() if value and not settings.local):
            self._add(name, "only for storage on this machine. Remove it from the app's settings.")
        try:
            settings.make_clock()
        except ValueError as error:
            self._add("AGES_SCALE", f"too small: {error}. Use a larger factor, such as 0.02.")
        if settings.clock_file and settings.local:
            try:
                read_shift(Path(settings.clock_file))
            except SetupFault as fault:
                self._add("CLOCK_FILE", str(fault))

    def _add(self, name: str, problem: str) -> None:
        self._problems.setdefault(name, f"{name}: {problem}")

    # kinds of settings

    def _text(self, name: str) -> str:
        value = self._environment.get(name, "").strip()
        if _UNRESOLVED.match(value):
            self._add(
                name,
                "the Key Vault reference was not resolved. Check that the secret exists and that "
                "the app's identity has the role Key Vault Secrets User.",
            )
        elif _CONTROL.search(value):
            self._add(name, "has a line break or a control character within. Set it on one line.")
        else:
            return value
        return ""

    def _secret(self, name: str, *, required: bool = True) -> str:
        value = self._text(name)
        if not value:
            if required:
                self._add(name, "missing.")
        elif not value.isascii() or " " in value:
            self._add(name, "has a space or a character beyond ASCII within. Copy it once more.")
        return value

    def _public_key(self, name: str) -> str:
        value = self._text(name)
        if value and not _is_p256(value):
            self._add(
                name, "not a public key. Copy the verification key of SendGrid's Event Webhook."
            )
        return value

    def _connection(self, name: str) -> str:
        value = self._text(name)
        parts = _parts_of(value)
        if value and not (
            "usedevelopmentstorage" in parts
            or "sharedaccesssignature" in parts
            or {"accountname", "accountkey"} <= parts.keys()
        ):
            self._add(name, f"not a connection string. {_HOW_TO_NAME_STORAGE}")
        return value

    def _list(self, name: str) -> tuple[str, ...]:
        return tuple(part for part in map(str.strip, self._text(name).split(",")) if part)

    def _names(self, name: str, form: re.Pattern[str], kind: str) -> frozenset[str]:
        names = frozenset(map(str.casefold, self._list(name)))
        if not all(map(form.fullmatch, names)):
            self._add(name, f"must be {kind} with commas between, and nothing else.")
        return names

    def _url(self, name: str, default: str = "", *, required: bool = True) -> str:
        value = self._text(name) or default
        if value:
            if not _is_usable(value):
                self._add(
                    name,
                    "must be an https:// address (http:// on this machine only), without user "
                    "name, query and fragment.",
                )
        elif required:
            self._add(name, "missing. Give the address, such as https://mfa.example.edu.")
        return value.rstrip("/")

    def _choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self._text(name) or choices[0]
        if value not in choices:
            self._add(name, f"must be one of {', '.join(choices)}.")
        return value

    def _schedule(self, name: str, default: str) -> str:
        value = self._text(name) or default
        fields = value.lower().split()
        if len(fields) != len(_SCHEDULE_FIELDS) or not all(
            map(_is_schedule_field, fields, _SCHEDULE_FIELDS)
        ):
            self._add(
                name,
                "must be six fields of NCRONTAB (second minute hour day month weekday), such as "
                f"`{default}`; times are UTC.",
            )
        return value

    def _factor(self, name: str) -> float:
        text = self._text(name)
        try:
            value = float(text) if text else 1.0
        except ValueError:
            value = 0.0
        if 0 < value <= 1:
            return value
        self._add(name, "must be a factor above 0 and up to 1, such as 0.02.")
        return 1.0


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_usable(url: str) -> bool:
    """Whether paths can be put behind an address, and what goes there is safe from listeners."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:
        return False
    return bool(
        parts.hostname
        and not (parts.username or parts.password or parts.query or parts.fragment or " " in url)
        and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url)))
    )


def _is_p256(key: str) -> bool:
    """Whether it is a public key of ECDSA over P-256, as DER in base64."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        loaded = load_der_public_key(base64.b64decode(key, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(loaded, EllipticCurvePublicKey) and isinstance(loaded.curve, SECP256R1)


def _is_local_storage(connection: str) -> bool:
    """Whether a connection string names storage on this machine, such as Azurite's."""
    parts = _parts_of(connection)
    if parts.get("usedevelopmentstorage", "").lower() == "true":
        return "developmentstorageproxyuri" not in parts
    return all(is_loopback(parts.get(f"{kind}endpoint", "")) for kind in _STORAGE_KINDS)


def _parts_of(connection: str) -> dict[str, str]:
    """The parts of a connection string. Their names are compared without case."""
    parts = (part.split("=", 1) for part in connection.split(";") if "=" in part)
    return {name.strip().lower(): value for name, value in parts}


def _is_schedule_field(field: str, allowed: tuple[int, int, str]) -> bool:
    least, most, names = allowed
    numbers = {name: str(number) for number, name in enumerate(names.split(), start=least)}
    for part in field.split(","):
        found = _SCHEDULE_PART.fullmatch(part)
        if not found or found[3] == "0":
            return False
        ends = [numbers.get(end, end) for end in (found[1], found[2]) if end]
        if not all(end.isdigit() and least <= int(end) <= most for end in ends):
            return False
        if len(ends) == 2 and int(ends[0]) > int(ends[1]):
            return False
    return True
