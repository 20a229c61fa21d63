"""Runs every runtime on equal inputs and keeps what each one computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.inputs import InputSet, spread_rows
from balance_hil.errors import NonFiniteInputError
from balance_hil.quantize import Float32Array, QuantParams, RawArray, dequantize
from balance_hil.runtimes.base import LayerTensor, ModelRuntime, Runtime

CHUNK_ROWS = 2048  # rows between two progress reports
_TRACE_BYTES = 1 << 28  # of all layers of all runtimes
EXTRA_ROWS_PER_PAIR = 16  # rows known to differ, compared layer by layer besides the evenly spaced ones

_In = TypeVar("_In", bound=np.generic)
_Out = TypeVar("_Out", bound=np.generic)
Progress = Callable[[str, int, int], None]  # what is running, rows done, rows in all


def no_progress(what: str, done: int, total: int) -> None:
    """A ``Progress`` that does nothing."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Every operator's output in every ModelRuntime, on some of the inputs and on some that distinguish known arithmetics."""

    inputs: RawArray  # [n, n_obs]
    rows: NDArray[np.intp]  # where the first of them are among all inputs; the others, which separate, are not
    even: int  # the first so many are evenly spaced; the next were chosen because outputs differ there
    tensors: Mapping[str, Sequence[LayerTensor]]  # by runtime; raw values [n, size]

    def even_tensors(self, name: str) -> list[LayerTensor]:
        """Those of one runtime on the evenly spaced rows: counts over the others are not rates."""
        return [LayerTensor(t.op, t.operator, t.values[: self.even]) for t in self.tensors.get(name, ())]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What the runtimes computed. ``actions`` holds every runtime, ``outputs`` the ModelRuntimes, both in the order given."""

    inputs: InputSet
    output_quant: QuantParams | None  # None when no runtime is a ModelRuntime
    actions: Mapping[str, Float32Array]  # float32 [n, n_act]
    outputs: Mapping[str, RawArray]  # [n, n_act]
    trace: Trace


def collect(
    runtimes: Sequence[Runtime],
    inputs: InputSet,
    *,
    layer_samples: int,
    layer_values: int = 1,
    separating: RawArray | None = None,
    on_progress: Progress = no_progress,
) -> Samples:
    """Runs ``inputs`` through every runtime.

    Intermediate tensors are fetched for ``layer_samples`` evenly spaced rows, for a few rows on which two runtimes differ, and
    for ``separating`` inputs, raw [n, n_obs]; for none if ``layer_samples`` is 0, and for fewer where all layers together, which
    have ``layer_values`` values for one input, would not fit in memory.

    Raises:
        NonFiniteInputError: a float runtime returned a NaN or an infinity.
        HarnessError: whatever a runtime raises (a lost board).
    """
    outputs: dict[str, RawArray] = {}
    actions: dict[str, Float32Array] = {}
    model_runtimes = [runtime for runtime in runtimes if isinstance(runtime, ModelRuntime)]
    for runtime in runtimes:
        if isinstance(runtime, ModelRuntime):
            outputs[runtime.name] = _in_chunks(runtime.name, runtime.infer_raw_batch, inputs.raw, on_progress)
            actions[runtime.name] = dequantize(outputs[runtime.name], runtime.output_quant)
        else:
            actions[runtime.name] = _in_chunks(runtime.name, runtime.act_batch, inputs.observations, on_progress)
            if not np.all(np.isfinite(actions[runtime.name])):
                raise NonFiniteInputError(
                    f"the runtime {runtime.name} answered finite observations with a NaN or an infinity",
                    "the checkpoint is damaged or diverged: train it again (hil train), then export it (hil export)",
                )
    return Samples(
        inputs=inputs,
        output_quant=model_runtimes[0].output_quant if model_runtimes else None,
        actions=actions,
        outputs=outputs,
        trace=_trace(model_runtimes, inputs, outputs, layer_samples, layer_values, separating, on_progress),
    )


def _trace(
    runtimes: Sequence[ModelRuntime],
    inputs: InputSet,
    outputs: Mapping[str, RawArray],
    samples: int,
    layer_values: int,
    separating: RawArray | None,
    report: Progress,
) -> Trace:
    most = max(1, _TRACE_BYTES // (layer_values * max(1, len(runtimes))))
    even = spread_rows(len(inputs), min(samples, most))
    extra: set[int] = set()
    if samples:
        for a, b in combinations(outputs.values(), 2):
            extra.update(int(row) for row in np.flatnonzero(np.any(a != b, axis=1))[:EXTRA_ROWS_PER_PAIR])
    rows = np.concatenate([even, np.array(sorted(extra - set(even.tolist())), dtype=np.intp)])[:most]
    chosen = inputs.raw[rows]
    if samples and separating is not None:
        chosen = np.concatenate([chosen, separating])
    tensors: dict[str, Sequence[LayerTensor]] = {}
    for runtime in runtimes if len(chosen) else ():
        report(f"{runtime.name}, every layer", 0, len(chosen))
        tensors[runtime.name] = runtime.layers_raw_batch(chosen)
        report(f"{runtime.name}, every layer", len(chosen), len(chosen))
    return Trace(inputs=chosen, rows=rows, even=len(even), tensors=tensors)


def _in_chunks(name: str, run: Callable[[NDArray[_In]], NDArray[_Out]], rows: NDArray[_In], report: Progress) -> NDArray[_Out]:
    parts = []
    for start in range(0, len(rows), CHUNK_ROWS):
        report(name, start, len(rows))
        parts.append(run(rows[start : start + CHUNK_ROWS]))
    report(name, len(rows), len(rows))
    return np.concatenate(parts)
