"""The training episodes as a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from balance_hil.environment import Environment, open_batch
from balance_hil.errors import NonFiniteInputError


class TrainingEnvs(VecEnv):  # type: ignore[misc]  # the base class has no types
    """``n`` training episodes of one environment; an episode that ends is reset at once.

    Args:
        environment: an open one; it stays the caller's.
        n: number of episodes side by side.
        episode_steps: an episode is cut off (truncated) after this many control steps.
        entropy: what seeds the episodes. At least two numbers, so that no episode equals one of evaluation, whose seeds
            are single numbers.
        n_threads: of the physics where the environment has a batch of its own; 0 takes every core.
        far_starts: share of the episodes that begin with the environment's ``far_start``.
    """

    render_mode = None  # read by Stable-Baselines3

    def __init__(
        self,
        environment: Environment,
        n: int,
        episode_steps: int,
        entropy: Sequence[int],
        n_threads: int = 0,
        far_starts: float = 0.0,
    ) -> None:
        super().__init__(n, environment.env.observation_space, environment.env.action_space)
        self._environment = environment
        self._batch = open_batch(environment, n, n_threads)
        self._every = list(range(n))
        self._state_before = self._state()
        self._observations = np.zeros((n, environment.spec.n_obs), np.float32)
        self._outputs = np.zeros((n, environment.spec.n_act), np.float32)
        self._episode_steps = episode_steps
        self._far_starts = far_starts
        self._entropy = tuple(entropy)
        self._starts = np.random.default_rng((*self._entropy, n))
        self._returns = [0.0] * n
        self._lengths = [0] * n

    def reset(self) -> NDArray[np.float32]:
        """Starts every episode; observations, float32 [n, *shape of an observation]."""
        self._returns = [0.0] * self.num_envs
        self._lengths = [0] * self.num_envs
        seeds = [np.random.SeedSequence((*self._entropy, i)) for i in range(self.num_envs)]
        return self._shaped(np.stack([self._batch.reset(i, seed, self._start()) for i, seed in enumerate(seeds)]))

    def step_async(self, actions: NDArray[Any]) -> None:
        """Notes the actions, [n, *shape of an action]."""
        self._outputs = self._environment.spec.outputs_for(actions)

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """One control step of every episode: observations, rewards, dones, infos.

        Raises:
            NonFiniteInputError: an observation or a reward is not finite.
            SimulationDivergedError: the physics is no longer finite.
        """
        self._state_before = self._state()
        outcomes = self._batch.step(self._outputs, self._every)
        observations = [outcome[0] for outcome in outcomes]
        rewards = np.array([outcome[1] for outcome in outcomes], np.float32)
        dones = np.zeros(self.num_envs, np.bool_)
        infos = []
        for i, (observation, reward, terminated, truncated, info) in enumerate(outcomes):
            infos.append(info := dict(info))
            self._returns[i] += reward
            self._lengths[i] += 1
            if terminated or truncated or self._lengths[i] >= self._episode_steps:
                dones[i] = True
                info["TimeLimit.truncated"] = not terminated
                info["terminal_observation"] = self._shaped(observation[np.newaxis])[0]
                info["episode"] = {"r": self._returns[i], "l": self._lengths[i]}
                self._returns[i], self._lengths[i] = 0.0, 0
                observations[i] = self._batch.reset(i, None, self._start())
        self._observations = stacked = np.stack(observations)
        finite = np.isfinite(stacked).all(axis=1) & np.isfinite(rewards)
        if not finite.all():
            error = NonFiniteInputError(
                "an observation or a reward is NaN or infinite", "check the environment's physics and noise"
            )
            if hasattr(self._batch, "crash_repro"):
                error.crash_repro = self._batch.crash_repro(int(np.argmin(finite)), error.message)
            raise error
        return self._shaped(stacked), rewards, dones, infos

    def _start(self) -> Mapping[str, Any]:
        """Reset options of the next episode; none for one of the environment's own."""
        if not self._far_starts or self._starts.random() >= self._far_starts:
            return {}
        start: Mapping[str, Any] = cast(Any, self._environment.env.unwrapped).far_start(self._starts)
        return start

    def _shaped(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows.reshape(len(rows), *self.observation_space.shape)

    def _state(self) -> dict[str, NDArray[Any]]:
        own = getattr(self._batch, "state", None)
        return dict(own()) if callable(own) else {}

    def change_options(self, options: Any) -> None:
        """Gives every episode other options from its next start on; for an environment whose batch can."""
        self._batch.change_options(options)

    def latest_step(self) -> dict[str, NDArray[Any]]:
        """What the latest step began with and what was seen last, to look into a step that went wrong.

        Row i is episode i: ``actions`` of the step (the policy's outputs), the latest ``observations``, and the state that the
        environment's batch had before the step, of the balance robot MuJoCo's ``qpos``, ``qvel`` and ``ctrl``.
        """
        return {**self._state_before, "actions": self._outputs, "observations": self._observations}

    def seed(self, seed: int | None = None) -> list[None]:
        """Does nothing: ``entropy`` seeds the episodes. Stable-Baselines3 would use single numbers, as evaluation does."""
        return [None] * self.num_envs

    def close(self) -> None:
        """Closes every environment but the one that is the caller's."""
        self._batch.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute, the same for every episode."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not supported: episodes share their settings."""
        raise NotImplementedError("the training episodes share their settings")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Not supported: a batch has no environment object per episode."""
        raise NotImplementedError("the training episodes have no environment objects of their own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never wrapped; episodes are already monitored."""
        return [False] * len(list(self._get_indices(indices)))
