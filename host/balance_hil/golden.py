"""Golden vectors, computed by TFLM. The first of them go into ``model.h``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import GOLDEN, HEADER
from balance_hil.model_image import SELF_TEST_ROWS, ModelImage
from balance_hil.quantize import FLOAT32, Normalization, QuantParams, dequantize, quantize
from balance_hil.runtimes.tflm import TflmRuntime

GOLDEN_ROWS = 256
_RANDOM_ROWS = 128
_ALONE = 54  # signals that are alone at their limits, so that all edges fit
_LARGEST = np.finfo(np.float32).max

Float32Array = NDArray[np.float32]


def golden_observations(
    input_quant: QuantParams, recorded: Float32Array, seed: int, normalization: Normalization | None = None
) -> Float32Array:
    """256 observations, float32 [256, n_obs]: edges first, then random raw values, then recorded rows.

    Args:
        input_quant: of the model.
        recorded: float32 [n, n_obs], n >= 256; taken at equal distances.
        seed: of the random codes.
        normalization: of the policy: edges and codes are then made for what comes out of it.
    """
    inputs = normalization.apply(recorded) if normalization else recorded
    edges = _edges(input_quant, inputs)
    rng, kind, shape = np.random.default_rng(seed), input_quant.kind, (_RANDOM_ROWS, recorded.shape[1])
    codes = rng.uniform(-1, 1, shape) if kind == FLOAT32 else rng.integers(kind.low, kind.high + 1, shape)
    random = dequantize(codes.astype(kind.dtype), input_quant)
    rest = GOLDEN_ROWS - len(edges) - len(random)
    picked = recorded[np.linspace(0, len(recorded) - 1, rest).astype(int)]
    made = np.concatenate([edges, random])
    if normalization:  # the observations that normalize to them, as near as float32 comes
        with np.errstate(over="ignore"):
            made = made / normalization.inverse_std + normalization.mean
        made = np.clip(made, -_LARGEST, _LARGEST).astype(np.float32)
    return np.concatenate([made, picked])


def write_vectors(
    folder: Path,
    board_model: bytes,
    model: TflmRuntime,
    recorded: Float32Array,
    seed: int,
    normalization: Normalization | None = None,
    rows: int = GOLDEN_ROWS,
) -> None:
    """Writes ``golden.npz`` and ``model.h`` of a bundle; arguments as for ``golden_observations``, of whose rows the first are
    taken.

    ``observations`` f32 [n, n_obs], ``input_int8`` [n, n_obs], ``op_<k>`` int8 [n, size] for operator k, ``output_int8``
    [n, n_act], ``actions`` f32 [n, n_act], ``operators`` names. Of another element type, it is int16 or float32 instead of int8.
    """
    observations = golden_observations(model.input_quant, recorded, seed, normalization)[:rows]
    inputs = quantize(observations, model.input_quant, normalization)
    outputs = model.infer_raw_batch(inputs)
    arrays: dict[str, NDArray[Any]] = {
        "observations": observations,
        f"input_{model.dtype}": inputs,
        f"output_{model.dtype}": outputs,
        "actions": dequantize(outputs, model.output_quant),
        "operators": np.array([operator.name for operator in model.graph.operators]),
    }
    arrays |= {f"op_{k}": values for k, values in enumerate(model.layers_batch(inputs))}
    np.savez_compressed(folder / GOLDEN, **arrays)
    image = ModelImage(model=board_model, normalization=normalization, inputs=inputs, outputs=outputs)
    image.write_header(folder / HEADER)


def _edges(params: QuantParams, recorded: Float32Array) -> Float32Array:
    """Rest, corners, each signal alone at its limits, rounding ties and saturation. The first eight are the self-test."""
    n_obs = recorded.shape[1]
    ones = np.ones(n_obs, np.float32)
    alternating = np.where(np.arange(n_obs) % 2 == 0, ones, -ones).astype(np.float32)
    self_test = [0 * ones, ones, -ones, alternating, *recorded[:: max(1, len(recorded) // 4)][: SELF_TEST_ROWS - 4]]
    picked = np.linspace(0, n_obs - 1, min(n_obs, _ALONE)).astype(int)
    alone = [np.where(np.arange(n_obs) == i, sign, 0).astype(np.float32) for i in picked for sign in (1, -1)]
    # (k + 1/2) * scale: halves must round away from zero.
    ties = [(np.float32(k + 0.5) * np.float32(params.scale)) * alternating for k in (-100, -3, -1, 0, 2, 100)]
    sizes = (2.0,) if params.kind == FLOAT32 else (2.0, 1e6, 3e38)  # float32 would overflow inside
    saturation = [size * vector for size in sizes for vector in (ones, alternating)]
    return np.asarray([*self_test, *alone, *ties, *saturation], np.float32)
