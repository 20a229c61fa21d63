"""Episodes of a policy in simulation, all stepped side by side with one policy call per control step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from balance_hil.environment import Environment, open_batch, require_control_steps
from balance_hil.errors import UsageError
from balance_hil.metrics import EpisodeAccumulator, EpisodeMetrics

Float32Array = NDArray[np.float32]
ActBatch = Callable[[Float32Array], Float32Array]

# Training seeds its episodes with pairs of numbers (training.vec_env), evaluation counts up from here: no episode is in both.
EVALUATION_SEED_BASE = 10_000


class RolloutStep(NamedTuple):
    """One control step of the episodes that go on, handed to ``on_step``."""

    step: int  # 0, 1, ...
    episodes: list[int]  # indices into ``seeds``
    observations: Float32Array  # float32 [n, n_obs], inputs of the policy
    outputs: Float32Array  # float32 [n, n_act], outputs of the policy, within the limits of its signals


def evaluation_seeds(episodes: int) -> list[int]:
    """The first ``episodes`` evaluation seeds."""
    return list(range(EVALUATION_SEED_BASE, EVALUATION_SEED_BASE + episodes))


def rollout(
    act_batch: ActBatch,
    environment: Environment,
    seeds: Sequence[int],
    *,
    max_steps: int | None = None,
    on_step: Callable[[RolloutStep], None] | None = None,
    n_threads: int = 0,
) -> list[EpisodeMetrics]:
    """Runs one episode per seed and returns their metrics in the order of ``seeds``.

    Args:
        act_batch: policy, float32 [n, n_obs] to float32 [n, n_act]; n shrinks as episodes end.
        environment: which one; it stays open, but its current episode is discarded.
        seeds: one per episode; see ``evaluation_seeds``.
        max_steps: control steps after which an episode is truncated; by default the environment's own.
        on_step: called after every policy call, before the physics; what it raises ends the rollout.
        n_threads: threads of the physics where an environment has its own batch; 0: every core.

    Raises:
        NonFiniteInputError: an output of the policy is NaN or infinite.
        SimulationDivergedError: the physics is no longer finite.
        UsageError: no seed, ``max_steps`` below 1, or an environment without an episode length.
        What ``open_batch`` raises.
    """
    if not seeds or (max_steps is not None and max_steps < 1):
        raise UsageError("a rollout needs at least one episode and one step", "give --episodes 1 or more")
    limit = require_control_steps(environment, max_steps)
    batch = open_batch(environment, len(seeds), n_threads)
    accumulators = [EpisodeAccumulator(seed, environment.metrics) for seed in seeds]
    observations = np.stack([batch.reset(i, seed) for i, seed in enumerate(seeds)])
    results: list[EpisodeMetrics | None] = [None] * len(seeds)
    running = list(range(len(seeds)))
    for step in range(limit):
        outputs = environment.spec.clip(act_batch(observations))
        if on_step is not None:
            on_step(RolloutStep(step, running, observations, outputs))
        following, still = [], []
        for i, row, (observation, reward, terminated, truncated, info) in zip(
            running, outputs.tolist(), batch.step(outputs, running), strict=True
        ):
            accumulators[i].add(row, reward, info)
            if terminated or truncated or step == limit - 1:
                results[i] = accumulators[i].finish(environment.failed(terminated, truncated or step == limit - 1, info))
            else:
                following.append(observation)
                still.append(i)
        running = still
        if not running:
            break
        observations = np.stack(following)
    batch.close()
    return [result for result in results if result is not None]
