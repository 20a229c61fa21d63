"""The environment seam: any Gymnasium environment as the plant of a policy.

An environment may provide more than the Gymnasium API; every attribute is optional:

    policy_spec          signals: a ``PolicySpec``, or {"observation": [{"name":, "unit":, "scale":}, ...], "action": [...]}
    control_period_s     seconds between two actions; else ``dt`` or ``tau`` is taken (not ``render_fps``: that is about frames)
    policy_metrics       ``Metric`` or {"name":, "unit":, "source":, "reduction":, "better":}
    policy_trace         keys of ``info`` to record at every step; else those that its metrics read
    failed(terminated, truncated, info) -> bool     whether an episode that ended so is a failure
    excite(rng) -> dict  reset options of an episode that excites the plant, for int8 calibration
    substeps, step_substeps(action | None, before_substep)      a control step in physics substeps; MuJoCo environments need none
    batch(n, n_threads)  many episodes side by side in one call
    policy_targets, set_target(name, value)     targets that may be moved during an episode: (low, high) by name
    visual_model         MuJoCo model for 3D recordings, where ``model`` lacks what is only seen
    robustness_suite     path of a YAML file of conditions, see ``evaluating.robustness``

For training, see docs/environments.md: training_configs, policy_symmetries, far_start, options_between, policy_designs.
"""

from __future__ import annotations

import difflib
import importlib
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast, get_args

import gymnasium as gym
import numpy as np
from gymnasium import error as gym_error
from numpy.typing import NDArray

from balance_hil.environment_spec import metrics_of, spec_of
from balance_hil.envs import ALIASES
from balance_hil.errors import (
    ConfigError,
    EnvironmentMismatchError,
    HarnessError,
    NonFiniteInputError,
    SimulationDivergedError,
    UnknownEnvironmentError,
    UnsupportedEnvironmentError,
    UsageError,
)
from balance_hil.metrics import BUILT_IN_SOURCES, Metric
from balance_hil.spec import PolicySpec, Terminated

if TYPE_CHECKING:
    from balance_hil.scene import MujocoScene

Float32Array = NDArray[np.float32]
BeforeSubstep = Callable[[], Float32Array | None]  # returns the policy's new outputs, or None: the action stays
RESET = "reset"  # key of the options that go to reset() and not to the constructor


class Step(NamedTuple):
    """Result of one control step."""

    observation: Float32Array  # float32 [n_obs]
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


class Environment:
    """One open environment: takes a policy's outputs, float32 [n_act], and gives flat observations, float32 [n_obs].

    Make it with ``open_environment``; use it as a context manager or call ``close``.
    """

    def __init__(self, env: gym.Env[Any, Any], spec: PolicySpec, metrics: tuple[Metric, ...], options: Mapping[str, Any]) -> None:
        self.env = env
        self.spec = spec
        self.metrics = metrics
        self.options = dict(options)
        self.substeps, self.substep_s = 1, spec.control_period_s
        self._robot = cast(Any, env.unwrapped)
        sources = dict.fromkeys(metric.source for metric in metrics if metric.source not in BUILT_IN_SOURCES)
        self.trace = tuple(getattr(self._robot, "policy_trace", sources))  # keys of info that are recorded
        self._reset_options = dict(self.options.get(RESET) or {})
        self._action: NDArray[Any] = self._map(np.zeros(spec.n_act, np.float32))
        self._mujoco = None
        self._has_mujoco = all(
            type(getattr(self._robot, name, None)).__name__ == kind for name, kind in (("model", "MjModel"), ("data", "MjData"))
        )
        self._own = hasattr(self._robot, "step_substeps")
        if self._own:
            self.substeps = int(self._robot.substeps)
            self.substep_s = spec.control_period_s / self.substeps
        elif self._has_mujoco:
            from balance_hil.substeps import find_substeps

            self._mujoco = find_substeps(env)
            if self._mujoco is not None:
                self.substeps, self.substep_s = self._mujoco.substeps, self._mujoco.substep_s

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> Float32Array:
        """Starts an episode; the same seed gives the same one. Returns the first observation, float32 [n_obs].

        Raises:
            NonFiniteInputError: the observation is not finite.
        """
        given = {**self._reset_options, **(options or {})}
        observation, _ = self.env.reset(seed=seed, options=given or None)
        self._action = self._map(np.zeros(self.spec.n_act, np.float32))
        return self._flat(observation)

    def step(self, outputs: Float32Array | None, before_substep: BeforeSubstep | None = None) -> Step:
        """One control step.

        Args:
            outputs: of the policy, float32 [n_act]; None: the action in force is held.
            before_substep: called before each of ``substeps`` physics substeps.

        Raises:
            NonFiniteInputError: outputs or observation are not finite.
            SimulationDivergedError: the physics is no longer finite.
        """
        if self._own:
            action = None if outputs is None else self._map(outputs)
            if before_substep is None and action is not None:
                result = self.env.step(action)
            else:
                result = self._robot.step_substeps(action, self._mapped(before_substep) if before_substep else lambda: None)
        else:
            if outputs is not None:
                self._action = self._map(outputs)
            if before_substep is None:
                result = self.env.step(self._action)
            elif self._mujoco is not None:
                result = self._mujoco.step(self._action, self._mapped(before_substep))
            else:
                new = before_substep()
                if new is not None:
                    self._action = self._map(new)
                result = self.env.step(self._action)
        observation, reward, terminated, truncated, info = result
        return Step(self._flat(observation), float(reward), bool(terminated), bool(truncated), info)

    def failed(self, terminated: bool, truncated: bool, info: Mapping[str, Any]) -> bool:
        """Whether such an end is a failure: by the user's setting, else the environment's rule; else no end is."""
        if self.spec.terminated:
            return terminated and self.spec.terminated == "failure"
        own = getattr(self._robot, "failed", None)
        return bool(own(terminated, truncated, info)) if callable(own) else False

    def excite(self, rng: np.random.Generator) -> dict[str, Any]:
        """Reset options of an episode that excites the plant, for int8 calibration; empty where the environment has none."""
        own = getattr(self._robot, "excite", None)
        return dict(own(rng)) if callable(own) else {}

    def render(self) -> Any:
        """A frame, uint8 [height, width, 3], in render mode rgb_array; shows one in mode human where ``step`` does not."""
        if self.env.render_mode == "human" and not self._own:
            return None  # Gymnasium's environments draw in every step
        return self.env.render()

    @property
    def is_watched(self) -> bool:
        """Whether the environment renders in a window."""
        return self.env.render_mode == "human"

    @cached_property
    def scene(self) -> MujocoScene | None:
        """The MuJoCo model in 3D; None where the environment has none."""
        if not self._has_mujoco:
            return None
        from balance_hil.scene import MujocoScene

        return MujocoScene(self._robot)

    @cached_property
    def targets(self) -> Mapping[str, tuple[float, float]]:
        """Limits of the targets that ``set_target`` moves, by name; empty where the environment has none."""
        return dict(getattr(self._robot, "policy_targets", {}))

    def set_target(self, name: str, value: float) -> None:
        """Moves a target until the end of the episode. Raises UsageError: it is unknown or out of its limits."""
        low, high = self.targets.get(name, (math.inf, -math.inf))
        if not low <= value <= high:
            known = ", ".join(f"{each} {low:g} to {high:g}" for each, (low, high) in self.targets.items()) or "none"
            raise UsageError(f"no target {name} can be {value:g}", f"targets: {known}")
        self._robot.set_target(name, value)

    @property
    def can_push(self) -> bool:
        """Whether ``push`` works."""
        return self._has_mujoco

    def push(self, velocity_m_s: Sequence[float]) -> None:
        """A blow: the impulse that would give the whole robot, if it were free, this change of velocity, [3] m/s.

        It acts on the heaviest tree of bodies, at its center of mass. Raises UsageError: no MuJoCo model.
        """
        if not self._has_mujoco:
            raise UsageError(f"{self.spec.environment} has no MuJoCo model that could be pushed", "push a MuJoCo environment")
        from balance_hil.scene import push

        push(self._robot.model, self._robot.data, velocity_m_s)

    def close(self) -> None:
        """Closes the environment; may be called twice."""
        self.env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _map(self, outputs: Float32Array) -> NDArray[Any]:
        if not np.all(np.isfinite(outputs)):
            raise NonFiniteInputError(
                f"the policy's output is not finite: {np.asarray(outputs).tolist()}", "check the policy that produced it"
            )
        action: NDArray[Any] = self.spec.action_map(np.asarray(outputs, np.float32)[np.newaxis])[0]
        return action

    def _mapped(self, before_substep: BeforeSubstep) -> Callable[[], NDArray[Any] | None]:
        def before() -> NDArray[Any] | None:
            outputs = before_substep()
            if outputs is None:
                return None
            self._action = self._map(outputs)
            return self._action

        return before

    def _flat(self, observation: Any) -> Float32Array:
        flat = np.asarray(observation, np.float32).reshape(-1)
        if flat.size != self.spec.n_obs:
            raise EnvironmentMismatchError(
                f"{self.spec.environment} gave {flat.size} numbers, its observation space has {self.spec.n_obs}",
                "let reset() and step() return the shape of observation_space",
            )
        if not np.isfinite(flat).all():
            raise SimulationDivergedError(
                f"{self.spec.environment} gave an observation that is not finite, at index {int(np.argmin(np.isfinite(flat)))}",
                "look for its source in the environment",
            )
        return flat


class Batch:
    """Episodes of one environment side by side: index i is a separate environment."""

    def __init__(self, environments: Sequence[Environment]) -> None:
        self._environments = environments

    def reset(
        self, index: int, seed: int | np.random.SeedSequence | None = None, options: Mapping[str, Any] | None = None
    ) -> Float32Array:
        """Starts episode ``index``; without a seed its random stream continues. First observation, float32 [n_obs]."""
        if isinstance(seed, np.random.SeedSequence):
            seed = int(seed.generate_state(1, np.uint64)[0])
        return self._environments[index].reset(seed, options)

    def step(self, outputs: Float32Array, indices: Sequence[int]) -> list[Step]:
        """One control step of the episodes ``indices``, with the policy's outputs, float32 [len(indices), n_act]."""
        return [self._environments[i].step(row) for i, row in zip(indices, outputs, strict=True)]

    def close(self) -> None:
        """Closes all but the first, which is the caller's."""
        for each in self._environments[1:]:
            each.close()


def open_environment(
    environment: str,
    options: Mapping[str, Any] | None = None,
    *,
    period_s: float | None = None,
    terminated: Terminated = "",
    episode_steps: int | None = None,
    render_mode: str | None = None,
) -> Environment:
    """Opens any Gymnasium environment with Box observations and Box or Discrete actions.

    Args:
        environment: Gymnasium id, ``module:Id`` included; ids of version 1 of this program where they are not registered.
        options: arguments of its constructor, and under "reset" options of ``reset()``.
        period_s: seconds between two actions; None: the environment's own.
        terminated: what termination means; "": the environment's own ``failed`` decides, or nothing is a failure.
        episode_steps: control steps of an episode; None: those of its registration.
        render_mode: of Gymnasium.

    Raises:
        UnknownEnvironmentError: it is not registered, or its module cannot be imported.
        UnsupportedEnvironmentError: its spaces, limits or control period cannot serve a policy on a board.
        ConfigError: it does not accept these options.
        HarnessError: what the environment itself raises.
    """
    if terminated not in get_args(Terminated):
        raise UsageError(f"termination cannot mean {terminated!r}", "--terminated failure or --terminated success")
    given = dict(options or {})
    environment = environment if ":" in environment else resolve(environment)
    env = _make(environment, {key: value for key, value in given.items() if key != RESET}, render_mode)
    try:
        if not isinstance(given.get(RESET) or {}, Mapping):
            raise ConfigError(f"{RESET!r} of the options must be a table of keys and values", "it goes to reset(options=...)")
        spec = spec_of(environment, env, period_s, terminated, episode_steps or _registered_steps(environment, env))
        return Environment(env, spec, metrics_of(environment, env), given)
    except BaseException:
        env.close()
        raise


def open_as(
    spec: PolicySpec, options: Mapping[str, Any] | None, environment: str | None = None, render_mode: str | None = None
) -> Environment:
    """The environment of ``spec``, or ``environment``, with that period, meaning of termination and episode length."""
    return open_environment(
        environment or spec.environment,
        options,
        period_s=spec.control_period_s,
        terminated=spec.terminated,
        episode_steps=spec.episode_steps or None,
        render_mode=render_mode,
    )


def open_for(
    made_for: PolicySpec,
    environment: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    render_mode: str | None = None,
) -> Environment:
    """Opens the environment that a policy was made for, or another one that has the same signals.

    Raises:
        EnvironmentMismatchError: the signals differ; the message names the first difference.
        UsageError: the policy was made for no environment and none is named.
        What ``open_environment`` raises.
    """
    wanted = environment or made_for.environment
    if not wanted:
        raise UsageError("this policy names no environment", "name one: -e ENVIRONMENT")
    opened = open_as(made_for, options, wanted, render_mode)
    difference = made_for.difference(opened.spec)
    if difference is None:
        return opened
    opened.close()
    if wanted == made_for.environment:
        raise EnvironmentMismatchError(
            f"the policy was made for another version of {wanted}: they differ in {difference}", "export it again: hil export"
        )
    raise EnvironmentMismatchError(
        f"a policy made for {made_for.environment or 'no environment'} cannot run on {wanted}: they differ in {difference}",
        f"train one for it: hil train ppo -e {wanted}",
    )


def open_batch(environment: Environment, n: int, n_threads: int = 0) -> Any:
    """``n`` episodes side by side, opened as ``environment`` was: a ``Batch``, or what its own ``batch`` makes.

    Raises:
        What ``open_environment`` raises.
    """
    own = getattr(environment.env.unwrapped, "batch", None)
    if callable(own):
        return own(n, n_threads)
    return Batch([environment, *(open_as(environment.spec, environment.options) for _ in range(n - 1))])


def resolve(environment: str) -> str:
    """The id that is meant: an id of version 1 of this program is an alias unless another package registers it."""
    return environment if environment in gym.registry else ALIASES.get(environment, environment)


def require_control_steps(environment: Environment, max_steps: int | None) -> int:
    """Control steps of an episode: the wanted ones, or the environment's own. Raises UsageError where there are none."""
    steps = max_steps or environment.spec.episode_steps
    if not steps:
        raise UsageError(f"{environment.spec.environment} has no episode length (max_episode_steps)", "give one: --steps 1000")
    return steps


def _make(environment: str, arguments: Mapping[str, Any], render_mode: str | None) -> gym.Env[Any, Any]:
    module, colon, name = environment.rpartition(":")
    hint = (
        "name the module that registers it, importable from here: -e my_package.envs:MyRobot-v0; "
        "what is registered: python -c 'import gymnasium; gymnasium.pprint_registry()'"
    )
    if ":" in module or (colon and not (module and name)):
        raise UnknownEnvironmentError(f"{environment!r} is not a Gymnasium id", hint)
    if module:
        _import(module, environment)
    wanted = resolve(name)
    if render_mode is not None:
        arguments = {**arguments, "render_mode": render_mode}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an older version, and the like: what was named is what is meant
            return gym.make(wanted, max_episode_steps=-1, disable_env_checker=True, **arguments)
    except (gym_error.NameNotFound, gym_error.VersionNotFound, gym_error.NamespaceNotFound, gym_error.DeprecatedEnv) as exc:
        raise UnknownEnvironmentError(f"unknown environment {environment!r}{_did_you_mean(name)}", hint) from exc
    except gym_error.DependencyNotInstalled as exc:
        raise UnknownEnvironmentError(f"{environment} lacks a package: {exc}", "install what it names") from exc
    except HarnessError:
        raise
    except TypeError as exc:
        raise ConfigError(f"{environment} does not take these options: {exc}", "see the arguments of its constructor") from exc
    except gym_error.Error as exc:
        raise UnknownEnvironmentError(f"{environment!r} cannot be made: {exc}", hint) from exc
    except Exception as exc:
        raise UnsupportedEnvironmentError(
            f"{environment} cannot be made: {type(exc).__name__}: {exc}",
            f"see where it happens: python -c \"import gymnasium; gymnasium.make('{environment}')\"",
        ) from exc


def _import(module: str, environment: str) -> None:
    """A console script lacks the working directory on its path, where ``python`` has it."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as exc:
        raise UnknownEnvironmentError(
            f"the module of {environment!r} cannot be imported: {exc}", f"check that this works here: python -c 'import {module}'"
        ) from exc
    except Exception as exc:
        raise UnknownEnvironmentError(
            f"the module of {environment!r} fails when it is imported: {type(exc).__name__}: {exc}",
            f"see where it happens: python -c 'import {module}'",
        ) from exc


def _did_you_mean(name: str) -> str:
    known = [*gym.registry, *ALIASES]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:
        # Versions and namespaces aside.
        bare = {each.rpartition("/")[2].rpartition("-v")[0].lower(): each for each in known}
        word = name.rpartition("/")[2].split("-v")[0].lower()
        near = [bare[key] for key in difflib.get_close_matches(word, bare, n=1, cutoff=0.75)]
    return f", did you mean {near[0]!r}?" if near else ""


def _registered_steps(environment: str, env: gym.Env[Any, Any]) -> int:
    """Of an episode; 0 where no registration says it."""
    entry = gym.registry.get(resolve(environment.rpartition(":")[2]))
    return (entry and entry.max_episode_steps) or (env.spec and env.spec.max_episode_steps) or 0
