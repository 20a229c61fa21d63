"""Opens a Stable-Baselines3 checkpoint without running the code that is pickled in it.

A ``policy.zip`` is an archive of JSON (``data``: settings, with every Python object as base64 pickle beside its readable
attributes) and of tensors (``policy.pth``). Only the readable parts and the tensors are used; nothing is unpickled and nothing
is extracted to disk. ``trust=True`` hands the file to Stable-Baselines3's own loader, which does run that code.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
import types
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import CheckpointError, require

ALGORITHMS = ("ppo", "a2c", "sac", "td3", "ddpg")
ACTIVATIONS = {"ReLU": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}
_ACTIVATION_FUNCTIONS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
_TRUST_HINT = "if you know where the file comes from, allow its code to run: add --trust"
_TRAIN_HINT = "train one that can be exported: hil train ppo"


class _UnreadableError(CheckpointError):
    """What is missing can only be had by unpickling."""


@dataclass(frozen=True, kw_only=True)
class Actor:
    """The deterministic actor of a checkpoint: what is left of a policy once exploration and critics are gone.

    ``weights[i]`` is float32 [outputs, inputs], ``biases[i]`` float32 [outputs]. ``activation`` follows every layer but the last;
    ``bound`` keeps the last one's output within -1..1: "clip" (PPO, A2C: clipped mean) or "tanh" (SAC, TD3, DDPG).
    """

    algorithm: str
    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]
    activation: str
    bound: str
    sb3_version: str

    @property
    def n_obs(self) -> int:
        """Length of the observation vector."""
        return int(self.weights[0].shape[1])

    @property
    def n_act(self) -> int:
        """Length of the action vector."""
        return int(self.weights[-1].shape[0])

    def act_batch(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions, float32 [n, n_act], for observations, float32 [n, n_obs], in plain numpy: what the layers mean."""
        values = np.asarray(observations, np.float32)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = _ACTIVATION_FUNCTIONS[self.activation](values @ weight.T + bias)
        values = values @ self.weights[-1].T + self.biases[-1]
        return np.asarray(np.tanh(values) if self.bound == "tanh" else np.clip(values, -1.0, 1.0), np.float32)


@dataclass(frozen=True)
class _Layout:
    """Where one family of policies keeps its actor in the state dict."""

    hidden: str  # "<hidden>.0.weight", "<hidden>.2.weight", ...
    last: str | None  # "<last>.weight"; None when the last layer is the last of ``hidden``
    bound: str
    default_activation: str


_LAYOUTS = {
    "action_net.weight": _Layout("mlp_extractor.policy_net", "action_net", "clip", "tanh"),  # PPO, A2C
    "actor.mu.weight": _Layout("actor.latent_pi", "actor.mu", "tanh", "relu"),  # SAC
    "actor.mu.0.weight": _Layout("actor.mu", None, "tanh", "relu"),  # TD3, DDPG
}


def read_checkpoint(path: str | Path, *, trust: bool = False) -> Actor:
    """Reads the actor of a ``policy.zip``.

    Args:
        path: the checkpoint.
        trust: where the readable parts do not tell enough, let Stable-Baselines3 unpickle the file, and check the actor
            against its ``predict``.

    Raises:
        CheckpointError: not a checkpoint, cut off, of another kind of policy, or not readable without running its code.
        MissingExtraError: torch (or, with ``trust``, stable-baselines3) is not installed.
    """
    require("torch", "train")
    file = Path(path)
    data, state, version = _open(file)
    layout = _find_layout(file, state)
    _refuse_extractor(file, state)
    weights, biases = _dense_layers(file, state, layout)
    algorithm = _algorithm(data, layout)
    _check_action_box(file, data)
    run_code = False
    try:
        activation, bound = _readable_settings(file, data, layout)
    except _UnreadableError:
        if not trust:
            raise
        run_code = True
        activation, bound = _trusted_settings(file, algorithm)
    actor = Actor(
        algorithm=algorithm,
        weights=weights,
        biases=biases,
        activation=activation,
        bound=bound or layout.bound,
        sb3_version=version,
    )
    if run_code:
        _check_against_predict(file, actor)
    return actor


def _open(file: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    import torch

    if not file.is_file():
        raise CheckpointError(f"no such checkpoint: {file}", "train one: hil train ppo")
    try:
        with zipfile.ZipFile(file) as archive:
            data = json.loads(archive.read("data"))
            tensors = io.BytesIO(archive.read("policy.pth"))
            names = set(archive.namelist())
            version = archive.read("_stable_baselines3_version").decode().strip() if "_stable_baselines3_version" in names else ""
    except KeyError as exc:
        raise CheckpointError(f"{file} is a zip file but no Stable-Baselines3 checkpoint: {exc.args[0]}", _TRAIN_HINT) from exc
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, zlib.error) as exc:
        raise CheckpointError(f"{file} is damaged or no zip file: {exc}", _TRAIN_HINT) from exc
    try:
        state = torch.load(tensors, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises UnpicklingError, RuntimeError, EOFError, ... for what it will not load
        reason = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise CheckpointError(f"the weights in {file} cannot be read without running code: {reason}", _TRAIN_HINT) from exc
    if not isinstance(data, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{file} is no Stable-Baselines3 checkpoint: its parts have the wrong form", _TRAIN_HINT)
    return data, state, version


def _find_layout(file: Path, state: Mapping[str, Any]) -> _Layout:
    for key, layout in _LAYOUTS.items():
        if key in state:
            return layout
    what = (
        "a value-based policy (DQN or the like)"
        if any(k.startswith(("q_net", "quantile_net")) for k in state)
        else "an unknown policy"
    )
    raise CheckpointError(
        f"{file} holds {what}, not the actor of {', '.join(a.upper() for a in ALGORITHMS)}",
        "train with one of them: hil train ppo|a2c|sac|td3|ddpg",
    )


def _refuse_extractor(file: Path, state: Mapping[str, Any]) -> None:
    for key in state:
        if "features_extractor." in key or "lstm" in key or ".shared_net." in key:
            raise CheckpointError(f"{file} is no plain MLP policy: it holds {key}", "train with SB3's MlpPolicy: hil train ppo")


def _dense_layers(
    file: Path, state: Mapping[str, Any], layout: _Layout
) -> tuple[tuple[NDArray[np.float32], ...], tuple[NDArray[np.float32], ...]]:
    pattern = re.compile(re.escape(layout.hidden) + r"\.(\d+)\.(\w+)")
    hidden = sorted({int(m[1]) for key in state if (m := pattern.fullmatch(key))})
    # SB3 alternates layer and activation; anything else between them (a norm, a dropout) shifts or fills the odd places.
    if hidden != list(range(0, 2 * len(hidden), 2)):
        raise CheckpointError(f"{file} is no plain MLP policy: layers {hidden} of {layout.hidden}", _TRAIN_HINT)
    prefixes = [f"{layout.hidden}.{i}" for i in hidden] + ([layout.last] if layout.last else [])
    weights, biases = [], []
    for prefix in prefixes:
        weight, bias = state.get(f"{prefix}.weight"), state.get(f"{prefix}.bias")
        if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise CheckpointError(f"{file} is no plain MLP policy: {prefix} is not a dense layer", _TRAIN_HINT)
        weights.append(np.asarray(weight.numpy(), np.float32))
        biases.append(np.asarray(bias.numpy(), np.float32))
    if any(a.shape[0] != b.shape[1] for a, b in itertools.pairwise(weights)):
        raise CheckpointError(f"{file} is no plain MLP policy: its layers do not fit one another", _TRAIN_HINT)
    if not all(np.all(np.isfinite(w)) for w in (*weights, *biases)):
        raise CheckpointError(f"{file} holds NaN or infinite weights: its training diverged", "train again, with another seed")
    return tuple(weights), tuple(biases)


def _algorithm(data: Mapping[str, Any], layout: _Layout) -> str:
    """SB3 does not store the algorithm's name; the settings that it stores tell."""
    if layout.bound == "clip":
        return "ppo" if "n_epochs" in data else "a2c"
    if "target_entropy" in data:
        return "sac"
    return "ddpg" if data.get("policy_delay") == 1 else "td3"


def _check_action_box(file: Path, data: Mapping[str, Any]) -> None:
    box = data.get("action_space")
    if not isinstance(box, dict):
        return
    numbers = [float(n) for key in ("low", "high") for n in re.findall(r"[-+.\deE]+", str(box.get(key, "")))]
    if any(abs(n) != 1.0 for n in numbers):
        raise CheckpointError(
            f"the actions of {file} are not limited to -1..1", "scale the action space of its environment to -1..1"
        )


def _readable_settings(file: Path, data: Mapping[str, Any], layout: _Layout) -> tuple[str, str]:
    """Activation and bound ("" for the layout's own) from the text that SB3 keeps beside each pickle."""
    policy_class = data.get("policy_class")
    module = policy_class.get("__module__", "") if isinstance(policy_class, dict) else ""
    if not str(module).startswith("stable_baselines3."):
        raise _UnreadableError(f"the policy class of {file} is not one of Stable-Baselines3 ({module or 'unnamed'})", _TRUST_HINT)
    kwargs = data.get("policy_kwargs")
    if not isinstance(kwargs, dict):
        raise _UnreadableError(f"{file} does not tell its activation in readable form", _TRUST_HINT)
    bound = "tanh" if kwargs.get("squash_output") is True else ""
    if "activation_fn" not in kwargs:
        return layout.default_activation, bound
    match = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", str(kwargs["activation_fn"]))
    if match is None:
        raise _UnreadableError(f"{file} does not tell its activation in readable form: {kwargs['activation_fn']}", _TRUST_HINT)
    return _known_activation(file, match[1]), bound


def _known_activation(file: Path, name: str) -> str:
    if name not in ACTIVATIONS:
        raise CheckpointError(
            f"the activation {name} of {file} cannot be exported", f"train with one of {', '.join(ACTIVATIONS)} (policy_kwargs)"
        )
    return ACTIVATIONS[name]


def keep_tensorflow_out() -> None:
    """To be called before Stable-Baselines3 is imported.

    It imports tensorboard, which by default imports TensorFlow where that is installed: seconds, and a screen of log lines. This
    module's presence tells tensorboard to do without.
    """
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))


def import_sb3() -> Any:
    """Stable-Baselines3, imported without TensorFlow. Raises MissingExtraError."""
    require("stable_baselines3", "train")
    keep_tensorflow_out()
    import stable_baselines3

    return stable_baselines3


def _trusted_model(file: Path, algorithm: str) -> Any:
    try:
        return getattr(import_sb3(), algorithm.upper()).load(file, device="cpu")
    except Exception as exc:  # whatever the pickled code raises
        raise CheckpointError(f"Stable-Baselines3 cannot load {file}: {exc}", _TRAIN_HINT) from exc


def _trusted_settings(file: Path, algorithm: str) -> tuple[str, str]:
    policy = _trusted_model(file, algorithm).policy
    activation = getattr(policy, "activation_fn", None)
    if activation is None:
        raise CheckpointError(f"the policy class of {file} does not tell its activation", _TRAIN_HINT)
    return _known_activation(file, activation.__name__), "tanh" if policy.squash_output else ""


def _check_against_predict(file: Path, actor: Actor) -> None:
    """A policy class of the user's own may compute something else than its weights suggest."""
    observations = np.random.default_rng(0).uniform(-1.0, 1.0, (256, actor.n_obs)).astype(np.float32)
    expected, _ = _trusted_model(file, actor.algorithm).predict(observations, deterministic=True)
    error = float(np.max(np.abs(expected - actor.act_batch(observations))))
    if error > 1e-5:
        raise CheckpointError(
            f"{file} computes something else than a plain MLP: its actions differ by up to {error:.3g}", _TRAIN_HINT
        )
