"""Hyper-parameters: one frozen dataclass per algorithm, one YAML file per algorithm in ``configs/``.

The shipped file names every key of its dataclass; a file of the user's names those that shall differ. An unknown key, a wrong
type or a value out of range is refused with the key's name.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from balance_hil.envs.balance.options import options_from_dict
from balance_hil.errors import ConfigError, require
from balance_hil.training.curriculum import Curriculum

ACTIVATIONS = ("relu", "tanh")
Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """When the policy is judged, and when training is done."""

    every_steps: int  # training steps between two checks
    from_steps: int  # no check before this many training steps
    check_episodes: int  # full-length episodes of a check, on seeds of their own
    episodes: int  # full-length episodes that confirm a check that survived, and that the result is reported on
    stop_when_good: bool  # and action_rate and tracking are within these limits:
    max_action_rate: float = 0.05  # mean change of an action per step
    max_speed_error_rms_rad_s: float = 10.0
    max_wheel_speed_difference_error_rms_rad_s: float = 5.0
    options: dict[str, Any] | None = None  # the robot of these episodes, see envs.options; None: the end of the curriculum

    def __post_init__(self) -> None:
        if self.options is not None:
            options_from_dict(self.options, name="evaluation.options")
        at_least(1, self, "every_steps", "check_episodes", "episodes")
        at_least(0, self, "from_steps")
        at_least(0.0, self, "max_action_rate", "max_speed_error_rms_rad_s", "max_wheel_speed_difference_error_rms_rad_s")


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    """What every algorithm needs."""

    steps: int  # environment steps of the whole training
    n_envs: int  # episodes side by side
    episode_steps: int  # a training episode is cut off here; evaluation runs the environment's full length
    learning_rate: float  # at the start
    learning_rate_end: float  # at the end; linear in between
    gamma: float
    policy_layers: tuple[int, ...]  # hidden layers of the actor: what runs on the board
    value_layers: tuple[int, ...]
    activation: str  # "relu" or "tanh"
    normalize_reward: bool  # divide by the running deviation of the return
    checkpoint_every_steps: int
    evaluation: EvaluationConfig
    # Ends a training episode, as a fall does, when the speed or the yaw error leaves the range of its observation: out there the
    # policy sees and the reward says nothing, and a policy that spins stays there.
    end_out_of_range: bool = False
    fall_penalty: float = 0.0  # taken from the reward of a step that ends in a fall, beside the rewards that are missed
    # Share of the training episodes that start steeper than the task's and hold a target beyond its own: the task alone seldom
    # shows what to do at high wheel speeds and large errors, where a push or a block takes the robot.
    far_starts: float = 0.0
    curriculum: dict[str, Any] | None = None  # see training.curriculum; None: the environment as it is

    def __post_init__(self) -> None:
        if self.curriculum is not None:
            Curriculum.from_dict(self.curriculum)
        at_least(0.0, self, "fall_penalty")
        at_least(1, self, "steps", "n_envs", "episode_steps", "checkpoint_every_steps")
        within(0.0, 1.0, self, "learning_rate", "learning_rate_end", "gamma", "far_starts")
        for name in ("policy_layers", "value_layers"):
            if any(size < 1 for size in getattr(self, name)):
                raise _out_of_range(name, getattr(self, name), "layer sizes of 1 or more")
        if self.activation not in ACTIVATIONS:
            raise _out_of_range("activation", self.activation, f"one of {', '.join(ACTIVATIONS)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``config_from_dict`` is the inverse."""
        return dataclasses.asdict(self)


def load_config(config_type: type[Config], algorithm: str, override: Path | None = None) -> Config:
    """The shipped hyper-parameters of an algorithm, with those of the YAML file ``override`` on top, which may be
    named ``ppo-robust`` for a shipped one.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a wrong type or a value out of range.
        MissingExtraError: PyYAML is not installed.
    """
    shipped = resources.files("balance_hil.training") / "configs" / f"{algorithm}.yaml"
    values = _read_yaml(shipped.read_text(), f"{algorithm}.yaml")
    if override is not None:
        try:
            text = _shipped_or_own(override).read_text()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"cannot read the configuration {override}: {exc}", "check the path given to --config") from exc
        values = _merge(values, _read_yaml(text, str(override)))
    return config_from_dict(config_type, values)


def _shipped_or_own(override: Path) -> Path | Traversable:
    """A file, or by its bare name one of those in ``configs/``, such as ppo-robust."""
    shipped = resources.files("balance_hil.training") / "configs" / f"{override}.yaml"
    return (
        shipped if len(override.parts) == 1 and not override.suffix and not override.exists() and shipped.is_file() else override
    )


def config_from_dict(config_type: type[Config], values: dict[str, Any]) -> Config:
    """Builds a configuration from plain types. Raises ConfigError, naming the key."""
    built: Config = _build(config_type, values, "")
    return built


def _read_yaml(text: str, name: str) -> dict[str, Any]:
    require("yaml", "train")
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ConfigError(f"{name} is not YAML: {' '.join(str(exc).split())}", "compare with training/configs/ppo.yaml") from exc
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name} is not a table of keys and values", "write lines of the form 'key: value'")
    return values


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if nested else value
    return merged


def _build(config_type: type[Any], values: dict[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(config_type)
    names = [f.name for f in dataclasses.fields(config_type)]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            raise ConfigError(
                f"unknown hyper-parameter {prefix + str(key)!r}" + (f", did you mean {prefix + near[0]!r}?" if near else ""),
                f"known are: {', '.join(prefix + name for name in names)}",
            )
    for field in dataclasses.fields(config_type):
        if field.name not in values and field.default is dataclasses.MISSING:
            raise ConfigError(f"hyper-parameter {prefix + field.name!r} is missing", "compare with training/configs/ppo.yaml")
    return config_type(**{name: _convert(hints[name], values[name], prefix + name) for name in names if name in values})


def _convert(kind: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise _out_of_range(key, value, "a table of keys and values")
        return _build(typing.cast(type[Any], kind), value, f"{key}.")
    if isinstance(kind, types.UnionType):  # dict[str, Any] | None
        if value is not None and not isinstance(value, dict):
            raise _out_of_range(key, value, "a table of keys and values")
        return value
    if isinstance(kind, types.GenericAlias):  # tuple[int, ...] or tuple[float, ...]
        if not isinstance(value, list | tuple):
            raise _out_of_range(key, value, "a list of numbers")
        return tuple(_convert(typing.get_args(kind)[0], item, key) for item in value)
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3, without a point, as text
        except (TypeError, ValueError):
            raise _out_of_range(key, value, "a number") from None
    if type(value) is not kind:
        raise _out_of_range(key, value, {int: "a whole number", bool: "true or false", str: "text", float: "a number"}[kind])
    return value


def activation_function(name: str) -> Any:
    """The torch module class of an activation."""
    import torch

    return {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[name]


def at_least(minimum: float, config: Any, *names: str) -> None:
    """Raises ConfigError when one of the named values is below ``minimum``, or NaN."""
    for name in names:
        if not getattr(config, name) >= minimum:
            raise _out_of_range(name, getattr(config, name), f"{minimum} or more")


def within(low: float, high: float, config: Any, *names: str) -> None:
    """Raises ConfigError when one of the named values is outside ``low``..``high``, or NaN."""
    for name in names:
        if not low <= getattr(config, name) <= high:
            raise _out_of_range(name, getattr(config, name), f"within {low}..{high}")


def _out_of_range(key: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"hyper-parameter {key!r} is {value!r}, it must be {wanted}", "correct the file given to --config")
