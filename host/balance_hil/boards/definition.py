"""Board definitions: one TOML file per board."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from balance_hil.errors import ConfigError, UnknownBoardError
from balance_hil.link import SerialPort

Kind = Literal["native", "qemu", "serial"]
# How the flash tool is told which board is meant: by the port, by the serial number of its debug probe, or not at all.
Upload = Literal["port", "probe", "any"]
# What its real time depends on. "host": an emulator that this computer may keep waiting, so a fall in a real-time episode says
# nothing when too many steps went without a reply; see hil_tests/README.md.
Timing = Literal["board", "host"]
FOLDER_VARIABLE = "HIL_BOARDS"
_SHIPPED = Path(__file__).parent / "definitions"


@dataclass(frozen=True, kw_only=True)
class BoardDefinition:
    """How to reach one board. Every field but ``name`` and ``kind`` may be left out of its file."""

    name: str  # what --board takes
    kind: Kind  # native: the firmware compiled for this computer; qemu: on an emulated processor; serial: behind a serial port
    description: str = ""
    baud: int = 921_600  # bits per second; means nothing to USB ports of the processor itself, and to pseudo-terminals
    port: str = ""  # device or URL; "" = find it by its USB numbers
    usb_vid: int | None = None
    usb_pid: int | None = None
    usb_also: str = ""  # further pairs that this board may have, "0483:374e 0483:3754"
    usb_serial: str = ""  # of one board: tells it from another of its kind, and survives re-enumeration
    engine: str = ""  # "tflm" or "int8"; "" = tflm where its library is there, else int8
    environment: str = ""  # of platformio.ini, that builds for it with the compact engine; with tflm: the same with "_tflm"
    machine: str = ""  # that QEMU emulates: "mps2-an386", ...
    timing: Timing = "board"
    upload: Upload = "port"
    platform: str = ""  # of PlatformIO, as in platformio.ini
    framework: str = ""
    tflm: str = ""  # where its TensorFlow Lite Micro comes from
    port_kind: str = ""  # what its serial port is
    tried: str = ""  # what is known to work, and what nobody has tried
    notes: str = ""

    @property
    def is_emulated(self) -> bool:
        """Whether it is started by this program, and not plugged in."""
        return self.kind != "serial"

    def matches(self, port: SerialPort) -> bool:
        """Whether ``port`` is this board, as far as USB numbers tell."""
        if self.port:
            return self.port == port.device
        if self.usb_vid is None:
            return False
        return self._usb_numbers_fit(port) and self.usb_serial in ("", port.serial_number or "")

    def _usb_numbers_fit(self, port: SerialPort) -> bool:
        if self.usb_vid == port.vid and self.usb_pid in (None, port.pid):
            return True
        return port.vid is not None and port.pid is not None and f"{port.vid:04x}:{port.pid:04x}" in self.usb_also.split()


ANY_SERIAL = BoardDefinition(name="serial", kind="serial", description="any board with our firmware behind a serial port")
_TYPES: dict[str, type] = {field.name: int if "int" in str(field.type) else str for field in fields(BoardDefinition)}


def definitions_folder() -> Path:
    """Where board files are: $HIL_BOARDS, ``host/balance_hil/boards/definitions`` here, or those that come with the package."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    here = Path("hil_tests", "boards")
    return here if here.is_dir() else _SHIPPED


def load_definitions(folder: Path | None = None) -> dict[str, BoardDefinition]:
    """Every board that has a file, by name.

    Raises:
        ConfigError: a file is no TOML, has an unknown key or a value of the wrong type; two files name the same board.
    """
    boards: dict[str, BoardDefinition] = {}
    for path in sorted((folder or definitions_folder()).glob("*.toml")):
        board = load_definition(path)
        if board.name in boards:
            raise ConfigError(f"{path}: the board {board.name!r} has another file already", "give each board a name of its own")
        boards[board.name] = board
    return boards


def find_definition(name: str, folder: Path | None = None) -> BoardDefinition:
    """The board called ``name``. Raises UnknownBoardError and what ``load_definitions`` raises."""
    boards = load_definitions(folder)
    if name in boards:
        return boards[name]
    near = difflib.get_close_matches(name, boards, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise UnknownBoardError(
        f"no board is called {name!r}",
        f"{guess}boards are {', '.join(sorted(boards)) or 'none'}: hil boards; files: {folder or definitions_folder()}",
    )


def load_definition(path: Path) -> BoardDefinition:
    """Reads one board file. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not TOML: {exc}", f"compare it with {_SHIPPED / 'native.toml'}") from exc
    return _checked(path, table)


def _checked(path: Path, table: Mapping[str, Any]) -> BoardDefinition:
    for key, value in table.items():
        if key not in _TYPES:
            near = difflib.get_close_matches(key, _TYPES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"keys are {', '.join(_TYPES)}"
            raise ConfigError(f"{path}: unknown key {key!r}", hint)
        if type(value) is not _TYPES[key]:
            raise ConfigError(f"{path}: {key} must be of type {_TYPES[key].__name__}, not {value!r}", "correct it")
    for key in ("name", "kind"):
        if not table.get(key):
            raise ConfigError(f"{path}: {key} is missing", f'add a line {key} = "..."')
    if table["kind"] not in get_args(Kind):
        raise ConfigError(f"{path}: no such kind {table['kind']!r}", f"kinds are {', '.join(get_args(Kind))}")
    if table["kind"] == "qemu" and not (table.get("environment") and table.get("machine")):
        raise ConfigError(
            f"{path}: a board of kind qemu needs environment and machine",
            f"compare it with {_SHIPPED / 'qemu-m4.toml'}",
        )
    if table.get("upload", "port") not in get_args(Upload):
        raise ConfigError(f"{path}: no such way to upload: {table['upload']!r}", f"ways are {', '.join(get_args(Upload))}")
    if table.get("timing", "board") not in get_args(Timing):
        raise ConfigError(f"{path}: no such timing: {table['timing']!r}", f"timings are {', '.join(get_args(Timing))}")
    if table.get("baud", 1) <= 0:
        raise ConfigError(f"{path}: baud must be positive, not {table['baud']}", "correct it")
    return BoardDefinition(**table)
