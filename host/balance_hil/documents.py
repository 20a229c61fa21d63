"""The ``--json`` contract: one document of each of ``hil run``, ``soak``, ``evaluate``, ``compare``, ``export`` and ``bench``.

Keys may be added, never renamed or removed. ``schemas/NAME.json`` is the JSON Schema of each; after a change here:
``python -m balance_hil.documents`` (needs pydantic, of the extra "dev").
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import (
    Any,
    Literal,
    NotRequired,  # typing's own is not enough for pydantic before Python 3.12
)

from typing_extensions import TypedDict

SCHEMAS = Path(__file__).with_name("schemas")


class VerdictDocument(TypedDict):
    """Whether it is good, and if not, why."""

    good: bool
    reasons: list[str]


class BundleDocument(TypedDict):
    """Which policy."""

    name: str
    id: str
    path: str


class EpisodeDocument(TypedDict):
    """One episode."""

    seed: int
    steps: int
    failed: bool
    metrics: dict[str, float]


class SpreadDocument(TypedDict):
    """Distribution of a timing, microseconds."""

    p50: float
    p99: float
    p999: float
    max: float


class MemoryDocument(TypedDict):
    """Of a board, in bytes; 0: unknown."""

    arena_used: int
    arena_size: int
    stack: int
    ram: int
    flash: int


class MissCausesDocument(TypedDict):
    """Late and lost replies by what caused them."""

    host: int
    board: int
    link: int


class StallsDocument(TypedDict):
    """How often this computer fell behind by more than a control period."""

    count: int
    total_ms: float


class EqualsTflmDocument(TypedDict):
    """Raw outputs of the board against TensorFlow Lite Micro on equal inputs."""

    checked: int
    differing: int
    emulated: bool  # an exact emulator stood in for it: there is no wheel for this kind of computer


class CostDocument(TypedDict):
    """Of one inference."""

    unit: Literal["cycles", "instructions"]  # of a processor whose clock is known; in QEMU
    parts: dict[str, int]  # engine, "0 FULLY_CONNECTED", ...; in cycles also total, decode, quantize, dequantize, encode


class OneRunDocument(TypedDict):
    """A run on one board."""

    bundle: BundleDocument
    board: str
    processor: str
    engine: str
    engine_version: str
    firmware_commit: str
    port: str
    memory_bytes: MemoryDocument
    instructions_per_inference: int | None  # in QEMU
    cycles_per_inference: int | None  # pico, also emulated, and physical boards; median, to about a microsecond's
    cost: CostDocument | None  # None: neither cycles nor instructions are known
    environment: str
    clock: Literal["realtime", "lockstep", "device"]
    episodes: list[EpisodeDocument]
    success_rate: float  # of episodes that did not fail, 0..1
    metrics: dict[str, float]  # over all episodes
    round_trip_us: SpreadDocument | None  # late replies included; None: no reply came
    inference_us: SpreadDocument | None  # on the board's clock
    jitter_us: SpreadDocument | None  # how late control steps began; None in lockstep
    late: int  # replies after their control step was over
    lost: int  # replies that never came
    unsent: int  # observations that the board could not take
    rejected: int  # replies that cannot be right and were not applied
    miss_causes: MissCausesDocument  # of late and lost replies
    reboots: int
    held_steps: int  # control steps in which the action in force was held
    longest_hold_steps: int
    stalls: StallsDocument
    bad_frames: int
    injected_faults: dict[str, int]  # count of each, "drop rx": 3
    faults: list[str]  # that were to be injected, as on the command line
    fault_seed: int | None  # None: no faults
    interventions: dict[str, int]  # by hand, on the live page: count of push, target, fault, paused
    priority: Literal["real-time", "normal"]
    control_rate_hz: float
    equals_tflm: EqualsTflmDocument | None  # None: not checked
    interrupted: bool  # by Ctrl-C: what follows is what was done until then
    recording: str | None
    verdict: VerdictDocument


class FailedRunDocument(TypedDict):
    """A board on which no run came to its end."""

    board: str
    error: str
    hint: str
    verdict: VerdictDocument


class RunDocument(TypedDict):
    """``hil run --json``."""

    schema: Literal["balance_hil/run@2"]
    runs: list[OneRunDocument | FailedRunDocument]  # one for each board


class ResourcesDocument(TypedDict):
    """What processes hold."""

    memory_bytes: int  # resident
    descriptors: int
    threads: int


class GrowthDocument(ResourcesDocument):
    """How much more than at the middle of the soak."""

    memory_bytes_per_step: float


class GrowthsDocument(TypedDict):
    """Growth of this program and of an emulated board's processes; None where it is not known."""

    host: GrowthDocument | None
    emulator: GrowthDocument | None


class SoakStatisticsDocument(TypedDict):
    """Of some episodes; the keys that a run has mean the same."""

    episodes: int
    failed: int
    steps: int
    late: int
    lost: int
    unsent: int
    rejected: int
    reboots: int
    held_steps: int
    miss_causes: MissCausesDocument
    anomalies: int  # misses, faults, reboots and failures; those within half a second are one
    round_trip_us: SpreadDocument | None
    inference_us: SpreadDocument | None
    jitter_us: SpreadDocument | None
    stalls: StallsDocument


class SoakMinuteDocument(SoakStatisticsDocument):
    """What was done since the minute before, and what was held at its end."""

    elapsed_s: float  # since the soak began
    host: ResourcesDocument | None
    emulator: ResourcesDocument | None


class OneSoakDocument(SoakStatisticsDocument):
    """A soak of one board."""

    bundle: BundleDocument
    board: str
    processor: str
    engine: str
    port: str
    environment: str
    duration_s: float  # asked for
    elapsed_s: float
    equals_tflm: EqualsTflmDocument | None  # None: not checked
    errors: int  # episodes that ended in an error
    first_errors: list[str]
    recoveries: int  # after errors
    growth: GrowthsDocument
    anomaly_recordings: str | None  # the folder
    minutes: list[SoakMinuteDocument]
    interrupted: bool
    verdict: VerdictDocument


class SoakDocument(TypedDict):
    """``hil soak --json``."""

    schema: Literal["balance_hil/soak@2"]
    soaks: list[OneSoakDocument | FailedRunDocument]  # one for each board


class EvaluateDocument(TypedDict):
    """``hil evaluate --json``."""

    schema: Literal["balance_hil/evaluate@2"]
    bundle: dict[str, str | None]  # as in a run; the id is null for a checkpoint that was not exported
    runtime: str
    environment: str
    options: dict[str, Any]
    episodes: list[EpisodeDocument]
    success_rate: float
    metrics: dict[str, float]
    verdict: VerdictDocument


class PairDocument(TypedDict):
    """Raw outputs of two runtimes on equal raw inputs."""

    a: str
    b: str
    outputs: int
    differing: int
    max_lsb: int
    causes: dict[str, int] | None  # None: not attributed
    unexplained: int | None


class LayerDocument(TypedDict):
    """Output of one operator in two runtimes."""

    a: str
    b: str
    op: int
    operator: str
    values: int
    differing: int
    max_lsb: int


class SkippedDocument(TypedDict):
    """A runtime that could not take part."""

    runtime: str
    why: str


class CompareDocument(TypedDict):
    """``hil compare --json``."""

    schema: Literal["balance_hil/compare@2"]
    element_type: Literal["int8", "int16x8", "float32"]  # of the model
    inputs: int
    pairs: list[PairDocument]
    layers: list[LayerDocument]
    board_equals_tflm: bool | None  # None: no board took part
    tflm_emulated: bool  # an exact emulator stood in for it
    skipped: list[SkippedDocument]
    verdict: VerdictDocument


class ReducedCaseDocument(TypedDict):
    """The smallest model and row that still show a difference or a crash."""

    a: str
    b: str
    operators: list[str]
    input_shape: list[int]
    output_shape: list[int]
    model_bytes: list[int]  # before and after
    inputs: list[list[int]]
    outputs_a: list[list[int]] | None  # None: no answer
    outputs_b: list[list[int]] | None
    cause: str
    candidates: int  # tried
    complete: bool  # False: the time was over
    folder: str


class ReduceDocument(TypedDict):
    """``hil compare --reduce --json``."""

    schema: Literal["balance_hil/reduce@2"]
    model: str  # its id
    reduced: ReducedCaseDocument | None  # None: nothing differs
    inputs: int
    skipped: list[SkippedDocument]
    verdict: VerdictDocument


class StageDocument(TypedDict):
    """One form of the policy, from the source to the board's model."""

    name: str
    size_bytes: int
    max_error: float | None  # of its outputs against the stage above; None: the first stage
    rms_error: float | None
    success_rate: float | None  # None: there is no environment to run episodes in
    metrics: dict[str, float]


class ExportDocument(TypedDict):
    """``hil export --json``."""

    schema: Literal["balance_hil/export@2"]
    bundle: BundleDocument
    source: dict[str, Any]
    checked_against: dict[str, Any]
    stages: list[StageDocument]
    verdict: VerdictDocument


class BenchRowDocument(TypedDict):
    """One measurement, beside what it is held against."""

    what: str
    metric: NotRequired[str]
    value: float
    unit: str
    baseline: NotRequired[str | None]
    ratio: NotRequired[float | None]  # value / the baseline's


class CostChangeDocument(TypedDict):
    """One number that is not what it was."""

    what: str  # board, engine and policy
    name: str  # "0 FULLY_CONNECTED", "arena", "flash, symbol main"
    unit: str
    before: float | None  # None: it was not there
    now: float | None  # None: it is gone
    grown: bool  # beyond the threshold


class CostComparisonDocument(TypedDict):
    """What was measured now, against a file that was saved."""

    against: str
    commits: list[str]  # before and now
    threshold: float  # share, 0.02 for 2 %
    compared: list[str]
    changes: list[CostChangeDocument]
    otherwise: list[str]  # compilers and versions of engines that are not as they were
    not_judged: list[str]  # and why
    not_compared: list[str]  # and why
    verdict: VerdictDocument


class BenchDocument(TypedDict):
    """``hil bench NAME --json``."""

    schema: Literal["balance_hil/bench@2"]
    name: str
    rows: list[BenchRowDocument]
    comparison: NotRequired[CostComparisonDocument]  # with --against


class CostDocumentOfBoard(TypedDict):
    """What one engine takes for one model on one board. The symbols of an image that is not known are empty."""

    board: str
    engine: str
    policy: str
    engine_version: str
    model: str  # its id
    compiler: str
    firmware: str  # commit
    unit: str  # of cost: instructions, cycles or us
    cost: dict[str, float]  # of an inference, of each layer, of loading
    memory: dict[str, float]  # bytes: arena, object, stack, code, flash, RAM
    flash: dict[str, float]  # bytes by symbol
    ram: dict[str, float]


class CostsDocument(TypedDict):
    """The file of ``hil bench --save``."""

    schema: Literal["balance_hil/costs@2"]
    time_s: float  # Unix time
    commit: str  # of the repository in the current folder
    host_version: str
    costs: list[CostDocumentOfBoard]


class ControlDocument(TypedDict):
    """The suite on the sound board."""

    passed: bool  # if not, no fault was tried
    cases: int
    failures: list[str]


class FaultDocument(TypedDict):
    """One fault that the board was given."""

    name: str
    group: str
    what: str  # what the device does
    test: str  # that must fail
    because: str  # regular expression that its message must match
    score: Literal["caught", "wrong reason", "missed", "skipped"]
    message: str  # of the failure; why it was skipped
    wall_s: float


class VerifyDocument(TypedDict):
    """``hil verify --json``."""

    schema: Literal["balance_hil/verify@2"]
    bundle: BundleDocument
    board: str
    control: ControlDocument
    faults: list[FaultDocument]
    caught: int
    wrong_reason: int
    missed: int
    skipped: int
    interrupted: bool
    verdict: VerdictDocument


DOCUMENTS: dict[str, Any] = {
    "run": RunDocument,
    "soak": SoakDocument,
    "evaluate": EvaluateDocument,
    "compare": CompareDocument,
    "reduce": ReduceDocument,
    "export": ExportDocument,
    "bench": BenchDocument,
    "costs": CostsDocument,
    "verify": VerifyDocument,
}


def render_schema(name: str) -> str:
    """The JSON Schema of a document, as its file in ``schemas`` has it. Needs pydantic."""
    from pydantic import TypeAdapter

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(DOCUMENTS[name]).json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def main() -> None:
    """Writes ``schemas``."""
    SCHEMAS.mkdir(exist_ok=True)
    for name in DOCUMENTS:
        (SCHEMAS / f"{name}.json").write_text(render_schema(name))
    sys.stdout.write(f"{len(DOCUMENTS)} schemas in {SCHEMAS}\n")


if __name__ == "__main__":
    main()
