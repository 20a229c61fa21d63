"""Figures of one recording, legible on light and dark pages: no background, medium-gray text."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import UsageError
from balance_hil.recording import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# At least 3:1 against white as well as against GitHub's and VS Code's dark backgrounds.
TEXT = "#7d8590"
GRID = "#7d859040"
LINES = ("#2f81c7", "#d9730d", "#8a63d2", "#2e9e5b")
BAD = "#d1495b"
BUCKETS = 900  # points along the time axis: more than the pixels of a page
_METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL)
_STYLE = {
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "path",
}


def draw_run(recording: Recording, episode: int | None = None) -> Figure:
    """Plant, action and, unless it was recorded in lockstep, round trip over time, of one episode or of all end to end.

    Raises:
        UsageError: the recording has no such episode, or no step at all.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = np.ones(len(recording), bool) if episode is None else recording.episode == episode
    if not rows.any():
        what = "control steps" if episode is None else f"episode {episode}"
        raise UsageError(f"the recording holds no {what}", f"it has {len(np.unique(recording.episode))} episodes, counted from 0")
    time_s = run_time(recording)[rows]
    time_s -= time_s[0]
    timed = has_timings(recording)
    traced = next(iter(recording.plant), None)
    panels = 1 + (traced is not None) + timed
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 2.0 * panels), layout="constrained")
        axes = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
        if traced is not None:
            _band(axes[0], time_s, recording.plant[traced][rows], LINES[0], "")
            axes[0].set_ylabel(traced)
        actions = axes[int(traced is not None)]
        for index, signal in enumerate(recording.spec.action):
            _band(actions, time_s, recording.action[rows, index], LINES[index % len(LINES)], signal.name.replace("_", " "))
        actions.set_ylabel("action")
        _legend_above(actions)
        if timed:
            _draw_round_trip(axes[-1], recording, rows, time_s)
        for panel in axes:
            for start_s in time_s[1:][np.diff(recording.episode[rows]) != 0]:
                panel.axvline(start_s, color=TEXT, linewidth=0.8, linestyle=":")
        axes[-1].set_xlabel("time (s)")
        axes[-1].set_xlim(0.0, time_s[-1])
        figure.align_ylabels()
    return figure


def draw_histogram(recording: Recording) -> Figure:
    """How often each round trip occurred, both axes logarithmic: the rare late ones matter. Needs ``has_timings``."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    values_ms = recording.round_trip_us[np.isfinite(recording.round_trip_us)] / 1e3
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 2.8), layout="constrained")
        axes = figure.subplots()
        bins = np.geomspace(values_ms.min() * 0.95, values_ms.max() * 1.05, 61).tolist()
        axes.hist(values_ms, bins=bins, color=LINES[0])
        for share, style in ((50, "-"), (99, "--")):
            at_ms = float(np.percentile(values_ms, share))
            axes.axvline(at_ms, color=LINES[1], linestyle=style, linewidth=1.4, label=f"p{share} {at_ms:.2f} ms")
        _legend_above(axes)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        _plain_ticks(axes)
        axes.set_xlabel("round trip (ms)")
        axes.set_ylabel("steps")
    return figure


def has_timings(recording: Recording) -> bool:
    """Whether any round trip was timed; none is in lockstep."""
    return bool(np.any(np.isfinite(recording.round_trip_us)))


def run_time(recording: Recording) -> NDArray[np.float64]:
    """Seconds since the start, float64 [n], with the episodes end to end."""
    time_s = np.asarray(recording.t_s, np.float64).copy()
    shift = 0.0
    edges = [0, *(np.flatnonzero(np.diff(recording.episode)) + 1).tolist(), len(time_s)]
    for start, end in pairwise(edges):
        if start < end:
            time_s[start:end] += shift - time_s[start]
            period = float(np.median(np.diff(time_s[start:end]))) if end - start > 1 else 0.0
            shift = float(time_s[end - 1]) + period
    return time_s


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element; ``name`` keeps its ids apart from those of other figures on the page."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = _METADATA.sub("", buffer.getvalue())
    return text[text.index("<svg") :]


def to_png(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as a PNG with a transparent background."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, transparent=True)
    return buffer.getvalue()


def _draw_round_trip(axes: Axes, recording: Recording, rows: NDArray[np.bool_], time_s: NDArray[np.float64]) -> None:
    axes.set_ylabel("round trip (ms)")
    values_ms = recording.round_trip_us[rows] / 1e3
    _band(axes, time_s, values_ms, LINES[3], "")
    axes.set_yscale("log")
    period_ms = recording.spec.control_period_s * 1e3
    # Of the whole recording: one episode may hold no reply at all, and pictures of two episodes are comparable.
    top_ms = max(period_ms, float(np.nanmax(recording.round_trip_us)) / 1e3)
    axes.set_ylim(float(np.nanmin(recording.round_trip_us)) / 1e3 * 0.7, top_ms * 1.8)
    _plain_ticks(axes)
    axes.axhline(period_ms, color=TEXT, linewidth=1.0, linestyle="--", label=f"control period {period_ms:g} ms")
    held = time_s[np.asarray(recording.held[rows], bool)]
    if len(held):
        label = f"action held ({len(held)} steps)"
        axes.plot(held, np.full(len(held), top_ms * 1.4), "|", color=BAD, markersize=7, label=label)
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=4, fontsize=9, borderaxespad=0, borderpad=0.2)


def _band(axes: Axes, x: NDArray[np.float64], y: NDArray[Any], color: str, label: str) -> None:
    """A curve of at most BUCKETS points: the median of each bucket, over the range that the bucket covers."""
    values = np.asarray(y, np.float64)
    if len(x) <= 2 * BUCKETS:
        axes.plot(x, values, color=color, linewidth=0.9, label=label)
        return
    edges = np.linspace(0, len(x), BUCKETS + 1).astype(int)
    middle, low, high, median = (np.full(BUCKETS, np.nan) for _ in range(4))
    for i, (start, end) in enumerate(pairwise(edges)):
        middle[i] = x[start:end].mean()
        finite = values[start:end][np.isfinite(values[start:end])]
        if len(finite):
            low[i], high[i], median[i] = finite.min(), finite.max(), np.median(finite)
    axes.fill_between(middle, low, high, color=color, alpha=0.45, linewidth=0.4)
    axes.plot(middle, median, color=color, linewidth=0.9, label=label)


def _plain_ticks(axes: Axes) -> None:
    """0.1, 0.2, 0.5, 1, ... instead of powers of ten, where a scale is logarithmic."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if axis is axes.xaxis else (1.0,)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
