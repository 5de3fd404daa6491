"""The questions that the other tests ask find what they look for."""

from __future__ import annotations

import pytest
from aiohttp import web

from local.serving import running_application
from tests.web.browser import Chromium, page_faults
from tests.web.tools import html_mistakes

pytestmark = pytest.mark.asyncio(loop_scope="package")

POOR_PAGE = """<!DOCTYPE html>
<html>
<head>
<title>Poor</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/missing.css">
<style>
a { color: #aaa; background: #fff; outline: 0; }
p { inline-size: 600px; }
</style>
</head>
<body>
<p><a href="#end" tabindex="2">Second</a> <a href="#end" tabindex="1">First</a></p>
<p><div>Not in a paragraph</div></p>
<img src="http://127.0.0.2/pixel.png">
<script>console.error("said"); thrown()</script>
</body>
</html>
"""


async def test_a_poor_page_is_found_poor_in_every_way(chromium: Chromium) -> None:
    async def answer(request: web.Request) -> web.Response:
        status = 200 if request.path == "/" else 404
        return web.Response(text=POOR_PAGE, content_type="text/html", status=status)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    async with running_application(application) as url, chromium.reader() as reader:
        await reader.open(url)
        faults = "\n".join(await page_faults(reader.page))
        heard = "\n".join(reader.complaints)
        reader.complaints.clear()
    for fault in (
        "light, 390 px: html-has-lang",
        "dark, 1280 px: color-contrast",
        "image-alt",
        "320 px: 608 px on a screen of 320",
        "focus cannot be seen on a 0: Second",
        "Tab comes to ['a 1: First', 'a 0: Second'] instead of",
    ):
        assert fault in faults
    for complaint in (
        "console: said",
        "script: thrown is not defined",
        "a request left this machine: http://127.0.0.2/pixel.png",
        f"404 for {url}/missing.css",
        "failed: http://127.0.0.2/pixel.png",
    ):
        assert complaint in heard


@pytest.mark.usefixtures("tools")
async def test_html_that_is_not_valid_is_found() -> None:
    mistakes = "\n".join(html_mistakes({"poor": POOR_PAGE, "good": "<!DOCTYPE html>"}))
    for mistake in ('<html> is missing required "lang" attribute', "Stray end tag '</p>'"):
        assert mistake in mistakes
    assert "good" not in mistakes
