"""What every transport offers. Bytes only: framing and meaning belong to ``protocol`` and ``boards``."""

from __future__ import annotations

from typing import Protocol


class Link(Protocol):
    """An open, full-duplex byte stream to one board. One thread uses it at a time."""

    @property
    def description(self) -> str:
        """Where it leads, for messages: "/dev/ttyACM0", "socket://bench:4000"."""

    def write(self, data: bytes) -> None:
        """Sends all of ``data``.

        Raises:
            CableUnpluggedError: the port vanished.
            LinkError: the far end takes no more bytes.
        """

    def read(self, timeout_s: float) -> bytes:
        """Returns whatever has arrived, waiting at most ``timeout_s`` for the first byte; b"" when none came.

        Never sleeps: the first byte wakes it.

        Raises:
            CableUnpluggedError: the port vanished.
        """

    def close(self) -> None:
        """Releases the port; may be called twice."""
