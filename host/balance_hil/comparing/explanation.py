"""Names the arithmetic of every int8 runtime of a comparison and the causes of every pair's differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.attribution import Attribution, Observed, attribute
from balance_hil.comparing.evidence import Progress, no_progress
from balance_hil.comparing.identification import Identification, identify, identify_by_outputs
from balance_hil.runtimes.base import Int8Array, LayerTensor
from balance_hil.runtimes.emulated import Variant, rules
from balance_hil.tflite.graph import TfliteGraph

# What the installed desktop runtimes use; anything else, a board above all, is searched for in the whole family.
EXPECTED_VARIANTS: Mapping[str, Variant] = {
    "tflm": rules.TFLM,
    "int8-xnnpack": rules.XNNPACK,
    "int8-builtin": rules.BUILTIN,
    "int8-reference": rules.REFERENCE,
}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The causes of all differences of one comparison."""

    runtimes: Mapping[str, Identification]
    pairs: tuple[Attribution, ...]

    @property
    def unexplained(self) -> int:
        """Differing outputs without a cause, over all pairs."""
        return sum(pair.unexplained for pair in self.pairs)


def explain(
    graph: TfliteGraph,
    inputs: Int8Array,
    outputs: Mapping[str, Int8Array],
    layer_rows: NDArray[np.intp],
    layers: Mapping[str, Sequence[LayerTensor]],
    on_progress: Progress = no_progress,
) -> Explanation:
    """Explains every pair of runtimes.

    A runtime's arithmetic is settled on the rows whose layers are known; then all outputs are explained with it, and each of
    them is checked: a runtime that departs from its arithmetic on one row alone leaves that row unexplained.

    Args:
        graph: of the model that all of them run.
        inputs: int8 [n, n_obs].
        outputs: by runtime, int8 [n, n_act].
        layer_rows: numbers of the rows whose layers are known.
        layers: by runtime, values int8 [len(layer_rows), size]; a runtime may be missing.
        on_progress: told of rows done, counted once for each pair.

    Raises:
        UnsupportedOperatorError: an operator that no emulator knows.
    """
    found = {name: _identify(name, graph, inputs, outputs[name], layer_rows, layers.get(name, ())) for name in outputs}
    observed = {name: Observed(name=name, variant=found[name].closest.variant, outputs=outputs[name]) for name in outputs}
    together = list(combinations(outputs, 2))
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        on_progress("causes", done, len(together) * len(inputs))

    count(0)
    pairs = tuple(attribute(graph, inputs, observed[a], observed[b], on_rows=count) for a, b in together)
    return Explanation(runtimes=found, pairs=pairs)


def _identify(
    name: str,
    graph: TfliteGraph,
    inputs: Int8Array,
    outputs: Int8Array,
    rows: NDArray[np.intp],
    layers: Sequence[LayerTensor],
) -> Identification:
    expected = EXPECTED_VARIANTS.get(name)
    for candidates in ((expected,) if expected else None, None):
        if layers and len(rows):
            found = identify(name, graph, inputs[rows], layers, candidates)
        else:
            found = identify_by_outputs(name, graph, inputs, outputs, candidates)
        if found.variant is not None:
            break
    return found
