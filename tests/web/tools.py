"""The two tools that judge pages: axe-core (accessibility) and html-validate (the HTML standard).

Both are Node packages, taken from npm into `.tools/web/` of the project as Azurite is. axe-core
runs in the page that it judges, html-validate in a Node process. Neither asks the network for
anything once it is there. PyPI has no validator that knows the standard's content models, and
axe-core only wrapped, versions behind.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.node_tool import NodeTool, join

_TOOL = NodeTool("web", {"axe-core": "4.14.1", "html-validate": "11.21.1"})
INSTALL = _TOOL.install

_AXE = _TOOL.home / "node_modules" / "axe-core" / "axe.min.js"

# `standard` is what WHATWG's text asks for, without questions of taste. Integrity hashes are for
# what comes from other hosts.
_VALIDATE = """
import { HtmlValidate, StaticConfigLoader } from "html-validate";
const config = {
  root: true,
  extends: ["html-validate:standard", "html-validate:document"],
  rules: { "require-sri": ["error", { target: "crossorigin" }] },
};
const validator = new HtmlValidate(new StaticConfigLoader(config));
let input = "";
for await (const chunk of process.stdin) input += chunk;
const found = {};
for (const [name, html] of Object.entries(JSON.parse(input))) {
  const { results } = await validator.validateString(html);
  found[name] = results.flatMap(({ messages }) => messages).map(
    ({ line, column, ruleId, message }) => `${line}:${column} ${ruleId}: ${message}`);
}
process.stdout.write(JSON.stringify(found));
"""


def tools_installed() -> bool:
    """Whether both are there, in these versions."""
    return _TOOL.installed()


def axe_source() -> str:
    """The script that defines `axe` in a page."""
    return _AXE.read_text()


def html_mistakes(documents: Mapping[str, str]) -> list[str]:
    """What is not valid in these documents: name of the document, line, column, rule, words."""
    return join(_TOOL.mistakes(_VALIDATE, documents))


if __name__ == "__main__":
    _TOOL.main(__doc__)
