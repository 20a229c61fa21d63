"""Identifies the arithmetic of a runtime by comparing its results with the whole family of emulators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.samples import Samples
from balance_hil.quantize import RawArray
from balance_hil.runtimes.base import LayerTensor
from balance_hil.runtimes.emulated import KNOWN_VARIANTS, EmulatedRuntime, Variant, family, rules
from balance_hil.runtimes.emulated.interpreter import computed_inputs
from balance_hil.tflite.graph import TfliteGraph

# What the installed desktop runtimes use; anything else, a board above all, is searched for in the whole family.
EXPECTED_VARIANTS: Mapping[str, Variant] = {
    "tflm": rules.TFLM,
    "int8-xnnpack": rules.XNNPACK,
    "int8-builtin": rules.BUILTIN,
    "int8-reference": rules.REFERENCE,
    "int16x8-builtin": rules.BUILTIN,
    "int16x8-reference": rules.REFERENCE,
}
_SEARCH_BLOCK_ROWS = 16_384
_SEARCH_BLOCK_VALUES = 1 << 24  # of all layers
_SEARCH_VALUES = 1 << 27


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well one variant reproduces a runtime's results."""

    variant: Variant
    mismatches: int  # values that the variant computes otherwise
    values: int  # values compared
    first_op: int | None  # first operator with a mismatch


@dataclass(frozen=True, kw_only=True)
class Identification:
    """The verdict on one runtime."""

    runtime: str
    samples: int  # number of inputs compared
    scores: tuple[Score, ...]  # every variant, best first; among equals the known ones first
    groups: tuple[tuple[Variant, ...], ...]  # variants without a mismatch; those of a group compute this model alike always

    @property
    def variant(self) -> Variant | None:
        """The variant without a mismatch, the best known of several; None: no variant computes what the runtime computed."""
        return self.groups[0][0] if self.groups else None

    @property
    def closest(self) -> Score:
        """The best score, exact or not."""
        return self.scores[0]

    @property
    def unseparated(self) -> tuple[Variant, ...]:
        """Variants that may still be told from ``variant`` by more samples: one of each group."""
        return tuple(group[0] for group in self.groups[1:])

    @property
    def verdict(self) -> str:
        """The verdict as one sentence."""
        if self.variant is None:
            best = self.closest
            share = f"{best.mismatches} of {best.values} values differ"
            return f"{self.runtime} computes like no known variant; the closest is {best.variant.name} ({share})"
        text = f"{self.runtime} computes like {self.variant.title} ({self.variant.name})"
        others = [variant.name for variant in self.unseparated if variant in KNOWN_VARIANTS]
        if others:
            text += f" or like {', '.join(others)}"
        text += f": 0 of {self.closest.values} values on {self.samples} inputs differ"
        if others:
            text += "; ask for more to tell them apart (--samples, --layer-samples)"
        alike = [variant.name for variant in self.groups[0][1:] if variant in KNOWN_VARIANTS]
        if alike:
            text += f"; {', '.join(alike)} compute{'s' * (len(alike) == 1)} this model in the same way"
        return text

    @property
    def advice(self) -> str:
        """Suggested fix, "" if nothing is wrong."""
        return self.variant.advice if self.variant else ""


def identify_all(graph: TfliteGraph, samples: Samples) -> dict[str, Identification]:
    """The arithmetic of every runtime of the model: from its layers where they were fetched, else from its outputs.

    Raises:
        UnsupportedOperatorError: an operator that nobody emulates, and no layers.
    """
    found = {}
    for name, outputs in samples.outputs.items():
        expected, layers = EXPECTED_VARIANTS.get(name), samples.trace.tensors.get(name)
        for candidates in ((expected,) if expected else None, None):
            if layers:
                found[name] = identify(name, graph, samples.trace.inputs, layers, candidates)
            else:
                found[name] = identify_by_outputs(name, graph, samples.inputs.raw, outputs, candidates)
            if found[name].variant is not None:
                break
    return found


def identify(
    runtime: str,
    graph: TfliteGraph,
    inputs: RawArray,
    layers: Sequence[LayerTensor],
    candidates: Iterable[Variant] | None = None,
) -> Identification:
    """Finds the variants that compute every layer of a runtime from that runtime's own layer inputs.

    Args:
        runtime: its name, for the verdict.
        graph: of the model.
        inputs: raw [n, n_obs].
        layers: output of the operators for ``inputs``; one that the runtime hides is computed by each variant itself.
        candidates: variants to try, the preferred ones first; None: the whole family.

    Raises:
        UnsupportedOperatorError: an operator that nobody emulates, and whose output is not among ``layers``.
    """
    known = {graph.operators[layer.op].outputs[0]: layer.values for layer in layers}
    return _identify(runtime, graph, inputs, known, candidates)


def _identify(
    runtime: str, graph: TfliteGraph, inputs: RawArray, known: Mapping[int, RawArray], candidates: Iterable[Variant] | None
) -> Identification:
    variants = family() if candidates is None else candidates
    emulators = [EmulatedRuntime(graph, variant, partial=True) for variant in variants]
    scores = [_score(emulator, inputs, known) for emulator in emulators]
    return _verdict(runtime, len(inputs), emulators, scores)


def identify_by_outputs(
    runtime: str, graph: TfliteGraph, inputs: RawArray, outputs: RawArray, candidates: Iterable[Variant] | None = None
) -> Identification:
    """The same from final outputs, raw [n, n_act], alone: for a runtime that exposes no layers. It needs more samples."""
    return _identify(runtime, graph, inputs, {graph.output.index: outputs}, candidates)


def separating_inputs(
    graph: TfliteGraph,
    variants: Sequence[Variant] = KNOWN_VARIANTS,
    *,
    layers: bool = True,
    rows: int = 64,
    search: int = 65_536,
    seed: int = 0,
) -> RawArray:
    """Inputs, raw [n, n_obs] with n up to ``rows``, that distinguish ``variants``, selected from ``search`` random ones.

    Emulators are much faster than boards: searching many inputs here leaves only a few for the board. A pair of variants
    without a row computes the same on every input searched.

    Args:
        graph: of the model.
        variants: to be told apart.
        layers: whether the runtime exposes its layers; otherwise its outputs must differ.
        rows: most rows to return.
        search: how many random inputs to try.
        seed: of the random inputs.

    Raises:
        UnsupportedOperatorError: an operator that no emulator supports.
    """
    emulators = [EmulatedRuntime(graph, variant) for variant in variants]
    rng, kind = np.random.default_rng(seed), graph.kind
    found: dict[tuple[int, int], list[RawArray]] = {
        pair: [] for pair in combinations(range(len(emulators)), 2) if not _alike(emulators, pair)
    }
    share = max(1, rows // max(1, len(found)))
    sizes = sum(tensor.size for tensor in graph.tensors if not tensor.constant)
    search = max(1, min(search, _SEARCH_VALUES // sizes))
    block = max(1, min(_SEARCH_BLOCK_ROWS, _SEARCH_BLOCK_VALUES // sizes))
    for start in range(0, search, block):
        missing = [pair for pair, chosen in found.items() if len(chosen) < share]
        if not missing:
            break
        inputs = rng.integers(kind.low, kind.high, (min(block, search - start), graph.n_obs), kind.dtype, endpoint=True)
        shown = {i: _shown(emulators[i], inputs, layers) for i in sorted({i for pair in missing for i in pair})}
        for a, b in missing:
            differing = np.flatnonzero(np.any(shown[a] != shown[b], axis=1))
            found[a, b].extend(inputs[differing[: share - len(found[a, b])]])
    chosen = [row for pair_rows in found.values() for row in pair_rows]
    return np.array(chosen[:rows], kind.dtype).reshape(-1, graph.n_obs)


def _alike(emulators: Sequence[EmulatedRuntime], pair: tuple[int, int]) -> bool:
    return emulators[pair[0]].arithmetic() == emulators[pair[1]].arithmetic()


def _shown(emulator: EmulatedRuntime, inputs: RawArray, layers: bool) -> RawArray:
    if not layers:
        return emulator.infer_raw_batch(inputs)
    return np.concatenate([layer.values for layer in emulator.layers_raw_batch(inputs)], axis=1)


def _score(emulator: EmulatedRuntime, inputs: RawArray, known: Mapping[int, RawArray]) -> Score:
    graph = emulator.graph
    tensors: dict[int, NDArray[Any]] = {graph.input.index: inputs.reshape(-1, *graph.input.shape)}
    mismatches = values = 0
    first = None
    for operator in graph.operators:
        shown = operator.index in emulator.unsupported and operator.outputs[0] in known
        given = [] if shown else emulator.apply_all(operator, [tensors[i] for i in computed_inputs(graph, operator)])
        tensors.update(zip(operator.outputs, given, strict=False))
        for index in operator.outputs:
            target, real = graph.tensors[index], known.get(index)
            if real is None or not graph.shows(operator):
                continue
            right = real.reshape(-1, *target.shape)
            wrong = 0 if shown else int(np.count_nonzero(tensors[index] != right))
            tensors[index] = right
            values += 0 if shown else real.size
            mismatches += wrong
            first = operator.index if wrong and first is None else first
    return Score(variant=emulator.variant, mismatches=mismatches, values=values, first_op=first)


def _verdict(runtime: str, samples: int, emulators: Sequence[EmulatedRuntime], scores: Sequence[Score]) -> Identification:
    groups: dict[object, list[Variant]] = {}
    for emulator, score in zip(emulators, scores, strict=True):
        if score.mismatches == 0:
            groups.setdefault(emulator.arithmetic(), []).append(emulator.variant)
    return Identification(
        runtime=runtime,
        samples=samples,
        scores=tuple(sorted(scores, key=lambda score: score.mismatches)),  # stable: candidates come in order of preference
        groups=tuple(tuple(group) for group in groups.values()),
    )
