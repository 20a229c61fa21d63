"""Boards: anything that runs our firmware behind a serial port. After ``connect`` the host cannot tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from balance_hil.boards.board import Board
from balance_hil.boards.definition import BoardDefinition, find_definition, load_definitions
from balance_hil.boards.session import BoardInfo
from balance_hil.boards.upload import UploadResult
from balance_hil.bundle import Bundle
from balance_hil.errors import BoardBootError, CableUnpluggedError, UsageError
from balance_hil.link import Fault, open_link
from balance_hil.protocol.messages import Action

__all__ = [
    "Action",
    "Board",
    "BoardDefinition",
    "BoardInfo",
    "UploadResult",
    "connect",
    "find_definition",
    "load_definitions",
]


class _Options(TypedDict):
    definition: BoardDefinition
    faults: Sequence[Fault]
    fault_seed: int
    handshake_timeout_s: float | None


def connect(
    board: str,
    bundle: Bundle | None = None,
    *,
    port: str | None = None,
    baud: int | None = None,
    engine: str | None = None,
    faults: Sequence[Fault] | None = None,
    fault_seed: int = 0,
    model: Path | None = None,
    watchdog_ms: int | None = None,
    firmware_fault: str | None = None,
    handshake_timeout_s: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Board:
    """Starts or opens a board and has it say who it is.

    Args:
        board: name of a board definition.
        bundle: what it must run; None takes the board as it is. An emulated board is given the bundle's model.
        port: device or URL. An emulated board that runs already (``hil emulate``) is reached this way, too.
        baud: bits per second; None takes the definition's.
        engine: of an emulated board; None takes the definition's.
        faults: done to everything that passes once the board has identified itself.
        fault_seed: same seed, same frames hit.
        model: int8 ``.tflite`` for an emulated board in place of the bundle's (a stale image, on purpose).
        watchdog_ms: of an emulated board; None takes the firmware's own.
        firmware_fault: of an emulated board: one of ``native.firmware_faults``, to try the tools that look for faults.
        handshake_timeout_s: how long the board may take to say who it is; None: see ``Session``.
        progress: receives a line when something takes long (building the firmware).

    Raises:
        UnknownBoardError, UsageError, ConfigError: the name or the options make no sense.
        Port…Error: the port cannot be opened; see ``open_link``.
        LinkError, ModelMismatchError and the engine's errors: see ``Board``.
        BoardBootError, FirmwareBuildError, EmulatorMissingError, MissingExtraError: an emulated board cannot be started.
    """
    definition = find_definition(board)
    options: _Options = {
        "definition": definition,
        "faults": tuple(faults or ()),
        "fault_seed": fault_seed,
        "handshake_timeout_s": handshake_timeout_s,
    }
    if firmware_fault is not None and (port is not None or definition.kind != "native"):
        raise UsageError("only an emulated board can be given a fault on purpose", "leave --port out and take --board native")
    from balance_hil.boards.kinds.machines import emulate, find_port  # which need this package

    if port is not None or not definition.is_emulated:
        where, rate = port or find_port(definition), baud or definition.baud
        return Board(open_link(where, rate), bundle, baud=rate, **options)

    machine = emulate(
        definition, bundle, engine=engine, model=model, watchdog_ms=watchdog_ms, fault=firmware_fault, progress=progress
    )
    try:
        return Board(machine.start(), bundle, machine=machine, **options)
    except CableUnpluggedError as exc:
        raise BoardBootError(f"{exc.message}, before it said who it is", "check what it needs: hil doctor") from exc
    except BaseException:
        machine.close()
        raise
