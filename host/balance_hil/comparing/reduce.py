"""The smallest model and one row that still show a difference of two sides, or a crash of one.

rows       the first row on which they differ, or the fewest rows that together show it
operators  the shortest run of operators that differs on equal inputs; other tensors that it reads become constants
channels   of the output, then height and width, then channels of the input; what is left out goes into the bias
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.attribution import Observed, attribute
from balance_hil.comparing.identification import EXPECTED_VARIANTS, identify_by_outputs
from balance_hil.comparing.samples import Progress, no_progress
from balance_hil.errors import (
    ArenaTooSmallError,
    BoardBootError,
    BoardRebootedError,
    BoardStatusError,
    BundleError,
    CableUnpluggedError,
    ElementTypeError,
    HarnessError,
    ModelTooWideError,
    ReplyTimeoutError,
    SilentBoardError,
    UnsupportedOperatorError,
)
from balance_hil.quantize import RawArray
from balance_hil.runtimes.emulated import Variant
from balance_hil.runtimes.emulated.rules import TFLM
from balance_hil.runtimes.isolated import RuntimeCrashError
from balance_hil.tflite.cut import Cut, crop, is_end, keep_inputs, keep_outputs, window
from balance_hil.tflite.graph import TfliteGraph, read_graph

TIME_LIMIT_S = 120.0
_CRASHES = (
    RuntimeCrashError,
    BoardBootError,
    BoardRebootedError,
    CableUnpluggedError,
    ReplyTimeoutError,
    SilentBoardError,
)
_REFUSALS = (
    ArenaTooSmallError,
    BoardStatusError,
    BundleError,
    ElementTypeError,
    ModelTooWideError,
    UnsupportedOperatorError,
)
_FIRST_ROWS = 64  # tried before all of them
_MOST_CUT_ROWS = 32  # on which a run of operators is tried
_MOST_SINGLE = 24  # channels that are tried alone
_MOST_CHANNELS = 4096  # of which parts are left out: a file may declare any number
_MOST_STARTS = 40  # places of a window that are tried
_WINDOWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Side(Protocol):
    """A runtime or a board that takes one model after the other."""

    name: str

    def infer_raw_batch(self, model: bytes, rows: RawArray) -> RawArray:
        """Outputs [n, n_act]. Raises one of _CRASHES or _REFUSALS."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What two sides give for the same rows; None: it crashed, or refused."""

    a: RawArray | None
    b: RawArray | None
    crashed: str = ""  # the side that crashed, and how
    refused: str = ""  # a side that refuses the model, and why

    @property
    def differing(self) -> NDArray[np.intp]:
        """Numbers of the rows that differ."""
        if self.a is None or self.b is None:
            return np.zeros(0, np.intp)
        return np.flatnonzero(np.any(self.a != self.b, axis=1))


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """The smallest case that was found."""

    a: str
    b: str
    model: bytes
    rows: RawArray  # [n, n_obs], one row unless the difference needs several
    answers: Answers
    cause: str
    tried: int  # candidates
    complete: bool  # False: the time was over before nothing could be left out any more

    @property
    def graph(self) -> TfliteGraph:
        """Of the model."""
        return read_graph(self.model)


@dataclass
class _Search:
    a: Side
    b: Side
    deadline: float
    report: Progress
    crash: bool = False  # whether a crash is looked for, and not a difference
    tried: int = 0
    shown: Answers | None = None  # of the last candidate that showed it
    started: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    def ask(self, model: bytes, rows: RawArray) -> Answers:
        self.tried += 1
        total = max(1, round(self.deadline - self.started))
        self.report("candidates: seconds", min(total, round(time.monotonic() - self.started)), total)
        found: list[RawArray | None] = []
        crashed = refused = ""
        for side in (self.a, self.b):
            try:
                found.append(side.infer_raw_batch(model, rows))
            except _CRASHES as exc:
                found.append(None)
                crashed = crashed or f"{side.name}: {exc.message}"
            except _REFUSALS as exc:
                found.append(None)
                refused = refused or f"{side.name}: {exc.message}"
        return Answers(a=found[0], b=found[1], crashed=crashed, refused=refused)

    def shows(self, model: bytes, rows: RawArray) -> bool:
        """Whether a candidate still shows what is looked for."""
        answers = self.ask(model, rows)
        if self.is_shown_by(answers):
            self.shown = answers
        return self.is_shown_by(answers)

    def is_shown_by(self, answers: Answers) -> bool:
        """Whether answers show it."""
        return bool(answers.crashed) if self.crash else bool(len(answers.differing))


def reduce(
    model: bytes,
    rows: RawArray,
    a: Side,
    b: Side,
    *,
    limit_s: float = TIME_LIMIT_S,
    on_progress: Progress = no_progress,
) -> Reduced | None:
    """Reduces a difference of two sides, or a crash of one; None: there is neither on these rows.

    Args:
        model: bytes of an int8 or int16x8 ``.tflite``.
        rows: raw values [n, n_obs], those to be tried.
        a: a board, or a runtime.
        b: what it is held against.
        limit_s: time after which the smallest case found so far is taken.
        on_progress: called with the seconds that have passed.

    Raises:
        UnsupportedOperatorError: a side refuses the model.
        HarnessError: whatever a side raises when it cannot be started.
    """
    search = _Search(a, b, time.monotonic() + limit_s, on_progress)
    answers = Answers(a=None, b=None)
    for tried in dict.fromkeys((min(_FIRST_ROWS, len(rows)), len(rows))):
        answers = search.ask(model, rows[:tried])
        if answers.crashed or answers.refused or len(answers.differing):
            rows = rows[:tried]
            break
    if not answers.crashed and answers.refused:
        raise UnsupportedOperatorError(answers.refused, "compare others: --runtimes")
    search.crash = bool(answers.crashed)
    if not search.crash and not len(answers.differing):
        return None
    variants = _variants(model, rows, answers, a, b)
    rows = _fewest_rows(search, model, rows, answers)
    model, rows = _shortest_window(search, model, rows)
    model, rows = _smallest_shapes(search, model, rows)
    complete = not search.is_over
    final = search.ask(model, rows)
    again = search.is_shown_by(final)
    if not again:  # a runtime that reads memory of others crashes now and then
        final = search.shown or answers
    cause = final.crashed or _cause(model, rows, final, a, b, variants)
    return Reduced(
        a=a.name,
        b=b.name,
        model=model,
        rows=rows,
        answers=final,
        cause=cause if again else f"{cause}; not each time",
        tried=search.tried,
        complete=complete,
    )


# --- rows -----------------------------------------------------------------------------------------------------------------


def _fewest_rows(search: _Search, model: bytes, rows: RawArray, answers: Answers) -> RawArray:
    """One row that shows it alone; else the fewest in their order."""
    chosen = answers.differing if not search.crash else range(len(rows))
    for row in list(chosen)[:_MOST_SINGLE]:
        if search.is_over:
            return rows
        if search.shows(model, rows[row : row + 1]):
            return rows[row : row + 1]
    return rows[_fewest(list(range(len(rows))), lambda kept: search.shows(model, rows[kept]), search)]


def _fewest(items: list[int], shows: Callable[[list[int]], bool], search: _Search) -> list[int]:
    """As few of ``items`` as still show it: parts are left out, smaller ones each time (delta debugging)."""
    size = len(items) // 2
    while size >= 1:
        start = 0
        while start < len(items) and not search.is_over:
            rest = items[:start] + items[start + size :]
            if rest and shows(rest):
                items = rest
            else:
                start += size
        size //= 2
    return items


# --- operators ------------------------------------------------------------------------------------------------------------


def _shortest_window(search: _Search, model: bytes, rows: RawArray) -> Cut:
    """The shortest run of operators that shows it on inputs that one of the sides computes."""
    graph = read_graph(model)
    count = len(graph.operators)
    values = _Values(search, model, graph, rows)
    length = 1
    while length < count and not search.is_over:
        for first in range(count - length + 1):
            for cut in _windows(model, graph, first, first + length - 1, values):
                if search.is_over:
                    return model, rows
                if search.shows(*cut):
                    single = next((i for i in range(len(cut[1])) if search.shows(cut[0], cut[1][i : i + 1])), None)
                    return cut[0], cut[1] if single is None else cut[1][single : single + 1]
        length += 1 if length < 4 else length // 2
    return model, rows


def _windows(model: bytes, graph: TfliteGraph, first: int, last: int, values: _Values) -> Iterator[Cut]:
    """The model of some operators, for each of the tensors that it reads as its input."""
    inside = graph.operators[first : last + 1]
    made = {index for operator in inside for index in operator.outputs}
    reads = dict.fromkeys(index for operator in inside for index in operator.inputs if index >= 0 and index not in made)
    outer = [index for index in reads if not graph.tensors[index].constant and not graph.tensors[index].variable]
    last_tensor = graph.output_of(inside[-1])
    if not is_end(last_tensor):
        return
    for source in outer:
        if not is_end(graph.tensors[source]):
            continue
        inputs = values.of(source)
        if inputs is None:
            continue
        others = {index: values.of(index) for index in outer if index != source}
        if any(each is None for each in others.values()):
            continue
        frozen = {i: each[0].reshape(graph.tensors[i].shape) for i, each in others.items() if each is not None}
        yield window(model, first, last, source, frozen), inputs if not frozen else inputs[:1]


class _Values:
    """Values of tensors for the rows, by models that end in them."""

    def __init__(self, search: _Search, model: bytes, graph: TfliteGraph, rows: RawArray) -> None:
        self._search, self._model, self._graph = search, model, graph
        self._rows = rows[:_MOST_CUT_ROWS]
        self._known: dict[int, RawArray | None] = {graph.input.index: self._rows}

    def of(self, index: int) -> RawArray | None:
        """Raw values [n, size]; None where no side computes it."""
        if index not in self._known:
            self._known[index] = self._computed(index)
        return self._known[index]

    def _computed(self, index: int) -> RawArray | None:
        graph = self._graph
        writer = next((operator.index for operator in graph.operators if index in operator.outputs), None)
        if writer is None or graph.operators[writer].outputs[0] != index or not is_end(graph.tensors[index]):
            return None
        part = window(self._model, 0, writer, graph.input.index, {})  # whole operators: it cannot fail
        for side in (self._search.b, self._search.a):
            try:
                return side.infer_raw_batch(part, self._rows)
            except HarnessError:
                continue
        return None


# --- shapes ---------------------------------------------------------------------------------------------------------------


def _smallest_shapes(search: _Search, model: bytes, rows: RawArray) -> Cut:
    """Fewer channels and pixels, as long as the operator allows it."""
    case: Cut = (model, rows)
    if len(rows) != 1:
        return case
    case = _fewer_channels(search, case, keep_outputs, read_graph(model).output.shape)
    for axis in (1, 2):
        case = _smaller_image(search, case, axis)
    shape = read_graph(case[0]).input.shape
    for fold in (True, False):
        case = _fewer_channels(search, case, partial(keep_inputs, fold=fold), shape)
        shape = read_graph(case[0]).input.shape
    return case


def _fewer_channels(
    search: _Search, case: Cut, keep: Callable[[bytes, RawArray, Sequence[int]], Cut | None], shape: Sequence[int]
) -> Cut:
    count = shape[-1] if shape else 1
    cuts: dict[tuple[int, ...], Cut] = {}

    def shows(kept: list[int]) -> bool:
        cut = _made(lambda: keep(*case, kept))
        if cut is None or not search.shows(*cut):
            return False
        cuts[tuple(kept)] = cut
        return True

    if count <= 1 or search.is_over or _made(lambda: keep(*case, list(range(count - 1)))) is None:
        return case  # nothing can be left out, or the operator does not allow it
    for channel in range(min(count, _MOST_SINGLE)):
        if not search.is_over and shows([channel]):
            return cuts[channel,]
    if count > _MOST_CHANNELS:
        return case
    kept = _fewest(list(range(count)), shows, search)
    return cuts.get(tuple(kept), case)


def _made(cut: Callable[[], Cut | None]) -> Cut | None:
    """A cut; None also where the shapes of a model, which may be made to crash a runtime, do not fit each other."""
    try:
        return cut()
    except (ArithmeticError, AttributeError, HarnessError, LookupError, TypeError, ValueError):
        return None


def _smaller_image(search: _Search, case: Cut, axis: int) -> Cut:
    shape = read_graph(case[0]).input.shape
    if len(shape) != 4:
        return case
    for size in (size for size in _WINDOWS if size < shape[axis]):
        for start in range(min(shape[axis] - size + 1, _MOST_STARTS)):
            cut = _made(partial(crop, *case, axis, start, start + size))
            if search.is_over:
                return case
            if cut is not None and search.shows(*cut):
                return cut
    return case


# --- the cause ------------------------------------------------------------------------------------------------------------


def _variants(model: bytes, rows: RawArray, answers: Answers, a: Side, b: Side) -> tuple[Variant, Variant] | None:
    """The arithmetic of each side, found on the whole model; None: an operator is not emulated, or a side crashes."""
    if answers.a is None or answers.b is None:
        return None
    graph, found = read_graph(model), []
    try:
        for side, outputs in ((a, answers.a), (b, answers.b)):
            expected = EXPECTED_VARIANTS.get(side.name)
            found.append(expected or identify_by_outputs(side.name, graph, rows, outputs).closest.variant)
    except HarnessError:
        return None
    return found[0], found[1]


def _cause(model: bytes, rows: RawArray, answers: Answers, a: Side, b: Side, variants: tuple[Variant, Variant] | None) -> str:
    """Why the outputs differ."""
    if answers.a is None or answers.b is None:
        return "a side does not answer"
    try:
        pair = variants or (TFLM, TFLM)
        seen = [Observed(name=s.name, variant=v, outputs=o) for s, v, o in
                zip((a, b), pair, (answers.a, answers.b), strict=True)]  # fmt: skip
        found = attribute(read_graph(model), rows, *seen)
    except HarnessError as exc:
        return f"not attributed: {exc.message}"
    names = [*found.causes, *(["unexplained: no known arithmetic gives these outputs"] if found.unexplained else [])]
    boards = [variant.title for side, variant in zip((a, b), pair, strict=True) if side.name not in EXPECTED_VARIANTS]
    how = f" (the board computes like {boards[0]})" if boards and variants and found.causes else ""
    return (", ".join(names) or "unexplained") + how
