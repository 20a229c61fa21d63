"""Common parts of emulated boards: their processes, log and shutdown."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from balance_hil.boards.channel import Channel
from balance_hil.boards.definition import BoardDefinition
from balance_hil.boards.handshake import BOOT_TIMEOUT_S
from balance_hil.errors import BoardBootError, CableUnpluggedError, EmulatorMissingError, FlashToolMissingError, UsageError
from balance_hil.firmware_build import HEADERS, TFLM_LIBRARY, check_cross_tools
from balance_hil.link import Link, PipeEnds, open_pipes
from balance_hil.model_image import ModelImage
from balance_hil.processes import popen
from balance_hil.protocol.messages import Ready
from balance_hil.scheduling import CpuLatencyRequest

LOOK_INTERVAL_S = 0.2  # whether the emulator has ended
READY_TAIL_S = 0.01  # polling interval for the line end after READY
READY_TAIL_TRIES = 500
GRACE_S = 1.0  # between SIGTERM and SIGKILL
_LAST_BYTES = 2000
_LAST_LINES = 5
MAX_MAPPING_BYTES = 1 << 28  # of memory that is searched


@dataclass(frozen=True, kw_only=True)
class EmulationConfig:
    """Settings of an emulated board."""

    name: str = "native"  # reported in INFO
    engine: str = "tflm"
    image: ModelImage | None = None  # None: a board without a model
    watchdog_ms: int | None = None  # None: the firmware's default
    arena_bytes: int | None = None  # None: what the model needs on the native board, the firmware's default elsewhere
    device_clock: bool = False  # its time advances only while the host waits for it
    count_instructions: bool = False  # its time advances by the instructions that it executes
    fault: str | None = None  # one of ``native.firmware_faults``, on native and qemu boards; None: no fault


def check_platform() -> None:
    """Raises EmulatorMissingError on systems without Linux's pseudo-terminals and inherited pipes."""
    if sys.platform != "linux":
        raise EmulatorMissingError(
            f"emulated boards run on Linux only, this is {platform.system()}",
            "use a container or WSL; hil evaluate, hil compare and physical boards (--port) work here",
        )


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


def check_image_board(emulator: Callable[[], object]) -> None:
    """Raises what keeps boards whose image is built from being built or started here; ``emulator`` finds their emulator.

    Raises:
        EmulatorMissingError, FlashToolMissingError: what is missing.
    """
    check_platform()
    emulator()
    check_cross_tools()


def model_header(config: EmulationConfig) -> Path:
    """``model.h`` of the model that goes into the image."""
    if config.image is None:
        raise UsageError(f"the image of the board {config.name} needs a model", "name a bundle, for example: hil emulate ppo")
    header = HEADERS / config.image.id / "model.h"
    config.image.write_header(header)
    return header


class EmulatedMachine(ABC):
    """The processes of one emulated board, the processor first. Call ``start`` or ``start_unopened``, then ``close``."""

    instructions_per_us: float | None = None  # of the board's clock; None: not counted
    image: Path | None = None  # the linked program that it runs

    def __init__(self, name: str) -> None:
        self._name = name
        self._processes: list[subprocess.Popen[bytes]] = []
        self._flipped: dict[bytes, bytes] = {}  # by what it was: what the memory has in its place
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self._latency_request = CpuLatencyRequest()  # every exchange wakes several processes

    @abstractmethod
    def start(self) -> Link:
        """Starts the board; returns the link to it."""

    @abstractmethod
    def start_unopened(self) -> str:
        """Starts the board for other programs; returns its port, which they may open and close repeatedly.

        The board has booted by then, and its READY has been consumed: a text-only program could not parse it.

        Raises:
            BoardBootError: it did not boot.
        """

    @abstractmethod
    def press_reset(self) -> None:
        """Presses the reset button. Raises UsageError if the board has none."""

    def restart(self) -> Link:
        """Power cycle: kills the processes and restarts them on a new port."""
        for process in self._processes:
            process.kill()
        self._reap()
        return self.start()

    def pause(self) -> None:
        """Suspends the processor until ``resume``."""
        os.kill(self._processes[0].pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resumes a paused processor."""
        os.kill(self._processes[0].pid, signal.SIGCONT)

    def flip_bit(self, data: bytes, position: int, bit: int) -> int:
        """Flips one bit of every copy of ``data`` in the board's memory, bits that were flipped before included.

        Returns how many copies there are.

        Raises:
            UsageError: there is none, or this system lets nobody write to the memory of its child processes.
        """
        copies = 0
        try:
            for known in dict.fromkeys((self._flipped.get(data, data), data)):  # a restart brings the latter back
                copies = sum(_flip_bit(pid, known, position, 1 << bit) for pid in self.process_ids())
                if copies:
                    flipped = bytes([known[position] ^ 1 << bit])
                    self._flipped[data] = known[:position] + flipped + known[position + 1 :]
                    break
        except PermissionError as exc:
            raise UsageError(
                f"the memory of the board {self._name} cannot be written: {exc}", "allow it: sysctl kernel.yama.ptrace_scope=1"
            ) from exc
        if not copies:
            raise UsageError(f"the model was not found in the memory of {self._name}", "let it run the policy that was named")
        return copies

    def process_ids(self) -> list[int]:
        """The board's processes, the processor first."""
        return [process.pid for process in self._processes]

    def exit_report(self) -> str | None:
        """Exit status and last output; None while it runs."""
        if not self._processes:
            return "it is switched off"
        try:
            # The port closes shortly before the exit status is available.
            status = self._processes[0].wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            return None
        ended = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        words = self._last_words()
        return f"{ended}; last output: {words}" if words else ended

    def wait(self, progress: Callable[[str], None]) -> str:
        """Waits until the board ends; returns the exit report. ``progress`` is called with what happens meanwhile."""
        self._processes[0].wait()
        return self.exit_report() or ""

    def close(self) -> None:
        """Ends the processes; may be called twice."""
        for process in self._processes:
            process.terminate()
        self._reap()
        self._log.close()
        self._latency_request.close()

    def _await_ready(self, link: Link) -> None:
        """Reads ``link`` until READY, then closes it."""
        with contextlib.closing(link), contextlib.suppress(CableUnpluggedError):
            channel = Channel(link)
            deadline_s = time.monotonic() + BOOT_TIMEOUT_S
            ready = None
            # A port on a socket stays open when the process behind it ends.
            while ready is None and time.monotonic() < deadline_s and self._processes[0].poll() is None:
                ready = channel.await_kind(Ready, LOOK_INTERVAL_S)
            if ready is not None:
                for _ in range(READY_TAIL_TRIES):  # READY ends with a line end
                    if channel.raw_tail.endswith(b"\n"):
                        return
                    channel.raw_tail += link.read(READY_TAIL_S)
        how = self.exit_report() or f"no READY within {BOOT_TIMEOUT_S:g} s"
        raise BoardBootError(f"the emulated board {self._name} did not start: {how}", "check the installation: hil doctor")

    def _start_on_pipes(self, spawn: Callable[[PipeEnds], None]) -> Link:
        """Link to a board whose UART is two pipes; ``spawn`` starts its emulator on their other ends."""
        link, far_end = open_pipes(f"a pipe to {self._name}")
        try:
            spawn(far_end)
        except BaseException:
            link.close()
            raise
        finally:
            far_end.close()
        return link

    def _popen(
        self, command: Sequence[str], descriptors: Sequence[int], pipes: PipeEnds | None = None
    ) -> subprocess.Popen[bytes]:
        # A separate process session: Ctrl-C must reach only this program, which then ends the run in order.
        return popen(
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
        raw = os.pread(descriptor, _LAST_BYTES, max(0, size - _LAST_BYTES))  # a seek would move the processes' write position
        lines = raw.decode(errors="replace").strip().splitlines()
        return " / ".join(lines[-_LAST_LINES:])


def _flip_bit(pid: int, data: bytes, position: int, mask: int) -> int:
    """Changes every copy of ``data`` in the memory of a process; returns how many there were."""
    copies = 0
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        for line in maps:
            span, permissions = line.split()[:2]
            start, end = (int(number, 16) for number in span.split("-"))
            if not permissions.startswith("rw-") or end - start > MAX_MAPPING_BYTES:
                continue
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except OSError:  # a device's memory
                continue
            at = content.find(data)
            while at >= 0:
                memory.seek(start + at + position)
                memory.write(bytes([content[at + position] ^ mask]))
                copies += 1
                at = content.find(data, at + 1)
    return copies
