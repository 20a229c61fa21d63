"""``hil emulate``: an emulated board behind a port, for other programs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from balance_hil.boards import find_board, held
from balance_hil.boards.kinds.machines import emulate
from balance_hil.cli.console import say
from balance_hil.cli.params import BOARD, POLICY, model_options
from balance_hil.errors import BoardBootError, UsageError
from balance_hil.opening import open_policy


@click.command()
@click.argument("policy", type=POLICY)
@model_options
@click.option("-b", "--board", type=BOARD, default="native", show_default=True, help="Which board; see hil boards.")
@click.option("--engine", help="Inference engine; by default tflm if its library is installed, else int8.")
@click.option(
    "--watchdog-ms", type=click.IntRange(min=0), help="Enter the safe state after this time without an observation; 0 = never."
)
@click.option("--fault", hidden=True, help="Inject this firmware fault, to try the tools that detect it.")
@click.option("--link", type=click.Path(path_type=Path), help="Also create this symbolic link to the port, as a stable name.")
def command(
    policy: Path,
    spec: Path | None,
    output: str | None,
    board: str,
    engine: str | None,
    watchdog_ms: int | None,
    fault: str | None,
    link: Path | None,
) -> None:
    """Start a board with POLICY (a bundle, or any .tflite) and print its port, until Ctrl-C.

    Any program can open the port at any baud rate: a serial monitor, hil run --port, or one that sends an observation as
    comma-separated numbers and a line feed and reads the actions as a line.
    """
    definition = find_board(board)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        if definition.place:
            stack.enter_context(held(board))
        machine = emulate(
            definition,
            open_policy(policy, spec=spec, output=output, unnamed=True),
            engine=engine,
            watchdog_ms=watchdog_ms,
            fault=fault,
            progress=say,
        )
        stack.enter_context(contextlib.closing(machine))
        port = machine.start_unopened()
        with _symbolic_link(link, port) as name:
            sys.stdout.write(f"{name}\n")  # the one line of data
            sys.stdout.flush()
            say(f"{board} runs {policy}; Ctrl-C ends it")
            raise BoardBootError(f"the emulated board {board} ended: {machine.wait(say)}", "what it needs: hil doctor")


@contextlib.contextmanager
def _symbolic_link(link: Path | None, port: str) -> Iterator[str]:
    if link is None:
        yield port
        return
    if link.exists() and not link.is_symlink():
        raise UsageError(f"{link} exists and is not a symbolic link", "choose another name: --link PATH")
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        try:
            partial.symlink_to(port)
            partial.replace(link)
        except OSError as exc:
            raise UsageError(f"cannot make the link {link}: {exc}", "choose another name: --link PATH") from exc
        yield str(link)
    finally:  # also of Ctrl-C between the two steps
        for each in (partial, link):
            if each.is_symlink() and os.readlink(each) == port:  # noqa: PTH115 - a Path makes one slash of socket://
                each.unlink()
