"""Reservations: one user at a time of a port, a debug probe or a board of the bench, whoever runs on this computer.

A reservation is a locked file that names its owner. The kernel releases the lock when the owner ends, SIGKILL included.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import filelock

from balance_hil.boards.channel import printable
from balance_hil.errors import PortBusyError, PortOpenError
from balance_hil.files import is_locked, parse_json

# Shared by all users of this computer, so neither the user's own runtime folder nor TMPDIR.
LOCKS = Path("/tmp" if sys.platform != "win32" else tempfile.gettempdir()) / "balance_hil-locks"  # noqa: S108
LOOK_INTERVAL_S = 0.05
_ALWAYS_WAIT_S = 0.2  # ``reservations`` in another process holds a lock for an instant
_MAX_OWNER_BYTES = 4096
_MAX_TEXT = 200
_SUFFIX = ".lock"
_PROBE, _BOARD = "probe:", "board:"  # resources that are no ports


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a port."""

    port: str  # as the owner named it; or its probe, or the board itself: see ``probe`` and ``board``
    user: str
    host: str
    pid: int
    command: str
    since: float  # Unix time, s
    board: str = ""  # its name in the bench's map

    def __str__(self) -> str:
        """One sentence part: "alice (process 123 on bench: hil run ppo) since 14:03:22, 5 min ago"."""
        return f"{self.user} (process {self.pid} on {self.host}: {self.command}) {since(self.since)}"

    @property
    def age(self) -> str:
        """Time since it began: see ``age``."""
        return age(self.since)


def age(start: float) -> str:
    """Time since ``start``, Unix time in s: "12 s", "5 min", "3 h", "2 d"."""
    seconds = max(0.0, time.time() - start)
    for unit, size_s, most in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 24)):
        if seconds < size_s * most:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def since(start: float) -> str:
    """One sentence part about ``start``, Unix time in s: "since 14:03:22, 5 min ago"."""
    return f"since {time.strftime('%H:%M:%S', time.localtime(start))}, {age(start)} ago"


def probe(serial_number: str) -> str:
    """The name under which ``reserved`` holds a debug probe."""
    return _PROBE + serial_number


def board(name: str, bench: Path) -> str:
    """The name under which ``reserved`` holds a board of the bench whose map is ``bench``."""
    return f"{_BOARD}{bench}#{name}"


@contextlib.contextmanager
def reserved(port: str, wait_s: float = 0.0, progress: Callable[[str], None] | None = None, *, name: str = "") -> Iterator[None]:
    """Holds ``port`` for this process, which may enter it repeatedly; links to one device are one port.

    Args:
        port: device, URL, or what ``probe`` or ``board`` return.
        wait_s: time to wait for another owner to release it.
        progress: called with a message if there is one.
        name: of its board in the bench's map.

    Raises:
        PortBusyError: another process holds it; the message names the owner.
        PortOpenError: the lock file cannot be made.
    """
    path = _lock_file(port)
    if path is None:
        yield
        return
    try:
        lock = _acquired(path, port, name, wait_s, progress)
    except PortBusyError:
        raise
    except OSError as exc:
        raise PortOpenError(f"cannot reserve {port}: {path}: {exc.strerror}", f"make {LOCKS} writable for every user") from exc
    try:
        yield
    finally:
        if lock.lock_counter == 1:  # the file goes while it is locked; a sticky folder keeps the files of other users
            with contextlib.suppress(OSError):
                path.unlink()
        lock.release()


@contextlib.contextmanager
def all_reserved(
    resources: Sequence[str], wait_s: float = 0.0, progress: Callable[[str], None] | None = None, *, name: str = ""
) -> Iterator[None]:
    """Holds what belongs to one board; the arguments and errors are those of ``reserved``."""
    deadline = time.monotonic() + wait_s
    with contextlib.ExitStack() as stack:
        for resource in resources:
            stack.enter_context(reserved(resource, max(0.0, deadline - time.monotonic()), progress, name=name))
        yield


@contextlib.contextmanager
def first_free(
    boards: Mapping[str, Sequence[str]], what: str, wait_s: float = 0.0, progress: Callable[[str], None] | None = None
) -> Iterator[str]:
    """Holds the first of ``boards``, name to resources, that nobody has, this process included; yields its name.

    Raises:
        PortBusyError: none got free within ``wait_s``; the message names ``what`` was wanted and the owners.
        PortOpenError: a lock file cannot be made.
    """
    deadline = time.monotonic() + wait_s
    told = False
    with contextlib.ExitStack() as stack:
        while True:
            owners = []
            for name, resources in boards.items():
                if any(_is_ours(resource) for resource in resources):
                    owners.append(f"{name} is held by this very program")
                    continue
                try:
                    stack.enter_context(all_reserved(resources, name=name))
                except PortBusyError as exc:
                    owners.append(exc.message)
                    continue
                yield name
                return
            held = "; ".join(owners)
            if time.monotonic() >= deadline:
                raise PortBusyError(f"no {what} is free: {held}", _wait_hint(wait_s))
            if progress is not None and not told:
                progress(f"waiting up to {wait_s:g} s for one of {what}: {held}")
            told = True
            time.sleep(LOOK_INTERVAL_S)


def reservations() -> list[Owner]:
    """Who holds which port now; none where the system cannot tell."""
    owners = [owner for path in sorted(LOCKS.glob(f"*{_SUFFIX}")) if is_locked(path) and (owner := _owner(path))]
    return sorted(owners, key=lambda owner: owner.port)


def _is_ours(port: str) -> bool:
    path = _lock_file(port)
    return path is not None and filelock.FileLock(path, mode=0o666, is_singleton=True, thread_local=False).is_locked


def _wait_hint(waited_s: float) -> str:
    return f"wait for it: --wait {max(60, 2 * round(waited_s))}; who holds what: hil boards"


def _acquired(path: Path, port: str, name: str, wait_s: float, progress: Callable[[str], None] | None) -> filelock.BaseFileLock:
    if not LOCKS.is_dir():
        LOCKS.mkdir(exist_ok=True)
        LOCKS.chmod(0o1777)  # mkdir's mode is cut by the umask
    lock = filelock.FileLock(path, mode=0o666, is_singleton=True, thread_local=False)
    try:
        lock.acquire(timeout=_ALWAYS_WAIT_S, poll_interval=LOOK_INTERVAL_S)
    except filelock.Timeout:
        owner = _owner(path)
        if wait_s > 0 and progress is not None:
            progress(f"waiting up to {wait_s:g} s for {name or port}, held by {owner or 'another program'}")
        try:
            lock.acquire(timeout=max(0.0, wait_s - _ALWAYS_WAIT_S), poll_interval=LOOK_INTERVAL_S)
        except filelock.Timeout:
            raise PortBusyError(f"{name or port} is held by {_owner(path) or 'another program'}", _wait_hint(wait_s)) from None
    if lock.lock_counter == 1:
        _sign(path, port, name)
    return lock


def identity(port: str) -> str | None:
    """What all names of a port have in common; None for one that nobody else can open."""
    if port.startswith((_PROBE, _BOARD)):
        return port
    if "://" not in port:
        return os.path.realpath(port)
    try:
        url = urlsplit(port)
        if url.scheme not in ("socket", "rfc2217") or not url.hostname:
            return None
        address = socket.gethostbyname(url.hostname)
    except (OSError, ValueError):
        return None  # nobody can open it
    return f"{address}:{url.netloc.rpartition(':')[2]}"


def _lock_file(port: str) -> Path | None:
    which = identity(port)
    if which is None:
        return None
    name = "".join(c if c.isalnum() or c in ".-" else "_" for c in which.strip("/"))[-60:]
    return LOCKS / f"{name}-{hashlib.sha256(which.encode()).hexdigest()[:8]}{_SUFFIX}"


def _sign(path: Path, port: str, name: str) -> None:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for the user id
        user = f"user {os.getuid()}" if sys.platform != "win32" else "unknown"
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    owner = Owner(
        port=port,
        user=user,
        host=socket.gethostname(),
        pid=os.getpid(),
        command=command[:_MAX_TEXT],
        since=time.time(),
        board=name,
    )
    with contextlib.suppress(OSError):  # the lock holds without it; Windows does not let it be written
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(owner), file)


def _owner(path: Path) -> Owner | None:
    """Who signed a lock file; None if nobody did. Any user may have written it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            values = parse_json(file.read(_MAX_OWNER_BYTES))
        values = {"board": "", **values}  # earlier versions wrote none
        texts = {name: printable(str(values[name]))[:_MAX_TEXT] for name in ("port", "user", "host", "command", "board")}
        time.localtime(since := float(values["since"]))
        return Owner(pid=int(values["pid"]), since=since, **texts)
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
