"""What is asked for over HTTP."""

import azure.functions as func

from shared import __version__

blueprint = func.Blueprint()


@blueprint.route(route="health", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def health(req: func.HttpRequest) -> func.HttpResponse:
    """That the app answers, and its version. Touches nothing."""
    body = f'{{"status": "ok", "version": "{__version__}"}}'
    return func.HttpResponse(
        body, mimetype="application/json", headers={"Cache-Control": "no-store"}
    )
