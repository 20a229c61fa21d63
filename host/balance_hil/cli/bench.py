"""``hil bench NAME``: side-by-side benchmarks, one module of ``balance_hil.benchmarks`` each."""

from __future__ import annotations

import importlib
from typing import Any

import click
from rich import box
from rich.table import Table

from balance_hil.cli.console import make_table, print_json, stderr, wide
from balance_hil.cli.params import BOARD, JSON, split_board_names
from balance_hil.errors import UsageError

BENCHMARKS = {
    "loop": "our loop on the native board, a loop as the reference project writes it, and MuJoCo alone",
    "realtime": "the same real-time episodes on this computer idle and under load: jitter, round trip, misses by cause",
    "parallel": "an episode on three boards in QEMU, one after the other and at once: wall time, misses",
    "live": "real-time episodes without the live page and with it: 0, 1 and 5 viewers, one of them stalled",
    "engine": "code, memory and cost of an inference, layer by layer, on Cortex-M processors: cycles or instructions",
    "env": "environment steps per second: 1 ms physics, and the reference project's 20 us physics",
    "train": "environment steps per second and seconds to a surviving PPO, beside the reference project's 20 us physics",
    "emulators": "the exact emulators in a batch, and the runtimes that they emulate called row by row",
}


SIDE_BY_SIDE = ("realtime", "live")


@click.command(epilog="  ".join(f"{name}: {what}." for name, what in BENCHMARKS.items()))
@click.argument("name", type=click.Choice(list(BENCHMARKS)))
@click.option(
    "-b",
    "--board",
    "boards",
    type=BOARD,
    multiple=True,
    callback=split_board_names,
    help="engine: only this board; by default those in QEMU, and pico. Repeat it, or separate by commas, for several.",
)
@click.option("--port", metavar="PORT", help="engine: device or URL of the board.")
@JSON
def command(name: str, boards: tuple[str, ...], port: str | None, as_json: bool) -> None:
    """Run a side-by-side benchmark and print the ratios."""
    options: dict[str, Any] = {"boards": boards, "port": port} if name == "engine" else {}
    if name != "engine" and (boards or port):
        raise UsageError(f"hil bench {name} chooses its boards itself", "leave --board and --port out, or: hil bench engine")
    if port is not None and len(boards) != 1:
        raise UsageError("--port belongs to one board", "name it: hil bench engine --board teensy41 --port /dev/ttyACM0")
    with stderr.status(f"measuring {BENCHMARKS[name]}"):
        rows = importlib.import_module(f"balance_hil.benchmarks.{name}").run(**options)
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
