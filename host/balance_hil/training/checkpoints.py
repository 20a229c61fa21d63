"""Checkpoints: a folder with ``policy.zip`` (Stable-Baselines3) and ``training.json`` (how it came about), and for an algorithm
with a replay buffer ``replay.npz``. The result of a training is a checkpoint without the buffer.

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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from balance_hil.bundle import POLICY, TRAINING
from balance_hil.errors import CheckpointError, EnvironmentMismatchError
from balance_hil.spec import PolicySpec
from balance_hil.training.replay import replay_bytes

_FORMAT = 1
_REPLAY = "replay.npz"
_VARIABLES = "pytorch_variables.pth"
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
_HINT = "start anew, without --resume"


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """Contents of ``training.json``."""

    algorithm: str
    environment: str
    seed: int
    steps: int  # environment steps behind these weights
    wall_s: float  # training alone
    evaluation_wall_s: float
    success_rate: float | None  # 0..1 over ``evaluation["episodes"]`` episodes; None when not yet evaluated
    evaluation: Mapping[str, Any]  # EvaluationSummary and first seed; empty when not yet evaluated
    hyper_parameters: Mapping[str, Any]
    versions: Mapping[str, str]
    spec: PolicySpec
    return_statistics: Mapping[str, float] = field(default_factory=dict)  # of the reward normalization
    rebuild: str = ""  # the command that made it, but for --output
    policy_sha256: str = ""
    cpu_s: float = 0.0  # processor time of the training alone, of all threads: other programs add little to it
    replay_sha256: str = ""  # of the replay buffer; empty without one

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory: the bytes of ``policy.zip`` and of ``replay.npz`` (empty without one), and their record."""

    policy: bytes
    record: TrainingRecord
    replay: bytes = b""

    def parameters(self) -> dict[str, Any]:
        """What ``BaseAlgorithm.set_parameters`` takes. Raises CheckpointError."""
        return self._tensors(lambda name: name.endswith(".pth") and name != _VARIABLES)

    def variables(self) -> dict[str, Any]:
        """Trained tensors outside the policy by name: SAC's entropy coefficient. Raises CheckpointError."""
        return self._tensors(lambda name: name == _VARIABLES).get(_VARIABLES.removesuffix(".pth")) or {}

    def _tensors(self, wanted: Callable[[str], bool]) -> dict[str, Any]:
        import torch

        loaded = {}
        try:
            with zipfile.ZipFile(io.BytesIO(self.policy)) as archive:
                for name in filter(wanted, archive.namelist()):
                    tensors = io.BytesIO(archive.read(name))
                    loaded[name.removesuffix(".pth")] = torch.load(tensors, map_location="cpu", weights_only=True)
        except Exception as exc:  # torch and zipfile raise what they like on a damaged file
            raise CheckpointError(f"the weights in {POLICY} cannot be read: {exc}", _HINT) from exc
        return loaded


def pack(model: Any, record: TrainingRecord, *, with_replay: bool = False) -> Checkpoint:
    """The present state of a Stable-Baselines3 model as a checkpoint that ``PPO.load`` (``SAC.load``, ...) reads as well."""
    raw, packed = io.BytesIO(), io.BytesIO()
    model.save(raw, exclude=_OF_THIS_PROCESS)
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            if name not in _LEFT_OUT:
                info = zipfile.ZipInfo(name, _ZIP_TIME)
                info.compress_type = zipfile.ZIP_DEFLATED
                target.writestr(info, _ADDRESS.sub(b"", source.read(name)) if name == "data" else source.read(name))
    policy = packed.getvalue()
    replay = replay_bytes(model) if with_replay else b""
    record = replace(record, policy_sha256=_sha256(policy), replay_sha256=_sha256(replay) if replay else "")
    return Checkpoint(policy, record, replay)


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
        if checkpoint.replay:
            (staging / _REPLAY).write_bytes(checkpoint.replay)
            (staging / _REPLAY).replace(folder / _REPLAY)
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
    if _sha256(policy) != record.policy_sha256:
        raise CheckpointError(f"{folder / POLICY} is not the policy that {TRAINING} was written for", _HINT)
    replay = _read_replay(folder) if record.replay_sha256 else b""
    if replay and _sha256(replay) != record.replay_sha256:
        raise CheckpointError(f"{folder / _REPLAY} is not the replay buffer that {TRAINING} was written for", _HINT)
    return Checkpoint(policy, record, replay)


def _read_replay(folder: Path) -> bytes:
    try:
        return (folder / _REPLAY).read_bytes()
    except OSError as exc:
        raise CheckpointError(f"the replay buffer {folder / _REPLAY} cannot be read: {exc.strerror}", _HINT) from exc


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
