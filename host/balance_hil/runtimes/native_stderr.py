"""Captures what native code prints to the C stream ``stderr``, for use in error messages."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()  # blocks nest: each ends with its own text


class NativeText:
    """Text that was captured; complete once the ``with`` block of ``captured_stderr`` has ended."""

    text: str = ""


@contextmanager
def captured_stderr() -> Iterator[NativeText]:
    """Points file descriptor 2 at a scratch file while the block runs, and restores it whatever happens.

    Keep the block short: for its duration the whole process writes there. A process without a descriptor 2 (a daemon) is left
    as it is, and the text stays empty.
    """
    captured = NativeText()
    with _lock, tempfile.TemporaryFile() as scratch:
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            saved = os.dup(2)
        except OSError:
            yield captured
            return
        try:
            os.dup2(scratch.fileno(), 2)
            yield captured
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            scratch.seek(0)
            captured.text = scratch.read().decode(errors="replace")
