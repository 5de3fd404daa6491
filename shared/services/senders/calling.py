"""The call of any sender: made once, and what its failure proves whoever the provider is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from shared.services.http import Answer, HttpClient, NotSent, NotStarted, Unclear
from shared.services.senders import Ambiguous, Refused, RefusedReason
from shared.telemetry import note_refusal


async def call_once(
    http: HttpClient,
    url: str,
    *,
    provider: Literal["SendGrid", "Twilio"],
    headers: Mapping[str, str],
    body: bytes,
    may_start: Callable[[], bool],
    timeout: float,
) -> Answer | Refused | Ambiguous:
    """Make the call. An answer is for its sender to read; what comes without one is the outcome.

    Args:
        provider: its name, for people.
        may_start, timeout: as for `HttpClient.post`.
    """
    try:
        answer = await http.post(
            url, headers=headers, body=body, may_start=may_start, timeout=timeout
        )
    except NotStarted as error:
        return Refused(reason=RefusedReason.NOT_STARTED, detail=str(error))
    except NotSent as error:
        return Refused(reason=RefusedReason.UNREACHABLE, detail=f"{provider}: {error}")
    except Unclear as error:
        return Ambiguous(f"{provider}: {error}")
    note_refusal(provider, answer.status)
    return answer


def setup_fault(said: str, fix: str) -> Refused:
    """A refusal that a person must see to; `fix` is an instruction, without a full stop."""
    return Refused(reason=RefusedReason.SETUP, detail=f"{said}. Fix: {fix}")
