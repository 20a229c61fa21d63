"""Counts the differences in the samples of a comparison and merges them with the causes found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.attribution import PairAttribution, per_channel
from balance_hil.comparing.board_io import MODEL, UNKNOWN, BoardInspection, Finding
from balance_hil.comparing.comparison import (
    BOARD,
    FLOAT32_STEPS,
    FLOAT32_SUMS,
    FLOAT_LADDER,
    REFERENCE,
    Arithmetic,
    Comparison,
    IoDifference,
    LadderStep,
    LayerDifference,
    PairDifference,
)
from balance_hil.comparing.identification import Identification
from balance_hil.comparing.samples import Samples
from balance_hil.quantize import INT8, RawArray
from balance_hil.runtimes.base import LayerTensor
from balance_hil.tflite.graph import TfliteGraph

_REASONS = ("new", "propagated", "unexplained", "max_new_lsb", "new_channels")  # fields of LayerAttribution and LayerDifference


def summarize(
    samples: Samples,
    *,
    model_id: str,
    board: str | None = None,
    skipped: Mapping[str, str] | None = None,
    arithmetics: Mapping[str, Identification] | None = None,
    attributions: Mapping[tuple[str, str], PairAttribution] | None = None,
    not_attributed: str = "",
    inspection: BoardInspection | None = None,
    float_io: Sequence[IoDifference] = (),
    graph: TfliteGraph | None = None,
) -> Comparison:
    """Counts what differs in ``samples``; without ``attributions`` causes are open, without ``graph`` elements are channels."""
    inputs, outputs = samples.inputs, samples.outputs
    equal = None
    if BOARD in outputs and REFERENCE in outputs:
        equal = bool(np.all(_distance(outputs[BOARD], outputs[REFERENCE]) <= _tolerance(outputs[BOARD])))
    findings = inspection.findings if inspection else ()
    return Comparison(
        model=model_id,
        board=board,
        inputs=len(inputs),
        random=inputs.random,
        recorded=inputs.recorded,
        recorded_from=inputs.source,
        seed=inputs.seed,
        runtimes=tuple(samples.actions),
        skipped=dict(skipped or {}),
        pairs=tuple(_pair(samples, a, b, attributions, findings) for a, b in combinations(outputs, 2)),
        ladder=tuple(_ladder(samples)),
        layers=tuple(_layer_differences(samples, attributions or {}, graph)),
        layer_inputs=samples.trace.even,
        board_io=inspection.io if inspection else None,
        board_equals_tflm=equal,
        arithmetics=tuple(_arithmetic(found) for found in (arithmetics or {}).values()),
        findings=tuple(findings),
        float_io=tuple(float_io),
        not_attributed=not_attributed,
        element_type=graph.kind.name if graph else INT8.name,
        hidden_layers=tuple(f"{op.index} {op.name}" for op in graph.operators if not graph.shows(op)) if graph else (),
    )


def _pair(
    samples: Samples,
    a: str,
    b: str,
    attributions: Mapping[tuple[str, str], PairAttribution] | None,
    findings: Sequence[Finding],
) -> PairDifference:
    distance = _distance(samples.outputs[a], samples.outputs[b])
    differing = int(np.count_nonzero(distance))
    within = distance <= _tolerance(samples.outputs[a])
    split, seen = samples.inputs.random, len(samples.trace.rows)
    layers = _same_operators(samples.trace.tensors.get(a, ()), samples.trace.tensors.get(b, ()))
    first = next((x for x, y in layers if not np.array_equal(x.values[:seen], y.values[:seen])), None)
    causes, unexplained = (None, None) if attributions is None else _causes((a, b), differing, attributions, findings)
    if samples.outputs[a].dtype == np.float32:
        close = int(np.count_nonzero(within & (distance > 0)))
        causes, unexplained = {FLOAT32_SUMS: close} if close else {}, differing - close
    return PairDifference(
        a=a,
        b=b,
        outputs=distance.size,
        differing=differing,
        max_lsb=int(np.ceil(distance.max(initial=0))),
        differing_random=int(np.count_nonzero(distance[:split])),
        differing_recorded=int(np.count_nonzero(distance[split:])),
        first_layer=first.op if first else None,
        first_operator=first.operator if first else None,
        causes=causes,
        unexplained=unexplained,
    )


def _causes(
    pair: tuple[str, str],
    differing: int,
    attributions: Mapping[tuple[str, str], PairAttribution],
    findings: Sequence[Finding],
) -> tuple[Mapping[str, int], int]:
    """Causes with their counts, and how many values have none."""
    found = attributions[pair].outputs if pair in attributions else None
    if found is None:
        return {}, differing
    # A difference without an arithmetic cause may be a board fault that the I/O check has identified.
    fault = next((f.fault for f in findings if f.stage == MODEL and not f.healthy and f.fault != UNKNOWN), "")
    if fault and found.unexplained and BOARD in pair:
        return {**found.causes, f"the board {fault}": found.unexplained}, 0
    return dict(found.causes), found.unexplained


def _arithmetic(found: Identification) -> Arithmetic:
    return Arithmetic(
        runtime=found.runtime,
        variant=found.variant.name if found.variant else None,
        title=found.variant.title if found.variant else "",
        samples=found.samples,
        values=found.closest.values,
        mismatches=found.closest.mismatches,
        unseparated=tuple(variant.name for variant in found.unseparated),
        verdict=found.verdict,
        advice=found.advice,
    )


def _layer_differences(
    samples: Samples, attributions: Mapping[tuple[str, str], PairAttribution], graph: TfliteGraph | None
) -> Iterator[LayerDifference]:
    trace = samples.trace
    for pair in combinations(trace.tensors, 2):
        why = attributions[pair].layers if pair in attributions else None
        reasons = {layer.op: layer for layer in why.layers} if why else {}
        for x, y in _same_operators(*(trace.even_tensors(name) for name in pair)):
            distance, reason = _distance(x.values, y.values), reasons.get(x.op)
            target = graph.output_of(graph.operators[x.op]) if graph else None
            yield LayerDifference(
                a=pair[0],
                b=pair[1],
                op=x.op,
                operator=x.operator,
                values=distance.size,
                differing=int(np.count_nonzero(distance)),
                max_lsb=int(np.ceil(distance.max(initial=0))),
                channels=per_channel(distance, target) if target else tuple(np.count_nonzero(distance, axis=0).tolist()),
                **({name: getattr(reason, name) for name in _REASONS} if reason else {}),
            )


def _same_operators(a: Sequence[LayerTensor], b: Sequence[LayerTensor]) -> list[tuple[LayerTensor, LayerTensor]]:
    """Pairs of tensors of the same operator; a runtime that hides an operator (a fused one) leaves a gap."""
    by_op = {tensor.op: tensor for tensor in b}
    return [(tensor, by_op[tensor.op]) for tensor in a if tensor.op in by_op]


def _ladder(samples: Samples) -> Iterator[LadderStep]:
    """torch → onnx → float32, then float32 → each runtime of the board's model; a missing stage is skipped."""
    floats = [name for name in FLOAT_LADDER if name in samples.actions]
    steps = [*pairwise(floats), *((floats[-1], name) for name in samples.outputs if floats)]
    scale = samples.output_quant.scale if samples.output_quant else None
    for a, b in steps:
        x, y = samples.actions[a], samples.actions[b]
        error = np.abs(x.astype(np.float64) - y.astype(np.float64))
        worst = float(error.max(initial=0.0))
        yield LadderStep(
            a=a,
            b=b,
            outputs=error.size,
            differing=int(np.count_nonzero(x != y)),
            max_abs=worst,
            rms=float(np.sqrt(np.mean(error**2))),
            max_lsb=worst / scale if scale else None,
        )


def _distance(a: RawArray, b: RawArray) -> NDArray[Any]:
    """In LSB; of float32 in its steps at the larger of the two and 1, so that sums near 0 do not count for more."""
    if a.dtype == np.float32:
        step = np.spacing(np.maximum(np.maximum(np.abs(a), np.abs(b)), np.float32(1)))
        return np.asarray(np.abs(a.astype(np.float64) - b) / step)
    return np.asarray(np.abs(a.astype(np.int32) - b.astype(np.int32)))


def _tolerance(outputs: RawArray) -> int:
    """The largest distance that is no fault."""
    return FLOAT32_STEPS if outputs.dtype == np.float32 else 0
