"""`nudge` as a module, for a child process: `python -m tests.bench.nudge local …`."""

from __future__ import annotations

from admin.cli import main

if __name__ == "__main__":
    main()
