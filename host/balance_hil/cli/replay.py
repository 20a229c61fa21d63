"""``hil replay``: a recorded run, fed to any runtime or board: the regression test of a firmware change."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import click

from balance_hil.boards import Board
from balance_hil.bundle import Bundle, find_bundle
from balance_hil.cli.console import make_table, print_json, print_verdict, stdout, warn_if_cut_off
from balance_hil.cli.crash_repro import rerun_episode
from balance_hil.cli.params import BOARD, JSON, POLICY, RUNTIME, Access, board_options
from balance_hil.cli.progress import ProgressBars
from balance_hil.comparing.replay import FirstDifference, Replay, check_model, replay
from balance_hil.errors import UsageError
from balance_hil.paths import MODELS, POLICIES
from balance_hil.recording import read_recording
from balance_hil.runtimes import RUNTIME_NAMES, load_runtime
from balance_hil.runtimes.base import Runtime


@click.command(name="replay")
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("-r", "--runtime", type=RUNTIME, metavar="NAME", help=f"Desktop runtime: {', '.join(RUNTIME_NAMES)}.")
@click.option("-b", "--board", type=BOARD, metavar="NAME", help="Board; see hil boards. An emulated one is started.")
@click.option("--bundle", type=POLICY, metavar="FOLDER",
              help="The recorded policy's bundle; by default the one with the recording's model id.")  # fmt: skip
@board_options
@JSON
def command(
    recording: Path, runtime: str | None, board: str | None, bundle: Path | None, access: Access, as_json: bool
) -> None:  # fmt: skip
    """Feed the observations of RECORDING to a runtime or a board and count the results that differ.

    Exit status 0 when every raw input, every raw output and every action is the recorded one, bit for bit; 1 otherwise.

    The diverged.npz of a training or an evaluation that failed is a simulated episode: it is run again, without a
    runtime or board.
    """
    if recording.suffix == ".npz":
        sys.exit(rerun_episode(recording, as_json))
    if (runtime is None) == (board is None):
        raise UsageError("name one of --runtime and --board", "for example: hil replay RECORDING --board native")
    access.require_board(board)
    recorded = read_recording(recording)
    warn_if_cut_off(recorded.missing, recording)
    policy = Bundle.load(bundle) if bundle else find_bundle(str(recorded.meta.get("bundle")), POLICIES, MODELS)
    check_model(recorded, str(recording), policy)  # before a board is started for it
    with ExitStack() as stack:
        target: Runtime | Board
        if board is not None:
            target = stack.enter_context(access.connect(board, policy))
        else:
            assert runtime is not None  # one of the two is there
            target = stack.enter_context(load_runtime(runtime, policy))
        watch = stack.enter_context(ProgressBars())
        result = replay(recorded, str(recording), policy, target, on_progress=watch)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)
    sys.exit(0 if result.verdict.good else 1)


def _print(result: Replay) -> None:
    before = result.recorded_by
    stdout.print(
        f"{result.recording}: bundle {result.bundle}, {result.steps} steps in {result.episodes} episodes, recorded "
        f"{before['clock']} on {before['board']} ({before['engine']} {before['engine_version']}, "
        f"firmware {before['firmware_commit']}); {result.held} held, {result.late} with a late reply",
        soft_wrap=True,
    )
    title = f"{result.rows[0].a} against {result.rows[0].b}"
    table = make_table("value", ">compared", ">differing", ">max LSB", title=title)
    for row in result.rows:
        numbers = (f"{row.values}", f"{row.differing}", f"{row.max_lsb:.4g}")
        table.add_row(row.what, *numbers, style="" if row.differing else "green")
    stdout.print()
    stdout.print(table)
    stdout.print()
    for row in result.rows:
        if row.first is not None:
            stdout.print(_first(row.what, row.first), soft_wrap=True)
    print_verdict(result.verdict, result.summary)


def _first(what: str, first: FirstDifference) -> str:
    where = f"episode {first.episode}, step {first.step} ({first.t_s:.3f} s), {first.signal}"
    return f"first differing {what}: {where}: recorded {first.recorded:.7g}, replayed {first.replayed:.7g}"
