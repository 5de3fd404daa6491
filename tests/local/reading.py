"""Somebody at the home page of a local system, without a browser: what is asked and what comes."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

import aiohttp

from local.inbox import Mail, Text, read_messages, read_texts
from local.system import LocalSystem


@dataclass(frozen=True)
class Answer:
    """A page as its reader has it; `text` without markup, its white space made one."""

    status: int
    url: str
    headers: dict[str, str]
    body: str

    @property
    def text(self) -> str:
        return " ".join(html.unescape(re.sub(r"<[^>]*>", "", self.body)).split())


@dataclass(frozen=True)
class Browser:
    """Somebody at the home page of a system."""

    system: LocalSystem
    home: str
    http: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> Answer:
        return await self._ask("GET", path, headers=headers)

    async def press(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Answer:
        """Send a form; the answer is that of the page which the browser is led to."""
        return await self._ask("POST", path, data=form or {}, headers=headers)

    async def _ask(self, method: str, path: str, **what: Any) -> Answer:
        async with self.http.request(method, f"{self.home}{path}", **what) as answer:
            headers = dict(answer.headers)
            return Answer(answer.status, str(answer.url.relative()), headers, await answer.text())

    async def mails(self) -> list[Mail]:
        """All that have come, oldest first."""
        assert self.system.inbox_url
        return (await read_messages(self.http, self.system.inbox_url, limit=10_000)).messages

    async def texts(self) -> list[Text]:
        """All that have come, oldest first."""
        assert self.system.texts_url
        return (await read_texts(self.http, self.system.texts_url, limit=10_000)).texts

    async def person_of(self, mail: int) -> str:
        """The path of the page of whoever a mail went to."""
        page = await self.get(f"/mails/{mail}/reader")
        assert page.status == 200
        return page.url

    async def file_text(self) -> str:
        """What stands in the text field of the campaign file."""
        page = await self.get("/campaign")
        found = re.search(r"<textarea[^>]*>\n(.*)</textarea>", page.body, re.DOTALL)
        assert found
        return html.unescape(found[1])
