"""Curves of a fault suite: success and action rate of every policy against the severity of each fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balance_hil.benchmarks.faults import AXES, NONE
from balance_hil.errors import require
from balance_hil.evaluating.robustness_table import LEVEL, Interval, RobustnessTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(table: RobustnessTable) -> Figure:
    """A column for each fault; success in the upper row, the last of the environment's metrics in the lower one.

    Raises MissingExtraError.
    """
    require("matplotlib", "report")
    from matplotlib.figure import Figure

    metric = table.metrics[-1]
    figure = Figure(figsize=(4 * len(AXES), 6.5), layout="constrained", facecolor="white")
    grid = figure.subplots(2, len(AXES), sharey="row")
    for column, axis in enumerate(AXES):
        labels = ["none", *(axis.shown.format(value * axis.scale) for value in axis.values)]
        names = [NONE.name, *(condition.name for condition in axis.conditions())]
        for index, policy in enumerate(table.policies):
            cells = [table.cell(policy.name, name) for name in names]
            places = [place + 0.06 * (index - len(table.policies) / 2) for place in range(len(names))]  # bars do not overlap
            for axes, intervals in (
                (grid[0][column], [cell.success_rate for cell in cells]),
                (grid[1][column], [cell.metrics[metric.name] for cell in cells]),
            ):
                axes.errorbar(
                    places, [each.value for each in intervals], _bars(intervals), label=policy.name, marker="o", ms=3, lw=1
                )
        for axes in (grid[0][column], grid[1][column]):
            axes.set_xticks(range(len(labels)), labels)
            axes.grid(alpha=0.3)
        grid[1][column].set_xlabel(axis.title)
    grid[0][0].set_ylabel("episodes without failure")
    grid[0][0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    grid[1][0].set_ylabel(f"{metric.name}, {metric.unit}".rstrip(", "))
    grid[0][0].legend(fontsize=8)
    figure.suptitle(
        f"{table.n_episodes} episodes of {table.max_steps} steps of {table.environment} on {table.runtime}; bars: {LEVEL:.0%} "
        "confidence",
        fontsize=10,
    )
    return figure


def _bars(intervals: list[Interval]) -> list[list[float]]:
    return [[each.value - each.low for each in intervals], [each.high - each.value for each in intervals]]
