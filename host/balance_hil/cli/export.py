"""``hil export``: a checkpoint becomes a bundle."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import click
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from balance_hil.bundle import Bundle
from balance_hil.cli.console import make_table, print_json, print_verdict, print_warning, stderr, stdout
from balance_hil.cli.params import JSON
from balance_hil.exporting.config import ExportConfig, ExportResult
from balance_hil.files import read_yaml
from balance_hil.paths import MODELS, POLICIES
from balance_hil.spec import Terminated

_PATH = click.Path(path_type=Path)


def _located(context: click.Context, argument: click.Parameter, source: Path) -> Path:
    """The path that a bare name stands for: a folder in ``policies/`` or among the shipped policies."""
    if len(source.parts) > 1 or source.exists():
        return source
    return next((root / source for root in (POLICIES, MODELS) if (root / source).is_dir()), source)


@click.command()
@click.argument("source", type=_PATH, callback=_located)
@click.option("-o", "--output", type=_PATH, help="Bundle folder; by default next to the source, or the folder of a policy.zip.")
@click.option(
    "-e", "--env", "--environment", "environment", metavar="ID",
    help="Gymnasium id, or module:Id; by default from training.json or the zoo's args.yml.",
)  # fmt: skip
@click.option("--options", type=_PATH, metavar="FILE.yaml", help="Arguments of the environment: docs/environments.md.")
@click.option(
    "--period-ms", type=click.FloatRange(min=0, min_open=True), help="Control period, if the environment does not declare one."
)
@click.option("--terminated", type=click.Choice(["failure", "success"]), help="Meaning of an episode's termination.")
@click.option(
    "--spec",
    type=_PATH,
    metavar="SIGNALS.yaml",
    help="Names, units and limits of a policy without an environment: docs/policies.md.",
)
@click.option("--episodes", default=10, show_default=True, help="Episodes of the check, for each stage.")
@click.option("--steps", type=click.IntRange(min=1), help="Control steps of such an episode; by default the environment's own.")
@click.option(
    "--margin",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Maximum share of the float policy's return that the board's model may lose.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of calibration and golden vectors.")
@click.option(
    "--quantize",
    type=click.Choice(["int8", "int16x8", "float32"]),
    default="int8",
    show_default=True,
    help="Element type of the model for boards; int16x8 has int16 activations, int8 weights. docs/policies.md.",
)
@click.option("--per-tensor", is_flag=True, help="One scale for each weight tensor, for engines that ignore per-channel scales.")
@click.option(
    "--rounding-invariant", is_flag=True, help="Export an int8 model with bit-identical outputs on every runtime; takes a minute."
)
@click.option(
    "--calibration",
    type=_PATH,
    metavar="ROWS.npz",
    help="Calibration rows, float32 [n, n_obs] under 'observations'; by default recorded from the environment.",
)
@click.option(
    "--trust", is_flag=True, help="Allow Stable-Baselines3 to run the checkpoint's pickled code, and compare the actions."
)
@JSON
def command(
    source: Path, options: Path | None, period_ms: float | None, terminated: str | None, as_json: bool, **settings: Any
) -> None:
    """Turn the policy SOURCE into a bundle.

    SOURCE is a Stable-Baselines3 zip or its folder, an .onnx actor, a Keras model or a SavedModel. A bundle holds the
    deterministic actor as ONNX, float32 and quantized TFLite, C array, golden vectors, manifest and model card. The float
    policy is compared with the source's own answers, and each stage must do as well in episodes as the source.

    Exit status 1 when the policy fails in every episode, or does worse quantized than in float: the bundle then goes to a folder
    NAME.rejected. An old bundle stays as it was until all has succeeded.
    """
    from balance_hil.exporting import export

    if source.parent == MODELS and settings["output"] is None:  # a shipped policy by its name stays as it is
        settings["output"] = POLICIES / source.name
    config = ExportConfig(
        source=source,
        options=read_yaml(options) if options else {},
        period_s=period_ms / 1000 if period_ms else None,
        terminated=cast(Terminated, terminated or ""),
        max_steps=settings.pop("steps"),
        **settings,
    )
    columns = (TextColumn("{task.description:<18}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=stderr) as bars:
        result = export(config, _Bars(bars).update)
    for warning in result.warnings:
        print_warning(warning)
    if as_json:
        print_json(_document(result))
    else:
        print_result(result)
    sys.exit(0 if result.verdict.good else 1)


class _Bars:
    """One progress bar for each step, created at its first report."""

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
    bundle = result.bundle
    return {
        "bundle": {"name": bundle.path.name, "id": bundle.id, "path": str(bundle.path)},
        "source": dict(bundle.source),
        "environment": bundle.spec.environment,
        "checked_against": dict(bundle.checked_against),
        "normalized": bundle.normalization is not None,
        "stages": [stage.to_dict() for stage in result.stages],
        "operators": bundle.metrics["operators"],
        "arena_needed_bytes": bundle.metrics["arena_needed_bytes"],
        "rounding_invariant": bundle.metrics.get("rounding_invariant"),
        "warnings": list(result.warnings),
        "conversion_s": round(result.conversion_s, 3),
        "wall_s": round(result.wall_s, 3),
        "verdict": result.verdict.to_dict(),
    }


def print_result(result: ExportResult) -> None:
    """Prints the table of stages, what the bundle needs, and the verdict to stdout."""
    bundle, metrics = result.bundle, result.bundle.metrics
    success = ["success"] if metrics["episodes"] else []
    numbers = ("bytes", "max error", "RMS error", *success, *result.stages[0].metrics)
    table = make_table("stage", *(f">{heading}" for heading in numbers))
    for stage in result.stages:
        table.add_row(
            stage.name,
            str(stage.size_bytes),
            "" if stage.max_error is None else f"{stage.max_error:.2g}",
            "" if stage.rms_error is None else f"{stage.rms_error:.2g}",
            *([] if stage.success_rate is None else [f"{stage.success_rate:.0%}"]),
            *(f"{value:.4g}" for value in stage.metrics.values()),
        )
    operators = ", ".join(f"{count} {name}" for name, count in metrics["operators"].items())
    stdout.print(table)
    episodes = f"; success: {metrics['episodes']} episodes of {metrics['episode_steps']} steps" if success else ""
    stdout.print(f"errors: outputs against the stage above{episodes}", style="dim")
    stdout.print(f"{bundle.kind.name} operators: {operators}; arena: {metrics['arena_needed_bytes']} bytes")
    if bundle.normalization:
        stdout.print(f"observations are normalized on the board, by {bundle.source['normalization']}")
    stdout.print(_checked(bundle), soft_wrap=True)
    if proof := metrics.get("rounding_invariant"):
        _print_rounding_invariant(proof)
    stdout.print(f"conversion {result.conversion_s:.1f} s, with the checks {result.wall_s:.1f} s")
    stdout.print(f"bundle {bundle.id} in {bundle.path}", soft_wrap=True)
    print_verdict(result.verdict)


def _checked(bundle: Bundle) -> str:
    checked = bundle.checked_against or {"by": None, "why": "it was exported by an older version"}
    if not checked["by"]:
        return f"not checked against the source's own answers: {checked['why']}"
    return (
        f"checked against {checked['by']}: {checked['rows']} observations, actions differ by {checked['max_error']:.2g} of half "
        "their range at most"
    )


def _print_rounding_invariant(proof: Mapping[str, Any]) -> None:
    different = ", ".join(f"{name} {count}" for name, count in proof["outputs_unlike_tflm"].items())
    stdout.print(
        f"rounding-invariant: RMS error {proof['validation_rms_error_before_fine_tuning']:.2g} before fine-tuning, "
        f"{proof['validation_rms_error']:.2g} after (ordinary int8: {proof['validation_rms_error_ordinary']:.2g})"
    )
    stdout.print(f"outputs unlike TFLM's on {proof['random_inputs']} random inputs: {different}")
