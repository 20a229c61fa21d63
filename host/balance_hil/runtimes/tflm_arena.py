"""How large a tensor arena a model needs in TFLM, found by trial in processes of their own.

The wheel does not only fail on an arena that is too small: for some sizes it ends the process with a segmentation fault. So a
clean child process (``python -m balance_hil.runtimes.tflm_arena < model``) forks once for each size that is tried.
"""

from __future__ import annotations

import os
import subprocess
import sys

from balance_hil.errors import UnsupportedOperatorError
from balance_hil.processes import tied

ALIGNMENT_BYTES = 16  # what tflite-micro aligns its buffers to
_PROBE_TIMEOUT_S = 60.0


def needed_arena_bytes(model: bytes, enough_bytes: int) -> int:
    """Smallest arena in which TFLM allocates ``model``, in bytes; ``enough_bytes`` is known to suffice.

    The allocator's own count is lower: allocation needs scratch space on top of what stays in use. A 32-bit microcontroller's
    pointers are half as wide, so it needs less than this desktop figure.
    """
    command = [sys.executable, "-m", __name__, str(enough_bytes)]
    probe = subprocess.run(tied(command), input=model, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)
    if probe.returncode != 0:
        raise UnsupportedOperatorError(
            f"TensorFlow Lite Micro could not be probed for its arena: {probe.stderr.decode(errors='replace').strip()[-300:]}",
            "check the installation: hil doctor",
        )
    # The arena's address is aligned inside the buffer, which may cost up to one alignment unit.
    return int(probe.stdout) + ALIGNMENT_BYTES


def _smallest(model: bytes, enough_bytes: int) -> int:
    low, high = 0, enough_bytes
    while high - low > ALIGNMENT_BYTES:
        middle = (low + high) // 2 // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        low, high = (low, middle) if _allocates(model, middle) else (middle, high)
    return high


def _allocates(model: bytes, arena_bytes: int) -> bool:
    from tflite_micro.python.tflite_micro import runtime

    child = os.fork()
    if child == 0:
        try:
            runtime.Interpreter.from_bytes(model, arena_size=arena_bytes).invoke()
        except RuntimeError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _main() -> None:
    import resource  # only POSIX systems have it, and the wheel exists for Linux alone

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected here: no core dumps
    sys.stdout.write(str(_smallest(sys.stdin.buffer.read(), int(sys.argv[1]))))


if __name__ == "__main__":
    _main()
