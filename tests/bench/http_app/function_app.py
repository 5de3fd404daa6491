"""The HTTP functions alone: in Azure (Flex Consumption) they share instances of their own, while
each queue or timer function has others. So an instance that shows pages sends no mails."""

import azure.functions as func

from functions import callbacks, web

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
for module in (web, callbacks):
    app.register_functions(module.blueprint)
