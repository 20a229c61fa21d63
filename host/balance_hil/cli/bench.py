"""``hil bench NAME``: side-by-side benchmarks, one module of ``balance_hil.benchmarks`` each."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from balance_hil.benchmarks.costs import LEAST, THRESHOLD, Change, CostComparison, Saved, compare_costs, make_room, read_all, save
from balance_hil.benchmarks.costs_picture import draw
from balance_hil.benchmarks.image_sizes import demangled
from balance_hil.cli.console import make_table, print_json, print_verdict, say, stderr, stdout, wide
from balance_hil.cli.params import BOARD, JSON, POLICY, split_board_names
from balance_hil.errors import UsageError
from balance_hil.files import require_picture, save_figure
from balance_hil.history import current_commit

BENCHMARKS = {
    "loop": "our loop on the native board, a loop as the reference project writes it, and MuJoCo alone",
    "realtime": "the same real-time episodes on this computer idle and under load: jitter, round trip, misses by cause",
    "parallel": "an episode on three boards in QEMU, one after the other and at once: wall time, misses",
    "campaign": "tasks per second of a campaign, in processes and on dask; rows per second of the results database",
    "farm": "round trips through ser2net, as farms use it, with several settings, and through the port itself",
    "live": "real-time episodes without the live page and with it: 0, 1 and 5 viewers, one of them stalled",
    "engine": "code, memory and cost of an inference, layer by layer, on Cortex-M processors: cycles or instructions",
    "env": "environment steps per second: 1 ms physics, and the reference project's 20 us physics",
    "train": "environment steps per second and seconds to a surviving PPO, beside the reference project's 20 us physics",
    "int16": "the shipped policies with activations in int8 and in int16: error of the action, size, time on the desktop",
    "emulators": "the exact emulators in a batch, and the runtimes that they emulate called row by row",
}


SIDE_BY_SIDE = ("realtime", "live")


@click.command(epilog="  ".join(f"{name}: {what}." for name, what in BENCHMARKS.items()))
@click.argument("name", type=click.Choice(list(BENCHMARKS)), default="engine")
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
@click.option("-m", "--model", "models", type=POLICY, multiple=True, metavar="MODEL",
              help="engine: measure with this bundle or .tflite. Repeatable; by default four models.")  # fmt: skip
@click.option("--save", "save_to", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="engine: keep what was measured, and the symbols of the images, in FILE.")  # fmt: skip
@click.option("--against", type=click.Path(path_type=Path, exists=True), multiple=True, metavar="FILE|FOLDER",
              help="engine: fail where something has grown since the newest of these saved files. Repeatable.")  # fmt: skip
@click.option("--threshold", type=click.FloatRange(min=0), default=100 * THRESHOLD, show_default=True, metavar="PERCENT",
              help="With --against: by how much each may grow.")  # fmt: skip
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="With --against: draw all of them, and what was measured now, over time (.svg, .png or .pdf).")  # fmt: skip
@JSON
def command(
    name: str, boards: tuple[str, ...], port: str | None, models: tuple[Path, ...], save_to: Path | None,
    against: tuple[Path, ...], threshold: float, picture: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Run a side-by-side benchmark, "engine" unless another is named, and print the ratios.

    With --against: exit status 1 where a cost, a layer, a kind of memory or a symbol has grown, or cannot be compared.
    """
    if name != "engine" and (boards or port or models):
        what = "models" if models else "boards"
        raise UsageError(
            f"hil bench {name} chooses its {what} itself", "leave --board, --port and --model out, or: hil bench engine"
        )
    if name != "engine" and (save_to or against):
        raise UsageError(f"hil bench {name} measures times, which do not repeat", "save and compare with: hil bench engine")
    if port is not None and len(boards) != 1:
        raise UsageError("--port belongs to one board", "name it: hil bench engine --board teensy41 --port /dev/ttyACM0")
    if picture is not None:
        if not against:
            raise UsageError("--picture draws files that were saved", "name them: hil bench --against FOLDER --picture FILE")
        require_picture(picture)
    if save_to is not None:
        make_room(save_to)
    kept = read_all(against)
    with stderr.status(f"measuring {BENCHMARKS[name]}"):
        module = importlib.import_module(f"balance_hil.benchmarks.{name}")
        rows, costs = module.measure_all(boards, port, models) if name == "engine" else (module.run(), [])
    if save_to is not None:
        save(save_to, costs)
        say(f"wrote {save_to}")
    compared = compare_costs(costs, kept[-1], boards, threshold / 100, current_commit()) if kept else None
    if picture is not None:
        save_figure(draw([*kept, Saved(path="now", time_s=time.time(), commit=current_commit(), costs=tuple(costs))]), picture)
        say(f"wrote {picture}")
    if compared is not None:
        if as_json:
            print_json({"name": name, "rows": rows, "comparison": compared.to_dict()})
        else:
            _print_compared(compared)
        sys.exit(0 if compared.verdict.good else 1)
    if as_json:
        print_json({"name": name, "rows": rows})
    else:
        wide().print((_side_by_side if name in SIDE_BY_SIDE else _table)(rows))


def _print_compared(result: CostComparison) -> None:
    """What has changed by more than the threshold, either way, and everything that was not compared."""
    stdout.print(
        f"against {result.against}, commit {' now '.join(commit or 'unknown' for commit in result.commits)}: "
        f"{len(result.compared)} compared, {len(result.changes)} numbers changed",
        soft_wrap=True,
    )
    shown = [change for change in result.changes if change.grown or _is_large(change, result.threshold)]
    table = make_table("what", "cost", ">before", ">now", "unit", ">change")
    names = demangled([change.name for change in shown])
    for change in sorted(shown, key=lambda change: (not change.grown, change.what)):
        before, now = ("" if value is None else f"{value:,.6g}" for value in (change.before, change.now))
        share = f"{change.now / change.before - 1:+.1%}" if change.before and change.now else "new" if change.now else "gone"
        style = "red" if change.grown else ""
        table.add_row(change.what, names[change.name], before, now, change.unit, share, style=style)
    if shown:
        wide().print(table)
    for line in (*result.otherwise, *result.not_judged):
        stdout.print(line, soft_wrap=True)
    print_verdict(result.verdict, f"nothing has grown by more than {100 * result.threshold:g} %")


def _is_large(change: Change, threshold: float) -> bool:
    """Whether it deserves a row although it has not grown."""
    before, now = change.before or 0.0, change.now or 0.0
    return abs(now - before) >= LEAST and abs(now - before) > threshold * before


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
