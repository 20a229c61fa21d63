"""Uploads an image through a Nucleo's ST-Link, with whichever of Debian's tools is installed: OpenOCD or st-flash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

FLASH_ADDRESS = "0x08000000"


def command(program: Path, scripts: list[str], objcopy: str) -> list[str]:
    """The tool's command line; the probe is the one that HIL_PROBE_SERIAL names, else the first. [] if no tool is installed."""
    serial = os.environ.get("HIL_PROBE_SERIAL")
    if shutil.which("openocd"):
        files = [word for script in scripts for word in ("-f", script)]
        probe = ["-c", f"adapter serial {serial}"] if serial else []
        return ["openocd", *files, *probe, "-c", f"program {{{program}}} verify reset exit"]
    if shutil.which("st-flash"):
        binary = program.with_suffix(".bin")
        subprocess.run([objcopy, "-O", "binary", str(program), str(binary)], check=True)
        return ["st-flash", *(["--serial", serial] if serial else []), "--reset", "write", str(binary), FLASH_ADDRESS]
    return []


def upload(program: Path, scripts: list[str], objcopy: str) -> int:
    """Uploads and verifies; returns the tool's exit status."""
    words = command(program, scripts, objcopy)
    if not words:
        sys.stderr.write("openocd: not found, nor st-flash: install one of them: apt-get install openocd\n")
        return 127
    return subprocess.run(words).returncode
