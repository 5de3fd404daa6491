"""What is examined: the settings of an app that is deployed, or the parameters of one to come."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, Self, cast
from urllib.parse import urlsplit

import msgspec

from shared.clock import CampaignTime, SystemClock
from shared.errors import SetupFault
from shared.settings import Settings, SettingsProblem, is_loopback, read_settings

SECRETS: Mapping[str, str] = {
    "SENDGRID_API_KEY": "sendgrid-api-key",
    "TWILIO_ACCOUNT_SID": "twilio-account-sid",
    "TWILIO_AUTH_TOKEN": "twilio-auth-token",
    "LINK_KEYS": "link-keys",
    "ADDRESS_KEY": "address-key",
}
"""The settings that are kept in Key Vault, and the secret's name of each."""

_REFERENCE = re.compile(r"@Microsoft\.KeyVault\((.*)\)\s*", re.IGNORECASE | re.DOTALL)
_LINE = re.compile(r"(?:export\s+)?(\w+)\s*=\s*(.*)", re.ASCII)
_NAME = re.compile(r"\w+", re.ASCII)
_VAULT_NAME = re.compile(r"[A-Za-z0-9-]{3,24}")

VAULT_SUFFIXES = ("vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net")
"""Of the clouds. A token for Key Vault goes to hosts under these, and nowhere else."""

PLATFORM = "azurewebsites.net"
"""The domain under which every app has an address."""

type Kind = Literal["environment", "file", "plan"]


class Reference(msgspec.Struct, frozen=True):
    """Where a setting is kept: the vault's address, and the secret's name."""

    vault: str
    secret: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is examined.

    Attributes:
        kind: where it comes from: this process's environment, a file of app settings, parameters.
        settings: with something harmless for each secret that is kept elsewhere and for each
            setting that has a problem; None where even so they cannot be read.
        problems: what is wrong with the settings, a sentence each.
        faulty: names of the settings that have a problem.
        names: all settings that are set.
        references: the settings that are references to Key Vault.
        outputs: what the deployment told of itself, such as AZURE_RESOURCE_GROUP.
        public_host: where alumni reach the pages, or will; "" where that is not known.
        parameters: of a plan: all of them, by name.
        unset: of a plan: environment variables that it asks for in vain.
    """

    kind: Kind
    settings: Settings | None
    public_host: str = ""
    problems: tuple[str, ...] = ()
    faulty: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    references: Mapping[str, Reference] = field(default_factory=dict[str, Reference])
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])
    parameters: Mapping[str, object] = field(default_factory=dict[str, object])
    unset: tuple[str, ...] = ()

    @classmethod
    def of_settings(cls, kind: Kind, found: Mapping[str, str], outputs: Mapping[str, str]) -> Self:
        """Of settings as they were found; a reference in a file counts as kept in Key Vault.

        In this process's environment a reference is one that the platform did not resolve, which
        is a problem.
        """
        references = {
            name: reference
            for name, value in found.items()
            if kind == "file" and (reference := _parse_reference(value))
        }
        kept = {name: _stand_ins().get(name, "") for name in references}
        # Whoever types the command looks, and not the app: its managed identity is not here.
        own = {} if found.get("GRAPH_AUTH") == "anonymous" else {"GRAPH_AUTH": "default"}
        problems = _problems_of({**found, **kept})
        settings, faulty = _read_around({**found, **kept, **own}, problems)
        if settings:
            settings = msgspec.structs.replace(settings, storage_managed=False)
        return cls(
            kind=kind,
            settings=settings,
            public_host=_host_of(settings, faulty),
            problems=problems,
            faulty=faulty,
            names=frozenset(name for name, value in found.items() if value.strip()),
            references=references,
            outputs=outputs,
        )

    @classmethod
    def of_parameters(
        cls,
        parameters: Mapping[str, object],
        outputs: Mapping[str, str],
        unset: tuple[str, ...] = (),
    ) -> Self:
        """Of a plan: the settings that the template will make of these parameters."""
        found = _settings_of(parameters)
        own_host = _as_text(find(parameters, "customDomain.hostName"))
        secured = own_host and find(parameters, "customDomain.stage") == "secure"
        # Without one of its own the app has the address that the platform gives it.
        address = f"https://{own_host if secured else f'app.{PLATFORM}'}"
        complete = {
            **_stand_ins(),
            **dict.fromkeys(("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"), ""),
            **({name: _stand_ins()[name] for name in _TWILIO} if found["TWILIO_FROM"] else {}),
            **found,
            "PUBLIC_BASE_URL": found["PUBLIC_BASE_URL"] or address,
        }
        problems = _problems_of(complete)
        settings, faulty = _read_around(complete, problems)
        return cls(
            kind="plan",
            settings=settings,
            public_host=own_host.lower()
            if own_host and not found["PUBLIC_BASE_URL"]
            else _host_of(settings, faulty),
            problems=tuple(_in_words_of_parameters(problem) for problem in problems),
            faulty=faulty,
            names=frozenset(name for name, value in found.items() if value),
            outputs=outputs,
            parameters=parameters,
            unset=unset,
        )

    @property
    def has_storage(self) -> bool:
        """Whether there is storage that can be looked at."""
        faulty = any(name.startswith("AzureWebJobsStorage") for name in self.faulty)
        return self.kind != "plan" and self.settings is not None and not faulty

    @property
    def is_on_platform(self) -> bool:
        """Whether the pages are at the address that the platform gives to every app."""
        return f".{self.public_host}".endswith(f".{PLATFORM}")

    @property
    def identity(self) -> str:
        """How Graph's addresses name the app's identity: by object id, or by client id; "" where
        neither is known."""
        if (found := self.outputs.get("IDENTITY_PRINCIPAL_ID", "")) and _is_guid(found):
            return f"/{found}"
        client = self.settings.storage_client_id if self.settings else ""
        client = client or self.outputs.get("IDENTITY_CLIENT_ID", "")
        return f"(appId='{client}')" if _is_guid(client) else ""

    @property
    def vaults(self) -> tuple[str, ...]:
        """Addresses of the vaults that the secrets are kept in."""
        named = {reference.vault for reference in self.references.values()}
        if not named and _VAULT_NAME.fullmatch(name := self.outputs.get("KEY_VAULT_NAME", "")):
            named = {f"https://{name}.{VAULT_SUFFIXES[0]}"}
        return tuple(sorted(named))

    def campaign_now(self) -> CampaignTime:
        """Pretended where the settings pretend it, as the local system does."""
        try:
            clock = self.settings.make_clock() if self.settings else SystemClock()
            return clock.campaign_now()
        except SetupFault:
            return SystemClock().campaign_now()


def read_environment_file(path: Path) -> dict[str, str]:
    """App settings from a file: `KEY=VALUE` lines, or what `az functionapp config appsettings list`
    prints. Raises SetupFault, which quotes nothing of the file."""
    text = read_text(path)
    if text.lstrip().startswith(("[", "{")):
        return _from_json(path, text)
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not (match := _LINE.fullmatch(line)):
            raise SetupFault(
                f"{path.name}:{number}: this is no line of settings.",
                "Write NAME=VALUE, one a line, or give the JSON that "
                "`az functionapp config appsettings list` prints.",
            )
        found[match[1]] = _unquote(match[2])
    return found


def read_text(path: Path) -> str:
    """A file's text; raises SetupFault."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SetupFault(f"{path} is not text in UTF-8.", "Save it as UTF-8.") from None
    except OSError as error:
        raise SetupFault(
            f"{path} cannot be read ({error.strerror}).", "Give the path of a file that is there."
        ) from None


class _AppSetting(msgspec.Struct):
    name: str
    value: str | None = None


def _from_json(path: Path, text: str) -> dict[str, str]:
    try:
        listed = msgspec.json.decode(text, type=list[_AppSetting])
    except msgspec.DecodeError:
        raise SetupFault(
            f"{path.name} is not the list of settings that Azure prints.",
            "Make it with `az functionapp config appsettings list --output json`, or write "
            "NAME=VALUE lines.",
        ) from None
    return {one.name: one.value or "" for one in listed}


def _unquote(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _parse_reference(value: str) -> Reference | None:
    """Where a reference leads; a vault of "" where that cannot be told."""
    if not (match := _REFERENCE.fullmatch(value.strip())):
        return None
    parts = {
        name.strip().lower(): text.strip()
        for name, _, text in (part.partition("=") for part in match[1].split(";"))
    }
    if uri := parts.get("secreturi"):
        try:
            where = urlsplit(uri)
            base, secret = f"{where.scheme}://{where.netloc}", where.path.split("/")[2]
            return Reference(base if _is_vault(base) else "", secret)
        except (ValueError, IndexError):
            return Reference("", "")
    name, secret = parts.get("vaultname", ""), parts.get("secretname", "")
    usable = _VAULT_NAME.fullmatch(name)
    return Reference(f"https://{name}.{VAULT_SUFFIXES[0]}" if usable else "", secret)


def _is_vault(base: str) -> bool:
    where = urlsplit(base)
    host = (where.hostname or "").lower()
    in_cloud = where.scheme == "https" and any(host.endswith(f".{end}") for end in VAULT_SUFFIXES)
    return "@" not in where.netloc and (in_cloud or is_loopback(base))


def _is_guid(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text))


# what the settings come to


def _problems_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    try:
        read_settings(environment)
    except SettingsProblem as error:
        return error.problems
    return ()


def _read_around(
    environment: Mapping[str, str], problems: tuple[str, ...]
) -> tuple[Settings | None, frozenset[str]]:
    """The settings with something harmless where they have a problem, and the names of these: the
    other looks need not wait for the last problem to go."""
    faulty = frozenset(match[0] for one in problems if (match := _NAME.match(one)))
    about_storage = _STORAGE if "AzureWebJobsStorage" in faulty else ()
    harmless = {name: _stand_ins().get(name, "") for name in (*faulty, *about_storage)}
    try:
        return read_settings({**environment, **harmless}), faulty
    except SettingsProblem:
        return None, faulty


def _host_of(settings: Settings | None, faulty: frozenset[str]) -> str:
    if settings is None or "PUBLIC_BASE_URL" in faulty:
        return ""
    return (urlsplit(settings.public_base_url).hostname or "").lower()


_STORAGE = tuple(f"AzureWebJobsStorage__{kind}ServiceUri" for kind in ("blob", "queue", "table"))
_TWILIO = ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN")


@cache
def _stand_ins() -> Mapping[str, str]:
    """Values for what is kept elsewhere: right in form, and good for nothing."""
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return {
        "SENDGRID_API_KEY": "kept-elsewhere",
        "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
        "TWILIO_AUTH_TOKEN": "kept-elsewhere",
        "TWILIO_FROM": "+10000000000",
        "LINK_KEYS": key,
        "ADDRESS_KEY": key,
        "PUBLIC_BASE_URL": "https://public-base-url.invalid",
        **dict.fromkeys(_STORAGE, "https://storage.invalid"),
    }


# parameters


PARAMETERS: Mapping[str, str] = {
    "PUBLIC_BASE_URL": "publicBaseUrl",
    "ALLOWED_SENDERS": "allowedSenders",
    "ALLOWED_LINK_HOSTS": "allowedLinkHosts",
    "SWEEP_SCHEDULE": "sweepSchedule",
    "GRAPH_CONFIRM": "graphConfirm",
    "SENDGRID_WEBHOOK_PUBLIC_KEY": "sendgridWebhookPublicKey",
    "TWILIO_FROM": "sms.from",
}
"""Settings that the template makes of parameters."""


def _settings_of(parameters: Mapping[str, object]) -> dict[str, str]:
    return {name: _as_text(find(parameters, path)) for name, path in PARAMETERS.items()}


def find(parameters: Mapping[str, object], path: str) -> object:
    """The value of a parameter, or of a property of one, such as `sms.from`; None where it has
    none."""
    found: object = parameters
    for name in path.split("."):
        found = cast("Mapping[str, object]", found).get(name) if isinstance(found, dict) else None
    return found


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, cast("list[object]", value)))
    return "" if value is None else str(value)


def _in_words_of_parameters(problem: str) -> str:
    name, _, rest = problem.partition(":")
    return f"{PARAMETERS[name]}:{rest}" if name in PARAMETERS else problem
