"""Types of the arguments that name a policy, a board or a runtime: found by name, completed by the shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from balance_hil.cli.console import stderr
from balance_hil.paths import MODELS, POLICIES

Command = TypeVar("Command", bound=Callable[..., Any])


class PolicyType(click.ParamType[Path]):
    """A policy: a path, or the bare name of one in ``policies/`` or of a shipped one."""

    name = "policy"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path. Raises BundleError."""
        from balance_hil.bundle import locate, no_such_bundle

        path = locate(value)
        if len(path.parts) == 1 and not path.suffix and not path.exists():
            raise no_such_bundle(path)
        if path.parent == POLICIES and Path(value) != path and (MODELS / path.name).is_dir():
            stderr.print(f"{value} is your {path}; the shipped one is {MODELS / path.name}", soft_wrap=True)
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names, and whatever the shell finds in this folder."""
        from balance_hil.bundle import bundle_names

        names = [CompletionItem(name) for name in bundle_names() if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


class NamesType(click.ParamType[str]):
    """A name out of a list that is read when the shell asks for it; several with commas between them."""

    def __init__(self, name: str, known: Callable[[], Iterable[str]]) -> None:
        self.name = name
        self._known = known

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin like what follows the last comma."""
        before, comma, begun = incomplete.rpartition(",")
        return [CompletionItem(before + comma + name) for name in self._known() if name.startswith(begun)]


def _boards() -> Iterable[str]:
    from balance_hil.boards.definition import load_definitions

    return sorted(load_definitions())


def _runtimes() -> Iterable[str]:
    from balance_hil.runtimes import RUNTIME_NAMES

    return RUNTIME_NAMES


WAIT = click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), default=0.0, metavar="S",
    help="Wait this long, in seconds, for a board that another user holds; see hil boards.",
)  # fmt: skip


def board_options(command: Command) -> Command:
    """Adds --port, --wait, --baud and --engine: the connection to a board, or the engine of an emulated one."""
    for option in (
        click.option("--engine", metavar="NAME", help="Inference engine of an emulated board; by default from its definition."),
        click.option(
            "--baud", type=click.IntRange(min=1), metavar="BITS_PER_S", help="Baud rate; by default from the board definition."
        ),
        WAIT,
        click.option(
            "--port",
            metavar="PORT",
            help="Device or URL: /dev/ttyACM0, socket://host:port, or the port that hil emulate printed.",
        ),
    ):
        command = option(command)
    return command


def model_options(command: Command) -> Command:
    """``--spec`` and ``--output``, for a policy that is a ``.tflite`` alone."""
    spec = click.option(
        "--spec", type=click.Path(path_type=Path, dir_okay=False), metavar="SIGNALS.yaml",
        help="Signal table of a bare .tflite: docs/policies.md.",
    )  # fmt: skip
    return spec(click.option("--output", metavar="NAME|K", help="Output of a bare .tflite that is the action.")(command))


POLICY = PolicyType()
BOARD = NamesType("board", _boards)
RUNTIME = NamesType("runtime", _runtimes)
