"""Quantization on the board, at critical values. Expected values come from exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from balance_hil.boards import Board
from balance_hil.comparing.inputs import random_inputs
from balance_hil.errors import BoardStatusError
from balance_hil.protocol.messages import Status
from balance_hil.quantize import FLOAT32, Normalization, QuantParams, dequantize


def expected_raw(observations: NDArray[np.float32], params: QuantParams) -> NDArray[np.generic]:
    """The float32 quotient, rounded half away from zero without any float arithmetic; of float32 the values themselves."""
    low, high = params.kind.low, params.kind.high

    def one(value: np.float32) -> int:
        with np.errstate(over="ignore"):
            ratio = value / np.float32(params.scale)
        if np.isinf(ratio):
            return high if ratio > 0 else low
        exact = Fraction(float(ratio))
        magnitude = int(abs(exact) + Fraction(1, 2))
        return max(low, min(high, (magnitude if exact >= 0 else -magnitude) + params.zero_point))

    if params.kind == FLOAT32:
        return observations
    return np.array([[one(value) for value in row] for row in observations], dtype=params.kind.dtype)


def spread_over_rows(values: NDArray[np.float32], n_obs: int) -> NDArray[np.float32]:
    """``values`` as observations, float32 [n, n_obs], each value once at every position."""
    return np.stack([np.roll(values, shift) for shift in range(n_obs)], axis=1).astype(np.float32)


def exact_ties(params: QuantParams) -> NDArray[np.float32]:
    """Every float32 next to (k + 1/2) * scale whose float32 quotient by the scale is exactly k + 1/2; of int16 some of them."""
    if params.kind == FLOAT32:
        pytest.skip("float32 is not rounded")
    s, stride = np.float32(params.scale), max(1, params.kind.high // 127)
    halves = np.arange(params.kind.low - 2, params.kind.high + 3, stride, dtype=np.float32) - params.zero_point + np.float32(0.5)
    middle = np.asarray(halves * s, dtype=np.float32)
    ties = []
    for candidate in (middle, np.nextafter(middle, np.float32(-np.inf)), np.nextafter(middle, np.float32(np.inf))):
        ties.append(candidate[candidate / s == halves])
    return np.concatenate(ties)


def normalized(observations: NDArray[np.float32], by: Normalization | None) -> NDArray[np.float32]:
    """Subtract, multiply, clip, each rounded to float32 by exact arithmetic."""
    if by is None:
        return observations

    def one(value: np.float32, mean: np.float32, factor: np.float32) -> np.float32:
        difference = np.float32(np.float64(value) - np.float64(mean))  # exact in float64 for what this suite sends
        with np.errstate(over="ignore"):
            product = np.float32(np.float64(difference) * np.float64(factor))  # 24 bits by 24 bits
        return np.float32(min(max(product, np.float32(-by.clip)), np.float32(by.clip)))

    return np.array([[one(*numbers) for numbers in zip(row, by.mean, by.inverse_std, strict=True)] for row in observations])


def check(board: Board, observations: NDArray[np.float32]) -> None:
    """``observations`` as the policy sees them: where it normalizes, the board is sent what becomes that, or nearly."""
    params = board.input_quant
    by = board.bundle.normalization if board.bundle is not None else None
    if by is not None:
        with np.errstate(over="ignore"):
            observations = (observations / by.inverse_std + by.mean).astype(np.float32)
        observations = np.clip(observations, np.finfo(np.float32).min, np.finfo(np.float32).max)
    got = np.stack([action.input for action in board.infer_batch(observations)])
    seen = normalized(observations, by)
    wrong = np.argwhere(got != expected_raw(seen, params))
    if len(wrong):
        row, column = wrong[0]
        value = seen[row, column]
        expected = expected_raw(seen[row : row + 1], params)[0, column]
        pytest.fail(
            f"{len(wrong)} of {got.size} values are quantized otherwise, first observation[{column}] = {value!r} "
            f"({value / np.float32(params.scale)!r} steps): {got[row, column]} instead of {expected}"
        )


def test_exact_ties_go_away_from_zero(hil_board: Board) -> None:
    ties = exact_ties(hil_board.input_quant)
    assert len(ties) > 200, "the scale must leave ties to test"
    check(hil_board, spread_over_rows(ties, hil_board.info.n_obs))


def test_neighbors_of_ties(hil_board: Board) -> None:
    ties = exact_ties(hil_board.input_quant)
    near = [np.nextafter(ties, np.float32(toward)) for toward in (-np.inf, np.inf)]
    check(hil_board, spread_over_rows(np.concatenate(near).astype(np.float32), hil_board.info.n_obs))


def test_saturation_on_both_sides(hil_board: Board) -> None:
    params = hil_board.input_quant
    low, high, scale = params.kind.low, params.kind.high, params.scale
    steps = np.array([-1e9, 8 * low, low - 129, low - 1.5, low - 1, low - 0.5, low, high - 0.5, high, high + 0.5, high + 1])
    steps = np.append(steps, [2 * high + 2, 8 * high, 1e9]) - params.zero_point
    huge = np.array([3.4028235e38, -3.4028235e38, 1e30, -1e30])
    check(hil_board, spread_over_rows(np.concatenate([steps * scale, huge]).astype(np.float32), hil_board.info.n_obs))


def test_zero_and_the_smallest_numbers(hil_board: Board) -> None:
    tiny = np.array([0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, -1.1754944e-38, 1e-7, -1e-7], dtype=np.float32)
    check(hil_board, spread_over_rows(tiny, hil_board.info.n_obs))


def test_random_observations(hil_board: Board) -> None:
    params = hil_board.input_quant
    rng = np.random.default_rng(7)
    reach = 1.2 * max(1, params.kind.high)
    steps = rng.uniform(-reach, reach, size=(500, hil_board.info.n_obs)) - params.zero_point
    check(hil_board, (steps * params.scale).astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus_inf"])
def test_non_finite_is_refused_by_name_and_index(hil_board: Board, value: float) -> None:
    for index in range(hil_board.info.n_obs):
        observation = np.zeros(hil_board.info.n_obs, np.float32)
        observation[index] = value
        with pytest.raises(BoardStatusError) as caught:
            hil_board.infer(observation)
        assert (caught.value.status, caught.value.detail) == ("non_finite", index)
    assert hil_board.infer(np.zeros(hil_board.info.n_obs, np.float32)).status == 0, "the next observation must work"


def test_actions_are_the_dequantized_outputs(hil_board: Board) -> None:
    inputs = random_inputs(hil_board.info.n_obs, hil_board.input_quant, 500, 8).raw
    actions = hil_board.infer_raw_batch(inputs)
    for action in actions:
        assert action.status == Status.OK, f"ACTION has the status {Status(action.status).name}"
    assert np.array_equal(np.stack([a.input for a in actions]), inputs), "ACTION must return the raw input"
    outputs, got = (np.stack([getattr(a, name) for a in actions]) for name in ("output", "action"))
    expected = dequantize(outputs, hil_board.output_quant)
    wrong = np.argwhere(got.view(np.uint32) != expected.view(np.uint32))
    if len(wrong):
        at = tuple(wrong[0])
        pytest.fail(
            f"{len(wrong)} of {got.size} actions are not their outputs, dequantized; first output {outputs[at]}: {got[at]!r} "
            f"instead of {expected[at]!r}"
        )
