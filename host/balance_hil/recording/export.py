"""The control steps of a recording as a table, for other programs: CSV, Parquet, or Protobuf messages in an MCAP file."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import RecordingError
from balance_hil.files import replacing
from balance_hil.recording.format import STEP, TIMINGS, names
from balance_hil.recording.reader import Recording, run_time

TableFormat = Literal["csv", "parquet", "protobuf"]
FORMATS: tuple[TableFormat, ...] = get_args(TableFormat)
SUFFIXES: dict[TableFormat, str] = {"csv": ".csv", "parquet": ".parquet", "protobuf": ".protobuf.mcap"}
_ROWS = 10_000  # that are turned into text at a time


def export_table(recording: Recording, path: Path, to: TableFormat) -> None:
    """Writes one row or message for each control step; what is unknown is empty. A file at ``path`` is replaced, as a whole.

    Raises:
        RecordingError: the file cannot be written.
        ModuleNotFoundError: Parquet without pyarrow, Protobuf without protobuf.
    """
    columns = dict(_columns(recording))
    writers: dict[TableFormat, Callable[[Path, dict[str, NDArray[np.generic]]], None]] = {
        "csv": _write_csv,
        "parquet": _write_parquet,
        "protobuf": partial(_write_protobuf, time_s=run_time(recording)),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            writers[to](unfinished, columns)
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
            yield f"{group}.{name}", np.ma.masked_array(column, recording.held) if group.endswith("_int8") else column
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


def _write_protobuf(path: Path, columns: dict[str, NDArray[np.generic]], time_s: NDArray[np.float64]) -> None:
    """The channel /step with messages of one flat type: Rerun plots the fields of such messages, but no JSON."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from mcap.writer import CompressionType, Writer

    kind = descriptor_pb2.FieldDescriptorProto
    kinds = {"b": kind.TYPE_BOOL, "i": kind.TYPE_SINT64, "f": kind.TYPE_DOUBLE, "U": kind.TYPE_STRING}
    file = descriptor_pb2.FileDescriptorProto(name="balance_hil.proto", package="balance_hil")  # proto2: a field may be missing
    fields = file.message_type.add(name="Step").field
    for number, (name, values) in enumerate(columns.items(), start=1):
        identifier = re.sub(r"\W", "_", name, flags=re.ASCII)
        taken = {field.name for field in fields}
        identifier = identifier if identifier not in taken else f"{identifier}_{number}"
        fields.add(name=identifier, number=number, type=kinds[values.dtype.kind], label=kind.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("balance_hil.Step"))
    with path.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType.ZSTD)
        writer.start()
        schema = writer.register_schema(
            "balance_hil.Step", "protobuf", descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()
        )
        channel = writer.register_channel(STEP, "protobuf", schema)
        names_of = [field.name for field in fields]
        for at_s, row in zip(time_s.tolist(), zip(*(values.tolist() for values in columns.values()), strict=True), strict=True):
            known = {name: value for name, value in zip(names_of, row, strict=True) if value is not None}
            at_ns = round(at_s * 1e9)
            writer.add_message(channel, at_ns, message(**known).SerializeToString(), at_ns)
        writer.finish()
