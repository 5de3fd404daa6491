"""The one FunctionApp: registers the blueprints, nothing else."""

import azure.functions as func

from functions import callbacks, dispatch, operations, plan, receipts, release, sweep, web

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
for module in (sweep, plan, release, dispatch, receipts, operations, web, callbacks):
    app.register_functions(module.blueprint)
