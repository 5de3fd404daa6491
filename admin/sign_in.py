"""An administrator's own sign-in to Graph, for what is read before anything is deployed.

Three ways lead to a token that may read the report, and each needs a role of whoever signs in:

    `az login`             Microsoft's own app for the Azure CLI: its tokens for Graph carry
                           AuditLog.Read.All, User.ReadWrite.All and Group.ReadWrite.All, and nobody
                           has to consent. The same holds for Azure PowerShell.
    sign-in in a browser,  through Microsoft Graph Command Line Tools, which `Connect-MgGraph` uses,
    or by a code           too: it gets what is asked for here and no more. An administrator must
                           have consented once.
    an app of your own     a registration with these delegated permissions that allows public
                           clients.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from azure.core.exceptions import AzureError

from shared.services.directory import SignInFault

if TYPE_CHECKING:
    from datetime import datetime

    from azure.core.credentials import AccessToken, TokenCredential

type Way = Literal["browser", "device"]

GRAPH_TOOLS = "14d82eec-204b-4c2f-b7e8-296a70dab67e"
"""Microsoft Graph Command Line Tools: known to every tenant, and a public client."""

PERMISSIONS = ("AuditLog.Read.All", "GroupMember.Read.All", "User.Read.All")
"""Delegated permissions: what the report, the members of groups and contact fields need."""

_FIXES = {
    # consent is missing, or only an administrator may give it
    "65001": "consent",
    "65004": "consent",
    "90094": "consent",
    "90095": "consent",
    "90097": "consent",
    # no public client; an unknown application
    "7000218": "app",
    "700016": "app",
    "50011": "app",
    # Conditional Access
    "53000": "policy",
    "53001": "policy",
    "53003": "policy",
    "530036": "policy",
}


class OwnSignIn:
    """A credential that asks a person, once; later tokens are renewed without a word.

    azure-identity's own credentials that ask a person block, which would keep Ctrl-C out: they run
    in a thread of their own, which ends with the process.

    Args:
        credential: one of azure-identity's.
        scopes: asked for whatever the caller asks for: the least that serves.
    """

    def __init__(self, credential: TokenCredential, scopes: tuple[str, ...]) -> None:
        self._credential = credential
        self._scopes = scopes

    async def sign_in(self) -> None:
        """Ask the person; raises SignInFault where that came to nothing."""
        try:
            await self.get_token()
        except AzureError as error:
            # Its text may name the person; the number in it does not.
            code = re.search(r"AADSTS(\d+)", str(error))
            raise _sign_in_fault(code[1] if code else "", type(error).__name__) from None

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = True,
        **more: Any,
    ) -> AccessToken:
        return await _in_thread(
            lambda: self._credential.get_token(
                *self._scopes, claims=claims, tenant_id=tenant_id, enable_cae=enable_cae
            )
        )

    async def close(self) -> None:
        close: Callable[[], None] | None = getattr(self._credential, "close", None)
        if close is not None:
            close()

    async def __aenter__(self) -> OwnSignIn:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()


def make_sign_in(
    way: Way, host: str, *, tenant: str | None, client: str | None, **more: Any
) -> OwnSignIn:
    """A sign-in that has not asked anybody yet.

    Args:
        host: Graph's: tokens are for it alone.
        tenant: id or domain; the account's own where None.
        client: of an app registration of your own.
        more: options of azure-identity, such as another authority.
    """
    from azure.identity import DeviceCodeCredential, InteractiveBrowserCredential

    options: dict[str, Any] = {"client_id": client or GRAPH_TOOLS, **more}
    if tenant:
        options["tenant_id"] = tenant
    credential: TokenCredential = (
        InteractiveBrowserCredential(**options)
        if way == "browser"
        else DeviceCodeCredential(prompt_callback=_show_code, **options)
    )
    return OwnSignIn(credential, tuple(f"https://{host}/{name}" for name in PERMISSIONS))


def _show_code(address: str, code: str, until: datetime) -> None:
    print(
        f"Open {address} and enter the code {code} (good until {until.astimezone():%H:%M}).",
        file=sys.stderr,
        flush=True,
    )


def _sign_in_fault(code: str, kind: str) -> SignInFault:
    seen = f"The sign-in came to nothing ({f'AADSTS{code}' if code else kind})."
    match _FIXES.get(code):
        case "consent":
            fix = (
                "Let a Global Administrator or Privileged Role Administrator consent, once, to the"
                f" delegated permissions {', '.join(PERMISSIONS)} for the app that you sign in"
                " through (Microsoft Graph Command Line Tools, unless you gave --client-id)."
            )
        case "app":
            fix = (
                "Check --client-id and --tenant; the app registration must allow public client"
                " flows and have the redirect address http://localhost of a desktop app."
            )
        case "policy":
            fix = (
                "Conditional Access refuses this way of signing in: use `--sign-in browser` on a"
                " device that it accepts, or `az login`."
            )
        case _:
            fix = (
                "Check the connection and try once more, or sign in with `az login` and leave"
                " --sign-in out."
            )
    return SignInFault(seen, fix)


async def _in_thread[Result](call: Callable[[], Result]) -> Result:
    """What `call` gives, from a thread that nobody waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(act: Callable[[], None]) -> None:
        if not future.done():
            act()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # handed on to whoever waits
            failed = error
            tell = lambda: settle(lambda: future.set_exception(failed))  # noqa: E731
        else:
            tell = lambda: settle(lambda: future.set_result(result))  # noqa: E731
        loop.call_soon_threadsafe(tell)

    threading.Thread(target=run, name="sign-in", daemon=True).start()
    return await future
