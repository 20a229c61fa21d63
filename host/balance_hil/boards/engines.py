"""The firmware's two engines: which one a board uses, and whether it can run a model.

One rule for every board: TensorFlow Lite Micro ("tflm") if its library is available, else the compact engine ("int8"). The choice
is reported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec

from balance_hil.boards.definition import BoardDefinition
from balance_hil.errors import (
    ArenaTooSmallError,
    FirmwareBuildError,
    MissingExtraError,
    ModelTooWideError,
    UnsupportedOperatorError,
    UsageError,
)
from balance_hil.firmware_build import TFLM_LIBRARY
from balance_hil.model_image import KERNELS
from balance_hil.paths import SHIPPED
from balance_hil.protocol import messages
from balance_hil.tflite.graph import Operator, TfliteGraph, read_graph

TFLM, COMPACT = "tflm", "int8"
ENGINES = (TFLM, COMPACT)
MAX_OBS, MAX_ACT = 255, 64  # kMaxObs, kMaxAct of the firmware
# Operators of each engine. The native board's tflm has every operator of the library.
OPERATORS = {
    COMPACT: (
        *("FULLY_CONNECTED", "TANH", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1"),
        *("QUANTIZE", "DEQUANTIZE", "RESHAPE"),
        *KERNELS,
    ),
    TFLM: ("FULLY_CONNECTED", "RELU", "TANH"),
}
_STEP_BYTES = 48  # sizeof(Step) of the compact engine on a 32-bit processor
_TABLE_BYTES = 256

Progress = Callable[[str], None]


def choose_engine(definition: BoardDefinition, wanted: str | None, progress: Progress | None = None) -> str:
    """The engine for a board: the requested one, the one in its file, or by the rule; then ``progress`` gets the reason.

    Raises:
        UsageError: unknown engine.
    """
    named = wanted or definition.engine
    if named and named not in ENGINES:
        raise UsageError(f"the board {definition.name} has no engine {named!r}", f"choose one of {', '.join(ENGINES)}")
    missing = None if named else _tflm_missing(definition)
    if missing and progress is not None:
        progress(f"{definition.name} uses the compact engine, int8: {missing}")
    return named or (COMPACT if missing else TFLM)


def _tflm_missing(definition: BoardDefinition) -> str | None:
    if definition.kind == "native":
        return None if find_spec("tflite_micro") else "the tflite-micro wheel is not installed"
    return None if os.environ.get(TFLM_LIBRARY) else f"{TFLM_LIBRARY} does not name a TensorFlow Lite Micro library"


def check_fits(definition: BoardDefinition, model: bytes, engine: str) -> None:
    """Raises if a board cannot run a model, judging by the model alone: nothing is built or started.

    The board itself checks more and may still reject the model.

    Raises:
        BundleError, ModelNotInt8Error: not a model with int8 input and output.
        ModelTooWideError: more inputs or outputs than a protocol message holds; required size and limit in bytes.
        UnsupportedOperatorError: the engine lacks an operator; the message names it.
        ArenaTooSmallError: the compact engine needs more memory than the image has; required size and limit in bytes.
        FirmwareBuildError: the model alone is larger than the flash; required size and limit in bytes.
    """
    try:
        graph = read_graph(model)
    except MissingExtraError:  # the reader is not installed: the board reports it later
        return
    _ = graph.input_quant, graph.output_quant  # raises for a float model
    rooms = (
        ("inputs", graph.n_obs, 2 + 4 * graph.n_obs, messages.MAX_PAYLOAD),
        ("outputs", graph.n_act, 4 * graph.n_act, 4 * MAX_ACT),
    )
    for what, count, need, limit in rooms:
        if need > limit:
            raise ModelTooWideError(
                f"the model is too wide for {definition.name}: its {count} {what} take {need} bytes, a message holds {limit}",
                f"use at most {MAX_OBS} inputs and {MAX_ACT} outputs; hil compare without --board accepts any number",
            )
    if definition.kind == "native" and engine == TFLM:
        return
    for operator in graph.operators:
        if operator.name not in OPERATORS[engine]:
            raise UnsupportedOperatorError(
                f"{engine} on {definition.name} cannot run an operator of the model: {operator.name} (number {operator.index}); "
                f"it runs {', '.join(OPERATORS[engine])}",
                f"use what runs this model: {_capable(graph)}; or export only the deterministic actor",
            )
    flash = flash_bytes(definition)
    if flash and len(model) > flash:
        raise FirmwareBuildError(
            f"the model is too large for {definition.name}: it has {len(model)} bytes, the flash {flash}",
            "take a board with more flash, or the one without a limit: --board native",
        )
    if not KERNELS.keys().isdisjoint(graph.operator_counts()):  # whose tensors share memory: the board tells what it needs
        return
    needed = arena_bytes(graph)
    if engine == COMPACT and definition.kind != "native" and needed > definition.arena_bytes:  # native takes what it needs
        place = (
            f"arena_bytes in {definition.file}" if definition.hal else "kArenaBytes in firmware/src/board_engine/board_engine.h"
        )
        raise ArenaTooSmallError(
            f"the model needs {needed} bytes of memory besides its weights, {definition.name} has {definition.arena_bytes}",
            f"train a smaller network, or raise {place}",
            needed,
        )


def _capable(graph: TfliteGraph) -> str:
    """Options that choose an engine with every operator of a model: the compact one, else the native board's library."""
    has_all = all(operator.name in OPERATORS[COMPACT] for operator in graph.operators)
    return f"--engine {COMPACT}" if has_all else f"--board native --engine {TFLM}"


def flash_bytes(definition: BoardDefinition) -> int:
    """Flash of a board whose image the project's own platform builds; 0: not known here, the linker knows it."""
    file = SHIPPED / f"firmware/platform/boards/{definition.environment}.json"
    return int(json.loads(file.read_text())["upload"]["maximum_size"]) if file.is_file() else 0


def arena_bytes(graph: TfliteGraph) -> int:
    """Arena bytes that the compact engine needs on a 32-bit processor, computed like ``BuildProgram``."""
    needed = _aligned(_STEP_BYTES * len(graph.operators) + graph.n_obs, 1)
    widest = 0
    for operator in graph.operators:
        output = graph.output_of(operator)
        if operator.name != "RESHAPE":
            needed = _aligned(needed, 4) + _aligned(output.size * (4 if output.type == "FLOAT32" else 1), 4)
        if operator.name == "FULLY_CONNECTED":
            widest = max(widest, graph.tensors[operator.inputs[0]].size)
            needed = _aligned(needed, 4) + (4 * output.size if _has_no_bias(operator) else 0) + 5 * output.size
        elif operator.name not in ("RESHAPE", "DEQUANTIZE") and not _from_float(graph, operator):
            needed += _TABLE_BYTES
    return _aligned(needed, 4) + _aligned(widest, 8) * 2


def _has_no_bias(operator: Operator) -> bool:
    return len(operator.inputs) < 3 or operator.inputs[2] < 0


def _from_float(graph: TfliteGraph, operator: Operator) -> bool:
    return graph.tensors[operator.inputs[0]].type == "FLOAT32"


def _aligned(size: int, to: int) -> int:
    return (size + to - 1) // to * to
