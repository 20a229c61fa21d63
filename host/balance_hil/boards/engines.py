"""The firmware's two engines: which one a board uses, and whether it can run a model.

One rule for every board: TensorFlow Lite Micro ("tflm") if its library is available, else the compact engine ("int8"). The choice
is reported.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from balance_hil.boards.arena import Need, aligned, bytes_of, compact_need, tflm_need
from balance_hil.boards.definition import SHIPPED as SHIPPED_BOARDS
from balance_hil.boards.definition import BoardDefinition, load_definitions
from balance_hil.errors import (
    ArenaTooSmallError,
    FirmwareBuildError,
    HarnessError,
    MissingExtraError,
    ModelTooWideError,
    UnsupportedOperatorError,
    UsageError,
)
from balance_hil.firmware_build import TFLM_LIBRARY
from balance_hil.model_image import KERNELS, MAX_ACT, MAX_OBS, SHAPE_ARITHMETIC
from balance_hil.paths import SHIPPED
from balance_hil.quantize import INT8, ElementType
from balance_hil.tflite.graph import Operator, TfliteGraph, read_graph

TFLM, COMPACT = "tflm", "int8"
ENGINES = (TFLM, COMPACT)
ALTERNATIVES = ("qemu-m4", "native")  # the emulated board with the most memory, and the one that runs everything
_TFLM_LIST = SHIPPED / "firmware/lib/engine_tflm/include/engine_tflm/operators.h"
MAX_VALUES = 1 << 18  # bytes of inputs or of outputs: HIL_MAX_OBS and HIL_MAX_ACT of the native board
# Operators of each engine. The native board's tflm has every operator of the library.
OPERATORS = {
    COMPACT: (
        *("FULLY_CONNECTED", "TANH", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1"),
        *("QUANTIZE", "DEQUANTIZE", "RESHAPE"),
        *KERNELS,
        *SHAPE_ARITHMETIC,  # of int32: see _lacks
    ),
    TFLM: tuple(re.findall(r"^ *X\((\w+),", _TFLM_LIST.read_text(), re.MULTILINE)),
}
DEFAULT_ARENA_BYTES = 16_384  # HIL_ARENA_BYTES of the firmware
_DESKTOP = "compare it on the desktop: hil compare MODEL without --board"
_WITH_LIBRARY = f"use TensorFlow Lite Micro, --engine tflm, whose library {TFLM_LIBRARY} names: docs/boards.md"
_FIRMWARE_BYTES = {COMPACT: 24_000, TFLM: 50_000}  # of flash that the smallest image takes besides its model

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


def check_element_type(engine: str, kind: ElementType, where: str) -> None:
    """Raises UsageError for a model that the compact engine does not run, whatever its operators."""
    if engine == COMPACT and kind != INT8:
        raise UsageError(
            f"the compact engine, int8, on {where} runs int8 models, this one is {kind.name}",
            "use TensorFlow Lite Micro: --engine tflm, or --board native; or an int8 model: hil export --quantize int8",
        )


def check_fits(definition: BoardDefinition, model: bytes, engine: str) -> int:
    """Raises if a board cannot run a model, judging by the model alone: nothing is built or started.

    The board itself checks more and may still reject the model.

    Returns:
        Bytes of arena that its image must have; 0: the firmware's default, or what the board's file says, is enough.

    Raises:
        BundleError, ElementTypeError: not a model of a supported element type.
        UsageError: of an element type that the engine does not run.
        ModelTooWideError: more inputs or outputs than any board takes; required size and limit in bytes.
        UnsupportedOperatorError: the engine lacks an operator; the message names it.
        ArenaTooSmallError: the engine needs more memory than the board has; required size and limit in bytes.
        FirmwareBuildError: the image is larger than the flash; required size and limit in bytes.
    """
    try:
        graph = read_graph(model)
    except MissingExtraError:  # the reader is not installed: the board reports it later
        return 0
    _ = graph.input_quant, graph.output_quant  # raises for a model of no supported element type
    check_element_type(engine, graph.kind, definition.name)
    width = graph.kind.dtype.itemsize
    for what, size in (("inputs", width * graph.n_obs), ("outputs", width * graph.n_act)):
        if size > MAX_VALUES:
            raise ModelTooWideError(
                f"the model is too wide for {definition.name}: its {what} take {size} bytes, a board has room for {MAX_VALUES}",
                _DESKTOP,
            )
    try:
        return _arena_bytes(definition, graph, model, engine)
    except (UnsupportedOperatorError, FirmwareBuildError, ArenaTooSmallError) as exc:
        others = _others_that_fit(definition, graph, model, engine)
        exc.hint = "; or ".join(filter(None, (f"use what runs this model: {others}" if others else "", exc.hint)))
        raise


def _arena_bytes(definition: BoardDefinition, graph: TfliteGraph, model: bytes, engine: str) -> int:
    """See ``check_fits``; the hints of what this raises say what else could be done."""
    native = definition.kind == "native"
    missing = next((op for op in graph.operators if _lacks(engine, graph, op)), None)
    if missing is not None and not (native and engine == TFLM):
        kind = f" of {graph.output_of(missing).type}" if missing.name in OPERATORS[engine] else ""
        names = [f"{name} (INT32)" if name in SHAPE_ARITHMETIC and engine == COMPACT else name for name in OPERATORS[engine]]
        raise UnsupportedOperatorError(
            f"{engine} on {definition.name} cannot run an operator of the model: {missing.name}{kind} (number {missing.index}); "
            f"it runs {', '.join(names)}",
            _WITH_LIBRARY if missing.name in OPERATORS[TFLM] and not native and _tflm_missing(definition) else _DESKTOP,
        )
    if native:  # takes what it needs
        return 0
    chip = _chip(definition)
    flash, image = definition.flash_bytes or chip.get("upload", {}).get("maximum_size", 0), len(model) + _FIRMWARE_BYTES[engine]
    if flash and image > flash:
        raise FirmwareBuildError(
            f"the model is too large for {definition.name}: its {len(model)} bytes make an image of at least {image} bytes, "
            f"the flash has {flash}",
            f"export a model of at most {flash - _FIRMWARE_BYTES[engine]} bytes: fewer or narrower layers",
        )
    room = definition.arena_bytes if definition.hal else chip.get("build", {}).get("arena_bytes", 0)
    # Input, output and action lie outside the arena, twice.
    width = graph.kind.dtype.itemsize
    more = 2 * (max(0, width * graph.n_obs - MAX_OBS) + (width + 4) * max(0, graph.n_act - MAX_ACT))
    more = 0 if definition.hal else more
    limit = room - more
    own = re.search(r"-mcpu=(\S+)", definition.cpu_flags)
    mcu = own[1] if own else chip.get("build", {}).get("mcu", "")
    if engine == COMPACT:
        need = compact_need(graph, mcu)
    else:
        try:
            need = tflm_need(graph, model, mcu == "cortex-m55")
        except MissingExtraError:  # nobody here measures it: all that there is
            need = Need(0, limit)
    if room and need.least > limit:
        raise ArenaTooSmallError(
            f"{engine} needs {need.least + more} bytes of memory besides the model, {definition.name} has {room} for it",
            f"make {_largest(graph)}, smaller"
            + (f"; or set arena_bytes to {aligned(need.least, 16)} in {definition.file}" if definition.hal else ""),
            need.least,
        )
    wanted = need.all_kept if not room or need.all_kept <= limit else max(need.least, limit)
    return 0 if definition.hal or wanted <= DEFAULT_ARENA_BYTES else aligned(wanted, 16)


def _lacks(engine: str, graph: TfliteGraph, operator: Operator) -> bool:
    """Whether an engine does not run an operator. Of int32, the compact one has those alone that compute RESHAPE's shape."""
    if operator.name not in OPERATORS[engine]:
        return True
    return engine == COMPACT and (graph.output_of(operator).type == "INT32") != (operator.name in SHAPE_ARITHMETIC)


def _largest(graph: TfliteGraph) -> str:
    """The tensor that takes the most memory."""
    tensors = {f"the output of {op.name} (number {op.index})": graph.output_of(op) for op in graph.operators}
    sizes = {name: bytes_of(tensor) for name, tensor in {"the input": graph.input, **tensors}.items()}
    name = max(sizes, key=lambda name: sizes[name])
    return f"the largest tensor, {name} of {sizes[name]} bytes"


def _others_that_fit(definition: BoardDefinition, graph: TfliteGraph, model: bytes, engine: str) -> str:
    """Options that choose an engine or a board that runs a model, of this board if there is one; "" if there is none."""
    boards = {board.name: board for board in (definition, *load_definitions(SHIPPED_BOARDS).values())}
    for board in (definition, *(boards[name] for name in ALTERNATIVES)):
        for other in (COMPACT, TFLM):
            if (board, other) == (definition, engine) or (other == TFLM and _tflm_missing(board)):
                continue
            try:
                _arena_bytes(board, graph, model, other)
            except HarnessError:
                continue
            return f"--engine {other}" if board is definition else f"--board {board.name} --engine {other}"
    return ""


def _chip(definition: BoardDefinition) -> dict[str, Any]:
    """What is known of a board whose image the project's own platform builds: its PlatformIO file; else nothing."""
    file = SHIPPED / f"firmware/platform/boards/{definition.environment}.json"
    return dict(json.loads(file.read_text())) if file.is_file() and not definition.hal else {}
