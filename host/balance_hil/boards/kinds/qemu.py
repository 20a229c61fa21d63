"""Boards on a processor that QEMU emulates: the firmware image of a Cortex-M, its UART behind two pipes.

    this program ── link: two pipes ── QEMU: UART ── firmware
                 ── QMP: reset button, hang

For other programs (``hil emulate``) the UART is behind a TCP port of this computer instead. Not a Unix socket: QEMU writes byte
by byte, and a Unix socket holds only a few hundred such writes before it blocks.
"""

from __future__ import annotations

import contextlib
import functools
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from balance_hil.boards.definition import SHIPPED, BoardDefinition
from balance_hil.boards.handshake import BUSY_LINE
from balance_hil.boards.kinds.emulated import (
    LOOK_INTERVAL_S,
    EmulatedMachine,
    EmulationConfig,
    check_image_board,
    check_platform,
    image_environment,
    model_header,
)
from balance_hil.boards.kinds.native import fault_number
from balance_hil.boards.kinds.qmp import Qmp
from balance_hil.errors import ConfigError, EmulatorMissingError, UsageError
from balance_hil.firmware_build import build_image
from balance_hil.link import Link, PipeEnds, open_link
from balance_hil.protocol.messages import WATCHDOG_MS
from balance_hil.scheduling import keep_on_one_core

QEMU = "qemu-system-arm"
# The firmware reads its options from the start of its RAM (hal_cortex): a mark, the watchdog's time, the number of a fault.
OPTIONS_ADDRESS = 0x2000_0000
OPTIONS_MARK = 0x4F50_5431
COUNTS_INSTRUCTIONS = True
CORES = 0.45  # of this computer that a board takes in real time, measured with models/ppo at 200 Hz
COUNT = ("-icount", "shift=0")  # an instruction takes a nanosecond of the board's time
INSTRUCTIONS_PER_US = 1000.0
ACCEPT_S = 0.05  # for QEMU to notice that its client has gone, or to accept the next one
END_S = 1.0  # from the end of its sockets to that of QEMU
REFUSAL_S = 0.5  # for a refused client to read why

# machine: what QEMU emulates, "mps2-an386", ...; uart: the number of the firmware's UART among the machine's, from 0.
# bench: the board whose instruction counts hold for this one; by default itself.
# processor_first: see scheduling.real_time_priority.
KEYS: Mapping[str, type] = {"machine": str, "uart": int, "bench": str, "processor_first": bool}


def check_definition(definition: BoardDefinition) -> None:
    """Raises ConfigError where environment or machine is missing."""
    if not definition.environment or not definition.settings.get("machine"):
        raise ConfigError("a board of kind qemu needs environment and machine", f"compare it with {SHIPPED / 'qemu-m4.toml'}")


class QemuMachine(EmulatedMachine):
    """One QEMU process.

    Args:
        definition: the board; its ``environment`` builds the image and its setting ``machine`` is what QEMU emulates.
        config: model and watchdog time. The model is compiled into the image.
        progress: called with a message before the firmware is built.

    Raises:
        UsageError: no model, no such fault, or a fault with another engine than the compact one.
        EmulatorMissingError, FirmwareBuildError, FlashToolMissingError: QEMU is missing, or the image cannot be built.
    """

    def __init__(
        self, definition: BoardDefinition, config: EmulationConfig, progress: Callable[[str], None] | None = None
    ) -> None:
        check_platform()
        self._qemu = emulator()
        self._machine: str = definition.settings["machine"]
        self._uart: int = definition.settings.get("uart", 0)
        environment = image_environment(definition, config.engine)
        if config.fault is not None:
            if not self._machine.startswith("mps"):  # the gallery takes 1 MB of RAM
                raise UsageError(f"the board {config.name} has no firmware faults", "use native or qemu-m4: --board native")
            if config.engine == "tflm":
                raise UsageError(f"firmware faults on {config.name} need the compact engine", "add --engine int8")
            environment += "_faults"
        self._options = _options(config.watchdog_ms, fault_number(config.fault, progress) if config.fault else 0)
        if config.count_instructions:
            self._options += COUNT
            self.instructions_per_us = INSTRUCTIONS_PER_US
        self.image = build_image(
            environment, model_header(config), progress, own=definition.own_sources, arena_bytes=config.arena_bytes or 0
        )
        self._qmp: Qmp | None = None
        self._server: socket.socket | None = None
        super().__init__(config.name)

    def start(self) -> Link:
        """See EmulatedMachine. Closing the link leaves the board running."""
        return self._start_on_pipes(lambda ends: self._spawn("stdio,id=uart,signal=off", pipes=ends))

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
        try:
            self._refuse_others(progress)
        except (UsageError, OSError, ValueError):  # QEMU ends (CableUnpluggedError), or another thread has closed this
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[0].wait(END_S)
            if self._processes[0].poll() is None:
                raise
        return super().wait(progress)

    def _refuse_others(self, progress: Callable[[str], None]) -> None:
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
            command = [self._qemu, "-M", self._machine, "-kernel", str(self.image), "-nodefaults", "-display", "none"]
            command += ["-chardev", uart, *["-serial", "null"] * self._uart, "-serial", "chardev:uart"]
            command += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
            command += self._options
            self._processes = [self._popen(command, [*descriptors, theirs.fileno()], pipes)]
            keep_on_one_core(self._processes[0].pid)

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


machine = QemuMachine
check_installation = functools.partial(check_image_board, emulator)


def _refuse(connection: socket.socket, user: str) -> None:
    """Sends the reason and closes, once the client has closed: closing first would discard the line if it had sent something."""
    deadline = time.monotonic() + REFUSAL_S
    with connection, contextlib.suppress(OSError):
        connection.settimeout(REFUSAL_S)
        connection.sendall(BUSY_LINE.format(user).encode())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096) and time.monotonic() < deadline:
            pass


def _options(watchdog_ms: int | None, fault: int) -> list[str]:
    if watchdog_ms is None and not fault:
        return []
    words = (OPTIONS_MARK, WATCHDOG_MS if watchdog_ms is None else watchdog_ms, fault)
    loaders = [f"loader,addr={OPTIONS_ADDRESS + 4 * i:#x},data={word:#x},data-len=4" for i, word in enumerate(words)]
    return [argument for loader in loaders for argument in ("-device", loader)]
