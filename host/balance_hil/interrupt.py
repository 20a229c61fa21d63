"""Signals that end the program: held back to the end of a step, raised as KeyboardInterrupt elsewhere, and lost nowhere."""

from __future__ import annotations

import _thread
import contextlib
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
_RAISED_AGAIN_S = 0.01
_IMPORTLIB = "<frozen importlib._bootstrap>"
_IMPORT_LOCKS = ("_lock_unlock_module", "_get_module_lock", "acquire", "release", "__enter__", "__exit__", "cb")
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupt:
    """While entered, the first Ctrl-C, SIGTERM or closed terminal only sets ``requested``; the next one acts as usual.

    Does nothing outside the main thread, where Python delivers no signals.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Raises KeyboardInterrupt if one was requested."""
        if self.requested:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


@contextlib.contextmanager
def entered(make: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """``with make()``, but a signal cannot fall between making something and being responsible for it: it waits till then."""
    with contextlib.ExitStack() as stack:
        with Interrupt() as interrupt:
            value = stack.enter_context(make())
        interrupt.check()
        yield value


@dataclass
class Ended:
    """Whether a signal came: what it interrupted may have made another error of KeyboardInterrupt."""

    by_signal: bool = False


def lose_none() -> Callable[[sys.UnraisableHookArgs], Any]:
    """From now on, a KeyboardInterrupt that Python ignores is raised again a moment later; returns the hook before."""
    ignored = sys.unraisablehook

    def not_lost(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            _thread.start_new_thread(_raise_again, ())
        else:
            ignored(unraisable)

    sys.unraisablehook = not_lost
    return ignored


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Ended]:
    """SIGTERM, a closed terminal and Ctrl-C raise KeyboardInterrupt, so that contexts exit and child processes end.

    SIGINT does so even if a shell started the program in the background with SIGINT ignored; nohup is respected.

    Raised in a destructor or a callback, where Python ignores every exception, it is raised again a moment later. It waits while
    an extension module is being loaded (many abort the process, or report an ImportError), while garbage is collected (a file
    that is closed there, and a serial port is one, drops what is raised without a word), and while a lock of importlib is taken
    or given back: it would stay locked, and what PyTorch's C++ code imports aborts the process.
    """
    ended = Ended()
    collecting = False

    def note_collection(phase: str, info: dict[str, int]) -> None:
        nonlocal collecting
        collecting = phase == "start"

    def interrupt(number: int, frame: FrameType | None) -> None:
        ended.by_signal = True
        if collecting or _imports_what_must_not_end(frame):
            _thread.start_new_thread(_raise_again, ())
        else:
            raise KeyboardInterrupt

    numbers = [number for number in SIGNALS if number == signal.SIGINT or signal.getsignal(number) == signal.SIG_DFL]
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    ignored = lose_none()
    gc.callbacks.append(note_collection)
    try:
        yield ended
    finally:
        gc.callbacks.remove(note_collection)
        sys.unraisablehook = ignored
        for number, handler in previous.items():
            signal.signal(number, handler)


def _imports_what_must_not_end(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        if code.co_filename == _IMPORTLIB and code.co_name in _IMPORT_LOCKS:
            return True
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def _raise_again() -> None:
    """In a thread without locks of its own: the interrupted code may hold those of ``threading``."""
    time.sleep(_RAISED_AGAIN_S)
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
