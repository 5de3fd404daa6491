"""SMS: what a text costs, and what it says in how many parts."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.clock import CampaignTime
from shared.errors import SetupFault
from shared.messages.catalogue import MESSAGES
from shared.messages.rendering import Letter
from shared.messages.texting import MOST_PARTS, Parts, count_parts, render_sms
from shared.messages.words import LANGUAGES
from shared.rules.campaign import MOST_LOOK_FOR, MOST_SHORT_NAME, Campaign

LOOK_FOR = "MFA pre-registration for alumni"
FORMS = [(message, after) for after in (False, True) for message in MESSAGES]


# What it costs

COSTS: list[tuple[str, str, int]] = [
    ("", "GSM-7", 1),
    ("a" * 160, "GSM-7", 1),
    ("a" * 161, "GSM-7", 2),
    ("a" * 306, "GSM-7", 2),
    ("a" * 307, "GSM-7", 3),
    ("a" * 459, "GSM-7", 3),
    ("\n\r @£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ¤¡ÄÖÑÜ§¿äöñüà", "GSM-7", 1),
    # the extension table takes two septets, which stay together
    ("€" * 80, "GSM-7", 1),
    ("€" * 81, "GSM-7", 2),
    ("€" * 152, "GSM-7", 2),
    ("€" * 153, "GSM-7", 3),
    ("a" * 159 + "€", "GSM-7", 2),
    ("a" * 152 + "€" + "a" * 151, "GSM-7", 2),
    ("a" * 152 + "€" + "a" * 152, "GSM-7", 3),
    ("\f^{}\\[~]|€" * 8, "GSM-7", 1),
    # one character beyond both tables
    ("ç", "UCS-2", 1),
    ("`", "UCS-2", 1),
    ("’", "UCS-2", 1),
    ("\t", "UCS-2", 1),
    ("a" * 69 + "’", "UCS-2", 1),
    ("a" * 70 + "’", "UCS-2", 2),
    ("校" * 70, "UCS-2", 1),
    ("校" * 71, "UCS-2", 2),
    ("校" * 134, "UCS-2", 2),
    ("校" * 135, "UCS-2", 3),
    ("€" * 69 + "校", "UCS-2", 1),
    # two units of UTF-16 stay together
    ("😀" * 35, "UCS-2", 1),
    ("😀" * 36, "UCS-2", 2),
    ("😀" * 66, "UCS-2", 2),
    ("😀" * 67, "UCS-2", 3),
    ("校" * 66 + "😀" + "校" * 65, "UCS-2", 2),
    ("校" * 66 + "😀" + "校" * 66, "UCS-2", 3),
]


@pytest.mark.parametrize(
    ("text", "encoding", "parts"), COSTS, ids=[f"{len(text)} {text[:3]!r}" for text, _, _ in COSTS]
)
def test_what_a_text_costs(text: str, encoding: str, parts: int) -> None:
    assert count_parts(text) == Parts(encoding, parts)  # type: ignore[arg-type]


# 3GPP TS 23.038, 6.2.1: both tables in the order of their codes; \x1b leads to the second one.
TABLE = (
    "@£$¥èéùìòÇ\nØø\rÅå"
    "Δ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ"
    " !\"#¤%&'()*+,-./"
    "0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNO"
    "PQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmno"
    "pqrstuvwxyzäöñüà"
)
SECOND_TABLE = {
    0x0A: "\f", 0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\",
    0x3C: "[", 0x3D: "~", 0x3E: "]", 0x40: "|", 0x65: "€",
}  # fmt: skip
ESCAPE = 0x1B


def count_slowly(text: str) -> Parts:
    """By encoding the text and cutting it: a cut that falls into a pair moves one place ahead."""
    seconds = {character: code for code, character in SECOND_TABLE.items()}
    septets: list[int] = []
    for character in text:
        if character in seconds:
            septets += [ESCAPE, seconds[character]]
        elif character in TABLE and character != "\x1b":
            septets.append(TABLE.index(character))
        else:
            break
    else:
        return Parts("GSM-7", cut_up(septets, 160, 153, range(ESCAPE, ESCAPE + 1)))
    encoded = text.encode("utf-16-be")
    units = [int.from_bytes(encoded[at : at + 2]) for at in range(0, len(encoded), 2)]
    return Parts("UCS-2", cut_up(units, 70, 67, range(0xD800, 0xDC00)))


def cut_up(places: list[int], alone: int, each: int, first_of_pair: range) -> int:
    if len(places) <= alone:
        return 1
    parts = 0
    while places:
        end = min(each, len(places))
        if end < len(places) and places[end - 1] in first_of_pair:
            end -= 1
        places = places[end:]
        parts += 1
    return parts


NO_SURROGATES = st.characters(exclude_categories=["Cs"])


@example("€" * 153)
@given(
    st.lists(
        st.sampled_from(["a" * 7, "€", "{}", "é" * 50, "a" * 76, "校", "😀", "’", "\x1b"]),
        max_size=60,
    ).map("".join)
    | st.text(st.sampled_from([*TABLE.replace("\x1b", ""), *SECOND_TABLE.values()]), max_size=400)
    | st.text(NO_SURROGATES, max_size=200)
)
def test_counting_is_cutting(text: str) -> None:
    assert count_parts(text) == count_slowly(text)


# What it says


def texting(
    campaign: Campaign,
    *,
    name: str = "The University of Hong Kong",
    short_name: str = "HKU",
    look_for: str = LOOK_FOR,
    **more: object,
) -> Campaign:
    """A campaign with words for SMS; `more` are keys of the campaign itself."""
    institution = campaign.institution.model_copy(
        update={
            "name": {"en": name},
            "short_name": {"en": short_name} if short_name else {},
            "look_for": {"en": look_for} if look_for else {},
        }
    )
    return campaign.model_copy(update={"institution": institution, **more})


def render(campaign: Campaign, message: str = "announce", *, after_deadline: bool = False) -> str:
    letter = render_sms(campaign, message=message, language="en", after_deadline=after_deadline)
    assert letter == Letter(subject="", html="", text=letter.text)
    return letter.text


def test_all_of_them(campaign: Campaign) -> None:
    hku = texting(campaign)
    assert [render(hku, message) for message in ("announce", "reminder", "last-call")] == [
        "HKU: your alumni account needs MFA from 1 April 2027. Please register by 31 March 2027 "
        "(Hong Kong time). On our site, look for: MFA pre-registration for alumni",
        "HKU reminder: alumni accounts need MFA from 1 April 2027. Please register by "
        "31 March 2027 (Hong Kong time). On our site: MFA pre-registration for alumni",
        "HKU last reminder: alumni accounts need MFA from 1 April 2027. Please register by "
        "31 March 2027 (Hong Kong time). On our site: MFA pre-registration for alumni",
    ]
    assert render(hku, "after", after_deadline=True) == (
        "HKU: alumni accounts need MFA from 1 April 2027. You can still set it up. "
        "On our site, look for: MFA pre-registration for alumni"
    )


@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_each_is_one_part_for_the_example(
    campaign: Campaign, message: str, after_deadline: bool
) -> None:
    text = render(texting(campaign), message, after_deadline=after_deadline)
    assert count_parts(text) == Parts("GSM-7", 1)


@pytest.mark.invariant(10)
@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_the_clock_alone_decides_whether_it_invites_to_register_in_time(
    campaign: Campaign, message: str, after_deadline: bool
) -> None:
    text = render(texting(campaign), message, after_deadline=after_deadline)
    assert ("register by 31 March 2027" in text) is not after_deadline
    assert ("You can still set it up" in text) is after_deadline


@pytest.mark.invariant(10)
@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_it_speaks_of_dates_and_without_alarm(
    campaign: Campaign, message: str, after_deadline: bool
) -> None:
    text = render(texting(campaign), message, after_deadline=after_deadline)
    assert re.search(r"(31 March|1 April) 2027", text)
    assert not re.search(
        r"\b(in|within) \d+ (day|hour|week)|\btomorrow|\btoday|\bdays left"
        r"|\burgent|\bimmediate|\bact now|\bsuspend|\bterminat|\bwarning|!",
        text,
        re.IGNORECASE,
    )


@pytest.mark.invariant(6)
@pytest.mark.invariant(11)
@pytest.mark.parametrize(("message", "after_deadline"), FORMS)
def test_it_has_no_link_and_nothing_personal(
    campaign: Campaign, message: str, after_deadline: bool
) -> None:
    """What telephones make a link of: a scheme, `www`, or a dot within a word."""
    text = render(texting(campaign), message, after_deadline=after_deadline)
    assert not re.search(r"://|\bwww\b|\w\.\w|@|\{|\}", text)


def test_the_name_is_the_short_one_where_there_is_one(campaign: Campaign) -> None:
    assert render(texting(campaign, name="Hill College")).startswith("HKU: ")
    assert render(texting(campaign, name="Hill College", short_name="")).startswith("Hill College:")


def test_a_deadline_with_a_time_keeps_it_in_every_length(campaign: Campaign) -> None:
    afternoon = CampaignTime(datetime.combine(date(2027, 3, 31), time(17), campaign.zone))
    at_five = texting(campaign, short_name="N" * MOST_SHORT_NAME, deadline=afternoon)
    assert "by 17:00 on 31 March 2027. " in render(at_five)
    at_five = texting(campaign, look_for="MFA", deadline=afternoon)
    assert "by 17:00 on 31 March 2027 (Hong Kong time). " in render(at_five)


@pytest.mark.parametrize(
    ("short_name", "look_for", "encoding"),
    [
        ("St. John’s", "“MFA” – pre‑registration…", "GSM-7"),
        ("Universität Zürich", "MFA", "GSM-7"),
        ("Universita\u0308t", "MFA", "GSM-7"),
        ("Ångström\u00a0Uni", "MFA\u202f2027", "GSM-7"),
        ("Français", "MFA", "UCS-2"),
        ("香港大學", "校友「MFA」登記", "UCS-2"),
    ],
)
def test_what_is_only_spelt_for_print_does_not_cost_twice(
    campaign: Campaign, short_name: str, look_for: str, encoding: str
) -> None:
    text = render(texting(campaign, short_name=short_name, look_for=look_for))
    assert count_parts(text).encoding == encoding


def test_in_a_text_that_is_ucs_2_all_the_same_names_stay_as_they_are(campaign: Campaign) -> None:
    text = render(texting(campaign, short_name="香港大學", look_for="“校友”登記…"))
    assert text.startswith("香港大學: ")
    assert text.endswith("“校友”登記…")


@pytest.mark.parametrize("zone", ["America/St_Johns", "Africa/Sao_Tome", "America/Curacao"])
def test_a_city_that_costs_a_part_more_is_left_out_or_spelt_plainly(
    campaign: Campaign, zone: str
) -> None:
    assert count_parts(render(texting(campaign, timezone=zone))) == Parts("GSM-7", 1)


# Campaigns as the file allows them: names of up to so many characters, each a single unit of
# UTF-16, without control characters and without blanks at their beginning.
ONE_UNIT = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc", "Zl", "Zp"])


def words_of(longest: int) -> st.SearchStrategy[str]:
    return st.one_of(
        st.text(ONE_UNIT, min_size=1, max_size=longest),
        st.sampled_from(["N", "校", "€", "’", "ç"]).map(lambda one: one * longest),
    )


@example(
    "校" * MOST_SHORT_NAME, "校" * MOST_LOOK_FOR, date(2027, 9, 30), time(23, 59), "Asia/Tokyo"
)
@example("€" * MOST_SHORT_NAME, "€" * MOST_LOOK_FOR, date(2027, 9, 30), time(23, 59), "Asia/Tokyo")
@given(
    words_of(MOST_SHORT_NAME),
    words_of(MOST_LOOK_FOR),
    st.dates(date(2027, 1, 1), date(2028, 12, 31)),
    st.none() | st.times(),
    st.sampled_from(["Asia/Hong_Kong", "America/North_Dakota/New_Salem", "America/Asuncion"]),
)
def test_two_parts_are_enough_for_every_legal_campaign(
    campaign: Campaign, short_name: str, look_for: str, day: date, at: time | None, zone: str
) -> None:
    deadline = day if at is None else CampaignTime(datetime.combine(day, at, campaign.zone))
    legal = texting(
        campaign,
        short_name=short_name,
        look_for=look_for,
        timezone=zone,
        deadline=deadline,
        enforced_from=day + timedelta(days=1),
    )
    for language in LANGUAGES:
        for message, after_deadline in FORMS:
            text = render_sms(
                legal, message=message, language=language, after_deadline=after_deadline
            ).text
            assert count_parts(text).parts <= MOST_PARTS


@given(words_of(MOST_SHORT_NAME), words_of(MOST_LOOK_FOR))
def test_no_length_that_takes_more_parts_is_chosen(
    campaign: Campaign, short_name: str, look_for: str
) -> None:
    chosen = render(texting(campaign, short_name=short_name, look_for=look_for))
    shortest = f"{short_name}: alumni need MFA by 31 March 2027. On our site: {look_for}"
    assert count_parts(chosen).parts <= count_parts(shortest).parts


# What it can't do without


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ({"look_for": ""}, "set institution.look_for"),
        ({"short_name": "😀" * 30, "look_for": "😀" * 40}, "shorten institution.short_name"),
    ],
)
def test_a_campaign_without_usable_words_names_the_fix(
    campaign: Campaign, change: dict[str, str], fix: str
) -> None:
    with pytest.raises(SetupFault, match=fix):
        render(texting(campaign, **change))


def test_an_unknown_message_or_language_names_the_fix(campaign: Campaign) -> None:
    with pytest.raises(SetupFault, match="use one of announce, reminder, last-call, after"):
        render(texting(campaign), "farewell")
    with pytest.raises(SetupFault, match="use one of en"):
        render_sms(texting(campaign), message="announce", language="xx", after_deadline=False)
