"""The usual way to read the two lists: the SDK's typed models and its PageIterator.

    python -m tests.bench.typed_models GRAPH_BASE_URL GROUP ROWS

Answers each line of standard input with `{"report": seconds a row, "roster": seconds a row}`. A
process of its own, so that what it leaves in memory slows nobody else down.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from kiota_abstractions.authentication import AnonymousAuthenticationProvider
from kiota_abstractions.base_request_configuration import RequestConfiguration
from msgraph.generated.models.user_collection_response import UserCollectionResponse
from msgraph.graph_request_adapter import GraphRequestAdapter
from msgraph.graph_service_client import GraphServiceClient
from msgraph_core import PageIterator

from shared.clock import monotonic
from shared.services.directory import ROSTER_FIELDS

_REPORT_PAGE, _ROSTER_PAGE = 1000, 999
_EVENTUAL = {"ConsistencyLevel": "eventual"}


async def serve(base_url: str, group: str, rows: int) -> None:
    """Seconds a row, over as many whole pages as hold about so many rows."""
    adapter = GraphRequestAdapter(AnonymousAuthenticationProvider())
    adapter.base_url = base_url
    client = GraphServiceClient(request_adapter=adapter)

    async def first_report_page(top: int | None = None) -> Any:
        builder = client.reports.authentication_methods.user_registration_details
        query = builder.UserRegistrationDetailsRequestBuilderGetQueryParameters(top=top)
        return await builder.get(RequestConfiguration(query_parameters=query))

    async def first_roster_page(top: int = _ROSTER_PAGE) -> Any:
        builder = client.groups.by_group_id(group).transitive_members.graph_user
        query = builder.GraphUserRequestBuilderGetQueryParameters(
            count=True, top=top, select=list(ROSTER_FIELDS)
        )
        request = builder.to_get_request_information(RequestConfiguration(query_parameters=query))
        template = request.url_template or ""
        request.url_template = template.replace("/graph.user", "/microsoft.graph.user")
        request.headers.add("ConsistencyLevel", "eventual")
        return await adapter.send_async(request, UserCollectionResponse, {})

    async def seconds_a_row(first_page: Any, size: int, headers: dict[str, str]) -> float:
        wanted = max(1, rows // size) * size
        seen = 0

        def count(_row: object) -> bool:
            nonlocal seen
            seen += 1
            return seen < wanted

        began = monotonic()
        pages = PageIterator(await first_page(), adapter)
        for name, value in headers.items():
            pages.headers.add(name, value)  # `set_headers` raises TypeError in msgraph-core 1.5.2
        await pages.iterate(count)
        return (monotonic() - began) / seen

    # The models are imported at their first use, which is no part of what a row costs.
    await first_report_page(top=1)
    await first_roster_page(top=1)
    for _ in sys.stdin:
        found = {
            "report": await seconds_a_row(first_report_page, _REPORT_PAGE, {}),
            "roster": await seconds_a_row(first_roster_page, _ROSTER_PAGE, _EVENTUAL),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    base_url, group, rows = sys.argv[1:]
    asyncio.run(serve(base_url, group, int(rows)))
