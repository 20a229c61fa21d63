"""A reduced case as a folder: the model, the row, both outputs, the cause, and a test that fails where they differ.

model.tflite   case.json   test_reduced.py
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from balance_hil import __version__
from balance_hil.boards import Board, connect
from balance_hil.boards.upload import transfer
from balance_hil.bundle import model_id
from balance_hil.comparing.comparison import BOARD, REFERENCE
from balance_hil.comparing.reduce import Reduced
from balance_hil.errors import BoardStatusError, BundleError, HarnessError, LinkError, UnsupportedOperatorError, UsageError
from balance_hil.files import parse_json, read_limited, staging_folder
from balance_hil.model_image import ModelImage
from balance_hil.quantize import ElementType, RawArray
from balance_hil.runtimes.isolated import IsolatedRuntime, RuntimeCrashError
from balance_hil.tflite.graph import read_graph

SCHEMA = "balance_hil/reduced@2"
MODEL, CASE, TEST = "model.tflite", "case.json", "test_reduced.py"
_MOST_BYTES = 64 << 20
_MOST_FOLDERS = 10_000

_HEADER = '''"""{a} and {b} give different outputs for one row; written by hil compare --reduce.

Cause: {cause}
"""

from pathlib import Path

from balance_hil.comparing import reduced_case

FOLDER = Path(__file__).parent
'''
_OF_BOARD = """

def test_the_board_gives_the_expected_outputs(hil_board_name, hil_port, hil_baud, hil_engine, hil_wait, hil_broken):
    reduced_case.check_board(
        FOLDER, hil_board_name, port=hil_port, baud=hil_baud, engine=hil_engine, wait_s=hil_wait, firmware_fault=hil_broken
    )
"""
_OF_RUNTIMES = """

def test_the_runtimes_agree():
    reduced_case.check_runtimes(FOLDER)
"""


class Connect(Protocol):
    """Opens the board that is reduced."""

    def __call__(self, model: Path | None) -> Board:
        """An emulated board with a model, or, with None, the board that is there."""


class BoardSide:
    """A board that takes one model after the other: an emulated one is started with each, another one is sent it.

    Args:
        connect_with: opens it.
        is_started: whether ``connect_with`` starts it with a model.
        predict: outputs that it may give, for the vectors without which a board takes no upload.
    """

    name = BOARD

    def __init__(
        self, connect_with: Connect, *, is_started: bool, predict: Callable[[bytes, RawArray], Iterator[RawArray]]
    ) -> None:
        self._connect, self._is_started, self._predict = connect_with, is_started, predict

    def infer_raw_batch(self, model: bytes, rows: RawArray) -> RawArray:
        """Outputs [n, n_act]. Raises LinkError where the board is lost, another HarnessError where it refuses the model."""
        with self._with(model, rows) as board:
            outputs = [action.output for action in board.infer_raw_batch(rows)]
        return np.array(outputs, rows.dtype).reshape(len(rows), -1)

    @contextlib.contextmanager
    def _with(self, model: bytes, rows: RawArray) -> Iterator[Board]:
        if self._is_started:
            with tempfile.TemporaryDirectory(prefix="balance-hil-") as folder:
                path = Path(folder) / MODEL
                path.write_bytes(model)
                with self._connect(path) as board:
                    yield board
            return
        with self._connect(None) as board:
            if board.info.model_id != model_id(model):
                self._send(board, model, rows[:1])
            try:
                yield board
            finally:
                with contextlib.suppress(HarnessError):  # back to the model that was flashed
                    board.reset()

    def _send(self, board: Board, model: bytes, row: RawArray) -> None:
        """Uploads a model with a vector that the board reproduces."""
        if not board.info.upload_size:
            raise UsageError(
                f"the board on {board.port} takes no uploads, so no other model can be tried on it",
                "reduce on an emulated board: --board native",
            )
        refused: BoardStatusError | None = None
        for outputs in self._predict(model, row):
            try:
                transfer(board, ModelImage(model=model, inputs=row, outputs=outputs))
            except BoardStatusError as exc:
                if exc.status != "vectors_differ":
                    raise
                refused = exc
            else:
                board.identify()
                return
        raise refused or BundleError("no vector for the upload is known", "reduce on an emulated board: --board native")


# --- writing --------------------------------------------------------------------------------------------------------------


def write(case: Reduced, folder: Path, name: str, expected: RawArray | None, board: str | None) -> Path:
    """Writes a case to ``folder/NAME-N`` with the first free N, whole or not at all; returns it.

    Args:
        case: to be written.
        folder: holds such cases.
        name: of the model.
        expected: outputs of TensorFlow Lite Micro, [n, n_act]; None where it refuses the model.
        board: that took part; None: two runtimes.

    Raises:
        UsageError: the folder cannot be made.
    """
    answers = case.answers
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "host_version": __version__,
        "a": case.a,
        "b": case.b,
        "board": board,
        "model": model_id(case.model),
        "operators": [operator.name for operator in case.graph.operators],
        "inputs": case.rows.tolist(),
        "outputs_a": None if answers.a is None else answers.a.tolist(),
        "outputs_b": None if answers.b is None else answers.b.tolist(),
        "expected": None if expected is None else expected.tolist(),
        "crashed": answers.crashed,
        "cause": case.cause,
    }
    text = _HEADER.format(a=case.a, b=case.b, cause=_harmless(case.cause))
    text += (_OF_BOARD if expected is not None else "") + ("" if board else _OF_RUNTIMES)
    try:
        with staging_folder(folder / name) as staging:
            whole = staging / "case"
            whole.mkdir()
            (whole / MODEL).write_bytes(case.model)
            (whole / CASE).write_text(json.dumps(document, indent=1) + "\n")
            (whole / TEST).write_text(text)
            for number in range(1, _MOST_FOLDERS):
                target = folder / f"{name}-{number}"
                with contextlib.suppress(FileExistsError, NotADirectoryError):
                    if not target.exists():  # an empty folder would be replaced
                        return whole.rename(target)
    except OSError as exc:
        if exc.errno is not None and not (folder / name).parent.is_dir():
            raise UsageError(f"cannot make {folder}: {exc.strerror}", "run it in a folder that you may write to") from exc
        raise UsageError(f"cannot write to {folder}: {exc.strerror}", "make room, or run it in another folder") from exc
    raise UsageError(f"{folder} is full", "remove old cases")


def _harmless(text: str) -> str:
    """Text for a docstring: it may come from a board."""
    return "".join(c if c.isprintable() and c not in '"\\' else "?" for c in text)


# --- the test -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """A folder that was read."""

    model: bytes
    a: str
    b: str
    rows: RawArray
    expected: RawArray | None
    cause: str
    is_crash: bool


def read(folder: Path) -> Case:
    """Reads a case. Raises BundleError."""
    try:
        document = parse_json(read_limited(folder / CASE, _MOST_BYTES))
        model = read_limited(folder / MODEL, _MOST_BYTES)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f'its "schema" is not "{SCHEMA}"')
        graph = read_graph(model)
        expected = document.get("expected")
        rows = _codes(document.get("inputs"), graph.n_obs, graph.kind)
        texts: list[Any] = [document.get(name) for name in ("a", "b", "cause")]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a, b or cause is no text")
        outputs = None if expected is None else _codes(expected, graph.n_act, graph.kind)
        if outputs is not None and len(outputs) != len(rows):
            raise ValueError(f"{len(rows)} rows and {len(outputs)} outputs")
        return Case(
            model=model,
            a=texts[0],
            b=texts[1],
            rows=rows,
            expected=outputs,
            cause=texts[2],
            is_crash=bool(document.get("crashed")),
        )
    except (OSError, ValueError, RecursionError, OverflowError) as exc:
        raise BundleError(f"{folder} holds no reduced case: {exc}", "make one: hil compare MODEL --reduce") from exc


def _codes(value: Any, width: int, kind: ElementType) -> RawArray:
    array = np.asarray(value)
    shaped = array.ndim == 2 and array.shape[1] == width and len(array) > 0 and array.dtype.kind == "i"
    if not shaped or array.min() < kind.low or array.max() > kind.high:
        raise ValueError(f"not rows of {width} {kind.dtype} codes")
    return array.astype(kind.dtype)


def check_board(
    folder: Path,
    name: str,
    *,
    port: str | None = None,
    engine: str | None = None,
    firmware_fault: str | None = None,
    **options: Any,
) -> None:
    """Raises AssertionError unless a board gives the expected outputs; what keeps it from answering at all is raised as it is."""
    __tracebackhide__ = True  # of pytest
    case = read(folder)
    expected = case.expected
    assert expected is not None, "TensorFlow Lite Micro does not run this model"

    def open_board(model: Path | None) -> Board:
        return connect(name, model=model, port=port, engine=engine, firmware_fault=firmware_fault, **options)

    side = BoardSide(open_board, is_started=port is None, predict=lambda *_: iter([expected[:1]]))
    try:
        seen = side.infer_raw_batch(case.model, case.rows)
    except BoardStatusError as exc:
        if exc.status != "vectors_differ":
            raise
        raise AssertionError(f"the board {name} does not give {expected[0].tolist()} for {_shown(case)}: {case.cause}") from exc
    except LinkError as exc:
        raise AssertionError(f"the board {name} does not answer {_shown(case)}: {exc.message}") from exc
    assert np.array_equal(seen, expected), (
        f"the board {name} gives {seen.tolist()} for {_shown(case)}, not {expected.tolist()}: {case.cause}"
    )


def check_runtimes(folder: Path) -> None:
    """Raises AssertionError unless both runtimes of a case answer alike, or, of a crash, none crashes."""
    __tracebackhide__ = True
    case = read(folder)
    found: list[RawArray] = []
    for name in (case.a, case.b):
        with IsolatedRuntime(name) as runtime:
            try:
                found.append(runtime.infer_raw_batch(case.model, case.rows))
            except RuntimeCrashError as exc:
                raise AssertionError(f"{exc.message}, for {_shown(case)}") from exc
            except UnsupportedOperatorError as exc:
                if not case.is_crash:
                    raise AssertionError(f"{name}: {exc.message}, for {_shown(case)}") from exc
    if case.is_crash:
        return
    assert np.array_equal(found[0], found[1]), (
        f"{case.a} gives {found[0].tolist()} for {_shown(case)}, {case.b} {found[1].tolist()}: {case.cause}"
    )


def _shown(case: Case) -> str:
    names = ", ".join(operator.name for operator in read_graph(case.model).operators)
    rows = case.rows.tolist()
    return f"{names} on {rows if case.rows.size <= 100 else f'{case.rows.shape[0]} rows of {case.rows.shape[1]}'}"


def expected_outputs(case: Reduced) -> RawArray | None:
    """Of TensorFlow Lite Micro, [n, n_act]; None where it refuses the model or crashes."""
    with IsolatedRuntime(REFERENCE) as runtime:
        try:
            return runtime.infer_raw_batch(case.model, case.rows)
        except HarnessError:
            return None
