"""Inputs and outputs of the board in a run, checked against TensorFlow Lite Micro."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards import Action
from balance_hil.bundle import Bundle
from balance_hil.errors import MissingExtraError, RecordingError
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.base import ModelRuntime

REFERENCE = "tflm"
BUFFER_BYTES = 1 << 16  # written at once, in some tens of microseconds
BLOCK_ROWS = 1 << 16  # checked at once


@dataclass(frozen=True, kw_only=True)
class TflmCheck:
    """What the check found; counts are of replies."""

    checked: int
    differing: int | None  # raw outputs that differ from those of tflm; None: not checked
    skipped: str | None  # why it was not checked


class Trace:
    """Every raw input and output of a run, in a temporary file without a name, for the check against tflm afterwards.

    Args:
        kept: otherwise replies are only counted.

    Raises:
        RecordingError: the file cannot be written; so does ``add``.
    """

    def __init__(self, *, kept: bool) -> None:
        self.count = 0
        with disk_errors():
            self._file = tempfile.TemporaryFile(buffering=BUFFER_BYTES) if kept else None  # noqa: SIM115 - closed by __exit__

    def add(self, action: Action) -> None:
        """Adds one reply."""
        self.count += 1
        if self._file is not None:
            with disk_errors():
                self._file.write(action.input.tobytes() + action.output.tobytes())

    def check(self, bundle: Bundle, *, with_tflm: bool) -> TflmCheck:
        """Replays every input through the ``tflm`` runtime, block by block."""
        differing, skipped = self._against_tflm(bundle) if with_tflm and self._file else (None, "not asked for")
        return TflmCheck(checked=self.count, differing=differing, skipped=skipped)

    def _against_tflm(self, bundle: Bundle) -> tuple[int | None, str | None]:
        try:
            runtime = load_runtime(REFERENCE, bundle)
        except MissingExtraError as exc:
            return None, exc.message
        n_obs = bundle.spec.n_obs
        differing = 0
        with runtime:
            assert isinstance(runtime, ModelRuntime)  # tflm is one by name
            for rows in self._blocks(n_obs + bundle.spec.n_act, bundle.kind.dtype):
                distinct, which = np.unique(rows[:, :n_obs], axis=0, return_inverse=True)
                differs = runtime.infer_raw_batch(distinct)[which.reshape(-1)] != rows[:, n_obs:]
                differing += int(np.count_nonzero(np.any(differs, axis=1)))
        return differing, None

    def _blocks(self, width: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """Rows of input and output, raw [at most BLOCK_ROWS, ``width``]."""
        assert self._file is not None
        with disk_errors():
            self._file.seek(0)
            while data := self._file.read(BLOCK_ROWS * width * dtype.itemsize):
                yield np.frombuffer(data, dtype).reshape(-1, width)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            with disk_errors():
                self._file.close()


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """An error of a temporary file is a RecordingError."""
    try:
        yield
    except OSError as exc:
        raise RecordingError(
            f"cannot keep what the run found in {tempfile.gettempdir()}: {exc}",
            "free some space there, or choose another place: TMPDIR=FOLDER hil ...",
        ) from exc
