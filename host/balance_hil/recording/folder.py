"""Lists recordings and repairs those that were cut off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcap.records import Attachment, Channel, Message, Metadata, Schema
from mcap.writer import CompressionType, Writer

from balance_hil.errors import HarnessError, RecordingError
from balance_hil.files import parse_json
from balance_hil.recording.export import SUFFIXES
from balance_hil.recording.format import END, STEP
from balance_hil.recording.foxglove import LAYOUT, SCENE
from balance_hil.recording.reader import CUT_OFF, recording_errors, run_metadata
from balance_hil.recording.records import End, records
from balance_hil.recording.writer import CHUNK_BYTES, PARTIAL


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One recording of a folder; for an unreadable file, ``error`` holds the reason and the rest is empty."""

    file: str
    bundle: str = ""  # id
    board: str = ""
    environment: str = ""
    clock: str = ""
    steps: int = 0
    ended: str = ""  # "complete", or how else
    whole: bool = False
    error: str = ""


def recordings_in(folder: Path) -> list[Path]:
    """Files of a folder that are recordings by their names; exported ones are none. Raises OSError."""
    files = [path for path in folder.iterdir() if path.name.endswith((".mcap", f".mcap{PARTIAL}")) and path.is_file()]
    return [path for path in files if not path.name.endswith(SUFFIXES["protobuf"])]


def list_recordings(folder: Path) -> list[Entry]:
    """Every recording in ``folder``, by name, those that were cut off as well. Raises RecordingError: no such folder."""
    try:
        files = sorted(recordings_in(folder))
    except OSError as exc:
        raise RecordingError(f"cannot list {folder}: {exc.strerror}", "record a run: hil run ppo --board native") from exc
    return [_entry(path) for path in files]


def _entry(path: Path) -> Entry:
    end, steps = End(), 0
    topics: dict[int, str] = {}
    metadata: dict[str, dict[str, str]] = {}
    try:
        with recording_errors(path):
            for record in records(path, end):
                match record:
                    case Metadata():
                        metadata[record.name] = record.metadata
                    case Channel():
                        topics[record.id] = record.topic
                    case Message():
                        steps += topics[record.channel_id] == STEP
            if not end.data:
                metadata.pop(END, None)
            meta = run_metadata(path, metadata)
    except HarnessError as exc:
        return Entry(file=str(path), error=exc.message)
    board = meta.get("board")
    return Entry(
        file=str(path),
        bundle=str(meta.get("bundle", "")),
        board=str(board.get("definition", board.get("board", "")) if isinstance(board, Mapping) else board),
        environment=str(meta.get("environment", "")),
        clock=str(meta.get("clock", "")),
        steps=steps,
        ended=meta["ended"],
        whole=end.index,
    )


def repair(path: Path) -> Path:
    """Writes the readable part of a recording that was cut off to a complete file beside it; returns its path.

    ``NAME.mcap.partial`` becomes ``NAME.mcap``, or like ``NAME.mcap`` ``NAME-repaired.mcap``. No file is overwritten.

    Raises:
        RecordingError: it is complete already, or no recording, or the new file exists or cannot be written.
    """
    entry = _entry(path)
    if entry.error:
        raise RecordingError(entry.error, "only a recording that was cut off can be repaired: hil recordings")
    if entry.whole:
        raise RecordingError(f"{path} is whole", f"use it as it is: hil report {path}")
    target = path.with_name(path.name.removesuffix(PARTIAL))
    if target == path or target.exists():
        target = target.with_name(f"{target.stem}-repaired.mcap")
    try:
        with target.open("xb") as file:
            try:
                _copy(path, Writer(file, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD))
            except BaseException:
                target.unlink()
                raise
    except FileExistsError:
        raise RecordingError(f"{target} is there already", f"look at it: hil report {target}") from None
    except OSError as exc:
        raise RecordingError(f"cannot write {target}: {exc}", "free some space, or copy the recording elsewhere") from exc
    return target


def read_layout(path: Path) -> dict[str, Any]:
    """The Foxglove layout that is attached to a recording. Raises RecordingError: it has none, or is unreadable."""
    with recording_errors(path):
        for record in records(path, End()):
            if isinstance(record, Attachment) and record.name == LAYOUT:
                layout: dict[str, Any] = parse_json(record.data)
                return layout
    raise RecordingError(f"{path} holds no layout", "record the run again: hil run ppo --board native")


def keep_last(path: Path, target: Path, seconds: float) -> None:
    """Copies the last ``seconds`` of a recording, complete or not, to ``target``, which is replaced.

    Raises:
        RecordingError: it is not a recording, or ``target`` cannot be written.
    """
    with recording_errors(path):
        times = [record.log_time for record in records(path, End()) if isinstance(record, Message)]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                since_ns = max(times, default=0) - round(seconds * 1e9)
                _copy(path, Writer(file, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD), since_ns)
        except OSError as exc:
            raise RecordingError(f"cannot write {target}: {exc}", "choose another folder") from exc


def _copy(path: Path, writer: Writer, since_ns: int = 0) -> None:
    end, has_end = End(), False
    schemas: dict[int, int] = {}
    channels: dict[int, int] = {}
    scenes: set[int] = set()
    ended = {"ended": json.dumps(CUT_OFF)}
    writer.start()
    for record in records(path, end):
        match record:
            case Metadata() if record.name == END:
                ended, has_end = record.metadata, True
            case Metadata():
                writer.add_metadata(record.name, record.metadata)
            case Attachment():
                writer.add_attachment(record.create_time, record.log_time, record.name, record.media_type, record.data)
            case Schema() if record.id not in schemas:
                schemas[record.id] = writer.register_schema(record.name, record.encoding, record.data)
            case Channel() if record.id not in channels:
                channels[record.id] = writer.register_channel(
                    record.topic, record.message_encoding, schemas.get(record.schema_id, 0), record.metadata
                )
                if record.topic == SCENE:
                    scenes.add(record.id)
            case Message() if record.log_time >= since_ns or record.channel_id in scenes:  # a scene holds until the next one
                time_ns = max(record.log_time, since_ns)
                writer.add_message(channels[record.channel_id], time_ns, record.data, time_ns, record.sequence)
    writer.flush()
    writer.add_metadata(END, ended if end.data and has_end else {"ended": json.dumps(CUT_OFF)})
    writer.finish()
