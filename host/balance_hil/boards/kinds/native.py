"""The native board: the firmware compiled for this computer, a separate process whose UART is a socket pair.

    this program ── socket pair ── firmware ── socket pair ── TFLM worker (TensorFlow Lite Micro)

With the engine ``int8`` the firmware runs the model itself and there is no worker. For other programs the UART is a
pseudo-terminal, whose bytes pass through a kernel thread of ordinary priority: on a busy computer they wait for it, up to 100 ms.

The port is opened before the firmware starts, so that its READY is not lost. Neither process outlives this one, even if it is
killed: the port then closes, which ends the firmware, which closes its other socket, which ends the worker.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import IO

from balance_hil.boards.definition import BoardDefinition
from balance_hil.boards.kinds.emulated import EmulatedMachine, EmulationConfig, check_platform
from balance_hil.errors import UsageError, require
from balance_hil.firmware_build import build_native, native_is_current
from balance_hil.link import Link, open_link, open_socket_pair
from balance_hil.model_image import ModelImage
from balance_hil.runtimes.tflm import wheel_exists

KEYS: Mapping[str, type] = {}
CORES = 0.05  # see qemu.CORES


def check_definition(definition: BoardDefinition) -> None:
    """No requirements: every field is optional."""


def check_installation() -> None:
    """Raises if the native board cannot be started here. Starts and builds nothing.

    Raises:
        EmulatorMissingError, MissingExtraError, FlashToolMissingError, FirmwareBuildError: what is missing.
    """
    check_platform()
    if wheel_exists():
        require("tflite_micro", "int8")
    native_is_current()


def machine(definition: BoardDefinition, config: EmulationConfig, progress: Callable[[str], None] | None) -> EmulatedMachine:
    """See ``NativeMachine``."""
    return NativeMachine(config, progress)


def firmware_faults(progress: Callable[[str], None] | None = None) -> dict[str, str]:
    """Faults that an emulated board's firmware can be started with: name and effect.

    Raises:
        FirmwareBuildError, FlashToolMissingError: the firmware cannot be built.
    """
    listing = subprocess.run([build_native(progress), "--list-faults"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("\t", 1) for line in listing.splitlines())


def fault_number(name: str, progress: Callable[[str], None] | None = None) -> int:
    """Number of a firmware fault, counted from 1.

    Raises:
        UsageError: no such fault.
        FirmwareBuildError, FlashToolMissingError: the firmware cannot be built.
    """
    faults = list(firmware_faults(progress))
    if name not in faults:
        raise UsageError(f"the firmware has no fault {name!r}", f"faults are {', '.join(faults)}")
    return faults.index(name) + 1


class NativeMachine(EmulatedMachine):
    """The two processes of one native board: firmware and TFLM worker.

    Args:
        config: model and engine.
        progress: called with a message before the firmware is built.

    Raises:
        UsageError: no such fault.
        MissingExtraError: the engine's Python package is not installed.
        FirmwareBuildError, FlashToolMissingError: the firmware cannot be built.
    """

    def __init__(self, config: EmulationConfig, progress: Callable[[str], None] | None = None) -> None:
        check_platform()
        if config.engine == "tflm":
            require("tflite_micro", "int8")
        self._config = config
        self.image = build_native(progress)
        if config.fault is not None:
            fault_number(config.fault, progress)
        self._slave = -1  # kept open for the programs that open the port and close it again
        super().__init__(config.name)

    def start(self) -> Link:
        """Starts the board; returns the link to it. Closing the link ends the board."""
        link, far_end = open_socket_pair(f"a socket to {self._name}")
        with far_end:
            self._spawn(far_end.fileno())
        return link

    def start_unopened(self) -> str:
        """See EmulatedMachine. The port is a pseudo-terminal."""
        import tty  # only POSIX systems have it

        master, self._slave = os.openpty()
        try:
            tty.setraw(self._slave)  # else the terminal would echo the board's first bytes
            port = os.ttyname(self._slave)
            link = open_link(port)
            self._spawn(master)
        finally:
            os.close(master)
        self._await_ready(link)
        return port

    def press_reset(self) -> None:
        """See EmulatedMachine."""
        raise UsageError("the native board has no reset button", "send RESET, or power-cycle it")

    def close(self) -> None:
        """Ends both processes; may be called twice."""
        if self._slave >= 0:
            os.close(self._slave)
        self._slave = -1
        super().close()

    def _spawn(self, uart: int) -> None:
        firmware_end, engine_end = socket.socketpair()
        with firmware_end, engine_end, _image_file(self._config.image) as image:
            command = [str(self.image), "--fd", str(uart), "--board-name", self._config.name]
            command += ["--engine", self._config.engine]
            if self._config.engine == "tflm":
                command += ["--engine-fd", str(firmware_end.fileno())]
            if image is not None:
                command += ["--image", f"/dev/fd/{image.fileno()}"]
            options = {
                "--watchdog-ms": self._config.watchdog_ms,
                "--arena-bytes": self._config.arena_bytes,
                "--fault": self._config.fault,
            }
            for option, value in options.items():
                if value is not None:
                    command += [option, str(value)]
            inherited = [uart, firmware_end.fileno(), *([image.fileno()] if image is not None else [])]
            self._processes = [self._popen(command, inherited)]
            if self._config.engine == "tflm":
                engine_host = [sys.executable, "-m", "balance_hil.runtimes.tflm_worker", str(engine_end.fileno())]
                self._processes.append(self._popen(engine_host, [engine_end.fileno()]))


def _image_file(image: ModelImage | None) -> contextlib.AbstractContextManager[IO[bytes] | None]:
    """An anonymous temporary file with the model."""
    if image is None:
        return contextlib.nullcontext()
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    file.write(image.file())
    file.flush()
    file.seek(0)
    return file
