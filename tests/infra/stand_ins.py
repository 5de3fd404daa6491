"""Stand-ins for the Azure CLI and curl: what each call is answered stands in a file.

One program under both names. SMOKE_SCENARIO names a JSON file with `az` (beginning of the command →
answer) and `curl` (address → answer); an answer has `out`, `error`, `code`, and for curl `status`.
Each call is noted, with its standard input, in a file beside it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    scenario = Path(os.environ["SMOKE_SCENARIO"])
    given = sys.stdin.read() if "--config" in arguments else ""
    with scenario.with_suffix(".calls").open("a") as calls:
        calls.write(json.dumps([name, *arguments, given]) + "\n")
    answers: dict[str, dict[str, Any]] = json.loads(scenario.read_text())[name]
    if name == "az":
        command = " ".join(arguments)
        (answer,) = (answer for begin, answer in answers.items() if command.startswith(begin))
        sys.stdout.write(answer.get("out", ""))
    else:
        answer = answers[arguments[-1]]
        Path(arguments[arguments.index("--output") + 1]).write_text(answer.get("out", ""))
        sys.stdout.write(str(answer.get("status", 200)))
    sys.stderr.write(answer.get("error", ""))
    return answer.get("code", 0)


if __name__ == "__main__":
    sys.exit(main())
