"""What people open in a browser."""

import azure.functions as func

from functions.telemetry import observed
from functions.wiring import app
from shared import __version__
from shared.messages.pages import PAGE_HEADERS, STYLE
from shared.workflows.site import Page

blueprint = func.Blueprint()

_SIGNED_IN_STATUS = "signed-in/status"
_SIGN_IN = f"/.auth/login/aad?post_login_redirect_uri=/{_SIGNED_IN_STATUS}"

_STYLE_CACHE = "public, max-age=31536000, immutable"  # its address changes when it does


@blueprint.route(route="health", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
@observed
def health(req: func.HttpRequest) -> func.HttpResponse:
    """That the app answers, and its version. Touches nothing."""
    body = f'{{"status": "ok", "version": "{__version__}"}}'
    return func.HttpResponse(
        body, mimetype="application/json", headers={"Cache-Control": "no-store"}
    )


@blueprint.route(
    route="guide/{language}", methods=["GET", "HEAD"], auth_level=func.AuthLevel.ANONYMOUS
)
@observed
async def show_guide(req: func.HttpRequest) -> func.HttpResponse:
    """The guide: to register before the deadline, the general procedure after it."""
    campaign = req.params.get("campaign", "")
    return _answer(
        await app().site.show_guide(req.route_params["language"], campaign, _languages(req))
    )


# The token may be missing: whoever loses it on the way is helped like whoever breaks it.
@blueprint.route(
    route="done/{token?}", methods=["GET", "HEAD", "POST"], auth_level=func.AuthLevel.ANONYMOUS
)
@observed
async def report_done(req: func.HttpRequest) -> func.HttpResponse:
    """ "I have done it": a button, and what comes of pressing it."""
    token, languages = req.route_params.get("token", ""), _languages(req)
    site = app().site
    if req.method == "POST":
        return _answer(await site.complete(token, languages))
    return _answer(await site.ask_done(token, languages))


@blueprint.route(
    route="unsubscribe/{token?}",
    methods=["GET", "HEAD", "POST"],
    auth_level=func.AuthLevel.ANONYMOUS,
)
@observed
async def unsubscribe(req: func.HttpRequest) -> func.HttpResponse:
    """No more reminders: a button, and what comes of pressing it. A mail program may press it by
    itself (RFC 8058): its POST is like the person's, without cookies."""
    token, languages = req.route_params.get("token", ""), _languages(req)
    site = app().site
    if req.method == "POST":
        return _answer(await site.unsubscribe(token, languages))
    return _answer(await site.ask_unsubscribe(token, languages))


@blueprint.route(route="status", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
@observed
async def show_status(req: func.HttpRequest) -> func.HttpResponse:
    """Where all campaigns stand: a page, or JSON for whoever accepts that."""
    as_json = "application/json" in req.headers.get("accept", "")
    return _answer(await app().site.show_status(as_json=as_json))


@blueprint.route(route=_SIGNED_IN_STATUS, methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
@observed
async def show_status_signed_in(req: func.HttpRequest) -> func.HttpResponse:
    """The same for whoever signs in with the institution, where STATUS_SIGN_IN says that App
    Service asks them to. It sets the header itself, and takes away what a caller sets."""
    if not app().settings.status_sign_in:
        return func.HttpResponse(status_code=404, headers={"Cache-Control": "no-store"})
    if not req.headers.get("x-ms-client-principal-id"):
        headers = {"Location": _SIGN_IN, "Cache-Control": "no-store"}
        return func.HttpResponse(status_code=302, headers=headers)
    return _answer(await app().site.show_status(as_json=False))


@blueprint.route(
    route="assets/page.css", methods=["GET", "HEAD"], auth_level=func.AuthLevel.ANONYMOUS
)
@observed
def show_style(req: func.HttpRequest) -> func.HttpResponse:
    """The stylesheet of all pages."""
    headers = {**PAGE_HEADERS, "Cache-Control": _STYLE_CACHE}
    return func.HttpResponse(STYLE, mimetype="text/css", charset="utf-8", headers=headers)


def _languages(req: func.HttpRequest) -> str:
    return req.headers.get("accept-language", "")


def _answer(page: Page) -> func.HttpResponse:
    headers = {**PAGE_HEADERS, "Cache-Control": page.cache}
    if page.retry_after is not None:
        headers["Retry-After"] = str(page.retry_after)
    return func.HttpResponse(
        page.body,
        status_code=page.status,
        mimetype=page.type,
        charset="utf-8",
        headers=headers,
    )
