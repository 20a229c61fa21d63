"""Configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from balance_hil.documents import CostDocument
from balance_hil.errors import UsageError
from balance_hil.spec import Terminated

if TYPE_CHECKING:
    from balance_hil.boards.definition import Timing

Clock = Literal["realtime", "lockstep", "device"]
# Real time: the board's watchdog time; a reply later than that is not expected. Lockstep waits longer, because a delay on a
# busy computer must not change a run that has to repeat bit for bit.
REPLY_TIMEOUT_S: dict[Clock, float] = {"realtime": 0.1, "lockstep": 0.5, "device": 0.1}
# An emulator may be descheduled for longer on a busy computer: seen once in 300,000 steps.
EMULATOR_TIMEOUT_S = 3.0
LOST_SHARE = 0.1  # enough for a busy computer; a lost board is still detected within half a second
MIN_LOST = 50


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: some episodes on one board."""

    seeds: Sequence[int]  # one per episode
    clock: Clock = "realtime"
    max_steps: int | None = None  # control steps of an episode; None: the environment's own
    environment: str | None = None  # its signal tables must be the bundle's; None: the bundle's environment
    options: Mapping[str, Any] | None = None  # of the environment's constructor and, under "reset", of its reset()
    terminated: Terminated = ""  # what termination means; "": that of the bundle
    max_lost: int | None = None  # control steps without a reply in time, over the run; None: 10 % of all, at least 50
    reply_timeout_s: float | None = None  # a reply that takes longer is lost; None: see ``timeout_s``
    recording: Path | None = None  # None: none is written
    cost: CostDocument | None = None  # of one inference, where the caller knows it; else a board that counts cycles is asked
    command: str = ""  # line that repeats the run: goes into the recording
    check_tflm: bool = True  # replay every raw input through tflm afterwards, where that is installed
    view: bool = False  # in a window

    def __post_init__(self) -> None:
        if self.clock not in get_args(Clock):
            raise UsageError(f"no such clock: {self.clock}", f"clocks are {', '.join(get_args(Clock))}")
        if not self.seeds:
            raise UsageError("a run needs at least one episode", "--episodes 1")
        if self.max_steps is not None and self.max_steps < 1:
            raise UsageError("an episode needs at least one step", "give more --steps or a longer --seconds")
        if self.reply_timeout_s is not None and self.reply_timeout_s <= 0:
            raise UsageError("the reply timeout must be positive", "leave it out")

    def timeout_s(self, timing: Timing, control_period_s: float) -> float:
        """How long a reply may take before it counts as lost.

        In real time 0.1 s, and never less than a control period; in lockstep 0.5 s, 3 s of an emulator.
        """
        if self.reply_timeout_s is not None:
            return self.reply_timeout_s
        if self.clock != "lockstep":
            return max(REPLY_TIMEOUT_S[self.clock], control_period_s)
        return EMULATOR_TIMEOUT_S if timing == "host" else REPLY_TIMEOUT_S["lockstep"]

    def lost_bound(self, episode_steps: int) -> int:
        """Control steps that may go without a reply in time."""
        if self.max_lost is not None:
            return self.max_lost
        return max(MIN_LOST, int(LOST_SHARE * len(self.seeds) * (self.max_steps or episode_steps)))


class Tick(NamedTuple):
    """One finished control step, handed to ``on_tick`` while the loop waits for the next."""

    episode: int
    step: int
    t_s: float  # simulated time within the episode
    plant: tuple[str, float] | None  # first of what the environment traces: name and value
    action: Sequence[float]
    round_trip_us: float | None  # None: no reply took effect in this step
    misses: int  # late and lost replies and requests not sent, so far
