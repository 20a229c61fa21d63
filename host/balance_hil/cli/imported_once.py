"""What runs on several boards at once import in common, before their processes are forked: see boards_at_once."""

import ctypes
import importlib
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h

starter = os.environ.pop("BALANCE_HIL_STARTER", None)
if starter is not None and sys.platform == "linux":  # while this process imports, it would not see that its starter has ended
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if starter != str(os.getppid()):
        sys.exit()

for name in ("mujoco", "balance_hil.cli.run", "balance_hil.running"):
    importlib.import_module(name)
