"""Convolutional models with int8 or int16 activations, written operator by operator: random ones, and one on small images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.quantize import INT8, INT8_MAX, INT8_MIN, ElementType
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.emulated.rules import TFLM
from balance_hil.testing.synthetic_models import ACTIVATIONS, INT16_QUANT, LOGISTIC_QUANT, TANH_QUANT, ModelBuilder, random_dense

SAME, VALID = 0, 1
_LEAST_SPREAD = 3.0  # standard deviation of an output over random inputs
_Step = Callable[["_Network"], int | None]  # adds operators; the tensor they end in, None where they do not fit


def random_network(seed: int, operators: Sequence[str] = (), element: ElementType = INT8) -> bytes:
    """A network that no converter would write: four to eight blocks of random operators, shapes and scales on a small image.

    ``operators``: those of OPERATORS that it is made of; by default all that every runtime has but the LSTM.
    ``element``: INT8, or INT16X8, for which a convolution may have a bias of 32 bits.
    """
    names = operators or (_NAMES if element == INT8 else INT16_OPERATORS)
    shares = np.array([_OFTEN.get(name, 0.7) for name in names])
    network = _Network(np.random.default_rng(seed), element)
    rng = network.rng
    for _ in range(int(rng.integers(4, 9))):
        while not network.grows(_STEPS[str(rng.choice(names, p=shares / sum(shares)))]):
            pass
    if rng.random() < 0.7 and network.grows(_Network.flattened_dense) and rng.random() < 0.6:
        network.grows(_Network.softmax)
    return network.build.build(network.first, network.current)


def image_network() -> bytes:
    """An image of 8 x 8 x 3, four convolutions (3 x 3, 3 x 3, depthwise, 1 x 1) with a branch around two, and ten shares."""
    rng, build = np.random.default_rng(0), ModelBuilder()
    options: dict[str, Any] = {"strideH": 1, "strideW": 1}

    def layer(source: int, name: str, channels: int, size: int, spread: float) -> int:
        depth = int(build.tensors[source].shape[-1])
        shape = (1, size, size, channels) if name == "DEPTHWISE_CONV_2D" else (channels, size, size, depth)
        scales = [float(scale) for scale in rng.uniform(0.002, 0.006, channels)]
        weights = build.tensor(shape, scales, data=rng.integers(-127, 128, shape, dtype=np.int8))
        if name == "DEPTHWISE_CONV_2D":
            build.tensors[weights].quantization.quantizedDimension = 3
        taps = size * size * (1 if name == "DEPTHWISE_CONV_2D" else depth)
        scale = build.quant(source)[0] * 0.004 * 73 * spread * float(np.sqrt(taps)) / 50
        target = build.tensor((1, 8, 8, channels), scale, -20)
        inputs = (source, weights, build.bias(source, scales, rng.normal(0, 1e3, channels)))
        more: dict[str, Any] = {"depthMultiplier": 1} if name == "DEPTHWISE_CONV_2D" else {}
        return build.operator(name, inputs, target, activation="RELU", padding=SAME, **options, **more)

    first = build.tensor((1, 8, 8, 3), 0.02)
    branch = layer(layer(first, "CONV_2D", 8, 3, 73), "CONV_2D", 16, 3, 25)
    current = layer(layer(branch, "DEPTHWISE_CONV_2D", 16, 3, 25), "CONV_2D", 16, 1, 25)
    scale = max(build.quant(branch)[0], build.quant(current)[0])
    current = build.operator("ADD", (branch, current), build.tensor((1, 8, 8, 16), scale, -20))
    pooled = build.tensor((1, 1, 1, 16), *build.quant(current))
    build.operator("AVERAGE_POOL_2D", (current,), pooled, filterHeight=8, filterWidth=8, padding=VALID, **options)
    flat = build.operator("RESHAPE", (pooled, build.numbers((1, 16))), build.tensor((1, 16), *build.quant(pooled)))
    weights = rng.integers(-127, 128, (10, 16), dtype=np.int8)
    scores = build.dense(flat, weights, 0.01, (build.quant(flat)[0] * 0.01 * 73 * 2, 0))
    return build.build(first, build.operator("SOFTMAX", (scores,), build.tensor((1, 10), *LOGISTIC_QUANT)))


def random_operator(name: str, seed: int, element: ElementType = INT8) -> bytes:
    """A network of one operator, with random shapes and scales; every third one has powers of two, which make ties."""
    rng = np.random.default_rng(seed)
    made = None
    while made is None:
        network = _Network(rng, element, ties=seed % 3 == 0)
        made = _STEPS[name](network)
    return network.build.build(network.first, made)


class _Network:
    """A model that grows by one operator after the other."""

    def __init__(self, rng: np.random.Generator, element: ElementType = INT8, ties: bool = False) -> None:
        self.rng, self.build, self._ties = rng, ModelBuilder(element), ties
        self.kind, self._steps = element, (element.high + 1) // (INT8_MAX + 1)  # of one step of int8
        shape = (1, *(int(n) for n in rng.integers(1, 12, 2)), int(rng.choice([1, 2, 3, 4, 5, 8, 9, 16, 19])))
        self.first = self.current = self.build.tensor(shape, *self.scale(0.05 / self._steps))
        self._size, self._probe = int(np.prod(shape)), np.random.default_rng(0)

    def grows(self, step: _Step) -> bool:
        """Whether a step fits, and its outputs still depend on the input; else it is taken back."""
        tensors, operators, before = len(self.build.tensors), len(self.build.operators), self.current
        made = step(self)
        if made is not None:
            self.current = made
            model = self.build.build(self.first, made)
            inputs = self.raw(self._probe, (16, self._size))
            outputs = EmulatedRuntime(model, TFLM, threads=1).infer_raw_batch(inputs)
            if np.mean(np.std(outputs, axis=0)) > _LEAST_SPREAD * self._steps:
                return True
        del self.build.tensors[tensors:], self.build.operators[operators:]
        self.current = before
        return False

    def raw(self, rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
        return rng.integers(self.kind.low, self.kind.high + 1, shape, dtype=self.kind.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.build.tensors[self.current].shape)

    @property
    def quant(self) -> tuple[float, int]:
        return self.build.quant(self.current)

    def scale(self, around: float) -> tuple[float, int]:
        value = around * 10 ** self.rng.uniform(-0.4, 0.3)
        if self._ties:
            value = 2.0 ** np.round(np.log2(value))
        extreme = self.rng.random() < 0.2
        zero_point = self.rng.choice([INT8_MIN, INT8_MAX]) if extreme else np.clip(self.rng.normal(0, 40), INT8_MIN, INT8_MAX)
        return float(value), int(zero_point) if self.kind == INT8 else 0

    def activation(self) -> str:
        return str(self.rng.choice(ACTIVATIONS, p=[0.5, 0.2, 0.1, 0.2]))

    def _window(self, dilated: bool) -> tuple[dict[str, Any], tuple[int, int], tuple[int, int]] | None:
        """Options, size of the filter, size of the output."""
        rng = self.rng
        size = [int(n) for n in rng.choice([1, 1, 2, 3, 3, 5], 2)]
        strides = [int(n) for n in (rng.choice([1, 1, 2, 3], 1).repeat(2) if rng.random() < 0.8 else rng.choice([1, 2, 3], 2))]
        dilations = [int(n) for n in rng.choice([1, 2, 3], 2)] if dilated and max(strides) == 1 and rng.random() < 0.3 else [1, 1]
        padding = int(rng.choice([SAME, VALID]))
        reach = [(k - 1) * d + 1 for k, d in zip(size, dilations, strict=True)]
        inside = self.shape[1:3]
        outside = [-(-(n if padding == SAME else n - r + 1) // s) for n, r, s in zip(inside, reach, strides, strict=True)]
        if min(outside) < 1:
            return None
        options: dict[str, Any] = {"strideH": strides[0], "strideW": strides[1], "padding": padding}
        if dilated:
            options |= {"dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}
        return options, (size[0], size[1]), (outside[0], outside[1])

    def _weights(self, shape: tuple[int, ...], channels: int, taps: int) -> tuple[int, int, tuple[float, int]]:
        """Weights, bias and the output's quantization, which sums of so many products fill and at times exceed."""
        rng, one = self.rng, self.rng.random() < 0.25
        scales = 10 ** rng.uniform(-4, -1) * (np.ones(1) if one else rng.uniform(0.1, 1, channels))
        if self._ties:
            scales = 2.0 ** np.round(np.log2(scales))
        given = [float(s) for s in scales]
        weights = self.build.tensor(shape, given, data=rng.integers(-127, 128, shape, dtype=np.int8))
        axis = int(np.argmax(np.array(shape) == channels)) if shape[0] != channels else 0
        if len(given) > 1:
            self.build.tensors[weights].quantization.quantizedDimension = 3 if shape[0] == 1 and axis else 0
        bias = self.build.bias(self.current, given, rng.normal(0, rng.choice([1e1, 1e3, 1e4]) * self._steps, channels))
        typical = self.quant[0] * float(np.max(scales)) * 73 * 73 * np.sqrt(taps)
        return weights, bias, self.scale(typical / 60)

    def _bias_type(self, bias: int) -> dict[str, int]:
        """An option of a convolution, which may make a bias of 32 bits of one of 64."""
        types = self.build.schema.TensorType
        if self.kind == INT8:
            return {}
        if self.rng.random() < 0.7:
            return {"quantizedBiasType": int(self.rng.choice([0, types.INT64]))}  # 0: an older converter
        self.build.narrow(bias)
        return {"quantizedBiasType": types.INT32}

    def convolution(self, groups: int = 1) -> int | None:
        window, depth = self._window(dilated=groups == 1), self.shape[3]
        if window is None or depth % groups:
            return None
        options, size, outside = window
        channels = groups * int(self.rng.integers(1, 20 // groups + 1))
        weights, bias, quant = self._weights((channels, *size, depth // groups), channels, size[0] * size[1] * depth // groups)
        options |= self._bias_type(bias)
        target = self.build.tensor((1, *outside, channels), *quant)
        return self.build.operator("CONV_2D", (self.current, weights, bias), target, activation=self.activation(), **options)

    def grouped(self) -> int | None:
        divisors = [n for n in range(2, self.shape[3] + 1) if self.shape[3] % n == 0 and n <= 4]
        return self.convolution(int(self.rng.choice(divisors))) if divisors else None

    def depthwise(self) -> int | None:
        window, depth = self._window(dilated=True), self.shape[3]
        multiplier = int(self.rng.choice([1, 1, 1, 2, 3]))
        if window is None or depth * multiplier > 40:
            return None
        options, size, outside = window
        channels = depth * multiplier
        weights, bias, quant = self._weights((1, *size, channels), channels, size[0] * size[1])
        target = self.build.tensor((1, *outside, channels), *quant)
        inputs, name = (self.current, weights, bias), "DEPTHWISE_CONV_2D"
        return self.build.operator(name, inputs, target, activation=self.activation(), depthMultiplier=multiplier, **options)

    def transposed(self) -> int | None:
        rng, (_, height, width, depth) = self.rng, self.shape
        size, stride = [int(n) for n in rng.integers(1, 5, 2)], [int(n) for n in rng.integers(1, 4, 2)]
        if max(height, width) > 12 or min(k - s for k, s in zip(size, stride, strict=True)) < 0:
            return None
        padding = int(rng.choice([SAME, VALID]))
        outside = [n * s if padding == SAME else (n - 1) * s + k for n, s, k in zip((height, width), stride, size, strict=True)]
        channels = int(rng.integers(1, 20))
        weights, bias, quant = self._weights((channels, *size, depth), channels, size[0] * size[1] * depth)
        shape = (1, *outside, channels)
        inputs = (self.build.numbers(shape), weights, self.current, bias)
        options: dict[str, Any] = {"strideH": stride[0], "strideW": stride[1], "padding": padding}
        return self.build.operator("TRANSPOSE_CONV", inputs, self.build.tensor(shape, *quant), **options)

    def pool(self, name: str) -> int | None:
        window = self._window(dilated=False)
        if window is None:
            return None
        options, size, outside = window
        options |= {"filterHeight": size[0], "filterWidth": size[1]}
        target = self.build.tensor((1, *outside, self.shape[3]), *self.quant)
        return self.build.operator(name, (self.current,), target, activation=self.activation(), **options)

    def mean(self) -> int | None:
        keep = bool(self.rng.random() < 0.5)
        axes = [[1, 2], [1], [2], [3]][int(self.rng.choice(4, p=[0.7, 0.1, 0.1, 0.1]))]
        left = [1 if i in axes else n for i, n in enumerate(self.shape)]
        shape = left if keep else [n for i, n in enumerate(left) if i not in axes]
        quant = self.scale(self.quant[0] / 2) if self.rng.random() < 0.7 else self.quant
        mean = self.build.operator(
            "MEAN", (self.current, self.build.numbers(axes)), self.build.tensor(shape, *quant), keepDims=keep
        )
        if keep:
            return mean
        back = self.build.tensor(left, *quant)  # every step takes an image
        return self.build.operator("RESHAPE", (mean, self.build.numbers(left)), back)

    def softmax(self) -> int:
        target = self.build.tensor(self.shape, *(LOGISTIC_QUANT if self.kind == INT8 else INT16_QUANT))
        beta = float(self.rng.choice([1.0, 1.0, 0.5, 2.0]))
        return self.build.operator("SOFTMAX", (self.current,), target, beta=beta)

    def two(self, name: str) -> int | None:
        """Of this tensor and another of its shape, or a constant."""
        rng = self.rng
        a = self.current
        if name in ("MAXIMUM", "MINIMUM"):
            other, quant = self.quant, self.quant
        else:
            other, quant = self.scale(self.quant[0]), self.scale(2 * self.quant[0])
        if rng.random() < 0.5:
            b = self.build.elementwise("RELU", a, other)
        else:
            shape = self.shape if rng.random() < 0.5 else (1, 1, 1, self.shape[3])
            b = self.build.tensor(shape, *other, data=self.raw(rng, shape), kind=self.kind.tensor)
        fused: dict[str, Any] = {} if name in ("MAXIMUM", "MINIMUM") else {"activation": self.activation()}
        if name == "MUL":
            quant = self.scale(self.quant[0] * other[0] * 60 * self._steps)
        operands = (a, b) if rng.random() < 0.5 else (b, a)
        return self.build.operator(name, operands, self.build.tensor(self.shape, *quant), **fused)

    def prelu(self) -> int | None:
        shape = (1, 1, self.shape[3])
        slopes = self.build.tensor(shape, *self.scale(0.01), data=self.rng.integers(-128, 128, shape, dtype=np.int8))
        return self.build.operator("PRELU", (self.current, slopes), self.build.tensor(self.shape, *self.scale(self.quant[0])))

    def unary(self, name: str) -> int | None:
        options: dict[str, Any] = {}
        fixed = {"TANH": TANH_QUANT, "LOGISTIC": LOGISTIC_QUANT}
        if self.kind != INT8:
            fixed = dict.fromkeys(fixed, INT16_QUANT)
        quant = fixed.get(name) or self.scale(self.quant[0])
        if name == "RELU6":  # TFLM does not requantize
            quant = self.quant
        if name == "HARD_SWISH":  # kernels accept no larger scale of the output
            quant = (self.quant[0] * float(self.rng.uniform(0.1, 1.2)), quant[1])
        if name == "LEAKY_RELU":
            options = {"alpha": float(np.float32(self.rng.choice([0.1, 0.3, 0.01, -0.2, 1.5])))}
        return self.build.operator(name, (self.current,), self.build.tensor(self.shape, *quant), **options)

    def pad(self) -> int | None:
        width = [(0, 0), *((int(a), int(b)) for a, b in self.rng.integers(0, 3, (2, 2))), (0, 0)]
        if self.rng.random() < 0.2:
            width[3] = (int(self.rng.integers(3)), 1)
        shape = [n + sum(w) for n, w in zip(self.shape, width, strict=True)]
        return self.build.operator("PAD", (self.current, self.build.numbers(width)), self.build.tensor(shape, *self.quant))

    def transpose(self) -> int | None:
        axes = [0, *(int(n) + 1 for n in self.rng.permutation(3))]
        target = self.build.tensor([self.shape[i] for i in axes], *self.quant)
        return self.build.operator("TRANSPOSE", (self.current, self.build.numbers(axes)), target)

    def strided_slice(self) -> int | None:
        steps = [1, *(int(n) for n in self.rng.integers(1, 3, 3))]
        begin = [0, *(int(self.rng.integers(n)) for n in self.shape[1:])]
        shape = [len(range(b, n, s)) for b, n, s in zip(begin, self.shape, steps, strict=True)]
        inputs = (self.current, *(self.build.numbers(values) for values in (begin, self.shape, steps)))
        return self.build.operator("STRIDED_SLICE", inputs, self.build.tensor(shape, *self.quant), endMask=15)

    def split(self) -> int | None:
        """Two halves, joined the other way round."""
        axis = int(self.rng.integers(1, 4))
        if self.shape[axis] % 2:
            return None
        half = [n // 2 if i == axis else n for i, n in enumerate(self.shape)]
        first, second = (self.build.tensor(half, *self.quant) for _ in range(2))
        self.build.operator("SPLIT", (self.build.numbers(axis), self.current), first, others=[second], numSplits=2)
        target = self.build.tensor(self.shape, *self.quant)
        return self.build.operator("CONCATENATION", (second, first), target, axis=axis)

    def lstm(self) -> int:
        """Along the rows of the image."""
        rng, build, (_, steps, width, depth) = self.rng, self.build, self.shape
        major, cells = bool(rng.random() < 0.3), int(rng.integers(1, 17))
        inside = (steps, 1, width * depth) if major else (1, steps, width * depth)
        flat = build.operator("RESHAPE", (self.current, build.numbers(inside)), build.tensor(inside, *self.quant))
        quant = self.scale(1 / 128)
        state = build.tensor((1, cells), *quant, variable=True)

        def weights(source: int, inputs: int) -> tuple[int, float]:
            scale = 2.0 ** rng.uniform(-2, 2) / (build.quant(source)[0] * 73 * 73 * np.sqrt(inputs))
            shape = (cells, inputs)
            return build.tensor(shape, scale, data=rng.integers(-127, 128, shape, dtype=np.int8)), scale

        first = [weights(flat, width * depth) for _ in range(4)]
        recurrent = [weights(state, cells)[0] for _ in range(4)]
        biases = [build.bias(flat, scale, rng.normal(0, 1e3, cells)) for _, scale in first]
        cell = build.tensor((1, cells), 2.0 ** int(rng.integers(-15, -9)), kind="INT16", variable=True)
        absent = [-1] * 3
        inputs = (flat, *(w for w, _ in first), *recurrent, *absent, *biases, -1, -1, state, cell, *absent, -1)
        scaled = [build.tensor((0,), kind="FLOAT32") for _ in range(4)] + [build.tensor((0,), *quant)]
        outside = (*inside[:2], cells)
        made = build.operator(
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
            inputs,
            build.tensor(outside, *quant),
            activation="TANH",
            intermediates=scaled,
            timeMajor=major,
            cellClip=float(rng.choice([0.0, 10.0, 0.3])),
        )
        shape = (1, steps, 1, cells)
        return build.operator("RESHAPE", (made, build.numbers(shape)), build.tensor(shape, *quant))

    def flattened_dense(self) -> int:
        size = int(np.prod(self.shape))
        flat = self.build.tensor((1, size), *self.quant)
        source = self.build.operator("RESHAPE", (self.current, self.build.numbers((1, size))), flat)
        return random_dense(
            self.build, self.rng, source, int(self.rng.integers(2, 13)), per_channel=bool(self.rng.random() < 0.5)
        )


_STEPS: dict[str, _Step] = {
    "CONV_2D": _Network.convolution,
    "grouped CONV_2D": _Network.grouped,
    "DEPTHWISE_CONV_2D": _Network.depthwise,
    "TRANSPOSE_CONV": _Network.transposed,
    "AVERAGE_POOL_2D": lambda network: network.pool("AVERAGE_POOL_2D"),
    "MAX_POOL_2D": lambda network: network.pool("MAX_POOL_2D"),
    "MEAN": _Network.mean,
    "SOFTMAX": _Network.softmax,
    **{name: partial(lambda network, name: network.two(name), name=name) for name in ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM")},
    "PRELU": _Network.prelu,
    **{
        name: partial(lambda network, name: network.unary(name), name=name)
        for name in ("LEAKY_RELU", "ELU", "HARD_SWISH", "TANH", "LOGISTIC", "RELU", "RELU6", "QUANTIZE")
    },
    "PAD": _Network.pad,
    "TRANSPOSE": _Network.transpose,
    "STRIDED_SLICE": _Network.strided_slice,
    "SPLIT": _Network.split,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _Network.lstm,
}
OPERATORS = tuple(_STEPS)
_OFTEN = {
    "CONV_2D": 10,
    "grouped CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 8,
    "AVERAGE_POOL_2D": 2,
    "MAX_POOL_2D": 2,
    "ADD": 3,
    "MEAN": 2,
}
NETWORK_OPERATORS = tuple(name for name in OPERATORS if name != "ELU")  # the reference kernels lack it
_NAMES = NETWORK_OPERATORS[:-1]  # an LSTM on request
INT16_OPERATORS = tuple(name for name in _NAMES if name != "HARD_SWISH")
