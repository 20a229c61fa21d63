"""``hil run`` and ``hil soak`` on several boards at once: each in a process of its own, what they report on one screen."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from rich.live import Live
from rich.text import Text

from balance_hil.cli.console import say, stderr
from balance_hil.cli.run_output import PLAIN_EVERY_S, SHOW_EVERY_S
from balance_hil.errors import HarnessError, UsageError
from balance_hil.interrupt import SIGNALS, Interrupt, ended_by_signals
from balance_hil.processes import end_with_parent

# What a process does: takes the board, its number among boards of the same name, and who is told how far it is.
Job = Callable[[str, int, Callable[[str], None]], Any]

_POLL_S = 0.1
_STOP_S = 20.0  # for a run to end its control step and to check what it did


def run_at_once(boards: Sequence[str], job: Job, *, shown: bool) -> Iterator[tuple[int, Any]]:
    """Runs ``job`` for each board; yields its index and its result, a HarnessError or None (interrupted), as they come.

    Ctrl-C and SIGTERM are passed on: each run ends at its next control step. A second one ends the processes at once, and
    raises KeyboardInterrupt.
    """
    context = multiprocessing.get_context("forkserver")
    workers: dict[Connection, tuple[int, Any]] = {}
    with _Screen(boards, shown=shown) as screen:
        try:
            for index, name in enumerate(boards):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(job, name, boards[:index].count(name), theirs))
                process.start()  # waits until the fork server has imported; Ctrl-C may end that
                theirs.close()
                workers[ours] = index, process
            with Interrupt() as stop:
                stop_s = 0.0
                while workers:
                    if stop.requested and not stop_s:
                        stop_s = time.monotonic() + _STOP_S
                        for _, process in workers.values():
                            process.terminate()
                    if stop_s and time.monotonic() > stop_s:
                        raise KeyboardInterrupt
                    for ready in wait(list(workers), timeout=_POLL_S):
                        assert isinstance(ready, Connection)
                        index, process = workers[ready]
                        kind, content = _receive(ready, process)
                        if kind == "said":
                            say(content if content.startswith(boards[index]) else f"{boards[index]}: {content}")
                        elif kind == "at":
                            screen.show(index, content)
                        else:
                            del workers[ready]
                            process.join()
                            screen.show(index, "")
                            yield index, content
        finally:
            for _, process in workers.values():
                process.kill()
                process.join()


def start_fork_server() -> None:
    """Starts the process that imports once what every run needs; each run's process is forked from it.

    MuJoCo and numba give this process threads, which do not survive a fork. The signals that end a program stay blocked there and
    in a process that begins: a signal to the whole group, as Ctrl-C is, would end it without a word.

    Raises UsageError on Windows.
    """
    if sys.platform == "win32":
        raise UsageError("several boards at once need Linux or macOS", "name one board: --board NAME")
    forkserver.set_forkserver_preload(["balance_hil.cli.imported_once"])
    resource_tracker.ensure_running()  # forkserver.ensure_running() would start it, and that unblocks the signals
    os.environ["BALANCE_HIL_STARTER"] = str(os.getpid())
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        del os.environ["BALANCE_HIL_STARTER"]


def _receive(connection: Connection, process: Any) -> tuple[str, Any]:
    try:
        kind, content = connection.recv()
    except (EOFError, OSError):
        process.join()
        return "ended", HarnessError(f"its process ended with status {process.exitcode}", "run this board alone: --board NAME")
    return str(kind), content


def _work(job: Job, name: str, number: int, connection: Connection) -> None:
    """The process of one board."""
    end_with_parent()
    os.setsid()  # Ctrl-C on the terminal reaches the parent alone, which passes it on once, as SIGTERM
    for passed_on in (signal.SIGINT, signal.SIGHUP):
        signal.signal(passed_on, signal.signal(passed_on, signal.SIG_IGN))  # drops one that came before
    sys.stderr = _Said(connection)
    with ended_by_signals() as ended:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            result = job(name, number, lambda text: connection.send(("at", text)))
        except KeyboardInterrupt:
            result = None
        except HarnessError as exc:
            result = None if ended.by_signal else exc  # a signal while something is imported may look like another error
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a second signal must not lose the result
    connection.send(("ended", result))


class _Said(io.TextIOBase):
    """What a process prints, line by line to its parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._connection.send(("said", line))
        return len(text)


class _Screen:
    """A line for each board on a terminal; elsewhere one now and then."""

    def __init__(self, boards: Sequence[str], *, shown: bool) -> None:
        self._boards = boards
        self._texts = [""] * len(boards)
        self._live = Live(console=stderr, auto_refresh=False, transient=True) if shown and stderr.is_terminal else None
        self._every_s = SHOW_EVERY_S if self._live else PLAIN_EVERY_S
        self._next_s = time.monotonic() + self._every_s

    def show(self, index: int, text: str) -> None:
        self._texts[index] = text
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + self._every_s
        if self._live is None:
            for name, each in zip(self._boards, self._texts, strict=True):
                if each:
                    say(f"{name}: {each}")
            return
        width = max(map(len, self._boards))
        lines = [f"{name:<{width}}  {each}" for name, each in zip(self._boards, self._texts, strict=True)]
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
