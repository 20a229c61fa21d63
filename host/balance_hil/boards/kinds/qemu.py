"""Boards on a processor that QEMU emulates: the firmware image of a Cortex-M, its UART behind two pipes.

    this program ── link: two pipes ── QEMU: UART ── firmware
                 ── QMP: reset button, hang

For other programs (``hil emulate``) the UART is behind a TCP port of this computer instead. Not a Unix socket: QEMU writes byte
by byte, and a Unix socket holds only a few hundred such writes before it blocks.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from balance_hil.boards.definition import SHIPPED, BoardDefinition
from balance_hil.boards.handshake import BUSY_LINE
from balance_hil.boards.kinds.emulated import EmulatedMachine, EmulationConfig, check_platform
from balance_hil.boards.kinds.qmp import Qmp
from balance_hil.errors import ConfigError, EmulatorMissingError, FlashToolMissingError, UsageError
from balance_hil.firmware_build import HEADERS, TFLM_LIBRARY, build_image, check_cross_tools
from balance_hil.link import Link, PipeEnds, open_link, open_pipes

QEMU = "qemu-system-arm"
# The firmware reads its options from the start of its RAM (hal_mps): a mark, and the watchdog's time.
OPTIONS_ADDRESS = 0x2000_0000
OPTIONS_MARK = 0x4F50_5431
LOOK_INTERVAL_S = 0.2  # whether QEMU has ended
ACCEPT_S = 0.05  # for QEMU to notice that its client has gone, or to accept the next one
REFUSAL_S = 0.5  # for a refused client to read why

KEYS: Mapping[str, type] = {"machine": str}  # that QEMU emulates: "mps2-an386", ...


def check_definition(definition: BoardDefinition) -> None:
    """Raises ConfigError where environment or machine is missing."""
    if not definition.environment or not definition.settings.get("machine"):
        raise ConfigError("a board of kind qemu needs environment and machine", f"compare it with {SHIPPED / 'qemu-m4.toml'}")


def check_installation() -> None:
    """Raises what keeps the emulated boards from being built or started here.

    Raises:
        EmulatorMissingError, FlashToolMissingError: what is missing.
    """
    check_platform()
    emulator()
    check_cross_tools()


def image_environment(definition: BoardDefinition, engine: str, prefix: str = "qemu") -> str:
    """The environment of platformio.ini that builds the image of an engine for a board; ``prefix`` "bench" counts instructions.

    Raises:
        FlashToolMissingError: the engine is tflm, and its C++ library is not set.
    """
    name = definition.environment.replace("qemu", prefix, 1)
    if engine != "tflm":
        return name
    if not os.environ.get(TFLM_LIBRARY):
        raise FlashToolMissingError(
            f"the engine tflm on {definition.name} needs the C++ library of TensorFlow Lite Micro, but {TFLM_LIBRARY} is not set",
            "see docs/boards.md; or use the compact engine, which computes the same: --engine int8",
        )
    return f"{name}_tflm"


def machine(definition: BoardDefinition, config: EmulationConfig, progress: Callable[[str], None] | None) -> EmulatedMachine:
    """See ``QemuMachine``."""
    return QemuMachine(definition, config, progress)


class QemuMachine(EmulatedMachine):
    """One QEMU process.

    Args:
        definition: the board; its ``environment`` builds the image and its setting ``machine`` is what QEMU emulates.
        config: model and watchdog time. The model is compiled into the image.
        progress: called with a message before the firmware is built.

    Raises:
        UsageError: no model, or a fault was requested.
        EmulatorMissingError, FirmwareBuildError, FlashToolMissingError: QEMU is missing, or the image cannot be built.
    """

    def __init__(
        self, definition: BoardDefinition, config: EmulationConfig, progress: Callable[[str], None] | None = None
    ) -> None:
        check_platform()
        if config.fault is not None:
            raise UsageError(f"the board {config.name} has no firmware faults", "use the native board: --board native")
        self._qemu = emulator()
        self._machine: str = definition.settings["machine"]
        self._watchdog_ms = config.watchdog_ms
        self._image = build_image(image_environment(definition, config.engine), _header(config), progress)
        self._qmp: Qmp | None = None
        self._server: socket.socket | None = None
        super().__init__(config.name)

    def start(self) -> Link:
        """See EmulatedMachine. Closing the link leaves the board running."""
        link, far_end = open_pipes(f"a pipe to {self._name}")
        try:
            self._spawn("stdio,id=uart,signal=off", pipes=far_end)
        except BaseException:
            link.close()
            raise
        finally:
            far_end.close()
        return link

    def start_unopened(self) -> str:
        """See EmulatedMachine. The port is a URL, for one program at a time."""
        self._server = server = socket.create_server(("127.0.0.1", 0))
        url = f"socket://127.0.0.1:{server.getsockname()[1]}"
        link = open_link(url)  # before QEMU starts, so that READY is not lost
        self._spawn(f"socket,id=uart,fd={server.fileno()},server=on,wait=on,nodelay=on", [server.fileno()])
        self._await_ready(link)
        return url

    def wait(self, progress: Callable[[str], None]) -> str:
        """See EmulatedMachine. Meanwhile a second client is refused: QEMU would let it wait without a word."""
        while self._server is not None and self._processes[0].poll() is None:
            if not select.select([self._server], [], [], LOOK_INTERVAL_S)[0]:
                continue
            user = self._client()
            time.sleep(ACCEPT_S)
            if not user or user != self._client():
                continue  # QEMU is about to accept it
            with contextlib.suppress(BlockingIOError):  # it has gone again
                connection, (host, port) = self._server.accept()
                _refuse(connection, user)
                progress(f"refused a second client, {host}:{port}: {user} uses the board")
        return super().wait(progress)

    def _client(self) -> str:
        """Address of the client that QEMU serves; "" without one."""
        devices = self._control("query-chardev")
        name = next(device["filename"] for device in devices if device["label"] == "uart")
        return str(name).partition(" <-> ")[2]

    def close(self) -> None:
        """Ends QEMU; may be called twice."""
        if self._server is not None:
            self._server.close()
        super().close()

    def press_reset(self) -> None:
        """See EmulatedMachine."""
        self._control("system_reset")

    def pause(self) -> None:
        """See EmulatedMachine. The board's clock stops, too."""
        self._control("stop")

    def resume(self) -> None:
        """See EmulatedMachine."""
        self._control("cont")

    def _control(self, command: str) -> Any:
        if self._qmp is None:
            raise UsageError(f"the board {self._name} is not running", "start it first")
        return self._qmp.execute(command)

    def _spawn(self, uart: str, descriptors: Sequence[int] = (), pipes: PipeEnds | None = None) -> None:
        """Starts QEMU with a character device ``uart``, which may use inherited descriptors or be QEMU's stdin and stdout."""
        ours, theirs = socket.socketpair()
        self._qmp = Qmp(ours)
        with theirs:
            command = [self._qemu, "-M", self._machine, "-kernel", str(self._image), "-nodefaults", "-display", "none"]
            command += ["-chardev", uart, "-serial", "chardev:uart"]
            command += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
            command += _options(self._watchdog_ms)
            self._processes = [self._popen(command, [*descriptors, theirs.fileno()], pipes)]

    def _reap(self) -> None:
        super()._reap()
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None


def emulator() -> str:
    """Path of QEMU. Raises EmulatorMissingError."""
    path = shutil.which(QEMU)
    if path is None:
        raise EmulatorMissingError(f"emulating a Cortex-M needs {QEMU}, which is not installed", "install it: make setup")
    return path


def _refuse(connection: socket.socket, user: str) -> None:
    """Sends the reason and closes, once the client has closed: closing first would discard the line if it had sent something."""
    deadline = time.monotonic() + REFUSAL_S
    with connection, contextlib.suppress(OSError):
        connection.settimeout(REFUSAL_S)
        connection.sendall(BUSY_LINE.format(user).encode())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096) and time.monotonic() < deadline:
            pass


def _header(config: EmulationConfig) -> Path:
    """``model.h`` of the model that goes into the image."""
    if config.image is None:
        raise UsageError(f"the image of the board {config.name} needs a model", "name a bundle, for example: hil emulate ppo")
    header = HEADERS / config.image.id / "model.h"
    config.image.write_header(header)
    return header


def _options(watchdog_ms: int | None) -> list[str]:
    if watchdog_ms is None:
        return []
    (data,) = struct.unpack("<Q", struct.pack("<II", OPTIONS_MARK, watchdog_ms))
    return ["-device", f"loader,addr={OPTIONS_ADDRESS:#x},data={data:#x},data-len=8"]
