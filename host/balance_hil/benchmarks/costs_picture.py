"""What inferences cost over several saved files: a panel for each kind of cost, a line for each board, engine and policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from balance_hil.benchmarks.costs import Cost, Saved
from balance_hil.errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Title, and the names in a Cost's tables that are drawn: the first that it has.
_PANELS = (
    ("instructions or cycles of an inference", "cost", ("inference", "frame to frame")),
    ("flash", "memory", ("flash",)),
    ("RAM", "memory", ("RAM",)),
    ("peak stack", "memory", ("most stack, loading included", "stack of the board")),
)
# Okabe and Ito's palette, safe for color-blind readers.
_PALETTE = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#882255", "#000000")
_STYLES = ("-", "--", ":", "-.")


def draw(saved: Sequence[Saved]) -> Figure:
    """Each cost as a share of the first file that has it, the files from left to right. Raises MissingExtraError."""
    require("matplotlib", "report")
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(cost.name for each in saved for cost in each.costs))
    figure = Figure(figsize=(11, 7), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 2, sharex=True).flat
    for axes, (title, table, keys) in zip(panels, _PANELS, strict=True):
        for index, name in enumerate(names):
            costs = [next((cost for cost in each.costs if cost.name == name), None) for each in saved]
            values = [_value(cost, table, keys) if cost else None for cost in costs]
            first = next((value for value in values if value), None)
            if first is None:
                continue
            shares = [float("nan") if value is None else 100 * value / first for value in values]
            color, style = _PALETTE[index % len(_PALETTE)], _STYLES[index // len(_PALETTE) % len(_STYLES)]
            axes.plot(
                range(len(saved)), shares, color=color, linestyle=style, marker="o", markersize=3, linewidth=1.4, label=name
            )
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_ylabel("% of the first", fontsize=8)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xticks(range(len(saved)), [each.commit or each.path for each in saved], rotation=45, ha="right", fontsize=7)
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _value(cost: Cost, table: str, keys: Sequence[str]) -> float | None:
    numbers = getattr(cost, table)
    return next((numbers[key] for key in keys if key in numbers), None)
