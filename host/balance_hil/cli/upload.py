"""``--upload``: send a policy to a board over the link."""

from __future__ import annotations

from balance_hil.boards import Board, find_board
from balance_hil.bundle import MANIFEST, Bundle
from balance_hil.cli.console import say, stderr
from balance_hil.cli.progress import ProgressBars
from balance_hil.paths import MODELS

SHIPPED = MODELS / "ppo"  # the default policy of a firmware image


def runs_at_first(name: str, bundle: Bundle, port: str | None) -> Bundle | None:
    """What a board runs before the upload: a physical one whatever was flashed (None), an emulated one the shipped policy.

    So an emulated board needs no image of its own for each policy. Raises UnknownBoardError.
    """
    if port is not None or not find_board(name).is_emulated:
        return None
    return Bundle.load(SHIPPED) if (SHIPPED / MANIFEST).is_file() else bundle


def upload(board: Board, bundle: Bundle) -> None:
    """Replaces the policy on ``board`` and prints a status line. Raises what ``Board.load`` raises."""
    bars = ProgressBars()
    bars.disable = not stderr.is_terminal
    with bars:
        result = board.load(bundle, lambda there, size: bars(f"uploading to {board.name}", there, size))
    if not result.uploaded:
        say(f"{board.name} runs policy {bundle.id} already: nothing to upload")
        return
    again = f", {result.resent} times sent again" if result.resent else ""
    say(
        f"uploaded policy {bundle.id} to {board.name}: {result.size_bytes} bytes in {result.wall_s * 1e3:.0f} ms{again}; "
        "a reset brings its flashed policy back"
    )
