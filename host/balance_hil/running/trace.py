"""What the board computed in a run, and whether TensorFlow Lite Micro computes the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards import Action
from balance_hil.bundle import Bundle
from balance_hil.errors import MissingExtraError
from balance_hil.quantize import dequantize
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.base import Int8Runtime

REFERENCE = "tflm"


@dataclass(frozen=True, kw_only=True)
class TflmCheck:
    """What the check found; counts are of control steps."""

    checked: int
    differing: int | None  # int8 outputs that tflm computes otherwise; None: not checked
    skipped: str | None  # why it was not checked
    input_differing: int  # observations that the board normalizes or quantizes otherwise than the host
    action_differing: int  # outputs that it dequantizes otherwise

    @property
    def good(self) -> bool:
        """Whether nothing differs, as far as it was checked."""
        return not self.differing and self.input_differing == self.action_differing == 0


class Trace:
    """Everything that the board computed in a run, for the check against tflm afterwards. Compact: 34 bytes a step."""

    def __init__(self) -> None:
        self._pending: dict[int, bytes] = {}
        self._observations = bytearray()
        self._inputs = bytearray()
        self._outputs = bytearray()
        self._actions = bytearray()
        self.count = 0

    def observed(self, seq: int, observation: NDArray[np.float32]) -> None:
        """Notes what was sent."""
        self._pending[seq] = observation.tobytes()

    def forget(self, seq: int) -> None:
        """Drops what was sent and never answered."""
        self._pending.pop(seq, None)

    def computed(self, seq: int, action: Action) -> None:
        """Notes what came back."""
        self._observations += self._pending.pop(seq)
        self._inputs += action.input.tobytes()
        self._outputs += action.output.tobytes()
        self._actions += action.action.tobytes()
        self.count += 1

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.int8], NDArray[np.float32]]:
        """Observations [n, n_obs], inputs [n, n_obs], outputs [n, n_act] and actions [n, n_act]."""
        n = self.count
        return (
            np.frombuffer(bytes(self._observations), np.float32).reshape(n, -1),
            np.frombuffer(bytes(self._inputs), np.int8).reshape(n, -1),
            np.frombuffer(bytes(self._outputs), np.int8).reshape(n, -1),
            np.frombuffer(bytes(self._actions), np.float32).reshape(n, -1),
        )

    def check(self, bundle: Bundle, *, with_tflm: bool) -> TflmCheck:
        """Replays every input through the ``tflm`` runtime, and every conversion on the host."""
        observations, inputs, outputs, actions = self.arrays()
        differing, skipped = _against_tflm(bundle, inputs, outputs) if with_tflm else (None, "not asked for")
        return TflmCheck(
            checked=self.count,
            differing=differing,
            skipped=skipped,
            input_differing=_rows(bundle.to_int8(observations) != inputs),
            action_differing=_rows(dequantize(outputs, bundle.output_quant) != actions),
        )


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
        return _rows(runtime.infer_int8_batch(distinct)[which.reshape(-1)] != outputs), None


def _rows(differs: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(np.any(differs, axis=1))) if differs.size else 0
