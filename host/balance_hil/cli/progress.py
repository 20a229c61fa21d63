"""Progress bars of commands that work through rows, or through the tasks of a campaign."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from balance_hil.cli.console import say, stderr
from balance_hil.cli.run_output import PLAIN_EVERY_S

_SPEED_OVER_S = 3600.0  # a task may take minutes


class ProgressBars(Progress):
    """One bar on stderr for each thing that a stage reports: call it with what is running, how much is done, and of how much."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<28}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, console=stderr, transient=True)
        self._bars: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Moves the bar of ``what``; the first call makes it."""
        if what not in self._bars:
            self._bars[what] = self.add_task(what, total=total)
        self.update(self._bars[what], completed=done)


class CampaignBar(Progress):
    """One bar on stderr, with the time left; a line every ten seconds where stderr is not a terminal.

    Call it with the share of the tasks that is done, 0..1, and what ended last.
    """

    def __init__(self) -> None:
        columns = (
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", style="dim", markup=False),
        )
        super().__init__(*columns, console=stderr, transient=True, speed_estimate_period=_SPEED_OVER_S)
        self._bar = self.add_task("starting", total=1.0)
        self._next_s = time.monotonic() + PLAIN_EVERY_S

    def __call__(self, done: float, what: str) -> None:
        """Moves the bar."""
        self.update(self._bar, completed=done, description=what)
        now = time.monotonic()
        if stderr.is_terminal or now < self._next_s:
            return
        self._next_s = now + PLAIN_EVERY_S
        task = self.tasks[self._bar]
        left = "" if task.time_remaining is None else f", {timedelta(seconds=round(task.time_remaining))} left"
        say(f"{done:.0%} after {timedelta(seconds=round(task.elapsed or 0))}{left}: {what}")
