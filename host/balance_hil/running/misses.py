"""Why replies missed their control step: the host, the board or the link.

A late reply: the time from when its step was due until the host read it has three parts, and the largest is the cause.

    host    how late the observation was sent, and the longest of these: how long the reply may have lain unread, since the host
            last found the port empty; how much longer the loop slept than it asked for; how long the loop and the processes of
            an emulated board waited for a processor, and a hypervisor took processors (Linux)
    board   from the last byte of the request until the reply was ready, as ACTION's ``total_us`` reports it
    link    the rest

A lost reply: the link, if the board replied to a later observation (it replies in order); the board, if it rebooted or never
replied again. If the reply comes after all, its parts decide as for a late one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Cause = Literal["host", "board", "link"]
CAUSES: tuple[Cause, ...] = get_args(Cause)


class Parts(NamedTuple):
    """How the time of a reply divides, in microseconds."""

    host_us: float
    board_us: float
    link_us: float

    @classmethod
    def of(cls, elapsed_us: float, host_us: float, board_us: float) -> Parts:
        """The parts of ``elapsed_us``; neither clock is trusted beyond it."""
        host_us = min(host_us, elapsed_us)
        board_us = min(board_us, elapsed_us - host_us)
        return cls(host_us, board_us, elapsed_us - host_us - board_us)

    @property
    def cause(self) -> Cause:
        """The largest."""
        return CAUSES[self.index(max(self))]
