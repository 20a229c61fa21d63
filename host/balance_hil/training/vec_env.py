"""The training episodes as Stable-Baselines3 wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from balance_hil.envs.balance import config_for
from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.envs.balance.env import spaces
from balance_hil.envs.balance.options import RobotOptions
from balance_hil.errors import NonFiniteInputError

_FAR_START = {
    "tilt_rad": 0.35,
    "speed_target_rad_s": 45.0,
    "wheel_speed_difference_target_rad_s": 15.0,
}  # uniform within +- these


class BatchVecEnv(VecEnv):  # type: ignore[misc]
    """``n`` training episodes on a ``BalanceBatch``; an episode that ends starts anew at once.

    Args:
        environment: Gymnasium id of one of our environments.
        n: number of episodes side by side.
        episode_steps: an episode is cut off (truncated) after this many control steps.
        entropy: what seeds the episodes. At least two numbers, so that no episode equals one of evaluation, whose seeds
            are single numbers.
        n_threads: of the physics; 0 takes every core.
        end_out_of_range: also ends an episode, as a fall does, when the speed or the yaw error is beyond what is observed.
        options: how the robot differs from the ideal one; None: the environment's own.
        fall_penalty: taken from the reward of a step that ends in a fall.
        far_starts: share of the episodes that start steep and hold a far target.
    """

    render_mode = None  # Stable-Baselines3 asks for it

    def __init__(
        self,
        environment: str,
        n: int,
        episode_steps: int,
        entropy: Sequence[int],
        n_threads: int = 0,
        end_out_of_range: bool = False,
        options: RobotOptions | None = None,
        fall_penalty: float = 0.0,
        far_starts: float = 0.0,
    ) -> None:
        super().__init__(n, *spaces())
        self._batch = BalanceBatch(environment, n, n_threads, options)
        self._state_before = self._batch.state()
        self._observations = np.zeros((n, self.observation_space.shape[0]), np.float32)
        self._episode_steps = episode_steps
        self._fall_penalty = fall_penalty
        self._far_starts = far_starts
        self._entropy = tuple(entropy)
        self._starts = np.random.default_rng((*self._entropy, n))
        self.policy_spec = config_for(environment).policy_spec(environment)
        scales = {signal.name: signal.scale for signal in self.policy_spec.observation}
        self._ranges = (
            (scales["speed_error"], scales["wheel_speed_difference_error"]) if end_out_of_range else (math.inf, math.inf)
        )
        self._actions = np.zeros((n, self.action_space.shape[0]), np.float32)
        self._returns = [0.0] * n
        self._lengths = [0] * n

    def reset(self) -> NDArray[np.float32]:
        """Starts every episode; observations, float32 [n, n_obs]."""
        self._returns = [0.0] * self.num_envs
        self._lengths = [0] * self.num_envs
        seeds = [np.random.SeedSequence((*self._entropy, i)) for i in range(self.num_envs)]
        return np.stack([self._batch.reset(i, seed, self._start()) for i, seed in enumerate(seeds)])

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Notes the actions, float32 [n, n_act]."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """One control step of every episode: observations, rewards, dones, infos.

        Raises:
            NonFiniteInputError: an observation or a reward is not finite.
        """
        self._state_before = self._batch.state()
        outcomes = self._batch.step(self._actions)
        observations = [outcome[0] for outcome in outcomes]
        rewards = [outcome[1] for outcome in outcomes]
        infos = [outcome[4] for outcome in outcomes]
        dones = np.zeros(self.num_envs, np.bool_)
        speed_range, yaw_range = self._ranges
        for i, (observation, _, fallen, _, info) in enumerate(outcomes):
            terminated = (
                fallen
                or abs(info["speed_error_rad_s"]) > speed_range
                or abs(info["wheel_speed_difference_error_rad_s"]) > yaw_range
            )
            if fallen:
                rewards[i] -= self._fall_penalty
            self._returns[i] += rewards[i]
            self._lengths[i] += 1
            if terminated or self._lengths[i] >= self._episode_steps:
                dones[i] = True
                info["TimeLimit.truncated"] = not terminated
                info["terminal_observation"] = observation
                info["episode"] = {"r": self._returns[i], "l": self._lengths[i]}
                self._returns[i], self._lengths[i] = 0.0, 0
                observations[i] = self._batch.reset(i, None, self._start())
        self._observations = stacked = np.stack(observations)
        reward_array = np.array(rewards, np.float32)
        if not (np.isfinite(stacked).all() and np.isfinite(reward_array).all()):
            error = NonFiniteInputError(
                "an observation or a reward is NaN or infinite", "check the environment's physics and noise"
            )
            finite = np.isfinite(stacked).all(axis=1) & np.isfinite(reward_array)
            error.crash_repro = self._batch.crash_repro(int(np.argmin(finite)), error.message)
            raise error
        return stacked, reward_array, dones, infos

    def _start(self) -> dict[str, float]:
        """Reset options of the next episode; none for one of the task's own."""
        if not self._far_starts or self._starts.random() >= self._far_starts:
            return {}
        return {name: self._starts.uniform(-limit, limit) for name, limit in _FAR_START.items()}

    def change_options(self, options: RobotOptions) -> None:
        """Gives every episode other options from its next start on; see ``BalanceBatch.change_options``."""
        self._batch.change_options(options)

    def latest_step(self) -> dict[str, NDArray[Any]]:
        """What the latest step began with and what was seen last, to look into a step that went wrong.

        Row i is episode i: MuJoCo's ``qpos``, ``qvel`` and ``ctrl`` before the step, ``actions`` of the step, and the latest
        ``observations``.
        """
        return {**self._state_before, "actions": np.asarray(self._actions), "observations": self._observations}

    def seed(self, seed: int | None = None) -> list[None]:
        """Does nothing: ``entropy`` has decided. Stable-Baselines3 would seed with single numbers, as evaluation does."""
        return [None] * self.num_envs

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute, the same for every episode."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not supported: episodes share their settings."""
        raise NotImplementedError("the episodes of a BatchVecEnv share their settings")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Not supported: there is no environment object per episode."""
        raise NotImplementedError("a BatchVecEnv has no environment object per episode")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never wrapped; episodes are already monitored."""
        return [False] * len(list(self._get_indices(indices)))
