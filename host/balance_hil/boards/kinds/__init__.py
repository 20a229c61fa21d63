"""Board kinds: how each sort of board is started or reached. An open registry.

A kind is a module (or an object) with KEYS and ``check_definition``, and either ``machine`` and ``check_installation`` (it starts
the board, see ``machines.MachineKind``) or ``find_port`` (the board is there already, see ``machines.PortKind``). A package
brings one of its own as an entry point of the group "balance_hil.boards", whose name is the kind's.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from balance_hil.errors import ConfigError
from balance_hil.files import did_you_mean

GROUP = "balance_hil.boards"
_SHIPPED = ("native", "qemu", "serial")


class BoardKind(Protocol):
    """What every kind has."""

    KEYS: Mapping[str, type]  # what a board's file may say besides the fields of BoardDefinition, with the values' types

    def check_definition(self, definition: Any) -> None:
        """Raises ConfigError where a BoardDefinition of this kind, read from a file, lacks something or makes no sense."""


def kind_names() -> list[str]:
    """The shipped kinds, and those that installed packages bring."""
    return [*_SHIPPED, *sorted(entry.name for entry in entry_points(group=GROUP) if entry.name not in _SHIPPED)]


@cache
def find_kind(name: str) -> BoardKind:
    """The kind called ``name``; a shipped one cannot be replaced.

    Raises:
        ConfigError: there is none, or the package that brings it cannot be imported.
    """
    if name in _SHIPPED:
        kind = importlib.import_module(f"{__name__}.{name}")
        return cast(BoardKind, kind)
    for entry in entry_points(group=GROUP, name=name):
        try:
            kind = entry.load()
        except Exception as exc:  # whatever a package of somebody else raises
            raise ConfigError(
                f"the board kind {name!r} cannot be imported from {entry.value}: {exc}", "repair that package"
            ) from exc
        return cast(BoardKind, kind)
    known = kind_names()
    raise ConfigError(
        f"no such kind of board: {name!r}" + did_you_mean(name, known),
        f"kinds are {', '.join(known)}; one of your own: docs/boards.md",
    )
