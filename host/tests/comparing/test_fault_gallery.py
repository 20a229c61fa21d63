"""Every fault of the gallery, in a native board that is run like any other, is called by its name; a healthy board by none.

Everything goes through ``compare``, as ``hil compare`` does. The firmware runs the model itself (engine int8): it starts in a
twentieth of the time that the engine host with TensorFlow Lite Micro takes, and computes the same bits.
"""

from __future__ import annotations

import pytest

from balance_hil.boards import connect
from balance_hil.boards.kinds.native import firmware_faults
from balance_hil.comparing.compare import CompareConfig, compare
from balance_hil.comparing.model_under_test import load_model
from balance_hil.testing.synthetic_models import actor

# Zero points of -12 and -13, three outputs, 8 % of them saturated by random inputs: here every fault shows as itself.
MODEL = actor((6, 16, 16, 3), "RELU", per_channel=True, seed=13, squash=None)
CONFIG = CompareConfig(samples=300, layer_samples=300, runtimes=("tflm",), observations="golden")
HEALTHY_ARITHMETIC = "tflm"

# fault -> stage and cause that the comparison names
DIAGNOSED = {
    "input-truncate": ("input", "truncates instead of rounding"),
    "input-truncate-sum": ("input", "adds the zero point and truncates instead of rounding"),
    "input-floor": ("input", "rounds down"),
    "input-cast-half-up": ("input", "adds 0.5 and truncates"),
    "input-half-up": ("input", "rounds ties up"),
    "input-half-even": ("input", "rounds ties to even"),
    "input-reciprocal": ("input", "multiplies by the reciprocal"),
    "input-float64": ("input", "divides in float64"),
    "input-wrap": ("input", "wraps around instead of saturating"),
    "input-no-zero-point": ("input", "omits the zero point"),
    "input-zero-point-above": ("input", "takes a zero point that is 1 too high"),
    "input-zero-point-below": ("input", "takes a zero point that is 1 too low"),
    "input-scale-digits": ("input", "has its scale rounded to 4 decimals"),
    "input-output-scale": ("input", "takes the parameters of the other end of the model"),
    "input-swapped-bytes": ("input", "swaps the bytes of the observation"),
    "input-permuted": ("input", "permutes the inputs: it takes 1, 0, 2, 3, 4, 5 for 0, 1, 2, 3, 4, 5"),
    "input-stale": ("input", "gives a stale input: that of 1 request before"),
    "model-other": ("model", "runs another model"),
    "model-constant": ("model", "always gives the same output"),
    "model-wrong-tensor": ("model", "reads the output of operator 0 (FULLY_CONNECTED) instead of the model's output"),
    "model-permuted": ("model", "permutes the outputs: it takes 2, 1, 0 for 0, 1, 2"),
    "model-stale": ("model", "gives a stale output: that of 1 request before"),
    "model-no-bias": ("model", "omits the biases"),
    "model-no-activation": ("model", "omits the fused activations"),
    "model-wrap": ("model", "wraps the output around instead of saturating"),
    "output-no-zero-point": ("output", "omits the zero point"),
    "output-zero-point-above": ("output", "takes a zero point that is 1 too high"),
    "output-zero-point-below": ("output", "takes a zero point that is 1 too low"),
    "output-scale-digits": ("output", "has its scale rounded to 4 decimals"),
    "output-unsigned": ("output", "reads the output as unsigned"),
    "output-raw-127": ("output", "divides the raw output by 127"),
    "output-swapped-bytes": ("output", "swaps the bytes of the action"),
}
# fault -> arithmetic that identification names, from the layers
IDENTIFIED = {
    "model-first-scale": "tflm-first-scale",
    "model-single-rounding": "tflm-single-rounding",
    "model-floored": "floored-tflm",
    "model-float32": "xnnpack",
    "model-truncated": "tinyengine",
}
# models/ppo has the zero points 0 and -1 and two outputs: what is then the same function as something else, or no fault at all
ON_PPO = {
    "input-truncate-sum": ("input", "truncates instead of rounding"),
    "input-no-zero-point": None,
    "output-zero-point-above": ("output", "omits the zero point"),
    "model-permuted": ("model", "permutes the outputs: it takes 1, 0 for 0, 1"),
}


# on models/ppo: these, and some that are there what they are anywhere
CASES = [(fault, False) for fault in DIAGNOSED if fault != "model-no-activation"]  # the RELU of MODEL only saturates
CASES += [
    (fault, True)
    for fault in (
        *(*ON_PPO, "input-truncate", "input-half-even", "model-wrap", "model-no-activation"),
        "output-zero-point-below",
    )
]
# MODEL has no input among 300 that tells single rounding in integers from float32.
ARITHMETICS = [(fault, of_ppo) for fault in IDENTIFIED for of_ppo in (False, True) if (fault, of_ppo) != ("model-float32", False)]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.tflite"
    path.write_bytes(MODEL)
    return path


@pytest.fixture
def judged(model_file, ppo_bundle):
    """``judged(fault, of_ppo)``: the comparison of a board with that fault."""

    def judge(fault, of_ppo=False, engine="int8"):
        under_test = load_model(ppo_bundle.path if of_ppo else model_file)
        model = None if of_ppo else model_file
        with connect("native", under_test.bundle, model=model, engine=engine, firmware_fault=fault) as board:
            return compare(under_test, CONFIG, board=board)

    return judge


def _named(result):
    """{stage: (cause, those that give the same numbers)} and the arithmetic of the board's layers."""
    arithmetic = next(found.variant for found in result.arithmetics if found.runtime == "board")
    return {f.stage: (f.fault, f.alternatives) for f in result.findings if not f.healthy}, arithmetic


@pytest.mark.parametrize("of_ppo", [False, True], ids=["model", "ppo"])
@pytest.mark.parametrize("engine", ["int8", "tflm"])
def test_a_healthy_board_has_no_fault(engine, of_ppo, judged):
    result = judged(None, of_ppo, engine)
    assert _named(result) == ({}, HEALTHY_ARITHMETIC)
    assert result.verdict.good


@pytest.mark.parametrize(("fault", "of_ppo"), CASES)
def test_a_fault_is_called_by_its_name(fault, of_ppo, judged):
    expected = ON_PPO.get(fault, DIAGNOSED[fault]) if of_ppo else DIAGNOSED[fault]
    result = judged(fault, of_ppo)
    found, arithmetic = _named(result)
    assert {stage: cause for stage, (cause, _) in found.items()} == (dict([expected]) if expected else {})
    assert result.verdict.good == (expected is None)
    assert result.unexplained == 0
    # The layers of a board whose ends are faulty are healthy.
    assert (expected or DIAGNOSED[fault])[0] == "model" or arithmetic == HEALTHY_ARITHMETIC


@pytest.mark.parametrize(("fault", "of_ppo"), ARITHMETICS)
def test_a_wrong_arithmetic_is_called_by_its_name(fault, of_ppo, judged):
    result = judged(fault, of_ppo)
    assert _named(result) == ({}, IDENTIFIED[fault])
    assert not result.verdict.good
    assert result.unexplained == 0


def test_a_name_that_is_the_same_function_here_is_given_as_an_alternative(judged):
    found, _ = _named(judged("input-truncate-sum", True))
    assert found["input"][1] == ("adds the zero point and truncates instead of rounding",)


def test_every_fault_of_the_gallery_is_expected_to_have_a_cause():
    assert set(DIAGNOSED) | set(IDENTIFIED) == set(firmware_faults())
