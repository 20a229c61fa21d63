"""Another user of a board: a forked process that holds a resource until its pipe closes."""

import contextlib
import multiprocessing
import os
import time

from balance_hil.boards.reservation import reserved


def _hold(port, pipe, user, name):
    if user:
        os.setuid(user)
    with reserved(port, name=name):
        pipe.send("held")
        with contextlib.suppress(EOFError):
            time.sleep(pipe.recv())


@contextlib.contextmanager
def another_user(port, user=None, name=""):
    """Yields the process and a pipe: it releases the resource that many seconds after it was sent them, or at once at the end."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=_hold, args=(port, theirs, user, name))
    process.start()
    theirs.close()
    try:
        assert ours.recv() == "held"
        yield process, ours
    finally:
        with contextlib.suppress(OSError):
            ours.send(0.0)
        process.join()
