"""No wait is longer than its bound, whatever the board sends. Measured by the link's own clock."""

from __future__ import annotations

import contextlib
from collections import deque

import numpy as np
import pytest

from balance_hil.boards import upload
from balance_hil.boards.handshake import BOOT_LOG_FACTOR, identify
from balance_hil.errors import HarnessError
from balance_hil.link import serial_link
from balance_hil.link.serial_link import DescriptorLink, GenericLink
from balance_hil.protocol import messages
from balance_hil.protocol.codec import encode
from balance_hil.running.exchange import RECOVERY_TIMEOUT_S, SILENT_REBOOT_S
from balance_hil.testing.fake_board import FakeFirmware, fake_info, linear_policy

from .virtual import VirtualLink, exchange_over

LATE_S = 0.05  # at most so long past a bound
UNAWAITED = encode(messages.EchoReply(b"x"), 0xFFFE)
READY = encode(messages.Ready(messages.PROTOCOL_VERSION, messages.SCHEMA_CRC, 1), 0)
REFUSED = encode(messages.Error(messages.Status.NOT_IDENTIFIED, 0, messages.Infer.TYPE), 0xFFFE)
GAINS = [[2, 1, 0, 0, -0.2, -0.3], [2, 1, 0, 0, -0.2, 0.3]]


class Flood(VirtualLink):
    """Once opened, a board that sends anything but a reply: a chunk at each read, or after ``gap_s``; nothing for "silence"."""

    KINDS = ("garbage", "frames", "endless frame", "text", "ready", "refused", "mixture", "trickle", "silence")

    def open(self, random, kind):
        self.random, self.kind, self.opened_s = random, kind, self._now_s
        self.gap_s = 0.0 if kind != "trickle" else float(random.uniform(0.001, 0.2))
        self._held.clear()

    def write(self, data):
        if getattr(self, "kind", None) is None:
            super().write(data)

    def read(self, timeout_s):
        if getattr(self, "kind", None) is None:
            return super().read(timeout_s)
        assert self._now_s < self.opened_s + 60, f"no end of a wait: {self.kind}"
        if self.kind == "silence" or max(timeout_s, 0.0) < self.gap_s:
            self._now_s += max(timeout_s, 0.0)
            return b""
        self._now_s += max(self.gap_s, 0.002)  # of this computer, for a chunk
        kind = self.kind if self.kind in self.KINDS[:6] else self.KINDS[int(self.random.integers(6))]
        return {
            "garbage": lambda: self.random.bytes(int(self.random.integers(1, 400))),
            "frames": lambda: UNAWAITED * int(self.random.integers(1, 20)),
            "endless frame": lambda: b"\x90" * int(self.random.integers(1, 400)),
            "text": lambda: b"log line\r\n" * int(self.random.integers(1, 20)),
            "ready": lambda: READY,
            "refused": lambda: REFUSED,
        }[kind]()


def request(board, exchange, bound_s):
    board.request(messages.StatsRequest(), bound_s)


def pipeline(board, exchange, bound_s):
    board.pipeline([messages.StatsRequest()] * 3, bound_s)


def handshake(board, exchange, bound_s):
    identify(board._channel, timeout_s=bound_s / BOOT_LOG_FACTOR)


def boot(board, exchange, bound_s):
    board._channel.await_kind(messages.Action, bound_s)


def lockstep(board, exchange, bound_s):
    """As ``lockstep._ask`` waits."""
    exchange._reply_timeout_s = bound_s
    exchange.send(np.zeros(6, np.float32))
    deadline = exchange.now_s() + bound_s
    while exchange.is_waiting and (left_s := deadline - exchange.now_s()) > 0:
        exchange.poll(left_s)


def control_step(board, exchange, bound_s):
    """As ``realtime._wait_until`` waits."""
    exchange.send(np.zeros(6, np.float32))
    deadline = exchange.now_s() + bound_s
    while (left_s := deadline - exchange.now_s()) > 0:
        exchange.poll(left_s)


def settle(board, exchange, bound_s):
    """Silence and a reboot in it: every bound of the exchange in a row."""
    exchange._reply_timeout_s = bound_s
    exchange.send(np.zeros(6, np.float32))
    exchange.settle()


def piece(board, exchange, bound_s):
    sender = object.__new__(upload._Sender)
    sender._session, sender._quiet, sender._number = board, 0, 1
    sender._await(deque([1]))


WAITS = {  # each with what it waits beyond its own bound
    request: 0.0,
    pipeline: 0.0,
    handshake: 0.0,
    boot: 0.0,
    lockstep: 0.0,
    control_step: 0.0,
    settle: RECOVERY_TIMEOUT_S + SILENT_REBOOT_S,
    piece: upload.LONGEST_WAIT_S,
}


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_no_wait_is_longer_than_its_bound(linear_bundle, faults, wait, tell):
    random = np.random.default_rng(7)
    worst_s, count = -1.0, max(len(Flood.KINDS), faults // len(WAITS))
    for number in range(count):
        link = Flood(FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle)), lambda frame: [(0.0, frame)])
        board, exchange = exchange_over(link, linear_bundle, asks_again=bool(number % 2))
        link.open(random, Flood.KINDS[number % len(Flood.KINDS)])
        bound_s = float(random.uniform(0.005, 0.2))
        start_s = link.now_s()
        with contextlib.suppress(HarnessError):
            wait(board, exchange, bound_s)
        worst_s = max(worst_s, link.now_s() - start_s - bound_s - WAITS[wait])
        assert worst_s <= LATE_S, (link.kind, bound_s)
    tell(count, f"waits under flood, trickle and silence, at most {max(worst_s, 0) * 1e3:.1f} ms too long")


class Trickle:
    """The far end of a serial write: takes one byte at a time, each after a pause of a fake clock."""

    def __init__(self, monkeypatch, pause_s):
        self.now_s, self._pause_s = 0.0, pause_s
        monkeypatch.setattr(serial_link.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(serial_link.select, "select", self.select)
        monkeypatch.setattr(serial_link.os, "write", lambda descriptor, data: 1)

    def select(self, readers, writers, errors, timeout_s):
        self.now_s += min(self._pause_s, timeout_s)
        return [], writers if timeout_s >= self._pause_s else [], []


@pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.3, 0.9, 1.5])
def test_a_serial_write_has_one_deadline(pause_s):
    size = 1000
    with pytest.MonkeyPatch.context() as patch:
        far_end = Trickle(patch, pause_s)
        with contextlib.suppress(HarnessError):
            DescriptorLink(None, -1, "trickle").write(bytes(size))
    assert far_end.now_s <= serial_link.WRITE_TIMEOUT_S + size / serial_link.SLOWEST_BYTES_PER_S + LATE_S


class EndlessPort:
    """A pyserial port without a descriptor that always has bytes; its clock moves by a millisecond a read."""

    in_waiting = 100

    def __init__(self, empty):
        self.now_s, self._empty = 0.0, empty

    def read(self, size):
        self.now_s += 0.001
        return b"" if self._empty else b"x" * size


@pytest.mark.parametrize("empty", [True, False], ids=["silence", "flood"])
def test_a_read_of_a_port_without_a_descriptor_has_one_deadline(empty):
    port = EndlessPort(empty)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serial_link.time, "monotonic", lambda: port.now_s)
        for timeout_s in (0.0, 0.005, 0.3):
            port.now_s = 0.0
            GenericLink(port, "port").read(timeout_s)
            assert port.now_s <= timeout_s + LATE_S
