"""Boards of a farm, ``--board KIND:PLACE``: a kind with ``acquired`` lends them, each as if it stood in the bench's map."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, cast

from balance_hil.boards import reservation
from balance_hil.boards.kinds import find_kind, kind_names
from balance_hil.boards.place import Place
from balance_hil.errors import ConfigError, UnknownBoardError

SEPARATOR = ":"
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class FarmPlace:
    """A board that a farm lists."""

    name: str  # for --board
    kind: str  # type of board, a name that `hil boards` lists
    labels: tuple[str, ...] = ()
    held_by: str = ""  # "" = free
    since: float | None = None  # Unix time, s

    @property
    def state(self) -> str:
        """ "free", or "held by alice on bench since 14:03:22, 5 min ago"."""
        if not self.held_by:
            return "free"
        return f"held by {self.held_by}" + (f" {reservation.since(self.since)}" if self.since else "")


class FarmKind(Protocol):
    """A kind that lends boards. What it raises reaches the user, if it is a HarnessError."""

    def acquired(self, place: str, wait_s: float, progress: Progress | None) -> AbstractContextManager[Place]:
        """Holds the board at ``place``, of which nobody else may have it: its ``port``, ``kind`` and perhaps ``power`` are set.

        It waits up to ``wait_s`` for another owner, and releases the board at the end, also of a killed program.
        """

    def places(self) -> list[FarmPlace]:
        """The boards of the farm, for ``hil boards``; none where the user has named no farm."""


@dataclass
class _Use:
    stack: contextlib.ExitStack
    place: Place
    users: int = 0


_uses: dict[str, _Use] = {}
_lock = threading.RLock()


def farm_kind(name: str) -> tuple[FarmKind, str] | None:
    """The farm and the place that a name means; None if it is no such name. Raises UnknownBoardError, ConfigError."""
    kind_name, separator, place = name.partition(SEPARATOR)
    if not separator or kind_name not in kind_names():
        return None
    kind = find_kind(kind_name)
    if not hasattr(kind, "acquired"):
        return None
    if not place:
        raise UnknownBoardError(f"{name} names no place", f"as in {kind_name}:bench-a; list them: hil boards")
    return cast(FarmKind, kind), place


def farm_kinds() -> list[str]:
    """Names of the kinds that lend boards. A kind whose package is broken is none."""
    found = []
    for name in kind_names():
        with contextlib.suppress(ConfigError):
            found += [name] if hasattr(find_kind(name), "acquired") else []
    return found


@contextlib.contextmanager
def acquired(name: str, wait_s: float = 0.0, progress: Progress | None = None) -> Iterator[Place]:
    """Holds a board of a farm for this process, which may enter it repeatedly. Raises what its kind raises."""
    with _lock:
        use = _uses.get(name) or _begin(name, wait_s, progress)
        use.users += 1
    try:
        yield use.place
    finally:
        with _lock:
            use.users -= 1
            if not use.users:
                del _uses[name]
                use.stack.close()


def _begin(name: str, wait_s: float, progress: Progress | None) -> _Use:
    found = farm_kind(name)
    assert found is not None  # ``find_board`` has checked it
    kind, place = found
    stack = contextlib.ExitStack()
    _uses[name] = use = _Use(stack, stack.enter_context(kind.acquired(place, wait_s, progress)))
    return use
