"""Proof that the HIL suite can fail: a healthy board is broken on purpose, and the right test goes red for the right reason."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from balance_hil import boards
from balance_hil.boards import Board
from balance_hil.boards.kinds.emulated import EmulationConfig
from balance_hil.boards.kinds.native import NativeMachine
from balance_hil.bundle import INT8_MODEL, MANIFEST, Bundle, model_id
from balance_hil.errors import BoardStatusError, ModelMismatchError
from balance_hil.model_image import ModelImage
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Frame
from balance_hil.quantize import dequantize
from balance_hil.runtimes import load_runtime
from balance_hil.tflite.codec import unpack

from .harness import Suite, only_failure
from .saboteur import Saboteur, on_action, output_plus_one_once, stale, wrong_quantizer

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module")
def shared_board(ppo_bundle: Bundle) -> Iterator[tuple[Board, Saboteur]]:
    """A real native board whose link can be told to lie."""
    machine = NativeMachine(EmulationConfig(image=ModelImage.of(ppo_bundle)))
    saboteur = Saboteur(machine.start())
    with Board(saboteur, ppo_bundle, machine=machine) as board:
        yield board, saboteur


@pytest.fixture(scope="module", autouse=True)
def native_modules(ppo_bundle: Bundle) -> None:
    """Loads the reference runtime: pytester forgets what was imported inside it, and this one loads once per process."""
    load_runtime("tflm", ppo_bundle).close()


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ppo_bundle: Bundle) -> Suite:
    return Suite(pytester, monkeypatch, ppo_bundle)


@pytest.fixture
def sabotaged(shared_board: tuple[Board, Saboteur]) -> Iterator[tuple[Board, Saboteur]]:
    """The shared board, healed and identified again afterwards."""
    board, saboteur = shared_board
    yield board, saboteur
    saboteur.heal()
    board.identify()


GOLDEN = "test_model.py::test_golden_vectors_bit_for_bit"
RANDOM = "test_model.py::test_board_equals_tflm_on_random_inputs"
LAYERS = "test_model.py::test_every_intermediate_tensor_of_the_golden_vectors"
TIES = "test_quantization.py::test_exact_ties_go_away_from_zero"
SATURATION = "test_quantization.py::test_saturation_on_both_sides"
RANDOM_OBSERVATIONS = "test_quantization.py::test_random_observations"


def test_a_healthy_board_passes(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, _ = sabotaged
    suite.run(board, GOLDEN, LAYERS, TIES, SATURATION, RANDOM_OBSERVATIONS).assert_outcomes(passed=5)


def test_one_lsb_in_one_of_twenty_thousand_inputs(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged
    saboteur.reply = on_action(output_plus_one_once(12_345))
    result = suite.run(board, RANDOM)
    only_failure(result, "*random inputs: 1 of 40000 values differ, by up to 1 LSB; first in input 12344, value 0:*")


def test_a_stale_output(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged
    saboteur.reply = on_action(stale())
    only_failure(suite.run(board, GOLDEN), "*golden outputs: * values differ*")


def test_swapped_outputs(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged
    saboteur.reply = on_action(lambda action: replace(action, output=action.output[::-1].copy()))
    only_failure(suite.run(board, GOLDEN), "*golden outputs: * values differ*")


def test_one_wrong_value_inside_the_network(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged

    def reply(frame: Frame) -> list[Frame]:
        data = frame.message
        if isinstance(data, messages.TensorData) and data.op == 1:
            values = data.values.copy()
            values[5] ^= 1
            frame = replace(frame, message=replace(data, values=values))
        return [frame]

    saboteur.reply = reply
    only_failure(
        suite.run(board, GOLDEN, LAYERS), "*layer 1 (*): 100 of * values differ, by up to 1 LSB; first in input 0, value 5*"
    )


@pytest.mark.parametrize(
    ("rule", "test"),
    [
        pytest.param(np.rint, TIES, id="half_even"),
        pytest.param(np.trunc, RANDOM_OBSERVATIONS, id="truncation"),
        pytest.param(np.floor, RANDOM_OBSERVATIONS, id="floor"),
        pytest.param(lambda r: np.trunc(r + 0.5), RANDOM_OBSERVATIONS, id="plus_half"),
    ],
)
def test_a_quantizer_that_rounds_otherwise(
    suite: Suite, sabotaged: tuple[Board, Saboteur], rule: Callable[[NDArray[np.float64]], NDArray[np.float64]], test: str
) -> None:
    board, saboteur = sabotaged
    zero_point = board.input_quant.zero_point
    saboteur.request = wrong_quantizer(lambda r: np.clip(rule(r) + zero_point, -128, 127), board.input_quant)
    only_failure(suite.run(board, test), "*values are quantized otherwise, first observation*instead of*")


def test_a_quantizer_that_wraps_instead_of_saturating(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged
    zero_point = board.input_quant.zero_point
    saboteur.request = wrong_quantizer(
        lambda r: (np.trunc(np.clip(r, -1e6, 1e6) + np.copysign(0.5, r)) + zero_point + 128) % 256 - 128, board.input_quant
    )
    only_failure(suite.run(board, SATURATION), "*values are quantized otherwise*")


def test_a_board_that_takes_nan_for_zero(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged
    saboteur.request = wrong_quantizer(np.nan_to_num, board.input_quant)
    result = suite.run(board, "test_quantization.py::test_non_finite_is_refused_by_name_and_index[native-nan]")
    only_failure(result, "*DID NOT RAISE*BoardStatusError*")


def test_a_self_test_that_failed(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged

    def reply(frame: Frame) -> list[Frame]:
        if isinstance(frame.message, messages.SelfTestResult):
            frame = replace(frame, message=replace(frame.message, mismatches=1, first_mismatch=3))
        return [frame]

    saboteur.reply = reply
    only_failure(suite.run(board, "test_model.py::test_self_test_passes"), "*assert (1, 3) == (0, 65535)*")


def test_an_error_of_another_name(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged

    def reply(frame: Frame) -> list[Frame]:
        if isinstance(frame.message, messages.Error):
            frame = replace(frame, message=replace(frame.message, status=messages.Status.INFERENCE_FAILED))
        return [frame]

    saboteur.reply = reply
    result = suite.run(board, "test_protocol_errors.py::test_wrong_count[native-one_too_many]")
    only_failure(result, "*assert 'INFERENCE_FAILED' == 'WRONG_COUNT'*")


def test_corrupted_replies(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged
    seen = 0

    def wire(frame: bytes) -> bytes:
        nonlocal seen
        seen += 1
        return frame if seen < 50 else bytes([frame[0], frame[1], frame[2] ^ 0x10]) + frame[3:]

    saboteur.wire = wire
    only_failure(suite.run(board, GOLDEN), "*ReplyTimeoutError: the board on * did not answer InferInt8 within*")


def test_replies_that_come_too_late(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged

    def wire(frame: bytes) -> bytes:
        time.sleep(0.008)  # the fault itself: longer than a control period
        return frame

    saboteur.wire = wire
    only_failure(
        suite.run(board, "test_timing.py::test_round_trip_fits_the_control_period"), "*round_trip_median is * us, outside*"
    )


def test_a_board_that_restarts_by_itself(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged
    seen = 0

    def reply(frame: Frame) -> list[Frame]:
        nonlocal seen
        seen += 1
        ready = messages.Ready(messages.PROTOCOL_VERSION, messages.SCHEMA_CRC, 2)
        return [Frame(0, ready)] if seen == 30 else [frame]

    saboteur.reply = reply
    only_failure(suite.run(board, GOLDEN), "*BoardRebootedError: the board on * restarted before it answered InferInt8*")


def test_a_policy_that_steers_the_wrong_way(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged

    def other_way(action: messages.Action) -> messages.Action:
        output = np.clip(-action.output.astype(int), -128, 127).astype(np.int8)
        return replace(action, output=output, action=dequantize(output, board.output_quant))

    saboteur.reply = on_action(other_way)
    only_failure(
        suite.run(board, "test_episodes.py::test_lockstep_episodes"),
        "*AssertionError: episodes failed on the board and not in simulation with tflm: seed 10000 after*",
    )


def test_an_action_that_is_not_its_output(suite: Suite, sabotaged: tuple[Board, Saboteur]) -> None:
    board, saboteur = sabotaged
    saboteur.reply = on_action(lambda action: replace(action, action=-action.action))
    only_failure(
        suite.run(board, "test_episodes.py::test_lockstep_episodes"),
        "*replies were wrong and not applied; the reply of step 0: its action is * its output dequantized *",
    )


# --- a model that was tampered with -----------------------------------------------------------------------------------


@pytest.fixture
def flipped(ppo_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The bundle with one bit of one weight flipped and a manifest that vouches for it."""
    folder = tmp_path / "flipped"
    shutil.copytree(ppo_bundle.path, folder)
    model = bytearray(ppo_bundle.int8_model())
    model[first_weight(bytes(model))] ^= 0x40
    (folder / INT8_MODEL).write_bytes(model)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][INT8_MODEL] = hashlib.sha256(model).hexdigest()
    manifest["id"] = model_id(bytes(model))
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.load(folder)


def first_weight(model: bytes) -> int:
    """Offset in the file of the first weight of the first layer."""
    parsed = unpack(model)
    graph = parsed.subgraphs[0]
    weights = parsed.buffers[graph.tensors[graph.operators[0].inputs[1]].buffer].data
    return model.index(bytes(weights))


def test_a_flipped_weight(suite: Suite, flipped: Bundle) -> None:
    with boards.connect("native", flipped, model=flipped.file(INT8_MODEL)) as board:  # without vectors: it would refuse to run
        only_failure(suite.run(board, GOLDEN), "*golden outputs: * values differ*")
        only_failure(suite.run(board, LAYERS), "*layer 0 (FULLY_CONNECTED): * values differ*")
        result = suite.run(board, "test_identity.py::test_board_runs_this_bundle")
        only_failure(result, f"*AssertionError: assert '{flipped.id}' == *")


def test_a_flipped_weight_is_refused_before_any_test(ppo_bundle: Bundle, flipped: Bundle) -> None:
    """Nobody has to run a suite: the board notices by its vectors, the handshake by the id."""
    with pytest.raises(BoardStatusError, match="does not reproduce the golden vectors"):
        boards.connect("native", flipped)
    with boards.connect("native", flipped, model=flipped.file(INT8_MODEL)) as board:
        board.bundle = ppo_bundle
        with pytest.raises(ModelMismatchError, match=f"runs policy {flipped.id}, this run needs {ppo_bundle.id}"):
            board.identify()
