"""The algorithms that can be trained: a dataclass of hyper-parameters in ``config``, a YAML file in ``configs``, a line here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from balance_hil.errors import ConfigError, UsageError
from balance_hil.files import did_you_mean
from balance_hil.training.config import A2cConfig, DdpgConfig, PpoConfig, SacConfig, Td3Config, TrainingConfig


@dataclass(frozen=True)
class Algorithm:
    """One algorithm of Stable-Baselines3."""

    name: str
    config_type: type[TrainingConfig]
    model: str  # its class, of Stable-Baselines3 or, with another gradient step, of ``gradient_steps``
    critics: str  # what the policy calls its value networks
    discrete: bool = False  # takes Discrete actions
    fixed: Mapping[str, Any] = field(default_factory=dict)  # arguments that no file can change
    policy: Mapping[str, Any] = field(default_factory=dict)  # the same of the policy

    def build(self, config: Any, env: Any, seed: int, device: str, symmetries: Sequence[Any] = ()) -> Any:
        """An untrained model on a ``VecEnv``; ``symmetries`` are the environment's, where the algorithm learns from them.

        A setting that the model's class has as an argument is passed to it; one that it has as an attribute is set on the model.

        Raises:
            ConfigError: Stable-Baselines3 rejects the settings.
        """
        import numpy as np
        import stable_baselines3
        import torch
        from stable_baselines3.common.noise import NormalActionNoise
        from stable_baselines3.common.utils import LinearSchedule

        from balance_hil.training import gradient_steps

        model_class = getattr(gradient_steps, self.model, None) or getattr(stable_baselines3, self.model)
        taken = inspect.signature(model_class).parameters
        values = {each.name: getattr(config, each.name) for each in fields(config)}
        arguments = {name: value for name, value in values.items() if name in taken and value is not None}
        arguments["learning_rate"] = LinearSchedule(config.learning_rate, config.learning_rate_end, 1.0)
        if "action_noise" in arguments:
            shape = env.action_space.shape
            arguments["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, config.action_noise))
        policy = {
            "net_arch": {"pi": list(config.policy_layers), self.critics: list(config.value_layers)},
            "activation_fn": {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[config.activation],
            **self.policy,
        }
        if "log_std_init" in values:
            policy["log_std_init"] = values["log_std_init"]
        more = dict(config.sb3 or {})
        for name in more:
            if name not in taken:
                raise ConfigError(
                    f"{self.model} has no argument {name!r}" + did_you_mean(name, taken),
                    f"it takes: {', '.join(taken)}",
                )
        policy |= more.pop("policy_kwargs", {})
        try:
            model = model_class(
                "MlpPolicy", env, **{**arguments, **self.fixed, "policy_kwargs": policy, "seed": seed, "device": device, **more}
            )
        except (AssertionError, RuntimeError, TypeError, ValueError) as exc:
            why = " ".join(str(exc).split()) or type(exc).__name__
            raise ConfigError(f"Stable-Baselines3 rejects these settings: {why}", "correct the file given to --config") from exc
        for name, value in values.items():
            if name not in taken and hasattr(model_class, name):
                setattr(model, name, asdict(value) if is_dataclass(value) and not isinstance(value, type) else value)
        if hasattr(model_class, "symmetries"):
            model.symmetries = list(symmetries)
        return model


# One call of the optimizer for all tensors: half of a gradient step is the overhead of calls on small tensors.
_FUSED = {"optimizer_kwargs": {"fused": True}}
ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("ppo", PpoConfig, "SymmetricPPO", "vf", discrete=True),
        Algorithm("a2c", A2cConfig, "SymmetricA2C", "vf", discrete=True, fixed={"use_rms_prop": False}),
        Algorithm("sac", SacConfig, "DelayedSAC", "qf", policy=_FUSED),
        Algorithm("td3", Td3Config, "SmoothTD3", "qf", policy=_FUSED),
        Algorithm("ddpg", DdpgConfig, "SmoothDDPG", "qf", policy=_FUSED),
    )
}


def algorithm_for(name: str, designs: Sequence[str] = ()) -> Algorithm:
    """The algorithm of that name. Raises UsageError, whose hint names the environment's own ``designs`` as well."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    names = (*ALGORITHMS, *designs)
    raise UsageError(
        f"unknown algorithm {name!r}" + did_you_mean(name.lower(), names),
        f"algorithms are: {', '.join(names)}",
    )
