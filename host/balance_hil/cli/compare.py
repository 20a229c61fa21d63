"""``hil compare``: the same inputs through every runtime and the board."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from balance_hil.boards import Board
from balance_hil.cli.compare_tables import print_comparison
from balance_hil.cli.console import print_json, say
from balance_hil.cli.params import BOARD, CAMPAIGN, JSON, POLICY, RUNTIME, Access, board_options, campaign_options, only
from balance_hil.cli.progress import ProgressBars
from balance_hil.cli.remember import HISTORY, remember
from balance_hil.comparing.compare import OBSERVATION_SOURCES, CompareConfig, compare
from balance_hil.comparing.model_under_test import ModelUnderTest, load_model
from balance_hil.comparing.picture import check_picture, draw
from balance_hil.comparing.reduce import TIME_LIMIT_S
from balance_hil.farm.campaign import Campaign
from balance_hil.files import save_figure
from balance_hil.interrupt import entered

# What goes with --reduce, by the parameter's name.
_REDUCE_OPTIONS = (
    "board", "port", "baud", "engine", "wait_s", "samples", "seed", "runtimes", "output", "is_reduced", "limit_s", "as_json",
)  # fmt: skip


@click.command(name="compare")
@click.argument("model", type=POLICY)
@click.option("--board", type=BOARD, metavar="NAME", help="Also compare this board (native, qemu-m4, ...); see hil boards.")
@board_options
@click.option("--samples", type=click.IntRange(min=1), default=CompareConfig.samples, show_default=True,
              help="Random inputs over the whole range of the model's input, and as many recorded observations.")  # fmt: skip
@click.option("--seed", type=int, default=CompareConfig.seed, show_default=True, help="Of the random inputs and the rollout.")
@click.option("--runtimes", type=RUNTIME, metavar="A,B,...", help="Desktop runtimes; default: every installed one.")
@click.option("--observations", type=click.Choice(OBSERVATION_SOURCES), default=CompareConfig.observations, show_default=True,
              help="Source of the recorded observations: a new lockstep rollout, or the bundle's golden vectors.")  # fmt: skip
@click.option("--recording", type=click.Path(path_type=Path), metavar="FILE", help="Take them from a recording instead.")
@click.option("--layer-samples", type=click.IntRange(min=0), default=CompareConfig.layer_samples, show_default=True,
              help="Inputs on which every layer is compared; 0 switches that off.")  # fmt: skip
@click.option(
    "--layers", is_flag=True, help="Print the new and the propagated differences of each layer, for every pair that differs."
)
@click.option("--output", metavar="NAME", help="Which output of a .tflite with several: its name, or its number from 0.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Draw the differences of every layer, one color for each cause (.svg, .png or .pdf).")  # fmt: skip
@click.option("--reduce", "is_reduced", is_flag=True,
              help="Instead: write the smallest model and one row that still differ, with a test, to reduced/.")  # fmt: skip
@click.option("--reduce-seconds", "limit_s", type=click.FloatRange(min=0), default=TIME_LIMIT_S, show_default=True, metavar="S",
              help="With --reduce: take the smallest case found by then.")  # fmt: skip
@click.option("--closed-loop", "loop", metavar="A,B", help="Instead: two runtimes (or board) drive the same episodes.")
@click.option("--episodes", type=click.IntRange(min=1), help="With --closed-loop: how many; default: 20.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="With --closed-loop: control steps of each; default: the environment's."
)
@campaign_options
@HISTORY
@JSON
def command(
    model: Path, board: str | None, access: Access, runtimes: str | None, layers: bool, output: str | None, picture: Path | None,
    as_json: bool, loop: str | None, episodes: int | None, steps: int | None, seed: int, is_reduced: bool, limit_s: float,
    campaign: Campaign, **settings: Any,
) -> None:  # fmt: skip
    """Run the same inputs through every desktop runtime and the board, count the differing outputs and attribute the causes.

    MODEL is a bundle (ppo) or any int8, int16x8 or float32 .tflite; input and output may be float32 with QUANTIZE and DEQUANTIZE
    inside. Outputs of float32 models are compared within 64 steps of float32.

    A runtime that is not installed or cannot load MODEL is skipped; the reason is printed.

    Exit status 0 when every difference is explained and the board, if one took part, equals TensorFlow Lite Micro (tflm) bit
    for bit and converts as the host does; 2 when differences stay open only because an operator is not emulated; 1 otherwise.

    With --reduce: 0 when nothing differs and nothing crashes; 1 when a case was written.

    With --closed-loop: 0 when neither success nor a metric differs beyond chance; 1 otherwise.
    """
    if loop is not None or episodes is not None or steps is not None:
        from balance_hil.cli import closed_loop

        closed_loop.main(
            loop, model, board, access, episodes=episodes, steps=steps, seed=seed, campaign=campaign, as_json=as_json
        )
    only(set(click.get_current_context().params) - set(CAMPAIGN), "a comparison without --closed-loop")
    names = tuple(name.strip() for name in runtimes.split(",")) if runtimes else None
    config = CompareConfig(seed=seed, runtimes=names, **settings)
    access.require_board(board)
    if picture is not None:
        check_picture(picture, config.layer_samples)
    under_test = load_model(model, output)
    if is_reduced:
        from balance_hil.cli import compare_reduce

        only(_REDUCE_OPTIONS, "--reduce")
        samples = settings["samples"]
        compare_reduce.main(under_test, board, access, names, samples, seed=seed, limit_s=limit_s, as_json=as_json)
    with ExitStack() as stack:
        device = _connect(stack, under_test, board, access) if board else None
        watch = stack.enter_context(ProgressBars())
        result = compare(under_test, config, board=device, on_progress=watch)
    if picture is not None:
        save_figure(draw(result), picture)
        say(f"wrote {picture}")
    document = result.to_dict()
    remember(
        "compare",
        document,
        variant=f"{document['inputs']} inputs",
        board=device.name if device else "",
        bundle=(model.resolve().name, under_test.bundle.id if under_test.bundle else ""),
        metrics={name: sum(pair[name] or 0 for pair in document["pairs"]) for name in ("differing", "unexplained")},
    )
    if as_json:
        print_json(document)
    else:
        print_comparison(result, layers)
    sys.exit(2 if result.not_emulated else 0 if result.verdict.good else 1)


def _connect(stack: ExitStack, model: ModelUnderTest, board: str, access: Access) -> Board:
    """The board, closed by ``stack``; an emulated one is given the model when that has no bundle."""
    image = None
    if model.bundle is None and access.port is None:
        image = Path(stack.enter_context(entered(lambda: tempfile.TemporaryDirectory(prefix="balance-hil-")))) / "model.tflite"
        image.write_bytes(model.model)
    return stack.enter_context(access.connect(board, model.bundle, model=image))
