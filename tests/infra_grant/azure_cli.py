"""A stand-in for the Azure CLI (`az`): a small Microsoft Graph behind the few commands that the
script for Graph permissions uses.

The tenant is a JSON file, named by AZURE_CLI_TENANT: read at each call and written back, so that a
test sees what was asked for and what came of it. Complaints are worded as the CLI words them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

GRAPH_APP = "00000003-0000-0000-c000-000000000000"

# The CLI evaluates JMESPath. These are the questions asked of it, and what they mean.
QUERIES: dict[str, Callable[[Any], Any]] = {
    "id": lambda body: body.get("id"),
    "appRoles[].[id, value]": lambda body: [[one["id"], one["value"]] for one in body["appRoles"]],
    "value[].[id, appRoleId, resourceId]": lambda body: [
        [one["id"], one["appRoleId"], one["resourceId"]] for one in body["value"]
    ],
    '"@odata.nextLink"': lambda body: body.get("@odata.nextLink"),
    "endpoints.microsoftGraphResourceId": lambda body: body["endpoints"][
        "microsoftGraphResourceId"
    ],
}


def refuse(words: str) -> NoReturn:
    print(f"ERROR: {words}", file=sys.stderr)
    sys.exit(1)


def refuse_as_graph(status: str, code: str, message: str) -> NoReturn:
    refuse(f"{status}({json.dumps({'error': {'code': code, 'message': message}})})")


def options(arguments: list[str]) -> dict[str, str]:
    names, values = arguments[::2], arguments[1::2]
    assert len(names) == len(values)
    assert all(name.startswith("--") for name in names), names
    return dict(zip(names, values, strict=True))


def show(answer: Any, given: dict[str, str]) -> None:
    """Print an answer as `--output tsv` does: a list of rows line by line, nothing for null."""
    assert given["--output"] in ("tsv", "none")
    if given["--output"] == "none" or answer is None:
        return
    found = QUERIES[given["--query"]](answer)
    if isinstance(found, list):
        for row in found:
            print("\t".join(map(str, row)))
    elif found is not None:
        print(found)


class Graph:
    """What Microsoft Graph would answer, out of and into the tenant."""

    def __init__(self, tenant: dict[str, Any]) -> None:
        self._tenant = tenant

    def answer(self, method: str, url: str, body: str | None) -> Any:
        base = f"{self._tenant['graph'].rstrip('/')}/v1.0/"
        self._tenant["requests"].append(f"{method} {url.removeprefix(base)}")
        assert url.startswith(base), url
        parts = urlsplit(url.removeprefix(base))
        path, query = parts.path.split("/"), parse_qs(parts.query)
        if code := self._tenant["trouble"]:
            refuse_as_graph(*code)
        assert path[0].startswith("servicePrincipals"), path
        match method, path:
            case "get", [one]:
                app = one.removeprefix("servicePrincipals(appId='").removesuffix("')")
                return self._principal_of(app, query["$select"][0])
            case "get", [_, principal]:
                return self._principal(principal)
            case "get", [_, principal, "appRoleAssignments"]:
                return self._page(principal, int(query.get("$skiptoken", ["0"])[0]), url)
            case "post", [_, resource, "appRoleAssignedTo"]:
                return self._assign(resource, json.loads(body or ""))
            case "delete", [_, resource, "appRoleAssignedTo", assignment]:
                return self._remove(resource, assignment)
            case _:
                raise AssertionError(f"nobody asks Graph for {method} {url}")

    def _principal_of(self, app: str, select: str) -> dict[str, Any]:
        if app == GRAPH_APP:
            roles = [{"id": id, "value": name} for id, name in self._tenant["roles"].items()]
            return {"id": {"id": self._tenant["graph_id"]}, "appRoles": {"appRoles": roles}}[select]
        for principal, client in self._tenant["principals"].items():
            if client == app:
                return {"id": principal}
        return self._absent(app)

    def _principal(self, principal: str) -> dict[str, Any]:
        if principal not in self._tenant["principals"]:
            self._absent(principal)
        return {"id": principal, "appId": self._tenant["principals"][principal]}

    def _page(self, principal: str, start: int, url: str) -> dict[str, Any]:
        self._principal(principal)
        end = start + self._tenant["page_size"]
        rows = [row for row in self._tenant["assignments"] if row["principalId"] == principal]
        page: dict[str, Any] = {"value": rows[start:end]}
        if end < len(rows):
            here = self._tenant["next_page_at"] or url.partition("?")[0]
            page["@odata.nextLink"] = f"{here}?$skiptoken={end}"
        return page

    def _assign(self, resource: str, wanted: dict[str, str]) -> dict[str, Any]:
        self._check_rights()
        assert resource == wanted["resourceId"] == self._tenant["graph_id"]
        assert wanted["appRoleId"] in self._tenant["roles"]
        self._principal(wanted["principalId"])
        rows = self._tenant["assignments"]
        new = wanted | {"id": f"assignment-{len(rows) + 1}"}
        if wanted["appRoleId"] in self._tenant["rivals"]:  # somebody was quicker
            rows.append(new)
        if any(wanted.items() <= row.items() for row in rows):
            refuse_as_graph(
                "Bad Request",
                "Request_BadRequest",
                "Permission being assigned already exists on the object",
            )
        rows.append(new)
        return new

    def _remove(self, resource: str, assignment: str) -> None:
        self._check_rights()
        assert resource == self._tenant["graph_id"]
        rows = self._tenant["assignments"]
        found = [row for row in rows if row["id"] == assignment]
        self._tenant["assignments"] = [row for row in rows if row not in found]
        if not found or found[0]["appRoleId"] in self._tenant["rivals"]:
            self._absent(assignment)

    def _check_rights(self) -> None:
        if not self._tenant["may_write"]:
            refuse_as_graph(
                "Forbidden",
                "Authorization_RequestDenied",
                "Insufficient privileges to complete the operation.",
            )

    def _absent(self, what: str) -> NoReturn:
        refuse_as_graph(
            "Not Found", "Request_ResourceNotFound", f"Resource '{what}' does not exist."
        )


def main(arguments: list[str]) -> None:
    file = Path(os.environ["AZURE_CLI_TENANT"])
    tenant = json.loads(file.read_text())
    if arguments[:2] == ["cloud", "show"]:
        where = {"endpoints": {"microsoftGraphResourceId": tenant["graph"]}}
        return show(where, options(arguments[2:]))
    if not tenant["signed_in"]:
        refuse("Please run 'az login' to setup account.")
    assert arguments[0] == "rest", arguments
    given = options(arguments[1:])
    assert given["--resource"] == tenant["graph"], "whose token would be sent?"
    try:
        answer = Graph(tenant).answer(given["--method"], given["--url"], given.get("--body"))
    finally:
        file.write_text(json.dumps(tenant))
    if answer is not None:
        show(answer, given)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
