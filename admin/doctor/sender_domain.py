"""Looks at what a mail server looks at: SPF, DKIM and DMARC of the domain that mails come from.

SPF is judged for the return path. With SendGrid's automated security that is a name such as
em1234.example.edu, which only SendGrid knows: it is looked at where it is given.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from admin.doctor.reach import Names
from admin.doctor.rows import Row, look, missing, ok, unchecked, warning

_SENDGRID = "sendgrid.net"
_MOST_LOOKUPS = 10
"""Of one SPF record, with all that it includes (RFC 7208, section 4.6.4)."""

_AUTHENTICATE = "SendGrid's Sender Authentication names the records (docs/senders.md)"


async def examine_sender_domain(
    domain: str, names: Names, *, selectors: Sequence[str], return_path: str
) -> list[Row]:
    """SPF, DKIM and DMARC of one domain, a row each.

    Args:
        selectors: names of the DKIM keys.
        return_path: the host of bounces at SendGrid; "" where it was not given.
    """
    found = await asyncio.gather(
        look(f"SPF of {domain}", _examine_spf(domain, names, selectors, return_path)),
        look(f"DKIM of {domain}", _examine_dkim(domain, names, selectors)),
        look(f"DMARC of {domain}", _examine_dmarc(domain, names)),
    )
    return [row for rows in found for row in rows]


# SPF


async def _examine_spf(
    domain: str, names: Names, selectors: Sequence[str], return_path: str
) -> list[Row]:
    what = f"SPF of {domain}"
    if return_path:
        return [await _examine_return_path(what, return_path, names)]
    first = await names.ask(domain, "TXT")
    if not first.exists:
        return [
            missing(what, "there is no such domain", "Correct `sender.email`, or make the domain.")
        ]
    policies = [text for text in first.values if _is_spf(text)]
    if len(policies) > 1:
        return [
            missing(
                what,
                f"{len(policies)} records v=spf1, where there may be one: servers take it for none",
                "Merge them into one.",
            )
        ]
    if policies:
        asked: set[str] = {domain}
        if await _includes_sendgrid(policies[0], names, asked):
            return [ok(what, f"includes {_SENDGRID}")]
        if len(asked) > _MOST_LOOKUPS:
            return [
                missing(
                    what,
                    f"it takes more than {_MOST_LOOKUPS} lookups: servers take it for an error",
                    "Remove what it includes and nobody sends through.",
                )
            ]
    # Whose keys SendGrid keeps, their return path is a name of its own, which answers for itself.
    keys = await asyncio.gather(
        *(names.ask(f"{selector}._domainkey.{domain}", "CNAME") for selector in selectors)
    )
    if any(_under(target, _SENDGRID) for key in keys for target in key.values):
        return [
            unchecked(
                what,
                "with SendGrid's automated security the return path (em…) has it, and only "
                "SendGrid knows that name",
                f"Give it by --return-path: {_AUTHENTICATE}.",
            )
        ]
    return [
        missing(
            what,
            f"nothing lets {_SENDGRID} send for it" if policies else "no record v=spf1",
            f"Authenticate the domain with automated security ({_AUTHENTICATE}), or add "
            f"`include:{_SENDGRID}` to its record.",
        )
    ]


async def _examine_return_path(what: str, host: str, names: Names) -> Row:
    target = await names.ask(host, "CNAME")
    if any(_under(one, _SENDGRID) for one in target.values):
        return ok(what, f"{host} leads to SendGrid, which answers for it")
    texts = await names.ask(host, "TXT")
    for text in filter(_is_spf, texts.values):
        if await _includes_sendgrid(text, names, {host}):
            return ok(what, f"{host} includes {_SENDGRID}")
    return missing(
        what,
        f"{host} {_seen(texts.exists)} and does not lead to SendGrid",
        f"Add the CNAME for it: {_AUTHENTICATE}.",
    )


async def _includes_sendgrid(policy: str, names: Names, asked: set[str]) -> bool:
    """Whether a policy lets SendGrid send, by itself or by what it includes. `asked` are the names
    that were looked at, for the limit."""
    for part in policy.split()[1:]:
        name = re.sub(r"^(\+?include:|redirect=)", "", part.lower())
        if name == part.lower() or "%" in name:
            continue
        if _under(name, _SENDGRID):
            return True
        if name in asked or len(asked) > _MOST_LOOKUPS:
            continue
        asked.add(name)
        for text in filter(_is_spf, (await names.ask(name, "TXT")).values):
            if await _includes_sendgrid(text, names, asked):
                return True
    return False


def _is_spf(text: str) -> bool:
    return text.lower().split(" ", 1)[0] == "v=spf1"


# DKIM


async def _examine_dkim(domain: str, names: Names, selectors: Sequence[str]) -> list[Row]:
    what = f"DKIM of {domain}"
    keys = await asyncio.gather(
        *(_examine_key(f"{selector}._domainkey.{domain}", names) for selector in selectors)
    )
    wrong = [key for key in keys if key]
    if not wrong:
        return [ok(what, f"{' and '.join(selectors)} hold a key")]
    return [
        missing(
            what,
            "; ".join(wrong),
            f"Add the CNAMEs for it: {_AUTHENTICATE}. Then press Verify there. Where the keys have "
            "other names, give them by --dkim.",
        )
    ]


async def _examine_key(host: str, names: Names) -> str:
    """What is wrong with a key, or "" where nothing is."""
    texts, target = await asyncio.gather(names.ask(host, "TXT"), names.ask(host, "CNAME"))
    if any(re.search(r"(^|;)\s*p=\s*[A-Za-z0-9+/]", text) for text in texts.values):
        return ""
    if any(re.search(r"(^|;)\s*p=\s*(;|$)", text) for text in texts.values):
        return f"{host} holds a key that was withdrawn"
    if target.values:
        return f"{host} leads to {target.values[0]}, where there is no key"
    return f"{host} {_seen(texts.exists)}{' and no key' if texts.exists else ''}"


# DMARC


async def _examine_dmarc(domain: str, names: Names) -> list[Row]:
    """The domain's policy, or that of the nearest domain above it (RFC 7489 has it so for the
    organisation's domain, and RFC 9989 for the tree)."""
    what = f"DMARC of {domain}"
    labels = domain.split(".")
    for above in range(max(1, len(labels) - 1)):
        place = ".".join(labels[above:])
        texts = (await names.ask(f"_dmarc.{place}", "TXT")).values
        policies = [text for text in texts if re.match(r"v=DMARC1\s*(;|$)", text, re.IGNORECASE)]
        if len(policies) > 1:
            return [
                missing(
                    what,
                    f"_dmarc.{place} holds {len(policies)} policies: servers take it for none",
                    "Keep one of them.",
                )
            ]
        if policies:
            return [_judge_policy(what, policies[0], place, inherited=above > 0)]
    return [
        missing(
            what,
            f"_dmarc.{domain} holds no policy, nor does a domain above it: Gmail, Yahoo and "
            "Outlook refuse mail in large numbers without one",
            f'Add the TXT record _dmarc.{domain} "v=DMARC1; p=none; rua=mailto:…", and read the '
            "reports.",
        )
    ]


def _judge_policy(what: str, text: str, place: str, *, inherited: bool) -> Row:
    tags = {
        name.strip().lower(): value.strip().lower()
        for name, _, value in (part.partition("=") for part in text.split(";"))
    }
    policy = (inherited and tags.get("sp")) or tags.get("p", "")
    of = f" (that of {place})" if inherited else ""
    if policy not in ("none", "quarantine", "reject"):
        return missing(
            what, f"its policy{of} is none that there is", "Write p=none, quarantine or reject."
        )
    if policy == "none":
        return ok(what, f"policy none{of}: watched, and nothing refused")
    if "s" in (tags.get("aspf"), tags.get("adkim")):
        return warning(
            what,
            f"policy {policy}{of}, with strict alignment",
            "Send a trial to Gmail and look for dmarc=pass: SendGrid's return path is a subdomain.",
        )
    return ok(what, f"policy {policy}{of}")


def _under(name: str, domain: str) -> bool:
    name = name.removesuffix(".").lower()
    return name == domain or name.endswith(f".{domain}")


def _seen(exists: bool) -> str:
    return "is there" if exists else "does not exist"
