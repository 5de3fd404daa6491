"""The status page for whoever signs in with the institution, and for nobody where nobody does."""

from __future__ import annotations

import pytest

from tests.functions.conftest import running_host
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/signed-in/status"


async def ask(world: World, url: str, **headers: str) -> tuple[int, str | None, str]:
    """Status, where it leads, and the body."""
    async with world.http.get(f"{url}{PATH}", headers=headers, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Location"), await answer.text()


async def test_whoever_has_signed_in_sees_the_status_and_others_are_asked_to(world: World) -> None:
    async with running_host(world.environment | {"STATUS_SIGN_IN": "entra"}) as host:
        assert await ask(world, host.url) == (
            302,
            f"/.auth/login/aad?post_login_redirect_uri={PATH}",
            "",
        )
        status, _, page = await ask(world, host.url, **{"X-MS-CLIENT-PRINCIPAL-ID": "somebody"})
        assert status == 200
        assert "<h1" in page


async def test_without_sign_in_the_header_opens_nothing(world: World) -> None:
    """Where App Service does not ask, it does not take the header away either."""
    async with running_host(world.environment) as host:
        assert (await ask(world, host.url))[0] == 404
        assert (await ask(world, host.url, **{"X-MS-CLIENT-PRINCIPAL-ID": "somebody"}))[0] == 404
