"""What emulated boards have in common: processes that are the board, their log, and an end that comes whatever happens."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from balance_hil.boards.channel import Channel
from balance_hil.boards.handshake import BOOT_TIMEOUT_S
from balance_hil.errors import BoardBootError, CableUnpluggedError, EmulatorMissingError
from balance_hil.link import Link, PipeEnds
from balance_hil.model_image import ModelImage
from balance_hil.protocol.messages import Ready

READY_TAIL_S = 0.01  # time between two looks for the line end behind READY
READY_TAIL_TRIES = 500
GRACE_S = 1.0  # a process that was told to end gets so long, then it is killed
_LAST_BYTES = 2000
_LAST_LINES = 5


@dataclass(frozen=True, kw_only=True)
class EmulationConfig:
    """What an emulated board is given."""

    name: str = "native"  # reported in INFO
    engine: str = "tflm"
    image: ModelImage | None = None  # None: a board without a model
    watchdog_ms: int | None = None  # None: the firmware's own
    arena_bytes: int | None = None  # of the native board's engine; None: as much as the model needs
    fault: str | None = None  # one of ``native.firmware_faults``, built into the firmware on purpose; None: healthy


def check_platform() -> None:
    """Raises EmulatorMissingError where there are no pseudo-terminals and inherited pipes as on Linux."""
    if sys.platform != "linux":
        raise EmulatorMissingError(
            f"emulated boards run on Linux only, this is {platform.system()}",
            "take a container or WSL for them; here: hil evaluate, hil compare, and boards that are plugged in (--port)",
        )


class EmulatedMachine(ABC):
    """The processes of one emulated board, the processor first. Call ``start`` or ``start_unopened``, then ``close``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()

    @abstractmethod
    def start(self) -> Link:
        """Switches the board on; returns the link to it."""

    @abstractmethod
    def start_unopened(self) -> str:
        """Switches the board on for other programs; returns its port, which they may open and close as they like.

        The board is up by then, and its READY taken off the port: a program that speaks text alone would stumble over it.

        Raises:
            BoardBootError: it did not come up.
        """

    @abstractmethod
    def press_reset(self) -> None:
        """The reset button. Raises UsageError where there is none."""

    def restart(self) -> Link:
        """Power lost and back: kills the processes and starts afresh behind a new port."""
        for process in self._processes:
            process.kill()
        self._reap()
        return self.start()

    def pause(self) -> None:
        """Stops the processor: the board hangs until ``resume``."""
        os.kill(self._processes[0].pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused processor go on."""
        os.kill(self._processes[0].pid, signal.SIGCONT)

    def process_ids(self) -> list[int]:
        """The processes that are the board, the processor first."""
        return [process.pid for process in self._processes]

    def obituary(self) -> str | None:
        """How the board ended, with its last words; None while it runs."""
        if not self._processes:
            return "it is switched off"
        try:
            # Its end hangs up the port a moment before it can be waited for.
            status = self._processes[0].wait(timeout=GRACE_S)
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
        """Ends the processes; may be called twice."""
        for process in self._processes:
            process.terminate()
        self._reap()
        self._log.close()

    def _await_ready(self, link: Link) -> None:
        """Takes bytes off ``link`` until the board says READY, then closes it."""
        with contextlib.closing(link), contextlib.suppress(CableUnpluggedError):
            channel = Channel(link)
            if channel.await_kind(Ready, BOOT_TIMEOUT_S) is not None:
                for _ in range(READY_TAIL_TRIES):  # a line end belongs to READY
                    if channel.raw_tail.endswith(b"\n"):
                        return
                    channel.raw_tail += link.read(READY_TAIL_S)
        how = self.obituary() or f"not up within {BOOT_TIMEOUT_S:g} s"
        raise BoardBootError(f"the emulated board {self._name} did not start: {how}", "what it needs: hil doctor")

    def _popen(
        self, command: Sequence[str], descriptors: Sequence[int], pipes: PipeEnds | None = None
    ) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal must reach this program alone, which then ends the run in order.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if pipes is None else pipes.read_from,
            stdout=self._log if pipes is None else pipes.write_to,
            stderr=self._log,
            pass_fds=descriptors,
            start_new_session=True,
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
