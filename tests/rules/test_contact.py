"""Which addresses are written to, and what is kept or shown of them."""

from __future__ import annotations

import re
import string
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.rules.contact import (
    EMAIL_FIELDS,
    SMS_FIELDS,
    address_key,
    choose_email,
    choose_number,
    fold_address,
    mask_account,
    usable_email,
    usable_number,
)
from shared.rules.registration import Account

KEY = b"k" * 32


@pytest.mark.parametrize(
    ("address", "sent_to"),
    [
        ("tai.man@mail.example", "tai.man@mail.example"),
        ("  tai.man@mail.example\r\n", "tai.man@mail.example"),
        ("tai.man+alumni@mail.example", "tai.man+alumni@mail.example"),
        ("o'neill@mail.example", "o'neill@mail.example"),
        ("o_neill-wong=x@mail.example", "o_neill-wong=x@mail.example"),
        ("u3512347@connect.uni.example", "u3512347@connect.uni.example"),
        ("12345@qq.example", "12345@qq.example"),
        ("x@y.example", "x@y.example"),
        ("a@3com.example", "a@3com.example"),
        ("a@r3---sn.example", "a@r3---sn.example"),
        ("guest_mail.example#EXT#@uni.example", "guest_mail.example#EXT#@uni.example"),
        ("Tai.Man@Mail.EXAMPLE", "Tai.Man@mail.example"),
        ("tai.man@例子.example", "tai.man@xn--fsqu00a.example"),
        ("tai.man@大學.香港", "tai.man@xn--pssu7c.xn--j6w193g"),
        ("tai.man@xn--fsqu00a.example", "tai.man@xn--fsqu00a.example"),
        ("tai.man@straße.example", "tai.man@xn--strae-oqa.example"),
        ("tai.man@mail．example", "tai.man@mail.example"),
        ("tai.man@mail.example\u200b", "tai.man@mail.example"),
        ("a" * 64 + "@mail.example", "a" * 64 + "@mail.example"),
    ],
)
def test_real_addresses(address: str, sent_to: str) -> None:
    assert usable_email(address) == sent_to


@pytest.mark.parametrize(
    "address",
    [
        None,
        "",
        " ",
        "@",
        "tai.man",
        "tai.man@",
        "@mail.example",
        "tai.man@mail",
        "tai.man@localhost",
        "tai.man@corp.local",
        "tai.man@corp.internal",
        "tai.man@nowhere.invalid",
        "tai.man@mail..example",
        "tai.man@.mail.example",
        "tai.man@mail.example.",
        "tai.man@-mail.example",
        "tai.man@mail-.example",
        "tai.man@ma_il.example",
        "tai.man@192.0.2.1",
        "tai.man@[192.0.2.1]",
        "tai.man@mail.123",
        ".tai@mail.example",
        "tai.@mail.example",
        "tai..man@mail.example",
        "tai man@mail.example",
        "tai.man@mail example",
        "tai@man@mail.example",
        '"tai man"@mail.example',
        "Tai Man <tai.man@mail.example>",
        "<tai.man@mail.example>",
        "mailto:tai.man@mail.example",
        "tai.man@mail.example,other@mail.example",
        "tai.man@mail.example;other@mail.example",
        "tai.man@mail.example other@mail.example",
        "tai.man@mail.example\r\nBcc: other@mail.example",
        "tai.man\n@mail.example",
        "tai.man@mail.exa\nmple",
        "tai.man@mail.example\x00",
        "大文@mail.example",
        "tai.man@-例子.example",
        "tai.man@例 子.example",
        "a" * 65 + "@mail.example",
        "tai.man@" + "a" * 64 + ".example",
        "tai.man@" + "例" * 60 + ".example",
        "tai.man@" + "a." * 120 + "example",
        "n/a",
        "none@none",
    ],
)
def test_what_cannot_be_written_to(address: str | None) -> None:
    assert usable_email(address) is None


ANYTHING = st.text(max_size=40) | st.tuples(
    st.text(string.printable, max_size=20), st.text(max_size=20)
).map("@".join)


@pytest.mark.invariant(6)
@given(ANYTHING)
def test_a_usable_address_is_one_plain_word(address: str) -> None:
    usable = usable_email(address)

    if usable is not None:
        assert usable.isascii()
        assert usable.isprintable()
        assert usable.count("@") == 1
        assert not set(' ,;:<>()[]"\\') & set(usable)
        assert usable_email(usable) == usable


@pytest.mark.parametrize(
    ("text", "region", "sent_to"),
    [
        # as directories hold them
        ("+852 9123 4567", None, "+85291234567"),
        ("+85291234567", None, "+85291234567"),
        ("852-91234567", "HK", "+85291234567"),
        ("(852) 9123 4567", "HK", "+85291234567"),
        ("9123 4567", "HK", "+85291234567"),
        ("9123-4567", "HK", "+85291234567"),
        ("9123 4567 ext 5", "HK", "+85291234567"),
        ("9123 4567 x5", "HK", "+85291234567"),
        ("9123 4567 (HK)", "HK", "+85291234567"),
        ("Tel: 9123 4567", "HK", "+85291234567"),
        ("手提 9123 4567", "HK", "+85291234567"),
        ("tel:+852-9123-4567", None, "+85291234567"),
        ("  +852 9123 4567\r\n", None, "+85291234567"),
        ("+852\u00a09123\u20114567", None, "+85291234567"),
        ("\u202a+852 9123 4567\u202c", None, "+85291234567"),
        ("＋８５２ ９１２３ ４５６７", None, "+85291234567"),
        ("９１２３ ４５６７", "HK", "+85291234567"),
        ("٩١٢٣٤٥٦٧", "HK", "+85291234567"),
        # a country code of its own outranks the region
        ("+44 (0)7400 123456", "HK", "+447400123456"),
        ("+86 138 0013 8000", "HK", "+8613800138000"),
        ("001 44 7400 123456", "HK", "+447400123456"),
        ("07400 123456", "GB", "+447400123456"),
        ("138 0013 8000", "CN", "+8613800138000"),
        # North America does not tell mobile numbers from landlines
        ("+1 650 253 0000", None, "+16502530000"),
    ],
)
def test_real_numbers(text: str, region: str | None, sent_to: str) -> None:
    assert usable_number(text, region) == sent_to


@pytest.mark.parametrize(
    ("text", "region"),
    [
        (None, "HK"),
        ("", "HK"),
        (" ", "HK"),
        ("n/a", "HK"),
        ("0", "HK"),
        ("none", "HK"),
        ("+", "HK"),
        # whose country is not known
        ("9123 4567", None),
        ("9123 4567", ""),
        ("9123 4567", "XX"),
        # of another country than it is read in
        ("138 0013 8000", "HK"),
        ("8613800138000", "HK"),
        # too short, too long, of no range in use
        ("+852 9123 456", None),
        ("+852 9123 4567 8", None),
        ("+852 1123 4567", None),
        ("+999 9123 4567", None),
        ("9" * 251, "HK"),
        # no SMS
        ("+852 2859 2111", None),  # a landline
        ("+44 20 7946 0958", None),  # a landline
        ("+852 800 933 999", None),  # toll-free
        ("+1 800 555 0199", None),  # toll-free
        ("+800 1234 5678", None),  # toll-free of all countries
        ("+852 900 1234 5678", None),  # premium
        ("+852 8123 4567", None),  # personal: forwards calls
        ("+44 56 0012 3456", None),  # voice over IP
        ("+44 76 4212 3456", None),  # a pager
        # two numbers, or words that a telephone's keys would turn into another number
        ("9123 4567 / 6123 4567", "HK"),
        ("9123 4567, 6123 4567", "HK"),
        ("9123-4567 (home)", "HK"),
        ("91234 ABC", "HK"),
        ("1-650-CALL-NOW", "US"),
    ],
)
def test_what_cannot_be_texted(text: str | None, region: str | None) -> None:
    assert usable_number(text, region) is None


REGIONS = st.sampled_from([None, "", "HK", "CN", "GB", "US", "XX"])


@pytest.mark.invariant(6)
@given(
    st.text(max_size=30) | st.text("+0123456789 ()-.extＰ０９", max_size=30),
    REGIONS,
    REGIONS,
)
def test_a_usable_number_is_one_of_the_whole_world(
    text: str, region: str | None, another: str | None
) -> None:
    usable = usable_number(text, region)

    if usable is not None:
        assert re.fullmatch(r"\+[1-9][0-9]{6,14}", usable)
        assert usable_number(usable, another) == usable


def test_reading_numbers_costs_only_who_reads_them() -> None:
    """phonenumbers takes 50 ms to import: an app that indexes its functions has no time for it."""
    code = "import sys, shared.rules.campaign; sys.exit('phonenumbers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def account(mail: str | None = None, *other_mails: str, mobile: str | None = None) -> Account:
    return Account(
        id=bytes(16),
        user_principal_name="u3512347@uni.example",
        display_name="Chan Tai Man",
        enabled=True,
        user_type="Member",
        mail=mail,
        other_mails=other_mails,
        mobile_phone=mobile,
        language=None,
    )


class TestChoice:
    @pytest.mark.parametrize(
        ("person", "fields", "chosen"),
        [
            (account("a@x.example", "b@x.example"), ["otherMails", "mail"], "b@x.example"),
            (account("a@x.example", "b@x.example"), ["mail", "otherMails"], "a@x.example"),
            (account("a@x.example", "b@x.example"), ["mail"], "a@x.example"),
            (account("a@x.example"), ["otherMails", "mail"], "a@x.example"),
            (account("a@x.example", "none", "c@x.example"), ["otherMails"], "c@x.example"),
            (account("A@X.example"), ["mail"], "A@x.example"),
            (account("a@x.example"), ["otherMails"], None),
            (account(), ["otherMails", "mail"], None),
            (account("a@x.example"), [], None),
        ],
    )
    def test_the_first_usable_one(
        self, person: Account, fields: list[str], chosen: str | None
    ) -> None:
        assert choose_email(person, fields, lambda _: False) == chosen

    def test_one_that_did_not_work_is_passed_over(self) -> None:
        person = account("a@x.example", "B@X.example", "c@x.example")
        known_bad = {address_key(KEY, "b@x.example")}

        def bad(address: str) -> bool:
            return address_key(KEY, address) in known_bad

        assert choose_email(person, ["otherMails", "mail"], bad) == "c@x.example"

    def test_none_is_left(self) -> None:
        assert choose_email(account("a@x.example"), ["mail"], lambda _: True) is None

    def test_the_fields_that_a_campaign_may_name(self) -> None:
        assert set(EMAIL_FIELDS) == {"otherMails", "mail"}


class TestChoiceOfANumber:
    @pytest.mark.parametrize(
        ("mobile", "fields", "region", "chosen"),
        [
            ("9123 4567", ["mobilePhone"], "HK", "+85291234567"),
            ("+852 9123 4567", ["mobilePhone"], None, "+85291234567"),
            ("9123 4567", ["mobilePhone"], None, None),
            ("2859 2111", ["mobilePhone"], "HK", None),
            ("9123 4567", [], "HK", None),
            (None, ["mobilePhone"], "HK", None),
        ],
    )
    def test_the_usable_one(
        self, mobile: str | None, fields: list[str], region: str | None, chosen: str | None
    ) -> None:
        person = account(mobile=mobile)

        assert choose_number(person, fields, region, lambda _: False) == chosen

    def test_one_that_did_not_work_is_passed_over_however_it_is_written(self) -> None:
        known_bad = {address_key(KEY, "+85291234567")}

        def bad(number: str) -> bool:
            return address_key(KEY, number) in known_bad

        assert choose_number(account(mobile="9123-4567"), ["mobilePhone"], "HK", bad) is None
        assert choose_number(account(mobile="6123 4567"), ["mobilePhone"], "HK", bad)

    def test_the_fields_that_a_campaign_may_name(self) -> None:
        assert set(SMS_FIELDS) == {"mobilePhone"}


class TestComparison:
    @pytest.mark.parametrize(
        ("one", "other", "alike"),
        [
            ("a@x.example", "A@X.EXAMPLE", True),
            ("a@x.example", " a@x.example ", True),
            ("a@x.example", "b@x.example", False),
            ("a.b@x.example", "ab@x.example", False),
        ],
    )
    def test_case_makes_no_difference(self, one: str, other: str, alike: bool) -> None:
        assert (fold_address(one) == fold_address(other)) is alike
        assert (address_key(KEY, one) == address_key(KEY, other)) is alike

    def test_what_the_ledger_remembers_stays_comparable(self) -> None:
        assert address_key(KEY, "a@x.example").hex() == "8a8c6bc59a4b76b6e1641417de4465b1"

    @pytest.mark.invariant(6)
    def test_it_tells_nothing_without_the_key(self) -> None:
        assert address_key(KEY, "a@x.example") != address_key(b"another", "a@x.example")


@pytest.mark.parametrize(
    ("account_name", "shown"),
    [
        ("u3512347@connect.uni.example", "u3•••••7@connect.uni.example"),
        ("chantaiman2001@uni.example", "ch•••••1@uni.example"),
        ("chanta@uni.example", "ch•••••a@uni.example"),
        ("chant@uni.example", "c•••••@uni.example"),
        ("tai@uni.example", "t•••••@uni.example"),
        ("tm@uni.example", "•••••@uni.example"),
        ("guest_mail.example#EXT#@uni.example", "gu•••••#@uni.example"),
        ("u3512347", "u3•••••7"),
        ("", "•••••"),
    ],
)
def test_an_account_as_mails_show_it(account_name: str, shown: str) -> None:
    assert mask_account(account_name) == shown


@pytest.mark.invariant(6)
@given(st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=40))
def test_a_mask_hides_half_of_the_name_and_its_length(name: str) -> None:
    shown = mask_account(f"{name}@uni.example").removesuffix("@uni.example")

    assert shown.count("•") == 5
    assert len(shown) - 5 <= len(name) / 2
