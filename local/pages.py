"""How the pages of the local system are made: templates, one stylesheet, what browsers may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from aiohttp import web
from markupsafe import Markup

from shared.messages.templating import environment
from shared.workflows.status_page import mark_names
from shared.workflows.status_words import count_things, format_moment

TEMPLATES: Final = Path(__file__).parent / "templates"

PAGE_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; frame-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # A form of ours must still say where it stands: whoever gets it refuses what comes from others.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_FATES: Final[Mapping[str, str]] = {
    "bounced": "bounced",
    "bounced_later": "bounced",
    "blocked": "blocked",
    "dropped": "dropped",
    "reported": "reported as spam",
    "unsubscribed": "unsubscribed",
}
"""What a mail's reader is told of its fate; nothing where it arrived."""


class Pages:
    """Renders pages and serves their stylesheet.

    Args:
        home: whether the pages stand under the home page's address, and may link to it.
        zone: in which times are shown.
    """

    def __init__(self, *, home: bool, zone: ZoneInfo) -> None:
        self._style = (TEMPLATES / "page.css").read_text()
        self._given: dict[str, object] = {
            "home": home,
            "moment": partial(_time_element, zone, format_moment),
            "day": partial(_time_element, zone, day),
            "count": count_things,
            "marked": mark_names,
            "fates": _FATES,
        }

    def answer(self, template: str, *, status: int = 200, **content: Any) -> web.Response:
        """The page that `{template}.html.jinja` makes of `content`."""
        return web.Response(
            text=environment(TEMPLATES)
            .get_template(f"{template}.html.jinja")
            .render(self._given | content),
            status=status,
            content_type="text/html",
            headers=PAGE_HEADERS,
        )

    async def show_style(self, request: web.Request) -> web.Response:
        return web.Response(text=self._style, content_type="text/css")


def day(time: datetime, zone: ZoneInfo) -> str:
    """The day of a time, such as `Wed 17 Mar 2027`."""
    return f"{time.astimezone(zone):%a %-d %b %Y}"


def _time_element(
    zone: ZoneInfo, words: Callable[[datetime, ZoneInfo], str], time: datetime
) -> Markup:
    local = time.astimezone(zone).isoformat(timespec="minutes")
    return Markup('<time datetime="{}">{}</time>').format(local, words(time, zone))
