"""Board definitions: one TOML file per board, shipped or the user's own."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from balance_hil.boards.kinds import find_kind
from balance_hil.boards.place import Place
from balance_hil.errors import ConfigError, UnknownBoardError
from balance_hil.files import did_you_mean, read_limited
from balance_hil.firmware_build import OwnSources
from balance_hil.link import SerialPort
from balance_hil.paths import CONFIG

# What writes its flash: a row of ``flash_tool.TOOLS``, PlatformIO with the tool of its platform, or a copy to its boot drive.
Upload = Literal["platformio", "teensy", "stlink", "esptool", "bossac", "drive"]
# What its real-time behavior depends on. "host": an emulator that this computer may delay; a failed real-time episode with too
# many missed replies is then inconclusive; see hil_tests/README.md.
Timing = Literal["board", "host"]
CUSTOM = "custom"  # the environment of platformio.ini for boards with a folder hal
INTERRUPTS = 82  # of the vector table: hal_cortex/vectors.h
FOLDER_VARIABLE = "HIL_BOARDS"
MAX_BYTES = 16 << 10  # of a board file; tomllib takes a time that grows with its square
SHIPPED = Path(__file__).parent / "definitions"
_NO_KEYS = ("settings", "file", "place")  # fields that a board file cannot set


@dataclass(frozen=True, kw_only=True)
class BoardDefinition:
    """How to reach one board. Every field but ``name`` and ``kind`` may be left out of its file."""

    name: str  # value of --board
    kind: str  # native: the firmware compiled for this computer; qemu: on an emulated processor; serial: behind a serial port
    description: str = ""
    baud: int = 921_600  # bits per second; ignored by native USB ports and pseudo-terminals
    port: str = ""  # device or URL; "" = find it by its USB ids
    usb_vid: int | None = None
    usb_pid: int | None = None
    usb_also: str = ""  # alternative USB ids, "0483:374e 0483:3754"
    usb_serial: str = ""  # identifies one of several boards of this type; survives re-enumeration
    engine: str = ""  # "tflm" or "int8"; "" = tflm if its library is available, else int8
    environment: str = ""  # in platformio.ini, with the compact engine; "_tflm" is appended for tflm
    timing: Timing = "board"
    upload: Upload = "platformio"
    upload_options: str = ""  # words for the flash tool that depend on the chip
    platform: str = ""  # of PlatformIO, as in platformio.ini
    framework: str = ""
    tflm: str = ""  # where its TensorFlow Lite Micro comes from
    port_kind: str = ""  # what its serial port is
    tried: str = ""  # what has been tested on hardware and what has not
    notes: str = ""
    hal: str = ""  # folder of your board's five functions, beside this file (custom-board.md); the keys below belong to it
    cpu_flags: str = ""  # of GCC, "-mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard"
    clock_hz: int = 0  # of the processor, once its Start() has run
    flash_address: int = 0  # where the processor finds its vector table
    flash_bytes: int = 0
    ram_address: int = 0x2000_0000
    ram_bytes: int = 0  # from that address, in one piece; 16 kB of it are the stack
    rx_irq: int = 0  # number of the port's receive interrupt, 0 to 81
    rx_buffer: int = 1024  # bytes that may be in flight to the board; its buffers take twice as much RAM
    arena_bytes: int = 16_384  # working memory of a network; there are two
    upload_bytes: int = 8192  # longest model that can be uploaded, with its vectors; takes twice as much RAM
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)  # values of the kind's own KEYS
    file: Path | None = field(default=None, compare=False)
    place: Place | None = None  # in the bench's map; None: a type of board

    @property
    def type_name(self) -> str:
        """What its firmware calls itself: the name, or of a board of the bench the name of its kind."""
        return self.place.kind if self.place else self.name

    @property
    def own_sources(self) -> OwnSources | None:
        """What an image of this board is built with besides the package's sources; None for a board of the package."""
        return OwnSources(self.file, self.file.parent / self.hal) if self.hal and self.file else None

    @property
    def is_emulated(self) -> bool:
        """Whether this program starts the board."""
        return hasattr(find_kind(self.kind), "machine") and not (self.place and self.place.is_connected)

    def matches(self, port: SerialPort) -> bool:
        """Whether ``port`` is this board's, by its USB ids; that of a board of the bench by its serial number alone."""
        if self.port:
            return os.path.realpath(self.port) == os.path.realpath(port.device)
        if self.place and self.usb_serial:
            return self.usb_serial == port.serial_number
        return self.usb_numbers_fit(port) and self.usb_serial in ("", port.serial_number or "")

    def usb_numbers_fit(self, port: SerialPort) -> bool:
        """Whether ``port`` has the USB vendor and product id of this type of board."""
        if self.usb_vid is None:
            return False
        if self.usb_vid == port.vid and self.usb_pid in (None, port.pid):
            return True
        return port.vid is not None and port.pid is not None and f"{port.vid:04x}:{port.pid:04x}" in self.usb_also.split()


ANY_SERIAL = BoardDefinition(name="serial", kind="serial", description="any board with our firmware behind a serial port")
_TYPES: dict[str, type] = {
    each.name: int if "int" in str(each.type) else str for each in fields(BoardDefinition) if each.name not in _NO_KEYS
}
_HAL_KEYS = (
    *("cpu_flags", "clock_hz", "flash_address", "flash_bytes", "ram_address", "ram_bytes", "rx_irq"),
    *("rx_buffer", "arena_bytes", "upload_bytes"),
)


def definition_folders() -> list[Path]:
    """Folders with board files: the shipped ones and the user's own.

    The user's own are ``boards/`` in the current folder, ``boards/`` in the user's configuration folder, and the folders
    listed in $HIL_BOARDS.
    """
    named = [Path(name) for name in os.environ.get(FOLDER_VARIABLE, "").split(os.pathsep) if name]
    return [SHIPPED, Path("boards"), CONFIG / "boards", *named]


def load_definitions(folder: Path | None = None) -> dict[str, BoardDefinition]:
    """All board definitions, by name.

    Args:
        folder: read the files of this folder only.

    Raises:
        ConfigError: a file is not TOML, has an unknown key or a value of the wrong type, or two files define the same board.
    """
    boards: dict[str, BoardDefinition] = {}
    files = [path for place in ([folder] if folder else definition_folders()) for path in sorted(place.glob("*.toml"))]
    for path in dict.fromkeys(path.resolve() for path in files):
        board = load_definition(path)
        if board.name in boards:
            raise ConfigError(
                f"{path}: the board {board.name!r} is already defined in {boards[board.name].file}", "choose another name"
            )
        boards[board.name] = board
    return boards


def _check_hal(path: Path, shared: dict[str, Any]) -> None:
    """Completes the values of a board with a folder ``hal``. Raises ConfigError."""
    if not re.fullmatch(r"[\w.-]+", shared["name"]):
        raise ConfigError(f"{path}: the name of a board with hal has letters, digits, '_', '.' and '-' only", "rename it")
    for key in ("cpu_flags", "clock_hz", "flash_bytes", "ram_bytes", "rx_irq"):
        if key not in shared:
            raise ConfigError(f"{path}: hal needs {key}", f"add a line {key} = ...; see docs/custom-board.md")
    if not re.search(r"(^|\s)-mcpu=\S", shared["cpu_flags"]):
        raise ConfigError(f"{path}: cpu_flags names no processor", 'as in cpu_flags = "-mcpu=cortex-m3 -mthumb"')
    if negative := [key for key, value in shared.items() if key in _TYPES and isinstance(value, int) and value < 0]:
        raise ConfigError(f"{path}: {negative[0]} must not be negative", "correct it")
    if shared["rx_irq"] >= INTERRUPTS:
        raise ConfigError(f"{path}: rx_irq must be below {INTERRUPTS}, not {shared['rx_irq']}", "correct it")
    if not 1000 <= shared["clock_hz"] < 1 << 32:
        raise ConfigError(f"{path}: clock_hz must be in Hz, not {shared['clock_hz']}", "as in clock_hz = 50_000_000")
    if not list((path.parent / shared["hal"]).glob("*.cpp")):
        raise ConfigError(
            f"{path}: there is no .cpp file in the folder {path.parent / shared['hal']}", "write the five functions"
        )
    if shared.setdefault("environment", CUSTOM) != CUSTOM:
        raise ConfigError(f"{path}: hal and environment exclude each other", "leave out environment")


def find_definition(name: str, folder: Path | None = None) -> BoardDefinition:
    """The board called ``name``. Raises UnknownBoardError and what ``load_definitions`` raises."""
    boards = load_definitions(folder)
    if name in boards:
        return boards[name]
    raise UnknownBoardError(
        f"unknown board {name!r}" + did_you_mean(name, boards), f"boards: {', '.join(sorted(boards))}; see hil boards"
    )


def load_definition(path: Path) -> BoardDefinition:
    """Reads one board file. Raises ConfigError."""
    try:
        table = tomllib.loads(read_limited(path, MAX_BYTES).decode())
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigError(f"{path} is not TOML: {exc}", f"compare it with {SHIPPED / 'native.toml'}") from exc
    try:
        return _checked(path, table)
    except RecursionError as exc:  # a value that is nested too deeply to be shown
        raise ConfigError(f"{path} is nested too deeply", f"compare it with {SHIPPED / 'native.toml'}") from exc


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
    if hasattr(kind, "acquired"):
        raise ConfigError(
            f"{path}: a farm such as {table['kind']} has no board files", f"--board {table['kind']}:PLACE; hil boards"
        )
    types = {**_TYPES, **kind.KEYS}
    for key, value in table.items():
        if key not in types:
            raise ConfigError(f"{path}: unknown key {key!r}" + did_you_mean(key, types), f"valid keys: {', '.join(types)}")
        if type(value) is not types[key]:
            raise ConfigError(f"{path}: {key} must be of type {types[key].__name__}, not {value!r}", "correct it")
    for key, known in (("upload", get_args(Upload)), ("timing", get_args(Timing))):
        if table.get(key, known[0]) not in known:
            raise ConfigError(f"{path}: {key} cannot be {table[key]!r}", f"choose one of {', '.join(known)}")
    if table.get("baud", 1) <= 0:
        raise ConfigError(f"{path}: baud must be positive, not {table['baud']}", "correct it")
    shared = {key: value for key, value in table.items() if key in _TYPES}
    own = {key: value for key, value in table.items() if key not in _TYPES}
    if shared.get("hal"):
        _check_hal(path, shared)
    elif lonely := [key for key in _HAL_KEYS if key in shared]:
        raise ConfigError(f"{path}: {lonely[0]} belongs to hal, which is missing", "add hal, or leave it out")
    definition = BoardDefinition(**shared, settings=own, file=path.resolve())
    try:
        kind.check_definition(definition)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc.message}", exc.hint) from exc
    return definition
