"""The source of an export: the policy, the files beside it, the environment or signal table, and the folder of the bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import POLICY, TRAINING
from balance_hil.checkpoint import Checkpoint, Layer, find_checkpoint, open_checkpoint, read_surroundings
from balance_hil.checkpoint.chain import Network, with_box
from balance_hil.checkpoint.onnx_actor import OnnxActor, read_onnx, run_onnx
from balance_hil.checkpoint.sb3_reference import rebuilt_predict, trusted_predict
from balance_hil.environment import Environment, open_environment
from balance_hil.envs import DEFAULT_ENVIRONMENT
from balance_hil.errors import CheckpointError, EnvironmentMismatchError, UsageError
from balance_hil.exporting.config import ExportConfig
from balance_hil.files import parse_json
from balance_hil.quantize import Normalization
from balance_hil.signals import read_signals, unnamed_signals
from balance_hil.spec import ActionMap, PolicySpec

KERAS_SUFFIXES = (".keras", ".h5")
SAVED_MODEL = "saved_model.pb"

Float32Array = NDArray[np.float32]
Reference = Callable[[Float32Array], NDArray[Any]]  # the source's own actions, [n, ...], for observations, float32 [n, n_obs]


@dataclass(frozen=True, kw_only=True)
class PolicySource:
    """A policy that was read, and everything that the export needs about it.

    Either ``layers`` or ``graph`` defines what the network computes behind the normalization, with outputs as ``spec`` has them.
    ``reference`` opens the source's own answer and gives it a name; it raises CheckpointError where there is none.
    """

    kind: str  # "sb3", "onnx", "keras"
    file: Path  # as the user named it
    target: Path  # folder of the bundle
    spec: PolicySpec
    algorithm: str = ""  # "ppo", ...; "" if unknown
    layers: tuple[Layer, ...] = ()
    graph: OnnxActor | None = None
    normalization: Normalization | None = None
    normalization_from: str = ""  # name of the file that it was read from
    reference: Callable[[], tuple[Reference, str]]
    files: Mapping[str, bytes] = field(default_factory=dict)  # that go into the bundle as they are
    training: Mapping[str, Any] = field(default_factory=dict)  # training.json, empty where there is none
    made_by: str = ""  # version of Stable-Baselines3, producer of the ONNX model
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What the bundle records about its source."""
        return {
            "kind": self.kind,
            "file": self.file.name,
            "sha256": hashlib.sha256(self.file.read_bytes()).hexdigest() if self.file.is_file() else "",
            "made_by": self.made_by,
            "normalization": self.normalization_from,
        }


def open_source(config: ExportConfig, read_keras: Callable[[Path], tuple[Network, Reference]]) -> PolicySource:
    """Reads the policy that ``config`` names and checks it against its environment or signal table.

    ``read_keras`` reads a Keras model or SavedModel in its own process.

    Raises:
        CheckpointError: there is none, or it cannot be read, or not without running its code.
        EnvironmentMismatchError: it was made for another environment, or for an older form of this one.
        UnknownEnvironmentError, UnsupportedEnvironmentError: no such environment, or none that a board can serve.
        ConfigError: the signal table is wrong.
        UsageError: the output is a file, or there is neither an environment nor a signal table.
    """
    given = config.source
    if given.suffix == ".tflite":
        raise UsageError(f"{given} is converted already", f"run it as it is: hil run {given} --spec signals.yaml")
    if (given / SAVED_MODEL).is_file() or given.suffix in KERAS_SUFFIXES:
        return _keras(config, read_keras)
    if given.suffix == ".onnx":
        return _onnx(config)
    return _sb3(config)


def as_trained(config: ExportConfig) -> ExportConfig:
    """The same for a policy of ``hil train``, in the environment as it was trained, unless the export's options override it.

    Raises:
        CheckpointError: its training.json is garbled.
    """
    folder = config.source.parent if config.source.name == POLICY else config.source
    if config.environment is not None or not (folder / TRAINING).is_file():
        return config
    training, _ = _read_training(folder / TRAINING)
    spec, options = ({**value} if isinstance(value := training.get(key), Mapping) else {} for key in ("spec", "options"))
    return replace(
        config,
        options=config.options or options,
        period_s=config.period_s or spec.get("control_period_s"),
        terminated=config.terminated or spec.get("terminated", ""),
    )


def open_own_environment(config: ExportConfig, environment: str) -> Environment:
    """The environment ``environment`` as the export's options have it."""
    return open_environment(environment, config.options, period_s=config.period_s, terminated=config.terminated)


def _sb3(config: ExportConfig) -> PolicySource:
    checkpoint = find_checkpoint(config.source)
    target = _target(config, checkpoint.parent if checkpoint.name == POLICY else checkpoint.with_suffix(""))
    training, record = _read_training(checkpoint.parent / TRAINING) if checkpoint.name == POLICY else ({}, b"")
    opened = open_checkpoint(checkpoint, trust=config.trust)
    actor = opened.actor
    beside = read_surroundings(checkpoint, actor.n_obs)
    recorded = training.get("policy_sha256")
    if recorded and hashlib.sha256(opened.content).hexdigest() != recorded:
        raise CheckpointError(
            f"{checkpoint} is not the policy that {TRAINING} beside it describes",
            f"train again, or, if the policy is the right one, remove {checkpoint.parent / TRAINING}",
        )
    if config.spec is not None:
        _require_calibration(config)
        spec = replace(read_signals(config.spec, actor.n_obs, actor.n_act), action_map=ActionMap())
        if actor.action_map.kind == "box":
            spec = _within(spec, np.array(actor.action_map.low), np.array(actor.action_map.high))
        spec = replace(spec, action_map=actor.action_map)
    else:
        spec = _checked_environment(config, _environment(config, training, beside.environment), training, opened)
    notes: tuple[str, ...] = ()
    if opened.behind_vec_normalize and beside.file is None and not training:
        notes = (f"{checkpoint} was trained behind VecNormalize; if that normalized observations, put its vecnormalize.pkl here",)
    return PolicySource(
        kind="sb3",
        file=checkpoint,
        target=target,
        spec=spec,
        algorithm=str(training.get("algorithm") or actor.algorithm),
        layers=actor.layers,
        normalization=beside.normalization,
        normalization_from=beside.file.name if beside.file and beside.normalization else "",
        reference=lambda: (trusted_predict if config.trust else rebuilt_predict)(opened),
        files={POLICY: opened.content} | ({TRAINING: record} if record else {}),
        training=training,
        made_by=f"stable-baselines3 {actor.sb3_version}".strip(),
        notes=notes,
    )


def _onnx(config: ExportConfig) -> PolicySource:
    actor = read_onnx(config.source)
    spec = _spec_of(
        config, actor.n_obs, actor.n_act, actor.names("observation_names", actor.n_obs), actor.names("joint_names", actor.n_act)
    )
    layers: tuple[Layer, ...] = ()
    if actor.network:
        layers, spec = _scaled(actor.network, spec)
    elif spec.action_map.kind == "box":
        spec = _within(spec, np.array(spec.action_map.low), np.array(spec.action_map.high))
    return PolicySource(
        kind="onnx",
        file=config.source,
        target=_target(config, config.source.with_suffix("")),
        spec=spec,
        layers=layers,
        graph=None if actor.network else actor,
        normalization=actor.normalization,
        normalization_from=config.source.name if actor.normalization else "",
        reference=lambda: (partial(_limited, spec.action_map, partial(run_onnx, actor.model)), "ONNX Runtime, the file as it is"),
        notes=(f"{config.source} is not a chain of dense layers ({actor.reason}): its graph is converted as it is",)
        if actor.reason
        else (),
    )


def _keras(config: ExportConfig, read_keras: Callable[[Path], tuple[Network, Reference]]) -> PolicySource:
    network, answers = read_keras(config.source)
    n_obs, n_act = network.layers[0].weight.shape[1], len(network.layers[-1].bias)
    layers, spec = _scaled(network, _spec_of(config, n_obs, n_act, (), ()))
    return PolicySource(
        kind="keras",
        file=config.source,
        target=_target(config, config.source.with_suffix("") if config.source.is_file() else config.source / "bundle"),
        spec=spec,
        layers=layers,
        normalization=network.normalization,
        normalization_from=config.source.name if network.normalization else "",
        reference=lambda: (partial(_limited, spec.action_map, answers), "Keras, the model as it is"),
    )


def _spec_of(config: ExportConfig, n_obs: int, n_act: int, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> PolicySpec:
    """The table of a policy of which only the sizes are known."""
    if config.environment and config.spec is None:
        with open_own_environment(config, config.environment) as env:
            spec = env.spec
        if (spec.n_obs, spec.n_act) != (n_obs, n_act):
            raise EnvironmentMismatchError(
                f"{config.source} takes {n_obs} observations and gives {n_act} outputs, "
                f"{config.environment} has {spec.n_obs} and {spec.n_act}",
                "name the environment that it was trained in: hil export -e ENVIRONMENT",
            )
        return spec
    _require_calibration(config)
    if config.spec is not None:
        return read_signals(config.spec, n_obs, n_act)
    if config.period_s is None:
        raise UsageError("the control period is unknown", "give --spec signals.yaml, or --period-ms 20")
    spec = unnamed_signals(n_obs, n_act, config.period_s)
    if inputs:
        spec = replace(spec, observation=tuple(replace(s, name=n) for s, n in zip(spec.observation, inputs, strict=True)))
    if outputs:
        spec = replace(spec, action=tuple(replace(s, name=n) for s, n in zip(spec.action, outputs, strict=True)))
    return spec


def _require_calibration(config: ExportConfig) -> None:
    if config.environment:
        raise UsageError("-e and --spec exclude each other: an environment defines its signals", "leave one of them out")
    if config.calibration is None:
        raise UsageError(
            f"{config.source} does not name its environment",
            "name it: -e ENVIRONMENT; or give its signals and rows to calibrate with: --spec signals.yaml --calibration rows.npz",
        )


def _checked_environment(
    config: ExportConfig, environment: str, training: Mapping[str, Any], checkpoint: Checkpoint
) -> PolicySpec:
    """The table of the environment, whose spaces must be those of the checkpoint."""
    with open_own_environment(config, environment) as env:
        _compare_record(training, env.spec)
        checkpoint.actor.require_spaces(checkpoint.path, environment, env.env)
        return env.spec


def _scaled(network: Network, spec: PolicySpec) -> tuple[tuple[Layer, ...], PolicySpec]:
    """Layers whose outputs lie within -1..1 where the actions have limits, and the table with those limits."""
    if spec.action_map.kind == "discrete":
        return network.layers, spec
    low, high = np.array(spec.action_map.low, np.float64), np.array(spec.action_map.high, np.float64)
    if network.limits is not None and not spec.environment:
        low, high = np.maximum(low, network.limits.low), np.minimum(high, network.limits.high)
    spec = _within(spec, low, high)
    return (with_box(network, low, high) if _is_limited(low, high) else network.layers), spec


def _within(spec: PolicySpec, low: NDArray[Any], high: NDArray[Any]) -> PolicySpec:
    """The table of a policy without an environment once its outputs are scaled to -1..1 for actions of low..high."""
    if spec.environment or spec.action_map.kind == "discrete" or not _is_limited(low, high):
        return spec
    scaled = ActionMap.of_box(np.asarray(low, np.float32), np.asarray(high, np.float32))
    halves = zip(spec.action, scaled.scale, strict=True)
    action = tuple(replace(signal, min=-1.0, max=1.0, scale=signal.scale * half) for signal, half in halves)
    return replace(spec, action_map=scaled, action=action)


def _is_limited(low: NDArray[Any], high: NDArray[Any]) -> bool:
    return bool(np.all(np.abs([low, high]) < np.finfo(np.float32).max))


def _limited(action_map: ActionMap, answers: Reference, observations: Float32Array) -> NDArray[Any]:
    """Actions for a source's outputs, which are in the units of the environment."""
    outputs = answers(observations)
    return np.argmax(outputs, axis=1) if action_map.kind == "discrete" else np.clip(outputs, action_map.low, action_map.high)


def _target(config: ExportConfig, default: Path) -> Path:
    target = config.output or default
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file, a bundle is a folder", "give another --output")
    # "." and ".." have no name to put on a staging folder and a model card.
    return target.resolve() if target.name in ("", "..") else target


def _read_training(path: Path) -> tuple[dict[str, Any], bytes]:
    if not path.is_file():
        return {}, b""
    content = path.read_bytes()
    try:
        training = parse_json(content)
    except ValueError as exc:
        raise CheckpointError(f"{path} is not JSON: {exc}", "remove it and name the environment: hil export -e ...") from exc
    if not isinstance(training, dict):
        raise CheckpointError(f"{path} is not a table of settings", "remove it and name the environment: hil export -e ...")
    return training, content


def _environment(config: ExportConfig, training: Mapping[str, Any], beside: str) -> str:
    trained_in = training.get("environment")
    if config.environment and trained_in and config.environment != trained_in:
        with open_own_environment(config, config.environment):  # an unknown one is reported as such
            pass
        raise EnvironmentMismatchError(
            f"the policy was trained in {trained_in}, not in {config.environment}",
            f"leave -e out, or train in it: hil train ppo -e {config.environment}",
        )
    return str(config.environment or trained_in or beside or DEFAULT_ENVIRONMENT)


def _compare_record(training: Mapping[str, Any], spec: PolicySpec) -> None:
    """Compares the signal tables stored with a training to those of today."""
    if "spec" not in training:
        return
    try:
        trained = PolicySpec.from_dict(training["spec"])
    except (KeyError, TypeError, ValueError) as exc:
        raise CheckpointError(f"the signal tables in {TRAINING} are garbled: {exc}", "train again: hil train ppo") from exc
    difference = trained.difference(spec)
    if difference is not None:
        raise EnvironmentMismatchError(
            f"{spec.environment} has other signals now than when the policy was trained: {difference}",
            f"train again: hil train ppo -e {spec.environment}",
        )
