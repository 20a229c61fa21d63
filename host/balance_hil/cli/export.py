"""``hil export``: a checkpoint becomes a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from balance_hil.cli.console import print_json, stderr, stdout
from balance_hil.exporting.config import ExportConfig, ExportResult


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Bundle folder; by default the folder of the checkpoint.")
@click.option(
    "-e", "--environment", help="Gymnasium id; by default the one that training.json names, otherwise balance/Balance-v0."
)
@click.option("--episodes", default=10, show_default=True, help="Episodes of the check of each stage.")
@click.option("--steps", type=click.IntRange(min=1), help="Control steps of such an episode; by default 6000 (30 s).")
@click.option("--seed", default=0, show_default=True, help="Of calibration and golden vectors.")
@click.option("--per-tensor", is_flag=True, help="One scale for each weight tensor, for engines that ignore per-channel scales.")
@click.option(
    "--rounding-invariant", is_flag=True, help="An int8 model that gives the same bits on every runtime; takes a minute."
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Rows of your own, .npz with float32 [n, n_obs] under 'observations'; by default recorded from the environment.",
)
@click.option("--trust", is_flag=True, help="Let Stable-Baselines3 run code that is pickled in the checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    source: Path,
    output: Path | None,
    environment: str | None,
    episodes: int,
    steps: int | None,
    seed: int,
    per_tensor: bool,
    rounding_invariant: bool,
    calibration: Path | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Turn the checkpoint of SOURCE (a folder or a .zip file) into a bundle.

    Deterministic actor, ONNX, TensorFlow, float32 and int8 TFLite, C array, golden vectors, manifest and model card. Each stage
    is compared with the one before it and has to keep the robot up as often. An old bundle stays as it was until all has
    succeeded.
    """
    from balance_hil.exporting import export

    config = ExportConfig(
        source=source,
        output=output,
        environment=environment,
        episodes=episodes,
        max_steps=steps,
        seed=seed,
        calibration=calibration,
        per_tensor=per_tensor,
        rounding_invariant=rounding_invariant,
        trust=trust,
    )
    columns = (TextColumn("{task.description:<18}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=stderr) as bars:
        result = export(config, _Bars(bars).update)
    if as_json:
        print_json(_document(result))
    else:
        print_result(result)


class _Bars:
    """One progress bar for each step, made when the step is first heard of."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, done: float) -> None:
        if name not in self._tasks:
            # Conversion has no measurable progress: its bar only moves.
            self._tasks[name] = self._progress.add_task(name, total=1.0 if name.startswith(("episodes", "fine-tuning")) else None)
        task = self._tasks[name]
        self._progress.update(task, completed=done, total=1.0 if done >= 1.0 else self._progress.tasks[task].total)


def _document(result: ExportResult) -> dict[str, object]:
    return {
        "bundle": str(result.bundle.path),
        "id": result.bundle.id,
        "environment": result.bundle.spec.environment,
        "stages": [stage.to_dict() for stage in result.stages],
        "operators": result.bundle.metrics["operators"],
        "arena_needed_bytes": result.bundle.metrics["arena_needed_bytes"],
        "rounding_invariant": result.bundle.metrics.get("rounding_invariant"),
        "conversion_s": round(result.conversion_s, 3),
        "wall_s": round(result.wall_s, 3),
    }


def print_result(result: ExportResult) -> None:
    """Prints the table of stages and what the bundle needs to stdout."""
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for heading in ("bytes", "max error", "RMS error", "success", *result.stages[0].metrics):
        table.add_column(heading, justify="right")
    for stage in result.stages:
        table.add_row(
            stage.name,
            str(stage.size_bytes),
            "" if stage.max_error is None else f"{stage.max_error:.2g}",
            "" if stage.rms_error is None else f"{stage.rms_error:.2g}",
            f"{stage.success_rate:.0%}",
            *(f"{value:.4g}" for value in stage.metrics.values()),
        )
    metrics = result.bundle.metrics
    operators = ", ".join(f"{count} {name}" for name, count in metrics["operators"].items())
    stdout.print(table)
    stdout.print(
        f"errors: actions against the stage above; success: {metrics['episodes']} episodes of {metrics['episode_steps']} steps",
        style="dim",
    )
    stdout.print(f"int8 operators: {operators}; arena: {metrics['arena_needed_bytes']} bytes")
    if proof := metrics.get("rounding_invariant"):
        _print_rounding_invariant(proof)
    stdout.print(f"conversion {result.conversion_s:.1f} s, with the checks {result.wall_s:.1f} s")
    stdout.print(f"bundle {result.bundle.id} in {result.bundle.path}", soft_wrap=True)


def _print_rounding_invariant(proof: Mapping[str, Any]) -> None:
    different = ", ".join(f"{name} {count}" for name, count in proof["outputs_unlike_tflm"].items())
    stdout.print(
        f"rounding-invariant: RMS error {proof['validation_rms_error_before_fine_tuning']:.2g} before fine-tuning, "
        f"{proof['validation_rms_error']:.2g} after (ordinary int8: {proof['validation_rms_error_ordinary']:.2g})"
    )
    stdout.print(f"outputs unlike TFLM's on {proof['random_inputs']} random inputs: {different}")
