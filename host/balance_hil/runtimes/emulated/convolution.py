"""CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV and pooling: windows over images, and the rule that rounds each channel.

Sums of int16 activations have the bias's 64 or 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import require
from balance_hil.quantize import INT8, RawArray
from balance_hil.runtimes.emulated.chain import Dense
from balance_hil.runtimes.emulated.dense import INT32, DenseRows, bias_of, constants, data_of, layer
from balance_hil.runtimes.emulated.kernel import Kernel, Run, Values, quant_of, unsupported
from balance_hil.runtimes.emulated.rules import Kernels, Rounding, Variant, of_channels, of_int16
from balance_hil.runtimes.emulated.tables import clamp_bounds, fused_bounds
from balance_hil.tflite.graph import Operator, Tensor, TfliteGraph

_Images = Callable[[RawArray, RawArray], None]  # images, [n, height, width, channels], and outputs to be written
_Part = tuple[slice, Dense]  # of the output's channels
_BLOCK_BYTES = 1 << 22  # of patches or sums that are made at a time
_MOST_PRODUCTS = 1 << 31  # for one input: a second of work
_BLOCK_PIXELS, _BLOCK_DEPTH = 8, 8  # of ESP-NN's 1 x 1 convolution for the ESP32-S3
_SAME, _VALID = 0, 1  # schema.fbs


@dataclass(frozen=True)
class Window:
    """Where the taps of an operator lie; every pair is height and width."""

    source: tuple[int, int]
    target: tuple[int, int]
    filter: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    padding: tuple[int, int]  # at the top and the left
    missing: tuple[int, int]  # all padding that "SAME" asks for; less than zero where the last inputs are not read

    @classmethod
    def of(cls, operator: Operator, source: Tensor, target: Tensor, size: tuple[int, ...]) -> Window:
        """The window from ``source`` to ``target``, [1, height, width, channels]. Raises ValueError: they do not fit."""
        if len(source.shape) != 4 or len(target.shape) != 4:
            raise ValueError("images of other than four dimensions")
        options = operator.options
        strides = options.get("strideH", 0), options.get("strideW", 0)
        dilations = options.get("dilationHFactor", 1), options.get("dilationWFactor", 1)
        if len(size) != 2 or min(*size, *strides, *dilations) < 1 or options.get("padding") not in (_SAME, _VALID):
            raise ValueError(f"a filter of {size}, strides {strides}, dilations {dilations}, padding {options.get('padding')}")
        inside, outside = source.shape[1:3], target.shape[1:3]
        reach = tuple((k - 1) * d + 1 for k, d in zip(size, dilations, strict=True))
        same = options.get("padding") == _SAME
        wanted = tuple(-(-(n if same else n - r + 1) // s) for n, r, s in zip(inside, reach, strides, strict=True))
        if outside != wanted or source.shape[0] != target.shape[0]:
            raise ValueError(f"an output of {outside}, where its input makes {wanted}")
        missing = tuple((o - 1) * s + r - n for o, s, r, n in zip(outside, strides, reach, inside, strict=True))
        padding = tuple(max(0, n) // 2 if same else 0 for n in missing)
        return cls(inside, outside, size, strides, dilations, padding, missing if same else (0, 0))  # type: ignore[arg-type]  # pairs

    @property
    def taps(self) -> int:
        """Of one channel."""
        return self.filter[0] * self.filter[1]

    @property
    def plain(self) -> bool:
        """Whether every output is made of the pixel at its own place."""
        return self.taps == 1 and self.strides == (1, 1)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """As ``loops`` takes them."""
        return np.array([*self.filter, *self.strides, *self.dilations, *self.padding], np.int64)

    @property
    def dead(self) -> bool:
        """Whether XNNPACK reads padding only: its total padding, which is unsigned, would be less than zero."""
        return self.filter != (1, 1) and min(self.missing) < 0


def convolution(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """Compiles a CONV_2D or DEPTHWISE_CONV_2D.

    Raises:
        UnsupportedOperatorError: weights that are computed, not int8 or with a zero point.
    """
    source, target = graph.tensors[operator.inputs[0]], graph.output_of(operator)
    weights, bias = constants(graph, operator, 1, 2)
    window = Window.of(operator, source, target, weights.shape[1:3])
    depth, channels = source.shape[3], target.shape[3]
    variant = _summing_variant(source, operator, bias, variant)
    depthwise = operator.name == "DEPTHWISE_CONV_2D"
    groups = depth // weights.shape[3] if not depthwise else 1
    expected = (1, *window.filter, channels) if depthwise else (channels, *window.filter, depth // groups)
    if weights.shape != expected or depth % groups or channels % (depth if depthwise else groups):
        raise ValueError(f"weights of the shape {list(weights.shape)} for {depth} channels that make {channels}")
    matrix = data_of(weights).reshape(-1, channels).T if depthwise else data_of(weights).reshape(channels, -1)
    products = math.prod(target.shape) * matrix.size // channels
    if products > _MOST_PRODUCTS:
        raise unsupported(f"{operator.name} (number {operator.index}) with {products} products for each input")
    parts = _parts(graph, operator, variant, matrix, weights, bias, groups)
    zero_point = quant_of(source).zero_point
    if depthwise:
        run = _sums("depthwise", window, data_of(weights)[0].astype(np.int32), bias_of(bias, channels), parts, zero_point)
    else:
        run = _by_patches(window, parts, zero_point)
        if variant.floored_blocks and window.plain and groups == 1 and depth % _BLOCK_DEPTH == 0:
            floored = replace(variant, rounding=Rounding.FLOORED)
            parts += _parts(graph, operator, floored, matrix, weights, bias, groups)
            run = _floored_blocks(run, _by_patches(window, parts[-1:], zero_point))
    dead = variant.kernels is Kernels.XNNPACK and window.dead
    images = _in_blocks(run, source, target, window.taps * depth, fill=zero_point if dead else None)
    return Kernel(images, _arithmetic(dead, parts), drops_input=dead)


def transposed(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """Compiles a TRANSPOSE_CONV, whose window goes from its output to its input. Raises what ``convolution`` raises."""
    source, target = graph.tensors[operator.inputs[2]], graph.output_of(operator)
    weights, bias = constants(graph, operator, 1, 3)
    window = Window.of(operator, target, source, weights.shape[1:3])
    channels = target.shape[3]
    variant = _summing_variant(source, operator, bias, variant)
    if weights.shape != (channels, *window.filter, source.shape[3]):
        raise ValueError(f"weights of the shape {list(weights.shape)} for {source.shape[3]} channels that make {channels}")
    parts = _parts(graph, operator, variant, data_of(weights).reshape(channels, -1), weights, bias, 1)
    planes = np.ascontiguousarray(data_of(weights).transpose(1, 2, 3, 0).astype(np.int32))
    run = _sums("transposed", window, planes, bias_of(bias, channels), parts, quant_of(source).zero_point)
    return Kernel(_in_blocks(run, source, target, 4 * channels), _arithmetic(False, parts))


def pool(graph: TfliteGraph, operator: Operator, variant: Variant) -> Kernel:
    """Compiles an AVERAGE_POOL_2D or MAX_POOL_2D. Raises UnsupportedOperatorError: several scales, which no kernel takes."""
    source, target = graph.tensors[operator.inputs[0]], graph.output_of(operator)
    window = Window.of(
        operator, source, target, (operator.options.get("filterHeight", 0), operator.options.get("filterWidth", 0))
    )
    if quant_of(source) != quant_of(target):
        raise unsupported(f"{operator.name} (number {operator.index}) between tensors of different scales")
    if source.shape[3] != target.shape[3]:
        raise ValueError(f"{target.shape[3]} channels out of {source.shape[3]}")
    low, high = clamp_bounds(operator.activation, quant_of(target), Kernels.REFERENCE)  # XNNPACK takes no pooling in int8
    average = operator.name == "AVERAGE_POOL_2D"

    def run(images: RawArray, outputs: RawArray) -> None:
        _loops().pool(images, window.numbers, average, low, high, outputs)

    return Kernel(_in_blocks(run, source, target, 1), (low, high))


def _summing_variant(source: Tensor, operator: Operator, bias: Tensor | None, variant: Variant) -> Variant:
    """``variant``, or what it is with sums of int16 activations. Raises UnsupportedOperatorError: kernels misread this bias."""
    if quant_of(source).kind == INT8:
        return variant
    noted = operator.options.get("quantizedBiasType", 0)
    wide = bias.type == "INT64" if bias is not None else noted != INT32
    desktop = variant.kernels is not Kernels.TFLM  # its kernels go by what the converter noted, those of TFLM by the bias
    read_as_wide = operator.name == "DEPTHWISE_CONV_2D" or (noted != INT32 if desktop else operator.name == "TRANSPOSE_CONV")
    if not wide and read_as_wide:
        raise unsupported(f"{operator.name} (number {operator.index}) in int16 with a bias of 32 bits, which kernels read as 64")
    return of_int16(variant, wide, float64=False)


def _parts(
    graph: TfliteGraph,
    operator: Operator,
    variant: Variant,
    matrix: RawArray,
    weights: Tensor,
    bias: Tensor | None,
    groups: int,
) -> list[_Part]:
    """Channels in the order of the output: those of one group, or of one rule."""
    source = graph.tensors[operator.inputs[2 if operator.name == "TRANSPOSE_CONV" else 0]]
    target, channels = graph.output_of(operator), len(matrix)
    bounds = fused_bounds(operator.activation, quant_of(target), variant)
    if len(weights.scales) not in (1, channels):
        raise ValueError(f"{len(weights.scales)} scales of weights for {channels} channels")
    scales = np.broadcast_to(np.array(weights.scales), (channels,))
    offsets = bias_of(bias, channels)
    found = []
    for every, rounding in of_channels(variant.rounding, operator.name, groups, channels):
        # Convolutions have had a multiplier for each channel, formed in float64, as long as they have been there.
        rules = replace(variant, rounding=rounding, float64_product=True, first_scale_only=False)
        size = (every.stop - every.start) // groups
        for start in range(every.start, every.stop, size):
            part = slice(start, start + size)
            given = quant_of(source), quant_of(target), bounds, rules
            found.append((part, layer(matrix[part], offsets[part], tuple(scales[part].tolist()), *given)))
    return found


def _arithmetic(dead: bool, parts: list[_Part]) -> Hashable:
    return dead, tuple((part.start, dense.requantize.arithmetic) for part, dense in parts)


def _by_patches(window: Window, parts: list[_Part], zero_point: int) -> _Images:
    """Every part is a dense layer on the inputs of its group, one row for each pixel."""
    layers = [(part, DenseRows(dense)) for part, dense in parts]

    def run(images: RawArray, outputs: RawArray) -> None:
        depth = images.shape[3]
        if window.plain:
            rows = images
        else:
            rows = np.empty((len(images), *window.target, *window.filter, depth), images.dtype)
            _loops().patches(images, window.numbers, zero_point, rows)
        size = depth // len(layers)
        for group, (part, dense) in enumerate(layers):
            mine = np.ascontiguousarray(rows[..., group * size : (group + 1) * size]).reshape(-1, window.taps * size)
            outputs[..., part] = dense(mine).reshape(*outputs.shape[:3], -1)

    return run


def _floored_blocks(run: _Images, floored: _Images) -> _Images:
    """``floored`` for the whole blocks of 8 pixels of each image, ``run`` for the rest."""

    def both(images: RawArray, outputs: RawArray) -> None:
        run(images, outputs)
        others = np.empty_like(outputs)
        floored(images, others)
        pixels = outputs.shape[1] * outputs.shape[2]
        rows = (len(outputs), pixels, outputs.shape[3])
        blocks = slice(0, pixels // _BLOCK_PIXELS * _BLOCK_PIXELS)
        outputs.reshape(rows)[:, blocks] = others.reshape(rows)[:, blocks]

    return both


def _sums(
    loop: str,
    window: Window,
    weights: NDArray[np.int32],
    bias: NDArray[np.int64],
    parts: list[_Part],
    zero_point: int,
) -> _Images:
    """Sums by a loop of this name, then the rule of each part."""
    wide = any(dense.requantize.rounding is Rounding.REDUCED for _, dense in parts)
    start = bias.astype(np.int64 if wide else np.int32)

    def run(images: RawArray, outputs: RawArray) -> None:
        sums = np.empty(outputs.shape, start.dtype)
        getattr(_loops(), loop)(images, window.numbers, zero_point, weights, start, sums)
        rows = sums.reshape(-1, outputs.shape[3]), outputs.reshape(-1, outputs.shape[3])
        for part, dense in parts:
            dense.requantize.rows(rows[0], part.start, rows[1])

    return run


def _in_blocks(run: _Images, source: Tensor, target: Tensor, bytes_per_pixel: int, fill: int | None = None) -> Run:
    """So many images at a time that what is made of them fits a cache, all of them ``fill`` where that is a number."""
    step = max(1, _BLOCK_BYTES // max(1, math.prod(target.shape[1:3]) * max(bytes_per_pixel, 4 * target.shape[3])))

    dtype = quant_of(source).kind.dtype

    def images(inputs: Sequence[Values]) -> Values:
        given = np.ascontiguousarray(inputs[-1], dtype).reshape(-1, *source.shape[1:])
        if fill is not None:
            given = np.full_like(given, fill)
        outputs = np.empty((len(given), *target.shape[1:]), dtype)
        for start in range(0, len(given), step):
            run(given[start : start + step], outputs[start : start + step])
        return outputs.reshape(-1, *target.shape)

    return images


def _loops() -> Any:
    require("numba", "int8")
    from balance_hil.runtimes.emulated import loops

    return loops
