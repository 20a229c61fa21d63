"""Reads the actor out of a Stable-Baselines3 zip, of version 1.0 to today and of sb3-contrib, and unpickles nothing.

The archive holds JSON (``data``: settings, with every Python object as a base64 pickle) and tensors (``policy.pth``). The pickles
of the policy's class, its arguments and both spaces are read by ``inert``; whatever could change an action is understood or is an
error that names it.
"""

from __future__ import annotations

import base64
import binascii
import io
import itertools
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.checkpoint.actor import Actor, Checkpoint, Float32Array, Layer
from balance_hil.checkpoint.inert import path_of, read_pickle
from balance_hil.checkpoint.sb3_reference import algorithm_name, check_against_predict
from balance_hil.checkpoint.spaces import Space, pickled_space
from balance_hil.errors import CheckpointError, first_line, require
from balance_hil.files import parse_json
from balance_hil.spec import ActionMap

ALGORITHMS = ("ppo", "a2c", "sac", "td3", "ddpg", "trpo", "tqc", "crossq", "ars")
DEFAULT_CLIP_MEAN = 2.0  # of SAC and its relatives with gSDE
DEFAULT_BATCH_NORM_EPS = 1e-3  # of CrossQ

_SUFFIX = ".zip"
_MAX_BYTES = {"data": 8 << 20, "policy.pth": 64 << 20, "_stable_baselines3_version": 1 << 10}
_MAX_MEMBERS = 1000
_MAX_TENSORS = 10_000

_Affine = tuple[NDArray[np.float64], NDArray[np.float64]]  # factor and shift of each element

_TRUST_HINT = "if you know where the file comes from, let it run its code and compare the actions: add --trust"
_TRAIN_HINT = "train one that can be exported: hil train ppo"
_MLP_HINT = "train with MlpPolicy and the default features extractor, or export the actor to ONNX yourself: hil export ACTOR.onnx"

_POLICIES = {  # class -> family
    "stable_baselines3.common.policies.ActorCriticPolicy": "actor-critic",
    "stable_baselines3.sac.policies.SACPolicy": "sac",
    "stable_baselines3.td3.policies.TD3Policy": "td3",
    "sb3_contrib.tqc.policies.TQCPolicy": "tqc",
    "sb3_contrib.crossq.policies.CrossQPolicy": "crossq",
    "sb3_contrib.ars.policies.ARSPolicy": "ars",
    "sb3_contrib.ars.policies.ARSLinearPolicy": "ars-linear",
}
# Part of a class's full name -> its common name. All of them do more than a chain of dense layers.
_REFUSED_POLICIES = {
    "Recurrent": "a recurrent policy (RecurrentPPO with an LSTM)",
    "MultiInput": "a policy for Dict observations",
    "Cnn": "a CNN policy",
    "Maskable": "a policy with action masks (MaskablePPO)",
    "qrdqn": "a value-based policy (QR-DQN)",
    "dqn": "a value-based policy (DQN)",
}
_EXTRACTOR = "stable_baselines3.common.torch_layers.FlattenExtractor"
_ACTIVATIONS = {
    "Identity": "",
    "ReLU": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "ELU": "elu",
    "LeakyReLU": "leaky_relu",
    "SiLU": "silu",
}
_ACTIVATION_PATH = re.compile(r"torch\.nn\.modules\.(?:activation|linear)\.(\w+)")
_READ = {  # settings that this module reads
    *("net_arch", "activation_fn", "squash_output", "clip_mean", "use_sde", "with_bias", "batch_norm", "batch_norm_eps"),
    *("features_extractor_class", "features_extractor_kwargs"),
}
_WITHOUT_EFFECT = {  # on the deterministic action of an MLP
    *("log_std_init", "full_std", "use_expln", "sde_net_arch", "ortho_init", "optimizer_class", "optimizer_kwargs"),
    *("n_critics", "n_quantiles", "top_quantiles_to_drop_per_net", "share_features_extractor", "normalize_images", "device"),
    *("batch_norm_momentum", "renorm_warmup_steps"),
}
_OTHER_TENSORS = {  # beside the actor: critics, exploration, optimizers' targets
    "actor-critic": re.compile(r"(mlp_extractor\.value_net|value_net|sde_features_extractor)\..+|log_std"),
    "off-policy": re.compile(r"(critic|critic_target|actor_target|actor\.sde_features_extractor)\..+|actor\.log_std(\..+)?"),
    "ars": re.compile(r"(?!)"),
}


def find_checkpoint(path: str | Path) -> Path:
    """The zip that a user means: a file, its name without ``.zip`` as Stable-Baselines3 takes it, or a folder with one in it.

    Raises:
        CheckpointError: there is none, or a folder holds several and none is ``policy.zip`` or the one that the zoo names.
    """
    given = Path(path)
    if given.is_dir():
        zips = sorted(given.glob("*" + _SUFFIX))
        named = [p for p in zips if p.name == "policy.zip" or (given / p.stem / "config.yml").is_file()]  # ours, the zoo's
        if named or len(zips) == 1:
            return (named or zips)[0]
        if zips:
            names = ", ".join(p.name for p in zips)
            raise CheckpointError(f"{given} holds several checkpoints: {names}", f"name one: hil export {zips[0]}")
    elif given.is_file():
        return given
    with_suffix = given.with_name(given.name + _SUFFIX) if given.name else given
    if with_suffix.is_file():
        return with_suffix
    what = f"{given} holds no checkpoint (policy.zip)" if given.is_dir() else f"no such checkpoint or folder: {given}"
    raise CheckpointError(what, "list policies: ls policies; train one: hil train ppo")


def read_checkpoint(path: str | Path, *, trust: bool = False) -> Actor:
    """The actor of a zip; see ``open_checkpoint``."""
    return open_checkpoint(path, trust=trust).actor


def open_checkpoint(path: str | Path, *, trust: bool = False) -> Checkpoint:
    """Reads a zip.

    Args:
        path: the checkpoint, with or without ``.zip``.
        trust: let Stable-Baselines3 unpickle the file, which runs its code, and check the actor against its ``predict``. A policy
            class or features extractor of the user's own is then accepted if the actions are the same.

    Raises:
        CheckpointError: not a checkpoint, damaged, a kind of policy that cannot be exported, or not readable without its code.
        MissingExtraError: torch, or with ``trust`` stable-baselines3 or sb3-contrib, is not installed.
    """
    require("torch", "train")
    file = find_checkpoint(path)
    if file.suffix == ".pth":
        raise CheckpointError(
            f"{file} contains weights without the settings of their policy", "give the whole checkpoint: model.save('policy.zip')"
        )
    content, parts = _unzip(file)
    data, state = _settings(file, parts["data"]), _tensors(file, parts["policy.pth"])
    reader = _Reader(file, data, state, trust)
    actor = reader.actor(parts.get("_stable_baselines3_version", b"").decode(errors="replace").strip())
    opened = Checkpoint(
        path=file,
        content=content,
        actor=actor,
        policy_class=reader.policy_class,
        settings=reader.settings,
        state=state,
        behind_vec_normalize=data.get("_last_original_obs") is not None,
    )
    if trust:
        check_against_predict(opened)
    return opened


def _unzip(file: Path) -> tuple[bytes, dict[str, bytes]]:
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise CheckpointError(f"{file} cannot be read: {exc.strerror}", "check its permissions") from exc
    parts: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if len(archive.infolist()) > _MAX_MEMBERS:
                raise CheckpointError(f"{file} is not a Stable-Baselines3 checkpoint: it has too many parts", _TRAIN_HINT)
            for name, limit in _MAX_BYTES.items():
                if name not in archive.namelist():
                    continue
                with archive.open(name) as part:
                    parts[name] = part.read(limit + 1)  # the size in the directory may be wrong
                if len(parts[name]) > limit:
                    raise CheckpointError(f"{name} in {file} is larger than {limit >> 20} MiB", _TRAIN_HINT)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error) as exc:
        if isinstance(exc, CheckpointError):
            raise
        raise CheckpointError(f"{file} is damaged or no zip file: {exc}", _TRAIN_HINT) from exc
    missing = [name for name in ("data", "policy.pth") if name not in parts]
    if missing:
        raise CheckpointError(f"{file} is a zip file but not a Stable-Baselines3 checkpoint: it lacks {missing[0]}", _TRAIN_HINT)
    return content, parts


def _settings(file: Path, text: bytes) -> dict[str, Any]:
    try:
        data = parse_json(text)
    except ValueError as exc:
        raise CheckpointError(f"the settings in {file} are not JSON: {exc}", _TRAIN_HINT) from exc
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} is not a Stable-Baselines3 checkpoint: its parts have the wrong form", _TRAIN_HINT)
    return data


def _tensors(file: Path, content: bytes) -> dict[str, Any]:
    import torch

    try:
        with io.BytesIO(content) as stream:
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as archive:
                    if sum(member.file_size for member in archive.infolist()) > _MAX_BYTES["policy.pth"]:
                        raise ValueError("its parts are larger than the limit")
            stream.seek(0)
            state = torch.load(stream, map_location="cpu", weights_only=True)
    except (Exception, MemoryError) as exc:  # torch raises UnpicklingError, RuntimeError, EOFError, ... for what it will not load
        raise CheckpointError(
            f"the weights in {file} cannot be read without running code: {first_line(exc)}", _TRAIN_HINT
        ) from exc
    if not isinstance(state, dict) or len(state) > _MAX_TENSORS or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(f"{file} is not a Stable-Baselines3 checkpoint: its parts have the wrong form", _TRAIN_HINT)
    return {str(key): value for key, value in state.items()}


class _Reader:
    """One checkpoint while it is read. ``unread`` shrinks to the tensors that were not interpreted."""

    def __init__(self, file: Path, data: Mapping[str, Any], state: Mapping[str, Any], trust: bool) -> None:
        self.file, self._data, self._state, self._trust = file, data, state, trust
        self._unread = set(state)
        self.policy_class = path_of(self._unpickled("policy_class"))
        self.settings = self._policy_kwargs()

    def actor(self, version: str) -> Actor:
        family = self._family()
        observation, action = self._space("observation_space"), self._space("action_space")
        self._check_spaces(observation, action)
        self._check_settings()
        if family == "actor-critic":
            layers, squash = self._actor_critic()
        elif family in ("ars", "ars-linear"):
            layers, squash = self._ars(action, linear=family == "ars-linear")
        else:
            layers, squash = self._off_policy(), True
        other = _OTHER_TENSORS.get(family.partition("-linear")[0], _OTHER_TENSORS["off-policy"])
        strange = sorted(key for key in self._unread if not other.fullmatch(key))
        if strange:
            raise self._refused(f"it holds the tensor {strange[0]}, which is not part of an MLP policy")
        self._check_layers(layers, observation, action)
        finished, action_map = _with_outputs(layers, action, squash)
        return Actor(
            algorithm=self._algorithm(family),
            layers=finished,
            action_map=action_map,
            observation_space=observation,
            action_space=action,
            sb3_version=version,
        )

    # --- settings -----------------------------------------------------------------------------------------------------

    def _unpickled(self, key: str) -> Any:
        value = self._data.get(key)
        if not isinstance(value, dict) or ":serialized:" not in value:
            return value
        try:
            content = base64.b64decode(value[":serialized:"], validate=False)
        except (binascii.Error, TypeError, ValueError) as exc:
            raise CheckpointError(f"{key} in {self.file} is garbled: {exc}", _TRAIN_HINT) from exc
        return read_pickle(content, f"{key} in {self.file}")

    def _policy_kwargs(self) -> dict[str, Any]:
        kwargs = self._unpickled("policy_kwargs")
        if not isinstance(kwargs, dict):
            raise CheckpointError(f"{self.file} lacks the arguments of its policy (policy_kwargs)", _TRAIN_HINT)
        use_sde = self._data.get("use_sde", False)
        return {"use_sde": use_sde, **{str(key): value for key, value in kwargs.items()}}

    def _family(self) -> str:
        if self.policy_class in _POLICIES:
            return _POLICIES[self.policy_class]
        kind = next((kind for part, kind in _REFUSED_POLICIES.items() if part in self.policy_class), "")
        if kind or any(key.startswith(("q_net", "quantile_net")) for key in self._state):
            raise CheckpointError(
                f"{self.file} holds {kind or 'a value-based policy (DQN or the like)'}, which cannot be exported",
                f"train an MLP policy of {', '.join(algorithm_name(a) for a in ALGORITHMS)}",
            )
        if not self._trust:
            raise CheckpointError(
                f"the policy class of {self.file} is not one of Stable-Baselines3: {self.policy_class or 'unnamed'}", _TRUST_HINT
            )
        if any(key.startswith("mlp_extractor.") for key in self._state):
            return "actor-critic"
        return "sac" if any(key.startswith("actor.latent_pi.") or key == "actor.mu.weight" for key in self._state) else "td3"

    def _check_settings(self) -> None:
        strange = sorted(set(self.settings) - _READ - _WITHOUT_EFFECT)
        if strange and not self._trust:
            raise CheckpointError(f"{self.file} has a policy setting that is not known here: {strange[0]}", _TRUST_HINT)
        extractor = self.settings.get("features_extractor_class")
        path = path_of(extractor) or (str(extractor) if extractor is not None else _EXTRACTOR)
        if path == _EXTRACTOR and not self.settings.get("features_extractor_kwargs"):
            return
        of_sb3 = path.startswith("stable_baselines3.")
        if of_sb3 or not self._trust:
            name = path if path != _EXTRACTOR else "FlattenExtractor with arguments"
            raise CheckpointError(
                f"{self.file} has a features extractor of its own, {name}: what it computes is not in the weights",
                _MLP_HINT if of_sb3 else _TRUST_HINT,
            )

    def _space(self, key: str) -> Space:
        try:
            return pickled_space(self._unpickled(key))
        except (ValueError, TypeError) as exc:
            raise CheckpointError(f"the {key} in {self.file} cannot be read: {exc}", _TRAIN_HINT) from exc

    def _check_spaces(self, observation: Space, action: Space) -> None:
        if observation.kind != "Box" or observation.is_image:
            what = "images" if observation.is_image else f"{observation.kind} observations"
            raise CheckpointError(
                f"{self.file} takes {what}; a policy on a board takes a Box of numbers",
                "train with gymnasium.wrappers.FlattenObservation around the environment",
            )
        if action.kind not in ("Box", "Discrete"):
            raise CheckpointError(
                f"{self.file} gives {action.kind} actions; a policy on a board gives a Box or a Discrete",
                "train in an environment whose actions are a Box or a Discrete",
            )
        if action.low is None or action.high is None:
            return
        if not (np.isfinite(action.low).all() and np.isfinite(action.high).all() and np.all(action.low < action.high)):
            raise CheckpointError(
                f"the actions of {self.file} have no finite limits",
                "give its environment's action space finite limits, low below high",
            )

    def _activation(self, default: str) -> str:
        value = self.settings.get("activation_fn")
        if value is None:
            return default
        match = _ACTIVATION_PATH.fullmatch(path_of(value))
        if match is None or match[1] not in _ACTIVATIONS:
            name = match[1] if match else path_of(value) or str(value)
            raise CheckpointError(
                f"the activation {name} of {self.file} cannot be exported",
                f"train with one of {', '.join(_ACTIVATIONS)} (policy_kwargs)",
            )
        return _ACTIVATIONS[match[1]]

    def _number(self, key: str, default: float) -> float:
        value = self.settings.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"the setting {key} of {self.file} is not a number: {value!r}", _TRAIN_HINT)
        return float(value)

    def _flag(self, key: str, default: bool) -> bool:
        value = self.settings.get(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"the setting {key} of {self.file} is neither true nor false: {value!r}", _TRAIN_HINT)
        return value

    def _algorithm(self, family: str) -> str:
        """SB3 does not store the algorithm's name; it follows from the class and the settings that are stored."""
        data = self._data
        if family == "actor-critic":
            return "trpo" if "cg_max_steps" in data else "ppo" if "n_epochs" in data else "a2c"
        if family == "td3":
            return "ddpg" if data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0 else "td3"
        return "ars" if family == "ars-linear" else family

    # --- layers -------------------------------------------------------------------------------------------------------

    def _actor_critic(self) -> tuple[list[Layer], bool]:
        activation = self._activation("tanh")
        squash, sde = self._flag("squash_output", False), self._flag("use_sde", False)
        log_std = self._state.get("log_std")
        if squash and not sde:
            raise self._refused("it squashes its output without gSDE, which Stable-Baselines3 does not")
        if log_std is not None and (log_std.ndim == 2) != sde:
            raise self._refused("its log_std does not fit its setting use_sde")
        shared, _ = self._chain("mlp_extractor.shared_net", activation)
        hidden, _ = self._chain("mlp_extractor.policy_net", activation)
        return [*shared, *hidden, self._dense("action_net")], squash

    def _off_policy(self) -> list[Layer]:
        activation = self._activation("relu")
        if "actor.mu.0.weight" in self._state and "actor.log_std" not in self._state:  # TD3, DDPG
            return self._network("actor.mu", activation)
        clip_mean = self._number("clip_mean", DEFAULT_CLIP_MEAN) if self._flag("use_sde", False) else 0.0
        hidden, norm = self._chain("actor.latent_pi", activation)
        mean = self._dense("actor.mu.0" if clip_mean > 0 else "actor.mu", norm=norm)
        if clip_mean <= 0:
            return [*hidden, mean]
        # tanh(clip(m, -c, c)) in layers that every engine has: m / c, clipped to -1..1, times c.
        scale = np.float32(clip_mean)
        times = Layer(np.eye(len(mean.bias), dtype=np.float32) * scale, np.zeros_like(mean.bias))
        return [*hidden, Layer(mean.weight / scale, mean.bias / scale, "clip"), times]

    def _ars(self, action: Space, *, linear: bool) -> tuple[list[Layer], bool]:
        squash = action.kind == "Box" and self._flag("squash_output", not linear)
        if "action_net.weight" in self._state:  # the linear policy of sb3-contrib 1.3
            return [self._dense("action_net")], squash
        return self._network("action_net", self._activation("relu")), squash

    def _network(self, prefix: str, activation: str) -> list[Layer]:
        """A sequence that ends with a dense layer."""
        layers, norm = self._chain(prefix, activation)
        if not layers or norm is not None:
            raise self._refused(f"{prefix} does not end with a dense layer")
        return [*layers[:-1], replace(layers[-1], activation="")]

    def _chain(self, prefix: str, activation: str) -> tuple[list[Layer], _Affine | None]:
        """Dense layers with an activation after each, and a normalization that the layer after them has to take in."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d{1,4})\.\w+")
        places = sorted({int(match[1]) for key in self._state if (match := pattern.fullmatch(key))})
        layers: list[Layer] = []
        norm: _Affine | None = None
        expected = 0
        for place in places:
            name = f"{prefix}.{place}"
            is_norm = f"{name}.ra_mean" in self._state
            if place != expected or (is_norm and norm is not None):
                raise self._refused(f"layers {places} of {prefix} are not dense layers with activations between them")
            if is_norm:
                norm, expected = self._batch_norm(name), place + 1
            else:
                layers.append(self._dense(name, activation, norm))
                norm, expected = None, place + 2  # the activation has no tensors
        return layers, norm

    def _dense(self, name: str, activation: str = "", norm: _Affine | None = None) -> Layer:
        weight, bias = self._array(f"{name}.weight"), self._array(f"{name}.bias")
        if weight is None or weight.ndim != 2 or not weight.size or (bias is not None and bias.shape != weight.shape[:1]):
            raise self._refused(f"{name} is not a dense layer")
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        if norm is None:
            return Layer(weight, bias, activation)
        gain, shift = norm
        if gain.shape != weight.shape[1:]:
            raise self._refused(f"the normalization before {name} does not fit it")
        wide = weight.astype(np.float64)
        return Layer((wide * gain).astype(np.float32), (bias + wide @ shift).astype(np.float32), activation)

    def _batch_norm(self, name: str) -> _Affine:
        """CrossQ's BatchRenorm at rest: scale * (x - mean) / sqrt(variance + eps) + bias, as a factor and a shift."""
        self._unread.discard(f"{name}.steps")
        arrays = [self._array(f"{name}.{part}") for part in ("ra_mean", "ra_var", "scale", "bias")]
        first = arrays[0]
        if first is None or any(array is None or array.ndim != 1 or array.shape != first.shape for array in arrays):
            raise self._refused(f"{name} is not a BatchRenorm")
        mean, variance, scale, bias = (np.asarray(array, np.float64) for array in arrays)
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = scale / np.sqrt(variance + self._number("batch_norm_eps", DEFAULT_BATCH_NORM_EPS))
        return gain, bias - mean * gain

    def _array(self, key: str) -> Float32Array | None:
        tensor = self._state.get(key)
        self._unread.discard(key)
        return None if tensor is None else np.asarray(tensor.float().numpy(), np.float32)

    def _check_layers(self, layers: Sequence[Layer], observation: Space, action: Space) -> None:
        if any(len(a.bias) != b.weight.shape[1] for a, b in itertools.pairwise(layers)):
            raise self._refused("its layers do not fit one another")
        outputs = action.n or action.size
        if (layers[0].weight.shape[1], len(layers[-1].bias)) != (observation.size, outputs):
            raise self._refused(f"its layers do not fit its spaces, {observation.size} observations and {outputs} outputs")
        if not all(np.isfinite(a).all() for layer in layers for a in (layer.weight, layer.bias)):
            raise CheckpointError(
                f"{self.file} holds NaN or infinite weights: its training diverged", "train again, with another seed"
            )

    def _refused(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.file} is not a plain MLP policy: {reason}", _MLP_HINT)


def _with_outputs(layers: Sequence[Layer], action: Space, squash: bool) -> tuple[tuple[Layer, ...], ActionMap]:
    """The last layer with what comes after it: outputs within -1..1 for a Box, logits for a Discrete."""
    if action.low is None or action.high is None:
        return tuple(layers), ActionMap(kind="discrete")
    action_map, last = ActionMap.of_box(action.low, action.high), layers[-1]
    if squash:
        return (*layers[:-1], replace(last, activation="tanh")), action_map
    half, middle = np.asarray(action_map.scale), np.asarray(action_map.offset)
    weight = (last.weight / half[:, np.newaxis]).astype(np.float32)
    return (*layers[:-1], Layer(weight, ((last.bias - middle) / half).astype(np.float32), "clip")), action_map
