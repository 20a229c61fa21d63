"""Inputs and outputs of the board in a run, checked against TensorFlow Lite Micro."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards import Action
from balance_hil.bundle import Bundle
from balance_hil.errors import MissingExtraError
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.base import Int8Runtime

REFERENCE = "tflm"


@dataclass(frozen=True, kw_only=True)
class TflmCheck:
    """What the check found; counts are of replies."""

    checked: int
    differing: int | None  # int8 outputs that differ from those of tflm; None: not checked
    skipped: str | None  # why it was not checked


class Trace:
    """Every int8 input and output of a run, for the check against tflm afterwards."""

    def __init__(self) -> None:
        self._inputs = bytearray()
        self._outputs = bytearray()
        self.count = 0

    def add(self, action: Action) -> None:
        """Adds one reply."""
        self._inputs += action.input.tobytes()
        self._outputs += action.output.tobytes()
        self.count += 1

    def check(self, bundle: Bundle, *, with_tflm: bool) -> TflmCheck:
        """Replays every input through the ``tflm`` runtime."""
        inputs = np.frombuffer(bytes(self._inputs), np.int8).reshape(-1, bundle.spec.n_obs)
        outputs = np.frombuffer(bytes(self._outputs), np.int8).reshape(-1, bundle.spec.n_act)
        differing, skipped = _against_tflm(bundle, inputs, outputs) if with_tflm else (None, "not asked for")
        return TflmCheck(checked=self.count, differing=differing, skipped=skipped)


def _against_tflm(bundle: Bundle, inputs: NDArray[np.int8], outputs: NDArray[np.int8]) -> tuple[int | None, str | None]:
    try:
        runtime = load_runtime(REFERENCE, bundle)
    except MissingExtraError as exc:
        return None, exc.message
    with runtime:
        assert isinstance(runtime, Int8Runtime)  # tflm is one by name
        if not len(inputs):
            return 0, None
        distinct, which = np.unique(inputs, axis=0, return_inverse=True)
        differs = runtime.infer_int8_batch(distinct)[which.reshape(-1)] != outputs
        return int(np.count_nonzero(np.any(differs, axis=1))), None
