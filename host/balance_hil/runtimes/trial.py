"""Runs runtimes on a foreign model in a child process: native code may crash where it should reject a model.

python -m balance_hil.runtimes.trial RUNTIME... < model.tflite      prints the name of each runtime that did not crash
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from balance_hil.errors import HarnessError
from balance_hil.processes import tied
from balance_hil.runtimes import load_model_runtime

_TIMEOUT_S = 60.0


def fatal_runtimes(model: bytes, names: Sequence[str]) -> dict[str, str]:
    """Which of the runtimes ``names`` crash or hang on ``model``, and how; rejecting it does not count."""
    found: dict[str, str] = {}
    left = list(names)
    while left:
        command = [sys.executable, "-m", "balance_hil.runtimes.trial", *left]
        try:
            done = subprocess.run(tied(command), input=model, capture_output=True, timeout=_TIMEOUT_S)
            alive, why = done.stdout, f"it ends its process (status {done.returncode})"
        except subprocess.TimeoutExpired as exc:
            alive, why = exc.stdout or b"", f"it does not answer in {_TIMEOUT_S:g} s"
        left = left[len(alive.split()) :]
        if left:
            found[left.pop(0)] = why
    return found


def main() -> None:
    """Loads and runs one runtime after the other."""
    model = sys.stdin.buffer.read()
    for name in sys.argv[1:]:
        with contextlib.suppress(HarnessError), load_model_runtime(name, model) as runtime:
            runtime.layers_raw_batch(np.zeros((2, runtime.n_obs), runtime.dtype))
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
