"""The control steps of a recording as a table, for other programs: CSV or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import RecordingError
from balance_hil.files import replacing
from balance_hil.recording.format import TIMINGS, names
from balance_hil.recording.reader import Recording

TableFormat = Literal["csv", "parquet"]
FORMATS: tuple[TableFormat, ...] = get_args(TableFormat)
_ROWS = 10_000  # that are turned into text at a time


def export_table(recording: Recording, path: Path, to: TableFormat) -> None:
    """Writes one row for each control step; what is unknown is empty. A file at ``path`` is replaced, as a whole.

    Raises:
        RecordingError: the file cannot be written.
        ModuleNotFoundError: Parquet without pyarrow.
    """
    columns = dict(_columns(recording))
    write = _write_csv if to == "csv" else _write_parquet
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            write(partial, columns)
    except OSError as exc:
        raise RecordingError(f"cannot write {path}: {exc.strerror or exc}", "choose another place: --output FILE") from exc


def _columns(recording: Recording) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Name and values [n]; a masked value is unknown."""
    step = np.rint(recording.t_s / recording.spec.control_period_s).astype(np.int64)
    yield "t_s", recording.t_s
    yield "episode", recording.episode
    yield "step", step
    yield "held", recording.held
    yield "reward", _known(recording.reward)
    observations, actions = names(recording.spec.observation), names(recording.spec.action)
    for group, signals, values in (
        ("observation", observations, recording.observation),
        ("action", actions, recording.action),
        ("input_int8", observations, recording.input_int8),
        ("output_int8", actions, recording.output_int8),
    ):
        for index, name in enumerate(signals):
            column = values[:, index]
            yield f"{group}.{name}", np.ma.masked_array(column, recording.held) if column.dtype == np.int8 else column
    for name, traced in recording.plant.items():
        yield f"plant.{name}", _known(traced)
    for name in TIMINGS:
        yield name, _known(getattr(recording, name))
    yield "substep", np.ma.masked_equal(recording.substep, 0)
    kinds: dict[tuple[int, int], list[str]] = {}
    for fault in recording.faults:
        kinds.setdefault((fault["episode"], fault["step"]), []).append(fault["kind"])
    at = zip(recording.episode.tolist(), step.tolist(), strict=True)
    yield "faults", np.array([" ".join(kinds.get(key, ())) for key in at], dtype=np.str_)


def _known(values: NDArray[np.float64]) -> NDArray[np.generic]:
    masked: NDArray[np.generic] = np.ma.masked_invalid(values)
    return masked


def _write_csv(path: Path, columns: dict[str, NDArray[np.generic]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for first in range(0, len(columns["t_s"]), _ROWS):
            writer.writerows(zip(*(_texts(values[first : first + _ROWS]) for values in columns.values()), strict=True))


def _texts(values: NDArray[np.generic]) -> list[object]:
    """Nine digits identify every float32, and a float64 has no more in a recording."""
    listed: list[object] = values.tolist()  # None where masked
    if values.dtype.kind == "f":
        return [None if value is None else f"{value:.9g}" for value in listed]
    if values.dtype.kind == "b":
        return [int(bool(value)) for value in listed]
    return listed


def _write_parquet(path: Path, columns: dict[str, NDArray[np.generic]]) -> None:
    import pyarrow
    from pyarrow import parquet

    def array(values: NDArray[np.generic]) -> object:
        return pyarrow.array(np.ma.getdata(values), mask=np.ma.getmaskarray(values))

    parquet.write_table(pyarrow.table({name: array(values) for name, values in columns.items()}), path)
