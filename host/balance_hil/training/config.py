"""Hyper-parameters: a frozen dataclass for each algorithm, filled from YAML files, each on top of the one before.

``configs/ALGORITHM.yaml`` names every key of its dataclass. An environment may bring what suits it better (its folder
``training_configs``), and a file of the user overrides both. Names and meanings are those of
Stable-Baselines3 where it has them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balance_hil.errors import ConfigError
from balance_hil.files import read_yaml
from balance_hil.settings import Settings, merged, number, refused

ACTIVATIONS = ("relu", "tanh")
CONFIGS = Path(__file__).with_name("configs")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Settings):
    """When the policy is evaluated, and when training is done."""

    every_steps: int = number(1)  # training steps between two checks
    from_steps: int = number(0)  # no check before this many training steps
    check_episodes: int = number(1)  # full-length episodes of a check, on seeds of their own
    episodes: int = number(1)  # full-length episodes that confirm a good check, and that the result is reported on
    stop_when_good: bool  # training ends when no episode of a check and of its confirmation fails, within the limits
    limits: dict[str, Any]  # by metric: the least of one that is better when higher, the most of any other
    best_by: str  # of equally many failures, the policy that is better in this metric is kept
    options: dict[str, Any] | None = None  # constructor arguments of these episodes; None: those of the curriculum's end

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, limit in self.limits.items():
            if isinstance(limit, bool) or not isinstance(limit, int | float):
                raise refused(f"evaluation.limits.{name}", limit, "be a number")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """What every algorithm needs."""

    steps: int = number(1)  # environment steps of the whole training
    n_envs: int = number(1)  # episodes side by side
    episode_steps: int | None = number(1)  # a training episode is cut off here; None: the environment's own length
    learning_rate: float = number(0.0, 1.0)  # at the start
    learning_rate_end: float = number(0.0, 1.0)  # at the end; linear in between
    gamma: float = number(0.0, 1.0)
    policy_layers: tuple[int, ...] = number(1)  # hidden layers of the actor: what runs on the board
    value_layers: tuple[int, ...] = number(1)
    activation: str  # "relu" or "tanh"
    normalize_reward: bool  # divide by the running deviation of the return
    normalize_observations: bool  # subtract the running mean and divide by the running deviation: vecnormalize.pkl
    checkpoint_every_steps: int = number(1)
    evaluation: EvaluationConfig
    training_options: dict[str, Any] | None = None  # constructor arguments of the training episodes alone
    far_starts: float = number(0.0, 1.0, 0.0)  # share of the training episodes that begin with the environment's far_start
    curriculum: dict[str, Any] | None = None  # see training.curriculum; None: the environment as it is
    sb3: dict[str, Any] | None = None  # further arguments of the Stable-Baselines3 class

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in ACTIVATIONS:
            raise refused("activation", self.activation, f"be one of {', '.join(ACTIVATIONS)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``settings_from_dict`` is the inverse."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(TrainingConfig):
    """What PPO and A2C share: both are on-policy and discard the steps after each update."""

    n_steps: int = number(1)  # of each of the n_envs per update
    gae_lambda: float = number(0.0, 1.0)
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    log_std_init: float


@dataclass(frozen=True, kw_only=True)
class PpoConfig(OnPolicyConfig):
    """PPO."""

    batch_size: int = number(1)
    n_epochs: int = number(1)
    clip_range: float
    symmetry_weight: float = number(0.0, default=0.0)  # of the preference for one side, see ``SymmetricPPO``; 0: as published
    critic_steps: int = number(0, default=0)  # environment steps at first in which only the critic learns

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.n_envs * self.n_steps) % self.batch_size:
            raise ConfigError(
                f"batch_size {self.batch_size} does not divide n_envs x n_steps = {self.n_envs * self.n_steps}",
                "choose a batch_size that does, or the last minibatch is a rest",
            )


@dataclass(frozen=True, kw_only=True)
class A2cConfig(OnPolicyConfig):
    """A2C. The optimizer is Adam, not A2C's usual RMSprop."""

    normalize_advantage: bool
    symmetry_weight: float = number(0.0)  # of the preference for one side, see ``SymmetricA2C``; 0: as published


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(TrainingConfig):
    """What SAC, TD3 and DDPG share: they learn from a buffer of past steps."""

    batch_size: int = number(1)
    buffer_size: int  # environment steps
    learning_starts: int = number(0)  # environment steps of random actions before the first update
    train_freq: int = number(1)  # steps of each of the n_envs between updates
    gradient_steps: int = number(1)  # per update
    tau: float = number(0.0, 1.0)  # share of the new weights in the target networks, per gradient step
    n_steps: int = number(1)  # rewards summed before a critic is asked for the rest
    symmetry: bool  # learn from the images of each step, too

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.buffer_size < self.learning_starts or self.buffer_size < 2 * self.n_envs * self.n_steps:
            raise ConfigError(
                f"buffer_size {self.buffer_size} holds less than learning_starts or than two rows of n_envs x n_steps",
                "make it larger",
            )


@dataclass(frozen=True, kw_only=True)
class SacConfig(OffPolicyConfig):
    """SAC."""

    ent_coef: str  # "auto_0.1": learned, from 0.1 on
    target_entropy: float | None  # None: minus the number of actions
    policy_delay: int = number(1)  # gradient steps of the critics for one of the actor; 1: as published

    def __post_init__(self) -> None:
        super().__post_init__()
        if re.fullmatch(r"(auto(_\d*\.?\d+(e-?\d+)?)?)|\d*\.?\d+(e-?\d+)?", self.ent_coef) is None:
            raise refused("ent_coef", self.ent_coef, "be auto, auto_0.1 or a number")


@dataclass(frozen=True, kw_only=True)
class SmoothnessConfig(Settings):
    """Weights of the smoothness terms in the actor's loss, see ``SmoothTD3``. All zero: the algorithm as published."""

    observation_noise: tuple[float, ...] = number(0.0)  # deviation of each signal's disturbance, in units of the observation
    spatial_weight: float = number(0.0)  # of the squared change of action under it
    saturation_weight: float = number(0.0)  # of the squared output before tanh


@dataclass(frozen=True, kw_only=True)
class DdpgConfig(OffPolicyConfig):
    """DDPG: a deterministic actor, which explores by added noise and must be kept smooth."""

    action_noise: float = number(0.0)  # standard deviation of the exploration noise; the action's range is -1..1
    smoothness: SmoothnessConfig


@dataclass(frozen=True, kw_only=True)
class Td3Config(DdpgConfig):
    """TD3."""

    policy_delay: int = number(2)  # gradient steps of the critics for one of the actor; with 1 it would be DDPG
    target_policy_noise: float = number(0.0)
    target_noise_clip: float = number(0.0)


def read_layers(name: str, folders: Iterable[Path], override: Path | None = None) -> dict[str, Any]:
    """The table of ``NAME.yaml`` in each of the folders that has it, and of ``override``, each on top of the one before.

    ``override`` is a file, or by its bare name one in the folders, such as ppo-robust. Raises ConfigError.
    """
    folders = list(folders)
    files = [folder / f"{name}.yaml" for folder in folders]
    values = merged({}, *map(read_yaml, filter(Path.is_file, files)))
    if override is None:
        return values
    by_name = len(override.parts) == 1 and not override.suffix and not override.exists()
    return merged(values, read_yaml((find_config(str(override), folders) if by_name else None) or override))


def find_config(name: str, folders: Iterable[Path]) -> Path | None:
    """The file ``name.yaml`` of the last of the folders that has it."""
    found = [path for folder in folders if (path := folder / f"{name}.yaml").is_file()]
    return found[-1] if found else None


def folders_of(environment: Any) -> list[Path]:
    """Folders of hyper-parameters for an open environment: the general ones, then its own."""
    own = getattr(environment.env.unwrapped, "training_configs", None)
    return [CONFIGS, *([Path(own)] if own is not None else [])]
