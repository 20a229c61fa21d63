"""Why two runtimes of a board's model differ: every differing value gets a named cause at the layer where it arises.

At each operator both emulators are given the inputs that either runtime had. A value is

- new, if the two arithmetics disagree on equal inputs; swapping one rule after the other finds the one that makes the difference,
- propagated, if they agree on equal inputs and the inputs were not equal,
- unexplained, if an emulator does not compute what its runtime computed, or nobody emulates the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.samples import Progress, Samples, no_progress
from balance_hil.quantize import RawArray
from balance_hil.runtimes.base import LayerTensor
from balance_hil.runtimes.emulated import EmulatedRuntime, Variant
from balance_hil.runtimes.emulated.interpreter import computed_inputs
from balance_hil.tflite.graph import Operator, Tensor, TfliteGraph

REQUANTIZATION_ROUNDING = "requantization rounding"
REDUCED_MULTIPLIER = "multiplier of 16 bits"
SCALE_PRODUCT = "scale product precision"
IGNORED_CHANNEL_SCALES = "ignored channel scales"
CLAMP_BOUND = "rounding of an activation's bounds"
ACTIVATION_TABLE = "tanh or logistic table"
ELEMENTWISE_ROUNDING = "element-wise rounding"
DROPPED_INPUT = "XNNPACK drops the input of a convolution"
MEAN_ROUNDING = "rounding of a mean"
SOFTMAX_ARITHMETIC = "softmax in fixed point or by a table"
LSTM_GATES = "gates of an LSTM by a table or in fixed point"
SEVERAL_RULES = "several rules together"
CAUSES = (
    REQUANTIZATION_ROUNDING,
    REDUCED_MULTIPLIER,
    SCALE_PRODUCT,
    IGNORED_CHANNEL_SCALES,
    CLAMP_BOUND,
    ACTIVATION_TABLE,
    ELEMENTWISE_ROUNDING,
    DROPPED_INPUT,
    MEAN_ROUNDING,
    SOFTMAX_ARITHMETIC,
    LSTM_GATES,
    SEVERAL_RULES,
)
_BLOCK_VALUES = 1 << 23  # of all layers: some 100 MB
_MOST_ROWS = 32_768  # of a block
_CAUSES_OF = {
    "TANH": ACTIVATION_TABLE,
    "LOGISTIC": ACTIVATION_TABLE,
    "SOFTMAX": SOFTMAX_ARITHMETIC,
    "MEAN": MEAN_ROUNDING,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": LSTM_GATES,
}
Emulate = Callable[[Variant], EmulatedRuntime]
_RULES = (
    "first_scale_only",
    "float64_product",
    "floored_blocks",
    "rounding",
    "kernels",
)  # fields of Variant, tried in this order


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Outputs of one runtime, and the arithmetic attributed to it."""

    name: str
    variant: Variant
    outputs: RawArray  # [n, n_act]
    layers: Sequence[LayerTensor] | None = None  # of every operator; None: the variant's own are taken and the outputs checked

    def rows(self, rows: slice) -> Observed:
        """The same on some of the inputs."""
        layers = self.layers and [LayerTensor(layer.op, layer.operator, layer.values[rows]) for layer in self.layers]
        return replace(self, outputs=self.outputs[rows], layers=layers)


@dataclass(frozen=True, kw_only=True)
class LayerAttribution:
    """One operator's differing values."""

    op: int
    operator: str
    values: int
    differing: int  # new + propagated + unexplained
    new: Mapping[str, int]  # cause -> values
    propagated: int
    unexplained: int
    max_new_lsb: int  # largest difference among the new values
    new_channels: tuple[int, ...]  # new values in each channel of the output


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Why the final outputs of two runtimes differ."""

    a: str
    b: str
    variant_a: str
    variant_b: str
    inputs: int
    outputs: int
    differing: int
    causes: Mapping[str, int]  # cause -> differing outputs that have their root in it; the causes and ``unexplained`` add up
    unexplained: int
    layers: tuple[LayerAttribution, ...]

    @property
    def first_op(self) -> int | None:
        """First operator with a new or unexplained difference."""
        return next((layer.op for layer in self.layers if layer.differing), None)


@dataclass(frozen=True, kw_only=True)
class PairAttribution:
    """Why two runtimes differ: over all inputs, and in each layer over the evenly spaced ones of which the layers are known."""

    outputs: Attribution | None  # None where nobody emulates one of the operators
    layers: Attribution | None  # None where no layers were fetched


def attribute_pairs(
    graph: TfliteGraph, samples: Samples, variants: Mapping[str, Variant], on_progress: Progress = no_progress
) -> dict[tuple[str, str], PairAttribution]:
    """Attributes every difference of every two runtimes of the model.

    All outputs are explained with the runtimes' arithmetics, and each of them is checked: a runtime that departs from its
    arithmetic on one row alone leaves that row unexplained.

    Args:
        graph: of the model that all of them run.
        samples: what they computed.
        variants: by runtime, the arithmetic that was identified.
        on_progress: called with the number of rows done, counted once per pair.

    With an operator that nobody emulates, the layers alone are attributed.
    """
    emulate = emulators(graph)
    partial = bool(emulate(next(iter(variants.values()))).unsupported) if variants else False
    trace = samples.trace
    even = trace.rows[: trace.even]
    pairs = list(combinations(samples.outputs, 2))
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        on_progress("causes", done, len(pairs) * len(samples.inputs))

    count(0)
    found = {}
    for pair in pairs:
        seen = [Observed(name=name, variant=variants[name], outputs=samples.outputs[name]) for name in pair]
        outputs = None
        if not partial:
            outputs = attribute(graph, samples.inputs.raw, seen[0], seen[1], on_rows=count, emulate=emulate)
        layers = None
        if len(even):
            traced = [replace(each, outputs=each.outputs[even], layers=trace.even_tensors(each.name)) for each in seen]
            layers = attribute(graph, trace.inputs[: trace.even], traced[0], traced[1], emulate=emulate)
        found[pair] = PairAttribution(outputs=outputs, layers=layers)
    return found


def emulators(graph: TfliteGraph) -> Emulate:
    """Makes the emulator of each variant once; it leaves operators out that are not emulated."""
    return cache(lambda variant: EmulatedRuntime(graph, variant, partial=True))


def attribute(
    graph: TfliteGraph,
    inputs: RawArray,
    a: Observed,
    b: Observed,
    *,
    block_rows: int | None = None,
    on_rows: Callable[[int], None] | None = None,
    emulate: Emulate | None = None,
) -> Attribution:
    """Attributes every differing value of two runtimes on equal ``inputs``, raw [n, n_obs].

    An output is attributed to the first operator with a new difference in its row. If an emulator does not reproduce its runtime
    at any operator of the row, the output is unexplained.

    Args:
        graph: of the model.
        inputs: raw [n, n_obs].
        a: one runtime.
        b: the other.
        block_rows: rows processed together; affects memory use, not the result. None: as many as fit.
        on_rows: called after each block with its number of rows.
        emulate: ``emulators(graph)``, for several calls.

    Raises:
        UnsupportedOperatorError: an operator that nobody emulates, whose outputs are not known.
    """
    emulators_ = _Emulators(graph, a.variant, b.variant, emulate or emulators(graph))
    if block_rows is None:
        sizes = sum(tensor.size for tensor in graph.tensors if not tensor.constant)
        block_rows = min(_MOST_ROWS, max(1, _BLOCK_VALUES // sizes))
    found = []
    for start in range(0, max(1, len(inputs)), block_rows):
        rows = slice(start, start + block_rows)
        found.append(_attribute_block(emulators_, inputs[rows], a.rows(rows), b.rows(rows)))
        if on_rows is not None:
            on_rows(len(inputs[rows]))
    return reduce(_joined, found)


def _attribute_block(emulators: _Emulators, inputs: RawArray, a: Observed, b: Observed) -> Attribution:
    graph = emulators.graph
    walk = _Walk(emulators, inputs, a, b)
    layers = tuple(walk.step(operator) for operator in graph.operators if graph.shows(operator))
    differing = a.outputs != b.outputs
    per_row = np.count_nonzero(differing, axis=1)
    unexplained = walk.unexplained | walk.outputs_missed() | (walk.roots < 0)
    explained_roots = walk.roots[~unexplained]
    counts = np.bincount(explained_roots, weights=per_row[~unexplained], minlength=len(CAUSES)).astype(int)
    return Attribution(
        a=a.name,
        b=b.name,
        variant_a=a.variant.name,
        variant_b=b.variant.name,
        inputs=len(inputs),
        outputs=differing.size,
        differing=int(per_row.sum()),
        causes={cause: int(count) for cause, count in zip(CAUSES, counts, strict=True) if count},
        unexplained=int(per_row[unexplained].sum()),
        layers=layers,
    )


def _joined(a: Attribution, b: Attribution) -> Attribution:
    """Sum of two blocks; the largest difference is the maximum."""
    layers = tuple(
        replace(
            _added(x, y, "values", "differing", "propagated", "unexplained"),
            new=_sum(x.new, y.new),
            max_new_lsb=max(x.max_new_lsb, y.max_new_lsb),
            new_channels=tuple(map(sum, zip(x.new_channels, y.new_channels, strict=True))),
        )
        for x, y in zip(a.layers, b.layers, strict=True)
    )
    joined: Attribution = _added(a, b, "inputs", "outputs", "differing", "unexplained")
    return replace(joined, causes=_sum(a.causes, b.causes), layers=layers)


def _added(a: Any, b: Any, *counts: str) -> Any:
    return replace(a, **{name: getattr(a, name) + getattr(b, name) for name in counts})


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {cause: a.get(cause, 0) + b.get(cause, 0) for cause in CAUSES if cause in a or cause in b}


class _Emulators:
    """The arithmetic of both runtimes, and b's with one rule after the other taken from a."""

    def __init__(self, graph: TfliteGraph, a: Variant, b: Variant, emulate: Emulate) -> None:
        self.graph = graph
        self.a, self.b = emulate(a), emulate(b)
        self.swapped = {
            rule: emulate(replace(b, **{rule: getattr(a, rule)})) for rule in _RULES if getattr(a, rule) != getattr(b, rule)
        }


class _Side:
    """State of one runtime while its graph is traversed."""

    def __init__(self, emulator: EmulatedRuntime, inputs: RawArray, observed: Observed) -> None:
        self.observed = observed
        self.emulator = emulator
        graph = emulator.graph
        self.real = {layer.op: layer.values for layer in observed.layers or ()}
        self.tensors: dict[int, NDArray[Any]] = {graph.input.index: inputs.reshape(-1, *graph.input.shape)}


class _Walk:
    """Traverses the graph of two runtimes operator by operator and records the first new difference of each row."""

    def __init__(self, emulators: _Emulators, inputs: RawArray, a: Observed, b: Observed) -> None:
        self._graph = emulators.graph
        self._a, self._b = _Side(emulators.a, inputs, a), _Side(emulators.b, inputs, b)
        self._swapped = emulators.swapped
        self.unexplained = np.zeros(len(inputs), bool)  # by row
        self.roots = np.full(len(inputs), -1, np.int8)  # by row: index into CAUSES

    def step(self, operator: Operator) -> LayerAttribution:
        a, b, graph = self._a, self._b, self._graph
        if operator.index in a.emulator.unsupported:
            return self._unsupported(operator)
        ins_a, ins_b = self._inputs(a, operator), self._inputs(b, operator)
        computed_a, computed_b = a.emulator.apply(operator, ins_a), b.emulator.apply(operator, ins_b)
        out_a, out_b = self._keep(a, operator, computed_a), self._keep(b, operator, computed_b)
        differing = out_a != out_b
        unexplained = differing & ((computed_a != out_a) | (computed_b != out_b))
        alike = a.emulator.arithmetic(operator) == b.emulator.arithmetic(operator)
        b_on_a = computed_a if alike else b.emulator.apply(operator, ins_a)
        new = differing & ~unexplained & (b_on_a != computed_a)
        causes = self._causes(operator, ins_a, computed_a, new)
        rows = len(new)
        self.unexplained |= unexplained.reshape(rows, -1).any(axis=1)
        self._remember_roots(new.reshape(rows, -1), causes.reshape(rows, -1))
        distance = np.abs(out_a.astype(np.int32) - out_b)
        counts = np.bincount(causes[new], minlength=len(CAUSES))
        return LayerAttribution(
            op=operator.index,
            operator=operator.name,
            values=differing.size,
            differing=int(np.count_nonzero(differing)),
            new={cause: int(count) for cause, count in zip(CAUSES, counts, strict=True) if count},
            propagated=int(np.count_nonzero(differing & ~unexplained & ~new)),
            unexplained=int(np.count_nonzero(unexplained)),
            max_new_lsb=int(distance[new].max(initial=0)),
            new_channels=per_channel(new, graph.output_of(operator)),
        )

    def _unsupported(self, operator: Operator) -> LayerAttribution:
        """The runtimes' own outputs are taken, and nothing is said about them."""
        if any(operator.index not in side.real for side in (self._a, self._b)):
            raise self._a.emulator.unsupported[operator.index]
        target = self._graph.output_of(operator)
        out_a, out_b = (side.real[operator.index].reshape(-1, *target.shape) for side in (self._a, self._b))
        self._a.tensors[target.index], self._b.tensors[target.index] = out_a, out_b
        differing = out_a != out_b
        self.unexplained |= differing.reshape(len(differing), -1).any(axis=1)
        return LayerAttribution(
            op=operator.index,
            operator=operator.name,
            values=differing.size,
            differing=int(np.count_nonzero(differing)),
            new={},
            propagated=0,
            unexplained=int(np.count_nonzero(differing)),
            max_new_lsb=0,
            new_channels=per_channel(np.zeros_like(differing), target),
        )

    def outputs_missed(self) -> NDArray[np.bool_]:
        """Rows, bool [n], whose final outputs differ from those of the last operator."""
        index, rows = self._graph.output.index, len(self.roots)
        missed = [side.tensors[index].reshape(rows, -1) != side.observed.outputs for side in (self._a, self._b)]
        return np.asarray(np.any(missed[0] | missed[1], axis=1))

    def _inputs(self, side: _Side, operator: Operator) -> list[NDArray[Any]]:
        return [self._tensor(side, index) for index in computed_inputs(self._graph, operator)]

    def _tensor(self, side: _Side, index: int) -> NDArray[Any]:
        """Values of a tensor; what no runtime exposes (a float tensor, a second output) is computed by its operator."""
        if index not in side.tensors:
            operator = next(op for op in self._graph.operators if index in op.outputs)
            outputs = side.emulator.apply_all(operator, self._inputs(side, operator))
            side.tensors[index] = outputs[operator.outputs.index(index)]
        return side.tensors[index]

    def _keep(self, side: _Side, operator: Operator, computed: NDArray[Any]) -> NDArray[Any]:
        values = side.real.get(operator.index)
        target = self._graph.output_of(operator)
        side.tensors[target.index] = computed if values is None else values.reshape(-1, *target.shape)
        return side.tensors[target.index]

    def _causes(
        self, operator: Operator, ins: list[NDArray[Any]], wanted: NDArray[Any], new: NDArray[np.bool_]
    ) -> NDArray[np.int8]:
        """Index into CAUSES for every new value: the one rule of a's that turns b's result into a's."""
        if self._a.emulator.drops_input(operator) != self._b.emulator.drops_input(operator):
            return np.full(new.shape, CAUSES.index(DROPPED_INPUT), np.int8)
        causes = np.full(new.shape, CAUSES.index(SEVERAL_RULES), np.int8)
        reduced = any(side.emulator.reduces_multiplier(operator) for side in (self._a, self._b))
        open_ = new.copy()
        for rule, emulator in self._swapped.items():
            if not open_.any():
                break
            # Nothing to compute where the swap turns b's arithmetic into a's.
            alike = emulator.arithmetic(operator) == self._a.emulator.arithmetic(operator)
            solved = open_ if alike else open_ & (emulator.apply(operator, ins) == wanted)
            causes[solved] = CAUSES.index(REDUCED_MULTIPLIER if reduced else _cause(rule, operator.name))
            open_ = open_ & ~solved
        return causes

    def _remember_roots(self, new: NDArray[np.bool_], causes: NDArray[np.intp]) -> None:
        fresh = (self.roots < 0) & new.any(axis=1)
        first = np.argmax(new, axis=1)
        self.roots[fresh] = causes[fresh, first[fresh]]


def _cause(rule: str, operator: str) -> str:
    if rule == "first_scale_only":
        return IGNORED_CHANNEL_SCALES
    if rule == "float64_product":
        return SCALE_PRODUCT
    if operator in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        return CLAMP_BOUND if rule == "kernels" else REQUANTIZATION_ROUNDING
    return _CAUSES_OF.get(operator, ELEMENTWISE_ROUNDING)


def per_channel(values: NDArray[Any], target: Tensor) -> tuple[int, ...]:
    """How many values, [n, ...], are not zero in each channel: each entry of the last dimension of ``target``."""
    return tuple(np.count_nonzero(values.reshape(-1, target.shape[-1] if target.shape else 1), axis=0).tolist())
