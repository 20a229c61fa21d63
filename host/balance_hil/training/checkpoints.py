"""Checkpoints: a folder with ``policy.zip`` (Stable-Baselines3) and ``training.json`` (how it came about).

A checkpoint is read without running code: the settings come from the JSON file, the tensors are loaded with torch's
``weights_only``, and the Python objects pickled in ``policy.zip`` are never touched.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from balance_hil.bundle import POLICY, TRAINING
from balance_hil.errors import CheckpointError, EnvironmentMismatchError
from balance_hil.spec import PolicySpec

_FORMAT = 1
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same weights give the same bytes
_LEFT_OUT = ("system_info.txt",)  # says which machine it was
# Left out of policy.zip: of no use in another process, and start_time would make equal weights unequal files.
_OF_THIS_PROCESS = (
    "start_time",
    "ep_info_buffer",
    "ep_success_buffer",
    "_last_obs",
    "_last_original_obs",
    "_last_episode_starts",
)
_ADDRESS = re.compile(rb" at 0x[0-9a-f]+")  # in the readable text beside each pickle, another one in every process
_HINT = "start anew: hil train ppo"


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """Contents of ``training.json``."""

    algorithm: str
    environment: str
    seed: int
    steps: int  # environment steps behind these weights
    wall_s: float  # training alone
    evaluation_wall_s: float
    survival: float | None  # 0..1 over ``evaluation["episodes"]`` episodes; None when not yet evaluated
    evaluation: Mapping[str, Any]  # EvaluationSummary and first seed; empty when not yet evaluated
    hyper_parameters: Mapping[str, Any]
    versions: Mapping[str, str]
    spec: PolicySpec
    return_statistics: Mapping[str, float] = field(default_factory=dict)  # of the reward normalisation
    rebuild: str = ""  # the command that made it, but for --output
    policy_sha256: str = ""

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory: the bytes of ``policy.zip`` and its record."""

    policy: bytes
    record: TrainingRecord

    def parameters(self) -> dict[str, Any]:
        """What ``BaseAlgorithm.set_parameters`` takes. Raises CheckpointError."""
        import torch

        loaded = {}
        try:
            with zipfile.ZipFile(io.BytesIO(self.policy)) as archive:
                for name in archive.namelist():
                    if name.endswith(".pth") and name != "pytorch_variables.pth":
                        tensors = io.BytesIO(archive.read(name))
                        loaded[name.removesuffix(".pth")] = torch.load(tensors, map_location="cpu", weights_only=True)
        except Exception as exc:  # torch and zipfile raise what they like on a damaged file
            raise CheckpointError(f"the weights in {POLICY} cannot be read: {exc}", _HINT) from exc
        return loaded


def pack(model: Any, record: TrainingRecord) -> Checkpoint:
    """The present state of a Stable-Baselines3 model as a checkpoint that ``PPO.load`` reads as well."""
    raw, packed = io.BytesIO(), io.BytesIO()
    model.save(raw, exclude=_OF_THIS_PROCESS)
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            if name not in _LEFT_OUT:
                info = zipfile.ZipInfo(name, _ZIP_TIME)
                info.compress_type = zipfile.ZIP_DEFLATED
                target.writestr(info, _ADDRESS.sub(b"", source.read(name)) if name == "data" else source.read(name))
    policy = packed.getvalue()
    return Checkpoint(policy, replace(record, policy_sha256=hashlib.sha256(policy).hexdigest()))


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint; each file is complete or as it was before, other files of the folder are kept.

    Raises:
        CheckpointError: the folder cannot be written, or the disk is full.
    """
    try:
        _save(checkpoint, folder)
    except OSError as exc:
        raise CheckpointError(
            f"cannot write {folder}: {exc.strerror}", "make room or choose another folder: --output, --runs"
        ) from exc


def _save(checkpoint: Checkpoint, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (staging / POLICY).write_bytes(checkpoint.policy)
        (staging / TRAINING).write_text(checkpoint.record.to_json())
        for name in (POLICY, TRAINING):
            (staging / name).replace(folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint folder, or the one around a ``policy.zip``.

    Raises:
        CheckpointError: no checkpoint there, damaged, or its two files do not belong together.
    """
    folder = path.parent if path.suffix == ".zip" else path
    try:
        policy = (folder / POLICY).read_bytes()
        values = json.loads((folder / TRAINING).read_text())
    except OSError as exc:
        raise CheckpointError(
            f"{folder} is no checkpoint of hil train: {exc.strerror} ({Path(exc.filename).name})", "checkpoints lie in runs/"
        ) from exc
    except ValueError as exc:
        raise CheckpointError(f"{folder / TRAINING} is not JSON: {exc}", _HINT) from exc
    try:
        if values.pop("format") != _FORMAT:
            raise KeyError(f"format {_FORMAT}")
        values["spec"] = PolicySpec.from_dict(values["spec"])
        record = TrainingRecord(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise CheckpointError(f"{folder / TRAINING} lacks or garbles {exc}", _HINT) from exc
    if hashlib.sha256(policy).hexdigest() != record.policy_sha256:
        raise CheckpointError(f"{folder / POLICY} is not the policy that {TRAINING} was written for", _HINT)
    return Checkpoint(policy, record)


def require_same_task(record: TrainingRecord, algorithm: str, environment: str, spec: PolicySpec) -> None:
    """Refuses to continue another algorithm's or environment's checkpoint.

    Raises:
        CheckpointError: it is of another algorithm.
        EnvironmentMismatchError: it is of another environment, or of this one with other signals.
    """
    if record.algorithm != algorithm:
        raise CheckpointError(
            f"the checkpoint is of {record.algorithm}, not of {algorithm}", f"continue it with: hil train {record.algorithm}"
        )
    if record.environment != environment:
        raise EnvironmentMismatchError(
            f"the checkpoint was trained on {record.environment}, not on {environment}",
            f"continue it with: -e {record.environment}",
        )
    if record.spec != spec:
        raise EnvironmentMismatchError(
            f"the checkpoint was trained on other observations or actions than {environment} has now", _HINT
        )
