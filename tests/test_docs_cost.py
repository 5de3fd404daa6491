"""docs/cost.md is what its own prices and assumptions come to.

The model stands here, its figures there: prices and assumptions are read from the page's tables by
their names, and the tables of costs must say what comes out. `python -m tests.test_docs_cost`
prints those tables, for whoever has changed a figure.
"""

from __future__ import annotations

import ast
import re
from math import ceil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cost.md"
SIZES = (30_000, 300_000, 3_000_000)
DAYS, HOURS = 30, 730
MINUTES = DAYS * 24 * 60


def read_figures() -> dict[str, float]:
    """Every `name` of the page's tables with the number in the next column."""
    rows = re.findall(r"^\| `(\w+)` \| ([\d.,]+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(dict(rows)) == len(rows), "a name stands twice on the page"
    return {name: float(number.replace(",", "")) for name, number in rows}


def read_plans() -> list[tuple[float, float]]:
    """SendGrid's plans: mails included and dollars a month, the smallest first."""
    rows = re.findall(
        r"^\| [A-Z]\w+ [\d.]+[KM] \| ([\d,]+) \| ([\d.,]+) \|", PAGE.read_text(), re.M
    )
    return sorted((float(m.replace(",", "")), float(p.replace(",", ""))) for m, p in rows)


class Month:
    """Usage and cost of the heaviest month of a campaign for so many alumni."""

    def __init__(self, alumni: int, figures: dict[str, float]) -> None:
        f = self._figures = figures
        self.mails = alumni * f["mails"]
        self.texts = alumni * f["texts"]
        self.visits = alumni * f["visits"]
        self.accounts = alumni * f["accounts"]
        self.parcels = self.mails / 500 + 16 * f["touches"]
        self.posts = self.mails * f["events"] / f["events_a_post"]
        self.alumni = alumni

    def seconds(self) -> dict[str, float]:
        """Seconds in which an instance of each function group is at work; at least one a run."""
        f = self._figures
        sending = self.mails / f["pace"] * 3600
        texting = self.texts / 1000 * 60
        tick = max(1, f["tick"] + f["tick_a_text"] * self.texts)
        open_seconds = DAYS * 12 * 3600
        return {
            "release_due": (MINUTES - 9 * 1440) + 9 * 1440 * tick,
            "housekeeping": DAYS * 24 * 2,
            "read_pages": DAYS * self.accounts / 500,
            "plan_shards": DAYS * (16 + self.alumni / 17_000),
            "send_email": self.parcels,
            "send_sms": texting,
            "pages and webhooks": sending + texting + min(self.visits, open_seconds),
            "settle_receipts": sending + texting,
        }

    def executions(self) -> float:
        runs = MINUTES + DAYS * 24 + DAYS * (self.accounts / 500 / 120 + 1) + DAYS * 16
        return (
            runs
            + self.parcels
            + self.texts * (1 + 2 * 3)  # sent, then three callbacks, each of them settled
            + self.mails  # opened by a scanner
            + self.visits
            + self.posts * (1 + 8)  # a post has events of eight shards
        )

    def operations(self) -> float:
        """Of queues and tables."""
        f = self._figures
        waves = 14 * self.mails / 1000 + 71 * f["events"] * self.mails / 1000 + 6.2 * self.texts
        polls = f["queues"] * DAYS * 86_400 / f["poll"]
        return waves + MINUTES * f["tick_operations"] + polls

    def gigabytes_of_logs(self) -> float:
        f = self._figures
        return (
            self.executions() * f["log_a_run"] + MINUTES * f["series"] * f["log_a_point"]
        ) / 1e6  # kB

    def cost(self) -> dict[str, float]:
        f = self._figures
        gb_seconds = f["memory"] * sum(self.seconds().values())
        pages = (self.accounts + self.alumni) / 1000 * DAYS
        stored = 2 * 156e-9 * self.alumni + 9 * 113e-9 * self.alumni
        return {
            "Functions, time": max(0, gb_seconds - f["free_time"]) * f["time"],
            "Functions, runs": max(0, self.executions() - f["free_runs"]) * f["runs"] / 1e6,
            "Storage, queues and tables": self.operations() * f["operation"] / 1e4,
            "Storage, blobs": (
                (pages + DAYS * 16) * f["blob_write"] / 1e4
                + 16 * pages * f["blob_read"] / 1e4
                + self.parcels * f["blob_read"] / 1e4
                + stored * f["blob_gb"]
            ),
            "Logs": max(0, self.gigabytes_of_logs() - f["free_logs"]) * f["log"],
            "Alert rules": f["alert_rules"] * f["alert_rule"],
            "Key Vault": f["vault_operations"] * f["vault"] / 1e4,
        }

    def mail_cost(self) -> float:
        """The smallest plan that holds the mails, or the largest and what is beyond it."""
        plans = read_plans()
        mails, price = next((plan for plan in plans if plan[0] >= self.mails), plans[-1])
        return price + max(0, self.mails - mails) * self._figures["mail_beyond"]

    def text_cost(self) -> float:
        return self.texts * self._figures["text"]


def money(amount: float) -> str:
    if amount < 0.005:
        return "0"
    return f"{amount:.2f}" if amount < 100 else f"{round(amount):,}"


def table_of_months() -> list[str]:
    figures = read_figures()
    months = [Month(alumni, figures) for alumni in SIZES]
    costs = [month.cost() for month in months]
    rows = {name: [cost[name] for cost in costs] for name in costs[0]}
    rows["**Azure together**"] = [sum(cost.values()) for cost in costs]
    rows["SendGrid"] = [month.mail_cost() for month in months]
    rows["Twilio"] = [month.text_cost() for month in months]
    heads = ["| dollars a month | " + " | ".join(f"{alumni:,}" for alumni in SIZES) + " |"]
    heads += ["| --- | ---: | ---: | ---: |"]
    return heads + [
        f"| {name} | {' | '.join(map(money, amounts))} |" for name, amounts in rows.items()
    ]


def table_of_usage() -> list[str]:
    figures = read_figures()
    months = [Month(alumni, figures) for alumni in SIZES]
    rows: dict[str, list[float]] = {
        "mails": [month.mails for month in months],
        "texts": [month.texts for month in months],
        "runs of functions": [month.executions() for month in months],
        "GB-seconds": [figures["memory"] * sum(month.seconds().values()) for month in months],
        "… of them for the tick of a minute": [
            figures["memory"] * month.seconds()["release_due"] for month in months
        ],
        "operations of queues and tables": [month.operations() for month in months],
        "GB of logs": [month.gigabytes_of_logs() for month in months],
    }
    heads = ["| a month | " + " | ".join(f"{alumni:,}" for alumni in SIZES) + " |"]
    heads += ["| --- | ---: | ---: | ---: |"]
    return heads + [
        f"| {name} | {' | '.join(f'{ceil(number):,}' for number in numbers)} |"
        for name, numbers in rows.items()
    ]


def table_of_options() -> list[str]:
    f = read_figures()
    instance = f["memory"] * HOURS * 3600 * f["baseline"]
    groups = count_groups()
    private = f["endpoints"] * (HOURS * f["endpoint"] + f["zone"])
    rows = {
        "one instance always ready for the pages (`scale.alwaysReadyHttp: 1`)": instance,
        f"zone redundancy: two always ready in each of {groups} function groups": (
            2 * groups * instance
        ),
        f"private network: {f['endpoints']:.0f} endpoints and their zones": private,
    }
    heads = ["| option | dollars a month |", "| --- | ---: |"]
    return heads + [f"| {name} | {money(amount)} |" for name, amount in rows.items()]


def count_groups() -> int:
    """Function groups of the app: all routes are one, each timer and each queue is one more."""
    triggers = [
        decorator.func.attr
        for file in (ROOT / "functions").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute)
    ]
    return 1 + sum(trigger in ("timer_trigger", "queue_trigger") for trigger in triggers)


def stands_there(table: list[str]) -> bool:
    return "\n".join(table) in PAGE.read_text()


def test_the_costs_are_what_prices_and_assumptions_come_to() -> None:
    assert stands_there(table_of_months()), "\n".join(table_of_months())


def test_so_is_the_usage() -> None:
    assert stands_there(table_of_usage()), "\n".join(table_of_usage())


def test_so_are_the_options() -> None:
    assert stands_there(table_of_options()), "\n".join(table_of_options())


def test_figures_of_our_own_are_those_of_the_deployment() -> None:
    f = read_figures()
    names = (ROOT / "shared" / "names.json").read_text()
    assert f["queues"] == 2 * len(re.findall(r'"(\w+)": "\1"', names.split('"tables"')[0]))
    app = (ROOT / "infra" / "modules" / "app.bicep").read_text()
    assert f"instanceMemoryMB: scale.?memoryMB ?? {f['memory'] * 1024:.0f}" in app
    network = (ROOT / "infra" / "modules" / "network.bicep").read_text()
    assert f["endpoints"] == len(re.findall(r"zone: 'privatelink\.", network))
    alerts = (ROOT / "infra" / "modules" / "alerts.bicep").read_text()
    keys = re.findall(r"^    key: '", alerts, re.MULTILINE)
    assert f["alert_rules"] == len(keys) + 1  # and the heartbeat
    assert alerts.count("evaluationFrequency: 'PT5M'") == 2


def test_measured_figures_are_those_of_the_scaling_page() -> None:
    f = read_figures()
    scaling = (ROOT / "docs" / "scaling.md").read_text()
    assert f"{f['tick']} s + {f['tick_a_text'] * 1e6:.0f} µs for each parcel" in scaling
    assert "A wave takes 14 operations for 1,000 people" in scaling
    assert "and 71 where a whole wave is mixed" in scaling
    assert "6,200 operations for 1,000" in scaling
    assert f"| receipts | {f['events']} R / 3,000 s" in scaling
    for words in ("T / 500 s", "A / 17,000 s", "156 bytes A", "113 bytes R"):
        assert words in scaling


if __name__ == "__main__":
    for table in (table_of_usage(), table_of_months(), table_of_options()):
        print("\n".join(table), end="\n\n")
