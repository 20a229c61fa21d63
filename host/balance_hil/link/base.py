"""The transport interface. Bytes only: framing and messages belong to ``protocol`` and ``boards``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Link(Protocol):
    """An open, full-duplex byte stream to one board. One thread uses it at a time."""

    @property
    def description(self) -> str:
        """The port, for messages: "/dev/ttyACM0", "socket://bench:4000"."""

    def write(self, data: bytes) -> None:
        """Sends all of ``data``.

        Raises:
            CableUnpluggedError: the port vanished.
            LinkError: the far end takes no more bytes.
        """

    def read(self, timeout_s: float) -> bytes:
        """Returns the received bytes, waiting at most ``timeout_s`` for the first one; b"" if none arrives.

        Returns as soon as the first byte arrives.

        Raises:
            CableUnpluggedError: the port vanished.
        """

    def close(self) -> None:
        """Closes the port; may be called twice."""


def clock_of(link: Link) -> Callable[[], float]:
    """The clock, in seconds, by which waiting on ``link`` is measured: its own ``now_s`` where it has one, else the wall clock.

    A link to an emulator that advances only on request has one.
    """
    now_s: Callable[[], float] = getattr(link, "now_s", time.perf_counter)
    return now_s
