"""A committed sweep whose pages were written straight into storage, without Graph."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import batched

from local.roster import Person, Roster
from local.tenant import ALUMNI_GROUP
from shared.rules.registration import Account, ReportRow, pack_registration
from shared.services.directory import GroupMembers, RegistrationReport
from shared.stores.pages import run_prefix
from shared.stores.queues import PlanShard
from tests.bench.bed import Bench
from tests.world import FORTNIGHT, NAME

_ROSTER_PAGE, _REPORT_PAGE = 999, 1000
_NOTHING = pack_registration(ReportRow("", False, False, ()))


async def write_sweep(bench: Bench, alumni: int, *, early: bool = False) -> list[PlanShard]:
    """Commit a sweep of so many alumni. Returns the messages that ask for its planning.

    Args:
        early: nobody has registered yet, so that nine of ten are due a mail.
    """
    app = bench.app
    standing = (await app.book.refresh(accept=True)).standings[NAME]
    deadline = standing.campaign.deadline_at
    roster = Roster(alumni=alumni, others=0, deadline=deadline, domain="connect.example.edu")
    members, report = GroupMembers(ALUMNI_GROUP), RegistrationReport()
    sweep = await app.stores.sweeps.open([(report.name, ""), (members.name, ALUMNI_GROUP)])
    assert sweep is not None
    pages: dict[str, int] = {}
    prefix = run_prefix(sweep.number, members.name, 1)
    pages[members.name] = _count(alumni, _ROSTER_PAGE)
    for number, people in enumerate(batched(_people(roster), _ROSTER_PAGE, strict=False)):
        link = None if number + 1 == pages[members.name] else "more"
        accounts = [_account(person) for person in people]
        await app.stores.pages.write_roster(prefix, number, accounts, link, len(accounts), 0)
    prefix = run_prefix(sweep.number, report.name, 1)
    pages[report.name] = _count(alumni, _REPORT_PAGE)
    for number, people in enumerate(batched(_people(roster), _REPORT_PAGE, strict=False)):
        link = None if number + 1 == pages[report.name] else "more"
        rows = [
            (_id(person), _NOTHING if early else _code(person))
            for person in people
            if person.reported
        ]
        await app.stores.pages.write_report(prefix, number, rows, link, 0)
    assert await app.stores.sweeps.commit(sweep, pages)
    return [PlanShard(NAME, shard, sweep.number, standing.version) for shard in range(16)]


def _people(roster: Roster) -> Iterator[Person]:
    return map(roster.person, range(len(roster)))


def _count(rows: int, page: int) -> int:
    return max(1, -(-rows // page))


def _id(person: Person) -> bytes:
    return bytes.fromhex(person.id.replace("-", ""))


def _account(person: Person) -> Account:
    return Account(
        _id(person),
        person.user_principal_name,
        person.display_name,
        person.account_enabled,
        person.user_type,
        person.mail,
        person.other_mails,
        person.mobile_phone,
        person.preferred_language,
    )


def _code(person: Person) -> int:
    standing = person.standing(FORTNIGHT.timestamp())
    return pack_registration(
        ReportRow(person.id, standing.registered, standing.capable, standing.methods)
    )
