"""The pictures of the README, taken in Chromium: `make pictures`."""

from __future__ import annotations

import html
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from shared.messages.rendering import Tags, personal_values, render_letter
from shared.rules.campaign import Allowed, parse_campaign

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
WIDTHS = {"mail-phone.png": (390, 844), "mail-desktop.png": (820, 844)}


def example_mail() -> str:
    """The reminder of the example campaign, as one synthetic person gets it."""
    file = ROOT / "campaign.example.yaml"
    nothing = Allowed(senders=frozenset(), link_hosts=frozenset(), local=True)
    campaign = parse_campaign(file.read_text(), file=file.name, allowed=nothing)
    tags = Tags.fresh()
    letter = render_letter(
        campaign, message="reminder", language="en", after_deadline=False, tags=tags
    )
    values = personal_values(
        tags,
        name="CHAN Tai Man",
        account="h1234567@connect.hku.hk",
        done_url="https://mfa.its.hku.hk/done/…",
        unsubscribe_url="https://mfa.its.hku.hk/unsubscribe/…",
    )
    mail = letter.html
    for tag, value in values.items():
        mail = mail.replace(tag, value)
    return mail


def take() -> None:
    """Write every picture."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    mail = example_mail()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, (width, height) in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_content(mail)
            page.screenshot(path=PICTURES / name)
        browser.close()
    assert html.unescape(mail).count("CHAN Tai Man") == 1


if __name__ == "__main__":
    take()
