"""PlatformIO as the flash tool: builds one environment with a model and uploads it. Each cause of failure has its own error."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from balance_hil import paths
from balance_hil.errors import FirmwareBuildError, FlashFailedError, FlashToolMissingError
from balance_hil.firmware_build import PROJECT, build_lock, platformio_settings, prepare_platformio, why_it_failed
from balance_hil.processes import run_group

BUILD_TIMEOUT_S = 1800.0  # the first build of a board downloads its platform
UPLOAD_TIMEOUT_S = 180.0  # some tools wait for a board forever
LIBRARY_VARIABLE = "HIL_TFLM_LIB"
_COMMAND_NOT_FOUND = 127
_MISSING = re.compile(r"(?:^|[\s:])'?([\w./-]+)'?: (?:command )?not found", re.MULTILINE)


class FlashTool:
    """One environment of platformio.ini with one bundle.

    Args:
        environment: of platformio.ini.
        bundle: folder with the model.h that goes into the image.
        port: device to upload to; None: chosen by the tool.
        probe: serial number of the debug probe to upload through.
        baud: baud rate of the firmware.
    """

    def __init__(self, environment: str, bundle: Path, *, port: str | None = None, probe: str | None = None, baud: int) -> None:
        self._environment = environment
        self._port = port
        self._settings = platformio_settings() | {"HIL_MODEL": str(bundle.resolve()), "HIL_BAUD": str(baud)}
        if probe:
            self._settings["HIL_PROBE_SERIAL"] = probe

    def build(self) -> None:
        """Builds the image. Raises FlashToolMissingError and FirmwareBuildError."""
        prepare_platformio()
        status, output = self._run([], BUILD_TIMEOUT_S)
        if status == 0:
            return
        if LIBRARY_VARIABLE in output:
            raise FirmwareBuildError(
                f"building the firmware ({self._environment}) failed:\n{why_it_failed(output)}",
                "see docs/boards.md for how to get it; or use the compact engine, which needs no library: --engine int8",
            )
        raise FirmwareBuildError(
            f"building the firmware ({self._environment}) failed:\n{why_it_failed(output)}",
            f"see the full output: pio run --project-dir {PROJECT} -e {self._environment}",
        )

    def upload(self) -> None:
        """Uploads the image. Raises FlashToolMissingError and FlashFailedError."""
        options = ["--target", "upload"] + (["--upload-port", self._port] if self._port else [])
        status, output = self._run(options, UPLOAD_TIMEOUT_S)
        if status == 0:
            return
        missing = _MISSING.search(output)
        if missing or status == _COMMAND_NOT_FOUND:
            name = missing.group(1) if missing else "the flash tool"
            raise FlashToolMissingError(
                f"PlatformIO could not upload: {name} is not installed",
                f"install the tools: pio pkg install --project-dir {PROJECT} -e {self._environment}",
            )
        raise FlashFailedError(
            f"flashing {self._environment} failed:\n{why_it_failed(output)}",
            "check the board and port, and close other programs that use it; many boards enter their boot loader by a button",
        )

    def _run(self, options: list[str], timeout_s: float) -> tuple[int, str]:
        with build_lock():
            return self._run_alone(options, timeout_s)

    def _run_alone(self, options: list[str], timeout_s: float) -> tuple[int, str]:
        command = [*_platformio(), "run", "--environment", self._environment, "--project-dir", str(PROJECT), *options]
        try:
            done = run_group(
                command,
                timeout_s=timeout_s,
                env=os.environ | self._settings,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise FlashFailedError(
                f"{' '.join(options) or 'the build'} for {self._environment} did not end within {timeout_s:g} s and was stopped",
                "the flash tool finds no board: press the boot loader button, check cable and hub",
            ) from None
        return done.returncode, done.stdout


def _platformio() -> list[str]:
    """Command line of PlatformIO: the program on PATH, or the installed package."""
    program = shutil.which("pio") or shutil.which("platformio")
    if program:
        return [program]
    if find_spec("platformio") is not None:
        return [sys.executable, "-m", "platformio"]
    raise FlashToolMissingError(
        "flashing needs PlatformIO, which is not installed", f"install it: {paths.install_command('firmware')}"
    )
