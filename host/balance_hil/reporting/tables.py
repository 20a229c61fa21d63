"""The tables of a page: results with their targets, latencies, engine and memory, int8 ranges, identity, commands."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.recording import Recording
from balance_hil.reporting.runs import MISSED, TIMES, Run, equals_tflm, facts

MAX_PARTS = 80  # of an inference: a model has at most 64 operators


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
    if not failed and run.verdict.good:  # of hil watch: a robot has none
        return Cell(text="no episodes")
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
