"""``hil bench NAME``: side-by-side benchmarks, one module of ``balance_hil.benchmarks`` each."""

from __future__ import annotations

import importlib
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from balance_hil.cli.console import print_json, stderr, stdout
from balance_hil.documents import BENCH

TABLE_WIDTH = 160  # where stdout is no terminal
BENCHMARKS = {
    "loop": "our loop on the native board, a loop as the reference project writes it, and MuJoCo alone",
    "realtime": "the same real-time episodes on this computer idle and under load: jitter, round trip, misses by cause",
    "engine": "code, memory and instructions of an inference on Cortex-M processors, for each engine",
    "env": "environment steps per second: 1 ms physics, and the reference project's 20 us physics",
    "train": "environment steps per second and seconds to a surviving PPO, beside the reference project's 20 us physics",
    "emulators": "the exact emulators in a batch, and the runtimes that they emulate called row by row",
}


@click.command(epilog="  ".join(f"{name}: {what}." for name, what in BENCHMARKS.items()))
@click.argument("name", type=click.Choice(list(BENCHMARKS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(name: str, as_json: bool) -> None:
    """Run a side-by-side benchmark and print the ratios."""
    with stderr.status(f"measuring {BENCHMARKS[name]}"):
        rows = importlib.import_module(f"balance_hil.benchmarks.{name}").run()
    if as_json:
        print_json({"schema": BENCH, "name": name, "rows": rows})
    else:
        console = stdout if stdout.is_terminal else Console(highlight=False, markup=False, width=TABLE_WIDTH)
        console.print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("what", "metric"):
        table.add_column(heading)
    for heading in ("value", "unit", "ratio"):
        table.add_column(heading, justify="right" if heading != "unit" else "left")
    table.add_column("against")
    for row in rows:
        ratio = "" if row.get("ratio") is None else f"{row['ratio']:.2f}"
        table.add_row(row["what"], row["metric"], f"{row['value']:,.6g}", row["unit"], ratio, row.get("baseline") or "")
    return table
