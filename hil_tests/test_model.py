"""Model outputs on the board are bit-identical to TensorFlow Lite Micro on the host."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from balance_hil.boards import Board
from balance_hil.bundle import GOLDEN, Bundle
from balance_hil.comparing.inputs import random_inputs
from balance_hil.model_image import SHAPE_ARITHMETIC
from balance_hil.protocol.messages import Status
from balance_hil.runtimes.base import ModelRuntime

LAYER_INPUTS = 100
CORNERS = 1024  # all of them where there are fewer


@pytest.fixture(scope="module")
def golden(hil_bundle: Bundle) -> dict[str, NDArray[np.generic]]:
    with np.load(hil_bundle.file(GOLDEN)) as data:
        return {**data, "input": hil_bundle.golden_raw("input"), "output": hil_bundle.golden_raw("output")}


def random_rows(board: Board, count: int, seed: int) -> NDArray[np.generic]:
    """Uniform raw inputs, [count, n_obs] of the element type of the board's model."""
    return random_inputs(board.info.n_obs, board.input_quant, count, seed).raw


def report(what: str, board: NDArray[np.generic], reference: NDArray[np.generic]) -> str:
    """Description of the first difference; "" if there is none."""
    if board.shape != reference.shape:
        return f"{what}: the board returns {board.shape}, the reference {reference.shape}"
    wrong = np.argwhere(board != reference)
    if not len(wrong):
        return ""
    row, column = wrong[0]
    lsb = np.abs(board.astype(float) - reference.astype(float)).max()
    return (
        f"{what}: {len(wrong)} of {board.size} values differ, by up to {lsb:g} LSB; first in input {row}, value {column}: "
        f"{board[row, column]} instead of {reference[row, column]}"
    )


def test_golden_vectors_bit_for_bit(hil_board: Board, golden: dict[str, NDArray[np.generic]]) -> None:
    actions = hil_board.infer_raw_batch(golden["input"])
    assert not report("golden outputs", np.stack([a.output for a in actions]), golden["output"])


def test_golden_observations_from_float_to_float(hil_board: Board, golden: dict[str, NDArray[np.generic]]) -> None:
    actions = hil_board.infer_batch(golden["observations"])
    assert not report("quantized inputs", np.stack([a.input for a in actions]), golden["input"])
    assert not report("outputs", np.stack([a.output for a in actions]), golden["output"])
    returned = np.stack([a.action for a in actions])
    assert np.array_equal(returned.view(np.uint32), golden["actions"].view(np.uint32)), "actions differ in their float32 bits"


def test_every_intermediate_tensor_of_the_golden_vectors(hil_board: Board, golden: dict[str, NDArray[np.generic]]) -> None:
    operators = [str(name) for name in golden["operators"]]
    layers = hil_board.layers_raw_batch(golden["input"][:LAYER_INPUTS])
    shown = [op for op, name in enumerate(operators) if name not in SHAPE_ARITHMETIC]
    assert [layer.op for layer in layers] == shown
    for layer in layers:
        expected = golden[f"op_{layer.op}"][:LAYER_INPUTS]
        assert not report(f"layer {layer.op} ({operators[layer.op]})", layer.values, expected)


def test_board_equals_tflm_on_random_inputs(
    hil_board: Board, hil_runtime_tflm: ModelRuntime, hil_measure: Callable[..., None], hil_inputs: int
) -> None:
    inputs = random_rows(hil_board, hil_inputs, 20_000)
    board = np.stack([action.output for action in hil_board.infer_raw_batch(inputs)])
    reference = hil_runtime_tflm.infer_raw_batch(inputs)
    hil_measure("outputs_compared", board.size, "1", minimum=hil_inputs)
    assert not report("random inputs", board, reference)


def _all_corners(board: Board) -> NDArray[np.int64]:
    return np.arange(2**board.info.n_obs)[:, np.newaxis] >> np.arange(board.info.n_obs) & 1


def test_corners_of_the_input_box(hil_board: Board, hil_runtime_tflm: ModelRuntime) -> None:
    count = min(CORNERS, 2**hil_board.info.n_obs)
    picked = np.random.default_rng(5).choice(2, (count, hil_board.info.n_obs)) if count == CORNERS else _all_corners(hil_board)
    kind = hil_board.kind
    corners = (
        np.where(picked, kind.high, kind.low).astype(kind.dtype) if kind.high else np.where(picked, 1, -1).astype(kind.dtype)
    )
    board = np.stack([action.output for action in hil_board.infer_raw_batch(corners)])
    assert not report("corners", board, hil_runtime_tflm.infer_raw_batch(corners))


def test_an_inference_does_not_depend_on_the_one_before(hil_board: Board) -> None:
    inputs = random_rows(hil_board, 50, 3)
    order = np.random.default_rng(3).permutation(len(inputs))
    straight = np.stack([action.output for action in hil_board.infer_raw_batch(inputs)])
    shuffled = np.stack([action.output for action in hil_board.infer_raw_batch(inputs[order])])
    assert not report("shuffled inputs", shuffled, straight[order])


def test_self_test_passes(hil_board: Board) -> None:
    result = hil_board.self_test()
    assert result.status == Status.OK
    assert result.count == hil_board.info.n_self_test > 0
    assert (result.mismatches, result.first_mismatch) == (0, 65535)
