"""``hil bench NAME``: side-by-side benchmarks of ``host/benchmarks/``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from balance_hil.cli.console import print_json, stderr, stdout
from balance_hil.errors import UsageError

TABLE_WIDTH = 160  # where stdout is no terminal
FOLDER = Path(__file__).parents[2] / "benchmarks"
BENCHMARKS = {
    "loop": "our loop on the native board, a loop as the reference project writes it, and MuJoCo alone",
    "engine": "code, memory and instructions of an inference on Cortex-M processors, for each engine",
    "env": "environment steps per second: 1 ms physics, and the reference project's 20 us physics",
    "train": "environment steps per second and seconds to a surviving PPO, beside the reference project's 20 us physics",
    "emulators": "the exact emulators in a batch, and the runtimes that they emulate called row by row",
}


@click.command(epilog="  ".join(f"{name}: {what}." for name, what in BENCHMARKS.items()))
@click.argument("name", type=click.Choice(list(BENCHMARKS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(name: str, as_json: bool) -> None:
    """Measure things side by side in one run and print the ratios."""
    with stderr.status(f"measuring {BENCHMARKS[name]}"):
        rows = _load(name)()
    if as_json:
        print_json({"name": name, "rows": rows})
    else:
        console = stdout if stdout.is_terminal else Console(highlight=False, width=TABLE_WIDTH)
        console.print(_table(rows))


def _load(name: str) -> Callable[[], list[dict[str, Any]]]:
    """The function ``run`` of ``host/benchmarks/bench_NAME.py``; benchmarks are not part of the installed package."""
    path = FOLDER / f"bench_{name}.py"
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError("benchmarks are part of the source checkout, not of the installed package", "run hil from a checkout")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    run: Callable[[], list[dict[str, Any]]] = module.run
    return run


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
