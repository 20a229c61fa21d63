"""``hil evaluate``: survival, tracking and action_rate of a policy on any runtime or board."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from balance_hil import evaluating
from balance_hil.cli.console import print_json, stderr, stdout
from balance_hil.cli.crash_repro import kept_for_replay
from balance_hil.cli.evaluate_stress import stress as print_stress
from balance_hil.envs import balance as envs
from balance_hil.envs.balance.options import load_options
from balance_hil.errors import UsageError
from balance_hil.evaluating import RUNTIMES, OpenPolicy
from balance_hil.evaluating.stress import load_stresses
from balance_hil.evaluating.stress_run import StressConfig
from balance_hil.metrics import EpisodeMetrics, EvaluationSummary, summarize
from balance_hil.rollout import EVALUATION_SEED_BASE, RolloutStep
from balance_hil.spec import PolicySpec

STRESS_EPISODES = 50
_PATH = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("policies", metavar="POLICY...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-r", "--runtime", type=click.Choice(RUNTIMES), default="tflm", show_default=True, help="What executes the policy.")
@click.option("-e", "--env", "--environment", "environment", metavar="ID", help="Another environment than the policy's own.")
@click.option(
    "--options", type=_PATH, metavar="FILE.yaml", help="How the robot differs from the environment's: docs/environments.md."
)
@click.option("-b", "--board", default="native", show_default=True, help="For the runtime board: which one; see hil boards.")
@click.option("--port", help="For the runtime board: device or URL.")
@click.option("--episodes", type=click.IntRange(min=1), help="Default: 10, and 1 with --view or --video.")
@click.option("--steps", type=click.IntRange(min=1), help="Control steps of an episode; by default 6000 (30 s).")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="First episode, counted from the evaluation seeds."
)
@click.option("--show-io", is_flag=True, help="Print every observation and action.")
@click.option("--view", is_flag=True, help="Watch in MuJoCo's viewer, at real speed.")
@click.option("--video", type=_PATH, help="Render to an .mp4 file; needs no display.")
@click.option("--stress", is_flag=True, help="A table instead: every POLICY under every stress, on all cores; 50 episodes each.")
@click.option(
    "--stresses", type=_PATH, metavar="FILE.yaml", help="With --stress: a YAML file of your own instead of the shipped one."
)
@click.option("-o", "--output", type=_PATH, help="With --stress: also write it as Markdown.")
@click.option("--picture", type=_PATH, help="With --stress: also draw it, .svg, .png or .pdf.")
@click.option("--jobs", type=click.IntRange(min=1), help="With --stress: processes; by default one per core.")
@click.option("--trust", is_flag=True, help="For a checkpoint that was not exported: let it run pickled code.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    policies: tuple[Path, ...],
    runtime: str,
    environment: str | None,
    options: Path | None,
    board: str,
    port: str | None,
    episodes: int | None,
    steps: int | None,
    seed: int,
    show_io: bool,
    view: bool,
    video: Path | None,
    stress: bool,
    stresses: Path | None,
    output: Path | None,
    picture: Path | None,
    jobs: int | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Run episodes of POLICY (a bundle, or for the runtime torch a checkpoint) and say how it did.

    Exit status 0 when every episode was survived; with --stress when every policy survives at least 95 % under every stress.
    """
    if stress:
        _refuse({"--view": view, "--video": video, "--show-io": show_io, "--options": options, "--port": port}, "--stress")
        config = StressConfig(
            policies=policies,
            stresses=load_stresses(stresses),
            runtime=runtime,
            environment=environment or evaluating.DEFAULT_ENVIRONMENT,
            seeds=_seeds(seed, episodes or STRESS_EPISODES),
            max_steps=steps or envs.EPISODE_STEPS,
            jobs=jobs,
            trust=trust,
        )
        print_stress(config, output, picture, as_json=as_json)
    _refuse({"--stresses": stresses, "-o": output, "--picture": picture, "--jobs": jobs}, "an evaluation without --stress")
    if len(policies) > 1:
        raise UsageError("several policies are compared under stress only", "add --stress, or evaluate one after the other")
    policy = policies[0]
    if view and video:
        raise UsageError("--view and --video exclude each other", "record first, then watch the film")
    if show_io and as_json:
        raise UsageError("--show-io and --json both write to stdout", "leave one of them out")
    count = episodes or (1 if view or video else 10)
    with evaluating.open_policy(policy, runtime, environment=environment, board=board, port=port, trust=trust) as opened:
        if options is not None:
            opened = replace(opened, options=load_options(options, envs.config_for(opened.environment).options))
        run: Callable[..., list[EpisodeMetrics]] = evaluating.evaluate
        if view:
            run = evaluating.watch
        elif video:
            run = partial(evaluating.film, path=video)
        with kept_for_replay("evaluate"):
            results = _with_progress(run, opened, _seeds(seed, count), steps, one_by_one=bool(view or video), show_io=show_io)
    summary = summarize(results)
    if as_json:
        print_json(_document(policy, opened, runtime, summary, results))
    else:
        _print(results, summary, runtime, opened)
    if video:
        stderr.print(f"film: {video}", soft_wrap=True)
    sys.exit(0 if summary.survived == summary.episodes else 1)


def _refuse(given: Mapping[str, object], beside: str) -> None:
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} and {beside} exclude each other", f"leave {name} out")


def _seeds(first: int, count: int) -> range:
    return range(EVALUATION_SEED_BASE + first, EVALUATION_SEED_BASE + first + count)


def _with_progress(
    run: Callable[..., list[EpisodeMetrics]],
    opened: OpenPolicy,
    seeds: range,
    steps: int | None,
    *,
    one_by_one: bool,
    show_io: bool,
) -> list[EpisodeMetrics]:
    limit = steps or envs.EPISODE_STEPS
    spec = envs.spec_for(opened.environment)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    if show_io:
        print(_io_header(spec))
    with Progress(*columns, console=stderr, transient=True, disable=show_io) as bars:
        task = bars.add_task("", total=limit * (len(seeds) if one_by_one else 1))

        def on_step(step: RolloutStep) -> None:
            if show_io:
                print("\n".join(_io_rows(step)))
            base = step.episodes[0] * limit if one_by_one else 0
            up = f"episode {step.episodes[0] + 1} of {len(seeds)}" if one_by_one else f"{len(step.episodes)} of {len(seeds)} up"
            bars.update(task, completed=base + step.step + 1, description=up)

        return run(opened, seeds, max_steps=steps, on_step=on_step)


def _io_header(spec: PolicySpec) -> str:
    names = [f"{s.name:>21}" for s in (*spec.observation, *spec.action)]
    return f"{'episode':>7} {'step':>5} " + " ".join(names)


def _io_rows(step: RolloutStep) -> list[str]:
    return [
        f"{episode + 1:>7} {step.step:>5} " + " ".join(f"{v:>21.6f}" for v in (*observation.tolist(), *action.tolist()))
        for episode, observation, action in zip(step.episodes, step.observations, step.actions, strict=True)
    ]


def _document(
    policy: Path, opened: OpenPolicy, runtime: str, summary: EvaluationSummary, results: list[EpisodeMetrics]
) -> dict[str, object]:
    return {
        "bundle": str(policy),
        "id": opened.bundle_id,
        "runtime": runtime,
        "environment": opened.environment,
        "options": (opened.options or envs.config_for(opened.environment).options).to_dict(),
        "episodes": summary.episodes,
        "survival": summary.survival,
        "action_rate": summary.action_rate,
        "speed_error_rms": summary.speed_error_rms,
        "wheel_speed_difference_error_rms": summary.wheel_speed_difference_error_rms,
        "results": [dict(vars(result)) for result in results],
    }


def _print(results: list[EpisodeMetrics], summary: EvaluationSummary, runtime: str, opened: OpenPolicy) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("seed", "steps", "survived", "speed rms rad/s", "yaw rms rad/s", "action_rate"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            str(result.seed),
            str(result.steps),
            "yes" if result.survived else "[bold red]no[/]",
            f"{result.speed_error_rms_rad_s:.2f}",
            f"{result.wheel_speed_difference_error_rms_rad_s:.2f}",
            f"{result.action_rate:.4f}",
        )
    table.add_section()
    table.add_row(
        "all",
        str(summary.steps),
        f"{summary.survival:.0%}",
        f"{summary.speed_error_rms:.2f}",
        f"{summary.wheel_speed_difference_error_rms:.2f}",
        f"{summary.action_rate:.4f}",
    )
    stdout.print(table)
    stdout.print(f"{summary.survived} of {summary.episodes} episodes of {opened.environment} survived on the runtime {runtime}")
