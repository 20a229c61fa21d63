"""Malformed, early, oversized and damaged input: each gets the documented status, and the next request works."""

from __future__ import annotations

import time

import numpy as np
import pytest

from balance_hil.boards import Board
from balance_hil.errors import BoardStatusError
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Frame, encode, seal
from balance_hil.protocol.messages import Status
from balance_hil.protocol.wire import Message

SEQ = 0xBEEF
REPLY_DEADLINE_S = 5.0


def next_reply(board: Board, timeout_s: float = REPLY_DEADLINE_S) -> Frame | None:
    """The next frame but INFO, which also answers a HELLO that was repeated while a busy board answered the first."""
    while True:
        frame = board.poll(timeout_s)
        if frame is None or not isinstance(frame.message, messages.Info):
            return frame


def exchange(board: Board, data: bytes) -> Frame:
    """Sends bytes as they are; returns the next frame that the board sends."""
    board.send_raw(data)
    frame = next_reply(board)
    assert frame is not None, "the board must answer"
    return frame


def refused(board: Board, data: bytes, status: Status, detail: int | None, request: int) -> None:
    """Sends bytes that must be refused with this status, and checks that the next request works."""
    frame = exchange(board, data)
    error = frame.message
    assert isinstance(error, messages.Error), f"expected ERROR({status.name}), got {error}"
    assert Status(error.status).name == status.name
    assert detail is None or error.detail == detail, f"detail is {error.detail} instead of {detail}"
    assert error.request == request
    assert frame.seq == SEQ, "an error carries the number of its request"
    assert_works(board)


def assert_works(board: Board) -> None:
    assert board.echo(b"\x00\x01\xff still here") == b"\x00\x01\xff still here"


def reboot_without_greeting(board: Board) -> None:
    board.send(messages.Reset())
    deadline = time.monotonic() + REPLY_DEADLINE_S
    while time.monotonic() < deadline:
        frame = board.poll(deadline - time.monotonic())
        if frame is not None and isinstance(frame.message, messages.Ready):
            return
    pytest.fail("no READY after RESET")


def zeros(board: Board) -> np.ndarray:
    return np.zeros(board.info.n_obs, np.float32)


def zeros_in_a_frame(board: Board) -> np.ndarray:
    """As many as the model takes, or less if they do not fit a frame."""
    return zeros(board)[:254]


# --- layout -----------------------------------------------------------------------------------------------------------


def test_unknown_type(hil_board: Board) -> None:
    refused(hil_board, seal(0xBF, SEQ, b""), Status.UNKNOWN_TYPE, detail=0xBF, request=0xBF)


def test_a_message_that_only_boards_send(hil_board: Board) -> None:
    kind = messages.EchoReply.TYPE
    refused(hil_board, encode(messages.EchoReply(b""), SEQ), Status.UNKNOWN_TYPE, detail=kind, request=kind)


@pytest.mark.parametrize("change", [-1, 1], ids=["one_byte_short", "one_byte_long"])
@pytest.mark.parametrize("kind", ["Infer", "InferInt8", "Tensor", "SetWatchdog", "Echo"])
def test_wrong_length(hil_board: Board, kind: str, change: int) -> None:
    observation = zeros_in_a_frame(hil_board)
    good: Message = {
        "Infer": messages.Infer(observation),
        "InferInt8": messages.InferInt8(observation.astype(np.int8)),
        "Tensor": messages.Tensor(0, 0),
        "SetWatchdog": messages.SetWatchdog(100),
        "Echo": messages.Echo(b"abc"),
    }[kind]
    payload = good.pack()[:change] if change < 0 else good.pack() + b"\x00"
    refused(hil_board, seal(good.TYPE, SEQ, payload), Status.WRONG_LENGTH, detail=len(payload), request=good.TYPE)


@pytest.mark.parametrize("change", [-1, 1], ids=["one_too_few", "one_too_many"])
def test_wrong_count(hil_board: Board, change: int) -> None:
    n_obs = hil_board.info.n_obs
    count = zeros_in_a_frame(hil_board).size + change
    for message in (messages.Infer(np.zeros(count, np.float32)), messages.InferInt8(np.zeros(count, np.int8))):
        refused(hil_board, encode(message, SEQ), Status.WRONG_COUNT, detail=n_obs, request=message.TYPE)


def test_longest_payload_works_and_one_byte_more_is_refused(hil_board: Board) -> None:
    longest = bytes(index & 0xFF for index in range(messages.MAX_PAYLOAD - 2))  # Echo counts its bytes in two
    assert hil_board.echo(longest) == longest
    oversized = messages.Echo(longest + b"!").pack()
    frame = exchange(hil_board, seal(messages.Echo.TYPE, SEQ, oversized))
    assert isinstance(frame.message, messages.Error)
    assert (frame.message.status, frame.message.detail) == (Status.OVERSIZED, messages.MAX_PAYLOAD)
    assert_works(hil_board)


def test_ten_times_too_long(hil_board: Board) -> None:
    frame = exchange(hil_board, seal(messages.Echo.TYPE, SEQ, b"\x55" * (10 * messages.MAX_PAYLOAD)))
    assert isinstance(frame.message, messages.Error)
    assert frame.message.status == Status.OVERSIZED
    assert_works(hil_board)


# --- order ------------------------------------------------------------------------------------------------------------


def test_requests_before_the_handshake_are_refused(hil_board: Board) -> None:
    reboot_without_greeting(hil_board)
    observation = zeros_in_a_frame(hil_board)
    gated = [messages.Infer(observation), messages.InferInt8(observation.astype(np.int8)), messages.Tensor(0, 0),
             messages.SelfTest(), messages.Profile(observation), messages.SetWatchdog(100)]  # fmt: skip
    for message in gated:
        refused(hil_board, encode(message, SEQ), Status.NOT_IDENTIFIED, detail=None, request=message.TYPE)
    hil_board.identify()
    assert hil_board.infer(zeros(hil_board)).status == Status.OK


def test_tensor_before_any_inference(hil_board: Board) -> None:
    hil_board.reset()
    with pytest.raises(BoardStatusError) as caught:
        hil_board.tensor(0)
    assert caught.value.status == "no_inference_yet"


def test_tensor_of_an_operator_that_does_not_exist(hil_board: Board) -> None:
    hil_board.infer(zeros(hil_board))
    for op in (hil_board.info.n_ops, 0x7FFF):
        with pytest.raises(BoardStatusError) as caught:
            hil_board.tensor(op)
        assert (caught.value.status, caught.value.detail) == ("no_such_operator", hil_board.info.n_ops)


def test_replies_come_in_order_and_carry_their_numbers(hil_board: Board) -> None:
    size = 16
    count = max(1, hil_board.info.rx_buffer // 64)
    sent = [hil_board.send(messages.Echo(bytes([i % 256] * size))) for i in range(count)]
    for i, seq in enumerate(sent):
        frame = next_reply(hil_board)
        assert frame is not None
        assert frame.seq == seq
        assert isinstance(frame.message, messages.EchoReply)
        assert frame.message.data == bytes([i % 256] * size)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_noticed(hil_board: Board) -> None:
    good = encode(messages.Infer(zeros_in_a_frame(hil_board)), SEQ)
    before = hil_board.stats()
    damaged = 0
    for position in range(len(good) - 1):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        if bad[position] == 0 or (position == 1 and bad[position] < 0x80):
            continue  # a new delimiter makes two frames, a printable type byte makes text: counted otherwise
        hil_board.send_raw(b"\x00" + bytes(bad))
        damaged += 1
        assert_works(hil_board)  # the next frame is its reply: the damaged frame was not answered
    after = hil_board.stats()
    counted = after.crc_errors + after.framing_errors - before.crc_errors - before.framing_errors
    assert counted == damaged
    assert after.inferences == before.inferences
    assert after.dropped_bytes > before.dropped_bytes


def test_noise_between_frames(hil_board: Board) -> None:
    rng = np.random.default_rng(11)
    before = hil_board.stats()
    for _ in range(20):
        noise = rng.integers(0x80, 0x100, size=int(rng.integers(1, 200))).astype(np.uint8).tobytes()
        hil_board.send_raw(noise + b"\x00")
        assert_works(hil_board)
    assert hil_board.stats().dropped_bytes > before.dropped_bytes


def test_a_frame_cut_off_by_the_next_one_costs_only_itself(hil_board: Board) -> None:
    before = hil_board.stats()
    half = encode(messages.Infer(zeros_in_a_frame(hil_board)), SEQ)[:-5]
    hil_board.send_raw(half + b"\x00")
    assert_works(hil_board)
    assert hil_board.stats().inferences == before.inferences


def test_a_frame_that_stops_arriving_is_dropped_after_the_time_limit(hil_board: Board) -> None:
    before = hil_board.stats()
    half = encode(messages.Infer(zeros_in_a_frame(hil_board)), SEQ)[:-5]
    hil_board.send_raw(half)
    patience = 4 if hil_board.definition.timing == "host" else 2  # an emulator's clock may stand still on a busy computer
    assert next_reply(hil_board, patience * messages.PARTIAL_FRAME_TIMEOUT_MS / 1e3) is None, "half a frame must not be answered"
    assert_works(hil_board)  # without a delimiter in between
    assert hil_board.stats().dropped_bytes >= before.dropped_bytes + len(half) - 1


def test_one_byte_at_a_time(hil_board: Board) -> None:
    for byte in encode(messages.Echo(b"slowly"), SEQ):
        hil_board.send_raw(bytes([byte]))
    frame = next_reply(hil_board)
    assert frame is not None
    assert (frame.seq, frame.message) == (SEQ, messages.EchoReply(b"slowly"))


def test_a_frame_of_another_schema_is_not_obeyed(hil_board: Board) -> None:
    import struct
    import zlib

    from cobs import cobs

    body = struct.pack("<BH", messages.Infer.TYPE, SEQ) + messages.Infer(zeros_in_a_frame(hil_board)).pack()
    other = cobs.encode(body + struct.pack("<I", zlib.crc32(body, messages.SCHEMA_CRC ^ 1))) + b"\x00"
    before = hil_board.stats()
    hil_board.send_raw(other)
    assert_works(hil_board)
    after = hil_board.stats()
    assert after.crc_errors == before.crc_errors + 1
    assert after.inferences == before.inferences
