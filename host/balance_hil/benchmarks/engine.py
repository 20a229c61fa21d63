"""``hil bench engine``: code, memory and instructions of an inference on a Cortex-M, for each engine and board.

The firmware runs in QEMU, which counts instructions; they repeat exactly and are not cycles (``boards.instruction_count``). Code
is what the linker took from the engine's libraries, constants included; memory is the engine's arena and object.

The policies are two of 6-64-64-2 with random weights, and models/ppo. TensorFlow Lite Micro is measured beside ours where
HIL_TFLM_LIB names its library (docs/boards.md); otherwise its numbers are those recorded in tflm.toml.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.boards import BoardDefinition, load_definitions
from balance_hil.boards.kinds.instruction_count import EngineCost, engine_cost
from balance_hil.boards.kinds.qemu import check_installation
from balance_hil.bundle import HEADER, INT8_MODEL
from balance_hil.firmware_build import HEADERS, TFLM_LIBRARY
from balance_hil.model_image import ModelImage
from balance_hil.paths import MODELS
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_models import actor
from balance_hil.tflite.graph import read_graph

SHIPPED = MODELS / "ppo"
RECORDED = tomllib.loads(Path(__file__).with_name("tflm.toml").read_text())  # by policy and board, as EngineCost names it


@dataclass(frozen=True)
class Policy:
    """What is measured with."""

    name: str
    model: bytes
    header: Path  # its model.h, with vectors by which the firmware checks what it measures


@dataclass(frozen=True)
class Measurement:
    """One engine on one board with one policy."""

    board: str
    engine: str
    policy: Policy
    cost: EngineCost


def run() -> list[dict[str, Any]]:
    """Rows for every board, engine and policy."""
    check_installation()
    boards = [board for board in load_definitions().values() if board.kind == "qemu" and "bench" not in board.settings]
    policies = [typical("TANH"), typical("RELU"), Policy("ppo", (SHIPPED / INT8_MODEL).read_bytes(), SHIPPED / HEADER)]
    rows: list[dict[str, Any]] = []
    for board in boards:
        for policy in policies:
            tflm = measure(board, "tflm", policy) if os.environ.get(TFLM_LIBRARY) else None
            rows += _rows(measure(board, "int8", policy), tflm)
            if tflm is not None:
                rows += _rows(tflm, None)
    return rows


def typical(activation: str) -> Policy:
    """A policy of 6-64-64-2 with random weights."""
    model = actor((6, 64, 64, 2), activation, per_channel=True, seed=7, squash=None)
    reference = TflmRuntime(model)
    inputs = np.random.default_rng(0).integers(-128, 128, (8, reference.n_obs), dtype=np.int8)
    image = ModelImage(model=model, inputs=inputs, outputs=reference.infer_int8_batch(inputs))
    header = HEADERS / image.id / "model.h"
    image.write_header(header)
    return Policy(activation, model, header)


def measure(board: BoardDefinition, engine: str, policy: Policy) -> Measurement:
    """Builds and runs the benchmark's firmware, unless that was done before."""
    return Measurement(board.name, engine, policy, engine_cost(board, engine, policy.header))


def _rows(ours: Measurement, tflm: Measurement | None) -> list[dict[str, Any]]:
    base, when = _baseline(ours, tflm)
    names = [operator.name for operator in read_graph(ours.policy.model).operators]
    engine = f"tflm {_tflm_version()}" if ours.engine == "tflm" else ours.engine
    metrics = {
        "inference_instructions": ("inference", "instructions"),
        "load_instructions": ("loading the model", "instructions"),
        "code_bytes": ("code and constants", "B"),
        "arena_bytes": ("arena", "B"),
        "object_bytes": ("object", "B"),
        "stack_bytes": ("most stack, loading included", "B"),
    }
    rows = []
    for key, (metric, unit) in metrics.items():
        value = getattr(ours.cost, key)
        row = {"what": f"{ours.board} {engine} {ours.policy.name.lower()}", "metric": metric, "value": value, "unit": unit}
        if (other := base.get(key)) is not None:
            row |= {"baseline": f"TFLM {other:,}, {when}", "ratio": value / other}
        rows.append(row)
        if key == "inference_instructions":
            rows += [
                {**row, "metric": f"  {k} {names[k]}", "value": count, "baseline": None, "ratio": None}
                for k, count in enumerate(ours.cost.operator_instructions)
            ]
    return rows


def _baseline(ours: Measurement, tflm: Measurement | None) -> tuple[dict[str, Any], str]:
    """What to compare with, by EngineCost's names, and when it was measured."""
    if ours.engine == "tflm":
        return {}, ""
    if tflm is not None:
        return asdict(tflm.cost), f"{_tflm_version()}, this run"
    return RECORDED.get(ours.policy.name, {}).get(ours.board, {}), "recorded"


def _tflm_version() -> str:
    """Version of the library that HIL_TFLM_LIB names."""
    manifests = sorted(Path(os.environ[TFLM_LIBRARY]).glob("*/library.json"))
    return next((str(json.loads(path.read_text()).get("version", "unknown")) for path in manifests), "unknown")
