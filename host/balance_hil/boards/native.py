"""The native board: the firmware compiled for this computer, a process of its own behind a pseudo-terminal.

    this program ── link ── pty slave ═ pty master ── firmware ── socket pair ── engine host (TensorFlow Lite Micro)

The port is opened before the firmware starts, so that its READY is not lost. Neither process outlives this one, even when it is
killed: its end hangs up the pseudo-terminal, which ends the firmware, which closes the socket, which ends the engine host.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from balance_hil.boards.channel import Channel
from balance_hil.boards.handshake import BOOT_TIMEOUT_S
from balance_hil.bundle import GOLDEN, INT8_MODEL, Bundle
from balance_hil.errors import BoardBootError, CableUnpluggedError, UsageError, require
from balance_hil.firmware_build import build_native, native_is_current
from balance_hil.link import Link, open_link
from balance_hil.protocol.messages import Ready

ENGINES = ("tflm",)
SELF_TEST_VECTORS = 8  # as many as model.h carries
GRACE_S = 1.0  # a process that was told to end gets so long, then it is killed
_LAST_BYTES = 2000
_LAST_LINES = 5


@dataclass(frozen=True, kw_only=True)
class NativeConfig:
    """What the emulated board is given."""

    name: str = "native"  # reported in INFO
    engine: str = "tflm"
    model: Path | None = None  # int8 .tflite; None: a board without a model
    golden: Path | None = None  # golden.npz with the vectors of the self-test
    watchdog_ms: int | None = None  # None: the firmware's own
    arena_bytes: int | None = None  # of the engine; None: as much as the model needs

    @classmethod
    def for_bundle(
        cls, bundle: Bundle, *, name: str = "native", engine: str = "tflm", watchdog_ms: int | None = None
    ) -> NativeConfig:
        """The board as it would be with ``bundle`` flashed."""
        return cls(name=name, engine=engine, model=bundle.file(INT8_MODEL), golden=bundle.file(GOLDEN), watchdog_ms=watchdog_ms)


def check_installation() -> None:
    """Raises what keeps the native board from being started here, without starting or building anything.

    Raises:
        MissingExtraError, FlashToolMissingError, FirmwareBuildError: what is missing.
    """
    require("tflite_micro", "int8")
    native_is_current()


class NativeMachine:
    """The two processes of one native board. Call ``start`` or ``start_unopened``, then ``close``.

    Args:
        config: model and engine.
        progress: receives a line when the firmware has to be built first.

    Raises:
        UsageError: no such engine.
        MissingExtraError: the engine's Python package is not installed.
        FirmwareBuildError, FlashToolMissingError: the firmware cannot be built.
    """

    def __init__(self, config: NativeConfig, progress: Callable[[str], None] | None = None) -> None:
        if config.engine not in ENGINES:
            raise UsageError(f"the native board has no engine {config.engine!r}", f"engines are {', '.join(ENGINES)}")
        require("tflite_micro", "int8")
        self._config = config
        self._program = build_native(progress)
        self._processes: list[subprocess.Popen[bytes]] = []  # firmware, engine host
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self._slave = -1

    def start(self) -> Link:
        """Switches the board on; returns the link to it. Closing the link ends the board."""
        master, port = self._new_terminal()
        try:
            link = open_link(port)
            self._spawn(master)
        finally:
            os.close(master)
            self._release_slave()
        return link

    def start_unopened(self) -> str:
        """Switches the board on for other programs; returns its port, which they may open and close as they like.

        The board is up by then, and its READY taken off the port: a program that speaks text alone would stumble over it.

        Raises:
            BoardBootError: it did not come up.
        """
        master, port = self._new_terminal()
        try:
            link = open_link(port)
            self._spawn(master)
        finally:
            os.close(master)
        with contextlib.closing(link):
            self._await_ready(link)
        return port

    def _await_ready(self, link: Link) -> None:
        channel, deadline = Channel(link), time.monotonic() + BOOT_TIMEOUT_S
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                frame = channel.poll(left_s)
                if frame is not None and isinstance(frame.message, Ready):
                    return
        except CableUnpluggedError:
            pass
        how = self.obituary() or f"not up within {BOOT_TIMEOUT_S:g} s"
        raise BoardBootError(f"the emulated board {self._config.name} did not start: {how}", "what it needs: hil doctor")

    def restart(self) -> Link:
        """Power lost and back: kills both processes and starts afresh behind a new port."""
        for process in self._processes:
            process.kill()
        self._reap()
        return self.start()

    def obituary(self) -> str | None:
        """How the board ended, with its last words; None while it runs."""
        if not self._processes:
            return "it is switched off"
        firmware = self._processes[0]
        try:
            # Its end hangs up the port a moment before it can be waited for.
            status = firmware.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            return None
        ended = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        words = self._last_words()
        return f"{ended}; its last lines: {words}" if words else ended

    def wait(self) -> str:
        """Waits until the board ends by itself; returns how."""
        self._processes[0].wait()
        return self.obituary() or ""

    def close(self) -> None:
        """Ends both processes; may be called twice."""
        self._release_slave()
        for process in self._processes:
            process.terminate()
        self._reap()
        self._log.close()

    def _new_terminal(self) -> tuple[int, str]:
        master, self._slave = os.openpty()
        tty.setraw(self._slave)  # or the terminal would echo the board's first bytes back to it
        return master, os.ttyname(self._slave)

    def _release_slave(self) -> None:
        if self._slave >= 0:
            os.close(self._slave)
        self._slave = -1

    def _spawn(self, master: int) -> None:
        firmware_end, engine_end = socket.socketpair()
        with firmware_end, engine_end, _vectors(self._config.golden) as vectors:
            engine_host = [sys.executable, "-m", "balance_hil.boards.tflm_engine_host", str(engine_end.fileno())]
            command = [str(self._program), "--fd", str(master), "--board-name", self._config.name]
            command += ["--engine", self._config.engine, "--engine-fd", str(firmware_end.fileno())]
            if self._config.model is not None:
                command += ["--model", str(self._config.model)]
            if vectors is not None:
                command += ["--self-test", f"/dev/fd/{vectors.fileno()}"]
            for option, value in (("--watchdog-ms", self._config.watchdog_ms), ("--arena-bytes", self._config.arena_bytes)):
                if value is not None:
                    command += [option, str(value)]
            inherited = [master, firmware_end.fileno(), *([vectors.fileno()] if vectors is not None else [])]
            self._processes = [self._popen(command, inherited)]
            self._processes.append(self._popen(engine_host, [engine_end.fileno()]))

    def _popen(self, command: list[str], descriptors: list[int]) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal must reach this program alone, which then ends the run in order.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, pass_fds=descriptors, start_new_session=True
        )

    def _reap(self) -> None:
        for process in self._processes:
            try:
                process.wait(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []

    def _last_words(self) -> str:
        descriptor = self._log.fileno()
        size = os.fstat(descriptor).st_size
        raw = os.pread(descriptor, _LAST_BYTES, max(0, size - _LAST_BYTES))  # a seek would move where the processes write
        lines = raw.decode(errors="replace").strip().splitlines()
        return " / ".join(lines[-_LAST_LINES:])


def _vectors(golden: Path | None) -> contextlib.AbstractContextManager[IO[bytes] | None]:
    """A file of the self-test's vectors, int8 [n, n_obs + n_act], that is gone when both ends are closed."""
    if golden is None:
        return contextlib.nullcontext()
    with np.load(golden) as arrays:
        rows = np.hstack([arrays["input_int8"][:SELF_TEST_VECTORS], arrays["output_int8"][:SELF_TEST_VECTORS]])
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    file.write(rows.astype(np.int8).tobytes())
    file.flush()
    file.seek(0)
    return file
