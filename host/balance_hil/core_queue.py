"""A queue for the cores of this computer: real-time episodes take turns rather than disturb each other, whoever runs them.

An episode has a ticket: a locked file whose name carries its number and the share of the cores that it needs. It begins when this
share and those of all tickets before it fit. So none is overtaken, and the kernel returns the ticket of an owner that dies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from balance_hil.files import is_locked, locked
from balance_hil.scheduling import usable_cores

# Shared by all users of this computer, so neither the user's own runtime folder nor TMPDIR.
FOLDER = Path("/tmp/balance_hil-cores")  # noqa: S108
LOOK_INTERVAL_S = 0.1
MANY = 1000
_TICKET = re.compile(r"(\d+)-(\d{1,6})\.ticket")  # number, thousandths of a core


@contextlib.contextmanager
def cores(
    share: float, on_wait: Callable[[str], None] = lambda text: None, check: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Holds ``share`` cores of this computer, as soon as they are free. More than there are cores: all of them.

    Where there are no such locks (Windows), or the folder of the queue cannot be written, nothing is waited for.

    Args:
        share: number of cores, 0.65 for most of one.
        on_wait: is told when, and behind how many others, this waits.
        check: is called while it waits; may raise.
    """
    share = min(share, usable_cores())
    with contextlib.ExitStack() as stack:
        try:
            number = stack.enter_context(_ticket(share))
        except OSError as exc:
            on_wait(f"real-time runs do not queue for cores here: {FOLDER}: {exc.strerror}")
            number = None
        told = 0
        while number is not None and (ahead := _ahead(number, share)):
            check()
            if ahead != told:
                on_wait(f"waiting for a free core: {ahead} real-time run{'s' * (ahead > 1)} ahead")
                told = ahead
            time.sleep(LOOK_INTERVAL_S)
        yield


@contextlib.contextmanager
def _ticket(share: float) -> Iterator[int | None]:
    """A ticket behind all others; its number. Raises OSError."""
    if sys.platform == "win32":
        yield None
        return
    import fcntl

    _make_folder()
    with locked(FOLDER, wait=True):  # numbers in order: none is seen later than a higher one
        tickets = _tickets()
        for _, _, path in tickets:
            if not is_locked(path):
                with contextlib.suppress(OSError):  # of another user; it does not count
                    path.unlink()
        number = max((each for each, _, _ in tickets), default=0) + 1
        path = FOLDER / f"{number}-{round(share * 1000)}.ticket"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield number
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _make_folder() -> None:
    """Raises OSError, also where somebody put a link there: what it points to is not ours to change."""
    try:
        FOLDER.mkdir()
    except FileExistsError:
        if not stat.S_ISDIR(FOLDER.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "it is not a folder") from None
    else:
        FOLDER.chmod(0o1777)  # mkdir's mode is cut by the umask


def _ahead(number: int, share: float) -> int:
    """How many tickets are before this one, if it must wait; else 0."""
    before = [each for other, each, path in _tickets() if other < number and is_locked(path)]
    return len(before) if round(sum(before) + share, 3) > usable_cores() else 0


def _tickets() -> list[tuple[int, float, Path]]:
    """Number, share and file of each ticket. Any user may have written files: a bounded number is looked at."""
    found = []
    with contextlib.suppress(OSError), os.scandir(FOLDER) as entries:
        for _, entry in zip(range(MANY), entries, strict=False):
            if match := _TICKET.fullmatch(entry.name):
                found.append((int(match[1]), int(match[2]) / 1000, Path(entry.path)))
    return found
