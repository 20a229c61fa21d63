import itertools
import time
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.errors import CableUnpluggedError, UsageError
from balance_hil.link import FaultyLink, parse_faults
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder, encode


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


class TimedPipe(Pipe):
    """Its time passes while it is read."""

    def __init__(self):
        super().__init__()
        self.time_s = 0.0

    def now_s(self):
        return self.time_s

    def read(self, timeout_s):
        self.time_s += timeout_s
        return b""


def frames(count):
    return [bytes([1 + index % 250, 0x87, 9, 0]) for index in range(count)]


def sent_with(faults, units, seed=1):
    pipe = Pipe()
    link = FaultyLink(pipe, parse_faults(faults), seed)
    for unit in units:
        link.write(unit)
    return pipe.sent, link.injected


def received_with(faults, chunks, seed=1):
    pipe = Pipe()
    link = FaultyLink(pipe, parse_faults(faults), seed)
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
    sent, injected = sent_with(["drop:rate=0.25"], frames(1000))
    assert set(sent) <= set(frames(1000))
    assert injected["drop tx"] == 1000 - len(sent)
    assert 180 < injected["drop tx"] < 320


def test_corrupt_flips_one_bit():
    sent, injected = sent_with(["corrupt:rate=1.0"], frames(100))
    assert injected["corrupt tx"] == 100
    for good, bad in zip(frames(100), sent, strict=True):
        difference = int.from_bytes(good, "big") ^ int.from_bytes(bad, "big")
        assert difference.bit_count() == 1


def test_duplicate_truncate_and_drop_byte():
    assert sent_with(["duplicate:rate=1.0"], frames(3))[0] == [frame * 2 for frame in frames(3)]
    for cut, frame in zip(sent_with(["truncate:rate=1.0"], [b"0123456789\x00"] * 20)[0], [b"0123456789\x00"] * 20, strict=False):
        assert frame.startswith(cut)
        assert len(cut) < len(frame)
    sent, _ = sent_with(["drop-byte:rate=0.5"], [bytes([5] * 999 + [0])])
    assert 400 < len(sent[0]) < 600


def test_direction_is_respected():
    sent, _ = sent_with(["drop:rate=1.0,direction=rx"], frames(5))
    assert len(sent) == 5
    received, injected = received_with(["drop:rate=1.0,direction=rx"], frames(5))
    assert received == b""
    assert injected["drop rx"] == 5
    assert received_with(["drop:rate=1.0,direction=tx"], frames(5))[0] == b"".join(frames(5))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_the_same_seed_hits_the_same_frames_whatever_the_chunks(sizes, seed):
    stream = b"".join(frames(60))
    chunks, position = [], 0
    while position < len(stream):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(stream[position : position + size])
        position += size
    faults = ["drop:rate=0.2", "corrupt:rate=0.2", "duplicate:rate=0.1"]
    assert received_with(faults, chunks, seed) == received_with(faults, [stream], seed)


def test_text_lines_are_units_too():
    received, injected = received_with(["drop:rate=1.0"], [b"0.1,0.2\r\n", b"0.3\n"])
    assert received == b""
    assert injected["drop rx"] == 2


def test_noise_without_a_terminator_passes_in_the_end():
    assert len(received_with(["duplicate:rate=0.0"], [b"\xff" * 5000])[0]) == 4096


def test_delay_holds_frames_and_keeps_their_order():
    pipe = Pipe()
    link = FaultyLink(pipe, parse_faults(["delay:s=0.05,direction=rx,rate=0.5"]), seed=3)
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
    link = FaultyLink(pipe, parse_faults(["delay:s=0.02,direction=tx"]))
    link.write(b"ab\x00")
    assert pipe.sent == []
    assert link.read(0.2) == b""
    assert pipe.sent == [b"ab\x00"]


def test_cut_pulls_the_cable_at_its_time():
    pipe = Pipe()
    link = FaultyLink(pipe, parse_faults(["cut:at_s=0.02"]))
    link.write(b"a\x00")
    with pytest.raises(CableUnpluggedError, match="fault injection"):
        link.read(1.0)
    with pytest.raises(CableUnpluggedError):
        link.write(b"c\x00")
    assert pipe.sent == [b"a\x00"]
    assert pipe.closed
    assert link.injected == {"cut": 1}


def test_unarmed_it_does_nothing():
    pipe = Pipe()
    link = FaultyLink(pipe, parse_faults(["drop:rate=1.0"]), armed=False)
    link.write(b"a\x00")
    pipe.incoming.append(b"b\x00")
    assert link.read(0) == b"b\x00"
    link.armed = True
    link.write(b"a\x00")
    assert pipe.sent == [b"a\x00"]


def test_a_burst_loses_frames_in_a_row():
    units = [bytes([1 + number % 250, 1 + number // 250, 0]) for number in range(2000)]
    sent, injected = sent_with(["burst:rate=0.01,frames=7"], units)
    runs = [len(list(run)) for gone, run in itertools.groupby(unit not in sent for unit in units) if gone]
    assert injected["burst tx"] == sum(runs) == 2000 - len(sent)
    assert len(runs) > 5
    assert all(run >= 7 for run in runs[:-1])


def test_reorder_swaps_neighbours_and_loses_nothing():
    sent, injected = sent_with(["reorder:rate=0.3"], frames(100))
    data = b"".join(sent)
    arrived = [data[at : at + 4] for at in range(0, len(data), 4)]
    assert sorted(arrived) == sorted(frames(100)[: len(arrived)])
    moved = [n for n, frame in enumerate(arrived) if frame != frames(100)[n]]
    assert len(moved) // 2 == injected["reorder tx"] > 10
    assert all(abs(frames(100).index(frame) - n) <= 1 for n, frame in enumerate(arrived))


def test_garbage_comes_before_the_frame():
    sent, injected = sent_with(["garbage:rate=1,bytes=9"], frames(20))
    assert injected["garbage tx"] == 20
    assert all(len(unit) == 13 and unit.endswith(frame) for unit, frame in zip(sent, frames(20), strict=True))
    assert len({unit[:9] for unit in sent}) == 20


def test_corrupt_byte_replaces_bytes_at_the_given_rate():
    sent, injected = sent_with(["corrupt-byte:rate=0.1"], [bytes([5] * 9_999 + [0])])
    hit = [byte for byte in b"".join(sent) if byte != 5]
    assert 300 < len(hit) < 1500
    assert injected["corrupt-byte tx"] > 0


def test_a_stall_holds_bytes_and_delivers_them_together():
    pipe = Pipe()
    link = FaultyLink(pipe, parse_faults(["stall:at_s=0,for_s=0.05,direction=rx"]))
    start = time.monotonic()
    pipe.incoming.extend(frames(3))
    assert link.read(0.01) == b""
    assert link.read(1.0) == b"".join(frames(3))
    assert time.monotonic() - start >= 0.045
    assert link.injected == {"stall rx": 1}
    link.write(b"a\x00")
    assert pipe.sent == [b"a\x00"], "the other direction"


def test_a_fault_lasts_as_long_as_it_was_told():
    pipe = Pipe()
    link = FaultyLink(pipe, parse_faults(["drop:rate=1,at_s=100,for_s=1", "duplicate:rate=1,for_s=1,every_s=1000,at_s=0"]))
    link.write(b"a\x00")
    assert pipe.sent == [b"a\x00a\x00"]


def test_every_injection_is_noted_with_its_parameters():
    pipe = Pipe()
    link = FaultyLink(pipe, parse_faults(["corrupt:rate=1,direction=tx"]), seed=3)
    link.write(b"abc\x00")
    (injection,) = link.injections
    assert (injection.fault, injection.direction, injection.values["rate"]) == ("corrupt", "tx", 1)
    bit = injection.values["bit"]
    assert pipe.sent[0][bit // 8] ^ b"abc\x00"[bit // 8] == 1 << bit % 8


def test_clock_drift_changes_what_the_board_reports_and_nothing_else():
    reply = messages.Action(0, np.int8([1, 2]), np.int8([3]), np.float32([0.5]), 1000, 2000)
    data, injected = received_with(["clock-drift:ppm=-100000"], [encode(reply, 7)])
    (frame,) = Decoder().feed(data)
    assert (frame.seq, frame.message.inference_us, frame.message.total_us) == (7, 900, 1800)
    assert frame.message.input.tolist() == [1, 2]
    assert injected == {"clock-drift": 1}


class Machine:
    def __init__(self):
        self.calls = []

    def pause(self):
        self.calls.append("pause")

    def resume(self):
        self.calls.append("resume")

    def restart(self):
        self.calls.append("restart")
        return Pipe()

    def flip_bit(self, data, position, bit):
        self.calls.append((data, position, bit))
        return 1


def test_faults_of_the_board_happen_at_their_time():
    pipe, machine = Pipe(), Machine()
    faults = parse_faults(
        ["hang:at_s=0.01,for_s=0.02", "flip-bit:at_s=0.02,bit=3", "power-cycle:at_s=0.05", "reboot:every_s=0.04"]
    )
    link = FaultyLink(pipe, faults, seed=1, machine=machine, weights=lambda: b"weights")
    link.read(0.045)
    assert machine.calls[:2] == ["pause", (b"weights", machine.calls[1][1], 3)]
    assert machine.calls[2:] == ["resume"]
    assert Decoder().feed(b"".join(pipe.sent))[0].message == messages.Reset() or len(pipe.sent) == 1
    link.read(0.02)
    assert machine.calls[3:] == ["restart"]
    assert pipe.closed
    assert link.injected == {"hang": 1, "flip-bit": 1, "power-cycle": 1, "reboot": 1}


@pytest.mark.parametrize("fault", ["power-cycle:at_s=1", "flip-bit:at_s=1"])
def test_a_board_that_was_not_started_here_cannot_have_every_fault(fault):
    with pytest.raises(UsageError, match="cannot be injected into the board on pipe") as caught:
        FaultyLink(Pipe(), parse_faults([fault]))
    assert "--board native" in caught.value.hint


def test_a_hang_of_such_a_board_holds_its_link():
    pipe = TimedPipe()
    link = FaultyLink(pipe, parse_faults(["hang:at_s=0,for_s=0.03"]))
    link.write(b"a\x00")
    assert pipe.sent == []
    link.read(0.05)
    assert pipe.sent == [b"a\x00"]
    assert link.injected == {"hang": 1}
