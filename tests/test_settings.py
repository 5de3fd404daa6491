"""The settings: every problem at once, each with its fix, and no secret in any of it."""

from __future__ import annotations

import base64
import traceback
from itertools import combinations
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import Ages, PretendedClock, SystemClock, write_clock_file
from shared.rules.campaign import Allowed
from shared.settings import Settings, SettingsProblem, is_loopback, read_settings
from tests.stores.making import NOON

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
AZURITE = (
    "DefaultEndpointsProtocol=http;AccountName=nudge;AccountKey=c2VjcmV0;"
    "BlobEndpoint=http://127.0.0.1:1/nudge;QueueEndpoint=http://127.0.0.1:2/nudge;"
    "TableEndpoint=http://127.0.0.1:3/nudge;"
)
IN_AZURE = {
    "AzureWebJobsStorage__blobServiceUri": "https://nudge.blob.core.windows.net",
    "AzureWebJobsStorage__queueServiceUri": "https://nudge.queue.core.windows.net",
    "AzureWebJobsStorage__tableServiceUri": "https://nudge.table.core.windows.net/",
    "AzureWebJobsStorage__credential": "managedidentity",
    "AzureWebJobsStorage__clientId": "00000000-0000-0000-0000-000000000001",
    "SENDGRID_API_KEY": "SG.abc",
    "LINK_KEYS": KEY,
    "ADDRESS_KEY": KEY,
    "PUBLIC_BASE_URL": "https://mfa.its.hku.hk/",
    "ALLOWED_SENDERS": "no-reply@its.hku.hk, HKU.hk",
    "ALLOWED_LINK_HOSTS": "its.hku.hk,MFA.its.hku.hk",
}
TWILIO = {
    "TWILIO_ACCOUNT_SID": "AC" + "0123456789abcdef" * 2,
    "TWILIO_AUTH_TOKEN": "0123456789abcdef" * 2,
    "TWILIO_FROM": "#HKU",
}
LOCAL = {
    **{name: value for name, value in IN_AZURE.items() if not name.startswith("AzureWebJobs")},
    "AzureWebJobsStorage": AZURITE,
}


def problems_of(environment: dict[str, str]) -> tuple[str, ...]:
    try:
        read_settings(environment)
    except SettingsProblem as problem:
        return problem.problems
    return ()


# what is read


def test_an_app_in_azure() -> None:
    settings = read_settings(IN_AZURE)
    assert not settings.local
    assert settings.storage_managed
    assert settings.storage_client_id == "00000000-0000-0000-0000-000000000001"
    assert settings.storage_table_uri == "https://nudge.table.core.windows.net"
    assert settings.public_base_url == "https://mfa.its.hku.hk"
    assert settings.allowed == Allowed(
        senders=frozenset({"no-reply@its.hku.hk", "hku.hk"}),
        link_hosts=frozenset({"its.hku.hk", "mfa.its.hku.hk"}),
        local=False,
        channels=frozenset({"email"}),
    )
    clock = settings.make_clock()
    assert type(clock) is SystemClock
    assert clock.ages == Ages()


def test_what_is_not_set_has_its_default() -> None:
    settings = read_settings(LOCAL)
    assert (
        settings.sweep_schedule,
        settings.graph_base_url,
        settings.graph_auth,
        settings.graph_confirm,
        settings.sendgrid_base_url,
        settings.sendgrid_webhook_public_key,
        settings.twilio_base_url,
        settings.twilio_account_sid,
        settings.twilio_auth_token,
        settings.twilio_from,
        settings.status_sign_in,
    ) == (
        "0 0 20 * * *",
        "https://graph.microsoft.com/v1.0",
        "managed",
        "methods",
        "https://api.sendgrid.com",
        "",
        "https://api.twilio.com",
        "",
        "",
        "",
        False,
    )


def test_the_local_system_may_pretend_a_time_and_shorten_the_ages(tmp_path: Path) -> None:
    file = tmp_path / "clock.json"
    write_clock_file(file, NOON)
    settings = read_settings({**LOCAL, "CLOCK_FILE": str(file), "AGES_SCALE": "0.02"})
    clock = settings.make_clock()
    assert isinstance(clock, PretendedClock)
    assert clock.ages == Ages().scaled(0.02)
    assert (clock.campaign_now() - NOON).total_seconds() < 10


def test_keys_are_read_newest_first_and_white_space_around_does_not_count() -> None:
    other = base64.urlsafe_b64encode(bytes(32)).decode()
    settings = read_settings(
        {**LOCAL, "LINK_KEYS": f" {other} ,{KEY},\n", "SENDGRID_API_KEY": " SG.abc\r\n"}
    )
    assert settings.link_keys == (other, KEY)
    assert settings.sendgrid_api_key == "SG.abc"


@pytest.mark.parametrize(
    "sender",
    ["+85264507890", "12345", "#HKU", "HKU", "Uni & Co. 1", "MG" + "0123456789abcdef" * 2],
)
def test_sms_is_a_channel_where_twilio_is_set(sender: str) -> None:
    settings = read_settings({**IN_AZURE, **TWILIO, "TWILIO_FROM": sender})
    assert settings.channels == settings.allowed.channels == {"email", "sms"}
    assert settings.twilio_account_sid == TWILIO["TWILIO_ACCOUNT_SID"]
    assert settings.twilio_auth_token == TWILIO["TWILIO_AUTH_TOKEN"]
    assert settings.twilio_from == sender


@pytest.mark.parametrize("given", [{*pair} for pair in combinations(TWILIO, 2)] + [{*TWILIO}])
def test_twilio_is_set_as_a_whole_or_not_at_all(given: set[str]) -> None:
    problems = problems_of({**IN_AZURE, **{name: TWILIO[name] for name in given}})
    missing = TWILIO.keys() - given
    assert {problem.partition(":")[0] for problem in problems} == missing
    assert all("set all of TWILIO_ACCOUNT_SID, TWILIO_AUTH" in problem for problem in problems)


def der(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


P256 = base64.b64encode(der(ec.generate_private_key(ec.SECP256R1()).public_key())).decode()
P384 = base64.b64encode(der(ec.generate_private_key(ec.SECP384R1()).public_key())).decode()
RSA = base64.b64encode(der(rsa.generate_private_key(65537, 2048).public_key())).decode()


def test_the_key_of_the_event_webhook_is_read_as_sendgrid_shows_it() -> None:
    settings = read_settings({**IN_AZURE, "SENDGRID_WEBHOOK_PUBLIC_KEY": f" {P256}\n"})
    assert settings.sendgrid_webhook_public_key == P256


@pytest.mark.parametrize(
    "key", ["x", P256[:-8], P256[:-1], f"{P256[:9]}-{P256[9:]}", "AAAA", P384, RSA, KEY]
)
def test_what_is_no_key_of_the_event_webhook(key: str) -> None:
    (problem,) = problems_of({**IN_AZURE, "SENDGRID_WEBHOOK_PUBLIC_KEY": key})
    assert problem.startswith("SENDGRID_WEBHOOK_PUBLIC_KEY: not a public key. Copy the verifi")


# what is refused

WRONG: list[tuple[str, dict[str, str], str]] = [
    # where, the settings that are wrong, and what is said of them
    ("Azure", {"SENDGRID_API_KEY": ""}, "SENDGRID_API_KEY: missing"),
    ("Azure", {"SENDGRID_API_KEY": "SG.a\nb"}, "SENDGRID_API_KEY: has a line break"),
    ("Azure", {"SENDGRID_API_KEY": "SG.a b"}, "SENDGRID_API_KEY: has a space"),
    ("Azure", {"SENDGRID_API_KEY": "SG.a–b"}, "beyond ASCII"),
    ("Azure", {"ADDRESS_KEY": ""}, "ADDRESS_KEY: missing"),
    ("Azure", {"ADDRESS_KEY": "x" * 15}, "ADDRESS_KEY: must have 16 characters"),
    ("Azure", {"LINK_KEYS": ""}, "LINK_KEYS names no key"),
    ("Azure", {"LINK_KEYS": f"{KEY},short"}, "LINK_KEYS, key 2 of 2"),
    ("Azure", {"LINK_KEYS": f"{KEY}\n{KEY}"}, "LINK_KEYS: has a line break"),
    ("Azure", {"PUBLIC_BASE_URL": ""}, "PUBLIC_BASE_URL: missing"),
    ("Azure", {"PUBLIC_BASE_URL": "mfa.its.hku.hk"}, "PUBLIC_BASE_URL: must be an https"),
    ("Azure", {"PUBLIC_BASE_URL": "http://mfa.its.hku.hk"}, "PUBLIC_BASE_URL: must be an https"),
    ("Azure", {"PUBLIC_BASE_URL": "http://127.0.0.1.evil.example"}, "must be an https"),
    ("Azure", {"PUBLIC_BASE_URL": "ftp://127.0.0.1"}, "must be an https"),
    ("Azure", {"PUBLIC_BASE_URL": "https://"}, "must be an https"),
    ("Azure", {"PUBLIC_BASE_URL": "https://[::1"}, "must be an https"),
    ("Azure", {"PUBLIC_BASE_URL": "https://its.hku.hk:port"}, "must be an https"),
    ("Azure", {"PUBLIC_BASE_URL": "https://its.hku.hk/?a=1"}, "without user name, query"),
    ("Azure", {"PUBLIC_BASE_URL": "https://its.hku.hk/#a"}, "without user name, query"),
    ("Azure", {"SENDGRID_BASE_URL": "https://me:secret@api.sendgrid.com"}, "without user name"),
    ("Azure", {"SENDGRID_BASE_URL": "http://api.sendgrid.com"}, "SENDGRID_BASE_URL: must be an"),
    ("Azure", {"GRAPH_BASE_URL": "http://graph.microsoft.com/v1.0"}, "GRAPH_BASE_URL: must be an"),
    ("Azure", {"GRAPH_AUTH": "password"}, "GRAPH_AUTH: must be one of managed, default, anonymous"),
    ("Azure", {"GRAPH_AUTH": "anonymous"}, "GRAPH_AUTH: `anonymous` is for a server on this"),
    ("local", {"GRAPH_AUTH": "anonymous"}, "GRAPH_AUTH: `anonymous` is for a server on this"),
    ("Azure", {"GRAPH_CONFIRM": "both"}, "GRAPH_CONFIRM: must be one of methods, report"),
    ("Azure", {"AzureWebJobsStorage__queueServiceUri": ""}, "AzureWebJobsStorage: Set a"),
    (
        "Azure",
        {"AzureWebJobsStorage__queueServiceUri": "http://nudge.queue.core.windows.net"},
        "AzureWebJobsStorage__queueServiceUri: must be an https",
    ),
    (
        "Azure",
        {"AzureWebJobsStorage__credential": "password"},
        "AzureWebJobsStorage__credential: must be managedidentity",
    ),
    ("local", {"AzureWebJobsStorage": "nudge"}, "AzureWebJobsStorage: not a connection string"),
    ("local", {"AzureWebJobsStorage": "AccountName=nudge"}, "AzureWebJobsStorage: not a connec"),
    ("Azure", {"ALLOWED_SENDERS": "IT <it@its.hku.hk>"}, "ALLOWED_SENDERS: must be addresses"),
    ("Azure", {"ALLOWED_LINK_HOSTS": "https://its.hku.hk"}, "ALLOWED_LINK_HOSTS: must be hosts"),
    ("Azure", {"ALLOWED_LINK_HOSTS": "*.hku.hk"}, "ALLOWED_LINK_HOSTS: must be hosts"),
    ("Azure", {"TWILIO_BASE_URL": "http://api.twilio.com"}, "TWILIO_BASE_URL: must be an https"),
    ("Azure", TWILIO | {"TWILIO_ACCOUNT_SID": "AC12"}, "TWILIO_ACCOUNT_SID: must be AC and 32"),
    ("Azure", TWILIO | {"TWILIO_ACCOUNT_SID": "SK" + "0" * 32}, "TWILIO_ACCOUNT_SID: must be AC"),
    ("Azure", TWILIO | {"TWILIO_AUTH_TOKEN": "a b"}, "TWILIO_AUTH_TOKEN: has a space"),
    ("Azure", TWILIO | {"TWILIO_FROM": "85264507890"}, "TWILIO_FROM: must be a number with +"),
    ("Azure", TWILIO | {"TWILIO_FROM": "University HK"}, "TWILIO_FROM: must be a number with +"),
    ("Azure", TWILIO | {"TWILIO_FROM": "香港大學"}, "TWILIO_FROM: must be a number with +"),
    ("Azure", TWILIO | {"TWILIO_FROM": "MG0123456789abcdef"}, "TWILIO_FROM: must be a number with"),
    ("Azure", {"CLOCK_FILE": "/tmp/clock.json"}, "CLOCK_FILE: only for storage on this machine"),
    ("Azure", {"AGES_SCALE": "0.02"}, "AGES_SCALE: only for storage on this machine"),
    ("local", {"CLOCK_FILE": "/nowhere/clock.json"}, "CLOCK_FILE: The clock file cannot be read"),
    ("local", {"AGES_SCALE": "0"}, "AGES_SCALE: must be a factor"),
    ("local", {"AGES_SCALE": "-1"}, "AGES_SCALE: must be a factor"),
    ("local", {"AGES_SCALE": "2"}, "AGES_SCALE: must be a factor"),
    ("local", {"AGES_SCALE": "nan"}, "AGES_SCALE: must be a factor"),
    ("local", {"AGES_SCALE": "fast"}, "AGES_SCALE: must be a factor"),
    ("local", {"AGES_SCALE": "0.001"}, "AGES_SCALE: too small"),
]


@pytest.mark.parametrize(
    ("where", "wrong", "said"), WRONG, ids=[" ".join(one) for _, one, _ in WRONG]
)
def test_a_wrong_setting_is_named_with_its_fix(
    where: str, wrong: dict[str, str], said: str
) -> None:
    good = IN_AZURE if where == "Azure" else LOCAL
    assert problems_of(good) == ()
    (problem,) = problems_of({**good, **wrong})
    assert said in problem


def test_all_problems_are_told_at_once_and_each_setting_once() -> None:
    problems = problems_of(
        {
            "GRAPH_AUTH": "anonymous",
            "SWEEP_SCHEDULE": "daily",
            "CLOCK_FILE": "/nowhere",
            "AGES_SCALE": "0.02",
            "PUBLIC_BASE_URL": "http://its.hku.hk",
        }
    )
    names = [problem.replace(" ", ":").partition(":")[0] for problem in problems]
    assert sorted(names) == [
        "ADDRESS_KEY",
        "AGES_SCALE",
        "AzureWebJobsStorage",
        "CLOCK_FILE",
        "GRAPH_AUTH",
        "LINK_KEYS",
        "PUBLIC_BASE_URL",
        "SENDGRID_API_KEY",
        "SWEEP_SCHEDULE",
    ]
    with pytest.raises(SettingsProblem) as raised:
        read_settings({})
    assert all(f"\n- {problem}" in str(raised.value) for problem in raised.value.problems)


@pytest.mark.parametrize(
    "name",
    [
        *IN_AZURE,
        *TWILIO,
        "AzureWebJobsStorage",
        "GRAPH_BASE_URL",
        "SENDGRID_WEBHOOK_PUBLIC_KEY",
    ],
)
@pytest.mark.parametrize(
    "text", ["@Microsoft.KeyVault(SecretUri=https://v/s)", " @microsoft.keyvault(x"]
)
def test_a_key_vault_reference_that_was_not_resolved_is_a_problem(name: str, text: str) -> None:
    """The Functions host hands the literal text on where it could not resolve it."""
    problems = [
        p for p in problems_of({**IN_AZURE, **TWILIO, name: text}) if p.startswith(f"{name}:")
    ]
    (problem,) = problems
    assert "Key Vault reference was not resolved" in problem
    assert "Key Vault Secrets User" in problem


# the schedule

GOOD_SCHEDULES = [
    "0 0 20 * * *",
    "0 */5 * * * *",
    "0 30 9-17 * * mon-fri",
    "0 0 20 1,15 * *",
    "0 0 0/6 * JAN-jun 0",
    "  0  0 20 * * *  ",
]
BAD_SCHEDULES = [
    "0 20 * * *",
    "0 0 20 * * * *",
    "@daily",
    "20:00:00",
    "1.00:00:00",
    "60 0 20 * * *",
    "0 60 20 * * *",
    "0 0 24 * * *",
    "0 0 20 0 * *",
    "0 0 20 32 * *",
    "0 0 20 * 13 *",
    "0 0 20 * * 7",
    "0 0 20 * * caturday",
    "0 0 20 mon * *",
    "0 0 17-9 * * *",
    "0 */0 * * * *",
    "0 0 20 * * ?",
    "0 0 -1 * * *",
    "0 0 ,20 * * *",
    "0 0 2０ * * *",
]


@pytest.mark.parametrize("schedule", GOOD_SCHEDULES)
def test_a_schedule_is_six_fields(schedule: str) -> None:
    assert read_settings({**LOCAL, "SWEEP_SCHEDULE": schedule}).sweep_schedule == schedule.strip()


@pytest.mark.parametrize("schedule", BAD_SCHEDULES)
def test_a_schedule_that_the_timer_would_not_take(schedule: str) -> None:
    (problem,) = problems_of({**LOCAL, "SWEEP_SCHEDULE": schedule})
    assert problem.startswith("SWEEP_SCHEDULE: must be six fields of NCRONTAB")


# what is on this machine

STORAGE: list[tuple[str, bool]] = [
    (AZURITE, True),
    (AZURITE.replace("127.0.0.1", "localhost"), True),
    (AZURITE.replace("127.0.0.1", "[::1]"), True),
    (AZURITE.lower().replace("nudge;accountkey", "nudge;AccountKey"), True),
    ("UseDevelopmentStorage=true", True),
    ("UseDevelopmentStorage=true;DevelopmentStorageProxyUri=http://10.0.0.1", False),
    (AZURITE.replace("127.0.0.1:3", "10.0.0.1:3"), False),
    (AZURITE.replace("http://127.0.0.1:1", "https://evil.example"), False),
    (AZURITE.replace("TableEndpoint=http://127.0.0.1:3/nudge;", ""), False),
    ("BlobEndpoint=http://127.0.0.1:1;AccountName=nudge;AccountKey=c2VjcmV0", False),
    ("DefaultEndpointsProtocol=https;AccountName=nudge;AccountKey=c2VjcmV0", False),
]


@pytest.mark.parametrize(("connection", "local"), STORAGE)
def test_only_storage_on_this_machine_is_local(connection: str, local: bool) -> None:
    """What is local may pretend a time: the whole of its storage must be here."""
    environment = {**LOCAL, "AzureWebJobsStorage": connection}
    assert read_settings(environment).local == local
    refused = problems_of({**environment, "AGES_SCALE": "0.5"})
    assert bool(refused) == (not local)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:80/v1.0", True),
        ("http://127.9.9.9", True),
        ("http://localhost", True),
        ("http://[::1]:8080", True),
        ("http://0.0.0.0", False),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1@evil.example", False),
        ("http://10.0.0.1", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_loopback(url: str, here: bool) -> None:
    assert is_loopback(url) == here


# secrets

SECRETS = (
    "SENDGRID_API_KEY",
    "LINK_KEYS",
    "ADDRESS_KEY",
    "AzureWebJobsStorage",
    "TWILIO_AUTH_TOKEN",
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *SECRETS,
                "GRAPH_BASE_URL",
                "AGES_SCALE",
                "CLOCK_FILE",
                "GRAPH_AUTH",
                "SENDGRID_WEBHOOK_PUBLIC_KEY",
                "TWILIO_ACCOUNT_SID",
                "TWILIO_FROM",
            ]
        ),
        st.sampled_from(
            ["{}", " {}", "{}\n{}", "{} {}", "{},x", "AccountKey={}", "https://a:{}@b"]
        ),
    )
)
def test_no_problem_repeats_a_value(shapes: dict[str, str]) -> None:
    secret = "Zq7xTopSecretZq7x"
    wrong = {name: shape.replace("{}", secret) for name, shape in shapes.items()}
    try:
        shown = repr(read_settings({**LOCAL, **TWILIO, **wrong}))
    except SettingsProblem as problem:
        shown = "".join(traceback.format_exception(problem))
    assert secret not in shown


def test_settings_do_not_show_themselves() -> None:
    settings = read_settings({**LOCAL, **TWILIO})
    for shown in (repr(settings), str(settings), f"{settings}", f"{[settings]}"):
        assert not any((LOCAL | TWILIO)[name] in shown for name in SECRETS)
    assert isinstance(settings, Settings)
