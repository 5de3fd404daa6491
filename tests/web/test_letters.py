"""Letters in a browser: what axe-core and the HTML standard say of each, light and dark."""

from __future__ import annotations

import re

import pytest

from shared.messages.catalogue import MESSAGES
from shared.messages.rendering import Tags, guide_url, personal_values, render_letter
from shared.messages.words import LANGUAGES
from shared.rules.campaign import Campaign
from tests.web.browser import Chromium, page_faults
from tests.web.tools import html_mistakes

pytestmark = pytest.mark.asyncio(loop_scope="package")

NOT_FOR_LETTERS = ("landmark-one-main", "region")
"""A letter is read within the page of a mail program, which has the landmarks."""

FOR_OLD_PROGRAMS = r'Attribute "(cellspacing|cellpadding|align)" is deprecated on <table>'
"""Attributes of tables that the standard gave up and mail programs without CSS need."""


def letters(campaign: Campaign) -> dict[str, str]:
    """Every letter that there is, as one person gets it; those that say the same are one."""
    tags = Tags("t0123456789abcdef")
    found: dict[str, str] = {}
    for language in LANGUAGES:
        guide = guide_url("https://mfa.its.hku.hk", campaign.campaign, language)
        values = personal_values(
            tags,
            name="CHAN Tai Man",
            account="h1234567@connect.hku.hk",
            done_url=f"https://mfa.its.hku.hk/done/{'x' * 100}",
            unsubscribe_url=f"https://mfa.its.hku.hk/unsubscribe/{'x' * 100}",
            language=language,
        )
        for message in MESSAGES:
            for after in (False, True):
                letter = render_letter(
                    campaign,
                    message=message,
                    language=language,
                    after_deadline=after,
                    guide_url=guide,
                    tags=tags,
                )
                name = f"{language}, {message}, {'after' if after else 'before'} the deadline"
                html = letter.html
                for tag, value in values.items():
                    html = html.replace(tag, value)
                found.setdefault(html, name)
    return {name: html for html, name in found.items()}


async def test_every_letter_is_right_on_every_screen_light_and_dark(
    chromium: Chromium, campaign: Campaign
) -> None:
    found: list[str] = []
    async with chromium.reader() as reader:
        for name, html in letters(campaign).items():
            await reader.show(html)
            faults = await page_faults(reader.page, but=NOT_FOR_LETTERS)
            found += [f"{name}: {fault}" for fault in faults]
    assert not found, "\n".join(found)


@pytest.mark.usefixtures("tools")
async def test_every_letter_is_valid_html(campaign: Campaign) -> None:
    mistakes = html_mistakes(letters(campaign))
    assert [one for one in mistakes if not re.search(FOR_OLD_PROGRAMS, one)] == []
