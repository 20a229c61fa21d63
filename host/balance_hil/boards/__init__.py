"""Boards: anything that runs our firmware behind a serial port. After ``connect`` the host cannot tell them apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from balance_hil.boards.bench import find_board, held, power_cycled
from balance_hil.boards.board import Board
from balance_hil.boards.definition import BoardDefinition, find_definition, load_definitions
from balance_hil.boards.session import BoardInfo
from balance_hil.boards.upload import UploadResult
from balance_hil.bundle import Bundle
from balance_hil.errors import BoardBootError, CableUnpluggedError, UsageError
from balance_hil.link import Fault, Link, open_link
from balance_hil.protocol.messages import Action

__all__ = [
    "Action",
    "Board",
    "BoardDefinition",
    "BoardInfo",
    "UploadResult",
    "connect",
    "find_board",
    "find_definition",
    "held",
    "load_definitions",
    "power_cycled",
]

FAULTY_KINDS = ("native", "qemu")  # their boards can be started with a fault of the firmware's gallery


class _Options(TypedDict):
    definition: BoardDefinition
    faults: Sequence[Fault | str]
    fault_seed: int
    injectable: bool
    tamper: Callable[[Link], Link] | None
    handshake_timeout_s: float | None
    on_close: Callable[[], None]


def connect(
    board: str,
    bundle: Bundle | None = None,
    *,
    port: str | None = None,
    baud: int | None = None,
    engine: str | None = None,
    faults: Sequence[Fault | str] | None = None,
    fault_seed: int = 0,
    injectable: bool = False,
    model: Path | None = None,
    watchdog_ms: int | None = None,
    firmware_fault: str | None = None,
    tamper: Callable[[Link], Link] | None = None,
    handshake_timeout_s: float | None = None,
    device_clock: bool = False,
    count_instructions: bool = False,
    wait_s: float = 0.0,
    progress: Callable[[str], None] | None = None,
) -> Board:
    """Starts or opens a board and identifies it.

    Args:
        board: name of a board of the bench's map (boards.toml) or of a type of board, or "@LABEL": the first free one.
        bundle: policy that the board must run; None accepts any. An emulated board is started with the bundle's model.
        port: device or URL, also of an emulated board that is already running (``hil emulate``); not for one on the map.
        baud: bits per second; None takes the definition's.
        engine: of an emulated board; None takes the definition's.
        faults: injected after the handshake; a text is read as ``--fault`` is: docs/faults.md.
        fault_seed: the same seed affects the same frames.
        injectable: more faults may be injected later, by ``Board.faults.inject``.
        model: ``.tflite`` for an emulated board instead of the bundle's, to test a stale image.
        watchdog_ms: of an emulated board; None takes the firmware's own.
        firmware_fault: of a native or qemu board: one of ``native.firmware_faults``, to test fault detection.
        tamper: see ``Session``.
        handshake_timeout_s: time allowed for the handshake; None: see ``Session``.
        device_clock: the time of an emulated board advances only while the host waits for it; see ``Board.now_s``.
        count_instructions: the time of a board in QEMU advances by its instructions, which ``Board.profile`` then counts.
        wait_s: time to wait for a board that another user holds.
        progress: called with a message before long operations, such as building the firmware.

    Raises:
        UnknownBoardError, UsageError, ConfigError: the name or the options are invalid.
        Port…Error: the board cannot be reserved or opened; see ``held`` and ``open_link``.
        LinkError, ModelMismatchError and the engine's errors: see ``Board``.
        BoardBootError, FirmwareBuildError, EmulatorMissingError, MissingExtraError: an emulated board cannot be started.
    """
    reservation = contextlib.ExitStack()
    try:
        place = reservation.enter_context(held(board, wait_s, progress, port=port))
        definition = place.definition
        if firmware_fault is not None and (place.port is not None or definition.kind not in FAULTY_KINDS):
            raise UsageError("firmware faults work on emulated boards only", "omit --port and use --board native")
        if device_clock and place.port is not None:
            raise UsageError(
                f"{definition.name} is not an emulated board of this run: its clock cannot pace it",
                "omit --port and use --board pico",
            )
        if count_instructions and place.port is not None:
            raise UsageError(f"the instructions of {definition.name} are not counted", "omit --port and use --board qemu-m4")
        options: _Options = {
            "definition": definition,
            "faults": tuple(faults or ()),
            "fault_seed": fault_seed,
            "injectable": injectable,
            "tamper": tamper,
            "handshake_timeout_s": handshake_timeout_s,
            "on_close": reservation.close,
        }
        if place.port is not None:
            rate = baud or definition.baud
            return Board(open_link(place.port, rate), bundle, baud=rate, **options)
        from balance_hil.boards.kinds.machines import emulate  # it imports this package

        machine = emulate(
            definition,
            bundle,
            engine=engine,
            model=model,
            watchdog_ms=watchdog_ms,
            fault=firmware_fault,
            device_clock=device_clock,
            count_instructions=count_instructions,
            progress=progress,
        )
        reservation.callback(machine.close)
        try:
            return Board(machine.start(), bundle, machine=machine, **options)
        except CableUnpluggedError as exc:
            raise BoardBootError(f"{exc.message}, before the handshake completed", "check the installation: hil doctor") from exc
    except BaseException:
        reservation.close()
        raise
