"""``hil evaluate``: episodes of a policy on any runtime or board."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from balance_hil import evaluating
from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.cli.console import make_table, print_json, print_verdict, say, stderr, stdout
from balance_hil.cli.crash_repro import kept_for_replay
from balance_hil.cli.evaluate_robustness import print_suite
from balance_hil.cli.params import (
    BOARD,
    CAMPAIGN,
    ENVIRONMENT,
    JSON,
    OPTIONS,
    POLICY,
    SEED,
    STEPS,
    Access,
    board_options,
    campaign_options,
    only,
)  # fmt: skip
from balance_hil.cli.remember import HISTORY, remember
from balance_hil.environment import require_control_steps
from balance_hil.errors import UsageError
from balance_hil.evaluating import RUNTIMES, OpenPolicy
from balance_hil.evaluating.robustness import load_suite, own_suite
from balance_hil.evaluating.robustness_picture import draw
from balance_hil.evaluating.robustness_run import RobustnessConfig, run_suite
from balance_hil.farm.campaign import Campaign
from balance_hil.files import read_yaml, replacing
from balance_hil.metrics import EpisodeMetrics, EvaluationSummary, Verdict, summarize
from balance_hil.rollout import EVALUATION_SEED_BASE, RolloutStep

SUITE_EPISODES = 50
_PATH = click.Path(path_type=Path, dir_okay=False)
STDOUT = Path("-")
# Parameters of both kinds of tables.
_SUITE = ("environment", "episodes", "steps", "seed", "output", "picture", *CAMPAIGN, "as_json")


@click.command()
@click.argument("policies", metavar="POLICY...", nargs=-1, required=True, type=POLICY)
@click.option("-r", "--runtime", type=click.Choice(RUNTIMES), default="tflm", show_default=True, help="What executes the policy.")
@ENVIRONMENT
@OPTIONS
@click.option("-b", "--board", type=BOARD, default="native", show_default=True, help="For the runtime board; see hil boards.")
@board_options
@click.option("--episodes", type=click.IntRange(min=1), help="Default: 10, and 1 with --view or --video.")
@STEPS
@SEED
@click.option(
    "--show-io", type=_PATH, metavar="[FILE.csv]", is_flag=False, flag_value="-",
    help="Print every observation and action as CSV, or write them to a file.",
)  # fmt: skip
@click.option("--view", is_flag=True, help="Watch in a window.")
@click.option("--video", type=_PATH, help="Render to an .mp4 file; needs no display.")
@click.option(
    "--robustness", "--stress", "robustness", is_flag=True,
    help="Evaluate every POLICY under every condition of a suite, on all cores, and print a table; 50 episodes each.",
)  # fmt: skip
@click.option(
    "--faults", is_flag=True,
    help="Evaluate every POLICY under injected faults of growing severity on the native board: docs/faults.md.",
)  # fmt: skip
@click.option("--suite", type=_PATH, metavar="FILE.yaml", help="With --robustness: a file of custom conditions.")
@click.option("--spec", type=_PATH, metavar="SIGNALS.yaml", help="Signal table of a bare .tflite: docs/policies.md.")
@click.option(
    "-o",
    "--output",
    metavar="FILE|K",
    help="With --robustness or --faults: also write it as Markdown. Of a .tflite: which output is the action.",
)
@click.option("--picture", type=_PATH, help="With --robustness or --faults: also plot it to an .svg, .png or .pdf file.")
@campaign_options
@click.option("--trust", is_flag=True, help="Allow a checkpoint that was not exported to run its pickled code.")
@HISTORY
@JSON
def command(
    policies: tuple[Path, ...], runtime: str, environment: str | None, options: Path | None, board: str, access: Access,
    episodes: int | None, steps: int | None, seed: int, show_io: Path | None, view: bool, video: Path | None, robustness: bool,
    faults: bool, suite: Path | None, output: str | None, picture: Path | None, trust: bool, as_json: bool, spec: Path | None,
    campaign: Campaign,
) -> None:  # fmt: skip
    """Run episodes of POLICY (a bundle, for the runtime torch a checkpoint, or a .tflite with --spec) and print the results.

    Exit status 0 when no episode failed; with --robustness when every policy succeeds in at least 95 % under every condition,
    with --faults when it does so without faults.
    """
    table_of = partial(
        RobustnessConfig,
        policies=policies,
        runtime=runtime,
        environment=environment,
        seeds=_seeds(seed, episodes or SUITE_EPISODES),
        max_steps=steps,
        trust=trust,
    )
    path = Path(output) if output else None
    if faults:
        from balance_hil.benchmarks import faults as fault_suite
        from balance_hil.benchmarks import faults_picture

        only((*_SUITE, "faults"), "--faults")
        run_faults = partial(fault_suite.run_fault_suite, table_of(conditions=fault_suite.conditions()), campaign=campaign)
        print_suite(run_faults, faults_picture.draw, path, picture, as_json=as_json, judged=fault_suite.NONE.name)
    if robustness:
        only((*_SUITE, "robustness", "runtime", "suite", "trust"), "--robustness")
        conditions = load_suite(suite) if suite else own_suite(policies[0], environment)
        print_suite(partial(run_suite, table_of(conditions=conditions), campaign=campaign), draw, path, picture, as_json=as_json)
    only(
        set(click.get_current_context().params) - {"suite", "picture", *CAMPAIGN},
        "an evaluation without --robustness or --faults",
    )
    if len(policies) > 1:
        raise UsageError(
            "several policies are compared in a robustness suite only", "add --robustness, or evaluate one after the other"
        )
    policy = policies[0]
    if runtime != evaluating.BOARD_RUNTIME and access != Access():
        raise UsageError("--port, --baud, --engine and --wait are for a board", "add --runtime board, or leave them out")
    if view and video:
        raise UsageError("--view and --video exclude each other", "record first, then watch the video")
    if show_io == STDOUT and as_json:
        raise UsageError("--show-io - and --json both write to stdout", "write to a file: --show-io io.csv")
    count = episodes or (1 if view or video else 10)
    where = [board]

    def connect(bundle: Bundle) -> Board:
        device = access.connect(board, bundle)
        where[0] = device.name
        return device

    opening = evaluating.open_policy(
        policy,
        runtime,
        environment=environment,
        options=read_yaml(options) if options else None,
        connect=connect,
        trust=trust,
        spec=spec,
        output=output,
        render_mode="human" if view else "rgb_array" if video else None,
    )
    with opening as opened:
        run: Callable[..., list[EpisodeMetrics]] = evaluating.evaluate
        if view:
            run = evaluating.watch
        elif video:
            run = partial(evaluating.film, path=video)
        with kept_for_replay("evaluate"):
            results = _with_progress(run, opened, _seeds(seed, count), steps, one_by_one=bool(view or video), show_io=show_io)
        summary = summarize(results, opened.environment.metrics)
        verdict = Verdict((f"{summary.failed} of {summary.episodes} episodes failed",) if summary.failed else ())
        document = _document(policy, opened, runtime, summary, results, verdict)
        remember("evaluate", document, board=where[0] if runtime == "board" else "")
        if as_json:
            print_json(document)
        else:
            _print(results, summary, runtime, opened, verdict)
    if video:
        say(f"video: {video}")
    sys.exit(0 if verdict.good else 1)


def _seeds(first: int, count: int) -> range:
    return range(EVALUATION_SEED_BASE + first, EVALUATION_SEED_BASE + first + count)


def _with_progress(
    run: Callable[..., list[EpisodeMetrics]],
    opened: OpenPolicy,
    seeds: range,
    steps: int | None,
    *,
    one_by_one: bool,
    show_io: Path | None,
) -> list[EpisodeMetrics]:
    limit = require_control_steps(opened.environment, steps)
    spec = opened.environment.spec
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with contextlib.ExitStack() as stack:
        rows = None
        if show_io is not None:
            file = sys.stdout if show_io == STDOUT else stack.enter_context(stack.enter_context(replacing(show_io)).open("w"))
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["episode", "step", *(signal.name for signal in (*spec.observation, *spec.action))])
        bars = stack.enter_context(Progress(*columns, console=stderr, transient=True, disable=show_io == STDOUT))
        task = bars.add_task("", total=limit * (len(seeds) if one_by_one else 1))

        def on_step(step: RolloutStep) -> None:
            if rows is not None:
                for episode, observation, outputs in zip(step.episodes, step.observations, step.outputs, strict=True):
                    values = (*observation.tolist(), *outputs.tolist())
                    rows.writerow([episode + 1, step.step, *(f"{value:.6f}" for value in values)])
            base = step.episodes[0] * limit if one_by_one else 0
            running = f"episode {step.episodes[0] + 1}" if one_by_one else f"{len(step.episodes)} running"
            bars.update(task, completed=base + step.step + 1, description=f"{running} of {len(seeds)}")

        return run(opened, seeds, max_steps=steps, on_step=on_step)


def _document(
    policy: Path,
    opened: OpenPolicy,
    runtime: str,
    summary: EvaluationSummary,
    results: list[EpisodeMetrics],
    verdict: Verdict,
) -> dict[str, object]:
    return {
        "bundle": {"name": policy.resolve().name, "id": opened.bundle_id, "path": str(policy)},
        "runtime": runtime,
        "environment": opened.environment.spec.environment,
        "options": opened.environment.options,
        "episodes": [result.to_dict() for result in results],
        "success_rate": summary.success_rate,
        "metrics": dict(summary.metrics),
        "verdict": verdict.to_dict(),
    }


def _print(results: list[EpisodeMetrics], summary: EvaluationSummary, runtime: str, opened: OpenPolicy, verdict: Verdict) -> None:
    metrics = opened.environment.metrics
    table = make_table(">seed", ">steps", ">failed", *(f">{metric.name.replace('_', ' ')}" for metric in metrics))  # they wrap
    for result in results:
        numbers = (f"{result.metrics[metric.name]:.4g}" for metric in metrics)
        table.add_row(str(result.seed), str(result.steps), Text("yes", "bold red") if result.failed else "no", *numbers)
    table.add_section()
    table.add_row("all", str(summary.steps), str(summary.failed), *(f"{value:.4g}" for value in summary.metrics.values()))
    stdout.print(table)
    good = summary.episodes - summary.failed
    spec = opened.environment.spec
    print_verdict(
        verdict, f"{good} of {summary.episodes} episodes of {spec.environment} without failure on the runtime {runtime}"
    )
