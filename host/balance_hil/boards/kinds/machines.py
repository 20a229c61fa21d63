"""Emulated boards: one table of the kinds that this program starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from balance_hil.boards.definition import BoardDefinition
from balance_hil.boards.engines import check_fits, choose_engine
from balance_hil.boards.kinds import native, qemu
from balance_hil.boards.kinds.emulated import EmulatedMachine, EmulationConfig
from balance_hil.bundle import Bundle
from balance_hil.errors import UsageError
from balance_hil.model_image import ModelImage

Progress = Callable[[str], None]


class Kind(Protocol):
    """What the module of a kind offers."""

    def machine(self, definition: BoardDefinition, config: EmulationConfig, progress: Progress | None) -> EmulatedMachine:
        """A board of this kind, built and not yet started. Raises what keeps it from being built."""

    def check_installation(self) -> None:
        """Raises what keeps a board of this kind from being started here, without starting or building anything."""


KINDS: dict[str, Kind] = {"native": native, "qemu": qemu}


def emulate(
    definition: BoardDefinition,
    bundle: Bundle | None = None,
    *,
    engine: str | None = None,
    model: Path | None = None,
    watchdog_ms: int | None = None,
    fault: str | None = None,
    progress: Progress | None = None,
) -> EmulatedMachine:
    """The machine of an emulated board, built and not yet started. For the arguments see ``boards.connect``.

    Raises:
        UsageError: the board is not an emulated one, or has no such engine or fault.
        BundleError, ModelTooWideError, UnsupportedOperatorError, ArenaTooSmallError: it cannot take the model.
        EmulatorMissingError, FirmwareBuildError, FlashToolMissingError, MissingExtraError: what it needs is not there.
    """
    if definition.kind not in KINDS:
        raise UsageError(f"the board {definition.name} is not an emulated one", "those that are: hil boards")
    chosen = choose_engine(definition, engine, progress)
    image = ModelImage(model=model.read_bytes()) if model is not None else ModelImage.of(bundle) if bundle is not None else None
    if image is not None:
        check_fits(definition, image.model, chosen)
    config = EmulationConfig(name=definition.name, engine=chosen, image=image, watchdog_ms=watchdog_ms, fault=fault)
    return KINDS[definition.kind].machine(definition, config, progress)


def check_installation(definition: BoardDefinition) -> None:
    """Raises what keeps an emulated board from being started here, without starting or building anything.

    Raises:
        EmulatorMissingError, FirmwareBuildError, FlashToolMissingError, MissingExtraError: what is missing.
    """
    if definition.kind in KINDS:
        KINDS[definition.kind].check_installation()
