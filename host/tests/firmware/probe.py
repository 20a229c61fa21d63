"""Talks to firmware/test/probe: the firmware's own code, compiled with sanitizers, behind a command line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray


class Probe:
    def __init__(self, program: Path) -> None:
        self._program = program
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}  # leaks need ptrace, which a container may not give
        return subprocess.Popen([self._program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)

    def ask(self, *words: object) -> list[str]:
        """Lines of the answer to one command."""
        if self._process.poll() is not None:  # it died in an earlier test, which failed for that
            self._process = self._start()
        self._process.stdin.write(" ".join(str(w) for w in words) + "\n")
        self._process.stdin.flush()
        lines = []
        for line in iter(self._process.stdout.readline, ".\n"):
            if not line:
                self._process.wait()
                raise AssertionError(f"the probe died at {words!r}: its standard error says why")
            lines.append(line.rstrip("\n"))
        return lines

    def frames(self, data: bytes) -> list[str]:
        return self.ask("frames", data.hex())

    def quantize(self, values: NDArray[np.float32], scale: float, zero_point: int) -> NDArray[np.int8]:
        (line,) = self.ask("quantize", _hex(scale), zero_point, values.astype("<f4").tobytes().hex())
        return np.frombuffer(bytes.fromhex(line), np.int8)

    def normalize(self, values: NDArray[np.float32], mean: float, inverse_std: float, clip: float) -> NDArray[np.float32]:
        numbers = [_hex(number) for number in (mean, inverse_std, clip)]
        (line,) = self.ask("normalize", *numbers, values.astype("<f4").tobytes().hex())
        return np.frombuffer(bytes.fromhex(line), "<f4")

    def dequantize(self, values: NDArray[np.int8], scale: float, zero_point: int) -> NDArray[np.float32]:
        (line,) = self.ask("dequantize", _hex(scale), zero_point, values.astype(np.int8).tobytes().hex())
        return np.frombuffer(bytes.fromhex(line), "<f4")

    def parse(self, line: bytes) -> tuple[str, list[float]]:
        (answer,) = self.ask("parse", line.hex())
        status, _, values = answer.partition(" ")
        return status, np.frombuffer(bytes.fromhex(values), "<f4").tolist()

    def format(self, values: NDArray[np.float32]) -> list[str]:
        return self.ask("format", values.astype("<f4").tobytes().hex())


def _hex(value: float) -> str:
    return np.float32(value).tobytes().hex()
