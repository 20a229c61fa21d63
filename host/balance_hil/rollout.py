"""Episodes of a policy in simulation, all stepped side by side with one policy call per control step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balance_hil.envs.balance import EPISODE_STEPS
from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.envs.balance.options import RobotOptions
from balance_hil.errors import UsageError
from balance_hil.metrics import EpisodeAccumulator, EpisodeMetrics

Float32Array = NDArray[np.float32]
ActBatch = Callable[[Float32Array], Float32Array]

# Training seeds its episodes with pairs of numbers (training.vec_env), evaluation counts up from here: no episode is in both.
EVALUATION_SEED_BASE = 10_000


class RolloutStep(NamedTuple):
    """One control step of the episodes that are still up, handed to ``on_step``."""

    step: int  # 0, 1, ...
    episodes: list[int]  # indices into ``seeds``
    observations: Float32Array  # float32 [n, n_obs], what the policy saw
    actions: Float32Array  # float32 [n, n_act], what it answered, clipped to +-1


def evaluation_seeds(episodes: int) -> list[int]:
    """The first ``episodes`` evaluation seeds."""
    return list(range(EVALUATION_SEED_BASE, EVALUATION_SEED_BASE + episodes))


def rollout(
    act_batch: ActBatch,
    environment: str,
    seeds: Sequence[int],
    *,
    max_steps: int | None = None,
    on_step: Callable[[RolloutStep], None] | None = None,
    reset_options: Mapping[str, Any] | None = None,
    n_threads: int = 0,
    options: RobotOptions | Mapping[str, Any] | None = None,
) -> list[EpisodeMetrics]:
    """Runs one episode per seed and returns their metrics in the order of ``seeds``.

    Args:
        act_batch: policy, float32 [n, n_obs] to float32 [n, n_act]; n shrinks as episodes end in a fall.
        environment: Gymnasium id of one of our environments.
        seeds: one per episode; see ``evaluation_seeds``.
        max_steps: control steps after which an episode has survived; by default the environment's 6000.
        on_step: called after every policy call, before the physics; what it raises ends the rollout.
        reset_options: passed to every reset.
        n_threads: threads of the physics; 0 takes every core.
        options: how the robot differs from the ideal one; None: the environment's own.

    Raises:
        UnknownEnvironmentError: no such environment.
        ConfigError: an unknown option or a value out of range.
        NonFiniteInputError: the policy gave a NaN or an infinity.
        SimulationDivergedError: the physics is no longer finite.
        UsageError: no seed, or ``max_steps`` below 1.
    """
    limit = EPISODE_STEPS if max_steps is None else max_steps
    if not seeds or limit < 1:
        raise UsageError("a rollout needs at least one episode and one step", "give --episodes 1 or more")
    batch = BalanceBatch(environment, len(seeds), n_threads, options)
    accumulators = [EpisodeAccumulator(seed) for seed in seeds]
    observations = np.stack([batch.reset(i, seed, reset_options) for i, seed in enumerate(seeds)])
    alive = list(range(len(seeds)))
    for step in range(limit):
        actions = np.clip(np.asarray(act_batch(observations), dtype=np.float32), -1.0, 1.0)
        if on_step is not None:
            on_step(RolloutStep(step, alive, observations, actions))
        outcomes = batch.step(actions, alive)
        for i, action, outcome in zip(alive, actions.tolist(), outcomes, strict=True):
            accumulators[i].add(action, outcome[4])
        if any(outcome[2] for outcome in outcomes):
            pairs = [(i, outcome) for i, outcome in zip(alive, outcomes, strict=True) if not outcome[2]]
            alive, outcomes = [i for i, _ in pairs], [outcome for _, outcome in pairs]
            if not alive:
                break
        observations = np.stack([outcome[0] for outcome in outcomes])
    survivors = set(alive)
    return [accumulator.finish(i in survivors) for i, accumulator in enumerate(accumulators)]
