"""Where messages go: data to stdout, everything else to stderr. NO_COLOR is honored by rich."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from balance_hil.metrics import Verdict

# No markup: names, paths and hints like "balance-hil[int8]" come from outside and are printed as they are.
stdout = Console(highlight=False, markup=False)
stderr = Console(stderr=True, highlight=False, markup=False)


def print_error(message: str, hint: str) -> None:
    """Prints the two lines of an error to stderr."""
    stderr.print("error: ", style="bold red", end="")
    stderr.print(message, soft_wrap=True)
    stderr.print("hint:  ", style="bold cyan", end="")
    stderr.print(hint, soft_wrap=True)


def say(line: str) -> None:
    """Prints a status line to stderr."""
    stderr.print(line, soft_wrap=True)


def print_warning(message: str) -> None:
    """Prints a warning to stderr."""
    stderr.print("warning: ", style="bold yellow", end="")
    stderr.print(message, soft_wrap=True)


def make_table(*headings: str, title: str | None = None) -> Table:
    """A table; the columns whose heading begins with ">" are right-aligned. A title brings a line below the headings."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD if title else None, pad_edge=False, show_edge=False)
    table.padding = (0, 1, 0, 0) if title else (0, 1)
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(
            heading.removeprefix(">"), justify="right" if right else "left", overflow="fold", no_wrap=right and title is not None
        )
    return table


def wide() -> Console:
    """Stdout; where it is not a terminal, wide enough for the tables of several boards."""
    return stdout if stdout.is_terminal else Console(highlight=False, markup=False, width=160)


def print_verdict(verdict: Verdict, summary: str = "", *, board: str = "") -> None:
    """Prints the verdict, the last line of a command, to stdout; ``summary`` states what passed or failed."""
    line = f"PASS: {summary}" if verdict.good and summary else verdict.line
    stdout.print(f"{board}: {line}" if board else line, style="bold green" if verdict.good else "bold red", soft_wrap=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Prints the one JSON document of a ``--json`` run to stdout; its first key is the schema of the command."""
    schema = f"balance_hil/{click.get_current_context().info_name}@2"
    sys.stdout.write(json.dumps({"schema": schema, **document}, indent=2, allow_nan=False) + "\n")


def warn_if_cut_off(missing: str, path: Path) -> None:
    """Warns on stderr that the recording at ``path`` is truncated; ``missing`` is "" for a complete one."""
    if missing:
        print_warning(f"{path}: {missing}")
