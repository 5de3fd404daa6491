"""Who counts: registration as a table, and who is left out of a campaign."""

from __future__ import annotations

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.rules.registration import (
    LIVE_MFA_METHODS,
    LIVE_OTHER_METHODS,
    MFA_METHODS,
    OTHER_METHODS,
    TEMPORARY_ACCESS_PASS,
    Account,
    DoneWhen,
    Registration,
    ReportRow,
    decide_methods,
    decide_registration,
    exclusion,
    pack_registration,
    shard_of,
    unpack_registration,
)

YES, NO, ABSENT = True, False, None
REGISTERED = Registration.REGISTERED
UNREGISTERED = Registration.UNREGISTERED
UNKNOWN = Registration.UNKNOWN
UNRECOGNISED = Registration.UNRECOGNISED

NEW = "somethingOfNextYear"
"""A method type that no version of this product knows."""

# The flag (whichever the campaign asks for), the methods, the answer.
TABLE: list[tuple[bool | None, list[str] | None, Registration]] = [
    # Graph says yes
    (YES, ["microsoftAuthenticatorPush"], REGISTERED),
    (YES, ["mobilePhone", "email"], REGISTERED),
    (YES, ["fido2"], REGISTERED),
    (YES, ["passKeyDeviceBound"], REGISTERED),
    (YES, [NEW], REGISTERED),
    (YES, ["email"], REGISTERED),
    (YES, [], REGISTERED),
    (YES, None, REGISTERED),
    # a Temporary Access Pass expires: what else is there?
    (YES, ["temporaryAccessPass"], UNREGISTERED),
    (YES, ["temporaryAccessPass", "email", "password"], UNREGISTERED),
    (YES, ["temporaryAccessPass", "softwareOneTimePasscode"], REGISTERED),
    (YES, ["temporaryAccessPass", NEW], UNRECOGNISED),
    (YES, ["temporaryAccessPass", NEW, "officePhone"], REGISTERED),
    # Graph says no
    (NO, [], UNREGISTERED),
    (NO, None, UNREGISTERED),
    (NO, ["email", "securityQuestion"], UNREGISTERED),
    (NO, ["temporaryAccessPass"], UNREGISTERED),
    (NO, ["qrCode"], UNREGISTERED),
    (NO, [NEW], UNRECOGNISED),
    (NO, [NEW, "email"], UNRECOGNISED),
    (NO, [NEW, "temporaryAccessPass"], UNRECOGNISED),
    # a type that both of us know, and Graph says that it doesn't count here: Graph decides
    (NO, ["mobilePhone"], UNREGISTERED),
    (NO, ["windowsHelloForBusiness", NEW], UNREGISTERED),
    # Graph doesn't say: as good as no row
    (ABSENT, None, UNKNOWN),
    (ABSENT, [], UNKNOWN),
    (ABSENT, ["fido2"], UNKNOWN),
    (ABSENT, [NEW], UNKNOWN),
]

flags = st.sampled_from([YES, NO, ABSENT])
methods = st.none() | st.lists(
    st.sampled_from(sorted(MFA_METHODS | OTHER_METHODS)) | st.text(max_size=8), max_size=5
).map(tuple)
rows = st.builds(
    ReportRow, is_mfa_registered=flags, is_mfa_capable=flags, methods_registered=methods
)
done_when = st.sampled_from(["registered", "capable"])


def row_of(
    registered: bool | None, capable: bool | None, methods: list[str] | None = None
) -> ReportRow:
    return ReportRow(
        is_mfa_registered=registered,
        is_mfa_capable=capable,
        methods_registered=None if methods is None else tuple(methods),
    )


@pytest.mark.invariant(3)
@pytest.mark.parametrize(("flag", "methods", "answer"), TABLE)
def test_a_report_row_decides_registration(
    flag: bool | None, methods: list[str] | None, answer: Registration
) -> None:
    assert decide_registration(row_of(flag, None, methods), "registered") is answer
    assert decide_registration(row_of(None, flag, methods), "capable") is answer


@pytest.mark.invariant(3)
@pytest.mark.parametrize("asked", ["registered", "capable"])
def test_a_missing_report_row_is_unknown(asked: DoneWhen) -> None:
    assert decide_registration(None, asked) is UNKNOWN


@pytest.mark.parametrize(
    ("registered", "capable", "when_registered", "when_capable"),
    [
        (YES, YES, REGISTERED, REGISTERED),
        (YES, NO, REGISTERED, UNREGISTERED),  # has a method that policy forbids
        (NO, NO, UNREGISTERED, UNREGISTERED),
        (YES, ABSENT, REGISTERED, UNKNOWN),
        (ABSENT, YES, UNKNOWN, REGISTERED),
    ],
)
def test_the_campaign_says_which_flag_means_done(
    registered: bool | None,
    capable: bool | None,
    when_registered: Registration,
    when_capable: Registration,
) -> None:
    row = row_of(registered, capable, ["mobilePhone"])
    assert decide_registration(row, "registered") is when_registered
    assert decide_registration(row, "capable") is when_capable


@pytest.mark.invariant(3)
@given(rows, done_when)
def test_nobody_is_unregistered_whom_graph_calls_done_but_for_a_pass(
    row: ReportRow, asked: DoneWhen
) -> None:
    flag = row.is_mfa_capable if asked == "capable" else row.is_mfa_registered
    answer = decide_registration(row, asked)
    if answer is UNREGISTERED and flag is not False:
        assert flag is True
        assert TEMPORARY_ACCESS_PASS in (row.methods_registered or ())
    if answer is REGISTERED:
        assert flag is True


@given(rows, done_when)
def test_one_byte_holds_the_answer_for_either_flag(row: ReportRow, asked: DoneWhen) -> None:
    code = pack_registration(row)
    assert 0 <= code <= 255
    assert unpack_registration(code, asked) is decide_registration(row, asked)


def test_packed_answers_keep_their_meaning() -> None:
    """Pages outlive a deployment."""
    codes = {
        answer: code for code in range(4) for answer in [unpack_registration(code, "registered")]
    }
    assert codes == {REGISTERED: 0, UNREGISTERED: 1, UNKNOWN: 2, UNRECOGNISED: 3}
    with pytest.raises(IndexError):
        unpack_registration(0x44, "registered")


def test_no_method_type_is_both() -> None:
    assert MFA_METHODS.isdisjoint(OTHER_METHODS)
    assert TEMPORARY_ACCESS_PASS in OTHER_METHODS


# The live methods of an account, without what every type begins and ends with; the answer.
LIVE: list[tuple[list[str], Registration]] = [
    ([], UNREGISTERED),
    (["password"], UNREGISTERED),
    (["password", "email"], UNREGISTERED),
    (["password", "securityQuestion"], UNREGISTERED),
    (["password", "qrCodePin"], UNREGISTERED),
    (["password", "temporaryAccessPass"], UNREGISTERED),
    (["password", "phone"], REGISTERED),
    (["password", "microsoftAuthenticator"], REGISTERED),
    (["passwordlessMicrosoftAuthenticator"], REGISTERED),
    (["password", "softwareOath"], REGISTERED),
    (["password", "hardwareOath"], REGISTERED),
    (["fido2"], REGISTERED),
    (["windowsHelloForBusiness"], REGISTERED),
    (["platformCredential"], REGISTERED),
    (["password", "external"], REGISTERED),
    (["password", "temporaryAccessPass", "phone"], REGISTERED),
    (["password", "phone", "phone"], REGISTERED),
    # of another year
    (["laterYear"], UNRECOGNISED),
    (["password", "email", "laterYear"], UNRECOGNISED),
    (["temporaryAccessPass", "laterYear"], UNRECOGNISED),
    (["laterYear", "fido2"], REGISTERED),
]


@pytest.mark.invariant(3)
@pytest.mark.parametrize(("names", "answer"), LIVE)
def test_live_methods_decide_by_their_types(names: list[str], answer: Registration) -> None:
    types = [f"#microsoft.graph.{name}AuthenticationMethod" for name in names]
    assert decide_methods(types) is answer
    assert decide_methods(reversed(types)) is answer


@pytest.mark.invariant(3)
@pytest.mark.parametrize("odd", ["", "phone", "#microsoft.graph.authenticationMethod", "#x.phone"])
def test_what_is_no_type_that_we_know_is_no_proof_either_way(odd: str) -> None:
    assert decide_methods([odd]) is UNRECOGNISED


@pytest.mark.invariant(3)
@given(st.sets(st.sampled_from(sorted(LIVE_OTHER_METHODS))), st.sets(st.text(max_size=8)))
def test_without_a_factor_that_we_know_nobody_is_registered(
    others: set[str], unknown: set[str]
) -> None:
    assert decide_methods(others | unknown) is (UNRECOGNISED if unknown else UNREGISTERED)
    assert decide_methods([*others, *unknown, min(LIVE_MFA_METHODS)]) is REGISTERED


def test_no_live_type_is_both() -> None:
    assert LIVE_MFA_METHODS.isdisjoint(LIVE_OTHER_METHODS)


def test_a_report_row_is_read_as_graph_writes_it() -> None:
    row = msgspec.json.decode(
        b'{"id":"0A","isMfaCapable":false,"isMfaRegistered":true,"isAdmin":false,'
        b'"userPreferredMethodForSecondaryAuthentication":"","methodsRegistered":["email"]}',
        type=ReportRow,
    )
    assert row == ReportRow("0A", True, False, ("email",))


SERVICE_NAME = "On-Premises Directory Synchronization Service Account"


def account_of(
    upn: str = "u3012345@connect.example.edu",
    name: str = "Ada Example",
    enabled: bool | None = True,
    user_type: str = "Member",
) -> Account:
    return Account(bytes(16), upn, name, enabled, user_type, None, (), None, None)


@pytest.mark.parametrize(
    ("account", "reason"),
    [
        (account_of(), None),
        (account_of(enabled=False), "disabled"),
        (account_of(enabled=None), None),
        (account_of(user_type="Guest"), "guest"),
        (account_of(user_type="guest"), "guest"),
        (account_of(user_type=""), None),
        (account_of(enabled=False, user_type="Guest"), "disabled"),
        (account_of(upn="Sync_AADC01_0123456789ab@example.onmicrosoft.com"), "service account"),
        (account_of(upn="ADToAADSync@example.edu", name=SERVICE_NAME), "service account"),
        (account_of(name=f" {SERVICE_NAME.lower()} "), "service account"),
        # people
        (account_of(upn="sync.lee@connect.example.edu", name="Sync Lee"), None),
        (account_of(upn="sync_lee@connect.example.edu", name="Sync_ Lee"), None),
        (account_of(upn="Synclair@connect.example.edu", name="Synclair"), None),
        (account_of(upn="Sync@connect.example.edu", name="Sync"), None),
        (account_of(upn="ASync_01@connect.example.edu", name="Async"), None),
        (account_of(name=f"Friend of the {SERVICE_NAME}"), None),
        (account_of(name="Directory Synchronization"), None),
    ],
)
def test_who_is_left_out(account: Account, reason: str | None) -> None:
    assert exclusion(account, guests=False) == reason


def test_guests_are_in_where_the_campaign_asks_for_them() -> None:
    assert exclusion(account_of(user_type="Guest"), guests=True) is None
    assert exclusion(account_of(user_type="Guest", enabled=False), guests=True) == "disabled"


@given(st.uuids())
def test_the_shard_is_the_first_hex_digit(object_id: uuid.UUID) -> None:
    assert shard_of(object_id.bytes) == int(str(object_id)[0], 16)


def test_an_account_survives_its_page() -> None:
    account = Account(uuid.uuid4().bytes, "u@x", "Ünal 陳", None, "", None, ("a@b.c",), "+1", "zh")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(account), type=Account) == account
