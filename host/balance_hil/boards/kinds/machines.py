"""Boards by kind: those that this program starts, and those that already exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from balance_hil.boards.definition import BoardDefinition
from balance_hil.boards.engines import check_fits, choose_engine
from balance_hil.boards.kinds import BoardKind, find_kind, serial
from balance_hil.boards.kinds.emulated import EmulatedMachine, EmulationConfig
from balance_hil.bundle import Bundle
from balance_hil.errors import UsageError
from balance_hil.model_image import ModelImage

Progress = Callable[[str], None]


@runtime_checkable
class MachineKind(BoardKind, Protocol):
    """A kind whose boards this program starts."""

    def machine(self, definition: BoardDefinition, config: EmulationConfig, progress: Progress | None) -> EmulatedMachine:
        """A board of this kind, built and not yet started. Raises if it cannot be built."""

    def check_installation(self) -> None:
        """Raises if a board of this kind cannot be started here. Starts and builds nothing."""


@runtime_checkable
class PortKind(BoardKind, Protocol):
    """A kind whose boards already exist, behind a port."""

    def find_port(self, definition: BoardDefinition) -> str:
        """Device or URL of a board. Raises if none is found."""


def emulate(
    definition: BoardDefinition,
    bundle: Bundle | None = None,
    *,
    engine: str | None = None,
    model: Path | None = None,
    watchdog_ms: int | None = None,
    fault: str | None = None,
    device_clock: bool = False,
    count_instructions: bool = False,
    progress: Progress | None = None,
) -> EmulatedMachine:
    """The machine of an emulated board, built and not yet started. For the arguments see ``boards.connect``.

    Raises:
        UsageError: not an emulated board, no such engine or fault, or a board whose time the host cannot follow.
        BundleError, ModelTooWideError, UnsupportedOperatorError, ArenaTooSmallError: it cannot run the model.
        EmulatorMissingError, FirmwareBuildError, FlashToolMissingError, MissingExtraError: a prerequisite is missing.
    """
    kind = find_kind(definition.kind)
    if not isinstance(kind, MachineKind) or not definition.is_emulated:
        raise UsageError(f"the board {definition.name} is not emulated", "list emulated boards: hil boards")
    if device_clock and not getattr(kind, "HAS_DEVICE_CLOCK", False):
        raise UsageError(
            f"the emulator of {definition.name} has no clock of its own that a run could follow",
            "use --clock lockstep, or a board whose cycles are counted: --board pico",
        )
    if count_instructions and not getattr(kind, "COUNTS_INSTRUCTIONS", False):
        raise UsageError(f"the emulator of {definition.name} does not count instructions", "use --board qemu-m4")
    chosen = choose_engine(definition, engine, progress)
    image = ModelImage(model=model.read_bytes()) if model is not None else ModelImage.of(bundle) if bundle is not None else None
    arena_bytes = check_fits(definition, image.model, chosen) if image is not None else 0
    config = EmulationConfig(
        name=definition.type_name,
        engine=chosen,
        image=image,
        watchdog_ms=watchdog_ms,
        arena_bytes=arena_bytes or None,
        device_clock=device_clock,
        count_instructions=count_instructions,
        fault=fault,
    )
    return kind.machine(definition, config, progress)


def check_installation(definition: BoardDefinition) -> None:
    """Raises if an emulated board cannot be started here. Starts and builds nothing.

    Raises:
        EmulatorMissingError, FirmwareBuildError, FlashToolMissingError, MissingExtraError: what is missing.
    """
    kind = find_kind(definition.kind)
    if isinstance(kind, MachineKind):
        kind.check_installation()


def find_port(definition: BoardDefinition) -> str:
    """Device or URL of an existing board. Raises UsageError, and what its kind raises."""
    kind = find_kind(definition.kind)
    if definition.place and definition.place.is_connected:
        return serial.find_port(definition)
    if not isinstance(kind, PortKind):
        raise UsageError(f"boards of kind {definition.kind!r} such as {definition.name} have no port to find", "pass --port")
    return kind.find_port(definition)
