"""Models of one operator each, with shapes and numbers at which a fast kernel could differ from the reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from balance_hil.testing.convolutional_models import SAME, VALID
from balance_hil.testing.synthetic_models import ACTIVATIONS, ModelBuilder

EXTREME = ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MUL", "AVERAGE_POOL_2D", "MAX_POOL_2D")
_ENDS = np.asarray([-128, -127, 127], np.int8)


def extreme_operator(name: str, seed: int) -> bytes:
    """One operator of EXTREME: any number of channels up to 36, zero points and values at the ends of int8 more often than not,
    multipliers from far below 1/2, which fast arithmetic takes, to above it."""
    rng = np.random.default_rng([EXTREME.index(name), seed])
    if name in ("ADD", "MUL"):
        return _pair(name, rng)
    build = ModelBuilder()
    depth = int(rng.integers(1, 37)) if rng.random() < 0.7 else int(rng.choice([4, 8, 16, 32]))
    size = [int(n) for n in rng.integers(1, 8, 2)]
    source = build.tensor((1, *size, depth), 0.02, _zero_point(rng))
    filters = [int(n) for n in rng.choice([1, 1, 2, 3, 3, 4], 2)]
    strides = [int(n) for n in rng.choice([1, 1, 2, 3], 2)]
    pools = name.endswith("POOL_2D")
    dilations = [int(n) for n in rng.choice([1, 2, 3], 2)] if not pools and max(strides) == 1 and rng.random() < 0.5 else [1, 1]
    reach = [(k - 1) * d + 1 for k, d in zip(filters, dilations, strict=True)]
    padding = VALID if rng.random() < 0.4 and all(r <= n for r, n in zip(reach, size, strict=True)) else SAME
    outside = [-(-(n if padding == SAME else n - r + 1) // s) for n, r, s in zip(size, reach, strides, strict=True)]
    options: dict[str, Any] = {"strideH": strides[0], "strideW": strides[1], "padding": padding}
    options["activation"] = _activation(rng)
    if pools:
        target = build.tensor((1, *outside, depth), *build.quant(source))
        return build.build(
            source, build.operator(name, (source,), target, filterHeight=filters[0], filterWidth=filters[1], **options)
        )
    options |= {"dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}
    if name == "CONV_2D":
        channels, taps = int(rng.integers(1, 21)), filters[0] * filters[1] * depth
        shape: tuple[int, ...] = (channels, *filters, depth)
    else:
        multiplier = int(rng.choice([1, 1, 1, 1, 2, 3]))
        channels, taps = depth * multiplier, filters[0] * filters[1]
        shape, options["depthMultiplier"] = (1, *filters, channels), multiplier
    data = np.where(rng.random(shape) < 0.6, rng.choice(_ENDS, shape), rng.integers(-128, 128, shape))
    scales = [float(s) for s in np.float32(0.01 * 10 ** rng.uniform(-1, 0, channels if rng.random() < 0.7 else 1))]
    weights = build.tensor(shape, scales, data=data.astype(np.int8))
    build.tensors[weights].quantization.quantizedDimension = 0 if name == "CONV_2D" else 3
    inputs = [source, weights]
    if rng.random() < 0.7:
        inputs.append(
            build.bias(
                source,
                scales,
                rng.normal(0, 2.0 ** rng.choice([4, 10, 13, 28], p=[0.3, 0.3, 0.3, 0.1]), channels).clip(-(2**30), 2**30),
            )
        )
    scale = 0.02 * 0.01 * 2**14 * taps**0.5 / 50 * 10 ** rng.choice([0, 0, 0, -2.5])
    return build.build(
        source, build.operator(name, inputs, build.tensor((1, *outside, channels), scale, _zero_point(rng)), **options)
    )


def flattened_image(convolves: bool = True, size: tuple[int, int] = (5, 4)) -> bytes:
    """What Keras's Flatten becomes, behind a convolution or as the first layer, and a dense layer behind it."""
    rng, build = np.random.default_rng(0), ModelBuilder()
    first = current = build.tensor((1, *size, 3), 0.02, -7)
    if convolves:
        weights = build.tensor((10, 3, 3, 3), 0.01, data=rng.integers(-127, 128, (10, 3, 3, 3), dtype=np.int8))
        current = build.tensor((1, *size, 10), 0.1, 11)
        build.operator("CONV_2D", (first, weights), current, strideH=1, strideW=1, padding=SAME)
    flat = build.flatten(current)
    weights = rng.integers(-127, 128, (3, int(build.tensors[flat].shape[-1])), dtype=np.int8)
    return build.build(first, build.dense(flat, weights, 0.01, (0.3, 0)))


def _pair(name: str, rng: np.random.Generator) -> bytes:
    """Of an input and a constant, one of them repeated along some axes or not."""
    build = ModelBuilder()
    shape = tuple(int(n) for n in (1, *rng.integers(1, 6, 2), rng.integers(1, 20)))
    repeated = tuple(n if keeps else 1 for n, keeps in zip(shape, rng.random(4) < 0.6, strict=True))
    first, second = (shape, repeated) if rng.random() < 0.6 else (repeated, shape)
    scales = 0.02 * 10 ** rng.uniform(-1, 1, 2)
    if rng.random() < 0.4:
        scales = 2.0 ** np.round(np.log2(scales))
    source = build.tensor(first, float(scales[0]), _zero_point(rng))
    data = np.where(rng.random(second) < 0.3, rng.choice(_ENDS, second), rng.integers(-128, 128, second)).astype(np.int8)
    constant = build.tensor(second, float(scales[1]), _zero_point(rng), data=data)
    typical = 2 * float(max(scales)) if name == "ADD" else float(scales[0] * scales[1]) * 128
    least = typical * 2.0**-19.5 if name == "ADD" else typical / 2**9  # multipliers from 1/2 on
    target = build.tensor(shape, least if rng.random() < 0.25 else typical * 10 ** rng.uniform(-1, 1), _zero_point(rng))
    operands = (source, constant) if rng.random() < 0.5 else (constant, source)
    return build.build(source, build.operator(name, operands, target, activation=_activation(rng)))


def _activation(rng: np.random.Generator) -> str:
    """Mostly none: at the end of int8, one leaves a single value."""
    return str(rng.choice(ACTIVATIONS, p=[0.7, 0.1, 0.1, 0.1]))


def _zero_point(rng: np.random.Generator) -> int:
    return int(rng.choice([-128, 127, 0, int(rng.integers(-128, 128))]))
