from __future__ import annotations

import zlib

import numpy as np
import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.errors import UsageError
from balance_hil.protocol import messages
from balance_hil.protocol.codec import MAX_FRAME, Decoder, Frame, OtherSchema, encode, seal
from balance_hil.protocol.wire import Message

from .frame_cases import FrameCase, load_cases

CASES = load_cases()


def decode_in_pieces(data: bytes, size: int) -> tuple[Decoder, list[Frame]]:
    decoder = Decoder()
    frames = [f for start in range(0, len(data), size) for f in decoder.feed(data[start : start + size])]
    return decoder, frames


@pytest.mark.parametrize("size", [1, 2, 3, 64, 1 << 20])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_table(case: FrameCase, size: int) -> None:
    decoder, frames = decode_in_pieces(case.data, size)
    assert [(f.message.TYPE, f.seq, f.message.pack()) for f in frames] == list(case.frames)
    assert decoder.text_lines == len(case.lines)
    found = (decoder.crc_errors, decoder.framing_errors, decoder.dropped_bytes)
    assert found == (case.crc_errors, case.framing_errors, case.dropped_bytes)
    assert decoder.bytes_seen == len(case.data)


def strategies() -> dict[type[Message], st.SearchStrategy[Message]]:
    u8, u16, u32 = (st.integers(0, 2**n - 1) for n in (8, 16, 32))
    i8 = st.integers(-128, 127)
    f32 = st.floats(width=32)
    int8s = st.binary(max_size=200).map(lambda raw: np.frombuffer(raw, np.int8))
    floats = st.lists(f32, max_size=50).map(lambda v: np.array(v, np.float32))
    text = st.text(max_size=20)
    header = (st.just(messages.PROTOCOL_VERSION), st.just(messages.SCHEMA_CRC))
    info_tail = (text, text, text, text, text, u8, u32, text, text, u32, u32, u32, u16, f32, i8, f32, i8, u16)
    fields: dict[type[Message], tuple[st.SearchStrategy, ...]] = {
        messages.Hello: (u32,),
        messages.Infer: (floats,),
        messages.InferInt8: (int8s,),
        messages.Tensor: (u16, u32),
        messages.InputData: (u32, int8s),
        messages.ObservationData: (u32, floats),
        messages.InferStored: (u32,),
        messages.SelfTest: (),
        messages.Profile: (floats,),
        messages.StatsRequest: (),
        messages.SetWatchdog: (u32,),
        messages.SetTextLine: (u8,),
        messages.Echo: (st.binary(max_size=messages.MAX_PAYLOAD - 2),),
        messages.Reset: (),
        messages.EnterBootloader: (),
        messages.LoadBegin: (u32, u32, u8, u16, u32, u32, u32, text, u8),
        messages.LoadData: (u32, u32, st.binary(max_size=messages.MAX_PAYLOAD - 10)),
        messages.LoadCommit: (u32,),
        messages.LoadAbort: (u32,),
        messages.Ready: (*header, u8),
        messages.Info: (*header, u32, *info_tail, u32, u32, u32, u32, u16, u16, u32, u32, u32, u32, u8, u32, u8),
        messages.Action: (u8, int8s, int8s, floats, u32, u32),
        messages.TensorData: (u16, u32, u32, int8s),
        messages.Inferred: (u32, u32, u32, u32, u32),
        messages.SelfTestResult: (u8, u16, u16, u16),
        messages.ProfileResult: (u16, f32, f32, f32, f32, floats, f32, f32),
        messages.Stats: (*[u32] * 9, u8, u32, u32, u32, u32, u32),
        messages.Watchdog: (u32,),
        messages.TextLine: (u16,),
        messages.EchoReply: (st.binary(max_size=100),),
        messages.LoadProgress: (u32, u32),
        messages.LoadResult: (u32, u8, u32, text),
        messages.Error: (u8, u32, u8),
    }
    return {kind: st.builds(kind, *arguments) for kind, arguments in fields.items()}


def any_message() -> st.SearchStrategy[Message]:
    return st.one_of(*strategies().values())


@given(message=any_message(), seq=st.integers(0, 0xFFFF), size=st.integers(1, 300))
def test_round_trip(message: Message, seq: int, size: int) -> None:
    decoder, frames = decode_in_pieces(encode(message, seq), size)
    assert frames == [Frame(seq, message)]
    assert (decoder.bad_frames, decoder.dropped_bytes) == (0, 0)


def test_every_message_takes_part_in_the_round_trip() -> None:
    assert set(strategies()) == set(messages.MESSAGES.values())


noise = st.one_of(
    st.binary(max_size=400),
    st.lists(st.sampled_from([0, 10, 13, 0x31, 0x2C, 0x81, 0x87, 0xFF]), max_size=400).map(bytes),
)


@given(data=noise, size=st.integers(1, 50))
def test_never_raises_and_is_in_step_again_after_a_delimiter(data: bytes, size: int) -> None:
    decoder = Decoder()
    for start in range(0, len(data), size):
        decoder.feed(data[start : start + size])
    good = messages.Echo(b"after the noise")
    assert decoder.feed(b"\x00" + encode(good, 5))[-1:] == [Frame(5, good)]


@given(data=noise, size=st.integers(1, 50))
def test_pieces_make_no_difference(data: bytes, size: int) -> None:
    data += b"\x00"
    pieces, found = decode_in_pieces(data, size)
    whole, expected = decode_in_pieces(data, len(data))
    assert found == expected
    for counter in ("crc_errors", "framing_errors", "dropped_bytes", "text_lines", "last_text"):
        assert getattr(pieces, counter) == getattr(whole, counter), counter


@given(message=any_message(), position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_one_damaged_byte_never_yields_another_message(message: Message, position: int, flip: int) -> None:
    frame = bytearray(encode(message, 9))
    frame[position % (len(frame) - 1)] ^= flip
    assert Decoder().feed(bytes(frame)) == []


def test_frame_of_another_schema_is_refused() -> None:
    body = bytes([messages.Echo.TYPE, 1, 0, 0, 0])
    stale = cobs.encode(body + zlib.crc32(body, messages.SCHEMA_CRC ^ 1).to_bytes(4, "little")) + b"\x00"
    decoder = Decoder()
    assert decoder.feed(stale) == []
    assert decoder.crc_errors == 1


@pytest.mark.parametrize("kind", [messages.Ready, messages.Info])
@pytest.mark.parametrize(
    ("version", "crc"), [(1, 0x3BE122F7), (messages.PROTOCOL_VERSION + 1, messages.SCHEMA_CRC), (messages.PROTOCOL_VERSION, 1)]
)
def test_handshake_of_another_schema_is_named(kind: type[Message], version: int, crc: int) -> None:
    payload = version.to_bytes(2, "little") + crc.to_bytes(4, "little") + b"fields that we do not know"
    assert Decoder().feed(seal(kind.TYPE, 0, payload)) == [Frame(0, OtherSchema(kind.TYPE, version, crc))]


def test_foreign_text_is_kept_for_the_diagnosis() -> None:
    decoder = Decoder()
    assert decoder.feed(b"MicroPython v1.24 on 2024-10-25\r\n>>> ") == []
    assert b"MicroPython v1.24" in decoder.last_text
    assert decoder.bad_frames == 0


def test_unknown_type_and_wrong_layout_count_as_framing_errors() -> None:
    decoder = Decoder()
    assert decoder.feed(seal(0xEE, 1, b"") + seal(messages.Hello.TYPE, 1, b"\x01")) == []
    assert decoder.framing_errors == 2


def test_reset_forgets_half_a_frame() -> None:
    decoder = Decoder()
    message = messages.Echo(b"x")
    decoder.feed(encode(message, 1)[:5])
    decoder.reset()
    assert decoder.feed(encode(message, 2)) == [Frame(2, message)]
    assert decoder.dropped_bytes == 5


@pytest.mark.parametrize(
    "message",
    [
        messages.Echo(bytes(messages.MAX_PAYLOAD - 1)),
        messages.Hello(-1),
        messages.Hello(2**32),
        messages.InferInt8(np.array([128])),
        messages.InferInt8(np.array([0.5])),
        messages.InferInt8(np.zeros((2, 2), np.int8)),
        messages.Infer(np.array(["1"])),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(message: Message) -> None:
    with pytest.raises(UsageError):
        encode(message, 0)


def test_sequence_number_must_fit() -> None:
    with pytest.raises(UsageError):
        encode(messages.Reset(), 65536)


def test_lists_and_wider_integers_that_fit_are_converted() -> None:
    assert messages.InferInt8([1, -128]) == messages.InferInt8(np.array([1, -128], np.int8))  # type: ignore[arg-type]
    assert messages.Infer([0.5]) == messages.Infer(np.array([0.5], np.float64))  # type: ignore[arg-type]


def test_longest_frame_is_the_documented_one() -> None:
    assert len(encode(messages.Echo(b"\x01" * (messages.MAX_PAYLOAD - 2)), 0x0101)) <= MAX_FRAME + 1
