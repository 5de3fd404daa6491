"""What the doctor says of the sender's domain and of the pages' own: by DNS messages and TLS
handshakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from admin.doctor.rows import Row
from tests.admin.diagnosing import (
    APP_HOST,
    HOST,
    RIGHT,
    VERIFICATION,
    Zone,
    closed_port,
    diagnose,
    find,
    right_zone,
    running_dns,
    running_tls,
    settings_file,
)

DOMAIN = "its.hku.hk"
SPF, DKIM, DMARC = (f"{kind} of {DOMAIN}" for kind in ("SPF", "DKIM", "DMARC"))
PROOF = "proof of the custom domain"


async def rows_of(zone: Zone, directory: Path, *words: object, **more: str) -> list[Row]:
    path = settings_file(directory, {**RIGHT, **more})
    async with running_dns(zone) as dns:
        return await diagnose("--env", path, "--nameserver", dns, *words)


# what mails are trusted by


async def test_a_domain_that_is_set_up(tmp_path: Path) -> None:
    rows = await rows_of(right_zone(), tmp_path)
    assert [find(rows, what).state for what in (SPF, DKIM, DMARC)] == ["ok"] * 3


@pytest.mark.parametrize(
    ("texts", "state", "says"),
    [
        (['"v=spf1 include:sendgrid.net ~all"'], "ok", "includes sendgrid.net"),
        (['"v=spf1 +include:u7.wl.SendGrid.net -all"', '"else"'], "ok", "includes sendgrid.net"),
        (['"v=spf1 include:spf.its.hku.hk -all"'], "ok", "includes sendgrid.net"),
        (['"v=spf1 redirect=spf.its.hku.hk"'], "ok", "includes sendgrid.net"),
        (['"v=spf1 include:" "sendgrid.net -all"'], "ok", "includes sendgrid.net"),
        (['"v=spf1 mx -all"'], "missing", "nothing lets sendgrid.net send for it"),
        (['"v=spf1 include:notsendgrid.net -all"'], "missing", "nothing lets sendgrid.net send"),
        (['"v=spf1 include:itself.hku.hk -all"'], "missing", "nothing lets sendgrid.net send"),
        (['"v=spf1 include:deep0.hku.hk -all"'], "missing", "more than 10 lookups"),
        (['"v=spf10 include:sendgrid.net"'], "missing", "no record v=spf1"),
        (['"v=spf1 mx"', '"v=spf1 include:sendgrid.net"'], "missing", "2 records v=spf1"),
        (None, "missing", "no record v=spf1"),
    ],
)
async def test_spf(texts: list[str] | None, state: str, says: str, tmp_path: Path) -> None:
    zone = right_zone()
    del zone.records[DOMAIN, "TXT"]
    if texts:
        zone.records[DOMAIN, "TXT"] = texts
    zone.records["spf.its.hku.hk", "TXT"] = ['"v=spf1 ip4:192.0.2.1 include:sendgrid.net -all"']
    zone.records["itself.hku.hk", "TXT"] = ['"v=spf1 include:itself.hku.hk -all"']
    for number in range(12):
        zone.records[f"deep{number}.hku.hk", "TXT"] = [f'"v=spf1 include:deep{number + 1}.hku.hk"']
    for name in ("s1", "s2"):  # keys of the domain's own: the return path is the domain itself
        del zone.records[f"{name}._domainkey.{DOMAIN}", "CNAME"]
    row = find(await rows_of(zone, tmp_path), SPF)
    assert row.state == state
    assert says in row.found


async def test_spf_of_automated_security_is_at_the_return_path(tmp_path: Path) -> None:
    zone = right_zone()
    zone.records[DOMAIN, "TXT"] = ['"v=spf1 mx -all"']
    row = find(await rows_of(zone, tmp_path), SPF)
    assert (row.state, "--return-path" in row.fix) == ("not checked", True)

    zone.records["em1234.its.hku.hk", "CNAME"] = ["u1.wl.sendgrid.net."]
    rows = await rows_of(zone, tmp_path, "--return-path", "em1234.its.hku.hk")
    assert find(rows, SPF).state == "ok"
    rows = await rows_of(zone, tmp_path, "--return-path", "em9.its.hku.hk")
    assert find(rows, SPF).state == "missing"
    assert "em9.its.hku.hk does not exist" in find(rows, SPF).found


async def test_a_domain_that_nobody_has(tmp_path: Path) -> None:
    rows = await rows_of(Zone(), tmp_path)
    assert [find(rows, what).state for what in (SPF, DKIM, DMARC)] == ["missing"] * 3
    assert find(rows, SPF).found == "there is no such domain"
    assert "s1._domainkey.its.hku.hk does not exist" in find(rows, DKIM).found


async def test_dkim_that_is_half_there(tmp_path: Path) -> None:
    zone = right_zone()
    del zone.records["s2.domainkey.u1.wl.sendgrid.net", "TXT"]
    row = find(await rows_of(zone, tmp_path), DKIM)
    assert (row.state, row.found) == (
        "missing",
        "s2._domainkey.its.hku.hk leads to s2.domainkey.u1.wl.sendgrid.net, where there is no key",
    )
    zone.records["s2.domainkey.u1.wl.sendgrid.net", "TXT"] = ['"v=DKIM1; p="']
    assert "withdrawn" in find(await rows_of(zone, tmp_path), DKIM).found


async def test_dkim_under_names_of_ones_own(tmp_path: Path) -> None:
    zone = right_zone()
    zone.records["m1._domainkey.its.hku.hk", "TXT"] = ['"k=rsa; p=MIGf"']
    assert find(await rows_of(zone, tmp_path, "--dkim", "m1"), DKIM).state == "ok"
    assert find(await rows_of(zone, tmp_path, "--dkim", "m1,m2"), DKIM).state == "missing"


@pytest.mark.parametrize(
    ("place", "texts", "state", "says"),
    [
        ("its.hku.hk", ['"v=DMARC1;p=reject"'], "ok", "policy reject"),
        ("its.hku.hk", ['"v=DMARC1; p=none"'], "ok", "nothing refused"),
        ("hku.hk", ['"v=DMARC1; p=none; sp=reject"'], "ok", "policy reject (that of hku.hk)"),
        ("hku.hk", ['"v=DMARC1; p=quarantine"'], "ok", "policy quarantine (that of hku.hk)"),
        ("hk", ['"v=DMARC1; p=reject"'], "missing", "holds no policy"),
        ("its.hku.hk", ['"v=DMARC1; p=reject; aspf=s"'], "warning", "strict alignment"),
        ("its.hku.hk", ['"v=DMARC1; p=all"'], "missing", "none that there is"),
        ("its.hku.hk", ['"v=DMARC1; p=none"', '"v=DMARC1; p=reject"'], "missing", "2 policies"),
        ("its.hku.hk", ['"v=DMARC10; p=none"'], "missing", "holds no policy"),
    ],
)
async def test_dmarc(place: str, texts: list[str], state: str, says: str, tmp_path: Path) -> None:
    zone = right_zone()
    del zone.records[f"_dmarc.{DOMAIN}", "TXT"]
    zone.records[f"_dmarc.{place}", "TXT"] = texts
    row = find(await rows_of(zone, tmp_path), DMARC)
    assert row.state == state
    assert says in row.found


async def test_no_answer_is_not_the_same_as_no_record(tmp_path: Path) -> None:
    zone = right_zone()
    zone.silent = {DOMAIN}
    zone.broken = {f"_dmarc.{DOMAIN}"}
    rows = await rows_of(zone, tmp_path)
    assert (find(rows, SPF).state, find(rows, DMARC).state) == ("not checked", "not checked")
    assert find(rows, SPF).found == "DNS did not answer in time for its.hku.hk"
    assert find(rows, DMARC).found == "no DNS server could answer for _dmarc.its.hku.hk"
    assert find(rows, DKIM).state == "ok"


async def test_a_server_that_denies_everything_is_not_believed(tmp_path: Path) -> None:
    zone = Zone()
    zone.records.clear()
    rows = await rows_of(zone, tmp_path)
    assert {find(rows, what).state for what in (SPF, DKIM, DMARC, "custom domain")} == {
        "not checked"
    }
    assert "--nameserver" in find(rows, SPF).fix


# the pages' own name


async def test_the_name_leads_to_the_app(tmp_path: Path) -> None:
    zone = right_zone()
    rows = await rows_of(zone, tmp_path)
    assert find(rows, "custom domain").state == "ok"
    rows = await rows_of(zone, tmp_path, FUNCTION_APP_URL=f"https://{APP_HOST}")
    assert find(rows, "custom domain").state == "ok"
    row = find(
        await rows_of(zone, tmp_path, FUNCTION_APP_URL="https://other.azurewebsites.net"),
        "custom domain",
    )
    assert (row.state, "another app" in row.found) == ("missing", True)


async def test_a_name_without_records(tmp_path: Path) -> None:
    zone = right_zone()
    del zone.records[HOST, "CNAME"]
    zone.records[HOST, "TXT"] = ['"something"']
    row = find(await rows_of(zone, tmp_path), "custom domain")
    assert (row.state, row.found) == ("missing", f"{HOST} has no address in DNS")
    del zone.records[HOST, "TXT"], zone.records[f"asuid.{HOST}", "TXT"]
    rows = await rows_of(zone, tmp_path, FUNCTION_APP_URL=f"https://{APP_HOST}")
    row = find(rows, "custom domain")
    assert (row.state, row.found) == ("missing", f"{HOST} does not exist in DNS")
    assert row.fix == f"Have the record made: CNAME {HOST} to {APP_HOST}."
    assert find(rows, PROOF).state == "missing"
    assert not [row for row in rows if row.what == "certificate"]


async def test_a_gateway_before_the_app(tmp_path: Path) -> None:
    zone = right_zone()
    del zone.records[HOST, "CNAME"]
    zone.records[HOST, "A"] = ["127.0.0.1"]
    assert find(await rows_of(zone, tmp_path), "custom domain").state == "warning"


async def test_the_platforms_name_is_not_for_live(tmp_path: Path) -> None:
    rows = await rows_of(right_zone(), tmp_path, PUBLIC_BASE_URL=f"https://{APP_HOST}")
    row = find(rows, "custom domain")
    assert (row.state, "`customDomain`" in row.fix) == ("missing", True)


async def test_pages_on_this_machine_have_no_domain(tmp_path: Path) -> None:
    rows = await rows_of(right_zone(), tmp_path, PUBLIC_BASE_URL="http://127.0.0.1:7071")
    assert find(rows, "custom domain").state == "not checked"
    assert not [row for row in rows if row.what in (PROOF, "certificate")]


async def test_whose_name_it_is(tmp_path: Path) -> None:
    zone = right_zone()
    known = {"CUSTOM_DOMAIN_VERIFICATION_ID": VERIFICATION}
    assert find(await rows_of(zone, tmp_path), PROOF).found.endswith("whose, is not known here")
    assert find(await rows_of(zone, tmp_path, **known), PROOF).state == "ok"
    zone.records[f"asuid.{HOST}", "TXT"] = ['"0123"']
    row = find(await rows_of(zone, tmp_path, **known), PROOF)
    assert (row.state, "another subscription" in row.found) == ("missing", True)


@pytest.mark.parametrize(
    ("days", "host", "state", "says"),
    [
        (90, HOST, "ok", "(90 days)"),
        (13, HOST, "warning", "(13 days)"),
        (-1, HOST, "missing", "certificate has expired"),
        (90, "other.its.hku.hk", "missing", "Hostname mismatch"),
    ],
)
async def test_the_certificate(
    days: int,
    host: str,
    state: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_tls(tmp_path, host, days=days) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        rows = await rows_of(right_zone(), tmp_path, PUBLIC_BASE_URL=f"https://{HOST}:{port}")
    row = find(rows, "certificate")
    assert row.state == state
    assert says in row.found


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    async with running_tls(tmp_path, HOST, days=90) as port:
        rows = await rows_of(right_zone(), tmp_path, PUBLIC_BASE_URL=f"https://{HOST}:{port}")
    row = find(rows, "certificate")
    assert (row.state, "not valid" in row.found) == ("missing", True)


async def test_nobody_listens(tmp_path: Path) -> None:
    url = f"https://{HOST}:{closed_port()}"
    row = find(await rows_of(right_zone(), tmp_path, PUBLIC_BASE_URL=url), "certificate")
    assert (row.state, "nobody answers there" in row.found) == ("missing", True)
