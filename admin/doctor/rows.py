"""One row of the table, and how a look that gets no answer becomes one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Literal

import aiohttp
import msgspec
from azure.core.exceptions import AzureError, HttpResponseError

LOOK_SECONDS = 15.0
"""The most that one look takes. They run side by side, so that the table is there soon after."""

type State = Literal["ok", "missing", "warning", "not checked"]


class Row(msgspec.Struct, frozen=True):
    """What was looked at.

    Attributes:
        state: missing: live sending needs it, or goes wrong without. warning: it works, and
            somebody should know. not checked: `found` says why not.
        what: what was looked at, in a few words.
        found: what was seen. No secret, no address of a person.
        fix: what to do, as an instruction; "" where there is nothing to do.
    """

    state: State
    what: str
    found: str
    fix: str = ""


def ok(what: str, found: str, fix: str = "") -> Row:
    return Row("ok", what, found, fix)


def missing(what: str, found: str, fix: str) -> Row:
    return Row("missing", what, found, fix)


def warning(what: str, found: str, fix: str) -> Row:
    return Row("warning", what, found, fix)


def unchecked(what: str, found: str, fix: str = "") -> Row:
    return Row("not checked", what, found, fix)


class Unanswered(Exception):
    """A look that got no answer: why, and what would let it have one."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix


async def look(what: str, rows: Awaitable[Iterable[Row]]) -> list[Row]:
    """The rows of one look, or the one that says why there are none."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return list(await rows)
    except Unanswered as error:
        return [unchecked(what, error.why, error.fix)]
    except TimeoutError:
        return [unchecked(what, f"no answer within {LOOK_SECONDS:.0f} s", "Try it again later.")]
    except (AzureError, aiohttp.ClientError, OSError) as error:
        return [unchecked(what, f"it cannot be reached ({name_error(error)})", TRY_FROM_ELSEWHERE)]


SIGN_IN = "Sign in with `az login`, to the tenant and subscription that are meant."
TRY_FROM_ELSEWHERE = "Look at the network between here and there, or run this from elsewhere."


def name_error(error: BaseException) -> str:
    """An error's kind. Its text may quote what it was asked, or an answer."""
    status = error.status_code if isinstance(error, HttpResponseError) else None
    return f"{type(error).__name__}, HTTP {status}" if status else type(error).__name__


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
