"""The product's pages as the running system serves them: status, protection, weight."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal

import pytest
from playwright.async_api import Response

from shared.clock import CampaignTime
from shared.rules.links import seal
from tests.web.browser import HEAVIEST, PHONE, Chromium
from tests.web.conftest import Local
from tests.world import NAME

pytestmark = pytest.mark.asyncio(loop_scope="package")

PUBLIC = "public, max-age=300"
PERSONAL = "no-store"


def addresses(local: Local) -> dict[str, tuple[int, str]]:
    """Path: its status, and what caches may do with it."""
    settings, now = local.system.app.settings, local.system.app.clock.campaign_now()
    keys, nobody = settings.link_keys, bytes(16)

    def token(days: int, purpose: Literal["done", "unsubscribe"]) -> str:
        return seal(keys, purpose, NAME, nobody, CampaignTime(now + timedelta(days=days)))

    return {
        f"/guide/en?campaign={NAME}": (200, PUBLIC),
        "/guide/en": (200, PUBLIC),
        "/guide/xx": (404, PERSONAL),
        f"/done/{token(1, 'done')}": (200, PERSONAL),
        f"/done/{token(-1, 'done')}": (410, PERSONAL),
        f"/done/{token(1, 'unsubscribe')}": (404, PERSONAL),
        "/done/": (404, PERSONAL),
        f"/unsubscribe/{token(1, 'unsubscribe')}": (200, PERSONAL),
        f"/unsubscribe/{token(-1, 'unsubscribe')}": (410, PERSONAL),
        f"/unsubscribe/{token(1, 'unsubscribe')[:-1]}": (404, PERSONAL),
        "/unsubscribe/": (404, PERSONAL),
        f"/status?{(local.system.status_url or '').partition('?')[2]}": (200, PERSONAL),
    }


def header_faults(response: Response, cache: str) -> list[str]:
    """What a page's headers lack."""
    headers = response.headers
    policy = headers.get("content-security-policy", "")
    wanted = {
        "strict-transport-security": r"max-age=\d{8,}.*",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "x-robots-tag": ".*noindex.*",
        "cache-control": cache,
        "content-type": "text/html; charset=utf-8",
    }
    found = [
        f"{name}: {headers.get(name)}"
        for name, value in wanted.items()
        if not re.fullmatch(value, headers.get(name, ""))
    ]
    strict = all(
        part in policy.split("; ")
        for part in (
            *("default-src 'none'", "style-src 'self'", "form-action 'self'"),
            *("base-uri 'none'", "frame-ancestors 'none'"),
        )
    )
    if not strict or "unsafe" in policy or "*" in policy:
        found.append(f"content-security-policy: {policy}")
    return found


async def test_every_page_is_light_protected_and_kept_by_nobody_where_it_is_personal(
    chromium: Chromium, local: Local
) -> None:
    found: list[str] = []
    async with chromium.reader(PHONE) as reader:
        base = local.system.environment["PUBLIC_BASE_URL"]
        for path, (status, cache) in addresses(local).items():
            response = await reader.open(f"{base}{path}")
            name = re.sub(r"[\w-]{30,}", "…", path)
            assert response.status == status, name
            found += [f"{name}: {fault}" for fault in header_faults(response, cache)]
            if (weight := await reader.weight()) > HEAVIEST:
                found.append(f"{name}: {weight} bytes")
            assert await reader.page.locator("h1").count() == 1, name
            assert await reader.page.context.cookies() == []
    assert not found, "\n".join(found)
