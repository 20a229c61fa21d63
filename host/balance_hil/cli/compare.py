"""``hil compare``: the same inputs through every runtime and the board."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from balance_hil.boards import connect
from balance_hil.bundle import Bundle
from balance_hil.cli.console import print_json, stderr, stdout
from balance_hil.comparing.compare import OBSERVATION_SOURCES, CompareConfig, compare

if TYPE_CHECKING:
    from balance_hil.comparing.comparison import Comparison, LayerDifference


@click.command(name="compare")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--board", metavar="NAME", help="also compare this board (native, qemu-m4, teensy41, ...); see hil boards")
@click.option("--port", metavar="PORT", help="serial port or URL of a physical board")
@click.option("--baud", type=int, metavar="BITS_PER_S", help="baud rate, if not the board's usual one")
@click.option("--engine", metavar="NAME", help="engine of an emulated board, if not its usual one")
@click.option("--samples", type=click.IntRange(min=1), default=CompareConfig.samples, show_default=True,
              help="random inputs over the whole int8 range, and as many recorded observations")  # fmt: skip
@click.option("--seed", type=int, default=CompareConfig.seed, show_default=True, help="of the random inputs and the rollout")
@click.option("--runtimes", metavar="A,B,...", help="desktop runtimes; default: every installed one")
@click.option("--observations", type=click.Choice(OBSERVATION_SOURCES), default=CompareConfig.observations, show_default=True,
              help="where recorded observations come from: a fresh lockstep rollout, or the bundle's golden vectors")  # fmt: skip
@click.option("--recording", type=click.Path(path_type=Path), metavar="FILE", help="take them from a recording instead")
@click.option("--layer-samples", type=click.IntRange(min=0), default=CompareConfig.layer_samples, show_default=True,
              help="inputs on which every layer is compared; 0 switches that off")  # fmt: skip
@click.option("--layers", is_flag=True, help="print the table of every layer of every pair that differs")
@click.option("--closed-loop", "loop", metavar="A,B", help="instead: two runtimes (or board) drive the same episodes")
@click.option("--episodes", type=click.IntRange(min=1), help="with --closed-loop: how many; default: 20")
@click.option("--steps", type=click.IntRange(min=1), help="with --closed-loop: control steps of each; default: 6000 (30 s)")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document instead of tables")
def command(
    bundle: Path, board: str | None, port: str | None, baud: int | None, engine: str | None, samples: int, seed: int,
    runtimes: str | None, observations: str, recording: Path | None, layer_samples: int, layers: bool, as_json: bool,
    loop: str | None, episodes: int | None, steps: int | None,
) -> None:  # fmt: skip
    """Gives every desktop runtime and the board the same inputs, and counts the outputs that differ.

    Exit status 0 when no board took part, or when the board equals TensorFlow Lite Micro (tflm) bit for bit; 1 otherwise.
    With --closed-loop: 0 when neither survival nor tracking differs beyond chance; 1 otherwise.
    """
    if loop is not None or episodes is not None or steps is not None:
        from balance_hil.cli import closed_loop

        far_end = closed_loop.Device(board=board, port=port, baud=baud, engine=engine)
        closed_loop.main(loop, bundle, far_end, episodes=episodes, steps=steps, seed=seed, as_json=as_json)
    config = CompareConfig(
        samples=samples,
        seed=seed,
        runtimes=tuple(name.strip() for name in runtimes.split(",")) if runtimes else None,
        observations=observations,
        recording=recording,
        layer_samples=layer_samples,
    )
    if board is None and (port or baud or engine):
        raise click.UsageError("--port, --baud and --engine belong to a board: add --board NAME")
    loaded = Bundle.load(bundle)
    with ExitStack() as stack:
        device = stack.enter_context(connect(board, loaded, port=port, baud=baud, engine=engine)) if board else None
        watch = stack.enter_context(_ProgressBars())
        result = compare(loaded, config, board=device, on_progress=watch)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result, layers)
    sys.exit(0 if result.passed else 1)


class _ProgressBars(Progress):
    """One bar for each thing that ``compare`` reports, on stderr."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, console=stderr, transient=True)
        self._bars: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._bars:
            self._bars[what] = self.add_task(what, total=total)
        self.update(self._bars[what], completed=done)


def _print(result: Comparison, layers: bool) -> None:
    stdout.print(
        f"bundle {result.bundle}: {result.inputs} inputs, {result.random} random over the int8 range (seed {result.seed}), "
        f"{result.recorded} from {result.recorded_from}",
        soft_wrap=True,
    )
    tables = [
        *([_ladder_table(result)] if result.ladder else []),
        *([_pair_table(result)] if result.pairs else []),
        *([_layer_table(result)] if layers and result.layers else []),
    ]
    for table in tables:
        stdout.print()
        stdout.print(table)
    stdout.print()
    for name, why in result.skipped.items():
        stderr.print(f"left out {name}: {why}", markup=False, soft_wrap=True)
    stdout.print(result.verdict, style="bold green" if result.passed else "bold red", soft_wrap=True)


def _table(title: str, words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in words:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _ladder_table(result: Comparison) -> Table:
    title = f"From float to int8: {result.ladder[0].outputs} actions on equal observations"
    table = _table(title, ("from", "to"), ("differing", "max abs", "rms", "max LSB"))
    for step in result.ladder:
        lsb = "" if step.max_lsb is None else f"{step.max_lsb:.2f}"
        table.add_row(step.a, step.b, f"{step.differing}", f"{step.max_abs:.2e}", f"{step.rms:.2e}", lsb)
    return table


def _pair_table(result: Comparison) -> Table:
    title = f"Differing int8 outputs, of {result.pairs[0].outputs} on equal int8 inputs"
    table = _table(title, ("a", "b"), ("random", "recorded", "share", "LSB"))
    table.add_column("from layer")
    for pair in result.pairs:
        layer = "" if pair.first_layer is None else f"{pair.first_layer} {pair.first_operator}"
        counts = (f"{pair.differing_random}", f"{pair.differing_recorded}", f"{pair.differing / pair.outputs:.2%}")
        table.add_row(pair.a, pair.b, *counts, f"{pair.max_lsb}", layer, style="" if pair.differing else "green")
    return table


def _layer_table(result: Comparison) -> Table:
    """One row for each pair that differs, one column for each layer."""
    layers = {row.op: f"{row.op}\n{row.operator}\nof {row.values}" for row in result.layers}
    title = (
        f"Differing values (max LSB) of each layer over {result.layer_inputs} inputs; a difference spoils the layers behind it"
    )
    table = _table(title, ("a", "b"), tuple(layers.values()))
    by_pair: dict[tuple[str, str], dict[int, LayerDifference]] = {}
    for row in result.layers:
        by_pair.setdefault((row.a, row.b), {})[row.op] = row
    for (a, b), rows in by_pair.items():
        if any(row.differing for row in rows.values()):
            table.add_row(a, b, *(f"{rows[op].differing} ({rows[op].max_lsb})" if op in rows else "hidden" for op in layers))
    return table
