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
from typing import TypeVar

from balance_hil.environment import Environment, require_control_steps
from balance_hil.errors import UsageError
from balance_hil.evaluating import BOARD_RUNTIME, OpenPolicy, open_policy
from balance_hil.evaluating.robustness import Condition
from balance_hil.evaluating.robustness_table import RobustnessTable, SuitePolicy
from balance_hil.metrics import EpisodeMetrics
from balance_hil.processes import end_with_parent
from balance_hil.rollout import rollout
from balance_hil.scheduling import usable_cores

Work = TypeVar("Work")
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
class _Work:
    config: RobustnessConfig
    policy: Path
    condition: Condition
    seeds: Sequence[int]

    def open(self) -> AbstractContextManager[OpenPolicy]:
        config = self.config
        return open_policy(
            self.policy, config.runtime, environment=config.environment, options=self.condition.options, trust=config.trust
        )


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
    inspected = [_inspect(path, config) for path in config.policies]
    policies = tuple(policy for policy, _, _ in inspected)
    _, environment, steps = inspected[0]
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise UsageError(f"two policies have the same name: {', '.join(names)}", "name every policy once")
    episodes: dict[tuple[str, str], dict[int, EpisodeMetrics]] = {}
    work = _split(config)
    for count, (item, results) in enumerate(in_processes(_run, work, config.jobs or usable_cores()), start=1):
        cell = episodes.setdefault((policy_name(item.policy), item.condition.name), {})
        cell.update({episode.seed: episode for episode in results})
        on_progress(count / len(work), f"{policy_name(item.policy)}, {item.condition.title}")
    return RobustnessTable(
        runtime=config.runtime,
        environment=environment.spec.environment,
        metrics=environment.metrics,
        max_steps=steps,
        policies=policies,
        conditions=config.conditions,
        episodes={key: tuple(cell[seed] for seed in config.seeds) for key, cell in episodes.items()},
    )


def in_processes(
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
        with _Work(config, path, condition, ()).open() as opened:
            policy = SuitePolicy(name=policy_name(path), path=str(path), id=opened.bundle_id)
            environment, steps = opened.environment, require_control_steps(opened.environment, config.max_steps)
    return policy, environment, steps


def _split(config: RobustnessConfig) -> list[_Work]:
    seeds = list(config.seeds)
    batches = [seeds[first : first + _BATCH] for first in range(0, len(seeds), _BATCH)]
    return [
        _Work(config, policy, condition, batch)
        for policy in config.policies
        for condition in config.conditions
        for batch in batches
    ]


def _run(work: _Work) -> list[EpisodeMetrics]:
    """Runs in a worker process."""
    with work.open() as opened:
        if "torch" in sys.modules:  # one process per core already: torch's own threads would oversubscribe them
            sys.modules["torch"].set_num_threads(1)
        max_steps = work.config.max_steps
        return rollout(opened.runtime.act_batch, opened.environment, work.seeds, max_steps=max_steps, n_threads=1)
