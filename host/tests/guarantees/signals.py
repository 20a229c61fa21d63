"""Ends commands by signals at random times: ``python signals.py FOLDER COUNT SEED``. Run by test_signals.py, as a child process.

A command is a fork of this program, or (one in SHARE_OF_PROCESSES) a process of its own. In a fork the modules of the commands
are imported already, and the packages that they load later unless SEED is odd; ``hil flash`` is always one, with an image that
is never built and a flash tool that hangs. What is wrong goes to stdout, and last how long the slowest one took and how many
each signal ended.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
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
SHARE_OF_PROCESSES = 20
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
SHARES = (0.3, 0.3, 0.3, 0.1)
FAST, SLOW = 0.001, 1.5  # seconds until the signal
LONG = {"export": 12.0, "bench": 8.0}  # seconds in place of SLOW
HEAVY = ("export", "train", "verify", "bench")  # each as often as a quarter of another one
LATE_IMPORTS = ("torch", "stable_baselines3", "onnx", "onnxruntime", "tflite_micro", "balance_hil.runtimes.tflm")
PACKAGE = str(Path(cli.__file__).parents[1])
POLICY = str(MODELS / "ppo")
BOARD = ("--board", "native", "--engine", "int8")
HANGING_TOOL = "#!/bin/sh\nsleep 600 &\nsleep 600\n"


def commands(port: str, recording: Path) -> list[tuple[str, ...]]:
    """What is ended."""
    return [
        ("run", POLICY, "--board", "serial", "--port", port, "--seconds", "600"),
        ("run", POLICY, "--board", "serial", "--port", port, "--seconds", "600", "--clock", "lockstep"),
        ("run", POLICY, *BOARD, "--seconds", "600", "--clock", "lockstep"),
        ("run", POLICY, *BOARD, "--seconds", "600", "--no-record", "--fault", "drop:rate=0.1"),
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


def run_command(arguments: tuple[str, ...]) -> None:
    """``hil`` as its own process would run it, up to the end of that process."""
    sys.argv = ["hil", *arguments]
    status = 0
    try:
        cli.main()
    except SystemExit as exc:
        status = int(exc.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def start(arguments: tuple[str, ...], work: Path, *, fork: bool) -> int:
    """Starts a command in ``work``, in a session of its own, and waits until it begins; its process id."""
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(work)
        os.environ.update(TMPDIR=str(work / "tmp"), COMMAND_OF=str(work))
        output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for number in SIGNALS[:3]:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.write(begin, b"x")
        if fork:
            run_command(arguments)
        program = "from balance_hil.cli import main; main()"
        os.execv(sys.executable, [sys.executable, "-c", program, *arguments])
    os.close(begin)
    os.read(begun, 1)
    os.close(begun)
    return child


def waited_s(pid: int) -> float:
    """Time in which a process was ready and another one had the processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


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
    time.sleep(float(np.exp(rng.uniform(np.log(FAST), np.log(LONG.get(arguments[0], SLOW))))))
    ahead_s, sent = waited_s(pid), time.monotonic()
    os.kill(pid, number)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    took_s = time.monotonic() - sent - (waited_s(pid) - ahead_s)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = (work / "output").read_text(errors="replace")
    wrong = []
    if took_s > END_S:
        wrong.append(f"it took {took_s:.2f} s")
    # Before and after ``main`` a signal acts as it does in any program; nothing may be left then, either.
    outside = status == -number or any(where in said for where in ("_shutdown", "atexit", "Fatal Python error: init"))
    if status not in (0, 1, 130) and not outside:
        wrong.append(f"exit status {status}: {said[-300:]}")
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
    return took_s, "; ".join(wrong)


def main() -> None:
    """Ends COUNT commands and looks at the board that some of them used."""
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
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
        every = commands(port, recording)
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
            own = index % SHARE_OF_PROCESSES == SHARE_OF_PROCESSES - 1 and arguments[0] != "flash"
            number = SIGNALS[int(rng.choice(len(SIGNALS), p=SHARES))]
            took_s, wrong = end_one(arguments, number, folder / f"command-{index}", rng, fork=not own)
            ended[number.name] += 1
            slowest = max(slowest, took_s)
            if port in arguments:
                with connect("serial", bundle, port=port) as board:
                    deadline = time.monotonic() + END_S
                    while not board.stats().safe_state and time.monotonic() < deadline:
                        time.sleep(0.01)
                    if board.stats().inferences and not board.stats().safe_state:
                        wrong += "; the board is not in its safe state"
            if wrong:
                where = "process" if own else "fork"
                sys.stdout.write(f"{index}: {where} {' '.join(arguments)}: {number.name}: {wrong}\n")
        if len(list(Path("/proc/self/fd").iterdir())) != descriptors:
            sys.stdout.write("descriptors are left open\n")
    each = ", ".join(f"{number} {name}" for name, number in ended.items())
    sys.stdout.write(f"ended {count}, the slowest in {slowest:.2f} s: {each}\n")


if __name__ == "__main__":
    main()
