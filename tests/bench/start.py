"""How long a worker takes to import the app, which must not bring the Graph SDK with it."""

from __future__ import annotations

from statistics import median

from tests.bench.children import run_code
from tests.bench.table import Line

_TIMED = """
import json, sys, time
began = time.perf_counter()
{statement}
seconds = time.perf_counter() - began
print(json.dumps({{"seconds": seconds, "graph": "msgraph" in sys.modules}}))
"""
_APP = "import function_app"
_WITH_GRAPH = """
import function_app
from msgraph.graph_service_client import GraphServiceClient
import msgraph.generated.models.user_collection_response
"""


async def measure(runs: int) -> list[Line]:
    """Imports in fresh processes, in turn; the median of each."""
    ours: list[float] = []
    eager: list[float] = []
    graph = False
    for _ in range(runs):
        found = await run_code(_TIMED.format(statement=_APP))
        ours.append(found["seconds"])
        graph = graph or found["graph"]
        eager.append((await run_code(_TIMED.format(statement=_WITH_GRAPH)))["seconds"])
    return [
        Line(
            what="import function_app",
            measured=f"{median(ours):.2f} s",
            beside=f"with the Graph SDK {median(eager):.2f} s",
            ratio=median(eager) / median(ours),
            aim="without msgraph",
            holds=not graph,
            notes=(f"Median of {runs} fresh processes each, files in the system's cache.",),
        )
    ]
