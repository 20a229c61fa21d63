"""``hil flash``: flash a policy to a board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from balance_hil.boards import flash as flashing
from balance_hil.boards.engines import ENGINES
from balance_hil.boards.flash import FlashConfig, FlashResult
from balance_hil.bundle import Bundle
from balance_hil.cli.console import print_json, say, stdout
from balance_hil.cli.params import BOARD, JSON, POLICY, WAIT, model_options
from balance_hil.opening import open_policy


@click.command()
@click.argument("policy", type=POLICY)
@model_options
@click.option("-b", "--board", type=BOARD, required=True, help="Board type; see hil boards.")
@click.option("--port", help="Device or URL; by default the only port with the board's USB ids.")
@click.option(
    "--drive", type=click.Path(path_type=Path, file_okay=False), help="Boot drive of a board with one (pico); by default found."
)
@click.option("--engine", type=click.Choice(ENGINES), help="Inference engine; by default tflm if its library is installed.")
@click.option(
    "--baud", type=click.IntRange(min=1), help="Baud rate of the firmware's port; by default from the board definition."
)
@WAIT
@click.option("--force", is_flag=True, help="Flash even if the same image runs, no port exists yet, or the board does not match.")
@JSON
def command(policy: Path, spec: Path | None, output: str | None, as_json: bool, **settings: Any) -> None:
    """Build the firmware with POLICY (a bundle, or any .tflite), flash it to a board, and verify that it runs.

    Does nothing when the board runs the same policy, firmware commit and engine already.
    """
    config = FlashConfig(bundle=open_policy(policy, spec=spec, output=output, unnamed=True), **settings)
    result = flashing.flash(config, say)
    if as_json:
        print_json(_document(result, config.bundle))
        return
    if result.info is None:
        stdout.print(
            f"{result.board} took the image with policy {config.bundle.id} and restarted, {result.wall_s:.1f} s; what it runs "
            f"was not verified. Connect its UART, then: hil run {policy} --board {result.board} --port DEVICE",
            soft_wrap=True,
        )
        return
    what = "now runs" if result.flashed else "already ran"
    stdout.print(
        f"{result.board} on {result.port} {what} policy {result.info.model_id} with the engine {result.info.engine} "
        f"(firmware {result.info.firmware_commit}), {result.wall_s:.1f} s",
        soft_wrap=True,
    )


def _document(result: FlashResult, bundle: Bundle) -> dict[str, object]:
    info = result.info
    return {
        "bundle": str(bundle.path),
        "board": result.board,
        "port": result.port,
        "flashed": result.flashed,
        "verified": info is not None,
        "model_id": info and info.model_id,
        "engine": info and info.engine,
        "engine_version": info and info.engine_version,
        "firmware_commit": info and info.firmware_commit,
        "processor": info and info.processor,
        "wall_s": result.wall_s,
    }
