"""Every bundle in models/: whole, small, without operators that a board lacks, and trained as its card says."""

from pathlib import Path

import numpy as np
import pytest

from balance_hil.bundle import GOLDEN, MANIFEST, POLICY, Bundle
from balance_hil.runtimes import load_runtime

MODELS = Path(__file__).parents[2] / "models"
NAMES = sorted(folder.name for folder in MODELS.iterdir() if (folder / MANIFEST).is_file())


@pytest.fixture(params=NAMES)
def bundle(request):
    return Bundle.load(MODELS / request.param)


def test_one_bundle_of_each_algorithm_is_shipped():
    assert {"ppo", "sac", "td3", "ddpg", "a2c"} <= set(NAMES)


def test_it_is_small_and_every_board_has_its_operators(bundle):
    assert len(bundle.model()) <= 8192
    assert set(bundle.metrics["operators"]) <= {"FULLY_CONNECTED", "TANH"}


def test_its_training_reached_what_is_asked(bundle):
    judged = bundle.training["evaluation"]
    assert judged["episodes"] == 50
    # Trained with a curriculum, it is judged at the curriculum's hard end: docs/robustness.md.
    assert judged["failed"] == 0 or bundle.training["hyper_parameters"].get("curriculum")
    assert judged["metrics"]["action_rate"] <= 0.05
    assert judged["metrics"]["wheel_speed_difference_error_rms_rad_s"] <= 5.0
    int8 = bundle.metrics["stages"][-1]
    assert (int8["name"], int8["success_rate"]) == ("int8", 1.0)


def test_tensorflow_lite_micro_gives_its_golden_outputs(bundle):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed: pip install 'balance-hil[int8]'")
    with np.load(bundle.path / GOLDEN) as golden:
        inputs, outputs = golden["input_int8"][:200], golden["output_int8"][:200]
    runtime = load_runtime("tflm", bundle)
    np.testing.assert_array_equal([runtime.infer_raw(row) for row in inputs], outputs)


def test_the_checkpoint_is_read_without_running_code_and_is_the_policy_of_the_model(bundle):
    pytest.importorskip("torch", reason="torch is not installed: pip install 'balance-hil[train]'")
    from balance_hil.checkpoint import read_checkpoint

    actor = read_checkpoint(bundle.path / POLICY)
    assert actor.algorithm == {"lqr": "ppo"}.get(bundle.algorithm, bundle.algorithm)  # a gain is kept as a PPO policy is
    with np.load(bundle.path / GOLDEN) as golden:
        observations, actions = golden["observations"], golden["actions"]
    usual = (np.abs(observations) <= 1.0).all(axis=1)  # among them are NaN and infinity
    assert np.abs(actor.act_batch(observations[usual]) - actions[usual]).max() < 0.1  # of int8
