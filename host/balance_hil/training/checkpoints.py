"""Checkpoints: a folder with ``policy.zip`` (Stable-Baselines3) and ``training.json`` (how it was made), ``vecnormalize.pkl``
where observations are normalized, and for an algorithm with a replay buffer ``replay.npz``. The result of a training is a
checkpoint without the buffer.

A checkpoint is read without running code: the settings come from the JSON file, the tensors are loaded with torch's
``weights_only``, and the Python objects pickled in ``policy.zip`` are never touched.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.bundle import POLICY, TRAINING
from balance_hil.errors import CheckpointError, EnvironmentMismatchError
from balance_hil.files import parse_json, staging_folder
from balance_hil.spec import PolicySpec

_FORMAT = 2
_REPLAY, NORMALIZER = "replay.npz", "vecnormalize.pkl"
# Of the buffer, each [rows, n_envs, ...].
_ROWS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_VARIABLES = "pytorch_variables.pth"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same weights give the same bytes
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
_HINT = "train without --resume"


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """Contents of ``training.json``."""

    algorithm: str
    environment: str
    seed: int
    steps: int = 0  # environment steps behind these weights
    wall_s: float = 0.0  # training alone
    evaluation_wall_s: float = 0.0
    success_rate: float | None = None  # 0..1 over ``evaluation["episodes"]`` episodes; None when not yet evaluated
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # EvaluationSummary and first seed; empty when not yet evaluated
    hyper_parameters: Mapping[str, Any]
    versions: Mapping[str, str]
    spec: PolicySpec
    options: Mapping[str, Any] = field(default_factory=dict)  # constructor arguments of the environment
    return_statistics: Mapping[str, float] = field(default_factory=dict)  # of the reward normalization
    observation_statistics: Mapping[str, Any] = field(default_factory=dict)  # the same, with lists; empty without one
    rebuild: str = ""  # the command that made it, but for --output
    policy_sha256: str = ""
    cpu_s: float = 0.0  # processor time of the training alone, of all threads: other programs add little to it
    replay_sha256: str = ""  # of the replay buffer; empty without one
    normalizer_sha256: str = ""  # of vecnormalize.pkl; empty without one

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory: the bytes of its files, empty where there is none, and their record."""

    policy: bytes
    record: TrainingRecord
    replay: bytes = b""
    normalizer: bytes = b""

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
            if name != "system_info.txt":  # describes the machine
                info = zipfile.ZipInfo(name, _ZIP_TIME)
                info.compress_type = zipfile.ZIP_DEFLATED
                target.writestr(info, _ADDRESS.sub(b"", source.read(name)) if name == "data" else source.read(name))
    policy = packed.getvalue()
    replay = replay_bytes(model) if with_replay else b""
    envs = model.get_vec_normalize_env()
    normalizer = pickle.dumps(envs, protocol=4) if envs is not None and envs.norm_obs else b""
    record = replace(
        record,
        policy_sha256=_sha256(policy),
        replay_sha256=_sha256(replay) if replay else "",
        normalizer_sha256=_sha256(normalizer) if normalizer else "",
    )
    return Checkpoint(policy, record, replay, normalizer)


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint; each file is complete or as it was before, other files of the folder are kept.

    Raises:
        CheckpointError: the folder cannot be written, or the disk is full.
    """
    contents = {
        _REPLAY: checkpoint.replay,
        NORMALIZER: checkpoint.normalizer,
        POLICY: checkpoint.policy,
        TRAINING: checkpoint.record.to_json().encode(),
    }
    files = {name: content for name, content in contents.items() if content}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with staging_folder(folder) as staging:
            for name, content in files.items():
                (staging / name).write_bytes(content)
            if not checkpoint.normalizer:
                (folder / NORMALIZER).unlink(missing_ok=True)  # of a policy that was there before
            for name in files:
                (staging / name).replace(folder / name)
    except OSError as exc:
        raise CheckpointError(
            f"cannot write {folder}: {exc.strerror}", "make room or choose another folder: --output, --runs"
        ) from exc


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint folder, or the one around a ``policy.zip``.

    Raises:
        CheckpointError: no checkpoint there, damaged, or its two files do not belong together.
    """
    folder = path.parent if path.suffix == ".zip" else path
    try:
        policy = (folder / POLICY).read_bytes()
        values = parse_json((folder / TRAINING).read_text())
    except OSError as exc:
        raise CheckpointError(
            f"{folder} is not a checkpoint of hil train: {exc.strerror} ({Path(exc.filename).name})", "checkpoints are in runs/"
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
    replay = _read_beside(folder, _REPLAY, record.replay_sha256)
    return Checkpoint(policy, record, replay, _read_beside(folder, NORMALIZER, record.normalizer_sha256))


def _read_beside(folder: Path, name: str, sha256: str) -> bytes:
    """A file that the record names by its hash; empty when it names none."""
    if not sha256:
        return b""
    try:
        data = (folder / name).read_bytes()
    except OSError as exc:
        raise CheckpointError(f"{folder / name} cannot be read: {exc.strerror}", _HINT) from exc
    if _sha256(data) != sha256:
        raise CheckpointError(f"{folder / name} is not the file that {TRAINING} was written for", _HINT)
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def require_same_task(record: TrainingRecord, algorithm: str, spec: PolicySpec) -> None:
    """Refuses to continue another algorithm's or environment's checkpoint.

    Raises:
        CheckpointError: it is of another algorithm.
        EnvironmentMismatchError: it is of another environment, or of this one with other signals.
    """
    if record.algorithm != algorithm:
        raise CheckpointError(
            f"the checkpoint is of {record.algorithm}, not of {algorithm}", f"continue it with: hil train {record.algorithm}"
        )
    if record.environment != spec.environment:
        raise EnvironmentMismatchError(
            f"the checkpoint was trained on {record.environment}, not on {spec.environment}",
            f"continue it with: -e {record.environment}",
        )
    if record.spec != spec:
        raise EnvironmentMismatchError(
            f"the checkpoint was trained on other observations or actions than {spec.environment} has now", _HINT
        )


def replay_bytes(model: Any) -> bytes:
    """The replay buffer of a Stable-Baselines3 model as the bytes of an ``.npz`` file; empty for an algorithm without one."""
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return b""
    rows = buffer.buffer_size if buffer.full else buffer.pos
    packed = io.BytesIO()
    np.savez(packed, pos=buffer.pos, full=buffer.full, **{name: getattr(buffer, name)[:rows] for name in _ROWS})
    return packed.getvalue()


def restore_replay(model: Any, packed: bytes) -> None:
    """Fills the replay buffer of a new model. Episodes that were in progress end: they do not continue in later rows.

    Raises:
        CheckpointError: the bytes are no such file, or of a buffer of another shape.
    """
    buffer = model.replay_buffer
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ROWS}
            pos, full = int(stored["pos"]), bool(stored["full"])
        rows = buffer.buffer_size if full else pos
        for name, values in arrays.items():
            if len(values) != rows:
                raise ValueError(f"{name} has {len(values)} rows, not {rows}")
            getattr(buffer, name)[:rows] = values
    except Exception as exc:  # zipfile, zlib and numpy share no base for what is damaged
        raise CheckpointError(
            f"the replay buffer cannot be read: {exc}", "resume from the result's folder: its policy goes on with an empty buffer"
        ) from exc
    buffer.pos, buffer.full = pos, full
    if rows:
        latest = (pos - 1) % buffer.buffer_size
        buffer.timeouts[latest] = np.maximum(buffer.timeouts[latest], 1.0 - buffer.dones[latest])
