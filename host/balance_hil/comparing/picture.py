"""A heat map of a comparison: where in the model two runtimes diverge, one color for each cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from balance_hil.comparing.attribution import CAUSES
from balance_hil.comparing.comparison import Comparison, LayerDifference
from balance_hil.errors import UsageError, require
from balance_hil.files import require_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROPAGATED, UNEXPLAINED, UNATTRIBUTED = "propagated from the layers before", "unexplained", "not attributed"
# Okabe and Ito's palette and Tol's, safe for color-blind readers, in the order of CAUSES; black: unexplained.
_PALETTE = (
    "#0072B2",
    "#661100",
    "#E69F00",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#882255",
    "#44AA99",
    "#332288",
    "#8C6D1F",
)
_COLORS: Mapping[str, str] = {
    **dict(zip(CAUSES, _PALETTE, strict=True)),
    PROPAGATED: "#9AA0A6",
    UNEXPLAINED: "#000000",
    UNATTRIBUTED: "#7A3E9D",
}
_FAINTEST = 0.25  # opacity of an element that differs once; full where it differs in every row
_COLUMNS = 2
_CELLS = 192  # cells across a panel, in which every layer is as wide as the others


def check_picture(path: Path, layer_samples: int) -> None:
    """Checks that the picture can be drawn, before the comparison starts.

    Raises:
        UsageError: unsupported picture format, no such folder, or no layers to draw.
        MissingExtraError: matplotlib is not installed.
    """
    require_picture(path)
    if not layer_samples:
        raise UsageError("a picture shows layers, and --layer-samples 0 leaves them out", "leave that option out")


def draw(result: Comparison) -> Figure:
    """One panel for each pair that differs: a row for each layer, a column for each of its elements. Raises MissingExtraError."""
    require("matplotlib", "report")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = _panels(result)
    layers = max((len(rows) for rows in panels.values()), default=1)
    lines = max(1, -(-len(panels) // _COLUMNS))
    columns = min(_COLUMNS, max(1, len(panels)))
    figure = Figure(figsize=(7.5 * columns, 1.6 + lines * (0.9 + 0.32 * layers)), layout="constrained", facecolor="white")
    axes = figure.subplots(lines, columns, squeeze=False)
    used = [kind for (a, b), rows in panels.items() for kind in _panel(axes.flat[list(panels).index((a, b))], a, b, rows)]
    for spare in axes.flat[len(panels) :]:
        spare.set_axis_off()
    figure.suptitle(
        f"Where runtimes differ: model {result.model}, {result.layer_inputs} inputs"
        + ("" if panels else ": nowhere")
        + "\nfull color: the channel differs in every input; faint: in one",
        fontsize=11,
    )
    kinds = [kind for kind in _COLORS if kind in used]
    if kinds:
        handles = [Patch(color=_COLORS[kind], label=kind) for kind in kinds]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _panels(result: Comparison) -> dict[tuple[str, str], list[LayerDifference]]:
    by_pair: dict[tuple[str, str], list[LayerDifference]] = {}
    for row in result.layers:
        by_pair.setdefault((row.a, row.b), []).append(row)
    return {pair: rows for pair, rows in by_pair.items() if any(row.differing for row in rows)}


def _panel(axes: Axes, a: str, b: str, rows: Sequence[LayerDifference]) -> set[str]:
    """Draws one pair and returns the kinds of cells in it."""
    from matplotlib.colors import to_rgb

    image = np.ones((len(rows), _CELLS, 4))
    image[..., 3] = 0.0
    used = set()
    for line, row in enumerate(rows):
        kinds, share = _cells(row)
        width = _CELLS / len(kinds)
        for element, kind in enumerate(kinds):
            if share[element]:
                used.add(kind)
                cells = slice(round(element * width), round((element + 1) * width))
                image[line, cells] = (*to_rgb(_COLORS[kind]), share[element])
    axes.imshow(image, aspect="auto", interpolation="nearest", extent=(0.0, 1.0, len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), [f"{row.op} {row.operator}" for row in rows], fontsize=8)
    axes.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    axes.grid(which="minor", axis="y", color="#D0D7DE", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.set_xticks([])
    axes.set_xlabel("channels of the layer's output, first to last", fontsize=8)
    axes.set_title(f"{a} and {b}", fontsize=10, loc="left")
    for line, row in enumerate(rows):
        axes.text(1.01, line, _caption(row), va="center", fontsize=7.5, color="#57606A", transform=axes.get_yaxis_transform())
    return used


def _cells(row: LayerDifference) -> tuple[list[str], NDArray[np.float64]]:
    """For every element of a layer what to show, and how strongly (0: nothing differs)."""
    samples = max(1, row.values // max(1, len(row.channels)))
    counts = np.asarray(row.channels, np.float64)
    strength = np.where(counts > 0, _FAINTEST + (1 - _FAINTEST) * np.log1p(counts) / np.log1p(samples), 0.0)
    if row.new is None or row.new_channels is None:
        return [UNATTRIBUTED] * len(counts), strength
    cause, _ = max(row.new.items(), key=itemgetter(1), default=(PROPAGATED, 0))
    rest = UNEXPLAINED if row.unexplained else PROPAGATED
    return [cause if new else rest for new in row.new_channels], strength


def _caption(row: LayerDifference) -> str:
    if not row.differing:
        return "equal"
    if row.new is None:
        return f"{row.differing} differ"
    parts = {"new": sum(row.new.values()), "propagated": row.propagated or 0, "unexplained": row.unexplained or 0}
    return ", ".join(f"{count} {name}" for name, count in parts.items() if count)
