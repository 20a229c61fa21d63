"""A heat map of a robustness table: a row for each policy, a column for each condition, the color its success."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from balance_hil.errors import require
from balance_hil.evaluating.robustness_table import RobustnessTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = "cividis"  # monotonic lightness: readable for color-blind readers and in gray
_LIGHT = 0.6  # share above which a cell is light and its text dark


def draw(table: RobustnessTable) -> Figure:
    """The heat map; under each share the first of the environment's own metrics. Raises MissingExtraError."""
    require("matplotlib", "report")
    from matplotlib.figure import Figure

    cells = [[table.cell(policy.name, condition.name) for condition in table.conditions] for policy in table.policies]
    metric = table.metrics[min(1, len(table.metrics) - 1)]
    rows, columns = len(table.policies), len(table.conditions)
    figure = Figure(figsize=(2.4 + 1.05 * columns, 2.1 + 0.62 * rows), layout="constrained", facecolor="white")
    axes = figure.subplots()
    image = axes.imshow(
        np.array([[cell.success_rate.value for cell in row] for row in cells]), cmap=_COLORS, vmin=0.0, vmax=1.0, aspect="auto"
    )
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            ink = "#111111" if cell.success_rate.value > _LIGHT else "#FFFFFF"
            share = f"{cell.success_rate.value:.0%}"
            axes.text(x, y - 0.12, share, ha="center", va="center", color=ink, fontsize=11, fontweight="bold")
            axes.text(
                x,
                y + 0.25,
                f"{cell.metrics[metric.name].value:.3g} {metric.unit}",
                ha="center",
                va="center",
                color=ink,
                fontsize=8,
            )
    axes.set_xticks(
        range(columns),
        [textwrap.fill(condition.title, 13, break_long_words=False) for condition in table.conditions],
        fontsize=8.5,
    )
    axes.set_yticks(range(rows), [policy.name for policy in table.policies], fontsize=10)
    axes.set_xticks(np.arange(0.5, columns - 1), minor=True)
    axes.set_yticks(np.arange(0.5, rows - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.xaxis.tick_top()
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.015)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    axes.set_xlabel(
        f"success in {table.n_episodes} episodes of {table.max_steps} steps, and {metric.name}, on {table.runtime}",
        fontsize=9,
    )
    return figure
