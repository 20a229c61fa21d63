"""Many episodes of one environment side by side, their physics in one call on all cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from balance_hil.envs.balance import config_for
from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.envs.balance.crash_repro import CrashRepro, EpisodeLog
from balance_hil.envs.balance.options import RobotOptions
from balance_hil.envs.balance.plant import MODEL_FIELDS, ModelVariant, Plant, load_model, needs_own_model
from balance_hil.envs.balance.robot import Robot
from balance_hil.envs.balance.task import WHEEL_LEFT, WHEEL_RIGHT, BalanceTask, Observation, Step, start_pose
from balance_hil.errors import NonFiniteInputError, SimulationDivergedError, UsageError

_NO_STAGE = mujoco.mjtStage.mjSTAGE_NONE.value


class BalanceBatch:
    """``n`` independent episodes. Bit for bit what ``BalanceEnv`` gives for the same seeds and actions.

    Args:
        environment: Gymnasium id of one of our environments.
        n: number of episodes.
        n_threads: threads of the physics; 0 takes every core. The result does not depend on it.
        options: as for ``BalanceEnv``; the robot is sampled for each episode.
        config: None: that of the id.

    Raises:
        UnknownEnvironmentError: no such environment.
        ConfigError: an unknown option or a value out of range.
    """

    def __init__(
        self,
        environment: str,
        n: int,
        n_threads: int = 0,
        options: RobotOptions | Mapping[str, Any] | None = None,
        config: BalanceConfig | None = None,
    ) -> None:
        self.config = (config or config_for(environment)).with_options(options)
        self.environment = environment
        self.n = n
        self._all = np.arange(n, dtype=np.int32)
        self._model = load_model(self.config, looks=False)
        self._batch = Batch(self._model, nsim=n, nthread=n_threads)
        self._qpos, self._qvel, self._ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._robots = self._make_robots()
        self._tasks = [BalanceTask(self.config, robot) for robot in self._robots or (None,) * n]
        self._rngs = [np.random.default_rng() for _ in range(n)]
        self._log = EpisodeLog(n)

    def reset(
        self, index: int, seed: int | np.random.SeedSequence | None = None, options: Mapping[str, Any] | None = None
    ) -> Observation:
        """Starts episode ``index`` and returns its first observation, float32 [6].

        Without a seed the episode continues the random stream of the one before.

        Raises:
            UsageError: an unknown option or a value out of range.
        """
        if seed is not None:
            self._rngs[index] = np.random.Generator(np.random.PCG64(seed))  # as Gymnasium seeds its generator
        self._log.start(index, self._rngs[index], options)
        tilt_rad = self._tasks[index].reset(self._rngs[index], options)
        if self._robots:
            self._robots[index].sample(self._rngs[index], self._plants[index])
        self._batch.reset(self._all[index : index + 1], stage=_NO_STAGE)
        self._qpos[index] = start_pose(self._model.qpos0, tilt_rad)
        if self._robots:
            self._robots[index].place(self._plants[index])
        observation, _ = self._tasks[index].observe(self._qpos[index].tolist(), self._qvel[index].tolist())
        return observation

    def restart(self, index: int, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> Observation:
        """As ``reset``, with random numbers that go on from where ``rng`` stands."""
        self._rngs[index] = rng
        return self.reset(index, None, options)

    def robot(self, index: int) -> Robot | None:
        """The robot of episode ``index``; None when all are the nominal one."""
        return self._robots[index] if self._robots else None

    def crash_repro(self, index: int, message: str) -> CrashRepro | None:
        """Episode ``index`` up to now, to run it again; None for one that is too long to be kept."""
        episode = self._log.episode(index)
        if episode is None:
            return None
        actions, generator, reset_options = episode
        made_with = self.config.options
        sampled_from = self._robots[index].options if self._robots else made_with
        return CrashRepro(
            self.environment, made_with.to_dict(), sampled_from.to_dict(), reset_options, generator, actions, message
        )

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Copies of MuJoCo's ``qpos``, ``qvel`` and ``ctrl``, row i of episode i."""
        return {"qpos": self._qpos.copy(), "qvel": self._qvel.copy(), "ctrl": self._ctrl.copy()}

    def change_options(self, options: RobotOptions) -> None:
        """Gives every episode other options from its next reset on.

        Raises:
            UsageError: they need another model (lag, slope, larger blocks) than the options that the batch was made with.
        """
        made_for, wanted = ModelVariant.of(self.config.options), ModelVariant.of(options)
        missing = (wanted.lag and not made_for.lag) or (wanted.slope and not made_for.slope)
        if not self._robots or missing or wanted.block_size_m > made_for.block_size_m:
            raise UsageError("these options need another model than the batch has", "make the batch with the largest options")
        for robot in self._robots:
            robot.change(options)

    def step(self, actions: NDArray[np.float32], indices: Sequence[int] | None = None) -> list[Step]:
        """One control step of the episodes ``indices`` (default: all), each as ``BalanceEnv.step`` returns it.

        Args:
            actions: float32 [len(indices), 2].
            indices: which episodes, increasing.

        Raises:
            NonFiniteInputError: an action is NaN or infinite.
            SimulationDivergedError: the physics is no longer finite. The ``crash_repro`` of either is the episode.
        """
        ids = self._all if indices is None else np.asarray(indices, dtype=np.int32)
        tasks = self._tasks if indices is None else [self._tasks[i] for i in ids]
        wheels = self._qvel[ids, WHEEL_LEFT : WHEEL_RIGHT + 1].tolist()
        self._log.add(ids, actions)
        commands: list[tuple[float, float]] = []
        try:
            for task, action, (left, right) in zip(tasks, actions.tolist(), wheels, strict=True):
                commands.append(task.apply_action(action, left, right))
        except NonFiniteInputError as exc:
            exc.crash_repro = self.crash_repro(int(ids[len(commands)]), exc.message)
            raise
        self._ctrl[ids] = commands
        if self._robots:
            for i in ids:
                self._robots[i].before_physics(self._plants[i])
        self._batch.step(ids, nstep=self.config.substeps_per_step)
        outcomes: list[Step] = []
        try:
            for task, qpos, qvel in zip(tasks, self._qpos[ids].tolist(), self._qvel[ids].tolist(), strict=True):
                outcomes.append(task.finish_step(qpos, qvel))
        except SimulationDivergedError as exc:
            exc.crash_repro = self.crash_repro(int(ids[len(outcomes)]), exc.message)
            raise
        return outcomes

    def close(self) -> None:
        """Does nothing: a batch holds no resources."""

    def _make_robots(self) -> list[Robot]:
        """A robot for every episode; none when all are the nominal one."""
        options = self.config.options
        if options.is_nominal:
            return []
        batch = self._batch
        # Numbers of its own make a simulation a little slower, so only those robots get them that need them.
        model = {name: batch.expand(name) for name in MODEL_FIELDS} if needs_own_model(options) else {}
        pushed, force = batch.bind("xfrc_applied"), batch.bind("actuator_force")
        self._plants = [
            Plant(
                self._qpos[i],
                self._qvel[i],
                pushed[i],
                force[i],
                {name: values[i] for name, values in model.items()},
                partial(batch.set_const, self._all[i : i + 1]),
            )
            for i in range(self.n)
        ]
        return [Robot(options, self.config, self._model) for _ in range(self.n)]
