"""The parent's side of the episodes of each stage: stages run side by side, each in a child process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from balance_hil.errors import ExportError
from balance_hil.exporting.episodes_worker import EpisodesRequest, StageEpisodes
from balance_hil.metrics import EpisodeMetrics
from balance_hil.processes import tied

_SIDE_BY_SIDE = 2  # the machine that this has to be quick on has two cores
_LOG_CHARACTERS = 800


class EpisodeRuns:
    """Runs the episodes of stages in the background. Use it as a context manager: leaving it ends whatever still runs."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._pool = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="episodes")
        self._children: list[subprocess.Popen[str]] = []
        self._closing = False

    def submit(self, request: EpisodesRequest, progress: Callable[[float], None]) -> Future[StageEpisodes]:
        """Starts them as soon as a core is free. The future raises ExportError when the child fails."""
        return self._pool.submit(self._run, request, progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._closing = True
        for child in list(self._children):
            child.kill()
        self._pool.shutdown(cancel_futures=True)

    def _run(self, request: EpisodesRequest, progress: Callable[[float], None]) -> StageEpisodes:
        command = [sys.executable, "-m", "balance_hil.exporting.episodes_worker"]
        with (
            self._log.open("a") as sink,
            subprocess.Popen(tied(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True) as child,
        ):
            self._children.append(child)
            if self._closing:
                child.kill()
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it ended already; the loop below finds out how
                child.stdin.write(request.to_line())
                child.stdin.close()
            for line in child.stdout:
                message = json.loads(line)
                if "episodes" in message:
                    return StageEpisodes([EpisodeMetrics(**episode) for episode in message["episodes"]], message["saturated"])
                progress(message["progress"])
        last = self._log.read_text(errors="replace").strip()[-_LOG_CHARACTERS:]
        raise ExportError(f"the episodes of the {request.runtime} policy failed:\n{last}", "check the installation: hil doctor")
