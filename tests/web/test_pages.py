"""Every page that alumni and administrators come to, as the product makes it, in a browser."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from aiohttp import web

from local.serving import running_application
from shared.messages.catalogue import PAGES
from shared.messages.pages import PAGE_HEADERS, STYLE, STYLE_VERSION, render_guide, render_page
from shared.messages.words import LANGUAGES
from shared.rules.campaign import Campaign
from tests.web.browser import HEAVIEST, Chromium, page_faults
from tests.web.tools import html_mistakes

pytestmark = pytest.mark.asyncio(loop_scope="package")


def documents(campaign: Campaign) -> dict[str, str]:
    """Every page by a path of its own; those that are the same are one."""
    found: dict[str, str] = {}
    for language in LANGUAGES:
        for after in (False, True):
            when = f"{language}/{'after' if after else 'before'}"
            guide = render_guide(campaign, language=language, after_deadline=after)
            found.setdefault(guide, f"/{when}/guide")
            for page in PAGES:
                for known in (campaign, None):
                    html = render_page(
                        page,
                        campaign=known,
                        language=language,
                        after_deadline=after,
                        guide_url=f"/guide/{language}?campaign=hku-alumni-2027" if known else "",
                    )
                    whose = "" if known else "/nobody"
                    found.setdefault(html, f"/{when}/{page}{whose}")
    return {path: html for html, path in found.items()}


@dataclass(frozen=True)
class Site:
    """All pages, served under the headers of the product."""

    url: str
    documents: dict[str, str]


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def site(campaign: Campaign) -> AsyncGenerator[Site]:
    pages = documents(campaign)

    async def show(request: web.Request) -> web.Response:
        if request.path == "/assets/page.css":
            assert request.query["v"] == STYLE_VERSION
            return web.Response(text=STYLE, content_type="text/css", headers=PAGE_HEADERS)
        return web.Response(
            text=pages[request.path], content_type="text/html", headers=PAGE_HEADERS
        )

    application = web.Application()
    application.router.add_get("/{path:.*}", show)
    async with running_application(application) as url:
        yield Site(url, pages)


async def test_every_page_is_right_on_every_screen_light_and_dark(
    chromium: Chromium, site: Site
) -> None:
    found: list[str] = []
    async with chromium.reader() as reader:
        for path in site.documents:
            await reader.open(f"{site.url}{path}")
            if (weight := await reader.weight()) > HEAVIEST:
                found.append(f"{path}: {weight} bytes")
            found += [f"{path}: {fault}" for fault in await page_faults(reader.page)]
    assert not found, "\n".join(found)


@pytest.mark.usefixtures("tools")
async def test_every_page_is_valid_html(site: Site) -> None:
    mistakes = html_mistakes(site.documents)
    assert not mistakes, "\n".join(mistakes)
