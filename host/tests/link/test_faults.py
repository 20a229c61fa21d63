import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.errors import CableUnpluggedError, UsageError
from balance_hil.link import Fault, FaultyLink, parse_fault


class Pipe:
    """A link whose far end is two lists."""

    description = "pipe"

    def __init__(self):
        self.sent = []
        self.incoming = deque()
        self.closed = False

    def write(self, data):
        self.sent.append(data)

    def read(self, timeout_s):
        if self.incoming:
            return self.incoming.popleft()
        time.sleep(max(timeout_s, 0))
        return b""

    def close(self):
        self.closed = True


def frames(count):
    return [bytes([1 + index % 250, 0x87, 9, 0]) for index in range(count)]


def sent_with(faults, units, seed=1):
    pipe = Pipe()
    link = FaultyLink(pipe, faults, seed)
    for unit in units:
        link.write(unit)
    return pipe.sent, link.injected


def received_with(faults, chunks, seed=1):
    pipe = Pipe()
    link = FaultyLink(pipe, faults, seed)
    pipe.incoming.extend(chunks)
    data = b""
    while pipe.incoming:
        data += link.read(0)
    return data + link.read(0), link.injected


def test_no_fault_passes_everything():
    sent, injected = sent_with([], [b"abc", b"de\x00"])
    assert sent == [b"abc", b"de\x00"]
    assert received_with([], [b"abc", b"de\x00"])[0] == b"abcde\x00"
    assert not injected


def test_drop_takes_whole_frames_at_the_given_rate():
    sent, injected = sent_with([Fault("drop", 0.25)], frames(1000))
    assert set(sent) <= set(frames(1000))
    assert injected["drop tx"] == 1000 - len(sent)
    assert 180 < injected["drop tx"] < 320


def test_corrupt_flips_one_bit():
    sent, injected = sent_with([Fault("corrupt", 1.0)], frames(100))
    assert injected["corrupt tx"] == 100
    for good, bad in zip(frames(100), sent, strict=True):
        difference = int.from_bytes(good, "big") ^ int.from_bytes(bad, "big")
        assert difference.bit_count() == 1


def test_duplicate_truncate_and_drop_byte():
    assert sent_with([Fault("duplicate", 1.0)], frames(3))[0] == [frame * 2 for frame in frames(3)]
    for cut, frame in zip(
        sent_with([Fault("truncate", 1.0)], [b"0123456789\x00"] * 20)[0], [b"0123456789\x00"] * 20, strict=False
    ):
        assert frame.startswith(cut)
        assert len(cut) < len(frame)
    sent, _ = sent_with([Fault("drop-byte", 0.5)], [bytes([5] * 999 + [0])])
    assert 400 < len(sent[0]) < 600


def test_direction_is_respected():
    sent, _ = sent_with([Fault("drop", 1.0, "rx")], frames(5))
    assert len(sent) == 5
    received, injected = received_with([Fault("drop", 1.0, "rx")], frames(5))
    assert received == b""
    assert injected["drop rx"] == 5
    assert received_with([Fault("drop", 1.0, "tx")], frames(5))[0] == b"".join(frames(5))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_the_same_seed_hits_the_same_frames_whatever_the_chunks(sizes, seed):
    stream = b"".join(frames(60))
    chunks, position = [], 0
    while position < len(stream):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(stream[position : position + size])
        position += size
    faults = [Fault("drop", 0.2), Fault("corrupt", 0.2), Fault("duplicate", 0.1)]
    assert received_with(faults, chunks, seed) == received_with(faults, [stream], seed)


def test_text_lines_are_units_too():
    received, injected = received_with([Fault("drop", 1.0)], [b"0.1,0.2\r\n", b"0.3\n"])
    assert received == b""
    assert injected["drop rx"] == 2


def test_noise_without_a_terminator_passes_in_the_end():
    assert len(received_with([Fault("duplicate", 0.0)], [b"\xff" * 5000])[0]) == 4096


def test_delay_holds_frames_and_keeps_their_order():
    pipe = Pipe()
    link = FaultyLink(pipe, [Fault("delay", 0.05, "rx", probability=0.5)], seed=3)
    pipe.incoming.append(b"".join(frames(20)))
    start = time.monotonic()
    data = b""
    while len(data) < 80:
        data += link.read(10.0)
    assert time.monotonic() - start >= 0.05
    assert data == b"".join(frames(20))
    assert 0 < link.injected["delay rx"] < 20


def test_delayed_write_leaves_during_a_read():
    pipe = Pipe()
    link = FaultyLink(pipe, [Fault("delay", 0.02, "tx")])
    link.write(b"ab\x00")
    assert pipe.sent == []
    assert link.read(0.2) == b""
    assert pipe.sent == [b"ab\x00"]


def test_cut_pulls_the_cable_after_so_many_frames():
    pipe = Pipe()
    link = FaultyLink(pipe, [Fault("cut", 2, "tx")])
    link.write(b"a\x00")
    link.write(b"b\x00")
    with pytest.raises(CableUnpluggedError, match="fault injection"):
        link.write(b"c\x00")
    with pytest.raises(CableUnpluggedError):
        link.read(0)
    assert pipe.sent == [b"a\x00", b"b\x00"]
    assert pipe.closed


def test_unarmed_it_does_nothing():
    pipe = Pipe()
    link = FaultyLink(pipe, [Fault("drop", 1.0)], armed=False)
    link.write(b"a\x00")
    pipe.incoming.append(b"b\x00")
    assert link.read(0) == b"b\x00"
    link.armed = True
    link.write(b"a\x00")
    assert pipe.sent == [b"a\x00"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop=0.01", Fault("drop", 0.01)),
        ("corrupt=0.5:rx", Fault("corrupt", 0.5, "rx")),
        ("delay=4e-3@0.25:tx", Fault("delay", 0.004, "tx", 0.25)),
        ("cut=500", Fault("cut", 500)),
    ],
)
def test_parse(text, fault):
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    "text", ["", "drop", "drop=", "drop=2", "melt=0.1", "drop=-1", "drop=0.1:up", "delay=1@3", "drop=1e", "drop=nan"]
)
def test_a_fault_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_fault(text)
    assert "drop=0.01" in caught.value.hint or "kinds are" in caught.value.hint
