"""``hil train --all`` and ``--seeds``: several trainings in parallel, one progress table, one table of results."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from rich.live import Live
from rich.table import Table

from balance_hil.cli.console import make_table, print_json, say, stderr, stdout
from balance_hil.errors import UsageError
from balance_hil.exporting.config import ExportConfig
from balance_hil.farm.campaign import Campaign
from balance_hil.training import results, train
from balance_hil.training.matrix import InterruptedJobError, Run, run_matrix
from balance_hil.training.plan import plan
from balance_hil.training.request import TrainingProgress, TrainingRequest

_STYLES = {"waiting": "dim", "failed": "bold red", "interrupted": "yellow"}


TASKS = "tasks"  # folder of the figures of each training that is done, for --resume


def parse_seeds(text: str) -> list[int]:
    """``"0-4"``, ``"0,2,7"`` or both mixed. Raises UsageError."""
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"the seeds {text!r} are not a list of different numbers", "write --seeds 0-4 or --seeds 0,2,5")
    return seeds


def train_matrix(
    requests: Sequence[TrainingRequest], folder: Path, campaign: Campaign, *, processes: int, export: bool, as_json: bool
) -> NoReturn:
    """Runs the requests that are not done yet, writes ``results.md`` and ``results.json`` to ``folder``, prints them and exits.

    Exit status: 0 when every policy is good, 1 otherwise, 130 after Ctrl-C.
    """
    for request in requests:
        if campaign.kept(Run(request).task) is None:
            plan(request)  # raises the user's mistakes before anything starts
    threads = max(1, (os.cpu_count() or 1) // processes)
    requests = [replace(request, threads=threads) for request in requests]
    with Live(console=stderr, auto_refresh=False, transient=True) as live:

        def show(runs: Sequence[Run]) -> None:
            live.update(_progress_table(runs), refresh=True)

        runs = run_matrix(
            requests, partial(train_and_export, export=export), processes=processes, on_change=show, campaign=campaign
        )
    conditions = {
        "processes at a time": processes,
        "cores": os.cpu_count(),
        "threads of the physics in each process": threads,
        "environment": requests[0].environment,
        "training s, processor s": "wall time and processor time of training; evaluation apart",
    }
    table = results.document(runs, conditions)
    results.write(folder, table)
    if as_json:
        print_json(table)
    else:
        stdout.print(results.markdown(table), soft_wrap=True)
    say(f"wrote {folder / 'results.md'} and {folder / 'results.json'}")
    if any(run.state == "interrupted" for run in runs):
        sys.exit(130)
    sys.exit(0 if all(run["good"] for run in table["runs"]) else 1)


def train_and_export(
    request: TrainingRequest, on_progress: Callable[[TrainingProgress], None], *, export: bool
) -> dict[str, Any]:
    """One run of the matrix: trains, exports what is good, and returns the figures of the table."""
    outcome = train(request, on_progress)
    if outcome.interrupted:
        raise InterruptedJobError
    figures = outcome.figures()
    if export and outcome.good:
        from balance_hil.exporting import export as make_bundle

        on_progress(TrainingProgress(phase="exporting", steps=figures["steps"], total_steps=figures["steps"], success_rate=1.0))
        int8 = make_bundle(ExportConfig(source=request.output), lambda name, done: None).stages[-1]
        figures |= {
            "int8_bytes": int8.size_bytes,
            "int8_success_rate": int8.success_rate,
            "int8_max_error": int8.max_error,
            "int8_rms_error": int8.rms_error,
        }
    return figures


def _progress_table(runs: Sequence[Run]) -> Table:
    table = make_table("algorithm", ">seed", "state", ">steps", ">success", ">time s")
    for run in runs:
        progress = run.progress
        state = progress.phase if run.state == "running" and progress else run.state
        success = run.result.get("success_rate", progress.success_rate if progress else None)
        table.add_row(
            run.request.algorithm,
            str(run.request.seed),
            f"{state}: {run.reason}" if run.reason else state,
            f"{progress.steps}/{progress.total_steps}" if progress else "",
            "" if success is None else f"{success:.0%}",
            f"{run.wall_s:.0f}" if run.wall_s else "",
            style=_STYLES.get(run.state, ""),
        )
    return table
