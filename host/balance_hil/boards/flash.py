"""Flashing: build the firmware with a bundle's model, upload it to a board, and verify that the board runs it.

    find the board ─ read its INFO ─ build ─ write (flash tool) ─ wait for the port ─ verify its INFO

The port is closed while the flash tool works. The board is then found by its USB serial number: its device name may change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from balance_hil.boards import BoardDefinition, BoardInfo, connect, find_board, held
from balance_hil.boards.bench import LABEL
from balance_hil.boards.boot_drive import copy_image, find_drive
from balance_hil.boards.engines import check_fits, choose_engine
from balance_hil.boards.farm import farm_kind
from balance_hil.boards.flash_tool import FlashTool, installed_tool, probe_of, upload
from balance_hil.boards.handshake import check_model
from balance_hil.boards.kinds.emulated import image_environment
from balance_hil.boards.kinds.serial import find_port
from balance_hil.boards.reservation import all_reserved, probe, reserved
from balance_hil.bundle import HEADER, Bundle
from balance_hil.errors import (
    AmbiguousBoardError,
    BoardNotBackError,
    FlashFailedError,
    HarnessError,
    LinkError,
    PortBusyError,
    PortNotFoundError,
    PortOpenError,
    PortPermissionError,
    UsageError,
    WrongBoardError,
)
from balance_hil.firmware_build import build_image, check_board_tools, firmware_commit, image_variables
from balance_hil.link import SerialPort, list_serial_ports

ASK_TIMEOUT_S = 3.0  # opening the port resets some boards, and those take up to 2 s to boot
BACK_TIMEOUT_S = 30.0  # from the end of the upload to INFO: re-enumeration, udev rules, boot
DRIVE_TIMEOUT_S = 15.0  # from the boot loader's start: USB enumeration, and the desktop mounts the drive
LOOK_INTERVAL_S = 0.1
# Transient errors of a port that has just appeared: ModemManager probes it, udev has not set its group yet.
PASSING = (PortNotFoundError, PortBusyError, PortPermissionError, PortOpenError, LinkError)

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class FlashConfig:
    """What to flash where."""

    bundle: Bundle
    board: str  # name of a board of the bench's map or of a type of board, or "@LABEL"
    port: str | None = None  # device or URL; None: of a board of the map its own, else the one port whose USB ids match
    engine: str | None = None  # "tflm" or "int8"; None: see ``choose_engine``
    baud: int | None = None  # baud rate of the new firmware; None: the definition's
    force: bool = False  # also if the same image runs, there is no port yet, or the board reports another type
    drive: Path | None = None  # boot drive; None: the one that is mounted
    back_timeout_s: float = BACK_TIMEOUT_S
    wait_s: float = 0.0  # time to wait for a port that another user holds


@dataclass(frozen=True, kw_only=True)
class FlashResult:
    """What a board runs after ``flash``."""

    board: str
    port: str  # "" for a board that was flashed through its boot drive and has no port yet
    flashed: bool  # False: the board already ran this image
    info: BoardInfo | None  # what the board reports; None without a port
    wall_s: float


@dataclass(frozen=True)
class _Target:
    """Where the board is: the requested port and its entry in the operating system."""

    where: str | None  # None: no port yet (only with force)
    usb: SerialPort | None

    def port(self) -> SerialPort | None:
        """For the flash tool; None if it has to look for the board itself."""
        if self.usb is not None or self.where is None or "://" in self.where:
            return self.usb
        return SerialPort(device=self.where, description="", vid=None, pid=None, serial_number=None, accessible=True, group=None)


def flash(config: FlashConfig, progress: Progress = lambda line: None) -> FlashResult:
    """Flashes a board unless it already runs the same image: same model, same firmware commit, same engine.

    Raises:
        UnknownBoardError, UsageError: no such board or engine, one that is not flashed, or --baud where the image has its own.
        ModelTooWideError, UnsupportedOperatorError, ArenaTooSmallError: the board cannot run the model.
        PortNotFoundError, AmbiguousBoardError: no board or several boards match.
        PortBusyError, PortPermissionError, PortOpenError: the port cannot be opened.
        WrongBoardError: the board reports another type.
        FlashToolMissingError, FirmwareBuildError, FlashFailedError: with the tool's last lines of output.
        BoardNotBackError and handshake errors: the flashed board does not answer, or not correctly.
    """
    start = time.monotonic()
    if not config.board.startswith(LABEL):
        definition = find_board(config.board)
        _check(definition)
        if definition.place is None:
            return _flash_type(definition, config, start, progress)
    with held(config.board, config.wait_s, progress, port=config.port) as place:
        _check(place.definition)
        bound = replace(config, board=place.definition.name, port=place.port)
        return _flash_type(place.definition, bound, start, progress)


def _flash_type(definition: BoardDefinition, config: FlashConfig, start: float, progress: Progress) -> FlashResult:
    engine = choose_engine(definition, config.engine, progress)
    check_fits(definition, config.bundle.model(), engine)
    if definition.upload != "drive" and config.drive is not None:
        raise UsageError(f"{definition.name} has no boot drive", "leave out --drive")
    if definition.upload == "drive":
        return _flash_drive(definition, config, engine, start, progress)
    environment = image_environment(definition, engine)
    check_board_tools(environment)
    tool = installed_tool(definition)
    target = _locate(definition, tool, config)
    serial_number = probe_of(definition, target.usb) if tool.takes == "probe" else ""
    if definition.place and tool.takes == "probe" and not serial_number:
        raise UsageError(
            f"{definition.place.file} names no probe of {definition.name}, and {tool.name} would use the first that it finds",
            'add its serial number: probe = "..."; probes that are ports, too: hil boards',
        )
    resources = [target.where] if target.where else []
    resources += [probe(serial_number)] if serial_number else []
    # Also while the flash tool has the port: nobody may open it between the two images.
    with all_reserved(resources, config.wait_s, progress):
        return _flash(definition, tool, target, config, engine, start, progress)


def _flash(
    definition: BoardDefinition,
    tool: FlashTool,
    target: _Target,
    config: FlashConfig,
    engine: str,
    start: float,
    progress: Progress,
) -> FlashResult:
    running = _ask(definition, target, config.baud)
    _refuse_other_board(definition, running, config.force)
    if running is not None and target.where is not None and not config.force and _is_same(running, config.bundle, engine):
        check_model(running, config.bundle, target.where, definition)
        return _result(definition, target.where, running, start, flashed=False)

    environment = image_environment(definition, engine)
    header, baud = config.bundle.file(HEADER), config.baud or definition.baud
    own = definition.own_sources
    arena_bytes = check_fits(definition, config.bundle.model(), engine)
    image = build_image(environment, header, progress, baud=baud, own=own, arena_bytes=arena_bytes)
    upload(tool, definition, environment, image, target.port(), image_variables(header, baud, own, arena_bytes), progress)
    progress("waiting for the board to come back")
    where, info = _wait_until_back(definition, target, config, engine)
    check_model(info, config.bundle, where, definition)
    _refuse_other_board(definition, info, force=False)
    return _result(definition, where, info, start, flashed=True)


def _flash_drive(definition: BoardDefinition, config: FlashConfig, engine: str, start: float, progress: Progress) -> FlashResult:
    if config.baud not in (None, definition.baud):
        raise UsageError(f"the image of {definition.name} has a fixed rate of {definition.baud} baud", "leave out --baud")
    environment = image_environment(definition, engine)
    arena_bytes = check_fits(definition, config.bundle.model(), engine)
    image = build_image(environment, config.bundle.file(HEADER), progress, arena_bytes=arena_bytes).with_suffix(".uf2")
    copy_image(image, _drive(definition, config, image, progress), progress)
    if config.port is None:
        return _result(definition, "", None, start, flashed=True)
    with reserved(config.port, config.wait_s, progress):
        progress("waiting for the board to come back")
        where, info = _wait_until_back(definition, _Target(config.port, None), config, engine)
        check_model(info, config.bundle, where, definition)
    return _result(definition, where, info, start, flashed=True)


def _drive(definition: BoardDefinition, config: FlashConfig, image: Path, progress: Progress) -> Path:
    """The boot drive. If there is none, the firmware behind the port is asked to start the boot loader."""
    try:
        drive = find_drive(config.drive, image)
        if definition.place is None or config.port is None or config.drive is not None:
            return drive
        raise AmbiguousBoardError(
            f"the boot drive {drive} is there already, and may be another board's than that of {definition.name}",
            f"eject it; or, if it is that of {definition.name}, name it: --drive {drive}",
        )
    except PortNotFoundError as exc:
        if config.port is None:
            raise
        by_hand = exc.hint
    try:
        with (
            reserved(config.port, config.wait_s, progress),
            connect(definition.name, port=config.port, handshake_timeout_s=ASK_TIMEOUT_S) as board,
        ):
            _refuse_other_board(definition, board.info, config.force)
            progress(f"starting the boot loader of the board on {config.port}")
            board.enter_bootloader()
    except LinkError as exc:  # no firmware, or one that is older than this request
        raise type(exc)(f"the boot loader was not started: {exc.message}", by_hand) from exc
    deadline = time.monotonic() + DRIVE_TIMEOUT_S
    while True:
        try:
            return find_drive(config.drive, image)
        except PortNotFoundError as exc:
            if time.monotonic() > deadline:
                raise PortNotFoundError(
                    f"the board on {config.port} was sent to its boot loader, and no boot drive was mounted within "
                    f"{DRIVE_TIMEOUT_S:g} s",
                    "connect the chip's own USB port too, mount the drive RPI-RP2, and repeat with --drive FOLDER",
                ) from exc
        time.sleep(LOOK_INTERVAL_S)


def _result(definition: BoardDefinition, where: str, info: BoardInfo | None, start: float, *, flashed: bool) -> FlashResult:
    return FlashResult(board=definition.name, port=where, flashed=flashed, info=info, wall_s=time.monotonic() - start)


def _check(definition: BoardDefinition) -> None:
    """Raises UsageError when there is nothing to flash."""
    if farm_kind(definition.name):
        raise UsageError(
            f"{definition.name} is a board of a farm: its probe is not on this computer",
            f"flash it there (docs/farm.md); or send the model through its port: hil run ppo --upload --board {definition.name}",
        )
    if definition.is_emulated and definition.upload != "drive":
        raise UsageError(
            f"{definition.name} is emulated: it is not flashed, it is given the model when it starts",
            f"start it with the model: hil emulate MODEL --board {definition.name}",
        )
    if not definition.environment:
        raise UsageError(
            f"the definition of {definition.name} names no PlatformIO environment, so there is nothing to build for it",
            "name the very board: hil boards lists them; or add environment to its file",
        )
    if definition.hal and definition.upload in ("platformio", "drive"):
        raise UsageError(
            f"the file of {definition.name} names no tool that can write its flash",
            'add upload = "stlink" and upload_options: docs/custom-board.md, On a desk',
        )


# --- before ---------------------------------------------------------------------------------------------------------------


def _locate(definition: BoardDefinition, tool: FlashTool, config: FlashConfig) -> _Target:
    ports = list_serial_ports()
    alike = [port for port in ports if definition.usb_numbers_fit(port)]
    if tool.takes == "any" and len(alike) > 1:
        raise AmbiguousBoardError(
            f"{len(alike)} boards look like {definition.name}: {', '.join(port.device for port in alike)}, and "
            f"{tool.name} uses the first one it finds",
            "unplug the others",
        )
    try:
        where = config.port or find_port(definition, ports)
    except PortNotFoundError as exc:
        if config.force:
            return _Target(None, None)
        raise PortNotFoundError(
            exc.message, f"{exc.hint}; if the board has no port before its first flash, start its boot loader and add --force"
        ) from exc
    if "://" not in where and not Path(where).exists():
        raise PortNotFoundError(f"no such port: {where}", "list ports and boards: hil boards")
    return _Target(where, next((port for port in ports if _is_device(port, where)), None))


def _is_device(port: SerialPort, where: str) -> bool:
    """Whether ``where`` names this port, possibly through a link such as those in /dev/serial/by-id."""
    return "://" not in where and Path(port.device).resolve() == Path(where).resolve()


def _ask(definition: BoardDefinition, target: _Target, baud: int | None) -> BoardInfo | None:
    """INFO of the board; None if it does not run this firmware. Raises if the port cannot be opened."""
    if target.where is None:
        return None
    try:
        with connect(definition.name, port=target.where, baud=baud, handshake_timeout_s=ASK_TIMEOUT_S) as board:
            return board.info
    except LinkError:
        return None


def _refuse_other_board(definition: BoardDefinition, info: BoardInfo | None, force: bool) -> None:
    if info is None or force or info.board == definition.type_name:
        return
    place = definition.place
    raise WrongBoardError(
        f"the board reports that it is {info.board}, not {definition.type_name}",
        f"correct kind of {place.name} in {place.file}, or override with --force"
        if place
        else f"use --board {info.board}, name another port with --port, or override with --force",
    )


def _is_same(info: BoardInfo, bundle: Bundle, engine: str) -> bool:
    commit = firmware_commit()
    known = commit != "unknown" and not commit.endswith("+")  # a build with uncommitted changes
    return known and _runs(info, bundle, engine)


def _runs(info: BoardInfo, bundle: Bundle, engine: str) -> bool:
    flashed = (info.model_id, info.firmware_commit, info.engine) == (bundle.id, firmware_commit(), engine)
    return flashed and not info.uploaded  # an uploaded model is lost at reset


# --- after ----------------------------------------------------------------------------------------------------------------


def _wait_until_back(definition: BoardDefinition, target: _Target, config: FlashConfig, engine: str) -> tuple[str, BoardInfo]:
    """Port and INFO of the board once it runs the new image. Raises the latest error if it does not."""
    deadline = time.monotonic() + config.back_timeout_s
    why: HarnessError = BoardNotBackError(
        f"{definition.name} was flashed and its port did not come back within {config.back_timeout_s:g} s",
        "press its reset button; if that does not help, reconnect it and flash it from its boot loader",
    )
    while (left_s := deadline - time.monotonic()) > 0:
        where = _port_now(definition, target)
        if where is not None:
            try:
                with connect(
                    definition.name, port=where, baud=config.baud, handshake_timeout_s=min(ASK_TIMEOUT_S, left_s)
                ) as board:
                    if _runs(board.info, config.bundle, engine):
                        return where, board.info
                    why = _old_image(board.info, where)
            except PASSING as exc:
                why = BoardNotBackError(
                    f"{definition.name} was flashed and does not run the image {config.back_timeout_s:g} s later: {exc.message}",
                    "press its reset button; if that does not help, flash it again with --force",
                )
        time.sleep(LOOK_INTERVAL_S)
    raise why


def _port_now(definition: BoardDefinition, target: _Target) -> str | None:
    """Current port of the board."""
    if target.usb is not None and target.usb.serial_number:
        same = [
            port for port in list_serial_ports() if port.serial_number == target.usb.serial_number and port.vid == target.usb.vid
        ]
        return same[0].device if same else None
    if target.where is not None:
        return target.where if "://" in target.where or Path(target.where).exists() else None
    alike = [port.device for port in list_serial_ports() if definition.matches(port)]
    return alike[0] if len(alike) == 1 else None


def _old_image(info: BoardInfo, where: str) -> FlashFailedError:
    return FlashFailedError(
        f"the flash tool reported success, but the board on {where} still runs policy {info.model_id or 'none'} with the engine "
        f"{info.engine} (firmware {info.firmware_commit})",
        "another board may have been flashed: unplug the others and try again",
    )
