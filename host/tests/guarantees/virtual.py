"""Links to a fake board on a clock of their own, and an exchange over one: the guarantees about the loop need no wall clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from balance_hil.boards import Board
from balance_hil.running.exchange import Exchange
from balance_hil.running.trace import Trace
from balance_hil.scheduling import ProcessorWait
from balance_hil.testing.fake_board import FakeFirmware

LATENCY_S = 0.001  # from request to reply


class VirtualLink:
    """A fake board whose clock moves only while somebody waits. ``tamper``: a frame of the board to [(delay in s, bytes)]."""

    description = "virtual"

    def __init__(self, firmware: FakeFirmware, tamper: Callable[[bytes], list[tuple[float, bytes]]]) -> None:
        self._now_s = 1000.0
        self._firmware, self._tamper = firmware, tamper
        self._held: list[tuple[float, int, bytes]] = []
        self._count = 0
        self.deaf_until_s = 0.0  # rebooting: what is written is lost
        firmware.boot()

    def now_s(self) -> float:
        return self._now_s

    def say(self, data: bytes, delay_s: float = LATENCY_S) -> None:
        self._count += 1
        heapq.heappush(self._held, (self._now_s + delay_s, self._count, data))

    def write(self, data: bytes) -> None:
        if self._now_s < self.deaf_until_s:
            return
        for _, frame in self._firmware.feed(data):
            for delay_s, changed in self._tamper(frame):
                self.say(changed, LATENCY_S + delay_s)

    def read(self, timeout_s: float) -> bytes:
        wake = self._now_s + max(0.0, timeout_s)
        if self._held and self._held[0][0] <= wake:
            due, _, data = heapq.heappop(self._held)
            self._now_s = max(self._now_s, due)
            return data
        self._now_s = wake
        return b""

    def close(self) -> None:
        pass


def exchange_over(link, bundle, reply_timeout_s=0.02, *, asks_again=True):
    """Board and exchange over a link; losses have no limit."""
    board = Board(link, bundle, handshake_timeout_s=3.0)
    exchange = Exchange(
        board,
        bundle,
        reply_timeout_s=reply_timeout_s,
        max_lost=10**9,
        on_fault=lambda kind, detail, **numbers: None,
        trace=Trace(kept=False),
        processor_wait=ProcessorWait(None),
        asks_again=asks_again,
    )
    return board, exchange
