"""How each runtime converts a model's float input and output: QUANTIZE before its core, DEQUANTIZE behind it.

The core is compared like any model. Here the whole model is run, one observation after the other as in a control loop, and
every number is compared with the runtime's own core between emulated conversions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.comparison import REFERENCE, IoDifference
from balance_hil.comparing.identification import Identification
from balance_hil.quantize import Float32Array, dequantize, quantize
from balance_hil.runtimes.base import ModelRuntime
from balance_hil.runtimes.emulated import Variant
from balance_hil.runtimes.emulated.operators import compile_operator
from balance_hil.runtimes.tflite import Session, kernels_of
from balance_hil.runtimes.tflm import is_emulated, run_whole
from balance_hil.tflite.edit import WholeModel
from balance_hil.tflite.graph import Operator


def compare_float_io(
    whole: WholeModel, runtimes: Sequence[ModelRuntime], arithmetics: Mapping[str, Identification], observations: Float32Array
) -> tuple[IoDifference, ...]:
    """One entry for each desktop runtime whose arithmetic is known, except emulators.

    Args:
        whole: the model with its float input or output.
        runtimes: with the core in them.
        arithmetics: by runtime.
        observations: float32 [n, n_obs], with ties.

    Raises:
        UnsupportedOperatorError: a runtime cannot run the whole model.
    """
    known = [
        (runtime, arithmetics[runtime.name].closest.variant)
        for runtime in runtimes
        if runtime.name in arithmetics and not (runtime.name == REFERENCE and is_emulated())
    ]
    return tuple(_difference(whole, runtime, variant, observations) for runtime, variant in known)


def _difference(whole: WholeModel, runtime: ModelRuntime, variant: Variant, observations: Float32Array) -> IoDifference:
    right = quantize(observations, runtime.input_quant)
    given, codes = (observations, _each(whole, whole.quantize, variant, observations)) if whole.quantize else (right, right)
    codes = np.asarray(codes, runtime.dtype)
    outputs = runtime.infer_raw_batch(codes)
    expected = _each(whole, whole.dequantize, variant, outputs) if whole.dequantize else outputs
    seen = _run_whole(runtime.name, whole.model)(given).astype(expected.dtype)
    by_host = runtime.infer_raw_batch(right)
    actions = dequantize(by_host, runtime.output_quant) if whole.dequantize else by_host
    return IoDifference(
        runtime=runtime.name,
        observations=len(observations),
        input_differing=int(np.count_nonzero(codes != right)),
        action_differing=_differing(seen, actions),
        unexplained=_differing(seen, expected),
    )


def _each(whole: WholeModel, operator: Operator, variant: Variant, rows: NDArray[Any]) -> NDArray[Any]:
    """An operator at a float end."""
    shape = whole.graph.tensors[operator.inputs[0]].shape
    return compile_operator(whole.graph, operator, variant).run([rows.reshape(-1, *shape)]).reshape(len(rows), -1)


def _run_whole(name: str, model: bytes) -> Callable[[NDArray[Any]], NDArray[Any]]:
    if name == REFERENCE:
        return lambda rows: run_whole(model, rows)
    session = Session(model, kernels_of(name))
    return lambda rows: np.concatenate([session.run(row[np.newaxis])[0] for row in rows])


def _differing(a: NDArray[Any], b: NDArray[Any]) -> int:
    """Unequal values, bit by bit."""
    bits = [np.ascontiguousarray(values).view(f"u{values.itemsize}") for values in (a, b)]
    return int(np.count_nonzero(bits[0] != bits[1]))
