"""Models of other element types than int8 on the native board: raw values on the wire, uploads, runs, comparisons, replays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from balance_hil.boards import Board, connect
from balance_hil.bundle import FLOAT_MODEL, Bundle
from balance_hil.comparing.compare import CompareConfig, compare
from balance_hil.comparing.model_under_test import ModelUnderTest
from balance_hil.comparing.replay import replay
from balance_hil.errors import BoardStatusError, LinkError, ModelMismatchError, UsageError
from balance_hil.model_image import ModelImage
from balance_hil.protocol.messages import Action
from balance_hil.quantize import FLOAT32, INT8, INT16X8, Normalization, dequantize
from balance_hil.recording import read_recording
from balance_hil.running import RunConfig, run
from balance_hil.runtimes import load_runtime
from balance_hil.testing.fake_board import FakeFirmware, fake_board, fake_info
from balance_hil.testing.synthetic_bundle import bundle_of_model
from balance_hil.testing.synthetic_models import ModelBuilder, actor

WIDE = ("int16x8", "float32")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, ppo_bundle: Bundle) -> dict[str, Bundle]:
    """By element type, for the balance robot; and others, which take pieces or normalize."""
    root = tmp_path_factory.mktemp("wide")
    by = Normalization(np.linspace(-1, 1, 6), np.geomspace(0.5, 2, 6), 5.0)
    int16 = actor((6, 8, 2), "TANH", per_channel=True, seed=1, element=INT16X8)
    float32 = ppo_bundle.file(FLOAT_MODEL).read_bytes()
    return {
        "int8": ppo_bundle,
        "int16x8": bundle_of_model(root / "int16x8", int16, ppo_bundle.spec),
        "float32": bundle_of_model(root / "float32", float32, ppo_bundle.spec),
        "int16x8 in pieces": bundle_of_model(
            root / "pieces", actor((700, 4, 600), "TANH", per_channel=True, seed=2, element=INT16X8)
        ),
        "int16x8 normalized": bundle_of_model(root / "by16", int16, ppo_bundle.spec, normalization=by),
        "float32 normalized": bundle_of_model(root / "by32", float32, ppo_bundle.spec, normalization=by),
    }


@pytest.fixture(scope="module")
def boards(bundles: dict[str, Bundle]):
    """A native board of each bundle, started when it is first asked for."""
    started: dict[str, Board] = {}

    def board(name: str) -> Board:
        if name not in started:
            started[name] = connect("native", bundles[name], engine="tflm")
        return started[name]

    yield board
    for each in started.values():
        each.close()


def equals_golden(board: Board, bundle: Bundle, rows: slice) -> None:
    inputs, outputs = bundle.golden_raw("input")[rows], bundle.golden_raw("output")[rows]
    for actions in (board.infer_batch(bundle.golden("observations")[rows]), board.infer_raw_batch(inputs)):
        assert all(action.input.dtype == action.output.dtype == bundle.kind.dtype for action in actions)
        assert np.stack([action.input for action in actions]).tobytes() == inputs.tobytes()
        assert np.stack([action.output for action in actions]).tobytes() == outputs.tobytes()
        assert np.stack([action.action for action in actions]).tobytes() == bundle.golden("actions")[rows].tobytes()


@pytest.mark.parametrize("name", [*WIDE, "int16x8 in pieces", "int16x8 normalized", "float32 normalized"])
def test_the_board_computes_what_tflm_computes(name: str, bundles: dict[str, Bundle], boards) -> None:
    bundle, board = bundles[name], boards(name)
    assert (board.kind, board.in_pieces) == (bundle.kind, "pieces" in name)
    assert board.self_test().mismatches == 0
    rows = slice(0, 200, 40) if board.in_pieces else slice(0, None)
    equals_golden(board, bundle, rows)
    inputs = bundle.golden_raw("input")[rows][:5]
    with load_runtime("tflm", bundle) as tflm:
        for ours, theirs in zip(board.layers_raw_batch(inputs), tflm.layers_raw_batch(inputs), strict=True):
            assert ours.values.tobytes() == theirs.values.tobytes(), ours.operator
    board.infer_raw(inputs[-1])
    assert board.tensor(board.info.n_ops - 1).tobytes() == bundle.golden_raw("output")[rows][:5][-1].tobytes()
    assert board.profile().engine > 0


def test_an_upload_may_change_the_element_type(bundles: dict[str, Bundle]) -> None:
    with connect("native", bundles["int8"], engine="tflm") as board:
        for name in ("int16x8 normalized", "float32", "int8", "int16x8 in pieces"):
            assert board.load(bundles[name]).uploaded
            assert board.kind == bundles[name].kind
            equals_golden(board, bundles[name], slice(0, 3))


@pytest.mark.parametrize("name", WIDE)
def test_an_upload_whose_vectors_differ_is_refused(name: str, bundles: dict[str, Bundle], boards) -> None:
    from balance_hil.boards.upload import transfer

    image = ModelImage.of(bundles[f"{name} normalized"])
    wrong = image.outputs.copy()
    wrong.view(np.int8)[3, 0] ^= 1  # the lowest bit of one value
    with pytest.raises(BoardStatusError, match="vectors_differ, detail 1"):
        transfer(boards(name), replace(image, outputs=wrong))
    equals_golden(boards(name), bundles[name], slice(0, 3))


def test_an_upload_of_another_element_type_than_announced_is_refused(bundles: dict[str, Bundle], boards) -> None:
    from balance_hil.boards.upload import transfer

    image = ModelImage.of(bundles["int16x8 normalized"])
    narrow = replace(image, inputs=image.inputs.astype(np.int8), outputs=image.outputs.astype(np.int8))
    with pytest.raises(BoardStatusError, match="other_model"):
        transfer(boards("int16x8"), narrow)


@pytest.mark.parametrize("name", WIDE)
def test_the_compact_engine_refuses_it_before_anything_is_sent(name: str, bundles: dict[str, Bundle]) -> None:
    with pytest.raises(UsageError, match=f"runs int8 models, this one is {name}") as refused:
        connect("native", bundles[name], engine="int8")
    assert "--engine tflm" in refused.value.hint
    with connect("native", bundles["int8"], engine="int8") as board:
        before = board.stats().requests
        with pytest.raises(UsageError, match=f"runs int8 models, this one is {name}"):
            board.load(bundles[name])
        assert board.stats().requests <= before + 2  # HELLO and this
        assert board.infer(np.zeros(6, np.float32)).status == 0


@pytest.mark.parametrize("name", WIDE)
def test_a_run_is_recorded_replayed_and_compared(name: str, bundles: dict[str, Bundle], boards, tmp_path: Path) -> None:
    bundle, board = bundles[name], boards(name)
    result = run(board, bundle, RunConfig(seeds=range(1), clock="lockstep", max_steps=40, recording=tmp_path / "run.mcap"))
    assert (result.tflm_check.checked, result.tflm_check.differing) == (result.episodes[0].steps, 0)
    recording = read_recording(tmp_path / "run.mcap")
    assert recording.input_int8.tobytes() == bundle.quantized(recording.observation).tobytes()
    assert recording.output_int8.dtype == bundle.kind.dtype
    assert recording.action.tobytes() == bundle.spec.clip(dequantize(recording.output_int8, bundle.output_quant)).tobytes()
    assert replay(recording, "run.mcap", bundle, board).equal
    with load_runtime("tflm", bundle) as tflm:
        assert replay(recording, "run.mcap", bundle, tflm).equal
    config = CompareConfig(samples=100, layer_samples=20, runtimes=("tflm",), recording=tmp_path / "run.mcap")
    found = compare(ModelUnderTest.of(bundle), config, board=board)
    assert found.verdict.good, found.verdict.reasons
    assert (found.board_equals_tflm, found.board_io.input_differing, found.board_io.action_differing) == (True, 0, 0)
    assert all(layer.differing == 0 for layer in found.layers)


def test_a_number_that_is_not_finite_is_neither_taken_nor_given(bundles: dict[str, Bundle], boards, tmp_path: Path) -> None:
    board = boards("float32")
    for value in (np.nan, np.inf):
        with pytest.raises(BoardStatusError, match="non_finite, detail 2"):
            board.infer_raw(np.array([0, 0, value, 0, 0, 0], np.float32))
    assert board.infer(np.zeros(6, np.float32)).status == 0
    build = ModelBuilder(FLOAT32)
    source = build.tensor((1, 6))
    weights = np.resize(np.array([1e38, -1e38], np.float32), (2, 6))  # of 10 they give inf - inf
    huge = build.tensor((2, 6), data=weights, kind="FLOAT32")
    product = build.build(source, build.operator("FULLY_CONNECTED", (source, huge, -1), build.tensor((1, 2))))
    with connect("native", bundle_of_model(tmp_path / "huge", product), engine="tflm") as board:
        with pytest.raises(BoardStatusError, match="inference_failed, detail 0"):
            board.infer(np.full(6, 10, np.float32))
        assert board.infer(np.ones(6, np.float32)).status == 0


# --- boards that say something else: without a process ----------------------------------------------------------------


def fake(bundle: Bundle, **info: object) -> FakeFirmware:
    return FakeFirmware(replace(fake_info(bundle), **info), lambda values: values[:2])


def test_a_board_of_another_element_type_gets_a_message_of_its_own(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["int16x8"]
    with pytest.raises(ModelMismatchError, match="but reports int8 inputs and outputs, the bundle has int16x8") as refused:
        fake_board(fake(bundle, element_type=INT8.number), bundle)
    assert "build and flash" in refused.value.hint


def test_an_element_type_that_does_not_exist_is_refused(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(LinkError, match="of the element type 3"):
        fake_board(_of_type_3(bundles["int8"]))


def _of_type_3(bundle: Bundle) -> FakeFirmware:
    firmware = fake(bundle)
    firmware.info = replace(firmware.info, element_type=3)
    return firmware


@pytest.mark.parametrize("kind", [INT16X8, FLOAT32], ids=lambda kind: kind.name)
def test_bytes_that_are_no_values_are_an_error(kind, bundles: dict[str, Bundle]) -> None:
    bundle = bundles[kind.name]
    with fake_board(fake(bundle), bundle) as board:
        odd = Action(0, np.zeros(13, np.int8), np.zeros(4, np.int8), np.zeros(2, np.float32), 1, 2)
        board._channel.poll = lambda timeout_s: type("Frame", (), {"seq": 1, "message": odd})
        with pytest.raises(LinkError, match="sent 13 and 4 bytes for values of"):
            board.poll(0.0)
