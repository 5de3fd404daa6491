"""A message, a row and a call for each person: as samples do it, and the best that it allows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from azure.core.exceptions import ResourceExistsError
from azure.data.tables import UpdateMode
from sendgrid import SendGridAPIClient
from sendgrid.helpers.mail import From, Mail, To

from shared.clock import monotonic
from shared.messages.rendering import Letter, Tags, guide_url, personal_values, render_letter
from shared.rules.contact import Recipient
from shared.services.http import HttpClient
from tests.bench.bed import Bench, take_all
from tests.bench.wave import Spent
from tests.world import NAME

_QUEUE, _TABLE = "sample", "sample"

AT_ONCE = 32
"""Messages that the best way puts, takes and works on side by side; more are no faster here."""


class OneEach:
    """Sends to people one by one, over a bench's storage and inbox."""

    def __init__(self, bench: Bench, letter: Letter, tags: Tags, sender: str) -> None:
        self._bench = bench
        self._letter = letter
        self._tags = tags
        self._sender = sender
        self._queue = bench.app.account.queue(_QUEUE)
        self._table = bench.app.account.table(_TABLE)

    @classmethod
    async def over(cls, bench: Bench) -> OneEach:
        """With a queue, a table and a letter of its own."""
        campaign = (await bench.app.book.read()).standings[NAME].campaign
        tags = Tags.fresh()
        letter = render_letter(
            campaign,
            message="reminder",
            language="en",
            after_deadline=False,
            guide_url=guide_url("https://mfa.its.hku.hk", NAME, "en"),
            tags=tags,
        )
        made = cls(bench, letter, tags, campaign.sender.email)
        await _ignore_existing(made._queue.create_queue())
        await _ignore_existing(made._table.create_table())
        return made

    async def send_as_samples_do(self, people: Sequence[Recipient]) -> Spent:
        """One message after the other; at the host's concurrency a row, a call of the sendgrid
        package with its own transport, and the row again."""
        client = SendGridAPIClient("bench", host=self._bench.inbox_url)

        async def call(mail: Mail) -> int:
            return (await asyncio.to_thread(client.send, mail)).status_code

        async def put() -> None:
            for person in people:
                await self._queue.send_message(msgspec.json.encode(person))

        return await self._send(people, put, call)

    async def send_at_its_best(self, people: Sequence[Recipient]) -> Spent:
        """The same over one client that keeps its connections, `AT_ONCE` side by side."""
        http = HttpClient()
        url = f"{self._bench.inbox_url}/v3/mail/send"
        headers = {"Authorization": "Bearer bench", "Content-Type": "application/json"}

        async def call(mail: Mail) -> int:
            body = msgspec.json.encode(mail.get())
            answer = await http.post(
                url, headers=headers, body=body, may_start=lambda: True, timeout=60
            )
            return answer.status

        async def put() -> None:
            free = asyncio.Semaphore(AT_ONCE)

            async def put_one(person: Recipient) -> None:
                async with free:
                    await self._queue.send_message(msgspec.json.encode(person))

            async with asyncio.TaskGroup() as group:
                for person in people:
                    group.create_task(put_one(person))

        try:
            return await self._send(people, put, call, batch=AT_ONCE, threshold=AT_ONCE)
        finally:
            await http.close()

    async def _send(
        self,
        people: Sequence[Recipient],
        put: Callable[[], Awaitable[None]],
        call: Callable[[Mail], Awaitable[int]],
        **concurrency: int,
    ) -> Spent:
        async def send_one(body: bytes) -> None:
            person = msgspec.json.decode(body, type=Recipient)
            row: dict[str, Any] = {
                "PartitionKey": NAME,
                "RowKey": person.id.hex(),
                "state": "sending",
            }
            await self._table.create_entity(row)
            assert await call(self._write(person)) == 202
            await self._table.update_entity({**row, "state": "sent"}, UpdateMode.MERGE)

        operations, began = self._bench.operations, monotonic()
        await put()
        empty_polls = await take_all(self._queue, send_one, **concurrency)
        seconds = monotonic() - began
        spent = self._bench.operations - operations - empty_polls + len(people)
        return Spent(len(people), seconds, spent, len(people))

    def _write(self, person: Recipient) -> Mail:
        values = personal_values(
            self._tags,
            name=person.name,
            account=person.account,
            done_url="https://mfa.its.hku.hk/done/sample",
            unsubscribe_url="https://mfa.its.hku.hk/unsubscribe/sample",
        )
        text, html = self._letter.text, self._letter.html
        for tag, value in values.items():
            text, html = text.replace(tag, value), html.replace(tag, value)
        return Mail(
            from_email=From(self._sender),
            to_emails=To(person.address),
            subject=self._letter.subject,
            plain_text_content=text,
            html_content=html,
        )


async def _ignore_existing(creation: Awaitable[object]) -> None:
    with suppress(ResourceExistsError):
        await creation
