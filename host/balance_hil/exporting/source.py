"""Where an export starts: the checkpoint, what training wrote beside it, the environment, and the folder of the bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balance_hil.bundle import POLICY, TRAINING
from balance_hil.checkpoint import Actor
from balance_hil.environment import open_environment
from balance_hil.errors import CheckpointError, EnvironmentMismatchError, UsageError
from balance_hil.exporting.config import ExportConfig
from balance_hil.spec import PolicySpec

DEFAULT_ENVIRONMENT = "balance/Balance-v0"


@dataclass(frozen=True)
class ExportSource:
    """A checkpoint that was found, not opened yet."""

    checkpoint: Path
    target: Path  # folder of the bundle
    training: dict[str, Any]  # training.json, empty where there is none
    spec: PolicySpec  # of the environment as it is now

    def copy_to(self, staging: Path) -> None:
        """Copies the checkpoint and its record, so that a training that goes on cannot change them during the export.

        Raises:
            CheckpointError: training.json was written for another policy.zip.
        """
        shutil.copyfile(self.checkpoint, staging / POLICY)
        if not self.training:
            return
        shutil.copyfile(self.checkpoint.parent / TRAINING, staging / TRAINING)
        recorded = self.training.get("policy_sha256")
        if recorded and hashlib.sha256((staging / POLICY).read_bytes()).hexdigest() != recorded:
            raise CheckpointError(
                f"{self.checkpoint} is not the policy that {TRAINING} beside it describes",
                f"train again, or, if the policy is the right one, remove {self.checkpoint.parent / TRAINING}",
            )

    def check_fit(self, actor: Actor) -> None:
        """Raises EnvironmentMismatchError when the policy's sizes are not those of the environment."""
        sizes, expected = (actor.n_obs, actor.n_act), (self.spec.n_obs, self.spec.n_act)
        if sizes != expected:
            raise EnvironmentMismatchError(
                f"the policy takes {sizes[0]} observations and gives {sizes[1]} actions, {self.spec.environment} has "
                f"{expected[0]} and {expected[1]}",
                "name the environment that it was trained in: hil export -e ENVIRONMENT",
            )


def find_source(config: ExportConfig) -> ExportSource:
    """Finds the checkpoint that ``config`` means.

    Raises:
        CheckpointError: there is none, or its training.json is garbled.
        EnvironmentMismatchError: it was trained in another environment, or in an older form of this one.
        UnknownEnvironmentError: no such environment.
        UsageError: the output is a file.
    """
    source = config.source
    checkpoint = source / POLICY if source.is_dir() else source
    if not checkpoint.is_file():
        what = f"{source} holds no {POLICY}" if source.is_dir() else f"no such checkpoint or folder: {source}"
        raise CheckpointError(what, "list what is there: ls models; train one: hil train ppo")
    target = config.output or (checkpoint.parent if checkpoint.name == POLICY else checkpoint.with_suffix(""))
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file, a bundle is a folder", "give another --output")
    # "." and ".." have no name to put on a staging folder and a model card.
    target = target.resolve() if target.name in ("", "..") else target
    training = _read_training(checkpoint.parent / TRAINING)
    with open_environment(_environment(config, training)) as env:
        spec = env.spec
    _compare_spec(training, spec)
    return ExportSource(checkpoint, target, training, spec)


def _read_training(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        training = json.loads(path.read_text())
    except ValueError as exc:
        raise CheckpointError(f"{path} is not JSON: {exc}", "remove it and name the environment: hil export -e ...") from exc
    if not isinstance(training, dict):
        raise CheckpointError(f"{path} is not a table of settings", "remove it and name the environment: hil export -e ...")
    return training


def _environment(config: ExportConfig, training: dict[str, Any]) -> str:
    trained_in = training.get("environment")
    if config.environment and trained_in and config.environment != trained_in:
        raise EnvironmentMismatchError(
            f"the policy was trained in {trained_in}, not in {config.environment}",
            f"leave -e out, or train in it: hil train ppo -e {config.environment}",
        )
    return str(config.environment or trained_in or DEFAULT_ENVIRONMENT)


def _compare_spec(training: dict[str, Any], spec: PolicySpec) -> None:
    """The record of a training carries the signal tables of that day."""
    if "spec" not in training:
        return
    try:
        trained = PolicySpec.from_dict(training["spec"])
    except (KeyError, TypeError, ValueError) as exc:
        raise CheckpointError(f"the signal tables in {TRAINING} are garbled: {exc}", "train again: hil train ppo") from exc
    if trained == spec:
        return
    before, now = (*trained.observation, *trained.action), (*spec.observation, *spec.action)
    changed = [a.name for a, b in zip(before, now, strict=False) if a != b]
    what = f"changed: {', '.join(changed)}" if changed else "their number or the control period changed"
    raise EnvironmentMismatchError(
        f"{spec.environment} has other signals now than when the policy was trained ({what})",
        f"train again: hil train ppo -e {spec.environment}",
    )
