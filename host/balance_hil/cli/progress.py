"""Progress bars of commands that work through rows."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from balance_hil.cli.console import stderr


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
