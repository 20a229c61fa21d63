"""Curves and histograms of a page: down-sampled traces as data for its script, histograms as SVG."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.recording import Recording
from balance_hil.recording.reader import episode_edges
from balance_hil.reporting.runs import Run
from balance_hil.spec import Signal

VALUES = 1_200_000  # of all curves of a page together: 6.4 MB as text
POINTS = 24_000  # of a curve, at most: more make the page slow
WINDOW = 100  # rows on each side of an event that are kept at full rate
INJECTED = "injected"  # how the names of faults that were injected on purpose begin; page.js colors them by it
MAX_EVENTS = 3000  # marks of one kind in the timeline of one run
BINS = 70

Floats = NDArray[np.floating[Any]]
Curve = tuple[str, str, Sequence[Floats | None]]  # name, unit, values of each run


def chart_data(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page's script draws: for each run its times, for each signal a curve of every run that has it."""
    wanted: dict[str, list[Curve]] = {
        "Timing": [
            ("round trip", "ms", [run.recording.round_trip_us / 1e3 for run in runs]),
            ("tick jitter", "ms", [run.recording.jitter_us / 1e3 for run in runs]),
        ],
        "Actions": list(_signals(runs, "action")),
        "Plant": [
            (name, "", [run.recording.plant.get(name) for run in runs])
            for name in dict.fromkeys(name for run in runs for name in run.recording.plant)
        ],
        "Observations": list(_signals(runs, "observation")),
    }
    groups = {title: [c for c in charts if any(_has(values) for values in c[2])] for title, charts in wanted.items()}
    curves = sum(len(charts) for charts in groups.values())
    budget = min(POINTS, VALUES // max(1, len(runs) * (curves + 2)))
    starts = [bucket_starts(len(run.recording), interesting(run.recording), budget) for run in runs]
    return {
        "period_ms": max((run.period_us / 1e3 for run in runs), default=0.0),
        "runs": [
            {"label": run.label, "x": _text(m4_times(run.time_s, rows), np.float64), "edges": _edges(run)}
            for run, rows in zip(runs, starts, strict=True)
        ],
        "groups": [
            {
                "title": title,
                "charts": [
                    {
                        "name": name,
                        "unit": unit,
                        "y": [
                            _text(m4(values, rows), np.float32) if values is not None and _has(values) else None
                            for values, rows in zip(curve, starts, strict=True)
                        ],
                    }
                    for name, unit, curve in charts
                ],
            }
            for title, charts in groups.items()
            if charts
        ],
        "events": [event for index, run in enumerate(runs) for event in _events(index, run)],
    }


def _signals(runs: Sequence[Run], kind: str) -> Iterable[Curve]:
    """In physical units."""
    tables: list[dict[str, Signal]] = [{signal.name: signal for signal in getattr(run.recording.spec, kind)} for run in runs]
    for name in dict.fromkeys(name for table in tables for name in table):
        curve: list[Floats | None] = []
        unit = ""
        for run, table in zip(runs, tables, strict=True):
            signal = table.get(name)
            values: Floats = getattr(run.recording, kind)
            curve.append(values[:, signal.index] * signal.scale if signal is not None else None)
            unit = signal.unit if signal is not None else unit
        yield name, unit, curve


def _has(values: Floats | None) -> bool:
    return values is not None and bool(np.isfinite(values).any())


def _edges(run: Run) -> list[float]:
    return [float(run.time_s[row]) for row in episode_edges(run.recording)[1:-1]]


def _events(index: int, run: Run) -> Iterable[dict[str, Any]]:
    times: dict[str, list[float]] = {"held": run.time_s[run.recording.held].tolist()}
    for fault in run.recording.faults:
        times.setdefault(str(fault["kind"]), []).append(float(fault["t_s"]))
    for fault in run.recording.injected:
        kind = f"{INJECTED} {fault['fault']} {fault.get('direction', '')}".rstrip()
        times.setdefault(kind, []).append(float(fault["t_s"]))
    for kind, at_s in times.items():
        values = np.asarray(at_s)
        if len(values) > MAX_EVENTS:  # one mark for those that would lie on each other
            width = max(np.ptp(values) / MAX_EVENTS, 1e-9)
            values = values[np.unique(np.floor(values / width), return_index=True)[1]]
        if len(values):
            yield {"kind": kind, "run": index, "x": _text(np.sort(values), np.float64)}


def _text(values: Floats, kind: type) -> str:
    with np.errstate(over="ignore"):
        return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


# --- down-sampling ----------------------------------------------------------------------------------------------------


def interesting(recording: Recording) -> NDArray[np.intp]:
    """Rows that deserve the full rate, most interesting first: ends of failed episodes, slow replies, held steps, other ends."""
    score = np.where(recording.held, recording.spec.control_period_s * 1e6, 0.0)
    np.fmax(score, recording.round_trip_us, out=score)
    score[score < recording.spec.control_period_s * 1e6] = 0.0
    edges = episode_edges(recording)
    failed = {episode["episode"] for episode in recording.episodes if episode.get("failed", True)}
    for end in edges[1:]:
        if end:
            score[end - 1] = np.inf if int(recording.episode[end - 1]) in failed else max(score[end - 1], 1.0)
    rows = np.flatnonzero(score)
    return rows[np.argsort(-score[rows], kind="stable")]


def bucket_starts(n: int, wanted: NDArray[np.intp], budget: int) -> NDArray[np.intp]:
    """First rows of the buckets that ``n`` rows fall in: single rows around those ``wanted``, equal buckets elsewhere.

    All together they give about ``budget`` points; half of it goes to single rows. Everything is single where it fits.
    """
    if n <= budget:
        return np.arange(n)
    single = np.zeros(n, bool)
    left = budget // 2
    for row in wanted[: budget // WINDOW]:
        window = slice(max(0, row - WINDOW), row + WINDOW)
        left -= int(np.count_nonzero(~single[window]))
        if left < 0:
            break
        single[window] = True
    size = -(-4 * n // max(4, budget // 2))
    is_start = single.copy()
    is_start[::size] = True
    is_start[1:] |= single[:-1]  # after a window a bucket begins
    return np.flatnonzero(is_start)


def m4(values: Floats, starts: NDArray[np.intp]) -> NDArray[np.float64]:
    """First, least, greatest and last of each bucket in the order of their time: no single outlier is lost (M4).

    Buckets of a single row give one value. NaN is left out where a bucket has anything else.
    """
    values = np.asarray(values, np.float64)
    n, ends = len(values), np.append(starts[1:], len(values))
    if not n:
        return values
    sizes = ends - starts
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    rows = np.arange(n)
    low_at = np.minimum.reduceat(np.where(values == np.repeat(low, sizes), rows, n), starts)
    high_at = np.minimum.reduceat(np.where(values == np.repeat(high, sizes), rows, n), starts)
    first = low_at <= high_at
    points = np.stack([values[starts], np.where(first, low, high), np.where(first, high, low), values[ends - 1]], axis=1)
    return np.asarray(points[_points(sizes)])


def m4_times(time_s: NDArray[np.float64], starts: NDArray[np.intp]) -> NDArray[np.float64]:
    """Times of what ``m4`` gives, the same for every curve: evenly spaced in each bucket."""
    ends = np.append(starts[1:], len(time_s))
    if not len(time_s):
        return time_s
    first, last = time_s[starts], time_s[ends - 1]
    points = first[:, np.newaxis] + (last - first)[:, np.newaxis] * np.array([0, 1 / 3, 2 / 3, 1])
    return np.asarray(points[_points(ends - starts)])


def _points(sizes: NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.stack([np.ones(len(sizes), bool), *[sizes > 1] * 3], axis=1)


# --- histograms -------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 900, 240, 60, 40, 14


def histogram(curves: Sequence[Floats], mark: float, mark_label: str, axis: str) -> str:
    """How often each value occurred, both axes logarithmic: an ``<svg>``. Values beyond ``mark`` are red.

    Args:
        curves: one for each run; what is not finite is left out, and "" is returned if nothing is left.
        mark: where a line is drawn.
        mark_label: its text.
        axis: name of the values.
    """
    finite = [np.maximum(values[np.isfinite(values)], 1e-3) for values in curves]
    known = [values for values in finite if len(values)]
    if not known:
        return ""
    low = min(float(values.min()) for values in known) * 0.9
    high = max(mark, *(float(values.max()) for values in known)) * 1.1
    edges = np.geomspace(low, high, BINS + 1)
    counts = [np.histogram(values, edges)[0] for values in finite]
    top = max(int(count.max()) for count in counts) * 1.3

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 10) * float(np.log(value / low) / np.log(high / low))

    def y(count: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * float(np.log(max(count, 0.7) / 0.7) / np.log(top / 0.7))

    parts = []
    for value in _decades(low, high):
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    for exponent in range(int(np.log10(top)) + 1):
        at = y(10**exponent)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{10**exponent:,}</text>')
    for index, count in enumerate(counts):
        for late in (False, True) if len(curves) == 1 else (False,):
            path = "".join(
                f"M{x(edges[i]):.1f} {y(0):.1f}V{y(c):.1f}H{x(edges[i + 1]):.1f}V{y(0):.1f}Z"
                for i, c in enumerate(count)
                if c and (len(curves) > 1 or (edges[i + 1] > mark) == late)
            )
            if path:
                parts.append(f'<path class="{"late" if late else f"run{index % 8}"}" d="{path}"/>')
    parts.append(f'<line class="mark" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    parts.append(f'<text class="mark" x="{x(mark) - 5:.1f}" y="{_TOP + 10}" text-anchor="end">{html.escape(mark_label)}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{html.escape(axis)}; steps upward</text>')
    label = html.escape(f"histogram of {axis}", quote=True)
    return f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between two numbers; only powers of ten where they are far apart."""
    factors = (1, 2, 5) if high / low < 1e3 else (1,)
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [value for value in values if low <= value <= high]


def code_strip(shares: Floats) -> str:
    """A small ``<svg>`` of how often each int8 code occurred, -128 to 127, as square roots, so that rare ones show."""
    tallest = float(np.sqrt(shares.max())) or 1.0
    bars = "".join(
        f'<rect x="{2 * i}" y="{20 - h:.1f}" width="2" height="{h:.1f}"/>'
        for i, share in enumerate(shares)
        if (h := max(1.0, 20 * float(np.sqrt(share)) / tallest)) and share
    )
    return f'<svg class="codes" viewBox="0 0 128 20" role="img" aria-label="codes from -128 to 127">{bars}</svg>'
