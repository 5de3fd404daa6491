"""Looks at the address that alumni reach the pages at: a name of the institution's own, that leads
to the app, with a certificate."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from admin.doctor.reach import Names, Refused, read_certificate_end
from admin.doctor.rows import Row, look, missing, ok, unchecked, warning
from admin.doctor.subject import PLATFORM, Subject, find
from shared.settings import is_loopback

_LEAST_LEFT = timedelta(days=14)


async def examine_own_domain(subject: Subject, names: Names, now: datetime) -> list[Row]:
    """The name, its records, its certificate."""
    host = subject.public_host
    what = "custom domain"
    if not host or subject.settings is None:
        return [unchecked(what, "PUBLIC_BASE_URL has a problem", "Correct it first.")]
    if is_loopback(f"https://{host}"):
        return [unchecked(what, "the pages are on this machine")]
    if subject.is_on_platform:
        return [
            missing(
                what,
                f"the pages are on {PLATFORM}, good for dry runs and trials only",
                "Choose a name on your own domain, have its DNS records made, and set "
                "the parameter `customDomain`.",
            )
        ]
    rows = list(_examine_plan(subject, host))
    addresses = await names.addresses(host)
    if not addresses.values:
        target = _app_host(subject) or f"the app's {PLATFORM} name"
        rows.append(
            missing(
                what,
                f"{host} {'has no address' if addresses.exists else 'does not exist'} in DNS",
                f"Have the record made: CNAME {host} to {target}.",
            )
        )
    else:
        rows += await look(what, _examine_target(subject, host, names))
    rows += await look("proof of the custom domain", _examine_proof(subject, host, names))
    if addresses.values:
        address = urlsplit(subject.settings.public_base_url)
        port = (address.port if address.hostname == host else None) or 443
        certificate = _examine_certificate(subject, host, addresses.values, port, now)
        rows += await look("certificate", certificate)
    return rows


def _examine_plan(subject: Subject, host: str) -> Iterator[Row]:
    """How far a name that the app itself serves has come; a proxy's is not our affair."""
    if find(subject.parameters, "customDomain.hostName") != host:
        return
    if find(subject.parameters, "customDomain.stage") == "secure":
        yield ok("`customDomain`", f"serves {host}, with a certificate")
    else:
        yield warning(
            "`customDomain`",
            f"the pages stay on {PLATFORM}, since {host} has no certificate yet",
            "With DNS in place deploy it once with the stage 'bind', from then on with 'secure'.",
        )


async def _examine_target(subject: Subject, host: str, names: Names) -> list[Row]:
    what = "custom domain"
    target = next(iter((await names.ask(host, "CNAME")).values), "")
    wanted = _app_host(subject)
    if target and (target == wanted or (not wanted and target.endswith(f".{PLATFORM}"))):
        return [ok(what, f"{host} leads to {target}")]
    where = f"leads to {target}" if target else "is an address of its own"
    if target.endswith(f".{PLATFORM}"):
        return [
            missing(
                what,
                f"{host} {where}, which is another app",
                f"Have the record changed: CNAME {host} to {wanted}.",
            )
        ]
    return [
        warning(
            what,
            f"{host} {where}, and not to the app",
            "This is right where a gateway of yours stands before the app; else have the record "
            f"changed: CNAME {host} to {wanted or f'its {PLATFORM} name'}.",
        )
    ]


async def _examine_proof(subject: Subject, host: str, names: Names) -> list[Row]:
    """The TXT record by which Azure sees whose name it is: asked when it is bound, and what keeps
    others from taking it over later."""
    what = "proof of the custom domain"
    wanted = subject.outputs.get("CUSTOM_DOMAIN_VERIFICATION_ID", "")
    found = (await names.ask(f"asuid.{host}", "TXT")).values
    fix = f"Have the record made: TXT asuid.{host} with CUSTOM_DOMAIN_VERIFICATION_ID."
    if not found:
        return [missing(what, f"asuid.{host} holds no text", fix)]
    if not wanted:
        return [ok(what, f"asuid.{host} holds a text; whose, is not known here")]
    if wanted.lower() in (text.strip().lower() for text in found):
        return [ok(what, f"asuid.{host} holds the app's")]
    return [missing(what, f"asuid.{host} holds the text of another subscription", fix)]


async def _examine_certificate(
    subject: Subject, host: str, addresses: tuple[str, ...], port: int, now: datetime
) -> list[Row]:
    what = "certificate"
    fix = "Deploy with `customDomain` at the stage 'secure', or renew it where your gateway has it."
    try:
        ends = await read_certificate_end(host, addresses, port)
    except Refused as error:
        return [missing(what, f"{host}: {error}", fix)]
    left = (ends - now) // timedelta(days=1)
    found = f"{host} shows one until {ends:%Y-%m-%d} ({left} days)"
    return [ok(what, found) if ends - now > _LEAST_LEFT else warning(what, found, fix)]


def _app_host(subject: Subject) -> str:
    """The name that the platform gave the app; "" where it is not known."""
    told = subject.outputs
    host = urlsplit(told.get("FUNCTION_APP_URL", "")).hostname or told.get("WEBSITE_HOSTNAME", "")
    return host.lower() if host.lower().endswith(f".{PLATFORM}") else ""
