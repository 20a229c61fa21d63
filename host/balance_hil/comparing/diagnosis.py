"""What is wrong with the ends of a board's pipeline: how it quantizes, which output it reads, what it makes of it.

Three findings, one for each stage: observation to int8, int8 to int8 (whose arithmetic is identification's business), int8 to
action. Each is exact: a fault is named when its recipe gives every number that the board gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards import Board
from balance_hil.comparing.recipes import InputRecipe, matching_input_recipes, output_recipes
from balance_hil.quantize import QuantParams
from balance_hil.runtimes.base import Float32Array, Int8Array
from balance_hil.runtimes.emulated import EmulatedRuntime

INPUT, MODEL, OUTPUT = "input", "model", "output"
UNKNOWN = "differs in a way that is not known"
_LONGEST_LAG = 4
_SCATTERED = 8  # different values in the place of saturated ones; another limit gives two at most
_UNRELATED = 0.3  # correlation below which outputs have nothing to do with what the model computes


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The verdict on one stage."""

    stage: str  # INPUT, MODEL or OUTPUT
    fault: str  # completes "the board …"; "" where nothing is wrong
    samples: int  # values compared
    differing: int  # of them not what the right recipe gives
    alternatives: tuple[str, ...] = ()  # other faults that give the same numbers on these samples
    advice: str = ""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.fault


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What a board was given and what it said. Rows are in the order in which they were sent."""

    observations: Float32Array  # float32 [n, n_obs]
    inputs: Int8Array  # int8 [n, n_obs], as the board quantized them
    outputs: Int8Array  # int8 [n, n_act]
    actions: Float32Array  # float32 [n, n_act]


def exchange_with(board: Board, observations: Float32Array) -> Exchange:
    """Sends observations, float32 [n, n_obs], to a board and keeps what it said. Raises HarnessError when the board is lost."""
    actions = board.infer_batch(observations)
    return Exchange(
        observations=observations,
        inputs=np.stack([action.input for action in actions]),
        outputs=np.stack([action.output for action in actions]),
        actions=np.stack([action.action for action in actions]),
    )


def diagnose(
    exchange: Exchange, model: EmulatedRuntime, others: Mapping[str, EmulatedRuntime] | None = None
) -> tuple[Finding, ...]:
    """Findings on the three stages, in order.

    Args:
        exchange: with ``probes.probe_observations``; random observations miss rare faults.
        model: the model that the board should run, in the arithmetic that identification found.
        others: further models that it might run by mistake, by name.
    """
    return (
        diagnose_input(exchange.observations, exchange.inputs, model.input_quant, model.output_quant),
        diagnose_model(exchange.inputs, exchange.outputs, model, others or {}),
        diagnose_output(exchange.outputs, exchange.actions, model.output_quant, model.input_quant),
    )


def diagnose_input(
    observations: Float32Array, inputs: Int8Array, quant: QuantParams, other: QuantParams | None = None
) -> Finding:
    """How a board made ``inputs``, int8 [n, n_obs], of ``observations``, float32 [n, n_obs]."""
    right = InputRecipe(params=quant).apply(observations)
    differing = int(np.count_nonzero(right != inputs))
    if not differing:
        return Finding(stage=INPUT, fault="", samples=inputs.size, differing=0)
    fault = _rearranged(right, inputs, "input") or _byte_swapped(observations, inputs, quant)
    if fault:
        return Finding(stage=INPUT, fault=fault, samples=inputs.size, differing=differing)
    # The fewest mistakes that give the same numbers; only recipes with as few are worth naming beside it.
    names = [" and ".join(recipe.faults) for recipe in matching_input_recipes(observations, inputs, quant, other)]
    return _named(
        INPUT, names, inputs.size, differing, "quantize with firmware/lib/quantize: divide, round half away, add, saturate"
    )


def diagnose_model(
    inputs: Int8Array, outputs: Int8Array, model: EmulatedRuntime, others: Mapping[str, EmulatedRuntime] | None = None
) -> Finding:
    """Whether ``outputs``, int8 [n, n_act], are the model's for ``inputs``, int8 [n, n_obs], or something else it holds."""
    right = model.infer_int8_batch(inputs)
    differing = int(np.count_nonzero(right != outputs))
    found = Finding(stage=MODEL, fault="", samples=outputs.size, differing=differing)
    if not differing:
        return found
    names = _first(
        lambda: _rearranged(right, outputs, "output"),
        lambda: _another_tensor(inputs, outputs, model),
        lambda: _another_model(inputs, outputs, others or {}),
        lambda: "always gives the same output" if np.all(outputs == outputs[0]) else "",
        lambda: "wraps the output around instead of saturating" if _wraps(right, outputs) else "",
        lambda: "runs another model" if _unrelated(right, outputs) else "",
    )
    return _named(MODEL, [names] if names else [], outputs.size, differing, "flash the bundle's model: hil flash")


def diagnose_output(outputs: Int8Array, actions: Float32Array, quant: QuantParams, other: QuantParams | None = None) -> Finding:
    """How a board made ``actions``, float32 [n, n_act], of ``outputs``, int8 [n, n_act]."""
    recipes = list(output_recipes(quant, other))
    right = recipes[0].convert(outputs)
    differing = int(np.count_nonzero(_bits(right) != _bits(actions)))
    if not differing:
        return Finding(stage=OUTPUT, fault="", samples=actions.size, differing=0)
    fault = _rearranged(_bits(right), _bits(actions), "action")
    names = [fault] if fault else [r.fault for r in recipes if np.array_equal(_bits(r.convert(outputs)), _bits(actions))]
    return _named(OUTPUT, names, actions.size, differing, "dequantize with firmware/lib/quantize: scale · (q - zero point)")


def _named(stage: str, names: list[str], samples: int, differing: int, advice: str) -> Finding:
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
    for lag in range(1, min(_LONGEST_LAG, len(right) - 1) + 1):
        if np.array_equal(seen[lag:], right[:-lag]):
            return f"gives a stale {what}: that of {lag} request{'s' * (lag > 1)} before"
    sources = [
        next((j for j in range(right.shape[1]) if np.array_equal(seen[:, i], right[:, j])), None) for i in range(seen.shape[1])
    ]
    if None in sources or sources == list(range(len(sources))):
        return ""
    if set(sources) == set(range(right.shape[1])):
        return f"permutes the {what}s: it takes {', '.join(map(str, sources))} for {', '.join(map(str, range(len(sources))))}"
    wrong = [f"{j} for {i}" for i, j in enumerate(sources) if i != j]
    return f"repeats {what}s: it takes {', '.join(wrong)}"


def _byte_swapped(observations: Float32Array, inputs: Int8Array, quant: QuantParams) -> str:
    swapped = np.asarray(observations, np.float32).byteswap()
    finite = np.isfinite(swapped)
    matches = InputRecipe(params=quant).apply(np.where(finite, swapped, 0.0).astype(np.float32)) == inputs
    return "swaps the bytes of the observation" if np.all(matches[finite]) else ""


def _another_tensor(inputs: Int8Array, outputs: Int8Array, model: EmulatedRuntime) -> str:
    """An intermediate tensor, or the input, read in the place of the output."""
    width = outputs.shape[1]
    tensors: Iterable[tuple[str, Int8Array]] = [
        ("the input", inputs),
        *((f"the output of operator {layer.op} ({layer.operator})", layer.values) for layer in model.layers_int8_batch(inputs)),
    ]
    for name, values in tensors:
        for start in range(values.shape[1] - width + 1):
            if np.array_equal(values[:, start : start + width], outputs):
                return f"reads {name}{f' from element {start} on' * (start > 0)} instead of the model's output"
    return ""


def _another_model(inputs: Int8Array, outputs: Int8Array, others: Mapping[str, EmulatedRuntime]) -> str:
    for name, other in others.items():
        if other.n_obs == inputs.shape[1] and np.array_equal(other.infer_int8_batch(inputs), outputs):
            return f"runs the model {name}"
    return ""


def _wraps(right: Int8Array, seen: Int8Array) -> bool:
    """Whether the two differ only where the right one is saturated, and there by a change of sign or by all sorts of numbers.

    What lies beyond saturation by more than 128 steps comes around with its own sign.
    """
    wrong = right != seen
    flipped = np.sign(right[wrong]) != np.sign(seen[wrong])
    scattered = np.any(flipped) and len(np.unique(seen[wrong])) >= _SCATTERED
    limits = (right.min(), right.max())  # a fused activation may saturate before int8 does
    return bool(np.all(np.isin(right[wrong], limits)) and (np.all(flipped) or scattered))


def _unrelated(right: Int8Array, seen: Int8Array) -> bool:
    for i in range(right.shape[1]):
        pair = right[:, i].astype(float), seen[:, i].astype(float)
        if np.std(pair[0]) and np.std(pair[1]) and abs(np.corrcoef(*pair)[0, 1]) > _UNRELATED:
            return False
    return True


def _bits(values: Float32Array) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values, np.float32).view(np.uint32)
