"""``EmulatedRuntime``: an int8 or int16x8 model in the arithmetic of one variant, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property

import numpy as np

from balance_hil.errors import BundleError, UnsupportedOperatorError
from balance_hil.quantize import RawArray
from balance_hil.runtimes.base import LayerTensor, ModelRuntime
from balance_hil.runtimes.emulated.chain import WORTH_COMPILED_CODE, Chain, Dense, Table, workers
from balance_hil.runtimes.emulated.kernel import Kernel, Values
from balance_hil.runtimes.emulated.operators import compile_operator
from balance_hil.runtimes.emulated.rules import Rounding, Variant
from balance_hil.scheduling import usable_cores
from balance_hil.tflite.graph import Operator, TfliteGraph, read_graph

# Values of the widest layer per block: enough to hide the overhead of Python, few enough to fit in the cache.
_BLOCK_VALUES = 1 << 19
_ROWS_MULTIPLE = 32  # of a block, where so many fit
_WORTH_THREADS = 4096  # rows


class EmulatedRuntime(ModelRuntime):
    """The runtime that computes like ``variant``.

    Args:
        model: bytes of an int8 or int16x8 ``.tflite``, or its graph.
        variant: the arithmetic; the runtime is named "emulated-<variant>".
        threads: how many compute large batches; None: one for each core that this process may use.
        partial: leave operators that are not emulated out: ``apply`` raises for them.

    Raises:
        ElementTypeError: neither int8 nor int16x8.
        UnsupportedOperatorError: an operator that is not emulated; the message names it.
        BundleError: shapes or scales that no operator can have; a runtime may read or write beyond its memory then.
    """

    def __init__(
        self, model: bytes | TfliteGraph, variant: Variant, *, threads: int | None = None, partial: bool = False
    ) -> None:
        self.graph = read_graph(model) if isinstance(model, bytes) else model
        self.variant = variant
        self._threads = usable_cores() if threads is None else threads
        self.name = f"emulated-{variant.name}"
        self.n_obs, self.n_act = self.graph.n_obs, self.graph.n_act
        self.input_quant, self.output_quant = self.graph.input_quant, self.graph.output_quant
        widest = max(tensor.size for tensor in self.graph.tensors if not tensor.constant)
        fitting = _BLOCK_VALUES // widest
        self._block_rows = max(1, fitting // _ROWS_MULTIPLE * _ROWS_MULTIPLE or fitting)
        self._kernels: list[Kernel] = []
        self.unsupported: dict[int, UnsupportedOperatorError] = {}  # by operator, with ``partial``
        self._compile(partial)

    def _compile(self, partial: bool) -> None:
        """Compiles every operator and runs it on two rows, because shapes and scales of a foreign model may be inconsistent."""
        rows = 2
        values: dict[int, Values] = {self.graph.input.index: np.zeros((rows, *self.graph.input.shape), self.dtype)}
        for operator in self.graph.operators:
            targets = [self.graph.tensors[i] for i in operator.outputs]
            try:
                self._kernels.append(self._kernel(operator, partial))
                if operator.index in self.unsupported:
                    given = [
                        np.zeros((rows, *target.shape), np.float32 if target.type == "FLOAT32" else self.dtype)
                        for target in targets
                    ]
                else:
                    given = self.apply_all(operator, [values[i] for i in computed_inputs(self.graph, operator)])
                for outputs, target in zip(given, targets, strict=True):
                    if outputs.shape != (rows, *target.shape):
                        raise ValueError(f"rows of shape {list(outputs.shape[1:])}, not {list(target.shape)}")
            except (ArithmeticError, LookupError, ValueError) as exc:
                what = f"operator {operator.index} ({operator.name}) of this model does not fit its tensors: {exc}"
                raise BundleError(what, "export it again: hil export") from exc
            values.update(zip(operator.outputs, given, strict=True))

    def _kernel(self, operator: Operator, partial: bool) -> Kernel:
        try:
            return compile_operator(self.graph, operator, self.variant)
        except UnsupportedOperatorError as exc:
            if not partial:
                raise
            self.unsupported[operator.index] = exc
            return Kernel(_refused(exc), None)

    def infer_raw_batch(self, inputs: RawArray) -> RawArray:
        """See ModelRuntime."""
        if len(inputs) >= WORTH_COMPILED_CODE and self._output_chain is not None:
            return self._outputs(self._output_chain, inputs)[0]
        outputs = np.empty((self.n_act, len(inputs)), self.dtype).T  # in memory as kernels write it

        def compute(rows: slice) -> None:
            outputs[rows] = self._run(inputs[rows])[self.graph.output.index].reshape(-1, self.n_act)

        self._each_block(len(inputs), compute)
        return outputs

    def layers_raw_batch(self, inputs: RawArray) -> list[LayerTensor]:
        """See ModelRuntime. An operator with a float output (DEQUANTIZE) is left out."""
        operators = [operator for operator in self.graph.operators if self.graph.shows(operator)]
        if len(inputs) >= WORTH_COMPILED_CODE and self._layer_chain is not None:
            layers = self._outputs(self._layer_chain, inputs)
        else:
            layers = self._layers(operators, inputs)
        return [LayerTensor(operator.index, operator.name, layer) for operator, layer in zip(operators, layers, strict=True)]

    def apply(self, operator: Operator, inputs: Sequence[Values]) -> Values:
        """Output of one operator, [n, *shape], for the values of its non-constant inputs, [n, *shape] each."""
        return self._kernels[operator.index].run(inputs)

    def apply_all(self, operator: Operator, inputs: Sequence[Values]) -> list[Values]:
        """All outputs of one operator: of a SPLIT there are several."""
        kernel = self._kernels[operator.index]
        return [run(inputs) for run in (kernel.run, *kernel.others)]

    def drops_input(self, operator: Operator) -> bool:
        """Whether one operator computes its bias alone."""
        return self._kernels[operator.index].drops_input

    def reduces_multiplier(self, operator: Operator) -> bool:
        """Whether one operator multiplies its sums by 16 bits of the multiplier."""
        arithmetic = self._kernels[operator.index].arithmetic
        return isinstance(arithmetic, tuple) and arithmetic[:1] == (Rounding.REDUCED,)

    def arithmetic(self, operator: Operator | None = None) -> Hashable:
        """Of one operator, or of all; equal for two variants that compute it, or the model, alike whatever the input."""
        if operator is not None:
            return self._kernels[operator.index].arithmetic
        return tuple(kernel.arithmetic for kernel in self._kernels)

    def _layers(self, operators: Sequence[Operator], inputs: RawArray) -> list[RawArray]:
        layers = [np.empty((self.graph.output_of(operator).size, len(inputs)), self.dtype).T for operator in operators]

        def compute(rows: slice) -> None:
            values = self._run(inputs[rows])
            for operator, layer in zip(operators, layers, strict=True):
                layer[rows] = values[operator.outputs[0]].reshape(len(layer[rows]), -1)

        self._each_block(len(inputs), compute)
        return layers

    @cached_property
    def _output_chain(self) -> Chain | None:
        """The whole graph in compiled code, if it is a chain of what that can compute."""
        stages = self._stages()
        return Chain(stages, [False] * (len(stages) - 1) + [True]) if stages else None

    @cached_property
    def _layer_chain(self) -> Chain | None:
        stages = self._stages()
        return Chain(stages, [True] * len(stages)) if stages else None

    def _stages(self) -> list[Dense | Table]:
        """Stages of all operators, [] where one has none, or is not a link of a chain."""
        stages = []
        last = self.graph.input
        for operator, kernel in zip(self.graph.operators, self._kernels, strict=True):
            if kernel.stage is None or computed_inputs(self.graph, operator) != [last.index] or kernel.stage.width != last.size:
                return []
            stages.append(kernel.stage)
            last = self.graph.output_of(operator)
        return stages if last.index == self.graph.output.index else []

    def _outputs(self, chain: Chain, inputs: RawArray) -> list[RawArray]:
        threads = self._threads if len(inputs) > _WORTH_THREADS else 1
        return chain.outputs(inputs, threads)

    def _each_block(self, rows: int, compute: Callable[[slice], None]) -> None:
        """Calls ``compute`` for blocks that make up ``rows`` rows, on several threads: the compiled code releases the GIL."""
        threads = self._threads if rows > min(_WORTH_THREADS, self._block_rows) else 1
        # Equal numbers of blocks of equal size per thread, to balance the load.
        rounds = max(1, -(-rows // (threads * self._block_rows)))
        size = max(1, -(-rows // (rounds * threads)))
        run = map if threads == 1 else workers(threads).map
        list(run(compute, [slice(start, min(start + size, rows)) for start in range(0, rows, size)]))

    def _run(self, inputs: RawArray) -> dict[int, Values]:
        rows = np.asarray(inputs, self.dtype)
        values: dict[int, Values] = {self.graph.input.index: rows.reshape(len(rows), *self.graph.input.shape)}
        for operator in self.graph.operators:
            given = [values[i] for i in computed_inputs(self.graph, operator)]
            values.update(zip(operator.outputs, self.apply_all(operator, given), strict=True))
        return values


def _refused(exc: UnsupportedOperatorError) -> Callable[[Sequence[Values]], Values]:
    def run(inputs: Sequence[Values]) -> Values:
        raise exc

    return run


def computed_inputs(graph: TfliteGraph, operator: Operator) -> list[int]:
    """Tensors that an operator reads and that other operators have computed."""
    return [i for i in operator.inputs if i >= 0 and not graph.tensors[i].constant and not graph.tensors[i].variable]
