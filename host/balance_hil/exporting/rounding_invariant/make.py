"""Converts an ordinary int8 model to a rounding-invariant one: grid, fine-tuning, flatbuffer, proof, trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.checkpoint import Layer
from balance_hil.checkpoint.actor import act_through
from balance_hil.errors import ExportError
from balance_hil.exporting.rounding_invariant.conditions import Proof, prove
from balance_hil.exporting.rounding_invariant.fine_tuning import FakeQuantNetwork, FineTuned, Samples, fine_tune
from balance_hil.exporting.rounding_invariant.layout import DenseCodes, Grid, Step, read_chain
from balance_hil.exporting.rounding_invariant.scales import choose_grids, choose_weight_exponents
from balance_hil.quantize import INT8_MAX, INT8_MIN
from balance_hil.runtimes import INT8_RUNTIME_NAMES
from balance_hil.runtimes.tflite import TfliteModelRuntime
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.tflite.codec import pack, unpack
from balance_hil.tflite.graph import TfliteGraph, read_graph

FINE_TUNING_STEPS = 2000
AGREEMENT_SAMPLES = 20_000
_FORWARD_SAMPLES = 2_000
_BLOCK_ROWS = 50_000


@dataclass(frozen=True)
class RoundingInvariant:
    """A finished rounding-invariant model and how it was made. Errors are of actions against the float actor's."""

    model: bytes
    proof: Proof
    tuned: FineTuned
    ordinary_rms_error: float  # of the ordinary int8 model on the validation rows
    differing: dict[str, int]  # runtime -> output values that are not TFLM's
    training_rows: int

    def to_dict(self) -> dict[str, Any]:
        """What bundle.json records."""
        return {
            "validation_rms_error_ordinary": self.ordinary_rms_error,
            "validation_rms_error_before_fine_tuning": self.tuned.rms_before,
            "validation_rms_error": self.tuned.rms_after,
            "fine_tuning_steps": FINE_TUNING_STEPS,
            "fine_tuning_rows": self.training_rows,
            "random_inputs": AGREEMENT_SAMPLES,
            "outputs_unlike_tflm": dict(self.differing),
        } | asdict(self.proof)


def make_rounding_invariant(
    layers: Sequence[Layer],
    ordinary: bytes,
    training: Samples,
    calibration: NDArray[np.float32],
    seed: int,
    progress: Callable[[float], None] = lambda done: None,
) -> RoundingInvariant:
    """Makes the model, proves its conditions and compares the runtimes.

    Args:
        layers: of the float teacher.
        ordinary: bytes of its ordinary int8 ``.tflite``: gives operators, names and shapes.
        training: rows to fine-tune on.
        calibration: float32 [n, n_obs]: sets the grid and chooses the best network of the run.
        seed: of the fine-tuning and of the random inputs.
        progress: receives how much of the fine-tuning is done, 0..1.

    Raises:
        ExportError: the model has an operator that is not known, does not meet the conditions, or a runtime disagrees.
        MissingExtraError: torch, tflite-micro or ai-edge-litert is not installed.
    """
    graph = read_graph(ordinary)
    steps = read_chain(graph)
    _check_shapes(graph, steps, layers)
    given, grids, network = _network(steps, layers, calibration)
    validation = Samples(calibration, act_through(layers, calibration))
    tuned = fine_tune(network, given, training, validation, steps=FINE_TUNING_STEPS, seed=seed, progress=progress)
    model = write_flatbuffer(ordinary, graph, steps, given, grids, tuned.layers)
    proof = prove(model)
    _check_forward(network, tuned, model, seed)
    differing = check_agreement(model, AGREEMENT_SAMPLES, seed)
    error = TflmRuntime(ordinary).act_batch(calibration).astype(np.float64) - validation.actions
    return RoundingInvariant(model, proof, tuned, float(np.sqrt(np.mean(error**2))), differing, len(training.observations))


def _network(
    steps: tuple[Step, ...], layers: Sequence[Layer], calibration: NDArray[np.float32]
) -> tuple[Grid, tuple[Grid, ...], FakeQuantNetwork]:
    weights = [np.asarray(layer.weight, np.float64) for layer in layers]
    biases = [np.asarray(layer.bias, np.float64) for layer in layers]
    given, grids = choose_grids(steps, weights, biases, calibration.astype(np.float64))
    inputs = [given, *grids]
    dense = [(i, step) for i, step in enumerate(steps) if step.dense]
    exponents = [
        choose_weight_exponents(w, b, inputs[i], grids[i], per_channel=step.per_channel)
        for (i, step), w, b in zip(dense, weights, biases, strict=True)
    ]
    return given, grids, FakeQuantNetwork(steps, given, grids, weights, biases, exponents)


def _check_shapes(graph: TfliteGraph, steps: tuple[Step, ...], layers: Sequence[Layer]) -> None:
    found = [graph.tensors[step.weight].shape for step in steps if step.dense]
    if found != [layer.weight.shape for layer in layers]:
        raise ExportError(
            f"the int8 model has dense layers of {found}, the actor of {[layer.weight.shape for layer in layers]}",
            "export it without --rounding-invariant",
        )


def _check_forward(network: FakeQuantNetwork, tuned: FineTuned, model: bytes, seed: int) -> None:
    """The fine-tuned network and the written model must be one and the same."""
    runtime = TflmRuntime(model)
    inputs = np.random.default_rng(seed).integers(INT8_MIN, INT8_MAX + 1, (_FORWARD_SAMPLES, runtime.n_obs)).astype(np.int8)
    wrong = int(np.count_nonzero(network.infer_raw_batch(inputs, tuned.layers) != runtime.infer_raw_batch(inputs)))
    if wrong:
        raise ExportError(
            f"the fine-tuned network and the written model differ in {wrong} outputs of {_FORWARD_SAMPLES} inputs",
            "report this with the checkpoint attached",
        )


def differing_outputs(model: bytes, samples: int, seed: int) -> dict[str, int]:
    """How many of ``samples`` · n_act output values of each runtime are not TFLM's, for inputs uniform over all int8 codes."""
    reference = TflmRuntime(model)
    others = {name: TfliteModelRuntime(name, model) for name in INT8_RUNTIME_NAMES if name != "tflm"}
    counts = dict.fromkeys(others, 0)
    rng = np.random.default_rng(seed)
    for start in range(0, samples, _BLOCK_ROWS):
        shape = (min(_BLOCK_ROWS, samples - start), reference.n_obs)
        block = rng.integers(INT8_MIN, INT8_MAX + 1, shape).astype(np.int8)
        expected = reference.infer_raw_batch(block)
        for name, runtime in others.items():
            counts[name] += int(np.count_nonzero(runtime.infer_raw_batch(block) != expected))
    return counts


def check_agreement(model: bytes, samples: int, seed: int) -> dict[str, int]:
    """Like ``differing_outputs``; raises ExportError when anything differs."""
    counts = differing_outputs(model, samples, seed)
    if any(counts.values()):
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ExportError(
            f"outputs of the rounding-invariant model differ from TFLM's on {samples} random inputs ({found})",
            "report this with the installed versions: hil doctor",
        )
    return counts


def write_flatbuffer(
    ordinary: bytes,
    graph: TfliteGraph,
    steps: tuple[Step, ...],
    given: Grid,
    grids: tuple[Grid, ...],
    layers: tuple[DenseCodes, ...],
) -> bytes:
    """The ordinary model with other constants and scales; operators, names and shapes stay as they are.

    ``given`` is the grid of the input, ``grids`` and ``layers`` are those of the steps and dense steps.

    Raises:
        MissingExtraError: ``ai_edge_litert`` is not installed.
    """
    parsed = unpack(ordinary)
    tensors = parsed.subgraphs[0].tensors
    _set_grid(tensors[graph.input.index], given)
    following = iter(layers)
    for step, grid in zip(steps, grids, strict=True):
        _set_grid(tensors[step.output], grid)
        if step.dense:
            layer = next(following)
            scales = np.ldexp(1.0, layer.exponents)
            kept = slice(None) if step.per_channel else slice(1)
            _set_constant(parsed, tensors[step.weight], layer.weights, scales[kept])
            _set_constant(parsed, tensors[step.bias], layer.bias, (scales * given.scale)[kept])
        given = grid
    return pack(parsed)


def _set_grid(tensor: Any, grid: Grid) -> None:
    _set_scales(tensor, np.array([grid.scale]))
    tensor.quantization.zeroPoint = np.array([grid.zero_point], np.int64)


def _set_constant(parsed: Any, tensor: Any, values: NDArray[Any], scales: NDArray[np.float64]) -> None:
    _set_scales(tensor, scales)
    buffer = type(parsed.buffers[0])()  # a new one: the converter lets equal constants share theirs
    buffer.data = np.frombuffer(values.astype(values.dtype.newbyteorder("<")).tobytes(), np.uint8)
    used = [t.buffer for t in parsed.subgraphs[0].tensors]
    if used.count(tensor.buffer) == 1:
        parsed.buffers[tensor.buffer] = buffer
    else:
        tensor.buffer = len(parsed.buffers)
        parsed.buffers.append(buffer)


def _set_scales(tensor: Any, scales: NDArray[np.float64]) -> None:
    tensor.quantization.scale = scales.astype(np.float32)
    tensor.quantization.min = tensor.quantization.max = None  # of the ordinary model; nothing reads them
