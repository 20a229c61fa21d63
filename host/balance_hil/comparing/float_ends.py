"""What each runtime makes of the float ends of a model: QUANTIZE before its int8 core, DEQUANTIZE behind it.

The core is compared like any int8 model. Here the whole model is run, one observation after the other as in a control loop, and
every number is held against the runtime's own core between emulated ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.comparison import REFERENCE, EndsDifference
from balance_hil.quantize import dequantize, quantize
from balance_hil.runtimes.base import Float32Array, Int8Runtime
from balance_hil.runtimes.emulated import Variant
from balance_hil.runtimes.emulated.operators import compile_operator
from balance_hil.runtimes.tflite import KERNELS, Session
from balance_hil.runtimes.tflm import run_whole
from balance_hil.tflite.edit import WholeModel
from balance_hil.tflite.graph import Operator


def compare_ends(
    ends: WholeModel, runtimes: Sequence[Int8Runtime], variants: Mapping[str, Variant], observations: Float32Array
) -> tuple[EndsDifference, ...]:
    """One entry for each desktop runtime.

    Args:
        ends: the whole model.
        runtimes: with the core in them.
        variants: by runtime, the arithmetic that was identified.
        observations: float32 [n, n_obs], with ties.

    Raises:
        UnsupportedOperatorError: a runtime cannot run the whole model.
    """
    return tuple(_ends(ends, runtime, variants[runtime.name], observations) for runtime in runtimes if runtime.name in variants)


def _ends(ends: WholeModel, runtime: Int8Runtime, variant: Variant, observations: Float32Array) -> EndsDifference:
    right = quantize(observations, runtime.input_quant)
    given, codes = (observations, _each(ends, ends.quantize, variant, observations)) if ends.quantize else (right, right)
    codes = np.asarray(codes, np.int8)
    outputs = runtime.infer_int8_batch(codes)
    expected = _each(ends, ends.dequantize, variant, outputs) if ends.dequantize else outputs
    seen = _whole(runtime.name, ends.model)(given).astype(expected.dtype)
    by_host = runtime.infer_int8_batch(right)
    actions = dequantize(by_host, runtime.output_quant) if ends.dequantize else by_host
    return EndsDifference(
        runtime=runtime.name,
        observations=len(observations),
        input_differing=int(np.count_nonzero(codes != right)),
        action_differing=_differing(seen, actions),
        unexplained=_differing(seen, expected),
    )


def _each(ends: WholeModel, operator: Operator, variant: Variant, rows: NDArray[Any]) -> NDArray[Any]:
    """An operator of the ends, row by row: some kernels compute what is left over from their vector loop otherwise."""
    run = compile_operator(ends.graph, operator, variant).run
    shape = ends.graph.tensors[operator.inputs[0]].shape
    return np.concatenate([run([row.reshape(1, *shape)]).reshape(1, -1) for row in rows])


def _whole(name: str, model: bytes) -> Callable[[NDArray[Any]], NDArray[Any]]:
    if name == REFERENCE:
        return lambda rows: run_whole(model, rows)
    session = Session(model, KERNELS[name])
    return lambda rows: np.concatenate([session.run(row[np.newaxis])[0] for row in rows])


def _differing(a: NDArray[Any], b: NDArray[Any]) -> int:
    """Unequal values, bit by bit."""
    bits = [np.ascontiguousarray(values).view(f"u{values.itemsize}") for values in (a, b)]
    return int(np.count_nonzero(bits[0] != bits[1]))
