"""Real-time scheduling for the time of a real-time run, where the operating system grants it.

A control loop at 200 Hz leaves a board 5 ms. On a busy computer a process with ordinary priority may be descheduled for longer
than that, and so may the emulator of a board; on an idle computer, a processor that sleeps must wake up for every byte. The run
would then measure the computer, not the board.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

MOVE_INTERVAL_S, MOVE_S = 0.5, 0.02  # of emulators in lockstep: how often, and for how long the operating system has a choice
LOOP_PRIORITY = 3  # above the emulator, so that busy-waiting firmware cannot starve the loop
EARLIER_PRIORITY, LATER_PRIORITY = 2, 1  # of an emulator's threads
CURRENT_THREAD = 0
CPU_LATENCY = Path("/dev/cpu_dma_latency")
STATISTICS = Path("/proc/stat")


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_on_one_core(process: int) -> None:
    """Keeps a process, and the threads that it starts from now on, on the core that it was last seen on.

    QEMU's two threads wait for each other at every byte. Between cores, that takes longer than to run one after the other.
    """
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # it has ended
            core = _core_of(process)
            for thread in _threads([process]):
                os.sched_setaffinity(thread, {core})


@contextlib.contextmanager
def moving_to_free_cores(processes: Sequence[int]) -> Iterator[None]:
    """Lets the operating system move processes that keep to one core, again and again, while something runs.

    For a run that waits for its board: on a core that it shares it takes longer, and a run beside it may end at any time.
    """
    kept = [process for process in processes if hasattr(os, "sched_getaffinity") and _keeps_to_one_core(process)]
    stop = threading.Event()

    def move() -> None:
        while not stop.wait(MOVE_INTERVAL_S):
            for process in kept:
                with contextlib.suppress(OSError):  # it has ended
                    for thread in _threads([process]):
                        os.sched_setaffinity(thread, os.sched_getaffinity(0))
            stop.wait(MOVE_S)
            for process in kept:
                keep_on_one_core(process)

    mover = threading.Thread(target=move, daemon=True)
    if kept and usable_cores() > 1:
        mover.start()
    try:
        yield
    finally:
        stop.set()
        if mover.ident is not None:
            mover.join()


@contextlib.contextmanager
def real_time_priority(board_processes: Sequence[int], *, processor_first: bool = False) -> Iterator[bool]:
    """Schedules the calling thread, and then the processes of an emulated board, before every ordinary program.

    Args:
        board_processes: the first thread of each has the board's devices, the others its processor.
        processor_first: the devices wait until the processor sleeps. By default they come first: then firmware that is busy has
            its UART and the interrupts of its timers, but each register that it asks for may cost two changes of threads.

    Yields:
        Whether that was granted: to root, to users with an rtprio limit (ulimit -r) of 3 or more. If not, nothing changes.
    """
    if not _schedule(CURRENT_THREAD, LOOP_PRIORITY):
        yield False
        return
    try:
        for thread in _threads(board_processes):
            first = (thread in board_processes) != processor_first
            _schedule(thread, EARLIER_PRIORITY if first else LATER_PRIORITY)
        yield True
    finally:
        for thread in [CURRENT_THREAD, *_threads(board_processes)]:
            _schedule(thread, 0)


class CpuLatencyRequest:
    """Until it is closed, no processor of this computer sleeps deeper than it can wake up from in 0 us, where that is granted.

    This is the kernel's PM QoS request for CPU latency (Linux, docs: power/pm_qos_interface). It ends with the process, too.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(CPU_LATENCY, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
            os.write(self._descriptor, struct.pack("=i", 0))
        except OSError:  # another system, or not granted
            self.close()

    @property
    def granted(self) -> bool:
        """Whether it is in force: to root, and to whom a udev rule gives the device."""
        return self._descriptor is not None

    def close(self) -> None:
        """Ends it; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class ProcessorWait:
    """How long the calling thread and some processes were ready to run and had no processor, and a hypervisor took processors.

    Always 0 where not on Linux, and for None, which is a run whose time is not this computer's. Use it as a context manager.
    A read takes 2 us for each thread. The kernel counts a hypervisor's time in steps of 10 ms.
    """

    def __init__(self, processes: Sequence[int] | None) -> None:
        files: list[str] = []
        if processes is not None:
            files = ["/proc/thread-self/schedstat", *(f"/proc/{thread}/schedstat" for thread in _threads(processes))]
        self._descriptors: list[int] = []
        for file in files:
            with contextlib.suppress(OSError):  # another system, or the thread has ended
                self._descriptors.append(os.open(file, os.O_RDONLY))
        self._all_processors: int | None = None
        # Without a hypervisor that takes time it stays 0, and the file is long on a computer with many processors.
        with contextlib.suppress(OSError, ValueError, IndexError):  # a container may hide it
            if self._descriptors and _stolen_us(STATISTICS.read_bytes()):
                self._all_processors = os.open(STATISTICS, os.O_RDONLY)
                self._descriptors.append(self._all_processors)

    def total_us(self) -> float:
        """Since they were started, over all of them."""
        waited_us = 0.0
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):  # it has ended
                counts = os.pread(descriptor, 200, 0)
                waited_us += _stolen_us(counts) if descriptor == self._all_processors else int(counts.split()[1]) / 1e3
        return waited_us

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)


def _stolen_us(statistics: bytes) -> float:
    """Time that a hypervisor took from all processors, of the first line of /proc/stat."""
    return int(statistics.split(maxsplit=9)[8]) * 1e6 / os.sysconf("SC_CLK_TCK")


def _schedule(thread: int, priority: int) -> bool:
    """Sets the real-time priority of a thread; 0 restores ordinary scheduling."""
    if not hasattr(os, "sched_setscheduler"):
        return False
    policy = os.SCHED_FIFO if priority else os.SCHED_OTHER
    try:
        os.sched_setscheduler(thread, policy, os.sched_param(priority))
    except OSError:  # not allowed, or the thread has ended
        return False
    return True


def _core_of(process: int) -> int:
    """The core that the newest thread of a process ran on last: of QEMU, its processor's. Raises OSError: it has ended."""
    status = Path(f"/proc/{process}/task/{max(_threads([process]), default=process)}/stat").read_text()
    return int(status.rpartition(")")[2].split()[36])


def _keeps_to_one_core(process: int) -> bool:
    with contextlib.suppress(OSError):  # it has ended
        return len(os.sched_getaffinity(process)) == 1
    return False


def processor_time_s(processes: Sequence[int]) -> float:
    """Processor time of the threads that processes have now; 0 where not on Linux."""
    total_ns = 0
    for thread in _threads(processes):
        with contextlib.suppress(OSError):  # another system, or it has ended
            total_ns += int(Path(f"/proc/{thread}/schedstat").read_text().split()[0])
    return total_ns / 1e9


def _threads(processes: Sequence[int]) -> list[int]:
    found: list[int] = []
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended
            found += [int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir()]
    return found
