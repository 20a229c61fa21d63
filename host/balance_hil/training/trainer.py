"""One training from request to ``policy.zip`` and ``training.json``."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from balance_hil.checkpoint import keep_tensorflow_out
from balance_hil.envs.balance import config_for
from balance_hil.errors import UsageError, require
from balance_hil.files import new_run_folder
from balance_hil.training.algorithms import LQR, Algorithm, algorithm_for
from balance_hil.training.checkpoints import Checkpoint, TrainingRecord, load, require_same_task
from balance_hil.training.config import CommonConfig, config_from_dict, load_config
from balance_hil.training.warm_start import load_warm_start


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What ``hil train`` was asked for."""

    algorithm: str
    environment: str
    output: Path  # folder of the result
    seed: int | None = None  # None: 0, or the checkpoint's when resuming
    steps: int | None = None  # None: the configuration's
    config: Path | None = None  # YAML with what differs from the shipped hyper-parameters
    resume: Path | None = None
    init_from: Path | None = None  # checkpoint whose weights are the first ones of this training
    device: str = "cpu"  # or "auto": a GPU where torch finds one; "cuda", "cuda:1"
    threads: int = 0  # of the physics; 0 takes every core, the result does not depend on it
    runs: Path = Path("runs")  # TensorBoard and checkpoints


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """Where a training stands."""

    phase: Literal["starting", "training", "evaluating", "exporting"]
    steps: int
    total_steps: int
    episode_return: float | None = None  # mean of the latest episodes
    success_rate: float | None = None  # of the latest check, 0..1
    evaluation_step: int = 0  # control step that the episodes of an evaluation have reached


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a training ended."""

    record: TrainingRecord  # of what was written
    interrupted: bool  # by Ctrl-C: nothing was written to the output folder
    output: Path
    checkpoint: Path  # folder of the latest checkpoint
    tensorboard: Path | None  # None: nothing was learned


@dataclass(frozen=True)
class Plan:
    """A request that has been checked against files, algorithms and environments."""

    request: TrainingRequest
    algorithm: Algorithm
    config: CommonConfig
    record: TrainingRecord  # of the state before the first step
    parameters: dict[str, Any] | None  # weights and optimizer state to continue from
    checkpoint: Checkpoint | None = None  # that they are from
    warm_start: Checkpoint | None = None  # whose weights to begin with


def plan(request: TrainingRequest) -> Plan:
    """Checks a request without training; everything that a user can get wrong is found here.

    Raises:
        UsageError, UnknownEnvironmentError, ConfigError, CheckpointError, EnvironmentMismatchError, MissingExtraError.
    """
    algorithm = algorithm_for(request.algorithm)
    spec = config_for(request.environment).policy_spec(request.environment)
    if request.resume is not None and request.config is not None:
        raise UsageError(
            "--config and --resume do not go together", "a checkpoint brings its own hyper-parameters: drop --config"
        )
    if request.resume is not None and request.init_from is not None:
        raise UsageError("--init-from and --resume do not go together", "a checkpoint that is resumed brings its own weights")
    warm_start = None
    if request.init_from is not None:
        warm_start = load_warm_start(request.init_from, algorithm.name, request.environment)
    require_writable(request.output)
    if request.seed is not None and request.seed < 0:
        raise UsageError(f"the seed is {request.seed}", "give a seed of 0 or more")
    checkpoint = None
    if request.resume is not None:
        checkpoint = load(request.resume)
        require_same_task(checkpoint.record, algorithm.name, request.environment, spec)
        config = config_from_dict(algorithm.config_type, dict(checkpoint.record.hyper_parameters))
    else:
        config = load_config(algorithm.config_type, algorithm.name, request.config)
    if request.steps is not None:
        config = replace(config, steps=request.steps)
    for module in ("torch", "stable_baselines3", "tensorboard"):
        require(module, "train")
    request = replace(request, device=_usable_device(request.device))
    if checkpoint is None:
        record = _new_record(algorithm, request, config, spec)
        return Plan(request, algorithm, config, record, None, warm_start=warm_start)
    record = replace(checkpoint.record, hyper_parameters=config.to_dict(), versions=package_versions())
    if request.seed is not None:
        record = replace(record, seed=request.seed)
    if record.steps >= config.steps:
        raise UsageError(
            f"the checkpoint has {record.steps} of {config.steps} steps behind it: nothing is left to do",
            f"ask for more: --steps {record.steps + 100_000}",
        )
    return Plan(request, algorithm, config, record, checkpoint.parameters(), checkpoint)


def train(request: TrainingRequest, on_progress: Callable[[TrainingProgress], None] | None = None) -> TrainingResult:
    """Trains a policy and writes it to ``request.output``.

    Ctrl-C (or SIGTERM) ends the training after the running step; the result then says where the checkpoint is.

    Raises:
        TrainingError: an observation or a weight is no longer finite; the latest checkpoint is from before that.
        And everything that ``plan`` raises.
    """
    report = on_progress or (lambda progress: None)
    if request.algorithm == LQR:  # computed, not learned
        from balance_hil.training.lqr import design

        return design(request, report)
    checked = plan(request)
    report(TrainingProgress(phase="starting", steps=checked.record.steps, total_steps=checked.config.steps))
    keep_tensorflow_out()
    from balance_hil.training.session import TrainingSession

    return TrainingSession(checked, new_run_folder(request.runs, request.output.name or request.algorithm), report).run()


def _new_record(algorithm: Algorithm, request: TrainingRequest, config: CommonConfig, spec: Any) -> TrainingRecord:
    return TrainingRecord(
        algorithm=algorithm.name,
        environment=request.environment,
        seed=request.seed or 0,
        steps=0,
        wall_s=0.0,
        evaluation_wall_s=0.0,
        success_rate=None,
        evaluation={},
        hyper_parameters=config.to_dict(),
        versions=package_versions(),
        spec=spec,
        rebuild=rebuild_command(request),
    )


def rebuild_command(request: TrainingRequest) -> str:
    """The command line that repeats a training from nothing, but for its output folder."""
    words = ["hil", "train", request.algorithm, "-e", request.environment]
    if request.algorithm != LQR:
        words += ["--seed", str(request.seed or 0)]
    for option in ("init_from", "config", "steps"):
        if getattr(request, option) is not None:
            words += [f"--{option.replace('_', '-')}", str(getattr(request, option))]
    return shlex.join(words)


def require_writable(folder: Path) -> None:
    """Finds out before the training, not after it, that its result has no place."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(
            f"cannot write to {folder}: {existing} is no folder or not yours to write", "choose another one: --output"
        )


def _usable_device(device: str) -> str:
    """The torch device for what the user asked for. Stable-Baselines3 would quietly take the CPU instead of a missing GPU."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.split(":")[0] == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"cannot train on {device!r}: torch finds no GPU here", "use --device cpu, or --device auto")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as exc:  # torch's ways of refusing
        raise UsageError(f"cannot train on {device!r}: {str(exc).splitlines()[0]}", "use --device cpu") from exc
    return device


def package_versions() -> dict[str, str]:
    """Of Python and of everything that a training's result depends on."""
    packages = ("balance-hil", "torch", "stable-baselines3", "gymnasium", "mujoco", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
