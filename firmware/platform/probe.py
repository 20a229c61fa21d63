"""For boards behind a debug probe: OpenOCD uses the first probe it finds, so the probe is selected explicitly."""

import os

Import("env")  # noqa: F821  # PlatformIO's

serial_number = os.environ.get("HIL_PROBE_SERIAL")
if serial_number:
    env.Prepend(UPLOADERFLAGS=["-c", f"adapter serial {serial_number}"])  # noqa: F821
