"""``hil bench NAME``: side-by-side benchmarks, one module of ``balance_hil.benchmarks`` each."""

from __future__ import annotations

import importlib
from typing import Any

import click
from rich import box
from rich.table import Table

from balance_hil.cli.console import make_table, print_json, stderr, wide
from balance_hil.cli.params import JSON

BENCHMARKS = {
    "loop": "our loop on the native board, a loop as the reference project writes it, and MuJoCo alone",
    "realtime": "the same real-time episodes on this computer idle and under load: jitter, round trip, misses by cause",
    "live": "real-time episodes without the live page and with it: 0, 1 and 5 viewers, one of them stalled",
    "engine": "code, memory and instructions of an inference on Cortex-M processors, for each engine",
    "env": "environment steps per second: 1 ms physics, and the reference project's 20 us physics",
    "train": "environment steps per second and seconds to a surviving PPO, beside the reference project's 20 us physics",
    "emulators": "the exact emulators in a batch, and the runtimes that they emulate called row by row",
}


SIDE_BY_SIDE = ("realtime", "live")


@click.command(epilog="  ".join(f"{name}: {what}." for name, what in BENCHMARKS.items()))
@click.argument("name", type=click.Choice(list(BENCHMARKS)))
@JSON
def command(name: str, as_json: bool) -> None:
    """Run a side-by-side benchmark and print the ratios."""
    with stderr.status(f"measuring {BENCHMARKS[name]}"):
        rows = importlib.import_module(f"balance_hil.benchmarks.{name}").run()
    if as_json:
        print_json({"name": name, "rows": rows})
    else:
        wide().print((_side_by_side if name in SIDE_BY_SIDE else _table)(rows))


def _side_by_side(rows: list[dict[str, Any]]) -> Table:
    """Markdown: a column for each "what", a row for each metric."""
    columns = list(dict.fromkeys(row["what"] for row in rows))
    table = make_table("", *(f">{what}" for what in columns))
    table.box, table.show_edge, table.pad_edge = box.MARKDOWN, True, True
    values = {(row["what"], row["metric"]): f"{row['value']:,.0f}" for row in rows}
    for metric, unit in dict.fromkeys((row["metric"], row["unit"]) for row in rows):
        table.add_row(f"{metric} ({unit})" if unit else metric, *(values[what, metric] for what in columns))
    return table


def _table(rows: list[dict[str, Any]]) -> Table:
    table = make_table("what", "metric", ">value", "unit", ">ratio", "against")
    for row in rows:
        ratio = "" if row.get("ratio") is None else f"{row['ratio']:.2f}"
        table.add_row(row["what"], row["metric"], f"{row['value']:,.6g}", row["unit"], ratio, row.get("baseline") or "")
    return table
