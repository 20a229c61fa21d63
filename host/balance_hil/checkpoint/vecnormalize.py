"""Wrappers of the training's environment: ``vecnormalize.pkl`` and the settings of an rl-baselines3-zoo folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.checkpoint.inert import MAX_BYTES, Inert, array_of, path_of, read_pickle
from balance_hil.errors import CheckpointError, ConfigError
from balance_hil.files import read_yaml
from balance_hil.quantize import Normalization

FILE = "vecnormalize.pkl"
_CLASS = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
_STEPS = re.compile(r"(.+)_(\d+)_steps")  # SB3's CheckpointCallback
# Wrappers of the zoo that change the observations.
_WRAPPER_KEYS = ("env_wrapper", "frame_stack", "vec_env_wrapper")
_WRAPPER_HINT = "register an environment that has this inside, and export the .zip from a folder without config.yml"
_PICKLE_HINT = "save it with the policy: env.save('vecnormalize.pkl')"


@dataclass(frozen=True)
class Surroundings:
    """The files next to a checkpoint that belong to its policy."""

    normalization: Normalization | None
    file: Path | None  # that the normalization was read from
    environment: str  # Gymnasium id in the zoo's args.yml; "" where there is none


def read_surroundings(checkpoint: Path, n_obs: int) -> Surroundings:
    """Reads ``vecnormalize.pkl`` and the zoo's ``config.yml`` and ``args.yml`` beside a checkpoint, or in the folder below it.

    Raises:
        CheckpointError: a wrapper changes the observations, a file is damaged, or the configuration names a normalization that
            is not there.
    """
    folders = _folders(checkpoint)
    config = _yaml(_first(folders, "config.yml"))
    arguments = _yaml(_first(folders, "args.yml"))
    for key in _WRAPPER_KEYS:
        if config.get(key) not in (None, False, [], "", 1):
            raise CheckpointError(
                f"{checkpoint} was trained behind {key} {_name(config[key])}, which does not exist on a board", _WRAPPER_HINT
            )
    wanted = _normalizes_observations(config.get("normalize"))
    match = _STEPS.fullmatch(checkpoint.stem)
    names = [f"{match[1]}_vecnormalize_{match[2]}_steps.pkl", FILE] if match else [FILE]
    file = next((found for name in names if (found := _first(folders, name))), None)
    environment = str(arguments.get("env") or "")
    if wanted is False:
        return Surroundings(None, None, environment)
    if file is None:
        if wanted:
            raise CheckpointError(
                f"{checkpoint} was trained behind VecNormalize, and there is no {FILE}", f"put {FILE} beside the checkpoint"
            )
        return Surroundings(None, None, environment)
    return Surroundings(read_vecnormalize(file, n_obs), file, environment)


def read_vecnormalize(path: Path, n_obs: int) -> Normalization | None:
    """The normalization of observations in a pickled ``VecNormalize``, read without running its code; None: rewards alone.

    Raises:
        CheckpointError: damaged, of Dict observations, or of another number of observations than ``n_obs``.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_BYTES >> 20} MiB", _PICKLE_HINT)
        value = read_pickle(path.read_bytes(), str(path))
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be read: {exc.strerror}", "check its permissions") from exc
    if path_of(value) != _CLASS or not isinstance(value, Inert):
        raise CheckpointError(f"{path} holds no VecNormalize: {path_of(value) or type(value).__name__}", _PICKLE_HINT)
    fields = value.fields
    if fields.get("norm_obs", True) is False:
        return None
    statistics = fields.get("obs_rms")
    if isinstance(statistics, Mapping) or fields.get("norm_obs_keys"):
        raise CheckpointError(f"{path} normalizes Dict observations", "train with a Box: gymnasium.wrappers.FlattenObservation")
    try:
        if not isinstance(statistics, Inert):
            raise ValueError("it has no obs_rms")
        mean, variance = (np.asarray(array_of(statistics.fields.get(key)), np.float64).ravel() for key in ("mean", "var"))
        epsilon, clip = (float(array_of(fields.get(key))) for key in ("epsilon", "clip_obs"))
        if mean.shape != (n_obs,) or variance.shape != (n_obs,):
            raise ValueError(f"it is of {mean.size} observations, the policy takes {n_obs}")
        with np.errstate(all="ignore"):
            inverse_std = 1.0 / np.sqrt(variance + epsilon)
            return Normalization(mean.astype(np.float32), inverse_std.astype(np.float32), clip)
    except (ValueError, TypeError) as exc:
        raise CheckpointError(f"{path} is garbled: {exc}", _PICKLE_HINT) from exc


def _folders(checkpoint: Path) -> list[Path]:
    """Where the zoo and SB3's callbacks put things: beside the zip, or in a folder of the environment's name."""
    here = checkpoint.parent
    return [here, here / checkpoint.stem, here / re.sub(r"_\d+$", "", here.resolve().name)]


def _first(folders: list[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _yaml(path: Path | None) -> Mapping[str, Any]:
    """A table of the zoo. Its files name one Python class, OrderedDict; every other one is refused."""
    if path is None:
        return {}

    def ordered(loader: Any, node: Any) -> dict[str, Any]:
        pairs = loader.construct_sequence(node, deep=True)[0]
        return {str(pair[0]): pair[1] for pair in pairs}

    def as_tuple(loader: Any, node: Any) -> tuple[Any, ...]:
        return tuple(loader.construct_sequence(node, deep=True))

    tags = {"tag:yaml.org,2002:python/object/apply:collections.OrderedDict": ordered, "tag:yaml.org,2002:python/tuple": as_tuple}
    try:
        return read_yaml(path, f"remove {path.name}, or write it as plain YAML", tags)
    except ConfigError as exc:
        raise CheckpointError(exc.message, exc.hint) from exc


def _normalizes_observations(value: Any) -> bool | None:
    """Whether the zoo's ``normalize`` (a flag, a table, or the text of a ``dict`` call) includes observations; None: unknown."""
    if isinstance(value, Mapping):
        return bool(value.get("norm_obs", True))
    if isinstance(value, str):
        return re.search(r"norm_obs['\"]?\s*[=:]\s*False", value) is None and value.strip().lower() != "false"
    return value if isinstance(value, bool) else None


def _name(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, Mapping) and first:
        first = next(iter(first))
    return str(first)
