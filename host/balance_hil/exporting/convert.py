"""The parent's side of TensorFlow: starts its process, feeds it, and reports how it failed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import ExportError, UnsupportedOperatorError, require
from balance_hil.exporting.tensorflow_worker import quiet_environment
from balance_hil.processes import popen

CONVERSION_TIMEOUT_S = 300.0  # on a machine that is busy otherwise; a free one takes about 12 s
_LOG_LINES = 12
_NO_INT16 = re.compile(r"Quantization to 16x8-bit not yet supported for op: '(\w+)'")
_MISSING_OPERATOR = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")


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
            self._process = popen(
                [sys.executable, "-m", "balance_hil.exporting.tensorflow_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                # What it leaves in its temporary folder goes with the log.
                env={**os.environ, **quiet_environment(), "TMPDIR": str(log.parent)},
            )

    def start(self, task: str, **request: Any) -> None:
        """Starts one task in the worker and returns at once."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"task": task, **request}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def finish(self) -> dict[str, Any]:
        """Waits for the end of the task that was started, and returns its answer.

        Raises:
            ExportError: it failed or took too long; the message carries its last lines.
            UnsupportedOperatorError: TensorFlow Lite has no operator for a part of the graph; the message names it.
        """
        assert self._process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(CONVERSION_TIMEOUT_S, stop)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if late.is_set():
            raise ExportError(
                f"the conversion to TFLite did not end within {CONVERSION_TIMEOUT_S:.0f} s",
                "try again on a machine that is less busy",
            )
        if not line:
            self._fail()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def predict(self, observations: NDArray[np.float32], scratch: Path) -> NDArray[np.float32]:
        """Outputs, float32 [n, n_act], of the model that the task ``read`` has loaded, for observations, float32 [n, n_obs]."""
        rows, outputs = scratch / "rows.npy", scratch / "outputs.npy"
        np.save(rows, observations)
        self.start("predict", rows=str(rows), outputs=str(outputs))
        self.finish()
        return np.asarray(np.load(outputs), np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # what was to be written is of no use any more

    def _fail(self) -> None:
        status = self._process.wait()
        log = self._log.read_text(errors="replace")
        if missing := _MISSING_OPERATOR.search(log):
            raise UnsupportedOperatorError(
                f"TensorFlow Lite has no operator {missing[1]}", "use ReLU, Tanh, Sigmoid, ELU, LeakyReLU or SiLU in the policy"
            )
        if missing := _NO_INT16.search(log):
            raise UnsupportedOperatorError(
                f"TensorFlow Lite has no int16 form of {missing[1]}",
                "export it in int8 (--quantize int8), or use ReLU, Tanh, Sigmoid, LeakyReLU or SiLU in the policy",
            )
        lines = log.strip().splitlines()[-_LOG_LINES:]
        raise ExportError(
            f"the conversion to TFLite failed with status {status}:\n" + "\n".join(lines), "check the installation: hil doctor"
        )
