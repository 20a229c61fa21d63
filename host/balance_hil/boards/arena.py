"""How much memory besides its weights a model needs on a 32-bit processor, for each engine, told from the model alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balance_hil.model_image import KERNELS, SHAPE_ARITHMETIC
from balance_hil.runtimes.tflm import persistent_bytes
from balance_hil.tflite.graph import Operator, Tensor, TfliteGraph

_TABLE_BYTES = 256
# Whose inner loops keep sums of all rows and a second bias; and the latter alone.
_SCRATCH_BY_ROWS, _FOLDS_BIAS = ("cortex-m0plus", "cortex-m3"), ("cortex-m55",)
_PARAMETER_BYTES = 144  # of the compact engine: more than any kernel keeps for an operator, but for its channels
_TABLED = {"SOFTMAX": 4 * 256}  # and what these keep besides
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
# Of TensorFlow Lite Micro: what it takes while it plans, for each buffer and in all; the planner that keeps tensors; what the
# firmware adds for each operator.
_PLANNING_BYTES, _OTHER_BYTES, _LINEAR_PLANNER_BYTES, _PREPARED_BYTES = 80, 512, 4128, 8
_MVE_CHANNELS = 124  # CMSIS-NN gathers the patches of so many channels at a time


@dataclass(frozen=True)
class Need:
    """Bytes of arena: the least, and those in which every tensor is kept for TENSOR."""

    least: int
    all_kept: int


def compact_need(graph: TfliteGraph, mcu: str = "") -> Need:
    """What the compact engine needs, computed like ``BuildProgram``; exact without convolutions, else an upper bound.

    ``mcu``: "cortex-m3", ...; their inner loops differ.
    """
    all_kept = _compact_bytes(graph, mcu, shares=False)
    if not graph.operator_counts().keys() & {*KERNELS, *SHAPE_ARITHMETIC}:
        return Need(all_kept, all_kept)
    return Need(min(all_kept, _compact_bytes(graph, mcu, shares=True)), all_kept)


def _compact_bytes(graph: TfliteGraph, mcu: str, *, shares: bool) -> int:
    by_rows = mcu in _SCRATCH_BY_ROWS
    step, channel = (52, 9) if by_rows or mcu in _FOLDS_BIAS else (48, 5)
    needed = step * len(graph.operators) + (
        _shared_bytes(graph, 4, ("RESHAPE",), unkept="INT32") if shares else aligned(graph.n_obs, 1)
    )
    scratch = 0
    for operator in graph.operators:
        if operator.name in SHAPE_ARITHMETIC:
            continue
        source, output = graph.tensors[operator.inputs[0]], graph.output_of(operator)
        if operator.name != "RESHAPE" and not shares:
            needed = aligned(needed, 4) + aligned(output.size * (4 if output.type == "FLOAT32" else 1), 4)
        if operator.name in _WEIGHTED:
            dense = operator.name == "FULLY_CONNECTED"
            rows = output.size if dense else output.shape[-1]
            columns = source.size if dense else _patch(graph, operator)
            needed = aligned(needed, 4) + (4 * rows if _has_no_bias(operator) else 0) + channel * rows
            if operator.name != "DEPTHWISE_CONV_2D":
                layer = 4 * aligned(rows, 4) if by_rows else 2 * aligned(columns, 8)
                scratch = max(scratch, layer + (0 if dense else aligned(columns, 4) + 8 * rows))
        if operator.name in KERNELS:
            needed = aligned(needed, 4) + _PARAMETER_BYTES + _TABLED.get(operator.name, 0)
        elif operator.name not in ("FULLY_CONNECTED", "RESHAPE", "DEQUANTIZE") and source.type != "FLOAT32":
            needed += _TABLE_BYTES
    return aligned(needed, 4) + scratch


def tflm_need(graph: TfliteGraph, model: bytes, mve: bool = False) -> Need:
    """An upper bound of what TensorFlow Lite Micro needs, with its own kernels and with those of CMSIS-NN.

    What belongs to the model all the time is measured with the desktop's library, whose pointers are twice as wide. Tensors and
    scratch memory are planned like TFLM plans them, with the most scratch memory that CMSIS-NN demands; ``mve``: on Cortex-M55.

    Raises:
        UnsupportedOperatorError: TFLM does not run the model.
        MissingExtraError: its wheel is not installed.
    """
    scratch = [_scratch_bytes(graph, operator, mve) for operator in graph.operators]
    tensors = [tensor for tensor in graph.tensors if not tensor.constant]
    own = (
        persistent_bytes(model) + _PREPARED_BYTES * len(scratch) + _PLANNING_BYTES * (len(tensors) + len(scratch)) + _OTHER_BYTES
    )
    kept = sum(aligned(bytes_of(tensor), 16) for tensor in tensors) + sum(aligned(each, 16) for each in scratch)
    return Need(own + _shared_bytes(graph, 16, (), scratch), own + kept + _LINEAR_PLANNER_BYTES)


def _scratch_bytes(graph: TfliteGraph, operator: Operator, mve: bool) -> int:
    """The most that a kernel of TFLM or CMSIS-NN demands for one operator."""
    output = graph.output_of(operator)
    channels = output.shape[-1] if output.shape else 1
    if operator.name in ("MEAN", "SUM", "REDUCE_MAX"):
        return 64 + 8 * output.size
    if operator.name not in _WEIGHTED:
        return 4 * channels
    columns = _patch(graph, operator)
    if not mve or operator.name == "FULLY_CONNECTED":
        gathered = 4 * aligned(columns, 4) + 4 * channels
    elif operator.name == "DEPTHWISE_CONV_2D":
        taps = columns // graph.tensors[operator.inputs[0]].shape[-1]
        gathered = max(4 * _MVE_CHANNELS * taps, 4 * aligned(columns, 16) + taps * channels)
    else:
        gathered = 4 * aligned(columns, 16)
    return gathered + (4 * output.size if operator.name == "TRANSPOSE_CONV" else 0)


def _patch(graph: TfliteGraph, operator: Operator) -> int:
    """Inputs of an output: of one pixel of a convolution, of one row of a dense layer."""
    weights = graph.tensors[operator.inputs[1]].shape
    if operator.name == "FULLY_CONNECTED":
        return int(weights[-1])
    if operator.name == "DEPTHWISE_CONV_2D":
        return int(weights[1] * weights[2]) * int(graph.tensors[operator.inputs[0]].shape[-1])
    return int(weights[1] * weights[2] * weights[3])


def _shared_bytes(
    graph: TfliteGraph, alignment: int, aliases: Sequence[str], scratch: Sequence[int] = (), unkept: str = ""
) -> int:
    """Memory in which tensors overlap that are never needed at once: the largest first, each at the lowest place.

    ``aliases``: operators whose output is their input. ``scratch``: bytes that each operator needs while it runs.
    ``unkept``: type of tensors that take no memory.
    """
    first, last, owner = {graph.input.index: 0}, {graph.input.index: 0}, {graph.input.index: graph.input.index}
    for time, operator in enumerate(graph.operators, start=1):
        for number in operator.inputs:
            if number in owner:
                last[owner[number]] = time
        for number in operator.outputs:
            first[number] = last[number] = time
            owner[number] = owner[operator.inputs[0]] if operator.name in aliases else number
    last[owner[graph.output.index]] = len(graph.operators) + 1
    blocks = [
        (aligned(bytes_of(graph.tensors[n]), alignment), first[n], last[n])
        for n, at in owner.items()
        if n == at and graph.tensors[n].type != unkept
    ]
    blocks += [(aligned(size, alignment), time, time) for time, size in enumerate(scratch, start=1)]
    placed: list[tuple[int, int, int, int]] = []
    for size, begin, end in sorted(blocks, key=lambda block: -block[0]):
        place = 0
        for at, behind, _, _ in sorted(other for other in placed if other[2] <= end and begin <= other[3]):
            if at >= place + size:
                break
            place = max(place, behind)
        placed.append((place, place + size, begin, end))
    return max(behind for _, behind, _, _ in placed)


def bytes_of(tensor: Tensor) -> int:
    """What a tensor takes."""
    return tensor.size * {"INT8": 1, "UINT8": 1, "BOOL": 1, "INT16": 2, "INT64": 8}.get(tensor.type, 4)


def _has_no_bias(operator: Operator) -> bool:
    return len(operator.inputs) < 3 or operator.inputs[2] < 0


def aligned(size: int, to: int) -> int:
    """``size`` bytes up to the next multiple of ``to``."""
    return (size + to - 1) // to * to
