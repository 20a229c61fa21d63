"""Graphs that no converter would write."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from balance_hil.tflite.builder import ACTIVATIONS, LOGISTIC_QUANT, TANH_QUANT, ModelBuilder, random_dense


def random_policy(seed: int) -> bytes:
    """A random feed-forward model of the operators that the compact engine has and TFLM has too."""
    rng = np.random.default_rng(seed)
    builder = ModelBuilder()
    n_obs = int(rng.integers(1, 40))
    first = builder.tensor(
        (1, n_obs), scales=float(np.float32(10 ** rng.uniform(-4, 0))), zero_points=int(rng.integers(-128, 128))
    )
    current = first
    for _ in range(int(rng.integers(1, 4))):
        rows = int(rng.integers(1, 70))
        fused, bias, per_channel = str(rng.choice(ACTIVATIONS)), bool(rng.random() < 0.9), bool(rng.random() < 0.7)
        current = random_dense(builder, rng, current, rows, per_channel=per_channel, activation=fused, bias=bias)
        current = _random_activation(builder, rng, current)
    return builder.build([first], [current])


def _random_activation(builder: ModelBuilder, rng: np.random.Generator, source: int) -> int:
    quant = builder.tensors[source].quantization
    scale, zero_point = float(quant.scale[0]), int(quant.zeroPoint[0])
    kind = str(rng.choice(["none", "TANH", "TANH", "LOGISTIC", "RELU", "RELU6", "QUANTIZE", "RESHAPE", "FLOAT"]))
    if kind == "TANH":
        return builder.elementwise("TANH", source, TANH_QUANT)
    if kind == "LOGISTIC":
        return builder.elementwise("LOGISTIC", source, LOGISTIC_QUANT)
    other = (float(np.float32(scale * 10 ** rng.uniform(-0.5, 0.5))), int(rng.integers(-128, 128)))
    if kind in ("RELU", "QUANTIZE"):
        return builder.elementwise(kind, source, other)
    if kind == "RELU6":
        return builder.elementwise("RELU6", source, (scale, zero_point))
    if kind == "RESHAPE":
        return _reshape_and_back(builder, source, (scale, zero_point))
    if kind == "FLOAT":
        as_float = builder.elementwise("DEQUANTIZE", source, None, "FLOAT32")
        return builder.elementwise("QUANTIZE", as_float, other)
    return source


def _reshape_and_back(builder: ModelBuilder, source: int, quant: tuple[float, int]) -> int:
    size = int(builder.tensors[source].shape[-1])
    for shape in ((size, 1), (1, size)):
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        target = builder.tensor((2,), "INT32", data=np.asarray(shape, np.int32))
        out = builder.tensor(shape, scales=quant[0], zero_points=quant[1])
        builder.operator("RESHAPE", [source, target], [out], options, "ReshapeOptions")
        source = out
    return source
