import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from balance_hil.bundle import INT8_MODEL, MODEL_CARD, POLICY, TRAINING, Bundle
from balance_hil.cli import hil
from balance_hil.cli.export import print_result
from balance_hil.envs import balance as envs
from balance_hil.envs.balance.catalog import CATALOG
from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.errors import (
    BundleError,
    CheckpointError,
    EnvironmentMismatchError,
    ExportError,
    UnknownEnvironmentError,
    UnsupportedOperatorError,
    UsageError,
)
from balance_hil.exporting import ExportConfig, ExportResult, Stage, export, pipeline
from balance_hil.metrics import Verdict
from balance_hil.quantize import INT16X8
from balance_hil.testing.synthetic_models import actor

from .. import contract


@pytest.fixture
def folder(tmp_path, ppo_bundle):
    """A copy of the shipped bundle, whole."""
    return shutil.copytree(ppo_bundle.path, tmp_path / "models" / "mine")


def quick(source, **changes):
    return ExportConfig(source=source, **{"episodes": 1, "max_steps": 150} | changes)


def edit_training(folder, change):
    training = json.loads((folder / TRAINING).read_text())
    change(training)
    (folder / TRAINING).write_text(json.dumps(training))


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_the_bundle_tells_how_it_was_made(tiny_bundle):
    assert tiny_bundle.algorithm == "sac"
    assert tiny_bundle.spec == envs.config_for("balance/Balance-v0").policy_spec("balance/Balance-v0")
    assert tiny_bundle.calibration["weights"] == "per-tensor"
    assert tiny_bundle.calibration["seed"] == 3
    assert tiny_bundle.calibration["uniform_rows"] / tiny_bundle.calibration["rows"] == pytest.approx(0.05, abs=0.001)
    assert tiny_bundle.versions["onnx2tf"] == "1.29.24"
    metrics = tiny_bundle.metrics
    assert metrics["operators"] == {"FULLY_CONNECTED": 3, "TANH": 1}
    assert metrics["parameters"] == (6 + 1) * 8 + (8 + 1) * 8 + (8 + 1) * 2
    assert metrics["arena_used_bytes"] < metrics["arena_needed_bytes"]


def test_each_stage_is_measured_against_the_one_before(tiny_bundle):
    stages = {stage["name"]: stage for stage in tiny_bundle.metrics["stages"]}
    assert list(stages) == ["torch", "onnx", "float32", "int8"]
    assert stages["torch"]["max_error"] is None
    assert stages["onnx"]["max_error"] < 1e-6
    assert stages["float32"]["max_error"] < 1e-6
    assert 1e-4 < stages["int8"]["rms_error"] < stages["int8"]["max_error"] < 0.1
    assert stages["int8"]["size_bytes"] == tiny_bundle.file(INT8_MODEL).stat().st_size


def test_the_model_card_tells_what_the_bundle_tells(tiny_bundle):
    card = tiny_bundle.file(MODEL_CARD).read_text()
    for text in (
        tiny_bundle.id,
        "SAC policy for balance/Balance-v0",
        "| pitch_rate |",
        repr(tiny_bundle.input_quant.scale),
        "TANH",
        "per-tensor",
        tiny_bundle.calibration["sha256"],
        "hil export policy.zip --seed 3 --per-tensor",
        str(tiny_bundle.metrics["arena_needed_bytes"]),
    ):
        assert text in card


def test_the_model_card_begins_with_the_front_matter_that_the_hugging_face_hub_reads(tiny_bundle):
    import yaml

    _, front, _ = tiny_bundle.file(MODEL_CARD).read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert {"reinforcement-learning", "sac"} <= set(card["tags"])
    [result] = card["model-index"][0]["results"]
    assert result["dataset"]["type"] == "balance/Balance-v0"
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    int8 = next(stage for stage in tiny_bundle.metrics["stages"] if stage["name"] == "int8")
    assert values["success_rate"] == int8["success_rate"]
    assert values["mean_reward"] == pytest.approx(int8["metrics"]["return"])


def test_a_policy_trained_after_the_export_makes_the_bundle_stale(folder, untrained):
    untrained("PPO", path=folder / POLICY)
    with pytest.raises(BundleError, match=r"policy\.zip was altered"):
        Bundle.load(folder)


# --- what fails, and what is left then ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "done"),
    [("source", 0.0), ("calibration", 0.0), ("TFLite", 0.0), ("episodes torch", 0.0), ("episodes int8", 0.0)],
)
def test_an_interrupted_export_leaves_the_old_bundle_as_it_was(folder, contents, ppo_bundle, converted, step, done):
    if step != "TFLite":  # there the real conversion is interrupted
        converted(float_from=ppo_bundle, int8_from=ppo_bundle)
    before = contents(folder.parent)

    def interrupt(name, fraction):
        if (name, fraction) == (step, done):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(quick(folder), interrupt)
    assert contents(folder.parent) == before
    assert [p.name for p in folder.parent.iterdir()] == ["mine"]


@pytest.mark.usefixtures("episodes_here")
@pytest.mark.parametrize("kind", ["int16x8", "float32"])
def test_the_board_may_run_another_element_type(kind, folder, ppo_bundle, tmp_path, converted):
    model = tmp_path / "int16x8.tflite"
    model.write_bytes(actor((6, 4, 2), "RELU", per_channel=True, seed=0, element=INT16X8))
    converted(float_from=ppo_bundle, int8_from=SimpleNamespace(model_file=model))
    result = export(quick(folder, quantize=kind, output=tmp_path / "wide"))
    bundle, last = result.bundle, result.stages[-1]
    assert (last.name, last.runtime) == ({"int16x8": "int16x8", "float32": "tflm"}[kind], "tflm")
    assert last.size_bytes == len(bundle.model())
    assert bundle.kind.name == json.loads((bundle.path / "bundle.json").read_text())["quantization"]["type"] == kind
    assert bundle.golden_raw("input").dtype == bundle.golden_raw("output").dtype == bundle.kind.dtype
    assert f"--quantize {kind}" in (bundle.path / MODEL_CARD).read_text()
    if kind == "float32":  # of the policy itself
        assert result.verdict.good
        assert last.max_error < 1e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantize": "uint8"}, "no element type 'uint8'"),
        ({"quantize": "int16x8", "rounding_invariant": True}, "only int8 models can be made rounding-invariant"),
        ({"quantize": "float32", "per_tensor": True}, "no scales of weights"),
    ],
)
def test_what_does_not_go_with_an_element_type_is_refused_before_the_source_is_read(changes, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        export(quick(tmp_path / "not there", **changes))


@pytest.mark.usefixtures("episodes_here")
def test_an_int8_policy_that_fails_where_the_float_one_does_not_goes_to_a_folder_of_its_own(
    folder, contents, ppo_bundle, tiny_bundle, converted
):
    converted(float_from=ppo_bundle, int8_from=tiny_bundle)
    before = contents(folder)
    result = export(quick(folder, max_steps=400))
    assert not result.verdict.good
    assert "the int8 policy fails in 1 of 1 episodes, the torch one in 0" in result.verdict.reasons
    assert contents(folder) == before
    assert result.bundle.path == folder.with_name("mine.rejected")
    assert result.bundle.metrics["verdict"]["good"] is False
    assert "**Rejected: the int8 policy" in result.bundle.file(MODEL_CARD).read_text()
    converted(float_from=ppo_bundle, int8_from=ppo_bundle)
    assert export(quick(folder)).bundle.path == folder
    assert [p.name for p in folder.parent.iterdir()] == ["mine"]


def test_a_float_model_that_computes_something_else_is_not_published(folder, contents, ppo_bundle, tiny_bundle, converted):
    converted(float_from=tiny_bundle, int8_from=ppo_bundle)
    before = contents(folder.parent)
    with pytest.raises(ExportError, match="float32 policy differs from the onnx one"):
        export(quick(folder))
    assert contents(folder.parent) == before


def test_a_model_that_tflm_cannot_run_is_not_published(folder, contents, ppo_bundle, converted, monkeypatch):
    converted(float_from=ppo_bundle, int8_from=ppo_bundle)
    before = contents(folder.parent)

    def refuse(model):
        raise UnsupportedOperatorError("EXP", "hint")

    monkeypatch.setattr(pipeline, "TflmRuntime", refuse)
    with pytest.raises(UnsupportedOperatorError):
        export(quick(folder))
    assert contents(folder.parent) == before


# --- what goes in -----------------------------------------------------------------------------------------------------


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint or folder"):
        export(quick(tmp_path / "none"))
    with pytest.raises(CheckpointError, match=r"holds no checkpoint \(policy\.zip\)"):
        export(quick(tmp_path))


def test_an_output_that_is_a_file_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        export(quick(folder, output=tmp_path / "file"))


def test_a_place_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="cannot be written") as caught:
        export(quick(folder, output=tmp_path / "file" / "bundle"))
    assert "--output" in caught.value.hint


def test_a_full_disk_leaves_the_old_bundle_as_it_was(folder, contents, ppo_bundle, converted, monkeypatch):
    converted(float_from=ppo_bundle, int8_from=ppo_bundle)
    before = contents(folder.parent)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("balance_hil.golden.ModelImage.write_header", full)
    with pytest.raises(ExportError, match="No space left"):
        export(quick(folder))
    assert contents(folder.parent) == before


def test_no_episodes_prove_nothing(folder):
    with pytest.raises(UsageError, match="at least one episode"):
        export(quick(folder, episodes=0))


def test_a_policy_of_another_size_does_not_fit_the_environment(tmp_path, untrained, contents):
    class SmallEnv(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
        action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    (tmp_path / "small").mkdir()
    untrained("PPO", path=tmp_path / "small" / POLICY, env=SmallEnv())
    with pytest.raises(EnvironmentMismatchError, match=r"small.* differ in their observations, shape \(4,\) and \(6,\)"):
        export(quick(tmp_path / "small"))
    assert list(contents(tmp_path)) == ["small/policy.zip"]


def test_an_unknown_environment_is_answered_with_the_nearest(folder):
    (folder / TRAINING).unlink()
    with pytest.raises(UnknownEnvironmentError, match="did you mean"):
        export(quick(folder, environment="env01-V1"))


def test_a_policy_trained_elsewhere_is_refused(folder, monkeypatch):
    monkeypatch.setitem(CATALOG, "balance/BalanceRandomized-v0", BalanceConfig())
    with pytest.raises(EnvironmentMismatchError, match=r"trained in balance/Balance-v0, not in balance/BalanceRandomized-v0"):
        export(quick(folder, environment="balance/BalanceRandomized-v0"))


def test_an_environment_that_changed_since_the_training_is_refused(folder, monkeypatch):
    changed = replace(CATALOG["balance/Balance-v0"], pitch_scale_rad=0.7)
    monkeypatch.setitem(CATALOG, "balance/Balance-v0", changed)
    with pytest.raises(EnvironmentMismatchError, match="observation 0, pitch"):
        export(quick(folder))


def test_a_checkpoint_that_its_record_does_not_describe_is_refused(folder, untrained):
    untrained("PPO", path=folder / POLICY)
    with pytest.raises(CheckpointError, match=r"not the policy that training\.json"):
        export(quick(folder))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_garbled_training_record_is_refused(folder, text):
    (folder / TRAINING).write_text(text)
    with pytest.raises(CheckpointError, match=r"training\.json is not"):
        export(quick(folder))


def test_garbled_signal_tables_are_refused(folder):
    edit_training(folder, lambda training: training["spec"].pop("observation"))
    with pytest.raises(CheckpointError, match="garbled"):
        export(quick(folder))


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("episodes_here")
def test_the_command_makes_a_bundle_elsewhere_and_prints_one_document(tmp_path, folder, ppo_bundle, converted, capsys):
    converted(float_from=ppo_bundle, int8_from=ppo_bundle)
    target = tmp_path / "out" / "copy"
    arguments = [folder / POLICY, "--output", target, "--episodes", 1, "--steps", 60, "--json"]
    with pytest.raises(SystemExit) as ended:
        hil(["export", *map(str, arguments)], standalone_mode=False)
    assert ended.value.code == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert next(iter(document)) == "schema"
    contract.check("export", document)
    assert document["bundle"] == {"name": "copy", "id": ppo_bundle.id, "path": str(target)}
    assert document["verdict"] == {"good": True, "reasons": []}
    assert [(stage["name"], stage["success_rate"]) for stage in document["stages"]] == [
        (name, 1.0) for name in ("torch", "onnx", "float32", "int8")
    ]
    assert all("max_error" in stage for stage in document["stages"])
    assert 0 < document["conversion_s"] <= document["wall_s"]
    assert "calibration" in printed.err  # progress
    bundle = Bundle.load(target)
    assert (bundle.id, bundle.training) == (ppo_bundle.id, ppo_bundle.training)
    for name in (POLICY, TRAINING):  # the policy goes along
        assert bundle.file(name).read_bytes() == ppo_bundle.file(name).read_bytes()
    assert sorted(p.name for p in target.parent.iterdir()) == ["copy"]


def test_the_table_names_every_stage_and_the_verdict(ppo_bundle, capsys):
    stages = tuple(Stage(**stage) for stage in ppo_bundle.metrics["stages"])
    verdict = Verdict(("the int8 policy is worse",))
    print_result(ExportResult(bundle=ppo_bundle, stages=stages, verdict=verdict, conversion_s=7.5, wall_s=24.2))
    printed = capsys.readouterr().out
    for text in (
        "torch",
        "onnx",
        "float32",
        "int8",
        "100%",
        "3 FULLY_CONNECTED",
        "7.5 s",
        "24.2 s",
        ppo_bundle.id,
        "FAIL: the int8 policy is worse",
        "2000 observations",
    ):
        assert text in printed


def test_a_users_mistake_is_two_lines_and_no_traceback(tmp_path):
    command = [sys.executable, "-c", "from balance_hil.cli import main; main()", "export", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert result.stdout == ""
    assert "error:" in result.stderr
    assert "hint:" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_model_card_says_how_the_policy_was_trained_and_on_what_it_was_judged():
    from balance_hil.exporting.model_card import _training

    training = {
        "steps": 1000,
        "seed": 3,
        "wall_s": 12.34,
        "evaluation_wall_s": 5.0,
        "evaluation": {
            "episodes": 50,
            "failed": 1,
            "metrics": {"speed_error_rms_rad_s": 7.0, "action_rate": 0.03},
        },
        "hyper_parameters": {"curriculum": {"end": {"physics": {"mass_scale": [0.8, 1.2]}}}},
    }
    card = _training(training)
    assert "| environment steps | 1,000 |" in card
    assert "49 of 50 unseen episodes" in card
    assert 'physics: {"mass_scale": [0.8, 1.2]}' in card
    assert "curriculum" not in _training({**training, "hyper_parameters": {}})
    judged = {**training["hyper_parameters"], "evaluation": {"options": {"physics": {"mass_scale": [0.9, 1.1]}}}}
    card = _training({**training, "hyper_parameters": judged})
    assert card.index("[0.9, 1.1]") < card.index("Trained with a curriculum: it ended with") < card.index("[0.8, 1.2]")
    assert "computed, not learned" in _training({**training, "steps": 0})
