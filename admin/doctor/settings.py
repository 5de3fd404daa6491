"""Looks at the settings themselves: each problem of them is a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

from admin.doctor.rows import Row, missing, ok, unchecked, warning
from admin.doctor.subject import PARAMETERS, SECRETS, Subject, find
from shared.rules.contact import usable_email

_PROBLEM = re.compile(r"([\w.]+)[:,]?\s*(.*)", re.DOTALL)


def examine_settings(subject: Subject) -> Iterator[Row]:
    """All problems of the settings at once, or one row that says there are none."""
    plan = subject.kind == "plan"
    found = [_row_of(subject, problem) for problem in subject.problems]
    # The Functions host reads it itself, and knows no default.
    if not plan and "SWEEP_SCHEDULE" not in subject.names | subject.faulty:
        found.append(
            missing(
                "SWEEP_SCHEDULE",
                "not set, and the host's timer has no default for it",
                "Set it, such as `0 0 20 * * *` (UTC), and before the window opens.",
            )
        )
    found += [
        missing(
            name,
            "not set, and the parameter file asks for it",
            f"`azd env set {name} …`, or set it in this environment.",
        )
        for name in subject.unset
    ]
    found += _examine_budget(subject)
    found += [
        missing(
            PARAMETERS[name] if plan else name,
            f"names none: a live campaign has no {of} that it may use",
            f"Set the parameter `{PARAMETERS[name]}`" + ("." if plan else ", and deploy again."),
        )
        for name, of in (("ALLOWED_SENDERS", "sender"), ("ALLOWED_LINK_HOSTS", "link"))
        if name not in {*subject.names, *subject.faulty, *subject.unset}
    ]
    yield from found
    if not found:
        what = "parameters" if plan else "settings"
        kept = len(subject.references)
        yield ok(what, f"usable{f'; {kept} are kept in Key Vault' if kept else ''}")


def _row_of(subject: Subject, problem: str) -> Row:
    match = _PROBLEM.fullmatch(problem)
    name, text = (match[1], match[2].removesuffix(".")) if match else ("settings", problem)
    if subject.kind == "plan":
        return missing(name, text, f"Correct the parameter `{name}`.")
    if secret := SECRETS.get(name):
        fix = f"Put it into Key Vault as `{secret}` (infra/set-secrets.sh), and the reference here."
        return missing(name, text, fix)
    if parameter := PARAMETERS.get(name):
        return missing(name, text, f"Correct the parameter `{parameter}`, and deploy again.")
    return missing(name, text, f"Correct the app setting {name}.")


def _examine_budget(subject: Subject) -> Iterator[Row]:
    start = find(subject.parameters, "budget.startDate")
    if isinstance(start, str) and start and not re.fullmatch(r"\d{4}-\d\d-01(T.*)?", start):
        yield missing(
            "budget.startDate",
            "is not the first of a month, which Azure insists on",
            "Write the first day of this month, and never change it afterwards.",
        )


def examine_alarm_parameter(subject: Subject) -> Iterator[Row]:
    """Of a plan: whether an alarm would reach anybody."""
    given = find(subject.parameters, "alertEmails")
    listed = cast("list[object]", given) if isinstance(given, list) else []
    addresses = [one for one in listed if isinstance(one, str) and one.strip()]
    usable = [one for one in addresses if usable_email(one)]
    if len(usable) < len(addresses):
        yield missing(
            "receivers of alarms",
            "`alertEmails` holds something that is not an email address",
            "Correct it: Azure takes it, and nobody is told.",
        )
    elif not usable:
        yield missing(
            "receivers of alarms",
            "`alertEmails` names nobody",
            "Name a mailbox there that somebody reads on working days.",
        )
    else:
        yield ok("receivers of alarms", f"{len(usable)} in `alertEmails`")
    if not str(find(subject.parameters, "runbookUrl") or "").startswith("https://"):
        yield warning(
            "link of the alarms",
            "`runbookUrl` is no address: what the mail of an alarm names cannot be clicked",
            "Name docs/runbook.md in your own copy of the repository, with https://.",
        )


def examine_webhook_key(subject: Subject) -> Iterator[Row]:
    """Whether receipts of SendGrid can be verified; without the key none is taken."""
    name, what = "SENDGRID_WEBHOOK_PUBLIC_KEY", "webhook key"
    how = (
        "Make an Event Webhook at SendGrid that leads to /callbacks/sendgrid, switch its signature "
        f"on, give its key to the parameter `{PARAMETERS[name]}`, and deploy again "
        "(docs/senders.md)."
    )
    if name in subject.faulty:
        yield unchecked(what, f"{name} has a problem", "Correct it first.")
    elif name in subject.references:
        yield ok(what, "kept in Key Vault")
    elif name in subject.names:
        yield ok(what, "set")
    elif subject.kind == "plan":
        yield unchecked(what, "SendGrid makes it when the app is there", how)
    else:
        yield missing(what, "not set: no receipt is taken, so that bounces stay unknown", how)
