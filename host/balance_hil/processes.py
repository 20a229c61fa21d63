"""Child processes that end when their parent does, however it ends: SIGKILL included."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

_Jobs = queue.SimpleQueue[tuple[Future[subprocess.Popen[Any]], Callable[[], subprocess.Popen[Any]]]]

# $0 is the parent's process id: a parent that ended before the signal was asked for sends none.
_ALONE = '[ "$PPID" = "$0" ] && exec "$@"'
_GROUP = '[ "$PPID" = "$0" ] || exit 1; trap "kill -KILL 0" TERM; "$@" & wait $!'


def tied(command: Sequence[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    """``command`` as the kernel ends it with the thread that starts it: for a thread that waits for it.

    The process keeps the id that ``Popen`` returns. Where the kernel or util-linux cannot do this, it is ``command`` itself.
    """
    return _wrapped("KILL", _ALONE, command)


def popen(command: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
    """``subprocess.Popen`` of a process that ends with this program, whichever thread starts it."""
    # The kernel watches the thread, not the process: so one that lasts as long as the program starts them all.
    started: Future[subprocess.Popen[Any]] = Future()
    _starter(os.getpid()).put((started, lambda: subprocess.Popen(tied(command), **options)))
    try:
        return started.result()
    except BaseException:  # Ctrl-C: nobody will end the process
        started.add_done_callback(_end)
        raise


def _end(started: Future[subprocess.Popen[Any]]) -> None:
    if started.exception() is None:
        started.result().kill()


def run_group(
    command: Sequence[str], *, timeout_s: float | None = None, on_line: Callable[[str], None] | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Runs a program that starts others, without input; all of them end with this one, on an exception and at the timeout.

    ``on_line`` is called with each line of text as it is printed to stdout; stderr then has to go there too.

    Raises:
        subprocess.TimeoutExpired: it did not end in time.
        OSError: the program cannot be started.
    """
    process = subprocess.Popen(
        _wrapped("TERM", _GROUP, command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, **options
    )
    with process:
        try:
            if on_line is None:
                output, errors = process.communicate(timeout=timeout_s)
            else:
                output, errors = _read_lines(process, timeout_s, on_line), None
        finally:
            if process.poll() is None:
                _kill_group(process)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _read_lines(process: subprocess.Popen[str], timeout_s: float | None, on_line: Callable[[str], None]) -> str:
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")  # no line is empty: each has its end

    threading.Thread(target=read, daemon=True, name="read lines").start()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    output = []
    try:
        while line := lines.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic())):
            output.append(line)
            on_line(line.rstrip("\n"))
        process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise subprocess.TimeoutExpired(process.args, timeout_s or 0.0) from None
    return "".join(output)


def _kill_group(process: subprocess.Popen[Any]) -> None:
    if sys.platform == "win32":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def end_with_parent() -> None:
    """In a process that ``multiprocessing`` started: ends it as soon as its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_await_end, args=(parent,), daemon=True, name="end with parent").start()


def _await_end(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _wrapped(number: str, script: str, command: Sequence[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    launcher = _launcher()
    if launcher is None:
        return list(command)
    return [launcher, "--pdeathsig", number, "--", "/bin/sh", "-c", script, str(os.getpid()), *command]


@functools.cache
def _launcher() -> str | None:
    program = shutil.which("setpriv") if sys.platform == "linux" else None
    if program is None:
        return None
    works = subprocess.run([program, "--pdeathsig", "KILL", "--", "/bin/sh", "-c", ":"], capture_output=True).returncode == 0
    return program if works else None  # BusyBox has one without this option


@functools.cache
def _starter(pid: int) -> _Jobs:
    """Jobs of the thread that starts processes; a forked child (another ``pid``) has none and gets one of its own.

    A daemon: an executor of concurrent.futures that Ctrl-C interrupts while it starts its thread waits for it forever at exit.
    """
    jobs: _Jobs = queue.SimpleQueue()
    threading.Thread(target=_start_all, args=(jobs,), daemon=True, name="start processes").start()
    return jobs


def _start_all(jobs: _Jobs) -> None:
    while True:
        started, start = jobs.get()
        try:
            started.set_result(start())
        except BaseException as exc:
            started.set_exception(exc)
