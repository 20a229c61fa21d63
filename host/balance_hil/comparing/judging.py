"""Counts what differs in the evidence of a comparison and joins it with the reasons that were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.attribution import Attribution
from balance_hil.comparing.comparison import (
    BOARD,
    FLOAT_LADDER,
    REFERENCE,
    Arithmetic,
    BoardIo,
    Comparison,
    EndsDifference,
    LadderStep,
    LayerDifference,
    PairDifference,
)
from balance_hil.comparing.diagnosis import MODEL, UNKNOWN, Finding
from balance_hil.comparing.evidence import Evidence
from balance_hil.comparing.identification import Identification
from balance_hil.comparing.reasons import Reasons
from balance_hil.runtimes.base import Int8Array, LayerTensor


def judge(
    evidence: Evidence,
    *,
    bundle_id: str,
    board: str | None,
    board_io: BoardIo | None,
    skipped: Mapping[str, str],
    reasons: Reasons | None = None,
    findings: Sequence[Finding] = (),
    ends: Sequence[EndsDifference] = (),
) -> Comparison:
    """Counts what differs in ``evidence``; without ``reasons`` the causes are left open."""
    equal = None
    if BOARD in evidence.outputs and REFERENCE in evidence.outputs:
        equal = bool(np.array_equal(evidence.outputs[BOARD], evidence.outputs[REFERENCE]))
    inputs = evidence.inputs
    return Comparison(
        bundle=bundle_id,
        board=board,
        inputs=len(inputs),
        random=inputs.random,
        recorded=inputs.recorded,
        recorded_from=inputs.source,
        seed=inputs.seed,
        runtimes=tuple(evidence.actions),
        skipped=dict(skipped),
        pairs=tuple(_pair(evidence, a, b, reasons, findings) for a, b in combinations(evidence.outputs, 2)),
        ladder=tuple(_ladder(evidence)),
        layers=tuple(_layer_differences(evidence, reasons)),
        layer_inputs=evidence.layers.even,
        board_io=board_io,
        board_equals_tflm=equal,
        arithmetics=tuple(_arithmetic(found) for found in reasons.runtimes.values()) if reasons else (),
        findings=tuple(findings),
        ends=tuple(ends),
        not_attributed=reasons.missing if reasons else "",
    )


def _pair(evidence: Evidence, a: str, b: str, reasons: Reasons | None, findings: Sequence[Finding]) -> PairDifference:
    x, y = evidence.outputs[a], evidence.outputs[b]
    distance = _distance(x, y)
    differing = int(np.count_nonzero(distance))
    split = evidence.inputs.random
    first = _first_difference(evidence.layers.tensors.get(a, ()), evidence.layers.tensors.get(b, ()))
    causes, unexplained = _causes(a, b, differing, reasons, findings)
    return PairDifference(
        a=a,
        b=b,
        outputs=distance.size,
        differing=differing,
        max_lsb=int(distance.max(initial=0)),
        differing_random=int(np.count_nonzero(distance[:split])),
        differing_recorded=int(np.count_nonzero(distance[split:])),
        first_layer=first.op if first else None,
        first_operator=first.operator if first else None,
        causes=causes,
        unexplained=unexplained,
    )


def _causes(
    a: str, b: str, differing: int, reasons: Reasons | None, findings: Sequence[Finding]
) -> tuple[Mapping[str, int] | None, int | None]:
    """Causes with their counts, and how many values have none."""
    if reasons is None:
        return None, None
    found = reasons.pairs.get((a, b))
    if found is None:
        return {}, differing
    # What no arithmetic explains may be a fault of the board's that inspection has named.
    fault = next((f.fault for f in findings if f.stage == MODEL and not f.healthy and f.fault != UNKNOWN), "")
    if fault and found.unexplained and BOARD in (a, b):
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


def _first_difference(a: Sequence[LayerTensor], b: Sequence[LayerTensor]) -> LayerTensor | None:
    return next((x for x, y in _same_operators(a, b) if not np.array_equal(x.values, y.values)), None)


def _layer_differences(evidence: Evidence, reasons: Reasons | None) -> list[LayerDifference]:
    layers = evidence.layers
    found = []
    for a, b in combinations(layers.tensors, 2):
        why = reasons.layers.get((a, b)) if reasons else None
        for x, y in _same_operators(layers.tensors[a], layers.tensors[b]):
            distance = _distance(x.values[: layers.even], y.values[: layers.even])
            found.append(_layer_difference(a, b, x, distance, why))
    return found


def _layer_difference(
    a: str, b: str, layer: LayerTensor, distance: NDArray[np.int16], why: Attribution | None
) -> LayerDifference:
    reason = next((found for found in why.layers if found.op == layer.op), None) if why else None
    return LayerDifference(
        a=a,
        b=b,
        op=layer.op,
        operator=layer.operator,
        values=distance.size,
        differing=int(np.count_nonzero(distance)),
        max_lsb=int(distance.max(initial=0)),
        channels=tuple(int(n) for n in np.count_nonzero(distance, axis=0)),
        new=dict(reason.new) if reason else None,
        propagated=reason.propagated if reason else None,
        unexplained=reason.unexplained if reason else None,
        max_new_lsb=reason.max_new_lsb if reason else None,
        new_channels=reason.new_channels if reason else None,
    )


def _same_operators(a: Sequence[LayerTensor], b: Sequence[LayerTensor]) -> list[tuple[LayerTensor, LayerTensor]]:
    """Pairs of tensors of the same operator; a runtime that hides an operator (a fused one) leaves a gap."""
    by_op = {tensor.op: tensor for tensor in b}
    return [(tensor, by_op[tensor.op]) for tensor in a if tensor.op in by_op]


def _ladder(evidence: Evidence) -> list[LadderStep]:
    """torch → onnx → float32, then float32 → each int8 runtime; a missing rung is stepped over."""
    floats = [name for name in FLOAT_LADDER if name in evidence.actions]
    steps = [*pairwise(floats), *((floats[-1], name) for name in evidence.outputs if floats)]
    scale = evidence.output_quant.scale if evidence.output_quant else None
    found = []
    for a, b in steps:
        x, y = evidence.actions[a], evidence.actions[b]
        error = np.abs(x.astype(np.float64) - y.astype(np.float64))
        worst = float(error.max(initial=0.0))
        found.append(
            LadderStep(
                a=a,
                b=b,
                outputs=error.size,
                differing=int(np.count_nonzero(x != y)),
                max_abs=worst,
                rms=float(np.sqrt(np.mean(error**2))),
                max_lsb=worst / scale if scale else None,
            )
        )
    return found


def _distance(a: Int8Array, b: Int8Array) -> NDArray[np.int16]:
    return np.asarray(np.abs(a.astype(np.int16) - b.astype(np.int16)))
