"""Stable-Baselines3's own actions for a checkpoint that was read here, as a reference."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.checkpoint.inert import path_of
from balance_hil.checkpoint.spaces import Space
from balance_hil.errors import CheckpointError, MissingExtraError, first_line, require
from balance_hil.spec import ActionMap

if TYPE_CHECKING:
    from balance_hil.checkpoint.actor import Checkpoint

Float32Array = NDArray[np.float32]
Predict = Callable[[Float32Array], NDArray[Any]]  # observations, float32 [n, n_obs], to actions of the environment [n, ...]

TOLERANCE = 1e-4  # of half the range of an action: float32 networks sum in different orders
_TIE = 1e-4  # logits nearer than this, relative to the largest, may be ordered either way
_CONTRIB_HINT = "install it: pip install sb3-contrib"
_PLAIN_SETTINGS = (
    "net_arch",
    "squash_output",
    "clip_mean",
    "use_sde",
    "full_std",
    "use_expln",
    "with_bias",
    "batch_norm",
    "batch_norm_eps",
)
_TRUST_ROWS = 256


def algorithm_name(algorithm: str) -> str:
    """As its authors write it."""
    return {"crossq": "CrossQ"}.get(algorithm, algorithm.upper())


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


def rebuilt_predict(checkpoint: Checkpoint) -> tuple[Predict, str]:
    """``predict(deterministic=True)`` of Stable-Baselines3's own policy class with the checkpoint's settings and weights.

    The class is instantiated here; nothing of the file is unpickled. Returns the function, and a description of it.

    Raises:
        CheckpointError: this version of Stable-Baselines3 cannot load the policy, or is not installed.
    """
    try:
        sb3 = import_sb3()
        policy = _policy_class(checkpoint)(
            _gym_space(checkpoint.actor.observation_space),
            _gym_space(checkpoint.actor.action_space),
            **({} if checkpoint.actor.algorithm == "ars" else {"lr_schedule": lambda _: 0.0, "optimizer_class": _NoOptimizer}),
            **_arguments(checkpoint.settings),
        )
        if hasattr(policy, "actor"):
            part = {key.removeprefix("actor."): value for key, value in checkpoint.state.items() if key.startswith("actor.")}
            policy.actor.load_state_dict(part, strict=True)
        else:
            # The linear policy of ARS was no sequence in sb3-contrib 1.3.
            state = {key.replace("action_net.weight", "action_net.0.weight"): v for key, v in checkpoint.state.items()}
            policy.load_state_dict(state if checkpoint.actor.algorithm == "ars" else checkpoint.state, strict=True)
    except MissingExtraError as exc:
        raise CheckpointError(exc.message, exc.hint) from exc
    except Exception as exc:  # whatever torch and SB3 raise for settings of another version
        raise CheckpointError(
            f"the installed Stable-Baselines3 cannot load this policy: {first_line(exc)}", "check with --trust"
        ) from exc
    name = f"{type(policy).__name__}.predict of Stable-Baselines3 {sb3.__version__}, given the settings and weights"
    return lambda observations: _predict(policy, checkpoint, observations), name


class _NoOptimizer:
    """In the place of torch's, whose first one imports PyTorch's compiler, for more than a second. Nothing learns here."""

    def __init__(self, parameters: object, **settings: object) -> None: ...


def check_against_predict(checkpoint: Checkpoint) -> None:
    """Lets Stable-Baselines3 unpickle the file, which runs its code, and compares 256 random actions.

    Raises:
        CheckpointError: it cannot be loaded, or its actions differ from those of the actor that was read.
        MissingExtraError: stable-baselines3 or sb3-contrib is not installed.
    """
    actor = checkpoint.actor
    box = actor.observation_space
    assert box is not None
    assert box.low is not None
    assert box.high is not None
    low, high = (np.clip(np.asarray(a, np.float64).ravel(), -3.0, 3.0) for a in (box.low, box.high))
    observations = np.random.default_rng(0).uniform(low, high, (_TRUST_ROWS, actor.n_obs)).astype(np.float32)
    predict, name = trusted_predict(checkpoint)
    error = largest_difference(actor.action_map, actor.act_batch(observations), predict(observations))
    if error > TOLERANCE:
        raise CheckpointError(
            f"{checkpoint.path} computes something else than a plain MLP: its actions differ from {name} by up to {error:.3g} of "
            "half their range",
            "train with MlpPolicy and FlattenExtractor, or save the actor as ONNX and export that file",
        )


def trusted_predict(checkpoint: Checkpoint) -> tuple[Predict, str]:
    """``predict(deterministic=True)`` of the model as Stable-Baselines3 loads it: this runs the code in the file.

    Raises:
        CheckpointError: it cannot be loaded.
        MissingExtraError: stable-baselines3 or sb3-contrib is not installed.
    """
    sb3 = import_sb3()
    algorithm = checkpoint.actor.algorithm
    module = sb3 if hasattr(sb3, algorithm.upper()) else _import_contrib()
    name = algorithm_name(algorithm)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = getattr(module, name).load(checkpoint.path, device="cpu")
    except Exception as exc:  # whatever the pickled code raises
        hint = _CONTRIB_HINT if "sb3_contrib" in str(exc) else "train one that can be exported: hil train ppo"
        raise CheckpointError(f"Stable-Baselines3 cannot load {checkpoint.path}: {exc}", hint) from exc
    return lambda observations: _predict(model, checkpoint, observations), f"predict of {name}.load"


def largest_difference(action_map: ActionMap, outputs: Float32Array, actions: NDArray[Any]) -> float:
    """Largest difference of actions, in halves of their range; of Discrete actions 1 if one differs that is not a tie, else 0.

    ``outputs``, float32 [n, n_act], are this program's, ``actions``, [n, ...], the source's own for the same observations.
    """
    if not len(outputs):
        return 0.0
    if action_map.kind == "discrete":
        rows = np.arange(len(outputs))
        chosen = outputs[rows, np.asarray(actions).reshape(-1).astype(int)]
        return float(np.any(outputs.max(axis=1) - chosen > _TIE * np.maximum(1.0, np.abs(outputs).max(axis=1))))
    mine = action_map(outputs).reshape(len(outputs), -1).astype(np.float64)
    theirs = np.asarray(actions, np.float64).reshape(len(outputs), -1)
    return float(np.max(np.abs(mine - theirs) / np.asarray(action_map.scale)))


def _predict(policy: Any, checkpoint: Checkpoint, observations: Float32Array) -> NDArray[Any]:
    import torch

    space = checkpoint.actor.observation_space
    assert space is not None
    assert space.low is not None
    shaped = np.asarray(observations, np.float32).reshape(-1, *space.low.shape).astype(space.low.dtype)
    with torch.inference_mode():
        actions, _ = policy.predict(shaped, deterministic=True)
    return np.asarray(actions)


def _policy_class(checkpoint: Checkpoint) -> Any:
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.sac.policies import SACPolicy
    from stable_baselines3.td3.policies import TD3Policy

    algorithm = checkpoint.actor.algorithm
    if algorithm in ("crossq", "ars"):
        contrib = _import_contrib()
        if algorithm == "crossq":
            return contrib.crossq.policies.CrossQPolicy
        linear = checkpoint.policy_class.endswith("ARSLinearPolicy")
        return contrib.ars.policies.ARSLinearPolicy if linear else contrib.ars.policies.ARSPolicy
    if algorithm in ("sac", "tqc"):  # the actors of both are the same
        return SACPolicy
    return TD3Policy if algorithm in ("td3", "ddpg") else ActorCriticPolicy


def _import_contrib() -> Any:
    if find_spec("sb3_contrib") is None:
        raise MissingExtraError("this needs the Python package 'sb3-contrib', which is not installed", _CONTRIB_HINT)
    keep_tensorflow_out()
    import sb3_contrib
    import sb3_contrib.ars.policies
    import sb3_contrib.crossq.policies

    return sb3_contrib


def _arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    given = {key: _plain(settings[key]) for key in _PLAIN_SETTINGS if key in settings}
    if settings.get("activation_fn") is not None:
        given["activation_fn"] = getattr(torch.nn, path_of(settings["activation_fn"]).rpartition(".")[2])
    if not given.get("use_sde"):
        for key in ("use_sde", "full_std", "use_expln"):
            given.pop(key, None)
    return given


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _gym_space(space: Space | None) -> Any:
    from gymnasium import spaces

    assert space is not None
    if space.low is None or space.high is None:
        return spaces.Discrete(space.n)
    return spaces.Box(space.low, space.high, dtype=space.low.dtype.type)
