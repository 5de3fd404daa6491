"""Letters: one for a parcel, without personal data; the values that make it a person's own."""

from __future__ import annotations

import re
from datetime import date, datetime, time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import CampaignTime
from shared.errors import SetupFault
from shared.messages.catalogue import MESSAGES
from shared.messages.lines import COLUMNS
from shared.messages.rendering import Letter, Tags, personal_values, render_letter
from shared.rules.campaign import Campaign

TAGS = Tags("t0123456789abcdef")
GUIDE = "https://mfa.its.hku.hk/guide/en?campaign=hku-alumni-2027"
DONE = "https://mfa.its.hku.hk/done?t=A_b-1&x=2"
UNSUBSCRIBE = "https://mfa.its.hku.hk/unsubscribe?t=C_d-3"
ACCOUNT = "u3512347@connect.hku.hk"

FORMS = [(message, after) for after in (False, True) for message in MESSAGES]


def render(
    campaign: Campaign, message: str = "announce", *, after_deadline: bool = False
) -> Letter:
    return render_letter(
        campaign,
        message=message,
        language="en",
        after_deadline=after_deadline,
        guide_url=GUIDE,
        tags=TAGS,
    )


def values_of(name: str = "Chan Tai Man", account: str = ACCOUNT) -> dict[str, str]:
    return personal_values(
        TAGS, name=name, account=account, done_url=DONE, unsubscribe_url=UNSUBSCRIBE
    )


def fill(part: str, values: dict[str, str]) -> str:
    for tag, value in values.items():
        part = part.replace(tag, value)
    return part


class Outline(HTMLParser):
    """The elements of a page, its links with their words, and its visible words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.links: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag == "a":
            self.links.append((dict(attrs)["href"] or "", ""))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] == ["a"]:
            self.links[-1] = (self.links[-1][0], self.links[-1][1] + data)


# Which words


@pytest.mark.invariant(10)
@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_the_clock_alone_decides_which_guide_is_given(
    campaign: Campaign, message: str, after_deadline: bool
) -> None:
    letter = render(campaign, message, after_deadline=after_deadline)
    for part in (letter.html, letter.text):
        assert ("How to register" in part) is not after_deadline
        assert ("What to do now" in part) is after_deadline


@pytest.mark.invariant(10)
def test_a_late_message_does_not_invite_to_register_in_time(campaign: Campaign) -> None:
    late = {render(campaign, message, after_deadline=True) for message in MESSAGES}
    assert len(late) == 1
    assert "ended at the end of 31 March 2027" in late.pop().text


@pytest.mark.invariant(10)
@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_words_speak_of_dates_and_without_alarm(
    campaign: Campaign, message: str, after_deadline: bool
) -> None:
    letter = render(campaign, message, after_deadline=after_deadline)
    relative = (
        r"\b(in|within) \d+ (day|hour|week)|\btomorrow|\btoday|\b(days|hours) left|\bnext week"
    )
    alarm = r"\burgent|\bimmediate|\bact now|\bsuspend|\bterminat|\bwarning|!"
    for part in (letter.subject, letter.text):
        assert not re.search(f"{relative}|{alarm}", part, re.IGNORECASE)


@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_subject_fits_and_names_a_date(
    campaign: Campaign, message: str, after_deadline: bool
) -> None:
    longest = campaign.model_copy(
        update={"deadline": date(2027, 9, 29), "enforced_from": date(2027, 9, 30)}
    )
    subject = render(longest, message, after_deadline=after_deadline).subject
    assert re.search(r"(29|30) September 2027", subject)
    assert len(subject) <= 70
    assert TAGS.prefix not in subject


def test_a_deadline_with_a_time_is_not_said_to_be_the_end_of_the_day(campaign: Campaign) -> None:
    afternoon = CampaignTime(datetime.combine(date(2027, 3, 31), time(17), campaign.zone))
    text = render(campaign.model_copy(update={"deadline": afternoon})).text
    unwrapped = " ".join(text.split())
    assert "by 17:00 on 31 March 2027 (Hong Kong time)" in unwrapped
    assert "the end of" not in unwrapped


def test_an_unknown_message_or_language_names_the_fix(campaign: Campaign) -> None:
    with pytest.raises(SetupFault, match="use one of announce, reminder, last-call, after"):
        render(campaign, "farewell")
    with pytest.raises(SetupFault, match="use one of en"):
        render_letter(
            campaign,
            message="announce",
            language="tlh",
            after_deadline=False,
            guide_url=GUIDE,
            tags=TAGS,
        )


# What a letter is made of


@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_a_letter_is_complete_and_the_same_each_time(
    campaign: Campaign, message: str, after_deadline: bool
) -> None:
    letter = render(campaign, message, after_deadline=after_deadline)
    assert letter == render(campaign, message, after_deadline=after_deadline)
    html, text = (fill(part, values_of()) for part in (letter.html, letter.text))
    for part in (letter.subject, html, text):
        assert TAGS.prefix not in part
        assert not re.search(
            r"\{\w+\}|\*\*|\]\(", re.sub("<style>.*</style>", "", part, flags=re.S)
        )


def test_each_value_has_a_tag_of_its_own_in_each_part(campaign: Campaign) -> None:
    letter = render(campaign)
    in_html = {tag for tag in values_of() if tag in letter.html}
    in_text = {tag for tag in values_of() if tag in letter.text}
    assert len(in_html) == len(in_text) == 4
    assert in_html | in_text == set(values_of())
    assert not in_html & in_text


def test_tags_differ_from_letter_to_letter() -> None:
    assert len({Tags.fresh().prefix for _ in range(100)}) == 100


@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_text_is_wrapped_but_for_addresses(
    campaign: Campaign, message: str, after_deadline: bool
) -> None:
    text = render(campaign, message, after_deadline=after_deadline).text
    for line in text.splitlines():
        assert len(line) <= COLUMNS or "https://" in line
        assert line == line.rstrip()
    assert "\n\n\n\n" not in text
    # What stands behind an address would be taken for a part of it.
    assert re.findall(r"https://\S*[.,;:)](?=\s)", text) == []


@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_html_is_small_and_loads_nothing(
    campaign: Campaign, message: str, after_deadline: bool
) -> None:
    html = render(campaign, message, after_deadline=after_deadline).html
    assert len(html.encode()) <= 50_000
    assert not re.search(r"url\(|@import|@font-face", html)
    outline = Outline(html)
    assert not {"img", "link", "script", "iframe", "form", "button", "input"} & {*outline.elements}
    assert not {"src", "srcset", "background", "onclick"} & {name for name, _ in outline.attributes}


def test_links_show_where_they_lead(campaign: Campaign) -> None:
    """All but the two personal ones, which nobody could type; and the last of these comes last."""
    links = Outline(fill(render(campaign).html, values_of())).links
    for href, words in links[:-2]:
        assert href.removeprefix("mailto:") == words
    assert links[-2:] == [(UNSUBSCRIBE, "Stop these reminders"), (DONE, "I have done it")]
    assert ("https://mysignins.microsoft.com/security-info",) * 2 in links


def test_the_last_line_of_the_text_is_the_personal_link(campaign: Campaign) -> None:
    lines = fill(render(campaign).text, values_of()).splitlines()
    assert lines[-2:] == ["Registered, but still reminded? I have done it:", DONE]
    assert UNSUBSCRIBE in lines


def test_an_institution_s_words_are_words_and_no_marks(campaign: Campaign) -> None:
    name = "R&D <b>College</b> {account} **x** {{7*7}}"
    institution = campaign.institution.model_copy(update={"name": {"en": name}})
    letter = render(campaign.model_copy(update={"institution": institution}))
    assert letter.text.startswith(name)
    assert "R&amp;D &lt;b&gt;College&lt;/b&gt; {account} **x** {{7*7}}" in letter.html


def test_the_institution_is_named_in_the_language_of_the_letter(campaign: Campaign) -> None:
    names = {"zh-Hant": "香港大學", "en": "The University of Hong Kong"}
    institution = campaign.institution.model_copy(update={"name": names})
    text = render(campaign.model_copy(update={"institution": institution})).text
    assert text.startswith("The University of Hong Kong\n")
    assert "香港大學" not in text


# Whose letter it is

NAMES = [
    # display name, greeting in HTML, greeting in text
    ("Chan Tai Man", "Hello <bdi>Chan Tai Man</bdi>,", "Hello Chan Tai Man,"),
    ("陳大文", "Hello <bdi>陳大文</bdi>,", "Hello 陳大文,"),
    ("O'Brien & Söhne", "Hello <bdi>O&#39;Brien &amp; Söhne</bdi>,", "Hello O'Brien & Söhne,"),
    ("<b>", "Hello <bdi>&lt;b&gt;</bdi>,", "Hello <b>,"),
    ("</td><script>", "Hello <bdi>&lt;/td&gt;&lt;script&gt;</bdi>,", "Hello </td><script>,"),
    ("=cmd", "Hello <bdi>=cmd</bdi>,", "Hello =cmd,"),
    ("{{7*7}}", "Hello <bdi>{{7*7}}</bdi>,", "Hello {{7*7}},"),
    (
        "{name} **x** [y]({z})",
        "Hello <bdi>{name} **x** [y]({z})</bdi>,",
        "Hello {name} **x** [y]({z}),",
    ),
    ("Tai\r\nBcc: x", "Hello <bdi>Tai Bcc: x</bdi>,", "Hello Tai Bcc: x,"),
    ("Tai\x00\x1b[0m\tMan", "Hello <bdi>Tai [0m Man</bdi>,", "Hello Tai [0m Man,"),
    ("abc\u202egnp.exe", "Hello <bdi>abcgnp.exe</bdi>,", "Hello abcgnp.exe,"),
    ("Ta\u200bi\ufeff", "Hello <bdi>Tai</bdi>,", "Hello Tai,"),
    ("Tai 🎓👩‍🎓", "Hello <bdi>Tai 🎓👩‍🎓</bdi>,", "Hello Tai 🎓👩‍🎓,"),
    ("x" * 200, f"Hello <bdi>{'x' * 63}…</bdi>,", f"Hello {'x' * 63}…,"),
    ("\\1 \\g<0>", "Hello <bdi>\\1 \\g&lt;0&gt;</bdi>,", "Hello \\1 \\g<0>,"),
    ("", "Hello,", "Hello,"),
    (" \r\n\u202e\u200d ", "Hello,", "Hello,"),
    # Directories put accounts and addresses where names belong: they would show unmasked.
    (ACCOUNT, "Hello,", "Hello,"),
    ("U3512347", "Hello,", "Hello,"),
    ("someone@example.org", "Hello,", "Hello,"),
    ("https://example.org/prize", "Hello,", "Hello,"),
]


@pytest.mark.parametrize(("name", "in_html", "in_text"), NAMES)
def test_a_display_name_does_no_harm(name: str, in_html: str, in_text: str) -> None:
    greeting = TAGS.named("greeting")
    values = values_of(name)
    assert values[greeting.html] == in_html
    assert values[greeting.text] == in_text


@given(st.text(), st.text())
def test_no_value_changes_the_shape_of_a_mail(
    campaign: Campaign, name: str, local_part: str
) -> None:
    letter = render(campaign)
    plain = values_of()
    strange = values_of(name, f"{local_part}@connect.hku.hk")
    elements = [
        [element for element in Outline(fill(letter.html, values)).elements if "bdi" not in element]
        for values in (plain, strange)
    ]
    assert elements[0] == elements[1]
    lines = [len(fill(letter.text, values).splitlines()) for values in (plain, strange)]
    assert lines[0] == lines[1]


def test_the_account_is_masked_and_addresses_are_escaped_in_html() -> None:
    values = values_of(name=ACCOUNT)
    assert not any("u3512347" in value.casefold() for value in values.values())
    assert values[TAGS.named("account").text] == "u3•••••7@connect.hku.hk"
    assert values[TAGS.named("done_url").text] == DONE
    assert values[TAGS.named("done_url").html] == DONE.replace("&", "&amp;")
