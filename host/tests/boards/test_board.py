from dataclasses import replace

import numpy as np
import pytest

from balance_hil.boards import Board
from balance_hil.errors import BoardRebootedError, BoardStatusError, LinkError, ReplyTimeoutError, UsageError
from balance_hil.protocol import messages
from balance_hil.quantize import dequantize, quantize
from balance_hil.testing.fake_board import FakeFirmware, FakeLink, fake_board, fake_info, linear_policy

GAINS = [[2, 1, 0, 0, -0.2, -0.3], [2, 1, 0, 0, -0.2, 0.3]]


@pytest.fixture
def firmware(linear_bundle):
    return FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle))


@pytest.fixture
def board(firmware, linear_bundle):
    with fake_board(firmware, linear_bundle) as board:
        yield board


def observations(count):
    return np.random.default_rng(5).uniform(-1, 1, (count, 6)).astype(np.float32)


def test_infer(board, firmware):
    observation = observations(1)[0]
    action = board.infer(observation)
    expected = quantize(observation, firmware.input_quant)
    assert np.array_equal(action.input, expected)
    assert np.array_equal(action.output, firmware.policy(expected))
    assert np.array_equal(action.action, dequantize(action.output, firmware.output_quant))
    assert np.array_equal(board.infer_raw(expected).output, action.output)


def test_pipelined_batch_keeps_the_order(board, firmware):
    inputs = quantize(observations(300), firmware.input_quant)
    outputs = np.stack([reply.output for reply in board.infer_raw_batch(inputs)])
    assert np.array_equal(outputs, np.stack([firmware.policy(row) for row in inputs]))
    assert board.infer_batch(np.zeros((0, 6), np.float32)) == []


def test_pipeline_never_has_more_in_flight_than_the_board_can_take(firmware, linear_bundle):
    frame_bytes = 17  # type, sequence, count, 6 values, CRC, COBS and delimiter

    class CountingLink(FakeLink):
        in_flight = 0
        most = 0

        def write(self, data):
            self.in_flight += len(data)
            self.most = max(self.most, self.in_flight)
            super().write(data)

        def read(self, timeout_s):
            data = super().read(timeout_s)
            if data:
                self.in_flight -= frame_bytes
            return data

    firmware.info = replace(firmware.info, rx_buffer=100)
    link = CountingLink(firmware)
    board = Board(link, linear_bundle)
    link.in_flight = link.most = 0
    board.infer_raw_batch(np.zeros((50, 6), np.int8))
    assert link.most <= 100
    assert link.most > 50, "nothing was in flight at the same time"


def test_as_runtime(board, firmware, linear_bundle):
    runtime = board.as_runtime()
    rows = observations(20)
    inputs = quantize(rows, linear_bundle.input_quant)
    expected = np.stack([firmware.policy(row) for row in inputs])
    assert runtime.name == "board"
    assert np.array_equal(runtime.infer_raw_batch(inputs), expected)
    assert np.array_equal(runtime.act_batch(rows), dequantize(expected, linear_bundle.output_quant))
    assert runtime.act_batch(rows[:0]).shape == (0, 2)
    runtime.close()
    assert board.echo(b"still there") == b"still there"


def test_layers(linear_bundle):
    info = replace(fake_info(linear_bundle), n_ops=2)
    policy = linear_policy(GAINS, linear_bundle)
    firmware = FakeFirmware(info, policy, layers=[lambda row: row + np.int8(1), policy])
    board = fake_board(firmware)
    inputs = quantize(observations(9), linear_bundle.input_quant)
    layers = board.layers_raw_batch(inputs)
    assert [(layer.op, layer.operator) for layer in layers] == [(0, "operator 0"), (1, "operator 1")]
    assert np.array_equal(layers[0].values, inputs + np.int8(1))
    assert np.array_equal(layers[1].values, np.stack([policy(row) for row in inputs]))
    assert np.array_equal(board.tensor(1), policy(inputs[-1]))


def test_profile_names_the_operators_and_their_share(linear_bundle):
    info = replace(fake_info(linear_bundle), n_ops=2)
    profile = fake_board(FakeFirmware(info, linear_policy(GAINS, linear_bundle))).profile()
    assert (profile.unit, profile.repeats, profile.total, profile.engine) == ("us", 1000, 10.0, 6.25)
    assert profile.parts == {
        "decode": 1.5, "quantize": 0.75, "0 operator 0": 3.0, "1 operator 1": 3.0, "dequantize": 0.25, "encode": 1.25,
    }  # fmt: skip


def test_profile_of_an_engine_that_runs_only_whole_models(firmware, monkeypatch):
    board = fake_board(firmware)
    reply = messages.ProfileResult(5, 4.0, 1.0, 0.5, 2.0, np.zeros(0, np.float32), 0.25, 0.25)
    monkeypatch.setattr(board, "request", lambda *_: reply)
    assert board.profile().parts == {"decode": 1.0, "quantize": 0.5, "engine": 2.0, "dequantize": 0.25, "encode": 0.25}


@pytest.mark.parametrize(
    "wrong", [{"engine_us": float("nan")}, {"total_us": -1.0}, {"operators_us": np.ones(9, np.float32)}], ids=str
)
def test_an_impossible_profile_is_an_error(firmware, monkeypatch, wrong):
    board = fake_board(firmware)
    sound = messages.ProfileResult(5, 4.0, 1.0, 0.5, 2.0, np.ones(1, np.float32), 0.25, 0.25)
    monkeypatch.setattr(board, "request", lambda *_: replace(sound, **wrong))
    with pytest.raises(LinkError, match="impossible profile"):
        board.profile()


def test_small_requests(board):
    assert board.echo(bytes(range(256))) == bytes(range(256))
    assert board.set_watchdog(250) == 250
    assert board.stats().inferences == 0
    assert board.bad_frames == 0


def test_a_refusal_carries_the_status_and_a_hint(board):
    with pytest.raises(BoardStatusError, match="refused Infer: non_finite, detail 2") as caught:
        board.infer(np.array([0, 0, np.nan, 0, 0, 0], np.float32))
    assert (caught.value.status, caught.value.detail) == ("non_finite", 2)
    assert "NaN" in caught.value.hint
    with pytest.raises(BoardStatusError, match="wrong_count"):
        board.infer(np.zeros(5, np.float32))
    with pytest.raises(BoardStatusError, match="no_inference_yet"):
        board.tensor(0)
    with pytest.raises(BoardStatusError, match="no_golden_vectors"):
        board.self_test()
    board.infer_raw(np.zeros(6, np.int8))
    with pytest.raises(BoardStatusError, match="no_such_operator"):
        board.tensor(77)


def test_a_lost_reply_times_out_and_its_late_twin_is_not_taken_for_the_next(firmware, board):
    firmware.lose = {0}
    with pytest.raises(ReplyTimeoutError, match="did not answer Infer within"):
        board.request(messages.Infer(observations(1)[0]), timeout_s=0.01)
    firmware.delay_s = lambda number: 0.03 if number == 1 else 0.0
    with pytest.raises(ReplyTimeoutError):
        board.request(messages.Infer(observations(1)[0]), timeout_s=0.001)
    inputs = np.array([1, 2, 3, 4, 5, 6], np.int8)
    assert np.array_equal(board.infer_raw(inputs).input, inputs)
    assert board.unexpected_frames == 1


def test_a_reboot_in_place_of_a_reply(firmware, board):
    firmware.reboot_at = {1}
    board.infer_raw(np.zeros(6, np.int8))
    with pytest.raises(BoardRebootedError, match="restarted before it answered InferInt8"):
        board.infer_raw(np.zeros(6, np.int8))
    with pytest.raises(BoardStatusError, match="not_identified"):
        board.infer_raw(np.zeros(6, np.int8))
    board.identify()
    board.infer_raw(np.zeros(6, np.int8))


def test_reset_identifies_the_board_again(firmware, board):
    assert board.reset().model_id == firmware.info.model_id
    assert firmware.boots == 2
    board.infer_raw(np.zeros(6, np.int8))


def test_the_power_of_a_physical_board_is_not_ours(board):
    with pytest.raises(UsageError, match="cannot operate"):
        board.power_cycle()


def test_closing_twice(board):
    board.close()
    board.close()
