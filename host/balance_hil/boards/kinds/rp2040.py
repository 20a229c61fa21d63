"""Boards on an RP2040 that rp2040js emulates: the UF2 image that a Raspberry Pi Pico is flashed with, its UART0 behind two pipes.

    this program ── link: two pipes ── Node: rp2040.mjs ── UART0 ── firmware

The emulator is an npm package; ``make setup`` installs it. It counts the processor's cycles and knows no wait
states of the flash.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
import signal
import socket
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from balance_hil.boards.definition import SHIPPED, BoardDefinition
from balance_hil.boards.kinds.emulated import (
    EmulatedMachine,
    EmulationConfig,
    check_image_board,
    check_platform,
    image_environment,
    model_header,
)
from balance_hil.errors import ConfigError, EmulatorMissingError, LinkError, UsageError
from balance_hil.firmware_build import build_image
from balance_hil.link import Link, PipeEnds, open_link
from balance_hil.paths import EMULATORS

KEYS: Mapping[str, type] = {}
COUNTS_CYCLES = True
CORES = 0.25  # see qemu.CORES
HAS_DEVICE_CLOCK = True
_FOLDER = Path(__file__).parent
_BRIDGE = _FOLDER / "rp2040.mjs"
_PACKAGE = "rp2040js"


def check_definition(definition: BoardDefinition) -> None:
    """Raises ConfigError where the environment is missing."""
    if not definition.environment:
        raise ConfigError("a board of kind rp2040 needs environment", f"compare it with {SHIPPED / 'pico.toml'}")


def emulator() -> tuple[str, Path]:
    """Paths of Node and of the emulator's module. Raises EmulatorMissingError."""
    node = shutil.which("node")
    if node is None:
        raise EmulatorMissingError(
            "emulating an RP2040 needs node, which is not installed", "install it: apt-get install nodejs npm"
        )
    version = json.loads((_FOLDER / "package.json").read_text())["dependencies"][_PACKAGE]
    package = EMULATORS / "node_modules" / _PACKAGE
    found = None
    with contextlib.suppress(OSError, ValueError, LookupError):  # not there, or half installed
        found = json.loads((package / "package.json").read_text())["version"]
    if found != version:
        raise EmulatorMissingError(
            f"emulating an RP2040 needs the npm package {_PACKAGE} {version}, which is not installed"
            + (f" (version {found} is)" if found else ""),
            f"install it: npm install --prefix {EMULATORS} {_PACKAGE}@{version}",
        )
    return node, package / "dist" / "esm" / "index.js"


class Rp2040Machine(EmulatedMachine):
    """One Node process.

    Args:
        definition: the board; its ``environment`` builds the image.
        config: model and watchdog time. The model is compiled into the image.
        progress: called with a message before the firmware is built.

    Raises:
        UsageError: no model, or a fault was requested.
        EmulatorMissingError, FirmwareBuildError, FlashToolMissingError: the emulator is missing, or the image cannot be built.
    """

    def __init__(
        self, definition: BoardDefinition, config: EmulationConfig, progress: Callable[[str], None] | None = None
    ) -> None:
        check_platform()
        if config.fault is not None:
            raise UsageError(f"the board {config.name} has no firmware faults", "use the native board: --board native")
        self._node, self._module = emulator()
        self._watchdog_ms = config.watchdog_ms
        self._device_clock = config.device_clock
        self._device_link: DeviceLink | None = None
        environment = image_environment(definition, config.engine)
        self.image = build_image(environment, model_header(config), progress, arena_bytes=config.arena_bytes or 0)
        self._uf2 = self.image.with_suffix(".uf2")
        super().__init__(config.name)

    def start(self) -> Link:
        """See EmulatedMachine. Closing the link switches the board off."""
        link = self._start_on_pipes(lambda ends: self._spawn({"clock": "device"} if self._device_clock else {}, pipes=ends))
        if self._device_clock:
            self._device_link = DeviceLink(link)
            return self._device_link
        return link

    def start_unopened(self) -> str:
        """See EmulatedMachine. The port is a URL, for one program at a time."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"socket://127.0.0.1:{server.getsockname()[1]}"
            link = open_link(url)  # before the board starts, so that READY is not lost
            self._spawn({"listen_fd": server.fileno()}, descriptors=[server.fileno()])
        self._await_ready(link)
        return url

    def press_reset(self) -> None:
        """See EmulatedMachine."""
        if not self._processes:
            raise UsageError(f"the board {self._name} is not running", "start it first")
        if self._device_link is not None:
            self._device_link.press_reset()
        else:
            self._processes[0].send_signal(signal.SIGUSR2)

    def pause(self) -> None:
        """See EmulatedMachine. Raises UsageError on the device clock, which is the host's own waiting."""
        if self._device_clock:
            raise UsageError("on the device clock a board cannot hang: its time is this program's", "use --clock realtime")
        super().pause()

    def _spawn(self, settings: dict[str, Any], descriptors: list[int] | None = None, pipes: PipeEnds | None = None) -> None:
        settings["watchdog_ms"] = self._watchdog_ms
        command = [self._node, str(_BRIDGE), self._module.as_uri(), str(self._uf2), json.dumps(settings)]
        self._processes = [self._popen(command, descriptors or [], pipes)]


machine = Rp2040Machine
check_installation = functools.partial(check_image_board, emulator)


class DeviceLink:
    """The link to a chip whose time advances only in ``read``. Nothing depends on the speed of this computer.

    Args:
        pipes: to a bridge that serves the device clock; see ``serveDeviceClock`` in rp2040.mjs.
    """

    _EXCHANGE, _PRESS_RESET = range(2)
    _REQUEST, _REPLY, _BYTE = struct.Struct("<BIdd"), struct.Struct("<Idd"), struct.Struct("<Bd")
    _TIMEOUT_S = 60.0  # of wall time for one request: at most seconds of emulation

    def __init__(self, pipes: Link) -> None:
        self._pipes = pipes
        self._unread = b""
        self._outgoing = b""
        self._now_ns = 0.0
        self.busy_cycles = 0.0  # in which the processor did not sleep, since power on

    @property
    def description(self) -> str:
        """See Link."""
        return self._pipes.description

    def now_s(self) -> float:
        """Time since power on, by the chip's cycles."""
        return self._now_ns * 1e-9

    def write(self, data: bytes) -> None:
        """See Link: the first bit leaves now, or after what was written before."""
        self._outgoing += data

    def read(self, timeout_s: float) -> bytes:
        """See Link: advances the chip's time, to the end of the first message or by ``timeout_s``."""
        return self._ask(self._EXCHANGE, math.ceil(self._now_ns + max(0.0, timeout_s) * 1e9))

    def press_reset(self) -> None:
        """Resets the chip, now."""
        self._ask(self._PRESS_RESET, self._now_ns)

    def close(self) -> None:
        """See Link."""
        self._pipes.close()

    def _ask(self, what: int, until_ns: float) -> bytes:
        self._pipes.write(self._REQUEST.pack(what, len(self._outgoing), self._now_ns, until_ns) + self._outgoing)
        self._outgoing = b""
        count, self._now_ns, self.busy_cycles = self._REPLY.unpack(self._take(self._REPLY.size))
        received = self._take(count * self._BYTE.size)
        return bytes(byte for byte, _ in self._BYTE.iter_unpack(received))

    def _take(self, size: int) -> bytes:
        deadline = time.monotonic() + self._TIMEOUT_S
        while len(self._unread) < size:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise LinkError(f"{self.description}: the emulator does not answer", "start the run again")
            self._unread += self._pipes.read(left_s)
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken
