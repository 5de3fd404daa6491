"""`nudge survey`: the numbers of your own tenant, before anything is deployed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from admin.environment import add_target, answer
from admin.sign_in import make_sign_in
from local.system import find_running_system
from shared.clock import monotonic
from shared.errors import SetupFault
from shared.rules.campaign import Audience, Contact, parse_campaign
from shared.services.directory import Directory, SignInFault
from shared.workflows.status_words import count_things, name_channel
from shared.workflows.survey import (
    FEW,
    Figures,
    Groups,
    MailDomains,
    Population,
    Progress,
    Survey,
    SurveyWorkflow,
    population_of,
)

CAMPAIGN = Path("campaign.yaml")
GRAPH = "https://graph.microsoft.com/v1.0"
_AUTHS = ("managed", "default", "anonymous")

_DESCRIPTION = """\
Reads the registration report and the audience of your own tenant, as the product will, and counts.
Stores nothing, sends nothing, needs nothing deployed: your own sign-in is enough, that of `az
login` or another that azure-identity finds. You need a role such as Reports Reader or Global
Reader. At 300,000 accounts Graph's limit makes it ten minutes."""


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "survey",
        help="the numbers of your tenant, before anything is deployed",
        description=_DESCRIPTION,
    )
    add = parser.add_argument
    whom = parser.add_mutually_exclusive_group()
    whom.add_argument(
        "--campaign", type=Path, metavar="FILE", help=f"a campaign file ({CAMPAIGN}, where it is)"
    )
    whom.add_argument("--group", metavar="ID", help="in its place: object id of a group")
    whom.add_argument("--filter", metavar="FILTER", help="or a Graph filter on users")
    add(
        "--exclude",
        action="append",
        metavar="ID",
        help="with these: a group that is left out; more than once for more",
    )
    add("--guests", action="store_true", help="with these: count guests, too")
    add("--capable", action="store_true", help="with these: done is who may use a method, too")
    add("--region", metavar="HK", help="with these: of numbers without a country code")
    add(
        "--sign-in",
        choices=("browser", "device"),
        help="ask for a sign-in here, in place of `az login`: for the permissions needed, no more",
    )
    add("--tenant", metavar="ID", help="with --sign-in: the tenant, where it is not your account's")
    add("--client-id", metavar="ID", help="with --sign-in: an app registration of your own")
    add_target(parser)
    parser.set_defaults(run=run_survey)


async def run_survey(given: argparse.Namespace) -> int:
    population = _population(given)
    directory = await _open_directory(given)
    try:
        with contextlib.closing(ProgressLine()) as line:
            survey = await SurveyWorkflow(directory, line.show).survey(population)
    except SignInFault as fault:
        raise SetupFault(fault.what, f"{fault.fix} {_other_way(given)}") from None
    finally:
        await directory.close()
    return answer(given, format_survey(survey), survey)


def _other_way(given: argparse.Namespace) -> str:
    if given.sign_in:
        return "The app that you sign in through needs an administrator's consent to it, once."
    return (
        "Or add `--sign-in browser` (or `device`): it asks for the permissions that are needed,"
        " and for nothing else."
    )


async def _open_directory(given: argparse.Namespace) -> Directory:
    environment = _environment(given)
    base_url = environment.get("GRAPH_BASE_URL") or GRAPH
    auth = environment.get("GRAPH_AUTH") or "default"
    if auth not in _AUTHS:
        raise SetupFault(
            f"GRAPH_AUTH must be one of {', '.join(_AUTHS)}.", "Leave it out: `default` it is then."
        )
    if not given.sign_in:
        return Directory(base_url, auth)
    host = urlsplit(base_url).hostname or ""
    sign_in = make_sign_in(given.sign_in, host, tenant=given.tenant, client=given.client_id)
    directory = Directory(base_url, "default", credential=sign_in)
    await sign_in.sign_in()
    return directory


def _environment(given: argparse.Namespace) -> Mapping[str, str]:
    if not given.local:
        return os.environ
    found = find_running_system()
    if found is None:
        raise SetupFault("No local system runs here.", "Start one with `make run`.")
    return found.values


def _population(given: argparse.Namespace) -> Population:
    """Who is to be counted, by the campaign file or by the words of the call."""
    if given.group or given.filter:
        return _described(given)
    if given.exclude or given.guests or given.capable or given.region:
        raise SetupFault(
            "--exclude, --guests, --capable and --region go with --group or --filter.",
            "Write it into the campaign file, or name the audience by one of them.",
        )
    file: Path | None = given.campaign or (CAMPAIGN if CAMPAIGN.is_file() else None)
    if file is None:
        raise SetupFault(
            f"Nobody is named: there is no {CAMPAIGN} here.",
            "Give --campaign FILE, --group ID or --filter FILTER.",
        )
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupFault(
            f"{file} cannot be read ({type(error).__name__}).", "Name a file of text in UTF-8."
        ) from None
    return population_of(parse_campaign(text, file=file.name, allowed=None))


def _described(given: argparse.Namespace) -> Population:
    try:
        audience = Audience(
            group=given.group,
            filter=given.filter,
            exclude=tuple(given.exclude or ()),
            guests=given.guests,
        )
        contact = Contact(default_region=given.region)
    except ValidationError as error:
        names = {"default_region": "region"}
        wrong = sorted({str(one["loc"][0]) for one in error.errors(include_input=False)})
        raise SetupFault(
            "These words are off: " + ", ".join(f"--{names.get(one, one)}" for one in wrong) + ".",
            "Groups go by their object ids, a region by its two letters of ISO 3166.",
        ) from None
    done_when = "capable" if given.capable else "registered"
    return Population(audience, done_when, contact)


# while it runs

_TERMINAL_SECONDS, _LOG_SECONDS = 0.2, 30.0


class ProgressLine:
    """How far it is, on standard error: on a terminal one line that is written over, else a line
    now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_at = monotonic() if not self._terminal else float("-inf")

    def show(self, progress: Progress) -> None:
        if progress.news:
            self._write(progress.news, ends=True)
        every = _TERMINAL_SECONDS if self._terminal else _LOG_SECONDS
        if monotonic() - self._shown_at >= every:
            self._shown_at = monotonic()
            self._write(describe(progress), ends=not self._terminal)

    def close(self) -> None:
        if self._terminal:
            self._write("", ends=False)

    def _write(self, text: str, *, ends: bool) -> None:
        start = "\r\x1b[K" if self._terminal else ""
        sys.stderr.write(f"{start}{text}{'\n' if ends else ''}")
        sys.stderr.flush()


def describe(progress: Progress) -> str:
    """How far a survey is, in one line."""
    report, audience, *exclusions = progress.passes
    if progress.counted:
        return f"counted {progress.counted:,} of {audience.rows:,}"
    told = [f"report {_rows(report.rows, report.done)}"]
    if progress.users and not report.done:
        told[0] += f" of about {progress.users:,}"
    told.append(f"audience {_rows(audience.rows, audience.done)}")
    if exclusions:
        rows = sum(one.rows for one in exclusions)
        told.append(f"exclusions {_rows(rows, all(one.done for one in exclusions))}")
    if (left := progress.seconds_left) is not None:
        told.append(f"about {_format_wait(left)} left")
    return ", ".join(told)


def _rows(rows: int, done: bool) -> str:
    return f"{rows:,} (all)" if done else f"{rows:,}"


def _format_wait(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


# what it found


def format_survey(survey: Survey) -> str:
    """The figures as a person reads them on a terminal."""
    total = survey.total
    lines = [
        f"{survey.audience[:1].upper()}{survey.audience[1:]}: {total.people:,} accounts. "
        "Nothing was stored or sent.",
        "",
        *_format_total(survey),
        "",
        *_format_groups("account domain", survey.account_domains),
        "",
        *_format_groups("language", survey.languages),
    ]
    if total.by_email:
        lines += ["", *_format_domains(survey.mail_domains, total.by_email)]
    lines += ["", *_format_reading(survey)]
    return "\n".join(lines)


def _format_total(survey: Survey) -> Iterator[str]:
    total = survey.total
    done = "registered" if survey.done_when == "registered" else "registered, and may use it"

    def line(name: str, people: int, of: int = total.people, note: str = "") -> str:
        share = f"{100 * people / of:5.1f} %" if of else ""
        return f"{name:<46}{people:>10,}  {share:>7}{note}".rstrip()

    yield f"{'':<46}{'people':>10}  {'share':>7}"
    yield line(done, total.registered)
    yield line("unregistered: whom a campaign writes to", total.unregistered)
    yield line("  reachable by email", total.by_email, total.unregistered, " of these")
    yield line("  reachable by SMS", total.by_sms, total.unregistered)
    yield line(
        "    by SMS only",
        total.unregistered - total.by_email - total.by_neither,
        total.unregistered,
    )
    yield line("  reachable by neither", total.by_neither, total.unregistered)
    yield line("unknown: the report has no row of them", total.unknown)
    yield line("unrecognised: only methods we do not know", total.unrecognised)
    yield line("excluded", total.excluded)
    for reason, people in survey.reasons.items():
        yield line(f"  {reason}", people)
    if survey.unreachable != total.by_neither:
        names = " or ".join(map(name_channel, survey.channels))
        yield ""
        yield (
            f"The campaign writes by {names} alone: "
            f"{survey.unreachable:,} of the unregistered cannot be reached so."
        )


_COLUMNS: dict[str, Callable[[Figures], int]] = {
    "people": lambda one: one.people,
    "registered": lambda one: one.registered,
    "unregistered": lambda one: one.unregistered,
    "email": lambda one: one.by_email,
    "SMS": lambda one: one.by_sms,
    "neither": lambda one: one.by_neither,
    "not known": lambda one: one.unknown + one.unrecognised,
    "excluded": lambda one: one.excluded,
}


def _format_groups(what: str, groups: Groups) -> Iterator[str]:
    def row(name: str, cells: Iterable[str]) -> str:
        columns = zip(cells, _COLUMNS, strict=True)
        return f"{_fit(name, 24)}" + "".join(
            f"{cell:>{max(len(title), 7) + 2}}" for cell, title in columns
        )

    yield row(f"by {what}", _COLUMNS)
    for name, figures in groups.largest.items():
        yield row(name or "(none)", (f"{count(figures):,}" for count in _COLUMNS.values()))
    if groups.names:
        name = f"({count_things(groups.names, 'other')})"
        yield row(name, (f"{count(groups.rest):,}" for count in _COLUMNS.values()))


def _format_domains(domains: MailDomains, of: int) -> Iterator[str]:
    yield f"{'mail domains of the unregistered':<46}{'people':>10}  {'share':>7}"
    for name, people in domains.largest.items():
        yield f"{_fit(name, 46)}{people:>10,}  {100 * people / of:5.1f} %"
    if domains.names:
        name = f"({count_things(domains.names, 'other')})"
        yield f"{name:<46}{domains.rest:>10,}  {100 * domains.rest / of:5.1f} %"


def _fit(name: str, width: int) -> str:
    """A name of the directory's, in its column, without what a terminal would obey."""
    plain = "".join(one if one.isprintable() else "?" for one in name)
    return f"{plain if len(plain) < width else plain[: width - 2] + '…':<{width}}"


def _format_reading(survey: Survey) -> Iterator[str]:
    told = (
        f"Read {count_things(survey.requests, 'page')} in {_format_wait(survey.seconds)}; the "
        f"tenant's report has {count_things(survey.report_rows, 'row')}."
    )
    if survey.refused:
        told += f" Graph put {count_things(survey.refused, 'request')} off."
    if survey.restarts:
        told += f" {count_things(survey.restarts, 'list')} had to be read anew."
    if survey.unreadable:
        told += f" {count_things(survey.unreadable, 'row')} could not be read and are left out."
    yield told
    yield f"Names with fewer than {FEW} people are counted together, as others."
