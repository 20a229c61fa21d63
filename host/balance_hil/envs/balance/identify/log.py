"""The step response as a CSV file: what ``hil identify --record`` writes, and how a recording of a real robot has to look."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import CalibrationLogError
from balance_hil.files import did_you_mean, replacing

COLUMNS = {
    "t_s": "time since the start of the run",
    "left_command_rad_s": "commanded speed of the left wheel, from this row to the next",
    "right_command_rad_s": "the same of the right wheel",
    "drive": "1: the servos are on, 0: both motors coast",
    "load_kg_m2": "inertia of a disc that is fastened to each wheel; a change of it starts a new run",
    "left_speed_rad_s": "measured speed of the left wheel",
    "right_speed_rad_s": "the same of the right wheel",
}
MIN_ROWS = 50
_DOC = "the format and how to record it: docs/environments.md"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One step response with one load, from rest."""

    t_s: Array  # [n]
    command_rad_s: Array  # [n, 2], left and right, held from this sample to the next
    drive: NDArray[np.bool_]  # [n]
    load_kg_m2: float
    speed_rad_s: Array  # [n, 2]


def write_log(path: Path, runs: Sequence[Run]) -> None:
    """Writes a log; the file appears when it is complete. Raises CalibrationLogError."""
    try:
        with replacing(path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for run in runs:
                for t, command, drive, speed in zip(run.t_s, run.command_rad_s, run.drive, run.speed_rad_s, strict=True):
                    row = [f"{t:.6f}", *(f"{v + 0.0:.6g}" for v in command), int(drive), f"{run.load_kg_m2:.6g}"]
                    writer.writerow([*row, *(f"{v:.4f}" for v in speed)])
    except OSError as exc:
        raise CalibrationLogError(f"cannot write {path}: {exc.strerror}", "choose another file") from exc


def read_log(path: Path) -> list[Run]:
    """Reads a log.

    Raises:
        CalibrationLogError: no such file, a column that is missing or unknown, a value that is not a number, by line and column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # with or without a byte-order mark
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CalibrationLogError(f"cannot read {path}: {exc}", _DOC) from exc
    if not rows:
        raise CalibrationLogError(f"{path} is empty", _DOC)
    columns = _columns(path, [name.strip() for name in rows[0]])
    parsed = [
        (line, _parse(path, line, row, columns))
        for line, row in enumerate(rows[1:], start=2)
        if any(cell.strip() for cell in row)
    ]
    runs, block = [], list[tuple[int, dict[str, float]]]()
    for line, values in parsed:
        if block and values["load_kg_m2"] != block[-1][1]["load_kg_m2"]:
            runs.append(_run(path, block))
            block = []
        if block and values["t_s"] <= block[-1][1]["t_s"]:
            raise CalibrationLogError(
                f"{path}, line {line}, column t_s: {values['t_s']:g} does not come after {block[-1][1]['t_s']:g}",
                "time must increase from row to row; it may start anew where load_kg_m2 changes",
            )
        block.append((line, values))
    runs.append(_run(path, block))
    return runs


def _columns(path: Path, names: list[str]) -> list[str]:
    for name in names:
        if name not in COLUMNS:
            raise CalibrationLogError(
                f"{path}, line 1: unknown column {name!r}" + did_you_mean(name, COLUMNS),
                f"columns are: {', '.join(COLUMNS)}",
            )
    for name in COLUMNS:
        if names.count(name) != 1:
            what = "is missing" if name not in names else "is there twice"
            raise CalibrationLogError(f"{path}, line 1: column {name!r} {what}", f"columns are: {', '.join(COLUMNS)}")
    return names


_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "drive": (lambda value: value in (0.0, 1.0), "0 or 1"),
    "load_kg_m2": (lambda value: 0.0 <= value <= 0.01, "within 0..0.01"),
}


def _parse(path: Path, line: int, row: list[str], columns: list[str]) -> dict[str, float]:
    if len(row) != len(columns):
        raise CalibrationLogError(f"{path}, line {line}: {len(row)} values for {len(columns)} columns", "was the file cut off?")
    values = {}
    for name, cell in zip(columns, row, strict=True):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise CalibrationLogError(
                f"{path}, line {line}, column {name}: {cell!r} is not a finite number", "correct or remove the row"
            )
        allowed, wanted = _RULES.get(name, (lambda value: True, ""))
        if not allowed(value):
            raise CalibrationLogError(f"{path}, line {line}, column {name}: {cell} must be {wanted}", _DOC)
        values[name] = value
    return values


def _run(path: Path, block: list[tuple[int, dict[str, float]]]) -> Run:
    if len(block) < MIN_ROWS:
        where = f"the run that starts at line {block[0][0]}" if block else "the file"
        raise CalibrationLogError(f"{path}: {where} has {len(block)} rows, at least {MIN_ROWS} are needed", _DOC)
    table = {name: np.array([values[name] for _, values in block]) for name in COLUMNS}
    return Run(
        t_s=table["t_s"],
        command_rad_s=np.stack([table["left_command_rad_s"], table["right_command_rad_s"]], axis=1),
        drive=table["drive"] > 0.5,
        load_kg_m2=float(table["load_kg_m2"][0]),
        speed_rad_s=np.stack([table["left_speed_rad_s"], table["right_speed_rad_s"]], axis=1),
    )
