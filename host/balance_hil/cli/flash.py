"""``hil flash``: flash a policy to a board."""

from __future__ import annotations

from pathlib import Path

import click

from balance_hil.boards import flash as flashing
from balance_hil.boards.engines import ENGINES
from balance_hil.boards.flash import FlashConfig, FlashResult
from balance_hil.bundle import Bundle
from balance_hil.cli.console import print_json, say, stdout
from balance_hil.cli.params import BOARD, POLICY, WAIT


@click.command()
@click.argument("bundle", type=POLICY)
@click.option("-b", "--board", type=BOARD, required=True, help="Board type; see hil boards.")
@click.option("--port", help="Device or URL; by default the only port with the board's USB ids.")
@click.option("--engine", type=click.Choice(ENGINES), help="Inference engine; by default tflm if its library is installed.")
@click.option(
    "--baud", type=click.IntRange(min=1), help="Baud rate of the firmware's port; by default from the board definition."
)
@WAIT
@click.option("--force", is_flag=True, help="Flash even if the same image runs, no port exists yet, or the board does not match.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    bundle: Path, board: str, port: str | None, engine: str | None, baud: int | None, wait_s: float, force: bool, as_json: bool
) -> None:
    """Build the firmware with BUNDLE's model, flash it to a board, and verify that the board runs it.

    Does nothing when the board runs the same policy, firmware commit and engine already.
    """
    config = FlashConfig(bundle=Bundle.load(bundle), board=board, port=port, engine=engine, baud=baud, force=force, wait_s=wait_s)
    result = flashing.flash(config, say)
    if as_json:
        print_json(_document(result, config.bundle))
        return
    what = "now runs" if result.flashed else "already ran"
    stdout.print(
        f"{result.board} on {result.port} {what} policy {result.info.model_id} with the engine {result.info.engine} "
        f"(firmware {result.info.firmware_commit}), {result.wall_s:.1f} s",
        soft_wrap=True,
    )


def _document(result: FlashResult, bundle: Bundle) -> dict[str, object]:
    return {
        "bundle": str(bundle.path),
        "board": result.board,
        "port": result.port,
        "flashed": result.flashed,
        "model_id": result.info.model_id,
        "engine": result.info.engine,
        "engine_version": result.info.engine_version,
        "firmware_commit": result.info.firmware_commit,
        "processor": result.info.processor,
        "wall_s": result.wall_s,
    }
