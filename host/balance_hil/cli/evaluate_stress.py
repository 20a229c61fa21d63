"""``hil evaluate --stress``: what a robustness run prints and writes."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from balance_hil.cli.console import print_json, stderr, stdout
from balance_hil.cli.crash_repro import kept_for_replay
from balance_hil.errors import UsageError
from balance_hil.evaluating.intervals import LEVEL
from balance_hil.evaluating.stress_run import StressConfig, run_stresses
from balance_hil.evaluating.stress_table import StressTable, show_survival

ENOUGH = 0.95  # survival that a policy needs under every stress for exit status 0


def stress(config: StressConfig, output: Path | None, picture: Path | None, *, as_json: bool) -> None:
    """Runs, prints the table (or the JSON document), writes the files and exits with 0 or 1."""
    if output is not None and not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}", f"make it: mkdir -p {output.parent}")
    if picture is not None:
        from balance_hil.evaluating.stress_picture import check_picture

        check_picture(picture)
    table = _with_progress(config)
    if output is not None:
        partial = output.with_name(f".{output.name}.part")
        partial.write_text(table.to_markdown() + "\n", encoding="utf-8")
        partial.replace(output)
    if picture is not None:
        from balance_hil.evaluating.stress_picture import save_picture

        save_picture(table, picture)
    if as_json:
        print_json(table.to_dict())
    else:
        _print(table)
    for path in (output, picture):
        if path is not None:
            stderr.print(f"wrote {path}", soft_wrap=True)
    sys.exit(0 if all(cell.survival.value >= ENOUGH for cell in table.cells()) else 1)


def _with_progress(config: StressConfig) -> StressTable:
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", style="dim"),
    )
    with kept_for_replay("evaluate"), Progress(*columns, console=stderr, transient=True) as bars:
        task = bars.add_task("starting", total=1.0)
        return run_stresses(config, lambda done, what: bars.update(task, completed=done, description=what))


def _print(table: StressTable) -> None:
    shown = Table(box=None, pad_edge=False, show_lines=False)
    shown.add_column("stress")
    for policy in table.policies:
        shown.add_column(policy.name, justify="right")
    for each in table.stresses:
        cells = [table.cell(policy.name, each.name) for policy in table.policies]
        row = []
        for cell in cells:
            errors = f"{cell.speed_error_rms.value:4.1f} {cell.wheel_speed_difference_error_rms.value:4.1f}"
            text = f"{show_survival(cell.survival)}  {errors}"
            row.append(text if cell.survival.value >= ENOUGH else f"[bold red]{text}[/]")
        shown.add_row(each.title, *row)
    stdout.print(shown)
    stdout.print(
        f"% of {table.n_episodes} episodes of {table.max_steps} steps survived ({LEVEL:.0%} confidence); "
        f"RMS of speed and yaw error, rad/s; {table.environment} on the runtime {table.runtime}",
        style="dim",
    )
