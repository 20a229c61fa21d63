"""What ``hil compare`` prints: tables for people, of a finished comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.measure import Measurement
from rich.table import Table

from balance_hil.cli.console import make_table, print_verdict, say, stdout

_WIDEST = 1000  # columns

if TYPE_CHECKING:
    from balance_hil.comparing.board_io import Finding
    from balance_hil.comparing.comparison import Comparison, IoDifference, LayerDifference


def print_comparison(result: Comparison, layers: bool) -> None:
    """Prints everything that ``result`` found; ``layers`` adds one row for each layer of each pair that differs.

    So does an operator that nobody emulates: outputs are not attributed then.
    """
    stdout.print(
        f"model {result.model}: {result.inputs} inputs, {result.random} random over the {result.element_type} range "
        f"(seed {result.seed})" + (f", {result.recorded} from {result.recorded_from}" if result.recorded else ""),
        soft_wrap=True,
    )
    tables = [
        *([_ladder_table(result)] if result.ladder else []),
        *([_pair_table(result)] if result.pairs else []),
        *([_cause_table(result)] if any(pair.causes for pair in result.pairs) else []),
        *([_layer_table(result)] if result.layers and (layers or result.not_attributed) else []),
    ]
    for table in tables:
        stdout.print()
        # At its natural width: in a pipe the console assumes 80 columns and would truncate numbers.
        everything = stdout.options.update(max_width=_WIDEST)
        table.width = Measurement.get(stdout, everything, table).maximum
        stdout.print(table, soft_wrap=True)
    stdout.print()
    for name, why in result.skipped.items():
        say(f"skipped {name}: {why}")
    for line in _sentences(result):
        stdout.print(line, soft_wrap=True)
    print_verdict(result.verdict, result.summary)


def _sentences(result: Comparison) -> list[str]:
    """The arithmetic of each runtime, and what is wrong with the board's conversions, with its remedy."""
    lines = [f"differences could not be attributed: {result.not_attributed}"] if result.not_attributed else []
    for found in result.arithmetics:
        lines.append(found.verdict)
        if found.advice:
            lines.append(f"  remedy: {found.advice}")
    lines += [_float_io(each) for each in result.float_io]
    for finding in result.findings:
        if not finding.healthy:
            lines.append(_finding(finding))
            lines.append(f"  remedy: {finding.advice}")
    return [*lines, ""] if lines else []


def _float_io(found: IoDifference) -> str:
    text = (
        f"{found.runtime}, the whole model on {found.observations} float observations, ties among them: its QUANTIZE makes "
        f"{found.input_differing} raw inputs otherwise than the host, and {found.action_differing} outputs differ"
    )
    return text + (f"; {found.unexplained} of them are unexplained" if found.unexplained else "")


def _finding(finding: Finding) -> str:
    text = f"the board {finding.fault} ({finding.stage}: {finding.differing} of {finding.samples} values are wrong)"
    return text + (f"; also possible: {', '.join(finding.alternatives)}" if finding.alternatives else "")


def _ladder_table(result: Comparison) -> Table:
    title = f"From float to {result.element_type}: {result.ladder[0].outputs} actions on equal observations"
    table = make_table("from", "to", ">differing", ">max abs", ">rms", ">max LSB", title=title)
    for step in result.ladder:
        lsb = "" if step.max_lsb is None else f"{step.max_lsb:.2f}"
        table.add_row(step.a, step.b, f"{step.differing}", f"{step.max_abs:.2e}", f"{step.rms:.2e}", lsb)
    return table


def _pair_table(result: Comparison) -> Table:
    title = f"Differing {result.element_type} outputs, of {result.pairs[0].outputs} on equal inputs"
    table = make_table("a", "b", ">random", ">recorded", ">share", ">LSB", ">unexplained", title=title)
    for pair in result.pairs:
        counts = (f"{pair.differing_random}", f"{pair.differing_recorded}", f"{pair.differing / pair.outputs:.2%}")
        unexplained = "" if pair.unexplained is None else f"{pair.unexplained}"
        style = "red" if pair.unexplained else "" if pair.differing else "green"
        table.add_row(pair.a, pair.b, *counts, f"{pair.max_lsb}", unexplained, style=style)
    return table


def _cause_table(result: Comparison) -> Table:
    table = make_table("a", "b", ">outputs", "cause", "from layer", title="Their causes")
    for pair in result.pairs:
        layer = "" if pair.first_layer is None else f"{pair.first_layer} {pair.first_operator}"
        for cause, count in (pair.causes or {}).items():
            table.add_row(pair.a, pair.b, f"{count}", cause, layer)
    return table


def _layer_table(result: Comparison) -> Table:
    """One row for each layer of each pair in which something differs."""
    title = (
        f"Differing values of each layer over {result.layer_inputs} inputs: new ones arise from equal layer inputs, "
        "the others follow from them"
    )
    if result.hidden_layers:
        title += f". Not compared, because their outputs are of another type: {', '.join(result.hidden_layers)}"
    headings = (">values", ">differing", ">propagated", ">unexplained", ">new", ">new LSB")
    table = make_table("a", "b", "layer", *headings, "cause of the new ones", "where", title=title)
    for row in result.layers:
        if row.differing:
            new = "" if row.new is None else f"{sum(row.new.values())}"
            numbers = (row.values, row.differing, row.propagated, row.unexplained, new, row.max_new_lsb)
            texts = ("" if number is None else f"{number}" for number in numbers)
            table.add_row(row.a, row.b, f"{row.op} {row.operator}", *texts, "; ".join(row.new or ()), _where(row))
    return table


def _where(row: LayerDifference) -> str:
    """Which channels of the output differ, and which of them most."""
    channels = row.new_channels if row.new_channels and any(row.new_channels) else row.channels
    hit = [element for element, count in enumerate(channels) if count]
    if len(hit) <= 3:
        return f"channel{'s' * (len(hit) != 1)} {', '.join(map(str, hit))} of {len(channels)}"
    most = max(hit, key=lambda element: channels[element])
    return f"{len(hit)} of {len(channels)} channels, most in {most}"
