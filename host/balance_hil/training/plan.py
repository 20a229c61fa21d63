"""Checks a request against files, algorithms and environments before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from balance_hil.environment import Environment, open_as, open_environment
from balance_hil.errors import ConfigError, UsageError, first_line, require
from balance_hil.settings import merged, settings_from_dict
from balance_hil.training.algorithms import ALGORITHMS, Algorithm, algorithm_for
from balance_hil.training.checkpoints import Checkpoint, TrainingRecord, load, require_same_task
from balance_hil.training.config import TrainingConfig, folders_of, read_layers
from balance_hil.training.curriculum import Curriculum
from balance_hil.training.evaluation import check_criteria
from balance_hil.training.request import TrainingRequest, new_record, package_versions, require_output
from balance_hil.training.warm_start import load_warm_start


@dataclass(frozen=True)
class Plan:
    """A request that has been checked against files, algorithms and environments."""

    request: TrainingRequest
    algorithm: Algorithm
    config: TrainingConfig
    record: TrainingRecord  # of the state before the first step
    parameters: dict[str, Any] | None = None  # weights and optimizer state to continue from
    checkpoint: Checkpoint | None = None  # that they are from
    warm_start: Checkpoint | None = None  # whose weights to begin with
    curriculum: Curriculum | None = None

    def open_training(self) -> Environment:
        """The environment of the training episodes. Raises what ``open_environment`` raises."""
        end = self.curriculum.end if self.curriculum else None
        return open_as(self.record.spec, merged(self.record.options, self.config.training_options, end))

    def open_evaluation(self) -> Environment:
        """The environment of checks and of the result. Raises what ``open_environment`` raises."""
        options = self.config.evaluation.options
        if options is None and self.curriculum:
            options = self.curriculum.end
        return open_as(self.record.spec, merged(self.record.options, options))


def plan(request: TrainingRequest) -> Plan:
    """Checks a request without training; everything that a user can get wrong is found here.

    Raises:
        UsageError, UnknownEnvironmentError, UnsupportedEnvironmentError, ConfigError, CheckpointError, EnvironmentMismatchError,
        MissingExtraError.
    """
    with open_requested(request) as environment:
        return _plan(request, environment)


def open_requested(request: TrainingRequest) -> Environment:
    """The requested environment. Raises what ``open_environment`` raises, and ConfigError."""
    return open_environment(request.environment, request.read_options(), period_s=request.period_s, terminated=request.terminated)


def _plan(request: TrainingRequest, environment: Environment) -> Plan:
    algorithm = algorithm_for(request.algorithm, getattr(environment.env.unwrapped, "policy_designs", ()))
    spec = environment.spec
    if spec.action_map.kind == "discrete" and not algorithm.discrete:
        able = [each.name for each in ALGORITHMS.values() if each.discrete]
        raise UsageError(
            f"{algorithm.name} cannot choose among discrete actions, which {spec.environment} has",
            f"hil train {able[0]} -e {spec.environment}; {' and '.join(able)} can",
        )
    if request.resume is not None and request.config is not None:
        raise UsageError("--config and --resume exclude each other", "a checkpoint contains its hyper-parameters: drop --config")
    if request.resume is not None and request.init_from is not None:
        raise UsageError(
            "--init-from and --resume exclude each other", "a resumed checkpoint contains its weights: drop --init-from"
        )
    warm_start = load_warm_start(request.init_from, algorithm.name, spec) if request.init_from is not None else None
    require_output(request)
    if request.seed is not None and request.seed < 0:
        raise UsageError(f"the seed is {request.seed}", "give a seed of 0 or more")
    checkpoint = load(request.resume) if request.resume is not None else None
    if checkpoint is None:
        values = read_layers(algorithm.name, folders_of(environment), request.config)
        if request.normalize_observations:
            values["normalize_observations"] = True
    else:
        known = checkpoint.record.spec.episode_steps
        require_same_task(checkpoint.record, algorithm.name, replace(spec, episode_steps=spec.episode_steps or known))
        values = dict(checkpoint.record.hyper_parameters)
    if request.steps is not None:
        values["steps"] = request.steps
    config = settings_from_dict(algorithm.config_type, values)
    steps = spec.episode_steps or config.episode_steps
    if not steps:
        raise ConfigError(
            f"{spec.environment} has no episode length (max_episode_steps)",
            "give one in the file for --config: episode_steps: 1000",
        )
    spec = replace(spec, episode_steps=steps)
    for module in ("torch", "stable_baselines3", "tensorboard"):
        require(module, "train")
    request = replace(request, device=_usable_device(request.device))
    curriculum = settings_from_dict(Curriculum, config.curriculum, "curriculum.") if config.curriculum else None
    _check_against(environment, config, curriculum)
    if checkpoint is None:
        record = new_record(request, spec, config.to_dict())
        made = Plan(request, algorithm, config, record, warm_start=warm_start, curriculum=curriculum)
    else:
        record = replace(checkpoint.record, hyper_parameters=config.to_dict(), versions=package_versions())
        if request.options is not None:
            record = replace(record, options=request.read_options())
        if request.seed is not None:
            record = replace(record, seed=request.seed)
        if record.steps >= config.steps:
            raise UsageError(
                f"the checkpoint has {record.steps} of {config.steps} steps behind it: nothing is left to do",
                f"ask for more: --steps {record.steps + 100_000}",
            )
        made = Plan(request, algorithm, config, record, checkpoint.parameters(), checkpoint, curriculum=curriculum)
    for opened in (made.open_training(), made.open_evaluation()):  # finds options that the environment does not take
        opened.close()
    return made


def _check_against(environment: Environment, config: Any, curriculum: Curriculum | None) -> None:
    """Raises ConfigError for settings that the environment does not support."""
    check_criteria(config.evaluation, environment)
    own, name = environment.env.unwrapped, environment.spec.environment
    if config.far_starts and not hasattr(own, "far_start"):
        raise ConfigError(f"{name} has no far starts", "set far_starts to 0, or let it have far_start(rng) -> reset options")
    if getattr(config, "symmetry", False) or getattr(config, "symmetry_weight", 0.0):
        if not hasattr(own, "policy_symmetries"):
            raise ConfigError(
                f"{name} does not define its symmetries (policy_symmetries)", "set symmetry to false or its weight to 0"
            )
        if config.normalize_observations:
            raise ConfigError("symmetry augmentation does not support normalized observations", "leave one of them out")
    noise = config.smoothness.observation_noise if hasattr(config, "smoothness") else (0.0,)
    if len(noise) not in (1, environment.spec.n_obs):
        raise ConfigError(
            f"hyper-parameter 'smoothness.observation_noise' is {list(noise)}",
            f"give one number, or {environment.spec.n_obs}: one for each signal of the observation",
        )
    if curriculum is not None:
        curriculum.options(environment, 0.5)  # finds typing errors, and what cannot move


def _usable_device(device: str) -> str:
    """The torch device for what the user asked for. Stable-Baselines3 would quietly take the CPU instead of a missing GPU."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.split(":")[0] == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"cannot train on {device!r}: torch finds no GPU here", "use --device cpu, or --device auto")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as exc:  # what torch raises for an unusable device
        raise UsageError(f"cannot train on {device!r}: {first_line(exc)}", "use --device cpu") from exc
    return device
