"""The provider's status callbacks: where a text is, signed, one request for each status.

A request is signed by HMAC-SHA1 over its whole address and the parameters of its form, with the
account's token. Like Twilio, and other than with events, a request that was answered with an error
is not sent again; one that reached nobody is.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha1
from typing import Final
from urllib.parse import urlencode

from local.inbox.fates import TextFate, TextFates
from local.inbox.phones import Text
from local.inbox.postman import Postman, Retries, Told
from local.inbox.twilio import TextCall

SIGNATURE: Final = "X-Twilio-Signature"
RETRIES: Final = Retries(seconds=60, refused=False)

_SENDER_OF_SERVICE: Final = "+15005550006"  # of Twilio's own numbers for tests


class StatusCallbacks:
    """Tells each text's StatusCallback of it.

    Args:
        fates: the switches of now.
    """

    def __init__(self, fates: Callable[[], TextFates]) -> None:
        self._fates = fates
        self._postman = Postman(RETRIES)

    @property
    def told(self) -> Told:
        return self._postman.told

    def follow(self, call: TextCall, text: Text, fate: TextFate) -> None:
        """Let a text take its course."""
        statuses = ["queued", fate.status] if fate.status == "failed" else []
        statuses = statuses or ["queued", "sent", fate.status]
        switches = self._fates()
        told = bool(call.callback) and not switches.silent
        times = 1 + switches.twice if told else 0
        self._postman.told.waiting += len(statuses) * times
        self._postman.begin(self._follow(call, text, fate, statuses, times, switches.late))

    async def _follow(
        self,
        call: TextCall,
        text: Text,
        fate: TextFate,
        statuses: list[str],
        times: int,
        late: float,
    ) -> None:
        await asyncio.sleep(late)
        for status in statuses:
            text.status = status
            text.error_code = fate.code if status == fate.status else None
            form = _form_of(call, text)
            make = partial(self._make, call, form)
            for _ in range(times):
                await self._postman.post(call.callback, make, count=1)

    def _make(self, call: TextCall, form: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        if not self._fates().unsigned:
            headers[SIGNATURE] = sign(call.token, call.callback, form)
        return urlencode(form).encode(), headers

    async def close(self) -> None:
        """Tell no more."""
        await self._postman.close()


def sign(token: str, url: str, form: Mapping[str, str]) -> str:
    """The signature of a request to `url` with this form."""
    signed = url + "".join(f"{name}{form[name]}" for name in sorted(form))
    return base64.b64encode(hmac.digest(token.encode(), signed.encode(), sha1)).decode()


def _form_of(call: TextCall, text: Text) -> dict[str, str]:
    form = {
        "AccountSid": call.account,
        "ApiVersion": "2010-04-01",
        "From": call.sender or _SENDER_OF_SERVICE,
        "MessageSid": text.sid,
        "MessageStatus": text.status,
        "SmsSid": text.sid,
        "SmsStatus": text.status,
        "To": text.to,
    }
    if call.service:
        form["MessagingServiceSid"] = call.service
    if text.error_code:
        form["ErrorCode"] = str(text.error_code)
    if text.status == "delivered":
        form["RawDlrDoneDate"] = f"{text.time:%y%m%d%H%M}"
    return form
