"""Result of a comparison: what differs between which runtimes, by how much, from which layer on, why; and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from balance_hil.comparing.board_io import BoardIo, Finding
from balance_hil.metrics import Verdict
from balance_hil.quantize import FLOAT32
from balance_hil.runtimes.tflm import is_emulated

SCHEMA = "balance_hil/compare@2"
BOARD = "board"
REFERENCE = "tflm"  # the reference for a board: the official TensorFlow Lite Micro
FLOAT32_SUMS = "order of float32 sums"  # a cause, where outputs of a float32 model differ by no more than
FLOAT32_STEPS = 64  # of float32 at the output, or at 1 where that is larger
FLOAT_LADDER = ("torch", "onnx", "float32")


@dataclass(frozen=True, kw_only=True)
class PairDifference:
    """Raw outputs of two runtimes on equal raw inputs; of a float32 model, LSB are its steps at the output, or at 1 if larger."""

    a: str
    b: str
    outputs: int  # values compared: inputs times n_act
    differing: int
    max_lsb: int  # largest |a - b|
    differing_random: int  # of the values from uniform raw inputs
    differing_recorded: int  # of the values from observations
    first_layer: int | None  # operator index from which on the two differ; None: no difference seen inside
    first_operator: str | None  # its name
    causes: Mapping[str, int] | None = None  # named cause -> values it explains; None: not attributed
    unexplained: int | None = None  # values no cause explains; None: not attributed


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """One operator's output in two runtimes, over evenly spaced inputs.

    A differing value is new (the two compute otherwise from equal inputs), propagated (its inputs differed already) or
    unexplained; the three are None where differences could not be attributed.
    """

    a: str
    b: str
    op: int
    operator: str
    values: int
    differing: int
    max_lsb: int
    channels: tuple[int, ...]  # differing values in each channel of the output: each entry of its last dimension
    new: Mapping[str, int] | None = None  # cause -> values
    propagated: int | None = None
    unexplained: int | None = None
    max_new_lsb: int | None = None  # largest difference among the new ones
    new_channels: tuple[int, ...] | None = None  # new values in each channel of the output


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Which known arithmetic a runtime of the model uses."""

    runtime: str
    variant: str | None  # short name; None: no variant computes what the runtime computed
    title: str  # of the variant, "" for None
    samples: int  # number of inputs that were compared
    values: int  # values compared on them
    mismatches: int  # of the best variant: 0 unless ``variant`` is None
    unseparated: tuple[str, ...]  # variants without a mismatch that more samples may rule out
    verdict: str  # one sentence
    advice: str  # suggested fix, "" if nothing is wrong


@dataclass(frozen=True, kw_only=True)
class LadderStep:
    """Actions of two neighbors on the way from torch to the board's model, on equal observations."""

    a: str
    b: str
    outputs: int
    differing: int  # not the same float32 bits
    max_abs: float
    rms: float
    max_lsb: float | None  # ``max_abs`` in steps of the raw output; None when no ModelRuntime took part


@dataclass(frozen=True, kw_only=True)
class IoDifference:
    """A runtime's own QUANTIZE and DEQUANTIZE, where the model has a float input or output, against the host's conversions."""

    runtime: str
    observations: int
    input_differing: int  # raw inputs that its QUANTIZE makes otherwise than the host
    action_differing: int  # outputs of the whole model that are not its core's between the host's conversions
    unexplained: int  # outputs of the whole model that emulated conversions around its core do not give


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The whole result of a comparison. ``to_dict`` is the ``--json`` document."""

    model: str  # id
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
    board_equals_tflm: bool | None  # None: without a board; of a float32 model within FLOAT32_STEPS
    arithmetics: tuple[Arithmetic, ...] = ()  # of the ModelRuntimes
    findings: tuple[Finding, ...] = ()  # on each stage of the board's pipeline
    float_io: tuple[IoDifference, ...] = ()  # of the desktop runtimes, for a model with a float input or output
    not_attributed: str = ""  # why differences were not attributed, "" if they were
    element_type: str = "int8"  # of the model
    hidden_layers: tuple[str, ...] = ()  # "0 SHAPE": whose output is of another type than the model's input; nobody shows it

    @property
    def unexplained(self) -> int:
        """Differing outputs without a cause over all pairs, and conversions of no known kind."""
        outputs = sum(pair.unexplained or 0 for pair in self.pairs) + sum(io.unexplained for io in self.float_io)
        return outputs + sum(found.differing for found in self.findings if found.unknown_conversion)

    @property
    def not_emulated(self) -> bool:
        """Whether differences are left open because nobody emulates an operator, and nothing is known to be wrong."""
        return bool(self.not_attributed) and not self.verdict.good and self.board_equals_tflm is not False

    @property
    def verdict(self) -> Verdict:
        """Good when every difference is explained, and a board that took part equals ``tflm`` and converts as the host does."""
        reasons = []
        if self.board_equals_tflm is False:
            pair = next(p for p in self.pairs if {p.a, p.b} == {BOARD, REFERENCE})
            where = f", from layer {pair.first_layer} ({pair.first_operator}) on" if pair.first_layer is not None else ""
            counts = f"{pair.differing} of {pair.outputs} outputs, by up to {pair.max_lsb} LSB"
            reasons.append(f"the board differs from {REFERENCE}: {counts}{where}")
        io = self.board_io
        if io is not None and (io.input_differing or io.action_differing):
            reasons.append(
                f"the board converts otherwise than the host: {io.input_differing} raw inputs and {io.action_differing} actions "
                f"of {io.observations} observations differ"
            )
        if self.unexplained:
            values = f"{self.unexplained} difference{'s are' if self.unexplained > 1 else ' is'} unexplained"
            reasons.append(f"{values}: {self.not_attributed}" if self.not_attributed else values)
        return Verdict(tuple(reasons))

    @property
    def summary(self) -> str:
        """One-sentence summary of a comparison with a good verdict."""
        if self.board_equals_tflm and self.element_type == FLOAT32.name:
            return f"the board equals {REFERENCE} within {FLOAT32_STEPS} steps of float32 on {self.inputs} equal inputs"
        if self.board_equals_tflm:
            return f"the board equals {REFERENCE} bit for bit on {self.inputs} equal inputs"
        if not self.pairs or self.not_attributed or any(pair.unexplained is None for pair in self.pairs):
            return "no board took part"
        return f"every one of {sum(pair.differing for pair in self.pairs)} differing outputs is explained; no board took part"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the keys of the ``--json`` contract, and further ones."""
        document = asdict(self)
        return {"schema": SCHEMA, **document} | {
            "runtimes": list(self.runtimes),
            "tflm_emulated": is_emulated(),
            "skipped": [{"runtime": name, "why": why} for name, why in self.skipped.items()],
            "unexplained": self.unexplained,
            "summary": self.summary,
            "verdict": self.verdict.to_dict(),
        }
