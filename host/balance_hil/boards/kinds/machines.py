"""Emulated boards by the kind of their definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from balance_hil.boards.definition import BoardDefinition
from balance_hil.boards.kinds import native, qemu
from balance_hil.boards.kinds.emulated import EmulatedMachine, EmulationConfig
from balance_hil.bundle import Bundle
from balance_hil.errors import UsageError
from balance_hil.model_image import ModelImage


def emulate(
    definition: BoardDefinition,
    bundle: Bundle | None = None,
    *,
    engine: str | None = None,
    model: Path | None = None,
    watchdog_ms: int | None = None,
    fault: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> EmulatedMachine:
    """The machine of an emulated board, built and not yet started. For the arguments see ``boards.connect``.

    Raises:
        UsageError: the board is not an emulated one, or has no such engine or fault.
        EmulatorMissingError, FirmwareBuildError, FlashToolMissingError, MissingExtraError: what it needs is not there.
    """
    if not definition.is_emulated:
        raise UsageError(f"the board {definition.name} is not an emulated one", "those that are: hil boards")
    if definition.kind == "native":
        engine = engine or native.engine_or_substitute(definition.engine, progress)
    image = ModelImage(model=model.read_bytes()) if model is not None else ModelImage.of(bundle) if bundle is not None else None
    config = EmulationConfig(
        name=definition.name, engine=engine or definition.engine, image=image, watchdog_ms=watchdog_ms, fault=fault
    )
    if definition.kind == "qemu":
        return qemu.QemuMachine(definition, config, progress)
    return native.NativeMachine(config, progress)


def check_installation(definition: BoardDefinition) -> None:
    """Raises what keeps an emulated board from being started here, without starting or building anything.

    Raises:
        EmulatorMissingError, FirmwareBuildError, FlashToolMissingError, MissingExtraError: what is missing.
    """
    if definition.kind == "qemu":
        qemu.check_installation()
    elif definition.kind == "native":
        native.check_installation()
