"""What is asked of a training, how it reports, and how it ends."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from balance_hil.bundle import MANIFEST, POLICY
from balance_hil.errors import UsageError
from balance_hil.files import read_yaml
from balance_hil.paths import POLICIES
from balance_hil.spec import PolicySpec, Terminated
from balance_hil.training.algorithms import ALGORITHMS
from balance_hil.training.checkpoints import TrainingRecord


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What ``hil train`` was asked for."""

    algorithm: str
    environment: str  # Gymnasium id, "module:Id" included
    output: Path  # folder of the result
    seed: int | None = None  # None: 0, or the checkpoint's when resuming
    steps: int | None = None  # None: the configuration's
    config: Path | None = None  # YAML with what differs from the shipped hyper-parameters
    options: Path | None = None  # YAML with arguments of the environment's constructor, of training and evaluation
    period_s: float | None = None  # between two actions; None: the environment's own
    terminated: Terminated = ""  # what termination means; "": the environment's own ``failed`` decides
    normalize_observations: bool = False  # overrides the configuration
    resume: Path | None = None
    init_from: Path | None = None  # checkpoint whose weights are the first ones of this training
    device: str = "cpu"  # or "auto": a GPU where torch finds one; "cuda", "cuda:1"
    threads: int = 0  # of the physics; 0 takes every core, the result does not depend on it
    runs: Path = Path("runs")  # TensorBoard and checkpoints
    force: bool = False  # replaces a policy that is there; an exported bundle never

    def absolute(self) -> TrainingRequest:
        """The same for a process with another working directory; the name of a shipped file stays a name."""
        paths: dict[str, Any] = {name: value.absolute() for name, value in vars(self).items() if isinstance(value, Path)}
        if self.config is not None and not self.config.exists():
            del paths["config"]
        return replace(self, **paths)

    def read_options(self) -> dict[str, Any]:
        """Arguments of the environment's constructor. Raises ConfigError."""
        return read_yaml(self.options) if self.options is not None else {}


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
    good: bool  # no episode failed, and every limit is kept
    interrupted: bool  # by Ctrl-C: nothing was written to the output folder
    output: Path
    checkpoint: Path  # folder of the latest checkpoint
    tensorboard: Path | None  # None: nothing was learned

    def figures(self) -> dict[str, Any]:
        """What was done and reached, as plain JSON types."""
        record = self.record
        return {
            "steps": record.steps,
            "wall_s": record.wall_s,
            "cpu_s": record.cpu_s,
            "evaluation_wall_s": record.evaluation_wall_s,
            "success_rate": record.evaluation["success_rate"],
            "episodes": record.evaluation["episodes"],
            "good": self.good,
            "metrics": dict(record.evaluation["metrics"]),
        }


def default_output(environment: str, algorithm: str) -> Path:
    """``policies/NAME`` of the environment and the algorithm: policies/CartPole-v1-ppo."""
    return POLICIES / f"{environment.rpartition(':')[2].rpartition('/')[2]}-{algorithm}"


def new_record(request: TrainingRequest, spec: PolicySpec, hyper_parameters: Mapping[str, Any]) -> TrainingRecord:
    """The record of a training before its first step."""
    return TrainingRecord(
        algorithm=request.algorithm,
        environment=spec.environment,
        seed=request.seed or 0,
        hyper_parameters=hyper_parameters,
        versions=package_versions(),
        spec=spec,
        options=request.read_options(),
        rebuild=rebuild_command(request),
    )


def rebuild_command(request: TrainingRequest) -> str:
    """The command line that repeats a training from nothing, but for its output folder."""
    words = ["hil", "train", request.algorithm, "-e", request.environment]
    if request.algorithm in ALGORITHMS:
        words += ["--seed", str(request.seed or 0)]
    for option in ("init_from", "config", "options", "steps"):
        if getattr(request, option) is not None:
            words += [f"--{option.replace('_', '-')}", str(getattr(request, option))]
    if request.period_s is not None:
        words += ["--period-ms", f"{1e3 * request.period_s:g}"]
    if request.terminated:
        words += ["--terminated", request.terminated]
    if request.normalize_observations:
        words += ["--normalize-observations"]
    return shlex.join(words)


def require_output(request: TrainingRequest) -> None:
    """Checks before the training that its result can be written.

    Raises:
        UsageError: the folder cannot be written, holds a bundle, or holds a policy and ``force`` is not given.
    """
    folder = request.output
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(
            f"cannot write to {folder}: {existing} is not a folder or not yours to write", "choose another one: --output"
        )
    if (folder / MANIFEST).exists():
        raise UsageError(
            f"{folder} holds a bundle, which a training does not replace", f"choose another folder: -o {folder}-2, or remove it"
        )
    if (folder / POLICY).exists() and not request.force:
        raise UsageError(f"{folder} holds a policy", f"replace it: --force, or choose another folder: -o {folder}-2")


def package_versions() -> dict[str, str]:
    """Of Python and of everything that a training's result depends on."""
    packages = ("balance-hil", "torch", "stable-baselines3", "gymnasium", "mujoco", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
