"""Runs policies under conditions, one batch of episodes per process, on every core."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from balance_hil.environment import Environment, require_control_steps
from balance_hil.errors import UsageError
from balance_hil.evaluating import BOARD_RUNTIME, OpenPolicy, open_policy
from balance_hil.evaluating.robustness import Condition
from balance_hil.evaluating.robustness_table import RobustnessTable, SuitePolicy
from balance_hil.metrics import EpisodeMetrics
from balance_hil.processes import end_with_parent
from balance_hil.rollout import rollout
from balance_hil.scheduling import usable_cores

_BATCH = 25  # episodes side by side: more are hardly faster per episode, fewer spread better over the cores


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig:
    """What to run."""

    policies: tuple[Path, ...]
    conditions: tuple[Condition, ...]
    runtime: str
    environment: str | None  # None: each policy's own
    seeds: range
    max_steps: int | None = None  # control steps of an episode; None: the environment's own
    jobs: int | None = None  # processes; None: one per core
    trust: bool = False


@dataclass(frozen=True)
class Work:
    """Episodes of one policy under one condition, for one process."""

    config: RobustnessConfig
    policy: Path
    condition: Condition
    seeds: Sequence[int]


def run_suite(config: RobustnessConfig, on_progress: Callable[[float, str], None] = lambda done, what: None) -> RobustnessTable:
    """Every policy under every condition, in the same episodes; ``on_progress`` gets the completed share, 0..1, and the last job.

    Raises:
        UsageError: the runtime is a board, or two policies have one name.
        And what ``open_policy`` and ``rollout`` raise.
    """
    if config.runtime == BOARD_RUNTIME:
        raise UsageError(
            "a robustness table is made in simulation", "choose a desktop runtime: --runtime tflm is what a board computes"
        )
    require_names(config.policies)
    inspected = [_inspect(path, config) for path in config.policies]
    policies = tuple(policy for policy, _, _ in inspected)
    _, environment, steps = inspected[0]
    episodes = run_work(_run, config, on_progress)
    return RobustnessTable(
        runtime=config.runtime,
        environment=environment.spec.environment,
        metrics=environment.metrics,
        max_steps=steps,
        policies=policies,
        conditions=config.conditions,
        episodes=episodes,
    )


def require_names(policies: Sequence[Path]) -> None:
    """Raises UsageError where two policies would have one name in the table."""
    names = [policy_name(policy) for policy in policies]
    if len(set(names)) < len(names):
        raise UsageError(f"two policies have the same name: {', '.join(names)}", "name every policy once")


def run_work(
    run: Callable[[Work], list[EpisodeMetrics]],
    config: RobustnessConfig,
    on_progress: Callable[[float, str], None],
    batch: int = _BATCH,
) -> dict[tuple[str, str], tuple[EpisodeMetrics, ...]]:
    """Episodes by policy and condition, in the order of the seeds; ``run`` is called in other processes, with a batch of them."""
    batches = [config.seeds[first : first + batch] for first in range(0, len(config.seeds), batch)]
    work = [
        Work(config, policy, condition, seeds)
        for seeds in batches
        for policy in config.policies
        for condition in config.conditions
    ]
    episodes: dict[tuple[str, str], dict[int, EpisodeMetrics]] = {}
    for count, (item, results) in enumerate(_in_processes(run, work, config.jobs or usable_cores()), start=1):
        name = policy_name(item.policy)
        episodes.setdefault((name, item.condition.name), {}).update({episode.seed: episode for episode in results})
        on_progress(count / len(work), f"{name}, {item.condition.title}")
    return {key: tuple(cell[seed] for seed in config.seeds) for key, cell in episodes.items()}


def _in_processes(
    run: Callable[[Work], list[EpisodeMetrics]], work: Sequence[Work], jobs: int
) -> Iterator[tuple[Work, list[EpisodeMetrics]]]:
    """What ``run`` returns for each piece of work, as it becomes ready. One job needs no other process."""
    if min(jobs, len(work)) == 1:
        yield from ((item, run(item)) for item in work)
        return
    others = set(multiprocessing.active_children())
    # "spawn": a forked child would inherit the threads of MuJoCo and torch, and none of their locks.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(work)), mp_context=context, initializer=_ignore_interrupts)
    try:
        futures = {pool.submit(run, item): item for item in work}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:  # without waiting for the running episodes
            process.terminate()
        raise
    pool.shutdown()


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process; the first one ends the others, and they end without it, too."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def policy_name(path: Path) -> str:
    """Name of a policy in the table: its folder."""
    folder = path if path.suffix != ".zip" else path.parent
    return folder.resolve().name


def _inspect(path: Path, config: RobustnessConfig) -> tuple[SuitePolicy, Environment, int]:
    """Opens a policy under every condition in this process, so that errors surface before any episode runs."""
    for condition in config.conditions:
        with _open(config, path, condition) as opened:
            policy = SuitePolicy(name=policy_name(path), path=str(path), id=opened.bundle_id)
            environment, steps = opened.environment, require_control_steps(opened.environment, config.max_steps)
    return policy, environment, steps


def _open(config: RobustnessConfig, policy: Path, condition: Condition) -> AbstractContextManager[OpenPolicy]:
    return open_policy(policy, config.runtime, environment=config.environment, options=condition.options, trust=config.trust)


def _run(work: Work) -> list[EpisodeMetrics]:
    """Runs in a worker process."""
    with _open(work.config, work.policy, work.condition) as opened:
        if "torch" in sys.modules:  # one process per core already: torch's own threads would oversubscribe them
            sys.modules["torch"].set_num_threads(1)
        max_steps = work.config.max_steps
        return rollout(opened.runtime.act_batch, opened.environment, work.seeds, max_steps=max_steps, n_threads=1)
