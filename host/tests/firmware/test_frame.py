"""The firmware's decoder against the table of frame cases and against the host's decoder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder, seal

from ..protocol.frame_cases import FrameCase, load_cases
from .probe import Probe


@pytest.mark.parametrize("case", load_cases(), ids=lambda c: c.name)
def test_table(probe: Probe, case: FrameCase) -> None:
    *events, counters = probe.frames(case.data)
    frames = [e for e in events if e.startswith("frame ")]
    assert frames == [f"frame {kind} {seq} {payload.hex()}" for kind, seq, payload in case.frames]
    assert [e for e in events if e.startswith("line ")] == [f"line {text.hex()}" for text in case.lines]
    assert events.count("long_line") == case.long_lines
    assert counters == f"counters {case.crc_errors} {case.framing_errors} {case.dropped_bytes}"


def test_too_long_a_frame_still_has_its_type_and_number(probe: Probe) -> None:
    for seq in (0, 1, 0x0100, 0x1234, 0xFF00):
        for excess in (1, 3000):
            frame = seal(messages.Echo.TYPE, seq, b"\x07" * (messages.MAX_PAYLOAD + excess))
            assert probe.frames(frame)[:-1] == [f"oversized {messages.Echo.TYPE} {seq}"]


noise = st.one_of(
    st.binary(max_size=400),
    st.lists(st.sampled_from([0, 7, 10, 13, 0x31, 0x2C, 0x81, 0x87, 0xFF]), max_size=400).map(bytes),
)
echoes = st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=300)).map(
    lambda t: seal(messages.Echo.TYPE, t[0], len(t[1]).to_bytes(2, "little") + t[1])
)


@given(pieces=st.lists(st.one_of(noise, echoes), max_size=5))
def test_both_decoders_agree(probe: Probe, pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    host = Decoder()
    expected = [f"frame {f.message.TYPE} {f.seq} {f.message.pack().hex()}" for f in host.feed(data)]
    *events, counters = probe.frames(data)
    assert [e for e in events if e.startswith("frame ")] == expected
    assert sum(e.startswith("line ") for e in events) == host.text_lines
    # What the host's decoder holds or drops at the end of the data may differ: only a delimiter settles it.
    host.feed(b"\x00")
    *_, counters = probe.frames(data + b"\x00")
    found = [int(n) for n in counters.split()[1:]]
    assert found == [host.crc_errors, host.framing_errors, host.dropped_bytes]
