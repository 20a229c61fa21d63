"""A runtime in a child process that takes one model after the other: native code may crash or hang on any of them.

python -m balance_hil.runtimes.isolated RUNTIME      serves requests on stdin, answers on stdout
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import subprocess
import sys
import time
from typing import BinaryIO

import numpy as np

from balance_hil.errors import HarnessError, UnsupportedOperatorError
from balance_hil.processes import popen
from balance_hil.quantize import RawArray
from balance_hil.runtimes import load_model_runtime
from balance_hil.tflite.graph import read_graph

_REQUEST = struct.Struct("<QQ")  # bytes of the model, bytes of the rows
_REPLY = struct.Struct("<BQ")  # whether it is an answer, bytes of outputs or of the reason
_MOST_REASON_BYTES = 10_000
TIMEOUT_S = 60.0


class RuntimeCrashError(HarnessError, RuntimeError):
    """A runtime ended its process, or hung."""


class IsolatedRuntime:
    """One runtime; use it as a context manager. A process that has ended is started again at the next call."""

    def __init__(self, name: str, timeout_s: float = TIMEOUT_S) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def infer_raw_batch(self, model: bytes, rows: RawArray) -> RawArray:
        """Raw outputs [n, n_act] for raw inputs [n, n_obs].

        Raises:
            RuntimeCrashError: it crashed or hung.
            UnsupportedOperatorError: it refuses the model.
            BundleError, ElementTypeError: not a model.
        """
        graph = read_graph(model)
        n_act, dtype = graph.n_act, graph.kind.dtype
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "balance_hil.runtimes.isolated", self.name]
            pipe = subprocess.PIPE
            self._process = popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        try:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # the answer says why
                data = rows.astype(dtype).tobytes()
                self._process.stdin.write(_REQUEST.pack(len(model), len(data)) + model + data)
                self._process.stdin.flush()
            deadline = time.monotonic() + self._timeout_s
            answered, size = _REPLY.unpack(self._read(_REPLY.size, deadline))
            if size != len(rows) * n_act * dtype.itemsize if answered else size > _MOST_REASON_BYTES:
                raise RuntimeCrashError(f"{self.name} answered with {size} bytes", "report it to the runtime's authors")
            data = self._read(size, deadline)
        except BaseException:
            self.close()  # nothing is known about what it sends next
            raise
        if not answered:
            raise UnsupportedOperatorError(data.decode(errors="replace"), "choose other runtimes: --runtimes")
        return np.frombuffer(data, dtype).reshape(len(rows), n_act)

    def _read(self, count: int, deadline: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor, data = self._process.stdout.fileno(), b""
        while len(data) < count:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise RuntimeCrashError(f"{self.name} does not answer in {self._timeout_s:g} s", "leave it out: --runtimes")
            part = os.read(descriptor, count - len(data))
            if not part:
                status = self._process.wait()
                raise RuntimeCrashError(f"{self.name} ends its process (status {status})", "leave it out: --runtimes")
            data += part
        return data

    def close(self) -> None:
        """Ends the process; may be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> IsolatedRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(name: str, requests: BinaryIO, answers: BinaryIO) -> None:
    while header := requests.read(_REQUEST.size):
        model_bytes, row_bytes = _REQUEST.unpack(header)
        model, rows = requests.read(model_bytes), requests.read(row_bytes)
        try:
            graph = read_graph(model)
            with load_model_runtime(name, model) as runtime:
                outputs = runtime.infer_raw_batch(np.frombuffer(rows, graph.kind.dtype).reshape(-1, graph.n_obs))
            if outputs.shape[1] != graph.n_act:
                raise UnsupportedOperatorError(f"it gives {outputs.shape[1]} values, the model declares {graph.n_act}", "")
            reply = (1, np.asarray(outputs, graph.kind.dtype).tobytes())
        except HarnessError as exc:
            reply = (0, exc.message.encode()[:_MOST_REASON_BYTES])
        answers.write(_REPLY.pack(reply[0], len(reply[1])) + reply[1])
        answers.flush()


def main() -> None:
    """Serves until stdin closes. What native code prints to stdout goes to stderr."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        _serve(sys.argv[1], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
