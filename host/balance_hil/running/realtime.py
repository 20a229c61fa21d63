"""The realtime clock: the plant advances on the wall clock, whatever the board does, so that the board's true latency acts on it.

The device clock is the same on the time of an emulated chip whose cycles are counted: nothing depends on this computer's speed,
and a run repeats bit for bit.

Control step k is due at start + k * period, on a schedule that never drifts. Its observation goes out; then the physics advances
substep by substep on the schedule, and an action takes effect in the substep in which it arrives. Until then, and when
the reply is lost, the action in force is held. An environment without substeps is stepped at the end of the period, with the
action that arrived in it: there a latency below the period does not act on the plant.

When this computer is late itself, substeps that are overdue run back to back until the schedule is reached again; each late
control step is counted as jitter. If it is more than one control period behind, the plant would advance before the board
could reply, so the schedule is moved instead and the stall is counted. No simulated time is dropped either way.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from balance_hil.distribution import Distribution
from balance_hil.environment import Float32Array
from balance_hil.running.episode import Episode
from balance_hil.running.exchange import Exchange, Reply

LEAD_S = 0.002  # from the start of an episode to its first control step
_PR_SET_TIMERSLACK = 29


@dataclass
class TimingStats:
    """How well this computer kept the schedule."""

    jitter_us: Distribution = field(default_factory=Distribution)  # how late each control step began
    stalls_ms: Distribution = field(default_factory=Distribution)  # each time the schedule had to be moved


def run_episode(episode: Episode, exchange: Exchange, timing: TimingStats, starts_every_s: float | None = None) -> None:
    """Runs one episode on the clock of ``exchange``; it starts at a multiple of ``starts_every_s``, if given.

    Raises what ``Exchange.poll`` raises.
    """
    env = episode.env
    period_s = env.spec.control_period_s
    observation = episode.begin()
    due_s = exchange.now_s() + LEAD_S
    if starts_every_s is not None:
        due_s = math.ceil(due_s / starts_every_s) * starts_every_s
    _wait_until(due_s, episode, exchange)
    while episode.goes_on():
        if episode.intervene():
            exchange.settle()
            due_s = exchange.now_s() + LEAD_S
            _wait_until(due_s, episode, exchange)
        late_s = max(0.0, exchange.now_s() - due_s)
        timing.jitter_us.add(late_s * 1e6)
        if late_s > period_s:
            timing.stalls_ms.add(late_s * 1e3)
            episode.fault("stall", f"this computer was {late_s * 1e3:.1f} ms late; the schedule moved")
            due_s += late_s
        exchange.step = episode.step
        exchange.send(observation, due_s)
        substeps = _Substeps(due_s, episode, exchange)
        result = env.step(None, substeps.before)
        observation = episode.finish_step(
            observation, result, substeps.taken[-1][1] if substeps.taken else None, late_s * 1e6, substeps.taken
        )
        due_s += period_s
    exchange.step = episode.step
    episode.report()
    exchange.settle()


class _Substeps:
    """The substeps of one control step on the schedule that began at ``due_s``."""

    def __init__(self, due_s: float, episode: Episode, exchange: Exchange) -> None:
        self._due_s, self._episode, self._exchange = due_s, episode, exchange
        self._begun = 0
        self.taken: list[tuple[int, Reply]] = []  # replies that took effect, with the substep, counted from 1

    def before(self) -> Float32Array | None:
        """Waits for the next substep's time; returns the outputs that take effect in it."""
        env = self._episode.env
        self._begun += 1
        if self._begun == env.substeps:
            self._episode.report()  # at the latest; see _wait_until
        reply = _wait_until(self._due_s + self._begun * env.substep_s, self._episode, self._exchange)
        if reply is None:
            return None
        self.taken.append((self._begun, reply))
        return reply.outputs


def _wait_until(boundary_s: float, episode: Episode, exchange: Exchange) -> Reply | None:
    """Handles frames that arrive up to ``boundary_s``; returns the last reply that takes effect.

    The previous step is recorded and shown once a reply has arrived, when there is time.
    """
    latest: Reply | None = None
    while True:
        left_s = boundary_s - exchange.now_s()
        reply = exchange.poll(left_s if left_s > 0 else 0.0)
        if reply is not None:
            episode.report()
            latest = reply
        elif left_s <= 0 or exchange.now_s() >= boundary_s:
            return latest


@contextlib.contextmanager
def low_jitter() -> Iterator[None]:
    """Keeps Python's garbage collector and the kernel's timer slack (50 us by default) out of the loop."""
    was_enabled = gc.isenabled()
    gc.disable()  # what was allocated meanwhile is young afterwards, and so collected soon
    _set_timer_slack_ns(1)
    try:
        yield
    finally:
        _set_timer_slack_ns(0)  # back to the default
        if was_enabled:
            gc.enable()


def _set_timer_slack_ns(slack_ns: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0)
