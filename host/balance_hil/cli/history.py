"""``hil history``: results over time, and what changed when one turned."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from balance_hil import history
from balance_hil.boards.channel import printable
from balance_hil.cli.console import make_table, print_json, say, stdout, wide
from balance_hil.cli.params import BOARD, JSON
from balance_hil.errors import UsageError
from balance_hil.files import did_you_mean
from balance_hil.history import Result, Turn

_BARS = "▁▂▃▄▅▆▇█"
_MOST_TURNS = 20  # printed; --json has them all


@click.command()
@click.option("--bundle", metavar="NAME|ID", help="Only of this bundle.")
@click.option("-b", "--board", type=BOARD, metavar="NAME", help="Only of this board.")
@click.option("--command", "of_command", metavar="NAME", help="Only of this command: run, soak, ..., or pytest for a HIL suite.")
@click.option("--metric", metavar="NAME", help="Show this metric or timing instead of the usual ones.")
@click.option("--last", type=click.IntRange(min=1), default=20, show_default=True, help="Results of each series.")
@click.option(
    "--file", "path", type=click.Path(path_type=Path, dir_okay=False), help="The database; default: recordings/history.db."
)
@click.option("--prune", type=click.FloatRange(min=0), metavar="DAYS", help="Remove results that are older, and end.")
@click.option("--set-aside", is_flag=True, help="Rename a database that is damaged, and end.")
@JSON
def command(
    bundle: str | None, board: str | None, of_command: str | None, metric: str | None, last: int, path: Path | None,
    prune: float | None, set_aside: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show results over time: a series for each command, bundle and board, and what else changed when one turned.

    Every run, soak, evaluate, compare, verify and HIL suite adds one, unless it has --no-history or HIL_HISTORY=off is set. A
    result turned when its verdict flipped, a metric moved by more than 10 % or a timing by more than 50 %.
    """
    database = path or history.required_database()
    if set_aside:
        say(f"renamed to {history.set_aside(database)}")
        return
    if prune is not None:
        say(f"removed {history.prune(database, prune)} results that were older than {prune:g} days")
        return
    results = history.read(database, bundle=bundle, board=board, command=of_command, last=last)
    if metric is not None:
        known = sorted({name for each in results for name in (*each.metrics, *each.timing)})
        if metric not in known:
            raise UsageError(
                f"no result has the metric {metric!r}" + did_you_mean(metric, known), f"there are: {', '.join(known)}"
            )
    turns = history.turns(results)
    if as_json:
        print_json(_document(results, turns))
        return
    if not results:
        say("no result is like that; all of them: hil history")
        return
    _print_series(results, metric)
    _print_turns(turns)


def _document(results: Sequence[Result], turns: Sequence[Turn]) -> dict[str, Any]:
    return {
        "results": [asdict(each) for each in results],
        "turns": [
            {"time_s": turn.result.time_s, "command": turn.result.command, "bundle": turn.result.bundle}
            | {"board": turn.result.board, "what": turn.what, "changed": list(turn.changed)}
            for turn in turns
        ],
    }


def _print_series(results: Sequence[Result], metric: str | None) -> None:
    """A line for each series and metric: verdicts, the values as bars, the last one and its ratio to the one before."""
    table = make_table("what", "bundle", "board", "verdicts", "metric", "trend", ">last", ">ratio", "when")
    for (what, variant, bundle, board), rows in history.series(results).items():
        verdicts = Text("".join("✓" if each.good else "✗" for each in rows), "green" if rows[-1].good else "bold red")
        names = [metric] if metric else history.usual(rows)
        cells: list[Any] = [printable(f"{what} {variant}".strip()), printable(bundle), printable(board), verdicts]
        for name in names or [""]:
            values = [value for value in history.values(rows, name) if value is not None]
            if metric and not values:
                continue
            last = f"{values[-1]:.4g}" if values else ""
            ratio = f"{values[-1] / values[-2]:.3g}" if len(values) > 1 and values[-2] else ""
            table.add_row(*cells, printable(name), _bars(values), last, ratio, _when(rows[-1]))
            cells = ["", "", "", ""]
    wide().print(table)


def _print_turns(turns: Sequence[Turn]) -> None:
    for turn in turns[-_MOST_TURNS:]:
        each = turn.result
        name = " ".join(filter(None, (each.command, each.variant, each.bundle, each.board)))
        changed = f"changed: {', '.join(turn.changed)}" if turn.changed else "nothing else is known to have changed"
        line = printable(f"{_when(each)}  {name}: {turn.what}; {changed}")
        stdout.print(line, style="" if each.good else "red", soft_wrap=True)


def _bars(values: Sequence[float]) -> str:
    least, greatest = min(values, default=0.0), max(values, default=0.0)
    if greatest == least:
        return _BARS[0] * len(values)
    return "".join(_BARS[round((value - least) / (greatest - least) * (len(_BARS) - 1))] for value in values)


def _when(result: Result) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(result.time_s))
