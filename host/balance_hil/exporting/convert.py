"""The parent's side of the conversion: starts the TensorFlow process, feeds it, and reports how it failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from balance_hil.errors import ExportError, require
from balance_hil.exporting.tensorflow_worker import ConversionRequest, quiet_environment

CONVERSION_TIMEOUT_S = 300.0  # on a machine that is busy otherwise; a free one takes about 12 s
_LOG_LINES = 12


class TensorFlowProcess:
    """A child process that imports TensorFlow while the parent does other things. Use it as a context manager.

    Args:
        log: file that takes everything TensorFlow and onnx2tf print.

    Raises:
        MissingExtraError: tensorflow or onnx2tf is not installed.
    """

    def __init__(self, log: Path) -> None:
        require("tensorflow", "export")
        require("onnx2tf", "export")
        self._log = log
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "balance_hil.exporting.tensorflow_worker"],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **quiet_environment()},
            )

    def start(self, request: ConversionRequest) -> None:
        """Hands over the request; the conversion runs while the caller goes on."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.to_line().encode())
            self._process.stdin.close()
        except BrokenPipeError:
            self._fail(self._process.wait())

    def finish(self) -> None:
        """Waits for the end of the conversion.

        Raises:
            ExportError: it failed or took too long; the message carries its last lines.
        """
        try:
            status = self._process.wait(CONVERSION_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise ExportError(
                f"the conversion to TFLite did not end within {CONVERSION_TIMEOUT_S:.0f} s",
                "try again on a machine that is less busy",
            ) from None
        if status != 0:
            self._fail(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _fail(self, status: int) -> None:
        lines = self._log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
        raise ExportError(
            f"the conversion to TFLite failed with status {status}:\n" + "\n".join(lines), "check the installation: hil doctor"
        )
