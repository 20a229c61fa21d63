"""``hil compare --reduce``: the smallest model and one row that still show a difference, as a folder with a test."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from balance_hil.boards import Board, connect, find_board
from balance_hil.cli.console import print_json, say, stdout
from balance_hil.cli.params import Access
from balance_hil.cli.progress import ProgressBars
from balance_hil.comparing.comparison import REFERENCE
from balance_hil.comparing.inputs import random_inputs
from balance_hil.comparing.model_under_test import ModelUnderTest
from balance_hil.comparing.reduce import Reduced, Side, reduce
from balance_hil.comparing.reduced_case import TEST, BoardSide, expected_outputs, write
from balance_hil.errors import HarnessError, UnsupportedOperatorError, UsageError
from balance_hil.interrupt import entered
from balance_hil.quantize import FLOAT32, RawArray
from balance_hil.runtimes import model_runtime_names
from balance_hil.runtimes.emulated import KNOWN_VARIANTS, EmulatedRuntime
from balance_hil.runtimes.isolated import IsolatedRuntime

FOLDER = Path("reduced")
_LONGEST_LINE = 500


def main(
    model: ModelUnderTest, board: str | None, access: Access, runtimes: tuple[str, ...] | None, samples: int, seed: int,
    limit_s: float, as_json: bool,
) -> NoReturn:  # fmt: skip
    """Reduces, writes, prints and exits: 0 where nothing differs, 1 where a case was written."""
    kind = model.graph.kind
    if kind == FLOAT32:
        raise UsageError(
            f"--reduce cuts int8 and int16x8 models, this one is {kind.name}",
            "see the layers instead: hil compare MODEL --layers",
        )
    known = model_runtime_names(kind)
    names = tuple(dict.fromkeys(runtimes or ())) or ((REFERENCE,) if board else known)
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"{unknown[0]} is not a runtime of {kind.name} models", f"choose from {', '.join(known)}")
    if len(names) + (board is not None) < 2:
        raise UsageError(f"there is nothing to compare: {names[0]} alone takes part", "name two runtimes, or a board")
    rows = random_inputs(model.graph.n_obs, model.graph.input_quant, samples, seed).raw
    if model.bundle is not None:
        rows = np.concatenate([model.bundle.golden_raw("input"), rows])
    reference = REFERENCE if REFERENCE in names else names[-1]
    skipped: dict[str, str] = {}
    found: Reduced | None = None
    compared: list[str] = []
    with ExitStack() as stack:
        watch = stack.enter_context(ProgressBars())
        against = stack.enter_context(IsolatedRuntime(reference))
        others: list[Side] = [stack.enter_context(IsolatedRuntime(name)) for name in names if name != reference]
        if board is not None:
            others = [_board(board, access, _file(stack, model.model))]
        for side in others:
            try:
                found = reduce(model.model, rows, side, against, limit_s=limit_s, on_progress=watch)
            except UnsupportedOperatorError as exc:
                if board is not None or runtimes is not None:
                    raise
                skipped[side.name] = exc.message
                continue
            compared.append(side.name)
            if found is not None:
                break
    if not compared:
        raise UnsupportedOperatorError("; ".join(skipped.values()), "compare others: --runtimes")
    folder = None
    if found is not None:
        folder = write(found, FOLDER, model.path.resolve().stem, expected_outputs(found), board)
    document = _document(found, folder, model, compared, reference, len(rows), skipped)
    if as_json:
        print_json(document)
    else:
        _print(document, board, access)
    sys.exit(0 if found is None else 1)


def _file(stack: ExitStack, model: bytes) -> Path:
    folder = Path(stack.enter_context(entered(lambda: tempfile.TemporaryDirectory(prefix="balance-hil-"))))
    (folder / "model.tflite").write_bytes(model)
    return folder / "model.tflite"


def _board(name: str, access: Access, whole: Path) -> BoardSide:
    """The native board is started with each model; others, whose images take seconds to build, are sent it."""
    definition = find_board(name)
    is_emulated = access.port is None and definition.is_emulated
    is_started = is_emulated and definition.kind == "native"

    said = set[str]()

    def say_once(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    def open_board(model: Path | None) -> Board:
        return connect(name, model=model or (whole if is_emulated else None), **asdict(access), progress=say_once)

    return BoardSide(open_board, is_started=is_started, predict=_predictions)


def _predictions(model: bytes, row: RawArray) -> Iterator[RawArray]:
    """Outputs of the known arithmetics, TensorFlow Lite Micro's first, each once."""
    seen = set[bytes]()
    for variant in KNOWN_VARIANTS:
        try:
            outputs = EmulatedRuntime(model, variant).infer_raw_batch(row)
        except HarnessError:
            return
        if outputs.tobytes() not in seen:
            seen.add(outputs.tobytes())
            yield outputs


def _document(
    found: Reduced | None,
    folder: Path | None,
    model: ModelUnderTest,
    compared: list[str],
    reference: str,
    rows: int,
    skipped: dict[str, str],
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "schema": "balance_hil/reduce@2",
        "model": model.id,
        "reduced": None,
        "inputs": rows,
        "skipped": [{"runtime": name, "why": why} for name, why in skipped.items()],
    }
    if found is None:
        reasons: list[str] = []
        document["summary"] = f"nothing differs: {', '.join(compared)} and {reference} give equal outputs on {rows} inputs"
    else:
        graph, answers = found.graph, found.answers
        what = "crash" if answers.crashed else "difference"
        reasons = [f"a {what} of {found.a} and {found.b}: {found.cause}"]
        document["reduced"] = {
            "a": found.a,
            "b": found.b,
            "operators": [operator.name for operator in graph.operators],
            "input_shape": list(graph.input.shape),
            "output_shape": list(graph.output.shape),
            "model_bytes": [len(model.model), len(found.model)],
            "inputs": found.rows.tolist(),
            "outputs_a": None if answers.a is None else answers.a.tolist(),
            "outputs_b": None if answers.b is None else answers.b.tolist(),
            "cause": found.cause,
            "candidates": found.tried,
            "complete": found.complete,
            "folder": str(folder),
        }
    return document | {"verdict": {"good": found is None, "reasons": reasons}}


def _print(document: dict[str, Any], board: str | None, access: Access) -> None:
    for each in document["skipped"]:
        stdout.print(f"skipped {each['runtime']}: {each['why']}", soft_wrap=True)
    case = document["reduced"]
    if case is None:
        stdout.print(f"PASS: {document['summary']}", style="bold green", soft_wrap=True)
        return
    shapes = " to ".join("x".join(map(str, case[f"{end}_shape"])) for end in ("input", "output"))
    values = {name: _shown(case[name]) for name in ("inputs", "outputs_a", "outputs_b")}
    lines = [
        f"{', '.join(case['operators'])}, {shapes}: {case['model_bytes'][1]:,} of {case['model_bytes'][0]:,} bytes, "
        f"{case['candidates']} candidates"
        + ("" if case["complete"] else "; the time was over, a longer --reduce-seconds may find less"),
        f"{'input':<16} {values['inputs']}",
        *(f"{case[side]:<16} {values[f'outputs_{side}']}" for side in ("a", "b")),
    ]
    for line in lines:
        stdout.print(line, soft_wrap=True)
    options = f" --hil-board {board}" + (f" --hil-port {access.port}" if access.port else "") if board else ""
    stdout.print(f"wrote {case['folder']}; repeat it: pytest {Path(case['folder']) / TEST}{options}", soft_wrap=True)
    stdout.print(f"FAIL: {document['verdict']['reasons'][0]}", style="bold red", soft_wrap=True)


def _shown(rows: list[list[int]] | None) -> str:
    if rows is None:
        return "no answer"
    shown = str(rows)
    return shown if len(shown) <= _LONGEST_LINE else f"{shown[:_LONGEST_LINE]}...; all of them are in the folder"
