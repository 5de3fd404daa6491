"""What goes wrong with calls: switched on by a test, met by the next calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from aiohttp import web

from local.inbox.fates import MailFates, TextFates, check_shares, choose
from local.serving import cut_connection
from shared.clock import SystemClock, monotonic

UNSUBSCRIBED, NO_MOBILE = 21610, 21614
"""Twilio's error codes."""


class Fault(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Something that goes wrong with a call whose body has come in whole.

    It waits `slow` seconds, then accepts the messages if `accept` says so. Then it hangs for `hang`
    seconds and resets the connection, or resets it at once (`reset`), or answers `status`; without
    any of these the call goes on as usual.

    Attributes:
        body: of the answer: text as it is, anything else as JSON; the usual error body where None.
        after: so many calls go well first.
        times: how many calls meet it; None for all.
    """

    slow: float = 0
    accept: bool = False
    hang: float = 0
    reset: bool = False
    status: int | None = None
    body: Any = None
    headers: dict[str, str] = {}
    after: int = 0
    times: int | None = 1


class Limit(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """So many calls in so many seconds of real time; the next ones are answered with 429."""

    calls: int
    seconds: float


class TextFaults(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What goes wrong with texts.

    Attributes:
        calls, limit: as for mails.
        refuse: numbers for whose sake a call is refused with 400, each with Twilio's error code.
        landlines, stopped: shares of all numbers that are refused as landlines (21614), and as
            people who have answered STOP (21610).
        receipts: what becomes of the texts that were accepted.
    """

    calls: list[Fault] = []
    limit: Limit | None = None
    refuse: dict[str, int] = {}
    landlines: float = 0
    stopped: float = 0
    receipts: TextFates = TextFates()

    def __post_init__(self) -> None:
        check_shares((self.landlines, self.stopped))

    def code_of(self, number: str) -> int | None:
        """The error for which a call to this number is refused, if it is."""
        shares = ((NO_MOBILE, self.landlines), (UNSUBSCRIBED, self.stopped))
        return self.refuse.get(number) or choose(number, shares, of=b"refused")


class Faults(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `POST /faults`, which replaces all that was there.

    Attributes:
        calls: what goes wrong with the next mail calls, in this order.
        refuse: addresses (in lower case) for whose sake a call is refused with 400; `named` says
            which recipient it was, `unnamed` says nothing.
        limit: None limits nothing.
        receipts: what becomes of the mails that were accepted.
        texts: all this for texts.
    """

    calls: list[Fault] = []
    refuse: dict[str, Literal["named", "unnamed"]] = {}
    limit: Limit | None = None
    receipts: MailFates = MailFates()
    texts: TextFaults = msgspec.field(default_factory=TextFaults)


def next_fault(calls: list[Fault]) -> Fault | None:
    """The fault that this call meets; it is used up by that."""
    if not calls:
        return None
    fault = calls[0]
    if fault.after > 0:
        fault.after -= 1
        return None
    if fault.times is not None:
        fault.times -= 1
        if fault.times <= 0:
            calls.pop(0)
    return fault


async def meet(
    fault: Fault,
    request: web.Request,
    accept: Callable[[], web.Response],
    refuse: Callable[[int], web.Response],
) -> web.Response | None:
    """What a call gets that meets a fault; None where it goes on as usual.

    Args:
        accept: accepts the call; may raise what refuses it.
        refuse: the usual answer of a status.
    """
    await asyncio.sleep(fault.slow)
    accepted = accept() if fault.accept else None
    if fault.hang or fault.reset:
        await asyncio.sleep(fault.hang)
        return cut_connection(request)
    if fault.status is None:
        return accepted
    if fault.body is None:
        answer = refuse(fault.status)
        answer.headers.update(fault.headers)
        return answer
    is_text = isinstance(fault.body, str)
    return web.Response(
        body=fault.body.encode() if is_text else msgspec.json.encode(fault.body),
        content_type="text/html" if is_text else "application/json",
        status=fault.status,
        headers=fault.headers,
    )


class RateLimit:
    """Counts calls in windows of real time, and says so in the X-RateLimit headers."""

    _USUAL = Limit(10_000, 1)

    def __init__(self, limit: Limit | None = None) -> None:
        self._limit = limit
        self._begun = monotonic()
        self._count = 0

    def admit(self) -> tuple[bool, dict[str, str]]:
        """Whether this call is let in, and the headers of its answer."""
        limit = self._limit or self._USUAL
        now = monotonic()
        if now - self._begun >= limit.seconds:
            self._begun, self._count = now, 0
        self._count += 1
        rest = self._begun + limit.seconds - now
        reset = SystemClock().campaign_now().timestamp() + rest
        headers = {
            "X-RateLimit-Limit": str(limit.calls),
            "X-RateLimit-Remaining": str(max(0, limit.calls - self._count)),
            "X-RateLimit-Reset": str(int(reset) + 1),
        }
        return self._limit is None or self._count <= limit.calls, headers
