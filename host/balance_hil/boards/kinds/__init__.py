"""Board kinds: how each type of board is started or reached. An open registry.

A kind is a module (or an object) with KEYS and ``check_definition``, and either ``machine`` and ``check_installation`` (it starts
the board, see ``machines.MachineKind``) or ``find_port`` (the board already exists, see ``machines.PortKind``). One with
``acquired`` and ``places`` lends the boards of a farm, ``--board KIND:PLACE``, see ``farm.FarmKind``; it has no board files.
With COUNTS_CYCLES = True, the boards' times are those of the processor, so that they can be expressed in its cycles; CORES is the
share of this computer's cores that a board takes in real time. A package
adds a kind through an entry point of the group "balance_hil.boards", whose name is the name of the kind.
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
_SHIPPED = ("native", "qemu", "rp2040", "serial", "labgrid")


class BoardKind(Protocol):
    """What every kind has."""

    KEYS: Mapping[str, type]  # keys of a board file besides the fields of BoardDefinition, with the types of their values

    def check_definition(self, definition: Any) -> None:
        """Raises ConfigError if a BoardDefinition of this kind, read from a file, is incomplete or invalid."""


def kind_names() -> list[str]:
    """The shipped kinds and those of installed packages."""
    return [*_SHIPPED, *sorted(entry.name for entry in entry_points(group=GROUP) if entry.name not in _SHIPPED)]


@cache
def find_kind(name: str) -> BoardKind:
    """The kind called ``name``; shipped kinds cannot be replaced.

    Raises:
        ConfigError: unknown kind, or its package cannot be imported.
    """
    if name in _SHIPPED:
        kind = importlib.import_module(f"{__name__}.{name}")
        return cast(BoardKind, kind)
    for entry in entry_points(group=GROUP, name=name):
        try:
            kind = entry.load()
        except Exception as exc:  # a third-party package may raise anything
            raise ConfigError(
                f"the board kind {name!r} cannot be imported from {entry.value}: {exc}", "fix or reinstall that package"
            ) from exc
        return cast(BoardKind, kind)
    known = kind_names()
    raise ConfigError(
        f"unknown board kind: {name!r}" + did_you_mean(name, known),
        f"choose one of {', '.join(known)}; to add your own, see docs/boards.md",
    )
