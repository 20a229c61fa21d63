"""Ends a recording run at a random point: ``python recordings.py FOLDER COUNT``. Run by test_recordings.py, as a child process.

Half of the runs are killed with SIGKILL, half meet a full disk (a limit on the size of the file). What is wrong goes to stdout.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from balance_hil.errors import RecordingError
from balance_hil.recording import RecordingWriter, Step, read_recording
from balance_hil.spec import PolicySpec, Signal

PERIOD_S = 0.005
MOST_STEPS = 400
LOST_STEPS = 101  # half a second, and the step that is written when it is over
MOST_BYTES = 20_000
SPEC = PolicySpec(
    environment="balance/Balance-v0",
    observation=tuple(Signal(index=i, name=f"o{i}", unit="rad", min=-1, max=1) for i in range(3)),
    action=(Signal(index=0, name="a", unit="rad/s", min=-1, max=1, scale=2.0),),
    control_period_s=PERIOD_S,
)
NOISE = np.random.default_rng(0).uniform(-1, 1, (MOST_STEPS + 1, 4)).astype(np.float32).tolist()


def record(path: Path, written: mmap.mmap) -> None:
    """Records until something ends it; ``written`` counts the steps that were accepted."""
    meta = {"bundle": "0123456789ab", "clock": "lockstep", "seeds": [1], "board": {"board": "fake"}}
    with RecordingWriter(path, meta, SPEC, ("tilt_rad",)) as writer:
        for i in range(MOST_STEPS):
            values = NOISE[i]
            step = Step(i * PERIOD_S, 0, i, values[:3], values[3:], False, (0.1,), 1.0, (i % 128, 0, 0), (3,), 400.0, 17.0, 3.0)
            writer.step(step.t_s, step)
            written[:8] = (i + 1).to_bytes(8, "little")
        signal.pause()  # not closed: the parent kills it


def end_one(path: Path, rng: np.random.Generator, written: mmap.mmap) -> str:
    """One run and what is wrong with its file; "" if nothing is."""
    written[:8] = bytes(8)
    kill, most = rng.random() < 0.5, int(rng.integers(500, MOST_BYTES))
    child = os.fork()
    if child == 0:
        if not kill:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
        with contextlib.suppress(RecordingError):
            record(path, written)
        os._exit(0)
    if kill:
        target, spun = int(rng.integers(0, MOST_STEPS)), int(rng.integers(0, 2000))
        # Not waited for before it is killed: its number could be another process's by then.
        while int.from_bytes(written[:8], "little") < target and not os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            time.sleep(5e-5)  # the processor is the child's
        for _ in range(spun):
            pass
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    count = int.from_bytes(written[:8], "little")
    partial = path.with_name(path.name + ".partial")
    what = f"killed after step {count}" if kill else f"disk full at byte {most}, after step {count}"
    try:
        back = read_recording(partial)
    except RecordingError as exc:
        return "" if count == 0 else f"{what}: {exc}"
    finally:
        partial.unlink(missing_ok=True)
    if not count - LOST_STEPS <= len(back) <= count + 1:
        return f"{what}: {len(back)} steps"
    if not np.array_equal(back.observation, np.array(NOISE, np.float32)[: len(back), :3]) or not back.missing:
        return f"{what}: wrong content"
    return ""


def main() -> None:
    """Ends COUNT runs."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    written = mmap.mmap(-1, mmap.PAGESIZE)
    rng = np.random.default_rng(0)
    for number in range(count):
        if wrong := end_one(folder / "run.mcap", rng, written):
            sys.stdout.write(f"{number}: {wrong}\n")
    sys.stdout.write(f"ended {count}\n")


if __name__ == "__main__":
    main()
