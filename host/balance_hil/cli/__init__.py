"""The ``hil`` command. The only part of balance_hil that prints or exits.

Each subcommand is a module that is imported only when it runs, so that ``hil run`` does not wait for torch.
"""

from __future__ import annotations

import balance_hil.cli.imports_end_by_signals  # noqa: F401 - first: the others take most of a second

# isort: split

import atexit
import gc
import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from balance_hil import __version__
from balance_hil.cli.console import print_error, print_warning
from balance_hil.errors import (
    EnvironmentMismatchError,
    ExportError,
    HarnessError,
    SimulationDivergedError,
    TooManyLostError,
    TrainingError,
    UnknownBoardError,
    UnknownEnvironmentError,
    UsageError,
)
from balance_hil.interrupt import Ended, ended_by_signals
from balance_hil.paths import install_command

COMMANDS = {
    "train": "train a policy",
    "export": "turn a policy into a bundle: ONNX, float32 and quantized TFLite, C array, golden vectors",
    "evaluate": "run episodes of a policy in simulation, on any runtime or board",
    "flash": "build the firmware with a policy, flash it to a board, verify that it runs",
    "run": "run episodes with a board as controller",
    "soak": "run real-time episodes for hours; record anomalies, measure growth",
    "compare": "run the same inputs through every runtime and the board, and count the differing outputs",
    "test": "run the HIL suite for several policies on several boards",
    "verify": "break a board on purpose and check that the HIL suite says so",
    "replay": "replay a recorded run on any runtime or board, bit by bit",
    "report": "draw a recording",
    "recordings": "list recordings, repair truncated ones, export them as CSV or Parquet",
    "watch": "watch a robot that runs a policy by itself, and check what it computes and the signs of its sensors",
    "history": "show results over time, and what changed when one turned",
    "identify": "fit motor parameters of the balance robot to a step response",
    "boards": "list connected boards, boards that can be emulated, and the bench; map the bench",
    "power": "switch a board of the bench on or off",
    "emulate": "start an emulated board and print its port, for other programs",
    "bench": "side-by-side benchmarks",
    "doctor": "check the installation and list what is missing",
}


GOOD, BAD, WRONG_USAGE, MISSING, INTERRUPTED = 0, 1, 2, 3, 130
# Bad: what was tried is not good. Everything that is not listed is missing or broken here: a port, a board, a file, an extra.
_STATUSES: dict[type[HarnessError], int] = {
    EnvironmentMismatchError: WRONG_USAGE,
    ExportError: BAD,
    SimulationDivergedError: BAD,
    TooManyLostError: BAD,
    TrainingError: BAD,
    UnknownBoardError: WRONG_USAGE,
    UnknownEnvironmentError: WRONG_USAGE,
    UsageError: WRONG_USAGE,
}


# Import name of a package -> the extra that installs it, for the hint of a missing package.
_EXTRAS = {
    **dict.fromkeys(("torch", "stable_baselines3", "tensorboard"), "train"),
    **dict.fromkeys(("tensorflow", "onnx", "onnx2tf"), "export"),
    **dict.fromkeys(("ai_edge_litert", "numba", "onnxruntime", "tflite_micro"), "int8"),
    "matplotlib": "report",
    "imageio": "video",
    **dict.fromkeys(("pyarrow", "google"), "parquet"),
    **dict.fromkeys(("starlette", "uvicorn", "websockets", "foxglove"), "live"),
}


def exit_status(error: HarnessError) -> int:
    """Exit status of a command that ended with ``error``."""
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), MISSING)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"balance_hil.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hil")
def hil() -> None:
    """Take a policy from simulation to a microcontroller, and compare every bit.

    Each command takes --help. Errors go to stderr as "error:" and "hint:"; --json prints one JSON document on stdout.

    Exit status: 0 good, 1 a bad verdict, 2 wrong usage, 3 something is missing or broken here, 130 interrupted.
    """


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
    """Warnings of ours read like messages; those of other packages stay as Python prints them."""
    if Path(filename).is_relative_to(_PACKAGE):
        print_warning(str(message))
    else:
        _show_foreign_warning(message, category, filename, *rest, **more)


_PACKAGE = Path(__file__).resolve().parents[1]
_show_foreign_warning = warnings.showwarning


def main() -> None:
    """Entry point: runs ``hil`` and turns errors into messages and an exit status."""
    warnings.showwarning = _show_warning
    # Else Python ends, after a signal too, by looking for cycles in all that was imported: with torch and TensorFlow for 1.6 s.
    atexit.register(gc.freeze)
    try:
        with ended_by_signals() as ended:
            _run(ended)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)


def _run(ended: Ended) -> None:
    """``hil``; its errors are printed while signals still raise KeyboardInterrupt."""
    try:
        _end_as_interrupted(ended)
    except click.ClickException as exc:
        print_error(exc.format_message(), "see the options: hil --help, or hil COMMAND --help")
        sys.exit(WRONG_USAGE)
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        hint = f"install it: {install_command(_EXTRAS[package])}"
        print_error(f"this needs the Python package {package!r}, which is not installed", hint)
        sys.exit(MISSING)
    except HarnessError as exc:
        print_error(exc.message, exc.hint)
        sys.exit(exit_status(exc))


def _end_as_interrupted(ended: Ended) -> None:
    """``hil``; after a signal every error is KeyboardInterrupt: an extension module, for one, reports it as an ImportError."""
    try:
        hil(standalone_mode=False)
    except (Exception, SystemExit) as exc:
        if ended.by_signal and not (isinstance(exc, SystemExit) and exc.code in (None, GOOD)):
            raise KeyboardInterrupt from exc
        raise
