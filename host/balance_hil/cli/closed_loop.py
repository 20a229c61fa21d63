"""``hil compare --closed-loop A,B``: two runtimes drive the same episodes."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import NoReturn

from rich.table import Table

from balance_hil.bundle import Bundle
from balance_hil.cli.console import make_table, print_json, print_verdict, stdout
from balance_hil.cli.params import CAMPAIGN, Access, only
from balance_hil.cli.progress import CampaignBar
from balance_hil.cli.remember import remember
from balance_hil.comparing.closed_loop import BOARD, METHOD, ClosedLoop, ClosedLoopConfig, Divergence, Pair, closed_loop
from balance_hil.errors import UsageError
from balance_hil.farm.campaign import Campaign
from balance_hil.runtimes import RUNTIME_NAMES

OPTIONS = ("loop", "episodes", "steps", "seed", "board", "port", "baud", "engine", "wait_s",
           *CAMPAIGN, "as_json")  # fmt: skip
MOST_DIVERGENCES = 20  # printed; --json has them all


def main(
    pair: str | None,
    folder: Path,
    board: str | None,
    access: Access,
    *,
    episodes: int | None,
    steps: int | None,
    seed: int,
    campaign: Campaign,
    as_json: bool,
) -> NoReturn:
    """Runs and prints the comparison, and exits: 0 when neither success nor a metric differs, 1 otherwise.

    Raises:
        UsageError: options that do not go together.
        HarnessError: what ``closed_loop`` raises.
    """
    names = _names(pair)
    only(OPTIONS, "--closed-loop")
    if BOARD not in names and (board or access != Access()):
        raise UsageError("--board, --port, --baud, --engine and --wait belong to a board", "name it: --closed-loop tflm,board")
    config = ClosedLoopConfig(episodes=episodes or ClosedLoopConfig.episodes, seed=seed, max_steps=steps)
    bundle = Bundle.load(folder)
    with access.held(board or Pair.board) if BOARD in names else nullcontext("") as where:
        chosen = Pair(bundle=folder.resolve(), a=names[0], b=names[1], board=where, access=asdict(access))
        with CampaignBar() as bar:
            result = closed_loop(chosen, config, bar, campaign)
    remember(
        "compare",
        result.to_dict() | {"bundle": None, "metrics": None},
        variant=f"closed loop {pair}, {result.environment}, {len(result.seeds)} episodes",
        board=where,
        bundle=(bundle.path.resolve().name, bundle.id),
        metrics={
            "success_rate_a": result.summary_a.success_rate,
            "success_rate_b": result.summary_b.success_rate,
            "diverged": result.diverged,
        },
    )
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)
    sys.exit(0 if result.verdict.good else 1)


def _names(pair: str | None) -> list[str]:
    if pair is None:
        raise UsageError("--episodes and --steps belong to --closed-loop", "name two: --closed-loop tflm,int8-xnnpack")
    names = [name.strip() for name in pair.split(",")]
    unknown = [name for name in names if name not in (*RUNTIME_NAMES, BOARD)]
    if len(names) != 2 or unknown or names == [BOARD, BOARD]:
        raise UsageError(
            f"--closed-loop takes two runtimes, not {pair!r}", f"choose two from {', '.join((*RUNTIME_NAMES, BOARD))}"
        )
    return names


def _print(result: ClosedLoop) -> None:
    stdout.print(
        f"bundle {result.bundle}, {result.environment}: {len(result.seeds)} episodes, seeds {result.seeds[0]} to "
        f"{result.seeds[-1]}, a = {result.a}, b = {result.b}",
        soft_wrap=True,
    )
    tables = [*([_divergence_table(result)] if result.divergences else []), _success_table(result)]
    tables += [_metrics_table(result)] if result.metrics else []
    for table in tables:
        stdout.print()
        stdout.print(table)
    stdout.print()
    _print_notes(result)
    print_verdict(result.verdict, result.summary)


def _print_notes(result: ClosedLoop) -> None:
    steps = [divergence.step for divergence in result.divergences]
    notes = [f"first differing answer: step {min(steps)} at the earliest, {median(steps):g} in the median"] if steps else []
    bound = result.success.discordant_bound
    if bound is not None:
        notes.append(f"in no episode one alone failed: with 95 % confidence at most {bound:.1%} of all episodes are")
    for note in (*notes, f"method: {METHOD}"):
        stdout.print(note, soft_wrap=True)


def _divergence_table(result: ClosedLoop) -> Table:
    shown = sorted(result.divergences, key=lambda divergence: divergence.step)[:MOST_DIVERGENCES]
    title = f"Where answers first differ: {len(shown)} of {len(result.divergences)} seeds, earliest first"
    table = make_table("output", "from layer", "not tflm", ">LSB", ">seed", ">step", ">diverged", title=title)
    for divergence in shown:
        diverged = "never" if divergence.trajectory_step is None else f"{divergence.trajectory_step}"
        numbers = (f"{divergence.lsb:+.3g}", f"{divergence.seed}", f"{divergence.step}", diverged)
        table.add_row(f"{divergence.output}", _layer(divergence), _who(divergence, result), *numbers)
    return table


def _layer(divergence: Divergence) -> str:
    return "" if divergence.first_layer is None else f"{divergence.first_layer} {divergence.first_operator}"


def _who(divergence: Divergence, result: ClosedLoop) -> str:
    return {None: "", "a": result.a, "b": result.b, "both": "both"}[divergence.unlike_tflm]


def _success_table(result: ClosedLoop) -> Table:
    success = result.success
    table = make_table(">both", ">a alone", ">b alone", ">neither", ">p", title="Same seeds without failure")
    counts = (success.both, success.only_a, success.only_b, success.neither)
    table.add_row(*(f"{count}" for count in counts), f"{success.p_value:.3g}", style="red" if success.differs else "")
    return table


def _metrics_table(result: ClosedLoop) -> Table:
    rows = result.metrics
    title = f"Metrics over the {rows[0].pairs} seeds in which neither failed; interval of {rows[0].confidence:.2%}"
    table = make_table("metric", ">a", ">b", ">b - a", ">interval", ">p", title=title)
    for row in rows:
        interval = "too few seeds" if row.interval is None else f"{row.interval[0]:+.1e} .. {row.interval[1]:+.1e}"
        numbers = (f"{row.mean_a:.4g}", f"{row.mean_b:.4g}", f"{row.mean_difference:+.1e}", interval, f"{row.p_value:.3g}")
        table.add_row(row.metric, *numbers, style="red" if row.differs else "")
    return table
