"""``hil bench engine``: code, memory and cost of an inference, layer by layer, for each engine and board.

The boards in QEMU count instructions; they repeat exactly and are not cycles (``boards.instruction_count``). Code is what the
linker took from the engine's libraries, constants included; memory is the engine's arena and object. The models are two of
6-64-64-2 with random weights, models/ppo, and a convolutional network with random weights; or those that the caller names.
TensorFlow Lite Micro is measured beside ours where HIL_TFLM_LIB names its library (docs/boards.md); otherwise its numbers are
those recorded in tflm.toml.

Every board, also ``pico`` and physical ones, is asked what one whole inference costs (PROFILE), in cycles where its clock is its
processor's: of models/ppo and of the convolutional network, with each engine that is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.benchmarks import row
from balance_hil.benchmarks.costs import Cost
from balance_hil.benchmarks.image_sizes import image_sizes
from balance_hil.boards import BoardDefinition, BoardInfo, connect, find_board, find_definition, load_definitions
from balance_hil.boards.channel import printable
from balance_hil.boards.engines import COMPACT, TFLM, check_element_type
from balance_hil.boards.kinds.instruction_count import EngineCost, engine_cost
from balance_hil.boards.kinds.machines import check_installation
from balance_hil.boards.profile import Profile
from balance_hil.bundle import HEADER, Bundle, model_id
from balance_hil.errors import HarnessError
from balance_hil.firmware_build import HEADERS, TFLM_LIBRARY, firmware_commit
from balance_hil.model_image import ModelImage
from balance_hil.opening import open_policy
from balance_hil.paths import MODELS
from balance_hil.quantize import INT8
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.convolutional_models import image_network
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
    bundle: Bundle | None = None  # None: only the engine is measured with it, no board


@dataclass(frozen=True)
class Measurement:
    """One engine on one board with one policy."""

    board: str
    engine: str
    policy: Policy
    cost: EngineCost


def run(boards: Sequence[str] = (), port: str | None = None, models: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """The rows of ``measure_all``."""
    return measure_all(boards, port, models)[0]


def measure_all(
    boards: Sequence[str] = (), port: str | None = None, models: Sequence[Path] = ()
) -> tuple[list[dict[str, Any]], list[Cost]]:
    """Rows for every board, engine and model, and the same as costs, with the symbols of the images that boards ran.

    Args:
        boards: names; by default the boards in QEMU, and ``pico`` where its emulator is installed.
        port: of a physical board, which runs the first of the models, by default ``models/ppo``.
        models: bundles or ``.tflite`` files; by default those of this module.

    Raises:
        HarnessError: a model cannot be read, or a board cannot be built, started or reached.
    """
    chosen = [find_board(name) for name in boards] or _default_boards()
    policies = [opened(path) for path in models] or [typical("TANH"), typical("RELU"), opened(SHIPPED), convolutional()]
    whole = [(policy, policy.bundle) for policy in policies if policy.bundle is not None][: None if port is None else 1]
    rows: list[dict[str, Any]] = []
    costs: list[Cost] = []
    for board in chosen:
        counted = board.kind == "qemu" and board.is_emulated and port is None
        for policy in policies if counted else []:
            measurements = {name: measure(board, name, policy) for name in _engines(board, policy)}
            for name, measured in measurements.items():
                rows += (found := _rows(measured, measurements.get(TFLM) if name == COMPACT else None))
                costs.append(_cost_of(measured, found))
        emulated = board.is_emulated and port is None
        runs = [(*each, engine) for each in whole for engine in (_engines(board, each[0]) if emulated else (None,))]
        for policy, bundle, engine in runs:
            with connect(board.name, bundle, port=port, engine=engine, count_instructions=counted) as session:
                info = session.query_info()  # with the stack that it has used
                what = f"{info.board} {info.engine} {policy.name.lower()}"
                found = _profile_rows(what, session.profile(), with_engine=not counted)
                rows += found
                costs.append(_whole_cost(board.name, info, session.image, found, policy.name.lower(), bundle.id))
    return rows, _merged(costs)


def _engines(board: BoardDefinition, policy: Policy) -> tuple[str, ...]:
    """Those that can be measured with a model on an emulated board. Raises UsageError: none."""
    kind, native, library = read_graph(policy.model).kind, board.kind == "native", bool(os.environ.get(TFLM_LIBRARY))
    if kind == INT8:
        return (COMPACT, TFLM) if library and not native else (COMPACT,)
    if not (native or library):
        check_element_type(COMPACT, kind, board.name)
    return (TFLM,)


def _default_boards() -> list[BoardDefinition]:
    boards = [board for board in load_definitions().values() if board.kind == "qemu" and "bench" not in board.settings]
    pico = find_definition("pico")
    with contextlib.suppress(HarnessError):
        check_installation(pico)
        boards.append(pico)
    return boards


def typical(activation: str) -> Policy:
    """A policy of 6-64-64-2 with random weights."""
    model = actor((6, 64, 64, 2), activation, per_channel=True, seed=7, squash=None)
    reference = TflmRuntime(model)
    inputs = np.random.default_rng(0).integers(-128, 128, (8, reference.n_obs), dtype=np.int8)
    image = ModelImage(model=model, inputs=inputs, outputs=reference.infer_raw_batch(inputs))
    header = HEADERS / image.id / "model.h"
    image.write_header(header)
    return Policy(activation, model, header)


def opened(path: Path, name: str = "") -> Policy:
    """A bundle, or a ``.tflite``. Raises what ``open_policy`` raises."""
    bundle = open_policy(path, unnamed=True)
    return Policy(name or path.stem, bundle.model(), bundle.file(HEADER), bundle)


def convolutional() -> Policy:
    """A small image network with random weights; see ``image_network``."""
    with tempfile.TemporaryDirectory(prefix="balance-hil-") as folder:
        path = Path(folder) / "conv.tflite"
        path.write_bytes(image_network())
        return opened(path)


def measure(board: BoardDefinition, engine: str, policy: Policy) -> Measurement:
    """Builds and runs the benchmark's firmware, unless that was done before."""
    return Measurement(board.name, engine, policy, engine_cost(board, engine, policy.model, policy.header))


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
        cells = {"what": f"{ours.board} {engine} {ours.policy.name.lower()}", "metric": metric, "value": value, "unit": unit}
        if (other := base.get(key)) is not None:
            cells |= {"baseline": f"TFLM {other:,}, {when}", "ratio": value / other}
        rows.append(cells)
        if key == "inference_instructions":
            others = base.get("operator_instructions", ())
            for k, count in enumerate(ours.cost.operator_instructions):
                layer = {**cells, "metric": f"  {k} {names[k]}", "value": count, "baseline": None, "ratio": None}
                if k < len(others):
                    layer |= {"baseline": f"TFLM {others[k]:,}, {when}", "ratio": count / others[k] if others[k] else None}
                rows.append(layer)
    return rows


def _profile_rows(what: str, profile: Profile, *, with_engine: bool) -> list[dict[str, Any]]:
    """What PROFILE returned; ``with_engine``: also the engine and its operators, where no benchmark of the engine has them."""
    total, parts = profile.total, sum(profile.parts.values())
    rows = []
    if with_engine:
        rows.append(row(what, "inference", _rounded(profile.engine, profile), profile.unit))
        operators = enumerate(profile.operators)
        rows += [row(what, f"  {k} {name}", _rounded(cost, profile), profile.unit) for k, (name, cost) in operators]
    compared = f"its parts, {_rounded(parts, profile):,}"
    rows.append(row(what, "frame to frame", _rounded(total, profile), profile.unit, compared, total / parts if parts else None))
    if profile.unit == "cycles":
        rows.append(row(what, "frame to frame, time", round(profile.total_us, 1), "us"))
    named = {
        "decode": profile.decode,
        "quantize": profile.quantize,
        "engine": profile.engine,
        "dequantize": profile.dequantize,
        "encode": profile.encode,
    }
    return rows + [row(what, f"  {name}", _rounded(cost, profile), profile.unit) for name, cost in named.items()]


def _rounded(cost: float, profile: Profile) -> float:
    return round(cost, 3) if profile.unit == "us" else round(cost)


def _cost_of(measured: Measurement, rows: Sequence[Mapping[str, Any]]) -> Cost:
    """The cost of an engine alone: its image is another one than the board's, so its symbols are left out."""
    return Cost(
        board=measured.board,
        engine=measured.engine,
        policy=measured.policy.name.lower(),
        engine_version=_tflm_version() if measured.engine == "tflm" else "",
        model=model_id(measured.policy.model, None),
        compiler=image_sizes(measured.cost.image).compiler,
        firmware=firmware_commit(),
        unit="instructions",
        cost={each["metric"].strip(): each["value"] for each in rows if each["unit"] != "B"},
        memory={each["metric"]: each["value"] for each in rows if each["unit"] == "B"},
        flash={},
        ram={},
    )


def _whole_cost(
    board: str, info: BoardInfo, image: Path | None, rows: Sequence[Mapping[str, Any]], policy: str, model: str
) -> Cost:
    """The cost of a board with its firmware; its symbols where the image is known."""
    sizes = image_sizes(image) if image is not None else None
    unit = rows[0]["unit"]
    flash, ram = (sum(sizes.flash.values()), sum(sizes.ram.values())) if sizes else (info.flash, info.ram)
    memory = {"arena": info.arena_used, "stack of the board": info.stack, "flash": flash, "RAM": ram}
    return Cost(
        board=board,
        engine=printable(info.engine),
        policy=policy,
        engine_version=printable(info.engine_version),
        model=model,
        compiler=sizes.compiler if sizes else "",
        firmware=printable(info.firmware_commit),
        unit=unit,
        cost={each["metric"].strip(): each["value"] for each in rows if each["unit"] == unit},
        memory={name: value for name, value in memory.items() if value},
        flash=sizes.flash if sizes else {},
        ram=sizes.ram if sizes else {},
    )


def _merged(costs: Iterable[Cost]) -> list[Cost]:
    """One cost for each board, engine and policy: that of the engine alone and that of the board are joined."""
    found: dict[str, Cost] = {}
    for cost in costs:
        alone = found.get(cost.name)
        found[cost.name] = (
            replace(cost, cost={**alone.cost, **cost.cost}, memory={**alone.memory, **cost.memory}) if alone else cost
        )
    return list(found.values())


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
