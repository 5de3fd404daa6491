"""The errors that cross a layer, as one tree. A name says what the caller does about it.

    NudgeError
    ├── SetupFault          a person must change something; the message names the fix. Not retried.
    │   └── CampaignMistakes    a campaign file that does not validate: each mistake with its line
    ├── RetryLater          the other side is busy or unwell; `after` says for how long, if it said
    ├── SkipTokenExpired    Graph forgot where we were: the pass starts again, as a new run
    ├── NotOurs             a queue message that no version of this product writes: poison, at once
    ├── Superseded          another run has taken over; what we were doing is dropped without harm
    ├── BadToken            a link that we did not make
    │   └── LinkExpired         one that we made, and whose time is over
    ├── NotRecorded         storage did not take what somebody told us: they are to try again
    └── beside what raises them, in stores and services:
        Conflict, RowsChanged   a conditional write found another state: read, then decide
        OutboxDamaged           contact data are gone or changed: the parcel cannot be sent
        Unsendable              a parcel breaks a provider's limit: it cannot be sent
        SignInFault             an administrator's own sign-in is not enough (a SetupFault)
        BadSignature, BadContent    a webhook's body that nobody we know has signed, or is none

Texts hold no name, address, number or secret: they go to logs, queues and pages as they are.
"""

from __future__ import annotations


class NudgeError(Exception):
    """Base of all errors of this product."""


class SetupFault(NudgeError):
    """Something that only a person can put right.

    Args:
        what: what is wrong.
        fix: what to do about it, as an instruction.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what} Fix: {fix}")
        self.what = what
        self.fix = fix


class RetryLater(NudgeError):
    """The other side cannot answer now.

    Args:
        what: what was seen, in words.
        after: seconds that the other side asked us to wait, or None where it did not say.
    """

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what if after is None else f"{what} (retry after {after:.0f} s)")
        self.what = what
        self.after = after


class SkipTokenExpired(NudgeError):
    """The link of a next page is no longer known to Graph."""


class NotOurs(NudgeError):
    """A queue message that cannot be decoded as one of ours."""


class Superseded(NudgeError):
    """Another run owns what we were working on."""


class BadToken(NudgeError):
    """A sealed link that does not open: altered, or of another purpose or campaign."""


class LinkExpired(BadToken):
    """A sealed link that opens, too late."""


class NotRecorded(NudgeError):
    """What a person told us could not be stored, as far as we know."""
