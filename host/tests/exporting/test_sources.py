"""Policies from elsewhere, through the whole export: ONNX without an environment, SB3 on environments that are not ours."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from balance_hil import exporting
from balance_hil.bundle import FROM_CALIBRATION, GOLDEN, HEADER, Bundle
from balance_hil.checkpoint import Layer
from balance_hil.cli import hil
from balance_hil.environment import open_environment
from balance_hil.errors import CheckpointError, EnvironmentMismatchError, ExportError, UnknownEnvironmentError, UsageError
from balance_hil.exporting import ExportConfig, export
from balance_hil.exporting.calibration import Calibration
from balance_hil.exporting.onnx_model import write_onnx
from balance_hil.exporting.reference_check import check_against_source
from balance_hil.exporting.source import PolicySource, open_source
from balance_hil.paths import MODELS
from balance_hil.quantize import dequantize
from balance_hil.runtimes import load_runtime

from .. import contract

SIGNALS = """
control_period_ms: 20
observation: [near, {name: far, unit: m, scale: 2}, middle]
action: [{name: hip, unit: Nm, scale: 10, min: -0.5, max: 1.5}, {name: knee, unit: Nm, min: -2, max: 2}]
"""
SCALES = np.float32([0.02, 40.0, 1.0])


@pytest.fixture
def policy(tmp_path):
    """An ONNX actor whose inputs differ widely in range, with its signals and rows; outputs in the action's own units."""
    rng = np.random.default_rng(0)
    layers = [
        Layer((rng.normal(0, 1, (12, 3)) / SCALES).astype(np.float32), rng.normal(0, 0.2, 12).astype(np.float32), "tanh"),
        Layer(rng.normal(0, 0.5, (2, 12)).astype(np.float32), np.float32([0.5, 0])),
    ]
    write_onnx(layers, tmp_path / "theirs.onnx")
    (tmp_path / "signals.yaml").write_text(SIGNALS)
    np.savez(tmp_path / "rows.npz", observations=(rng.normal(0, 1, (300, 3)) * SCALES).astype(np.float32))
    return tmp_path / "theirs.onnx"


@pytest.mark.slow
@pytest.mark.usefixtures("in_few_processes")
def test_an_onnx_actor_without_an_environment_becomes_a_bundle(policy, capsys):
    folder = policy.parent
    options = ["--spec", folder / "signals.yaml", "--calibration", folder / "rows.npz", "--json"]
    with pytest.raises(SystemExit) as ended:
        hil(["export", str(policy), *map(str, options)], standalone_mode=False)
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    contract.check("export", document)
    assert document["checked_against"]["by"] == "ONNX Runtime, the file as it is"
    assert document["checked_against"]["rows"] == 2000
    assert document["verdict"]["good"]
    assert [stage["name"] for stage in document["stages"]] == ["onnx", "float32", "int8"]
    assert {stage["success_rate"] for stage in document["stages"]} == {None}
    bundle = Bundle.load(folder / "theirs")
    assert (bundle.algorithm, bundle.spec.environment, bundle.spec.control_period_s) == ("", "", 0.02)
    assert [signal.name for signal in bundle.spec.action] == ["hip", "knee"]
    assert (bundle.spec.action[0].min, bundle.spec.action[0].scale, bundle.spec.action_map.offset[0]) == (-1.0, 10.0, 0.5)
    # Ranges of 0.02 and 40 under one int8 scale would leave nothing of the first.
    assert bundle.source["normalization"] == FROM_CALIBRATION
    assert "HIL_MODEL_NORMALIZED" in bundle.file(HEADER).read_text()
    rows = np.load(folder / "rows.npz")["observations"]
    with load_runtime("onnx", bundle) as exact, load_runtime("tflm", bundle) as int8:
        assert np.sqrt(np.mean((exact.act_batch(rows) - int8.act_batch(rows)) ** 2)) < 0.05
        golden = np.load(bundle.file(GOLDEN))
        assert np.array_equal(int8.quantized(golden["observations"]), golden["input_int8"])
        assert np.array_equal(dequantize(golden["output_int8"], bundle.output_quant), golden["actions"])


def test_a_policy_that_nothing_explains_is_refused(policy):
    folder = policy.parent
    for config, error, message in (
        (ExportConfig(source=policy), UsageError, "does not name its environment"),
        (ExportConfig(source=policy, calibration=folder / "rows.npz"), UsageError, "the control period is unknown"),
        (
            ExportConfig(source=policy, environment="Pendulum-v1"),
            EnvironmentMismatchError,
            "gives 2 outputs, Pendulum-v1 has 3 and 1",
        ),
        (ExportConfig(source=policy, environment="Pendulum-v1", spec=folder / "signals.yaml"), UsageError, "exclude each other"),
        (ExportConfig(source=folder / "x.tflite"), UsageError, "is converted already"),
    ):
        with pytest.raises(error, match=message):
            export(config)
    assert sorted(p.name for p in folder.iterdir()) == ["rows.npz", "signals.yaml", "theirs.onnx"]


@pytest.fixture
def pendulum(tmp_path, untrained):
    """An untrained policy on Pendulum-v1 behind VecNormalize, saved as SB3's callbacks do: ``logs/best_model.zip``."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    env.seed(0)
    env.reset()
    for _ in range(300):
        env.step(np.array([env.action_space.sample()]))
    logs = tmp_path / "logs"
    logs.mkdir()
    untrained("SAC", env=env, path=logs / "best_model.zip", use_sde=True)
    (logs / "vecnormalize.pkl").write_bytes(pickle.dumps(env))
    return logs / "best_model"


@pytest.mark.slow
@pytest.mark.usefixtures("in_few_processes")
def test_a_policy_on_an_environment_of_gymnasium_becomes_a_bundle(pendulum, tmp_path):
    result = export(ExportConfig(source=pendulum, environment="Pendulum-v1", episodes=3, max_steps=60))
    bundle = result.bundle
    assert result.verdict.good, result.verdict.line
    assert bundle.path == tmp_path / "logs" / "best_model"
    assert bundle.source["file"] == "best_model.zip"
    assert bundle.source["normalization"] == "vecnormalize.pkl"
    assert "SACPolicy.predict" in bundle.checked_against["by"]
    assert bundle.checked_against["max_error"] < 1e-4
    assert bundle.calibration["noise_levels"] == [0.0, 0.1, 0.3, 1.0]
    assert len(bundle.calibration["saturated"]) == 3
    with open_environment("Pendulum-v1") as env:
        assert bundle.spec == env.spec
    returns = [stage.metrics["return"] for stage in result.stages]
    assert returns[0] == pytest.approx(returns[2], rel=1e-3)
    rows = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    outputs = {}
    for name in ("torch", "onnx", "float32", "tflm"):
        with load_runtime(name, bundle) as runtime:
            outputs[name] = runtime.act_batch(rows)
    assert np.allclose(outputs["torch"], outputs["onnx"], atol=1e-5)
    assert np.allclose(outputs["torch"], outputs["float32"], atol=1e-5)
    assert np.allclose(outputs["torch"], outputs["tflm"], atol=0.1)


def test_a_policy_is_found_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies/mine").mkdir(parents=True)
    seen = []

    def stop(config, progress):
        seen.append((config.source, config.output))
        raise UsageError("seen", "enough")

    monkeypatch.setattr(exporting, "export", stop)
    for name in ("ppo", "mine", "models/mine"):
        with pytest.raises(UsageError, match="seen"):
            hil(["export", name], standalone_mode=False)
    own = Path("policies")
    assert seen == [(MODELS / "ppo", own / "ppo"), (own / "mine", None), (Path("models/mine"), None)]


def test_an_environment_that_does_not_exist_is_named(ppo_bundle):
    with pytest.raises(UnknownEnvironmentError, match="did you mean 'balance/Balance-v0'"):
        open_source(ExportConfig(source=ppo_bundle.path, environment="balance/Balanse-v0"), None)
    with pytest.raises(EnvironmentMismatchError, match="trained in balance/Balance-v0"):
        open_source(ExportConfig(source=ppo_bundle.path, environment="balance/BalanceNoisy-v0"), None)


def test_spaces_that_differ_from_the_environment_say_where(pendulum):
    with pytest.raises(EnvironmentMismatchError, match=r"best_model\.zip and CartPole-v1 differ in their observations, shape"):
        export(ExportConfig(source=pendulum, environment="CartPole-v1"))


def test_errors_name_the_file_of_the_user(tmp_path):
    (tmp_path / "mine.zip").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=f"^{tmp_path / 'mine.zip'} is damaged"):
        export(ExportConfig(source=tmp_path / "mine"))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.zip"]


# --- the check against the source's own answers -----------------------------------------------------------------------------


@pytest.fixture
def checked(policy):
    """A source, its rows, and the float policy that was read from it."""
    folder = policy.parent
    config = ExportConfig(source=policy, spec=folder / "signals.yaml", calibration=folder / "rows.npz")
    source = open_source(config, lambda path: None)
    rows = np.load(folder / "rows.npz")["observations"]
    write_onnx(source.layers, folder / "actor.onnx")
    from balance_hil.runtimes.onnx import OnnxRuntime

    return source, Calibration(rows, rows[:50], {}), OnnxRuntime((folder / "actor.onnx").read_bytes()).act_batch


def test_the_check_finds_nothing_in_an_honest_export(checked):
    source, calibration, act_batch = checked
    found = check_against_source(act_batch, source, calibration, 0)
    assert found["rows"] == 2000
    assert found["max_error"] < 1e-5


def test_the_check_finds_a_policy_that_was_misread(checked):
    source, calibration, act_batch = checked
    with pytest.raises(ExportError, match=r"not the one of .*theirs\.onnx: actions differ from ONNX Runtime"):
        check_against_source(lambda rows: act_batch(rows) + np.float32(2e-4), source, calibration, 0)


def test_a_source_that_cannot_answer_is_said(checked):
    source, calibration, act_batch = checked

    def silent():
        raise CheckpointError("sb3-contrib is not installed", "install it")

    mute: PolicySource = replace(source, reference=silent)
    assert check_against_source(act_batch, mute, calibration, 0) == {"by": None, "why": "sb3-contrib is not installed"}
