"""Writing a recording."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.records import ChunkIndex
from mcap.writer import CompressionType, Writer

from balance_hil import __version__
from balance_hil.errors import HarnessError, RecordingError, RecordingExistsError
from balance_hil.files import refuse_special
from balance_hil.interrupt import Interrupt
from balance_hil.recording import foxglove
from balance_hil.recording.format import END, EPISODE, FAULT, FORMAT, INJECTED, RUN, STEP, Encode, Step, schemas, step_encoder
from balance_hil.spec import PolicySpec

PARTIAL = ".partial"  # at the end of the name of a file that is not finished
CHUNK_BYTES = 1 << 16  # compressing one takes a fraction of a millisecond: a realtime run does it while it waits
RECORD_HEAD_BYTES = 9  # of an MCAP record: opcode u8, length u64
FLUSH_NS = 250_000_000  # of simulated time, so that equal lockstep runs give equal bytes; what SIGKILL takes is less than that


# mcap's writer keeps an object for every chunk, 12 bytes a control step, and offers no way to keep it elsewhere.
_CHUNK_INDEX = "_Writer__chunk_indices"


# Of a fault in the log, where it is not a warning.
_LEVELS = {"identified": foxglove.INFO, "rejected": foxglove.ERROR, "reboot": foxglove.ERROR, "failed": foxglove.ERROR}


class _ChunkIndexFile:
    """The list of a writer's chunks, in a temporary file without a name until the end of the recording."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the recording
        self._encoder = RecordBuilder()

    def append(self, index: ChunkIndex) -> None:
        """Adds one. Raises OSError."""
        index.write(self._encoder)
        self._file.write(self._encoder.end())

    def __iter__(self) -> Iterator[ChunkIndex]:
        self._file.seek(0)
        while head := self._file.read(RECORD_HEAD_BYTES):
            content = self._file.read(int.from_bytes(head[1:], "little"))
            yield ChunkIndex.read(ReadDataStream(BytesIO(content)))

    def close(self) -> None:
        """Deletes the file."""
        self._file.close()


class RecordingWriter:
    """Writes one recording under a temporary name; ``close`` renames it, so that a file under its final name is complete.

    Args:
        path: of the finished file; its folder is created.
        meta: metadata of the run, JSON types. Nothing in it may change between two equal lockstep runs.
        spec: tables of observation and action.
        trace: names of what the environment traces in each step.
        start_ns: time stamp of simulated time 0; 0 for lockstep, the wall clock for realtime.
        scene: what is shown in 3D; None: nothing.
        encode: a ``step_encoder`` of ``spec`` and ``trace`` to share; None: one of its own.

    Raises:
        RecordingExistsError: another run is writing this file, or was killed.
        RecordingError: the file cannot be written; so do all methods.
    """

    def __init__(
        self,
        path: Path,
        meta: Mapping[str, Any],
        spec: PolicySpec,
        trace: Sequence[str] = (),
        *,
        start_ns: int = 0,
        scene: foxglove.Scene | None = None,
        encode: Encode | None = None,
    ) -> None:
        self.path = path
        self.result: Mapping[str, Any] | None = None  # what the run found, JSON types; written by ``close``
        self._partial = path.with_name(path.name + PARTIAL)
        self._start_ns = start_ns
        self._now_ns = start_ns
        self._flushed_ns = start_ns
        self._closed = False
        self._failed: OSError | None = None
        self._encode = encode or step_encoder(spec, trace)
        self._scene = scene
        self._shapes: Mapping[str, Any] = {}  # that were written
        self._encode_transforms = foxglove.transforms_encoder(scene.frames if scene else ())
        with self._disk_errors():
            refuse_special(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._create()
        try:
            self._begin(meta, spec, trace)
        except BaseException:  # also of Ctrl-C: nobody closes a writer that was not made
            with contextlib.suppress(OSError):  # on a full disk
                self._file.close()
            self._partial.unlink(missing_ok=True)
            raise

    def _begin(self, meta: Mapping[str, Any], spec: PolicySpec, trace: Sequence[str]) -> None:
        with self._disk_errors():
            self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
            self._index = _ChunkIndexFile()
            setattr(self._writer, _CHUNK_INDEX, self._index)
            self._writer.start(profile="", library=f"balance_hil {__version__}")
            named = schemas(spec, trace) | foxglove.schemas()
            self._channels = {topic: self._channel(topic, *schema) for topic, schema in named.items()}
            layout = json.dumps(foxglove.layout(spec, trace, self._scene.frames if self._scene else ())).encode()
            self._writer.add_attachment(self._start_ns, self._start_ns, foxglove.LAYOUT, "application/json", layout)
            run = {"format": FORMAT, **meta, "spec": spec.to_dict(), "trace": list(trace)}
            self._writer.add_metadata(RUN, {key: json.dumps(value, allow_nan=False) for key, value in run.items()})
            self._writer.flush()

    def step(self, run_s: float, step: Step) -> None:
        """Adds one control step at simulated time ``run_s`` since the run began."""
        poses = None if self._scene is None or step.state is None else self._scene.poses(step.state)
        self.encoded_step(run_s, self._encode(step), poses)

    def encoded_step(self, run_s: float, data: bytes, poses: Sequence[float] | None) -> None:
        """Adds one that a ``step_encoder`` encoded. ``poses``: see ``Scene.poses``; None: not shown at this step."""
        self._add(STEP, run_s, data)
        if self._scene is not None and poses is not None:
            if self._scene.shapes is not self._shapes:
                self._shapes = self._scene.shapes
                self._add(foxglove.SCENE, run_s, _json(foxglove.scene_update(self._shapes, self._now_ns)))
            self._add(foxglove.TRANSFORMS, run_s, self._encode_transforms(self._now_ns, poses))

    def fault(self, run_s: float, episode: int, step: int, kind: str, detail: str = "", **numbers: float) -> None:
        """Adds a fault. ``numbers`` are those of a late reply, as in the schema of the topic."""
        fault = {"t_s": run_s, "episode": episode, "step": step, "kind": kind, "detail": detail, **numbers}
        self._add(FAULT, run_s, _json(fault))
        level = _LEVELS.get(kind, foxglove.WARNING)
        self._log(level, f"{kind}: {detail} (episode {episode + 1}, step {step})")

    def injected(self, run_s: float, episode: int, step: int, fault: str, direction: str, values: Mapping[str, float]) -> None:
        """Adds an injected fault; ``direction``: tx, rx, or "" for the board; ``values``: its parameters and what was drawn."""
        message = {"episode": episode, "step": step, "fault": fault, "direction": direction, "values": values}
        self._add(INJECTED, run_s, _json({"t_s": run_s, **message}))

    def episode(self, run_s: float, result: Mapping[str, Any]) -> None:
        """Adds the result of a finished episode, JSON types."""
        self._add(EPISODE, run_s, _json({"t_s": run_s, **result}))
        failed = result["failed"]
        text = (
            f"episode {result['episode'] + 1}, seed {result['seed']}: {'failed after ' if failed else ''}{result['steps']} steps"
        )
        self._log(foxglove.ERROR if failed else foxglove.INFO, text)

    def close(self, ended: str = "complete") -> Path:
        """Finishes and renames the file and returns its path; may be called twice. ``ended``: how the run ended."""
        if not self._closed:
            with Interrupt() as interrupt, self._disk_errors():
                self._closed = True
                with self._file, contextlib.closing(self._index):
                    if self._failed is not None:  # after a gap in the middle nothing could be read
                        raise self._failed
                    verdict = _verdict(ended, self.result)
                    self._log(foxglove.INFO if verdict == "PASS" else foxglove.ERROR, verdict)
                    self._writer.flush()  # the end comes last
                    end = {"ended": json.dumps(ended), "result": json.dumps(self.result), "verdict": json.dumps(verdict)}
                    self._writer.add_metadata(END, end)
                    self._writer.finish()
                self._partial.replace(self.path)
            interrupt.check()
        return self.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            ended = "complete"
        elif issubclass(kind, KeyboardInterrupt | GeneratorExit):  # the latter of a context that Ctrl-C kept from being entered
            ended = "interrupted"
        else:
            ended = str(value) if issubclass(kind, HarnessError) else f"{kind.__name__}: {value}"
        try:
            self.close(ended)
        except KeyboardInterrupt:
            self.close("interrupted")
            raise

    def _channel(self, topic: str, name: str, schema: Mapping[str, Any]) -> int:
        schema_id = self._writer.register_schema(name, "jsonschema", json.dumps({"title": name, **schema}).encode())
        return int(self._writer.register_channel(topic, "json", schema_id))

    def _log(self, level: int, message: str) -> None:
        now_s = (self._now_ns - self._start_ns) / 1e9
        self._add(foxglove.LOG, now_s, _json(foxglove.log_message(self._now_ns, level, message)))

    def _add(self, topic: str, run_s: float, data: bytes) -> None:
        # Time stamps never decrease: some viewers show nothing of a file that is out of order.
        self._now_ns = max(self._now_ns, self._start_ns + round(run_s * 1e9))
        with self._disk_errors():
            self._writer.add_message(self._channels[topic], self._now_ns, data, self._now_ns)
            if self._now_ns - self._flushed_ns >= FLUSH_NS:
                self._flushed_ns = self._now_ns
                self._writer.flush()

    def _create(self) -> BinaryIO:
        """Creates the file; fails if another run is writing it. Raises RecordingExistsError."""
        try:
            return self._partial.open("xb")
        except FileExistsError:
            raise RecordingExistsError(
                f"{self._partial} is there already: another run is recording to it, or one was killed",
                f"record elsewhere: --record FILE; if no run is going on: rm {self._partial}",
            ) from None

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            self._failed = exc
            kept = f"; what was recorded until then: hil report {self._partial}" if self._now_ns > self._start_ns else ""
            raise RecordingError(
                f"cannot write the recording {self.path}: {exc}", f"choose another place: --record FILE{kept}"
            ) from exc


def _json(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, allow_nan=False).encode()


def _verdict(ended: str, result: Mapping[str, Any] | None) -> str:
    """One line for people, as ``hil run`` prints it."""
    verdict = (result or {}).get("verdict")
    if verdict is None:
        return ended
    return "PASS" if verdict["good"] else "FAIL: " + "; ".join(verdict["reasons"])
