"""Runs policies under conditions, one batch of episodes per task of a campaign."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from balance_hil.documents import EpisodeDocument
from balance_hil.environment import Environment, require_control_steps
from balance_hil.errors import UsageError
from balance_hil.evaluating import BOARD_RUNTIME, OpenPolicy, open_policy
from balance_hil.evaluating.robustness import Condition
from balance_hil.evaluating.robustness_table import RobustnessTable, SuitePolicy
from balance_hil.farm.campaign import HERE, Campaign, Task, content_hash
from balance_hil.metrics import EpisodeMetrics
from balance_hil.rollout import rollout

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
    trust: bool = False


@dataclass(frozen=True)
class Work:
    """Episodes of one policy under one condition, for one task."""

    config: RobustnessConfig
    policy: Path
    condition: Condition
    seeds: Sequence[int]


def run_suite(
    config: RobustnessConfig,
    on_progress: Callable[[float, str], None] = lambda done, what: None,
    campaign: Campaign = HERE,
) -> RobustnessTable:
    """Every policy under every condition, in the same episodes; ``on_progress`` gets the completed share and the last task.

    Raises:
        UsageError: the runtime is a board, or two policies have one name.
        And what ``Campaign.run``, ``open_policy`` and ``rollout`` raise.
    """
    if config.runtime == BOARD_RUNTIME:
        raise UsageError(
            "a robustness table is made in simulation", "choose a desktop runtime: --runtime tflm is what a board computes"
        )
    require_names(config.policies)
    inspected = [_inspect(path, config) for path in config.policies]
    policies = tuple(policy for policy, _, _ in inspected)
    _, environment, steps = inspected[0]
    episodes = run_work(_run, config, on_progress, campaign)
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
    campaign: Campaign,
    batch: int = _BATCH,
) -> dict[tuple[str, str], tuple[EpisodeMetrics, ...]]:
    """Episodes by policy and condition, in the order of the seeds; ``run`` gets a batch of them, wherever the campaign runs."""
    batches = [config.seeds[first : first + batch] for first in range(0, len(config.seeds), batch)]
    hashes = {policy: content_hash(policy) for policy in config.policies}
    tasks = [
        _task(run, Work(config, policy.resolve(), condition, seeds), hashes[policy])
        for seeds in batches
        for policy in config.policies
        for condition in config.conditions
    ]
    episodes: dict[tuple[str, str], dict[int, EpisodeMetrics]] = {}
    for count, (task, results) in enumerate(campaign.run(_documents, tasks), start=1):
        work: Work = task.arguments[1]
        name = policy_name(work.policy)
        found = [EpisodeMetrics(**result) for result in results]
        episodes.setdefault((name, work.condition.name), {}).update({episode.seed: episode for episode in found})
        good = sum(not episode.failed for episode in found)
        on_progress(count / len(tasks), f"{name}, {work.condition.title}: {good} of {len(found)} without failure")
    return {key: tuple(cell[seed] for seed in config.seeds) for key, cell in episodes.items()}


def _task(run: Callable[[Work], list[EpisodeMetrics]], work: Work, policy_hash: str) -> Task:
    config = work.config
    name = f"{policy_name(work.policy)}, {work.condition.title}, seeds {work.seeds[0]} to {work.seeds[-1]}"
    depends_on = {
        "suite": run.__module__,
        "runtime": config.runtime,
        "environment": config.environment,
        "steps": config.max_steps,
        "SHA-256 of the policy": policy_hash,
        "condition": dict(work.condition.options),
    }
    return Task(name, (run, work), depends_on)


def _documents(run: Callable[[Work], list[EpisodeMetrics]], work: Work) -> list[EpisodeDocument]:
    return [episode.to_dict() for episode in run(work)]


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
