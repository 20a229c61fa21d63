"""``hil power``: the power switch of a board of the bench."""

from __future__ import annotations

import click

from balance_hil import boards
from balance_hil.boards.farm import farm_kind
from balance_hil.boards.power import Action, switch
from balance_hil.cli.console import say
from balance_hil.cli.params import BOARD, WAIT
from balance_hil.errors import UsageError


@click.command()
@click.argument("board", type=BOARD)
@click.argument("action", type=click.Choice(["on", "off", "cycle"]))
@WAIT
def command(board: str, action: Action, wait_s: float) -> None:
    """Switch BOARD, a board of boards.toml or of a farm, on or off, or off and on again."""
    if boards.find_board(board).place is None and not farm_kind(board):
        raise UsageError(f"{board} is a type of board, not a board of the bench", "name one of boards.toml: docs/bench.md")
    with boards.held(board, wait_s, say, connected=False) as held:
        assert held.definition.place is not None  # checked above
        switch(held.definition.place, action, say)
