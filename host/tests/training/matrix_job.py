"""What the processes of test_matrix do. A module of its own, because a process has to find it by its name."""

import os
import signal
import sys
import time

from balance_hil.errors import TrainingError
from balance_hil.training.matrix import InterruptedJobError
from balance_hil.training.request import TrainingProgress

FIGURES = {
    "steps": 1000,
    "wall_s": 2.0,
    "evaluation_wall_s": 1.0,
    "success_rate": 1.0,
    "episodes": 50,
    "good": True,
    "metrics": {"return": 5000.0, "action_rate": 0.03},
}


def job(request, on_progress, *, ready=None):
    """Runs in a process of its own; the seed says how it ends."""
    on_progress(TrainingProgress(phase="training", steps=5, total_steps=10))
    if request.seed == 1:
        raise TrainingError("training diverged after 5 steps: a NaN", "lower learning_rate")
    if request.seed == 2:
        raise ValueError("a bug")
    if request.seed == 3:
        sys.stdout.write("output before the end\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if request.seed == 4:  # until it is asked to end, as a training does
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
        ready.touch()
        while not stopped:
            time.sleep(0.01)
        raise InterruptedJobError
    return FIGURES
