"""A board that never stops sending: every wait ends at its deadline all the same. The clock is the link's."""

import contextlib
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balance_hil.boards import channel as channel_module
from balance_hil.boards import handshake as handshake_module
from balance_hil.boards import session as session_module
from balance_hil.boards.channel import Channel
from balance_hil.boards.handshake import BOOT_LOG_FACTOR, identify
from balance_hil.boards.session import Session
from balance_hil.errors import LinkError
from balance_hil.protocol import messages
from balance_hil.protocol.codec import encode

READ_S = 0.001
LATE_S = 0.05  # at most so long past a deadline
FRAME = encode(messages.EchoReply(b"x"), 0xFFFE)  # the reply to nothing that was asked
CHUNKS = st.lists(st.sampled_from([FRAME, FRAME * 50, FRAME[:-3], b"log line\r\n", b"\xff\x00\x80" * 40]), min_size=1, max_size=6)


class Flood:
    """A link that always has something to read; each read takes a millisecond of its own clock."""

    description = "flood"

    def __init__(self, chunks, bound_s):
        self.now_s, self._chunks, self._reads, self._bound_s = 0.0, chunks, 0, bound_s

    def write(self, data):
        pass

    def read(self, timeout_s):
        self.now_s += READ_S
        assert self.now_s <= self._bound_s + LATE_S, "waits past its deadline"
        self._reads += 1
        return self._chunks[self._reads % len(self._chunks)]

    def close(self):
        pass


def wait_for_request(link, timeout_s):
    session = object.__new__(Session)  # without its handshake
    session._channel = Channel(link)
    session.unexpected_frames = 0
    session.request(messages.StatsRequest(), timeout_s)


WAITS = {
    "await_kind": (lambda link, timeout_s: Channel(link).await_kind(messages.Ready, timeout_s), 1),
    "identify": (lambda link, timeout_s: identify(Channel(link), timeout_s=timeout_s), BOOT_LOG_FACTOR),
    "poll": (lambda link, timeout_s: Channel(link).poll(timeout_s), 1),
    "request": (wait_for_request, 1),
}


@pytest.mark.parametrize("name", WAITS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=CHUNKS, timeout_s=st.floats(0.005, 1.0))
def test_every_wait_ends_at_its_deadline(monkeypatch, name, chunks, timeout_s):
    wait, factor = WAITS[name]
    link = Flood(chunks, factor * timeout_s)
    clock = SimpleNamespace(monotonic=lambda: link.now_s, perf_counter=lambda: link.now_s)
    for module in (channel_module, handshake_module, session_module):
        monkeypatch.setattr(module, "time", clock)
    with contextlib.suppress(LinkError):
        wait(link, timeout_s)
