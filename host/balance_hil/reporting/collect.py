"""What a page shows: recordings and comparisons, read as far as they can be, and the numbers made of them."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.distribution import Distribution
from balance_hil.errors import HarnessError, RecordingError, UsageError
from balance_hil.files import parse_json
from balance_hil.metrics import Verdict
from balance_hil.recording import Recording, read_recording
from balance_hil.recording.folder import recordings_in
from balance_hil.recording.reader import recording_errors, run_time
from balance_hil.recording.writer import PARTIAL

MAX_PARTS = 80  # of an inference: a model has at most 64 operators
MAX_RUNS = 12  # side by side; of a folder with more, the newest
MISSED = {"late": "late", "lost": "lost", "unsent": "not sent", "rejected": "rejected"}  # kinds of faults that are misses
COMPARISON = "balance_hil/compare@2"
PROPAGATED, UNEXPLAINED = "propagated from the layers before", "unexplained or not attributed"
TIMES = {"round trip": "round_trip_us", "inference on the board": "inference_us", "tick jitter of this computer": "jitter_us"}
PARSE_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value of a table. ``state`` is "good", "bad", "warn", or "" for no judgment."""

    text: str
    state: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table of results."""

    name: str
    cells: tuple[Cell, ...]  # one for each run
    target: str = ""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One recording, and the numbers that are shown of it."""

    label: str = ""  # what tells it apart from the others on the page
    path: Path
    recording: Recording
    verdict: Verdict
    summary: str  # one sentence about a good run
    board: str
    policy: str
    time_s: NDArray[np.float64]  # [n], since the start, with the episodes end to end
    counts: Mapping[str, int]  # of faults, by kind
    metrics: Mapping[str, float]
    times_us: Mapping[str, Distribution]  # by column of the recording

    @property
    def period_us(self) -> float:
        """The control period."""
        return self.recording.spec.control_period_s * 1e6


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs between two runtimes: in their outputs, or in those of one layer."""

    a: str
    b: str
    where: str  # the layer; "" for the outputs
    values: int  # compared
    differing: int
    max_lsb: int
    causes: dict[str, int]  # of the differing values; they add up

    @classmethod
    def of(cls, row: Mapping[str, Any], values: str, causes: Mapping[str, Any], where: str) -> Difference:
        """From a row of the document. Raises KeyError, TypeError or ValueError."""
        counts = {str(name): int(count) for name, count in causes.items() if count}
        differing = int(row["differing"])
        if rest := differing - sum(counts.values()):
            counts[UNEXPLAINED] = rest
        return cls(
            a=str(row["a"]),
            b=str(row["b"]),
            where=where,
            values=int(row[values]),
            differing=differing,
            max_lsb=int(row["max_lsb"]),
            causes=counts,
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A document of ``hil compare --json``."""

    path: Path
    verdict: Verdict
    summary: str
    inputs: int
    pairs: list[Difference]
    layers: list[Difference]
    skipped: list[tuple[str, str]]  # runtime, why


@dataclass(kw_only=True)
class Sources:
    """What was given to a report."""

    runs: list[Run] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    unreadable: list[tuple[Path, HarnessError]] = field(default_factory=list)
    left_out: int = 0  # recordings of a folder beyond MAX_RUNS

    @property
    def verdict(self) -> Verdict:
        """Good when every run and every comparison is, and everything could be read."""
        judged = [(run.label, run.verdict) for run in self.runs] + [(each.path.name, each.verdict) for each in self.comparisons]
        named = len(judged) + len(self.unreadable) > 1
        reasons = [f"{name}: {why}" if named else why for name, verdict in judged for why in verdict.reasons]
        reasons += [f"{path.name} could not be read" for path, _ in self.unreadable]
        return Verdict(tuple(reasons))


def read_sources(paths: Sequence[Path]) -> Sources:
    """Reads recordings, comparisons (``hil compare --json``) and folders of them; what cannot be read is listed with the reason.

    Raises:
        RecordingError: nothing of it can be read.
        UsageError: a folder holds none, or more recordings are named than fit side by side.
    """
    sources = Sources()
    found: list[Run] = []
    for path in _expanded(paths, sources):
        try:
            if path.suffix == ".json":
                sources.comparisons.append(_read_comparison(path))
            else:
                recording = read_recording(path)
                with recording_errors(path):
                    run = _run(path, recording)
                    for table in (result_rows, engine_rows, identity_rows):
                        table([run])  # nonsense in the metadata is found here, not while the page is made
                    found.append(run)
        except HarnessError as exc:
            sources.unreadable.append((path, exc))
    if not found and not sources.comparisons:
        raise sources.unreadable[0][1]
    if len(found) > MAX_RUNS:
        raise UsageError(f"{len(found)} recordings are too many for one page", f"name at most {MAX_RUNS}")
    labels = _labels(found)
    sources.runs = [Run(**{**vars(run), "label": label}) for run, label in zip(found, labels, strict=True)]
    return sources


def _expanded(paths: Sequence[Path], sources: Sources) -> Iterable[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        recordings = recordings_in(path)
        recordings.sort(key=lambda each: (each.stat().st_mtime, each.name))
        documents = [each for each in sorted(path.glob("*.json")) if COMPARISON in each.read_text(errors="replace")[:200]]
        if not recordings and not documents:
            raise UsageError(f"{path} holds no recording and no comparison", "record a run: hil run ppo --board native")
        sources.left_out += max(0, len(recordings) - MAX_RUNS)
        yield from recordings[-MAX_RUNS:]
        yield from documents


def _read_comparison(path: Path) -> Comparison:
    """Raises RecordingError."""
    hint = "write one: hil compare ppo --board native --json > comparison.json"
    try:
        document = parse_json(path.read_bytes())
        if document["schema"] != COMPARISON:
            raise RecordingError(f"{path} is a {document['schema']} document, not {COMPARISON}", hint)
        verdict = document["verdict"]
        reasons = tuple(map(str, verdict["reasons"])) or (() if verdict["good"] is True else ("the comparison failed",))
        return Comparison(
            path=path,
            verdict=Verdict(reasons),
            summary=str(document.get("summary", "")),
            inputs=int(document["inputs"]),
            pairs=[Difference.of(pair, "outputs", pair["causes"] or {}, "") for pair in document["pairs"]],
            layers=[
                Difference.of(
                    layer,
                    "values",
                    (layer.get("new") or {}) | {PROPAGATED: layer.get("propagated") or 0},
                    f"{int(layer['op'])} {layer['operator']}",
                )
                for layer in document["layers"]
            ],
            skipped=[(str(each["runtime"]), str(each["why"])) for each in document["skipped"]],
        )
    except OSError as exc:
        raise RecordingError(f"cannot read {path}: {exc.strerror}", hint) from exc
    except RecordingError:
        raise
    except PARSE_ERRORS as exc:
        raise RecordingError(f"{path} is not a comparison ({type(exc).__name__}: {exc})", hint) from exc


def _run(path: Path, recording: Recording) -> Run:
    meta = recording.meta
    counts = Counter(str(fault["kind"]) for fault in recording.faults)
    result = meta["result"]
    verdict = _verdict(recording)
    board = facts(recording).get("definition", facts(recording).get("board", ""))
    finished = [bool(episode.get("failed", True)) for episode in recording.episodes]
    summary = [f"{finished.count(False)} of {len(finished)} episodes without failure"]
    if checked := equals_tflm(recording):
        summary.append(f"board equals tflm in {checked[0] - checked[1]:,} of {checked[0]:,} outputs")
    summary.append(f"{sum(counts[kind] for kind in MISSED):,} misses in {len(recording):,} control steps")
    return Run(
        path=path,
        recording=recording,
        verdict=verdict,
        summary=", ".join(summary),
        board=str(board),
        policy=str(meta.get("policy") or meta.get("bundle", "")),
        time_s=run_time(recording),
        counts=counts,
        metrics=_metrics(recording, result),
        times_us={column: _distribution(getattr(recording, column)) for column in TIMES.values()},
    )


def facts(recording: Recording) -> Mapping[str, Any]:
    """What the board said about itself."""
    board = recording.meta.get("board")
    return board if isinstance(board, Mapping) else {"board": board or ""}


def equals_tflm(recording: Recording) -> tuple[int, int] | None:
    """Outputs that were compared with TensorFlow Lite Micro, and how many differ; None: they were not."""
    check = (recording.meta["result"] or {}).get("equals_tflm")
    return (int(check["checked"]), int(check["differing"])) if check else None


def _verdict(recording: Recording) -> Verdict:
    """That of the run, or of as much of it as was recorded."""
    result, ended = recording.meta["result"], recording.meta["ended"]
    if result is not None:
        verdict = result["verdict"]
        reasons = [str(why) for why in verdict["reasons"]]
        return Verdict(tuple(reasons or ([] if verdict["good"] is True else ["the run failed"])))
    reasons = [recording.missing] if recording.missing else [f"the run ended early: {ended}"] if ended != "complete" else []
    failed = [episode for episode in recording.episodes if episode.get("failed", True)]
    if failed:
        reasons.append(f"{len(failed)} of {len(recording.episodes)} episodes failed")
    if not recording.episodes and not reasons:
        reasons.append("no episode was finished")
    return Verdict(tuple(reasons))


def _metrics(recording: Recording, result: Mapping[str, Any] | None) -> dict[str, float]:
    """Over all episodes; of a run without a result, the mean of the finished ones."""
    each = [episode_metrics(episode) for episode in recording.episodes]
    if result is not None:
        return {str(name): float(value) for name, value in result["metrics"].items()}
    names = dict.fromkeys(name for metrics in each for name in metrics)
    return {name: float(np.mean([metrics[name] for metrics in each if name in metrics])) for name in names}


def episode_metrics(episode: Mapping[str, Any]) -> dict[str, float]:
    """Of one recorded episode."""
    return {str(name): float(value) for name, value in (episode.get("metrics") or {}).items()}


def _labels(runs: Sequence[Run]) -> list[str]:
    """Short names: policy and board, as far as they differ, and one thing more if need be; else the files' names."""
    if len(runs) == 1:
        return [f"{runs[0].policy} on {runs[0].board}"]
    base = [part for part in ([run.policy for run in runs], [run.board for run in runs]) if len(set(part)) > 1]
    more = [
        [f"engine {facts(run.recording).get('engine', '')}" for run in runs],
        [str(run.recording.meta.get("clock", "")) for run in runs],
        [f"firmware {facts(run.recording).get('firmware_commit', '')}" for run in runs],
        [_seeds(run.recording) for run in runs],
        [run.path.name.removesuffix(PARTIAL).removesuffix(".mcap") for run in runs],
        [str(run.path) for run in runs],
    ]
    tried = [
        [", ".join(words) for words in zip(*base, *part, strict=True)]
        for part in ([], *([each] for each in more))
        if base or part
    ]
    return next((labels for labels in tried if len(set(labels)) == len(runs)), [f"{i + 1}" for i in range(len(runs))])


def _seeds(recording: Recording) -> str:
    seeds = recording.meta.get("seeds")
    if not isinstance(seeds, list) or not seeds:
        return "no seed"
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


# --- tables -----------------------------------------------------------------------------------------------------------


def result_rows(runs: Sequence[Run]) -> list[Row]:
    """The table of results: a column for each run, and the target of each line."""
    rows = [
        Row(name="verdict", cells=tuple(_judged("PASS" if r.verdict.good else "FAIL", r.verdict.good) for r in runs)),
        Row(name="policy", cells=tuple(Cell(text=_policy(run)) for run in runs)),
        Row(name="board", cells=tuple(Cell(text=run.board) for run in runs)),
        Row(name="run", cells=tuple(Cell(text=_how(run.recording)) for run in runs)),
        Row(name="episodes without failure", cells=tuple(map(_episodes, runs)), target="all"),
        Row(name="board equals tflm", cells=tuple(map(_equal, runs)), target="all outputs"),
        Row(name="misses", cells=tuple(map(_misses, runs)), target=_same(map(_most_lost, runs))),
        Row(name="misses by cause", cells=tuple(Cell(text=_found(run, "miss_causes")) for run in runs)),
        Row(name="faults injected on purpose", cells=tuple(Cell(text=_found(run, "injected_faults")) for run in runs)),
        Row(
            name="wrong replies",
            cells=tuple(_judged(f"{r.counts['rejected']}", not r.counts["rejected"]) for r in runs),
            target="0",
        ),
        Row(name="reboots", cells=tuple(Cell(text=f"{run.counts['reboot']}") for run in runs)),
        Row(name="steps with the action held", cells=tuple(Cell(text=f"{int(run.recording.held.sum()):,}") for run in runs)),
        Row(
            name="round trip, p99",
            cells=tuple(map(_p99, runs)),
            target=_same(f"< {run.period_us / 1e3:g} ms, the control period" for run in runs),
        ),
    ]
    table = {str(m["name"]): m for run in runs for m in _dicts(run.recording.meta.get("metrics"))}
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        metric = table.get(name, {})
        arrow = {"higher": " ↑", "lower": " ↓"}.get(str(metric.get("better")), "")
        target = ""
        if metric.get("reduction") != "sum":  # a sum depends on the length of the episode
            floats = {
                float(measured[name]) for run in runs if name in (measured := run.recording.meta.get("float_metrics") or {})
            }
            target = f"{floats.pop():.4g}: float policy, simulated" if len(floats) == 1 else ""
        cells = tuple(Cell(text=f"{run.metrics[name]:.4g}" if name in run.metrics else "") for run in runs)
        rows.append(Row(name=f"{name}{arrow}", cells=cells, target=target))
    return [row for row in rows if any(cell.text for cell in row.cells)]


def _judged(text: str, good: bool) -> Cell:
    return Cell(text=text, state="good" if good else "bad")


def _same(texts: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(texts))


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _policy(run: Run) -> str:
    return f"{run.policy} ({run.recording.meta.get('bundle', '')}), {run.recording.spec.environment}"


def _how(recording: Recording) -> str:
    return f"{recording.meta.get('clock', '')}, {len(recording):,} steps of {recording.spec.control_period_s * 1e3:g} ms"


def _episodes(run: Run) -> Cell:
    failed = [bool(episode.get("failed", True)) for episode in run.recording.episodes]
    return _judged(f"{failed.count(False)} of {len(failed)}", bool(failed) and not any(failed))


def _equal(run: Run) -> Cell:
    checked = equals_tflm(run.recording)
    if checked is None:
        return Cell(text="not checked", state="warn")
    return _judged(f"{checked[0] - checked[1]:,} of {checked[0]:,}", not checked[1])


def _misses(run: Run) -> Cell:
    named = [f"{run.counts[kind]:,} {word}" for kind, word in MISSED.items() if run.counts[kind]]
    total = sum(run.counts[kind] for kind in MISSED)
    text = named[0] if len(named) == 1 else f"{total:,}: {', '.join(named)}" if named else "0"
    return Cell(text=text, state="warn" if total else "good")


def _found(run: Run, key: str) -> str:
    """Counts by name that the run found."""
    counts = (run.recording.meta["result"] or {}).get(key) or {}
    return ", ".join(f"{int(count):,} {name}" for name, count in counts.items() if count)


def _most_lost(run: Run) -> str:
    most = run.recording.meta.get("max_lost")
    return f"at most {most:,}" if isinstance(most, int) else ""


def _p99(run: Run) -> Cell:
    found = run.times_us["round_trip_us"]
    if not found.count:
        return Cell(text="not timed")
    return Cell(text=f"{found.p99 / 1e3:.2f} ms", state="good" if found.p99 < run.period_us else "warn")


def _distribution(values: NDArray[np.float64]) -> Distribution:
    """Of what is finite, as ``hil run`` makes it."""
    return Distribution.of(np.maximum(values[np.isfinite(values)], 0.0).tolist())


def timing_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Latencies, microseconds: name, run, count, p50, p99, p99.9, max."""
    rows = []
    for name, column in TIMES.items():
        for run in runs:
            found = run.times_us[column]
            if found.count:
                numbers = (found.p50, found.p99, found.p999, found.max)
                rows.append([name, run.label, f"{found.count:,}", *(f"{value:,.0f}" for value in numbers)])
    return rows


def engine_rows(runs: Sequence[Run]) -> list[Row]:
    """Processor, engine and memory, as the board reports them."""
    fields = {
        "processor": "processor",
        "engine": "engine",
        "engine version": "engine_version",
        "firmware": "firmware_commit",
        "tensor arena used": "arena_used",
        "tensor arena": "arena_size",
        "static RAM": "ram",
        "image in flash": "flash",
        "stack": "stack",
    }
    rows = []
    for name, key in fields.items():
        cells = tuple(Cell(text=_quantity((_memory(run) | dict(facts(run.recording))).get(key))) for run in runs)
        rows.append(Row(name=name, cells=cells))
    cells = tuple(Cell(text=_quantity((run.recording.meta["result"] or {}).get("cycles_per_inference"), "")) for run in runs)
    rows.append(Row(name="cycles of an inference, median of the run", cells=cells))
    rows += _cost_rows(runs)
    return [row for row in rows if any(cell.text for cell in row.cells)]


def _cost_rows(runs: Sequence[Run]) -> list[Row]:
    """What each part of an inference costs, in cycles or in instructions, never both in one row."""
    metas = [run.recording.meta for run in runs]
    costs = [dict((meta["result"] or {}).get("cost") or meta.get("cost") or {"unit": "", "parts": {}}) for meta in metas]
    rows = []
    for unit in ("instructions", "cycles"):
        parts = [dict(cost["parts"]) if cost["unit"] == unit else {} for cost in costs]
        for name in itertools.islice(dict.fromkeys(name for each in parts for name in each), MAX_PARTS):
            cells = tuple(Cell(text=f"{int(each[name]):,}" if name in each else "") for each in parts)
            rows.append(Row(name=f"{unit}: {name}", cells=cells))
    return rows


def _memory(run: Run) -> dict[str, Any]:
    return dict((run.recording.meta["result"] or {}).get("memory_bytes") or {})


def _quantity(value: object, unit: str = " B") -> str:
    """Bytes; a board reports 0 for what it does not know."""
    return f"{value:,}{unit}" if isinstance(value, int) and value else str(value or "")


@dataclass(frozen=True, kw_only=True)
class Occupancy:
    """How one int8 input or output uses its range."""

    signal: str
    low: int
    high: int
    codes: int  # distinct values of the 256
    saturated: float  # share at -128 or 127
    shares: NDArray[np.float64]  # [64], of four neighboring codes each


def occupancy(codes: NDArray[np.int8], names: Sequence[str]) -> list[Occupancy]:
    """Of int8 [n, len(names)], n > 0."""
    found = []
    for index, name in enumerate(names):
        counts = np.bincount(codes[:, index].astype(np.int64) + 128, minlength=256)
        used = np.flatnonzero(counts) - 128
        found.append(
            Occupancy(
                signal=name,
                low=int(used[0]),
                high=int(used[-1]),
                codes=len(used),
                saturated=float((counts[0] + counts[255]) / counts.sum()),
                shares=counts.reshape(64, 4).sum(axis=1) / counts.sum(),
            )
        )
    return found


_NOT_IDENTITY = ("format", "ended", "spec", "result", "metrics", "float_metrics", "trace", "command", "max_lost", "seeds", "cost")


def identity_rows(runs: Sequence[Run]) -> list[Row]:
    """What was run, key by key. A key whose values differ between the runs is marked."""
    tables = [{"file": run.path.name, **dict(_flatten(run.recording.meta))} for run in runs]
    rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        values = [table.get(key, "") for table in tables]
        state = "warn" if key != "file" and len(set(values)) > 1 else ""
        rows.append(Row(name=key, cells=tuple(Cell(text=value, state=state) for value in values)))
    return [row for row in rows if any(cell.text for cell in row.cells)]


def _flatten(meta: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in meta.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if not prefix and key in _NOT_IDENTITY:
            continue
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name} ")
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def commands(run: Run) -> list[tuple[str, str]]:
    """What a command does, and the command, to repeat and look into a run."""
    meta = run.recording.meta
    policy, board, file = (shlex.quote(text) for text in (run.policy, run.board, str(run.path)))
    found = [("run it again", str(meta["command"]))] if meta.get("command") else []
    return [
        *found,
        ("replay the recording on another runtime, bit by bit", f"hil replay {file} --runtime tflm"),
        ("find out why outputs differ", f"hil compare {policy} --board {board} --recording {file} --json > comparison.json"),
        ("add that to this page", f"hil report {file} comparison.json"),
    ]
