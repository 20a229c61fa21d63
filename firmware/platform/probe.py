"""For boards behind a debug probe: OpenOCD takes the first probe it finds, so it is told which one is meant."""

import os

Import("env")  # noqa: F821  # PlatformIO's

serial_number = os.environ.get("HIL_PROBE_SERIAL")
if serial_number:
    env.Prepend(UPLOADERFLAGS=["-c", f"adapter serial {serial_number}"])  # noqa: F821
