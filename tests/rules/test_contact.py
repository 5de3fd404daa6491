"""Which addresses are written to, and what is kept or shown of them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.rules.contact import (
    EMAIL_FIELDS,
    address_key,
    choose_email,
    fold_address,
    mask_account,
    usable_email,
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


def account(mail: str | None = None, *other_mails: str) -> Account:
    return Account(
        id=bytes(16),
        user_principal_name="u3512347@uni.example",
        display_name="Chan Tai Man",
        enabled=True,
        user_type="Member",
        mail=mail,
        other_mails=other_mails,
        mobile_phone=None,
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
