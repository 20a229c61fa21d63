"""Faults at the input and output of a board's pipeline: how it converts observations and outputs, and which output it reads.

The board receives observations that expose every known conversion fault. There is one finding per stage: normalization
where the policy has one, observation to raw input, input to output (whose arithmetic is identified elsewhere), output to
action. Findings are exact: a fault is named only if its variant reproduces every number that the board returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards import Board
from balance_hil.comparing.conversion_variants import (
    InputConversion,
    matching_input_conversions,
    output_conversions,
    probe_observations,
    wrong_normalizations,
)
from balance_hil.comparing.model_under_test import ModelUnderTest
from balance_hil.errors import HarnessError, UnsupportedOperatorError
from balance_hil.quantize import Float32Array, Normalization, QuantParams, RawArray, bits_of, dequantize, quantize
from balance_hil.runtimes.emulated import EmulatedRuntime, Variant
from balance_hil.runtimes.emulated.rules import TFLM

NORMALIZATION, INPUT, MODEL, OUTPUT = "normalization", "input", "model", "output"
UNKNOWN = "differs in a way that is not known"
_LONGEST_LAG = 4
_BIASED = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
_SCATTERED = 8  # different values in the place of saturated ones; another limit gives two at most
_UNRELATED = 0.3  # correlation below which outputs count as unrelated to those of the model


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The verdict on one stage."""

    stage: str  # NORMALIZATION, INPUT, MODEL or OUTPUT
    fault: str  # completes "the board …"; "" where nothing is wrong
    samples: int  # values compared
    differing: int  # of them, how many differ from the correct conversion
    alternatives: tuple[str, ...] = ()  # other faults that give the same numbers on these samples
    advice: str = ""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.fault

    @property
    def unknown_conversion(self) -> bool:
        """Whether a conversion has an unidentified fault."""
        return self.fault == UNKNOWN and self.stage != MODEL


@dataclass(frozen=True, kw_only=True)
class BoardIo:
    """The board's own conversions of float32 observations and raw outputs, against the host's."""

    observations: int
    input_differing: int  # raw inputs that the board made otherwise
    action_differing: int  # float32 actions that are not its own raw output dequantized


@dataclass(frozen=True, kw_only=True)
class BoardInspection:
    """Result of sending float32 observations to a board."""

    io: BoardIo
    findings: tuple[Finding, ...]  # one for each stage, in order; () where the model cannot be emulated


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Observations sent to a board and its replies, row by row in the order sent."""

    observations: Float32Array  # float32 [n, n_obs]
    inputs: RawArray  # [n, n_obs], as the board quantized them
    outputs: RawArray  # [n, n_act]
    actions: Float32Array  # float32 [n, n_act]


def inspect_board(
    board: Board, model: ModelUnderTest, observations: Float32Array, variant: Variant | None, seed: int
) -> BoardInspection:
    """Sends ``observations``, float32 [n, n_obs], and probes as floats, and compares what came back with the host's conversions.

    Args:
        board: connected.
        model: that it should run.
        observations: recorded ones.
        variant: the board's arithmetic where it was identified, None where not.
        seed: of the probes.

    Raises:
        HarnessError: the board is lost.
    """
    quant, normalization = model.graph.input_quant, model.normalization
    probes = probe_observations(quant, model.graph.n_obs, normalization=normalization, seed=seed)
    sent = np.concatenate([observations, probes])
    actions = board.infer_batch(sent)
    exchange = Exchange(
        observations=sent,
        inputs=np.stack([action.input for action in actions]),
        outputs=np.stack([action.output for action in actions]),
        actions=np.stack([action.action for action in actions]),
    )
    right = quantize(sent, quant, normalization)
    io = BoardIo(
        observations=len(sent),
        input_differing=int(np.count_nonzero(bits_of(exchange.inputs) != bits_of(right))),
        action_differing=int(np.count_nonzero(exchange.actions != dequantize(exchange.outputs, model.graph.output_quant))),
    )
    return BoardInspection(io=io, findings=_findings(exchange, model, variant or TFLM))


def _findings(exchange: Exchange, model: ModelUnderTest, variant: Variant) -> tuple[Finding, ...]:
    try:
        emulator = EmulatedRuntime(model.graph, variant)
    except UnsupportedOperatorError:
        return ()
    others = {}
    for name, other in model.neighbors().items():
        try:
            others[name] = EmulatedRuntime(other, variant)
        except HarnessError:
            continue  # a candidate that cannot be emulated cannot be recognized
    return diagnose(exchange, emulator, others, model.normalization)


def diagnose(
    exchange: Exchange,
    model: EmulatedRuntime,
    others: Mapping[str, EmulatedRuntime] | None = None,
    normalization: Normalization | None = None,
) -> tuple[Finding, ...]:
    """Findings on the stages, in order.

    Args:
        exchange: with ``probe_observations``; random observations miss rare faults.
        model: the model that the board should run, in the arithmetic that identification found.
        others: further models that it might run by mistake, by name.
        normalization: of observations, before they are quantized.
    """
    return (
        *diagnose_input(exchange.observations, exchange.inputs, model.input_quant, model.output_quant, normalization),
        diagnose_model(exchange.inputs, exchange.outputs, model, others or {}),
        diagnose_output(exchange.outputs, exchange.actions, model.output_quant, model.input_quant),
    )


def diagnose_input(
    observations: Float32Array,
    inputs: RawArray,
    quant: QuantParams,
    other: QuantParams | None = None,
    normalization: Normalization | None = None,
) -> tuple[Finding, ...]:
    """How a board made ``inputs``, raw [n, n_obs], of ``observations``, float32 [n, n_obs].

    Args:
        observations: that it was given.
        inputs: that it gave its model.
        quant: right parameters.
        other: parameters that it might take by mistake.
        normalization: of the observations; then the first of two findings is on it, else there is one.
    """
    normalized = normalization.apply(observations) if normalization else observations
    differing = int(np.count_nonzero(quantize(normalized, quant) != inputs))
    wrong: list[str] = []
    if differing and normalization:
        wrong = [name for name, apply in wrong_normalizations(normalization) if _gives(apply(observations), quant, inputs)]
    stages = []
    if normalization:
        advice = "normalize with firmware/lib/quantize: subtract, multiply, clip, each in float32"
        stages.append(_named(NORMALIZATION, wrong, inputs.size, differing if wrong else 0, advice))
    names: list[str] = []
    if differing and not wrong:
        fault = _misplaced(observations, inputs, quant, normalization) or _byte_swapped(
            observations, inputs, quant, normalization
        )
        # The fewest mistakes that give the same numbers; only variants with as few are worth naming beside it.
        matching = [] if fault else matching_input_conversions(normalized, inputs, quant, other)
        names = [fault] if fault else [" and ".join(conversion.faults) for conversion in matching]
    advice = "quantize with firmware/lib/quantize: divide, round half away, add, saturate"
    return (*stages, _named(INPUT, names, inputs.size, 0 if wrong else differing, advice))


def _gives(values: Float32Array, quant: QuantParams, inputs: RawArray) -> bool:
    return np.array_equal(InputConversion(params=quant).apply(values), inputs)


def diagnose_model(
    inputs: RawArray, outputs: RawArray, model: EmulatedRuntime, others: Mapping[str, EmulatedRuntime] | None = None
) -> Finding:
    """Whether ``outputs``, raw [n, n_act], are the model's for ``inputs``, raw [n, n_obs], or something else it holds."""
    right = model.infer_raw_batch(inputs)
    differing = int(np.count_nonzero(right != outputs))
    name = differing and _first(
        lambda: _rearranged(right, outputs, "output"),
        lambda: _another_tensor(inputs, outputs, model),
        lambda: _another_model(inputs, outputs, others or {}),
        lambda: _part_omitted(inputs, outputs, model),
        lambda: "always gives the same output" if np.all(outputs == outputs[0]) else "",
        lambda: "wraps the output around instead of saturating" if _wraps(right, outputs) else "",
        lambda: "runs another model" if _unrelated(right, outputs) else "",
    )
    return _named(MODEL, [name] if name else [], outputs.size, differing, "flash the bundle's model: hil flash")


def diagnose_output(outputs: RawArray, actions: Float32Array, quant: QuantParams, other: QuantParams | None = None) -> Finding:
    """How a board made ``actions``, float32 [n, n_act], of ``outputs``, raw [n, n_act]."""
    variants = list(output_conversions(quant, other))
    right = variants[0].convert(outputs)
    differing = int(np.count_nonzero(bits_of(right) != bits_of(actions)))
    fault = _rearranged(bits_of(right), bits_of(actions), "action") if differing else ""
    names = [fault] if fault else [v.fault for v in variants if np.array_equal(bits_of(v.convert(outputs)), bits_of(actions))]
    return _named(OUTPUT, names, actions.size, differing, "dequantize with firmware/lib/quantize: scale · (q - zero point)")


def _named(stage: str, names: list[str], samples: int, differing: int, advice: str) -> Finding:
    """The finding on a stage: healthy if nothing differs, else called by the first of ``names``."""
    if not differing:
        return Finding(stage=stage, fault="", samples=samples, differing=0)
    return Finding(
        stage=stage,
        fault=names[0] if names else UNKNOWN,
        samples=samples,
        differing=differing,
        alternatives=tuple(dict.fromkeys(name for name in names[1:] if name != names[0])),
        advice=advice,
    )


def _first(*tests: Callable[[], str]) -> str:
    return next((name for name in (test() for test in tests) if name), "")


def _rearranged(right: NDArray[np.generic], seen: NDArray[np.generic], what: str) -> str:
    """Right numbers in the wrong place: elements of a row, or rows."""
    return _in_wrong_place(right, lambda target: right, seen, what)


def _misplaced(observations: Float32Array, inputs: RawArray, quant: QuantParams, by: Normalization | None) -> str:
    """The same of observations, each of which is converted as the element that it is taken for."""
    right = quantize(observations, quant, by)
    if by is None:
        return _rearranged(right, inputs, "input")
    count = observations.shape[1]

    def taken_for(target: int) -> RawArray:
        one = Normalization(np.full(count, by.mean[target]), np.full(count, by.inverse_std[target]), by.clip)
        return quantize(observations, quant, one)

    return _in_wrong_place(right, taken_for, inputs, "input")


def _in_wrong_place(
    right: NDArray[np.generic], taken_for: Callable[[int], NDArray[np.generic]], seen: NDArray[np.generic], what: str
) -> str:
    """``taken_for(i)``: every element, [n, size], converted as element i."""
    for lag in range(1, min(_LONGEST_LAG, len(right) - 1) + 1):
        if np.array_equal(seen[lag:], right[:-lag]):
            return f"gives a stale {what}: that of {lag} request{'s' * (lag > 1)} before"
    sources: list[int] = []
    for i in range(seen.shape[1]):
        candidates = taken_for(i)
        source = next((j for j in range(right.shape[1]) if np.array_equal(seen[:, i], candidates[:, j])), None)
        if source is None:
            return ""
        sources.append(source)
    if sources == list(range(len(sources))):
        return ""
    if set(sources) == set(range(right.shape[1])):
        return f"permutes the {what}s: it takes {', '.join(map(str, sources))} for {', '.join(map(str, range(len(sources))))}"
    wrong = [f"{j} for {i}" for i, j in enumerate(sources) if i != j]
    return f"repeats {what}s: it takes {', '.join(wrong)}"


def _byte_swapped(observations: Float32Array, inputs: RawArray, quant: QuantParams, by: Normalization | None) -> str:
    swapped = np.asarray(observations, np.float32).byteswap()
    finite = np.isfinite(swapped)
    values = np.where(finite, swapped, 0.0).astype(np.float32)
    matches = InputConversion(params=quant).apply(by.apply(values) if by else values) == inputs
    return "swaps the bytes of the observation" if np.all(matches[finite]) else ""


def _another_tensor(inputs: RawArray, outputs: RawArray, model: EmulatedRuntime) -> str:
    """An intermediate tensor, or the input, read in the place of the output."""
    width = outputs.shape[1]
    tensors: Iterable[tuple[str, RawArray]] = [
        ("the input", inputs),
        *((f"the output of operator {layer.op} ({layer.operator})", layer.values) for layer in model.layers_raw_batch(inputs)),
    ]
    for name, values in tensors:
        for start in range(values.shape[1] - width + 1):
            if np.array_equal(values[:, start : start + width], outputs):
                return f"reads {name}{f' from element {start} on' * (start > 0)} instead of the model's output"
    return ""


def _another_model(inputs: RawArray, outputs: RawArray, others: Mapping[str, EmulatedRuntime]) -> str:
    for name, other in others.items():
        if other.n_obs == inputs.shape[1] and np.array_equal(other.infer_raw_batch(inputs), outputs):
            return f"runs the model {name}"
    return ""


def _part_omitted(inputs: RawArray, outputs: RawArray, model: EmulatedRuntime) -> str:
    """Biases or fused activations, of all operators."""
    graph = model.graph
    biases = {operator.inputs[2] for operator in graph.operators if operator.name in _BIASED and len(operator.inputs) > 2}
    without = {
        "omits the biases": replace(
            graph,
            tensors=tuple(
                replace(tensor, data=np.zeros_like(tensor.data)) if tensor.index in biases and tensor.data is not None else tensor
                for tensor in graph.tensors
            ),
        ),
        "omits the fused activations": replace(
            graph, operators=tuple(replace(operator, activation="NONE") for operator in graph.operators)
        ),
    }
    return next(
        (
            name
            for name, part in without.items()
            if np.array_equal(EmulatedRuntime(part, model.variant).infer_raw_batch(inputs), outputs)
        ),
        "",
    )


def _wraps(right: RawArray, seen: RawArray) -> bool:
    """Whether the two differ only where the right one is saturated, and there by a change of sign or by all sorts of numbers.

    A value that exceeds the int8 range by more than 128 steps wraps around to its original sign.
    """
    wrong = right != seen
    flipped = np.sign(right[wrong]) != np.sign(seen[wrong])
    scattered = np.any(flipped) and len(np.unique(seen[wrong])) >= _SCATTERED
    limits = (right.min(), right.max())  # a fused activation may saturate before int8 does
    return bool(np.all(np.isin(right[wrong], limits)) and (np.all(flipped) or scattered))


def _unrelated(right: RawArray, seen: RawArray) -> bool:
    for i in range(right.shape[1]):
        pair = right[:, i].astype(float), seen[:, i].astype(float)
        if np.std(pair[0]) and np.std(pair[1]) and abs(np.corrcoef(*pair)[0, 1]) > _UNRELATED:
            return False
    return True
