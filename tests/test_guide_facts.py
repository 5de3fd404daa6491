"""What every mail and the guide's page must say: a table of fact by form, in the example campaign's
words.

A form is one part (HTML, text) of one message on one side of the deadline, or the page there. All
are read the way a person does: visible words alone, on one line, without the quotes around labels.
"""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import msgspec
import pytest

from shared.messages.catalogue import MESSAGES
from shared.messages.pages import render_guide
from shared.messages.rendering import Tags, personal_values, render_letter
from shared.rules.campaign import Allowed, parse_campaign

EXAMPLE = Path(__file__).parents[1] / "campaign.example.yaml"
CAMPAIGN = parse_campaign(
    EXAMPLE.read_text(),
    file=EXAMPLE.name,
    allowed=Allowed(
        senders=frozenset({"no-reply@its.hku.hk"}),
        link_hosts=frozenset({"its.hku.hk"}),
        local=True,
        channels=frozenset({"email"}),
    ),
)

SITE: Final = "https://mysignins.microsoft.com/security-info"
PROCEDURE: Final = "https://its.hku.hk/services/accounts-2fa/mfa/"
GUIDE: Final = "https://mfa.its.hku.hk/guide/en?campaign=hku-alumni-2027"
ACCOUNT: Final = "u3512347@connect.hku.hk"


class Fact(msgspec.Struct, frozen=True):
    """A statement, and the patterns that must all be found where it is made.

    Attributes:
        after: in place of `before` after the deadline; None says that the fact may not stand there.
        mail: beside these in a mail, where it is said to one person.
        page: beside these on the page, which is nobody's.
    """

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...] | None = None
    mail: tuple[str, ...] = ()
    page: tuple[str, ...] = ()

    def patterns(self, form: Form) -> tuple[str, ...] | None:
        """What must be found in a form, or None where the fact may not stand."""
        stated = self.after if form.after_deadline else self.before
        if stated is None:
            return None
        return stated + (self.page if form.part == "page" else self.mail)


class Form(msgspec.Struct, frozen=True):
    """What can be read: a part of a message (a field of Letter), or the guide's page."""

    message: str
    after_deadline: bool
    part: str

    def __str__(self) -> str:
        when = "after the deadline" if self.after_deadline else "before the deadline"
        return f"{self.message}, {when}, {self.part}"


FORMS = [
    *(
        Form(message, after_deadline, part)
        for after_deadline in (False, True)
        for message in MESSAGES
        for part in ("html", "text")
    ),
    Form("guide", after_deadline=False, part="page"),
    Form("guide", after_deadline=True, part="page"),
]


def always(
    name: str, *patterns: str, mail: tuple[str, ...] = (), page: tuple[str, ...] = ()
) -> Fact:
    return Fact(name, patterns, patterns, mail, page)


def before_only(name: str, *patterns: str) -> Fact:
    return Fact(name, patterns)


FACTS = [
    Fact(
        "1 what changes, for which account, both dates with the zone",
        (
            r"From 1 April 2027 (your password alone|you will need one)",
            r"Register:? by the end of 31 March 2027 \(Hong Kong time\)",
            r"MFA required:? from 1 April 2027 \(Hong Kong time\)",
        ),
        (
            r"From 1 April 2027 you need a method for multi-factor authentication",
            r"ended at the end of 31 March 2027 \(Hong Kong time\)",
            r"MFA required:? from 1 April 2027 \(Hong Kong time\)",
        ),
        mail=(r"Account:? u3•••••7@connect\.hku\.hk",),
        page=(r"to your alumni account at The University of Hong Kong\.",),
    ),
    before_only(
        "2 the app is installed first, from Google Play or the App Store",
        r"First install Microsoft Authenticator .*On the other device",
        r"from Google Play \(Android\) or the App Store \(iPhone\)",
        r"free, and its publisher is Microsoft Corporation",
    ),
    before_only(
        "3 the page is opened on another device, by typing its address",
        rf"On the other device, the computer or tablet, .* type this address: {SITE}",
    ),
    before_only(
        "4 sign in with the account and its password, as the institution calls them",
        r"Sign in with your account, written like UID@connect\.hku\.hk, and your Portal PIN",
    ),
    before_only("5 not to stay signed in", r"Stay signed in\?, select No\."),
    before_only(
        "6 add a sign-in method, choose the app, go on once it is there",
        r"Select \+ Add sign-in method and choose Microsoft Authenticator",
        r"on your phone already, so select Next",
    ),
    before_only(
        "7 in the app, add an account of work or school", r"add an account, .*Work or school"
    ),
    before_only(
        "8 the camera is for the scan, and may be withdrawn",
        r"use the camera, which it needs for the scan",
        r"withdraw this permission afterwards",
    ),
    before_only(
        "9 scan the QR code on the computer",
        r"On the computer, .* shows a QR code\. Scan this code with the app",
    ),
    before_only(
        "10 type the number into the app, confirm, Next: done",
        r"computer now shows a number\. Type it into the app and confirm",
        r"then select Next on the computer\. You are registered",
    ),
    before_only(
        "11 the entry in the app shows a code for later sign-ins",
        r"an entry for your account\. Open it to see a code: it works at later sign-ins",
    ),
    before_only(
        "12 then Phone as a second method, the same way",
        r"second method in the same way, .*\+ Add sign-in method again, .*choose Phone\.",
    ),
    before_only(
        "13 why the app: calls and texts need the carrier's signal each time",
        r"call or a text message needs your carrier.s signal at each sign-in",
    ),
    Fact(
        "14 after the deadline: the general procedure",
        (rf"After that, follow the general procedure instead: {PROCEDURE}",),
        (rf"general procedure of The University of Hong Kong explains .*: {PROCEDURE}",),
    ),
    always(
        "15 we never ask for password, number or code",
        r"never ask for your password, nor for the number or the code on your phone",
        r"be it by mail, by SMS or on the phone",
    ),
    always(
        "16 how to check that this is genuine",
        r"Go to the website of The University of Hong Kong by yourself",
        r"names this campaign and its sender: https://its\.hku\.hk/kb/mfa-pre-registration-for-alumni",
    ),
    always(
        "17 no need to tell us; the link that says so is the last line",
        r"You need not tell us",
        r"reminders stop by themselves, usually within a day",
        mail=(r"I have done it(: https://mfa\.example/done)?$",),
        page=(r"Each of them ends .*to tell us that you have registered\.$",),
    ),
    before_only(
        "a phone and nothing else is enough",
        r"no other device:? Install the app, then open the address in the phone.s own browser",
        r"Pair your account to the app by clicking this link",
        r"Do not begin with the sign-in inside the app",
    ),
    before_only(
        "Android in mainland China: other stores, codes instead of numbers, else a phone number",
        r"no Google Play there, and the app cannot ask you for the number",
        r"type in the code that it shows",
        r"If you are not offered that choice, use Phone",
        r"https://support\.microsoft\.com/\S+-in-china",
    ),
    before_only(
        "no smartphone: text, voice call, landline, or another way through the help desk",
        r"no smartphone:? In step 5 choose Phone, .*voice call; a landline will do",
        r"hardware token: ithelp@hku\.hk",
    ),
    always(
        "account name or password forgotten, or phone lost",
        r"forgotten your account name or Portal PIN, or lost your phone"
        r":? The University of Hong Kong has a page for this: https://its\.hku\.hk/services/\S+",
    ),
    before_only(
        "a tenant may let people register from certain places only",
        r"only from certain places, .*tell the help desk what the page says: ithelp@hku\.hk",
    ),
    always("the help desk answers", r"Questions\? Write to the help desk .*: ithelp@hku\.hk"),
    always(
        "why this address is used, and how to end the reminders",
        mail=(r"because your account names it as a contact address", r"Stop these reminders"),
        page=(r"contact address that your account names", r"ends with one link to stop them"),
    ),
]


class VisibleWords(HTMLParser):
    """Collects what a reader of an HTML page sees."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag == "head"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "head"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


@cache
def read(form: Form) -> str:
    """The mail or page as its reader sees it, on one line."""
    if form.part == "page":
        return on_one_line(
            see(render_guide(CAMPAIGN, language="en", after_deadline=form.after_deadline))
        )
    tags = Tags.fresh()
    letter = render_letter(
        CAMPAIGN,
        message=form.message,
        language="en",
        after_deadline=form.after_deadline,
        guide_url=GUIDE,
        tags=tags,
    )
    part: str = getattr(letter, form.part)
    values = personal_values(
        tags,
        name="Chan Tai Man",
        account=ACCOUNT,
        done_url="https://mfa.example/done",
        unsubscribe_url="https://mfa.example/unsubscribe",
    )
    for tag, value in values.items():
        part = part.replace(tag, value)
    return on_one_line(see(part) if form.part == "html" else part)


def see(html: str) -> str:
    reader = VisibleWords()
    reader.feed(html)
    return "".join(reader.words)


def on_one_line(words: str) -> str:
    return " ".join(re.sub("[“”]", "", words).split())


def missing(patterns: tuple[str, ...], words: str) -> list[str]:
    return [pattern for pattern in patterns if not re.search(pattern, words)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
def test_fact_stands_where_it_makes_sense(fact: Fact, form: Form) -> None:
    patterns = fact.patterns(form)
    if patterns is None:
        assert missing(fact.before, read(form)) != []
    else:
        assert missing(patterns, read(form)) == []


@pytest.mark.parametrize("form", [FORMS[0], FORMS[-2]], ids=str)
@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
def test_fact_is_missed_when_its_sentence_is_gone(fact: Fact, form: Form) -> None:
    """Each pattern depends on words that stand only once: a check that nothing can fail is none."""
    words = read(form).split(" ")
    for pattern in fact.patterns(form) or ():
        gaps = range(0, len(words), 4)
        assert any(
            not re.search(pattern, " ".join(words[:gap] + words[gap + 4 :])) for gap in gaps
        ), pattern
