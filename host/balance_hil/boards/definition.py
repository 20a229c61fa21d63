"""Board definitions: one TOML file per board, shipped or the user's own."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from balance_hil.boards.kinds import find_kind
from balance_hil.errors import ConfigError, UnknownBoardError
from balance_hil.files import did_you_mean
from balance_hil.link import SerialPort
from balance_hil.paths import CONFIG

# How the flash tool is told which board is meant: by the port, by the serial number of its debug probe, or not at all.
Upload = Literal["port", "probe", "any"]
# What its real time depends on. "host": an emulator that this computer may keep waiting, so a fall in a real-time episode says
# nothing when too many steps went without a reply; see hil_tests/README.md.
Timing = Literal["board", "host"]
FOLDER_VARIABLE = "HIL_BOARDS"
SHIPPED = Path(__file__).parent / "definitions"
_NO_KEYS = ("settings", "file")  # fields of a definition that its file does not name


@dataclass(frozen=True, kw_only=True)
class BoardDefinition:
    """How to reach one board. Every field but ``name`` and ``kind`` may be left out of its file."""

    name: str  # what --board takes
    kind: str  # native: the firmware compiled for this computer; qemu: on an emulated processor; serial: behind a serial port
    description: str = ""
    baud: int = 921_600  # bits per second; means nothing to USB ports of the processor itself, and to pseudo-terminals
    port: str = ""  # device or URL; "" = find it by its USB numbers
    usb_vid: int | None = None
    usb_pid: int | None = None
    usb_also: str = ""  # further pairs that this board may have, "0483:374e 0483:3754"
    usb_serial: str = ""  # of one board: tells it from another of its kind, and survives re-enumeration
    engine: str = ""  # "tflm" or "int8"; "" = tflm where its library is there, else int8
    environment: str = ""  # of platformio.ini, that builds for it with the compact engine; with tflm: the same with "_tflm"
    timing: Timing = "board"
    upload: Upload = "port"
    platform: str = ""  # of PlatformIO, as in platformio.ini
    framework: str = ""
    tflm: str = ""  # where its TensorFlow Lite Micro comes from
    port_kind: str = ""  # what its serial port is
    tried: str = ""  # what is known to work, and what nobody has tried
    notes: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)  # what the kind's own KEYS say
    file: Path | None = field(default=None, compare=False)

    @property
    def is_emulated(self) -> bool:
        """Whether it is started by this program, and not plugged in."""
        return hasattr(find_kind(self.kind), "machine")

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
_TYPES: dict[str, type] = {
    each.name: int if "int" in str(each.type) else str for each in fields(BoardDefinition) if each.name not in _NO_KEYS
}


def definition_folders() -> list[Path]:
    """Where board files are: the shipped ones, and the user's own.

    Those are in ``boards/`` of the current folder, in ``boards/`` of the user's configuration folder, and in the folders that
    $HIL_BOARDS names.
    """
    named = [Path(name) for name in os.environ.get(FOLDER_VARIABLE, "").split(os.pathsep) if name]
    return [SHIPPED, Path("boards"), CONFIG / "boards", *named]


def load_definitions(folder: Path | None = None) -> dict[str, BoardDefinition]:
    """Every board that has a file, by name.

    Args:
        folder: take the files of this folder alone.

    Raises:
        ConfigError: a file is no TOML, has an unknown key or a value of the wrong type; two files name the same board.
    """
    boards: dict[str, BoardDefinition] = {}
    files = [path for place in ([folder] if folder else definition_folders()) for path in sorted(place.glob("*.toml"))]
    for path in dict.fromkeys(path.resolve() for path in files):
        board = load_definition(path)
        if board.name in boards:
            raise ConfigError(
                f"{path}: there is a board {board.name!r} already, in {boards[board.name].file}", "give it a name of its own"
            )
        boards[board.name] = board
    return boards


def find_definition(name: str, folder: Path | None = None) -> BoardDefinition:
    """The board called ``name``. Raises UnknownBoardError and what ``load_definitions`` raises."""
    boards = load_definitions(folder)
    if name in boards:
        return boards[name]
    raise UnknownBoardError(
        f"no board is called {name!r}" + did_you_mean(name, boards), f"boards are {', '.join(sorted(boards))}: hil boards"
    )


def load_definition(path: Path) -> BoardDefinition:
    """Reads one board file. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not TOML: {exc}", f"compare it with {SHIPPED / 'native.toml'}") from exc
    return _checked(path, table)


def _checked(path: Path, table: Mapping[str, Any]) -> BoardDefinition:
    for key in ("name", "kind"):
        if not isinstance(table.get(key, ""), str):
            raise ConfigError(f"{path}: {key} must be of type str, not {table[key]!r}", "correct it")
        if not table.get(key):
            raise ConfigError(f"{path}: {key} is missing", f'add a line {key} = "..."')
    try:
        kind = find_kind(table["kind"])
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc.message}", exc.hint) from exc
    types = {**_TYPES, **kind.KEYS}
    for key, value in table.items():
        if key not in types:
            raise ConfigError(f"{path}: unknown key {key!r}" + did_you_mean(key, types), f"keys are {', '.join(types)}")
        if type(value) is not types[key]:
            raise ConfigError(f"{path}: {key} must be of type {types[key].__name__}, not {value!r}", "correct it")
    for key, known in (("upload", get_args(Upload)), ("timing", get_args(Timing))):
        if table.get(key, known[0]) not in known:
            raise ConfigError(f"{path}: {key} cannot be {table[key]!r}", f"it is one of {', '.join(known)}")
    if table.get("baud", 1) <= 0:
        raise ConfigError(f"{path}: baud must be positive, not {table['baud']}", "correct it")
    shared = {key: value for key, value in table.items() if key in _TYPES}
    own = {key: value for key, value in table.items() if key not in _TYPES}
    definition = BoardDefinition(**shared, settings=own, file=path)
    try:
        kind.check_definition(definition)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc.message}", exc.hint) from exc
    return definition
