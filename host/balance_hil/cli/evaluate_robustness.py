"""``hil evaluate --robustness`` and ``--faults``: what they print and write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.text import Text

from balance_hil.cli.console import make_table, print_json, say, stdout
from balance_hil.cli.crash_repro import kept_for_replay
from balance_hil.cli.progress import CampaignBar
from balance_hil.cli.remember import remember_suite
from balance_hil.errors import UsageError
from balance_hil.evaluating.robustness_table import LEVEL, RobustnessTable, show_share
from balance_hil.files import require_picture, save_figure, write_atomically

ENOUGH = 0.95  # share of episodes without failure that a policy needs under every condition for exit status 0


def print_suite(
    run: Callable[[Callable[[float, str], None]], RobustnessTable],
    draw: Callable[[RobustnessTable], Any],
    output: Path | None,
    picture: Path | None,
    *,
    as_json: bool,
    judged: str | None = None,
) -> None:
    """Runs, prints the table (or the JSON document), writes the files and exits with 0 or 1.

    Args:
        run: takes a function of the completed share and the job completed last.
        draw: makes a Matplotlib figure of the table.
        output: Markdown.
        picture: of ``draw``.
        as_json: a document in place of the table.
        judged: the condition that decides; None: all of them.
    """
    if output is not None and not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}", f"make it: mkdir -p {output.parent}")
    if picture is not None:
        require_picture(picture)
    table = _with_progress(run)
    if output is not None:
        write_atomically(output, table.to_markdown() + "\n")
    if picture is not None:
        save_figure(draw(table), picture)
    if as_json:
        print_json({"schema": "balance_hil/robustness@2", **table.to_dict()})
    else:
        _print(table)
    for path in (output, picture):
        if path is not None:
            say(f"wrote {path}")
    remember_suite(table, "faults" if judged else "robustness", ENOUGH, judged)
    deciding = [cell for cell in table.cells() if judged in (None, cell.condition)]
    sys.exit(0 if all(cell.success_rate.value >= ENOUGH for cell in deciding) else 1)


def _with_progress(run: Callable[[Callable[[float, str], None]], RobustnessTable]) -> RobustnessTable:
    with kept_for_replay("evaluate"), CampaignBar() as bar:
        return run(bar)


def _print(table: RobustnessTable) -> None:
    shown = make_table("condition", *(f">{policy.name}" for policy in table.policies))
    for each in table.conditions:
        cells = [table.cell(policy.name, each.name) for policy in table.policies]
        row = []
        for cell in cells:
            numbers = " ".join(f"{metric.value:.3g}" for metric in cell.metrics.values())
            text = f"{show_share(cell.success_rate)}  {numbers}"
            row.append(text if cell.success_rate.value >= ENOUGH else Text(text, "bold red"))
        shown.add_row(each.title, *row)
    stdout.print(shown)
    stdout.print(
        f"% of {table.n_episodes} episodes of {table.max_steps} steps without failure ({LEVEL:.0%} confidence); "
        f"{', '.join(metric.name for metric in table.metrics)}; {table.environment} on the runtime {table.runtime}",
        style="dim",
    )
