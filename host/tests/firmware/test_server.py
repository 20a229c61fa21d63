"""The protocol server on a machine whose clock stands still: requests in, replies out."""

from __future__ import annotations

import functools
import operator
import zlib
from dataclasses import dataclass

import numpy as np
import pytest

from balance_hil.boards.pieces import TENSOR_PIECE
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder, Frame, encode, seal
from balance_hil.protocol.messages import Status
from balance_hil.protocol.wire import Message
from balance_hil.quantize import Normalization, QuantParams, quantize

from .probe import Probe

INPUT = messages.InferInt8(np.array([10, 20, 30], np.int8))
PROFILE = messages.Profile(np.array([1.0, -2.25, 0.25], np.float32))
REQUESTS = [
    messages.Infer(np.zeros(3, np.float32)),
    INPUT,
    messages.Tensor(0, 0),
    messages.SelfTest(),
    PROFILE,
    messages.InputData(0, INPUT.input),
    messages.ObservationData(1, np.zeros(2, np.float32)),
    messages.InferStored(zlib.crc32(INPUT.input.tobytes())),
    messages.SetWatchdog(5),
    messages.SetTextLine(1),
]


@dataclass
class Happened:
    sent: bytes
    events: list[str]  # everything else: "apply ...", "safe", "reboot"

    def messages(self) -> list[Message]:
        return [frame.message for frame in self.frames()]

    def frames(self) -> list[Frame]:
        return Decoder().feed(self.sent)


class FakeBoard:
    def __init__(self, probe: Probe, watchdog_ms: int = 100, load_status: Status = Status.OK) -> None:
        self._probe = probe
        self.boot = self._run("server", watchdog_ms, int(load_status))

    def _run(self, *words: object) -> Happened:
        lines = self._probe.ask(*words)
        sent = b"".join(bytes.fromhex(line.split(" ")[1]) for line in lines if line.startswith("sent "))
        return Happened(sent, [line for line in lines if not line.startswith("sent ")])

    def feed(self, data: bytes) -> Happened:
        return self._run("feed", data.hex())

    def ask(self, *requests: Message) -> list[Message]:
        return self.feed(b"".join(encode(r, seq) for seq, r in enumerate(requests))).messages()

    def hello(self, nonce: int = 0xCAFE) -> messages.Info:
        (info,) = self.ask(messages.Hello(nonce))
        assert isinstance(info, messages.Info)
        return info

    def stats(self) -> messages.Stats:
        (stats,) = self.ask(messages.StatsRequest())
        assert isinstance(stats, messages.Stats)
        return stats

    def idle(self, time_us: int) -> Happened:
        self.set("time", time_us)
        return self._run("idle")

    def next_ms(self) -> int:
        return int(self._run("next").events[0])

    def set(self, *words: object) -> None:
        self._probe.ask(*words)


@pytest.fixture
def board(probe: Probe) -> FakeBoard:
    return FakeBoard(probe)


@pytest.fixture
def identified(board: FakeBoard) -> FakeBoard:
    board.hello()
    return board


def error(status: Status, detail: int, request: int) -> messages.Error:
    return messages.Error(status, detail, request)


def test_boot_says_ready_once_behind_a_delimiter_and_is_safe(board: FakeBoard) -> None:
    assert board.boot.sent.startswith(b"\x00")
    assert board.boot.sent.endswith(b"\x00\n"), "READY ends a line, for hosts that read lines"
    assert board.boot.frames() == [Frame(0, messages.Ready(messages.PROTOCOL_VERSION, messages.SCHEMA_CRC, 0))]
    assert board.boot.events == ["safe"]
    assert board.stats().safe_state == 1


def test_hello_is_answered_by_who_the_board_is(board: FakeBoard) -> None:
    assert board.hello() == messages.Info(
        protocol=messages.PROTOCOL_VERSION,
        schema_crc=messages.SCHEMA_CRC,
        nonce=0xCAFE,
        firmware_commit="0123456789ab",
        board="fake board",
        processor="none",
        engine="fake",
        engine_version="1",
        engine_status=Status.OK,
        engine_detail=0,
        engine_message="",
        model_id="cafe00000000",
        normalization_crc=0,
        n_obs=3,
        n_act=2,
        n_ops=3,
        input_scale=0.5,
        input_zero_point=1,
        output_scale=0.25,
        output_zero_point=-3,
        n_self_test=3,
        arena_used=100,
        arena_size=4096,
        clock_hz=600,
        rx_buffer=1,
        max_payload=messages.MAX_PAYLOAD,
        max_text=messages.MAX_TEXT,
        watchdog_ms=100,
        stack=2,
        ram=3,
        flash=4,
        uploaded=0,
        upload_size=1024,
        element_type=0,
    )


def test_infer_quantizes_infers_acts_and_dequantizes(identified: FakeBoard) -> None:
    happened = identified.feed(encode(messages.Infer(np.array([1.0, -2.25, 0.25], np.float32)), 41))
    # x / 0.5 rounded half away + 1 = [3, -4 (tie), 2 (tie)]; the fake engine adds the first two and negates the third.
    expected = messages.Action(
        status=Status.OK,
        input=np.array([3, -4, 2], np.int8),
        output=np.array([-1, -2], np.int8),
        action=np.array([0.5, 0.25], np.float32),
        inference_us=40,
        total_us=40,
    )
    assert happened.frames() == [Frame(41, expected)]
    assert happened.events == ["apply 0.5 0.25"]


def test_infer_int8_skips_the_quantizer(identified: FakeBoard) -> None:
    (action,) = identified.ask(INPUT)
    assert isinstance(action, messages.Action)
    assert (action.input.tolist(), action.output.tolist()) == ([10, 20, 30], [30, -30])


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda m: type(m).__name__)
def test_nothing_but_talk_before_hello(board: FakeBoard, request_: Message) -> None:
    assert board.ask(request_) == [error(Status.NOT_IDENTIFIED, 0, request_.TYPE)]
    assert board.ask(messages.Echo(b"hi")) == [messages.EchoReply(b"hi")]
    board.hello()
    assert not isinstance(board.ask(INPUT, request_)[1], messages.Error)


def test_several_requests_in_flight_are_answered_in_order(identified: FakeBoard) -> None:
    requests = [messages.Echo(bytes([n])) for n in range(50)]
    happened = identified.feed(b"".join(encode(r, 1000 + n) for n, r in enumerate(requests)))
    assert happened.frames() == [Frame(1000 + n, messages.EchoReply(r.data)) for n, r in enumerate(requests)]


@pytest.mark.parametrize("filler", [b"\x01", b"\x00", b"\x01\x00"])
def test_replies_of_every_length_are_framed_right(board: FakeBoard, filler: bytes) -> None:
    """Around the 254 bytes of a COBS block above all."""
    for size in (*range(235, 265), *range(490, 515), messages.MAX_PAYLOAD - 2):
        data = (filler * size)[:size]
        assert board.ask(messages.Echo(data)) == [messages.EchoReply(data)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_observation_is_refused_with_its_index(identified: FakeBoard, value: float) -> None:
    refused = identified.feed(encode(messages.Infer(np.array([0, 0, value], np.float32)), 1))
    assert refused.messages() == [error(Status.NON_FINITE, 2, messages.Infer.TYPE)]
    assert refused.events == []
    assert identified.stats().safe_state == 1


@pytest.mark.parametrize("count", [0, 2, 4, 255])
def test_wrong_number_of_elements_is_refused_with_the_right_one(identified: FakeBoard, count: int) -> None:
    assert identified.ask(messages.Infer(np.zeros(count, np.float32)), messages.InferInt8(np.zeros(count, np.int8))) == [
        error(Status.WRONG_COUNT, 3, messages.Infer.TYPE),
        error(Status.WRONG_COUNT, 3, messages.InferInt8.TYPE),
    ]


@pytest.mark.parametrize("kind", sorted(messages.REPLY_TYPES))
@pytest.mark.parametrize("excess", [b"\x01\x02\x03", b"\xff\xff\x01"])
def test_payload_of_another_layout_is_refused_with_its_length(identified: FakeBoard, kind: int, excess: bytes) -> None:
    assert identified.feed(seal(kind, 3, excess)).frames() == [Frame(3, error(Status.WRONG_LENGTH, len(excess), kind))]


@pytest.mark.parametrize("kind", [0xB0, messages.Ready.TYPE, messages.Action.TYPE, 0xFF])
def test_unknown_type_is_refused(board: FakeBoard, kind: int) -> None:
    payload = messages.Ready(messages.PROTOCOL_VERSION, messages.SCHEMA_CRC, 0).pack()
    assert board.feed(seal(kind, 9, payload)).frames() == [Frame(9, error(Status.UNKNOWN_TYPE, kind, kind))]


def test_oversized_frame_is_refused_with_the_limit(board: FakeBoard) -> None:
    reply = board.feed(seal(messages.Echo.TYPE, 0x1234, bytes([1]) * 2000)).frames()
    assert reply == [Frame(0x1234, error(Status.OVERSIZED, messages.MAX_PAYLOAD, messages.Echo.TYPE))]


def test_damaged_frames_are_counted_and_not_answered(board: FakeBoard) -> None:
    frame = bytearray(encode(messages.Echo(b"abc"), 1))
    frame[frame.index(b"abc")] ^= 0x10
    assert board.feed(bytes(frame) + b"\xf0\x90\x90\x00").sent == b""
    stats = board.stats()
    assert (stats.crc_errors, stats.framing_errors, stats.dropped_bytes) == (1, 1, len(frame) - 1 + 3)


def test_tensor_of_the_last_inference(identified: FakeBoard) -> None:
    assert identified.ask(messages.Tensor(0, 0)) == [error(Status.NO_INFERENCE_YET, 0, messages.Tensor.TYPE)]
    identified.ask(INPUT)
    assert identified.ask(messages.Tensor(0, 0)) == [messages.TensorData(0, 0, 3, INPUT.input)]
    first, last, behind = identified.ask(*(messages.Tensor(1, offset) for offset in (0, TENSOR_PIECE, 1100)))
    assert (first.size, last.size, len(first.values), len(last.values)) == (1100, 1100, TENSOR_PIECE, 1100 - TENSOR_PIECE)
    assert len(first.pack()) == messages.MAX_PAYLOAD
    assert np.concatenate([first.values, last.values]).tolist() == [i % 128 for i in range(1100)]
    assert behind == error(Status.WRONG_OFFSET, 1100, messages.Tensor.TYPE)
    assert identified.ask(messages.Tensor(2, 0)) == [error(Status.NOT_SUPPORTED, 77, messages.Tensor.TYPE)]
    assert identified.ask(messages.Tensor(3, 0)) == [error(Status.NO_SUCH_OPERATOR, 3, messages.Tensor.TYPE)]


def crc(values: np.ndarray) -> int:
    return zlib.crc32(values.tobytes())


def test_an_input_in_pieces_is_run_and_its_output_read(identified: FakeBoard) -> None:
    pieces = messages.InputData(2, INPUT.input[2:]), messages.InputData(0, INPUT.input[:2])
    stored = [messages.TensorData(messages.INPUT_TENSOR, piece.offset, 3, piece.values) for piece in pieces]
    assert identified.ask(*pieces) == stored
    assert identified.stats().safe_state == 1, "an input moves nothing"
    output, action = np.array([30, -30], np.int8), np.array([8.25, -6.75], np.float32)
    happened = identified.feed(encode(messages.InferStored(crc(INPUT.input)), 9))
    assert happened.frames() == [Frame(9, messages.Inferred(crc(INPUT.input), crc(output), crc(action), 40, 40))]
    assert happened.events == ["apply 8.25 -6.75"]
    ends = messages.INPUT_TENSOR, messages.OUTPUT_TENSOR, messages.ACTION_TENSOR
    values = [INPUT.input, output, action.view(np.int8)]
    answers = identified.ask(*(messages.Tensor(op, 0) for op in ends))
    assert answers == [messages.TensorData(op, 0, len(v), v) for op, v in zip(ends, values, strict=True)]
    stats = identified.stats()
    assert (stats.inferences, stats.safe_state) == (1, 0)


@pytest.mark.parametrize("normalized", [False, True])
def test_an_observation_in_pieces_is_converted_as_a_whole_one_is(board: FakeBoard, normalized: bool) -> None:
    board.set("normalized", "yes" if normalized else "no")
    board = FakeBoard(board._probe)
    board.hello()
    whole = PROFILE.observation
    (action,) = board.ask(messages.Infer(whole))
    board.ask(messages.InputData(0, np.full(3, 77, np.int8)))
    answers = board.ask(messages.ObservationData(1, whole[1:]), messages.ObservationData(0, whole[:1]))
    board.set("normalized", "no")
    assert isinstance(action, messages.Action)
    assert [list(answer.values) for answer in answers] == [list(action.input[1:]), list(action.input[:1])]
    assert board.ask(messages.Tensor(messages.INPUT_TENSOR, 0))[0].values.tolist() == action.input.tolist()


def test_a_piece_beyond_the_input_or_not_finite_changes_nothing(identified: FakeBoard) -> None:
    identified.ask(messages.InputData(0, INPUT.input))
    beyond = [
        messages.InputData(2, INPUT.input),
        messages.InputData(4, INPUT.input[:0]),
        messages.InputData(2**32 - 1, INPUT.input),
    ]
    beyond += [messages.ObservationData(3, PROFILE.observation), messages.ObservationData(0, np.zeros(254, np.float32))]
    assert identified.ask(*beyond) == [error(Status.WRONG_OFFSET, 3, request.TYPE) for request in beyond]
    damaged = messages.ObservationData(1, np.array([1.0, np.nan], np.float32))
    assert identified.ask(damaged) == [error(Status.NON_FINITE, 2, damaged.TYPE)]
    assert identified.ask(messages.Tensor(messages.INPUT_TENSOR, 0))[0].values.tolist() == INPUT.input.tolist()


def test_an_input_of_another_crc_is_not_run(identified: FakeBoard) -> None:
    identified.ask(messages.InputData(0, INPUT.input))
    wrong = messages.InferStored(crc(INPUT.input) ^ 1)
    happened = identified.feed(encode(wrong, 1))
    assert happened.messages() == [error(Status.UPLOAD_DAMAGED, crc(INPUT.input), wrong.TYPE)]
    assert happened.events == []
    assert identified.stats().inferences == 0
    for op in (messages.OUTPUT_TENSOR, messages.ACTION_TENSOR):
        assert identified.ask(messages.Tensor(op, 0)) == [error(Status.NO_INFERENCE_YET, 0, messages.Tensor.TYPE)]


def test_the_stored_input_can_be_profiled(identified: FakeBoard) -> None:
    (result,) = identified.ask(messages.InputData(0, INPUT.input), messages.Profile(np.zeros(0, np.float32)))[1:]
    assert isinstance(result, messages.ProfileResult)
    assert (result.total_us, result.engine_us, result.operators_us.tolist()) == (40, 40, [5, 25, 8])
    assert identified.ask(messages.Tensor(messages.OUTPUT_TENSOR, 0))[0].values.tolist() == [30, -30]


def test_self_test_counts_the_vectors_that_differ(identified: FakeBoard) -> None:
    assert identified.ask(messages.SelfTest()) == [messages.SelfTestResult(Status.OK, count=3, mismatches=1, first_mismatch=1)]


def test_profile_times_an_inference_and_its_parts(identified: FakeBoard) -> None:
    """Only the engine takes time here: 40 us an inference; 5, 25 and 8 us an operator."""
    happened = identified.feed(encode(PROFILE, 7))
    (frame,) = happened.frames()
    assert (frame.seq, happened.events) == (7, [])
    result = frame.message
    assert isinstance(result, messages.ProfileResult)
    assert result.repeats == 20_000 // (3 * 40), "about 20 ms: as a whole, the parts, and the operators"
    assert (result.total_us, result.engine_us, result.operators_us.tolist()) == (40, 40, [5, 25, 8])
    assert (result.decode_us, result.quantize_us, result.dequantize_us, result.encode_us) == (0, 0, 0, 0)
    stats = identified.stats()
    assert (stats.inferences, stats.inference_max_us) == (0, 0), "it does not count"
    assert identified.ask(messages.Tensor(0, 0)) == [messages.TensorData(0, 0, 3, np.array([3, -4, 2], np.int8))]


def test_profile_leaves_the_line_in_step(identified: FakeBoard) -> None:
    """It decodes a frame of its own in the decoder that holds its request, and others behind it."""
    asked = [messages.Echo(b"before"), PROFILE, messages.Echo(b"behind"), INPUT]
    before, result, behind, action = identified.ask(*asked)
    assert (before, behind) == (messages.EchoReply(b"before"), messages.EchoReply(b"behind"))
    assert isinstance(result, messages.ProfileResult)
    assert isinstance(action, messages.Action)
    assert action.output.tolist() == [30, -30]
    stats = identified.stats()
    assert (stats.requests, stats.crc_errors, stats.framing_errors, stats.dropped_bytes) == (6, 0, 0, 0)


def test_profile_of_a_slow_engine_runs_each_part_once(identified: FakeBoard) -> None:
    identified.set("engine_us", 50_000)
    (result,) = identified.ask(PROFILE)
    assert isinstance(result, messages.ProfileResult)
    assert (result.repeats, result.engine_us) == (1, 50_000)


def test_profile_under_a_clock_that_stands_still_ends(identified: FakeBoard) -> None:
    identified.set("engine_us", 0)
    (result,) = identified.ask(PROFILE)
    assert isinstance(result, messages.ProfileResult)
    assert (result.repeats, result.total_us) == (1000, 0)


def test_profile_brings_the_safe_state_and_an_observation_ends_it(identified: FakeBoard) -> None:
    identified.ask(INPUT)
    assert identified.feed(encode(PROFILE, 1)).events == ["safe"]
    stats = identified.stats()
    assert (stats.safe_state, stats.watchdog_trips) == (1, 0)
    assert identified.feed(b"1.0,-2.25,0.25\n").events == [], "a text line does not move the actuators"
    assert identified.feed(encode(INPUT, 2)).events == ["apply 8.25 -6.75"]
    assert identified.stats().safe_state == 0


@pytest.mark.parametrize(
    ("observation", "status", "detail"), [([1, 2], Status.WRONG_COUNT, 3), ([0, np.nan, 0], Status.NON_FINITE, 1)]
)
def test_profile_refuses_what_infer_refuses(identified: FakeBoard, observation: list[float], status: Status, detail: int) -> None:
    identified.ask(INPUT)
    happened = identified.feed(encode(messages.Profile(np.array(observation, np.float32)), 1))
    assert happened.messages() == [error(status, detail, messages.Profile.TYPE)]
    assert happened.events == [], "refused: the actuators keep their action"


def test_an_engine_that_misses_its_golden_vectors_at_start_up_serves_nothing(probe: Probe) -> None:
    board = FakeBoard(probe, load_status=Status.SELF_TEST_FAILED)
    info = board.hello()
    assert (info.engine_status, info.engine_detail) == (Status.SELF_TEST_FAILED, 1)
    assert "golden vectors" in info.engine_message
    asked = [messages.Infer(np.zeros(3, np.float32)), INPUT, messages.Tensor(0, 0), messages.SelfTest(), PROFILE]
    assert board.ask(*asked) == [error(Status.SELF_TEST_FAILED, 1, request.TYPE) for request in asked]
    assert board.stats().inferences == 0


@pytest.mark.parametrize(
    "status", [Status.MODEL_INVALID, Status.MODEL_NOT_INT8, Status.UNSUPPORTED_OPERATOR, Status.ARENA_TOO_SMALL]
)
def test_model_that_does_not_load_is_reported_and_every_inference_refused(probe: Probe, status: Status) -> None:
    board = FakeBoard(probe, load_status=status)
    info = board.hello()
    assert (info.engine_status, info.engine_detail, info.engine_message) == (status, 77, "as the test wants it")
    asked = [messages.Infer(np.zeros(3, np.float32)), INPUT, messages.Tensor(0, 0), messages.SelfTest(), PROFILE]
    assert board.ask(*asked) == [error(status, 77, request.TYPE) for request in asked]
    assert board.feed(b"1,2,3\n").sent == f"error: {status.name.lower()}\n".encode()


def test_board_without_a_model(probe: Probe) -> None:
    board = FakeBoard(probe, load_status=Status.NO_MODEL)
    assert board.hello().engine_status == Status.NO_MODEL
    assert board.ask(INPUT) == [error(Status.NO_MODEL, 0, INPUT.TYPE)]


@pytest.mark.parametrize("status", [Status.INFERENCE_FAILED, Status.ENGINE_LOST])
def test_failed_inference_is_an_error_and_leaves_no_tensor(identified: FakeBoard, status: Status) -> None:
    identified.ask(INPUT)
    identified.set("engine", int(status))
    assert identified.ask(INPUT, messages.SelfTest(), PROFILE) == [
        error(status, 77, request.TYPE) for request in (INPUT, messages.SelfTest(), PROFILE)
    ]
    identified.set("engine", 0)
    assert identified.ask(messages.Tensor(0, 0)) == [error(Status.NO_INFERENCE_YET, 0, messages.Tensor.TYPE)]


def test_text_line_needs_no_handshake(board: FakeBoard) -> None:
    happened = board.feed(b"1.0,-2.25,0.25\n")
    assert (happened.sent, happened.events) == (b"0.5,0.25\n", ["apply 0.5 0.25"])
    assert board.stats().inferences == 1


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"1,2\n", "wrong_count"),
        (b"1,2,3,4\r\n", "wrong_count"),
        (b"1,2,nan\n", "non_finite"),
        (b"1,2,1e39\n", "non_finite"),
        (b"help\n", "malformed_line"),
        (b"1" * (messages.MAX_TEXT + 1) + b"\n", "oversized"),
    ],
)
def test_bad_text_line_is_answered_by_a_line(board: FakeBoard, line: bytes, status: str) -> None:
    assert board.feed(line).sent == f"error: {status}\n".encode()
    assert board.stats().errors == 1


def test_a_text_host_reads_its_first_answer_behind_the_line_of_ready(board: FakeBoard) -> None:
    said = board.boot.sent + board.feed(b"1.0,-2.25,0.25\n").sent
    assert said.splitlines(keepends=True)[-1] == b"0.5,0.25\n"
    assert board.feed(encode(messages.Echo(b""), 1)).sent.startswith(b"\x00"), "the next frame is found behind the line"


def test_frame_after_text_is_preceded_by_a_delimiter_and_none_after_a_frame(board: FakeBoard) -> None:
    board.feed(b"1,2,3\n")
    echo = encode(messages.Echo(b""), 1)
    assert board.feed(echo).sent == b"\x00" + encode(messages.EchoReply(b""), 1)
    assert board.feed(echo).sent == encode(messages.EchoReply(b""), 1)


def test_line_and_line_end_may_arrive_apart(board: FakeBoard) -> None:
    assert board.feed(b"1.0,-2.25,0.25").sent == b""
    assert board.idle(10_000_000).events == []
    assert board.feed(b"\n").sent == b"0.5,0.25\n"


def test_watchdog_goes_to_the_safe_state_once_and_back_with_the_next_observation(identified: FakeBoard) -> None:
    assert identified.next_ms() == 2**32 - 1
    identified.ask(INPUT)  # the inference takes 40 us
    assert identified.next_ms() == 100
    assert identified.idle(100_039).events == []
    assert identified.next_ms() == 1
    assert identified.idle(100_040).events == ["safe"]
    assert identified.idle(900_000).events == []
    stats = identified.stats()
    assert (stats.safe_state, stats.watchdog_trips, stats.uptime_ms) == (1, 1, 900)
    identified.ask(INPUT)
    stats = identified.stats()
    assert (stats.safe_state, stats.watchdog_trips) == (0, 1)


def test_observation_that_comes_too_late_counts_as_a_trip(identified: FakeBoard) -> None:
    identified.ask(INPUT)
    identified.set("time", 500_000)
    assert identified.feed(encode(INPUT, 1)).events == ["safe", "apply 8.25 -6.75"]
    assert identified.stats().watchdog_trips == 1


def test_other_requests_do_not_feed_the_watchdog(identified: FakeBoard) -> None:
    identified.ask(INPUT)
    identified.set("time", 90_000)
    identified.ask(messages.Echo(b""), messages.StatsRequest())
    assert identified.idle(100_040).events == ["safe"]


def test_watchdog_time_can_be_set_and_switched_off(identified: FakeBoard) -> None:
    assert identified.ask(INPUT, messages.SetWatchdog(1000))[1] == messages.Watchdog(1000)
    assert identified.idle(1_000_039).events == []
    assert identified.hello().watchdog_ms == 1000, "the same session"
    assert identified.ask(messages.SetWatchdog(0)) == [messages.Watchdog(0)]
    assert identified.next_ms() == 2**32 - 1
    assert identified.idle(10**12).events == []


def test_settings_end_with_their_session(identified: FakeBoard) -> None:
    identified.ask(messages.SetWatchdog(0), messages.SetTextLine(0))
    info = identified.hello()
    assert (info.watchdog_ms, info.max_text) == (0, 0), "HELLO with the same nonce is the same session"
    info = identified.hello(nonce=1)
    assert (info.watchdog_ms, info.max_text) == (100, messages.MAX_TEXT)


def test_text_lines_can_be_switched_off_and_on(identified: FakeBoard) -> None:
    assert identified.ask(messages.SetTextLine(0)) == [messages.TextLine(0)]
    happened = identified.feed(b"1,2,3\n")
    assert (happened.sent.lstrip(b"\0"), happened.events) == (b"error: text_line_off\n", [])
    assert identified.ask(messages.SetTextLine(1)) == [messages.TextLine(messages.MAX_TEXT)]
    assert identified.feed(b"1.0,-2.25,0.25\n").sent == b"0.5,0.25\n"


def test_a_line_does_not_end_the_safe_state_of_a_session(identified: FakeBoard) -> None:
    identified.ask(INPUT)
    assert identified.idle(200_000).events == ["safe"]
    happened = identified.feed(b"1.0,-2.25,0.25\n")
    assert (happened.sent, happened.events) == (b"0.5,0.25\n", []), "answered, and not acted upon"
    assert identified.stats().safe_state == 1
    identified.hello(nonce=2)
    assert identified.feed(b"1.0,-2.25,0.25\n").events == [], "a new session does not end it either"
    identified.ask(INPUT)
    assert identified.feed(b"1.0,-2.25,0.25\n").events == ["apply 0.5 0.25"]


def test_a_line_ends_the_safe_state_that_no_session_brought(board: FakeBoard) -> None:
    line = b"1.0,-2.25,0.25\n"
    assert board.feed(line).events == ["apply 0.5 0.25"]
    assert board.idle(200_000).events == ["safe"]
    assert board.feed(line).events == ["apply 0.5 0.25"]


def with_checksum(line: bytes) -> bytes:
    return line + b"*%02X" % functools.reduce(operator.xor, line, 0)


def test_a_line_with_a_checksum_is_answered_by_one_with_a_checksum(board: FakeBoard) -> None:
    assert board.feed(with_checksum(b"1.0,-2.25,0.25") + b"\r\n").sent == with_checksum(b"0.5,0.25").lower() + b"\n"
    assert board.feed(with_checksum(b"1,2") + b"\n").sent == with_checksum(b"error: wrong_count").lower() + b"\n"


@pytest.mark.parametrize("end", [b"*01", b"*0g", b"*zz", b"* 4"])
def test_a_line_whose_checksum_is_wrong_is_refused(board: FakeBoard, end: bytes) -> None:
    happened = board.feed(b"1.0,-2.25,0.25" + end + b"\n")
    assert happened.sent == with_checksum(b"error: line_damaged").lower() + b"\n"
    assert happened.events == []


@pytest.mark.parametrize("line", [b"1,2,3*", b"1,2,3*1", b"1*,2,3", b"*"])
def test_a_star_elsewhere_is_no_checksum(board: FakeBoard, line: bytes) -> None:
    assert board.feed(line + b"\n").sent == b"error: malformed_line\n"


def test_a_long_line_of_numbers_is_read(board: FakeBoard) -> None:
    line = b",".join([b"0." + b"0" * 1000 + b"1e1001"] * 3)
    assert board.feed(line + b"\n").sent == board.feed(b"1,1,1\n").sent


class TestNormalization:
    """Mean 1, -2, 0.25, factor 0.5, 3, 1e30, clip 2: see firmware/test/probe/fake_board.h."""

    @pytest.fixture
    def normalized(self, probe: Probe) -> FakeBoard:
        probe.ask("normalized", "yes")
        try:
            board = FakeBoard(probe)
        finally:
            probe.ask("normalized", "no")
        return board

    BY = Normalization(np.array([1, -2, 0.25], np.float32), np.array([0.5, 3, 1e30], np.float32), 2.0)

    def test_it_comes_before_quantization(self, normalized: FakeBoard) -> None:
        assert normalized.hello().normalization_crc == zlib.crc32(self.BY.to_bytes())
        for values in ([1, -2, 0.25], [3, -1.5, 0.2500001], [-9, -2.0001, 3.4e38], [3.4e38, -3.4e38, 0]):
            observation = np.array(values, np.float32)
            (action,) = normalized.ask(messages.Infer(observation))
            assert np.array_equal(action.input, quantize(observation, QuantParams(0.5, 1), self.BY)), values

    def test_raw_inputs_are_not_normalized(self, normalized: FakeBoard) -> None:
        normalized.hello()
        assert normalized.ask(INPUT)[0].input.tolist() == INPUT.input.tolist()

    def test_a_text_line_is_normalized(self, normalized: FakeBoard) -> None:
        # 0, 1.5, 0 normalized; 1, 4, 1 quantized; 5 and -1 the fake engine's outputs.
        assert normalized.feed(b"1.0,-1.5,0.25\n").sent == b"2,0.5\n"

    def test_non_finite_is_refused_though_the_clip_would_hide_it(self, normalized: FakeBoard) -> None:
        normalized.hello()
        for value in (np.nan, np.inf, -np.inf):
            refused = normalized.ask(messages.Infer(np.array([0, value, 0], np.float32)))
            assert refused == [error(Status.NON_FINITE, 1, messages.Infer.TYPE)]


def test_half_a_frame_is_given_up_after_silence(board: FakeBoard) -> None:
    message = messages.Echo(b"abcdef")
    timeout_us = 1000 * messages.PARTIAL_FRAME_TIMEOUT_MS
    board.feed(encode(message, 1)[:6])
    assert board.next_ms() == messages.PARTIAL_FRAME_TIMEOUT_MS
    board.idle(timeout_us - 1)
    assert board.feed(encode(message, 1)[6:]).messages() == [messages.EchoReply(b"abcdef")]
    board.feed(encode(message, 2)[:6])
    board.idle(2 * timeout_us)
    assert board.feed(encode(message, 3)).frames() == [Frame(3, messages.EchoReply(b"abcdef"))]
    stats = board.stats()
    assert (stats.framing_errors, stats.dropped_bytes) == (1, 6)


def test_bytes_that_waited_while_the_board_was_busy_still_complete_a_frame(board: FakeBoard) -> None:
    frame = encode(messages.Echo(b"abcdef"), 1)
    board.feed(frame[:6])
    board.set("time", 10_000_000)
    assert board.feed(frame[6:]).messages() == [messages.EchoReply(b"abcdef")]


def test_reply_that_nobody_reads_is_counted_and_the_next_one_is_found(board: FakeBoard) -> None:
    echo = encode(messages.Echo(b"x"), 1)
    board.set("uart", "blocked")
    board.feed(echo)
    board.set("uart", "ok")
    assert board.feed(echo).sent == b"\x00" + encode(messages.EchoReply(b"x"), 1)
    assert board.stats().dropped_replies == 1


def test_reset_reboots_and_says_so_where_it_cannot(board: FakeBoard) -> None:
    happened = board.feed(encode(messages.Reset(), 8))
    assert happened.events == ["reboot"]
    assert happened.frames() == [Frame(8, error(Status.NOT_SUPPORTED, 0, messages.Reset.TYPE))]  # the fake came back


def test_the_boot_loader_is_entered_and_a_board_without_one_says_so(board: FakeBoard, identified: FakeBoard) -> None:
    happened = identified.feed(encode(messages.EnterBootloader(), 8))
    assert happened.events == ["boot loader"]
    assert happened.frames() == [Frame(8, error(Status.NOT_SUPPORTED, 0, messages.EnterBootloader.TYPE))]  # the fake came back


def test_stats_count(identified: FakeBoard) -> None:
    identified.ask(INPUT, messages.Tensor(9, 0), messages.Echo(b""))
    identified.feed(b"1,2,3\n" + b"\x01\x00")
    assert identified.stats() == messages.Stats(
        requests=6,  # HELLO, three frames, a line, STATS_REQUEST
        errors=1,
        inferences=2,
        crc_errors=0,
        framing_errors=0,
        dropped_bytes=1,
        overruns=5,
        dropped_replies=0,
        watchdog_trips=0,
        safe_state=0,
        uptime_ms=0,
        inference_min_us=40,
        inference_max_us=40,
        arena_used=100,
        stack=2,
    )
