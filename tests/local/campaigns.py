"""Campaign files for local systems: the example with a few other words."""

from __future__ import annotations

from pathlib import Path

from tests.world import EXAMPLE

BY_SMS = (
    (
        "touch: fortnight, days_before: 14, message: reminder,  channels: [email]",
        "touch: fortnight, days_before: 14, message: reminder,  channels: [email, sms]",
    ),
    ("  # look_for: {en: MFA", "  look_for: {en: MFA"),
    ("  # short_name: {en: HKU}", "  short_name: {en: HKU}"),
)
"""The fortnight goes out by SMS, too."""

WEEK_BY_SMS = (
    "touch: week,      days_before: 7,  message: reminder,  channels: [email]",
    "touch: week,      days_before: 7,  message: reminder,  channels: [email, sms]",
)
"""And the touch after it."""


def write_campaign(file: Path, *edits: tuple[str, str]) -> Path:
    """The example with other words in some places."""
    text = EXAMPLE.read_text()
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file.write_text(text)
    return file
