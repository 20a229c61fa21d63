"""Boards with a fault: it spoils the stage that it is named after, that one alone, and in the way that it says.

A few here; host/tests/comparing/test_fault_gallery.py goes through all of them.
"""

from __future__ import annotations

import numpy as np
import pytest

from balance_hil.boards import connect
from balance_hil.boards.kinds import qemu
from balance_hil.boards.kinds.emulated import EmulationConfig
from balance_hil.boards.kinds.native import NativeMachine, firmware_faults
from balance_hil.bundle import GOLDEN
from balance_hil.errors import BoardStatusError, HarnessError, UsageError
from balance_hil.model_image import ModelImage
from balance_hil.quantize import dequantize, quantize
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_models import actor

ROWS = 400
MODEL = actor((6, 16, 16, 3), "RELU", per_channel=True, seed=5, squash=None, fused="RELU_N1_TO_1")
F = np.float32


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.tflite"
    path.write_bytes(MODEL)
    return path


@pytest.fixture(scope="module")
def tflm():
    return TflmRuntime(MODEL)


@pytest.fixture(scope="module")
def observations(tflm):
    """Random ones beyond the limits, ties among them."""
    quant = tflm.input_quant
    assert quant.zero_point != 0
    assert tflm.output_quant.zero_point != 0
    rng = np.random.default_rng(0)
    rows = rng.uniform(-200.0, 200.0, (ROWS, tflm.n_obs)).astype(F) * F(quant.scale)
    ties = (rng.integers(-100, 100, (ROWS // 2, tflm.n_obs)) + 0.5).astype(F) * F(quant.scale)
    return np.ascontiguousarray(np.concatenate([rows[: ROWS // 2], ties]))


@pytest.fixture
def exchange(model_file, observations):
    """What a board with a fault says: ``exchange(fault)`` gives its inputs, outputs and actions."""

    def run(fault):
        with connect("native", model=model_file, firmware_fault=fault) as board:
            replies = board.infer_batch(observations)
        return tuple(np.stack([getattr(reply, name) for reply in replies]) for name in ("input", "output", "action"))

    return run


def test_the_gallery_has_a_name_and_a_description_for_each():
    faults = firmware_faults()
    assert len(faults) >= 15
    assert all(name.startswith(("input-", "model-", "output-")) and text for name, text in faults.items())


def test_a_healthy_board_is_right_at_every_stage(exchange, tflm, observations):
    inputs, outputs, actions = exchange(None)
    assert np.array_equal(inputs, quantize(observations, tflm.input_quant))
    assert np.array_equal(outputs, tflm.infer_raw_batch(inputs))
    assert np.array_equal(actions, dequantize(outputs, tflm.output_quant))


# Faults whose effect a formula in numpy gives.
INPUT_FORMULAS = {
    "input-truncate": lambda x, s, z: np.clip(np.trunc(x / s) + z, -128, 127),
    "input-wrap": lambda x, s, z: (np.trunc(x / s + np.copysign(F(0.5), x)).astype(np.int64) + z).astype(np.int8),
}
OUTPUT_FORMULAS = {
    "output-unsigned": lambda q, s, z: (np.float64(s) * (q.view(np.uint8).astype(int) - z)).astype(F),
}
MODEL_FORMULAS = {
    "model-stale": lambda q: np.concatenate([np.zeros_like(q[:1]), q[:-1]]),
}


@pytest.mark.parametrize("fault", INPUT_FORMULAS)
def test_input_fault(fault, exchange, tflm, observations):
    inputs, outputs, actions = exchange(fault)
    quant = tflm.input_quant
    assert np.array_equal(inputs, INPUT_FORMULAS[fault](observations, F(quant.scale), quant.zero_point).astype(np.int8))
    assert np.any(inputs != quantize(observations, quant))
    assert np.array_equal(outputs, tflm.infer_raw_batch(inputs))
    assert np.array_equal(actions, dequantize(outputs, tflm.output_quant))


@pytest.mark.parametrize("fault", OUTPUT_FORMULAS)
def test_output_fault(fault, exchange, tflm, observations):
    inputs, outputs, actions = exchange(fault)
    quant = tflm.output_quant
    assert np.array_equal(inputs, quantize(observations, tflm.input_quant))
    assert np.array_equal(outputs, tflm.infer_raw_batch(inputs))
    expected = OUTPUT_FORMULAS[fault](outputs, F(quant.scale), quant.zero_point)
    assert np.array_equal(actions.view(np.uint32), expected.view(np.uint32))
    assert np.any(actions != dequantize(outputs, quant))


@pytest.mark.parametrize("fault", MODEL_FORMULAS)
def test_model_fault(fault, exchange, tflm, observations):
    inputs, outputs, actions = exchange(fault)
    assert np.array_equal(inputs, quantize(observations, tflm.input_quant))
    assert np.array_equal(outputs, MODEL_FORMULAS[fault](tflm.infer_raw_batch(inputs)))
    assert np.array_equal(actions, dequantize(outputs, tflm.output_quant))


@pytest.mark.parametrize("fault", ["model-wrap", "model-first-scale"])
def test_arithmetic_fault_changes_the_outputs_alone(fault, exchange, tflm, observations):
    inputs, outputs, actions = exchange(fault)
    assert np.array_equal(inputs, quantize(observations, tflm.input_quant))
    assert np.any(outputs != tflm.infer_raw_batch(inputs))
    assert np.array_equal(actions, dequantize(outputs, tflm.output_quant))


def test_an_unknown_fault_is_refused_with_the_list(model_file):
    with pytest.raises(UsageError, match="no fault 'input-trunc'") as caught:
        NativeMachine(EmulationConfig(image=ModelImage(model=model_file.read_bytes()), fault="input-trunc"))
    assert "input-truncate" in caught.value.hint


ON_A_CORTEX_M = ["input-stale", "model-wrap", "output-swapped-bytes"]
REST = [fault for fault in (*INPUT_FORMULAS, *OUTPUT_FORMULAS, *MODEL_FORMULAS) if fault not in ON_A_CORTEX_M]


@pytest.mark.parametrize("fault", [*ON_A_CORTEX_M, *(pytest.param(fault, marks=pytest.mark.nightly) for fault in REST)])
def test_a_cortex_m_has_the_same_fault(fault, ppo_bundle):
    try:
        qemu.check_installation()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    with np.load(ppo_bundle.file(GOLDEN)) as golden:
        observations = golden["observations"]

    def ask(board):
        with connect(board, ppo_bundle, engine="int8", firmware_fault=fault) as faulty:
            assert faulty.info.board == board
            return faulty.infer_batch(observations)

    for here, there in zip(ask("native"), ask("qemu-m4"), strict=True):
        assert np.array_equal(here.input, there.input)
        assert np.array_equal(here.output, there.output)
        assert np.array_equal(here.action.view(np.uint32), there.action.view(np.uint32))


def test_a_physical_board_cannot_be_given_a_fault():
    with pytest.raises(UsageError, match="emulated boards only"):
        connect("native", port="/dev/null", firmware_fault="input-truncate")


def test_arithmetic_faults_need_dense_layers(tmp_path):
    path = tmp_path / "tanh.tflite"
    path.write_bytes(actor((6, 8, 2), "TANH", per_channel=False, seed=1))
    with (
        connect("native", model=path, firmware_fault="model-wrap") as board,
        pytest.raises(BoardStatusError, match="unsupported_operator"),
    ):
        board.infer(np.zeros(6, F))
