"""Runs every runtime on equal inputs and keeps what each one computed. Judging is ``comparison.py``'s part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.inputs import InputSet, spread_rows
from balance_hil.errors import NonFiniteInputError
from balance_hil.quantize import QuantParams, dequantize
from balance_hil.runtimes.base import Float32Array, Int8Array, Int8Runtime, LayerTensor, Runtime

CHUNK_ROWS = 2048  # rows between two progress reports
EXTRA_ROWS_PER_PAIR = 16  # rows known to differ, looked at layer by layer besides the evenly spaced ones

_In = TypeVar("_In", bound=np.generic)
_Out = TypeVar("_Out", bound=np.generic)
Progress = Callable[[str, int, int], None]  # what is running, rows done, rows in all


def no_progress(what: str, done: int, total: int) -> None:
    """The ``Progress`` that nobody watches."""


@dataclass(frozen=True, kw_only=True)
class LayerEvidence:
    """Every operator's output in every int8 runtime, over some rows of the inputs."""

    rows: NDArray[np.intp]  # row numbers in the inputs
    even: int  # the first so many of ``rows`` are evenly spaced; the others were chosen because outputs differ there
    tensors: Mapping[str, Sequence[LayerTensor]]  # by runtime; values int8 [len(rows), size]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the runtimes computed. ``actions`` holds every runtime, ``outputs`` the int8 ones, both in the order given."""

    inputs: InputSet
    output_quant: QuantParams | None  # None when no runtime is an int8 one
    actions: Mapping[str, Float32Array]  # float32 [n, n_act]
    outputs: Mapping[str, Int8Array]  # int8 [n, n_act]
    layers: LayerEvidence


def collect(
    runtimes: Sequence[Runtime], inputs: InputSet, *, layer_samples: int, on_progress: Progress = no_progress
) -> Evidence:
    """Runs ``inputs`` through every runtime.

    Intermediate tensors are fetched for ``layer_samples`` evenly spaced rows and for a few rows on which two runtimes differ.

    Raises:
        NonFiniteInputError: a float runtime returned a NaN or an infinity.
        HarnessError: whatever a runtime raises (a lost board).
    """
    outputs: dict[str, Int8Array] = {}
    actions: dict[str, Float32Array] = {}
    int8_runtimes = [runtime for runtime in runtimes if isinstance(runtime, Int8Runtime)]
    for runtime in runtimes:
        if isinstance(runtime, Int8Runtime):
            outputs[runtime.name] = _in_chunks(runtime.name, runtime.infer_int8_batch, inputs.int8, on_progress)
            actions[runtime.name] = dequantize(outputs[runtime.name], runtime.output_quant)
        else:
            actions[runtime.name] = _in_chunks(runtime.name, runtime.act_batch, inputs.observations, on_progress)
            if not np.all(np.isfinite(actions[runtime.name])):
                raise NonFiniteInputError(
                    f"the runtime {runtime.name} answered finite observations with a NaN or an infinity",
                    "the checkpoint is damaged or diverged: train it again (hil train), then export it (hil export)",
                )
    return Evidence(
        inputs=inputs,
        output_quant=int8_runtimes[0].output_quant if int8_runtimes else None,
        actions=actions,
        outputs=outputs,
        layers=_layers(int8_runtimes, inputs, outputs, layer_samples, on_progress),
    )


def _layers(
    runtimes: Sequence[Int8Runtime], inputs: InputSet, outputs: Mapping[str, Int8Array], samples: int, report: Progress
) -> LayerEvidence:
    even = spread_rows(len(inputs), samples)
    extra: set[int] = set()
    if samples:
        for a, b in combinations(outputs.values(), 2):
            extra.update(int(row) for row in np.flatnonzero(np.any(a != b, axis=1))[:EXTRA_ROWS_PER_PAIR])
    rows = np.concatenate([even, np.array(sorted(extra - set(even.tolist())), dtype=np.intp)])
    tensors: dict[str, Sequence[LayerTensor]] = {}
    for runtime in runtimes if len(rows) else ():
        report(f"{runtime.name}, every layer", 0, len(rows))
        tensors[runtime.name] = runtime.layers_int8_batch(inputs.int8[rows])
        report(f"{runtime.name}, every layer", len(rows), len(rows))
    return LayerEvidence(rows=rows, even=len(even), tensors=tensors)


def _in_chunks(name: str, run: Callable[[NDArray[_In]], NDArray[_Out]], rows: NDArray[_In], report: Progress) -> NDArray[_Out]:
    parts = []
    for start in range(0, len(rows), CHUNK_ROWS):
        report(name, start, len(rows))
        parts.append(run(rows[start : start + CHUNK_ROWS]))
    report(name, len(rows), len(rows))
    return np.concatenate(parts)
