"""Replay: what is counted, on which inputs, and where it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from balance_hil.comparing.replay import Replay, ReplayRow, replay
from balance_hil.errors import NonFiniteInputError, RecordingError, RecordingMismatchError
from balance_hil.quantize import QuantParams, RawArray
from balance_hil.recording import Recording, read_recording
from balance_hil.testing.fake_board import FakeFirmware, fake_board, fake_info

from .fakes import FakeFloat, FakeInt8, fake_bundle
from .recordings import EPISODE_STEPS, write_recording

BUNDLE = fake_bundle()


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return read_recording(write_recording(tmp_path / "run.mcap", BUNDLE, FakeInt8("tflm")))


def rows_of(result: Replay) -> dict[str, ReplayRow]:
    return {row.what: row for row in result.rows}


def test_the_same_arithmetic_gives_the_same_run(recording: Recording) -> None:
    result = replay(recording, "run.mcap", BUNDLE, FakeInt8("tflm"))
    assert result.equal
    assert [(row.what, row.values, row.differing, row.first) for row in result.rows] == [
        ("input_int8", 360, 0, None),
        ("output_int8", 120, 0, None),
        ("action", 120, 0, None),
    ]
    assert (result.episodes, result.steps, result.held, result.late) == (2, 60, 0, 0)
    assert (result.recorded_by["board"], result.recorded_by["engine"]) == ("bench", "tflm")
    assert "bit for bit" in result.summary


def test_wrong_outputs_are_counted_and_the_first_is_located(recording: Recording) -> None:
    above = 60
    result = replay(recording, "run.mcap", BUNDLE, FakeInt8("new", wrong={2: 3}, above=above))
    bent = np.flatnonzero(recording.input_int8[:, 0] > above)
    assert 0 < len(bent) < 60
    rows = rows_of(result)
    assert rows["input_int8"].differing == 0
    for what in ("output_int8", "action"):
        row = rows[what]
        assert row.first is not None
        assert (row.differing, row.max_lsb) == (len(bent), 3.0)
        assert (row.first.episode, row.first.step) == divmod(int(bent[0]), EPISODE_STEPS)
        assert (row.first.index, row.first.signal) == (0, "s0")
    first = rows["output_int8"].first
    assert first is not None
    assert first.recorded == recording.output_int8[bent[0], 0]
    assert first.replayed == first.recorded + 3
    assert not result.equal


def test_outputs_are_judged_on_equal_inputs(recording: Recording) -> None:
    """Another quantizer is no other arithmetic: it shows in the inputs and in the actions, not in the outputs."""
    target = FakeInt8("new")
    target.input_quant = QuantParams(target.input_quant.scale, target.input_quant.zero_point + 20)
    rows = rows_of(replay(recording, "run.mcap", BUNDLE, target))
    assert rows["input_int8"].differing > 300
    assert rows["output_int8"].differing == 0
    assert rows["action"].differing > 0


def test_held_steps_are_left_out(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "run.mcap", BUNDLE, FakeInt8("tflm"), held=range(10, 25))
    result = replay(read_recording(path), "run.mcap", BUNDLE, FakeInt8("tflm"))
    assert result.equal
    assert (result.steps, result.held, result.rows[0].steps) == (60, 15, 45)


def test_a_late_reply_is_replayed_from_its_own_input(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "run.mcap", BUNDLE, FakeInt8("tflm"), late={5: 4, 33: 31})
    recording = read_recording(path)
    result = replay(recording, "run.mcap", BUNDLE, FakeInt8("tflm"))
    assert result.equal, result.verdict.line
    assert (result.late, result.rows[0].steps, result.rows[1].steps) == (2, 58, 60)
    wrong = replay(recording, "run.mcap", BUNDLE, FakeInt8("new", wrong={2: 1}))
    assert [row.differing for row in wrong.rows] == [0, 60, 60], "late replies are compared, too"


def test_a_float_runtime_has_actions_alone(recording: Recording) -> None:
    (row,) = replay(recording, "run.mcap", BUNDLE, FakeFloat("torch")).rows
    expected = np.abs(recording.observation[:, :2] - recording.action).max() / BUNDLE.output_quant.scale
    assert (row.what, row.values) == ("action", 120)
    assert row.max_lsb == pytest.approx(expected, abs=1e-3)


def test_a_float_runtime_without_an_answer_is_an_error(recording: Recording) -> None:
    with pytest.raises(NonFiniteInputError, match="torch"):
        replay(recording, "run.mcap", BUNDLE, FakeFloat("torch", shift=float("nan")))


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_board(recording: Recording, wrong: int) -> None:
    runtime = FakeInt8("policy", wrong={2: wrong}, above=50)

    def policy(values: RawArray) -> RawArray:
        return runtime.infer_raw(values)

    with fake_board(FakeFirmware(fake_info(BUNDLE), policy), BUNDLE) as board:
        result = replay(recording, "run.mcap", BUNDLE, board)
    assert result.equal == (wrong == 0)
    assert rows_of(result)["output_int8"].differing == wrong * np.count_nonzero(recording.input_int8[:, 0] > 50)
    assert (result.replayed_by["name"], result.replayed_by["kind"]) == ("fake", "board")


def test_a_board_that_quantizes_otherwise(recording: Recording) -> None:
    firmware = FakeFirmware(fake_info(BUNDLE), FakeInt8("policy").infer_raw)
    with fake_board(firmware, BUNDLE) as board:
        firmware.info = replace(firmware.info, input_zero_point=firmware.info.input_zero_point + 20)
        rows = rows_of(replay(recording, "run.mcap", BUNDLE, board))
    assert rows["input_int8"].differing > 300
    assert rows["output_int8"].differing == 0


def test_a_recording_of_another_model_is_refused(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "run.mcap", BUNDLE, FakeInt8("tflm"), steps=2, recorded_with="f" * 12)
    with pytest.raises(RecordingMismatchError, match=r"f{12}.*is 0{12}") as caught:
        replay(read_recording(path), str(path), BUNDLE, FakeInt8("tflm"))
    assert "hil run" in caught.value.hint


def test_a_recording_without_a_reply_is_no_proof(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "run.mcap", BUNDLE, FakeInt8("tflm"), steps=4, held=range(4))
    with pytest.raises(RecordingError, match="no step with a reply"):
        replay(read_recording(path), str(path), BUNDLE, FakeInt8("tflm"))
