"""``hil train``: train a policy from scratch or from a checkpoint; or several, with ``--all`` and ``--seeds``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, get_args

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from balance_hil.cli.console import print_json, print_warning, say, stderr
from balance_hil.cli.params import JSON, continued_with
from balance_hil.errors import UsageError
from balance_hil.farm.campaign import Campaign
from balance_hil.files import new_run_folder
from balance_hil.spec import Terminated
from balance_hil.training import train
from balance_hil.training.algorithms import ALGORITHMS
from balance_hil.training.request import TrainingProgress, TrainingRequest, TrainingResult, default_output

_PATH = click.Path(path_type=Path)


@click.command(name="train")
@click.argument("algorithm", metavar="[ALGORITHM]", required=False)
@click.option("--all", "every", is_flag=True, help="Every algorithm, in parallel processes.")
@click.option("-e", "--env", "--environment", "environment", default="balance/Balance-v0", show_default=True, metavar="ID",
              help="Any Gymnasium id; my_package.envs:MyRobot-v0 imports the module first.")  # fmt: skip
@click.option("--options", type=_PATH, metavar="FILE.yaml", help="Arguments of the environment, as hil identify writes them.")
@click.option("--period-ms", type=click.FloatRange(min=0, min_open=True), metavar="MS",
              help="Control period, if the environment does not declare one.")  # fmt: skip
@click.option("--terminated", type=click.Choice([each for each in get_args(Terminated) if each]), default=None,
              help="Meaning of termination.  [default: as the environment declares it]")  # fmt: skip
@click.option("--seed", type=int, help="Seed of weights and episodes.  [default: 0, or the checkpoint's]")
@click.option("--seeds", metavar="0-4", help="Several seeds, in parallel processes.  [default with --all: 0]")
@click.option("--steps", type=click.IntRange(min=1), help="Maximum number of environment steps.  [default: the configuration's]")
@click.option("-o", "--output", type=_PATH, help="Output folder.  [default: policies/NAME; of several: runs/matrix_N]")
@click.option(
    "--config",
    type=_PATH,
    metavar="FILE.yaml",
    help="Hyper-parameters that differ from the shipped ones; or the name of a shipped file: ppo-robust.",
)
@click.option(
    "--resume", type=_PATH, metavar="FOLDER",
    help="Continue from a checkpoint, in runs/ or models/; of several trainings: their folder, runs/matrix_N.",
)  # fmt: skip
@click.option("--init-from", type=_PATH, metavar="FOLDER", help="Begin with the weights of this policy (warm start).")
@click.option(
    "--device", default="cpu", show_default=True, help="Device of the networks: cpu, cuda, or auto (a GPU if torch finds one)."
)
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads of the physics.  [default: every core]")
@click.option("--jobs", "--processes", "processes", type=click.IntRange(min=1),
              help="Maximum number of parallel trainings.  [default: one per core]")  # fmt: skip
@click.option("--cluster", metavar="local|ADDRESS", help="With several trainings: use a dask cluster: docs/campaigns.md.")
@click.option("--tune", type=click.IntRange(min=1), metavar="N", help="Search hyper-parameters in N trials: docs/campaigns.md.")
@click.option("--space", type=_PATH, metavar="FILE.yaml", help="With --tune: what is searched.  [default: the configuration's]")
@click.option(
    "--export/--no-export", default=True, help="With several trainings: also export the good policies.", show_default=True
)
@click.option(
    "--normalize-observations", is_flag=True, help="Normalize observations by their running mean and deviation (VecNormalize)."
)
@click.option("--force", is_flag=True, help="Replace a policy in the output folder; a bundle is never replaced.")
@click.option("--runs", type=_PATH, default=Path("runs"), show_default=True, help="Folder of TensorBoard logs and checkpoints.")
@JSON
def command(
    algorithm: str | None,
    every: bool,
    environment: str,
    period_ms: float | None,
    terminated: Terminated | None,
    seeds: str | None,
    output: Path | None,
    processes: int | None,
    cluster: str | None,
    tune: int | None,
    space: Path | None,
    export: bool,
    runs: Path,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a policy for any environment with ALGORITHM: ppo, a2c, sac, td3 or ddpg; lqr computes the balance robot's baseline.

    The policy is evaluated at intervals in full-length episodes that are not used in training; the best one is kept. Training
    ends after --steps, or with stop_when_good as soon as no episode fails and every limit of the configuration is kept. Ctrl-C
    leaves a checkpoint to --resume from.

    With --all or --seeds several trainings run side by side; results.md and results.json compare them. --tune N searches
    hyper-parameters.

    Exit status: 0 when no episode of the evaluation fails and every limit is kept, 1 otherwise, 130 after Ctrl-C.
    """
    names = _algorithms(algorithm, every)
    request = TrainingRequest(
        algorithm=names[0],
        environment=environment,
        output=output or default_output(environment, names[0]),
        period_s=period_ms / 1e3 if period_ms else None,
        terminated=terminated or "",
        runs=runs,
        **settings,
    )
    if tune is not None:
        if every or seeds is not None:
            raise UsageError("--tune is for one training", "give --seed instead of --seeds, and an algorithm instead of --all")
        from balance_hil.cli.train_tune import TASKS as TRIALS
        from balance_hil.cli.train_tune import tune as search

        folder = request.resume or output or new_run_folder(runs, "tune")
        campaign = Campaign(jobs=processes, cluster=cluster, results=folder / TRIALS)
        with continued_with(folder):
            search(request, tune, space, folder, campaign, as_json=as_json)
    if space is not None:
        raise UsageError("--space is for a search", "add --tune 20")
    if every or seeds is not None:
        folder = request.resume or output or new_run_folder(runs, "matrix")
        with continued_with(folder):
            _train_several(request, names, seeds or "0", folder, processes, cluster, export, as_json)
    if cluster is not None:
        raise UsageError("--cluster is for several trainings", "add --seeds 0-4, --all or --tune 20")
    with _Display() as display:
        result = train(request, display.show)
    if result.interrupted:
        _say_interrupted(request, result)
        sys.exit(130)
    _say_result(result)
    if as_json:
        print_json(_document(result))
    if not result.good:
        sys.exit(1)


def _algorithms(algorithm: str | None, every: bool) -> list[str]:
    if every and algorithm is not None:
        raise UsageError("--all and an algorithm exclude each other", "leave one of them out")
    if every:
        return list(ALGORITHMS)
    if algorithm is None:
        raise UsageError("which algorithm?", f"name one of {', '.join(ALGORITHMS)}, or give --all")
    return [algorithm]


def _train_several(
    request: TrainingRequest, names: list[str], seeds: str, folder: Path,
    processes: int | None, cluster: str | None, export: bool, as_json: bool,
) -> NoReturn:  # fmt: skip
    from balance_hil.cli.train_matrix import TASKS, parse_seeds, train_matrix

    if request.seed is not None:
        raise UsageError("--seed is for one training", "give --seeds instead")
    if request.resume is not None and not (folder / TASKS).is_dir():
        raise UsageError(f"{folder} is not the folder of several trainings", "name one of runs/: --resume runs/matrix_1")
    if request.config is not None and len(names) > 1:
        raise UsageError("--config is for one algorithm", "name the algorithm instead of --all")
    force = request.force or request.resume is not None  # a training that was cut off may have left a policy
    each = replace(request, runs=folder / "runs", resume=None, force=force)
    requests = [
        replace(each, algorithm=name, seed=seed, output=folder / f"{name}-{seed}")
        for name in names
        for seed in parse_seeds(seeds)
    ]
    campaign = Campaign(cluster=cluster, results=folder / TASKS)
    train_matrix(requests, folder, campaign, processes=processes or os.cpu_count() or 1, export=export, as_json=as_json)


class _Display:
    """Progress bar on stderr, there from the first report on: an error before it stands alone."""

    def __init__(self) -> None:
        self._progress = Progress(
            TimeElapsedColumn(),
            BarColumn(bar_width=12),
            TextColumn("{task.completed}/{task.total} return {task.fields[episode_return]} success {task.fields[success_rate]}"),
            TextColumn("{task.description}", style="dim"),
            console=stderr,
        )
        self._task = self._progress.add_task("starting", total=None, success_rate="-", episode_return="-")

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, progress: TrainingProgress) -> None:
        """Displays a report."""
        self._progress.start()
        self._progress.update(
            self._task,
            description=f"checking {progress.evaluation_step}" if progress.phase == "evaluating" else progress.phase,
            total=progress.total_steps,
            completed=progress.steps,
            success_rate="-" if progress.success_rate is None else f"{progress.success_rate:.0%}",
            episode_return="-" if progress.episode_return is None else f"{progress.episode_return:.0f}",
        )


def _document(result: TrainingResult) -> dict[str, Any]:
    return {
        "algorithm": result.record.algorithm,
        "environment": result.record.environment,
        "seed": result.record.seed,
        **result.figures(),
        "bundle": str(result.output),
        "tensorboard": str(result.tensorboard) if result.tensorboard else None,
    }


def _say_result(result: TrainingResult) -> None:
    record, evaluated = result.record, result.record.evaluation
    say(
        f"{evaluated['episodes'] - evaluated['failed']} of {evaluated['episodes']} unseen episodes without failure; "
        + ", ".join(f"{name} {value:.4g}" for name, value in evaluated["metrics"].items())
    )
    made = f"{record.steps} steps, {record.wall_s:.1f} s of training" if record.steps else f"computed in {record.wall_s:.2f} s"
    say(f"{made} and {record.evaluation_wall_s:.1f} s of evaluation")
    curves = f"; curves: tensorboard --logdir {result.tensorboard}" if result.tensorboard else ""
    say(f"wrote {result.output}{curves}")
    if result.good:
        say(f"next: hil export {result.output}")
    else:
        what = "episodes failed" if record.success_rate != 1.0 else "a limit is not kept"
        print_warning(f"{what}; train longer (--steps) or with another --seed")


def _say_interrupted(request: TrainingRequest, result: TrainingResult) -> None:
    say(f"interrupted after {result.record.steps} steps; checkpoint in {result.checkpoint}")
    again = f"hil train {request.algorithm} -e {request.environment} --resume {result.checkpoint} -o {request.output}"
    say(f"continue: {again}")
