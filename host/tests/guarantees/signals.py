"""Ends commands by signals at random times: ``python signals.py FOLDER COUNT SEED [NAME]``, of all commands or those of a name.

Run by test_signals.py, as a child process.

A command is a fork of this program, or (one in SHARE_OF_PROCESSES, of the heavy ones more) a process of its own. In a fork the
modules of the commands are imported already, and the packages that they load later unless SEED is odd; ``hil flash`` is always
one, with an image that is never built and a flash tool that hangs. What is wrong goes to stdout, a line for each case and below
it, indented, what the command and the computer did meanwhile; last how long the slowest one took and how many each signal ended.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import os
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from balance_hil import cli, interrupt
from balance_hil.boards import connect, find_definition, flash
from balance_hil.boards.kinds.machines import emulate
from balance_hil.boards.reservation import reservations
from balance_hil.bundle import Bundle
from balance_hil.files import staging_folder

MODELS = Path(__file__).resolve().parents[3] / "models"
END_S = 1.0  # from the signal to the end of the process, without the time in which other processes had the processor
LOOK_S = 0.9  # a command that runs this long after the signal is asked what it does, and again every LOOK_AGAIN_S
LOOK_AGAIN_S = 0.5
GIVE_UP_S = 30.0  # then it is killed
OUTSIDE = ("_shutdown", "atexit", "Fatal Python error: init", "    def main() -> None:\n")  # what Python says of a signal there
STEP_S = 0.05
SHARE_OF_PROCESSES = 20
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
SHARES = (0.3, 0.3, 0.3, 0.1)
FAST, SLOW = 0.001, 1.5  # seconds until the signal
LONG = {"export": 12.0, "train": 12.0, "bench": 8.0, "compare": 8.0}  # seconds in place of SLOW
HEAVY = ("export", "train", "verify", "bench")  # each as often as a quarter of another one
SHARE_OF_HEAVY_PROCESSES = 3  # what they import is a part of how long they take to end
LATE_IMPORTS = ("torch", "stable_baselines3", "onnx", "onnxruntime", "tflite_micro", "balance_hil.runtimes.tflm")
PACKAGE = str(Path(cli.__file__).parents[1])
POLICY = str(MODELS / "ppo")
BOARD = ("--board", "native", "--engine", "int8")
# In a process of its own, before anything else: SIGUSR1 tells where each thread is.
TELL_WHERE = f"import faulthandler; faulthandler.register({signal.SIGUSR1:d}, open('where', 'a'))"
HANGING_TOOL = "#!/bin/sh\nsleep 600 &\nsleep 600\n"


def commands(port: str, recording: Path) -> list[tuple[str, ...]]:
    """What is ended."""
    return [
        ("run", POLICY, "--board", "serial", "--port", port, "--seconds", "600"),
        ("run", POLICY, "--board", "serial", "--port", port, "--seconds", "600", "--clock", "lockstep"),
        ("run", POLICY, *BOARD, "--seconds", "600", "--clock", "lockstep"),
        ("run", POLICY, *BOARD, "--seconds", "600", "--no-record", "--fault", "drop:rate=0.1"),
        ("run", POLICY, *BOARD, *BOARD, "--seconds", "600", "--clock", "lockstep"),
        ("compare", POLICY, *BOARD, "--samples", "100000"),
        ("replay", str(recording), *BOARD, "--bundle", POLICY),
        ("evaluate", POLICY, "--runtime", "float32", "--episodes", "500"),
        ("evaluate", POLICY, "--runtime", "board", "--board", "serial", "--port", port, "--episodes", "500"),
        ("emulate", POLICY, "--engine", "int8", "--link", "board"),
        ("soak", POLICY, *BOARD, "--hours", "1"),
        ("report", str(recording), "-o", "page.html"),
        ("boards",),
        ("recordings",),
        ("doctor",),
        ("export", POLICY, "-o", "made/ppo", "--episodes", "2"),
        ("train", "ppo", "--steps", "1000000"),
        ("verify", POLICY, *BOARD),
        ("run", POLICY, *BOARD, "--seconds", "600", "--live", "--no-record"),
        ("flash", POLICY, "--board", "nucleo_f446re", "--port", port, "--engine", "int8", "--force"),
        ("identify", "step.csv", "--record", "-o", "motor.yaml"),
        ("bench", "realtime"),
        ("bench", "loop"),
    ]


def without_hardware(folder: Path) -> None:
    """Makes ``hil flash`` in forks of this process flash a file that is none, by a tool that never ends."""
    tool, image = folder / "tools" / "openocd", folder / "image.elf"
    tool.parent.mkdir()
    tool.write_text(HANGING_TOOL)
    tool.chmod(0o755)
    os.environ["PATH"] = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    flash.build_image = lambda *arguments, **options: image
    flash.check_board_tools = lambda environment: None


def run_command(arguments: tuple[str, ...]) -> int:
    """``hil`` as its own process would run it; its exit status."""
    sys.argv = ["hil", *arguments]
    status = 0
    try:
        cli.main()
    except SystemExit as exc:
        status = int(exc.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    for last in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        try:
            last()
        except BaseException:  # of a signal: a Python that ends goes on, too
            sys.excepthook(*sys.exc_info())
    return status


def become(arguments: tuple[str, ...], work: Path, begin: int, *, fork: bool) -> None:
    """Makes a child process the command. It never returns."""
    os.setsid()
    os.chdir(work)
    os.environ.update(TMPDIR=str(work / "tmp"), COMMAND_OF=str(work))
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for number in SIGNALS[:3]:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if fork:  # SIGUSR1 tells where each thread is
        faulthandler.register(signal.SIGUSR1, os.open("where", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        os.write(begin, b"x")
        os._exit(run_command(arguments))
    os.write(begin, b"x")
    program = f"{TELL_WHERE}; from balance_hil.cli import main; main()"
    os.execv(sys.executable, [sys.executable, "-c", program, *arguments])


def start(arguments: tuple[str, ...], work: Path, *, fork: bool) -> int:
    """Starts a command in ``work``, in a session of its own, and waits until it begins; its process id."""
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        # An exception that left the child would end it as this program ends: by freeing, one by one, all objects of torch and
        # the other packages that this program has imported and a command has not.
        try:
            become(arguments, work, begin, fork=fork)
        finally:
            os._exit(1)
    os.close(begin)
    os.read(begun, 1)
    os.close(begun)
    return child


def waited_s(pid: int | str) -> float:
    """Time in which a process was ready and another one had the processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def last_threads(pid: int) -> dict[str, float]:
    """``waited_s`` of the threads that go on after the main thread has ended; the last one frees the memory of the process."""
    waited = {}
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            for task in Path(f"/proc/{pid}/task").iterdir():
                if task.name != str(pid):
                    waited[task.name] = waited_s(f"{pid}/task/{task.name}")
    return waited


@dataclass
class End:
    """How a process ended after a signal."""

    took_s: float = 0.0
    late_s: float = 0.0  # of took_s, what passed before this program had the processor and saw the end
    last_thread_s: float = 0.0  # of took_s, what a thread that ended after the main one was ready without a processor
    stood_still_s: float = 0.0  # how much longer than they should this program's own waits took, with a processor ready
    seen: list[str] = field(default_factory=list)  # where it was when it should have ended


def wait_for_end(pid: int, sent: float) -> End:
    """Waits until a process has ended; looks at it if that takes long, and kills it if it takes very long."""
    end, first_s, handle = End(), dict[str, float](), os.pidfd_open(pid)
    look = select.poll()
    look.register(handle, select.POLLIN)
    next_look = sent + LOOK_S
    while True:
        before_s, began = waited_s("self"), time.monotonic()
        over = look.poll(STEP_S * 1000)
        now, own_s = time.monotonic(), waited_s("self") - before_s
        if over:
            end.late_s = own_s
            break
        end.stood_still_s += max(now - began - own_s - STEP_S, 0)
        for thread, ready_s in last_threads(pid).items():
            end.last_thread_s = max(end.last_thread_s, ready_s - first_s.setdefault(thread, ready_s))
        if now > next_look:
            next_look = now + LOOK_AGAIN_S
            end.seen.append(f"after {now - sent:.2f} s:\n" + where(pid))
        if now > sent + GIVE_UP_S:
            os.kill(pid, signal.SIGKILL)
    os.close(handle)
    end.took_s = time.monotonic() - sent
    return end


def family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def where(pid: int) -> str:
    """What each thread of a process and of its descendants does: by Python, and by the kernel where it may be read."""
    lines = []
    told = Path(f"/proc/{pid}/cwd/where")
    with contextlib.suppress(OSError):
        caught = int(
            next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigCgt" in line).split()[1], 16
        )
        if caught >> signal.SIGUSR1 - 1 & 1:
            size = told.stat().st_size
            os.kill(pid, signal.SIGUSR1)
            time.sleep(STEP_S)
            lines += told.read_text()[size:].splitlines() or ["Python does not answer"]
    for process in family(pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
            lines.append(f"process {process} {command}")
            for task in Path(f"/proc/{process}/task").iterdir():
                state = (task / "stat").read_text().rpartition(")")[2].split()
                stack = [f"kernel stack not readable, {(task / 'wchan').read_text()}"]
                with contextlib.suppress(PermissionError):
                    stack = [line.split()[-1].partition("+")[0] for line in (task / "stack").read_text().splitlines()]
                lines.append(
                    f"thread {task.name} {(task / 'comm').read_text().strip()}: state {state[0]}, {state[9]} major faults, "
                    f"ticks {state[11]} user {state[12]} system {state[39]} for blocks, "
                    f"ready without a processor {waited_s(f'{process}/task/{task.name}'):.2f} s; {' < '.join(stack)}"
                )
    return "\n".join(lines)


def computer() -> dict[str, float]:
    """Seconds that the processors did each thing since the start, and that something waited for each resource."""
    ticks = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    found = {name: int(tick) / os.sysconf("SC_CLK_TCK") for name, tick in zip(names, ticks, strict=True)}
    for resource in ("cpu", "io", "memory"):
        with contextlib.suppress(OSError):  # a kernel without it
            some = Path(f"/proc/pressure/{resource}").read_text().splitlines()[0]
            found[f"waiting for {resource}"] = int(some.rpartition("=")[2]) / 1e6
    return found


def left_over(work: Path) -> list[str]:
    """Processes of a command that are still there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(work).encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def temporary(work: Path, *, killed: bool) -> list[str]:
    """What a command should have removed; once killed, what the next one should."""
    if killed:
        for target in (work / "tmp" / "hil-export", work / "made" / "ppo"):
            with staging_folder(target):  # the next export
                pass
    found = [path.relative_to(work) for path in work.rglob("*")]
    if killed:
        return [str(path) for path in found if path.name.endswith(".staging")]
    parts = [(path, path.parts) for path in found if path.name != "tmp"]
    unfinished = [path for path, names in parts if any(name.startswith(".") or name.endswith(".partial") for name in names)]
    return [str(path) for path in unfinished] + [str(path) for path, names in parts if names[0] in ("tmp", "board")]


def end_one(
    arguments: tuple[str, ...], number: signal.Signals, work: Path, rng: np.random.Generator, *, fork: bool
) -> tuple[float, str]:
    """Seconds until it ended, and what is wrong; "" if nothing is."""
    (work / "tmp").mkdir(parents=True)
    (work / "recordings").mkdir()
    pid = start(arguments, work, fork=fork)
    after_s = float(np.exp(rng.uniform(np.log(FAST), np.log(LONG.get(arguments[0], SLOW)))))
    time.sleep(after_s)
    before = computer()
    ahead_s, sent = waited_s(pid), time.monotonic()
    os.kill(pid, number)
    end = wait_for_end(pid, sent)
    others_s = waited_s(pid) - ahead_s + end.last_thread_s
    took_s = end.took_s - others_s
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = (work / "output").read_text(errors="replace")
    wrong = []
    if took_s > END_S:
        did = ", ".join(f"{name} {now - before[name]:.2f}" for name, now in computer().items())
        wrong.append(
            f"it took {took_s:.2f} s, and {others_s:.2f} s more in which others had the processor\n"
            f"of these seconds {end.late_s:.2f} passed before its end was seen, "
            f"{end.stood_still_s:.2f} with everything standing still\nthe computer: {did}, load {os.getloadavg()[0]:.1f}\n"
            + "\n".join(end.seen)
        )
    elif end.seen and end.took_s > GIVE_UP_S:
        wrong.append(f"it was killed after {end.took_s:.2f} s\n" + "\n".join(end.seen))
    # Before and after ``main`` a signal acts as it does in any program; nothing may be left then, either.
    outside = status == -number or any(where in said for where in OUTSIDE)
    if status not in (0, 1, 130) and not outside:
        wrong.append(f"exit status {status}: {said[-6000:]}")
    # One of another package alone is not ours: glfw's child asks for its library's name, C code prints what it ignores.
    ours = [line for line in said.splitlines() if PACKAGE in line and interrupt.__file__ not in line]
    if "Traceback" in said and ours and fork and not outside:
        wrong.append(said[-600:])
    deadline = time.monotonic() + END_S
    while (processes := left_over(work)) and time.monotonic() < deadline:
        time.sleep(0.01)
    wrong += [f"left: {line}" for line in processes]
    wrong += [f"left: {name}" for name in temporary(work, killed=number == signal.SIGKILL)]
    wrong += [f"still holds {owner.port}" for owner in reservations() if owner.pid == pid]
    shutil.rmtree(work)
    return took_s, f"{after_s:.3f} s after its start: " + "; ".join(wrong) if wrong else ""


def becomes_safe(bundle: Bundle, port: str) -> bool:
    """Whether a board that was used is in its safe state within END_S."""
    with connect("serial", bundle, port=port) as board:
        deadline = time.monotonic() + END_S
        while not board.stats().safe_state and time.monotonic() < deadline:
            time.sleep(0.01)
        return board.stats().safe_state or not board.stats().inferences


def main() -> None:
    """Ends COUNT commands and looks at the board that some of them used."""
    folder, count, seed, *names = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
    rng = np.random.default_rng(seed)
    bundle = Bundle.load(POLICY)
    without_hardware(folder)
    machine = emulate(find_definition("native"), bundle, engine="int8", watchdog_ms=100)
    with contextlib.closing(machine):
        port = machine.start_unopened()
        recording = folder / "seed.mcap"
        child = start(
            ("run", POLICY, *BOARD, "--seconds", "5", "--clock", "lockstep", "--record", str(recording)), folder, fork=False
        )
        os.waitpid(child, 0)
        every = [arguments for arguments in commands(port, recording) if not names or arguments[0] in names]
        chances = np.array([0.25 if arguments[0] in HEAVY else 1.0 for arguments in every])
        for arguments in every:
            importlib.import_module(f"balance_hil.cli.{arguments[0]}")
        for module in ("running", "comparing.compare", "comparing.replay", "evaluating", "exporting.pipeline", "environment"):
            importlib.import_module(f"balance_hil.{module}")
        for module in LATE_IMPORTS if seed % 2 == 0 else ():
            with contextlib.suppress(ImportError):  # of an extra
                importlib.import_module(module)
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        slowest, ended = 0.0, Counter[str]()
        for index in range(count):
            arguments = every[int(rng.choice(len(every), p=chances / chances.sum()))]
            share = SHARE_OF_HEAVY_PROCESSES if arguments[0] in HEAVY else SHARE_OF_PROCESSES
            own = index % share == share - 1 and arguments[0] != "flash"
            number = SIGNALS[int(rng.choice(len(SIGNALS), p=SHARES))]
            took_s, wrong = 0.0, ""
            try:
                took_s, wrong = end_one(arguments, number, folder / f"command-{index}", rng, fork=not own)
                if port in arguments and not becomes_safe(bundle, port):
                    wrong += "; the board is not in its safe state"
            except Exception:
                wrong += f"; this program failed\n{traceback.format_exc()}"
            ended[number.name] += 1
            slowest = max(slowest, took_s)
            if wrong:
                kind = "process" if own else "fork"
                head, *rest = wrong.splitlines()
                sys.stdout.write(f"{index}: {kind} {' '.join(arguments)}: {number.name} {head}\n")
                sys.stdout.writelines(f"    {line}\n" for line in rest)
                sys.stdout.flush()
        if len(list(Path("/proc/self/fd").iterdir())) != descriptors:
            sys.stdout.write("descriptors are left open\n")
    each = ", ".join(f"{number} {name}" for name, number in ended.items())
    sys.stdout.write(f"ended {count}, the slowest in {slowest:.2f} s: {each}\n")


if __name__ == "__main__":
    main()
