"""The verdict of a comparison: what differs between whom, by how much, and from which layer on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.evidence import Evidence, LayerEvidence
from balance_hil.runtimes.base import Int8Array, LayerTensor

BOARD = "board"
REFERENCE = "tflm"  # the oracle of a board: the official TensorFlow Lite Micro
FLOAT_LADDER = ("torch", "onnx", "float32")


@dataclass(frozen=True, kw_only=True)
class PairDifference:
    """Raw int8 outputs of two runtimes on equal int8 inputs."""

    a: str
    b: str
    outputs: int  # values compared: inputs times n_act
    differing: int
    max_lsb: int  # largest |a - b|
    differing_random: int  # of the values from uniform int8 inputs
    differing_recorded: int  # of the values from observations
    first_layer: int | None  # operator index from which on the two differ; None: no difference seen inside
    first_operator: str | None  # its name
    causes: Mapping[str, int] | None = None  # named cause -> values it explains; None: not attributed
    unexplained: int | None = None  # values no cause explains; None: not attributed


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """One operator's output in two runtimes, over evenly spaced inputs; propagated differences are included."""

    a: str
    b: str
    op: int
    operator: str
    values: int
    differing: int
    max_lsb: int


@dataclass(frozen=True, kw_only=True)
class LadderStep:
    """Actions of two neighbours on the way from torch to int8, on equal observations."""

    a: str
    b: str
    outputs: int
    differing: int  # not the same float32 bits
    max_abs: float
    rms: float
    max_lsb: float | None  # ``max_abs`` in steps of the int8 output; None when no int8 runtime took part


@dataclass(frozen=True, kw_only=True)
class BoardIo:
    """The board's own quantiser and dequantiser on float32 observations, against the host's."""

    observations: int
    input_differing: int  # int8 inputs that the board quantised otherwise
    action_differing: int  # float32 actions that are not its own int8 output dequantised


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that one comparison found. ``to_dict`` is the ``--json`` document."""

    bundle: str  # id
    board: str | None
    inputs: int
    random: int
    recorded: int
    recorded_from: str
    seed: int
    runtimes: tuple[str, ...]
    skipped: Mapping[str, str]  # runtime -> why it could not take part
    pairs: tuple[PairDifference, ...]
    ladder: tuple[LadderStep, ...]
    layers: tuple[LayerDifference, ...]
    layer_inputs: int
    board_io: BoardIo | None
    board_equals_tflm: bool | None  # None: no board took part

    @property
    def passed(self) -> bool:
        """Whether the verdict is good: a board that took part equals ``tflm`` and quantises as the host does."""
        if self.board_equals_tflm is None:
            return True
        io = self.board_io
        return self.board_equals_tflm and (io is None or io.input_differing == io.action_differing == 0)

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        io = self.board_io
        if self.board_equals_tflm is None:
            return "no board took part: nothing to pass or fail"
        if not self.board_equals_tflm:
            pair = next(p for p in self.pairs if {p.a, p.b} == {BOARD, REFERENCE})
            where = f", from layer {pair.first_layer} ({pair.first_operator}) on" if pair.first_layer is not None else ""
            counts = f"{pair.differing} of {pair.outputs} outputs, by up to {pair.max_lsb} LSB"
            return f"the board differs from {REFERENCE}: {counts}{where}"
        if io is not None and not self.passed:
            return (
                f"the board computes what {REFERENCE} computes, but converts otherwise than the host: "
                f"{io.input_differing} int8 inputs and {io.action_differing} actions of {io.observations} observations differ"
            )
        return f"the board equals {REFERENCE} bit for bit on {self.inputs} equal inputs"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the keys of DESIGN's ``--json`` contract and some more."""
        document = asdict(self)
        document["runtimes"] = list(self.runtimes)
        return document | {"passed": self.passed, "verdict": self.verdict}


def judge(
    evidence: Evidence, *, bundle_id: str, board: str | None, board_io: BoardIo | None, skipped: Mapping[str, str]
) -> Comparison:
    """Counts what differs in ``evidence``.

    Causes are left open: whoever attributes them replaces ``causes`` and ``unexplained`` of each pair.
    """
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
        pairs=tuple(_pair(evidence, a, b) for a, b in combinations(evidence.outputs, 2)),
        ladder=tuple(_ladder(evidence)),
        layers=tuple(_layer_differences(evidence.layers)),
        layer_inputs=evidence.layers.even,
        board_io=board_io,
        board_equals_tflm=equal,
    )


def _pair(evidence: Evidence, a: str, b: str) -> PairDifference:
    x, y = evidence.outputs[a], evidence.outputs[b]
    distance = _distance(x, y)
    split = evidence.inputs.random
    first = _first_difference(evidence.layers.tensors.get(a, ()), evidence.layers.tensors.get(b, ()))
    return PairDifference(
        a=a,
        b=b,
        outputs=distance.size,
        differing=int(np.count_nonzero(distance)),
        max_lsb=int(distance.max(initial=0)),
        differing_random=int(np.count_nonzero(distance[:split])),
        differing_recorded=int(np.count_nonzero(distance[split:])),
        first_layer=first.op if first else None,
        first_operator=first.operator if first else None,
    )


def _first_difference(a: Sequence[LayerTensor], b: Sequence[LayerTensor]) -> LayerTensor | None:
    return next((x for x, y in _same_operators(a, b) if not np.array_equal(x.values, y.values)), None)


def _layer_differences(layers: LayerEvidence) -> list[LayerDifference]:
    found = []
    for a, b in combinations(layers.tensors, 2):
        for x, y in _same_operators(layers.tensors[a], layers.tensors[b]):
            distance = _distance(x.values[: layers.even], y.values[: layers.even])
            found.append(
                LayerDifference(
                    a=a,
                    b=b,
                    op=x.op,
                    operator=x.operator,
                    values=distance.size,
                    differing=int(np.count_nonzero(distance)),
                    max_lsb=int(distance.max(initial=0)),
                )
            )
    return found


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
