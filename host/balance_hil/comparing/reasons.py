"""Why the runtimes of a comparison differ: everything that attribution and identification find in its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from balance_hil.comparing.attribution import Attribution, Observed, attribute
from balance_hil.comparing.evidence import Evidence, Progress, no_progress
from balance_hil.comparing.explanation import explain
from balance_hil.comparing.identification import Identification, identify, separating_inputs
from balance_hil.errors import UnsupportedOperatorError
from balance_hil.runtimes.base import Int8Array, Int8Runtime, LayerTensor
from balance_hil.runtimes.emulated import KNOWN_VARIANTS
from balance_hil.tflite.graph import TfliteGraph

_SEPARATING_SEARCH = 65_536  # random inputs that emulators search for those worth sending to a board
_SEPARATING_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """What is known about the arithmetic of each runtime and the causes of each pair's differences."""

    runtimes: Mapping[str, Identification]
    pairs: Mapping[tuple[str, str], Attribution]  # of all outputs
    layers: Mapping[tuple[str, str], Attribution]  # of every layer, over the evenly spaced rows
    missing: str = ""  # why there is nothing here, "" where there is


def find_reasons(graph: TfliteGraph, evidence: Evidence, on_progress: Progress = no_progress) -> Reasons:
    """Names every int8 runtime's arithmetic and attributes every difference of every pair.

    A model with an operator that no emulator knows gives no reasons; ``missing`` names the operator.
    """
    layers = evidence.layers
    try:
        found = explain(graph, evidence.inputs.int8, evidence.outputs, layers.rows, layers.tensors, on_progress)
    except UnsupportedOperatorError as exc:
        return Reasons(runtimes={}, pairs={}, layers={}, missing=exc.message)
    return Reasons(
        runtimes=found.runtimes,
        pairs={(pair.a, pair.b): pair for pair in found.pairs},
        layers=_layers(graph, evidence, found.runtimes),
    )


def separate(graph: TfliteGraph, evidence: Evidence, reasons: Reasons, runtime: Int8Runtime) -> Reasons:
    """Settles what the evidence leaves open about ``runtime``.

    Where known variants are not yet told apart, inputs that tell them apart are searched for with the emulators, and the
    runtime computes those. Raises what it raises (a lost board).
    """
    name = runtime.name
    known = reasons.runtimes.get(name)
    open_ = [variant for variant in known.unseparated if variant in KNOWN_VARIANTS] if known else []
    if known is None or known.variant is None or not open_ or name not in evidence.layers.tensors:
        return reasons
    probes = separating_inputs(
        graph, [known.variant, *open_], layers=True, rows=_SEPARATING_ROWS, search=_SEPARATING_SEARCH, seed=evidence.inputs.seed
    )
    if not len(probes):
        return reasons
    inputs = np.concatenate([evidence.inputs.int8[evidence.layers.rows], probes])
    layers = _joined(evidence.layers.tensors[name], runtime.layers_int8_batch(probes))
    settled = identify(name, graph, inputs, layers)
    runtimes = {**reasons.runtimes, name: settled}
    if settled.closest.variant == known.closest.variant:
        return replace(reasons, runtimes=runtimes)
    pairs = {
        pair: attribute(graph, evidence.inputs.int8, *(_observed(evidence, runtimes, side) for side in pair))
        if name in pair
        else found
        for pair, found in reasons.pairs.items()
    }
    return replace(reasons, runtimes=runtimes, pairs=pairs, layers=_layers(graph, evidence, runtimes))


def _layers(graph: TfliteGraph, evidence: Evidence, runtimes: Mapping[str, Identification]) -> dict[tuple[str, str], Attribution]:
    """Every pair on the evenly spaced rows alone: counts over rows chosen because they differ would be no rates."""
    layers = evidence.layers
    even = layers.rows[: layers.even]
    if not len(even):
        return {}
    seen = {
        name: replace(
            _observed(evidence, runtimes, name),
            outputs=evidence.outputs[name][even],
            layers=[LayerTensor(t.op, t.operator, t.values[: layers.even]) for t in tensors],
        )
        for name, tensors in layers.tensors.items()
    }
    inputs = evidence.inputs.int8[even]
    return {(a, b): attribute(graph, inputs, seen[a], seen[b]) for a, b in combinations(seen, 2)}


def _observed(evidence: Evidence, runtimes: Mapping[str, Identification], name: str) -> Observed:
    return Observed(name=name, variant=runtimes[name].closest.variant, outputs=evidence.outputs[name])


def _joined(first: Sequence[LayerTensor], second: Sequence[LayerTensor]) -> list[LayerTensor]:
    more: dict[int, Int8Array] = {layer.op: layer.values for layer in second}
    return [LayerTensor(t.op, t.operator, np.concatenate([t.values, more[t.op]])) for t in first if t.op in more]
