"""What goes into an export and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balance_hil.bundle import Bundle
from balance_hil.metrics import Verdict
from balance_hil.spec import Terminated

# Called with the name of a step and how much of it is done, 0..1.
ProgressCallback = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """One export."""

    source: Path  # an SB3 zip or its folder, an .onnx actor, a Keras model or a SavedModel
    output: Path | None = None  # bundle folder; None: beside the source, or the folder of a policy.zip
    environment: str | None = None  # Gymnasium id; None: from training.json or the zoo's args.yml
    options: Mapping[str, Any] = field(default_factory=dict)  # of the environment
    period_s: float | None = None  # seconds between two actions; None: the environment's
    terminated: Terminated = ""  # what termination of an episode means; "": the environment's declaration
    spec: Path | None = None  # signals.yaml of a policy without an environment, or with other names than its environment's
    episodes: int = 10  # of the check of each stage
    max_steps: int | None = None  # of an episode of the check; None: the environment's full length
    margin: float = 0.05  # share of the float policy's return that the quantized one may lose
    seed: int = 0  # of calibration, golden vectors and TensorFlow
    calibration: Path | None = None  # .npz with float32 [n, n_obs] under "observations"; None: recorded from the environment
    quantize: str = "int8"  # element type of the board's model, a key of ELEMENT_TYPES
    per_tensor: bool = False  # one scale for each weight tensor instead of one for each output channel
    rounding_invariant: bool = False  # an int8 model that gives the same bits on every runtime; see docs/rounding-invariant.md
    trust: bool = False  # may run code that is pickled in the checkpoint


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One representation of the policy, measured against the one before it.

    Errors are of outputs on calibration and held-out observations together; None for the first stage.
    """

    name: str  # "torch", "onnx", "float32", and the board's: "int8" or "int16x8"; of a float32 model "tflm"
    runtime: str  # what executed it
    size_bytes: int
    max_error: float | None
    rms_error: float | None
    success_rate: float | None  # 0..1, of episodes that did not fail; None: there is no environment
    metrics: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A finished export. Times are seconds of wall clock."""

    bundle: Bundle
    stages: tuple[Stage, ...]
    verdict: Verdict
    warnings: tuple[str, ...] = ()
    conversion_s: float  # source to the board's model, calibration included
    wall_s: float  # everything
